"""State and the user's frame become results; a slow reading of the columns' meanings agrees."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamo_batch import columns
from dreamo_batch.engine.attempts import STATUS_OF, SUBMITTED, Attempt, Stage, State
from dreamo_batch.errors import UsageError
from dreamo_batch.money import exact_text, total
from dreamo_batch.results import frame
from dreamo_batch.results.summaries import sums
from tests.fakes import histories, prepared, with_pending
from tests.histories import completed

COPIED = (
    "task_id",
    "output_url",
    "output_path",
    "output_sha256",
    "output_bytes",
    "output_width",
    "output_height",
    "output_error",
    "discount",
    "error_class",
    "error_code",
    "error_message",
)
NEVER = (Stage.UNSENT, Stage.REFUSED)


def time(at: float | None):
    return pd.NaT if at is None else pd.Timestamp(round(at * 1e6), unit="us", tz="UTC")


def expected(attempts: tuple[Attempt, ...], row: pd.Series) -> dict:
    """What the columns of a row mean, read one by one."""
    known: dict = dict.fromkeys(columns.OUTPUTS)
    known |= {"duplicate_of": row["duplicate_of"], "seed_sent": row["seed_sent"], "job_id": row["job_id"]}
    known |= {"status": "pending", "attempts": 0, "may_have_been_billed": False}
    if pd.isna(row["job_id"]):
        return (
            known
            | {"status": "invalid"}
            | {name: row[name] for name in ("error_class", "error_code", "error_message")}
        )
    if attempts:
        known |= of_attempts(attempts)
    if not pd.isna(row["duplicate_of"]):
        known |= {"attempts": 0, "may_have_been_billed": False}
        if known["cost"] is not None:
            known |= {"cost": "0", "cost_usd": 0.0}
    return known


def of_attempts(attempts: tuple[Attempt, ...]) -> dict:
    latest = attempts[-1]
    for stages in (  # a later one in this list stands for the job before the ones above it
        {Stage.REFUSED, Stage.FAILED, Stage.LOST},
        {Stage.AMBIGUOUS},
        {Stage.SENDING, Stage.ACCEPTED},
        {Stage.COMPLETED},
    ):
        latest = ([latest] + [attempt for attempt in attempts if attempt.stage in stages])[-1]
    costs = [Decimal(attempt.cost) for attempt in attempts if attempt.cost is not None]
    cost = None if not costs else exact_text(sum(costs))
    billed = [attempt.may_have_been_billed for attempt in attempts]
    latency_s = None
    if latest.completed_at is not None and latest.sent_at is not None:
        latency_s = (time(latest.completed_at) - time(latest.sent_at)).total_seconds()
        if not 0 <= latency_s < 30 * 86_400:  # a clock was changed
            latency_s = None
    is_open = latest.may_have_been_billed is None and latest.stage not in NEVER
    return {name: getattr(latest, name) for name in COPIED} | {
        "status": STATUS_OF[latest.stage],
        "cost": cost,
        "cost_usd": None if cost is None else float(cost),
        "may_have_been_billed": True if True in billed else (None if is_open else False),
        "attempts": sum(attempt.stage in SUBMITTED for attempt in attempts),
        "submitted_at": time(latest.sent_at),
        "completed_at": time(latest.completed_at),
        "latency_s": latency_s,
    }


def assemble(user: pd.DataFrame, rows: pd.DataFrame, attempts: list[Attempt], pending=()) -> pd.DataFrame:
    laid_out = with_pending(State(attempts), pending)
    return frame.assemble(user, rows, laid_out)


INDEXES = (
    pd.RangeIndex,
    lambda n: pd.Index(["same"] * n, name="label"),
    lambda n: pd.MultiIndex.from_arrays([range(n, 0, -1), ["x"] * n], names=["a", None]),
)


@settings(max_examples=settings().max_examples // 3)
@given(
    histories(),
    st.lists(st.sampled_from(["a" * 32, "b" * 32, "c" * 32, "never", None]), max_size=8),
    st.sampled_from(INDEXES),
    st.booleans(),
)
def test_results_mean_what_their_columns_say(attempts, names, make_index, is_pending_written):
    """Any attempts on any table, in any order, with duplicates and rows that can't be submitted."""
    table = prepared(*names)
    user = pd.DataFrame({"mine": np.arange(len(names)) * 1.5}, index=make_index(len(names)))
    before = user.copy()
    state = State(attempts)
    got = assemble(user, table.rows, attempts, table.jobs if is_pending_written else ())
    pd.testing.assert_frame_equal(user, before)
    assert list(got.columns) == ["mine", *columns.OUTPUTS]
    assert got.index.equals(user.index)
    assert {name: str(got[name].dtype) for name in columns.OUTPUTS} == columns.dtypes(columns.OUTPUTS)
    for position, (_, row) in enumerate(table.rows.iterrows()):
        own = state.of(row["job_id"]) if isinstance(row["job_id"], str) else ()
        for name, value in expected(own, row).items():
            found = got[name].iloc[position]
            if value is None or value is pd.NaT or value is pd.NA or value != value:  # noqa: PLR0124 - NaN
                assert pd.isna(found), (name, found)
            else:
                assert found == value, (name, found, value)


