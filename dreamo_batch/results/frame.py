"""State + the user's frame -> results on the user's own index, order and columns.

One way for all: what `run` returns, what `load` reads and what `results.parquet` holds are made here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.execution.budget import money, text, total
from dreamo_batch.execution.state import CAME_TO_NOTHING, OPEN, ORDERED, STATUS_OF, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

# Where the user's own cells of a row stand in `columns.ORDERED_INPUTS`.
_USER: Final = "columns"
Seconds = TypeVar("Seconds", pd.Series, pd.DataFrame)
_PENDING: Final = "pending"
_LONGEST_S: Final = 30 * 86_400.0
_STATUS: Final = {str(stage): status for stage, status in STATUS_OF.items()} | {_PENDING: columns.PENDING}
# Columns that the results take as they are from the order that says how its job stands.
_COPIED: Final = (
    columns.TASK_ID,
    columns.OUTPUT_URL,
    columns.OUTPUT_PATH,
    columns.OUTPUT_SHA256,
    columns.OUTPUT_BYTES,
    columns.OUTPUT_WIDTH,
    columns.OUTPUT_HEIGHT,
    columns.OUTPUT_ERROR,
    columns.OUTPUT_URLS,
    columns.OUTPUT_WARNING,
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


def with_left(results: pd.DataFrame, orders: pd.DataFrame) -> pd.DataFrame:
    """Add a row for each job that the table no longer has, with what its row held when it was ordered.

    Parameters
    ----------
    results : pandas.DataFrame
        As from `assemble`.
    orders : pandas.DataFrame
        Orders of jobs that are not in `results`; columns of `dreamo_batch.columns.ORDERS`.

    Returns
    -------
    pandas.DataFrame
        `results`, the added rows behind them, and a column `in_table`.
    """
    results = results.assign(**{columns.IN_TABLE: True})
    if not len(orders):
        return results
    orders = orders.reset_index(drop=True)
    latest = _with_deciding_last(orders).drop_duplicates(columns.JOB_ID, keep="last")
    latest = latest.sort_index().reset_index(drop=True)
    told = [read_inputs(text) for text in latest[columns.ORDERED_INPUTS]]
    user = pd.DataFrame([own_cells(one) for one in told], index=latest.index)
    named = [
        columns.JOB_ID,
        columns.SEED_SENT,
        columns.ERROR_CLASS,
        columns.ERROR_CODE,
        columns.ERROR_MESSAGE,
    ]
    rows = latest[named].assign(**{columns.DUPLICATE_OF: pd.array([None] * len(latest), dtype=columns.INT)})
    left = assemble(user[[name for name in user if name not in columns.OUTPUTS]], rows, orders)
    left.index = _labels(results.index, [one.get(columns.ROW) for one in told])
    whole = pd.concat([results, left.assign(**{columns.IN_TABLE: False})])
    own = [name for name in whole.columns if name not in columns.OUTPUTS]
    return whole[[*own, *columns.OUTPUTS]].astype(output_dtypes())


def own_cells(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's columns of an ordered row, with what was sent where the row had none of its own."""
    sent = {columns.PROMPT: inputs.get(columns.PROMPT)}
    own = inputs.get(_USER, {})
    if not any(own.get(name) for name in (columns.IMAGE, *columns.IMAGE_ALIASES)):
        sent[columns.IMAGE] = inputs.get(columns.IMAGE_SOURCE)
    return sent | {name: cell for name, cell in own.items() if cell is not None}


def read_inputs(text: object) -> dict[str, Any]:
    """Read what was ordered; nothing of it is known of orders that an older version made.

    Examples
    --------
    >>> read_inputs('{"prompt": "a fox"}'), read_inputs(None)
    ({'prompt': 'a fox'}, {})
    """
    read: dict[str, Any] = json.loads(text) if isinstance(text, str) else {}
    return read


def _labels(index: pd.Index, labels: list[str | None]) -> pd.Index:
    """Label added rows as they were labelled, in the kind of labels that the others have."""
    if isinstance(index, pd.RangeIndex):
        return pd.RangeIndex(len(index), len(index) + len(labels))
    if index.nlevels > 1:
        rest = [None] * (index.nlevels - 1)
        return pd.MultiIndex.from_tuples([(label, *rest) for label in labels], names=index.names)
    try:
        return pd.Index(labels, name=index.name).astype(index.dtype)
    except (ValueError, TypeError):
        return pd.Index(labels, name=index.name, dtype=object)


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
    """One row per job: the order that says how it stands, with sums over all of them."""
    orders = orders.assign(**{columns.ATTEMPTS: orders[columns.STAGE].isin([str(s) for s in ORDERED])})
    orders[columns.ATTEMPTS] = orders[columns.ATTEMPTS].astype(columns.INT)
    orders = _with_deciding_last(orders)
    is_followed = orders[columns.JOB_ID].duplicated(keep="last")
    if not is_followed.any():
        return _shape(orders.set_index(columns.JOB_ID, drop=False))
    latest = orders[~is_followed].set_index(columns.JOB_ID, drop=False)
    _add_up(latest, orders[orders[columns.JOB_ID].duplicated(keep=False)])
    return _shape(latest)


def _with_deciding_last(orders: pd.DataFrame) -> pd.DataFrame:
    """Put the order that says how its job stands behind the others; see `dreamo_batch.execution.state.deciding`."""
    is_one_of_several = orders[columns.JOB_ID].duplicated(keep=False)
    if not is_one_of_several.any():
        return orders
    several = orders[is_one_of_several]
    jobs, stages = several[columns.JOB_ID], several[columns.STAGE]
    is_completed = stages == str(Stage.COMPLETED)
    is_idle = ~jobs.duplicated(keep="last") & stages.isin([str(stage) for stage in CAME_TO_NOTHING])
    is_under_way = stages.isin([str(stage) for stage in OPEN]) & jobs.isin(jobs[is_idle])
    is_chosen = is_completed | (is_under_way & ~jobs.isin(jobs[is_completed]))
    chosen = several[is_chosen].drop_duplicates(columns.JOB_ID, keep="last")
    return orders if chosen.empty else pd.concat([orders.drop(chosen.index), chosen])


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
