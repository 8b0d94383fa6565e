"""Objects in a store by name, over obstore or in a folder, and a log of them that has one writer.

Whatever clocks, networks and stores do, the log has one writer: each commit is an object that is put only if its number
is free. Whoever takes the log over puts a barrier at the first free number: the writer before then finds its next
number taken, and stops. Its lease is the log itself, which it extends at least every few seconds; a successor waits
until it stands still. That only spares a living writer the trouble, and nothing depends on it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol

from dreamo_batch.errors import LIKE_URL, DirectoryError, LedgerDamaged, UsageError, path_given
from dreamo_batch.files import fsync_file, fsync_folder
from dreamo_batch.importing import load_extra, load_module
from dreamo_batch.text import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

SCHEMES: Final = ("s3", "gs", "az")
SLICES: Final = "slices/"  # the records of a budget
FIRST_SLICE: Final = f"{SLICES}{1:012d}"
_PROBE: Final = "probe"
_TRIES: Final = 6
_PAUSE_S: Final = 0.2
# A write of the log that was tried more than once is looked at before it counts.
_RETRIES: Final[Any] = {"max_retries": 6, "retry_timeout": timedelta(seconds=10)}
BEAT_S: Final = 15.0
STILL_S: Final = 60.0
_LOG: Final = "log"
_CHECKPOINTS: Final = "checkpoints"
_LOOK_EVERY_S: Final = 1.0
_BARRIER, _COMMIT, _CLOSE = "barrier", "commit", "close"
_HEAD: Final = ("kind", "epoch", "nonce", "seq", "owner", "at")

_URL: Final = re.compile(rf"(?:{'|'.join(SCHEMES)})://[^/\s]+(?P<folder>/.*)?", re.DOTALL)
_SECRET: Final = re.compile(r"//[^/]*@|[?#]")


def place_given(name: str, place: object) -> str:
    """Return a path or the URL of a store as text; raises an error that names the argument."""
    text = path_given(name, place, is_local=False)
    if not LIKE_URL.match(text):
        return text
    if _SECRET.search(text):
        raise UsageError(
            f"{name} must be a URL without credentials, query and fragment, such as s3://bucket/folder. The store's "
            "credentials come from the environment (AWS_*, GOOGLE_*, AZURE_*)."
        )
    found = _URL.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{name} {text!r} can't be used; expected a path, or a URL such as s3://bucket/folder (or gs://, az://)."
        )
    folders = (found["folder"] or "")[1:].rstrip("/").split("/")
    if found["folder"] not in {None, "/"} and any(one.strip() in {"", ".", ".."} for one in folders):
        raise UsageError(f"{name} {text!r} can't be used: a folder in it is empty, '.' or '..'.")
    return text


class Taken(Exception):  # noqa: N818 - it says what was found
    """There is an object of this name already, or the store says so."""


class Records(Protocol):
    """What a log of records that never change needs of a store; any method may raise OSError, which tells nothing."""

    def get(self, name: str) -> bytes | None:
        """Return an object's content; None if there is none."""

    def put_new(self, name: str, content: bytes) -> None:
        """Write an object unless there is one, and raise `Taken` if there is."""

    def names(self, prefix: str) -> list[str]:
        """List the names that begin with a prefix, in order."""


class Store(Records, Protocol):
    """What the log of a run directory needs of a store, beside records."""

    def put(self, name: str, content: bytes) -> None:
        """Write an object, replacing any."""

    def folders(self, folder: str) -> list[str]:
        """List the folders in one that hold any object, however many those are."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone don't matter."""


