"""Which seeds are good: how like the reference, how different from each other, and how well repeated pictures are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.batch.reading import load
from dreamo_batch.results import diversity as differing
from dreamo_batch.results import history, origin
from dreamo_batch.results.measuring import measure_likeness
from dreamo_batch.results.metrics import read_metrics
from dreamo_batch.results.ranking import rank_pictures, read_measures, summarise_seeds
from dreamo_batch.results.replicates import compare_equal_jobs

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import EllipsisType
    from typing import TypeAlias

    from dreamo_batch.results.metrics import Metric

    Source: TypeAlias = pd.DataFrame | str | os.PathLike[str]
    AnyMetric: TypeAlias = str | Metric | Callable[..., Any]


def measure(
    source: Source,
    metrics: AnyMetric | Iterable[AnyMetric] = ("appearance",),
    *,
    run_dir: str | os.PathLike[str] | None = None,
    n_workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how like their references pictures are, each picture once, and keep the values in the run directory.

    The built-in metrics compare whole pictures, from 0 to 1, and 1 is equal: ``"colour"`` the colours and how much
    there is of each, ``"shape"`` where edges are and which way they run, ``"appearance"`` the mean of the two. None of
    them knows whether it is the same character, or the same face. For that give a function of your own, such as the
    cosine of two embeddings (CLIP, DINO, a face model): see `Metric`.

    Parameters
    ----------
    source : pandas.DataFrame or path-like
        Results, rows of them, or a run directory.
    metrics : str, Metric or callable, or several
        What to measure: names of built-in metrics, or functions ``metric(reference, output) -> float`` of two PIL
        images, upright and RGB, each of its own size.
    run_dir : path-like, optional
        Where the pictures are, if the results don't know.
    n_workers : int, optional
        Threads; default: one for each core, 8 at most. 1 for metrics that can't be called from several.
    progress : bool
        Show a bar.

    Returns
    -------
    pandas.DataFrame
        On the index of the results: the columns of `dreamo_batch.columns.MEASURES`, and before the last a float64
        column for each metric. A value is missing, and `problem` says why, where a row has no picture, a file is gone
        or was altered, the reference is at a URL (it is not fetched), or there was nothing to measure.

    Warns
    -----
    UserWarning
        If a metric raised on some pictures; if the kept values were damaged, or can't be written.

    Raises
    ------
    UsageError
        If these are no results, their directory is not known, or a metric is none.
    DirectoryError
        If the directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", progress=False)
    >>> measured = dreamo.measure(done, ["appearance", "colour"], progress=False)
    >>> measured["appearance"].between(0, 1).tolist(), measured["problem"].isna().all()
    ([True, True], np.True_)
    """
    results, directory = _read(source, run_dir)
    return measure_likeness(results, directory, read_metrics(metrics), n_workers=n_workers, progress=progress)


