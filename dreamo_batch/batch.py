"""A run in progress: a `Batch` of this process, a call in the foreground, or another process's run, read from disk."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
import weakref
from contextlib import contextmanager, nullcontext, redirect_stderr
from contextvars import ContextVar
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from datetime import time as dt_time
from math import inf
from typing import TYPE_CHECKING, Any, Final, Self

from dreamo_batch import arguments, columns, errors
from dreamo_batch.call import Call, jobs_to_retry
from dreamo_batch.display import panel as panels
from dreamo_batch.display.progress import LoggedProgress, Progress, say, shown
from dreamo_batch.engine.checkpoint import read_jobs, read_table_meta
from dreamo_batch.engine.coordinator import snapshot_of
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.spending import highest_price
from dreamo_batch.engine.status import Phase, Rows, Snapshot, Speed, Status, Tally, left_s, rows_of
from dreamo_batch.money import Amount, dollars, exact_text
from dreamo_batch.results.load import doubt_of_cap, existing, load, open_lines, read_state
from dreamo_batch.text import clock_time, counted, duration, harmless, quoted, same_call, wording

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Mapping
    from decimal import Decimal
    from pathlib import Path
    from types import TracebackType

    import pandas as pd


logger = errors.logger_named(__name__)

_LOOK_EVERY_S: Final = 0.1
# How often the clock is read while waiting, because it may be set or the machine may sleep.
_CLOCK_EVERY_S: Final = 10.0
_REST_S: Final = 1.5
_N_NOTICES: Final = 20
_READ_EVERY_S: Final = 1.0
_READING_SHARE: Final = 5.0  # reading takes at most a fifth of the time, however large the run
_COUNTING_SHARE: Final = 20.0  # counting, which holds up a run, takes at most a twentieth of the time

_batches: Final[weakref.WeakValueDictionary[Any, Batch]] = weakref.WeakValueDictionary()
_batches_lock: Final = threading.Lock()


def _forget_parent() -> None:
    """Leave the parent's runs to the parent; called in a child that was just forked."""
    _batches.clear()
    _batches_lock.release()


os.register_at_fork(
    before=_batches_lock.acquire, after_in_parent=_batches_lock.release, after_in_child=_forget_parent
)


def begin(call: Call) -> Batch:
    """Begin a call in the background, log its warnings, and let it submit, at its start time if it has one."""
    batch = begin_paused(call)
    for warning in call.warnings:
        logger.warning("%s", warning)
    if (at := call.not_before) is None:
        call.release()
        return batch

    def release_in_time() -> None:
        if _sleep_until(at, call.runner.is_closed) and call.not_before is not None:  # not paused meanwhile
            call.release()

    threading.Thread(target=release_in_time, name="dreamo-wait", daemon=True).start()
    return batch


def begin_paused(call: Call) -> Batch:
    """Begin a call that waits to be released if it has warnings; a batch on the directory follows it from now on."""
    with _batches_lock:
        batch = _batches.setdefault(call.directory.path, Batch(call.directory))
    batch._begin(call)  # noqa: SLF001 - this module's own
    return batch


def watch(run_dir: str | os.PathLike[str]) -> Batch:
    """Follow a run of another process, such as a command in a terminal.

    Parameters
    ----------
    run_dir : path
        The run directory.

    Returns
    -------
    Batch
        Read-only, unless this process itself works on the directory: then that run's `Batch`.

    Raises
    ------
    DirectoryError
        If it isn't a run directory, or can't be read.

    Examples
    --------
    >>> watch("runs/none")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: No run directory at ...runs/none.
    """
    directory = RunDirectory(run_dir)
    with _batches_lock:
        batch = _batches.get(directory.path)
    if batch is not None and batch.can_control and not batch._state_source().is_over:  # noqa: SLF001 - this module's own
        return batch
    return Batch(directory, FollowedRun(run_dir))


def run_to_end(call: Call, *, show: bool) -> pd.DataFrame:
    """Run a call to its end in the foreground and return the table; raise what stopped it early."""
    bar: Progress | None = None
    with interrupts():
        try:
            batch = begin_paused(call)  # noqa: F841 - kept alive as long as the call runs
            announce.get()("")
            bar = _bar(call, show=show)
            call.release()
            follow(lambda: call, bar)
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


