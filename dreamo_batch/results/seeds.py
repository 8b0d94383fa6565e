"""How much the pictures of a group differ from each other, and which of them hardly do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine.directory import RunDirectory, read_jobs
from dreamo_batch.errors import UsageError
from dreamo_batch.parallel import each
from dreamo_batch.results import frame, history, likeness
from dreamo_batch.results import likeness as pictures
from dreamo_batch.results.history import LABEL, group
from dreamo_batch.results.likeness import Subject, distances, find_subjects, look_at
from dreamo_batch.results.load import load
from dreamo_batch.results.measure import BUILT_IN, Metric, listed, measure_likeness, read_metric, read_metrics

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import EllipsisType
    from typing import TypeAlias

    from PIL import Image

    from dreamo_batch.results.likeness import Distances, Look

    Source: TypeAlias = pd.DataFrame | str | os.PathLike[str]
    AnyMetric: TypeAlias = str | Metric | Callable[..., Any]


BITS_MAX: Final = 8
DELTA_E_MAX: Final = 6.0
_HELD: Final = 4  # times the pairs that are wanted


@dataclass(frozen=True, slots=True)
class Threshold:
    """Two pictures are near-duplicates if they differ by no more than both: bits of 64, and Delta E."""

    bits: float = BITS_MAX
    delta_e: float = DELTA_E_MAX


@dataclass(frozen=True, slots=True)
class Gathered:
    """Pictures by group."""

    rows: pd.DataFrame
    keys: pd.DataFrame
    places: list[np.ndarray]
    n_unseen: list[int]
    looks: dict[str, Look]

    def distances(self, number: int) -> Iterator[Distances]:
        """Compare the pictures of a group; positions are those of its `places`."""
        digests = self.rows[columns.OUTPUT_SHA256].iloc[self.places[number]]
        return distances([self.looks[digest] for digest in digests])


def gather(
    results: pd.DataFrame,
    run_dir: Path,
    by: str | Sequence[str] | None,
    *,
    reserved: Sequence[str] = (),
    n_workers: int | None = None,
    progress: bool = True,
) -> Gathered:
    """Look at the pictures of results, and group them."""
    told = history.from_results(results)
    groups = group(told, by, reserved=reserved)
    subjects = find_subjects(results, run_dir).of_rows
    looks, _ = look_at(subjects, run_dir, n_workers=n_workers, progress=progress)
    is_first = told.rows[columns.DUPLICATE_OF].isna().to_numpy()
    is_seen = np.array([one is not None and one.sha256 in looks for one in subjects], dtype=bool)
    compared = np.flatnonzero(is_first & is_seen)
    compared = compared[np.argsort(groups.of_rows[compared], kind="stable")]
    ends = np.searchsorted(groups.of_rows[compared], np.arange(1, len(groups.keys)))
    places = np.split(compared, ends) if len(groups.keys) else []
    unseen = np.bincount(groups.of_rows[is_first & ~is_seen], minlength=len(groups.keys))
    return Gathered(told.rows, groups.keys, places, unseen.tolist(), looks)


def summarise_diversity(gathered: Gathered, threshold: Threshold) -> pd.DataFrame:
    """Say of each group how far its pictures are from each other."""
    lines = [_line(gathered, number, threshold) for number in range(len(gathered.keys))]
    table = pd.DataFrame(lines, columns=list(columns.DIVERSITY)).astype(columns.dtypes(columns.DIVERSITY))
    return pd.concat([gathered.keys, table], axis=1)


def list_near_duplicates(gathered: Gathered, threshold: Threshold, limit: int) -> pd.DataFrame:
    """Name the pairs that hardly differ, the closest first."""
    if not isinstance(limit, int) or limit < 1:
        raise UsageError(f"limit={limit!r}: at least 1 was expected.")
    found = [_near(gathered, number, threshold, limit) for number in range(len(gathered.keys))]
    pairs = pd.concat(found, ignore_index=True) if found else _no_pairs()
    pairs = _closest(pairs, limit)
    table = _described(gathered.rows, pairs)
    keys = gathered.keys.take(pairs["group"].to_numpy(dtype=int)).reset_index(drop=True)
    return pd.concat([keys, table], axis=1)


def check_threshold(bits: float, delta_e: float) -> Threshold:
    """Read a threshold."""
    for name, value in (("max_bits", bits), ("max_delta_e", delta_e)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise UsageError(f"{name}={value!r}: a number of at least 0 was expected.")
    return Threshold(float(bits), float(delta_e))


def _line(gathered: Gathered, number: int, threshold: Threshold) -> tuple[object, ...]:
    places = gathered.places[number]
    counts = (len(places), gathered.n_unseen[number])
    if len(places) < 2:  # noqa: PLR2004 - a pair
        return (*counts, None, None, None, None, 0, None, None)
    n_pairs, n_near, bits, delta_e = 0, 0, 0.0, 0.0
    bits_min, closest = 64, (np.inf, 0, 0)
    for block in gathered.distances(number):
        n_pairs += len(block.bits)
        n_near += int(_is_near(block, threshold).sum())
        bits += float(block.bits.sum(dtype=np.int64))
        delta_e += float(block.delta_e.sum(dtype=np.float64))
        bits_min = min(bits_min, int(block.bits.min()))
        least = int(block.delta_e.argmin())
        closest = min(closest, (float(block.delta_e[least]), int(block.one[least]), int(block.other[least])))
    labels = gathered.rows[LABEL].iloc[places[list(closest[1:])]]
    return (*counts, bits / n_pairs, bits_min, delta_e / n_pairs, closest[0], n_near, *labels)


def _near(gathered: Gathered, number: int, threshold: Threshold, limit: int) -> pd.DataFrame:
    places = gathered.places[number]
    found = _no_pairs()
    for block in gathered.distances(number):
        is_near = _is_near(block, threshold)
        pairs = pd.DataFrame(
            {
                "group": number,
                "one": places[block.one[is_near]],
                "other": places[block.other[is_near]],
                "bits": block.bits[is_near].astype(np.int64),
                "delta_e": block.delta_e[is_near].astype(np.float64),
            }
        )
        if len(pairs):
            found = pd.concat([found, pairs], ignore_index=True) if len(found) else pairs
        if len(found) > _HELD * limit:
            found = _closest(found, limit)
    return found


def _no_pairs() -> pd.DataFrame:
    none = {name: np.empty(0, np.int64) for name in ("group", "one", "other", "bits")}
    return pd.DataFrame(none | {"delta_e": np.empty(0, np.float64)})


def _closest(pairs: pd.DataFrame, limit: int) -> pd.DataFrame:
    return pairs.sort_values(["delta_e", "bits", "one", "other"], ignore_index=True).head(limit)


def _is_near(block: Distances, threshold: Threshold) -> np.ndarray:
    is_near: np.ndarray = (block.bits <= threshold.bits) & (block.delta_e <= threshold.delta_e)
    return is_near


def _described(rows: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    one, other = (rows.take(pairs[side].to_numpy()) for side in ("one", "other"))
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
    return pd.DataFrame(table).astype(columns.dtypes(columns.NEAR_DUPLICATES))


_LOWER: Final = "-"
_MIDDLE: Final = 0.5
_WITHIN: Final = "dreamo_within"  # in a table's attrs: the groups it was ranked in


@dataclass(frozen=True, slots=True)
class Measure:
    """What is ranked by: a column of the results, or a metric that gives one."""

    name: str
    metric: Metric | None = None
    higher_is_better: bool = True


def read_measures(by: Any, results: pd.DataFrame) -> list[Measure]:
    """Read `by`: names of columns or metrics, with ``-`` before those of which less is better, and metrics."""
    measures = [_read_by(one, results) for one in listed(by)]
    names = [measure.name for measure in measures]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"by={by!r}: at least one measure was expected, and each once.")
    taken = [name for name in names if name in columns.RANKS]
    if taken:
        raise UsageError(f"by={by!r}: the result has a column {taken[0]!r}; rename yours before.")
    return measures


def rank_pictures(
    results: pd.DataFrame,
    measures: Sequence[Measure],
    values: pd.DataFrame,
    problems: pd.Series,
    *,
    within: str | Sequence[str] | None,
    weights: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Rank the pictures of results; see `dreamo_batch.rank`."""
    told = history.from_results(results)
    groups = group(told, within, reserved=(*columns.RANKS, *values.columns))
    kept = np.flatnonzero(told.rows[columns.DUPLICATE_OF].isna())
    numbers = groups.of_rows[kept]
    values = values.set_axis(told.rows.index).iloc[kept]
    is_whole = values.notna().all(axis=1)
    score = _scores(values.where(is_whole), numbers, measures, _weights(measures, weights))
    rank = score.groupby(numbers).rank(ascending=False, method="min")
    table = pd.concat([groups.keys.take(numbers).set_axis(kept), values], axis=1)
    for name in (columns.SEED_SENT, columns.JOB_ID):
        table[name] = told.rows[name].iloc[kept]
    table[columns.SCORE], table[columns.RANK] = score, rank
    said = problems.set_axis(told.rows.index).iloc[kept]
    table[columns.PROBLEM] = said.fillna("a value is missing").where(~is_whole)
    table = table.astype(columns.dtypes(columns.RANKS))
    order = np.lexsort((kept, rank.fillna(np.inf).to_numpy(), numbers))
    ranked = table.iloc[order].set_axis(results.index[kept[order]])
    ranked.attrs[_WITHIN] = list(groups.keys.columns)
    return ranked


