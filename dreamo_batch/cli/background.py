"""Commands in the background: start, find and stop them."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from dreamo_batch import files
from dreamo_batch.cli.output import hint, warn
from dreamo_batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dreamo_batch.engine.directory import RunDirectory

_LOOK_EVERY_S: Final = 0.05
_DATED: Final = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d")
_DATE: Final = "%Y-%m-%d %H:%M:%S%z"


# Which process works on a run directory.


@dataclass(frozen=True, slots=True)
class Process:
    """A command that works on a run directory and keeps its file there locked until it ends."""

    path: Path
    pid: int
    host: str
    until: str  # what it waits for

    def __str__(self) -> str:
        return f"Process {self.pid}"

    @property
    def is_alive(self) -> bool:
        """Whether the process is still running on this machine."""
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self.host == here()
        except OSError:  # it has ended meanwhile
            pass
        return False

    def write(self) -> None:
        """Write its process id where `stop` looks for it; called in the process itself."""
        files.replace(self.path, self._lock_and_fill, is_durable=False)

    def _lock_and_fill(self, path: Path) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)  # closed when this process ends
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, f"{self.pid}\n{self.host}\n{self.until}\n".encode())

    @classmethod
    def read(cls, path: Path) -> Process | None:
        """Read what the last command wrote; None if it ended properly."""
        try:
            pid, host, until = path.read_text(encoding="utf-8").split("\n")[:3]
            return cls(path, int(pid), host, until)
        except (OSError, ValueError):
            return None


def _directory(run_dir: str) -> RunDirectory:
    """Open a run directory, importing what that needs only now, because `--help` doesn't need it."""
    from dreamo_batch.engine.directory import RunDirectory

    return RunDirectory(run_dir)


def _number_of(folder: Path) -> str:
    return str(folder.stat().st_ino)


def here() -> str:
    """Return the host, and the scope of process ids on it, as a container may share its host's name."""
    from dreamo_batch.engine.store import Owner

    owner = Owner.here()
    return f"{owner.host} {owner.namespace}"  # whatever the boot: the lock says whether a process lives


@contextmanager
def findable(run_dir: str) -> Iterator[None]:
    """Keep this process's id in the directory from when its call begins or waits until it ends."""
    from dreamo_batch.batch import announce

    directory, number = _directory(run_dir), os.getpid()
    path, is_new = directory.pid, not directory.path.exists()
    other = working_on(run_dir)
    if other is not None and other.until and other.pid != number:
        raise _taken(run_dir)

    def write(until: str) -> None:
        directory.make()
        Process(path, number, here(), until).write()

    token = announce.set(write)
    try:
        yield
    finally:
        announce.reset(token)
        left = Process.read(path)
        if left is not None and left.pid == number:
            path.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # the folder isn't empty
                directory.path.rmdir()


def working_on(run_dir: str) -> Process | None:
    """Return the command of this machine that works on a directory, or waits to."""
    process = Process.read(_directory(run_dir).pid)
    return process if process is not None and process.is_alive else None


def should_begin(run_dir: str) -> bool:
    """Whether a command waits for its start time in a directory where no call has begun yet."""
    process = working_on(run_dir)
    return process is not None and bool(process.until) and not _directory(run_dir).exists()


def sentence(run_dir: str) -> str:
    """Say which command works on a directory, and where its log is if the disk refused it; else return ""."""
    process = working_on(run_dir)
    sentences = []
    if process is not None:
        sentences = [
            f"{process} is waiting until {process.until}."
            if process.until
            else f"{process} is working on {run_dir}."
        ]
    with suppress(OSError):  # there is no log, or it belongs to another user
        log = _directory(run_dir).log
        for other in Path(tempfile.gettempdir()).glob(f"dreamo-batch-{_number_of(log.parent)}-*.log"):
            sentences += [f"Its log continues in {other}."] * (other.stat().st_mtime >= log.stat().st_mtime)
    return " ".join(sentences)


def _taken(run_dir: str) -> UsageError:
    return UsageError(f"{sentence(run_dir)} `dreamo-batch stop {shlex.quote(run_dir)}` stops it.")


# Stopping it.


