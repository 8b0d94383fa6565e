"""Work on many pictures at once, in threads, processes or on a cluster, with a bar; an interrupt keeps what is done."""

from __future__ import annotations

import functools
import multiprocessing
import numbers
import os
import pickle
import signal
import sys
import threading
import uuid
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from dreamo_batch import arguments, errors, files
from dreamo_batch.importing import load_module, refuse_at_exit
from dreamo_batch.text import first_line, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from multiprocessing.process import BaseProcess
    from multiprocessing.synchronize import Event
    from pathlib import Path

Item = TypeVar("Item")
Cluster: TypeAlias = Any  # a Dask client, an executor, or a number of processes

logger = errors.logger_named(__name__)

_WORKERS_MAX: Final = 8
_PROCESSES_MAX: Final = 2**16
_THREADS: Final = 4  # where there is no cluster, of tasks that could be worked on by one
_DELAY_S: Final = 1.0  # what is done sooner needs no bar
# Pictures a task: what an engine adds to each is then below one part in a hundred.
_CHUNK: Final = 32
_GUARD: Final = 'Each imports the script again, so its calls belong under `if __name__ == "__main__":`.'
LOOK_EVERY_S: Final = 0.2  # at whether tasks are done
_ANSWER_S: Final = 2.0  # that Dask's scheduler has for an answer amid a run
_FIRST_ANSWER_S: Final = 10.0
_LOST_MAX: Final = 3  # times a chunk is done again because its process died
_cluster: ContextVar[Any] = ContextVar("_cluster", default=None)
_n_threads: ContextVar[int | None] = ContextVar("_n_threads", default=None)
_is_wanted: ContextVar[bool] = ContextVar("_is_wanted", default=True)
_working = threading.Lock()


