"""Rows and the orders behind them, side by side: what every analysis starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.execution.state import ORDERED, STATUS_OF

if TYPE_CHECKING:
    from collections.abc import Mapping

_ORDERED: Final = [str(stage) for stage in ORDERED]
# Statuses of rows whose latest order exists at the service, and the stage that order is in.
_STAGES: Final = {STATUS_OF[stage]: str(stage) for stage in sorted(ORDERED, reverse=True)}
# Columns of `History.rows` that no user's column can clash with.
LABEL: Final = columns.STORED_PREFIX + columns.ROW
DIRECTORY: Final = columns.STORED_PREFIX + columns.RUN_DIR
# Columns of an order that results tell under another name.
_RENAMED: Final = {columns.SUBMITTED_AT: columns.SENT_AT, columns.ATTEMPTS: columns.ORDER}


@dataclass(frozen=True, slots=True)
class History:
    """Rows, and every order made for them.

    Attributes
    ----------
    rows : pandas.DataFrame
        Results on a RangeIndex; their own labels as text in column `LABEL`, and of ledgers the run directory in
        column `DIRECTORY`.
    orders : pandas.DataFrame
        Columns of `dreamo_batch.columns.ORDERS`, `attempts`: how many orders a line stands for, and of ledgers
        `run_dir`.
    places : numpy.ndarray of int
        For each order the position in `rows` of the row it was made for; -1 if none is in the table.
    """

    rows: pd.DataFrame
    orders: pd.DataFrame
    places: np.ndarray


def from_ledger(results: pd.DataFrame, orders: pd.DataFrame) -> History:
    """Lay the orders of a ledger beside the results of its table.

    Parameters
    ----------
    results : pandas.DataFrame
        The user's columns and those of `dreamo_batch.columns.OUTPUTS`.
    orders : pandas.DataFrame
        Columns of `dreamo_batch.columns.ORDERS`; lines that are no orders are left out.

    Returns
    -------
    History
    """
    made = orders[orders[columns.STAGE].isin(_ORDERED)].reset_index(drop=True)
    made = made.assign(**{columns.ATTEMPTS: pd.Series(1, index=made.index, dtype=columns.INT)})
    rows = _labelled(results)
    return History(rows, made, _places(rows, made))


def from_results(results: pd.DataFrame) -> History:
    """Read the orders off results alone: those of a job are one line, with the sum of their costs.

    Parameters
    ----------
    results : pandas.DataFrame
        As from `dreamo_batch.run` or `load`, or rows of it.

    Returns
    -------
    History

    Raises
    ------
    UsageError
        If a column of results is missing.

    Examples
    --------
    >>> from_results(pd.DataFrame({"prompt": ["a"]}))
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.UsageError: These are no results: there is no column 'status'. ...
    """
    refuse_other_tables(results)
    rows = _labelled(results)
    if columns.RUN_DIR not in rows:
        rows[columns.RUN_DIR] = pd.Series(None, index=rows.index, dtype=columns.STR)
    is_made = (rows[columns.ATTEMPTS].fillna(0) > 0) & rows[columns.DUPLICATE_OF].isna()
    made = rows.loc[is_made, list(columns.OUTPUTS)].rename(columns=_RENAMED)
    made[columns.ATTEMPTS] = made[columns.ORDER]
    made[columns.STAGE] = made[columns.STATUS].astype(columns.STR).map(_STAGES)
    orders = made.reindex(columns=[*columns.ORDERS, columns.ATTEMPTS])
    orders = orders.astype(columns.dtypes(columns.ORDERS) | {columns.ATTEMPTS: columns.INT})
    if len(rows[columns.RUN_DIR].dropna().unique()) > 1:  # as from `joined`
        rows = rows.assign(**{DIRECTORY: rows[columns.RUN_DIR]})
        orders[columns.RUN_DIR] = rows.loc[is_made, columns.RUN_DIR]
    return History(rows, orders.reset_index(drop=True), np.flatnonzero(is_made.to_numpy()))


def refuse_other_tables(results: pd.DataFrame) -> None:
    """Refuse a table that is no results.

    Raises
    ------
    UsageError
        If a column of results is missing.

    Examples
    --------
    >>> refuse_other_tables(pd.DataFrame(columns=list(columns.OUTPUTS)))
    """
    absent = [name for name in columns.OUTPUTS if name not in results.columns and name != columns.RUN_DIR]
    if absent:
        raise UsageError(
            f"These are no results: there is no column {absent[0]!r}. Give the table that run or load "
            "gave back, or rows of it, or a run directory."
        )


def joined(histories: Mapping[str, History]) -> History:
    """Put directories behind each other.

    Parameters
    ----------
    histories : mapping of str to History
        By the directory's name as the user gave it.

    Returns
    -------
    History
    """
    starts = np.cumsum([0, *(len(history.rows) for history in histories.values())])
    parts = list(zip(histories.items(), starts, strict=False))
    rows = [history.rows.assign(**{DIRECTORY: name}) for (name, history), _ in parts]
    orders = [history.orders.assign(**{columns.RUN_DIR: name}) for (name, history), _ in parts]
    places = [np.where(h.places < 0, -1, h.places + start) for (_, h), start in parts]
    return History(
        pd.concat(rows, ignore_index=True), pd.concat(orders, ignore_index=True), np.concatenate(places)
    )


def _labelled(results: pd.DataFrame) -> pd.DataFrame:
    labels = pd.Series([str(label) for label in results.index], dtype=columns.STR)
    return results.reset_index(drop=True).assign(**{LABEL: labels})


def _places(rows: pd.DataFrame, orders: pd.DataFrame) -> np.ndarray:
    bought = rows.loc[rows[columns.DUPLICATE_OF].isna() & rows[columns.JOB_ID].notna(), columns.JOB_ID]
    found = pd.Index(bought).get_indexer(orders[columns.JOB_ID])
    places = bought.index.to_numpy()[found] if len(bought) else np.full(len(orders), -1)
    return np.where(found < 0, -1, places)
