"""One call on a run directory: from a prepared table to a running runner, and from its end to results."""

from __future__ import annotations

import logging
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.errors import AccessRefused, PriceUnknown, RunStopped, ServiceError
from dreamo_batch.execution import checkpoint, plan, runner, stored
from dreamo_batch.execution.budget import Budget, highest_price, money, text
from dreamo_batch.execution.clock import SystemClock
from dreamo_batch.execution.coordinator import Assignment, Coordinator
from dreamo_batch.execution.effects import Effects
from dreamo_batch.execution.payload import ImageChanged, ImageGone, Payloads
from dreamo_batch.execution.schedule import Limits, Schedule
from dreamo_batch.execution.session import Session, open_session, storage_failed
from dreamo_batch.execution.workers import Workers
from dreamo_batch.results import frame, origin, summary
from dreamo_batch.service.failures import Kind

if TYPE_CHECKING:
    from decimal import Decimal

    import pandas as pd

    from dreamo_batch.execution.clock import Clock
    from dreamo_batch.execution.directory import RunDirectory
    from dreamo_batch.execution.options import RunOptions
    from dreamo_batch.service.client import Client
    from dreamo_batch.table.jobs import Job, Prepared

logger = logging.getLogger(__name__)

_WORKERS_MAX: Final = 16
_WORKERS_MIN: Final = 4
_PRECHARGE_WAITS_S: Final = (0.3, 1.0, None)
_PRECHARGE_WAIT_MAX_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a call is given: the user's columns, what was decided for each row, and the options.

    `chosen` are jobs named for a retry. With `fetched`, nothing is ordered, and of the pictures that are missing only
    those of these jobs are fetched.
    """

    user: pd.DataFrame
    prepared: Prepared
    options: RunOptions
    chosen: frozenset[str] = frozenset()
    fetched: frozenset[str] | None = None


class Call:
    """A call on its way: its runner, and what it came to once the runner has closed.

    Parameters
    ----------
    directory : RunDirectory
        The run directory.
    client : Client
        The service.
    task : Task
        What to do.
    entropy : str
        What a new directory draws its seeds from.
    """

    def __init__(
        self, directory: RunDirectory, client: Client, task: Task, *, entropy: str, clock: Clock | None = None
    ) -> None:
        self.directory = directory
        self.task = task
        self.results: pd.DataFrame | None = None
        self.reconciliation: dict[str, Any] = {}
        self.client = client
        self._clock = clock or SystemClock()
        self._table_id = uuid.uuid4().hex
        self.session = open_session(directory, client.settings.service_name, self._clock, entropy)
        self.warnings = self.session.ledger.warnings
        try:
            self.runner = self._runner()
        except OSError as error:
            self.let_go()
            raise storage_failed(directory, error) from error
        except BaseException as error:
            if isinstance(error, RunStopped):
                self._keep(error)
            self.let_go()
            raise

    def start(self) -> None:
        """Begin to work."""
        runner.register(self.directory.path, self.runner)
        self.runner.start()

    def _runner(self) -> runner.Runner:
        options = self.task.options
        state = self.session.ledger.state
        assignment = plan.assignment(
            self.task.prepared, state, options.plan_options(self.task.chosen), self.directory.path
        )
        if self.task.fetched is not None:
            assignment = plan.fetching_only(assignment, self.task.fetched)
        budget = self._budget(assignment)
        self.warnings += tuple(plan.warnings_of(self.task.prepared, assignment.to_order))
        nearly = plan.nearly_bought(self.task.prepared, state, self.directory.jobs)
        self.warnings += plan.nearly_bought_warnings(
            nearly[job_id] for job_id, _ in assignment.to_order if job_id in nearly
        )
        if self.session.was_paused:
            self.warnings += ("the run on this directory was paused; this call goes on with it",)
        self._remember(budget.cap)
        workers = self.session.workers or Workers(_n_workers(options.max_in_flight))
        return self._assemble(assignment, budget, workers)

    def _assemble(self, assignment: Assignment, budget: Budget, workers: Workers) -> runner.Runner:
        options = self.task.options
        limits = Limits(
            max_in_flight=options.max_in_flight,
            n_workers=workers.n,
            task_timeout_s=options.task_timeout_s,
            patience_s=options.task_timeout_s,
        )
        coordinator = Coordinator(
            ledger=self.session.ledger,
            budget=budget,
            schedule=Schedule(limits, budget),
            effects=Effects(self.client, self.directory.path),
            clock=self._clock,
            assignment=assignment,
        )
        return runner.Runner(coordinator, workers, self.session, self._finish)

    def _budget(self, assignment: Assignment) -> Budget:
        options, state = self.task.options, self.session.ledger.state
        manifest = self.directory.read_manifest()
        cap = options.cap(manifest.max_cost if manifest else None)
        price = money(options.unit_cost)
        max_new = money(options.max_new_cost)
        is_limited = cap is not None or max_new is not None
        if price is None and is_limited and assignment.to_order:
            price = self._asked_price([assignment.jobs[job_id] for job_id, _ in assignment.to_order])
        price = price if price is not None else highest_price(state)
        if is_limited and price is None and assignment.to_order and options.pilot is None:
            limit = f"max_cost={text(cap)}" if cap is not None else f"max_new_cost={options.max_new_cost}"
            raise PriceUnknown(
                f"{limit} can't be kept: no price is known. None was given, none was seen in "
                f"{self.directory.path}, and the service does not tell one. Give unit_cost= (USD an order), or "
                "pilot=k to buy up to k orders first, which the cap can't bind, and go on at the price they show."
            )
        return Budget(cap=cap, max_new=max_new, price=price, n_pilot=options.pilot or 0, orders=state)

    def _asked_price(self, jobs: list[Job]) -> Decimal | None:
        """Ask the service what its largest picture costs; None where it does not tell."""
        largest = max(jobs, key=lambda job: job.width * job.height)
        try:
            request = Payloads().request(largest)
        except (ImageChanged, ImageGone):
            return None
        for wait_s in _PRECHARGE_WAITS_S:
            try:
                return money(self.client.precharge(request).cost) or None
            except ServiceError as error:
                if error.failure.kind is Kind.STOP:
                    raise AccessRefused(
                        f"the service refused access: {error.failure}. Nothing was ordered. Mend the key or the "
                        "credit, then run the same call again."
                    ) from None
                if error.failure.kind is not Kind.TRANSIENT or wait_s is None:
                    return None
                threading.Event().wait(
                    max(wait_s, min(error.failure.retry_after_s or 0.0, _PRECHARGE_WAIT_MAX_S))
                )
        return None

    def _remember(self, cap: Decimal | None) -> None:
        stored.write_jobs(self.directory.jobs, self.task.user, self.task.prepared, self._table_id)
        self.directory.update_manifest(
            max_cost=None if cap is None else text(cap),
            table_id=self._table_id,
            settings=self.task.options.as_settings(),
        )

    def _finish(self) -> None:
        """Write the results; runs in the runner's thread, once its ledger is closed."""
        ledger = self.session.ledger
        results = results_of(self.task.user, self.task.prepared, ledger.state)
        self.reconciliation = summary.reconcile(len(self.task.user), results)
        try:
            stored.write_frame(
                self.directory.results,
                results,
                {"table_id": self._table_id, "generation": ledger.generation, "covers": ledger.covers},
            )
            self.directory.update_manifest(reconciliation=self.reconciliation)
        except OSError as error:
            self.runner.coordinator.storage_failed(error)
        self.results = origin.mark(results, self.directory)  # last: other threads look for it

    def _keep(self, stopped: RunStopped) -> None:
        """Leave the table in the directory, though nothing was ordered, and say how it stands."""
        manifest = self.directory.read_manifest()
        self._remember(self.task.options.cap(manifest.max_cost if manifest else None))
        stopped.run_dir = self.directory.path
        results = results_of(self.task.user, self.task.prepared, self.session.ledger.state)
        stopped.results = origin.mark(results, self.directory)

    def let_go(self) -> None:
        """Close the ledger again; creates that a predecessor sent are still waited for."""
        empty = Assignment({}, {}, 0, (), (), ())
        workers = self.session.workers or Workers(1)
        drain = self._assemble(empty, Budget(orders=self.session.ledger.state), workers)
        drain.on_close = lambda: None
        drain.coordinator.halt()
        runner.register(self.directory.path, drain)
        drain.start()
        if not self.session.on_the_wire:
            drain.is_closed.wait()


def results_of(user: pd.DataFrame, prepared: Prepared, state: Any) -> pd.DataFrame:
    """Lay what the ledger knows beside the user's table."""
    orders = checkpoint.to_frame(checkpoint.to_arrow(state, prepared.jobs))
    return frame.assemble(user, prepared.rows, orders)


def n_ambiguous(results: pd.DataFrame) -> int:
    """Count ambiguous rows."""
    return int((results[columns.STATUS] == columns.AMBIGUOUS).sum())


def _n_workers(max_in_flight: int) -> int:
    return min(_WORKERS_MAX, max(_WORKERS_MIN, max_in_flight + 2))


def close_session(session: Session) -> None:
    """Close a session that was opened only to change the ledger."""
    session.ledger.close(pending=())
    session.close()
