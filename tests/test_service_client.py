"""The client over a real socket: one method, one request, and every answer read for what it is."""

from __future__ import annotations

import gzip
import json
import threading
import time
from types import SimpleNamespace

import pytest

from dreamo_batch import errors
from dreamo_batch.service import messages, transport
from dreamo_batch.service.client import Client
from dreamo_batch.service.config import Secret, Settings
from dreamo_batch.service.failures import FailureKind
from tests.scripted_server import CREATED, ScriptedServer, answer, bomb, close, reset, then

KEY = "sk-example-key"
ID = "cq0example"
REQUEST = messages.Request(
    "a red fox", 7, 1328, 1328, use_rephraser=True, image_url="https://x.example/a.png"
)
DONE = json.dumps(
    {
        "id": ID,
        "status": "completed",
        "output": [{"content": [{"url": "https://o.example/a.png"}]}],
        "usage": {"cost": "1"},
    }
).encode()
RUNNING = json.dumps({"id": ID, "status": "in_progress"}).encode()


@pytest.fixture
def server():
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def client(server):
    with Client(KEY, server.url, connect_timeout_s=2, read_timeout_s=2) as opened:
        yield opened


def ask(client, operation):
    return {
        "create": lambda: client.create(REQUEST),
        "fetch": lambda: client.fetch(ID),
        "precharge": lambda: client.precharge(REQUEST),
    }[operation]()


def failure_of(client, operation):
    with pytest.raises(errors.ServiceError) as caught:
        ask(client, operation)
    return caught.value.failure


def test_a_create_is_one_post_with_the_key_in_its_header(server, client):
    """As documented: path, bearer key, JSON body; and the answer is the id."""
    assert client.create(REQUEST) == ID
    [request] = server.requests
    assert request.line == "POST /model/v1/generation HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.body == b"".join(messages.pieces_of(REQUEST))


def test_a_fetch_is_one_get_and_quotes_the_id(server, client):
    """An id is a piece of a path, whatever it holds."""
    server.script[:] = [answer(b'{"status": "in_progress"}')]
    assert client.fetch("a/b?c#d%e").status == "in_progress"
    [request] = server.requests
    assert request.line == "GET /model/v1/generation/task/a%2Fb%3Fc%23d%25e HTTP/1.1"
    assert "content-length" not in request.headers


def test_an_answer_about_another_task_is_none(server, client):
    """Asked again it may be the right one; both ids are named."""
    server.script[:] = [
        answer(b'{"id": "cq0other", "status": "completed", "output": ["https://o.example/a"]}')
    ]
    with pytest.raises(errors.RequestNotTaken, match="a poll of task cq0example is about task cq0other"):
        client.fetch("cq0example")


def test_a_precharge_sends_the_body_of_a_create(server, client):
    """The same body to another path; nothing is submitted."""
    server.script[:] = [answer(b'{"status": "success", "data": {"cost": "0.0357", "currency": "USD"}}')]
    assert client.precharge(REQUEST).cost == "0.0357"
    [request] = server.requests
    assert (request.line, request.body) == (
        "POST /model/v1/generation/precharge HTTP/1.1",
        b"".join(messages.pieces_of(REQUEST)),
    )


def test_a_base_url_may_have_a_path(server):
    """Gateways are often mounted below one."""
    with Client(KEY, f"{server.url}/api/v2/") as client:
        client.create(REQUEST)
    assert server.requests[0].line.startswith("POST /api/v2/model/v1/generation ")


