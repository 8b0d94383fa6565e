"""How long attempts took, phase by phase, and how many were done when."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.errors import UsageError
from dreamo_batch.results.frame import plausible
from dreamo_batch.results.history import group

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
    """Give mean and quantiles of each phase, group by group."""
    groups = group(history, by, reserved=columns.LATENCY)
    seconds = phases(history.attempts)
    parts = [
        _quantiles(seconds[phase], groups.of_attempts).assign(**{columns.PHASE: phase}) for phase in seconds
    ]
    table = pd.concat(parts).reset_index(names=_GROUP)
    table[columns.PHASE] = pd.Categorical(table[columns.PHASE], columns.PHASES)
    table = table.sort_values([_GROUP, columns.PHASE], ignore_index=True)
    shaped = table[list(columns.LATENCY)].astype(
        columns.dtypes(columns.LATENCY) | {columns.PHASE: pd.CategoricalDtype(columns.PHASES)}
    )
    return pd.concat([groups.keys.take(table[_GROUP]).reset_index(drop=True), shaped], axis=1)


def phases(attempts: pd.DataFrame) -> pd.DataFrame:
    """Measure the phases of each attempt."""
    known = _service_times(attempts[columns.METADATA])
    measured = {
        columns.CREATE: _between(attempts, columns.SENT_AT, columns.ANSWERED_AT),
        columns.QUOTA: attempts[columns.WAITED_S].astype(columns.FLOAT),
        columns.QUEUE: known["in_queue_at"],
        columns.GENERATION: known["completed_at"] - known["in_queue_at"],
        columns.UPLOAD: known["upload_at"] - known["completed_at"],
        columns.TASK: _between(attempts, columns.SENT_AT, columns.COMPLETED_AT),
        columns.DOWNLOAD: _between(attempts, columns.COMPLETED_AT, columns.SAVED_AT),
    }
    seconds = pd.DataFrame(measured, index=attempts.index)
    return plausible(seconds)


def count_throughput(history: History, every: str | None = None) -> pd.DataFrame:
    """Count what was sent and done in each stretch of time, from the first attempt to the last end."""
    attempts = history.attempts[history.attempts[columns.SENT_AT].notna()]
    if not len(attempts):
        return pd.DataFrame(columns=list(columns.THROUGHPUT)).astype(columns.dtypes(columns.THROUGHPUT))
    begin, end = (
        attempts[columns.SENT_AT].min(),
        attempts[[columns.SENT_AT, columns.COMPLETED_AT]].max().max(),
    )
    step = _step(every, end - begin)
    starts = pd.date_range(begin.floor(step), end, freq=step)
    return _counted(attempts, starts, step)


def _counted(attempts: pd.DataFrame, starts: pd.DatetimeIndex, step: pd.Timedelta) -> pd.DataFrame:
    sent = _numbers(attempts[columns.SENT_AT], starts)
    is_ended = attempts[columns.COMPLETED_AT].notna().to_numpy()
    ended = attempts[is_ended]
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
        raise UsageError(f"every={every!r} is too short for attempts that span {span}; take a longer one.")
    return step


_GROUP: Final = "group"


def _quantiles(seconds: pd.Series, numbers: np.ndarray) -> pd.DataFrame:
    known = seconds.notna().to_numpy()
    grouped = seconds[known].groupby(numbers[known])
    measured = {name: grouped.quantile(q) for name, q in _QUANTILES.items()}
    return pd.DataFrame({columns.ATTEMPTS: grouped.size(), columns.MEAN_S: grouped.mean(), **measured})


def _between(attempts: pd.DataFrame, begin: str, end: str) -> pd.Series:
    return (attempts[end] - attempts[begin]).dt.total_seconds()


def _service_times(texts: pd.Series) -> pd.DataFrame:
    """Read the service's own times: seconds since it took the attempt."""
    names = ["in_queue_at", "completed_at", "upload_at"]
    told = [json.loads(text) if isinstance(text, str) else {} for text in texts]
    cells = [[times.get(name) for name in names] for times in told]
    return pd.DataFrame(cells, columns=names, index=texts.index, dtype=columns.FLOAT)


_N_MIN: Final = 8  # fewer attempts tell nothing
_QUEUE_SHARE: Final = 0.2  # of the generation; a longer queue shows that the service works off only so many
_HEADROOM: Final = 1.2  # in flight, so that a place that falls free is taken at once
_GROWTH: Final = 2
_SECOND_US: Final = 1e6


