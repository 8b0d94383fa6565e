"""The reference picture of an order: looked at before the order is taken, and kept once per content."""

from __future__ import annotations

import binascii
import functools
import hashlib
import json
import os
import re
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from urllib.parse import urlsplit

from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from dreamo_batch.gateway.faults import STAGES
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# By their first bytes; the classes read the header only, so a picture that unpacks to gigabytes stays packed.
_FORMATS = {b"\xff\xd8\xff": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile}
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, struct.error)
N_KEPT = 4


class BadReference(ValueError):  # noqa: N818 - it says what is wrong, and is no error of ours
    """The picture can't be used as a reference; says why, as the end of a sentence."""


def look_at(content: bytes) -> tuple[int, int]:
    """Check a reference against what the service's page asks for, by its header only."""
    if len(content) > contract.INPUT_BYTES_MAX.value:
        raise BadReference(
            f"the picture has {len(content)} bytes, more than {contract.INPUT_BYTES_MAX.value}"
        )
    reader = next((reader for start, reader in _FORMATS.items() if content.startswith(start)), None)
    if reader is None:
        raise BadReference("the picture is neither JPEG nor PNG")
    try:
        with reader(BytesIO(content)) as image:
            width, height = image.size
    except _UNREADABLE:
        raise BadReference("the picture's header can't be read") from None
    if max(width, height) > contract.INPUT_SIDE_MAX_PX.value:
        most = contract.INPUT_SIDE_MAX_PX.value
        raise BadReference(f"the picture is {width}x{height}, larger than {most}x{most} pixels")
    return width, height


class References:
    """Reference pictures on disk, each content once, named by its SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept = {path.name for path in folder.iterdir()}
        # Rows of a table share few references; the last ones are kept in memory.
        self.read = functools.lru_cache(maxsize=N_KEPT)(self._read)

    def keep(self, digest: str, content: bytes) -> None:
        """Write a picture down unless it is there already; when this returns, it is."""
        if digest not in self._kept:
            write_whole(self._folder / digest, content)
            self._kept.add(digest)

    def _read(self, digest: str) -> bytes:
        return (self._folder / digest).read_bytes()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, should the process be killed."""
    draft = path.with_name(f"{path.name}.{os.urandom(4).hex()}.part")
    draft.write_bytes(content)
    draft.replace(path)


MISSING_PROMPT = "003011001"
MISSING_IMAGE = "003011002"
PROMPT_LENGTH = "003011003"
INVALID = "003011004"
URL_CHARACTERS_MAX = 2048
SMALL_BYTES = 64 * 1024
N_SMALL, N_LARGE = 32, 4
# The longest side whose product with the shortest stays below the limit.
# The page states no maximum; this one refuses what no prompt is, so that the error can be met.
PROMPT_CHARACTERS_MOST = 10_000
SIDE_MOST_PX = (contract.PRODUCT_MAX_PX.value - 1) // contract.SIDE_MIN_PX.value


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an order: the service's code, and what exactly."""

    code: str
    detail: str = ""

    @property
    def message(self) -> str:
        """The page's words for the code, and the detail."""
        meaning = contract.ERROR_CODES[self.code].meaning
        return f"{meaning}: {self.detail}" if self.detail else meaning


class Refused(Exception):  # noqa: N818 - it names what happened
    """An order can't be read; `problem` says why."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.problem = Problem(code, detail)
        super().__init__(self.problem.message)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the reference comes from: `image` is the SHA-256 of its bytes, or of its URL's text."""

    image: str = ""
    url: str | None = None
    content: bytes | None = None


def read_prompt(params: dict[str, Any]) -> str:
    """Read the prompt: a string of 1 to 800 characters that is not blank."""
    prompt = params.get("prompt", "")
    if not isinstance(prompt, str):
        raise Refused(INVALID, "prompt must be a string")
    if not prompt.strip():
        raise Refused(MISSING_PROMPT)
    if len(prompt) > PROMPT_CHARACTERS_MOST:
        raise Refused(PROMPT_LENGTH, f"{len(prompt)} characters of {PROMPT_CHARACTERS_MOST}")
    if not _is_text(prompt):
        raise Refused(INVALID, "prompt holds half of a surrogate pair")
    return prompt