def summarise_seeds(ranked: pd.DataFrame, within: str | Sequence[str] | EllipsisType | None) -> pd.DataFrame:
    """Add up how each seed did in all groups; see `dreamo_batch.best_seeds`."""
    within = ranked.attrs.get(_WITHIN, columns.PROMPT) if within is ... else within
    keys = [] if within is None else [within] if isinstance(within, str) else list(within)
    absent = [name for name in [*columns.RANKS, *keys] if name not in ranked.columns]
    if absent:
        raise UsageError(
            f"There is no column {absent[0]!r}; give what rank() gave back, and the same within=."
        )
    groups = ranked.groupby(keys, dropna=False).ngroup() if keys else pd.Series(0, index=ranked.index)
    by_group = _by_group(ranked, groups.to_numpy())
    by_seed = by_group.groupby(columns.SEED_SENT)
    table = pd.DataFrame(
        {
            columns.N_RANKED: by_seed[columns.SCORE].count(),
            columns.N_UNRANKED: by_seed[columns.N_UNRANKED].sum(),
            columns.SCORE: by_seed[columns.SCORE].mean(),
            columns.SCORE_MIN: by_seed[columns.SCORE].min(),
            columns.RANK_MEAN: by_seed[columns.RANK].mean(),
            columns.N_FIRST: by_seed[columns.N_FIRST].sum(),
        }
    ).reset_index()
    order = [columns.N_RANKED, columns.SCORE, columns.SCORE_MIN]
    table = table.sort_values(order, ascending=False, kind="stable", ignore_index=True)
    return table[list(columns.BEST_SEEDS)].astype(columns.dtypes(columns.BEST_SEEDS))


