"""Fetching pictures from other hosts: nothing of ours goes along, and nothing endless comes back."""

from __future__ import annotations

import gzip
import logging
import socket
import threading

import pytest
import urllib3

from dreamo_batch import errors
from dreamo_batch.service import client as module
from dreamo_batch.service.client import Client
from dreamo_batch.service.config import Settings
from dreamo_batch.service.failures import FailureKind
from dreamo_batch.service.transport import why_refused
from tests.scripted_server import ScriptedServer, answer, close, reset, then

KEY = "sk-example-key"
PICTURE = b"\xff\xd8\xff\xe0 a picture"
SIGNATURE = "s1gn4ture"


@pytest.fixture
def host():
    with ScriptedServer([answer(PICTURE, Content_Type="image/jpeg")]) as running:
        yield running


@pytest.fixture
def client(host):
    # The API is on the very same host and port: even so the key stays at home.
    with Client(KEY, host.url, read_timeout_s=2) as opened:
        yield opened


def link(host, path="/a.png"):
    return f"{host.url}{path}?sig={SIGNATURE}"


def failure_of(client, url, max_bytes=1000):
    with pytest.raises(errors.ServiceError) as caught:
        client.download(url, max_bytes=max_bytes)
    return caught.value.failure


def test_a_picture_is_fetched_without_key_and_cookies(host, client):
    """Even from the service's own host, and after its host set a cookie."""
    host.script[:] = [answer(PICTURE, Set_Cookie="a=b; Path=/")]
    for _ in range(2):
        assert client.download(link(host), max_bytes=1000) == PICTURE
    assert host.requests[0].line == f"GET /a.png?sig={SIGNATURE} HTTP/1.1"
    for request in host.requests:
        assert not {"authorization", "cookie"} & set(request.headers)


def test_downloads_and_api_calls_share_no_connection(host, client):
    """A connection that carried the key carries nothing else."""
    host.script[:] = [answer(b'{"id": "cq0example", "status": "in_progress"}')]
    client.fetch("cq0example")
    client.download(link(host), max_bytes=1000)
    assert [request.n_connection for request in host.requests] == [1, 2]


