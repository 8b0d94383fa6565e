"""Bring an answer to the client, or fail to in the way a fault asks for.

Examples
--------
>>> Hangup(None).body
b''
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import Request, Response

from dreamo_batch.local.door import plain
from dreamo_batch.local.faults import Effect
from dreamo_batch.local.faulty import cut, faulty_answer, miscounted

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from dreamo_batch.local.answers import Answer
    from dreamo_batch.local.connections import Transports
    from dreamo_batch.local.fault_reading import Strike
    from dreamo_batch.local.faults import Stage


class Hangup(Response):
    """Closes the connection, after some raw bytes if there are any; no HTTP answer of its own.

    Parameters
    ----------
    transport : asyncio.Transport or None
        The connection, None if the client has left already.
    raw : bytes
        What the client sees before the end.

    Examples
    --------
    >>> Hangup(None).body
    b''
    """

    def __init__(self, transport: asyncio.Transport | None, raw: bytes = b"") -> None:
        super().__init__()
        self._transport = transport
        self._raw = raw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Write, close, and wait until the server knows it, so that it does not answer itself."""
        if self._transport is not None:
            self._transport.write(self._raw)
            self._transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass


class Delivery:
    """Turns answers into responses, with the faults that strike on the way.

    Parameters
    ----------
    transports : dict
        The open connections.
    clock : callable
        Gives Unix seconds.

    Examples
    --------
    >>> from dreamo_batch.local.answers import Answer
    >>> delivery = Delivery({}, clock=lambda: 0.0)
    >>> asyncio.run(delivery.deliver(Answer(200, b"{}"), None, "poll", Request({"type": "http"}))).body
    b'{}'
    """

    def __init__(self, transports: Transports, clock: Callable[[], float]) -> None:
        self._transports = transports
        self._clock = clock

    async def deliver(
        self, answer: Answer, strike: Strike | None, stage: Stage, request: Request
    ) -> Response:
        """Make a response of an answer, or what a fault leaves of it.

        Parameters
        ----------
        answer : Answer
            The right answer; of no meaning if the fault strikes before there is one.
        strike : Strike or None
            What strikes.
        stage : {"create", "poll", "precharge", "download"}
            What was asked.
        request : Request
            Tells which connection it is.

        Returns
        -------
        Response
        """
        if strike is None:
            return plain(answer)
        match strike.fault.effect:
            case Effect.SLOW:
                await asyncio.sleep(strike.seconds)
            case Effect.DROP:
                return self._hang_up(request)
            case Effect.ANSWER:
                path = request.scope["raw_path"].decode("ascii")
                return plain(faulty_answer(strike, stage, path, self._clock()))
            case Effect.MANGLE:
                return self._mangle(answer, strike.fault.name, request)
        return plain(answer)

    def _mangle(self, answer: Answer, name: str, request: Request) -> Response:
        if name.startswith("truncated_"):
            return plain(cut(answer))
        raw = miscounted(answer, promises_too_much=name == "content_length_too_long")
        return self._hang_up(request, raw)

    def _hang_up(self, request: Request, raw: bytes = b"") -> Hangup:
        return Hangup(self._transports.get(request.scope["client"]), raw)
