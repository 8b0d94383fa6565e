"""Reference pictures: find what a cell refers to, check it, keep copies, and make corrected copies."""

from __future__ import annotations

import base64
import binascii
import functools
import glob
import hashlib
import io
import json
import numbers
import os
import re
import stat
import time
import unicodedata
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from dreamo_batch import columns, files, images
from dreamo_batch.arguments import file_path
from dreamo_batch.errors import StorageFailed, UsageError
from dreamo_batch.jobs import links
from dreamo_batch.jobs.cells import distinct, is_blank, is_missing, items_of, printable, unwrapped
from dreamo_batch.jobs.fields import RowModels, image_columns, numbered
from dreamo_batch.jobs.rules import LINK_EXPIRED, RULES, WARNING, Finding, Findings
from dreamo_batch.parallel import each
from dreamo_batch.service import contract
from dreamo_batch.text import option, type_of, wording

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray


QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d"
AROUND: Final = " \t\r\n\u00a0\u3000\ufeff\u200b" + QUOTES


def same_name(path: str, other: str) -> bool:
    """Return whether two paths differ only in Unicode form and in blanks or quotes around their parts."""
    return _parts(path) == _parts(other)


def nearest_file(path: str) -> str | None:
    """Find the only file that a wrong path may mean: the same name spelled differently, or with another suffix."""
    folders, found = [], [Path(os.sep)]
    for part in _parts(path):
        folders, found = found, [entry for folder in found for entry in _entries(folder, part)]
    others = (entry for folder in folders for entry in _entries(folder, Path(path).stem + os.sep))
    files = [str(one) for one in found if one.is_file()] or [str(one) for one in others if one.is_file()]
    exact = [file for file in files if same_name(file, path)]
    best = exact or files
    return best[0] if len(best) == 1 else None


# Characters in brackets, or a letter.
_GLOB_PART: Final = re.compile(r"\[(!?)(.[^]]*)\]|[^\W\d_]")


def files_matching(pattern: str) -> tuple[list[str], list[str]]:
    """Return the files that a glob pattern matches, and those it would match in another letter case."""
    forms = dict.fromkeys([pattern, *(unicodedata.normalize(form, pattern) for form in ("NFC", "NFD"))])
    found = {path for form in forms for path in _files(form)}
    near = {path for form in forms for path in _files(_any_capitals(form))}
    return sorted(found), sorted(near - found)


