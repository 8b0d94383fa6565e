"""Payloads: every spelling the family is known for, and whatever else a service may write."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch.errors import UsageError
from dreamo_batch.service import messages
from dreamo_batch.service.contract import STATUS_WORDS, STATUS_WORDS_ELSEWHERE
from dreamo_batch.service.messages import Price, Request, ServiceMessage, Task, Unreadable, contradiction

ID = "cq0example"
LINK = "https://o.example/a.png?sign=1"
OUTPUT = [{"content": [{"type": "image", "url": LINK, "size": 12345, "jobId": "j"}]}]
DONE = {
    "id": ID,
    "status": "completed",
    "model": "spark_dreamo",
    "created_at": 1700000000,
    "output": OUTPUT,
    "usage": {"cost": "0.0286", "discount": 1},
    "metadata": {"in_queue_at": 0.1, "completed_at": 3.25, "upload_at": 3.5},
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["completed", "Failed", "0.0286", "1e-3", LINK, "003011095", "success", ID])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=5)
            | st.sampled_from(["url", "code", "message", "error", "status", "cost", "content"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


READERS = (
    messages.read_created,
    messages.read_price,
    messages.read_error,
    lambda body: messages.read_task(body, ID),
)


def written(value) -> bytes:
    return json.dumps(value).encode()


def read(**changes) -> Task:
    """Read a documented completed task with some fields changed; None takes a field out."""
    merged = {name: value for name, value in (DONE | changes).items() if value is not ...}
    return messages.read_task(written(merged), ID)


# Writing -------------------------------------------------------------------------------------------------------


def test_a_create_is_written_as_documented():
    """The model at the top, every parameter in one flat object."""
    request = Request(
        "a \u72d0 \U0001f98a", 7, 1664, 936, use_rephraser=False, image_url="https://x.example/a.png"
    )
    assert json.loads(b"".join(messages.pieces_of(request))) == {
        "model": "spark_dreamo",
        "input": [
            {
                "params": {
                    "prompt": "a \u72d0 \U0001f98a",
                    "seed": 7,
                    "use_rephraser": False,
                    "width": 1664,
                    "height": 936,
                    "image_urls": ["https://x.example/a.png"],
                }
            }
        ],
    }


@given(st.text(st.characters()), st.integers(-1, 2**63 - 1), st.binary(min_size=1))
def test_a_spliced_picture_reads_back_as_json(prompt, seed, picture):
    """Splicing gives the same document as encoding the whole, whatever stands in the prompt."""
    encoded = base64.b64encode(picture)
    body = b"".join(
        messages.pieces_of(Request(prompt, seed, 512, 2048, use_rephraser=True, image_base64=encoded))
    )
    params = json.loads(body)["input"][0]["params"]
    assert body.isascii()
    assert params["binary_data_base64"] == [encoded.decode()]
    assert (params["prompt"], params["seed"], params["height"]) == (prompt, seed, 2048)
    assert "image_urls" not in params


@pytest.mark.parametrize("pictures", [{}, {"image_url": "https://x.example/a.png", "image_base64": b"/9j/"}])
def test_a_request_has_exactly_one_picture(pictures):
    """None or two can't be submitted."""
    with pytest.raises(UsageError, match="exactly one picture"):
        Request("a", 1, 512, 512, use_rephraser=True, **pictures)


def test_the_repr_of_a_request_leaves_the_picture_out():
    """Megabytes of base64 have no place in a traceback."""
    assert "AAAA" not in repr(Request("a", 1, 512, 512, use_rephraser=True, image_base64=b"AAAA" * 10))


# A create's answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"id": ID, "created_at": 1700000000, "status": "in_progress", "model": "spark_dreamo"},
        {"id": ID, "error": {"code": "003011095"}, "unknown": [1]},
        {"task_id": ID},
        {"status": {"code": 200, "message": "ok"}, "data": {"id": ID}},
    ],
)
def test_an_id_is_found_wherever_the_family_puts_it(body):
    """An id that was given out is never overlooked: it is worth money."""
    assert messages.read_created(written(body)) == ID


