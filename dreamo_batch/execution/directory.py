"""The run directory: its files, its lock, and its manifest `run.json`."""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import filelock

from dreamo_batch.errors import DirectoryError, DirectoryLocked, LedgerDamaged, path_given
from dreamo_batch.execution import durable

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
    """What `run.json` holds: whose directory it is and how the last call went; never the key.

    Attributes
    ----------
    schema : int
        Version of the directory's format.
    package_version : str
        Version of this package that wrote last.
    service : str
        ``"loopback"`` or ``"host:port"``.
    entropy : str
        Hex digits that seeds are drawn from.
    generation : int
        How often the ledger was opened for writing.
    table_id : str or None
        Which table `jobs.parquet` and `results.parquet` belong to.
    settings : dict
        Options of the last call.
    reconciliation : dict
        Rows in and rows accounted for at the end of the last call.

    Examples
    --------
    >>> Manifest(service="loopback", entropy="00").generation
    0
    """

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
    """Paths of a run directory, its manifest and its lock.

    Examples
    --------
    >>> RunDirectory("runs/first").images.name
    'images'
    """

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
        """Read `run.json`; None where it is missing or can't be read.

        Raises
        ------
        DirectoryError
            If it was written by a newer version of this package.
        """
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
        """Change some fields of `run.json`.

        Raises
        ------
        LedgerDamaged
            If there is none to change, and this object never wrote one that can stand in for it.
        """
        manifest = self.read_manifest() or self._manifest
        if manifest is None:
            raise LedgerDamaged(f"{self.path / MANIFEST} is gone; run again on this directory to rebuild it.")
        manifest = replace(manifest, **changes)
        self.write_manifest(manifest)
        return manifest

    def make(self) -> None:
        """Make the folder, if it is not there.

        Raises
        ------
        DirectoryError
            If the path is no folder.
        OSError
            If the folder can't be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise DirectoryError(f"{self.path} is not a folder; give another run directory.") from None

    def lock(self) -> None:
        """Become the one writer.

        Raises
        ------
        DirectoryLocked
            If another process is; the message names it.
        DirectoryError
            If the path is no folder.
        OSError
            If the folder can't be made or written to.
        """
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
        """Refuse to go on in a folder that another writer could not find, or could take for its own.

        Raises
        ------
        FileNotFoundError
            If the directory or its lock was moved or deleted since `lock`.
        """
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
    """Whether a directory is the one it was, not a copy; a device may have another number after it was mounted again.

    Examples
    --------
    >>> is_same_place("8-20-21", "8-20-33"), is_same_place("8-20-21", "9-20-21"), is_same_place("8-20-21", "8-40-41")
    (True, True, False)
    """
    if not before:
        return True
    (device, folder, lock), (device_now, folder_now, lock_now) = before.split("-"), now.split("-")
    return folder == folder_now and (device == device_now or lock == lock_now)


def new_entropy() -> str:
    """Draw the digits that a run's seeds come from.

    Examples
    --------
    >>> len(new_entropy())
    32
    """
    return secrets.token_hex(16)


def refuse_newer(schema: int, path: Path) -> None:
    """Refuse a format this version does not know."""
    if schema > SCHEMA_VERSION:
        raise DirectoryError(
            f"{path} was written by a newer version of dreamo_batch (format {schema}, this one knows "
            f"{SCHEMA_VERSION}). Upgrade the package to go on."
        )
