"""The commands: what they print, what they leave with, and what they ask first."""

from __future__ import annotations

import ast
import errno
import inspect
import io
import json
import logging
import re
import shutil
import sys
import tomllib
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import click
import pandas as pd
import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.cli import commands, main, options
from dreamo_batch.cli.output import emit, logging_to
from dreamo_batch.service.config import Settings
from dreamo_batch.verbs import plan_retry
from tests.cli_sweep import ELSEWHERE, at, call, signals_kept, write_table

KEY = "sk-a-key-that-nobody-may-see"
INTERRUPT = "^C"
SUMMARY = [
    "rows",
    "by_status",
    "attempts",
    "spent_usd",
    "reserved_usd",
    "possibly_billed_usd",
    "max_cost_usd",
]

_kept = pytest.fixture(autouse=True)(signals_kept)


@pytest.fixture(scope="module")
def gateway():
    with dreamo.LocalGateway(engine="flat") as running:
        yield running


@pytest.fixture
def env(gateway):
    gateway.faults.clear()
    return at(gateway)


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path)


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def done(table, run_dir, env):
    """A finished run."""
    result = call("run", table, "--run-dir", run_dir, env=env)
    assert result.exit_code == 0, result.stderr
    return run_dir


def results_of(n_rows):
    return pd.DataFrame({"status": ["completed"] * n_rows, "output_path": ["images/a.jpg"] * n_rows})


def parameters(function):
    return inspect.signature(function).parameters


def declared(name):
    command = main.commands[name]
    return {option.name: option for option in command.get_params(click.Context(command))}


def flags_of(name):
    return {flag for option in declared(name).values() for flag in option.opts}


# How options are spelled.


def options_named():
    """Keywords that the package's messages name as options."""
    for path in Path(dreamo.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "option":
                keyword = node.args[0]
                if isinstance(keyword, ast.Constant) and not keyword.value.startswith("-"):
                    yield keyword.value


@pytest.mark.no_cover
def test_messages_name_only_options_that_the_command_line_has():
    """What is advised can be typed."""
    flags = set().union(*map(flags_of, main.commands))
    named = set(options_named())
    assert {"fix_images", "max_in_flight", "unit_cost"} <= named
    assert {f"--{keyword.replace('_', '-')}" for keyword in named} <= flags


@pytest.mark.parametrize(
    "case",
    [
        ("fox.webp,a fox,1,512x512", (), "--fix-images"),
        ("fox.png,,1,512x512", (), "`dreamo-batch validate TABLE`"),
        ("fox.png,a fox,1,512x512", ("--delimiter", "ab"), "--delimiter must be"),
        (
            "fox.png,a fox,1,512x512",
            ("--base-url", ELSEWHERE, "--yes"),
            "set the environment variable DREAMO_API_KEY.",
        ),
    ],
)
def test_a_shell_is_advised_in_its_own_words(tmp_path, run_dir, env, case):
    """Neither keywords nor calls of Python; in Python nothing else."""
    row, words, advice = case
    table = write_table(tmp_path, 0, row)
    Image.new("RGB", (512, 512), "red").save(tmp_path / "fox.webp")
    shown = call("run", table, "--run-dir", run_dir, *words, env=env | {"DREAMO_API_KEY": ""}).stderr
    assert advice in shown
    assert not re.search(r"\b[a-z_]+=|[a-z_]\(|\.[a-z]+ for", shown)
    with pytest.raises(dreamo.DreamoError) as raised:
        dreamo.run(dreamo.read_table(table), run_dir, base_dir=tmp_path, base_url=ELSEWHERE)
    assert "--" not in str(raised.value)


# How much is said.


@pytest.mark.parametrize("where", ["before", "after"])
def test_quiet_leaves_data_and_warnings(table, run_dir, env, gateway, where):
    """No progress and no hints; a row in doubt is told, and the summary is there."""
    gateway.faults.script("create", "fail_096")
    gateway.faults.script("create", "drop_after_accept")
    words = ["run", table, "--run-dir", run_dir]
    loud = call(*words, env=env)
    assert "rows in, 3 accounted for" in loud.stderr
    quiet = call(*(["-q", *words] if where == "before" else [*words, "--quiet"]), env=env)
    assert quiet.stdout == loud.stdout
    lines = quiet.stderr.splitlines()
    assert [line for line in lines if "ambiguous" in line]
    assert all("ambiguous" in line or "WARNING" in line for line in lines), lines
    assert "rows in, 3 accounted for" in call(*words, env=env).stderr


def test_errors_are_reported_however_quiet(tmp_path):
    """A command that can't do what was asked for says why."""
    told = call("-q", "validate", tmp_path / "none.csv")
    assert (told.exit_code, told.stderr.startswith("error: ")) == (2, True)


def test_a_log_file_keeps_what_happened_with_dates(table, run_dir, env, gateway, tmp_path):
    """Progress and the last line at INFO, warnings as such; the next call adds to it, and the logger is as before."""
    gateway.faults.script("create", "drop_after_accept")
    path = tmp_path / "new" / "kept.log"
    call("run", table, "--run-dir", run_dir, "-q", "--log-file", path, env=env)
    first = path.read_text().splitlines()
    assert all(
        re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) dreamo_batch", line) for line in first
    )
    assert any("WARNING" in line and "is ambiguous" in line for line in first)
    assert any("INFO" in line and "3 rows in, 3 accounted for" in line for line in first)
    call("--log-file", path, "run", table, "--run-dir", run_dir, env=env)
    assert len(path.read_text().splitlines()) > len(first)
    assert (logging.getLogger("dreamo_batch").handlers, logging.getLogger("dreamo_batch").level) == ([], 0)


