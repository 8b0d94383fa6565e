"""A log of numbered objects that has one writer, whatever clocks, networks and stores do.

Each commit is an object that is put only if its number is free. Whoever takes the log over puts a barrier at the first
free number: the writer before then finds its next number taken, and stops. Its lease is the log itself, which it
extends at least every few seconds; a successor waits until it stands still. That only spares a living writer the
trouble, and nothing depends on it.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dreamo_batch.engine.store import is_put
from dreamo_batch.errors import LedgerDamaged

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.engine.store import Store

BEAT_S: Final = 15.0
STILL_S: Final = 60.0
_LOG: Final = "log"
_CHECKPOINTS: Final = "checkpoints"
_LOOK_EVERY_S: Final = 1.0
_BARRIER, _COMMIT, _CLOSE = "barrier", "commit", "close"
_HEAD: Final = ("kind", "epoch", "nonce", "seq", "owner", "at")


class Fenced(FileNotFoundError):  # noqa: N818 - it says what happened
    """Another writer has taken the log over."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One object of the log: its kind, who wrote it (`nonce`, in order `seq`), under which barrier, and when."""

    kind: str
    epoch: int
    nonce: str
    seq: int
    owner: str
    at: float
    content: bytes = b""

    def to_bytes(self) -> bytes:
        """Write a line of JSON, then the content."""
        head = {name: getattr(self, name) for name in _HEAD}
        return json.dumps(head, separators=(",", ":")).encode() + b"\n" + self.content

    @classmethod
    def from_bytes(cls, written: bytes) -> Slot:
        """Read what `to_bytes` wrote."""
        line, _, content = written.partition(b"\n")
        try:
            head = json.loads(line)
            return cls(**{name: head[name] for name in _HEAD}, content=content)
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerDamaged(
                f"an object of the log is damaged ({error}). Restore it from a copy."
            ) from error


@dataclass(frozen=True, slots=True)
class Content:
    """What a log holds: the newest checkpoint, the number it covers, and the slots behind it, by number."""

    checkpoint: bytes | None
    covers: int
    slots: dict[int, Slot]
    epoch: int

    @property
    def last(self) -> int:
        """The last number that is taken."""
        return max(self.slots, default=self.covers)

    @property
    def commits(self) -> list[bytes]:
        """What was committed since the checkpoint, in order."""
        return [
            self.slots[number].content for number in sorted(self.slots) if self.slots[number].kind == _COMMIT
        ]

    @property
    def owner(self) -> str:
        """Who writes to it, as far as the log says; empty if its last writer closed it."""
        last = self.slots.get(self.last)
        if last is None or last.kind == _CLOSE:
            return ""
        owners = [slot.owner for _, slot in sorted(self.slots.items()) if slot.kind == _BARRIER]
        return owners[-1] if owners else "another process"

    @property
    def heard_at(self) -> float:
        """When its last writer was heard last, in Unix seconds by its own clock."""
        return self.slots[self.last].at if self.last in self.slots else 0.0


def read(store: Store) -> Content:
    """Read a log that may be written to at the same time."""
    while True:
        covers, epoch, name = _newest_checkpoint(store)
        checkpoint = None if name is None else store.get(name)
        if name is not None and checkpoint is None:  # two newer ones were written since it was listed
            continue
        slots: dict[int, Slot] = {}
        while (written := store.get(_slot(covers + len(slots) + 1))) is not None:
            slots[covers + len(slots) + 1] = Slot.from_bytes(written)
        epoch = max([epoch, *(slot.epoch for slot in slots.values())])
        if _newest_checkpoint(store)[0] == covers:  # else some of the slots may have been deleted meanwhile
            return Content(checkpoint, covers, slots, epoch)


def _slot(number: int) -> str:
    return f"{_LOG}/{number:012d}"


def _newest_checkpoint(store: Store) -> tuple[int, int, str | None]:
    """Return the number that the newest checkpoint covers, its epoch, and its name."""
    names = store.names(f"{_CHECKPOINTS}/")
    if not names:
        return 0, 0, None
    covers, epoch = names[-1].removeprefix(f"{_CHECKPOINTS}/").split("-")
    return int(covers), int(epoch), names[-1]


