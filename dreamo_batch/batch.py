"""Start, run, watch, plan and retry a batch.

How one row travels::

    the user's row -> jobs.validate -> jobs.prepare -> engine.plan
    -> engine.schedule says create -> engine.budget reserves
    -> engine.journal "about to" (fsync) -> service.client.create
    -> engine.journal task id (fsync) -> engine.schedule says poll, when due
    -> service.client.fetch -> engine.journal outcome
    -> engine.directory saves the picture -> engine.attempts folds
    -> checkpoint.parquet -> results.frame

No arrow points back; a resume enters at the fold.
"""

from __future__ import annotations

import asyncio
import copy
import difflib
import logging
import os
import signal
import sys
import threading
import time
import uuid
import weakref
from collections import Counter, deque
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Context, Decimal, localcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

from dreamo_batch import columns
from dreamo_batch.engine import plan as planning
from dreamo_batch.engine.attempts import OPEN, SUBMITTED, Attempt, State, is_unresolved_cost
from dreamo_batch.engine.budget import ZERO, Budget, highest_price, money, price_of, text, times, total
from dreamo_batch.engine.coordinator import Assignment, Coordinator, SystemClock, status_of
from dreamo_batch.engine.directory import (
    RunDirectory,
    describer,
    known_images,
    new_entropy,
    read_jobs,
    read_table_meta,
    to_arrow,
    to_frame,
    write_frame,
    write_jobs,
)
from dreamo_batch.engine.ledger import peek_entropy
from dreamo_batch.engine.plan import (
    Plan,
    RunOptions,
    fetching_only,
    flag,
    leaving,
    misnamed_columns,
    nearly_bought,
    nearly_bought_warnings,
    warnings_of,
)
from dreamo_batch.engine.requests import Effects, ImageChanged, ImageGone, Payloads
from dreamo_batch.engine.runner import Runner, ask, live, storage_failed
from dreamo_batch.engine.schedule import Limits, Schedule
from dreamo_batch.engine.status import ErrorGroup, Phase, Picture, Progress, Silent, Status, shown
from dreamo_batch.errors import (
    AccessRefused,
    BudgetReached,
    DirectoryError,
    InvalidTable,
    KeyMissing,
    PriceUnknown,
    RunStopped,
    ServiceError,
    ServiceUnreachable,
    UsageError,
    interrupts_without_our_lines,
    path_given,
)
from dreamo_batch.importing import load_module
from dreamo_batch.jobs.fields import as_frame, recognised, user_columns
from dreamo_batch.jobs.prepare import Prepared, prepare
from dreamo_batch.jobs.references import Inputs
from dreamo_batch.jobs.rules import ERROR, Problems
from dreamo_batch.parallel import bars
from dreamo_batch.results import failures, frame
from dreamo_batch.results.load import existing, load, read_state
from dreamo_batch.service.client import Client
from dreamo_batch.service.failures import FORBIDDEN, Failure, Kind
from dreamo_batch.text import dollars, harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Mapping
    from types import FrameType, TracebackType

    import pandas as pd

    from dreamo_batch.engine.coordinator import Clock
    from dreamo_batch.engine.directory import StoredTable
    from dreamo_batch.engine.ledger import Ledger
    from dreamo_batch.jobs.prepare import Job


class Gateway(Protocol):
    """What a gateway has to offer: `LocalGateway`, or anything like a running one."""

    @property
    def base_url(self) -> str:
        """Where it is."""
        ...

    @property
    def api_key(self) -> str:
        """The key that it wants."""
        ...


def service_given(
    *,
    client: Client | None,
    api_key: str | None,
    base_url: str | None,
    gateway: str | Gateway | None,
    allow_private_links: bool = False,
) -> dict[str, Any]:
    """Give the arguments of a call that are about the service, as `connect` takes them."""
    if client is not None:
        _refuse_both("client", api_key=api_key, base_url=base_url, gateway=gateway)
        if allow_private_links:
            raise UsageError("give allow_private_links= to the Client")
        if not isinstance(client, Client):
            raise UsageError(f"client must be a Client, not a {type(client).__name__}.")
    if gateway is not None:
        _refuse_both("gateway", api_key=api_key, base_url=base_url)
        if gateway != "local" and (isinstance(gateway, str | type) or not hasattr(gateway, "api_key")):
            raise UsageError(f'gateway= must be "local" or a LocalGateway, not {gateway!r}.')
    for name, value in (("api_key", api_key), ("base_url", base_url)):
        if not isinstance(value, str | None):
            raise UsageError(f"{name} must be text, not a {type(value).__name__}.")
    return {
        "client": client,
        "api_key": api_key,
        "base_url": base_url,
        "gateway": gateway,
        "allow_private_links": allow_private_links,
    }


def connect(
    resources: ExitStack,
    directory: RunDirectory,
    *,
    client: Client | None,
    api_key: str | None,
    base_url: str | None,
    gateway: str | Gateway | None,
    allow_private_links: bool = False,
) -> Client:
    """Give the client of a call; what is opened here is closed with `resources`."""
    if client is not None:
        return with_key(client)
    if gateway is not None:
        running = _gateway(resources, directory, gateway)
        api_key, base_url = running.api_key, running.base_url
    return with_key(
        resources.enter_context(
            Client(api_key=api_key, base_url=base_url, allow_private_links=allow_private_links)
        )
    )


def known_service(directory: RunDirectory, service: dict[str, Any]) -> dict[str, Any]:
    """Recognise a run of the local gateway by its state, where no service is named."""
    is_named = any(service[name] is not None for name in ("client", "base_url", "gateway"))
    return service if is_named or not directory.gateway.is_dir() else {**service, "gateway": "local"}


def with_key(client: Client) -> Client:
    """Give the client back if it can be used without asking for a key."""
    if client.settings.api_key is None and not client.settings.is_loopback:
        raise KeyMissing(
            f"{client.settings.service_name} needs an API key: set the environment variable DREAMO_API_KEY, or give "
            'api_key=. To try without a key or cost, use gateway="local".'
        )
    return client


def _gateway(resources: ExitStack, directory: RunDirectory, gateway: str | Gateway) -> Gateway:
    """Give a running gateway: the embedded one, or the one given, started for this call if it is not running."""
    if isinstance(gateway, str):
        gateway = _local_gateway()
    start: Any = getattr(gateway, "start", None)
    if start is not None and not getattr(gateway, "is_running", True):
        try:
            start(directory.gateway)
        except (FileExistsError, NotADirectoryError):
            raise DirectoryError(f"{directory.path} is not a folder; give another run directory.") from None
        resources.callback(gateway.stop)  # type: ignore[attr-defined]
    return gateway


def _local_gateway() -> Gateway:
    local: Any = load_module("dreamo_batch.gateway")  # by name: only this hook reaches it
    try:
        made: Gateway = local.LocalGateway()
    except ModuleNotFoundError as error:
        raise UsageError(f'gateway="local": {error}') from None
    return made


def _refuse_both(given: str, **others: object) -> None:
    also = [name for name, value in others.items() if value is not None]
    if also:
        raise UsageError(f"give {given}= or {also[0]}=, not both")


