"""Fetching a picture from wherever the service says it is: another host, so nothing of ours goes along.

No key, no cookie, no `.netrc`; http and https only, checked again at every redirect; not to this machine or a private
network, where the service is elsewhere; bounded in bytes and in time.
Links are signed, so messages name their host and never their query.

Examples
--------
>>> from dreamo_batch.service.transport import Transport
>>> transport = Transport(connect_timeout_s=1, read_timeout_s=1)
>>> fetch_link(transport, "ftp://o.example/a.png", max_bytes=1000, within_s=5).message
"the link's scheme is 'ftp'; only http and https are fetched"
>>> transport.close()
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urljoin, urlsplit

import requests

from dreamo_batch.service.connections import why_refused
from dreamo_batch.service.failures import (
    REDIRECTED,
    REJECTED,
    UNREADABLE,
    Failure,
    Kind,
    from_exception,
    from_response,
)
from dreamo_batch.service.settings import is_loopback_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.service.answer import Answer
    from dreamo_batch.service.transport import Transport

logger = logging.getLogger(__name__)

N_REDIRECTS_MAX: Final = 5
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_HEADERS: Final = {
    "User-Agent": "dreamo-batch",
    "Accept": "image/*, */*;q=0.5",
    "Accept-Encoding": "identity",
}


def fetch_link(
    transport: Transport,
    url: str,
    *,
    max_bytes: int,
    within_s: float,
    home: str | None = None,
    redact: Callable[[str], str] = str,
    monotonic: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> bytes | Failure:
    """Fetch what a link points to.

    Parameters
    ----------
    transport : Transport
        One that is used for links only, so that its connections never carried the key.
    url : str
        http or https, without user information.
    max_bytes : int
        Most that is read, in bytes; what is longer is refused, not cut.
    within_s : float
        Seconds for all of it, redirects included.
    home : str, optional
        Host and port of a service elsewhere: a link that leads to this machine is refused, unless it is to there.
    redact : callable
        Masks the key in a link, should the service or a redirect have put it there.
    monotonic : callable
        A clock in seconds.
    wall : callable
        Unix seconds, for a `Retry-After` that names a date.

    Returns
    -------
    bytes or Failure
        The content, not looked at; or why there is none.

    Examples
    --------
    >>> from dreamo_batch.service.transport import Transport
    >>> transport = Transport(connect_timeout_s=1, read_timeout_s=1)
    >>> fetch_link(transport, "https://me:secret@o.example/", max_bytes=1000, within_s=5).kind
    <Kind.PERMANENT: 'permanent'>
    >>> transport.close()
    """
    until = monotonic() + within_s
    url = redact(url)
    for _ in range(N_REDIRECTS_MAX + 1):
        request = _request(url)
        if isinstance(request, Failure):
            return request
        is_kept_from_here = home not in (None, urlsplit(url).netloc)
        refusal = _why_refused(url, transport) if is_kept_from_here else None
        if refusal is not None:
            return Failure(Kind.PERMANENT, REJECTED, message=refusal)
        logger.debug("fetching %s", url)
        left_s = max(until - monotonic(), 0.001)
        answer = transport.send(
            "download",
            request,
            max_bytes=max_bytes,
            answer_within_s=left_s,
            is_kept_from_here=is_kept_from_here,
            target=_as_written(url),
        )
        target = _target(url, answer)
        if target is None:
            return _content(answer, wall())
        url = redact(target)
    return Failure(
        Kind.PERMANENT, REDIRECTED, message=f"the link was redirected more than {N_REDIRECTS_MAX} times"
    )


def _request(url: str) -> requests.PreparedRequest | Failure:
    """Build the request; one for a link that must not be followed is a failure."""
    try:
        parts = urlsplit(url)
        refusal = _refusal(parts.scheme, parts.netloc)
        return refusal or requests.Request("GET", url, headers=_HEADERS).prepare()
    except (ValueError, requests.RequestException) as error:
        failure = from_exception("download", error, was_sent=False)
    return replace(failure, kind=Kind.PERMANENT, error_class=REJECTED, is_outage=False)


def _why_refused(url: str, transport: Transport) -> str | None:
    """Look at an address in the link itself, which a proxy would connect to; names are looked up by who connects."""
    host = urlsplit(url).hostname or ""
    try:
        return why_refused(host, allows_private=transport.allows_private)
    except ValueError:
        return why_refused("127.0.0.1", allows_private=False) if is_loopback_host(host) else None


def _as_written(url: str) -> str:
    """Give path and query byte for byte as the service wrote them; only what HTTP can't carry is quoted."""
    behind_host = url.partition("://")[2].partition("#")[0]
    start = min((at for at in map(behind_host.find, "/?") if at >= 0), default=len(behind_host))
    target = quote(behind_host[start:], safe="".join(map(chr, range(0x21, 0x7F))))
    return target if target.startswith("/") else f"/{target}"


def _refusal(scheme: str, netloc: str) -> Failure | None:
    if scheme not in ("http", "https"):
        words = f"the link's scheme is {scheme!r}; only http and https are fetched"
    elif "@" in netloc:
        words = "the link carries user information, which is never sent"
    else:
        return None
    return Failure(Kind.PERMANENT, REJECTED, message=words)


def _target(url: str, answer: Answer | Failure) -> str | None:
    """Give where a redirect points to, or None if there is nothing to follow."""
    if isinstance(answer, Failure) or answer.status not in _REDIRECTS:
        return None
    # Latin-1 is how http.client reads headers, UTF-8 is what servers put there.
    location = (answer.headers.get("Location") or "").encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        return urljoin(url, location) if location else None
    except ValueError:
        return location  # refused when it is to be followed


def _content(answer: Answer | Failure, now: float) -> bytes | Failure:
    if isinstance(answer, Failure):
        return answer
    if not answer.is_success:
        return from_response("download", answer.status, answer.headers, answer.body, now=now)
    if answer.broken is None:
        return answer.body
    is_too_long = answer.broken.error_class == UNREADABLE
    return replace(answer.broken, kind=Kind.PERMANENT) if is_too_long else answer.broken
