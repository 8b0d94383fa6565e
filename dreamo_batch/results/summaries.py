"""Summaries of attempts by group: what they cost, how long they took, and what failed and why."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd

from dreamo_batch import columns, files
from dreamo_batch.appearance import HeadedFrame, Headline
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.errors import UsageError
from dreamo_batch.jobs.fields import rating_columns
from dreamo_batch.money import ZERO, dollars, exact_text, money, times, total
from dreamo_batch.results.frame import plausible
from dreamo_batch.results.history import (
    DIRECTORY,
    LABEL,
    Directories,
    Groups,
    History,
    Source,
    group,
    grouped,
    parse_duration,
    read_directories,
    read_history,
)
from dreamo_batch.service.contract import ERROR_CODES
from dreamo_batch.text import counted, harmless, option, quoted, shortened, wording

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_USD_DIGITS: Final = 12  # far below any price, so that differences of equal amounts are 0
_RATE_MIN: Final = 0.1  # lower values are probably amounts, which the service's page also calls discounts
_COUNTED: Final = (columns.COMPLETED, columns.FAILED, columns.AMBIGUOUS)
_DUPLICATE: Final = columns.ACTIONS[2]


def costs(
    source: Source, by: str | Sequence[str] | None = None, *, plan: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Add up what attempts cost, what was wasted and what is not known, group by group.

    Parameters
    ----------
    source : path, iterable of paths, or pandas.DataFrame
        One or more run directories, or results. From a directory the sums are those of its ledger, exact, over
        all its attempts. Results hold less: only the sum of all attempts of a job, and not what was reserved. Of
        rows that a merge or `pandas.concat` repeated, the first is counted.
    by : str, sequence of str, or None
        Columns of the results, ``"run_dir"``, ``"size"``, ``"hour"`` (UTC), or a length of time such as ``"1h"``
        (buckets of when attempts were sent, column `submitted_at`). None: one line for all.
    plan : pandas.DataFrame, optional
        What `plan` returned beforehand; adds `planned_low_usd` and `planned_high_usd`.

    Returns
    -------
    pandas.DataFrame
        One line per group: its keys, then the columns of `dreamo_batch.columns.COSTS`; exact USD as decimal
        text. Unknown amounts are missing, never 0. Attempts belong to the group of their row; if the row has left
        the table, to the group of the values it had when they were submitted.

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
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["on a beach", "in the snow"], seed=[1], size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.costs(run_dir, by="prompt")[["prompt", "attempts", "spent"]].to_dict("records")
    [{'prompt': 'in the snow', 'attempts': 1, 'spent': '0.004251183'},
     {'prompt': 'on a beach', 'attempts': 1, 'spent': '0.004251183'}]
    >>> dreamo.costs(run_dir)["spent"].item()
    '0.008502366'
    """
    history = read_history(source)
    groups = group(history, by, reserved=(*columns.COSTS, *columns.COSTS_PLANNED))
    shaped = columns.typed(_added(history, groups)[list(columns.COSTS)], columns.COSTS)
    planned = [] if plan is None else [_planned(plan, history, groups)]
    return pd.concat([groups.keys, shaped, *planned], axis=1)


def sums(amounts: pd.Series, of_groups: np.ndarray, n_groups: int) -> pd.Series:
    """Add up the readable amounts exactly, by group."""
    totals = [ZERO] * n_groups
    counts = amounts.groupby([of_groups, amounts.to_numpy()]).size()  # each amount once, as most are the same
    for (number, amount), n in counts.items():
        totals[number] = total((totals[number], times(n, money(amount) or ZERO)))
    return pd.Series([exact_text(amount) for amount in totals], dtype=columns.STR)


def _is_usable(attempts: pd.DataFrame) -> pd.Series:
    """Return which attempts produced a picture that is on disk or can still be fetched."""
    has_picture = attempts[columns.OUTPUT_URL].notna() | attempts[columns.OUTPUT_PATH].notna()
    is_completed = attempts[columns.STAGE] == str(Stage.COMPLETED)
    return is_completed & has_picture & attempts[columns.OUTPUT_ERROR].isna()


