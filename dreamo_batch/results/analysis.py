"""What a run cost, how long it took, and what failed: from results, or from the ledgers of run directories."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine.directory import RunDirectory, read_jobs, to_arrow, to_frame
from dreamo_batch.results import history
from dreamo_batch.results.costs import summarise_costs
from dreamo_batch.results.failures import summarise_failures
from dreamo_batch.results.history import list_attempts
from dreamo_batch.results.load import RunDir, as_paths, load, read_state
from dreamo_batch.results.timing import count_throughput, measure_pace, summarise_latency

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dreamo_batch.results.history import History


def costs(
    source: pd.DataFrame | RunDir | Iterable[RunDir],
    by: str | Sequence[str] | None = None,
    *,
    plan: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Say what attempts cost, what of it was of use, and what is not known, group by group.

    Parameters
    ----------
    source : path-like, iterable of path-like, or pandas.DataFrame
        A run directory, several at once, or results. From a directory the sums are those of its ledger, to the
        last digit, over every attempt ever made there. Results know less: only the sum of all attempts of a job, and
        nothing of what was reserved.
    by : str, sequence of str, or None
        Columns of the results, ``"run_dir"``, ``"size"``, ``"hour"`` (UTC), or a length of time such as ``"1h"``
        (buckets of when attempts were sent, column `submitted_at`). None: the whole.
    plan : pandas.DataFrame, optional
        What `plan` had said beforehand; adds `planned_low_usd` and `planned_high_usd`.

    Returns
    -------
    pandas.DataFrame
        One line per group: its keys, then the columns of `dreamo_batch.columns.COSTS`; exact USD as decimal
        text. What is not known is missing, never 0. Attempts stand in the group of the row they were made for;
        those whose row is no longer in the table in that of what it held when they were made.

    Raises
    ------
    UsageError
        If `source` is neither, or `by` names no column.
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
    return summarise_costs(read_history(source), by, plan=plan)


def attempts(run_dir: RunDir | Iterable[RunDir]) -> pd.DataFrame:
    """List every attempt ever made, also those that failed and were made again, in the order they were sent.

    Parameters
    ----------
    run_dir : path-like, or iterable of path-like
        One run directory, or several at once.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.ATTEMPTS_MADE` on a RangeIndex; times in UTC, cost in USD both as exact
        text and as a float.

    Raises
    ------
    UsageError
        If it is no path.
    DirectoryError
        If a directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.attempts(run_dir)[["attempt", "stage", "cost"]].to_dict("records")[0]
    {'attempt': 1, 'stage': 'completed', 'cost': '0.004251183'}
    """
    return list_attempts(_read_directories(as_paths(run_dir)))


def latency(
    source: pd.DataFrame | RunDir | Iterable[RunDir], by: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """Say how long attempts took: creating, waiting for quota, queue, generation, download, and in all.

    Parameters
    ----------
    source : path-like, iterable of path-like, or pandas.DataFrame
        A run directory, several at once, or results; results only know the time in all, of each job's last attempt.
    by : str, sequence of str, or None
        As for `costs`; ``["size", "use_rephraser"]`` and ``"hour"`` are what it mostly depends on.

    Returns
    -------
    pandas.DataFrame
        One line per group and phase: the group's keys, then the columns of `dreamo_batch.columns.LATENCY`; seconds.

    Raises
    ------
    UsageError
        If `source` is neither, or `by` names no column.
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
    return summarise_latency(read_history(source), by)


def throughput(source: pd.DataFrame | RunDir | Iterable[RunDir], *, every: str | None = None) -> pd.DataFrame:
    """Count attempts sent and ended, and money spent, in each stretch of time.

    Parameters
    ----------
    source : path-like, iterable of path-like, or pandas.DataFrame
        As for `latency`.
    every : str, optional
        Length of a stretch, such as ``"1min"``; default: one that gives at most 120.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.THROUGHPUT` on a RangeIndex, from the first attempt to the last end.

    Raises
    ------
    UsageError
        If `source` is neither, or `every` is no length of time that suits.
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
    return count_throughput(read_history(source), every)


def pace(source: RunDir | Iterable[RunDir]) -> dict[str, Any]:
    """Say how fast a run went, how much of the time it waited for the service's quota, and what to change.

    Parameters
    ----------
    source : path-like, or iterable of path-like
        A run directory, or several that ran at once.

    Returns
    -------
    dict
        ``attempts``, ``busy_s`` (seconds in which any attempt was under way), ``per_minute`` (attempts completed, by
        busy minute), ``peak_in_flight``, ``refusals``, ``waiting_share`` (of the busy time, in which an attempt waited
        for quota), ``max_in_flight`` (advised) and ``advice``; None where it can't be told.

    Raises
    ------
    UsageError
        If it is no path.
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
    '2 attempts ended; at least 8 are needed to say anything.'
    """
    return measure_pace(_read_directories(as_paths(source)))


def failures(source: pd.DataFrame | RunDir | Iterable[RunDir]) -> pd.DataFrame:
    """Say what failed and why: by class, code and message, what it means, and how to try just that again.

    Parameters
    ----------
    source : path-like, iterable of path-like, or pandas.DataFrame
        A run directory, several at once, or results. A directory also knows of attempts that failed before another
        one did better.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.FAILURES` on a RangeIndex, most frequent first; empty if nothing failed.
        The calls in column ``call`` are Python text, with the package as ``dreamo`` and your table as ``jobs``;
        from results alone they say ``run_dir`` for the directory.

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
    return summarise_failures(read_history(source))


def read_history(source: pd.DataFrame | RunDir | Iterable[RunDir]) -> History:
    """Read rows and attempts, from wherever they are told."""
    return (
        history.from_results(source)
        if isinstance(source, pd.DataFrame)
        else _read_directories(as_paths(source))
    )


def _read_directories(run_dirs: list[RunDir]) -> History:
    return history.joined({os.fspath(run_dir): _read_directory(run_dir) for run_dir in run_dirs})


def _read_directory(run_dir: RunDir) -> History:
    """Read one directory; what was sent stands beside what the user's table leaves to the defaults."""
    results, directory = load(run_dir), RunDirectory(run_dir)
    decided = read_jobs(directory.jobs).decided
    if len(decided) == len(results):
        for name in (columns.WIDTH, columns.HEIGHT, columns.USE_REPHRASER):
            results[columns.STORED_PREFIX + name] = decided[name].array
            if name not in results.columns:
                results[name] = decided[name].array
    attempts = to_frame(to_arrow(read_state(directory)))
    return history.from_ledger(results, attempts)
