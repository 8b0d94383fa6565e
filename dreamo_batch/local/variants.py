"""Other spellings of right answers, as they were met in the family of the service.

Examples
--------
>>> from dreamo_batch.local.fault_reading import read_strike
>>> strike = read_strike("poll", "status_upper_case")
>>> vary({"status": "completed"}, strike, now=0.0)
{'status': 'COMPLETED'}
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.local.answers import ExactNumber, cache_miss
from dreamo_batch.local.faults import Effect
from dreamo_batch.service import parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.local.fault_reading import Strike

    Payload = dict[str, Any]

_ENDS: Final = ("output", "usage", "error")
_NOT_FINISHED: Final = {word for word, state in parameters.STATUS_WORDS.items() if state == "in_progress"}


def vary(payload: Payload, strike: Strike | None, now: float) -> Payload:
    """Give a payload in the spelling that a fault asks for.

    Parameters
    ----------
    payload : dict
        The right answer to a create, poll or precharge.
    strike : Strike or None
        What strikes; whatever does not change a spelling changes nothing here.
    now : float
        Unix seconds.

    Returns
    -------
    dict
        The same dict if nothing changes, else another one.

    Examples
    --------
    >>> from dreamo_batch.local.fault_reading import read_strike
    >>> vary({"status": "completed", "output": []}, read_strike("poll", "not_yet"), now=0.0)
    {'status': 'in_progress', 'progress': 0.9}
    """
    if strike is None or strike.fault.effect != Effect.VARY:
        return payload
    name, word = strike.fault.name, strike.fault.word
    if name.startswith(("status_", "not_yet")):
        return _respell(payload, word)
    if name.startswith("cost_") and word:
        return _reprice(payload, word)
    return _VARIANTS[name](payload, now)


def _respell(payload: Payload, word: str) -> Payload:
    if not word:
        return payload | {"status": payload["status"].upper()}
    if word in _NOT_FINISHED or word not in parameters.STATUS_WORDS:
        payload = _without(payload, *_ENDS) | {"progress": 0.9}
    return payload | {"status": word}


def _reprice(payload: Payload, word: str) -> Payload:
    place = "data" if "data" in payload else "usage"
    if word == "missing":
        return (
            _without(payload, place)
            if place == "usage"
            else payload | {place: _without(payload[place], "cost")}
        )
    cost = payload[place]["cost"]
    values = {"empty": "", "null": None, "unreadable": "n/a", "number": ExactNumber(cost) if cost else cost}
    return payload | {place: payload[place] | {"cost": values[word]}}


def _retell(payload: Payload, error: Any) -> Payload:
    return payload | {"error": error}


def _relink(payload: Payload, change: Callable[[Payload], Payload]) -> Payload:
    groups = [{"content": [change(item) for item in group["content"]]} for group in payload["output"]]
    return payload | {"output": groups}


def _without(payload: Payload, *names: str) -> Payload:
    return {name: value for name, value in payload.items() if name not in names}


def _created_at_text(payload: Payload, _: float) -> Payload:
    return payload | {"created_at": datetime.fromtimestamp(payload["created_at"], UTC).isoformat()}


def _unknown_fields(payload: Payload, _: float) -> Payload:
    return payload | {"trace": {"spans": [1, None, "x"]}, "版本": "v9", "eta": -1}


def _expired(payload: Payload, now: float) -> Payload:
    return _relink(
        payload, lambda item: item | {"url": f"{item['url'].partition('?')[0]}?expires={int(now) - 1}"}
    )


def _text(payload: Payload) -> str:
    return str(payload["error"]["error_message"])


_VARIANTS: Final[dict[str, Callable[[Payload, float], Payload]]] = {
    "id_missing": lambda payload, _: _without(payload, "id"),
    "created_at_text": _created_at_text,
    "unknown_fields": _unknown_fields,
    "failed_integer_code": lambda payload, _: _retell(
        payload, payload["error"] | {"code": int(payload["error"]["code"])}
    ),
    "failed_message": lambda payload, _: _retell(
        payload, {"code": payload["error"]["code"], "message": _text(payload)}
    ),
    "failed_string": lambda payload, _: _retell(payload, _text(payload)),
    "failed_no_code": lambda payload, _: _retell(payload, {"error_message": _text(payload)}),
    "failed_no_error": lambda payload, _: _without(payload, "error"),
    "cost_cache_miss": lambda _payload, _now: cache_miss(),
    "cost_cache_miss_flat": lambda _payload, _now: cache_miss()["data"] | {"status": "failed", "data": None},
    "output_missing": lambda payload, _: _without(payload, "output"),
    "output_empty": lambda payload, _: payload | {"output": []},
    "output_untyped": lambda payload, _: _relink(payload, lambda item: _without(item, "type")),
    "output_expired": _expired,
}
