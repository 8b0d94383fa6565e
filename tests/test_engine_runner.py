"""The runner in its thread: interrupted, taken over, out of disk, out of luck; answers of creates are never lost."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from typing import Self

import pytest

from dreamo_batch.engine import checkpoint, plan, runner, sending
from dreamo_batch.engine.attempts import EventKind, Stage
from dreamo_batch.engine.coordinator import Coordinator, SystemClock
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.journal import Journal
from dreamo_batch.engine.ledger import Ledger, read
from dreamo_batch.engine.pictures import Saved
from dreamo_batch.engine.runner import Runner, open_ledger
from dreamo_batch.engine.schedule import Do, Schedule
from dreamo_batch.engine.sending import CreateAnswer, PollAnswer, ProbeAnswer, SaveAnswer
from dreamo_batch.engine.spending import Spending
from dreamo_batch.errors import (
    AccessRefused,
    DirectoryError,
    DirectoryLocked,
    OtherService,
    StorageFailed,
    UsageError,
)
from dreamo_batch.service import failures
from dreamo_batch.service.messages import Task
from tests.fakes import event, limits_of, prepared
from tests.flows import PATIENCE_S, until


class FakeService:
    """Answers at once, unless told to hold creates, to fail or to explode."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.n_held = threading.Semaphore(0)
        self.is_halted = threading.Event()
        self.creates: list = []
        self.taken: dict = {}
        self.poll_error: BaseException | None = None
        self.save_error: BaseException | None = None
        self.is_running = False

    def hold(self) -> None:
        self.gate.clear()

    def create(self, key, _job, _recorded_at):
        self.creates.append(key)
        self.n_held.release()
        assert self.gate.wait(PATIENCE_S)
        self.taken[key] = f"task-{key[0]}-{key[1]}"
        return CreateAnswer(key, self.taken[key])

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
        return ProbeAnswer(is_reachable=True)


class Call:
    """One call on a directory, put together by hand and begun in the runner's thread."""

    def __init__(self, folder, service, *names, n_workers=4, **options) -> None:
        self.directory = RunDirectory(folder)
        self.service, self.names, self.options, self.n_workers = service, names, options, n_workers
        self.n_closed = 0
        self.on_open = lambda _ledger: None

    def close(self) -> None:
        self.n_closed += 1

    def start(self) -> Call:
        runner.ask(self.directory, self.install)
        return self

    def install(self, running: Runner) -> None:
        self.ledger = ledger = running.open("loopback")
        self.on_open(ledger)
        spending = Spending(attempts=ledger.state)
        self.coordinator = Coordinator(
            ledger=ledger,
            spending=spending,
            schedule=Schedule(limits_of(n_workers=self.n_workers, **self.options), spending),
            sender=self.service,
            clock=SystemClock(),
            assignment=plan.assignment(
                prepared(*self.names), ledger.state, plan.RunOptions(), self.directory.path
            ),
        )
        self.runner = running
        running.switch_to(self.coordinator, self.close)

    def wait(self) -> Call:
        assert self.runner.is_closed.wait(PATIENCE_S)
        for thread in (self.runner._thread, *self.runner.workers.threads):
            thread.join(PATIENCE_S)
        return self


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def service():
    return FakeService()


