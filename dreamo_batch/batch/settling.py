"""`resolve`: settle an ambiguous row by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreamo_batch import columns
from dreamo_batch.batch.call import results_of
from dreamo_batch.errors import DirectoryError, UsageError
from dreamo_batch.execution import outcomes, runner, stored
from dreamo_batch.execution.clock import SystemClock
from dreamo_batch.execution.directory import RunDirectory
from dreamo_batch.execution.state import Stage
from dreamo_batch.service.wire import is_task_id

if TYPE_CHECKING:
    import os

    import pandas as pd

    from dreamo_batch.execution.state import Order, State


def resolve(
    run_dir: str | os.PathLike[str],
    row: Any,
    *,
    order: int | None = None,
    task_id: str | None = None,
    not_sent: bool = False,
) -> pd.DataFrame:
    """Settle an ambiguous order by hand, after a look at the service's own list or bill.

    Parameters
    ----------
    run_dir : path-like
        The run directory.
    row : label or str
        Index label of the row, or its ``job_id``.
    order : int, optional
        Number of the order within its job, as in `dreamo_batch.attempts`, where a row was ordered again while an
        earlier order was in doubt. Default: the one that is ambiguous.
    task_id : str, optional
        The order was taken, as this task; the run that goes on here, or the next one, asks for it.
    not_sent : bool
        The order was not taken; the run that goes on here, or the next one, orders it.

    Returns
    -------
    pandas.DataFrame
        The table as it stands now.

    Raises
    ------
    UsageError
        If the row is not in the table or not ambiguous, or has several ambiguous orders and none is named, or not
        exactly one of the two answers is given, or the task is that of another order.
    DirectoryError
        If the directory can't be used.

    Examples
    --------
    >>> resolve("runs/none", 3, not_sent=True)
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: ...runs/none is not a run directory: it has no jobs.parquet.
    """
    if (task_id is None) == (not not_sent):
        raise UsageError("give exactly one of task_id= (it was taken) and not_sent=True (it was not)")
    if task_id is not None and not is_task_id(task_id):
        raise UsageError(f"{task_id!r} is no task id; give the id that stands on the service's list or bill")
    directory = RunDirectory(run_dir)
    table = stored.read_jobs(directory.jobs)
    manifest = directory.read_manifest()
    if manifest is None:
        raise DirectoryError(f"{directory.path} has no run.json; run the table again to rebuild it.")
    job_id, service = find_job(table, row), manifest.service

    def settle(at_work: runner.Runner) -> State:
        state = at_work.open(service, SystemClock()).ledger.state
        settled = _ambiguous(state.of(job_id), row, order)
        _refuse_known(state, settled, task_id)
        at_work.settle(outcomes.resolved(settled, SystemClock().wall(), task_id))
        return state.copy()

    return results_of(table.user, table.prepared, runner.ask(directory, settle))


def find_job(table: stored.StoredTable, row: Any) -> str:
    """Give the job of a row by its label or job id.

    Raises
    ------
    UsageError
        If there is none, or several.
    """
    jobs = table.rows[columns.JOB_ID]
    is_row = table.user.index.map(str) == str(row)
    found = jobs[is_row | (jobs == str(row)).to_numpy()].dropna().unique()
    if len(found) != 1:
        many = (
            f"stands for {len(found)} jobs; give the job_id"
            if len(found)
            else "is not in the table, or invalid"
        )
        raise UsageError(f"row {row!r} {many}")
    return str(found[0])


def _ambiguous(orders: tuple[Order, ...], row: Any, number: int | None) -> Order:
    held = [order for order in orders if order.stage is Stage.AMBIGUOUS]
    found = [order for order in held if number in (None, order.order)]
    if len(found) == 1:
        return found[0]
    raise UsageError(_why_not(orders, held, row, number))


def _why_not(orders: tuple[Order, ...], held: list[Order], row: Any, number: int | None) -> str:
    numbers = " or ".join(f"order={order.order}" for order in held)
    if held and number is None:
        return f"row {row!r} has {len(held)} ambiguous orders; say which: {numbers}"
    if held:
        return f"order {number} of row {row!r} is not ambiguous; give {numbers}"
    how = f"is {orders[-1].stage}" if orders else "was never ordered"
    return f"row {row!r} is not ambiguous: its job {how}"


def _refuse_known(state: State, settled: Order, task_id: str | None) -> None:
    """Refuse a task that another order is known to be: its cost would count twice."""
    for order in state:
        if task_id is not None and order.task_id == task_id and order != settled:
            raise UsageError(
                f"task {task_id} is order {order.order} of job {order.job_id} already; look for another one"
            )
