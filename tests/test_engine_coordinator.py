"""Each kind of answer, and what it does to ledger, budget and schedule."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from decimal import Decimal

import pytest

from dreamo_batch.engine import plan, sending
from dreamo_batch.engine.attempts import Event, EventKind, Stage
from dreamo_batch.engine.coordinator import Assignment, Coordinator
from dreamo_batch.engine.directory import LOCK, RunDirectory
from dreamo_batch.engine.ledger import Ledger
from dreamo_batch.engine.pictures import Saved
from dreamo_batch.engine.schedule import Do, Schedule
from dreamo_batch.engine.sending import CreateAnswer, PollAnswer, ProbeAnswer, SaveAnswer
from dreamo_batch.engine.spending import Spending
from dreamo_batch.errors import AccessRefused, BudgetReached, RunStopped, ServiceUnreachable, StorageFailed
from dreamo_batch.service import failures
from dreamo_batch.service.failures import Failure, FailureKind
from dreamo_batch.service.messages import ServiceMessage, Task
from tests.fakes import limits_of, prepared

KEY = ("a", 1)
SAVED = Saved("images/a.jpg", "00", 5, 1328, 1328)
LIMITED = Failure(FailureKind.TRANSIENT, failures.RATE_LIMITED, http_status=429)
AWAY = Failure(FailureKind.TRANSIENT, failures.UNREACHABLE, is_outage=True)
NOT_FOUND = Failure(FailureKind.PERMANENT, failures.TASK_NOT_FOUND, http_status=404)
DONE = Task("t1", "completed", urls=("https://h/1",), cost="0.0286")


class Named:
    """Names requests instead of making them."""

    is_halted = threading.Event()

    def create(self, key, _job, _recorded_at):
        return "create", key

    def fetch(self, do, key, task_id):
        return do, key, task_id

    def save(self, key, links, *, name, stated_bytes):
        assert stated_bytes is None
        url = links[0] if links else None
        return ("save", key, url) if name == key[0] else ("save", key, url, name)

    def probe(self):
        return ("probe",)


@pytest.fixture
def make(tmp_path, clock):
    """Make coordinators on one ledger, with workers enough for every job."""
    directory = RunDirectory(tmp_path)
    directory.lock()
    ledger = Ledger(directory, "loopback")

    def made(
        *names, assignment: Assignment | None = None, max_attempts=1, should_download=True, max_in_flight=8
    ) -> Coordinator:
        options = plan.RunOptions(max_attempts=max_attempts, download=should_download)
        spending = Spending(price=Decimal("0.03"), attempts=ledger.state)
        coordinator = Coordinator(
            ledger=ledger,
            spending=spending,
            schedule=Schedule(
                limits_of(max_in_flight=max_in_flight, n_workers=10, task_timeout_s=60.0), spending
            ),
            sender=Named(),
            clock=clock,
            assignment=assignment or plan.assignment(prepared(*names), ledger.state, options, tmp_path),
        )
        coordinator.begin()
        return coordinator

    yield made
    ledger.abandon()
    directory.unlock()


def given(coordinator) -> list:
    """What free workers are told to do now."""
    return [call() for _, call in coordinator.next_work(10)]


def latest(coordinator):
    return coordinator.ledger.state.deciding("a")


def until_given(coordinator, clock, seconds=100.0) -> list:
    """Let time pass until something is to be done."""
    end = clock.now + seconds
    while not (work := given(coordinator)):
        wait_s = coordinator.wait_s(10)
        assert wait_s is not None
        assert clock.now <= end
        clock.advance(max(wait_s, 0.001))
    return work


def accepted(make, clock, **options) -> Coordinator:
    """A coordinator whose one job has been taken and is asked for."""
    coordinator = make("a", **options)
    assert given(coordinator) == [("create", KEY)]
    coordinator.handle(CreateAnswer(KEY, "t1"))
    assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
    return coordinator


def completed(make, clock, task: Task = DONE) -> Coordinator:
    coordinator = accepted(make, clock)
    coordinator.handle(PollAnswer(Do.POLL, KEY, task))
    return coordinator


def test_about_to_send_is_written_down_with_its_reservation(make, clock):
    """Seed, time and money stand in the ledger before the worker is called."""
    coordinator = make("a")
    ((action, _),) = coordinator.next_work(10)
    attempt = latest(coordinator)
    assert (attempt.stage, attempt.seed_sent, attempt.reserved, attempt.sent_at) == (
        Stage.SENDING,
        7,
        "0.03",
        clock.wall(),
    )
    assert coordinator.ledger.unwritten[-1].kind == "sending"
    assert coordinator.snapshot().by_status["submitting"] == 1
    assert coordinator.spending.reserved == Decimal("0.03")
    coordinator.undo_choice(action)
    assert latest(coordinator).stage is Stage.UNSENT
    assert coordinator.spending.reserved == 0
    assert coordinator.schedule.n_in_flight == 0


def test_no_more_is_given_than_workers_are_free(make):
    """Creates are written down only when somebody can send them."""
    coordinator = make("a", "b", "c")
    assert len(coordinator.next_work(2)) == 2
    assert coordinator.next_work(0) == []
    assert coordinator.wait_s(0) is None
    assert len(list(coordinator.ledger.state)) == 2


@pytest.mark.parametrize(
    ("failure", "stage", "n_waiting", "mood"),
    [
        (Failure(FailureKind.PERMANENT, failures.REJECTED, http_status=400), Stage.REFUSED, 0, "open"),
        (Failure(FailureKind.PERMANENT, sending.IMAGE_CHANGED), Stage.REFUSED, 0, "open"),
        (
            Failure(FailureKind.MAY_HAVE_ARRIVED, failures.NO_ANSWER, is_outage=True),
            Stage.AMBIGUOUS,
            0,
            "down",
        ),
        (AWAY, Stage.UNSENT, 1, "down"),
        (Failure(FailureKind.TRANSIENT, failures.RATE_LIMITED, http_status=429), Stage.UNSENT, 1, "open"),
        (Failure(FailureKind.STOP, failures.ACCESS_REFUSED, http_status=402), Stage.UNSENT, 1, "open"),
    ],
)
def test_a_create_that_failed(make, failure, stage, n_waiting, mood):
    """Refused and doubtful ones are over, what never arrived waits at the head of the queue."""
    coordinator = make("a", "b")
    assert given(coordinator) == [("create", KEY), ("create", ("b", 1))]
    coordinator.handle(CreateAnswer(KEY, failure))
    assert latest(coordinator).stage is stage
    assert coordinator.schedule.n_waiting == n_waiting
    assert coordinator.schedule.outage.mood == mood
    assert coordinator.schedule.n_in_flight == 1
    assert isinstance(coordinator.stopped, AccessRefused) == (failure.kind is FailureKind.STOP)
    assert any("may have been accepted" in text for text in coordinator.notices) == (stage is Stage.AMBIGUOUS)
    assert coordinator.spending.reserved == Decimal("0.06" if stage is Stage.AMBIGUOUS else "0.03")


def test_a_limited_create_waits_as_long_as_asked(make, clock):
    """Then it is sent again under the same number."""
    coordinator = make("a")
    given(coordinator)
    coordinator.handle(
        CreateAnswer(KEY, Failure(FailureKind.TRANSIENT, failures.RATE_LIMITED, retry_after_s=7.0))
    )
    assert given(coordinator) == []
    assert 0 < coordinator.wait_s(10) <= 7.0
    clock.advance(6.9)
    assert given(coordinator) == []
    clock.advance(0.2)
    assert given(coordinator) == [("create", KEY)]


@pytest.mark.parametrize(
    "answer",
    [
        PollAnswer(Do.POLL, ("b", 1), replace(LIMITED, retry_after_s=7.0)),
        SaveAnswer(("b", 1), "rate_limited", replace(LIMITED, retry_after_s=7.0)),
    ],
)
def test_a_wait_that_an_earlier_call_was_asked_for_is_kept(make, clock, answer):
    """Nobody here is waiting for the answer itself, but the service's word holds for every request."""
    coordinator = make("a")
    coordinator.handle(answer)
    assert given(coordinator) == []
    clock.advance(7.1)
    assert given(coordinator) == [("create", KEY)]


