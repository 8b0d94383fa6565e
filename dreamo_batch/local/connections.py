"""The gateway's side of its connections: found by address, so that a fault can close them, and frugal in writing.

Examples
--------
>>> issubclass(protocol_of({}), asyncio.Protocol)
True
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, TypeAlias

from uvicorn.protocols.http.h11_impl import H11Protocol

# Open connections by the address of the client.
Transports: TypeAlias = dict[tuple[str, int] | None, asyncio.Transport]


def protocol_of(transports: Transports) -> type[H11Protocol]:
    """Make a protocol class whose connections can be found.

    Parameters
    ----------
    transports : dict
        Where open connections are entered, and left out again once they are closed.

    Returns
    -------
    type
        For uvicorn's `http` setting.

    Examples
    --------
    >>> issubclass(protocol_of({}), H11Protocol)
    True
    """

    class FindableProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # h11's is narrower
            # asyncio does this only for sockets that it has made itself; without it, answers may wait 40 ms.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            joined = JoinedWrites(transport)
            super().connection_made(joined)
            transports[self.client] = joined

        def connection_lost(self, exc: Exception | None) -> None:
            transports.pop(self.client, None)
            super().connection_lost(exc)

    return FindableProtocol


class JoinedWrites(asyncio.Transport):
    """A transport that sends what is written in one go together: uvicorn writes head and body apart.

    Half the system calls, on both ends, are worth a fifth of a request.

    Parameters
    ----------
    transport : asyncio.Transport
        What really sends.

    Examples
    --------
    >>> issubclass(JoinedWrites, asyncio.Transport)
    True
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes | bytearray | memoryview[Any]] = []

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send with whatever else is written before the loop comes round."""
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(data)

    def close(self) -> None:
        """Send what waits, and close."""
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Tell whether the connection is closing or closed."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Stop reading."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Tell of the socket and its addresses."""
        return self._transport.get_extra_info(name, default)

    def _send(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            # Not by writelines(): since Python 3.12 a loop spins for ever over an empty part, such as uvicorn writes.
            self._transport.write(b"".join(waiting))