def follow(
    source: Callable[[], Call | FollowedRun], bar: Progress, timeout_s: float = inf
) -> Call | FollowedRun | None:
    """Show a run until it is over, and return it; None if the time is up first."""
    until, shown_call, n_said = time.monotonic() + timeout_s, None, 0
    while True:
        run = source()
        is_over = run.is_over
        bar.update(run.snapshot())
        if isinstance(run, Call):
            n_said = n_said if run is shown_call else 0
            shown_call = run
            for line in run.notices[n_said:]:
                bar.say(line, logging.WARNING)
                n_said += 1
        left_s = until - time.monotonic()
        if is_over or left_s <= 0:
            return run if is_over else None
        run.pause_for(min(_LOOK_EVERY_S, left_s))


def end(call: Call | FollowedRun, bar: Progress) -> pd.DataFrame:
    """Report how a call ended, and return its table; raise what stopped it in this process."""
    if isinstance(call, FollowedRun):
        return call.results_now()
    if call.runner.error is not None:
        raise call.runner.error
    if call.is_taken_over:
        return _follow_successor(call)
    if call.results is not None:
        bar.say(call.ending)
        for line in open_lines(call.results, call.state):
            bar.say(line, logging.WARNING)
    if call.stopped is not None:
        if isinstance(call.stopped, errors.RunStopped | errors.PriceUnknown):
            call.stopped.results, call.stopped.run_dir = call.results, call.directory.path
        raise call.stopped
    assert call.results is not None  # noqa: S101 - a runner that closed without an error has results
    return call.results_now()


def _follow_successor(call: Call) -> pd.DataFrame:
    """Return the table once the call that took over the run is over; raise what stopped that call."""
    results = call.results_now()
    stopped = call.runner.coordinator.stopped if call.runner.coordinator is not None else None
    n_left = int(results[columns.STATUS].isin(columns.UNSETTLED).sum())
    if stopped is None and not n_left:
        return results
    left = errors.RunStopped(
        f"Another call of this process took over {call.directory.name} and left {counted(n_left, 'row')} of this "
        f"table unsettled. Run {same_call()} again to resume; nothing is bought twice."
    )
    raised = left if stopped is None else copy.copy(stopped)  # each thread needs its own exception object
    raised.results, raised.run_dir = results, call.directory.path
    raise raised


# Called with the start time while a call in the foreground waits, and with "" once it has begun.
announce: Final[ContextVar[Callable[[str], object]]] = ContextVar("announce", default=lambda _until: None)
# Warnings that the caller already showed, before asking whether to buy.
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
        bar.say(f"Stopped waiting. Another call of this process continues in {call.directory.name}.")
        return
    call.runner.is_resting.wait(_REST_S)
    follow(lambda: call, bar, timeout_s=0.0)
    n = call.runner.n_on_the_wire
    waiting = f" Waiting for {counted(n, 'submitted request')} to be recorded." if n else ""
    bar.say(f"Stopped.{waiting} Run {same_call()} again to resume ({call.directory.name}).", logging.WARNING)


# Waiting for a start time.


def start_time(not_before: Any, *, now: float) -> float | None:
    """Parse a start time (local, or with an offset; a bare time is the next one) to Unix seconds; None if past."""
    if not_before is None:
        return None
    try:
        at = _read_time(not_before, datetime.fromtimestamp(now)).timestamp()  # noqa: DTZ006 - local, as the user's clock shows it
        clock_time(at)  # not every time can be converted
    except (ValueError, OverflowError):
        raise errors.UsageError(
            f"{wording(f'not_before={quoted(not_before)}', f'--not-before {not_before}')}: expected "
            f"{wording('a datetime, or ', '')}a time such as 22:30, 2027-01-31T22:30 (local) or 2027-01-31T22:30+01:00."
        ) from None
    if at > now:
        return at
    logger.warning("%s was %s ago: nothing to wait for.", clock_time(at), duration(now - at))
    return None