def test_a_log_file_that_is_moved_away_is_begun_anew(tmp_path, capsys):
    """As logrotate does it, also during a run; where its folder has gone that is said once."""
    folder, logger = tmp_path / "logs", logging.getLogger("dreamo_batch")
    folder.mkdir()
    with logging_to(quiet=True, log_file=str(folder / "kept.log")):
        logger.info("one")
        (folder / "kept.log").rename(folder / "kept.log.1")
        logger.info("two")
        told = [(folder / name).read_text().split()[-1] for name in ("kept.log.1", "kept.log")]
        folder.rename(tmp_path / "gone")
        logger.info("three")
        logger.info("four")
    assert told == ["one", "two"]
    assert capsys.readouterr().err.count("the log can't be written") == 1


def test_a_log_file_that_can_not_be_written_leaves_with_2(table, run_dir, tmp_path):
    """Before anything is sent."""
    told = call("run", table, "--run-dir", run_dir, "--local", "--log-file", tmp_path)
    assert told.exit_code == 2
    assert not run_dir.exists()


def test_a_log_file_on_a_full_disk_fails_no_run(table, run_dir, env, gateway):
    """That is said once."""
    told = call("run", table, "--run-dir", run_dir, "--log-file", "/dev/full", env=env)
    assert told.exit_code == 0
    assert told.stderr.count("No space left on device") == 1


def test_output_that_can_not_be_written_is_named(monkeypatch):
    """The disk of the run is not the full one."""

    def full(_text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stdout", SimpleNamespace(write=full))
    with pytest.raises(OSError, match="standard output"):
        emit("40 rows")


def test_verbose_shows_the_log(table, run_dir, env, gateway):
    """What failed, as it failed; nothing of what progress shows is there twice."""
    gateway.faults.script("create", "error_code_error_message")
    told = call("run", table, "--run-dir", run_dir, "-v", env=env)
    assert "INFO dreamo_batch.engine.sending: create of job" in told.stderr
    assert told.stderr.count("3 rows in, 3 accounted for") == 1


# Options.


def test_every_keyword_of_run_is_an_option():
    """All but key, client, gateway, progress and on_event, with the same defaults."""
    keywords = {
        name: parameter.default
        for name, parameter in parameters(dreamo.run).items()
        if name not in {"table", "run_dir", "api_key", "client", "gateway", "progress", "on_event"}
    }
    assert set(options.of("verbs.run")()) == set(keywords)
    assert all(option.help for option in options.of("verbs.run")().values())
    for name in ("run", "plan"):
        given = main.commands[name].make_context(name, ["jobs.csv", "--run-dir", "r"]).params
        assert {name: given[name] for name in keywords} == keywords


def test_options_wait_for_no_verb_to_load(monkeypatch):
    """Help, and a slip in an option, come at once: what a verb needs takes half a second."""
    monkeypatch.setitem(sys.modules, "dreamo_batch.verbs", None)
    assert options.of("verbs.run", "download", "base_url")().keys() == {"download", "base_url"}


def test_choices_of_options_are_those_of_the_function():
    """A word that run() takes can be given, and no other."""
    hints = inspect.get_annotations(dreamo.run)
    for name, option in options.of("verbs.run")().items():
        if isinstance(option.type, click.Choice):
            words = ", ".join(f'"{word}"' for word in option.type.choices)
            assert hints[name].replace("'", '"') == f"Literal[{words}]"


def test_what_plan_is_given_is_what_it_takes():
    """Every keyword of plan() is one of run(), with the same default, and so an option, if a shell can pass it."""
    keywords = {
        name: one
        for name, one in parameters(dreamo.plan).items()
        if name not in {"table", "run_dir", "options"}
    }
    assert keywords.keys() - set(options.NOT_OPTIONS) <= options.of("verbs.run")().keys()
    assert all(one.default == parameters(dreamo.run)[name].default for name, one in keywords.items())


def test_what_retry_is_given_is_what_it_takes():
    """Every option that is not about the table itself can be given to retry."""
    assert set(options.of("verbs.run")()) - set(options.ABOUT_TABLE) <= set(declared("retry"))


def test_run_dir_is_accepted_everywhere():
    """The run directory can be named with --run-dir for every command but those that need none."""
    assert {name for name in main.commands if "--run-dir" not in flags_of(name)} == {"budget", "check"}


def test_no_option_takes_a_key():
    """A key on a command line would be in the history and in every list of processes."""
    flags = set().union(*map(flags_of, main.commands))
    assert not [flag for flag in flags if "key" in flag]


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in main.commands)])
def test_help_is_help(words):
    """Every command explains itself, with code 0."""
    result = call(*words)
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert "…" not in result.stdout
    assert not re.search(r"\w\.\.\.\n", result.stdout)  # a description that was cut off


