"""Read the bytes of one reference picture, once, and hash them."""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import io
import json
import os
import re
import stat
import threading
import time
import warnings
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from urllib.parse import unquote

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from dreamo_batch.errors import StorageFailed
from dreamo_batch.files import write_atomically
from dreamo_batch.jobs import rules
from dreamo_batch.jobs import sources as links
from dreamo_batch.jobs.cells import Distinct, distinct
from dreamo_batch.jobs.fields import image_columns
from dreamo_batch.jobs.rules import WARNING, Finding
from dreamo_batch.jobs.sources import (
    BYTES,
    FILE,
    PIXELS,
    URL,
    Source,
    canonical,
    judge_url,
    nearest,
    read_source,
    same_name,
)
from dreamo_batch.parallel import each
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from dreamo_batch.jobs.rules import Findings


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
    """Find everything that is wrong with a picture."""
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
    """State that a picture can't be decoded."""
    return Finding.of("image-damaged", reason=str(error).rstrip(".") or type(error).__name__)


def suffix_of(content: bytes) -> str:
    """Give the file suffix that fits a picture's content."""
    jpg, png, other = SUFFIXES
    if content.startswith(b"\xff\xd8"):
        return jpg
    return png if content.startswith(b"\x89PNG") else other


@contextmanager
def opened(
    source: Path | io.BytesIO, *, formats: tuple[str, ...] | None = None, pixels_max: int = PIXELS_MAX
) -> Iterator[Image.Image]:
    """Open a picture to decode it: by our settings whatever the user's are, and within a bound on memory."""
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
    """Say whether a picture is stored as JPEG; MPO, what many cameras write, is one with a second picture."""
    return image.format in {"JPEG", "MPO"}


def orientation(image: Image.Image) -> int:
    """Read the note on how a picture is to be turned."""
    # PNG's own getexif() would decode the whole picture to look for a note behind it.
    note = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return note if isinstance(note, int) else 1


def extremes(image: Image.Image) -> tuple[tuple[float, float], ...]:
    """Return the lowest and the highest level of each band."""
    if image.mode in DEEP_MODES:  # Pillow knows some of them only in its own byte order
        ranges = [(int(levels.min()), int(levels.max())) for _, levels in _strips(image)]
        return ((min(low for low, _ in ranges), max(high for _, high in ranges)),)
    found: Any = image.getextrema()
    return (found,) if len(image.getbands()) == 1 else found


def in_eight_bits(image: Image.Image) -> Image.Image:
    """Return grey of 16 bits as 8 bits, the same wherever a picture is looked at or corrected; others as they are."""
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
    if len(content) > contract.INPUT_BYTES_ADVISED.value:
        is_refused = len(content) > contract.INPUT_BYTES_MAX.value
        yield Finding.of(
            "image-too-many-bytes" if is_refused else "image-many-bytes", n_mb=len(content) / 1e6
        )
    if max(width, height) > contract.INPUT_SIDE_MAX_PX.value:
        yield Finding.of("image-too-many-pixels", width=width, height=height)
    lowest, highest = contract.INPUT_RATIO_ADVISED.value
    tolerance = 1 + contract.INPUT_RATIO_TOLERANCE.value
    if not lowest / tolerance <= width / height <= highest * tolerance:
        yield Finding.of("image-extreme-ratio", width=width, height=height)