def test_a_cost_of_nothing_is_written_in_one_way():
    """However the service writes it, of one attempt or of several, and in every sum."""
    for costs in (["0.000000"], ["0", "0.000"], [None, "0.0"]):
        attempts = [Attempt("a", n, Stage.FAILED, cost=cost) for n, cost in enumerate(costs, start=1)]
        got = assemble(pd.DataFrame(index=[0]), prepared("a").rows, attempts)
        assert got["cost"].tolist() == ["0"]
    assert sums(pd.Series(["0.000000"]), np.array([0]), 1).tolist() == ["0"]
    assert exact_text(total([Decimal("0.000")])) == "0"


def test_costs_of_several_attempts_are_added_to_the_last_digit():
    """The sum has no rounding in it, and a cost that is not known does not count as zero."""
    costs = ["0.1", "0.2", None, "0.0285714285714285714285714285714"]
    attempts = [Attempt("a", n, Stage.FAILED, cost=cost) for n, cost in enumerate(costs, start=1)]
    got = assemble(pd.DataFrame(index=[0]), prepared("a").rows, attempts)
    assert got["cost"].tolist() == ["0.3285714285714285714285714285714"]
    assert got["attempts"].tolist() == [4]
    attempts = [Attempt("a", n, Stage.LOST) for n in (1, 2)]
    assert assemble(pd.DataFrame(index=[0]), prepared("a").rows, attempts)["cost"].isna().all()


@pytest.mark.parametrize("later", [stage for stage in Stage if stage is not Stage.COMPLETED])
def test_a_completed_attempt_shows_whatever_became_of_a_later_one(later):
    """Its status, its picture and its task stand in the row, the costs of both, and the doubt that is left."""
    attempts = [
        completed("a", task_id="t1", output_path="images/a.jpg", cost="0.03", may_have_been_billed=False),
        Attempt("a", 2, later, task_id="t2", cost="0.01", may_have_been_billed=later is Stage.AMBIGUOUS),
        Attempt("b", 1, Stage.FAILED),
    ]
    got = assemble(pd.DataFrame(index=range(2)), prepared("b", "a").rows, attempts)
    assert got["status"].tolist() == ["failed", "completed"]
    assert got["task_id"].tolist()[1] == "t1"
    assert got["output_path"].tolist()[1] == "images/a.jpg"
    assert got["cost"].tolist()[1] == "0.04"
    assert got["may_have_been_billed"].tolist()[1] is (later is Stage.AMBIGUOUS)


def test_a_cost_has_one_exact_form():
    """Zeros at the end, which a service may write, are not kept."""
    got = assemble(
        pd.DataFrame(index=[0]), prepared("a").rows, [Attempt("a", 1, Stage.COMPLETED, cost="0.028600")]
    )
    assert (got["cost"].tolist(), got["cost_usd"].tolist()) == (["0.0286"], [0.0286])


def test_a_duplicate_shows_the_picture_and_costs_nothing():
    """The cost stands on the row that was bought, and sums over rows are sums over attempts."""
    attempts = [Attempt("a", 1, Stage.COMPLETED, task_id="t", output_path="images/a.png", cost="0.03")]
    got = assemble(pd.DataFrame(index=range(3)), prepared("a", "a", "a").rows, attempts)
    assert got["output_path"].tolist() == ["images/a.png"] * 3
    assert got["cost"].tolist() == ["0.03", "0", "0"]
    assert got["attempts"].tolist() == [1, 0, 0]
    assert got["duplicate_of"].tolist() == [pd.NA, 0, 0]


@pytest.mark.parametrize("attempts", [[], [Attempt("elsewhere", 1, Stage.COMPLETED, cost="1")]])
def test_a_table_without_attempts_is_pending(attempts):
    """Nothing is filled in from jobs that are not in the table."""
    got = assemble(pd.DataFrame(index=range(2)), prepared("a", "b").rows, attempts)
    assert got["status"].tolist() == ["pending"] * 2
    assert got["cost"].isna().all()
    assert got["may_have_been_billed"].tolist() == [False] * 2


def test_an_empty_table_has_empty_results():
    """Columns and dtypes, and no row."""
    got = assemble(pd.DataFrame({"mine": []}), prepared().rows, [Attempt("a", 1, Stage.COMPLETED)])
    assert len(got) == 0
    assert {name: str(got[name].dtype) for name in columns.OUTPUTS} == columns.dtypes(columns.OUTPUTS)


