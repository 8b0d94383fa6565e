"""`check_service`: whether a service keeps the contract that this toolkit relies on, check by check.

Each check is a plain function that takes the visit, does its part, and says what it found, or raises `_Broken` with
what is not as it should be. They run in order, and later ones build on what earlier ones ordered.
"""

from __future__ import annotations

import base64
import io
import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.batch.connection import with_key
from dreamo_batch.errors import RequestRejected, ServiceError, ServiceRefused
from dreamo_batch.execution import archive
from dreamo_batch.execution.budget import money
from dreamo_batch.service import parameters
from dreamo_batch.service.client import Client
from dreamo_batch.service.failures import TASK_NOT_FOUND
from dreamo_batch.service.harmless import harmless
from dreamo_batch.service.payload import number
from dreamo_batch.service.settings import Secret
from dreamo_batch.service.wire import Request, Task

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    import pandas as pd

logger = logging.getLogger(__name__)

# One good order, and one that has to be refused: a service that takes it may bill it.
N_ORDERS_MAX: Final = 2
_SIDE_PX: Final = 512
_TOO_NARROW_PX: Final = 1
_NOBODY: Final = "not-a-key-of-this-service"
_UNKNOWN_TASK: Final = "d0000000000000000000"


class _Broken(Exception):  # noqa: N818 - it names what happened to the contract
    """The service does not do what the toolkit relies on."""


class _NotReached(Exception):  # noqa: N818 - no error: an earlier check has told already
    """A check has nothing to look at, because an earlier one failed."""


@dataclass(slots=True)
class _Visit:
    """What the checks share: the service, and what was ordered from it."""

    client: Client
    request: Request
    timeout_s: float
    task_id: str | None = None
    task: Task | None = None
    cost: str | None = None  # of what the check under way ordered, USD

    def ended(self) -> Task:
        """Give the task once it has completed."""
        if self.task is None or self.task.status != "completed":
            raise _NotReached("there is no completed task to look at")
        return self.task


def check_service(
    base_url: str | None = None,
    api_key: str | None = None,
    *,
    client: Client | None = None,
    timeout_s: float = 900.0,
) -> pd.DataFrame:
    """Check whether a service keeps the contract that this toolkit relies on.

    At most two orders of 512x512 pictures are made: a good one, and one that has to be refused and costs nothing where
    it is. `most_it_costs` tells beforehand what that comes to; it is logged, too.

    Parameters
    ----------
    base_url, api_key : str, optional
        Default: the environment's ``DREAMO_BASE_URL`` and ``DREAMO_API_KEY``, else the public gateway.
    client : Client, optional
        Talks to the service, instead of these.
    timeout_s : float
        Seconds to wait for a task.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.CHECKS`, one row per check in the order in which they were made; a check
        that fails is a row, never an exception.

    Raises
    ------
    SettingsError
        If the base URL or the key can't be used. Nothing was sent.
    KeyMissing
        If the service needs a key and there is none. Nothing was sent.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> with dreamo.LocalGateway(engine="flat") as gateway:
    ...     checks = check_service(gateway.base_url, gateway.api_key)
    >>> bool(checks["passed"].all()), len(checks)
    (True, 12)
    """
    import pandas as pd

    with ExitStack() as resources:
        service = client or resources.enter_context(Client(api_key=api_key, base_url=base_url))
        visit = _Visit(with_key(service), _request(), timeout_s)
        logger.info(
            "checking %s with at most %d orders, for up to %s USD in all",
            service.settings.service_name,
            N_ORDERS_MAX,
            most_it_costs(service) or "an unknown number of",
        )
        rows = [_row(visit, name, check) for name, check in CHECKS.items()]
    return pd.DataFrame(rows, columns=list(columns.CHECKS)).astype(columns.dtypes(columns.CHECKS))


def most_it_costs(client: Client) -> Decimal | None:
    """Say the most that `check_service` can cost.

    Parameters
    ----------
    client : Client
        Talks to the service.

    Returns
    -------
    Decimal or None
        USD; None if the service tells no price.

    Examples
    --------
    >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
    ...     most_it_costs(client) is None
    True
    """
    try:
        price = money(client.precharge(_request()).cost)
    except ServiceError:
        return None
    return None if price is None else N_ORDERS_MAX * price


