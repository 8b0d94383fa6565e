"""Words inside a picture's file: prompt, seed and job, put in without touching a pixel.

PNG gets one iTXt chunk for each, JPEG one comment with all of them as JSON; nothing is decoded or encoded again.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_START: Final = b"\xff\xd8"
_PIXELS: Final = b"\xff\xda"
_SEVERAL: Final = b"MPF\0"
_COMMENT: Final = b"\xff\xfe"
_SEGMENT_MAX: Final = 0xFFFF


def inscribed(picture: bytes, words: Mapping[str, object]) -> bytes | None:
    r"""Put words into a picture.

    Parameters
    ----------
    picture : bytes
        A whole file.
    words : mapping of str to object
        By keyword; numbers and text.

    Returns
    -------
    bytes or None
        The same picture with the words in it; None for a format that is neither PNG nor JPEG, a JPEG of several
        pictures, or words too long for one.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> for format_ in ("PNG", "JPEG"):
    ...     file = io.BytesIO()
    ...     Image.new("RGB", (8, 8)).save(file, format_)
    ...     info = Image.open(io.BytesIO(inscribed(file.getvalue(), {"prompt": "雪山", "seed": 7}))).info
    ...     print({name: info[name] for name in ("prompt", "seed", "comment") if name in info})
    {'prompt': '雪山', 'seed': '7'}
    {'comment': b'{"prompt": "\xe9\x9b\xaa\xe5\xb1\xb1", "seed": 7}'}
    """
    if picture.startswith(_PNG):
        return _in_png(picture, words)
    return _in_jpeg(picture, words) if picture.startswith(_START) else None


def _in_png(picture: bytes, words: Mapping[str, object]) -> bytes:
    """Put words behind what is there before the pixels, so that they are what a reader finds last."""
    at = len(_PNG)
    while picture[at + 4 : at + 8] not in (b"IDAT", b""):
        at += 12 + int.from_bytes(picture[at : at + 4])
    return picture[:at] + b"".join(_chunk(*word) for word in words.items()) + picture[at:]


def _chunk(keyword: str, word: object) -> bytes:
    """Give one iTXt chunk: keyword, not compressed, no language, text in UTF-8."""
    content = b"iTXt" + keyword.encode("latin-1") + b"\0\0\0\0\0" + _utf8(str(word))
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def _in_jpeg(picture: bytes, words: Mapping[str, object]) -> bytes | None:
    comment = _utf8(json.dumps(dict(words), ensure_ascii=False))
    if len(comment) + 2 > _SEGMENT_MAX:
        return None
    at = _end_of_header(picture)
    if at is None:
        return None
    return picture[:at] + _COMMENT + struct.pack(">H", len(comment) + 2) + comment + picture[at:]


def _end_of_header(picture: bytes) -> int | None:
    """Find where the pixels of a JPEG begin; None for one that holds several pictures, found by their distance."""
    at = len(_START)
    while picture[at : at + 2] not in (_PIXELS, b""):
        if picture[at + 4 : at + 8] == _SEVERAL:
            return None
        at += 2 + int.from_bytes(picture[at + 2 : at + 4])
    return at


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")
