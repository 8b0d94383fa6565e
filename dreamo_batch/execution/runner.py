"""The runner: one coordinator thread that works an assignment off, and the ways to stop it.

Interrupted, it sends nothing more and checkpoints at once, but lives on until creates already on the wire
are answered: an answer is money. `wait_at_exit` keeps the process for that, up to 30 s.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dreamo_batch.execution.coordinator import Coordinator
    from dreamo_batch.execution.schedule import Key
    from dreamo_batch.execution.session import Session
    from dreamo_batch.execution.workers import Workers

logger = logging.getLogger(__name__)

_AT_EXIT_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.05


class _Halt:
    """Asks the coordinator thread to stop; sent through the mailbox, so that it wakes up."""


class _HandOver:
    """Asks the coordinator thread to leave ledger and workers to a successor."""


class _Question:
    """Something to be done or read in the coordinator's thread, between two events."""

    def __init__(self, do: Callable[[Coordinator], Any]) -> None:
        self.reply: Future[Any] = Future()
        self._do = do

    def answer(self, coordinator: Coordinator) -> None:
        """Do it, unless nobody waits for it any more."""
        if not self.reply.set_running_or_notify_cancel():
            return
        try:
            self.reply.set_result(self._do(coordinator))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
            self.reply.set_exception(error)


class Runner:
    """Works an assignment off in a thread.

    Parameters
    ----------
    coordinator : Coordinator
        Decides and records.
    workers : Workers
        Make the requests.
    session : Session
        The open run directory; left to a successor, or closed at the end.
    on_close : callable
        Called in the thread once the ledger is closed, before the directory is unlocked.
    """

    def __init__(
        self, coordinator: Coordinator, workers: Workers, session: Session, on_close: Callable[[], None]
    ) -> None:
        self.coordinator = coordinator
        self.workers = workers
        self.session = session
        self.error: BaseException | None = None
        self.is_resting = threading.Event()
        self.is_closed = threading.Event()
        self.on_close = on_close
        self.n_busy = 0
        self._is_handed_over = False
        self._thread = threading.Thread(target=self._run, name="dreamo-coordinator", daemon=True)

    def start(self) -> None:
        """Begin; creates of a predecessor that are still on the wire are waited for."""
        self.n_busy = self.session.n_busy
        self.coordinator.begin(self.session.on_the_wire)
        self._thread.start()

    def interrupt(self) -> None:
        """Send nothing more; `is_resting` is set once everything known is on disk."""
        self.workers.mailbox.put(_Halt())

    def hand_over(self, timeout_s: float) -> frozenset[Key] | None:
        """Leave ledger and workers to a successor.

        Returns
        -------
        frozenset of Key or None
            Creates that are still on the wire; None if the runner closed by itself.
        """
        self.workers.mailbox.put(_HandOver())
        self._thread.join(timeout_s)
        return self.coordinator.schedule.creating if self._is_handed_over else None

    def ask(self, do: Callable[[Coordinator], Any]) -> Future[Any]:
        """Have something done or read in the coordinator's thread, between two events, and wait for it.

        Returns
        -------
        Future
            Done with what `do` returned or raised; cancelled, and `do` never called, if the runner closed or was
            taken over before it came to that.
        """
        question = _Question(do)
        self.workers.mailbox.put(question)
        while not self.is_closed.is_set() and not wait_for([question.reply], timeout=_LOOK_EVERY_S).done:
            pass
        if not question.reply.cancel():
            wait_for([question.reply])
        return question.reply

    @property
    def is_taken_over(self) -> bool:
        """Whether another call in this process went on with ledger and workers."""
        return self._is_handed_over

    @property
    def n_on_the_wire(self) -> int:
        """Creates that were sent and are not answered."""
        return len(self.coordinator.schedule.creating)

    def _run(self) -> None:
        for step in (self._loop, self._await_creates, self._close):
            try:
                step()
            except BaseException as error:  # noqa: BLE001 - told to the caller, in whose thread it is raised
                self.error = self.error or error
                self.coordinator.halt()
        self.is_resting.set()
        self.is_closed.set()

    def _loop(self) -> None:
        while not self._is_handed_over:
            self._give()
            if self.coordinator.is_over():
                return
            self._take()

    def _await_creates(self) -> None:
        """Record the answers of creates on the wire, however the loop ended: they are money."""
        while not self._is_handed_over and self.coordinator.schedule.creating and self.n_busy:
            try:
                self._take()
            except Exception:  # whatever is wrong with one answer, the next may be a task id
                logger.exception("an answer could not be taken in")
            self._commit()

    def _give(self) -> None:
        n_free = self.workers.n - self.n_busy
        work = self.coordinator.give(n_free) if n_free > 0 else []
        if not self._commit():
            for action, _ in work:
                self.coordinator.take_back(action)
            return
        self.n_busy += len(work)
        for _, call in work:
            self.workers.do(call)
        if self.coordinator.ledger.is_checkpoint_due():
            self._checkpoint()

    def _take(self) -> None:
        wait_s = self.coordinator.wait_s(self.workers.n - self.n_busy)
        try:
            self._open(self.workers.mailbox.get(timeout=wait_s))
            while True:
                self._open(self.workers.mailbox.get_nowait())
        except queue.Empty:
            return

    def _open(self, message: object) -> None:
        if isinstance(message, _Halt):
            self._halt()
        elif isinstance(message, _HandOver):
            self._is_handed_over = True
        elif isinstance(message, _Question):
            message.answer(self.coordinator)
        else:
            self.n_busy -= 1
            self.coordinator.take(message)

    def _halt(self) -> None:
        self.coordinator.halt()
        if self._commit():
            self._checkpoint()
        self.is_resting.set()

    def _commit(self) -> bool:
        try:
            self.coordinator.ledger.commit()
        except OSError as error:
            self.coordinator.storage_failed(error)
            return False
        return True

    def _checkpoint(self) -> None:
        try:
            self.coordinator.ledger.checkpoint(self.coordinator.assignment.jobs)
        except OSError as error:
            self.coordinator.storage_failed(error)

    def _close(self) -> None:
        if self._is_handed_over:
            return
        self.workers.stop()
        with ExitStack() as last:  # each is called, whatever happens to the others
            last.callback(self.session.close)
            last.callback(self.on_close)
            last.callback(self.coordinator.ledger.abandon)
            self._close_ledger()

    def _close_ledger(self) -> None:
        try:
            self.coordinator.ledger.close(self.coordinator.assignment.jobs)
        except OSError as error:
            self.coordinator.storage_failed(error)
            self.coordinator.tell_unwritten()


_live: Final[dict[Path, Runner]] = {}
_lock: Final = threading.Lock()


def register(path: Path, runner: Runner) -> None:
    """Remember who is working on a directory in this process."""
    with _lock:
        _live[path] = runner


def forget(path: Path, runner: Runner) -> None:
    """Forget a runner that has closed."""
    with _lock:
        if _live.get(path) is runner:
            del _live[path]


def live(path: Path) -> Runner | None:
    """Give the runner of this process that works on a directory, if any."""
    with _lock:
        return _live.get(path)


def wait_at_exit(timeout_s: float = _AT_EXIT_S) -> None:
    """Stop every runner and wait for the answers of creates on the wire; a second interrupt leaves at once."""
    with _lock:
        runners = list(_live.values())
    for runner in runners:
        runner.interrupt()
    until = time.monotonic() + timeout_s
    try:
        for runner in runners:
            runner.is_closed.wait(max(0.0, until - time.monotonic()))
    except KeyboardInterrupt:
        logger.warning("left before every create was answered; those rows are ambiguous")


atexit.register(wait_at_exit)
