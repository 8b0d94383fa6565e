"""How far the newest journal had come: a note beside it, so that lines lost at its end are noticed.

Each journal is chained to the one before, which shows where an earlier one ended; nothing but this shows it for the
last one. The note is written after the journal is on the disk, and never waited for: a power failure may leave it
behind the journal, but never ahead of it. Where it is behind, or missing, less is noticed, and nothing else.
"""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from dreamo_batch.engine.attempts import Event, EventKind
from dreamo_batch.engine.directory import refuse_newer
from dreamo_batch.errors import LedgerDamaged
from dreamo_batch.files import fsync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


END_NAME: Final = "journal.end"
_NOTE: Final = re.compile(rb"(\d{12} \d{16}) ([0-9a-f]{8})\n")


@dataclass(frozen=True, slots=True)
class End:
    """The number of a journal, and how many bytes of it were on the disk at least."""

    number: int
    n_bytes: int


class EndNote:
    """Keeps the note of an open journal; where the disk refuses it, the one before stays."""

    def __init__(self, folder: Path, number: int) -> None:
        self._number = number
        self._fd: int | None = None
        with suppress(OSError):
            self._fd = os.open(folder / END_NAME, os.O_WRONLY | os.O_CREAT, 0o644)

    def write(self, n_bytes: int) -> None:
        """Say that so much of the journal is on the disk; the note has one length, and is replaced at once."""
        text = b"%012d %016d" % (self._number, n_bytes)
        if self._fd is not None:
            with suppress(OSError):
                os.pwrite(self._fd, b"%b %08x\n" % (text, zlib.crc32(text)), 0)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def read_end(folder: Path) -> End | None:
    """Read the note; None where there is none that can be trusted."""
    try:
        match = _NOTE.fullmatch((folder / END_NAME).read_bytes())
    except OSError:
        return None
    if match is None or int(match[2], 16) != zlib.crc32(match[1]):
        return None
    number, n_bytes = match[1].split()
    return End(int(number), int(n_bytes))


NAME: Final = re.compile(r"journal-(\d{6,})\.jsonl")
_CRC: Final = re.compile(rb'\{"crc":"([0-9a-f]{8})",')
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Header:
    """First line of a journal: which run and service it belongs to, and its place in the sequence.

    `follows` is the last checksum of the journal before, so that lines lost at its end are noticed; None where
    there is no such journal. `place` says where the directory was on the disk, so that a copy is noticed.
    """

    schema: int
    number: int
    generation: int
    entropy: str
    service: str
    follows: int | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal file holds: `n_bytes` of whole lines, and `n_torn_bytes` of a line half written.

    `checksum` is that of its last whole line, with which the next journal is chained to it. `caps` are the caps
    that were set in it, in their order; the last one holds.
    """

    header: Header | None
    events: tuple[Event, ...]
    n_torn_bytes: int
    checksum: int = 0
    n_bytes: int = 0
    caps: tuple[str | None, ...] = ()


def path_of(folder: Path, number: int) -> Path:
    """Give the path of a journal by its number."""
    return folder / f"journal-{number:06d}.jsonl"


def numbers(folder: Path) -> list[int]:
    """List the numbers of the journals in a folder, in order."""
    matches = (NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


class Journal:
    """An open journal file. `append` buffers, `commit` makes what was appended durable."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.header = header
        self.n_events = 0
        self._crc = 0
        self._n_durable_bytes = 0
        self._is_cut_short = False
        self._waiting: list[bytes] = []
        self._end: EndNote | None = None
        path = path_of(folder, header.number)
        self._file = path.open("xb", buffering=0)
        try:
            self._line({"journal": _header_fields(header)})
            self.commit()
            fsync_folder(folder)
            self._end = EndNote(folder, header.number)
            self._end.write(self._n_durable_bytes)
        except BaseException:
            self._file.close()
            path.unlink(missing_ok=True)  # nothing was recorded in it, and its number is wanted again
            raise

    def append(self, events: Iterable[Event]) -> None:
        """Add events; they count only once `commit` has returned."""
        for event in events:
            self._line(_to_json(event))
            self.n_events += 1

    def set_cap(self, cap: str | None, at: float) -> None:
        """Add that the cap changed, USD as exact decimal text; it counts once `commit` has returned."""
        self._line({"cap": cap, "at": at})

    def commit(self) -> None:
        """Write and fsync all that was appended; one fsync serves them all."""
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        try:
            self._cut_back()
            self._write(data)
        except OSError:
            self._is_cut_short = True
            with suppress(OSError):  # a disk that does not even allow this is asked again by the next call
                self._cut_back()
            raise
        self._n_durable_bytes += len(data)
        self._waiting.clear()
        if self._end is not None:
            self._end.write(self._n_durable_bytes)

    @property
    def checksum(self) -> int:
        """Checksum of the last line appended."""
        return self._crc

    def is_deleted(self) -> bool:
        """Whether the file has no name any more."""
        return os.fstat(self._file.fileno()).st_nlink == 0

    def close(self) -> None:
        """Close the file; what was not committed is dropped."""
        self._file.close()
        if self._end is not None:
            self._end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cut_back(self) -> None:
        """Drop what a failed commit left behind the last durable line."""
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
            raise FileNotFoundError(
                errno.ENOENT, "the journal was deleted under the running run", self._file.name
            )

    def _line(self, record: dict[str, Any]) -> None:
        body = _encode(record).encode()
        self._crc = zlib.crc32(body, self._crc)
        self._waiting.append(b'{"crc":"%08x",%b\n' % (self._crc, body[1:]))