def test_a_wait_of_years_is_slept_in_pieces(make):
    """What a queue can be told to wait has an end, whatever a service asks for."""
    coordinator = make("a")
    given(coordinator)
    coordinator.handle(
        CreateAnswer(KEY, Failure(FailureKind.TRANSIENT, failures.RATE_LIMITED, retry_after_s=1e12))
    )
    assert coordinator.wait_s(10) <= 3600


def test_creates_refused_for_ever_are_reported_and_end_the_run(make, clock):
    """One line after half a minute; after the patience of the run one error, and no row has failed."""
    coordinator = make("a", "b")
    began = clock.now
    while not coordinator.is_over():
        assert bool(coordinator.notices) == (clock.now >= began + 30)
        for _, key in given(coordinator):
            coordinator.handle(CreateAnswer(key, LIMITED))
        clock.advance(max(coordinator.wait_s(10), 0.001))
    assert clock.now == pytest.approx(began + 900, abs=1)
    assert isinstance(coordinator.stopped, ServiceUnreachable)
    assert "with 429 for 900 s" in str(coordinator.stopped)
    assert "2 jobs not submitted" in str(coordinator.stopped)
    assert len(coordinator.notices) == 1
    assert coordinator.snapshot().by_status["pending"] == 2


def test_a_wait_longer_than_the_patience_is_reported_at_once_and_not_sat_out(make, clock):
    """A service that asks for a day is left at the end of the patience, with its wish in the error."""
    coordinator = make("a")
    given(coordinator)
    coordinator.handle(
        CreateAnswer(KEY, Failure(FailureKind.TRANSIENT, failures.RATE_LIMITED, retry_after_s=86_400.0))
    )
    assert not coordinator.is_over()
    (told,) = coordinator.notices
    assert "next request in 86400 s" in told
    while not coordinator.is_over():
        assert given(coordinator) == []
        clock.advance(max(coordinator.wait_s(10), 0.001))
    assert "asks for another 85500 s" in str(coordinator.stopped)


def test_a_pause_does_not_count_against_a_service_that_refused(make, clock):
    """Nothing is sent in a pause, so that nothing can be taken either."""
    coordinator = make("a")
    given(coordinator)
    coordinator.handle(CreateAnswer(KEY, LIMITED))
    coordinator.pause(is_paused=True)
    clock.advance(5000)
    assert not coordinator.is_over()
    coordinator.pause(is_paused=False)
    assert not coordinator.is_over()
    assert coordinator.stopped is None
    assert given(coordinator) == [("create", KEY)]


def test_polls_refused_for_ever_end_the_run_too(make, clock):
    """What is in flight stays in the ledger, and the next call asks for it."""
    coordinator = accepted(make, clock)
    coordinator.handle(PollAnswer(Do.POLL, KEY, LIMITED))
    while not coordinator.is_over():
        for do, key, _ in given(coordinator):
            coordinator.handle(PollAnswer(do, key, LIMITED))
        clock.advance(max(coordinator.wait_s(10) or 0, 0.001))
    assert latest(coordinator).stage is Stage.ACCEPTED


def test_a_service_that_takes_something_now_and_then_is_waited_for(make, clock):
    """Any other answer starts the patience anew; the end of a long standstill is told."""
    coordinator = make("a", "b")
    given(coordinator)
    coordinator.handle(CreateAnswer(("b", 1), LIMITED))
    clock.advance(45)
    assert not coordinator.is_over()
    coordinator.handle(CreateAnswer(KEY, "t1"))
    assert not coordinator.is_over()
    clock.advance(45)
    assert not coordinator.is_over()
    assert coordinator.stopped is None
    assert "Rate limited (429)" in coordinator.notices[0]
    assert coordinator.notices[1:] == ["No longer rate limited; resuming."]


