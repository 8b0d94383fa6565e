"""Orders, events and their fold."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch import columns
from dreamo_batch.engine.attempts import (
    OPEN,
    ORDERED,
    STATUS_OF,
    Event,
    ImpossibleEvent,
    Kind,
    Order,
    Stage,
    State,
    advance,
    is_unresolved_cost,
    next_number,
)
from tests.fakes import event, histories, order_fields

# Which stage each event leads to, by the stage it meets; what is not listed is refused.
LEGAL = {
    (Stage.UNSENT, Kind.SENDING): Stage.SENDING,
    (Stage.REFUSED, Kind.SENDING): Stage.SENDING,
    (Stage.SENDING, Kind.NOT_SENT): Stage.UNSENT,
    (Stage.AMBIGUOUS, Kind.NOT_SENT): Stage.UNSENT,
    (Stage.SENDING, Kind.REFUSED): Stage.REFUSED,
    (Stage.SENDING, Kind.ACCEPTED): Stage.ACCEPTED,
    (Stage.AMBIGUOUS, Kind.ACCEPTED): Stage.ACCEPTED,
    (Stage.SENDING, Kind.AMBIGUOUS): Stage.AMBIGUOUS,
    (Stage.ACCEPTED, Kind.OVERDUE): Stage.ACCEPTED,
    (Stage.ACCEPTED, Kind.COMPLETED): Stage.COMPLETED,
    (Stage.ACCEPTED, Kind.FAILED): Stage.FAILED,
    (Stage.ACCEPTED, Kind.LOST): Stage.LOST,
    (Stage.COMPLETED, Kind.SAVED): Stage.COMPLETED,
    (Stage.COMPLETED, Kind.UNSAVED): Stage.COMPLETED,
}
PATHS = {
    Stage.UNSENT: (),
    Stage.SENDING: (Kind.SENDING,),
    Stage.REFUSED: (Kind.SENDING, Kind.REFUSED),
    Stage.ACCEPTED: (Kind.SENDING, Kind.ACCEPTED),
    Stage.AMBIGUOUS: (Kind.SENDING, Kind.AMBIGUOUS),
    Stage.COMPLETED: (Kind.SENDING, Kind.ACCEPTED, Kind.COMPLETED),
    Stage.FAILED: (Kind.SENDING, Kind.ACCEPTED, Kind.FAILED),
    Stage.LOST: (Kind.SENDING, Kind.ACCEPTED, Kind.LOST),
}


def fold(kinds):
    """Fold events a second apart into one order."""
    order = Order("a", 1)
    for at, kind in enumerate(kinds):
        order = advance(order, event(kind, at=float(at)))
    return order


def test_order_has_the_columns_of_the_ledger_in_their_order():
    """The checkpoint reads rows into orders by position, so fields and columns must not drift apart."""
    assert [field.name for field in dataclasses.fields(Order)] == list(columns.ORDERS)


def test_every_stage_has_a_status():
    """No order can be in a stage that the results have no word for."""
    assert set(STATUS_OF) == set(Stage)
    assert set(STATUS_OF.values()) <= set(columns.STATUSES)
    assert OPEN < ORDERED


@pytest.mark.parametrize(("stage", "kind"), list(itertools.product(Stage, Kind)))
def test_only_what_can_follow_follows(stage, kind):
    """Each event leads where the module's drawing says, and everything else is refused by name."""
    order = fold(PATHS[stage])
    assert order.stage is stage
    later = event(kind, at=99.0, error_message="later")
    if (stage, kind) in LEGAL:
        assert advance(order, later).stage is LEGAL[stage, kind]
    else:
        with pytest.raises(ImpossibleEvent, match=f"order 1 of job a is {stage}, so it can't be {kind}"):
            advance(order, later)


@given(st.data())
def test_applying_an_event_twice_changes_nothing(data):
    """Whatever an event sets, the second time it sets the same."""
    stage, kind = data.draw(st.sampled_from(sorted(LEGAL)))
    names = data.draw(st.sets(st.sampled_from(sorted(order_fields())), max_size=5))
    fields = {name: data.draw(order_fields()[name]) for name in sorted(names)}
    order = advance(fold(PATHS[stage]), Event(kind, "a", 1, 9.0, fields))
    assert advance(order, Event(kind, "a", 1, 9.0, fields)) == order


@pytest.mark.parametrize(
    ("path", "again"),
    [
        ((Kind.SENDING,), event(Kind.SENDING, at=50.0)),
        ((Kind.SENDING, Kind.ACCEPTED), event(Kind.ACCEPTED, at=1.0, task_id="another")),
        ((Kind.SENDING, Kind.ACCEPTED, Kind.COMPLETED), event(Kind.COMPLETED, at=2.0, cost="9")),
    ],
)
def test_what_happened_once_can_not_happen_differently(path, again):
    """A second create, task id or cost for the same order is a contradiction, never an overwrite."""
    with pytest.raises(ImpossibleEvent):
        advance(fold(path), again)


