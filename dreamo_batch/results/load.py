"""Read run directories, also while they are in use: results, counts, and rows with their attempts."""

from __future__ import annotations

import datetime as dt
import json
import os
import time
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dreamo_batch import columns
from dreamo_batch.appearance import PALETTE
from dreamo_batch.arguments import as_names
from dreamo_batch.engine import checkpoint, journal, ledger
from dreamo_batch.engine.attempts import (
    ARROW,
    NO_TERMS,
    SCHEMA,
    STATUS_OF,
    SUBMITTED,
    WEIGHTS,
    Spending,
    Stage,
    State,
    StoredAttempts,
    Terms,
    highest_price,
    possibly_billed,
    to_arrow,
    to_frame,
)
from dreamo_batch.engine.directory import SHARDS, UNREADABLE, RunDirectory
from dreamo_batch.engine.store import folder_of, is_url
from dreamo_batch.errors import DirectoryError, LedgerDamaged, UsageError, logger_named, warn
from dreamo_batch.jobs.cells import groupable, is_missing, text_of, typed
from dreamo_batch.jobs.fields import Table, as_frame, check_pandas, rating_columns
from dreamo_batch.jobs.tables import as_result
from dreamo_batch.money import dollars, exact_text, money, total
from dreamo_batch.results.rating_log import with_ratings
from dreamo_batch.service.contract import MODEL
from dreamo_batch.text import counted, meant, option, quoted, same_call, spelled

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    return stacked([_load(existing(path), with_left=all) for path in as_paths(run_dir)])


def as_paths(source: RunDir | Iterable[RunDir]) -> list[RunDir]:
    """Return one or more run directories as a list without repeats."""
    if isinstance(source, str | os.PathLike):
        return [source]
    # Iterating over a frame yields its columns.
    several = list(source) if isinstance(source, Iterable) and not isinstance(source, pd.DataFrame) else []
    if not several or not all(isinstance(path, str | os.PathLike) for path in several):
        raise UsageError(
            f"Expected a run directory, or several, got {quoted(source)}. Pass the path passed to run()."
        )
    by_place: dict[Path, RunDir] = {}
    for path in several:
        by_place.setdefault(RunDirectory(path).path.resolve(), path)
    # A command that waits in the background, or was stopped while it did, leaves only its log.
    folders = {at: RunDirectory(at) for at in by_place}
    waiting = [at for at, folder in folders.items() if folder.log.is_file() and not journal.has_begun(folder)]
    if 0 < len(waiting) < len(by_place):
        warn(f"Left out {', '.join(map(str, waiting))}: no run has begun there yet.")
        return [path for place, path in by_place.items() if place not in waiting]
    return list(by_place.values())


def _load(directory: RunDirectory, state: State | None = None, *, with_left: bool = False) -> pd.DataFrame:
    with ledger.reading(directory):
        stored = _stored(directory) if is_finished(directory) else None
        results = composed(directory, state) if stored is None else stored
        if with_left:
            attempts = ledger_frame(directory)
            is_in_table = attempts[columns.JOB_ID].isin(results[columns.JOB_ID])
            left = attempts[attempts[columns.ATTEMPT].notna() & ~is_in_table]
            results = with_jobs_left(results, left)
        return mark(results, directory)


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
    for path in as_paths(run_dir):
        directory = existing(path)
        state = read_state(directory)
        summaries.append(summarise(_load(directory, state), state, money(state.terms.cap)))
    return added(summaries)


def stored_terms(directory: RunDirectory) -> Terms:
    """Return what may be spent in a run directory, as stored there; no limit if there is no directory yet."""
    if directory.is_sharded:
        manifest = directory.read_manifest()
        return NO_TERMS if manifest is None else Terms(cap=manifest.cap, budget=manifest.budget)
    with ledger.reading(directory):
        return ledger.read(directory.path, ()).terms if directory.path.is_dir() else NO_TERMS


def read_state(directory: RunDirectory, names: Sequence[str] = SCHEMA.names) -> State:
    """Fold the ledger, or some of its columns; attempts on the wire when the process ended are ambiguous."""
    return read_ledger(directory, names)[0]


def read_ledger(directory: RunDirectory, names: Sequence[str] = SCHEMA.names) -> tuple[State, bool]:
    """Fold the ledger as `read_state` does, and return whether the directory is a copy of the one it was written in."""
    if not directory.path.is_dir():  # it isn't made yet
        return State(), False
    if directory.is_sharded:
        shards = {name: read_ledger(shard, names) for name, shard in directory.shards().items()}
        whole = joined({name: state for name, (state, _) in shards.items()}, stored_terms(directory))
        return whole, any(is_copy for _, is_copy in shards.values())
    is_live = directory.is_locked()
    with ledger.reading(directory):
        recovered = ledger.read(directory.path, names)
        is_copy = ledger.is_copied(recovered, directory)
    state = recovered.state()
    return state if is_live else _settled(state), is_copy


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


