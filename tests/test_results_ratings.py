"""What people say of pictures: kept at once, never overwritten, and counted in results, ranks, costs and pages."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import threading
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch import columns
from tests.fakes import picture


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four rows, the last two of them the same job."""
    folder = tmp_path_factory.mktemp("rated")
    (folder / "a.png").write_bytes(picture())
    jobs = dreamo.sweep(image=str(folder / "a.png"), prompt="a", seed=[1, 2, 3, 3], size="512x512")
    with dreamo.LocalGateway(engine="flat", price="0.03") as gateway:
        client = dreamo.Client(gateway.api_key, gateway.base_url)
        dreamo.run(jobs.set_axis(list("abcd")), folder / "run", client=client, progress=False)
    return folder / "run"


@pytest.fixture
def run_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def said(run_dir):
    loaded = dreamo.load(run_dir)
    picked = [None if pd.isna(cell) else bool(cell) for cell in loaded["picked"]]
    return loaded["rating"].fillna(0).tolist(), picked


def test_results_have_no_columns_of_ratings_before_there_is_one(run_dir):
    """And the log is empty, with its columns."""
    assert not {"rating", "picked"} & set(dreamo.load(run_dir).columns)
    log = dreamo.ratings(run_dir)
    assert log.empty
    assert log.dtypes.astype(str).to_dict() == columns.dtypes(columns.RATINGS_READ)


def test_the_last_word_of_each_rater_counts_and_all_are_kept(run_dir):
    """Ratings are averaged over raters; a picture is picked if more picked than rejected it."""
    dreamo.rate(run_dir, ["a"], 3, rater="ann")
    dreamo.rate(run_dir, ["a"], 5, rater="ann")
    dreamo.rate(run_dir, ["a"], 4, rater="bob")
    dreamo.rate(run_dir, ["a", "b"], "pick", rater="ann")
    dreamo.rate(run_dir, ["b", "c"], "reject", rater="bob")
    assert said(run_dir) == ([4.5, 0, 0, 0], [True, None, False, False])
    log = dreamo.ratings(run_dir)
    assert log["value"].tolist()[:3] == [3.0, 5.0, 4.0]
    assert log["stands"].tolist() == [False] + [True] * 6
    assert log["row"].tolist() == ["a", "a", "a", "a", "b", "b", "c"]
    assert log["at"].is_monotonic_increasing


def test_undo_takes_back_what_the_rater_said_last_of_the_picture(run_dir):
    """Step by step, and only one's own; with nothing left it changes nothing."""
    for value in (2, 5, "pick"):
        dreamo.rate(run_dir, ["a"], value, rater="ann")
    dreamo.rate(run_dir, ["a"], "undo", rater="bob")
    seen = []
    for _ in range(4):
        dreamo.rate(run_dir, ["a"], "undo", rater="ann")
        ratings, picked = said(run_dir)
        seen.append((ratings[0], picked[0]))
    assert seen == [(5, None), (2, None), (0, None), (0, None)]
    assert len(dreamo.ratings(run_dir)) == 8
    dreamo.rate(run_dir, ["a"], 4, rater="ann")
    assert said(run_dir)[0][0] == 4


def test_rows_of_one_job_share_what_is_said_of_its_picture(run_dir):
    """It is kept once, whichever of them is named, and also where both are."""
    told = dreamo.rate(run_dir, ["c", "d"], 5)
    assert told["row"].tolist() == ["c"]
    assert said(run_dir)[0] == [0, 0, 5, 5]
    assert len(dreamo.ratings(run_dir)) == 1


