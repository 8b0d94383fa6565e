"""Blind choices between pairs of pictures: which pairs come up, what is kept, and what it says of each group."""

from __future__ import annotations

import itertools
import re
import shutil

import numpy as np
import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.display.compare import comparison_table, draw_pairs
from tests.fakes import picture


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two prompts by four seeds."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "a.png").write_bytes(picture())
    jobs = dreamo.sweep(
        image=str(folder / "a.png"),
        prompt=["a lighthouse", "a harbour"],
        seed=range(1, 5),
        size="512x512",
        use_rephraser=False,
    )
    with dreamo.LocalGateway(engine="flat") as gateway:
        client = dreamo.Client(gateway.api_key, gateway.base_url)
        dreamo.run(jobs, folder / "run", client=client, progress=False)
    return folder / "run"


@pytest.fixture
def done(finished, tmp_path):
    return dreamo.load(shutil.copytree(finished, tmp_path / "run"))


def kept(tmp_path):
    path = tmp_path / "run" / "comparisons.parquet"
    return pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=list(columns.COMPARISONS))


def prefer(comparison, better, done, run_dir):
    """Choose on every pair the picture whose seed is better."""
    seed_of = dict(zip(done["job_id"], done["seed"], strict=True))
    while comparison.n_chosen < comparison.n_pairs:
        comparison.choose("left")
        line = comparison_table(run_dir).frame().iloc[-1]
        if better(seed_of[line["job_id_b"]], seed_of[line["job_id_a"]]):
            comparison.undo()
            comparison.choose("right")


def test_pairs_are_of_the_same_prompt_balanced_and_the_same_each_time(done, tmp_path):
    """Each two seeds meet equally often, and each seed stands left about as often as right."""
    comparison = dreamo.compare(done, by="seed", pairs=12, rater="ann")
    for _ in range(12):
        comparison.choose("tie")
    log = kept(tmp_path)
    cell_of = {row.job_id: (row.prompt, row.seed) for row in done.itertuples()}
    pairs = [(cell_of[a], cell_of[b]) for a, b in zip(log["job_id_a"], log["job_id_b"], strict=True)]
    assert all(left[0] == right[0] and left[1] != right[1] for left, right in pairs)
    met = pd.Series([frozenset((left[1], right[1])) for left, right in pairs]).value_counts()
    assert met.tolist() == [2] * 6
    lefts = pd.Series([left[1] for left, _ in pairs]).value_counts()
    assert lefts.max() - lefts.min() <= 1
    again = dreamo.compare(done.sample(frac=1, random_state=1), by="seed", pairs=12, rater="ann")
    assert (again.n_chosen, again.n_pairs) == (12, 12)


def test_a_comparison_goes_on_where_it_stopped_and_can_be_extended(done, tmp_path):
    """Choices are kept at once; more pairs are added to those that were judged."""
    first = dreamo.compare(done, pairs=4, rater="ann")
    first.choose("left")
    first.choose("right")
    assert kept(tmp_path)["choice"].tolist() == ["left", "right"]
    second = dreamo.compare(tmp_path / "run", pairs=6, rater="ann")
    assert repr(second) == "<comparison of 4 groups by seed: 2 of 6 pairs judged by ann>"
    other = dreamo.compare(done, pairs=4, rater="bob")
    assert other.n_chosen == 0
    other.choose("tie")
    assert first.scores()["choices"].sum() == 2 * 3
    assert first.scores(rater="bob")["tied"].sum() == 2


def test_pictures_whose_file_is_missing_are_left_out(done, tmp_path):
    """That is said, and choices that were made of them still count."""
    seeds = dreamo.compare(done, pairs=12, rater="ann")
    for _ in range(12):
        seeds.choose("left")
    gone = done[done["seed"] == 2]
    for path in gone["output_path"]:
        (tmp_path / "run" / path).unlink()
    with pytest.warns(UserWarning, match=r"^2 pictures can't be compared: the file is missing$"):
        left = dreamo.compare(done, pairs=12, rater="ann")
    with pytest.warns(UserWarning, match="^2 pictures can't be compared"):  # also where few come up
        dreamo.compare(done, pairs=1)
    assert (left.n_pairs, left.n_chosen) == (6, 6)
    pd.testing.assert_frame_equal(left.scores(), seeds.scores())
    with pytest.warns(UserWarning, match="^2 pictures can't be compared"):
        anew = dreamo.compare(done, pairs=12, rater="bob")
    for _ in range(anew.n_pairs):
        anew.choose("left")
    chosen = comparison_table(tmp_path / "run").frame().tail(6)
    assert not {*chosen["job_id_a"], *chosen["job_id_b"]} & {*gone["job_id"]}


