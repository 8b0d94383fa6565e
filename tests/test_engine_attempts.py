"""Attempts, events and their fold."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch import columns
from dreamo_batch.engine.attempts import (
    OPEN,
    STATUS_OF,
    SUBMITTED,
    Attempt,
    Event,
    EventKind,
    ImpossibleEvent,
    Stage,
    State,
    advance,
    next_number,
)
from dreamo_batch.engine.spending import is_unresolved_cost
from tests.fakes import event, histories, order_fields

# Which stage each event leads to, by the stage it meets; what is not listed is refused.
LEGAL = {
    (Stage.UNSENT, EventKind.SENDING): Stage.SENDING,
    (Stage.REFUSED, EventKind.SENDING): Stage.SENDING,
    (Stage.SENDING, EventKind.NAMED): Stage.SENDING,
    (Stage.SENDING, EventKind.NOT_SENT): Stage.UNSENT,
    (Stage.AMBIGUOUS, EventKind.NOT_SENT): Stage.UNSENT,
    (Stage.SENDING, EventKind.REFUSED): Stage.REFUSED,
    (Stage.SENDING, EventKind.ACCEPTED): Stage.ACCEPTED,
    (Stage.AMBIGUOUS, EventKind.ACCEPTED): Stage.ACCEPTED,
    (Stage.SENDING, EventKind.AMBIGUOUS): Stage.AMBIGUOUS,
    (Stage.ACCEPTED, EventKind.OVERDUE): Stage.ACCEPTED,
    (Stage.ACCEPTED, EventKind.COMPLETED): Stage.COMPLETED,
    (Stage.ACCEPTED, EventKind.FAILED): Stage.FAILED,
    (Stage.ACCEPTED, EventKind.LOST): Stage.LOST,
    (Stage.COMPLETED, EventKind.SAVED): Stage.COMPLETED,
    (Stage.COMPLETED, EventKind.UNSAVED): Stage.COMPLETED,
}
PATHS = {
    Stage.UNSENT: (),
    Stage.SENDING: (EventKind.SENDING,),
    Stage.REFUSED: (EventKind.SENDING, EventKind.REFUSED),
    Stage.ACCEPTED: (EventKind.SENDING, EventKind.ACCEPTED),
    Stage.AMBIGUOUS: (EventKind.SENDING, EventKind.AMBIGUOUS),
    Stage.COMPLETED: (EventKind.SENDING, EventKind.ACCEPTED, EventKind.COMPLETED),
    Stage.FAILED: (EventKind.SENDING, EventKind.ACCEPTED, EventKind.FAILED),
    Stage.LOST: (EventKind.SENDING, EventKind.ACCEPTED, EventKind.LOST),
}


def fold(kinds):
    """Fold events a second apart into one attempt."""
    attempt = Attempt("a", 1)
    for at, kind in enumerate(kinds):
        attempt = advance(attempt, event(kind, at=float(at)))
    return attempt


def test_order_has_the_columns_of_the_ledger_in_their_order():
    """The checkpoint reads rows into attempts by position, so fields and columns must not drift apart."""
    assert [field.name for field in dataclasses.fields(Attempt)] == list(columns.LEDGER)


def test_every_stage_has_a_status():
    """No attempt can be in a stage that the results have no word for."""
    assert set(STATUS_OF) == set(Stage)
    assert set(STATUS_OF.values()) <= set(columns.STATUSES)
    assert OPEN < SUBMITTED


@pytest.mark.parametrize(("stage", "kind"), list(itertools.product(Stage, EventKind)))
def test_only_what_can_follow_follows(stage, kind):
    """Each event leads where the module's drawing says, and everything else is refused by name."""
    attempt = fold(PATHS[stage])
    assert attempt.stage is stage
    later = event(kind, at=99.0, error_message="later")
    if (stage, kind) in LEGAL:
        assert advance(attempt, later).stage is LEGAL[stage, kind]
    else:
        with pytest.raises(ImpossibleEvent, match=f"attempt 1 of job a is {stage}, so it can't be {kind}"):
            advance(attempt, later)


