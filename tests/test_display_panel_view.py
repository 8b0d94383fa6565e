"""What is shown of a run, decided without any widget: texts, shares, and what can be clicked."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from dreamo_batch.appearance import PALETTE
from dreamo_batch.display.panel import about, html_blocks, message, rate, view_of
from dreamo_batch.engine.status import ErrorGroup, Picture
from dreamo_batch.text import duration, one_line
from tests.fakes import small_run

STOPPED = "The cap of $0.10 is reached."


def enabled(status, *, can_control=True):
    controls = view_of(status, can_control=can_control).controls
    return {name for name, button in controls.buttons.items() if button.is_enabled}


@pytest.mark.parametrize(
    ("phase", "can_be_clicked"),
    [
        ("running", {"pause", "stop", "retry"}),
        ("paused", {"resume", "stop", "retry"}),
        ("stopping", set()),
        ("stopped", {"resume", "retry"}),
        ("finished", {"retry"}),
        ("idle", {"retry"}),
    ],
)
def test_only_what_makes_sense_can_be_clicked(phase, can_be_clicked):
    """Each phase has its buttons; each that is off says why."""
    status = small_run(phase=phase)
    assert enabled(status) == can_be_clicked
    assert all(button.tooltip for button in view_of(status).controls.buttons.values())
    assert not enabled(status, can_control=False)
    assert "Another process" in view_of(status, can_control=False).controls.why_not


def test_without_failed_rows_there_is_nothing_to_retry():
    """Retry says how many rows it would submit again, and is off where there is none."""
    retry = view_of(small_run(by_status={"completed": 4})).controls.buttons["retry"]
    assert (retry.words, retry.is_enabled) == ("Retry failed", False)
    assert (
        "1,234 failed rows"
        in view_of(small_run(by_status={"failed": 1234})).controls.buttons["retry"].tooltip
    )


def test_every_status_has_its_place_in_the_bar():
    """Shares add up, settled rows come first, and statuses without a row are left out."""
    by_status = {"pending": 4, "submitting": 1, "in_progress": 1, "invalid": 1, "ambiguous": 1, "failed": 0}
    view = view_of(small_run(by_status=by_status))
    assert [part.status for part in view.segments] == [
        "ambiguous", "invalid", "in_progress", "submitting", "pending",
    ]  # fmt: skip
    assert sum(part.share for part in view.segments) == pytest.approx(1)
    assert view.progress == "2 of 8 rows settled (25 %)"


def test_a_table_without_rows_is_shown():
    """Nothing is divided by zero."""
    view = view_of(small_run(by_status={}, phase="finished", projected_usd=None, max_cost_usd=Decimal(0)))
    assert (view.progress, view.segments, view.money.has_bar) == ("no rows", (), False)


def test_money_is_measured_by_the_cap():
    """What is spent and set aside never passes the end of the bar, nor do the marks."""
    over = small_run(spent_usd=Decimal("0.45"), reserved_usd=Decimal("0.2"), max_cost_usd=Decimal("0.5"))
    money = view_of(over).money
    assert (money.spent_share, money.reserved_share) == (0.9, pytest.approx(0.1))
    assert view_of(small_run(max_cost_usd=Decimal("0.1"))).money.projected_shares == (1.0, 1.0, 1.0)


def test_without_a_cap_money_is_measured_by_the_projection():
    """The bar ends at the highest projection, or has none before the first price."""
    money = view_of(small_run(max_cost_usd=None)).money
    assert money.cap == "none"
    assert money.projected_shares == pytest.approx((0.11 / 0.13, 0.12 / 0.13, 1))
    nothing = view_of(
        small_run(max_cost_usd=None, projected_usd=None, spent_usd=Decimal(0), reserved_usd=Decimal(0))
    )
    assert (nothing.money.has_bar, nothing.money.projected, nothing.money.reserved) == (False, "", "")


@pytest.mark.parametrize(
    ("cap", "warning", "suggested"),
    [
        ("0.5", "", ""),
        ("0.125", "the cap may not last", "0.13"),
        ("0.1", "the cap will not last", "0.13"),
    ],
)
def test_a_cap_that_falls_short_is_said_beforehand(cap, warning, suggested):
    """The warning comes with a field for a cap that would last."""
    view = view_of(small_run(max_cost_usd=Decimal(cap)))
    assert (view.money.warning, view.controls.suggested_cap) == (warning, suggested)
    assert not view_of(small_run(max_cost_usd=Decimal(cap)), can_control=False).controls.suggested_cap


@pytest.mark.parametrize(
    ("cap", "projected", "suggested"),
    [
        ("1", None, "1.50"),
        ("0", None, "1.00"),
        ("1", (Decimal("0.2"),) * 3, "1.50"),
        ("1", (Decimal(3),) * 3, "3.00"),
    ],
)
def test_a_cap_that_stopped_the_run_can_be_raised(cap, projected, suggested):
    """The suggestion is always higher than the cap, which may not be all that the next attempt lacked."""
    status = small_run(
        phase="stopped",
        problem=STOPPED,
        max_cost_usd=Decimal(cap),
        projected_usd=projected,
        is_cap_reached=True,
    )
    assert view_of(status).controls.suggested_cap == suggested


def test_a_run_that_waits_for_the_service_says_so():
    """Above all else; once it is over, what stopped it counts."""
    assert view_of(small_run(outage="Service unreachable")).detail == "Service unreachable"
    assert view_of(small_run(outage="Service unreachable", phase="finished")).detail == ""


def test_a_run_stopped_by_something_else_asks_for_no_cap():
    """A refused key is not mended with money."""
    view = view_of(small_run(phase="stopped", problem="401: key refused."))
    assert (view.controls.suggested_cap, view.problem, view.colour) == (
        "",
        "401: key refused.",
        PALETTE["failed"].colour,
    )


def test_settled_rows_need_no_projection():
    """Once everything is settled only what was spent is of interest."""
    view = view_of(small_run(by_status={"completed": 4}, max_cost_usd=Decimal("0.01"), phase="finished"))
    assert (view.money.projected, view.money.projected_shares, view.money.warning) == ("", None, "")
    assert view.controls.suggested_cap == ""


def test_pace_is_reported_while_there_is_one():
    """A paused run has no rate; a run that is over says how long it took; of others' runs nobody knows."""
    assert view_of(small_run()).pace == "6 s so far · 1 in flight · 30 rows/min · about 5 s left"
    assert view_of(small_run(phase="paused")).pace == "6 s so far · 1 in flight"
    assert view_of(small_run(phase="finished")).pace == "took 6 s"
    slow = small_run(phase="finished", n_refused=1200, waited_s=90.0)
    assert view_of(slow).pace == "took 6 s · 1,200 refused with 429 (waited 1 min 30 s)"
    assert view_of(small_run(phase="finished"), can_control=False).pace == ""
    assert view_of(small_run(n_in_flight=0, rows_per_s=None, eta_s=None)).pace == "6 s so far"
    assert view_of(small_run(n_in_flight=0), can_control=False).pace == "30 rows/min · about 5 s left"