def read_source(params: dict[str, Any]) -> Source:
    """Read the reference: exactly one of the two fields, with exactly one item."""
    given = [(name, params[name]) for name in _READERS if params.get(name) not in (None, [])]
    match given:
        case []:
            raise Refused(MISSING_IMAGE)
        case [(_, ["" | b""])]:
            raise Refused(MISSING_IMAGE)
        case [(name, [str() | bytes() as item])]:
            return _READERS[name](item)
        case [(name, _)]:
            raise Refused(INVALID, f"{name} must be an array of exactly one string")
    raise Refused(INVALID, f"exactly one of {' and '.join(_READERS)} must be given")


def read_seed(params: dict[str, Any]) -> int:
    """Read the seed: -1 for a random one, or 0 to 2**63-1."""
    return _integer(params, "seed", contract.SEED_RANDOM.value, -1, contract.SEED_MAX.value)


def read_size(params: dict[str, Any]) -> tuple[int, int]:
    """Read width and height: 512 to 2048, and more only while the product stays below 2048*2048."""
    default, least, most = contract.SIDE_DEFAULT_PX.value, contract.SIDE_MIN_PX.value, SIDE_MOST_PX
    width = _integer(params, "width", default, least, most)
    height = _integer(params, "height", default, least, most)
    advised = contract.SIDE_MAX_PX.value
    if max(width, height) > advised and width * height >= contract.PRODUCT_MAX_PX.value:
        raise Refused(
            INVALID, f"width or height beyond {advised} needs width*height below {advised}*{advised}"
        )
    return width, height


def read_rephraser(params: dict[str, Any]) -> bool:
    """Read the rephraser's switch."""
    value = params.get("use_rephraser", contract.USE_REPHRASER_DEFAULT.value)
    if not isinstance(value, bool):
        raise Refused(INVALID, "use_rephraser must be true or false")
    return value


def check_url(text: str) -> None:
    """Check that a URL is one a reference may be fetched from."""
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    # What is left over would be read differently by every client.
    if not is_good or not text.isprintable() or " " in text or len(text) > URL_CHARACTERS_MAX:
        raise Refused(INVALID, "image_urls must hold an http or https URL")
    if "@" in parts.netloc:
        raise Refused(INVALID, "image_urls must not hold a user name or password")


def _integer(params: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = params.get(name, default)
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole or not least <= value <= most:
        raise Refused(INVALID, f"{name} must be an integer from {least} to {most}")
    return int(value)


def _from_base64(text: str | bytes) -> Source:
    if text[:5] in ("data:", b"data:"):
        raise Refused(INVALID, "binary_data_base64 must be bare, without a data: prefix")
    # Rows of a table share few references. Decoding a large one takes 20 ms in which no other thread runs; its
    # digest is a third of that, and leaves the others alone.
    return _decoded_small(text) if len(text) <= SMALL_BYTES else _decoded_large(_Text(text))


@functools.lru_cache(maxsize=N_SMALL)
def _decoded_small(text: str | bytes) -> Source:
    return _decoded(text)


@functools.lru_cache(maxsize=N_LARGE)
def _decoded_large(text: _Text) -> Source:
    return _decoded(text.take())


class _Text:
    """A large text as a key: equal by its digest, and no longer held once it is decoded."""

    def __init__(self, text: str | bytes) -> None:
        self._text = text
        self._digest = hashlib.sha256(
            text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        ).digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Text) and self._digest == other._digest

    def take(self) -> str | bytes:
        text, self._text = self._text, ""
        return text


def _decoded(text: str | bytes) -> Source:
    try:
        content = binascii.a2b_base64(text, strict_mode=True)
        look_at(content)
    except BadReference as bad:
        raise Refused(INVALID, str(bad)) from None
    except ValueError:
        raise Refused(INVALID, "binary_data_base64 is not base64") from None
    return Source(hashlib.sha256(content).hexdigest(), content=content)


def _from_url(text: str) -> Source:
    check_url(text)
    return Source(hashlib.sha256(text.encode()).hexdigest(), url=text)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_READERS: dict[str, Callable[[Any], Source]] = {"image_urls": _from_url, "binary_data_base64": _from_base64}


