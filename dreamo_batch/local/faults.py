"""Every way in which the gateway can misbehave, as one table.

`FAULTS` is the whole of it: name, the stages at which it can strike, and what it does. Whether and when
one strikes is decided by a `FaultPlan`.

Examples
--------
>>> FAULTS["drop_after_accept"].stages, FAULTS["drop_after_accept"].is_accepted
(('create',), True)
>>> len([fault for fault in FAULTS.values() if "poll" in fault.stages]) > 30
True
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from dreamo_batch.service import parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

Stage = Literal["create", "poll", "precharge", "download"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
CREATE: Final[tuple[Stage, ...]] = ("create",)
POLL: Final[tuple[Stage, ...]] = ("poll",)
JSON: Final[tuple[Stage, ...]] = ("create", "poll", "precharge")


class Effect(enum.StrEnum):
    """What kind of thing a fault does.

    Examples
    --------
    >>> FAULTS["stuck"].effect
    <Effect.FATE: 'fate'>
    """

    DROP = "drop"  # closes the connection without an answer
    SLOW = "slow"  # answers late
    ANSWER = "answer"  # answers something else
    VARY = "vary"  # answers right, in another spelling
    MANGLE = "mangle"  # spoils the answer's bytes
    FATE = "fate"  # decides what becomes of the task that is being accepted


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave.

    Attributes
    ----------
    name : str
        By which it is asked for.
    stages : tuple of str
        Out of create, poll, precharge and download.
    effect : Effect
        The kind of thing it does.
    meaning : str
        What a client sees.
    is_accepted : bool
        Whether a create that it strikes is accepted (and invoiced) all the same.
    needs : str or None
        The state in which a task must be for a poll to be struck; None for any.
    status : int
        HTTP status, of those that answer something else.
    word : str
        What `effect` works with: a body's shape, a status word, an error's text.
    code : str
        The task's error code, for those that make it fail.

    Examples
    --------
    >>> FAULTS["http_503"].status, FAULTS["http_503"].is_accepted
    (503, False)
    """

    name: str
    stages: tuple[Stage, ...]
    effect: Effect
    meaning: str
    is_accepted: bool = True
    needs: Literal["in_progress", "completed", "failed"] | None = None
    status: int = 200
    word: str = ""
    code: str = ""


def _connections() -> Iterator[Fault]:
    yield Fault(
        "drop_before_accept", CREATE, Effect.DROP, "closed without an answer, no order", is_accepted=False
    )
    yield Fault("drop_after_accept", CREATE, Effect.DROP, "closed without an answer, ordered and invoiced")
    yield Fault("drop", ("poll", "precharge", "download"), Effect.DROP, "closed without an answer")
    yield Fault(
        "slow", STAGES, Effect.SLOW, "the right answer after some seconds; a create is accepted at once"
    )


def _statuses() -> Iterator[Fault]:
    hints = {"": "", "_seconds": "seconds", "_date": "date", "_body": "body"}
    for status in (401, 402, 403, 404, 408, 500, 502, 503, 504):
        meaning = f"HTTP {status}"
        yield Fault(f"http_{status}", STAGES, Effect.ANSWER, meaning, is_accepted=False, status=status)
    for ending, hint in hints.items():
        meaning = f"HTTP 429, Retry-After: {hint or 'none'}"
        yield Fault(
            f"http_429{ending}", STAGES, Effect.ANSWER, meaning, is_accepted=False, status=429, word=hint
        )
    for status in (408, 500, 502, 503, 504):
        meaning = f"HTTP {status}, ordered and invoiced all the same"
        yield Fault(f"http_{status}_after_accept", CREATE, Effect.ANSWER, meaning, status=status)
    yield Fault("redirect", STAGES, Effect.ANSWER, "HTTP 307 to the same path", is_accepted=False, status=307)
    yield Fault(
        "redirect_after_accept", CREATE, Effect.ANSWER, "HTTP 307 to the same path, ordered", status=307
    )


def _bodies() -> Iterator[Fault]:
    for shape in ERROR_SHAPES:
        meaning = f"an HTTP error (400 on create, else 500) with the body of shape {shape!r}"
        yield Fault(f"error_{shape}", STAGES, Effect.ANSWER, meaning, is_accepted=False, status=0, word=shape)
    yield Fault("html", STAGES, Effect.ANSWER, "HTTP 200 with a page", is_accepted=False, word="html")
    yield Fault("html_after_accept", CREATE, Effect.ANSWER, "HTTP 200 with a page, ordered", word="html")
    yield Fault(
        "empty_answer", STAGES, Effect.ANSWER, "HTTP 200 with nothing; a create is accepted", word="empty"
    )
    yield Fault("unexpected_json", JSON, Effect.ANSWER, "HTTP 200 with []; a create is accepted", word="list")
    meaning = "HTTP 200 with an error and no id"
    yield Fault("error_in_200", CREATE, Effect.ANSWER, meaning, is_accepted=False, word="code_error_message")
    yield Fault("truncated_json", JSON, Effect.MANGLE, "the right answer cut in half; a create is accepted")
    meaning = "Content-Length promises more than comes; a create is accepted"
    yield Fault("content_length_too_long", STAGES, Effect.MANGLE, meaning)
    meaning = "Content-Length promises less than comes; a create is accepted"
    yield Fault("content_length_too_short", STAGES, Effect.MANGLE, meaning)


