"""What would be bought, and why: every stage under every option."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from dreamo_batch import columns
from dreamo_batch.engine import checkpoint, plan
from dreamo_batch.engine.attempts import Attempt, Stage, State
from dreamo_batch.engine.plan import RunOptions, decide
from dreamo_batch.jobs.prepare import prepare
from dreamo_batch.jobs.references import CheckOptions, Inputs
from tests.fakes import prepared
from tests.pictures import encoded, plain

SWITCHES = [
    RunOptions(
        retry_failed=retry_failed, on_ambiguous=on_ambiguous, max_attempts=max_attempts, download=download
    )
    for retry_failed, on_ambiguous, max_attempts, download in itertools.product(
        (False, True), ("hold", "resubmit"), (1, 2), (False, True)
    )
]
CHOSEN = [(), ("a",), ("other",)]
UNBILLED = {"task_id": "t", "error_class": "generation_error", "error_code": "003011095"}


def one(stage: Stage | None, **fields) -> tuple[Attempt, ...]:
    return () if stage is None else (Attempt("a", 1, stage, **fields),)


@pytest.mark.parametrize("options", SWITCHES, ids=str)
@pytest.mark.parametrize("chosen", CHOSEN)
@pytest.mark.parametrize("stage", [None, *Stage])
def test_every_stage_under_every_option(tmp_path, stage, options, chosen):
    """Only what the user named, or what costs nothing by contract, is ever submitted again."""
    decision = decide(one(stage, task_id="t"), options, tmp_path, chosen)
    is_chosen = "a" in chosen
    is_submitted = {
        None: True,
        Stage.UNSENT: True,
        Stage.SENDING: False,
        Stage.ACCEPTED: False,
        Stage.COMPLETED: False,
        Stage.AMBIGUOUS: is_chosen or options.on_ambiguous == "resubmit",
        Stage.REFUSED: is_chosen or options.retry_failed,
        Stage.FAILED: is_chosen or options.retry_failed,
        Stage.LOST: is_chosen or options.retry_failed,
    }[stage]
    action = {
        None: "new",
        Stage.UNSENT: "new",
        Stage.SENDING: "in flight",
        Stage.ACCEPTED: "in flight",
        Stage.COMPLETED: "reuse",
        Stage.AMBIGUOUS: "ambiguous",
    }.get(stage, "failed")
    assert decision.action == ("new" if is_submitted else action)
    assert decision.is_fetched is (stage is Stage.COMPLETED and options.download)
    assert decision.action in columns.ACTIONS
    assert decision.reason


@pytest.mark.parametrize("options", SWITCHES, ids=str)
@pytest.mark.parametrize("chosen", CHOSEN)
def test_unbilled_failures_have_attempts(options, chosen):
    """As many attempts in all as allowed, and no more; other failures have one."""
    for n_attempts in (1, 2, 3):
        attempts = tuple(Attempt("a", n, Stage.FAILED, **UNBILLED) for n in range(1, n_attempts + 1))
        is_asked_for = "a" in chosen or options.retry_failed
        assert (decide(attempts, options, None, chosen).action == "new") == (
            is_asked_for or n_attempts < options.max_attempts
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"task_id": "t", "error_class": "result_error", "error_code": "003011096"},
        {"task_id": "t", "error_class": "moderation", "error_code": "003011095"},
        {"task_id": "t", "error_class": "service_error"},
        UNBILLED | {"task_id": None},
        UNBILLED | {"cost": "0.03"},
        UNBILLED | {"may_have_been_billed": True},
    ],
)
def test_other_failures_are_not_submitted_again(fields):
    """Moderated, maybe billed, or refused before it was a task: attempts are not for these."""
    assert decide(one(Stage.FAILED, **fields), RunOptions(max_attempts=9), None).action != "new"


@pytest.mark.parametrize("options", SWITCHES, ids=str)
@pytest.mark.parametrize("chosen", CHOSEN)
@pytest.mark.parametrize("later", [Stage.UNSENT, Stage.REFUSED, Stage.FAILED, Stage.LOST])
@pytest.mark.parametrize("first", [Stage.AMBIGUOUS, Stage.LOST])
def test_what_became_of_a_resend_does_not_end_the_doubt(first, later, options, chosen):
    """A job that may have been billed is sent again by the user's word on it, and never as if it were new."""
    attempts = (Attempt("a", 1, first), Attempt("a", 2, later, **UNBILLED))
    is_in_doubt = first is Stage.AMBIGUOUS
    word = options.on_ambiguous == "resubmit" if is_in_doubt else options.retry_failed
    is_submitted = "a" in chosen or word
    decision = decide(attempts, options, None, chosen)
    assert decision.action == ("new" if is_submitted else "ambiguous" if is_in_doubt else "failed")


