"""One line per order ever made, with the row it was made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.results.history import DIRECTORY, LABEL

if TYPE_CHECKING:
    from dreamo_batch.results.history import History


def list_attempts(history: History) -> pd.DataFrame:
    """Lay out every order with its directory and its row, in the order they were sent.

    Parameters
    ----------
    history : History
        Rows and orders of one or several ledgers.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.ATTEMPTS_MADE` on a RangeIndex.
    """
    orders = history.orders
    rows = pd.DataFrame({columns.ROW: history.rows[LABEL], columns.POSITION: _positions(history.rows)})
    told = rows.reindex(history.places).set_axis(orders.index)
    told[columns.COST_USD] = pd.to_numeric(orders[columns.COST])
    table = pd.concat([orders, told], axis=1)[list(columns.ATTEMPTS_MADE)]
    table = table.sort_values(columns.SENT_AT, kind="stable", ignore_index=True)
    return table.astype(columns.dtypes(columns.ATTEMPTS_MADE))


def _positions(rows: pd.DataFrame) -> pd.Series:
    """Give each row's position in its own directory's table."""
    return rows.groupby(DIRECTORY, sort=False).cumcount().astype(columns.INT)
