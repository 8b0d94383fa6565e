"""Work through pictures in several threads, with a bar; what was done is kept, also when it is interrupted."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from dreamo_batch.errors import UsageError
from dreamo_batch.table.pictures import pillow_is_quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

_WORKERS_MAX: Final = 8


def each(
    items: Sequence[Item],
    do: Callable[[Item], Result],
    *,
    what: str,
    n_workers: int | None = None,
    progress: bool = True,
) -> Iterator[tuple[Item, Result]]:
    """Do something with each item, several at once, and give the results as they come, in order.

    Parameters
    ----------
    items : sequence
        What there is to do.
    do : callable
        Does it; called in threads, in which Pillow and numpy let each other run.
    what : str
        Name of the bar.
    n_workers : int, optional
        Threads; default: one for each core, 8 at most. 1 for what can't be called from several.
    progress : bool
        Show a bar on standard error, or as a notebook widget.

    Yields
    ------
    item, result

    Raises
    ------
    UsageError
        If `n_workers` is no count.

    Examples
    --------
    >>> list(each([1, 2], lambda number: -number, what="numbers", progress=False))
    [(1, -1), (2, -2)]
    """
    from tqdm.auto import tqdm

    workers = min(_WORKERS_MAX, os.cpu_count() or 1) if n_workers is None else n_workers
    if not isinstance(workers, int) or workers < 1:
        raise UsageError(f"n_workers={n_workers!r}: at least 1 was expected.")
    if not items:
        return
    pool = ThreadPoolExecutor(workers)
    bar = tqdm(total=len(items), desc=what, unit="picture", disable=not progress)
    try:
        with pillow_is_quiet():
            for item, result in zip(items, pool.map(do, items), strict=True):
                bar.update()
                yield item, result
    finally:
        bar.close()
        pool.shutdown(cancel_futures=True)  # what is under way ends; nothing more begins
