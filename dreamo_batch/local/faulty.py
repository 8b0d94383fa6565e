"""Wrong answers: what a fault says instead of the right thing, and how it spoils the bytes of a right one.

Examples
--------
>>> from dreamo_batch.local.fault_reading import read_strike
>>> faulty_answer(read_strike("poll", "unknown_task"), "poll", "/", now=0.0).body
b'{"error": {"code": "404", "error_message": "Task not found"}}'
"""

from __future__ import annotations

import dataclasses
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from dreamo_batch.local.answers import Answer
from dreamo_batch.local.error_bodies import error_answer
from dreamo_batch.local.limits import RetryAfter, retry_hint

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.local.fault_reading import Strike
    from dreamo_batch.local.faults import Stage

NOT_FOUND: Final = "Task not found"
_EXPIRED: Final = (
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)
_NOISE: Final = b"\x00no picture\x00" * 64
_PROMISED_BYTES: Final = 100


def faulty_answer(strike: Strike, stage: Stage, path: str, now: float) -> Answer:
    """Give what a fault answers instead of the right thing.

    Parameters
    ----------
    strike : Strike
        A fault whose effect is to answer something else.
    stage : {"create", "poll", "precharge", "download"}
        What was asked.
    path : str
        Where a redirect points to.
    now : float
        Unix seconds, for a Retry-After with a date.

    Returns
    -------
    Answer

    Examples
    --------
    >>> from dreamo_batch.local.fault_reading import read_strike
    >>> faulty_answer(read_strike("create", "http_429_seconds"), "create", "/", now=0.0).headers
    {'Retry-After': '1'}
    """
    status, word = strike.fault.status, strike.fault.word
    if word in _SPECIAL:
        return _SPECIAL[word](status)
    match status:
        case 0:
            return _error_of_shape(stage, word)
        case 200:
            return error_answer(200, "003011099", "Task creation error", shape=word)
        case 307:
            return Answer(307, b"", "text/plain", {"Location": path})
    hint = cast("RetryAfter", word or "none")
    headers, fields = retry_hint(hint, strike.seconds, now)
    return error_answer(status, str(status), HTTPStatus(status).phrase, headers=headers, fields=fields)


def expired_link() -> Answer:
    """Answer as a store of files does once a link is over.

    Returns
    -------
    Answer

    Examples
    --------
    >>> expired_link().status
    403
    """
    return Answer(403, _EXPIRED, "application/xml")


def cut(answer: Answer) -> Answer:
    """Give the first half of an answer, as if it were all.

    Parameters
    ----------
    answer : Answer
        The right answer.

    Returns
    -------
    Answer

    Examples
    --------
    >>> cut(Answer(200, b'{"id": "c0"}')).body
    b'{"id":'
    """
    return dataclasses.replace(answer, body=answer.body[: (len(answer.body) + 1) // 2])


def miscounted(answer: Answer, *, promises_too_much: bool) -> bytes:
    """Write down an answer with a wrong Content-Length.

    Parameters
    ----------
    answer : Answer
        The right answer.
    promises_too_much : bool
        Whether more bytes are promised than come, or less.

    Returns
    -------
    bytes
        Head and body as they go over the wire.

    Examples
    --------
    >>> miscounted(Answer(200, b"12345678"), promises_too_much=False).splitlines()[2]
    b'content-length: 4'
    """
    n_bytes = len(answer.body) + _PROMISED_BYTES if promises_too_much else len(answer.body) // 2
    lines = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        f"content-type: {answer.media_type}",
        f"content-length: {n_bytes}",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii") + answer.body


def _error_of_shape(stage: Stage, shape: str) -> Answer:
    if stage == "create":
        return error_answer(400, "003011004", "Invalid parameter: seed", shape=shape)
    return error_answer(500, "000000500", "internal error", shape=shape)


_SPECIAL: Final[dict[str, Callable[[int], Answer]]] = {
    "noise": lambda status: Answer(status, _NOISE, "image/jpeg"),
    "expired": lambda _: expired_link(),
    "not_found": lambda status: error_answer(status, str(status), NOT_FOUND),
}
