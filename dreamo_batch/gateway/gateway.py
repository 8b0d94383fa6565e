"""Start and stop the local gateway: inside a process, or as the whole of one.

Examples
--------
>>> with LocalGateway(engine="flat") as gateway:
...     gateway.base_url.startswith("http://127.0.0.1:"), gateway.invoice()
(True, [])
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dreamo_batch.gateway import desk
from dreamo_batch.gateway.app import Rooms
from dreamo_batch.gateway.faults import FaultPlan
from dreamo_batch.gateway.pictures import Engine, by_name
from dreamo_batch.gateway.server import ThreadedServer, listen
from dreamo_batch.gateway.tasks import Latency, read_latency

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from dreamo_batch.gateway.desk import Price
    from dreamo_batch.gateway.tasks import RetryAfter


_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what links say instead of these
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LocalGateway:
    """The service on this machine: the same contract, made-up pictures, an invoice, and faults on demand.

    Parameters
    ----------
    state_dir : str, Path or None
        Where tasks and pictures are kept, so that a later gateway still knows them; None for a temporary folder
        that goes with the gateway.
    host : str
        Address to listen on.
    port : int
        Port to listen on, 0 for any that is free.
    api_key : str or None
        The key that clients must have; None to make one up. It is never stored.
    engine : str or Engine
        What makes the pictures: ``"preview"``, ``"flat"`` or an engine of one's own.
    latency : str, float or Latency
        How long tasks take: ``"instant"`` (the first poll waits for the picture), ``"fixed:3"`` (seconds),
        ``"lognormal:3,0.5"`` (median, sigma).
    faults : mapping, str, Path or None
        What goes wrong, see `FaultPlan.change`; or a JSON file that says it.
    clock : callable
        Gives Unix seconds; tasks advance by it.
    price, discount, bills_failures, precharge, errors_as
        Money and refusals, see `Settings`.
    max_concurrent, when_full, max_requests_per_s, retry_after, links_live_s, seed
        Limits, and chance that repeats itself, see `Settings`.

    Attributes
    ----------
    api_key : str
        The key.
    faults : FaultPlan
        What goes wrong, to be changed at any time.

    Raises
    ------
    ValueError
        If a setting can't be.

    Examples
    --------
    >>> gateway = LocalGateway(engine="flat", latency="fixed:3", max_concurrent=2, when_full="queue")
    >>> gateway.faults.script("create", "drop_after_accept")
    >>> gateway
    <LocalGateway, not running>
    """

    def __init__(
        self,
        state_dir: str | Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        engine: str | Engine = "preview",
        latency: str | float | Latency = "instant",
        faults: Mapping[str, Any] | str | Path | None = None,
        clock: Callable[[], float] = time.time,
        price: Price = None,
        discount: str = "1",
        bills_failures: bool = False,
        precharge: desk.Precharge = "price",
        errors_as: desk.ErrorsAs = "http",
        max_concurrent: int | None = None,
        when_full: desk.WhenFull = "refuse",
        max_requests_per_s: float | None = None,
        retry_after: RetryAfter = "none",
        links_live_s: float | None = None,
        seed: int | None = None,
    ) -> None:
        self.api_key = _checked(api_key) if api_key is not None else f"local-{secrets.token_hex(16)}"
        self.faults = FaultPlan(faults, seed=seed)
        self._settings = desk.Settings(
            latency=read_latency(latency),
            price=price,
            discount=discount,
            bills_failures=bills_failures,
            precharge=precharge,
            errors_as=errors_as,
            max_concurrent=max_concurrent,
            when_full=when_full,
            max_requests_per_s=max_requests_per_s,
            retry_after=retry_after,
            links_live_s=links_live_s,
            seed=seed,
        )
        self._engine = by_name(engine) if isinstance(engine, str) else engine
        self._state_dir = None if state_dir is None else Path(state_dir)
        self._address = (host, port)
        self._clock = clock
        self._rooms: Rooms | None = None
        self._resources = contextlib.ExitStack()

    def __repr__(self) -> str:
        return f"<LocalGateway, {self._rooms.base_url if self._rooms else 'not running'}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not stopped."""
        return self._rooms is not None

    @property
    def base_url(self) -> str:
        """Where the gateway is, while it runs."""
        return self._open_rooms().base_url

    def start(self, state_dir: str | Path | None = None) -> Self:
        """Start the gateway; on return it accepts connections.

        Parameters
        ----------
        state_dir : str, Path or None
            Where tasks and pictures are kept, if the gateway was made without such a folder.

        Returns
        -------
        LocalGateway
            Itself.

        Raises
        ------
        RuntimeError
            If it is running already.
        OSError
            If the address or the folder can't be had.
        """
        if self._rooms is not None:
            raise RuntimeError(f"The local gateway is running already, at {self.base_url}.")
        with contextlib.ExitStack() as stack:
            kept = self._state_dir or state_dir
            folder = Path(stack.enter_context(_temporary_folder()) if kept is None else kept)
            sock = stack.enter_context(listen(*self._address))
            rooms = Rooms(folder, _url(sock), self._settings, self._engine, self._clock)
            stack.callback(rooms.close)
            app = rooms.make_app(self.api_key, self.faults)
            rooms.server = ThreadedServer(app, sock, rooms.transports, rooms.desk.open, rooms.studio.close)
            rooms.server.start()
            stack.callback(rooms.server.stop)
            self._resources, self._rooms = stack.pop_all(), rooms
        return self

    def stop(self) -> None:
        """Stop the gateway; connections are closed, and a temporary folder is removed."""
        self._rooms = None
        self._resources.close()

    def invoice(self) -> list[dict[str, Any]]:
        """Give every order ever accepted, in that order, with its cost.

        Pictures that are due are waited for, so that what is billed does not change a moment later.

        Returns
        -------
        list of dict
            Per task: id, digest, prompt, seed, seed_drawn, width, height, use_rephraser, image, accepted_at (Unix
            seconds), latency_s, state, error_code, price, cost (USD as exact decimal text, empty until it is
            completed, and for nothing) and billed.

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
        rooms = self._open_rooms()
        return rooms.server.call(rooms.desk.invoice())

    def _open_rooms(self) -> Rooms:
        if self._rooms is None:
            raise RuntimeError("The local gateway is not running; start it with `with` or `.start()`.")
        return self._rooms


def serve(*, on_ready: Callable[[LocalGateway], None], **options: Any) -> None:
    """Run a gateway until SIGINT, SIGTERM or SIGHUP; for the main thread of a process of its own.

    Parameters
    ----------
    on_ready : callable
        Called once with the gateway when it accepts connections.
    **options
        As `LocalGateway` takes them.

    Raises
    ------
    ValueError
        If an option can't be.
    OSError
        If the address or the folder can't be had.

    Examples
    --------
    >>> import os
    >>> serve(on_ready=lambda gateway: os.kill(os.getpid(), signal.SIGTERM), engine="flat")
    """
    with contextlib.suppress(_Ended), _ended_by_signals(), LocalGateway(**options) as gateway:
        on_ready(gateway)
        threading.Event().wait()


class _Ended(BaseException):
    """Someone has asked the process to end; no error, and not to be caught as one on the way out."""


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    def end(*_: object) -> None:
        # The first is enough: what is being closed is not to be interrupted.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise _Ended

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    # A picture may still be on its way to the disk while the folder goes.
    return tempfile.TemporaryDirectory(prefix="dreamo-gateway-", ignore_cleanup_errors=True)


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    host = _ANYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _checked(api_key: str) -> str:
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError(
            "The gateway's key must be printable ASCII without spaces; leave it out to have one made."
        )
    return api_key