def test_sending_again_forgets_the_refusal_but_not_the_waiting():
    """An order that is sent again after a refusal carries no old error, and still counts its refusals."""
    order = fold(())
    order = advance(order, event(Kind.SENDING, reserved="0.03"))
    order = advance(order, event(Kind.NOT_SENT, n_refusals=2, waited_s=1.5))
    assert (order.stage, order.reserved) == (Stage.UNSENT, None)
    order = advance(order, event(Kind.SENDING, at=8.0, reserved="0.04"))
    assert (order.sent_at, order.answered_at, order.reserved) == (8.0, None, "0.04")
    order = advance(order, event(Kind.REFUSED, error_class="rejected", may_have_been_billed=False))
    order = advance(order, event(Kind.SENDING, at=9.0))
    assert (order.error_class, order.may_have_been_billed) == (None, None)
    assert (order.n_refusals, order.waited_s) == (2, 1.5)


def test_overdue_says_so_and_a_later_end_takes_it_back():
    """A task that took too long stays open with its class, until it ends after all."""
    order = advance(fold(PATHS[Stage.ACCEPTED]), event(Kind.OVERDUE, error_class="task_timeout"))
    assert (order.stage, order.error_class) == (Stage.ACCEPTED, "task_timeout")
    assert advance(order, event(Kind.COMPLETED)).error_class is None


def test_a_resolved_order_is_as_good_as_any():
    """An ambiguous order told to be a task carries no doubt any more."""
    order = advance(fold(()), event(Kind.SENDING))
    order = advance(order, event(Kind.AMBIGUOUS, error_class="no_answer", may_have_been_billed=True))
    order = advance(order, event(Kind.ACCEPTED, task_id="t"))
    assert (order.task_id, order.error_class, order.may_have_been_billed) == ("t", None, None)


def test_saving_takes_back_why_it_failed_before():
    """A picture saved at the second try leaves no error behind."""
    order = advance(fold(PATHS[Stage.COMPLETED]), event(Kind.UNSAVED, output_error="not a picture"))
    assert order.output_error == "not a picture"
    assert advance(order, event(Kind.SAVED, output_path="images/a.png")).output_error is None


def test_orders_are_numbered_without_gaps():
    """An order whose number is neither known nor the next can't be put."""
    state = State([Order("a", 1)])
    for number in (0, -1, 3):
        with pytest.raises(ImpossibleEvent, match=f"order {number} of job a follows 1 orders"):
            state.put(Order("a", number))
    with pytest.raises(ImpossibleEvent):
        state.apply(event(Kind.SENDING, order=4))


def test_putting_an_order_replaces_only_that_one():
    """Orders before and after it stay as they are."""
    orders = [Order("a", n, Stage.AMBIGUOUS) for n in (1, 2, 3)]
    state = State(orders)
    state.put(Order("a", 2, Stage.ACCEPTED))
    assert [order.stage for order in state.of("a")] == [Stage.AMBIGUOUS, Stage.ACCEPTED, Stage.AMBIGUOUS]
    assert state.deciding("a") == orders[2]


@given(histories())
def test_state_finds_what_was_put(orders):
    """Every way of asking gives the same orders."""
    state = State(orders)
    assert list(state) == orders
    assert len(state) == len({order.job_id for order in orders})
    assert state == State(orders)
    for order in orders:
        assert state.find(order.job_id, order.order) == order
        assert state.of(order.job_id)[order.order - 1] == order


def test_state_knows_nothing_of_other_jobs():
    """Asking for what was never ordered gives nothing, whatever the number."""
    state = State([Order("a", 1)])
    assert (state.deciding("b"), state.of("b"), state.find("b", 1)) == (None, (), None)
    assert (state.find("a", 0), state.find("a", -1), state.find("a", 2)) == (None, None, None)
    assert state != State()
    assert state != "a"


@pytest.mark.parametrize("stage", Stage)
def test_only_an_order_that_never_arrived_is_sent_under_its_old_number(stage):
    """A number that may stand on the invoice is never used for a second create."""
    number = next_number((Order("a", 1, Stage.FAILED), Order("a", 2, stage)))
    assert number == (3 if stage in ORDERED else 2)


def test_first_order_is_number_one():
    """Counting starts at one."""
    assert next_number(()) == 1


@pytest.mark.parametrize("stage", Stage)
def test_cost_is_unresolved_while_an_order_may_exist_without_one(stage):
    """What never reached the service costs nothing; what has a cost is settled."""
    assert is_unresolved_cost(Order("a", 1, stage)) is (stage in ORDERED)
    assert not is_unresolved_cost(Order("a", 1, stage, cost="0"))


def test_a_copy_is_the_state_as_it_was():
    """What happens later is not in it, nor the other way round."""
    state = State([Order("a", 1, Stage.ACCEPTED)])
    copied = state.copy()
    assert copied == state
    state.put(Order("a", 2))
    copied.put(Order("b", 1))
    assert [order.order for order in copied.of("a")] == [1]
    assert state.deciding("b") is None
