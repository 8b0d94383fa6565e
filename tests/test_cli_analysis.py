"""The commands that tell what a run came to, and those that make something of it for others."""

from __future__ import annotations

import csv
import io
import json
import shutil
import warnings
from decimal import Decimal

import pytest

import dreamo_batch as dreamo
from dreamo_batch.results.summaries import remedy
from dreamo_batch.text import shell_words
from tests.cli_sweep import at, call, signals_kept, write_table

_kept = pytest.fixture(autouse=True)(signals_kept)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Three rows: one failed, one ambiguous, one completed."""
    folder = tmp_path_factory.mktemp("analysed")
    faults = {"script": {"create": ["fail_099", "drop_after_accept"]}}
    with dreamo.LocalGateway(engine="flat", faults=faults) as gateway:
        table = dreamo.read_table(write_table(folder))
        options = {
            "base_dir": folder,
            "unit_cost": "0.03",
            "max_in_flight": 1,
        }  # so faults meet rows in order
        dreamo.run(table, folder / "run", gateway=gateway, progress=False, **options)
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


def test_pictures_are_rated_by_the_labels_of_their_rows(run_dir):
    """Or by job ids, in words or lists, by whoever is named; what can't be meant is refused, and nothing is kept."""
    last = dreamo.load(run_dir).iloc[2]
    assert call("rate", run_dir, "2", "4", "--rater", "ann").exit_code == 0
    (said,) = json.loads(
        call("rate", "--run-dir", run_dir, last["job_id"], "pick", "--format", "json").stdout
    )
    assert (said["row"], said["rating"], said["picked"]) == ("2", None, True)
    assert call("rate", run_dir, "2,2", "2-2", "reject", "--rater", "bob").exit_code == 0
    assert call("rate", run_dir, "2", "undo", "--rater", "bob").exit_code == 0
    kept = dreamo.ratings(run_dir)
    assert kept["kind"].tolist() == ["rating", "pick", "reject", "undo"]
    for words, reason in {
        ("2", "6"): "VALUE 6: expected 1 to 5, or one of 'pick'",
        ("0-2", "5"): "No picture to rate in row 0, 1.",
        ("9", "5"): "Row '9' is not in the table",
        ("5",): "RUN_DIR ROWS... VALUE",
        (): "RUN_DIR ROWS... VALUE",
        ("", "5"): "a list of names is empty",
    }.items():
        refused = call("rate", run_dir, *words)
        assert (refused.exit_code, reason in refused.stderr) == (2, True), refused.stderr
    assert len(dreamo.ratings(run_dir)) == 4
    assert "RUN_DIR ROWS... VALUE" in call("rate", "--run-dir", run_dir, "5").stderr


def test_a_budget_is_started_shared_and_shown(tmp_path):
    """By the shell alone; the sum of its rows is what was spent from it."""
    place, jobs = tmp_path / "team.budget", write_table(tmp_path)
    assert "--cap USD` to start one" in call("budget", place).stderr
    assert (
        call("budget", place, "--cap", "0.0086", "--per-user", "5").stdout == "Nothing has been spent yet.\n"
    )
    ran = call("run", jobs, "--run-dir", tmp_path / "a", "--local", "--yes", "--budget", place)
    assert ran.exit_code == 3
    assert f"raise it with `dreamo-batch budget {place} --cap USD`" in ran.stderr
    shown = call("budget", place)
    assert "$0.0086, at most $5.00 for each user. $0.0085 spent" in shown.stderr
    assert shown.stdout.split("\n")[0].split()[-3:] == ["spent", "reserved", "held"]
    (line,) = json.loads(call("budget", place, "--format", "json").stdout)
    assert (line["spent"], line["directory"]) == ("0.008502366", str(tmp_path / "a"))
    assert call("budget", place, "--cap", "0.001").exit_code == 2


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


def test_failures_print_advice_and_the_command_that_retries(run_dir):
    """Each class with its meaning, its rows, advice and shell commands; ambiguous rows stand apart."""
    lines = json.loads(call("failures", run_dir, "--format", "json").stdout)
    assert {line["error_class"] for line in lines} == {"creation_error", "no_answer"}
    assert all(line["call"].startswith(f"dreamo-batch retry {run_dir} --classes ") for line in lines)
    failed, ambiguous = call("failures", run_dir).stdout.split("Ambiguous: may have been accepted and billed")
    assert f"dreamo-batch retry {run_dir} --classes creation_error\n" in failed
    assert "Retry: nothing was generated." in failed
    assert f"dreamo-batch resolve {run_dir} ROW --task-id ID  # accepted" in ambiguous
    assert f"dreamo-batch retry {run_dir} --classes ambiguous  # may be paid twice" in ambiguous
    assert "dreamo.retry" not in failed + ambiguous


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (("my runs/a",), "dreamo-batch run TABLE --run-dir 'my runs/a'"),
        (("r", "no_answer"), "dreamo-batch retry r --classes no_answer"),
        (("r", "rejected", ("a,b", "c")), "dreamo-batch retry r --classes rejected --rows '\"a,b\",c'"),
        (("r", "rejected", ("0123",)), "dreamo-batch retry r --classes rejected --rows 0123"),
    ],
)
def test_commands_name_rows_so_that_the_shell_reads_them(given, command):
    """Labels as CSV, quoted; where labels can't tell rows apart, job ids."""
    with shell_words():
        assert remedy(*given) == command


def test_results_can_list_every_attempt(tmp_path):
    """--all is load(all=True): rows that left the table are still there."""
    path = write_table(tmp_path, 2)
    with dreamo.LocalGateway(engine="flat") as gateway:
        env = at(gateway)
        call("run", path, "--run-dir", tmp_path / "run", env=env)
        call("run", write_table(tmp_path, 1), "--run-dir", tmp_path / "run", env=env)
    assert len(json.loads(call("results", tmp_path / "run", "--format", "json").stdout)) == 1
    everything = call("results", tmp_path / "run", "--all", "--format", "json")
    assert len(json.loads(everything.stdout)) == 2
    assert call("results", tmp_path / "run", "--all").stdout.count("images/") == 2


def test_nothing_failed_is_said(tmp_path):
    """A sentence instead of an empty table."""
    with dreamo.LocalGateway(engine="flat") as gateway:
        call("run", write_table(tmp_path, 1), "--run-dir", tmp_path / "run", env=at(gateway))
    result = call("failures", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (0, "No failures.\n")


def test_export_writes_a_folder(run_dir, tmp_path):
    """Counts on standard output, and the words in the pictures."""
    result = call("export", run_dir, "--output", tmp_path / "e", "--formats", "csv,jsonl", "--text")
    assert result.exit_code == 0
    assert "pictures      1\n" in result.stdout
    assert {path.name for path in (tmp_path / "e").glob("results.*")} == {"results.csv", "results.jsonl"}


def test_warnings_are_lines_of_their_own(run_dir, tmp_path):
    """Whatever warns, no place in the code is named, and filters of the environment change nothing."""
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    (copy / "ratings.parquet").write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = call("costs", copy)
    assert done.exit_code == 0
    (line,) = [line for line in done.stderr.splitlines() if "ratings.parquet can't be read" in line]
    assert line.startswith("warning: ")
    assert "UserWarning" not in done.stderr


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