def _settled(state: State) -> State:
    for attempt in list(ledger.interrupted(state)):
        from dreamo_batch.engine.effects import interrupted  # loads requests, which is seldom needed here

        state.apply(interrupted(attempt, attempt.sent_at or time.time()))
    return state


def existing(run_dir: str | os.PathLike[str]) -> RunDirectory:
    """Return the run directory at a path; raise if there is none."""
    directory = RunDirectory(run_dir)
    with ledger.reading(directory):
        is_there = journal.has_begun(directory)
    if not is_there:
        log = f" No run has begun there yet; see {directory.log}." if directory.log.is_file() else ""
        raise DirectoryError(f"No run directory at {directory.name}.{log}")
    if directory.replica is not None and directory.replica.silence:
        logger.warning("%s", directory.replica.silence)
    return directory


def is_finished(directory: RunDirectory) -> bool:
    """Return whether `results.parquet` holds all that the ledger knows of the table of the last call."""
    try:
        results, jobs = map(checkpoint.read_table_meta, (directory.results, directory.jobs))
        meta = checkpoint.read_meta(directory.path / checkpoint.NAME)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    newest = max(journal.numbers(directory.path), default=0)
    return bool(
        results["table_id"] == jobs["table_id"] and results["covers"] == meta.covers and newest <= meta.covers
    )


def _stored(directory: RunDirectory) -> pd.DataFrame | None:
    """Read the stored results; None if they are damaged, as the ledger knows the same."""
    try:
        results, _ = checkpoint.read_frame(directory.results)
    except DirectoryError as error:
        logger.warning("%s", error)
        return None
    own = [name for name in results.columns if name not in columns.OUTPUTS]
    return columns.typed(results.reindex(columns=[*own, *columns.OUTPUTS]), columns.OUTPUTS)


def composed(directory: RunDirectory, state: State | None = None) -> pd.DataFrame:
    """Assemble the results from the table of the last call and the ledger, which is read unless it was."""
    user, rows = checkpoint.read_outcomes(directory.jobs)
    try:
        state = read_state(directory, _NEEDED) if state is None else state
    except LedgerDamaged:  # only all columns together show that an event is a repetition
        state = read_state(directory)
    return assemble(user, rows, to_arrow(state))


def decided_for(results: pd.DataFrame, folders: Sequence[Path], names: Iterable[str]) -> pd.DataFrame:
    """Return what was decided for the job of each row, by position; missing where its directory doesn't say."""
    known = [
        checkpoint.read_distinct_jobs(RunDirectory(folder).jobs).set_index(columns.JOB_ID)[list(names)]
        for folder in dict.fromkeys(folders)
    ]
    if not known:
        return pd.DataFrame(columns=list(names))
    numbers = pd.factorize(np.array(folders, dtype=object))[0][: len(results)]
    keys = pd.MultiIndex.from_arrays([numbers, results[columns.JOB_ID]])
    return pd.concat(known, keys=range(len(known))).reindex(keys).reset_index(drop=True)


def pictures_left(run_dirs: Iterable[RunDir], results: pd.DataFrame) -> int:
    """Count the saved pictures of rows that have left the tables of run directories."""
    n = 0
    for run_dir in run_dirs:
        attempts = ledger_frame(existing(run_dir))
        saved = attempts.loc[attempts[columns.OUTPUT_PATH].notna(), columns.JOB_ID]
        current = results.loc[results[columns.RUN_DIR] == os.fspath(run_dir), columns.JOB_ID]
        n += int((~saved.isin(current)).sum())
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
    closed = [shard for shard in several if _is_settled(shard)]
    found = [ds.dataset(_as_table(shard, schema)) for shard in several if shard not in closed]
    if closed or not found:
        paths = [str(shard.path / checkpoint.NAME) for shard in closed]
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
        meta = checkpoint.read_meta(directory.path / checkpoint.NAME)
        stages = pq.read_table(directory.path / checkpoint.NAME, columns=[columns.STAGE])[columns.STAGE]
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
Source: TypeAlias = Table | Directories


class Groups(NamedTuple):
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
    return columns.typed(table, columns.ATTEMPTS_MADE)


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
    decided = checkpoint.read_jobs(directory.jobs).decided
    if len(decided) == len(results):
        for name in (columns.WIDTH, columns.HEIGHT, columns.USE_REPHRASER, columns.MODEL):
            results[columns.STORED_PREFIX + name] = decided[name].array
            if name not in results.columns:
                results[name] = decided[name].array
    attempts = ledger_frame(directory)
    if rating_columns(results):
        attempts = with_ratings(attempts, [directory.path] * len(attempts))
    return from_ledger(results, attempts)


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
        results = with_ratings(results, places_of(results[[columns.RUN_DIR]]))
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
    attempts = columns.typed(attempts, columns.LEDGER | {columns.ATTEMPTS: columns.INT})
    if len(rows[columns.RUN_DIR].dropna().unique()) > 1:  # as from `concatenated`
        rows = rows.assign(**{DIRECTORY: rows[columns.RUN_DIR]})
        attempts[columns.RUN_DIR] = rows.loc[is_submitted, columns.RUN_DIR]
    return History(rows, attempts.reset_index(drop=True), np.flatnonzero(is_submitted.to_numpy()))


