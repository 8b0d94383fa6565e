"""The answers of the local gateway: payloads as the contract has them, errors, and what a fault makes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from fastapi import Response

from dreamo_batch.gateway.faults import Effect
from dreamo_batch.gateway.tasks import GatewayTask, RetryAfter, retry_hint
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dreamo_batch.gateway.faults import Stage, Strike

    Payload = dict[str, Any]


UPLOAD_S: Final = 0.05
NOT_FOUND: Final = "Task not found"
RESULT_ERROR: Final = contract.ERROR_CODES["003011096"]
# Stands for an exact number until the JSON is written; answers with numbers hold no text of a client.
_MARK: Final = "#exact#"


@dataclass(frozen=True, slots=True)
class ExactNumber:
    """A decimal number that goes into JSON digit for digit."""

    text: str


def json_response(payload: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Make a response of a payload."""
    numbers: list[str] = []

    def mark(value: ExactNumber) -> str:
        numbers.append(value.text)
        return _MARK

    text = json.dumps(payload, ensure_ascii=False, default=mark)
    for number in numbers:
        text = text.replace(f'"{_MARK}"', number, 1)
    return Response(text, status, headers, "application/json")


def created(task: GatewayTask) -> Payload:
    """Answer a create."""
    return _head(task, "in_progress")


def polled(task: GatewayTask, now: float, discount: str, url: str) -> Payload:
    """Answer a poll."""
    state = task.state(now)
    payload = _head(task, state) | {"metadata": {"in_queue_at": round(task.starts_at - task.accepted_at, 3)}}
    if state == "in_progress":
        return payload | {"progress": round(task.progress(now), 2)}
    completed_s = task.due_at - task.accepted_at
    payload["metadata"] |= {"completed_at": round(completed_s, 3)}
    payload["usage"] = {"cost": task.cost(now), "discount": ExactNumber(discount)}
    if state == "completed":
        payload["metadata"] |= {"upload_at": round(completed_s + UPLOAD_S, 3)}
        content = {"type": "image", "url": url, "size": task.picture_bytes, "jobId": task.task_id}
        payload["output"] = [{"content": [content]}]
    if state == "failed":
        payload["error"] = {"code": task.error_code, "error_message": task.error_message}
    elif task.fate == "completed_with_error":
        payload["error"] = {"code": RESULT_ERROR.code, "error_message": RESULT_ERROR.meaning}
    return payload


def precharged(model: str, cost: str, discount: str, digest: str, now: float) -> Payload:
    """Answer a precharge."""
    data = {
        "billing_model": "per_image",
        "cost": cost,
        "currency": "USD",
        "discount": ExactNumber(discount),
        "hash": digest,
        "model": model,
        "sample_count": 1,
        "updated_at": int(now * 1000),
    }
    return {"status": "success", "data": data}


def cache_miss(model: str) -> Payload:
    """Answer a precharge when there is no price."""
    data = {"cost": None, "currency": "USD", "model": model, "reason": "COST_CACHE_MISS"}
    return {"status": "failed", "data": data}


def _head(task: GatewayTask, state: str) -> Payload:
    return {
        "id": task.task_id,
        "created_at": int(task.accepted_at),
        "status": state,
        "model": task.request.model,
    }


HTML: Final = (
    b"<!DOCTYPE html><html><head><title>Gateway</title></head><body><h1>Please wait</h1></body></html>\n"
)

SHAPES: Final[dict[str, Callable[[str, str], Payload]]] = {
    "code_error_message": lambda code, text: {"error": {"code": code, "error_message": text}},
    "code_message": lambda code, text: {"error": {"code": code, "message": text}},
    "message": lambda _, text: {"message": text},
    "string": lambda _, text: {"error": text},
    "detail": lambda _, text: {"detail": text},
    "status": lambda code, text: {"status": {"code": 400, "message": text, "error_code": code}, "data": None},
    "flat": lambda code, text: {"code": code, "message": text},
    "integer_code": lambda code, text: {"error": {"code": int(code), "error_message": text}},
}


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    shape: str = "code_error_message",
    headers: Mapping[str, str] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Response:
    """Answer with an error, in one of the shapes met in the family."""
    if shape == "html":
        return Response(HTML, status, headers, "text/html")
    if shape == "empty":
        return Response(b"", status, headers, "text/plain")
    if shape == "list":
        return json_response([], status, headers)
    payload = SHAPES[shape](code, message)
    return json_response({**payload, **fields} if fields else payload, status, headers)


_ENDS: Final = ("output", "usage", "error")
_NOT_FINISHED: Final = {word for word, state in contract.STATUS_WORDS.items() if state == "in_progress"}


