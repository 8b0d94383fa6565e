"""One HTTP request at a time, per thread, on `requests`: the only place that touches the network.

What is special about it:

- **One request.** No retries, no redirects, at any level.
- **Connections per thread**, kept alive between requests; one that holds bytes after its answer is closed. A POST never
  goes out on a connection that was idle for more than a second: servers close idle connections (the hastiest in wide
  use after two seconds), and a POST that meets the closing on its way would be one that may have arrived. What remains
  is a server that closes within that second; such a create is reported as possibly arrived, because nobody can tell.
- **No `requests.Session`**: libraries that cache or patch it for a whole process never see our requests.
- **The environment is read once**: proxies per host (never for loopback), the CA bundle. `.netrc` is not read at all,
  it would replace the Authorization header.
- **Answers are bounded** in bytes and in time.
- **Exceptions stay here.** Those of requests carry the request and with it the key, so that they are turned into a
  `Failure` on the spot.

Examples
--------
>>> import requests
>>> transport = Transport(connect_timeout_s=1, read_timeout_s=1)
>>> request = requests.Request("GET", "http://127.0.0.1:9/").prepare()
>>> transport.send("fetch", request, max_bytes=1000).error_class
'unreachable'
>>> transport.close()
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import requests
import urllib3
from requests.utils import get_environ_proxies

from dreamo_batch.errors import SettingsError
from dreamo_batch.service.answer import Answer, read_answer
from dreamo_batch.service.connections import Exchange, WatchedAdapter
from dreamo_batch.service.failures import UNREACHABLE, Failure, Kind, Operation, from_exception
from dreamo_batch.service.settings import is_loopback_host

if TYPE_CHECKING:
    from collections.abc import Callable

POST_IDLE_MAX_S: Final = 1.0
_BUNDLE_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class Transport:
    """Sends prepared requests; safe to share between threads.

    Parameters
    ----------
    connect_timeout_s : float
        Per connection, TLS included, in seconds.
    read_timeout_s : float
        From the end of sending to the end of the answer, in seconds.
    allow_private_links : bool
        Whether what is kept from here may lead to private networks.
    monotonic : callable
        A clock in seconds, for the age of idle connections.

    Raises
    ------
    SettingsError
        The CA bundle that the environment names is not there.

    Examples
    --------
    >>> Transport(connect_timeout_s=5, read_timeout_s=60).close()
    """

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
        """Find out, without connecting, whether a request's proxy and URL can be used.

        Parameters
        ----------
        request : requests.PreparedRequest

        Raises
        ------
        SettingsError
            The environment names a proxy that can't be used.

        Examples
        --------
        >>> transport = Transport(connect_timeout_s=5, read_timeout_s=60)
        >>> transport.check(requests.Request("GET", "https://gateway.example/").prepare())
        >>> transport.close()
        """
        url = str(request.url)
        adapter = WatchedAdapter(Exchange(answer_within_s=0))
        try:
            adapter.get_connection_with_tls_context(request, self._verify, proxies=self._proxies_for(url))
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            host = urlsplit(url).netloc
            raise SettingsError(
                f"the proxy that the environment names for {host} can't be used; check HTTPS_PROXY, HTTP_PROXY, "
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
        """Send one request and read its answer.

        Parameters
        ----------
        operation : {'create', 'fetch', 'precharge', 'download'}
        request : requests.PreparedRequest
            Ready to be sent, key and all.
        max_bytes : int
            Most that the body of a success may hold, in bytes.
        answer_within_s : float, optional
            Seconds from the end of sending to the end of the answer; default: the read timeout.
        is_kept_from_here : bool
            Whether it is refused if its host turns out to be this machine.
        target : str, optional
            Path and query to ask for byte for byte, in place of the request's own.

        Returns
        -------
        Answer or Failure
            An answer whatever its status; a failure if there was none.

        Examples
        --------
        >>> transport = Transport(connect_timeout_s=1, read_timeout_s=1)
        >>> transport.close()
        >>> request = requests.Request("GET", "http://127.0.0.1:9/").prepare()
        >>> transport.send("create", request, max_bytes=1000).message
        'the client is closed; nothing was sent'
        """
        lane = self._lane()
        if lane is None:
            return Failure(Kind.TRANSIENT, UNREACHABLE, message="the client is closed; nothing was sent")
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
        except Exception as error:  # noqa: BLE001 - foreseen or not, it must be known whether the request went out
            return from_exception(operation, error, was_sent=lane.exchange.was_sent)
        except BaseException as interrupt:  # noqa: BLE001 - raised again, without the frames that hold the key
            raise interrupt.with_traceback(None) from None
        finally:
            lane.used_at = self._monotonic()
            if lane.exchange.is_out_of_step:
                lane.adapter.close()

    def close(self) -> None:
        """Close every thread's connections; later requests are refused, those under way are finished.

        Examples
        --------
        >>> Transport(connect_timeout_s=5, read_timeout_s=60).close()
        """
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
        """Give what this thread sends on, or None when all is closed."""
        lane: _Lane | None = getattr(self._here, "lane", None)
        if lane is not None and lane.pid != os.getpid():
            lane = None  # forked off: on the parent's connections its answers could come here, and ours there
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
    """What one thread sends on."""

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
        raise SettingsError(f"{names} names a CA bundle that is not there: {path}")
    return path or True
