"""A failure as a value: its kind, its class, and what is known of it."""

from __future__ import annotations

import enum
import http.client
import re
import socket
import ssl
import traceback
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

import requests
import urllib3

from dreamo_batch.errors import KeyMissing, UsageError
from dreamo_batch.service import messages
from dreamo_batch.service.contract import (
    ERROR_CODES,
    MODERATION_CODES,
    MODERATION_WORDS,
    NO_CREDIT_CODES,
    STOP_STATUSES,
)
from dreamo_batch.service.messages import ServiceMessage
from dreamo_batch.text import harmless

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dreamo_batch.service.messages import Task


REJECTED: Final = "rejected"
MODERATION: Final = "moderation"
OUTPUT_REJECTED: Final = "output_rejected"
GENERATION_ERROR: Final = "generation_error"
UPSTREAM_ERROR: Final = "upstream_error"
CREATION_ERROR: Final = "creation_error"
SERVICE_ERROR: Final = "service_error"
COMPLETED_WITH_ERROR: Final = "completed_with_error"
RATE_LIMITED: Final = "rate_limited"
UNREACHABLE: Final = "unreachable"
SERVER_ERROR: Final = "server_error"
ACCESS_REFUSED: Final = "access_refused"
FORBIDDEN: Final = "forbidden"
NO_CREDIT: Final = "no_credit"
NOT_OFFERED: Final = "not_offered"
NO_ANSWER: Final = "no_answer"
UNREADABLE: Final = "unreadable"
TASK_NOT_FOUND: Final = "task_not_found"
OTHER_TASK: Final = "other_task"
TASK_TIMEOUT: Final = "task_timeout"
REDIRECTED: Final = "redirected"
NOT_BUILT: Final = "not_built"

_ADVICE: Final = {
    ACCESS_REFUSED: "check the API key, its permissions and the account's credit",
    FORBIDDEN: "a firewall may dislike this prompt or picture, or the key lacks a permission",
    NO_CREDIT: "add credit to the account",
    NOT_OFFERED: "the service doesn't take this request; check the base URL and the model",
    RATE_LIMITED: "wait, then ask again",
    UNREACHABLE: "nothing was sent; check the network, the proxy and the base URL",
    REDIRECTED: "redirects are not followed; check the base URL",
    NOT_BUILT: "nothing was sent",
    MODERATION: "the prompt or the picture was refused; change it",
    OUTPUT_REJECTED: "the finished picture was refused; try another seed",
}
_ADVICE_BY_CAUSE: Final = {
    "certificate": "set REQUESTS_CA_BUNDLE or SSL_CERT_FILE to your network's CA bundle",
    "host": "check the base URL (base_url=, DREAMO_BASE_URL), the network and its DNS; behind a proxy set HTTPS_PROXY",
    "proxy": "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY; the proxy may need a user and password",
    "scheme": "check whether the base URL should begin with http:// or https://, and its port",
}
_ADVICE_BY_KIND: Final = {
    "permanent": "the same request will fail again",
    "transient": "it may be asked again",
    "stop": "nothing more will be taken until this is settled",
    "may_have_arrived": "it may have been taken and billed, so look before sending it again",
}


class FailureKind(enum.StrEnum):
    """What to do about a failure."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    STOP = "stop"
    MAY_HAVE_ARRIVED = "may_have_arrived"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request or task.

    Attributes
    ----------
    kind : FailureKind
    error_class : str
        One word, as in the results.
    http_status : int or None
        None if there was no answer.
    code, message : str or None
        The service's, or the exception's words.
    retry_after_s : float or None
        How long the service asks to be left alone.
    excerpt : str or None
        At most 2 kB of an answer that did not read as documented.
    is_outage : bool
        The service is away: a fault of the connection, or 5xx.
    task_id : str or None
        Of a create whose answer broke off after its id: still unproven, but where to look.
    cause : {'certificate', 'host', 'proxy', 'scheme'} or None
        Why there is no connection, if waiting doesn't mend it.

    Examples
    --------
    >>> print(Failure(FailureKind.PERMANENT, "rejected", 400, "003011001", "Missing prompt"))
    rejected (HTTP 400, code 003011001): Missing prompt; the same request will fail again
    """

    kind: FailureKind
    error_class: str
    http_status: int | None = None
    code: str | None = None
    message: str | None = None
    retry_after_s: float | None = None
    excerpt: str | None = None
    is_outage: bool = False
    task_id: str | None = None
    cause: str | None = None

    def __str__(self) -> str:
        details = (
            f"HTTP {self.http_status}" if self.http_status is not None else "",
            f"code {self.code}" if self.code else "",
            f"task {self.task_id}" if self.task_id else "",
        )
        known = ", ".join(filter(None, details))
        advice = _ADVICE_BY_CAUSE.get(self.cause or "") or _ADVICE.get(
            self.error_class, _ADVICE_BY_KIND[self.kind.value]
        )
        told = f"{self.error_class}{f' ({known})' if known else ''}: {self.message or 'no reason given'}; {advice}"
        return harmless(told)  # a traceback or a log shows it as it is


