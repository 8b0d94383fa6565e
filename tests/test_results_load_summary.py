"""What a run came to: counts, money and reconciliation."""

from __future__ import annotations

from decimal import Decimal

import pandas as pd

from dreamo_batch.engine.attempts import Attempt, Stage, State, to_arrow
from dreamo_batch.results import frame, load
from tests.fakes import prepared

LEDGER = [
    Attempt("a", 1, Stage.COMPLETED, cost="0.0300", may_have_been_billed=False),
    Attempt("b", 1, Stage.AMBIGUOUS, reserved="0.0286", error_class="no_answer", may_have_been_billed=True),
    Attempt("c", 1, Stage.FAILED, cost="0.01", may_have_been_billed=False),
    Attempt("c", 2, Stage.ACCEPTED, reserved="0.03"),
    Attempt("d", 1, Stage.REFUSED),
    Attempt("outside", 1, Stage.LOST, reserved="0.05", may_have_been_billed=True),
]


def results(*names: str | None, attempts=LEDGER) -> pd.DataFrame:
    laid_out = to_arrow(State(attempts))
    return frame.assemble(pd.DataFrame(index=range(len(names))), prepared(*names).rows, laid_out)


def test_rows_and_money_are_summed_up():
    """Rows of the table by status; money and attempts of the whole directory, as exact text."""
    got = load.summarise(results("a", "a", "b", "c", "d", None), State(LEDGER), Decimal("5.00"))
    assert got == {
        "rows": 6,
        "by_status": {"in_progress": 1, "completed": 2, "failed": 1, "invalid": 1, "ambiguous": 1},
        "attempts": 5,
        "spent_usd": "0.04",
        "reserved_usd": "0.1086",
        "possibly_billed_usd": "0.0786",
        "max_cost_usd": "5",
    }
    assert list(got["by_status"]) == ["in_progress", "completed", "failed", "invalid", "ambiguous"]
    assert load.summarise(results(), State(), None)["max_cost_usd"] is None


def test_what_a_doubtful_attempt_may_have_cost_is_unknown_without_a_price():
    """Not 0: it was sent with nothing set aside for it."""
    doubtful = State([Attempt("c", 1, Stage.AMBIGUOUS, may_have_been_billed=True)])
    assert load.summarise(results(), doubtful, None)["possibly_billed_usd"] is None


def test_every_row_is_accounted_for():
    """Rows in, rows out, and whether they agree."""
    table = results("a", "b", None)
    assert load.reconcile(3, table) == {
        "rows_in": 3,
        "rows_accounted_for": 3,
        "is_complete": True,
        "by_status": {"completed": 1, "invalid": 1, "ambiguous": 1},
    }
    assert load.reconcile(4, table)["is_complete"] is False
    assert load.reconcile(0, results())["is_complete"] is True


def test_the_sentence_says_it_in_one_line():
    """Also for a table of nothing."""
    table = results("a", "b", "c")
    made = load.reconcile(3, table)
    assert load.sentence(made, Decimal("0.04"), table) == (
        "3 rows in, 3 accounted for: 1 in progress, 1 completed, 1 ambiguous; $0.04 spent"
    )
    assert load.sentence(load.reconcile(0, results()), Decimal(0), results()).startswith(
        "0 rows in, 0 accounted for: none"
    )
    unknown = table.assign(cost_usd=None, cost=None)
    assert load.sentence(made, Decimal(0), unknown).endswith("; $0.00 spent, 1 more of unknown cost")


def test_pictures_that_could_not_be_saved_are_counted_with_the_first_reason():
    """They are paid for; the rows themselves are completed."""
    table = results("a", "a", "b").assign(output_error=[None, None, "HTML"])
    assert [line for line in load.open_lines(table, State(LEDGER)) if "saved" in line] == [
        "1 picture could not be saved; the same call again fetches what is missing for free. Row 2: HTML"
    ]


def test_ambiguous_rows_are_listed_with_what_they_may_have_cost():
    """Each once, by its label, with what to do at the end."""
    lines = load.open_lines(results("a", "b", "b"), State(LEDGER))
    assert lines[0] == "row 1 is ambiguous (no_answer): job b, possibly billed up to $0.0286"
    assert "resolve(run_dir, row, task_id=...)" in lines[-1]
    assert len(lines) == 2
    assert load.open_lines(results("a"), State(LEDGER)) == []


def test_a_long_list_is_cut_and_unknown_costs_say_so():
    """Ten lines, how many more, and what to do."""
    attempts = [Attempt(f"job-{i:02}", 1, Stage.AMBIGUOUS, may_have_been_billed=True) for i in range(13)]
    lines = load.open_lines(results(*(o.job_id for o in attempts), attempts=attempts), State(attempts))
    assert len(lines) == 12
    assert lines[10] == "... and 3 more"
    assert lines[0].endswith("possibly billed an unknown cost")