_WORKERS_MAX: Final = 16
_WORKERS_MIN: Final = 4
_PRECHARGE_WAITS_S: Final = (0.3, 1.0, None)
_PRECHARGE_WAIT_MAX_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a call is given: the user's columns, what was decided for each row, and the options.

    `chosen` are jobs named for a retry. With `fetched`, nothing is submitted, and of the pictures that are missing only
    those of these jobs are fetched. `before` is the budget of the call that this one goes on with, also if that was
    stopped: what it had still to submit, this one submits too, for what that left of `max_new_cost`.
    """

    user: pd.DataFrame
    prepared: Prepared
    options: RunOptions
    chosen: frozenset[str] = frozenset()
    fetched: frozenset[str] | None = None
    before: Budget | None = None


def _ignore(_call: Call) -> None:
    """Nobody follows the call."""


class Call:
    """A call on a run directory: checked, begun, and what it came to once its runner has closed."""

    client: Client
    runner: Runner
    coordinator: Coordinator
    ledger: Ledger

    def __init__(
        self,
        directory: RunDirectory,
        task: Task,
        entropy: str,
        service: dict[str, Any],
        *,
        clock: Clock | None = None,
    ) -> None:
        self.directory = directory
        self.task = task
        self.results: pd.DataFrame | None = None
        self.reconciliation: dict[str, Any] = {}
        self.warnings: tuple[str, ...] = ()
        self.is_begun = False
        self._entropy = entropy
        self._service = service
        self._clock = clock or SystemClock()
        self._table_id = uuid.uuid4().hex
        self._is_stopped = False
        self._why_no_price: str | None = None
        self._unasked: Failure | None = None

    def begin(self, on_begin: Callable[[Call], None] = _ignore) -> None:
        """Check everything, then go on in place of whatever call is live on the directory.

        Refused or interrupted, it leaves that as it was; `on_begin` is called in the runner's thread, just before the
        first request.
        """
        with ExitStack() as resources:
            self.client = connect(resources, self.directory, **self._service)
            try:
                price = self._told_price()
                ask(self.directory, partial(self._install, price, resources, on_begin))
            except AccessRefused as refused:
                if live(self.directory.path) is None:
                    ask(self.directory, partial(self._keep, refused))
                raise
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Send nothing more for this call, begun or not; creates on the wire are still recorded."""
        self._is_stopped = True
        if self.is_begun:
            self.runner.interrupt(self.coordinator)

    @property
    def is_taken_over(self) -> bool:
        """Whether another call of this process went on with the directory, or this process is only a fork."""
        return self.is_begun and (self.runner.is_of_parent or self.runner.coordinator is not self.coordinator)

    def results_now(self) -> pd.DataFrame:
        """Give the table as it stands, whoever works on the directory."""
        results = results_of(self.task.user, self.task.prepared, self.ledger.state.copy())
        return frame.mark(results, self.directory)

    # In the runner's thread.

    def _install(
        self,
        price: Decimal | None,
        resources: ExitStack,
        on_begin: Callable[[Call], None],
        at_work: Runner,
    ) -> None:
        session = at_work.open(self.client.settings.service_name, self._clock, self._entropy)
        before = at_work.coordinator
        assignment = self._assignment(session.ledger.state, before)
        budget = self._budget(assignment, session.ledger.state, price)
        n_workers = at_work.workers.n if at_work.workers else _n_workers(self.task.options.max_in_flight)
        self._refuse_copy(session.ledger, assignment)
        coordinator = self._coordinator(session.ledger, assignment, budget, n_workers)
        warnings = self._warnings(session.ledger, assignment, before)
        if self._is_stopped:
            raise RunStopped("stopped before it began")  # nobody waits for it any more
        try:
            self._remember(session.ledger, budget.cap)
        except OSError as error:
            raise storage_failed(self.directory, error) from error
        self.warnings = warnings
        session.resources.push(resources.pop_all())
        self.runner, self.coordinator, self.ledger = at_work, coordinator, session.ledger
        on_begin(self)
        at_work.take_on(coordinator, self._finish, n_workers)
        self.is_begun = True
        if self._is_stopped:
            coordinator.halt()

    def _assignment(self, state: State, before: Coordinator | None) -> Assignment:
        task = self.task
        if task.fetched is not None and before is not None and not before.schedule.is_halted:
            raise UsageError(
                f"A run is going on in {self.directory.path}; it saves its pictures itself. Stop it, or wait."
            )
        chosen = task.chosen
        if before is not None and (
            task.before is not None or (before.schedule.is_submitting and not before.schedule.is_halted)
        ):
            chosen |= {job_id for job_id, _ in before.schedule.waiting}
        assignment = planning.assignment(
            task.prepared, state, task.options.plan_options(chosen), self.directory.path
        )
        describe = describer(task.user, task.prepared.rows)
        assignment = replace(assignment, describe=describe)
        return assignment if task.fetched is None else fetching_only(assignment, task.fetched)

    def _refuse_copy(self, ledger: Ledger, assignment: Assignment) -> None:
        """Refuse to submit in a copy of a run directory unless agreed to: the original may submit the same."""
        may_submit = assignment.to_submit or (assignment.max_attempts > 1 and assignment.to_poll)
        if ledger.is_copy and may_submit and not self.task.options.adopt_copy:
            raise DirectoryError(
                f"{self.directory.path} is a copy of a run directory (or was moved to another disk). Nothing was "
                "submitted: what the original submitted since then isn't known here and could be paid twice. Pass "
                "adopt_copy=True to submit in the copy, or run the same call on the original."
            )

    def _warnings(
        self, ledger: Ledger, assignment: Assignment, before: Coordinator | None
    ) -> tuple[str, ...]:
        warnings = ledger.warnings + tuple(warnings_of(self.task.prepared, assignment.to_submit))
        nearly = nearly_bought(self.task.prepared, ledger.state, self.directory.jobs)
        warnings += nearly_bought_warnings(
            nearly[job_id] for job_id, _ in assignment.to_submit if job_id in nearly
        )
        if before is not None and before.schedule.is_paused:
            warnings += ("the run on this directory was paused; this call goes on with it",)
        return warnings

    def _coordinator(
        self, ledger: Ledger, assignment: Assignment, budget: Budget, n_workers: int
    ) -> Coordinator:
        options = self.task.options
        limits = Limits(
            max_in_flight=options.max_in_flight,
            n_workers=n_workers,
            task_timeout_s=options.task_timeout_s,
            patience_s=options.task_timeout_s,
        )
        return Coordinator(
            ledger=ledger,
            budget=budget,
            schedule=Schedule(limits, budget),
            effects=Effects(self.client, self.directory.path),
            clock=self._clock,
            assignment=assignment,
        )

    def _budget(self, assignment: Assignment, state: State, price: Decimal | None) -> Budget:
        options = self.task.options
        cap = options.cap(state.cap)
        agreed = self.task.before
        max_new = money(options.max_new_cost) if agreed is None else agreed.left
        is_limited = cap is not None or max_new is not None
        price = price if price is not None else highest_price(state)
        if is_limited and price is None and assignment.to_submit and options.pilot is None:
            limit = f"max_cost={text(cap)}" if cap is not None else f"max_new_cost={options.max_new_cost}"
            if self._unasked is not None and self._unasked.http_status is None:
                raise ServiceUnreachable(
                    f"could not ask for the price that {limit} needs: {self._unasked}. Nothing was submitted."
                )
            why = f" ({self._why_no_price})" if self._why_no_price else ""
            raise PriceUnknown(
                f"{limit} can't be kept: no price is known. None was given, none was seen in "
                f"{self.directory.path}, and the service does not tell one{why}. Give unit_cost= (USD an attempt), or "
                "pilot=k to buy up to k attempts first, counted over the directory's life, which the cap can't "
                "bind, and "
                "go on at the price they show."
            )
        return Budget(cap=cap, max_new=max_new, price=price, n_pilot=options.pilot or 0, attempts=state)

    def _remember(self, ledger: Ledger, cap: Decimal | None) -> None:
        write_jobs(ledger.directory.jobs, self.task.user, self.task.prepared, self._table_id)
        ledger.set_cap(None if cap is None else text(cap), self._clock.wall())
        ledger.commit()
        if self.task.options.adopt_copy and ledger.is_copy:
            ledger.adopt(self.task.prepared.jobs)
        ledger.directory.update_manifest(table_id=self._table_id, settings=self.task.options.as_settings())

    def _finish(self) -> None:
        """Write the results, once the ledger is closed."""
        ledger = self.ledger
        results = results_of(self.task.user, self.task.prepared, ledger.state)
        self.reconciliation = frame.reconcile(len(self.task.user), results)
        try:
            ledger.directory.refuse_loss()  # another run may have written its own
            write_frame(
                ledger.directory.results,
                results,
                {"table_id": self._table_id, "generation": ledger.generation, "covers": ledger.covers},
            )
            ledger.directory.update_manifest(reconciliation=self.reconciliation)
        except OSError as error:
            self.coordinator.storage_failed(error)
        self.results = frame.mark(results, self.directory)  # last: other threads look for it

    def _keep(self, refused: AccessRefused, at_work: Runner) -> None:
        """Leave the table in the directory, though nothing was submitted, and say how it stands."""
        if at_work.coordinator is not None:
            return
        session = at_work.open(self.client.settings.service_name, self._clock, self._entropy)
        try:
            self._remember(session.ledger, self.task.options.cap(session.ledger.state.cap))
        except OSError as error:
            raise storage_failed(self.directory, error) from error
        refused.run_dir = self.directory.path
        results = results_of(self.task.user, self.task.prepared, session.ledger.state)
        refused.results = frame.mark(results, self.directory)

    # What it may cost.

    def _told_price(self) -> Decimal | None:
        """Give what an attempt reserves, before the call begins: the user's price, or under a limit the service's."""
        price, max_new = money(self.task.options.unit_cost), money(self.task.options.max_new_cost)
        if price is not None or self.task.fetched is not None:
            return price
        state = read_state(self.directory) if self.directory.path.is_dir() else State()
        if self.task.options.cap(state.cap) is None and max_new is None:
            return None
        options = self.task.options.plan_options(self.task.chosen)
        assignment = planning.assignment(self.task.prepared, state, options, self.directory.path)
        jobs = [assignment.jobs[job_id] for job_id, _ in assignment.to_submit]
        return self._asked_price(jobs) if jobs else None

    def _asked_price(self, jobs: list[Job]) -> Decimal | None:
        """Ask the service what its largest picture costs; None where it does not tell, `_why_no_price` says why."""
        by_size = sorted(jobs, key=lambda job: job.width * job.height, reverse=True)[:2]
        job, waits = by_size[0], iter(_PRECHARGE_WAITS_S)
        while True:
            try:
                price = self.client.precharge(Payloads().request(job))
            except (ImageChanged, ImageGone):
                return None
            except ServiceError as error:
                failure = error.failure
            else:
                self._why_no_price, self._unasked = price.reason, None
                return money(price.cost) or None
            self._why_no_price, self._unasked = str(failure), failure
            if failure.error_class == FORBIDDEN and by_size:
                job, by_size = by_size[-1], []  # a firewall may dislike one prompt
                continue
            if failure.kind is Kind.STOP:
                raise AccessRefused(
                    f"the service refused access: {failure}. Nothing was submitted. Once that is settled, run the "
                    "same call again."
                )
            wait_s = next(waits)
            if failure.kind is not Kind.TRANSIENT or wait_s is None:
                return None
            threading.Event().wait(max(wait_s, min(failure.retry_after_s or 0.0, _PRECHARGE_WAIT_MAX_S)))


