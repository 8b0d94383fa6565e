"""A run in progress: in this process, in the foreground or behind a cell, or another's, followed on disk."""

from __future__ import annotations

import copy
import logging
import math
import os
import re
import shlex
import signal
import sys
import threading
import time
import weakref
from contextlib import contextmanager, redirect_stderr
from contextvars import ContextVar
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from datetime import time as dt_time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.call import Call, choose
from dreamo_batch.engine.budget import Spending, highest_price
from dreamo_batch.engine.checkpoint import read_jobs, read_table_meta
from dreamo_batch.engine.coordinator import count_rows
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.forecast import Rows, Speed, Tally, left_s, rows_of
from dreamo_batch.engine.status import Progress, Snapshot, Status, say, shown
from dreamo_batch.errors import (
    BudgetReached,
    DirectoryError,
    PriceUnknown,
    RunStopped,
    UsageError,
    interrupts_without_our_lines,
)
from dreamo_batch.logs import logger_named
from dreamo_batch.money import dollars, exact_text, money
from dreamo_batch.results import assembly
from dreamo_batch.results.load import existing, load, read_state
from dreamo_batch.text import clock_time, counted, duration, harmless, same_call, spelled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from decimal import Decimal
    from types import FrameType

    import pandas as pd

    from dreamo_batch.engine.attempts import Attempt
    from dreamo_batch.engine.status import Phase

logger = logger_named(__name__)

_LOOK_EVERY_S: Final = 0.1
# How often the machine's clock is read while waiting: it may be set, or have slept.
_CLOCK_EVERY_S: Final = 10.0
_REST_S: Final = 1.5
_N_NOTICES: Final = 20
_READ_EVERY_S: Final = 1.0
_READING_SHARE: Final = 5.0  # reading takes at most a fifth of the time, however large the run

_runs: Final[weakref.WeakValueDictionary[Any, LiveRun]] = weakref.WeakValueDictionary()
_runs_lock: Final = threading.Lock()


def _forget_parent() -> None:
    """Leave the parent's runs to the parent; called in a child that was just forked."""
    _runs.clear()
    _runs_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_runs_lock.acquire, after_in_parent=_runs_lock.release, after_in_child=_forget_parent
    )


def live_run(directory: RunDirectory) -> LiveRun | None:
    """Return this process's run on a directory, if one was ever begun and anybody still refers to it."""
    with _runs_lock:
        run = _runs.get(directory.path)
    return run if run is not None and run.has_begun else None


def begin(call: Call, *, is_watched: bool = True) -> LiveRun:
    """Begin a call in the background; a run that is live on the directory goes on with it.

    Without `is_watched`, what only a status tells is counted when one is first asked for, and the caller shows the
    warnings and releases the call.
    """
    with _runs_lock:
        run = _runs.get(call.directory.path)
        if run is None:
            run = _runs[call.directory.path] = LiveRun(call.directory)
    run.begin(call, is_watched=is_watched)
    return run


def work_off(call: Call, *, show: bool) -> pd.DataFrame:
    """Run a call to its end in the foreground and return the table; raises what stopped it early."""
    __tracebackhide__ = True  # a notebook shows the user's own line, not ours
    bar: Progress | None = None
    with interrupts():
        try:
            run = begin(call, is_watched=False)  # noqa: F841 - referred to for as long as the call goes on
            announce.get()("")
            bar = _bar(call, show=show)
            call.release()
            follow(call, bar)
            call.listeners.wait()
        except BaseException as error:
            call.stop()
            if isinstance(error, KeyboardInterrupt) and call.is_begun:
                bar = bar or _bar(call, show=show)
                _say_stopped(call, bar)
            raise
        finally:
            if bar is not None:
                bar.close()
    return end(call, bar)


def follow(run: Call | LiveRun | FollowedRun, bar: Progress, timeout_s: float | None = None) -> bool:
    """Show a run until it is over, or the time is; True if it is the run."""
    __tracebackhide__ = True
    until = None if timeout_s is None else time.monotonic() + timeout_s
    call, n_said = None, 0
    while True:
        is_over = run.is_over
        bar.update(run.snapshot())
        if call is not run.call:
            call, n_said = run.call, 0
        if call is not None:
            for line in call.notices[n_said:]:
                bar.say(line, logging.WARNING)
                n_said += 1
        if is_over or (until is not None and time.monotonic() >= until):
            return is_over
        run.pause_for(
            _LOOK_EVERY_S if until is None else max(0.0, min(_LOOK_EVERY_S, until - time.monotonic()))
        )


