"""What failures mean: nothing that may have arrived is ever taken for something that did not."""

from __future__ import annotations

import builtins
import http.client
import inspect
import json
import socket
import ssl
import time
import zlib
from itertools import product
from types import SimpleNamespace

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch import errors
from dreamo_batch.service import failures
from dreamo_batch.service.contract import ERROR_CODES
from dreamo_batch.service.failures import Failure, FailureKind, from_exception, from_response, from_task
from dreamo_batch.service.messages import ServiceMessage, Task

OPERATIONS = ("create", "fetch", "precharge", "download")
MAY_HAVE_ARRIVED, PERMANENT, STOP, TRANSIENT = (
    FailureKind.MAY_HAVE_ARRIVED,
    FailureKind.PERMANENT,
    FailureKind.STOP,
    FailureKind.TRANSIENT,
)


# Answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kinds", "error_class"),
    [
        (200, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "unreadable"),
        (204, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "unreadable"),
        (101, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "unreadable"),
        (302, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "redirected"),
        (307, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "redirected"),
        (400, (PERMANENT, TRANSIENT, PERMANENT, PERMANENT), "rejected"),
        (401, (STOP, STOP, STOP, PERMANENT), "access_refused"),
        (402, (STOP, STOP, STOP, PERMANENT), "access_refused"),
        (408, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "no_answer"),
        (413, (PERMANENT, TRANSIENT, PERMANENT, PERMANENT), "rejected"),
        (422, (PERMANENT, TRANSIENT, PERMANENT, PERMANENT), "rejected"),
        (429, (TRANSIENT, TRANSIENT, TRANSIENT, TRANSIENT), "rate_limited"),
        (425, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "no_answer"),
        (498, (PERMANENT, TRANSIENT, PERMANENT, PERMANENT), "rejected"),
        (499, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "no_answer"),
        (500, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "server_error"),
        (502, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "server_error"),
        (503, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "server_error"),
        (599, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "server_error"),
        (999, (MAY_HAVE_ARRIVED, TRANSIENT, TRANSIENT, TRANSIENT), "server_error"),
    ],
)
def test_every_status_means_what_it_means_to_the_operation(status, kinds, error_class):
    """The table at the head of the module, for an answer without words."""
    judged = [from_response(operation, status, {}, b"") for operation in OPERATIONS]
    assert tuple(failure.kind for failure in judged) == kinds
    assert {failure.error_class for failure in judged} == {error_class}
    assert all(failure.is_outage == (status >= 500) for failure in judged)
    assert all(failure.http_status == status and failure.message for failure in judged)


_RATE_LIMITS = (
    b'{"code": 429, "message": "Too many requests"}',
    b'{"error": {"code": "50430", "error_message": "too many concurrent"}}',
    b'{"error": {"code": "TooManyRequests"}}',
    b'{"error": {"code": "RequestLimitExceeded", "message": "slow down"}}',
    b'{"error": {"type": "rate_limit_exceeded", "code": "rate_limit_exceeded", "message": "slow down"}}',
    b'{"status": {"code": 50429, "message": "Request Has Reached API Limit"}, "data": null}',
    b'{"error": {"code": "003011097", "error_message": "HTTP 400 Bad Request: 50429"}}',
)


@given(
    st.integers(100, 999),
    st.binary(max_size=30)
    | st.sampled_from([b'{"error": "no"}', b'{"id": "a", "error": {"code": 401}}', *_RATE_LIMITS]),
)
def test_only_a_rate_limit_makes_an_answered_create_transient(status, body):
    """HTTP 429, or its code in a refusal: a create is sent again for nothing else."""
    failure = from_response("create", status, {}, body)
    is_refusal = 200 <= status < 300 or (400 <= status < 500 and failure.kind is not MAY_HAVE_ARRIVED)
    is_told = body in _RATE_LIMITS and is_refusal and failure.kind is not STOP
    assert (failure.kind is TRANSIENT) == (status == 429 or is_told)
    assert (failure.error_class == "rate_limited") == (failure.kind is TRANSIENT)
    assert failure.kind is not PERMANENT or is_refusal


@pytest.mark.parametrize("status", [200, 400, 409, 422])
@pytest.mark.parametrize("body", _RATE_LIMITS)
def test_a_rate_limit_is_reported_by_its_code_at_any_status(status, body):
    """The row waits for its turn; a row's own refusal that quotes the number doesn't."""
    assert from_response("create", status, {}, body).error_class == "rate_limited"
    own = b'{"code": "003011003", "message": "Invalid prompt length: 50429"}'
    assert from_response("create", status, {}, own).kind is PERMANENT
    assert (
        from_response("create", status, {}, b'{"code": 1, "message": "no \'50429 foxes\'"}').kind
        is not TRANSIENT
    )