def _files(pattern: str) -> list[str]:
    return [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207 - any pattern


def _any_capitals(pattern: str) -> str:
    def both(found: re.Match[str]) -> str:
        letters = found[2] or found[0]
        return f"[{found[1] or ''}{letters.lower()}{letters.upper()}]"

    return _GLOB_PART.sub(both, pattern)


def _parts(path: str) -> list[str]:
    parts = unicodedata.normalize("NFC", path).strip(AROUND).split("/")
    return [stripped for part in parts if (stripped := part.strip(AROUND))]


def _entries(folder: Path, part: str) -> list[Path]:
    """Return the entries of a folder that a part of a path may mean: just the exact name if it exists."""
    if (folder / part).exists():
        return [folder / part]
    try:
        listed = _listed(folder, folder.stat().st_mtime_ns)
    except OSError:
        return []
    return [folder / name for name in listed.get(unicodedata.normalize("NFKC", part).casefold(), ())]


@functools.lru_cache(maxsize=64)  # cached for tables with many missing files
def _listed(folder: Path, _mtime_ns: int) -> dict[str, list[str]]:
    """Map normalised names in a folder, and their stems with a slash appended, to the real names."""
    listed: dict[str, list[str]] = {}
    for name in os.listdir(folder):  # noqa: PTH208 - only the names
        spelled = unicodedata.normalize("NFKC", "".join(_parts(name))).casefold()
        for key in (spelled, Path(spelled).stem + os.sep):
            listed.setdefault(key, []).append(name)
    return listed


FILE: Final = "file"
URL: Final = "url"
BYTES: Final = "bytes"
PIXELS: Final = "pixels"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_FILE_URL = re.compile(r"(?i)file:(?://(?:localhost)?)?(?=/(?!/))")
# Direction marks that Windows puts before a path copied from a dialog.
_DIRECTIONS: Final = "\u202a\u202b\u202c\u2066\u2068\u200e\u200f"
# A relative path can't begin with these, so quotes before them aren't part of a file name.
_WHOLE = ("/", "~", "http:", "https:", "data:", "file:")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a cell's picture is: `location` of a file (absolute path) or URL, or `content` in memory."""

    kind: Literal["file", "url", "bytes", "pixels"]
    location: str = ""
    content: Any = None

    @property
    def key(self) -> Hashable:
        """What identifies it: the location, or in memory the object itself."""
        return (self.kind, self.location) if self.location else (self.kind, id(self.content))


def pictures_in(cell: Any) -> list[Any]:
    """Return the pictures in an image cell; an empty list if it is missing or blank."""
    items = [] if is_missing(cell) or is_blank(cell) else items_of(cell)
    # a list of numbers is one picture: levels or bytes
    return [cell] if items is None or any(isinstance(item, numbers.Number) for item in items[:1]) else items


def read_source(cell: Any, base_dir: Path) -> Source | Finding:
    """Return the source of one picture, or why it can't be used."""
    cell = unwrapped(cell)
    if isinstance(cell, str):
        return _source_of_text(cell, base_dir)
    if isinstance(cell, os.PathLike) and isinstance(os.fspath(cell), str):
        return _source_of_path(os.fspath(cell), base_dir)
    return _source_in_memory(cell)


def _source_in_memory(cell: Any) -> Source | Finding:
    if isinstance(cell, Image.Image):
        return Source(PIXELS, content=cell)
    try:
        if hasattr(cell, "read"):
            cell.seek(0)  # an earlier call has read it to the end
            cell = memoryview(cell.read())
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return Finding.of("image-unreadable", reason=str(error))
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return Source(BYTES, content=bytes(cell))
    return Finding.of("image-not-a-source", type=type_of(cell))


def _source_of_text(text: str, base_dir: Path) -> Source | Finding:
    stripped = text.strip()
    if (bare := text.lstrip(AROUND + _DIRECTIONS)).startswith(_WHOLE):
        text = bare.rstrip(AROUND) if stripped[:1] in QUOTES else bare
        stripped = text.strip()
    scheme = stripped[:8].lower()
    if scheme.startswith("data:"):
        return _source_of_data_uri(stripped)
    if scheme.startswith(("http:", "https:")):
        reason = links.why_unusable(stripped)
        return Finding.of("image-bad-url", reason=reason) if reason else Source(URL, stripped)
    if match := _FILE_URL.match(stripped):
        return _source_of_path(unquote(stripped[match.end() :]), base_dir)
    if match := _SCHEME.match(stripped):
        return Finding.of("image-bad-url", reason=f"{match[0]} is not http:// or https://")
    return _source_of_path(text, base_dir)


def _source_of_path(path: str, base_dir: Path) -> Source | Finding:
    if "\0" in path or printable(path) != path:
        return Finding.of(
            "image-unreadable", reason="its path holds a NUL or isn't valid UTF-8; rename the file"
        )
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        return Finding.of("image-unreadable", reason=str(error).rstrip("."))
    return Source(FILE, os.path.abspath(base_dir / expanded))  # noqa: PTH100 - resolve() would follow symlinks


def _source_of_data_uri(uri: str) -> Source | Finding:
    head, comma, body = uri.partition(",")
    if not comma:
        return Finding.of("image-bad-data-uri", reason="it has no comma before the data")
    if not head.lower().endswith(";base64"):
        return Source(BYTES, content=unquote_to_bytes(body))
    try:
        return Source(BYTES, content=base64.b64decode(links.padded(body), validate=True))
    except (binascii.Error, ValueError) as error:
        return Finding.of("image-bad-data-uri", reason=str(error))


# Formats from which Pillow makes a corrected copy without outside programs; HEIF if pillow-heif is registered.
CONVERTIBLE: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000")
# Larger files aren't read; a corrected copy would need several times as much memory.
READ_BYTES_MAX: Final = 64_000_000
RECIPE: Final = 1  # version of the corrected copies; part of a job's identity

_PLAIN_MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_NUMBER_MODES: Final = ("I", "F")
_PNG_BIT_DEPTH_AT: Final = 24
_TIFF_BITS_PER_SAMPLE: Final = 258
_DEEP_BITS: Final = 16
_N_COLOURS: Final = 3
_WHITE_8, _WHITE_16 = 255, 65_535
_UNIFORM_LEVELS: Final = 2  # levels this close look the same

_PNG_MODES: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
# Modes that PNG lacks, and the mode that holds the same colours.
_AS_PNG: Final = {
    **dict.fromkeys(("CMYK", "YCbCr", "LAB", "HSV", "RGBX"), "RGB"),
    **dict.fromkeys(("RGBa", "PA"), "RGBA"),
    "La": "LA",
}
_KINDS: Final = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))