@pytest.mark.parametrize("operation", ["create", "fetch", "precharge"])
@pytest.mark.parametrize(
    "step",
    [
        answer(b"{}", 429),
        answer(b"{}", 429, Retry_After="0"),
        answer(b"{}", 503, Retry_After="0"),
        answer(b"", 307, Location="/model/v1/generation"),
        answer(b"", 303, Location="/elsewhere"),
        answer(b"", 500),
        answer(b"", 401),
        answer(b"<html>", 200),
        close,
        reset,
        then(b"HTTP/1.1 200 OK\r\nContent-Le", close),
        then(b"nonsense\r\n\r\n", close),
    ],
    ids=[
        "429",
        "429 now",
        "503 now",
        "307",
        "303",
        "500",
        "401",
        "html",
        "close",
        "reset",
        "half a head",
        "no http",
    ],
)
def test_every_call_is_exactly_one_request_however_it_ends(server, client, operation, step):
    """Neither the client nor anything below it repeats or follows."""
    server.script[:] = [step, answer(CREATED)]
    failure_of(client, operation)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("step", "error", "error_class"),
    [
        (answer(b"{}", 429), errors.RequestNotTaken, "rate_limited"),
        (answer(b"", 408), errors.RequestMayHaveArrived, "no_answer"),
        (answer(b"", 500), errors.RequestMayHaveArrived, "server_error"),
        (answer(b"", 307, Location="/a"), errors.RequestMayHaveArrived, "redirected"),
        (answer(b"", 401), errors.ServiceRefused, "access_refused"),
        (answer(b"", 422), errors.RequestRejected, "rejected"),
        (answer(b'{"error": "no"}'), errors.RequestRejected, "rejected"),
        (answer(b"<html>"), errors.RequestMayHaveArrived, "unreadable"),
        (answer(b""), errors.RequestMayHaveArrived, "unreadable"),
        (answer(CREATED[:20]), errors.RequestMayHaveArrived, "unreadable"),
        (close, errors.RequestMayHaveArrived, "no_answer"),
        (reset, errors.RequestMayHaveArrived, "no_answer"),
        (then(answer(CREATED, Content_Length="500"), close), errors.RequestMayHaveArrived, "no_answer"),
        (answer(CREATED, Content_Length="9"), errors.RequestMayHaveArrived, "unreadable"),
        (
            then(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{'id'\r\n", close),
            errors.RequestMayHaveArrived,
            "no_answer",
        ),
        (
            then(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", close),
            errors.RequestMayHaveArrived,
            "no_answer",
        ),
        (answer(b"\x1f\x8b no gzip", Content_Encoding="gzip"), errors.RequestMayHaveArrived, "unreadable"),
        (answer(b" " * 5_000_000), errors.RequestMayHaveArrived, "unreadable"),
        (bomb(50_000_000), errors.RequestMayHaveArrived, "unreadable"),
    ],
)
def test_a_create_that_was_sent_is_never_taken_for_one_that_was_not(server, client, step, error, error_class):
    """Only 429 is; every break after the send may have arrived."""
    server.script[:] = [step]
    with pytest.raises(error) as caught:
        client.create(REQUEST)
    assert caught.value.failure.error_class == error_class


@pytest.mark.parametrize("status", [200, 202])
@pytest.mark.parametrize(
    "shape", ['{"request_id": "r-17", "status": "IN_QUEUE"}', '{"data": {"request_id": "r-17"}}']
)
def test_an_answer_of_the_queue_protocol_is_reported_in_words(server, client, shape, status):
    """The attempt may run; the request id is named, so that it can be looked for."""
    server.script[:] = [answer(shape.encode(), status)]
    with pytest.raises(errors.RequestMayHaveArrived) as caught:
        client.create(REQUEST)
    assert caught.value.failure.error_class == "unreadable"
    assert "request_id r-17 and no id" in caught.value.failure.message


@pytest.mark.parametrize("status", [202, 302])
def test_an_answer_without_an_id_tells_where_it_points(server, client, status):
    """It may be the task that was made."""
    server.script[:] = [answer(b"", status, Location="/task/cq0example?signed=1")]
    assert failure_of(client, "create").message.endswith("; its Location is /task/cq0example")


def test_a_request_id_beside_an_id_changes_nothing(server, client):
    """Only an answer without a task's id is of the other protocol."""
    server.script[:] = [answer(b'{"id": "cq0example", "request_id": "r-17", "status": "in_progress"}')]
    assert client.create(REQUEST) == "cq0example"


@pytest.mark.parametrize(
    "step",
    [
        answer(b"", 500),
        answer(b"", 307, Location="/a"),
        answer(b"{}", 400),
        answer(b"<html>"),
        answer(b'{"status": "error", "message": "try again"}'),
        close,
        reset,
        then(answer(DONE, Content_Length="500"), close),
        bomb(50_000_000),
    ],
)
def test_a_fetch_that_fails_can_be_asked_again(server, client, step):
    """A task that is paid for is not given up for a fault that may pass."""
    server.script[:] = [step, answer(DONE)]
    assert failure_of(client, "fetch").kind is FailureKind.TRANSIENT
    assert client.fetch(ID).status == "completed"


def test_an_answer_that_breaks_after_its_id_names_the_task(server, client):
    """It proves nothing, but it says where to look."""
    cut = CREATED[: CREATED.index(b",") + 10]
    for step in (then(answer(CREATED, Content_Length="500"), close), answer(cut)):
        server.script[:] = [step]
        failure = failure_of(client, "create")
        assert (failure.kind, failure.task_id, failure.http_status) == (FailureKind.MAY_HAVE_ARRIVED, ID, 200)
        assert ID in failure.excerpt
    server.script[:] = [then(answer(CREATED[: cut.index(b",") - 2], Content_Length="500"), close)]
    assert failure_of(client, "create").task_id is None


@pytest.mark.parametrize("status", [400, 401, 429, 503])
def test_the_status_counts_even_if_its_body_breaks(server, client, status):
    """An error's body is only its explanation."""
    whole = answer(b'{"error": {"code": "003011004"', status)
    server.script[:] = [whole]
    judged = failure_of(client, "create")
    server.script[:] = [then(answer(b'{"error": {"code": "003011004"', status, Content_Length="999"), close)]
    broken = failure_of(client, "create")
    assert (broken.kind, broken.error_class, broken.http_status) == (judged.kind, judged.error_class, status)


def test_a_long_error_page_is_read_to_its_first_64_kilobytes(server, client):
    """Nobody needs more of it, and the connection is not used again."""
    server.script[:] = [answer(b"<title>down</title>" + b"x" * 300_000, 503), answer(CREATED)]
    failure = failure_of(client, "create")
    assert (failure.message, len(failure.excerpt)) == ("down", 2000)
    client.create(REQUEST)
    assert [request.n_connection for request in server.requests] == [1, 2]


def test_a_packed_answer_is_unpacked(server, client):
    """Some gateways pack without being asked."""
    server.script[:] = [answer(gzip.compress(CREATED), Content_Encoding="gzip")]
    assert client.create(REQUEST) == ID


def test_a_refused_connection_is_not_taken(server):
    """Nothing listens: nothing arrived."""
    with ScriptedServer() as gone:
        url = gone.url
    with Client(KEY, url) as client:
        for operation in ("create", "fetch", "precharge"):
            failure = failure_of(client, operation)
            assert (failure.kind, failure.error_class, failure.is_outage) == (
                FailureKind.TRANSIENT,
                "unreachable",
                True,
            )
        with pytest.raises(errors.RequestNotTaken):
            client.probe()


def test_an_answer_that_never_comes_may_have_arrived(server):
    """The request is there; what the service does with it nobody knows."""
    over = threading.Event()
    server.script[:] = [lambda _connection: over.wait(60)]
    with Client(KEY, server.url, read_timeout_s=0.05) as client:
        failure = failure_of(client, "create")
        over.set()
    assert (failure.kind, failure.error_class, failure.is_outage) == (
        FailureKind.MAY_HAVE_ARRIVED,
        "no_answer",
        True,
    )


@pytest.mark.parametrize("status", [400, 402, 409, 429, 500])
def test_an_error_that_names_a_task_is_followed_up(server, client, status):
    """Sent again, it would be paid twice; with a reason, the task may not exist."""
    bodies = [
        CREATED,
        b'{"id": "cq0example", "status": "pending", "message": "slow down"}',
        b'{"error": {"task_id": "cq0example", "message": "bad"}}',
        b'{"error": {"message": "bad", "details": {"task_id": "cq0example"}}}',
        b'{"error": {"message": "bad", "metadata": {"taskId": "cq0example"}, "user": {"id": "u1"}}}',
        b'{"detail": [{"msg": "bad", "task": {"id": "cq0example"}}]}',
        b'{"errors": [{"message": "bad", "generation-id": "cq0example"}]}',
    ]
    server.script[:] = [answer(one, status) for one in bodies]
    found = [failure_of(client, "create") for _ in bodies]
    assert {one.task_id for one in found} == {"cq0example"}
    assert all(one.is_task_in_doubt for one in found)
    assert [one.is_task_anyones for one in found] == [status < 500] + [True] * (len(bodies) - 1)


@pytest.mark.parametrize("status", [200, 400, 429, 500])
@pytest.mark.parametrize("body", [b"", b'{"error": {"message": "slow down"}}'])
@pytest.mark.parametrize(
    "headers",
    [{"Location": "/model/v1/generation/task/cq0example?a=1"}, {"X_Task_Id": "cq0example"}],
)
def test_an_answer_whose_headers_alone_name_a_task_is_followed_up(server, client, status, body, headers):
    """As one that names it in its body."""
    server.script[:] = [answer(body, status, **headers)]
    failure = failure_of(client, "create")
    assert (failure.task_id, failure.is_task_in_doubt) == ("cq0example", True)


@pytest.mark.parametrize("status", [200, 400, 403, 409, 429, 500])
@pytest.mark.parametrize(
    "words",
    [
        "task cq0example1 accepted",
        "Duplicate: task id=cq0example1 exists",
        "see https://x.example/v1/generation/task/cq0example1",
        "the generation 'cq0example1' is queued",
        "<html><title>Busy</title><p>Task cq0example1 accepted</p></html>",
    ],
)
def test_a_task_that_only_words_mention_is_followed_up_after_a_refusal_and_shown_otherwise(
    server, client, status, words
):
    """It may be anyone's; it is followed up where the create would otherwise count as refused."""
    server.script[:] = [
        answer(words.encode(), status),
        answer(json.dumps({"message": words}).encode(), status),
    ]
    for failure in (failure_of(client, "create"), failure_of(client, "create")):
        is_refused = 400 <= status < 500
        assert (failure.task_id, failure.is_task_in_doubt) == (
            ("cq0example1", True) if is_refused else (None, False)
        )
        assert "cq0example1" in str(failure)


@pytest.mark.parametrize(
    "words",
    [
        "task creation failed: HTTP 400",
        "too many tasks, try in 30 seconds",
        "tasks cq0example1 and task cq0example2",
    ],
)
def test_words_about_no_task_or_several_name_none(server, client, words):
    """Neither says which task a create made."""
    server.script[:] = [answer(words.encode(), 429)]
    assert failure_of(client, "create").task_id is None


@pytest.mark.parametrize("status", [200, 400, 402, 429, 500])
@pytest.mark.parametrize(
    "said",
    [
        b'{"id": "cq0one", "task_id": "cq0two", "status": "in_progress"}',
        b'{"id": "cq0one", "data": {"id": "cq0two"}, "message": "slow down"}',
        b'{"id": "cq0one", "error": {"task_id": "cq0two", "message": "bad"}}',
        b'{"id": "cq0one", "error": {"details": {"task_id": "cq0two"}, "message": "bad"}}',
    ],
)
def test_an_answer_that_names_two_tasks_is_held(server, client, status, said):
    """One of them may be paid for; asking for the other would let it be sent again."""
    server.script[:] = [answer(said, status)]
    failure = failure_of(client, "create")
    assert (failure.kind, failure.task_id) == (FailureKind.MAY_HAVE_ARRIVED, None)
    assert "it names tasks cq0one, cq0two" in failure.message


@pytest.mark.parametrize("length", ["junk", "-1", "9, 9", "1e3"])
def test_an_answer_whose_length_is_no_number_ends_at_the_read_timeout(server, length):
    """The id that it names is kept."""
    over = threading.Event()
    server.script[:] = [then(answer(CREATED, Content_Length=length), lambda _connection: over.wait(60))]
    with Client(KEY, server.url, read_timeout_s=0.5) as client:
        failure = failure_of(client, "create")
        over.set()
    assert (failure.error_class, failure.task_id) == ("no_answer", "cq0example")


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nX-Drip: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"]
)
def test_an_answer_that_drips_ends_at_the_read_timeout(server, head):
    """In the head as in the body: a byte now and then does not hold a thread for ever."""
    over = threading.Event()

    def drip(connection):
        connection.sendall(head)
        while not over.wait(0.01):
            connection.sendall(b"1")

    server.script[:] = [drip]
    with Client(KEY, server.url, read_timeout_s=0.15) as client:
        failure = failure_of(client, "create")
        over.set()
    assert failure.error_class == "no_answer"
    assert "incomplete after 0.15 s" in failure.message


def test_an_answer_that_came_while_the_process_was_suspended_is_read(server, client, monkeypatch):
    """Whatever the clock says: it is on this machine, and the task is paid for."""
    came, started_at = threading.Event(), iter([0.0])

    def monotonic():
        at = next(started_at, None)
        return came.wait(60) and 3600.0 if at is None else at

    # Longer than what is read at once.
    server.script[:] = [then(answer(CREATED, X_Long="x" * 10_000), lambda _connection: came.set())]
    monkeypatch.setattr(transport, "time", SimpleNamespace(**(vars(time) | {"monotonic": monotonic})))
    assert client.create(REQUEST) == ID


def test_waiting_times_come_with_the_failure(server, client):
    """For the caller, who decides when to ask again."""
    server.script[:] = [answer(b'{"error": {"message": "slow down", "retry_after": 7}}', 429)]
    assert failure_of(client, "create").retry_after_s == 7.0


# Without a key -------------------------------------------------------------------------------------------------


def test_without_a_key_nothing_goes_to_another_machine():
    """The first use says so, and the error names the way out."""
    with Client(base_url="https://gateway.example") as client:
        for operation in ("create", "fetch", "precharge"):
            with pytest.raises(errors.KeyMissing, match="DREAMO_API_KEY"):
                ask(client, operation)


def test_without_a_key_a_loopback_service_answers_for_itself(server, monkeypatch):
    """No header is made up."""
    monkeypatch.delenv("DREAMO_API_KEY", raising=False)
    server.script[:] = [answer(b"", 401)]
    with Client(base_url=server.url) as client:
        assert failure_of(client, "create").kind is FailureKind.STOP
    assert "authorization" not in server.requests[0].headers


def test_settings_and_their_parts_are_not_given_together():
    """One of the two would be ignored."""
    settings = Settings("http://127.0.0.1:1", Secret(KEY))
    with pytest.raises(errors.UsageError, match="not both"):
        Client(KEY, settings=settings)
    with Client(settings=settings) as client:
        assert client.settings is settings
        assert repr(client) == "Client(base_url='http://127.0.0.1:1', api_key=***)"
    with Client(base_url="http://127.0.0.1:1", settings=None) as client:
        assert "127.0.0.1" in repr(client)


@pytest.mark.parametrize("task_id", ["", "a b", ".", "..", "a\n", "\u72d0", "x" * 201])
def test_what_can_be_no_id_is_not_asked_for(client, server, task_id):
    """It would ask for something else."""
    with pytest.raises(errors.UsageError, match="isn't a task id"):
        client.fetch(task_id)
    assert server.requests == []


# Probing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 302, 401, 404])
def test_any_answer_of_its_own_shows_that_the_service_is_there(server, client, status):
    """The probe needs no key and sends none."""
    server.script[:] = [answer(b"", status)]
    client.probe()
    [request] = server.requests
    assert request.line == "GET /api/v1/skill/models/spark_dreamo/spec HTTP/1.1"
    assert "authorization" not in request.headers


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_service_that_is_away_or_busy_is_not_there(server, client, status):
    """These answers come from what stands before it."""
    server.script[:] = [answer(b"", status)]
    with pytest.raises(errors.RequestNotTaken) as caught:
        client.probe()
    assert caught.value.failure.is_outage == (status >= 500)


# Waiting -------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes by sleeping."""

    def __init__(self):
        self.now, self.slept_s = 0.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept_s.append(seconds)
        self.now += seconds


@pytest.fixture
def waiting(server):
    clock = Clock()
    with Client(KEY, server.url, sleep=clock.sleep, monotonic=clock.monotonic) as client:
        yield client, clock


def test_waiting_asks_until_the_end(server, waiting):
    """Through faults that pass, at the pace that was asked for, or slower if the service says so."""
    client, clock = waiting
    server.script[:] = [
        answer(RUNNING),
        answer(b"", 503),
        close,
        answer(b"", 429, Retry_After="12"),
        answer(DONE),
    ]
    assert client.wait(ID, poll_every_s=3).status == "completed"
    assert clock.slept_s == [3, 3, 3, 12]


def test_waiting_gives_a_failed_task_back(server, waiting):
    """A failed task has ended."""
    server.script[:] = [answer(b'{"id": "cq0example", "status": "failed", "error": "no"}')]
    assert waiting[0].wait(ID).status == "failed"


def test_waiting_ends_in_time_and_names_the_task(server, waiting):
    """The task goes on, so that its id is worth something."""
    client, clock = waiting
    server.script[:] = [answer(RUNNING)]
    with pytest.raises(errors.RequestNotTaken, match="cq0example") as caught:
        client.wait(ID, timeout_s=8, poll_every_s=3)
    assert (caught.value.failure.error_class, caught.value.failure.task_id) == ("task_timeout", ID)
    assert clock.slept_s == [3, 3, 2]
    assert len(server.requests) == 4


@pytest.mark.parametrize("wrong", [{"timeout_s": "5"}, {"timeout_s": float("nan")}, {"poll_every_s": None}])
def test_waiting_takes_numbers_of_seconds(server, client, wrong):
    with pytest.raises(errors.UsageError, match=f"{next(iter(wrong))}=.*: expected a number of seconds"):
        client.wait("cq0example", **wrong)
    assert server.requests == []


def test_waiting_stops_at_what_will_not_pass(server, waiting):
    """An unknown task and a refused key."""
    for status, error in ((404, errors.RequestRejected), (401, errors.ServiceRefused)):
        server.script[:] = [answer(b"", status)]
        with pytest.raises(error):
            waiting[0].wait(ID)


def test_closing_ends_every_wait(server):
    """A closed client asks nobody any more, and holds no thread."""
    server.script[:] = [answer(RUNNING)]
    client = Client(KEY, server.url)
    failed = []

    def wait():
        try:
            client.wait(ID)
        except errors.RequestNotTaken as error:
            failed.append(error.failure.error_class)

    thread = threading.Thread(target=wait)
    thread.start()
    while not server.requests:
        thread.join(0.001)
    client.close()
    thread.join(60)
    assert failed == ["task_timeout"]


def test_a_closed_client_sends_nothing_and_says_so(server, client):
    """Such a create was not taken, for certain."""
    client.close()
    failure = failure_of(client, "create")
    assert (failure.kind, failure.is_outage) == (FailureKind.TRANSIENT, False)
    assert "the client is closed; nothing was sent; make a new client" in str(failure)
    assert server.requests == []
