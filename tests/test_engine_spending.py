"""Spending: exact money, and what holds how much back."""

from __future__ import annotations

from decimal import ROUND_DOWN, Context, Decimal, FloatOperation, Inexact, Rounded, localcontext

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch import columns
from dreamo_batch.engine.attempts import SUBMITTED, Attempt, Stage
from dreamo_batch.engine.plan import Plan
from dreamo_batch.engine.spending import Spending, highest_price, possibly_billed, price_of
from dreamo_batch.money import dollars, exact_text, money, times, total
from tests.fakes import amounts, histories

ENDED = (Stage.COMPLETED, Stage.FAILED, Stage.LOST, Stage.AMBIGUOUS)


@pytest.mark.parametrize(
    "unreadable", [None, "", " ", "free", "-1", "-0.01", "NaN", "Infinity", "-inf", True]
)
def test_what_is_no_amount_is_none(unreadable):
    """Only finite amounts of at least zero are money."""
    assert money(unreadable) is None


@given(st.decimals(min_value=0, allow_nan=False, allow_infinity=False, places=9))
def test_amounts_are_read_exactly(amount):
    """Text, decimals and floats give the amount they show."""
    assert money(f" {amount:f} ") == amount
    assert money(amount) == amount
    assert money(exact_text(amount)) == amount
    assert money(float(amount)) == Decimal(repr(float(amount)))


@given(st.lists(amounts.map(Decimal)))
def test_sums_are_exact(parts):
    """A sum of millionths has no rounding in it, whatever the attempt."""
    expected = sum(int(part.scaleb(6)) for part in parts)
    assert total(parts).scaleb(6) == total(reversed(parts)).scaleb(6) == expected


def test_long_amounts_stay_exact():
    """Digits beyond what a default context keeps are kept."""
    cost = "0.0285714285714285714285714285714285714285"
    attempts = [Attempt("a", n, Stage.COMPLETED, cost=cost) for n in (1, 2, 3)]
    budget = Spending(attempts=attempts)
    assert exact_text(budget.spent) == "0.0857142857142857142857142857142857142855"
    budget.change(attempts[0], attempts[0])
    assert exact_text(budget.spent) == "0.0857142857142857142857142857142857142855"
    assert times(-1, Decimal(cost)) == Decimal("-" + cost)
    held = Spending(
        attempts=[Attempt("a", 1, Stage.ACCEPTED, reserved=cost), Attempt("a", 2, Stage.ACCEPTED)]
    )
    assert exact_text(held.reserved) == cost
    held.price = Decimal(cost)
    assert exact_text(held.reserved) == "0.057142857142857142857142857142857142857"


@given(histories(), st.none() | amounts.map(Decimal))
def test_following_attempts_one_by_one_is_adding_them_up(attempts, price):
    """However attempts came about, spent and reserved are those of a budget made from where they are."""
    followed = Spending(price=price)
    for attempt in attempts:
        sent = Attempt(attempt.job_id, attempt.attempt, Stage.SENDING, reserved=attempt.reserved)
        followed.change(None, sent)
        followed.change(sent, attempt)
    fresh = Spending(price=followed.price, attempts=attempts)
    assert (followed.spent, followed.reserved) == (fresh.spent, fresh.reserved)
    settled = [money(attempt.cost) or 0 for attempt in attempts if attempt.stage in SUBMITTED]
    assert followed.spent == sum(settled)


@pytest.mark.parametrize("stage", Stage)
def test_what_an_attempt_holds_back(stage):
    """An attempt that exists, or may, holds its reservation until its cost is known; the rest hold nothing."""
    budget = Spending(attempts=[Attempt("a", 1, stage, reserved="0.03")])
    assert budget.reserved == (Decimal("0.03") if stage in SUBMITTED else 0)
    assert budget.spent == 0
    budget = Spending(attempts=[Attempt("a", 1, stage, reserved="0.03", cost="0.02")])
    assert (budget.spent, budget.reserved) == ((Decimal("0.02") if stage in SUBMITTED else 0), 0)


@pytest.mark.parametrize("stage", ENDED)
def test_an_attempt_that_ended_without_a_cost_keeps_its_reservation(stage):
    """Money that may be gone is not given out again, in this call or the next."""
    sent = Attempt("a", 1, Stage.SENDING, reserved="0.03")
    budget = Spending(cap=Decimal("0.05"), price=Decimal("0.03"))
    budget.change(None, sent)
    assert not budget.may_send()
    budget.change(sent, Attempt("a", 1, stage, reserved="0.03"))
    assert budget.reserved == Decimal("0.03")
    assert not budget.may_send()