@pytest.mark.parametrize("status", [200, 400, 500, 503])
@pytest.mark.parametrize(
    "body",
    [b'{"message": "error 003011004: width"}', b"<h1>Error 3011002</h1>", "错误003011004宽度".encode()],
)
def test_a_documented_rejection_is_one_in_words_too(status, body):
    """Nothing was submitted; unless they explain another documented error, or the digits are of another number."""
    failure = from_response("create", status, {}, body)
    assert (failure.kind, failure.error_class) == (PERMANENT, "rejected")
    for other in (
        b'{"code": "003011098", "message": "was 003011004"}',
        b'{"message": "13011004 of 30110012"}',
        b'{"message": "request 9f3011004c failed"}',
    ):
        assert from_response("create", 500, {}, other).error_class != "rejected"


@pytest.mark.parametrize("status", [200, 400, 404, 409, 422])
def test_an_internal_error_in_a_body_may_have_arrived(status):
    """As with HTTP 500: the service doesn't say that it refused."""
    codes = (
        b"500",
        b'"503"',
        b"408",
        b"499",
        b"50500",
        b'"RequestTimeout"',
        b'"DEADLINE_EXCEEDED"',
        b'"internal_error"',
    )
    for code in codes:
        failure = from_response("create", status, {}, b'{"error": {"code": %s, "message": "oops"}}' % code)
        assert (failure.kind, failure.error_class) == (MAY_HAVE_ARRIVED, "server_error")


def test_a_create_that_is_not_found_stops_and_a_task_that_is_not_found_is_gone():
    """404 speaks of the path in the one case and of the task in the other."""
    assert from_response("create", 404, {}, b"").error_class == "not_offered"
    assert from_response("download", 404, {}, b"").error_class == "rejected"
    assert from_response("fetch", 404, {}, b"<html>").error_class == "task_not_found"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"message": "Task not found"}'),
        (400, b'{"error": {"code": "task_not_found", "message": ""}}'),
        (422, b'{"detail": "task abc does not exist"}'),
        (403, b'{"error": "Task Not Found"}'),
        (200, b'{"status": {"code": 404, "message": "Task not found"}, "data": null}'),
    ],
)
def test_a_lost_task_is_known_by_its_words(status, body):
    """The family answers it with several statuses."""
    failure = from_response("fetch", status, {}, body)
    assert (failure.kind, failure.error_class) == (PERMANENT, "task_not_found")
    assert from_response("create", status, {}, body).error_class != "task_not_found"


@pytest.mark.parametrize(
    ("body", "kind", "error_class", "code"),
    [
        ({"error": "no"}, PERMANENT, "rejected", None),
        ({"error": {"code": "003011001", "message": "m"}}, PERMANENT, "rejected", "003011001"),
        ({"error": {"code": 3011099, "message": "m"}}, PERMANENT, "creation_error", "003011099"),
        ({"error": {"code": 110001, "message": "m"}}, PERMANENT, "moderation", "000110001"),
        ({"error": {"code": 401, "message": "m"}}, STOP, "access_refused", "000000401"),
        ({"status": {"code": 403, "message": "m"}, "data": None}, STOP, "forbidden", "000000403"),
        ({"error": {"code": 429, "message": "m"}}, TRANSIENT, "rate_limited", "000000429"),
        ({"error": {"code": "\u00b2", "message": "m"}}, PERMANENT, "rejected", "\u00b2"),
    ],
)
def test_a_refusal_with_http_200_is_permanent_unless_its_code_says_otherwise(body, kind, error_class, code):
    """A bad key concerns every row, so that it must not fail them one by one."""
    failure = from_response("create", 200, {}, json.dumps(body).encode())
    assert (failure.kind, failure.error_class, failure.code) == (kind, error_class, code)


