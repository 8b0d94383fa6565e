"""Read the bytes of one reference picture, once, and hash them.

Examples
--------
>>> from dreamo_batch.table.sources import Source
>>> load(Source("bytes", content=b"abc"), Path("/data")).digest[:8]
'ba7816bf'
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from PIL import ExifTags, Image

from dreamo_batch.table.findings import Finding
from dreamo_batch.table.paths import nearest, same_name
from dreamo_batch.table.pictures import READ_BYTES_MAX, UPRIGHT, damaged, orientation
from dreamo_batch.table.sources import BYTES, FILE, PIXELS

if TYPE_CHECKING:
    from dreamo_batch.table.sources import Source

_PNG_MODES: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
# Modes that PNG does not know, but whose colours it can hold.
_AS_PNG: Final = {
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "La": "LA",
    "PA": "RGBA",
}
_KINDS: Final = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A picture's bytes, and the digest it is known by.

    `made_of` is ``"bytes"`` if the digest is that of `content`, ``"pixels"`` if it is that of a PIL image's
    mode, size and pixels, of which `content` is a PNG. `location` is empty for pictures in memory.

    Examples
    --------
    >>> Loaded(b"abc", "ba7816bf", "bytes").location
    ''
    """

    content: bytes
    digest: str
    made_of: str
    location: str = ""


def load(source: Source, base_dir: Path) -> Loaded | Finding:
    """Read a picture.

    Parameters
    ----------
    source : Source
        Of kind file, bytes or pixels.
    base_dir : pathlib.Path
        Where relative paths started, to be named in the finding.

    Returns
    -------
    Loaded or Finding
        The finding says why it can't be read. Only regular files are opened, so that a pipe can't hang.

    Examples
    --------
    >>> from dreamo_batch.table.sources import Source
    >>> load(Source("file", "/data/none.png"), Path("/data")).code
    'image-not-found'
    """
    if source.kind == FILE:
        return _load_file(source.location, base_dir)
    if source.kind == PIXELS:
        return _load_pixels(source.content)
    return Loaded(source.content, sha256(source.content), BYTES)


def sha256(content: bytes) -> str:
    """Hash bytes.

    Parameters
    ----------
    content : bytes
        Anything.

    Returns
    -------
    str
        SHA-256 in lower-case hex, 64 characters.

    Examples
    --------
    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


def _load_file(location: str, base_dir: Path) -> Loaded | Finding:
    try:
        status = Path(location).stat()
        if not stat.S_ISREG(status.st_mode):
            return Finding.of("image-not-a-file", path=location, kind=_kind(status.st_mode))
        if status.st_size > READ_BYTES_MAX:
            return Finding.of("image-far-too-many-bytes", n_mb=status.st_size / 1e6)
        content = Path(location).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        there = nearest(location) or nearest(unquote(location))
        if there is not None and same_name(there, location):
            return _load_file(there, base_dir)
        hint = f"; there is {there}, which differs in spelling" if there else ""
        return Finding.of("image-not-found", path=location, base=base_dir, hint=hint)
    except OSError as error:
        return Finding.of("image-unreadable", reason=error.strerror or str(error))
    return Loaded(content, sha256(content), BYTES, location)


def _kind(mode: int) -> str:
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a device")


def _load_pixels(image: Image.Image) -> Loaded | Finding:
    try:
        image.load()
        if min(image.size) == 0:
            return Finding.of("image-empty")
        saveable = image if image.mode in _PNG_MODES else _converted(image)
        if saveable is None:
            return Finding.of("image-mode", mode=image.mode)
        return Loaded(_png(saveable, orientation(image)), _digest_of_pixels(image), PIXELS)
    except Exception as error:  # noqa: BLE001 - a lazily opened image lets nearly any exception out
        return damaged(error)


def _converted(image: Image.Image) -> Image.Image | None:
    return image.convert(_AS_PNG[image.mode]) if image.mode in _AS_PNG else None


def _digest_of_pixels(image: Image.Image) -> str:
    palette = image.getpalette("RGBA") if image.mode in {"P", "PA"} else None
    transparency = image.info.get("transparency")
    head = [image.mode, image.size, palette, repr(transparency), orientation(image)]
    hashed = hashlib.sha256(json.dumps(head).encode() + b"\n")
    hashed.update(image.tobytes())
    return hashed.hexdigest()


def _png(image: Image.Image, turn: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=_note_on_turning(turn), icc_profile=image.info.get("icc_profile"))
    return buffer.getvalue()


def _note_on_turning(turn: int) -> bytes | None:
    if turn in UPRIGHT:
        return None
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    return exif.tobytes()