def read_results(source: Source, *needed: str) -> pd.DataFrame:
    """Return results, loaded from run directories if necessary; raise for other tables."""
    source = as_frame(source)
    results = source if isinstance(source, pd.DataFrame) else load(source)
    check_results(results, *(name for name in columns.OUTPUTS if name != columns.RUN_DIR), *needed)
    return as_result(results)


def check_results(table: Any, *needed: str) -> None:
    """Raise unless it is a table with certain columns, and no name has two."""
    own = pd.Index(getattr(table, "columns", []))
    if absent := [name for name in needed if name not in own]:
        raise UsageError(
            f"Not a results table (no {absent[0]!r} column). Pass what run() or load() returned, or rows of it, "
            "such as done.loc[ranked.index]."
        )
    if not own.is_unique:
        raise UsageError(f"Two columns are named {own[own.duplicated()][0]!r}. Rename or drop one.")


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
    labels = pd.Series([text_of(label) for label in results.index], dtype=columns.STR)
    return results.reset_index(drop=True).assign(**{LABEL: labels})


def group(history: History, by: Any, argument: str = "by", *, reserved: Collection[str] = ()) -> Groups:
    """Group rows and attempts by columns, the size, or the time; None: all are one group."""
    names = as_names(argument, by)
    rows, attempts = pd.DataFrame(index=history.rows.index), pd.DataFrame(index=history.attempts.index)
    for name in names:
        column, of_rows, of_attempts = _key(history, name, argument)
        if column in reserved:
            raise UsageError(f"{argument}: the result has a column {name!r}, too. Rename yours first.")
        rows[column], attempts[column] = of_rows, of_attempts
    if not names:
        whole = pd.DataFrame(index=pd.RangeIndex(1))
        return Groups(whole, np.zeros(len(rows), dtype=int), np.zeros(len(attempts), dtype=int))
    try:
        return grouped(rows, attempts)
    # Cells that can't be compared, such as dates and times.
    except (TypeError, NotImplementedError, UnicodeError) as error:
        raise UsageError(f"{argument}: can't group by {' and '.join(map(str, names))}: {error}.") from None


def grouped(rows: pd.DataFrame, attempts: pd.DataFrame, *, sort: bool = True) -> Groups:
    """Group rows and attempts by all their columns, in the order of these, or else of the rows."""
    both = groupable(pd.concat([rows, attempts], ignore_index=True))
    of_both = both.groupby(list(both.columns), dropna=False, observed=True, sort=sort)
    numbers = of_both.ngroup().to_numpy()
    keys = both.iloc[np.unique(numbers, return_index=True)[1]].reset_index(drop=True)
    return Groups(keys, numbers[: len(rows)], numbers[len(rows) :])


def _key(history: History, name: str, argument: str) -> tuple[str, pd.Series, pd.Series]:
    """Return the name of a part of the key, its values for rows, and for attempts."""
    rows, attempts = history.rows, history.attempts
    if name == columns.RUN_DIR and DIRECTORY in rows.columns:
        return name, rows[DIRECTORY], attempts[name]
    if name in rows.columns or name == columns.SIZE:
        values = _as_sent(rows, name) if name in rows.columns else _size(rows)
        return name, values, _of_attempts(values, history, name)
    times = [rows[columns.SUBMITTED_AT], attempts[columns.SENT_AT]]
    if name == HOUR:
        of_rows, of_attempts = (time.dt.hour.astype(columns.INT) for time in times)
        return name, of_rows, of_attempts
    length = as_length(name)
    if length is None:
        known = [own for own in rows.columns if not str(own).startswith(columns.STORED_PREFIX)]
        raise UsageError(
            f'{argument}: {name!r} is neither a column nor a length of time such as "1h"; {meant(name, known)}'
        )
    of_rows, of_attempts = (time.dt.floor(length) for time in times)
    return columns.SUBMITTED_AT, of_rows, of_attempts


