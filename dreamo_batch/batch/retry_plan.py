"""What `retry` would order, before it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreamo_batch.batch.choosing import choose
from dreamo_batch.batch.reading import read_state
from dreamo_batch.errors import UsageError
from dreamo_batch.execution import plan, stored
from dreamo_batch.execution.budget import Budget, money
from dreamo_batch.execution.directory import RunDirectory
from dreamo_batch.execution.options import RunOptions
from dreamo_batch.results.planned import Plan

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

    import pandas as pd


def plan_retry(
    run_dir: str | os.PathLike[str],
    *,
    rows: Collection[Any] | pd.Series | None = None,
    classes: str | Collection[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Say what `retry` would do with each row, why, and what it can cost; sends and writes nothing.

    Parameters
    ----------
    run_dir : path-like
        The run directory.
    rows, classes, **options
        As for `retry`.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.PLAN` on the index of the directory's table; costs in USD.

    Raises
    ------
    UsageError
        If a row label is not in the table, or an option can't be used.
    DirectoryError
        If the directory can't be read.

    Examples
    --------
    >>> plan_retry("runs/none")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: ...runs/none is not a run directory: it has no jobs.parquet.
    """
    directory = RunDirectory(run_dir)
    table = stored.read_jobs(directory.jobs)
    chosen = choose(directory, table, rows, classes)
    try:
        checked = RunOptions(**options)
    except TypeError as error:
        raise UsageError(f"retry: {error}") from None
    state = read_state(directory)
    planned = plan.table(
        table.prepared,
        table.user.index,
        state,
        checked.plan_options(chosen),
        run_dir=directory.path,
        unit_cost=money(checked.unit_cost),
    )
    return Plan.of(planned, cap=money(state.cap), spent=Budget(orders=state).spent)
