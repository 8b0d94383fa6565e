"""Failures as values, and how answers, exceptions and tasks are turned into failures."""

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
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import SplitResult, urlsplit

import requests
import urllib3

from dreamo_batch.service import contract, messages
from dreamo_batch.service.messages import ServiceMessage, Task
from dreamo_batch.text import harmless

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


REJECTED: Final = "rejected"
MODERATION: Final = "moderation"
OUTPUT_REJECTED: Final = "output_rejected"
GENERATION_ERROR: Final = "generation_error"
UPSTREAM_ERROR: Final = "upstream_error"
UPSTREAM_BUSY: Final = "upstream_busy"
UPSTREAM_REFUSED: Final = "upstream_refused"
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

Operation = Literal["create", "fetch", "precharge", "download"]
LastingCause = Literal["certificate", "host", "proxy", "scheme"]


class FailureKind(enum.StrEnum):
    """What to do about a failure."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    STOP = "stop"
    MAY_HAVE_ARRIVED = "may_have_arrived"


# The most specific advice is shown: by cause, by class, or by kind.
_ADVICE: Final[dict[str, str]] = {
    "closed": "nothing was sent; make a new client",
    "certificate": "set REQUESTS_CA_BUNDLE or SSL_CERT_FILE to your network's CA bundle; check this machine's clock",
    "host": "check the base URL (DREAMO_BASE_URL), the network and its DNS, and the proxy set in HTTPS_PROXY, if any",
    "proxy": "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY; the proxy may need a user and password",
    "scheme": "check whether the base URL, and the proxy's, should begin with http:// or https://, and their ports",
    ACCESS_REFUSED: "check the API key, its permissions and the account's credit",
    FORBIDDEN: "a firewall may have blocked this prompt or picture, or the key lacks a permission",
    NO_CREDIT: "add credit to the account, then run again",
    NOT_OFFERED: "the service doesn't accept this kind of request; check the base URL and the model",
    RATE_LIMITED: "wait, then try again",
    UNREACHABLE: "nothing was sent; check the network, the proxy and the base URL",
    REDIRECTED: "redirects aren't followed; check the base URL",
    NOT_BUILT: "nothing was sent",
    MODERATION: "the prompt or picture was refused; change it",
    OUTPUT_REJECTED: "the finished picture was refused; try another seed",
    FailureKind.PERMANENT: "the same request will fail again",
    FailureKind.TRANSIENT: "try again later",
    FailureKind.STOP: "no row can be submitted until this is fixed",
    FailureKind.MAY_HAVE_ARRIVED: "it may have been accepted and billed; check before you send it again",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request or task.

    Attributes
    ----------
    kind : FailureKind
    error_class : str
        One word, as in the results.
    http_status : int or None
        None without an answer.
    code, message : str or None
        The service's, or the exception's words.
    retry_after_s : float or None
        How long the service asks to wait.
    excerpt : str or None
        Up to 2 kB of an answer that differs from the documentation.
    is_outage : bool
        Whether the service is down: a connection error, or 5xx.
    task_id : str or None
        Of a create whose answer broke off after the id; unproven, but where to look.
    is_task_in_doubt : bool
        Whether the id came with an error, so that the task may not exist.
    is_task_anyones : bool
        Whether the answer refuses or gives a reason, so that the task may be that of another create.
    cause : {'certificate', 'host', 'proxy', 'scheme'} or None
        Why the connection failed, if waiting doesn't help.

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
    is_task_in_doubt: bool = False
    is_task_anyones: bool = False
    cause: str | None = None

    def __str__(self) -> str:
        details = (
            f"HTTP {self.http_status}" if self.http_status is not None else "",
            f"code {self.code}" if self.code else "",
            f"task {self.task_id}" if self.task_id else "",
        )
        known = ", ".join(filter(None, details))
        advice = _ADVICE.get(self.cause or "") or _ADVICE.get(self.error_class) or _ADVICE[self.kind]
        head = f"{self.error_class} ({known})" if known else self.error_class
        return harmless(f"{head}: {self.message or 'no reason given'}; {advice}")


# Answers

_HTTP_STATUS: Final = re.compile(contract.HTTP_STATUS_IN_WORDS)
_OUTPUT_REJECTED: Final = re.compile(contract.OUTPUT_REJECTED_IN_WORDS)
_BUSY_CODE: Final = re.compile(contract.UPSTREAM_BUSY_IN_WORDS)
_NO_CREDIT: Final = re.compile(contract.NO_CREDIT_WORDS, re.IGNORECASE)
_ACCESS_REFUSED: Final = re.compile(contract.ACCESS_REFUSED_WORDS, re.IGNORECASE)
_NEEDS_HTTPS: Final = re.compile(contract.NEEDS_HTTPS_WORDS, re.IGNORECASE)
_HARMLESS: Final = re.compile(r"case\W?(in)?sensitive")
# A message may quote the prompt; words of Chinese, Japanese and Korean have no blanks around their quotes.
_LETTER: Final = r"[^\W\u3040-\u9fff\uac00-\ud7af]"
_QUOTED: Final = re.compile(
    rf"(?<!{_LETTER})(?:'.{{2,}}?'|\".{{2,}}?\"|\u201c.{{2,}}?\u201d|\u2018.{{2,}}?\u2019|`.{{2,}}?`)(?!{_LETTER})"
    "|\u300c.{2,}?\u300d|\u300e.{2,}?\u300f",
    re.DOTALL,
)
# The request wasn't passed on in either case.
_Verdict = tuple[FailureKind, str]  # and the class of the failure
_CLEAR: Final[dict[int, _Verdict]] = {
    HTTPStatus.TOO_MANY_REQUESTS: (FailureKind.TRANSIENT, RATE_LIMITED),
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: (FailureKind.STOP, UNREACHABLE),
}
PASSING: Final = frozenset({408, 425, 429, *range(500, 1000)})  # statuses that may change later
NOT_HERE: Final = (404, 405, 410, 421, 426)  # not found, another method, gone, misdirected, upgrade
# Documented codes of requests that were refused, so that nothing was submitted.
_REJECTIONS: Final = frozenset(
    code for code, row in contract.ERROR_CODES.items() if row.error_class == REJECTED
)
_REJECTION: Final = re.compile(rf"\b0*({'|'.join(code.lstrip('0') for code in _REJECTIONS)})\b", re.ASCII)
# Classes of tasks that failed unbilled where a new one may succeed, by the service's table of codes.
RETRYABLE: Final = (GENERATION_ERROR, CREATION_ERROR, UPSTREAM_BUSY)
# Classes whose messages may be about moderation; other documented codes are unambiguous.
_VAGUE_CLASSES: Final = (GENERATION_ERROR, UPSTREAM_ERROR, CREATION_ERROR)


def from_response(
    operation: Operation, status: int, headers: Mapping[str, str], body: bytes, *, now: float = 0.0
) -> Failure:
    """Classify an answer that isn't what was requested."""
    error = messages.read_error(body)
    kind, error_class = _judge(operation, status, error, body)
    is_sure, target = kind in (FailureKind.STOP, FailureKind.PERMANENT), _target(headers)
    # Nothing else may name the created task.
    where = f"; its Location is {target.path[:200]}" if operation == "create" and target.path else ""
    redirect = f"the service redirects to {target.netloc.rpartition('@')[2] or 'another path'}"
    message = redirect if error_class == REDIRECTED else error.message or _phrase(status, body)
    needs_https = "scheme" if error_class == NOT_OFFERED and _says(_NEEDS_HTTPS, error) else None
    return Failure(
        kind=kind,
        error_class=error_class,
        http_status=status,
        code=error.code,
        message=message + where,
        retry_after_s=read_wait(headers, body, now=now),
        excerpt=messages.excerpt(body) or None,
        is_outage=status >= HTTPStatus.INTERNAL_SERVER_ERROR and not is_sure,
        cause="proxy" if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else needs_https,
    )