_SIDE_MAX: Final = contract.INPUT_SIDE_MAX_PX.value
_BYTES_MAX: Final = contract.INPUT_BYTES_ADVISED.value
_QUALITIES: Final = (95, 90, 85, 80, 75)
_SHRINK: Final = 0.8
_LOSSY: Final = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JPEG2000")
_KEEPS_PROFILE: Final = ("L", "P", "RGB", "RGBA")

# An estimate of when a row is sent, from what is known of the service: 8 tasks at once, 20 s each.
_ROW_S: Final = 20.0 / 8
_SENT_IN_S: Final = 300.0  # at least
_WORKERS: Final = min(8, (os.cpu_count() or 1) + 2)


# Columns that describe a picture, in the order of the fields below.
OF_IMAGE: Final = (columns.IMAGE_SOURCE, columns.IMAGE_DIGEST, columns.IMAGE_SENT, columns.IMAGE_SENT_DIGEST)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One reference picture: where it is, and the digest of what is sent."""

    kind: Literal["file", "url"]
    location: str  # an absolute path or a URL
    # SHA-256 of a file's bytes; of a PIL image's mode, size and pixels; of a URL's `canonical` form.
    digest: str
    sent_location: str  # differs for a corrected copy
    sent_digest: str  # SHA-256 of the file there, or of the URL as sent


@dataclass(slots=True)
class CheckOptions:
    """How pictures are checked."""

    base_dir: str | os.PathLike[str] | None = None  # default: the working directory
    fix_images: bool = False
    inputs: Inputs | None = None  # for pictures in memory and corrected copies
    # Pictures of earlier calls by absolute path or canonical URL, for files that have gone and links that have expired.
    known_images: Mapping[str, ImageSource] = field(default_factory=dict)
    # Links must be good at this time (Unix seconds; default: now), and for as long as sending so many rows may take.
    at: float | None = None
    n_rows: int = 0
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = file_path("base_dir", "." if self.base_dir is None else self.base_dir).absolute()
        if os.path.isfile(self.folder):  # noqa: PTH113 - never raises
            name = wording("base_dir", "--base-dir")
            raise UsageError(f"{name} is a file, {self.folder}. Pass the folder where relative paths start.")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found: findings and, if the picture can be sent, it and its part of a job's identity (JSON)."""

    findings: tuple[Finding, ...]
    image: ImageSource | None = None
    identity: str = ""


class Images:
    """The pictures of all rows, each different one checked once."""

    def __init__(self, findings: Findings, how: CheckOptions, models: RowModels) -> None:
        table = findings.of_table
        cells = {name: distinct(table[name]) for name in image_columns(table)}
        sources = {
            name: [tuple(read_source(one, how.folder) for one in pictures_in(cell)) for cell in column.cells]
            for name, column in cells.items()
        }
        checked = _check_all(chain.from_iterable(chain.from_iterable(sources.values())), how)
        n_pictures = {name: cells[name].take(list(map(len, sources[name])), missing=0) for name in cells}
        # Of each row, usable or not.
        self.counts = _find_wrong_counts(n_pictures, findings, models)
        for name, column in cells.items():
            findings.add_cells(name, column, [_findings(of_cell, checked) for of_cell in sources[name]])
        # The cells of all image columns together: each row's place in `combined`.
        places = numbered([column.codes for column in cells.values()])
        firsts = np.unique(places, return_index=True)[1]
        by_column = [[*of_cells, ()] for of_cells in sources.values()]
        codes = zip(*(column.codes[firsts].tolist() for column in cells.values()), strict=True)
        combined = [tuple(chain.from_iterable(map(list.__getitem__, by_column, row))) for row in codes]
        # A request takes either links or files.
        kinds = [{one.kind == URL for one in several if isinstance(one, Source)} for several in combined]
        is_mixed = np.array([len(of_row) > 1 for of_row in kinds], dtype=bool)[places]
        findings.add("image-mixed", next(iter(cells)), is_mixed & ~findings.is_in_error(), model=models.names)
        usable: dict[tuple[Hashable, ...], tuple[ImageSource, ...]] = {}
        place_of: dict[tuple[Hashable, ...], int] = {}
        numbers = np.full(len(combined), -1, dtype=np.intp)
        for number, several in enumerate(combined):
            keys = tuple(source.key for source in several if isinstance(source, Source))
            of_row = tuple(image for key in keys if (image := checked[key].image) is not None)
            if several and len(of_row) == len(several):
                usable[keys] = of_row
                numbers[number] = place_of.setdefault(keys, len(place_of))
        # Each row's place in the two lists below, -1 if a picture can't be used.
        self.numbers: NDArray[np.intp] = numbers[places]
        self.sources = list(usable.values())
        self.identities = [tuple(checked[key].identity for key in keys) for keys in usable]


