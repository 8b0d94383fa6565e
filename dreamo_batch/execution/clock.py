"""Time, injected: the run never asks the machine for it directly."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the run needs to know of time."""

    def monotonic(self) -> float:
        """Seconds that only ever grow; for intervals."""
        ...

    def wall(self) -> float:
        """Unix seconds, UTC; for what is written down."""
        ...


class SystemClock:
    """The machine's own clocks.

    Examples
    --------
    >>> clock = SystemClock()
    >>> clock.monotonic() <= clock.monotonic()
    True
    """

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        return time.monotonic()

    def wall(self) -> float:
        """Unix seconds, UTC."""
        return time.time()
