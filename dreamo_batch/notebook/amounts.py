"""Numbers as people read them: money, lengths of time, rates."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from dreamo_batch.execution.budget import EXACT

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400
_STEP_S: Final = 5
_TEN: Final = 10
_CENTS: Final = Decimal("0.01")
_FINEST: Final = Decimal("0.0001")


def dollars(amount: Decimal) -> str:
    """Write an amount of USD in cents, or finer below a dollar.

    Examples
    --------
    >>> dollars(Decimal("5")), dollars(Decimal("0.028571428")), dollars(Decimal("0.1")), dollars(Decimal("1234.567"))
    ('$5.00', '$0.0286', '$0.10', '$1,234.57')
    """
    fine, coarse = (amount.quantize(step, ROUND_HALF_UP, EXACT) for step in (_FINEST, _CENTS))
    return f"${fine if fine != coarse and abs(amount) < 1 else coarse:,f}"


def length(seconds: float) -> str:
    """Write a length of time in its two largest units.

    Examples
    --------
    >>> length(7.4), length(200), length(7500), length(200_000)
    ('7 s', '3 min 20 s', '2 h 5 min', '2 d 7 h')
    """
    whole = max(0, round(seconds))
    for unit_s, unit, part_s, part in (
        (_DAY_S, "d", _HOUR_S, "h"),
        (_HOUR_S, "h", _MINUTE_S, "min"),
        (_MINUTE_S, "min", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // part_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def about(seconds: float) -> str:
    """Write a length of time that is only guessed: no finer than it can be known.

    Examples
    --------
    >>> about(12.3), about(199), about(4000)
    ('15 s', '4 min', '1 h 7 min')
    """
    step_s = _STEP_S if seconds < _MINUTE_S else _MINUTE_S
    return length(math.ceil(seconds / step_s) * step_s)


def rate(rows_per_s: float) -> str:
    """Write a rate by the second, minute or hour, whichever gives a number to read.

    Examples
    --------
    >>> rate(2.34), rate(12.4), rate(0.2), rate(0.004)
    ('2.3 rows/s', '12 rows/s', '12 rows/min', '14 rows/h')
    """
    for per_s, unit in ((1, "s"), (_MINUTE_S, "min"), (_HOUR_S, "h")):
        if rows_per_s * per_s >= 1 or unit == "h":
            number = rows_per_s * per_s
            break
    return f"{number:.1f} rows/{unit}".replace(".0 ", " ") if number < _TEN else f"{number:,.0f} rows/{unit}"


def count(number: int, noun: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> count(1, "row"), count(5000, "row")
    ('1 row', '5,000 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