def results_of(user: pd.DataFrame, prepared: Prepared, state: Any) -> pd.DataFrame:
    """Lay what the ledger knows beside the user's table."""
    attempts = to_frame(to_arrow(state, prepared.jobs))
    return frame.assemble(user, prepared.rows, attempts)


def n_ambiguous(results: pd.DataFrame) -> int:
    """Count ambiguous rows."""
    return int((results[columns.STATUS] == columns.AMBIGUOUS).sum())


def _n_workers(max_in_flight: int) -> int:
    return min(_WORKERS_MAX, max(_WORKERS_MIN, max_in_flight + 2))


def choose(
    directory: RunDirectory,
    table: StoredTable,
    rows: Collection[Any] | pd.Series | None,
    classes: str | Collection[str] | None,
) -> frozenset[str]:
    """Give the jobs that a retry is about."""
    results = results_of(table.user, table.prepared, read_state(directory))
    is_failed = results[columns.STATUS] == columns.FAILED
    is_ambiguous = results[columns.STATUS] == columns.AMBIGUOUS
    wanted = is_failed if rows is None else is_failed | is_ambiguous
    if classes is not None:
        names = {classes} if isinstance(classes, str) else set(classes)
        known = failures.known_classes() | {columns.AMBIGUOUS, *results[columns.ERROR_CLASS].dropna()}
        if unknown := sorted(names - known):
            near = difflib.get_close_matches(str(unknown[0]), known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(known))}."
            raise UsageError(f"classes: {unknown[0]!r} is no class of failures{meant}")
        of_class = is_failed & results[columns.ERROR_CLASS].isin(names)
        wanted = of_class | (is_ambiguous if columns.AMBIGUOUS in names else False)
    if rows is not None:
        wanted &= frame.row_mask(results.index, rows)
    return frozenset(results.loc[wanted.to_numpy(), columns.JOB_ID].dropna())


_LOOK_EVERY_S: Final = 0.1
_REST_S: Final = 1.5


def work_off(
    directory: RunDirectory, task: Task, entropy: str, service: dict[str, Any], *, show: bool
) -> pd.DataFrame:
    """Work a task off and give the table back; raises what stopped it early."""
    __tracebackhide__ = True  # a notebook shows the user's own line, not ours
    call = Call(directory, task, entropy, service)
    bar: Progress | None = None
    with _interrupts():
        try:
            call.begin()
            bar = _progress(call, show=show)
            _watch(call, bar)
        except BaseException as error:
            call.stop()
            if isinstance(error, KeyboardInterrupt) and call.is_begun:
                bar = bar or _progress(call, show=show)
                _tell_stopped(call, bar)
            raise
        finally:
            if bar is not None:
                bar.close()
    return _end(call, bar)


def _progress(call: Call, *, show: bool) -> Progress:
    first = call.coordinator.snapshot()
    n_left = first.n_rows - first.n_settled
    bar = shown(first, show=show, n_before=first.n_settled if call.task.chosen and n_left else 0)
    for warning in call.warnings:
        bar.say(f"warning: {warning}", logging.WARNING)
    return bar


def _watch(call: Call, bar: Progress) -> None:
    __tracebackhide__ = True
    while not call.runner.is_closed.wait(_LOOK_EVERY_S):
        _paint(call, bar)
    _paint(call, bar)


def _tell_stopped(call: Call, bar: Progress) -> None:
    runner = call.runner
    if call.is_taken_over:
        bar.say(
            f"waiting no longer; another call of this process goes on with the run ({call.directory.path})."
        )
        return
    runner.is_resting.wait(_REST_S)
    _paint(call, bar)
    n = runner.n_on_the_wire
    waiting = f"; {n} creates are being answered and are still recorded" if n else ""
    bar.say(
        f"stopped{waiting}. The same call goes on where this one ended ({call.directory.path}).",
        logging.WARNING,
    )


def _paint(call: Call, bar: Progress) -> None:
    bar.update(call.coordinator.snapshot())
    notices = call.coordinator.notices
    while notices:
        bar.say(notices.pop(0), logging.WARNING)


def _end(call: Call, bar: Progress) -> pd.DataFrame:
    __tracebackhide__ = True
    if call.runner.error is not None:
        raise call.runner.error
    if call.is_taken_over:
        return _end_with_another(call)
    if call.results is not None:
        bar.say(frame.sentence(call.reconciliation, call.coordinator.budget.spent))
        for line in frame.ambiguous_lines(call.results, call.ledger.state):
            bar.say(line, logging.WARNING)
    if call.coordinator.stopped is not None:
        if isinstance(call.coordinator.stopped, RunStopped | PriceUnknown):
            call.coordinator.stopped.results = call.results
            call.coordinator.stopped.run_dir = call.directory.path
        raise call.coordinator.stopped
    assert call.results is not None  # noqa: S101 - a runner that closed without an error has results
    return call.results


def _end_with_another(call: Call) -> pd.DataFrame:
    """Give the table once the call that went on with the run is over; raises what stopped that one."""
    __tracebackhide__ = True
    results = call.results_now()
    stopped = call.runner.coordinator.stopped if call.runner.coordinator is not None else None
    n_left = int(results[columns.STATUS].isin(columns.UNSETTLED).sum())
    if stopped is None and not n_left:
        return results
    left = RunStopped(
        f"another call of this process went on with {call.directory.path}, and left {n_left} rows of this table "
        "unsettled. Run the same call again to go on; nothing is bought twice."
    )
    told = left if stopped is None else copy.copy(stopped)  # each thread raises its own
    if isinstance(told, RunStopped | PriceUnknown):
        told.results, told.run_dir = results, call.directory.path
    raise told


@contextmanager
def in_front() -> Iterator[None]:
    """Show an interrupt at the user's line, and let no log or warning fail on a closed standard error."""
    with interrupts_without_our_lines():
        if getattr(sys.stderr, "closed", False):
            with redirect_stderr(None):
                yield
        else:
            yield


@contextmanager
def _interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP count as an interrupt, where nobody else handles them."""
    restore: list[tuple[signal.Signals, Callable[[int, FrameType | None], Any] | int | None]] = []
    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(name)
            if handler is signal.SIG_DFL:
                signal.signal(name, signal.default_int_handler)
                restore.append((name, handler))
    try:
        yield
    finally:
        for name, handler in restore:
            signal.signal(name, handler)


N_NEWEST: Final = 12
_ENDED_BADLY: Final = (columns.FAILED, columns.AMBIGUOUS)
_MEAN_DIGITS: Final = 12

Forecast = tuple[Decimal, Decimal, Decimal]
"""Low, likely, high; USD."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What of a table a status needs: its jobs, the label of each job's first row, rows per job, invalid rows."""

    jobs: Mapping[str, Job]
    labels: Mapping[str, Any]
    weights: Mapping[str, int]
    invalid: tuple[ErrorGroup, ...] = ()


def rows_of(index: pd.Index, prepared: Prepared) -> Rows:
    """Read off a prepared table what a status needs of it."""
    job_ids = prepared.rows[columns.JOB_ID]
    is_job = job_ids.notna()
    is_first = is_job & prepared.rows[columns.DUPLICATE_OF].isna()
    labels = dict(zip(job_ids[is_first], index[is_first.to_numpy()], strict=True))
    weights = job_ids.value_counts().to_dict()
    return Rows(prepared.jobs, labels, weights, _invalid(index, prepared.rows[~is_job]))


def _invalid(index: pd.Index, rows: pd.DataFrame) -> tuple[ErrorGroup, ...]:
    if not len(rows):
        return ()
    position, message = rows.index[0], rows[columns.ERROR_MESSAGE].iloc[0]
    return (ErrorGroup(columns.INVALID, len(rows), index[position], str(message)),)


@dataclass(slots=True)
class _Prices:
    """Prices seen for pictures of one size."""

    n: int = 0
    sum_usd: Decimal = ZERO
    low: Decimal = ZERO
    high: Decimal = ZERO

    def add(self, price: Decimal) -> None:
        self.low = min(self.low, price) if self.n else price
        self.high = max(self.high, price)
        self.n, self.sum_usd = self.n + 1, total((self.sum_usd, price))

    def forecast(self) -> Forecast:
        with localcontext(Context(prec=_MEAN_DIGITS)):
            return self.low, self.sum_usd / self.n, self.high


@dataclass(slots=True)
class _Errors:
    """Jobs that stand at an error of one class, first to come first."""

    n_rows: int = 0
    messages: dict[str, str] = field(default_factory=dict)