@pytest.mark.parametrize(
    ("code", "message", "error_class"),
    [
        ("003011004", "Invalid parameter: names are case-sensitive", "rejected"),
        ("003011095", "Pre Img Risk Not Pass", "moderation"),
        (None, "input image may contain sensitive information", "moderation"),
        ("50411", "m", "moderation"),
        ("50511", "m", "output_rejected"),
        ("003011097", "HTTP 400: Post Img Risk Not Pass, code 50511", "output_rejected"),
        ("003011095", "upstream 50519", "output_rejected"),
        ("003011095", "upstream 150511 of 2050511", "moderation"),
        ("E1", "m", "rejected"),
    ],
)
def test_moderation_is_distinguished_from_other_rejections(code, message, error_class):
    """By code or words, but not for codes that mean something else."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    assert from_response("create", 400, {}, body).error_class == error_class


@pytest.mark.parametrize(
    ("location", "named", "path"),
    [
        ("https://me:pw@other.example/a?token=secret", "other.example", "/a"),
        ("/task/cq0example?token=secret", "another path", "/task/cq0example"),
        ("http://[", "another path", None),
        (None, "another path", None),
    ],
)
def test_a_redirect_is_named_by_its_host_alone(location, named, path):
    """Its query may be signed; the path that answers a create is kept, because it may name a task."""
    headers = {} if location is None else {"location": location}
    failure = from_response("create", 307, headers, b"")
    assert named in failure.message
    for answer in (failure, from_response("create", 202, headers, b'{"ok": true}')):
        assert answer.message.partition("; its Location is ")[2] == (path or "")
    assert "Location" not in from_response("fetch", 307, headers, b"").message
    assert "secret" not in str(failure)
    assert "pw" not in str(failure)


def test_a_failure_reads_as_a_sentence():
    """What happened, where, why, and what to do."""
    failure = from_response("create", 401, {}, b'{"error": {"code": "E1", "message": "bad key"}}')
    assert str(failure) == (
        "access_refused (HTTP 401, code E1): bad key; check the API key, its permissions and the account's credit"
    )
    assert "check before you send it again" in str(from_response("create", 500, {}, b""))
    assert str(Failure(TRANSIENT, "no_answer", task_id="a")) == (
        "no_answer (task a): no reason given; try again later"
    )


# Waiting times -------------------------------------------------------------------------------------------------

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"Retry-After": "12"}, b"", 12.0),
        ({"retry-after": " 1.5 "}, b"", 1.5),
        ({"RETRY-AFTER": "-3"}, b"", 0.0),
        ({"Retry-After": "1e9"}, b"", 86400.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}, b"", 30.0),
        ({"Retry-After": "Tuesday, 14-Nov-23 22:13:50 GMT"}, b"", 30.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:00 GMT"}, b"", 0.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT", "Date": "Tue, 14 Nov 2023 22:13:48 GMT"}, b"", 2.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT", "Date": "today"}, b"", 30.0),
        ({"Retry-After": "soon"}, b"", None),
        ({"Retry-After-Ms": "1500", "Retry-After": "2"}, b"", 1.5),
        ({"retry-after-ms": "soon", "Retry-After": "2"}, b"", 2.0),
        ({"Retry-After": "nan"}, b"", None),
        ({"Retry-After": "Tue, 99 Nov 99999 22:13:50 GMT"}, b"", None),
        ({"Retry-After": ""}, b'{"retry_after": 3}', 3.0),
        ({"Retry-After": "4"}, b'{"retry_after": 3}', 4.0),
        ({}, b'{"error": {"retryAfter": "2.5"}}', 2.5),
        ({}, b'{"detail": {"retry-after": 2}}', 2.0),
        ({}, b'{"data": {"retry_after_ms": 1500}, "error": {}}', 1.5),
        ({}, b'{"status": {"retry_after_seconds": 0}}', 0.0),
        ({}, b'{"error": {"details": [{"retryAfterSeconds": "31"}]}}', 31.0),
        ({}, b'{"retry_after": true}', None),
        ({}, b'{"retry_after": null, "error": "slow down"}', None),
        ({}, b"<html>", None),
        ({}, b"", None),
    ],
)
def test_waiting_times_are_read_wherever_they_stand(headers, body, expected):
    """Seconds or a date in the header, by the service's own clock if it tells it; or a number in the body."""
    assert failures.read_wait(headers, body, now=NOW) == expected
    assert from_response("create", 429, headers, body, now=NOW).retry_after_s == expected


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_makes_reading_a_waiting_time_crash(wait, date):
    """Whatever stands there gives a bounded number or nothing."""
    wait_s = failures.read_wait({"Retry-After": wait, "Date": date}, b"", now=NOW)
    assert wait_s is None or 0 <= wait_s <= 86400


# Tasks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ERROR_CODES)
def test_a_failed_task_has_the_class_of_its_code(code):
    """The table of codes decides."""
    failure = from_task(Task("a", "failed", error=ServiceMessage(code, None)))
    assert (failure.kind, failure.error_class) == (PERMANENT, ERROR_CODES[code].error_class)
    assert failure.message == ERROR_CODES[code].meaning


def test_a_failed_task_without_a_known_code_is_a_service_error():
    """With what words there are, and the excerpt."""
    assert from_task(Task("a", "failed", error=ServiceMessage("E1", "m"))).error_class == "service_error"
    failure = from_task(Task("a", "failed", excerpt="{}"))
    assert (failure.error_class, failure.message, failure.excerpt) == (
        "service_error",
        "the service gave no reason",
        "{}",
    )


