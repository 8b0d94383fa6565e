"""How fast: poll times learned from latencies, the in-flight window, request rates and back-off. Pure.

Nothing here waits or reads a clock; every method is told the time.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from dreamo_batch.service import parameters

if TYPE_CHECKING:
    import random

_SAMPLES: Final = 128
_SAMPLES_MIN: Final = 2
_FIRST_DEVIATIONS: Final = 1.6
_DEVIATION_MIN: Final = 0.05
_POLL_WORTH: Final = 0.0105  # of the median: the delay that one poll is worth
_STEP_MIN_S: Final = 0.02
_STEP_MAX_S: Final = 10.0
_JITTER: Final = 0.05
_UNKNOWN_FIRST_S: Final = 0.2
_UNKNOWN_GROWTH: Final = 0.15  # of a task's age, until latencies are known
_TAIL: Final = 1e-6
_SEEN_AT_ONCE: Final = 0.7
_WHOLE: Final = 1 - 1e-6  # of a token: what rounding of large clock times may leave of one
POLLS_PER_S: Final = 200.0  # polls that find nothing new; one that finds an end is not counted


class PollTimes:
    """When to ask for a task next, learned from the latencies of the last 128 tasks.

    Latencies of such services are close to log-normal, so a log-normal is fitted to what was seen. A task is
    first asked for when it may be done (1.6 standard deviations before the median of the logarithms), then at
    intervals that weigh the delay of seeing its end late against the cost of asking: with ``h`` the rate at
    which tasks of its age end, asking every ``sqrt(2 * c / h)`` is best, where one poll is worth the delay
    ``c``. Until two latencies were seen, intervals grow with the task's age from 0.2 s up to what the vendor's
    own client uses.

    Examples
    --------
    >>> import random
    >>> times = PollTimes(random.Random(0))
    >>> for latency_s in (8.0, 10.0, 12.5) * 20:
    ...     times.learn(latency_s, unfinished_s=latency_s)
    >>> 6 < times.due_in(age_s=0.0) < 8, 0.3 < times.due_in(age_s=10.0) < 0.8
    (True, True)
    """

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._logarithms: deque[float] = deque(maxlen=_SAMPLES)
        self._fit: tuple[float, float] | None = None

    def learn(self, seen_s: float, *, unfinished_s: float = 0.0) -> None:
        """Take in the age at which a task was seen done, and the last at which it was not.

        Its end lies between the two. One that was done when first asked for may have been done long before, so
        that it counts as clearly shorter: otherwise tasks would never be asked for sooner than they once were.
        """
        latency_s = (unfinished_s + seen_s) / 2 if unfinished_s else seen_s * _SEEN_AT_ONCE
        self._logarithms.append(math.log(max(latency_s, _STEP_MIN_S)))
        self._fit = None

    def due_in(self, age_s: float) -> float:
        """Seconds until a task of this age is asked for again."""
        if len(self._logarithms) < _SAMPLES_MIN:
            growing = max(_UNKNOWN_FIRST_S, _UNKNOWN_GROWTH * age_s)
            return self._jittered(min(growing, parameters.POLL_EVERY_S.value))
        mean, deviation = self._fitted()
        first_s = math.exp(mean - _FIRST_DEVIATIONS * deviation)
        if age_s < first_s:
            return max(first_s - age_s, _STEP_MIN_S)
        return self._jittered(self._step_s(age_s, mean, deviation))

    def _fitted(self) -> tuple[float, float]:
        if self._fit is None:
            n = len(self._logarithms)
            mean = sum(self._logarithms) / n
            variance = sum((value - mean) ** 2 for value in self._logarithms) / n
            self._fit = mean, max(math.sqrt(variance), _DEVIATION_MIN)
        return self._fit

    def _step_s(self, age_s: float, mean: float, deviation: float) -> float:
        worth_s = _POLL_WORTH * math.exp(mean)
        step_s = math.sqrt(2 * worth_s / hazard(age_s, mean, deviation))
        step_s = math.sqrt(2 * worth_s / hazard(age_s + step_s / 2, mean, deviation))
        return min(max(step_s, _STEP_MIN_S), _STEP_MAX_S)

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + self._random.uniform(-_JITTER, _JITTER))


def hazard(age_s: float, mean: float, deviation: float) -> float:
    """Rate, in 1/s, at which tasks of an age end, for a log-normal with such logarithms.

    Examples
    --------
    >>> round(hazard(1.0, 0.0, 1.0), 3)
    0.798
    """
    z = (math.log(age_s) - mean) / deviation
    surviving = 0.5 * math.erfc(z / math.sqrt(2))
    if surviving < _TAIL:  # far out, where the quotient below loses its digits, the rate tends to this
        return z / (deviation * age_s)
    density = math.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * deviation * age_s)
    return max(density / surviving, _TAIL)


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
        return now if self._tokens >= _WHOLE else now + (1 - self._tokens) / self.rate

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._refill(now)
        if self._tokens < _WHOLE:
            return False
        self._tokens -= 1
        return True

    def give_back(self) -> None:
        """Return a token: what it was taken for should not count."""
        self._tokens = min(self._size, self._tokens + 1)

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._tokens = min(self._size, self._tokens + (now - self._at) * self.rate)
        self._at = now


class Window:
    """How many tasks may be at the service: the user's limit, narrowed by what the service refuses.

    A 429 shows how many it takes: the window closes to what is in flight. It is tried at once whether one more is
    taken; after that it opens by one after a number of accepted creates that doubles each time it was refused, so
    that a service with a fixed cap is asked for more ever more rarely.

    Examples
    --------
    >>> window = Window(8)
    >>> window.refused(n_in_flight=3)
    >>> window.size
    3
    >>> window.open_once()
    >>> window.refused(n_in_flight=3)
    >>> for _ in range(40):
    ...     window.accepted(n_in_flight=3)
    >>> window.size
    4
    """

    _HOLD_FIRST: Final = 20
    _HOLD_MAX: Final = 2000

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = limit
        self._before = limit
        self._hold = self._HOLD_FIRST
        self._n_accepted = 0
        self._is_opened = False

    def refused(self, n_in_flight: int) -> None:
        """Take in a 429 that came while so many tasks were accepted and unfinished."""
        self._before = self.size
        if self._is_opened:
            self.size = max(1, self.size - 1)
            self._hold = min(2 * self._hold, self._HOLD_MAX)
        else:
            self.size = max(1, min(self.size, n_in_flight))
        self._is_opened = False
        self._n_accepted = 0

    def accepted(self, n_in_flight: int = 0) -> None:
        """Take in an accepted create, and how many are in flight with it."""
        self.size = min(max(self.size, n_in_flight), self.limit)  # sent before the window closed, and taken
        if self.size >= self.limit:
            return
        self._n_accepted += 1
        if self._n_accepted >= self._hold:
            self.open_once()

    def open_once(self) -> None:
        """Open by one."""
        if self.size < self.limit:
            self.size += 1
            self._is_opened = True
            self._n_accepted = 0

    def reopen(self) -> None:
        """Undo the last closing: it was something else that the service had too much of."""
        self.size = max(self.size, self._before)
        self._is_opened = False
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
            return max(asked_s, self._first_s)  # a service that asks for no wait at all is not hammered
        return wait_s * self._random.uniform(0.8, 1.2)

    def reset(self) -> None:
        """Start over."""
        self.n = 0