def _read_time(given: Any, now: datetime) -> datetime:
    if isinstance(given, datetime):  # a pandas Timestamp without a zone would count as UTC
        return datetime.fromisoformat(given.isoformat()).replace(fold=given.fold)
    text = given.isoformat() if isinstance(given, date | dt_time) else given
    if not isinstance(text, str):
        raise ValueError(text)  # noqa: TRY004 - reported like any unreadable time
    if re.fullmatch(r"\d\d?:\d\d(:\d\d)?", text):
        hour, *rest = map(int, text.split(":"))
        at = now.replace(hour=hour, minute=rest[0], second=rest[1] if len(rest) > 1 else 0, microsecond=0)
        return at if at > now else at + timedelta(days=1)
    return datetime.fromisoformat(text)


def wait_until(seconds: float, directory: RunDirectory, *, show: bool) -> None:
    """Wait in the foreground until a time."""
    until = clock_time(seconds)
    ways = wording("An interrupt", f"Ctrl-C or `dreamo-batch stop {shlex.quote(directory.given)}`")
    with interrupts():
        announce.get()(until)
        left = duration(max(0.0, seconds - time.time()))
        say(f"Waiting until {until} ({left}); nothing is sent before then. {ways} ends the wait.", show=show)
        _sleep_until(seconds, threading.Event())
        say("Start time reached; checking again.", show=show)


def _sleep_until(seconds: float, is_over: threading.Event) -> bool:
    """Wait until a time by the system clock, even if that is changed; return False if `is_over` became true first."""
    while (left_s := seconds - time.time()) > 0:
        if is_over.wait(min(left_s, _CLOCK_EVERY_S)):
            return False
    return True


@contextmanager
def in_foreground() -> Iterator[None]:
    """Show an interrupt at the user's line, and keep logs and warnings from failing on a closed standard error."""
    try:
        is_closed = getattr(sys.stderr, "closed", False)
    except ValueError:  # its stream was detached
        is_closed = True
    with errors.interrupts_without_our_lines(), redirect_stderr(None) if is_closed else nullcontext():
        yield


