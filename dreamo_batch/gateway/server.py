"""The HTTP server of the local gateway: uvicorn in a thread, with connections that a fault can find and close."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import ASGIApp


T = TypeVar("T")
# Open connections by the address of the client.
Transports: TypeAlias = "dict[tuple[str, int] | None, JoinedWrites]"

BACKLOG: Final = 2048
# Long enough that no idle connection is closed just as a client sends a create on it.
KEEP_ALIVE_S: Final = 3600
# What a request under way may still take when the server stops.
GRACE_S: Final = 0.1


class JoinedWrites:
    """A transport that sends in one go what is written in one go: uvicorn writes head and body apart.

    Half the system calls, on both ends, save a fifth of a request.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes | bytearray | memoryview[Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send together with whatever else is written in this round of the loop."""
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(data)

    def close(self) -> None:
        """Send what waits, and close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            # Not by writelines(): since Python 3.12 a loop spins for ever over an empty part, such as uvicorn writes.
            self._transport.write(b"".join(waiting))


def _protocol_of(transports: Transports) -> type[H11Protocol]:
    """Make a protocol class whose connections can be found."""

    class FindableProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # h11's is narrower
            # asyncio does this only for sockets that it has made itself; without it, answers may wait 40 ms.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            joined = JoinedWrites(transport)
            super().connection_made(joined)  # type: ignore[arg-type]  # it has the methods of a transport
            transports[self.client] = joined

        def connection_lost(self, exc: Exception | None) -> None:
            transports.pop(self.client, None)
            super().connection_lost(exc)

    return FindableProtocol


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket and listen, so that the address is known and clients can connect."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


class ThreadedServer(uvicorn.Server):
    """Serves an application from a thread, without uvicorn's ticks: it sleeps until it has to leave, then leaves."""

    _loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        transports: Transports,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=_protocol_of(transports),
            loop="asyncio",
            lifespan="off",
            ws="none",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        super().__init__(config)
        self._sock = sock
        self._transports = transports
        self._on_start = on_start
        self._on_stop = on_stop
        self._leaving = asyncio.Event()
        self._is_settled = threading.Event()
        self._trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="local-gateway", daemon=True)

    def start(self) -> None:
        """Start the thread; on return the server accepts requests."""
        self._thread.start()
        self._is_settled.wait()
        if not self.started:
            raise RuntimeError("The local gateway did not start.") from self._trouble

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._loop.call_soon_threadsafe(self._leaving.set)
        self._thread.join()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _run(self) -> None:
        try:
            asyncio.run(self.serve(sockets=[self._sock]))
        # Raised by `start`, in the thread that can do something about it.
        except BaseException as trouble:  # noqa: BLE001
            self._trouble = trouble
        finally:
            self._on_stop()
            self._sock.close()
            self._is_settled.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and let `start` return."""
        self._on_start()
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._is_settled.set()

    async def main_loop(self) -> None:
        """Sleep."""
        await self._leaving.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's
        """Close every connection."""
        # Accepted connections get their transport before the listening sockets are closed: asyncio would lose them.
        for server in self.servers:
            for sock in server.sockets:
                self._loop.remove_reader(sock.fileno())
        await asyncio.sleep(0)  # a connection accepted in this round gets its transport in the next
        for server in self.servers:
            server.close()
        requests = self.server_state.tasks
        if requests:
            await asyncio.wait(requests, timeout=GRACE_S)
        for request in requests:
            request.cancel()
        for transport in list(self._transports.values()):
            transport.abort()
