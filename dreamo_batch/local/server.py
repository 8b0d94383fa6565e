"""uvicorn in a thread of its own: ready when `start` returns, gone a moment after `stop`.

It has its own event loop, so it runs beside one that is running already, as in a notebook.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn

from dreamo_batch.local.connections import Transports, protocol_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import ASGIApp

T = TypeVar("T")

BACKLOG = 2048
# Long enough that no idle connection is closed just as a client sends an order on it.
KEEP_ALIVE_S = 3600
# What a request under way may still take when the server stops.
GRACE_S = 0.1


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket and begin to listen, so that the address is known and clients may already come.

    Parameters
    ----------
    host : str
        Address of this machine.
    port : int
        0 for any that is free.

    Returns
    -------
    socket.socket

    Raises
    ------
    OSError
        If the address can't be had.

    Examples
    --------
    >>> with listen("127.0.0.1", 0) as sock:
    ...     sock.getsockname()[1] > 0
    True
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


class ThreadedServer:
    """Serves an application from a thread.

    Parameters
    ----------
    app : callable
        The ASGI application.
    sock : socket.socket
        Bound and listening; closed with the server.
    transports : dict
        Where the open connections are entered.
    on_start, on_stop : callable
        Called in the server's thread before the first and after the last request.

    Examples
    --------
    >>> async def app(scope, receive, send):
    ...     await send({"type": "http.response.start", "status": 204})
    ...     await send({"type": "http.response.body"})
    >>> server = ThreadedServer(app, listen("127.0.0.1", 0), {}, on_start=lambda: None, on_stop=lambda: None)
    >>> server.start()
    >>> server.stop()
    """

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
            http=protocol_of(transports),
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
        self._server = _Server(config, transports, on_start)
        self._on_stop = on_stop
        self._sock = sock
        self._thread = threading.Thread(target=self._run, name="local-gateway", daemon=True)

    def start(self) -> None:
        """Serve from now on.

        Raises
        ------
        RuntimeError
            If the server's thread ended instead.
        """
        self._thread.start()
        self._server.is_settled.wait()
        if self._server.loop is None:
            raise RuntimeError("The local gateway did not start.") from self._server.trouble
        self._loop = self._server.loop

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._loop.call_soon_threadsafe(self._server.leave)
        self._thread.join()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's event loop and give its result.

        Parameters
        ----------
        coroutine : coroutine
            What is to run.

        Returns
        -------
        object
            What it returns.
        """
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._server.serve(sockets=[self._sock]))
        # Told by `start`, in the thread that can do something about it.
        except BaseException as trouble:  # noqa: BLE001
            self._server.trouble = trouble
        finally:
            self._on_stop()
            self._sock.close()
            self._server.is_settled.set()


class _Server(uvicorn.Server):
    """uvicorn's server without its ticks: it sleeps until it is told to leave, and then leaves at once."""

    def __init__(self, config: uvicorn.Config, transports: Transports, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.trouble: BaseException | None = None
        self.is_settled = threading.Event()
        self._transports = transports
        self._on_start = on_start
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        self._leaving.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_start()
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.is_settled.set()

    async def main_loop(self) -> None:
        await self._leaving.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's
        await self._take_no_more()
        requests = self.server_state.tasks
        if requests:
            await asyncio.wait(requests, timeout=GRACE_S)
        for request in requests:
            request.cancel()
        for transport in list(self._transports.values()):
            transport.abort()

    async def _take_no_more(self) -> None:
        """Close the door behind whoever has come in: asyncio loses connections taken while a server closes."""
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for sock in server.sockets:
                loop.remove_reader(sock.fileno())
        await asyncio.sleep(0)  # whoever was taken in this round gets a transport in the next
        for server in self.servers:
            server.close()
