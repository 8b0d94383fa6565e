"""Process pictures in several threads, with a progress bar; an interrupt keeps what is done."""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dreamo_batch import executors
from dreamo_batch.errors import UsageError, interrupts_without_our_lines
from dreamo_batch.frontend import is_in_marimo, is_watched, marimo_bar
from dreamo_batch.importing import load_module
from dreamo_batch.logs import logger_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logger_named(__name__)

_WORKERS_MAX: Final = 8
_DELAY_S: Final = 1.0  # what is done sooner needs no bar
_is_wanted: ContextVar[bool] = ContextVar("_is_wanted", default=True)


@contextmanager
def bars(wanted: bool) -> Iterator[None]:
    """Show the progress bars of the work inside the block, or not."""
    token = _is_wanted.set(wanted and _is_wanted.get())
    try:
        yield
    finally:
        _is_wanted.reset(token)


@contextmanager
def ticking(
    n: int, what: str, *, unit: str = "picture", progress: bool = True
) -> Iterator[Callable[[], None]]:
    """Show a progress bar of work that takes over a second, if somebody can see it; yield what counts a step."""
    is_shown = n and progress and _is_wanted.get() and is_watched()
    if is_shown and is_in_marimo():
        with marimo_bar(n, what, remove_on_exit=True) as marimos:
            yield marimos.update
        return
    bar = _Bar(n, what, unit) if is_shown else None
    try:
        with interrupts_without_our_lines():
            yield (lambda: None) if bar is None else bar.tick
    finally:
        if bar is not None:
            bar.close()


def bar_class() -> type[Any]:
    """Return tqdm's bar for this place, with a lock of its own: another's may be held for ever, or be none."""
    return _bar_class_of(load_module("tqdm.auto").tqdm)


@functools.cache
def _bar_class_of(base: type[Any]) -> type[Any]:
    made = type("DreamoBar", (base,), {"_lock": threading.RLock()})
    if hasattr(os, "register_at_fork"):  # another thread of the parent may hold it
        os.register_at_fork(after_in_child=lambda: made.set_lock(threading.RLock()))  # type: ignore[attr-defined]
    return made


class _Bar:
    """A tqdm bar that disappears when it can't be drawn: work never fails because of its progress bar."""

    def __init__(self, n: int, what: str, unit: str) -> None:
        self._bar: Any = None
        try:
            self._bar = bar_class()(total=n, desc=what, unit=unit, delay=_DELAY_S)
        except Exception as error:  # noqa: BLE001 - a notebook's widgets or a closed stream raise what they like
            logger.debug("no progress bar of %s: %s", what, error)

    def tick(self) -> None:
        self._do("update")

    def close(self) -> None:
        self._do("close")

    def _do(self, verb: str) -> None:
        try:
            if self._bar is not None:
                getattr(self._bar, verb)()
        except Exception as error:  # noqa: BLE001 - as above
            self._bar = None
            logger.debug("the progress bar was dropped: %s", error)


def each(
    items: Sequence[Item],
    do: Callable[[Item], Result],
    *,
    what: str,
    unit: str = "picture",
    n_workers: int | None = None,
    progress: bool = True,
    is_portable: bool = False,
    is_batched: bool = False,
) -> Iterator[tuple[Item, Result]]:
    """Do something with each item, several at once, and yield the results in order.

    What is portable, which means that `do`, items and results can be pickled, is done by the cluster, if there is one.
    What is batched takes several items, and returns as many results.
    """
    workers = min(_WORKERS_MAX, os.cpu_count() or 1) if n_workers is None else n_workers
    if not isinstance(workers, int) or workers < 1:
        raise UsageError(f"n_workers={n_workers!r}: expected at least 1.")
    if not items:
        return
    if is_portable and executors.current() is not None:
        told = f"{what} ({link})" if (link := executors.dashboard()) else what
        with ticking(len(items), told, unit=unit, progress=progress) as tick:
            for item, result in executors.in_chunks(items, do, is_batched=is_batched):
                tick()
                yield item, result
        return
    pool = ThreadPoolExecutor(workers)
    try:
        with ticking(len(items), what, unit=unit, progress=progress) as tick:
            for item, result in zip(items, _results(pool, items, do, is_batched=is_batched), strict=True):
                tick()
                yield item, result
    finally:
        pool.shutdown(cancel_futures=True)  # what is under way ends; nothing more begins


def _results(
    pool: ThreadPoolExecutor, items: Sequence[Item], do: Callable[..., Any], *, is_batched: bool
) -> Iterator[Any]:
    return chain.from_iterable(pool.map(do, executors.chunks(items))) if is_batched else pool.map(do, items)