@contextmanager
def interrupts(handle: Callable[[int, Any], object] = signal.default_int_handler) -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as an interrupt, or call a function, unless other code handles them."""
    taken = errors.take_signals(handle)
    try:
        yield
    finally:
        errors.leave_signals(taken)


class Batch:
    """A run in the background, as `start` and `watch` return it.

    In a notebook it is displayed as a dashboard. Every `Batch` of one directory in this process shows the same run,
    also after another `start` or `run` took it over. A process that ends stops its runs; `start` or `run` on the same
    directory resumes them.

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
    >>> live = dreamo.start(jobs, tempfile.mkdtemp(), gateway="local", max_cost=1)
    >>> live.pause()
    >>> live.raise_budget(2)
    >>> live.resume()
    >>> done = live.wait(progress=False)
    >>> live.retry()  # nothing failed
    >>> live.stop()
    >>> live.results()["status"].tolist()
    ['completed', 'completed']
    """

    def __init__(self, directory: RunDirectory, followed: FollowedRun | None = None) -> None:
        self._directory = directory
        # The current or last call; None if another process works on the run.
        self._call: Call | None = None
        self._followed = followed
        self._changing = threading.RLock()
        # The last count: its call, whether that was over, until when it may be reused, and the tally.
        self._last: tuple[Call, bool, float, Tally] | None = None
        self._speed = Speed(0.0, 0)
        self._is_stop_asked = False
        self._began_at = 0.0
        self._ended_at: float | None = None

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return self._directory.path

    @property
    def status(self) -> Status:
        """The state of the run: an immutable `Status` with counts, money, rate, errors and newest pictures."""
        call, now = self._state_source(), time.monotonic()
        if isinstance(call, FollowedRun):
            return call.status()
        tally, snapshot = self._counted(call), call.snapshot()
        ending = [] if call.results is None else [call.ending]
        notices = [*(f"warning: {one}" for one in call.warnings), *call.notices[-_N_NOTICES:], *ending]
        phase = self._phase(call, snapshot.by_status)
        if call.is_over and self._ended_at is None:
            self._ended_at = now
        begins_at = call.not_before if phase == "paused" else None
        speed = None
        if phase in ("running", "stopping"):
            self._speed.note(now, snapshot.n_settled)
            speed = self._speed.rows_per_s(now)
        return _status(
            snapshot,
            tally,
            call.spending.price,
            speed,
            run_dir=self.run_dir,
            phase=phase,
            elapsed_s=(self._ended_at or now) - self._began_at,
            notices=tuple(map(harmless, notices[-_N_NOTICES:])),
            problem=_problem(call),
            is_cap_reached=isinstance(call.stopped, errors.BudgetReached)
            and call.spending.limit == call.spending.cap,
            begins_at=None if begins_at is None else datetime.fromtimestamp(begins_at, UTC),
        )

    @property
    def can_control(self) -> bool:
        """Whether this process works on the run, so that it can be paused, stopped and resumed here."""
        return self._call is not None and not self._call.is_taken_over

    def results(self) -> pd.DataFrame:
        """Return the table as it stands now, as `run` would.

        Returns
        -------
        pandas.DataFrame
            The table with the columns of `dreamo_batch.columns.OUTPUTS`; rows under way are ``in_progress``.
        """
        return self._state_source().results_now()

    def pause(self) -> None:
        """Submit nothing more for now; what is in flight is finished and saved.

        Raises
        ------
        UsageError
            If another process works on the run.
        DirectoryLocked
            If this process was forked from the one that works on it.
        """
        call = self._own("pause")
        call.not_before = None  # from now on it waits for resume()
        call.pause(is_paused=True)

    def resume(self) -> None:
        """Resume after `pause`, `stop`, or whatever stopped the run; failed rows stay as they are.

        A `max_new_cost` passed to `start` covers everything this batch submits; it doesn't start over.

        Raises
        ------
        UsageError
            If another process works on the run.
        DirectoryError, RunStopped
            As `start`.
        """
        with self._changing:
            if not self._own("resume").pause(is_paused=False) or self._is_stop_asked:
                self._begin_again()

    def stop(self) -> None:
        """Send nothing more. Submitted requests are still recorded; tasks in flight are collected by the next call.

        Raises
        ------
        UsageError
            If another process works on the run.
        """
        call = self._own("stop")
        self._is_stop_asked = True
        call.stop()

    def raise_budget(self, max_cost: Amount) -> None:
        """Set a higher cap; a run that the old cap stopped resumes.

        Parameters
        ----------
        max_cost : float, str or Decimal
            Spending cap in USD for the run directory, kept like that of `run`; infinity removes it.

        Raises
        ------
        UsageError
            If it isn't an amount or isn't higher than the cap in force, or another process works on the run.
        """
        with self._changing:
            call = self._own("raise_budget")
            before = call.spending.cap
            cap = arguments.check_amount("max_cost", str(max_cost), unless="no cap")  # None is no amount here
            if before is None or (cap is not None and cap <= before):
                has = "there is no cap" if before is None else f"the cap is already {dollars(before)}"
                raise errors.UsageError(
                    f"max_cost={cap}: {has}. A running batch takes only a higher cap; to lower it, stop the "
                    "batch and start again with max_cost=."
                )
            goes_on = call.set_cap(cap)
            kept = replace(call.inputs.options, max_cost="inf" if cap is None else exact_text(cap))
            call.inputs = replace(call.inputs, options=kept)
            if not goes_on:
                self._begin_again()

    def retry(
        self, rows: Collection[Any] | pd.Series | None = None, classes: str | Collection[str] | None = None
    ) -> None:
        """Submit failed rows again, each once, beside what is under way.

        Parameters
        ----------
        rows, classes
            As for `dreamo_batch.retry`: by default every row that has failed so far; ambiguous rows only if named.

        Raises
        ------
        UsageError
            If a label is not in the table, or another process works on the run.
        """
        with self._changing:
            self._own("retry")
            self._begin_again(jobs_to_retry(self._directory, rows, classes))

    def wait(self, timeout_s: float | None = None, *, progress: bool = True) -> pd.DataFrame:
        """Wait until the run is over, and return the table.

        An interrupt, SIGTERM or SIGHUP ends only the waiting; the run continues until the process ends.

        Parameters
        ----------
        timeout_s : float, optional
            Seconds to wait at most; after that the table is returned as it stands (see `status`).
        progress : bool
            Show a progress bar and notices.

        Returns
        -------
        pandas.DataFrame
            As from `run`.

        Raises
        ------
        RunStopped
            What stopped the run early, as from `run`; not after `stop`.
        UsageError
            If `timeout_s` isn't a number.
        """
        timeout_s = inf if timeout_s is None else timeout_s
        arguments.check_seconds("timeout_s", timeout_s)
        with in_foreground(), interrupts():
            bar = shown(self.status, show=progress)
            try:
                ended = follow(self._state_source, bar, timeout_s)
            except KeyboardInterrupt:
                bar.say(
                    f"Stopped waiting. The run continues in the background ({self.run_dir}); "
                    f"{wording('.stop()', '`dreamo-batch stop`')} stops it."
                )
                raise
            finally:
                bar.close()
            if isinstance(ended, Call):
                ended.listeners.wait()  # because they may begin another call
            return self.results() if ended is None else end(ended, bar)

    def panel(self) -> Any:
        """Return the dashboard of the run.

        Returns
        -------
        ipywidgets.Widget or Batch
            A widget that keeps itself up to date; the batch itself, with the reason logged, if it can't be built.
        """
        return self._shown(lambda: panels.panel(self), otherwise=self)

    def __enter__(self) -> Self:
        """Return the batch itself."""
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
        """Wait without blocking a notebook's buttons; return the table."""
        return self._until_over().__await__()

    def __repr__(self) -> str:
        status = self.status
        cap = "" if status.max_cost_usd is None else f" of {dollars(status.max_cost_usd)}"
        return (
            f"<Batch {self.run_dir}: {status.phase}, {status.n_settled} of {status.n_rows} rows settled, "
            f"{dollars(status.spent_usd)}{cap} spent>"
        )

    def _repr_mimebundle_(self, **_: Any) -> Any:
        return self._shown(lambda: panels.mimebundle(self), otherwise={"text/plain": repr(self)})

    def _ipython_display_(self) -> None:
        """Display the dashboard so that its last state can be kept in the saved notebook."""
        self._shown(lambda: panels.show(self), otherwise=None)

    def _shown(self, show: Callable[[], Any], *, otherwise: Any) -> Any:
        """Show the run; a cell that can't show it doesn't fail, because the run continues."""
        try:
            return show()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the notebook
            logger.warning("Can't show the panel (%r); the run continues: %r", error, self)
            return otherwise

    async def _until_over(self) -> pd.DataFrame:
        while not (ended := self._state_source()).is_over:  # noqa: ASYNC110 - the run ends in a thread, not in this loop
            await asyncio.sleep(_LOOK_EVERY_S)
        return end(ended, LoggedProgress())

    def _state_source(self) -> Call | FollowedRun:
        """Return the source of the run's state: the call, or in other and forked processes the directory on disk."""
        if self._call is not None and not self._call.is_taken_over:
            return self._call
        if self._followed is None:
            self._followed = FollowedRun(self.run_dir)
        return self._followed

    def _own(self, verb: str) -> Call:
        if self._call is not None:
            self._call.runner.refuse_fork()
            if not self._call.is_taken_over:
                return self._call
        raise errors.UsageError(
            f"{verb}: this only follows {self.run_dir}; the process that works on it can pause or stop it. To work "
            "on it here, use start or run once it is over."
        )

    def _begin(self, call: Call) -> None:
        """Begin a call in place of the current one; requests already sent are still recorded."""
        with self._changing:
            call.begin(self._continue_with)

    def _continue_with(self, call: Call) -> None:
        """Follow this call from now on; called in the runner's thread, before the first request."""
        call.followed_by = self  # keeps the batch alive as long as its call
        if self._call is not None and not self._call.is_over and self._call.listeners is not call.listeners:
            self._call.report("stopped", "Another call of this process continues in this directory.")
        self._began_at, self._ended_at, self._is_stop_asked = time.monotonic(), None, False
        self._speed = Speed(self._began_at, call.snapshot().n_settled)
        self._call = call

    def _begin_again(self, chosen: frozenset[str] = frozenset()) -> None:
        """Continue with the same table and the rest of the limits, without submitting anything a second time."""
        call = self._own("resume")
        inputs = replace(
            call.inputs,
            options=replace(call.inputs.options, retry_failed=False, on_ambiguous="hold"),
            chosen=chosen | call.waiting(),
            before=call.spending,
        )
        begin(call.again(inputs))

    def _phase(self, call: Call, by_status: Mapping[str, int]) -> Phase:
        if not call.is_over:
            is_ending = self._is_stop_asked or call.stopped is not None
            return "stopping" if is_ending else "paused" if call.is_paused else "running"
        is_whole = not any(by_status.get(status, 0) for status in columns.UNSETTLED)
        return "finished" if is_whole and _problem(call) is None else "stopped"

    def _counted(self, call: Call) -> Tally:
        """Return the tally, recounted at intervals that suit the size of the run, and once more when it is over."""
        began_at, is_over, last = time.monotonic(), call.is_over, self._last
        if last is None or last[0] is not call:
            rows = rows_of(call.inputs.user.index, call.inputs.prepared)
        elif last[1] is is_over and (is_over or began_at < last[2]):
            return last[3]
        else:
            rows = last[3].rows
        tally = Tally(rows, call.state.copy(), self.run_dir)
        # Set together with its call, because another thread may be switching to the next call.
        self._last = call, is_over, began_at + (time.monotonic() - began_at) * _COUNTING_SHARE, tally
        return tally


