"""Send one request and read its answer, knowing whether the request left this machine."""

from __future__ import annotations

import errno
import http.client
import io
import ipaddress
import os
import queue
import socket
import ssl
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.proxy import connection_requires_http_tunnel

from dreamo_batch.errors import SettingsError
from dreamo_batch.service import failures
from dreamo_batch.service.config import PORTS, is_loopback_host
from dreamo_batch.service.failures import Failure, FailureKind, Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from urllib3 import HTTPConnectionPool


USER_AGENT: Final = "dreamo-batch"
# A request lost on a dead connection is repeated only after a minute.
_IDLE_MAX_S: Final = {"POST": 1.0, "GET": 60.0}
_N_HOSTS_MAX: Final = 10
_BUNDLE_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
ERROR_BYTES_MAX: Final = 64 * 1024
_PIECE_BYTES: Final = 64 * 1024
# Shorter bodies are joined to the head, because copying costs less than another call.
_JOINED_BYTES_MAX: Final = 512 * 1024
_LAST_LOOK_S: Final = 0.001
# A timeout that differs by less isn't changed, because every change lets other threads run first.
_TIMEOUT_TOLERANCE: Final = 0.01
# The service may have answered before it hung up.
_HUNG_UP: Final = (errno.EPIPE, errno.ECONNRESET)


@dataclass(frozen=True, slots=True)
class Form:
    """A request ready to be sent, except for the key and the body."""

    method: str
    origin: str
    target: str
    headers: bytes = field(repr=False)


def form_of(prepared: requests.PreparedRequest, target: str | None = None) -> Form:
    """Write a request that `requests` has checked as it is sent; `target` replaces its path and query."""
    parts = urlsplit(str(prepared.url))
    host = parts.netloc.removesuffix(f":{PORTS[parts.scheme]}")
    lines = [f"{name}: {value}\r\n" for name, value in {"Host": host, **prepared.headers}.items()]
    path = prepared.path_url if target is None else target
    return Form(str(prepared.method), f"{parts.scheme}://{host}", path, "".join(lines).encode("latin-1"))


class AnswerTooLong(urllib3.exceptions.HTTPError):
    """An answer is longer than allowed, as received or unpacked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; its repr shows only the status, because answers may repeat the key."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    broken: Failure | None = field(default=None, repr=False)


def _read_answer(operation: Operation, response: _TimedAnswer, *, max_bytes: int) -> tuple[Answer, bool]:
    """Read an answer, with a limit on its size; also return whether it was read to its end."""
    pieces: list[bytes] = []
    broken, is_success = None, failures.is_success(response.status)
    try:
        _collect(response, pieces, max_bytes if is_success else ERROR_BYTES_MAX)
    except Exception as error:  # noqa: BLE001 - whatever breaks a body, the status still counts
        broken = failures.from_exception(operation, error, was_sent=True)
        broken = replace(broken, http_status=response.status)
        if isinstance(error, AnswerTooLong | urllib3.exceptions.DecodeError):
            broken = replace(broken, error_class=failures.UNREADABLE, is_outage=False)
    problem = broken if is_success else None  # the body of an error only explains it
    return Answer(response.status, dict(response.headers.items()), b"".join(pieces), problem), broken is None


def _collect(response: _TimedAnswer, pieces: list[bytes], max_bytes: int) -> None:
    """Read a body in pieces, so that everything before a break is kept."""
    if failures.is_success(response.status) and (response.length or 0) > max_bytes:
        raise AnswerTooLong(f"the answer has {response.length} bytes; the limit is {max_bytes} bytes")
    left_bytes, read = max_bytes, response.read_next
    if "content-encoding" in response.headers:
        headers = dict(response.headers.items())
        unpacking = urllib3.HTTPResponse(response, headers, response.status, preload_content=False)
        read = partial(unpacking.read1, decode_content=True)
    while piece := read(min(_PIECE_BYTES, left_bytes + 1)):
        pieces.append(piece)
        left_bytes -= len(piece)
        if left_bytes < 0:
            raise AnswerTooLong(f"the answer is longer than the limit of {max_bytes} bytes")


_IPV4: Final = 4
# Addresses that contain another one: NAT64, 6to4, Teredo, and IPv4 in the last bits.
_TUNNELS: Final = ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "192.88.99.0/24")
# Not public, although some versions of Python treat them as public.
_IPV6: Final = ("fec0::/10", "5f00::/16", "3fff::/20", "100:0:0:1::/64", "::ffff:0:0:0/96")
_OF_CLOUDS: Final = ("192.0.0.0/24", "168.63.129.16/32")  # the metadata services of clouds
_NOT_PUBLIC: Final = tuple(map(ipaddress.ip_network, (*_TUNNELS, *_IPV6, *_OF_CLOUDS)))
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses in networks without IPv4
_FAKE: Final = ipaddress.ip_network("198.18.0.0/15")  # what proxies that answer for DNS make of every name
_N_INTERIM_MAX: Final = 100
_N_HEADERS_MAX: Final = 100
_HEADER_BYTES_MAX: Final = 64 * 1024


@dataclass(slots=True)
class Exchange:
    """One request in progress on one thread."""

    answer_within_s: float
    read_timeout_s: float
    was_sent: bool = False
    is_kept_from_here: bool = False
    allows_private: bool = False
    is_out_of_step: bool = False


class WatchedAdapter(HTTPAdapter):
    """The adapter of requests, for its handling of proxies and certificates; its pools provide the connections."""

    def __init__(self, exchange: Exchange, tls: Callable[[], ssl.SSLContext]) -> None:
        self._exchange = exchange
        self._tls = tls
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pools of watched connections."""
        super().init_poolmanager(*args, **kwargs)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Create the pools through a proxy, watched as well, except for SOCKS."""
        if proxy.lower().startswith("https:"):
            kwargs["proxy_ssl_context"] = self._tls()
        manager = super().proxy_manager_for(proxy, **kwargs)
        if isinstance(manager, urllib3.ProxyManager):
            self._watch(manager)
        return manager

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Use one context for all TLS connections: loading the certificates takes longer than a request."""
        host, tls = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {**tls, "ssl_context": self._tls()} if host["scheme"] == "https" else tls

    def _watch(self, manager: urllib3.PoolManager) -> None:
        pools = {"http": _PlainPool, "https": _TlsPool}
        watched = {scheme: partial(pool, exchange=self._exchange) for scheme, pool in pools.items()}
        manager.pool_classes_by_scheme = cast("dict[str, type[urllib3.HTTPConnectionPool]]", watched)


