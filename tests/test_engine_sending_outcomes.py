"""How each request ended, as the event the journal keeps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dreamo_batch.engine import sending
from dreamo_batch.engine.attempts import Attempt, EventKind, Stage, advance
from dreamo_batch.engine.pictures import Saved
from dreamo_batch.engine.sending import CreateAnswer
from dreamo_batch.service import contract, failures
from dreamo_batch.service.failures import Failure, FailureKind
from dreamo_batch.service.messages import ServiceMessage, Task

KEY = ("a", 1)
SENT = Attempt("a", 1, Stage.SENDING, sent_at=100.0, reserved="0.03")


def ended(result, attempt: Attempt = SENT, at: float = 101.5):
    return sending.create_ended(attempt, CreateAnswer(KEY, result), at)


def test_a_task_id_is_an_accepted_attempt():
    """The id is all there is to know."""
    assert ended("t1") == sending.Event(EventKind.ACCEPTED, "a", 1, 101.5, {"task_id": "t1"})


@pytest.mark.parametrize(
    ("failure", "kind", "is_billed"),
    [
        (Failure(FailureKind.PERMANENT, failures.REJECTED, 400, "003011003"), EventKind.REFUSED, False),
        (Failure(FailureKind.MAY_HAVE_ARRIVED, failures.NO_ANSWER), EventKind.AMBIGUOUS, True),
        (Failure(FailureKind.TRANSIENT, failures.UNREACHABLE), EventKind.NOT_SENT, None),
        (Failure(FailureKind.STOP, failures.ACCESS_REFUSED, 402), EventKind.NOT_SENT, None),
        (Failure(FailureKind.TRANSIENT, failures.RATE_LIMITED, 429), EventKind.NOT_SENT, None),
    ],
)
def test_each_kind_of_failure_has_its_event(failure, kind, is_billed):
    """Refused, in doubt, or never sent; only doubt may have cost money."""
    event = ended(failure)
    assert event.kind is kind
    attempt = advance(SENT, event)
    assert attempt.may_have_been_billed is is_billed
    assert (attempt.reserved is None) == (kind is not EventKind.AMBIGUOUS)
    if kind is not EventKind.NOT_SENT:
        assert attempt.error_class == failure.error_class
        assert attempt.error_message
    else:
        assert attempt.error_class is None


def test_the_words_of_the_service_are_kept():
    """Code with its zeros, message, and the beginning of what did not read as documented."""
    failure = Failure(FailureKind.PERMANENT, "rejected", 400, "003011003", "too long", excerpt="x" * 2000)
    fields = ended(failure).fields
    assert (fields["error_code"], fields["error_message"]) == ("003011003", "too long")
    assert fields["excerpt"] == failure.excerpt


def test_waiting_counts_from_the_first_refusal_to_being_taken():
    """Cool-downs and tries in between count; the first try, and attempts never refused, do not."""
    limited = Failure(FailureKind.TRANSIENT, failures.RATE_LIMITED, 429)
    unreachable = Failure(FailureKind.TRANSIENT, failures.UNREACHABLE)
    attempt = Attempt("a", 1)
    for sent_at, answered_at, result in (
        (100.0, 100.5, unreachable),
        (101.0, 102.0, limited),  # counted from here
        (110.0, 110.25, limited),
        (120.0, 121.0, unreachable),
        (130.0, 131.0, "t1"),  # to here
    ):
        attempt = advance(attempt, sending.started(KEY, sent_at, attempt, seed=7, reserved="0.03"))
        attempt = advance(attempt, ended(result, attempt, answered_at))
    assert (attempt.stage, attempt.n_refusals, attempt.waited_s) == (Stage.ACCEPTED, 2, 29.0)
    attempt = advance(Attempt("b", 1), sending.started(("b", 1), 1.0, None, seed=7, reserved=None))
    attempt = advance(attempt, sending.create_ended(attempt, CreateAnswer(("b", 1), "t2"), 9.0))
    assert (attempt.n_refusals, attempt.waited_s, attempt.reserved) == (None, None, None)


def test_a_clock_set_back_never_makes_waiting_negative():
    """Wall clocks jump; what is counted does not shrink."""
    attempt = Attempt("a", 1, Stage.UNSENT, n_refusals=1, waited_s=5.0, answered_at=200.0)
    assert sending.started(KEY, 100.0, attempt, seed=7, reserved=None).fields["waited_s"] == 5.0


def test_a_completed_task_keeps_what_it_says():
    """Exact cost and discount, the first address, and the service's own times."""
    task = Task(
        "t",
        "completed",
        urls=("https://h/1", "https://h/2"),
        cost="0.0286",
        discount="0.7",
        metadata={"upload_at": 3.5},
    )
    fields = sending.task_ended(KEY, task, 9.0, 3).fields
    assert (fields["cost"], fields["discount"], fields["output_url"]) == ("0.0286", "0.7", "https://h/1")
    assert (fields["n_polls"], fields["may_have_been_billed"]) == (3, False)
    assert json.loads(fields["metadata"]) == {"upload_at": 3.5}


def test_a_failed_task_with_a_picture_says_where_it_is():
    """It isn't saved, and its link soon expires; the reason is still the service's."""
    task = Task("t", "failed", urls=("https://h/1",), cost="0.03", error=ServiceMessage("003011095", "torn"))
    fields = sending.task_ended(KEY, task, 9.0, 3).fields
    assert (fields["cost"], fields["output_url"]) == ("0.03", "https://h/1")
    assert fields["error_message"].startswith("torn; it came with a picture: open output_url")


