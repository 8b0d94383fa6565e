"""The fault table: what a user sees, and what the toolkit does, when a request of one row is struck by a fault.

One outcome per stage and fault of the local gateway. `test_flow_faults.py` brings each about over a real socket and
holds the table to what happens; `reference.py` writes it into the docs. Each fault strikes once, in the first of
three rows, worked off one at a time; precharge is asked for because a cap is given without a price.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Money = Literal["once", "nothing", "open"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of the row that is struck.

    `status`, `error_class` and `may_have_been_billed` are what the user sees; `stops` is the error that ends the call,
    and `again` the status after the same call once more. `n_attempts` counts on the service's invoice. `money` says
    what the row's cost tells: the price, once; nothing, and nothing was billed; or it is open, and said to be.
    """

    does: str
    status: str = "completed"
    error_class: str | None = None
    may_have_been_billed: bool | None = False
    n_attempts: int = 1
    money: Money = "once"
    stops: str | None = None
    again: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Faults of one stage with the same outcome."""

    stage: str
    faults: tuple[str, ...]
    outcome: Outcome


def _group(stage: str, faults: str, outcome: Outcome) -> Group:
    return Group(stage, tuple(faults.split()), outcome)


_READS: Final = Outcome("reads it all the same")
_WAITS: Final = Outcome(
    "all requests wait as asked by `Retry-After`, else ever longer; then it is sent again"
)
_STOPS: Final = Outcome(
    "stops submitting, finishes what is in flight",
    status="pending",
    n_attempts=0,
    money="nothing",
    stops="AccessRefused",
    again="completed",
)
_HOLDS: Final = Outcome(
    "holds the row: never sent again by itself; probes the service before the next create",
    status="ambiguous",
    may_have_been_billed=True,
    money="open",
)
_FAILS: Final = Outcome("fails the row", status="failed", money="nothing")
_FAILS_OPEN: Final = replace(_FAILS, may_have_been_billed=True, money="open")
_MAY_RETRY: Final = "fails the row; a new attempt only with `max_attempts` above 1"
_ASKS_AGAIN: Final = Outcome("asks again; after three failures in a row only a probe, until it is answered")
_NO_PRICE: Final = Outcome(
    "sends nothing: a cap needs a price",
    status="",
    may_have_been_billed=None,
    n_attempts=0,
    money="nothing",
    stops="PriceUnknown",
    again="completed",
)
_SHAPES: Final = (
    "error_code_error_message error_code_message error_message error_string error_detail error_status error_flat "
    "error_integer_code error_html error_empty"
)
_5XX: Final = "http_500 http_502 http_503 http_504"
_REFUSED: Final = "http_401 http_402"
_429: Final = "http_429 http_429_seconds http_429_date http_429_body"


def _of_create() -> Iterator[Group]:
    yield _group("create", "slow created_at_text unknown_fields content_length_too_long", _READS)
    yield _group("create", _429, _WAITS)
    yield _group("create", f"{_REFUSED} http_404", _STOPS)
    yield _group(
        "create",
        "http_403",
        Outcome("sends it once more after the others; two unlike rows in a row stop the run"),
    )
    yield from _ambiguous(
        "no_answer", "drop_before_accept http_408", "drop_after_accept http_408_after_accept"
    )
    yield from _ambiguous(
        "server_error",
        _5XX,
        "http_500_after_accept http_502_after_accept http_503_after_accept http_504_after_accept",
    )
    yield from _ambiguous("redirected", "redirect", "redirect_after_accept")
    yield from _ambiguous(
        "unreadable",
        "html",
        "html_after_accept empty_answer unexpected_json id_missing",
    )
    named = "asks for the task that the reply still names, and takes it if that repeats the row's inputs"
    yield _group("create", "truncated_json content_length_too_short", replace(_READS, does=named))
    yield _group("create", _SHAPES, replace(_FAILS, error_class="rejected", n_attempts=0))
    yield _group("create", "error_in_200", replace(_FAILS, error_class="creation_error", n_attempts=0))
    yield from _fates()


def _ambiguous(error_class: str, not_taken: str, taken: str) -> Iterator[Group]:
    """Give what nobody can tell apart: lost before the service had taken the attempt, and after."""
    held = replace(_HOLDS, error_class=error_class)
    yield _group("create", not_taken, replace(held, n_attempts=0))
    yield _group("create", taken, held)


def _fates() -> Iterator[Group]:
    unbilled = replace(_FAILS, does=_MAY_RETRY)
    yield _group("create", "fail_095", replace(unbilled, error_class="generation_error"))
    yield _group("create", "fail_099", replace(unbilled, error_class="creation_error"))
    yield _group(
        "create", "fail_upstream_429 fail_upstream_503", replace(unbilled, error_class="upstream_busy")
    )
    yield _group("create", "fail_097", replace(_FAILS, error_class="upstream_error"))
    yield _group("create", "fail_upstream_400", replace(_FAILS, error_class="upstream_refused"))
    yield _group("create", "fail_moderation", replace(_FAILS, error_class="moderation"))
    yield _group("create", "fail_moderation_code", replace(_FAILS_OPEN, error_class="moderation"))
    yield _group("create", "fail_096", replace(_FAILS_OPEN, error_class="result_error"))
    yield _group("create", "fail_098", replace(_FAILS_OPEN, error_class="status_error"))
    lost = "asks three times over 30 s, then gives the task up"
    yield _group("create", "forgotten", replace(_FAILS_OPEN, does=lost, error_class="task_lost"))
    paid = "fails the row, counts its cost"
    with_error = Outcome(paid, status="failed", error_class="completed_with_error")
    yield _group("create", "completed_with_error", with_error)
    overdue = Outcome(
        "asks until `task_timeout_s`; the next call asks again",
        status="in_progress",
        error_class="task_timeout",
        may_have_been_billed=None,
        money="open",
    )
    yield _group("create", "stuck", overdue)


def _of_poll() -> Iterator[Group]:
    spellings = "status_done status_succeeded status_success status_upper_case"
    yield _group(
        "poll",
        f"slow {spellings} created_at_text unknown_fields cost_number output_untyped content_length_too_long",
        _READS,
    )
    unfinished = "status_pending status_queued status_in_queue status_processing status_unknown not_yet"
    yield _group("poll", unfinished, Outcome("asks again when due"))
    broken = "html empty_answer unexpected_json truncated_json content_length_too_short redirect"
    yield _group("poll", f"drop http_408 {_5XX} {_SHAPES} {broken}", _ASKS_AGAIN)
    yield _group("poll", _429, _WAITS)
    yield _group(
        "poll",
        "http_404 unknown_task unknown_task_400",
        Outcome("asks again; gives up only after three in a row over 30 s"),
    )
    stopped = replace(_STOPS, status="in_progress", may_have_been_billed=None, n_attempts=1, money="open")
    yield _group("poll", _REFUSED, replace(stopped, does="stops; the next call asks again"))
    yield _group("poll", "http_403", Outcome("asks again; two in a row stop the run"))
    failed = replace(_FAILS, does=_MAY_RETRY, error_class="generation_error")
    yield _group(
        "poll", "status_error status_cancelled status_canceled failed_integer_code failed_message", failed
    )
    yield _group(
        "poll",
        "failed_string failed_no_code failed_no_error",
        replace(_FAILS_OPEN, error_class="service_error"),
    )
    open_cost = Outcome(
        "keeps the picture; the attempt keeps its reservation", may_have_been_billed=True, money="open"
    )
    yield _group("poll", "cost_empty cost_null cost_unreadable cost_missing", open_cost)
    yield _group(
        "poll", "output_missing output_empty output_expired", Outcome("asks for a fresh link, then fetches")
    )


def _of_precharge() -> Iterator[Group]:
    yield _group("precharge", "slow unknown_fields cost_number content_length_too_long", _READS)
    broken = "html empty_answer unexpected_json truncated_json content_length_too_short redirect"
    yield _group(
        "precharge",
        f"drop http_408 {_5XX} {_429} {_SHAPES} {broken}",
        Outcome("asks up to three times, then goes on as if no price were told"),
    )
    yield _group("precharge", _REFUSED, replace(_STOPS, does="sends nothing"))
    yield _group(
        "precharge", "http_403", Outcome("asks for other rows, unlike it; four in a row send nothing")
    )
    unknown = "cost_empty cost_null cost_unreadable cost_missing cost_cache_miss cost_cache_miss_flat"
    yield _group("precharge", f"http_404 {unknown}", _NO_PRICE)


def _of_download() -> Iterator[Group]:
    yield _group("download", "slow", _READS)
    statuses = f"{_REFUSED} http_403 http_404 http_408 {_5XX}"
    broken = "html empty_answer content_length_too_long content_length_too_short"
    yield _group(
        "download",
        f"drop {statuses} {_429} {_SHAPES} {broken} redirect link_expired wrong_content truncated_picture",
        Outcome("asks for a fresh link and fetches again, three times in all; then `output_error`"),
    )


GROUPS: Final = (*_of_create(), *_of_poll(), *_of_precharge(), *_of_download())
ROWS: Final = [(group.stage, fault, group.outcome) for group in GROUPS for fault in group.faults]


def rendered() -> Iterator[tuple[str, ...]]:
    """Give the lines of the table in the docs: groups that differ only in the number of attempts share one."""
    merged: dict[tuple[str, Outcome], list[Group]] = {}
    for group in GROUPS:
        merged.setdefault((group.stage, replace(group.outcome, n_attempts=0)), []).append(group)
    for (stage, outcome), groups in merged.items():
        faults = _named(" ".join(fault for group in groups for fault in group.faults))
        attempts = " or ".join(str(group.outcome.n_attempts) for group in groups)
        yield (stage, faults, _seen(outcome), _billed(outcome), outcome.does, attempts, outcome.money)


def _named(faults: str) -> str:
    for family, short in (
        (_SHAPES, "error_*"),
        (_429, "http_429*"),
        (_5XX, "http_5xx"),
        (_REFUSED, "http_401..402"),
    ):
        faults = faults.replace(family, short)
    return " ".join(f"`{fault}`" for fault in faults.split())


def _seen(outcome: Outcome) -> str:
    words = [outcome.status, outcome.error_class, outcome.stops]
    return ", ".join(f"`{word}`" for word in words if word)


def _billed(outcome: Outcome) -> str:
    if not outcome.status:
        return ""
    return {True: "yes", False: "no", None: "unknown"}[outcome.may_have_been_billed]
