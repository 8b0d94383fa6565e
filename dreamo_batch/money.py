"""Exact amounts of money in USD: parse, add and print them."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable


Amount = float | str | Decimal
ZERO: Final = Decimal(0)
_DIGITS: Final = 60  # enough for exact sums of amounts
# The context for calculating amounts, independent of the rounding and traps of the user's context.
EXACT: Final = Context(prec=_DIGITS)
_CENTS: Final = Decimal("0.01")
_FINEST: Final = Decimal("0.0001")


def money(written: str | float | Decimal | None) -> Decimal | None:
    """Parse an amount; None unless it is finite, not negative, and has no more digits than money has."""
    return _parsed(str(written))


@lru_cache(maxsize=1024)  # cached, as the attempts of a run have few different costs
def _parsed(written: str) -> Decimal | None:
    try:
        amount = Decimal(written.strip())
    except InvalidOperation:
        return None
    # Refuse digits grouped as in Python, which may be typos: 0_12 would be 12 dollars.
    if "_" in written or not amount.is_finite() or amount < 0:
        return None
    exponent = int(amount.as_tuple().exponent)  # written out, 1e999999999 would fill the memory
    return amount if abs(exponent) <= _DIGITS and amount.adjusted() <= _DIGITS else None


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Add amounts exactly."""
    return reduce(EXACT.add, amounts, ZERO) or ZERO  # 0 rather than 0.0000


def total_if_known(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """Add amounts exactly; None if any of them is not known."""
    listed = list(amounts)
    known = [amount for amount in listed if amount is not None]
    return total(known) if len(known) == len(listed) else None


def minus(amount: Decimal, other: Decimal) -> Decimal:
    """Subtract exactly."""
    return total((amount, other.copy_negate()))


def times(n: int, amount: Decimal) -> Decimal:
    """Multiply an amount exactly."""
    return EXACT.multiply(Decimal(n), amount)


def exact_text(amount: Decimal) -> str:
    """Write an amount in its canonical form: no exponent, no trailing zeros, no negative zero."""
    written = format(amount, "f")
    if "." in written:
        written = written.rstrip("0").rstrip(".")
    return written if amount else "0"


def dollars(amount: Decimal) -> str:
    """Return an amount in USD for reading: in cents, or below a dollar with four decimals if cents aren't exact."""
    cents, fine = (amount.quantize(step, ROUND_HALF_UP, EXACT) for step in (_CENTS, _FINEST))
    if amount and not fine:
        return f"${Context(prec=2).plus(amount):f}"
    return f"${fine if fine != cents and amount.copy_abs() < 1 else cents:,f}"