class Tally:
    """Follows the attempts of a run; fed by one thread, read by any."""

    def __init__(self, rows: Rows, state: State, run_dir: Path) -> None:
        self._rows = rows
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._newest: deque[Attempt] = deque(maxlen=N_NEWEST)
        self._errors: dict[str, _Errors] = {}
        self._class_of: dict[str, str] = {}
        self._prices: dict[int | None, _Prices] = {}
        self._unsettled: Counter[int | None] = Counter()
        self._status: dict[str, str] = {}
        self._unknown = ZERO  # held back for attempts that ended without a cost
        self._start(state)

    def note(self, before: Attempt | None, after: Attempt, deciding: Attempt) -> None:
        """Take in what became of an attempt; `deciding` is the one that says how its job stands now."""
        with self._lock:
            self._count_money(before, after)
            if after.job_id in self._rows.weights and _is_newly_saved(before, after):
                self._newest.append(after)
            self._settle(deciding)

    def errors(self) -> tuple[ErrorGroup, ...]:
        """Give rows that failed or may have been submitted, by class, most frequent first."""
        with self._lock:
            groups = [self._group(name, errors) for name, errors in self._errors.items() if errors.messages]
        return tuple(sorted((*groups, *self._rows.invalid), key=lambda group: -group.n_rows))

    def newest(self) -> tuple[Picture, ...]:
        """Give the pictures saved last, newest first."""
        with self._lock:
            return tuple(self._picture(attempt) for attempt in reversed(self._newest))

    def forecast(self, spent_usd: Decimal, price: Decimal | None) -> Forecast | None:
        """Say what the directory will have cost once every row is settled."""
        with self._lock:
            at_any = self._overall() or (None if price is None else (price, price, price))
            parts: list[Forecast] = [(spent_usd, spent_usd, spent_usd), (ZERO, self._unknown, self._unknown)]
            for n_pixels, n_jobs in (+self._unsettled).items():
                each = self._prices[n_pixels].forecast() if n_pixels in self._prices else at_any
                if each is None:
                    return None
                parts.append((times(n_jobs, each[0]), times(n_jobs, each[1]), times(n_jobs, each[2])))
        low, likely, high = (total(part[place] for part in parts) for place in range(3))
        return low, likely, high

    # Private; called with the lock held, but for the start.

    def _start(self, state: State) -> None:
        for attempt in state:
            self._count_money(None, attempt)
        saved = (
            attempt
            for attempt in state
            if attempt.output_path is not None and attempt.job_id in self._rows.weights
        )
        self._newest.extend(sorted(saved, key=lambda attempt: attempt.saved_at or 0.0)[-N_NEWEST:])
        for job_id in self._rows.weights:
            self._settle(state.deciding(job_id) or Attempt(job_id, 1))
        for job_id in {attempt.job_id for attempt in state} - self._rows.weights.keys():
            self._settle(state.deciding(job_id) or Attempt(job_id, 1))

    def _count_money(self, before: Attempt | None, after: Attempt) -> None:
        self._unknown = total((self._unknown, _unknown(before).copy_negate(), _unknown(after)))
        price = price_of(after)
        if price is not None and (before is None or price_of(before) is None):
            self._prices.setdefault(self._n_pixels(after.job_id), _Prices()).add(price)

    def _settle(self, attempt: Attempt) -> None:
        status, n_pixels = status_of(attempt), self._n_pixels(attempt.job_id)
        if attempt.job_id not in self._rows.weights and attempt.stage not in OPEN:
            status = ""  # no row waits for it
        self._unsettled[n_pixels] += (status in columns.UNSETTLED) - (
            self._status.get(attempt.job_id) in columns.UNSETTLED
        )
        self._status[attempt.job_id] = status
        self._set_error(attempt, status)

    def _set_error(self, attempt: Attempt, status: str) -> None:
        weight = self._rows.weights.get(attempt.job_id, 0)
        old = self._class_of.pop(attempt.job_id, None)
        if old is not None:
            self._errors[old].n_rows -= weight
            del self._errors[old].messages[attempt.job_id]
        message = attempt.error_message or attempt.output_error
        name = _class(attempt, status)
        if name is not None and weight:
            errors = self._errors.setdefault(name, _Errors())
            errors.n_rows += weight
            errors.messages[attempt.job_id] = message or ""
            self._class_of[attempt.job_id] = name

    def _group(self, name: str, errors: _Errors) -> ErrorGroup:
        job_id, message = next(iter(errors.messages.items()))
        return ErrorGroup(name, errors.n_rows, self._rows.labels.get(job_id), message)

    def _picture(self, attempt: Attempt) -> Picture:
        job = self._rows.jobs.get(attempt.job_id)
        return Picture(
            row=self._rows.labels.get(attempt.job_id),
            job_id=attempt.job_id,
            prompt="" if job is None else job.prompt,
            seed=attempt.seed_sent,
            path=self._run_dir / str(attempt.output_path),
            cost_usd=money(attempt.cost),
        )

    def _n_pixels(self, job_id: str) -> int | None:
        job = self._rows.jobs.get(job_id)
        return None if job is None else job.width * job.height

    def _overall(self) -> Forecast | None:
        if not self._prices:
            return None
        known = self._prices.values()
        whole = _Prices(
            n=sum(one.n for one in known),
            sum_usd=total(one.sum_usd for one in known),
            low=min(one.low for one in known),
            high=max(one.high for one in known),
        )
        return whole.forecast()


def _is_newly_saved(before: Attempt | None, after: Attempt) -> bool:
    return after.output_path is not None and (before is None or before.output_path != after.output_path)


def _class(attempt: Attempt, status: str) -> str | None:
    """Name the error that a job stands at; None where there is none."""
    if status in _ENDED_BADLY:
        return attempt.error_class or status
    return columns.OUTPUT_ERROR if attempt.output_error is not None else None


def _unknown(attempt: Attempt | None) -> Decimal:
    """Give what is held back for an attempt that ended, or may have been taken, without a known cost."""
    if (
        attempt is None
        or attempt.stage not in SUBMITTED
        or attempt.stage in OPEN
        or not is_unresolved_cost(attempt)
    ):
        return ZERO
    return money(attempt.reserved) or ZERO


_N_NOTICES: Final = 20
_SPEED_OVER: Final = 64  # rows settled lately that the rate is told from

_works: Final[weakref.WeakValueDictionary[Path, Work]] = weakref.WeakValueDictionary()
_works_lock: Final = threading.Lock()


def _forget_parent() -> None:
    """Leave the parent's works to the parent; called in a child that was just forked."""
    _works.clear()
    _works_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_works_lock.acquire, after_in_parent=_works_lock.release, after_in_child=_forget_parent
    )


def work_on(directory: RunDirectory) -> Work | None:
    """Give what this process does on a directory, if it ever began and anybody still looks at it."""
    with _works_lock:
        work = _works.get(directory.path)
    return work if work is not None and work.has_begun else None


def begin(directory: RunDirectory, task: Task, entropy: str, service: dict[str, Any]) -> Work:
    """Begin to work a task off in the background; a run that is live on the directory goes on with the new task."""
    with _works_lock:
        work = _works.get(directory.path)
        if work is None:
            work = _works[directory.path] = Work(directory, entropy, service)
    work.begin(task, entropy, service)
    return work


class Speed:
    """How many rows are settled in a second, lately."""

    def __init__(self, began_at: float, n_settled: int) -> None:
        self._marks: deque[tuple[float, int]] = deque([(began_at, n_settled)], maxlen=_SPEED_OVER)

    def note(self, now: float, n_settled: int) -> None:
        """Take in how many rows are settled now."""
        if n_settled != self._marks[-1][1]:
            self._marks.append((now, n_settled))

    def rows_per_s(self, now: float) -> float | None:
        """Tell the rate; None before the first row."""
        first, last = self._marks[0], self._marks[-1]
        n_rows = last[1] - first[1]
        return n_rows / (now - first[0]) if n_rows > 0 and now > first[0] else None


def left_s(n_left: int, rows_per_s: float | None) -> float | None:
    """Tell how many seconds are left; None if it can't be told."""
    if n_left == 0:
        return 0.0
    return n_left / rows_per_s if rows_per_s else None


