"""A job's identity: the hash of everything that is submitted.

The hash is that of a JSON array, so that different jobs never share a text::

    [model, image, prompt, seed, width, height, use_rephraser, replicate]

with the occurrence as a ninth entry where the service chooses the seed. For a model with parameters of its own, the
second entry is an object of its pictures and these parameters. For speed, the array is joined from pieces that
are encoded once per distinct value.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any, Final, NamedTuple

from dreamo_batch.service import contract

_ID_CHARACTERS: Final = 32
_PLAIN: Final = (",", ":")
_JOINER: Final = "\u200d"  # visible within an emoji
# Invisible although Unicode calls them letters, marks or symbols: fillers, a blank pattern, variation selectors.
_INVISIBLE: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\ufe0e\ufe0f")
_INVISIBLE_KINDS: Final = ("Cf", "Cc")


class JobText(NamedTuple):
    """A job's JSON without the seed: the text before and after it. A tuple, for fast hashing."""

    head: str
    tail: str


def encode(prompt: str) -> str:
    """Encode a prompt as JSON, ASCII only."""
    return json.dumps(prompt)


def pictures_of(model: str, images: tuple[str, ...], own: tuple[tuple[str, Any], ...]) -> str:
    """Return the second entry: the picture, or an object of pictures and parameters of the model's own."""
    if model == contract.MODEL:
        return images[0]
    rest = "".join(
        f",{json.dumps(name)}:{json.dumps(value, separators=_PLAIN)}" for name, value in sorted(own)
    )
    return f'{{"images":[{",".join(images)}]{rest}}}'


def head_of(pictures: str, prompt: str, model: str = contract.MODEL) -> str:
    """Return the text before the seed."""
    return f'["{model}",{pictures},{prompt},'


def tail_of(width: int, height: int, use_rephraser: bool, replicate: int) -> str:
    """Return the text after the seed."""
    return f",{width},{height},{'true' if use_rephraser else 'false'},{replicate}]"


def text_of(wanted: JobText, seed: int | None, occurrence: int | None = None) -> str:
    """Return a job as a JSON array."""
    written = f"{wanted.head}{'null' if seed is None else seed}{wanted.tail}"
    return written if occurrence is None else f"{written[:-1]},{occurrence}]"


def job_id(text: str) -> str:
    """Return the id of a job."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:_ID_CHARACTERS]


def seen(prompt: str) -> str:
    """Return what a reader sees of a prompt, to find prompts that only look alike."""
    return _spaced(unicodedata.normalize("NFC", _visible(prompt)))


def difference(prompt: str, other: str) -> str:
    """Return how two prompts that look alike differ."""
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