@pytest.mark.parametrize(
    "rows",
    [["a", "b"], [True, True, False, False], pd.Series([True, True, False, False], index=list("abcd"))],
)
def test_rows_are_labels_or_a_mask(run_dir, rows):
    """As everywhere."""
    assert dreamo.rate(run_dir, rows, np.int64(2))["rating"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("value", [0, 6, 2.5, True, "good", None, "5"])
def test_other_values_are_refused_and_nothing_is_kept(run_dir, value):
    """The message lists what can be said."""
    with pytest.raises(dreamo.UsageError, match="expected 1 to 5, or one of 'pick'"):
        dreamo.rate(run_dir, ["a"], value)
    with pytest.raises(dreamo.UsageError, match="Row 'z' is not in the table"):
        dreamo.rate(run_dir, ["a", "z"], 5)
    assert dreamo.ratings(run_dir).empty


@pytest.mark.parametrize("rater", [5, "  "])
def test_a_rater_has_a_name(run_dir, rater):
    with pytest.raises(dreamo.UsageError, match="rater must be a name"):
        dreamo.rate(run_dir, "a", 5, rater=rater)
    dreamo.rate(run_dir, "a", 5, rater=" \ud83d ")
    assert dreamo.ratings(run_dir)["rater"].tolist() == ["\\ud83d"]


def test_a_mask_that_does_not_fit_is_counted(run_dir):
    with pytest.raises(dreamo.UsageError, match=r"1 boolean for \d rows: pass one for every row"):
        dreamo.rate(run_dir, [True], 5)


def test_a_row_without_a_picture_can_not_be_rated(tmp_path):
    """Nor is anything kept of the others named with it."""
    jobs = dreamo.sweep(image="data/mascot.png", prompt=["a", "b"], seed=1, size="512x512")
    with dreamo.LocalGateway(engine="flat", faults={"script": {"create": ["fail_moderation"]}}) as gateway:
        client = dreamo.Client(gateway.api_key, gateway.base_url)
        done = dreamo.run(jobs, tmp_path / "run", client=client, progress=False, max_in_flight=1)
    assert done["status"].tolist() == ["failed", "completed"]
    with pytest.raises(dreamo.UsageError, match="No picture to rate in row 0"):
        dreamo.rate(tmp_path / "run", [0, 1], 5)
    assert dreamo.ratings(tmp_path / "run").empty


def test_the_rater_is_named_by_the_environment(run_dir, monkeypatch):
    """What is passed comes first."""
    monkeypatch.setenv("DREAMO_RATER", "eve")
    dreamo.rate(run_dir, ["a"], 1)
    dreamo.rate(run_dir, ["a"], 1, rater="ann")
    assert dreamo.ratings(run_dir)["rater"].tolist() == ["eve", "ann"]


_ELSEWHERE = """
import sys
import dreamo_batch as dreamo
for n in range(20):
    dreamo.rate(sys.argv[1], [sys.argv[2]], n % 5 + 1, rater=sys.argv[2])
"""


def test_raters_in_several_processes_and_threads_lose_nothing(run_dir):
    """Each waits for the other, so every word is in the file."""
    others = [subprocess.Popen([sys.executable, "-c", _ELSEWHERE, str(run_dir), row]) for row in "ab"]
    here = [
        threading.Thread(target=lambda: [dreamo.rate(run_dir, ["c"], 3, rater="c") for _ in range(10)])
        for _ in range(2)
    ]
    for thread in here:
        thread.start()
    for thread in here:
        thread.join()
    assert [other.wait() for other in others] == [0, 0]
    log = dreamo.ratings(run_dir)
    assert log["rater"].value_counts().to_dict() == {"a": 20, "b": 20, "c": 20}
    assert log.loc[log["rater"] == "a", "value"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0] * 4


def test_the_file_is_plain_parquet_with_five_columns(run_dir):
    """For other tools."""
    dreamo.rate(run_dir, ["a"], 5, rater="ann")
    plain = pd.read_parquet(run_dir / "ratings.parquet")
    assert list(plain.columns) == ["job_id", "rater", "kind", "value", "at"]
    assert plain["value"].tolist() == [5.0]


@pytest.mark.no_cover
def test_damage_to_the_ratings_hides_no_result_and_is_never_written_over(run_dir):
    """A warning says so; rating again is refused until the file is moved away."""
    dreamo.rate(run_dir, ["a"], 5)
    before = dreamo.load(run_dir)
    (run_dir / "ratings.parquet").write_bytes(b"not a table")
    words = r"ratings\.parquet can't be read \(it is damaged\)\. It is left unchanged: restore it, or move it away"
    with pytest.warns(UserWarning, match=words):
        assert len(dreamo.load(run_dir)) == 4
    goes_on = [
        lambda source, to: dreamo.export(source, to, progress=False),
        lambda source, to: dreamo.gallery(source).to_html(to, progress=False),
        lambda source, to: dreamo.rank(source, by="-latency_s", progress=False),  # noqa: ARG005
        lambda source, to: dreamo.costs(source),  # noqa: ARG005
    ]
    reads = [
        *itertools.product((run_dir, before), goes_on),
        (run_dir, partial(dreamo.report, progress=False)),
    ]
    for number, (source, do) in enumerate(reads):
        with pytest.warns(UserWarning, match=words) as said:
            do(source, run_dir.parent / f"made-{number}.html")
        assert {str(one.message) for one in said if "can't be read" in str(one.message)} == {
            str(said[0].message)
        }
    for refuse in (
        lambda: dreamo.ratings(run_dir),
        *(lambda source=source: dreamo.rank(source, by=["-rating"]) for source in (run_dir, before)),
    ):
        with warnings.catch_warnings(action="ignore"), pytest.raises(dreamo.DirectoryError, match=words):
            refuse()
    assert len(dreamo.load(run_dir)) == 4  # also where warnings are errors
    with (
        pytest.warns(UserWarning, match="can't be read"),
        pytest.raises(dreamo.DirectoryError, match="move it away"),
    ):
        dreamo.rate(run_dir, ["a"], 5)
    assert (run_dir / "ratings.parquet").read_bytes() == b"not a table"


def test_rank_takes_ratings_given_since_the_results_were_made(run_dir):
    """From a directory, and from a table that was loaded before."""
    before = dreamo.load(run_dir)
    with pytest.raises(dreamo.UsageError, match="no picture is rated yet"):
        dreamo.rank(before, by=["rating"])
    for row, value in zip("abc", (2, 5, 4), strict=True):
        dreamo.rate(run_dir, [row], value)
    dreamo.rate(run_dir, ["b"], "pick")
    for source in (before, run_dir):
        ranked = dreamo.rank(source, by=["rating"], progress=False)
        assert ranked.sort_values("rank")["rating"].tolist() == [5.0, 4.0, 2.0]
    assert dreamo.rank(before, by=["rating", "-cost_usd"], progress=False)["rank"].notna().sum() == 3


def test_costs_tell_what_a_kept_picture_costs(run_dir):
    """All that was spent, per picked picture; rows of one job are one picture."""
    assert dreamo.costs(run_dir)["kept"].isna().all()
    dreamo.rate(run_dir, ["c", "d"], "pick")
    dreamo.rate(run_dir, ["a"], "reject")
    whole = dreamo.costs(run_dir)
    assert whole[["kept", "usd_per_kept"]].to_numpy().tolist() == [[1, pytest.approx(0.09)]]
    assert whole["usd_per_picture"].item() == pytest.approx(0.03)
    by_seed = dreamo.costs(dreamo.load(run_dir), by="seed")
    assert by_seed["kept"].tolist() == [0, 0, 1]
    assert by_seed["usd_per_kept"].isna().tolist() == [True, True, False]


def test_a_kept_picture_whose_row_has_left_is_kept_as_it_is_paid(run_dir, tmp_path):
    """Spent and pictures are those of the directory, and so are the kept ones, each once."""
    dreamo.rate(run_dir, ["b", "c", "d"], "pick")
    jobs = dreamo.load(run_dir)[["image", "prompt", "seed", "size"]]
    dreamo.run(jobs.loc[["a", "b"]], run_dir, gateway="local", progress=False)
    whole = dreamo.costs(run_dir)
    assert whole[["usable", "kept", "usd_per_kept"]].to_numpy().tolist() == [[3, 2, pytest.approx(0.045)]]
    assert dreamo.costs(run_dir, by="seed")["kept"].tolist() == [0, 1, 1]
    assert dreamo.costs([run_dir, run_dir])["kept"].item() == dreamo.costs(run_dir)["kept"].item()


def test_a_column_of_the_users_own_stays_theirs(tmp_path):
    """Who has stars in a column `rating` keeps them, in results and in ranks, whatever is said in the gallery."""
    jobs = dreamo.sweep(image="data/mascot.png", prompt="a", seed=[1, 2], size="512x512").assign(
        rating=[9.0, 1.0]
    )
    done = dreamo.run(jobs, tmp_path / "run", gateway="local", progress=False)
    dreamo.rate(tmp_path / "run", [0], 5)
    for results in (
        dreamo.load(tmp_path / "run"),
        dreamo.run(done, tmp_path / "run", gateway="local", progress=False),
    ):
        assert results["rating"].tolist() == jobs["rating"].tolist()
        assert "picked" not in results
    assert dreamo.ratings(tmp_path / "run")["value"].tolist() == [5.0]


def test_rated_results_are_run_again_and_stacked_as_others_are(run_dir, tmp_path):
    """Ratings are no input: same jobs, nothing sent; several directories have the columns once."""
    dreamo.rate(run_dir, ["a"], 5)
    loaded = dreamo.load(run_dir)
    assert list(loaded.columns)[-2:] == ["rating", "picked"]
    assert set(dreamo.plan(loaded, run_dir)["action"]) == {"reuse", "duplicate"}
    dreamo.write_table(loaded, tmp_path / "results.csv")
    again = dreamo.read_table(tmp_path / "results.csv")
    assert set(dreamo.plan(again, run_dir)["action"]) == {"reuse", "duplicate"}
    jobs = dreamo.sweep(image="data/mascot.png", prompt="b", seed=1, size="512x512")
    dreamo.run(jobs, tmp_path / "other", gateway="local", progress=False)
    both = dreamo.load([tmp_path / "other", run_dir])
    assert list(both.columns)[-2:] == ["rating", "picked"]
    assert both["rating"].fillna(0).tolist() == [0, 5, 0, 0, 0]
    log = dreamo.ratings([tmp_path / "other", run_dir])
    assert log["run_dir"].tolist() == [str(run_dir)]
    dreamo.rate(tmp_path / "other", [0], 2)
    assert dreamo.rank(both, by="rating", within=None, progress=False)["rating"].tolist()[:2] == [5.0, 2.0]


@pytest.mark.no_cover
def test_page_report_and_export_tell_ratings(run_dir, tmp_path):
    """On the picture, in a sentence, and as columns with their meaning."""
    done = dreamo.load(run_dir)
    dreamo.rate(run_dir, ["a"], 4, rater="ann")
    dreamo.rate(run_dir, ["a"], "pick", rater="ann")
    dreamo.rate(run_dir, ["b"], "reject", rater="ann")
    page = dreamo.gallery(done).to_html(progress=False)
    assert page.count('class="dg-rating') == 2
    assert "✓ picked ★ 4" in page
    assert "✕ rejected" in page
    report = dreamo.report(run_dir, progress=False).read_text("utf-8")
    sentence = "1 picture rated, 4 of 5 on average; 1 picked, 1 rejected; $0.09"
    assert sentence in " ".join(report.split())
    dreamo.export(done, tmp_path / "out", progress=False)
    readme = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "1 picture picked, at $0.09" in readme
    assert "Mean of what each rater gave" in readme
    lines = pd.read_csv(tmp_path / "out" / "images" / "metadata.csv")
    assert lines.set_index("seed").loc[1, ["rating", "picked"]].tolist() == [4.0, True]
    for rows, said in (
        (dreamo.load(run_dir).head(1), "The job completed"),
        (dreamo.load(run_dir).head(2), "Both jobs completed"),
        (dreamo.load(run_dir).head(0), "submitted.\n"),
    ):
        dreamo.export(rows, tmp_path / said[:7], progress=False)
        assert said in (tmp_path / said[:7] / "README.md").read_text("utf-8")


def test_ratings_of_a_row_that_left_the_table_are_kept(run_dir):
    """They count again once the row is back."""
    dreamo.rate(run_dir, ["a"], 5)
    jobs = dreamo.load(run_dir)
    with dreamo.LocalGateway(engine="flat") as gateway:
        client = dreamo.Client(gateway.api_key, gateway.base_url)
        dreamo.run(jobs.drop(index="a"), run_dir, client=client, progress=False)
        assert dreamo.ratings(run_dir)["row"].isna().tolist() == [True]
        assert dreamo.load(run_dir, all=True)["rating"].dropna().tolist() == [5.0]
        dreamo.run(jobs, run_dir, client=client, progress=False)
    assert said(run_dir)[0][0] == 5
