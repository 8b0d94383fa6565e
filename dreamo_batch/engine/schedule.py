"""What to do next: state + now -> the next request. Pure and deterministic; the time is an argument.

The schedule knows which jobs wait to be submitted, which tasks are open and when each is due, which pictures
wait to be saved, and what the limits are. It never sends anything: `next_action` names one request for a free
worker, and the runner tells it how each ended. `Refusals` finds out whose refusal a 403 is: one row's, which a
firewall blocks, or the account's.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from dreamo_batch.engine.attempts import Attempt, Key, Stage
from dreamo_batch.engine.pacing import POLLS_PER_S, BackOff, Outage, PollTimes, Quota, Standstill, TokenBucket
from dreamo_batch.service.failures import FORBIDDEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dreamo_batch.engine.spending import Spending
    from dreamo_batch.jobs.prepare import Job


_DOWNLOADS_SHARE: Final = 0.5  # of the workers, at most
_N_FREE_OF_CREATES: Final = 2  # workers reserved for everything but creates
_SAVE_TRIES: Final = 3
_STRIKES: Final = 3
_STRIKES_OVER_S: Final = 30.0
_STRIKE_EVERY_S: Final = 15.5
_RETRY_CAP_S: Final = 30.0
_RELAXED_FROM: Final = 50  # open tasks
_N_AT_ONCE: Final = 2  # tasks polled immediately while no latency is known: they may be done already
_SCOUTS: Final = 16  # tasks, the first ones accepted, that are polled to learn latencies
_UNKNOWN_POLL_S: Final = 2.0  # for the other tasks; each poll comes at three times the age of the last
_RESCHEDULED_FROM_S: Final = 0.05


class Do(StrEnum):
    """A request the runner can make."""

    CREATE = "create"
    POLL = "poll"
    SAVE = "save"
    REFRESH = "refresh"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Action:
    """One request: what, and for which attempt of which job."""

    do: Do
    key: Key = ("", 0)


@dataclass(slots=True)
class _Task:
    """What the schedule knows of an open task, in monotonic seconds."""

    born: float
    since: float  # when this call began to wait for the task
    is_fresh: bool = False  # accepted in this call: its latency has no time between calls in it
    is_scout: bool = False  # one of the first tasks, polled to learn latencies
    n_polls: int = 0
    unfinished_s: float = 0.0
    predicted_s: float | None = None  # its latency as first predicted from its progress
    strikes: int = 0
    first_strike: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is sent at once, and how long to wait for a task or an unreachable service."""

    max_in_flight: int
    n_workers: int
    task_timeout_s: float
    patience_s: float
    body_bytes_max: int = 20 * 1024 * 1024  # of all creates on the wire; a larger body is sent alone


