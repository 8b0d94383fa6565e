"""A run directory: its files, its manifest and its lock."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import secrets
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

import filelock
import pyarrow as pa

from dreamo_batch import files
from dreamo_batch.engine.replica import Replica, folder_of, url_of
from dreamo_batch.engine.store import FIRST_SLICE, FIRST_SLOT, Owner, check_location, is_url
from dreamo_batch.errors import DirectoryError, DirectoryLocked, LedgerDamaged, logger_named
from dreamo_batch.money import money
from dreamo_batch.text import same_call

logger = logger_named(__name__)


# What reading a missing, truncated, altered or foreign Parquet file raises.
UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)
SCHEMA_VERSION: Final = 2
MANIFEST: Final = "run.json"
JOBS: Final = "jobs.parquet"
RESULTS: Final = "results.parquet"
IMAGES: Final = "images"
INPUTS: Final = "inputs"
GATEWAY: Final = "gateway"
SHARDS: Final = "shards"
_LEDGER: Final = ("journal-*.jsonl", "checkpoint*.parquet")
# For a directory in which several processes buy; recorded in its run.json, so it can't change.
N_SHARDS: Final = 64
LOCK: Final = "lock"
PID: Final = "run.pid"
LOG: Final = "run.log"
_OPENED_AT_ONCE: Final = 16
_OF_OTHERS: Final = (
    (FIRST_SLICE, "the budget {}"),
    (FIRST_SLOT, "a copy of a run's objects ({}); that run continues only in its store"),
)
_PATIENCE_S: Final = 0.5  # longer than a reader takes to check for a writer
# Without a fallback to lock files, which would remain after a kill.
_file_lock: Final = partial(filelock.FileLock, thread_local=False, fallback_to_soft=False)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `run.json`: the run, its service and how the last call went; never the key."""

    service: str
    entropy: str
    schema: int = SCHEMA_VERSION
    package_version: str = ""
    generation: int = 0
    table_id: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)
    reconciliation: dict[str, Any] = field(default_factory=dict)
    n_shards: int = 0
    cap: str | None = None  # over all shards, in USD as exact decimal text
    budget: str | None = None  # that all shards belong to


_TYPES: Final = {
    name: get_args(hint) if isinstance(hint, UnionType) else get_origin(hint) or hint
    for name, hint in get_type_hints(Manifest).items()
}