@pytest.mark.no_cover
@given(st.data())
def test_applying_an_event_twice_changes_nothing(data):
    """Whatever an event sets, the second time it sets the same."""
    stage, kind = data.draw(st.sampled_from(sorted(LEGAL)))
    names = data.draw(st.sets(st.sampled_from(sorted(order_fields())), max_size=5))
    fields = {name: data.draw(order_fields()[name]) for name in sorted(names)}
    attempt = advance(fold(PATHS[stage]), Event(kind, "a", 1, 9.0, fields))
    assert advance(attempt, Event(kind, "a", 1, 9.0, fields)) == attempt


@pytest.mark.parametrize(
    ("path", "again"),
    [
        ((EventKind.SENDING,), event(EventKind.SENDING, at=50.0)),
        ((EventKind.SENDING, EventKind.ACCEPTED), event(EventKind.ACCEPTED, at=1.0, task_id="another")),
        (
            (EventKind.SENDING, EventKind.ACCEPTED, EventKind.COMPLETED),
            event(EventKind.COMPLETED, at=2.0, cost="9"),
        ),
    ],
)
def test_what_happened_once_can_not_happen_differently(path, again):
    """A second create, task id or cost for the same attempt is a contradiction, never an overwrite."""
    with pytest.raises(ImpossibleEvent):
        advance(fold(path), again)


def test_sending_again_forgets_the_refusal_but_not_the_waiting():
    """An attempt that is sent again after a refusal carries no old error, and still counts its refusals."""
    attempt = fold(())
    attempt = advance(attempt, event(EventKind.SENDING, reserved="0.03"))
    attempt = advance(attempt, event(EventKind.NOT_SENT, n_refusals=2, waited_s=1.5))
    assert (attempt.stage, attempt.reserved) == (Stage.UNSENT, None)
    attempt = advance(attempt, event(EventKind.SENDING, at=8.0, reserved="0.04"))
    assert (attempt.sent_at, attempt.answered_at, attempt.reserved) == (8.0, None, "0.04")
    attempt = advance(attempt, event(EventKind.REFUSED, error_class="rejected", may_have_been_billed=False))
    attempt = advance(attempt, event(EventKind.SENDING, at=9.0))
    assert (attempt.error_class, attempt.may_have_been_billed) == (None, None)
    assert (attempt.n_refusals, attempt.waited_s) == (2, 1.5)


def test_overdue_says_so_and_a_later_end_takes_it_back():
    """A task that took too long stays open with its class, until it ends after all."""
    attempt = advance(fold(PATHS[Stage.ACCEPTED]), event(EventKind.OVERDUE, error_class="task_timeout"))
    assert (attempt.stage, attempt.error_class) == (Stage.ACCEPTED, "task_timeout")
    assert advance(attempt, event(EventKind.COMPLETED)).error_class is None


def test_a_resolved_attempt_is_as_good_as_any():
    """An ambiguous attempt told to be a task carries no doubt any more."""
    attempt = advance(fold(()), event(EventKind.SENDING))
    attempt = advance(attempt, event(EventKind.AMBIGUOUS, error_class="no_answer", may_have_been_billed=True))
    attempt = advance(attempt, event(EventKind.ACCEPTED, task_id="t"))
    assert (attempt.task_id, attempt.error_class, attempt.may_have_been_billed) == ("t", None, None)


def test_saving_takes_back_why_it_failed_before():
    """A picture saved at the second try leaves no error behind."""
    attempt = advance(fold(PATHS[Stage.COMPLETED]), event(EventKind.UNSAVED, output_error="not a picture"))
    assert attempt.output_error == "not a picture"
    assert advance(attempt, event(EventKind.SAVED, output_path="images/a.png")).output_error is None


def test_attempts_are_numbered_without_gaps():
    """An attempt whose number is neither known nor the next can't be put."""
    state = State([Attempt("a", 1)])
    for number in (0, -1, 3):
        with pytest.raises(ImpossibleEvent, match=f"attempt {number} of job a follows 1 attempts"):
            state.put(Attempt("a", number))
    with pytest.raises(ImpossibleEvent):
        state.apply(event(EventKind.SENDING, attempt=4))


