"""What a failure means: permanent, transient, stop the run, or it may have arrived. Pure.

A create is special: nobody can ask whether it was taken, so only an answer of 429 and a connection that was never
made count as transient. Everything that is not certain may have arrived. Questions (fetch, precharge, download) can
simply be asked again, so there the network's faults are transient::

                                   create              fetch           precharge       download
    connection never made          TRANSIENT           TRANSIENT       TRANSIENT       TRANSIENT
    429                            TRANSIENT           TRANSIENT       TRANSIENT       TRANSIENT
    408, 5xx, redirect             MAY_HAVE_ARRIVED    TRANSIENT       TRANSIENT       TRANSIENT
    no answer, or a broken one     MAY_HAVE_ARRIVED    TRANSIENT       TRANSIENT       TRANSIENT
    2xx that can't be read         MAY_HAVE_ARRIVED    TRANSIENT       TRANSIENT       TRANSIENT
    2xx that is a refusal          PERMANENT           TRANSIENT       TRANSIENT       TRANSIENT
    401, 402, 403                  STOP                STOP            STOP            PERMANENT
    404                            STOP                PERMANENT       PERMANENT       PERMANENT
    405                            STOP                TRANSIENT       PERMANENT       PERMANENT
    "no credit" in code or words   STOP                STOP            STOP            as its status
    5xx with 003011001 to -004     PERMANENT           TRANSIENT       PERMANENT       TRANSIENT
    other 4xx                      PERMANENT           TRANSIENT       PERMANENT       PERMANENT
    "task not found" in words      as its status       PERMANENT       as its status   as its status
    can't even be built            PERMANENT           PERMANENT       PERMANENT       PERMANENT

A fetch answered by a redirect or an odd 4xx is asked again, because the task it asks for may be paid for already.
A link to a picture that is refused is permanent for the link; the task gives a fresh one. A 403 has a class of its own
(`forbidden`): it may be about one prompt, so that whoever sends many requests judges by the others.

Examples
--------
>>> from_response("create", 429, {"Retry-After": "3"}, b"").retry_after_s
3.0
>>> from_response("create", 502, {}, b"<html><title>Bad Gateway</title>").kind
<Kind.MAY_HAVE_ARRIVED: 'may_have_arrived'>
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from dreamo_batch.service import causes, payload, retry_after, wire
from dreamo_batch.service.failure import (
    ACCESS_REFUSED,
    COMPLETED_WITH_ERROR,
    CREATION_ERROR,
    FORBIDDEN,
    GENERATION_ERROR,
    MODERATION,
    NO_ANSWER,
    NO_CREDIT,
    NOT_BUILT,
    NOT_OFFERED,
    OTHER_TASK,
    OUTPUT_REJECTED,
    RATE_LIMITED,
    REDIRECTED,
    REJECTED,
    SERVER_ERROR,
    SERVICE_ERROR,
    TASK_NOT_FOUND,
    TASK_TIMEOUT,
    UNREACHABLE,
    UNREADABLE,
    UPSTREAM_ERROR,
    Failure,
    Kind,
)
from dreamo_batch.service.parameters import (
    ERROR_CODES,
    MODERATION_CODES,
    MODERATION_WORDS,
    NO_CREDIT_CODES,
    STOP_STATUSES,
)
from dreamo_batch.service.wire import ServiceMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dreamo_batch.service.wire import Task

__all__ = [
    "ACCESS_REFUSED",
    "COMPLETED_WITH_ERROR",
    "CREATION_ERROR",
    "FORBIDDEN",
    "GENERATION_ERROR",
    "MODERATION",
    "NOT_BUILT",
    "NOT_OFFERED",
    "NO_ANSWER",
    "NO_CREDIT",
    "OTHER_TASK",
    "OUTPUT_REJECTED",
    "RATE_LIMITED",
    "REDIRECTED",
    "REJECTED",
    "SERVER_ERROR",
    "SERVICE_ERROR",
    "TASK_NOT_FOUND",
    "TASK_TIMEOUT",
    "UNREACHABLE",
    "UNREADABLE",
    "UPSTREAM_ERROR",
    "Failure",
    "Kind",
    "Operation",
    "from_exception",
    "from_response",
    "from_task",
    "is_unbilled_and_retryable",
    "not_built",
]

Operation = Literal["create", "fetch", "precharge", "download"]

_NOT_FOUND: Final = re.compile(r"\btask\b.{0,80}\bnot (found|exist)", re.IGNORECASE | re.DOTALL)
_HTTP_STATUS: Final = re.compile(r"(?<![0-9.])[45][0-9]{2}(?![0-9.]*[0-9])")
# Upstream's own numbers for too many requests and too many at once.
_OUTPUT_REJECTED: Final = re.compile(r"(?<![0-9])0*505(11|19)(?![0-9])")
_UPSTREAM_BUSY: Final = re.compile(r"(?<![0-9])504(29|30)(?![0-9])")
# "No credit" as services say it: of the account, whatever the HTTP status.
_NO_CREDIT: Final = re.compile(
    r"(insufficient|not[ _-]?enough|no|out[ _-]?of)[ _-]?(remaining[ _-]?|account[ _-]?|available[ _-]?)?"
    r"(balance|credits?|quota|funds)(?![a-z])"
    r"|(balance|credits?|quota|funds)\W+(is|are|was|were|has been|have been)?\W*"
    r"(insufficient|not enough|too low|exhausted|used up|depleted)"
    r"|exceeded your current quota|arrears|arrearage|overdue[ _-]?(payment|balance|bill)|account[ _-]?overdue"
    r"|余额不足|额度不足|欠费",
    re.IGNORECASE,
)
# Documented codes that say no, and mean that nothing was ordered.
_REJECTIONS: Final = frozenset(code for code, row in ERROR_CODES.items() if row.error_class == REJECTED)
# Their texts may speak of moderation; the other documented codes mean what they say.
_VAGUE_CLASSES: Final = (GENERATION_ERROR, UPSTREAM_ERROR, CREATION_ERROR)


def from_response(
    operation: Operation, status: int, headers: Mapping[str, str], body: bytes, *, now: float = 0.0
) -> Failure:
    """Classify an answer that is not what was asked for.

    Parameters
    ----------
    operation : {'create', 'fetch', 'precharge', 'download'}
    status : int
        HTTP status; a 2xx means that its body could not be used.
    headers : mapping of str to str
    body : bytes
    now : float
        Unix seconds, for a Retry-After that is a date in an answer without a `Date` of its own.

    Returns
    -------
    Failure

    Examples
    --------
    >>> from_response("fetch", 404, {}, b'{"message": "Task not found"}').error_class
    'task_not_found'
    """
    told = wire.read_error(body)
    refusal = _refusal(body, told) if operation == "create" and _is_success(status) else None
    kind, error_class = _judge(operation, status, told, refusal)
    is_sure = kind in (Kind.STOP, Kind.PERMANENT)
    return Failure(
        kind=kind,
        error_class=error_class,
        http_status=status,
        code=told.code,
        message=_redirect(headers) if error_class == REDIRECTED else told.message or _phrase(status),
        retry_after_s=retry_after.read_wait(headers, body, now=now),
        excerpt=payload.excerpt(body) or None,
        is_outage=status >= HTTPStatus.INTERNAL_SERVER_ERROR and not is_sure,
    )


def from_exception(
    operation: Operation, exception: BaseException, *, was_sent: bool | None = None
) -> Failure:
    """Classify a request that ended without an answer.

    Parameters
    ----------
    operation : {'create', 'fetch', 'precharge', 'download'}
    exception : BaseException
        Of any class: what nobody foresaw counts as sent.
    was_sent : bool, optional
        Whether the first byte of the request went out. None: not known, so that only exceptions that prove it count
        as not sent.

    Returns
    -------
    Failure

    Examples
    --------
    >>> from_exception("create", ConnectionResetError()).kind
    <Kind.MAY_HAVE_ARRIVED: 'may_have_arrived'>
    >>> from_exception("create", ConnectionResetError(), was_sent=False).error_class
    'unreachable'
    """
    message = causes.reason(exception)
    if not was_sent and causes.proves_no_request(exception):
        return Failure(Kind.PERMANENT, REJECTED, message=message)
    if was_sent is None:
        was_sent = not causes.proves_no_connection(exception)
    is_outage = causes.is_fault_of_the_line(exception)
    if was_sent:
        kind = Kind.MAY_HAVE_ARRIVED if operation == "create" else Kind.TRANSIENT
        return Failure(kind, NO_ANSWER, message=message, is_outage=is_outage)
    if operation == "create" and not is_outage:
        return Failure(Kind.PERMANENT, REJECTED, message=message)
    cause = causes.lasting(exception)
    return Failure(Kind.TRANSIENT, UNREACHABLE, message=message, is_outage=is_outage, cause=cause)


def not_built(exception: BaseException) -> Failure:
    """Classify a request that could not be made ready to be sent: whatever the reason, nothing arrived.

    Parameters
    ----------
    exception : BaseException

    Returns
    -------
    Failure

    Examples
    --------
    >>> print(not_built(MemoryError()))
    not_built: MemoryError; nothing was sent
    """
    return Failure(Kind.PERMANENT, NOT_BUILT, message=causes.reason(exception))


def from_task(task: Task) -> Failure:
    """Classify a task that failed.

    Parameters
    ----------
    task : Task
        With status `failed`.

    Returns
    -------
    Failure
        Always permanent: the task is over. Whether a new one is worth trying is `is_unbilled_and_retryable`.

    Examples
    --------
    >>> task = wire.read_task(b'{"id": "a", "status": "failed", "error": {"code": 3011095}}', "a")
    >>> from_task(task).error_class, from_task(task).code
    ('generation_error', '003011095')
    """
    told = task.error or ServiceMessage(None, None)
    meaning = ERROR_CODES[told.code].meaning if told.code in ERROR_CODES else "the service gave no reason"
    return Failure(
        Kind.PERMANENT,
        _class_of_ended(task, told),
        code=told.code,
        message=told.message or meaning,
        excerpt=task.excerpt,
    )


def is_unbilled_and_retryable(failure: Failure) -> bool:
    """Whether a new task is worth trying and the failed one cost nothing, as the service's table of codes has it.

    Parameters
    ----------
    failure : Failure
        Of a task.

    Returns
    -------
    bool
        True for 003011095 and 003011099, and for 003011097 if its text tells of 429 or 5xx; never after moderation.

    Examples
    --------
    >>> is_unbilled_and_retryable(Failure(Kind.PERMANENT, "upstream_error", message="HTTP 503 from upstream"))
    True
    >>> is_unbilled_and_retryable(Failure(Kind.PERMANENT, "upstream_error", message="HTTP 400 from upstream"))
    False
    """
    if failure.error_class == UPSTREAM_ERROR:
        return _tells_of_busy_upstream(failure.message or "")
    return failure.error_class in (GENERATION_ERROR, CREATION_ERROR)


def _judge(
    operation: Operation, status: int, told: ServiceMessage, refusal: ServiceMessage | None
) -> tuple[Kind, str]:
    if operation != "download" and not _is_success(status) and _tells_of_no_credit(told):
        return Kind.STOP, NO_CREDIT
    if refusal is not None:
        return _judge_refusal(refusal)
    if operation == "fetch" and _is_not_found(status, told):
        return Kind.PERMANENT, TASK_NOT_FOUND
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Kind.TRANSIENT, RATE_LIMITED
    if operation in ("create", "precharge") and not _is_success(status) and told.code in _REJECTIONS:
        return Kind.PERMANENT, REJECTED
    unsure = Kind.MAY_HAVE_ARRIVED if operation == "create" else Kind.TRANSIENT
    error_class = _class_of_unsure(status)
    return (unsure, error_class) if error_class else _judge_4xx(operation, status, told)


def _refusal(body: bytes, told: ServiceMessage) -> ServiceMessage | None:
    """Read an error that came with HTTP 200; "no credit" is one even without a code."""
    return wire.read_refusal(body) or (told if _tells_of_no_credit(told) else None)


def _judge_refusal(told: ServiceMessage) -> tuple[Kind, str]:
    """Judge an error that came with HTTP 200; one about the key concerns every row, not this one."""
    if _tells_of_no_credit(told):
        return Kind.STOP, NO_CREDIT
    number = payload.code_number(told.code)
    if number in STOP_STATUSES.value:
        return Kind.STOP, FORBIDDEN if number == HTTPStatus.FORBIDDEN else ACCESS_REFUSED
    return Kind.PERMANENT, _class_of(told, REJECTED)


def _judge_4xx(operation: Operation, status: int, told: ServiceMessage) -> tuple[Kind, str]:
    if status in STOP_STATUSES.value:
        error_class = FORBIDDEN if status == HTTPStatus.FORBIDDEN else ACCESS_REFUSED
        return (Kind.PERMANENT, ACCESS_REFUSED) if operation == "download" else (Kind.STOP, error_class)
    if operation == "fetch":
        return Kind.TRANSIENT, REJECTED
    if operation == "create" and status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        return Kind.STOP, NOT_OFFERED
    return Kind.PERMANENT, _class_of(told, REJECTED)


def _tells_of_no_credit(told: ServiceMessage) -> bool:
    if told.code in _REJECTIONS:
        return False  # it may quote the prompt
    is_code = payload.code_number(told.code) in NO_CREDIT_CODES.value
    return is_code or any(_NO_CREDIT.search(words) for words in (told.code or "", told.message or ""))


def _class_of_unsure(status: int) -> str | None:
    """Name the answers that leave open whether the request was worked on; None for a clear no."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return SERVER_ERROR
    if status == HTTPStatus.REQUEST_TIMEOUT:
        return NO_ANSWER
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return UNREADABLE
    return REDIRECTED if status < HTTPStatus.BAD_REQUEST else None