def test_an_attempt_that_was_not_sent_uses_up_none():
    """After an unbilled failure the attempts that are left are those that were not sent yet."""
    attempts = (Attempt("a", 1, Stage.FAILED, **UNBILLED), Attempt("a", 2, Stage.UNSENT))
    assert decide(attempts, RunOptions(max_attempts=2), None).action == "new"
    assert decide(attempts, RunOptions(), None).action != "new"


def test_a_picture_in_place_is_not_fetched(tmp_path):
    """One that is missing, or of another size, is fetched again and never submitted again."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"12345")
    attempts = one(Stage.COMPLETED, output_path="images/a.png", output_bytes=5)
    assert decide(attempts, RunOptions(), tmp_path) == plan.Decision("reuse", "completed, picture on disk")
    (tmp_path / "images" / "a.png").write_bytes(b"1234")
    assert decide(attempts, RunOptions(), tmp_path).is_fetched
    assert not decide(attempts, RunOptions(download=False), tmp_path).is_fetched


def test_the_assignment_covers_the_table_and_what_is_open_beside_it(tmp_path):
    """Jobs of the table are submitted; tasks and pictures of any job are looked after."""
    state = State(
        [
            Attempt("b", 1, Stage.ACCEPTED),
            Attempt("c", 1, Stage.FAILED),
            Attempt("d", 1, Stage.COMPLETED, output_url="https://h/d"),
            Attempt("e", 1, Stage.COMPLETED),
            Attempt("gone", 1, Stage.ACCEPTED),
            Attempt("gone2", 1, Stage.COMPLETED, output_path="images/gone2.png", output_bytes=5),
            Attempt("gone3", 1, Stage.UNSENT),
            Attempt("gone4", 1, Stage.FAILED, **UNBILLED),
        ]
    )
    table = prepared("a", "b", "b", None, "c", "d", "e", "a")
    options = RunOptions(retry_failed=True, max_attempts=3)
    made = plan.assignment(table, state, options, tmp_path)
    assert made.to_submit == [("a", 1), ("c", 2)]
    assert made.to_poll == [("b", 1), ("gone", 1)]
    assert made.to_save == [(("d", 1), False), (("e", 1), True), (("gone2", 1), True)]
    assert made.weights == {"a": 2, "b": 2, "c": 1, "d": 1, "e": 1}
    assert (made.n_invalid, made.max_attempts, made.should_download) == (1, 3, True)
    free = plan.assignment(table, state, options, tmp_path, fetched={"e"})
    assert (free.to_poll, free.to_save) == (made.to_poll, [(("e", 1), True)])
    assert (free.to_submit, free.max_attempts, free.may_submit) == ((), 1, False)


def test_the_plan_stands_on_the_users_index():
    """One line per row, with action, reason, job and what it can cost."""
    state = State(
        [
            Attempt("b", 1, Stage.COMPLETED, cost="0.02"),
            Attempt("c", 1, Stage.AMBIGUOUS),
            Attempt("d", 1, Stage.FAILED, error_class="rejected"),
            Attempt("e", 1, Stage.COMPLETED, cost="0.05"),
        ]
    )
    table = prepared("a", "a", "b", "c", "d", "e", None)
    index = pd.MultiIndex.from_tuples([("x", 1)] * 7)
    frame = plan.table(table, index, state, RunOptions(), None)
    assert frame.index.equals(index)
    assert frame[columns.ACTION].tolist() == [
        "new",
        "duplicate",
        "reuse",
        "ambiguous",
        "failed",
        "reuse",
        "invalid",
    ]
    assert list(frame[columns.ACTION].cat.categories) == list(columns.ACTIONS)
    assert frame[columns.COST_LOW_USD].tolist() == [0.02, 0, 0, 0, 0, 0, 0]
    assert frame[columns.COST_HIGH_USD].tolist() == [0.05, 0, 0, 0.05, 0, 0, 0]
    assert frame[columns.REASON].iloc[1] == "same job as row ('x', 1)"
    assert frame[columns.REASON].iloc[6] == "prompt: it is blank"
    assert frame[columns.JOB_ID].isna().tolist() == [False] * 6 + [True]
    given = plan.table(table, index, State(), RunOptions(unit_cost="0.03"), None)
    assert given[columns.COST_LOW_USD].tolist()[:3] == [0.03, 0, 0.03]
    unknown = plan.table(table, index, State(), RunOptions(), None)
    assert unknown[columns.COST_HIGH_USD].isna().tolist() == [True, False] + [True] * 4 + [False]


def test_the_plan_of_nothing_has_its_columns():
    """An empty table has an empty plan with the documented dtypes."""
    frame = plan.table(prepared(), pd.RangeIndex(0), State(), RunOptions(), None)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == columns.dtypes(columns.PLAN)


def test_new_rows_of_a_rephrased_seed_sweep_say_so():
    """Only what is about to be submitted is told; what is bought already can't be helped."""
    table = pd.DataFrame(
        {"image": "https://example.com/cat.png", "prompt": ["a", "a", "b"], "seed": [1, 2, 1]}
    )
    swept = prepare(table, entropy="e")
    first, *new = swept.jobs
    state = State([Attempt(first, 1, Stage.COMPLETED, output_path="images/x.png")])
    options = RunOptions(download=False)
    for said in (
        plan.planned(swept, table.index, state, options, None).warnings(),
        plan.warnings_of(swept, {}, new),
    ):
        assert [line for line in said if "use_rephraser is on in seed sweeps (rows: 2, sweeps: 1)" in line]
    assert plan.warnings_of(swept, {}, ()) == ()
    kept = prepare(table.assign(use_rephraser=False), entropy="e")
    assert plan.warnings_of(kept, {}, kept.jobs) == ()