class ObjectStore:
    """A bucket, or a folder in it, by URL; its credentials come from the environment, as its own tools read them."""

    # The process that has obstore's threads: forked ones would wait for them for ever.
    _used_in: ClassVar[int] = 0

    def __init__(self, url: str, store: Any = None) -> None:
        self.url = url
        self._obstore = load_extra("obstore", f"{url} needs", "cloud")
        self._failures = load_module("obstore.exceptions")
        try:
            self._opened = store or self._obstore.store.from_url(url, retry_config=_RETRIES)
        except (self._failures.BaseError, ValueError) as error:
            raise UsageError(f"{url} can't be opened ({first_line(error)}).") from None

    @property
    def _store(self) -> Any:
        ObjectStore._used_in = ObjectStore._used_in or os.getpid()
        if ObjectStore._used_in != os.getpid():
            raise UsageError(
                f"{self.url} can't be used here: this process was forked from one that uses object stores. Start it "
                'by spawn (multiprocessing.get_context("spawn")).'
            )
        return self._opened

    def get(self, name: str) -> bytes | None:
        """Return an object's content; None if there is none."""
        try:
            return bytes(self._obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except self._failures.BaseError as error:
            raise OSError(f"{self.url}/{name} can't be read ({first_line(error)})") from None

    def put(self, name: str, content: bytes) -> None:
        """Write an object, replacing any."""
        self._put(name, content, "overwrite")

    def put_new(self, name: str, content: bytes) -> None:
        """Write an object unless there is one, and raise `Taken` if there is."""
        self._put(name, content, "create")

    def names(self, prefix: str) -> list[str]:
        """List the names that begin with a prefix, in order."""
        return self._listed(
            prefix,
            lambda: [one["path"] for chunk in self._obstore.list(self._store, prefix) for one in chunk],
        )

    def folders(self, folder: str) -> list[str]:
        """List the folders in one that hold any object, however many those are."""
        return self._listed(
            folder, lambda: self._obstore.list_with_delimiter(self._store, folder)["common_prefixes"]
        )

    def _listed(self, prefix: str, ask: Callable[[], Iterable[str]]) -> list[str]:
        try:
            return sorted(ask())
        except self._failures.BaseError as error:
            raise OSError(f"{self.url}/{prefix} can't be listed ({first_line(error)})") from None

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone don't matter."""
        for name in names:
            try:
                self._obstore.delete(self._store, name)
            except FileNotFoundError:
                continue
            except self._failures.BaseError as error:
                raise OSError(f"{self.url}/{name} can't be deleted ({first_line(error)})") from None

    def _put(self, name: str, content: bytes, mode: Literal["create", "overwrite"]) -> None:
        try:
            self._obstore.put(self._store, name, content, mode=mode, use_multipart=False)
        except self._failures.AlreadyExistsError:
            raise Taken(name) from None
        except self._failures.NotSupportedError:
            raise DirectoryError(
                f"{self.url} can't refuse to replace an object, on which a run directory there relies."
            ) from None
        except self._failures.BaseError as error:
            raise OSError(f"{self.url}/{name} can't be written ({first_line(error)})") from None


class FolderStore:
    """A folder that holds records by name; a name is given once, also by programs on different machines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, name: str) -> bytes | None:
        """Return an object's content; None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put_new(self, name: str, content: bytes) -> None:
        """Write an object unless there is one, durably, and raise `Taken` if there is."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        try:
            temporary.write_bytes(content)
            fsync_file(temporary)
            path.hardlink_to(temporary)  # unlike a rename, it never replaces a file
        except FileExistsError:
            raise Taken(name) from None
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise DirectoryError(
                    f"{path.parent} can't be used: its file system has no hard links, on which a budget relies."
                ) from None
            raise
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)

    def names(self, prefix: str) -> list[str]:
        """List the names in the folder that a prefix names."""
        folder = self.path / prefix
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(prefix + path.name for path in found if not path.name.startswith("."))


def is_put(store: Records, name: str, written: bytes, pause: Callable[[float], object] = time.sleep) -> bool:
    """Put an object, unlike any other, where none is; False if another's is there, OSError if nobody can tell."""
    problem: Exception | None = None
    for attempt in range(_TRIES):
        if attempt:
            pause(_PAUSE_S * 2 ** (attempt - 1))
        try:
            store.put_new(name, written)
        except (Taken, OSError) as error:
            problem = error
        else:
            return True
        # The answer may be lost, late or wrong: what stands there says what became of it.
        try:
            found = store.get(name)
        except OSError as error:
            problem = error
            continue
        if found is not None:
            return found == written
    raise OSError(f"the store doesn't say whether {name} has arrived ({problem})")


def refuse_unsafe(store: Store, url: str) -> None:
    """Refuse a store that replaces an object although it was asked not to: two writers would not notice each other."""
    name = f"{_PROBE}/{secrets.token_hex(8)}"
    first, second = secrets.token_bytes(16), secrets.token_bytes(16)
    try:
        try:
            store.put_new(name, first)
            store.put_new(name, second)
        except Taken:  # a repeated request may have met itself, which is fine
            pass
        found = store.get(name)
    except OSError as error:
        raise DirectoryError(
            f"{url} can't be used ({error}). Check the address and its credentials."
        ) from None
    if found != first:
        raise DirectoryError(
            f"{url} replaces an object although it was asked not to (If-None-Match is ignored), so two writers would "
            "not notice each other. Use a store that supports conditional writes: S3, GCS, Azure, or a current MinIO, "
            "Ceph or SeaweedFS."
        )
    store.delete([name])


def races(store: Store, n_slots: int = 40, n_writers: int = 8) -> int:
    """Have several threads put the same objects at once; count those that more than one believes to have put."""
    folder = f"{_PROBE}/{secrets.token_hex(8)}"
    names = [f"{folder}/{number}" for number in range(n_slots)]

    def put(writer: int) -> list[str]:
        won = []
        for name in names:
            try:
                store.put_new(name, b"%d" % writer)
            except (Taken, OSError):
                continue
            won.append(name)
        return won

    with ThreadPoolExecutor(n_writers) as pool:
        winners = Counter(name for won in pool.map(put, range(n_writers)) for name in won)
    store.delete(names)
    return sum(n > 1 for n in winners.values())


# The log of one writer.


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


def read_log(store: Store) -> Content:
    """Read a log that may be written to at the same time."""
    while True:
        covers, epoch, name = _newest_checkpoint(store)
        checkpoint = None if name is None else store.get(name)
        if name is not None and checkpoint is None:  # two newer ones were written since it was listed
            continue
        slots: dict[int, Slot] = {}
        while (written := store.get(_slot(covers + len(slots) + 1))) is not None:
            slots[covers + len(slots) + 1] = Slot.from_bytes(written)
        content = Content(checkpoint, covers, slots, max([epoch, *(slot.epoch for slot in slots.values())]))
        end = _slot(content.last + 1)
        has_gap = store.names(f"{_LOG}/")[-1:] > [end] and store.get(end) is None
        if _newest_checkpoint(store)[0] != covers:  # some of the slots may have been deleted meanwhile
            continue
        if has_gap:
            raise LedgerDamaged(
                f"{end} is missing, although later objects of the log are there. Nothing was bought, because that "
                "could pay twice. Restore it from a copy or an earlier version, or start a new run directory."
            )
        return content


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
        found = read_log(self._store)
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
            found = read_log(self._store)
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
