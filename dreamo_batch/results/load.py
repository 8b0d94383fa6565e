"""Reading run directories, also while they are in use: results, the status, and the ledger as a table."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dreamo_batch import columns
from dreamo_batch.engine import journal, ledger
from dreamo_batch.engine.attempt_table import SCHEMA, StoredAttempts, to_arrow, to_frame
from dreamo_batch.engine.attempts import NO_TERMS, Stage, State, Terms
from dreamo_batch.engine.checkpoint import (
    NAME,
    read_frame,
    read_meta,
    read_outcomes,
    read_table_meta,
)
from dreamo_batch.engine.directory import SHARDS, UNREADABLE, RunDirectory
from dreamo_batch.errors import DirectoryError, LedgerDamaged, UsageError
from dreamo_batch.logs import logger_named
from dreamo_batch.money import money
from dreamo_batch.results import assembly

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


logger = logger_named(__name__)

_SHARD: Final = pa.field("shard", pa.string())
_BY_SHARD: Final = ds.partitioning(pa.schema([_SHARD]))
# What results need; the long texts are left out.
_NEEDED: Final = [name for name in SCHEMA.names if name not in (columns.ATTEMPT_INPUTS, columns.METADATA)]
RunDir = str | os.PathLike[str]
"""One run directory."""


def load(run_dir: RunDir | Iterable[RunDir], *, all: bool = False) -> pd.DataFrame:  # noqa: A002 - what it is
    """Read the results of one or more run directories, at any time, from any process, also while they are in use.

    Parameters
    ----------
    run_dir : path-like, or iterable of path-like
        One or more run directories.
    all : bool
        Add a row per job that was submitted for rows that have left the table, with their columns at that time; the
        column `in_table` marks which is which.

    Returns
    -------
    pandas.DataFrame
        The table of the last call with the columns of `dreamo_batch.columns.OUTPUTS`, as `run` returns it. Several
        directories are concatenated; the column `run_dir` names each row's.

    Raises
    ------
    UsageError
        If `run_dir` is not a path.
    DirectoryError
        If there is no run directory, or it can't be read.

    Examples
    --------
    >>> load("runs/none")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: No run directory at ...runs/none.
    """
    return assembly.stacked([_load(existing(one), with_left=all) for one in as_paths(run_dir)])


def as_paths(source: RunDir | Iterable[RunDir]) -> list[RunDir]:
    """Return one or more run directories as a list without repeats."""
    if isinstance(source, str | os.PathLike):
        return [source]
    try:
        several = (
            [] if isinstance(source, pd.DataFrame) else list(source)
        )  # iterating over a frame yields its columns
    except TypeError:
        several = []
    if not several or not all(isinstance(path, str | os.PathLike) for path in several):
        raise UsageError(
            f"Expected a run directory, or several, got {type(source).__name__}. Pass the path passed to run()."
        )
    by_place: dict[Path, RunDir] = {}
    for path in several:
        by_place.setdefault(RunDirectory(path).path.resolve(), path)
    return list(by_place.values())


def _load(directory: RunDirectory, state: State | None = None, *, with_left: bool = False) -> pd.DataFrame:
    try:
        stored = _stored(directory) if is_finished(directory) else None
        results = composed(directory, state) if stored is None else stored
        if with_left:
            attempts = ledger_frame(directory)
            is_in_table = attempts[columns.JOB_ID].isin(results[columns.JOB_ID])
            left = attempts[attempts[columns.ATTEMPT].notna() & ~is_in_table]
            results = assembly.with_left(results, left)
        return assembly.mark(results, directory)
    except OSError as error:
        raise _unreadable(directory, error) from error


def status(run_dir: RunDir | Iterable[RunDir]) -> dict[str, Any]:
    """Count the rows of run directories, and add up their money.

    Parameters
    ----------
    run_dir : path-like, or iterable of path-like
        One or more run directories.

    Returns
    -------
    dict
        ``rows``, ``by_status``, ``attempts``, ``spent_usd``, ``reserved_usd``, ``possibly_billed_usd``,
        ``max_cost_usd``. Money is exact decimal text and covers every attempt of a directory; ``possibly_billed_usd``
        is None if an attempt without a known price may have been billed, ``max_cost_usd`` if a directory has no cap.

    Raises
    ------
    UsageError
        If `run_dir` is not a path.
    DirectoryError
        If there is no run directory, or it can't be read.

    Examples
    --------
    >>> status("runs/none")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: No run directory at ...runs/none.
    """
    summaries = []
    for one in as_paths(run_dir):
        directory = existing(one)
        state = read_state(directory)
        summaries.append(assembly.summarise(_load(directory, state), state, money(state.terms.cap)))
    return assembly.added(summaries)


def stored_terms(directory: RunDirectory) -> Terms:
    """Return what may be spent in a run directory, as stored there; no limit if there is no directory yet."""
    if directory.is_sharded:
        manifest = directory.read_manifest()
        return NO_TERMS if manifest is None else Terms(cap=manifest.cap, budget=manifest.budget)
    return _recovered(directory, ()).terms if directory.path.is_dir() else NO_TERMS


def read_state(directory: RunDirectory, names: Sequence[str] = SCHEMA.names) -> State:
    """Fold the ledger, or some of its columns; attempts that were being sent when the process ended are ambiguous."""
    return read_ledger(directory, names)[0]


def read_ledger(directory: RunDirectory, names: Sequence[str] = SCHEMA.names) -> tuple[State, bool]:
    """Fold the ledger as `read_state` does, and return whether the directory is a copy of the one it was written in."""
    if not directory.path.is_dir():  # it isn't made yet
        return State(), False
    if directory.is_sharded:
        shards = {name: read_ledger(shard, names) for name, shard in directory.shards().items()}
        whole = joined({name: state for name, (state, _) in shards.items()}, stored_terms(directory))
        return whole, any(is_copy for _, is_copy in shards.values())
    is_worked_on = directory.is_locked()
    recovered = _recovered(directory, names)
    try:
        is_copy = ledger.is_copied(recovered, directory)
    except OSError as error:
        raise _unreadable(directory, error) from error
    state = recovered.state()
    return state if is_worked_on else _settled(state), is_copy


def joined(shards: Mapping[str, State], terms: Terms) -> State:
    """Return the attempts of all shards; the pictures are where they are seen from the whole directory."""
    whole, tables = State(terms=terms), [SCHEMA.empty_table()]
    for name, state in shards.items():
        if isinstance(state.stored, StoredAttempts):
            table, number = state.stored.table, SCHEMA.get_field_index(columns.OUTPUT_PATH)
            paths = pc.binary_join_element_wise(name, table[columns.OUTPUT_PATH], "/")
            tables.append(table.set_column(number, SCHEMA.field(number), paths))
        for job_id, attempts in state.changed.items():
            whole.changed[job_id] = tuple(
                one if one.output_path is None else replace(one, output_path=f"{name}/{one.output_path}")
                for one in attempts
            )
    whole.stored = StoredAttempts(pa.concat_tables(tables))
    return whole


def _recovered(directory: RunDirectory, names: Sequence[str] = SCHEMA.names) -> ledger.Recovered:
    try:
        return ledger.read(directory.path, names)
    except OSError as error:
        raise _unreadable(directory, error) from error


def _settled(state: State) -> State:
    for attempt in list(ledger.interrupted(state)):
        from dreamo_batch.engine.effects import interrupted  # loads requests, which is seldom needed here

        state.apply(interrupted(attempt, attempt.sent_at or time.time()))
    return state


def existing(run_dir: str | os.PathLike[str]) -> RunDirectory:
    """Return the run directory at a path; raise if there is none."""
    directory = RunDirectory(run_dir)
    try:
        is_there = directory.exists() or (directory.path.is_dir() and bool(journal.numbers(directory.path)))
    except OSError as error:
        raise _unreadable(directory, error) from error
    if not is_there:
        raise DirectoryError(f"No run directory at {directory.name}.")
    if directory.replica is not None and directory.replica.silence:
        logger.warning("%s", directory.replica.silence)
    return directory


def _unreadable(directory: RunDirectory, error: OSError) -> DirectoryError:
    return DirectoryError(
        f"Can't read {directory.path} ({error.strerror or error}). Check its permissions and the disk."
    )


def is_finished(directory: RunDirectory) -> bool:
    """Return whether `results.parquet` holds all that the ledger knows of the table of the last call."""
    try:
        results, jobs = read_table_meta(directory.results), read_table_meta(directory.jobs)
        meta = read_meta(directory.path / NAME)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    newest = max(journal.numbers(directory.path), default=0)
    return bool(
        results["table_id"] == jobs["table_id"] and results["covers"] == meta.covers and newest <= meta.covers
    )


def _stored(directory: RunDirectory) -> pd.DataFrame | None:
    """Read the stored results; None if they are damaged, as the ledger knows the same."""
    try:
        results, _ = read_frame(directory.results)
    except DirectoryError as error:
        logger.warning("%s", error)
        return None
    own = [name for name in results.columns if name not in columns.OUTPUTS]
    return results.reindex(columns=[*own, *columns.OUTPUTS]).astype(assembly.output_dtypes())


def composed(directory: RunDirectory, state: State | None = None) -> pd.DataFrame:
    """Assemble the results from the table of the last call and the ledger, which is read unless it was."""
    user, rows = read_outcomes(directory.jobs)
    try:
        state = read_state(directory, _NEEDED) if state is None else state
    except LedgerDamaged:  # an event told twice is only known for the same by every column
        state = read_state(directory)
    return assembly.assemble(user, rows, to_arrow(state))


def pictures_left(run_dirs: Iterable[RunDir], results: pd.DataFrame) -> int:
    """Count the saved pictures of rows that have left the tables of run directories."""
    n = 0
    for run_dir in run_dirs:
        attempts = ledger_frame(existing(run_dir))
        saved = attempts.loc[attempts[columns.OUTPUT_PATH].notna(), columns.JOB_ID]
        here = results.loc[results[columns.RUN_DIR] == os.fspath(run_dir), columns.JOB_ID]
        n += int((~saved.isin(here)).sum())
    return n


def ledger_frame(directory: RunDirectory) -> pd.DataFrame:
    """Return a row per attempt, as `read_state` has them."""
    return to_frame(to_arrow(read_state(directory)))


def scan(run_dir: RunDir) -> ds.Dataset:
    """Open every attempt of a run directory as a dataset, for DuckDB, Polars, Dask or Arrow itself; reads little yet.

    Parameters
    ----------
    run_dir : path-like
        The run directory.

    Returns
    -------
    pyarrow.dataset.Dataset
        Columns of `dreamo_batch.columns.LEDGER`, a row per attempt, and one of stage ``pending`` per job without any.
        From a directory of shards also `shard`, such as ``"0a"``: `output_path` is relative to ``shards/0a``.

    Raises
    ------
    DirectoryError
        If there is no run directory, or it can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.scan(run_dir).to_table(columns=["stage", "cost"]).to_pylist()[0]
    {'stage': 'completed', 'cost': '0.004251183'}
    """
    directory = existing(run_dir)
    is_sharded = directory.is_sharded
    several = list(directory.shards().values()) if is_sharded else [directory]
    schema = SCHEMA.append(_SHARD) if is_sharded else SCHEMA
    closed = [one for one in several if _is_settled(one)]
    found = [ds.dataset(_as_table(one, schema)) for one in several if one not in closed]
    if closed or not found:
        paths = [str(one.path / NAME) for one in closed]
        base = str(directory.path / SHARDS)
        found.append(ds.dataset(paths, schema, "parquet", partitioning=_BY_SHARD, partition_base_dir=base))
    return ds.dataset(found)


def _as_table(directory: RunDirectory, schema: pa.Schema) -> pa.Table:
    """Read a ledger, and say which shard it is if the schema asks."""
    table = to_arrow(read_state(directory))
    for field in list(schema)[len(SCHEMA) :]:
        table = table.append_column(field, pa.array([directory.path.name] * len(table), field.type))
    return table


def _is_settled(directory: RunDirectory) -> bool:
    """Whether the checkpoint of a ledger holds all that there is to know."""
    try:
        meta = read_meta(directory.path / NAME)
        stages = pq.read_table(directory.path / NAME, columns=[columns.STAGE])[columns.STAGE]
    except UNREADABLE:
        return False
    is_behind = max(journal.numbers(directory.path), default=0) > meta.covers
    is_sending = pc.any(pc.equal(stages, str(Stage.SENDING))).as_py()
    return not (is_behind or is_sending or journal.read_strays(directory.path))