def test_results_survive_parquet(tmp_path):
    """Every dtype is the same after `pd.read_parquet`."""
    attempts = [
        Attempt(
            "a",
            1,
            Stage.COMPLETED,
            seed_sent=2**62 + 1,
            cost="0.03",
            sent_at=5.0,
            completed_at=7.5,
            output_bytes=9,
        ),
        Attempt("b", 1, Stage.FAILED, error_code="003011001"),
    ]
    got = assemble(pd.DataFrame({"mine": [1, 2, 3]}), prepared("a", "b", None).rows, attempts)
    got.to_parquet(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), got)
    assert got["latency_s"].tolist()[0] == 2.5
    assert got["error_code"].tolist()[1] == "003011001"


def test_statuses_are_categories_in_their_order():
    """Grouping and sorting by status follows a job's way."""
    got = assemble(pd.DataFrame(index=[0]), prepared("a").rows, [])
    assert tuple(got["status"].cat.categories) == columns.STATUSES


@pytest.mark.parametrize(
    ("index", "rows", "expected"),
    [
        ([0, 1, 2], [2, 0], [0, 2]),
        ([0, 1, 2], ["1"], [1]),
        ([0, 1, 2], [False, True, True], [1, 2]),
        ([0, 1, 2], pd.Series([True, False, True]), [0, 2]),
        (["a", "b", "a"], ["a"], [0, 2]),
        ([1, "1"], ["1"], [0, 1]),
        ([1.0, 2.0], [2], [1]),
        ([("x", 1), ("y", 2)], [("y", 2)], [1]),
        ([("x", 1), ("y", 2)], ["('y', 2)"], [1]),
        *(([0, 1], none, []) for none in ([], (), pd.Series([]), pd.Index([]), pd.DataFrame())),
        ([0, 1, 2], [True, None, False], [0]),
        ([0, 1, 2], [float("nan"), pd.NA, True], [2]),
        (list(range(20)), "12", [12]),
        (list(range(20)), 12, [12]),
        (list(range(20)), ["3-5", "9"], [3, 4, 5, 9]),
        ([5, 3, 9, 7], ["3 - 7"], [1, 2, 3]),
        (["a-b", "c-d", "e-f", "a"], ["a-b-e-f"], [0, 1, 2]),
        (["3-5", 3, 4, 5], ["3-5"], [0]),
        ([pd.Timestamp("2026-01-02"), pd.Timestamp("2026-01-03")], ["2026-01-03T00:00:00"], [1]),
        ([("x", 1), ("y", 2)], ("y", 2), [1]),
        (["a", "b", "c"], pd.DataFrame({"z": [1, 2]}, index=["c", "a"]), [0, 2]),
        (["a", "b", "c"], pd.Series([True, False, True], index=["c", "b", "a"]), [0, 2]),
        (["a", "b", "c"], pd.Series([True, None, False], index=["c", "b", "a"], dtype="boolean"), [2]),
    ],
)
def test_rows_are_meant_by_label_text_or_mask(index, rows, expected):
    """As `retry` and `Gallery.select` take them; several rows may have one label."""
    table = pd.Index(index) if not isinstance(index[0], tuple) else pd.MultiIndex.from_tuples(index)
    assert np.flatnonzero(frame.row_mask(table, rows)).tolist() == expected


def test_rows_are_meant_by_job_unless_a_label_is_the_same():
    """A job may have several rows."""
    jobs = pd.Series(["x", "y", "x", None], index=["a", "b", "c", "y"])
    assert np.flatnonzero(frame.row_mask(jobs.index, ["x"], jobs)).tolist() == [0, 2]
    assert np.flatnonzero(frame.row_mask(jobs.index, ["y"], jobs)).tolist() == [3]


@pytest.mark.parametrize("rows", [["2-1"], ["1-7"], ["1-"], ["-"], pd.Series([True, False])])
def test_ranges_and_masks_that_do_not_fit_are_refused(rows):
    """Neither is guessed what was meant."""
    with pytest.raises(UsageError):
        frame.row_mask(pd.RangeIndex(3), rows)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        *(([row], "not in the table; its labels look like") for row in (9, "nine", None)),
        ([True, False], "rows: 2 booleans for 3 rows"),
        ([True, "a", False], "rows: 2 booleans for 3 rows"),
        (
            pd.Series([True, False, True], index=[5, 6, 7]),
            "rows: the mask's labels aren't the table's",
        ),
        *(
            (odd, "rows: expected labels of rows")
            for odd in ({1: 2}, [[1]], np.array([[True], [False], [True]]))
        ),
    ],
)
def test_rows_that_are_not_in_the_table_are_refused(rows, words):
    """A mask of another length is no list of labels 1 and 0."""
    with pytest.raises(UsageError, match=words):
        frame.row_mask(pd.RangeIndex(3), rows)
