"""The endpoints that give what became of orders: poll, and the files of finished pictures.

Annotations are evaluated here, since FastAPI reads them.
"""

from fastapi import FastAPI, Request, Response

from dreamo_batch.local.answers import Answer, json_answer
from dreamo_batch.local.delivery import Delivery
from dreamo_batch.local.desk import Desk
from dreamo_batch.local.door import Door, Halt
from dreamo_batch.local.error_bodies import error_answer
from dreamo_batch.local.fault_plan import FaultPlan
from dreamo_batch.local.faulty import NOT_FOUND, expired_link
from dreamo_batch.local.pictures import Pictures
from dreamo_batch.local.schema import GUARDED, POLLED, Responses, described, refused
from dreamo_batch.local.variants import vary
from dreamo_batch.service import parameters

_FILE_ANSWERS: Responses = {
    200: {"description": "The picture", "content": {f"image/{kind}": {} for kind in ("jpeg", "png", "webp")}},
    403: {"description": "The link has expired", "content": {"application/xml": {}}},
    404: refused(),
    429: refused(),
}


class Retrieval:
    """The endpoints, bound to one gateway.

    Parameters
    ----------
    door : Door
        Checks the key, except for files: links are public.
    desk : Desk
        Does the business.
    plan : FaultPlan
        Says what goes wrong.
    delivery : Delivery
        Brings the answers out.
    pictures : Pictures
        The finished pictures.
    """

    def __init__(
        self, door: Door, desk: Desk, plan: FaultPlan, delivery: Delivery, pictures: Pictures
    ) -> None:
        self._door = door
        self._desk = desk
        self._plan = plan
        self._delivery = delivery
        self._pictures = pictures

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to an application.

        Parameters
        ----------
        app : FastAPI
            The application.
        """
        task_answers = described(401, 404, good=POLLED)
        app.add_api_route(
            parameters.TASK_PATH.value, self.poll, responses=task_answers, openapi_extra=GUARDED
        )
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
