"""A run directory in a store has a replica: a local folder of the same layout, rebuilt from the store at each opening.

The store arbitrates. Each commit of a journal is an object of its log, which must be there before the commit counts;
other files are put by their name when they are replaced here. Nothing in the folder is trusted.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import threading
import time
from collections import defaultdict, deque
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import filelock

from dreamo_batch import errors, files
from dreamo_batch.engine import store
from dreamo_batch.engine.store import (
    FIRST_SLICE,
    Fenced,
    FencedLog,
    LogView,
    ObjectStore,
    is_url,
    read_log,
    refuse_unsafe,
)
from dreamo_batch.errors import DirectoryError, LedgerDamaged, UsageError, logger_named
from dreamo_batch.parallel import bars, each
from dreamo_batch.text import clock_time, counted, same_call, wording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dreamo_batch.engine.attempts import Attempt

logger = logger_named(__name__)

CACHE_VARIABLE: Final = "DREAMO_CACHE_DIR"
# A create isn't sent if its commit is older: a suspended machine mustn't send what others have settled since.
CREATE_WITHIN_S: Final = 10.0
# A writer that was suspended may still send attempts younger than this.
SETTLED_AFTER_S: Final = 15 * 60.0
MARKER: Final = "store.json"
_FILES: Final = "files"
_STRAYS: Final = "strays"
_CHECKPOINT: Final = "checkpoint.parquet"
_OF_LOG: Final = ("checkpoint*.parquet", "journal-*.jsonl", "journal.end")
# Read at each opening; everything else is fetched when needed.
_NAMED: Final = ("run.json", "jobs.parquet", "results.parquet")
_PICTURES: Final = "images"
_FOLDERS: Final = (_PICTURES, "inputs", "references")
_PARTS: Final = "parts"
_OWN: Final = (store.LOG, store.CHECKPOINTS, _FILES, _STRAYS)
_SHARDS: Final = "shards"
_OF_SHARD: Final = re.compile(rf"({_SHARDS}/[^/]+/)(.+)")  # each has its own log and files
_NOT_PUT: Final = (*_OF_LOG, MARKER, _PARTS, "*lock", "*pid", _SHARDS, "slices", "gateway*", "strays-*", ".*")
_PULLED_FOR_S: Final = 1.0  # because one call opens a directory several times
_PULLED_FOR_TIMES: Final = 5.0  # times as long as the pull took: 64 shards in a slow store take seconds


def reread(folder: Path) -> None:
    """Make the next use of a folder and its shards read the store again, because others may have written to it."""
    for path in [path for path in _pulled_until.copy() if path.is_relative_to(folder)]:
        _pulled_until.pop(path, None)


def folder_of(url: str) -> Path:
    """Return the local folder of a run directory in a store."""
    scheme, _, rest = url.partition("://")
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dreamo-batch"
    return Path(os.environ.get(CACHE_VARIABLE) or default).expanduser().absolute() / scheme / rest.strip("/")


def url_of(folder: Path) -> str | None:
    """Return the URL of which a local folder is the replica; None for an ordinary folder."""
    url = _marker(folder).get("url")
    return url if isinstance(url, str) else None


def _marker(folder: Path) -> dict[str, Any]:
    try:
        read = json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


open_store: Callable[[str], ObjectStore] = ObjectStore  # of a run directory; tests put others in its place
_pulled_until: dict[Path, float] = {}


class Replica:
    """The local folder of a run directory in a store: the one for its URL, or a copy of that."""

    def __init__(self, url: str, path: Path) -> None:
        self.url = url.rstrip("/")
        self.path = path
        self._log: FencedLog | None = None
        self._slots: dict[int, int] = {}
        self._beating = threading.Event()

    @cached_property
    def store(self) -> ObjectStore:
        """The store, opened at first use."""
        return open_store(self.url)

    # Reading.

    def pull(self) -> None:
        """Bring the folder up to date with the store for reading, unless that was done a moment ago."""
        began_at = time.monotonic()
        if began_at < _pulled_until.get(self.path, -math.inf) and url_of(self.path):
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.path / "pull.lock"), self._named_in_errors():
            self._write(read_log(self.store))
        now = time.monotonic()
        _pulled_until[self.path] = now + max(_PULLED_FOR_S, (now - began_at) * _PULLED_FOR_TIMES)

    def fetch(self, paths: Iterable[str]) -> None:
        """Fetch files that aren't in the folder, such as pictures; those gone from the store stay missing."""

        def fetch_one(path: str) -> None:  # where it writes, so that none waits in memory for the disk
            if (content := self.read(path)) is not None:
                _place(self.path / path, content)

        wanted = [path for path in dict.fromkeys(paths) if not (self.path / path).exists()]
        with self._named_in_errors():
            deque(each(wanted, fetch_one, what="fetching", n_workers=store.READ_AT_ONCE), maxlen=0)

    def fetch_additions(self) -> None:
        """Fetch everything besides the ledger and the pictures that isn't in the folder, such as references."""
        with self._named_in_errors():
            folders, names = self.store.level(_FILES)
            for folder in folders:
                if folder != f"{_FILES}/{_PICTURES}":  # there may be many
                    names += self.store.names(f"{folder}/")
        with bars(wanted=False):
            self.fetch(name.removeprefix(f"{_FILES}/") for name in names)

    def parts(self, name: str) -> list[Path]:
        """Return the parts of a file that only grows, oldest first."""
        found = self.names(f"{_PARTS}/{name}/")
        with bars(wanted=False):
            self.fetch(found)
        return [self.path / part for part in found]

    def add_part(self, name: str, content: bytes) -> None:
        """Append a part to a file that only grows; any process may do so at any time."""
        part = f"{_PARTS}/{name}/{time.time():017.6f}-{secrets.token_hex(4)}"
        self.store.put_new(f"{_FILES}/{part}", content)
        _place(self.path / part, content)

    def names(self, prefix: str = "") -> list[str]:
        """List the store's files outside the log whose names begin with a prefix."""
        with self._named_in_errors():
            return [name.removeprefix(f"{_FILES}/") for name in self.store.names(f"{_FILES}/{prefix}")]

    def folders(self, folder: str) -> list[str]:
        """List the folders within a folder of the store."""
        with self._named_in_errors():
            return self.store.level(folder)[0]

    def read(self, path: str) -> bytes | None:
        """Read a file from the store as it is now; None if there is none."""
        shard, inner = found.groups() if (found := _OF_SHARD.fullmatch(path)) else ("", path)
        return self.store.get(f"{shard}{_FILES}/{inner}")

    def _write(self, found: LogView) -> None:
        """Write the store's content into the folder, and delete what the store doesn't have."""
        if not found.last:
            self._refuse_last_copy()
        journals: dict[int, bytearray] = defaultdict(bytearray)
        for content in found.commits:
            number, _, lines = content.partition(b"\n")
            try:
                journals[int(number)] += lines
            except ValueError:
                raise LedgerDamaged("an object of the log is damaged. Restore it from a copy.") from None
        ledger = {f"journal-{number:06d}.jsonl": bytes(lines) for number, lines in journals.items()}
        if found.checkpoint is not None:
            ledger[_CHECKPOINT] = found.checkpoint
        named = {name: self.read(name) for name in _NAMED}
        wanted = ledger | {name: content for name, content in named.items() if content is not None}
        for pattern in (*_OF_LOG, *_NAMED):
            for path in self.path.glob(pattern):
                if path.name not in wanted:
                    path.unlink(missing_ok=True)
        for name, content in wanted.items():
            _place(self.path / name, content)
        self.pull_strays()
        heard_at = found.slots[found.last].at if found.slots else 0.0  # in Unix seconds by the writer's clock
        is_live = found.owner is not None and not found.owner.has_ended()
        marker = {"url": self.url, "owner": str(found.owner or ""), "heard_at": heard_at, "is_live": is_live}
        _place(self.path / MARKER, json.dumps(marker).encode())

    def _refuse_last_copy(self) -> None:
        """Refuse to rebuild a folder that has a ledger if the store is empty."""
        folders = (self.path, *self.path.glob(f"{_SHARDS}/*"))
        if any(path for folder in folders for pattern in _OF_LOG for path in folder.glob(pattern)):
            raise LedgerDamaged(
                f"there is no run directory any more, although {self.path} has the ledger of one. Check the address of "
                "the store, or restore its objects; to start anew, move that folder away."
            )

    def pull_strays(self) -> None:
        """Fetch the answers that other writers couldn't commit."""
        for name in self.store.names(f"{_STRAYS}/"):
            _place(self.path / name.removeprefix(f"{_STRAYS}/"), self.store.get(name) or b"")

    @property
    def is_live(self) -> bool:
        """Whether a process was writing when the store was last read, according to its log."""
        return bool(_marker(self.path).get("is_live"))

    @property
    def owner(self) -> str:
        """The process that was writing then."""
        return str(_marker(self.path).get("owner") or "")

    @property
    def silence(self) -> str:
        """Return since when the last writer has been silent; empty while its lease is valid."""
        heard_at = float(_marker(self.path).get("heard_at") or 0.0)
        if not self.is_live or time.time() - heard_at < store.STILL_S:
            return ""
        return (
            f"No heartbeat from {self.owner}, which is working on {self.url}, since {clock_time(heard_at)}. If it was "
            f"killed, run {same_call()} again to continue; nothing is bought twice."
        )

    # Writing.

    def wait_until_free(self) -> None:
        """Wait to see whether the last writer, which didn't close, is still running; raise if it is."""

        def say(owner: store.Owner) -> None:
            waiting = f"Waiting up to {store.STILL_S:.0f} s to see whether it is still running."
            logger.warning("%s hasn't closed %s. %s", owner, self.url, waiting)

        with self._named_in_errors():
            owner = FencedLog(self.store).wait_until_free(say)
        if owner is not None:
            raise errors.DirectoryLocked(
                f"{owner} is writing to {self.url}. Wait until it ends, or stop it. You can still read the directory "
                "(load, status, results)."
            )

    def has_log(self) -> bool:
        """Whether a run directory was begun here."""
        with self._named_in_errors():
            return bool(store.numbered(self.store, store.LOG))

    def take_over(self) -> None:
        """Become the only writer, so that no other can commit any more, and rebuild the folder."""
        with self._named_in_errors():
            if not self.has_log():
                self.refuse_taken()
                self._refuse_last_copy()
                refuse_unsafe(self.store, self.url)
            log = FencedLog(self.store)
            with filelock.FileLock(self.path / "pull.lock"):
                self._write(log.open())
            self._log, self._slots = log, {}
            for folder in _FOLDERS:
                local = sorted((self.path / folder).glob("[!.]*"))
                stored = set(self.names(f"{folder}/") if local else ())
                for path in local:
                    if path.relative_to(self.path).as_posix() not in stored:
                        self._publish(path)
        files.publish(self.path, self._publish)
        self._beating.clear()
        threading.Thread(target=self._beat, args=(log,), name="dreamo-lease", daemon=True).start()

    def refuse_taken(self) -> None:
        """Refuse a location without a log that a budget, another run directory, or one on a disk uses."""
        with self._named_in_errors():
            parent, _, name = self.url.rpartition("/")
            above = open_store(parent) if is_url(parent) else self.store
            is_budget = any(place.get(FIRST_SLICE) for place in (self.store, above))
            is_within = name in (*_OWN, *_FOLDERS, _SHARDS) and store.numbered(above, store.LOG)
            is_of_disk = self.store.get(_NAMED[0]) is not None
        if is_budget or is_within:
            what = "a budget" if is_budget else "another run directory"
            raise DirectoryError(f"{self.url} lies in {what}. Choose another run directory.")
        if is_of_disk:
            raise DirectoryError(
                f"{self.url} holds files of a run directory on a disk. Copy them back and continue there, or "
                "choose another run directory."
            )

    def release(self, *, is_inherited: bool = False) -> None:
        """Stop being the writer, and record that in the log, unless the log is the parent process's (after a fork)."""
        log, self._log = self._log, None
        self._beating.set()
        files.publish(self.path, None)
        if log is not None and not log.is_fenced and not is_inherited:
            with suppress(OSError):  # then a successor waits a little longer
                log.close()

    @property
    def is_lost(self) -> bool:
        """Whether another writer has taken over the directory."""
        return self._log is not None and self._log.is_fenced

    def confirm(self) -> None:
        """Raise unless this is still the writer, according to the log now."""
        if self._log is not None:
            self._log.beat(after_s=0.0)

    def ship(self, number: int, lines: bytes) -> None:
        """Append lines of a journal to the log; on return they are durable."""
        if self._log is None:
            raise Fenced(f"{self.url} is not open for writing")
        self._log.commit(b"%d\n%b" % (number, lines))
        self._slots[number] = self._log.last

    def checkpoint(self, covered: int) -> None:
        """Put the checkpoint of all journals up to a number."""
        if self._log is not None and covered in self._slots and not self._log.is_doubtful:
            self._log.checkpoint((self.path / _CHECKPOINT).read_bytes(), self._slots[covered])

    def put_strays(self, path: Path) -> None:
        """Put a file of answers that could not be committed; it stays, since its writer may add to it any time."""
        self.store.put(f"{_STRAYS}/{path.name}", path.read_bytes())

    def _publish(self, path: Path) -> None:
        """Put a file that was replaced in the folder."""
        relative = path.relative_to(self.path)
        if any(Path(relative.parts[0]).match(pattern) or relative.match(pattern) for pattern in _NOT_PUT):
            return
        self.store.put(f"{_FILES}/{relative.as_posix()}", path.read_bytes())

    def _beat(self, log: FencedLog) -> None:
        while not self._beating.wait(store.BEAT_S / 3):
            try:
                log.beat()
            except OSError as error:
                logger.info("the lease of %s was not extended: %s", self.url, error)

    @contextmanager
    def _named_in_errors(self) -> Iterator[None]:
        """Add the URL of the store to the errors of the block."""
        try:
            yield
        except Fenced:
            raise
        except LedgerDamaged as error:
            raise LedgerDamaged(f"{self.url}: {error}") from None
        except OSError as error:
            raise DirectoryError(
                f"{self.url} can't be used ({error}). Check the address, the network, and {store.ENVIRONMENT}."
            ) from error


def _place(path: Path, content: bytes) -> None:
    """Write a file unless it exists."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, lambda temporary: temporary.write_bytes(content))


def refuse_young(replica: Replica | None, attempts: Iterable[Attempt], now: float) -> None:
    """Refuse to treat attempts as unsent that a suspended machine might still send."""
    if replica is None:
        return
    young = [attempt for attempt in attempts if now - (attempt.sent_at or now) < SETTLED_AFTER_S]
    if young:
        left_min = math.ceil((SETTLED_AFTER_S - (now - min(one.sent_at or now for one in young))) / 60)
        wait = f"Wait {counted(left_min, 'minute')}"
        raise UsageError(
            f"Job {young[0].job_id} was about to be sent less than {SETTLED_AFTER_S / 60:.0f} minutes ago, and a "
            f"process that was suspended elsewhere might still send it. {wait}, or settle it with "
            f"{wording('resolve(..., not_sent=True, force=True)', '--not-sent --force')} if no other process is left."
        )
