"""Costs and attempts: exact sums, every attempt counted once, and nothing made up where nothing is known."""

from __future__ import annotations

import json
import warnings
from datetime import date, time
from decimal import Decimal
from functools import cache
from io import StringIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.engine.attempts import SUBMITTED, Attempt, Stage
from dreamo_batch.engine.spending import Spending, possibly_billed
from dreamo_batch.errors import UsageError
from dreamo_batch.money import exact_text
from dreamo_batch.results import history, summaries
from tests.fakes import amounts as money_texts
from tests.fakes import histories, maybe
from tests.histories import NOON, ambiguous, completed, failed, history_of, ledger, results

TIMES = (columns.SUBMITTED_AT, columns.COMPLETED_AT)


def whole(made, **options):
    return dreamo.costs(made, **options).iloc[0]


def test_every_kind_of_row_is_counted():
    """Rows by status, attempts, usable pictures and attempts without a known cost."""
    attempts = [completed("a"), failed("b"), ambiguous("c"), failed("d"), completed("d", 2)]
    line = whole(history_of(["a", "a", "b", "c", "d", "e", None], attempts))
    counts = line[["rows", "completed", "failed", "ambiguous", "attempts", "usable", "unpriced"]]
    assert counts.tolist() == [7, 3, 1, 1, 5, 2, 1]


def test_kinds_of_money_are_distinguished():
    """Spent, wasted, possibly billed and saved are four different sums."""
    attempts = [completed("a"), failed("b", cost="0.01"), ambiguous("c"), completed("d", output_error="gone")]
    line = whole(history_of(["a", "a", "b", "c", "d"], attempts))
    sums = line[["spent", "waste", "possibly_billed", "saved"]].tolist()
    assert sums == ["0.0672", "0.0386", "0.03", "0.0286"]
    assert line["spent_usd"] == pytest.approx(0.0672)
    assert line["usd_per_attempt"] == pytest.approx(0.0672 / 3)
    assert line["usd_per_picture"] == pytest.approx(0.0672)


def test_half_characters_group_as_they_are_shown():
    """Pandas can't make text of them."""
    made = results(["a", "b"], [completed("a"), completed("b")])
    notes = pd.Series(["\ud83d", "\ud83e"], made.index, dtype=object)
    assert dreamo.costs(made.assign(note=notes), by="note")["note"].tolist() == ["\\ud83d", "\\ud83e"]


def test_lists_and_pictures_group_alike_from_memory_and_from_disk(tmp_path):
    """A run directory keeps some of them as text, and of a picture in memory the path of its copy."""
    listed, one = ["data/mascot.png", "data/chelsea.jpg"], Image.open("data/mascot.png")
    for number, cells in enumerate(([listed, listed, listed[:1]], [listed, "data/mascot.png", one])):
        jobs = pd.DataFrame({"image": pd.Series(cells, dtype=object), "prompt": "a", "seed": [1, 2, 3]})
        jobs = jobs.assign(size="1024x1024", model="spark_multi_dreamo")
        run_dir = tmp_path / str(number)
        with warnings.catch_warnings(action="ignore"):  # of what is stored as text
            done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
        made = [dreamo.costs(source, by=["image", "model"]) for source in (done, run_dir)]
        if one in cells:
            (kept,) = (place for place in made[1]["image"] if place.startswith(f"{run_dir}/inputs/"))
            made[1]["image"] = made[1]["image"].replace(kept, str(one))
        lines = [table[["image", "model", "rows", "spent"]] for table in made]
        pd.testing.assert_frame_equal(*lines, check_dtype=False)
        assert sorted(made[0]["image"]) == sorted({str(cell) for cell in cells})
        assert dreamo.rank(done, by="-cost_usd", within="image", progress=False)["rank"].notna().all()


def test_empty_cells_group_with_what_was_sent_for_them(tmp_path):
    """The default isn't apart from itself; results without their ledger know only the default model."""
    jobs = pd.DataFrame({"image": "data/mascot.png", "prompt": "a", "seed": [1, 2, 3]})
    jobs = jobs.assign(model=["spark_dreamo", None, ""], width=[1328, None, 1328], height=[1328, None, 1328])
    done = dreamo.run(jobs, tmp_path, gateway="local", progress=False)
    made = [
        *(dreamo.costs(one, by="model") for one in (done, tmp_path)),
        dreamo.costs(tmp_path, by=["width", "height"]),
    ]
    assert [len(table) for table in made] == [1, 1, 1]
    assert made[0]["model"].tolist() == made[1]["model"].tolist() == ["spark_dreamo"]