def is_unpriced(attempts: pd.DataFrame) -> pd.Series:
    """Return which attempts have an unknown cost; those that failed unbilled cost nothing."""
    billed = attempts[columns.MAY_HAVE_BEEN_BILLED].astype(columns.BOOL)
    is_free = (attempts[columns.STAGE] == str(Stage.FAILED)) & ~billed.fillna(value=True)
    is_unknown = attempts[columns.COST].isna() & ~is_free
    return (is_unknown | billed.fillna(value=False)).astype(bool)  # several on one line may be known in part


def _added(history: History, groups: Groups) -> pd.DataFrame:
    """Count and add up everything that `costs` lists for a group."""
    attempts, status = history.attempts, history.rows[columns.STATUS]
    cost, reserved = attempts[columns.COST], attempts[columns.RESERVED]
    n_attempts = attempts[columns.ATTEMPTS].to_numpy(dtype=float)
    is_usable, has_no_price = _is_usable(attempts), is_unpriced(attempts)
    may_be_billed = attempts[columns.MAY_HAVE_BEEN_BILLED].astype(columns.BOOL).fillna(value=False)
    is_several = n_attempts > 1  # several attempts in one sum: which of them was paid is unknown
    is_known = _n_where(cost.notna() | ~has_no_price, groups) > 0
    is_empty = _count(groups.of_attempts, groups) == 0
    spent = _sum(cost, groups, cost.notna()).where(is_known | is_empty)
    usd, n_kept = pd.to_numeric(spent).astype(columns.FLOAT), _n_kept(history, groups)
    rates, list_usd = _prices(attempts, groups)

    def usd_per(counts: Any) -> pd.Series:
        n = pd.Series(counts).astype(columns.FLOAT)
        return usd / n.where(n > 0)

    return pd.DataFrame(
        {
            columns.N_ROWS: _count(groups.of_rows, groups),
            **{name: _count(groups.of_rows[(status == name).to_numpy()], groups) for name in _COUNTED},
            columns.ATTEMPTS: _count(groups.of_attempts, groups, n_attempts),
            columns.N_USABLE: _n_where(is_usable, groups),
            columns.N_UNPRICED: _n_where(has_no_price, groups),
            columns.SPENT: spent,
            columns.SPENT_USD: usd,
            columns.USD_PER_ATTEMPT: usd_per(_count(groups.of_attempts, groups, n_attempts * ~has_no_price)),
            columns.USD_PER_PICTURE: usd_per(_n_where(is_usable & cost.notna(), groups)),
            columns.N_KEPT: n_kept,
            columns.USD_PER_KEPT: usd_per(n_kept),
            columns.WASTE: _sum(cost, groups, ~is_usable).mask(_n_where(is_usable & is_several, groups) > 0),
            columns.POSSIBLY_BILLED: _known_sum(reserved, groups, may_be_billed),
            columns.ESTIMATED: _known_sum(reserved, groups, cost.notna()),
            columns.SAVED: _saved(history, groups),
            columns.RATES: rates,
            columns.LIST_USD: list_usd,
            columns.DISCOUNT_USD: (list_usd - usd).round(_USD_DIGITS) + 0.0,
        }
    )


def _count(numbers: np.ndarray, groups: Groups, weights: np.ndarray | None = None) -> np.ndarray:
    return np.bincount(numbers, weights, minlength=len(groups.keys)).astype(np.int64)


def _n_where(is_true: pd.Series, groups: Groups) -> np.ndarray:
    """Count the attempts in each group for which a condition is true."""
    return _count(groups.of_attempts[is_true.to_numpy(dtype=bool)], groups)


def _sum(amounts: pd.Series, groups: Groups, chosen: pd.Series) -> pd.Series:
    is_chosen = chosen.to_numpy(dtype=bool)
    return sums(amounts[is_chosen], groups.of_attempts[is_chosen], len(groups.keys))


def _known_sum(amounts: pd.Series, groups: Groups, chosen: pd.Series) -> pd.Series:
    """Sum the chosen amounts; missing if any of them is unknown."""
    return _sum(amounts, groups, chosen).mask(_n_where(chosen & amounts.isna(), groups) > 0)


