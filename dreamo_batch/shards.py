"""One call over the shards of a run directory: the table is settled here, and bought by workers, a shard at a time."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import time
import uuid
import zlib
from collections import Counter, defaultdict, deque
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from functools import partial
from importlib.metadata import version
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dreamo_batch import columns, errors, files, parallel
from dreamo_batch.batch import begin_paused, interrupts
from dreamo_batch.call import Call, CallInputs, Service
from dreamo_batch.engine import journal, shared_budget, store
from dreamo_batch.engine.attempts import State, Terms, next_number
from dreamo_batch.engine.checkpoint import kept_at, read_outcomes, write_jobs
from dreamo_batch.engine.coordinator import cap_reached, snapshot_of, spent_so_far
from dreamo_batch.engine.directory import INPUTS, N_SHARDS, Manifest, RunDirectory, shard_of
from dreamo_batch.engine.ledger import refuse_other_entropy, refuse_other_service
from dreamo_batch.engine.picture_cache import try_merge
from dreamo_batch.engine.replica import folder_of, reread
from dreamo_batch.engine.runner import Runner, live, open_ledger, storing, wait_at_exit
from dreamo_batch.engine.shared_budget import BudgetShare, Slices, budget_of, slices_at
from dreamo_batch.engine.spending import Spending
from dreamo_batch.engine.status import AMOUNTS, Snapshot
from dreamo_batch.engine.store import is_url
from dreamo_batch.errors import BudgetReached, DreamoError, StorageFailed, UsageError, logger_named
from dreamo_batch.jobs.prepare import Prepared
from dreamo_batch.money import ZERO, exact_text, money, total
from dreamo_batch.results.frame import with_origin
from dreamo_batch.results.load import composed, joined, read_ledger, read_state, reconcile, stored_terms
from dreamo_batch.service.config import KEY_VARIABLE
from dreamo_batch.text import clock_time, counted, first_line, listed, option, same_call, wording

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    import pandas as pd

    from dreamo_batch.engine.ledger import Ledger
    from dreamo_batch.engine.plan import RunOptions
    from dreamo_batch.parallel import Cluster

logger = logger_named(__name__)

_BUDGET: Final = "budget"  # the cap of the directory, of which its shards have slices
_COUNTS: Final = ("n_in_flight", "n_again", "n_refused", "waited_s", "n_held")
_PATIENCE_S: Final = 10.0
_AT_ONCE: Final = 8  # shards, by one worker
_USED: Final = 0.9  # of what a worker may have in flight, at least, as each of its shards has as many
_SHARE: Final = 2  # a worker is given this part of the shards that are left, as others may be faster
_UNHEARD: Final = "Nothing heard yet from some workers. Check that they start and have the same packages."
_LOST_MAX: Final = 3  # times in a row that the processes of this machine are restarted
SIGNAL: Final = "call.json"
_PULSE: Final = "pulse.json"
_BEAT_S: Final = 1.0
_BEAT_OF_STORE_S: Final = 5.0


def beat_s(run_dir: str) -> float:
    """Return how often workers check whether to stop, and report their progress."""
    return _BEAT_OF_STORE_S if is_url(run_dir) else _BEAT_S


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What a worker needs to know; it may be done any number of times, and buys nothing that was bought."""

    run_dir: str
    name: str
    call_id: str
    pulse_id: str  # tells this worker's reports from another's of the same shard
    table: bytes = field(repr=False)  # the shard's rows, from `_table_of`
    entropy: str
    options: RunOptions
    service: Service  # without the user's key
    chosen: Mapping[str, int]  # jobs to submit again, only under these numbers
    fetched: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """What the driver tells all workers: which call is current, and whether it was stopped or paused."""

    call_id: str
    is_stopped: bool = False
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Pulse:
    """A sign of life of a worker: for which task, when by its own clock (Unix seconds), and from which process."""

    pulse_id: str
    at: float
    pid: int
    host: str


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """The state of a shard after a task; `snapshot` is None if it was not begun."""

    snapshot: Snapshot | None = None
    notices: tuple[str, ...] = ()
    error: DreamoError | None = None


class _ShardCall(Call):
    """A call on a shard; the table, its warnings and its results are those of the whole directory."""

    def _warnings(self, ledger: Ledger, *_: Any) -> tuple[str, ...]:
        return ledger.warnings

    def _waits(self) -> bool:
        return True  # until its worker has said that it is there, and isn't to stop

    def _remember(self, ledger: Ledger, *_: Any) -> None:
        ledger.commit()

    def _finish(self) -> None:
        self._give_back(self.ledger)
        try_merge(self.directory.path)

    def report_end(self, error: BaseException | None) -> None:
        """Report nothing: the whole call has listeners, a shard has none."""


