"""The thread that works on a run directory (one per directory and process), and its pool of workers."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from dreamo_batch.engine import notify, sending
from dreamo_batch.engine.ledger import Ledger, interrupted, refuse_other_entropy, refuse_other_service
from dreamo_batch.engine.schedule import Action, Do
from dreamo_batch.errors import DirectoryLocked, DreamoError, StorageFailed, UsageError, logger_named
from dreamo_batch.text import option, same_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dreamo_batch.engine.attempts import Event, Key
    from dreamo_batch.engine.coordinator import Coordinator
    from dreamo_batch.engine.directory import RunDirectory
    from dreamo_batch.service.failures import Failure


def open_ledger(directory: RunDirectory, service: str, entropy: str | None = None) -> Ledger:
    """Lock a run directory and open its ledger; creates that a dead process left on the wire become ambiguous."""
    with ExitStack() as undo, storing(directory):
        undo.callback(directory.unlock)
        directory.lock()
        ledger = Ledger(directory, service, entropy)
        undo.callback(ledger.abandon)
        left = interrupted(ledger.state)
        ledger.record(sending.interrupted(attempt, time.time()) for attempt in left)
        ledger.commit()
        ledger.interrupted = [attempt.job_id for attempt in left]
        undo.pop_all()
    return ledger


@contextmanager
def storing(directory: RunDirectory) -> Iterator[None]:
    """Turn an OSError before a call begins into StorageFailed, with what to do."""
    try:
        yield
    except OSError as error:
        raise _storage_failed(directory, error) from error


def _storage_failed(directory: RunDirectory, error: OSError) -> StorageFailed:
    failed = StorageFailed(
        f"Can't use the run directory {directory.path} ({error.strerror or error}). Nothing was submitted. "
        f"{directory.remedy(error)}, then run {same_call()} again."
    )
    failed.run_dir = directory.path
    return failed


class Workers:
    """A pool of daemon threads and the queue of their answers; a thread stuck in the network doesn't block exit."""

    def __init__(self, n: int, mailbox: queue.SimpleQueue[Any] | None = None) -> None:
        self.n = n
        self.mailbox: queue.SimpleQueue[Any] = mailbox or queue.SimpleQueue()
        self._work: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._under_way: deque[None] = deque()
        self.threads = [
            threading.Thread(target=self._loop, name=f"dreamo-io-{i}", daemon=True) for i in range(n)
        ]
        try:
            for thread in self.threads:
                thread.start()
        except RuntimeError as error:
            self.stop()
            raise DreamoError(
                f"{n} threads are needed ({error}). Raise the limits on processes and memory (ulimit -u, ulimit -v), "
                f"or lower {option('max_in_flight')}, then run {same_call()} again."
            ) from error

    def do(self, work: Callable[[], Any] | None) -> None:
        """Queue `work` for a worker, or None to end one; its result or exception goes to the mailbox."""
        self._under_way.append(None)
        self._work.put(work)

    @property
    def is_busy(self) -> bool:
        """Whether work is in progress, or a result is still in the mailbox."""
        return bool(self._under_way) or not self.mailbox.empty()

    def stop(self) -> None:
        """Let each worker end after its current work, without waiting."""
        for _ in self.threads:
            self.do(None)

    def _loop(self) -> None:
        while True:
            try:
                if (work := self._work.get()) is None:
                    return
                self.mailbox.put(work())
            except BaseException as error:  # noqa: BLE001 - a bug must reach the coordinator, not vanish with a thread
                self.mailbox.put(error)
            finally:
                self._under_way.pop()
            work = None  # else an idle worker would keep a whole picture in memory


logger = logger_named(__name__)

# Requests at once: creates, polls and downloads together.
_WORKERS_MAX: Final = 16
_WORKERS_MIN: Final = 4
_AT_EXIT_S: Final = 30.0
PATIENCE_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.05

T = TypeVar("T")
_Recorded: TypeAlias = "tuple[int, Action, Callable[[], Any]]"


class _Question:
    """A function to be called in the runner's thread between two events."""

    def __init__(self, do: Callable[[Runner], Any]) -> None:
        self.reply: Future[Any] = Future()
        self._do = do

    def answer(self, runner: Runner) -> None:
        """Call the function, unless nobody waits for it any more."""
        if not self.reply.set_running_or_notify_cancel():
            return
        try:
            self.reply.set_result(self._do(runner))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
            self.reply.set_exception(error)

    def refuse(self) -> None:
        """Cancel the question, so that the function isn't called."""
        self.reply.cancel()
        self.reply.set_running_or_notify_cancel()

    def is_answered(self) -> bool:
        """Wait a moment for the answer; return whether it has arrived."""
        return self.reply.cancelled() or bool(wait_for([self.reply], _LOOK_EVERY_S).done)