def end(call: Call, bar: Progress) -> pd.DataFrame:
    """Say what a call came to and return its table; raises what stopped it."""
    __tracebackhide__ = True
    if call.runner.error is not None:
        raise call.runner.error
    if call.is_taken_over:
        return _end_with_another(call)
    if call.results is not None:
        bar.say(call.ending)
        for line in assembly.ambiguous_lines(call.results, call.state):
            bar.say(line, logging.WARNING)
    if call.stopped is not None:
        if isinstance(call.stopped, RunStopped | PriceUnknown):
            call.stopped.results, call.stopped.run_dir = call.results, call.directory.path
        raise call.stopped
    assert call.results is not None  # noqa: S101 - a runner that closed without an error has results
    return call.results.copy()


def _end_with_another(call: Call) -> pd.DataFrame:
    """Return the table once the call that went on with the run is over; raises what stopped that one."""
    __tracebackhide__ = True
    results = call.results_now()
    stopped = call.runner.coordinator.stopped if call.runner.coordinator is not None else None
    n_left = int(results[columns.STATUS].isin(columns.UNSETTLED).sum())
    if stopped is None and not n_left:
        return results
    left = RunStopped(
        f"Another call of this process took over {call.directory.path} and left {counted(n_left, 'row')} of this "
        f"table unsettled. Run {same_call()} again to resume; nothing is bought twice."
    )
    raised = left if stopped is None else copy.copy(stopped)  # each thread raises its own
    if isinstance(raised, RunStopped | PriceUnknown):
        raised.results, raised.run_dir = results, call.directory.path
    raise raised


# Called with the time that a call in the foreground waits for, if it does, and with "" once it has begun.
announce: Final[ContextVar[Callable[[str], object]]] = ContextVar("announce", default=lambda _until: None)
# Warnings that the caller has shown already, before it asked whether to buy.
shown_before: Final = ContextVar("shown_before", default=frozenset[str]())


def _bar(call: Call, *, show: bool) -> Progress:
    first = call.snapshot()
    n_left = first.n_rows - first.n_settled
    bar = shown(first, show=show, n_before=first.n_settled if call.inputs.chosen and n_left else 0)
    for warning in call.warnings:
        if warning not in shown_before.get():
            bar.say(f"warning: {warning}", logging.WARNING)
    return bar


def _say_stopped(call: Call, bar: Progress) -> None:
    if call.is_taken_over:
        bar.say(f"Stopped waiting. Another call of this process goes on with {call.directory.path}.")
        return
    call.runner.is_resting.wait(_REST_S)
    follow(call, bar, timeout_s=0.0)
    n = call.runner.n_on_the_wire
    waiting = f" Waiting for {counted(n, 'submitted request')} to be recorded." if n else ""
    bar.say(f"Stopped.{waiting} Run {same_call()} again to resume ({call.directory.path}).", logging.WARNING)


# Waiting for a time.


def moment(not_before: Any, *, now: float) -> float | None:
    """Read a time that a call is not to begin before, as Unix seconds: local, or with an offset; None if it has passed.

    A time of day is its next one. Says what is odd about it: past, or not there or there twice as the clocks change.
    """
    if not_before is None:
        return None
    try:
        at = _read_time(not_before, datetime.fromtimestamp(now))  # noqa: DTZ006 - local, as the user's clock shows it
        first, second = (at.replace(fold=fold).timestamp() for fold in (at.fold, 1))
        clock_time(second)  # not every time can be
    except (ValueError, OverflowError):
        raise UsageError(
            f"{spelled(f'not_before={not_before!r}', f'--not-before {not_before}')}: expected "
            f"{spelled('a datetime, or ', '')}a time such as 22:30, 2027-01-31T22:30 (local) or 2027-01-31T22:30+01:00."
        ) from None
    if first < second:
        logger.warning(
            "%s comes twice, as the clocks go back: taking the first, %s. Pass an offset to choose: the second is %s.",
            not_before,
            clock_time(first),
            datetime.fromtimestamp(second).astimezone().isoformat(),
        )
    elif first > second:
        logger.warning(
            "%s doesn't exist, as the clocks go forward: taking %s.", not_before, clock_time(first)
        )
    if first > now:
        return first
    logger.warning("%s was %s ago: nothing to wait for.", clock_time(first), duration(now - first))
    return None


