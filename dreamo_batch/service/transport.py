"""Send one request and read its answer, knowing whether the request left this machine."""

from __future__ import annotations

import http.client
import io
import ipaddress
import os
import socket
import ssl
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.connection import HTTPConnection, HTTPSConnection

from dreamo_batch.errors import SettingsError
from dreamo_batch.service.config import is_loopback_host
from dreamo_batch.service.failures import (
    UNREACHABLE,
    UNREADABLE,
    Failure,
    FailureKind,
    Operation,
    from_exception,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


ERROR_BYTES_MAX: Final = 64 * 1024
_PIECE_BYTES: Final = 64 * 1024


class AnswerTooLong(urllib3.exceptions.HTTPError):
    """An answer is longer than allowed, as received or unpacked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; its repr shows only the status, because answers may repeat the key."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    broken: Failure | None = field(default=None, repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


def read_answer(operation: Operation, response: requests.Response, *, max_bytes: int) -> Answer:
    """Read an answer, with a limit on its size."""
    answer = Answer(response.status_code, response.headers, b"")
    pieces: list[bytes] = []
    try:
        if answer.is_success:
            _collect(response.raw, pieces, max_bytes)
        else:
            _collect_beginning(response.raw, pieces)
    except Exception as error:  # noqa: BLE001 - whatever breaks a body, the status still counts
        answer = replace(answer, broken=_broken(operation, error, answer))
    return replace(answer, body=b"".join(pieces))


def _collect(raw: urllib3.HTTPResponse, pieces: list[bytes], max_bytes: int) -> None:
    if (raw.length_remaining or 0) > max_bytes:
        raise AnswerTooLong(f"the answer has {raw.length_remaining} bytes; the limit is {max_bytes} bytes")
    n_bytes = 0
    # read1 returns what has arrived, so that what came before a break is kept.
    while piece := raw.read1(_PIECE_BYTES, decode_content=True):
        n_bytes += len(piece)
        if n_bytes > max_bytes:
            raise AnswerTooLong(f"the answer is longer than the limit of {max_bytes} bytes")
        pieces.append(piece)


def _collect_beginning(raw: urllib3.HTTPResponse, pieces: list[bytes]) -> None:
    left_bytes = ERROR_BYTES_MAX
    while left_bytes > 0 and (piece := raw.read1(left_bytes, decode_content=True)):
        left_bytes -= len(piece)
        pieces.append(piece)


def _broken(operation: Operation, error: Exception, answer: Answer) -> Failure | None:
    if not answer.is_success:
        return None
    failure = replace(from_exception(operation, error, was_sent=True), http_status=answer.status)
    if isinstance(error, AnswerTooLong | urllib3.exceptions.DecodeError):
        return replace(failure, error_class=UNREADABLE, is_outage=False)
    return failure


_IPV4: Final = 4
# Addresses that contain another one: NAT64, 6to4, Teredo, and IPv4 in the last bits.
_TUNNELS: Final = tuple(
    map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96"))
)
_N_INTERIM_MAX: Final = 100
# One request is one request: no library repeats it, follows a redirect or sleeps.
_NO_RETRIES: Final = urllib3.Retry(0, read=False, redirect=False, respect_retry_after_header=False)


@dataclass(slots=True)
class Exchange:
    """One request in progress on one thread."""

    answer_within_s: float
    was_sent: bool | None = False
    is_kept_from_here: bool = False
    allows_private: bool = False
    target: str | None = None
    is_out_of_step: bool = False


class WatchedAdapter(HTTPAdapter):
    """The adapter of requests on watched connections; never repeats anything."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        super().__init__(max_retries=_NO_RETRIES)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pools of watched connections."""
        super().init_poolmanager(*args, **kwargs)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Create the pools through a proxy, watched as well, except for SOCKS."""
        manager = super().proxy_manager_for(*args, **kwargs)
        if isinstance(manager, urllib3.ProxyManager):
            self._watch(manager)
        else:
            self._exchange.was_sent = None
        return manager

    def _watch(self, manager: urllib3.PoolManager) -> None:
        pools = {"http": _PlainPool, "https": _TlsPool}
        watched = {scheme: partial(pool, exchange=self._exchange) for scheme, pool in pools.items()}
        manager.pool_classes_by_scheme = cast("dict[str, type[urllib3.HTTPConnectionPool]]", watched)


class _Watched(HTTPConnection):
    """A connection that records when a request begins to be sent."""

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
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        for address in addresses:
            refusal = why_refused(address, allows_private=self._exchange.allows_private)
            if refusal is not None:
                raise urllib3.exceptions.LocationValueError(refusal)
        try:
            return self._connect_to_one_of(addresses)
        finally:
            self._dns_host = host

    def _connect_to_one_of(self, addresses: list[str]) -> socket.socket:
        *others, last = addresses
        for address in others:
            self._dns_host = address
            with suppress(urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
                return super()._new_conn()
        self._dns_host = last
        return super()._new_conn()

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        if self._exchange.target is not None:
            # Through a proxy, the host precedes the path.
            origin = "/".join(url.split("/", 3)[:3]) if url.startswith("http") else ""
            url = f"{origin}{self._exchange.target}"
        super().putrequest(method, url, *args, **kwargs)

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        # http.client would connect in the middle of sending; connecting is not sending.
        if self.sock is None:
            self.connect()
        self._exchange.was_sent = True
        # The connect timeout is too short for sending megabytes on a slow line.
        self.sock.settimeout(self._exchange.answer_within_s)
        super().endheaders(*args, **kwargs)


def why_refused(address: str, *, allows_private: bool) -> str | None:
    """Return why a remote service's link must not lead to an IP address; None if it may.

    This machine's addresses and those of its network segment, where clouds keep their secrets, are always refused.
    """
    known = ipaddress.ip_address(address.partition("%")[0])
    known = getattr(known, "ipv4_mapped", None) or known
    if known.is_loopback or known.is_link_local or known.is_unspecified or _is_own(known):
        return "the link leads to this machine; not followed"
    is_private = not known.is_global or known.is_multicast or any(known in one for one in _TUNNELS)
    if is_private and not allows_private:
        return "the link leads to a private address; not followed. Pass allow_private_links=True to allow it"
    return None


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether the address is one of this machine's: it would be reached from itself. Nothing is sent."""
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
        super().__init__(cast("socket.socket", _TimedSocket(sock, exchange)), *args, **kwargs)
        self._exchange = exchange

    def begin(self) -> None:
        super().begin()
        # urllib3 would log a malformed header as a warning, with the whole signed URL.
        self.msg.defects.clear()
        self.msg.set_payload("")

    def _read_status(self) -> tuple[str, int, str]:
        """Skip interim answers: http.client knows only 100, and would read 102 or 103 as the final answer."""
        for _ in range(_N_INTERIM_MAX):
            line: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]  # not in the stubs
            status = line[1]
            if status == HTTPStatus.SWITCHING_PROTOCOLS:  # never asked for
                self._exchange.is_out_of_step = True
            if status == HTTPStatus.SWITCHING_PROTOCOLS or status >= HTTPStatus.OK:
                return line
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"more than {_N_INTERIM_MAX} interim answers")