@pytest.mark.parametrize("dtype", ["int64[pyarrow]", "double[pyarrow]", "Int64", "float64"])
def test_filled_cells_keep_their_kind(tmp_path, dtype):
    """Numbers stay numbers and switches stay switches, also where a row was never sent."""
    sides = pd.array([512, None, 512, 512], dtype=dtype)
    jobs = pd.DataFrame({"image": ["data/mascot.png"] * 3 + ["none.png"], "prompt": "a", "width": sides})
    jobs = jobs.assign(height=sides, seed=pd.array([1, None, 3, 4], dtype=dtype))
    dreamo.run(jobs, tmp_path, gateway="local", on_invalid="skip", progress=False)
    made = {name: dreamo.costs(tmp_path, by=name)[name] for name in ("seed", "width", "use_rephraser")}
    assert len(made["seed"]) == 4
    assert made["width"].tolist() == [512, 1328]
    assert pd.api.types.is_numeric_dtype(made["width"].dtype)
    assert made["use_rephraser"].dtype == columns.BOOL


@cache
def kept_results():
    attempts = [completed("a"), failed("b", cost="0.01"), ambiguous("c"), completed("d", output_error="gone")]
    return results(["a", "a", "b", "c", "d"], attempts)


@cache
def costs_of_kept_results():
    return {by: dreamo.costs(kept_results(), by=by) for by in (None, "hour", "1h", "status")}


@pytest.mark.parametrize(
    "detour",
    [
        lambda made: made.astype(object),
        lambda made: made.astype("string"),
        lambda made: made.convert_dtypes(dtype_backend="pyarrow"),
        pa.Table.from_pandas,
        lambda made: made.assign(**{name: made[name].dt.tz_localize(None) for name in TIMES}),
        lambda made: made.assign(**{name: made[name].dt.tz_convert("Asia/Tokyo") for name in TIMES}),
        lambda made: pd.read_csv(StringIO(made.to_csv(index=False))),
        lambda made: pd.DataFrame(json.loads(made.to_json(orient="records", date_format="iso"))),
        lambda made: pd.DataFrame(json.loads(made.to_json(orient="records", date_format="epoch"))),
        lambda made: pd.read_json(StringIO(made.to_json(orient="records", date_format="epoch"))),
    ],
    ids=["object", "text", "dtypes", "arrow", "naive", "tokyo", "csv", "iso", "epoch", "pandas-json"],
)
@pytest.mark.filterwarnings("ignore:.*epoch")
def test_results_come_back_from_other_programs(detour):
    """JSON, SQL and spreadsheets change dtypes and drop time zones; sums, times and groups stay the same."""
    made = kept_results()
    back = detour(made)
    for by, costs in costs_of_kept_results().items():
        pd.testing.assert_frame_equal(dreamo.costs(back, by=by), costs, check_exact=True)
    pd.testing.assert_frame_equal(dreamo.latency(back), dreamo.latency(made), atol=0.002)
    assert len(dreamo.failures(back)) == len(dreamo.failures(made)) > 0
    assert repr(dreamo.gallery(back, run_dir=".")) == repr(dreamo.gallery(made, run_dir="."))


def test_unknown_stays_unknown():
    """A cost that nobody named is missing, not 0; without attempts there is none to name."""
    unknown = history_of(["a", "b"], [completed("a", cost=None), ambiguous("b", reserved=None)])
    line = whole(unknown)
    assert line[["spent", "possibly_billed", "list_usd", "usd_per_attempt", "usd_per_picture"]].isna().all()
    assert line["unpriced"] == 2
    assert whole(history_of(["a"], []))[["spent", "waste", "possibly_billed", "saved"]].tolist() == ["0"] * 4


def test_a_failure_that_was_not_billed_cost_nothing():
    """The contract says which failures are free; their attempts count as priced."""
    line = whole(history_of(["a"], [failed("a")]))
    assert (line["spent"], line["unpriced"], line["usd_per_attempt"]) == ("0", 0, 0.0)
    assert pd.isna(line["usd_per_picture"])


