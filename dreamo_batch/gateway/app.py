"""The endpoints of the local gateway and their answers: payloads, errors, and what faults make of them."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from dreamo_batch.gateway.engines import SUFFIXES
from dreamo_batch.gateway.faults import Effect, FaultPlan, Stage, Strike
from dreamo_batch.gateway.schemas import PARAMS, Create, Problem, problem_of, read_create
from dreamo_batch.gateway.tasks import GatewayTask, Renderer, RetryAfter, Tasks, retry_hint, total
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

    Payload = dict[str, Any]


# The base64 of the largest pictures allowed, with room for the rest.
BODY_BYTES_MAX: Final = max(model.images_max.value for model in contract.MODELS.values()) * 7 * 2**20 + 2**20
# Larger bodies are parsed in another thread.
SMALL_BODY_BYTES: Final = 64 * 1024

_PICTURE_NAME: Final = re.compile(r"[0-9a-f]{32}(\.[a-z]+)")
_MEDIA_TYPES: Final = {suffix: f"image/{kind.lower()}" for kind, suffix in SUFFIXES.items()}
_CONSTRAINTS: Final = {
    "enum": "enum",
    "default": "default",
    "minimum": "min",
    "maximum": "max",
    "minLength": "min_length",
    "maxLength": "max_length",
    "maxItems": "max_items",
}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a nullable parameter without its null variant."""
    return next((variant for variant in field.get("anyOf", ()) if variant.get("type") != "null"), {}) | field