def test_version_is_that_of_the_package():
    """--version names package and version."""
    assert call("--version").stdout == f"dreamo-batch {dreamo.__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["run", "jobs.csv"],
        ["run", "jobs.csv", "--run-dir", "r", "--max-attempts", "0"],
        ["run", "jobs.csv", "--run-dir", "r", "--key", "k"],
        ["status"],
        ["status", "a", "--run-dir", "b"],
        ["resolve"],
        ["resolve", "a", "b", "c"],
        ["resolve", "a", "0"],
        ["resolve", "a", "0", "--task-id", "t", "--not-sent"],
        ["serve", "--state-dir", "a", "--run-dir", "b"],
        ["serve", "--engine", "nonsense"],
        ["serve", "--latency", "soon"],
        ["serve", "--faults", "/nowhere.json"],
        ["serve", "--host", "no-host.invalid"],
        ["serve", "--state-dir", "/dev/null"],
        ["status", "/dev/null"],
        ["export", "/", "--output", "/proc/nowhere/x.csv"],
        ["gallery", "/", "--output", "/proc/nowhere/x.html"],
        ["report", "/", "--output", "/proc/nowhere/x.html"],
    ],
)
def test_bad_usage_leaves_with_2(words):
    """Nothing on standard output, one line that begins with error: on the other."""
    result = call(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert any(line.startswith("error: ") for line in result.stderr.splitlines())
    assert "Traceback" not in result.stderr
    assert "[Errno" not in result.stderr


def test_without_a_command_there_is_help():
    """On standard error, and once."""
    result = call()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")
    assert result.stderr.count("Usage: ") == 1


# Tables.


def test_a_command_that_is_not_there_is_refused():
    """As a verb that only Python has."""
    refused = call("probe-seeds", "runs/a")
    assert (refused.exit_code, refused.stderr.splitlines()[-1]) == (
        2,
        "error: No such command 'probe-seeds'.",
    )
    named = call("load", "runs/a").stderr.splitlines()[-1]
    assert named == "error: No such command 'load'; use `dreamo-batch results RUN_DIR`."


def test_validate_finds_nothing_wrong(table):
    """A good table: no data, code 0."""
    plain = dreamo.read_table(table).assign(use_rephraser=False)
    dreamo.write_table(plain, table)
    result = call("validate", table)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No problems: 3 rows can be submitted." in result.stderr


def test_validate_lists_problems_and_leaves_with_2(tmp_path):
    """All problems of all rows, in each format; warnings alone would not change the code."""
    table = write_table(tmp_path, 1, "fox.png,,2,512x512", "gone.png,x,2.5,512x512")
    as_json = call("validate", table, "--format", "json", "--run-dir", tmp_path / "run")
    problems = json.loads(as_json.stdout)
    assert as_json.exit_code == 2
    assert sorted((problem["row"], problem["column"]) for problem in problems) == [
        ("1", "prompt"),
        ("2", "image"),
        ("2", "seed"),
    ]
    assert list(problems[0]) == list(columns.PROBLEMS)
    as_text = call("validate", table)
    assert as_text.exit_code == 2
    assert "gone.png" in as_text.stdout
    assert not (tmp_path / "run").exists()


def test_validate_passes_warnings(tmp_path):
    """A warning is listed, and the code stays 0."""
    table = write_table(tmp_path, 1, f"fox.png,{'a' * 400},2,512x512")
    result = call("validate", table, "--format", "csv")
    assert result.exit_code == 0
    assert "warning" in result.stdout


def test_unreadable_table_leaves_with_2(tmp_path):
    """No such file, or a file of an unknown kind."""
    strange = tmp_path / "jobs.docx"
    strange.write_text("?")
    for path in (tmp_path / "none.csv", strange):
        result = call("plan", path)
        assert result.exit_code == 2
        assert "error: " in result.stderr


def test_relative_images_start_at_the_tables_folder(table, tmp_path, monkeypatch):
    """Wherever the command is called; --base-dir says otherwise."""
    monkeypatch.chdir("/")
    assert call("validate", table).exit_code == 0
    assert call("validate", table, "--base-dir", tmp_path / "elsewhere").exit_code == 2


@pytest.mark.parametrize(
    "words", [["plan"], ["plan", "--detach", "--no-cap", "--dry-run"], ["run", "--dry-run"]]
)
def test_plan_says_what_would_be_bought(words, table, run_dir):
    """One record per row; nothing is written."""
    result = call(*words, table, "--run-dir", run_dir, "--unit-cost", "0.03", "--format", "json")
    assert result.exit_code == 0
    assert [list(record) for record in json.loads(result.stdout)] == [list(columns.PLAN)] * 3
    assert {record["action"] for record in json.loads(result.stdout)} == {"new"}
    assert "3 of 3 rows to buy. 3 new. Still to pay: $0.09. Nothing was sent." in result.stderr
    assert not run_dir.exists()


def test_a_plan_groups_rows_and_lists_them_on_request(tmp_path):
    """One line per action and reason, and one per kind of warning; --rows has a line per row."""
    table = write_table(tmp_path, 0, *(f"fox.png,{'a' * 301},{seed},512x512" for seed in (0, 1, 2, 2)))
    grouped = call("plan", table, "--unit-cost", "0.03")
    assert [line.split()[:2] for line in grouped.stdout.splitlines()] == [
        ["action", "rows"],
        ["new", "3"],
        ["duplicate", "1"],
    ]
    assert grouped.stderr.count("prompt-long in 4 rows (lines 2, 3, 4, 5; column prompt") == 1
    assert len(call("plan", table, "--rows").stdout.splitlines()) == 5
    assert len(call("run", table, "--run-dir", tmp_path / "run", "--dry-run").stdout.splitlines()) == 3


def test_a_bad_file_is_one_line(tmp_path):
    """However many rows use it."""
    table = write_table(tmp_path, 0, *(f"gone.png,on a beach,{seed},512x512" for seed in range(1, 49)))
    assert call("validate", table).stdout.count("\n") == 1
    assert len(json.loads(call("validate", table, "--format", "json").stdout)) == 48


def test_a_rephrased_seed_sweep_is_said_once_and_changes_no_exit_code(table, run_dir, env):
    """Plan and run say on standard error that seeds can't be compared; once all is bought nobody does."""
    for words in (["plan", table], ["run", table, "--run-dir", run_dir]):
        result = call(*words, env=env)
        assert result.exit_code == 0
        assert result.stderr.count("use_rephraser is on in seed sweeps (rows: 3, sweeps: 1)") == 1
    again = call("run", table, "--run-dir", run_dir, env=env)
    planned = call("plan", table, "--run-dir", run_dir, env=env)
    assert "use_rephraser" not in again.stderr + planned.stderr + planned.stdout


def test_plan_without_a_price_has_null_for_it(table):
    """Unknown money is null, not 0."""
    record = json.loads(call("plan", table, "--format", "json").stdout)[0]
    assert record["cost_high_usd"] is None


def test_plan_of_an_invalid_table_leaves_with_2_unless_rows_are_skipped(tmp_path):
    """Its code is what run would leave with before buying anything."""
    table = write_table(tmp_path, 1, "fox.png,,2,512x512")
    assert call("plan", table).exit_code == 2
    assert call("plan", table, "--on-invalid", "skip").exit_code == 0


# Runs.


def test_run_prints_counts_and_money(table, run_dir, env, gateway):
    """The shape of the JSON is fixed, money is exact text, and the same call again buys nothing."""
    n_before = len(gateway.invoice())
    words = ("run", table, "--run-dir", run_dir, "--max-cost", "5", "--format", "json")
    first = call(*words, env=env)
    summary = json.loads(first.stdout)
    assert first.exit_code == 0
    assert list(summary) == SUMMARY
    assert summary["by_status"] == {"completed": 3}
    assert summary["max_cost_usd"] == "5"
    spent = sum(Decimal(attempt["cost"]) for attempt in gateway.invoice()[n_before:])
    assert Decimal(summary["spent_usd"]) == spent
    again = call(*words, env=env)
    assert (again.exit_code, json.loads(again.stdout)) == (0, summary)
    assert len(gateway.invoice()) == n_before + 3


def test_run_with_the_embedded_gateway_needs_no_key(table, run_dir):
    """--local keeps the gateway's state in the run directory, so that the run resumes."""
    assert call("run", table, "--run-dir", run_dir, "--local", "--no-download").exit_code == 0
    assert (run_dir / "gateway").is_dir()
    again = call("run", table, "--run-dir", run_dir, "--local", "--format", "json")
    assert (again.exit_code, json.loads(again.stdout)["attempts"]) == (0, 3)
    assert len(list((run_dir / "images").iterdir())) == 3


def test_local_and_a_base_url_exclude_each_other(table, run_dir):
    """One service at a time."""
    result = call("run", table, "--run-dir", run_dir, "--local", "--base-url", ELSEWHERE)
    assert result.exit_code == 2
    assert "--local or --base-url" in result.stderr


def test_failed_rows_leave_with_1_and_a_hint(table, run_dir, env, gateway):
    """Finished, not all of them; `retry` submits the failed ones again."""
    gateway.faults.script("create", "fail_096")
    result = call("run", table, "--run-dir", run_dir, env=env)
    assert result.exit_code == 1
    assert "completed            2\nfailed               1" in result.stdout
    assert f"dreamo-batch retry {run_dir}" in result.stderr
    planned = call("retry", run_dir, "--dry-run", "--format", "json", env=env)
    assert sorted(record["action"] for record in json.loads(planned.stdout)) == ["new", "reuse", "reuse"]
    assert call("retry", run_dir, "--classes", "moderation", env=env).exit_code == 1
    retried = call("retry", "--run-dir", run_dir, "--classes", "result_error", "--format", "json", env=env)
    assert retried.exit_code == 0
    assert json.loads(retried.stdout)["attempts"] == 4


def test_a_retry_is_planned_like_a_run(done):
    """The plan behind `retry --dry-run` refuses what retry refuses."""
    with pytest.raises(dreamo.UsageError, match="nonsense"):
        plan_retry(done, nonsense=1)


def test_rows_are_chosen_by_label(table, run_dir, env, gateway):
    """--rows takes labels, ranges of them and jobs, comma-separated or repeated; one that is not there is refused."""
    gateway.faults.script("create", "fail_096", "fail_096", "fail_096")
    assert call("run", table, "--run-dir", run_dir, env=env).exit_code == 1
    assert call("retry", run_dir, "--rows", "0, 2", env=env).exit_code == 1
    assert call("status", run_dir, "--format", "json").stdout.count('"failed": 1') == 1
    missing = call("retry", run_dir, "--rows", "0", "--rows", "17", env=env)
    assert missing.exit_code == 2
    assert "'17'" in missing.stderr
    assert "Pass labels of the table, as `dreamo-batch results` shows them." in missing.stderr
    planned = call("retry", run_dir, "--rows", "1-2", "--dry-run", env=env)
    assert "1 new attempt" in planned.stderr or planned.stdout.count("new") == 1
    job_id = dreamo.load(run_dir)["job_id"][1]
    assert call("retry", run_dir, "--rows", job_id, env=env).exit_code == 0


def test_ambiguous_rows_leave_with_1_and_are_resolved_by_hand(table, run_dir, env, gateway):
    """Held, listed, settled with resolve, and only then submitted again."""
    gateway.faults.script("create", "drop_before_accept")
    result = call("run", table, "--run-dir", run_dir, "--max-in-flight", "1", env=env)
    assert result.exit_code == 1
    assert f"resolve {run_dir} ROW" in result.stderr
    held = json.loads(call("results", run_dir, "--format", "json").stdout)
    (row,) = (number for number, record in enumerate(held) if record["status"] == "ambiguous")
    assert call("resolve", run_dir, (row + 1) % 3, "--not-sent").exit_code == 2
    assert call("resolve", run_dir, row, "--attempt", 2, "--not-sent").exit_code == 2
    settled = call("resolve", "--run-dir", run_dir, row, "--attempt", 1, "--not-sent", "--format", "json")
    assert settled.exit_code == 0
    assert json.loads(settled.stdout)["by_status"] == {"pending": 1, "completed": 2}
    assert call("run", table, "--run-dir", run_dir, env=env).exit_code == 0


def test_skipped_rows_leave_with_1(tmp_path, run_dir, env):
    """An invalid table is refused with 2 before anything is bought, or its good rows are bought."""
    table = write_table(tmp_path, 1, "fox.png,,2,512x512")
    refused = call("run", table, "--run-dir", run_dir, env=env)
    assert refused.exit_code == 2
    assert "--on-invalid skip" in refused.stderr
    assert "validate TABLE" in refused.stderr
    assert call("run", table, "--run-dir", run_dir, "--on-invalid", "skip", env=env).exit_code == 1


def test_budget_leaves_with_3_and_still_prints(table, run_dir, env):
    """The cap is kept, the summary is printed, and a higher cap goes on."""
    words = ("run", table, "--run-dir", run_dir, "--unit-cost", "0.01", "--format", "json")
    stopped = call(*words, "--max-cost", "0.01", "--max-in-flight", "1", env=env)
    assert stopped.exit_code == 3
    assert json.loads(stopped.stdout)["by_status"] == {"pending": 2, "completed": 1}
    assert "error: The cap of $0.01 is reached" in stopped.stderr
    assert "--max-cost" in stopped.stderr
    assert call(*words, "--max-cost", "inf", env=env).exit_code == 0


def test_a_cap_without_a_price_leaves_with_2(table, run_dir, env, gateway):
    """And says which options help."""
    gateway.faults.set({"precharge": {"http_500": 1.0}})
    result = call("run", table, "--run-dir", run_dir, "--max-cost", "5", env=env)
    assert result.exit_code == 2
    assert "--unit-cost" in result.stderr
    assert "--pilot" in result.stderr
    assert "unit_cost=" not in result.stderr


def test_refused_access_leaves_with_3(table, run_dir, env):
    """A wrong key stops the run; neither key is shown."""
    result = call("run", table, "--run-dir", run_dir, env=env | {"DREAMO_API_KEY": KEY})
    assert result.exit_code == 3
    assert "error: The service refused access" in result.stderr
    assert KEY not in result.output


def test_pictures_that_could_not_be_saved_leave_with_1(table, run_dir, env, gateway):
    """The row is completed and paid, its picture is fetched by the next call."""
    gateway.faults.set({"download": {"http_404": 1.0}})
    result = call("run", table, "--run-dir", run_dir, env=env)
    gateway.faults.clear()
    assert result.exit_code == 1
    assert "3 pictures could not be saved" in result.stderr
    assert call("run", table, "--run-dir", run_dir, env=env).exit_code == 0


def test_rows_still_in_progress_leave_with_3(table, run_dir, env, gateway):
    """A task that takes too long is asked for by the next call."""
    gateway.faults.script("create", "stuck")
    result = call("run", table, "--run-dir", run_dir, "--task-timeout-s", "0.3", env=env)
    assert result.exit_code == 3
    assert "1 in progress: run the same command again" in result.stderr


def test_another_service_leaves_with_2(done):
    """Before anybody is asked to pay it."""
    result = call("retry", done, "--base-url", ELSEWHERE, env={"DREAMO_API_KEY": KEY})
    assert result.exit_code == 2
    assert "loopback" in result.stderr


def test_the_file_of_a_table_is_read_as_told(tmp_path, env):
    """Delimiter, decimal mark and names of columns are given."""
    path = tmp_path / "jobs.txt"
    path.write_text("pic/words/weight\nfox.png/a fox/0,5\n//\nfox.png/a h\xe4re/1\n", encoding="cp1252")
    shutil.copy("data/mascot.png", tmp_path / "fox.png")
    words = ("--delimiter", "/", "--decimal", ",", "--rename", "pic=image", "--rename", "words=prompt")
    assert "or pass --encoding" in call("validate", path, *words, env=env).stderr
    words += ("--encoding", "cp1252")
    result = call("run", path, "--run-dir", tmp_path / "run", *words, env=env)
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    assert "skipped 1 blank row" in result.stderr
    done = dreamo.load(tmp_path / "run")
    assert done["weight"].tolist() == [0.5, 1.0]
    assert done["prompt"].tolist() == ["a fox", "a h\xe4re"]
    assert call("validate", path, "--rename", "pic", env=env).exit_code == 2
    listed = call("validate", path, "--rename", "pic=image,words=prompt", env=env)
    assert (listed.exit_code, "one OLD=NEW at a time" in listed.stderr) == (2, True)
    twice = call(
        "validate", path, *words[:2], *words[-2:], "--rename", "pic=image", "--rename", "words=image"
    )
    assert twice.exit_code == 2
    assert "columns 'pic' and 'words' would both mean 'image'" in twice.stderr
    assert call("plan", path, "--delimiter", "ab", env=env).exit_code == 2


# Money.


def test_spending_without_a_terminal_needs_yes(table, run_dir):
    """It says how much would be bought, sends nothing, and leaves with 2."""
    words = ("run", table, "--run-dir", run_dir, "--base-url", ELSEWHERE, "--unit-cost", "0.03")
    result = call(*words, "--max-cost", "5", env={"DREAMO_API_KEY": KEY})
    assert result.exit_code == 2
    assert "3 new attempts at gateway.example:443, for up to $0.09; capped at $5.00 in all" in result.stderr
    assert "--yes" in result.stderr
    assert not run_dir.exists()


def test_an_invalid_table_is_refused_before_asking(tmp_path, run_dir):
    """Nobody agrees to buy what can't be bought."""
    table = write_table(tmp_path, 1, "fox.png,,2,512x512")
    result = call("run", table, "--run-dir", run_dir, "--base-url", ELSEWHERE, env={"DREAMO_API_KEY": KEY})
    assert result.exit_code == 2
    assert "validate" in result.stderr
    assert "--yes" not in result.stderr


class Typed(io.StringIO):
    """A terminal on which something was typed already."""

    def isatty(self):
        return True

    def readline(self):
        if self.getvalue() == INTERRUPT:
            raise KeyboardInterrupt
        return super().readline()


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("DREAMO_API_KEY", KEY)
    monkeypatch.delenv("DREAMO_BASE_URL", raising=False)

    def typed(text, *words):
        shown = Typed()
        monkeypatch.setattr("sys.stdin", Typed(text))
        monkeypatch.setattr("sys.stderr", shown)
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        return left.value.code, shown.getvalue()

    return typed


@pytest.mark.parametrize(
    ("text", "code"), [("", 2), ("\n", 2), ("no\n", 2), ("yesterday\n", 2), (INTERRUPT, 3)]
)
def test_anything_but_yes_is_no(table, run_dir, terminal, text, code):
    """The end of the line too; an interrupt is an interrupt."""
    left, shown = terminal(text, "run", table, "--run-dir", run_dir, "--base-url", ELSEWHERE)
    assert left == code
    assert "3 new attempts at gateway.example:443, at a price not known yet. Buy? [y/N]" in shown
    assert not run_dir.exists()


def test_warnings_about_rows_come_before_the_question_and_only_once(
    tmp_path, run_dir, terminal, env, monkeypatch
):
    """What speaks against buying is read before it is agreed to; nor is it repeated when the run begins."""
    table = write_table(tmp_path, 0, "fox.png,a fox,0,512x512")
    words = ("run", table, "--run-dir", run_dir)
    left, shown = terminal("n\n", *words, "--base-url", ELSEWHERE)
    assert left == 2
    assert shown.index("warning: seed-zero") < shown.index("Buy? [y/N]")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Settings, "is_loopback", property(lambda _: False))
    left, shown = terminal("y\n", *words)
    assert (left, shown.count("warning: seed-zero")) == (0, 1)
    assert shown.index("warning: seed-zero") < shown.index("Buy? [y/N]")


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_yes_is_yes(table, run_dir, terminal, monkeypatch, answer):
    """Then the run begins."""
    asked = []
    monkeypatch.setattr(dreamo, "run", lambda *_, **options: asked.append(options) or results_of(3))
    monkeypatch.setattr(dreamo, "status", lambda _: {"rows": 3})
    assert terminal(answer, "run", table, "--run-dir", run_dir, "--base-url", ELSEWHERE)[0] == 0
    assert asked[0]["base_url"] == ELSEWHERE
    assert "api_key" not in asked[0]