Lasting = Literal["certificate", "host", "proxy", "scheme"]

REASON_CHARACTERS_MAX: Final = 300

_NEVER_CONNECTED: Final = (
    requests.exceptions.ConnectTimeout,
    urllib3.exceptions.ConnectTimeoutError,  # with NewConnectionError and NameResolutionError below it
    socket.gaierror,
    ConnectionRefusedError,
    ssl.SSLCertVerificationError,  # certificates are looked at in the handshake, before any request
)
_NEVER_BUILT: Final = (
    requests.exceptions.URLRequired,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidHeader,
    urllib3.exceptions.LocationValueError,
    urllib3.exceptions.InvalidHeader,
    urllib3.exceptions.ProxySchemeUnsupported,
    http.client.InvalidURL,
    UnicodeEncodeError,
    UsageError,
    KeyMissing,
)
_WRONG_SCHEME: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"}
)
# http.client tells the proxy's status in words only.
_REFUSED_BY_PROXY: Final = re.compile(r"Tunnel connection failed: 40[0-9]")
_FAULTS_OF_THE_LINE: Final = (
    OSError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
)
_MODULES: Final = re.compile(r"^(?:\w+\.)+(?=\w+(?::|$))")
# Links to pictures are signed: who has the query has the picture.
_QUERY: Final = re.compile(r"(https?://[^\s?'\"<>]*|/[^\s?'\"<>]*)\?[^\s'\"<>)]*")


def proves_no_connection(exception: BaseException) -> bool:
    """Whether the exception can only be raised while no connection is made yet."""
    return any(isinstance(one, _NEVER_CONNECTED) for one in _chain(exception))


def proves_no_request(exception: BaseException) -> bool:
    """Whether the request could not even be built, so that it will fail again."""
    return any(isinstance(one, _NEVER_BUILT) for one in _chain(exception))


def lasting(exception: BaseException) -> Lasting | None:
    """Name the cause of a failed connection if waiting doesn't mend it."""
    for one in _chain(exception):
        if isinstance(one, ssl.SSLCertVerificationError):
            return "certificate"
        if isinstance(one, socket.gaierror):
            return "host"
        if isinstance(one, ssl.SSLError) and getattr(one, "reason", None) in _WRONG_SCHEME:
            return "scheme"
        if type(one) is OSError and _REFUSED_BY_PROXY.search(str(one)):
            return "proxy"
    return None


def is_fault_of_the_line(exception: BaseException) -> bool:
    """Whether it is the network's or the service's doing, not a mistake in building the request."""
    return isinstance(exception, _FAULTS_OF_THE_LINE) and not proves_no_request(exception)


def reason(exception: BaseException) -> str:
    """Say in a line what was at the bottom of it."""
    *_, innermost = _chain(exception)
    # The standard formatter, because some exceptions of http.client fail at their own str().
    words = " ".join(traceback.format_exception_only(innermost)[-1].split())
    return without_query(_MODULES.sub("", words))[:REASON_CHARACTERS_MAX]


def without_query(words: str) -> str:
    """Cut the query off every URL in a text."""
    return _QUERY.sub(r"\1", words)