def _class_of(told: ServiceMessage, otherwise: str) -> str:
    known = ERROR_CODES.get(told.code or "")
    error_class = known.error_class if known else otherwise
    is_clear = known is not None and error_class not in _VAGUE_CLASSES
    if is_clear or not _tells_of_moderation(told):
        return error_class
    return OUTPUT_REJECTED if _OUTPUT_REJECTED.search(f"{told.code} {told.message}") else MODERATION


def _class_of_ended(task: Task, told: ServiceMessage) -> str:
    if task.is_completed_with_error:
        return COMPLETED_WITH_ERROR
    return NO_CREDIT if _tells_of_no_credit(told) else _class_of(told, SERVICE_ERROR)


def _tells_of_moderation(told: ServiceMessage) -> bool:
    code = told.code or ""
    words = (told.message or "").lower()
    return (
        code in MODERATION_CODES.value
        or code.lstrip("0") in MODERATION_WORDS
        or any(word in words for word in MODERATION_WORDS)
    )


def _tells_of_busy_upstream(words: str) -> bool:
    """Whether a text names upstream's own codes for too many, or 429 or 5xx before any other HTTP status."""
    if _UPSTREAM_BUSY.search(words):
        return True
    status = _HTTP_STATUS.search(words)
    if status is None:
        return False
    return status[0] == "429" or status[0].startswith("5")


def _is_not_found(status: int, told: ServiceMessage) -> bool:
    if status == HTTPStatus.NOT_FOUND:
        return True
    words = f"{told.code} {told.message}".replace("_", " ")
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and _NOT_FOUND.search(words) is not None


def _is_success(status: int) -> bool:
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def _redirect(headers: Mapping[str, str]) -> str:
    """Say where a redirect points, by its host alone: the rest may be signed."""
    target = next((value for name, value in headers.items() if name.lower() == "location"), "")
    try:
        host = urlsplit(target).netloc.rpartition("@")[2]
    except ValueError:
        host = ""
    return f"answered by a redirect to {host or 'another path'}"


def _phrase(status: int) -> str:
    """Give the standard words for a status whose body says nothing."""
    if _is_success(status):
        return "the answer can't be read"
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "a status that HTTP does not know"
