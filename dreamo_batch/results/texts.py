"""How values of a table read, whatever they are: as a label, as a key, shortened.

Examples
--------
>>> label_of("photos/fox.png", is_picture=True), label_of(2.0), label_of(None)
('fox.png', '2', '(none)')
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from PIL import Image

from dreamo_batch.service.harmless import harmless
from dreamo_batch.table.cells import is_missing
from dreamo_batch.table.sources import only_item

NONE: Final = "(none)"
_DATA: Final = "data:"
_IN_MEMORY: Final = "picture"


def label_of(value: Any, *, is_picture: bool = False) -> str:
    """Give a value as one line of text.

    Parameters
    ----------
    value : object
        Any cell.
    is_picture : bool
        Whether it tells where a picture is; then its file's name is what tells it.

    Returns
    -------
    str
        Without control characters.
    """
    value = only_item(value) if is_picture else value
    if isinstance(value, (bytes, bytearray, memoryview, Image.Image)):
        return _IN_MEMORY
    if is_missing(value):
        return NONE
    if isinstance(value, tuple):  # a label of an index with several levels
        return ", ".join(map(label_of, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if is_picture and isinstance(value, str | os.PathLike):
        return _name(os.fspath(value))
    return harmless(" ".join(str(value).split()))


def key_of(value: Any) -> str | None:
    """Give what tells a value from others; None for a missing one.

    Examples
    --------
    >>> key_of(b"GIF89a") == key_of(bytearray(b"GIF89a")), key_of(["a", 1])
    (True, "['a', 1]")
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Image.Image):
        return f"{_IN_MEMORY} {id(value)}"
    return None if is_missing(value) else str(value)


def shortened(text: str, n_characters: int) -> str:
    """Cut a text.

    Examples
    --------
    >>> shortened("a fox in the snow", 8), shortened("a fox", 8)
    ('a fox i…', 'a fox')
    """
    return text if len(text) <= n_characters else text[: n_characters - 1].rstrip() + "…"


def left_words(n: int) -> str:
    """Say how many pictures belong to rows that a table has no more; nothing if there are none.

    Examples
    --------
    >>> left_words(0), left_words(1)
    ('', 'not shown: 1 picture of rows that are no longer in the table; it is in images/')
    """
    if not n:
        return ""
    words = ("1 picture", "it is") if n == 1 else (f"{n} pictures", "they are")
    return f"not shown: {words[0]} of rows that are no longer in the table; {words[1]} in images/"


def _name(location: str) -> str:
    if location[: len(_DATA)].lower() == _DATA:
        return _IN_MEMORY
    path = unquote(urlsplit(location).path) if "://" in location else location
    return harmless(path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]) or harmless(location)
