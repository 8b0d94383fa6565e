"""The journals of a run: every event, on disk before anything depends on it, with checksums that expose lost lines.

Each journal holds the last checksum of the one before. A note beside the newest journal says how long it is; it may
lag behind the journal after a power failure, but is never ahead of it. The folder has a mark that says the same, and
keeps it when older files are copied over its own. A run whose directory was moved or deleted writes the attempts that
changed to `strays-*.jsonl` instead, because another run may have read its journals already; the next opening folds them
into the ledger. Folding them again changes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import io
import json
import os
import re
import secrets
import threading
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dreamo_batch.engine.attempts import Attempt, Event, EventKind, Stage, State, Terms, next_number
from dreamo_batch.engine.directory import identity_of_file, is_same_file, refuse_newer
from dreamo_batch.errors import LedgerDamaged, logger_named
from dreamo_batch.files import fsync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dreamo_batch.engine.directory import RunDirectory


logger = logger_named(__name__)

END_NAME: Final = "journal.end"
_NOTE: Final = re.compile(rb"(\d{12} \d{16}) ([0-9a-f]{8})\n")
# The name of an extended attribute: `cp -a` copies those of its source, but removes no others.
_MARK: Final = re.compile(r"user\.dreamo-batch\.(\d+)-(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class End:
    """The number of a journal, and the number of bytes it has at least on disk."""

    number: int
    n_bytes: int


class EndNote:
    """Records an open journal's length in a note file and a mark; if the disk refuses an update, the old ones stay."""

    def __init__(self, folder: Path, number: int, n_bytes: int, *, is_marked: bool) -> None:
        self._number = number
        self._fd: int | None = None
        self._folder_fd = os.open(folder, os.O_RDONLY) if is_marked and hasattr(os, "setxattr") else None
        fresh = folder / f".{END_NAME}"  # a copy made of hard links shares the old file
        with suppress(OSError):
            self._fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            self.write(n_bytes)
            fresh.replace(folder / END_NAME)

    def write(self, n_bytes: int) -> None:
        """Record the journal's length; the note has a fixed size, so it is overwritten in place."""
        text = b"%012d %016d" % (self._number, n_bytes)
        if self._fd is not None:
            with suppress(OSError):
                os.pwrite(self._fd, b"%b %08x\n" % (text, zlib.crc32(text)), 0)
        if self._folder_fd is not None:
            with suppress(OSError):  # not every file system has extended attributes
                before = _marks(self._folder_fd)
                os.setxattr(self._folder_fd, f"user.dreamo-batch.{self._number}-{n_bytes}", b"")
                for mark in before.keys() - {End(self._number, n_bytes)}:
                    os.removexattr(self._folder_fd, before[mark])

    def close(self) -> None:
        """Close the file."""
        for fd in (self._fd, self._folder_fd):
            if fd is not None:
                os.close(fd)
        self._fd = self._folder_fd = None


def _marks(folder: Path | int) -> dict[End, str]:
    found = map(_MARK.fullmatch, os.listxattr(folder))
    return {End(int(mark[1]), int(mark[2])): mark[0] for mark in found if mark}


def read_end(folder: Path) -> End | None:
    """Read the note; None if there is none with a valid checksum."""
    try:
        match = _NOTE.fullmatch((folder / END_NAME).read_bytes())
    except OSError:
        return None
    if match is None or int(match[2], 16) != zlib.crc32(match[1]):
        return None
    number, n_bytes = match[1].split()
    return End(int(number), int(n_bytes))


