"""How a request ended -> the event the journal keeps of it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.execution.budget import money
from dreamo_batch.execution.state import Event, Kind, Order, Stage
from dreamo_batch.service import failures, parameters
from dreamo_batch.service.failures import Failure
from dreamo_batch.service.failures import Kind as FailureKind

if TYPE_CHECKING:
    from dreamo_batch.execution.archive import Saved
    from dreamo_batch.execution.schedule import Do, Key
    from dreamo_batch.service.wire import Task

TASK_LOST: Final = "task_lost"
TASK_TIMEOUT: Final = "task_timeout"
INTERRUPTED: Final = "interrupted"
IMAGE_CHANGED: Final = "image_changed"
_EXCERPT_CHARACTERS: Final = 2000


@dataclass(frozen=True, slots=True)
class CreateAnswer:
    """A create ended: a task id, or how it failed."""

    key: Key
    result: str | Failure


@dataclass(frozen=True, slots=True)
class PollAnswer:
    """A poll ended: what the service says of the task, or how asking failed."""

    do: Do
    key: Key
    result: Task | Failure


@dataclass(frozen=True, slots=True)
class SaveAnswer:
    """A picture was saved, or why not; `refusal` where it was asked for too fast."""

    key: Key
    result: Saved | str
    refusal: Failure | None = None


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The service was asked whether it is there; `failure` says why not."""

    is_there: bool
    failure: Failure | None = None


def sending(
    key: Key,
    at: float,
    *,
    seed: int,
    reserved: str | None,
    before: Order | None = None,
    inputs: str | None = None,
) -> Event:
    """About to send a create; `before` is the order as earlier tries left it, `inputs` what is ordered, as JSON.

    Examples
    --------
    >>> sending(("a", 1), 5.0, seed=7, reserved="0.03").fields["seed_sent"]
    7
    """
    waited_s = _waited_s(before, before.answered_at, at) if before is not None else None
    return _event(Kind.SENDING, key, at, seed_sent=seed, reserved=reserved, waited_s=waited_s, inputs=inputs)


def create_ended(order: Order, answer: CreateAnswer, at: float) -> Event:
    """Turn the end of a create into its event."""
    waited_s = _waited_s(order, order.sent_at, at)
    if isinstance(answer.result, str):
        return _event(Kind.ACCEPTED, answer.key, at, task_id=answer.result, waited_s=waited_s)
    failure = answer.result
    told = _told(failure)
    if failure.kind is FailureKind.PERMANENT:
        return _event(Kind.REFUSED, answer.key, at, **told, may_have_been_billed=False)
    if failure.kind is FailureKind.MAY_HAVE_ARRIVED:
        return _event(Kind.AMBIGUOUS, answer.key, at, **told, may_have_been_billed=True)
    is_refusal = failure.error_class == failures.RATE_LIMITED
    n_refusals = (order.n_refusals or 0) + 1 if is_refusal else None
    return _event(Kind.NOT_SENT, answer.key, at, n_refusals=n_refusals, waited_s=waited_s)


def not_sent(key: Key, at: float) -> Event:
    """Say that a create that was about to be sent was not."""
    return _event(Kind.NOT_SENT, key, at)


def resolved(order: Order, at: float, task_id: str | None) -> Event:
    """Settle an ambiguous order by the user's word: taken as a task, or never taken."""
    key = (order.job_id, order.order)
    return (
        _event(Kind.NOT_SENT, key, at) if task_id is None else _event(Kind.ACCEPTED, key, at, task_id=task_id)
    )


def interrupted(order: Order, at: float) -> Event:
    """Say that the writer died while the create was on the wire."""
    return _event(
        Kind.AMBIGUOUS,
        (order.job_id, order.order),
        at,
        error_class=INTERRUPTED,
        error_message="the program ended before the service had answered; the order may have been taken",
        may_have_been_billed=True,
    )