def _chain(exception: BaseException) -> Iterator[BaseException]:
    """Go from the outermost to the innermost; wrapped ones hide in many places."""
    seen: set[int] = set()
    current: BaseException | None = exception
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = _wrapped_in(current)


def _wrapped_in(exception: BaseException) -> BaseException | None:
    places = (
        getattr(exception, "reason", None),
        getattr(exception, "original_error", None),
        *exception.args,
        exception.__cause__,
        exception.__context__,
    )
    return next((one for one in places if isinstance(one, BaseException)), None)


WAIT_MAX_S: Final = 24 * 3600.0
_BODY_KEYS: Final = ("retry_after", "retryAfter", "retry-after", "retry_after_s", "retry_after_seconds")
_MILLISECOND_KEYS: Final = ("retry_after_ms", "retryAfterMs", "retry-after-ms")


def read_wait(headers: Mapping[str, str], body: bytes, *, now: float) -> float | None:
    """Read the waiting time out of an answer; the header goes before the body."""
    lowered = {name.lower(): value for name, value in headers.items()}
    wait_ms = messages.number(lowered.get("retry-after-ms"))
    wait_s = None if wait_ms is None else wait_ms / 1000
    if wait_s is None:
        wait_s = _from_header(lowered.get("retry-after"), lowered.get("date"), now)
    if wait_s is None:
        wait_s = _from_body(body)
    return None if wait_s is None else min(max(wait_s, 0.0), WAIT_MAX_S)


def _from_header(value: str | None, date: str | None, now: float) -> float | None:
    seconds = messages.number(value)
    if seconds is not None:
        return seconds
    until = _date(value)
    server_now = _date(date)
    return None if until is None else until - (now if server_now is None else server_now)


def _date(value: str | None) -> float | None:
    """Read an HTTP date as Unix seconds."""
    try:
        return parsedate_to_datetime(value or "").timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _from_body(body: bytes) -> float | None:
    try:
        answer = messages.load(body)
    except messages.Unreadable:
        return None
    places = (answer, answer.get("error"), answer.get("detail"), answer.get("data"), answer.get("status"))
    waits = (_in_place(place) for place in places if isinstance(place, dict))
    return next((wait_s for wait_s in waits if wait_s is not None), None)


def _in_place(place: dict[str, Any]) -> float | None:
    for keys, per_second in ((_BODY_KEYS, 1), (_MILLISECOND_KEYS, 1000)):
        wait = next((read for key in keys if (read := messages.number(place.get(key))) is not None), None)
        if wait is not None:
            return wait / per_second
    return None


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
    "FailureKind",
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
# Documented codes that say no, and mean that nothing was submitted.
_REJECTIONS: Final = frozenset(code for code, row in ERROR_CODES.items() if row.error_class == REJECTED)
# Their texts may speak of moderation; the other documented codes mean what they say.
_VAGUE_CLASSES: Final = (GENERATION_ERROR, UPSTREAM_ERROR, CREATION_ERROR)


def from_response(
    operation: Operation, status: int, headers: Mapping[str, str], body: bytes, *, now: float = 0.0
) -> Failure:
    """Classify an answer that is not what was asked for."""
    told = messages.read_error(body)
    refusal = _refusal(body, told) if operation == "create" and _is_success(status) else None
    kind, error_class = _judge(operation, status, told, refusal)
    is_sure = kind in (FailureKind.STOP, FailureKind.PERMANENT)
    return Failure(
        kind=kind,
        error_class=error_class,
        http_status=status,
        code=told.code,
        message=_redirect(headers) if error_class == REDIRECTED else told.message or _phrase(status),
        retry_after_s=read_wait(headers, body, now=now),
        excerpt=messages.excerpt(body) or None,
        is_outage=status >= HTTPStatus.INTERNAL_SERVER_ERROR and not is_sure,
    )


