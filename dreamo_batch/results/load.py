"""`load` and `status`: what a run directory says, read without stopping anybody."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine import effects, journal, ledger
from dreamo_batch.engine.attempts import Stage, State
from dreamo_batch.engine.budget import money
from dreamo_batch.engine.directory import (
    NAME,
    RunDirectory,
    is_same_place,
    read_frame,
    read_jobs,
    read_meta,
    read_table_meta,
    to_arrow,
    to_frame,
)
from dreamo_batch.errors import DirectoryError, UsageError
from dreamo_batch.results import frame

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal
    from pathlib import Path


logger = logging.getLogger(__name__)


RunDir = str | os.PathLike[str]
"""One run directory."""


def load(run_dir: RunDir | Iterable[RunDir], *, all: bool = False) -> pd.DataFrame:  # noqa: A002 - what it is
    """Read the results of one run directory or several, at any time, from any process, also while they are worked on.

    Parameters
    ----------
    run_dir : path-like, or iterable of path-like
        The run directory, or several.
    all : bool
        Add what was submitted for rows that later tables no longer had, one row per job, with the row's own columns
        as they were when it was submitted; the column `in_table` tells them apart.

    Returns
    -------
    pandas.DataFrame
        The table of the last call with the columns of `dreamo_batch.columns.OUTPUTS`, as from `run`; of several
        directories one table behind the other, told apart by the column `run_dir`.

    Raises
    ------
    UsageError
        If it is no path.
    DirectoryError
        If it is not a run directory, or can't be read.

    Examples
    --------
    >>> load("runs/none")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: ...runs/none is not a run directory: there is nothing.
    """
    return frame.stacked([_load_all(one) if all else _load(one) for one in as_paths(run_dir)])


def as_paths(source: RunDir | Iterable[RunDir]) -> list[RunDir]:
    """Give one run directory or several as a list, each once."""
    if isinstance(source, str | os.PathLike):
        return [source]
    try:
        several = [] if isinstance(source, pd.DataFrame) else list(source)  # a frame would give its columns
    except TypeError:
        several = []
    if not several or not all(isinstance(path, str | os.PathLike) for path in several):
        raise UsageError(
            f"Expected a run directory or several, got {type(source).__name__}. "
            "Pass the path that was given to run()."
            if isinstance(source, pd.DataFrame)
            else f"Expected a run directory, or several, or results; got {type(source).__name__}."
        )
    by_place: dict[Path, RunDir] = {}
    for path in several:
        by_place.setdefault(RunDirectory(path).path.resolve(), path)
    return list(by_place.values())


def _load(run_dir: RunDir) -> pd.DataFrame:
    directory = existing(run_dir)
    try:
        finished = _finished(directory) if is_finished(directory) else None
        return frame.mark(composed(directory) if finished is None else finished, directory)
    except OSError as error:
        raise _unreadable(directory, error) from error


def _load_all(run_dir: RunDir) -> pd.DataFrame:
    results, directory = _load(run_dir), existing(run_dir)
    attempts = ledger_frame(directory)
    is_left = attempts[columns.ATTEMPT].notna() & ~attempts[columns.JOB_ID].isin(results[columns.JOB_ID])
    return frame.mark(frame.with_left(results, attempts[is_left]), directory)


def status(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Count rows and add up money of a run directory.

    Parameters
    ----------
    run_dir : path-like
        The run directory.

    Returns
    -------
    dict
        ``rows``, ``by_status``, ``attempts``, ``spent_usd``, ``reserved_usd``, ``possibly_billed_usd``,
        ``max_cost_usd``; money is exact decimal text and covers every attempt of the directory. What is possibly
        billed is None if one such attempt was sent without a price.

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
    directory = existing(run_dir)
    state = read_state(directory)
    return frame.summarise(load(run_dir), state, money(state.cap))


def stored_cap(directory: RunDirectory) -> Decimal | None:
    """Give the cap that is in force in a run directory, USD; None if there is none, or no directory yet."""
    return money(read_state(directory).cap) if directory.path.is_dir() else None


def read_state(directory: RunDirectory) -> State:
    """Fold the ledger; creates nobody is waiting for any more are ambiguous."""
    return read_ledger(directory)[0]


def read_ledger(directory: RunDirectory) -> tuple[State, bool]:
    """Fold the ledger as `read_state` does, and say whether the directory is a copy of the one it was written in."""
    is_worked_on = directory.is_locked()
    try:
        recovered = ledger.read(directory.path)
        is_copy = recovered.meta is not None and not is_same_place(recovered.meta.place, directory.place())
    except OSError as error:
        raise _unreadable(directory, error) from error
    state = recovered.state()
    return state if is_worked_on else _settled(state), is_copy


def _settled(state: State) -> State:
    for attempt in ledger.interrupted(state):
        state.apply(effects.interrupted(attempt, attempt.sent_at or time.time()))
    return state


def existing(run_dir: str | os.PathLike[str]) -> RunDirectory:
    """Give the run directory at a path."""
    directory = RunDirectory(run_dir)
    try:
        is_there = directory.exists() or (directory.path.is_dir() and bool(journal.numbers(directory.path)))
    except OSError as error:
        raise _unreadable(directory, error) from error
    if not is_there:
        raise DirectoryError(f"{directory.path} is not a run directory: there is nothing.")
    return directory


def _unreadable(directory: RunDirectory, error: OSError) -> DirectoryError:
    return DirectoryError(
        f"{directory.path} can't be read ({error.strerror or error}). Mend its permissions, or the disk."
    )


def is_finished(directory: RunDirectory) -> bool:
    """Whether `results.parquet` tells all that the ledger knows of the table of the last call."""
    try:
        results, jobs = read_table_meta(directory.results), read_table_meta(directory.jobs)
        meta = read_meta(directory.path / NAME)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    newest = max(journal.numbers(directory.path), default=0)
    return bool(
        results["table_id"] == jobs["table_id"] and results["covers"] == meta.covers and newest <= meta.covers
    )


def _finished(directory: RunDirectory) -> pd.DataFrame | None:
    """Read the results as they stand; None where they are damaged, for the ledger knows the same."""
    try:
        results, _ = read_frame(directory.results)
    except DirectoryError as error:
        logger.warning("%s", error)
        return None
    own = [name for name in results.columns if name not in columns.OUTPUTS]
    # A directory of an older version lacks what came back only later.
    return results.reindex(columns=[*own, *columns.OUTPUTS]).astype(frame.output_dtypes())


def composed(directory: RunDirectory) -> pd.DataFrame:
    """Make the results anew from the table of the last call and the ledger."""
    table = read_jobs(directory.jobs)
    attempts = ledger_frame(directory)
    return frame.assemble(table.user, table.rows, attempts)


def pictures_left(run_dirs: Iterable[RunDir], results: pd.DataFrame) -> int:
    """Count the saved pictures of jobs that the tables of run directories have no row of any more."""
    n = 0
    for run_dir in run_dirs:
        attempts = ledger_frame(existing(run_dir))
        saved = attempts.loc[attempts[columns.OUTPUT_PATH].notna(), columns.JOB_ID]
        here = results.loc[results[columns.RUN_DIR] == os.fspath(run_dir), columns.JOB_ID]
        n += int((~saved.isin(here)).sum())
    return n


def ledger_frame(directory: RunDirectory) -> pd.DataFrame:
    """Lay the journals' few events over the checkpoint's many rows: a line per attempt, as `read_state` has them."""
    is_worked_on = directory.is_locked()
    recovered = ledger.read(directory.path)
    touched = {event.job_id for event in recovered.tail}
    touched |= {attempt.job_id for attempt in recovered.stray_attempts()}
    if recovered.snapshot is None:
        state = recovered.state()
        return to_frame(to_arrow(state if is_worked_on else _settled(state)))
    base = to_frame(recovered.snapshot)
    if not is_worked_on:
        touched |= set(base.loc[base[columns.STAGE] == str(Stage.SENDING), columns.JOB_ID])
    if not touched:
        return base
    # All attempts of a job or none: an attempt's number says how many came before it.
    is_stale = base[columns.JOB_ID].isin(touched)
    state = recovered.state(is_stale.to_numpy())
    fresh = to_frame(to_arrow(state if is_worked_on else _settled(state)))
    return pd.concat([base[~is_stale], fresh], ignore_index=True)