class FencedLog:
    """The open log of one writer.

    Parameters
    ----------
    store : Store
        Where the log is.
    owner : str
        Who writes, for people to read.
    is_gone : callable
        Says of an owner whether it is known to have ended, so that nobody needs to wait for it.
    pause : callable
        Waits some seconds.
    clock : callable
        Returns seconds that only go forward.
    """

    def __init__(
        self,
        store: Store,
        owner: str = "",
        *,
        is_gone: Callable[[str], bool] = lambda _owner: False,
        pause: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._owner = owner
        self._is_gone = is_gone
        self._pause = pause
        self._clock = clock
        self._nonce = secrets.token_hex(8)
        self._seq = 0
        self._lock = threading.RLock()
        self._kinds: dict[int, str] = {}
        self.is_fenced = False
        self.is_doubtful = False
        self.last = 0
        self.epoch = 0
        self.committed_at = clock()

    def wait_until_free(self, say: Callable[[str], object]) -> str:
        """Wait until the log stands still by our own clock; return its owner if it moves, else nothing.

        One that was closed, or whose owner has ended, isn't waited for; `say` gets the owner before the wait.
        """
        found = read(self._store)
        if not found.owner or self._is_gone(found.owner):
            return ""
        say(found.owner)
        end = self._clock() + STILL_S
        while self._clock() < end:
            self._pause(_LOOK_EVERY_S)
            if self._store.get(_slot(found.last + 1)) is not None:
                return found.owner
        return ""

    def open(self) -> Content:
        """Take the log over: whoever wrote before can't any more. Return what it holds."""
        while True:
            found = read(self._store)
            number, self.epoch = found.last + 1, found.epoch + 1
            slots = dict(found.slots)
            while not self._is_put(number, self._next(_BARRIER)):
                taken = self._store.get(_slot(number))
                if taken is None:
                    break  # compacted away meanwhile
                slots[number] = Slot.from_bytes(taken)
                self.epoch = max(self.epoch, slots[number].epoch + 1)
                number += 1
            else:
                if self._is_newest(found.covers):
                    self.last, self.committed_at = number, self._clock()
                    self._kinds = {at: slot.kind for at, slot in slots.items()}
                    return Content(found.checkpoint, found.covers, slots, self.epoch)
            # A newer checkpoint means that the barrier may be where slots were compacted away: it counts for nothing.

    def commit(self, content: bytes) -> None:
        """Add content; on return it is in the log for good. Raises `Fenced`, or OSError if nobody can tell."""
        self._add(_COMMIT, content)

    def beat(self, after_s: float | None = None) -> None:
        """Extend the lease if nothing was committed for a while."""
        if self._clock() - self.committed_at >= (BEAT_S if after_s is None else after_s):
            self._add("beat", b"")

    def close(self) -> None:
        """Say that this writer is done."""
        self._add(_CLOSE, b"")

    def checkpoint(self, content: bytes, covers: int) -> None:
        """Put a checkpoint of all up to a number, and delete what two checkpoints cover, but barriers."""
        self._store.put(f"{_CHECKPOINTS}/{covers:012d}-{self.epoch:06d}", content)
        names = self._store.names(f"{_CHECKPOINTS}/")
        self._store.delete(names[:-2])
        if len(names) > 1:
            covered = int(names[-2].removeprefix(f"{_CHECKPOINTS}/").split("-")[0])
            self._store.delete(map(_slot, self._compacted(covered)))

    def _compacted(self, covered: int) -> list[int]:
        """Take the slots up to a number that nobody needs; barriers are needed for ever."""
        found = sorted(
            number for number, kind in self._kinds.items() if number <= covered and kind != _BARRIER
        )
        self._kinds = {number: kind for number, kind in self._kinds.items() if number > covered}
        return found

    def _add(self, kind: str, content: bytes) -> None:
        with self._lock:
            if self.is_fenced:
                raise Fenced("another writer has taken this run directory over")
            if self.is_doubtful:
                raise OSError("an earlier commit may have arrived or not, so nothing more is written")
            self._put_at(self.last + 1, self._next(kind, content))

    def _put_at(self, number: int, written: bytes) -> None:
        self.is_doubtful = True
        if not self._is_put(number, written):
            self.is_fenced = True
            raise Fenced("another writer has taken this run directory over")
        self.is_doubtful = False
        self._kinds[number] = _COMMIT
        self.last, self.committed_at = number, self._clock()

    def _next(self, kind: str, content: bytes = b"") -> bytes:
        self._seq += 1
        return Slot(kind, self.epoch, self._nonce, self._seq, self._owner, time.time(), content).to_bytes()

    def _is_put(self, number: int, written: bytes) -> bool:
        """Put an object in a free slot; False if another's is there. Raises OSError if nobody can tell."""
        return is_put(self._store, _slot(number), written, self._pause)

    def _is_newest(self, covers: int) -> bool:
        return _newest_checkpoint(self._store)[0] == covers
