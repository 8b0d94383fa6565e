"""How fast: poll times learned from latencies, the in-flight window, request rates and back-off. Pure.

Nothing here waits or reads a clock; every method takes the time as an argument.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from dreamo_batch.service import contract

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Sequence

    from dreamo_batch.engine.attempts import Key


_SAMPLES: Final = 128
_SAMPLES_MIN: Final = 2
_FIRST_DEVIATIONS: Final = 1.6
_DEVIATION_MIN: Final = 0.05
_POLL_WORTH: Final = 0.0085  # of the median: the delay that justifies one poll
_STEP_MIN_S: Final = 0.02
_LATENCY_MIN_S: Final = 0.001
_AT_ONCE_S: Final = 0.02  # shorter tasks, such as cached ones, have ended by the time they are first polled
_STEP_MAX_S: Final = 10.0
_JITTER: Final = 0.05
_UNKNOWN_FIRST_S: Final = 0.2
_UNKNOWN_GROWTH: Final = 0.15  # of a task's age, until latencies are known
_SETTLED_FROM: Final = 24
_DEVIATION_USUAL: Final = 0.5
_USUAL_COUNTS: Final = 4.0  # counts like so many latencies
_GUESS_STEPS: Final = 12
_EASED_DEVIATIONS: Final = 2.6
_EASED_STEP: Final = 0.3  # of a task's age
_PREDICTIONS: Final = 32
_PREDICTED_SHARE: Final = 0.9
_PREDICTED_WITHIN: Final = 0.05
_PREDICTED_MARGIN: Final = 1.01  # because progress is rounded
_PREDICTED_STEPS_MAX: Final = 4
_PREDICTED_STEP: Final = 0.01  # of a task's age
_TAIL: Final = 1e-6
_SEEN_AT_ONCE: Final = 0.7
_WHOLE: Final = 1 - 1e-6  # of a token: large clock times are rounded
POLLS_PER_S: Final = 200.0  # polls of unfinished tasks; a poll that finds the end isn't counted


class PollTimes:
    """When to poll a task next, learned from the latencies of the last 128 tasks."""

    # Latencies of such services are close to log-normal, so a log-normal is fitted to what was seen. With `h` the rate
    # at which tasks of an age end, and `c` the delay that one poll is worth, polling every sqrt(2 * c / h) is best.
    # Where nothing waits for a place, only the last task's end counts: polls are fewer, by an `ease` from 0 to 1.

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._were_predicted: deque[bool] = deque(maxlen=_PREDICTIONS)
        self._logarithms: deque[float] = deque()
        self._sum = self._sum_of_squares = 0.0
        self._guess = 0.0, _DEVIATION_USUAL  # mean and deviation, until enough latencies are known

    @property
    def is_known(self) -> bool:
        """Whether any latencies are known."""
        return len(self._logarithms) >= _SAMPLES_MIN

    @property
    def is_settled(self) -> bool:
        """Whether so many latencies are known that open tasks no longer change the estimate."""
        return len(self._logarithms) >= _SETTLED_FROM

    def learn(
        self,
        seen_s: float,
        *,
        unfinished_s: float = 0.0,
        predicted_s: float | None = None,
        open_s: Sequence[float] = (),
    ) -> None:
        """Note the age at which a task was seen finished, and the last at which it wasn't; of open ones, the latter."""
        if predicted_s is not None:
            self._were_predicted.append(
                unfinished_s * (1 - _PREDICTED_WITHIN) < predicted_s < seen_s * (1 + _PREDICTED_WITHIN)
            )
        # One done when first polled may have ended long before: it counts as shorter, so that others are polled sooner.
        latency_s = (unfinished_s + seen_s) / 2 if unfinished_s else seen_s * _SEEN_AT_ONCE
        logarithm = math.log(max(latency_s, _LATENCY_MIN_S))
        self._logarithms.append(logarithm)
        oldest = self._logarithms.popleft() if len(self._logarithms) > _SAMPLES else 0.0
        self._sum += logarithm - oldest
        self._sum_of_squares += logarithm**2 - oldest**2
        if not self.is_settled:
            self._guess = _guessed(self._logarithms, [math.log(max(age, _LATENCY_MIN_S)) for age in open_s])

    def due_in(self, age_s: float, *, ease: float = 0.0, predicted_s: float | None = None) -> float:
        """Return the seconds until a task of this age is polled again; `predicted_s` is its latency by its progress."""
        if not self.is_known:
            growing = max(_UNKNOWN_FIRST_S, _UNKNOWN_GROWTH * age_s)
            return self._jittered(min(growing, contract.POLL_EVERY_S.value))
        mean, deviation = self._fitted()
        if not age_s and math.exp(mean) < _AT_ONCE_S:
            return 0.0
        first_in_s = self.first_in(age_s, ease=ease)
        if first_in_s > 0:
            return max(first_in_s, _STEP_MIN_S)
        step_s = self._step_s(age_s, mean, deviation)
        if predicted_s is not None and self._is_progress_reliable():
            left_s = max(predicted_s * _PREDICTED_MARGIN - age_s, _PREDICTED_STEP * age_s, _STEP_MIN_S)
            # to notice if progress stops predicting anything
            return min(left_s, _PREDICTED_STEPS_MAX * step_s)
        return self._jittered(max(step_s, ease * _EASED_STEP * age_s))

    def first_in(self, age_s: float, *, ease: float) -> float:
        """Return the seconds until a task of this age may be done; 0 or less if it may be already, or if unknown."""
        if not self.is_known:
            return 0.0
        mean, deviation = self._fitted()
        return math.exp(mean - (_FIRST_DEVIATIONS - ease * _EASED_DEVIATIONS) * deviation) - age_s

    def _is_progress_reliable(self) -> bool:
        n = len(self._were_predicted)
        return n >= _PREDICTIONS // 2 and sum(self._were_predicted) >= _PREDICTED_SHARE * n

    def _fitted(self) -> tuple[float, float]:
        if not self.is_settled:
            return self._guess
        n = len(self._logarithms)
        mean = self._sum / n
        variance = max(self._sum_of_squares / n - mean**2, 0.0)
        return mean, max(math.sqrt(variance), _DEVIATION_MIN)

    def _step_s(self, age_s: float, mean: float, deviation: float) -> float:
        worth_s = _POLL_WORTH * math.exp(mean)
        step_s = math.sqrt(2 * worth_s / hazard(age_s, mean, deviation))
        step_s = math.sqrt(2 * worth_s / hazard(age_s + step_s / 2, mean, deviation))
        return min(max(step_s, _STEP_MIN_S), _STEP_MAX_S)

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + self._random.uniform(-_JITTER, _JITTER))


