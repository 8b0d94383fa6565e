"""The endpoints of the local gateway: the service's, those that describe the model, and the tests' own under /local."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Query, Request, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from dreamo_batch.gateway import answers
from dreamo_batch.gateway.answers import error_response, json_response, vary
from dreamo_batch.gateway.faults import Effect
from dreamo_batch.gateway.rendering import SUFFIXES
from dreamo_batch.gateway.schemas import PARAMS, Create, Problem, problem_of, read_create
from dreamo_batch.gateway.tasks import Bucket, retry_hint, total
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from dreamo_batch.gateway.faults import FaultPlan, Stage, Strike
    from dreamo_batch.gateway.gateway import Transports
    from dreamo_batch.gateway.rendering import Renderer
    from dreamo_batch.gateway.tasks import Tasks

# Base64 of the largest pictures allowed, and room for the rest.
BODY_BYTES_MAX: Final = max(model.images_max.value for model in contract.MODELS.values()) * 7 * 2**20 + 2**20
# Larger bodies are read beside the event loop.
SMALL_BODY_BYTES: Final = 64 * 1024
PAGE_SIZE_MAX: Final = 100

_PICTURE_NAME: Final = re.compile(r"[0-9a-f]{32}(\.[a-z]+)")
_MEDIA_TYPES: Final = {suffix: media_type for media_type, suffix in SUFFIXES.items()}
_CONSTRAINTS: Final = {
    "enum": "enum",
    "default": "default",
    "minimum": "min",
    "maximum": "max",
    "minLength": "min_length",
    "maxLength": "max_length",
    "maxItems": "max_items",
}


def _listed(model: contract.Model) -> dict[str, Any]:
    """Describe a model in the list of models."""
    most = model.images_max.value
    pictures = "one reference picture of a subject" if most == 1 else f"1 to {most} reference pictures"
    return {
        "id": model.name,
        "name": f"{model.title} (local preview)",
        "type": "image",
        "description": f"Makes a picture from a prompt and {pictures}.",
        "input_modalities": ["text", "image"],
        "output_modalities": ["image"],
    }


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """Describe a parameter that may be null like one that may not."""
    return next((one for one in field.get("anyOf", ()) if one.get("type") != "null"), {}) | field


class Refused(Exception):  # noqa: N818 - it is an answer, and no error of ours
    """Ends a request with a response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class HangUp(Response):
    """Closes the connection, after some raw bytes if there are any; no HTTP answer of its own."""

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


def make_app(endpoints: Endpoints) -> ASGIApp:
    """Put the application of one gateway together."""
    handlers: Any = dict.fromkeys((Refused, ValidationError, ClientDisconnect), _respond)
    app = FastAPI(openapi_url=None, exception_handlers=handlers)
    # Routes are tried in turn: what is asked most often comes first. A router would cost a tenth of a request.
    for name, method, path in (
        ("poll", "GET", contract.TASK_PATH.value),
        ("download", "GET", "/files/{name}"),
        ("create", "POST", contract.CREATE_PATH.value),
        ("precharge", "POST", contract.PRECHARGE_PATH.value),
        ("models", "GET", contract.MODELS_PATH.value),
        ("spec", "GET", contract.SPEC_PATH.value),
        ("invoice", "GET", "/local/invoice"),
        ("faults", "GET", "/local/faults"),
        ("change_faults", "POST", "/local/faults"),
    ):
        app.add_api_route(path, getattr(endpoints, name), methods=[method])
    return app if endpoints.tasks.settings.max_requests_per_s is None else _capped(app, endpoints.tasks)


def _capped(app: ASGIApp, tasks: Tasks) -> ASGIApp:
    """Answer 429 to requests of any kind above a rate; /local stays open to the tests."""
    settings = tasks.settings
    bucket = Bucket(settings.max_requests_per_s)

    async def capped(scope: Scope, receive: Receive, send: Send) -> None:
        is_free = scope["type"] != "http" or scope["path"].startswith("/local/")
        if is_free or (wait_s := bucket.take(time.monotonic())) == 0:
            await app(scope, receive, send)
        else:
            headers, fields = retry_hint(settings.retry_after, wait_s, tasks.clock())
            response = error_response(429, "50429", "too many requests", headers=headers, fields=fields)
            await response(scope, receive, send)

    return capped


