"""The commands that tell what a run came to, and those that make something of it for others."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pytest

import dreamo_batch as dreamo
from tests.cli_sweep import at, call, signals_kept, write_table

_kept = pytest.fixture(autouse=True)(signals_kept)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Three rows: one failed, one ambiguous, one completed."""
    folder = tmp_path_factory.mktemp("analysed")
    faults = {"script": {"create": ["fail_099", "drop_after_accept"]}}
    with dreamo.LocalGateway(engine="flat", faults=faults) as gateway:
        table = dreamo.read_table(write_table(folder))
        dreamo.run(table, folder / "run", gateway=gateway, progress=False, base_dir=folder, unit_cost="0.03")
    return folder / "run"


def test_costs_are_those_of_the_library(run_dir):
    """JSON has every column, exact text included, by any columns."""
    result = call("costs", run_dir, "--by", "prompt,seed", "--format", "json")
    lines = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [line["seed"] for line in lines] == [1, 2, 3]
    spent = sum(Decimal(line["spent"]) for line in lines if line["spent"])
    assert str(spent) == dreamo.status(run_dir)["spent_usd"]
    assert "spent_usd" in lines[0]


def test_costs_on_a_terminal_say_what_is_known(run_dir):
    """Columns that say nothing are left out, and floats are short."""
    result = call("costs", run_dir)
    header, line = result.stdout.splitlines()
    assert {"rows", "spent", "possibly_billed"} <= set(header.split())
    assert "spent_usd" not in header.split()
    assert "0.03" in line.split()
    assert max(len(word) for word in line.split()) < 14


def test_several_directories_add_up(run_dir, tmp_path):
    """As arguments or options; by directory, one line each."""
    folder = tmp_path / "other"
    folder.mkdir()
    with dreamo.LocalGateway(engine="flat") as gateway:
        call("run", write_table(folder, 1), "--run-dir", folder / "run", env=at(gateway))
    result = call("costs", run_dir, "--run-dir", folder / "run", "--by", "run_dir", "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(result.stdout)))
    assert {line["run_dir"]: line["rows"] for line in lines} == {str(run_dir): "3", str(folder / "run"): "1"}


def test_latency_tells_phases_and_advises(run_dir):
    """Data on standard output, advice on standard error."""
    result = call("latency", run_dir, "--format", "json")
    assert {line["phase"] for line in json.loads(result.stdout)} >= {"create", "task"}
    assert "advice needs at least" in result.stderr


def test_failures_tell_the_call_that_retries(run_dir):
    """Each class with its meaning, its rows, and the call."""
    lines = json.loads(call("failures", run_dir, "--format", "json").stdout)
    assert {line["error_class"] for line in lines} == {"creation_error", "no_answer"}
    assert all(line["call"].startswith("dreamo.retry(") for line in lines)
    assert "creation_error" in call("failures", run_dir).stdout


def test_nothing_failed_is_said(tmp_path):
    """No data, and a hint."""
    with dreamo.LocalGateway(engine="flat") as gateway:
        call("run", write_table(tmp_path, 1), "--run-dir", tmp_path / "run", env=at(gateway))
    result = call("failures", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing failed" in result.stderr


def test_export_writes_a_folder(run_dir, tmp_path):
    """Counts on standard output, and the words in the pictures."""
    result = call("export", run_dir, "--output", tmp_path / "e", "--formats", "csv,jsonl", "--text")
    assert result.exit_code == 0
    assert "pictures      1\n" in result.stdout
    assert {path.name for path in (tmp_path / "e").glob("results.*")} == {"results.csv", "results.jsonl"}


def test_export_without_every_picture_leaves_with_1(tmp_path):
    """What is missing is counted."""
    with dreamo.LocalGateway(engine="flat") as gateway:
        call("run", write_table(tmp_path, 1), "--run-dir", tmp_path / "run", env=at(gateway))
    next((tmp_path / "run" / "images").iterdir()).unlink()
    result = call("export", tmp_path / "run", "--output", tmp_path / "e", "--format", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["missing"] == 1


@pytest.mark.parametrize(
    "words",
    [["costs"], ["latency"], ["failures"], ["export", "runs/none"], ["costs", "runs/none"]],
)
def test_bad_usage_leaves_with_2(words):
    """One line says what is wrong."""
    result = call(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: " in result.stderr


def test_a_group_that_is_none_leaves_with_2(run_dir):
    """The columns there are, are named."""
    result = call("costs", run_dir, "--by", "colour")
    assert result.exit_code == 2
    assert "'colour' is neither a column" in result.stderr
