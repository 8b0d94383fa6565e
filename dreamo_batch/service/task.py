"""What a poll tells: the answer about one task, as a frozen dataclass.

Examples
--------
>>> body = b'{"id": "cq0example", "status": "DONE", "output": [{"content": [{"url": "https://o.example/a.png"}]}]}'
>>> task = read_task(body, "cq0example")
>>> task.status, task.urls
('completed', ('https://o.example/a.png',))
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

from dreamo_batch.service import payload as values
from dreamo_batch.service.parameters import STATUS_WORDS, STATUS_WORDS_ELSEWHERE
from dreamo_batch.service.payload import ServiceMessage, Unreadable

Status = Literal["in_progress", "completed", "failed"]

# What can stand in a path: printable, and no step up in it.
_TASK_ID: Final = re.compile(r"(?!\.{1,2}$)[!-~]{1,200}")
_LINK: Final = re.compile(r"https?://[!-~\u00a1-\ud7ff\ue000-\U0010ffff]+", re.IGNORECASE)
_N_METADATA_MAX: Final = 50
_SIZE_MAX: Final = 2**53
_JOB_ID_CHARACTERS: Final = 200
_WORD_CHARACTERS_MAX: Final = 80
_OUTPUT_KEYS: Final = ("output", "outputs", "result", "results", "images")
_WORDS: Final = STATUS_WORDS_ELSEWHERE | STATUS_WORDS
_ID_KEYS: Final = ("id", "task_id")


class AboutAnother(Unreadable):
    """An answer speaks of another task than the one asked for.

    Attributes
    ----------
    task_id : str
        The task that it is about.

    Examples
    --------
    >>> AboutAnother("{}", "cq0other").task_id
    'cq0other'
    """

    def __init__(self, excerpt: str, task_id: str) -> None:
        super().__init__(excerpt)
        self.task_id = task_id


@dataclass(frozen=True, slots=True)
class Task:
    """One task as a poll found it.

    Attributes
    ----------
    task_id : str
    status : {'in_progress', 'completed', 'failed'}
        `completed` together with an error is `failed`. An unlisted word with a picture is `completed`, with an error
        `failed`, else `in_progress`.
    urls : tuple of str
        Every picture's address, in order; can be empty although completed.
    sizes : tuple of (int or None)
        Bytes of each picture, as told beside its address.
    job_ids : tuple of (str or None)
        The upstream id of each picture, as told beside its address.
    cost : str or None
        USD as exact decimal text; None if not told.
    discount : str or None
        As the service wrote it.
    error : ServiceMessage or None
    created_at : float or None
        Unix seconds.
    progress : float or None
        0 to 1, not to be trusted.
    metadata : dict of str to float
        The service's own times, in seconds.
    excerpt : str or None
        At most 2 kB of the answer, if it does not read as documented.
    is_completed_with_error : bool
        Whether the service said both; the picture may have been billed.
    is_cost_unreadable : bool
        Whether a cost was told that is no amount in USD.
    unlisted_status : str or None
        The service's own word for the status, if it is none that is known.
    seed : int or None
        The seed that the service says it was given; None if it doesn't.

    Examples
    --------
    >>> Task("cq0example", "in_progress").urls
    ()
    """

    task_id: str
    status: Status
    urls: tuple[str, ...] = ()
    cost: str | None = None
    discount: str | None = None
    error: ServiceMessage | None = None
    created_at: float | None = None
    progress: float | None = None
    metadata: dict[str, float] = field(default_factory=dict)
    excerpt: str | None = None
    is_completed_with_error: bool = False
    is_cost_unreadable: bool = False
    unlisted_status: str | None = None
    seed: int | None = None
    sizes: tuple[int | None, ...] = ()
    job_ids: tuple[str | None, ...] = ()


def read_task(body: bytes, task_id: str) -> Task:
    """Read the answer to a poll.

    Parameters
    ----------
    body : bytes
    task_id : str
        The id that was asked for.

    Returns
    -------
    Task

    Raises
    ------
    Unreadable
        Not JSON, or nothing in it speaks of a task.
    AboutAnother
        It speaks of another task.

    Examples
    --------
    >>> read_task(b'{"id": "a", "status": "failed", "error": "Risk Not Pass"}', "a").error.message
    'Risk Not Pass'
    """
    answer = _about_task(values.load(body), task_id)
    if not _speaks_of_task(answer):
        raise Unreadable(values.excerpt(body))
    ids = _ids(answer)
    if ids and task_id not in ids:
        raise AboutAnother(values.excerpt(body), ids[0])
    task = _task(answer, task_id)
    return task if _is_as_documented(answer, task) else replace(task, excerpt=values.excerpt(body))


def task_id_in(answer: Any) -> str | None:
    """Find the id of a task; one that can't be asked for again is as good as none.

    Parameters
    ----------
    answer : object
        Any JSON value.

    Returns
    -------
    str or None

    Examples
    --------
    >>> task_id_in({"id": "cq0example"}), task_id_in({"id": ""})
    ('cq0example', None)
    """
    return next((one for one in _ids(answer) if is_task_id(one)), None)


def is_task_id(value: str) -> bool:
    """Whether a text can be the id of a task: printable ASCII without spaces, and no step in a path.

    Parameters
    ----------
    value : str

    Returns
    -------
    bool

    Examples
    --------
    >>> is_task_id("cq0example"), is_task_id(".."), is_task_id("a b")
    (True, False, False)
    """
    return _TASK_ID.fullmatch(value) is not None


def _ids(answer: Any) -> list[str]:
    """Read every id that an answer names, whether or not it can be one."""
    if not isinstance(answer, dict):
        return []
    named = (answer.get(key) for key in _ID_KEYS)
    return [one for one in (values.text(value) or values.number_text(value) for value in named) if one]


def _about_task(answer: dict[str, Any], task_id: str) -> dict[str, Any]:
    """Look into an envelope's `data`, if that is where the task is."""
    data = answer.get("data")
    if not isinstance(data, dict) or not ("status" in data or "id" in data):
        return answer
    is_envelope = task_id_in(answer) is None or (task_id not in _ids(answer) and task_id in _ids(data))
    return cast("dict[str, Any]", data) if is_envelope else answer