async def _respond(_: Request, error: Exception) -> Response:
    """Answer what ended a request: the one place where the service's code for a bad body is looked up."""
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
    """The endpoints, bound to one gateway.

    The key is checked and bodies are read here, not by FastAPI's dependencies, which would cost a tenth of a request.
    """

    tasks: Tasks
    renderer: Renderer
    plan: FaultPlan
    api_key: str
    base_url: str
    transports: Transports

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
        payload = vary(answers.created(tasks.accept(create, strike)), strike, tasks.clock())
        return await self._send(json_response(payload), strike, "create", request)

    async def precharge(self, request: Request) -> Response:
        """Ask what a create would cost."""
        create, tasks = await self._read_create(request), self.tasks
        if tasks.settings.precharge == "missing":
            raise Refused(error_response(404, "404", "Not Found", shape="detail"))
        if create.problem:
            raise Refused(_refused_by(create.problem))
        now, discount = tasks.clock(), tasks.settings.discount
        strike = self.plan.draw("precharge")
        price = tasks.price(create.request)
        if tasks.settings.precharge == "cache_miss" or price is None:
            payload = answers.cache_miss(create.request.model)
        else:
            payload = answers.precharged(create.request.model, price, discount, create.digest, now)
        return await self._send(json_response(vary(payload, strike, now)), strike, "precharge", request)

    async def poll(self, request: Request, task_id: str) -> Response:
        """Ask for the state of a task."""
        self._check_key(request)
        task = await self.tasks.find(task_id)
        if task is None:
            raise Refused(error_response(404, "404", answers.NOT_FOUND))
        now, settings = self.tasks.clock(), self.tasks.settings
        url = f"{self.base_url}/files/{task.picture}"
        if settings.links_live_s is not None:
            url += f"?expires={now + settings.links_live_s:.3f}"
        payload = answers.polled(task, now, settings.discount, url)
        strike = self.plan.draw("poll", payload["status"])
        return await self._send(json_response(vary(payload, strike, now)), strike, "poll", request)

    async def download(self, request: Request, name: str, expires: str | None = None) -> Response:
        """Fetch a picture; the link is public and its name can't be guessed."""
        match = _PICTURE_NAME.fullmatch(name)
        try:
            content = self.renderer.read(name) if match else None
        except FileNotFoundError:
            content = None
        if match is None or content is None:
            raise Refused(error_response(404, "404", "no such file"))
        if self._is_expired(expires):
            raise Refused(answers.expired_link())
        strike = self.plan.draw("download")
        media_type = _MEDIA_TYPES.get(match[1], "application/octet-stream")
        return await self._send(Response(content, media_type=media_type), strike, "download", request)

    async def models(
        self,
        page: Annotated[int, Query(ge=1)] = 1,
        page_size: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = 20,
        type: str | None = None,  # noqa: A002 - the service's spelling
        keywords: str | None = None,
    ) -> Response:
        """List the models."""
        wanted = [
            listed
            for listed in map(_listed, contract.MODELS.values())
            if type in (None, "", "image")
            and (keywords or "").lower() in f"{listed['id']} {listed['name']} {listed['description']}".lower()
        ]
        return _found(
            {
                "models": wanted[(page - 1) * page_size : page * page_size],
                "total": len(wanted),
                "page": page,
                "page_size": page_size,
                "total_pages": -(-len(wanted) // page_size),
            }
        )

    async def spec(self, model: str) -> Response:
        """Describe one model and its parameters."""
        rules = contract.MODELS.get(model)
        if rules is None:
            status = {"code": 404, "message": "model not found"}
            return json_response({"status": status, "data": None}, 404)
        headers = {"Authorization": "Bearer {api_key}", "Content-Type": "application/json"}
        endpoint = f"{self.base_url}{contract.CREATE_PATH.value}"
        schema, listed = PARAMS[model].model_json_schema(), _listed(rules)
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
        return _found(
            {
                "model_id": model,
                "name": listed["name"],
                "vendor": "local",
                "type": "image",
                "api": {"endpoint": endpoint, "method": "POST", "headers": headers},
                "parameters": parameters,
                "agent_prompt": listed["description"],
            }
        )

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

    def _check_key(self, request: Request) -> None:
        sent = request.headers.get("authorization", "").encode("latin-1")
        # The scheme's letters may have any case, the key's may not.
        if not hmac.compare_digest(sent[:7].lower() + sent[7:], b"bearer " + self.api_key.encode()):
            raise Refused(error_response(401, "401", "API key missing or invalid"))

    async def _read_create(self, request: Request) -> Create:
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
        """Return a response, or what a fault leaves of it."""
        if strike is None:
            return response
        fault, transport = strike.fault, self.transports.get(request.scope["client"])
        match fault.effect:
            case Effect.SLOW:
                await asyncio.sleep(strike.seconds)
            case Effect.DROP:
                return HangUp(transport)
            case Effect.ANSWER:
                path = request.scope["raw_path"].decode("ascii")
                return answers.faulty_response(strike, stage, path, self.tasks.clock())
            case Effect.MANGLE if fault.name.startswith("truncated_"):
                return answers.cut(response)
            case Effect.MANGLE:
                is_too_long = fault.name == "content_length_too_long"
                return HangUp(transport, answers.miscounted(response, promises_too_much=is_too_long))
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


def _found(data: dict[str, Any]) -> Response:
    return json_response({"status": {"code": 200, "message": "success"}, "data": data})
