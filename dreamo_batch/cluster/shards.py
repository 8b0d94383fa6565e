"""One shard of a table, in whatever process it is worked on: the task that is sent there, and what it comes to."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import files
from dreamo_batch.call import Call, CallInputs, Service
from dreamo_batch.engine.checkpoint import StoredTable, read_jobs
from dreamo_batch.engine.directory import INPUTS, RunDirectory
from dreamo_batch.engine.status import AMOUNTS, Snapshot
from dreamo_batch.engine.store import Replica, folder_of, is_url
from dreamo_batch.errors import BudgetReached, DirectoryLocked, DreamoError, logger_named
from dreamo_batch.live import begin_held, interrupts
from dreamo_batch.money import exact_text
from dreamo_batch.parallel import bars

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dreamo_batch.engine.plan import RunOptions

logger = logger_named(__name__)

SIGNAL: Final = "call.json"
_PULSE: Final = "pulse.json"
_BEAT_S: Final = 1.0
_BEAT_OF_STORE_S: Final = 5.0


def beat_s(run_dir: str) -> float:
    """Return how often workers look whether to stop, and say how far they are."""
    return _BEAT_OF_STORE_S if is_url(run_dir) else _BEAT_S


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What a worker needs to know; it may be done any number of times, and buys nothing that was bought.

    `pulse_id` tells what this worker says from what another says of the same shard. `table` is a Parquet file of the
    shard's rows. `chosen` are the jobs to submit although they have failed or are ambiguous, each with the number that
    this attempt would have. `service` has no key of the user's.
    """

    run_dir: str
    name: str
    call_id: str
    pulse_id: str
    table: bytes = field(repr=False)
    entropy: str
    options: RunOptions
    service: Service
    chosen: Mapping[str, int]
    fetched: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """What the driver says to all workers: which call goes on, and whether it was stopped or paused."""

    call_id: str
    is_stopped: bool = False
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Pulse:
    """That a worker is there: for which task, when by its own clock (Unix seconds), and which one it is."""

    pulse_id: str
    at: float
    pid: int
    host: str


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """How a shard stands after a task; `snapshot` is None if it was not begun."""

    snapshot: Snapshot | None = None
    notices: tuple[str, ...] = ()
    error: DreamoError | None = None


