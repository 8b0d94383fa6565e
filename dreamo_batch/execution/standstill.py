"""Whether the service takes anything at all: since when it has answered nothing but 429. Pure.

A 429 is no outage, and a run waits as long as it is asked to. But a service that refuses everything for longer than
the run is told to wait may go on so for a day: an account without quota, or a limit per day.
"""

from __future__ import annotations

from typing import Final

_TOLD_AFTER_S: Final = 30.0
_PATIENCE_MIN_S: Final = 60.0  # who does not wait for tasks still waits for a quota


class Standstill:
    """Follows refusals and answers, and says when waiting is worth a word, and when it is over.

    Parameters
    ----------
    patience_s : float
        How long nothing may be taken before the run gives up; a minute at least.

    Examples
    --------
    >>> standstill = Standstill(patience_s=900)
    >>> standstill.refused(now=10.0)
    >>> standstill.is_lasting(now=20.0, until=25.0), standstill.is_lasting(now=20.0, until=70.0)
    (False, True)
    >>> standstill.is_hopeless(now=911.0)
    True
    >>> standstill.answered()
    >>> standstill.is_hopeless(now=911.0)
    False
    >>> hasty = Standstill(patience_s=1)
    >>> hasty.refused(now=10.0)
    >>> hasty.is_hopeless(now=60.0), hasty.is_hopeless(now=70.0)
    (False, True)
    """

    def __init__(self, *, patience_s: float) -> None:
        self.since: float | None = None
        self._patience_s = max(patience_s, _PATIENCE_MIN_S)

    def refused(self, now: float) -> None:
        """Take in a 429."""
        self.since = now if self.since is None else self.since

    def answered(self) -> None:
        """Take in any other answer: something goes on."""
        self.since = None

    def restart(self, now: float) -> None:
        """Be patient anew, because for a while nothing was sent."""
        self.since = now if self.since is not None else None

    def is_lasting(self, now: float, until: float) -> bool:
        """Whether nothing was taken for a while, or nothing will be before `until`, as the service asks."""
        return self.since is not None and max(now, until) - self.since >= _TOLD_AFTER_S

    def is_hopeless(self, now: float) -> bool:
        """Whether nothing was taken for too long."""
        return self.since is not None and now - self.since >= self._patience_s

    def next_at(self, now: float) -> float | None:
        """Say when time alone changes either; None if it does not."""
        if self.since is None:
            return None
        times = (self.since + _TOLD_AFTER_S, self.since + self._patience_s)
        return min((at for at in times if at > now), default=None)
