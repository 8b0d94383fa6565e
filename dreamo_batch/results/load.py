"""Reading run directories, also while they are in use: results, status, ledger, and rows with their attempts."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dreamo_batch import columns
from dreamo_batch.engine import journal, ledger
from dreamo_batch.engine.attempts import (
    NO_TERMS,
    SCHEMA,
    STATUS_OF,
    SUBMITTED,
    Stage,
    State,
    StoredAttempts,
    Terms,
    to_arrow,
    to_frame,
)
from dreamo_batch.engine.checkpoint import (
    NAME,
    read_frame,
    read_jobs,
    read_meta,
    read_outcomes,
    read_table_meta,
)
from dreamo_batch.engine.directory import SHARDS, UNREADABLE, RunDirectory
from dreamo_batch.errors import DirectoryError, LedgerDamaged, UsageError, logger_named
from dreamo_batch.jobs.cells import groupable, printable
from dreamo_batch.jobs.fields import as_frame, check_pandas
from dreamo_batch.jobs.tables import as_result
from dreamo_batch.money import money
from dreamo_batch.results import assembly
from dreamo_batch.results.assembly import folders_of, own_cells, read_inputs
from dreamo_batch.results.rating_log import with_ratings
from dreamo_batch.text import meant

if TYPE_CHECKING:
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
    run_dir : path, or iterable of paths
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
    check_pandas()
    return assembly.stacked([_load(existing(one), with_left=all) for one in as_paths(run_dir)])


def as_paths(source: RunDir | Iterable[RunDir]) -> list[RunDir]:
    """Return one or more run directories as a list without repeats."""
    if isinstance(source, str | os.PathLike):
        return [source]
    try:
        # Iterating over a frame yields its columns.
        several = [] if isinstance(source, pd.DataFrame) else list(source)
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
    with _reading(directory):
        stored = _stored(directory) if is_finished(directory) else None
        results = composed(directory, state) if stored is None else stored
        if with_left:
            attempts = ledger_frame(directory)
            is_in_table = attempts[columns.JOB_ID].isin(results[columns.JOB_ID])
            left = attempts[attempts[columns.ATTEMPT].notna() & ~is_in_table]
            results = assembly.with_left(results, left)
        return assembly.mark(results, directory)


def status(run_dir: RunDir | Iterable[RunDir]) -> dict[str, Any]:
    """Count the rows of run directories, and add up their money.

    Parameters
    ----------
    run_dir : path, or iterable of paths
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
    with _reading(directory):
        is_copy = ledger.is_copied(recovered, directory)
    state = recovered.state()
    return state if is_worked_on else _settled(state), is_copy


def joined(shards: Mapping[str, State], terms: Terms) -> State:
    """Return the attempts of all shards; the pictures are where they are seen from the whole directory."""
    whole, tables = State(terms=terms), [SCHEMA.empty_table()]
    for name, state in shards.items():
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
    with _reading(directory):
        return ledger.read(directory.path, names)


def _settled(state: State) -> State:
    for attempt in list(ledger.interrupted(state)):
        from dreamo_batch.engine.effects import interrupted  # loads requests, which is seldom needed here

        state.apply(interrupted(attempt, attempt.sent_at or time.time()))
    return state


def existing(run_dir: str | os.PathLike[str]) -> RunDirectory:
    """Return the run directory at a path; raise if there is none."""
    directory = RunDirectory(run_dir)
    with _reading(directory):
        is_there = directory.exists() or (directory.path.is_dir() and bool(journal.numbers(directory.path)))
    if not is_there:
        raise DirectoryError(f"No run directory at {directory.name}.")
    if directory.replica is not None and directory.replica.silence:
        logger.warning("%s", directory.replica.silence)
    return directory


@contextmanager
def _reading(directory: RunDirectory) -> Iterator[None]:
    """Say of a run directory that can't be read what to check."""
    try:
        yield
    except OSError as error:
        raise DirectoryError(
            f"Can't read {directory.path} ({error.strerror or error}). Check its permissions and the disk."
        ) from error


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
    run_dir : path
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


