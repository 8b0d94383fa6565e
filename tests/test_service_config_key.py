"""The key shows nowhere but in the Authorization header of requests to the service."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import time
import traceback
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch import errors
from dreamo_batch.service import messages
from dreamo_batch.service.client import Client
from dreamo_batch.service.config import Secret
from tests.scripted_server import CREATED, ScriptedServer, answer, close, reset, then

KEY = "sk-Secret/Key+42="
REQUEST = messages.Request(
    "a red fox", 7, 1328, 1328, use_rephraser=True, image_url="https://x.example/a.png"
)
ECHOES = [
    json.dumps({"error": {"code": KEY, "message": f"invalid key {KEY}"}}).encode(),
    json.dumps({"message": f"invalid key {KEY}"}).replace("/", "\\/").encode(),
    f"<html><title>{KEY}</title>{KEY}</html>".encode(),
    f"no key like sk-Secret%2FKey%2B42%3D, {KEY}".encode(),
    b"x" * 1990 + KEY.encode(),
    json.dumps({"id": KEY, "request_id": KEY, "status": "in_progress"}).encode(),
]
CALLS = {
    "create": lambda client: client.create(REQUEST),
    "fetch": lambda client: client.fetch("cq0example"),
    "precharge": lambda client: client.precharge(REQUEST),
    "wait": lambda client: client.wait("cq0example", timeout_s=0),
    "probe": lambda client: client.probe(),
}
STEPS = {
    "closed": close,
    "reset": reset,
    "no http": then(KEY.encode(), b"\r\n\r\n", close),
    "broken": then(answer(KEY.encode(), Content_Length="999"), close),
    "redirect": answer(b"", 307, Location=f"https://evil.example/{KEY}?key={KEY}"),
    "header": then(f"HTTP/1.1 401 {KEY}\r\nX-Key: {KEY}\r\nContent-Length: 0\r\n\r\n".encode()),
} | {
    f"{status}, echo {i}": answer(echo, status) for i, echo in enumerate(ECHOES) for status in (200, 401, 500)
}


@pytest.fixture
def server():
    with ScriptedServer() as running:
        yield running


def told_by(error: BaseException) -> str:
    """Everything that a debugger, a notebook or a log could show of an error, local variables and all."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next  # the test's own variables hold the key
    out = io.StringIO()
    out.write(
        f"{error!r} {error} {getattr(error, 'failure', '')!r} {error.__cause__!r} {error.__context__!r}"
    )
    traceback.TracebackException(type(error), error, frames, capture_locals=True).print(file=out)
    return out.getvalue()


def failed(call, client) -> errors.ServiceError | None:
    try:
        call(client)
    except errors.ServiceError as error:
        return error
    return None


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_no_error_shows_the_key(server, caplog, call, step):
    """Not in words, not in the failure, not in any frame's variables, not in a log at any level."""
    server.script[:] = [step]
    with caplog.at_level(logging.DEBUG), Client(KEY, server.url, read_timeout_s=2) as client:
        error = failed(call, client)
    told = caplog.text + ("" if error is None else told_by(error))
    assert error is None or (error.__cause__, error.__context__) == (None, None)
    assert KEY not in told
    assert KEY[:9] not in told
    assert "sk-Secret%2F" not in told


