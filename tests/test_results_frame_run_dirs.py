"""Results remember the directory that their pictures are in."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch.errors import UsageError
from dreamo_batch.jobs.fields import user_columns
from dreamo_batch.results import frame


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(2), size="512x512")
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    return run_dir, dreamo.run(jobs, run_dir, gateway="local", progress=False)


def test_results_of_run_and_load_and_parts_of_them_know_their_directory(done):
    """What run and load give back, and rows of it, lead to the pictures without being told where they are."""
    run_dir, results = done
    for table in (results, results.iloc[:1], dreamo.load(run_dir), results[results["status"] == "completed"]):
        assert frame.run_dir_of(table) == run_dir


def test_a_moved_directory_is_where_it_is_now(done, tmp_path):
    """A directory that was moved is found where it was loaded from, not where it was made."""
    run_dir, _ = done
    moved = run_dir.rename(tmp_path / "moved")
    try:
        assert frame.run_dir_of(dreamo.load(moved)) == moved
    finally:
        moved.rename(run_dir)


def test_results_of_a_directory_that_was_moved_say_what_to_pass(done, tmp_path):
    """Rather than that each file is missing."""
    run_dir, results = done
    moved = run_dir.rename(tmp_path / "moved")
    try:
        with pytest.warns(
            UserWarning, match=r"^No directory at .*first, where .* pictures were.*pass run_dir=\.$"
        ) as told:
            dreamo.gallery(results)
        assert len(told) == 1
        assert dreamo.costs(results)["usable"].tolist() == [2]  # needs no picture
        assert all(path.is_file() for path in found(results, moved))
        dreamo.gallery(results.assign(output_path=pd.NA))  # no picture that could be missing
    finally:
        moved.rename(run_dir)


def test_a_table_of_unknown_origin_needs_the_directory(done):
    """A table read from elsewhere is refused until the directory is given."""
    run_dir, results = done
    unknown = results.drop(columns="run_dir")
    unknown.attrs = {}
    with pytest.raises(UsageError, match="run_dir="):
        frame.run_dir_of(unknown)
    assert frame.run_dir_of(unknown, run_dir) == run_dir


@pytest.fixture(scope="module")
def two(done, tmp_path_factory):
    """Two runs with pictures of the same names, and the directory of each."""
    first, results = done
    second = tmp_path_factory.mktemp("others") / "second"
    jobs = results[["image", "prompt", "seed", "size"]].iloc[[0, 0, 1]]
    return first, second, dreamo.run(jobs.reset_index(drop=True), second, gateway="local", progress=False)


def found(table, run_dir=None):
    """Say where the pictures of a table are."""
    folders = frame.folders_of(table, run_dir)
    return [folder / path for folder, path in zip(folders, table["output_path"], strict=True)]


def test_several_directories_are_loaded_as_one_table(two):
    """Each row says where it comes from, a duplicate points at its own run's row, and each directory counts once."""
    first, second, _ = two
    both = dreamo.load([first, second, first])
    assert both["run_dir"].tolist() == [str(first)] * 2 + [str(second)] * 3
    assert both.index.tolist() == list(range(5))
    assert both["duplicate_of"].tolist() == [pd.NA, pd.NA, pd.NA, 2, pd.NA]
    assert list(both.columns) == list(dreamo.load(first).columns)
    assert both.dtypes.equals(dreamo.load(first).dtypes)
    assert all(path.is_file() for path in found(both))
    with pytest.raises(UsageError, match=r"Expected a run directory, or several, got \[\]\."):
        dreamo.load([])


@pytest.mark.parametrize(
    "put_together",
    [
        lambda one, other: pd.concat([one, other]),
        lambda one, other: pd.concat([one, other], ignore_index=True).sort_values("seed"),
        lambda one, other: pd.concat([one, other], keys=["one", "other"]),
        lambda one, _: one.merge(pd.DataFrame({"seed": [0, 1], "note": ["x", "y"]}), on="seed"),
        lambda one, _: pd.DataFrame({"seed": [0, 1]}).merge(one, on="seed", how="left").assign(mine=1),
        lambda one, other: pd.concat([one, other]).groupby("run_dir").head(1),
        lambda one, other: pd.concat([one, other]).query("seed == 1").reset_index(),
    ],
)
def test_pictures_are_found_after_tables_were_put_together(two, put_together):
    """What pandas does to a table's attrs does not matter."""
    first, _, results = two
    table = put_together(dreamo.load(first), results)
    assert all(path.is_file() for path in found(table))
    seen = dreamo.gallery(table)
    assert "file missing" not in seen.to_html()
    assert {entry.kind for entry in seen.grid.shown()} == {"picture"}