def bought(monkeypatch, call_it) -> dict:
    """Options that `run` gets from a command, without running."""
    asked = []
    monkeypatch.setattr(dreamo, "run", lambda *_, **options: asked.append(options) or results_of(3))
    monkeypatch.setattr(dreamo, "status", lambda _: {"rows": 3})
    call_it()
    return asked[0]


def test_the_sum_agreed_to_binds_the_call(table, run_dir, terminal, monkeypatch):
    """What is read before `Buy?` is the most that the call may add."""
    words = ("run", table, "--run-dir", run_dir, "--base-url", ELSEWHERE, "--unit-cost", "0.03")
    options = bought(monkeypatch, lambda: terminal("y\n", *words))
    assert (options["max_new_cost"], options["max_cost"]) == ("0.0900", None)
    options = bought(monkeypatch, lambda: terminal("y\n", *words, "--max-new-cost", "0.05"))
    assert options["max_new_cost"] == "0.05"


@pytest.mark.parametrize(
    ("words", "bound"),
    [
        (("--unit-cost", "0.03"), ("0.1125", "stops at $0.1125; --no-cap lifts that")),
        (("--unit-cost", "0.03", "--no-cap"), (None, "")),
        (("--unit-cost", "0.03", "--max-cost", "5"), (None, "")),
        (("--unit-cost", "0.03", "--max-new-cost", "0.05"), ("0.05", "")),
        ((), (None, "no price is known, so nothing limits this call; --max-cost does")),
    ],
)
def test_yes_is_bound_to_a_quarter_more_than_planned(table, run_dir, monkeypatch, words, bound):
    """Nobody reads a question, so the sum is said; a cap of one's own, or --no-cap, stands instead."""
    told = []
    line = ("run", table, "--run-dir", run_dir, "--base-url", ELSEWHERE, "--yes", *words)
    options = bought(monkeypatch, lambda: told.append(call(*line, env={"DREAMO_API_KEY": KEY})))
    limit, said = bound
    assert options["max_new_cost"] == limit
    assert said.lower() in told[0].stderr.lower()


