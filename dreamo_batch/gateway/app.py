"""What every request passes first: the key, and the size and packing of its body."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request, Response
from starlette.requests import ClientDisconnect

from dreamo_batch.gateway import answers
from dreamo_batch.gateway.answers import (
    NOT_FOUND,
    Answer,
    cut,
    error_answer,
    expired_link,
    faulty_answer,
    json_answer,
    miscounted,
    vary,
)
from dreamo_batch.gateway.desk import Desk, Pictures, Studio, digest_of, total
from dreamo_batch.gateway.faults import Effect, FaultPlan
from dreamo_batch.gateway.schemas import (
    CREATED,
    FAULTS_BODY,
    GUARDED,
    INVOICE,
    ORDER_BODY,
    PARAMS,
    PLAN,
    POLLED,
    PRICED,
    SECURITY_SCHEMES,
    SKILL,
    SMALL_BODY_BYTES,
    Form,
    References,
    Refused,
    Responses,
    described,
    read_form,
    refused,
)
from dreamo_batch.gateway.tasks import Bucket, Store, retry_hint
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

    from dreamo_batch.gateway.desk import Settings
    from dreamo_batch.gateway.faults import Stage, Strike
    from dreamo_batch.gateway.pictures import Engine
    from dreamo_batch.gateway.server import ThreadedServer, Transports


# Base64 of the largest picture allowed, and room for the rest.
BODY_BYTES_MAX = 8 * 2**20


class Halt(Exception):  # noqa: N818 - it is an answer on its way out
    """Ends a request with an answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Door:
    """Lets in whoever has the key.

    Checked in each endpoint, not by FastAPI's dependencies, which would cost a tenth of a request.
    """

    def __init__(self, api_key: str) -> None:
        self._credentials = b"bearer " + api_key.encode()

    def __repr__(self) -> str:
        return "<Door>"

    def check(self, request: Request) -> None:
        """Check the key of a request."""
        given = request.headers.get("authorization", "").encode("latin-1")
        # The scheme's letters may have any case, the key's may not.
        if not hmac.compare_digest(given[:7].lower() + given[7:], self._credentials):
            raise Halt(error_answer(401, "401", "API key missing or invalid"))


async def read_body(request: Request) -> bytes:
    """Read a request's body, up to the limit."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Halt(error_answer(415, "415", "send the body as it is, without Content-Encoding"))
    chunks, n_bytes = [], int(request.headers.get("content-length", "0"))
    if n_bytes <= BODY_BYTES_MAX:
        n_bytes = 0
        async for chunk in request.stream():
            chunks.append(chunk)
            n_bytes += len(chunk)
            if n_bytes > BODY_BYTES_MAX:
                break
    if n_bytes > BODY_BYTES_MAX:
        raise Halt(error_answer(413, "413", f"the body is larger than {BODY_BYTES_MAX} bytes"))
    return b"".join(chunks)


def plain(answer: Answer) -> Response:
    """Make a response of an answer as it is."""
    return Response(answer.body, answer.status, dict(answer.headers), answer.media_type)


class Hangup(Response):
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


class Delivery:
    """Turns answers into responses, with the faults that strike on the way."""

    def __init__(self, transports: Transports, clock: Callable[[], float]) -> None:
        self._transports = transports
        self._clock = clock

    async def deliver(
        self, answer: Answer, strike: Strike | None, stage: Stage, request: Request
    ) -> Response:
        """Make a response of an answer, or what a fault leaves of it."""
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


GATEWAY_DESCRIPTION = (
    "A stand-in for the service `spark_dreamo`, for tests and first steps. Its pictures are previews."
)


def make_app(parts: Iterable[Part], settings: Settings, clock: Callable[[], float]) -> ASGIApp:
    """Put the application together."""
    app = _Described(
        title="Local gateway of spark_dreamo",
        description=GATEWAY_DESCRIPTION,
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
    """Answers 429 to what is over the requests a second, whatever it asks; /local stays open to the tests."""

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


NAME = "Spark DreamO (local preview)"
DESCRIPTION = "Makes a picture from a prompt and one reference picture of a subject."
PAGE_SIZE_MAX = 100


class Models:
    """The endpoints that describe the model."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to an application."""
        app.add_api_route(contract.MODELS_PATH.value, self.listed, responses=described(good=SKILL))
        spec_answers = described(good=SKILL) | {404: refused(SKILL)}
        app.add_api_route(contract.SPEC_PATH.value, self.spec, responses=spec_answers)

    async def listed(
        self,
        page: Annotated[int, Query(ge=1)] = 1,
        page_size: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = 20,
        type: str | None = None,  # noqa: A002 - the service's spelling
        keywords: str | None = None,
    ) -> Response:
        """List the models: there is one."""
        text = f"{contract.MODEL} {NAME} {DESCRIPTION}".lower()
        is_wanted = type in (None, "", "image") and (keywords or "").lower() in text
        models = [_MODEL] if is_wanted else []
        data = {
            "models": models if page == 1 else [],
            "total": len(models),
            "page": page,
            "page_size": page_size,
            "total_pages": len(models),
        }
        return plain(json_answer(_good(data)))

    async def spec(self, model: str) -> Response:
        """Describe one model and its parameters."""
        if model != contract.MODEL:
            status = {"code": 404, "message": "model not found"}
            return plain(json_answer({"status": status, "data": None}, 404))
        headers = {"Authorization": "Bearer {api_key}", "Content-Type": "application/json"}
        endpoint = f"{self._base_url}{contract.CREATE_PATH.value}"
        data = {
            "model_id": contract.MODEL,
            "name": NAME,
            "vendor": "local",
            "type": "image",
            "api": {"endpoint": endpoint, "method": "POST", "headers": headers},
            "parameters": [_MODEL_PARAMETER, *(_parameter(name) for name in PARAMS)],
            "agent_prompt": DESCRIPTION,
        }
        return plain(json_answer(_good(data)))


