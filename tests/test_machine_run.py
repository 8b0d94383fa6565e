"""Whole runs in simulated time, against a service that fails in every way: nothing is paid twice or passes a limit.

Everything is real but the network, the disk and the clock: plan, schedule, budget, coordinator and the fold.
The service keeps an invoice that the ledger is compared with, and every create is checked as it is sent.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from heapq import heappop, heappush
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamo_batch.engine import plan, sending
from dreamo_batch.engine.attempts import OPEN, SUBMITTED, EventKind, Stage, State
from dreamo_batch.engine.coordinator import Coordinator
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.ledger import interrupted
from dreamo_batch.engine.pictures import Saved
from dreamo_batch.engine.runner import Runner
from dreamo_batch.engine.schedule import Do, Limits, Schedule
from dreamo_batch.engine.sending import CreateAnswer, PollAnswer, ProbeAnswer, SaveAnswer
from dreamo_batch.engine.spending import Spending, highest_price
from dreamo_batch.errors import AccessRefused, BudgetReached, PriceUnknown, ServiceUnreachable
from dreamo_batch.money import money, total
from dreamo_batch.service import failures
from dreamo_batch.service.failures import Failure, FailureKind
from dreamo_batch.service.messages import ServiceMessage, Task
from tests.fakes import FakeClock, limits_of, prepared

# Other tests reach the same lines; measuring these would double their time.
pytestmark = pytest.mark.no_cover

NOWHERE = Path("/nonexistent/run")
TIMEOUT_S = 60.0
UNBILLED = ("003011095", "003011099")
FAILED = {Stage.FAILED, Stage.REFUSED, Stage.LOST}
UNREACHABLE = Failure(FailureKind.TRANSIENT, failures.UNREACHABLE, is_outage=True)
NO_ANSWER = Failure(FailureKind.TRANSIENT, failures.NO_ANSWER, is_outage=True)
LOST_CREATE = Failure(FailureKind.MAY_HAVE_ARRIVED, failures.NO_ANSWER, is_outage=True)
REJECTED = Failure(FailureKind.PERMANENT, failures.REJECTED, http_status=400)
REFUSED = Failure(FailureKind.STOP, failures.ACCESS_REFUSED, http_status=402)
NOT_FOUND = Failure(FailureKind.PERMANENT, failures.TASK_NOT_FOUND, http_status=404)


@dataclass
class Weather:
    """How the service behaves: rates of each fault, 0 to 1, and how fast and dear it is."""

    lost_taken: float = 0.0  # a create is taken, its answer lost
    lost_untaken: float = 0.0
    unreachable: float = 0.0
    limited: float = 0.0
    rejected: float = 0.0
    refused: float = 0.0
    poll_fault: float = 0.0
    poll_refused: float = 0.0
    unknown: float = 0.0  # a task is never found again
    stuck: float = 0.0
    failing: float = 0.0
    free_of_cost: float = 0.0  # a task ends without naming a cost
    save_fault: float = 0.0
    save_limited: float = 0.0
    probe_fault: float = 0.0
    outage_every_s: float = 0.0
    latency_s: float = 3.0
    concurrency: int = 1000
    price_spread: float = 0.0


@dataclass
class Taken:
    """A task as the service has it, with what it will cost."""

    key: tuple[str, int]
    done_at: float
    cost: Decimal
    shown_cost: str | None
    code: str | None  # of its failure
    end: str
    is_known: bool = True


@dataclass
class Service:
    """The truth: what was taken and what is billed."""

    clock: FakeClock
    source: random.Random
    weather: Weather = field(default_factory=Weather)
    invoice: dict[str, Taken] = field(default_factory=dict)
    quiet_until: float = 0.0

    def happens(self, rate: float) -> bool:
        return self.source.random() < rate

    def is_away(self) -> bool:
        every_s = self.weather.outage_every_s
        return bool(every_s) and self.clock.now % every_s < every_s / 3

    def create(self, key):
        assert self.clock.now >= self.quiet_until, "asked again sooner than the service had said"
        weather = self.weather
        if self.is_away():
            taken = self.take(key) if self.happens(0.3) else None
            return LOST_CREATE if taken or self.happens(0.3) else UNREACHABLE
        if self.happens(weather.limited) or self.n_running >= weather.concurrency:
            return self.limit()
        for rate, answer in (
            (weather.unreachable, UNREACHABLE),
            (weather.rejected, REJECTED),
            (weather.refused, REFUSED),
            (weather.lost_untaken, LOST_CREATE),
        ):
            if self.happens(rate):
                return answer
        task_id = self.take(key)
        return LOST_CREATE if self.happens(weather.lost_taken) else task_id

    def limit(self):
        asked_s = self.source.choice([None, 0.0, 2.0, 30.0])
        return Failure(FailureKind.TRANSIENT, failures.RATE_LIMITED, http_status=429, retry_after_s=asked_s)

    @property
    def n_running(self) -> int:
        """Tasks that take up a place; one that never ends does not keep its place."""
        return sum(self.clock.now < taken.done_at < float("inf") for taken in self.invoice.values())

    def take(self, key) -> str:
        task_id = f"task-{len(self.invoice)}"
        latency_s = self.source.lognormvariate(0, 0.5) * self.weather.latency_s
        cost = Decimal("0.0286") * (1 + Decimal(f"{self.source.random() * self.weather.price_spread:.3f}"))
        end = "failed" if self.happens(self.weather.failing) else "completed"
        code = self.source.choice(["003011095", "003011096", "003011099", None])
        is_free = end == "failed" and code in UNBILLED
        self.invoice[task_id] = Taken(
            key=key,
            done_at=float("inf") if self.happens(self.weather.stuck) else self.clock.now + latency_s,
            cost=Decimal(0) if is_free else cost,
            shown_cost=None if self.happens(self.weather.free_of_cost) or is_free else format(cost, "f"),
            code=code,
            end=end,
            is_known=not self.happens(self.weather.unknown),
        )
        return task_id

    def poll(self, task_id: str):
        taken, weather = self.invoice[task_id], self.weather
        for is_so, answer in (
            (self.is_away(), UNREACHABLE),
            (self.happens(weather.poll_fault), self.source.choice([NO_ANSWER, UNREACHABLE, self.limit()])),
            (self.happens(weather.poll_refused), REFUSED),
            (not taken.is_known, NOT_FOUND),
            (taken.done_at > self.clock.now, Task(task_id, "in_progress")),
        ):
            if is_so:
                return answer
        return self.end_of(task_id, taken)

    def end_of(self, task_id: str, taken: Taken) -> Task:
        if taken.end == "failed":
            return Task(
                task_id, "failed", cost=taken.shown_cost, error=ServiceMessage(taken.code, "no picture")
            )
        has_link = not self.happens(self.weather.save_fault)
        urls = (f"https://example.com/{self.source.random()}",) if has_link else ()
        return Task(task_id, "completed", urls=urls, cost=taken.shown_cost)


class MemoryLedger:
    """Holds events as the journal would: those committed survive a crash."""

    def __init__(self) -> None:
        self.directory = SimpleNamespace(path=NOWHERE, is_lost=lambda: False, replica=None)
        self.committed: list = []
        self.waiting: list = []
        self.interrupted: list[str] = []
        self.state = State()
        self.watch = lambda _event: None

    def record(self, events):
        events = list(events)
        self.waiting += events
        attempts = [self.state.apply(one) for one in events]
        for one in events:
            self.watch(one)
        return attempts

    def commit(self) -> None:
        self.committed += self.waiting
        self.waiting.clear()

    def crash(self) -> None:
        """Keep what was committed, and fold it anew."""
        self.waiting.clear()
        self.state = State()
        for one in self.committed:
            self.state.apply(one)

    @property
    def unwritten(self):
        return tuple(self.waiting)

    def answers_in_strays(self):
        return iter(())

    def strays_on_error(self, _key, _result):
        """Answers are always taken in here."""
        return nullcontext()


class World:
    """A run directory and a service, through any number of calls and crashes."""

    def __init__(self, n_jobs: int, weather: Weather, seed: int) -> None:
        self.clock = FakeClock()
        self.source = random.Random(seed)
        self.service = Service(self.clock, self.source, weather)
        self.table = prepared(*(f"job-{i}" for i in range(n_jobs)))
        self.ledger = MemoryLedger()
        self.found: list = []  # attempts in doubt that were settled as taken
        self.n_creates_lost_on_the_wire = 0

    def call(
        self,
        *,
        limits,
        cap=None,
        unit_cost=None,
        pilot=0,
        crash_after=None,
        halt_after=None,
        pauses=(),
        raised_after=None,
        touches=(),
        **options,
    ):
        """Make one call of `run` and work it off, crash it or interrupt it after so many steps.

        In the steps of `pauses` it is paused or goes on; after `raised_after` a cap is twice as high. `touches` say
        what others do to the live run, and in which step.
        """
        state = self.ledger.state
        for attempt in interrupted(state):
            self.ledger.record([sending.interrupted(attempt, self.clock.wall())])
        self.ledger.commit()
        self.options = {"limits": limits, "unit_cost": unit_cost, "pilot": pilot, **options}
        self.runner = Runner(RunDirectory(NOWHERE))  # never started: its thread is the loop
        self.runner.ledger = self.ledger
        self.runner.workers = SimpleNamespace(n=limits.n_workers)
        self.runner._writer = self.runner.workers  # which start no thread
        self.go_on(self.prepare(cap, **self.options))
        Loop(self, limits.n_workers).run(crash_after, halt_after, pauses, raised_after, touches)
        self.ledger.watch = lambda _event: None

    @property
    def coordinator(self) -> Coordinator:
        return self.runner.coordinator

    def prepare(self, cap, *, limits, unit_cost, pilot, **options) -> tuple[Coordinator, Watch]:
        """Plan a call as it is planned in the runner's thread: nothing is changed yet."""
        state, before = self.ledger.state, self.runner.coordinator
        chosen = options.pop("chosen", frozenset())
        on_ambiguous = "resubmit" if options.pop("resubmit_ambiguous", False) else "hold"
        asked = plan.RunOptions(on_ambiguous=on_ambiguous, **options)
        spending = Spending(cap=cap, price=unit_cost or highest_price(state), n_pilot=pilot, attempts=state)
        if before is not None and before.schedule.is_submitting and not before.schedule.is_halted:
            waiting = {job_id for job_id, _ in before.schedule.waiting}
            chosen |= waiting
        coordinator = Coordinator(
            ledger=self.ledger,
            spending=spending,
            schedule=Schedule(limits, spending, seed=self.source.randrange(99)),
            sender=Requests(),
            clock=self.clock,
            assignment=plan.assignment(self.table, state, asked, NOWHERE, chosen),
        )
        return coordinator, Watch(coordinator, cap, limits, pilot if spending.price is None else 0)

    def go_on(self, planned: tuple[Coordinator, Watch]) -> None:
        """Let the runner take on a call, in place of the one under way."""
        coordinator, self.ledger.watch = planned
        self.runner.switch_to(coordinator, lambda: None)
        self.service.quiet_until = self.clock.now  # a new call knows nothing of what an earlier one was told

    def touch(self, what: str) -> None:
        """Do to the live run what another cell, thread or verb may do at any moment."""
        cap, options = self.coordinator.spending.cap, self.options
        if "halt" in what:
            self.coordinator.halt()
        if "settle" in what:
            self.settle()
        for _ in range(what.count("take over")):
            self.go_on(self.prepare(cap, **options))
        if "fail" in what:
            self.prepare(cap, **options)  # refused after all: what was planned is dropped
        for name, stages in (("retry", FAILED), ("resend", {Stage.AMBIGUOUS})):
            if name in what:
                chosen = frozenset(o.job_id for o in self.ledger.state if o.stage in stages)
                self.go_on(self.prepare(cap, **options | {"chosen": chosen}))
        if what.endswith("taken"):
            self.settle()
        if "interrupt" in what:
            self.coordinator.halt()

    def settle(self) -> None:
        """Settle an attempt in doubt, as who looks at the service's own list finds it."""
        in_doubt = [attempt for attempt in self.ledger.state if attempt.stage is Stage.AMBIGUOUS]
        if not in_doubt:
            return
        attempt = self.source.choice(in_doubt)
        taken = [task_id for task_id, one in self.service.invoice.items() if one.key == key_of(attempt)]
        self.found += [attempt] if taken else []
        self.runner.settle(sending.resolved(attempt, self.clock.wall(), taken[0] if taken else None))

    def check(self) -> None:
        """Compare the ledger with the invoice."""
        invoice, attempts = self.service.invoice, list(self.ledger.state)
        assert max(Counter(taken.key for taken in invoice.values()).values(), default=0) <= 1
        for job_id in {attempt.job_id for attempt in attempts if attempt.stage is Stage.COMPLETED}:
            assert self.ledger.state.deciding(job_id).stage is Stage.COMPLETED
        known = {attempt.task_id: attempt for attempt in attempts if attempt.task_id is not None}
        doubtful = {(o.job_id, o.attempt) for o in attempts if o.stage in (Stage.AMBIGUOUS, Stage.SENDING)}
        assert set(known) <= set(invoice)
        in_doubt = [taken for task_id, taken in invoice.items() if task_id not in known]
        assert all(taken.key in doubtful for taken in in_doubt)
        unsettled = [invoice[task_id] for task_id, attempt in known.items() if attempt.cost is None]
        spent = total(money(attempt.cost) for attempt in attempts if attempt.cost is not None)
        billed = total(taken.cost for taken in invoice.values())
        assert spent + total(taken.cost for taken in (*in_doubt, *unsettled)) == billed


