"""What a status tells of errors, pictures and prices."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from dreamo_batch.engine.attempts import Attempt, Stage, State
from dreamo_batch.engine.status import N_NEWEST, Rows, Tally, rows_of
from dreamo_batch.jobs.prepare import prepare
from tests.fakes import prepared
from tests.histories import ambiguous, completed, failed

RUN_DIR = Path("runs/x")


def rows(*names: str, weight: int = 1) -> Rows:
    return Rows(prepared(*names).jobs, {name: f"row {name}" for name in names}, dict.fromkeys(names, weight))


def tally(*attempts: Attempt, names: str = "abc", weight: int = 1) -> Tally:
    return Tally(rows(*names, weight=weight), State(attempts), RUN_DIR)


def test_errors_are_counted_in_rows_with_the_first_as_an_example():
    """Classes stand by frequency; each has the label and the words of the job that came first."""
    told = tally(
        failed("a", error_class="moderated", error_message="Risk Not Pass"),
        failed("b"),
        failed("c", error_message="another"),
        weight=2,
    ).errors
    assert [(one.error_class, one.n_rows, one.row, one.message) for one in told] == [
        ("generation_error", 4, "row b", "Internal generation error"),
        ("moderated", 2, "row a", "Risk Not Pass"),
    ]


def test_an_error_is_gone_once_the_job_is_submitted_again():
    """A job that goes on is no longer at its error."""
    told = tally(failed("a"), Attempt("a", 2, Stage.SENDING), ambiguous("b"))
    assert [one.error_class for one in told.errors] == ["no_answer"]


def test_an_attempt_that_fails_beside_one_under_way_is_no_error_of_its_job():
    """A row stands where the attempt stands that serves it; an attempt settled late does not change that either."""
    told = tally(Attempt("a", 1, Stage.ACCEPTED), failed("a", 2), completed("b", cost="0.03"), names="ab")
    assert told.errors == ()
    assert told.forecast(Decimal(1), None)[1] == Decimal("1.03")


def test_a_picture_that_could_not_be_saved_is_an_error():
    """The row is completed, and still something is wrong with it."""
    (told,) = tally(completed("a", output_path=None, output_error="no space")).errors
    assert (told.error_class, told.message) == ("output_error", "no space")


def test_invalid_rows_are_an_error_class_of_their_own():
    """They have no job, and are told by the label of the first."""
    table = pd.DataFrame(
        {"image": ["https://example.com/cat.png"] * 3, "prompt": ["a cat", "", ""]}, index=[5, 6, 7]
    )
    made = rows_of(table.index, prepare(table, entropy="e"))
    (told,) = Tally(made, State(), RUN_DIR).errors
    assert (told.error_class, told.n_rows, told.row) == ("invalid", 2, 6)
    assert "prompt" in told.message


def test_labels_are_those_of_each_jobs_first_row():
    """A row that repeats a job does not take its place."""
    table = pd.DataFrame(
        {"image": ["https://example.com/cat.png"] * 3, "prompt": ["a", "a", "b"], "seed": 1},
        index=list("xyz"),
    )
    prepared = prepare(table, entropy="e")
    made = rows_of(table.index, prepared)
    first, second = prepared.jobs
    assert made.labels == {first: "x", second: "z"}
    assert made.weights == {first: 2, second: 1}
    # Equal texts of their own would take as much memory again.
    assert {id(name) for name in (*made.labels, *made.weights)} == set(map(id, prepared.jobs))


def test_the_newest_pictures_come_first_and_are_few():
    """Only so many are kept, whatever the size of the run; each with prompt, seed, cost and place."""
    names = [f"job-{n:02}" for n in range(20)]
    told = tally(*(completed(name, saved_at=float(n)) for n, name in enumerate(names)), names=names).newest
    assert [picture.job_id for picture in told] == names[: -N_NEWEST - 1 : -1]
    assert told[0].row == "row job-19"
    assert told[0].path == RUN_DIR / "images/job-19.jpg"
    assert told[0].cost_usd == Decimal("0.0286")


def test_the_forecast_is_what_is_open_at_the_prices_seen():
    """Two rows to go at 0.03 to 0.05: spent so far and twice that."""
    live = tally(completed("a", cost="0.03"), completed("b", cost="0.05"), names="abcd")
    low, likely, high = live.forecast(Decimal("0.08"), None)
    assert (low, likely, high) == (Decimal("0.14"), Decimal("0.16"), Decimal("0.18"))


def test_before_any_price_the_forecast_takes_the_one_that_is_expected_or_none():
    """Without a price there is no forecast, unless nothing is open."""
    assert tally().forecast(Decimal(0), None) is None
    assert tally().forecast(Decimal(0), Decimal("0.02")) == (Decimal("0.06"),) * 3
    assert tally(failed("a"), failed("b"), failed("c")).forecast(Decimal(0), None) == (Decimal(0),) * 3


def test_what_may_have_been_billed_is_in_all_but_the_low_forecast():
    """An ambiguous attempt may have cost what was held back for it, or nothing."""
    told = tally(ambiguous("a", reserved="0.03"), names="a").forecast(Decimal(1), None)
    assert told == (Decimal(1), Decimal("1.03"), Decimal("1.03"))


@pytest.mark.parametrize("names", ["", "a"])
def test_attempts_in_flight_outside_the_table_count_in_the_forecast(names):
    """What an earlier table left in flight will cost, too."""
    live = tally(Attempt("z", 1, Stage.ACCEPTED, reserved="0.03"), names=names)
    assert live.forecast(Decimal(0), Decimal("0.02"))[2] == Decimal("0.02") * (1 + len(names))
