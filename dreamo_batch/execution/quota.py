"""What the service allows: how many tasks at once, and how many requests a second, learned from what it refuses. Pure.

A 429 does not say which of the two it was. What is asked or fetched is refused only for coming too fast. A create
may be refused for either; where nothing else was refused, one more is sent after the cool-down. If that is taken,
and every task from before it is seen running after it, it was not their number that was refused.

Some services refuse now and then whatever there is. Where most creates are taken, one that is refused alone is sent
again at once, and narrows nothing; a second refusal in a row counts, and so does a word on how long to wait.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dreamo_batch.execution.pacing import BackOff, TokenBucket, Window

if TYPE_CHECKING:
    import random
    from collections.abc import Collection

Key = tuple[str, int]

_CALM: Final = 4.0  # times the last cool-down: after so long without a refusal the next one is short again
_BLAMED_S: Final = 5.0
_N_CREATED: Final = 30
_TAKEN: Final = 0.75


class Pace:
    """The rate of requests of every kind: unlimited until some are refused for coming too fast, then learned.

    Refused, it falls to a little less than what was answered in the last ten seconds. It rises again by a step after
    a number of requests that had to wait for it: steps double while they succeed, and the number doubles each time
    they are refused, so that a service with a fixed rate is tried ever more rarely.

    Examples
    --------
    >>> pace = Pace()
    >>> for n in range(40):
    ...     pace.answered(now=n / 10)
    >>> pace.refused(now=4.0)
    >>> round(pace.rate, 1)
    9.5
    >>> pace.take(now=4.0), pace.is_ready(now=4.0), round(pace.ready_at(now=4.0), 2)
    (True, False, 4.11)
    """

    _OVER_S: Final = 10.0
    _KEPT: Final = 5000
    _SHARE: Final = 0.95
    _FALL_MOST: Final = 0.7
    _FALL_LEAST: Final = 0.95
    _RATE_MIN: Final = 0.05
    _HOLD_FIRST: Final = 20
    _HOLD_MAX: Final = 640
    _STEP_FIRST: Final = 0.04
    _STEP_MAX: Final = 0.5

    def __init__(self) -> None:
        self._answered: deque[float] = deque(maxlen=self._KEPT)
        self._bucket: TokenBucket | None = None
        self._hold = self._HOLD_FIRST
        self._step = self._STEP_FIRST
        self._n_held = 0
        self._is_holding = False
        self._has_risen = False

    @property
    def rate(self) -> float:
        """Requests a second; infinite while none was refused."""
        return math.inf if self._bucket is None else self._bucket.rate

    def measured(self, now: float) -> float:
        """Requests answered a second, in the last ten seconds or since the first."""
        while self._answered and self._answered[0] < now - self._OVER_S:
            self._answered.popleft()
        over_s = now - self._answered[0] if self._answered else 0.0
        return max(len(self._answered) / max(over_s, 1.0), self._RATE_MIN)

    def answered(self, now: float) -> None:
        """Take in an answer that was no refusal."""
        self._answered.append(now)

    def refused(self, now: float, *, measured: float | None = None) -> None:
        """Fall to what the service was seen to take, here or at an earlier moment."""
        rate = self._SHARE * (self.measured(now) if measured is None else measured)
        if self._bucket is None:
            self._bucket = TokenBucket(rate)
        else:
            before = self._bucket.rate
            rate = min(max(rate, self._FALL_MOST * before), self._FALL_LEAST * before)
            self._bucket.rate = max(rate, self._RATE_MIN)
            if self._has_risen:
                self._hold = min(2 * self._hold, self._HOLD_MAX)
        self._has_risen = False
        self._step = self._STEP_FIRST
        self._n_held = 0

    def is_ready(self, now: float) -> bool:
        """Whether a request may be sent now."""
        is_ready = self.ready_at(now) <= now
        self._is_holding |= not is_ready
        return is_ready

    def ready_at(self, now: float) -> float:
        """Say when the next request may be sent, by the rate."""
        return -math.inf if self._bucket is None else self._bucket.ready_at(now)

    def take(self, now: float) -> bool:
        """Count a request that is sent; False if it should not be yet."""
        if self._bucket is None:
            return True
        if not self._bucket.take(now):
            return False
        self._n_held += self._is_holding  # what never had to wait says nothing of a higher rate
        self._is_holding = False
        if self._n_held >= self._hold:
            self._bucket.rate *= 1 + self._step
            self._has_risen = True
            self._step = min(2 * self._step, self._STEP_MAX)
            self._n_held = 0
        return True


@dataclass(slots=True)
class _Doubt:
    """A create was refused, and it is not known yet what for; `unseen` may have ended before the trial was taken."""

    measured: float
    trial: Key | None = None
    is_taken: bool = False
    unseen: set[Key] = field(default_factory=set)


class Quota:
    """Follows what is sent, taken and refused, and says whether more may be sent.

    Parameters
    ----------
    source : random.Random
        For jitter.
    n_most : int
        Tasks at the service at once that the user allows.

    Examples
    --------
    >>> import random
    >>> quota = Quota(random.Random(0), n_most=8)
    >>> quota.refused(now=0.0, n_tasks=2, asked_s=3.0, create=("a", 1))
    >>> quota.window.size, quota.is_open(now=2.9), quota.ready_at(now=2.9)
    (2, False, 3.0)
    """

    def __init__(self, source: random.Random, *, n_most: int) -> None:
        self.window = Window(n_most)
        self.pace = Pace()
        self.cool_until = 0.0
        self._cool_down = BackOff(source, first_s=0.5, cap_s=60.0)
        self._cool_s = 0.0
        self._blamed_until = -math.inf
        self._doubt: _Doubt | None = None
        self._sent_before: set[Key] = set()
        self._on_the_wire: set[Key] = set()
        self._has_closed = False
        self._is_window_known = False
        self._created: deque[bool] = deque(maxlen=_N_CREATED)

    # What may be sent.

    def is_open(self, now: float) -> bool:
        """Whether a request may be sent now."""
        return now >= self.cool_until and self.pace.is_ready(now)

    def ready_at(self, now: float) -> float:
        """Say when the next request may be sent."""
        return max(self.cool_until, self.pace.ready_at(now))

    def has_room(self, n_in_flight: int) -> bool:
        """Whether the service may take one more task."""
        is_trial_due = self._doubt is not None and self._doubt.trial is None and not self._on_the_wire
        size = self.window.size
        return n_in_flight < size or (is_trial_due and n_in_flight == size < self.window.limit)

    # What was sent, and how it ended.

    def sent(self, now: float) -> None:
        """Count a request."""
        self.pace.take(now)

    def create_sent(self, key: Key, tasks: Collection[Key]) -> None:
        """Count a create, sent beside these tasks."""
        if len(tasks) + len(self._on_the_wire) >= self.window.size:
            self.window.open_once()
            if self._doubt is not None:
                self._doubt.trial, self._doubt.unseen = key, set(tasks)
        self._on_the_wire.add(key)
        self._sent_before.discard(key)

    def create_ended(self, key: Key) -> None:
        """Take in that a create was answered, or lost."""
        self._on_the_wire.discard(key)

    def accepted(self, key: Key, *, now: float, n_tasks: int) -> None:
        """Take in an accepted create, and how many tasks there are with it."""
        self._created.append(True)
        self.pace.answered(now)
        self.window.accepted(n_tasks)
        self._cool_down.reset()
        if self._doubt is not None and key == self._doubt.trial:
            self._doubt.is_taken = True

    def seen(self, key: Key, *, now: float, is_running: bool) -> None:
        """Take in what a task was seen to be."""
        self.pace.answered(now)
        doubt = self._doubt
        if doubt is None or key not in doubt.unseen:
            return
        if not is_running:  # tasks are short, so that polls will tell before long
            self._doubt, self._is_window_known = None, True
        elif doubt.is_taken:
            doubt.unseen.discard(key)
            if not doubt.unseen and self._is_mostly_taken():
                self._doubt = None
                self.window.reopen()
            elif not doubt.unseen:
                self._blame_rate(now, doubt.measured, is_new=True)

    def refused(self, *, now: float, n_tasks: int, asked_s: float | None, create: Key | None = None) -> None:
        """Take in a 429, of a create or of anything else, while there were so many tasks."""
        is_new = now >= self.cool_until and create not in self._sent_before
        if create is not None:
            is_lone = self._is_mostly_taken() and self._created[-1]
            self._created.append(False)
            # Nothing was refused before it: the same one is sent again at once, and only a second no says something.
            if is_lone and is_new and asked_s is None and now >= self._blamed_until:
                return
        if is_new:
            self._begin_cool_down(now, asked_s)
        elif asked_s is not None:
            self.cool_until = max(self.cool_until, now + asked_s)
        if create is None or now < self._blamed_until:
            self._blame_rate(now, self.pace.measured(now), is_new=is_new)
        elif is_new:
            self._blame_window(now, create, n_tasks)

    def _is_mostly_taken(self) -> bool:
        """Whether creates are refused now and then, and not because too many are sent."""
        return len(self._created) >= _N_CREATED // 2 and sum(self._created) >= _TAKEN * len(self._created)

    def _begin_cool_down(self, now: float, asked_s: float | None) -> None:
        if now - self.cool_until > _CALM * self._cool_s:
            self._cool_down.reset()
        self._cool_s = self._cool_down.next(asked_s)
        self.cool_until = now + self._cool_s
        self._sent_before = set(self._on_the_wire)
        self._has_closed = False

    def _blame_rate(self, now: float, measured: float, *, is_new: bool) -> None:
        is_first = now >= self._blamed_until
        self._blamed_until = max(self.cool_until, now) + _BLAMED_S
        if self._has_closed or self._doubt is not None:
            self.window.reopen()
        self._doubt, self._has_closed = None, False
        if is_new or is_first:
            self.pace.refused(now, measured=measured)

    def _blame_window(self, now: float, create: Key, n_tasks: int) -> None:
        if self._doubt is not None and create == self._doubt.trial:
            self._is_window_known = True
        self._doubt = None if self._is_window_known else _Doubt(self.pace.measured(now))
        self._has_closed = True
        self.window.refused(n_tasks)
