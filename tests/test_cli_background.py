"""Commands that nobody waits for: detached, held back until a time, found again and stopped from another shell."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from datetime import time as day_time
from pathlib import Path

import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch.batch import start_time
from dreamo_batch.cli import background
from dreamo_batch.display.panel import status_text
from dreamo_batch.engine.store import Owner
from tests.cli_sweep import at, call, signals_kept, write_table
from tests.flows import until
from tests.object_server import object_server
from tests.scripted_server import ScriptedServer, answer

COMMAND = [sys.executable, "-m", "dreamo_batch"]
REFUSING = "https://0.0.0.0:1"
NO_PROCESS = 2**22 + 1  # no system counts so far
JOBS = dreamo.sweep(image="data/mascot.png", prompt="a beach", seed=[1], size="512x512")

_kept = pytest.fixture(autouse=True)(signals_kept)


@pytest.fixture
def gateway():
    with dreamo.LocalGateway(engine="flat") as running:
        yield running


@pytest.fixture
def slow():
    with dreamo.LocalGateway(engine="flat", latency="fixed:1.5") as running:
        yield running


@pytest.fixture
def stuck():
    with dreamo.LocalGateway(engine="flat", latency="fixed:600") as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_goes_on(tmp_path):
    yield
    for path in tmp_path.rglob("run.pid"):  # left where a test failed
        process = background.Process.read(path)
        if process is not None and process.is_alive:
            os.kill(process.pid, signal.SIGKILL)


def shell(*words, env, **options):
    """Run a command in a shell of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DREAMO_")}
    piped = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 90}
    return subprocess.run([*COMMAND, *map(str, words)], env=clean | env, check=False, **piped | options)


def pid_in(run_dir):
    return int((run_dir / "run.pid").read_text().split()[0])


# In the background.


def test_a_detached_run_survives_its_shell_and_is_stopped_from_another(tmp_path, slow):
    """SIGHUP does nothing to it; stop awaits and keeps what is on the wire; the same command resumes.

    What it is given is in no list of processes and no file; whoever is notified hears of the end.
    """
    table, run_dir = write_table(tmp_path, 20), tmp_path / "run"
    words = ("run", table, "--run-dir", run_dir, "--max-in-flight", 1)
    with ScriptedServer([answer()]) as server:
        hook = ("--notify", f"{server.url}/a-secret-path")
        begun = shell(*words, *hook, "--detach", "--format", "json", env=at(slow))
        assert begun.returncode == 0, begun.stderr
        told = json.loads(begun.stdout)
        assert told == {"run_dir": str(run_dir), "pid": pid_in(run_dir), "log": str(run_dir / "run.log")}
        assert os.getsid(told["pid"]) == told["pid"] != os.getsid(0)
        command = Path(f"/proc/{told['pid']}/cmdline").read_bytes()
        assert (str(run_dir).encode() in command, b"a-secret-path" in command) == (True, False)
        os.kill(told["pid"], signal.SIGHUP)
        assert f"Process {told['pid']} is working on" in call("status", run_dir).stderr
        assert "stops it" in call(*words, "--detach", env=at(slow)).stderr
        until(lambda: dreamo.status(run_dir)["attempts"] >= 1)
        stopped = call("stop", run_dir, "--format", "json")
        (event,) = [json.loads(request.body) for request in server.requests]
    assert stopped.exit_code == 0
    assert event["kind"] == "stopped"
    assert "left. The same command again resumes" in stopped.stderr
    assert json.loads(stopped.stdout)["by_status"].keys() <= {"pending", "in_progress", "completed"}
    log = (run_dir / "run.log").read_text()
    assert "Run the same command again to resume" in log
    assert all(background._DATED.match(line) for line in log.splitlines())
    files = [path.read_bytes() for path in run_dir.rglob("*") if path.is_file()]
    assert not [content for content in files if b"a-secret-path" in content]
    assert call(*words[:-2], env=at(slow)).exit_code == 0
    assert len(slow.invoice()) == 20
    watched = call("watch", run_dir, "--format", "json")
    assert (watched.exit_code, json.loads(watched.stdout)["by_status"]) == (0, {"completed": 20})


def test_a_detached_run_that_can_not_begin_says_so_and_leaves_with_its_code(tmp_path, gateway):
    """As if it had not been detached: nothing is sent, and what was wrong is on standard error."""
    table = write_table(tmp_path, 1, "fox.png,a fox,1,banana")
    refused = call("run", table, "--run-dir", tmp_path / "run", "--detach", env=at(gateway))
    assert refused.exit_code == 2
    assert "1 row can't be submitted" in refused.stderr
    assert not (tmp_path / "run" / "run.pid").exists()
    assert not gateway.invoice()