def _check_all(found: Iterable[Source | Finding], how: CheckOptions) -> dict[Hashable, CheckResult]:
    by_key = {source.key: source for source in found if isinstance(source, Source)}
    checked = {key: check(source, how) for key, source in by_key.items() if source.kind == URL}
    local = [source for source in by_key.values() if source.kind != URL]
    what = "fixing pictures" if how.fix_images else "checking pictures"
    for source, result in each(local, lambda source: check(source, how), what=what, n_workers=_WORKERS):
        checked[source.key] = result
    return checked


def _findings(read: tuple[Source | Finding, ...], checked: Mapping[Hashable, CheckResult]) -> list[Finding]:
    """Return the findings about the pictures of one cell; if there are several, with the number of the picture."""
    by_picture = [checked[one.key].findings if isinstance(one, Source) else (one,) for one in read]
    if len(read) == 1:
        return list(by_picture[0])
    return [
        replace(finding, message=f"Picture {number}: {finding.message}")
        for number, of_picture in enumerate(by_picture, 1)
        for finding in of_picture
    ]


def _find_wrong_counts(
    by_column: Mapping[str, NDArray[np.int64]], findings: Findings, models: RowModels
) -> NDArray[np.int64]:
    by_place: dict[str, NDArray[np.int64]] = {}
    for name, n_pictures in by_column.items():
        place = columns.IMAGE_NUMBERED[0] if name in columns.IMAGE_NUMBERED else name
        by_place[place] = by_place.get(place, 0) + n_pictures
    counts: NDArray[np.int64] = np.sum(list(by_place.values()), axis=0)
    n_places = np.sum([count > 0 for count in by_place.values()], axis=0)
    most = models.take("images_max")
    name = next(iter(by_column))
    findings.add("image-missing", name, counts == 0)
    findings.add("image-two-sources", name, n_places > 1, n=n_places, columns=", ".join(by_column))
    is_beyond = (n_places == 1) & (counts > most) & models.is_known
    several = " or ".join(name for name, model in contract.MODELS.items() if model.images_max.value > 1)
    or_else = np.where(most > 1, "", f", or set model to {several}")
    findings.add("image-too-many", name, is_beyond, n=counts, most=most, or_else=or_else, model=models.names)
    return counts


def check(source: Source, how: CheckOptions) -> CheckResult:
    """Check one picture, reading it once."""
    if source.kind == URL:
        return _check_url(source.location, how)
    if source.kind == FILE:
        loaded = _load_file(source.location, how.folder)
    elif source.kind == PIXELS:
        loaded = _load_pixels(source.content)
    else:
        loaded = _Loaded(source.content, sha256(source.content), BYTES)
    if isinstance(loaded, Finding):
        return _check_missing(source, loaded, how)
    known = how.known_images.get(loaded.location)
    if known is not None and _is_of_pixels(known, loaded):
        loaded = loaded._replace(digest=Path(loaded.location).stem, kind=PIXELS)
    findings = tuple(_with_repair(finding, fix_images=how.fix_images) for finding in examine(loaded.content))
    if how.inputs is None or any(finding.is_error for finding in findings):
        return CheckResult(findings)
    location = loaded.location or how.inputs.keep(
        loaded.digest + images.suffix_of(loaded.content), loaded.content
    )
    if how.fix_images and any(map(is_repairable, findings)):
        return _check_copy(loaded, location, findings, how.inputs)
    sent_digest = sha256(loaded.content) if loaded.kind == PIXELS else loaded.digest
    image = ImageSource(FILE, location, loaded.digest, location, sent_digest)
    return CheckResult(findings, image, _identity(loaded.kind, loaded.digest))