def is_sent_anew(failure: failures.Failure) -> bool:
    """Whether a task that failed so is worth another."""
    return failure.error_class in failures.RETRYABLE


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("003011095", "Internal generation error", True),
        ("003011095", "Post Img Risk Not Pass", False),
        ("003011099", "Task creation error", True),
        ("003011099", "upstream 50412: copyright", False),
        ("003011096", "Result parsing error", False),
        ("003011098", "Status check error", False),
        ("003011001", "Missing prompt", False),
        ("003011097", "HTTP error response", False),
        ("003011097", "HTTP 429 Too Many Requests", True),
        ("003011097", "status code: 503", True),
        ("003011097", "status=400 retry in 500 ms", False),
        ("003011097", "upstream code 50429", True),
        ("003011097", "upstream code 50430", True),
        ("003011097", "upstream code 50411", False),
        ("003011097", "took 4290 ms", False),
        ("003011097", "503: sensitive content", False),
        ("000110001", "x", False),
        (None, "HTTP 503", False),
    ],
)
def test_only_what_the_table_calls_unbilled_is_worth_another_task(code, message, expected):
    """095 and 099 but for moderation, 097 by its text."""
    task = Task("a", "failed", error=ServiceMessage(code, message))
    assert is_sent_anew(from_task(task)) is expected


@pytest.mark.parametrize("code", ERROR_CODES)
def test_completed_with_an_error_is_never_submitted_again_by_itself(code):
    """The picture may have been made and billed."""
    error = ServiceMessage(code, "HTTP 503")
    failure = from_task(Task("a", "failed", error=error, is_completed_with_error=True))
    assert failure.error_class == "completed_with_error"
    assert not is_sent_anew(failure)


NO_CREDIT = [
    {"error": {"code": "insufficient_quota", "message": "m"}},
    {"error": {"code": "InsufficientBalance", "message": "account balance is not enough"}},
    {"code": 40201, "message": "m", "data": None},
    {"status": {"code": 40208, "message": "m"}, "data": None},
    {"message": "Insufficient credits"},
    {"detail": "Your account balance is insufficient."},
    {"error": "You exceeded your current quota, please check your plan"},
    {"error": {"message": "not enough credits"}},
    {"message": "\u4f59\u989d\u4e0d\u8db3"},
    {"error": {"code": "InsufficientBalanceError", "message": "m"}},
    {"error": "Insufficient  user\nbalance"},
    {"detail": "Your credits have run out"},
    {"error": "You do not have sufficient funds"},
    {"detail": "User is locked. Reason: Exhausted balance."},
    {"message": "Payment method required"},
]


@pytest.mark.parametrize("status", [200, 400, 402, 403, 404, 429, 500])
@pytest.mark.parametrize("body", NO_CREDIT)
def test_no_credit_said_in_any_way_stops(status, body):
    """It is the account's, whatever the status, and nothing was taken."""
    failure = from_response("create", status, {}, json.dumps(body).encode())
    assert (failure.kind, failure.error_class, failure.is_outage) == (STOP, "no_credit", False)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, {"message": "quota of requests per minute reached"}),
        (400, {"message": "the balance of colours is off"}),
        (400, {"message": "no credit card in the picture, no white balance"}),
        (400, {"error": {"code": "003011004", "message": "bad prompt 'insufficient balance'"}}),
        (500, {"message": "insufficient memory"}),
    ],
)
def test_other_words_are_no_lack_of_credit(status, body):
    """A row or a rate must not stop the run."""
    assert from_response("create", status, {}, json.dumps(body).encode()).error_class != "no_credit"


@pytest.mark.parametrize("end", ['"id": "b"}', '"i'], ids=["two-ids", "cut-off"])
def test_an_unreadable_answer_that_names_a_task_is_no_refusal(end):
    """Whatever words are in it."""
    body = f'{{"id": "a", "message": "insufficient balance for more", {end}'.encode()
    failure = from_response("create", 200, {}, body)
    assert (failure.kind, failure.error_class) == (MAY_HAVE_ARRIVED, "unreadable")


def test_a_task_that_failed_for_lack_of_credit_is_not_submitted_again_by_itself():
    """It would fail again."""
    failure = from_task(Task("a", "failed", error=ServiceMessage("003011099", "insufficient balance")))
    assert failure.error_class == "no_credit"
    assert not is_sent_anew(failure)


@pytest.mark.parametrize("status", [404, 405])
def test_a_create_to_a_wrong_address_stops(status):
    """It is the whole run's, not the row's."""
    failure = from_response("create", status, {}, b'{"detail": "App not found: spark"}')
    assert (failure.kind, failure.error_class, failure.message) == (
        STOP,
        "not_offered",
        "App not found: spark",
    )


