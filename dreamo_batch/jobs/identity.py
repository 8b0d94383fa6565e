"""What makes a job this job: the hash of everything that is submitted.

The hash is taken of a JSON array, so that no two different texts can read the same::

    [model, image, prompt, seed, width, height, use_rephraser, replicate]

with the occurrence as a ninth entry where the service draws the seed. The array is put together from pieces
that are encoded once per distinct value, which is what makes it fast.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Final, NamedTuple

from dreamo_batch.service import contract

_ID_CHARACTERS: Final = 32
_JOINER: Final = "\u200d"  # within an emoji it is seen
# Invisible although Unicode calls them letters, marks or symbols: fillers, a blank pattern, variation selectors.
_INVISIBLE: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\ufe0e\ufe0f")
_INVISIBLE_KINDS: Final = ("Cf", "Cc")


class JobText(NamedTuple):
    """All of a job but its seed: the text before it and the text behind it.

    A tuple, since hundreds of thousands are compared and hashed.
    """

    head: str
    tail: str


def encode(prompt: str) -> str:
    """Encode a prompt as JSON, ASCII only."""
    return json.dumps(prompt)


def head_of(image: str, prompt: str) -> str:
    """Write what stands before the seed."""
    return f'["{contract.MODEL}",{image},{prompt},'


def tail_of(width: int, height: int, use_rephraser: bool, replicate: int) -> str:
    """Write what stands behind the seed."""
    return f",{width},{height},{'true' if use_rephraser else 'false'},{replicate}]"


def text_of(wanted: JobText, seed: int | None, occurrence: int | None = None) -> str:
    """Write a job as a JSON array."""
    written = f"{wanted.head}{'null' if seed is None else seed}{wanted.tail}"
    return written if occurrence is None else f"{written[:-1]},{occurrence}]"


def job_id(text: str) -> str:
    """Give the id of a job."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:_ID_CHARACTERS]


def seen(prompt: str) -> str:
    """Return what a reader sees of a prompt, for finding prompts that only look alike; jobs keep the exact text."""
    return _spaced(unicodedata.normalize("NFC", _visible(prompt)))


def difference(prompt: str, other: str) -> str:
    """Say in what two prompts differ that look alike."""
    if prompt == other:
        return ""
    for what, reading in _READINGS:
        if reading(prompt) == reading(other):
            return what
    return "white space, invisible characters and Unicode form"


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(one for place, one in enumerate(text) if one.isspace() or not _is_invisible(text, place))


def _is_invisible(text: str, place: int) -> bool:
    one = text[place]
    if one == _JOINER:
        before = text[:place].rstrip("\ufe0f")[-1:]
        return not before or unicodedata.category(before) not in {"So", "Sk"}
    return one in _INVISIBLE or unicodedata.category(one) in _INVISIBLE_KINDS


_READINGS: Final = (
    ("line ends", _lines),
    ("white space", _spaced),
    ("invisible characters", lambda text: _spaced(_visible(text))),
    ("Unicode form", lambda text: unicodedata.normalize("NFC", text)),
    ("Unicode form and white space", lambda text: _spaced(unicodedata.normalize("NFC", text))),
)