class Work:
    """A run in the background."""

    def __init__(self, directory: RunDirectory, entropy: str, service: dict[str, Any]) -> None:
        self.directory = directory
        self._entropy = entropy
        self._service = service
        self._changing = threading.RLock()
        self._call: Call | None = None
        self._tally: Tally | None = None
        self._speed = Speed(0.0, 0)
        self._is_stop_asked = False
        self._began_at = 0.0
        self._ended_at: float | None = None

    @property
    def has_begun(self) -> bool:
        """Whether any call was begun."""
        return self._call is not None

    @property
    def call(self) -> Call:
        """The call under way, or the last one."""
        assert self._call is not None  # noqa: S101 - `begin` makes it before anybody gets to see the work
        return self._call

    def begin(self, task: Task, entropy: str | None = None, service: dict[str, Any] | None = None) -> None:
        """Begin a call; it goes on with a live one, and creates that were sent are still recorded."""
        with self._changing:
            entropy, service = entropy or self._entropy, service or self._service
            Call(self.directory, task, entropy, service).begin(self._follow)
            self._entropy, self._service = entropy, service

    def _follow(self, call: Call) -> None:
        """Look at another call from now on; its coordinator keeps this work alive."""
        rows = rows_of(call.task.user.index, call.task.prepared)
        tally = Tally(rows, call.ledger.state, self.directory.path)
        now = time.monotonic()
        speed = Speed(now, call.coordinator.snapshot().n_settled)
        call.coordinator.on_change = partial(self._note, call.coordinator, tally, speed)
        self._began_at, self._ended_at, self._is_stop_asked = now, None, False
        self._call, self._tally, self._speed = call, tally, speed

    # What changes the run.

    def pause(self) -> None:
        """Attempt nothing more for now; what is in flight is finished and saved."""
        self._ask(lambda coordinator: coordinator.pause(is_paused=True))

    def resume(self) -> None:
        """Go on after a pause, or after the run stopped."""
        with self._changing:
            if not self._ask(_unpause) or self._is_stop_asked:
                self.begin(self._task_again(frozenset()))

    def stop(self) -> None:
        """Send nothing more; creates on the wire are still recorded when they are answered."""
        self._is_stop_asked = True
        self.call.stop()

    def retry(self, rows: Collection[Any] | pd.Series | None, classes: str | Collection[str] | None) -> None:
        """Attempt chosen rows again, once, beside what is under way."""
        with self._changing:
            table = read_jobs(self.directory.jobs)
            self.begin(self._task_again(choose(self.directory, table, rows, classes)))

    def raise_budget(self, max_cost: Decimal | None) -> None:
        """Set a higher cap, None for none; a run that had stopped goes on."""
        with self._changing:
            cap = self.call.coordinator.budget.cap
            if cap is None or (max_cost is not None and max_cost <= cap):
                has = "there is no cap" if cap is None else f"the cap is {text(cap)} USD already"
                raise UsageError(
                    f"max_cost={max_cost}: {has}; a running batch takes only a higher one. To lower it, stop, and "
                    "start again with max_cost=."
                )
            self._raise(max_cost)

    def _raise(self, max_cost: Decimal | None) -> None:
        call = self.call

        def change(coordinator: Coordinator) -> bool:
            coordinator.ledger.set_cap(None if max_cost is None else text(max_cost), time.time())
            coordinator.ledger.commit()
            coordinator.budget.cap = max_cost
            return coordinator.stopped is None

        goes_on = self._ask(change)
        kept = replace(call.task.options, max_cost="inf" if max_cost is None else text(max_cost))
        call.task = replace(call.task, options=kept)
        if not goes_on:
            self.begin(self._task_again(frozenset()))

    def _task_again(self, chosen: frozenset[str]) -> Task:
        """Give the task of a call that goes on: what this run has submitted again is not submitted once more.

        What the run may still add to the cost is what the calls before it left.
        """
        task = self.call.task
        options = replace(task.options, retry_failed=False, on_ambiguous="hold")
        still_asked = frozenset(key[0] for key in self.call.coordinator.schedule.waiting)
        return replace(
            task, options=options, chosen=chosen | still_asked, before=self.call.coordinator.budget
        )

    def _ask(self, do: Callable[[Coordinator], Any]) -> bool:
        """Have something done in the runner's thread; False if the run is over, or it says so."""
        call = self.call

        def on_this_call(at_work: Runner) -> Any:
            if at_work.coordinator is not call.coordinator:
                raise UsageError(
                    f"another call of this process went on with {self.directory.path}; to work on it here, use "
                    "start or run once that is over."
                )
            return do(call.coordinator)

        reply = call.runner.ask(on_this_call)
        return not reply.cancelled() and reply.result() is not False

    # What it tells.

    def status(self) -> Status:
        """Say how the run stands."""
        call, tally, now = self.call, self._tally, time.monotonic()
        assert tally is not None  # noqa: S101 - made with the call
        coordinator = call.coordinator
        snapshot = coordinator.snapshot()
        phase = self._phase(call, snapshot.by_status)
        if call.runner.is_closed.is_set() and self._ended_at is None:
            self._ended_at = now
        speed = self._speed.rows_per_s(now) if phase in ("running", "stopping") else None
        n_left = snapshot.n_rows - snapshot.n_settled
        return Status(
            run_dir=self.directory.path,
            phase=phase,
            by_status=snapshot.by_status,
            spent_usd=snapshot.spent_usd,
            reserved_usd=snapshot.reserved_usd,
            max_cost_usd=snapshot.max_cost_usd,
            projected_usd=tally.forecast(snapshot.spent_usd, coordinator.budget.price),
            n_in_flight=snapshot.n_in_flight,
            n_again=snapshot.n_again,
            rows_per_s=speed,
            eta_s=left_s(n_left, speed),
            elapsed_s=(self._ended_at or now) - self._began_at,
            errors=tally.errors(),
            newest=tally.newest(),
            notices=tuple(self._notices(call)[-_N_NOTICES:]),
            problem=_problem(call),
            is_cap_reached=_is_cap_reached(call),
            at=datetime.now(UTC),
        )

    @property
    def ending(self) -> str:
        """What the run came to, in one line; empty until it is over."""
        if self.call.results is None:
            return ""
        return harmless(frame.sentence(self.call.reconciliation, self.call.coordinator.budget.spent))

    def results(self) -> pd.DataFrame:
        """Give the table as it stands now."""
        call = self.call
        return call.results_now() if call.results is None else call.results.copy()

    @property
    def is_taken_over(self) -> bool:
        """Whether a call outside this run, such as `run` in the foreground, went on with the directory."""
        return self.call.is_taken_over

    def _phase(self, call: Call, by_status: Any) -> Phase:
        if not call.runner.is_closed.is_set():
            is_ending = self._is_stop_asked or call.coordinator.stopped is not None
            is_paused = call.coordinator.schedule.is_paused
            return "stopping" if is_ending else "paused" if is_paused else "running"
        is_whole = not any(by_status.get(status, 0) for status in columns.UNSETTLED)
        return "finished" if is_whole and _problem(call) is None else "stopped"

    def _notices(self, call: Call) -> list[str]:
        told = [f"warning: {warning}" for warning in call.warnings]
        told += [harmless(line) for line in call.coordinator.notices[-_N_NOTICES:]]
        return [*told, self.ending] if self.ending else told

    def _note(  # bound to the work, which so lives as long as its coordinator does
        self, coordinator: Coordinator, tally: Tally, speed: Speed, before: Attempt | None, after: Attempt
    ) -> None:
        tally.note(before, after, coordinator.ledger.state.deciding(after.job_id) or after)
        speed.note(time.monotonic(), coordinator.snapshot().n_settled)


def _unpause(coordinator: Coordinator) -> bool:
    coordinator.pause(is_paused=False)
    return coordinator.stopped is None


def _problem(call: Call) -> str | None:
    problem = call.runner.error or call.coordinator.stopped
    return None if problem is None else harmless(str(problem) or type(problem).__name__)


def _is_cap_reached(call: Call) -> bool:
    budget = call.coordinator.budget
    return isinstance(call.coordinator.stopped, BudgetReached) and budget.limit == budget.cap


def cap_of(max_cost: Any) -> Decimal | None:
    """Read a cap as a user gives it; None for infinity."""
    if str(max_cost).lower() in {"inf", "infinity"}:
        return None
    amount = money(max_cost)
    if amount is None:
        raise UsageError(
            f"max_cost must be an amount in USD of at least 0, or inf for no cap, not {max_cost!r}"
        )
    return amount


_FOLLOW_EVERY_S: Final = 1.0
_SHARE: Final = 5.0  # looks take at most a fifth of the time, however large the run