class Schedule:
    """Decides what a free worker does next."""

    def __init__(
        self,
        limits: Limits,
        spending: Spending,
        *,
        seed: int = 0,
        body_bytes: Callable[[str], int] = lambda _job_id: 0,
    ) -> None:
        source = random.Random(seed)
        self.limits = limits
        self.spending = spending
        self.quota = Quota(source, n_most=limits.max_in_flight)
        self.poll_times = PollTimes(source)
        self.outage = Outage(BackOff(source, first_s=0.25, cap_s=30.0), patience_s=limits.patience_s)
        self.standstill = Standstill(patience_s=limits.patience_s)
        self.is_submitting = True
        self.is_polling = True
        self.is_halted = False
        self.is_paused = False
        self.sends_one_at_a_time = False
        self._does_pace_saves = False
        self._bucket = TokenBucket(POLLS_PER_S)
        self._waiting: deque[Key] = deque()
        self._tasks: dict[Key, _Task] = {}
        self._due: list[tuple[float, int, Do, Key]] = []
        self._to_save: deque[Key] = deque()
        self._save_tries: dict[Key, int] = {}
        self._busy: dict[Do, set[Key]] = {do: set() for do in Do}
        self._body_bytes = body_bytes
        self._next_body: tuple[Key, int] | None = None
        self._bodies: dict[Key, int] = {}
        self._turn = 0
        self._n_due = 0

    # What there is to do.

    def add_jobs(self, keys: Iterable[Key]) -> None:
        """Queue creates."""
        self._waiting.extend(keys)

    def withdraw(self, job_id: str) -> None:
        """Remove a job's creates from the queue."""
        self._waiting = deque(key for key in self._waiting if key[0] != job_id)

    def put_first(self, job_id: str) -> None:
        """Move a waiting job to the head of the queue."""
        key = next(key for key in self._waiting if key[0] == job_id)
        self._waiting.remove(key)
        self._waiting.appendleft(key)

    def add_task(self, key: Key, *, now: float, age_s: float) -> None:
        """Add a task accepted in an earlier call; it is polled immediately."""
        self._tasks[key] = _Task(now - age_s, now)
        self._plan(Do.POLL, key, now)

    def add_save(self, key: Key, *, refresh_first: bool, now: float) -> None:
        """Queue the download of a picture."""
        if refresh_first:
            self._plan(Do.REFRESH, key, now)
        else:
            self._to_save.append(key)

    def adopt(self, creating: Iterable[Key]) -> None:
        """Wait for creates that an earlier call left on the wire."""
        self._busy[Do.CREATE].update(creating)

    def halt(self) -> None:
        """Send nothing more; only wait for creates on the wire."""
        self.is_halted = True

    def is_awaiting(self, do: Do, key: Key) -> bool:
        """Whether a request is still in progress."""
        return key in self._busy[do]

    # What comes next.

    def next_action(self, now: float) -> Action | None:
        """Return the next request, now under way, or None; the kinds take turns, so that none starves another."""
        if self.is_halted:
            return None
        choices = (self._next_create, self._next_due, self._next_save)
        for i in range(len(choices)):
            action = choices[(self._turn + i) % len(choices)](now)
            if action is not None:
                self._turn = (self._turn + i + 1) % len(choices)
                self._busy[action.do].add(action.key)
                return action
        return self._next_probe(now)

    def wake_at(self, now: float) -> float | None:
        """Return when a request becomes possible by time alone; None if only an answer can do that."""
        times: list[float] = []
        if self.is_halted:
            return None
        if self.outage.mood == "down":
            if not self._busy[Do.PROBE] and self.outage.probe_at is not None:
                times.append(self.outage.probe_at)
        else:
            if self._due and self.is_polling:
                times.append(max(self._due[0][0], self._bucket.ready_at(now), self.quota.ready_at(now)))
            # Even if that is in the past: the cool-down may have ended since the last check.
            if self._may_create() or (self._does_pace_saves and self._may_save()):
                times.append(self.quota.ready_at(now))
            if (at := self.standstill.next_at(now)) is not None:
                times.append(at)
        return min(times, default=None)

    def is_done(self) -> bool:
        """Whether nothing is in progress or left to do."""
        if self.is_halted:
            return not self._busy[Do.CREATE]
        if any(self._busy.values()) or self._to_save or (self.is_polling and (self._tasks or self._due)):
            return False
        # With nothing in flight no money can be released, even if an overdue task still has a reservation.
        return not self._waiting or not self.is_submitting or not self.spending.may_send()

    @property
    def n_in_flight(self) -> int:
        """Tasks at the service, and creates on the wire."""
        return len(self._tasks) + len(self._busy[Do.CREATE])

    @property
    def n_waiting(self) -> int:
        """Jobs not submitted yet."""
        return len(self._waiting)

    @property
    def waiting(self) -> tuple[Key, ...]:
        """Attempts that are still to be sent."""
        return tuple(self._waiting)

    @property
    def creating(self) -> frozenset[Key]:
        """Attempts whose create is on the wire."""
        return frozenset(self._busy[Do.CREATE])

    def cool_down_left_s(self, now: float) -> float:
        """Return the seconds until requests resume after a 429."""
        return max(0.0, self.quota.cool_until - now)

    # How it ended.

    def accepted(self, key: Key, *, now: float) -> None:
        """Add the task of an accepted create."""
        self.create_ended(key)
        is_scout = len(self._tasks) < _SCOUTS and not self.poll_times.is_settled
        self._tasks[key] = task = _Task(now, now, is_fresh=True, is_scout=is_scout)
        self.quota.accepted(key, now=now, n_tasks=len(self._tasks))
        self.answered(is_create=True)
        # The very first may be done already.
        is_at_once = not self.poll_times.is_known and len(self._tasks) <= _N_AT_ONCE
        self._plan(Do.POLL, key, now + (0.0 if is_at_once else self._next_poll_in(task, 0.0)))

    def create_ended(self, key: Key) -> None:
        """Note a create that led to no task."""
        self._busy[Do.CREATE].discard(key)
        self._bodies.pop(key, None)
        self.quota.create_ended(key)

    def send_again(self, key: Key) -> None:
        """Put a create that never arrived back at the head of the queue."""
        self.create_ended(key)
        self._waiting.appendleft(key)

    def limited(self, now: float, *, asked_s: float | None, create: Key | None = None) -> None:
        """Handle a 429 for a create or poll; all requests wait for the same cool-down."""
        self.outage.answered()
        self._refused(now, asked_s=asked_s, create=create)

    def save_limited(self, now: float, *, asked_s: float | None) -> None:
        """Handle a 429 for a download; the service counts those, too."""
        self._does_pace_saves = True
        self._refused(now, asked_s=asked_s)

    def still_running(self, key: Key, now: float, progress: float | None = None) -> bool:
        """Note a poll of an unfinished task, and its progress; return False if it is overdue and no longer polled."""
        task = self._polled(key)
        self.quota.seen(key, now=now, is_running=True)
        task.strikes = 0
        task.unfinished_s = age_s = now - task.born
        predicted_s = age_s / progress if progress else None
        task.predicted_s = task.predicted_s or predicted_s
        return self._ask_again(key, task, now, self._next_poll_in(task, age_s, predicted_s))

    def poll_failed(self, key: Key, now: float, *, is_refused: bool = False) -> bool:
        """Note a failed poll, or one answered 429 (whose wait the quota sets); return False if the task is overdue."""
        task = self._polled(key)
        due_in_s = self.poll_times.due_in(now - task.born)
        wait_s = min(due_in_s if is_refused else max(due_in_s, 1.0), _RETRY_CAP_S)
        return self._ask_again(key, task, now, wait_s)

    def not_found(self, key: Key, now: float) -> bool:
        """Note a "not found"; return False after three of them within at least 30 s."""
        task = self._polled(key)
        self.quota.seen(key, now=now, is_running=False)
        task.strikes += 1
        if task.strikes == 1:
            task.first_strike = now
        if task.strikes >= _STRIKES and now - task.first_strike >= _STRIKES_OVER_S:
            del self._tasks[key]
            return False
        self._plan(Do.POLL, key, now + _STRIKE_EVERY_S)
        return True

    def leave(self, key: Key) -> None:
        """Stop polling a task; a later call may poll it again."""
        self._busy[Do.POLL].discard(key)
        del self._tasks[key]

    def task_ended(self, key: Key, now: float) -> None:
        """Note the end of a task."""
        task = self._polled(key)
        del self._tasks[key]
        self.quota.seen(key, now=now, is_running=False)
        self._bucket.give_back()
        if task.is_fresh:
            self._learn(task, now)

    def _learn(self, task: _Task, now: float) -> None:
        """Learn from a latency; at the first one, and once enough are known, reschedule the polls of all tasks."""
        times = self.poll_times
        before = times.is_known, times.is_settled
        is_open = not times.is_settled
        open_s = [
            task.unfinished_s for task in self._tasks.values() if is_open and task.is_scout and task.n_polls
        ]
        times.learn(
            now - task.born, unfinished_s=task.unfinished_s, predicted_s=task.predicted_s, open_s=open_s
        )
        if before != (times.is_known, times.is_settled):
            self._replan(now)

    def saved(self, key: Key, now: float) -> None:
        """Note a saved picture."""
        if self._does_pace_saves:
            self.quota.answered(now)
        self.standstill.answered()
        self._busy[Do.SAVE].discard(key)
        self._save_tries.pop(key, None)

    def save_failed(self, key: Key, now: float) -> bool:
        """Note a failed download; return False after three tries."""
        self._busy[Do.SAVE].discard(key)
        self._save_tries[key] = n_tries = self._save_tries.get(key, 0) + 1
        if n_tries >= _SAVE_TRIES or not self.is_polling:
            self._save_tries.pop(key)
            return False
        self._plan(Do.REFRESH, key, now + n_tries * 0.5)
        return True

    def refreshed(self, key: Key, now: float) -> None:
        """Note that a new picture URL was requested."""
        self._busy[Do.REFRESH].discard(key)
        self.quota.answered(now)
        self._to_save.append(key)

    def refresh_failed(self, key: Key, now: float) -> None:
        """Queue another request for a new picture URL after a failed one."""
        self._busy[Do.REFRESH].discard(key)
        self._plan(Do.REFRESH, key, now + 1.0)

    def probed(self, now: float, *, is_reachable: bool) -> None:
        """Handle the outcome of a probe."""
        self._busy[Do.PROBE].clear()
        self.outage.probed(now, is_reachable=is_reachable)
        if is_reachable:
            self.standstill.answered()

    def answered(self, *, is_create: bool = False) -> None:
        """Note an answer other than a 429."""
        self.standstill.answered()
        self.outage.answered(is_create=is_create)
        if is_create:
            self.quota.create_answered()

    def n_polls(self, key: Key) -> int:
        """Return the number of polls of an open task."""
        return self._tasks[key].n_polls

    # Private.

    def _refused(self, now: float, *, asked_s: float | None, create: Key | None = None) -> None:
        self.standstill.refused(now)
        self.quota.refused(now=now, n_tasks=len(self._tasks), asked_s=asked_s, create=create)

    def _next_create(self, now: float) -> Action | None:
        if not self._may_create() or not self.quota.is_open(now):
            return None
        size = self._next_size()
        key = self._waiting.popleft()
        if size:
            self._bodies[key] = size
        self.quota.create_sent(key, self._tasks.keys())
        self.outage.tried()
        self.quota.sent(now)
        return Action(Do.CREATE, key)

    def _may_create(self) -> bool:
        """Whether the next create depends only on time."""
        is_held_back = self.is_paused or (self.sends_one_at_a_time and self._busy[Do.CREATE])
        if not self._waiting or not self.is_submitting or is_held_back:
            return False
        # After a poll or probe was answered, a single create tests whether the service is back.
        may_try = not self._busy[Do.CREATE] and (self.outage.has_answered or not self._tasks)
        if self.outage.mood == "down" or (self.outage.mood == "trial" and not may_try):
            return False
        n_creating = len(self._busy[Do.CREATE])
        n_creates_max = max(1, self.limits.n_workers - _N_FREE_OF_CREATES)
        if not self.quota.has_room(self.n_in_flight) or n_creating >= n_creates_max:
            return False
        # Each body stays in memory until it is sent.
        is_full = n_creating and self._next_size() + sum(self._bodies.values()) > self.limits.body_bytes_max
        return not is_full and self.spending.may_send()

    def _next_size(self) -> int:
        key = self._waiting[0]
        if self._next_body is None or self._next_body[0] != key:
            self._next_body = key, self._body_bytes(key[0])
        return self._next_body[1]

    def _next_due(self, now: float) -> Action | None:
        is_open = self.is_polling and self.outage.mood != "down" and self.quota.is_open(now)
        if not self._due or self._due[0][0] > now or not is_open:
            return None
        self._postpone_polls(now)
        if not self._due or self._due[0][0] > now or not self._bucket.take(now):
            return None
        self.quota.sent(now)
        _, _, do, key = heappop(self._due)
        return Action(do, key)

    def _postpone_polls(self, now: float) -> None:
        """Reschedule first polls that are now known to be due later."""
        while self._due and self._due[0][0] <= now:
            _, _, do, key = self._due[0]
            task = self._tasks.get(key) if do is Do.POLL else None
            left_s = 0.0
            if task is not None and task.is_fresh and not task.n_polls:
                left_s = self.poll_times.first_in(now - task.born, ease=self._ease(task))
            if left_s <= _RESCHEDULED_FROM_S:
                return
            heappop(self._due)
            self._plan(do, key, now + left_s)

    def _next_poll_in(self, task: _Task, age_s: float, predicted_s: float | None = None) -> float:
        """Return the seconds until a task is polled again; while no latency is known, mostly scouts are polled."""
        if not self.poll_times.is_known and task.is_fresh and not task.is_scout:
            return min(max(2 * age_s, _UNKNOWN_POLL_S), _RETRY_CAP_S)
        return self.poll_times.due_in(age_s, ease=self._ease(task), predicted_s=predicted_s)

    def _replan(self, now: float) -> None:
        """Reschedule all polls, now that latencies are known, or known better."""
        due, self._due = self._due, []
        for at, number, do, key in due:
            task = self._tasks.get(key) if do is Do.POLL else None
            left_s = at - now
            if task is not None and task.is_fresh and task.n_polls:
                left_s = min(left_s, self._next_poll_in(task, now - task.born))
            elif task is not None and task.is_fresh:
                left_s = self.poll_times.first_in(now - task.born, ease=self._ease(task))
            heappush(self._due, (now + left_s, number, do, key))

    def _ease(self, task: _Task) -> float:
        """Return how late a task's end may be noticed, from 0 (others wait for its slot) to 1."""
        is_urgent = task.is_scout or (self._waiting and self.is_submitting)
        return 0.0 if is_urgent else min(len(self._tasks) / _RELAXED_FROM, 1.0)

    def _next_save(self, now: float) -> Action | None:
        if not self._may_save() or (self._does_pace_saves and not self.quota.is_open(now)):
            return None
        if self._does_pace_saves:
            self.quota.sent(now)
        return Action(Do.SAVE, self._to_save.popleft())

    def _may_save(self) -> bool:
        """Whether the next download depends only on time."""
        n_downloads_max = max(1, int(self.limits.n_workers * _DOWNLOADS_SHARE))
        return bool(self._to_save) and len(self._busy[Do.SAVE]) < n_downloads_max

    def _next_probe(self, now: float) -> Action | None:
        probe_at = self.outage.probe_at
        if self.outage.mood != "down" or self._busy[Do.PROBE] or probe_at is None or now < probe_at:
            return None
        self._busy[Do.PROBE].add(("", 0))
        return Action(Do.PROBE)

    def _plan(self, do: Do, key: Key, at: float) -> None:
        self._n_due += 1
        heappush(self._due, (at, self._n_due, do, key))

    def _polled(self, key: Key) -> _Task:
        self._busy[Do.POLL].discard(key)
        task = self._tasks[key]
        task.n_polls += 1
        return task

    def _ask_again(self, key: Key, task: _Task, now: float, wait_s: float) -> bool:
        if now - task.since >= self.limits.task_timeout_s:
            del self._tasks[key]
            return False
        self._plan(Do.POLL, key, now + wait_s)
        return True


