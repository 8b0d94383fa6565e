"""What was spent and is reserved, against the limits; what attempts show of the price."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dreamo_batch.engine.attempts import OPEN, SUBMITTED, Attempt, Stage
from dreamo_batch.money import ZERO, exact_text, minus, money, times, total, total_if_known

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal


def is_unresolved_cost(attempt: Attempt) -> bool:
    """Whether an attempt may cost money, now or later, and its cost isn't known."""
    return attempt.stage in SUBMITTED and attempt.cost is None and not is_unbilled(attempt)


def is_unbilled(attempt: Attempt) -> bool:
    """Whether an attempt ended without a picture and is known to have cost nothing."""
    return attempt.stage is Stage.FAILED and attempt.may_have_been_billed is False and attempt.cost is None


class Spending:
    """What was spent and is reserved in a run directory, against its cap and its slice of a shared one."""

    def __init__(
        self,
        *,
        cap: Decimal | None = None,
        max_new: Decimal | None = None,
        price: Decimal | None = None,
        n_pilot: int = 0,
        attempts: Iterable[Attempt] = (),
    ) -> None:
        self.cap = cap
        self.slice: Decimal | None = None  # set once a price is known
        self.price = price
        self.spent = ZERO  # the exact sum of the costs that the service named, also of tasks that failed
        self._held = (
            ZERO  # by attempts without a cost: in progress, in doubt, lost, or ended and maybe billed
        )
        self._n_unpriced = 0  # such attempts that were sent before a price was known
        self._n_pilot = n_pilot
        self.n_pilots = 0
        for attempt, n in Counter(attempts).items():
            self._add(attempt, n)
        self.call_limit = None if max_new is None else total((self.committed, max_new))

    @property
    def reserved(self) -> Decimal:
        """USD reserved; an attempt sent before any price was known counts at the current price."""
        return total((self._held, times(self._n_unpriced, self.price or ZERO)))

    @property
    def committed(self) -> Decimal:
        """USD spent and reserved."""
        return total((self.spent, self.reserved))

    @property
    def excess(self) -> Decimal:
        """USD by which spent + reserved exceeds the cap; 0 if it doesn't."""
        return ZERO if self.cap is None else max(minus(self.committed, self.cap), ZERO)

    @property
    def limit(self) -> Decimal | None:
        """USD that spent + reserved may reach in this call: the lowest of cap, slice, and the limit for this call."""
        return min(
            (limit for limit in (self.cap, self.slice, self.call_limit) if limit is not None), default=None
        )

    @property
    def is_slice_used_up(self) -> bool:
        """Whether only a larger slice of the shared cap lets the next create be sent."""
        if self.slice is None or self.price is None:
            return False
        wanted = total((self.committed, self.price))
        own = (limit for limit in (self.cap, self.call_limit) if limit is not None)
        return wanted > self.slice and all(wanted <= limit for limit in own)

    @property
    def left(self) -> Decimal | None:
        """USD left of the limit for this call; None without such a limit."""
        return None if self.call_limit is None else max(minus(self.call_limit, self.committed), ZERO)

    def wanted(self, n: int) -> Decimal:
        """Return the slice of the shared cap that n more creates need, within the other limits."""
        needed = total((self.committed, times(n, self.price or ZERO)))
        return min(limit for limit in (needed, self.cap, self.call_limit) if limit is not None)

    def may_send(self) -> bool:
        """Whether the next create fits the limits now; later it may, if attempts in flight cost less than reserved."""
        limit = self.limit
        if limit is None or self.price is None:
            return limit is None or self.n_pilots < self._n_pilot
        return total((self.committed, self.price)) <= limit

    def reserve(self) -> str | None:
        """Reserve the price of the next create and return it as exact text; None while no price is known."""
        return None if self.price is None else exact_text(self.price)

    def change(self, before: Attempt | None, after: Attempt) -> None:
        """Update the sums for an attempt that changed."""
        if before is not None:
            is_open = before.stage in OPEN and after.stage in OPEN
            if is_open and (before.cost, before.reserved) == (after.cost, after.reserved):
                return  # it reserves the same amount
            self._add(before, -1)
        self._add(after, 1)
        cost = price_of(after)
        if cost is not None:  # above the reservation it raises it for what follows; a pilot's sets it
            self.price = cost if self.price is None else max(self.price, cost)

    def _add(self, attempt: Attempt, n: int) -> None:
        if attempt.stage not in SUBMITTED:
            return
        self.n_pilots += n * (attempt.reserved is None)
        cost, held = money(attempt.cost), money(attempt.reserved)
        if cost is not None:
            self.spent = total((self.spent, times(n, cost)))
        elif is_unbilled(attempt):
            return
        elif held is not None:
            self._held = total((self._held, times(n, held)))
        else:
            self._n_unpriced += n


def price_of(attempt: Attempt) -> Decimal | None:
    """Return the price that an attempt shows: the cost of one that completed."""
    return money(attempt.cost) if attempt.stage is Stage.COMPLETED else None


def highest_price(attempts: Iterable[Attempt], *, above_reserved: bool = False) -> Decimal | None:
    """Return the highest price seen, or only among costs above their reservation; None if there is none."""
    seen = ((price_of(attempt), money(attempt.reserved)) for attempt in attempts)
    prices = (
        price
        for price, held in seen
        if price is not None and (not above_reserved or (held is not None and price > held))
    )
    return max(prices, default=None)


def possibly_billed(attempts: Iterable[Attempt]) -> Decimal | None:
    """Add up the reservations of attempts that may have been billed at unknown cost; None if one has no price."""
    return total_if_known(
        None if (reserved := money(attempt.reserved)) is None else times(n, reserved)
        for attempt, n in Counter(attempts).items()
        if is_unresolved_cost(attempt) and attempt.may_have_been_billed
    )