def _row(visit: _Visit, name: str, check: Callable[[_Visit], str]) -> dict[str, Any]:
    visit.cost = None
    passed: bool | None = False
    try:
        passed, detail = True, check(visit)
    except _NotReached as missing:
        passed, detail = None, f"not checked: {missing}"
    except (_Broken, ServiceError, archive.NotAPicture) as broken:
        detail = str(broken)
    except Exception as error:  # noqa: BLE001 - whatever a service makes of us is a finding about it
        detail = f"{type(error).__name__}, which nobody foresaw"
    return {
        columns.CHECK: name,
        columns.PASSED: passed,
        columns.DETAIL: harmless(detail),
        columns.COST: visit.cost,
    }


def _answers_without_a_key(visit: _Visit) -> str:
    """An outage is told from a refusal by a GET that needs no key."""
    visit.client.probe()
    return "the model's description is answered, or at least the question"


def _describes_the_model_as_known(visit: _Visit) -> str:
    """The description is optional; where there is one, our facts are compared with it."""
    description = _description(visit.client)
    if description is None:
        return "the model is not described; nothing to compare"
    if differences := differences_from_known(description):
        raise _Broken("the description differs from what is known: " + "; ".join(differences))
    return "described as known"


def _description(client: Client) -> dict[str, Any] | None:
    """Ask the public service's host of descriptions first, then the API host."""
    if client.settings.base_url.rstrip("/") == parameters.BASE_URL.value:
        settings = replace(client.settings, base_url=parameters.SPEC_URL.value, api_key=None)
        with Client(settings=settings) as describer:
            if (description := _described_by(describer)) is not None:
                return description
    return _described_by(client)


def _described_by(client: Client) -> dict[str, Any] | None:
    try:
        return client.describe()
    except ServiceError:
        return None


def differences_from_known(description: dict[str, Any]) -> list[str]:
    """List where a model's description says other than `parameters.PARAMETERS`.

    Parameters
    ----------
    description : dict
        As `Client.describe` gives it.

    Returns
    -------
    list of str
        What is not described is no difference.

    Examples
    --------
    >>> differences_from_known({"parameters": [{"name": "width", "constraints": {"default": 1024}}]})
    ['width: default 1024 is described, 1328 is known (page)']
    """
    found = []
    for told in description["parameters"]:
        name = str(told.get("name")) if isinstance(told, dict) else ""
        if not name or name == "model":
            continue
        if name not in parameters.PARAMETERS:
            found.append(f"{name[:80]}: a parameter that is not known")
            continue
        constraints = told.get("constraints")
        for word, fact in parameters.PARAMETERS[name].items():
            value = constraints.get(word) if isinstance(constraints, dict) else None
            if value is not None and not _agrees(word, value, fact.value):
                found.append(
                    f"{name}: {word} {str(value)[:80]} is described, {fact.value} is known ({fact.source})"
                )
    return found


def _agrees(word: str, told: object, known: float) -> bool:
    if isinstance(known, bool):
        return str(told).lower() == str(known).lower()
    read = None if isinstance(told, bool) else number(told)
    if read is None:
        return False
    return read >= known if word in parameters.UPPER_LIMITS else read == known


def _refuses_a_wrong_key(visit: _Visit) -> str:
    """The run stops on 401, 402 or 403 only; anything else would be asked again."""
    settings = replace(visit.client.settings, api_key=Secret(_NOBODY))
    with Client(settings=settings) as stranger:
        try:
            stranger.fetch(_UNKNOWN_TASK)
        except ServiceRefused as refused:
            return f"refused: {refused.failure.error_class}, HTTP {refused.failure.http_status}"
        except ServiceError as error:
            raise _Broken(f"a poll with a wrong key was not answered 401, 402 or 403 but {error}") from None
    raise _Broken("a poll with a wrong key was answered as if it were the right one")


def _does_not_find_an_unknown_task(visit: _Visit) -> str:
    """A task that is lost must be told from a service that is away."""
    try:
        visit.client.fetch(_UNKNOWN_TASK)
    except RequestRejected as error:
        if error.failure.error_class == TASK_NOT_FOUND:
            return "not found, as it should be"
        raise
    raise _Broken(f"the task {_UNKNOWN_TASK}, which nobody ordered, was found")


