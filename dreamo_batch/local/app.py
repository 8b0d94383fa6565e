"""The gateway as an ASGI application: endpoints, what they answer when they refuse, and the cap on requests.

The create path stays light: bodies of megabytes are read by `orders`, not by a model of pydantic.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from dreamo_batch.local.delivery import Hangup
from dreamo_batch.local.door import Halt, plain
from dreamo_batch.local.error_bodies import error_answer
from dreamo_batch.local.limits import Bucket, retry_hint
from dreamo_batch.local.schema import SECURITY_SCHEMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from dreamo_batch.local.settings import Settings

DESCRIPTION = (
    "A stand-in for the service `spark_dreamo`, for tests and first steps. Its pictures are previews."
)


def make_app(parts: Iterable[Part], settings: Settings, clock: Callable[[], float]) -> ASGIApp:
    """Put the application together.

    Parameters
    ----------
    parts : iterable of Part
        The endpoints; those asked most often first, since routes are tried in turn.
    settings : Settings
        Holds the cap on requests.
    clock : callable
        Gives Unix seconds.

    Returns
    -------
    callable
        The ASGI application.

    Examples
    --------
    >>> from dreamo_batch.local.settings import Settings
    >>> make_app([], Settings(), time.time).title
    'Local gateway of spark_dreamo'
    """
    app = _Described(
        title="Local gateway of spark_dreamo",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        exception_handlers={Halt: _halted, ClientDisconnect: _left},
    )
    for part in parts:
        part.add_to(app)
    return app if settings.max_requests_per_s is None else RequestCap(app, settings, clock)


class Part(Protocol):
    """Some endpoints of the gateway."""

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to an application; not as a router, which costs a tenth of a request."""
        ...


class RequestCap:
    """Answers 429 to what is over the requests a second, whatever it asks; /local stays open to the tests.

    Parameters
    ----------
    app : callable
        The application behind it.
    settings : Settings
        Holds the cap.
    clock : callable
        Gives Unix seconds, for a Retry-After with a date.
    """

    def __init__(self, app: ASGIApp, settings: Settings, clock: Callable[[], float]) -> None:
        self._app = app
        self._settings = settings
        self._clock = clock
        self._bucket = Bucket(settings.max_requests_per_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or refuse it."""
        is_free = scope["type"] != "http" or scope["path"].startswith("/local/")
        wait_s = 0.0 if is_free else self._bucket.take(time.monotonic())
        if wait_s == 0:
            await self._app(scope, receive, send)
            return
        headers, fields = retry_hint(self._settings.retry_after, wait_s, self._clock())
        answer = error_answer(429, "50429", "too many requests", headers=headers, fields=fields)
        await plain(answer)(scope, receive, send)


class _Described(FastAPI):
    """FastAPI that knows of the key, which its dependencies are not asked for."""

    def openapi(self) -> dict[str, Any]:
        description = super().openapi()
        description.setdefault("components", {})["securitySchemes"] = SECURITY_SCHEMES
        return description


async def _halted(_: Request, halt: Exception) -> Response:
    assert isinstance(halt, Halt)  # noqa: S101 - it is registered for nothing else
    return plain(halt.answer)


async def _left(_: Request, __: Exception) -> Response:
    return Hangup(None)
