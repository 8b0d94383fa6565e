"""`by=`: which group each row and each order belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.results.frame import own_cells, read_inputs
from dreamo_batch.results.history import DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dreamo_batch.results.history import History

HOUR: Final = "hour"


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of rows and of orders.

    Attributes
    ----------
    keys : pandas.DataFrame
        One line per group, sorted, a column per part of `by`; no columns for the whole.
    of_rows, of_orders : numpy.ndarray of int
        Position in `keys` for each row, and for each order.
    """

    keys: pd.DataFrame
    of_rows: np.ndarray
    of_orders: np.ndarray


def group(history: History, by: str | Sequence[str] | None, *, reserved: Collection[str] = ()) -> Groups:
    """Find the groups.

    Parameters
    ----------
    history : History
        Rows and orders.
    by : str, sequence of str, or None
        Columns of the rows; ``"size"`` (width x height, where the table has no such column of its own);
        ``"hour"`` (of the day, UTC, of the order); a length of time such as ``"1h"``: when the order was sent,
        as column `submitted_at`. None: the whole.
    reserved : collection of str
        Names that the groups' columns can't have.

    Returns
    -------
    Groups
        An order belongs to the group of the row it was made for; one whose row is no longer in the table to that
        of what the row held when it was ordered, so that sums over all groups are always those of the ledger.

    Raises
    ------
    UsageError
        If there is no such column, or its name is taken.
    """
    names = [] if by is None else [by] if isinstance(by, str) else list(by)
    rows, orders = pd.DataFrame(index=history.rows.index), pd.DataFrame(index=history.orders.index)
    for name in names:
        column, of_rows, of_orders = _key(history, name)
        if column in reserved:
            raise UsageError(f"by={name!r}: the result has a column of that name; rename yours before.")
        rows[column], orders[column] = of_rows, of_orders
    return _numbered(rows, orders)


def _numbered(rows: pd.DataFrame, orders: pd.DataFrame) -> Groups:
    if not len(rows.columns):
        whole = pd.DataFrame(index=pd.RangeIndex(1))
        return Groups(whole, np.zeros(len(rows), dtype=int), np.zeros(len(orders), dtype=int))
    both = pd.concat([rows, orders], ignore_index=True)
    try:
        grouped = both.groupby(list(both.columns), dropna=False, sort=True, observed=True)
        numbers = grouped.ngroup().to_numpy()
    except TypeError as error:
        raise UsageError(f"by={list(both.columns)}: its values can't be grouped ({error}).") from None
    firsts = np.unique(numbers, return_index=True)[1]
    keys = both.iloc[firsts].reset_index(drop=True)
    return Groups(keys, numbers[: len(rows)], numbers[len(rows) :])


def _key(history: History, name: str) -> tuple[str, pd.Series, pd.Series]:
    """Give the name of a part of the key, its values for rows, and for orders."""
    if name == columns.RUN_DIR and DIRECTORY in history.rows.columns:
        return name, history.rows[DIRECTORY], history.orders[name]
    if name in history.rows.columns:
        return name, history.rows[name], _of_orders(history.rows[name], history, name)
    if name == columns.SIZE:
        values = _size(history.rows)
        return name, values, _of_orders(values, history, name)
    if name == HOUR:
        return name, *(times.dt.hour.astype(columns.INT) for times in _times(history))
    return columns.SUBMITTED_AT, *_buckets(history, name)


def _of_orders(values: pd.Series, history: History, name: str) -> pd.Series:
    is_left = pd.Series(history.places < 0, index=history.orders.index)
    if not is_left.any():
        return values.reindex(history.places).set_axis(is_left.index)
    taken = values.astype(object).reindex(history.places)  # -1 is no label of a RangeIndex, so it is missing
    taken = taken.set_axis(is_left.index)
    known = [_ordered(text, name) for text in history.orders.loc[is_left, columns.ORDERED_INPUTS]]
    left = pd.Series(known, index=taken.index[is_left], dtype=object)
    return taken.where(~is_left, left.reindex(taken.index)).infer_objects()


def _ordered(text: object, name: str) -> object:
    """Return what a row that left the table held when it was ordered."""
    inputs = read_inputs(text)
    if name == columns.SIZE and inputs and not inputs["columns"].get(name):
        return f"{inputs[columns.WIDTH]}x{inputs[columns.HEIGHT]}"
    return own_cells(inputs).get(name, inputs.get(name)) if inputs else None


def _times(history: History) -> tuple[pd.Series, pd.Series]:
    return history.rows[columns.SUBMITTED_AT], history.orders[columns.SENT_AT]


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
    """Width x height as ordered where a ledger tells, else as received."""
    names = [columns.STORED_PREFIX + name for name in (columns.WIDTH, columns.HEIGHT)]
    if names[0] not in rows.columns:
        names = [columns.OUTPUT_WIDTH, columns.OUTPUT_HEIGHT]
    width, height = (rows[name].astype(columns.STR) for name in names)
    return width + "x" + height
