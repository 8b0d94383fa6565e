"""Failures fall together by cause, say what they mean, and name the call that retries just them."""

from __future__ import annotations

import pytest
from hypothesis import given
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.engine import sending
from dreamo_batch.engine.attempts import Attempt, Stage
from dreamo_batch.results import history
from dreamo_batch.results.summaries import CLASSES, NOT_SAVED, meaning_of, pattern_of
from dreamo_batch.service import failures
from dreamo_batch.service.contract import ERROR_CODES
from tests.fakes import texts
from tests.histories import NOON, ambiguous, completed, failed, history_of, results


def test_equal_causes_fall_together():
    """Numbers, ids and links do not keep apart what is the same; classes and codes do."""
    attempts = [
        failed("a", error_message="no room for task c0ffee1234567 after 3 s"),
        failed("b", error_message="no room for task deadbeef12345 after 4.5 s"),
        failed("c", error_class="result_error", error_code="003011096", may_have_been_billed=True),
    ]
    table = dreamo.failures(history_of(["a", "b", "c"], attempts, index=["x, 1", "y", "z"]))
    assert list(table.columns) == list(columns.FAILURES)
    assert table.dtypes.map(str).to_dict() == columns.dtypes(columns.FAILURES)
    assert table["pattern"].tolist() == ["no room for task <id> after <n> s", "Internal generation error"]
    assert table[["rows", "attempts", "may_have_been_billed", "example_rows"]].to_numpy().tolist() == [
        [2, 2, False, "x, 1, y"],
        [1, 1, True, "z"],
    ]
    assert table["example"].tolist()[0] == "no room for task c0ffee1234567 after 3 s"
    assert table["meaning"].tolist() == ["Internal generation error", "Result parsing error"]
    assert repr(table).startswith("2 kinds of failure.\n")
    assert "2 rows (x, 1, y), 2 attempts, not billed" in repr(table)
    shown = [line.strip() for line in repr(table).splitlines()]
    for column in ("example", "meaning", "advice", "call"):
        assert set(table[column].dropna()) <= set(shown)


def test_no_failures_are_said_in_words():
    """With every column, so that code goes on."""
    found = dreamo.failures(results(["a"], [completed("a")]))
    assert (repr(found), list(found)) == ("No failures.", list(columns.FAILURES))
    assert "No failures." in found._repr_html_()


def test_every_kind_of_failure_is_reported():
    """Failed, ambiguous, invalid, overdue and unsaved rows each have a meaning and a call that suits."""
    attempts = [
        failed("a", cost="0.01"),
        ambiguous("b"),
        completed("c", output_error="link is gone"),
        Attempt(
            "d", 1, Stage.ACCEPTED, error_class="task_timeout", error_message="no end after 9 s", sent_at=NOON
        ),
        completed("e"),
    ]
    table = dreamo.failures(history_of(["a", "b", "c", "d", "e", None], attempts)).set_index("error_class")
    calls = table["call"].astype(object).where(table["call"].notna(), None).to_dict()
    assert calls == {
        "generation_error": 'dreamo.retry("runs/a", classes="generation_error")',
        "no_answer": 'dreamo.retry("runs/a", classes="ambiguous")',
        "not_saved": 'dreamo.run(jobs, "runs/a")',
        "task_timeout": 'dreamo.run(jobs, "runs/a")',
        "invalid": None,
    }
    assert table.loc["generation_error", "spent"] == "0.01"
    assert table.loc["not_saved", "spent"] == "0.0286"
    assert table.loc["invalid", "attempts"] == 0
    assert table[["meaning", "advice"]].notna().all(axis=None)


def test_calls_name_just_these_rows():
    """Where the class alone would choose more, labels do; where labels stand for more, jobs do."""
    attempts = [failed("a"), failed("b", error_message="something else"), failed("c")]
    apart = dreamo.failures(history_of(["a", "b", "c"], attempts, index=["x", "y", "z"]))
    assert apart["call"].tolist() == [
        'dreamo.retry("runs/a", rows=["x", "z"], classes="generation_error")',
        'dreamo.retry("runs/a", rows=["y"], classes="generation_error")',
    ]
    shared = dreamo.failures(history_of(["a", "b", "c"], attempts, index=["x", "x", "z"]))
    assert shared["call"].tolist() == [
        'dreamo.retry("runs/a", rows=["a", "c"], classes="generation_error")',
        'dreamo.retry("runs/a", rows=["b"], classes="generation_error")',
    ]