@contextmanager
def _inside(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    """Set a variable inside the block, whose interrupts are shown at the user's line."""
    token = variable.set(value)
    try:
        with errors.interrupts_without_our_lines():
            yield
    finally:
        variable.reset(token)


def bars(wanted: bool) -> AbstractContextManager[None]:
    """Show the progress bars of the work inside the block, or not."""
    return _inside(_is_wanted, arguments.check_flag("progress", wanted) and _is_wanted.get())


@contextmanager
def working(
    *, cluster: Cluster = None, n_workers: int | None = None, progress: bool = True
) -> Iterator[None]:
    """Set who works on the pictures of a block: a cluster, or so many threads; and whether bars show it."""
    refuse_other(cluster)
    if n_workers is not None:
        arguments.check_count("n_workers", n_workers)
    with _inside(_cluster, cluster), _inside(_n_threads, n_workers), bars(progress):
        yield


def write_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Replace a file that the user named, and make its folder."""
    with arguments.file_errors(errors.UsageError, path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, fill)


@contextmanager
def ticking(n: int, what: str, *, unit: str = "picture") -> Iterator[Callable[[], None]]:
    """Show a progress bar of work that takes over a second, if somebody can see it; yield what counts a step."""
    bar = _Bar()
    if n and _is_wanted.get() and is_watched():
        bar.safely(lambda: bar.begin(n, what, unit))
    with closing(bar), errors.interrupts_without_our_lines():
        yield bar.tick


def bar_class() -> type[Any]:
    """Return tqdm's bar with a lock of its own: another's may be missing, or never released."""
    return _bar_class_of(load_module("tqdm.auto").tqdm)


@functools.cache
def _bar_class_of(base: type[Any]) -> type[Any]:
    def refresh(self: Any, nolock: bool = False, lock_args: object = None) -> Any:  # noqa: ARG001 - as tqdm calls it
        with nullcontext() if nolock else made.get_lock():
            return base.refresh(self, nolock=True)

    # A bar of a notebook that an interrupt left half made lacks `disp`, and would complain where it is deleted.
    own = {"_lock": threading.RLock(), "refresh": refresh, "disp": lambda *_, **__: None}
    made: type[Any] = type("DreamoBar", (base,), own)
    # Another thread of the parent may hold it.
    os.register_at_fork(after_in_child=lambda: made.set_lock(threading.RLock()))
    return made


class _Bar:
    """A bar that disappears when it can't be drawn: work never fails because of its progress bar."""

    def __init__(self) -> None:
        self._place = ExitStack()
        self._bar: Any = None

    def begin(self, n: int, what: str, unit: str) -> None:
        if is_in_marimo():
            place = marimo_bar(n, what, remove_on_exit=True)
        else:
            place = closing(bar_class()(total=n, desc=what, unit=unit, delay=_DELAY_S))
        self._bar = self._place.enter_context(place)

    def tick(self) -> None:
        if self._bar is not None:
            self.safely(self._bar.update)

    def close(self) -> None:
        self.safely(self._place.close)

    def safely(self, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception as error:  # noqa: BLE001 - widgets, marimo or a closed stream raise what they like
            self._bar = None
            logger.debug("the progress bar was dropped: %s", error)


def threads(n: int) -> ThreadPoolExecutor:
    """Return a pool of threads."""
    refuse_at_exit()
    return ThreadPoolExecutor(n)


def each(
    items: Sequence[Item],
    do: Callable[..., Any],
    *,
    what: str,
    unit: str = "picture",
    n_workers: int | None = None,
    is_portable: bool = False,
    n_batch: int | None = None,
) -> Iterator[tuple[Item, Any]]:
    """Do something with each item, or each `n_batch` of them, several at once, and yield the results in order."""
    if not items:
        return
    cluster = _cluster.get() if is_portable else None
    link = getattr(_client_of(cluster), "dashboard_link", None)  # where the cluster shows what it does
    pool = threads(n_workers or _n_threads.get() or min(_WORKERS_MAX, os.cpu_count() or 1))
    try:
        with ticking(len(items), f"{what} ({link})" if link else what, unit=unit) as tick:
            work = functools.partial(_do_chunk, do) if n_batch is None else do
            n = n_batch or (1 if cluster is None else _CHUNK)
            chunks = [items[start : start + n] for start in range(0, len(items), n)]
            whole = _in_chunks(cluster, chunks, work) if cluster is not None else pool.map(work, chunks)
            results = chain.from_iterable(whole)
            for item, result in zip(items, results, strict=True):
                tick()
                yield item, result
    finally:
        pool.shutdown(cancel_futures=True)  # what is under way ends; nothing more begins


# Other processes: Dask, or any executor of `concurrent.futures`.


def refuse_other(cluster: Cluster) -> None:
    """Raise for what can't work on anything."""
    client = _client_of(cluster)
    if client is None and not (cluster is None or is_count(cluster) or isinstance(cluster, Executor)):
        raise errors.UsageError(
            f"cluster={quoted(cluster)}: expected a Dask Client (Client(...) makes one of a Dask cluster), an Executor "
            "of concurrent.futures, or a number of processes."
        )
    if getattr(client, "status", "") in {"closing", "closed"}:
        raise errors.UsageError("The Dask client passed as cluster= is closed. Pass a new one.")
    if getattr(client, "asynchronous", False):
        raise errors.UsageError(
            "The Dask client passed as cluster= is asynchronous: it would wait for this call, and this for it. Pass "
            "one that was made without asynchronous=True."
        )


def portable(thing: Any) -> Any:
    """Pickle what a user made for the cluster's processes, whole where they can't import it; else return it."""
    cluster = _cluster.get()
    if cluster is None or isinstance(cluster, ThreadPoolExecutor):
        return thing
    imports_script = is_count(cluster) or isinstance(cluster, ProcessPoolExecutor)
    is_by_name = imports_script and hasattr(sys.modules["__main__"], "__file__")
    module = "pickle" if is_by_name or find_spec("cloudpickle") is None else "cloudpickle"
    try:
        return load_module(module).dumps(thing)
    except Exception as error:  # anything can be wrong with what a user made
        raise errors.UsageError(
            f"A metric can't be sent to other processes ({first_line(error)}). Define it at the top level of a module."
        ) from error


def unpacked(sent: Any) -> Any:
    """Return what `portable` was given; in one process, the same object each time."""
    if not isinstance(sent, bytes):
        return sent
    with _unpacking:
        return _unpickled(sent)


_unpacking: Final = threading.Lock()
_unpickled: Final = functools.lru_cache(maxsize=4)(pickle.loads)


def _in_chunks(cluster: Cluster, chunks: list[Sequence[Any]], work: Callable[..., Any]) -> Iterator[Any]:
    """Work on each chunk on the cluster, maybe more than once, and yield what becomes of each in order; picklable."""
    left, n_lost = chunks, 0
    while left:
        try:
            with executor_of(cluster) as executor:
                futures: list[Future[Any]] = [executor.submit(work, chunk) for chunk in left]
                try:
                    for future in futures:
                        while not future.done():
                            wait([future], LOOK_EVERY_S)
                            cancel_forgotten(executor, [future])
                        done = future.result()
                        left.pop(0)
                        yield done
                        n_lost = 0
                finally:
                    for future in futures:
                        future.cancel()
        except (errors.DreamoError, OSError):  # such as that the disk is full
            raise
        except Exception as error:  # an engine raises anything
            n_lost += 1
            if not (is_count(cluster) and isinstance(error, BrokenProcessPool) and n_lost <= _LOST_MAX):
                raise errors.UsageError(
                    f"The workers of the cluster have failed ({first_line(error)}). Check that they are running, with "
                    "the same packages, and with cloudpickle (extra dask) for what a notebook defines."
                ) from error


def _do_chunk(do: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
    return [do(item) for item in items]


def n_workers(cluster: Cluster, patience_s: float = _FIRST_ANSWER_S) -> int:
    """Return how many tasks can be worked on at once."""
    if is_count(cluster):
        return int(cluster)
    client = _client_of(cluster)
    if client is not None:
        # `nthreads` may wait forever, and `scheduler_info` of some versions lists five at most.
        return len(client.sync(client.scheduler.ncores, callback_timeout=patience_s))
    return int(getattr(cluster, "_max_workers", 1))


def trouble_of(cluster: Cluster) -> str:
    """Say why nothing is heard of any worker of Dask, if Dask knows."""
    try:
        is_deserted = _client_of(cluster) is not None and not n_workers(cluster, _ANSWER_S)
    except Exception as error:  # noqa: BLE001 - an engine raises anything
        return f"Dask's scheduler doesn't answer ({first_line(error)})."
    return "The Dask cluster has no workers. The run continues once it has some." if is_deserted else ""


@contextmanager
def executor_of(cluster: Cluster, environment: Mapping[str, str] | None = None) -> Iterator[Executor]:
    """Open what works on tasks: threads if None; processes of this machine are started, with an environment."""
    if cluster is None:
        with threads(_THREADS) as pool:
            yield pool
    elif is_count(cluster):
        # Spawned: a process forked beside running threads may hang.
        refuse_in_import()
        context = multiprocessing.get_context("spawn")
        begun = None
        try:
            begun = context.Event()
            with _Processes(cluster, context, _begin, (begun, environment or {})) as pool:
                try:
                    yield pool
                except (BrokenProcessPool, KeyboardInterrupt):
                    kill_workers(pool)  # one that is suspended or busy doesn't end when it is told to
                    raise
        except (BrokenProcessPool, OSError) as error:
            if begun is not None and begun.is_set():
                raise
            raise errors.UsageError(
                f"No process of cluster={cluster} could start, or it was killed at once ({first_line(error)}). {_GUARD}"
            ) from error
    else:
        # Equal tasks are no cached results: what they read may have changed.
        executor = cluster if isinstance(cluster, Executor) else cluster.get_executor(pure=False)
        yield _Dask(executor) if type(executor).__module__.startswith("distributed.") else executor


def live_workers(pool: Executor) -> list[BaseProcess]:
    """Return the processes that run for a pool of this machine."""
    return [process for process in list(getattr(pool, "_processes", {}).values()) if process.is_alive()]


def kill_workers(pool: Executor) -> None:
    """Kill the processes of a local pool, which waits for them at its end, also for suspended ones."""
    # It has a method for that since Python 3.14.
    for process in live_workers(pool):
        process.kill()


def cancel_forgotten(executor: Executor, futures: Iterable[Any]) -> None:
    """Cancel the tasks of which Dask says no more, as it was restarted or closed while it fetched their results."""
    if isinstance(executor, _Dask):
        for future in futures:
            if not future.done() and future.key not in executor.client.futures:
                future.cancel()


class _Dask(Executor):
    """Dask, whose workers import what a task needs only as they run it: one that can't would lose it in silence."""

    def __init__(self, executor: Any) -> None:
        self._executor, self.client = executor, _client_of(executor)

    def submit(self, do: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        packed = load_module("cloudpickle").dumps(functools.partial(do, *args, **kwargs))
        key = f"dreamo-{uuid.uuid4().hex}"  # as its dashboard shows it
        future = self._executor.submit(lambda call: pickle.loads(call)(), packed, key=key)  # noqa: S301 - our own
        future.key = key
        return future


class _Processes(ProcessPoolExecutor):
    """Processes that end once their parent was killed, and whose own death is noticed: Python's wait forever."""

    def submit(self, do: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        # A Ctrl-C, which a terminal sends to it as well, would interrupt its imports and fill the terminal.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            future = super().submit(_do, do, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # Its thread was woken before this started a process, and would miss the death of that one.
        with self._shutdown_lock:
            self._executor_manager_thread_wakeup.wakeup()
        return future


def _do(do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with _working:
        return do(*args, **kwargs)


def _end_after(parent: Any) -> None:
    parent.join()
    with _working:  # what is begun is finished
        os._exit(1)


def _begin(begun: Event, environment: Mapping[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it says when to end
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=_end_after, args=[multiprocessing.parent_process()], daemon=True).start()
    os.environ.update(environment)
    begun.set()


def refuse_in_import() -> None:
    """Raise in a process that is still importing the script of the one that started it, or is shutting down."""
    refuse_at_exit()
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise errors.UsageError(f"Nothing is done while a new process imports the script. {_GUARD}")


def is_count(cluster: Cluster) -> bool:
    """Whether it is a number of processes of this machine."""
    is_whole = isinstance(cluster, numbers.Integral) and cluster is not True
    return is_whole and 1 <= int(cluster) < _PROCESSES_MAX


def _client_of(cluster: Cluster) -> Any:
    """Return a Dask client, also that of its executor; None if it is something else."""
    client = getattr(cluster, "_client", cluster)
    return client if callable(getattr(client, "get_executor", None)) else None


def is_watched() -> bool:
    """Whether a person can see a bar move."""
    try:
        return is_in_notebook() or is_in_marimo() or sys.stderr.isatty()
    except Exception:  # noqa: BLE001 - closed, missing, or something else that is no stream
        return False


def is_in_notebook() -> bool:
    """Whether tqdm draws in a notebook."""
    load_module("tqdm.auto")  # it loads the next without the warning that notebooks would show
    from tqdm.autonotebook import tqdm as chosen
    from tqdm.std import tqdm as of_text

    return chosen is not of_text


def is_in_marimo() -> bool:
    """Whether this thread works on a cell of marimo, which shows anywidgets, but neither ipywidgets nor tqdm's bars."""
    marimo = sys.modules.get("marimo")
    return marimo is not None and bool(marimo.running_in_notebook())


def marimo_bar(n: int, what: str, *, remove_on_exit: bool) -> Any:
    """Return marimo's own bar; as a context it is in the output of the cell."""
    import marimo

    return marimo.status.progress_bar(total=n, title=what, remove_on_exit=remove_on_exit)