def test_the_picture_of_an_attempt_settled_late_does_not_replace_that_of_the_latest(make, clock, tmp_path):
    """An attempt that was in doubt while another one was made keeps a name of its own."""
    coordinator = make("a")
    given(coordinator)
    coordinator.handle(CreateAnswer(KEY, Failure(FailureKind.MAY_HAVE_ARRIVED, failures.NO_ANSWER)))
    ledger = coordinator.ledger
    ledger.record([sending.started(("a", 2), clock.wall(), None, seed=7, reserved=None)])
    ledger.record([sending.resolved(ledger.state.find("a", 1), clock.wall(), "t1")])
    options = plan.RunOptions()
    coordinator = make(assignment=plan.assignment(prepared("a"), ledger.state, options, tmp_path))
    assert given(coordinator) == [(Do.POLL, KEY, "t1")]
    coordinator.handle(PollAnswer(Do.POLL, KEY, DONE))
    assert given(coordinator) == [("save", KEY, "https://h/1", "a-attempt-1")]


def resending(make, clock, **options) -> Coordinator:
    """A coordinator that was asked to send a job in doubt again, and has done so as attempt 2."""
    coordinator = make("a")
    given(coordinator)
    coordinator.handle(CreateAnswer(KEY, Failure(FailureKind.MAY_HAVE_ARRIVED, failures.NO_ANSWER)))
    asked = plan.RunOptions(on_ambiguous="resubmit", **options)
    ledger = coordinator.ledger
    coordinator = make(assignment=plan.assignment(prepared("a"), ledger.state, asked, ledger.directory.path))
    assert coordinator.snapshot().n_settled == 0
    assert given(coordinator) == [("create", ("a", 2))]
    return coordinator


def with_a_resend_on_the_wire(make, clock, **options) -> Coordinator:
    """A coordinator whose attempt 1 is settled as taken while attempt 2 is on the wire."""
    coordinator = resending(make, clock, **options)
    coordinator.settle(sending.resolved(coordinator.ledger.state.find("a", 1), clock.wall(), "t1"))
    return coordinator


@pytest.mark.parametrize(
    "failure",
    [
        LIMITED,
        AWAY,
        Failure(FailureKind.STOP, failures.FORBIDDEN, http_status=403),
        Failure(FailureKind.PERMANENT, failures.REJECTED, http_status=400),
    ],
)
def test_a_resend_that_is_not_taken_is_not_sent_again_once_the_first_was(make, clock, failure):
    """The attempt found to be taken serves the job: no create follows it, and its picture is the row's."""
    coordinator = with_a_resend_on_the_wire(make, clock)
    coordinator.handle(CreateAnswer(("a", 2), failure))
    assert coordinator.schedule.waiting == ()
    assert latest(coordinator).attempt == 1
    assert coordinator.snapshot().by_status["in_progress"] == 1


def test_a_resend_that_is_not_taken_is_sent_again_by_the_call_that_was_asked_for_it(make, clock):
    """The row stays in doubt and counts as unfinished; a later call that is not asked leaves it alone."""
    coordinator = resending(make, clock)
    coordinator.handle(CreateAnswer(("a", 2), LIMITED))
    assert latest(coordinator) == coordinator.ledger.state.find("a", 1)
    assert coordinator.schedule.waiting == (("a", 2),)
    assert coordinator.snapshot().by_status["ambiguous"] == 1
    assert coordinator.snapshot().n_settled == 0
    later = make("a")
    assert given(later) == []
    assert later.is_over()
    assert later.snapshot().n_settled == 1
    assert until_given(coordinator, clock) == [("create", ("a", 2))]


def test_a_resend_that_failed_is_not_tried_again_while_the_first_is_in_doubt(make, clock):
    """Attempts that are left are the user's word on failures, not on what may have been billed."""
    coordinator = resending(make, clock, max_attempts=5)
    coordinator.handle(CreateAnswer(("a", 2), "t2"))
    until_given(coordinator, clock)
    failed = Task("t2", "failed", error=ServiceMessage("003011099", "no picture"))
    coordinator.handle(PollAnswer(Do.POLL, ("a", 2), failed))
    assert coordinator.schedule.waiting == ()
    assert coordinator.is_over()
    assert latest(coordinator).stage is Stage.AMBIGUOUS
    coordinator.settle(sending.resolved(latest(coordinator), clock.wall(), None))
    assert latest(coordinator).stage is Stage.FAILED
    assert coordinator.schedule.waiting == ()


def test_a_job_none_of_whose_attempts_was_taken_is_submitted(make, clock):
    """The last doubt gone, nothing holds it back, whichever attempt was settled last; and it is queued once."""
    coordinator = resending(make, clock)
    coordinator.handle(CreateAnswer(("a", 2), AWAY))
    later = make("a")
    assert given(later) == []
    later.settle(sending.resolved(later.ledger.state.find("a", 1), clock.wall(), None))
    assert later.schedule.waiting == (("a", 2),)
    assert given(later) == [("create", ("a", 2))]


def test_an_end_that_leaves_an_unsent_attempt_behind_is_reported_as_that_end(make, clock, tmp_path):
    """Lost, in doubt, lost again and not sent: the row is held as in doubt, and never silently dropped."""
    ledger, told = make("a").ledger, [("accepted", "lost"), ("ambiguous",), ("accepted",), ("not_sent",)]
    for number, kinds in enumerate(told, start=1):
        ledger.record([sending.started(("a", number), clock.wall(), None, seed=7, reserved=None)])
        for kind in kinds:
            fields = {"task_id": f"t{number}"} if kind == "accepted" else {}
            ledger.record([Event(EventKind(kind), "a", number, clock.wall(), fields)])
    coordinator = make("a")
    for _ in range(3):
        assert until_given(coordinator, clock) == [(Do.POLL, ("a", 3), "t3")]
        coordinator.handle(PollAnswer(Do.POLL, ("a", 3), NOT_FOUND))
    assert coordinator.is_over()
    assert latest(coordinator).attempt == 2
    assert coordinator.snapshot().by_status["ambiguous"] == 1
    assert (
        plan.decide(ledger.state.of("a"), plan.RunOptions(retry_failed=True), tmp_path).action == "ambiguous"
    )