class Follower:
    """Reads a run directory again and again, as seldom as is good for it."""

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.directory = existing(run_dir)
        self._began_at = time.monotonic()
        self._next_at = self._began_at
        self._table_id = ""
        self._rows = Rows({}, {}, {})
        self._speed: Speed | None = None
        self._status = self._look()

    def status(self) -> Status:
        """Say how the run stands; at most a second old, more for large runs."""
        began_at = time.monotonic()
        if began_at >= self._next_at:
            try:
                self._status = self._look()
            except DirectoryError as error:
                if not self.directory.path.is_dir():
                    raise
                self._status = _troubled(self._status, error)
            took_s = time.monotonic() - began_at
            self._next_at = began_at + max(_FOLLOW_EVERY_S, took_s * _SHARE)
        return self._status

    def results(self) -> pd.DataFrame:
        """Give the table as it stands on disk."""
        return load(self.directory.path)

    def _look(self) -> Status:
        is_worked_on = self.directory.is_locked()
        self._read_table()
        state, now = read_state(self.directory), time.monotonic()
        price = highest_price(state)
        budget = Budget(cap=money(state.cap), price=price, attempts=state)
        by_status, tally = _count(self._rows, state), Tally(self._rows, state, self.directory.path)
        n_left = sum(by_status.get(status, 0) for status in columns.UNSETTLED)
        speed = self._rate(now, sum(by_status.values()) - n_left) if is_worked_on else None
        return Status(
            run_dir=self.directory.path,
            phase=_phase(n_left, is_worked_on=is_worked_on),
            by_status=by_status,
            spent_usd=budget.spent,
            reserved_usd=budget.reserved,
            max_cost_usd=budget.cap,
            projected_usd=tally.forecast(budget.spent, price),
            n_in_flight=sum(attempt.stage in OPEN for attempt in state),
            rows_per_s=speed,
            eta_s=left_s(n_left, speed),
            elapsed_s=now - self._began_at,
            errors=tally.errors(),
            newest=tally.newest(),
            notices=(),
            problem=None,
            at=datetime.now(UTC),
        )

    def _read_table(self) -> None:
        """Read the table, which takes a while, only where it is another one than before."""
        if not self.directory.jobs.exists():
            raise DirectoryError(f"{self.directory.path} has no {self.directory.jobs.name} (any more).")
        table_id = str(read_table_meta(self.directory.jobs).get("table_id"))
        if table_id != self._table_id:
            table = read_jobs(self.directory.jobs)
            self._rows = rows_of(table.user.index, table.prepared)
            self._table_id, self._speed = table.table_id, None

    def _rate(self, now: float, n_settled: int) -> float | None:
        if self._speed is None:
            self._speed = Speed(now, n_settled)
        self._speed.note(now, n_settled)
        return self._speed.rows_per_s(now)


def _phase(n_left: int, *, is_worked_on: bool) -> Phase:
    return "running" if is_worked_on else "idle" if n_left else "finished"


def _count(rows: Rows, state: State) -> Mapping[str, int]:
    counts: Counter[str] = Counter(dict.fromkeys(columns.STATUSES, 0))
    counts[columns.INVALID] = sum(group.n_rows for group in rows.invalid)
    for job_id, weight in rows.weights.items():
        counts[status_of(state.deciding(job_id))] += weight
    return dict(counts)


def _troubled(status: Status, error: DirectoryError) -> Status:
    return replace(status, problem=str(error), at=datetime.now(UTC))


logger = logging.getLogger(__name__)

Amount = float | str | Decimal
_LISTED_MAX: Final = 5