def _check_copy(loaded: _Loaded, location: str, findings: tuple[Finding, ...], inputs: Inputs) -> CheckResult:
    try:
        sent_location, copy = inputs.keep_repaired(loaded.digest, loaded.content)
    except StorageFailed:
        raise
    except UniformCopy:
        return CheckResult((Finding.of("image-copy-uniform"),))
    except Exception as error:  # noqa: BLE001 - Pillow raises almost anything for damaged files
        return CheckResult((_damaged(error),))
    image = ImageSource(FILE, location, loaded.digest, sent_location, sha256(copy))
    return CheckResult(findings, image, _identity_of_copy(_identity(loaded.kind, loaded.digest)))


def _check_url(url: str, how: CheckOptions) -> CheckResult:
    named = links.canonical(url)
    findings = tuple(
        finding for finding in (links.judge_url(url), _expiry(url, named, how)) if finding is not None
    )
    image = ImageSource(URL, url, sha256(named.encode()), url, sha256(url.encode()))
    return CheckResult(findings, image, _identity(URL, named))


def _expiry(url: str, named: str, how: CheckOptions) -> Finding | None:
    end, now = links.expires_at(url), time.time() if how.at is None else how.at
    if end is None or end > now + max(how.n_rows * _ROW_S, _SENT_IN_S):
        return None
    when = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if end > now:
        return None if named in how.known_images else Finding.of("image-link-expires-soon", when=when)
    finding = Finding.of(LINK_EXPIRED, when=when)
    # Rows already submitted no longer need it.
    is_enough = named in how.known_images or not links.has_expired(url, now)
    return replace(finding, severity=WARNING) if is_enough else finding


def _check_missing(source: Source, finding: Finding, how: CheckOptions) -> CheckResult:
    """Fall back on what earlier calls recorded about a file that can't be read."""
    image = how.known_images.get(source.location) or _known_elsewhere(source, how)
    if image is None or finding.code not in {"image-not-found", "image-unreadable"}:
        return CheckResult((finding,))
    code = "image-kept" if Path(image.sent_location).is_file() else "image-gone"
    return CheckResult((Finding.of(code, path=source.location),), image, _known_identity(image))


def _is_of_pixels(known: ImageSource, kept: _Loaded) -> bool:
    """Return whether a kept file is the PNG of a PIL image, named by the digest of its pixels, and is unchanged."""
    is_one = known.digest == Path(kept.location).stem != kept.digest
    return is_one and (known.sent_digest == kept.digest or known.sent_location != known.location)


def _known_identity(image: ImageSource) -> str:
    kept = kept_copy(Path(image.sent_location).parent, image.digest)
    unchanged = image.digest if kept is None else sha256(kept.read_bytes())  # of a PIL image, that of its PNG
    identity = _identity(BYTES if unchanged == image.digest else PIXELS, image.digest)
    return identity if image.sent_digest == unchanged else _identity_of_copy(identity)


def _known_elsewhere(source: Source, how: CheckOptions) -> ImageSource | None:
    """Find the picture of a table that was moved with its run directory: the same path below another folder."""
    try:
        below = Path(source.location).relative_to(how.folder)
    except ValueError:
        return None
    found = {
        image.digest: image
        for place, image in how.known_images.items()
        if place.endswith(f"/{below.as_posix()}") and Path(image.sent_location).is_file()
    }
    return next(iter(found.values())) if len(found) == 1 else None


def _identity(kind: str, text: str) -> str:
    return json.dumps([kind, text], separators=(",", ":"))


def _identity_of_copy(identity: str) -> str:
    return f'["fixed",{identity},{RECIPE}]'


def examine(content: bytes) -> tuple[Finding, ...]:
    """Find everything that is wrong with a picture."""
    if not content:
        return (Finding.of("image-empty"),)
    try:
        with images.opened(io.BytesIO(content)) as image:
            return (*_judge_size(content, image), *_judge_content(content, image))
    except UnidentifiedImageError:
        return (Finding.of("image-not-a-picture", guess=images.looks_like(content)),)
    except Image.DecompressionBombError as error:
        return (Finding.of("image-bomb", size=str(error).partition(", could")[0].lower()),)
    except Exception as error:  # noqa: BLE001 - Pillow raises almost anything for damaged files
        return (_damaged(error),)