T = TypeVar("T")

SMALL_BODY_BYTES = 64 * 1024

_BASE64_START = re.compile(rb'"binary_data_base64"\s*:\s*\[\s*"')


@dataclass(frozen=True, slots=True)
class Form:
    """An order as it was asked for, with its first problem if it has one.

    `image` is the SHA-256 of the reference's bytes, or of its URL's text; `reference` the bytes, unless it is
    a URL. Fields that could not be read hold their defaults.
    """

    prompt: str
    seed: int
    width: int
    height: int
    use_rephraser: bool
    image: str = ""
    image_url: str | None = None
    reference: bytes | None = None
    problem: Problem | None = None


def read_form(body: bytes, x_model: str | None = None) -> Form:
    """Read a whole request body."""
    payload = _parse(body)
    _check_model(payload.get("model"), x_model)
    match payload.get("input"):
        case [{"params": dict(params)}]:
            return _read(params)
    raise Refused(INVALID, 'input must be an array of one object with "params"')


def _parse(body: bytes) -> dict[str, Any]:
    try:
        payload = _parse_around_base64(body) or json.loads(body)
    # RecursionError: brackets a thousand deep.
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        raise Refused(INVALID, "the body is not a JSON object")
    return payload


def _parse_around_base64(body: bytes) -> Any:
    """Parse a big body without its base64 text, or give None where that can't be done safely."""
    found = _BASE64_START.search(body) if len(body) > SMALL_BODY_BYTES else None
    if found is None:
        return None
    end = body.find(b'"', found.end())
    base64 = body[found.end() : end]
    # A quote within a JSON string is escaped, so what was found is no part of a prompt; a backslash, though,
    # could mean that the text goes on behind this quote.
    if end < 0 or b"\\" in base64:
        return None
    payload = json.loads(body[: found.end()] + body[end:])
    match payload:
        case {"input": [{"params": {"binary_data_base64": [""]} as params}]}:
            params["binary_data_base64"] = [base64]
            return payload
    return None


def _check_model(model: Any, x_model: str | None) -> None:
    if model is not None and x_model is not None and model != x_model:
        raise Refused(INVALID, "model in the body and X-Model differ")
    if contract.MODEL not in (model, x_model):
        raise Refused(INVALID, f'model must be "{contract.MODEL}"')


def _read(params: dict[str, Any]) -> Form:
    problems: list[Problem] = []

    def read(reader: Callable[[dict[str, Any]], T], default: T) -> T:
        try:
            return reader(params)
        except Refused as refused:
            problems.append(refused.problem)
            return default

    side = contract.SIDE_DEFAULT_PX.value
    prompt = read(read_prompt, "")
    source = read(read_source, Source())
    seed = read(read_seed, contract.SEED_RANDOM.value)
    width, height = read(read_size, (side, side))
    use_rephraser = read(read_rephraser, contract.USE_REPHRASER_DEFAULT.value)
    first = problems[0] if problems else None
    return Form(prompt, seed, width, height, use_rephraser, source.image, source.url, source.content, first)


Schema: TypeAlias = dict[str, Any]
Responses: TypeAlias = dict[int | str, dict[str, Any]]


def described(*statuses: int, good: Schema) -> Responses:
    """Describe the answers of one endpoint."""
    errors: Responses = {status: refused() for status in (*statuses, 429)}
    return errors | {200: {"description": "Done", "content": {"application/json": {"schema": good}}}}


def refused(schema: Schema | None = None) -> dict[str, Any]:
    """Describe one error."""
    return {"description": "Refused", "content": {"application/json": {"schema": schema or REFUSAL}}}


def _object(required: Schema, optional: Schema | None = None) -> Schema:
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


TEXT: Final = {"type": "string"}
WHOLE: Final = {"type": "integer"}
NUMBER: Final = {"type": "number"}
ANYTHING: Final = {"type": "object"}
MAYBE_TEXT: Final = {"type": ["string", "null"]}

