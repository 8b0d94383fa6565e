"""Connections: whether a request went out, which connection it goes out on, and through which proxy."""

from __future__ import annotations

import gc
import os
import queue
import socket
import ssl
import threading
import time
from contextlib import closing, suppress

import pytest
import requests
import urllib3

from dreamo_batch import errors
from dreamo_batch.service import messages
from dreamo_batch.service.client import Client
from dreamo_batch.service.failures import FailureKind
from tests.scripted_server import (
    CERTIFICATE,
    CREATED,
    ScriptedServer,
    answer,
    close,
    read_request,
    reset,
    then,
    to_tls,
)

KEY = "sk-example-key"
REQUEST = messages.Request(
    "a red fox", 7, 1328, 1328, use_rephraser=True, image_url="https://x.example/a.png"
)
RUNNING = b'{"id": "cq0example", "status": "in_progress"}'


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "SSL_CERT_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server():
    with ScriptedServer() as running:
        yield running


def failed_create(client):
    with pytest.raises(errors.ServiceError) as caught:
        client.create(REQUEST)
    return caught.value.failure


# Kept-alive connections ----------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_requests_of_one_thread_share_a_connection(server):
    """A connection for every request would cost a handshake each."""
    with Client(KEY, server.url) as client:
        for _ in range(3):
            client.create(REQUEST)
        server.script[:] = [answer(RUNNING)]
        client.fetch("cq0example")
    assert server.n_connections == 1


def test_a_create_never_goes_out_on_a_connection_that_was_idle(server):
    """Its server may be closing it at this moment, and then nobody could tell whether the create arrived."""
    clock = Clock()
    with Client(KEY, server.url, monotonic=clock.monotonic) as client:
        for pause_s in (0, 0.9, 1.1, 0.5, 1.1):
            clock.now += pause_s
            client.create(REQUEST)
    assert [request.n_connection for request in server.requests] == [1, 1, 2, 2, 3]


def test_a_create_never_goes_out_on_a_connection_that_the_machine_slept_over(server, monkeypatch):
    """Its end was said while nobody listened, so a laptop that wakes up would lose what it sends there."""
    now = time.clock_gettime
    with Client(KEY, server.url) as client:
        client.create(REQUEST)
        slept_s = {getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC): 3600.0}
        monkeypatch.setattr(time, "clock_gettime", lambda clock: now(clock) + slept_s.get(clock, 0.0))
        client.create(REQUEST)
    assert [request.n_connection for request in server.requests] == [1, 2]


def test_a_fetch_may_go_out_on_a_connection_that_was_idle(server):
    """A question that is lost is asked again; but where the connection has probably gone, that takes a minute."""
    clock = Clock()
    server.script[:] = [answer(RUNNING)]
    with Client(KEY, server.url, monotonic=clock.monotonic) as client:
        for pause_s in (30, 30, 59, 61):
            clock.now += pause_s
            client.fetch("cq0example")
    assert [request.n_connection for request in server.requests] == [1, 1, 1, 2]


def test_a_create_after_the_server_closed_the_connection_uses_a_new_one(server):
    """What the server closed before the request is noticed, even within the second."""
    server.script[:] = [then(answer(CREATED), close), answer(CREATED)]
    with Client(KEY, server.url) as client:
        client.create(REQUEST)
        wait_for_end_of(client)
        client.create(REQUEST)
    assert [request.n_connection for request in server.requests] == [1, 2]


def wait_for_end_of(client):
    """Wait until the server's closing has reached this side."""
    connection = idle_connection_of(client)
    connection.sock.settimeout(5)
    assert connection.sock.recv(1, socket.MSG_PEEK) == b""


def idle_connection_of(client):
    (pool,) = client._transport._here.lane.pools.values()
    return pool.pool.queue[-1]


def test_a_connection_that_is_lost_under_a_create_is_not_tried_again(server):
    """On a kept-alive connection as on a new one, the create may have arrived."""
    server.script[:] = [answer(CREATED), close, answer(CREATED)]
    with Client(KEY, server.url) as client:
        client.create(REQUEST)
        assert failed_create(client).kind is FailureKind.MAY_HAVE_ARRIVED
    assert [request.n_connection for request in server.requests] == [1, 1]


