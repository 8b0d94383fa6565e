"""The local gateway over a real socket: the contract as it reads when nothing goes wrong."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch.gateway.app import BODY_BYTES_MAX
from dreamo_batch.gateway.engines import DrawRequest
from dreamo_batch.gateway.gateway import LocalGateway
from dreamo_batch.gateway.schemas import request_digest
from tests.local_client import CREATE, PRECHARGE, REFERENCE, SPEC, FakeEngine, LocalClient, body, drawn

XID = re.compile(r"[0-9a-v]{20}")


class HandClock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def client():
    with LocalGateway(engine=FakeEngine(), seed=1) as gateway, LocalClient(gateway) as client:
        yield client


@pytest.fixture
def run(request):
    """A gateway with the options of one test."""
    opened = []

    def start(**options) -> LocalClient:
        gateway = LocalGateway(**({"engine": FakeEngine(), "seed": 1} | options)).start()
        client = LocalClient(gateway)
        opened.append((gateway, client))
        return client

    yield start
    for gateway, client in opened:
        client.session.close()
        gateway.stop()


def test_a_create_leads_to_a_picture(client):
    """Create, poll and download, with the fields of the contract."""
    created = client.send_create(prompt="雪山", seed=7).json()
    assert set(created) == {"id", "created_at", "status", "model"}
    assert XID.fullmatch(created["id"])
    assert created["status"] == "in_progress"
    assert abs(created["created_at"] - time.time()) < 60
    done = client.poll(created["id"])
    assert done["status"] == "completed"
    assert done["usage"] == {"cost": "0.0286", "discount": 1}
    assert {name: type(value) for name, value in done["metadata"].items()} == {
        "in_queue_at": float,
        "completed_at": float,
        "upload_at": float,
    }
    (content,) = done["output"][0]["content"]
    picture = client.session.get(content["url"], headers={"Authorization": None}, timeout=20)
    assert picture.headers["content-type"] == "image/jpeg"
    assert len(picture.content) == content["size"]
    assert drawn(picture.content) == ["雪山", 7, len(REFERENCE)]


def test_every_endpoint_but_the_public_ones_wants_the_key(client):
    """No key, a wrong one and a half one are 401; the scheme's case does not matter."""
    task_id = client.create()
    guarded = [
        ("POST", CREATE),
        ("POST", PRECHARGE),
        ("GET", f"{CREATE}/task/{task_id}"),
        ("GET", "/local/invoice"),
    ]
    key = client.gateway.api_key
    for method, path in [*guarded, ("POST", "/local/faults"), ("GET", "/local/faults")]:
        for given_key in (None, "Bearer", f"Bearer {key[:-1]}", f"Basic {key}", "Bearer \xe9", key):
            answer = client.ask(method, path, headers={"Authorization": given_key}, json=body())
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "401"
    assert client.ask("GET", guarded[2][1], headers={"Authorization": f"BEARER {key}"}).status_code == 200
    assert client.ask("GET", SPEC, headers={"Authorization": None}).status_code == 200


def test_a_missing_seed_is_drawn_and_a_given_one_kept(client):
    """The invoice shows the seed sent and the seed used."""
    for given_seed in (-1, 5):
        client.create(prompt="seeds", seed=given_seed)
    drawn, kept = client.gateway.invoice()[-2:]
    assert drawn["seed"] == -1
    assert 0 < drawn["seed_drawn"] < 2**31
    assert kept["seed"] == kept["seed_drawn"] == 5


def test_the_invoice_names_what_was_requested_and_what_it_cost(client):
    """Digest, price and cost are those of the request; HTTP and process see the same."""
    task_id = client.create(prompt="invoice", seed=3, width=640, height=512, use_rephraser=False)
    line = client.gateway.invoice()[-1]
    digest = request_digest(DrawRequest("invoice", 3, 640, 512, use_rephraser=False), line["image"])
    assert (line["id"], line["digest"], line["state"], line["billed"]) == (task_id, digest, "completed", True)
    assert line["cost"] == line["price"] == client.poll(task_id)["usage"]["cost"]
    invoice = client.ask("GET", "/local/invoice").json()
    assert invoice["tasks"][-1] == line
    assert invoice["n_attempts"] == len(invoice["tasks"])


def test_bad_creates_are_refused_and_not_invoiced(client):
    """Codes 001 to 004 come as HTTP 400, and nothing is accepted."""
    n_before = len(client.gateway.invoice())
    bad = {
        "003011001": {"prompt": ""},
        "003011002": {"binary_data_base64": []},
        "003011003": {"prompt": "x" * 10_001},
    }
    for code, params in (bad | {"003011004": {"width": 1}}).items():
        answer = client.send_create(**params)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert client.ask("POST", CREATE, data=b"{").status_code == 400
    assert len(client.gateway.invoice()) == n_before