def work_on_shards(tasks: Sequence[ShardTask], n_at_once: int) -> list[ShardOutcome]:
    """Work on shards, some at once, until all their rows are settled, or the run is stopped."""
    is_ending, came = threading.Event(), list[int]()

    def end(number: int, _frame: object) -> None:
        came.append(number)
        is_ending.set()

    try:
        with interrupts(end), ThreadPoolExecutor(n_at_once, "dreamo-shard") as threads:
            try:
                return list(threads.map(partial(_work_on_shard, is_ending), tasks))
            finally:  # after a Ctrl-C, too, the other threads would be waited for
                is_ending.set()
    finally:
        # A pool that lost a process ends the others, which may not ask for more: that one may hold the queue's lock.
        if came:
            signal.raise_signal(came[0])


def _work_on_shard(is_ending: threading.Event, task: ShardTask) -> ShardOutcome:
    parent, table = _Parent(task, is_ending), None
    while not (signal := parent.signal()).is_stopped:
        try:
            if signal.is_paused:
                is_ending.wait(beat_s(task.run_dir))
                continue
            table = table or parent.table(task)
            chosen = frozenset(task.chosen)
            inputs = CallInputs(*table, task.options, chosen, task.fetched, numbers=task.chosen)
            call = _ShardCall(RunDirectory(f"{task.run_dir}/{task.name}"), inputs, task.entropy, task.service)
            outcome = _work(call, parent)
        except errors.DirectoryLocked:  # whoever works on it, its ledger says afterwards what is left
            is_ending.wait(beat_s(task.run_dir))
            continue
        except DreamoError as error:
            outcome = ShardOutcome(error=error)
        if not isinstance(outcome.error, BudgetReached | None):  # what stops one stops all
            is_ending.set()
        return outcome
    return ShardOutcome()


def _work(call: Call, parent: _Parent) -> ShardOutcome:
    batch = begin_paused(call)  # noqa: F841 - kept alive as long as the call runs
    try:
        while True:
            parent.report(call.directory, call.snapshot())
            if call.is_over:
                break
            signal = parent.signal()
            if signal.is_stopped:
                call.stop()
            elif signal.is_paused != call.is_paused:
                call.pause(is_paused=signal.is_paused)
            call.pause_for(beat_s(parent.run_dir))
    except BaseException:  # nobody would stop it any more
        call.stop()
        call.runner.is_closed.wait()
        raise
    error = call.stopped
    if error is not None and not isinstance(error, DreamoError):
        raise error
    return ShardOutcome(call.snapshot(), (*call.warnings, *call.notices), error)


class _Parent:
    """The directory of all shards, as a worker sees it: signals from the driver, and reports to it."""

    def __init__(self, task: ShardTask, is_ending: threading.Event) -> None:
        self.run_dir, directory = task.run_dir, RunDirectory(task.run_dir)
        self._is_ending = is_ending
        self._call_id, self._pulse_id = task.call_id, task.pulse_id
        self._replica, self._folder = directory.replica, directory.path

    def signal(self) -> Signal:
        """Return the signal of the driver; the call is stopped where another one has taken its place."""
        if self._is_ending.is_set():
            return Signal(self._call_id, is_stopped=True)
        try:
            replica = self._replica
            content = (self._folder / SIGNAL).read_bytes() if replica is None else replica.read(SIGNAL)
        except OSError as error:
            logger.info("can't tell whether %s was stopped: %s", self.run_dir, error)
            return Signal(self._call_id)
        signal = Signal("") if content is None else Signal(**json.loads(content))
        return signal if signal.call_id == self._call_id else replace(signal, is_stopped=True)

    def table(self, task: ShardTask) -> tuple[pd.DataFrame, Prepared]:
        """Return the rows of a shard; its reference pictures are here then."""
        user, prepared = pickle.loads(zlib.decompress(task.table))  # noqa: S301 - it came within a pickled task
        images = {image for job in prepared.jobs.values() for image in job.images}
        if self._replica is not None:
            wanted = {stem for ref in images for stem in (ref.sent_digest, Path(ref.sent_location).stem)}
            kept = map(Path, self._replica.names(f"{INPUTS}/"))
            with parallel.bars(wanted=False):
                self._replica.fetch(os.fspath(path) for path in kept if path.stem in wanted)
        at = partial(kept_at, self._folder)
        moved = {ref: replace(ref, sent_location=at(ref.sent_location, ref.sent_digest)) for ref in images}
        jobs = {
            job_id: job._replace(image=moved[job.image], further=tuple(moved[image] for image in job.further))
            for job_id, job in prepared.jobs.items()
        }
        return user, replace(prepared, jobs=jobs)

    def report(self, shard: RunDirectory, snapshot: Snapshot) -> None:
        """Report a shard's progress."""
        pulse = Pulse(self._pulse_id, time.time(), os.getpid(), gethostname())
        written: dict[str, Any] = asdict(snapshot) | asdict(pulse)
        amounts = {name: exact_text(written[name]) for name in AMOUNTS if written[name] is not None}
        try:
            files.replace(
                shard.path / _PULSE,
                lambda path: path.write_text(json.dumps(written | amounts), encoding="utf-8"),
                is_durable=False,
            )
        except OSError as error:  # the ledger finds out by itself
            logger.info("can't report the progress of %s: %s", shard.path, error)