def test_a_numeric_id_is_read_as_its_text():
    """Ids are texts here, whatever they are there."""
    assert messages.read_created(b'{"id": 12345678901234567890123}') == "12345678901234567890123"


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + written({"id": ID}),
        b'{"id": "' + ID.encode() + b'", "m": "\xff"}',
        *(written({"id": ID}).decode().encode(name) for name in ("utf-16", "utf-16-le", "utf-32")),
    ],
)
def test_byte_attempt_marks_and_invalid_utf8_cost_no_id(body):
    """What is readable of an answer is read."""
    assert messages.read_created(body) == ID


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"code": "003011002", "error_message": "Missing image"}}, ("003011002", "Missing image")),
        ({"error": {"code": 3011002, "message": "Missing image"}}, ("003011002", "Missing image")),
        ({"error": "no"}, (None, "no")),
        ({"error": 3011002}, ("003011002", None)),
        ({"error": True, "message": "no"}, (None, "no")),
        ({"id": "", "error": {"message": "no"}}, (None, "no")),
        ({"id": None, "code": 110001, "message": "sensitive"}, ("000110001", "sensitive")),
        (
            {"status": {"code": 401, "message": "bad key", "error_code": ""}, "data": None},
            ("000000401", "bad key"),
        ),
        ({"status": {"code": 400, "message": "m", "error_code": 3011004}, "data": None}, ("003011004", "m")),
    ],
)
def test_a_refusal_with_http_200_is_read(body, told):
    """An error without an id says that nothing was taken."""
    assert messages.read_created(written(body)) == ServiceMessage(*told)
    assert messages.refusal_in(messages.load_leniently(written(body))) == ServiceMessage(*told)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"cq0example"',
        b"{}",
        b'{"id": "a b"}',
        b'{"id": ".."}',
        b'{"id": "\\ud800"}',
        b'{"id": "a\\u0000"}',
        b'{"id": true}',
        b'{"error": {}}',
        b'{"error": null}',
        b'{"error": ""}',
        b'{"error": {"code": 0, "message": "success"}}',
        b'{"message": "ok"}',
        b'{"code": 200, "message": "ok"}',
        b'{"code": 1, "message": "success"}',
        b'{"id": "cq0exam',
        b"<html>",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe{\x00}\x00",
        b'{"id": 1.5e22, "status": "in_progress"}',
    ],
)
def test_an_answer_with_neither_id_nor_error_is_unreadable(body):
    """Nothing proves anything, so nothing is claimed."""
    with pytest.raises(Unreadable) as caught:
        messages.read_created(body)
    assert len(caught.value.excerpt.encode()) <= 2000
    assert messages.refusal_in(messages.load_leniently(body)) is None


# A poll's answer -----------------------------------------------------------------------------------------------


def test_a_documented_task_is_read_whole():
    """Every documented field, and no excerpt because there is nothing odd about it."""
    assert read() == Task(
        task_id=ID,
        status="completed",
        urls=(LINK,),
        cost="0.0286",
        discount="1",
        created_at=1700000000.0,
        metadata={"in_queue_at": 0.1, "completed_at": 3.25, "upload_at": 3.5},
        sizes=(12345,),
        job_ids=("j",),
    )


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (5, 5),
        ("5", 5),
        (0, None),
        (-1, None),
        (5.5, None),
        (None, None),
        ({}, None),
        (10**400, None),
        ("x", None),
    ],
)
def test_size_and_job_id_stand_beside_their_link(size, told):
    """However deep the link is, and nothing that is no size or id is taken for one."""
    deep = {"type": "image", "url": {"href": [{"url": "https://h/1"}]}, "size": 7, "jobId": "outer"}
    task = read(
        output=[{"content": [{"url": "https://h/2", "size": size, "jobId": 42}, deep, "https://h/3"]}]
    )
    assert task.urls == ("https://h/2", "https://h/1", "https://h/3")
    assert task.sizes == (told, None, None)
    assert task.job_ids == ("42", None, None)


@pytest.mark.parametrize("word", STATUS_WORDS)
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title, lambda word: f" {word} "])
def test_every_status_word_is_read_in_any_case(word, spell):
    """All spellings of the family mean one of three."""
    expected = STATUS_WORDS[word]
    error = {"code": "003011098"} if expected == "failed" else ...
    task = read(status=spell(word), error=error)
    assert task.status == expected
    assert expected in ("in_progress", "completed", "failed")
    assert task.excerpt is None


@pytest.mark.parametrize("status", ["resting", "", None, 7, [], True, ...])
def test_an_unknown_status_means_not_finished(status):
    """A word nobody knows ends no task, and the answer is kept to be looked at."""
    task = read(status=status, output=None)
    assert task.status == "in_progress"
    assert json.loads(task.excerpt)["id"] == ID
    assert task.unlisted_status == (str(status) if status in ("resting", 7) else None)


@pytest.mark.parametrize("status", ["ended", "TASK_STATUS_OVER", "", None, 7, ...])
def test_of_an_unlisted_status_the_output_and_the_error_decide(status):
    """A picture that is there is never waited for, and never lost with its task."""
    assert (read(status=status).status, read(status=status).urls) == ("completed", (LINK,))
    failed = read(status=status, output=[], error={"code": "003011095", "message": "no"})
    assert (failed.status, failed.error.code) == ("failed", "003011095")
    both = read(status=status, error="no")
    assert (both.status, both.is_completed_with_error) == ("failed", True)
    assert read(status="in_progress").status == "in_progress"
    assert read(status={"code": 200, "message": "ok"}).urls == (LINK,)


@pytest.mark.parametrize(
    "word", [word for word, state in STATUS_WORDS_ELSEWHERE.items() if state == "failed"]
)
def test_a_picture_counts_for_more_than_an_unlisted_word_that_means_failed(word):
    """It was paid for; the listed words mean failed all the same, and so does any with an error."""
    made = read(status=word.replace("_", " ").title())
    assert (made.status, made.urls, made.error) == ("completed", (LINK,), None)
    assert (made.unlisted_status, json.loads(made.excerpt)["id"]) == (word.replace("_", " ").title(), ID)
    assert read(status=word, output=[]).status == "failed"
    assert read(status=word, error="no").status == "failed"
    assert read(status="failed").status == read(status="canceled").status == "failed"


