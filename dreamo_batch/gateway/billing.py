"""What a task of the local gateway costs, as exact decimal text, and its line on the invoice."""

from __future__ import annotations

from decimal import Context, Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dreamo_batch.gateway.engines import DrawRequest
    from dreamo_batch.gateway.tasks import GatewayTask

    PriceSetting: TypeAlias = "str | Callable[[DrawRequest], str] | None"


DEFAULT_USD: Final = Decimal("0.0286")
# Enough digits that sums of floats would show, few enough that one price survives a float.
SMALLEST_USD: Final = Decimal("1e-10")
_ASKED = ("digest", "prompt", "seed", "seed_drawn", "width", "height", "use_rephraser", "model", "image")
# More digits than any sum of prices has.
_EXACT: Final = Context(prec=1000)


def size_price(width: int, height: int) -> str:
    """Scale the page's price of a picture of the default size by the number of pixels."""
    share = Decimal(width * height) / contract.SIDE_DEFAULT_PX.value**2
    return format((DEFAULT_USD * share).quantize(SMALLEST_USD).normalize(), "f")


def price_of(request: DrawRequest, setting: PriceSetting) -> str:
    """Return the price of one picture: by its size, fixed, or computed by the caller's function."""
    if setting is None:
        return size_price(request.width, request.height)
    return check_decimal(setting(request) if callable(setting) else setting)


def price_of_time(price_per_second: str, seconds: float) -> str:
    """Return the price of a picture by the time that it took."""
    return format(
        (Decimal(price_per_second) * Decimal(repr(seconds))).quantize(SMALLEST_USD).normalize(), "f"
    )


def check_decimal(text: str) -> str:
    """Check that a text is a plain decimal number, without sign or exponent, and return it."""
    if not isinstance(text, str) or not text.isascii() or not text.replace(".", "", 1).isdigit():
        raise ValueError(f'Expected a plain decimal number as text, such as "0.0286", not {text!r}.')
    return text


def invoice_line(task: GatewayTask, now: float) -> dict[str, Any]:
    """Return one task as it stands on the invoice."""
    state, cost = task.state(now), task.cost(now)
    asked = {name: getattr(task, name) for name in _ASKED}
    return {
        "id": task.task_id,
        **asked,
        "images": [digest for digest, _ in task.references],
        "ref_types": list(task.request.ref_types),
        "guidance_scale1": task.guidance_scale1,
        "accepted_at": task.accepted_at,
        "latency_s": task.due_at - task.starts_at,
        "state": state,
        "error_code": task.error_code if state == "failed" else None,
        "price": task.price,
        "cost": cost,
        "billed": bool(cost),
    }


def total(lines: Iterable[Mapping[str, Any]]) -> str:
    """Add up the costs of an invoice, to the last digit."""
    costs = (Decimal(line["cost"]) for line in lines if line["cost"])
    return format(reduce(_EXACT.add, costs, Decimal(0)), "f")