def task_ended(key: Key, task: Task, at: float, n_polls: int) -> Event:
    """Turn the end of a task into its event."""
    known: dict[str, Any] = {
        "cost": task.cost,
        "discount": task.discount,
        "n_polls": n_polls,
        "metadata": json.dumps(dict(task.metadata), allow_nan=False) if task.metadata else None,
    }
    if task.status == "completed":
        url = task.urls[0] if task.urls else None
        billed = task.cost is None
        return _event(
            Kind.COMPLETED,
            key,
            at,
            **known,
            output_url=url,
            output_urls=json.dumps(task.urls) if len(task.urls) > 1 else None,
            output_job_id=next(iter(task.job_ids), None),
            output_bytes_told=next(iter(task.sizes), None),
            excerpt=_short(task.excerpt),
            may_have_been_billed=billed,
        )
    failure = failures.from_task(task)
    return _event(
        Kind.FAILED, key, at, **known, **_told(failure), may_have_been_billed=_may_be_billed(task, failure)
    )


def is_retryable(order: Order) -> bool:
    """Whether a failed task is worth a new order and is known to have cost nothing.

    Examples
    --------
    >>> known = {"task_id": "t1", "error_class": "creation_error", "may_have_been_billed": False}
    >>> [is_retryable(Order("a", 1, Stage.FAILED, cost=cost, **known)) for cost in (None, "0.03")]
    [True, False]
    """
    if order.stage is not Stage.FAILED or order.task_id is None:
        return False
    if order.may_have_been_billed or money(order.cost):
        return False
    return failures.is_unbilled_and_retryable(
        Failure(
            FailureKind.PERMANENT, order.error_class or "", code=order.error_code, message=order.error_message
        )
    )


def lost(key: Key, at: float, n_polls: int) -> Event:
    """Say that the service does not know the task any more."""
    message = (
        "the service answered three times over 30 s that it does not know this task; it may have been billed"
    )
    return _event(
        Kind.LOST,
        key,
        at,
        error_class=TASK_LOST,
        error_message=message,
        may_have_been_billed=True,
        n_polls=n_polls,
    )


def overdue(key: Key, at: float, timeout_s: float, oddity: str | None = None) -> Event:
    """Say that the task took too long to wait for it in this call, and what was odd about its last poll."""
    seen = f" (at the last poll: {oddity})" if oddity else ""
    message = f"no end after {timeout_s:g} s{seen}; the next call asks for it again"
    return _event(Kind.OVERDUE, key, at, error_class=TASK_TIMEOUT, error_message=message)


def save_ended(key: Key, saved: Saved, at: float) -> Event:
    """Say that a picture is on disk."""
    return _event(
        Kind.SAVED,
        key,
        at,
        output_path=saved.path,
        output_sha256=saved.sha256,
        output_bytes=saved.n_bytes,
        output_width=saved.width_px,
        output_height=saved.height_px,
        output_warning=saved.warning,
    )


def unsaved(key: Key, at: float, reason: str) -> Event:
    """Say why a picture that was made is not on disk."""
    return _event(Kind.UNSAVED, key, at, output_error=reason)


def new_links(order: Order, at: float, urls: tuple[str, ...]) -> Event:
    """Keep fresh links to the pictures of a task."""
    several = json.dumps(urls) if len(urls) > 1 or order.output_urls is not None else None
    return _event(Kind.UNSAVED, (order.job_id, order.order), at, output_url=urls[0], output_urls=several)


def _event(kind: Kind, key: Key, at: float, **fields: Any) -> Event:
    """Make an event; None is left out, except where it resets what an earlier try said."""
    present = {name: _storable(value) for name, value in fields.items() if value is not None}
    return Event(kind, key[0], key[1], round(at, 6), present)


def _told(failure: Failure) -> dict[str, Any]:
    return {
        "error_class": failure.error_class,
        "error_code": failure.code,
        "error_message": failure.message or str(failure),
        "excerpt": _short(failure.excerpt),
    }


def _may_be_billed(task: Task, failure: Failure) -> bool:
    if task.cost is not None:
        return False
    if task.urls or task.is_cost_unreadable:
        return True
    known = parameters.ERROR_CODES.get(failure.code or "")
    return not (known and known.is_unbilled)


def _waited_s(order: Order, since: float | None, at: float) -> float | None:
    """Seconds from the first refusal up to now, where `since` is the last time they were counted."""
    if not order.n_refusals or since is None:
        return None
    return round((order.waited_s or 0.0) + max(0.0, at - since), 6)


def _storable(value: Any) -> Any:
    """Replace what UTF-8 can't hold, such as the bytes of a file name of another encoding."""
    return value.encode(errors="replace").decode() if type(value) is str else value


def _short(text: str | None) -> str | None:
    return text if text is None else text[:_EXCERPT_CHARACTERS]