def from_task(task: Task) -> Failure:
    """Classify a task that failed."""
    error = task.error or ServiceMessage(None, None)
    if task.is_completed_with_error:
        error_class = COMPLETED_WITH_ERROR
    else:
        error_class = NO_CREDIT if _says_no_credit(error) else _class_of(error, SERVICE_ERROR)
    known = contract.ERROR_CODES.get(error.code or "")
    return Failure(
        FailureKind.PERMANENT,
        error_class,
        code=error.code,
        message=error.message or (known.meaning if known else "the service gave no reason"),
        excerpt=task.excerpt,
    )


def _judge(operation: Operation, status: int, error: ServiceMessage, body: bytes) -> _Verdict:
    is_ok = is_success(status)
    is_no_credit = _says_no_credit(error)
    if operation != "download" and not is_ok and is_no_credit:
        return FailureKind.STOP, NO_CREDIT
    if operation == "create" and is_ok:
        is_refusal = (is_no_credit or _is_rejection(error)) and b'"id"' not in body  # else it may name a task
        refusal = messages.refusal_in(messages.load_leniently(body)) or (error if is_refusal else None)
        if refusal is not None:
            return _judge_refusal(refusal)
    says_missing = status < HTTPStatus.INTERNAL_SERVER_ERROR and messages.says_missing(error)
    if operation == "fetch" and (status == HTTPStatus.NOT_FOUND or says_missing):
        return FailureKind.PERMANENT, TASK_NOT_FOUND
    if status in _CLEAR:
        return _CLEAR[status]
    if operation in ("create", "precharge") and not is_ok and _is_rejection(error):
        return FailureKind.PERMANENT, REJECTED
    unclear = FailureKind.MAY_HAVE_ARRIVED if operation == "create" else FailureKind.TRANSIENT
    error_class = _class_if_unclear(status)
    if status not in contract.STOP_STATUSES.value and messages.says_unclear(error):
        error_class = error_class or SERVER_ERROR  # a gateway's 400 for a failure behind it
    return (unclear, error_class) if error_class else _judge_4xx(operation, status, error, body)