def test_an_early_answer_to_a_big_body_is_read():
    """A server may refuse the size before it has read everything."""

    def refuse(connection):
        connection.sendall(answer(b'{"message": "too large"}', 413, Connection="close"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 20):
            pass

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: serve_raw(listener, refuse))
    thread.start()
    big = messages.Request("a", 1, 512, 512, use_rephraser=True, image_base64=b"A" * 6_000_000)
    with listener, Client(KEY, f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        with pytest.raises(errors.RequestRejected, match="too large"):
            client.create(big)
        thread.join()


def serve_raw(listener, step):
    connection, _ = listener.accept()
    with connection:
        step(connection)


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_interim_answers_are_skipped(server, status):
    """102 and 103 come before the answer, with headers of their own; they are not the answer."""
    interim = f"HTTP/1.1 {status} Wait\r\nLink: </a.css>; rel=preload\r\n\r\n".encode()
    other = CREATED.replace(b"cq0example", b"cq0other")
    server.script[:] = [then(interim, interim, answer(CREATED)), answer(other)]
    with Client(KEY, server.url) as client:
        assert (client.create(REQUEST), client.create(REQUEST)) == ("cq0example", "cq0other")
    assert server.n_connections == 1


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n" + answer(CREATED),
        b"HTTP/1.1 102 Processing\r\n\r\n" * 101,
    ],
)
def test_a_create_without_a_final_answer_may_have_arrived(server, first):
    """Nor is the answer to the next request taken from that connection."""
    server.script[:] = [first, answer(CREATED.replace(b"cq0example", b"cq0other"))]
    with Client(KEY, server.url) as client:
        assert failed_create(client).kind is FailureKind.MAY_HAVE_ARRIVED
        assert client.create(REQUEST) == "cq0other"
    assert [request.n_connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize(
    "first",
    [
        answer(CREATED) + answer(b'{"id": "cq0stray"}'),
        answer(CREATED) + b"x",
        answer(CREATED, Content_Length=str(len(CREATED) - 1)),
        answer(CREATED) + b" " * 20_000,
    ],
)
def test_bytes_after_an_answer_never_reach_the_next_request(server, first, is_tls, monkeypatch):
    """Whatever follows an answer was not asked for, so its connection is closed."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    with ScriptedServer([first, answer(CREATED.replace(b"cq0example", b"cq0other"))], is_tls) as running:
        with Client(KEY, running.url) as client:
            with suppress(errors.RequestMayHaveArrived):
                client.create(REQUEST)
            assert client.create(REQUEST) == "cq0other"
        assert [request.n_connection for request in running.requests] == [1, 2]


def test_patches_of_sessions_do_not_reach_the_transport(server, monkeypatch):
    """`requests_cache.install_cache` and the like replace the class for the whole process."""

    class Cached(requests.Session):
        def send(self, *_args, **_kwargs):
            raise AssertionError

    monkeypatch.setattr(requests, "Session", Cached)
    monkeypatch.setattr(requests.sessions, "Session", Cached)
    monkeypatch.setattr("dreamo_batch.service.transport.requests.Session", Cached)
    with Client(KEY, server.url) as client:
        assert client.create(REQUEST) == "cq0example"


def test_a_library_that_had_replaced_the_connections_is_reported(monkeypatch):
    """`vcr` does, for as long as a cassette is used."""
    monkeypatch.setattr("dreamo_batch.service.transport.HTTPConnection", type("Recorded", (), {}))
    with pytest.raises(errors.SettingsError, match=r"patched.*import dreamo_batch"):
        Client(KEY, "http://127.0.0.1:1")


def test_a_companys_own_ca_may_be_as_before_python_3_13(monkeypatch):
    """Its certificates often lack what that began to ask for, and nobody but the company can make new ones."""
    made = urllib3.util.create_urllib3_context()
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    monkeypatch.setattr(urllib3.util, "create_urllib3_context", lambda: made)
    Client(KEY, "https://gateway.example").close()
    assert not made.verify_flags & ssl.VERIFY_X509_STRICT


def test_queues_that_threads_cannot_share_are_reported(monkeypatch):
    """`grequests` leaves the process so: gevent replaces the queues, and not the threads."""
    monkeypatch.setattr(queue, "SimpleQueue", type("SimpleQueue", (), {}))
    with pytest.raises(errors.SettingsError, match=r"queue.SimpleQueue = _queue.SimpleQueue"):
        Client(KEY, "http://127.0.0.1:1")
    monkeypatch.setattr(threading, "get_ident", lambda: 1)  # all of it was replaced
    Client(KEY, "http://127.0.0.1:1").close()


# Threads and closing -------------------------------------------------------------------------------------------


def test_every_thread_has_its_own_connection_and_dead_threads_leave_none(server):
    """Sessions are not shared, and not kept for threads that are gone."""
    with Client(KEY, server.url) as client:
        for n_threads in (4, 1):
            threads = [threading.Thread(target=client.create, args=(REQUEST,)) for _ in range(n_threads)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(client._transport._lanes) <= 2
    assert server.n_connections == 5
    assert len(server.requests) == 5


def test_a_client_that_nobody_closes_leaves_no_open_connection(server):
    """Not even a ResourceWarning, which would be an error here."""
    client = Client(KEY, server.url)
    client.create(REQUEST)
    del client
    gc.collect()
    assert len(server.requests) == 1


def test_closing_lets_a_request_under_way_end(server):
    """Its answer is money."""
    arrived, go_on = threading.Event(), threading.Event()

    def slowly(connection):
        arrived.set()
        go_on.wait(60)
        connection.sendall(answer(CREATED))

    server.script[:] = [slowly]
    client = Client(KEY, server.url)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.create(REQUEST)))
    thread.start()
    arrived.wait(60)
    client.close()
    go_on.set()
    thread.join(60)
    assert answers == ["cq0example"]


def test_an_interrupt_shows_no_frame_that_holds_the_key(server, monkeypatch):
    """And the connection that it broke into is not used again."""

    class Interrupting:
        """A socket into whose sending somebody breaks."""

        def gettimeout(self):
            return None

        def settimeout(self, seconds):
            pass

        def sendall(self, data):
            assert KEY.encode() in data
            raise KeyboardInterrupt

        def close(self):
            pass

    with Client(KEY, server.url) as client:
        client.create(REQUEST)
        connection = idle_connection_of(client)
        connection.sock.close()
        connection.sock = Interrupting()
        monkeypatch.setattr("urllib3.connectionpool.is_connection_dropped", lambda _connection: False)
        with pytest.raises(KeyboardInterrupt) as caught:
            client.create(REQUEST)
        assert client.create(REQUEST) == "cq0example"
    assert server.n_connections == 2
    frames = [frame.name for frame in caught.traceback]
    assert frames[-1] == "send"
    assert str(caught.traceback[-1].path).endswith("transport.py")
    assert caught.value.__context__ is None


# TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_server():
    with ScriptedServer(is_tls=True) as running:
        yield running


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_ca_bundle_of_the_environment_is_used(tls_server, monkeypatch, variable):
    """As requests and curl have it."""
    monkeypatch.setenv(variable, str(CERTIFICATE))
    with Client(KEY, tls_server.url) as client:
        assert client.create(REQUEST) == "cq0example"


def test_a_certificate_that_nobody_signed_stops_the_create_before_it_is_sent(tls_server):
    """The handshake comes before the request."""
    with Client(KEY, tls_server.url) as client:
        failure = failed_create(client)
    assert (failure.kind, failure.error_class) == (FailureKind.TRANSIENT, "unreachable")
    assert "certificate verify failed" in failure.message
    assert tls_server.requests == []


def test_a_handshake_that_fails_is_not_sent():
    """A server that speaks no TLS."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(
        target=serve_raw, args=(listener, then(b"HTTP/1.1 400 Bad Request\r\n\r\n", close))
    )
    thread.start()
    with listener, Client(KEY, f"https://127.0.0.1:{listener.getsockname()[1]}") as client:
        failure = failed_create(client)
        thread.join()
    assert (failure.kind, failure.error_class) == (FailureKind.TRANSIENT, "unreachable")