def stop(run_dir: str) -> Process:
    """Interrupt the command that works on a directory, and wait until it has ended."""
    directory = _directory(run_dir)
    process = Process.read(directory.pid)
    if process is None or not process.is_alive:
        raise UsageError(_why_not(directory, process))
    try:
        with process.path.open("rb") as file:
            os.kill(process.pid, signal.SIGTERM)
            hint(f"Asked {process.pid} to stop; waiting for answers to requests already sent.")
            fcntl.flock(file, fcntl.LOCK_SH)  # unlocked once the process has ended
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has just ended
    except PermissionError:
        raise UsageError(f"{process} belongs to another user, who can stop it.") from None
    except KeyboardInterrupt:
        warn(f"Stopped waiting. {process} sends nothing more and ends once its requests are answered.")
        raise
    return process


def _why_not(directory: RunDirectory, process: Process | None) -> str:
    """Say why a run can't be stopped from here."""
    if process is not None and process.host != here():
        return f"{process} on {process.host.split()[0]} is working on {directory.name}, unless killed. Stop it there."
    if directory.is_locked():
        return (
            f"{directory.owner} is writing to {directory.name}, and isn't a command that can be stopped from here. "
            "Stop it where it was started."
        )
    if process is None:
        return f"Nothing is running in {directory.name}."
    return f"Nothing is running in {directory.name}: {process} was killed, or is working on the original of this copy."


# Putting a command in the background.


def detach(run_dir: str, words: Sequence[str], given: Mapping[str, Any]) -> tuple[int, Path, int | None]:
    """Start a process that continues a command; return its number, log and exit code once it has checked all."""
    directory = _directory(run_dir)
    if working_on(run_dir) is not None:
        raise _taken(run_dir)
    directory.make()
    path, log = directory.pid, directory.log
    command = [sys.executable, "-P", "-m", "dreamo_batch", "in-background", "--run-dir", run_dir, *words]
    with log.open("ab") as written:
        begins_at = written.tell()
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            child = subprocess.Popen(  # noqa: S603 - runs this program
                command, stdin=subprocess.PIPE, stdout=written, stderr=written, start_new_session=True
            )
        finally:
            signal.signal(signal.SIGHUP, before)
    assert child.stdin is not None  # noqa: S101 - it is a pipe
    try:
        with suppress(BrokenPipeError), child.stdin:  # its exit is noticed below
            child.stdin.write(json.dumps(given).encode())
        while child.poll() is None and getattr(Process.read(path), "pid", None) != child.pid:
            time.sleep(_LOOK_EVERY_S)
    except BaseException:  # usually an interrupt; whatever it is, nothing may keep buying
        child.terminate()
        warn(f"Stopped process {child.pid}; its log is {log}.")
        raise
    if child.returncode is not None:
        with log.open("rb") as written:
            written.seek(begins_at)
            warn(written.read().decode("utf-8", "replace"))
    code, child.returncode = child.returncode, 0  # this process no longer waits for it
    return child.pid, log, code


def take_over(run_dir: str) -> dict[str, Any]:
    """Read what this process is to continue, and date its output from now on."""
    given: dict[str, Any] = json.load(sys.stdin)
    beside = f"dreamo-batch-{_number_of(_directory(run_dir).path)}-"
    sys.stdout, sys.stderr = _DatedLines(sys.stdout, beside), _DatedLines(sys.stderr, beside)
    return given


class _DatedLines(io.TextIOBase):
    """Puts a date before each line without one; writes to a temporary file once the log can't be written."""

    def __init__(self, stream: TextIO, beside: str) -> None:
        self._stream, self._beside = stream, beside
        self._is_at_start = True

    def write(self, text: str) -> int:
        dated = ""
        for line in text.splitlines(keepends=True):
            is_to_be_dated = self._is_at_start and not _DATED.match(line)
            dated += f"{datetime.now().astimezone():{_DATE}} {line}" if is_to_be_dated else line
            self._is_at_start = line.endswith("\n")
        try:
            self._stream.write(dated)
            self._stream.flush()
        except OSError:  # the log is on the run's disk, which may also refuse records of purchases
            number, _ = tempfile.mkstemp(".log", self._beside, text=True)
            self._stream = open(number, "a", 1, "utf-8")  # noqa: PTH123, SIM115 - open until this process ends
            self._stream.write(dated)
        return len(text)

    def flush(self) -> None:
        if not self._stream.closed:  # as when the interpreter exits
            self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()


def wait_for_begin(run_dir: str) -> None:
    """Wait until the command on a directory no longer waits for its start time."""
    hint(sentence(run_dir))
    while (process := working_on(run_dir)) is not None and process.until:
        time.sleep(1.0)
