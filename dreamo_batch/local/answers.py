"""What the gateway answers when all is well: payloads as the contract has them, and how they become bytes.

Examples
--------
>>> answer = json_answer({"id": "c0"})
>>> answer.status, answer.body
(200, b'{"id": "c0"}')
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dreamo_batch.local.tasks import COMPLETED, FAILED, IN_PROGRESS, Task
from dreamo_batch.service import parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON_TYPE = "application/json"
UPLOAD_S = 0.05
RESULT_ERROR = parameters.ERROR_CODES["003011096"]
# Stands for an exact number until the JSON is written; no text of a client is in an answer that has numbers.
_MARK = "#exact#"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: status, body, its type, and further headers.

    Examples
    --------
    >>> Answer(204, b"", "text/plain").headers
    {}
    """

    status: int
    body: bytes
    media_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExactNumber:
    """A decimal number that goes into JSON as it is written, digit for digit.

    Examples
    --------
    >>> json_answer({"cost": ExactNumber("0.02860")}).body
    b'{"cost": 0.02860}'
    """

    text: str


def json_answer(payload: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Make an answer of a payload.

    Parameters
    ----------
    payload : object
        What `json` can write, and `ExactNumber` in it.
    status : int
        HTTP status.
    headers : mapping or None
        Beside the content type.

    Returns
    -------
    Answer

    Examples
    --------
    >>> json_answer({"cost": None}, 404).status
    404
    """
    numbers: list[str] = []

    def mark(value: ExactNumber) -> str:
        numbers.append(value.text)
        return _MARK

    text = json.dumps(payload, ensure_ascii=False, default=mark)
    for number in numbers:
        text = text.replace(f'"{_MARK}"', number, 1)
    return Answer(status, text.encode(), JSON_TYPE, headers or {})


def created(task: Task) -> dict[str, Any]:
    """Answer a create.

    Parameters
    ----------
    task : Task
        As accepted.

    Returns
    -------
    dict

    Examples
    --------
    >>> task = Task("c0", "d" * 64, "a fox", -1, 512, 512, True, "e" * 64, 7, 0.5, 0.5, 3.0, "0.01")
    >>> created(task)
    {'id': 'c0', 'created_at': 0, 'status': 'in_progress', 'model': 'spark_dreamo'}
    """
    return _head(task, IN_PROGRESS)


def polled(task: Task, now: float, discount: str, url: str) -> dict[str, Any]:
    """Answer a poll.

    Parameters
    ----------
    task : Task
        The task.
    now : float
        Unix seconds.
    discount : str
        As a JSON number.
    url : str
        Where the picture is, if it is completed.

    Returns
    -------
    dict

    Examples
    --------
    >>> task = Task("c0", "d" * 64, "a fox", -1, 512, 512, True, "e" * 64, 7, 0.0, 0.0, 4.0, "0.01")
    >>> polled(task, 1.0, "1", "")["progress"]
    0.25
    """
    state = task.state(now)
    payload = _head(task, state) | {"metadata": {"in_queue_at": round(task.starts_at - task.accepted_at, 3)}}
    if state == IN_PROGRESS:
        return payload | {"progress": round(task.progress(now), 2)}
    completed_s = task.due_at - task.accepted_at
    payload["metadata"] |= {"completed_at": round(completed_s, 3)}
    payload["usage"] = {"cost": task.cost(now), "discount": ExactNumber(discount)}
    if state == COMPLETED:
        payload["metadata"] |= {"upload_at": round(completed_s + UPLOAD_S, 3)}
        content = {"type": "image", "url": url, "size": task.picture_bytes, "jobId": task.task_id}
        payload["output"] = [{"content": [content]}]
    if state == FAILED:
        payload["error"] = {"code": task.error_code, "error_message": task.error_message}
    elif task.fate == "completed_with_error":
        payload["error"] = {"code": RESULT_ERROR.code, "error_message": RESULT_ERROR.meaning}
    return payload


def precharged(cost: str, discount: str, digest: str, now: float) -> dict[str, Any]:
    """Answer the question for a price.

    Parameters
    ----------
    cost : str
        USD, exact decimal text.
    discount : str
        As a JSON number.
    digest : str
        Of the request.
    now : float
        Unix seconds.

    Returns
    -------
    dict

    Examples
    --------
    >>> precharged("0.0286", "1", "d" * 64, 0.0)["data"]["cost"]
    '0.0286'
    """
    data = {
        "billing_model": "per_image",
        "cost": cost,
        "currency": "USD",
        "discount": ExactNumber(discount),
        "hash": digest,
        "model": parameters.MODEL,
        "sample_count": 1,
        "updated_at": int(now * 1000),
    }
    return {"status": "success", "data": data}


def cache_miss() -> dict[str, Any]:
    """Answer the question for a price when there is none.

    Returns
    -------
    dict

    Examples
    --------
    >>> cache_miss()["data"]["reason"]
    'COST_CACHE_MISS'
    """
    data = {"cost": None, "currency": "USD", "model": parameters.MODEL, "reason": "COST_CACHE_MISS"}
    return {"status": "failed", "data": data}


def _head(task: Task, state: str) -> dict[str, Any]:
    return {
        "id": task.task_id,
        "created_at": int(task.accepted_at),
        "status": state,
        "model": parameters.MODEL,
    }