@pytest.mark.parametrize("cost", [None, "0.02"])
def test_a_failure_known_to_be_unbilled_holds_nothing_back(cost):
    """Neither its reservation nor, sent before any price was known, the price known now."""
    sent = Attempt("a", 1, Stage.SENDING, reserved="0.03")
    budget = Spending(cap=Decimal("0.05"), price=Decimal("0.03"))
    budget.change(None, sent)
    ended = Attempt("a", 1, Stage.FAILED, reserved="0.03", cost=cost, may_have_been_billed=False)
    budget.change(sent, ended)
    assert (budget.reserved, budget.spent) == (0, Decimal(cost or "0"))
    assert budget.may_send()
    pilot = Attempt("b", 1, Stage.FAILED, cost=cost, may_have_been_billed=False)
    assert Spending(price=Decimal("0.03"), attempts=[pilot, ended]).reserved == 0


def test_attempts_sent_before_any_price_count_at_the_price_known_now():
    """A pilot's attempt in flight holds back what its siblings turned out to cost."""
    attempts = [Attempt("a", n, Stage.ACCEPTED) for n in (1, 2)]
    budget = Spending(cap=Decimal("0.10"), n_pilot=2, attempts=attempts)
    assert budget.reserved == 0
    budget.change(attempts[0], Attempt("a", 1, Stage.COMPLETED, cost="0.04"))
    assert (budget.spent, budget.reserved, budget.price) == (
        Decimal("0.04"),
        Decimal("0.04"),
        Decimal("0.04"),
    )
    assert not budget.may_send()
    budget.change(attempts[1], Attempt("a", 2, Stage.FAILED, cost="0"))
    assert budget.may_send()


def test_a_higher_price_raises_what_follows():
    """Seen once, the highest price is what every later create reserves; a lower one changes nothing."""
    budget = Spending(price=Decimal("0.03"))
    for cost, price in (("0.05", "0.05"), ("0.01", "0.05"), ("0.06", "0.06")):
        budget.change(Attempt("a", 1, Stage.ACCEPTED), Attempt("a", 1, Stage.COMPLETED, cost=cost))
        assert budget.reserve() == price


def test_only_pictures_show_a_price():
    """What a failed task cost is no price of one that completes."""
    attempts = [Attempt("a", 1, Stage.FAILED, cost="9"), Attempt("a", 2, Stage.COMPLETED, cost="0.02")]
    assert highest_price(attempts) == Decimal("0.02")
    assert price_of(attempts[0]) is None
    budget = Spending(price=Decimal("0.03"))
    budget.change(None, attempts[0])
    assert budget.price == Decimal("0.03")


def test_the_cap_is_met_to_the_last_digit():
    """Exactly the cap may be spent, and not a millionth more."""
    budget = Spending(cap=Decimal("0.090000"), price=Decimal("0.03"))
    for n in (1, 2):
        budget.change(None, Attempt("a", n, Stage.COMPLETED, cost="0.03"))
    assert budget.may_send()
    budget.cap = Decimal("0.089999")
    assert not budget.may_send()
    assert budget.excess == 0


def test_what_is_over_the_cap_is_reported():
    """If a price exceeds its reservation, the excess is a number."""
    budget = Spending(cap=Decimal("0.03"), price=Decimal("0.03"))
    budget.change(None, Attempt("a", 1, Stage.COMPLETED, cost="0.0400001"))
    assert budget.excess == Decimal("0.0100001")
    assert Spending().excess == 0


def test_without_a_cap_everything_goes():
    """No cap, no refusal; reservations are taken all the same."""
    budget = Spending()
    assert [budget.may_send(), budget.reserve(), budget.may_send()] == [True, None, True]
    budget.price = Decimal("0.0300")
    assert (budget.may_send(), budget.reserve()) == (True, "0.03")


def test_pilots_are_counted():
    """At most as many attempts as allowed go out before a price is known; those that never were come back."""
    budget = Spending(cap=Decimal(5), n_pilot=2)
    sent = [Attempt("a", n, Stage.SENDING) for n in (1, 2)]
    for attempt in sent:
        assert budget.may_send()
        assert budget.reserve() is None
        budget.change(None, attempt)
    assert not budget.may_send()
    budget.change(sent[0], Attempt("a", 1, Stage.UNSENT))
    assert budget.may_send()
    assert budget.reserve() is None
    budget.change(Attempt("a", 1, Stage.UNSENT), sent[0])
    budget.change(sent[0], Attempt("a", 1, Stage.REFUSED))
    assert budget.may_send()
    budget.change(sent[1], Attempt("a", 2, Stage.AMBIGUOUS))
    assert budget.reserve() is None
    budget.change(None, Attempt("b", 1, Stage.SENDING))
    assert not budget.may_send()
    budget.change(Attempt("b", 1, Stage.SENDING), Attempt("b", 1, Stage.COMPLETED))
    assert not budget.may_send()