class Runner:
    """Works on a run directory in a thread as long as there are calls, which are started and changed by questions."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.coordinator: Coordinator | None = None
        self.ledger: Ledger | None = None
        self.resources = ExitStack()  # closed together with the directory
        self.workers: Workers | None = None
        self.error: BaseException | None = None
        self.is_resting = threading.Event()
        self.is_closed = threading.Event()
        self.n_busy = 0
        self.mailbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._writer: Workers | None = None
        self._is_writing = False
        self._recorded: deque[_Recorded] = deque()  # creates to be sent once they are on disk
        self._taken: dict[Key, str] = {}  # by workers, not by this thread
        self._pid = os.getpid()
        self._on_close: Callable[[], None] = lambda: None
        self._on_end: Callable[[BaseException | None], None] = lambda _error: None
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="dreamo-coordinator", daemon=True)

    def start(self) -> None:
        """Start the thread; it waits for the first request."""
        self._thread.start()

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked from the one that works on the directory."""
        return self._pid != os.getpid()

    def refuse_fork(self) -> None:
        """Raise if the run belongs to the process that this one was forked from."""
        if self.is_of_parent:
            raise of_parent(self.directory.path, self._pid)

    def refuse_own_thread(self) -> None:
        """Raise in a thread of the run, where a logging handler or finalizer would wait for itself."""
        pools = (pool.threads for pool in (self.workers, self._writer) if pool is not None)
        if threading.current_thread() in chain([self._thread], *pools):
            raise UsageError(
                f"A thread of the run in {self.directory.name} can't change it or wait for it. Use another thread."
            )

    def interrupt(self, coordinator: Coordinator | None = None) -> None:
        """Send nothing more for a coordinator's call if it is current; `is_resting` is set once all is on disk."""
        self.refuse_fork()
        self.mailbox.put(partial(self._halt, coordinator))

    def ask(self, do: Callable[[Runner], Any], timeout_s: float | None = None) -> Future[Any]:
        """Call a function in the runner's thread, between two events, and wait for its result."""
        self.refuse_own_thread()
        return self._ask(do, timeout_s)

    def _ask(self, do: Callable[[Runner], Any], timeout_s: float | None = None) -> Future[Any]:
        self.refuse_fork()
        question = _Question(do)
        until = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            self.mailbox.put(question)
            while not question.is_answered():
                if self.is_closed.is_set() or (until is not None and time.monotonic() >= until):
                    break
        finally:
            question.reply.cancel()
        while not question.is_answered():
            if self.is_closed.is_set():  # an error occurred between the question and its answer
                question.reply.set_exception(self.error or RuntimeError("not answered"))
        return question.reply

    @property
    def n_on_the_wire(self) -> int:
        """Creates that were sent and not answered."""
        return 0 if self.coordinator is None else len(self.coordinator.schedule.creating)

    # Called in the runner's thread, through a question.

    def n_workers(self, max_in_flight: int) -> int:
        """Return how many requests it makes at once: one per thread, or as many as a first call needs."""
        return self.workers.n if self.workers else min(_WORKERS_MAX, max(_WORKERS_MIN, max_in_flight + 2))

    def open(self, service: str, entropy: str | None = None) -> Ledger:
        """Return the ledger, opened if necessary; raises if the call is for another service or other seeds."""
        if self.ledger is None:
            try:
                self.ledger = open_ledger(self.directory, service, entropy)
            except DirectoryLocked as error:
                if self.directory.path in _of_parent:
                    raise of_parent(self.directory.path, _of_parent[self.directory.path]) from error
                raise
            return self.ledger
        refuse_other_service(self.directory, self.ledger.service, service)
        refuse_other_entropy(self.directory, self.ledger.entropy, entropy)
        return self.ledger

    def switch_to(
        self,
        coordinator: Coordinator,
        on_close: Callable[[], None],
        on_end: Callable[[BaseException | None], None] = lambda _error: None,
    ) -> None:
        """Start a call in place of the current one; creates already sent are still awaited."""
        self.workers = self.workers or Workers(coordinator.schedule.limits.n_workers, self.mailbox)
        self._writer = self._writer or Workers(1, self.mailbox)
        coordinator.sender.note, coordinator.sender.taken = self._note, self._taken
        coordinator.begin(frozenset() if self.coordinator is None else self.coordinator.schedule.creating)
        if self.coordinator is not None:
            recorded = [action.key for _, action, _ in self._recorded]
            self._take_back(coordinator)  # the new coordinator, whose plan assumes that they are on the wire
            coordinator.submit_again(recorded)
        # `on_close` runs before the directory is unlocked, `on_end` after.
        self.coordinator, self._on_close, self._on_end = coordinator, on_close, on_end
        self.is_resting.clear()

    def settle(self, event: Event, failure: Failure | None = None) -> None:
        """Record what was found out about an attempt on disk; a call in progress continues from there."""
        assert self.ledger is not None  # noqa: S101 - opened by the same question
        if self.coordinator is None:
            self.ledger.record([event])
        else:
            self.coordinator.settle(event, failure)
        try:
            self.ledger.commit()
        except OSError as error:
            if self.coordinator is not None:
                self.coordinator.storage_failed(error)
            raise _storage_failed(self.directory, error) from error

    def _note(self, key: Key, failure: Failure) -> bool:
        """Record on disk, for a worker, which task an error names; return False if that is no longer possible."""
        reply = self._ask(lambda running: running.settle(sending.named(key, time.time(), failure), failure))
        return not reply.cancelled() and reply.exception() is None

    # The thread.

    def _run(self) -> None:
        with _lock:
            is_first = _live.setdefault(self.directory.path, self) is self
        if is_first:
            for step in (self._loop, self._await_creates, self._close):
                try:
                    step()
                except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                    self.error = self.error or error
                    if self.coordinator is not None:
                        self.coordinator.halt()
                self._is_ending = True
            with _lock:
                del _live[self.directory.path]
            self._on_end(self.error)
        else:  # another thread was faster
            self.error = DirectoryLocked(f"Another call of this process has begun in {self.directory.name}.")
            self.resources.close()
        self.is_resting.set()
        self.is_closed.set()

    def _loop(self) -> None:
        self._take(PATIENCE_S)
        while (coordinator := self.coordinator) is not None:
            self._give(coordinator)
            if coordinator.is_over():
                return
            self._take(coordinator.wait_s(self._n_free()))

    def _await_creates(self) -> None:
        """Record the answers to creates on the wire however the loop ended, because they cost money."""
        if self.coordinator is not None:
            self._take_back(self.coordinator)
        while (coordinator := self.coordinator) is not None and any(  # n_busy may be wrong after an error
            pool.is_busy for pool in (self._writer, coordinator.schedule.creating and self.workers) if pool
        ):
            self._take_or_log(coordinator)
        for key, task_id in list(self._taken.items()):  # an error occurred between the answer and this thread
            assert coordinator is not None  # noqa: S101 - whose create it was
            self.mailbox.put(sending.CreateAnswer(key, task_id))
            self._take_or_log(coordinator)

    def _take_or_log(self, coordinator: Coordinator) -> None:
        try:
            self._take(_LOOK_EVERY_S)
        except Exception:  # whatever is wrong with one answer, the next may be a task id
            logger.exception("an answer could not be processed")
        self._store(coordinator, coordinator.ledger.commit)

    def _n_free(self) -> int:
        return 0 if self.workers is None else self.workers.n - self.n_busy - len(self._recorded)

    def _give(self, coordinator: Coordinator) -> None:
        """Hand out due requests; creates only once they are on disk, while answers are handled."""
        n_free = self._n_free()
        for action, call in coordinator.next_work(n_free) if n_free > 0 else ():
            if action.do is Do.CREATE:
                self._recorded.append((coordinator.ledger.n_recorded, action, call))
            else:
                self._hand_out(call)
        self._write(coordinator.ledger)
        if coordinator.ledger.is_checkpoint_due():
            self._store(coordinator, lambda: coordinator.ledger.checkpoint(coordinator.assignment.jobs))

    def _hand_out(self, call: Callable[[], Any]) -> None:
        assert self.workers is not None  # noqa: S101 - created with the first call
        self.n_busy += 1
        self.workers.do(call)

    def _write(self, ledger: Ledger) -> None:
        """Write everything recorded in another thread, after a write in progress."""
        if self._writer is None or self._is_writing or not (self._recorded or ledger.unwritten):
            return
        self._is_writing = True
        n_recorded = ledger.n_recorded

        def write() -> Callable[[], None]:
            failure = None
            try:
                ledger.write()
            except BaseException as error:  # noqa: BLE001 - raised in the runner's thread, which waits for it
                failure = error
            return partial(self._written, n_recorded, failure)

        self._writer.do(write)

    def _written(self, n_recorded: int, error: BaseException | None) -> None:
        """Send the creates that are on disk now, or none after an error."""
        coordinator, self._is_writing = self.coordinator, False
        assert coordinator is not None  # noqa: S101 - whose events they are
        if error is not None:
            self._take_back(coordinator)
            if not isinstance(error, OSError):
                raise error
            coordinator.storage_failed(error)
            self._store(coordinator, coordinator.ledger.commit)  # what can't be written goes to strays
            return
        coordinator.ledger.written(n_recorded)
        while self._recorded and self._recorded[0][0] <= n_recorded:
            self._hand_out(self._recorded.popleft()[2])

    def _take_back(self, coordinator: Coordinator) -> None:
        """Give up the creates that wait for the disk."""
        while self._recorded:
            coordinator.undo_choice(self._recorded.popleft()[1])

    def _take(self, wait_s: float | None) -> None:
        try:
            self._open_message(self.mailbox.get(timeout=wait_s))
            while True:
                self._open_message(self.mailbox.get_nowait())
        except queue.Empty:
            return

    def _open_message(self, message: object) -> None:
        """Handle a message: a question, a function to call in this thread, or a worker's answer."""
        if isinstance(message, _Question):
            message.refuse() if self._is_ending else message.answer(self)
        elif callable(message):
            message()
        elif self.coordinator is not None:
            self.n_busy -= 1
            self.coordinator.handle(message)
            if isinstance(message, sending.CreateAnswer):
                self._taken.pop(message.key, None)

    def _halt(self, target: Coordinator | None) -> None:
        """Stop a coordinator's call if it is current; None stops any."""
        coordinator = self.coordinator
        if coordinator is None or target not in (None, coordinator):
            return
        coordinator.halt()
        self._take_back(coordinator)
        self._store(coordinator, lambda: coordinator.ledger.checkpoint(coordinator.assignment.jobs))
        self.is_resting.set()

    def _store(self, coordinator: Coordinator, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            coordinator.storage_failed(error)

    def _close(self) -> None:
        for workers in filter(None, (self.workers, self._writer)):
            workers.stop()
        with ExitStack() as last:  # each is called, whatever happens to the others
            last.callback(self.resources.close)
            last.callback(self.directory.unlock)  # even if an error occurred before the ledger was known here
            if self.ledger is None:
                return
            last.callback(self._on_close)
            last.callback(self.ledger.abandon)
            try:
                if self.coordinator is not None:
                    self.coordinator.lower_slice()
                self.ledger.close(() if self.coordinator is None else self.coordinator.assignment.jobs)
            except OSError as error:
                if self.coordinator is None:
                    raise _storage_failed(self.directory, error) from error
                self.coordinator.storage_failed(error)
                self.coordinator.report_unwritten()


_live: Final[dict[Path, Runner]] = {}
# The directories that the process this one was forked from worked on, and its process id.
_of_parent: Final[dict[Path, int]] = {}
_lock: Final = threading.Lock()


def ask(directory: RunDirectory, do: Callable[[Runner], T], timeout_s: float = PATIENCE_S) -> T:
    """Call a function in the thread that works on a directory, whole or not at all; without one, start it."""
    if directory.replica is not None and live(directory.path) is None:
        directory.replica.wait_until_free()
    until = time.monotonic() + timeout_s
    while True:
        runner = live(directory.path)
        if runner is None:
            runner = Runner(directory)
            runner.start()
        reply = runner.ask(do, until - time.monotonic())
        if not reply.cancelled():
            break
        if not runner.is_closed.wait(max(0.0, until - time.monotonic())):
            raise DirectoryLocked(
                f"An earlier call in this process is still writing to {directory.name}. Nothing was changed. Try again."
            )
    while runner.coordinator is None and not runner.is_closed.wait(_LOOK_EVERY_S):
        pass
    if runner.coordinator is None and runner.error is not None and reply.exception() is None:
        raise runner.error
    answer: T = reply.result()
    return answer


def live(path: Path) -> Runner | None:
    """Return this process's runner for a directory, if any."""
    with _lock:
        return _live.get(path)


def wait_at_exit(kind: type[Runner] = Runner, timeout_s: float = _AT_EXIT_S) -> None:
    """Stop every runner and wait for the answers of creates on the wire; a second interrupt leaves at once."""
    with _lock:
        runners = [runner for runner in _live.values() if isinstance(runner, kind)]
    for runner in runners:
        runner.interrupt()
    until = time.monotonic() + timeout_s
    try:
        for runner in runners:
            runner.is_closed.wait(max(0.0, until - time.monotonic()))
    except KeyboardInterrupt:
        logger.warning("exited before every create was answered; those rows are ambiguous")
    else:
        with suppress(KeyboardInterrupt):
            notify.wait_at_exit()


def of_parent(path: Path, pid: int) -> DirectoryLocked:
    """Return the error for a run that belongs to the process this one was forked from."""
    return DirectoryLocked(
        f"Process {pid}, which this one was forked from, is running {path}, and only that process can change the run. "
        "You can still read it here (load, status, results)."
    )


def _forget_parent() -> None:
    """Leave the parent's runs to the parent; called in a forked child."""
    for path, runner in _live.items():
        _of_parent[path] = runner._pid  # noqa: SLF001 - this module's own
        runner.directory.leave_lock()
    _live.clear()
    _lock.release()


atexit.register(wait_at_exit)
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forget_parent)