def test_a_handshake_that_never_ends_is_not_sent():
    """The connect timeout holds for TLS as well."""
    listener = socket.create_server(("127.0.0.1", 0))
    with (
        listener,
        Client(KEY, f"https://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=0.05) as client,
    ):
        failure = failed_create(client)
    assert (failure.kind, failure.error_class) == (FailureKind.TRANSIENT, "unreachable")


@pytest.mark.parametrize(
    "step",
    [
        close,
        reset,
        lambda tls: socket.socket.send(tls, b"no TLS at all"),
        then(b"HTTP/1.1 200 OK\r\n", close),
    ],
)
def test_tls_that_breaks_after_the_request_may_have_arrived(tls_server, monkeypatch, step):
    """The same exception classes as in the handshake, but the request is out."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    tls_server.script[:] = [step if step in (close, reset) else then(step, close)]
    with Client(KEY, tls_server.url) as client:
        failure = failed_create(client)
    assert failure.kind is FailureKind.MAY_HAVE_ARRIVED
    assert len(tls_server.requests) == 1


@pytest.mark.parametrize("bundle", ["/no/such/bundle.pem", __file__])
def test_a_ca_bundle_that_can_not_be_used_is_reported_at_once(monkeypatch, bundle):
    """Before the first request, not once per row."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with pytest.raises(errors.SettingsError, match="REQUESTS_CA_BUNDLE"):
        Client(KEY, "https://gateway.example")


# Proxies -------------------------------------------------------------------------------------------------------


class Proxy:
    """A proxy that answers CONNECT with a step of the test and then, if it is to, is the service itself."""

    def __init__(self, connect=b"HTTP/1.1 200 OK\r\n\r\n", tunnelled=None):
        self.connect, self.tunnelled = connect, tunnelled
        self.connects, self.requests = [], []

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    self._serve(connection)

    def _serve(self, connection):
        with connection.makefile("rb") as reader:
            self.connects.append(read_request(reader, 0))
        connection.sendall(self.connect) if isinstance(self.connect, bytes) else self.connect(connection)
        if self.tunnelled is not None:
            with closing(to_tls(connection)) as tls:
                with tls.makefile("rb") as reader:
                    self.requests.append(read_request(reader, 0))
                tls.sendall(self.tunnelled) if isinstance(self.tunnelled, bytes) else self.tunnelled(tls)
                with suppress(OSError, ValueError):
                    tls.unwrap()


@pytest.fixture
def through(monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))

    def make(proxy, **kwargs):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        return Client(KEY, "https://gateway.test", **kwargs)

    return make


