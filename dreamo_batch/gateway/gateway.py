"""The local gateway: started and stopped inside a process, and its HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
import sqlite3
import tempfile
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dreamo_batch.gateway.app import Endpoints, make_app
from dreamo_batch.gateway.engines import Engine, check_engine, engine_named
from dreamo_batch.gateway.faults import FaultPlan, is_whole
from dreamo_batch.gateway.tasks import GatewaySettings, Renderer, Tasks, TaskStore, read_latency
from dreamo_batch.text import option, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from starlette.types import ASGIApp

    from dreamo_batch.gateway.tasks import ErrorsAs, Precharge, PriceSetting, RetryAfter, WhenFull


T = TypeVar("T")
BACKLOG: Final = 2048
# Long enough that an idle connection isn't closed just as a client sends a create on it.
KEEP_ALIVE_S: Final = 3600
# How long a request in progress may still take when the server stops.
GRACE_S: Final = 0.1
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - replaced in links by an address that works

_BEGAN_AT: Final = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)


def steady_time() -> float:
    """Return Unix seconds by the clock as it was set when this process began."""
    return _BEGAN_AT + time.clock_gettime(time.CLOCK_MONOTONIC)


class LocalGateway:
    """The service on this machine: the same contract, made-up pictures, an invoice, and faults on demand.

    Parameters
    ----------
    state_dir : str, Path or None
        Folder for tasks and pictures, so that a later gateway knows them. Default: a temporary folder that is removed
        with the gateway.
    host : str
        Address to listen on.
    port : int
        Port to listen on, 0 for any free one.
    api_key : str or None
        The key that clients must send; None to make one up. It is never stored.
    engine : str or Engine
        What makes the pictures: ``"preview"``, ``"flat"``, or an engine of your own: ``"package.module:Class"``, or in
        Python an object with `name` and `generate(request, *references)`; see the guide's page on engines.
    latency : str or float
        How long tasks take: ``"instant"`` (the first poll waits for the picture), ``"fixed:3"`` (seconds),
        ``"lognormal:3,0.5"`` (median, sigma).
    faults : FaultPlan, mapping, str, Path or None
        What goes wrong, see `FaultPlan.change`; or the path of a JSON file with it. A `FaultPlan` keeps its own seed.
    clock : callable
        Returns Unix seconds; tasks advance by it. Default: the time, which setting the system's clock doesn't change.
    price : str, callable or None
        Price of a picture in USD as decimal text, or a function of the request that returns it; None to scale the
        service's price by the number of pixels.
    price_per_second : str or None
        Instead of a price per picture: USD per second that the engine takes, shared by the pictures of a batch. The
        precharge says what the last picture cost, if there is one.
    discount : str
        Decimal number that is sent beside the cost and does not change it.
    bills_failures : bool
        Whether failed tasks cost their price, too.
    precharge : {"price", "cache_miss", "missing"}
        Answer to a precharge: the price, COST_CACHE_MISS, or HTTP 404.
    errors_as : {"http", "task"}
        Whether a bad parameter (001 to 004) is refused with HTTP 400, or accepted as a task that fails.
    max_concurrent : int or None
        Tasks that run at once; None for no limit.
    when_full : {"refuse", "queue"}
        Whether a create above that number is answered 429, or waits for a slot.
    max_requests_per_s : float or None
        Requests of any kind, above which the answer is 429; None for no limit.
    retry_after : {"none", "seconds", "date", "body"}
        How a 429 of these limits says when to come again.
    links_live_s : float or None
        Seconds for which the link to a picture works after the poll that returned it; None for no limit.
    seed : int or None
        Makes latencies, drawn seeds and faults repeatable.

    Attributes
    ----------
    api_key : str
        The key.
    faults : FaultPlan
        What goes wrong; may be changed at any time.

    Raises
    ------
    ValueError
        If an option has no such value.

    Examples
    --------
    >>> gateway = LocalGateway(engine="flat", latency="fixed:3", max_concurrent=2, when_full="queue")
    >>> gateway.faults.script("create", "drop_after_accept")
    >>> gateway
    <LocalGateway, not running, engine flat>
    >>> gateway.check()
    >>> gateway.start().is_running
    True
    >>> gateway.stop()
    """

    def __init__(
        self,
        state_dir: str | Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        engine: str | Engine = "preview",
        latency: str | float = "instant",
        faults: FaultPlan | Mapping[str, Any] | str | Path | None = None,
        clock: Callable[[], float] = steady_time,
        price: PriceSetting = None,
        price_per_second: str | None = None,
        discount: str = "1",
        bills_failures: bool = False,
        precharge: Precharge = "price",
        errors_as: ErrorsAs = "http",
        max_concurrent: int | None = None,
        when_full: WhenFull = "refuse",
        max_requests_per_s: float | None = None,
        retry_after: RetryAfter = "none",
        links_live_s: float | None = None,
        seed: int | None = None,
    ) -> None:
        self.api_key = f"local-{secrets.token_hex(16)}" if api_key is None else _check_key(api_key)
        self.faults = faults if isinstance(faults, FaultPlan) else FaultPlan(faults, seed=seed)
        given = locals() | {"latency": read_latency(latency)}
        self._settings = GatewaySettings(**{f.name: given[f.name] for f in fields(GatewaySettings)})
        self._engine = engine_named(engine) if isinstance(engine, str) else check_engine(engine)
        self._state_dir = None if state_dir is None else _as_folder(state_dir)
        if not isinstance(host, str) or not host.isprintable() or not host.strip():
            raise ValueError(f"host={quoted(host)} must be an address of this machine, such as '127.0.0.1'.")
        if not is_whole(port) or port not in range(2**16):
            raise ValueError(f"port={quoted(port)} must be a whole number below 65536, 0 for any free one.")
        if not callable(clock):
            raise ValueError(f"clock={quoted(clock)} must be a function that returns Unix seconds.")  # noqa: TRY004 - like the other options
        self._address = (host, int(port))
        self._clock = clock
        self._running: _Running | None = None
        self._resources = contextlib.ExitStack()
        self._lock = threading.RLock()
        self._n_users = 0

    def __repr__(self) -> str:
        where = self._running.base_url if self._running else "not running"
        name, device = (getattr(self._engine, attribute, "") for attribute in ("name", "device"))
        return f"<LocalGateway, {where}, engine {name}{f' on {device}' if device else ''}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not stopped."""
        return self._running is not None

    @property
    def base_url(self) -> str:
        """The gateway's URL, while it runs."""
        return self._check_running().base_url

    def check(self) -> None:
        """Raise what would keep the gateway from starting now.

        Raises
        ------
        ValueError
            If the address or the folder can't be used.
        """
        if self._running is None:
            listen(*self._address).close()
            if self._state_dir is not None:
                _open_store(self._state_dir).close()

    def start(self, state_dir: str | Path | None = None) -> Self:
        """Start the gateway; on return it accepts connections.

        Parameters
        ----------
        state_dir : str, Path or None
            Folder for tasks and pictures, if the gateway was made without one.

        Returns
        -------
        LocalGateway
            Itself.

        Raises
        ------
        RuntimeError
            If it is running already.
        ValueError
            If the address or the folder can't be used.
        """
        with self._lock, contextlib.ExitStack() as stack:
            if self._running is not None:
                raise RuntimeError(f"The local gateway is running already, at {self.base_url}.")
            given = stack.enter_context(_temporary_folder()) if state_dir is None else state_dir
            folder = self._state_dir or _as_folder(given)
            sock = stack.enter_context(listen(*self._address))
            base_url = _url(sock)
            connections: set[Any] = set()
            store = stack.enter_context(contextlib.closing(_open_store(folder)))
            getattr(self._engine, "warm_up", lambda: None)()
            renderer = Renderer(self._engine, store, folder, self._settings.price_per_second)
            tasks = Tasks(self._settings, store, renderer, self._clock)
            app = make_app(Endpoints(tasks, renderer, self.faults, self.api_key, base_url, connections))
            server = ThreadedServer(app, sock, connections, on_start=tasks.resume, on_stop=renderer.close)
            server.start()
            stack.callback(server.stop)
            self._resources, self._running = stack.pop_all(), _Running(base_url, server, tasks)
        return self

    def stop(self) -> None:
        """Stop the gateway; connections are closed, and a temporary folder is removed."""
        with self._lock:
            self._running = None
            self._resources.close()

    @contextlib.contextmanager
    def in_use(self, state_dir: str | Path | None = None) -> Iterator[Self]:
        """Run the gateway for a block: started by the first of several users, stopped when the last has ended.

        A gateway that runs already without such users is left running.

        Parameters
        ----------
        state_dir : str, Path or None
            As for `start`, where this starts it.

        Yields
        ------
        LocalGateway
            Itself, running.

        Examples
        --------
        >>> gateway = LocalGateway(engine="flat")
        >>> with gateway.in_use():
        ...     with gateway.in_use():
        ...         pass
        ...     gateway.is_running
        True
        >>> gateway.is_running
        False
        """
        with self._lock:
            is_counted = self._n_users > 0 or self._running is None
            if self._running is None:
                self.start(state_dir)
            self._n_users += is_counted
        try:
            yield self
        finally:
            with self._lock:
                self._n_users -= is_counted
                if is_counted and self._n_users == 0:
                    self.stop()

    def invoice(self) -> list[dict[str, Any]]:
        """Return every create accepted, oldest first, with its cost.

        Pictures that are due are waited for, so that what is billed does not change a moment later.

        Returns
        -------
        list of dict
            Per task: id, digest, prompt, seed, seed_drawn, width, height, use_rephraser, image, accepted_at (Unix
            seconds), latency_s, state, error_code, price, cost (USD as exact decimal text; empty unless the task is
            billed) and billed.

        Raises
        ------
        RuntimeError
            If the gateway is not running.

        Examples
        --------
        >>> with LocalGateway(engine="flat") as gateway:
        ...     len(gateway.invoice())
        0
        """
        running = self._check_running()
        return running.server.call(running.tasks.invoice())

    def _check_running(self) -> _Running:
        if self._running is None:
            raise RuntimeError("The local gateway is not running; start it with `with` or `.start()`.")
        return self._running


