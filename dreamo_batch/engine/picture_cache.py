"""The picture cache: a thumbnail and a fingerprint of each picture, made from one decode, in the run directory.

They are kept for speed only: the ledger never reads them, and what is missing, damaged or of another version is made
again. A new summary is appended to `picture-cache.tail`, as a line with a checksum, in one write; one that a crash cut
short is skipped. Once the tail is large beside `picture-cache.parquet`, both become a new `picture-cache.parquet`.
"""

from __future__ import annotations

import base64
import functools
import io
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from dreamo_batch import columns, files
from dreamo_batch.engine.attempts import rows_as_table, schema_of
from dreamo_batch.errors import logger_named, warn
from dreamo_batch.images import encoded, opened, reduced
from dreamo_batch.likeness import Fingerprint, UnreadablePicture, read_content
from dreamo_batch.parallel import each
from dreamo_batch.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path


logger = logger_named(__name__)

NAME: Final = "picture-cache.parquet"
TAIL: Final = "picture-cache.tail"
THUMBNAIL_PX: Final = 320
THUMBNAIL_QUALITY: Final = 82
# Change the version whenever the same picture would get a different summary.
_VERSION: Final = b"2"
_VERSION_KEY: Final = b"dreamo_cache"
_SCHEMA: Final = schema_of(columns.PICTURE_CACHE).with_metadata({_VERSION_KEY: _VERSION})
_STATE: Final = (columns.BYTES, columns.MODIFIED_NS)
_SHOWN: Final = (*_STATE, columns.THUMBNAIL_WIDTH, columns.THUMBNAIL_HEIGHT, columns.THUMBNAIL)
_COMPARED: Final = (*_STATE, columns.FINGERPRINT)
_GROUP_ROWS: Final = 256
# The tail is merged once it reaches this fraction of the table; its records take a third more space there.
_TAIL_SHARE: Final = 3


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG, and its size in pixels."""

    content: bytes
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        """The picture as text to embed in a page."""
        return "data:image/jpeg;base64," + base64.b64encode(self.content).decode("ascii")


class PictureSummary(NamedTuple):
    """What is stored about a picture: size, thumbnail, fingerprint, and when its file was written, if known."""

    n_bytes: int
    thumbnail: Thumbnail
    fingerprint: bytes
    modified_ns: int = 0


class PictureFile(NamedTuple):
    """A picture, and the run directory that stores its summary if the digest is known."""

    run_dir: Path
    path: Path
    sha256: Any


def summarise_picture(content: bytes, small: Image.Image | None = None) -> PictureSummary:
    """Make the summary of a picture from one decode at reduced scale; `small` is that decode if already done."""
    if small is None:
        with opened(io.BytesIO(content)) as picture:
            small = reduced(picture, THUMBNAIL_PX)
    fingerprint = Fingerprint.of(small).to_bytes()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.HAMMING)  # takes half the time of LANCZOS
    jpeg = encoded(small, quality=THUMBNAIL_QUALITY)
    return PictureSummary(len(content), Thumbnail(jpeg, *small.size), fingerprint)


def keep(run_dir: Path, sha256: str, summary: PictureSummary) -> None:
    """Append a summary under its picture's digest; raise OSError if it can't be written."""
    small, packed = summary.thumbnail, base64.b64encode
    sizes = sha256.encode(), summary.n_bytes, summary.modified_ns, small.width, small.height
    line = b"%b %b %d %d %d %d %b %b" % (_VERSION, *sizes, packed(summary.fingerprint), packed(small.content))
    fd = os.open(run_dir / TAIL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        # The line break comes first, to separate it from a line that a crash cut short.
        os.write(fd, b"\n%08x %b" % (zlib.crc32(line), line))
    finally:
        os.close(fd)


def merge(run_dir: Path) -> None:
    """Merge the tail into the table once large beside it, losing what others append meanwhile; OSError if it fails."""
    n_tail, n_table = (_state_of(run_dir / name)[0] for name in (TAIL, NAME))
    if n_tail and n_tail * _TAIL_SHARE >= n_table:
        files.replace(run_dir / NAME, lambda temporary: _write_table(temporary, run_dir), is_durable=False)
        (run_dir / TAIL).unlink(missing_ok=True)


def try_merge(run_dir: Path) -> None:
    """Merge like `merge`, but leave a tail that can't be merged."""
    for why in _tried(merge, run_dir).values():
        logger.info("%s can't be merged: %s", run_dir / TAIL, why)