def test_a_proxy_of_the_environment_carries_the_request_and_never_sees_the_key(through):
    """Only the tunnel's name is told in the open."""
    with Proxy(tunnelled=answer(CREATED)) as proxy, through(proxy) as client:
        assert client.create(REQUEST) == "cq0example"
    assert proxy.connects[0].line.rpartition(".")[0] == "CONNECT gateway.test:443 HTTP/1"
    assert KEY not in str(proxy.connects)
    assert proxy.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "connect",
    [
        b"HTTP/1.1 403 Forbidden\r\n\r\n",
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\n\r\nthis is no TLS",
        reset,
    ],
    ids=["403", "407", "502", "no http", "end", "no tls", "reset"],
)
def test_a_tunnel_that_is_never_made_carries_no_create(through, connect):
    """Whatever the proxy does before the handshake is over: nothing arrived."""
    with Proxy(connect) as proxy, through(proxy, connect_timeout_s=1) as client:
        failure = failed_create(client)
    assert (failure.kind, failure.error_class, failure.is_outage) == (
        FailureKind.TRANSIENT,
        "unreachable",
        True,
    )
    assert len(proxy.connects) == 1


def test_a_proxy_that_never_answers_carries_no_create(through):
    """urllib3 calls this a read timeout, but what was waited for is the tunnel."""
    over = threading.Event()
    with Proxy(lambda _connection: over.wait(5)) as proxy, through(proxy, connect_timeout_s=0.05) as client:
        failure = failed_create(client)
        over.set()
    assert (failure.kind, failure.error_class) == (FailureKind.TRANSIENT, "unreachable")


