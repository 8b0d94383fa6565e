"""Ranking: directions, ties, weights, missing values, groups, and seeds over all of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.results.comparison import read_measures
from dreamo_batch.results.measure import Metric, read_metric, read_metrics
from tests.histories import completed, results


def made(n: int, **user) -> pd.DataFrame:
    """Results of n completed rows with columns of the user's own."""
    ids = [f"job{number}" for number in range(n)]
    table = results(ids, [completed(one) for one in ids], prompt=user.pop("prompt", ["a"] * n), **user)
    table["seed_sent"] = pd.array(np.arange(n), "Int64")
    return table


def ranks(table, **options):
    return dreamo.rank(table, **options)["rank"].sort_index().tolist()


def test_higher_is_better_unless_it_says_otherwise():
    """A minus before a column's name turns it round."""
    table = made(3, stars=[2, 5, 3])
    assert ranks(table, by="stars") == [3, 1, 2]
    assert ranks(table, by="-stars") == [1, 3, 2]
    assert dreamo.rank(table, by="stars")["score"].tolist() == [1.0, 0.5, 0.0]


def test_units_do_not_matter_but_weights_do():
    """Each measure counts by standing; a weight of 0 leaves one out."""
    table = made(3, stars=[1, 2, 3], metres=[3000.0, 2000.0, 1000.0])
    assert ranks(table, by=["stars", "metres"]) == [1, 1, 1]
    assert ranks(table, by=["stars", "metres"], weights={"metres": 2}) == [1, 2, 3]
    assert ranks(table, by=["stars", "-metres"], weights={"metres": 0}) == [3, 2, 1]


def test_ties_share_the_mean_of_their_standings_and_the_better_rank():
    """Equal values are equally good."""
    ranked = dreamo.rank(made(4, stars=[5, 1, 5, 3]), by="stars")
    assert ranked["rank"].tolist() == [1, 1, 3, 4]
    assert ranked["score"].tolist() == pytest.approx([5 / 6, 5 / 6, 1 / 3, 0])
    assert ranked.index.tolist() == [0, 2, 3, 1]


def test_a_missing_value_leaves_a_picture_unranked_and_the_others_as_they_were():
    """Nothing is guessed: it is no rival in the measures that it has, either."""
    table = made(4, stars=pd.array([5, 4, 3, 2], "Int64"), size_m=[1.0, np.nan, 3.0, 2.0])
    ranked = dreamo.rank(table, by=["stars", "size_m"])
    rest = dreamo.rank(table.drop(index=1), by=["stars", "size_m"])
    pd.testing.assert_frame_equal(ranked.drop(index=1), rest)
    assert ranked.index[-1] == 1
    assert ranked.loc[1, ["score", "rank"]].isna().all()
    assert ranked.loc[1, "problem"] == "size_m is missing"
    assert ranked.loc[1, "stars"] == 4


def test_one_alone_stands_in_the_middle():
    """There is nothing it is better or worse than."""
    ranked = dreamo.rank(made(3, prompt=["a", "b", "b"], stars=[1, 1, 2]), by="stars")
    assert ranked["score"].tolist() == [0.5, 1.0, 0.0]
    assert ranked["rank"].tolist() == [1, 1, 2]


def test_groups_are_ranked_apart_and_within_none_all_together():
    """Each prompt by itself, or all as one."""
    table = made(4, prompt=["b", "a", "b", "a"], stars=[1, 2, 3, 4], tall=[True, False, True, False])
    ranked = dreamo.rank(table, by=["stars", "tall"])
    assert ranked[["prompt", "rank"]].to_numpy().tolist() == [["a", 1], ["a", 2], ["b", 1], ["b", 2]]
    assert ranks(table, by="stars", within=None) == [4, 3, 2, 1]
    assert ranks(table, by="stars", within=["prompt", "tall"]) == [2, 2, 1, 1]


def test_labels_may_be_doubled_and_anything():
    """The result stands on the rows' own labels."""
    table = made(3, stars=[1, 3, 2])
    table.index = pd.MultiIndex.from_tuples([("x", 1), ("x", 1), ("y", 2)])
    assert dreamo.rank(table, by="stars").index.tolist() == [("x", 1), ("y", 2), ("x", 1)]


def test_no_rows_give_no_ranks():
    """The columns and dtypes are there all the same."""
    ranked = dreamo.rank(made(3, stars=[1, 2, 3]).iloc[:0], by="stars")
    dtypes = {name: str(dtype) for name, dtype in ranked.dtypes.items()}
    assert {name: dtypes[name] for name in columns.RANKS} == columns.dtypes(columns.RANKS)
    assert dreamo.best_seeds(ranked).empty


@pytest.mark.no_cover
@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.none() | st.integers(0, 3), st.integers(0, 3)), max_size=10)
)
def test_ranks_are_what_comparing_one_by_one_gives(rows):
    """A slow reading: standing is the share of others that are worse, ties counted half."""
    table = made(
        len(rows),
        prompt=pd.Series([row[0] for row in rows], dtype="str"),
        x=pd.array([row[1] for row in rows], "Int64"),
        y=pd.array([row[2] for row in rows], "Int64"),
    )
    ranked = dreamo.rank(table, by=["x", "-y"]).sort_index()
    expected = []
    for mine in rows:
        rivals = [row for row in rows if row[0] == mine[0] and row[1] is not None]
        if mine[1] is None:
            expected.append(np.nan)
            continue
        standing = [_standing(mine[1], [row[1] for row in rivals])]
        standing += [_standing(-mine[2], [-row[2] for row in rivals])]
        expected.append(sum(standing) / 2)
    assert ranked["score"].tolist() == pytest.approx(expected, nan_ok=True)