@pytest.mark.parametrize("word", ["In Progress", "in-progress", "Timed Out", "SUCCEED", "Running"])
def test_a_status_is_known_in_any_spelling(word):
    """Blanks and hyphens stand for the same."""
    assert read(status=word, output=None).unlisted_status is None


@pytest.mark.parametrize("key", ["outputs", "result", "results", "images", "data"])
def test_a_picture_is_found_under_kindred_names(key):
    """It is paid for."""
    assert read(output=..., **{key: [LINK]}).urls == (LINK,)


@pytest.mark.parametrize(
    ("fields", "urls"),
    [
        ({"image_urls": [LINK]}, (LINK,)),
        ({"imageUrl": LINK}, (LINK,)),
        ({"data": {"image_urls": [LINK]}}, (LINK,)),
        ({"image_urls": [LINK], "prompt": "a fox"}, ()),
        ({"metadata": {"image_url": LINK}}, ()),
        ({"references": [{"url": LINK}]}, ()),
        ({"url": LINK, "thumbnail": {"url": LINK}}, ()),
        ({"input": {"image_urls": [LINK]}}, ()),
        ({"status": "rendered", "image_urls": [LINK]}, ()),
    ],
)
def test_a_picture_elsewhere_is_taken_if_nothing_of_the_request_is_repeated(fields, urls):
    """As the service behind this one names it; beside what was asked for it may be the reference."""
    assert read(output=..., **fields).urls == urls
    whole = {"code": 10000, "message": "Success", "data": {"status": "done", "output": None} | fields}
    assert messages.read_task(written(whole), ID).urls == urls


@pytest.mark.parametrize(
    "echo",
    [
        {"input": [{"params": {"seed": 9}}]},
        {"input": {"seed": 9}},
        {"params": {"seed": "9"}},
        {"parameters": {"seed": 9.0}},
        {"seed": 9},
    ],
)
def test_an_echoed_seed_is_read(echo):
    """It tells what the answer is about."""
    assert read(**echo).echo == {"seed": 9}
    assert read().echo == {}
    assert read(width=64, seed=True, params=[5]).echo == {}


SENT = {
    "seed": 7,
    "width": 512,
    "height": 768,
    "prompt": "a caf\u00e9 by the sea, at night",
    "use_rephraser": False,
}


@pytest.mark.parametrize(
    ("echo", "differs"),
    [
        ({}, None),
        ({"seed": 7, "width": 512, "height": 768, "prompt": " a cafe\u0301 by the\nsea, at night "}, None),
        ({"seed": 8}, "seed 8, not 7"),
        ({"width": 513}, "width 513, not 512"),
        ({"height": 512}, "height 512, not 768"),
        ({"prompt": "a dog"}, "the prompt 'a dog'"),
        ({"prompt": "a caf\u00e9 by the sea, at..."}, None),
    ],
)
def test_what_is_echoed_is_compared_with_what_was_sent(echo, differs):
    """White space, Unicode form and the cut end of a long prompt say nothing."""
    assert contradiction(echo, SENT, set) == differs


def test_what_the_service_may_choose_is_no_contradiction():
    """A random seed, and a rephrased prompt unless it is another row's."""
    sent = SENT | {"seed": -1, "use_rephraser": True}
    assert contradiction({"seed": 5, "prompt": "a dog, photorealistic"}, sent, lambda: {"a dog"}) is None
    assert contradiction({"prompt": "a dog"}, sent, lambda: {"a dog"}) == "the prompt 'a dog'"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"code": "003011095", "error_message": "Internal"}, ("003011095", "Internal")),
        ({"code": "003011095", "message": "Internal"}, ("003011095", "Internal")),
        ({"code": 3011095, "message": "Internal"}, ("003011095", "Internal")),
        ({"code": 3011095.0, "message": "Internal"}, ("003011095", "Internal")),
        ({"code": None, "message": "Internal"}, (None, "Internal")),
        ({"message": "Internal"}, (None, "Internal")),
        ({"code": "E7"}, ("E7", None)),
        ({"code": "\u00b2"}, ("\u00b2", None)),
        ("Internal", (None, "Internal")),
        (3011095, ("003011095", None)),
        ("003011095", ("003011095", None)),
        (["a", {"msg": "b"}, 5], (None, "a; b")),
        ([{"code": "003011095", "message": "Internal"}], ("003011095", "Internal")),
        ([{"code": "E7"}], ("E7", None)),
        ({"code": "\ud800", "message": "a\x00\udfffb"}, ("\ufffd", "a\ufffd\ufffdb")),
    ],
)
def test_errors_are_read_in_every_shape(error, told):
    """Object, text, number or list; codes padded to nine digits; texts that can be stored."""
    task = read(status="failed", error=error, output=...)
    assert task.status == "failed"
    assert task.error == ServiceMessage(*told)
    assert not task.is_completed_with_error


def test_completed_together_with_an_error_is_failed():
    """The service has been seen to say both; the links are kept."""
    task = read(error={"code": "003011096", "message": "Result parsing error"})
    assert (task.status, task.is_completed_with_error, task.urls) == ("failed", True, (LINK,))
    assert task.excerpt is not None


