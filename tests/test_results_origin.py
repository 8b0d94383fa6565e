"""Results remember the directory that their pictures are in."""

from __future__ import annotations

import pytest

import dreamo_batch as dreamo
from dreamo_batch.errors import UsageError
from dreamo_batch.results import origin


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(2), size="512x512")
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    return run_dir, dreamo.run(jobs, run_dir, gateway="local", progress=False)


def test_results_of_run_and_load_and_parts_of_them_know_their_directory(done):
    """What run and load give back, and rows of it, lead to the pictures without being told where they are."""
    run_dir, results = done
    for table in (results, results.iloc[:1], dreamo.load(run_dir), results[results["status"] == "completed"]):
        assert origin.run_dir_of(table) == run_dir


def test_a_moved_directory_is_where_it_is_now(done, tmp_path):
    """A directory that was moved is found where it was loaded from, not where it was made."""
    run_dir, _ = done
    moved = run_dir.rename(tmp_path / "moved")
    try:
        assert origin.run_dir_of(dreamo.load(moved)) == moved
    finally:
        moved.rename(run_dir)


def test_a_table_of_unknown_origin_needs_the_directory(done):
    """A table read from elsewhere is refused until the directory is given."""
    run_dir, results = done
    unknown = results.copy()
    unknown.attrs = {}
    with pytest.raises(UsageError, match="run_dir="):
        origin.run_dir_of(unknown)
    assert origin.run_dir_of(unknown, run_dir) == run_dir