class Requests:
    """Names each request instead of making it."""

    is_halted = threading.Event()

    def create(self, key, job, _recorded_at):
        assert job.job_id == key[0]
        return "create", key, None

    def fetch(self, do, key, task_id):
        return do, key, task_id

    def save(self, key, links, **_named):
        return "save", key, links[0] if links else None

    def probe(self):
        return "probe", None, None


class Watch:
    """Looks at every create as it is written down, with sums of its own."""

    def __init__(self, coordinator, cap, limits, n_pilot) -> None:
        self.coordinator = coordinator
        self.cap = cap
        self.limits = limits
        self.n_pilot = n_pilot
        self.settled_before = {key_of(o) for o in coordinator.ledger.state if o.stage is Stage.COMPLETED}
        # Pilots count over the directory's life.
        self.unpriced = {
            key_of(o) for o in coordinator.ledger.state if o.stage in SUBMITTED and o.reserved is None
        }

    def __call__(self, event) -> None:
        if event.kind is not EventKind.SENDING:
            return
        schedule, attempts = self.coordinator.schedule, list(self.coordinator.ledger.state)
        assert not schedule.is_paused
        others = [o for o in attempts if o.job_id == event.job_id and o.attempt != event.attempt]
        assert not any(o.stage in OPEN or o.stage is Stage.COMPLETED for o in others), (
            "submitted once too often"
        )
        n_sending = sum(attempt.stage is Stage.SENDING for attempt in attempts)
        assert n_sending <= max(1, self.limits.n_workers - 2)
        overdue = [o for o in attempts if o.stage in OPEN and o.error_class == failures.TASK_TIMEOUT]
        n_open = sum(attempt.stage in OPEN for attempt in attempts)
        assert n_open <= self.limits.max_in_flight + len(overdue)
        assert schedule.n_in_flight <= schedule.quota.window.size <= self.limits.max_in_flight
        assert schedule.outage.mood != "down"
        if self.cap is not None:
            self.look_at_money(event, attempts)

    def look_at_money(self, event, attempts) -> None:
        if "reserved" not in event.fields:
            self.unpriced.add((event.job_id, event.attempt))
            submitted = {key_of(attempt) for attempt in attempts if attempt.stage in SUBMITTED}
            assert len(self.unpriced & submitted) <= self.n_pilot
            return
        price = self.coordinator.spending.price
        completed = [
            o for o in attempts if o.stage is Stage.COMPLETED and key_of(o) not in self.settled_before
        ]
        seen = [money(attempt.cost) for attempt in completed if attempt.cost is not None]
        assert Decimal(event.fields["reserved"]) == price >= max(seen, default=0)
        spent = total(money(attempt.cost) for attempt in attempts if attempt.cost is not None)
        owed = [o for o in attempts if not (o.stage is Stage.FAILED and o.error_code in UNBILLED)]
        held = [attempt for attempt in owed if attempt.stage in SUBMITTED and attempt.cost is None]
        reserved = total(price if attempt.reserved is None else money(attempt.reserved) for attempt in held)
        assert spent + reserved <= self.cap