NAME: Final = re.compile(r"journal-(\d{6,})\.jsonl")
_CRC_BYTES: Final = len('{"crc":"00000000",')
_TERMS: Final = frozenset(field.name for field in fields(Terms))
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Header:
    """First line of a journal: its run, its service and its number."""

    schema: int
    number: int
    generation: int
    entropy: str
    service: str
    follows: int | None = None  # the last checksum of the journal before
    place: str = ""  # the identities of directory and file, which expose a copy
    file: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of a journal file."""

    header: Header | None
    texts: tuple[memoryview, ...]  # the lines of its events
    n_torn_bytes: int  # of a half-written line at the end
    checksum: int  # of the last whole line; the next journal repeats it
    n_bytes: int  # of whole lines
    terms: dict[str, str | None]


def path_of(folder: Path, number: int) -> Path:
    """Return the path of a journal."""
    return folder / f"journal-{number:06d}.jsonl"


def numbers(folder: Path) -> list[int]:
    """List the numbers of the journals in a folder, in order."""
    matches = (NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def has_begun(directory: RunDirectory) -> bool:
    """Return whether a run has begun in a directory, even if only its journals are left."""
    return directory.exists() or (directory.path.is_dir() and bool(numbers(directory.path)))


def is_rolled_back(folder: Path, covers: int) -> bool:
    """Whether the folder once had more than its newest journal, and checkpoints up to a number, contain."""
    try:
        last = max(_marks(folder), default=End(0, 0))
        newest = max(numbers(folder), default=0)
        is_shorter = newest == last.number and path_of(folder, newest).stat().st_size < last.n_bytes
    except (OSError, AttributeError):  # no extended attributes here
        return False
    return last.number > covers and (newest < last.number or is_shorter)


def is_copied(folder: Path) -> bool:
    """Whether another program put the newest journal into the folder; it may be older than what it replaced."""
    try:
        path = path_of(folder, numbers(folder)[-1])
        with path.open("rb") as file:
            header = Header(**json.loads(file.readline())["journal"])
        return not is_same_file(header.file, identity_of_file(path))
    except (FileNotFoundError, LookupError, ValueError, TypeError):  # damage is reported where all is read
        return False


class Journal:
    """An open journal file: `append` buffers, and `commit` makes what was appended durable."""

    def __init__(
        self, folder: Path, header: Header, ship: Callable[[int, bytes], object] | None = None
    ) -> None:
        self._ship = ship
        self.checksum = 0  # of the last line appended
        self._n_durable_bytes = 0
        self._is_cut_short = False
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()
        self._end: EndNote | None = None
        path = path_of(folder, header.number)
        self._file = path.open("xb", buffering=0)
        # In a store, any copy is as good as the original.
        self.header = header = header if ship is not None else replace(header, file=identity_of_file(path))
        try:
            self._line({"journal": {name: getattr(header, name) for name in Header.__slots__}})
            self.commit()
            fsync_folder(folder)
            self._end = EndNote(folder, header.number, self._n_durable_bytes, is_marked=ship is None)
        except BaseException:
            self._file.close()
            path.unlink(missing_ok=True)  # it is empty, and its number is needed again
            raise

    def append(self, events: Iterable[Event]) -> None:
        """Add events; they count only once `commit` has returned."""
        for event in events:
            head = {"kind": event.kind, "job": event.job_id, "attempt": event.attempt, "at": event.at}
            self._line({**head, **event.fields})

    def set_terms(self, terms: Mapping[str, str | None], at: float) -> None:
        """Add new terms, by name; they count once `commit` has returned."""
        self._line({**terms, "at": at})

    def commit(self) -> None:
        """Write and fsync everything appended, with one fsync; more may be appended meanwhile by another thread."""
        with self._lock:
            if lines := self._waiting.copy():
                self._commit(b"".join(lines))
                del self._waiting[: len(lines)]

    def _commit(self, data: bytes) -> None:
        try:
            self._cut_back()
            self._write(data)
            if self._ship is not None:  # the store must have it before it counts
                self._ship(self.header.number, data)
        except OSError:
            self._is_cut_short = True
            with suppress(OSError):  # the next call tries again
                self._cut_back()
            raise
        self._n_durable_bytes += len(data)
        if self._end is not None:
            self._end.write(self._n_durable_bytes)

    def is_deleted(self) -> bool:
        """Whether the file has no name any more."""
        return os.fstat(self._file.fileno()).st_nlink == 0

    def close(self) -> None:
        """Close the file; uncommitted events are dropped."""
        self._file.close()
        if self._end is not None:
            self._end.close()

    def _cut_back(self) -> None:
        """Truncate what a failed commit left after the last durable line."""
        if self._is_cut_short:
            self._file.truncate(self._n_durable_bytes)
            self._file.seek(self._n_durable_bytes)
            self._is_cut_short = False

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())
        if self.is_deleted():
            raise FileNotFoundError(errno.ENOENT, "the journal was deleted during the run", self._file.name)

    def _line(self, record: dict[str, Any]) -> None:
        body = _encode(record).encode()
        self.checksum = zlib.crc32(body, self.checksum)
        self._waiting.append(b'{"crc":"%08x",%b\n' % (self.checksum, body[1:]))


def read(path: Path, until: int | None = None) -> Contents:
    """Read a journal file, up to the line with a given checksum if one is passed."""
    content = path.read_bytes()
    whole, crc, start, n_bytes = memoryview(content), 0, 0, 0
    header: Header | None = None
    terms: dict[str, str | None] = {}
    texts: list[memoryview] = []
    for number, line in enumerate(io.BytesIO(content), start=1):
        if line[-1:] != b"\n":
            break
        crc = zlib.crc32(line[_CRC_BYTES:-1], zlib.crc32(b"{", crc))
        is_event = line.startswith(b'{"crc":"%08x","kind":' % crc)
        if not is_event and line[:_CRC_BYTES] != b'{"crc":"%08x",' % crc:
            raise LedgerDamaged(
                f"{path.name}, line {number}: wrong checksum; the line was altered, lost or moved. Nothing is bought "
                "while the ledger is damaged. Restore the file from a copy."
            )
        n_bytes += len(line)
        if number == 1 or not is_event:
            record = json.loads(line.decode())
            header = header or _header(record, path)
            if number == 1 or _TERMS & record.keys():
                terms |= {name: record[name] for name in _TERMS & record.keys()}
                texts.append(whole[start : n_bytes - len(line)])
                start = n_bytes
        if crc == until:
            break
    texts.append(whole[start:n_bytes])
    return Contents(header, tuple(filter(None, texts)), len(content) - n_bytes, crc, n_bytes, terms)


def _header(record: dict[str, Any], path: Path) -> Header:
    try:
        refuse_newer(int(record["journal"]["schema"]), path)
        return Header(**record["journal"])
    except (KeyError, TypeError) as error:
        raise LedgerDamaged(f"{path.name}: the first line is not a journal header ({error}).") from error


_KINDS: Final = {str(kind): kind for kind in EventKind}


def event_of(line: bytes) -> Event:
    """Read the line of an event."""
    record = json.loads(line.decode())  # otherwise json would guess the encoding of bytes
    try:
        take = record.pop
        take("crc")
        return Event(_KINDS[take("kind")], take("job"), take("attempt"), take("at"), record)
    except (KeyError, ValueError) as error:
        raise LedgerDamaged(f"A line of a journal is not an event of this version ({error}).") from error


_PREFIX: Final = "strays-"
_SUFFIX: Final = ".jsonl"
_STRAYS_TRIES: Final = 5  # somebody may be deleting the directory right now
_NOT_TAKEN: Final = frozenset({Stage.UNSENT, Stage.REFUSED})
_IN_DOUBT: Final = frozenset({Stage.SENDING, Stage.AMBIGUOUS})


class Stray(NamedTuple):
    """A file of strays: service and entropy of its run, last states of its attempts, its size when it was read."""

    path: Path
    n_bytes: int
    service: str
    entropy: str
    attempts: tuple[Attempt, ...]


_Create = tuple[str, int, float | None]


def _create(attempt: Attempt) -> _Create:
    """Return what identifies a create, since an attempt that didn't arrive is sent again under its number."""
    return attempt.job_id, attempt.attempt, attempt.sent_at


