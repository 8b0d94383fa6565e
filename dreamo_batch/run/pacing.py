"""How fast: poll times learned from latencies, the in-flight window, request rates and back-off. Pure.

Nothing here waits or reads a clock; every method is told the time.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import TYPE_CHECKING, Final

from dreamo_batch.service import parameters

if TYPE_CHECKING:
    import random

_SAMPLES: Final = 64
_FIRST_QUANTILE: Final = 0.1
_STEP_OF_MEDIAN: Final = 0.08
_STEP_MIN_S: Final = 0.02
_STEP_MAX_S: Final = 10.0
_JITTER: Final = 0.1
_UNKNOWN_FIRST_S: Final = 0.2
_UNKNOWN_GROWTH: Final = 0.35  # of a task's age, until latencies are known
POLLS_PER_S: Final = 200.0


class PollTimes:
    """When to ask for a task next, learned from the latencies of the last 64 tasks.

    A task is first asked for at the 10 % quantile of what was seen, then every 0.08 of the median. While
    nothing was seen, intervals grow with the task's age, from 0.2 s up to what the vendor's own client uses.

    Examples
    --------
    >>> import random
    >>> times = PollTimes(random.Random(0))
    >>> for _ in range(64):
    ...     times.learn(10.0)
    >>> 9 < times.due_in(age_s=0.0) < 11, 0.7 < times.due_in(age_s=10.0) < 0.9
    (True, True)
    """

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def learn(self, latency_s: float) -> None:
        """Take in how long a task took from sending to being seen done."""
        if len(self._recent) == _SAMPLES:
            self._sorted.remove(self._recent.popleft())
        self._recent.append(latency_s)
        insort(self._sorted, latency_s)

    def due_in(self, age_s: float) -> float:
        """Seconds until a task of this age is asked for again."""
        if not self._sorted:
            growing = max(_UNKNOWN_FIRST_S, _UNKNOWN_GROWTH * age_s)
            return self._jittered(min(growing, parameters.POLL_EVERY_S.value))
        first = self._sorted[int(_FIRST_QUANTILE * (len(self._sorted) - 1))]
        median = self._sorted[len(self._sorted) // 2]
        step = self._jittered(min(max(_STEP_OF_MEDIAN * median, _STEP_MIN_S), _STEP_MAX_S))
        return max(first - age_s, step) if age_s < first else step

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + self._random.uniform(-_JITTER, _JITTER))


class TokenBucket:
    """A rate limit: at most `rate` a second, with bursts of a tenth of a second's worth.

    Examples
    --------
    >>> bucket = TokenBucket(10.0)
    >>> bucket.take(now=0.0), bucket.take(now=0.0), round(bucket.ready_at(0.0), 3)
    (True, False, 0.1)
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._tokens = self._size
        self._at: float | None = None

    @property
    def _size(self) -> float:
        return max(1.0, self.rate / 10)

    def ready_at(self, now: float) -> float:
        """Say when the next token is there."""
        self._refill(now)
        return now if self._tokens >= 1 else now + (1 - self._tokens) / self.rate

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._tokens = min(self._size, self._tokens + (now - self._at) * self.rate + 1e-9)
        self._at = now


class Window:
    """How many tasks may be at the service: the user's limit, narrowed by what the service refuses.

    A 429 shows how many it takes: the window closes to what is in flight. It opens again by one after a
    number of accepted creates that doubles each time an opening is refused, so that a service with a fixed cap
    is asked for more ever more rarely.

    Examples
    --------
    >>> window = Window(8)
    >>> window.refused(n_in_flight=3)
    >>> window.size
    3
    >>> for _ in range(20):
    ...     window.accepted()
    >>> window.size
    4
    """

    _HOLD_FIRST: Final = 20
    _HOLD_MAX: Final = 2000

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = limit
        self._hold = self._HOLD_FIRST
        self._n_accepted = 0
        self._opened_to: int | None = None

    def refused(self, n_in_flight: int) -> None:
        """Take in a 429 that came while so many tasks were accepted and unfinished."""
        size = max(1, min(self.size, n_in_flight))
        if self._opened_to is not None and size == self._opened_to - 1:
            self._hold = min(2 * self._hold, self._HOLD_MAX)
        self.size = size
        self._opened_to = None
        self._n_accepted = 0

    def accepted(self) -> None:
        """Take in an accepted create."""
        if self.size >= self.limit:
            return
        self._n_accepted += 1
        if self._n_accepted >= self._hold:
            self.size += 1
            self._opened_to = self.size
            self._n_accepted = 0


class BackOff:
    """Waiting times that double, jittered, up to a cap; a word from the service takes their place.

    Examples
    --------
    >>> import random
    >>> back_off = BackOff(random.Random(0), first_s=1.0, cap_s=30.0)
    >>> back_off.next(asked_s=7.0)
    7.0
    >>> 1.5 < back_off.next() < 2.5
    True
    """

    def __init__(self, source: random.Random, *, first_s: float, cap_s: float) -> None:
        self._random = source
        self._first_s = first_s
        self._cap_s = cap_s
        self.n = 0

    def next(self, asked_s: float | None = None) -> float:
        """Seconds to wait now; each call waits longer than the one before."""
        wait_s = min(self._first_s * 2.0**self.n, self._cap_s)
        self.n = min(self.n + 1, 30)
        if asked_s is not None:
            return asked_s
        return wait_s * self._random.uniform(0.8, 1.2)

    def reset(self) -> None:
        """Start over."""
        self.n = 0