@pytest.mark.parametrize(
    "error", [None, {}, "", " ", [], 0, False, {"code": None, "message": ""}, {"code": 0}, "0"]
)
def test_an_empty_error_is_no_error(error):
    """Some answers carry the field whatever happened."""
    task = read(error=error)
    assert (task.status, task.error, task.excerpt) == ("completed", None, None)


def test_a_failed_task_without_error_takes_its_words_from_elsewhere():
    """A message beside the status is better than none."""
    assert read(status="failed", message="out of paint").error == ServiceMessage(None, "out of paint")
    task = read(status="failed")
    assert (task.error, task.excerpt is not None) == (None, True)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ("0.0286", "0.0286"),
        ("0.0280", "0.028"),
        (" 1 ", "1"),
        ("1e-3", "0.001"),
        (".5", "0.5"),
        ("", None),
        (None, None),
        ("-0.1", None),
        ("free", None),
        ("1_000", None),
        ("\u0661", None),
        ("NaN", None),
        ("Infinity", None),
        ("1e999999999", None),
        ("1000", "1000"),
        ("1000.01", None),
        ("1e40", None),
        (True, None),
        ([], None),
        ("9" * 50, None),
    ],
)
def test_costs_as_text_are_exact_or_missing(cost, expected):
    """Never a float, never a guess; an odd one is kept as an excerpt, an empty one is not odd."""
    task = read(usage={"cost": cost})
    assert task.cost == expected
    assert (task.excerpt is None) == (expected is not None or cost in ("", None))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("0.0286", "0.0286"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("2.86E-2", "0.0286"),
        ("0.00000001", "0.00000001"),
        ("0", "0"),
        ("-0.0", "0"),
        ("-1", None),
        ("NaN", None),
        ("Infinity", None),
        ("1e40", None),
        ("1e400", None),
        ("1e99999999999999999999", None),
        ("1" * 5000, None),
    ],
)
def test_costs_as_numbers_keep_every_digit(number, expected):
    """What JSON says is what is booked."""
    body = b'{"id": "%s", "status": "failed", "error": "x", "usage": {"cost": %s}}' % (
        ID.encode(),
        number.encode(),
    )
    assert messages.read_task(body, ID).cost == expected


@pytest.mark.parametrize("usage", [None, [], "free", 5, {"cost": "0.01"}, ...])
def test_any_usage_is_survived(usage):
    """Without a cost that can be read there is none."""
    assert read(usage=usage).cost == ("0.01" if isinstance(usage, dict) else None)


@pytest.mark.parametrize(
    ("discount", "expected"), [(1, "1"), (0.70, "0.7"), ("0.50", "0.50"), (None, None), ({}, None)]
)
def test_a_discount_is_kept_as_it_was_written(discount, expected):
    """Nobody knows whether it is a rate or an amount."""
    assert read(usage={"cost": "1", "discount": discount}).discount == expected


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        (OUTPUT + OUTPUT, (LINK,)),
        ([{"content": [{"type": "video", "url": "HTTPS://o.example/1"}, {"url": "http://o.example/2"}]}], 2),
        ([{"content": [{"url": LINK}]}, {"content": [{"url": "https://o.example/b"}]}], 2),
        ([{"url": LINK}], (LINK,)),
        ([LINK], (LINK,)),
        ([{"image_url": LINK}], (LINK,)),
        ([{"content": [{"thumbnail_url": "https://o.example/t", "downloadUrl": 1, "URL": LINK}]}], (LINK,)),
        ([{"content": [{"download_url": "https://o.example/other", "url": LINK}]}], (LINK,)),
        ([{"content": LINK}], (LINK,)),
        ({"content": {"url": f" {LINK}\n"}}, (LINK,)),
        ([{"content": [{"type": "https://no.example/link", "url": LINK}]}], (LINK,)),
        ([{"content": [{"url": ""}, {"url": None}, {"url": "/relative"}, {"url": "ftp://o.example"}]}], ()),
        ([{"content": [{"url": "https://o.example/a b.png"}]}], ("https://o.example/a b.png",)),
        ([{"content": [{"url": "https://o. example/a"}, {"url": "https://o.example/\ud800"}]}], ()),
        (None, ()),
        (..., ()),
    ],
)
def test_every_link_of_every_group_is_collected(output, urls):
    """In attempt, whatever the type says; what is no http(s) link is none, and a completed task without one is odd."""
    task = read(output=output)
    assert (task.urls if isinstance(urls, tuple) else len(task.urls)) == urls
    assert task.status == "completed"
    assert (task.excerpt is None) == bool(task.urls)


@pytest.mark.parametrize(
    ("created_at", "expected"),
    [
        (1700000000, 1700000000.0),
        ("1700000000", 1700000000.0),
        (1700000000123, 1700000000.123),
        ("2023-11-14T22:13:20Z", 1700000000.0),
        ("2023-11-14T22:13:20", 1700000000.0),
        ("2023-11-15T06:13:20+08:00", 1700000000.0),
        ("soon", None),
        ({}, None),
        (None, None),
    ],
)
def test_creation_times_are_read_in_every_spelling(created_at, expected):
    """Seconds, milliseconds, ISO texts with and without a zone."""
    assert read(created_at=created_at).created_at == expected


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.5, 0.5), ("1", 1.0), (-1, None), (50, None), ("half", None)]
)
def test_progress_is_a_share_or_unknown(progress, expected):
    """It is not to be trusted, so at least it is a number from 0 to 1."""
    assert read(progress=progress).progress == expected