def _damaged(error: Exception) -> Finding:
    return Finding.of("image-damaged", reason=str(error).rstrip(".") or type(error).__name__)


def _judge_size(content: bytes, image: Image.Image) -> Iterator[Finding]:
    width, height = image.size
    if len(content) > contract.INPUT_BYTES_ADVISED.value:
        is_refused = len(content) > contract.INPUT_BYTES_MAX.value
        code = "image-too-many-bytes" if is_refused else "image-many-bytes"
        yield Finding.of(code, n_mb=len(content) / 1e6)
    if max(width, height) > contract.INPUT_SIDE_MAX_PX.value:
        yield Finding.of("image-too-many-pixels", width=width, height=height)
    lowest, highest = contract.INPUT_RATIO_ADVISED.value
    tolerance = 1 + contract.INPUT_RATIO_TOLERANCE.value
    if not lowest / tolerance <= width / height <= highest * tolerance:
        yield Finding.of("image-extreme-ratio", width=width, height=height)


def _judge_content(content: bytes, image: Image.Image) -> Iterator[Finding]:
    kind = "JPEG" if images.is_jpeg(image) else str(image.format)
    if kind not in contract.INPUT_FORMATS.value:
        yield Finding.of("image-format" if kind in CONVERTIBLE else "image-not-convertible", format=kind)
    if images.orientation(image) not in images.UPRIGHT:
        yield Finding.of("image-rotated")
    if kind != "JPEG" and (n_frames := getattr(image, "n_frames", 1)) > 1:
        yield Finding.of("image-animated", n=n_frames)
    is_deep = _is_deep(kind, content, image)
    if is_deep:
        yield Finding.of("image-colours", mode="16 bits per channel")
    elif image.mode not in (*_PLAIN_MODES, *_NUMBER_MODES):
        yield Finding.of("image-colours", mode=image.mode)
    elif images.to_srgb(image) is not None:
        yield Finding.of("image-colours", mode="RGB with a colour profile other than sRGB")
    if kind not in CONVERTIBLE:
        return
    if image.format == "PNG":
        image.verify()
    else:
        image.draft(None, (image.width // 8, image.height // 8))
        image.load()
    if is_deep or image.mode in _NUMBER_MODES:
        yield from _judge_levels(content)


def _is_deep(kind: str, content: bytes, image: Image.Image) -> bool:
    if kind == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, ())
        return image.mode not in _NUMBER_MODES and _DEEP_BITS in np.atleast_1d(bits)
    return image.mode in images.DEEP_MODES or (kind == "PNG" and content[_PNG_BIT_DEPTH_AT] == _DEEP_BITS)


def _judge_levels(content: bytes) -> Iterator[Finding]:
    """Find numbers that aren't levels from black to white, or levels that leave the bright range unused."""
    with closing(Image.open(io.BytesIO(content))) as image:
        # Without alpha.
        ranges = images.extremes(image)[: 1 if len(image.getbands()) < _N_COLOURS else _N_COLOURS]
        low, high = min(band[0] for band in ranges), max(band[1] for band in ranges)
        white = _WHITE_16 if image.mode in (*images.DEEP_MODES, *_NUMBER_MODES) else _WHITE_8
        if image.mode == "F" or low < 0 or high > white:
            yield _numbers(image.mode, low, high)
        elif high < white / 4 and (low < high or white == _WHITE_8):
            yield Finding.of("image-levels", high=f"{high} of {white}")


def _numbers(mode: str, low: float, high: float) -> Finding:
    kind = "floats" if mode == "F" else "integers"
    return Finding.of("image-numbers", kind=kind, low=f"{low:.6g}", high=f"{high:.6g}")


class _Loaded(NamedTuple):
    """A picture's bytes and digest."""

    content: bytes
    digest: str
    kind: str  # what the digest is of: `BYTES`, or the `PIXELS` of a PIL image, of which `content` is a PNG
    location: str = ""  # empty for pictures in memory


def sha256(content: bytes) -> str:
    """Hash bytes."""
    return hashlib.sha256(content).hexdigest()


def _load_file(location: str, base_dir: Path) -> _Loaded | Finding:
    try:
        status = Path(location).stat()
        if not stat.S_ISREG(status.st_mode):
            kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "a device")
            return Finding.of("image-not-a-file", path=location, kind=kind)
        if status.st_size > READ_BYTES_MAX:
            return Finding.of("image-far-too-many-bytes", n_mb=status.st_size / 1e6)
        content = Path(location).read_bytes()
    except (OSError, UnicodeEncodeError) as error:  # the latter where the locale has no such names
        reason = links.advice_on("no_path", location)
        hint = f" {reason}" if reason else ""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = f"{getattr(error, 'strerror', None) or error}.{hint}".rstrip(".")
            return Finding.of("image-unreadable", reason=reason)
        other = nearest_file(location) or nearest_file(unquote(location))
        if other is not None and same_name(other, location):
            return _load_file(other, base_dir)
        hint = f" But there is {other}; did you mean that?" if other else hint
        return Finding.of("image-not-found", path=location, base=base_dir, hint=hint)
    return _Loaded(content, sha256(content), BYTES, location)