def _judge_refusal(error: ServiceMessage) -> _Verdict:
    """Judge an error sent with HTTP 200; errors about the key or the account concern every row."""
    if _says_no_credit(error):
        return FailureKind.STOP, NO_CREDIT
    if (number := messages.code_number(error.code)) in contract.STOP_STATUSES.value:
        return FailureKind.STOP, FORBIDDEN if number == HTTPStatus.FORBIDDEN else ACCESS_REFUSED
    if messages.says_unclear(error):
        return FailureKind.MAY_HAVE_ARRIVED, SERVER_ERROR
    return _judge_rejection("create", error)


def _judge_rejection(operation: Operation, error: ServiceMessage) -> _Verdict:
    """Judge a refusal, which may only mean that the request came too early."""
    is_busy = error.code not in _REJECTIONS and _BUSY_CODE.search(_QUOTED.sub("", error.message or ""))
    if operation == "create" and (is_busy or messages.says_busy(error)):
        return _CLEAR[HTTPStatus.TOO_MANY_REQUESTS]
    if operation != "download":
        code = messages.WORD_ENDS.sub(" ", error.code or "").lower()
        if re.fullmatch(contract.ACCESS_REFUSED_CODES, code) or _says(_ACCESS_REFUSED, error):
            return FailureKind.STOP, ACCESS_REFUSED
        if re.fullmatch(contract.NOT_OFFERED_CODES, code) or _says(_NEEDS_HTTPS, error):
            return FailureKind.STOP, NOT_OFFERED
    return FailureKind.PERMANENT, _class_of(error, REJECTED)


def _judge_4xx(operation: Operation, status: int, error: ServiceMessage, body: bytes) -> _Verdict:
    if status in contract.STOP_STATUSES.value:
        if operation == "download":
            return FailureKind.PERMANENT, ACCESS_REFUSED
        is_own = operation == "create" and status == HTTPStatus.FORBIDDEN and messages.load_leniently(body)
        moderated = _class_of(error, FORBIDDEN) if is_own and not _says(_ACCESS_REFUSED, error) else FORBIDDEN
        if moderated in (MODERATION, OUTPUT_REJECTED):  # not of a page, whose footer may speak of copyright
            return FailureKind.PERMANENT, moderated
        return FailureKind.STOP, FORBIDDEN if status == HTTPStatus.FORBIDDEN else ACCESS_REFUSED
    if operation == "fetch":
        return FailureKind.TRANSIENT, REJECTED
    if operation == "create" and status in NOT_HERE:
        return FailureKind.STOP, NOT_OFFERED
    return _judge_rejection(operation, error)


