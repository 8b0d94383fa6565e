"""Work a call off in the foreground: watch it, show it, and let go of it at an interrupt."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.batch.call import Call, Task
from dreamo_batch.batch.connection import connect
from dreamo_batch.errors import RunStopped
from dreamo_batch.execution.progress import Bar, Progress, Silent
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
    call = open_call(directory, task, entropy, service)
    with _interrupts():
        bar = _progress(call, show=show)
        try:
            _watch(call, bar)
        finally:
            bar.close()
    return _end(call, bar)


def open_call(directory: RunDirectory, task: Task, entropy: str, service: dict[str, Any]) -> Call:
    """Open a call that is not begun yet; what was opened for it is closed with it."""
    resources = ExitStack()
    with ExitStack() as until_opened:
        until_opened.push(resources)
        client = connect(resources, directory, **service)
        call = Call(directory, client, task, entropy=entropy)
        call.session.resources.push(resources.pop_all())
    return call


def _progress(call: Call, *, show: bool) -> Progress:
    """Make the bar before anything is sent: an interrupt in between would find nobody watching."""
    try:
        first = call.runner.coordinator.snapshot()
        bar: Progress = Bar(first) if show else Silent()
    except BaseException:
        call.let_go()
        raise
    for warning in call.warnings:
        bar.say(f"warning: {warning}")
    return bar


def _watch(call: Call, bar: Progress) -> None:
    __tracebackhide__ = True
    runner = call.runner
    try:
        call.start()
        while not runner.is_closed.wait(_LOOK_EVERY_S):
            _paint(call, bar)
    except KeyboardInterrupt:
        runner.interrupt()
        runner.is_resting.wait(_REST_S)
        _paint(call, bar)
        n = runner.n_on_the_wire
        waiting = f"; {n} creates are being answered and are still recorded" if n else ""
        bar.say(f"stopped{waiting}. The same call goes on where this one ended ({call.directory.path}).")
        raise
    _paint(call, bar)


def _paint(call: Call, bar: Progress) -> None:
    bar.update(call.runner.coordinator.snapshot())
    notices = call.runner.coordinator.notices
    while notices:
        bar.say(notices.pop(0))


def _end(call: Call, bar: Progress) -> pd.DataFrame:
    __tracebackhide__ = True
    coordinator = call.runner.coordinator
    if call.runner.error is not None:
        raise call.runner.error
    if call.results is not None:
        bar.say(summary.sentence(call.reconciliation, coordinator.budget.spent))
        for line in summary.ambiguous_lines(call.results, call.session.ledger.state):
            bar.say(line)
    if coordinator.stopped is not None:
        if isinstance(coordinator.stopped, RunStopped):
            coordinator.stopped.results, coordinator.stopped.run_dir = call.results, call.directory.path
        raise coordinator.stopped
    assert call.results is not None  # noqa: S101 - a runner that closed without an error has results
    return call.results


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