def _load_pixels(image: Image.Image) -> _Loaded | Finding:
    try:
        image.load()
        if min(image.size) == 0:
            return Finding.of("image-empty")
        if image.mode in _NUMBER_MODES:  # converted to RGB, most would be black
            return _numbers(image.mode, *images.extremes(image)[0])
        if image.mode in _PNG_MODES:
            saveable = image
        elif image.mode in images.DEEP_MODES:  # in another byte order; Pillow would clip the levels at 255
            saveable = Image.fromarray(np.asarray(image).astype(np.uint16))
        elif image.mode in _AS_PNG:
            saveable = image.convert(_AS_PNG[image.mode])
        else:
            return Finding.of("image-mode", mode=image.mode)
        turn, exif = images.orientation(image), Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        png = images.encoded(
            saveable,
            "PNG",
            exif=None if turn in images.UPRIGHT else exif.tobytes(),
            icc_profile=image.info.get("icc_profile"),
        )
        return _Loaded(png, _digest_of_pixels(image), PIXELS)
    except Exception as error:  # noqa: BLE001 - a lazily opened image raises almost anything
        return _damaged(error)


def _digest_of_pixels(image: Image.Image) -> str:
    palette = image.getpalette("RGBA") if image.mode in {"P", "PA"} else None
    transparency = image.info.get("transparency")
    head = [image.mode, image.size, palette, repr(transparency), images.orientation(image)]
    hashed = hashlib.sha256(json.dumps(head).encode() + b"\n")
    hashed.update(image.tobytes())
    return hashed.hexdigest()


class UniformCopy(ValueError):  # noqa: N818 - it names what went wrong
    """The corrected copy has one colour although the picture has several."""


def is_repairable(finding: Finding) -> bool:
    """Return whether a corrected copy removes the problem."""
    return bool(RULES[finding.code].repair)


def _with_repair(finding: Finding, *, fix_images: bool) -> Finding:
    """Add to a finding what `fix_images` does, or would do, about it."""
    repair_text = RULES[finding.code].repair
    if not repair_text:
        return finding
    if not fix_images:
        return replace(finding, fix=f"{finding.fix}, or pass {option('fix_images', value=True)}.")
    fix = f"Nothing to do: the run sends a corrected copy, {repair_text}."
    return replace(finding, severity=WARNING, fix=fix)


def repair(content: bytes) -> bytes:
    """Make a copy of a picture without the problems that can be corrected; the same bytes make the same copy."""
    with images.opened(io.BytesIO(content)) as image:
        is_lossy = image.format in _LOSSY
        if images.is_jpeg(image):  # decoded at half or quarter size where that is enough
            image.draft(None, (_SIDE_MAX, _SIDE_MAX))
        # The profile is dropped if the colours that it describes are converted.
        is_kept = image.mode in _KEEPS_PROFILE and images.to_srgb(image) is None
        profile = image.info.get("icc_profile") if is_kept else None
        corrected = images.in_strips(image, _SIDE_MAX, _in_plain_mode)
        if corrected.mode == "RGBA" and corrected.getchannel("A").getextrema() == (255, 255):
            corrected = corrected.convert("RGB")
        corrected = images.turned(corrected, images.orientation(image))
        is_uniform = _is_uniform(image)
        if corrected is not image:
            image.close()  # frees its memory
        corrected.thumbnail((_SIDE_MAX, _SIDE_MAX), Image.Resampling.LANCZOS, reducing_gap=None)
        copy = b""
        if not is_lossy or corrected.mode == "RGBA":
            copy = images.encoded(corrected, "PNG", icc_profile=profile)
        if not copy or len(copy) > _BYTES_MAX:
            corrected = images.on_white(corrected)
            copy = _encode_jpeg(corrected, profile)
        if _is_uniform(corrected) and not is_uniform:
            raise UniformCopy
        return copy


