"""References by URL: fetched once, with limits on what and how much, and failing as the service's tasks do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest

from dreamo_batch.gateway import tasks
from dreamo_batch.gateway.gateway import LocalGateway
from dreamo_batch.gateway.tasks import FetchError, fetch
from tests.local_client import REFERENCE, FakeEngine, LocalClient, drawn

if TYPE_CHECKING:
    from dreamo_batch.gateway.engines import DrawRequest

HTTP = b"HTTP/1.1 "
OK = b"HTTP/1.1 200 OK\r\n"


class Site:
    """Answers each connection with the next raw answer, or hangs after it."""

    def __init__(self, *answers: bytes, hangs: bool = False) -> None:
        self._answers = list(answers)
        self._hangs = hangs
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.requests: list[bytes] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            for answer in self._answers:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self.requests.append(connection.recv(10_000))
                connection.sendall(answer)
                if not self._hangs:
                    connection.shutdown(socket.SHUT_WR)


def get(url: str, timeout_s: float = 5.0, max_bytes: int = 1000) -> bytes:
    return fetch(url, max_bytes=max_bytes, timeout_s=timeout_s)


def test_a_file_is_fetched_whole_by_length_chunks_or_end():
    """The three ways in which HTTP marks the end of a body."""
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    with Site(OK + b"Content-Length: 3\r\n\r\nabc", chunked, OK + b"\r\nabc") as site:
        assert [get(site.url + "/a%20b.png?é=1") for _ in range(3)] == [b"abc"] * 3
    packed = OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    with Site(packed) as other:
        assert get(other.url) == b"abc"  # what unpacks to gigabytes stays packed
    assert site.requests[0].startswith(b"GET /a%20b.png?%C3%A9=1 HTTP/1.1\r\n")


def test_redirects_are_followed_only_so_far_and_only_to_the_web():
    """A new place is taken three times; a file or another scheme never."""
    away = HTTP + b"302 Found\r\nLocation: /next\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    with Site(away, OK + b"Content-Length: 1\r\n\r\na") as site:
        assert get(site.url) == b"a"
    with Site(*[away] * 4) as site, pytest.raises(FetchError, match="can't be reached"):
        get(site.url)
    to_file = HTTP + b"301 Moved\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"
    with Site(to_file) as site, pytest.raises(FetchError, match="can't be reached"):
        get(site.url)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (HTTP + b"404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 from"),
        (HTTP + b"302 Found\r\nContent-Length: 0\r\n\r\n", "302 from"),
        (OK + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000, "more than 1000 bytes"),
        (OK + b"\r\n" + b"x" * 2000, "more than 1000 bytes"),
        (OK + b"Content-Length: 5\r\n\r\nabc", "can't be reached"),
        (b"nonsense\r\n\r\n", "can't be reached"),
        (b"", "can't be reached"),
    ],
)
def test_what_can_not_be_used_is_an_http_error(answer, words):
    """Each error says what the URL sent."""
    with Site(answer) as site, pytest.raises(FetchError, match=words):
        get(site.url)


def test_a_site_that_drips_is_left_after_the_time():
    """It is not waited for."""
    with Site(OK + b"X-A: b\r\n", hangs=True) as site, pytest.raises(FetchError, match="can't be reached"):
        get(site.url, timeout_s=0.05)


def test_names_that_can_not_be_looked_up_are_not_reached():
    """Labels too long for a name are refused like an address that no one has."""
    with pytest.raises(FetchError, match="can't be reached"):
        get(f"http://{'x' * 70}.例え.invalid/")


def test_creates_that_share_a_url_fetch_it_once():
    """The picture is kept, drawn with, and asked for a single time."""
    answer = OK + f"Content-Length: {len(REFERENCE)}\r\n\r\n".encode() + REFERENCE
    with (
        Site(answer) as site,
        LocalGateway(engine=FakeEngine()) as gateway,
        LocalClient(gateway) as client,
    ):
        ids = [client.create(seed=seed, binary_data_base64=..., image_urls=[site.url]) for seed in (1, 2)]
        assert [client.poll(task_id)["status"] for task_id in ids] == ["completed"] * 2
        picture = drawn(client.ask("GET", client.link(ids[0])).content)
    assert picture == ["a fox", 1, len(REFERENCE)]
    assert len(site.requests) == 1


def test_a_url_without_a_picture_makes_the_task_fail_and_may_be_tried_again():
    """404 is code 097, a file that is no picture 004; the next create asks again."""
    missing = HTTP + b"404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with (
        Site(missing, OK + b"Content-Length: 3\r\n\r\nabc") as site,
        LocalGateway(engine=FakeEngine()) as gateway,
        LocalClient(gateway) as client,
    ):
        params = {"binary_data_base64": ..., "image_urls": [site.url]}
        errors = [client.poll(client.create(**params))["error"] for _ in range(2)]
    assert errors[0] == {"code": "003011097", "error_message": "HTTP error response: 404 from the image URL"}
    assert errors[1]["code"] == "003011004"


def test_a_reference_that_can_not_be_kept_makes_the_task_fail(tmp_path):
    """A full or missing disk is an internal error of the task, and no end of the gateway."""
    answer = OK + f"Content-Length: {len(REFERENCE)}\r\n\r\n".encode() + REFERENCE
    with (
        Site(answer) as site,
        LocalGateway(tmp_path, engine=FakeEngine()) as gateway,
        LocalClient(gateway) as client,
    ):
        (tmp_path / "references").rmdir()
        error = client.poll(client.create(binary_data_base64=..., image_urls=[site.url]))["error"]
        assert error["error_message"].startswith("Internal generation error: FileNotFoundError: [Errno 2]")


def test_a_gateway_stops_at_once_while_a_site_hangs(monkeypatch):
    """A fetch under way is dropped."""
    monkeypatch.setattr(tasks, "FETCH_TIMEOUT_S", 3600)
    with Site(b"", hangs=True) as site, LocalGateway(engine=FakeEngine(), latency=1) as gateway:
        with LocalClient(gateway) as client:
            client.poll(client.create(binary_data_base64=..., image_urls=[site.url]))
        begun_at = time.monotonic()
        gateway.stop()
        assert time.monotonic() - begun_at < 2


class CountingEngine(FakeEngine):
    """Counts what it has drawn."""

    n_drawn = 0

    def generate(self, request: DrawRequest, reference: bytes) -> bytes:
        self.n_drawn += 1
        return super().generate(request, reference)


def test_a_burst_of_creates_is_answered_before_its_pictures_are_drawn(monkeypatch):
    monkeypatch.setattr(tasks, "PAUSE_S", 2.0)
    engine = CountingEngine()
    with LocalGateway(engine=engine, latency="fixed:600") as gateway, LocalClient(gateway) as client:
        begun = time.monotonic()
        for seed in range(1, 4):
            client.create(seed=seed)
        assert engine.n_drawn == 0 or time.monotonic() > begun + 2
        while engine.n_drawn < 3 and time.monotonic() < begun + 20:
            time.sleep(0.02)
    assert engine.n_drawn == 3


def test_a_stream_of_creates_holds_no_picture_up_beyond_half_its_time():
    engine = CountingEngine()
    with LocalGateway(engine=engine, latency="fixed:0.4") as gateway, LocalClient(gateway) as client:
        ended_at = time.monotonic() + 20
        while engine.n_drawn == 0 and time.monotonic() < ended_at:
            client.create()
    assert engine.n_drawn


def test_an_invoice_waits_for_the_pictures_that_are_due_and_for_no_pause(monkeypatch):
    monkeypatch.setattr(tasks, "PAUSE_S", 600.0)
    now = [1e9]
    gateway = LocalGateway(engine=FakeEngine(), latency="fixed:4", clock=lambda: now[0])
    with gateway, LocalClient(gateway) as client:
        client.create()
        now[0] += 5
        assert [line["state"] for line in gateway.invoice()] == ["completed"]