def _judge_content(content: bytes, image: Image.Image) -> Iterator[Finding]:
    kind = "JPEG" if is_jpeg(image) else str(image.format)
    if kind not in contract.INPUT_FORMATS.value:
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
    """

    content: bytes
    digest: str
    made_of: str
    location: str = ""


def load(source: Source, base_dir: Path) -> Loaded | Finding:
    """Read a picture."""
    if source.kind == FILE:
        return _load_file(source.location, base_dir)
    if source.kind == PIXELS:
        return _load_pixels(source.content)
    return Loaded(source.content, sha256(source.content), BYTES)


def sha256(content: bytes) -> str:
    """Hash bytes."""
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


RECIPE: Final = 1

_SIDE_MAX: Final = contract.INPUT_SIDE_MAX_PX.value
_BYTES_MAX: Final = contract.INPUT_BYTES_ADVISED.value
_QUALITIES: Final = (95, 90, 85, 80, 75)
_SHRINK: Final = 0.8
_LOSSY: Final = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
_KEEPING_COLOURS: Final = ("L", "P", "RGB", "RGBA")
_UNIFORM_LEVELS: Final = 2  # what differs by no more is one colour to the eye


class CameOutUniform(ValueError):  # noqa: N818 - it names what happened to the copy
    """The copy is of one colour although the picture is not."""


def is_repairable(finding: Finding) -> bool:
    """Say whether a corrected copy would be without the problem."""
    return bool(rules.RULES[finding.code].repair)


def announce(finding: Finding, *, fix_images: bool) -> Finding:
    """Say beforehand what `fix_images` does, or would do, about a problem."""
    repair_text = rules.RULES[finding.code].repair
    if not repair_text:
        return finding
    if not fix_images:
        return dataclasses.replace(finding, fix=f"{finding.fix}, or let fix_images=True do it.")
    fix = f"Nothing to do: the run sends a corrected copy, {repair_text}."
    return dataclasses.replace(finding, severity=rules.WARNING, fix=fix)


def repair(content: bytes) -> bytes:
    """Make a copy of a picture that breaks no rule that can be mended.

    Upright, first frame, 8-bit grey or RGB, at most 4096 pixels a side, at most 4.7 MB; JPEG or PNG. What was
    stored with loss becomes a JPEG, everything else a PNG if that is small enough. Alpha is kept as long as
    the PNG is small enough, else laid on white. The same bytes and Pillow give the same copy.
    """
    with opened(io.BytesIO(content)) as image:
        corrected, is_lossy, profile = _corrected(image)
        copy = _encode(corrected, is_lossy, profile)
        is_flat = suffix_of(copy) == ".jpg"
        if _is_uniform(_on_white(corrected) if is_flat else corrected) and not _is_uniform(image):
            raise CameOutUniform
        return copy


def _corrected(image: Image.Image) -> tuple[Image.Image, bool, bytes | None]:
    is_lossy = image.format in _LOSSY
    if is_jpeg(image):
        # Decodes at a half or a quarter of the size where that is still enough.
        image.draft(None, (_SIDE_MAX, _SIDE_MAX))
    # A profile only fits the colours it was made for, so it goes where these are converted.
    profile = image.info.get("icc_profile") if image.mode in _KEEPING_COLOURS else None
    upright = _in_plain_mode(ImageOps.exif_transpose(image))
    upright.thumbnail((_SIDE_MAX, _SIDE_MAX), Image.Resampling.LANCZOS, reducing_gap=None)
    return upright, is_lossy, profile


def _in_plain_mode(image: Image.Image) -> Image.Image:
    image = in_eight_bits(image)
    if image.mode in {"L", "RGB"}:
        return image
    if image.mode in {"1", "F"}:
        return image.convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return rgba if rgba.getchannel("A").getextrema() != (255, 255) else rgba.convert("RGB")


def _encode(image: Image.Image, is_lossy: bool, profile: bytes | None) -> bytes:
    if not is_lossy or image.mode == "RGBA":
        png = _saved(image, "PNG", icc_profile=profile)
        if len(png) <= _BYTES_MAX:
            return png
    return _encode_jpeg(_on_white(image), profile)


def _encode_jpeg(image: Image.Image, profile: bytes | None) -> bytes:
    while True:
        for quality in _QUALITIES:
            jpeg = _saved(image, "JPEG", quality=quality, optimize=True, icc_profile=profile)
            if len(jpeg) <= _BYTES_MAX:
                return jpeg
        width, height = (max(1, round(side * _SHRINK)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _is_uniform(image: Image.Image) -> bool:
    return all(high - low <= _UNIFORM_LEVELS for low, high in extremes(image))


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def kept_copy(folder: Path | None, digest: str) -> Path | None:
    """Find the copy of a file in a folder by the digest of its bytes."""
    places = [] if folder is None else [folder / f"{digest}{suffix}" for suffix in SUFFIXES]
    return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A folder named by digests; without a `directory`, names are given but nothing is written."""

    directory: Path | None

    def keep(self, name: str, content: bytes) -> str:
        """Keep a picture under a name that stands for its content."""
        if self.directory is None:
            return name
        path = self.directory / name
        try:
            if not (path.exists() and path.read_bytes() == content):
                self.directory.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
        except OSError as error:
            raise StorageFailed(
                f"The picture {path} can't be written ({error.strerror or error}). Nothing was sent for it. "
                "Free some space or choose another run directory, and run again."
            ) from error
        return str(path)

    def keep_references(self, images: Iterable[ImageSource]) -> None:
        """Keep a copy of each file that is to be sent, so that the directory can be given away."""
        distinct = {image.sent_location: image for image in images if image.kind != URL}
        elsewhere = [one for place, one in distinct.items() if Path(place).parent != self.directory]
        wanted = [] if self.directory is None else elsewhere
        for _ in each(wanted, self._keep_reference, what="keeping references"):
            pass

    def _keep_reference(self, image: ImageSource) -> None:
        if kept_copy(self.directory, image.sent_digest) is not None:
            return
        try:
            content = Path(image.sent_location).read_bytes()
        except OSError:
            return  # the worker says so for the rows that need it
        if sha256(content) == image.sent_digest:
            self.keep(image.sent_digest + suffix_of(content), content)

    def keep_repaired(self, digest: str, content: bytes) -> tuple[str, bytes]:
        """Keep the corrected copy of a picture; one made by an earlier call is used as it is."""
        stem = f"{digest}-fixed-{RECIPE}"
        earlier = self._earlier(stem)
        if earlier is not None:
            return earlier
        repaired = repair(content)
        return self.keep(stem + suffix_of(repaired), repaired), repaired

    def _earlier(self, stem: str) -> tuple[str, bytes] | None:
        if self.directory is None:
            return None
        for path in (self.directory / f"{stem}.jpg", self.directory / f"{stem}.png"):
            content = path.read_bytes() if path.is_file() else b""
            # A copy that was tampered with would break a rule; then it is made anew.
            if content and not any(one.is_error or is_repairable(one) for one in examine(content)):
                return str(path), content
        return None


