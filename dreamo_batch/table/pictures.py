"""Examine the bytes of one reference picture: what it is, and which rules it breaks.

A JPEG is decoded at an eighth of its size and a PNG's checksums are verified, so that cut-off files are
found for a few milliseconds each instead of the time of a full decode.

Examples
--------
>>> buffer = io.BytesIO()
>>> Image.new("RGB", (64, 64)).save(buffer, "PNG")
>>> examine(buffer.getvalue())
()
>>> [finding.code for finding in examine(buffer.getvalue()[:60])]
['image-damaged']
"""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from PIL import ExifTags, Image, UnidentifiedImageError

from dreamo_batch.service import parameters
from dreamo_batch.table.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

# From these a corrected copy can be made without outside programs.
CONVERTIBLE: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
# Beyond this nothing is read; a corrected copy would need several times as much memory.
READ_BYTES_MAX: Final = 64_000_000
# Twice what Pillow warns of by itself, its own limit for opening at all.
PIXELS_MAX: Final = 178_956_970

UPRIGHT: Final = (0, 1)
_PNG_BIT_DEPTH_AT: Final = 24
_DEEP_BITS: Final = 16
_PLAIN_MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_EIGHTH: Final = 8
_LOOKS_LIKE: Final = (
    (b"\xff\xd8", "a broken JPEG"),
    (b"\x89PNG", "a broken PNG"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or office file"),
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file, perhaps an SVG drawing"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"{", "JSON"),
)
_HEIF_BRANDS: Final = (b"heic", b"heix", b"heif", b"mif1", b"msf1", b"hevc")


def examine(content: bytes) -> tuple[Finding, ...]:
    """Find everything that is wrong with a picture.

    Parameters
    ----------
    content : bytes
        The whole file.

    Returns
    -------
    tuple of Finding
        Empty for a picture that may be sent as it is. Warnings of Pillow are the caller's to silence, see
        `pillow_is_quiet`.

    Examples
    --------
    >>> [finding.code for finding in examine(b"<html>")]
    ['image-not-a-picture']
    """
    if not content:
        return (Finding.of("image-empty"),)
    try:
        with Image.open(io.BytesIO(content)) as image:
            return (*_judge_size(content, image), *_judge_content(content, image))
    except UnidentifiedImageError:
        return (Finding.of("image-not-a-picture", guess=_guess(content)),)
    except Image.DecompressionBombError as error:
        return (Finding.of("image-bomb", size=str(error).partition(", could")[0].lower()),)
    except Exception as error:  # noqa: BLE001 - Pillow lets nearly any exception out of damaged files
        return (damaged(error),)


def damaged(error: Exception) -> Finding:
    """State that a picture can't be decoded.

    Parameters
    ----------
    error : Exception
        What Pillow said.

    Returns
    -------
    Finding
        With its words.

    Examples
    --------
    >>> damaged(OSError("image file is truncated")).message
    "The picture can't be decoded: image file is truncated."
    """
    return Finding.of("image-damaged", reason=str(error).rstrip(".") or type(error).__name__)


def suffix_of(content: bytes) -> str:
    """Give the file suffix that fits a picture's content.

    Parameters
    ----------
    content : bytes
        The whole file, JPEG or PNG or anything else.

    Returns
    -------
    str
        ``.jpg``, ``.png`` or ``.bin``.

    Examples
    --------
    >>> suffix_of(b"GIF89a")
    '.bin'
    """
    if content.startswith(b"\xff\xd8"):
        return ".jpg"
    return ".png" if content.startswith(b"\x89PNG") else ".bin"


@contextmanager
def pillow_is_quiet() -> Iterator[None]:
    """Silence Pillow's warnings: what they are about becomes a finding.

    Enter it in one thread, around all that examine pictures: filters belong to the whole process.

    Examples
    --------
    >>> with pillow_is_quiet():
    ...     warnings.warn("Corrupt EXIF data")
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Plugins are loaded here rather than by several threads at once.
        Image.init()
        yield


def is_jpeg(image: Image.Image) -> bool:
    """Say whether a picture is stored as JPEG; MPO, what many cameras write, is one with a second picture.

    Parameters
    ----------
    image : PIL.Image.Image
        An opened picture.

    Returns
    -------
    bool
        Whether its file is a JPEG stream.

    Examples
    --------
    >>> is_jpeg(Image.new("L", (1, 1)))
    False
    """
    return image.format in {"JPEG", "MPO"}


def orientation(image: Image.Image) -> int:
    """Read the note on how a picture is to be turned.

    Parameters
    ----------
    image : PIL.Image.Image
        Opened or in memory.

    Returns
    -------
    int
        As in EXIF: 1 (or 0) for upright, else 2 to 8.

    Examples
    --------
    >>> orientation(Image.new("L", (1, 1)))
    1
    """
    # PNG's own getexif() would decode the whole picture to look for a note behind it.
    note = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return note if isinstance(note, int) else 1


def _judge_size(content: bytes, image: Image.Image) -> Iterator[Finding]:
    width, height = image.size
    if width * height > PIXELS_MAX:
        yield Finding.of("image-bomb", size=f"{width}x{height} pixels")
        return
    if len(content) > parameters.INPUT_BYTES_ADVISED.value:
        is_refused = len(content) > parameters.INPUT_BYTES_MAX.value
        yield Finding.of(
            "image-too-many-bytes" if is_refused else "image-many-bytes", n_mb=len(content) / 1e6
        )
    if max(width, height) > parameters.INPUT_SIDE_MAX_PX.value:
        yield Finding.of("image-too-many-pixels", width=width, height=height)
    lowest, highest = parameters.INPUT_RATIO_ADVISED.value
    tolerance = 1 + parameters.INPUT_RATIO_TOLERANCE.value
    if not lowest / tolerance <= width / height <= highest * tolerance:
        yield Finding.of("image-extreme-ratio", width=width, height=height)


def _judge_content(content: bytes, image: Image.Image) -> Iterator[Finding]:
    kind = "JPEG" if is_jpeg(image) else str(image.format)
    if kind not in parameters.INPUT_FORMATS.value:
        yield Finding.of("image-format" if kind in CONVERTIBLE else "image-not-convertible", format=kind)
    if orientation(image) not in UPRIGHT:
        yield Finding.of("image-rotated")
    if kind == "PNG" and getattr(image, "n_frames", 1) > 1:
        yield Finding.of("image-animated", n=getattr(image, "n_frames", 1))
    if _is_deep(kind, content):
        yield Finding.of("image-colours", mode="16 bits a channel")
    elif image.mode not in _PLAIN_MODES:
        yield Finding.of("image-colours", mode=image.mode)
    if kind in CONVERTIBLE:
        _decode(image)


def _is_deep(kind: str, content: bytes) -> bool:
    return kind == "PNG" and content[_PNG_BIT_DEPTH_AT] == _DEEP_BITS


def _decode(image: Image.Image) -> None:
    if image.format == "PNG":
        image.verify()
        return
    image.draft(None, (image.width // _EIGHTH, image.height // _EIGHTH))
    image.load()


def _guess(content: bytes) -> str:
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
        return " (it looks like HEIC, a phone's own format)"
    head = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, kind in _LOOKS_LIKE:
        if head.startswith(beginning.lower()):
            return f" (it looks like {kind})"
    return ""