def _fates() -> Iterator[Fault]:
    for code, row in parameters.ERROR_CODES.items():
        if code >= "003011095":
            meaning = f"the task fails with {code}"
            yield Fault(f"fail_{code[-3:]}", CREATE, Effect.FATE, meaning, code=code, word=row.meaning)
    texts = {
        "fail_moderation": ("003011095", "Internal generation error: Risk Not Pass"),
        "fail_moderation_code": ("000110001", "input image may contain sensitive information"),
        "fail_upstream_429": ("003011097", "HTTP error response: 429 Too Many Requests"),
        "fail_upstream_503": ("003011097", "HTTP error response: 503 Service Unavailable"),
        "fail_upstream_400": ("003011097", "HTTP error response: 400 Bad Request"),
    }
    for name, (code, text) in texts.items():
        yield Fault(name, CREATE, Effect.FATE, f"the task fails with {code}, {text!r}", code=code, word=text)
    yield Fault("stuck", CREATE, Effect.FATE, "the task never ends", word="stuck")
    yield Fault("forgotten", CREATE, Effect.FATE, "ordered, billed, and never known again", word="forgotten")
    meaning = "the task ends completed, billed, and with an error"
    yield Fault("completed_with_error", CREATE, Effect.FATE, meaning, word="completed_with_error")


def _spellings() -> Iterator[Fault]:
    for word, state in parameters.STATUS_WORDS.items():
        if word != state:
            # Words for an unfinished task are said of finished ones too, which then are not finished yet.
            needs = None if state == "in_progress" else state
            yield Fault(f"status_{word}", POLL, Effect.VARY, f"status {word!r}", needs=needs, word=word)  # type: ignore[arg-type]  # the table's words are the three states
    yield Fault(
        "status_unknown", POLL, Effect.VARY, "a status that no one has met, not finished", word="warming_up"
    )
    yield Fault("status_upper_case", POLL, Effect.VARY, "status in capitals")
    yield Fault("not_yet", POLL, Effect.VARY, "still in progress, whatever it was", word="in_progress")
    yield Fault("id_missing", CREATE, Effect.VARY, "HTTP 200 in progress without an id, ordered")
    yield Fault("created_at_text", ("create", "poll"), Effect.VARY, "created_at as ISO text")
    yield Fault("unknown_fields", JSON, Effect.VARY, "fields that no one has heard of")


def _poll_errors() -> Iterator[Fault]:
    meaning = "HTTP 404 Task not found, this once"
    yield Fault("unknown_task", POLL, Effect.ANSWER, meaning, status=404, word="not_found")
    meaning = "HTTP 400 with the text Task not found, this once"
    yield Fault("unknown_task_400", POLL, Effect.ANSWER, meaning, status=400, word="not_found")
    meanings = {
        "failed_integer_code": "error.code as an integer",
        "failed_message": 'the error as {"code", "message"}',
        "failed_string": "the error as a plain string",
        "failed_no_code": "the error without a code",
        "failed_no_error": "failed without an error",
    }
    for name, meaning in meanings.items():
        yield Fault(name, POLL, Effect.VARY, meaning, needs="failed")


def _costs_and_outputs() -> Iterator[Fault]:
    values = {
        "empty": '""',
        "null": "null",
        "number": "a number",
        "unreadable": '"n/a"',
        "missing": "no usage",
    }
    for name, value in values.items():
        stages: tuple[Stage, ...] = ("poll", "precharge")
        yield Fault(f"cost_{name}", stages, Effect.VARY, f"cost: {value}", needs="completed", word=name)
    yield Fault(
        "cost_cache_miss", ("precharge",), Effect.VARY, "HTTP 200, failed with COST_CACHE_MISS in data"
    )
    yield Fault("cost_cache_miss_flat", ("precharge",), Effect.VARY, "the same beside data, which is null")
    outputs = {
        "output_missing": "completed without output",
        "output_empty": "completed with an empty output",
        "output_untyped": "contents without a type",
        "output_expired": "a link that has expired",
    }
    for name, meaning in outputs.items():
        yield Fault(name, POLL, Effect.VARY, meaning, needs="completed")
    download: tuple[Stage, ...] = ("download",)
    yield Fault("link_expired", download, Effect.ANSWER, "HTTP 403 with XML", status=403, word="expired")
    yield Fault(
        "wrong_content", download, Effect.ANSWER, "HTTP 200, image/jpeg, and no picture", word="noise"
    )
    yield Fault("truncated_picture", download, Effect.MANGLE, "half a picture, rightly counted")


ERROR_SHAPES: Final = (
    "code_error_message",
    "code_message",
    "message",
    "string",
    "detail",
    "status",
    "flat",
    "integer_code",
    "html",
    "empty",
)

FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault
    for rows in (
        _connections(),
        _statuses(),
        _bodies(),
        _fates(),
        _spellings(),
        _poll_errors(),
        _costs_and_outputs(),
    )
    for fault in rows
}