# A table whose links expired lately is still being worked on: it isn't refused, but nothing is sent with them.
_LATELY_S: Final = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One reference picture: where it is, and the digest of what will be sent.

    `location` is an absolute path or a URL. `digest` is the SHA-256 of the file's bytes; of mode, size and
    pixels for a PIL image; for a URL, of what of it names the picture (`links.canonical`). `sent_location` and
    `sent_digest` are the same unless a corrected copy was made; `sent_digest` is the SHA-256 of the file at
    `sent_location`, or of the URL as it is sent.
    """

    kind: Literal["file", "url"]
    location: str
    digest: str
    sent_location: str
    sent_digest: str


@dataclass(frozen=True, slots=True)
class Check:
    """How pictures are checked.

    `inputs` takes pictures in memory and corrected copies; without it pictures are only judged. `known`
    holds pictures by absolute path, or canonical URL, as they were when last seen, for files that are gone since
    and links that have expired.
    """

    base_dir: Path
    fix_images: bool = False
    inputs: Inputs | None = None
    known: Mapping[str, ImageSource] = field(default_factory=dict)
    wall: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found; `image` and what a job's identity takes from it (JSON), if it can be sent."""

    findings: tuple[Finding, ...]
    image: ImageSource | None = None
    identity: str = ""


def check(source: Source, how: Check) -> Checked:
    """Check one picture, reading it once."""
    if source.kind == URL:
        return _check_url(source.location, how)
    loaded = load(source, how.base_dir)
    if isinstance(loaded, Finding):
        return _remembered(source, loaded, how)
    findings = tuple(announce(one, fix_images=how.fix_images) for one in examine(loaded.content))
    if how.inputs is None or any(one.is_error for one in findings):
        return Checked(findings)
    if how.fix_images and any(is_repairable(one) for one in findings):
        return _repaired(loaded, findings, how.inputs)
    return _as_it_is(loaded, findings, how.inputs)