class RunDirectory:
    """Paths of a run directory, its manifest and its lock."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.given = check_location("run_dir", path)
        is_in_store = is_url(self.given)
        self.path = folder_of(self.given) if is_in_store else Path(self.given).expanduser().absolute()
        if str(self.path).encode(errors="replace").decode() != str(self.path):
            raise DirectoryError(
                f"The path {str(self.path)!r} isn't UTF-8, which a run's tables need. Choose another run directory."
            )
        url = self.given if is_in_store else url_of(self.path)
        self.replica = None if url is None else Replica(url, self.path)
        self.jobs = self.path / JOBS  # the table of the last call
        self.results = self.path / RESULTS  # the results at the end of the last call
        self.images = self.path / IMAGES  # saved pictures
        self.inputs = self.path / INPUTS  # reference pictures that came from memory or were corrected
        self.gateway = self.path / GATEWAY  # the state of the embedded gateway
        self.pid = self.path / PID  # the process id of the command that works here
        self.log = self.path / LOG  # the output of commands in the background
        self._lock_path = os.fspath(self.path / LOCK)
        self._lock: filelock.BaseFileLock | None = None
        self._lock_id: tuple[int, int] | None = None
        self._is_lost = False
        self.folder_fd: int | None = None
        self.manifest: Manifest | None = None  # as last read or written
        if self.replica is not None and is_in_store and not self._is_locked_here():
            self.replica.pull()

    @property
    def name(self) -> str:
        """Its name for people and other programs: the absolute path, or the URL."""
        return str(self.path) if self.replica is None else self.replica.url

    def exists(self) -> bool:
        """Whether this folder holds files of a run."""
        return any((self.path / name).exists() for name in (MANIFEST, JOBS, RESULTS)) or self.has_purchases()

    def has_purchases(self) -> bool:
        """Whether pictures or results show earlier purchases."""
        return self.results.exists() or (self.images.is_dir() and any(self.images.iterdir()))

    def read_manifest(self) -> Manifest | None:
        """Read `run.json`; None where it is missing or can't be read."""
        with suppress(
            OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError
        ):
            path = self.path / MANIFEST
            fields = json.loads(path.read_text(encoding="utf-8") if path.is_file() else "")  # not a pipe
            refuse_newer(int(fields["schema"]), self.path)
            known = {name: value for name, value in fields.items() if name in _TYPES}
            is_cap = known.get("cap") is None or money(known["cap"]) is not None  # a word would lift it
            if is_cap and all(isinstance(value, _TYPES[name]) for name, value in known.items()):
                self.manifest = Manifest(**known)
                return self.manifest
        return None

    def require_manifest(self) -> Manifest:
        """Return the content of `run.json`; raise if it is missing or can't be read."""
        manifest = self.read_manifest()
        if manifest is None:
            in_shards = ", a run with shards, so nothing is bought. Restore it from a copy"
            remedy = in_shards if self.is_sharded else ". Run the table again to rebuild it"
            raise LedgerDamaged(f"run.json is missing or can't be read in {self.name}{remedy}.")
        return manifest

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace `run.json` atomically."""
        text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
        files.replace(self.path / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))
        self.manifest = manifest

    def update_manifest(self, **changes: Any) -> Manifest:
        """Change some fields of `run.json`."""
        manifest = self.read_manifest() or self.manifest
        if manifest is None:
            raise LedgerDamaged(
                f"{self.path / MANIFEST} is missing. Run again on this directory to rebuild it."
            )
        manifest = replace(manifest, **changes)
        self.write_manifest(manifest)
        return manifest

    @property
    def is_sharded(self) -> bool:
        """Whether its attempts are recorded in shards, according to its files or else to `run.json`."""
        manifest, shards = self.read_manifest(), self.path / SHARDS
        in_shards = any(any(shards.glob(f"*/{name}")) for name in _LEDGER)
        if self.replica is None and in_shards != any(any(self.path.glob(name)) for name in _LEDGER):
            return in_shards
        if manifest is not None:
            return manifest.n_shards > 0
        return shards.is_dir() or (self.replica is not None and bool(self.replica.folders(SHARDS)))

    def shard(self, name: str) -> RunDirectory:
        """Return one of its shards, such as ``shards/0a``."""
        return RunDirectory(f"{self.given.rstrip('/')}/{name}" if is_url(self.given) else self.path / name)

    def shards(self) -> dict[str, RunDirectory]:
        """Return the existing shards by their path in the directory; none for an ordinary directory."""
        if not self.is_sharded:
            return {}
        names = [f"{SHARDS}/{number:02x}" for number in range(N_SHARDS)]
        if self.replica is None or not is_url(self.given):
            return {name: self.shard(name) for name in names if (self.path / name).is_dir()}
        stored = [name for name in self.replica.folders(SHARDS) if name in names]
        with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:  # because each asks the store
            opened = zip(stored, pool.map(self.shard, stored), strict=True)
            return {name: shard for name, shard in opened if shard.exists()}

    def make(self) -> None:
        """Create the folder unless it exists."""
        self.refuse_foreign_folder()
        self.path.mkdir(parents=True, exist_ok=True)

    def refuse_foreign_folder(self) -> None:
        """Raise if the path is a file, or a folder of another kind, such as a budget."""
        for folder in (self.path, *self.path.parents) if self.replica is None else ():
            for name, what in _OF_OTHERS:
                if os.path.isfile(folder / name):  # noqa: PTH113 - Path.is_file would fail in a closed folder
                    lies = f"{self.path} lies in {what.format(folder)}"
                    raise DirectoryError(f"{lies}. Choose another run directory.")
            if os.path.lexists(folder) and not folder.is_dir():
                raise DirectoryError(f"{self.path} is not a folder. Choose another run directory.")

    def lock(self) -> None:
        """Take the lock, to be the only writer."""
        self.make()
        owner, me = self.owner, str(Owner.here())
        self._lock = _file_lock(self.path / LOCK)
        try:
            self._lock.acquire(timeout=_PATIENCE_S, poll_interval=0.05)
            (self.path / LOCK).write_text(me, encoding="utf-8")
            self._lock_id, self._is_lost = self._find_lock(), False
            self.folder_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            if self.replica is not None:
                self.replica.take_over()
        except filelock.Timeout:
            self._lock = None
            raise DirectoryLocked(
                f"{owner} is writing to {self.name}. Wait until it ends, or stop it. You can still read the directory "
                "(load, status, results)."
            ) from None
        except BaseException:
            self.unlock()
            raise

    def unlock(self) -> None:
        """Release the lock."""
        if self._lock is None:
            return
        if self.replica is not None:
            self.replica.release()
        self._lock.release(force=True)
        self._lock, self._lock_id = None, None
        if self.folder_fd is not None:
            os.close(self.folder_fd)
            self.folder_fd = None

    def leave_lock(self) -> None:
        """Forget a lock inherited by a forked process; the parent keeps it."""
        self._lock, self._lock_id = None, None  # filelock has closed its file
        if self.replica is not None:
            self.replica.release(is_inherited=True)

    def unwritable(self, error: OSError) -> str:
        """Say that it takes no more records, and how to continue."""
        if self.replica is not None and self.replica.is_lost:
            return (
                f"another process has taken over {self.replica.url}. Nothing more is submitted; answers that "
                f"still arrive are put beside its log, and the next call there reads them. Run {same_call()} again "
                "once the other has ended: what is in flight is picked up."
            )
        if not self.is_lost():
            return (
                f"Can't write to the run directory {self.path if error.errno else self.name} "
                f"({error.strerror or error}). No more jobs are submitted. {self.remedy(error)}, then run "
                f"{same_call()} again to pick up the jobs in flight."
            )
        return (
            f"The run directory {self.path}, or its lock file, was moved or deleted during the run. No more jobs "
            "are submitted. Answers that still arrive are kept in strays-*.jsonl, which the next call on the directory "
            f"reads. Put the directory back, or run {same_call()} on its new path, to pick up the jobs in flight."
        )

    def remedy(self, error: OSError) -> str:
        """Return what to do if the directory can't be written to."""
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return "Raise the limit on open files (ulimit -n)"
        is_no_folder = error.errno == errno.EEXIST and error.filename == str(self.images)
        if error.errno in (errno.EISDIR, errno.ELOOP) or is_no_folder:  # what is there isn't ours
            return f"Move {error.filename} away"
        if error.errno == errno.ENOENT:
            return "Put the directory back"
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            return "Choose one on a file system that has locks (flock)"
        if error.errno is None and self.replica is not None:
            return "Check the network, the store and its credentials"
        return "Free some space or fix the directory"

    def refuse_loss(self, *, is_asked: bool = False) -> None:
        """Raise if another writer may have started here; `is_asked` also asks the store."""
        if is_asked and self.replica is not None:
            self.replica.confirm()
        if self.is_lost():
            what = "the directory or its lock file was moved or deleted during the run"
            raise FileNotFoundError(errno.ENOENT, what, str(self.path))

    def is_lost(self) -> bool:
        """Whether this writer's lock was ever missing at its path, so that another writer may have started."""
        if self._lock is None:
            return False
        try:
            self._is_lost |= self._find_lock() != self._lock_id
        except OSError:
            self._is_lost = True
        return self._is_lost or (self.replica is not None and self.replica.is_lost)

    def folder_identity(self) -> str:
        """Return an identity of the directory that survives a move but not a copy."""
        if self.replica is None:
            return identity_of_file(self.path)
        return hashlib.sha256(self.replica.url.encode()).hexdigest()[:16]

    def is_locked(self) -> bool:
        """Whether any process is writing here, or in a shard."""
        if self._is_locked_here() or (self.replica is not None and self.replica.is_live):
            return True
        here = map(RunDirectory, self.path.glob(f"{SHARDS}/[0-9a-f]*"))  # even if run.json can't be read
        return any(one.is_locked() for one in (here if self.replica is None else self.shards().values()))

    def _is_locked_here(self) -> bool:
        if self._lock is not None:
            return True
        if not (self.path / LOCK).exists():
            return False
        probe = _file_lock(self.path / LOCK)
        try:
            probe.acquire(timeout=0)
        except filelock.Timeout:
            return True
        except OSError:  # a read-only folder, in which the lock can't be tested
            return False
        probe.release()
        return False

    def _find_lock(self) -> tuple[int, int]:
        found = os.stat(self._lock_path)  # noqa: PTH116 - called twice per write to the journal
        return found.st_dev, found.st_ino

    @property
    def owner(self) -> str:
        """The process that is writing here, if any."""
        owner = ""
        if self.replica is not None and not self._is_locked_here():
            owner = self.replica.owner
        elif (self.path / LOCK).is_file():  # not a pipe, which would block
            with suppress(OSError):
                owner = (self.path / LOCK).read_text(encoding="utf-8", errors="replace").strip()
        return owner or "Another process"


