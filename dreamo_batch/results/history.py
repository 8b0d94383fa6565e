"""Rows and the attempts behind them, side by side: what every analysis starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine.attempts import STATUS_OF, SUBMITTED
from dreamo_batch.errors import UsageError
from dreamo_batch.results.frame import own_cells, read_inputs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


_ORDERED: Final = [str(stage) for stage in SUBMITTED]
# Statuses of rows whose latest attempt exists at the service, and the stage that attempt is in.
_STAGES: Final = {STATUS_OF[stage]: str(stage) for stage in sorted(SUBMITTED, reverse=True)}
# Columns of `History.rows` that no user's column can clash with.
LABEL: Final = columns.STORED_PREFIX + columns.ROW
DIRECTORY: Final = columns.STORED_PREFIX + columns.RUN_DIR
# Columns of an attempt that results tell under another name.
_RENAMED: Final = {columns.SUBMITTED_AT: columns.SENT_AT, columns.ATTEMPTS: columns.ATTEMPT}


@dataclass(frozen=True, slots=True)
class History:
    """Rows, and every attempt made for them."""

    rows: pd.DataFrame
    attempts: pd.DataFrame
    places: np.ndarray


def from_ledger(results: pd.DataFrame, attempts: pd.DataFrame) -> History:
    """Lay the attempts of a ledger beside the results of its table."""
    made = attempts[attempts[columns.STAGE].isin(_ORDERED)].reset_index(drop=True)
    made = made.assign(**{columns.ATTEMPTS: pd.Series(1, index=made.index, dtype=columns.INT)})
    rows = _labelled(results)
    return History(rows, made, _places(rows, made))


def from_results(results: pd.DataFrame) -> History:
    """Read the attempts off results alone: those of a job are one line, with the sum of their costs."""
    refuse_other_tables(results)
    rows = _labelled(results)
    if columns.RUN_DIR not in rows:
        rows[columns.RUN_DIR] = pd.Series(None, index=rows.index, dtype=columns.STR)
    is_made = (rows[columns.ATTEMPTS].fillna(0) > 0) & rows[columns.DUPLICATE_OF].isna()
    made = rows.loc[is_made, list(columns.OUTPUTS)].rename(columns=_RENAMED)
    made[columns.ATTEMPTS] = made[columns.ATTEMPT]
    made[columns.STAGE] = made[columns.STATUS].astype(columns.STR).map(_STAGES)
    attempts = made.reindex(columns=[*columns.LEDGER, columns.ATTEMPTS])
    attempts = attempts.astype(columns.dtypes(columns.LEDGER) | {columns.ATTEMPTS: columns.INT})
    if len(rows[columns.RUN_DIR].dropna().unique()) > 1:  # as from `joined`
        rows = rows.assign(**{DIRECTORY: rows[columns.RUN_DIR]})
        attempts[columns.RUN_DIR] = rows.loc[is_made, columns.RUN_DIR]
    return History(rows, attempts.reset_index(drop=True), np.flatnonzero(is_made.to_numpy()))


def refuse_other_tables(results: pd.DataFrame) -> None:
    """Refuse a table that is no results."""
    absent = [name for name in columns.OUTPUTS if name not in results.columns and name != columns.RUN_DIR]
    if absent:
        raise UsageError(
            f"These are no results: there is no column {absent[0]!r}. Give the table that run or load "
            "gave back, or rows of it, or a run directory."
        )


def joined(histories: Mapping[str, History]) -> History:
    """Put directories behind each other."""
    starts = np.cumsum([0, *(len(history.rows) for history in histories.values())])
    parts = list(zip(histories.items(), starts, strict=False))
    rows = [history.rows.assign(**{DIRECTORY: name}) for (name, history), _ in parts]
    attempts = [history.attempts.assign(**{columns.RUN_DIR: name}) for (name, history), _ in parts]
    places = [np.where(h.places < 0, -1, h.places + start) for (_, h), start in parts]
    return History(
        pd.concat(rows, ignore_index=True), pd.concat(attempts, ignore_index=True), np.concatenate(places)
    )


def _labelled(results: pd.DataFrame) -> pd.DataFrame:
    labels = pd.Series([str(label) for label in results.index], dtype=columns.STR)
    return results.reset_index(drop=True).assign(**{LABEL: labels})


def _places(rows: pd.DataFrame, attempts: pd.DataFrame) -> np.ndarray:
    bought = rows.loc[rows[columns.DUPLICATE_OF].isna() & rows[columns.JOB_ID].notna(), columns.JOB_ID]
    found = pd.Index(bought).get_indexer(attempts[columns.JOB_ID])
    places = bought.index.to_numpy()[found] if len(bought) else np.full(len(attempts), -1)
    return np.where(found < 0, -1, places)


HOUR: Final = "hour"


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of rows and of attempts."""

    keys: pd.DataFrame
    of_rows: np.ndarray
    of_attempts: np.ndarray