def _saved(history: History, groups: Groups) -> pd.Series:
    """Add up what duplicates of completed jobs would have cost."""
    rows, attempts = history.rows, history.attempts
    keys = _job_keys(attempts)
    usable = attempts.loc[_is_usable(attempts), [*keys, columns.COST, columns.ATTEMPTS]].drop_duplicates(keys)
    is_saved = (rows[columns.DUPLICATE_OF].notna() & (rows[columns.STATUS] == columns.COMPLETED)).to_numpy()
    saved = rows[is_saved].drop(columns=columns.RUN_DIR) if DIRECTORY in rows else rows[is_saved]
    prices = saved.rename(columns={DIRECTORY: columns.RUN_DIR})[keys].merge(usable, on=keys, how="left")
    prices[columns.COST] = prices[columns.COST].mask(prices[columns.ATTEMPTS] > 1)  # a sum isn't a price
    numbers = groups.of_rows[is_saved]
    n_unknown = _count(numbers[prices[columns.COST].isna().to_numpy()], groups)
    return sums(prices[columns.COST], numbers, len(groups.keys)).mask(n_unknown > 0)


def _job_keys(attempts: pd.DataFrame) -> list[str]:
    return [columns.JOB_ID] if columns.RUN_DIR not in attempts else [columns.RUN_DIR, columns.JOB_ID]


def _n_kept(history: History, groups: Groups) -> pd.Series:
    """Count the pictures that were picked, each once; missing if none is rated."""
    rows = history.rows
    n_kept = pd.Series(pd.NA, index=groups.keys.index, dtype=columns.INT)
    if not rating_columns(rows):
        return n_kept
    is_kept = rows[columns.PICKED].fillna(value=False).astype(bool) & rows[columns.DUPLICATE_OF].isna()
    n_kept[:] = _count(groups.of_rows[is_kept.to_numpy()], groups)
    if columns.PICKED in history.attempts:  # jobs that left the table count as well, because their cost does
        left = history.attempts[history.places < 0]
        is_kept = left[columns.PICKED].fillna(value=False) & ~left.duplicated(_job_keys(left))
        n_kept += _count(groups.of_attempts[left.index[is_kept]], groups)
    return n_kept


def _prices(attempts: pd.DataFrame, groups: Groups) -> tuple[pd.Series, pd.Series]:
    """Return the discount rates, and the cost before discount; a cost of 0 has no list price."""
    cost = pd.to_numeric(attempts[columns.COST]).astype(columns.FLOAT)
    rates = attempts[columns.DISCOUNT]
    rate = pd.to_numeric(rates, errors="coerce").astype(columns.FLOAT)
    rate = rate.where((rate >= _RATE_MIN) & (rate <= 1) & (attempts[columns.ATTEMPTS] == 1).astype(bool))
    is_paid = cost > 0
    weights = (cost / rate)[is_paid].fillna(0.0)
    listed = np.bincount(groups.of_attempts[is_paid], weights, minlength=len(groups.keys))
    is_known = (_n_where(is_paid, groups) > 0) & (_n_where(is_paid & rate.isna(), groups) == 0)
    known = pd.DataFrame({"group": groups.of_attempts, "rate": rates.array}).dropna().drop_duplicates()
    named = (known["rate"].sort_values() + ", ").groupby(known["group"]).sum().str.removesuffix(", ")
    return named.reindex(groups.keys.index).astype(columns.STR), pd.Series(listed).where(is_known)


def _planned(plan: pd.DataFrame, history: History, groups: Groups) -> pd.DataFrame:
    """Add up the planned cost of rows; duplicates were planned at 0."""
    if absent := [name for name in columns.PLAN if name not in getattr(plan, "columns", ())]:
        raise UsageError(f"plan= isn't a plan (no {absent[0]!r} column). Pass what plan() returned.")
    rows = plan[plan[columns.JOB_ID].notna() & (plan[columns.ACTION] != _DUPLICATE)]
    rows = rows.drop_duplicates(columns.JOB_ID).set_index(columns.JOB_ID)
    is_first = history.rows[columns.DUPLICATE_OF].isna().to_numpy()
    jobs, numbers = history.rows.loc[is_first, columns.JOB_ID], groups.of_rows[is_first]
    sources = {columns.PLANNED_LOW_USD: columns.COST_LOW_USD, columns.PLANNED_HIGH_USD: columns.COST_HIGH_USD}
    planned = {
        name: jobs.map(rows[source]).groupby(numbers).sum(min_count=1) for name, source in sources.items()
    }
    return columns.typed(pd.DataFrame(planned, index=groups.keys.index), columns.COSTS_PLANNED)


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