def read(path: Path) -> Contents:
    """Read a journal file."""
    content = path.read_bytes()
    lines = content.split(b"\n")
    torn = lines.pop()
    records = list(_records(lines, path))
    header = _header(records[0], path) if records else None
    caps = tuple(record["cap"] for record in records[1:] if "cap" in record)
    events = tuple(_from_json(record, path) for record in records[1:] if "cap" not in record)
    return Contents(header, events, len(torn), _checksum(lines), len(content) - len(torn), caps)


def n_events_until(path: Path, checksum: int) -> int | None:
    """Count the events of a journal up to the line with this checksum; None where there is no such line."""
    lines = path.read_bytes().split(b"\n")[:-1]
    start = b'{"crc":"%08x",' % checksum
    for number, line in enumerate(lines):
        if line.startswith(start):
            return sum(
                "cap" not in record for record in _records(lines[1 : number + 1], path, _checksum(lines[:1]))
            )
    return None


def _checksum(lines: list[bytes]) -> int:
    match = _CRC.match(lines[-1]) if lines else None
    return int(match[1], 16) if match else 0


def _records(lines: list[bytes], path: Path, crc: int = 0) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        match = _CRC.match(line)
        body = b"{" + line[match.end() :] if match else b""
        crc = zlib.crc32(body, crc)
        if not match or int(match[1], 16) != crc:
            raise LedgerDamaged(
                f"{path.name}, line {number}: the checksum does not fit, so the line was altered, lost or moved. "
                "Nothing is bought on the word of a damaged ledger; restore the file from a copy."
            )
        yield json.loads(body)


def _header_fields(header: Header) -> dict[str, Any]:
    return {name: getattr(header, name) for name in Header.__slots__}


def _header(record: dict[str, Any], path: Path) -> Header:
    try:
        refuse_newer(int(record["journal"]["schema"]), path)
        return Header(**record["journal"])
    except (KeyError, TypeError) as error:
        raise LedgerDamaged(f"{path.name}: its first line is not a journal's header ({error}).") from error


def _to_json(event: Event) -> dict[str, Any]:
    return {"kind": event.kind, "job": event.job_id, "attempt": event.attempt, "at": event.at, **event.fields}


def _from_json(record: dict[str, Any], path: Path) -> Event:
    try:
        kind, job_id, attempt, at = (record.pop(name) for name in ("kind", "job", "attempt", "at"))
        return Event(EventKind(kind), job_id, attempt, at, record)
    except (KeyError, ValueError) as error:
        raise LedgerDamaged(f"{path.name}: a line is not an event of this version ({error}).") from error