@pytest.mark.parametrize(
    ("phase", "says"),
    [
        ("paused", "Nothing more is submitted until you resume. Waiting for 1 submitted task."),
        ("stopping", "Nothing more is submitted. Waiting for requests that were already sent."),
        ("stopped", "1 row not settled."),
        ("idle", "No process is working on this run."),
        ("running", ""),
    ],
)
def test_a_phase_says_what_it_means(phase, says):
    """What a word like "paused" means for money is said beside it."""
    assert view_of(small_run(phase=phase)).detail.startswith(says)


def test_words_of_others_are_harmless_and_short():
    """Labels, messages, prompts, notices and problems hold no control characters and no end."""
    long = "\x1b[31m" + "x" * 5000
    picture = Picture((1, "雪"), "a", long, None, Path("a.png"), None)
    view = view_of(
        small_run(
            errors=(ErrorGroup(long, 1, long, long),),
            newest=(picture,),
            notices=("first", long),
            problem=long,
        )
    )
    caption = html_blocks().picture(view.pictures[0], None)
    texts = [view.problem, *view.notices, html_blocks().errors(view), caption]
    assert all(len(text) <= 2010 and "\x1b" not in text for text in texts)
    assert "row (1, &#39;雪&#39;)<div></div>" in caption
    assert view.notices[1] == "first", "the newest notice comes first"


def test_a_picture_tells_its_row_cost_and_seed():
    """A caption is enough to find the row."""
    picture = Picture(7, "a", "p", 2**40, Path("a.png"), Decimal("0.0286"))
    assert "row 7 · $0.0286<div>seed 1099511627776</div>" in html_blocks().picture(picture, None)


def test_every_name_has_a_colour():
    """No status and no tone is left without."""
    by_status = dict.fromkeys(
        ("completed", "failed", "ambiguous", "invalid", "in_progress", "submitting", "pending"), 1
    )
    segments = view_of(small_run(by_status=by_status)).segments
    assert [part.style for part in segments] == [PALETTE[status] for status in by_status]
    phases = ("running", "paused", "stopping", "stopped", "finished", "idle")
    assert all(re.fullmatch("#[0-9a-f]{6}", view_of(small_run(phase=phase)).colour) for phase in phases)


def test_lengths_and_rates_are_readable():
    """Never more than two units, never a negative time."""
    assert (duration(-1), duration(60), duration(86_400)) == ("0 s", "1 min", "1 d")
    assert (about(0.1), about(61)) == ("5 s", "2 min")
    assert (rate(1), rate(0.0001), rate(1 / 60)) == ("1 row/s", "0.4 rows/h", "1 row/min")


def test_messages_keep_their_lines():
    """What to do often stands on a line of its own; short texts are one line."""
    assert message("a\n  b\x00") == "a\n  b\\x00"
    assert one_line("a\u2028b\nc", 10) == "a b c"
