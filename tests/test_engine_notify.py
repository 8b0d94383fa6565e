"""What a run tells while nobody looks: which events, to whom, signed how, and that nothing of it touches the run."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from functools import partial

import pytest

import dreamo_batch as dreamo
from dreamo_batch.engine import notify as module
from tests.flows import until
from tests.scripted_server import ScriptedServer, answer, reset

KEY = "sk-a-key-that-nobody-may-see"
HOOK = "/services/T000/B000/a-secret-path"
JOBS = dreamo.sweep(
    image="data/mascot.png", prompt="on a beach", seed=range(1, 4), size="512x512", use_rephraser=False
)


@pytest.fixture
def gateway():
    with dreamo.LocalGateway(engine="flat") as running:
        yield running


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(module, "_WAITS_S", (0.01, 0.01))


def bodies(server):
    return [json.loads(request.body) for request in server.requests]


def run(run_dir, gateway, jobs=JOBS, **options):
    return dreamo.run(jobs, run_dir, gateway=gateway, progress=False, **options)


def kinds_of(events):
    return [event.kind for event in events]


def test_a_call_ends_with_one_event_that_counts_rows_and_money(tmp_path, gateway):
    """Every call does, also one that has nothing to do; money is exact."""
    events = []
    for _ in range(2):
        run(tmp_path, gateway, on_event=events.append)
    assert kinds_of(events) == ["done", "done"]
    assert events[0].by_status["completed"] == 3
    assert str(events[0].spent_usd) == dreamo.status(tmp_path)["spent_usd"]
    assert events[0].run_dir == str(tmp_path)


def test_the_cap_a_refusal_and_a_stop_are_distinguished(tmp_path, gateway):
    """By kind; a call that was refused before it began is told of, too, in one line without cells of the table."""
    events = []
    with pytest.raises(dreamo.BudgetReached):
        run(tmp_path / "a", gateway, max_cost="0.005", on_event=events.append)
    with pytest.raises(dreamo.InvalidTable):
        run(tmp_path / "b", gateway, JOBS.assign(size="banana"), on_event=events.append)
    gateway.faults.script("create", "http_402")
    with pytest.raises(dreamo.AccessRefused):
        run(tmp_path / "c", gateway, on_event=events.append)
    live = dreamo.start(JOBS, tmp_path / "d", gateway=gateway, on_event=events.append)
    live.pause()
    live.stop()
    live.wait(progress=False)
    assert kinds_of(events) == ["budget", "stopped", "stopped", "stopped"]
    assert "banana" not in events[1].message
    assert "402" in events[2].message


def test_held_attempts_are_reported_when_their_number_has_doubled(tmp_path, gateway):
    """Of the first at once, and not of every one."""
    gateway.faults.script("create", *["drop_after_accept"] * 3)
    events = []
    run(tmp_path, gateway, on_event=events.append, max_in_flight=1)
    held = [event.by_status["ambiguous"] for event in events if event.kind == "held"]
    assert (held, events[-1].kind) == ([1, 2], "done")


def test_an_outage_is_reported_once(tmp_path):
    """When the run says so itself, however many requests fail."""
    events = []
    with pytest.raises(dreamo.ServiceUnreachable):
        dreamo.run(
            JOBS,
            tmp_path,
            api_key=KEY,
            base_url="http://127.0.0.1:1",
            task_timeout_s=0.5,
            progress=False,
            on_event=events.append,
        )
    assert kinds_of(events) == ["outage", "stopped"]


def test_every_verb_that_buys_tells(tmp_path, gateway):
    """run, resume, retry and start, and what goes on with a started run."""
    events = []
    run(tmp_path, gateway)
    dreamo.resume(tmp_path, gateway=gateway, progress=False, on_event=events.append)
    dreamo.retry(tmp_path, gateway=gateway, progress=False, on_event=events.append)
    live = dreamo.start(JOBS, tmp_path, gateway=gateway, on_event=events.append)
    live.wait(progress=False)
    live.retry()
    live.wait(progress=False)
    assert kinds_of(events) == ["done"] * 4


def test_whoever_listened_hears_that_another_call_goes_on(tmp_path):
    """The run that was begun with them has an end, too."""
    first, second = [], []
    with dreamo.LocalGateway(engine="flat", latency="fixed:2") as gateway:
        live = dreamo.start(JOBS, tmp_path, gateway=gateway, on_event=first.append)
        live.pause()
        again = dreamo.start(JOBS, tmp_path, gateway=gateway, on_event=second.append)
        again.wait(progress=False)
        live.wait(progress=False)
    assert (kinds_of(first), kinds_of(second)) == (["stopped"], ["done"])


def test_a_callback_that_raises_is_logged_once(tmp_path, gateway, caplog):
    """It is called again, and the run ends as it would have."""
    gateway.faults.script("create", "drop_after_accept")
    calls = []

    def broken(event):
        calls.append(event.kind)
        raise ValueError("a bug of its own")

    done = run(tmp_path, gateway, on_event=broken)
    assert calls == ["held", "done"]
    assert done["status"].tolist().count("completed") == 2
    assert [r.message for r in caplog.records if r.name == module.__name__] == [
        "on_event: ValueError: a bug of its own. The run isn't affected."
    ]


def test_a_callback_that_hangs_does_not_keep_the_run(tmp_path, gateway, monkeypatch, caplog):
    """It is waited for a while at the end."""
    monkeypatch.setattr(module.Listeners.wait, "__defaults__", (0.05,))
    until = threading.Event()
    done = run(tmp_path, gateway, on_event=lambda _event: until.wait())
    until.set()
    assert (done["status"] == "completed").all()
    assert "not waiting any longer" in caplog.text


@pytest.mark.parametrize(
    "url", ["ftp://hooks.example/x", "hooks.example", "https:///x y", "https://:80", 5.5]
)
def test_what_is_no_url_is_refused_and_not_shown(tmp_path, gateway, url):
    """Before anything is sent; a secret in it stays secret."""
    with pytest.raises(dreamo.UsageError, match="notify must be a URL") as refused:
        run(tmp_path, gateway, notify=url)
    assert str(url) not in str(refused.value)
    with pytest.raises(dreamo.UsageError, match="on_event must be a function"):
        run(tmp_path, gateway, on_event="print")
    assert not gateway.invoice()


def test_a_url_gets_json_and_no_signature_without_a_secret(tmp_path, gateway, monkeypatch):
    """What happened, where, and the money as exact text."""
    monkeypatch.delenv("DREAMO_NOTIFY_SECRET", raising=False)
    with ScriptedServer([answer()]) as server:
        run(tmp_path, gateway, notify=server.url + HOOK)
        (request,), (body,) = server.requests, bodies(server)
    assert request.line.startswith(f"POST {HOOK} ")
    assert not [name for name in request.headers if name.lower().startswith("webhook-")]
    assert body["kind"] == "done"
    assert body["by_status"] == {"completed": 3}
    assert body["spent_usd"] == dreamo.status(tmp_path)["spent_usd"]
    assert body["message"] in body["text"]
    assert body["run_dir"] in body["text"]


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        ("plain words", b"plain words"),
        ("whsec_" + base64.b64encode(b"24 bytes that are random").decode(), b"24 bytes that are random"),
    ],
)
def test_a_signature_can_be_checked_and_has_a_time(tmp_path, gateway, monkeypatch, secret, key):
    """As Standard Webhooks describes it: over id, time and body."""
    monkeypatch.setenv("DREAMO_NOTIFY_SECRET", secret)
    with ScriptedServer([answer(status=500), answer()]) as server:
        run(tmp_path, gateway, notify=server.url)
        failed, taken = server.requests
    headers = {name.lower(): value for name, value in taken.headers.items()}
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + taken.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert {name.lower(): value for name, value in failed.headers.items()}["webhook-id"] == headers[
        "webhook-id"
    ]
    assert secret not in str(taken)


def test_a_secret_that_can_not_be_read_is_refused_without_showing_it(tmp_path, gateway, monkeypatch):
    """Before anything is sent."""
    monkeypatch.setenv("DREAMO_NOTIFY_SECRET", "whsec_not-base64!")
    with pytest.raises(dreamo.UsageError, match="DREAMO_NOTIFY_SECRET") as refused:
        run(tmp_path, gateway, notify="https://hooks.example/x")
    assert "not-base64" not in str(refused.value)


@pytest.mark.parametrize(
    "case",
    [
        ([answer(status=503), reset, answer()], 3, None),
        ([answer(status=500)], 3, "HTTP 500"),
        ([reset], 3, "ConnectionResetError"),
        # It repeats what it gets, as it came or within words of its own.
        ([f"POST {HOOK} HTTP/1.1\r\n\r\n".encode()], 3, "BadStatusLine"),
        ([f"you sent {HOOK}\r\n\r\n".encode()], 3, "BadStatusLine"),
        ([f"HTTP/1.1 {HOOK}\r\n\r\n".encode()], 3, "ValueError"),
        ([answer(status=404)], 1, "HTTP 404"),
        ([answer(status=302, Location="http://127.0.0.1:1/elsewhere")], 1, "isn't followed"),
    ],
)
def test_a_url_that_fails_is_tried_again_where_that_may_help(tmp_path, gateway, caplog, case):
    """The run ends as it would have; the log names host and reason, never the path or the key."""
    script, n_requests, reason = case
    caplog.set_level(logging.DEBUG)
    with ScriptedServer(script) as server:
        done = run(tmp_path, gateway, notify=server.url + HOOK)
        assert len(server.requests) == n_requests
    assert (done["status"] == "completed").all()
    told = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert [reason in line for line in told] == ([] if reason is None else [True])
    assert "a-secret-path" not in caplog.text
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [content for content in written if b"a-secret-path" in content]


def test_a_url_that_hangs_does_not_keep_the_run(tmp_path, gateway, monkeypatch, caplog):
    """It is waited for a while at the end."""
    monkeypatch.setattr(module.Listeners.wait, "__defaults__", (0.05,))
    until = threading.Event()
    with ScriptedServer([lambda _connection: until.wait()]) as server:
        done = run(tmp_path, gateway, notify=server.url + HOOK)
        until.set()
    assert (done["status"] == "completed").all()
    assert "not waiting any longer" in caplog.text


def test_no_connection_is_left_open():
    """One that is would keep everyone else from a server that serves one at a time."""
    with ScriptedServer([answer()]) as server:
        listeners = module.Listeners("runs/a", server.url)
        listeners.report("done", "")
        listeners.wait()
        until(lambda: server.n_connections and not server._threads[-1].is_alive())


def test_a_password_in_the_url_is_sent_as_one(tmp_path, gateway):
    """In a header, as its server expects it."""
    with ScriptedServer([answer()]) as server:
        run(tmp_path, gateway, notify=server.url.replace("//", "//me:a-password@"))
        headers = {name.lower(): value for name, value in server.requests[0].headers.items()}
    assert headers["authorization"] == f"Basic {base64.b64encode(b'me:a-password').decode()}"


def test_the_key_is_masked_in_what_is_posted(tmp_path):
    """Also where a service repeats it, or a directory is named after it."""
    body = json.dumps({"error": {"code": "401", "message": f"bad key {KEY}"}}).encode()
    with ScriptedServer([answer(body, 401)]) as service, ScriptedServer([answer()]) as hook:
        with pytest.raises(dreamo.AccessRefused):
            dreamo.run(
                JOBS,
                tmp_path / KEY,
                api_key=KEY,
                base_url=service.url,
                notify=hook.url,
                progress=False,
            )
        (event,) = bodies(hook)
    assert event["kind"] == "stopped"
    assert "bad key ***" in event["message"]
    assert KEY not in json.dumps(event)


async def _async(_event):
    """Would never be awaited."""


def _of_none():
    """Can't take it."""


def _of_two(_event, _more):
    """Would lack one."""


@pytest.mark.parametrize("given", [5, [print], _of_none, _of_two, _async, partial(_async)])
def test_what_can_not_take_an_event_is_refused_before_anything_happens(given):
    with pytest.raises(dreamo.UsageError, match="on_event must be a function of one event"):
        module.Listeners("runs/a", on_event=given)


@pytest.mark.parametrize("given", [print, [].append, partial(_of_two, _more=1)])
def test_what_takes_one_event_is_taken(given):
    assert module.Listeners("runs/a", on_event=given)