def test_no_unreachable_service_shows_the_key(monkeypatch):
    """Nor does a proxy's password show."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@127.0.0.1:9")
    for url in ("http://127.0.0.1:9", "https://gateway.test"):
        with Client(KEY, url) as client, pytest.raises(errors.RequestNotTaken) as caught:
            client.create(REQUEST)
        told = told_by(caught.value)
        assert KEY not in told
        assert "hunter2" not in told


def test_the_key_is_masked_in_tasks_and_prices(server):
    """What comes back as a value ends up in tables and files."""
    task = {"id": "cq0example", "status": "failed", "error": f"key {KEY} expired", "usage": {"cost": "free"}}
    server.script[:] = [
        answer(json.dumps(task).encode()),
        answer(json.dumps({"status": "failed", "data": {}, "reason": f"key {KEY} expired"}).encode()),
    ]
    with Client(KEY, server.url) as client:
        read = client.fetch("cq0example")
        price = client.precharge(REQUEST)
    assert (read.error.message, price.reason) == ("key *** expired", "key *** expired")
    assert KEY not in repr((read, price))


SPELLINGS = [
    KEY,
    KEY.upper(),
    base64.b64encode(KEY.encode()).decode(),
    base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "".join(f"%{ord(one):02X}" for one in KEY),
    quote(quote(KEY, safe=""), safe=""),
    "".join(f"&#{ord(one)};" for one in KEY),
    KEY[:5] + "".join(rf"\u{ord(one):04x}" for one in KEY[5:]),
]
IN_TEXTS = [
    KEY[:5] + "".join(rf"\\u{ord(one):04x}" for one in KEY[5:]),
    KEY.replace("/", r"\\/"),
    KEY.replace("/", "\\" * 9 + "/"),
    f"{KEY[:5]}\n    {KEY[5:]}",
    rf"{KEY[:5]}\r\n\t{KEY[5:]}",
]


@pytest.mark.parametrize("shown", SPELLINGS)
def test_the_key_is_masked_wherever_a_task_shows_it(server, shown):
    """Links, discounts and names of metadata are stored, too."""
    task = {
        "id": "cq0example",
        "status": "completed",
        "output": [{"url": f"https://o.example/a.png?token={shown}&x=1", "jobId": shown}],
        "usage": {"cost": "0.03", "discount": shown},
        "metadata": {shown: 1.0},
    }
    server.script[:] = [answer(json.dumps(task).encode())]
    with Client(KEY, server.url) as client:
        read = client.fetch("cq0example")
    assert shown.rstrip("=") not in repr(read)
    assert read.urls[0].startswith("https://o.example/a.png?token=***")


@pytest.mark.parametrize("shown", SPELLINGS)
def test_the_key_is_masked_wherever_a_description_shows_it(server, shown):
    """It is compared with what is known, and shown where it differs."""
    parameter = {"name": shown, "description": f"for {shown}", "constraints": {"enum": [shown]}}
    body = json.dumps({"data": {shown: 1, "parameters": [parameter]}}).replace(r"\\u", r"\u")
    server.script[:] = [answer(body.encode())]
    with Client(KEY, server.url) as client:
        described = client.describe()
    assert not any(one in repr(described) for one in (KEY, shown.rstrip("=")))
    assert described["parameters"][0]["description"].startswith("for ***")


@pytest.mark.parametrize("before", ["", "x", "xy", "Authorization: Bearer "])
def test_base64_that_begins_before_the_key_is_masked_where_the_key_is(before):
    """Which characters show it depends on the number of bytes before it."""
    shown = base64.b64encode(f"{before}{KEY} and more".encode()).decode()
    first, last = (
        len(before) * 8 // 6 + 2,
        (len(before) + len(KEY)) * 8 // 6 - 1,
    )  # at the key's edges, two are shared
    masked = Secret(KEY).mask(f"no such key: {shown}")
    assert masked.count("***") == 1
    assert shown[first:last] not in masked
    assert not any(shown[at : at + 4] in masked for at in range(first, last - 4))


@pytest.mark.parametrize("text", ["a risk of secrets", "task 736b2d53", "1152", "ye K", "s k - S", "0x73"])
def test_words_and_numbers_that_resemble_a_part_of_the_key_stay(text):
    """Three of its characters at the end of a text reveal nothing."""
    shown = f"{text}, and more"
    assert Secret(KEY).mask(shown) == shown
    assert not Secret(KEY).is_in(text)


@pytest.mark.parametrize("shown", SPELLINGS + IN_TEXTS)
def test_every_spelling_of_the_key_is_noticed_in_ids_and_answers(shown):
    """A quick look at an answer misses none that masking would find."""
    secret = Secret(KEY)
    answered = json.dumps({"message": f"invalid {shown}"}, ensure_ascii=False)
    assert all(secret.may_be_in(answered.encode(encoding)) for encoding in ("utf-8", "utf-16"))
    assert secret.is_in(f"task-{shown}")
    assert secret.mask(f"invalid {shown}").startswith("invalid ***")


@pytest.mark.parametrize("shown", [*SPELLINGS, *IN_TEXTS[:2]])
def test_every_spelling_of_the_key_is_overwritten_in_a_file(shown):
    """In place, and what surrounds it stays."""
    content = b"\xff\xd8 before " + shown.encode() + b" behind"
    written = Secret(KEY).overwrite(content)
    assert re.fullmatch(rb"\xff\xd8 before \w?\*+\w{0,2}=* behind", written)
    assert len(written) == len(content)


@pytest.mark.parametrize("form", ["%{:02X}", "&#{};", r"\u{:04x}"])
def test_a_key_of_words_is_overwritten_with_only_what_joins_them_escaped(form):
    """The quick look for a whole word finds each."""
    shown = "sk_live_51Habcdefghij".replace("_", form.format(ord("_"))).encode()
    assert set(Secret("sk_live_51Habcdefghij").overwrite(shown)) == set(b"*")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_the_key_is_overwritten_in_utf_16(encoding):
    """Windows writes comments of pictures so."""
    assert Secret(KEY).overwrite(KEY.upper().encode(encoding)) == ("*" * len(KEY)).encode(encoding)


def test_a_text_of_backslashes_is_read_at_once():
    """A link can have any length, and no other thread runs while a pattern is searched."""
    began_at = time.process_time()
    assert not Secret(KEY).is_in("https://o.example/" + "\\" * 100_000)
    assert time.process_time() - began_at < 5


@pytest.mark.parametrize(
    "body",
    [{"id": one} for one in (KEY, f"task-{KEY}-1", quote(KEY, safe=""))] + [{"data": {"task_id": KEY}}],
)
def test_a_task_id_that_holds_the_key_is_refused(server, body):
    """It would be stored, and asked for in every log; the create may be billed."""
    server.script[:] = [answer(json.dumps(body).encode())]
    with Client(KEY, server.url) as client, pytest.raises(errors.RequestMayHaveArrived) as caught:
        client.create(REQUEST)
    assert KEY not in repr((str(caught.value), caught.value.failure))


def test_a_redirect_that_shows_the_key_is_not_followed_with_it(server, caplog):
    """Nor logged, by anybody."""
    caplog.set_level(logging.DEBUG)
    server.script[:] = [answer(b"", 302, Location=f"/b.png?token={KEY}"), answer(b"a picture")]
    with Client(KEY, server.url) as client:
        client.download(f"{server.url}/a.png?k={KEY}", max_bytes=100)
    assert [request.line.split()[1] for request in server.requests] == ["/a.png?k=***", "/b.png?token=***"]
    assert KEY not in caplog.text


def test_a_short_key_spoils_no_id_and_no_cost(server):
    """Only words are masked: an id that holds the key is still the id."""
    body = b'{"id": "task-1", "status": "completed", "output": ["https://o.example/1"], "usage": {"cost": "1.1"}}'
    server.script[:] = [answer(body)]
    with Client("1", server.url) as client:
        task = client.fetch("task-1")
    assert (task.task_id, task.urls, task.cost) == ("task-1", ("https://o.example/1",), "1.1")


def test_a_short_key_spoils_no_documented_code(server):
    """What is done about a failure depends on its code."""
    body = b'{"id": "a", "status": "failed", "error": {"code": "003011095", "message": "1 error"}}'
    server.script[:] = [answer(body), answer(b'{"error": {"code": 3011001}}', 400)]
    with Client("1", server.url) as client:
        error = client.fetch("a").error
        with pytest.raises(errors.RequestRejected) as caught:
            client.create(REQUEST)
    assert (error.code, error.message) == ("003011095", "*** error")
    assert caught.value.failure.code == "003011001"


def test_the_key_does_not_follow_a_redirect(server):
    """Neither to another host nor to another path."""
    with ScriptedServer() as other:
        for target in (other.url, f"{server.url}/elsewhere"):
            server.script[:] = [answer(b"", 307, Location=target), answer(CREATED)]
            server.requests.clear()
            with Client(KEY, server.url) as client:
                for call in CALLS.values():
                    with suppress(errors.ServiceError):
                        call(client)
                    server.script[:] = server.script[:1]
            assert all("/elsewhere" not in request.line for request in server.requests)
        assert other.requests == []


def test_no_part_of_an_idle_client_holds_the_key_in_the_open(server):
    """The forms of its requests and its sessions are without it; the one place is the secret."""
    with Client(KEY, server.url) as client:
        client.create(REQUEST)
        lane = client._transport._here.lane
        forms = client._forms.values()
        assert len(forms) == 2
        assert all(KEY not in str(form.headers) for form in forms)
        assert KEY not in f"{vars(lane.adapter)} {vars(client)} {lane}"


@given(st.from_regex(r"[!#-&(-~][!-~]{5,59}", fullmatch=True), st.integers(0, 2100))
def test_no_excerpt_shows_a_key_however_it_is_cut(key, n_before):
    """An excerpt ends at 2 kB, perhaps in the middle of a key."""
    with Client(key, "http://127.0.0.1:9") as client:
        body = b" " * n_before + key.encode() + b" "
        excerpt = client._masked(messages.excerpt(body))
    shown = excerpt.strip().removesuffix("***").strip()
    assert len(shown) < 4 or not key.startswith(shown)


def test_a_key_that_reads_as_an_escape_is_found_in_an_answer():
    """It stands there as it is, although it would mean something else in a link."""
    assert Secret("%00").may_be_in(b'{"message": "%00"}')


@given(
    st.from_regex(r"[!#-&(-~][!-~]{0,39}", fullmatch=True),
    st.text(max_size=20),
    st.data(),
)
def test_an_answer_that_is_not_masked_shows_no_part_of_the_key(key, before, data):
    """Whatever masking would replace in a text read from it, the quick look at the whole answer has found."""
    secret = Secret(key)
    escaped = quote(key, safe="")
    spellings = [key, escaped, quote(escaped), base64.b64encode(key.encode()).decode()]
    spellings += ["".join(f"%{ord(one):02x}" for one in key), "".join(f"&#x{ord(one):x};" for one in key)]
    spellings.append(escaped.replace("%", "%u00"))
    spelled = data.draw(st.sampled_from(spellings))
    text = before + data.draw(
        st.sampled_from([spelled, spelled.upper(), spelled[: data.draw(st.integers(0, 40))]])
    )
    is_ascii = data.draw(st.booleans())
    body = json.dumps({"message": text}, ensure_ascii=is_ascii).encode()
    is_shown = secret.mask(text) != text or secret.is_in(text)
    assert secret.may_be_in(body) or not is_shown