class Refused(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """Ends a request with a response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class HangUp(Response):
    """Closes the connection, after some raw bytes if there are any; without an HTTP answer."""

    def __init__(self, transport: asyncio.Transport | None, raw: bytes = b"") -> None:
        super().__init__()
        self._transport = transport
        self._raw = raw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Write, close, and wait until the server has noticed, so that it doesn't answer itself."""
        if self._transport is not None:
            self._transport.write(self._raw)
            self._transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass


def make_app(endpoints: Endpoints) -> ASGIApp:
    """Build the application of one gateway."""
    handlers: Any = dict.fromkeys((Refused, ValidationError, ClientDisconnect), _respond)
    app = FastAPI(openapi_url=None, exception_handlers=handlers)
    # Routes are tried in order, so the most frequent come first; a router would cost a tenth of a request.
    for name, method, path in (
        ("poll", "GET", contract.TASK_PATH.value),
        ("download", "GET", "/files/{name}"),
        ("create", "POST", contract.CREATE_PATH.value),
        ("precharge", "POST", contract.PRECHARGE_PATH.value),
        ("spec", "GET", contract.SPEC_PATH.value),
        ("invoice", "GET", "/local/invoice"),
        ("faults", "GET", "/local/faults"),
        ("change_faults", "POST", "/local/faults"),
    ):
        app.add_api_route(path, getattr(endpoints, name), methods=[method])
    return app


async def _respond(_: Request, error: Exception) -> Response:
    """Turn an exception into a response; the only place where the service's code for a bad body is looked up."""
    match error:
        case Refused():
            return error.response
        case ValidationError():
            return _refused_by(problem_of(error))
    return HangUp(None)  # the client has left


def _refused_by(problem: Problem) -> Response:
    return error_response(400, problem.code, problem.message)


@dataclass(eq=False, repr=False)
class Endpoints:
    """The endpoints of one gateway; it checks keys and reads bodies itself, faster than FastAPI's dependencies."""

    tasks: Tasks
    renderer: Renderer
    plan: FaultPlan
    api_key: str
    base_url: str
    connections: set[Any]  # as the server keeps them

    async def create(self, request: Request) -> Response:
        """Draw a picture."""
        create, tasks = await self._read_create(request), self.tasks
        if create.problem and tasks.settings.errors_as == "http":
            raise Refused(_refused_by(create.problem))
        if (wait_s := tasks.wait_s()) > 0:
            headers, fields = retry_hint(tasks.settings.retry_after, wait_s, tasks.clock())
            text = "too many concurrent tasks"
            raise Refused(error_response(429, "50430", text, headers=headers, fields=fields))
        strike = self.plan.draw("create")
        if strike and not strike.fault.is_accepted:
            return await self._send(Response(), strike, "create", request)
        payload = vary(_head(tasks.accept(create, strike), "in_progress"), strike, tasks.clock())
        return await self._send(json_response(payload), strike, "create", request)

    async def precharge(self, request: Request) -> Response:
        """Ask what a create would cost."""
        create, tasks = await self._read_create(request), self.tasks
        if tasks.settings.precharge == "missing":
            raise Refused(error_response(404, "404", "Not Found", shape="detail"))
        if create.problem:
            raise Refused(_refused_by(create.problem))
        now, price = tasks.clock(), tasks.price(create.request)
        strike = self.plan.draw("precharge")
        if tasks.settings.precharge == "cache_miss" or price is None:
            payload = cache_miss(create.request.model)
        else:
            data = {
                "billing_model": "per_image",
                "cost": price,
                "currency": "USD",
                "discount": _number(tasks.settings.discount),
                "hash": create.digest,
                "model": create.request.model,
                "sample_count": 1,
                "updated_at": int(now * 1000),
            }
            payload = {"status": "success", "data": data}
        return await self._send(json_response(vary(payload, strike, now)), strike, "precharge", request)

    async def poll(self, request: Request, task_id: str) -> Response:
        """Ask for the state of a task."""
        self._admit()
        self._check_key(request)
        task = await self.tasks.find(task_id)
        if task is None:
            raise Refused(error_response(404, "404", NOT_FOUND))
        now, settings = self.tasks.clock(), self.tasks.settings
        url = f"{self.base_url}/files/{task.picture}"
        if settings.links_live_s is not None:
            url += f"?expires={now + settings.links_live_s:.3f}"
        payload = polled_payload(task, now, settings.discount, url)
        strike = self.plan.draw("poll", payload["status"])
        return await self._send(json_response(vary(payload, strike, now)), strike, "poll", request)

    async def download(self, request: Request, name: str, expires: str | None = None) -> Response:
        """Fetch a picture; the link is public and its name can't be guessed."""
        self._admit()
        match = _PICTURE_NAME.fullmatch(name)
        if match is None or not (content := self.renderer.read(name)):
            raise Refused(error_response(404, "404", "no such file"))
        if self._is_expired(expires):
            raise Refused(expired_link())
        strike = self.plan.draw("download")
        media_type = _MEDIA_TYPES[match[1]]
        return await self._send(Response(content, media_type=media_type), strike, "download", request)

    async def spec(self, model: str) -> Response:
        """Describe one model and its parameters."""
        self._admit()
        rules = contract.MODELS.get(model)
        if rules is None:
            status = {"code": 404, "message": "model not found"}
            return json_response({"status": status, "data": None}, 404)
        headers = {"Authorization": "Bearer {api_key}", "Content-Type": "application/json"}
        endpoint = f"{self.base_url}{contract.CREATE_PATH.value}"
        schema = PARAMS[model].model_json_schema()
        which = {"model": {"type": "string", "description": "Which model draws.", "enum": [model]}}
        parameters = [
            {
                "name": name,
                "path": name if name in which else f"input[0].params.{name}",
                "type": field["type"],
                "required": name in (*which, *schema["required"]),
                "description": field["description"],
                "constraints": {word: field[key] for key, word in _CONSTRAINTS.items() if key in field},
            }
            for name, field in (
                (name, _without_null(field)) for name, field in (which | schema["properties"]).items()
            )
        ]
        data = {
            "model_id": model,
            "name": f"{rules.title} (local preview)",
            "vendor": "local",
            "type": "image",
            "api": {"endpoint": endpoint, "method": "POST", "headers": headers},
            "parameters": parameters,
            "agent_prompt": "Makes a picture from a prompt and reference pictures.",
        }
        return json_response({"status": {"code": 200, "message": "success"}, "data": data})

    async def invoice(self, request: Request) -> Response:
        """List every create accepted, with its cost."""
        self._check_key(request)
        lines = await self.tasks.invoice()
        return await self.renderer.in_thread(
            lambda: json_response({"n_attempts": len(lines), "total": total(lines), "tasks": lines})
        )

    async def faults(self, request: Request) -> Response:
        """List the faults that are planned."""
        self._check_key(request)
        return json_response(self.plan.describe())

    async def change_faults(self, request: Request) -> Response:
        """Plan faults."""
        self._check_key(request)
        try:
            self.plan.change(json.loads(await _read_body(request)))
        except (ValueError, RecursionError) as error:
            raise Refused(error_response(400, "400", str(error))) from None
        return json_response(self.plan.describe())

    def _admit(self) -> None:
        """Refuse requests above the rate limit; /local stays open for tests."""
        tasks = self.tasks
        if (wait_s := tasks.bucket.take(time.monotonic())) > 0:
            headers, fields = retry_hint(tasks.settings.retry_after, wait_s, tasks.clock())
            raise Refused(error_response(429, "50429", "too many requests", headers=headers, fields=fields))

    def _check_key(self, request: Request) -> None:
        sent = request.headers.get("authorization", "").encode("latin-1")
        # The scheme is case-insensitive, the key isn't.
        if not hmac.compare_digest(sent[:7].lower() + sent[7:], b"bearer " + self.api_key.encode()):
            raise Refused(error_response(401, "401", "API key missing or invalid"))

    async def _read_create(self, request: Request) -> Create:
        self._admit()
        self._check_key(request)
        body, x_model = await _read_body(request), request.headers.get("x-model")
        if len(body) > SMALL_BODY_BYTES:
            return await self.renderer.in_thread(self._take, body, x_model)
        return self._take(body, x_model)

    def _take(self, body: bytes, x_model: str | None) -> Create:
        create = read_create(body, x_model)
        for reference in create.references:
            if reference.content is not None:
                self.renderer.references.keep(reference.digest, reference.content)
        return create

    async def _send(
        self, response: Response, strike: Strike | None, stage: Stage, request: Request
    ) -> Response:
        """Return a response, possibly spoilt by a fault."""
        if strike is None:
            return response
        fault, client = strike.fault, request.scope["client"]
        transport = next((conn.transport for conn in self.connections if conn.client == client), None)
        match fault.effect:
            case Effect.SLOW:
                await asyncio.sleep(strike.seconds)
            case Effect.DROP:
                return HangUp(transport)
            case Effect.ANSWER:
                path = request.scope["raw_path"].decode("ascii")
                return faulty_response(strike, stage, path, self.tasks.clock())
            case Effect.MANGLE if fault.word == "half":
                return halved(response)
            case Effect.MANGLE:
                return HangUp(transport, miscounted(response, promises_too_much=fault.word == "too long"))
        return response

    def _is_expired(self, expires: str | None) -> bool:
        if expires is None:
            return self.tasks.settings.links_live_s is not None
        try:
            return float(expires) < self.tasks.clock()
        except ValueError:
            return True


async def _read_body(request: Request) -> bytes:
    """Read a request's body, up to the limit."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(error_response(415, "415", "send the body as it is, without Content-Encoding"))
    body = bytearray()
    n_bytes = int(request.headers.get("content-length", "0"))
    if n_bytes <= BODY_BYTES_MAX:
        async for chunk in request.stream():
            body += chunk
            if (n_bytes := len(body)) > BODY_BYTES_MAX:
                break
    if n_bytes > BODY_BYTES_MAX:
        raise Refused(error_response(413, "413", f"the body is larger than {BODY_BYTES_MAX} bytes"))
    return bytes(body)


UPLOAD_S: Final = 0.05
NOT_FOUND: Final = "Task not found"
RESULT_ERROR: Final = contract.ERROR_CODES["003011096"]


def json_response(payload: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a payload as a JSON response."""
    return Response(json.dumps(payload, ensure_ascii=False), status, headers, "application/json")


def _number(text: str) -> float:
    """Return an amount as a float; amounts here have few enough digits."""
    return int(text) if text.isdigit() else float(text)


def polled_payload(task: GatewayTask, now: float, discount: str, url: str) -> Payload:
    """Return the answer to a poll."""
    state = task.state(now)
    payload = _head(task, state) | {"metadata": {"in_queue_at": round(task.starts_at - task.accepted_at, 3)}}
    if state == "in_progress":
        return payload | {"progress": round(task.progress(now), 2)}
    completed_s = task.due_at - task.accepted_at
    payload["metadata"] |= {"completed_at": round(completed_s, 3)}
    payload["usage"] = {"cost": task.cost(now), "discount": _number(discount)}
    if state == "completed":
        payload["metadata"] |= {"upload_at": round(completed_s + UPLOAD_S, 3)}
        content = {"type": "image", "url": url, "size": task.picture_bytes, "jobId": task.task_id}
        payload["output"] = [{"content": [content]}]
    if state == "failed":
        payload["error"] = {"code": task.error_code, "error_message": task.error_message}
    elif task.fate == "completed_with_error":
        payload["error"] = {"code": RESULT_ERROR.code, "error_message": RESULT_ERROR.meaning}
    return payload


def cache_miss(model: str) -> Payload:
    """Return the answer to a precharge when there is no price."""
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


def vary(payload: Payload, strike: Strike | None, now: float) -> Payload:
    """Return a payload in the variant that a fault asks for."""
    if strike is None or strike.fault.effect != Effect.VARY:
        return payload
    fault = strike.fault
    for place, value in fault.set.items():
        payload = _with(payload, place, value)
    for place in fault.drop:
        payload = _without(payload, place)
    if fault.word:
        return payload | SHAPES[fault.word](payload["error"]["code"], payload["error"]["error_message"])
    return _VARIANTS[fault.name](payload, now) if fault.name in _VARIANTS else payload


def _with(payload: Payload, place: str, value: object) -> Payload:
    outer, _, inner = place.rpartition(".")
    if outer:
        return payload | {outer: payload[outer] | {inner: value}} if outer in payload else payload
    return payload | {place: value}


def _without(payload: Payload, place: str) -> Payload:
    outer, _, inner = place.rpartition(".")
    if outer:
        return payload | {outer: _without(payload[outer], inner)} if outer in payload else payload
    return {name: value for name, value in payload.items() if name != place}


def _change_contents(payload: Payload, change: Callable[[Payload], Payload]) -> Payload:
    groups = [{"content": [change(item) for item in group["content"]]} for group in payload["output"]]
    return payload | {"output": groups}


def _expire(payload: Payload, now: float) -> Payload:
    query = f"?expires={int(now) - 1}"
    return _change_contents(payload, lambda item: item | {"url": item["url"].partition("?")[0] + query})


def _cost_as_number(payload: Payload, _: float) -> Payload:
    place = "data" if "data" in payload else "usage"
    cost = payload[place]["cost"]
    return _with(payload, f"{place}.cost", _number(cost) if cost else cost)


_VARIANTS: Final[dict[str, Callable[[Payload, float], Payload]]] = {
    "status_upper_case": lambda payload, _: payload | {"status": payload["status"].upper()},
    "created_at_text": lambda payload, _: (
        payload | {"created_at": datetime.fromtimestamp(payload["created_at"], UTC).isoformat()}
    ),
    "cost_number": _cost_as_number,
    "cost_cache_miss": lambda payload, _: cache_miss(payload["data"]["model"]),
    "cost_cache_miss_flat": lambda payload, _: (
        cache_miss(payload["data"]["model"])["data"] | {"status": "failed", "data": None}
    ),
    "output_untyped": lambda payload, _: _change_contents(payload, lambda item: _without(item, "type")),
    "output_expired": _expire,
}


_EXPIRED: Final = (
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)
_NOISE: Final = b"\x00no picture\x00" * 64
_EXTRA_BYTES: Final = 100


def faulty_response(strike: Strike, stage: Stage, path: str, now: float) -> Response:
    """Return the wrong response that a fault sends."""
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
    """Return a file store's response to an expired link."""
    return Response(_EXPIRED, 403, media_type="application/xml")


def halved(response: Response) -> Response:
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
