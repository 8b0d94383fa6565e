"""How long the service asks to be left alone: in seconds or as a date, in the header or in the body.

Examples
--------
>>> read_wait({"Retry-After": "12"}, b"", now=0.0)
12.0
>>> read_wait({}, b'{"error": {"message": "slow down", "retry_after": 2.5}}', now=0.0)
2.5
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.service import payload as values

if TYPE_CHECKING:
    from collections.abc import Mapping

WAIT_MAX_S: Final = 24 * 3600.0
_BODY_KEYS: Final = ("retry_after", "retryAfter", "retry-after", "retry_after_s", "retry_after_seconds")
_MILLISECOND_KEYS: Final = ("retry_after_ms", "retryAfterMs", "retry-after-ms")


def read_wait(headers: Mapping[str, str], body: bytes, *, now: float) -> float | None:
    """Read the waiting time out of an answer; the header goes before the body.

    Parameters
    ----------
    headers : mapping of str to str
        Of the answer, names in any case; `Retry-After-Ms`, the more exact one, goes first.
    body : bytes
        Of the answer; looked into if it is JSON.
    now : float
        Unix seconds, for dates; the answer's own `Date` header goes before it, because only the service's
        clock tells what the service means.

    Returns
    -------
    float or None
        Seconds, 0 to one day; None if nothing readable asks for a wait.

    Examples
    --------
    >>> read_wait({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, b"", now=1700000000.0)
    30.0
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    wait_ms = values.number(lowered.get("retry-after-ms"))
    wait_s = None if wait_ms is None else wait_ms / 1000
    if wait_s is None:
        wait_s = _from_header(lowered.get("retry-after"), lowered.get("date"), now)
    if wait_s is None:
        wait_s = _from_body(body)
    return None if wait_s is None else min(max(wait_s, 0.0), WAIT_MAX_S)


def _from_header(value: str | None, date: str | None, now: float) -> float | None:
    seconds = values.number(value)
    if seconds is not None:
        return seconds
    until = _date(value)
    server_now = _date(date)
    return None if until is None else until - (now if server_now is None else server_now)


def _date(value: str | None) -> float | None:
    """Read an HTTP date as Unix seconds."""
    try:
        return parsedate_to_datetime(value or "").timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _from_body(body: bytes) -> float | None:
    try:
        answer = values.load(body)
    except values.Unreadable:
        return None
    places = (answer, answer.get("error"), answer.get("detail"), answer.get("data"), answer.get("status"))
    waits = (_in_place(place) for place in places if isinstance(place, dict))
    return next((wait_s for wait_s in waits if wait_s is not None), None)


def _in_place(place: dict[str, Any]) -> float | None:
    for keys, per_second in ((_BODY_KEYS, 1), (_MILLISECOND_KEYS, 1000)):
        wait = next((read for key in keys if (read := values.number(place.get(key))) is not None), None)
        if wait is not None:
            return wait / per_second
    return None