def _guessed(seen: Collection[float], still_open: Collection[float]) -> tuple[float, float]:
    """Guess mean and deviation of logarithms from the few that were seen, and those that are at least so large."""
    n, mean, deviation = len(seen) + len(still_open), sum(seen) / len(seen), _DEVIATION_USUAL
    for _ in range(_GUESS_STEPS):  # expectation maximisation: what is open counts as what to expect of it
        z = [(logarithm - mean) / deviation for logarithm in still_open]
        ahead = [hazard(math.exp(x), mean, deviation) * math.exp(x) * deviation for x in still_open]
        squares = sum((logarithm - mean) ** 2 for logarithm in seen)
        squares += sum(deviation**2 * (1 + score * more) for score, more in zip(z, ahead, strict=True))
        mean = (sum(seen) + sum(mean + deviation * more for more in ahead)) / n
        deviation = math.sqrt((_USUAL_COUNTS * _DEVIATION_USUAL**2 + squares) / (_USUAL_COUNTS + n))
    return mean, max(deviation, _DEVIATION_MIN)


def hazard(age_s: float, mean: float, deviation: float) -> float:
    """Return the rate (1/s) at which tasks of an age end, for a log-normal with this mean and deviation."""
    z = (math.log(age_s) - mean) / deviation
    surviving = 0.5 * math.erfc(z / math.sqrt(2))
    if surviving < _TAIL:  # far out, where the quotient below loses precision, the rate tends to this
        return z / (deviation * age_s)
    density = math.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * deviation * age_s)
    return max(density / surviving, _TAIL)


