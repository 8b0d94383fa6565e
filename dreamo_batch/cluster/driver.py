"""One call over the shards of a run directory: the table is settled here, and bought by workers, a shard at a time."""

from __future__ import annotations

import json
import logging
import tempfile
import time
import uuid
from collections import Counter, defaultdict, deque
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dreamo_batch import columns, files, live, parallel
from dreamo_batch.cluster.shards import SIGNAL, ShardOutcome, ShardTask, beat_s, pulse_of, work_on_shard
from dreamo_batch.cluster.shared_budget import Budget, BudgetShare, unreachable
from dreamo_batch.cluster.slices import Slices
from dreamo_batch.connect import Service
from dreamo_batch.engine import journal
from dreamo_batch.engine import plan as planning
from dreamo_batch.engine.attempts import State, next_number
from dreamo_batch.engine.budget import Spending
from dreamo_batch.engine.checkpoint import read_frame, write_frame, write_jobs
from dreamo_batch.engine.coordinator import SystemClock, count_rows
from dreamo_batch.engine.directory import N_SHARDS, Manifest, shard_of
from dreamo_batch.engine.ledger import refuse_other_entropy, refuse_other_service
from dreamo_batch.engine.replica import is_url
from dreamo_batch.engine.runner import open_ledger, storage_failed
from dreamo_batch.engine.status import Snapshot, shown
from dreamo_batch.engine.store import FolderStore, ObjectStore
from dreamo_batch.errors import BudgetReached, LedgerDamaged, PriceUnknown, RunStopped, UsageError
from dreamo_batch.logs import logger_named
from dreamo_batch.money import ZERO, dollars, exact_text, money, total
from dreamo_batch.results import assembly
from dreamo_batch.results.load import composed, joined, read_state, stored_terms
from dreamo_batch.service.config import KEY_VARIABLE
from dreamo_batch.text import counted, option, same_call, spelled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from decimal import Decimal

    import pandas as pd

    from dreamo_batch.call import Call
    from dreamo_batch.engine.directory import RunDirectory
    from dreamo_batch.engine.status import Progress

logger = logger_named(__name__)

_LOOK_EVERY_S: Final = 0.2
_BUDGET: Final = "budget"  # the cap of the directory, of which its shards have slices
_IN_PROCESS: Final = 4  # shards at once where no cluster is given
_LOST_MAX: Final = 3  # times in a row that the processes of this machine are started anew


def refuse_ordinary(directory: RunDirectory, cluster: Any) -> None:
    """Raise for a cluster that can't be one, and for an ordinary directory, in which only one process buys."""
    parallel.refuse_other(cluster)
    if cluster is None or directory.is_sharded:
        return
    if directory.exists() or (directory.path.is_dir() and journal.numbers(directory.path)):
        raise UsageError(
            f"{directory.given} is an ordinary run directory, in which one process buys. "
            f"{spelled('cluster=', '--workers')} needs a new one, or one that was begun with it."
        )


def work_off(call: Call, cluster: Any, *, show: bool) -> pd.DataFrame:
    """Run a call to its end, over the shards of its directory if it has any; raises what stopped it early."""
    __tracebackhide__ = True  # a notebook shows the user's own line, not ours
    directory = call.directory
    if cluster is None and not directory.is_sharded:
        return live.work_off(call, show=show)
    if directory.replica is not None:
        directory.replica.wait_until_free()
    with live.interrupts(), ExitStack() as resources:
        directory.lock()
        resources.callback(directory.unlock)
        call.client = call.service.connect(resources, directory)
        return _Driver(call, cluster).work_off(show=show)