_N_MIN: Final = 8  # attempts needed for advice
_QUEUE_SHARE: Final = 0.2  # of the generation; a longer queue shows that the service limits how many run
_HEADROOM: Final = 1.2  # extra tasks in flight, so that a free slot is used at once
_GROWTH: Final = 2
_OFTEN: Final = 0.9  # of the attempts: more at once were few, or their ends seen late


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
        of_group = seconds[known].groupby(groups.of_attempts[known])
        measured = {name: of_group.quantile(q) for name, q in _QUANTILES.items()}
        measured |= {columns.ATTEMPTS: of_group.size(), columns.MEAN_S: of_group.mean()}
        parts.append(pd.DataFrame(measured).assign(**{columns.PHASE: phase}))
    table = columns.typed(pd.concat(parts).reset_index(names=_GROUP), columns.LATENCY)
    table = table.sort_values([_GROUP, columns.PHASE], ignore_index=True)
    keys = groups.keys.take(table[_GROUP]).reset_index(drop=True)
    return pd.concat([keys, table[list(columns.LATENCY)]], axis=1)


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
    # If the clock was set back, an attempt may seem to have ended before it was sent.
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
    return columns.typed(pd.DataFrame(table), columns.THROUGHPUT)


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
    n_open = _n_open(attempts, taken, ended) if n_refusals else None
    advised, advice = _advise(attempts, n_refusals, peak, n_open)
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
    """Measure the phases of each attempt in seconds; the service's own times start when it accepted the attempt."""
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
    return np.asarray(starts.searchsorted(pd.DatetimeIndex(times), side="right")) - 1


def _step(every: str | None, span: pd.Timedelta) -> pd.Timedelta:
    if every is None:
        steps = [pd.Timedelta(step) for step in _STEPS]
        return next((step for step in steps if span / step <= _N_BUCKETS), steps[-1])
    step = parse_duration(every)
    if step is None:
        raise UsageError(f'every={quoted(every)} isn\'t a length of time; write one such as "1min" or "1h".')
    if span / step > _N_BUCKETS_MAX:
        raise UsageError(
            f"every={quoted(every)} is too short for attempts that span {span}; pass a longer one."
        )
    return step


def _advise(attempts: pd.DataFrame, n_refusals: int, peak: int, n_open: int | None) -> tuple[int | None, str]:
    """Return the advised number of attempts in flight, and why."""
    n_ended = int(attempts[columns.COMPLETED_AT].notna().sum())
    if n_ended < _N_MIN:
        only = f"Only {counted(n_ended, 'attempt')} {'has' if n_ended == 1 else 'have'} ended"
        return None, f"{only if n_ended else 'No attempt has ended'}; advice needs at least {_N_MIN}."
    if n_open is not None:
        return n_open, (
            f"The service refused {counted(n_refusals, 'create')}, and rarely had more than {n_open} in progress: "
            f"{option('max_in_flight', n_open)} is about as fast, with fewer refusals."
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


def _n_open(attempts: pd.DataFrame, taken: np.ndarray, seen: np.ndarray) -> int:
    """Return how many attempts were open at the service when it accepted one, but for the highest tenth."""
    known = phases(attempts)[[columns.QUEUE, columns.GENERATION]].sum(axis=1, skipna=False).to_numpy()
    at, ended = np.sort(taken), np.sort(np.fmin(taken + known, seen))  # as the service says, or as seen here
    n_open = np.searchsorted(at, at, side="right") - np.searchsorted(ended, at, side="right")
    return max(1, int(np.quantile(n_open, _OFTEN, method="higher")))


def _n_running(attempts: pd.DataFrame) -> int | None:
    """Return how many attempts the service worked on at once; None unless others were queued."""
    seconds = phases(attempts)
    known = seconds[[columns.QUEUE, columns.GENERATION]].dropna()
    queue_s, generation_s = known[columns.QUEUE], known[columns.GENERATION]
    if len(known) < _N_MIN or queue_s.median() <= _QUEUE_SHARE * generation_s.median():
        return None
    begin = _seconds(attempts.loc[known.index, columns.SENT_AT]) + queue_s.to_numpy()
    return _peak(begin, begin + generation_s.to_numpy())


def _times(attempts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return when each attempt was accepted and when its end was seen, in Unix seconds; NaN for open ones."""
    taken = _seconds(attempts[columns.ANSWERED_AT].fillna(attempts[columns.SENT_AT]))
    last = attempts[[columns.SENT_AT, columns.ANSWERED_AT, columns.COMPLETED_AT]].max().max()
    return taken, np.maximum(_seconds(attempts[columns.COMPLETED_AT].fillna(last)), taken)


def _seconds(times: pd.Series) -> np.ndarray:
    return np.asarray(times.astype(columns.TIME).astype("int64")) / 1e6  # from microseconds


def _peak(begin: np.ndarray, end: np.ndarray) -> int:
    """Return the largest number of overlapping intervals; touching ones don't overlap."""
    times = np.concatenate([end, begin])
    steps = np.concatenate([np.full(len(end), -1), np.full(len(begin), 1)])
    return int(np.cumsum(steps[np.argsort(times, kind="stable")]).max(initial=0))


def _covered_s(begin: np.ndarray, end: np.ndarray) -> float:
    """Return the length of the union of intervals."""
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order])
    covered_to = np.concatenate([begin[:1], end[:-1]])
    return float(np.maximum(end - np.maximum(begin, covered_to), 0.0).sum())


