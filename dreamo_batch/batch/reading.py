"""`load`, `status` and `verify`: what a run directory says, read without stopping anybody."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import DirectoryError
from dreamo_batch.execution import archive, checkpoint, journal, ledger, outcomes, stored
from dreamo_batch.execution.budget import money
from dreamo_batch.execution.directory import RunDirectory
from dreamo_batch.execution.state import Stage, State
from dreamo_batch.results import frame, summary

if TYPE_CHECKING:
    import os


def load(run_dir: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the results of a run directory, at any time, from any process, also while it is worked on.

    Parameters
    ----------
    run_dir : path-like
        The run directory.

    Returns
    -------
    pandas.DataFrame
        The table of the last call with the columns of `dreamo_batch.columns.OUTPUTS`, as from `run`.

    Raises
    ------
    DirectoryError
        If it is not a run directory, or can't be read.

    Examples
    --------
    >>> load("runs/none")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: ...runs/none is not a run directory: there is nothing.
    """
    directory = _existing(run_dir)
    return _finished(directory) if _is_finished(directory) else _composed(directory)


def status(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Count rows and add up money of a run directory.

    Parameters
    ----------
    run_dir : path-like
        The run directory.

    Returns
    -------
    dict
        ``rows``, ``by_status``, ``orders``, ``spent_usd``, ``reserved_usd``, ``possibly_billed_usd``,
        ``max_cost_usd``; money is exact decimal text and covers every order of the directory.

    Raises
    ------
    DirectoryError
        If it is not a run directory, or can't be read.

    Examples
    --------
    >>> status("runs/none")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: ...runs/none is not a run directory: there is nothing.
    """
    directory = _existing(run_dir)
    manifest = directory.read_manifest()
    cap = money(manifest.max_cost) if manifest else None
    return summary.summarise(load(run_dir), read_state(directory), cap)


def verify(run_dir: str | os.PathLike[str]) -> list[str]:
    """Check a run directory: ledger, counts, and the bytes of every picture.

    Parameters
    ----------
    run_dir : path-like
        The run directory.

    Returns
    -------
    list of str
        One sentence per damage; empty if there is none.

    Examples
    --------
    >>> verify("runs/none")
    ['...runs/none is not a run directory: there is nothing.']
    """
    try:
        directory = _existing(run_dir)
        recovered = ledger.read(directory.path)
        state = recovered.state()
        results = load(run_dir)
    except DirectoryError as error:
        return [str(error)]
    return [*recovered.warnings, *_pictures(directory, state), *_rows(directory, results)]


def read_state(directory: RunDirectory) -> State:
    """Fold the ledger; creates nobody is waiting for any more are ambiguous.

    Raises
    ------
    LedgerDamaged
        If it can't be read.
    """
    is_worked_on = directory.is_locked()
    state = ledger.read(directory.path).state()
    return state if is_worked_on else _settled(state)


def _settled(state: State) -> State:
    for order in ledger.interrupted(state):
        state.apply(outcomes.interrupted(order, order.sent_at or time.time()))
    return state


def _existing(run_dir: str | os.PathLike[str]) -> RunDirectory:
    directory = RunDirectory(run_dir)
    if not directory.exists():
        raise DirectoryError(f"{directory.path} is not a run directory: there is nothing.")
    return directory


def _is_finished(directory: RunDirectory) -> bool:
    """Whether `results.parquet` tells all that the ledger knows of the table of the last call."""
    try:
        results, jobs = stored.read_meta(directory.results), stored.read_meta(directory.jobs)
        meta = checkpoint.read_meta(directory.path / checkpoint.NAME)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    newest = max(journal.numbers(directory.path), default=0)
    return bool(
        results["table_id"] == jobs["table_id"] and results["covers"] == meta.covers and newest <= meta.covers
    )


def _finished(directory: RunDirectory) -> pd.DataFrame:
    results, _ = stored.read_frame(directory.results)
    return results.astype(frame.output_dtypes())


def _composed(directory: RunDirectory) -> pd.DataFrame:
    table = stored.read_jobs(directory.jobs)
    orders = _orders(directory)
    return frame.assemble(table.user, table.rows, orders)


def _orders(directory: RunDirectory) -> pd.DataFrame:
    """Lay the journals' few events over the checkpoint's many rows."""
    is_worked_on = directory.is_locked()
    recovered = ledger.read(directory.path)
    touched = {event.job_id for event in recovered.tail}
    if recovered.snapshot is None:
        state = recovered.state()
        return checkpoint.to_frame(checkpoint.to_arrow(state if is_worked_on else _settled(state)))
    base = checkpoint.to_frame(recovered.snapshot)
    is_stale = base[columns.JOB_ID].isin(touched)
    if not is_worked_on:
        is_stale |= base[columns.STAGE] == str(Stage.SENDING)
    if not is_stale.any() and not touched:
        return base
    state = checkpoint.to_state(recovered.snapshot.filter(is_stale.to_numpy()))
    for event in recovered.tail:
        state.apply(event)
    fresh = checkpoint.to_frame(checkpoint.to_arrow(state if is_worked_on else _settled(state)))
    return pd.concat([base[~is_stale], fresh], ignore_index=True)


def _pictures(directory: RunDirectory, state: State) -> list[str]:
    found = []
    for order in state:
        if order.output_path is None or order.output_sha256 is None:
            continue
        if not (directory.path / order.output_path).exists():
            found.append(f"{order.output_path} is missing; run again to fetch it once more")
        elif not archive.is_unaltered(directory.path, order.output_path, order.output_sha256):
            found.append(f"{order.output_path} is not the picture that was saved; delete it and run again")
    return found


def _rows(directory: RunDirectory, results: pd.DataFrame) -> list[str]:
    manifest = directory.read_manifest()
    if manifest is None:
        return ["run.json is missing or can't be read; the next run rebuilds it"]
    known = manifest.reconciliation.get("rows_in")
    if known is not None and known != len(results):
        return [f"run.json counted {known} rows, the table has {len(results)}"]
    return []