def test_undo_shows_the_last_pair_again(done, tmp_path):
    """Nothing is deleted: taking back is a line, too."""
    comparison = dreamo.compare(done, pairs=3, rater="ann")
    comparison.choose("left")
    comparison.choose("right")
    comparison.undo()
    assert comparison.n_chosen == 1
    comparison.choose("tie")
    log = kept(tmp_path)
    assert log["choice"].tolist() == ["left", "right", "undo", "tie"]
    assert log["job_id_a"].tolist()[1:] == [log["job_id_a"][1]] * 3
    comparison.undo()
    comparison.undo()
    assert comparison.n_chosen == 0
    with pytest.raises(dreamo.UsageError, match="no choice to undo"):
        comparison.undo()


def test_the_group_that_is_preferred_is_the_strongest(done, tmp_path):
    """Strengths follow the choices, with intervals around them, and sum to nothing."""
    comparison = dreamo.compare(done, pairs=12, rater="ann")
    prefer(comparison, lambda one, other: one > other, done, tmp_path / "run")
    scores = comparison.scores()
    assert list(scores.columns) == ["seed", *columns.STRENGTHS]
    assert scores["seed"].tolist() == [4, 3, 2, 1]
    assert scores["won"].tolist() == [6, 4, 2, 0]
    assert scores["lost"].tolist() == [0, 2, 4, 6]
    assert scores["strength"].sum() == pytest.approx(0)
    assert (scores["strength_low"] < scores["strength"]).all()
    assert (scores["strength"] < scores["strength_high"]).all()
    assert scores["wins_share"].iloc[0] > 0.5 > scores["wins_share"].iloc[-1]
    with pytest.raises(dreamo.UsageError, match="every pair; pass a larger pairs="):
        comparison.choose("left")


@pytest.mark.parametrize(("n_left", "n_right", "n_tied"), [(3, 1, 0), (5, 0, 0), (2, 2, 4), (1, 0, 3)])
def test_strengths_of_two_groups_are_those_of_a_fine_grid(n_left, n_right, n_tied):
    """An independent computation: the posterior on a grid of differences."""
    from dreamo_batch.display.compare import strengths

    won, lost = n_left + n_tied / 2, n_right + n_tied / 2
    theta, error = strengths(np.array([[0, won], [lost, 0]]))
    difference = np.linspace(-12, 12, 240_001)
    # Each half of the difference has a prior of standard deviation 2.
    log = (
        -won * np.log1p(np.exp(-difference))
        - lost * np.log1p(np.exp(difference))
        - difference**2 / (4 * 2**2)
    )
    best = difference[log.argmax()]
    assert theta[0] - theta[1] == pytest.approx(best, abs=1e-3)
    chance = 1 / (1 + np.exp(-best))
    curvature = (won + lost) * chance * (1 - chance) + 1 / (2 * 2**2)
    assert 2 * error[0] == pytest.approx(1 / np.sqrt(curvature), rel=1e-4)


