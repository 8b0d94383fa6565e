"""State + the user's frame -> results on the user's own index, order and columns.

One way for all: what `run` returns, what `load` reads and what `results.parquet` holds are made here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.execution.budget import money, text, total
from dreamo_batch.execution.state import ORDERED, STATUS_OF, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

Seconds = TypeVar("Seconds", pd.Series, pd.DataFrame)
_PENDING: Final = "pending"
_LONGEST_S: Final = 30 * 86_400.0
_STATUS: Final = {str(stage): status for stage, status in STATUS_OF.items()} | {_PENDING: columns.PENDING}
# Columns that the results take from a job's latest order as they are.
_COPIED: Final = (
    columns.TASK_ID,
    columns.OUTPUT_URL,
    columns.OUTPUT_PATH,
    columns.OUTPUT_SHA256,
    columns.OUTPUT_BYTES,
    columns.OUTPUT_WIDTH,
    columns.OUTPUT_HEIGHT,
    columns.OUTPUT_ERROR,
    columns.DISCOUNT,
    columns.ERROR_CLASS,
    columns.ERROR_CODE,
    columns.ERROR_MESSAGE,
    columns.COMPLETED_AT,
)


def assemble(user: pd.DataFrame, rows: pd.DataFrame, orders: pd.DataFrame) -> pd.DataFrame:
    """Lay what became of the jobs beside the user's table.

    Parameters
    ----------
    user : pandas.DataFrame
        The user's own columns; any index.
    rows : pandas.DataFrame
        One row per row of `user`, in its order: job, duplicate, seed, and the error of an invalid row.
    orders : pandas.DataFrame
        Columns of `dreamo_batch.columns.ORDERS`, orders of a job in sequence.

    Returns
    -------
    pandas.DataFrame
        `user` with the columns of `dreamo_batch.columns.OUTPUTS` behind it, same index and order. `user` is
        not changed.
    """
    outcome = _to_rows(_by_job(orders), rows)
    _mark_invalid(outcome, rows)
    _mark_duplicates(outcome, rows)
    outcome[columns.JOB_ID] = rows[columns.JOB_ID].to_numpy()
    outcome[columns.DUPLICATE_OF] = rows[columns.DUPLICATE_OF].array
    outcome[columns.SEED_SENT] = rows[columns.SEED_SENT].array
    outcome[columns.RUN_DIR] = None  # a directory may be moved; who reads it says where it is
    outcome[columns.COST_USD] = pd.to_numeric(outcome[columns.COST])
    outcome = outcome[list(columns.OUTPUTS)].astype(output_dtypes())
    outcome.index = user.index
    return pd.concat([user, outcome], axis=1)


def plausible(seconds: Seconds) -> Seconds:
    """Replace lengths of time that only a clock that was set gives: negative ones, and those of 30 days or more.

    Examples
    --------
    >>> plausible(pd.Series([2.0, -1.0, 1e9])).isna().tolist()
    [False, True, True]
    """
    return seconds.where((seconds >= 0) & (seconds < _LONGEST_S))


def output_dtypes() -> dict[str, object]:
    """Give the dtypes of the result columns; the status is categorical with fixed categories.

    Examples
    --------
    >>> output_dtypes()["status"].categories[0]
    'pending'
    """
    return {**columns.dtypes(columns.OUTPUTS), columns.STATUS: pd.CategoricalDtype(columns.STATUSES)}


def _by_job(orders: pd.DataFrame) -> pd.DataFrame:
    """One row per job: its latest order, with sums over all of them."""
    orders = orders.assign(**{columns.ATTEMPTS: orders[columns.STAGE].isin([str(s) for s in ORDERED])})
    orders[columns.ATTEMPTS] = orders[columns.ATTEMPTS].astype(columns.INT)
    is_followed = orders[columns.JOB_ID].duplicated(keep="last")
    if not is_followed.any():
        return _shape(orders.set_index(columns.JOB_ID, drop=False))
    latest = orders[~is_followed].set_index(columns.JOB_ID, drop=False)
    _add_up(latest, orders[orders[columns.JOB_ID].duplicated(keep=False)])
    return _shape(latest)


def _add_up(latest: pd.DataFrame, several: pd.DataFrame) -> None:
    """Give jobs with several orders the sums over all of them."""
    by_job = several.groupby(columns.JOB_ID, sort=False)
    attempts = by_job[columns.ATTEMPTS].sum()
    latest.loc[attempts.index, columns.ATTEMPTS] = attempts
    costs = by_job[columns.COST].agg(_exact_sum).astype(columns.STR)  # without any cost it would be of floats
    latest.loc[costs.index, columns.COST] = costs
    billed = by_job[columns.MAY_HAVE_BEEN_BILLED].max()  # True if any is, and missing ones left out
    is_open = latest.loc[billed.index, columns.MAY_HAVE_BEEN_BILLED].isna()
    latest.loc[billed.index, columns.MAY_HAVE_BEEN_BILLED] = billed.mask(
        is_open & ~billed.fillna(value=False)
    )


def _shape(latest: pd.DataFrame) -> pd.DataFrame:
    shaped = latest[[*_COPIED, columns.COST, columns.ATTEMPTS, columns.MAY_HAVE_BEEN_BILLED]].copy()
    shaped[columns.STATUS] = latest[columns.STAGE].map(_STATUS)
    shaped[columns.SUBMITTED_AT] = latest[columns.SENT_AT]
    seconds = (latest[columns.COMPLETED_AT] - latest[columns.SENT_AT]).dt.total_seconds()
    shaped[columns.LATENCY_S] = plausible(seconds).astype(columns.FLOAT)
    is_untouched = latest[columns.STAGE].isin([_PENDING, str(Stage.UNSENT), str(Stage.REFUSED)])
    no_answer_due = shaped[columns.MAY_HAVE_BEEN_BILLED].isna() & is_untouched
    shaped.loc[no_answer_due, columns.MAY_HAVE_BEEN_BILLED] = False
    return shaped


def _to_rows(jobs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Repeat each job's outcome on its rows; rows without an order are pending."""
    wanted = rows[columns.JOB_ID]
    if len(jobs) == len(wanted) and (jobs.index.to_numpy() == wanted.to_numpy()).all():
        outcome = jobs.reset_index(drop=True)
    else:
        places = jobs.index.get_indexer(pd.Index(wanted))
        outcome = jobs.take(np.where(places < 0, 0, places)) if len(jobs) else jobs.reindex(wanted)
        outcome = outcome.reset_index(drop=True)
        if len(jobs):
            outcome[places < 0] = None
    is_new = outcome[columns.STATUS].isna()
    outcome.loc[is_new, columns.STATUS] = columns.PENDING
    outcome.loc[is_new, columns.ATTEMPTS] = 0
    outcome.loc[is_new, columns.MAY_HAVE_BEEN_BILLED] = False
    return outcome


def _mark_invalid(outcome: pd.DataFrame, rows: pd.DataFrame) -> None:
    is_invalid = rows[columns.JOB_ID].isna().to_numpy()
    outcome.loc[is_invalid, columns.STATUS] = columns.INVALID
    for name in (columns.ERROR_CLASS, columns.ERROR_CODE, columns.ERROR_MESSAGE):
        outcome.loc[is_invalid, name] = rows.loc[is_invalid, name].to_numpy()


def _mark_duplicates(outcome: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Let the cost stand on the row that was bought, and nothing on the others."""
    is_duplicate = rows[columns.DUPLICATE_OF].notna().to_numpy()
    has_cost = outcome[columns.COST].notna().to_numpy()
    outcome.loc[is_duplicate & has_cost, columns.COST] = "0"
    outcome.loc[is_duplicate, columns.ATTEMPTS] = 0
    outcome.loc[is_duplicate, columns.MAY_HAVE_BEEN_BILLED] = False


def _exact_sum(costs: Sequence[object]) -> str | float:
    known: list[Decimal] = [
        amount for cost in costs if isinstance(cost, str) and (amount := money(cost)) is not None
    ]
    return text(total(known)) if known else float("nan")