def key_of(attempt) -> tuple[str, int]:
    return attempt.job_id, attempt.attempt


class Loop:
    """What runner and workers do, in simulated time."""

    def __init__(self, world: World, n_workers: int) -> None:
        self.world = world
        self.clock = world.clock
        self.n_workers = n_workers
        self.on_the_way: list = []  # answers, by the time they arrive
        self.n = 0

    @property
    def coordinator(self) -> Coordinator:
        return self.world.coordinator

    def run(self, crash_after, halt_after, pauses=(), raised_after=None, touches=()) -> None:
        n_idle = 0
        for step in range(20_000):
            for _, what in (touch for touch in touches if touch[0] == step):
                self.world.touch(what)
            if step in pauses:
                self.coordinator.pause(is_paused=not self.coordinator.schedule.is_paused)
            if step == raised_after and self.coordinator.spending.cap is not None:
                self.coordinator.spending.cap *= 2
                self.world.ledger.watch.cap *= 2
            is_news = self.give()
            if self.coordinator.is_over():
                self.world.ledger.commit()
                attempts = list(self.world.ledger.state)
                assert all(attempt.stage is not Stage.SENDING for attempt in attempts), (
                    "an answer is awaited by nobody"
                )
                return
            if step == crash_after:
                self.world.ledger.crash()
                return
            if step == halt_after:
                self.coordinator.halt()
                continue
            before = self.clock.now
            is_news |= self.wait()
            n_idle = 0 if is_news or self.clock.now > before else n_idle + 1
            assert n_idle < 3, "turns round and round without anything to do"
        pytest.fail("the call does not end")

    def give(self) -> bool:
        work = self.coordinator.next_work(self.n_workers - len(self.on_the_way))
        self.world.ledger.commit()
        for action, call in work:
            arrives_at, answer = self.answer(action, *call())
            self.n += 1
            heappush(self.on_the_way, (arrives_at, self.n, answer))
        return bool(work)

    def wait(self) -> bool:
        wait_s = self.coordinator.wait_s(self.n_workers - len(self.on_the_way))
        arrives_at = self.on_the_way[0][0] if self.on_the_way else None
        if wait_s is None and arrives_at is None and self.coordinator.schedule.is_paused:
            self.coordinator.pause(is_paused=False)  # as somebody does in the end
            return True
        assert wait_s is not None or arrives_at is not None, "waits for nothing, for ever"
        until = min(
            arrives_at if arrives_at is not None else float("inf"),
            self.clock.now + wait_s if wait_s is not None else float("inf"),
        )
        self.clock.now = max(self.clock.now, until)
        is_news, service = False, self.world.service
        while self.on_the_way and self.on_the_way[0][0] <= self.clock.now:
            answer = heappop(self.on_the_way)[2]
            self.coordinator.handle(answer)
            said = getattr(answer, "refusal", None) or getattr(answer, "result", None)
            asked_s = getattr(said, "retry_after_s", None) or 0.0
            service.quiet_until = max(service.quiet_until, self.clock.now + asked_s)
            is_news = True
        return is_news

    def answer(self, action, what, key, detail):
        service, source = self.world.service, self.world.source
        arrives_at = self.clock.now + source.uniform(0.001, 0.3)
        match what:
            case "create":
                assert action.do is Do.CREATE
                return arrives_at, CreateAnswer(key, service.create(key))
            case "save":
                if service.happens(service.weather.save_limited):
                    return arrives_at, SaveAnswer(key, "rate_limited", service.limit())
                is_saved = detail is not None and not service.happens(service.weather.save_fault)
                saved = Saved(f"images/{key[0]}.jpg", "00", 5, 8, 8)
                return arrives_at, SaveAnswer(key, saved if is_saved else "not a picture")
            case "probe":
                is_reachable = not service.is_away() and not service.happens(service.weather.probe_fault)
                return arrives_at, ProbeAnswer(is_reachable=is_reachable)
            case _:
                return arrives_at, PollAnswer(what, key, service.poll(detail))


