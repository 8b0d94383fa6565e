"""A bound on a metric, as `metric >= 0.8` writes it."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_SIGNS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_WRITTEN: Final = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([-+0-9.eE]+)\s*")


@dataclass(frozen=True, slots=True)
class Criterion:
    """Whether a value of a metric is good enough."""

    metric: Any
    sign: str
    bound: float

    def __call__(self, value: float | None) -> bool:
        """Judge a value; a missing one is never good enough."""
        return value is not None and not math.isnan(value) and _SIGNS[self.sign](value, self.bound)

    def __bool__(self) -> bool:
        """Refuse `0.2 <= metric <= 0.8`, of which Python would keep the last part only."""
        raise UsageError("A bound on a metric is no yes or no. Pass one bound, or a function.")


class Bounded:
    """What makes `metric >= 0.8` a `Criterion`."""

    __slots__ = ()

    def __ge__(self, bound: float) -> Criterion:
        return criterion(self, ">=", bound)

    def __gt__(self, bound: float) -> Criterion:
        return criterion(self, ">", bound)

    def __le__(self, bound: float) -> Criterion:
        return criterion(self, "<=", bound)

    def __lt__(self, bound: float) -> Criterion:
        return criterion(self, "<", bound)


def criterion(metric: Any, sign: str, bound: Any) -> Criterion:
    """Return a bound on a metric; refuse one that is no number."""
    try:
        number = float(bound)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise UsageError(f"A bound on a metric is a number, not {bound!r}.")
    return Criterion(metric, sign, number)


def written(text: str) -> Criterion:
    """Read a bound on a metric of a given name, such as "appearance >= 0.8"."""
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise UsageError(f'Can\'t read {text!r}; write a metric, a sign and a number: "appearance >= 0.8".')
    return criterion(match[1], match[2], match[3])
