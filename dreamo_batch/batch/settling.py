"""`resolve`: settle an ambiguous row by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreamo_batch import columns
from dreamo_batch.batch.call import close_session, results_of
from dreamo_batch.errors import DirectoryError, UsageError
from dreamo_batch.execution import outcomes, stored
from dreamo_batch.execution.clock import SystemClock
from dreamo_batch.execution.directory import RunDirectory
from dreamo_batch.execution.session import open_session
from dreamo_batch.execution.state import Order, Stage, State

if TYPE_CHECKING:
    import os

    import pandas as pd


def resolve(
    run_dir: str | os.PathLike[str], row: Any, *, task_id: str | None = None, not_sent: bool = False
) -> pd.DataFrame:
    """Settle an ambiguous row by hand, after a look at the service's own list or bill.

    Parameters
    ----------
    run_dir : path-like
        The run directory.
    row : label or str
        Index label of the row, or its ``job_id``.
    task_id : str, optional
        The order was taken, as this task; the next run asks for it.
    not_sent : bool
        The order was not taken; the next run orders it.

    Returns
    -------
    pandas.DataFrame
        The table as it stands now.

    Raises
    ------
    UsageError
        If the row is not in the table or not ambiguous, or not exactly one of the two answers is given.
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
    directory = RunDirectory(run_dir)
    table = stored.read_jobs(directory.jobs)
    manifest = directory.read_manifest()
    if manifest is None:
        raise DirectoryError(f"{directory.path} has no run.json; run the table again to rebuild it.")
    session = open_session(directory, manifest.service, SystemClock())
    try:
        order = _ambiguous(session.ledger.state, find_job(table, row), row)
        session.ledger.record([outcomes.resolved(order, SystemClock().wall(), task_id)])
        session.ledger.commit()
    finally:
        close_session(session)
    return results_of(table.user, table.prepared, session.ledger.state)


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


def _ambiguous(state: State, job_id: str, row: Any) -> Order:
    order = state.latest(job_id)
    if order is None or order.stage is not Stage.AMBIGUOUS:
        stage = "was never ordered" if order is None else f"is {order.stage}"
        raise UsageError(f"row {row!r} is not ambiguous: its job {job_id} {stage}")
    return order