def vary(payload: Payload, strike: Strike | None, now: float) -> Payload:
    """Return a payload in the spelling that a fault asks for."""
    if strike is None or strike.fault.effect != Effect.VARY:
        return payload
    name, word = strike.fault.name, strike.fault.word
    if name.startswith(("status_", "not_yet")):
        return _respell(payload, word)
    if name.startswith("cost_") and word:
        return _reprice(payload, word)
    if name.startswith("failed_") and word:
        error = payload["error"]
        return payload | SHAPES[word](error["code"], error["error_message"])
    return _VARIANTS[name](payload, now)


def _respell(payload: Payload, word: str) -> Payload:
    if not word:
        return payload | {"status": payload["status"].upper()}
    if word in _NOT_FINISHED or word not in contract.STATUS_WORDS:
        payload = _without(payload, *_ENDS) | {"progress": 0.9}
    return payload | {"status": word}


def _reprice(payload: Payload, word: str) -> Payload:
    place = "data" if "data" in payload else "usage"
    if word == "missing" and place == "usage":
        return _without(payload, place)
    if word == "missing":
        return payload | {place: _without(payload[place], "cost")}
    cost = payload[place]["cost"]
    values = {"empty": "", "null": None, "unreadable": "n/a", "number": ExactNumber(cost) if cost else cost}
    return payload | {place: payload[place] | {"cost": values[word]}}


def _change_contents(payload: Payload, change: Callable[[Payload], Payload]) -> Payload:
    groups = [{"content": [change(item) for item in group["content"]]} for group in payload["output"]]
    return payload | {"output": groups}


def _without(payload: Payload, *names: str) -> Payload:
    return {name: value for name, value in payload.items() if name not in names}


def _expire(payload: Payload, now: float) -> Payload:
    query = f"?expires={int(now) - 1}"
    return _change_contents(payload, lambda item: item | {"url": item["url"].partition("?")[0] + query})


_VARIANTS: Final[dict[str, Callable[[Payload, float], Payload]]] = {
    "id_missing": lambda payload, _: _without(payload, "id"),
    "created_at_text": lambda payload, _: (
        payload | {"created_at": datetime.fromtimestamp(payload["created_at"], UTC).isoformat()}
    ),
    "unknown_fields": lambda payload, _: (
        payload | {"trace": {"spans": [1, None, "x"]}, "版本": "v9", "eta": -1}
    ),
    "failed_no_code": lambda payload, _: (
        payload | {"error": {"error_message": payload["error"]["error_message"]}}
    ),
    "failed_no_error": lambda payload, _: _without(payload, "error"),
    "cost_cache_miss": lambda payload, _: cache_miss(payload["data"]["model"]),
    "cost_cache_miss_flat": lambda payload, _: (
        cache_miss(payload["data"]["model"])["data"] | {"status": "failed", "data": None}
    ),
    "output_missing": lambda payload, _: _without(payload, "output"),
    "output_empty": lambda payload, _: payload | {"output": []},
    "output_untyped": lambda payload, _: _change_contents(payload, lambda item: _without(item, "type")),
    "output_expired": _expire,
}


_EXPIRED: Final = (
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)
_NOISE: Final = b"\x00no picture\x00" * 64
_EXTRA_BYTES: Final = 100


def faulty_response(strike: Strike, stage: Stage, path: str, now: float) -> Response:
    """Return what a fault answers instead of the right thing."""
    status, word = strike.fault.status, strike.fault.word
    if word == "noise":
        return Response(_NOISE, status, media_type="image/jpeg")
    if word == "expired":
        return expired_link()
    if status == HTTPStatus.TEMPORARY_REDIRECT:
        return Response(b"", status, {"Location": path}, "text/plain")
    if status == HTTPStatus.OK:
        return error_response(200, "003011099", "Task creation error", shape=word)
    if status == 0:
        refusal = (400, "003011004", "Invalid parameter: seed")
        return error_response(
            *(refusal if stage == "create" else (500, "000000500", "internal error")), shape=word
        )
    text = NOT_FOUND if word == "not_found" else HTTPStatus(status).phrase
    headers, fields = retry_hint(cast("RetryAfter", word), strike.seconds, now)
    return error_response(status, str(status), text, headers=headers, fields=fields)


def expired_link() -> Response:
    """Answer as a file store does once a link has expired."""
    return Response(_EXPIRED, 403, media_type="application/xml")


def cut(response: Response) -> Response:
    """Return the first half of a response, with the length of that half."""
    body = bytes(response.body)
    return Response(body[: (len(body) + 1) // 2], response.status_code, media_type=response.media_type)


def miscounted(response: Response, *, promises_too_much: bool) -> bytes:
    """Return the bytes of a response with a wrong Content-Length."""
    body = bytes(response.body)
    n_bytes = len(body) + _EXTRA_BYTES if promises_too_much else len(body) // 2
    lines = (
        f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}",
        f"content-type: {response.media_type}",
        f"content-length: {n_bytes}",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii") + body
