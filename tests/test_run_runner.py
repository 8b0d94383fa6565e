"""The runner in its thread: interrupted, taken over, out of disk, out of luck; answers of creates are never lost."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from dreamo_batch.errors import DirectoryError, DirectoryLocked, OtherService, StorageFailed
from dreamo_batch.execution import checkpoint, outcomes, plan, runner
from dreamo_batch.execution.archive import Saved
from dreamo_batch.execution.budget import Budget
from dreamo_batch.execution.clock import SystemClock
from dreamo_batch.execution.coordinator import Coordinator
from dreamo_batch.execution.directory import RunDirectory
from dreamo_batch.execution.ledger import Ledger, read
from dreamo_batch.execution.outcomes import CreateAnswer, PollAnswer, ProbeAnswer, SaveAnswer
from dreamo_batch.execution.runner import Runner
from dreamo_batch.execution.schedule import Do, Limits, Schedule
from dreamo_batch.execution.session import Session, open_session
from dreamo_batch.execution.state import Kind, Stage
from dreamo_batch.execution.workers import Workers
from dreamo_batch.service.wire import Task
from tests.fakes import event, prepared

PATIENCE_S = 10.0


class FakeService:
    """Answers at once, unless told to hold creates, to fail or to explode."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.n_held = threading.Semaphore(0)
        self.creates: list = []
        self.poll_error: BaseException | None = None
        self.save_error: BaseException | None = None
        self.is_running = False

    def hold(self) -> None:
        self.gate.clear()

    def create(self, key, _job):
        self.creates.append(key)
        self.n_held.release()
        assert self.gate.wait(PATIENCE_S)
        return CreateAnswer(key, f"task-{key[0]}-{key[1]}")

    def fetch(self, do, key, task_id):
        if self.poll_error is not None:
            raise self.poll_error
        if self.is_running:
            return PollAnswer(do, key, Task(task_id, "in_progress"))
        return PollAnswer(do, key, Task(task_id, "completed", urls=("https://h/1",), cost="0.03"))

    def save(self, key, _url, **_named):
        if self.save_error is not None:
            raise self.save_error
        return SaveAnswer(key, Saved(f"images/{key[0]}.jpg", "00", 5, 8, 8))

    def probe(self):
        return ProbeAnswer(is_there=True)


class Call:
    """One call on a directory, put together by hand."""

    def __init__(self, folder, service, *names, session: Session | None = None, **options) -> None:
        self.directory = RunDirectory(folder)
        self.session = session or open_session(self.directory, "loopback", SystemClock())
        ledger = self.session.ledger
        budget = Budget(orders=ledger.state)
        workers = self.session.workers or Workers(options.pop("n_workers", 4))
        self.n_closed = 0
        self.coordinator = Coordinator(
            ledger=ledger,
            budget=budget,
            schedule=Schedule(Limits(n_workers=workers.n, **options), budget),
            effects=service,
            clock=SystemClock(),
            assignment=plan.assignment(prepared(*names), ledger.state, plan.Options(), self.directory.path),
        )
        self.runner = Runner(self.coordinator, workers, self.session, self.close)

    def close(self) -> None:
        self.n_closed += 1

    def start(self) -> Call:
        runner.register(self.directory.path, self.runner)
        self.runner.start()
        return self

    def wait(self) -> Call:
        assert self.runner.is_closed.wait(PATIENCE_S)
        for thread in (self.runner._thread, *self.runner.workers._threads):
            thread.join(PATIENCE_S)
        return self


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def service():
    return FakeService()


def stages(folder) -> dict[str, str]:
    return {order.job_id: str(order.stage) for order in read(folder).state()}


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_table_is_worked_off_and_everything_closed(folder, service):
    """Every job completed and saved; ledger, lock, threads and registration are gone at the end."""
    names = [f"job-{i}" for i in range(20)]
    call = Call(folder, service, *names, max_in_flight=8).start().wait()
    assert call.runner.error is None
    assert call.coordinator.stopped is None
    assert stages(folder) == dict.fromkeys(names, "completed")
    assert all(order.output_path for order in read(folder).state())
    assert sorted(service.creates) == sorted((name, 1) for name in names)
    assert call.n_closed == 1
    assert call.runner.is_resting.is_set()
    assert runner.live(call.directory.path) is None
    assert not RunDirectory(folder).is_locked()
    assert call.coordinator.snapshot().by_status["completed"] == 20


