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

import ctypes
import io
import re
import threading
import warnings
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from dreamo_batch.service import parameters
from dreamo_batch.table.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

# From these a corrected copy can be made without outside programs.
CONVERTIBLE: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
# Beyond this nothing is read; a corrected copy would need several times as much memory.
READ_BYTES_MAX: Final = 64_000_000
# Twice what Pillow warns of by itself, its own limit for opening at all.
PIXELS_MAX: Final = 178_956_970

SUFFIXES: Final = (".jpg", ".png", ".bin")
UPRIGHT: Final = (0, 1)
_PNG_BIT_DEPTH_AT: Final = 24
_DEEP_BITS: Final = 16
_BITS_PER_SAMPLE: Final = 258  # tag of TIFF
_RGB: Final = 3
_STRIP_PX: Final = 1_000_000
_LARGE_PX: Final = 8_000_000
_WHITE_8, _WHITE_16 = 255, 65_535
DEEP_MODES: Final = ("I;16", "I;16L", "I;16B", "I;16N")
_NUMBERS: Final = ("I", "F")
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
        Empty for a picture that may be sent as it is.

    Examples
    --------
    >>> [finding.code for finding in examine(b"<html>")]
    ['image-not-a-picture']
    """
    if not content:
        return (Finding.of("image-empty"),)
    try:
        with opened(io.BytesIO(content)) as image:
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
    jpg, png, other = SUFFIXES
    if content.startswith(b"\xff\xd8"):
        return jpg
    return png if content.startswith(b"\x89PNG") else other


@contextmanager
def opened(
    source: Path | io.BytesIO, *, formats: tuple[str, ...] | None = None, pixels_max: int = PIXELS_MAX
) -> Iterator[Image.Image]:
    """Open a picture to decode it: by our settings whatever the user's are, and within a bound on memory.

    Parameters
    ----------
    source : pathlib.Path or io.BytesIO
        The file, or its content.
    formats : tuple of str, optional
        The formats to try; default: every one that Pillow knows.
    pixels_max : int
        Larger pictures aren't decoded.

    Yields
    ------
    PIL.Image.Image
        The picture; decode it before the context ends.

    Raises
    ------
    PIL.Image.DecompressionBombError
        If it has more pixels.

    Examples
    --------
    >>> buffer = io.BytesIO()
    >>> Image.new("L", (3, 2)).save(buffer, "PNG")
    >>> with opened(buffer) as image:
    ...     image.size
    (3, 2)
    """
    with pillow_settings, Image.open(source, formats=formats) as image:
        n_pixels = image.width * image.height
        if n_pixels > pixels_max:
            raise Image.DecompressionBombError(
                f"Image size ({n_pixels} pixels) exceeds limit of {pixels_max} pixels, could be decompression bomb"
            )
        with _room.taken(n_pixels):
            try:
                yield image
            finally:
                image.close()  # its pixels go before the next one takes the room
                if n_pixels > _LARGE_PX:
                    _give_back()


def _give_back() -> None:
    """Let the C library return what was freed: it keeps as much for each thread as that thread ever used."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # a C library that returns it by itself, or can't
        return
    trim(0)


class _Settings:
    """Pillow's switches as this module needs them while any thread decodes, then the user's again.

    Warnings of Pillow are ignored meanwhile: what they are about becomes a finding. Only one filter is added and taken
    away, since threads that restore whole lists of filters would undo each other's.
    """

    _FILTER: Final = ("ignore", None, Warning, re.compile(r"PIL\.|dreamo_batch\."), 0)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._users: tuple[bool, int | None] = (False, None)
        self._filters: list[Any] = []

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                Image.init()  # loads the plugins here rather than in several threads at once
                self._users = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
                self._filters = cast("list[Any]", warnings.filters)
                self._filters.insert(0, self._FILTER)
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = _OURS
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside:
                return
            # What the user set meanwhile stays.
            if (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == _OURS:
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = self._users
            for filters in (self._filters, cast("list[Any]", warnings.filters)):
                if self._FILTER in filters:
                    filters.remove(self._FILTER)


class _Room:
    """So many pixels are decoded at a time, however many threads there are; a larger picture alone."""

    def __init__(self, n_pixels: int) -> None:
        self._n_all = self._n_free = n_pixels
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, n_pixels: int) -> Iterator[None]:
        wanted = min(n_pixels, self._n_all)
        with self._changed:
            self._changed.wait_for(lambda: self._n_free >= wanted)
            self._n_free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._n_free += wanted
                self._changed.notify_all()