def test_list_price_is_reported_where_the_discount_is_a_rate():
    """An amount, or no discount, leaves the list price open."""
    attempts = [completed("a", cost="0.02", discount="0.5"), completed("b", discount="0.003"), completed("c")]
    by_job = dreamo.costs(history_of(["a", "b", "c"], attempts, scene=["x", "y", "z"]), "scene")
    np.testing.assert_allclose(by_job["list_usd"], [0.04, np.nan, 0.0286])
    np.testing.assert_allclose(by_job["discount_usd"], [0.02, np.nan, 0.0])
    assert by_job["rates"].tolist() == ["0.5", "0.003", "1"]


def test_nothing_is_saved_without_a_discount():
    """0 to the last digit, though floats of many equal prices don't add up to the float of their sum."""
    names = [str(number) for number in range(100)]
    line = whole(history_of(names, [completed(name, cost="0.004251183") for name in names]))
    assert str(line["discount_usd"]) == "0.0"


def test_estimates_stand_beside_what_was_spent():
    """What the budget reserved for settled attempts, and what a plan had said."""
    attempts = [completed("a", reserved="0.03"), completed("b", reserved="0.03"), ambiguous("c")]
    plan = pd.DataFrame(
        {
            "action": ["new", "duplicate", "new", "invalid"],
            "reason": "",
            "job_id": ["a", "a", "b", None],
            "cost_low_usd": [0.02, 0.0, 0.02, 0.0],
            "cost_high_usd": [0.03, 0.0, 0.03, 0.0],
        }
    )
    line = whole(history_of(["a", "b", "c"], attempts), plan=plan)
    assert line["estimated"] == "0.06"
    assert line[["planned_low_usd", "planned_high_usd"]].tolist() == pytest.approx([0.04, 0.06])
    with pytest.raises(UsageError, match="no 'action' column"):
        whole(history_of(["a"], []), plan=plan[["job_id"]])
    with pytest.raises(UsageError, match="plan= isn't a plan"):
        whole(history_of(["a"], []), plan="plan.parquet")


def test_groups_by_columns_buckets_and_directories():
    """Keys are columns, sorted, and attempts stand where their row or their time is."""
    attempts = [failed("a"), completed("a", 2), completed("b", sent_at=NOON + 30)]
    made = history_of(["a", "b", "a"], attempts, prompt=["fox", "owl", "fox"])
    by_prompt = dreamo.costs(made, ["prompt", "run_dir"])
    assert by_prompt[["prompt", "run_dir", "rows", "attempts"]].to_numpy().tolist() == [
        ["fox", "runs/a", 2, 2],
        ["owl", "runs/a", 1, 1],
    ]
    by_time = dreamo.costs(made, "1h")
    assert by_time["submitted_at"].dt.hour.tolist() == [11, 12]
    assert by_time["attempts"].tolist() == [1, 2]
    assert dreamo.costs(made, "hour")["hour"].tolist() == [11, 12]
    assert dreamo.costs(made, "status")["attempts"].tolist() == [3]
    own = pd.Series(["fox\0a", "fox\0b", "fox\0a"], dtype=object)
    torn = history_of(["a", "b", "a"], attempts, prompt=own)
    assert dreamo.costs(torn, "prompt")["rows"].tolist() == [2, 1]


def test_size_is_derived_from_what_is_known():
    """Pictures received tell their size where no ledger tells what was submitted."""
    table = results(["a", "b"], [completed("a", output_width=512, output_height=768)])
    sizes = dreamo.costs(history.from_results(table), "size")
    assert sizes["size"].tolist()[0] == "512x768"
    assert sizes["size"].isna().tolist() == [False, True]


def test_attempts_of_dropped_rows_still_count():
    """Sums over all groups are those of the ledger, whatever the table is now."""
    by_prompt = dreamo.costs(history_of(["a"], [completed("a"), completed("b")], prompt=["fox"]), "prompt")
    assert by_prompt["attempts"].tolist() == [1, 1]
    assert by_prompt["prompt"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("promt", "neither a column"),
        ("0h", "neither a column"),
        ("spent", "Rename"),
        ("cell", "group by cell"),
    ],
)
def test_what_can_not_be_a_group_is_refused(by, message):
    """A misspelt column, no length of time, a name that is taken, and cells that can't be compared."""
    with pytest.raises(UsageError, match=message):
        dreamo.costs(history_of(["a", "b"], [], spent=["x", "x"], cell=[date(2026, 1, 1), time(9)]), by)