def test_without_a_key_nobody_is_asked(table, run_dir, terminal, monkeypatch):
    """There is nothing to agree to: the missing key is named, with code 3."""
    monkeypatch.delenv("DREAMO_API_KEY")
    left, shown = terminal("", "run", table, "--run-dir", run_dir, "--base-url", ELSEWHERE)
    assert left == 3
    assert "[y/N]" not in shown
    for words in ((), ("--yes",)):
        result = call("run", table, "--run-dir", run_dir, "--base-url", ELSEWHERE, *words)
        assert (result.exit_code, "DREAMO_API_KEY" in result.stderr, "--yes" in result.stderr) == (
            3,
            True,
            False,
        )


def test_nothing_to_buy_is_nothing_to_ask():
    """A plan that reuses everything passes without a word, but tasks that may be submitted anew are told."""
    rows = pd.DataFrame({"action": ["reuse", "in flight"], "cost_high_usd": [0.0, 0.03]})
    planned = dreamo.Plan.of(rows, cap=None, spent=Decimal(0))
    service = Settings(ELSEWHERE, None)
    assert commands.consent(planned, service, {"max_attempts": 1, "max_cost": None}, is_agreed=False) is None
    with pytest.raises(click.ClickException, match="1 new attempt at"):
        commands.consent(planned, service, {"max_attempts": 2, "max_cost": None}, is_agreed=False)