class Strays:
    """The file for attempts that a run can no longer write to its journal; created when first needed."""

    def __init__(self, folder: Path, folder_fd: int | None, service: str, entropy: str) -> None:
        # Where it was written last: in the run directory, in the folder that replaced it, or beside that.
        self.path: Path | None = None
        self._folder = folder
        self._folder_fd = folder_fd
        self._run = {"service": service, "entropy": entropy}
        self._fd: int | None = None
        self._kept: dict[_Create, Attempt] = {}
        self._n_bytes = 0

    def write(self, attempts: Iterable[Attempt]) -> None:
        """Append the current state of attempts, durably; a deleted file is written again."""
        changed = {_create(attempt): attempt for attempt in attempts}
        self._kept |= changed
        for _ in range(_STRAYS_TRIES):
            if self._is_deleted():
                self.close()
                changed = self._kept
            if changed:
                self._append(changed.values())
            if not self._is_deleted():
                return
        raise FileNotFoundError(errno.ENOENT, "it is deleted whenever it is written", str(self.path))

    def _append(self, attempts: Iterable[Attempt]) -> None:
        records = (_encode(self._run | {"attempt": asdict(attempt)}).encode() for attempt in attempts)
        lines = b"".join(b"%08x %b\n" % (zlib.crc32(record), record) for record in records)
        if self._fd is None:
            self._fd, self._n_bytes = self._open(), 0
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # so that nobody deletes it before this run ends
        os.ftruncate(self._fd, self._n_bytes)  # truncate what a failed write left behind
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        os.fsync(self._fd)
        self._n_bytes += len(lines)

    def _is_deleted(self) -> bool:
        return self._fd is not None and os.fstat(self._fd).st_nlink == 0

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        """Create the file in the directory, or in the one that replaced it, or beside it."""
        name = f"{_PREFIX}{secrets.token_hex(4)}{_SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self.path = self._folder / name
        if self._folder_fd is not None:
            with suppress(FileNotFoundError):  # the directory was deleted
                fd = os.open(name, flags, 0o644, dir_fd=self._folder_fd)
                os.fsync(self._folder_fd)
                self.path = self.path if self.path.exists() else Path(name)
                return fd
        try:
            return os.open(self.path, flags, 0o644)
        except (FileNotFoundError, NotADirectoryError):
            self.path = self._folder.with_name(f"{self._folder.name}-{name}")
            return os.open(self.path, flags, 0o644)


