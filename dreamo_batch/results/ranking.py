"""Order pictures within their groups over several measures, and seeds over all groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.results import history
from dreamo_batch.results.grouping import group
from dreamo_batch.results.metrics import BUILT_IN, Metric, listed, read_metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import EllipsisType

_LOWER: Final = "-"
_MIDDLE: Final = 0.5
_WITHIN: Final = "dreamo_within"  # in a table's attrs: the groups it was ranked in


@dataclass(frozen=True, slots=True)
class Measure:
    """What is ranked by: a column of the results, or a metric that gives one.

    Examples
    --------
    >>> Measure("latency_s", higher_is_better=False).metric is None
    True
    """

    name: str
    metric: Metric | None = None
    higher_is_better: bool = True


def read_measures(by: Any, results: pd.DataFrame) -> list[Measure]:
    """Read `by`: names of columns or metrics, with ``-`` before those of which less is better, and metrics.

    Raises
    ------
    UsageError
        If there is none, one is neither, or a name is met twice.

    Examples
    --------
    >>> read_measures(["appearance", "-latency_s"], pd.DataFrame({"latency_s": [1.0]}))[1].higher_is_better
    False
    """
    measures = [_read(one, results) for one in listed(by)]
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
    """Rank the pictures of results; see `dreamo_batch.rank`.

    Parameters
    ----------
    results : pandas.DataFrame
        As from `dreamo_batch.run` or `load`.
    measures : sequence of Measure
        What to rank by.
    values : pandas.DataFrame of float
        A column per measure, a line per row of `results`.
    problems : pandas.Series of str
        Why values are missing, where it is known.
    within : str, sequence of str, or None
        See `dreamo_batch.results.grouping.group`.
    weights : mapping of str to float, optional
        By the measure's name; 1 where nothing is said.

    Returns
    -------
    pandas.DataFrame
        The keys of the groups, a column per measure, then those of `dreamo_batch.columns.RANKS`, on the rows' own
        labels.

    Raises
    ------
    UsageError
        If these are no results, or `within` or `weights` can't be used.
    """
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
    """Add up how each seed did in all groups; see `dreamo_batch.best_seeds`.

    Parameters
    ----------
    ranked : pandas.DataFrame
        As from `dreamo_batch.rank`.
    within : str, sequence of str, or None
        The groups it was ranked in; ``...`` for those that it remembers.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.BEST_SEEDS` on a RangeIndex, the best first.

    Raises
    ------
    UsageError
        If it is not what `rank` gives, or was not ranked within these groups.
    """
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


def _read(one: Any, results: pd.DataFrame) -> Measure:
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