def test_a_resend_that_fails_is_not_submitted_again_once_the_first_was_taken(make, clock):
    """Attempts that are left are not for a job whose other attempt is still being made."""
    coordinator = with_a_resend_on_the_wire(make, clock, max_attempts=5)
    coordinator.handle(CreateAnswer(("a", 2), "t2"))
    clock.advance(60)
    given(coordinator)
    failed = Task("t2", "failed", error=ServiceMessage("003011099", "no picture"))
    coordinator.handle(PollAnswer(Do.POLL, ("a", 2), failed))
    assert sending.is_retryable(coordinator.ledger.state.find("a", 2))
    assert coordinator.schedule.waiting == ()
    coordinator.handle(PollAnswer(Do.POLL, KEY, DONE))
    assert coordinator.snapshot().by_status["completed"] == 1
    again = plan.RunOptions(retry_failed=True, on_ambiguous="resubmit", max_attempts=9)
    assert (
        plan.assignment(
            prepared("a"), coordinator.ledger.state, again, coordinator.ledger.directory.path, {"a"}
        ).to_submit
        == []
    )


def test_a_completed_task_is_saved(make, clock):
    """Its cost takes the place of its reservation, and its picture is fetched."""
    coordinator = completed(make, clock)
    attempt = latest(coordinator)
    assert (attempt.stage, attempt.cost, attempt.n_polls) == (Stage.COMPLETED, "0.0286", 1)
    assert (coordinator.spending.spent, coordinator.spending.reserved) == (Decimal("0.0286"), 0)
    assert given(coordinator) == [("save", KEY, "https://h/1")]
    assert not coordinator.is_over()
    coordinator.handle(SaveAnswer(KEY, SAVED))
    assert latest(coordinator).output_path == "images/a.jpg"
    assert coordinator.is_over()
    assert coordinator.stopped is None


def test_pictures_are_not_fetched_where_nobody_wants_them(make, clock):
    """Without download a completed task is the end."""
    coordinator = accepted(make, clock, should_download=False)
    coordinator.handle(PollAnswer(Do.POLL, KEY, DONE))
    assert coordinator.is_over()


def test_a_picture_is_asked_for_three_times_with_fresh_links(make, clock):
    """A placeholder may be gone when the task is asked again; in the end the row says why it has none."""
    coordinator = completed(make, clock)
    for n in (1, 2):
        assert given(coordinator) == [("save", KEY, f"https://h/{n}")]
        coordinator.handle(SaveAnswer(KEY, "not a picture"))
        assert until_given(coordinator, clock) == [(Do.REFRESH, KEY, "t1")]
        fresh = Task("t1", "completed", urls=(f"https://h/{n + 1}",))
        coordinator.handle(PollAnswer(Do.REFRESH, KEY, fresh))
        assert latest(coordinator).output_url == f"https://h/{n + 1}"
    assert given(coordinator) == [("save", KEY, "https://h/3")]
    coordinator.handle(SaveAnswer(KEY, "still not a picture"))
    assert latest(coordinator).output_error == "still not a picture"
    assert latest(coordinator).stage is Stage.COMPLETED
    assert coordinator.is_over()


@pytest.mark.parametrize(
    "answer",
    [
        NOT_FOUND,
        Task("t1", "completed"),
        replace(DONE, urls=("https://h/anothers",), echo={"seed": 8}),
    ],
    ids=["gone", "no link", "another row's"],
)
def test_a_link_that_is_not_told_again_is_used_again(make, clock, answer):
    """A task that is gone by now may still have its file; the link of another row is never used."""
    coordinator = completed(make, clock)
    given(coordinator)
    coordinator.handle(SaveAnswer(KEY, "not a picture"))
    until_given(coordinator, clock)
    coordinator.handle(PollAnswer(Do.REFRESH, KEY, answer))
    assert given(coordinator) == [("save", KEY, "https://h/1")]
    assert latest(coordinator).links == ("https://h/1",)


def test_a_completed_task_without_a_link_is_asked_again_first(make, clock):
    """Nothing is fetched from nowhere."""
    coordinator = completed(make, clock, Task("t1", "completed"))
    assert until_given(coordinator, clock) == [(Do.REFRESH, KEY, "t1")]
    coordinator.handle(PollAnswer(Do.REFRESH, KEY, DONE))
    assert given(coordinator) == [("save", KEY, "https://h/1")]


def test_a_failed_task_is_over(make, clock):
    """With the service's own words, and without a second attempt."""
    coordinator = accepted(make, clock)
    task = Task("t1", "failed", cost="0", error=ServiceMessage("003011095", "Internal generation error"))
    coordinator.handle(PollAnswer(Do.POLL, KEY, task))
    attempt = latest(coordinator)
    assert (attempt.stage, attempt.error_class, attempt.error_code) == (
        Stage.FAILED,
        "generation_error",
        "003011095",
    )
    assert coordinator.is_over()


def test_an_unbilled_failure_is_submitted_again_where_that_is_allowed(make, clock):
    """As a new attempt under the next number, up to the attempts."""
    coordinator = accepted(make, clock, max_attempts=2)
    failed = Task("t1", "failed", error=ServiceMessage("003011099", None))
    coordinator.handle(PollAnswer(Do.POLL, KEY, failed))
    assert given(coordinator) == [("create", ("a", 2))]
    coordinator.handle(CreateAnswer(("a", 2), "t2"))
    assert until_given(coordinator, clock) == [(Do.POLL, ("a", 2), "t2")]
    coordinator.handle(PollAnswer(Do.POLL, ("a", 2), failed))
    assert coordinator.is_over()
    assert len(coordinator.ledger.state.of("a")) == 2