def diversity(
    source: Source,
    by: str | Sequence[str] | None = "prompt",
    *,
    max_bits: float = differing.BITS_MAX,
    max_delta_e: float = differing.DELTA_E_MAX,
    run_dir: str | os.PathLike[str] | None = None,
    n_workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Say how much the pictures of each group differ from each other.

    Every two of them are compared in two ways: by perceptual hashes, which see shapes (64 bits of the lowest
    frequencies, 0 to 64; unrelated pictures differ in about 32), and by thumbnails of 16 x 16 places, which see colours
    (mean CIE 1976 Delta E under D65). What is not square is squeezed for both, so that sizes don't matter and
    proportions are not seen. Rows of the same job are one picture; replicates are several.

    Parameters
    ----------
    source : pandas.DataFrame or path-like
        Results, rows of them, or a run directory.
    by : str, sequence of str, or None
        Columns of the results; ``"size"``; None: all pictures are one group.
    max_bits, max_delta_e : float
        What counts as near-duplicates, see `near_duplicates`.
    run_dir : path-like, optional
        Where the pictures are, if the results don't know.
    n_workers : int, optional
        Threads.
    progress : bool
        Show a bar.

    Returns
    -------
    pandas.DataFrame
        One line per group: its keys, then the columns of `dreamo_batch.columns.DIVERSITY`. Distances are missing where
        there are no two pictures.

    Raises
    ------
    UsageError
        If these are no results, their directory is not known, or `by` or a bound can't be used.
    DirectoryError
        If the directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 4), size="512x512")
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", progress=False)
    >>> dreamo.diversity(done, progress=False)[["prompt", "pictures"]].to_dict("records")
    [{'prompt': 'on a beach', 'pictures': 3}]
    """
    results, directory = _read(source, run_dir)
    threshold = differing.check_threshold(max_bits, max_delta_e)
    gathered = differing.gather(
        results, directory, by, reserved=tuple(columns.DIVERSITY), n_workers=n_workers, progress=progress
    )
    return differing.summarise_diversity(gathered, threshold)


def near_duplicates(
    source: Source,
    by: str | Sequence[str] | None = "prompt",
    *,
    max_bits: float = differing.BITS_MAX,
    max_delta_e: float = differing.DELTA_E_MAX,
    limit: int = 1000,
    run_dir: str | os.PathLike[str] | None = None,
    n_workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Name the pairs of pictures that hardly differ: those close in both shape and colour.

    Parameters
    ----------
    source : pandas.DataFrame or path-like
        Results, rows of them, or a run directory.
    by : str, sequence of str, or None
        Pairs are looked for within these groups, as for `diversity`; None: everywhere.
    max_bits : float
        Most bits of 64 in which the perceptual hashes may differ.
    max_delta_e : float
        Most that the thumbnails may differ, mean CIE 1976 Delta E.
    limit : int
        The most pairs to name.
    run_dir : path-like, optional
        Where the pictures are, if the results don't know.
    n_workers : int, optional
        Threads.
    progress : bool
        Show a bar.

    Returns
    -------
    pandas.DataFrame
        One line per pair, the closest first: the keys of their group, then the columns of
        `dreamo_batch.columns.NEAR_DUPLICATES`.

    Raises
    ------
    UsageError
        If these are no results, their directory is not known, or `by` or a bound can't be used.
    DirectoryError
        If the directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(
    ...     image="data/mascot.png", prompt="on a beach", seed=[7], replicate=range(2), size="512x512"
    ... )
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", progress=False)
    >>> dreamo.near_duplicates(done, progress=False)[["row_a", "row_b", "hash_distance"]].to_dict("records")
    [{'row_a': '0', 'row_b': '1', 'hash_distance': 0}]
    """
    results, directory = _read(source, run_dir)
    threshold = differing.check_threshold(max_bits, max_delta_e)
    gathered = differing.gather(
        results,
        directory,
        by,
        reserved=tuple(columns.NEAR_DUPLICATES),
        n_workers=n_workers,
        progress=progress,
    )
    return differing.list_near_duplicates(gathered, threshold, limit)