def test_bad_creates_may_be_tasks_that_fail(run):
    """So configured, 001 to 004 are accepted, and fail without a cost."""
    client = run(errors_as="task")
    done = client.poll(client.create(prompt=""))
    assert done["status"] == "failed"
    assert done["error"] == {"code": "003011001", "error_message": "Missing prompt"}
    assert done["usage"]["cost"] == ""
    assert client.gateway.invoice()[0]["billed"] is False
    assert client.ask("POST", CREATE, data=b"{").status_code == 400


def test_failures_cost_their_price_where_they_are_billed(run):
    """The setting puts the cost on failed tasks and on the invoice."""
    client = run(errors_as="task", bills_failures=True, price="0.05", discount="0.7")
    done = client.poll(client.create(prompt=""))
    assert done["usage"] == {"cost": "0.05", "discount": 0.7}
    assert client.ask("GET", "/local/invoice").json()["total"] == "0.05"


def test_an_engine_that_fails_makes_the_task_fail(client):
    """A reference that can't be decoded is 004, anything else 095; neither is billed."""
    for prompt, code in (("unreadable", "003011004"), ("broken", "003011095")):
        done = client.poll(client.create(prompt=prompt))
        assert (done["status"], done["error"]["code"], done["usage"]["cost"]) == ("failed", code, "")
        assert "output" not in done


def test_tasks_advance_by_the_gateways_clock(run):
    """In progress with growing progress until the time is up, then completed."""
    clock = HandClock()
    client = run(latency="fixed:4", clock=clock)
    task_id = client.create()
    assert client.poll(task_id)["progress"] == 0
    clock.now += 3
    half = client.poll(task_id)
    assert (half["status"], half["progress"]) == ("in_progress", 0.75)
    assert "usage" not in half
    assert client.gateway.invoice()[0]["cost"] == ""
    clock.now += 1
    assert client.gateway.invoice()[0]["cost"] == "0.0286"
    assert client.poll(task_id)["status"] == "completed"


def test_what_is_over_the_concurrency_is_refused(run):
    """With two running, the third is 429 with the hint asked for, and not invoiced."""
    clock = HandClock()
    client = run(latency="fixed:4", max_concurrent=2, retry_after="seconds", clock=clock)
    client.create()
    clock.now += 1
    client.create()
    answer = client.send_create()
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3")
    clock.now += 3
    client.create()
    assert len(client.gateway.invoice()) == 3


def test_what_is_over_the_concurrency_waits_in_the_queue(run):
    """One at a time, the second ends a whole latency after the first."""
    clock = HandClock()
    client = run(latency="fixed:4", max_concurrent=1, when_full="queue", clock=clock)
    first, second = client.create(), client.create()
    client.gateway.invoice()
    clock.now += 4
    assert client.gateway.invoice()[0]["state"] == "completed"
    assert client.poll(second)["metadata"]["in_queue_at"] == 4
    clock.now += 4
    client.gateway.invoice()
    assert [client.poll(task_id)["status"] for task_id in (first, second)] == ["completed", "completed"]


