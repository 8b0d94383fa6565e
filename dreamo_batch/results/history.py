"""Rows with all their attempts, from directories or results, and grouped by columns."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.arguments import names_in
from dreamo_batch.engine import checkpoint
from dreamo_batch.engine.attempts import STATUS_OF, SUBMITTED
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.errors import UsageError
from dreamo_batch.jobs.cells import groupable, text_of, typed
from dreamo_batch.jobs.fields import Table, convert_to_frame, rating_columns
from dreamo_batch.jobs.tables import restore_output_dtypes
from dreamo_batch.results.frame import own_cells, places_of, read_inputs
from dreamo_batch.results.load import RunDir, ledger_frame, list_run_dirs, load
from dreamo_batch.results.rating_log import with_ratings
from dreamo_batch.service.contract import MODEL
from dreamo_batch.text import did_you_mean

_SUBMITTED: Final = [str(stage) for stage in SUBMITTED]
# Statuses of rows whose latest attempt exists at the service, with the stage of that attempt.
_STAGES: Final = {STATUS_OF[stage]: str(stage) for stage in sorted(SUBMITTED, reverse=True)}
# Columns of `History.rows` whose names can't clash with a user's column.
LABEL: Final = columns.STORED_PREFIX + columns.ROW
DIRECTORY: Final = columns.STORED_PREFIX + columns.RUN_DIR
HOUR: Final = "hour"


@dataclass(frozen=True, slots=True)
class History:
    """Rows, every attempt for them, and the position of each attempt's row (-1 if it left the table)."""

    rows: pd.DataFrame
    attempts: pd.DataFrame
    places: np.ndarray


# A History is accepted, so that callers can read it once and use it several times.
Directories: TypeAlias = RunDir | Iterable[RunDir] | History
Source: TypeAlias = Table | Directories


class Groups(NamedTuple):
    """The keys of groups, and the group number of each row and of each attempt."""

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
    source = convert_to_frame(source)
    return from_results(source) if isinstance(source, pd.DataFrame) else read_directories(source)


def read_directories(source: Directories) -> History:
    """Read the history of one or more run directories."""
    if isinstance(source, History):
        return source
    return concatenated({os.fspath(run_dir): _read_directory(run_dir) for run_dir in list_run_dirs(source)})


def _read_directory(run_dir: RunDir) -> History:
    """Read one directory; sizes and rephraser settings missing in the table are filled in as sent."""
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
    """Derive attempts from results alone: one line per job, with its costs; rows repeated by a merge count once."""
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
    if len(rows[columns.RUN_DIR].dropna().unique()) > 1:  # as made by `concatenated`
        rows = rows.assign(**{DIRECTORY: rows[columns.RUN_DIR]})
        attempts[columns.RUN_DIR] = rows.loc[is_submitted, columns.RUN_DIR]
    return History(rows, attempts.reset_index(drop=True), np.flatnonzero(is_submitted.to_numpy()))


def read_results(source: Source, *needed: str) -> pd.DataFrame:
    """Return results, loaded from run directories if necessary; raise for other tables."""
    source = convert_to_frame(source)
    results = source if isinstance(source, pd.DataFrame) else load(source)
    check_results(results, *(name for name in columns.OUTPUTS if name != columns.RUN_DIR), *needed)
    return restore_output_dtypes(results)


def check_results(table: Any, *needed: str) -> None:
    """Raise unless a table has certain columns and no duplicate names."""
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
    """Group rows and attempts by columns, size, or time; None makes a single group."""
    names = names_in(argument, by)
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
    # Cells that can't be compared, such as dates with times.
    except (TypeError, NotImplementedError, UnicodeError) as error:
        raise UsageError(f"{argument}: can't group by {' and '.join(map(str, names))}: {error}.") from None


def grouped(rows: pd.DataFrame, attempts: pd.DataFrame, *, sort: bool = True) -> Groups:
    """Group rows and attempts by all their columns, sorted by value or in the order of the rows."""
    both = groupable(pd.concat([rows, attempts], ignore_index=True))
    of_both = both.groupby(list(both.columns), dropna=False, observed=True, sort=sort)
    numbers = of_both.ngroup().to_numpy()
    keys = both.iloc[np.unique(numbers, return_index=True)[1]].reset_index(drop=True)
    return Groups(keys, numbers[: len(rows)], numbers[len(rows) :])


def _key(history: History, name: str, argument: str) -> tuple[str, pd.Series, pd.Series]:
    """Return the name of a part of the key, with its values for rows and for attempts."""
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
    length = parse_duration(name)
    if length is None:
        known = [own for own in rows.columns if not str(own).startswith(columns.STORED_PREFIX)]
        raise UsageError(
            f'{argument}: {name!r} is neither a column nor a length of time such as "1h"; {did_you_mean(name, known)}'
        )
    of_rows, of_attempts = (time.dt.floor(length) for time in times)
    return columns.SUBMITTED_AT, of_rows, of_attempts


def _as_sent(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return a column with empty cells filled in as sent; for results alone, only the model is known."""
    sent = rows.get(columns.STORED_PREFIX + name, MODEL if name == columns.MODEL else None)
    cells = rows[name].astype(object)
    is_empty = rows[name].isna() | cells.isin([""])
    filled = pd.Series(np.where(is_empty, sent, cells), rows.index, dtype=object)
    return rows[name] if sent is None or not is_empty.any() else typed(filled)


def parse_duration(text: object) -> pd.Timedelta | None:
    """Parse a duration, in whole microseconds like stored times; None if it isn't a positive one."""
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
    """Return the value that a row which left the table had when it was submitted."""
    inputs = read_inputs(text)
    if name == columns.SIZE and inputs and not inputs["columns"].get(name):
        return f"{inputs[columns.WIDTH]}x{inputs[columns.HEIGHT]}"
    return own_cells(inputs).get(name, inputs.get(name)) if inputs else None


def _size(rows: pd.DataFrame) -> pd.Series:
    """Return width x height as submitted if known, else as received."""
    names = [columns.STORED_PREFIX + name for name in (columns.WIDTH, columns.HEIGHT)]
    if names[0] not in rows.columns:
        names = [columns.OUTPUT_WIDTH, columns.OUTPUT_HEIGHT]
    return columns.sizes(rows, *names)