def test_a_group_as_strong_as_the_mean_has_strength_0_and_no_sign():
    """A table with two decimals would show -0.00."""
    from dreamo_batch.display.compare import strengths

    theta, _ = strengths(np.array([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    assert str(theta[0]) == "0.0"


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Five groups of known strengths, compared 60 times each way: about 95 of 100 intervals."""
    from dreamo_batch.display.compare import strengths

    truth = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    rng, n_held = np.random.default_rng(1), 0
    for _ in range(100):
        wins = np.zeros((5, 5))
        for one, other in itertools.combinations(range(5), 2):
            wins[one, other] = rng.binomial(60, 1 / (1 + np.exp(truth[other] - truth[one])))
            wins[other, one] = 60 - wins[one, other]
        theta, error = strengths(wins)
        n_held += int((np.abs(theta - truth) < 1.959964 * error).sum())
    assert 460 <= n_held <= 490


def test_what_is_shown_tells_nothing_of_the_groups(done):
    """No seed, no row, no file name, and pictures that were encoded anew."""
    comparison = dreamo.compare(done, pairs=3, rater="ann")
    shown = comparison._repr_mimebundle_()["text/html"]
    assert shown.count("data:image/jpeg") == 3
    for word in ("seed", *done["job_id"], *done["output_path"], *done["task_id"]):
        assert word not in shown
    assert "a lighthouse" in shown or "a harbour" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "mood"}, "no column 'mood'; choose one of image, prompt, seed, .* run_dir\\.$"),
        ({"within": "mood"}, "no column 'mood'"),
        ({"pairs": 0}, "at least 1"),
        ({"pairs": 2.5}, "pairs=2.5: expected a whole number"),
        ({"by": []}, "by= is empty"),
        ({"by": "size"}, "No two pictures differ in size and agree in prompt; pass another by="),
        ({"by": "prompt"}, "another by= or within="),
    ],
)
def test_what_can_not_be_compared_is_refused(done, options, message):
    """Before anything is shown."""
    with pytest.raises(dreamo.UsageError, match=message):
        dreamo.compare(done, **options)


def test_any_column_can_be_compared_and_rows_without_pictures_are_left_out(done):
    """Prompts with each other, and several columns together."""
    assert dreamo.compare(done, by="prompt", within=None, pairs=100).n_pairs == 16
    assert dreamo.compare(done, by=["prompt", "seed"], within=None, pairs=100).n_pairs == 28
    done.loc[done["seed"] > 2, "output_path"] = None
    assert dreamo.compare(done, pairs=100).n_pairs == 2
    with pytest.raises(dreamo.UsageError, match="expected one of 'left'"):
        dreamo.compare(done).choose("both")
    comparison = dreamo.compare(done)
    comparison.choose("left")
    comparison.choose("left")
    with pytest.raises(dreamo.UsageError, match="every pair; there are no more"):
        comparison.choose("left")


def test_pictures_of_the_same_references_are_compared_where_two_groups_share_them():
    """Two seeds by two characters; the third seed has another character, and is compared all the same."""
    cells = [(seed, image) for seed in (1, 2) for image in ("fox", "cat")] + [(3, "owl")]
    pairs = draw_pairs(
        [str(place) for place in range(5)],
        [seed for seed, _ in cells],
        [0] * 5,
        [(image,) for _, image in cells],
        99,
    )
    met = [tuple(sorted((cells[pair.left], cells[pair.right]))) for pair in pairs]
    alike = [pair for pair in met if pair[1][0] < 3]
    assert sorted(alike) == [((1, "cat"), (2, "cat")), ((1, "fox"), (2, "fox"))]
    assert len(met) == 2 + 4


def test_of_a_thousand_groups_some_are_compared(monkeypatch):
    """Each picture has its own seed, as in a table without seeds; all pairs of them would fill the memory."""
    monkeypatch.setattr("dreamo_batch.display.compare._PICTURES_MAX", 30)
    jobs = [str(place) for place in range(1000)]
    pairs = draw_pairs(jobs, range(1000), [0] * 1000, [()] * 1000, 15)
    assert len({place for pair in pairs for place in pair}) == 30
    assert pairs == draw_pairs(jobs, range(1000), [0] * 1000, [()] * 1000, 15)


def saved(path, *lines, header="job_id_a,job_id_b,rater,choice"):
    path.write_text("\n".join([header, *(",".join(line) for line in lines)]))
    return path


def test_a_page_for_people_without_a_notebook_tells_nothing_of_the_groups(done, tmp_path):
    """All pairs, each picture once, no seed, no row, no file name, and what is written in a prompt does no harm."""
    done["prompt"] = "</script><script>alert(1)</script>"
    comparison = dreamo.compare(done, pairs=5)
    page = comparison.to_html(tmp_path / "pairs.html", progress=False)
    text = page.read_text(encoding="utf-8")
    pictures = re.findall('data:image/jpeg;base64,[^"]*', text)
    assert 1 < len(pictures) == len(set(pictures)) <= 9
    assert text.count("</script>") == 2
    for word in ("seed", *done["output_path"], *done["task_id"], str(tmp_path)):
        assert word not in text


def test_choices_that_were_saved_on_a_page_are_taken_in_once(done, tmp_path):
    """Of several people; a file can be added again, and the last choice of somebody stands."""
    comparison = dreamo.compare(done, pairs=2, rater="bob")
    one, other = done["job_id"][:2]
    ann = saved(tmp_path / "ann.csv", (one, other, "Ann", "left"))
    assert (comparison.add_choices(ann), comparison.add_choices(ann)) == (1, 0)
    assert comparison.add_choices(saved(tmp_path / "eve.csv", (one, other, "Eve", "tie"))) == 1
    assert comparison.add_choices(saved(ann, (one, other, "Ann", "right"))) == 1
    assert kept(tmp_path)["choice"].tolist() == ["left", "tie", "right"]
    assert comparison.scores()["choices"].sum() == 4
    assert comparison.scores("Ann")["won"].sum() == 1
    assert comparison.n_chosen == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("{0}", "{1}", "Ann", "both"), "line 3: expected job_id_a"),
        (("{0}", "{1}", "", "left"), "line 3: expected job_id_a"),
        (("{0}", "{1}", "left"), "line 3: expected job_id_a"),
        (("{0}", "{0}", "Ann", "left"), "line 3: two pictures that are not compared here"),
        (("{0}", "another", "Ann", "left"), "line 3: two pictures that are not compared here"),
    ],
)
def test_a_file_that_is_no_such_file_is_refused_whole(done, tmp_path, line, message):
    """Nothing of it is kept."""
    one, other = done["job_id"][:2]
    path = saved(
        tmp_path / "x.csv", (one, other, "Ann", "left"), tuple(cell.format(one, other) for cell in line)
    )
    with pytest.raises(dreamo.UsageError, match=message):
        dreamo.compare(done).add_choices(path)
    assert kept(tmp_path).empty
    with pytest.raises(dreamo.UsageError, match="line 1"):
        dreamo.compare(done).add_choices(saved(path, (one, other, "Ann", "left"), header="a,b,c,d"))
    path.write_bytes(path.read_bytes() + "Zoë".encode("latin-1"))
    with pytest.raises(dreamo.TableError, match="is not UTF-8 text"):
        dreamo.compare(done).add_choices(path)