rates = st.sampled_from([0.0, 0.0, 0.05, 0.3])
weathers = st.builds(
    Weather,
    lost_taken=rates,
    lost_untaken=rates,
    unreachable=rates,
    limited=rates,
    rejected=rates,
    refused=st.sampled_from([0.0, 0.0, 0.05]),
    poll_fault=rates,
    poll_refused=st.sampled_from([0.0, 0.0, 0.01]),
    unknown=rates,
    stuck=rates,
    failing=rates,
    free_of_cost=rates,
    save_fault=rates,
    save_limited=rates,
    probe_fault=rates,
    outage_every_s=st.sampled_from([0.0, 0.0, 20.0, 200.0]),
    latency_s=st.sampled_from([0.0001, 1.0, 3.0, 40.0]),
    concurrency=st.sampled_from([1, 3, 1000]),
    price_spread=st.sampled_from([0.0, 0.0, 2.0]),
)
TOUCHES = (
    "settle",
    "retry",
    "resend",
    "take over",
    "take over, take over",
    "take over, fail",
    "fail",
    "halt, settle",
    "halt, take over",
    "settle, interrupt",
    "retry, interrupt",
    "take over, interrupt",
    "take over, take over, interrupt",
    "resend, taken",
)
touches = st.sampled_from(TOUCHES)
calls = st.fixed_dictionaries(
    {
        "limits": st.builds(
            Limits,
            max_in_flight=st.integers(1, 8),
            n_workers=st.integers(1, 8),
            task_timeout_s=st.just(TIMEOUT_S),
            patience_s=st.sampled_from([5.0, TIMEOUT_S]),
        ),
        "cap": st.sampled_from([None, Decimal("0.05"), Decimal("0.2"), Decimal(5)]),
        "unit_cost": st.sampled_from([None, Decimal("0.01"), Decimal("0.0286"), Decimal("0.09")]),
        "pilot": st.integers(0, 2),
        "crash_after": st.none() | st.integers(0, 60),
        "halt_after": st.none() | st.integers(0, 60),
        "pauses": st.just(()) | st.frozensets(st.integers(0, 60), max_size=4),
        "raised_after": st.none() | st.integers(0, 60),
        "touches": st.lists(st.tuples(st.integers(0, 60), touches), max_size=4),
        "retry_failed": st.booleans(),
        "resubmit_ambiguous": st.booleans(),
        "max_attempts": st.integers(1, 3),
    }
)


