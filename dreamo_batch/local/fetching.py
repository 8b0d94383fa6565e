"""Fetch a reference from its URL: http and https only, with an end to bytes, time and redirects.

Examples
--------
>>> import asyncio
>>> asyncio.run(fetch("http://127.0.0.1:1/a.jpg", max_bytes=1000, timeout_s=5.0))
Traceback (most recent call last):
...
dreamo_batch.local.fetching.FetchFailed: HTTP error response: the image URL can't be reached
"""

from __future__ import annotations

import asyncio
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import h11

from dreamo_batch.local.fields import Refused, check_url

N_REDIRECTS = 3
CHUNK_BYTES = 65_536
_REDIRECTS = (301, 302, 303, 307, 308)
_OK = 200
_KEPT = "%/:=&?~#+!$,;'@()*[]"


class FetchFailed(Exception):  # noqa: N818 - it names what happened, in the service's own words
    """A reference can't be had from its URL.

    Examples
    --------
    >>> str(FetchFailed("404 from the image URL"))
    'HTTP error response: 404 from the image URL'
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"HTTP error response: {what}")


async def fetch(url: str, *, max_bytes: int, timeout_s: float) -> bytes:
    """Fetch a file.

    Parameters
    ----------
    url : str
        http or https, the redirects included.
    max_bytes : int
        The most that is read.
    timeout_s : float
        Seconds for all of it.

    Returns
    -------
    bytes
        At most `max_bytes`.

    Raises
    ------
    FetchFailed
        If it can't be had within these limits.

    Examples
    --------
    >>> asyncio.run(fetch("ftp://example.org/a.jpg", max_bytes=1000, timeout_s=5.0))
    Traceback (most recent call last):
    ...
    dreamo_batch.local.fetching.FetchFailed: HTTP error response: the image URL leads to one that ...
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _follow(url, max_bytes)
    except TimeoutError:
        raise FetchFailed(f"the image URL gave no picture within {timeout_s:g} s") from None
    except (OSError, UnicodeError, h11.ProtocolError):
        raise FetchFailed("the image URL can't be reached") from None


async def _follow(url: str, max_bytes: int) -> bytes:
    for _ in range(N_REDIRECTS + 1):
        try:
            check_url(url)
        except Refused:
            raise FetchFailed("the image URL leads to one that is not http or https") from None
        content = await _get(urlsplit(url), max_bytes)
        if isinstance(content, bytes):
            return content
        url = urljoin(url, content)
    raise FetchFailed(f"the image URL redirects more than {N_REDIRECTS} times")


async def _get(url: SplitResult, max_bytes: int) -> bytes | str:
    """Give the content, or where it has gone."""
    is_https = url.scheme == "https"
    port = url.port or (443 if is_https else 80)
    reader, writer = await asyncio.open_connection(url.hostname, port, ssl=is_https or None)
    try:
        connection = h11.Connection(our_role=h11.CLIENT)
        writer.write(_question(connection, url))
        return await _answer(connection, reader, max_bytes)
    finally:
        writer.transport.abort()


def _question(connection: h11.Connection, url: SplitResult) -> bytes:
    # What is not ASCII is escaped, what is escaped stays.
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    host = url.netloc.encode("idna").decode()
    headers: list[tuple[str, str]] = [
        ("Host", host),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    request = h11.Request(method="GET", target=quote(target, safe=_KEPT), headers=headers)
    return (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader, max_bytes: int) -> bytes | str:
    content = bytearray()
    while True:
        event = await _next_event(connection, reader)
        if isinstance(event, h11.Response) and (gone_to := _judge(event)) is not None:
            return gone_to
        if isinstance(event, h11.Data):
            content += event.data
        if len(content) > max_bytes:
            raise FetchFailed(f"the image URL gives more than {max_bytes} bytes")
        if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return bytes(content)


def _judge(response: h11.Response) -> str | None:
    headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
    if response.status_code in _REDIRECTS and b"location" in headers:
        return headers[b"location"]
    if response.status_code != _OK:
        raise FetchFailed(f"{response.status_code} from the image URL")
    # None was asked for, and what unpacks to gigabytes is not to be unpacked.
    if headers.get(b"content-encoding", "identity") != "identity":
        raise FetchFailed("the image URL answers with a packed body")
    return None


async def _next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(CHUNK_BYTES))
    return event