def test_a_proxy_that_is_not_there_carries_no_create(through):
    """The connection to the proxy is the one that is never made."""
    with Proxy() as gone:
        pass
    with through(gone) as client:
        failure = failed_create(client)
    assert (failure.kind, failure.error_class) == (FailureKind.TRANSIENT, "unreachable")


@pytest.mark.parametrize("step", [close, reset, then(b"HTTP/1.1 200 OK\r\nContent-", close)])
def test_a_tunnel_that_breaks_under_a_create_may_have_carried_it(through, step):
    """urllib3 reports this as a ProxyError, as if the tunnel had never been made."""
    with Proxy(tunnelled=step) as proxy, through(proxy) as client:
        failure = failed_create(client)
    assert failure.kind is FailureKind.MAY_HAVE_ARRIVED
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_loopback_never_goes_through_a_proxy(server, monkeypatch, variable):
    """A proxy would see the key of plain http, and can't reach this machine anyway."""
    with Proxy() as proxy:
        monkeypatch.setenv(variable, proxy.url)
        with Client(KEY, server.url) as client:
            assert client.create(REQUEST) == "cq0example"
    assert proxy.connects == []


def test_no_proxy_is_honoured(monkeypatch):
    """The host is then looked up here, and gateway.test exists nowhere."""
    with Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "gateway.test")
        with Client(KEY, "https://gateway.test", connect_timeout_s=1) as client:
            failure = failed_create(client)
    assert (failure.kind, proxy.connects) == (FailureKind.TRANSIENT, [])


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:1", "ftp://127.0.0.1:1", "http://", "http://me:hunter2@[:1"]
)
def test_a_proxy_that_can_not_be_used_is_reported_at_once(monkeypatch, proxy):
    """Before the first request, not once per row, and without its password."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(errors.SettingsError, match="HTTPS_PROXY") as caught:
        Client(KEY, "https://gateway.example")
    assert "hunter2" not in str(caught.value)


def test_netrc_does_not_replace_the_key(server, monkeypatch, tmp_path):
    """Requests would put the password of .netrc into the Authorization header."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n", encoding="ascii")
    monkeypatch.setenv("NETRC", str(netrc))
    with Client(KEY, server.url) as client:
        client.create(REQUEST)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_cookies_are_neither_kept_nor_sent(server):
    """One request knows nothing of another."""
    server.script[:] = [answer(CREATED, Set_Cookie="a=b; Path=/")]
    with Client(KEY, server.url) as client:
        client.create(REQUEST)
        client.create(REQUEST)
    assert "cookie" not in server.requests[1].headers


def test_a_socks_proxy_that_is_not_there_carries_no_create(monkeypatch):
    """Its connections are made by another library, but sending begins only once they are there."""
    monkeypatch.setattr(
        "requests.adapters.SOCKSProxyManager", lambda *_args, **_kwargs: urllib3.PoolManager()
    )
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    with Client(KEY, "https://gateway.test", connect_timeout_s=1) as client:
        failure = failed_create(client)
    assert (failure.kind, failure.error_class) == (FailureKind.TRANSIENT, "unreachable")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_sends_on_connections_of_its_own(server):
    """On its parent's its answers could come to the parent, and the parent's to it."""
    server.script[:] = [answer(RUNNING)]
    with Client(KEY, server.url) as client:
        client.fetch("cq0example")
        child = os.fork()
        if child == 0:
            try:
                client.fetch("cq0example")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    assert [request.n_connection for request in server.requests] == [1, 2]
