"""Objects in a store by name, and a log of them that has one writer.

Whatever clocks, networks and stores do, the log has one writer: each commit is an object that is put only if its number
is free. Whoever takes over the log puts a barrier at the first free number: the writer before then finds its next
number taken, and stops. Its lease is the log itself, which it extends at least every few seconds; a successor waits
until it stops growing. That only spares a living writer the trouble, and nothing depends on it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from dreamo_batch import arguments, files
from dreamo_batch.errors import DirectoryError, LedgerDamaged, UsageError, logger_named
from dreamo_batch.importing import load_extra, load_module
from dreamo_batch.parallel import threads
from dreamo_batch.text import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


logger = logger_named(__name__)

SCHEMES: Final = ("s3", "gs", "az")
SLICES: Final = "slices/"  # the records of a budget
FIRST_SLICE: Final = f"{SLICES}{1:012d}"
_PROBE: Final = "probe"
N_RACES, N_RACERS = 40, 8  # objects that several writers put at once, to see whether one wins each
READ_AT_ONCE: Final = 16
_TRIES: Final = 6
_PAUSE_S: Final = 0.2
# A write to the log that was retried is read back before it counts.
_RETRIES: Final[Any] = {"max_retries": 6, "retry_timeout": timedelta(seconds=10)}
BEAT_S: Final = 15.0
STILL_S: Final = 60.0
LOG: Final = "log"
FIRST_SLOT: Final = f"{LOG}/{1:012d}"  # a barrier, which is never deleted
CHECKPOINTS: Final = "checkpoints"
_LOOK_EVERY_S: Final = 1.0
_BARRIER, _COMMIT, _CLOSE = "barrier", "commit", "close"
_NUMBERED: Final = re.compile(rf"{LOG}/\d{{12,}}|{CHECKPOINTS}/\d{{12,}}-\d{{6,}}")
_HEAD: Final = ("kind", "epoch", "nonce", "seq", "owner", "at")

_URL: Final = re.compile(rf"(?:{'|'.join(SCHEMES)})://[^/\s]+(?P<folder>/.*)?", re.DOTALL)
_SECRET: Final = re.compile(r"//[^/]*@|[?#]")
ENVIRONMENT: Final = "the credentials in the environment (AWS_*, GOOGLE_*, AZURE_*)"
_ANSWER: Final = re.compile(
    r"status code: ([^:]+):.*?<Code>([^<]*)</Code>(?:\s*<Message>([^<\n]*))?", re.DOTALL
)


def check_location(name: str, place: object) -> str:
    """Return a path, or the URL of a store, as text; raise an error that names the argument."""
    text = arguments.check_path(name, place, is_local=False)
    if not arguments.LIKE_URL.match(text):
        return text
    if _SECRET.search(text):
        raise UsageError(
            f"{name} must be a URL without credentials, query and fragment, such as s3://bucket/folder. It is "
            f"opened with {ENVIRONMENT}."
        )
    found = _URL.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{name} {text!r} can't be used; expected a path, or a URL such as s3://bucket/folder (or gs://, az://)."
        )
    folders = (found["folder"] or "")[1:].rstrip("/").split("/")
    if found["folder"] not in {None, "/"} and any(folder.strip() in {"", ".", ".."} for folder in folders):
        raise UsageError(f"{name} {text!r} can't be used: a folder in it is empty, '.' or '..'.")
    return text


class Taken(Exception):  # noqa: N818 - it says what was found
    """An object of this name exists already, or the store says so."""


class ObjectStore:
    """A bucket, or a folder in one, by URL; credentials come from the environment or the machine's role."""

    # The process that has obstore's threads; forked processes would wait for them forever.
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
            with self._naming_errors(name, "read"):
                return bytes(self._obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None

    def get_each(self, names: Sequence[str]) -> list[bytes | None]:
        """Return the contents of objects, reading several at once; None for each that doesn't exist."""
        with threads(READ_AT_ONCE) as pool:
            return list(pool.map(self.get, names))

    def put(self, name: str, content: bytes) -> None:
        """Write an object, replacing any existing one."""
        with self._naming_errors(name, "written"):
            self._obstore.put(self._store, name, content, use_multipart=False)

    def put_new(self, name: str, content: bytes) -> None:
        """Write an object; raise `Taken` if it exists."""
        with self._naming_errors(name, "written"):
            try:
                self._obstore.put(self._store, name, content, mode="create", use_multipart=False)
            except self._failures.AlreadyExistsError:  # from `put` it would mean another conflict
                raise Taken(name) from None

    def names(self, prefix: str) -> list[str]:
        """List the names that begin with a prefix, in order."""
        with self._naming_errors(prefix, "listed"):
            return sorted(one["path"] for chunk in self._obstore.list(self._store, prefix) for one in chunk)

    def level(self, folder: str) -> tuple[list[str], list[str]]:
        """List the non-empty folders in a folder (however many objects they hold), and its own objects."""
        with self._naming_errors(folder, "listed"):
            found = self._obstore.list_with_delimiter(self._store, folder)
            return sorted(found["common_prefixes"]), sorted(entry["path"] for entry in found["objects"])

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects, many per request if the store can; missing ones don't matter."""
        if names:
            with suppress(FileNotFoundError), self._naming_errors(names[0], "deleted"):
                self._obstore.delete(self._store, names)

    @contextmanager
    def _naming_errors(self, name: str, how: str) -> Iterator[None]:
        """Turn a store's errors into OSError, naming the object and what couldn't be done."""
        try:
            yield
        except self._failures.NotSupportedError:
            raise DirectoryError(f"{self.url} can't refuse to overwrite an object, as it must.") from None
        except self._failures.BaseError as error:
            raise OSError(f"{self.url}/{name} can't be {how} ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """Return why a store refused a request: the code and message in its XML, or the first line of the error."""
    found = _ANSWER.search(str(error))
    return first_line(error) if found is None else ": ".join(filter(None, found.groups()))


class FolderStore:
    """A folder of records by name; each name is taken only once, even by programs on different machines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, name: str) -> bytes | None:
        """Return an object's content; None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put_new(self, name: str, content: bytes) -> None:
        """Write an object durably; raise `Taken` if it exists."""
        path = self.path / name
        if name == FIRST_SLICE:  # after that, a missing folder has been moved away
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        try:
            temporary.write_bytes(content)
            files.fsync_file(temporary)
            path.hardlink_to(temporary)  # unlike a rename, a link never replaces a file
        except FileExistsError:
            raise Taken(name) from None
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise DirectoryError(
                    f"{path.parent} can't be used: its file system has no hard links, which a budget relies on."
                ) from None
            raise
        finally:
            temporary.unlink(missing_ok=True)
        files.fsync_folder(path.parent)

    def names(self, prefix: str) -> list[str]:
        """List the names in the folder given by a prefix."""
        folder = self.path / prefix
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(prefix + path.name for path in found if not path.name.startswith("."))


def is_put(
    store: ObjectStore | FolderStore, name: str, written: bytes, pause: Callable[[float], object]
) -> bool:
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
        # The answer may be lost, late or wrong, so the object is read back.
        try:
            if (found := store.get(name)) is not None:
                return found == written
        except OSError as error:
            problem = error
    if isinstance(problem, OSError) and problem.errno:  # a disk knows, and reports what is wrong
        raise problem
    raise OSError(f"the store doesn't say whether {name} has arrived ({problem})")


def refuse_unsafe(store: ObjectStore, url: str) -> None:
    """Refuse a store that replaces objects although asked not to: two writers wouldn't notice each other."""
    name = f"{_PROBE}/{secrets.token_hex(8)}"
    first, second = secrets.token_bytes(16), secrets.token_bytes(16)
    try:
        store.put(name, first)
        with suppress(Taken):
            store.put_new(name, second)
        found = store.get(name)
    except OSError as error:
        raise DirectoryError(f"{url} can't be used ({error}). Check the address and {ENVIRONMENT}.") from None
    if found != first:
        raise DirectoryError(
            f"{url} replaces an object although it was asked not to (If-None-Match is ignored), so two writers would "
            "not notice each other. Use a store that supports conditional writes: S3, GCS, Azure, or a current MinIO, "
            "Ceph or SeaweedFS."
        )
    store.delete([name])


def races(store: ObjectStore) -> int:
    """Put the same objects from several threads at once; count those that more than one thread believes it put."""
    folder = f"{_PROBE}/{secrets.token_hex(8)}"
    names = [f"{folder}/{number}" for number in range(N_RACES)]

    def put(writer: int) -> list[str]:
        won = []
        for name in names:
            with suppress(Taken, OSError):
                store.put_new(name, b"%d" % writer)
                won.append(name)
        return won

    with threads(N_RACERS) as pool:
        winners = Counter(name for won in pool.map(put, range(N_RACERS)) for name in won)
    store.delete(names)
    return sum(n > 1 for n in winners.values())


# The log of one writer.


class Fenced(FileNotFoundError):  # noqa: N818 - it says what happened
    """Another writer has taken over the log."""


class Owner(NamedTuple):
    """A process that writes to a log; its id counts within a boot of a machine and a PID namespace."""

    pid: int
    host: str
    boot: str  # these two are empty if unknown
    namespace: str

    @classmethod
    def here(cls) -> Owner:
        """Return this process."""
        boot = namespace = ""
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
            namespace = str(Path("/proc/self/ns/pid").readlink())
        return cls(os.getpid(), socket.gethostname(), boot, namespace)

    def __str__(self) -> str:
        return f"Process {self.pid} on {self.host}"

    def has_ended(self) -> bool:
        """Whether it is known to have ended: it was a process of this machine that is gone."""
        here = Owner.here()
        if not here.namespace or self[1:] != here[1:]:
            return False
        if self.pid == here.pid:
            return True  # an earlier call of this process that ended without closing
        try:
            os.kill(self.pid, 0)
        except OSError as error:
            return isinstance(error, ProcessLookupError)
        return False


@dataclass(frozen=True, slots=True)
class Slot:
    """One object of the log: its kind, who wrote it (`nonce`, in order `seq`), under which barrier, and when."""

    kind: str
    epoch: int
    nonce: str
    seq: int
    owner: Owner
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
            return cls(
                **{name: head[name] for name in _HEAD} | {"owner": Owner(*head["owner"])}, content=content
            )
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerDamaged(
                f"an object of the log is damaged ({error}). Restore it from a copy."
            ) from error


@dataclass(frozen=True, slots=True)
class LogView:
    """The content of a log: the newest checkpoint, the number it covers, and the slots after it by number."""

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
        """The commits since the checkpoint, in order."""
        return [
            self.slots[number].content for number in sorted(self.slots) if self.slots[number].kind == _COMMIT
        ]

    @property
    def owner(self) -> Owner | None:
        """The current writer according to the log; None if the last writer closed it."""
        last = self.slots.get(self.last)
        return None if last is None or last.kind == _CLOSE else last.owner


def read_log(store: ObjectStore) -> LogView:
    """Read a log that may be written to at the same time."""
    while True:
        covers, epoch, name = _newest_checkpoint(store)
        checkpoint = None if name is None else store.get(name)
        if name is not None and checkpoint is None:  # two newer ones were written since the listing
            continue
        slots: dict[int, Slot] = {}
        listed = [name for name in numbered(store, LOG) if name > _slot(covers)]
        read = dict(zip(listed, store.get_each(listed), strict=True))
        end = _slot(covers + 1)
        while (written := read.get(end) or store.get(end)) is not None:
            slots[covers + len(slots) + 1] = Slot.from_bytes(written)
            end = _slot(covers + len(slots) + 1)
        content = LogView(checkpoint, covers, slots, max([epoch, *(slot.epoch for slot in slots.values())]))
        has_gap = listed[-1:] > [end]
        if _newest_checkpoint(store)[0] != covers:  # some slots may have been deleted meanwhile
            continue
        if has_gap:
            raise LedgerDamaged(
                f"{end} is missing, although later objects of the log are there. Nothing was bought, because that "
                "could pay twice. Restore it from a copy or an earlier version, or start a new run directory."
            )
        return content


def _slot(number: int) -> str:
    return f"{LOG}/{number:012d}"


def numbered(store: ObjectStore, folder: str) -> list[str]:
    """List our objects in a folder, ignoring those of other programs, such as folder markers."""
    return [name for name in store.names(f"{folder}/") if _NUMBERED.fullmatch(name)]


def _newest_checkpoint(store: ObjectStore) -> tuple[int, int, str | None]:
    """Return the number that the newest checkpoint covers, its epoch, and its name."""
    names = numbered(store, CHECKPOINTS)
    if not names:
        return 0, 0, None
    covers, epoch = names[-1].removeprefix(f"{CHECKPOINTS}/").split("-")
    return int(covers), int(epoch), names[-1]


class FencedLog:
    """The open log of one writer."""

    def __init__(
        self,
        store: ObjectStore,
        owner: Owner | None = None,
        *,
        pause: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._owner = owner or Owner.here()
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

    def wait_until_free(self, say: Callable[[Owner], object]) -> Owner | None:
        """Wait until the log stops growing, unless its owner closed it or has ended; return one that still writes."""
        found = read_log(self._store)
        if found.owner is None or found.owner.has_ended():
            return None
        say(found.owner)
        end = self._clock() + STILL_S
        while self._clock() < end:
            self._pause(_LOOK_EVERY_S)
            if self._store.get(_slot(found.last + 1)) is not None:
                return found.owner
        return None

    def open(self) -> LogView:
        """Take over the log, so that earlier writers can't write any more; return its content."""
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
                    return LogView(found.checkpoint, found.covers, slots, self.epoch)
            # If there is a newer checkpoint, the barrier may be among compacted slots, where it has no effect.

    def commit(self, content: bytes) -> None:
        """Append content, durably; raise `Fenced`, or OSError if the outcome is unknown."""
        self._add(_COMMIT, content)

    def beat(self, after_s: float | None = None) -> None:
        """Extend the lease if nothing was committed for a while."""
        if self._clock() - self.committed_at >= (BEAT_S if after_s is None else after_s):
            self._add("beat", b"")

    def close(self) -> None:
        """Record that this writer is done."""
        self._add(_CLOSE, b"")

    def checkpoint(self, content: bytes, covers: int) -> None:
        """Put a checkpoint of everything up to a number, and delete what two checkpoints cover, except barriers."""
        self._store.put(f"{CHECKPOINTS}/{covers:012d}-{self.epoch:06d}", content)
        names = numbered(self._store, CHECKPOINTS)
        self._store.delete(names[:-2])
        if len(names) > 1:
            covered = int(names[-2].removeprefix(f"{CHECKPOINTS}/").split("-")[0])
            old = {number: kind for number, kind in self._kinds.items() if number <= covered}
            self._kinds = {number: kind for number, kind in self._kinds.items() if number not in old}
            self._store.delete([_slot(number) for number in sorted(old) if old[number] != _BARRIER])

    def _add(self, kind: str, content: bytes) -> None:
        with self._lock:
            if self.is_fenced:
                raise Fenced("another writer has taken over this run directory")
            if self.is_doubtful:
                raise OSError("an earlier commit may have arrived or not, so nothing more is written")
            self._put_at(self.last + 1, self._next(kind, content))

    def _put_at(self, number: int, written: bytes) -> None:
        self.is_doubtful = True
        if not self._is_put(number, written):
            self.is_fenced = True
            raise Fenced("another writer has taken over this run directory")
        self.is_doubtful = False
        self._kinds[number] = _COMMIT
        self.last, self.committed_at = number, self._clock()

    def _next(self, kind: str, content: bytes = b"") -> bytes:
        self._seq += 1
        return Slot(kind, self.epoch, self._nonce, self._seq, self._owner, time.time(), content).to_bytes()

    def _is_put(self, number: int, written: bytes) -> bool:
        """Put an object into a free slot; return False if it is taken; raise OSError if the outcome is unknown."""
        return is_put(self._store, _slot(number), written, self._pause)

    def _is_newest(self, covers: int) -> bool:
        # A method, so that the simulation can show what happens without it.
        return _newest_checkpoint(self._store)[0] == covers


def is_url(path: object) -> bool:
    """Whether a run directory is given as the URL of an object store."""
    return isinstance(path, str) and _URL.fullmatch(path) is not None