def test_a_finished_run_makes_no_request(folder, service):
    """The same call again has nothing to do."""
    Call(folder, service, "a", "b").start().wait()
    (folder / "images").mkdir()
    for name in ("a", "b"):
        (folder / "images" / f"{name}.jpg").write_bytes(b"12345")
    silent = FakeService()
    silent.poll_error = silent.save_error = AssertionError("nothing should be asked")
    call = Call(folder, silent, "a", "b").start().wait()
    assert call.runner.error is None
    assert silent.creates == []


def test_an_interrupt_rests_at_once_and_records_what_is_on_the_wire(folder, service):
    """Known things are on disk within moments; the held create's answer still gets there."""
    service.hold()
    call = Call(folder, service, "a", "b", "c", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    call.runner.interrupt()
    assert call.runner.is_resting.wait(2)
    assert call.runner.n_on_the_wire == 1
    assert not call.runner.is_closed.is_set()
    assert checkpoint.read_meta(folder / checkpoint.NAME).is_followed
    assert stages(folder) == {"a": "sending"}
    service.gate.set()
    call.wait()
    assert stages(folder) == {"a": "accepted"}
    assert service.creates == [("a", 1)]
    assert not RunDirectory(folder).is_locked()


def test_a_new_call_takes_over_from_an_interrupted_one(folder, service):
    """The same ledger and workers go on, and the create on the wire is waited for, not sent again."""
    service.hold()
    old = Call(folder, service, "a", "b", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    old.runner.interrupt()
    assert old.runner.is_resting.wait(2)
    session = open_session(RunDirectory(folder), "loopback", SystemClock())
    assert session.ledger is old.session.ledger
    assert session.on_the_wire == {("a", 1)}
    assert session.n_busy == 1
    new = Call(folder, service, "a", "b", session=session, max_in_flight=1).start()
    service.gate.set()
    new.wait()
    assert stages(folder) == {"a": "completed", "b": "completed"}
    assert sorted(service.creates) == [("a", 1), ("b", 1)]
    assert (old.n_closed, new.n_closed) == (0, 1)
    assert new.session.ledger.generation == 1


def test_taking_over_is_for_the_same_service_and_seeds(folder, service):
    """Another service, or seeds drawn for another directory, are refused and disturb nobody."""
    service.hold()
    call = Call(folder, service, "a").start()
    service.n_held.acquire(timeout=PATIENCE_S)
    with pytest.raises(OtherService):
        open_session(RunDirectory(folder), "host:443", SystemClock())
    with pytest.raises(DirectoryError, match="made by another call"):
        open_session(RunDirectory(folder), "loopback", SystemClock(), "00")
    service.gate.set()
    call.wait()
    assert stages(folder) == {"a": "completed"}


def test_a_call_that_has_just_closed_is_not_taken_over(folder, service):
    """The directory is opened anew."""
    call = Call(folder, service, "a").start().wait()
    runner.register(call.directory.path, call.runner)
    session = open_session(RunDirectory(folder), "loopback", SystemClock())
    assert session.ledger.generation == 2
    assert session.workers is None
    session.ledger.close(pending=[])
    session.close()
    assert runner.live(call.directory.path) is None


def test_a_live_call_that_does_not_let_go_is_told(folder, service, monkeypatch):
    """Nobody writes beside it."""
    service.hold()
    call = Call(folder, service, "a").start()
    service.n_held.acquire(timeout=PATIENCE_S)
    monkeypatch.setattr("dreamo_batch.execution.session._TAKEOVER_S", 0.01)
    monkeypatch.setattr(Runner, "hand_over", lambda _self, _timeout_s: None)
    with pytest.raises(DirectoryLocked, match="an earlier call in this process"):
        open_session(RunDirectory(folder), "loopback", SystemClock())
    service.gate.set()
    call.wait()


def test_what_a_dead_writer_left_on_the_wire_is_ambiguous(folder):
    """Nobody will answer for it any more, and that is on disk before anything else happens."""
    folder.mkdir()
    dead = Ledger(RunDirectory(folder), "loopback")
    dead.record([event(Kind.SENDING, "a"), event(Kind.SENDING, "b"), event(Kind.ACCEPTED, "b", task_id="t")])
    dead.commit()
    dead.abandon()
    session = open_session(RunDirectory(folder), "loopback", SystemClock())
    assert stages(folder) == {"a": "ambiguous", "b": "accepted"}
    assert session.ledger.state.latest("a").error_class == outcomes.INTERRUPTED
    session.ledger.close(pending=[])
    session.close()


def test_a_directory_that_can_not_be_written_stops_before_the_start(folder, monkeypatch):
    """The message says what to do, and the lock is free again."""
    monkeypatch.setattr(RunDirectory, "write_manifest", full)
    with pytest.raises(StorageFailed, match="No space left on device") as caught:
        open_session(RunDirectory(folder), "loopback", SystemClock())
    assert caught.value.run_dir == folder
    assert not RunDirectory(folder).is_locked()


def test_what_can_not_be_written_down_is_not_sent(folder, service, monkeypatch):
    """With a full disk no create leaves, and nothing is in doubt."""
    call = Call(folder, service, "a", "b")
    with monkeypatch.context() as patched:
        patched.setattr(call.session.ledger._journal, "_write", full)
        patched.setattr(checkpoint, "write", full)
        call.start().wait()
    assert isinstance(call.coordinator.stopped, StorageFailed)
    assert call.runner.error is None
    assert service.creates == []
    assert {order.stage for order in call.session.ledger.state} <= {Stage.UNSENT}
    assert stages(folder) == {}
    assert call.n_closed == 1
    again = Call(folder, service, "a", "b").start().wait()
    assert again.coordinator.stopped is None
    assert stages(folder) == {"a": "completed", "b": "completed"}


def test_an_id_that_can_not_be_written_down_is_told(folder, service, monkeypatch, caplog):
    """If the disk fills up while a create is on the wire, its task id is in the error and the log."""
    service.hold()
    call = Call(folder, service, "a", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    with monkeypatch.context() as patched:
        patched.setattr(call.session.ledger._journal, "_write", full)
        patched.setattr(checkpoint, "write", full)
        service.gate.set()
        call.wait()
    assert isinstance(call.coordinator.stopped, StorageFailed)
    assert "job a is task task-a-1" in str(call.coordinator.stopped)
    assert "job a is task task-a-1" in caplog.text
    assert any("task-a-1" in notice for notice in call.coordinator.notices)
    assert not RunDirectory(folder).is_locked()


def test_a_checkpoint_that_fails_loses_no_id(folder, service, monkeypatch):
    """The journal goes on taking answers, though nothing more is sent."""
    service.hold()
    call = Call(folder, service, "a", "b", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write", full)
        call.runner.interrupt()
        assert call.runner.is_resting.wait(2)
        service.gate.set()
        call.wait()
    assert isinstance(call.coordinator.stopped, StorageFailed)
    assert read(folder).state().latest("a").task_id == "task-a-1"
    assert service.creates == [("a", 1)]


def test_a_disk_that_takes_no_picture_stops_the_run(folder, service):
    """Pictures can't be saved either, so nothing more is bought."""
    service.save_error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    call = Call(folder, service, "a").start().wait()
    assert isinstance(call.coordinator.stopped, StorageFailed)
    assert stages(folder) == {"a": "completed"}


def test_an_error_nobody_foresaw_waits_for_creates_on_the_wire(folder, service):
    """A bug in one place loses no task id in another, and is told in the end."""
    Call(folder, service, "first", max_in_flight=1).start().wait()
    service.hold()
    call = Call(folder, service, "a", "b", max_in_flight=2)
    service.poll_error = ZeroDivisionError("a bug")
    service.n_held = threading.Semaphore(0)
    call.start()
    service.n_held.acquire(timeout=PATIENCE_S)
    call.runner.workers.mailbox.put(ZeroDivisionError("a bug"))
    call.runner.n_busy += 1
    until(lambda: call.runner.error is not None)
    assert not call.runner.is_closed.is_set()
    service.gate.set()
    call.wait()
    assert isinstance(call.runner.error, ZeroDivisionError)
    known = stages(folder)
    assert {known[name] for name in ("a", "b") if name in known} == {"accepted"}
    assert call.n_closed == 1
    assert not RunDirectory(folder).is_locked()


def test_one_bad_answer_does_not_hide_the_next(folder, service, caplog):
    """While creates are waited for, an answer that can't be taken in is passed over and logged."""
    service.hold()
    call = Call(folder, service, "a", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    for _ in range(3):
        call.runner.n_busy += 1
        call.runner.workers.mailbox.put(ZeroDivisionError("a bug"))
    until(lambda: call.runner.error is not None)
    service.gate.set()
    call.wait()
    assert stages(folder) == {"a": "accepted"}
    assert "an answer could not be taken in" in caplog.text


def test_results_that_fail_leave_no_lock(folder, service, monkeypatch):
    """Whatever goes wrong at the end is told, and the directory is free."""
    call = Call(folder, service, "a")

    def fail() -> None:
        raise ValueError("no results")

    call.runner.on_close = fail
    call.start().wait()
    assert isinstance(call.runner.error, ValueError)
    assert not RunDirectory(folder).is_locked()
    assert stages(folder) == {"a": "completed"}


def test_checkpoints_are_taken_on_the_way(folder, service, monkeypatch):
    """Not only at the end, so that a long run does not grow a long journal."""
    monkeypatch.setattr("dreamo_batch.execution.ledger._EVENTS_BEFORE_CHECKPOINT", 5)
    call = Call(folder, service, *(f"job-{i}" for i in range(10)), max_in_flight=8).start().wait()
    assert call.session.ledger.covers > 1
    assert stages(folder) == {f"job-{i}": "completed" for i in range(10)}


def test_the_process_waits_for_answers_at_its_end(folder, service):
    """Every live runner is stopped and waited for, for as long as told and no longer."""
    service.hold()
    call = Call(folder, service, "a", "b", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    runner.wait_at_exit(timeout_s=0.05)
    assert not call.runner.is_closed.is_set()
    service.gate.set()
    runner.wait_at_exit(timeout_s=PATIENCE_S)
    call.wait()
    assert stages(folder) == {"a": "accepted"}


def test_a_second_interrupt_leaves_at_once(folder, service, monkeypatch, caplog):
    """Who does not want to wait for answers need not; the log says what that means."""
    service.hold()
    call = Call(folder, service, "a").start()
    service.n_held.acquire(timeout=PATIENCE_S)

    def impatient(_timeout_s):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(call.runner.is_closed, "wait", impatient)
        runner.wait_at_exit()
    assert "those rows are ambiguous" in caplog.text
    service.gate.set()
    call.wait()


def test_answers_to_an_earlier_call_are_not_taken_for_ones_own(folder, service):
    """A poll or a picture that nobody here is waiting for changes nothing."""
    call = Call(folder, service, "a")
    before = list(call.session.ledger.state)
    task = Task("t", "completed")
    for answer in (
        PollAnswer(Do.POLL, ("a", 1), task),
        PollAnswer(Do.REFRESH, ("a", 1), task),
        SaveAnswer(("a", 1), "not a picture"),
    ):
        call.coordinator.take(answer)
    assert list(call.session.ledger.state) == before
    call.start().wait()


def test_rows_are_counted_by_their_jobs_newest_order(folder, service):
    """Duplicates count with the row they repeat; invalid rows stand apart."""
    call = Call(folder, service, "a", "a", "b", None)
    assert {name: n for name, n in call.coordinator.snapshot().by_status.items() if n} == {
        "pending": 3,
        "invalid": 1,
    }
    call.start().wait()
    assert {name: n for name, n in call.coordinator.snapshot().by_status.items() if n} == {
        "completed": 3,
        "invalid": 1,
    }
    assert call.coordinator.snapshot().n_in_flight == 0


def test_a_question_is_answered_in_the_coordinators_thread(folder, service):
    """What is asked is done between two events, and its answer or error comes back to who asked."""
    service.hold()
    call = Call(folder, service, "a").start()
    service.n_held.acquire(timeout=PATIENCE_S)
    name = call.runner.ask(lambda _: threading.current_thread().name).result()
    assert name == "dreamo-coordinator"
    with pytest.raises(KeyError, match="mine"):
        call.runner.ask(lambda _: {}["mine"]).result()
    service.gate.set()
    call.wait()
    assert call.runner.error is None


def test_a_question_to_a_runner_that_has_closed_is_not_asked(folder, service):
    """Its reply is cancelled, and nothing is done."""
    call = Call(folder, service, "a").start().wait()
    done = []
    assert call.runner.ask(done.append).cancelled()
    assert done == []