def rank(
    source: Source,
    by: AnyMetric | Iterable[AnyMetric] = ("appearance",),
    within: str | Sequence[str] | None = "prompt",
    *,
    weights: Mapping[str, float] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    n_workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Order pictures within their groups over several measures.

    In each measure a picture stands between 1, the best of its group, and 0, the last (ties share their mean; one
    alone stands at 0.5), so that units don't matter. Its score is the weighted mean of these, and its rank the order of
    scores; equal scores share the better rank. A picture of which any value is missing is not ranked: nothing is
    guessed, and it neither gains nor loses by it. It stands last, with the reason. Rows of the same job are one
    picture.

    Parameters
    ----------
    source : pandas.DataFrame or path-like
        Results, rows of them, or a run directory.
    by : str, Metric or callable, or several
        Columns of numbers in the results, also your own; names of built-in metrics; metrics as for `measure`. Higher is
        better, unless a name has ``-`` before it (``"-latency_s"``) or a `Metric` says otherwise. A column comes before
        a metric of the same name.
    within : str, sequence of str, or None
        Groups, as for `diversity`; None: all pictures are one.
    weights : mapping of str to float, optional
        By the measure's name, without ``-``; 1 where nothing is said.
    run_dir : path-like, optional
        Where the pictures are, if the results don't know.
    n_workers : int, optional
        Threads.
    progress : bool
        Show a bar.

    Returns
    -------
    pandas.DataFrame
        On the rows' own labels, group by group, the best first: the keys of the groups, a column for each measure, then
        the columns of `dreamo_batch.columns.RANKS`.

    Raises
    ------
    UsageError
        If these are no results, a measure is none, or a group or weight can't be used.
    DirectoryError
        If the directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 4), size="512x512")
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", progress=False)
    >>> dreamo.rank(done, by=["appearance", "-latency_s"], progress=False)["prompt"].tolist()
    ['on a beach', 'on a beach', 'on a beach']
    >>> dreamo.rank(done.assign(stars=[2, 5, 3]), by="stars")["rank"].to_dict()
    {1: 1, 2: 2, 0: 3}
    """
    results, directory = _read(source, run_dir, needs_pictures=False)
    measures = read_measures(by, results)
    metrics = [one.metric for one in measures if one.metric is not None]
    values, problems = results[[]].copy(), pd.Series(index=results.index, dtype=columns.STR)
    if metrics:
        directory = origin.run_dir_of(results, directory)
        measured = measure_likeness(
            results, directory, read_metrics(metrics), n_workers=n_workers, progress=progress
        )
        problems = measured[columns.PROBLEM]
    for one in measures:
        told = results[one.name] if one.metric is None else measured[one.name]
        values[one.name] = pd.array(told, dtype="Float64").to_numpy(dtype=float, na_value=float("nan"))
    return rank_pictures(results, measures, values, problems, within=within, weights=weights)


def best_seeds(ranked: pd.DataFrame, within: str | Sequence[str] | EllipsisType | None = ...) -> pd.DataFrame:
    """Say which seeds did best over all groups.

    Of a seed that was repeated in a group the mean counts there.

    Parameters
    ----------
    ranked : pandas.DataFrame
        As from `rank`.
    within : str, sequence of str, or None
        The groups it was ranked in; by default those that `rank` was told.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.BEST_SEEDS` on a RangeIndex. Seeds ranked in the most groups come first, so
        that one good picture does not outdo a seed that is good everywhere; then by mean score.

    Raises
    ------
    UsageError
        If it is not what `rank` gives, or was not ranked within these groups.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["on a beach", "in the snow"], seed=[1, 2], size="512x512")
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", progress=False)
    >>> ranked = dreamo.rank(done.assign(stars=[2, 5, 3, 4]), by="stars")
    >>> dreamo.best_seeds(ranked)[["seed_sent", "ranked", "score", "firsts"]].to_dict("records")
    [{'seed_sent': 2, 'ranked': 2, 'score': 1.0, 'firsts': 2}, {'seed_sent': 1, 'ranked': 2, 'score': 0.0, 'firsts': 0}]
    """
    return summarise_seeds(ranked, within)


def compare_replicates(
    source: Source,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    n_workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Say how equal the pictures of equal jobs are, bought more than once by `replicate`; buys nothing.

    Parameters
    ----------
    source : pandas.DataFrame or path-like
        Results, rows of them, or a run directory.
    run_dir : path-like, optional
        Where the pictures are, if the results don't know.
    n_workers : int, optional
        Threads.
    progress : bool
        Show a bar.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.REPLICATES` on a RangeIndex: each equal job beside the one of the lowest
        `replicate`; empty if no job was bought twice.

    Raises
    ------
    UsageError
        If these are no results, or their directory is not known.
    DirectoryError
        If the directory can't be read.

    See Also
    --------
    probe_seeds : Buys a few rows twice.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(
    ...     image="data/mascot.png", prompt="on a beach", seed=[7], replicate=range(2), size="512x512"
    ... )
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", progress=False)
    >>> dreamo.compare_replicates(done, progress=False)[["seed_sent", "is_same_pixels"]].to_dict("records")
    [{'seed_sent': 7, 'is_same_pixels': True}]
    """
    results, directory = _read(source, run_dir)
    return compare_equal_jobs(results, directory, n_workers=n_workers, progress=progress)


def _read(
    source: Source, run_dir: str | os.PathLike[str] | None, *, needs_pictures: bool = True
) -> tuple[pd.DataFrame, Any]:
    """Give results and their directory; None where it is not known, and need not be."""
    results = source if isinstance(source, pd.DataFrame) else load(source)
    history.refuse_other_tables(results)
    is_known = needs_pictures or not isinstance(source, pd.DataFrame)
    directory: Path | Any = origin.run_dir_of(results, run_dir) if is_known else run_dir
    return results, directory