@pytest.mark.parametrize(
    "told",
    [{"cost": "0.0286"}, {"is_cost_unreadable": True}, {"urls": ("https://h/1",)}],
    ids=["cost", "unreadable-cost", "picture"],
)
def test_a_failure_that_may_have_cost_something_is_not_submitted_again_by_itself(make, clock, told):
    """Whatever the code says: a cost is spent money, and a picture or an unreadable cost leave it open."""
    coordinator = accepted(make, clock, max_attempts=2)
    failed = Task("t1", "failed", error=ServiceMessage("003011099", None), **told)
    coordinator.handle(PollAnswer(Do.POLL, KEY, failed))
    assert given(coordinator) == []
    assert coordinator.is_over()
    assert coordinator.spending.spent == Decimal(told.get("cost", "0"))
    assert coordinator.spending.reserved == (0 if "cost" in told else Decimal("0.03"))
    again = plan.decide(coordinator.ledger.state.of("a"), plan.RunOptions(max_attempts=2), None)
    assert again.action != plan.NEW


def test_an_unbilled_failure_holds_nothing_back(make, clock):
    """Its reservation is free at once, and stays so when the directory is opened again."""
    coordinator = accepted(make, clock)
    assert coordinator.spending.reserved == Decimal("0.03")
    coordinator.handle(
        PollAnswer(Do.POLL, KEY, Task("t1", "failed", error=ServiceMessage("003011099", None)))
    )
    assert coordinator.spending.reserved == 0
    assert Spending(attempts=coordinator.ledger.state).reserved == 0


def test_a_new_call_waits_its_own_time_for_an_old_task(make, clock):
    """However long ago it was sent, by whatever clock."""
    accepted(make, clock)
    clock.advance(10_000)
    again = make("a")
    for _ in range(5):
        assert until_given(again, clock) == [(Do.POLL, KEY, "t1")]
        again.handle(PollAnswer(Do.POLL, KEY, Task("t1", "in_progress")))
        assert not again.is_over()
    clock.advance(60)
    assert until_given(again, clock) == [(Do.POLL, KEY, "t1")]
    again.handle(PollAnswer(Do.POLL, KEY, Task("t1", "in_progress")))
    assert again.is_over()
    assert latest(again).error_class == "task_timeout"


@pytest.mark.parametrize("jump_s", [-1e9, -3600.0, 3600.0, 1e9])
def test_a_clock_that_jumps_between_calls_changes_no_decision(make, clock, jump_s):
    """A task is asked for and waited for by time that only grows."""
    accepted(make, clock)
    clock.jump(jump_s)
    again = make("a")
    assert until_given(again, clock) == [(Do.POLL, KEY, "t1")]
    again.handle(PollAnswer(Do.POLL, KEY, Task("t1", "in_progress")))
    assert until_given(again, clock) == [(Do.POLL, KEY, "t1")]
    again.handle(PollAnswer(Do.POLL, KEY, DONE))
    assert latest(again).stage is Stage.COMPLETED


def test_a_task_that_runs_is_asked_for_again_until_it_is_overdue(make, clock):
    """After the time it may take it stays open with its class, and the call ends."""
    coordinator = accepted(make, clock)
    n_polls = 1
    while clock.now < 1_000 + 60:
        coordinator.handle(PollAnswer(Do.POLL, KEY, Task("t1", "in_progress")))
        if coordinator.is_over():
            break
        assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
        n_polls += 1
    else:
        coordinator.handle(PollAnswer(Do.POLL, KEY, Task("t1", "in_progress")))
    assert coordinator.is_over()
    assert n_polls < 60
    assert (latest(coordinator).stage, latest(coordinator).error_class) == (Stage.ACCEPTED, "task_timeout")
    assert coordinator.schedule.n_in_flight == 0


def test_a_task_is_lost_only_if_nobody_knows_it_for_long(make, clock):
    """Three times over half a minute, and an answer in between starts the count anew."""
    coordinator = accepted(make, clock)
    for answer in (NOT_FOUND, NOT_FOUND, Task("t1", "in_progress"), NOT_FOUND, NOT_FOUND):
        coordinator.handle(PollAnswer(Do.POLL, KEY, answer))
        assert latest(coordinator).stage is Stage.ACCEPTED
        assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
    coordinator.handle(PollAnswer(Do.POLL, KEY, NOT_FOUND))
    attempt = latest(coordinator)
    assert (attempt.stage, attempt.error_class, attempt.may_have_been_billed) == (
        Stage.LOST,
        "task_lost",
        True,
    )
    assert attempt.reserved == "0.03"
    assert coordinator.is_over()


def test_an_outage_is_waited_out_behind_a_probe(make, clock):
    """No task fails; one small question is asked until somebody answers."""
    coordinator = accepted(make, clock)
    for _ in range(2):
        coordinator.handle(PollAnswer(Do.POLL, KEY, AWAY))
        assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
    coordinator.handle(PollAnswer(Do.POLL, KEY, AWAY))
    for is_reachable in (False, False, True):
        assert until_given(coordinator, clock) == [("probe",)]
        coordinator.handle(ProbeAnswer(is_reachable=is_reachable))
    assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
    coordinator.handle(PollAnswer(Do.POLL, KEY, DONE))
    assert latest(coordinator).stage is Stage.COMPLETED
    assert coordinator.stopped is None


def test_a_limit_on_open_files_is_no_full_disk(make):
    """The message says which limit to raise."""
    coordinator = make("a")
    coordinator.handle(OSError(errno.EMFILE, "Too many open files"))
    assert "Raise the limit on open files (ulimit -n), then run the same call" in str(coordinator.stopped)


def test_a_disk_that_fails_is_graver_than_any_other_reason(make):
    """It is the one that is told, and nothing at all is sent any more."""
    coordinator = make("a", "b")
    coordinator.stop(AccessRefused("no credit"))
    coordinator.handle(OSError(28, "No space left on device"))
    assert isinstance(coordinator.stopped, StorageFailed)
    assert "No space left on device" in str(coordinator.stopped)
    first = coordinator.stopped
    coordinator.storage_failed(OSError(5, "Input/output error"))
    assert coordinator.stopped is first
    assert given(coordinator) == []
    assert coordinator.is_over()


def test_the_first_reason_to_stop_is_reported(make):
    """What follows from it is not the reason."""
    coordinator = make("a")
    first = AccessRefused("no credit")
    coordinator.stop(first)
    coordinator.stop(AccessRefused("no permission"))
    assert coordinator.stopped is first