def _read_time(given: Any, now: datetime) -> datetime:
    if isinstance(given, datetime):  # a Timestamp of pandas without a zone counts as UTC unless read anew
        return datetime.fromisoformat(given.isoformat()).replace(fold=given.fold)
    text = given.isoformat() if isinstance(given, date | dt_time) else given
    if not isinstance(text, str):
        raise ValueError(text)  # noqa: TRY004 - reported as what can't be read
    if re.fullmatch(r"\d\d?:\d\d(:\d\d)?", text):
        hour, *rest = map(int, text.split(":"))
        at = now.replace(hour=hour, minute=rest[0], second=rest[1] if len(rest) > 1 else 0, microsecond=0)
        return at if at > now else at + timedelta(days=1)
    return datetime.fromisoformat(text)


def wait_until(seconds: float, directory: RunDirectory, *, show: bool) -> None:
    """Wait in the foreground until a time."""
    until = clock_time(seconds)
    ways = spelled("An interrupt", f"Ctrl-C or `dreamo-batch stop {shlex.quote(directory.given)}`")
    with interrupts():
        announce.get()(until)
        left = duration(max(0.0, seconds - time.time()))
        say(f"Waits until {until}, for {left}; nothing is sent before. {ways} ends it.", show=show)
        _sleep_until(seconds, threading.Event())
        say("The time has come; checking again.", show=show)


