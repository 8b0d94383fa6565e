"""Open, turn upright, flatten and shrink pictures, alike everywhere in the package."""

from __future__ import annotations

import ctypes
import functools
import io
import logging
import re
import threading
import warnings
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from PIL import ExifTags, Image, ImageFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import ImageCms

# Twice the size at which Pillow warns; above it, Pillow refuses to open a picture.
PIXELS_MAX: Final = 178_956_970
UPRIGHT: Final = (0, 1)
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DEEP_MODES: Final = ("I;16", "I;16L", "I;16B", "I;16N")
PNG: Final = b"\x89PNG\r\n\x1a\n"
"""What a PNG file begins with."""
_COMPRESSED_TEXT: Final = re.compile(rb"[iz]TXt([^\0]*\0(?:\0|\x01\0[^\0]*\0[^\0]*\0))(.*)", re.DOTALL)
_TEXT_BYTES_MAX: Final = 2**24  # for all texts of a picture together
SUFFIXES: Final = (".jpg", ".png", ".bin")
_SEGMENT_MAX: Final = 0xFFFF  # bytes of a JPEG segment, including its length
_PIXELS_AT_ONCE: Final = 64_000_000
_TIMES_HELD: Final = {"WEBP": 3, "AVIF": 3}  # times the decoded memory that formats other than JPEG need
_LARGE_PX: Final = 8_000_000
_STRIP_PX: Final = 1_000_000
_PROFILED_MODES: Final = ("P", "PA", "RGB", "RGBA", "CMYK")
_SAMPLE: Final = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 85, dtype=np.uint8)]), axis=-1).reshape(8, 8, 3)
_SAME_LEVELS: Final = 8  # of 255; profiles of sRGB differ by less
_BEGINNINGS: Final = (  # in lower case
    (b"\xff\xd8", "a broken JPEG"),
    (b"\x89png", "a broken PNG"),
    (b"%pdf", "a PDF"),
    (b"pk\x03\x04", "a ZIP archive or office file"),
    (b"\xd0\xcf\x11\xe0", "an old or encrypted office file"),
    (b"\x1f\x8b", "a file compressed with gzip"),
    ((b"\xfd7zxz", b"bzh91ay", b"(\xb5/\xfd", b"7z\xbc\xaf", b"rar!\x1a"), "a compressed file"),
    (b"par1\x15", "Parquet"),
    (b"arrow1\0", "Arrow or Feather"),
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file, perhaps an SVG drawing"),
    ((b"<!doctype html", b"<html", b"<table"), "a web page"),
    ((b"insert into", b"create table"), "SQL"),
    ((b"{", b"[{"), "JSON"),
    (b"\0\5\x16\7", "macOS metadata; the picture has the same name without ._"),
)
_HEIF_BRANDS: Final = (b"heic", b"heix", b"heif", b"mif1", b"msf1", b"hevc")