class TokenBucket:
    """A rate limit: at most `rate` a second, with bursts of a tenth of a second's worth."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._tokens = self._size
        self._at: float | None = None

    @property
    def _size(self) -> float:
        return max(1.0, self.rate / 10)

    def ready_at(self, now: float) -> float:
        """Return when the next token is available."""
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
        """Put a token back, because its request doesn't count."""
        self._tokens = min(self._size, self._tokens + 1)

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._tokens = min(self._size, self._tokens + (now - self._at) * self.rate)
        self._at = now


class Window:
    """How many tasks may be at the service: the user's limit, reduced by refusals."""

    # More tasks than before a 429 are tried one by one, after a number of accepted creates that doubles with each
    # refusal, or after ten minutes: a fixed cap is tested ever more rarely.

    _HOLD_FIRST: Final = 20
    _HOLD_MAX: Final = 2000
    _HOLD_MAX_S: Final = 600.0
    _PROOF_MIN: Final = 2
    _PROOF_SHARE: Final = 0.25

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.is_trial_due = False
        self._known = limit
        self._hold = self._HOLD_FIRST
        self._held_until = math.inf
        self._n_accepted = 0
        self._n_on_trial = 0

    @property
    def size(self) -> int:
        """Tasks that may be in flight, including those on trial."""
        return self._known + self._n_on_trial

    @property
    def is_proven(self) -> bool:
        """Whether more tasks were accepted in the trial than can have ended unnoticed."""
        return self._n_on_trial > max(self._PROOF_MIN, self._PROOF_SHARE * self._known)

    def refused(self, n_in_flight: int) -> None:
        """Reduce the window after a 429 with n tasks in flight."""
        self._set(max(1, min(self._known, n_in_flight)))

    def accepted(self, now: float) -> None:
        """Note an accepted create."""
        self._n_accepted += 1
        if self._known < self.limit and (self._n_accepted >= self._hold or now >= self._held_until):
            self.is_trial_due = True

    def include(self, n_in_flight: int) -> None:
        """Widen the window to n tasks, which were accepted although the window had closed meanwhile."""
        self._known = min(max(self._known, n_in_flight), self.limit)

    def try_one_more(self) -> None:
        """Allow one task more than the service is known to accept."""
        self._n_on_trial += 1

    def trial_refused(self, now: float) -> None:
        """Note that the service accepts no more; try again later."""
        self._n_on_trial = self._n_accepted = 0
        self._hold, self._held_until = min(2 * self._hold, self._HOLD_MAX), now + self._HOLD_MAX_S
        self.is_trial_due = False

    def trial_accepted(self, *, is_proven: bool) -> None:
        """Widen the window if the extra tasks ran beside all others; otherwise undo the trial and try again."""
        if is_proven:
            self._hold, self._held_until = self._HOLD_FIRST, math.inf
        self._set(min(self.size, self.limit) if is_proven else self._known)

    def reopen(self) -> None:
        """Undo all reductions, because something else caused the refusals."""
        self._set(self.limit)

    def _set(self, known: int) -> None:
        self._known = known
        self._n_on_trial = self._n_accepted = 0
        self.is_trial_due = known < self.limit


class BackOff:
    """Waits that double, with jitter, up to a maximum; Retry-After takes precedence."""

    def __init__(self, source: random.Random, *, first_s: float, cap_s: float) -> None:
        self._random = source
        self._first_s = first_s
        self._cap_s = cap_s
        self.n = 0

    def next(self, asked_s: float | None = None) -> float:
        """Return the seconds to wait; they grow with each call."""
        wait_s = min(self._first_s * 2.0**self.n, self._cap_s)
        self.n = min(self.n + 1, 30)
        if asked_s is not None:
            return max(asked_s, self._first_s)  # don't hammer a service that asks for no wait at all
        return wait_s * self._random.uniform(0.8, 1.2)

    def reset(self) -> None:
        """Start over."""
        self.n = 0