def test_putting_an_attempt_replaces_only_that_one():
    """Attempts before and after it stay as they are."""
    attempts = [Attempt("a", n, Stage.AMBIGUOUS) for n in (1, 2, 3)]
    state = State(attempts)
    state.put(Attempt("a", 2, Stage.ACCEPTED))
    assert [attempt.stage for attempt in state.of("a")] == [Stage.AMBIGUOUS, Stage.ACCEPTED, Stage.AMBIGUOUS]
    assert (state.find("a", 1), state.find("a", 3)) == (attempts[0], attempts[2])


@pytest.mark.parametrize(
    ("stages", "number"),
    [
        ("unsent", 1),
        ("unsent unsent", 2),
        ("refused unsent", 1),
        ("failed unsent", 1),
        ("lost unsent", 1),
        ("lost failed unsent", 2),
        ("failed refused", 2),
        ("ambiguous unsent", 1),
        ("ambiguous refused", 1),
        ("ambiguous failed", 1),
        ("ambiguous lost", 1),
        ("ambiguous ambiguous", 2),
        ("lost ambiguous lost unsent", 2),
        ("accepted unsent", 1),
        ("accepted ambiguous", 1),
        ("ambiguous accepted failed", 2),
        ("ambiguous sending", 2),
        ("completed unsent", 1),
        ("completed accepted", 1),
        ("completed completed failed", 2),
    ],
)
def test_the_attempt_that_weighs_most_says_how_its_job_stands(stages, number):
    """A picture, then one under way, then doubt, then an end; one that was not sent only where nothing else was."""
    attempts = [Attempt("a", n, Stage(stage)) for n, stage in enumerate(stages.split(), start=1)]
    assert State(attempts).deciding("a") == attempts[number - 1]


@pytest.mark.no_cover
@given(histories())
def test_state_finds_what_was_put(attempts):
    """Every way of asking gives the same attempts."""
    state = State(attempts)
    assert list(state) == attempts
    assert len(state) == len({attempt.job_id for attempt in attempts})
    assert state == State(attempts)
    for attempt in attempts:
        assert state.find(attempt.job_id, attempt.attempt) == attempt
        assert state.of(attempt.job_id)[attempt.attempt - 1] == attempt


def test_state_knows_nothing_of_other_jobs():
    """Asking for what was never submitted gives nothing, whatever the number."""
    state = State([Attempt("a", 1)])
    assert (state.deciding("b"), state.of("b"), state.find("b", 1)) == (None, (), None)
    assert (state.find("a", 0), state.find("a", -1), state.find("a", 2)) == (None, None, None)
    assert state != State()
    assert state != "a"


@pytest.mark.parametrize("stage", Stage)
def test_only_an_attempt_that_never_arrived_is_sent_under_its_old_number(stage):
    """A number that may stand on the invoice is never used for a second create."""
    number = next_number((Attempt("a", 1, Stage.FAILED), Attempt("a", 2, stage)))
    assert number == (3 if stage in SUBMITTED else 2)


@pytest.mark.parametrize(("stage", "number"), [(Stage.UNSENT, 2), (Stage.REFUSED, 1)])
def test_the_number_of_an_answered_doubt_is_not_used_again(stage, number):
    """The attempt stays as the record that this create was not taken; a plain refusal needs none."""
    assert next_number((Attempt("a", 1, stage, may_have_been_billed=False),)) == number


def test_first_order_is_number_one():
    """Counting starts at one."""
    assert next_number(()) == 1


@pytest.mark.parametrize("stage", Stage)
def test_cost_is_unresolved_while_an_attempt_may_exist_without_one(stage):
    """What never reached the service costs nothing; what has a cost is settled."""
    assert is_unresolved_cost(Attempt("a", 1, stage)) is (stage in SUBMITTED)
    assert not is_unresolved_cost(Attempt("a", 1, stage, cost="0"))


def test_a_copy_is_the_state_as_it_was():
    """What happens later is not in it, nor the other way round."""
    state = State([Attempt("a", 1, Stage.ACCEPTED)])
    copied = state.copy()
    assert copied == state
    state.put(Attempt("a", 2))
    copied.put(Attempt("b", 1))
    assert [attempt.attempt for attempt in copied.of("a")] == [1]
    assert state.deciding("b") is None