def test_a_detached_run_asks_first(tmp_path):
    """Without a terminal it needs --yes, and starts nothing before."""
    table = write_table(tmp_path, 1)
    env = {"DREAMO_API_KEY": "sk-key", "DREAMO_BASE_URL": REFUSING}
    refused = call("run", table, "--run-dir", tmp_path / "run", "--detach", env=env)
    assert refused.exit_code == 2
    assert "Pass --yes to agree" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_lines_are_dated_once():
    """Also those of several writes; those that have a date keep it."""

    class Kept:
        text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    kept = Kept()
    lines = background._DatedLines(kept, "")
    for text in ("one\ntw", "o\n", "2027-01-31 22:30:00+0000 dreamo: three\n", "\n"):
        lines.write(text)
    one, two, three, empty = kept.text.splitlines()
    assert (one[25:], two[25:], three[25:], empty[25:]) == ("one", "two", "dreamo: three", "")


def test_what_the_log_can_not_take_goes_into_a_temporary_file(tmp_path, monkeypatch):
    """The disk that refuses the ledger refuses the log, too, in which the ids of paid tasks would stand.

    Whoever asks how the run stands is told where, until a later log is kept in the run directory again.
    """
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    log = tmp_path / "run" / "run.log"
    log.parent.mkdir()
    log.touch()
    lines = background._DatedLines(FullDisk(), f"dreamo-batch-{background._number_of(log.parent)}-")
    lines.write("task t1\n")
    lines.write("task t2\n")
    lines._stream.close()
    (kept,) = tmp_path.glob("dreamo-batch-*.log")
    assert [line[25:] for line in kept.read_text(encoding="utf-8").splitlines()] == ["task t1", "task t2"]
    for verb in ("status", "watch"):
        assert f"Its log continues in {kept}." in call(verb, log.parent).stderr
    os.utime(log, (time.time() + 60, time.time() + 60))
    assert str(kept) not in call("status", log.parent).stderr


class FullDisk(io.StringIO):
    def flush(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Stopping.


def test_stop_refuses_where_nothing_runs(tmp_path):
    """In words, with 2."""
    refused = call("stop", tmp_path)
    assert refused.exit_code == 2
    assert "Nothing is running in" in refused.stderr


def test_stop_knows_this_machine_again_after_it_was_started_anew(tmp_path, monkeypatch):
    """A command of before has ended, and isn't one of another machine."""
    here = Owner.here()
    before = here._replace(boot="before")
    with monkeypatch.context() as earlier:
        earlier.setattr(Owner, "here", lambda: before)
        (tmp_path / "run.pid").write_text(f"{os.getpid()}\n{background.here()}\n\n", encoding="utf-8")
    assert "was killed, or is working on" in call("stop", tmp_path).stderr


def test_stop_leaves_a_process_alone_that_only_has_the_number(tmp_path):
    """A number is given again; the command of a run keeps its file locked, too."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (tmp_path / "run.pid").write_text(f"{other.pid}\n{background.here()}\n\n", encoding="utf-8")
        refused = call("stop", tmp_path)
        assert other.poll() is None
        other.communicate(b"\n")
    assert refused.exit_code == 2
    assert f"Process {other.pid} was killed, or is working on" in refused.stderr
    assert other.returncode == 0
    assert f"Process {other.pid} was killed, or is working on" in call("stop", tmp_path).stderr


def test_stop_leaves_a_run_alone_whose_directory_was_copied(tmp_path):
    """The number in the copy is that of the original's process."""
    run_dir, copy = tmp_path / "run", tmp_path / "copy"
    run_dir.mkdir()
    background.Process(run_dir / "run.pid", NO_PROCESS, background.here(), "").write()
    shutil.copytree(run_dir, copy)
    assert background.working_on(str(run_dir))
    refused = call("stop", copy)
    assert refused.exit_code == 2
    assert "Nothing is running in" in refused.stderr
    (run_dir / "run.pid").unlink()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt, 3, "sends nothing more and ends once its requests are answered"),
        (PermissionError, 2, "belongs to another user"),
        (ProcessLookupError, 2, "No run directory at"),  # it ended at that moment, and never began
    ],
)
def test_what_can_come_between_stop_and_the_end(tmp_path, monkeypatch, error, code, text):
    """An interrupt ends only the waiting; whose process it is, or that it has just ended, is said in words."""
    background.Process(tmp_path / "run.pid", NO_PROCESS, background.here(), "").write()

    def kill(_pid, _number):
        raise error

    monkeypatch.setattr(os, "kill", kill)
    stopped = call("stop", tmp_path)
    (tmp_path / "run.pid").unlink()
    assert (stopped.exit_code, text in stopped.stderr) == (code, True), stopped.stderr