def test_no_key_leaves_with_3(table, run_dir):
    """Agreed to, but without a key nothing can be bought."""
    result = call("run", table, "--run-dir", run_dir, "--base-url", ELSEWHERE, "--yes")
    assert result.exit_code == 3
    assert "DREAMO_API_KEY" in result.stderr
    assert "--local" in result.stderr


def test_plain_http_elsewhere_is_refused(table, run_dir):
    """A key is not sent unencrypted."""
    result = call(
        "run",
        table,
        "--run-dir",
        run_dir,
        "--base-url",
        "http://gateway.example",
        env={"DREAMO_API_KEY": KEY},
    )
    assert result.exit_code == 2
    assert "unencrypted" in result.stderr


# Directories.


@pytest.mark.parametrize("command", ["status", "results", "retry"])
def test_a_directory_that_is_none_leaves_with_2(command, tmp_path):
    """Nothing is made there."""
    result = call(command, tmp_path / "none")
    assert result.exit_code == 2
    assert "error: " in result.stderr
    assert not (tmp_path / "none").exists()


def test_status_counts_and_adds_up(done):
    """Positional or with --run-dir, the same."""
    as_json = call("status", done, "--format", "json")
    assert list(json.loads(as_json.stdout)) == SUMMARY
    assert call("status", "--run-dir", done, "--format", "json").stdout == as_json.stdout
    header, line = call("status", done, "--format", "csv").stdout.splitlines()
    assert dict(zip(header.split(","), line.split(","), strict=True))["completed"] == "3"