def test_metadata_keeps_the_numbers_and_only_them():
    """Texts of numbers count, everything else is left out, and there is an end to it."""
    metadata = {
        "in_queue_at": "0.5",
        "completed_at": 3,
        "note": "x",
        "flag": True,
        "nan": float("nan"),
        "": 1,
    }
    assert read(metadata=metadata).metadata == {"in_queue_at": 0.5, "completed_at": 3.0}
    assert len(read(metadata={f"m{i}": i for i in range(1000)}).metadata) == 50
    assert read(metadata=[1]).metadata == {}


@pytest.mark.parametrize(
    "about",
    [
        {"id": "other"},
        {"id": 5},
        {"id": "an other"},
        {"id": None, "task_id": "other"},
        {"id": None, "data": DONE | {"id": "other"}},
        {"id": "other", "data": {"status": "completed", "output": OUTPUT}},
    ],
)
def test_an_answer_about_another_task_is_refused(about):
    """Its picture belongs to another row."""
    with pytest.raises(messages.AboutAnother):
        read(**about)


@pytest.mark.parametrize(
    "about", [{"id": None}, {"id": "record-5", "task_id": ID}, {"id": ID, "task_id": "record-5"}]
)
def test_an_answer_that_names_the_task_or_none_is_about_it(about):
    """Some of the family number their records beside the tasks."""
    assert read(**about).status == "completed"
    assert messages.read_task(b"[%b]" % written(DONE | about), ID).urls == (LINK,)


def test_the_task_inside_an_envelope_with_an_id_of_its_own_is_found():
    """A gateway may number its answers."""
    assert messages.read_task(written({"id": "request-1", "status": "success", "data": DONE}), ID) == read()


@pytest.mark.parametrize(
    "around", [b")]}',\n%b", b"Warning: slow\r\n%b", b"data: %b\n\n", b"cb(%b);", b"/* */%b", b"%b\nnull"]
)
def test_a_task_is_read_inside_what_was_written_around_it(around):
    """Programs on the way write warnings and guards; without the task's own id it may be anything of a page."""
    link = "https://x.example/a.png"
    body = {"status": "completed", "output": [{"content": [{"url": link}]}], "usage": {"cost": "0.03"}}
    task = messages.read_task(around % json.dumps({"id": ID} | body).encode(), ID)
    assert (task.status, task.urls, task.cost) == ("completed", (link,), "0.03")
    for page in (body, {"id": "another"} | body, {"status": "failed", "error": "x"}):
        with pytest.raises(messages.Unreadable):
            messages.read_task(around % json.dumps(page).encode(), ID)


def test_a_task_in_an_envelope_is_found():
    """Some of the family's endpoints wrap everything in `data`."""
    for status in ({"code": 200, "message": "success"}, "success"):
        assert messages.read_task(written({"status": status, "data": DONE}), ID) == read()


@pytest.mark.parametrize("outside", ["id", "task_id"])
def test_a_task_with_its_id_outside_and_its_status_inside_is_read(outside):
    """Whatever is said inside; the picture of another task stays one of another."""
    inside = {name: value for name, value in DONE.items() if name != "id"}
    assert (
        dataclasses.replace(messages.read_task(written({outside: ID, "data": inside}), ID), excerpt=None)
        == read()
    )
    rendered = messages.read_task(
        written({outside: ID, "code": 0, "data": inside | {"status": "rendered"}}), ID
    )
    assert (rendered.status, rendered.unlisted_status) == ("completed", "rendered")
    assert messages.read_task(written({outside: ID, "data": inside | {"id": "other"}}), ID).urls == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b"{}",
        b'{"status": "error", "message": "try again later"}',
        b'{"id": "cq0example", "error": {"code": 429, "message": "slow down"}}',
        b'{"id": "cq0example", "error": {"code": "503", "message": "try again"}}',
        b'{"id": "cq0example", "error": {"code": "TooManyRequests", "message": "slow down"}}',
        b'{"id": "cq0example", "error": {"code": 50430, "message": "too many tasks"}}',
        b'{"id": "cq0example", "error": {"code": 408, "message": "too slow"}}',
        b'{"id": "cq0example", "error": {"code": "RequestTimeout", "message": "too slow"}}',
        b'{"id": "cq0example", "error": {"code": "internal_error", "message": "oops"}}',
        b'{"status": {"code": 500, "message": "oops"}, "data": null}',
        b'{"status": "error", "error": {"code": 500, "message": "internal"}}',
        b'{"status": "failed", "error": "Task not found"}',
        b'{"id": "cq0example", "status": "error", "error": {"code": "task_not_found", "message": "no"}}',
        b'{"error": {"message": "internal"}}',
        b'{"code": 0, "data": {}}',
        b"<html>Bad Gateway</html>",
        written(DONE)[:-20],
    ],
)
def test_an_answer_that_is_not_about_the_task_ends_no_task(body):
    """A gateway's own error with HTTP 200 must not fail a task that is paid for."""
    with pytest.raises(Unreadable):
        messages.read_task(body, ID)