def _good(data: dict[str, Any]) -> dict[str, Any]:
    return {"status": {"code": 200, "message": "success"}, "data": data}


def _parameter(name: str) -> dict[str, Any]:
    schema = PARAMS[name]
    given = {_CONSTRAINTS[word]: value for word, value in schema.items() if word in _CONSTRAINTS}
    return {
        "name": name,
        "path": f"input[0].params.{name}",
        "type": schema["type"],
        "required": name == "prompt",
        "description": schema["description"],
        "constraints": given,
    }


_CONSTRAINTS = {
    "default": "default",
    "minimum": "min",
    "maximum": "max",
    "minLength": "min_length",
    "maxLength": "max_length",
    "maxItems": "max_items",
}
_MODEL = {
    "id": contract.MODEL,
    "name": NAME,
    "type": "image",
    "description": DESCRIPTION,
    "input_modalities": ["text", "image"],
    "output_modalities": ["image"],
}
_MODEL_PARAMETER = {
    "name": "model",
    "path": "model",
    "type": "string",
    "required": True,
    "description": "Which model draws.",
    "constraints": {"enum": [contract.MODEL]},
}


NO_ANSWER = Answer(500, b"")


class Ordering:
    """The endpoints, bound to one gateway."""

    def __init__(
        self, door: Door, desk: Desk, references: References, plan: FaultPlan, delivery: Delivery
    ) -> None:
        self._door = door
        self._desk = desk
        self._references = references
        self._plan = plan
        self._delivery = delivery

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to an application."""
        app.add_api_route(
            contract.CREATE_PATH.value,
            self.create,
            methods=["POST"],
            responses=described(400, 401, 413, 415, good=CREATED),
            openapi_extra=ORDER_BODY,
        )
        app.add_api_route(
            contract.PRECHARGE_PATH.value,
            self.precharge,
            methods=["POST"],
            responses=described(400, 401, 404, 413, 415, good=PRICED),
            openapi_extra=ORDER_BODY,
        )

    async def create(self, request: Request) -> Response:
        """Drawing a picture."""
        form = await self._form(request)
        if form.problem and self._desk.settings.errors_as == "http":
            raise Halt(error_answer(400, form.problem.code, form.problem.message))
        if (wait_s := self._desk.wait_s()) > 0:
            raise Halt(self._too_many(wait_s))
        strike = self._plan.draw("create")
        if strike and not strike.fault.is_accepted:
            return await self._delivery.deliver(NO_ANSWER, strike, "create", request)
        payload = vary(answers.created(self._desk.accept(form, strike)), strike, self._desk.clock())
        return await self._delivery.deliver(json_answer(payload), strike, "create", request)

    async def precharge(self, request: Request) -> Response:
        """Ask what an order would cost."""
        form = await self._form(request)
        if self._desk.settings.precharge == "missing":
            raise Halt(error_answer(404, "404", "Not Found", shape="detail"))
        if form.problem:
            raise Halt(error_answer(400, form.problem.code, form.problem.message))
        strike = self._plan.draw("precharge")
        payload = vary(self._price(form), strike, self._desk.clock())
        return await self._delivery.deliver(json_answer(payload), strike, "precharge", request)

    async def _form(self, request: Request) -> Form:
        self._door.check(request)
        body, x_model = await read_body(request), request.headers.get("x-model")
        try:
            if len(body) > SMALL_BODY_BYTES:
                return await self._desk.in_thread(self._take_in, body, x_model)
            return self._take_in(body, x_model)
        except Refused as refused:
            problem = refused.problem
            raise Halt(error_answer(400, problem.code, problem.message)) from None

    def _take_in(self, body: bytes, x_model: str | None) -> Form:
        form = read_form(body, x_model)
        if form.reference is not None:
            self._references.keep(form.image, form.reference)
        return form

    def _price(self, form: Form) -> dict[str, Any]:
        desk = self._desk
        if desk.settings.precharge == "cache_miss":
            return answers.cache_miss()
        return answers.precharged(desk.price(form), desk.settings.discount, digest_of(form), desk.clock())

    def _too_many(self, wait_s: float) -> Answer:
        headers, fields = retry_hint(self._desk.settings.retry_after, wait_s, self._desk.clock())
        return error_answer(429, "50430", "too many concurrent tasks", headers=headers, fields=fields)


_FILE_ANSWERS: Responses = {
    200: {"description": "The picture", "content": {f"image/{kind}": {} for kind in ("jpeg", "png", "webp")}},
    403: {"description": "The link has expired", "content": {"application/xml": {}}},
    404: refused(),
    429: refused(),
}


class Retrieval:
    """The endpoints, bound to one gateway."""

    def __init__(
        self, door: Door, desk: Desk, plan: FaultPlan, delivery: Delivery, pictures: Pictures
    ) -> None:
        self._door = door
        self._desk = desk
        self._plan = plan
        self._delivery = delivery
        self._pictures = pictures

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to an application."""
        task_answers = described(401, 404, good=POLLED)
        app.add_api_route(contract.TASK_PATH.value, self.poll, responses=task_answers, openapi_extra=GUARDED)
        app.add_api_route("/files/{name}", self.download, responses=_FILE_ANSWERS)

    async def poll(self, request: Request, task_id: str) -> Response:
        """Ask how a task stands."""
        self._door.check(request)
        task = await self._desk.find(task_id)
        if task is None:
            raise Halt(error_answer(404, "404", NOT_FOUND))
        payload = self._desk.tell(task)
        strike = self._plan.draw("poll", payload["status"])
        payload = vary(payload, strike, self._desk.clock())
        return await self._delivery.deliver(json_answer(payload), strike, "poll", request)

    async def download(self, request: Request, name: str, expires: str | None = None) -> Response:
        """Fetch a picture; the link is public and its name can't be guessed."""
        task = self._desk.store.by_picture(name)
        if task is None or task.picture_start is None or task.picture_bytes is None:
            raise Halt(error_answer(404, "404", "no such file"))
        if self._is_over(expires):
            raise Halt(expired_link())
        strike = self._plan.draw("download")
        content = self._pictures.read(task.picture_start, task.picture_bytes)
        answer = Answer(200, content, task.media_type or "application/octet-stream")
        return await self._delivery.deliver(answer, strike, "download", request)

    def _is_over(self, expires: str | None) -> bool:
        if expires is None:
            return self._desk.settings.links_live_s is not None
        try:
            return float(expires) < self._desk.clock()
        except ValueError:
            return True


