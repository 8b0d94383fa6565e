"""The local gateway against hostile clients: no 5xx, no task, nothing printed, and it keeps serving."""

from __future__ import annotations

import base64
import socket
import struct
import threading
import zlib
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamo_batch.gateway.gateway import LocalGateway
from tests.local_client import CREATE, PRECHARGE, FakeEngine, LocalClient, body

N_CLIENTS = 200


@pytest.fixture(scope="module")
def client():
    with LocalGateway(engine=FakeEngine(), seed=1) as gateway, LocalClient(gateway) as client:
        yield client


@pytest.fixture(autouse=True)
def _goes_on(client, capfd):
    """After each test: nothing was accepted or printed, and a good create is served."""
    n_before = len(client.gateway.invoice())
    yield
    assert capfd.readouterr() == ("", "")
    assert len(client.gateway.invoice()) == n_before
    assert client.poll(client.create())["status"] == "completed"


def raw(client: LocalClient, *parts: bytes) -> bytes:
    """Send raw bytes, and return what comes back until the gateway hangs up."""
    answer = b""
    with socket.create_connection(client.address, timeout=10) as connection:
        with suppress(OSError):  # it may hang up while the rest is still being sent
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while received := connection.recv(65536):
                answer += received
    return answer


def head(client: LocalClient, *lines: str, method: str = "POST", path: str = CREATE) -> bytes:
    given = (
        f"{method} {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {client.gateway.api_key}",
        *lines,
    )
    return "".join(f"{line}\r\n" for line in (*given, "Connection: close", "")).encode("latin-1")