_CALM_S: Final = 10.0  # this long after a cool-down, the next one is short again
_BLAMED_S: Final = 5.0
_N_CREATED: Final = 100
_AT_RANDOM: Final = 0.1  # share of creates that may be refused whatever we do
_ENOUGH: Final = 4  # refusals in a row, too many to be chance
_ENOUGH_OTHERS: Final = 7  # the same for polls and downloads, which are more frequent
_ENOUGH_ON_TRIAL: Final = 2


class Pace:
    """The rate of all requests: unlimited until some are refused as too fast, then learned."""

    # Refused, it falls to a little less than what was answered in the last ten seconds. It rises by steps that double
    # while they succeed, each after a number of delayed requests that doubles with each refusal: a fixed rate is tested
    # ever more rarely.

    _OVER_S: Final = 10.0
    _KEPT: Final = 5000
    _SHARE: Final = 0.95
    _FALL_MOST: Final = 0.7
    _FALL_LEAST: Final = 0.95
    _RATE_MIN: Final = 0.05
    _HOLD_FIRST: Final = 20
    _HOLD_FIRST_S: Final = 30.0  # at most, for a low rate
    _HOLD_MIN: Final = 3
    _HOLD_MAX: Final = 640
    _STEP_FIRST: Final = 0.04
    _STEP_MAX: Final = 0.25  # a service that allows bursts takes a while to refuse a rate that is too high
    _DOUBTED_S: Final = 5.0

    def __init__(self) -> None:
        self._answered: deque[float] = deque(maxlen=self._KEPT)
        self._bucket: TokenBucket | None = None
        self._hold = self._HOLD_FIRST
        self._step = self._STEP_FIRST
        self._n_held = 0
        self._is_holding = False
        self._doubted_until = -math.inf
        self.has_risen = False

    @property
    def rate(self) -> float:
        """Requests per second; infinite until one is refused."""
        return math.inf if self._bucket is None else self._bucket.rate

    def is_doubted(self, now: float) -> bool:
        """Whether the rate may be too high: it has risen, or has just fallen again, perhaps by too little."""
        return self.has_risen or now < self._doubted_until

    def measured(self, now: float) -> float:
        """Return the requests answered per second, over the last ten seconds or since the first."""
        while self._answered and self._answered[0] < now - self._OVER_S:
            self._answered.popleft()
        over_s = now - self._answered[0] if self._answered else 0.0
        return len(self._answered) / max(over_s, 1.0)

    def answered(self, now: float) -> None:
        """Note an answer that was not a refusal."""
        self._answered.append(now)

    def refused(self, now: float, measured: float) -> None:
        """Lower the rate to what the service accepted, now or earlier."""
        rate = self._SHARE * measured
        if self._bucket is None:  # refusing everything says nothing about a rate
            self._bucket = TokenBucket(rate) if rate else None
        else:
            before = self._bucket.rate
            rate = min(max(rate, self._FALL_MOST * before), self._FALL_LEAST * before)
            self._bucket.rate = max(rate, self._RATE_MIN)
            if self.has_risen:
                self._hold = min(2 * self._hold, self._HOLD_MAX)
                self._doubted_until = now + self._DOUBTED_S
        self.has_risen = False
        self._step = self._STEP_FIRST
        self._n_held = 0

    def is_ready(self, now: float) -> bool:
        """Whether a request may be sent now."""
        is_ready = self.ready_at(now) <= now
        self._is_holding |= not is_ready
        return is_ready

    def ready_at(self, now: float) -> float:
        """Return when the rate allows the next request."""
        return -math.inf if self._bucket is None else self._bucket.ready_at(now)

    def take(self, now: float) -> None:
        """Count a request."""
        if self._bucket is None or not self._bucket.take(now):
            return
        self._n_held += self._is_holding  # requests that never had to wait say nothing about a higher rate
        self._is_holding = False
        soon = max(self._HOLD_MIN, self._HOLD_FIRST_S * self._bucket.rate)
        if self._n_held >= (min(self._hold, soon) if self._hold == self._HOLD_FIRST else self._hold):
            self._bucket.rate *= 1 + self._step
            self.has_risen = True
            self._step = min(2 * self._step, self._STEP_MAX)
            self._n_held = 0


@dataclass(slots=True)
class _Trial:
    """Tasks beyond the number known to be accepted; tasks in `unseen` may have ended before these were accepted."""

    key: Key
    unseen: set[Key]
    n_accepted: int = 0