def _class_if_unclear(status: int) -> str | None:
    """Return the class of an answer that leaves open whether the request was accepted; None if it was refused."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return SERVER_ERROR
    if status in contract.UNCLEAR_STATUSES.value:
        return NO_ANSWER
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return UNREADABLE
    return REDIRECTED if status < HTTPStatus.BAD_REQUEST else None


def _class_of(error: ServiceMessage, otherwise: str) -> str:
    known = contract.ERROR_CODES.get(error.code or "")
    error_class = known.error_class if known else otherwise
    is_clear = known is not None and error_class not in _VAGUE_CLASSES
    code, words = error.code or "", _HARMLESS.sub("", (error.message or "").lower())
    is_code = code in contract.MODERATION_CODES.value or code.lstrip("0") in contract.MODERATION_WORDS
    if is_clear or not (is_code or any(word in words for word in contract.MODERATION_WORDS)):
        return _class_of_upstream(words) if error_class == UPSTREAM_ERROR else error_class
    return OUTPUT_REJECTED if _OUTPUT_REJECTED.search(f"{error.code} {error.message}") else MODERATION


def _class_of_upstream(words: str) -> str:
    """Return the class of an error of the upstream service, whose status only the message mentions."""
    status = _HTTP_STATUS.search(words)  # the first one counts
    if _BUSY_CODE.search(words) or (status is not None and (status[0] == "429" or status[0].startswith("5"))):
        return UPSTREAM_BUSY
    return UPSTREAM_ERROR if status is None else UPSTREAM_REFUSED


def _is_rejection(error: ServiceMessage) -> bool:
    """Return whether a documented code, in the code or the message, means that nothing was submitted."""
    is_told = error.code not in contract.ERROR_CODES and _REJECTION.search(error.message or "")
    return error.code in _REJECTIONS or bool(is_told)


def _says_no_credit(error: ServiceMessage) -> bool:
    return messages.code_number(error.code) in contract.NO_CREDIT_CODES.value or _says(_NO_CREDIT, error)


def _says(what: re.Pattern[str], error: ServiceMessage) -> bool:
    """Return whether a code or message matches a pattern about the account, ignoring quoted prompts."""
    words = (error.code or "", _QUOTED.sub("", error.message or ""))
    is_documented = error.code in _REJECTIONS  # it may quote the prompt in any way
    return not is_documented and any(what.search(messages.WORD_ENDS.sub(" ", text)) for text in words)


def is_success(status: int) -> bool:
    """Whether an HTTP status is a 2xx."""
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def _target(headers: Mapping[str, str]) -> SplitResult:
    """Return the target of a redirect; its query may be signed, and is never shown."""
    try:
        return urlsplit(next((value for name, value in headers.items() if name.lower() == "location"), ""))
    except ValueError:
        return urlsplit("")


def _phrase(status: int, body: bytes) -> str:
    """Return the standard phrase for a status, and the beginning of a body without a readable message."""
    phrase = http.client.responses.get(status, "unknown HTTP status")
    text = "the answer can't be read" if is_success(status) else phrase
    start = messages.excerpt(body)[:REASON_CHARACTERS_MAX].removeprefix("{}")
    return without_query(f"{text}: {start}").rstrip(": ")


# How long to wait

WAIT_MAX_S: Final = 24 * 3600.0
# Some services write a unit, and proxies join two headers with a comma.
_SECONDS: Final = re.compile(r"(?i)^\s*([0-9.]+)\s*(?:s(?:ec(?:ond)?s?)?)?\s*(?:,\s*[0-9.]+\s*)?$")
_WAIT_KEYS: Final = {"retryafter": 1, "retryafters": 1, "retryafterseconds": 1, "retryafterms": 1000}


def read_wait(headers: Mapping[str, str], body: bytes, *, now: float) -> float | None:
    """Return how many seconds an answer asks to wait; headers take precedence over the body."""
    lowered = {name.lower(): value for name, value in headers.items()}
    wait_ms = messages.number(lowered.get("retry-after-ms"))
    seconds = messages.number(_SECONDS.sub(r"\1", lowered.get("retry-after", "")))
    wait_s = seconds if wait_ms is None else wait_ms / 1000
    if wait_s is None and (until := _http_date(lowered.get("retry-after"))) is not None:
        wait_s = until - (_http_date(lowered.get("date")) or now)
    wait_s = _wait_in_body(body) if wait_s is None else wait_s
    return None if wait_s is None else min(max(wait_s, 0.0), WAIT_MAX_S)


def _http_date(value: str | None) -> float | None:
    try:
        return parsedate_to_datetime(value or "").timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _wait_in_body(body: bytes) -> float | None:
    for name, value in messages.fields_in(messages.load_leniently(body)):
        per_second = _WAIT_KEYS.get(messages.plain(name))
        if per_second and (wait := messages.number(value)) is not None:
            return wait / per_second
    return None


# Exceptions

REASON_CHARACTERS_MAX: Final = 300
_NEVER_BUILT: Final = (
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    urllib3.exceptions.LocationValueError,
    urllib3.exceptions.ProxySchemeUnsupported,
    http.client.InvalidURL,
    UnicodeEncodeError,
)
_CONNECTION_ERRORS: Final = (OSError, urllib3.exceptions.HTTPError, http.client.HTTPException)
_PASSING_TLS: Final = re.compile("UNEXPECTED_EOF.*|.*_INTERNAL_ERROR|.*BAD_RECORD_MAC|.*USER_CANCELLED")
# http.client reports the proxy's status only in words.
_REFUSED_BY_PROXY: Final = re.compile(r"Tunnel connection failed: 40[0-9]")
_MODULES: Final = re.compile(r"^(?:\w+\.)+(?=\w+(?::|$))")
# Links to pictures are signed: anyone with the query has the picture.
_PATH: Final = re.compile(r"/[^\s'\"<>]*+")


def from_exception(operation: Operation, exception: BaseException, *, was_sent: bool) -> Failure:
    """Classify a request that ended without an answer."""
    message = reason(exception)
    chain = list(_chain(exception))
    is_unbuilt = any(isinstance(cause, _NEVER_BUILT) for cause in chain)
    is_outage = isinstance(exception, _CONNECTION_ERRORS) and not is_unbuilt
    if was_sent:
        kind = FailureKind.MAY_HAVE_ARRIVED if operation == "create" else FailureKind.TRANSIENT
        cause = "scheme" if any(map(_is_other_protocol, chain)) else None
        return Failure(kind, NO_ANSWER, message=message, is_outage=is_outage, cause=cause)
    if is_unbuilt or (operation == "create" and not is_outage):
        return Failure(FailureKind.PERMANENT, REJECTED, message=message)
    cause = next(filter(None, map(_lasting_cause, chain)), None)
    return Failure(FailureKind.TRANSIENT, UNREACHABLE, message=message, is_outage=is_outage, cause=cause)


def not_built(exception: BaseException) -> Failure:
    """Classify a request that couldn't be prepared; whatever the reason, nothing was sent."""
    return Failure(FailureKind.PERMANENT, NOT_BUILT, message=reason(exception))