def begin_worker(environment: Mapping[str, str]) -> None:
    """Begin a process of this machine that works on shards; the driver says when to stop, also at Ctrl-C."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def work_on_shards(tasks: Sequence[ShardTask], n_at_once: int) -> list[ShardOutcome]:
    """Work on shards, some at once, until all their rows are settled, or the run is stopped."""
    is_ending = threading.Event()
    with interrupts(), ThreadPoolExecutor(n_at_once, "dreamo-shard") as threads:
        try:
            return list(threads.map(partial(_work_on_shard, is_ending), tasks))
        except BaseException:  # an interrupt, too, as else the other threads would be waited for
            is_ending.set()
            raise


def _work_on_shard(is_ending: threading.Event, task: ShardTask) -> ShardOutcome:
    parent, table = _Parent(task, is_ending), None
    while not (told := parent.signal()).is_stopped:
        try:
            if told.is_paused:
                is_ending.wait(beat_s(task.run_dir))
                continue
            table = table or parent.table(task)
            inputs = CallInputs(
                table.user,
                table.prepared,
                task.options,
                frozenset(task.chosen),
                task.fetched,
                numbers=task.chosen,
            )
            call = Call(RunDirectory(f"{task.run_dir}/{task.name}"), inputs, task.entropy, task.service)
            outcome = _work(call, parent)
        except DirectoryLocked:  # whoever works on it, its ledger says afterwards what is left
            is_ending.wait(beat_s(task.run_dir))
            continue
        except DreamoError as error:
            outcome = ShardOutcome(error=error)
        if not isinstance(outcome.error, BudgetReached | None):  # what stops one stops all
            is_ending.set()
        return outcome
    return ShardOutcome()


def _work(call: Call, parent: _Parent) -> ShardOutcome:
    batch = begin_held(call)  # noqa: F841 - referred to for as long as the call goes on
    try:
        call.release()
        while not call.is_over:
            call.pause_for(beat_s(parent.run_dir))
            told = parent.signal()
            if told.is_stopped:
                call.stop()
            elif told.is_paused != call.is_paused:
                call.pause(is_paused=told.is_paused)
            parent.tell(call.directory, call.snapshot())
    except BaseException:  # nobody would stop it any more
        call.stop()
        call.runner.is_closed.wait()
        raise
    error = call.stopped
    if error is not None and not isinstance(error, DreamoError):
        raise error
    return ShardOutcome(call.snapshot(), (*call.warnings, *call.notices), error)


class _Parent:
    """The directory of all shards, as a worker sees it: what the driver says there, and where to tell it something."""

    def __init__(self, task: ShardTask, is_ending: threading.Event) -> None:
        self.run_dir = run_dir = task.run_dir
        self._is_ending = is_ending
        self._call_id, self._pulse_id = task.call_id, task.pulse_id
        self._replica = Replica(run_dir) if is_url(run_dir) else None
        self._folder = folder_of(run_dir) if is_url(run_dir) else Path(run_dir)

    def signal(self) -> Signal:
        """Return what the driver says; the call is stopped where another one has taken its place."""
        if self._is_ending.is_set():
            return Signal(self._call_id, is_stopped=True)
        try:
            on_disk = self._folder / SIGNAL
            content = on_disk.read_bytes() if self._replica is None else self._replica.read(SIGNAL)
        except OSError as error:
            logger.info("can't tell whether %s was stopped: %s", self.run_dir, error)
            return Signal(self._call_id)
        told = Signal("") if content is None else Signal(**json.loads(content))
        return told if told.call_id == self._call_id else replace(told, is_stopped=True)

    def table(self, task: ShardTask) -> StoredTable:
        """Return the rows of a shard; its reference pictures are here then."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f".table-{os.getpid()}-{threading.get_native_id()}.parquet"
        try:
            path.write_bytes(task.table)
            if self._replica is not None:
                images = [one for job in read_jobs(path).prepared.jobs.values() for one in job.images]
                wanted = {one.sent_digest for one in images} | {
                    Path(one.sent_location).stem for one in images
                }
                kept = (Path(name) for name in self._replica.names() if name.startswith(f"{INPUTS}/"))
                with bars(wanted=False):
                    self._replica.fetch(os.fspath(one) for one in kept if one.stem in wanted)
            return read_jobs(path)
        finally:
            path.unlink(missing_ok=True)

    def tell(self, shard: RunDirectory, snapshot: Snapshot) -> None:
        """Say how far a shard is."""
        told: dict[str, Any] = asdict(snapshot) | asdict(
            Pulse(self._pulse_id, time.time(), os.getpid(), gethostname())
        )
        amounts = {name: exact_text(told[name]) for name in AMOUNTS if told[name] is not None}
        try:
            files.replace(
                shard.path / _PULSE,
                lambda path: path.write_text(json.dumps(told | amounts), encoding="utf-8"),
            )
        except OSError as error:  # the ledger finds out by itself
            logger.info("can't say how far %s is: %s", shard.path, error)


def pulse_of(directory: RunDirectory, name: str, pulse_id: str) -> tuple[Snapshot, Pulse] | None:
    """Return how far the worker of a shard said that it is, and which one and when; None if it has said nothing."""
    try:
        path = f"{name}/{_PULSE}"
        replica = directory.replica
        content = (directory.path / path).read_bytes() if replica is None else replica.read(path)
        told = json.loads(content or "{}")
    except (OSError, ValueError):
        return None
    if told.get("pulse_id") != pulse_id:
        return None
    pulse = Pulse(*(told.pop(one.name) for one in fields(Pulse)))
    return Snapshot(**told | {name: Decimal(told[name]) for name in AMOUNTS if told[name] is not None}), pulse