def measure_pace(history: History) -> dict[str, Any]:
    """Measure a run's pace and say what to change."""
    attempts = history.attempts[history.attempts[columns.SENT_AT].notna()]
    waited_s = attempts[columns.WAITED_S].astype(columns.FLOAT).fillna(0.0).to_numpy()
    taken, ended = _times(attempts)
    busy_s = _covered_s(_seconds(attempts[columns.SENT_AT]) - waited_s, ended)
    n_completed = int((attempts[columns.STAGE] == str(Stage.COMPLETED)).sum())
    n_refusals = int(attempts[columns.N_REFUSALS].fillna(0).sum())
    peak = _peak(taken, ended)
    n_held = _n_held(attempts, taken, _ended_there(attempts, taken, ended)) if n_refusals else None
    advised, advice = _advise(attempts, n_refusals, peak, n_held)
    return {
        "attempts": len(attempts),
        "busy_s": busy_s,
        "per_minute": 60 * n_completed / busy_s if busy_s else None,
        "peak_in_flight": peak,
        "refusals": n_refusals,
        "waiting_share": _covered_s(taken - waited_s, taken) / busy_s if busy_s else None,
        "max_in_flight": advised,
        "advice": advice,
    }


def _advise(attempts: pd.DataFrame, n_refusals: int, peak: int, n_held: int | None) -> tuple[int | None, str]:
    n_ended = int(attempts[columns.COMPLETED_AT].notna().sum())
    if n_ended < _N_MIN:
        return None, f"{n_ended} attempts ended; at least {_N_MIN} are needed to say anything."
    if n_held is not None:
        return n_held, (
            f"The service refused creates {n_refusals} times, and held {n_held} attempts when it took those that it "
            f"had refused: max_in_flight={n_held} is as fast, without the refusals."
        )
    n_running = _n_running(attempts)
    if n_running is not None:
        advised = math.ceil(_HEADROOM * n_running)
        return advised, (
            f"The service worked on {n_running} attempts at once and let the others queue: max_in_flight={advised} "
            "keeps it busy; more only wait there instead of here."
        )
    return _GROWTH * peak, (
        f"Up to {peak} attempts were in flight; none was refused, and no queue at the service shows: "
        f"max_in_flight={_GROWTH * peak} may be faster."
    )


def _n_held(attempts: pd.DataFrame, taken: np.ndarray, ended: np.ndarray) -> int:
    """Say how many attempts the service held, in the middle, when it took one that it had refused before."""
    is_refused = (attempts[columns.N_REFUSALS].fillna(0) > 0).to_numpy(dtype=bool)
    at = taken[is_refused]
    held = np.searchsorted(np.sort(taken), at, side="right") - np.searchsorted(
        np.sort(ended), at, side="right"
    )
    return max(1, round(float(np.median(held))))


def _ended_there(attempts: pd.DataFrame, taken: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Give when each attempt ended at the service, which is before its end was seen; that where nothing tells."""
    known = phases(attempts)[[columns.QUEUE, columns.GENERATION]].sum(axis=1, skipna=False).to_numpy()
    ended: np.ndarray = np.fmin(taken + known, seen)
    return ended


def _n_running(attempts: pd.DataFrame) -> int | None:
    """Say how many attempts the service worked on at once; None unless the others queued."""
    seconds = phases(attempts)
    known = seconds[[columns.QUEUE, columns.GENERATION]].dropna()
    queue_s, generation_s = known[columns.QUEUE], known[columns.GENERATION]
    if len(known) < _N_MIN or queue_s.median() <= _QUEUE_SHARE * generation_s.median():
        return None
    begin = _seconds(attempts.loc[known.index, columns.SENT_AT]) + queue_s.to_numpy()
    return _peak(begin, begin + generation_s.to_numpy())


def _times(attempts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Give when each attempt was taken and when its end was seen, in Unix seconds; an open one goes on."""
    taken = _seconds(attempts[columns.ANSWERED_AT].fillna(attempts[columns.SENT_AT]))
    last = attempts[[columns.SENT_AT, columns.ANSWERED_AT, columns.COMPLETED_AT]].max().max()
    ended = attempts[columns.COMPLETED_AT].fillna(last)
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