def test_results_alone_tell_what_they_know():
    """A job's attempts are one line: waste and doubts of several can't be told apart, and stay unknown."""
    once = results(["a", "a", "b"], [completed("a"), failed("b", cost="0.01")], attempt=[1, 2, 3])
    line = whole(history.from_results(once))
    assert line[["attempts", "spent", "waste", "saved", "possibly_billed"]].tolist() == [
        2,
        "0.0386",
        "0.01",
        "0.0286",
        "0",
    ]
    again = results(["a", "a"], [ambiguous("a"), completed("a", 2)])
    line = whole(history.from_results(again))
    assert line[["attempts", "spent", "unpriced"]].tolist() == [2, "0.0286", 1]
    assert line[["waste", "saved", "possibly_billed", "list_usd"]].isna().all()


def test_attempts_are_all_attempts_with_their_rows():
    """History is kept: the failed attempt stands before the one that followed, at its row's label."""
    made = history_of(["a", "b"], [failed("a"), completed("a", 2), completed("x")], index=["one", "two"])
    table = dreamo.attempts(made)
    assert list(table.columns) == list(columns.ATTEMPTS_MADE)
    assert table["stage"].tolist() == ["failed", "completed", "completed"]
    assert table["row"].tolist()[:2] == ["one", "one"]
    assert table["position"].isna().tolist() == [False, False, True]
    assert table.dtypes.map(str).to_dict() == columns.dtypes(columns.ATTEMPTS_MADE)


def test_directories_stand_behind_each_other():
    """Positions are those of each directory's own table, and equal jobs stay apart."""
    one = history.from_ledger(results(["a", "a"], [completed("a")]), ledger([completed("a")]))
    two = history.from_ledger(
        results(["b", "a"], [completed("a", cost="1")]), ledger([completed("a", cost="1")])
    )
    both = history.concatenated({"one": one, "two": two})
    assert dreamo.attempts(both)[["run_dir", "position"]].to_numpy().tolist() == [["one", 0], ["two", 1]]
    by_dir = dreamo.costs(both, "run_dir")
    assert by_dir[["run_dir", "spent", "saved"]].to_numpy().tolist() == [
        ["one", "0.0286", "0.0286"],
        ["two", "1", "0"],
    ]


@pytest.mark.no_cover
@settings(max_examples=settings.default.max_examples // 5)  # every example makes frames
@given(histories())
def test_totals_are_those_of_the_budget(attempts):
    """Over any ledger and any grouping, sums agree with what the budget counts."""
    budget = Spending(attempts=attempts)
    jobs = list(dict.fromkeys(attempt.job_id for attempt in attempts))
    line = whole(history.from_ledger(results(jobs, []), ledger(attempts)))
    submitted = [attempt for attempt in attempts if attempt.stage in SUBMITTED]
    assert line["attempts"] == len(submitted)
    assert pd.isna(line["spent"]) or Decimal(line["spent"]) == budget.spent
    assert budget.spent == 0 or not pd.isna(line["spent"])
    doubtful = [attempt for attempt in submitted if attempt.cost is None]
    if not any(attempt.may_have_been_billed for attempt in set(submitted) - set(doubtful)) and not pd.isna(
        line["possibly_billed"]
    ):
        assert Decimal(line["possibly_billed"]) == possibly_billed(doubtful)


@given(st.lists(st.tuples(maybe(money_texts), st.integers(0, 3))))
def test_sums_are_exact(cells):
    """Each group's sum is that of Decimal, and text that is no money counts for nothing."""
    texts = pd.Series([text for text, _ in cells] + ["n/a"], dtype="str")
    summed = summaries.sums(texts, np.array([number for _, number in cells] + [0]), 4)
    expected = [
        sum((Decimal(cost) for cost, number in cells if number == group and cost is not None), Decimal(0))
        for group in range(4)
    ]
    assert [Decimal(value) for value in summed] == expected
    assert exact_text(sum(expected, Decimal(0))).count("E") == 0


def test_an_open_attempt_has_no_cost_yet():
    """An attempt in progress is neither free nor doubtful."""
    line = whole(
        history_of(["a"], [Attempt("a", 1, Stage.ACCEPTED, task_id="t", reserved="0.03", sent_at=NOON)])
    )
    assert line[["unpriced", "possibly_billed"]].tolist() == [1, "0"]
    assert pd.isna(line["spent"])