def reason(exception: BaseException) -> str:
    """Return the innermost exception in one line."""
    *_, innermost = _chain(exception)
    # Some exceptions of http.client fail in their own str(); the formatter handles that.
    words = " ".join(traceback.format_exception_only(innermost)[-1].split())
    return without_query(_MODULES.sub("", words))[:REASON_CHARACTERS_MAX]


def without_query(words: str) -> str:
    """Cut the query off every URL in a text."""
    return _PATH.sub(lambda found: re.sub(r"\?[^)]*", "", found[0]), words)


def _lasting_cause(exception: BaseException) -> LastingCause | None:
    """Return the cause of a failed connection if waiting doesn't help."""
    if isinstance(exception, ssl.SSLCertVerificationError):
        return "certificate"
    if isinstance(exception, socket.gaierror):
        return "host"
    tls = getattr(exception, "reason", None) if isinstance(exception, ssl.SSLError) else None
    if isinstance(tls, str) and not _PASSING_TLS.fullmatch(tls):
        return "scheme"
    is_refusal = type(exception) is OSError and _REFUSED_BY_PROXY.search(str(exception))
    # Before a request is sent, only a proxy can answer.
    return "proxy" if is_refusal or _is_other_protocol(exception) else None


def _is_other_protocol(exception: BaseException) -> bool:
    """Whether the answer isn't HTTP at all."""
    is_other = isinstance(exception, http.client.BadStatusLine | http.client.UnknownProtocol)
    return is_other and not isinstance(exception, http.client.RemoteDisconnected)


def _chain(exception: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those inside it, outermost first; libraries keep them in many attributes."""
    seen: set[int] = set()
    current: BaseException | None = exception
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        places = (
            getattr(current, "reason", None),
            getattr(current, "original_error", None),
            *current.args,
            current.__cause__,
            current.__context__,
        )
        current = next((value for value in places if isinstance(value, BaseException)), None)
