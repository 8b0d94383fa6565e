"""Read the body of a create or precharge request: every field checked, the first problem told.

The base64 text of a reference makes up nearly all of a body, so it is cut out before the rest is parsed.

Examples
--------
>>> body = b'{"model": "spark_dreamo", "input": [{"params": {"prompt": "a fox", "width": 100}}]}'
>>> form = read_form(body)
>>> form.prompt, form.problem.code
('a fox', '003011002')
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dreamo_batch.local import fields
from dreamo_batch.service import parameters

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

SMALL_BODY_BYTES = 64 * 1024

_BASE64_START = re.compile(rb'"binary_data_base64"\s*:\s*\[\s*"')


@dataclass(frozen=True, slots=True)
class Form:
    """An order as it was asked for, with its first problem if it has one.

    `image` is the SHA-256 of the reference's bytes, or of its URL's text; `reference` the bytes, unless it is
    a URL. Fields that could not be read hold their defaults.

    Examples
    --------
    >>> Form("a fox", -1, 1328, 1328, True, image="e" * 64, reference=b"...").problem is None
    True
    """

    prompt: str
    seed: int
    width: int
    height: int
    use_rephraser: bool
    image: str = ""
    image_url: str | None = None
    reference: bytes | None = None
    problem: fields.Problem | None = None


def read_form(body: bytes, x_model: str | None = None) -> Form:
    """Read a whole request body.

    Parameters
    ----------
    body : bytes
        JSON, as sent.
    x_model : str or None
        The header `X-Model`, which may stand for the body's `model`.

    Returns
    -------
    Form
        With its `problem` if one of the parameters deserves a code.

    Raises
    ------
    Refused
        If there are no parameters to be read at all, or the model is not the one served.

    Examples
    --------
    >>> read_form(b"not JSON")
    Traceback (most recent call last):
    ...
    dreamo_batch.local.fields.Refused: Invalid parameter: the body is not a JSON object
    """
    payload = _parse(body)
    _check_model(payload.get("model"), x_model)
    match payload.get("input"):
        case [{"params": dict(params)}]:
            return _read(params)
    raise fields.Refused(fields.INVALID, 'input must be an array of one object with "params"')


def _parse(body: bytes) -> dict[str, Any]:
    try:
        payload = _parse_around_base64(body) or json.loads(body)
    # RecursionError: brackets a thousand deep.
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        raise fields.Refused(fields.INVALID, "the body is not a JSON object")
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
        raise fields.Refused(fields.INVALID, "model in the body and X-Model differ")
    if parameters.MODEL not in (model, x_model):
        raise fields.Refused(fields.INVALID, f'model must be "{parameters.MODEL}"')


def _read(params: dict[str, Any]) -> Form:
    problems: list[fields.Problem] = []

    def read(reader: Callable[[dict[str, Any]], T], default: T) -> T:
        try:
            return reader(params)
        except fields.Refused as refused:
            problems.append(refused.problem)
            return default

    side = parameters.SIDE_DEFAULT_PX.value
    prompt = read(fields.read_prompt, "")
    source = read(fields.read_source, fields.Source())
    seed = read(fields.read_seed, parameters.SEED_RANDOM.value)
    width, height = read(fields.read_size, (side, side))
    use_rephraser = read(fields.read_rephraser, parameters.USE_REPHRASER_DEFAULT.value)
    first = problems[0] if problems else None
    return Form(prompt, seed, width, height, use_rephraser, source.image, source.url, source.content, first)
