"""How long a task takes on the gateway's own clock.

Examples
--------
>>> import random
>>> read_latency("fixed:3").draw_s(random.Random(0))
3.0
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

FORMS = '"instant", "fixed:SECONDS" or "lognormal:MEDIAN_S,SIGMA"'


@dataclass(frozen=True, slots=True)
class Latency:
    """A log-normal latency; fixed with sigma 0, and instant with median 0.

    Examples
    --------
    >>> Latency(0.0).is_instant
    True
    """

    median_s: float
    sigma: float = 0.0

    @property
    def is_instant(self) -> bool:
        """Whether a task is done as soon as someone asks."""
        return self.median_s == 0

    def draw_s(self, rng: random.Random) -> float:
        """Draw the latency of one task.

        Parameters
        ----------
        rng : random.Random
            Where the chance comes from; not touched when the latency is fixed.

        Returns
        -------
        float
            Seconds from start to end.

        Examples
        --------
        >>> import random
        >>> Latency(3.0, 0.5).draw_s(random.Random(1)) != Latency(3.0, 0.5).draw_s(random.Random(2))
        True
        """
        if self.sigma == 0:
            return self.median_s
        return self.median_s * math.exp(rng.gauss(0.0, self.sigma))


INSTANT = Latency(0.0)


def read_latency(value: str | float | Latency) -> Latency:
    """Read a latency as it is written on a command line.

    Parameters
    ----------
    value : str, float or Latency
        ``"instant"``, ``"fixed:3"`` (seconds), ``"lognormal:3,0.5"`` (median in seconds, sigma of the
        logarithm), a plain number of seconds, or a Latency as it is.

    Returns
    -------
    Latency

    Raises
    ------
    ValueError
        If the text has another form, or a number is negative or not finite.

    Examples
    --------
    >>> read_latency("lognormal:3,0.5")
    Latency(median_s=3.0, sigma=0.5)
    >>> read_latency("slow")
    Traceback (most recent call last):
    ...
    ValueError: Latency 'slow' can't be read; write "instant", "fixed:SECONDS" or "lognormal:MEDIAN_S,SIGMA".
    """
    if isinstance(value, Latency):
        return value
    try:
        latency = _parse(value) if isinstance(value, str) else Latency(float(value))
    except ValueError:
        latency = None
    if latency is None or not all(0 <= number < math.inf for number in (latency.median_s, latency.sigma)):
        raise ValueError(f"Latency {value!r} can't be read; write {FORMS}.") from None
    return latency


def _parse(text: str) -> Latency | None:
    kind, _, numbers = text.strip().lower().partition(":")
    values = [float(number) for number in numbers.split(",")] if numbers else []
    match kind, values:
        case "instant", []:
            return INSTANT
        case "fixed", [seconds]:
            return Latency(seconds)
        case "lognormal", [median_s, sigma]:
            return Latency(median_s, sigma)
    return None