def test_what_nobody_foresaw_is_raised(make):
    """A bug must not look like an answer."""
    with pytest.raises(ZeroDivisionError):
        make("a").handle(ZeroDivisionError())


def test_an_attempt_that_is_not_in_the_ledger_can_not_be_asked_for(make):
    """An assignment and its ledger belong together."""
    with pytest.raises(RunStopped, match="attempt 1 of job b is not in the ledger"):
        make(assignment=Assignment({}, {}, 0, (), [("b", 1)], (), 1, should_download=True, may_submit=True))


def test_creates_of_an_earlier_call_are_waited_for(make, clock):
    """Taken over on the wire, a create counts as in flight and is not sent again."""
    first = make("a")
    given(first)
    second = make("a")
    second.begin(frozenset({KEY}))
    assert given(second) == []
    assert second.schedule.n_in_flight == 1
    assert not second.is_over()
    second.handle(CreateAnswer(KEY, "t1"))
    assert until_given(second, clock) == [(Do.POLL, KEY, "t1")]


def test_a_create_of_an_earlier_table_is_not_sent_again(make):
    """Its job is not in this table, so where it never arrived nobody wants it any more."""
    first = make("a")
    given(first)
    second = make("b")
    second.begin(frozenset({KEY}))
    second.handle(CreateAnswer(KEY, AWAY))
    assert latest(second).stage is Stage.UNSENT
    assert KEY not in second.schedule.creating


def test_a_moved_directory_is_reported_as_such(make):
    """The message says where to look, not to make room."""
    coordinator = make("a")
    (coordinator.ledger.directory.path / LOCK).unlink()
    coordinator.storage_failed(FileNotFoundError(2, "gone"))
    assert "was moved or deleted during the run" in str(coordinator.stopped)


def test_a_pause_holds_creates_back_and_nothing_else(make, clock):
    """While paused a task in flight is asked for and its picture fetched; creates wait, and the run is not over."""
    coordinator = make("a", "b", max_in_flight=1)
    assert given(coordinator) == [("create", KEY)]
    coordinator.pause(is_paused=True)
    coordinator.handle(CreateAnswer(KEY, "t1"))
    assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
    coordinator.handle(PollAnswer(Do.POLL, KEY, DONE))
    assert given(coordinator) == [("save", KEY, "https://h/1")]
    coordinator.handle(SaveAnswer(KEY, SAVED))
    assert given(coordinator) == []
    assert not coordinator.is_over()
    assert coordinator.wait_s(10) is None
    coordinator.pause(is_paused=False)
    assert given(coordinator) == [("create", ("b", 1))]


def _fail_unbilled(make, clock) -> Coordinator:
    coordinator = accepted(make, clock, max_attempts=2)
    coordinator.handle(
        PollAnswer(Do.POLL, KEY, Task("t1", "failed", error=ServiceMessage("003011099", None)))
    )
    return coordinator


def test_a_failure_that_waits_for_its_next_attempt_is_not_settled(make, clock):
    """It is counted as failed, and as one of those that are submitted again."""
    coordinator = _fail_unbilled(make, clock)
    assert (coordinator.snapshot().n_failed, coordinator.snapshot().n_settled) == (1, 0)
    coordinator.next_work(1)
    assert coordinator.snapshot().n_again == 0


def test_the_cap_stops_a_run_only_if_rows_are_left_over(make, clock):
    """A failure that the cap leaves no room to try again is said, and no reason to raise."""
    coordinator = _fail_unbilled(make, clock)
    coordinator.spending.cap = Decimal("0.01")
    assert coordinator.schedule.n_waiting == 1
    assert coordinator.is_over()
    assert coordinator.stopped is None
    assert "not retried" in coordinator.notices[-1]
    assert coordinator.snapshot().n_settled == 1


def test_the_cap_stops_a_run_with_rows_left_over(make):
    """Rows that were asked for and not submitted raise."""
    coordinator = make("a")
    coordinator.spending.cap = Decimal("0.01")
    assert coordinator.is_over()
    assert isinstance(coordinator.stopped, BudgetReached)


def test_a_task_id_of_another_attempt_is_not_taken(make, clock):
    """A cache or a connection out of step answered; the create may be billed, and its row is held."""
    coordinator = make("a", "b")
    assert given(coordinator) == [("create", KEY), ("create", ("b", 1))]
    coordinator.handle(CreateAnswer(KEY, "t1"))
    coordinator.handle(CreateAnswer(("b", 1), "t1"))
    attempt = coordinator.ledger.state.deciding("b")
    assert (attempt.stage, attempt.task_id, attempt.error_class) == (
        Stage.AMBIGUOUS,
        None,
        failures.OTHER_TASK,
    )
    assert "t1" in attempt.error_message
    assert latest(coordinator).task_id == "t1"
    assert any("Job b" in text and "t1" in text for text in coordinator.notices)


def test_a_task_id_of_an_earlier_call_is_not_taken_either(make, clock):
    """What another order of the ledger holds is known from the first answer on, of the same job as well."""
    completed(make, clock)
    coordinator = make("b")
    assert ("create", ("b", 1)) in given(coordinator)
    coordinator.handle(CreateAnswer(("b", 1), "t1"))
    assert coordinator.ledger.state.deciding("b").stage is Stage.AMBIGUOUS


def test_a_poll_answered_about_another_task_is_asked_again_and_told_once(make, clock):
    """The row is held until its own task is told of."""
    other = Failure(
        FailureKind.TRANSIENT, failures.OTHER_TASK, 200, message="asked for t1, answered about t9"
    )
    coordinator = accepted(make, clock)
    for _ in range(3):
        coordinator.handle(PollAnswer(Do.POLL, KEY, other))
        assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
    assert len([text for text in coordinator.notices if "t9" in text]) == 1
    clock.advance(60.0)
    coordinator.handle(PollAnswer(Do.POLL, KEY, other))
    attempt = latest(coordinator)
    assert (attempt.stage, attempt.error_class) == (Stage.ACCEPTED, failures.TASK_TIMEOUT)
    assert "answered about t9" in attempt.error_message