def from_exception(
    operation: Operation, exception: BaseException, *, was_sent: bool | None = None
) -> Failure:
    """Classify a request that ended without an answer."""
    message = reason(exception)
    if not was_sent and proves_no_request(exception):
        return Failure(FailureKind.PERMANENT, REJECTED, message=message)
    if was_sent is None:
        was_sent = not proves_no_connection(exception)
    is_outage = is_fault_of_the_line(exception)
    if was_sent:
        kind = FailureKind.MAY_HAVE_ARRIVED if operation == "create" else FailureKind.TRANSIENT
        return Failure(kind, NO_ANSWER, message=message, is_outage=is_outage)
    if operation == "create" and not is_outage:
        return Failure(FailureKind.PERMANENT, REJECTED, message=message)
    cause = lasting(exception)
    return Failure(FailureKind.TRANSIENT, UNREACHABLE, message=message, is_outage=is_outage, cause=cause)


def not_built(exception: BaseException) -> Failure:
    """Classify a request that could not be made ready to be sent: whatever the reason, nothing arrived."""
    return Failure(FailureKind.PERMANENT, NOT_BUILT, message=reason(exception))


def from_task(task: Task) -> Failure:
    """Classify a task that failed."""
    told = task.error or ServiceMessage(None, None)
    meaning = ERROR_CODES[told.code].meaning if told.code in ERROR_CODES else "the service gave no reason"
    return Failure(
        FailureKind.PERMANENT,
        _class_of_ended(task, told),
        code=told.code,
        message=told.message or meaning,
        excerpt=task.excerpt,
    )


def is_unbilled_and_retryable(failure: Failure) -> bool:
    """Whether a new task is worth trying and the failed one cost nothing, as the service's table of codes has it."""
    if failure.error_class == UPSTREAM_ERROR:
        return _tells_of_busy_upstream(failure.message or "")
    return failure.error_class in (GENERATION_ERROR, CREATION_ERROR)


def _judge(
    operation: Operation, status: int, told: ServiceMessage, refusal: ServiceMessage | None
) -> tuple[FailureKind, str]:
    if operation != "download" and not _is_success(status) and _tells_of_no_credit(told):
        return FailureKind.STOP, NO_CREDIT
    if refusal is not None:
        return _judge_refusal(refusal)
    if operation == "fetch" and _is_not_found(status, told):
        return FailureKind.PERMANENT, TASK_NOT_FOUND
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return FailureKind.TRANSIENT, RATE_LIMITED
    if operation in ("create", "precharge") and not _is_success(status) and told.code in _REJECTIONS:
        return FailureKind.PERMANENT, REJECTED
    unsure = FailureKind.MAY_HAVE_ARRIVED if operation == "create" else FailureKind.TRANSIENT
    error_class = _class_of_unsure(status)
    return (unsure, error_class) if error_class else _judge_4xx(operation, status, told)


def _refusal(body: bytes, told: ServiceMessage) -> ServiceMessage | None:
    """Read an error that came with HTTP 200; "no credit" is one even without a code."""
    return messages.read_refusal(body) or (told if _tells_of_no_credit(told) else None)


def _judge_refusal(told: ServiceMessage) -> tuple[FailureKind, str]:
    """Judge an error that came with HTTP 200; one about the key concerns every row, not this one."""
    if _tells_of_no_credit(told):
        return FailureKind.STOP, NO_CREDIT
    number = messages.code_number(told.code)
    if number in STOP_STATUSES.value:
        return FailureKind.STOP, FORBIDDEN if number == HTTPStatus.FORBIDDEN else ACCESS_REFUSED
    return FailureKind.PERMANENT, _class_of(told, REJECTED)


def _judge_4xx(operation: Operation, status: int, told: ServiceMessage) -> tuple[FailureKind, str]:
    if status in STOP_STATUSES.value:
        error_class = FORBIDDEN if status == HTTPStatus.FORBIDDEN else ACCESS_REFUSED
        return (
            (FailureKind.PERMANENT, ACCESS_REFUSED)
            if operation == "download"
            else (FailureKind.STOP, error_class)
        )
    if operation == "fetch":
        return FailureKind.TRANSIENT, REJECTED
    if operation == "create" and status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        return FailureKind.STOP, NOT_OFFERED
    return FailureKind.PERMANENT, _class_of(told, REJECTED)


def _tells_of_no_credit(told: ServiceMessage) -> bool:
    if told.code in _REJECTIONS:
        return False  # it may quote the prompt
    is_code = messages.code_number(told.code) in NO_CREDIT_CODES.value
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