def test_an_error_with_the_id_but_without_a_status_is_a_failed_task():
    """An error only ever comes with failed tasks."""
    task = messages.read_task(written({"id": ID, "error": {"code": "003011099"}}), ID)
    assert (task.status, task.error.code) == ("failed", "003011099")


@pytest.mark.parametrize("reader", READERS)
def test_a_field_named_twice_must_say_the_same(reader):
    """Nobody can tell which of two values counts, at any depth; repeating one does no harm."""
    once = written(DONE)
    again = once.replace(b'"usage": {', b'"id": "%b", "usage": {"cost": "0.0286", ' % ID.encode())
    assert reader(again) == reader(once)
    other = once.replace(b'"usage": {', b'"usage": {"cost": "0.0285", ')
    if reader is messages.read_error:
        assert reader(other).message.startswith('{"id": "cq0example"')
    else:
        with pytest.raises(Unreadable, match="cq0example"):
            reader(other)


@pytest.mark.parametrize(
    "body",
    [
        {"id": "one", "task_id": "two"},
        {"id": "one", "data": {"id": "two"}},
        {"id": 1, "task_id": 2},
        {"id": "one", "error": {"message": "bad", "details": {"task_id": "two"}}},
    ],
)
def test_a_create_that_names_two_tasks_is_taken_for_neither(body):
    """One of them is paid for, and which is not known."""
    assert (
        messages.read_created(written(body | {"id": ID, "task_id": ID, "data": {"id": ID}, "error": None}))
        == ID
    )
    with pytest.raises(Unreadable):
        messages.read_created(written(body))


def test_an_answer_with_two_ids_is_taken_for_neither():
    """It may be about one task or the other; what it said is kept."""
    body = b'{"id": "cq0one", "status": "in_progress", "id": "cq0two"}'
    with pytest.raises(Unreadable) as caught:
        messages.read_created(body)
    assert caught.value.excerpt == body.decode()
    with pytest.raises(Unreadable):
        messages.read_task(body, "cq0two")


@pytest.mark.no_cover
@given(
    st.dictionaries(
        st.sampled_from(["id", "data", *DONE, "error", "progress", "message"]), values, max_size=9
    )
)
def test_no_json_makes_reading_a_task_crash(fields):
    """Arbitrary values in every field give a valid task or say that there is none."""
    read_or_not = tried(
        lambda body: messages.read_task(body, ID), json.dumps(DONE | fields, default=str).encode()
    )
    if isinstance(read_or_not, Unreadable):
        assert len(read_or_not.excerpt.encode()) <= 2000
    else:
        assert_valid(read_or_not)


@given(values)
def test_no_json_makes_any_reader_crash(value):
    """Each gives its dataclass or says that the answer can't be read."""
    for reader in READERS:
        result = tried(reader, written(value))
        assert isinstance(result, str | ServiceMessage | Price | Task | Unreadable)
        storable = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else str(result)
        assert json.dumps(storable, ensure_ascii=False, allow_nan=False).encode()


@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda tail: written(DONE)[:150] + tail))
def test_no_bytes_make_any_reader_crash(body):
    """Not even those that are no JSON, no UTF-8, or cut off anywhere."""
    for reader in READERS:
        result = tried(reader, body)
        assert isinstance(result, str | ServiceMessage | Price | Task | Unreadable)
    told = messages.read_error(body)
    assert told.message is None or told.message.encode()


def tried(reader, body: bytes):
    try:
        return reader(body)
    except Unreadable as unreadable:
        return unreadable


def assert_valid(task: Task) -> None:
    assert task.task_id == ID
    assert task.status in ("in_progress", "completed", "failed")
    assert all(re.match("https?://", url, re.IGNORECASE) for url in task.urls)
    assert task.cost is None or (
        Decimal(task.cost).is_finite() and Decimal(task.cost) >= 0 and "E" not in task.cost
    )
    assert all(math.isfinite(value) for value in task.metadata.values())
    assert task.created_at is None or math.isfinite(task.created_at)
    assert task.progress is None or 0 <= task.progress <= 1
    assert task.excerpt is None or len(task.excerpt.encode()) <= 2000
    # Everything can be journaled: plain JSON, and UTF-8 at that.
    json.dumps(dataclasses.asdict(task), ensure_ascii=False, allow_nan=False).encode()


# Prices and errors ---------------------------------------------------------------------------------------------


def test_a_price_is_read_as_documented():
    """The cost keeps its digits; the rest is as the service wrote it."""
    data = {
        "billing_model": "x",
        "cost": "0.0357",
        "currency": "USD",
        "discount": 0.7,
        "updated_at": 1700000000000,
    }
    assert messages.read_price(written({"status": "success", "data": data})) == Price(
        "0.0357", "0.7", "USD", None
    )


