"""Colours as people tell them apart: CIE 1976 L*a*b* under D65, and how far two of them are from each other.

sRGB is taken to linear light and to XYZ by IEC 61966-2-1, and on to L*a*b* by CIE 15. Differences are those of CIE 1976
(Delta E*ab), the length of the line between two colours: about 2.3 is the least that is noticed, black and white are
100 apart.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dreamo_batch import columns, files
from dreamo_batch.engine import directory
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.errors import DirectoryError
from dreamo_batch.images import opened, upright_rgb
from dreamo_batch.parallel import each

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray


SIDE_PX: Final = 16
# Linear sRGB to XYZ; the rows add up to the white point D65.
_TO_XYZ: Final = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], dtype=np.float64
)
_WHITE_POINT: Final = _TO_XYZ.sum(axis=1)
_DELTA: Final = 6 / 29


def to_lab(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn sRGB levels of 0 to 255 into L*a*b*."""
    encoded = levels.astype(np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004 - IEC
    xyz = linear @ _TO_XYZ.T / _WHITE_POINT
    f = np.where(xyz > _DELTA**3, np.cbrt(xyz), xyz / (3 * _DELTA**2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def thumbnail(picture: Image.Image, side_px: int = SIDE_PX) -> NDArray[np.float32]:
    """Make a small square of a picture, in L*a*b*; what is not square is squeezed."""
    small = picture.resize((side_px, side_px), Image.Resampling.BOX)
    return to_lab(np.asarray(small))


def mean_delta_e(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Give the mean CIE 1976 difference of two thumbnails, place by place."""
    return float(np.linalg.norm(one - other, axis=-1).mean())


N_BITS: Final = 64
_HASHED_PX: Final = 32
_KEPT: Final = 8
_NOISE: Final = 1e-6  # of the coefficients, which are sums of levels of 0 to 255
_FREQUENCIES = np.arange(_KEPT)[:, None]
_PLACES = np.arange(_HASHED_PX)[None, :]
_COSINES: Final = np.cos(np.pi * _FREQUENCIES * (2 * _PLACES + 1) / (2 * _HASHED_PX))
_WEIGHTS: Final = np.uint64(1) << np.arange(N_BITS - 1, -1, -1, dtype=np.uint64)


def perceptual_hash(picture: Image.Image) -> int:
    """Give the hash of a picture."""
    grey = picture.convert("L").resize((_HASHED_PX, _HASHED_PX), Image.Resampling.LANCZOS)
    low = _COSINES @ np.asarray(grey, dtype=np.float64) @ _COSINES.T
    low[np.abs(low) < _NOISE] = 0.0  # rounding errors would be bits of their own
    is_high = (low > np.median(low)).ravel()
    return int(_WEIGHTS[is_high].sum(dtype=np.uint64))


def distance(one: int, other: int) -> int:
    """Count the bits in which two hashes differ, 0 to 64; unrelated pictures differ in about 32."""
    return (one ^ other).bit_count()


_SCORED_PX: Final = 64
N_LEVELS: Final = 128
_FADE: Final = 25.0  # Delta E at which likeness of colour has fallen to 1/e
_N_CELLS: Final = 4
_N_DIRECTIONS: Final = 8
_FAINT: Final = 1.0  # L* from one pixel to the next but one: below is noise of compression
N_EDGES: Final = _N_CELLS**2 * _N_DIRECTIONS


class Traits(NamedTuple):
    """What the scores compare: sorted levels of L*, a* and b* (3 x 128), and the histogram of edges (128)."""

    levels: NDArray[np.float32]
    edges: NDArray[np.float32]


def traits(picture: Image.Image) -> Traits:
    """Return the traits of a picture of mode RGB."""
    lab = thumbnail(picture, _SCORED_PX)
    levels = np.sort(lab.reshape(-1, 3), axis=0).reshape(N_LEVELS, -1, 3).mean(axis=1).T
    return Traits(np.ascontiguousarray(levels), _edges(lab[..., 0]).astype(np.float32))


def colour_likeness(one: Traits, other: Traits) -> float:
    """Score the levels of two pictures, 0 to 1."""
    distances = np.abs(one.levels - other.levels).mean(axis=1)
    return math.exp(-float(np.linalg.norm(distances) / _FADE))


def shape_likeness(one: Traits, other: Traits) -> float:
    """Score the edges of two pictures, 0 to 1."""
    lengths = float(np.linalg.norm(one.edges)), float(np.linalg.norm(other.edges))
    if not all(lengths):
        return float(not any(lengths))
    return min(1.0, float(one.edges @ other.edges) / (lengths[0] * lengths[1]))


def likeness(one: Traits, other: Traits) -> float:
    """Score colour and shape; the mean of the two."""
    return (colour_likeness(one, other) + shape_likeness(one, other)) / 2


def colour(reference: Image.Image, output: Image.Image) -> float:
    """Compare which colours there are and how much of each, wherever they are.

    The levels of L*, a* and b* are sorted, averaged in 128 steps and compared (the Wasserstein distance of each); the
    length of the three, in units of Delta E, fades as exp(-distance / 25).
    """
    return colour_likeness(traits(reference), traits(output))


def shape(reference: Image.Image, output: Image.Image) -> float:
    """Compare where edges are and which way they run, whatever the colours.

    A histogram of 8 directions of the edges of L*, weighted by their strength, in each of 4 x 4 parts; the cosine of
    the two (as in histograms of oriented gradients, Dalal and Triggs, 2005). What is not square is squeezed.
    """
    return shape_likeness(traits(reference), traits(output))


def appearance(reference: Image.Image, output: Image.Image) -> float:
    """Compare colour and shape; the mean of the two."""
    return likeness(traits(reference), traits(output))


def _edges(lightness: NDArray[np.float32]) -> NDArray[np.float64]:
    down, across = np.gradient(lightness.astype(np.float64))
    strength = np.hypot(down, across)
    strength[strength < _FAINT / 2] = 0.0
    # Half a turn: a dark line on light ground runs the same way as a light one on dark.
    angle = np.mod(np.arctan2(down, across), np.pi)
    direction = np.rint(angle / np.pi * _N_DIRECTIONS).astype(int) % _N_DIRECTIONS
    part = np.arange(_SCORED_PX) * _N_CELLS // _SCORED_PX
    numbers = (part[:, None] * _N_CELLS + part[None, :]) * _N_DIRECTIONS + direction
    weights = strength.ravel().astype(np.float64)
    return np.bincount(numbers.ravel(), weights, minlength=_N_CELLS**2 * _N_DIRECTIONS).astype(np.float64)


class Unseen(Exception):  # noqa: N818 - it names what became of the picture
    """A picture that can't be looked at; the text says why."""


def read(path: Path, sha256: str, *, side_px: int | None = None) -> Image.Image:
    """Open the picture at a path, if it still is the one that is known."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Unseen(f"{path.name} is gone") from None
    except OSError as error:
        raise Unseen(f"{path.name} can't be read ({error.strerror or error})") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Unseen(f"{path.name} is not the picture that it was")
    try:
        return _decoded(content, side_px)
    except Exception as error:  # noqa: BLE001 - decoders raise anything at all over damaged files
        raise Unseen(f"{path.name} can't be decoded ({error})") from None


def _decoded(content: bytes, side_px: int | None) -> Image.Image:
    with opened(io.BytesIO(content)) as picture:
        if side_px is not None:
            picture.draft(None, (side_px, side_px))  # only JPEG can; others are decoded whole
        return upright_rgb(picture)


logger = logging.getLogger(__name__)

NAME: Final = "metrics.parquet"
_SCHEMA: Final = pa.schema(
    [
        (columns.OUTPUT_SHA256, pa.string()),
        (columns.REFERENCE_SHA256, pa.string()),
        (columns.METRIC, pa.string()),
        (columns.VERSION, pa.string()),
        (columns.VALUE, pa.float64()),
        (columns.LOOK, pa.binary()),
    ]
)
_KEYS: Final = _SCHEMA.names[:4]


class Key(NamedTuple):
    """What a value belongs to; `reference` is empty for what is seen in the picture alone."""

    output: str
    reference: str
    metric: str
    version: str


class Value(NamedTuple):
    """A number, None where there was nothing to measure, or the look of a picture."""

    number: float | None = None
    look: bytes | None = None


class Cache:
    """Values by what they belong to; nothing is written before `save`."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / NAME
        self._known = _read(self._path)
        self._fresh: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """Give what was measured; None if nothing was."""
        return self._fresh.get(key) or self._known.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Take what was measured."""
        self._fresh[key] = value

    def save(self) -> None:
        """Write what is new beside what is there by now; a directory that can't be written to is only warned of."""
        if not self._fresh:
            return
        table = _laid_out((self._known | _read(self._path, is_quiet=True)) | self._fresh)
        try:
            files.replace(
                self._path, lambda temporary: pq.write_table(table, temporary, write_page_checksum=True)
            )
        except OSError as error:
            warnings.warn(
                f"{self._path} can't be written ({error.strerror or error}): what was measured is not kept, and is "
                "measured again next time",
                stacklevel=2,
            )


def _read(path: Path, *, is_quiet: bool = False) -> dict[Key, Value]:
    try:
        # Opened once, so that it is never mixed with the one that replaces it.
        with pa.OSFile(str(path)) as file:
            table = pq.read_table(file, page_checksum_verification=True).select(_SCHEMA.names).cast(_SCHEMA)
    except FileNotFoundError:
        return {}
    except (*directory.UNREADABLE, KeyError) as error:
        if not is_quiet:
            warnings.warn(f"{path} can't be read ({error}): its pictures are measured again", stacklevel=2)
        return {}
    keys = zip(*(table[name].to_pylist() for name in _KEYS), strict=True)
    values = zip(table[columns.VALUE].to_pylist(), table[columns.LOOK].to_pylist(), strict=True)
    return {Key(*key): Value(*value) for key, value in zip(keys, values, strict=True)}


def _laid_out(values: dict[Key, Value]) -> pa.Table:
    rows = [(*key, *value) for key, value in values.items()]
    cells = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(cells, _SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


_URL: Final = "url"


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference picture as it was sent: its file and the digest of that; `path` is None for one at a URL."""

    path: Path | None
    sha256: str


@dataclass(frozen=True, slots=True)
class Subject:
    """A saved picture, and the reference of its job, if that is known."""

    path: Path
    sha256: str
    reference: Reference | None


@dataclass(frozen=True, slots=True)
class Subjects:
    """Of each row of some results its subject, or None, and why there is none."""

    of_rows: list[Subject | None]
    problems: list[str | None]


def find_subjects(results: pd.DataFrame, run_dir: Path) -> Subjects:
    """Find the pictures of results, and the references of their jobs."""
    references = _references(run_dir)
    needed = (columns.STATUS, columns.JOB_ID, columns.OUTPUT_PATH, columns.OUTPUT_SHA256, columns.ERROR_CLASS)
    rows = list(zip(*(results[name].astype(object) for name in needed), strict=True))
    found = [_subject(row, run_dir, references) for row in rows]
    problems = [None if one else _why(row) for one, row in zip(found, rows, strict=True)]
    return Subjects(found, problems)


def _subject(row: tuple[Any, ...], run_dir: Path, references: dict[str, Reference]) -> Subject | None:
    status, job_id, path, sha256, _ = row
    if status != columns.COMPLETED or pd.isna(path) or pd.isna(sha256):
        return None
    return Subject(run_dir / path, sha256, references.get(job_id))


def _why(row: tuple[Any, ...]) -> str:
    status, _, _, _, error_class = row
    if status == columns.COMPLETED:
        return "no picture was saved"
    return f"{status}: {error_class}" if isinstance(error_class, str) else str(status)


def _references(run_dir: Path) -> dict[str, Reference]:
    """Give the references of the directory's table by job; none where the table can't be read."""
    try:
        jobs = directory.read_jobs(RunDirectory(run_dir).jobs)
    except DirectoryError:
        return {}
    rows = jobs.decided.drop_duplicates(columns.JOB_ID)
    names = (columns.JOB_ID, directory.KIND, columns.IMAGE_SENT, columns.IMAGE_SENT_DIGEST)
    return dict(_named(zip(*(rows[name].astype(object) for name in names), strict=True)))


def _named(rows: Iterable[tuple[Any, ...]]) -> Iterable[tuple[str, Reference]]:
    for job_id, kind, location, digest in rows:
        if isinstance(job_id, str) and isinstance(location, str):
            yield job_id, Reference(None if kind == _URL else Path(location), digest)


# Changed whenever the same picture would look otherwise.
_METRIC: Final = "look"
_VERSION: Final = "2"
_LOOK_PX: Final = 256  # a JPEG is decoded at the least fraction that is no smaller
_N_PLACES: Final = SIDE_PX**2
_BLOCK_BYTES: Final = 32 * 1024 * 1024
_BLOCK_ROWS: Final = 16
_TILE_BYTES: Final = 256 * 1024
_N_PAIR_BYTES: Final = 64  # of positions, distances and what is between
_N_HASH_BYTES: Final = N_BITS // 8
_PARTS: Final = np.cumsum([3 * _N_PLACES, 3 * N_LEVELS])


@dataclass(frozen=True, slots=True)
class Look:
    """The look of one picture: 64 bits, L*, a* and b* of 16 x 16 places, and what the built-in scores compare."""

    bits: int
    lab: NDArray[np.float32]
    traits: Traits

    @classmethod
    def of(cls, picture: Image.Image) -> Look:
        """Look at a picture of mode RGB."""
        lab = thumbnail(picture).reshape(_N_PLACES, 3)
        return cls(perceptual_hash(picture), np.ascontiguousarray(lab.T), traits(picture))

    def to_bytes(self) -> bytes:
        """Write it; numbers lose what is below a hundredth or so of what can be seen."""
        numbers = np.concatenate([self.lab.ravel(), self.traits.levels.ravel(), self.traits.edges])
        return self.bits.to_bytes(_N_HASH_BYTES, "big") + numbers.astype("<f2").tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> Look:
        """Read what `to_bytes` wrote."""
        numbers = np.frombuffer(content[_N_HASH_BYTES:], dtype="<f2").astype(np.float32)
        lab, levels, edges = np.split(numbers, _PARTS)
        made = Traits(levels.reshape(3, N_LEVELS), edges)
        return cls(int.from_bytes(content[:_N_HASH_BYTES], "big"), lab.reshape(3, _N_PLACES), made)


class Distances(NamedTuple):
    """Distances of pictures from `start` on to every one behind them: bits and Delta E, by pair of positions."""

    one: NDArray[np.intp]
    other: NDArray[np.intp]
    bits: NDArray[np.uint8]
    delta_e: NDArray[np.float32]


def look_at(
    subjects: Sequence[Subject | None],
    run_dir: Path,
    *,
    what: str = "looking",
    n_workers: int | None = None,
    progress: bool = True,
) -> tuple[dict[str, Look], dict[str, str]]:
    """Look at pictures, each once."""
    cache = Cache(run_dir)
    by_digest: dict[str, Subject] = {}
    for subject in subjects:
        if subject is not None and not (
            subject.sha256 in by_digest and by_digest[subject.sha256].path.is_file()
        ):
            by_digest[subject.sha256] = subject  # of files with the same bytes one that is there
    looks, problems, wanted = {}, {}, []
    for subject in by_digest.values():
        known = cache.get(_key(subject))
        # A picture that is gone or was altered is not there to be compared, whatever is remembered of it.
        if known is not None and known.look is not None and subject.path.is_file():
            looks[subject.sha256] = Look.from_bytes(known.look)
        else:
            wanted.append(subject)
    try:
        for subject, seen in each(wanted, _seen, what=what, n_workers=n_workers, progress=progress):
            if isinstance(seen, Look):
                cache.put(_key(subject), Value(look=seen.to_bytes()))
                looks[subject.sha256] = Look.from_bytes(seen.to_bytes())  # as it will be read next time
            else:
                problems[subject.sha256] = seen
    finally:
        cache.save()
    return looks, problems


def distances(looks: Sequence[Look]) -> Iterator[Distances]:
    """Compare every two of many pictures, in blocks of bounded size."""
    bits = np.array([look.bits for look in looks], dtype=np.uint64)
    lab = np.stack([look.lab for look in looks]) if looks else np.empty((0, 3, _N_PLACES), np.float32)
    n_rows = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (_N_PAIR_BYTES * max(1, len(looks)))))
    for start in range(0, len(looks) - 1, n_rows):
        stop = min(start + n_rows, len(looks) - 1)
        one, other = np.triu_indices(stop - start, 1, len(looks) - start)
        near = np.bitwise_count(bits[start:stop, None] ^ bits[None, start:])
        far = _delta_e(lab[start:stop], lab[start:])
        yield Distances(one + start, other + start, near[one, other], far[one, other])


def _key(subject: Subject) -> Key:
    return Key(subject.sha256, "", _METRIC, _VERSION)


def _seen(subject: Subject) -> Look | str:
    try:
        return Look.of(read(subject.path, subject.sha256, side_px=_LOOK_PX))
    except Unseen as unseen:
        return str(unseen)


def _delta_e(ones: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean Delta E of each of some to each of many; tile by tile, so that the processor's cache holds one."""
    mean = np.empty((len(ones), len(others)), dtype=np.float32)
    n_columns = max(1, _TILE_BYTES // (4 * _N_PLACES * max(1, len(ones))))
    for start in range(0, len(others), n_columns):
        tile = others[start : start + n_columns]
        squares = np.square(ones[:, None, 0] - tile[None, :, 0])
        for channel in (1, 2):
            step = ones[:, None, channel] - tile[None, :, channel]
            squares += np.square(step, out=step)
        np.sqrt(squares, out=squares).mean(axis=-1, out=mean[:, start : start + n_columns])
    return mean
