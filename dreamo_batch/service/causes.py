"""What an exception of requests, urllib3 or the standard library proves about the request.

Only the end of a chain tells: requests wraps urllib3 wraps the socket's own error, and a `ProxyError` or `SSLError`
alone says nothing about *when*: a tunnel that breaks after the request went out is reported as a `ProxyError` too.

Examples
--------
>>> import requests
>>> proves_no_connection(requests.ConnectTimeout()), proves_no_connection(requests.exceptions.ProxyError())
(True, False)
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import traceback
from typing import TYPE_CHECKING, Final, Literal

import requests
import urllib3

from dreamo_batch.errors import KeyMissing, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

Lasting = Literal["certificate", "host", "proxy", "scheme"]

REASON_CHARACTERS_MAX: Final = 300

_NEVER_CONNECTED: Final = (
    requests.exceptions.ConnectTimeout,
    urllib3.exceptions.ConnectTimeoutError,  # with NewConnectionError and NameResolutionError below it
    socket.gaierror,
    ConnectionRefusedError,
    ssl.SSLCertVerificationError,  # certificates are looked at in the handshake, before any request
)
_NEVER_BUILT: Final = (
    requests.exceptions.URLRequired,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidHeader,
    urllib3.exceptions.LocationValueError,
    urllib3.exceptions.InvalidHeader,
    urllib3.exceptions.ProxySchemeUnsupported,
    http.client.InvalidURL,
    UnicodeEncodeError,
    UsageError,
    KeyMissing,
)
_WRONG_SCHEME: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"}
)
# http.client tells the proxy's status in words only.
_REFUSED_BY_PROXY: Final = re.compile(r"Tunnel connection failed: 40[0-9]")
_FAULTS_OF_THE_LINE: Final = (
    OSError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
)
_MODULES: Final = re.compile(r"^(?:\w+\.)+(?=\w+(?::|$))")
# Links to pictures are signed: who has the query has the picture.
_QUERY: Final = re.compile(r"(https?://[^\s?'\"<>]*|/[^\s?'\"<>]*)\?[^\s'\"<>)]*")


def proves_no_connection(exception: BaseException) -> bool:
    """Whether the exception can only be raised while no connection is made yet.

    Parameters
    ----------
    exception : BaseException

    Returns
    -------
    bool

    Examples
    --------
    >>> proves_no_connection(ConnectionResetError())
    False
    """
    return any(isinstance(one, _NEVER_CONNECTED) for one in _chain(exception))


def proves_no_request(exception: BaseException) -> bool:
    """Whether the request could not even be built, so that it will fail again.

    Parameters
    ----------
    exception : BaseException

    Returns
    -------
    bool

    Examples
    --------
    >>> proves_no_request(requests.exceptions.InvalidURL())
    True
    """
    return any(isinstance(one, _NEVER_BUILT) for one in _chain(exception))


def lasting(exception: BaseException) -> Lasting | None:
    """Name the cause of a failed connection if waiting doesn't mend it.

    Parameters
    ----------
    exception : BaseException

    Returns
    -------
    {'certificate', 'host', 'proxy', 'scheme'} or None

    Examples
    --------
    >>> lasting(requests.ConnectionError(socket.gaierror(-2, "Name or service not known")))
    'host'
    >>> lasting(ConnectionRefusedError()) is None
    True
    """
    for one in _chain(exception):
        if isinstance(one, ssl.SSLCertVerificationError):
            return "certificate"
        if isinstance(one, socket.gaierror):
            return "host"
        if isinstance(one, ssl.SSLError) and getattr(one, "reason", None) in _WRONG_SCHEME:
            return "scheme"
        if type(one) is OSError and _REFUSED_BY_PROXY.search(str(one)):
            return "proxy"
    return None


def is_fault_of_the_line(exception: BaseException) -> bool:
    """Whether it is the network's or the service's doing, not a mistake in building the request.

    Parameters
    ----------
    exception : BaseException

    Returns
    -------
    bool

    Examples
    --------
    >>> is_fault_of_the_line(BrokenPipeError()), is_fault_of_the_line(TypeError())
    (True, False)
    """
    return isinstance(exception, _FAULTS_OF_THE_LINE) and not proves_no_request(exception)


def reason(exception: BaseException) -> str:
    """Say in a line what was at the bottom of it.

    Parameters
    ----------
    exception : BaseException

    Returns
    -------
    str
        Class and words of the innermost exception, without the query of any URL, at most 300 characters.

    Examples
    --------
    >>> reason(requests.ConnectionError(ConnectionResetError(104, "Connection reset by peer")))
    'ConnectionResetError: [Errno 104] Connection reset by peer'
    """
    *_, innermost = _chain(exception)
    # The standard formatter, because some exceptions of http.client fail at their own str().
    words = " ".join(traceback.format_exception_only(innermost)[-1].split())
    return without_query(_MODULES.sub("", words))[:REASON_CHARACTERS_MAX]


def without_query(words: str) -> str:
    """Cut the query off every URL in a text.

    Parameters
    ----------
    words : str

    Returns
    -------
    str

    Examples
    --------
    >>> without_query("GET https://o.example/a.png?signature=abc failed")
    'GET https://o.example/a.png failed'
    """
    return _QUERY.sub(r"\1", words)


def _chain(exception: BaseException) -> Iterator[BaseException]:
    """Go from the outermost to the innermost; wrapped ones hide in many places."""
    seen: set[int] = set()
    current: BaseException | None = exception
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = _wrapped_in(current)


def _wrapped_in(exception: BaseException) -> BaseException | None:
    places = (
        getattr(exception, "reason", None),
        getattr(exception, "original_error", None),
        *exception.args,
        exception.__cause__,
        exception.__context__,
    )
    return next((one for one in places if isinstance(one, BaseException)), None)