def test_a_sheet_and_a_gallery_tell_several_runs_apart(two, tmp_path):
    """The run directory joins the axes where the same was asked for in both, and every picture is there."""
    first, second, _ = two
    seen = dreamo.gallery([first, second])
    assert seen.grid.rows.names[:2] == ("prompt", "run_dir")
    assert dreamo.contact_sheet([first, second], tmp_path / "sheet.png", rows=..., columns=...) == 4
    assert dreamo.contact_sheet([first, second], tmp_path / "plain.png") == 4  # each file once
    seen.refresh()
    assert seen.results["run_dir"].nunique() == 2


def test_costs_of_results_put_together_tell_runs_apart(two):
    """As those of the directories do."""
    first, second, results = two
    both = pd.concat([dreamo.load(first), results])
    of_results = dreamo.costs(both, by="run_dir").set_index("run_dir")["spent"]
    of_ledgers = dreamo.costs([first, second], by="run_dir").set_index("run_dir")["spent"]
    assert of_results.to_dict() == of_ledgers.to_dict()


def test_files_of_a_directory_do_not_say_where_it_is(two):
    """So that it may be moved; who reads it adds where it is now, as it was given."""
    first, *_ = two
    assert pd.read_parquet(first / "results.parquet")["run_dir"].isna().all()


def test_directories_are_named_as_they_were_given(done, tmp_path, monkeypatch):
    """A relative name stays relative, and pictures are found after the process went elsewhere all the same."""
    run_dir, _ = done
    shutil.copytree(run_dir, tmp_path / "runs" / "copy")
    monkeypatch.chdir(tmp_path)
    results = dreamo.load("runs/copy")
    assert results["run_dir"].tolist() == ["runs/copy"] * 2
    monkeypatch.chdir(run_dir)
    assert all(path.is_file() for path in found(results))


def test_rows_of_several_directories_are_exported_together(two, tmp_path):
    """Each with the picture of its own directory, though both have pictures of the same names."""
    first, second, _ = two
    both = dreamo.load([first, second])
    n_pictures = len(both[["run_dir", "output_path"]].drop_duplicates())
    assert dreamo.export(both, tmp_path / "out", progress=False)["pictures"] == n_pictures


def test_a_row_with_a_picture_and_no_directory_is_named(two):
    """Rather than shown as gone."""
    first, second, _ = two
    both = dreamo.load([first, second])
    both.loc[3, "run_dir"] = None
    with pytest.raises(UsageError, match="first row 3"):
        dreamo.gallery(both)


def test_results_with_their_directory_are_run_again_as_they_are(two, tmp_path):
    """The column comes back; it is none of the table's own."""
    *_, results = two
    assert user_columns(results) == ["image", "prompt", "seed", "size"]
    assert user_columns(results.drop(columns="run_dir")) == ["image", "prompt", "seed", "size"]


def test_pictures_of_rows_that_left_the_table_are_reported(tmp_path):
    """Wherever the pictures of a directory are shown, for they were paid for."""
    jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1, 2, 3], size="512x512")
    dreamo.run(jobs, tmp_path / "run", gateway="local", progress=False)
    dreamo.run(jobs[:1], tmp_path / "run", gateway="local", progress=False)
    told = "not shown: 2 pictures of rows no longer in the table; they are in images/"
    seen = dreamo.gallery(tmp_path / "run")
    assert told in seen.fragment()
    assert told in seen.to_html()
    assert told in seen.widget().content["html"]
    assert told in dreamo.report(tmp_path / "run").read_text(encoding="utf-8")
    notices = []
    for axes in ({}, {"rows": ..., "columns": ...}):
        plain, whole = tmp_path / "plain.png", tmp_path / "whole.png"
        dreamo.contact_sheet(dreamo.load(tmp_path / "run"), plain, **axes)
        dreamo.contact_sheet(tmp_path / "run", whole, **axes)
        with Image.open(whole) as with_notice, Image.open(plain) as without:
            notices.append(with_notice.height > without.height)
    assert notices == [True, True]
    assert "not shown" not in dreamo.gallery(dreamo.load(tmp_path / "run")).fragment()


def test_rows_that_a_merge_or_concat_repeats_are_paid_once(two):
    """The same job in two directories was bought twice, and counts twice."""
    first, second, results = two
    notes = pd.DataFrame({"seed": [0, 0, 1], "note": ["a", "b", "c"]})
    spent = dreamo.costs([first, second])["spent"].item()
    both = dreamo.load([first, second])
    for table in (both, pd.concat([both, both]), both.merge(notes, on="seed"), pd.concat([results, both])):
        assert dreamo.costs(table)["spent"].item() == spent
    assert dreamo.costs(both.merge(notes, on="seed"), by="note")["attempts"].tolist() == [2, 0, 2]