_SUBMITTED: Final = [str(stage) for stage in SUBMITTED]
# Statuses of rows whose latest attempt exists at the service, and the stage that attempt is in.
_STAGES: Final = {STATUS_OF[stage]: str(stage) for stage in sorted(SUBMITTED, reverse=True)}
# Columns of `History.rows` that no user's column can clash with.
LABEL: Final = columns.STORED_PREFIX + columns.ROW
DIRECTORY: Final = columns.STORED_PREFIX + columns.RUN_DIR
HOUR: Final = "hour"


@dataclass(frozen=True, slots=True)
class History:
    """Rows, every attempt for them, and the position of each attempt's row (-1 if it left the table)."""

    rows: pd.DataFrame
    attempts: pd.DataFrame
    places: np.ndarray


# A history is passed by what reads it once and uses it several times.
Directories: TypeAlias = RunDir | Iterable[RunDir] | History
Source: TypeAlias = pd.DataFrame | Directories


@dataclass(frozen=True, slots=True)
class Groups:
    """The keys of groups, and the number of the group of each row and of each attempt."""

    keys: pd.DataFrame
    of_rows: np.ndarray
    of_attempts: np.ndarray


def attempts(run_dir: Directories) -> pd.DataFrame:
    """List every attempt, failed ones included, in the order they were sent.

    Parameters
    ----------
    run_dir : path, or iterable of paths
        One or more run directories.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.ATTEMPTS_MADE` on a RangeIndex; times in UTC, cost in USD both as exact
        text and as a float.

    Raises
    ------
    UsageError
        If `run_dir` is not a path.
    DirectoryError
        If a directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.attempts(run_dir)[["attempt", "stage", "cost"]].to_dict("records")[0]
    {'attempt': 1, 'stage': 'completed', 'cost': '0.004251183'}
    """
    history = read_directories(run_dir)
    attempts, rows = history.attempts, history.rows
    positions = rows.groupby(DIRECTORY, sort=False).cumcount().astype(columns.INT)
    labels = pd.DataFrame({columns.ROW: rows[LABEL], columns.POSITION: positions})
    table = pd.concat([attempts, labels.reindex(history.places).set_axis(attempts.index)], axis=1)
    table[columns.COST_USD] = pd.to_numeric(attempts[columns.COST])
    table = table[list(columns.ATTEMPTS_MADE)].sort_values(columns.SENT_AT, kind="stable", ignore_index=True)
    return table.astype(columns.dtypes(columns.ATTEMPTS_MADE))


def read_history(source: Source) -> History:
    """Read the history from results or from run directories."""
    source = as_frame(source)
    return from_results(source) if isinstance(source, pd.DataFrame) else read_directories(source)


def read_directories(source: Directories) -> History:
    """Read the history of one or more run directories."""
    if isinstance(source, History):
        return source
    return concatenated({os.fspath(run_dir): _read_directory(run_dir) for run_dir in as_paths(source)})


def _read_directory(run_dir: RunDir) -> History:
    """Read one directory, with the sizes and rephraser settings that were sent where the table has none."""
    results, directory = load(run_dir), RunDirectory(run_dir)
    decided = read_jobs(directory.jobs).decided
    if len(decided) == len(results):
        for name in (columns.WIDTH, columns.HEIGHT, columns.USE_REPHRASER):
            results[columns.STORED_PREFIX + name] = decided[name].array
            if name not in results.columns:
                results[name] = decided[name].array
    return from_ledger(results, to_frame(to_arrow(read_state(directory))))


def from_ledger(results: pd.DataFrame, attempts: pd.DataFrame) -> History:
    """Match the attempts of a ledger to the results of its table."""
    submitted = attempts[attempts[columns.STAGE].isin(_SUBMITTED)].reset_index(drop=True)
    submitted[columns.ATTEMPTS] = pd.Series(1, index=submitted.index, dtype=columns.INT)
    rows = labelled(results)
    firsts = rows.loc[rows[columns.DUPLICATE_OF].isna() & rows[columns.JOB_ID].notna(), columns.JOB_ID]
    found = pd.Index(firsts).get_indexer(submitted[columns.JOB_ID])
    places = np.append(firsts.index.to_numpy(), -1)[found]  # those not found, at -1, take the last
    return History(rows, submitted, places)