class Backstage:
    """The endpoints under /local."""

    def __init__(self, door: Door, desk: Desk, plan: FaultPlan) -> None:
        self._door = door
        self._desk = desk
        self._plan = plan

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to an application."""
        app.add_api_route(
            "/local/invoice", self.invoice, responses=described(401, good=INVOICE), openapi_extra=GUARDED
        )
        app.add_api_route(
            "/local/faults", self.planned, responses=described(401, good=PLAN), openapi_extra=GUARDED
        )
        app.add_api_route(
            "/local/faults",
            self.change,
            methods=["POST"],
            responses=described(400, 401, 413, 415, good=PLAN),
            openapi_extra=FAULTS_BODY,
        )

    async def invoice(self, request: Request) -> Response:
        """Give every order accepted, with its cost."""
        self._door.check(request)
        tasks = await self._desk.invoice()

        def write() -> Answer:
            return json_answer({"n_orders": len(tasks), "total": total(tasks), "tasks": tasks})

        return plain(await self._desk.in_thread(write))

    async def planned(self, request: Request) -> Response:
        """Tell which faults are planned."""
        self._door.check(request)
        return plain(json_answer(self._plan.describe()))

    async def change(self, request: Request) -> Response:
        """Plan faults."""
        self._door.check(request)
        try:
            self._plan.change(json.loads(await read_body(request)))
        except (ValueError, RecursionError) as error:
            raise Halt(error_answer(400, "400", f"{error}")) from None
        return await self.planned(request)


PICTURES, REFERENCES, TASKS = "pictures", "references", "tasks.sqlite"


class Rooms:
    """What belongs together while a gateway runs."""

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
        """Put the application together."""
        door, delivery = Door(api_key), Delivery(self.transports, self._clock)
        # What is asked most often comes first: routes are tried in turn.
        parts = (
            Retrieval(door, self.desk, plan, delivery, self._pictures),
            Ordering(door, self.desk, self._references, plan, delivery),
            Models(self.base_url),
            Backstage(door, self.desk, plan),
        )
        return make_app(parts, self.desk.settings, self._clock)