@pytest.mark.parametrize(
    "page",
    [
        b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<title>400 Bad Request</title><p>Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
        b"Bad Request\r\nThis combination of host and port requires TLS.\r\n",
        b"The client sent a plain HTTP request, but this server only speaks HTTPS on this port.",
    ],
    ids=["nginx", "go", "apache", "tomcat", "cherrypy"],
)
def test_plain_http_to_a_port_for_https_fails_no_row(page):
    """Web servers answer it with 400, which is otherwise one row's."""
    failure = from_response("create", 400, {}, page)
    assert (failure.kind, failure.error_class) == (STOP, "not_offered")
    assert "begin with http:// or https://" in str(failure)
    quoted = b'{"message": "refused: \'a plain HTTP request was sent to HTTPS port\'"}'
    assert from_response("create", 400, {}, quoted).kind is FailureKind.PERMANENT


def test_a_page_gives_its_title_and_its_reason():
    """Either may say that it is about the account, and not about a row."""
    page = b"<title>Insufficient credit</title><p>Reason: see policy 7<br>"
    failure = from_response("create", 400, {}, page)
    assert (failure.kind, failure.error_class) == (STOP, "no_credit")
    assert failure.message == "Insufficient credit see policy 7"


def test_a_403_has_a_class_of_its_own():
    """It may be about one prompt; a link's is not."""
    assert [from_response(operation, 403, {}, b"").error_class for operation in OPERATIONS] == [
        *["forbidden"] * 3,
        "access_refused",
    ]


@pytest.mark.parametrize("code", ["003011001", "003011002", "003011003", "003011004", 3011004])
@pytest.mark.parametrize("status", [408, 500, 502, 503])
def test_a_documented_rejection_is_one_at_any_status(status, code):
    """Nothing was submitted, so the row is not in doubt."""
    failure = from_response("create", status, {}, json.dumps({"error": {"code": code}}).encode())
    assert (failure.kind, failure.error_class, failure.is_outage) == (PERMANENT, "rejected", False)
    vague = from_response("create", status, {}, b'{"error": {"code": "003011095"}}')
    assert vague.kind is MAY_HAVE_ARRIVED


@pytest.mark.parametrize("words", ["HTTP 400 from upstream: 50429", "code 50430"])
def test_upstream_busy_codes_count_beside_an_http_status(words):
    """50429 and 50430 are rate limits."""
    assert is_sent_anew(from_task(Task("a", "failed", error=ServiceMessage("003011097", words))))


# Exceptions ----------------------------------------------------------------------------------------------------

WORDS = "what happened"
ARGUMENTS = (
    (WORDS,),
    (None, WORDS),
    (None, None, WORDS),
    (WORDS, OSError(WORDS)),
    (WORDS, "", 0),
    (SimpleNamespace(tell=lambda: 3, length_remaining=5), b"zz"),
    ("utf-8", b"x", 0, 1, WORDS),
    ("utf-8", "x", 0, 1, WORDS),
    ("x", 0, 1, WORDS),
    (WORDS, None, OSError(WORDS)),
    (),
)


def exception_classes() -> list[type[Exception]]:
    modules = (
        requests.exceptions,
        urllib3.exceptions,
        http.client,
        ssl,
        socket,
        zlib,
        builtins,
        errors,
        json,
    )
    found = {one for module in modules for _, one in inspect.getmembers(module, inspect.isclass)}
    groups = (Warning, BaseExceptionGroup)
    return sorted(
        (one for one in found if issubclass(one, Exception) and not issubclass(one, groups)),
        key=lambda one: f"{one.__module__}.{one.__qualname__}",
    )


def made(exception_class: type[Exception]) -> Exception:
    """Make one with the first arguments that it accepts."""
    first = ((3, 5),) if exception_class is urllib3.exceptions.IncompleteRead else ()
    for arguments in first + ARGUMENTS:
        try:
            return exception_class(*arguments)
        except (TypeError, AttributeError):
            continue
    raise AssertionError(f"{exception_class} can't be made; add its arguments")


def wrapped(exception: Exception) -> list[Exception]:
    """Wrap it as requests and urllib3 do."""
    caused = requests.exceptions.ConnectionError("Connection aborted")
    caused.__cause__ = exception
    return [
        exception,
        requests.exceptions.ConnectionError(urllib3.exceptions.MaxRetryError(None, "/", exception)),
        requests.exceptions.ConnectionError(
            urllib3.exceptions.ProtocolError("Connection aborted.", exception)
        ),
        requests.exceptions.ProxyError(
            urllib3.exceptions.MaxRetryError(None, "/", urllib3.exceptions.ProxyError("Unable", exception))
        ),
        caused,
    ]


CLASSES = exception_classes()
# What can't be raised once the connection stands.
NEVER_CONNECTED = {
    "ConnectTimeout",
    "ConnectTimeoutError",
    "NewConnectionError",
    "NameResolutionError",
    "gaierror",
    "ConnectionRefusedError",
    "SSLCertVerificationError",
}
NEVER_BUILT = {
    "InvalidSchema",
    "InvalidURL",
    "InvalidProxyURL",
    "LocationValueError",
    "LocationParseError",
    "URLSchemeUnknown",
    "ProxySchemeUnknown",
    "ProxySchemeUnsupported",
    "UnicodeEncodeError",
}


