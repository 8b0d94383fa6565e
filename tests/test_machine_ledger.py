"""A ledger that is recorded to, checkpointed, closed, killed, robbed of its lock and damaged, against a model."""

from __future__ import annotations

import os
import shutil
from contextlib import closing, suppress
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from dreamo_batch.columns import ATTEMPT_INPUTS as INPUTS
from dreamo_batch.engine import journal
from dreamo_batch.engine.attempts import SCHEMA, Event, EventKind, ImpossibleEvent, State, Terms, next_number
from dreamo_batch.engine.checkpoint import NAME, PREVIOUS
from dreamo_batch.engine.directory import LOCK, RunDirectory
from dreamo_batch.engine.ledger import Ledger, interrupted, is_copied, read
from dreamo_batch.errors import LedgerDamaged
from tests.fakes import event, scratch, to_state

if TYPE_CHECKING:
    from pathlib import Path

# Other tests reach the same lines; measuring these would double their time.
pytestmark = pytest.mark.no_cover

JOBS = ("a", "b", "c")
# What may follow what: enough for every stage to be met.
NEXT = {
    "unsent": (EventKind.SENDING,),
    "refused": (EventKind.SENDING,),
    "sending": (
        EventKind.ACCEPTED,
        EventKind.NOT_SENT,
        EventKind.REFUSED,
        EventKind.AMBIGUOUS,
        EventKind.NAMED,
    ),
    "ambiguous": (EventKind.ACCEPTED, EventKind.NOT_SENT),
    "accepted": (EventKind.COMPLETED, EventKind.FAILED, EventKind.LOST, EventKind.OVERDUE),
    "completed": (EventKind.SAVED, EventKind.UNSAVED),
    "failed": (),
    "lost": (),
}


FIELDS = {
    "task_id": st.sampled_from(["t1", "t2"]),
    "cost": st.sampled_from([None, "0.0286"]),
    "error_message": st.sampled_from([None, "蓝\u2028", ""]),
    "seed_sent": st.integers(0, 2**63 - 1),
    "error_code": st.sampled_from(
        ["2026-11-28 10:00:00", "12", "true"]
    ),  # texts that look like something else
    "inputs": st.sampled_from(['{"prompt": "a"}', "2026-11-28"]),
    "waited_s": st.floats(0, 10) | st.integers(0, 10),
    "may_have_been_billed": st.booleans(),
    "saved_at": st.just(3.5),
}
Cap = tuple[str | None]


