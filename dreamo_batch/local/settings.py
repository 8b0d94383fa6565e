"""How a local gateway behaves: prices, time, limits, and the variants that the contract leaves open.

Examples
--------
>>> Settings(latency=Latency(3.0), max_concurrent=2).latency.median_s
3.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from dreamo_batch.local.latency import INSTANT, Latency
from dreamo_batch.local.limits import RetryAfter
from dreamo_batch.local.pricing import plain_decimal

if TYPE_CHECKING:
    from dreamo_batch.local.pricing import Price

WhenFull = Literal["refuse", "queue"]
Precharge = Literal["price", "cache_miss", "missing"]
ErrorsAs = Literal["http", "task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything about a gateway that does not change while it runs.

    Attributes
    ----------
    latency : Latency
        How long tasks take.
    price : str, callable or None
        What a task costs, see `pricing.price_of`.
    discount : str
        What is told beside the cost, a decimal number; the cost is not changed by it.
    bills_failures : bool
        Whether failed tasks cost their price, too.
    precharge : {"price", "cache_miss", "missing"}
        How the question for a price is answered: right, with COST_CACHE_MISS, or with 404.
    errors_as : {"http", "task"}
        Whether a bad parameter (001 to 004) is refused with HTTP 400, or accepted as a task that fails.
    max_concurrent : int or None
        Tasks that run at once.
    when_full : {"refuse", "queue"}
        Whether a task over that number is answered 429, or waits for a slot.
    max_requests_per_s : float or None
        Requests of any kind, above which the answer is 429.
    retry_after : {"none", "seconds", "date", "body"}
        How a 429 of these limits says when to come again.
    links_live_s : float or None
        Seconds that the link to a picture is good for after the poll that gave it; None for ever.
    seed : int or None
        Makes latencies and drawn seeds repeatable.

    Raises
    ------
    ValueError
        If one of them can't be.

    Examples
    --------
    >>> Settings(retry_after="soon")
    Traceback (most recent call last):
    ...
    ValueError: retry_after='soon' is not one of 'none', 'seconds', 'date', 'body'.
    """

    latency: Latency = INSTANT
    price: Price = None
    discount: str = "1"
    bills_failures: bool = False
    precharge: Precharge = "price"
    errors_as: ErrorsAs = "http"
    max_concurrent: int | None = None
    when_full: WhenFull = "refuse"
    max_requests_per_s: float | None = None
    retry_after: RetryAfter = "none"
    links_live_s: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, words in _CHOICES.items():
            if getattr(self, name) not in words:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, words))}."
                )
        for name in ("max_concurrent", "max_requests_per_s", "links_live_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value!r} must be greater than 0; leave it out for no limit.")
        for text in (self.price, self.discount):
            if isinstance(text, str):
                plain_decimal(text)


_CHOICES = {
    "when_full": get_args(WhenFull),
    "precharge": get_args(Precharge),
    "errors_as": get_args(ErrorsAs),
    "retry_after": get_args(RetryAfter),
}