class Refusals:
    """Follows the creates that were refused with 403 since the last one was accepted."""

    # A firewall blocks a prompt or a picture, so a refused row says little about rows unlike it. While in doubt, one
    # create at a time is sent, of the row most unlike the refused ones, and of those the last, as neighbours are often
    # alike; if that is refused, too, the account is. A row is to blame itself if it is refused again after others were
    # accepted, or, in a table with bought rows, if only rows refused by an earlier call are left.

    def __init__(
        self, jobs: Mapping[str, Job], earlier: Mapping[str, bool] | None = None, *, has_bought: bool = False
    ) -> None:
        self._jobs = jobs
        self._earlier = frozenset(earlier or ())
        # Jobs refused once, and whether others were accepted since.
        self._once = dict(earlier or {})
        self.in_a_row: dict[str, int] = {}  # refusals since a create was last accepted
        self._decider: str | None = None
        self._has_bought = has_bought
        self._has_accepted = False

    def accepted(self) -> None:
        """Note an accepted create, which proves that the account isn't refused."""
        self._has_accepted = True
        self._once = dict.fromkeys(self._once, True)
        self._settle()

    def refused(self, job_id: str) -> bool:
        """Note a refused create; return whether its own row is to blame."""
        is_again = self.in_a_row.keys() == {job_id}
        is_own = self._once.get(job_id, False) or (is_again and self._has_accepted)
        if is_own:
            self._decider = None  # proves nothing
        else:
            self._once[job_id] = False
            self.in_a_row[job_id] = self.in_a_row.get(job_id, 0) + 1
        return is_own

    def decide(self, waiting: Sequence[str]) -> str | None:
        """Choose the job to submit next; None if the account seems to be refused."""
        if self._has_bought and self._earlier.issuperset(waiting):
            self._once = dict.fromkeys(self._once, True)
            self._settle()
            return waiting[0]
        refused = [self._jobs[job_id] for job_id in self.in_a_row if job_id in self._jobs]
        others = [job_id for job_id in reversed(waiting) if job_id not in self.in_a_row]
        others.sort(key=self._once.__contains__)  # jobs refused in an earlier call come last
        job = most_unlike(refused, (self._jobs[job_id] for job_id in others))
        if job is not None and self._decider is None:
            self._decider = job.job_id
            return job.job_id
        alone = next(iter(self.in_a_row))
        is_left = job is None and alone in waiting and self.in_a_row == {alone: 1}
        return alone if is_left else None

    def _settle(self) -> None:
        self.in_a_row.clear()
        self._decider = None


def most_unlike(refused: Iterable[Job], others: Iterable[Job]) -> Job | None:
    """Return the job most unlike the refused ones: with neither their prompts nor their pictures if possible."""
    prompts, pictures = {job.prompt for job in refused}, {job.image.digest for job in refused}
    return max(
        others, key=lambda job: (job.prompt not in prompts) + (job.image.digest not in pictures), default=None
    )


def was_forbidden(attempt: Attempt | None) -> bool:
    """Return whether a create was refused with 403 and its row left pending."""
    return attempt is not None and attempt.stage is Stage.UNSENT and attempt.error_class == FORBIDDEN