def test_the_classes_that_are_looked_at_are_all_there_are():
    """Every module that an exception of a request can come from is in the list."""
    names = {one.__module__.partition(".")[0] for one in CLASSES}
    assert {"requests", "urllib3", "http", "ssl", "socket", "zlib", "builtins", "json"} <= names
    assert len(CLASSES) > 120
    assert {one.__name__ for one in CLASSES} >= NEVER_CONNECTED | NEVER_BUILT


@pytest.mark.parametrize("exception_class", CLASSES, ids=lambda one: f"{one.__module__}.{one.__qualname__}")
def test_every_exception_is_a_failure_of_the_right_kind(exception_class):
    """For every operation, bare and wrapped, before and after the request went out."""
    name = exception_class.__name__
    for exception, operation in product(wrapped(made(exception_class)), OPERATIONS):
        before = from_exception(operation, exception, was_sent=False)
        after = from_exception(operation, exception, was_sent=True)
        assert after.kind is (MAY_HAVE_ARRIVED if operation == "create" else TRANSIENT)
        assert before.kind in (TRANSIENT, PERMANENT)
        if name in NEVER_BUILT:
            assert before.kind is PERMANENT
        if name in NEVER_CONNECTED:
            assert (before.kind, before.error_class) == (TRANSIENT, "unreachable")
        for failure in (before, after):
            assert failure.http_status is None
            assert failure.message
            assert len(failure.message) <= 300


@pytest.mark.parametrize("exception_class", [one for one in CLASSES if issubclass(one, OSError)])
def test_faults_of_the_line_before_sending_are_transient(exception_class):
    """DNS, refused connections, proxies and handshakes: nothing arrived, so it can be sent again."""
    if exception_class.__name__ not in NEVER_BUILT:
        failure = from_exception("create", made(exception_class), was_sent=False)
        assert (failure.kind, failure.error_class, failure.is_outage) == (TRANSIENT, "unreachable", True)


@pytest.mark.parametrize(
    "error", [TypeError("t"), ValueError("v"), UnicodeError("u"), KeyError("k"), MemoryError()]
)
def test_a_create_that_can_not_be_built_is_permanent_and_one_that_breaks_later_may_have_arrived(error):
    """What nobody foresaw is never transient."""
    assert from_exception("create", error, was_sent=False).kind is PERMANENT
    assert from_exception("create", error, was_sent=True).kind is MAY_HAVE_ARRIVED
    assert not from_exception("create", error, was_sent=True).is_outage


def test_a_chain_that_bites_its_tail_is_read_once():
    """Exceptions can be each other's context."""
    one, other = OSError("one"), OSError("other")
    one.__cause__, other.__cause__ = other, one
    assert failures.reason(one) == "OSError: other"


def test_reasons_hide_the_query_of_every_link():
    """Who has the query of a signed link has the picture."""
    words = "HTTPSConnectionPool(host='o.example'): Max retries exceeded with url: /a.png?sig=s3cret (Caused by x)"
    assert "s3cret" not in failures.reason(OSError(words))
    assert "/a.png (Caused by x)" in failures.reason(OSError(words))
    links = "[a](https://h.example/a.png?sig=1),[b](https://h.example/b.png?sig=2)"
    assert "sig" not in failures.without_query(links)
    assert failures.without_query("why? see https://o.example/?a=1&b=2 and '/x?y'") == (
        "why? see https://o.example/ and '/x'"
    )


def _ssl_error(reason):
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("inner", "cause", "words"),
    [
        (
            ssl.SSLCertVerificationError(1, "self-signed"),
            "certificate",
            "REQUESTS_CA_BUNDLE or SSL_CERT_FILE",
        ),
        (socket.gaierror(-2, "Name or service not known"), "host", "base URL"),
        (OSError("Tunnel connection failed: 407 Proxy Authentication Required"), "proxy", "HTTPS_PROXY"),
        (OSError("Tunnel connection failed: 403 Forbidden"), "proxy", "HTTPS_PROXY"),
        (_ssl_error("WRONG_VERSION_NUMBER"), "scheme", "http:// or https://"),
        (http.client.BadStatusLine("SSH-2.0-OpenSSH_9.0"), "proxy", "HTTPS_PROXY"),
        (_ssl_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), "scheme", "and the proxy's"),
        (_ssl_error("TLSV1_ALERT_PROTOCOL_VERSION"), "scheme", "base URL"),
        (_ssl_error("UNSAFE_LEGACY_RENEGOTIATION_DISABLED"), "scheme", "base URL"),
        (ConnectionRefusedError(), None, "check the network"),
        (_ssl_error("TLSV1_ALERT_INTERNAL_ERROR"), None, "check the network"),
        (_ssl_error("UNEXPECTED_EOF_WHILE_READING"), None, "check the network"),
        (ssl.SSLError("timed out"), None, "check the network"),
    ],
)
def test_what_waiting_does_not_mend_is_reported_with_what_to_set(inner, cause, words):
    """However deep it is wrapped; the service's absence is none of it."""
    failure = failures.from_exception("create", requests.ConnectionError(inner), was_sent=False)
    assert (failure.kind, failure.cause) == (TRANSIENT, cause)
    assert words in str(failure)