def test_verify_finds_damage(done):
    """A picture that was changed is named; the code is 1."""
    assert call("status", done, "--verify").exit_code == 0
    next((done / "images").iterdir()).write_bytes(b"not a picture")
    result = call("status", done, "--verify", "--format", "json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["damage"]) == 1
    assert "damage  images/" in call("status", done, "--verify").stdout.replace("             ", "")


def test_several_directories_are_counted_and_exported_together(done, tmp_path):
    """What reads one directory reads several, as words or with --run-dir."""
    other = shutil.copytree(done, tmp_path / "other")
    whole = json.loads(call("status", done, "--run-dir", other, "--format", "json").stdout)
    assert whole["rows"] == 2 * json.loads(call("status", done, "--format", "json").stdout)["rows"]
    exported = call("export", done, other, "--output", tmp_path / "folder", "--format", "json")
    counts = json.loads(exported.stdout)
    assert (exported.exit_code, counts["pictures"], counts["missing"]) == (0, whole["rows"], 0)


def test_results_as_records(done):
    """One JSON record per row, missing is null."""
    first = json.loads(call("results", done, "--format", "json").stdout)[0]
    assert list(first) == ["image", "prompt", "seed", "size", *columns.OUTPUTS]
    assert (first["error_code"], first["seed_sent"], first["attempts"]) == (None, 1, 1)
    assert isinstance(first["cost"], str)


def test_results_as_csv_are_those_of_a_file(done, tmp_path):
    """Standard output and --output give the same text, and it reads back."""
    written = call("results", done, "--output", tmp_path / "results.csv")
    assert (written.exit_code, written.stdout) == (0, "")
    printed = call("results", done, "--format", "csv").stdout
    assert printed == (tmp_path / "results.csv").read_text(encoding="utf-8")
    pd.testing.assert_frame_equal(dreamo.read_table(tmp_path / "results.csv"), dreamo.load(done))


def test_results_for_a_terminal_are_short(done):
    """What tells rows apart and how each went; a hint names the way to the rest."""
    result = call("results", done)
    header, *lines = result.stdout.splitlines()
    assert header.split() == [
        "row",
        "image",
        "prompt",
        "seed",
        "size",
        "status",
        "seed_sent",
        "cost",
        "output_path",
    ]
    assert len(lines) == 3
    assert "--output" in result.stderr


def test_formulas_are_escaped_only_when_asked(tmp_path, run_dir, env):
    """CSV is data; a spreadsheet is a program."""
    table = write_table(tmp_path, 0, 'fox.png,"=1+1",1,512x512')
    assert call("run", table, "--run-dir", run_dir, env=env).exit_code == 0
    assert ",=1+1," in call("results", run_dir, "--format", "csv").stdout
    assert ",=1+1," not in call("results", run_dir, "--format", "csv", "--excel-safe").stdout


def test_results_can_not_be_written_nowhere(done, tmp_path):
    """An unusable path is the user's to mend."""
    result = call("results", done, "--output", tmp_path / "none" / "results.csv")
    assert result.exit_code == 2
    assert "error: " in result.stderr


@pytest.mark.parametrize(
    ("name", "start"), [("g.html", "<!DOCTYPE html>"), ("g.png", "\x89PNG"), ("g.pdf", "%PDF")]
)
def test_gallery_is_written_by_its_ending(done, tmp_path, name, start):
    """A page or a sheet; standard output has its path."""
    result = call("gallery", done, "--output", tmp_path / name, "--title", "Foxes")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / name}\n")
    assert (tmp_path / name).read_bytes().startswith(start.encode("latin-1"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gallery", "--output", "g.gif"], "ends in .html, .htm, .png, .jpg, .jpeg, .pdf"),
        (["report", "--output", "r.pdf"], "ends in .html, .htm"),
        (["export", "--to", "me/foxes"], "--to me/foxes: "),
        (["resolve"], "one row: RUN_DIR ROW"),
        (["retry", "--dry-run", "--notify", "hooks.example"], "must be a URL"),
        (["retry", "--dry-run", "--local", "--base-url", "https://gateway.example"], "not both"),
    ],
)
def test_what_can_not_be_done_with_a_run_is_refused_in_the_words_of_the_shell(done, monkeypatch, words, said):
    """Nothing is written, and the message names what is expected."""
    monkeypatch.chdir(done.parent)
    before = sorted(done.parent.iterdir())
    result = call(*words, done)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert sorted(done.parent.iterdir()) == before