# The class of a picture that was generated but not saved; the row itself is completed.
NOT_SAVED: Final = "not_saved"


class Meaning(NamedTuple):
    """What a failure means, and what to do; see failure_groups.toml."""

    meaning: str
    advice: str
    is_ambiguous: bool = False
    fails_again: bool = False


CLASSES: Final = {
    name: Meaning(**known) for name, known in files.toml_beside(__file__, "failure_groups.toml").items()
}
_UNKNOWN: Final = Meaning("The row failed for a reason that has no description.", "Read its message.")

_KEYS: Final = [columns.RUN_DIR, columns.ERROR_CLASS, columns.ERROR_CODE, columns.PATTERN]
_N_EXAMPLES: Final = 3
_PATTERN_CHARACTERS: Final = 120
# Stages of attempts that ended badly, or have an error while they are open.
_BAD: Final = [str(stage) for stage in (Stage.FAILED, Stage.LOST, Stage.AMBIGUOUS, Stage.ACCEPTED)]
_PARTS: Final = (
    (re.compile(r"https?://\S+"), "<link>"),
    (re.compile(r"'[^']*'|\"[^\"]*\""), "<text>"),
    (re.compile(r"(?<![\w/])/\S+"), "<path>"),
    (re.compile(r"\b(?=\w*\d)(?=\w*[a-z])\w{12,}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
)


def remedy(run_dir: str | None, classes: str | None = None, rows: Sequence[str] = ()) -> str:
    """Return the call (or shell command) that retries rows of a class; without one, the call that runs all again."""
    place = _place(run_dir)
    if classes is None:
        return wording(f"dreamo.run(jobs, {place})", f"dreamo-batch run TABLE --run-dir {place}")
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(rows)
    named = f"rows={json.dumps(rows, ensure_ascii=False)}, " if rows else ""
    flag = f" --rows {shlex.quote(text.getvalue())}" if rows else ""
    return wording(
        f"dreamo.retry({place}, {named}classes={json.dumps(classes)})",
        f"dreamo-batch retry {place} --classes {classes}{flag}",
    )


def _place(run_dir: str | None) -> str:
    """Return a run directory as an argument; from results alone its name is unknown."""
    python = columns.RUN_DIR if run_dir is None else json.dumps(run_dir, ensure_ascii=False)
    return wording(python, shlex.quote(run_dir or "RUN_DIR"))


class FailureGroups(HeadedFrame):
    """A table of groups of failures, shown in full, or as a sentence if there are none."""

    def _headline(self) -> Headline | None:
        if not {*columns.FAILURES} <= {*self.columns}:
            return None
        return Headline(f"{counted(len(self), 'kind')} of failure." if len(self) else "No failures.")

    def in_full(self) -> str:
        """Return what a cut table would hide: rows, messages, advice and calls; ambiguous rows stand apart."""
        parts = ["Failed"], ["Ambiguous: may have been accepted and billed"]
        table = self.astype(object)
        for kind in table.where(table.notna(), None).to_dict("records"):
            known = CLASSES.get(kind[columns.ERROR_CLASS], _UNKNOWN)
            is_held = known.is_ambiguous and kind[columns.N_ROWS] > 0
            parts[is_held].append("\n    ".join(map(harmless, _lines(kind, is_held=is_held))))
        return "\n\n".join("\n  ".join(lines) for lines in parts if len(lines) > 1)

    _text = in_full


def _lines(kind: Mapping[str, Any], *, is_held: bool) -> list[str]:
    """Return a group of failures as lines: class and counts, meaning, advice, and the calls."""
    labels, n_rows, spent = kind[columns.EXAMPLE_ROWS], kind[columns.N_ROWS], money(kind[columns.SPENT])
    which = "" if not labels else labels if n_rows <= _N_EXAMPLES else f"such as {labels}"
    billed = [f"{dollars(spent)} spent"] if spent else []
    billed += ["may have been billed"] if kind[columns.MAY_HAVE_BEEN_BILLED] else []
    name = " ".join(filter(None, (kind[columns.ERROR_CLASS], kind[columns.ERROR_CODE])))
    rows = counted(n_rows, "row") + (which and f" ({which})")
    message, meaning = kind[columns.EXAMPLE] or "", kind[columns.MEANING]
    message = "" if message.rstrip(".") == meaning.rstrip(".") else message
    calls = list(filter(None, [kind[columns.CALL]]))
    if is_held and labels:
        place = _place(kind[columns.RUN_DIR])
        begin = wording(f"dreamo.resolve({place}, row, ", f"dreamo-batch resolve {place} ROW ")
        settled = (option("task_id", "ID"), "accepted"), (option("not_sent", value=True), "not accepted")
        calls = [f"{call}  # may be paid twice" for call in calls]
        calls = [f"{begin}{how}{wording(')', '')}  # {when}" for how, when in settled] + calls
    counts = rows, counted(kind[columns.ATTEMPTS], "attempt"), *(billed or ["not billed"])
    parts = f"{name}: {', '.join(counts)}", message, meaning, kind[columns.ADVICE]
    return [*filter(None, parts), *(f"  {call}" for call in calls)]


def failures(source: Source) -> pd.DataFrame:
    """Group what failed by class, code and message, with its meaning, advice and the call that retries it.

    Parameters
    ----------
    source : path, iterable of paths, or pandas.DataFrame
        One or more run directories, or results. A directory also holds attempts that failed before a later one
        succeeded.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.FAILURES` on a RangeIndex, most frequent first; empty if nothing failed.
        The calls in column ``call`` are Python text with the package as ``dreamo`` and your table as ``jobs``;
        from results alone the directory is the name ``run_dir``.

    Raises
    ------
    UsageError
        If `source` is neither.
    DirectoryError
        If a directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 4), size="512x512")
    >>> gateway = dreamo.LocalGateway(faults={"script": {"create": ["fail_099"]}})
    >>> with gateway:
    ...     done = dreamo.run(jobs, tempfile.mkdtemp(), gateway=gateway, progress=False)
    >>> dreamo.failures(done)[["rows", "meaning", "call"]].to_dict("records")
    [{'rows': 1, 'meaning': 'Task creation error', 'call': 'dreamo.retry(run_dir, classes="creation_error")'}]
    """
    history = read_history(source)
    rows, attempts = history.rows, history.attempts
    is_completed = attempts[columns.STAGE] == str(Stage.COMPLETED)
    is_bad = attempts[columns.STAGE].isin(_BAD) & attempts[columns.ERROR_CLASS].notna()
    attempts = _keyed(attempts[is_bad | (is_completed & attempts[columns.OUTPUT_ERROR].notna())])
    rows = rows.assign(**{columns.RUN_DIR: rows.get(DIRECTORY)})
    rows = _keyed(rows[rows[columns.ERROR_CLASS].notna() | rows[columns.OUTPUT_ERROR].notna()])
    found = grouped(rows[_KEYS], attempts[_KEYS], sort=False)
    table, of_rows, of_attempts = found.keys, found.of_rows, found.of_attempts
    n = len(table)
    billed = attempts[columns.MAY_HAVE_BEEN_BILLED].astype(columns.BOOL).fillna(value=False).to_numpy(bool)
    table[columns.N_ROWS] = np.bincount(of_rows, minlength=n)
    table[columns.ATTEMPTS] = np.bincount(of_attempts, minlength=n)
    table[columns.MAY_HAVE_BEEN_BILLED] = np.bincount(of_attempts[billed], minlength=n) > 0
    table[columns.SPENT] = sums(attempts[columns.COST], of_attempts, n)
    codes = table[columns.ERROR_CODE].astype(object).where(table[columns.ERROR_CODE].notna(), None)
    parts = dict(iter(rows.groupby(of_rows)))
    groups = [parts.get(number, rows.iloc[:0]) for number in range(n)]
    table[columns.EXAMPLE_ROWS] = [", ".join(part[LABEL].head(_N_EXAMPLES)) or None for part in groups]
    table[columns.EXAMPLE] = [next(iter(part[columns.ERROR_MESSAGE]), None) for part in groups]
    known = [meaning_of(*key) for key in zip(table[columns.ERROR_CLASS], codes, strict=True)]
    table[columns.MEANING] = [meaning.meaning for meaning in known]
    table[columns.ADVICE] = [meaning.advice for meaning in known]
    table[columns.CALL] = [_remedy_of(part, rows, one) for part, one in zip(groups, known, strict=True)]
    order = [columns.N_ROWS, columns.ATTEMPTS]
    table = table.sort_values(order, ascending=False, kind="stable", ignore_index=True)
    return FailureGroups(columns.typed(table[list(columns.FAILURES)], columns.FAILURES))


def meaning_of(error_class: str | None, error_code: str | None) -> Meaning:
    """Explain a failure by its documented code, unless its class says that the code means something else."""
    known = ERROR_CODES.get(error_code or "")
    if known is not None and known.error_class == error_class:
        return Meaning(known.meaning, known.advice)
    return CLASSES.get(error_class or "", _UNKNOWN)


def known_classes() -> set[str]:
    """Return every class of failure that this package knows."""
    return {*CLASSES, *(code.error_class for code in ERROR_CODES.values() if code.error_class)}


def _keyed(lines: pd.DataFrame) -> pd.DataFrame:
    """Return rows or attempts with their grouping columns; pictures not saved have their own class."""
    is_unsaved = lines[columns.ERROR_CLASS].isna()
    messages = lines[columns.ERROR_MESSAGE].mask(is_unsaved, lines[columns.OUTPUT_ERROR])
    patterns = {text: pattern_of(text) for text in messages.dropna().unique()}
    return lines.assign(
        **{
            columns.RUN_DIR: lines.get(columns.RUN_DIR),
            columns.ERROR_CLASS: lines[columns.ERROR_CLASS].mask(is_unsaved, NOT_SAVED),
            columns.ERROR_MESSAGE: messages,
            columns.PATTERN: messages.map(patterns),
        }
    ).astype(dict.fromkeys(_KEYS, columns.STR))


def pattern_of(message: str) -> str:
    """Return a message without the parts that vary, such as numbers and ids."""
    for part, word in _PARTS:
        message = part.sub(word, message)
    return shortened(" ".join(message.split()), _PATTERN_CHARACTERS)


def _remedy_of(part: pd.DataFrame, rows: pd.DataFrame, known: Meaning) -> str | None:
    """Return the call that retries just these rows; what was paid for is only fetched again."""
    if not len(part):
        return None
    first = part.iloc[0]
    status, error_class, run_dir = first[columns.STATUS], first[columns.ERROR_CLASS], first[columns.RUN_DIR]
    is_final = known.fails_again or CLASSES.get(error_class or "", _UNKNOWN).fails_again
    if status == columns.INVALID or (status == columns.FAILED and is_final):
        return None
    place = None if pd.isna(run_dir) else run_dir
    if status not in columns.ENDED_BADLY:
        return remedy(place)
    is_held = status == columns.AMBIGUOUS
    name, word = (columns.STATUS, status) if is_held else (columns.ERROR_CLASS, error_class)
    of_dir = rows if place is None else rows[rows[columns.RUN_DIR] == place]
    of_class = of_dir[(of_dir[name] == word) & of_dir[columns.STATUS].isin(columns.ENDED_BADLY)]
    if len(part) == len(of_class):
        return remedy(place, word)
    is_labelled = of_class[LABEL].isin(part[LABEL]).sum() == len(part)
    return remedy(place, word, part[LABEL if is_labelled else columns.JOB_ID].drop_duplicates().tolist())