class Quota:
    """Follows requests, acceptances and refusals, and decides whether more may be sent."""

    # A single refusal may be random, so the create is sent again alone. Several in a row mean too many tasks; or too
    # many requests, if polls are refused, too, more tasks turn out to be accepted, or none is open. A rate without
    # bursts looks like a cap, so a refused trial is made again, at a distance.

    def __init__(self, source: random.Random, *, n_most: int) -> None:
        self.window = Window(n_most)
        self.pace = Pace()
        self.cool_until = 0.0
        self.n_refused = 0
        self.waited_s = 0.0  # for the refusals so far, and those still to arrive for the same reason
        self._cool_down = BackOff(source, first_s=0.5, cap_s=60.0)
        self._rate_at_closing: float | None = None  # answers per second then, until the cause is known
        self._blamed_until = -math.inf
        self._trial: _Trial | None = None
        self._sent_before: set[Key] = set()
        self._on_the_wire: set[Key] = set()
        self._n_in_a_row = 0
        self._n_others_in_a_row = 0  # polls and downloads
        self._created: deque[bool] = deque(maxlen=_N_CREATED)
        self._accepted_at: deque[float] = deque(maxlen=_N_CREATED)
        self._apart_s = 0.0  # wait between the last accepted create and a trial, once a trial was refused
        self._now = -math.inf

    # What may be sent.

    def is_open(self, now: float) -> bool:
        """Whether a request may be sent now."""
        self._now = now
        return now >= self.cool_until and self.pace.is_ready(now)

    def ready_at(self, now: float) -> float:
        """Return when the next request may be sent."""
        return max(self.cool_until, self.pace.ready_at(now))

    def has_room(self, n_in_flight: int) -> bool:
        """Whether the service may accept one more task."""
        if self._n_in_a_row and self._on_the_wire:
            return False
        is_early = bool(self._accepted_at) and self._now < self._accepted_at[-1] + self._apart_s
        is_trial = self.window.is_trial_due and not (self._on_the_wire or is_early)
        return n_in_flight < self.window.size + (is_trial and self.window.size < self.window.limit)

    # What was sent, and how it ended.

    def sent(self, now: float) -> None:
        """Count a request."""
        self.pace.take(now)

    def create_sent(self, key: Key, tasks: Collection[Key]) -> None:
        """Count a create, and the tasks open when it was sent."""
        if len(tasks) + len(self._on_the_wire) >= self.window.size:
            self.window.try_one_more()
            self._trial = self._trial or _Trial(key, set(tasks))
            self._trial.key = key
        self._on_the_wire.add(key)
        self._sent_before.discard(key)

    def create_ended(self, key: Key) -> None:
        """Note that a create was answered or lost."""
        self._on_the_wire.discard(key)

    def create_answered(self) -> None:
        """Note that a create was answered, and not with a 429."""
        self._n_in_a_row = 0

    def accepted(self, key: Key, *, now: float, n_tasks: int) -> None:
        """Note an accepted create, and how many tasks there are including it."""
        self._created.append(True)
        self._accepted_at.append(now)
        self.pace.answered(now)
        if key in self._sent_before:
            self.window.include(n_tasks)
        self.window.accepted(now)
        self._cool_down.reset()
        if self._trial is not None and key == self._trial.key:
            self._trial.n_accepted += 1
            if self.window.is_proven:
                self._more_are_accepted(now)

    def answered(self, now: float) -> None:
        """Note that a poll or download was answered, and not with a 429."""
        self._n_others_in_a_row = 0
        self.pace.answered(now)

    def seen(self, key: Key, *, now: float, is_running: bool) -> None:
        """Note a task's status."""
        self.answered(now)
        trial = self._trial
        if trial is None or key not in trial.unseen:
            return
        if not is_running:
            self._trial = None
            self.window.trial_accepted(is_proven=False)
        elif trial.n_accepted:
            trial.unseen.discard(key)
            if not trial.unseen:
                self._more_are_accepted(now)

    def refused(self, *, now: float, n_tasks: int, asked_s: float | None, create: Key | None = None) -> None:
        """Handle a 429 for any request, with n tasks open."""
        self.n_refused += 1
        is_new = now >= self.cool_until and create not in self._sent_before
        is_trial = self._trial is not None and create == self._trial.key
        is_rate = create is None or (self.pace.is_doubted(now) and not is_trial)
        if create is None:
            self._n_others_in_a_row += 1
            n_in_a_row, enough = self._n_others_in_a_row, 1 if self.pace.is_doubted(now) else _ENOUGH_OTHERS
        else:
            self._created.append(False)
            self._n_in_a_row += 1
            n_in_a_row, enough = self._n_in_a_row, 1 if is_rate else _ENOUGH_ON_TRIAL if is_trial else _ENOUGH
        if is_new and asked_s is None and n_in_a_row < enough:
            return
        is_alone = bool(self._accepted_at) and not (n_tasks or self._on_the_wire or n_in_a_row % _ENOUGH)
        if is_new and (asked_s is not None or not is_trial):
            self._begin_cool_down(now, asked_s)
        elif asked_s is not None:
            self._wait_until(max(self.cool_until, now + asked_s), now)
        if is_rate or (is_alone and not self._is_chance()):
            self._blame_rate(now, self.pace.measured(now), is_new=is_new)
        elif is_new:
            self._blame_window(now, n_tasks, is_trial=is_trial)

    def _blame_window(self, now: float, n_tasks: int, *, is_trial: bool) -> None:
        self._trial, at = None, self._accepted_at
        if is_trial and (self._apart_s or not at):
            self._rate_at_closing = None
            self.window.trial_refused(now)
        elif is_trial:
            self.window.trial_accepted(is_proven=False)
        elif self._n_in_a_row <= _ENOUGH:  # under a rate limit all are refused, however few tasks there are
            self._rate_at_closing = self.pace.measured(now)
            self.window.refused(n_tasks)
        if is_trial and at:  # the trial may have come too soon
            gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
            self._apart_s = statistics.median(gaps) / 2 if gaps else 2 * (now - at[-1])

    def _more_are_accepted(self, now: float) -> None:
        """Widen the window; if it had closed because of the request rate, lower that instead."""
        self._apart_s = 0.0
        if self._rate_at_closing is not None and not self._is_chance():
            measured = self._rate_at_closing and max(self._rate_at_closing, self.pace.measured(now))
            self._blame_rate(now, measured, is_new=True)
        else:
            self._trial = self._rate_at_closing = None
            self.window.trial_accepted(is_proven=True)

    def _is_chance(self) -> bool:
        """Whether so few creates are refused that it may be chance."""
        n = len(self._created)
        likely = _AT_RANDOM * n
        return n - sum(self._created) <= likely + 3 * math.sqrt(likely) + _ENOUGH

    def _begin_cool_down(self, now: float, asked_s: float | None) -> None:
        if now > self.cool_until + _CALM_S:
            self._cool_down.reset()
        self._wait_until(now + self._cool_down.next(asked_s), now)
        self._sent_before = set(self._on_the_wire)

    def _wait_until(self, until: float, now: float) -> None:
        self.waited_s += until - max(now, self.cool_until)
        self.cool_until = until

    def _blame_rate(self, now: float, measured: float, *, is_new: bool) -> None:
        is_first = now >= self._blamed_until
        self._blamed_until = max(self.cool_until, now) + _BLAMED_S
        if self._rate_at_closing is not None:
            self.window.reopen()
        self._trial = self._rate_at_closing = None
        if is_new or is_first:
            self.pace.refused(now, measured)


