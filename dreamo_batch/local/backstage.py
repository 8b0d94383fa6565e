"""The endpoints that only a local gateway has: its invoice, and the faults that are planned.

Annotations are evaluated here, since FastAPI reads them.
"""

import json

from fastapi import FastAPI, Request, Response

from dreamo_batch.local.answers import Answer, json_answer
from dreamo_batch.local.desk import Desk
from dreamo_batch.local.door import Door, Halt, plain, read_body
from dreamo_batch.local.error_bodies import error_answer
from dreamo_batch.local.fault_plan import FaultPlan
from dreamo_batch.local.invoice import total
from dreamo_batch.local.schema import FAULTS_BODY, GUARDED, INVOICE, PLAN, described


class Backstage:
    """The endpoints under /local.

    Parameters
    ----------
    door : Door
        Checks the key.
    desk : Desk
        Keeps the invoice.
    plan : FaultPlan
        The faults.
    """

    def __init__(self, door: Door, desk: Desk, plan: FaultPlan) -> None:
        self._door = door
        self._desk = desk
        self._plan = plan

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to an application.

        Parameters
        ----------
        app : FastAPI
            The application.
        """
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