def group(history: History, by: str | Sequence[str] | None, *, reserved: Collection[str] = ()) -> Groups:
    """Find the groups."""
    names = [] if by is None else [by] if isinstance(by, str) else list(by)
    rows, attempts = pd.DataFrame(index=history.rows.index), pd.DataFrame(index=history.attempts.index)
    for name in names:
        column, of_rows, of_attempts = _key(history, name)
        if column in reserved:
            raise UsageError(f"by={name!r}: the result has a column of that name; rename yours before.")
        rows[column], attempts[column] = of_rows, of_attempts
    return _numbered(rows, attempts)


def _numbered(rows: pd.DataFrame, attempts: pd.DataFrame) -> Groups:
    if not len(rows.columns):
        whole = pd.DataFrame(index=pd.RangeIndex(1))
        return Groups(whole, np.zeros(len(rows), dtype=int), np.zeros(len(attempts), dtype=int))
    both = pd.concat([rows, attempts], ignore_index=True)
    try:
        grouped = both.groupby(list(both.columns), dropna=False, sort=True, observed=True)
        numbers = grouped.ngroup().to_numpy()
    except TypeError as error:
        raise UsageError(f"by={list(both.columns)}: its values can't be grouped ({error}).") from None
    firsts = np.unique(numbers, return_index=True)[1]
    keys = both.iloc[firsts].reset_index(drop=True)
    return Groups(keys, numbers[: len(rows)], numbers[len(rows) :])


def _key(history: History, name: str) -> tuple[str, pd.Series, pd.Series]:
    """Give the name of a part of the key, its values for rows, and for attempts."""
    if name == columns.RUN_DIR and DIRECTORY in history.rows.columns:
        return name, history.rows[DIRECTORY], history.attempts[name]
    if name in history.rows.columns:
        return name, history.rows[name], _of_attempts(history.rows[name], history, name)
    if name == columns.SIZE:
        values = _size(history.rows)
        return name, values, _of_attempts(values, history, name)
    if name == HOUR:
        return name, *(times.dt.hour.astype(columns.INT) for times in _times(history))
    return columns.SUBMITTED_AT, *_buckets(history, name)


def _of_attempts(values: pd.Series, history: History, name: str) -> pd.Series:
    is_left = pd.Series(history.places < 0, index=history.attempts.index)
    if not is_left.any():
        return values.reindex(history.places).set_axis(is_left.index)
    taken = values.astype(object).reindex(history.places)  # -1 is no label of a RangeIndex, so it is missing
    taken = taken.set_axis(is_left.index)
    known = [_ordered(text, name) for text in history.attempts.loc[is_left, columns.ATTEMPT_INPUTS]]
    left = pd.Series(known, index=taken.index[is_left], dtype=object)
    return taken.where(~is_left, left.reindex(taken.index)).infer_objects()


def _ordered(text: object, name: str) -> object:
    """Return what a row that left the table held when it was submitted."""
    inputs = read_inputs(text)
    if name == columns.SIZE and inputs and not inputs["columns"].get(name):
        return f"{inputs[columns.WIDTH]}x{inputs[columns.HEIGHT]}"
    return own_cells(inputs).get(name, inputs.get(name)) if inputs else None


def _times(history: History) -> tuple[pd.Series, pd.Series]:
    return history.rows[columns.SUBMITTED_AT], history.attempts[columns.SENT_AT]


def _buckets(history: History, length: str) -> list[pd.Series]:
    if not _is_length(length):
        names = [str(name) for name in history.rows.columns]
        known = ", ".join(name for name in names if not name.startswith(columns.STORED_PREFIX))
        raise UsageError(
            f'by={length!r} is no column of the results, and no length of time such as "1h"; the columns are {known}.'
        )
    return [times.dt.floor(pd.Timedelta(length)) for times in _times(history)]


def _is_length(text: str) -> bool:
    try:
        return bool(pd.Timedelta(text) > pd.Timedelta(0))
    except (ValueError, TypeError):
        return False


def _size(rows: pd.DataFrame) -> pd.Series:
    """Width x height as submitted where a ledger tells, else as received."""
    names = [columns.STORED_PREFIX + name for name in (columns.WIDTH, columns.HEIGHT)]
    if names[0] not in rows.columns:
        names = [columns.OUTPUT_WIDTH, columns.OUTPUT_HEIGHT]
    width, height = (rows[name].astype(columns.STR) for name in names)
    return width + "x" + height


def list_attempts(history: History) -> pd.DataFrame:
    """Lay out every attempt with its directory and its row, in the order they were sent."""
    attempts = history.attempts
    rows = pd.DataFrame({columns.ROW: history.rows[LABEL], columns.POSITION: _positions(history.rows)})
    told = rows.reindex(history.places).set_axis(attempts.index)
    told[columns.COST_USD] = pd.to_numeric(attempts[columns.COST])
    table = pd.concat([attempts, told], axis=1)[list(columns.ATTEMPTS_MADE)]
    table = table.sort_values(columns.SENT_AT, kind="stable", ignore_index=True)
    return table.astype(columns.dtypes(columns.ATTEMPTS_MADE))


def _positions(rows: pd.DataFrame) -> pd.Series:
    """Give each row's position in its own directory's table."""
    return rows.groupby(DIRECTORY, sort=False).cumcount().astype(columns.INT)