def read_thumbnails(pictures: Sequence[PictureFile]) -> list[Thumbnail | None]:
    """Return the stored thumbnail of each picture; None if there is none, or the file is gone or was changed."""
    known = {run_dir: _read(run_dir, group.keys(), _SHOWN) for run_dir, group in _by_dir(pictures).items()}
    kept = [known.get(picture.run_dir, {}).get(picture.sha256, (0, 0, 0, 0, b"")) for picture in pictures]
    return [
        Thumbnail(jpeg, *size) if _is_unchanged(picture, n_bytes, modified_ns) else None
        for picture, (n_bytes, modified_ns, *size, jpeg) in zip(pictures, kept, strict=True)
    ]


def _by_dir(pictures: Iterable[PictureFile]) -> dict[Path, dict[str, PictureFile]]:
    found: dict[Path, dict[str, PictureFile]] = {}
    for picture in pictures:
        if isinstance(picture.sha256, str):
            found.setdefault(picture.run_dir, {}).setdefault(picture.sha256, picture)
    return found


def _is_unchanged(picture: PictureFile, n_bytes: int, modified_ns: int) -> bool:
    """Whether a file is unchanged since its summary was made; if its time differs, its content is compared."""
    found = _state_of(picture.path)
    if not n_bytes or found[0] != n_bytes:
        return False
    return found[1] == modified_ns or _has_digest(picture.path, picture.sha256, *found)


@functools.lru_cache(maxsize=2**16)
def _has_digest(path: Path, sha256: str, *_state: int) -> bool:
    try:
        return bool(read_content(path, sha256))
    except UnreadablePicture:
        return False


def read_fingerprints(pictures: Iterable[PictureFile]) -> dict[str, bytes]:
    """Return the stored fingerprints, by digest, of pictures that exist and are unchanged."""
    return {
        sha256: fingerprint
        for run_dir, group in _by_dir(pictures).items()
        for sha256, (*state, fingerprint) in _read(run_dir, group.keys(), _COMPARED).items()
        if _is_unchanged(group[sha256], *state)
    }


def complete(pictures: Iterable[PictureFile]) -> None:
    """Make the missing summaries of existing pictures; warn about pictures changed since they were saved."""
    wanted, changed = list[PictureFile](), list[PictureFile]()
    for run_dir, group in _by_dir(pictures).items():
        kept = _read(run_dir, group.keys(), _STATE)
        for sha256, picture in group.items():
            if _state_of(picture.path)[0] and not _is_unchanged(picture, *kept.get(sha256, (0, 0))):
                (changed if sha256 in kept else wanted).append(picture)
    for _ in summarise_pictures(wanted, what="making thumbnails"):
        pass
    if changed:
        warn(f"{counted(len(changed), 'picture')} changed since saved ({changed[0].path}); shown as found")


def summarise_pictures(
    pictures: Sequence[PictureFile], *, what: str
) -> Iterator[tuple[PictureFile, PictureSummary | str]]:
    """Make and store the summaries of pictures, several at once; yield a reason instead if that fails."""
    unkept: dict[Path, str] = {}
    try:
        for picture, summary in each(pictures, _summarise, what=what, is_portable=True):
            if isinstance(summary, PictureSummary) and picture.run_dir not in unkept:
                unkept |= _tried(keep, picture.run_dir, picture.sha256, summary)
            yield picture, summary
    finally:
        for run_dir in dict.fromkeys(picture.run_dir for picture in pictures):
            if run_dir not in unkept:
                unkept |= _tried(merge, run_dir)
        for run_dir, why in unkept.items():
            warn(
                f"{run_dir / NAME} can't be written ({why}); the summaries of its pictures aren't kept and will be "
                "made again next time"
            )