def _in_plain_mode(image: Image.Image) -> Image.Image:
    image = images.in_srgb(images.in_eight_bits(image))
    if image.mode in {"L", "RGB"}:
        return image
    if image.mode in {"1", "F"}:
        return image.convert("L")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _encode_jpeg(image: Image.Image, profile: bytes | None) -> bytes:
    while True:
        for quality in _QUALITIES:
            jpeg = images.encoded(image, "JPEG", quality=quality, optimize=True, icc_profile=profile)
            if len(jpeg) <= _BYTES_MAX:
                return jpeg
        width, height = (max(1, round(side * _SHRINK)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)


def _is_uniform(image: Image.Image) -> bool:
    return all(high - low <= _UNIFORM_LEVELS for low, high in images.extremes(image))


def kept_copy(folder: Path | None, digest: str) -> Path | None:
    """Find the copy of a file in a folder by the digest of its bytes."""
    places = [] if folder is None else [folder / f"{digest}{suffix}" for suffix in images.SUFFIXES]
    return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A folder of pictures named by digest; without a `directory`, pictures get names but aren't written."""

    directory: Path | None
    made: list[Path] = field(default_factory=list, compare=False)

    @contextmanager
    def undone_if_refused(self) -> Iterator[None]:
        """Delete everything made inside the block, folders included, if the call is refused."""
        try:
            yield
        except BaseException:
            for path in reversed(self.made):
                with suppress(OSError):  # the folder isn't empty
                    path.rmdir() if path.is_dir() else path.unlink()
            raise

    def keep(self, name: str, content: bytes) -> str:
        """Store a picture under a name derived from its content."""
        if self.directory is None:
            return name
        path = self.directory / name
        try:
            if not (path.exists() and path.read_bytes() == content):
                self.made.extend(folder for folder in (*reversed(path.parents), path) if not folder.exists())
                self.directory.mkdir(parents=True, exist_ok=True)
                files.replace(path, lambda temporary: temporary.write_bytes(content))
        except OSError as error:
            raise StorageFailed(
                f"Can't write the picture {path} ({error.strerror or error}). Nothing was sent for it. Free some space "
                "or choose another run directory, and run again."
            ) from error
        return str(path)

    def keep_references(self, used: Iterable[ImageSource]) -> None:
        """Store a copy of each file to be sent, so that the directory can be shared."""
        if self.directory is None:
            return
        local = {image.sent_location: image for image in used if image.kind != URL}
        elsewhere = [image for place, image in local.items() if Path(place).parent != self.directory]
        for _ in each(elsewhere, self._keep_reference, what="keeping references"):
            pass

    def _keep_reference(self, image: ImageSource) -> None:
        if kept_copy(self.directory, image.sent_digest) is not None:
            return
        try:
            content = Path(image.sent_location).read_bytes()
        except OSError:
            return  # the workers report it for the rows that need it
        if sha256(content) == image.sent_digest:
            self.keep(image.sent_digest + images.suffix_of(content), content)

    def keep_repaired(self, digest: str, content: bytes) -> tuple[str, bytes]:
        """Store the corrected copy of a picture, or return the one that an earlier call stored."""
        stem = f"{digest}-fixed-{RECIPE}"
        path = kept_copy(self.directory, stem)
        kept = b"" if path is None else path.read_bytes()
        # If the copy was changed since and breaks a rule, it is made again.
        if kept and not any(finding.is_error or is_repairable(finding) for finding in examine(kept)):
            return str(path), kept
        repaired = repair(content)
        return self.keep(stem + images.suffix_of(repaired), repaired), repaired
