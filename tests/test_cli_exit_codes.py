"""The command as a process: signals, pipes, terminals, and how it leaves."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from functools import partial
from select import select

import pytest
import requests

import dreamo_batch as dreamo
from tests.cli_sweep import at, call, signals_kept, write_table
from tests.flows import Slow

COMMAND = [sys.executable, "-m", "dreamo_batch"]
KEY = "sk-a-key-that-nobody-may-see"
# Refuses every connection, and is not loopback by its name: what is agreed to here costs nothing.
REFUSING = "https://0.0.0.0:1"

_kept = pytest.fixture(autouse=True)(signals_kept)


def start(*words, env=None, **streams):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DREAMO_")}
    piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    command = [*COMMAND, *map(str, words)]
    hangs_up = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # else it is ignored below nohup
    return subprocess.Popen(command, env=clean | (env or {}), text=True, preexec_fn=hangs_up, **piped)  # noqa: PLW1509 - one call, no locks


def finish(process):
    stdout, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    return process.returncode, stdout, stderr


def test_a_line_that_hangs_up_stops_a_run_with_3_and_the_next_one_goes_on(tmp_path):
    """As if interrupted, though the task takes longer; nothing is submitted twice."""
    table, run_dir, slow = write_table(tmp_path, 1), tmp_path / "run", Slow()
    with dreamo.LocalGateway(engine="flat", latency="fixed:1000", clock=slow) as gateway:
        process = start("run", table, "--run-dir", run_dir, env=at(gateway))
        while not gateway.invoice() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        code, stdout, stderr = finish(process)
        assert (code, stdout) == (3, "")
        assert "Run the same command again to resume" in stderr
        assert call("status", run_dir, "--format", "json").stdout.count('"in_progress": 1') == 1
        slow.speed_up()
        assert call("run", table, "--run-dir", run_dir, env=at(gateway)).exit_code == 0
        assert len(gateway.invoice()) == 1


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    """`| head` gets its line; the command ends as it would have."""
    table = write_table(tmp_path, 3000)
    process = start("plan", table, "--format", "csv")
    assert process.stdout.readline().startswith("action,")
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in stderr
    assert "Exception" not in stderr


def test_a_run_that_nobody_sees_is_finished(tmp_path):
    """With standard error gone the run goes on, and its results come back."""
    table = write_table(tmp_path, 2)
    with dreamo.LocalGateway(engine="flat") as gateway:
        process = start("run", table, "--run-dir", tmp_path / "run", "--format", "json", env=at(gateway))
        process.stderr.close()
        assert process.wait(timeout=60) == 0
        assert json.loads(process.stdout.read())["by_status"] == {"completed": 2}
        process.stdout.close()
        assert len(gateway.invoice()) == 2


def test_serve_tells_where_it_is_until_it_is_stopped(tmp_path):
    """One line of JSON; its key is the one it was given, its faults those of the file; stopping it is no failure."""
    (tmp_path / "faults.json").write_text('{"create": {"http_402": 1.0}}')
    table = write_table(tmp_path, 1)
    words = ("--engine", "flat", "--faults", tmp_path / "faults.json", "--run-dir", tmp_path / "run")
    process = start("serve", *words, env={"DREAMO_API_KEY": KEY})
    ready = json.loads(process.stdout.readline())
    assert ready["api_key"] == KEY
    bearer = {"Authorization": f"Bearer {KEY}"}
    assert requests.get(f"{ready['base_url']}/local/invoice", headers=bearer, timeout=10).ok
    service = {"DREAMO_API_KEY": KEY, "DREAMO_BASE_URL": ready["base_url"]}
    refused = call("run", table, "--run-dir", tmp_path / "other", env=service)
    assert refused.exit_code == 3
    process.send_signal(signal.SIGTERM)
    code, _, stderr = finish(process)
    assert code == 0
    assert KEY not in stderr
    assert (tmp_path / "run" / "gateway").is_dir()


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *words, env):
        self._here, there = pty.openpty()
        self.shown = ""
        self.process = start(*words, env=env, stdin=there, stdout=there, stderr=there, start_new_session=True)
        os.close(there)

    def wait_for(self, text):
        deadline = time.monotonic() + 60
        while text not in self.shown and self._read():
            assert time.monotonic() < deadline, self.shown
        assert text in self.shown

    def type(self, text):
        os.write(self._here, text.encode())

    def end(self):
        while self._read():
            pass
        os.close(self._here)
        return self.process.wait(timeout=60)

    def _read(self):
        """Take in what was written; False once the other side has closed."""
        if not select([self._here], [], [], 0.1)[0]:
            return True
        try:
            read = os.read(self._here, 65536)
        except OSError:  # this is how Linux says so
            return False
        self.shown += read.decode(errors="replace")
        return bool(read)


def test_a_terminal_is_asked_and_yes_is_yes(tmp_path):
    """The attempt goes out; here nobody takes it, which is an outage."""
    table = write_table(tmp_path, 2)
    options = ("--run-dir", tmp_path / "run", "--base-url", REFUSING, "--task-timeout-s", "0.3")
    terminal = Terminal("run", table, *options, env={"DREAMO_API_KEY": KEY})
    terminal.wait_for("2 new attempts at 0.0.0.0:1, at a price not known yet. Buy? [y/N]")
    terminal.type("y\n")
    assert terminal.end() == 3
    assert "unreachable for too long" in terminal.shown
    assert "Nothing has answered yet: check the base URL" in terminal.shown
    assert dreamo.status(tmp_path / "run")["attempts"] == 0


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_without_standard_files_does_its_work(tmp_path, closed):
    """No file of the run takes the number of one that is missing, where something else would write into it."""
    table = write_table(tmp_path, 2)
    with dreamo.LocalGateway(engine="flat") as gateway:
        words = [sys.executable, "-m", "dreamo_batch", "run", str(table), "--run-dir", str(tmp_path / "run")]
        script = f'"$@" {closed}'
        env = {**os.environ, **at(gateway)}
        assert subprocess.run(["bash", "-c", script, "-", *words], env=env, check=False).returncode == 0
        assert dreamo.verify(tmp_path / "run") == []
        assert len(gateway.invoice()) == 2