@settings(max_examples=2 * settings().max_examples)
@given(
    st.integers(1, 12),
    weathers,
    st.lists(st.tuples(calls, st.floats(0, 5000)), max_size=5),
    st.integers(0, 9999),
)
def test_no_run_pays_twice_or_passes_a_limit(n_jobs, weather, some_calls, seed):
    """Through any faults, crashes and options: limits hold at every create, and every attempt is accounted for."""
    world = World(n_jobs, weather, seed)
    for call, pause_s in some_calls:
        world.call(**call)
        world.check()
        world.clock.advance(pause_s)
    world.service.weather = Weather()
    for taken in world.service.invoice.values():
        taken.done_at = min(taken.done_at, world.clock.now)
    world.call(limits=limits_of(task_timeout_s=TIMEOUT_S))
    world.check()
    assert world.coordinator.stopped is None
    ended = {Stage.COMPLETED, Stage.FAILED, Stage.REFUSED, Stage.LOST, Stage.AMBIGUOUS}
    assert {job_id: world.ledger.state.deciding(job_id).stage in ended for job_id in world.table.jobs} == (
        dict.fromkeys(world.table.jobs, True)
    )


@pytest.mark.parametrize("what", TOUCHES)
def test_a_live_run_is_not_harmed_by_another_verb(what):
    """Touched in any step, it sends nothing twice, passes no limit, awaits every answer, and can be gone on with."""
    limits = limits_of(max_in_flight=4, n_workers=6, task_timeout_s=TIMEOUT_S)
    for step in range(30):
        world = World(12, Weather(lost_taken=0.3, failing=0.2, latency_s=1.0), step)
        world.call(limits=limits, touches=[(step, what)])
        world.check()
        world.service.weather = Weather()
        world.call(limits=limits)
        world.check()
        stages = Counter(attempt.stage for attempt in world.ledger.state)
        assert set(stages) <= {Stage.COMPLETED, Stage.FAILED, Stage.AMBIGUOUS}
        assert {attempt.job_id for attempt in world.ledger.state} == set(world.table.jobs)
        assert all(len(world.ledger.state.of(attempt.job_id)) == attempt.attempt for attempt in world.found)


