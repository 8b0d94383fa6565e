"""What the gateway answers when all is well: payloads as the contract has them, and how they become bytes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from dreamo_batch.gateway.faults import Effect
from dreamo_batch.gateway.tasks import COMPLETED, FAILED, IN_PROGRESS, RetryAfter, Task, retry_hint
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dreamo_batch.gateway.faults import Stage, Strike

    Payload = dict[str, Any]


JSON_TYPE = "application/json"
UPLOAD_S = 0.05
RESULT_ERROR = contract.ERROR_CODES["003011096"]
# Stands for an exact number until the JSON is written; no text of a client is in an answer that has numbers.
_MARK = "#exact#"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: status, body, its type, and further headers."""

    status: int
    body: bytes
    media_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExactNumber:
    """A decimal number that goes into JSON as it is written, digit for digit."""

    text: str


def json_answer(payload: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Make an answer of a payload."""
    numbers: list[str] = []

    def mark(value: ExactNumber) -> str:
        numbers.append(value.text)
        return _MARK

    text = json.dumps(payload, ensure_ascii=False, default=mark)
    for number in numbers:
        text = text.replace(f'"{_MARK}"', number, 1)
    return Answer(status, text.encode(), JSON_TYPE, headers or {})


def created(task: Task) -> dict[str, Any]:
    """Answer a create."""
    return _head(task, IN_PROGRESS)


def polled(task: Task, now: float, discount: str, url: str) -> dict[str, Any]:
    """Answer a poll."""
    state = task.state(now)
    payload = _head(task, state) | {"metadata": {"in_queue_at": round(task.starts_at - task.accepted_at, 3)}}
    if state == IN_PROGRESS:
        return payload | {"progress": round(task.progress(now), 2)}
    completed_s = task.due_at - task.accepted_at
    payload["metadata"] |= {"completed_at": round(completed_s, 3)}
    payload["usage"] = {"cost": task.cost(now), "discount": ExactNumber(discount)}
    if state == COMPLETED:
        payload["metadata"] |= {"upload_at": round(completed_s + UPLOAD_S, 3)}
        content = {"type": "image", "url": url, "size": task.picture_bytes, "jobId": task.task_id}
        payload["output"] = [{"content": [content]}]
    if state == FAILED:
        payload["error"] = {"code": task.error_code, "error_message": task.error_message}
    elif task.fate == "completed_with_error":
        payload["error"] = {"code": RESULT_ERROR.code, "error_message": RESULT_ERROR.meaning}
    return payload


def precharged(cost: str, discount: str, digest: str, now: float) -> dict[str, Any]:
    """Answer the question for a price."""
    data = {
        "billing_model": "per_image",
        "cost": cost,
        "currency": "USD",
        "discount": ExactNumber(discount),
        "hash": digest,
        "model": contract.MODEL,
        "sample_count": 1,
        "updated_at": int(now * 1000),
    }
    return {"status": "success", "data": data}


def cache_miss() -> dict[str, Any]:
    """Answer the question for a price when there is none."""
    data = {"cost": None, "currency": "USD", "model": contract.MODEL, "reason": "COST_CACHE_MISS"}
    return {"status": "failed", "data": data}


def _head(task: Task, state: str) -> dict[str, Any]:
    return {
        "id": task.task_id,
        "created_at": int(task.accepted_at),
        "status": state,
        "model": contract.MODEL,
    }


HTML: Final = (
    b"<!DOCTYPE html><html><head><title>Gateway</title></head><body><h1>Please wait</h1></body></html>\n"
)

_SHAPES: Final[dict[str, Callable[[str, str], Any]]] = {
    "code_error_message": lambda code, text: {"error": {"code": code, "error_message": text}},
    "code_message": lambda code, text: {"error": {"code": code, "message": text}},
    "message": lambda _, text: {"message": text},
    "string": lambda _, text: {"error": text},
    "detail": lambda _, text: {"detail": text},
    "status": lambda code, text: {"status": {"code": 400, "message": text, "error_code": code}, "data": None},
    "flat": lambda code, text: {"code": code, "message": text},
    "integer_code": lambda code, text: {"error": {"code": int(code), "error_message": text}},
    "list": lambda _code, _text: [],
}


def error_answer(
    status: int,
    code: str,
    message: str,
    *,
    shape: str = "code_error_message",
    headers: Mapping[str, str] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Answer:
    """Make an answer that tells of an error."""
    if shape == "html":
        return Answer(status, HTML, "text/html", headers or {})
    if shape == "empty":
        return Answer(status, b"", "text/plain", headers or {})
    payload = _SHAPES[shape](code, message)
    return json_answer(payload | dict(fields) if fields else payload, status, headers)


_ENDS: Final = ("output", "usage", "error")
_NOT_FINISHED: Final = {word for word, state in contract.STATUS_WORDS.items() if state == "in_progress"}


def vary(payload: Payload, strike: Strike | None, now: float) -> Payload:
    """Give a payload in the spelling that a fault asks for."""
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
    if word in _NOT_FINISHED or word not in contract.STATUS_WORDS:
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


NOT_FOUND: Final = "Task not found"
_EXPIRED: Final = (
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)
_NOISE: Final = b"\x00no picture\x00" * 64
_PROMISED_BYTES: Final = 100


def faulty_answer(strike: Strike, stage: Stage, path: str, now: float) -> Answer:
    """Give what a fault answers instead of the right thing."""
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
    """Answer as a store of files does once a link is over."""
    return Answer(403, _EXPIRED, "application/xml")


def cut(answer: Answer) -> Answer:
    """Give the first half of an answer, as if it were all."""
    return dataclasses.replace(answer, body=answer.body[: (len(answer.body) + 1) // 2])


def miscounted(answer: Answer, *, promises_too_much: bool) -> bytes:
    """Write down an answer with a wrong Content-Length."""
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