def run(
    table: pd.DataFrame,
    run_dir: str | os.PathLike[str],
    *,
    client: Client | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    gateway: Literal["local"] | Gateway | None = None,
    allow_private_links: bool = False,
    max_cost: Amount | None = None,
    max_new_cost: Amount | None = None,
    unit_cost: Amount | None = None,
    pilot: int | None = None,
    max_in_flight: int = 8,
    download: bool = True,
    fix_images: bool = False,
    keep_references: bool = True,
    on_invalid: Literal["raise", "skip"] = "raise",
    on_ambiguous: Literal["hold", "resubmit"] = "hold",
    max_attempts: int = 1,
    retry_failed: bool = False,
    random_seed: Literal["record", "service"] = "record",
    task_timeout_s: float = 900.0,
    adopt_copy: bool = False,
    progress: bool = True,
    base_dir: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Work a table off; the same call again resumes, and a finished run costs nothing.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per picture wanted; columns as in `dreamo_batch.columns.INPUTS`, any others are yours and come
        back untouched. Never changed.
    run_dir : path-like
        Directory that keeps the ledger and the pictures; made if missing.
    client : Client, optional
        Talks to the service; instead of `api_key` and `base_url`.
    api_key, base_url : str, optional
        Default: the environment's ``DREAMO_API_KEY`` and ``DREAMO_BASE_URL``, else the public gateway.
    gateway : "local" or LocalGateway, optional
        ``"local"`` starts the embedded gateway, which needs no key and costs nothing; its state is kept in
        the run directory. A `LocalGateway` that is not running is started and closed in the same way.
    allow_private_links : bool
        Follow links to pictures that lead to private addresses, as of a service in your own network.
    max_cost : float, str or Decimal, optional
        Cap in USD over everything ever submitted in the directory; stored until given anew, infinity lifts it.
    max_new_cost : float, str or Decimal, optional
        USD that this call may add at most to what was spent and reserved before it; not stored. It binds a batch
        as a whole, however often it is resumed or retried.
    unit_cost : float, str or Decimal, optional
        USD that each attempt reserves; default: what the service's precharge tells, else the highest price seen.
    pilot : int, optional
        With a cap and no known price: buy up to so many attempts first, which the cap can't bind. Counts over the
        directory's life, so that the same call again buys no more of them.
    max_in_flight : int
        Tasks at the service at once.
    download : bool
        Save the pictures.
    fix_images : bool
        Send corrected copies of reference pictures that the service would not take.
    keep_references : bool
        Keep a copy of each reference picture in the run directory, so that it can be moved or given away.
    on_invalid : {"raise", "skip"}
        What to do about rows that can't be submitted.
    on_ambiguous : {"hold", "resubmit"}
        ``"resubmit"`` attempts rows again that were ambiguous before this call; they may be paid twice.
    max_attempts : int
        Attempts of a job in all, for failures that are known to be unbilled.
    retry_failed : bool
        Attempt rows again, once, that had failed before this call.
    random_seed : {"record", "service"}
        ``"record"`` draws missing seeds before sending; ``"service"`` leaves it to the service.
    task_timeout_s : float
        Seconds to wait for a task in this call; the next call asks for it again.
    adopt_copy : bool
        Submit also where the directory is a copy of a run directory, whose original may submit the same.
    progress : bool
        Show a bar and lines on standard error.
    base_dir : path-like, optional
        Folder that relative image paths start from; default: the working directory.

    Returns
    -------
    pandas.DataFrame
        `table` with the columns of `dreamo_batch.columns.OUTPUTS`, on the same index and in the same order.

    Raises
    ------
    InvalidTable
        If rows can't be submitted (with ``on_invalid="raise"``); `.problems` lists all. Nothing was sent.
    UsageError, PriceUnknown
        If an option can't be used. Nothing was sent.
    DirectoryError
        If the directory is in use, belongs to another service, or its ledger is damaged.
    RunStopped
        `BudgetReached`, `AccessRefused`, `KeyMissing`, `StorageFailed` or `ServiceUnreachable`; `.results` holds
        the table as it stands.
    KeyboardInterrupt
        Within 2 s of an interrupt; run again to go on.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> done["status"].tolist()
    ['completed', 'completed']
    >>> again = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> again["task_id"].equals(done["task_id"])
    True
    """
    options = RunOptions(
        max_cost=max_cost,
        max_new_cost=max_new_cost,
        unit_cost=unit_cost,
        pilot=pilot,
        max_in_flight=max_in_flight,
        download=download,
        fix_images=fix_images,
        keep_references=keep_references,
        on_invalid=on_invalid,
        on_ambiguous=on_ambiguous,
        max_attempts=max_attempts,
        retry_failed=retry_failed,
        random_seed=random_seed,
        task_timeout_s=task_timeout_s,
        adopt_copy=adopt_copy,
    )
    __tracebackhide__ = True  # a notebook shows the user's own line, not ours
    service = service_given(
        client=client,
        api_key=api_key,
        base_url=base_url,
        gateway=gateway,
        allow_private_links=allow_private_links,
    )
    with in_front():
        flag("progress", progress)
        with bars(progress):
            ready = made_ready(table, RunDirectory(run_dir), options, base_dir)
        return work_off(*ready, service, show=progress)


def made_ready(
    table: pd.DataFrame,
    directory: RunDirectory,
    options: RunOptions,
    base_dir: str | os.PathLike[str] | None = None,
) -> tuple[RunDirectory, Task, str]:
    """Check a table and turn it into what a call is given: directory, task and entropy."""
    table = as_frame(table)
    named, _ = recognised(table)
    entropy = peek_entropy(directory) or new_entropy()
    prepared = _prepare(table, directory, options, entropy, base_dir=base_dir)
    return directory, Task(named[user_columns(named)], prepared, options), entropy


def plan(
    table: pd.DataFrame,
    run_dir: str | os.PathLike[str] | None = None,
    *,
    max_cost: Amount | None = None,
    unit_cost: Amount | None = None,
    download: bool = True,
    fix_images: bool = False,
    on_ambiguous: Literal["hold", "resubmit"] = "hold",
    max_attempts: int = 1,
    retry_failed: bool = False,
    random_seed: Literal["record", "service"] = "record",
    base_dir: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Say what `run` would do with each row, why, and what it can cost; sends and writes nothing.

    Parameters
    ----------
    table : pandas.DataFrame
        As for `run`.
    run_dir : path-like, optional
        The run directory; without one everything is new.
    max_cost, unit_cost, download, fix_images, on_ambiguous, max_attempts, retry_failed, random_seed, base_dir
        As for `run`; the cap is compared with what the rows can cost, and not stored.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.PLAN` on the table's index; costs in USD, missing where no price is known.
        A notebook shows above them what is to be bought, and what it can cost.

    Raises
    ------
    TableError
        If the table's columns are not what was expected; rows that can't be submitted are planned as ``invalid``.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1, 1])
    >>> dreamo.plan(jobs, unit_cost="0.03")["action"].tolist()
    ['new', 'duplicate']
    """
    table = as_frame(table)
    options = RunOptions(
        max_cost=max_cost,
        unit_cost=unit_cost,
        download=download,
        fix_images=fix_images,
        on_ambiguous=on_ambiguous,
        max_attempts=max_attempts,
        retry_failed=retry_failed,
        random_seed=random_seed,
    )
    directory = None if run_dir is None else RunDirectory(run_dir)
    is_known = directory is not None and directory.path.is_dir()
    state = read_state(directory) if directory is not None and is_known else State()
    entropy = (peek_entropy(directory) if directory is not None and is_known else None) or new_entropy()
    prepared = prepare(
        table,
        entropy=entropy,
        random_seed=random_seed,
        base_dir=path_of(base_dir),
        inputs_dir=None,
        fix_images=fix_images,
        known_images={} if directory is None else known_images(directory.jobs),
    )
    planned = planning.table(
        prepared,
        table.index,
        state,
        options.plan_options(),
        run_dir=None if directory is None else directory.path,
        unit_cost=money(unit_cost),
        nearly=nearly_bought(prepared, state, None if directory is None else directory.jobs),
    )
    cap = options.cap(state.cap)
    remarks = misnamed_columns(prepared)
    if directory is not None:
        remarks += leaving(prepared, state, directory.jobs)
    return Plan.of(planned, cap=cap, spent=Budget(attempts=state).spent, remarks=remarks)


def retry(
    run_dir: str | os.PathLike[str],
    *,
    rows: Collection[Any] | pd.Series | None = None,
    classes: str | Collection[str] | None = None,
    client: Client | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    gateway: Literal["local"] | Gateway | None = None,
    allow_private_links: bool = False,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Attempt chosen failed or ambiguous rows of the directory's table again, each once.

    Parameters
    ----------
    run_dir : path-like
        The run directory.
    rows : collection of labels, or boolean mask, optional
        Rows to submit again; default: every failed one. An ambiguous row named here is sent again, and may be
        paid twice.
    classes : str or collection of str, optional
        Only failures of these classes (column ``error_class``); ``"ambiguous"`` stands for every ambiguous row.
    client, api_key, base_url, gateway, allow_private_links, progress
        As for `run`; a run of the local gateway is recognised by itself.
    **options
        Every other option of `run`; `max_cost` defaults to the stored cap.

    Returns
    -------
    pandas.DataFrame
        The whole table, as from `run`.

    Raises
    ------
    UsageError
        If a row label is not in the table, or an option is unknown.
    DirectoryError, RunStopped
        As for `run`.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1], size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.retry(run_dir, progress=False)["attempts"].tolist()
    [1]
    """
    with in_front():
        flag("progress", progress)
        directory = RunDirectory(run_dir)
        table = read_jobs(directory.jobs)
        chosen = choose(directory, table, rows, classes)
        try:
            task = Task(table.user, table.prepared, RunOptions(**options), chosen)
        except TypeError as error:
            raise UsageError(f"retry: {error}") from None
        service = service_given(
            client=client,
            api_key=api_key,
            base_url=base_url,
            gateway=gateway,
            allow_private_links=allow_private_links,
        )
        entropy = peek_entropy(directory) or new_entropy()
        return work_off(directory, task, entropy, known_service(directory, service), show=progress)


def _prepare(
    table: pd.DataFrame,
    directory: RunDirectory,
    options: RunOptions,
    entropy: str,
    *,
    base_dir: str | os.PathLike[str] | None,
) -> Prepared:
    prepared = prepare(
        table,
        entropy=entropy,
        random_seed=options.random_seed,
        base_dir=path_of(base_dir),
        inputs_dir=directory.inputs,
        fix_images=options.fix_images,
        known_images=known_images(directory.jobs),
    )
    errors = prepared.problems[prepared.problems[columns.SEVERITY] == ERROR]
    if len(errors) and options.on_invalid == "raise":
        raise InvalidTable(_what_is_wrong(errors), Problems.of(prepared.problems, len(table)))
    if options.keep_references:
        _keep_references(prepared, directory)
    return prepared


def _keep_references(prepared: Prepared, directory: RunDirectory) -> None:
    try:
        directory.make()
    except OSError as error:
        raise storage_failed(directory, error) from error
    Inputs(directory.inputs).keep_references(job.image for job in prepared.jobs.values())


def _what_is_wrong(errors: pd.DataFrame) -> str:
    n_rows = errors[columns.POSITION].nunique()
    lines = [
        f"  row {row[columns.ROW]}, {row[columns.COLUMN]}: {row[columns.MESSAGE]} {row[columns.FIX]}"
        for row in errors.head(_LISTED_MAX).to_dict("records")
    ]
    if len(errors) > _LISTED_MAX:
        lines.append(f"  ... and {len(errors) - _LISTED_MAX} more")
    return "\n".join(
        [
            f"{n_rows} of the rows can't be submitted ({len(errors)} problems); nothing was sent.",
            *lines,
            'See .problems for all of them (or call validate), or pass on_invalid="skip" to leave these rows out.',
        ]
    )


def path_of(path: str | os.PathLike[str] | None) -> Path | None:
    """Read a path that may be left out."""
    return None if path is None else Path(path_given("base_dir", path))


def plan_retry(
    run_dir: str | os.PathLike[str],
    *,
    rows: Collection[Any] | pd.Series | None = None,
    classes: str | Collection[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Say what `retry` would do with each row, why, and what it can cost; sends and writes nothing."""
    directory = RunDirectory(run_dir)
    table = read_jobs(directory.jobs)
    chosen = choose(directory, table, rows, classes)
    try:
        checked = RunOptions(**options)
    except TypeError as error:
        raise UsageError(f"retry: {error}") from None
    state = read_state(directory)
    planned = planning.table(
        table.prepared,
        table.user.index,
        state,
        checked.plan_options(chosen),
        run_dir=directory.path,
        unit_cost=money(checked.unit_cost),
    )
    return Plan.of(planned, cap=money(state.cap), spent=Budget(attempts=state).spent)


_WAIT_EVERY_S: Final = 0.1


class Batch:
    """A run in the background; `start` and `watch` give one.

    Shown in a notebook it is a dashboard. Every `Batch` of one directory in this process shows the same run, also
    after another `start` went on with it. A process that ends stops its runs; `start` or `run` on the same directory
    goes on.

    Attributes
    ----------
    run_dir : Path
        The run directory.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> with dreamo.start(jobs, tempfile.mkdtemp(), gateway="local") as live:
    ...     done = live.wait(progress=False)
    >>> live.status.phase, live.status.n_settled
    ('finished', 2)
    """

    def __init__(self, source: Work | Follower) -> None:
        self._source = source
        self._follower: Follower | None = None

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return self._source.directory.path

    @property
    def status(self) -> Status:
        """How the run stands: an immutable `Status` with counts, money, rate, errors and newest pictures."""
        return self._teller().status()

    @property
    def can_control(self) -> bool:
        """Whether the run is this process's own to pause, stop and go on with."""
        return isinstance(self._source, Work) and not self._source.is_taken_over

    def results(self) -> pd.DataFrame:
        """Give the table as it stands now, as `run` would.

        Returns
        -------
        pandas.DataFrame
            The table with the columns of `dreamo_batch.columns.OUTPUTS`; rows under way are ``in_progress``.
        """
        return self._teller().results()

    def pause(self) -> None:
        """Attempt nothing more for now; what is in flight is finished and saved.

        Raises
        ------
        UsageError
            If somebody else works on the run.
        DirectoryLocked
            If this process was forked off the one that works on it.
        """
        self._own("pause").pause()

    def resume(self) -> None:
        """Go on after `pause`, `stop`, or whatever stopped the run; failed rows stay as they are.

        A `max_new_cost` given to `start` is not granted anew: it binds everything that this batch attempts.

        Raises
        ------
        UsageError
            If somebody else works on the run.
        DirectoryError, RunStopped
            As `start`.
        """
        self._own("resume").resume()

    def stop(self) -> None:
        """Send nothing more. Creates on the wire are still recorded; what is in flight is picked up by the next call.

        Raises
        ------
        UsageError
            If somebody else works on the run.
        """
        self._own("stop").stop()

    def raise_budget(self, max_cost: float | str | Decimal) -> None:
        """Set a higher cap; a run that the old one had stopped goes on.

        Parameters
        ----------
        max_cost : float, str or Decimal
            Cap in USD over everything ever submitted in the directory, stored like that of `run`; infinity lifts it.

        Raises
        ------
        UsageError
            If it is no amount or not higher than the cap in force, or somebody else works on the run.
        """
        self._own("raise_budget").raise_budget(cap_of(max_cost))

    def retry(
        self,
        rows: Collection[Any] | pd.Series | None = None,
        classes: str | Collection[str] | None = None,
    ) -> None:
        """Attempt failed rows again, each once, beside what is under way.

        Parameters
        ----------
        rows, classes
            As for `dreamo_batch.retry`: by default every row that has failed so far; ambiguous ones only if named.

        Raises
        ------
        UsageError
            If a label is not in the table, or somebody else works on the run.
        """
        self._own("retry").retry(rows, classes)

    def wait(self, timeout_s: float | None = None, *, progress: bool = True) -> pd.DataFrame:
        """Wait until the run is over, and give the table back.

        An interrupt ends the waiting only: the run goes on.

        Parameters
        ----------
        timeout_s : float, optional
            Seconds to wait at most; the table is then given as it stands (see `status`).
        progress : bool
            Show a bar and lines on standard error meanwhile.

        Returns
        -------
        pandas.DataFrame
            As from `run`.

        Raises
        ------
        RunStopped
            What stopped the run early, as `run` raises it; not after `stop`.
        """
        __tracebackhide__ = True  # a notebook shows the user's own line, not ours
        with in_front():
            bar = shown(self.status, show=progress)
            try:
                is_over = self._watch(bar, timeout_s)
            except KeyboardInterrupt:
                bar.say(
                    f"waiting no longer; the run goes on in the background ({self.run_dir}), .stop() stops it."
                )
                raise
            finally:
                bar.close()
            return self._end(bar) if is_over else self.results()

    def panel(self) -> Any:
        """Give the dashboard of the run: an ipywidgets widget that stays up to date by itself.

        Where it can't be built, the reason is logged and the run itself is returned, which goes on.
        """
        return self._shown(lambda: _panels().panel(self), otherwise=self)

    def __enter__(self) -> Self:
        """Use the run for as long as the block lasts."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the run at the end of the block; stop it if the block failed."""
        if not self.can_control:
            return
        if error is None:
            self.wait(progress=False)
        else:
            self.stop()

    def __await__(self) -> Generator[Any, None, pd.DataFrame]:
        """Wait without holding up a notebook's buttons; gives the table back."""
        return self._until_over().__await__()

    def __repr__(self) -> str:
        status = self.status
        cap = "" if status.max_cost_usd is None else f" of {dollars(status.max_cost_usd)}"
        return (
            f"<Batch {self.run_dir}: {status.phase}, {status.n_settled} of {status.n_rows} rows settled, "
            f"{dollars(status.spent_usd)}{cap} spent>"
        )

    def _repr_mimebundle_(self, **_: Any) -> Any:
        return self._shown(lambda: _panels().mimebundle(self), otherwise={"text/plain": repr(self)})

    def _ipython_display_(self) -> None:
        """Display the dashboard so that the output is known, and its last state can be left in it."""
        self._shown(lambda: _panels().show(self), otherwise=None)

    def _shown(self, show: Callable[[], Any], *, otherwise: Any) -> Any:
        """Show the run; a cell that can't show it does not fail, since the run goes on behind it."""
        try:
            return show()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the notebook
            logger.warning("the panel can't be shown (%r); the run goes on: %r", error, self)
            return otherwise

    async def _until_over(self) -> pd.DataFrame:
        while not self.status.is_over:  # noqa: ASYNC110 - the end comes from a thread, not from this loop
            await asyncio.sleep(_WAIT_EVERY_S)
        return self._end(Silent())

    def _watch(self, bar: Progress, timeout_s: float | None) -> bool:
        """Watch until the run is over, or the time is; True if it is the run."""
        __tracebackhide__ = True
        until = None if timeout_s is None else time.monotonic() + timeout_s
        told: tuple[str, ...] = ()
        pause = threading.Event()
        while True:
            status = self.status
            bar.update(status)
            ending = self._source.ending if isinstance(self._source, Work) else ""
            for line in status.notices:
                if line not in told:
                    bar.say(line, logging.INFO if line == ending else logging.WARNING)
            told = status.notices
            if status.is_over or (until is not None and time.monotonic() >= until):
                return status.is_over
            left_s = _WAIT_EVERY_S if until is None else min(_WAIT_EVERY_S, until - time.monotonic())
            pause.wait(max(0.0, left_s))

    def _end(self, bar: Progress) -> pd.DataFrame:
        __tracebackhide__ = True
        results = self.results()
        if not isinstance(self._source, Work) or self._source.is_taken_over:
            return results
        call = self._source.call
        if call.runner.error is not None:
            raise call.runner.error
        for line in frame.ambiguous_lines(results, call.ledger.state):
            bar.say(line, logging.WARNING)
        stopped = call.coordinator.stopped
        if stopped is not None:
            if isinstance(stopped, RunStopped | PriceUnknown):
                stopped.results, stopped.run_dir = results, self.run_dir
            raise stopped
        return results

    def _teller(self) -> Work | Follower:
        """Give who knows how the run stands: the directory itself, where a call outside this run works on it."""
        if not isinstance(self._source, Work) or not self._source.is_taken_over:
            return self._source
        if self._follower is None:
            self._follower = Follower(self.run_dir)
        return self._follower

    def _own(self, verb: str) -> Work:
        if isinstance(self._source, Work):
            self._source.call.runner.refuse_fork()
            if not self._source.is_taken_over:
                return self._source
        raise UsageError(
            f"{verb}: this only follows {self.run_dir}; whoever works on it can pause or stop it. To work on it here, "
            "use start or run once nobody else does."
        )


def start(
    table: pd.DataFrame,
    run_dir: str | os.PathLike[str],
    *,
    client: Client | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    gateway: Literal["local"] | Gateway | None = None,
    allow_private_links: bool = False,
    max_cost: float | str | Decimal | None = None,
    max_new_cost: float | str | Decimal | None = None,
    unit_cost: float | str | Decimal | None = None,
    pilot: int | None = None,
    max_in_flight: int = 8,
    download: bool = True,
    fix_images: bool = False,
    keep_references: bool = True,
    on_invalid: Literal["raise", "skip"] = "raise",
    on_ambiguous: Literal["hold", "resubmit"] = "hold",
    max_attempts: int = 1,
    retry_failed: bool = False,
    random_seed: Literal["record", "service"] = "record",
    task_timeout_s: float = 900.0,
    adopt_copy: bool = False,
    base_dir: str | os.PathLike[str] | None = None,
) -> Batch:
    """Work a table off in the background; the same call again goes on.

    The table is checked, the directory locked and the price asked for before this returns; all else happens in
    threads.

    Parameters
    ----------
    table, run_dir
        As for `dreamo_batch.run`.
    client, api_key, base_url, gateway, allow_private_links, max_cost, max_new_cost, unit_cost, pilot, max_in_flight
        As for `dreamo_batch.run`.
    download, fix_images
        As for `dreamo_batch.run`.
    keep_references, on_invalid, on_ambiguous, max_attempts, retry_failed, random_seed, task_timeout_s, adopt_copy,
    base_dir
        As for `dreamo_batch.run`.

    Returns
    -------
    Batch
        The run: `.status`, `.pause()`, `.resume()`, `.stop()`, `.wait()`, `.results()`, `.panel()`.

    Raises
    ------
    InvalidTable, UsageError, PriceUnknown, DirectoryError, AccessRefused
        As `dreamo_batch.run`; nothing was submitted. What stops the run later is told by `Batch.status` and raised by
        `Batch.wait`.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> live = dreamo.start(jobs, tempfile.mkdtemp(), gateway="local")
    >>> live.wait(progress=False)["status"].tolist()
    ['completed', 'completed']
    """
    options = RunOptions(
        max_cost=max_cost,
        max_new_cost=max_new_cost,
        unit_cost=unit_cost,
        pilot=pilot,
        max_in_flight=max_in_flight,
        download=download,
        fix_images=fix_images,
        keep_references=keep_references,
        on_invalid=on_invalid,
        on_ambiguous=on_ambiguous,
        max_attempts=max_attempts,
        retry_failed=retry_failed,
        random_seed=random_seed,
        task_timeout_s=task_timeout_s,
        adopt_copy=adopt_copy,
    )
    service = service_given(
        client=client,
        api_key=api_key,
        base_url=base_url,
        gateway=gateway,
        allow_private_links=allow_private_links,
    )
    with in_front():
        return Batch(begin(*made_ready(table, RunDirectory(run_dir), options, base_dir), service))


def watch(run_dir: str | os.PathLike[str]) -> Batch:
    """Follow a run that another process works on, such as a command in a terminal.

    Parameters
    ----------
    run_dir : path-like
        The run directory.

    Returns
    -------
    Batch
        Read-only; where this process works on the directory itself, the `Batch` of that.

    Raises
    ------
    DirectoryError
        If it is not a run directory, or can't be read.

    Examples
    --------
    >>> watch("runs/none")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: ...runs/none is not a run directory: there is nothing.
    """
    work = work_on(RunDirectory(run_dir))
    is_here = work is not None and not work.is_taken_over and not work.status().is_over
    return Batch(work if work is not None and is_here else Follower(run_dir))


def _panels() -> Any:
    return load_module("dreamo_batch.display.panel")  # by name: the notebook layer is above this one