def _check_url(url: str, how: Check) -> Checked:
    named = canonical(url)
    findings = tuple(one for one in (judge_url(url), _expiry(url, named, how)) if one is not None)
    image = ImageSource(URL, url, sha256(named.encode()), url, sha256(url.encode()))
    return Checked(findings, image, _identity(URL, named))


def _expiry(url: str, named: str, how: Check) -> Finding | None:
    expires_at = links.expires_at(url)
    if expires_at is None or expires_at > how.wall():
        return None
    finding = Finding.of("image-link-expired", when=_utc(expires_at))
    if named in how.known or expires_at > how.wall() - _LATELY_S:
        return dataclasses.replace(finding, severity=WARNING)
    return finding


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _remembered(source: Source, finding: Finding, how: Check) -> Checked:
    image = how.known.get(source.location) or _known_elsewhere(source, how)
    if image is None or finding.code not in {"image-not-found", "image-unreadable"}:
        return Checked((finding,))
    identity = _identity("bytes", image.digest)
    if image.sent_digest != image.digest:
        identity = _identity_of_copy(identity)
    code = "image-kept" if Path(image.sent_location).is_file() else "image-gone"
    return Checked((Finding.of(code, path=source.location),), image, identity)


def _known_elsewhere(source: Source, how: Check) -> ImageSource | None:
    """Find the picture of a table that was moved with its run directory: the same path below another folder."""
    try:
        below = Path(source.location).relative_to(how.base_dir)
    except ValueError:
        return None
    found = {
        image.digest: image
        for place, image in how.known.items()
        if place.endswith(f"/{below.as_posix()}") and Path(image.sent_location).is_file()
    }
    return next(iter(found.values())) if len(found) == 1 else None


def _as_it_is(loaded: Loaded, findings: tuple[Finding, ...], inputs: Inputs) -> Checked:
    location = _kept(loaded, inputs)
    sent_digest = sha256(loaded.content) if loaded.made_of == PIXELS else loaded.digest
    image = ImageSource("file", location, loaded.digest, location, sent_digest)
    return Checked(findings, image, _identity(loaded.made_of, loaded.digest))


def _repaired(loaded: Loaded, findings: tuple[Finding, ...], inputs: Inputs) -> Checked:
    try:
        sent_location, copy = inputs.keep_repaired(loaded.digest, loaded.content)
    except StorageFailed:
        raise
    except CameOutUniform:
        return Checked((Finding.of("image-copy-uniform"),))
    except Exception as error:  # noqa: BLE001 - Pillow lets nearly any exception out of damaged files
        return Checked((damaged(error),))
    image = ImageSource("file", _kept(loaded, inputs), loaded.digest, sent_location, sha256(copy))
    return Checked(findings, image, _identity_of_copy(_identity(loaded.made_of, loaded.digest)))


def _kept(loaded: Loaded, inputs: Inputs) -> str:
    return loaded.location or inputs.keep(loaded.digest + suffix_of(loaded.content), loaded.content)


def _identity(kind: str, text: str) -> str:
    return json.dumps([kind, text], separators=(",", ":"))


def _identity_of_copy(identity: str) -> str:
    return f'["fixed",{identity},{RECIPE}]'


