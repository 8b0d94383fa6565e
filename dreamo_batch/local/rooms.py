"""The parts of one running gateway, put together around its folder."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from dreamo_batch.local.app import make_app
from dreamo_batch.local.backstage import Backstage
from dreamo_batch.local.delivery import Delivery
from dreamo_batch.local.desk import Desk
from dreamo_batch.local.door import Door
from dreamo_batch.local.models import Models
from dreamo_batch.local.ordering import Ordering
from dreamo_batch.local.pictures import Pictures
from dreamo_batch.local.references import References
from dreamo_batch.local.retrieval import Retrieval
from dreamo_batch.local.store import Store
from dreamo_batch.local.studio import Studio

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.types import ASGIApp

    from dreamo_batch.local.connections import Transports
    from dreamo_batch.local.engine import Engine
    from dreamo_batch.local.fault_plan import FaultPlan
    from dreamo_batch.local.server import ThreadedServer
    from dreamo_batch.local.settings import Settings

PICTURES, REFERENCES, TASKS = "pictures", "references", "tasks.sqlite"


class Rooms:
    """What belongs together while a gateway runs.

    Parameters
    ----------
    folder : Path
        Holds ``tasks.sqlite``, ``pictures/`` and ``references/``; made if it is not there.
    base_url : str
        Where the gateway is.
    settings : Settings
        How it behaves.
    engine : Engine
        Makes the pictures.
    clock : callable
        Gives Unix seconds.

    Examples
    --------
    >>> import asyncio, pathlib, tempfile, time
    >>> from dreamo_batch.local.flat import Flat
    >>> from dreamo_batch.local.settings import Settings
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rooms = Rooms(pathlib.Path(folder), "http://127.0.0.1:8000", Settings(), Flat(), time.time)
    ...     asyncio.run(rooms.desk.invoice())
    ...     rooms.close()
    []
    """

    server: ThreadedServer

    def __init__(
        self, folder: Path, base_url: str, settings: Settings, engine: Engine, clock: Callable[[], float]
    ) -> None:
        for name in (PICTURES, REFERENCES):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.base_url = base_url
        self.transports: Transports = {}
        with contextlib.ExitStack() as files:
            self.store = files.enter_context(contextlib.closing(Store(folder / TASKS)))
            self._pictures = files.enter_context(contextlib.closing(Pictures(folder / PICTURES)))
            self._files = files.pop_all()
        self._references = References(folder / REFERENCES)
        self._clock = clock
        self.studio = Studio(engine, self.store, self._references, self._pictures)
        self.desk = Desk(settings, self.store, self.studio, clock, base_url)

    def close(self) -> None:
        """Let go of the files."""
        self._files.close()

    def make_app(self, api_key: str, plan: FaultPlan) -> ASGIApp:
        """Put the application together.

        Parameters
        ----------
        api_key : str
            The key that most endpoints ask for.
        plan : FaultPlan
            What goes wrong.

        Returns
        -------
        callable
            The ASGI application.
        """
        door, delivery = Door(api_key), Delivery(self.transports, self._clock)
        # What is asked most often comes first: routes are tried in turn.
        parts = (
            Retrieval(door, self.desk, plan, delivery, self._pictures),
            Ordering(door, self.desk, self._references, plan, delivery),
            Models(self.base_url),
            Backstage(door, self.desk, plan),
        )
        return make_app(parts, self.desk.settings, self._clock)
