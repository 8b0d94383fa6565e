"""How long attempts took, phase by phase, how many were done when, and how many are worth having in flight."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.errors import UsageError
from dreamo_batch.results.assembly import plausible
from dreamo_batch.results.load import as_length, group, read_directories, read_history
from dreamo_batch.text import counted, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreamo_batch.results.load import Directories, Source

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
_SERVICE_TIMES: Final = ["in_queue_at", "completed_at", "upload_at"]
_GROUP: Final = "group"

_N_MIN: Final = 8  # attempts, for advice
_QUEUE_SHARE: Final = 0.2  # of the generation; a longer queue shows that the service limits how many run
_HEADROOM: Final = 1.2  # in flight, so that a free place is taken at once
_GROWTH: Final = 2
_SECOND_US: Final = 1e6


def latency(source: Source, by: str | Sequence[str] | None = None) -> pd.DataFrame:
    """Measure how long attempts took: creating, waiting for quota, queue, generation, download, and in all.

    Parameters
    ----------
    source : path, iterable of paths, or pandas.DataFrame
        One or more run directories, or results; results hold only the total time of each job's last attempt.
    by : str, sequence of str, or None
        As for `costs`. Latency depends mostly on ``["size", "use_rephraser"]`` and ``"hour"``.

    Returns
    -------
    pandas.DataFrame
        One line per group and phase: the group's keys, then the columns of `dreamo_batch.columns.LATENCY`; seconds.

    Raises
    ------
    UsageError
        If `source` is neither, or `by` is not a column.
    DirectoryError
        If a directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.latency(run_dir, by="size")[["size", "phase", "attempts"]].tail(1).to_dict("records")
    [{'size': '512x512', 'phase': 'download', 'attempts': 2}]
    """
    history = read_history(source)
    groups = group(history, by, reserved=columns.LATENCY)
    parts = []
    for phase, seconds in phases(history.attempts).items():
        known = seconds.notna().to_numpy()
        grouped = seconds[known].groupby(groups.of_attempts[known])
        measured = {name: grouped.quantile(q) for name, q in _QUANTILES.items()}
        measured |= {columns.ATTEMPTS: grouped.size(), columns.MEAN_S: grouped.mean()}
        parts.append(pd.DataFrame(measured).assign(**{columns.PHASE: phase}))
    table = pd.concat(parts).reset_index(names=_GROUP)
    table[columns.PHASE] = pd.Categorical(table[columns.PHASE], columns.PHASES)
    table = table.sort_values([_GROUP, columns.PHASE], ignore_index=True)
    dtypes = columns.dtypes(columns.LATENCY) | {columns.PHASE: pd.CategoricalDtype(columns.PHASES)}
    keys = groups.keys.take(table[_GROUP]).reset_index(drop=True)
    return pd.concat([keys, table[list(columns.LATENCY)].astype(dtypes)], axis=1)


def throughput(source: Source, *, every: str | None = None) -> pd.DataFrame:
    """Count attempts sent and ended, and add up money spent, per interval of time.

    Parameters
    ----------
    source : path, iterable of paths, or pandas.DataFrame
        As for `latency`.
    every : str, optional
        Length of an interval, such as ``"1min"``; default: one that gives at most 120 intervals.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.THROUGHPUT` on a RangeIndex, from the first attempt to the last end.

    Raises
    ------
    UsageError
        If `source` is neither, or `every` is not a suitable length of time.
    DirectoryError
        If a directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> int(dreamo.throughput(run_dir, every="1D")["completed"].sum())
    2
    """
    history = read_history(source)
    attempts = history.attempts[history.attempts[columns.SENT_AT].notna()]
    if not len(attempts):
        return pd.DataFrame(columns=list(columns.THROUGHPUT)).astype(columns.dtypes(columns.THROUGHPUT))
    begin = attempts[columns.SENT_AT].min()
    end = attempts[[columns.SENT_AT, columns.COMPLETED_AT]].max().max()
    step = _step(every, end - begin)
    starts = pd.date_range(begin.floor(step), end, freq=step)
    sent = _numbers(attempts[columns.SENT_AT], starts)
    is_ended = attempts[columns.COMPLETED_AT].notna().to_numpy()
    ended = attempts[is_ended]
    # A clock that was set back may say that an attempt ended before it was sent.
    ends = np.maximum(_numbers(ended[columns.COMPLETED_AT], starts), sent[is_ended])
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


def pace(source: Directories) -> dict[str, Any]:
    """Measure how fast a run went and how long it waited for the service's quota, and advise what to change.

    Parameters
    ----------
    source : path, or iterable of paths
        One run directory, or several that ran at the same time.

    Returns
    -------
    dict
        ``attempts``, ``busy_s`` (seconds in which any attempt was in progress), ``per_minute`` (attempts completed
        per busy minute), ``peak_in_flight``, ``refusals``, ``waiting_share`` (part of the busy time in which an attempt
        waited for quota), ``max_in_flight`` (advised) and ``advice``; None where unknown.

    Raises
    ------
    UsageError
        If `source` is not a path.
    DirectoryError
        If a directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.pace(run_dir)["advice"]
    'Only 2 attempts have ended; advice needs at least 8.'
    """
    history = read_directories(source)
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


def phases(attempts: pd.DataFrame) -> pd.DataFrame:
    """Measure the phases of each attempt, in seconds; the service's own times count from when it took the attempt."""
    read = [json.loads(text) if isinstance(text, str) else {} for text in attempts[columns.METADATA]]
    cells = [[times.get(name) for name in _SERVICE_TIMES] for times in read]
    known = pd.DataFrame(cells, columns=_SERVICE_TIMES, index=attempts.index, dtype=columns.FLOAT)
    measured = {
        columns.CREATE: _between(attempts, columns.SENT_AT, columns.ANSWERED_AT),
        columns.QUOTA: attempts[columns.WAITED_S].astype(columns.FLOAT),
        columns.QUEUE: known["in_queue_at"],
        columns.GENERATION: known["completed_at"] - known["in_queue_at"],
        columns.UPLOAD: known["upload_at"] - known["completed_at"],
        columns.TASK: _between(attempts, columns.SENT_AT, columns.COMPLETED_AT),
        columns.DOWNLOAD: _between(attempts, columns.COMPLETED_AT, columns.SAVED_AT),
    }
    return plausible(pd.DataFrame(measured, index=attempts.index))


def _between(attempts: pd.DataFrame, begin: str, end: str) -> pd.Series:
    return (attempts[end] - attempts[begin]).dt.total_seconds()


def _numbers(times: pd.Series, starts: pd.DatetimeIndex) -> np.ndarray:
    found: np.ndarray = starts.searchsorted(pd.DatetimeIndex(times), side="right") - 1
    return found


def _step(every: str | None, span: pd.Timedelta) -> pd.Timedelta:
    if every is None:
        steps = [pd.Timedelta(step) for step in _STEPS]
        return next((step for step in steps if span / step <= _N_BUCKETS), steps[-1])
    step = as_length(every)
    if step is None:
        raise UsageError(f'every={every!r} isn\'t a length of time; write one such as "1min" or "1h".')
    if span / step > _N_BUCKETS_MAX:
        raise UsageError(f"every={every!r} is too short for attempts that span {span}; pass a longer one.")
    return step


def _advise(attempts: pd.DataFrame, n_refusals: int, peak: int, n_held: int | None) -> tuple[int | None, str]:
    """Return the number of attempts in flight to advise, and why."""
    n_ended = int(attempts[columns.COMPLETED_AT].notna().sum())
    if n_ended < _N_MIN:
        only = f"Only {counted(n_ended, 'attempt')} {'has' if n_ended == 1 else 'have'} ended"
        return None, f"{only if n_ended else 'No attempt has ended'}; advice needs at least {_N_MIN}."
    if n_held is not None:
        return n_held, (
            f"The service refused {counted(n_refusals, 'create')}, and held {counted(n_held, 'attempt')} whenever it "
            f"accepted again: {option('max_in_flight', n_held)} is as fast, without the refusals."
        )
    n_running = _n_running(attempts)
    if n_running is not None:
        advised = math.ceil(_HEADROOM * n_running)
        return advised, (
            f"The service worked on {counted(n_running, 'attempt')} at once and queued the others: "
            f"{option('max_in_flight', advised)} keeps it busy; more would only wait in its queue."
        )
    return _GROWTH * peak, (
        f"Up to {counted(peak, 'attempt')} were in flight, none was refused, and the service shows no queue: "
        f"{option('max_in_flight', _GROWTH * peak)} may be faster."
    )


def _n_held(attempts: pd.DataFrame, taken: np.ndarray, ended: np.ndarray) -> int:
    """Return the median number of attempts that the service held when it took one that it had refused before."""
    is_refused = (attempts[columns.N_REFUSALS].fillna(0) > 0).to_numpy(dtype=bool)
    at = taken[is_refused]
    held = np.searchsorted(np.sort(taken), at, side="right") - np.searchsorted(
        np.sort(ended), at, side="right"
    )
    return max(1, round(float(np.median(held))))


def _ended_there(attempts: pd.DataFrame, taken: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return when each attempt ended at the service; if unknown, when its end was seen."""
    known = phases(attempts)[[columns.QUEUE, columns.GENERATION]].sum(axis=1, skipna=False).to_numpy()
    ended: np.ndarray = np.fmin(taken + known, seen)
    return ended


def _n_running(attempts: pd.DataFrame) -> int | None:
    """Return how many attempts the service worked on at once; None unless the others queued."""
    seconds = phases(attempts)
    known = seconds[[columns.QUEUE, columns.GENERATION]].dropna()
    queue_s, generation_s = known[columns.QUEUE], known[columns.GENERATION]
    if len(known) < _N_MIN or queue_s.median() <= _QUEUE_SHARE * generation_s.median():
        return None
    begin = _seconds(attempts.loc[known.index, columns.SENT_AT]) + queue_s.to_numpy()
    return _peak(begin, begin + generation_s.to_numpy())


def _times(attempts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return when each attempt was taken and when its end was seen, in Unix seconds; an open one goes on."""
    taken = _seconds(attempts[columns.ANSWERED_AT].fillna(attempts[columns.SENT_AT]))
    last = attempts[[columns.SENT_AT, columns.ANSWERED_AT, columns.COMPLETED_AT]].max().max()
    ended = attempts[columns.COMPLETED_AT].fillna(last)
    return taken, np.maximum(_seconds(ended), taken)


def _seconds(times: pd.Series) -> np.ndarray:
    seconds: np.ndarray = times.astype(columns.TIME).astype("int64").to_numpy() / _SECOND_US
    return seconds


def _peak(begin: np.ndarray, end: np.ndarray) -> int:
    """Return the most intervals that overlap; one that ends as another begins does not."""
    times = np.concatenate([end, begin])
    steps = np.concatenate([np.full(len(end), -1), np.full(len(begin), 1)])
    order = np.argsort(times, kind="stable")
    return int(np.cumsum(steps[order]).max(initial=0))


def _covered_s(begin: np.ndarray, end: np.ndarray) -> float:
    """Return the length of the union of intervals."""
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order])
    covered_to = np.concatenate([begin[:1], end[:-1]])
    return float(np.maximum(end - np.maximum(begin, covered_to), 0.0).sum())
