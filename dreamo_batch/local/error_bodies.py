"""Every shape in which an error is told over HTTP.

Examples
--------
>>> error_answer(401, "401", "no such key").body
b'{"error": {"code": "401", "error_message": "no such key"}}'
>>> error_answer(500, "500", "internal", shape="detail").body
b'{"detail": "internal"}'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.local.answers import Answer, json_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HTML: Final = (
    b"<!DOCTYPE html><html><head><title>Gateway</title></head><body><h1>Please wait</h1></body></html>\n"
)

_SHAPES: Final[dict[str, Callable[[str, str], Any]]] = {
    "code_error_message": lambda code, text: {"error": {"code": code, "error_message": text}},
    "code_message": lambda code, text: {"error": {"code": code, "message": text}},
    "message": lambda _, text: {"message": text},
    "string": lambda _, text: {"error": text},
    "detail": lambda _, text: {"detail": text},
    "status": lambda code, text: {"status": {"code": 400, "message": text, "error_code": code}, "data": None},
    "flat": lambda code, text: {"code": code, "message": text},
    "integer_code": lambda code, text: {"error": {"code": int(code), "error_message": text}},
    "list": lambda _code, _text: [],
}


def error_answer(
    status: int,
    code: str,
    message: str,
    *,
    shape: str = "code_error_message",
    headers: Mapping[str, str] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Answer:
    """Make an answer that tells of an error.

    Parameters
    ----------
    status : int
        HTTP status.
    code : str
        The service's code, digits only.
    message : str
        A sentence.
    shape : str
        One of `faults.ERROR_SHAPES`, or ``"list"``.
    headers : mapping or None
        Such as Retry-After.
    fields : mapping or None
        Added to the body's top level.

    Returns
    -------
    Answer

    Examples
    --------
    >>> error_answer(502, "502", "", shape="html").media_type
    'text/html'
    """
    if shape == "html":
        return Answer(status, HTML, "text/html", headers or {})
    if shape == "empty":
        return Answer(status, b"", "text/plain", headers or {})
    payload = _SHAPES[shape](code, message)
    return json_answer(payload | dict(fields) if fields else payload, status, headers)