@dataclass(frozen=True, slots=True)
class _Running:
    base_url: str
    server: ThreadedServer
    tasks: Tasks


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    # A picture may still be being written while the folder is removed.
    return tempfile.TemporaryDirectory(prefix="dreamo-gateway-", ignore_cleanup_errors=True)


def _as_folder(state_dir: Any) -> Path:
    text = str(state_dir) if isinstance(state_dir, str | Path) else ""
    if not text.strip() or not text.isprintable():
        raise ValueError(f"state_dir={quoted(state_dir)} must be the path of a folder.")
    return Path(state_dir)


def _open_store(folder: Path) -> TaskStore:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return TaskStore(folder / "tasks.sqlite")
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"The local gateway can't use the folder {folder} ({reason}); use another, or move it away."
        ) from error


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    host = _ANYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _check_key(api_key: str) -> str:
    if not isinstance(api_key, str) or not re.fullmatch("[!-~]+", api_key):
        raise ValueError(
            "api_key, the gateway's key, must be printable ASCII without spaces; None makes one up."
        )
    return api_key


class _Protocol(H11Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # h11's is narrower
        # asyncio does this only for sockets that it created itself; otherwise answers may be delayed by 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket and listen, so that the address is known and clients can connect."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason, _, _ = str(error.strerror or error).partition(" (while")  # Python repeats the address
        raise ValueError(
            f"The local gateway can't listen at {quoted(host)}, port {port} ({reason}); "
            f"{option('port', 0)} takes any free one, and {option('host', '127.0.0.1')} is this machine."
        ) from error


class ThreadedServer(uvicorn.Server):
    """Serves an application from a thread without uvicorn's polling: it sleeps until it is told to stop."""

    _loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        connections: set[Any],
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
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
        self.server_state.connections = connections
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
        # Raised again by `start`, in the caller's thread.
        except BaseException as trouble:  # noqa: BLE001
            self._trouble = trouble
        finally:
            self._on_stop()
            self._sock.close()
            self._is_settled.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, so that `start` returns."""
        self._on_start()
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._is_settled.set()

    async def main_loop(self) -> None:
        """Sleep."""
        await self._leaving.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's
        """Close every connection."""
        # Accepted connections get a transport before the listening sockets close: asyncio would lose them otherwise.
        for server in self.servers:
            for sock in server.sockets:
                self._loop.remove_reader(sock.fileno())
        await asyncio.sleep(0)  # a connection accepted in this iteration gets its transport in the next
        for server in self.servers:
            server.close()
        requests = self.server_state.tasks
        if requests:
            await asyncio.wait(requests, timeout=GRACE_S)
        for request in requests:
            request.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