class _TimedSocket:
    """What `http.client` needs of a socket for reading: a file."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._sock = sock
        self._exchange = exchange

    def makefile(self, mode: str) -> io.BufferedReader:
        raw = cast("io.RawIOBase", self._sock.makefile(mode, buffering=0))  # type: ignore[call-overload]  # mode is "rb"
        return _AnswerReader(_TimedFile(raw, self._sock, self._exchange.answer_within_s), self._exchange)


class _AnswerReader(io.BufferedReader):
    """Reads one answer, and records at its end whether more bytes had arrived."""

    def __init__(self, raw: _TimedFile, exchange: Exchange) -> None:
        super().__init__(raw)
        self._timed = raw
        self._exchange = exchange

    def close(self) -> None:
        if not self.closed:
            self._timed.end()
            self._exchange.is_out_of_step |= bool(self.peek(1)) or self._timed.has_more()
        super().close()


class _TimedFile(io.RawIOBase):
    """A socket's file whose reads all share one deadline."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, within_s: float) -> None:
        self._raw = raw
        self._sock = sock
        self._within_s = within_s
        self._until = time.monotonic() + within_s
        self._is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._is_over:
            return 0
        left_s = self._until - time.monotonic()
        timeout_s = min(left_s, self._sock.gettimeout() or left_s)
        if left_s > 0:
            self._sock.settimeout(timeout_s)
            with suppress(TimeoutError):  # raised below, in words that distinguish the two timeouts
                return cast("int | None", self._raw.readinto(buffer))
        is_late = time.monotonic() >= self._until
        raise TimeoutError(
            f"the answer was incomplete after {self._within_s:g} s"
            if is_late
            else f"nothing arrived for {timeout_s:g} s"
        )

    def end(self) -> None:
        """Stop reading from the socket."""
        self._is_over = True

    def has_more(self) -> bool:
        """Return whether TLS has buffered surplus bytes; urllib3 finds those of a plain socket."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def close(self) -> None:
        self._raw.close()
        super().close()


POST_IDLE_MAX_S: Final = 1.0
_BUNDLE_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class Transport:
    """Sends prepared requests; safe to share between threads."""

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        allow_private_links: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.allows_private: Final = allow_private_links
        self._timeout_s = (connect_timeout_s, read_timeout_s)
        self._monotonic = monotonic
        self._verify = _ca_bundle()
        self._proxies: dict[tuple[str, str], dict[str, str]] = {}
        self._here = threading.local()
        self._lanes: dict[threading.Thread, _Lane] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def check(self, request: requests.PreparedRequest) -> None:
        """Check, without connecting, that a request's proxy and URL can be used."""
        url = str(request.url)
        adapter = WatchedAdapter(Exchange(answer_within_s=0))
        try:
            adapter.get_connection_with_tls_context(request, self._verify, proxies=self._proxies_for(url))
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            host = urlsplit(url).netloc
            raise SettingsError(
                f"the proxy set in the environment for {host} can't be used; check HTTPS_PROXY, HTTP_PROXY, "
                "ALL_PROXY and NO_PROXY (SOCKS needs the package PySocks)"
            ) from None
        finally:
            adapter.close()

    def send(
        self,
        operation: Operation,
        request: requests.PreparedRequest,
        *,
        max_bytes: int,
        answer_within_s: float | None = None,
        is_kept_from_here: bool = False,
        target: str | None = None,
    ) -> Answer | Failure:
        """Send one request and read its answer."""
        lane = self._lane()
        if lane is None:
            return Failure(
                FailureKind.TRANSIENT, UNREACHABLE, message="the client is closed; nothing was sent"
            )
        lane.exchange.answer_within_s = answer_within_s or self._timeout_s[1]
        lane.exchange.was_sent = False
        lane.exchange.is_kept_from_here = is_kept_from_here
        lane.exchange.allows_private = self.allows_private
        lane.exchange.target = target
        lane.exchange.is_out_of_step = False
        if request.method == "POST" and self._monotonic() - lane.used_at > POST_IDLE_MAX_S:
            lane.adapter.close()
        try:
            with closing(self._response(lane, request)) as response:
                return read_answer(operation, response, max_bytes=max_bytes)
        except Exception as error:  # noqa: BLE001 - whatever happens, it must be known whether the request was sent
            return from_exception(operation, error, was_sent=lane.exchange.was_sent)
        except BaseException as interrupt:  # noqa: BLE001 - raised again, without the frames that hold the key
            raise interrupt.with_traceback(None) from None
        finally:
            lane.used_at = self._monotonic()
            if lane.exchange.is_out_of_step:
                lane.adapter.close()

    def close(self) -> None:
        """Close every thread's connections; later requests are refused, those in progress are finished."""
        with self._lock:
            self._is_closed = True
            lanes = list(self._lanes.values())
            self._lanes.clear()
        for lane in lanes:
            lane.adapter.close()

    def _response(self, lane: _Lane, request: requests.PreparedRequest) -> requests.Response:
        return lane.adapter.send(
            request,
            stream=True,
            timeout=self._timeout_s,
            verify=self._verify,
            proxies=self._proxies_for(str(request.url)),
        )

    def _proxies_for(self, url: str) -> dict[str, str]:
        parts = urlsplit(url)
        origin = (parts.scheme, parts.netloc)
        if origin not in self._proxies:
            is_loopback = is_loopback_host(parts.hostname or "")
            self._proxies[origin] = {} if is_loopback else dict(get_environ_proxies(url))
        return self._proxies[origin]

    def _lane(self) -> _Lane | None:
        """Return this thread's connections, or None when all are closed."""
        lane: _Lane | None = getattr(self._here, "lane", None)
        if lane is not None and lane.pid != os.getpid():
            lane = None  # forked: answers could arrive in the wrong process
        if lane is None and not self._is_closed:
            lane = self._here.lane = _open_lane(self._timeout_s[1], self._monotonic())
            with self._lock:
                self._close_lanes_of_dead_threads()
                self._lanes[threading.current_thread()] = lane
        return None if self._is_closed else lane

    def _close_lanes_of_dead_threads(self) -> None:
        for thread in [one for one in self._lanes if not one.is_alive()]:
            self._lanes.pop(thread).adapter.close()


@dataclass(slots=True)
class _Lane:
    """The connections of one thread."""

    adapter: WatchedAdapter
    exchange: Exchange
    used_at: float
    pid: int


def _open_lane(answer_within_s: float, now: float) -> _Lane:
    exchange = Exchange(answer_within_s)
    return _Lane(WatchedAdapter(exchange), exchange, now, os.getpid())


def _ca_bundle() -> str | bool:
    path = next(filter(None, map(os.environ.get, _BUNDLE_VARIABLES)), None)
    if path is not None and not Path(path).exists():
        names = " or ".join(_BUNDLE_VARIABLES)
        raise SettingsError(f"no CA bundle at {path}, set in {names}")
    return path or True