def stages(folder) -> dict[str, str]:
    return {attempt.job_id: str(attempt.stage) for attempt in read(folder).state()}


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_table_is_worked_off_and_everything_closed(folder, service):
    """Every job completed and saved; ledger, lock, threads and registration are gone at the end."""
    names = [f"job-{i}" for i in range(20)]
    call = Call(folder, service, *names, max_in_flight=8).start().wait()
    assert call.runner.error is None
    assert call.coordinator.stopped is None
    assert stages(folder) == dict.fromkeys(names, "completed")
    assert all(attempt.output_path for attempt in read(folder).state())
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
    """Known things are on disk before the answer comes; the held create's answer still gets there."""
    service.hold()
    call = Call(folder, service, "a", "b", "c", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    call.runner.interrupt()
    assert call.runner.is_resting.wait(PATIENCE_S)
    assert call.runner.n_on_the_wire == 1
    assert not call.runner.is_closed.is_set()
    assert checkpoint.read_meta(folder / checkpoint.NAME).is_followed
    assert stages(folder) == {"a": "sending"}
    service.gate.set()
    call.wait()
    assert stages(folder) == {"a": "accepted"}
    assert service.creates == [("a", 1)]
    assert not RunDirectory(folder).is_locked()


def test_a_new_call_goes_on_with_an_interrupted_one(folder, service):
    """The same ledger and workers go on, and the create on the wire is waited for, not sent again."""
    service.hold()
    old = Call(folder, service, "a", "b", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    old.runner.interrupt()
    assert old.runner.is_resting.wait(PATIENCE_S)
    new = Call(folder, service, "a", "b", max_in_flight=1).start()
    assert new.runner is old.runner
    assert new.ledger is old.ledger
    assert new.runner.n_on_the_wire == 1
    assert new.runner.n_busy == 1
    assert not new.runner.is_resting.is_set()
    service.gate.set()
    new.wait()
    assert stages(folder) == {"a": "completed", "b": "completed"}
    assert sorted(service.creates) == [("a", 1), ("b", 1)]
    assert (old.n_closed, new.n_closed) == (0, 1)
    assert new.ledger.generation == 1


def test_going_on_is_for_the_same_service_and_seeds(folder, service):
    """Another service, or seeds drawn for another directory, are refused and disturb nobody."""
    service.hold()
    call = Call(folder, service, "a").start()
    service.n_held.acquire(timeout=PATIENCE_S)
    with pytest.raises(OtherService):
        runner.ask(RunDirectory(folder), lambda running: running.open("host:443"))
    with pytest.raises(DirectoryError, match="Another call created"):
        runner.ask(RunDirectory(folder), lambda running: running.open("loopback", "00"))
    service.gate.set()
    call.wait()
    assert stages(folder) == {"a": "completed"}


def test_a_call_that_has_just_closed_is_not_gone_on_with(folder, service):
    """The directory is opened anew."""
    Call(folder, service, "a").start().wait()
    again = Call(folder, service, "a").start().wait()
    assert again.ledger.generation == 2


def test_a_call_that_is_refused_leaves_the_live_one_running(folder, service):
    """Whatever is wrong with the second call is raised there; the first goes on to its end."""
    service.hold()
    call = Call(folder, service, "a", "b", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    refused = Call(folder, service, "c")

    def refuse(_ledger) -> None:
        raise UsageError("no")

    refused.on_open = refuse
    with pytest.raises(UsageError, match="no"):
        refused.start()
    assert call.runner.coordinator is call.coordinator
    service.gate.set()
    call.wait()
    assert stages(folder) == {"a": "completed", "b": "completed"}
    assert call.n_closed == 1


def test_a_call_that_is_refused_closes_the_directory_it_opened(folder, service):
    """Nothing was live: the lock is free once the refusal is told."""
    refused = Call(folder, service, "a")

    def refuse(_ledger) -> None:
        raise UsageError("no")

    refused.on_open = refuse
    with pytest.raises(UsageError, match="no"):
        refused.start()
    assert runner.live(folder) is None
    assert not RunDirectory(folder).is_locked()


class Stall:
    """A disk that stands still: the runner's thread waits in it until it is well again."""

    def __init__(self, call: Call) -> None:
        self.is_well, self.is_stalled = threading.Event(), threading.Event()
        self._asking = threading.Thread(target=lambda: call.runner.ask(self._stand_still))

    def _stand_still(self, _running: Runner) -> None:
        self.is_stalled.set()
        assert self.is_well.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        self._asking.start()
        assert self.is_stalled.wait(PATIENCE_S)
        return self

    def __exit__(self, *_error: object) -> None:
        self.is_well.set()
        self._asking.join(PATIENCE_S)


def test_a_question_given_up_while_the_disk_stalls_is_never_done(folder, service):
    """Who was told to try again is not taken at their word later; the live call goes on."""
    service.hold()
    call = Call(folder, service, "a", "b", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    done: list[Runner] = []
    with Stall(call), pytest.raises(DirectoryLocked, match="An earlier call in this process"):
        runner.ask(RunDirectory(folder), done.append, timeout_s=0.01)
    service.gate.set()
    call.wait()
    assert done == []
    assert stages(folder) == {"a": "completed", "b": "completed"}


def test_an_interrupt_while_waiting_withdraws_the_question(folder, service, monkeypatch):
    """Ctrl-C while the disk stalls: the call under way goes on, and the new one is never begun."""
    service.hold()
    call = Call(folder, service, "a", "b", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    other = Call(folder, service, "c")

    def interrupted(_question):
        raise KeyboardInterrupt

    with Stall(call), monkeypatch.context() as patched:
        patched.setattr(runner._Question, "is_answered", interrupted)
        with pytest.raises(KeyboardInterrupt):
            other.start()
    assert call.runner.coordinator is call.coordinator
    service.gate.set()
    call.wait()
    assert stages(folder) == {"a": "completed", "b": "completed"}
    assert other.n_closed == 0


def test_many_at_once_go_on_one_after_the_other(folder, service):
    """Eight threads begin a call on a new directory at the same moment: one runner, each job bought once."""
    names = [f"job-{i}" for i in range(12)]
    calls = [Call(folder, service, *names, max_in_flight=4) for _ in range(8)]
    at_once = threading.Barrier(len(calls))

    def begin(call: Call) -> None:
        at_once.wait(PATIENCE_S)
        call.start()

    threads = [threading.Thread(target=begin, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    for call in calls:
        call.wait()
        assert call.runner.error is None
    assert sorted(service.creates) == sorted((name, 1) for name in names)
    assert stages(folder) == dict.fromkeys(names, "completed")
    assert runner.live(folder) is None


def test_an_attempt_is_settled_beside_the_call_under_way(folder, service):
    """Settled as taken, its task is asked for; as not sent, it is submitted; counts and money follow."""
    folder.mkdir()
    dead = Ledger(RunDirectory(folder), "loopback")
    dead.record([event(EventKind.SENDING, "a"), event(EventKind.SENDING, "b")])
    dead.commit()
    dead.abandon()
    service.hold()
    call = Call(folder, service, "a", "b", "c", max_in_flight=2).start()
    service.n_held.acquire(timeout=PATIENCE_S)

    def settle(task_id):
        def do(running: Runner) -> None:
            job_id = "b" if task_id is None else "a"
            running.settle(sending.resolved(call.ledger.state.deciding(job_id), 1.0, task_id))

        return do

    runner.ask(RunDirectory(folder), settle("task-a"))
    runner.ask(RunDirectory(folder), settle(None))
    assert call.runner.coordinator is call.coordinator
    service.gate.set()
    call.wait()
    assert call.runner.error is None
    assert stages(folder) == {"a": "completed", "b": "completed", "c": "completed"}
    assert sorted(service.creates) == [("b", 2), ("c", 1)]
    assert call.coordinator.snapshot().by_status["completed"] == 3


def test_an_attempt_settled_as_taken_is_not_submitted_again(folder, service):
    """It was to be sent once more only because nobody knew."""
    folder.mkdir()
    dead = Ledger(RunDirectory(folder), "loopback")
    dead.record([event(EventKind.SENDING, "b")])
    dead.commit()
    dead.abandon()
    service.hold()
    call = Call(folder, service, "a", "b", max_in_flight=1)
    call.start()
    service.n_held.acquire(timeout=PATIENCE_S)

    def settle(running: Runner) -> None:
        call.coordinator.schedule.add_jobs([("b", 2)])  # as a retry of the ambiguous row does
        running.settle(sending.resolved(call.ledger.state.deciding("b"), 1.0, "task-b"))

    runner.ask(RunDirectory(folder), settle)
    service.gate.set()
    call.wait()
    assert service.creates == [("a", 1)]
    assert stages(folder) == {"a": "completed", "b": "completed"}


def test_settling_where_nobody_works_closes_the_directory_again(folder):
    """The attempt is on disk and the lock free once it is told."""
    folder.mkdir()
    dead = Ledger(RunDirectory(folder), "loopback")
    dead.record([event(EventKind.SENDING, "a")])
    dead.commit()
    dead.abandon()

    def settle(running: Runner) -> None:
        attempt = running.open("loopback").state.deciding("a")
        running.settle(sending.resolved(attempt, 1.0, "task-a"))

    runner.ask(RunDirectory(folder), settle)
    assert runner.live(folder) is None
    assert not RunDirectory(folder).is_locked()
    assert stages(folder) == {"a": "accepted"}


def test_what_a_dead_writer_left_on_the_wire_is_ambiguous(folder):
    """Nobody will answer for it any more, and that is on disk before anything else happens."""
    folder.mkdir()
    dead = Ledger(RunDirectory(folder), "loopback")
    dead.record(
        [
            event(EventKind.SENDING, "a"),
            event(EventKind.SENDING, "b"),
            event(EventKind.ACCEPTED, "b", task_id="t"),
        ]
    )
    dead.commit()
    dead.abandon()
    directory = RunDirectory(folder)
    ledger = open_ledger(directory, "loopback")
    assert stages(folder) == {"a": "ambiguous", "b": "accepted"}
    assert ledger.state.deciding("a").error_class == sending.INTERRUPTED
    ledger.close(pending=[])
    directory.unlock()


def test_a_writer_that_dies_while_it_asks_for_a_named_task_leaves_the_id(folder, service, tmp_path):
    """The id is on disk before anything is asked; where that can't be done any more, nothing is asked."""
    failure = failures.Failure(failures.FailureKind.TRANSIENT, "rate_limited", message="slow", task_id="t9")
    service.hold()
    call = Call(folder, service, "a").start()
    service.n_held.acquire(timeout=PATIENCE_S)
    assert service.note(("a", 1), failure)
    shutil.copytree(folder, tmp_path / "as it was", ignore=shutil.ignore_patterns("*lock*"))
    service.gate.set()
    call.wait()
    assert stages(folder) == {"a": "completed"}
    assert not service.note(("a", 1), failure)
    directory = RunDirectory(tmp_path / "as it was")
    ledger = open_ledger(directory, "loopback")
    left = ledger.state.deciding("a")
    assert (left.stage, left.error_class) == (Stage.AMBIGUOUS, sending.INTERRUPTED)
    assert "task t9 (slow)" in left.error_message
    ledger.close(pending=[])
    directory.unlock()


def test_a_directory_that_can_not_be_written_stops_before_the_start(folder, monkeypatch):
    """The message says what to do, and the lock is free again."""
    monkeypatch.setattr(RunDirectory, "write_manifest", full)
    with pytest.raises(StorageFailed, match="No space left on device") as caught:
        open_ledger(RunDirectory(folder), "loopback")
    assert caught.value.run_dir == folder
    assert not RunDirectory(folder).is_locked()


def test_what_can_not_be_written_down_is_not_sent(folder, service, monkeypatch):
    """With a full disk no create leaves, and nothing is in doubt."""
    call = Call(folder, service, "a", "b")
    with monkeypatch.context() as patched:
        call.on_open = lambda _: patched.setattr(Journal, "commit", full)
        patched.setattr("dreamo_batch.engine.checkpoint.write", full)
        call.start().wait()
    assert isinstance(call.coordinator.stopped, StorageFailed)
    assert call.runner.error is None
    assert service.creates == []
    assert {attempt.stage for attempt in call.ledger.state} <= {Stage.UNSENT}
    assert stages(folder) == {}
    assert call.n_closed == 1
    again = Call(folder, service, "a", "b").start().wait()
    assert again.coordinator.stopped is None
    assert stages(folder) == {"a": "completed", "b": "completed"}


class SlowDisk:
    """A disk that keeps every write of a ledger waiting until it is told to go on."""

    def __init__(self, ledger) -> None:
        self.is_reached, self.go_on = threading.Event(), threading.Event()
        real = ledger._journal._write

        def write(data: bytes) -> None:
            self.is_reached.set()
            assert self.go_on.wait(PATIENCE_S)
            real(data)

        ledger._journal._write = write


def test_answers_are_taken_in_while_the_disk_is_slow(folder, service):
    """Only what waits for the disk waits: a task that has ended is known before its create's answer is written."""
    service.hold()
    call = Call(folder, service, "a", "b", max_in_flight=2).start()
    for _ in "ab":
        service.n_held.acquire(timeout=PATIENCE_S)
    disk = SlowDisk(call.ledger)
    service.gate.set()
    assert disk.is_reached.wait(PATIENCE_S)
    until(lambda: call.coordinator.snapshot().by_status["completed"] == 2)
    assert stages(folder) == {"a": "sending", "b": "sending"}
    disk.go_on.set()
    call.wait()
    assert stages(folder) == {"a": "completed", "b": "completed"}


def test_creates_that_wait_for_the_disk_are_not_sent_after_an_interrupt(folder, service):
    """They count as never sent, and the next call sends them."""
    call = Call(folder, service, "a", "b", max_in_flight=2)
    disks = []
    call.on_open = lambda ledger: disks.append(SlowDisk(ledger))
    call.start()
    assert disks[0].is_reached.wait(PATIENCE_S)
    call.runner.interrupt()
    until(lambda: call.coordinator.schedule.is_halted)
    disks[0].go_on.set()
    call.wait()
    assert service.creates == []
    assert stages(folder) == {"a": "unsent", "b": "unsent"}
    Call(folder, service, "a", "b").start().wait()
    assert sorted(service.creates) == [("a", 1), ("b", 1)]


def test_what_waits_for_the_disk_is_submitted_by_the_call_that_takes_over(folder, service):
    """The first call has recorded its creates but not sent them; the second sends each once."""
    first, second = (Call(folder, service, "a", "b", max_in_flight=2) for _ in range(2))
    disks = []
    first.on_open = lambda ledger: disks.append(SlowDisk(ledger))
    first.start()
    assert disks[0].is_reached.wait(PATIENCE_S)
    second.start()
    disks[0].go_on.set()
    second.wait()
    assert sorted(service.creates) == [("a", 1), ("b", 1)]
    assert stages(folder) == {"a": "completed", "b": "completed"}


def test_an_error_nobody_foresaw_in_the_writing_ends_the_run(folder, service, monkeypatch):
    """Nothing waits for a write that never ends, nothing is sent, and the error is told."""
    call = Call(folder, service, "a")

    def bad(_journal: Journal) -> None:
        monkeypatch.undo()
        raise ZeroDivisionError("a bug")

    call.on_open = lambda _: monkeypatch.setattr(Journal, "commit", bad)
    call.start().wait()
    assert isinstance(call.runner.error, ZeroDivisionError)
    assert service.creates == []
    assert stages(folder) == {"a": "unsent"}
    assert not RunDirectory(folder).is_locked()


def test_an_id_that_can_not_be_written_down_is_reported(folder, service, monkeypatch, caplog):
    """If the disk fills up while a create is on the wire, its task id is in the error and the log."""
    service.hold()
    call = Call(folder, service, "a", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "commit", full)
        patched.setattr("dreamo_batch.engine.checkpoint.write", full)
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
        patched.setattr("dreamo_batch.engine.checkpoint.write", full)
        call.runner.interrupt()
        assert call.runner.is_resting.wait(PATIENCE_S)
        service.gate.set()
        call.wait()
    assert isinstance(call.coordinator.stopped, StorageFailed)
    assert read(folder).state().deciding("a").task_id == "task-a-1"
    assert service.creates == [("a", 1)]


def test_a_disk_that_takes_no_picture_stops_the_run(folder, service):
    """Pictures can't be saved either, so nothing more is bought."""
    service.save_error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    call = Call(folder, service, "a").start().wait()
    assert isinstance(call.coordinator.stopped, StorageFailed)
    assert stages(folder) == {"a": "completed"}


def test_an_error_nobody_foresaw_waits_for_creates_on_the_wire(folder, service):
    """A bug in one place loses no task id in another, and is told in the end."""
    service.hold()
    call = Call(folder, service, "a", "b", max_in_flight=2).start()
    for _ in "ab":
        service.n_held.acquire(timeout=PATIENCE_S)
    call.runner.n_busy += 1  # first: once it gets the error, the runner counts, too
    call.runner.workers.mailbox.put(ZeroDivisionError("a bug"))
    until(lambda: call.runner.error is not None)
    assert not call.runner.is_closed.is_set()
    service.gate.set()
    call.wait()
    assert isinstance(call.runner.error, ZeroDivisionError)
    assert stages(folder) == {"a": "accepted", "b": "accepted"}
    assert call.n_closed == 1
    assert not RunDirectory(folder).is_locked()


def test_one_bad_answer_does_not_hide_the_next(folder, service, caplog):
    """While creates are waited for, an answer that can't be taken in is passed over and logged."""
    service.hold()
    call = Call(folder, service, "a", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    call.runner.n_busy += 3
    call.runner._is_writing = True  # the message that it has ended was lost with an error
    for _ in range(3):
        call.runner.workers.mailbox.put(ZeroDivisionError("a bug"))
    until(lambda: call.runner.error is not None)
    service.gate.set()
    call.wait()
    assert stages(folder) == {"a": "accepted"}
    assert "an answer could not be processed" in caplog.text


def test_an_id_whose_answer_can_not_be_taken_in_is_kept_beside(folder, service, monkeypatch):
    """Out of memory, or a mistake of ours: the next opening has the task, and submits nothing again."""
    service.hold()
    call = Call(folder, service, "a").start()
    service.n_held.acquire(timeout=PATIENCE_S)

    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(call.coordinator, "_own_task", exhausted)
    service.gate.set()
    call.wait()
    assert isinstance(call.runner.error, MemoryError)
    Call(folder, service, "a").start().wait()
    (attempt,) = read(folder).state()
    assert (attempt.stage, attempt.task_id, len(service.creates)) == (Stage.COMPLETED, "task-a-1", 1)


@pytest.mark.parametrize("where", ["worker", "runner", "coordinator"])
def test_an_id_is_recorded_wherever_an_error_comes_before_its_answer_is_taken_in(
    folder, service, monkeypatch, where
):
    """Memory that ran out for a moment: the id is taken from where the worker left it."""
    owner, name = {
        "worker": (FakeService, "create"),
        "runner": (Runner, "_open_message"),
        "coordinator": (Coordinator, "handle"),
    }[where]
    done = getattr(owner, name)

    def fail_once(self, *given):
        answer = done(self, *given) if where == "worker" else given[0]
        if isinstance(answer, CreateAnswer):
            monkeypatch.setattr(owner, name, done)
            raise MemoryError  # noqa: TRY004 - not for its type
        return done(self, *given)

    monkeypatch.setattr(owner, name, fail_once)
    call = Call(folder, service, "a").start()
    call.wait()
    assert isinstance(call.runner.error, MemoryError)
    (attempt,) = read(folder).state()
    assert (attempt.stage, attempt.task_id) == (Stage.ACCEPTED, "task-a-1")


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_an_error_after_the_last_line_of_opening_leaves_no_lock(folder, service, monkeypatch, error):
    """The ledger was made, and nobody has got it."""
    nobodys = []

    def opened(*given):
        nobodys.append(open_ledger(*given))
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(runner, "open_ledger", opened)
        with pytest.raises(type(error)):
            Call(folder, service, "a").start()
    assert not RunDirectory(folder).is_locked()
    nobodys.pop().abandon()
    Call(folder, service, "a").start().wait()
    assert stages(folder) == {"a": "completed"}


def test_a_refused_account_that_names_a_task_submits_nothing_more_meanwhile(folder, service):
    """The task is asked for, but the next row needn't wait for the answer."""
    failure = failures.Failure(failures.FailureKind.STOP, failures.NO_CREDIT, 402, task_id="t9")
    service.hold()
    call = Call(folder, service, "a", "b", max_in_flight=1).start()
    service.n_held.acquire(timeout=PATIENCE_S)
    assert service.note(("a", 1), failure)
    assert isinstance(call.coordinator.stopped, AccessRefused)
    service.gate.set()
    call.wait()
    assert service.creates == [("a", 1)]
    assert stages(folder) == {"a": "completed"}


def test_results_that_fail_leave_no_lock(folder, service, monkeypatch):
    """Whatever goes wrong at the end is told, and the directory is free."""
    call = Call(folder, service, "a")

    def fail() -> None:
        raise ValueError("no results")

    call.close = fail
    call.start().wait()
    assert isinstance(call.runner.error, ValueError)
    assert not RunDirectory(folder).is_locked()
    assert stages(folder) == {"a": "completed"}


def test_checkpoints_are_taken_on_the_way(folder, service, monkeypatch):
    """Not only at the end, so that a long run does not grow a long journal."""
    monkeypatch.setattr("dreamo_batch.engine.ledger._EVENTS_BEFORE_CHECKPOINT", 5)
    call = Call(folder, service, *(f"job-{i}" for i in range(10)), max_in_flight=8).start().wait()
    assert call.ledger.covers > 1
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
    service.hold()
    call = Call(folder, service, "a").start()
    service.n_held.acquire(timeout=PATIENCE_S)
    task = Task("t", "completed")

    def take(_running: Runner) -> None:
        before = list(call.ledger.state)
        for answer in (
            PollAnswer(Do.POLL, ("a", 1), task),
            PollAnswer(Do.REFRESH, ("a", 1), task),
            SaveAnswer(("a", 1), "not a picture"),
        ):
            call.coordinator.handle(answer)
        assert list(call.ledger.state) == before

    call.runner.ask(take).result()
    service.gate.set()
    call.wait()


def test_rows_are_counted_by_their_jobs_newest_attempt(folder, service):
    """Duplicates count with the row they repeat; invalid rows stand apart."""
    call = Call(folder, service, "a", "a", "b", None)
    service.hold()
    call.start()
    service.n_held.acquire(timeout=PATIENCE_S)
    assert call.coordinator.snapshot().by_status["invalid"] == 1
    assert sum(call.coordinator.snapshot().by_status.values()) == 4
    service.gate.set()
    call.wait()
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


def test_an_error_before_a_question_is_answered_is_its_answer(folder, service, monkeypatch):
    """Who asks never waits for an answer that can't come any more."""

    def exhausted(question, _runner):
        question.reply.set_running_or_notify_cancel()
        raise MemoryError

    monkeypatch.setattr(runner._Question, "answer", exhausted)
    with pytest.raises(MemoryError):
        Call(folder, service, "a").start()


def test_a_question_to_a_runner_that_has_closed_is_not_asked(folder, service):
    """Its reply is cancelled, and nothing is done."""
    call = Call(folder, service, "a").start().wait()
    done = []
    assert call.runner.ask(done.append).cancelled()
    assert done == []


def test_the_time_of_day_may_be_set_while_a_run_goes_on(monkeypatch):
    """Durations stay right; intervals never depend on it."""
    clock, real = SystemClock(), time.time
    before = clock.wall()
    monkeypatch.setattr(time, "time", lambda: real() + 86400)
    assert abs(before - real()) < 60
    assert 0 <= clock.wall() - before < 60