def test_netrc_is_not_sent_to_other_hosts_either(host, client, monkeypatch, tmp_path):
    """The host of a picture has no business with passwords."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n", encoding="ascii")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    client.download(link(host), max_bytes=1000)
    assert "authorization" not in host.requests[0].headers


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/hostname", "only http and https"),
        ("ftp://o.example/a.png", "only http and https"),
        ("data:image/png;base64,AAAA", "only http and https"),
        ("//o.example/a.png", "only http and https"),
        ("", "only http and https"),
        ("https://me:hunter2@o.example/a.png", "user name or password"),
        ("https://", "Invalid URL"),
        ("https:///a.png?sig=s1gn4ture", "Invalid URL"),
        ("https://[/a.png?sig=s1gn4ture", "ValueError"),
        ("https://o.example:99999/a.png?sig=s1gn4ture", "Failed to parse"),
        ("https://*.example/a.png?sig=s1gn4ture", "invalid label"),
    ],
)
def test_links_that_must_not_be_followed_are_refused(client, url, words):
    """For good, and without showing what is secret in them."""
    failure = failure_of(client, url)
    assert (failure.kind, failure.error_class) == (FailureKind.PERMANENT, "rejected")
    assert words in failure.message
    assert "hunter2" not in str(failure)
    assert SIGNATURE not in str(failure)


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("/a%2fb.png?sig=a%2Bb%7e&t=1+2", "/a%2fb.png?sig=a%2Bb%7e&t=1+2"),
        ("/x/../a~b'(c).png?q=[1]|{2}^`\"<>\\", "/x/../a~b'(c).png?q=[1]|{2}^`\"<>\\"),
        ("/100%.png?#fragment", "/100%.png?"),
        ("//a//b.png", "//a//b.png"),
        ("?sig=1", "/?sig=1"),
        ("", "/"),
        ("/\u96ea.png?k=\u5c71%E5", "/%E9%9B%AA.png?k=%E5%B1%B1%E5"),
    ],
)
def test_a_link_is_asked_for_byte_for_byte(host, client, written, target):
    """Its signature may cover the spelling; only what HTTP can't carry is quoted."""
    client.download(f"{host.url}{written}", max_bytes=1000)
    assert host.requests[0].line == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(host, client, status):
    """Relative ones too; each hop is one request."""
    host.script[:] = [answer(b"", status, Location="/b.png?x=1"), answer(PICTURE)]
    assert client.download(link(host), max_bytes=1000) == PICTURE
    assert [request.line.split()[1] for request in host.requests] == [f"/a.png?sig={SIGNATURE}", "/b.png?x=1"]


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("file:///etc/hostname", "only http and https"),
        ("ftp://o.example/", "only http and https"),
        ("http://me:hunter2@127.0.0.1/", "user name or password"),
        ("http://[", "ValueError"),
    ],
)
def test_redirects_are_checked_like_links(host, client, location, words):
    """The host of a picture does not choose what is opened here."""
    host.script[:] = [answer(b"", 302, Location=location)]
    failure = failure_of(client, link(host))
    assert (failure.kind, words in failure.message, "hunter2" in str(failure)) == (
        FailureKind.PERMANENT,
        True,
        False,
    )


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "2130706433"])
@pytest.mark.parametrize("is_redirected", [False, True])
def test_a_service_elsewhere_can_not_send_us_to_this_machine(host, monkeypatch, name, is_redirected):
    """However the host is written, nothing is asked of what runs here; a service that runs here may."""
    url = f"http://{name}:{host.port}/admin?delete=all"
    with ScriptedServer([answer(b"", 302, Location=url)]) as other, Client(KEY, other.url) as client:
        monkeypatch.setattr(Settings, "is_loopback", False)  # as if by a tunnel
        failure = failure_of(client, f"{other.url}/" if is_redirected else url)
        assert failure.kind is FailureKind.PERMANENT
        assert "the link leads to this machine" in failure.message
        assert host.requests == []
        assert len(other.requests) == is_redirected


def test_the_client_keeps_links_of_services_elsewhere_from_this_machine(host):
    """It is the base URL that decides, not the link."""
    with Client(KEY, "https://gateway.example") as client:
        assert "leads to this machine" in failure_of(client, link(host)).message
    assert host.requests == []


PRIVATE = [
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "224.0.0.1",
    "255.255.255.255",
    "0.1.2.3",
    "fc00::1",
    "fd00:ec2::254",
    "64:ff9b::a9fe:a9fe",
    "::ffff:0:a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "ff02::1",
    "fec0::1",
    "3fff::1",
    "5f00::1",
    "192.88.99.1",
    "192.0.0.192",
    "168.63.129.16",
    "::ffff:10.1.2.3",
]


