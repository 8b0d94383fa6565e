"""Work a call off in the foreground: watch it, show it, and let go of it at an interrupt."""

from __future__ import annotations

import copy
import logging
import signal
import sys
import threading
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.batch.call import Call, Task
from dreamo_batch.errors import PriceUnknown, RunStopped, interrupts_without_our_lines
from dreamo_batch.execution.progress import Progress, shown
from dreamo_batch.results import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    import pandas as pd

    from dreamo_batch.execution.directory import RunDirectory

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
        bar.say(summary.sentence(call.reconciliation, call.coordinator.budget.spent))
        for line in summary.ambiguous_lines(call.results, call.ledger.state):
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