@pytest.mark.parametrize("seed", [7, None])
def test_a_picture_that_changed_where_it_was_is_named(tmp_path, seed):
    """A viewer that turns a photo, or a sync that strips its metadata, makes new jobs of all its rows."""
    photo = tmp_path / "photo.png"
    photo.write_bytes(encoded(plain()))
    table = pd.DataFrame({"image": [str(photo)], "prompt": "a fox", "seed": pd.array([seed], dtype="Int64")})
    bought = prepare(table, CheckOptions(inputs=Inputs(tmp_path)), entropy="e")
    checkpoint.write_jobs(tmp_path / "jobs.parquet", table, bought, "t")
    state = State([Attempt(one, 1, Stage.COMPLETED) for one in bought.jobs])
    photo.write_bytes(encoded(plain(colour=(0, 0, 9))))
    now = prepare(table, CheckOptions(inputs=Inputs(tmp_path)), entropy="e")
    nearly = plan.nearly_bought(now, state, tmp_path / "jobs.parquet")
    assert nearly == dict.fromkeys(now.jobs, "the content of its picture file")


def test_a_picture_that_moved_is_the_same_where_the_prompt_differs(tmp_path):
    """Another folder, or a picture in memory, which has no place until it is kept, with line ends that Excel writes."""
    table = pd.DataFrame({"prompt": ["a fox\r\nin snow"] * 2, "seed": [7, 8]})
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "fox.png").write_bytes(encoded(plain()))

    def cells(folder):
        return pd.Series([str(tmp_path / folder / "fox.png"), plain()], dtype=object)

    bought = prepare(table.assign(image=cells("old")), CheckOptions(inputs=Inputs(tmp_path)), entropy="e")
    checkpoint.write_jobs(tmp_path / "jobs.parquet", table, bought, "t")
    state = State([Attempt(one, 1, Stage.COMPLETED) for one in bought.jobs])
    table = table.assign(image=cells("new"), prompt="a fox\nin snow")
    now = prepare(table, CheckOptions(inputs=Inputs(None)), entropy="e")
    nearly = plan.nearly_bought(now, state, tmp_path / "jobs.parquet")
    assert nearly == dict.fromkeys(now.jobs, "the line ends of its prompt")