@pytest.mark.parametrize(
    "body",
    [
        {"status": "failed", "data": {"cost": None}, "reason": "COST_CACHE_MISS"},
        {"status": "failed", "data": {"cost": None, "reason": "COST_CACHE_MISS"}},
        {"status": "failed", "cost": None, "reason": "COST_CACHE_MISS", "data": None},
        {"error": {"message": "COST_CACHE_MISS"}},
    ],
)
def test_an_unknown_price_has_a_reason(body):
    """Wherever the service puts it."""
    assert messages.read_price(written(body)) == Price(None, None, None, "COST_CACHE_MISS")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"code": "003011001", "error_message": "m"}}, ("003011001", "m")),
        ({"error": {"code": "003011001", "message": "m"}}, ("003011001", "m")),
        ({"error": {"code": "003011001"}, "message": "m", "code": 400}, ("003011001", "m")),
        ({"message": "m"}, (None, "m")),
        ({"error": "m"}, (None, "m")),
        ({"detail": "m"}, (None, "m")),
        ({"detail": {"code": 7, "msg": "m"}}, ("000000007", "m")),
        ({"detail": [{"loc": ["body"], "msg": "a"}, {"msg": "b"}]}, (None, "a; b")),
        ({"status": {"code": 401, "message": "m", "error_code": "E1"}, "data": None}, ("E1", "m")),
        ({"code": 110001, "message": "m"}, ("000110001", "m")),
        ("m", (None, "m")),
        ({}, (None, None)),
        (None, (None, None)),
        ([], (None, None)),
    ],
)
def test_error_bodies_are_read_in_every_shape(body, told):
    """All of the family's shapes, and some that web frameworks make."""
    assert messages.read_error(written(body)) == ServiceMessage(*told)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", None),
        (b"  \n", None),
        (b"upstream connect error", "upstream connect error"),
        (b"<html><head><TITLE>\n502 Bad &amp; Gateway</TITLE></head><h1>x</h1>", "502 Bad & Gateway"),
        (b"<h1>Not</h1>\n<p>here</p>", "Not here"),
        (b'{"message": "cut o', '{"message": "cut o'),
        (b"\xff\x00", "\ufffd\ufffd"),
    ],
)
def test_error_bodies_that_are_no_json_give_what_a_person_would_read(body, message):
    """A page's title, or its text."""
    assert messages.read_error(body) == ServiceMessage(None, message)


def test_long_texts_end():
    """A service's words go into a table, not a novel."""
    assert len(messages.read_error(written({"message": "x" * 10_000})).message) == 2000
    assert len(messages.excerpt("\u72d0".encode() * 5000).encode()) <= 2000
    assert len(messages.excerpt(b"\xff" * 5000).encode()) <= 2000


@pytest.mark.parametrize("currency", ["credit", "CNY", "points", "7"])
@pytest.mark.parametrize("key", ["currency", "unit", "Currency", "price_currency", "currencyCode"])
def test_a_price_in_another_currency_is_no_price(currency, key):
    """Neither of a create to come nor of a task that has ended, wherever the currency stands."""
    told = int(currency) if currency.isdigit() else currency
    for answer in ({"data": {"cost": "5", key: told}}, {"data": {"cost": "5"}, key: told}):
        price = messages.read_price(written(answer))
        assert (price.cost, price.currency) == (None, currency)
        assert currency in price.reason
    task = read(usage={"cost": "5", key: told})
    assert (task.cost, task.is_cost_unreadable) == (None, True)
    assert read(usage={"cost": "5", key: "usd"}).cost == "5"
    assert read(usage={"cost": "5", "max_concurrency": 7}).cost == "5"
    assert messages.read_price(written({"data": {"cost": "$5", key: "usd"}})).cost == "5"
    for shape in ([currency], {"code": currency}):
        assert messages.read_price(written({"data": {"cost": "5", key: shape}})).cost is None
    assert "'¥5'" in messages.read_price(written({"data": {"cost": "¥5"}})).reason


@pytest.mark.parametrize(
    "places",
    [
        {"usage": {"cost": "0.03 USD"}},
        {"usage": {"cost": "$0.03", "unit": "USD"}},
        {"usage": None, "cost": "0.03"},
        {"usage": {}, "billing": {"cost": 0.03}},
        {"usage": {"quantity": 1}, "metadata": {"cost": 0.03}},
        {"usage": ..., "error": {"message": "x", "usage": {"cost": "0.03"}}},
        {"usage": ..., "output": [{"content": [], "usage": {"cost": "0.03"}}]},
        {"usage": {"cost": ""}, "error": {"message": "x", "cost": "0.03"}},
        {"usage": {"cost": None, "extra_info": {"cost": "0.03"}}},
        {"usage": ..., "bills": [{"cost": "0.03"}], "input": [{"params": {"cost": "0.05"}}]},
    ],
)
@pytest.mark.parametrize("status", ["failed", "completed"])
def test_a_cost_is_found_beside_the_documented_place(status, places):
    """It is spent money, also if the task failed."""
    task = read(status=status, **places)
    assert (task.cost, task.is_cost_unreadable) == ("0.03", False)


def test_a_cost_in_another_unit_is_none():
    """Credits are no USD, whatever their key is called."""
    task = read(usage={"cost": "3", "unit": "credits"})
    assert (task.cost, task.is_cost_unreadable) == (None, True)


