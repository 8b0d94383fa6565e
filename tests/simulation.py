"""A simulated service in simulated time: it drives the schedule as the runner does, without a socket or a wait."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import Literal

from dreamo_batch.engine.schedule import Action, Do, Schedule
from dreamo_batch.engine.spending import Spending
from dreamo_batch.gateway.tasks import Bucket, Slots
from tests.fakes import limits_of

Asks = Literal["none", "seconds"]


@dataclass
class Count:
    """What was asked of the service, by kind, and how much of it was refused."""

    at: list[tuple[float, Do, bool]] = field(default_factory=list)

    def n(self, do: Do | None = None, *, is_refused: bool | None = None, since: float = 0.0) -> int:
        return sum(
            at >= since and do in (None, kind) and is_refused in (None, refused)
            for at, kind, refused in self.at
        )


class Service:
    """Takes so many tasks at once and so many requests a second; what is over is answered 429.

    A share of creates, or of polls, is refused at random, whatever there is, everything while it is closed, and creates
    that come less than `apart_s` after the last, and requests of any kind less than `requests_apart_s` after the last.
    """

    def __init__(
        self,
        *,
        n_most: int | None = None,
        rate: float | None = None,
        apart_s: float = 0.0,
        requests_apart_s: float = 0.0,
        asks: Asks = "none",
        refused: float = 0.0,
        refused_do: Do = Do.CREATE,
        closed: tuple[float, float] = (0.0, 0.0),
        latency_s: float = 3.0,
        sigma: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.count = Count()
        self._slots = Slots(n_most)
        self._bucket = Bucket(rate)
        self._apart_s, self._accepted_at = apart_s, -math.inf
        self._requests_apart_s, self._let_in_at = requests_apart_s, -math.inf
        self._asks = asks
        self._random = random.Random(seed)
        self._refused, self._refused_do = refused, refused_do
        self._closed_from, self._closed_until = closed
        self._moods = random.Random(seed + 1)
        self._mu = math.log(latency_s) - sigma**2 / 2
        self._sigma = sigma
        self._ends: dict[tuple[str, int], float] = {}
        self.spans: list[tuple[float, float]] = []

    def answer(self, action: Action, now: float) -> tuple[str, float | None]:
        """Give `taken`, `running`, `ended`, `saved` or `refused`, and the seconds it asks to wait."""
        is_closed = self._closed_from <= now < self._closed_until
        wait_s = 1.0 if is_closed else self._bucket.take(now)
        if not wait_s and self._requests_apart_s:
            wait_s = max(0.0, self._let_in_at + self._requests_apart_s - now)
            self._let_in_at = self._let_in_at if wait_s else now
        if not wait_s and action.do is Do.CREATE:
            wait_s = self._slots.wait_s(now)
            if self._apart_s:
                wait_s = max(wait_s, self._accepted_at + self._apart_s - now)
        if not wait_s and action.do is self._refused_do and self._moods.random() < self._refused:
            wait_s = 1.0
        self.count.at.append((now, action.do, wait_s > 0))
        if wait_s:
            return "refused", max(1.0, math.ceil(wait_s)) if self._asks == "seconds" else None
        if action.do is Do.CREATE:
            self._accepted_at = now
            self.begin(action.key, now)
            return "taken", None
        if action.do is Do.SAVE:
            return "saved", None
        return ("ended" if now >= self._ends[action.key] else "running"), None

    def begin(self, key: tuple[str, int], now: float) -> None:
        """Begin a task."""
        self._ends[key] = now + self._take(now)

    def n_busy(self, since: float, until: float) -> float:
        """Count the tasks that ran at once, on average over a stretch of time."""
        overlaps = (min(end, until) - max(start, since) for start, end in self.spans)
        return sum(max(overlap_s, 0.0) for overlap_s in overlaps) / (until - since)

    def _take(self, now: float) -> float:
        latency_s = self._random.lognormvariate(self._mu, self._sigma)
        self._slots.take(now, latency_s)
        self.spans.append((now, now + latency_s))
        return latency_s


@dataclass
class Run:
    """A schedule at work on a service, with workers that take a while for every request."""

    service: Service
    n_jobs: int
    max_in_flight: int
    n_workers: int = 16
    round_trip_s: float = 0.004
    does_save: bool = False
    n_resumed: int = 0  # tasks that an earlier call began
    seed: int = 0
    now: float = 0.0
    windows: list[tuple[float, int]] = field(default_factory=list)

    def work(self, until_s: float = math.inf) -> float:
        """Work until everything is done, or so long; gives how long it took."""
        source = random.Random(self.seed)
        limits = limits_of(
            max_in_flight=self.max_in_flight, n_workers=self.n_workers, task_timeout_s=math.inf
        )
        self.schedule = Schedule(limits, Spending(), seed=self.seed)
        self.schedule.add_jobs([(str(i), 1) for i in range(self.n_jobs)])
        for i in range(self.n_resumed):
            self.service.begin((f"resumed-{i}", 1), 0.0)
            self.schedule.add_task((f"resumed-{i}", 1), now=0.0, age_s=0.0)
        on_the_wire: list[tuple[float, int, Action, str, float | None]] = []
        n_sent = 0
        while self.now < until_s:
            while len(on_the_wire) < self.n_workers:
                action = self.schedule.next_action(self.now)
                if action is None:
                    break
                n_sent += 1
                takes_s = self.round_trip_s * source.uniform(0.7, 1.3)
                answer = self.service.answer(action, self.now + takes_s / 2)
                heapq.heappush(on_the_wire, (self.now + takes_s, n_sent, action, *answer))
            if self.schedule.is_done():
                break
            wake_at = self.schedule.wake_at(self.now) if len(on_the_wire) < self.n_workers else None
            if on_the_wire and (wake_at is None or on_the_wire[0][0] <= wake_at):
                self.now, _, action, answered, asked_s = heapq.heappop(on_the_wire)
                self._take_in(action, answered, asked_s)
            else:
                assert wake_at is not None, "nothing is under way and nothing ever will be"
                self.now = max(self.now, wake_at) + 1e-6
        return self.now

    def _take_in(self, action: Action, answered: str, asked_s: float | None) -> None:
        schedule, key = self.schedule, action.key
        match action.do, answered:
            case Do.CREATE, "refused":
                schedule.send_again(key)
                schedule.limited(self.now, asked_s=asked_s, create=key)
                self.windows.append((self.now, schedule.quota.window.size))
            case Do.CREATE, _:
                schedule.accepted(key, now=self.now)
            case Do.SAVE, "refused":
                schedule.save_failed(key, self.now)
                schedule.save_limited(self.now, asked_s=asked_s)
            case Do.SAVE, _:
                schedule.saved(key, self.now)
            case Do.POLL, "refused":
                schedule.poll_failed(key, self.now, is_refused=True)
                schedule.limited(self.now, asked_s=asked_s)
            case Do.POLL, "ended":
                schedule.task_ended(key, self.now)
                if self.does_save:
                    schedule.add_save(key, refresh_first=False, now=self.now)
            case Do.POLL, _:
                schedule.still_running(key, self.now)
            case Do.REFRESH, _:
                schedule.refreshed(key, self.now)
