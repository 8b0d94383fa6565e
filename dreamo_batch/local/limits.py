"""How much the gateway takes at once: running tasks, requests a second, and what it says when it is too much.

Examples
--------
>>> slots = Slots(1, does_queue=True)
>>> slots.take(now=0.0, duration_s=3.0), slots.take(now=1.0, duration_s=3.0)
(0.0, 3.0)
"""

from __future__ import annotations

import heapq
import math
from email.utils import formatdate
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

RetryAfter = Literal["none", "seconds", "date", "body"]


class Slots:
    """The tasks that may run at once; what is over is refused, or waits for the first slot to come free.

    Nothing has to run for this: each slot is known by when its last task ends.

    Parameters
    ----------
    n_slots : int or None
        Tasks that may run at once; None for any number.
    does_queue : bool
        Whether a task over the limit waits, instead of being refused.
    ends : iterable of float
        When the tasks of an earlier life of the gateway end.

    Examples
    --------
    >>> slots = Slots(1, does_queue=False)
    >>> slots.take(now=0.0, duration_s=3.0)
    0.0
    >>> slots.wait_s(now=1.0)
    2.0
    """

    def __init__(self, n_slots: int | None, *, does_queue: bool = False, ends: Iterable[float] = ()) -> None:
        self._n_slots = n_slots
        self._does_queue = does_queue
        self._ends = [] if n_slots is None else heapq.nlargest(n_slots, ends)
        heapq.heapify(self._ends)

    def wait_s(self, now: float) -> float:
        """Give the seconds until a task may be taken: 0 unless the gateway is full and refuses.

        Parameters
        ----------
        now : float
            The gateway's clock.

        Returns
        -------
        float

        Examples
        --------
        >>> Slots(None).wait_s(now=0.0)
        0.0
        """
        self._free(now)
        is_open = self._does_queue or self._n_slots is None or len(self._ends) < self._n_slots
        return 0.0 if is_open else self._ends[0] - now

    def take(self, now: float, duration_s: float) -> float:
        """Give a task its slot.

        Parameters
        ----------
        now : float
            The gateway's clock.
        duration_s : float
            How long the task runs once it has started.

        Returns
        -------
        float
            When it starts.

        Examples
        --------
        >>> Slots(2).take(now=5.0, duration_s=1.0)
        5.0
        """
        if self._n_slots is None:
            return now
        self._free(now)
        starts_at = now if len(self._ends) < self._n_slots else heapq.heappop(self._ends)
        heapq.heappush(self._ends, starts_at + duration_s)
        return starts_at

    def _free(self, now: float) -> None:
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)


class Bucket:
    """A token bucket: so many requests a second, with a burst of one second's worth.

    Parameters
    ----------
    rate_per_s : float or None
        Requests a second; None for any number.

    Examples
    --------
    >>> bucket = Bucket(1)
    >>> bucket.take(now=0.0), bucket.take(now=0.25), bucket.take(now=1.0)
    (0.0, 0.75, 0.0)
    """

    def __init__(self, rate_per_s: float | None) -> None:
        self._rate_per_s = rate_per_s
        self._n_most = max(1.0, rate_per_s or 0.0)
        self._n_tokens = self._n_most
        self._filled_at = -math.inf

    def take(self, now: float) -> float:
        """Take a token, or give the seconds until there is one.

        Parameters
        ----------
        now : float
            A clock that never goes back.

        Returns
        -------
        float
            0 if the request may pass.

        Examples
        --------
        >>> Bucket(None).take(now=0.0)
        0.0
        """
        if self._rate_per_s is None:
            return 0.0
        self._n_tokens = min(self._n_most, self._n_tokens + (now - self._filled_at) * self._rate_per_s)
        self._filled_at = now
        if self._n_tokens < 1:
            return (1 - self._n_tokens) / self._rate_per_s
        self._n_tokens -= 1
        return 0.0


def retry_hint(style: RetryAfter, wait_s: float, now: float) -> tuple[dict[str, str], dict[str, float]]:
    """Say when to come again: in a header (seconds or a date), in the body, or not at all.

    Parameters
    ----------
    style : {"none", "seconds", "date", "body"}
        Where it is said.
    wait_s : float
        Seconds to wait; headers hold whole seconds, at least 1.
    now : float
        Unix time in seconds, for the date.

    Returns
    -------
    headers : dict of str to str
    fields : dict of str to float
        What is added to the body's top level.

    Examples
    --------
    >>> retry_hint("seconds", 0.2, now=0.0)
    ({'Retry-After': '1'}, {})
    >>> retry_hint("date", 2.0, now=0.0)
    ({'Retry-After': 'Thu, 01 Jan 1970 00:00:02 GMT'}, {})
    """
    whole_s = max(1, math.ceil(wait_s))
    match style:
        case "seconds":
            return {"Retry-After": str(whole_s)}, {}
        case "date":
            return {"Retry-After": formatdate(math.ceil(now) + whole_s, usegmt=True)}, {}
        case "body":
            return {}, {"retry_after": round(wait_s, 3)}
    return {}, {}