def test_an_unlisted_status_is_reported_once(make, clock):
    """It counts as in progress, and the user may know better."""
    coordinator = accepted(make, clock)
    for _ in range(3):
        coordinator.handle(PollAnswer(Do.POLL, KEY, Task("t1", "in_progress", unlisted_status="resting")))
        assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
    assert len([text for text in coordinator.notices if "'resting'" in text]) == 1


def test_an_unlisted_end_is_reported_in_its_row_for_good(make, clock):
    """The picture is saved, and what is odd about it stays beside what saving it told."""
    coordinator = accepted(make, clock)
    coordinator.handle(PollAnswer(Do.POLL, KEY, replace(DONE, unlisted_status="Expired")))
    assert "'Expired'" in latest(coordinator).output_warning
    assert given(coordinator) == [("save", KEY, "https://h/1")]
    coordinator.handle(SaveAnswer(KEY, replace(SAVED, warning="two pictures")))
    assert latest(coordinator).output_warning.endswith("'Expired', with this picture; two pictures")


def test_a_picture_in_another_size_is_reported_in_its_row_and_once_in_all(make, clock):
    """It may be another's; one that the service rounded gets no notice, one in the size asked for says nothing."""
    coordinator, widths_px = make("a", "b", "c", "d"), {"a": 1328, "b": 1320, "c": 664, "d": 664}
    while not coordinator.is_over():
        for do, key, *rest in until_given(coordinator, clock):
            if do == "create":
                answer = CreateAnswer(key, f"t-{key[0]}")
            elif do == "save":
                answer = SaveAnswer(key, replace(SAVED, sha256=key[0], width_px=widths_px[key[0]]))
            else:
                answer = PollAnswer(do, key, replace(DONE, task_id=rest[0], urls=(f"https://h/{key[0]}",)))
            coordinator.handle(answer)
    told = [coordinator.ledger.state.deciding(name).output_warning for name in "abcd"]
    named = [f"the picture has {width}x1328 px, not the 1328x1328 requested" for width in (1320, 664, 664)]
    assert told == [None, *named]
    assert [text for text in coordinator.notices if "px" in text] == [
        f"Job c: {told[2]}. See column output_warning for others."
    ]


def test_an_answer_that_names_another_task_beside_its_own_is_reported_once(make, clock):
    """Its picture may be another's."""
    coordinator = accepted(make, clock)
    coordinator.handle(PollAnswer(Do.POLL, KEY, Task("t1", "in_progress", other_id="t2")))
    assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
    coordinator.handle(PollAnswer(Do.POLL, KEY, replace(DONE, other_id="t2")))
    assert latest(coordinator).stage is Stage.COMPLETED
    assert len([text for text in coordinator.notices if "also names t2" in text]) == 1


def test_an_answer_with_another_seed_is_asked_for_again_and_then_held(make, clock):
    """Its picture may be another's, so it is never saved; the next call asks again."""
    coordinator = accepted(make, clock)
    for n in range(3):
        coordinator.handle(PollAnswer(Do.POLL, KEY, replace(DONE, echo={"seed": 8})))
        if n < 2:
            assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
    assert coordinator.is_over()
    assert given(coordinator) == []
    attempt = latest(coordinator)
    assert (attempt.stage, attempt.error_class, attempt.output_url) == (
        Stage.ACCEPTED,
        failures.OTHER_TASK,
        None,
    )
    assert "seed 8, not 7" in attempt.error_message
    assert len([text for text in coordinator.notices if "seed 8, not 7" in text]) == 1
    later = make("a")
    assert given(later) == [(Do.POLL, KEY, "t1")]
    later.handle(PollAnswer(Do.POLL, KEY, DONE))
    assert latest(later).stage is Stage.COMPLETED


@pytest.mark.parametrize(
    ("link", "digest", "words"),
    [("1", "01", "same picture link"), ("2", "00", "identical"), ("2", "01", None)],
)
def test_two_jobs_with_one_picture_are_reported(make, clock, link, digest, words):
    """One of them may hold what was made for the other, also if that was in an earlier call."""
    first = completed(make, clock)
    assert given(first) == [("save", KEY, "https://h/1")]
    first.handle(SaveAnswer(KEY, SAVED))
    coordinator = make("b")
    assert ("create", ("b", 1)) in given(coordinator)
    coordinator.handle(CreateAnswer(("b", 1), "t2"))
    until_given(coordinator, clock)
    task = Task("t2", "completed", urls=(f"https://h/{link}",), cost="0.0286")
    coordinator.handle(PollAnswer(Do.POLL, ("b", 1), task))
    given(coordinator)
    coordinator.handle(SaveAnswer(("b", 1), replace(SAVED, path="images/b.jpg", sha256=digest)))
    told = [text for text in coordinator.notices if "Job b and Job a: different jobs" in text]
    assert [words in text for text in told] == ([] if words is None else [True])


FORBIDDEN = Failure(FailureKind.STOP, failures.FORBIDDEN, http_status=403, message="you have been blocked")


def _of_two(make) -> Coordinator:
    coordinator = make("a", "b", max_in_flight=1)
    assert given(coordinator) == [("create", KEY)]
    coordinator.handle(CreateAnswer(KEY, FORBIDDEN))
    assert given(coordinator) == [("create", ("b", 1))]
    return coordinator


def test_a_403_to_one_create_fails_its_row_once_others_are_accepted(make, clock):
    """A firewall dislikes one prompt; it is tried once more, after the others."""
    coordinator = _of_two(make)
    coordinator.handle(CreateAnswer(("b", 1), "t1"))
    assert until_given(coordinator, clock) == [(Do.POLL, ("b", 1), "t1")]
    coordinator.handle(PollAnswer(Do.POLL, ("b", 1), DONE))
    assert ("create", KEY) in until_given(coordinator, clock)
    coordinator.handle(CreateAnswer(KEY, FORBIDDEN))
    assert coordinator.stopped is None
    attempt = latest(coordinator)
    assert (attempt.stage, attempt.error_class) == (Stage.REFUSED, failures.FORBIDDEN)
    assert attempt.error_message == "you have been blocked"