def shard_of(job_id: str) -> str:
    """Return the path of the shard that a job belongs to: by the first six bits of its id."""
    return f"{SHARDS}/{int(job_id[:2], 16) * N_SHARDS // 256:02x}"


def identity_of_file(path: Path) -> str:
    """Return an identity of a file or folder that survives a move but not a copy."""
    return f"{path.stat().st_ino}-{_born_at(path)}"


def is_same_file(before: str, now: str) -> bool:
    """Whether a file or folder is still the same and not a copy; an empty identity is unknown and matches."""
    (number, _, born), (number_now, _, born_now) = before.partition("-"), now.partition("-")
    if not (before and born and born_now):
        return not before or number == number_now
    is_renumbered = _IS_LINUX and born.endswith(_HUNDREDTHS)
    return born == born_now and (is_renumbered or number == number_now)  # numbers of deleted files are reused


# Linux numbers the files of exFAT and FAT anew at each mount. Their times are of whole hundredths of a second, and no
# copy there has that of its original; on a share of a network it may.
_IS_LINUX: Final = sys.platform == "linux"
_HUNDREDTHS: Final = "0000000"  # nanoseconds
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_BTIME_AT: Final = 80


def _born_at(path: Path) -> str:
    """Return when a file or folder was created, which Python knows only on some systems; empty if unknown."""
    born = getattr(path.stat(), "st_birthtime", None)
    if born is not None:
        return str(born)
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        asked = ctypes.CDLL(None).statx(-100, os.fsencode(path), 0, _STATX_BTIME, buffer)
    except (OSError, AttributeError):  # another C library
        return ""
    (known,) = struct.unpack_from("I", buffer)
    seconds, nanoseconds = struct.unpack_from("qI", buffer, _BTIME_AT)
    return f"{seconds}.{nanoseconds:09}" if asked == 0 and known & _STATX_BTIME else ""


def new_entropy() -> str:
    """Draw the entropy from which a run's seeds are derived."""
    return secrets.token_hex(16)


def refuse_newer(schema: int, path: Path) -> None:
    """Raise for a format newer than this version knows."""
    if schema > SCHEMA_VERSION:
        raise DirectoryError(
            f"{path} was written by a newer version of dreamo_batch (format {schema}; this version reads up to "
            f"{SCHEMA_VERSION}). Upgrade the package."
        )
