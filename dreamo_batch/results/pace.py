"""How fast a run went, what held it up, and what `max_in_flight` would suit the service."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dreamo_batch import columns
from dreamo_batch.execution.state import Stage
from dreamo_batch.results.latency import phases

if TYPE_CHECKING:
    import pandas as pd

    from dreamo_batch.results.history import History

_N_MIN: Final = 8  # fewer orders tell nothing
_QUEUE_SHARE: Final = 0.2  # of the generation; a longer queue shows that the service works off only so many
_HEADROOM: Final = 1.2  # in flight, so that a place that falls free is taken at once
_GROWTH: Final = 2
_SECOND_US: Final = 1e6


def measure_pace(history: History) -> dict[str, Any]:
    """Measure a run's pace and say what to change.

    Parameters
    ----------
    history : History
        Rows and orders.

    Returns
    -------
    dict
        ``orders``, ``busy_s`` (seconds in which any order was under way), ``per_minute`` (orders completed, by busy
        minute), ``peak_in_flight``, ``refusals``, ``waiting_share`` (of the busy time, in which an order waited
        for the service's quota), ``max_in_flight`` (advised) and ``advice``; None where it can't be told.
    """
    orders = history.orders[history.orders[columns.SENT_AT].notna()]
    waited_s = orders[columns.WAITED_S].astype(columns.FLOAT).fillna(0.0).to_numpy()
    taken, ended = _times(orders)
    busy_s = _covered_s(_seconds(orders[columns.SENT_AT]) - waited_s, ended)
    n_completed = int((orders[columns.STAGE] == str(Stage.COMPLETED)).sum())
    n_refusals = int(orders[columns.N_REFUSALS].fillna(0).sum())
    peak = _peak(taken, ended)
    n_held = _n_held(orders, taken, _ended_there(orders, taken, ended)) if n_refusals else None
    advised, advice = _advise(orders, n_refusals, peak, n_held)
    return {
        "orders": len(orders),
        "busy_s": busy_s,
        "per_minute": 60 * n_completed / busy_s if busy_s else None,
        "peak_in_flight": peak,
        "refusals": n_refusals,
        "waiting_share": _covered_s(taken - waited_s, taken) / busy_s if busy_s else None,
        "max_in_flight": advised,
        "advice": advice,
    }


def _advise(orders: pd.DataFrame, n_refusals: int, peak: int, n_held: int | None) -> tuple[int | None, str]:
    n_ended = int(orders[columns.COMPLETED_AT].notna().sum())
    if n_ended < _N_MIN:
        return None, f"{n_ended} orders ended; at least {_N_MIN} are needed to say anything."
    if n_held is not None:
        return n_held, (
            f"The service refused creates {n_refusals} times, and held {n_held} orders when it took those that it "
            f"had refused: max_in_flight={n_held} is as fast, without the refusals."
        )
    n_running = _n_running(orders)
    if n_running is not None:
        advised = math.ceil(_HEADROOM * n_running)
        return advised, (
            f"The service worked on {n_running} orders at once and let the others queue: max_in_flight={advised} "
            "keeps it busy; more only wait there instead of here."
        )
    return _GROWTH * peak, (
        f"Up to {peak} orders were in flight; none was refused, and no queue at the service shows: "
        f"max_in_flight={_GROWTH * peak} may be faster."
    )


def _n_held(orders: pd.DataFrame, taken: np.ndarray, ended: np.ndarray) -> int:
    """Say how many orders the service held, in the middle, when it took one that it had refused before."""
    is_refused = (orders[columns.N_REFUSALS].fillna(0) > 0).to_numpy(dtype=bool)
    at = taken[is_refused]
    held = np.searchsorted(np.sort(taken), at, side="right") - np.searchsorted(
        np.sort(ended), at, side="right"
    )
    return max(1, round(float(np.median(held))))


def _ended_there(orders: pd.DataFrame, taken: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Give when each order ended at the service, which is before its end was seen; that where nothing tells."""
    known = phases(orders)[[columns.QUEUE, columns.GENERATION]].sum(axis=1, skipna=False).to_numpy()
    ended: np.ndarray = np.fmin(taken + known, seen)
    return ended


def _n_running(orders: pd.DataFrame) -> int | None:
    """Say how many orders the service worked on at once; None unless the others queued."""
    seconds = phases(orders)
    known = seconds[[columns.QUEUE, columns.GENERATION]].dropna()
    queue_s, generation_s = known[columns.QUEUE], known[columns.GENERATION]
    if len(known) < _N_MIN or queue_s.median() <= _QUEUE_SHARE * generation_s.median():
        return None
    begin = _seconds(orders.loc[known.index, columns.SENT_AT]) + queue_s.to_numpy()
    return _peak(begin, begin + generation_s.to_numpy())


def _times(orders: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Give when each order was taken and when its end was seen, in Unix seconds; an open one goes on."""
    taken = _seconds(orders[columns.ANSWERED_AT].fillna(orders[columns.SENT_AT]))
    last = orders[[columns.SENT_AT, columns.ANSWERED_AT, columns.COMPLETED_AT]].max().max()
    ended = orders[columns.COMPLETED_AT].fillna(last)
    return taken, np.maximum(_seconds(ended), taken)


def _seconds(times: pd.Series) -> np.ndarray:
    seconds: np.ndarray = times.astype(columns.TIME).astype("int64").to_numpy() / _SECOND_US
    return seconds


def _peak(begin: np.ndarray, end: np.ndarray) -> int:
    """Most intervals that overlap; one that ends as another begins does not."""
    times = np.concatenate([end, begin])
    steps = np.concatenate([np.full(len(end), -1), np.full(len(begin), 1)])
    order = np.argsort(times, kind="stable")
    return int(np.cumsum(steps[order]).max(initial=0))


def _covered_s(begin: np.ndarray, end: np.ndarray) -> float:
    """Length of the union of intervals."""
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order])
    covered_to = np.concatenate([begin[:1], end[:-1]])
    return float(np.maximum(end - np.maximum(begin, covered_to), 0.0).sum())
