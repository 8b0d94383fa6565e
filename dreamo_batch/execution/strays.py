"""Answers that arrived when the run directory no longer belonged to the run: kept in a file beside its journals.

A run whose lock or directory was deleted, moved or replaced must not write to the journals any more, because another
run may have read them already. It writes the orders that changed to `strays-*.jsonl`, one a line with a checksum, and
the next opening folds them into the ledger. Folding is safe to repeat: a task that the ledger knows is left as it is.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.errors import LedgerDamaged
from dreamo_batch.execution.state import ORDERED, Event, Kind, Order, Stage, State, next_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

_PREFIX: Final = "strays-"
_SUFFIX: Final = ".jsonl"
_NOT_TAKEN: Final = frozenset({Stage.UNSENT, Stage.REFUSED})
_IN_DOUBT: Final = frozenset({Stage.SENDING, Stage.AMBIGUOUS})


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of strays: the service and the entropy of the run that wrote it, and its orders as they stood last.

    `n_bytes` is how much of it was read.
    """

    path: Path
    n_bytes: int
    service: str
    entropy: str
    orders: tuple[Order, ...]


class Strays:
    """The file of one run for what its journal can't take; made with the first order.

    Parameters
    ----------
    path : pathlib.Path
        The run directory as it was called when it was opened.
    folder_fd : int or None
        The open directory itself, wherever it is now.
    service : str
        Name of the service the orders were sent to.
    entropy : str
        What the run drew its seeds from.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> Strays(folder, None, "loopback", "00").write([Order("a1", 1, Stage.ACCEPTED, task_id="t")])
    >>> [order.task_id for kept in read(folder) for order in kept.orders]
    ['t']
    """

    def __init__(self, path: Path, folder_fd: int | None, service: str, entropy: str) -> None:
        self._path = path
        self._folder_fd = folder_fd
        self._run = {"service": service, "entropy": entropy}
        self._fd: int | None = None

    def write(self, orders: Iterable[Order]) -> None:
        """Append orders as they stand now, durably.

        Raises
        ------
        OSError
            If no place takes them.
        """
        lines = b"".join(_line(self._run | {"order": asdict(order)}) for order in orders)
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
    """Read the strays of a run directory.

    Raises
    ------
    LedgerDamaged
        If a line other than an unfinished last one was altered.
    """
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
            orders = (_order(record["order"], path) for record in records)
            latest = {(order.job_id, order.order): order for order in orders}
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


def fold(state: State, strays: Iterable[Order]) -> list[Event]:
    """Fold strays into a state, and give the events that did it; what the state knows already adds none.

    Examples
    --------
    >>> state = State([Order("a", 1, Stage.AMBIGUOUS, sent_at=5.0)])
    >>> [event.kind.value for event in fold(state, [Order("a", 1, Stage.ACCEPTED, task_id="t", sent_at=5.0)])]
    ['accepted']
    >>> fold(state, [Order("a", 1, Stage.ACCEPTED, task_id="t", sent_at=5.0)])
    []
    """
    added: list[Event] = []
    for stray in strays:
        for event in _events(state, stray):
            state.apply(event)
            added.append(event)
    return added


def _events(state: State, stray: Order) -> Iterator[Event]:
    orders = state.of(stray.job_id)
    known = state.find(stray.job_id, stray.order)
    is_same = known is not None and known.sent_at == stray.sent_at
    if stray.task_id is None:
        if is_same and known is not None and known.stage is Stage.AMBIGUOUS and stray.stage in _NOT_TAKEN:
            yield _event(Kind.NOT_SENT, stray, stray.order)
        elif known is None and stray.stage in _IN_DOUBT:  # of a directory that was deleted: it may be bought
            number = next_number(orders)
            yield _sending(stray, number)
            yield _event(Kind.AMBIGUOUS, stray, number, **_doubt(stray))
    elif any(order.task_id == stray.task_id for order in orders):
        return
    elif is_same and known is not None and known.stage in _IN_DOUBT:
        yield _event(Kind.ACCEPTED, stray, stray.order, task_id=stray.task_id)
    else:
        number = next_number(orders)
        yield _sending(stray, number)
        yield _event(Kind.ACCEPTED, stray, number, task_id=stray.task_id)


def _sending(stray: Order, number: int) -> Event:
    known = {"seed_sent": stray.seed_sent, "reserved": stray.reserved}
    fields = {name: value for name, value in known.items() if value is not None}
    return Event(Kind.SENDING, stray.job_id, number, stray.sent_at or 0.0, fields)


def _event(kind: Kind, stray: Order, number: int, **fields: Any) -> Event:
    return Event(kind, stray.job_id, number, stray.answered_at or stray.sent_at or 0.0, fields)


def _doubt(stray: Order) -> dict[str, Any]:
    message = stray.error_message or "the answer to this order is not known; it may have been taken"
    return {
        "error_class": stray.error_class or "interrupted",
        "error_message": message,
        "may_have_been_billed": True,
    }


def worth_keeping(orders: Iterable[Order]) -> list[Order]:
    """Give the orders that exist, or may, at the service."""
    return [order for order in orders if order.stage in ORDERED]


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


def _order(fields: dict[str, Any], path: Path) -> Order:
    try:
        return Order(**fields | {"stage": Stage(fields["stage"])})
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerDamaged(f"{path}: a line is not an order of this version ({error}).") from error


def _escaped(name: str) -> str:
    """Write a name so that `glob` takes it literally."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
