"""What was spent: reserve before sending, settle when the cost is known, refuse what could pass the cap. Pure.

``spent`` is the exact sum of the costs the service named, also of tasks that failed. ``reserved`` is what attempts
without a cost hold back: those in progress, and for good those that are ambiguous, lost, or ended without a cost.
A failure that is known to be unbilled holds nothing back.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, Protocol

from dreamo_batch.engine.attempts import OPEN, SUBMITTED, Attempt, Stage, is_unbilled, is_unresolved_cost
from dreamo_batch.money import ZERO, exact_text, money, times, total

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from dreamo_batch.engine.attempts import State


Verdict = Literal["go", "wait", "stop"]


class SharedCap(Protocol):
    """A cap that the directory shares with others, of which it has a slice; each method may raise OSError."""

    def more(self, wanted: Decimal, spending: Spending, state: State) -> Decimal:
        """Have the slice raised to up to `wanted` in all, and return it; it counts once the ledger has it."""

    def give_back(self, spending: Spending, state: State) -> None:
        """Lower the slice to what is spent and reserved, which the ledger has as its slice already."""

    def used_up(self, here: str) -> str:
        """Say that nothing is left for this run, how it stands here, who holds what, and what to do."""


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
        self.slice: Decimal | None = None  # set once it is known
        self.price = price
        self.spent = ZERO
        self._held = ZERO
        self._n_unpriced = 0
        self._n_open = 0
        self._n_pilot = n_pilot
        self.n_pilots = 0
        for attempt, n in Counter(attempts).items():
            self._add(attempt, n)
        self.call_limit = None if max_new is None else total((self.committed, max_new))

    @property
    def reserved(self) -> Decimal:
        """USD held back; an attempt sent before any price was known counts at the price known now."""
        return total((self._held, times(self._n_unpriced, self.price or ZERO)))

    @property
    def committed(self) -> Decimal:
        """USD spent and reserved."""
        return total((self.spent, self.reserved))

    @property
    def excess(self) -> Decimal:
        """USD by which spent + reserved is over the cap; 0 within it."""
        return ZERO if self.cap is None else max(total((self.committed, self.cap.copy_negate())), ZERO)

    @property
    def limit(self) -> Decimal | None:
        """USD that spent + reserved may come to in this call: the least of cap, slice, and the sum agreed to for it."""
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
        """USD that may still be added of the sum agreed to for this call; None where there is no such sum."""
        if self.call_limit is None:
            return None
        return max(total((self.call_limit, self.committed.copy_negate())), ZERO)

    def wanted(self, n: int) -> Decimal:
        """Return the slice of the shared cap that this many more creates need, as far as the other limits allow."""
        needed = total((self.committed, times(n, self.price or ZERO)))
        return min(limit for limit in (needed, self.cap, self.call_limit) if limit is not None)

    def verdict(self) -> Verdict:
        """Say whether the next create may be sent: go, wait for what is in flight, or stop."""
        limit = self.limit
        if limit is None or (self.price is None and self.n_pilots < self._n_pilot):
            return "go"
        if self.price is not None and total((self.committed, self.price)) <= limit:
            return "go"
        return "wait" if self._n_open else "stop"

    def reserve(self) -> str | None:
        """Take the reservation of the next create, as exact text; None while no price is known."""
        return None if self.price is None else exact_text(self.price)

    def change(self, before: Attempt | None, after: Attempt) -> None:
        """Follow an attempt from one state to the next."""
        if before is not None and _is_held_alike(before, after):
            return
        if before is not None:
            self._add(before, -1)
        self._add(after, 1)
        cost = price_of(after)
        if cost is not None:  # above the reservation it raises it for what follows; a pilot's sets it
            self.price = cost if self.price is None else max(self.price, cost)

    def _add(self, attempt: Attempt, n: int) -> None:
        if attempt.stage not in SUBMITTED:
            return
        self._n_open += n * (attempt.stage in OPEN)
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


def _is_held_alike(before: Attempt, after: Attempt) -> bool:
    """Return whether an attempt is open before and after an event, and holds back the same."""
    is_open = before.stage in OPEN and after.stage in OPEN
    return is_open and (before.cost, before.reserved) == (after.cost, after.reserved)


def price_of(attempt: Attempt) -> Decimal | None:
    """Return what an attempt shows of the price: the cost of one that completed."""
    return money(attempt.cost) if attempt.stage is Stage.COMPLETED else None


def highest_price(attempts: Iterable[Attempt]) -> Decimal | None:
    """Return the highest price seen; None if none was."""
    return max((price for attempt in attempts if (price := price_of(attempt)) is not None), default=None)


def possibly_billed(attempts: Iterable[Attempt]) -> Decimal | None:
    """Add up what attempts that may have been billed without a known cost hold back; None if one has no price."""
    held = [
        (n, money(attempt.reserved))
        for attempt, n in Counter(attempts).items()
        if is_unresolved_cost(attempt) and attempt.may_have_been_billed
    ]
    known = [times(n, amount) for n, amount in held if amount is not None]
    return total(known) if len(known) == len(held) else None