# Pillow raises from twice its limit on.
_OURS: Final = (False, PIXELS_MAX // 2)
pillow_settings: Final = _Settings()
_room: Final = _Room(64_000_000)


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


def extremes(image: Image.Image) -> tuple[tuple[float, float], ...]:
    """Return the lowest and the highest level of each band.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode.

    Returns
    -------
    tuple of (low, high)
        One for each band.

    Examples
    --------
    >>> extremes(Image.new("RGB", (1, 1), "red"))
    ((255, 255), (0, 0), (0, 0))
    """
    if image.mode in DEEP_MODES:  # Pillow knows some of them only in its own byte order
        ranges = [(int(levels.min()), int(levels.max())) for _, levels in _strips(image)]
        return ((min(low for low, _ in ranges), max(high for _, high in ranges)),)
    found: Any = image.getextrema()
    return (found,) if len(image.getbands()) == 1 else found


def in_eight_bits(image: Image.Image) -> Image.Image:
    """Return grey of 16 bits as 8 bits, the same wherever a picture is looked at or corrected; others as they are.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode; Pillow itself would make white of all that is brighter than 255.

    Returns
    -------
    PIL.Image.Image
        Of mode L, if `image` holds integers of more than 8 bits.

    Examples
    --------
    >>> in_eight_bits(Image.new("I;16", (1, 1), 0x8040)).getpixel((0, 0))
    128
    """
    if image.mode not in (*DEEP_MODES, "I"):
        return image
    grey = Image.new("L", image.size)
    for top, levels in _strips(image):
        grey.paste(Image.fromarray((levels >> 8).clip(0, _WHITE_8).astype(np.uint8)), (0, top))
    return grey


def _strips(image: Image.Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """Give the levels a few rows at a time: arrays of a whole picture take many times its memory."""
    n_rows = max(1, _STRIP_PX // max(1, image.width))
    for top in range(0, image.height, n_rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + n_rows, image.height))))


def _judge_size(content: bytes, image: Image.Image) -> Iterator[Finding]:
    width, height = image.size
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
    is_deep = _is_deep(kind, content, image)
    if is_deep:
        yield Finding.of("image-colours", mode="16 bits a channel")
    elif image.mode not in (*_PLAIN_MODES, *_NUMBERS):
        yield Finding.of("image-colours", mode=image.mode)
    if kind in CONVERTIBLE:
        _decode(image)
        if is_deep or image.mode in _NUMBERS:
            yield from _judge_levels(content)


def _is_deep(kind: str, content: bytes, image: Image.Image) -> bool:
    if kind == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
        return image.mode not in _NUMBERS and _DEEP_BITS in np.atleast_1d(bits)
    return image.mode in DEEP_MODES or (kind == "PNG" and content[_PNG_BIT_DEPTH_AT] == _DEEP_BITS)


def _judge_levels(content: bytes) -> Iterator[Finding]:
    """Refuse numbers that are no levels from black to white, or that leave the bright ones unused."""
    with closing(Image.open(io.BytesIO(content))) as image:
        ranges = extremes(image)[: 1 if len(image.getbands()) < _RGB else _RGB]  # without alpha
        low, high = (pick(one[place] for one in ranges) for place, pick in ((0, min), (1, max)))
        white = _WHITE_8 if image.mode not in (*DEEP_MODES, *_NUMBERS) else _WHITE_16
        if image.mode == "F" or low < 0 or high > white:
            kind = "floats" if image.mode == "F" else "integers"
            yield Finding.of("image-numbers", kind=kind, low=f"{low:.6g}", high=f"{high:.6g}")
        elif high < white / 4 and (low < high or white == _WHITE_8):
            yield Finding.of("image-levels", high=f"{high} of {white}")


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