def _problem(call: Call) -> str | None:
    problem = call.stopped
    return None if problem is None else harmless(str(problem) or type(problem).__name__)


def _status(
    snapshot: Snapshot, tally: Tally, price: Decimal | None, rows_per_s: float | None, **others: Any
) -> Status:
    return Status(
        **{field.name: getattr(snapshot, field.name) for field in fields(Snapshot)},
        projected_usd=tally.forecast(snapshot.spent_usd, price),
        rows_per_s=rows_per_s,
        eta_s=left_s(snapshot.n_rows - snapshot.n_settled, rows_per_s),
        errors=tally.errors,
        newest=tally.newest,
        at=datetime.now(UTC),
        **others,
    )


class FollowedRun:
    """A run directory that another process may work on, reread at intervals that suit its size."""

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.directory = existing(run_dir)
        self._place = self.directory.name  # absolute, in case the process changes its working directory
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
        time.sleep(seconds)

    def status(self) -> Status:
        """Return the state of the run; at most a second old, more for large runs."""
        began_at = time.monotonic()
        if began_at >= self._next_at:
            try:
                self._status = self._read()
            except errors.DirectoryError as error:
                if not self.directory.path.is_dir():
                    raise
                self._status = replace(self._status, problem=str(error), at=datetime.now(UTC))
            self._next_at = began_at + max(_READ_EVERY_S, (time.monotonic() - began_at) * _READING_SHARE)
        return self._status

    def results_now(self) -> pd.DataFrame:
        """Return the table as it stands on disk."""
        return load(self._place)

    def _read(self) -> Status:
        self.directory = RunDirectory(self._place)  # a store is read again
        is_live = self.directory.is_locked()
        self._read_table()
        state, now, replica = read_state(self.directory), time.monotonic(), self.directory.replica
        price = highest_price(state.kinds())
        snapshot = snapshot_of(state, price, self._rows.weights, self._rows.n_invalid)
        is_whole = snapshot.n_settled == snapshot.n_rows
        self._speed = self._speed or Speed(now, snapshot.n_settled)
        self._speed.note(now, snapshot.n_settled)
        return _status(
            snapshot,
            Tally(self._rows, state, self.directory.path),
            price,
            self._speed.rows_per_s(now) if is_live else None,
            run_dir=self.directory.path,
            phase="running" if is_live else "finished" if is_whole else "idle",
            elapsed_s=now - self._began_at,
            notices=tuple(filter(None, (replica and replica.silence, doubt_of_cap(self.directory)))),
            problem=None,
        )

    def _read_table(self) -> None:
        """Read the table, which takes a while, only if it has changed."""
        if not self.directory.jobs.exists():
            raise errors.DirectoryError(f"{self.directory.name} has no {self.directory.jobs.name} any more.")
        table_id = str(read_table_meta(self.directory.jobs).get("table_id"))
        if table_id != self._table_id:
            table = read_jobs(self.directory.jobs)
            self._rows = rows_of(table.user.index, table.prepared)
            self._table_id, self._speed = table.table_id, None
