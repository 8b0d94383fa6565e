"""The example data: sources, digests, and tables that say themselves what is right or wrong in them."""

from __future__ import annotations

import csv
import hashlib
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dreamo_batch.jobs.prepare import validate

DATA = Path(__file__).parent.parent / "data"


def sources():
    with (DATA / "SOURCES.csv").open(encoding="utf-8", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def table(name):
    return pd.read_csv(DATA / name, dtype="str")


def test_every_file_has_its_source_and_digest():
    """No picture without author and licence, and none changed unnoticed."""
    tables = {"SOURCES.csv", "jobs_small.csv", "jobs_faulty.csv", "draw_mascot.py"}
    files = {path.relative_to(DATA).as_posix() for path in DATA.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name} - tables
    assert files == set(sources())
    for name, row in sources().items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == row["sha256"], name
        assert all(row.values()), name


def test_the_data_stay_small():
    """A clone should not pay for examples."""
    sizes = {path.name: path.stat().st_size for path in DATA.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 1_200_000
    assert max(sizes.values()) < 300_000


def test_the_small_table_can_be_submitted_as_it_is():
    """Twelve different jobs without a single remark."""
    jobs = table("jobs_small.csv")
    assert validate(jobs, base_dir=DATA).empty
    assert len(jobs.drop_duplicates()) == len(jobs) == 12
    assert list(jobs) == ["image", "prompt", "seed", "size", "use_rephraser", "scene"]


def test_the_faulty_table_breaks_each_rule_as_it_says():
    """Each row gives the one problem that its column `expected` names: severity and column."""
    jobs = table("jobs_faulty.csv")
    problems = validate(jobs, base_dir=DATA)
    found = problems.groupby("position").apply(
        lambda rows: ", ".join(rows["severity"] + " in " + rows["column"])
    )
    expected = jobs["expected"].str.split(":").str[0]
    assert found.reindex(jobs.index).fillna("nothing").tolist() == expected.tolist()


@pytest.mark.no_cover
@pytest.mark.slow
def test_the_script_draws_the_mascot(tmp_path, monkeypatch, capsys):
    """What is in the repository is what the script draws."""
    monkeypatch.setattr("sys.argv", ["draw_mascot.py", str(tmp_path / "mascot.png")])
    runpy.run_path(str(DATA / "draw_mascot.py"), run_name="__main__")
    assert "bytes" in capsys.readouterr().out
    with Image.open(tmp_path / "mascot.png") as drawn, Image.open(DATA / "mascot.png") as kept:
        # Another version of Pillow may round an edge otherwise.
        assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(kept, dtype=int)).mean() < 0.5