def _by_group(ranked: pd.DataFrame, groups: np.ndarray) -> pd.DataFrame:
    """One line per seed and group: the mean of its pictures there, which are several where it was repeated."""
    pictures = pd.DataFrame(
        {
            columns.SEED_SENT: ranked[columns.SEED_SENT].array,
            columns.SCORE: ranked[columns.SCORE].array,
            columns.RANK: ranked[columns.RANK].astype("Float64").array,
            columns.N_FIRST: (ranked[columns.RANK] == 1).fillna(value=False).to_numpy(dtype=int),
            columns.N_UNRANKED: ranked[columns.RANK].isna().to_numpy(dtype=int),
        }
    )
    sums = {columns.SCORE: "mean", columns.RANK: "mean", columns.N_FIRST: "max", columns.N_UNRANKED: "sum"}
    return pictures.groupby([columns.SEED_SENT, groups]).agg(sums)


def _read_by(one: Any, results: pd.DataFrame) -> Measure:
    if not isinstance(one, str):
        metric = read_metric(one)
        return Measure(metric.name, metric, metric.higher_is_better)
    name = one.removeprefix(_LOWER)
    is_higher = name == one
    if name in results.columns:
        if not pd.api.types.is_numeric_dtype(results[name]):
            raise UsageError(f"by={one!r}: the column {name!r} holds no numbers.")
        return Measure(name, None, is_higher)
    if name in BUILT_IN:
        return Measure(name, BUILT_IN[name], is_higher)
    raise UsageError(
        f"by={one!r} is no column of the results and no metric; metrics are {', '.join(map(repr, BUILT_IN))}, or "
        "functions of your own."
    )