URL = "https://b.s3.amazonaws.com/a/fox.png"


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"prompt": "a fox\n"}, "the line ends of its prompt"),
        ({"prompt": "a  fox"}, "the white space of its prompt"),
        ({"prompt": "a fox\u200b"}, "the invisible characters of its prompt"),
        ({"image": f"{URL}?token=2"}, "the query of its link"),
        ({"image": URL.replace("/a/", "/b/../a//")}, "the spelling of its link"),
        (
            {"prompt": " a fox", "image": f"{URL}?token=2"},
            "the white space of its prompt and the query of its link",
        ),
        ({"prompt": "a fax"}, None),
        ({"seed": 8}, None),
        ({"width": 1000}, None),
        ({"image": URL.replace("fox", "cat")}, None),
    ],
)
@pytest.mark.parametrize("seed", [7, None])
def test_a_new_row_that_nearly_equals_a_bought_one_says_so(tmp_path, changed, what, seed):
    """What can't be seen is named before it is paid for twice; a drawn seed follows from all the rest."""
    table = pd.DataFrame({"image": [URL], "prompt": "a fox", "seed": pd.array([seed], dtype="Int64")})
    bought = prepare(table, entropy="e")
    checkpoint.write_jobs(tmp_path / "jobs.parquet", table, bought, "t")
    state = State([Attempt(one, 1, Stage.COMPLETED) for one in bought.jobs])
    now = prepare(table.assign(**changed), entropy="e")
    nearly = plan.nearly_bought(now, state, tmp_path / "jobs.parquet")
    assert list(nearly.values()) == ([] if what is None else [what])
    assert plan.nearly_bought(now, State(), tmp_path / "jobs.parquet") == {}
    assert plan.nearly_bought(now, state, None) == {}
    frame = plan.table(now, table.index, state, RunOptions(), None, nearly=nearly)
    assert (what or "not submitted yet") in frame["reason"].iloc[0]
    n_said = sum(
        "although a bought one differs only in" in line for line in plan.warnings_of(now, nearly, now.jobs)
    )
    assert n_said == (what is not None)


@pytest.mark.parametrize("other", [Stage.COMPLETED, Stage.ACCEPTED, Stage.SENDING])
@pytest.mark.parametrize("latest", [Stage.REFUSED, Stage.FAILED, Stage.LOST, Stage.UNSENT, Stage.AMBIGUOUS])
def test_a_job_is_not_submitted_while_another_attempt_of_it_lives(other, latest):
    """Whatever became of a later attempt, and whatever is asked for: one picture is there or on its way."""
    attempts = (Attempt("a", 1, other, task_id="t1"), Attempt("a", 2, latest))
    asked = RunOptions(retry_failed=True, on_ambiguous="resubmit", max_attempts=9)
    assert decide(attempts, asked, None, {"a"}).action != "new"
    assert decide(attempts, RunOptions(), None).action != "new"
    assert (decide(attempts, asked, None, {"a"}).action == plan.REUSE) == (other is Stage.COMPLETED)