@pytest.mark.parametrize("style", ["none", "seconds", "date", "body"])
def test_what_is_over_the_request_rate_is_refused(run, style):
    """Every request counts, even of strangers; /local is free."""
    client = run(max_requests_per_s=2, retry_after=style)
    answers = [client.ask("GET", SPEC) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert ("Retry-After" in answers[2].headers) == (style in ("seconds", "date"))
    assert ("retry_after" in answers[2].json()) == (style == "body")
    assert client.ask("GET", "/local/invoice").status_code == 200


def test_unknown_tasks_and_files_are_not_found(client):
    """Made-up ids and names are 404, tricks with paths included."""
    assert client.ask("GET", f"{CREATE}/task/nope").json()["error"]["error_message"] == "Task not found"
    names = (
        "x.png",
        "..%2ftasks.sqlite",
        "%2e%2e/tasks.sqlite",
        "%00",
        "../tasks.sqlite",
        "tasks.sqlite-wal",
        "%FF",
    )
    for name in names:
        assert client.ask("GET", f"/files/{name}").status_code == 404
    with socket.create_connection(client.address) as raw:
        raw.sendall(b"GET /files/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 404")


def test_links_may_expire(run):
    """A link works until it expires, not without its expiry, and a later poll returns a fresh one."""
    clock = HandClock()
    client = run(links_live_s=60, clock=clock)
    task_id = client.create()
    link = client.link(task_id)
    assert client.ask("GET", link).status_code == 200
    assert client.ask("GET", link.partition("?")[0]).status_code == 403
    assert client.ask("GET", f"{link.partition('?')[0]}?expires=x").status_code == 403
    clock.now += 61
    assert client.ask("GET", link).status_code == 403
    assert client.ask("GET", client.link(task_id)).status_code == 200


def test_precharge_gives_the_price_of_the_same_request(client):
    """Same price as the invoice, same refusals as a create, and nothing is accepted."""
    n_before = len(client.gateway.invoice())
    answer = client.ask("POST", PRECHARGE, json=body(width=700, height=900)).json()
    assert answer["status"] == "success"
    assert client.ask("POST", PRECHARGE, json=body(prompt="")).status_code == 400
    assert len(client.gateway.invoice()) == n_before
    client.create(width=700, height=900)
    line = client.gateway.invoice()[-1]
    assert (answer["data"]["cost"], answer["data"]["hash"]) == (line["price"], line["digest"])


def test_precharge_may_know_no_price_or_not_exist(run):
    """COST_CACHE_MISS is HTTP 200, a host without the question 404."""
    miss = run(precharge="cache_miss").ask("POST", PRECHARGE, json=body())
    assert miss.json()["status"] == "failed"
    assert miss.json()["data"]["cost"] is None
    assert run(precharge="missing").ask("POST", PRECHARGE, json=body()).status_code == 404


def test_the_model_is_described_to_anyone(client):
    """The description holds the limits of the page; other models are unknown."""
    spec = client.ask("GET", SPEC).json()["data"]
    assert spec["api"]["endpoint"] == client.gateway.base_url + CREATE
    by_name = {row["name"]: row for row in spec["parameters"]}
    assert by_name["seed"]["constraints"] == {"default": -1, "min": -1, "max": 2**63 - 1}
    assert client.ask("GET", "/api/v1/skill/models/other/spec").status_code == 404
    spec = client.ask("GET", "/api/v1/skill/models/spark_multi_dreamo/spec").json()["data"]
    by_name = {row["name"]: row for row in spec["parameters"]}
    assert by_name["image_urls"]["constraints"]["max_items"] == 5
    assert by_name["guidance_scale1"]["constraints"] == {"default": 2.5, "min": 1.0, "max": 7.0}
    assert by_name["guidance_scale2"]["type"] == "number"


def test_bodies_have_a_limit_and_are_not_unpacked(client):
    """More than the limit is 413 however it is sent, a packed body 415; the connection goes on."""
    assert client.ask("POST", CREATE, data=b" " * (BODY_BYTES_MAX + 1)).status_code == 413
    chunks = (b" " * 2**20 for _ in range(BODY_BYTES_MAX // 2**20 + 1))
    assert client.ask("POST", CREATE, data=chunks).status_code == 413
    packed = {"Content-Encoding": "gzip"}
    assert client.ask("POST", CREATE, json=body(), headers=packed).status_code == 415
    assert client.send_create().status_code == 200


def test_a_large_reference_is_taken_and_kept_once(run, tmp_path):
    """Two creates with one picture of megabytes make one file."""
    client = run(state_dir=tmp_path)
    large = base64.b64encode(REFERENCE + b"\0" * 3_000_000).decode()
    for seed in (1, 2):
        assert client.poll(client.create(seed=seed, binary_data_base64=[large]))["status"] == "completed"
    (kept,) = (tmp_path / "references").iterdir()
    assert kept.stat().st_size == 3_000_000 + len(REFERENCE)


def test_a_client_that_leaves_in_the_middle_of_a_body_creates_nothing(client, capfd):
    """Half a body creates no task, and no word is printed about it."""
    n_before = len(client.gateway.invoice())
    head = f"POST {CREATE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.gateway.api_key}\r\n"
    with socket.create_connection(client.address) as raw:
        raw.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    assert client.send_create().status_code == 200
    assert len(client.gateway.invoice()) == n_before + 1
    assert capfd.readouterr() == ("", "")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["model", "input", "params", "prompt"]), inner)
        ),
        max_leaves=6,
    )
)
def test_no_json_makes_the_gateway_stumble(client, payload):
    """Any JSON is refused in the shape of the contract."""
    answer = client.ask("POST", CREATE, data=json.dumps(payload))
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"code", "error_message"}


def test_many_clients_at_once_are_all_served(run):
    """Two hundred connections create and poll at the same time; every task is on the invoice once."""
    client, ids, lock = run(), [], threading.Lock()

    def work() -> None:
        with LocalClient(client.gateway) as one:
            task_id = one.create()
            assert one.poll(task_id)["status"] == "completed"
            with lock:
                ids.append(task_id)

    threads = [threading.Thread(target=work) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids) == sorted(line["id"] for line in client.gateway.invoice())
    assert len(set(ids)) == 200