def _weights(measures: Sequence[Measure], weights: Mapping[str, float] | None) -> list[float]:
    given = dict(weights or {})
    read = [float(given.pop(measure.name, 1.0)) for measure in measures]
    if given:
        raise UsageError(f"weights={weights!r}: {next(iter(given))!r} is none of the measures.")
    if min(read) < 0 or not 0 < sum(read) < float("inf"):
        raise UsageError(f"weights={weights!r}: numbers of at least 0 were expected, and one above.")
    return read


def _scores(
    values: pd.DataFrame, numbers: np.ndarray, measures: Sequence[Measure], weights: Sequence[float]
) -> pd.Series:
    """Weigh how each stands: 1 for the best of its group, 0 for the last, a half where there is but one."""
    total = pd.Series(0.0, index=values.index)
    for measure, weight in zip(measures, weights, strict=True):
        of_group = values[measure.name].groupby(numbers)
        rank = of_group.rank(ascending=measure.higher_is_better, method="average")
        others = of_group.transform("count") - 1
        total += weight * ((rank - 1) / others.where(others > 0)).where(others != 0, _MIDDLE)
    return (total / sum(weights)).where(values.notna().all(axis=1))


# What makes two jobs the same but for their number.
_SAME: Final = (
    columns.PROMPT,
    columns.IMAGE_DIGEST,
    columns.SEED_SENT,
    columns.WIDTH,
    columns.HEIGHT,
    columns.USE_REPHRASER,
)
_COMPARED: Final = (
    columns.IS_SAME_FILE,
    columns.IS_SAME_PIXELS,
    columns.PIXEL_DIFFERENCE,
    columns.HASH_DISTANCE,
    columns.DELTA_E,
    columns.PROBLEM,
)


def compare_equal_jobs(
    results: pd.DataFrame, run_dir: Path, *, n_workers: int | None = None, progress: bool = True
) -> pd.DataFrame:
    """Compare each equal job to the first of its kind; see `dreamo_batch.compare_replicates`."""
    found = find_subjects(results, run_dir)
    rows = _jobs(results, run_dir)
    pairs = _pairs(rows)
    sides = [tuple((found.of_rows[at], found.problems[at]) for at in pair) for pair in pairs]
    done = each(sides, _compare, what="comparing", n_workers=n_workers, progress=progress)
    compared = pd.DataFrame([result for _, result in done], columns=list(_COMPARED))
    table = pd.concat([_replicates_described(rows, pairs), compared], axis=1)[list(columns.REPLICATES)]
    return table.astype(columns.dtypes(columns.REPLICATES))


