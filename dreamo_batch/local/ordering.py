"""The endpoints that take orders: create, and precharge, which only asks for the price.

Annotations are evaluated here, since FastAPI reads them.
"""

from typing import Any

from fastapi import FastAPI, Request, Response

from dreamo_batch.local import answers
from dreamo_batch.local.answers import Answer, json_answer
from dreamo_batch.local.delivery import Delivery
from dreamo_batch.local.desk import Desk, digest_of
from dreamo_batch.local.door import Door, Halt, read_body
from dreamo_batch.local.error_bodies import error_answer
from dreamo_batch.local.fault_plan import FaultPlan
from dreamo_batch.local.fields import Refused
from dreamo_batch.local.limits import retry_hint
from dreamo_batch.local.orders import SMALL_BODY_BYTES, Form, read_form
from dreamo_batch.local.references import References
from dreamo_batch.local.schema import CREATED, ORDER_BODY, PRICED, described
from dreamo_batch.local.variants import vary
from dreamo_batch.service import parameters

NO_ANSWER = Answer(500, b"")


class Ordering:
    """The endpoints, bound to one gateway.

    Parameters
    ----------
    door : Door
        Checks the key.
    desk : Desk
        Does the business.
    references : References
        Keeps the reference pictures.
    plan : FaultPlan
        Says what goes wrong.
    delivery : Delivery
        Brings the answers out.
    """

    def __init__(
        self, door: Door, desk: Desk, references: References, plan: FaultPlan, delivery: Delivery
    ) -> None:
        self._door = door
        self._desk = desk
        self._references = references
        self._plan = plan
        self._delivery = delivery

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to an application.

        Parameters
        ----------
        app : FastAPI
            The application.
        """
        app.add_api_route(
            parameters.CREATE_PATH.value,
            self.create,
            methods=["POST"],
            responses=described(400, 401, 413, 415, good=CREATED),
            openapi_extra=ORDER_BODY,
        )
        app.add_api_route(
            parameters.PRECHARGE_PATH.value,
            self.precharge,
            methods=["POST"],
            responses=described(400, 401, 404, 413, 415, good=PRICED),
            openapi_extra=ORDER_BODY,
        )

    async def create(self, request: Request) -> Response:
        """Order a picture."""
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