def pulse_of(directory: RunDirectory, name: str, pulse_id: str) -> tuple[Snapshot, Pulse] | None:
    """Return the last progress report of a shard's worker, and its pulse; None if there is none."""
    try:
        path, replica = f"{name}/{_PULSE}", directory.replica
        content = (directory.path / path).read_bytes() if replica is None else replica.read(path)
        read = json.loads(content or "{}")
    except (OSError, ValueError):
        return None
    if read.get("pulse_id") != pulse_id:
        return None
    pulse = Pulse(*(read.pop(field.name) for field in fields(Pulse)))
    return Snapshot(**read | {name: Decimal(read[name]) for name in AMOUNTS if read[name] is not None}), pulse


def refuse_ordinary(directory: RunDirectory | None, cluster: Cluster) -> None:
    """Raise for what is no cluster, and for an ordinary directory, in which only one process buys."""
    parallel.refuse_other(cluster)
    if cluster is None or directory is None or directory.is_sharded or not journal.has_begun(directory):
        return
    raise UsageError(
        f"{directory.given} is an ordinary run directory, in which one process buys. "
        f"{wording('cluster=', '--workers')} needs a new one, or one that was started with it."
    )


def over_shards(call: Call, cluster: Cluster = None) -> Call:
    """Return a call as one over the shards of its directory, if that has any or a cluster is given."""
    if cluster is None and not call.directory.is_sharded:
        return call
    return ShardedCall(call, cluster)


@dataclass
class _WorkerShards:
    """Shards that a worker has."""

    names: list[str]
    pulse_id: str
    last: Pulse | None = None
    silent_s: float = 0.0  # counted in beats, so none passes while this process is suspended
    unheard_s: float = 0.0


class _ShardRunner(Runner):
    """The thread that hands the shards of a call to workers."""

    def __init__(self, call: ShardedCall) -> None:
        super().__init__(call.directory)
        self._call = call
        self._on_close, self._on_end = call.finish, call.report_end

    def is_ended(self, timeout_s: float) -> bool:
        """Whether it has ended, or does so in time, since its call was stopped."""
        return self._call.is_halted and self.is_closed.wait(timeout_s)

    def _loop(self) -> None:
        self._call.work()

    def listen(self) -> None:
        """Handle requests of other threads."""
        self._take(0.0)

    def _halt(self, target: object) -> None:  # noqa: ARG002 - there is one call
        self._call.halt()

    def _close(self) -> None:
        with ExitStack() as last:
            last.callback(self.resources.close)  # unlocks the directory, too
            last.callback(self._on_close)


# An executor waits at exit until its workers are done, before `atexit` calls anything, so they are stopped earlier yet.
# There is no public way to do so; `concurrent.futures` itself takes this one.
threading._register_atexit(partial(wait_at_exit, _ShardRunner))  # type: ignore[attr-defined]  # noqa: SLF001


