"""Work on pictures in other processes, here or on a cluster: by Dask, or any executor of `concurrent.futures`."""

from __future__ import annotations

import functools
import multiprocessing
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dreamo_batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK: Final = 32
"""Pictures a task: what an engine adds to each is then below one part in a hundred."""
_LOST_MAX: Final = 3  # times a chunk is done again because its process died
_cluster: ContextVar[Any] = ContextVar("_cluster", default=None)


@contextmanager
def on_cluster(cluster: Any) -> Iterator[None]:
    """Have pictures worked on by a Dask client, an executor, or a number of local processes; None: by threads."""
    if cluster is not None and not (_is_count(cluster) or isinstance(cluster, Executor) or _is_dask(cluster)):
        raise UsageError(
            f"cluster={cluster!r}: expected a Dask Client, an Executor of concurrent.futures, or a number of processes."
        )
    token = _cluster.set(cluster)
    try:
        yield
    finally:
        _cluster.reset(token)


def current() -> Any:
    """Return the cluster that pictures are worked on by; None for threads."""
    return _cluster.get()


def dashboard() -> str:
    """Return where the cluster shows what it does; empty if nowhere."""
    return str(getattr(_cluster.get(), "dashboard_link", None) or "")


def chunks(items: Sequence[Item]) -> list[Sequence[Item]]:
    """Cut items into chunks, each a task."""
    return [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]


def in_chunks(
    items: Sequence[Item], do: Callable[..., Any], *, is_batched: bool = False
) -> Iterator[tuple[Item, Any]]:
    """Do something with each item on the cluster, and yield the results in order; both must be picklable.

    A task may run more than once, wherever it likes. Of a local pool whose process was killed, what was not done is
    done again.
    """
    left, n_lost = chunks(items), 0
    work = do if is_batched else functools.partial(_do_chunk, do)
    while left:
        with _executor(_cluster.get()) as executor:
            futures: list[Future[Any]] = [executor.submit(work, chunk) for chunk in left]
            try:
                for future in futures:
                    done = future.result()
                    yield from zip(left.pop(0), done, strict=True)
                    n_lost = 0
            except BrokenProcessPool:
                n_lost += 1
                if not _is_count(_cluster.get()) or n_lost > _LOST_MAX:
                    raise
            finally:
                for future in futures:
                    future.cancel()


def _do_chunk(do: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [do(item) for item in items]


@contextmanager
def _executor(cluster: Any) -> Iterator[Executor]:
    if _is_count(cluster):
        # Spawned: a process forked beside running threads may hang.
        with ProcessPoolExecutor(cluster, multiprocessing.get_context("spawn")) as pool:
            yield pool
    elif isinstance(cluster, Executor):
        yield cluster
    else:
        # Equal tasks are no cached results: what they read may have changed.
        yield cluster.get_executor(pure=False)


def _is_count(cluster: Any) -> bool:
    return isinstance(cluster, int) and not isinstance(cluster, bool) and cluster >= 1


def _is_dask(cluster: Any) -> bool:
    return callable(getattr(cluster, "get_executor", None))
