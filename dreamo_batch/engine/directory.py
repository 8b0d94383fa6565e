"""Answers that arrived when the run directory no longer belonged to the run: kept in a file beside its journals.

A run whose lock or directory was deleted, moved or replaced must not write to the journals any more, because another
run may have read them already. It writes the attempts that changed to `strays-*.jsonl`, one a line with a checksum, and
the next opening folds them into the ledger. Folding is safe to repeat: a task that the ledger knows is left as it is.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import logging
import math
import numbers
import os
import re
import secrets
import socket
import warnings
import zlib
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, starmap
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dreamo_batch import columns
from dreamo_batch import files as durable
from dreamo_batch.engine.attempts import SUBMITTED, Attempt, Event, EventKind, Stage, State, next_number
from dreamo_batch.errors import DirectoryError, DirectoryLocked, LedgerDamaged, path_given
from dreamo_batch.files import TEMPORARY, fsync_file, fsync_folder
from dreamo_batch.images import verify
from dreamo_batch.jobs.cells import is_missing, read_integer, text_of
from dreamo_batch.jobs.prepare import Job, Prepared
from dreamo_batch.jobs.references import ImageSource, kept_copy
from dreamo_batch.jobs.sources import URL, canonical
from dreamo_batch.jobs.tables import storable
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


logger = logging.getLogger(__name__)

_PREFIX: Final = "strays-"
_SUFFIX: Final = ".jsonl"
_NOT_TAKEN: Final = frozenset({Stage.UNSENT, Stage.REFUSED})
_IN_DOUBT: Final = frozenset({Stage.SENDING, Stage.AMBIGUOUS})


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of strays: the service and the entropy of the run that wrote it, and its attempts as they stood last.

    `n_bytes` is how much of it was read.
    """

    path: Path
    n_bytes: int
    service: str
    entropy: str
    attempts: tuple[Attempt, ...]


class Strays:
    """The file of one run for what its journal can't take; made with the first attempt."""

    def __init__(self, path: Path, folder_fd: int | None, service: str, entropy: str) -> None:
        self._path = path
        self._folder_fd = folder_fd
        self._run = {"service": service, "entropy": entropy}
        self._fd: int | None = None

    def write(self, attempts: Iterable[Attempt]) -> None:
        """Append attempts as they stand now, durably."""
        lines = b"".join(_line(self._run | {"attempt": asdict(attempt)}) for attempt in attempts)
        if not lines:
            return
        if self._fd is None:
            self._fd = self._open()
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # nobody deletes it before this run has ended
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        """Make the file in the directory itself, else in the one that took its place, else beside that."""
        name = f"{_PREFIX}{secrets.token_hex(4)}{_SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        if self._folder_fd is not None:
            try:
                fd = os.open(name, flags, 0o644, dir_fd=self._folder_fd)
            except FileNotFoundError:  # the directory was deleted
                pass
            else:
                os.fsync(self._folder_fd)
                return fd
        try:
            return os.open(self._path / name, flags, 0o644)
        except (FileNotFoundError, NotADirectoryError):
            return os.open(self._path.with_name(f"{self._path.name}-{name}"), flags, 0o644)


def files(folder: Path) -> list[Path]:
    """List the files of strays that belong to a run directory, in it and beside it."""
    beside = folder.parent.glob(f"{_escaped(folder.name)}-{_PREFIX}*{_SUFFIX}")
    return sorted((*folder.glob(f"{_PREFIX}*{_SUFFIX}"), *beside))


def read(folder: Path) -> tuple[Kept, ...]:
    """Read the strays of a run directory."""
    found = []
    for path in files(folder):
        try:
            content = path.read_bytes()
        except (
            FileNotFoundError
        ):  # folded in since it was listed: the journal has it, which is read after this
            continue
        records = list(_records(content.split(b"\n")[:-1], path))
        if records:
            attempts = (_attempt_of_line(record["attempt"], path) for record in records)
            latest = {(attempt.job_id, attempt.attempt): attempt for attempt in attempts}
            run = records[-1]
            kept = Kept(path, len(content), run["service"], run["entropy"], tuple(latest.values()))
            found.append(kept)
    return tuple(found)