def from_results(results: pd.DataFrame) -> History:
    """Read the attempts off results alone: those of a job are one line, with the sum of their costs.

    Where a merge or concat repeated rows, the first of a job counts: it was paid for once.
    """
    results = read_results(results)
    if columns.RUN_DIR in results and results[columns.RUN_DIR].notna().any():
        results = with_ratings(results, folders_of(results))
    rows = labelled(results)
    if columns.RUN_DIR not in rows:
        rows[columns.RUN_DIR] = pd.Series(None, index=rows.index, dtype=columns.STR)
    is_submitted = (rows[columns.ATTEMPTS].fillna(0) > 0) & rows[columns.DUPLICATE_OF].isna()
    named = rows[is_submitted & rows[columns.RUN_DIR].notna()]
    is_submitted[named.index[named.duplicated([columns.RUN_DIR, columns.JOB_ID])]] = False
    attempts = rows.loc[is_submitted, list(columns.OUTPUTS)].rename(
        columns={columns.SUBMITTED_AT: columns.SENT_AT, columns.ATTEMPTS: columns.ATTEMPT}
    )
    attempts[columns.ATTEMPTS] = attempts[columns.ATTEMPT]
    attempts[columns.STAGE] = attempts[columns.STATUS].astype(columns.STR).map(_STAGES)
    attempts = attempts.reindex(columns=[*columns.LEDGER, columns.ATTEMPTS])
    attempts = attempts.astype(columns.dtypes(columns.LEDGER) | {columns.ATTEMPTS: columns.INT})
    if len(rows[columns.RUN_DIR].dropna().unique()) > 1:  # as from `concatenated`
        rows = rows.assign(**{DIRECTORY: rows[columns.RUN_DIR]})
        attempts[columns.RUN_DIR] = rows.loc[is_submitted, columns.RUN_DIR]
    return History(rows, attempts.reset_index(drop=True), np.flatnonzero(is_submitted.to_numpy()))


def read_results(source: pd.DataFrame | RunDir | Iterable[RunDir]) -> pd.DataFrame:
    """Return results, loaded from run directories if necessary; raise for other tables."""
    source = as_frame(source)
    results = source if isinstance(source, pd.DataFrame) else load(source)
    absent = [name for name in columns.OUTPUTS if name not in results.columns and name != columns.RUN_DIR]
    if absent:
        raise UsageError(
            f"Not a results table (no {absent[0]!r} column). Pass what run() or load() returned."
        )
    return as_result(results)


def concatenated(histories: Mapping[str, History]) -> History:
    """Concatenate the histories of several directories."""
    starts = np.cumsum([0, *(len(history.rows) for history in histories.values())])
    rows = [h.rows.assign(**{DIRECTORY: name}) for name, h in histories.items()]
    attempts = [h.attempts.assign(**{columns.RUN_DIR: name}) for name, h in histories.items()]
    places = [
        np.where(h.places < 0, -1, h.places + start)
        for h, start in zip(histories.values(), starts, strict=False)
    ]
    return History(
        pd.concat(rows, ignore_index=True), pd.concat(attempts, ignore_index=True), np.concatenate(places)
    )


def labelled(results: pd.DataFrame) -> pd.DataFrame:
    """Return results on a RangeIndex, with their labels as text in the column `LABEL`."""
    labels = pd.Series([printable(str(label)) for label in results.index], dtype=columns.STR)
    return results.reset_index(drop=True).assign(**{LABEL: labels})