def _looked_up(monkeypatch, *addresses):
    """Answer every look-up with these addresses."""
    connected = []

    def look_up(_host, port, *_args, **_kwargs):
        return [(None, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    def connect(address, *_args, **_kwargs):
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(urllib3.util.connection, "create_connection", connect)
    return connected


def _fetched(url, **allowed):
    with Client(KEY, "https://gateway.example", read_timeout_s=2, **allowed) as client:
        return failure_of(client, url)


@pytest.mark.parametrize("address", PRIVATE)
@pytest.mark.parametrize("is_name", [True, False])
def test_links_to_private_networks_are_refused_before_a_connection(monkeypatch, address, is_name):
    """Also where a name leads there, beside an address that is public; unless that is allowed."""
    connected = _looked_up(monkeypatch, *(["1.1.1.1", address] if is_name else [address]))
    host = "pictures.example" if is_name else f"[{address}]" if ":" in address else address
    failure = _fetched(f"http://{host}/a.png")
    assert (failure.kind, failure.error_class) == (FailureKind.PERMANENT, "rejected")
    assert "private address" in failure.message
    assert connected == []
    allowed = _fetched(f"http://{host}/a.png", allow_private_links=True)
    assert allowed.error_class == "unreachable"
    assert connected[-1] == address


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0"])
def test_links_to_this_machine_are_refused_even_where_private_ones_are_allowed(monkeypatch, address):
    """Clouds keep their secrets there."""
    connected = _looked_up(monkeypatch, address)
    failure = _fetched("http://pictures.example/a.png", allow_private_links=True)
    assert "leads to this machine" in failure.message
    assert connected == []


@pytest.mark.parametrize("address", ["64:ff9b::101:101", "198.18.0.7"])
def test_addresses_that_networks_make_up_for_public_ones_are_followed(monkeypatch, address):
    """NAT64, where there is no IPv4, ends in the address; proxies that answer for DNS (Clash, sing-box) know it."""
    connected = _looked_up(monkeypatch, address)
    assert _fetched("http://pictures.example/a.png").error_class == "unreachable"
    assert connected == [address]


def test_links_to_an_interface_of_this_machine_are_refused():
    """Whatever its address is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("1.1.1.1", 9))
        except OSError:
            own = "127.0.0.1"
        else:
            own = probe.getsockname()[0]
    assert why_refused(own, allows_private=True) == "the link leads to this machine; not followed"


def test_a_name_is_connected_to_at_the_address_that_was_looked_at(monkeypatch):
    """A second look-up could give another."""
    connected = _looked_up(monkeypatch, "1.1.1.1", "8.8.8.8")
    assert _fetched("http://pictures.example/a.png").error_class == "unreachable"
    assert connected == ["1.1.1.1", "8.8.8.8"]


def test_addresses_in_links_are_looked_at_before_a_proxy_is_asked(monkeypatch):
    """It may stand inside a private network itself."""
    with ScriptedServer([answer(PICTURE)]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert "private address" in _fetched("http://10.1.2.3/a.png").message
        assert "this machine" in _fetched("http://localhost/a.png").message
        for own in ("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "127.0.0.1."):
            assert "this machine" in _fetched(f"http://{own}/a.png").message
        for private in ("3232235777", "0xC0A80101", "192.168.257", "[::ffff:c0a8:101]"):
            assert "private address" in _fetched(f"http://{private}/a.png").message
        assert proxy.requests == []


def test_a_link_over_plain_http_is_asked_of_the_proxy_as_written(monkeypatch):
    """With the whole URL and the proxy's password, which a host is never told."""
    with ScriptedServer([answer(PICTURE)]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//me:hunter2@"))
        with Client(KEY, "http://127.0.0.1:9") as client:
            assert client.download("http://o.example/a%2fb.png?t=1", max_bytes=1000) == PICTURE
        (request,) = proxy.requests
    assert request.line == "GET http://o.example/a%2fb.png?t=1 HTTP/1.1"
    assert request.headers["host"] == "o.example"
    assert request.headers["proxy-authorization"] == "Basic bWU6aHVudGVyMg=="


def test_a_redirect_in_circles_ends(host, client):
    """After five of them."""
    host.script[:] = [answer(b"", 302, Location="/again")]
    failure = failure_of(client, link(host))
    assert (failure.kind, failure.error_class, len(host.requests)) == (FailureKind.PERMANENT, "redirected", 6)


def test_a_redirect_to_nowhere_is_a_failure(host, client):
    """Without a Location there is nothing to follow."""
    host.script[:] = [answer(b"", 302)]
    assert failure_of(client, link(host)).error_class == "redirected"


@pytest.mark.parametrize(
    "step",
    [
        answer(PICTURE * 200),
        then(b"HTTP/1.1 200 OK\r\n\r\n", PICTURE * 200, close),
        then(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n", b"x" * 2048, b"\r\n0\r\n\r\n"),
        answer(gzip.compress(b" " * 10_000_000), Content_Encoding="gzip"),
    ],
    ids=["told", "untold", "chunked", "packed"],
)
def test_what_is_too_long_is_refused_not_cut(host, client, step):
    """Whether its length is told or not."""
    host.script[:] = [step]
    failure = failure_of(client, link(host))
    assert (failure.kind, failure.error_class) == (FailureKind.PERMANENT, "unreadable")
    assert "1000 bytes" in failure.message


def test_the_longest_allowed_is_read(host, client):
    """The ceiling belongs to what is allowed."""
    assert client.download(link(host), max_bytes=len(PICTURE)) == PICTURE


@pytest.mark.parametrize(
    ("step", "kind", "error_class"),
    [
        (answer(b"", 403), FailureKind.PERMANENT, "access_refused"),
        (answer(b"", 404), FailureKind.PERMANENT, "rejected"),
        (answer(b"", 410), FailureKind.PERMANENT, "rejected"),
        (answer(b"", 429, Retry_After="3"), FailureKind.TRANSIENT, "rate_limited"),
        (answer(b"", 503), FailureKind.TRANSIENT, "server_error"),
        (close, FailureKind.TRANSIENT, "no_answer"),
        (reset, FailureKind.TRANSIENT, "no_answer"),
        (then(answer(PICTURE, Content_Length="500"), close), FailureKind.TRANSIENT, "no_answer"),
    ],
)
def test_failures_tell_a_link_that_is_dead_from_one_that_may_work_later(
    host, client, step, kind, error_class
):
    """A dead one is asked for anew; a refused link never stops the run."""
    host.script[:] = [step]
    failure = failure_of(client, link(host))
    assert (failure.kind, failure.error_class) == (kind, error_class)
    assert SIGNATURE not in str(failure)


def test_a_picture_that_drips_ends(host, monkeypatch):
    """At its deadline, however steadily it comes."""
    over = threading.Event()

    def drip(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
        while not over.wait(0.005):
            connection.sendall(b"1")

    host.script[:] = [drip]
    monkeypatch.setattr(module, "DOWNLOAD_WITHIN_READ_TIMEOUTS", 0.02)
    with Client(KEY, host.url, read_timeout_s=5) as client:
        failure = failure_of(client, link(host), max_bytes=100_000)
        over.set()
    assert (failure.kind, failure.error_class) == (FailureKind.TRANSIENT, "no_answer")
    assert "incomplete after 0." in failure.message


def test_a_picture_that_stalls_ends(host):
    """At one read timeout without a byte."""
    over = threading.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"
    host.script[:] = [then(head, lambda _connection: over.wait(5))]
    with Client(KEY, host.url, read_timeout_s=0.5) as client:
        failure = failure_of(client, link(host), max_bytes=100_000)
        over.set()
    assert failure.message == "TimeoutError: nothing arrived for 0.5 s"


def test_signatures_are_logged_at_debug_only(host, client, caplog):
    """Neither by us nor by what lies below us, not even when the host's answer is malformed."""
    host.script[:] = [
        answer(b"", 302, Location=f"/b.png?sig={SIGNATURE}"),
        then(b"HTTP/1.1 200 OK\r\nno header at all\r\n\r\n", b"ok", close),
        answer(b"", 500),
        close,
    ]
    with caplog.at_level(logging.DEBUG):
        client.download(link(host), max_bytes=1000)
        for _ in range(2):
            failure_of(client, link(host))
    assert any(SIGNATURE in record.getMessage() for record in caplog.records)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_a_wait_until_a_date_counts_from_now(host):
    """A 429 for a link that names a date asks to wait until then, and not since the beginning of time."""
    host.script[:] = [answer(b"", 429, Retry_After="Tue, 14 Nov 2023 22:13:50 GMT")]
    with Client(KEY, host.url, wall=lambda: 1_700_000_000.0) as client:
        assert failure_of(client, link(host)).retry_after_s == 30.0