def remove(kept: Kept) -> None:
    """Delete a file that was folded in, unless the run that writes it goes on, or wrote more meanwhile."""
    try:
        fd = os.open(kept.path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_size == kept.n_bytes:
            kept.path.unlink(missing_ok=True)
    except BlockingIOError:
        logger.info("%s is still written to; it is read again next time", kept.path)
    finally:
        os.close(fd)


def fold(state: State, strays: Iterable[Attempt]) -> list[Event]:
    """Fold strays into a state, and give the events that did it; what the state knows already adds none."""
    added: list[Event] = []
    for stray in strays:
        for event in _events(state, stray):
            state.apply(event)
            added.append(event)
    return added


def _events(state: State, stray: Attempt) -> Iterator[Event]:
    attempts = state.of(stray.job_id)
    known = state.find(stray.job_id, stray.attempt)
    is_same = known is not None and known.sent_at == stray.sent_at
    if stray.task_id is None:
        if is_same and known is not None and known.stage is Stage.AMBIGUOUS and stray.stage in _NOT_TAKEN:
            yield _event(EventKind.NOT_SENT, stray, stray.attempt)
        elif known is None and stray.stage in _IN_DOUBT:  # of a directory that was deleted: it may be bought
            number = next_number(attempts)
            yield _sending(stray, number)
            yield _event(EventKind.AMBIGUOUS, stray, number, **_doubt(stray))
    elif any(attempt.task_id == stray.task_id for attempt in attempts):
        return
    elif is_same and known is not None and known.stage in _IN_DOUBT:
        yield _event(EventKind.ACCEPTED, stray, stray.attempt, task_id=stray.task_id)
    else:
        number = next_number(attempts)
        yield _sending(stray, number)
        yield _event(EventKind.ACCEPTED, stray, number, task_id=stray.task_id)


def _sending(stray: Attempt, number: int) -> Event:
    known = {"seed_sent": stray.seed_sent, "reserved": stray.reserved}
    fields = {name: value for name, value in known.items() if value is not None}
    return Event(EventKind.SENDING, stray.job_id, number, stray.sent_at or 0.0, fields)


def _event(kind: EventKind, stray: Attempt, number: int, **fields: Any) -> Event:
    return Event(kind, stray.job_id, number, stray.answered_at or stray.sent_at or 0.0, fields)


def _doubt(stray: Attempt) -> dict[str, Any]:
    message = stray.error_message or "the answer to this attempt is not known; it may have been taken"
    return {
        "error_class": stray.error_class or "interrupted",
        "error_message": message,
        "may_have_been_billed": True,
    }


def worth_keeping(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Give the attempts that exist, or may, at the service."""
    return [attempt for attempt in attempts if attempt.stage in SUBMITTED]


def _line(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _records(lines: Iterable[bytes], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        checksum, _, body = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(body):
            raise LedgerDamaged(
                f"{path}, line {number}: the checksum does not match, so the line was altered. It may name a task "
                "that was paid for, so nothing is bought. Restore it from a copy, or delete it to accept the loss."
            )
        yield json.loads(body)


def _attempt_of_line(fields: dict[str, Any], path: Path) -> Attempt:
    try:
        return Attempt(**fields | {"stage": Stage(fields["stage"])})
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerDamaged(f"{path}: a line is not an attempt of this version ({error}).") from error


def _escaped(name: str) -> str:
    """Write a name so that `glob` takes it literally."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


PICTURE_BYTES_MAX: Final = 32 * 1024 * 1024  # a raw 2048 x 2048 with 8 bits a channel has half of it
PICTURE_PIXELS_MAX: Final = 64 * 1024 * 1024
_SUFFIXES: Final = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_LOOKS: Final = 60


class NotAPicture(ValueError):  # noqa: N818 - it names what arrived
    """What came from the output URL is not a picture of a known format."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A picture on disk; `path` is relative to the run directory, sizes in bytes and pixels.

    `warning` says what is odd about it, or what else the task made.
    """

    path: str
    sha256: str
    n_bytes: int
    width_px: int
    height_px: int
    warning: str | None = None


def save(content: bytes, name: str, run_dir: Path, folder: str = "images") -> Saved:
    """Check a picture and put it in the run directory."""
    suffix, width_px, height_px = look(content)
    path = run_dir / folder / f"{name}.{suffix}"
    path.parent.mkdir(exist_ok=True)
    durable.replace(path, lambda temporary: temporary.write_bytes(content))
    digest = hashlib.sha256(content).hexdigest()
    return Saved(path.relative_to(run_dir).as_posix(), digest, len(content), width_px, height_px)


def look(content: bytes) -> tuple[str, int, int]:
    """Decode a picture once and give its suffix, width and height in px."""
    try:
        kind, width_px, height_px = verify(content, contract.OUTPUT_FORMATS.value, PICTURE_PIXELS_MAX)
        return _SUFFIXES[kind], width_px, height_px
    except Exception:  # noqa: BLE001 - decoders raise anything at all over bytes that are no picture
        expected = "JPEG, PNG or WEBP"
        start = content[:_LOOKS]
        raise NotAPicture(f"expected {expected}, got {len(content)} bytes starting {start!r}") from None


def is_in_place(run_dir: Path, path: str | None, n_bytes: int | None) -> bool:
    """Whether a saved picture is still there with its size; its bytes are not read."""
    if path is None:
        return False
    try:
        return (run_dir / path).stat().st_size == n_bytes
    except OSError:
        return False


def further_paths(run_dir: Path, path: str, urls: object) -> list[str | None]:
    """Return the paths of what a task made beside the picture at a path; None for each that is missing."""
    n = len(json.loads(urls)) if isinstance(urls, str) else 1
    stem, suffixes = path.rpartition(".")[0], dict.fromkeys(_SUFFIXES.values())
    found: list[str | None] = []
    for number in range(2, n + 1):
        paths = (f"{stem}-{number}.{suffix}" for suffix in suffixes)
        found.append(next((further for further in paths if (run_dir / further).is_file()), None))
    return found


def is_unaltered(run_dir: Path, path: str, sha256: str) -> bool:
    """Whether a saved picture still has the bytes it was saved with."""
    try:
        with (run_dir / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


SCHEMA_VERSION: Final = 2
MANIFEST: Final = "run.json"
JOBS: Final = "jobs.parquet"
RESULTS: Final = "results.parquet"
IMAGES: Final = "images"
INPUTS: Final = "inputs"
GATEWAY: Final = "gateway"
LOCK: Final = "lock"
_PATIENCE_S: Final = 0.5  # longer than the moment in which a reader asks whether anyone is writing


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `run.json` holds: whose directory it is and how the last call went; never the key."""

    service: str
    entropy: str
    schema: int = SCHEMA_VERSION
    package_version: str = ""
    generation: int = 0
    table_id: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    reconciliation: dict[str, Any] = field(default_factory=dict)


_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "service": str,
    "entropy": str,
    "schema": int,
    "package_version": str,
    "generation": int,
    "table_id": (str, type(None)),
    "settings": dict,
    "reconciliation": dict,
}


class RunDirectory:
    """Paths of a run directory, its manifest and its lock."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.given = path_given("run_dir", path)
        self.path = Path(path).expanduser().absolute()
        self._lock: filelock.BaseFileLock | None = None
        self._lock_id: tuple[int, int] | None = None
        self._is_lost = False
        self.folder_fd: int | None = None
        self._manifest: Manifest | None = None

    @property
    def jobs(self) -> Path:
        """The table of the last call."""
        return self.path / JOBS

    @property
    def results(self) -> Path:
        """The results at the end of the last call."""
        return self.path / RESULTS

    @property
    def images(self) -> Path:
        """Saved pictures."""
        return self.path / IMAGES

    @property
    def inputs(self) -> Path:
        """Reference pictures that came from memory or were corrected."""
        return self.path / INPUTS

    @property
    def gateway(self) -> Path:
        """State of the embedded local gateway."""
        return self.path / GATEWAY

    def exists(self) -> bool:
        """Whether there is anything of a run here."""
        return any((self.path / name).exists() for name in (MANIFEST, JOBS, RESULTS)) or self.has_purchases()

    def has_purchases(self) -> bool:
        """Whether pictures or results show that something was bought here once."""
        return self.results.exists() or (self.images.is_dir() and any(self.images.iterdir()))

    def read_manifest(self) -> Manifest | None:
        """Read `run.json`; None where it is missing or can't be read."""
        try:
            fields = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            refuse_newer(int(fields["schema"]), self.path)
            known = {name: value for name, value in fields.items() if name in _TYPES}
            if not all(isinstance(value, _TYPES[name]) for name, value in known.items()):
                return None
            return Manifest(**known)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace `run.json` atomically."""
        text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
        durable.replace(self.path / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))
        self._manifest = manifest

    def update_manifest(self, **changes: Any) -> Manifest:
        """Change some fields of `run.json`."""
        manifest = self.read_manifest() or self._manifest
        if manifest is None:
            raise LedgerDamaged(f"{self.path / MANIFEST} is gone; run again on this directory to rebuild it.")
        manifest = replace(manifest, **changes)
        self.write_manifest(manifest)
        return manifest

    def make(self) -> None:
        """Make the folder, if it is not there."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise DirectoryError(f"{self.path} is not a folder; give another run directory.") from None

    def lock(self) -> None:
        """Become the one writer."""
        self.make()
        owner = self._owner()
        lock = filelock.FileLock(self.path / LOCK, thread_local=False)
        try:
            lock.acquire(timeout=_PATIENCE_S, poll_interval=0.05)
        except filelock.Timeout:
            raise DirectoryLocked(
                f"{self.path} is being written to by {owner}. Wait until it ends, or stop it; reading "
                "(load, status, results) works meanwhile."
            ) from None
        self._lock = lock
        me = f"process {os.getpid()} on {socket.gethostname()}"
        try:
            (self.path / LOCK).write_text(me, encoding="utf-8")
            self._lock_id, self._is_lost = self._find_lock(), False
            self.folder_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except BaseException:
            self.unlock()
            raise

    def unlock(self) -> None:
        """Stop being the writer."""
        if self._lock is not None:
            self._lock.release(force=True)
            self._lock, self._lock_id = None, None
        if self.folder_fd is not None:
            os.close(self.folder_fd)
            self.folder_fd = None

    def leave_lock(self) -> None:
        """Forget a lock that this process only inherited when it was forked: the parent goes on holding it."""
        lock, self._lock, self._lock_id = self._lock, None, None
        if lock is not None and lock.is_locked:  # newer versions of filelock have seen to that by themselves
            context = lock._context  # noqa: SLF001 - releasing it would free the parent's lock
            fd, context.lock_file_fd = context.lock_file_fd, None
            if fd is not None:
                os.close(fd)

    def is_in_place(self) -> bool:
        """Whether the lock was at this path whenever this was asked: nobody moved or deleted it, or the whole folder.

        Once it was not, another writer may have come in, so it never is again.
        """
        try:
            self._is_lost |= self._find_lock() != self._lock_id
        except OSError:
            self._is_lost = True
        return not self._is_lost

    def refuse_loss(self) -> None:
        """Refuse to go on in a folder that another writer could not find, or could take for its own."""
        if self.is_lost():
            raise FileNotFoundError(
                errno.ENOENT, "it, or its lock, was moved or deleted under the running run", str(self.path)
            )

    def is_lost(self) -> bool:
        """Whether this writer has lost its lock, or its directory, to whoever moved, deleted or replaced it."""
        return self._lock is not None and not self.is_in_place()

    def place(self) -> str:
        """Tell where the directory is on the disk, in a way that a move keeps and a copy does not."""
        folder = self.path.stat()
        try:
            lock = (self.path / LOCK).stat().st_ino
        except OSError:
            lock = 0
        return f"{folder.st_dev}-{folder.st_ino}-{lock}"

    def is_locked(self) -> bool:
        """Whether any process is writing here now."""
        if self._lock is not None:
            return True
        if not (self.path / LOCK).exists():
            return False
        probe = filelock.FileLock(self.path / LOCK, thread_local=False)
        try:
            probe.acquire(timeout=0)
        except filelock.Timeout:
            return True
        except OSError:  # a folder one may only read, where the lock can't be tried
            return False
        probe.release()
        return False

    def _find_lock(self) -> tuple[int, int]:
        found = (self.path / LOCK).stat()
        return found.st_dev, found.st_ino

    def _owner(self) -> str:
        try:
            return (self.path / LOCK).read_text(
                encoding="utf-8", errors="replace"
            ).strip() or "another process"
        except OSError:
            return "another process"


def is_same_place(before: str, now: str) -> bool:
    """Whether a directory is the one it was, not a copy; a device may get another number when mounted again."""
    if not before:
        return True
    (device, folder, lock), (device_now, folder_now, lock_now) = before.split("-"), now.split("-")
    return folder == folder_now and (device == device_now or lock == lock_now)


def new_entropy() -> str:
    """Draw the digits that a run's seeds come from."""
    return secrets.token_hex(16)


def refuse_newer(schema: int, path: Path) -> None:
    """Refuse a format this version does not know."""
    if schema > SCHEMA_VERSION:
        raise DirectoryError(
            f"{path} was written by a newer version of dreamo_batch (format {schema}, this one knows "
            f"{SCHEMA_VERSION}). Upgrade the package to go on."
        )


NAME: Final = "checkpoint.parquet"
PREVIOUS: Final = "checkpoint-previous.parquet"
# What reading a file that is missing, cut short, altered or of another kind raises.
UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)
_META: Final = b"dreamo_batch"
_N_ROWS: Final = "n_rows"
_PENDING: Final = "pending"
_MICROSECONDS: Final = 1_000_000

_ARROW: Final = {
    columns.STR: pa.string(),
    columns.INT: pa.int64(),
    columns.FLOAT: pa.float64(),
    columns.BOOL: pa.bool_(),
    columns.TIME: pa.timestamp("us", tz="UTC"),
}
SCHEMA: Final = pa.schema([(column.name, _ARROW[column.dtype]) for column in columns.LEDGER.values()])
# Columns that files of format 1 lack.
_ADDED: Final = frozenset(SCHEMA.names[SCHEMA.names.index(columns.OUTPUT_URLS) :])
_TIMES: Final = frozenset(c.name for c in columns.LEDGER.values() if c.dtype == columns.TIME)
_PANDAS: Final = {
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(na_value=float("nan")),
}


@dataclass(frozen=True, slots=True)
class Meta:
    """What a checkpoint says of itself.

    `covers` is the number of the last journal folded into it; `is_followed` says that a journal after that one
    was open already, so that its absence is a loss. `cap` is the one in force, USD as exact decimal text;
    `place` says where the directory was on the disk.
    """

    schema: int
    covers: int
    generation: int
    entropy: str
    service: str
    is_followed: bool = False
    cap: str | None = None
    place: str = ""


def write(path: Path, state: State, pending: Iterable[str], meta: Meta) -> None:
    """Write the state, and a row for each job that was never submitted."""
    table = to_arrow(state, pending)
    note = asdict(meta) | {_N_ROWS: table.num_rows}
    metadata = {_META: _sealed(json.dumps(note).encode())}
    table = table.replace_schema_metadata((table.schema.metadata or {}) | metadata)
    pq.write_table(table, path, write_page_checksum=True)


def to_arrow(state: State, pending: Iterable[str] = ()) -> pa.Table:
    """Lay the attempts out as an Arrow table with the columns of `dreamo_batch.columns.LEDGER`."""
    never = [job_id for job_id in pending if not state.of(job_id)]
    attempts = list(state)
    arrays = [pa.array(chain(_cells(attempts, f), _absent(never, f)), f.type) for f in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Give the attempts as a DataFrame with the dtypes of `dreamo_batch.columns.LEDGER`."""
    frame: pd.DataFrame = table.to_pandas(types_mapper=_PANDAS.get)
    return frame


def read_table(path: Path) -> tuple[pa.Table, Meta]:
    """Read a checkpoint whole."""
    # Opened once: a reader never mixes the file with the one that replaces it. Opened by Arrow, whose threads may
    # still let go of what they read while the interpreter ends, and must not need it for that.
    with pa.OSFile(str(path)) as file:
        table = pq.read_table(file, page_checksum_verification=True)
    note = _note(table.schema)
    if note.pop(_N_ROWS) != table.num_rows:
        raise ValueError(f"it has {table.num_rows} rows, not as many as were written")
    for name in set(SCHEMA.names) - set(table.column_names):
        if note["schema"] != 1 or name not in _ADDED:
            raise ValueError(f"it has no column {name}")
        table = table.append_column(name, pa.nulls(table.num_rows, SCHEMA.field(name).type))
    return table.select(SCHEMA.names).cast(SCHEMA), Meta(**note)


def read_meta(path: Path) -> Meta:
    """Read only what a checkpoint says of itself."""
    note = _note(pq.read_schema(path))
    del note[_N_ROWS]
    return Meta(**note)


def read_version(path: Path) -> int:
    """Read only the format of a checkpoint, which every version of this package puts in the same place."""
    return int(_note(pq.read_schema(path))["schema"])


def to_state(table: pa.Table) -> State:
    """Rebuild the attempts from an Arrow table."""
    state = State()
    readers = (_reader(field)(table.column(field.name)) for field in SCHEMA)
    for cells in zip(*readers, strict=True):
        if cells[_STAGE_AT] != _PENDING:
            state.put(_attempt(cells, state))
    return state


_STAGE_AT: Final = SCHEMA.names.index(columns.STAGE)
_ATTEMPT_AT: Final = SCHEMA.names.index(columns.ATTEMPT)


def rotate(folder: Path, fill: Callable[[Path], None]) -> None:
    """Put a new checkpoint in place and keep the one before."""
    current = folder / NAME
    fresh = folder / f".{NAME}{TEMPORARY}"
    try:
        fill(fresh)
        fsync_file(fresh)
        if current.exists():
            current.replace(folder / PREVIOUS)
        fresh.replace(current)
    finally:
        fresh.unlink(missing_ok=True)
    fsync_folder(folder)


def _sealed(text: bytes) -> bytes:
    """Put a checksum before the text; Parquet guards the pages of a file, but not what it says of itself."""
    return b"%08x %b" % (zlib.crc32(text), text)


def _note(schema: pa.Schema) -> dict[str, Any]:
    checksum, text = schema.metadata[_META].split(b" ", 1)
    if checksum != b"%08x" % zlib.crc32(text):
        raise ValueError("what it says of itself was altered")
    note: dict[str, Any] = json.loads(text)
    return note


def _cells(attempts: Sequence[Attempt], field: pa.Field) -> Iterable[Any]:
    values = map(attrgetter(field.name), attempts)
    if field.name in _TIMES:
        return (None if at is None else round(at * _MICROSECONDS) for at in values)
    if field.name == columns.ATTEMPT:
        return (attempt.attempt if attempt.stage in SUBMITTED else None for attempt in attempts)
    return values


def _absent(job_ids: Sequence[str], field: pa.Field) -> Iterable[Any]:
    if field.name == columns.JOB_ID:
        return job_ids
    return [_PENDING if field.name == columns.STAGE else None] * len(job_ids)


def _reader(field: pa.Field) -> Callable[[pa.ChunkedArray], list[Any]]:
    if field.name in _TIMES:
        return lambda column: [
            None if at is None else at / _MICROSECONDS for at in column.cast(pa.int64()).to_pylist()
        ]
    return lambda column: column.to_pylist()


def _attempt(cells: tuple[Any, ...], state: State) -> Attempt:
    """Number an attempt that never reached the service by its place: it is always its job's last."""
    number = cells[_ATTEMPT_AT] or len(state.of(cells[0])) + 1
    return Attempt(cells[0], number, Stage(cells[_STAGE_AT]), *cells[_STAGE_AT + 1 :])


_PICTURE: Final = re.compile(r"([0-9a-f]{32})(-(attempt-)?\d+)?\.\w+")


def refuse_unknown_purchases(directory: RunDirectory, state: State) -> None:
    """Refuse a ledger that does not know what the directory shows as bought."""
    for trace in unknown_purchases(directory, state):
        raise LedgerDamaged(
            f"{trace} in {directory.path} shows that a picture was bought, but the ledger does not know of it: lines "
            "at its end were lost, or files of two run directories were mixed. Buying again could pay twice, so "
            "nothing is bought. Restore the ledger from a copy, or take the file away if it does not belong there."
        )


def unknown_purchases(directory: RunDirectory, state: State) -> Iterator[str]:
    """Name what shows a purchase that the ledger does not know of."""
    for path in pictures(directory):
        if not state.of(path.stem.partition("-")[0]):
            yield f"images/{path.name}"
    for job_id in _bought(directory.results):
        if not state.of(job_id):
            yield f"results.parquet (job {job_id})"


def pictures(directory: RunDirectory) -> list[Path]:
    """List the files that are named as saved pictures are; whatever else lies there is the user's."""
    if not directory.images.is_dir():
        return []
    return sorted(path for path in directory.images.iterdir() if _PICTURE.fullmatch(path.name))


def _bought(results: Path) -> list[str]:
    """List the jobs that the results show as submitted; results that can't be read show nothing."""
    try:
        table = pq.read_table(results, columns=[columns.JOB_ID, columns.TASK_ID])
        is_bought = pc.and_(pc.is_valid(table[columns.TASK_ID]), pc.is_valid(table[columns.JOB_ID]))
        job_ids: list[str] = pc.unique(table[columns.JOB_ID].filter(is_bought)).to_pylist()
    except UNREADABLE:
        return []
    return job_ids


_TABLE_META: Final = b"dreamo_batch"
_PROBLEMS: Final = "problems"
KIND: Final = "image_kind"
ROWS: Final = {
    columns.JOB_ID: columns.STR,
    columns.DUPLICATE_OF: columns.INT,
    columns.SEED_SENT: columns.INT,
    columns.IMAGE_SOURCE: columns.STR,
    columns.IMAGE_DIGEST: columns.STR,
    columns.IMAGE_SENT: columns.STR,
    columns.IMAGE_SENT_DIGEST: columns.STR,
    columns.ERROR_CLASS: columns.STR,
    columns.ERROR_CODE: columns.STR,
    columns.ERROR_MESSAGE: columns.STR,
}
_JOB: Final = {
    columns.PROMPT: columns.STR,
    columns.WIDTH: columns.INT,
    columns.HEIGHT: columns.INT,
    columns.USE_REPHRASER: columns.BOOL,
    columns.REPLICATE: columns.INT,
    KIND: columns.STR,
}


def _load_now() -> None:
    """Have pandas and Arrow load what they load at the first table; an interrupt then could leave it half loaded."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(pd.DataFrame({"text": ["a"]})), file)
    file.seek(0)
    pd.read_parquet(file)


_load_now()


@dataclass(frozen=True, slots=True)
class StoredTable:
    """The table of the last call: the user's frame, what was decided for its rows, and its id."""

    user: pd.DataFrame
    decided: pd.DataFrame
    table_id: str

    @property
    def rows(self) -> pd.DataFrame:
        """What the results need of each row; see `dreamo_batch.jobs.prepare.Prepared`."""
        return self.decided[list(ROWS)].astype(ROWS)

    @property
    def prepared(self) -> Prepared:
        """The jobs, made again from what was decided; this takes a while for a large table."""
        return Prepared(_jobs(self.decided), self.rows, _problems(self.decided[_PROBLEMS]), drawn=self.drawn)

    @property
    def drawn(self) -> frozenset[str]:
        """The jobs whose seed was drawn, because their row had none."""
        ids = self.decided[columns.JOB_ID]
        if columns.SEED in self.user:
            given = [read_integer(cell).value for cell in self.user[columns.SEED]]
            ids = ids[[seed is None or seed < 0 for seed in given]]
        return frozenset(ids.dropna())


def _problem_texts(problems: pd.DataFrame) -> pd.Series:
    """Write each row's problems as JSON, by position."""
    fields = [name for name in columns.PROBLEMS if name != columns.POSITION]
    records = problems[fields].astype(object).where(problems[fields].notna(), None).to_dict("records")
    of_rows: dict[int, list[Any]] = {}
    for position, record in zip(problems[columns.POSITION], records, strict=True):
        of_rows.setdefault(position, []).append(record)
    return pd.Series({position: json.dumps(found) for position, found in of_rows.items()}, dtype=columns.STR)


def _problems(texts: pd.Series) -> pd.DataFrame:
    found = [
        {columns.POSITION: position, **record}
        for position, text in texts.dropna().items()
        for record in json.loads(text)
    ]
    return pd.DataFrame(found, columns=list(columns.PROBLEMS)).astype(columns.dtypes(columns.PROBLEMS))


def describer(user: pd.DataFrame, rows: pd.DataFrame) -> Callable[[Job], str]:
    """Return what writes down as JSON what a job attempts: its fields, and the first row of it in the user's table."""
    firsts = {
        job_id: place
        for place, job_id in reversed(list(enumerate(rows[columns.JOB_ID])))
        if isinstance(job_id, str)
    }
    cells = {str(name): user.iloc[:, number] for number, name in enumerate(user.columns)}

    def describe(job: Job) -> str:
        place = firsts.get(job.job_id)
        own = {} if place is None else {name: _plain(column.iloc[place]) for name, column in cells.items()}
        told = {
            columns.ROW: None if place is None else str(user.index[place]),
            columns.PROMPT: job.prompt,
            columns.IMAGE_SOURCE: job.image.location,
            columns.IMAGE_DIGEST: job.image.digest,
            columns.SEED_SENT: job.seed,
            columns.WIDTH: job.width,
            columns.HEIGHT: job.height,
            columns.USE_REPHRASER: job.use_rephraser,
            columns.REPLICATE: job.replicate,
            "columns": own,
        }
        return json.dumps(told, ensure_ascii=False)

    return describe


def _plain(cell: Any) -> Any:
    """Give a cell as JSON can hold it; None for a missing one, and for a picture in memory."""
    if isinstance(cell, str | bool):
        return cell if isinstance(cell, bool) else text_of(cell)
    if isinstance(cell, numbers.Integral):
        return int(cell)
    if isinstance(cell, numbers.Real):
        return float(cell) if math.isfinite(cell) else None
    if isinstance(cell, np.bool_):
        return bool(cell)
    if is_missing(cell) or isinstance(cell, bytes | bytearray | memoryview) or hasattr(cell, "tobytes"):
        return None
    return text_of(cell)


def write_jobs(path: Path, user: pd.DataFrame, prepared: Prepared, table_id: str) -> None:
    """Keep the user's table and what was decided for each row.

    Columns that Parquet can't hold are kept as text, with one warning.
    """
    decided = pd.concat([prepared.rows[list(ROWS)], _job_columns(prepared)], axis=1)
    decided[_PROBLEMS] = _problem_texts(prepared.problems).reindex(decided.index)
    decided = decided.add_prefix(columns.STORED_PREFIX).set_axis(user.index, axis=0)
    _, changed = storable(user)
    if changed:
        warnings.warn(
            f"stored as text in the run directory, since Parquet can't hold it: {', '.join(changed)}",
            stacklevel=2,
        )
    write_frame(path, pd.concat([user, decided], axis=1), {"table_id": table_id})


def read_jobs(path: Path) -> StoredTable:
    """Read the table of the last call."""
    frame, meta = read_frame(path)
    is_decided = [isinstance(n, str) and n.startswith(columns.STORED_PREFIX) for n in frame.columns]
    decided = frame.loc[:, is_decided].reset_index(drop=True)
    decided.columns = decided.columns.str.removeprefix(columns.STORED_PREFIX)
    missing = [name for name in (*ROWS, *_JOB, _PROBLEMS) if name not in decided]
    if missing:
        raise DirectoryError(
            f"{path} can't be read (it has no column {missing[0]}). Run the table again on this directory; what was "
            "bought is reused."
        )
    decided[columns.IMAGE_SENT] = _kept_here(
        decided[columns.IMAGE_SENT], decided[columns.IMAGE_SENT_DIGEST], path.parent
    )
    user = frame.loc[:, [not name for name in is_decided]]
    return StoredTable(user, decided, str(meta.get("table_id")))


def known_images(path: Path) -> dict[str, ImageSource]:
    """Return the reference pictures of the last call's table by absolute path or canonical URL.

    A file that is gone since then, or a link that has expired, matters only for jobs that were never submitted.
    """
    names = [columns.STORED_PREFIX + name for name in _IMAGE]
    try:
        table = pq.read_table(path, columns=names, page_checksum_verification=True)
        rows = (
            table.to_pandas(types_mapper={pa.string(): pd.StringDtype(na_value=float("nan"))}.get)
            .dropna()
            .drop_duplicates()
        )
    except UNREADABLE:
        return {}  # a first call, or a table that is about to be replaced
    names = [columns.STORED_PREFIX + name for name in (columns.IMAGE_SENT, columns.IMAGE_SENT_DIGEST)]
    rows[names[0]] = _kept_here(rows[names[0]], rows[names[1]], path.parent)
    images = starmap(ImageSource, rows.itertuples(index=False, name=None))
    return {canonical(one.location) if one.kind == URL else one.location: one for one in images}


def write_frame(path: Path, frame: pd.DataFrame, meta: Mapping[str, Any]) -> None:
    """Write a frame with its index as Parquet, atomically; what Parquet can't hold becomes text."""
    table = pa.Table.from_pandas(storable(frame)[0])
    metadata = (table.schema.metadata or {}) | {_TABLE_META: json.dumps(dict(meta)).encode()}
    table = table.replace_schema_metadata(metadata)
    durable.replace(path, lambda temporary: pq.write_table(table, temporary, write_page_checksum=True))


def read_frame(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a frame that `write_frame` wrote, and its metadata."""
    try:
        # Opened once, so that it is never mixed with the one that replaces it, and by Arrow (see `checkpoint`).
        with pa.OSFile(str(path)) as file:
            table = pq.read_table(file, page_checksum_verification=True)
            return _to_frame(table), _meta(table.schema)
    except FileNotFoundError:
        raise DirectoryError(f"{path.parent} is not a run directory: it has no {path.name}.") from None
    except UNREADABLE as error:
        raise DirectoryError(
            f"{path} can't be read ({error}). Run the table again on this directory; what was bought is reused."
        ) from error


def _to_frame(table: pa.Table) -> pd.DataFrame:
    """Turn a stored table into a frame; where pandas' own notes can't be read, without them."""
    try:
        return table.to_pandas()
    except Exception:  # a directory is never locked by what another version of pandas noted down
        logger.warning("dtypes and index of a stored table are read without pandas' notes", exc_info=True)
    notes = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
    index = [name for name in notes.get("index_columns", ()) if isinstance(name, str)]
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    return (
        frame.set_index(index).rename_axis([None if n.startswith("__index") else n for n in index])
        if index
        else frame
    )


def read_table_meta(path: Path) -> dict[str, Any]:
    """Read only the metadata of a frame."""
    return _meta(pq.read_schema(path))


def _meta(schema: pa.Schema) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((schema.metadata or {})[_TABLE_META])
    return meta


def _kept_here(locations: pd.Series, digests: pd.Series, folder: Path) -> pd.Series:
    """Find pictures that are kept in the run directory where that is now; it may have been moved."""
    copies = {digest: kept_copy(folder / INPUTS, digest) for digest in digests.dropna().unique()}
    copied = digests.map({digest: str(copy) for digest, copy in copies.items() if copy is not None})
    locations = copied.astype(columns.STR).fillna(locations)
    is_kept = locations.str.contains(f"/{INPUTS}/", regex=False, na=False)
    kept = locations[is_kept].str.rsplit("/", n=1).str[-1].map(lambda name: folder / INPUTS / name)
    there = kept[kept.map(lambda path: path.is_file())].map(str)
    return locations.where(~locations.index.isin(there.index), there.reindex(locations.index))


def _job_columns(prepared: Prepared) -> pd.DataFrame:
    jobs = [prepared.jobs.get(job_id) for job_id in prepared.rows[columns.JOB_ID]]
    cells = [
        (j.prompt, j.width, j.height, j.use_rephraser, j.replicate, j.image.kind)
        if j
        else (None,) * len(_JOB)
        for j in jobs
    ]
    return pd.DataFrame(cells, columns=list(_JOB)).astype(_JOB)


def _jobs(decided: pd.DataFrame) -> dict[str, Job]:
    first = decided[decided[columns.JOB_ID].notna() & decided[columns.DUPLICATE_OF].isna()]
    cells = zip(*(first[name].tolist() for name in (*_IMAGE, *_FIELDS)), strict=True)
    jobs = (_job(row[: len(_IMAGE)], dict(zip(_FIELDS, row[len(_IMAGE) :], strict=True))) for row in cells)
    return {job.job_id: job for job in jobs}


# Columns in the order of the fields of `ImageSource`, and columns of the fields of `Job` by name.
_IMAGE: Final = (
    KIND,
    columns.IMAGE_SOURCE,
    columns.IMAGE_DIGEST,
    columns.IMAGE_SENT,
    columns.IMAGE_SENT_DIGEST,
)
_FIELDS: Final = (columns.JOB_ID, columns.SEED_SENT, *(name for name in _JOB if name != KIND))


def _job(image: tuple[Any, ...], fields: Mapping[str, Any]) -> Job:
    rest = {name: value for name, value in fields.items() if name != columns.SEED_SENT}
    return Job(image=ImageSource(*image), seed=fields[columns.SEED_SENT], **rest)