def test_a_gallery_goes_into_its_run_directory_unless_told(done):
    """As a report does; that of several must be told where."""
    result = call("gallery", done)
    assert (result.exit_code, result.stdout) == (0, f"{done / 'gallery.html'}\n")
    assert (done / "gallery.html").is_file()
    assert "--output" in call("gallery", done, done.parent).stderr


def test_gallery_takes_any_columns(done, tmp_path):
    """Several as a,b, or none."""
    page = tmp_path / "g.html"
    words = ("gallery", "--run-dir", done, "--output", page)
    assert call(*words, "--rows", "prompt, size", "--columns", "none").exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "prompt / size" in text
    assert text.count('alt="on a beach, seed ') == 3
    refused = call(*words, "--rows", "promt")
    assert refused.exit_code == 2
    assert "no column 'promt'" in refused.stderr


# Ends.


@pytest.mark.parametrize("key", [KEY, "a key with blanks"])
def test_an_unexpected_error_shows_no_key(table, monkeypatch, key):
    """A traceback helps us, and the key in it would help others."""

    def fails(*_, **__):
        raise RuntimeError(f"bug at Bearer {key}")

    monkeypatch.setattr(dreamo, "read_table", fails)
    result = call("plan", table, env={"DREAMO_API_KEY": key})
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert "bug at Bearer ***" in result.stderr
    assert key not in result.stderr


def test_a_missing_extra_is_named(table, run_dir, monkeypatch):
    """Without FastAPI there is no local gateway; the message says what to install."""

    def fails(*_, **__):
        raise ModuleNotFoundError(
            "The local gateway needs fastapi: pip install 'dreamo-batch[local]'.", name="fastapi"
        )

    monkeypatch.setattr(dreamo, "run", fails)
    result = call("run", table, "--run-dir", run_dir, "--local")
    assert result.exit_code == 2
    assert "dreamo-batch[local]" in result.stderr


def test_an_interrupt_anywhere_leaves_with_3(table, monkeypatch):
    """Also where no run is going on."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(dreamo, "validate", interrupted)
    result = call("validate", table)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "Interrupted.\n"


def test_letters_that_a_terminal_does_not_have_are_written_out(tmp_path, monkeypatch):
    """Output never fails for an encoding, and JSON stays JSON."""
    table = write_table(tmp_path, 0, "gone.png,x,🦊,512x512")
    for words in ((), ("--format", "json")):
        ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr("sys.stdout", ascii_only)
        with pytest.raises(SystemExit):
            main(["validate", str(table), *words])
        text = ascii_only.buffer.getvalue().decode("ascii")
        assert "\\U0001f98a" in text or "🦊" in json.dumps(json.loads(text), ensure_ascii=False)


# Demo.


@pytest.fixture
def demo_data(tmp_path, monkeypatch):
    write_table(tmp_path, 2).rename(tmp_path / "jobs_small.csv")
    monkeypatch.setattr("dreamo_batch.cli.commands.demo_folder", lambda: tmp_path)


def test_a_second_demo_buys_nothing(demo_data, run_dir):
    """Pictures and a sheet of them."""
    first = call("demo", "--run-dir", run_dir)
    assert first.exit_code == 0, first.stderr
    assert "makes up its prices" in first.stderr
    assert (run_dir / "contact.png").exists()
    second = call("demo", "--run-dir", run_dir, "--format", "json")
    assert second.exit_code == 0
    assert json.loads(second.stdout)["attempts"] == 2


def test_the_demo_has_its_table():
    """It is there, valid, and small."""
    from dreamo_batch.cli.commands import demo_folder

    folder = demo_folder()
    jobs = dreamo.read_table(folder / "jobs_small.csv")
    assert 4 <= len(jobs) <= 24
    assert dreamo.validate(jobs, base_dir=folder).empty


def test_what_the_demo_needs_is_in_the_wheel():
    """Its table and every picture that it names are shipped beside the package."""
    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    jobs = dreamo.read_table(root / "data" / "jobs_small.csv")
    needed = {"jobs_small.csv", "SOURCES.csv", *jobs["image"]}
    assert shipped == {f"data/{name}": f"dreamo_batch/demo_data/{name}" for name in needed}


@pytest.mark.parametrize("option", ["--rows", "--classes"])
def test_an_empty_list_of_rows_is_not_every_row(table, run_dir, env, gateway, option):
    """As an unset variable of a script leaves it behind: nothing is paid for."""
    gateway.faults.script("create", "fail_096", "fail_096", "fail_096")
    call("run", table, "--run-dir", run_dir, env=env)
    n_before = len(gateway.invoice())
    told = call("retry", run_dir, option, "", "--yes", env=env)
    assert told.exit_code == 2
    assert "is empty" in told.stderr
    assert len(gateway.invoice()) == n_before


def test_a_run_of_the_local_gateway_says_how_to_go_on(table, run_dir):
    """Without `--local`, a run would go to the real service."""
    call("run", table, "--run-dir", run_dir, "--local")
    told = call(
        "run",
        table,
        "--run-dir",
        run_dir,
        "--base-url",
        "https://gateway.example",
        "--yes",
        env={"DREAMO_API_KEY": "sk-example-key"},
    )
    assert told.exit_code == 2
    assert "or --local." in told.stderr


@pytest.mark.parametrize(("argument", "option"), [("gateway", "--local"), ("run_dir", "--run-dir")])
def test_an_option_written_as_the_argument_in_python_names_the_one_meant(tmp_path, argument, option):
    """Whoever knows `gateway="local"` from a notebook finds it in the shell."""
    done = call("run", tmp_path / "jobs.csv", f"--{argument}", "local")
    assert done.exit_code == 2
    assert f"No such option '--{argument}'. Did you mean '{option}'?" in done.stderr
    positional = call("plan", tmp_path / "jobs.csv", "--table", "x")
    assert positional.stderr.endswith("No such option '--table'.\n")