_FAILURES_IN_A_ROW: Final = 3
_TRIALS: Final = 5
_PROBES_IN_VAIN: Final = 3

Mood = Literal["open", "down", "trial"]


class Outage:
    """Follows answers and failures, and decides what may be sent during an outage."""

    def __init__(self, back_off: BackOff, *, patience_s: float) -> None:
        self.mood: Mood = "open"
        self.probe_at: float | None = None
        self.n_failed_probes = 0
        self._back_off = back_off
        self._patience_s = patience_s
        self._n_in_a_row = 0
        self._n_failed_trials = 0
        self._needs_trial = False
        self._is_tried = False
        self._away_since: float | None = None
        self.is_lasting = False
        self.has_answered = True
        self.has_ever_answered = False

    def tried(self) -> None:
        """Note a create; during a trial, its outcome decides."""
        self._is_tried = True

    def failed(self, now: float, *, is_create: bool) -> None:
        """Note a failure; one create or three other requests in a row mean an outage."""
        if self.mood == "trial" and is_create:
            if not self._is_tried:  # sent before the service came back, so it says nothing new
                return
            self._n_failed_trials += 1
        self._n_in_a_row += 1
        if self.mood != "down" and (is_create or self._n_in_a_row >= _FAILURES_IN_A_ROW):
            self._needs_trial |= is_create
            self._go_down(now)

    def answered(self, *, is_create: bool = False) -> None:
        """Note an answer, which ends a trial: that of a create, if one was lost."""
        self._n_in_a_row = 0
        self.has_ever_answered = True
        self.has_answered = self.has_answered or self.mood != "down"
        if self.mood == "trial" and (is_create or not self._needs_trial):
            self._recover()

    def probed(self, now: float, *, is_reachable: bool) -> None:
        """Handle the outcome of a probe."""
        if not is_reachable:
            self.n_failed_probes += 1
            self.is_lasting = True
            self.probe_at = now + self._back_off.next()
            return
        self.has_ever_answered = True
        self.mood, self.probe_at, self.n_failed_probes = "trial", None, 0
        self._is_tried = False
        self._n_in_a_row = 0

    def is_hopeless(self, now: float) -> bool:
        """Whether the outage has lasted too long, or every create gets lost."""
        is_too_long = self._away_since is not None and now - self._away_since > self._patience_s
        return (is_too_long and self.mood == "down") or self.is_losing_creates

    @property
    def was_never_reached(self) -> bool:
        """Whether nothing was ever answered although several probes were sent."""
        return not self.has_ever_answered and self.n_failed_probes >= _PROBES_IN_VAIN

    @property
    def is_losing_creates(self) -> bool:
        """Whether creates get lost while everything else is answered."""
        return self._n_failed_trials >= _TRIALS

    def _go_down(self, now: float) -> None:
        self.is_lasting = self.is_lasting or self.mood == "trial"
        self.mood = "down"
        self.has_answered = False
        self._away_since = now if self._away_since is None else self._away_since
        self.probe_at = now + self._back_off.next()

    def _recover(self) -> None:
        self.mood, self.probe_at, self.n_failed_probes = "open", None, 0
        self._n_failed_trials = 0
        self._needs_trial = self.is_lasting = False
        self._away_since, self.has_answered = None, True
        self._back_off.reset()