def test_attempts_made_again_are_history():
    """A failure that was retried with success has attempts, and no rows to try again."""
    table = dreamo.failures(history_of(["a"], [failed("a"), completed("a", 2)]))
    assert table[["rows", "attempts"]].to_numpy().tolist() == [[0, 1]]
    assert table[["call", "example"]].isna().all(axis=None)


def test_results_alone_name_a_directory_to_fill_in():
    """Without a directory the call says `run_dir`; nothing failed is an empty table."""
    table = dreamo.failures(history.from_results(results(["a"], [failed("a")], note=["mine"])))
    assert table["call"].tolist() == ['dreamo.retry(run_dir, classes="generation_error")']
    nothing = dreamo.failures(history.from_results(results(["a"], [completed("a")])))
    assert len(nothing) == 0
    assert list(nothing.columns) == list(columns.FAILURES)


@pytest.mark.parametrize("code", ERROR_CODES)
def test_documented_codes_mean_what_the_contract_says(code):
    """The table of codes is the first word; under another class it is not taken for one."""
    known = ERROR_CODES[code]
    assert meaning_of(known.error_class, code).meaning == known.meaning
    assert "content" in meaning_of(failures.MODERATION, code).meaning


@pytest.mark.parametrize(
    ("error_class", "may_pass"),
    [("upstream_error", True), ("upstream_refused", False), ("upstream_busy", True)],
)
def test_no_call_stands_beside_advice_against_it(error_class, may_pass):
    """What the service behind the service refused for good is refused again; where no status says so, it may pass."""
    refused = failed("a", error_class=error_class, error_code="003011097", error_message="HTTP error")
    (group,) = dreamo.failures(history.from_results(results(["a"], [refused]))).to_dict("records")
    assert isinstance(group["call"], str) is may_pass
    assert ("fails again" in group["advice"]) is not may_pass


def test_unknown_classes_still_say_something():
    """A class that nobody has met is not an error."""
    assert meaning_of("surprise", None).advice == "Read its message."


def test_every_class_that_a_row_can_end_with_has_a_meaning():
    """And the file explains no other; what only delays a row, or stops the run, needs none."""
    constants = [item for part in (failures, sending) for item in vars(part).items() if item[0].isupper()]
    words = {word for _, word in constants if isinstance(word, str) and word.isidentifier()}  # not patterns
    delays = {failures.RATE_LIMITED, failures.UNREACHABLE, failures.ACCESS_REFUSED, failures.NOT_OFFERED}
    by_code = {code.error_class for code in ERROR_CODES.values()}
    assert words - delays - {failures.TASK_NOT_FOUND} <= {*CLASSES, *by_code}
    assert set(CLASSES) <= {*words, columns.INVALID, NOT_SAVED}


@given(texts)
def test_patterns_are_short_and_stay_as_they_are(message):
    """A pattern is one line of at most 120 characters."""
    pattern = pattern_of(message * 9)
    assert len(pattern) <= 120
    assert len(pattern.splitlines()) <= 1


@pytest.mark.no_cover
def test_the_calls_do_what_they_say(tmp_path, monkeypatch):
    """Over a socket: each call, run as it stands, attempts exactly its own rows again."""
    Image.new("RGB", (64, 64), "orange").save(tmp_path / "reference.png")
    jobs = dreamo.sweep(image=str(tmp_path / "reference.png"), prompt="a fox", seed=range(6), size="512x512")
    with dreamo.LocalGateway(engine="flat") as gateway:
        monkeypatch.setenv("DREAMO_BASE_URL", gateway.base_url)
        monkeypatch.setenv("DREAMO_API_KEY", gateway.api_key)
        gateway.faults.script(
            "create", "fail_096", "fail_upstream_503", "fail_upstream_429", "drop_before_accept"
        )
        dreamo.run(jobs, tmp_path / "run", max_in_flight=1, progress=False)
        found = dreamo.failures(tmp_path / "run")
        assert sorted(found["rows"]) == [1, 1, 1, 1]
        for n_left, call in zip((3, 2, 1, 0), found["call"], strict=True):
            n_before = len(gateway.invoice())
            again = eval(call, {"dreamo": dreamo})  # noqa: S307 - the text is what is tested
            assert len(gateway.invoice()) == n_before + 1, call
            assert (again["status"] != "completed").sum() == n_left