def test_a_completed_task_without_a_cost_may_have_been_billed():
    """A picture that was made and names no price leaves the money open."""
    event = sending.task_ended(KEY, Task("t", "completed", excerpt="{}"), 9.0, 1)
    assert event.kind is EventKind.COMPLETED
    assert event.fields == {"n_polls": 1, "excerpt": "{}", "may_have_been_billed": True}


@pytest.mark.parametrize("code", [*contract.ERROR_CODES, "999999999", None])
def test_a_failed_task_is_billed_unless_the_table_of_codes_says_not(code):
    """With a cost told nothing is open; without one the documented codes decide, and unknown ones may be billed."""
    task = Task("t", "failed", error=ServiceMessage(code, "words"))
    event = sending.task_ended(KEY, task, 9.0, 2)
    known = contract.ERROR_CODES.get(code or "")
    assert event.kind is EventKind.FAILED
    assert event.fields["may_have_been_billed"] is not (known is not None and known.is_unbilled)
    assert event.fields.get("error_code") == code
    assert event.fields["error_message"] == "words"
    paid = sending.task_ended(KEY, Task("t", "failed", cost="0.01", error=task.error), 9.0, 2)
    assert paid.fields["may_have_been_billed"] is False


def test_completed_with_error_may_have_been_billed():
    """The service says both, so the picture may have been made."""
    task = Task("t", "failed", error=ServiceMessage(None, "odd"), is_completed_with_error=True)
    fields = sending.task_ended(KEY, task, 9.0, 1).fields
    assert (fields["error_class"], fields["may_have_been_billed"]) == ("completed_with_error", True)
    linked = sending.task_ended(KEY, replace(task, urls=("https://a/1", "https://a/2")), 9.0, 1).fields
    assert (linked["output_url"], json.loads(linked["output_urls"])[1]) == ("https://a/1", "https://a/2")


def test_ends_that_nobody_told_us_of():
    """Lost, overdue and interrupted attempts say why, and whether money may be gone."""
    lost = sending.lost(KEY, 9.0, 5)
    assert (lost.kind, lost.fields["error_class"], lost.fields["may_have_been_billed"]) == (
        EventKind.LOST,
        sending.TASK_LOST,
        True,
    )
    overdue = sending.overdue(KEY, 9.0, 900.0)
    assert (overdue.kind, overdue.fields["error_class"]) == (EventKind.OVERDUE, failures.TASK_TIMEOUT)
    assert "Not finished after 900 s" in overdue.fields["error_message"]
    stopped = advance(SENT, sending.interrupted(SENT, 9.0))
    assert (stopped.stage, stopped.error_class, stopped.may_have_been_billed) == (
        Stage.AMBIGUOUS,
        sending.INTERRUPTED,
        True,
    )
    assert stopped.reserved == "0.03"


def test_the_users_word_settles_doubt():
    """Taken as a task it goes on; not taken it may be sent again."""
    doubtful = advance(SENT, sending.interrupted(SENT, 9.0))
    taken = advance(doubtful, sending.resolved(doubtful, 10.0, "t9"))
    assert (taken.stage, taken.task_id, taken.error_class) == (Stage.ACCEPTED, "t9", None)
    untaken = advance(doubtful, sending.resolved(doubtful, 10.0, None))
    assert (untaken.stage, untaken.reserved, untaken.may_have_been_billed) == (Stage.UNSENT, None, False)


def test_pictures_saved_and_not():
    """Where it is and what it is, or why not; a fresh link is kept as well."""
    attempt = Attempt("a", 1, Stage.COMPLETED, output_url="https://h/old")
    attempt = advance(attempt, sending.unsaved(KEY, 5.0, "not a picture"))
    assert attempt.output_error == "not a picture"
    attempt = advance(attempt, sending.new_links(attempt, 6.0, ("https://h/new",)))
    assert (attempt.output_url, attempt.output_error) == ("https://h/new", "not a picture")
    for links in (("https://h/1", "https://h/2"), ("https://h/3", "https://h/4"), ("https://h/5",)):
        attempt = advance(attempt, sending.new_links(attempt, 6.5, links))
        assert (attempt.links, attempt.output_url) == (links, links[0])
    attempt = advance(attempt, sending.save_ended(KEY, Saved("images/a.png", "ab", 10, 8, 4), 7.0))
    assert (attempt.output_path, attempt.output_sha256, attempt.output_bytes) == ("images/a.png", "ab", 10)
    assert (attempt.output_width, attempt.output_height, attempt.saved_at, attempt.output_error) == (
        8,
        4,
        7.0,
        None,
    )


def test_not_sending_after_all_leaves_no_trace_of_doubt():
    """An attempt that could not be written down was not sent."""
    attempt = advance(SENT, sending.not_sent(KEY, 101.0))
    assert (attempt.stage, attempt.reserved, attempt.may_have_been_billed) == (Stage.UNSENT, None, None)


def test_text_that_utf8_can_not_hold_is_replaced():
    """The name of a file in another encoding must not stop the journal."""
    failure = Failure(FailureKind.PERMANENT, sending.IMAGE_CHANGED, message="caf\udce9.png changed")
    message = ended(failure).fields["error_message"]
    assert message == "caf?.png changed"
    assert message.encode()


def test_times_are_kept_to_the_microsecond():
    """What the journal keeps is what the checkpoint can keep."""
    assert sending.not_sent(KEY, 1_700_000_000.123456789).at == 1_700_000_000.123457