_REPORTED_AFTER_S: Final = 30.0
_PATIENCE_MIN_S: Final = 60.0  # even a call that doesn't wait for tasks waits this long for a quota


class Standstill:
    """Follows 429s and answers, and decides when to notify the user and when to give up."""

    def __init__(self, *, patience_s: float) -> None:
        self.since: float | None = None
        self._patience_s = max(patience_s, _PATIENCE_MIN_S)

    def refused(self, now: float) -> None:
        """Handle a 429."""
        self.since = now if self.since is None else self.since

    def answered(self) -> None:
        """Note any other answer, which ends the standstill."""
        self.since = None

    def restart(self, now: float) -> None:
        """Restart the time limit, because nothing was sent for a while."""
        self.since = now if self.since is not None else None

    def is_lasting(self, now: float, until: float) -> bool:
        """Whether nothing has been accepted for a while, or nothing will be before `until`, as the service asks."""
        return self.since is not None and max(now, until) - self.since >= _REPORTED_AFTER_S

    def is_hopeless(self, now: float) -> bool:
        """Whether nothing was accepted for too long."""
        return self.since is not None and now - self.since >= self._patience_s

    def next_at(self, now: float) -> float | None:
        """Return when `is_lasting` or `is_hopeless` next changes by time alone; None if neither does."""
        if self.since is None:
            return None
        times = (self.since + _REPORTED_AFTER_S, self.since + self._patience_s)
        return min((at for at in times if at > now), default=None)