def _summarise(picture: PictureFile) -> PictureSummary | str:
    modified_ns = _state_of(picture.path)[1]
    try:
        return summarise_picture(read_content(picture.path, picture.sha256))._replace(modified_ns=modified_ns)
    except UnreadablePicture as unreadable:
        return str(unreadable)
    except Exception as error:  # noqa: BLE001 - decoders raise anything at all on damaged files
        return f"{picture.path.name} can't be decoded ({error})"


def _tried(write: Callable[..., None], run_dir: Path, *args: Any) -> dict[Path, str]:
    try:
        write(run_dir, *args)
    except OSError as error:
        return {run_dir: error.strerror or str(error)}
    return {}


def _state_of(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except (OSError, ValueError):  # an impossible name
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _read(run_dir: Path, digests: Collection[str], names: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    """Read some columns of the summaries of some digests."""
    wanted = set(digests)
    # The tail first, because records merged meanwhile are then found in the table.
    at = [_SCHEMA.names.index(name) for name in names]
    found = {row[0]: tuple(row[place] for place in at) for row in _tail_rows(run_dir / TAIL, wanted)}
    wanted -= found.keys()
    if wanted:
        for part in _table_parts(run_dir / NAME, wanted, [columns.SHA256, *names], warn=warn):
            for sha256, *cells in zip(*(column.to_pylist() for column in part.columns), strict=True):
                found[sha256] = tuple(cells)
    return found


def _table_parts(
    path: Path, wanted: set[str] | None, names: list[str], *, warn: Callable[[str], None]
) -> Iterator[pa.Table]:
    """Yield the wanted rows of a table (or all) by row group; nothing if it has another version."""
    try:
        # Opened once, so that it is never mixed with the file that replaces it.
        with pa.OSFile(str(path)) as source, pq.ParquetFile(source, page_checksum_verification=True) as file:
            if (file.schema_arrow.metadata or {}).get(_VERSION_KEY) != _VERSION:
                return
            for number in range(file.num_row_groups):
                known = file.read_row_group(number, columns=[columns.SHA256])[columns.SHA256].to_pylist()
                is_wanted = [wanted is None or sha256 in wanted for sha256 in known]
                if any(is_wanted):
                    yield file.read_row_group(number, columns=names).select(names).filter(pa.array(is_wanted))
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        warn(f"{path} can't be read ({error}); the summaries of its pictures are made again")


def _tail_rows(path: Path, wanted: set[str] | None) -> Iterator[tuple[Any, ...]]:
    """Yield the wanted records of a tail (or all); skip damaged and truncated lines."""
    try:
        with path.open("rb") as file:
            for written in file:
                check, _, line = written.rstrip(b"\n").partition(b" ")
                if check != b"%08x" % zlib.crc32(line) or not line.startswith(_VERSION + b" "):
                    continue
                _, sha256, *sizes, fingerprint, content = line.split(b" ")
                if wanted is None or sha256.decode() in wanted:
                    unpacked = map(base64.b64decode, (fingerprint, content))
                    yield sha256.decode(), *map(int, sizes), *unpacked
    except OSError as error:
        logger.debug("%s can't be read: %s", path, error)


def _write_table(path: Path, run_dir: Path) -> None:
    """Write a table with the records of both files; those of the tail are newer."""
    options: dict[str, Any] = {
        "compression": "none",
        "use_dictionary": False,
        "write_statistics": False,
        "write_page_checksum": True,
    }
    fresh = {row[0]: number for number, row in enumerate(_tail_rows(run_dir / TAIL, None))}
    with pq.ParquetWriter(path, _SCHEMA, **options) as writer:
        for part in _table_parts(run_dir / NAME, None, _SCHEMA.names, warn=logger.debug):
            is_stale = pa.array([sha256 in fresh for sha256 in part[columns.SHA256].to_pylist()], pa.bool_())
            writer.write_table(part.filter(pc.invert(is_stale)).cast(_SCHEMA))
        rows: list[tuple[Any, ...]] = []
        for number, row in enumerate(_tail_rows(run_dir / TAIL, None)):
            if fresh.get(row[0], number) == number:
                rows.append(row)
            if len(rows) == _GROUP_ROWS:
                writer.write_table(rows_as_table(rows, _SCHEMA))
                rows.clear()
        writer.write_table(rows_as_table(rows, _SCHEMA))
