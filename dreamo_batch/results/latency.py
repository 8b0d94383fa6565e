"""How long orders took, phase by phase, and how many were done when."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.execution.state import Stage
from dreamo_batch.results.frame import plausible
from dreamo_batch.results.grouping import group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreamo_batch.results.history import History

_QUANTILES: Final = {
    columns.MIN_S: 0.0,
    columns.P10_S: 0.1,
    columns.P50_S: 0.5,
    columns.P90_S: 0.9,
    columns.P99_S: 0.99,
    columns.MAX_S: 1.0,
}
_STEPS: Final = ("1s", "5s", "15s", "1min", "5min", "15min", "1h", "6h", "1D", "7D", "30D", "365D")
_N_BUCKETS: Final = 120
_N_BUCKETS_MAX: Final = 100_000
_ENDED: Final = {str(Stage.COMPLETED): columns.COMPLETED} | dict.fromkeys(
    (str(Stage.FAILED), str(Stage.LOST)), columns.FAILED
)


def summarise_latency(history: History, by: str | Sequence[str] | None = None) -> pd.DataFrame:
    """Give mean and quantiles of each phase, group by group.

    Parameters
    ----------
    history : History
        Rows and orders.
    by : str, sequence of str, or None
        See `dreamo_batch.results.grouping.group`.

    Returns
    -------
    pandas.DataFrame
        The keys of the groups, then the columns of `dreamo_batch.columns.LATENCY`; seconds. Phases that nothing
        is known of have no line.
    """
    groups = group(history, by, reserved=columns.LATENCY)
    seconds = phases(history.orders)
    parts = [
        _quantiles(seconds[phase], groups.of_orders).assign(**{columns.PHASE: phase}) for phase in seconds
    ]
    table = pd.concat(parts).reset_index(names=_GROUP)
    table[columns.PHASE] = pd.Categorical(table[columns.PHASE], columns.PHASES)
    table = table.sort_values([_GROUP, columns.PHASE], ignore_index=True)
    shaped = table[list(columns.LATENCY)].astype(
        columns.dtypes(columns.LATENCY) | {columns.PHASE: pd.CategoricalDtype(columns.PHASES)}
    )
    return pd.concat([groups.keys.take(table[_GROUP]).reset_index(drop=True), shaped], axis=1)


def phases(orders: pd.DataFrame) -> pd.DataFrame:
    """Measure the phases of each order.

    Parameters
    ----------
    orders : pandas.DataFrame
        Columns of `dreamo_batch.columns.ORDERS`.

    Returns
    -------
    pandas.DataFrame
        One float column per phase, in seconds; missing where a phase was not gone through, or nothing tells.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> from dreamo_batch.execution import checkpoint
    >>> from dreamo_batch.execution.state import Order, Stage, State
    >>> made = Order("a", 1, Stage.COMPLETED, sent_at=10.0, answered_at=11.0, completed_at=15.0)
    >>> orders = checkpoint.to_frame(checkpoint.to_arrow(State([made])))
    >>> phases(orders)[["create", "task"]].to_dict("records")
    [{'create': 1.0, 'task': 5.0}]
    """
    known = _service_times(orders[columns.METADATA])
    measured = {
        columns.CREATE: _between(orders, columns.SENT_AT, columns.ANSWERED_AT),
        columns.QUOTA: orders[columns.WAITED_S].astype(columns.FLOAT),
        columns.QUEUE: known["in_queue_at"],
        columns.GENERATION: known["completed_at"] - known["in_queue_at"],
        columns.UPLOAD: known["upload_at"] - known["completed_at"],
        columns.TASK: _between(orders, columns.SENT_AT, columns.COMPLETED_AT),
        columns.DOWNLOAD: _between(orders, columns.COMPLETED_AT, columns.SAVED_AT),
    }
    seconds = pd.DataFrame(measured, index=orders.index)
    return plausible(seconds)


def count_throughput(history: History, every: str | None = None) -> pd.DataFrame:
    """Count what was sent and done in each stretch of time, from the first order to the last end.

    Parameters
    ----------
    history : History
        Rows and orders.
    every : str or None
        Length of a stretch, such as ``"1min"``; None for one that gives at most 120.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.THROUGHPUT` on a RangeIndex, without gaps.

    Raises
    ------
    UsageError
        If `every` is no length of time, or far too short for the time that the orders span.
    """
    orders = history.orders[history.orders[columns.SENT_AT].notna()]
    if not len(orders):
        return pd.DataFrame(columns=list(columns.THROUGHPUT)).astype(columns.dtypes(columns.THROUGHPUT))
    begin, end = orders[columns.SENT_AT].min(), orders[[columns.SENT_AT, columns.COMPLETED_AT]].max().max()
    step = _step(every, end - begin)
    starts = pd.date_range(begin.floor(step), end, freq=step)
    return _counted(orders, starts, step)


def _counted(orders: pd.DataFrame, starts: pd.DatetimeIndex, step: pd.Timedelta) -> pd.DataFrame:
    sent = _numbers(orders[columns.SENT_AT], starts)
    is_ended = orders[columns.COMPLETED_AT].notna().to_numpy()
    ended = orders[is_ended]
    ends = np.maximum(
        _numbers(ended[columns.COMPLETED_AT], starts), sent[is_ended]
    )  # where a clock was set back
    words = ended[columns.STAGE].map(_ENDED)
    counts = {
        word: np.bincount(ends[(words == word).to_numpy()], minlength=len(starts))
        for word in (columns.COMPLETED, columns.FAILED)
    }
    usd = pd.to_numeric(ended[columns.COST]).fillna(0.0)
    n_sent = np.bincount(sent, minlength=len(starts))
    table = {
        columns.AT: starts,
        columns.N_SENT: n_sent,
        **counts,
        columns.PER_MINUTE: counts[columns.COMPLETED] / (step / pd.Timedelta("1min")),
        columns.N_IN_FLIGHT: np.cumsum(n_sent - np.bincount(ends, minlength=len(starts))),
        columns.SPENT_USD: np.bincount(ends, usd, minlength=len(starts)),
    }
    return pd.DataFrame(table).astype(columns.dtypes(columns.THROUGHPUT))


def _numbers(times: pd.Series, starts: pd.DatetimeIndex) -> np.ndarray:
    found: np.ndarray = starts.searchsorted(pd.DatetimeIndex(times), side="right") - 1
    return found


def _step(every: str | None, span: pd.Timedelta) -> pd.Timedelta:
    if every is None:
        steps = [pd.Timedelta(step) for step in _STEPS]
        return next((step for step in steps if span / step <= _N_BUCKETS), steps[-1])
    try:
        step = pd.Timedelta(every)
    except ValueError:
        step = pd.Timedelta(0)
    if not step > pd.Timedelta(0):
        raise UsageError(f'every={every!r} is no length of time; write one such as "1min" or "1h".')
    if span / step > _N_BUCKETS_MAX:
        raise UsageError(f"every={every!r} is too short for orders that span {span}; take a longer one.")
    return step


_GROUP: Final = "group"


def _quantiles(seconds: pd.Series, numbers: np.ndarray) -> pd.DataFrame:
    known = seconds.notna().to_numpy()
    grouped = seconds[known].groupby(numbers[known])
    measured = {name: grouped.quantile(q) for name, q in _QUANTILES.items()}
    return pd.DataFrame({columns.N_ORDERS: grouped.size(), columns.MEAN_S: grouped.mean(), **measured})


def _between(orders: pd.DataFrame, begin: str, end: str) -> pd.Series:
    return (orders[end] - orders[begin]).dt.total_seconds()


def _service_times(texts: pd.Series) -> pd.DataFrame:
    """Read the service's own times: seconds since it took the order."""
    names = ["in_queue_at", "completed_at", "upload_at"]
    told = [json.loads(text) if isinstance(text, str) else {} for text in texts]
    cells = [[times.get(name) for name in names] for times in told]
    return pd.DataFrame(cells, columns=names, index=texts.index, dtype=columns.FLOAT)