def test_a_fair_day_buys_each_job_once():
    """Without faults every job is completed and saved, and a second call buys and changes nothing."""
    world = World(30, Weather(), 0)
    world.call(limits=limits_of())
    world.check()
    attempts = list(world.ledger.state)
    assert [attempt.stage for attempt in attempts] == [Stage.COMPLETED] * 30
    assert all(attempt.output_path and attempt.cost for attempt in attempts)
    n_events = len(world.ledger.committed)
    world.call(limits=limits_of(), download=False)
    assert len(world.ledger.committed) == n_events
    assert len(world.service.invoice) == 30


@settings(max_examples=settings().max_examples // 4)
@given(st.integers(0, 10_000), st.integers(0, 80))
def test_a_crash_leaves_no_more_in_doubt_than_was_on_the_wire(seed, crash_after):
    """Only creates whose answer was not on disk yet are ambiguous; all others go on where they were."""
    world = World(12, Weather(latency_s=1.0), seed)
    limits = limits_of(max_in_flight=4, n_workers=6)
    world.call(limits=limits, crash_after=crash_after)
    n_on_the_wire = sum(attempt.stage is Stage.SENDING for attempt in world.ledger.state)
    assert n_on_the_wire <= 4
    world.call(limits=limits)
    world.check()
    stages = Counter(attempt.stage for attempt in world.ledger.state)
    assert stages[Stage.AMBIGUOUS] == n_on_the_wire
    assert stages[Stage.COMPLETED] == 12 - n_on_the_wire


def test_the_cap_binds_across_calls():
    """A cap is for all that was ever submitted; reached, it says so, and raised, it goes on."""
    world = World(10, Weather(), 0)
    for cap, n_bought in (("0.0857", 2), ("0.0858", 3), ("0.0858", 3), ("1", 10)):
        world.call(limits=limits_of(), cap=Decimal(cap), unit_cost=Decimal("0.0286"))
        world.check()
        assert len(world.service.invoice) == n_bought
        assert isinstance(world.coordinator.stopped, BudgetReached) == (n_bought < 10)


def test_a_cap_held_by_an_overdue_task_ends_the_call():
    """What a task that takes too long holds back can't come free in this call, so nobody waits for it."""
    world = World(3, Weather(stuck=1.0), 0)
    world.call(limits=limits_of(task_timeout_s=TIMEOUT_S), cap=Decimal("0.03"), unit_cost=Decimal("0.0286"))
    assert isinstance(world.coordinator.stopped, BudgetReached)
    assert "2 jobs not submitted" in str(world.coordinator.stopped)
    assert [attempt.error_class for attempt in world.ledger.state] == [failures.TASK_TIMEOUT]


def test_pilots_show_the_price():
    """Without a price as many attempts as allowed go first; then the cap binds at what they cost."""
    world = World(10, Weather(), 0)
    world.call(limits=limits_of(), cap=Decimal("0.12"), pilot=2)
    assert len(world.service.invoice) == 4
    assert isinstance(world.coordinator.stopped, BudgetReached)


def test_pilots_that_tell_no_price_end_the_call():
    """If even they name no cost, a cap can't be kept, and that is said."""
    world = World(10, Weather(free_of_cost=1.0), 0)
    world.call(limits=limits_of(), cap=Decimal("0.12"), pilot=2)
    assert len(world.service.invoice) == 2
    assert isinstance(world.coordinator.stopped, PriceUnknown)


def test_a_pilot_that_is_refused_is_not_used_up():
    """A row that the service rejects was no attempt, so the next row may show the price."""
    world = World(10, Weather(rejected=1.0), 0)
    world.call(limits=limits_of(), cap=Decimal("0.12"), pilot=1)
    assert [attempt.stage for attempt in world.ledger.state] == [Stage.REFUSED] * 10
    assert world.coordinator.stopped is None


def test_no_access_stops_buying_and_finishes_what_is_in_flight():
    """After a 402 nothing more is sent, and tasks at the service are still fetched."""
    world = World(12, Weather(refused=0.4), 3)
    world.call(limits=limits_of(max_in_flight=3))
    assert isinstance(world.coordinator.stopped, AccessRefused)
    assert {attempt.stage for attempt in world.ledger.state} <= {Stage.COMPLETED, Stage.UNSENT}
    assert world.coordinator.schedule.n_waiting > 0
    world.check()


def test_no_access_to_tasks_stops_asking_too():
    """Where even polls are refused there is nothing to wait for; the tasks stay open for the next call."""
    world = World(3, Weather(poll_refused=1.0), 0)
    world.call(limits=limits_of())
    assert isinstance(world.coordinator.stopped, AccessRefused)
    assert {attempt.stage for attempt in world.ledger.state} <= {Stage.ACCEPTED}
    world.service.weather = Weather()
    world.call(limits=limits_of())
    assert {attempt.stage for attempt in world.ledger.state} == {Stage.COMPLETED}
    world.check()


def test_pictures_asked_for_too_fast_come_in_the_end():
    """A host that limits downloads is given time, and no picture is given up for that."""
    world = World(12, Weather(save_limited=0.3), 2)
    world.call(limits=limits_of())
    assert {attempt.stage for attempt in world.ledger.state} == {Stage.COMPLETED}
    world.service.weather = Weather()
    world.call(limits=limits_of())
    assert all(attempt.output_path for attempt in world.ledger.state)


def test_an_outage_fails_no_row():
    """Rows wait for the service to come back; only creates on the wire may become ambiguous."""
    world = World(20, Weather(outage_every_s=30.0), 1)
    world.call(limits=limits_of(max_in_flight=3, n_workers=8))
    world.check()
    stages = Counter(attempt.stage for attempt in world.ledger.state)
    assert set(stages) <= {Stage.COMPLETED, Stage.AMBIGUOUS}
    assert world.coordinator.stopped is None
    assert any("Service unreachable" in notice for notice in world.coordinator.notices)
    assert not any("check the base URL" in notice for notice in world.coordinator.notices)
    assert any("is back; resuming" in notice for notice in world.coordinator.notices)


def test_a_service_that_stays_away_is_given_up():
    """After the time it was told to wait a run ends and says so."""
    world = World(5, Weather(unreachable=1.0, probe_fault=1.0), 1)
    world.call(limits=limits_of(patience_s=120.0))
    assert isinstance(world.coordinator.stopped, ServiceUnreachable)
    assert "too long" in str(world.coordinator.stopped)
    assert {attempt.stage for attempt in world.ledger.state} == {Stage.UNSENT}


def test_a_service_that_loses_creates_costs_a_handful():
    """If every create is lost while questions are answered, few rows are risked."""
    world = World(200, Weather(lost_taken=1.0), 1)
    world.call(limits=limits_of(max_in_flight=50, n_workers=8))
    assert isinstance(world.coordinator.stopped, ServiceUnreachable)
    assert "in a row got no reply" in str(world.coordinator.stopped)
    assert len(world.service.invoice) <= 6 + 5
    world.check()


def test_a_service_that_takes_few_at_a_time_is_not_hammered():
    """Refused for its concurrency, a run asks ever more rarely for more than it takes."""
    world = World(100, Weather(concurrency=3, latency_s=1.0), 1)
    world.call(limits=limits_of(max_in_flight=20))
    world.check()
    refusals = [attempt.n_refusals or 0 for attempt in world.ledger.state]
    assert sum(refusals) < 60
    assert {attempt.stage for attempt in world.ledger.state} == {Stage.COMPLETED}
    waits = [
        (attempt.waited_s, attempt.answered_at - attempt.sent_at)
        for attempt in world.ledger.state
        if attempt.n_refusals
    ]
    assert all(waited_s > sent_for_s for waited_s, sent_for_s in waits)


def test_unbilled_failures_are_submitted_again_within_the_attempts():
    """Only as often as allowed, and only what the contract calls unbilled."""
    world = World(40, Weather(failing=1.0), 1)
    world.call(limits=limits_of(), max_attempts=3)
    world.check()
    for job_id in world.table.jobs:
        attempts = world.ledger.state.of(job_id)
        assert len(attempts) <= 3
        assert all(attempt.error_code in ("003011095", "003011099") for attempt in attempts[:-1])
        assert len(attempts) == 3 or attempts[-1].error_code in ("003011096", None)


def test_nothing_is_submitted_again_by_itself():
    """By default a failed job is a failed job, whatever its code."""
    world = World(20, Weather(failing=1.0), 1)
    for _ in range(2):
        world.call(limits=limits_of())
    assert {len(world.ledger.state.of(job_id)) for job_id in world.table.jobs} == {1}


def test_an_interrupted_call_leaves_nothing_in_doubt():
    """Answers of creates on the wire are waited for, so the next call knows them all."""
    for halt_after in range(12):
        world = World(12, Weather(), halt_after)
        world.call(limits=limits_of(max_in_flight=4), halt_after=halt_after)
        assert all(attempt.stage is not Stage.SENDING for attempt in world.ledger.state)
        world.call(limits=limits_of())
        assert {attempt.stage for attempt in world.ledger.state} == {Stage.COMPLETED}
        world.check()