def test_what_does_not_speak_http_is_a_wrong_address():
    """Unlike a service that hangs up; the create may have arrived all the same."""
    other, hung_up = (
        failures.from_exception("create", error, was_sent=True)
        for error in (http.client.BadStatusLine("220 smtp"), http.client.RemoteDisconnected("closed"))
    )
    assert (other.kind, other.cause, hung_up.cause) == (FailureKind.MAY_HAVE_ARRIVED, "scheme", None)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"type": "insufficient_quota", "code": None, "message": "quota"}},
        {"message": "The account does not have enough balance"},
        {"message": "You don't have enough credits"},
        {"message": "Billing hard limit has been reached"},
        {"message": "Monthly spending limit reached"},
        {"message": "Please top up your account"},
        {"errors": [{"message": "Insufficient credits"}]},
        *(
            {"message": words}
            for words in ("餘額不足", "額度已用完", "资源包已耗尽", "請先儲值", "请尽快充值")
        ),
        *(
            {"message": words}
            for words in ("Free tier exhausted", "your trial has expired", "unpaid invoice")
        ),
    ],
)
@pytest.mark.parametrize("status", [400, 403, 429])
def test_no_credit_is_the_accounts_however_it_is_said(status, body):
    """Also as a type, in a list, and with a rate limit's status."""
    failure = from_response("create", status, {}, json.dumps(body).encode())
    assert (failure.kind, failure.error_class) == (FailureKind.STOP, "no_credit")


@pytest.mark.parametrize(
    ("body", "error_class"),
    [
        ({"error": {"code": "invalid_api_key", "message": "m"}}, "access_refused"),
        ({"error": {"code": 400, "message": "API key not valid. Pass a valid API key."}}, "access_refused"),
        ({"error": {"type": "authentication_error", "message": "m"}}, "access_refused"),
        ({"code": "Unauthorized", "message": "m"}, "access_refused"),
        ({"message": "Your account has been suspended"}, "access_refused"),
        ({"message": "密钥已过期"}, "access_refused"),
        ({"message": "账号已被冻结"}, "access_refused"),
        ({"error": {"code": "model_not_found", "message": "m"}}, "not_offered"),
        ({"code": "InvalidModel", "message": "m"}, "not_offered"),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_key_or_model_stops_also_with_the_status_of_a_bad_row(status, body, error_class):
    """It is the whole run's: otherwise every row of the table would fail."""
    failure = from_response("create", status, {}, json.dumps(body).encode())
    assert (failure.kind, failure.error_class) == (STOP, error_class)


@pytest.mark.parametrize("status", [400, 403, 422, 429, 503])
@pytest.mark.parametrize(
    "body",
    [
        {"errors": ["too dark"]},
        {"id": "9160aa70", "name": "bad_request", "errors": ["too dark"]},
        {"errors": {"image": ["too dark"]}},
        {"error_code": 216015, "error_msg": "too dark"},
        {"errcode": 45009, "errmsg": "too dark"},
        {"Code": "ImageError", "Message": "too dark", "RequestId": "x"},
        {
            "ResponseMetadata": {
                "RequestId": "x",
                "Error": {"CodeN": 1, "Code": "ImageError", "Message": "too dark"},
            }
        },
        {"task_id": "", "base_resp": {"status_code": 2013, "status_msg": "too dark"}},
        {"code": 24, "description": "too dark"},
        {"title": "too dark", "status": 400},
        {"error": "invalid_image", "error_description": "too dark"},
        {"errorMessage": "too dark"},
        {"whatever": [["too dark"]]},
    ],
)
def test_the_words_of_an_error_are_never_lost(status, body):
    """However they are named and nested, as services elsewhere write them; or the beginning of the answer is shown."""
    assert "too dark" in from_response("create", status, {}, json.dumps(body).encode()).message


def test_the_words_of_an_error_are_those_about_it():
    """Not those of the request that it repeats, and no request's address."""
    body = {"code": 400, "input": [{"params": {"title": "a fox"}}], "inner": {"message": "too dark"}}
    assert from_response("create", 400, {}, json.dumps(body).encode()).message == "too dark"
    assert from_response("create", 400, {}, b'{"at": "https://o.example/a?sig=1"}').message == (
        'Bad Request: {"at": "https://o.example/a"}'
    )


def test_a_lack_of_credit_is_seen_however_it_is_nested():
    for status in (200, 400, 403):
        body = json.dumps(
            {"task_id": "", "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}
        )
        failure = from_response("create", status, {}, body.encode())
        assert (failure.kind, failure.error_class) == (STOP, "no_credit")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Your request was flagged by our content moderation system", (PERMANENT, "moderation")),
        ("Input data may contain inappropriate content.", (PERMANENT, "moderation")),
        ("50511: Output Image Risk Not Pass", (PERMANENT, "output_rejected")),
        ("Your account has been suspended: sensitive content", (STOP, "forbidden")),
        ("not allowed", (STOP, "forbidden")),
        ("invalid token; tokens are case-sensitive", (STOP, "forbidden")),
        ("names are case insensitive, and sensitive content was found", (PERMANENT, "moderation")),
    ],
)
def test_a_403_that_tells_of_moderation_is_about_its_row(words, expected):
    """Otherwise the rows that nothing else is left of would never be settled."""
    body = json.dumps({"name": "content_moderation", "errors": [words]}).encode()
    failure = from_response("create", 403, {}, body)
    assert (failure.kind, failure.error_class) == expected
    assert from_response("fetch", 403, {}, body).kind is STOP


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, b'{"message": "Authentication failed; the names of headers are case sensitive"}'),
        (402, b'{"message": "Pay, or see our content policy"}'),
        (403, b"<html><body>Access denied<footer>&copy; Copyright 2024 Example Corp</footer></body></html>"),
        (403, b"Blocked as inappropriate content by your organisation's web filter"),
    ],
)
def test_a_key_that_is_refused_and_a_page_that_blocks_are_never_about_a_row(status, body):
    """All rows would be failed, one after another."""
    assert from_response("create", status, {}, body).kind is STOP