class LedgerMachine(RuleBasedStateMachine):
    """Folds what the ledger is told into a model; what was acknowledged is never lost, whatever happens."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = scratch()
        self.acknowledged: list[Event | Cap] = []
        self.waiting: list[Event | Cap] = []
        self.ledger: Ledger | None = None
        self.generation = 0
        self.at = 0.0
        self.backup: dict[str, bytes] = {}
        self.is_marked = True  # the folder says how long the newest journal is

    def teardown(self) -> None:
        if self.ledger is not None:
            self.ledger.abandon()
        shutil.rmtree(self.folder)

    def model(self, *more: Event | Cap) -> State:
        state = State()
        for one in (*self.acknowledged, *more):
            if isinstance(one, Event):
                state.apply(one)
            else:
                (cap,) = one
                state.terms = Terms(cap=cap)
        return state

    @initialize()
    def begin(self) -> None:
        self.open()

    @precondition(lambda self: self.ledger is None)
    @rule()
    def open(self) -> None:
        self.ledger = Ledger(RunDirectory(self.folder), "loopback", "00ff")
        self.is_marked = True
        self.generation += 1
        assert self.ledger.state == self.model()
        assert self.ledger.generation == self.generation
        assert set(interrupted(self.ledger.state)) == {one for one in self.model() if one.stage == "sending"}

    @precondition(lambda self: self.ledger is not None)
    @rule(job_id=st.sampled_from(JOBS), choice=st.integers(0, 4), is_new=st.booleans())
    def record(self, job_id: str, choice: int, *, is_new: bool) -> None:
        attempts = self.ledger.state.of(job_id)
        latest = attempts[-1] if attempts else None
        kinds = NEXT[latest.stage] if latest else ()
        self.at += 0.000001 + choice
        if latest is None or not kinds or (is_new and latest.stage == "ambiguous"):
            made = event(EventKind.SENDING, job_id, len(attempts) + 1, round(self.at, 6), reserved="0.03")
        else:
            kind = kinds[choice % len(kinds)]
            fields = (
                {"task_id": f"{job_id}-{self.at}"}
                if kind is EventKind.ACCEPTED
                else {"error_message": "蓝\u2028"}
            )
            made = event(kind, job_id, latest.attempt, round(self.at, 6), **fields)
        (attempt,) = self.ledger.record([made])
        self.waiting.append(made)
        assert attempt == self.ledger.state.find(job_id, made.attempt)

    @precondition(lambda self: self.ledger is not None)
    @rule(cap=st.sampled_from([None, "5", "0.12"]))
    def set_cap(self, cap: str | None) -> None:
        if cap != self.ledger.state.terms.cap:
            self.waiting.append((cap,))
        self.ledger.set_terms(self.at, cap=cap)

    @precondition(lambda self: self.ledger is not None)
    @rule()
    def commit(self) -> None:
        self.ledger.commit()
        self.acknowledge()

    @precondition(lambda self: self.ledger is not None)
    @rule()
    def checkpoint(self) -> None:
        self.ledger.checkpoint(JOBS)
        self.acknowledge()

    @precondition(lambda self: self.ledger is not None)
    @rule()
    def close(self) -> None:
        self.ledger.close(JOBS)
        self.ledger = None
        self.acknowledge()

    @precondition(lambda self: self.ledger is not None)
    @rule(n_kept=st.integers(0, 400))
    def crash(self, n_kept: int) -> None:
        """Die in the middle of the next write: the newest journal is torn."""
        path = journal.path_of(self.folder, max(journal.numbers(self.folder)))
        n_durable = path.stat().st_size
        end = self.folder / journal.END_NAME
        noted = (
            end.read_bytes()
        )  # written only after the write that does not end here, as is the folder's mark
        marks = os.listxattr(self.folder)
        self.ledger.commit()
        self.die()
        end.write_bytes(noted)
        for mark in os.listxattr(self.folder):
            os.removexattr(self.folder, mark)
        for mark in marks:
            os.setxattr(self.folder, mark, b"")
        content = path.read_bytes()
        torn = content[: min(n_durable + n_kept, len(content))]
        path.write_bytes(torn)
        n_whole = torn.count(b"\n") - content[:n_durable].count(b"\n")
        self.acknowledged += self.waiting[:n_whole]  # whole lines count, though nobody was told
        self.is_marked = not n_whole
        self.waiting.clear()
        self.look()

    @precondition(lambda self: self.ledger is not None)
    @rule(name=st.sampled_from([NAME, PREVIOUS, "run.json"]), is_cut=st.booleans())
    def crash_and_lose(self, name: str, *, is_cut: bool) -> None:
        """Die, and find one of the files that are kept twice gone or cut."""
        self.die()
        self.waiting.clear()
        path = self.folder / name
        if path.exists() and is_cut:
            path.write_bytes(path.read_bytes()[:50])
        else:
            path.unlink(missing_ok=True)
        self.look()
        self.open()
        self.ledger.checkpoint(JOBS)  # from here on one more loss is healed again
        self.ledger.checkpoint(JOBS)

    @rule()
    def back_up(self) -> None:
        self.backup = self.files()

    @precondition(lambda self: self.ledger is None and self.is_marked)
    @rule()
    def restore(self) -> None:
        """Copy the backup over what is there: what it lacks is noticed; then undo that."""
        now = self.files()
        self.put(self.backup)
        with suppress(LedgerDamaged):
            found = read(self.folder)
            assert found.state() == self.model() or is_copied(found, RunDirectory(self.folder))
        for name in self.files().keys() - now.keys():
            (self.folder / name).unlink()
        self.put(now)
        assert not is_copied(read(self.folder), RunDirectory(self.folder))

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def put(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            (self.folder / name).write_bytes(content)

    def look(self) -> None:
        """Any reader sees what was acknowledged, and nothing else, also where few events lie over many rows."""
        assert read(self.folder).state() == self.model()
        assert_both_ways_agree(self.folder)

    def acknowledge(self) -> None:
        self.acknowledged += self.waiting
        self.waiting.clear()
        self.look()

    def die(self) -> None:
        """Let the writer write nothing any more."""
        self.ledger.abandon()
        self.ledger = None


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=settings().max_examples // 4, stateful_step_count=40)


class WritersMachine(RuleBasedStateMachine):
    """Writers that lose lock or directory while creates are on the wire; no id that was answered is ever lost.

    A writer that lost its lock submits nothing more, and its answers wait beside the journals for the next opening.
    """

    def __init__(self) -> None:
        super().__init__()
        self.home = scratch()
        self.folder = self.home / "run"
        self.writers: list[Ledger] = []
        self.on_the_wire: dict[int, list[tuple[str, int]]] = {}
        self.known: set[str] = set()  # ids that a writer was answered with
        self.not_taken: set[tuple[str, float]] = (
            set()
        )  # jobs and times of creates that were answered as not taken
        self.unanswered: set[tuple[str, float]] = set()  # of creates that may have been bought
        self.are_strays_left = False  # by a writer that has ended: nobody can write these again
        self.n = 0

    def teardown(self) -> None:
        for writer in self.writers:
            self.leave(writer)
        shutil.rmtree(self.home)

    def has_owner(self) -> bool:
        return any(not writer.directory.is_lost() for writer in self.writers)

    @precondition(lambda self: not self.has_owner())
    @rule()
    def open(self) -> None:
        """Open as a call does: creates that nobody seems to wait for are in doubt."""
        directory = RunDirectory(self.folder)
        directory.lock()
        writer = Ledger(directory, "loopback", "00ff")
        held = [
            event(EventKind.AMBIGUOUS, o.job_id, o.attempt, self.now()) for o in interrupted(writer.state)
        ]
        writer.record(held)
        writer.commit()
        self.writers.append(writer)
        self.on_the_wire[id(writer)] = []
        self.are_strays_left = False
        self.look(writer.state)

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), job_id=st.sampled_from(JOBS))
    def send(self, data: st.DataObject, job_id: str) -> None:
        writer = data.draw(st.sampled_from(self.writers))
        attempts = writer.state.of(job_id)
        if any(attempt.stage == "sending" for attempt in attempts) or len(self.on_the_wire[id(writer)]) > 2:
            return
        key = (job_id, next_number(attempts))
        (attempt,) = writer.record([event(EventKind.SENDING, *key, self.now(), reserved="0.03")])
        if self.commit(writer):
            self.on_the_wire[id(writer)].append(key)
            self.unanswered.add((job_id, attempt.sent_at))
        else:
            self.take_back(writer, key)

    @precondition(lambda self: any(self.on_the_wire.values()))
    @rule(data=st.data(), is_taken=st.booleans())
    def answer(self, data: st.DataObject, *, is_taken: bool) -> None:
        """Whoever sent a create takes its answer in, whatever has become of the directory meanwhile."""
        writer = data.draw(st.sampled_from([one for one in self.writers if self.on_the_wire[id(one)]]))
        key = self.on_the_wire[id(writer)].pop(0)
        if is_taken:
            self.n += 1
            (attempt,) = writer.record(
                [event(EventKind.ACCEPTED, *key, self.now(), task_id=f"task-{self.n}")]
            )
            self.known.add(f"task-{self.n}")
            self.unanswered.discard((attempt.job_id, attempt.sent_at))
            self.commit(writer)
        else:
            self.take_back(writer, key)
        assert writer.unwritten_tasks() == []

    def take_back(self, writer: Ledger, key: tuple[str, int]) -> None:
        (attempt,) = writer.record([event(EventKind.NOT_SENT, *key, self.now())])
        self.commit(writer)
        self.not_taken.add((attempt.job_id, attempt.sent_at))
        self.unanswered.discard((attempt.job_id, attempt.sent_at))

    @precondition(lambda self: self.has_owner())
    @rule(how=st.sampled_from(["delete", "replace", "delete strays", "remake", "delete all"]))
    def rob(self, how: str) -> None:
        """Do to the directory what somebody may do who does not know that it is in use; each writer notices."""
        if self.are_strays_left and how not in {"delete", "replace"}:
            return
        match how:
            case "delete":
                (self.folder / LOCK).unlink()
            case "replace":
                (self.folder / LOCK).rename(self.folder / "aside")
                (self.folder / LOCK).write_bytes(b"")
            case "delete strays":
                for path in journal.stray_files(self.folder):
                    path.unlink()
            case "remake":
                shutil.rmtree(self.folder)
                self.folder.mkdir()
            case "delete all":
                shutil.rmtree(self.folder)
        for writer in self.writers:
            self.commit(writer)

    @precondition(lambda self: self.writers)
    @rule(data=st.data())
    def checkpoint(self, data: st.DataObject) -> None:
        writer = data.draw(st.sampled_from(self.writers))
        with suppress(FileNotFoundError):
            writer.checkpoint(JOBS)

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), is_killed=st.booleans())
    def end(self, data: st.DataObject, *, is_killed: bool) -> None:
        """End with every answer taken in, or be killed: then what was on the wire has no id that anybody knows."""
        writer = data.draw(st.sampled_from(self.writers))
        if not is_killed and not self.on_the_wire[id(writer)]:
            with suppress(FileNotFoundError):
                writer.close(JOBS)
        self.are_strays_left |= writer.strays.path is not None
        self.leave(writer)
        self.writers.remove(writer)
        self.on_the_wire.pop(id(writer))

    @precondition(lambda self: self.folder.is_dir())
    @rule()
    def read(self) -> None:
        """Readers see every id, and load, whoever writes."""
        self.look(read(self.folder).folded(service="loopback")[0])

    def look(self, state: State) -> None:
        ids = [attempt.task_id for attempt in state if attempt.task_id is not None]
        assert len(ids) == len(set(ids))
        assert set(ids) == self.known
        in_doubt = {(o.job_id, o.sent_at) for o in state if o.stage in {"sending", "ambiguous"}}
        assert not in_doubt & self.not_taken
        assert self.unanswered <= in_doubt

    def commit(self, writer: Ledger) -> bool:
        """Commit; False where that writer has lost its directory, and so may send nothing."""
        try:
            writer.commit()
        except FileNotFoundError:
            return False
        return True

    def leave(self, writer: Ledger) -> None:
        writer.abandon()
        writer.directory.unlock()

    def now(self) -> float:
        self.n += 1
        return float(self.n)


class Chosen:
    """Draws the writer that a rule is to take."""

    def __init__(self, writer: Ledger) -> None:
        self.writer = writer

    def draw(self, _: object) -> Ledger:
        return self.writer


@pytest.mark.parametrize("is_ended", [False, True])
@pytest.mark.parametrize("n_lost", [1, 2])
def test_a_doubt_that_was_answered_stays_answered(n_lost, is_ended):
    """Writers that lost their locks before the answer still hold the create for ambiguous, and leave it beside."""
    machine = WritersMachine()
    try:
        machine.open()
        first = machine.writers[0]
        machine.send(Chosen(first), "a")
        for _ in range(n_lost):
            machine.rob("delete")
            machine.open()
        machine.rob("delete")
        machine.answer(Chosen(first), is_taken=False)
        machine.end(Chosen(first), is_killed=False)
        machine.open()
        if is_ended:  # then only a checkpoint knows of the answer
            machine.checkpoint(Chosen(machine.writers[-1]))
            machine.end(Chosen(machine.writers[-1]), is_killed=False)
            machine.open()
        machine.send(Chosen(machine.writers[-1]), "a")
        machine.rob("remake")
        machine.open()
        stages = [str(attempt.stage) for attempt in machine.writers[-1].state.of("a")]
        assert stages == ["unsent", "ambiguous"]
    finally:
        machine.teardown()


TestWriters = WritersMachine.TestCase
TestWriters.settings = settings(max_examples=settings().max_examples // 4, stateful_step_count=40)


@settings(max_examples=settings().max_examples // 4)
@given(
    st.lists(
        st.tuples(st.sampled_from(JOBS), st.integers(0, 3), st.sampled_from(["", "", "cut"])), max_size=25
    )
)
def test_whatever_a_crash_leaves_is_read_the_same_in_both_ways(steps):
    """Stop after any event, with the checkpoints wherever they fell; the newest of them may be lost, too."""
    folder = scratch()
    ledger, known, at = Ledger(RunDirectory(folder), "loopback", "00ff"), State(), 0.0
    try:
        for job_id, choice, then in steps:
            attempts, at = known.of(job_id), at + 1.0
            kinds = NEXT[attempts[-1].stage] if attempts else ()
            if kinds:
                made = event(kinds[choice % len(kinds)], job_id, attempts[-1].attempt, at)
            else:
                made = event(EventKind.SENDING, job_id, len(attempts) + 1, at, reserved="0.03")
            ledger.record([made])
            known.apply(made)
            ledger.commit()
            if then:
                ledger.checkpoint(JOBS)
            assert_both_ways_agree(folder)
            if (folder / PREVIOUS).exists():
                (folder / NAME).rename(folder / "aside")
                assert_both_ways_agree(folder)
                (folder / "aside").rename(folder / NAME)
    finally:
        ledger.abandon()
        shutil.rmtree(folder)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.sampled_from(["next"] * 8 + ["again", "any"]),
            st.sampled_from(EventKind),
            st.fixed_dictionaries({}, optional=FIELDS),
        ),
        max_size=40,
    )
)
def test_any_history_folds_by_column_as_by_row(steps):
    """Plain jobs, retries, repeated and impossible events, nulls: both give the same attempts, or refuse."""
    folder, known, made = scratch(), State(), {}
    try:
        with closing(journal.Journal(folder, journal.Header(1, 1, 1, "00", "loopback"))) as written:
            for at, (job_id, which, kind, fields) in enumerate(steps):
                attempts = known.of(job_id)
                following = NEXT[attempts[-1].stage] if attempts else (EventKind.SENDING,)
                if which == "next" and following:
                    kind = kind if kind in following else following[0]  # noqa: PLW2901 - the usual way on
                number = attempts[-1].attempt if attempts and following else len(attempts) + 1
                one = event(kind if following else EventKind.SENDING, job_id, number, at + 0.25, **fields)
                made[job_id] = one = made.get(job_id, one) if which == "again" else one
                with suppress(ImpossibleEvent):
                    known.apply(one)
                written.append([one])
            written.commit()
        assert_both_ways_agree(folder)
    finally:
        shutil.rmtree(folder)


def assert_both_ways_agree(folder: Path) -> None:
    """Folding column by column, and event by event, give the same attempts, or both refuse."""
    recovered = read(folder)
    state = State() if recovered.snapshot is None else to_state(recovered.snapshot)
    state.terms = recovered.terms
    try:
        for text in recovered.texts:
            for line in BytesIO(text):
                state.apply(journal.event_of(line))
    except ImpossibleEvent:
        with pytest.raises(LedgerDamaged, match="contradicts itself"):
            recovered.state()
    else:
        assert recovered.state() == state
        with suppress(LedgerDamaged):  # then everything is read
            assert without_inputs(
                read(folder, [name for name in SCHEMA.names if name != INPUTS]).state()
            ) == (without_inputs(state))


def without_inputs(state: State) -> State:
    return State((replace(one, inputs=None) for one in state), state.terms)