@contextmanager
def opened(
    source: Path | io.BytesIO, *, formats: tuple[str, ...] | None = None, pixels_max: int = PIXELS_MAX
) -> Iterator[Image.Image]:
    """Open a picture for decoding, independent of the user's Pillow settings and within bounded memory."""
    if not isinstance(source, io.BytesIO) and not source.is_file():  # a pipe might block forever
        raise FileNotFoundError(source)
    with pillow_settings, Image.open(source, formats=formats) as image:
        n_pixels, n_times = image.width * image.height, _TIMES_HELD.get(image.format or "", 1)
        limit = min(pixels_max, PIXELS_MAX // n_times)
        if n_pixels > limit:
            raise Image.DecompressionBombError(
                f"Image size ({n_pixels} pixels) exceeds limit of {limit} pixels"
            )
        with _memory.reserved(n_times * n_pixels):
            try:
                yield image
            finally:
                image.close()  # frees the memory before the next picture is decoded
                if n_pixels > _LARGE_PX:
                    _trim_heap()


def small_picture(
    source: Path | io.BytesIO | bytes | Image.Image,
    side_px: int,
    *,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image | None:
    """Return a picture upright, on white and at most `side_px` a side; None if it can't be read."""
    try:
        if isinstance(source, Image.Image):
            return _shrunk(source, side_px, resample)
        with opened(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.draft("RGB", (2 * side_px, 2 * side_px))  # a JPEG is decoded at reduced size
            return _shrunk(image, side_px, resample)
    except Exception:  # noqa: BLE001 - Pillow raises almost anything for damaged files
        return None


def reduced(image: Image.Image, side_px: int) -> Image.Image:
    """Return a picture upright, RGB and on white, reduced by the largest integer that keeps it at least `side_px`."""
    image.draft("RGB", (side_px, side_px))  # a JPEG that isn't decoded yet is decoded at that size
    whole = upright_rgb(image)
    factor = min(whole.size) // side_px
    return whole.reduce(factor) if factor > 1 else whole


def _shrunk(image: Image.Image, side_px: int, resample: Image.Resampling) -> Image.Image:
    small = turned(in_strips(image, 2 * side_px, _flat), orientation(image))
    if max(small.size) > side_px:
        small.thumbnail((side_px, side_px), resample)
    return small


def in_strips(
    image: Image.Image, side_px: int, converted: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Convert a picture, a large one in strips to save memory and reduced to at most twice `side_px` a side."""
    image.load()
    factor = max(image.size) // side_px
    if factor <= 1 or image.width * image.height <= _LARGE_PX:
        return converted(image)
    n_rows = factor * max(1, _STRIP_PX // (factor * image.width))
    mode = converted(image.crop((0, 0, 1, 1))).mode
    small = Image.new(mode, (-(-image.width // factor), -(-image.height // factor)))
    for top in range(0, image.height, n_rows):
        strip = image.crop((0, top, image.width, min(top + n_rows, image.height)))
        small.paste(converted(strip).reduce(factor), (0, top // factor))
    return small


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turn a picture upright by its EXIF orientation and make it 8-bit sRGB on white."""
    return turned(_flat(image), orientation(image))


def _flat(image: Image.Image) -> Image.Image:
    return on_white(in_srgb(in_eight_bits(image))).convert("RGB")


def in_srgb(image: Image.Image) -> Image.Image:
    """Convert colours by the picture's profile unless that is sRGB; return any other picture unchanged."""
    if (conversion := to_srgb(image)) is None:
        return image
    mode = conversion.input_mode
    return conversion.apply(image if image.mode == mode else image.convert(mode))


def to_srgb(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of a picture's colours to sRGB; None if they are sRGB or have no profile."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in _PROFILED_MODES:
        return None
    in_colours = "RGBA" if image.has_transparency_data else "RGB"  # also the colours of a palette
    return _conversion(profile, "CMYK" if image.mode == "CMYK" else in_colours)


@functools.lru_cache(maxsize=64)
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    from PIL import ImageCms

    target, intent = "RGB" if mode == "CMYK" else mode, ImageCms.Intent.RELATIVE_COLORIMETRIC
    try:
        srgb = ImageCms.createProfile("sRGB")
        found = ImageCms.buildTransform(io.BytesIO(profile), srgb, mode, target, intent)
    except (ImageCms.PyCMSError, OSError, ImportError):
        return None  # a damaged or unsuitable profile, or a Pillow without LittleCMS
    if mode == "CMYK":
        return found
    sample = Image.fromarray(_SAMPLE).convert(mode)
    differs = np.abs(np.asarray(found.apply(sample), np.int16) - np.asarray(sample)) > _SAME_LEVELS
    return found if differs.any() else None


def turned(image: Image.Image, exif_orientation: int) -> Image.Image:
    """Turn a picture upright by its EXIF orientation; return it unchanged if it is upright already."""
    turn = _TURNS.get(exif_orientation)
    return image if turn is None else image.transpose(turn)


def on_white(image: Image.Image) -> Image.Image:
    """Lay a picture with transparency on white, as RGB; return any other unchanged."""
    if not image.has_transparency_data:
        return image
    paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")


def in_eight_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey to 8-bit grey; return any other picture unchanged."""
    if image.mode not in (*DEEP_MODES, "I"):
        return image
    grey = Image.new("L", image.size)
    for top, levels in _strips(image):
        grey.paste(Image.fromarray((levels >> 8).clip(0, 255).astype(np.uint8)), (0, top))
    return grey


def overwritten(content: bytes, overwrite: Callable[[bytes], bytes]) -> bytes:
    """Overwrite texts in a file, in a PNG also in compressed texts, with correct checksums."""
    new = overwrite(content)
    if not content.startswith(PNG):
        return new
    pieces, at, kind, n_left = [PNG], len(PNG), b"", _TEXT_BYTES_MAX
    while at < len(new) and kind != b"IEND":
        end = at + 8 + int.from_bytes(new[at : at + 4])
        kind, body = new[at + 4 : at + 8], new[at + 8 : end]
        if n_left > 0 and (found := _COMPRESSED_TEXT.fullmatch(kind + body)):
            with suppress(zlib.error):  # damaged, so nobody can read it
                text = zlib.decompressobj().decompress(found[2], n_left)
                n_left -= len(text)
                if text != overwrite(text):
                    body = found[1] + zlib.compress(overwrite(text))
        pieces.append(new[at : end + 4] if body == content[at + 8 : end] else png_chunk(kind, body))
        at = end + 4
    return b"".join((*pieces, new[at:]))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Return a picture as the bytes of a file; options are Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def extremes(image: Image.Image) -> tuple[tuple[float, float], ...]:
    """Return the lowest and highest level of each band."""
    if image.mode in DEEP_MODES:  # Pillow reads some of these only in native byte order
        ranges = [(int(levels.min()), int(levels.max())) for _, levels in _strips(image)]
        return ((min(low for low, _ in ranges), max(high for _, high in ranges)),)
    found: Any = image.getextrema()
    return (found,) if len(image.getbands()) == 1 else found


def is_jpeg(image: Image.Image) -> bool:
    """Return whether a picture is stored as JPEG, or as MPO, a JPEG with a second picture that many cameras write."""
    return image.format in {"JPEG", "MPO"}


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 if there is none or it is invalid."""
    # getexif() would decode a whole PNG to look for EXIF data after the pixels.
    value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) and value in _TURNS else 1


def with_comment(jpeg: bytes, comment: bytes) -> bytes | None:
    """Insert a comment before the pixels of a JPEG; None if it is too long, or the file uses offsets (MPO)."""
    if len(comment) + 2 > _SEGMENT_MAX:
        return None
    at = 2
    while jpeg[at : at + 2] not in (b"\xff\xda", b""):
        if jpeg[at + 4 : at + 8] == b"MPF\0":
            return None
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    return jpeg[:at] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + jpeg[at:]


def suffix_of(content: bytes) -> str:
    """Return the file suffix for a picture's content."""
    jpg, png, other = SUFFIXES
    return jpg if content.startswith(b"\xff\xd8") else png if content.startswith(PNG[:4]) else other


def looks_like(content: bytes) -> str:
    """Return a remark in brackets on what an unexpected file seems to be."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
        return " (it looks like HEIC, the format of phone cameras, which Pillow opens with pillow-heif)"
    head = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((f" (it looks like {kind})" for begins, kind in _BEGINNINGS if head.startswith(begins)), "")


def _strips(image: Image.Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the levels a few rows at a time, because an array of a whole picture takes many times its memory."""
    n_rows = max(1, _STRIP_PX // max(1, image.width))
    for top in range(0, image.height, n_rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + n_rows, image.height))))


def _trim_heap() -> None:
    """Return freed memory to the system, because the C library keeps each thread's peak."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    trim(0)


class _PillowSettings:
    """Pillow's global switches as this package needs them while any thread decodes; the user's otherwise."""

    # For its warnings one filter is added and removed: threads that restore whole lists of filters would undo each
    # other's.

    _FILTER: Final = ("ignore", None, Warning, re.compile(r"PIL\.|dreamo_batch\."), 0)
    _VALUES: Final = (False, PIXELS_MAX // 2)  # Pillow raises from twice its limit

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._users: tuple[bool, int | None] = (False, None)
        self._filters: list[Any] = []
        self._level = logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                Image.init()  # loads the plugins once rather than in several threads at once
                self._users = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
                self._filters = cast("list[Any]", warnings.filters)
                self._filters.insert(0, self._FILTER)
                self._level = logging.getLogger("PIL").level
                logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = self._VALUES
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside:
                return
            logging.getLogger("PIL").setLevel(self._level)
            # Keep what the user has set meanwhile.
            if (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == self._VALUES:
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = self._users
            for filters in (self._filters, cast("list[Any]", warnings.filters)):
                if self._FILTER in filters:
                    filters.remove(self._FILTER)


class _PixelBudget:
    """Limits how many pixels all threads decode at once; a larger picture is decoded alone."""

    def __init__(self, n_pixels: int) -> None:
        self._n_all = self._n_free = n_pixels
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, n_pixels: int) -> Iterator[None]:
        n_reserved = min(n_pixels, self._n_all)
        with self._changed:
            self._changed.wait_for(lambda: self._n_free >= n_reserved)
            self._n_free -= n_reserved
        try:
            yield
        finally:
            with self._changed:
                self._n_free += n_reserved
                self._changed.notify_all()


pillow_settings: Final = _PillowSettings()
_memory: Final = _PixelBudget(_PIXELS_AT_ONCE)