def _standing(mine, all_of_them):
    if len(all_of_them) == 1:
        return 0.5
    worse = sum(1 for one in all_of_them if one < mine)
    equal = sum(1 for one in all_of_them if one == mine) - 1
    return (worse + equal / 2) / (len(all_of_them) - 1)


@pytest.mark.parametrize("begins", ["", "a fox\0"], ids=["plain", "behind a NUL"])
def test_seeds_that_are_ranked_everywhere_come_first(begins):
    """One good picture does not outdo a seed that is good everywhere; repeated pictures are one of their group."""
    prompts = pd.Series([begins + letter for letter in "aaabbca"], dtype=object)
    table = made(7, prompt=prompts, stars=[3, 2, 1, 2, 3, 9, 3])
    table["seed_sent"] = pd.array([1, 2, 3, 1, 2, 4, 1], "Int64")
    best = dreamo.best_seeds(dreamo.rank(table, by="stars"))
    assert best["seed_sent"].tolist() == [2, 1, 4, 3] or best["seed_sent"].tolist() == [1, 2, 4, 3]
    line = best.set_index("seed_sent")
    assert line["ranked"].to_dict() == {1: 2, 2: 2, 3: 1, 4: 1}
    assert line.loc[1, "score"] == pytest.approx((5 / 6 + 0) / 2)
    assert line.loc[1, ["score_min", "rank_mean", "firsts"]].tolist() == [0.0, 1.5, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "nothing"}, "is neither a column of results nor a metric"),
        ({"by": "output_url"}, "doesn't hold numbers"),
        ({"by": []}, "at least one measure"),
        ({"by": ["stars", "-stars"]}, "each only once"),
        ({"by": "seed_sent"}, "has a column 'seed_sent'"),
        ({"by": 7}, "7 isn't a metric"),
        ({"by": "stars", "weights": {"moons": 1}}, "'moons' isn't one of the measures"),
        ({"by": "stars", "weights": {"stars": -1}}, "at least 0"),
        ({"by": "stars", "weights": {"stars": 0}}, "one above 0"),
        ({"by": "stars", "weights": [1]}, "numbers by the names"),
        ({"by": "stars", "weights": {"stars": None}}, "numbers by the names"),
        ({"by": "stars", "weights": {"stars": "2"}}, "numbers by the names"),
        ({"by": "stars", "weights": {"stars": True}}, "numbers by the names"),
        ({"by": "stars", "within": "nothing"}, "^within: 'nothing' is neither a column"),
        ({"by": "appearance"}, "run_dir="),
    ],
)
def test_what_can_not_be_ranked_by_is_refused(options, message):
    """The message says which argument, and what there is."""
    with pytest.raises(UsageError, match=message):
        dreamo.rank(made(2, stars=[1, 2]), **options)


def test_best_seeds_needs_what_rank_gave():
    """And the same groups, which it remembers by itself until it is read back from a file."""
    ranked = dreamo.rank(made(2, stars=[1, 2]), by="stars", within=None)
    assert dreamo.best_seeds(ranked)["firsts"].tolist() == [1, 0]
    assert dreamo.best_seeds(ranked.head(2))["firsts"].tolist() == [1, 0]
    ranked.attrs = {}
    with pytest.raises(UsageError, match="'prompt'"):
        dreamo.best_seeds(ranked)
    assert dreamo.best_seeds(ranked, within=None)["firsts"].tolist() == [1, 0]
    with pytest.raises(UsageError, match="'score'"):
        dreamo.best_seeds(ranked.drop(columns="score"))
    with pytest.raises(dreamo.UsageError, match=r"No column .*: pass what rank\(\) returned"):
        dreamo.best_seeds("runs/a")


# Metrics.


def test_a_metric_is_read_from_anything_with_a_name():
    """Built-in names, functions, objects with their own name, version and direction."""

    class Distance:
        name, version, higher_is_better = "dino", 3, False

        def __call__(self, _reference, _output):
            return 0.0

    def clip(reference, output):
        return 1.0

    assert [metric.name for metric in read_metrics(["shape", clip, Distance()])] == ["shape", "clip", "dino"]
    assert read_metric(clip).version is None
    read = read_metric(Distance())
    assert (read.version, read.higher_is_better) == ("3", False)
    assert not read_measures([Distance()], pd.DataFrame())[0].higher_is_better
    assert read_measures("-shape", pd.DataFrame())[0].higher_is_better is False


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["nothing"], "'nothing' isn't a metric. Pass one of 'appearance'"),
        ([3], "3 isn't a metric"),
        ([lambda _reference, _output: 1.0], "without a name can't be a column"),
        ([dreamo.metrics.Embedding], "isn't a metric"),
        (["shape", "shape"], "2 metrics are named 'shape'"),
        ([Metric("prompt", max)], "can't be named 'prompt'"),
    ],
)
def test_what_is_no_metric_is_refused(metrics, message):
    """The message says what would be one."""
    with pytest.raises(UsageError, match=message):
        read_metrics(metrics)


def test_a_column_comes_before_a_metric_of_its_name():
    """Values that were measured before are not measured again."""
    assert ranks(made(2, appearance=[0.1, 0.2]), by="appearance") == [2, 1]
