"""Comparison of pictures: diversity, near-duplicates, ranking, and the calibration of scores."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd

from dreamo_batch import columns, images, likeness
from dreamo_batch.arguments import check_count, file_path, is_number, names_in
from dreamo_batch.errors import UsageError
from dreamo_batch.jobs.cells import groupable, is_blank, is_missing
from dreamo_batch.jobs.fields import convert_to_frame
from dreamo_batch.metrics import PromptMatch, VectorMetric, cosine
from dreamo_batch.parallel import Cluster, each, working
from dreamo_batch.results import load, measure
from dreamo_batch.results.frame import folders_of, places_of
from dreamo_batch.results.history import LABEL, Source, from_results, group, labelled, read_results
from dreamo_batch.results.rating_log import with_ratings
from dreamo_batch.text import counted, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import EllipsisType

    from PIL import Image

    from dreamo_batch.likeness import Distances
    from dreamo_batch.results.measure import AnyMetric

    Picture = str | os.PathLike[str]

BITS_MAX: Final = 8
DELTA_E_MAX: Final = 6.0
_HELD: Final = 4  # pairs kept in memory, as a multiple of those wanted
_LOWER: Final = "-"
_WITHIN: Final = "dreamo_within"  # key in a table's attrs: the groups in which it was ranked
_PAIR: Final = ["group", "one", "other", "bits", "delta_e"]
# The columns that identify a job apart from its replicate.
_SAME: Final = (
    columns.PROMPT,
    columns.IMAGE_DIGEST,
    columns.SEED_SENT,
    columns.WIDTH,
    columns.HEIGHT,
    columns.USE_REPHRASER,
    columns.MODEL,
    columns.IMAGES_FURTHER,
    columns.OWN_PARAMETERS,
)


class Threshold:
    """The limits below which two pictures are near-duplicates: hash bits (of 64) and Delta E, both of them."""

    def __init__(self, bits: float = BITS_MAX, delta_e: float = DELTA_E_MAX) -> None:
        for name, value in (("max_bits", bits), ("max_delta_e", delta_e)):
            if not is_number(value) or not value >= 0:
                raise UsageError(f"{name}={quoted(value)}: expected a number of at least 0.")
        self.bits, self.delta_e = float(bits), float(delta_e)


class PictureGroups:
    """The pictures of each group of results, as row positions, with their fingerprints by digest."""

    def __init__(
        self, source: Source, run_dir: load.RunDir | None, by: Any, threshold: Threshold, reserved: Any
    ) -> None:
        results = read_results(source)
        folders = folders_of(results, run_dir)
        history = from_results(results)
        self.rows, self.threshold = history.rows, threshold
        groups = group(history, by, reserved=reserved)
        self.keys = groups.keys
        subjects, _ = measure.find_subjects(results, folders)
        self.fingerprints, _ = measure.take_fingerprints(subjects)
        is_first = self.rows[columns.DUPLICATE_OF].isna().to_numpy()
        is_there = np.array([bool(one and one.sha256 in self.fingerprints) for one in subjects], dtype=bool)
        compared = np.flatnonzero(is_first & is_there)
        compared = compared[np.argsort(groups.of_rows[compared], kind="stable")]
        ends = np.searchsorted(groups.of_rows[compared], np.arange(1, len(groups.keys)))
        self.places = np.split(compared, ends) if len(groups.keys) else []
        missing = np.bincount(groups.of_rows[is_first & ~is_there], minlength=len(groups.keys))
        self.n_missing: list[int] = missing.tolist()

    def distances(self, number: int) -> Iterator[tuple[Distances, np.ndarray]]:
        """Compare the pictures of a group, by index into `places`, and mark pairs that are near-duplicates."""
        digests = self.rows[columns.OUTPUT_SHA256].iloc[self.places[number]]
        for block in likeness.distances([self.fingerprints[digest] for digest in digests]):
            yield (block, (block.bits <= self.threshold.bits) & (block.delta_e <= self.threshold.delta_e))


class Measure(NamedTuple):
    """One measure to rank by: a column of the results, or a metric."""

    name: str
    metric: measure.Metric | VectorMetric | None
    higher_is_better: bool


def diversity(
    source: Source,
    by: str | Sequence[str] | None = "prompt",
    *,
    max_bits: float = BITS_MAX,
    max_delta_e: float = DELTA_E_MAX,
    run_dir: str | os.PathLike[str] | None = None,
    n_workers: int | None = None,
    cluster: Cluster = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how much the pictures of each group differ from each other.

    Every pair is compared in two ways: by perceptual hashes, which capture shapes (64 bits of the lowest frequencies;
    unrelated pictures differ in about 32), and by thumbnails of 16 x 16 places, which capture colours (mean CIE 1976
    Delta E under D65). Sizes and proportions don't matter. Rows of the same job count as one picture, replicates as
    several.

    Parameters
    ----------
    source : pandas.DataFrame or path
        Results, rows of them, or one or more run directories; a table may hold rows of several runs.
    by : str, sequence of str, or None
        Columns of the results, or ``"size"``. None: all pictures are one group.
    max_bits, max_delta_e : float
        What counts as near-duplicates, see `near_duplicates`.
    run_dir : path, optional
        Where the pictures are; default: the directories that the rows come from.
    n_workers : int, optional
        Threads.
    cluster : dask.distributed.Client, concurrent.futures.Executor or int, optional
        As for `measure`.
    progress : bool
        Show a bar.

    Returns
    -------
    pandas.DataFrame
        One line per group: its keys, then the columns of `dreamo_batch.columns.DIVERSITY`. Distances of fewer than two
        pictures are missing.

    Raises
    ------
    UsageError
        If it is not a results table, its run directory is unknown, or `by` or a bound can't be used.
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
    threshold = Threshold(max_bits, max_delta_e)
    with working(cluster=cluster, n_workers=n_workers, progress=progress):
        compared = PictureGroups(source, run_dir, by, threshold, columns.DIVERSITY)
    return summarise_diversity(compared)


def near_duplicates(
    source: Source,
    by: str | Sequence[str] | None = "prompt",
    *,
    max_bits: float = BITS_MAX,
    max_delta_e: float = DELTA_E_MAX,
    limit: int = 1000,
    run_dir: str | os.PathLike[str] | None = None,
    n_workers: int | None = None,
    cluster: Cluster = None,
    progress: bool = True,
) -> pd.DataFrame:
    """List the pairs of pictures that hardly differ in both shape and colour.

    Parameters
    ----------
    source : pandas.DataFrame or path
        Results, rows of them, or one or more run directories; a table may hold rows of several runs.
    by : str, sequence of str, or None
        Only pictures of the same group are compared, as for `diversity`. None: all with all.
    max_bits : float
        Most bits of 64 in which the perceptual hashes may differ.
    max_delta_e : float
        Most by which the thumbnails may differ, as mean CIE 1976 Delta E.
    limit : int
        The most pairs to list.
    run_dir : path, optional
        Where the pictures are; default: the directories that the rows come from.
    n_workers : int, optional
        Threads.
    cluster : dask.distributed.Client, concurrent.futures.Executor or int, optional
        As for `measure`.
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
        If it is not a results table, its run directory is unknown, or `by` or a bound can't be used.
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
    threshold = Threshold(max_bits, max_delta_e)
    with working(cluster=cluster, n_workers=n_workers, progress=progress):
        compared = PictureGroups(source, run_dir, by, threshold, columns.NEAR_DUPLICATES)
    return list_near_duplicates(compared, limit)


