"""What this process does on a run directory in the background: one call after the other, seen as one run.

Whatever changes the run is done in its runner's thread (`Runner.ask`), also a new call that goes on with the live one;
so ledger, budget and schedule are only ever touched by one thread.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.batch.call import Call, Task
from dreamo_batch.batch.choosing import choose
from dreamo_batch.batch.moment import Phase, Status
from dreamo_batch.batch.tally import Tally, rows_of
from dreamo_batch.errors import UsageError
from dreamo_batch.execution import stored
from dreamo_batch.execution.budget import money, text
from dreamo_batch.results import summary
from dreamo_batch.service.harmless import harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from decimal import Decimal
    from pathlib import Path

    import pandas as pd

    from dreamo_batch.execution.coordinator import Coordinator
    from dreamo_batch.execution.directory import RunDirectory
    from dreamo_batch.execution.runner import Runner
    from dreamo_batch.execution.state import Order

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
    """How many rows are settled in a second, lately.

    Examples
    --------
    >>> speed = Speed(began_at=0.0, n_settled=0)
    >>> for second in (1, 2, 3, 4):
    ...     speed.note(float(second), second)
    >>> speed.rows_per_s(4.0)
    1.0
    """

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
    """Tell how many seconds are left; None if it can't be told.

    Examples
    --------
    >>> left_s(6, 2.0), left_s(0, None), left_s(6, None)
    (3.0, 0.0, None)
    """
    if n_left == 0:
        return 0.0
    return n_left / rows_per_s if rows_per_s else None


class Work:
    """A run in the background.

    Parameters
    ----------
    directory : RunDirectory
        The run directory.
    entropy : str
        What a new directory draws its seeds from.
    service : dict
        As `connect` takes it.
    """

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
        """Order nothing more for now; what is in flight is finished and saved."""
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
        """Order chosen rows again, once, beside what is under way."""
        with self._changing:
            table = stored.read_jobs(self.directory.jobs)
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
        """Give the task of a call that goes on: what this run has ordered again is not ordered once more.

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
            at=datetime.now(UTC),
        )

    @property
    def ending(self) -> str:
        """What the run came to, in one line; empty until it is over."""
        if self.call.results is None:
            return ""
        return harmless(summary.sentence(self.call.reconciliation, self.call.coordinator.budget.spent))

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
        self, coordinator: Coordinator, tally: Tally, speed: Speed, before: Order | None, after: Order
    ) -> None:
        tally.note(before, after, coordinator.ledger.state.deciding(after.job_id) or after)
        speed.note(time.monotonic(), coordinator.snapshot().n_settled)


def _unpause(coordinator: Coordinator) -> bool:
    coordinator.pause(is_paused=False)
    return coordinator.stopped is None


def _problem(call: Call) -> str | None:
    problem = call.runner.error or call.coordinator.stopped
    return None if problem is None else harmless(str(problem) or type(problem).__name__)


def cap_of(max_cost: Any) -> Decimal | None:
    """Read a cap as a user gives it; None for infinity.

    Raises
    ------
    UsageError
        If it is no amount.

    Examples
    --------
    >>> cap_of("2.5"), cap_of(float("inf"))
    (Decimal('2.5'), None)
    """
    if str(max_cost).lower() in {"inf", "infinity"}:
        return None
    amount = money(max_cost)
    if amount is None:
        raise UsageError(
            f"max_cost must be an amount in USD of at least 0, or inf for no cap, not {max_cost!r}"
        )
    return amount