@pytest.mark.parametrize(
    "error",
    [
        *("none", "null", "OK", "no error", "成功", [], {}, False, 0),
        {"code": 10000, "message": "Success"},
        {"code": "E0", "message": "成功。"},
    ],
)
def test_an_error_that_says_there_is_none_is_none(error):
    """A picture that was paid for isn't thrown away because of it."""
    assert (read(error=error).status, read(error=error).error) == ("completed", None)


def test_another_id_beside_the_tasks_own_is_kept():
    """A task id, or without any the request id of a queue; a request id beside an id is only the request's."""
    assert read(task_id="t2").other_id == "t2"
    assert read(id=..., request_id="r2").other_id == "r2"
    assert read(request_id="r2").other_id is None
    assert read(id=..., request_id=ID).other_id is None


def test_a_cost_under_another_name_is_not_free():
    """It can't be counted, but the failure isn't known to be unbilled; the price of a unit tells nothing."""
    for name in ("total_cost", "price", "amount_usd"):
        assert read(usage={name: "0.02"}).is_cost_unreadable
    assert not read(usage={"total_cost": 0, "unit_price": "0.02", "used": 1}).is_cost_unreadable


@pytest.mark.parametrize(
    "places",
    [
        {"usage": {"credits": 3}},
        {"usage": {"deducted": "0.02"}},
        {"usage": {"charged": True}},
        {"usage": {"cost": "", "amount": "$0.02"}},
        {"usage": {"cost": None, "extra_info": {"cost_usd": "0.02"}}},
        {"usage": ..., "billing": {"charged_amount": 0.02}},
        {"usage": ..., "total_cost": "0.02 USD"},
        {"usage": {"cost": ""}, "metadata": {"billed": "0.02"}},
        {"usage": ..., "Usage": {"Cost": "0.02"}},
        {"usage": ..., "bills": [{"paid": 0.02}]},
        {"usage": ..., "error": {"code": "003011095", "message": "no", "charge": "0.02"}},
    ],
)
def test_a_cost_anywhere_in_a_failure_leaves_it_open_whether_it_was_billed(places):
    """Without a documented one; so the failure is never submitted again by itself."""
    task = read(**({"status": "failed", "error": {"code": "003011095", "message": "no"}} | places))
    assert (task.status, task.cost, task.is_cost_unreadable) == ("failed", None, True)


@pytest.mark.parametrize("name", ["timing", "estimate", "unit"])
def test_the_cost_of_something_else_is_not_what_the_task_cost(name):
    """Neither seconds nor an estimate is counted as USD."""
    assert read(usage=..., **{name: {"cost": 3.2}}).cost is None


@pytest.mark.parametrize(
    "places",
    [
        {"usage": {"credits_remaining": 7, "fee": 0, "amount": "0.00", "charged": False, "price": ""}},
        {"usage": {"cost": ""}, "input": {"params": {"price": 5}}, "metadata": {"feedback": 1.0}},
        {"usage": ..., "billing": {"estimated_cost": "0.02", "credit_limit": 9}},
        {"usage": ..., "cost_time": 12.5, "metadata": {"time_cost": "12", "timeSpent": 3.2}},
        {
            "usage": ...,
            "price_per_second": 0.01,
            "error": {"message": "x", "recharge_url": "https://x.example/1"},
        },
    ],
)
def test_what_is_no_cost_of_a_failure_leaves_it_unbilled(places):
    """Nothing, what is left, an estimate, and what the answer repeats of the request."""
    assert not read(status="failed", output=..., **places).is_cost_unreadable


@pytest.mark.parametrize(
    ("answer", "task_id"),
    [
        ({"id": ID, "created_at": 1796035412, "status": "in_progress"}, ID),
        ({"code": 0, "data": {"task_id": ID, "further": [1, {"brackets": "]}"}]}}, ID),
        ({"data": [{"id": ID}]}, ID),
        ({"status": "in_progress", "task_id": 1796035412, "code": 0}, "1796035412"),
    ],
)
def test_an_answer_that_is_cut_off_names_its_task_once_the_id_is_whole(answer, task_id):
    """Cut anywhere: never a part of an id."""
    body = written(answer)
    end = body.index(task_id.encode()) + len(task_id) + 1
    for cut in range(len(body) + 1):
        assert messages.named_tasks_in(body[:cut]) == ([task_id] if cut >= end else [])


@pytest.mark.parametrize("place", ["request", "params", "parameters", "input"])
def test_a_task_is_named_also_among_what_an_error_repeats(place):
    """Wherever it stands, it may be what the create has bought."""
    for named in ({"task_id": ID}, {"task": {"id": ID}}):
        assert messages.named_tasks_in(written({"error": "x", place: named})) == [ID]


def test_a_cost_of_many_blanks_is_read_at_once():
    """It is no amount, and no other thread runs while a pattern is searched."""
    began_at = time.process_time()
    body = json.dumps({"id": "a", "status": "completed", "usage": {"cost": "1" + "\n" * 100_000 + "1"}})
    task = messages.read_task(body.encode(), "a")
    assert (task.cost, task.is_cost_unreadable) == (None, True)
    assert time.process_time() - began_at < 5
