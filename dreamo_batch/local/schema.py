"""What the gateway's OpenAPI description says of bodies and answers, as JSON Schema.

Written down rather than derived from models: nothing is checked with it at run time, and a gateway that is started
for one test need not build them.

Examples
--------
>>> sorted(CREATED["properties"])
['created_at', 'id', 'model', 'status']
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from dreamo_batch.local.faults import STAGES
from dreamo_batch.local.fields import PROMPT_CHARACTERS_MOST, SIDE_MOST_PX
from dreamo_batch.service import parameters

Schema: TypeAlias = dict[str, Any]
Responses: TypeAlias = dict[int | str, dict[str, Any]]


def described(*statuses: int, good: Schema) -> Responses:
    """Describe the answers of one endpoint.

    Parameters
    ----------
    *statuses : int
        The errors it can answer, beside 429.
    good : dict
        The schema of HTTP 200.

    Returns
    -------
    dict
        For FastAPI's `responses`.

    Examples
    --------
    >>> sorted(described(401, good=CREATED))
    [200, 401, 429]
    """
    errors: Responses = {status: refused() for status in (*statuses, 429)}
    return errors | {200: {"description": "Done", "content": {"application/json": {"schema": good}}}}


def refused(schema: Schema | None = None) -> dict[str, Any]:
    """Describe one error.

    Parameters
    ----------
    schema : dict or None
        Of its body, if it is not the usual one.

    Returns
    -------
    dict
        One entry of FastAPI's `responses`.

    Examples
    --------
    >>> refused()["description"]
    'Refused'
    """
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
    "minimum": parameters.SIDE_MIN_PX.value,
    "maximum": SIDE_MOST_PX,
    "default": parameters.SIDE_DEFAULT_PX.value,
    "description": f"Pixels; beyond {parameters.SIDE_MAX_PX.value} only while width*height stays below its square.",
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
        "minimum": parameters.SEED_RANDOM.value,
        "maximum": parameters.SEED_MAX.value,
        "default": parameters.SEED_RANDOM.value,
        "description": "-1 for a random one.",
    },
    "use_rephraser": {
        "type": "boolean",
        "default": parameters.USE_REPHRASER_DEFAULT.value,
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
        "model": {"type": "string", "enum": [parameters.MODEL]},
        "input": {"type": "array", "items": _ITEM, "minItems": 1, "maxItems": 1},
    },
}
SECURITY_SCHEMES: Final = {"key": {"type": "http", "scheme": "bearer"}}
_X_MODEL: Final = {
    "name": "X-Model",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": [parameters.MODEL]},
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
