"""The gateway's business, without any HTTP: orders taken, tasks told of, prices given, the invoice kept."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dreamo_batch.local import answers
from dreamo_batch.local.engine import Order
from dreamo_batch.local.invoice import invoice_line
from dreamo_batch.local.limits import Slots
from dreamo_batch.local.pricing import price_of
from dreamo_batch.local.tasks import Fate, Task, TaskIds, request_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.local.fault_reading import Strike
    from dreamo_batch.local.orders import Form
    from dreamo_batch.local.settings import Settings
    from dreamo_batch.local.store import Store
    from dreamo_batch.local.studio import Studio

T = TypeVar("T")

SEEDS_FROM, SEEDS_TO = 1, 2**31
# How long a poll that is due may wait for its picture, and an invoice for all pictures that are due.
PATIENCE_S = 10.0


class Desk:
    """Takes orders and tells of tasks; used on the gateway's event loop only.

    Parameters
    ----------
    settings : Settings
        How to behave.
    store : Store
        The tasks.
    studio : Studio
        Makes the pictures.
    clock : callable
        Gives Unix seconds; tasks advance by it.
    base_url : str
        What links to pictures begin with.

    Examples
    --------
    >>> from dreamo_batch.local import LocalGateway
    >>> with LocalGateway(engine="flat", max_concurrent=1) as gateway:
    ...     gateway.invoice()
    []
    """

    def __init__(
        self, settings: Settings, store: Store, studio: Studio, clock: Callable[[], float], base_url: str
    ) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock
        self._studio = studio
        self._base_url = base_url
        self._rng = random.Random(settings.seed)
        self._ids = TaskIds()
        self._slots = Slots(None)

    def open(self) -> None:
        """Take up the tasks of an earlier life of the gateway."""
        settings, now = self.settings, self.clock()
        tasks = self.store.unfinished(now)
        ends = [task.due_at for task in tasks if task.due_at > now]
        self._slots = Slots(settings.max_concurrent, does_queue=settings.when_full == "queue", ends=ends)
        for task in tasks:
            if task.needs_picture:
                self._studio.begin(task)

    def wait_s(self) -> float:
        """Give the seconds until another task may be accepted.

        Returns
        -------
        float
            0 unless the gateway is full.
        """
        return self._slots.wait_s(self.clock())

    def accept(self, form: Form, strike: Strike | None) -> Task:
        """Take an order: from here on it is on the invoice.

        Parameters
        ----------
        form : Form
            What was ordered; with a problem, the task fails by it.
        strike : Strike or None
            A fault that may settle what becomes of the task.

        Returns
        -------
        Task
            In the store already.
        """
        now = self.clock()
        duration_s = self.settings.latency.draw_s(self._rng)
        starts_at = self._slots.take(now, duration_s)
        seed = form.seed if form.seed >= 0 else self._rng.randrange(SEEDS_FROM, SEEDS_TO)
        end = _end(form, strike)
        task = Task(
            task_id=self._ids.make(now),
            digest=digest_of(form),
            prompt=form.prompt,
            seed=form.seed,
            width=form.width,
            height=form.height,
            use_rephraser=form.use_rephraser,
            image=form.image,
            seed_drawn=seed,
            accepted_at=now,
            starts_at=starts_at,
            due_at=starts_at + duration_s,
            price=self.price(form),
            failed_price=self.price(form) if self.settings.bills_failures else "",
            fate=end.fate,
            image_url=form.image_url,
            error_code=end.code,
            error_message=end.message,
        )
        self.store.add(task)
        if task.needs_picture:
            self._studio.begin(task)
        return task

    def price(self, form: Form) -> str:
        """Give what an order costs.

        Parameters
        ----------
        form : Form
            The order.

        Returns
        -------
        str
            USD, exact decimal text.
        """
        order = Order(form.prompt, form.seed, form.width, form.height, form.use_rephraser)
        return price_of(order, self.settings.price)

    async def find(self, task_id: str) -> Task | None:
        """Give the task of a poll; if tasks are instant, once its picture is there.

        Parameters
        ----------
        task_id : str
            Whatever was asked for.

        Returns
        -------
        Task or None
            None for tasks that are not known, or not any more.
        """
        task = self.store.get(task_id)
        if task is None or task.fate == "forgotten":
            return None
        if task.needs_picture and self.settings.latency.is_instant and self.clock() >= task.due_at:
            await self._studio.wait_for([task_id], PATIENCE_S)
            task = self.store.get(task_id)
        return task

    def tell(self, task: Task) -> dict[str, Any]:
        """Answer a poll.

        Parameters
        ----------
        task : Task
            As found.

        Returns
        -------
        dict
            The payload.
        """
        now, live_s = self.clock(), self.settings.links_live_s
        url = f"{self._base_url}/files/{task.picture}"
        if live_s is not None:
            url += f"?expires={now + live_s:.3f}"
        return answers.polled(task, now, self.settings.discount, url)

    async def invoice(self) -> list[dict[str, Any]]:
        """Give every order ever accepted, in that order, once the pictures that are due are made.

        Returns
        -------
        list of dict
            Per task, see `invoice.invoice_line`.
        """
        now = self.clock()
        await self._studio.wait_for(await self._studio.in_thread(self.store.overdue, now), PATIENCE_S)
        return await self._studio.in_thread(self._lines, now)

    async def in_thread(self, do: Callable[..., T], *args: Any) -> T:
        """Do something that takes a while beside the event loop."""
        return await self._studio.in_thread(do, *args)

    def _lines(self, now: float) -> list[dict[str, Any]]:
        return [invoice_line(task, now) for task in self.store.all()]


def digest_of(form: Form) -> str:
    """Name an order by its content.

    Parameters
    ----------
    form : Form
        The order.

    Returns
    -------
    str
        See `tasks.request_digest`.
    """
    return request_digest(
        prompt=form.prompt,
        seed=form.seed,
        width=form.width,
        height=form.height,
        use_rephraser=form.use_rephraser,
        image=form.image,
    )


@dataclass(frozen=True, slots=True)
class _End:
    fate: Fate = "normal"
    code: str | None = None
    message: str | None = None


def _end(form: Form, strike: Strike | None) -> _End:
    if form.problem:
        return _End("normal", form.problem.code, form.problem.message)
    if strike is None or strike.fault.effect != "fate":
        return _End()
    if strike.fault.code:
        return _End("normal", strike.fault.code, strike.fault.word)
    return _End(strike.fault.word)  # type: ignore[arg-type]  # the words of those faults are fates