def _as_sent(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return a column with what was sent where its cells are empty; of results alone, only the model is known."""
    sent = rows.get(columns.STORED_PREFIX + name, MODEL if name == columns.MODEL else None)
    cells = rows[name].astype(object)
    is_empty = rows[name].isna() | cells.isin([""])
    filled = pd.Series(np.where(is_empty, sent, cells), rows.index, dtype=object)
    return rows[name] if sent is None or not is_empty.any() else typed(filled)


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


# In a table's attrs: the absolute path of each run directory, by its name in the column `run_dir`.
_ATTRIBUTE: Final = "dreamo_run_dirs"
_LISTED_MAX: Final = 10
# Where the user's own cells of a row are in `columns.ATTEMPT_INPUTS`.
_USER: Final = "columns"
Seconds = TypeVar("Seconds", pd.Series, pd.DataFrame)
_PENDING: Final = "pending"
_LONGEST_S: Final = 30 * 86_400.0
_STATUS: Final = {str(stage): status for stage, status in STATUS_OF.items()} | {_PENDING: columns.PENDING}
_UNTOUCHED: Final = (str(Stage.UNSENT), str(Stage.REFUSED), _PENDING)  # no answer about money is due
# What the results copy from the attempt that decides its job's status.
_COPIED: Final = [name for name in columns.OUTPUTS if name in columns.LEDGER and name != columns.SEED_SENT]


def mark(results: pd.DataFrame, directory: RunDirectory) -> pd.DataFrame:
    """Note in a table which run directory it comes from, and add its ratings."""
    results = with_ratings(results, [directory.path] * len(results))
    results[columns.RUN_DIR] = pd.Series(directory.given, index=results.index, dtype=columns.STR)
    results.attrs[_ATTRIBUTE] = {directory.given: str(directory.path)}
    manifest = directory.read_manifest()
    if manifest is not None and manifest.sample:
        results.attrs[columns.SAMPLE] = manifest.sample
    return results


def stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the results of several directories."""
    if len(tables) == 1:
        return tables[0]
    is_unlabelled = all(isinstance(table.index, pd.RangeIndex) for table in tables)
    start, shifted = 0, []
    for table in tables:
        moved = (table[columns.DUPLICATE_OF] + start).astype(columns.INT)
        shifted.append(table.assign(**{columns.DUPLICATE_OF: moved}))
        start += len(table)
    return _with_places(_outputs_last(pd.concat(shifted, ignore_index=is_unlabelled)), tables)


def interleaved(tables: list[pd.DataFrame], positions: list[list[int]]) -> pd.DataFrame:
    """Put the parts of a table together again, each row at its old position."""
    if len(tables) == 1:
        return tables[0]
    return _with_places(pd.concat(tables).iloc[np.argsort(np.concatenate(positions))], tables)


def _with_places(whole: pd.DataFrame, tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Note in a table where its parts come from; returns the same table."""
    whole.attrs[_ATTRIBUTE] = {name: place for table in tables for name, place in _places(table).items()}
    return whole


def run_dir_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the run directory of a table that comes from only one: `run_dir`, or the one that the table names."""
    if run_dir is not None:
        directory = RunDirectory(run_dir)
        if not directory.path.is_dir() and not directory.exists():
            raise DirectoryError(f"No run directory at {directory.name}.")
        return directory.path
    places = [*_run_dirs(results).values()] or [Path(place) for place in _places(results).values()]
    if len(places) != 1:
        raise UsageError(
            "Can't locate this table's pictures; pass run_dir=, or use what load(run_dir) returns."
        )
    return places[0]


def folders_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the run directory of each row, as `places_of` does, once its picture and all references are there."""
    return with_pictures(results, with_additions(places_of(results, run_dir)))


def places_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the run directory of each row: `run_dir` for all, or the one it comes from; warn if one is gone."""
    found = {} if run_dir is not None else _run_dirs(results)
    if found:
        names = results[columns.RUN_DIR]
        lost = names.isna() & results.get(columns.OUTPUT_PATH, names).notna()
        if lost.any():
            some = "row has" if lost.sum() == 1 else "rows have"
            raise UsageError(
                f"{lost.sum()} {some} a picture but no {columns.RUN_DIR}, first row "
                f"{results.index[lost.to_numpy().argmax()]!r}. Fill that column, or pass run_dir=."
            )
        anywhere = next(iter(found.values()))  # for rows without a picture
        folders = [anywhere if is_missing(name) else found[name] for name in names]
    else:
        folders = [run_dir_of(results, run_dir)] * len(results)
    paths = results.get(columns.OUTPUT_PATH, ())
    for folder in dict.fromkeys(at for at, one in zip(folders, paths, strict=False) if isinstance(one, str)):
        if not folder.is_dir():
            warn(
                f"No directory at {folder}, where the table's pictures were. If it was moved, pass run_dir=."
            )
    return folders


def with_pictures(results: pd.DataFrame, folders: list[Path]) -> list[Path]:
    """Fetch the pictures of rows whose run directory is in a store, unless they are here; return the directories."""
    paths = results.get(columns.OUTPUT_PATH, [None] * len(results))
    for folder in dict.fromkeys(folders):
        replica = RunDirectory(folder).replica
        if replica is not None:
            replica.fetch(
                one for at, one in zip(folders, paths, strict=True) if at == folder and isinstance(one, str)
            )
    return folders


def with_additions(folders: list[Path]) -> list[Path]:
    """Fetch what run directories in a store have besides pictures, such as references; return the directories."""
    for folder in dict.fromkeys(folders):
        replica = RunDirectory(folder).replica
        if replica is not None:
            replica.fetch_additions()
    return folders


def _run_dirs(results: pd.DataFrame) -> dict[str, Path]:
    """Return the path of each run directory that the rows name; the path noted in the table, if it still exists."""
    found = {}
    for name in results[columns.RUN_DIR].dropna().unique() if columns.RUN_DIR in results.columns else ():
        path = folder_of(name) if is_url(name) else Path(name).expanduser().absolute()
        noted = _places(results).get(str(name))
        is_noted = noted is not None and (Path(noted).is_dir() or not path.is_dir())
        found[name] = Path(noted) if noted is not None and is_noted else path
    return found


def _places(results: pd.DataFrame) -> dict[str, str]:
    known = results.attrs.get(_ATTRIBUTE)
    return known if isinstance(known, dict) else {}


def _outputs_last(results: pd.DataFrame) -> pd.DataFrame:
    rated = rating_columns(results)
    own = [name for name in results.columns if name not in columns.OUTPUTS and name not in rated]
    return results[[*own, *columns.OUTPUTS, *rated]]


def row_mask(index: pd.Index, rows: Any, job_ids: pd.Series | None = None) -> NDArray[np.bool_]:
    """Mark the rows meant by labels, texts of labels, ranges of them ("3-7") or job ids, or by a boolean per row."""
    if isinstance(rows, pd.Series) and len(rows) and pd.api.types.infer_dtype(rows) == "boolean":
        return _aligned(index, rows)
    values = _several(index, rows)
    if isinstance(rows, Mapping) or any(isinstance(one, list | dict | np.ndarray | slice) for one in values):
        raise UsageError(f"rows: expected labels of rows, or a boolean for every row, not {quoted(rows)}.")
    is_given = [isinstance(value, bool | np.bool_) for value in values]
    if len(values) == len(index) and all(is_given):
        return np.array(values, dtype=bool)
    if any(is_given):
        raise UsageError(
            f"rows: {counted(sum(is_given), 'boolean')} for {counted(len(index), 'row')}: pass one for every row, or "
            "labels."
        )
    places: dict[Any, list[int]] = {}
    for position, label in enumerate(index.tolist()):
        as_shown = label.isoformat() if isinstance(label, dt.datetime) else str(label)
        for key in {label, str(label), as_shown}:
            places.setdefault(key, []).append(position)
    by_job: dict[str, list[int]] = {}
    for position, job_id in enumerate(() if job_ids is None else job_ids.tolist()):
        by_job.setdefault(job_id, []).append(position)
    mask = np.zeros(len(index), dtype=bool)
    for value in values:
        found = places.get(value if isinstance(value, Hashable) else str(value)) or places.get(str(value))
        found = found or by_job.get(str(value)) or _between(places, value)
        if found is None:
            raise UsageError(
                f"Row {value!r} is not in the table; its labels look like {index[:3].tolist()}. "
                f"Pass labels{spelled(' as rows=, or one boolean per row', ', as `dreamo-batch results` shows them')}."
            )
        mask[found] = True
    return mask


def _aligned(index: pd.Index, mask: pd.Series) -> NDArray[np.bool_]:
    """Return a mask in the order of the table, as pandas aligns one."""
    if not mask.index.equals(index):
        if len(mask) != len(index) or not (mask.index.is_unique and index.isin(mask.index).all()):
            raise UsageError(
                f"rows: the mask's labels aren't the table's ({index[:3].tolist()}). Pass labels, or one boolean "
                "per row."
            )
        mask = mask.reindex(index)
    return np.array(mask.fillna(value=False), dtype=bool)


def _several(index: pd.Index, rows: Any) -> list[Any]:
    """Return the values that name rows: a table stands for its labels, one label for itself, no boolean for False."""
    rows = rows.index if isinstance(rows, pd.DataFrame) else rows
    is_one = isinstance(rows, str | bytes) or not hasattr(rows, "__iter__")
    values = (
        [rows] if is_one or (isinstance(rows, tuple) and index.nlevels > 1 and rows in index) else [*rows]
    )
    is_mask = any(isinstance(value, bool | np.bool_) for value in values)
    return [not is_missing(value) and value for value in values] if is_mask else values


def _between(places: dict[Any, list[int]], value: Any) -> list[int] | None:
    """Return the rows from one label to another, "3-7", in the order of the table."""
    if not isinstance(value, str):
        return None
    cuts = (place for place, letter in enumerate(value) if letter == "-")
    ends = ((places.get(value[:cut].strip()), places.get(value[cut + 1 :].strip())) for cut in cuts)
    first, last = next((pair for pair in ends if all(pair)), (None, None))
    if first is None or last is None:
        return None
    if first[0] > last[-1]:
        raise UsageError(f"Rows {value!r}: the table lists the first of these labels after the second.")
    return list(range(first[0], last[-1] + 1))


def assemble(user: pd.DataFrame, rows: pd.DataFrame, attempts: pa.Table) -> pd.DataFrame:
    """Add the outcome of each row's job to the user's table."""
    outcome = _outcome(_of_rows(_one_each(attempts), rows[columns.JOB_ID]))
    is_invalid = rows[columns.JOB_ID].isna().to_numpy()
    outcome.loc[is_invalid, columns.STATUS] = columns.INVALID
    for name in (columns.ERROR_CLASS, columns.ERROR_CODE, columns.ERROR_MESSAGE):
        outcome.loc[is_invalid, name] = rows.loc[is_invalid, name].to_numpy()
    # The cost belongs to the row that was bought, and is 0 on its duplicates.
    is_duplicate = rows[columns.DUPLICATE_OF].notna().to_numpy()
    is_free = is_duplicate & outcome[columns.COST].notna().to_numpy()
    outcome.loc[is_free, columns.COST], outcome.loc[is_free, columns.COST_USD] = "0", 0.0
    outcome.loc[is_duplicate, columns.ATTEMPTS] = 0
    outcome.loc[is_duplicate, columns.MAY_HAVE_BEEN_BILLED] = False
    for name in (columns.JOB_ID, columns.DUPLICATE_OF, columns.SEED_SENT):
        outcome[name] = rows[name].array
    outcome[columns.RUN_DIR] = None  # a directory may be moved; `mark` fills it in
    outcome = columns.typed(outcome[list(columns.OUTPUTS)], columns.OUTPUTS)
    outcome.index = user.index
    return pd.concat([user, outcome], axis=1)


def with_jobs_left(results: pd.DataFrame, attempts: pd.DataFrame) -> pd.DataFrame:
    """Add a row for each job that the table no longer has, with what its row held when it was submitted."""
    results = results.assign(**{columns.IN_TABLE: True})
    if not len(attempts):
        return results
    attempts = attempts.reset_index(drop=True)
    latest = _deciding(attempts).sort_index().reset_index(drop=True)
    inputs = [read_inputs(text) for text in latest[columns.ATTEMPT_INPUTS]]
    user = pd.DataFrame([own_cells(text) for text in inputs], index=latest.index)
    errors = [columns.ERROR_CLASS, columns.ERROR_CODE, columns.ERROR_MESSAGE]
    rows = latest[[columns.JOB_ID, columns.SEED_SENT, *errors]].assign(
        **{columns.DUPLICATE_OF: pd.array([None] * len(latest), dtype=columns.INT)}
    )
    own = user[[name for name in user if name not in columns.OUTPUTS]]
    left = assemble(own, rows, pa.Table.from_pandas(attempts, SCHEMA, preserve_index=False))
    left.index = _labels(results.index, [cells.get(columns.ROW) for cells in inputs])
    whole = pd.concat([results, left.assign(**{columns.IN_TABLE: False})])
    return columns.typed(_outputs_last(whole), columns.OUTPUTS)


def own_cells(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's columns of a submitted row, with what was sent where the row had no value."""
    sent = {columns.PROMPT: inputs.get(columns.PROMPT)}
    own = inputs.get(_USER, {})
    if not any(own.get(name) for name in (columns.IMAGE, *columns.IMAGE_ALIASES, *columns.IMAGE_NUMBERED)):
        sent[columns.IMAGE] = inputs.get(columns.IMAGE_SOURCE)
    return sent | {name: cell for name, cell in own.items() if cell is not None}


def read_inputs(text: object) -> dict[str, Any]:
    """Read what was submitted; empty if the attempt doesn't say."""
    return json.loads(text) if isinstance(text, str) else {}


def _labels(index: pd.Index, labels: list[str | None]) -> pd.Index:
    """Return the labels of added rows in the dtype of the other labels, if they can be converted."""
    if isinstance(index, pd.RangeIndex):
        return pd.RangeIndex(len(index), len(index) + len(labels))
    if index.nlevels > 1:
        # None instead of "" would turn the numbers of a level into floats.
        return pd.MultiIndex.from_product([labels, *[[""]] * (index.nlevels - 1)], names=index.names)
    try:
        return pd.Index(labels, name=index.name).astype(index.dtype)
    except (ValueError, TypeError):
        return pd.Index(labels, name=index.name, dtype=object)


def plausible(seconds: Seconds) -> Seconds:
    """Make durations missing that only a changed clock explains: negative ones, and those of 30 days or more."""
    return seconds.where((seconds >= 0) & (seconds < _LONGEST_S))


def _one_each(attempts: pa.Table) -> pa.Table:
    """Return one row per job, whose attempts follow each other: the one that decides its status, with sums over all."""
    is_submitted = pc.is_in(attempts[columns.STAGE], pa.array(list(SUBMITTED), pa.string()))
    attempts = attempts.select([*_COPIED, columns.STAGE, columns.SENT_AT]).append_column(
        columns.ATTEMPTS, is_submitted.cast(pa.int64())
    )
    job_ids = attempts[columns.JOB_ID]
    is_again = pc.equal(job_ids.slice(1), job_ids.slice(0, max(len(job_ids) - 1, 0)))
    if not pc.any(is_again).as_py():
        return attempts
    is_several = pc.is_in(job_ids, job_ids.slice(1).filter(is_again))
    several = to_frame(attempts.filter(is_several))
    latest = _deciding(several).set_index(columns.JOB_ID, drop=False)
    _add_up(latest, several)
    decided = pa.Table.from_pandas(latest, attempts.schema, preserve_index=False)
    return pa.concat_tables([attempts.filter(pc.invert(is_several)), decided])


def _deciding(attempts: pd.DataFrame) -> pd.DataFrame:
    """Return the attempt of each job that decides its status; see `dreamo_batch.engine.attempts.deciding`."""
    weights = attempts[columns.STAGE].map({str(stage): weight for stage, weight in WEIGHTS.items()})
    by_weight = attempts.loc[weights.sort_values(kind="stable").index]
    return by_weight.drop_duplicates(columns.JOB_ID, keep="last")


def _add_up(latest: pd.DataFrame, several: pd.DataFrame) -> None:
    """Write the sums over all attempts of a job into its latest one."""
    by_job = several.groupby(columns.JOB_ID, sort=False)
    attempts = by_job[columns.ATTEMPTS].sum()
    latest.loc[attempts.index, columns.ATTEMPTS] = attempts
    costs = by_job[columns.COST].agg(_exact_sum).astype(columns.STR)  # without any cost it would be of floats
    latest.loc[costs.index, columns.COST] = costs
    billed = by_job[columns.MAY_HAVE_BEEN_BILLED].max()  # True if any is; missing values are ignored
    is_open = latest.loc[billed.index, columns.MAY_HAVE_BEEN_BILLED].isna()
    latest.loc[billed.index, columns.MAY_HAVE_BEEN_BILLED] = billed.mask(
        is_open & ~billed.fillna(value=False)
    )


def _of_rows(jobs: pa.Table, job_ids: pd.Series) -> pa.Table:
    """Return the job of each row; all is missing where it has no attempt."""
    wanted, known = pa.array(job_ids, pa.string(), from_pandas=True), jobs[columns.JOB_ID]
    n = min(len(wanted), len(known))
    is_in_place = pc.fill_null(pc.equal(known.slice(0, n), wanted.slice(0, n)), fill_value=False).to_numpy()
    n_in_place = n if is_in_place.all() else int(is_in_place.argmin())
    in_place, rest = jobs.slice(0, n_in_place), wanted.slice(n_in_place)
    return pa.concat_tables([in_place, jobs.take(pc.index_in(rest, known))]) if len(rest) else in_place


def _outcome(of_rows: pa.Table) -> pd.DataFrame:
    outcome = to_frame(of_rows)
    stages = pc.fill_null(
        pc.index_in(of_rows[columns.STAGE], pa.array(_STATUS, pa.string())), len(_STATUS) - 1
    )
    codes = np.array([columns.STATUSES.index(status) for status in _STATUS.values()])[stages.to_numpy()]
    outcome[columns.STATUS] = pd.Categorical.from_codes(codes, columns.STATUSES)
    costs = of_rows[columns.COST].combine_chunks().dictionary_encode()
    exact = [_exact_sum([cost]) for cost in costs.dictionary.to_pylist()]
    for name, amounts in ((columns.COST, exact), (columns.COST_USD, list(map(float, exact)))):
        values = pa.array(amounts, ARROW[columns.OUTPUTS[name].dtype], from_pandas=True)
        outcome[name] = to_frame(pa.table({name: values.take(costs.indices)}))[name]
    outcome[columns.SUBMITTED_AT] = outcome[columns.SENT_AT]
    seconds = (outcome[columns.COMPLETED_AT] - outcome[columns.SENT_AT]).dt.total_seconds()
    outcome[columns.LATENCY_S] = plausible(seconds).astype(columns.FLOAT)
    outcome[columns.ATTEMPTS] = outcome[columns.ATTEMPTS].fillna(0)
    is_untouched = np.isin(stages.to_numpy(), [list(_STATUS).index(stage) for stage in _UNTOUCHED])
    billed = outcome[columns.MAY_HAVE_BEEN_BILLED]
    outcome[columns.MAY_HAVE_BEEN_BILLED] = billed.mask(is_untouched & billed.isna(), other=False)
    return outcome


def _exact_sum(costs: Sequence[object]) -> str | float:
    known: list[Decimal] = [
        amount for cost in costs if isinstance(cost, str) and (amount := money(cost)) is not None
    ]
    return exact_text(total(known)) if known else float("nan")


def summarise(results: pd.DataFrame, state: State, cap: Decimal | None) -> dict[str, Any]:
    """Count rows and add up money."""
    kinds = state.kinds()
    doubtful = possibly_billed(kinds)
    budget = Spending(cap=cap, attempts=kinds)
    return {
        "rows": len(results),
        "by_status": _by_status(results),
        "attempts": sum(n for attempt, n in kinds.items() if attempt.stage in SUBMITTED),
        "spent_usd": exact_text(budget.spent),
        "reserved_usd": exact_text(budget.reserved),
        "possibly_billed_usd": None if doubtful is None else exact_text(doubtful),
        "max_cost_usd": None if cap is None else exact_text(cap),
    }


def added(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up the summaries of several directories; a sum is None if one of them is."""
    whole: dict[str, Any] = {}
    for name in summaries[0]:
        values = [summary[name] for summary in summaries]
        if name == "by_status":
            counts: Counter[str] = sum(map(Counter, values), Counter())
            whole[name] = {status: counts[status] for status in columns.STATUSES if counts[status]}
        elif isinstance(values[0], int):
            whole[name] = sum(values)
        else:
            whole[name] = None if None in values else exact_text(total(map(Decimal, values)))
    return whole


def reconcile(n_rows: int, results: pd.DataFrame) -> dict[str, Any]:
    """Compare rows in with rows accounted for."""
    by_status = _by_status(results)
    n_accounted = sum(by_status.values())
    return {
        "rows_in": n_rows,
        "rows_accounted_for": n_accounted,
        "is_complete": n_rows == n_accounted == len(results),
        "by_status": by_status,
    }


def _by_status(results: pd.DataFrame) -> dict[str, int]:
    counts = results[columns.STATUS].value_counts()
    return {status: int(counts[status]) for status in columns.STATUSES if counts[status]}


def sentence(counts: dict[str, Any], spent_usd: Decimal, results: pd.DataFrame) -> str:
    """Write the reconciliation as one line, and how many pictures have no cost in USD."""
    states = ", ".join(f"{n} {PALETTE[status].word}" for status, n in counts["by_status"].items()) or "none"
    n_in, n_out = counts["rows_in"], counts["rows_accounted_for"]
    text = f"{counted(n_in, 'row')} in, {n_out:,} accounted for: {states}; {dollars(spent_usd)} spent"
    n = _n_unpriced(results)
    return f"{text}, {n:,} more of unknown cost" if n else text


def _n_unpriced(results: pd.DataFrame) -> int:
    """Count the pictures that have no cost in USD."""
    is_made = results[columns.STATUS].eq(columns.COMPLETED) & results[columns.DUPLICATE_OF].isna()
    return int((is_made & results[columns.COST].isna()).sum())


def open_lines(results: pd.DataFrame, state: State) -> list[str]:
    """List ambiguous rows, what each may have cost, how to settle them; count pictures unsaved or without cost."""
    rows = results[(results[columns.STATUS] == columns.AMBIGUOUS) & results[columns.DUPLICATE_OF].isna()]
    lines = [
        _ambiguous_line(label, job_id, state)
        for label, job_id in rows[columns.JOB_ID].head(_LISTED_MAX).items()
    ]
    if len(rows) > _LISTED_MAX:
        lines.append(f"... and {len(rows) - _LISTED_MAX} more")
    if lines:
        lines.append(
            "Ambiguous rows may have been accepted and billed. They won't be resent unless you ask: settle each with "
            + spelled(
                "resolve(run_dir, row, task_id=...) or resolve(run_dir, row, not_sent=True)",
                "`dreamo-batch resolve RUN_DIR ROW`",
            )
            + f", or submit them again with {option('on_ambiguous', 'resubmit')}."
        )
    unsaved = results.loc[results[columns.DUPLICATE_OF].isna(), columns.OUTPUT_ERROR].dropna()
    if len(unsaved):
        lost = f"{counted(len(unsaved), 'picture')} could not be saved; {same_call()} again fetches what is missing"
        lines.append(f"{lost} for free. Row {unsaved.index[0]}: {unsaved.iloc[0]}")
    if n := _n_unpriced(results):
        lines.append(
            f"The service gave no cost in USD for {counted(n, 'picture')}; the sum spent is without them."
        )
    return lines


def _ambiguous_line(label: object, job_id: str, state: State) -> str:
    attempt, price = state.deciding(job_id), highest_price(state.kinds())
    reserved = money(None if attempt is None else attempt.reserved)
    cost = "an unknown cost" if price is None else f"{dollars(price)}, the highest price seen here"
    cost = cost if reserved is None else f"up to {dollars(reserved)}"
    why = "" if attempt is None else f" ({attempt.error_class})"
    return f"row {label} is ambiguous{why}: job {job_id}, possibly billed {cost}"