def group(history: History, by: str | Sequence[str] | None, *, reserved: Collection[str] = ()) -> Groups:
    """Group rows and attempts by columns, the size, or the time; None: all are one group."""
    names = columns.listed(by)
    rows, attempts = pd.DataFrame(index=history.rows.index), pd.DataFrame(index=history.attempts.index)
    for name in names:
        column, of_rows, of_attempts = _key(history, name)
        if column in reserved:
            raise UsageError(f"by={name!r}: the result has a column {name!r}, too. Rename yours first.")
        rows[column], attempts[column] = of_rows, of_attempts
    if not names:
        whole = pd.DataFrame(index=pd.RangeIndex(1))
        return Groups(whole, np.zeros(len(rows), dtype=int), np.zeros(len(attempts), dtype=int))
    try:
        return grouped(rows, attempts)
    # Cells that can't be compared, such as lists.
    except (TypeError, NotImplementedError, UnicodeError) as error:
        raise UsageError(f"Can't group by {', '.join(map(str, rows.columns))}: {error}.") from None


def grouped(rows: pd.DataFrame, attempts: pd.DataFrame, *, sort: bool = True) -> Groups:
    """Group rows and attempts by all their columns, in the order of these, or else of the rows."""
    both = pd.concat([rows, attempts], ignore_index=True)
    of_both = groupable(both).groupby(list(both.columns), dropna=False, observed=True, sort=sort)
    numbers = of_both.ngroup().to_numpy()
    keys = both.iloc[np.unique(numbers, return_index=True)[1]].reset_index(drop=True)
    return Groups(keys, numbers[: len(rows)], numbers[len(rows) :])


def _key(history: History, name: str) -> tuple[str, pd.Series, pd.Series]:
    """Return the name of a part of the key, its values for rows, and for attempts."""
    rows, attempts = history.rows, history.attempts
    if name == columns.RUN_DIR and DIRECTORY in rows.columns:
        return name, rows[DIRECTORY], attempts[name]
    if name in rows.columns or name == columns.SIZE:
        values = rows[name] if name in rows.columns else _size(rows)
        return name, values, _of_attempts(values, history, name)
    times = [rows[columns.SUBMITTED_AT], attempts[columns.SENT_AT]]
    if name == HOUR:
        of_rows, of_attempts = (time.dt.hour.astype(columns.INT) for time in times)
        return name, of_rows, of_attempts
    length = as_length(name)
    if length is None:
        known = [own for own in rows.columns if not str(own).startswith(columns.STORED_PREFIX)]
        raise UsageError(
            f'by={name!r} is neither a column nor a length of time such as "1h"; {meant(name, known)}'
        )
    of_rows, of_attempts = (time.dt.floor(length) for time in times)
    return columns.SUBMITTED_AT, of_rows, of_attempts


def as_length(text: object) -> pd.Timedelta | None:
    """Read a length of time in whole microseconds, as times are kept; None if it is none above zero."""
    try:
        length = pd.Timedelta(text) if isinstance(text, str) else pd.Timedelta(0)
    except ValueError:
        return None
    return length if length > pd.Timedelta(0) and not length.nanoseconds else None


def _of_attempts(values: pd.Series, history: History, name: str) -> pd.Series:
    is_left = pd.Series(history.places < 0, index=history.attempts.index)
    if not is_left.any():
        return values.reindex(history.places).set_axis(is_left.index)
    taken = values.astype(object).reindex(history.places)  # -1 is no label of a RangeIndex, so it is missing
    taken = taken.set_axis(is_left.index)
    known = [_submitted_cell(text, name) for text in history.attempts.loc[is_left, columns.ATTEMPT_INPUTS]]
    left = pd.Series(known, index=taken.index[is_left], dtype=object)
    return taken.where(~is_left, left.reindex(taken.index)).infer_objects()


def _submitted_cell(text: object, name: str) -> object:
    """Return what a row that left the table held when it was submitted."""
    inputs = read_inputs(text)
    if name == columns.SIZE and inputs and not inputs["columns"].get(name):
        return f"{inputs[columns.WIDTH]}x{inputs[columns.HEIGHT]}"
    return own_cells(inputs).get(name, inputs.get(name)) if inputs else None


def _size(rows: pd.DataFrame) -> pd.Series:
    """Return width x height as submitted where the ledger knows, else as received."""
    names = [columns.STORED_PREFIX + name for name in (columns.WIDTH, columns.HEIGHT)]
    if names[0] not in rows.columns:
        names = [columns.OUTPUT_WIDTH, columns.OUTPUT_HEIGHT]
    return columns.sizes(rows, *names)