def _tells_a_price_or_none(visit: _Visit) -> str:
    """Precharge is optional: without it a cap needs `unit_cost` or `pilot`."""
    try:
        price = visit.client.precharge(visit.request)
    except RequestRejected as error:
        return f"does not offer it ({error.failure.error_class}); a cap needs unit_cost= or pilot="
    if price.cost is None:
        return f"knows no price ({price.reason or 'no reason given'}); a cap needs unit_cost= or pilot="
    return f"{price.cost} {price.currency or 'USD'} an order"


def _refuses_an_invalid_order(visit: _Visit) -> str:
    """A bad parameter is refused at once, or its task fails."""
    try:
        task_id = visit.client.create(replace(visit.request, width=_TOO_NARROW_PX))
    except RequestRejected as error:
        return f"refused: {error.failure.error_class}, code {error.failure.code or 'none'}"
    task = visit.client.wait(task_id, timeout_s=visit.timeout_s)
    visit.cost = task.cost
    if task.status != "failed":
        raise _Broken(f"a picture of width {_TOO_NARROW_PX} px was taken, and its task {task_id} completed")
    return f"taken, and its task failed: code {task.error.code if task.error else 'none'}"


def _takes_an_order(visit: _Visit) -> str:
    """A create is answered with the id of a task."""
    visit.task_id = visit.client.create(visit.request)
    return f"task {visit.task_id}"


def _brings_a_task_to_its_end(visit: _Visit) -> str:
    """Polls find the task, until it has completed."""
    if visit.task_id is None:
        raise _NotReached("no order was taken")
    visit.task = visit.client.wait(visit.task_id, timeout_s=visit.timeout_s)
    visit.cost = visit.task.cost
    if visit.task.status != "completed":
        raise _Broken(f"task {visit.task_id} failed: {visit.task.error}")
    return f"task {visit.task_id} completed"


def _tells_what_a_task_cost(visit: _Visit) -> str:
    """Without a readable cost, budgets keep what was reserved."""
    cost = visit.ended().cost
    if cost is None:
        raise _Broken("the completed task tells no cost that can be read")
    return f"{cost} USD"


def _answers_in_the_documented_form(visit: _Visit) -> str:
    """What does not read as documented is kept as an excerpt."""
    task = visit.ended()
    if task.excerpt is not None:
        raise _Broken(f"the answer to a poll does not read as documented: {task.excerpt[:200]}")
    return "as documented"


def _serves_the_picture(visit: _Visit) -> str:
    """The link leads to a picture, without the key."""
    task = visit.ended()
    if not task.urls:
        raise _Broken("the completed task has no link to a picture")
    content = visit.client.download(task.urls[0], max_bytes=archive.PICTURE_BYTES_MAX)
    suffix, width_px, height_px = archive.look(content)
    return f"{suffix}, {width_px}x{height_px} px, {len(content)} bytes"


def _knows_an_ended_task_again(visit: _Visit) -> str:
    """A later call asks for what an earlier one had ordered, and finds the same."""
    before = visit.ended()
    after = visit.client.fetch(before.task_id)
    if (after.status, after.cost, len(after.urls)) != (before.status, before.cost, len(before.urls)):
        raise _Broken(f"asked again, status, cost or links had changed: {after.status}, {after.cost}")
    return "the same status and cost"


CHECKS: Final[dict[str, Callable[[_Visit], str]]] = {
    check.__name__.strip("_"): check
    for check in (
        _answers_without_a_key,
        _describes_the_model_as_known,
        _refuses_a_wrong_key,
        _does_not_find_an_unknown_task,
        _tells_a_price_or_none,
        _refuses_an_invalid_order,
        _takes_an_order,
        _brings_a_task_to_its_end,
        _answers_in_the_documented_form,
        _tells_what_a_task_cost,
        _serves_the_picture,
        _knows_an_ended_task_again,
    )
}


def _request() -> Request:
    """Order a small picture of one plain figure."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (_SIDE_PX, _SIDE_PX), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((176, 60, 336, 220), fill="orange")
    draw.rounded_rectangle((146, 230, 366, 470), radius=60, fill="teal")
    file = io.BytesIO()
    picture.save(file, "JPEG")
    content = base64.b64encode(file.getvalue())
    return Request("a figure on a beach", 7, _SIDE_PX, _SIDE_PX, use_rephraser=False, image_base64=content)