def _sleep_until(seconds: float, is_over: threading.Event) -> bool:
    """Wait until a time by the machine's clock, whatever is done to that meanwhile; False if it was over before."""
    while (left_s := seconds - time.time()) > 0:
        if is_over.wait(min(left_s, _CLOCK_EVERY_S)):
            return False
    return True


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
def interrupts() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as an interrupt, where nobody else handles them."""
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


class LiveRun:
    """What this process does on one run directory: the call under way, or the last one."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.call: Call | None = None
        self._changing = threading.RLock()
        self._rows: Rows | None = None
        self._tally: Tally | None = None
        self._count_at = math.inf
        self._speed: Speed | None = None
        self._is_stop_asked = False
        self._began_at = 0.0
        self._ended_at: float | None = None

    @property
    def has_begun(self) -> bool:
        """Whether any call was begun."""
        return self.call is not None

    @property
    def latest(self) -> Call:
        """The call under way, or the last one."""
        assert self.call is not None  # noqa: S101 - begun before anybody gets to see the run
        return self.call

    def begin(self, call: Call, *, is_watched: bool = True) -> None:
        """Begin a call, in place of the one under way; requests already sent are still recorded."""
        with self._changing:
            call.begin(partial(self._follow, is_watched=is_watched))
            if is_watched:
                for warning in call.warnings:
                    logger.warning("%s", warning)
                if call.not_before is None:
                    call.release()
                else:
                    threading.Thread(
                        target=_release_in_time, args=(call,), name="dreamo-wait", daemon=True
                    ).start()

    def _follow(self, call: Call, *, is_watched: bool) -> None:
        """Watch this call from now on; called in the runner's thread, before the first request."""
        call.follow(self._note)  # which keeps this run alive as long as its call
        if self.call is not None and not self.call.is_over and self.call.listeners is not call.listeners:
            self.call.tell("stopped", "Another call of the same process goes on with this directory.")
        self._began_at, self._ended_at, self._is_stop_asked = time.monotonic(), None, False
        self._tally, self._rows = None, None
        if is_watched:
            self._count(call)
        self._speed = Speed(self._began_at, call.snapshot().n_settled)
        self.call = call

    def pause(self) -> None:
        """Submit nothing more for now; what is in flight is finished and saved."""
        self.latest.not_before = None  # now it waits for a word
        self.latest.pause(is_paused=True)

    def resume(self) -> None:
        """Go on after a pause, or after the run stopped."""
        with self._changing:
            if not self.latest.pause(is_paused=False) or self._is_stop_asked:
                self._begin_again()

    def stop(self) -> None:
        """Send nothing more; requests already sent are still recorded when they are answered."""
        self._is_stop_asked = True
        self.latest.stop()

    def retry(self, rows: Collection[Any] | pd.Series | None, classes: str | Collection[str] | None) -> None:
        """Submit chosen rows again, once, beside what is under way."""
        with self._changing:
            table = read_jobs(self.directory.jobs)
            self._begin_again(choose(self.directory, table, rows, classes))

    def raise_budget(self, max_cost: Decimal | None) -> None:
        """Set a higher cap, None for none; a run that had stopped goes on."""
        with self._changing:
            call = self.latest
            cap = call.spending.cap
            if cap is None or (max_cost is not None and max_cost <= cap):
                has = "there is no cap" if cap is None else f"the cap is already {dollars(cap)}"
                raise UsageError(
                    f"max_cost={max_cost}: {has}. A running batch takes only a higher cap; to lower it, stop the "
                    "batch and start again with max_cost=."
                )
            goes_on = call.set_cap(max_cost)
            kept = replace(call.inputs.options, max_cost="inf" if max_cost is None else exact_text(max_cost))
            call.inputs = replace(call.inputs, options=kept)
            if not goes_on:
                self._begin_again()

    def _begin_again(self, chosen: frozenset[str] = frozenset()) -> None:
        """Go on with the same task; what was submitted again once is not submitted once more.

        What the run may still add to the cost is what the calls before left of it.
        """
        call = self.latest
        inputs = call.inputs
        self.begin(
            call.again(
                replace(
                    inputs,
                    options=replace(inputs.options, retry_failed=False, on_ambiguous="hold"),
                    chosen=chosen | call.waiting(),
                    before=call.spending,
                )
            )
        )

    @property
    def is_over(self) -> bool:
        """Whether the call has ended."""
        return self.latest.is_over

    def snapshot(self) -> Snapshot:
        """Count the rows by status, and the money."""
        return self.latest.snapshot()

    def pause_for(self, seconds: float) -> None:
        """Wait, or until the call is over."""
        self.latest.pause_for(seconds)

    def status(self) -> Status:
        """Say how the run stands."""
        call, now = self.latest, time.monotonic()
        tally = self._counted(call)
        snapshot = call.snapshot()
        phase = self._phase(call, snapshot.by_status)
        if call.is_over and self._ended_at is None:
            self._ended_at = now
        speed = None
        if self._speed is not None and phase in ("running", "stopping"):
            self._speed.note(now, snapshot.n_settled)
            speed = self._speed.rows_per_s(now)
        return _status(
            snapshot,
            tally,
            call.spending.price,
            speed,
            run_dir=self.directory.path,
            phase=phase,
            elapsed_s=(self._ended_at or now) - self._began_at,
            notices=tuple(_notices(call)[-_N_NOTICES:]),
            problem=_problem(call),
            is_cap_reached=_is_cap_reached(call),
            begins_at=None
            if call.not_before is None or phase != "paused"
            else datetime.fromtimestamp(call.not_before, UTC),
        )

    def results(self) -> pd.DataFrame:
        """Return the table as it stands now."""
        call = self.latest
        return call.results_now() if call.results is None else call.results.copy()

    @property
    def is_taken_over(self) -> bool:
        """Whether this process is only a fork of the one that works on the run."""
        return self.latest.is_taken_over

    def _phase(self, call: Call, by_status: Any) -> Phase:
        if not call.is_over:
            is_ending = self._is_stop_asked or call.stopped is not None
            return "stopping" if is_ending else "paused" if call.is_paused else "running"
        is_whole = not any(by_status.get(status, 0) for status in columns.UNSETTLED)
        return "finished" if is_whole and _problem(call) is None else "stopped"

    def _counted(self, call: Call) -> Tally:
        if self._tally is None or time.monotonic() >= self._count_at:
            call.quietly(lambda: self._count(call))
        assert self._tally is not None  # noqa: S101 - just made
        return self._tally

    def _count(self, call: Call) -> None:
        began_at = time.monotonic()
        self._rows = self._rows or rows_of(call.inputs.user.index, call.inputs.prepared)
        self._tally = Tally(self._rows, call.state, self.directory.path)
        self._count_at = math.inf if call.tells_changes else _next_reading(began_at)

    def _note(self, before: Attempt | None, after: Attempt) -> None:
        call = self.latest
        if self._tally is not None:
            self._tally.note(before, after, call.state.deciding(after.job_id) or after)
        if self._speed is not None:
            self._speed.note(time.monotonic(), call.snapshot().n_settled)