def test_stop_refuses_what_runs_elsewhere(tmp_path, stuck):
    """On another machine, or in a notebook."""
    (tmp_path / "run.pid").write_text("1\nanother-host\n\n", encoding="utf-8")
    assert "on another-host is working on" in call("stop", tmp_path).stderr
    of_container = f"{socket.gethostname()} pid:[1]"
    background.Process(tmp_path / "run.pid", 1, of_container, "").write()
    assert "Stop it there" in call("stop", tmp_path).stderr
    (tmp_path / "run.pid").unlink()
    jobs = dreamo.read_table(write_table(tmp_path, 1))
    live = dreamo.start(jobs, tmp_path / "run", gateway=stuck, base_dir=tmp_path)
    refused = call("stop", tmp_path / "run")
    live.stop()
    live.wait(progress=False)
    assert refused.exit_code == 2
    assert f"Process {os.getpid()} on {socket.gethostname()} is writing to" in refused.stderr


def test_stop_reports_a_run_that_was_killed(tmp_path, gateway, monkeypatch):
    """What was on the wire is held, and the code says so."""
    gateway.faults.script("create", "slow", seconds=60.0)
    table, run_dir = write_table(tmp_path, 1), tmp_path / "run"
    call("run", table, "--run-dir", run_dir, "--detach", env=at(gateway))
    until(lambda: dreamo.status(run_dir)["attempts"] >= 1)
    kill = os.kill
    monkeypatch.setattr(os, "kill", lambda pid, _number: kill(pid, signal.SIGKILL))
    stopped = call("stop", run_dir)
    assert stopped.exit_code == 1
    assert "It was killed. Held 1 attempt that may have been accepted and billed." in stopped.stderr


def test_a_run_in_a_store_is_stopped_where_it_runs(tmp_path):
    """Its number and log lie in the local folder; elsewhere stop names who writes."""
    with object_server() as server, dreamo.LocalGateway(engine="flat", latency="fixed:600") as gateway:
        env = at(gateway) | server.environment
        here, elsewhere = (env | {"DREAMO_CACHE_DIR": str(tmp_path / name)} for name in ("here", "elsewhere"))
        url = "s3://bucket/run"
        begun = call("run", write_table(tmp_path, 1), "--run-dir", url, "--detach", env=here)
        assert begun.exit_code == 0, begun.stderr
        assert (tmp_path / "here/s3/bucket/run/run.log").exists()
        refused = call("stop", url, env=elsewhere)
        assert refused.exit_code == 2
        assert "is writing to s3://bucket/run" in refused.stderr
        stopped = call("stop", url, env=here)
        assert stopped.exit_code == 0, stopped.stderr


