"""The options of a call, checked before anything else happens."""

from __future__ import annotations

import numbers
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from dreamo_batch.errors import UsageError
from dreamo_batch.execution.budget import money
from dreamo_batch.execution.plan import Options as PlanOptions

Amount = float | str | Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of `run` that are not about the service; see there.

    Raises
    ------
    UsageError
        If one can't be used; the message names it.

    Examples
    --------
    >>> RunOptions(max_in_flight=0)
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.UsageError: max_in_flight must be at least 1, not 0
    """

    max_cost: Amount | None = None
    max_new_cost: Amount | None = None
    unit_cost: Amount | None = None
    pilot: int | None = None
    max_in_flight: int = 8
    download: bool = True
    fix_images: bool = False
    keep_references: bool = True
    on_invalid: Literal["raise", "skip"] = "raise"
    on_ambiguous: Literal["hold", "resubmit"] = "hold"
    max_attempts: int = 1
    retry_failed: bool = False
    random_seed: Literal["record", "service"] = "record"
    task_timeout_s: float = 900.0
    adopt_copy: bool = False

    def __post_init__(self) -> None:
        """Check everything at once."""
        _one_of("on_invalid", self.on_invalid, ("raise", "skip"))
        _one_of("on_ambiguous", self.on_ambiguous, ("hold", "resubmit"))
        _one_of("random_seed", self.random_seed, ("record", "service"))
        _at_least("max_in_flight", self.max_in_flight, 1)
        _at_least("max_attempts", self.max_attempts, 1)
        if self.pilot is not None:
            _at_least("pilot", self.pilot, 1)
        for name in ("download", "fix_images", "retry_failed"):
            flag(name, getattr(self, name))
        _seconds("task_timeout_s", self.task_timeout_s)
        _amount("max_cost", self.max_cost)
        _amount("max_new_cost", self.max_new_cost)
        _amount("unit_cost", self.unit_cost)

    def cap(self, stored: str | None) -> Decimal | None:
        """Give the cap in force: given now, else the stored one; infinity lifts it.

        Examples
        --------
        >>> RunOptions().cap("5"), RunOptions(max_cost=float("inf")).cap("5")
        (Decimal('5'), None)
        """
        if self.max_cost is None:
            return money(stored)
        return money(self.max_cost)  # None for infinity

    def plan_options(self, chosen: frozenset[str] = frozenset()) -> PlanOptions:
        """Give what the plan needs to know."""
        return PlanOptions(
            retry_failed=self.retry_failed,
            resubmit_ambiguous=self.on_ambiguous == "resubmit",
            max_attempts=self.max_attempts,
            should_download=self.download,
            chosen=chosen,
        )

    def as_settings(self) -> dict[str, Any]:
        """Give the options as JSON values, for `run.json`."""
        amounts = {name: None if value is None else str(value) for name, value in self._amounts().items()}
        return asdict(self) | amounts

    def _amounts(self) -> dict[str, Amount | None]:
        return {"max_cost": self.max_cost, "max_new_cost": self.max_new_cost, "unit_cost": self.unit_cost}


def flag(name: str, value: object) -> None:
    """Refuse an argument that is neither True nor False.

    Raises
    ------
    UsageError
        The message names the argument.

    Examples
    --------
    >>> flag("progress", "no")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.UsageError: progress must be True or False, not 'no'
    """
    if not isinstance(value, bool | np.bool_):
        raise UsageError(f"{name} must be True or False, not {value!r}")


def _seconds(name: str, value: object) -> None:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not value > 0:  # type: ignore[operator] # NaN is not more than 0 either
        raise UsageError(f"{name} must be more than 0 seconds, not {value!r}")


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def _at_least(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise UsageError(f"{name} must be at least {least}, not {value}")


def _amount(name: str, value: Amount | None) -> None:
    if value is None or (name == "max_cost" and str(value).lower() in {"inf", "infinity"}):
        return
    if money(value) is None:
        unless = ", or inf for no cap" if name == "max_cost" else ""
        raise UsageError(f"{name} must be an amount in USD of at least 0{unless}, not {value!r}")