class ShardedCall(Call):
    """A call that hands shards to workers, and keeps count of them."""

    runner: _ShardRunner
    coordinator = None  # type: ignore[assignment]  # each shard has one, in its worker

    def __init__(self, call: Call, cluster: Cluster) -> None:
        given = (call.directory, call.inputs, call.entropy, call.service)
        super().__init__(*given, listeners=call.listeners, not_before=call.not_before)
        self._cluster = cluster
        self._environment: dict[str, str] = {}
        self.notices = []
        self._stopped: BaseException | None = None
        self.is_halted = self._is_paused = self._is_out = False
        self._n_held = 0
        self._short: dict[str, BudgetReached] = {}
        self._pulsed_at = 0.0
        self._trouble = ""
        self._silent: list[Future[list[ShardOutcome]]] = []  # of workers that nothing is heard of any more
        self._committed_before: Decimal | None = None

    def begin(self, on_begin: Callable[[Call], None]) -> None:
        """Check everything, then buy in a thread; one call at a time, also in this process."""
        earlier = live(self.directory.path)
        if earlier is not None and not (isinstance(earlier, _ShardRunner) and earlier.is_ended(_PATIENCE_S)):
            raise errors.DirectoryLocked(
                f"This process is working on the shards of {self.directory.name}. Wait until it is done, or stop it."
            )
        if self.directory.replica is not None:
            url = self.directory.replica.url
            if self.directory.path != folder_of(url):  # the shards are bought by workers, who don't see it
                raise UsageError(
                    f"{self.directory.path} is a copy of the local folder of {url}, a run with shards: pass {url}."
                )
            self.directory.replica.wait_until_free()
        with ExitStack() as resources:
            resources.callback(self.directory.unlock)
            with storing(self.directory):
                self.directory.lock()
            self.client = self.service.connect(resources, self.directory)
            self._prepare()
            self.runner = _ShardRunner(self)
            on_begin(self)
            self.listeners.begin(self.client.settings.api_key)
            self._is_paused = self._waits()
            self.runner.resources, self.is_begun = resources.pop_all(), True
            self.runner.start()

    def _prepare(self) -> None:
        directory, inputs = self.directory, self.inputs
        self._service = self._for_workers()
        manifest = self._manifest()
        reread(directory.path)
        ledgers = {name: read_ledger(shard) for name, shard in directory.shards().items()}
        shards = {name: state for name, (state, _) in ledgers.items()}
        slices = slices_at(f"{directory.name}/{_BUDGET}")
        state = joined(shards, self._stored_terms(slices))
        self._planned = self.planned(state, inputs.chosen)
        self._refuse_copy(self._planned, is_copy=any(is_copy for _, is_copy in ledgers.values()))
        self.spending = self.spending_of(self._planned, state, self.price_to_reserve())
        team = inputs.options.budget or state.terms.budget
        self._team = None if team is None else budget_of(team)
        self._refuse_two_caps()
        if self._team is not None and inputs.options.adopt_copy:
            shared_budget.adopt_budget(self._team)
        self._chosen = {job: next_number(of) for job, _ in self._planned.to_submit if (of := state.of(job))}
        self.warnings = self.warned_of(state, self._planned)
        self._store(manifest)
        self._user, decided = read_outcomes(directory.jobs)  # as stored: without pictures from memory
        self._shard_of_row = decided[columns.JOB_ID].map(shard_of, na_action="ignore").to_numpy(object)
        self._snapshots = self._count_shards(shards)
        to_save = (key for key, _ in self._planned.to_save)
        keys = (*self._planned.to_submit, *self._planned.to_poll, *to_save)
        self._work_of = Counter(shard_of(job_id) for job_id, _ in keys)
        # A worker adopts what it opens.
        self._work_of += Counter(list(shards) if inputs.options.adopt_copy else ())
        self._slices = self._share_out(shards, slices)

    # What others ask, in their own threads.

    def release(self) -> None:
        """Submit from now on."""
        self.pause(is_paused=False)

    @property
    def stopped(self) -> BaseException | None:
        """The error that stopped the call early."""
        return self.runner.error or self._stopped

    @property
    def is_paused(self) -> bool:
        """Whether submissions are paused."""
        return self._is_paused

    @property
    def state(self) -> State:
        """The state of the ledgers of all shards."""
        return read_state(self.directory)

    def waiting(self) -> frozenset[str]:
        """Return the failed or ambiguous jobs that are still to be submitted."""
        state = self.state
        return frozenset(
            job_id for job_id, number in self._chosen.items() if next_number(state.of(job_id)) == number
        )

    def pause(self, *, is_paused: bool) -> bool:
        """Pause or resume submitting; False if the call is over, or was stopped."""

        def pause_here() -> None:
            self._is_paused = is_paused
            self._signal()

        return self.ask(pause_here)

    def set_cap(self, cap: Decimal | None) -> bool:
        """Set the cap; False if the call is over, or was stopped."""

        def set_here() -> None:
            self.directory.refuse_loss(is_asked=True)
            self.directory.update_manifest(cap=None if cap is None else exact_text(cap))
            self.spending.cap = cap
            if self._slices is not None:
                self._slices.limit(cap=self.spending.limit, max_cost=cap)
            self._committed_before = None

        return self.ask(set_here)

    def again(self, inputs: CallInputs) -> Call:
        """Return a call that continues this one."""
        now = Spending(price=self.spending.price, attempts=self.state.kinds())
        now.call_limit = self.spending.call_limit
        return over_shards(super().again(replace(inputs, before=now)), self._cluster)

    def compose(self) -> pd.DataFrame:
        """Put the results together from what the shards' ledgers know."""
        return with_origin(composed(self.directory), self.directory)

    # Before anything is sent.

    def _for_workers(self) -> Service:
        """Return the service as workers know it: they have the user's key from their own environment."""
        given, settings = self.service, self.client.settings
        if self._cluster is None:
            return Service(client=self.client)
        key = None if settings.api_key is None else settings.api_key.reveal()
        is_local = given.gateway is not None and settings.is_loopback
        if parallel.is_count(self._cluster):
            self._environment = {} if key is None or is_local else {KEY_VARIABLE: key}
        elif not is_local and (given.client is not None or given.api_key is not None):
            raise UsageError(
                f"A key isn't sent to other machines. Set {KEY_VARIABLE} in the environment of the workers, and leave "
                "client= and api_key= out."
            )
        return Service(
            api_key=key if is_local else None,
            base_url=settings.base_url,
            allow_private_links=given.allow_private_links,
        )

    def _manifest(self) -> Manifest:
        directory, service = self.directory, self.client.settings.service_name
        manifest = directory.require_manifest() if directory.is_sharded else directory.read_manifest()
        refuse_ordinary(directory, N_SHARDS)  # another call may have made it since
        manifest = manifest or Manifest(service=service, entropy=self.entropy)
        refuse_other_service(directory, manifest.service, service)
        refuse_other_entropy(directory, manifest.entropy, self.entropy)
        return manifest

    def _refuse_two_caps(self) -> None:
        options = self.inputs.options
        if self._team is not None and self.spending.limit is not None:
            raise UsageError(
                f"{self.directory.given} has shards, which share one cap: leave {option('budget')} out, or pass it "
                f"with {wording('max_cost=inf', '--max-cost inf')} and no {option('max_new_cost')}."
            )
        if self.spending.limit is not None and self.spending.price is None and options.pilot is not None:
            raise UsageError(f"{option('pilot')} doesn't work with shards. Pass {option('unit_cost')}.")

    def _store(self, manifest: Manifest) -> None:
        """Store the options, then the table, which alone would pass for an ordinary directory."""
        cap, inputs = self.spending.cap, self.inputs
        with storing(self.directory):
            self.directory.write_manifest(
                replace(
                    manifest,
                    n_shards=N_SHARDS,
                    table_id=self._table_id,
                    **self.settings(),
                    cap=None if cap is None else exact_text(cap),
                    budget=None if self._team is None else self._team.place,
                    package_version=version("dreamo-batch"),
                )
            )
            write_jobs(self.directory.jobs, inputs.user, inputs.prepared, self._table_id)

    def _signal(self, *, is_stopped: bool = False) -> None:
        """Tell all workers which call is current, and whether it was stopped or paused."""
        text = json.dumps(asdict(Signal(self._table_id, is_stopped or self.is_halted, self._is_paused)))
        try:
            self.directory.refuse_loss(is_asked=True)
            files.replace(self.directory.path / SIGNAL, lambda path: path.write_text(text, encoding="utf-8"))
        except OSError as error:
            self.is_halted = True
            self._stopped = StorageFailed(self.directory.unwritable(error))

    def _count_shards(self, shards: Mapping[str, State]) -> dict[str, Snapshot]:
        """Count rows and money shard by shard, as long as nobody works on them."""
        weights: dict[str, dict[str, int]] = defaultdict(dict)
        for job_id, n_rows in self._planned.weights.items():
            weights[shard_of(job_id)][job_id] = n_rows
        return {
            name: snapshot_of(shards.get(name, State()), self.spending.price, weights[name])
            for name in sorted(weights.keys() | shards.keys())
        }

    def _stored_terms(self, slices: Slices) -> Terms:
        """Return what may be spent; the cap is kept beside its slices, too, so that no edit of `run.json` lifts it."""
        terms = stored_terms(self.directory)
        with shared_budget.budget_errors(f"{self.directory.name}/{_BUDGET}"):
            slices.read()
        caps = [cap for cap in (money(terms.cap), slices.max_cost) if cap is not None]
        return replace(terms, cap=exact_text(min(caps)) if caps else None)

    def _share_out(self, shards: Mapping[str, State], slices: Slices) -> Slices | None:
        """Set the cap that workers take slices of, if there ever was one; shards that hold too much return it."""
        place = f"{self.directory.name}/{_BUDGET}"
        with shared_budget.budget_errors(place):
            if not slices.read() and self.spending.limit is None:
                return None
            committed = {
                name: total((shard.spent_usd, shard.reserved_usd)) for name, shard in self._snapshots.items()
            }
            left_out = [name for name, one in shards.items() if one.terms.budget is None and committed[name]]
            if left_out and self.spending.limit is not None:
                granted = (share.amount for share in slices.shares.values())
                joining = total((*granted, *(committed[name] for name in left_out)))
                slices.limit(cap=joining, max_cost=self.spending.cap)
                for name in left_out:
                    self._join_shard(self.directory.shard(name), place)
            for name, shard in shards.items():
                self._work_of[name] += (money(shard.terms.slice) or ZERO) > committed[name]
            self._work_of += Counter()  # without those that have nothing to do
            slices.limit(cap=self.spending.limit, max_cost=self.spending.cap)
        return slices

    def _join_shard(self, shard: RunDirectory, place: str) -> None:
        """Count what a shard spent towards the cap."""
        if shard.replica is not None:
            shard.replica.wait_until_free()
        with ExitStack() as last:
            last.callback(shard.unlock)
            ledger = open_ledger(shard, self.client.settings.service_name, self.entropy)
            last.callback(ledger.abandon)
            share = BudgetShare(budget_of(place), ledger)
            spending = Spending(price=self.spending.price, attempts=ledger.state.kinds())
            granted = share.join(spending.committed, spending, ledger.state)
            ledger.set_terms(time.time(), budget=share.place, slice=exact_text(granted))
            ledger.close(())

    # In the thread of the runner.

    def work(self) -> None:
        """Hand out every shard that has something to do, until none is left."""
        waiting = deque(name for name, _ in self._work_of.most_common())
        n_lost = 0
        while waiting and not self.is_halted:
            n_before = len(waiting)
            self._signal()
            try:
                with parallel.executor_of(self._cluster, self._environment) as executor:
                    self._hand_out(waiting, executor)
                    if parallel.is_count(self._cluster) and not all(future.done() for future in self._silent):
                        parallel.kill_workers(executor)
            except DreamoError:
                raise
            except Exception as error:  # an engine raises anything, and what a worker raised comes with it
                n_lost = n_lost + 1 if len(waiting) == n_before else 1
                is_local = parallel.is_count(self._cluster) and isinstance(error, BrokenExecutor)
                if not is_local or n_lost > _LOST_MAX:
                    raise errors.RunStopped(
                        f"The workers have failed ({first_line(error)}). Check that they are running, with the same "
                        f"packages, and run {same_call()} again to resume; nothing is bought twice."
                    ) from error
                self.notices.append(f"A worker died; restarting {counted(len(waiting), 'shard')}.")
            self.runner.listen()
            if not waiting and self._may_go_on():
                waiting.extend(self._short)
                self._short.clear()
        if not self.is_halted:
            self._stopped = self._out_of_money()

    def halt(self) -> None:
        """Stop every worker."""
        self.is_halted = True
        self._signal()
        self._pulsed_at = 0.0  # a worker has read this, or has said before that it is there

    def _may_go_on(self) -> bool:
        """Whether others have given back what shards were short of, since the last time."""
        if not self._short or self._slices is None or self.spending.price is None:
            return False
        self._slices.read()
        room, whole = self._slices.room(), self.snapshot()
        committed = total((whole.spent_usd, whole.reserved_usd))
        is_room = room is None or room >= self.spending.price  # None once the cap was lifted
        before, self._committed_before = self._committed_before, committed
        return is_room and committed != before

    def _hand_out(self, waiting: deque[str], executor: Executor) -> None:
        """Keep every worker busy; a shard stays in `waiting` until it is done."""
        all_in_flight = self.inputs.options.max_in_flight
        width = max(1, min(parallel.n_workers(self._cluster or executor), len(waiting), all_in_flight))
        left, running = deque(waiting), dict[Future[list[ShardOutcome]], _WorkerShards]()
        try:
            while (left and not self.is_halted) or running:
                self.runner.listen()
                while left and len(running) < width and not (self.is_halted or self._is_paused):
                    n_most = -(-len(left) // (width - len(running)))
                    n_at_once, in_flight = _lanes(min(_AT_ONCE, n_most), all_in_flight // width)
                    n = min(n_most, max(n_at_once, len(left) // _SHARE))
                    work = _WorkerShards([left.popleft() for _ in range(n)], uuid.uuid4().hex)
                    tasks = [self._task(name, in_flight, work.pulse_id) for name in work.names]
                    running[executor.submit(work_on_shards, tasks, n_at_once)] = work
                wait(running, parallel.LOOK_EVERY_S, FIRST_COMPLETED)
                parallel.cancel_forgotten(executor, running)
                if not running:  # paused, and `wait` returns at once
                    time.sleep(parallel.LOOK_EVERY_S)
                for future in [future for future in running if future.done()]:
                    for name, outcome in zip(running[future].names, future.result(), strict=True):
                        self._take_outcome(name, outcome)
                        waiting.remove(name)
                    del running[future]
                self._read_pulses(running.values())
                for future in [future for future, work in running.items() if self._is_lost(work)]:
                    left.extend(self._give_up(future, running.pop(future)))
                self._report_trouble(running.values())
        except BaseException as error:  # whatever it is, no worker may keep buying
            self._signal(is_stopped=True)
            for future in running:
                future.cancel()
            if isinstance(error, BrokenExecutor) and parallel.is_count(self._cluster):
                self._wait_for_ended(executor, running.values())
            raise

    def _wait_for_ended(self, executor: Executor, running: Collection[_WorkerShards]) -> None:
        """Wait for processes of this machine that have to end, as long as they report."""
        silent_s = 0.0
        while (left := parallel.live_workers(executor)) and silent_s < store.STILL_S:
            time.sleep(parallel.LOOK_EVERY_S)
            before = [work.last for work in running]
            self._read_pulses(running)
            silent_s = silent_s + parallel.LOOK_EVERY_S if before == [work.last for work in running] else 0.0
        if left:
            pids = listed(process.pid for process in left)
            self.notices.append(f"Killed process {pids}: not heard from for {store.STILL_S:.0f} s.")

    def _is_lost(self, work: _WorkerShards) -> bool:
        """Whether a worker has gone silent; for less long once it has to stop, unless that would kill it."""
        is_local, beat = parallel.is_count(self._cluster), beat_s(self.directory.name)
        if not self.is_halted or (is_local and work.last is not None):
            return work.silent_s >= store.STILL_S
        # A worker that has just reported has nothing new to say where `halt` looks at once.
        patience_s = beat + (beat if self._trouble else _PATIENCE_S)
        return max(work.unheard_s, work.silent_s) >= (beat if is_local else patience_s)

    def _give_up(self, future: Future[list[ShardOutcome]], work: _WorkerShards) -> list[str]:
        """Return the shards of a worker that has gone silent, for another one."""
        self._silent.append(future)
        future.cancel()
        if (last := work.last) is not None:
            where = "on another machine, or " if is_url(self.directory.name) else ""
            self.notices.append(
                f"Nothing heard since {clock_time(last.at)} from process {last.pid} on {last.host} (working on "
                f"{', '.join(work.names)}): suspended or cut off. Its rows continue {where}once it resumes or ends."
            )
        return work.names

    def _task(self, name: str, max_in_flight: int, pulse_id: str) -> ShardTask:
        options, price, inputs = self.inputs.options, self.spending.price, self.inputs
        return ShardTask(
            run_dir=self.directory.name,
            name=name,
            call_id=self._table_id,
            pulse_id=pulse_id,
            table=self._table_of(name),
            entropy=self.entropy,
            options=replace(
                options,
                max_cost=None,
                max_new_cost=None,
                budget=f"{self.directory.name}/{_BUDGET}" if self.spending.limit is not None else self._team,
                unit_cost=None if price is None else exact_text(price),
                pilot=None,
                max_in_flight=max_in_flight,
                on_ambiguous="hold",
                retry_failed=False,
            ),
            service=self._service,
            chosen={job_id: number for job_id, number in self._chosen.items() if shard_of(job_id) == name},
            fetched=inputs.fetched,
        )

    def _table_of(self, name: str) -> bytes:
        """Return the rows of a shard, packed; a duplicate names the place of its first row there."""
        places = np.flatnonzero(self._shard_of_row == name)
        prepared = self.inputs.prepared
        rows = prepared.rows.iloc[places].reset_index(drop=True)
        firsts = rows[columns.DUPLICATE_OF].dropna()
        rows.loc[firsts.index, columns.DUPLICATE_OF] = np.searchsorted(places, firsts)
        jobs = {job_id: prepared.jobs[job_id] for job_id in rows[columns.JOB_ID].unique()}
        parts = (self._user.iloc[places], Prepared(jobs, rows, prepared.problems.head(0)))
        return zlib.compress(pickle.dumps(parts), 1)

    def _take_outcome(self, name: str, outcome: ShardOutcome) -> None:
        """Record the outcome of a shard; any error but a used-up slice stops all of them."""
        if outcome.snapshot is not None:
            self._snapshots[name] = outcome.snapshot
        self.notices += [line for line in outcome.notices if line not in self.notices]
        if isinstance(outcome.error, BudgetReached):
            self._short[name] = outcome.error
        elif outcome.error is not None and self._stopped is None:
            self._stopped = outcome.error
            self.halt()

    def _read_pulses(self, running: Collection[_WorkerShards]) -> None:
        """Read how far the workers are."""
        if time.monotonic() < self._pulsed_at:
            return
        beat = beat_s(self.directory.name)
        self._pulsed_at = time.monotonic() + beat
        is_heard = not running
        for work in running:
            heard = {name: pulse_of(self.directory, name, work.pulse_id) for name in work.names}
            known = {name: pulse for name, pulse in heard.items() if pulse is not None}
            self._snapshots |= {name: snapshot for name, (snapshot, _) in known.items()}
            pulse = max((pulse for _, pulse in known.values()), key=lambda pulse: pulse.at, default=None)
            is_heard |= pulse != work.last
            # Between two shards it may wait for a lock, and reports nothing; one that has to stop doesn't wait.
            is_at_work = self.is_halted or any(shard.n_settled < shard.n_rows for shard, _ in known.values())
            work.silent_s = work.silent_s + beat if is_at_work and pulse == work.last else 0.0
            work.last, work.unheard_s = pulse, 0.0 if pulse else work.unheard_s + beat
        self._trouble = "" if is_heard else parallel.trouble_of(self._cluster)

    def _report_trouble(self, running: Iterable[_WorkerShards]) -> None:
        """Report attempts that are held whenever their number has doubled, and an outage once while it lasts."""
        now = self.snapshot()
        if now.n_held.bit_length() > self._n_held.bit_length():
            self.report(
                "held",
                f"{counted(now.n_held, 'attempt')} of this call may or may not have been accepted and billed; none "
                "is sent again unless you ask.",
            )
        unheard = _UNHEARD if any(work.unheard_s >= store.STILL_S for work in running) else ""
        outage = now.outage or self._trouble or unheard
        if outage and not self._is_out:
            self.notices.append(outage)
            self.report("outage", outage)
        self._n_held, self._is_out = now.n_held, bool(outage)

    def snapshot(self) -> Snapshot:
        """Add up all shards."""
        shards = list(self._snapshots.values())
        counts = Counter(dict.fromkeys(columns.STATUSES, 0))
        for shard in shards:
            counts.update(shard.by_status)
        counts[columns.INVALID] += self._planned.n_invalid
        sums: dict[str, Any] = {name: sum(getattr(shard, name) for shard in shards) for name in _COUNTS}
        return Snapshot(
            by_status=counts,
            spent_usd=total(shard.spent_usd for shard in shards),
            reserved_usd=total(shard.reserved_usd for shard in shards),
            max_cost_usd=self.spending.cap,
            outage=next((shard.outage for shard in shards if shard.outage), ""),
            **sums,
        )

    def _out_of_money(self) -> BudgetReached | None:
        if not self._short:
            return None
        whole, team = self.snapshot(), self._team
        spent = spent_so_far(whole, self.spending.price, counted(whole.by_status[columns.PENDING], "row"))
        if self.spending.limit is None and team is not None:
            slices = slices_at(team.place)
            try:
                slices.read()
            except OSError:  # what the last shard said is true, too
                return list(self._short.values())[-1]
            return BudgetReached(shared_budget.used_up(team, slices, self.directory.name, spent))
        return cap_reached(self.spending, spent)

    def finish(self) -> None:
        """Tell all workers, even any that an engine restarts, that the call is over, and put the results together."""
        self.halt()
        reread(self.directory.path)
        try:
            results = self.compose()
        except errors.DirectoryError as error:
            if self._stopped is None:
                raise
            raise self._stopped from error  # such as that the directory was moved
        self.reconciliation = reconcile(len(self.inputs.user), results)
        if not isinstance(self._stopped, StorageFailed):
            self.directory.update_manifest(reconciliation=self.reconciliation)
        self.results = results  # last, because other threads wait for it


def _lanes(n_shards: int, in_flight: int) -> tuple[int, int]:
    """Return how many shards a worker works on at once, and how many tasks each has in flight."""
    n_lanes = max(n for n in range(1, n_shards + 1) if n * (in_flight // n) >= _USED * in_flight)
    return n_lanes, in_flight // n_lanes