def stray_files(folder: Path) -> list[Path]:
    """List the files of strays that belong to a run directory, in it and beside it."""
    beside = folder.parent.glob(f"{glob.escape(folder.name)}-{_PREFIX}*{_SUFFIX}")
    return sorted((*folder.glob(f"{_PREFIX}*{_SUFFIX}"), *beside))


def read_strays(folder: Path) -> tuple[Stray, ...]:
    """Read the strays of a run directory."""
    found = []
    for path in stray_files(folder):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # just folded in, so it is in the journal, which is read next
            continue
        if records := list(_stray_records(content.split(b"\n")[:-1], path)):
            try:
                attempts = [
                    Attempt(**one["attempt"] | {"stage": Stage(one["attempt"]["stage"])}) for one in records
                ]
            except (KeyError, TypeError, ValueError) as error:
                raise LedgerDamaged(f"{path}: a line is not an attempt of this version ({error}).") from error
            latest = {_create(attempt): attempt for attempt in attempts}
            run = records[-1]
            found.append(Stray(path, len(content), run["service"], run["entropy"], tuple(latest.values())))
    return tuple(found)


def remove_strays(kept: Stray) -> None:
    """Delete a file that was folded in, unless its run is still writing or has written more since."""
    with suppress(FileNotFoundError), kept.path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_size == kept.n_bytes:
                kept.path.unlink(missing_ok=True)
        except BlockingIOError:
            logger.info("%s is still being written; it is read again next time", kept.path)


def fold_strays(state: State, strays: Iterable[Attempt]) -> list[Event]:
    """Fold strays into a state and return the events that changed it."""
    added: list[Event] = []
    # One run may know the answer to a create that another left in doubt, so doubts come first.
    for stray in sorted(strays, key=lambda attempt: (attempt.stage not in _IN_DOUBT, attempt.sent_at or 0.0)):
        for event in events_of(state, stray):
            state.apply(event)
            added.append(event)
    return added


def events_of(state: State, stray: Attempt) -> Iterator[Event]:
    """Yield what a stray adds to a state."""
    attempts = state.of(stray.job_id)
    known = state.find(stray.job_id, stray.attempt)
    # The same create whatever its number here, because no two creates of a job are sent at the same time.
    same = next((attempt for attempt in attempts if attempt.sent_at == stray.sent_at), None)
    in_doubt = same if same is not None and same.stage in _IN_DOUBT else None
    key = (stray.job_id, next_number(attempts) if in_doubt is None else in_doubt.attempt)
    sent_at, at = stray.sent_at or 0.0, stray.answered_at or stray.sent_at or 0.0
    sending = Event.of(EventKind.SENDING, key, sent_at, seed_sent=stray.seed_sent, reserved=stray.reserved)
    if stray.task_id is None:
        if in_doubt is not None and stray.stage in _NOT_TAKEN:
            # False prevents the number from being used again, see `next_number`.
            yield Event.of(EventKind.NOT_SENT, key, at, may_have_been_billed=False)
        elif known is None and same is None and stray.stage in _IN_DOUBT:
            # Its directory was deleted, and it may have been bought.
            message = (
                stray.error_message or "No reply to this submission; it may have been accepted and billed."
            )
            fields = {"error_class": stray.error_class or "interrupted", "error_message": message}
            yield from (sending, Event.of(EventKind.AMBIGUOUS, key, at, **fields, may_have_been_billed=True))
    elif any(attempt.task_id == stray.task_id for attempt in attempts):
        return
    else:
        yield from (sending,) if in_doubt is None else ()
        yield Event.of(EventKind.ACCEPTED, key, at, task_id=stray.task_id)


def _stray_records(lines: Iterable[bytes], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        checksum, _, body = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(body):
            raise LedgerDamaged(
                f"{path}, line {number}: wrong checksum; the line was altered. It may name a task that was paid for, "
                "so nothing is bought. Restore the file from a copy, or delete it to accept the loss."
            )
        yield json.loads(body)