class _Driver:
    """Hands shards to workers, and keeps count of them."""

    def __init__(self, call: Call, cluster: Any) -> None:
        self._call = call
        self._directory, self._inputs = call.directory, call.inputs
        self._cluster = cluster
        self._listeners = call.listeners
        self._call_id = uuid.uuid4().hex
        self._environment: dict[str, str] = {}
        self._service = self._for_workers()
        manifest = self._manifest()
        shards = {name: read_state(shard) for name, shard in self._directory.shards().items()}
        state = joined(shards, stored_terms(self._directory))
        self._assignment = planning.assignment(
            call.inputs.prepared, state, call.inputs.options, self._directory.path, call.inputs.chosen
        )
        if call.inputs.fetched is not None:
            self._assignment = planning.fetching_only(self._assignment, call.inputs.fetched)
        self._budget = call.budget(self._assignment, state, call.told_price())
        team = call.inputs.options.budget or state.terms.budget
        self._team = None if team is None else Budget.of(team)
        self._refuse_two_caps()
        self._chosen = {
            job_id: next_number(state.of(job_id))
            for job_id, _ in self._assignment.to_submit
            if state.of(job_id)
        }
        nearly = planning.nearly_bought(call.inputs.prepared, state, self._directory.jobs)
        self._warnings = planning.warnings_of(
            call.inputs.prepared, nearly, {job_id for job_id, _ in self._assignment.to_submit}
        )
        self._remember(manifest)
        self._table, _ = read_frame(self._directory.jobs)
        ids = self._table[columns.STORED_PREFIX + columns.JOB_ID]
        self._shard_of_row = ids.map(shard_of, na_action="ignore").to_numpy()
        self._snapshots = self._as_it_stands(shards)
        to_save = (key for key, _ in self._assignment.to_save)
        keys = (*self._assignment.to_submit, *self._assignment.to_poll, *to_save)
        self._work_of = Counter(shard_of(job_id) for job_id, _ in keys)
        self._slices = self._share_out(shards)
        self._notices: list[str] = []
        self._n_said = 0
        self._stopped: BaseException | None = None
        self._short: set[str] = set()
        self._last_short: BudgetReached | None = None
        self._pulsed_at = 0.0
        self._committed_before: Decimal | None = None

    def work_off(self, *, show: bool) -> pd.DataFrame:
        """Have every shard worked on that has something to do."""
        __tracebackhide__ = True
        live.announce.get()("")
        self._listeners.begin(self._call.client.settings.api_key)
        bar = shown(self._snapshot(), show=show)
        try:
            for warning in self._warnings:
                bar.say(f"warning: {warning}", logging.WARNING)
            self._work(bar)
            return self._end(bar)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._signal(is_stopped=True)
                bar.say(
                    f"Stopped. Run {same_call()} again to resume ({self._directory.given}).", logging.WARNING
                )
            self._listeners.tell_of_stop(error, self._snapshot())
            raise
        finally:
            self._signal(is_stopped=True)  # also for what an engine might begin anew
            bar.close()
            self._listeners.wait()

    # Before anything is sent.

    def _for_workers(self) -> Service:
        """Return the service as workers know it: they have the user's key from their own environment."""
        given, settings = self._call.service, self._call.client.settings
        if self._cluster is None:
            return Service(client=self._call.client)
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
        directory, service = self._directory, self._call.client.settings.service_name
        manifest = directory.read_manifest()
        if manifest is None and directory.is_sharded:
            raise LedgerDamaged(
                f"run.json is missing in {directory.given}, though it has shards, so nothing is bought. Restore the "
                "file from a copy."
            )
        refuse_ordinary(directory, N_SHARDS)  # another call may have made it since
        manifest = manifest or Manifest(service=service, entropy=self._call.entropy, n_shards=N_SHARDS)
        refuse_other_service(directory, manifest.service, service)
        refuse_other_entropy(directory, manifest.entropy, self._call.entropy)
        return manifest

    def _refuse_two_caps(self) -> None:
        options = self._inputs.options
        if self._team is not None and self._is_capped:
            raise UsageError(
                f"{self._directory.given} has shards, which stand under one cap: pass either {option('budget')} or "
                f"{option('max_cost')} and {option('max_new_cost')}."
            )
        if self._is_capped and self._budget.price is None and options.pilot is not None:
            raise UsageError(f"{option('pilot')} doesn't work with shards. Pass {option('unit_cost')}.")

    @property
    def _is_capped(self) -> bool:
        return self._budget.limit is not None

    def _remember(self, manifest: Manifest) -> None:
        """Store the table and the options; from here on, workers of an earlier call stop."""
        cap, inputs = self._budget.cap, self._inputs
        try:
            write_jobs(self._directory.jobs, inputs.user, inputs.prepared, self._call_id)
            self._directory.write_manifest(
                replace(
                    manifest,
                    table_id=self._call_id,
                    settings=inputs.options.as_settings(),
                    cap=None if cap is None else exact_text(cap),
                    budget=None if self._team is None else self._team.place,
                    package_version=version("dreamo-batch"),
                )
            )
        except OSError as error:
            raise storage_failed(self._directory, error) from error

    def _signal(self, *, is_stopped: bool) -> None:
        """Say to all workers which call goes on, and whether it was stopped."""
        text = json.dumps({"call_id": self._call_id, "is_stopped": is_stopped})
        files.replace(self._directory.path / SIGNAL, lambda path: path.write_text(text, encoding="utf-8"))

    def _as_it_stands(self, shards: Mapping[str, State]) -> dict[str, Snapshot]:
        """Count rows and money shard by shard, as long as nobody works on them."""
        weights: dict[str, dict[str, int]] = defaultdict(dict)
        for job_id, n_rows in self._assignment.weights.items():
            weights[shard_of(job_id)][job_id] = n_rows
        return {
            name: _snapshot(weights[name], shards.get(name, State()), self._budget.price)
            for name in sorted(weights.keys() | shards.keys())
        }

    def _share_out(self, shards: Mapping[str, State]) -> Slices | None:
        """Set the cap that workers get their slices of; None where there never was one.

        Shards that bought without one join it first. Those that hold more than they need, since their worker was
        killed, are opened to give it back.
        """
        place = f"{self._run_dir}/{_BUDGET}"
        slices = Slices(ObjectStore(place) if is_url(place) else FolderStore(Path(place)), place=place)
        try:
            if not slices.read() and not self._is_capped:
                return None
            committed = {
                name: total((one.spent_usd, one.reserved_usd)) for name, one in self._snapshots.items()
            }
            left_out = [name for name, one in shards.items() if one.terms.budget is None and committed[name]]
            if left_out and self._is_capped:
                granted = (share.amount for share in slices.shares.values())
                slices.limit(cap=total((*granted, *(committed[name] for name in left_out))))
                for name in left_out:
                    self._join(self._directory.shard(name), place)
            for name, one in shards.items():
                self._work_of[name] += (money(one.terms.slice) or ZERO) > committed[name]
            self._work_of += Counter()  # without those that have nothing to do
            slices.limit(cap=self._budget.limit)
        except OSError as error:
            raise unreachable(place, error) from error
        return slices

    def _join(self, shard: RunDirectory, place: str) -> None:
        """Have what a shard spent count to the cap."""
        if shard.replica is not None:
            shard.replica.wait_until_free()
        clock = SystemClock()
        ledger = open_ledger(shard, self._call.client.settings.service_name, clock, self._call.entropy)
        try:
            share = BudgetShare(Budget.of(place), ledger)
            spending = Spending(price=self._budget.price, attempts=ledger.state.kinds())
            granted = share.join(spending.committed, spending, ledger.state)
            ledger.set_terms(clock.wall(), budget=share.place, slice=exact_text(granted))
            ledger.close(())
        finally:
            ledger.abandon()
            shard.unlock()

    # While it goes.

    def _work(self, bar: Progress) -> None:
        waiting = deque(name for name, _ in self._work_of.most_common())
        n_lost = 0
        while waiting and self._stopped is None:
            n_before = len(waiting)
            self._signal(is_stopped=False)
            try:
                with self._executor(len(waiting)) as (executor, width):
                    self._hand_out(waiting, executor, width, bar)
            except BrokenExecutor as error:
                n_lost = n_lost + 1 if len(waiting) == n_before else 1
                if not parallel.is_count(self._cluster) or n_lost > _LOST_MAX:
                    raise RunStopped(
                        f"The workers have died ({error}). Run {same_call()} again to resume; nothing is bought twice."
                    ) from error
                bar.say(
                    f"A worker has died; {counted(len(waiting), 'shard')} are worked on anew.",
                    logging.WARNING,
                )
            if not waiting and self._may_go_on():
                waiting.extend(self._short)
                self._short.clear()

    def _may_go_on(self) -> bool:
        """Whether others have given back what shards were short of, since the last time."""
        if not self._short or self._slices is None or self._budget.price is None:
            return False
        self._slices.read()
        room, whole = self._slices.room(), self._snapshot()
        committed = total((whole.spent_usd, whole.reserved_usd))
        is_more = room is not None and room >= self._budget.price and committed != self._committed_before
        self._committed_before = committed
        return is_more

    @contextmanager
    def _executor(self, n_shards: int) -> Iterator[tuple[Executor, int]]:
        """Open what works on shards, and say how many of them it may have at once."""
        if self._cluster is None:
            with ThreadPoolExecutor(min(_IN_PROCESS, n_shards), "dreamo-shard") as pool:
                yield pool, _IN_PROCESS
            return
        with parallel.executor_of(self._cluster, self._environment) as executor:
            yield executor, parallel.n_workers(self._cluster)

    def _hand_out(self, waiting: deque[str], executor: Executor, width: int, bar: Progress) -> None:
        """Keep every worker busy; a shard stays in `waiting` until it is done."""
        width = max(1, min(width, len(waiting), self._inputs.options.max_in_flight))
        in_flight = self._inputs.options.max_in_flight // width
        left, running = deque(waiting), dict[Future[ShardOutcome], str]()
        try:
            while left or running:
                while left and len(running) < width and self._stopped is None:
                    name = left.popleft()
                    running[executor.submit(work_on_shard, self._task(name, in_flight))] = name
                done, _ = wait(running, _LOOK_EVERY_S, FIRST_COMPLETED)
                for future in done:
                    name = running.pop(future)
                    self._take(name, future.result())
                    waiting.remove(name)
                self._hear(running.values())
                bar.update(self._snapshot())
                self._say_notices(bar)
                if self._stopped is not None:
                    left.clear()
        except BaseException:
            self._signal(is_stopped=True)
            for future in running:
                future.cancel()
            raise

    def _task(self, name: str, max_in_flight: int) -> ShardTask:
        options, price, inputs = self._inputs.options, self._budget.price, self._inputs
        return ShardTask(
            run_dir=self._run_dir,
            name=name,
            call_id=self._call_id,
            table=self._table_of(name),
            entropy=self._call.entropy,
            options=replace(
                options,
                max_cost=None,
                max_new_cost=None,
                budget=f"{self._run_dir}/{_BUDGET}" if self._is_capped else self._team,
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

    @property
    def _run_dir(self) -> str:
        return str(self._directory.path) if self._directory.replica is None else self._directory.replica.url

    def _table_of(self, name: str) -> bytes:
        """Return the rows of a shard as a Parquet file; a duplicate names the place of its first row there."""
        places = np.flatnonzero(self._shard_of_row == name)
        rows, again = self._table.iloc[places], columns.STORED_PREFIX + columns.DUPLICATE_OF
        is_again = rows[again].notna().to_numpy()
        moved = rows[again].copy()
        moved[is_again] = np.searchsorted(places, rows.loc[is_again, again].to_numpy(dtype=np.int64))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.parquet"
            write_frame(path, rows.assign(**{again: moved}), {"table_id": self._call_id})
            return path.read_bytes()

    def _take(self, name: str, outcome: ShardOutcome) -> None:
        """Keep what a shard came to; what stops one for any other reason than its slice stops all."""
        if outcome.snapshot is not None:
            self._snapshots[name] = outcome.snapshot
        self._notices += [line for line in outcome.notices if line not in self._notices]
        if isinstance(outcome.error, BudgetReached):
            self._short.add(name)
            self._last_short = outcome.error
        elif outcome.error is not None and self._stopped is None:
            self._stopped = outcome.error
            self._signal(is_stopped=True)

    def _hear(self, names: Iterable[str]) -> None:
        """Read how far the workers are."""
        if time.monotonic() < self._pulsed_at:
            return
        self._pulsed_at = time.monotonic() + beat_s(self._run_dir)
        for name in names:
            self._snapshots[name] = pulse_of(self._directory, name, self._call_id) or self._snapshots[name]

    def _say_notices(self, bar: Progress) -> None:
        for line in self._notices[self._n_said :]:
            bar.say(line, logging.WARNING)
        self._n_said = len(self._notices)

    def _snapshot(self) -> Snapshot:
        """Add up all shards."""
        whole = _added(self._snapshots.values())
        counts = Counter(dict.fromkeys(columns.STATUSES, 0))
        counts.update(whole.by_status)
        counts[columns.INVALID] += self._assignment.n_invalid
        return replace(whole, by_status=counts, max_cost_usd=self._budget.cap)

    # At the end.

    def _out_of_money(self) -> BudgetReached | None:
        if not self._short:
            return None
        whole, limit = self._snapshot(), self._budget.limit
        if limit is None:  # a budget that others share says more
            return self._last_short
        name = "max_cost" if limit == self._budget.cap else "max_new_cost"
        n_left = whole.by_status[columns.PENDING]
        return BudgetReached(
            f"The {'cap' if name == 'max_cost' else 'limit of this call'} of {dollars(limit)} is reached: "
            f"{dollars(whole.spent_usd)} spent, {dollars(whole.reserved_usd)} reserved, and the next attempt may cost "
            f"{dollars(self._budget.price or ZERO)}. {counted(n_left, 'row')} not submitted. To continue, run again "
            f"with a higher {option(name)}."
        )

    def _end(self, bar: Progress) -> pd.DataFrame:
        __tracebackhide__ = True
        results = assembly.mark(composed(self._directory), self._directory)
        reconciliation = assembly.reconcile(len(self._inputs.user), results)
        self._directory.update_manifest(reconciliation=reconciliation)
        bar.update(self._snapshot())
        ending = assembly.sentence(reconciliation, self._snapshot().spent_usd)
        bar.say(ending)
        if reconciliation["by_status"].get(columns.AMBIGUOUS):
            for line in assembly.ambiguous_lines(results, read_state(self._directory)):
                bar.say(line, logging.WARNING)
        stopped = self._stopped or self._out_of_money()
        if isinstance(stopped, RunStopped | PriceUnknown):
            stopped.results, stopped.run_dir = results, self._directory.path
        if stopped is not None:
            raise stopped
        self._listeners.tell("done", ending, self._snapshot())
        return results


def _snapshot(weights: dict[str, int], state: State, price: Decimal | None) -> Snapshot:
    budget = Spending(price=price, attempts=state.kinds())
    n_open = sum(1 for _ in state.open())
    return Snapshot(count_rows(weights, 0, state), budget.spent, budget.reserved, None, n_open)


def _added(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Add up counts and money."""
    several = list(snapshots)
    counts: Counter[str] = Counter()
    for one in several:
        counts.update(one.by_status)
    return Snapshot(
        by_status=counts,
        spent_usd=total(one.spent_usd for one in several),
        reserved_usd=total(one.reserved_usd for one in several),
        max_cost_usd=None,
        n_in_flight=sum(one.n_in_flight for one in several),
        n_again=sum(one.n_again for one in several),
        n_refused=sum(one.n_refused for one in several),
        waited_s=sum(one.waited_s for one in several),
    )
