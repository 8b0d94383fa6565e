"""Creates as the local gateway reads them: each bad parameter has its code, and no body does harm."""

from __future__ import annotations

import base64
import json
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dreamo_batch.gateway.app import SMALL_BODY_BYTES
from dreamo_batch.gateway.schemas import Create, Problem, problem_of, read_create, read_header
from tests.local_client import REFERENCE, body, picture_file


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
        assert (create.request.prompt, create.references[0].content) == (prompt, large)


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