class _Watched(HTTPConnection):
    """A connection that only connects to permitted addresses."""

    def __init__(self, *args: Any, exchange: Exchange, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._exchange = exchange
        self.response_class = cast("type[http.client.HTTPResponse]", partial(_TimedAnswer, exchange=exchange))

    def _new_conn(self) -> socket.socket:
        """Resolve the host, refuse private addresses, and connect only to a checked address."""
        if not self._exchange.is_kept_from_here or self.proxy is not None:
            return super()._new_conn()
        host = self._dns_host
        try:
            found = socket.getaddrinfo(host.strip("[]"), self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise urllib3.exceptions.NameResolutionError(
                host, self, cast("socket.gaierror", error)
            ) from error
        addresses = list(dict.fromkeys(str(address[4][0]) for address in found))
        for address in addresses:
            refusal = why_refused(address, allows_private=self._exchange.allows_private)
            if refusal is not None:
                raise urllib3.exceptions.LocationValueError(refusal)
        try:
            for address in addresses[:-1]:
                self._dns_host = address
                with suppress(urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
                    return super()._new_conn()
            self._dns_host = addresses[-1]
            return super()._new_conn()
        finally:
            self._dns_host = host


def why_refused(address: str, *, allows_private: bool) -> str | None:
    """Return why a remote service's link must not lead to an IP address; None if it may."""
    known = ipaddress.ip_address(address.partition("%")[0])
    known = getattr(known, "ipv4_mapped", None) or known
    if known in _NAT64 and (inside := ipaddress.IPv4Address(int(known) & 0xFFFF_FFFF)).is_global:
        known = inside
    if known.is_loopback or known.is_link_local or known.is_unspecified or _is_own(known):
        return "the link leads to this machine; not followed"
    is_global = known.is_global or known in _FAKE
    is_private = not is_global or known.is_multicast or any(known in network for network in _NOT_PUBLIC)
    if is_private and not allows_private:
        return "the link leads to a private address; not followed, unless private links are allowed"
    return None


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether the address is one of this machine's, which is reached from itself; nothing is sent."""
    family = socket.AF_INET if address.version == _IPV4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address
    except OSError:  # unreachable, so not this machine
        return False


class _WatchedTls(_Watched, HTTPSConnection):
    """The same over TLS, where connecting includes the handshake."""


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class _TimedAnswer(http.client.HTTPResponse):
    """An answer that must be complete, header and body, by a deadline."""

    def __init__(self, sock: socket.socket, *args: Any, exchange: Exchange, **kwargs: Any) -> None:
        # It needs only a file for reading from a socket.
        file = SimpleNamespace(makefile=lambda _: _AnswerReader(sock, exchange))
        super().__init__(cast("socket.socket", file), *args, **kwargs)
        self._exchange = exchange

    def begin(self) -> None:
        """Read the status and the headers as the base does, but for its mail parser, which takes half of a request."""
        version, status, reason = self._read_status()
        if not version.startswith("HTTP/1."):
            raise http.client.UnknownProtocol(version)
        self.code, self.status, self.reason = status, status, reason.strip()
        self.headers = self.msg = cast("http.client.HTTPMessage", _read_headers(self.fp))
        self.chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        written = self.headers.get("content-length", "").strip()
        self.length = int(written) if written.isdecimal() and not self.chunked else None
        if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED) or status < HTTPStatus.OK:
            self.length = 0
        is_until_end = not self.chunked and self.length is None
        is_closing = version == "HTTP/1.0" or "close" in self.headers.get("connection", "").lower()
        self.will_close = is_until_end or is_closing

    def read_next(self, n_bytes: int) -> bytes:
        """Read up to n bytes of what has arrived (empty at the end); raise if the answer ends too early."""
        if self.chunked or self.length is None:
            return self.read1(n_bytes)
        if not self.length:
            return b""
        piece = self.fp.read1(min(n_bytes, self.length))
        if not piece:
            raise http.client.IncompleteRead(b"", self.length)
        self.length -= len(piece)
        return piece

    def _read_status(self) -> tuple[str, int, str]:
        """Skip interim answers: http.client knows only 100, and would read 102 or 103 as the final answer."""
        for _ in range(_N_INTERIM_MAX):
            line: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]  # not in the stubs
            status = line[1]
            if status == HTTPStatus.SWITCHING_PROTOCOLS:  # never requested
                self._exchange.is_out_of_step = True
            if status == HTTPStatus.SWITCHING_PROTOCOLS or status >= HTTPStatus.OK:
                return line
            _read_headers(self.fp)
        raise http.client.HTTPException(f"more than {_N_INTERIM_MAX} interim answers")


def _read_headers(lines: io.BufferedReader) -> dict[str, str]:
    """Read headers by their names in small letters; of several with one name the first counts."""
    headers: dict[str, str] = {}
    for _ in range(_N_HEADERS_MAX + 1):
        line = lines.readline(_HEADER_BYTES_MAX + 1)
        if len(line) > _HEADER_BYTES_MAX:
            raise http.client.LineTooLong("header line")
        if not line.strip():
            return headers
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            headers.setdefault(name.lower(), value.strip())
    raise http.client.HTTPException(f"more than {_N_HEADERS_MAX} headers")


class _AnswerReader(io.BufferedReader):
    """Reads one answer, and records at its end whether more bytes had arrived."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._timed = _TimedFile(sock, exchange)
        super().__init__(self._timed)
        self._sock = sock
        self._exchange = exchange

    def close(self) -> None:
        if not self.closed:
            self._timed.is_over = True
            # TLS may have buffered surplus bytes; urllib3 detects those of a plain socket.
            has_more = isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0
            self._exchange.is_out_of_step |= bool(self.peek(1)) or has_more
        super().close()


class _TimedFile(io.RawIOBase):
    """A socket's file whose reads all share one deadline."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._raw = cast("io.RawIOBase", sock.makefile("rb", buffering=0))
        self._sock = sock
        self._within_s = exchange.answer_within_s
        self._read_timeout_s = exchange.read_timeout_s
        self._until = time.monotonic() + self._within_s
        self.is_over = False  # nothing more is read from the socket then

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.is_over:
            return 0
        # Data that has arrived is read however late, as the process may have been suspended.
        timeout_s = min(max(self._until - time.monotonic(), _LAST_LOOK_S), self._read_timeout_s)
        _set_timeout(self._sock, timeout_s)
        with suppress(TimeoutError):  # raised below, with a message that distinguishes the two timeouts
            return cast("int | None", self._raw.readinto(buffer))
        if time.monotonic() >= self._until:
            raise TimeoutError(f"the answer was incomplete after {self._within_s:g} s")
        raise TimeoutError(f"nothing arrived for {timeout_s:g} s")

    def close(self) -> None:
        self._raw.close()
        super().close()


def boottime() -> float:
    """Return seconds since the machine started, with the time it was suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Transport:
    """Sends prepared requests; safe to share between threads."""

    def __init__(
        self,
        connect_timeout_s: float,
        read_timeout_s: float,
        *,
        allow_private_links: bool = False,
        monotonic: Callable[[], float] = boottime,
    ) -> None:
        if HTTPConnection.__module__ != urllib3.connection.__name__:
            raise SettingsError("urllib3 was patched (by vcr?): import dreamo_batch.Client first")
        if queue.SimpleQueue.__module__ != "_queue" and threading.get_ident.__module__ == "_thread":
            raise SettingsError("grequests replaced the queues: set queue.SimpleQueue = _queue.SimpleQueue")
        self.allows_private: Final = allow_private_links
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self.monotonic = monotonic
        self._ca_bundle = next(filter(None, map(os.environ.get, _BUNDLE_VARIABLES)), DEFAULT_CA_BUNDLE_PATH)
        self._context: ssl.SSLContext | None = None
        self._here = threading.local()
        self._lanes: dict[threading.Thread, _Lane] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def check(self, origin: str) -> None:
        """Check, without connecting, that a host and its proxy can be used."""
        if origin.startswith("https:"):
            self._tls()
        lane = self._open_lane()
        try:
            self._pool(lane, origin)
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            raise SettingsError(
                f"the proxy set in the environment for {urlsplit(origin).netloc} can't be used; check HTTPS_PROXY, "
                "HTTP_PROXY, ALL_PROXY and NO_PROXY (SOCKS needs the package PySocks)"
            ) from None
        finally:
            lane.close()

    def send(
        self,
        operation: Operation,
        form: Form,
        body: list[bytes] | None = None,
        *,
        max_bytes: int,
        answer_within_s: float | None = None,
        is_kept_from_here: bool = False,
    ) -> Answer | Failure:
        """Send one request and read its answer; the body is emptied when it is sent."""
        lane = self._lane()
        if lane is None:
            return Failure(
                FailureKind.TRANSIENT, failures.UNREACHABLE, message="the client is closed", cause="closed"
            )
        exchange = lane.exchange
        exchange.answer_within_s = answer_within_s or self._read_timeout_s
        exchange.was_sent = False
        exchange.is_kept_from_here = is_kept_from_here
        exchange.is_out_of_step = False
        try:
            return self._exchanged(lane, operation, form, body or [], max_bytes)
        except Exception as error:  # noqa: BLE001 - whatever happens, it must be known whether the request was sent
            return failures.from_exception(operation, error, was_sent=exchange.was_sent)
        except BaseException as interrupt:  # noqa: BLE001 - raised again, without the frames that hold the key
            raise interrupt.with_traceback(None) from None
        finally:
            lane.used_at = self.monotonic()

    def close(self) -> None:
        """Close every thread's connections; later requests are refused, those in progress are finished."""
        with self._lock:
            self._is_closed = True
            lanes = list(self._lanes.values())
            self._lanes.clear()
        for lane in lanes:
            lane.close()

    def _exchanged(
        self, lane: _Lane, operation: Operation, form: Form, body: list[bytes], max_bytes: int
    ) -> Answer:
        """Send on a pooled connection, which is reused only if nothing of this request is left on it."""
        pool = self._pool(lane, form.origin)
        connection = cast("HTTPConnection", pool._get_conn())  # noqa: SLF001 - what urllib3 offers to its subclasses; SOCKS has its own
        is_in_step = False
        try:
            if self.monotonic() - lane.used_at > _IDLE_MAX_S[form.method]:
                connection.close()
            if connection.is_closed:
                connection.timeout = self._connect_timeout_s
                if connection_requires_http_tunnel(pool.proxy, pool.proxy_config, pool.scheme):
                    pool._prepare_proxy(connection)  # noqa: SLF001 - as above
                else:
                    connection.connect()
            sock = cast("socket.socket", connection.sock)
            _write(sock, _head(form, pool), body, lane.exchange)
            with closing(_TimedAnswer(sock, method=form.method, exchange=lane.exchange)) as response:
                response.begin()
                answer, is_whole = _read_answer(operation, response, max_bytes=max_bytes)
                is_in_step = is_whole and not response.will_close
        finally:
            if not is_in_step or lane.exchange.is_out_of_step:
                connection.close()
            pool._put_conn(connection)  # noqa: SLF001 - as above
        return answer

    def _pool(self, lane: _Lane, origin: str) -> HTTPConnectionPool:
        """Return this thread's connections to a host."""
        if origin not in lane.pools:
            if len(lane.pools) >= _N_HOSTS_MAX:
                lane.close()
            request = requests.Request("GET", origin).prepare()
            is_here = is_loopback_host(urlsplit(origin).hostname or "")
            proxies = {} if is_here else get_environ_proxies(origin)
            found = lane.adapter.get_connection_with_tls_context(request, True, proxies=proxies)
            lane.pools[origin] = cast("HTTPConnectionPool", found)
        return lane.pools[origin]

    def _lane(self) -> _Lane | None:
        """Return this thread's connections, or None when all are closed."""
        lane: _Lane | None = getattr(self._here, "lane", None)
        if lane is not None and lane.pid != os.getpid():
            lane = None  # after a fork, answers could arrive in the wrong process
        if lane is None and not self._is_closed:
            lane = self._here.lane = self._open_lane()
            with self._lock:
                for thread in [thread for thread in self._lanes if not thread.is_alive()]:
                    self._lanes.pop(thread).close()
                self._lanes[threading.current_thread()] = lane
        return None if self._is_closed else lane

    def _open_lane(self) -> _Lane:
        exchange = Exchange(self._read_timeout_s, self._read_timeout_s, allows_private=self.allows_private)
        return _Lane(WatchedAdapter(exchange, self._tls), exchange, self.monotonic(), os.getpid())

    def _tls(self) -> ssl.SSLContext:
        """Return the one TLS context of all connections; made when the first one needs it."""
        with self._lock:
            if self._context is None:
                context = urllib3.util.create_urllib3_context()
                context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # new in Python 3.13; old CAs fail it
                is_folder = Path(self._ca_bundle).is_dir()
                trusted = {"capath" if is_folder else "cafile": self._ca_bundle}
                try:
                    context.load_verify_locations(**trusted)
                except OSError as error:
                    names = " or ".join(_BUNDLE_VARIABLES)
                    raise SettingsError(
                        f"the CA bundle {self._ca_bundle}, set in {names}, can't be used: {error}"
                    ) from None
                self._context = context
            return self._context


@dataclass(slots=True)
class _Lane:
    """The connections of one thread."""

    adapter: WatchedAdapter
    exchange: Exchange
    used_at: float
    pid: int
    pools: dict[str, HTTPConnectionPool] = field(default_factory=dict)

    def close(self) -> None:
        """Close all connections; one in use is closed once its request has ended."""
        self.adapter.close()
        for pool in list(self.pools.values()):
            pool.close()
        self.pools.clear()


def _head(form: Form, pool: HTTPConnectionPool) -> bytes:
    """Return the lines before the body; a proxy without a tunnel gets the whole URL, and its credentials."""
    target, headers = form.target, form.headers
    is_tunnelled = connection_requires_http_tunnel(pool.proxy, pool.proxy_config, pool.scheme)
    if pool.proxy is not None and not is_tunnelled:
        target = f"{form.origin}{target}"
        own = pool.proxy_headers.items()
        headers += "".join(f"{name}: {value}\r\n" for name, value in own).encode("latin-1")
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (form.method.encode(), target.encode("ascii"), headers)


def _write(sock: socket.socket, head: bytes, body: list[bytes], exchange: Exchange) -> None:
    # The connect timeout is too short for sending megabytes over a slow line.
    _set_timeout(sock, exchange.answer_within_s)
    body.insert(0, head)
    if sum(map(len, body)) <= _JOINED_BYTES_MAX:
        body[:] = [b"".join(body)]
    exchange.was_sent = True
    try:
        while body:
            sock.sendall(body.pop(0))
    except OSError as error:
        if error.errno not in _HUNG_UP:
            raise


def _set_timeout(sock: socket.socket, seconds: float) -> None:
    known = sock.gettimeout()
    if known is None or abs(known - seconds) > _TIMEOUT_TOLERANCE * seconds:
        sock.settimeout(seconds)