def test_two_403_in_a_row_stop_the_run_and_fail_no_row(make):
    """Then it is the account's."""
    coordinator = _of_two(make)
    coordinator.handle(CreateAnswer(("b", 1), FORBIDDEN))
    assert isinstance(coordinator.stopped, AccessRefused)
    assert "you have been blocked" in str(coordinator.stopped)
    assert [coordinator.ledger.state.deciding(name).stage for name in ("a", "b")] == [Stage.UNSENT] * 2


def test_a_row_alone_that_is_refused_twice_stops_the_run(make):
    """Nothing tells whether it is the row's or the account's, so the row stays pending."""
    coordinator = make("a")
    for _ in range(2):
        assert given(coordinator) == [("create", KEY)]
        coordinator.handle(CreateAnswer(KEY, FORBIDDEN))
    assert isinstance(coordinator.stopped, AccessRefused)
    assert latest(coordinator).stage is Stage.UNSENT


def test_what_was_accepted_since_an_earlier_call_tells_whose_a_403_is(make, clock):
    """Rows refused earlier come last; one that is refused again, and nothing else between, is to blame itself."""
    coordinator = _of_two(make)
    assert latest(coordinator).error_message == "you have been blocked"
    clock.advance(1.0)
    coordinator.handle(CreateAnswer(("b", 1), "t1"))
    coordinator.halt()
    later = make("a", "c", max_in_flight=1)
    assert list(later.schedule.waiting) == [("c", 1), KEY]
    later = make("a", max_in_flight=2)
    assert ("create", KEY) in given(later)
    later.handle(CreateAnswer(KEY, FORBIDDEN))
    assert later.stopped is None
    assert latest(later).stage is Stage.REFUSED


def test_a_403_to_one_poll_is_asked_again(make, clock):
    """Two in a row are the account's."""
    coordinator = accepted(make, clock)
    for _ in range(2):
        coordinator.handle(PollAnswer(Do.POLL, KEY, FORBIDDEN))
        assert coordinator.stopped is None
        assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
        coordinator.handle(PollAnswer(Do.POLL, KEY, Task("t1", "in_progress")))
        assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
    coordinator.handle(PollAnswer(Do.POLL, KEY, FORBIDDEN))
    assert until_given(coordinator, clock) == [(Do.POLL, KEY, "t1")]
    coordinator.handle(PollAnswer(Do.POLL, KEY, FORBIDDEN))
    assert isinstance(coordinator.stopped, AccessRefused)


@pytest.mark.parametrize("error_class", [failures.NO_CREDIT, failures.NOT_OFFERED])
def test_what_is_the_accounts_stops_at_once(make, error_class):
    """With the service's words; the rows stay pending."""
    coordinator = make("a", "b", max_in_flight=1)
    assert given(coordinator) == [("create", KEY)]
    coordinator.handle(CreateAnswer(KEY, Failure(FailureKind.STOP, error_class, 400, message="out of paint")))
    assert isinstance(coordinator.stopped, AccessRefused)
    assert "out of paint" in str(coordinator.stopped)
    assert latest(coordinator).stage is Stage.UNSENT


def test_a_task_that_failed_for_lack_of_credit_stops_the_run(make, clock):
    """The next would fail as well."""
    told = ServiceMessage("003011099", "insufficient balance")
    coordinator = completed(make, clock, Task("t1", "failed", error=told))
    assert isinstance(coordinator.stopped, AccessRefused)
    assert latest(coordinator).error_class == failures.NO_CREDIT


UNKNOWN_HOST = replace(AWAY, message="gaierror: Name or service not known", cause="host")


def _probed_in_vain(coordinator, clock, failure, n_probes) -> None:
    for _ in range(n_probes):
        assert until_given(coordinator, clock) == [("probe",)]
        coordinator.handle(ProbeAnswer(is_reachable=False, failure=failure))


@pytest.mark.parametrize(("failure", "is_over"), [(UNKNOWN_HOST, True), (AWAY, False)])
def test_what_waiting_does_not_mend_ends_within_seconds(make, clock, failure, is_over):
    """A name that can't be resolved, before anything was ever answered; a service that is away is waited for."""
    coordinator = make("a")
    given(coordinator)
    coordinator.handle(CreateAnswer(KEY, failure))
    before = clock.now
    _probed_in_vain(coordinator, clock, failure, 3)
    assert coordinator.is_over() is is_over
    assert clock.now - before < 5
    assert isinstance(coordinator.stopped, ServiceUnreachable) is is_over
    if is_over:
        assert "Name or service not known; check the base URL" in str(coordinator.stopped)
    assert latest(coordinator).stage is Stage.UNSENT


def test_a_name_that_was_resolved_before_is_waited_for(make, clock):
    """Then it is the network that is away."""
    coordinator = accepted(make, clock)
    for _ in range(3):
        coordinator.handle(PollAnswer(Do.POLL, KEY, UNKNOWN_HOST))
        if coordinator.schedule.outage.mood == "open":
            until_given(coordinator, clock)
    _probed_in_vain(coordinator, clock, UNKNOWN_HOST, 4)
    assert not coordinator.is_over()
    assert any("Name or service not known" in text for text in coordinator.notices)


def test_waiting_for_a_quota_tells_the_services_words(make, clock):
    """They may say how long, or what to pay."""
    coordinator = make("a")
    given(coordinator)
    told = replace(LIMITED, message="five a minute", retry_after_s=90.0)
    coordinator.handle(CreateAnswer(KEY, told))
    coordinator.is_over()
    assert any("HTTP 429: five a minute" in text for text in coordinator.notices)
    clock.advance(90.0)
    assert given(coordinator) == [("create", KEY)]
    coordinator.handle(CreateAnswer(KEY, told))
    clock.advance(1000.0)
    assert coordinator.is_over()
    assert "five a minute" in str(coordinator.stopped)