@pytest.mark.parametrize(
    "words",
    [
        "no human model found in the picture",
        "unauthorized use of a celebrity's face",
        "bad prompt 'invalid api key'",
        "提示词不合规: 充值卡",
        "提示词“余额不足”不合规",
        "提示词\u2018余额不足\u2019不合规",
        "提示词'余额不足'不合规",
        "プロンプト「账号已被冻结」は使えません",
        "提示詞『密鑰無效』違規",
        "the prompt isn't allowed: hands-free over the bridge",
        "the prompt isn't allowed: court trial over a stolen horse",
        "the prompt isn't allowed: an accountant suspended from a crane",
    ],
)
def test_words_about_a_picture_refuse_its_row_alone(words):
    """They stop no other row."""
    assert from_response("create", 400, {}, json.dumps({"message": words}).encode()).kind is PERMANENT


@pytest.mark.parametrize(
    "words",
    [
        "输入文本包含敏感信息",
        "圖片違規",
        "审核未通过",
        "potential NSFW content",
        "against our content policy",
    ],
)
def test_moderation_in_other_words_is_not_submitted_again_by_itself(words):
    """As in English."""
    failure = from_task(Task("a", "failed", error=ServiceMessage("003011095", words)))
    assert failure.error_class == "moderation"
    assert not is_sent_anew(failure)


def test_a_quoted_prompt_says_nothing_about_the_credit():
    """The row is refused, and not the account."""
    said = b'{"message": "invalid prompt: \'a man with no balance\', it isn\'t allowed"}'
    assert from_response("create", 400, {}, said).kind is FailureKind.PERMANENT


@pytest.mark.parametrize(
    ("status", "error_class"),
    [(407, "unreachable"), (410, "not_offered"), (421, "not_offered"), (426, "not_offered")],
)
def test_what_stands_between_fails_no_row(status, error_class):
    """A proxy that wants a password, an address that is gone: nothing was submitted."""
    failure = from_response("create", status, {}, b"<html>")
    assert (failure.kind, failure.error_class) == (FailureKind.STOP, error_class)
    assert ("HTTPS_PROXY" in str(failure)) == (status == 407)


@pytest.mark.parametrize(
    ("value", "wait_s"), [("120s", 120), ("5, 5", 5), (" 2.5 seconds ", 2.5), ("soon", None)]
)
def test_a_wait_may_carry_a_unit_or_come_twice(value, wait_s):
    """Proxies join two headers of one name with a comma."""
    assert failures.read_wait({"Retry-After": value}, b"", now=0) == wait_s


def test_a_long_status_line_is_shown_at_once():
    """No other thread runs while a pattern is searched, so it may not take long for any text."""
    began_at = time.process_time()
    line = "/" * 65_000
    assert (
        failures.reason(http.client.BadStatusLine(line))
        == f"BadStatusLine: {line}"[: failures.REASON_CHARACTERS_MAX]
    )
    assert time.process_time() - began_at < 5