MALFORMED = {
    "no http": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
    "no request": [b"\r\n\r\n"],
    "an old version": [b"GET / HTTP/0.9\r\n\r\n"],
    "a method of control characters": [b"G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n"],
    "a header without a name": [b"GET / HTTP/1.1\r\n: x\r\n\r\n"],
    "a header of a megabyte": [b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 2**20 + b"\r\n\r\n"],
    "a hundred thousand headers": [b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 100_000 + b"\r\n"],
    "a path of a megabyte": [b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nHost: x\r\n\r\n"],
}
BODIES = {
    "a length below zero": (["Content-Length: -5"], b"{}"),
    "no number": (["Content-Length: many"], b"{}"),
    "two lengths": (["Content-Length: 2", "Content-Length: 3"], b"{}"),
    "a length and chunks": (["Content-Length: 2", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
    "a length of a petabyte": ([f"Content-Length: {10**15}"], b"{}"),
    "less than its length": (["Content-Length: 500"], b"{}"),
    "a chunk of no number": (["Transfer-Encoding: chunked"], b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk that ends early": (["Transfer-Encoding: chunked"], b"ff\r\n{}"),
    "unknown packing": (["Transfer-Encoding: gzip"], b"{}"),
    "packed": (["Content-Encoding: gzip", "Content-Length: 2"], b"\x1f\x8b"),
    "nothing": (["Content-Length: 0"], b""),
    "no JSON": (["Content-Length: 3"], b"{'a"),
    "no UTF-8": (["Content-Length: 3"], b'"\xff"'),
    "as deep as the sea": (["Content-Length: 200000"], b"[" * 200_000),
    "a number without end": (["Content-Length: 100000"], b"9" * 100_000),
}


def status_of(answer: bytes) -> int | None:
    """Return the status of an answer; None if the gateway hung up without one."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_is_refused_or_hung_up_on(client, name):
    """Nothing of it reaches an endpoint."""
    assert status_of(raw(client, *MALFORMED[name])) in {None, 400, 404, 405, 431}


@pytest.mark.parametrize("path", [CREATE, PRECHARGE])
@pytest.mark.parametrize("name", BODIES)
def test_a_malformed_body_is_refused(client, name, path):
    """A wrong length, encoding or content is refused."""
    lines, content = BODIES[name]
    answer = raw(client, head(client, *lines, path=path), content)
    assert status_of(answer) in {None, 400, 413, 415}


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_other_key_opens(client, key):
    """Any bytes that a header holds, the scheme or its absence among them."""
    for value in (key, f"Bearer {key}", f"Bearer {client.gateway.api_key}{key or 'x'}", f"Basic {key}"):
        if value.strip() in (f"Bearer {client.gateway.api_key}", f"bearer {client.gateway.api_key}"):
            continue
        lines = [
            "GET /local/invoice HTTP/1.1",
            "Host: x",
            f"Authorization: {value}",
            "Connection: close",
            "",
            "",
        ]
        assert status_of(raw(client, "\r\n".join(lines).encode("latin-1"))) in {400, 401}


PATHS = [
    "/files/../tasks.sqlite",
    "/files/..%2f..%2ftasks.sqlite",
    "/files/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/files/..%5c..%5ctasks.sqlite",
    "/files/....//....//etc/passwd",
    "/files//etc/passwd",
    "/files/%2fetc%2fpasswd",
    "/files/%252e%252e%252fetc%252fpasswd",
    "/files/%c0%ae%c0%ae/etc/passwd",
    "/files/../pictures",
    "/files/tasks.sqlite-wal",
    "/files/a%00.png",
    "/files/" + "a" * 10_000,
    "/files/.",
    "/files/~root",
    "//files/x",
    "/../../etc/passwd",
    "http://elsewhere/files/x",
    "*",
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_no_path_leads_out_of_the_pictures(client, path):
    """However it is written, there is nothing but what was drawn for a task."""
    answer = raw(client, head(client, method="GET", path=path))
    assert status_of(answer) in {400, 404}
    assert b"root:" not in answer
    assert b"SQLite" not in answer


def png(width: int, height: int, data: bytes, colour_type: int = 2) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + data + chunk(b"IEND", b"")


BOMBS = {
    "gigapixels": png(60_000, 60_000, b""),
    "a side too long": png(4097, 1, b""),
    "no width": png(0, 100, b""),
    "a side below zero": png(2**31, 2**31, b""),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_for_a_reference_is_refused_by_its_header(client, name):
    """Before anything is unpacked, and before anything is accepted."""
    answer = client.send_create(binary_data_base64=[base64.b64encode(BOMBS[name]).decode()])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "003011004"


def test_texts_that_unpack_to_gigabytes_stay_packed(tmp_path):
    """A picture of a few pixels whose compressed comments and colour profile are vast costs neither memory nor time."""
    vast = zlib.compress(b"\0" * 200_000_000, 9)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    pixels = chunk(b"IDAT", zlib.compress(b"\0" * (64 * 3 + 1) * 64))
    bomb = png(64, 64, chunk(b"zTXt", b"a\0\0" + vast) + chunk(b"iCCP", b"a\0\0" + vast) + pixels)
    with LocalGateway(tmp_path, engine="flat") as gateway, LocalClient(gateway) as one:
        answer = one.send_create(binary_data_base64=[base64.b64encode(bomb).decode()])
        if answer.status_code == 200:
            assert one.poll(answer.json()["id"])["status"] in {"in_progress", "completed", "failed"}
        else:
            assert answer.status_code == 400
        assert one.send_create().status_code == 200


def test_two_hundred_clients_of_every_kind_at_once_are_distinguished(tmp_path):
    """Good creates are all accepted once while others send garbage, wrong keys and half requests."""
    statuses: Counter[tuple[str, int | None]] = Counter()
    lock, ids = threading.Lock(), []

    def work(n: int, gateway: LocalGateway) -> None:
        with LocalClient(gateway) as one:
            kind = ("good", "wrong key", "rubbish", "half")[n % 4]
            if kind == "good":
                answer = one.send_create(seed=n)
                status = answer.status_code
                with lock:
                    ids.append(answer.json()["id"])
            elif kind == "wrong key":
                status = one.ask(
                    "POST", CREATE, json=body(), headers={"Authorization": f"Bearer {n}"}
                ).status_code
            elif kind == "rubbish":
                status = one.ask("POST", CREATE, data=b"\xff" * n).status_code
            else:
                status = status_of(raw(one, head(one, "Content-Length: 500"), b"{"))
            with lock:
                statuses[kind, status] += 1

    with LocalGateway(tmp_path, engine=FakeEngine(), seed=1) as gateway:
        threads = [threading.Thread(target=work, args=(n, gateway)) for n in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        invoice = gateway.invoice()
    assert sum(statuses.values()) == N_CLIENTS
    assert statuses["good", 200] == statuses["wrong key", 401] == statuses["rubbish", 400] == N_CLIENTS // 4
    assert {status for kind, status in statuses if kind == "half"} <= {None, 400}
    assert sorted(ids) == sorted(line["id"] for line in invoice)
    assert len({line["seed"] for line in invoice}) == N_CLIENTS // 4
