"""Start and stop the local gateway: inside a process, or as the whole of one."""

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
    """The service on this machine: the same contract, made-up pictures, an invoice, and faults on demand."""

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
        """Start the gateway; on return it accepts connections."""
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
        """
        rooms = self._open_rooms()
        return rooms.server.call(rooms.desk.invoice())

    def _open_rooms(self) -> Rooms:
        if self._rooms is None:
            raise RuntimeError("The local gateway is not running; start it with `with` or `.start()`.")
        return self._rooms


def serve(*, on_ready: Callable[[LocalGateway], None], **options: Any) -> None:
    """Run a gateway until SIGINT, SIGTERM or SIGHUP; for the main thread of a process of its own."""
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