def rank(
    source: Source,
    by: AnyMetric | Iterable[AnyMetric] = ("appearance",),
    within: str | Sequence[str] | None = "prompt",
    *,
    weights: Mapping[str, float] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    n_workers: int | None = None,
    cluster: Cluster = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Rank pictures within their groups by one or more measures.

    In each measure the best picture of a group scores 1 and the last 0 (ties share their mean; a single picture scores
    0.5), so that units don't matter. A picture's score is the weighted mean of these, and its rank the position of that
    score; equal scores share the better rank. A picture with a missing value is not ranked; it comes last, with the
    reason. Rows of the same job count as one picture.

    Parameters
    ----------
    source : pandas.DataFrame or path
        Results, rows of them, or one or more run directories; a table may hold rows of several runs.
    by : str, Metric or callable, or several
        Columns of numbers in the results, including your own; names of built-in metrics; metrics as for `measure`.
        Higher is better, unless a name starts with ``-`` (``"-latency_s"``) or a `Metric` says otherwise. A column
        takes precedence over a metric of the same name.
    within : str, sequence of str, or None
        Groups, as for `diversity`; None: all pictures are one.
    weights : mapping of str to float, optional
        By the measure's name, without ``-``; default 1.
    run_dir : path, optional
        Where the pictures are; default: the directories that the rows come from.
    n_workers : int, optional
        Threads.
    cluster : dask.distributed.Client, concurrent.futures.Executor or int, optional
        As for `measure`.
    progress : bool
        Show a bar.

    Returns
    -------
    pandas.DataFrame
        On the index of the results, group by group, the best first: the keys of the groups, a column per measure, then
        the columns of `dreamo_batch.columns.RANKS`.

    Raises
    ------
    UsageError
        If it is not a results table, or a measure, group or weight can't be used.
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
    source = convert_to_frame(source)
    results = read_results(source)
    is_by_rating = any(str(name).removeprefix(_LOWER) in columns.RATED for name in names_in("by", by))
    if is_by_rating or isinstance(source, pd.DataFrame):  # usually made before the pictures were rated
        with suppress(UsageError):  # without a known directory there are no ratings either
            results = with_ratings(results, places_of(results, run_dir), is_needed=is_by_rating)
    measures = read_measures(by, results)
    with working(cluster=cluster, n_workers=n_workers, progress=progress):
        values, problems = _values(results, measures, run_dir)
    history = from_results(results)
    groups = group(history, within, "within", reserved=(*columns.RANKS, *values.columns))
    kept = np.flatnonzero(history.rows[columns.DUPLICATE_OF].isna())
    numbers = groups.of_rows[kept]
    values, problems = values.iloc[kept].set_axis(kept), problems.iloc[kept].set_axis(kept)
    is_whole = values.notna().all(axis=1)
    score = _scores(values.where(is_whole), numbers, measures, _weights(measures, weights))
    placed = score.groupby(numbers).rank(ascending=False, method="min")
    table = pd.concat([groups.keys.take(numbers).set_axis(kept), values], axis=1)
    table = table.join(history.rows[[columns.SEED_SENT, columns.JOB_ID]].iloc[kept])
    table[columns.SCORE], table[columns.RANK] = score, placed
    table[columns.PROBLEM] = problems.fillna(values.isna().idxmax(axis=1) + " is missing").where(~is_whole)
    order = np.lexsort((kept, placed.fillna(np.inf).to_numpy(), numbers))
    ranked = columns.typed(table, columns.RANKS).iloc[order].set_axis(results.index[kept[order]])
    ranked.attrs[_WITHIN] = list(groups.keys.columns)
    return ranked


def _values(
    results: pd.DataFrame, measures: Sequence[Measure], run_dir: str | os.PathLike[str] | None
) -> tuple[pd.DataFrame, pd.Series]:
    """Return the value of each measure for each row, and why values are missing."""
    metrics = [criterion.metric for criterion in measures if criterion.metric is not None]
    measured, problems = results, pd.Series(index=results.index, dtype=columns.STR)
    if metrics:
        folders = folders_of(results, run_dir)
        measured = measure.measure_likeness(results, folders, measure.read_metrics(metrics))[0]
        problems = measured[columns.PROBLEM]
    values = results[[]].copy()
    for by in measures:
        numbers = (results if by.metric is None else measured)[by.name]
        values[by.name] = pd.array(numbers, dtype="Float64").to_numpy(dtype=float, na_value=float("nan"))
    return values, problems


def best_seeds(ranked: pd.DataFrame, within: str | Sequence[str] | EllipsisType | None = ...) -> pd.DataFrame:
    """List the seeds that did best over all groups.

    If a seed was repeated in a group, the mean of its pictures counts there.

    Parameters
    ----------
    ranked : pandas.DataFrame
        What `rank` returned.
    within : str, sequence of str, or None
        The groups it was ranked in; default: those passed to `rank`.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.BEST_SEEDS` on a RangeIndex: first by the number of groups a seed was ranked
        in, so that one good picture doesn't beat a seed that is good everywhere, then by mean score.

    Raises
    ------
    UsageError
        If it is not what `rank` returned, or was not ranked within these groups.

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
    attrs = getattr(ranked, "attrs", {})
    within = attrs.get(_WITHIN, columns.PROMPT) if within is ... else within
    keys = list(dict.fromkeys(names_in("within", within)))
    if absent := [name for name in [*columns.RANKS, *keys] if name not in getattr(ranked, "columns", ())]:
        raise UsageError(f"No column {absent[0]!r}: pass what rank() returned, and the same within=.")
    groups = pd.Series(0, index=ranked.index)
    if keys:
        groups = groupable(ranked[keys]).groupby(keys, dropna=False).ngroup()
    is_first, is_unranked = (ranked[columns.RANK] == 1).fillna(value=False), ranked[columns.RANK].isna()
    pictures = ranked.assign(
        **{columns.N_FIRST: is_first.astype(int), columns.N_UNRANKED: is_unranked.astype(int)},
        **{columns.RANK: ranked[columns.RANK].astype("Float64")},
    )
    sums = {columns.SCORE: "mean", columns.RANK: "mean", columns.N_FIRST: "max", columns.N_UNRANKED: "sum"}
    by_group = pictures.groupby([columns.SEED_SENT, groups.to_numpy()]).agg(sums)
    wanted = {
        columns.N_RANKED: (columns.SCORE, "count"),
        columns.N_UNRANKED: (columns.N_UNRANKED, "sum"),
        columns.SCORE: (columns.SCORE, "mean"),
        columns.SCORE_MIN: (columns.SCORE, "min"),
        columns.RANK_MEAN: (columns.RANK, "mean"),
        columns.N_FIRST: (columns.N_FIRST, "sum"),
    }
    table = by_group.groupby(columns.SEED_SENT).agg(**wanted).reset_index()
    order = [columns.N_RANKED, columns.SCORE, columns.SCORE_MIN]
    table = table.sort_values(order, ascending=False, kind="stable", ignore_index=True)
    return columns.typed(table[list(columns.BEST_SEEDS)], columns.BEST_SEEDS)


def compare_replicates(
    source: Source,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    n_workers: int | None = None,
    cluster: Cluster = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare the pictures of equal jobs that were bought more than once by `replicate`; buys nothing.

    Parameters
    ----------
    source : pandas.DataFrame or path
        Results, rows of them, or one or more run directories; a table may hold rows of several runs.
    run_dir : path, optional
        Where the pictures are; default: the directories that the rows come from.
    n_workers : int, optional
        Threads.
    cluster : dask.distributed.Client, concurrent.futures.Executor or int, optional
        As for `measure`.
    progress : bool
        Show a bar.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.REPLICATES` on a RangeIndex: each job next to the equal one with the lowest
        `replicate`; empty if no job was bought twice.

    Raises
    ------
    UsageError
        If it is not a results table, or its run directory is unknown.
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
    results = read_results(source)
    folders = folders_of(results, run_dir)
    subjects, problems = measure.find_subjects(results, folders)
    jobs = _jobs(results, folders)
    first_of = jobs.sort_values(columns.REPLICATE, kind="stable").groupby(
        list(_SAME), sort=False, dropna=False
    )
    firsts = first_of[columns.REPLICATE].transform(lambda numbers: numbers.index[0]).sort_index()
    pairs = [(int(first), int(at)) for at, first in firsts.items() if at != first]
    sides = [tuple((subjects[at], problems[at]) for at in pair) for pair in pairs]
    with working(cluster=cluster, n_workers=n_workers, progress=progress):
        done = each(sides, _compare_pair, what="comparing", is_portable=True)
        compared = pd.DataFrame([result for _, result in done], columns=list(columns.REPLICATES))
    one, other = (jobs.loc[[pair[side] for pair in pairs]].reset_index(drop=True) for side in (0, 1))
    table = compared.assign(
        **{name: one[name] for name in (columns.PROMPT, columns.SEED_SENT, columns.USE_REPHRASER)},
        **{columns.REPLICATE_A: one[columns.REPLICATE], columns.REPLICATE_B: other[columns.REPLICATE]},
        **{columns.ROW_A: one[LABEL], columns.ROW_B: other[LABEL]},
    )
    return columns.typed(table, columns.REPLICATES)


def summarise_diversity(compared: PictureGroups) -> pd.DataFrame:
    """Summarise how much the pictures of each group differ."""
    lines = [_summary(compared, number) for number in range(len(compared.keys))]
    table = columns.typed(pd.DataFrame(lines, columns=list(columns.DIVERSITY)), columns.DIVERSITY)
    return pd.concat([compared.keys, table], axis=1)


def _summary(compared: PictureGroups, number: int) -> tuple[object, ...]:
    places = compared.places[number]
    counts = (len(places), compared.n_missing[number])
    if len(places) < 2:  # noqa: PLR2004 - a pair
        return (*counts, None, None, None, None, 0, None, None)
    n_pairs, n_near, bits, delta_e = 0, 0, 0.0, 0.0
    bits_min, closest = 64, (np.inf, 0, 0)
    for block, is_near in compared.distances(number):
        n_pairs += len(block.bits)
        n_near += int(is_near.sum())
        bits += float(block.bits.sum(dtype=np.int64))
        delta_e += float(block.delta_e.sum(dtype=np.float64))
        bits_min = min(bits_min, int(block.bits.min()))
        least = int(block.delta_e.argmin())
        closest = min(closest, (float(block.delta_e[least]), int(block.one[least]), int(block.other[least])))
    labels = compared.rows[LABEL].iloc[places[list(closest[1:])]]
    return (*counts, bits / n_pairs, bits_min, delta_e / n_pairs, closest[0], n_near, *labels)


def list_near_duplicates(compared: PictureGroups, limit: int) -> pd.DataFrame:
    """List the pairs that hardly differ, the closest first."""
    check_count("limit", limit)
    found = [pd.DataFrame(columns=_PAIR, dtype=columns.FLOAT)]
    for number, places in enumerate(compared.places):
        for block, is_near in compared.distances(number):
            if is_near.any():
                sides = (places[side[is_near]] for side in (block.one, block.other))
                near = (number, *sides, block.bits[is_near], block.delta_e[is_near])
                found.append(pd.DataFrame(dict(zip(_PAIR, near, strict=True))))
            if sum(map(len, found)) > _HELD * limit:
                found = [_closest(found, limit)]
    pairs = _closest(found, limit)
    keys = compared.keys.take(pairs["group"].to_numpy(dtype=int)).reset_index(drop=True)
    return pd.concat([keys, _described(compared.rows, pairs)], axis=1)


def _closest(found: Sequence[pd.DataFrame], limit: int) -> pd.DataFrame:
    pairs = pd.concat(found, ignore_index=True)
    return pairs.sort_values(["delta_e", "bits", "one", "other"], ignore_index=True).head(limit)


def _described(rows: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    one, other = (rows.take(pairs[side].to_numpy(dtype=int)) for side in ("one", "other"))
    same = one[columns.OUTPUT_SHA256].to_numpy() == other[columns.OUTPUT_SHA256].to_numpy()
    table = {
        columns.ROW_A: one[LABEL].array,
        columns.ROW_B: other[LABEL].array,
        columns.POSITION_A: pairs["one"].array,
        columns.POSITION_B: pairs["other"].array,
        columns.SEED_A: one[columns.SEED_SENT].array,
        columns.SEED_B: other[columns.SEED_SENT].array,
        columns.HASH_DISTANCE: pairs["bits"].array,
        columns.DELTA_E: pairs["delta_e"].array,
        columns.IS_SAME_FILE: same,
        columns.PATH_A: one[columns.OUTPUT_PATH].array,
        columns.PATH_B: other[columns.OUTPUT_PATH].array,
    }
    return columns.typed(pd.DataFrame(table), columns.NEAR_DUPLICATES)


def read_measures(by: Any, results: pd.DataFrame) -> list[Measure]:
    """Parse `by`: metrics, and names of columns or metrics, with ``-`` if less is better."""
    measures = [_read_by(item, results) for item in names_in("by", by)]
    names = [criterion.name for criterion in measures]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"by={quoted(by)}: expected at least one measure, and each only once.")
    if taken := [name for name in names if name in columns.RANKS]:
        raise UsageError(f"by={quoted(by)}: the result has a column {taken[0]!r}, too. Rename yours first.")
    return measures


def _read_by(by: Any, results: pd.DataFrame) -> Measure:
    if not isinstance(by, str):
        metric = measure.read_metric(by, "by")
        return Measure(metric.name, metric, metric.higher_is_better)
    name = by.removeprefix(_LOWER)
    is_higher = name == by
    if name in results.columns:
        if not pd.api.types.is_numeric_dtype(results[name]):
            raise UsageError(f"by={quoted(by)}: column {name!r} doesn't hold numbers.")
        return Measure(name, None, is_higher)
    if name in measure.NAMED:
        return Measure(name, measure.NAMED[name], is_higher)
    if name in columns.RATED:
        raise UsageError(
            f"by={quoted(by)}: no picture is rated yet. Rate in the gallery, or with dreamo.rate()."
        )
    raise UsageError(
        f"by={quoted(by)} is neither a column of results nor a metric ({', '.join(map(repr, measure.NAMED))}, or a "
        "function). To rank by a column that measure() returned, join it to the results."
    )


def _weights(measures: Sequence[Measure], weights: Mapping[str, float] | None) -> list[float]:
    left = dict(weights) if isinstance(weights, Mapping) else {} if weights is None else {"": weights}
    if not all(map(is_number, left.values())):
        raise UsageError(f"weights={quoted(weights)}: expected numbers by the names of measures.")
    read = [float(left.pop(criterion.name, 1.0)) for criterion in measures]
    if left:
        raise UsageError(f"weights={quoted(weights)}: {next(iter(left))!r} isn't one of the measures.")
    if min(read) < 0 or not 0 < sum(read) < float("inf"):
        raise UsageError(f"weights={quoted(weights)}: expected numbers of at least 0, and one above 0.")
    return read


def _scores(
    values: pd.DataFrame, numbers: np.ndarray, measures: Sequence[Measure], weights: Sequence[float]
) -> pd.Series:
    """Return the weighted mean of scaled ranks: 1 for the best of a group, 0 for the last, 1/2 for a single picture."""
    total = pd.Series(0.0, index=values.index)
    for criterion, weight in zip(measures, weights, strict=True):
        of_group = values[criterion.name].groupby(numbers)
        rank = of_group.rank(ascending=criterion.higher_is_better, method="average")
        others = of_group.transform("count") - 1
        total += weight * ((rank - 1) / others.where(others > 0)).where(others != 0, 1 / 2)
    return (total / sum(weights)).where(values.notna().all(axis=1))


def _jobs(results: pd.DataFrame, folders: Sequence[Path]) -> pd.DataFrame:
    """Return the distinct jobs, each with the label and position of its first row."""
    rows = labelled(results)
    jobs = load.decided_for(results, folders, [*_SAME, columns.REPLICATE]).assign(**{LABEL: rows[LABEL]})
    is_out = rows[columns.JOB_ID].isna() | rows[columns.DUPLICATE_OF].notna() | jobs[columns.WIDTH].isna()
    return jobs[~is_out]


def _compare_pair(sides: tuple[tuple[measure.Subject | None, str | None], ...]) -> dict[str, Any]:
    (one, one_why), (other, other_why) = sides
    if one is None or other is None:
        return {columns.PROBLEM: one_why or other_why}
    try:
        first, second = (likeness.read(subject.path, subject.sha256) for subject in (one, other))
    except likeness.UnreadablePicture as unreadable:
        return {columns.PROBLEM: str(unreadable)}
    difference = None
    if first.size == second.size:
        levels = (np.asarray(picture, dtype=np.int16) for picture in (first, second))
        difference = float(np.abs(np.subtract(*levels)).mean())
    return {
        columns.IS_SAME_FILE: one.sha256 == other.sha256,
        columns.IS_SAME_PIXELS: difference == 0,
        columns.PIXEL_DIFFERENCE: difference,
        columns.HASH_DISTANCE: likeness.distance(*map(likeness.perceptual_hash, (first, second))),
        columns.DELTA_E: likeness.mean_delta_e(*map(likeness.thumbnail, (first, second))),
    }


# Calibration: how well a metric distinguishes pictures of the same subject from pictures of others.

_PICTURES_HELD: Final = 64
_PICTURE_FILES: Final = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well a metric tells pictures of the same subject from pictures of others; made by `calibrate`.

    Attributes
    ----------
    metric : str
        Name of the metric.
    threshold : float
        The value that separates best: the share of pairs of the same subject above it, less that of others, is
        largest (Youden's J).
    auc : float
        Area under the ROC curve: how often a pair of the same subject scores higher than one of others. 0.5 is
        chance; below it, the metric is higher for others.
    roc : pandas.DataFrame
        Columns ``threshold``, ``same_found`` and ``others_taken`` (float64, 0 to 1): of the pairs of the same subject
        and of others, the shares that reach the threshold. From the strictest to the loosest.
    n_same, n_others : int
        Pairs of each kind that had a value.
    n_missing : int
        Pairs without a value, such as pictures without a face.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> pictures = {"mascot": ["data/mascot.png"] * 2, "cat": ["data/chelsea.jpg"] * 2}
    >>> found = dreamo.calibrate("appearance", pictures, progress=False)
    >>> found.auc, found.n_same, found.n_others
    (1.0, 2, 4)
    """

    metric: str
    threshold: float
    auc: float
    n_same: int
    n_others: int
    n_missing: int
    roc: pd.DataFrame = field(repr=False, compare=False)

    def threshold_for(self, others_taken: float) -> float:
        """Return the lowest threshold at which at most this share of pairs of others is taken for the same.

        Parameters
        ----------
        others_taken : float
            A share, from 0 to 1.

        Returns
        -------
        float
            The threshold; infinite if no value keeps the share.

        Raises
        ------
        UsageError
            If it isn't a share.

        Examples
        --------
        >>> import dreamo_batch as dreamo
        >>> pictures = {"mascot": ["data/mascot.png"] * 2, "cat": ["data/chelsea.jpg"] * 2}
        >>> dreamo.calibrate("shape", pictures, progress=False).threshold_for(0.01) > 0.5
        True
        """
        if not is_number(others_taken) or not 0 <= others_taken <= 1:
            raise UsageError(f"others_taken={quoted(others_taken)}: expected a share from 0 to 1.")
        return float(self.roc.loc[self.roc["others_taken"] <= others_taken, "threshold"].iloc[-1])


def calibrate(
    metric: AnyMetric,
    pictures: Mapping[str, Iterable[Picture]] | pd.DataFrame | Picture,
    *,
    max_pairs: int = 20_000,
    n_workers: int | None = None,
    progress: bool = True,
) -> Calibration:
    """Find out what a metric's values mean, on your own pictures of the same and of other subjects.

    Every two pictures of one subject are compared, and every two of different subjects; more than `max_pairs` of a
    kind are sampled, always alike. Take pictures like those that you will judge: a threshold from photographs says
    little about drawings.

    Parameters
    ----------
    metric : str, Metric or callable
        What to calibrate; see `measure`.
    pictures : mapping, pandas.DataFrame or path
        Paths or a folder by subject; or a table with columns ``subject`` and ``image``; or a folder with a folder of
        pictures for each subject. At least two subjects, one of which has two pictures.
    max_pairs : int
        Most pairs of a kind to compare.
    n_workers : int, optional
        Threads; default: one per core, at most 8.
    progress : bool
        Show a bar.

    Returns
    -------
    Calibration
        Threshold, area under the curve, and the ROC curve as a table.

    Raises
    ------
    UsageError
        If the metric needs a prompt, a row lacks subject or image, a picture can't be read, or there are too few.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> pictures = {"mascot": ["data/mascot.png"] * 2, "cat": ["data/chelsea.jpg"] * 2}
    >>> dreamo.calibrate("appearance", pictures, progress=False).roc.columns.tolist()
    ['threshold', 'same_found', 'others_taken']
    """
    metric = measure.read_metric(metric, "metric")
    if isinstance(metric, PromptMatch):
        raise UsageError(
            f"{metric.name!r} compares a picture with its prompt; there are no subjects to tell apart."
        )
    check_count("max_pairs", max_pairs)
    paths = _read_subjects(pictures)
    subjects = [subject for subject, several in paths.items() for _ in several]
    flat = [path for several in paths.values() for path in several]
    sign = 1.0 if metric.higher_is_better else -1.0
    same, others = _pairs(subjects, max_pairs)
    if not same or not others:
        raise UsageError(
            "Calibrating needs at least two subjects, one of them with two pictures; found "
            f"{counted(len(paths), 'subject')} with {counted(len(flat), 'picture')}."
        )
    with working(n_workers=n_workers, progress=progress):
        values = _of_pairs(metric, flat, [*same, *others])
    n_missing, parts = int(np.isnan(values).sum()), (values[: len(same)], values[len(same) :])
    of_same, of_others = (sign * part[~np.isnan(part)] for part in parts)
    if not len(of_same) or not len(of_others):
        kind = "the same subject" if not len(of_same) else "different subjects"
        why = (
            f" ({measure.apply(metric, *map(_read, flat[:2])).problem})"
            if isinstance(metric, measure.Metric)
            else ""
        )
        raise UsageError(f"{metric.name!r} has no value for any two pictures of {kind}{why}.")
    roc = _roc(of_same, of_others)
    best = int((roc["same_found"] - roc["others_taken"]).to_numpy().argmax())
    auc = float(np.trapezoid(roc["same_found"], roc["others_taken"]))
    roc["threshold"] *= sign
    threshold = float(roc["threshold"].iloc[best])
    return Calibration(metric.name, threshold, auc, len(of_same), len(of_others), n_missing, roc)


def _read_subjects(pictures: Any) -> dict[str, list[Path]]:
    """Return the paths of each subject's pictures."""
    if isinstance(pictures, pd.DataFrame):
        for name in ("subject", columns.IMAGE):
            _refuse_gaps(pictures, name)
        pictures = dict(list(pictures.groupby("subject", sort=False)[columns.IMAGE]))
    if isinstance(pictures, str | os.PathLike):
        folder = file_path("pictures", pictures)
        if not folder.is_dir():
            raise UsageError(f"No folder at {folder}.")
        found = {one.name: _pictures_at(one) for one in sorted(folder.glob("[!.]*")) if one.is_dir()}
        return {subject: several for subject, several in found.items() if several}
    try:
        return {str(subject): _pictures_at(several) for subject, several in pictures.items()}
    except (AttributeError, TypeError):
        raise UsageError(
            "pictures: expected paths or a folder by subject, a table with columns subject and image (paths), or a "
            "folder with a folder for each subject."
        ) from None


def _pictures_at(places: Any) -> list[Path]:
    """Return a list of paths, given several, one, or a folder of pictures."""
    if not isinstance(places, str | os.PathLike):
        return list(map(Path, places))
    path = Path(places)
    inside = (file for file in sorted(path.glob("[!.]*")) if file.suffix.lower() in _PICTURE_FILES)
    return list(inside) if path.is_dir() else [path]


def _refuse_gaps(pictures: pd.DataFrame, name: str) -> None:
    if name not in pictures:
        raise UsageError(f"The table of pictures has no column {name!r}; it needs subject and image.")
    is_gap = pictures[name].map(lambda cell: is_missing(cell) or is_blank(cell)).to_numpy(dtype=bool)
    if is_gap.any():
        row = pictures.index[is_gap.argmax()]
        raise UsageError(f"Row {row} of the table of pictures has no {name}. Fill it in, or drop the row.")


def _pairs(subjects: Sequence[str], max_pairs: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return pairs of pictures of the same subject and of different subjects, at most `max_pairs` of each kind."""
    one, other = np.triu_indices(len(subjects), 1)
    names = np.array(subjects, dtype=object)
    is_same = names[one] == names[other] if len(one) else np.zeros(0, dtype=bool)
    chance = np.random.default_rng(1)  # the same pairs each time

    def some(of: Any) -> list[tuple[int, int]]:
        at = np.flatnonzero(of)
        if len(at) > max_pairs:
            at = np.sort(chance.choice(at, max_pairs, replace=False))
        return list(zip(one[at].tolist(), other[at].tolist(), strict=True))

    return some(is_same), some(~is_same)


def _of_pairs(metric: Any, paths: Sequence[Path], pairs: Sequence[tuple[int, int]]) -> Any:
    """Measure pairs of pictures; NaN if there is nothing to measure."""
    if isinstance(metric, VectorMetric):
        vectors: list[Any] = [vector for _, vector in measure.embedded(metric, paths, _read)]
        both = ((vectors[one], vectors[other]) for one, other in pairs)
        return np.array([np.nan if a is None or b is None else cosine(a, b) for a, b in both])
    if metric in measure.BUILT_IN.values():
        read = each(paths, lambda path: likeness.Fingerprint.of(_read(path)), what=metric.name)
        prints = [found for _, found in read]
        return np.array([measure.SCORES[metric.name](prints[one], prints[other]) for one, other in pairs])
    open_picture = functools.lru_cache(_PICTURES_HELD)(_read)

    def of_pair(pair: tuple[int, int]) -> float | None:
        return measure.apply(metric, *(open_picture(paths[at]) for at in pair)).number

    return np.array([value for _, value in each(pairs, of_pair, what=metric.name)], dtype=float)


def _read(path: Path) -> Image.Image:
    try:
        with images.opened(path) as picture:
            return images.upright_rgb(picture)
    except FileNotFoundError:
        raise UsageError(f"No picture at {path}.") from None
    except Exception as error:  # decoders raise anything at all on damaged files
        raise UsageError(f"{path} can't be read as a picture ({error}).") from error


def _roc(of_same: Any, of_others: Any) -> pd.DataFrame:
    """Return the shares of both kinds of pairs that reach each value, from the highest down."""
    thresholds = np.concatenate([[np.inf], np.unique(np.concatenate([of_same, of_others]))[::-1]])
    found, taken = (
        1 - np.searchsorted(np.sort(values), thresholds, side="left") / len(values)
        for values in (of_same, of_others)
    )
    return pd.DataFrame({"threshold": thresholds, "same_found": found, "others_taken": taken})