def _speaks_of_task(answer: dict[str, Any]) -> bool:
    """Whether this is about the task, not a gateway's `{"status": "error", "message": "try again"}`."""
    if task_id_in(answer) is not None:
        return not isinstance(answer.get("status"), dict)
    return isinstance(answer.get("status"), str) and (_status(answer) != "failed" or "error" in answer)


def _task(answer: dict[str, Any], task_id: str) -> Task:
    word, error = _status(answer), values.message_in(answer.get("error"))
    pictures = _pictures([answer.get(key) for key in _OUTPUT_KEYS])
    usage = answer["usage"] if isinstance(answer.get("usage"), dict) else {}
    is_cost_unreadable = _is_cost_unreadable(answer.get("usage"))
    has_output = word == "completed" or (word is None and bool(pictures))
    is_contradictory = has_output and error is not None
    has_failed = word == "failed" or is_contradictory or (word is None and error is not None)
    status: Status = "failed" if has_failed else "completed" if has_output else "in_progress"
    return Task(
        task_id=task_id,
        status=status,
        urls=tuple(pictures),
        sizes=tuple(size for size, _ in pictures.values()),
        job_ids=tuple(job_id for _, job_id in pictures.values()),
        cost=None if is_cost_unreadable else values.decimal_text(usage.get("cost")),
        discount=values.text(usage.get("discount")) or values.number_text(usage.get("discount")),
        error=error or (values.message_in(answer) if has_failed else None),
        created_at=values.unix_time(answer.get("created_at")),
        progress=_progress(answer.get("progress")),
        metadata=_metadata(answer.get("metadata")),
        is_completed_with_error=is_contradictory,
        is_cost_unreadable=is_cost_unreadable,
        unlisted_status=(values.text(answer.get("status")) or "")[:_WORD_CHARACTERS_MAX] or None
        if word is None
        else None,
        seed=_echoed_seed(answer),
    )


def _echoed_seed(answer: dict[str, Any]) -> int | None:
    """Find the seed among the parameters, if the answer repeats them."""
    inputs = answer.get("input")
    first = inputs[0] if isinstance(inputs, list) and inputs else inputs
    nested = first.get("params") if isinstance(first, dict) else None
    for place in (nested, first, answer.get("params"), answer.get("parameters")):
        seed = place.get("seed") if isinstance(place, dict) else None
        if isinstance(seed, int) and not isinstance(seed, bool):
            return seed
    return None


def _status(answer: dict[str, Any]) -> Status | None:
    word = (values.text(answer.get("status")) or "").lower()
    return cast("Status | None", _WORDS.get(re.sub(r"[\s-]+", "_", word)))


def _is_as_documented(answer: dict[str, Any], task: Task) -> bool:
    if _status(answer) is None:
        return False
    is_whole = {
        "completed": bool(task.urls),
        "failed": task.error is not None,
        "in_progress": task.error is None,
    }
    return not task.is_cost_unreadable and is_whole[task.status] and not task.is_completed_with_error


def _is_cost_unreadable(usage: Any) -> bool:
    if not isinstance(usage, dict):
        return usage not in (None, "")
    cost = usage.get("cost")
    is_amount = values.decimal_text(cost) is not None and values.is_usd(values.text(usage.get("currency")))
    return cost not in (None, "") and not is_amount


def _pictures(output: Any) -> dict[str, tuple[int | None, str | None]]:
    """Collect every address in order, with size and job id beside it; no recursion, however deep an answer nests."""
    found: dict[str, tuple[int | None, str | None]] = {}
    waiting: list[tuple[Any, dict[str, Any]]] = [(output, {})]
    while waiting:
        value, beside = waiting.pop()
        if isinstance(value, str) and _LINK.fullmatch(value.strip()):
            found.setdefault(value.strip(), (_size(beside.get("size")), _job_id(beside.get("jobId"))))
        elif isinstance(value, list):
            waiting.extend((one, beside) for one in reversed(value))
        elif isinstance(value, dict):
            told = [one for key, one in value.items() if key == "url" or not isinstance(one, str)]
            waiting.extend((one, value) for one in reversed(told))
    return found


def _size(value: Any) -> int | None:
    read = values.number(value)
    return int(read) if read is not None and 0 < read < _SIZE_MAX and read == int(read) else None


def _job_id(value: Any) -> str | None:
    told = values.text(value) or values.number_text(value)
    return told[:_JOB_ID_CHARACTERS] if told else None


def _progress(value: Any) -> float | None:
    read = values.number(value)
    return read if read is not None and 0 <= read <= 1 else None


def _metadata(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    read = ((values.text(name), values.number(one)) for name, one in value.items())
    times = [(name, one) for name, one in read if name is not None and one is not None]
    return dict(times[:_N_METADATA_MAX])
