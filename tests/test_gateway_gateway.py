"""Starting, stopping, killing and restarting the local gateway."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import requests
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch.gateway import LocalGateway
from tests.local_client import CREATE, FakeEngine, LocalClient, body, drawn

SERVE = ("-m", "dreamo_batch", "serve", "--engine", "tests.local_client:FakeEngine", "--state-dir")


class GatedEngine(FakeEngine):
    """Draws only once the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def generate(self, request, reference):
        self.gate.wait(600)
        return super().generate(request, reference)


@contextlib.contextmanager
def served(state_dir):
    """Run a gateway in its own process; yield the process and a client."""
    command = [sys.executable, *SERVE, str(state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        base_url, api_key = json.loads(process.stdout.readline()).values()
        try:
            with requests.Session() as session:
                session.trust_env = False
                session.headers["Authorization"] = f"Bearer {api_key}"
                yield process, base_url, session
        finally:
            process.kill()


def test_a_gateway_leaves_nothing_behind():
    """No thread, no folder, no open port, no log and no settings of anyone's loggers."""
    threads = set(threading.enumerate())
    with LocalGateway(engine=FakeEngine()) as gateway, LocalClient(gateway) as client:
        client.poll(client.create())
        address = client.address
    ended_at = time.monotonic() + 5
    while set(threading.enumerate()) - threads and time.monotonic() < ended_at:
        threading.Event().wait(0.001)
    assert set(threading.enumerate()) <= threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_temporary_folder_goes_with_the_gateway(tmp_path, monkeypatch):
    """Without a state directory nothing stays on the disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with LocalGateway(engine=FakeEngine()) as gateway, LocalClient(gateway) as client:
        client.poll(client.create())
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_a_stop_waits_for_no_one():
    """Idle connections, a slow answer and a picture being drawn do not hold it up."""
    engine = GatedEngine()
    with LocalGateway(engine=engine, latency=1) as gateway, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(LocalClient(gateway)) for _ in range(70)]
        for client in clients:
            client.create()
        gateway.faults.script("poll", "slow", seconds=600)
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
        slow = pool.submit(clients[0].ask, "GET", f"{CREATE}/task/x")
        answer = pool.submit(clients[1].poll, gateway.invoice()[0]["id"])
        while gateway.faults.describe()["script"]:
            threading.Event().wait(0.001)
        begun_at = time.monotonic()
        gateway.stop()
        elapsed_s = time.monotonic() - begun_at
        engine.gate.set()
        assert slow.result().status_code == 404
        assert isinstance(answer.exception(), requests.ConnectionError)
    assert elapsed_s < 1


def test_a_gateway_can_be_stopped_twice_and_started_again():
    """Stopping what is stopped does nothing; starting what runs is refused."""
    gateway = LocalGateway(engine=FakeEngine())
    for _ in range(2):
        gateway.start()
        with pytest.raises(RuntimeError, match="running already"):
            gateway.start()
        assert gateway.base_url in repr(gateway)
        gateway.stop()
        gateway.stop()
    for use in (gateway.invoice, lambda: gateway.base_url):
        with pytest.raises(RuntimeError, match="not running"):
            use()


def test_the_key_is_shown_and_kept_nowhere(tmp_path):
    """Not in the repr, not on the disk."""
    with (
        LocalGateway(tmp_path, engine=FakeEngine(), api_key="s3cret-key") as gateway,
        LocalClient(gateway) as client,
    ):
        client.create()
        assert "s3cret" not in repr(gateway)
    assert all(b"s3cret" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("key", ["", "a b", "é", "a\n", 5])
def test_a_key_that_no_header_holds_is_refused(key):
    """A key is printable ASCII without spaces; the error does not repeat it."""
    with pytest.raises(ValueError, match="printable ASCII"):
        LocalGateway(engine=FakeEngine(), api_key=key)


def test_engines_are_known_by_name():
    """The flat engine can be had by its name, an unknown one not."""
    with LocalGateway(engine="flat") as gateway, LocalClient(gateway) as client:
        assert client.ask("GET", client.link(client.create())).content[:3] == b"\xff\xd8\xff"
    with pytest.raises(ValueError, match="flat"):
        LocalGateway(engine="oil")


def test_a_restarted_gateway_knows_its_tasks_and_links_to_itself(tmp_path):
    """Another port, another key, the same tasks; what was not drawn yet is drawn now."""
    engine = GatedEngine()
    with LocalGateway(tmp_path, engine=engine, latency=1) as gateway, LocalClient(gateway) as client:
        waiting = client.create(prompt="waiting")
    engine.gate.set()
    with LocalGateway(tmp_path, engine=FakeEngine()) as gateway, LocalClient(gateway) as client:
        done = client.create(prompt="done")
        first_link = client.link(done)
    with LocalGateway(tmp_path, engine=FakeEngine()) as gateway, LocalClient(gateway) as client:
        while client.poll(waiting)["status"] != "completed":
            threading.Event().wait(0.01)
        assert [line["id"] for line in gateway.invoice()] == [waiting, done]
        link = client.link(done)
        assert link.startswith(gateway.base_url)
        assert link.rpartition("/")[2] == first_link.rpartition("/")[2]
        assert drawn(client.ask("GET", link).content)[0] == "done"


def test_an_invoice_waits_for_the_pictures_that_are_due():
    """What is billed does not change a moment later: the invoice comes once the pictures are made."""
    engine = GatedEngine()
    with (
        LocalGateway(engine=engine) as gateway,
        LocalClient(gateway) as client,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        client.create()
        invoice = pool.submit(gateway.invoice)
        assert not concurrent.futures.wait([invoice], timeout=0.02).done
        engine.gate.set()
        assert [line["billed"] for line in invoice.result()] == [True]


def test_slots_survive_a_restart(tmp_path):
    """A task still running counts against the concurrency of the next gateway."""
    options = {"engine": FakeEngine(), "latency": 60, "max_concurrent": 1}
    with LocalGateway(tmp_path, **options) as gateway, LocalClient(gateway) as client:
        client.create()
    with LocalGateway(tmp_path, **options) as gateway, LocalClient(gateway) as client:
        assert client.send_create().status_code == 429


def test_an_address_or_a_folder_that_can_not_be_used_is_refused(tmp_path):
    """At the start, cleanly, in words that name what is wrong and what to do."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "tasks.sqlite").write_text("no database" * 99)
    with contextlib.closing(sqlite3.connect(tmp_path / "tasks.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 99")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "fox.png")
    table = dreamo.sweep(image=str(tmp_path / "fox.png"), prompt="a", size="512x512")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for options, words in (
            (
                {"port": taken.getsockname()[1]},
                r"'127\.0\.0\.1', port \d+ \(Address already in use\); port=0 takes",
            ),
            ({"host": "no-host.invalid"}, r"'no-host\.invalid', port 0 \(.* not known\)"),
            ({"state_dir": tmp_path}, "layout 99"),
            ({"state_dir": tmp_path / "file"}, r"file \(File exists\)"),
            ({"state_dir": tmp_path / "file" / "in"}, r"in \(Not a directory\)"),
            ({"state_dir": tmp_path / "torn"}, r"torn \(file is not a database\)"),
        ):
            gateway = LocalGateway(engine=FakeEngine(), **options)
            with pytest.raises(ValueError, match=words):
                gateway.start()
            with pytest.raises(dreamo.UsageError, match=words):
                dreamo.run(table, tmp_path / "run", gateway=gateway, progress=False)
            assert not (tmp_path / "run").exists()  # not even with the references in it


def test_a_gateway_that_can_not_start_says_why():
    """What goes wrong in the gateway's thread is raised where it was started."""
    gateway = LocalGateway(engine=FakeEngine(), clock=lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="did not start") as caught:
        gateway.start()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    gateway.stop()


def test_a_system_clock_that_is_set_back_holds_up_no_task(monkeypatch):
    """Tasks go by a clock that nobody sets; those accepted before would else be due hours later."""
    clock = inspect.signature(LocalGateway).parameters["clock"].default
    before, now = clock(), time.clock_gettime(time.CLOCK_MONOTONIC)
    monkeypatch.setattr(time, "clock_gettime", lambda _: now + 3600)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock() - before == pytest.approx(3600, abs=1)


def test_links_name_an_address_that_can_be_reached():
    """Listening everywhere is linked to as this machine, IPv6 with its brackets."""
    with LocalGateway(engine=FakeEngine(), host="0.0.0.0") as gateway, LocalClient(gateway) as client:
        assert client.ask("GET", client.link(client.create())).status_code == 200
        assert gateway.base_url.startswith("http://127.0.0.1:")
    try:
        gateway = LocalGateway(engine=FakeEngine(), host="::1").start()
    except ValueError:
        return
    assert gateway.base_url.startswith("http://[::1]:")
    gateway.stop()


def test_a_gateway_runs_beside_a_loop_that_is_running():
    """As in a notebook: started, used and stopped from within a coroutine."""

    async def cell() -> str:
        with LocalGateway(engine=FakeEngine()) as gateway, LocalClient(gateway) as client:
            assert len(gateway.invoice()) == 0
            return await asyncio.to_thread(lambda: client.poll(client.create())["status"])

    assert asyncio.run(cell()) == "completed"


def test_nothing_is_logged_or_printed(caplog, capfd):
    """Good requests, bad ones, dropped ones, broken engines: not a word."""
    caplog.set_level(logging.DEBUG)
    with LocalGateway(engine=FakeEngine()) as gateway, LocalClient(gateway) as client:
        client.poll(client.create(prompt="broken"))
        client.send_create(prompt="")
        gateway.faults.script("create", "drop_after_accept", "http_500", "content_length_too_short")
        for _ in range(3):
            with contextlib.suppress(requests.RequestException):
                client.send_create()
        with socket.create_connection(client.address) as raw:
            raw.sendall(b"nonsense\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
    ours = [record for record in caplog.records if not record.name.startswith(("urllib3", "asyncio"))]
    assert ours == []
    assert capfd.readouterr() == ("", "")


def test_the_engines_need_no_web_server():
    """Importing the engine leaves FastAPI alone; asking for the gateway brings it in; nothing else is there."""
    code = (
        "import sys, dreamo_batch.gateway.engines\n"
        "assert not {'fastapi', 'uvicorn', 'starlette'} & set(sys.modules)\n"
        "from dreamo_batch.gateway import LocalGateway\n"
        "assert 'fastapi' in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    import dreamo_batch.gateway

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        dreamo_batch.gateway.Nothing  # noqa: B018 - the access is the test


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_served_gateway_ends_by_a_signal(tmp_path, number):
    """Exit code 0, no words, and the signal mask of before."""
    with served(tmp_path) as (process, base_url, session):
        assert session.post(base_url + CREATE, json=body(), timeout=20).status_code == 200
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    with LocalGateway(tmp_path, engine=FakeEngine()) as gateway:
        assert len(gateway.invoice()) == 1


def test_a_kill_loses_no_task_that_was_answered(tmp_path):
    """SIGKILL in the middle of many creates: each answered id is known to the next gateway, and completes."""
    answered, lock = [], threading.Lock()

    def work(base_url: str, headers: dict[str, str]) -> None:
        with requests.Session() as session, contextlib.suppress(requests.RequestException):
            session.trust_env = False
            while True:
                answer = session.post(base_url + CREATE, json=body(), headers=headers, timeout=20)
                with lock:
                    answered.append(answer.json()["id"])

    with served(tmp_path) as (process, base_url, session):
        threads = [threading.Thread(target=work, args=(base_url, dict(session.headers))) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 40:
            threading.Event().wait(0.001)
        os.kill(process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    with LocalGateway(tmp_path, engine=FakeEngine()) as gateway, LocalClient(gateway) as client:
        lines = gateway.invoice()
        assert {line["state"] for line in lines} == {"completed"}
        assert set(answered) <= {line["id"] for line in lines}
        assert len(lines) <= len(answered) + len(threads)
        assert client.ask("GET", client.link(answered[-1])).status_code == 200
