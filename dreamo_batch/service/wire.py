"""JSON to frozen dataclasses and back: the only reader and writer of payloads.

Liberal in what it reads: every spelling the service's family is known for, and whatever else comes is a value that
says so (`Task.excerpt`), never a crash.

Examples
--------
>>> request = Request("a red fox", 7, 1328, 1328, True, image_url="https://example.org/fox.png")
>>> encode(request)[:36]
b'{"model": "spark_dreamo", "input": ['
>>> read_created(b'{"id": "cq0example", "status": "in_progress"}')
'cq0example'
>>> read_task(b'{"status": "Succeeded", "output": ["https://o.example/a.png"]}', "cq0example").status
'completed'
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from dreamo_batch.errors import UsageError
from dreamo_batch.service import payload as values
from dreamo_batch.service.parameters import MODEL
from dreamo_batch.service.payload import ServiceMessage, Unreadable
from dreamo_batch.service.task import AboutAnother, Task, is_task_id, read_task, task_id_in

__all__ = [
    "AboutAnother",
    "Price",
    "Request",
    "ServiceMessage",
    "Task",
    "Unreadable",
    "encode",
    "is_task_id",
    "queue_id_in",
    "read_created",
    "read_description",
    "read_error",
    "read_price",
    "read_refusal",
    "read_task",
]

_QUEUE_ID_CHARACTERS: Final = 200
_TITLE: Final = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_REFUSED_FROM: Final = 400


@dataclass(frozen=True, slots=True)
class Request:
    """One create, as it goes over the wire.

    Attributes
    ----------
    prompt : str
    seed : int
        -1: the service draws.
    width, height : int
        In pixels.
    use_rephraser : bool
    image_url : str or None
        Public URL of the reference picture; exactly one of this and the next.
    image_base64 : bytes or None
        The reference picture as ready base64 (ASCII, no `data:` prefix).
    model : str

    Raises
    ------
    UsageError
        There is not exactly one picture.

    Examples
    --------
    >>> Request("a red fox", -1, 1328, 1328, True, image_base64=b"/9j/").seed
    -1
    """

    prompt: str
    seed: int
    width: int
    height: int
    use_rephraser: bool
    image_url: str | None = None
    image_base64: bytes | None = field(default=None, repr=False)
    model: str = MODEL

    def __post_init__(self) -> None:
        if (self.image_url is None) == (self.image_base64 is None):
            raise UsageError("a request carries exactly one picture: give image_url or image_base64")


@dataclass(frozen=True, slots=True)
class Price:
    """What a create would cost.

    Attributes
    ----------
    cost : str or None
        USD as exact decimal text; None: the service doesn't know, or names another currency; see `reason`.
    discount, currency, reason : str or None
        As the service wrote them.

    Examples
    --------
    >>> Price("0.0357", "0.7", "USD", None).cost
    '0.0357'
    """

    cost: str | None
    discount: str | None
    currency: str | None
    reason: str | None


def encode(request: Request) -> bytes:
    """Write the JSON body of a create.

    A picture's base64 is spliced between two small pieces: megabytes never pass through the JSON encoder.

    Parameters
    ----------
    request : Request

    Returns
    -------
    bytes
        ASCII.

    Examples
    --------
    >>> encode(Request("a", 7, 512, 512, False, image_base64=b"/9j/"))[-39:]
    b'512, "binary_data_base64": ["/9j/"]}}]}'
    """
    params: dict[str, Any] = {
        "prompt": request.prompt,
        "seed": request.seed,
        "use_rephraser": request.use_rephraser,
        "width": request.width,
        "height": request.height,
    }
    if request.image_base64 is None:
        params["image_urls"] = [request.image_url]
        return _around(request.model, json.dumps(params).encode())
    head = json.dumps(params)[:-1].encode()
    return _around(request.model, head, b', "binary_data_base64": ["', request.image_base64, b'"]}')


def read_created(body: bytes) -> str | ServiceMessage:
    """Read the answer to a create.

    Parameters
    ----------
    body : bytes

    Returns
    -------
    str or ServiceMessage
        The task id, or why there is none. An id counts even beside an error: the task can be asked.

    Raises
    ------
    Unreadable
        Neither an id nor an error can be read.

    Examples
    --------
    >>> read_created(b'{"error": {"code": "003011002", "error_message": "Missing image"}}')
    ServiceMessage(code='003011002', message='Missing image')
    """
    answer = values.load(body)
    task_id = task_id_in(answer) or task_id_in(answer.get("data"))
    told = task_id or _refusal(answer)
    if told is None:
        raise Unreadable(values.excerpt(body))
    return told


def queue_id_in(body: bytes) -> str | None:
    """Read the `request_id` of a queue protocol, which stands where this protocol has an `id`.

    Parameters
    ----------
    body : bytes

    Returns
    -------
    str or None
        None if there is none, or the answer can't be read.

    Examples
    --------
    >>> queue_id_in(b'{"request_id": "r-1", "status": "QUEUED"}')
    'r-1'
    """
    try:
        answer = values.load(body)
    except Unreadable:
        return None
    places = (answer, answer.get("data"))
    told = (values.text(place.get("request_id")) for place in places if isinstance(place, dict))
    return next((one[:_QUEUE_ID_CHARACTERS] for one in told if one), None)


def read_description(body: bytes) -> dict[str, Any] | None:
    """Read a model's description.

    Parameters
    ----------
    body : bytes

    Returns
    -------
    dict or None
        None if it lists no parameters, or can't be read.

    Examples
    --------
    >>> read_description(b'{"data": {"parameters": [{"name": "prompt"}]}}')
    {'parameters': [{'name': 'prompt'}]}
    """
    try:
        data = values.load(body).get("data")
    except Unreadable:
        return None
    listed = data.get("parameters") if isinstance(data, dict) else None
    return data if isinstance(listed, list) and listed else None


def read_refusal(body: bytes) -> ServiceMessage | None:
    """Read an error out of an answer that came with HTTP 200.

    Parameters
    ----------
    body : bytes

    Returns
    -------
    ServiceMessage or None
        None if it speaks of none, or can't be read.

    Examples
    --------
    >>> read_refusal(b'{"status": {"code": 401, "message": "bad key"}, "data": null}')
    ServiceMessage(code='000000401', message='bad key')
    """
    try:
        return _refusal(values.load(body))
    except Unreadable:
        return None


def read_price(body: bytes) -> Price:
    """Read the answer to a precharge.

    Parameters
    ----------
    body : bytes

    Returns
    -------
    Price
        Without a cost if the service names none.

    Raises
    ------
    Unreadable
        Not a JSON object.

    Examples
    --------
    >>> read_price(b'{"status": "failed", "data": {"cost": null}, "reason": "COST_CACHE_MISS"}').reason
    'COST_CACHE_MISS'
    """
    answer = values.load(body)
    data = answer["data"] if isinstance(answer.get("data"), dict) else answer
    told = values.message_in(answer)
    currency = values.text(data.get("currency"))
    if not values.is_usd(currency):
        return Price(None, None, currency, f"it names a price in {currency!r}, not in USD")
    return Price(
        cost=values.decimal_text(data.get("cost")),
        discount=values.text(data.get("discount")) or values.number_text(data.get("discount")),
        currency=currency,
        reason=values.text(data.get("reason")) or (told.message if told is not None else None),
    )


def read_error(body: bytes) -> ServiceMessage:
    """Read the body of an HTTP error, whatever it is: JSON of any known shape, HTML, text, or nothing.

    Parameters
    ----------
    body : bytes

    Returns
    -------
    ServiceMessage
        Empty if nothing can be read.

    Examples
    --------
    >>> read_error(b"<html><title>502 Bad Gateway</title></html>")
    ServiceMessage(code=None, message='502 Bad Gateway')
    >>> read_error(b'{"detail": [{"loc": ["body"], "msg": "Field required"}]}')
    ServiceMessage(code=None, message='Field required')
    """
    try:
        return values.message_in(values.parse(body)) or ServiceMessage(None, None)
    except Unreadable as unreadable:
        return ServiceMessage(None, _plain(unreadable.excerpt))


def _around(model: str, *params: bytes) -> bytes:
    return b"".join((b'{"model": ', json.dumps(model).encode(), b', "input": [{"params": ', *params, b"}]}"))


def _refusal(answer: dict[str, Any]) -> ServiceMessage | None:
    """Read an error from an answer with HTTP 200: words alone are none, they may say "ok"."""
    told = values.message_in(answer)
    if told is None or values.message_in(answer.get("error")):
        return told
    return told if (values.code_number(told.code) or 0) >= _REFUSED_FROM else None


def _plain(written: str) -> str | None:
    """Give what a person would read of an HTML page or a plain text."""
    title = _TITLE.search(written)
    words = title[1] if title else re.sub(r"<[^>]*>", " ", written)
    return values.text(" ".join(html.unescape(words).split()))
