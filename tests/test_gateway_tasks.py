"""The pure parts of the local gateway: prices, limits, latencies, states, creates as they are read."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dreamo_batch.gateway.app import SMALL_BODY_BYTES
from dreamo_batch.gateway.engines import DrawRequest
from dreamo_batch.gateway.schemas import Create, Problem, problem_of, read_create, read_header
from dreamo_batch.gateway.tasks import (
    Bucket,
    GatewaySettings,
    GatewayTask,
    Slots,
    TaskStore,
    price_of,
    read_latency,
    retry_hint,
    size_price,
    total,
)
from tests.local_client import REFERENCE, body, picture_file

REQUEST = DrawRequest("a fox", 1, 512, 512, use_rephraser=True)


def read(**params: object) -> Create:
    return read_create(json.dumps(body(**params)).encode())


def problem_in(body: bytes) -> Problem | None:
    """Return the problem of a body, wherever it was found."""
    try:
        return read_create(body).problem
    except ValidationError as error:
        return problem_of(error)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A PNG that is small on disk and vast unpacked."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100_000))


@given(st.integers(512, 2048), st.integers(512, 2048))
def test_prices_are_plain_decimals_that_grow_with_the_picture(width, height):
    """The price is readable by Decimal, exact, and monotonic in the number of pixels."""
    assert Decimal(size_price(width, height)) < Decimal(size_price(width + 1, height))
    assert "E" not in size_price(width, height)


@pytest.mark.parametrize("price", ["-1", "1e3", "NaN", "", ".", "٣", " 1", -1, 0.03])
def test_a_price_that_is_no_plain_decimal_is_refused(price):
    """Only digits and one point make a price, fixed or computed."""
    with pytest.raises(ValueError, match="plain decimal"):
        GatewaySettings(price=price)
    with pytest.raises(ValueError, match="plain decimal"):
        price_of(REQUEST, lambda _: price)


@given(st.lists(st.decimals(0, 100, places=10).map(lambda d: format(d, "f")), max_size=50))
def test_totals_are_exact(costs):
    """The total of an invoice is the sum of its texts, to the last digit."""
    assert Decimal(total([{"cost": cost} for cost in [*costs, ""]])) == sum(map(Decimal, costs))


@pytest.mark.parametrize(
    "text", ["slow", "fixed", "fixed:x", "fixed:-1", "lognormal:3", "instant:1", "fixed:inf", -1]
)
def test_latencies_that_can_not_be_read_are_refused_with_the_forms(text):
    """The error lists the three forms."""
    with pytest.raises(ValueError, match="lognormal:MEDIAN_S,SIGMA"):
        read_latency(text)


def test_log_normal_latencies_have_the_median_asked_for():
    """Half of many draws are below the median."""
    latency, rng = read_latency("lognormal:3,0.5"), random.Random(1)
    n_below = sum(latency.draw_s(rng) < 3 for _ in range(2000))
    assert 900 < n_below < 1100
    assert read_latency(read_latency(2)).draw_s(rng) == read_latency("fixed:2").draw_s(rng) == 2


@given(st.integers(1, 5), st.lists(st.tuples(st.floats(0, 2), st.floats(0.1, 9)), max_size=40))
def test_a_queue_never_runs_more_than_its_slots(n_slots, arrivals):
    """At the start of each task no more than the others of its slots are running."""
    slots, now, runs = Slots(n_slots, does_queue=True), 0.0, []
    for pause, duration in arrivals:
        now += pause
        assert slots.wait_s(now) == 0
        start = slots.take(now, duration)
        assert start >= now
        runs.append((start, start + duration))
    for start, _ in runs:
        assert sum(other[0] <= start < other[1] for other in runs) <= n_slots


def test_refusing_slots_say_when_the_first_comes_free():
    """Full slots return the seconds to the earliest end, also after a restart."""
    slots = Slots(2, ends=[5.0, 3.0, 9.0])
    assert slots.wait_s(now=1.0) == 4.0
    assert slots.wait_s(now=5.0) == 0.0
    assert slots.take(now=5.0, duration_s=1.0) == 5.0


@given(st.floats(0.5, 100), st.lists(st.floats(0, 1), min_size=1, max_size=100))
def test_a_bucket_lets_no_more_through_than_its_rate(rate, pauses):
    """Over any time, at most the burst and the rate times the time pass."""
    bucket, now, n_passed = Bucket(rate), 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = bucket.take(now)
        n_passed += wait_s == 0
        assert 0 <= wait_s <= 1 / rate + 1e-6
    assert n_passed <= max(1.0, rate) + rate * now + 1e-6


def test_retry_hints_stand_where_they_were_asked_for():
    """Seconds and dates are whole, the body is exact, none is nothing."""
    assert retry_hint("none", 2.5, 0.0) == ({}, {})
    assert retry_hint("body", 2.5, 0.0) == ({}, {"retry_after": 2.5})
    assert retry_hint("seconds", 2.5, 0.0)[0] == {"Retry-After": "3"}
    assert retry_hint("date", 2.5, 0.5)[0] == {"Retry-After": "Thu, 01 Jan 1970 00:00:04 GMT"}


@pytest.mark.parametrize(
    "options",
    [
        {"when_full": "wait"},
        {"max_concurrent": 0},
        {"links_live_s": -1},
        {"discount": "x"},
        {"precharge": ""},
    ],
)
def test_settings_that_can_not_be_are_refused(options):
    """Each setting is checked when the gateway is made, not when it is used."""
    with pytest.raises(ValueError, match=next(iter(options)) + "|plain decimal"):
        GatewaySettings(**options)


@pytest.mark.parametrize(
    ("params", "code", "words"),
    [
        ({"prompt": ...}, "003011001", "Missing prompt"),
        ({"prompt": " \n"}, "003011001", "Missing prompt"),
        ({"prompt": 5}, "003011004", "prompt"),
        ({"prompt": "x" * 10_001}, "003011003", "10000"),
        ({"prompt": "\ud800"}, "003011004", "Invalid JSON"),
        ({"binary_data_base64": ...}, "003011002", "Missing image"),
        ({"binary_data_base64": []}, "003011002", "Missing image"),
        ({"binary_data_base64": [""]}, "003011002", "Missing image"),
        ({"binary_data_base64": "text"}, "003011004", "valid list"),
        ({"binary_data_base64": ["a", "b"]}, "003011004", "binary_data_base64"),
        ({"binary_data_base64": ["data:image/png;base64,AAAA"]}, "003011004", "bare"),
        ({"binary_data_base64": ["é"]}, "003011004", "not base64"),
        ({"binary_data_base64": ["AAA"]}, "003011004", "not base64"),
        ({"binary_data_base64": [base64.b64encode(b"GIF89a").decode()]}, "003011004", "neither JPEG nor PNG"),
        ({"image_urls": ["https://example.org/a.jpg"]}, "003011004", "exactly one of"),
        ({"binary_data_base64": ..., "image_urls": ["ftp://example.org/a"]}, "003011004", "http or https"),
        ({"binary_data_base64": ..., "image_urls": ["file:///etc/passwd"]}, "003011004", "http or https"),
        ({"binary_data_base64": ..., "image_urls": ["http://[::1"]}, "003011004", "http or https"),
        ({"binary_data_base64": ..., "image_urls": ["http://h:99999/"]}, "003011004", "http or https"),
        ({"binary_data_base64": ..., "image_urls": ["http://u:p@h/"]}, "003011004", "user name"),
        ({"binary_data_base64": ..., "image_urls": ["http://h/\n"]}, "003011004", "http or https"),
        ({"seed": -2}, "003011004", "seed"),
        ({"seed": 2**63}, "003011004", "seed"),
        ({"seed": 42.5}, "003011004", "seed"),
        ({"seed": True}, "003011004", "seed"),
        ({"seed": float("nan")}, "003011004", "seed"),
        ({"use_rephraser": 1}, "003011004", "use_rephraser"),
        ({"width": 511}, "003011004", "width"),
        ({"width": 2049, "height": 2048}, "003011004", "below 2048"),
    ],
)
def test_each_bad_parameter_gets_its_code(params, code, words):
    """The four codes of the page stand for the inputs that deserve them."""
    problem = problem_in(json.dumps(body(**params)).encode())
    assert problem is not None
    assert problem.code == code
    assert words in problem.message


@pytest.mark.parametrize(
    "params",
    [
        {"seed": -1},
        {"seed": 42.0},
        {"seed": 2**63 - 1},
        {"width": 2048, "height": 2048},
        {"width": 4096, "height": 1023},
        {"prompt": "雪山" * 400},
        {"binary_data_base64": ..., "image_urls": ["http://127.0.0.1:8000/a%20b.jpg?x=1"]},
        {"binary_data_base64": [base64.b64encode(picture_file(kind="JPEG")).decode()]},
        {"image_urls": None, "extra": {"anything": 1}},
    ],
)
def test_good_parameters_are_taken(params):
    """What the contract allows passes, its edges included."""
    assert read(**params).problem is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"1" * 10_000,
        b"{}",
        b'{"model": "other", "input": []}',
        b'{"model": "spark_dreamo", "input": []}',
        b'{"model": "spark_dreamo", "input": [{"params": 1}]}',
        b'{"model": "spark_dreamo", "input": [{"params": {}}, {"params": {}}]}',
    ],
)
def test_bodies_without_parameters_are_refused_as_a_whole(text):
    """Anything else than one object of parameters has no fields to be judged."""
    with pytest.raises(ValidationError):
        read_create(text)


def test_the_model_stands_in_the_body_or_in_the_header():
    """Either place will do; both must agree."""
    content = body()
    del content["model"]
    assert read_create(json.dumps(content).encode(), "spark_dreamo").problem is None
    with pytest.raises(ValidationError, match="differ"):
        read_create(json.dumps(body()).encode(), "other")
    with pytest.raises(ValidationError, match="spark_dreamo"):
        read_create(json.dumps(content).encode())


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox",
        '"binary_data_base64": ["',
        "\\",
        'x"binary_data_base64":["AAAA"]',
        '\\"binary_data_base64": ["',
    ],
)
def test_a_big_body_reads_as_a_small_one_does(prompt):
    """A body of any size is read as it was sent, also with prompts that look like JSON."""
    large = REFERENCE + b"\0" * SMALL_BODY_BYTES
    text = base64.b64encode(large).decode()
    for params in (
        {"prompt": prompt, "binary_data_base64": [text]},
        {"binary_data_base64": [text], "prompt": prompt},
    ):
        payload = {"input": [{"params": params}], "model": "spark_dreamo"}
        create = read_create(json.dumps(payload).encode())
        assert create.problem is None
        assert (create.request.prompt, create.reference.content) == (prompt, large)


@pytest.mark.parametrize(
    "odd",
    [
        '{"model":"spark_dreamo","input":[{"params":{"prompt":"x","binary_data_base64":["%s","b"]}}]}',
        '{"model":"spark_dreamo","input":[{"params":{"prompt":"x","binary_data_base64":["%s\\/"]}}]}',
        '{"model":"spark_dreamo","binary_data_base64":["%s"],"input":[{"params":{"prompt":"x"}}]}',
        '{"model":"spark_dreamo","input":[{"params":{"prompt":"x","binary_data_base64":["%s\\ud800"]}}]}',
    ],
)
def test_problems_are_found_in_big_bodies(odd):
    """The problem is found in a body of any size."""
    text = base64.b64encode(REFERENCE + b"\0" * SMALL_BODY_BYTES).decode()
    assert problem_in((odd % text).encode()) is not None


def test_a_big_body_that_is_cut_off_is_refused():
    """A body that ends within the base64 text is no JSON."""
    text = json.dumps(body(binary_data_base64=["A" * 2 * SMALL_BODY_BYTES])).encode()
    with pytest.raises(ValidationError):
        read_create(text[: SMALL_BODY_BYTES + 1000])


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5)
)
def test_no_value_of_any_field_breaks_the_reading(value):
    """A field with any JSON value is read or refused."""
    for name in ("prompt", "seed", "width", "height", "use_rephraser", "image_urls", "binary_data_base64"):
        problem = problem_in(json.dumps(body(**{name: value})).encode())
        assert problem is None or problem.code.startswith("00301100")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bomb(4097, 1), "larger than"),
        (bomb(1_000_000, 1_000_000), "larger than"),
        (b"\xff\xd8\xff" + b"\0" * 5_000_000, "bytes"),
        (b"\xff\xd8\xff\xe0", "header"),
        (b"\x89PNG\r\n\x1a\n", "header"),
    ],
)
def test_references_that_could_do_harm_are_refused_by_their_header(content, words):
    """Size in bytes and pixels is known before anything is unpacked."""
    with pytest.raises(ValueError, match=words):
        read_header(content)


@given(st.binary(max_size=200))
def test_no_header_breaks_its_check(tail):
    """Rubbish behind the right first bytes is refused or passed, and nothing else."""
    for start in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"):
        try:
            width, height = read_header(start + tail)
        except ValueError:
            continue
        assert min(width, height) > 0


def test_a_store_of_another_layout_is_refused(tmp_path):
    """A file of another version is left alone."""
    store = TaskStore(tmp_path / "tasks.sqlite")
    store._run("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(RuntimeError, match="layout 99"):
        TaskStore(tmp_path / "tasks.sqlite")


def test_a_task_comes_back_from_the_store_as_it_went_in():
    """Every field survives, switches and big seeds too."""
    task = GatewayTask(
        "c0", "d" * 64, "a\0fox\U0001f98a", 2**63 - 1, 512, 512, False, "e" * 64, 7, 0.25, 0.5, 3.0, "0.01"
    )
    store = TaskStore(":memory:")
    store.add(task)
    assert store.all() == [task]
    store.update("c0", error_code="003011095", error_message="x")
    failed = store.get("c0")
    assert failed is not None
    assert (failed.state(9.0), failed.cost(9.0), failed.use_rephraser) == ("failed", "", False)
    store.close()