def test_pilots_of_earlier_calls_count():
    """The same call again buys no more attempts without a price; a larger number buys the difference."""
    attempts = [
        Attempt("a", 1, Stage.COMPLETED),
        Attempt("b", 1, Stage.AMBIGUOUS),
        Attempt("c", 1, Stage.REFUSED),
    ]
    assert not Spending(cap=Decimal(5), n_pilot=2, attempts=attempts).may_send()
    budget = Spending(cap=Decimal(5), n_pilot=3, attempts=attempts)
    assert (budget.n_pilots, budget.may_send()) == (2, True)
    budget.change(attempts[2], Attempt("c", 1, Stage.SENDING))
    assert not budget.may_send()


@pytest.mark.parametrize(
    "amount",
    [
        "1e999999999",
        "1e-999999999",
        "0e-999999999",
        "nan",
        "-0.01",
        "inf",
        "-inf",
        "0,12",
        "0_12",
        ["0.12"],
        True,
    ],
)
def test_what_is_no_amount_of_money_is_none(amount):
    """A number that would take the whole memory to write out is no amount."""
    assert money(amount) is None


def test_possibly_billed_counts_doubtful_attempts_only():
    """Attempts that may have cost something nobody told, at what they hold back; unknown where one holds nothing."""
    attempts = [
        Attempt("a", 1, Stage.AMBIGUOUS, reserved="0.03", may_have_been_billed=True),
        Attempt("b", 1, Stage.LOST, reserved="0.04", may_have_been_billed=True),
        Attempt("c", 1, Stage.FAILED, reserved="0.05", may_have_been_billed=False),
        Attempt("d", 1, Stage.COMPLETED, reserved="0.06", cost="0.06", may_have_been_billed=True),
        Attempt("f", 1, Stage.UNSENT, reserved="1", may_have_been_billed=True),
    ]
    assert possibly_billed(attempts) == Decimal("0.07")
    assert possibly_billed([]) == 0
    assert possibly_billed([*attempts, Attempt("e", 1, Stage.AMBIGUOUS, may_have_been_billed=True)]) is None


def test_the_users_decimal_context_changes_no_amount():
    """Somebody's three digits, or traps for what is inexact, are not ours."""
    amounts = [Decimal("1234.5678"), Decimal("0.0001")]
    traps = [Inexact, Rounded, FloatOperation]
    with localcontext(Context(prec=2, rounding=ROUND_DOWN, Emax=3, Emin=-3, traps=traps)):
        assert (total(amounts), times(3, amounts[0])) == (Decimal("1234.5679"), Decimal("3703.7034"))
        assert (money("0.0286"), money("x"), dollars(amounts[0])) == (Decimal("0.0286"), None, "$1,234.57")
        budget = Spending(cap=Decimal("0.01502"), price=Decimal("0.00501"))
        budget.change(None, Attempt("a", 1, Stage.COMPLETED, cost="0.00501"))
        assert (budget.may_send(), budget.excess) == (True, 0)
        budget.change(None, Attempt("b", 1, Stage.COMPLETED, cost="0.00501"))
        assert not budget.may_send()
        cells = {"action": ["new"], "cost_low_usd": [1.004], "cost_high_usd": [1.004]}
        plan = pd.DataFrame(cells, columns=list(columns.PLAN))
        assert "may stop" in Plan.of(plan, cap=Decimal("1.01"), spent=Decimal("0.0061"))._headline().as_text()


def test_what_is_left_of_the_sum_of_a_call_is_what_it_did_not_commit():
    """What is reserved counts, a lower cost frees the rest of it, and nothing is owed beyond the sum."""
    before = Attempt("a", 1, Stage.ACCEPTED, reserved="0.05")
    budget = Spending(max_new=Decimal("0.10"), price=Decimal("0.03"), attempts=[before])
    assert Spending().left is None
    assert budget.left == Decimal("0.10")
    sent = Attempt("b", 1, Stage.ACCEPTED, reserved="0.03")
    budget.change(None, sent)
    assert budget.left == Decimal("0.07")
    budget.change(sent, Attempt("b", 1, Stage.COMPLETED, reserved="0.03", cost="0.02"))
    assert budget.left == Decimal("0.08")
    budget.change(before, Attempt("a", 1, Stage.COMPLETED, reserved="0.05", cost="9"))
    assert budget.left == 0