_ERROR: Final = _object({"code": TEXT, "error_message": TEXT})
# `retry_after` in seconds, where the limit's setting puts it into the body; `detail` is a host without precharge.
REFUSAL: Final = {"anyOf": [_object({"error": _ERROR}, {"retry_after": NUMBER}), _object({"detail": TEXT})]}
_HEAD: Final = {"id": TEXT, "created_at": WHOLE, "status": TEXT, "model": TEXT}
CREATED: Final = _object(_HEAD)
_CONTENT: Final = _object({"type": TEXT, "url": TEXT, "size": WHOLE, "jobId": TEXT})
POLLED: Final = _object(
    _HEAD | {"metadata": _map(NUMBER)},
    {
        "progress": NUMBER,
        "output": _array(_object({"content": _array(_CONTENT)})),
        "usage": _object({"cost": TEXT, "discount": NUMBER}),
        "error": _ERROR,
    },
)
PRICED: Final = _object(
    {
        "status": TEXT,
        "data": _object(
            {"cost": MAYBE_TEXT, "currency": TEXT, "model": TEXT},
            {
                "billing_model": TEXT,
                "discount": NUMBER,
                "hash": TEXT,
                "sample_count": WHOLE,
                "updated_at": WHOLE,
                "reason": TEXT,
            },
        ),
    }
)
SKILL: Final = _object(
    {"status": _object({"code": WHOLE, "message": TEXT}), "data": {"type": ["object", "null"]}}
)
PLAN: Final = _object({"probabilities": _map(_map(NUMBER)), "script": _map(_array(TEXT))})
INVOICE: Final = _object({"n_orders": WHOLE, "total": TEXT, "tasks": _array(ANYTHING)})

_SIDE: Final = {
    "type": "integer",
    "minimum": contract.SIDE_MIN_PX.value,
    "maximum": SIDE_MOST_PX,
    "default": contract.SIDE_DEFAULT_PX.value,
    "description": f"Pixels; beyond {contract.SIDE_MAX_PX.value} only while width*height stays below its square.",
}
_ONE_TEXT: Final = {
    "type": "array",
    "items": {"type": "string", "minLength": 1},
    "minItems": 1,
    "maxItems": 1,
}
PARAMS: Final[dict[str, dict[str, Any]]] = {
    "prompt": {
        "type": "string",
        "minLength": 1,
        "maxLength": PROMPT_CHARACTERS_MOST,
        "description": "What to draw, Chinese or English.",
    },
    "image_urls": _ONE_TEXT | {"description": "One http or https URL; instead of binary_data_base64."},
    "binary_data_base64": _ONE_TEXT
    | {"description": "One JPEG or PNG file in base64; instead of image_urls."},
    "seed": {
        "type": "integer",
        "minimum": contract.SEED_RANDOM.value,
        "maximum": contract.SEED_MAX.value,
        "default": contract.SEED_RANDOM.value,
        "description": "-1 for a random one.",
    },
    "use_rephraser": {
        "type": "boolean",
        "default": contract.USE_REPHRASER_DEFAULT.value,
        "description": "Let the service rewrite the prompt.",
    },
    "width": _SIDE,
    "height": _SIDE,
}
_ITEM: Final = {
    "type": "object",
    "required": ["params"],
    "properties": {
        "params": {
            "type": "object",
            "required": ["prompt"],
            "properties": PARAMS,
            "oneOf": [{"required": ["image_urls"]}, {"required": ["binary_data_base64"]}],
        }
    },
}
_ORDER: Final = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "model": {"type": "string", "enum": [contract.MODEL]},
        "input": {"type": "array", "items": _ITEM, "minItems": 1, "maxItems": 1},
    },
}
SECURITY_SCHEMES: Final = {"key": {"type": "http", "scheme": "bearer"}}
_X_MODEL: Final = {
    "name": "X-Model",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": [contract.MODEL]},
    "description": "May stand for the body's model.",
}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


GUARDED: Final[dict[str, Any]] = {"security": [{"key": []}]}
ORDER_BODY: Final = GUARDED | _body(_ORDER) | {"parameters": [_X_MODEL]}
_FAULTS: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": dict.fromkeys(STAGES, ANYTHING) | {"script": ANYTHING, "clear": {"type": "boolean"}},
    "description": "Stage to fault to probability; script: stage to list of faults; clear: forget all first.",
}
FAULTS_BODY: Final = GUARDED | _body(_FAULTS)