_WORKERS: Final = min(8, (os.cpu_count() or 1) + 2)


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """The pictures of all rows: `numbers` gives each row's place in `sources`, -1 where it has none.

    `identities` holds for each source what a job's identity takes from it, as JSON.
    """

    numbers: NDArray[np.intp]
    sources: list[ImageSource]
    identities: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    name: str
    cells: Distinct
    # By number of the distinct cell; cells of blanks only are left out, as if they were missing.
    read: dict[int, Source | Finding]

    @property
    def is_given(self) -> NDArray[np.bool_]:
        """Which rows name a picture here."""
        is_given = np.zeros(len(self.cells.cells), dtype=bool)
        is_given[list(self.read)] = True
        return self.cells.take(is_given, missing=False)


def read_images(findings: Findings, how: Check) -> Images:
    """Check every distinct picture of a table, once."""
    listed = [_read_column(findings, name, how.base_dir) for name in image_columns(findings.of_table)]
    checked = _check_all(listed, how)
    _find_wrong_counts(listed, findings)
    for column in listed:
        _find_wrong_pictures(column, checked, findings)
    return _laid_out(listed, checked, len(findings.of_table))


def _read_column(findings: Findings, name: str, base_dir: Path) -> _Column:
    cells = distinct(findings.of_table[name])
    given = {number: cell for number, cell in enumerate(cells.cells) if not _is_blank(cell)}
    return _Column(name, cells, {number: read_source(cell, base_dir) for number, cell in given.items()})


def _is_blank(cell: Any) -> bool:
    return isinstance(cell, str) and not cell.strip()


def _check_all(listed: list[_Column], how: Check) -> dict[Hashable, Checked]:
    found = (source for column in listed for source in column.read.values())
    sources = {source.key: source for source in found if isinstance(source, Source)}
    urls = {key: check(source, how) for key, source in sources.items() if source.kind == URL}
    opened = {key: source for key, source in sources.items() if source.kind != URL}
    return urls | (_check_opened(opened, how) if opened else {})


def _check_opened(sources: dict[Hashable, Source], how: Check) -> dict[Hashable, Checked]:
    what = "fixing pictures" if how.fix_images else "checking pictures"
    checked = each(list(sources.values()), lambda source: check(source, how), what=what, n_workers=_WORKERS)
    return {source.key: found for source, found in checked}


def _find_wrong_counts(listed: list[_Column], findings: Findings) -> None:
    n_given = np.zeros(len(findings.of_table), dtype=np.int64)
    for column in listed:
        n_given += column.is_given
    names = ", ".join(column.name for column in listed)
    findings.add("image-missing", listed[0].name, n_given == 0)
    findings.add("image-two-sources", listed[0].name, n_given > 1, n=n_given, columns=names)


def _find_wrong_pictures(column: _Column, checked: Mapping[Hashable, Checked], findings: Findings) -> None:
    found = {
        number: checked[read.key].findings if isinstance(read, Source) else (read,)
        for number, read in column.read.items()
    }
    findings.add_cells(column.name, column.cells, {number: each for number, each in found.items() if each})


def _laid_out(listed: list[_Column], checked: Mapping[Hashable, Checked], n_rows: int) -> Images:
    sendable = {key: one for key, one in checked.items() if one.image is not None}
    place_of = {key: place for place, key in enumerate(sendable)}
    numbers = np.full(n_rows, -1, dtype=np.intp)
    for column in listed:
        places = np.full(len(column.cells.cells), -1, dtype=np.intp)
        for number, read in column.read.items():
            places[number] = place_of.get(read.key, -1) if isinstance(read, Source) else -1
        numbers = np.maximum(numbers, column.cells.take(places, missing=-1))
    images = [one.image for one in sendable.values() if one.image is not None]
    return Images(numbers, images, [one.identity for one in sendable.values()])