def _release_in_time(call: Call) -> None:
    assert call.not_before is not None  # noqa: S101 - the caller looked
    if _sleep_until(call.not_before, call.runner.is_closed) and call.not_before is not None:
        call.release()


def _notices(call: Call) -> list[str]:
    lines = [f"warning: {warning}" for warning in call.warnings]
    lines += [harmless(line) for line in call.notices[-_N_NOTICES:]]
    return [*lines, harmless(call.ending)] if call.results is not None else lines


def _problem(call: Call) -> str | None:
    problem = call.stopped
    return None if problem is None else harmless(str(problem) or type(problem).__name__)


def _is_cap_reached(call: Call) -> bool:
    return isinstance(call.stopped, BudgetReached) and call.spending.limit == call.spending.cap


def _status(
    snapshot: Snapshot, tally: Tally, price: Decimal | None, rows_per_s: float | None, **others: Any
) -> Status:
    return Status(
        **{one.name: getattr(snapshot, one.name) for one in fields(Snapshot)},
        projected_usd=tally.forecast(snapshot.spent_usd, price),
        rows_per_s=rows_per_s,
        eta_s=left_s(snapshot.n_rows - snapshot.n_settled, rows_per_s),
        errors=tally.errors(),
        newest=tally.newest(),
        at=datetime.now(UTC),
        **others,
    )


def _next_reading(began_at: float) -> float:
    """Return when a directory is read again whose reading began then and has just ended."""
    return began_at + max(_READ_EVERY_S, (time.monotonic() - began_at) * _READING_SHARE)


class FollowedRun:
    """A run directory that somebody else may work on, read again and again as seldom as is good for it."""

    call: Final = None

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.directory = existing(run_dir)
        self._began_at = time.monotonic()
        self._next_at = self._began_at
        self._table_id = ""
        self._rows = Rows({}, {}, {})
        self._speed: Speed | None = None
        self._status = self._read()

    @property
    def is_over(self) -> bool:
        """Whether nobody works on it."""
        return self.status().is_over

    def snapshot(self) -> Snapshot:
        """Count the rows by status, and the money."""
        return self.status()

    def pause_for(self, seconds: float) -> None:
        """Wait."""
        threading.Event().wait(seconds)

    def status(self) -> Status:
        """Say how the run stands; at most a second old, more for large runs."""
        began_at = time.monotonic()
        if began_at >= self._next_at:
            try:
                self._status = self._read()
            except DirectoryError as error:
                if not self.directory.path.is_dir():
                    raise
                self._status = replace(self._status, problem=str(error), at=datetime.now(UTC))
            self._next_at = _next_reading(began_at)
        return self._status

    def results(self) -> pd.DataFrame:
        """Return the table as it stands on disk."""
        return load(self.directory.given)

    def _read(self) -> Status:
        self.directory = RunDirectory(self.directory.given)  # a store is read anew
        is_worked_on = self.directory.is_locked()
        self._read_table()
        state, now = read_state(self.directory), time.monotonic()
        kinds = state.kinds()
        price = highest_price(kinds)
        budget = Spending(cap=money(state.terms.cap), price=price, attempts=kinds)
        snapshot = Snapshot(
            by_status=count_rows(self._rows.weights, self._rows.n_invalid, state),
            spent_usd=budget.spent,
            reserved_usd=budget.reserved,
            max_cost_usd=budget.cap,
            n_in_flight=sum(1 for _ in state.open()),
        )
        is_whole = snapshot.n_settled == snapshot.n_rows
        return _status(
            snapshot,
            Tally(self._rows, state, self.directory.path),
            price,
            self._rate(now, snapshot.n_settled) if is_worked_on else None,
            run_dir=self.directory.path,
            phase="running" if is_worked_on else "finished" if is_whole else "idle",
            elapsed_s=now - self._began_at,
            notices=(),
            problem=None,
        )

    def _read_table(self) -> None:
        """Read the table, which takes a while, only if it is another one than before."""
        if not self.directory.jobs.exists():
            raise DirectoryError(f"{self.directory.path} has no {self.directory.jobs.name} any more.")
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