def _jobs(results: pd.DataFrame, run_dir: Path) -> pd.DataFrame:
    """Give what was decided for the job of each row, as the directory keeps it."""
    decided = read_jobs(RunDirectory(run_dir).jobs).decided
    by_job = decided[decided[columns.JOB_ID].notna()].drop_duplicates(columns.JOB_ID)
    wanted = [*_SAME, columns.REPLICATE]
    told = history.from_results(results).rows
    jobs = by_job.set_index(columns.JOB_ID)[wanted].reindex(told[columns.JOB_ID]).reset_index(drop=True)
    jobs[LABEL] = told[LABEL]
    is_out = told[columns.JOB_ID].isna() | told[columns.DUPLICATE_OF].notna() | jobs[columns.WIDTH].isna()
    return jobs[~is_out]


def _pairs(rows: pd.DataFrame) -> list[tuple[int, int]]:
    """Pair each job with the one of its kind that has the lowest number; positions in the results."""
    submitted = rows.sort_values(columns.REPLICATE, kind="stable")
    firsts = submitted.groupby(list(_SAME), sort=False, dropna=False)[columns.REPLICATE].transform(
        lambda numbers: numbers.index[0]
    )
    return [(int(first), int(at)) for at, first in sorted(firsts.items()) if at != first]


def _replicates_described(rows: pd.DataFrame, pairs: list[tuple[int, int]]) -> pd.DataFrame:
    one, other = (rows.loc[[pair[side] for pair in pairs]] for side in (0, 1))
    table = {name: one[name].array for name in (columns.PROMPT, columns.SEED_SENT, columns.USE_REPHRASER)}
    table |= {columns.REPLICATE_A: one[columns.REPLICATE].array}
    table |= {columns.REPLICATE_B: other[columns.REPLICATE].array}
    return pd.DataFrame(table | {columns.ROW_A: one[LABEL].array, columns.ROW_B: other[LABEL].array})


def _compare(sides: tuple[tuple[Subject | None, str | None], ...]) -> tuple[Any, ...]:
    nothing = (None,) * (len(_COMPARED) - 1)
    (one, one_why), (other, other_why) = sides
    if one is None or other is None:
        return (*nothing, one_why or other_why)
    try:
        first, second = (pictures.read(subject.path, subject.sha256) for subject in (one, other))
    except pictures.Unseen as unseen:
        return (*nothing, str(unseen))
    difference = _difference(first, second)
    bits = likeness.distance(*(likeness.perceptual_hash(picture) for picture in (first, second)))
    delta_e = likeness.mean_delta_e(*(likeness.thumbnail(picture) for picture in (first, second)))
    is_same = difference == 0
    return (one.sha256 == other.sha256, is_same, difference, bits, delta_e, None)


def _difference(one: Image.Image, other: Image.Image) -> float | None:
    if one.size != other.size:
        return None
    first, second = (np.asarray(picture, dtype=np.int16) for picture in (one, other))
    return float(np.abs(first - second).mean())


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
    max_bits: float = BITS_MAX,
    max_delta_e: float = DELTA_E_MAX,
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
    threshold = check_threshold(max_bits, max_delta_e)
    gathered = gather(
        results, directory, by, reserved=tuple(columns.DIVERSITY), n_workers=n_workers, progress=progress
    )
    return summarise_diversity(gathered, threshold)


def near_duplicates(
    source: Source,
    by: str | Sequence[str] | None = "prompt",
    *,
    max_bits: float = BITS_MAX,
    max_delta_e: float = DELTA_E_MAX,
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
    threshold = check_threshold(max_bits, max_delta_e)
    gathered = gather(
        results,
        directory,
        by,
        reserved=tuple(columns.NEAR_DUPLICATES),
        n_workers=n_workers,
        progress=progress,
    )
    return list_near_duplicates(gathered, threshold, limit)


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
    """Attempt pictures within their groups over several measures.

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
        directory = frame.run_dir_of(results, directory)
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
    directory: Path | Any = frame.run_dir_of(results, run_dir) if is_known else run_dir
    return results, directory
