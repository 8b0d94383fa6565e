"""What is shown of the money: spent, set aside, the cap, and what it will have been."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from dreamo_batch.execution.budget import EXACT, total
from dreamo_batch.notebook.amounts import dollars

if TYPE_CHECKING:
    from dreamo_batch.batch.moment import Status


@dataclass(frozen=True, slots=True)
class Money:
    """Amounts as text, and their shares of a bar whose end is the cap, or else the highest projection.

    Attributes
    ----------
    spent, reserved, projected : str
        Empty where there is nothing to tell.
    cap : str
        The cap, or that there is none.
    warning : str
        That the cap will not last; empty otherwise.
    has_bar : bool
        Whether there is anything to measure by.
    spent_share, reserved_share : float
        Of the bar, 0 to 1, together 1 at most.
    projected_shares : tuple of float (low, likely, high), or None
        Where the projection stands on the bar, 0 to 1.
    """

    spent: str
    reserved: str
    cap: str
    projected: str
    warning: str
    has_bar: bool
    spent_share: float
    reserved_share: float
    projected_shares: tuple[float, float, float] | None


def money_of(status: Status) -> Money:
    """Say what is shown of the money.

    Examples
    --------
    >>> from dreamo_batch.notebook.example import example
    >>> money = money_of(example())
    >>> money.spent, money.cap, money.projected, money.spent_share
    ('$0.06', '$0.50', '$0.12 ($0.11 to $0.13)', 0.12)
    """
    end = _end(status)
    spent = _share(status.spent_usd, end)
    return Money(
        spent=dollars(status.spent_usd),
        reserved=dollars(status.reserved_usd) if status.reserved_usd else "",
        cap="none" if status.max_cost_usd is None else dollars(status.max_cost_usd),
        projected=_projected(status),
        warning=_warning(status),
        has_bar=bool(end),
        spent_share=spent,
        reserved_share=min(1 - spent, _share(status.reserved_usd, end)),
        projected_shares=_marks(status, end),
    )


def falls_short(status: Status) -> bool:
    """Whether the cap may end before the rows do."""
    if status.max_cost_usd is None or status.n_settled == status.n_rows:
        return False
    expected = (
        status.projected_usd[2] if status.projected_usd else total((status.spent_usd, status.reserved_usd))
    )
    return expected > status.max_cost_usd


def _end(status: Status) -> Decimal:
    if status.max_cost_usd is not None:
        return status.max_cost_usd
    highest = status.projected_usd[2] if status.projected_usd else Decimal(0)
    return max(highest, total((status.spent_usd, status.reserved_usd)))


def _share(amount: Decimal, end: Decimal) -> float:
    return float(min(Decimal(1), EXACT.divide(amount, end))) if end else 0.0


def _marks(status: Status, end: Decimal) -> tuple[float, float, float] | None:
    if status.projected_usd is None or status.n_settled == status.n_rows:
        return None
    low, likely, high = status.projected_usd
    return _share(low, end), _share(likely, end), _share(high, end)


def _projected(status: Status) -> str:
    if status.projected_usd is None or status.n_settled == status.n_rows:
        return ""
    low, likely, high = map(dollars, status.projected_usd)
    return likely if low == high else f"{likely} ({low} to {high})"


def _warning(status: Status) -> str:
    if not falls_short(status) or status.projected_usd is None or status.max_cost_usd is None:
        return ""
    sure = status.projected_usd[0] > status.max_cost_usd
    return "the cap will not last" if sure else "the cap may not last"
