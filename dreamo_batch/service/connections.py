"""Connections that know whether a request went out, by when its answer is due, and what is left after it.

Three things that no exception tells. Whether the first byte was sent: urllib3 reports a tunnel that breaks under a
request as a `ProxyError`, and a TLS alert long after the handshake as an `SSLError`, in the same words as before it.
And how long an answer may take in all: the socket's own timeout starts again with every byte, so that a service
which sends one byte a minute would hold a thread for ever. And whether bytes follow an answer: they would be taken
for the next one, so such a connection must not be used again.

Examples
--------
>>> exchange = Exchange(answer_within_s=60)
>>> adapter = WatchedAdapter(exchange)
>>> exchange.was_sent
False
>>> adapter.close()
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

_IPV4: Final = 4
# Addresses that carry another one: NAT64, 6to4, Teredo, and IPv4 in the last bits.
_TUNNELS: Final = tuple(
    map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96"))
)
_N_INTERIM_MAX: Final = 100
# One request is one request: nothing below us repeats it, follows a redirect or sleeps.
_NO_RETRIES: Final = urllib3.Retry(0, read=False, redirect=False, respect_retry_after_header=False)


@dataclass(slots=True)
class Exchange:
    """One request under way on one thread.

    Attributes
    ----------
    answer_within_s : float
        Seconds from the end of sending to the end of the answer.
    was_sent : bool or None
        Whether the first byte went out; None on a SOCKS proxy, whose connections don't tell.
    is_kept_from_here : bool
        Whether a host that turns out to be this machine is refused before a connection. What a proxy connects to is
        the proxy's business.
    allows_private : bool
        Whether a host kept from here may lead to the private networks around it.
    target : str or None
        Path and query to ask for byte for byte, in place of the tidied ones: a signature may cover their spelling.
    is_out_of_step : bool
        Whether bytes came after the answer, or the protocol was switched: no other request may use the connection.

    Examples
    --------
    >>> Exchange(60).was_sent
    False
    """

    answer_within_s: float
    was_sent: bool | None = False
    is_kept_from_here: bool = False
    allows_private: bool = False
    target: str | None = None
    is_out_of_step: bool = False


class WatchedAdapter(HTTPAdapter):
    """requests' own adapter on watched connections; never repeats anything.

    Parameters
    ----------
    exchange : Exchange
        Kept up to date; an adapter and its exchange belong to one thread.

    Examples
    --------
    >>> adapter = WatchedAdapter(Exchange(answer_within_s=60))
    >>> adapter.max_retries.total
    0
    >>> adapter.close()
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        super().__init__(max_retries=_NO_RETRIES)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools, of watched connections."""
        super().init_poolmanager(*args, **kwargs)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Make the pools that go through a proxy, of watched connections as well, save for SOCKS."""
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
    """A connection that notes the moment before the first byte of a request."""

    def __init__(self, *args: Any, exchange: Exchange, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._exchange = exchange
        self.response_class = cast("type[http.client.HTTPResponse]", partial(_TimedAnswer, exchange=exchange))

    def _new_conn(self) -> socket.socket:
        """Look the host up and refuse it before connecting; connect to an address that was looked at, and no other."""
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
            # Through a proxy the host stands before the path.
            origin = "/".join(url.split("/", 3)[:3]) if url.startswith("http") else ""
            url = f"{origin}{self._exchange.target}"
        super().putrequest(method, url, *args, **kwargs)

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        # http.client would connect in the middle of sending; connecting is not sending.
        if self.sock is None:
            self.connect()
        self._exchange.was_sent = True
        # Until here the socket had the connect timeout, which is too short for megabytes on a slow line.
        self.sock.settimeout(self._exchange.answer_within_s)
        super().endheaders(*args, **kwargs)


def why_refused(address: str, *, allows_private: bool) -> str | None:
    """Say why a service elsewhere must not send us to an IP address; None if it may.

    This machine's own addresses and those of its network segment, where clouds keep their secrets, are always refused.

    Examples
    --------
    >>> why_refused("::ffff:127.0.0.1", allows_private=True)
    'the link leads to this machine, and is not followed'
    >>> why_refused("10.1.2.3", allows_private=False)
    'the link leads to a private address, and is not followed; allow_private_links=True allows it'
    >>> why_refused("10.1.2.3", allows_private=True), why_refused("1.1.1.1", allows_private=False)
    (None, None)
    """
    known = ipaddress.ip_address(address.partition("%")[0])
    known = getattr(known, "ipv4_mapped", None) or known
    if known.is_loopback or known.is_link_local or known.is_unspecified or _is_own(known):
        return "the link leads to this machine, and is not followed"
    is_private = not known.is_global or known.is_multicast or any(known in one for one in _TUNNELS)
    if is_private and not allows_private:
        return "the link leads to a private address, and is not followed; allow_private_links=True allows it"
    return None


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether one of this machine's interfaces has the address: it would be reached from itself; nothing is sent."""
    family = socket.AF_INET if address.version == _IPV4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address
    except OSError:  # no way there, so it's not here
        return False


class _WatchedTls(_Watched, HTTPSConnection):
    """The same over TLS, where connecting includes the handshake."""


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class _TimedAnswer(http.client.HTTPResponse):
    """An answer, header and body, that must be whole by a deadline."""

    def __init__(self, sock: socket.socket, *args: Any, exchange: Exchange, **kwargs: Any) -> None:
        super().__init__(cast("socket.socket", _TimedSocket(sock, exchange)), *args, **kwargs)
        self._exchange = exchange

    def begin(self) -> None:
        super().begin()
        # urllib3 would log a malformed head as a warning, with the whole URL, and links are signed.
        self.msg.defects.clear()
        self.msg.set_payload("")

    def _read_status(self) -> tuple[str, int, str]:
        """Skip interim answers: http.client knows only 100, and would take 102 or 103 for the answer itself."""
        for _ in range(_N_INTERIM_MAX):
            told: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]  # not in the stubs
            status = told[1]
            if status == HTTPStatus.SWITCHING_PROTOCOLS:  # never asked for
                self._exchange.is_out_of_step = True
            if status == HTTPStatus.SWITCHING_PROTOCOLS or status >= HTTPStatus.OK:
                return told
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"more than {_N_INTERIM_MAX} interim answers")


class _TimedSocket:
    """The one thing `http.client` asks of a socket to read from: a file."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._sock = sock
        self._exchange = exchange

    def makefile(self, mode: str) -> io.BufferedReader:
        raw = cast("io.RawIOBase", self._sock.makefile(mode, buffering=0))  # type: ignore[call-overload]  # mode is "rb"
        return _AnswerReader(_TimedFile(raw, self._sock, self._exchange.answer_within_s), self._exchange)


class _AnswerReader(io.BufferedReader):
    """Reads one answer, and notes at its end whether bytes had come that belong to none."""

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
            with suppress(TimeoutError):  # and raised below, in words that tell the two apart
                return cast("int | None", self._raw.readinto(buffer))
        is_late = time.monotonic() >= self._until
        raise TimeoutError(
            f"the answer was not whole after {self._within_s:g} s"
            if is_late
            else f"nothing came for {timeout_s:g} s"
        )

    def end(self) -> None:
        """Read no more from the socket."""
        self._is_over = True

    def has_more(self) -> bool:
        """Whether TLS holds bytes back that nobody asked for; urllib3 finds those of the plain socket."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def close(self) -> None:
        self._raw.close()
        super().close()