def test_the_line_for_cron_runs_as_cron_runs_it(tmp_path, gateway):
    """That of the guide: by sh, in another folder, with next to no environment."""
    page = (Path(__file__).parent.parent / "docs/guide/unattended.md").read_text(encoding="utf-8")
    line = re.search(r"^30 22 \* \* \* (.*)$", page, re.MULTILINE)[1]
    write_table(tmp_path, 2)
    (tmp_path / "dreamo.env").write_text("".join(f"{name}={value}\n" for name, value in at(gateway).items()))
    (tmp_path / "runs").mkdir()
    command = str(Path(sys.executable).parent / "dreamo-batch")
    line = line.replace("/home/me/venv/bin/dreamo-batch", command).replace("/home/me/sweep", str(tmp_path))
    line = line.replace("/home/me", str(tmp_path))
    environment = {"HOME": "/", "LOGNAME": "me", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        ["/bin/sh", "-c", line], env=environment, cwd="/", check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert dreamo.status(tmp_path / "runs/night")["by_status"] == {"completed": 2}
    assert "2 completed" in (tmp_path / "runs/night.log").read_text()


# Until a time.


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


NOW = datetime(2027, 1, 30, 12, tzinfo=UTC).timestamp()  # 13:00 in Berlin


@pytest.mark.parametrize(
    ("text", "expected", "remark"),
    [
        ("22:30", "2027-01-30T22:30+01:00", ""),
        ("9:05:30", "2027-01-31T09:05:30+01:00", ""),
        ("2027-07-01 22:30", "2027-07-01T22:30+02:00", ""),
        ("2027-07-01", "2027-07-01T00:00+02:00", ""),
        ("2027-01-31T22:30Z", "2027-01-31T22:30+00:00", ""),
        ("2027-01-31T22:30-05:00", "2027-01-31T22:30-05:00", ""),
        (datetime(2027, 7, 1, 22, 30), "2027-07-01T22:30+02:00", ""),  # noqa: DTZ001 - local
        (pd.Timestamp("2027-07-01 22:30"), "2027-07-01T22:30+02:00", ""),
        (pd.Timestamp("2027-07-01 22:30", tz="UTC"), "2027-07-01T22:30+00:00", ""),
        (datetime(2027, 10, 31, 2, 30, fold=1), "2027-10-31T02:30+01:00", ""),  # noqa: DTZ001 - local
        (date(2027, 7, 1), "2027-07-01T00:00+02:00", ""),
        (day_time(22, 30), "2027-01-30T22:30+01:00", ""),
        ("2027-01-30T10:00", None, "was 3 h ago: nothing to wait for"),
        ("2027-03-28T02:30", "2027-03-28T03:30+02:00", ""),
        ("2027-10-31T02:30", "2027-10-31T02:30+02:00", ""),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_a_time_is_local_unless_it_has_an_offset(caplog, text, expected, remark):
    """A time of day is its next one; one that has passed is said."""
    assert start_time(text, now=NOW) == (expected and datetime.fromisoformat(expected).timestamp())
    assert remark in caplog.text if remark else not caplog.text


@pytest.mark.parametrize(
    "text",
    ["", "25:00", "tomorrow", "2027-02-30", "0001-01-01T00:00+14:00", "22.30", 3600, 1.8e9, True, pd.NaT],
)
def test_what_is_no_time_is_refused(tmp_path, text):
    """With the spellings that are taken; a number of seconds could be meant from now or from 1970."""
    with pytest.raises(dreamo.UsageError, match="expected a datetime, or a time such as 22:30"):
        dreamo.run(JOBS, tmp_path / "run", gateway="local", not_before=text)
    assert not (tmp_path / "run").exists()


def test_every_verb_that_buys_can_wait_and_an_interrupt_leaves_nothing(
    tmp_path, gateway, monkeypatch, capsys
):
    """What is wrong is said before; the waiting is shown."""
    monkeypatch.setattr("dreamo_batch.batch._sleep_until", lambda *_: signal.raise_signal(signal.SIGINT))
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for service in ({"gateway": gateway}, {"gateway": "local"}):
        with pytest.raises(KeyboardInterrupt):
            dreamo.run(JOBS, tmp_path / "run", **service, not_before=tomorrow)
    assert capsys.readouterr().err.count("Waiting until") == 2
    with pytest.raises(dreamo.KeyMissing):
        dreamo.run(JOBS, tmp_path / "run", base_url=REFUSING, not_before=tomorrow)
    assert not (tmp_path / "run").exists()
    dreamo.run(JOBS, tmp_path / "run", gateway=gateway, progress=False)
    for verb in (dreamo.resume, dreamo.retry):
        with pytest.raises(KeyboardInterrupt):
            verb(tmp_path / "run", gateway=gateway, not_before=tomorrow, progress=False)
    assert "Waits" not in capsys.readouterr().err
    assert len(gateway.invoice()) == 1


def test_a_batch_that_waits_is_stopped_resumed_or_begins_in_time(tmp_path, gateway):
    """It says so in its status; nothing is bought before."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    waiting = dreamo.start(JOBS, tmp_path / "a", gateway=gateway, not_before=tomorrow)
    assert (waiting.status.phase, waiting.status.begins_at) == ("paused", tomorrow)
    assert "Waiting until" in waiting.status.notices[0]
    assert f"until you resume or it is {tomorrow.astimezone():%Y-%m-%d %H:%M:%S %z}." in status_text(
        waiting.status
    )
    waiting.stop()
    assert waiting.wait(progress=False)["status"].tolist() == ["pending"]
    assert not gateway.invoice()
    impatient = dreamo.start(JOBS, tmp_path / "b", gateway=gateway, not_before=tomorrow)
    impatient.resume()
    assert impatient.wait(progress=False)["status"].tolist() == ["completed"]
    begins_at = datetime.now(UTC) + timedelta(seconds=1)
    done = dreamo.start(JOBS, tmp_path / "c", gateway=gateway, not_before=begins_at).wait(progress=False)
    assert done["submitted_at"].min() >= begins_at


def test_a_run_waits_until_its_time(tmp_path, gateway, monkeypatch):
    """Nothing is sent before; then it is checked again, and runs."""
    begins_at = datetime.now(UTC) + timedelta(hours=1)
    waited = []

    def sleep_until(seconds, _is_over):
        waited.append((seconds, len(gateway.invoice())))
        return True

    monkeypatch.setattr("dreamo_batch.batch._sleep_until", sleep_until)
    words = ("run", write_table(tmp_path, 1), "--run-dir", tmp_path / "run")
    done = call(*words, "--not-before", begins_at.isoformat(), env=at(gateway))
    assert done.exit_code == 0
    assert "Waiting until" in done.stderr
    assert waited == [(begins_at.timestamp(), 0)]
    assert len(gateway.invoice()) == 1
    assert not (tmp_path / "run" / "run.pid").exists()


def test_what_is_wrong_is_said_before_the_waiting(tmp_path, gateway):
    """Rows, a link that will have expired, a cap without a price, a service of another run."""
    soon = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y%m%dT%H%M%SZ")
    link = f"https://x.example/a.png?X-Amz-Date={soon}&X-Amz-Expires=60&X-Amz-Signature=x"
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    words = ("--not-before", tomorrow, "--run-dir", tmp_path / "run")
    for row in ("fox.png,a fox,1,banana", f"{link},a fox,1,512x512"):
        refused = call("run", write_table(tmp_path, 0, row), *words, env=at(gateway))
        assert (refused.exit_code, "can't be submitted" in refused.stderr) == (2, True)
    assert "The link to the picture expires on" in refused.stderr  # it hasn't expired yet
    env = {"DREAMO_API_KEY": "", "DREAMO_BASE_URL": REFUSING}
    refused = call("run", write_table(tmp_path, 1), *words, "--yes", env=env)
    assert "needs an API key" in refused.stderr


def test_a_detached_run_that_waits_is_found_and_stopped(tmp_path, gateway):
    """It says until when; stopped, it has sent nothing, and whoever is notified hears of it."""
    table, run_dir = write_table(tmp_path, 1), tmp_path / "run"
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    words = ("run", table, "--run-dir", run_dir)
    with ScriptedServer([answer()]) as server:
        env = at(gateway) | {"DREAMO_NOTIFY_URL": server.url}
        begun = call(*words, "--detach", "--not-before", tomorrow, env=env)
        assert begun.exit_code == 0, begun.stderr
        until = f"Process {pid_in(run_dir)} is waiting until"
        assert until in begun.stderr
        asked = call("status", run_dir, "--format", "json")
        assert (asked.exit_code, asked.stdout, until in asked.stderr) == (0, "{}\n", True)
        asked = call("status", run_dir)  # as text, where nothing is listed
        assert (asked.exit_code, asked.stdout, until in asked.stderr) == (0, "", True)
        assert until in call(*words, env=at(gateway)).stderr
        stopped = call("stop", run_dir)
        assert (stopped.exit_code, "nothing was sent" in stopped.stderr) == (0, True)
        (told,) = [json.loads(request.body) for request in server.requests]
    assert told["kind"] == "stopped"
    assert not gateway.invoice()
    assert call("stop", run_dir).exit_code == 2
    dreamo.run(JOBS, tmp_path / "other", gateway=gateway, progress=False)
    with pytest.warns(UserWarning, match="Left out .*/run: no run has begun there yet"):
        assert dreamo.costs([run_dir, tmp_path / "other"])["rows"].tolist() == [1]
    with pytest.raises(dreamo.DirectoryError, match=r"No run has begun there yet; see .*run\.log"):
        dreamo.load(run_dir)


@pytest.mark.parametrize("where", ["write", "poll"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whatever_ends_the_wait_for_a_child_stops_it(monkeypatch, tmp_path, where, error):
    """Else it would buy behind a failed command; a second interrupt can show as another error than the first."""

    class Pipe(io.BytesIO):
        """Takes other methods, unlike its base."""

    class Child:
        pid, returncode, n_stopped = 1, None, 0

        def __init__(self, *_command, **_options):
            self.stdin = Pipe()
            setattr(self if where == "poll" else self.stdin, where, self.fail)

        def fail(self, *_given):
            raise error

        def poll(self):
            return None

        def terminate(self):
            Child.n_stopped += 1

    monkeypatch.setattr(background.subprocess, "Popen", Child)
    with pytest.raises(error):
        background.detach(str(tmp_path / "run"), ["run"], {})
    assert Child.n_stopped == 1
