"""The values inside a JSON answer, read liberally: nothing a service writes makes these raise.

Numbers keep their exact text, what can't be read is None, and every text that leaves here can be stored as UTF-8.

Examples
--------
>>> payload = load(b'{"cost": 0.0286, "discount": NaN, "error": "out of paint"}')
>>> decimal_text(payload["cost"]), decimal_text(payload["discount"])
('0.0286', None)
>>> message_in(payload)
ServiceMessage(code=None, message='out of paint')
"""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from dreamo_batch.errors import UsageError
from dreamo_batch.service.contract import ERROR_CODE_DIGITS, MODEL, STATUS_WORDS, STATUS_WORDS_ELSEWHERE

if TYPE_CHECKING:
    from collections.abc import Iterator


EXCERPT_BYTES: Final = 2000
TEXT_CHARACTERS_MAX: Final = 2000
_NUMBER_CHARACTERS_MAX: Final = 40
_DECIMAL: Final = re.compile(r"\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
# Lone surrogates can't be encoded and NUL can't be stored by everybody.
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
# A time beyond this (in the year 5138, read as seconds) is in milliseconds.
_MILLISECONDS_FROM: Final = 1e11
_CODE_BELOW: Final = 10**12
_CODE_KEYS: Final = ("error_code", "code")
_MESSAGE_KEYS: Final = ("error_message", "message", "msg", "detail", "reason", "error")
_NO_ERROR: Final = frozenset({"0", "200", "ok", "success"})


class Unreadable(Exception):  # noqa: N818 - it names what the answer is
    """An answer is not the JSON object that was expected.

    Attributes
    ----------
    excerpt : str
        At most 2 kB from its beginning.

    Examples
    --------
    >>> Unreadable("<html>").excerpt
    '<html>'
    """

    def __init__(self, excerpt: str) -> None:
        super().__init__(f"not the JSON object that was expected: {excerpt[:80]!r}")
        self.excerpt = excerpt


@dataclass(frozen=True, slots=True)
class ServiceMessage:
    """What the service says went wrong.

    Attributes
    ----------
    code : str or None
        Its code; numeric ones padded to 9 digits.
    message : str or None
        Its words.

    Examples
    --------
    >>> ServiceMessage("003011001", "Missing prompt").code
    '003011001'
    """

    code: str | None
    message: str | None


def load(body: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Parameters
    ----------
    body : bytes
        UTF-8, with or without a byte order mark; invalid sequences are replaced.

    Returns
    -------
    dict
        Numbers with a fraction or exponent as `Decimal`; NaN, Infinity and numbers longer than 40
        characters as None; of repeated keys the last.

    Raises
    ------
    Unreadable
        Not JSON, not an object, or nested too deeply.

    Examples
    --------
    >>> load(b'{"id": "a", "cost": 1e-2}')
    {'id': 'a', 'cost': Decimal('0.01')}
    """
    payload = parse(body)
    if not isinstance(payload, dict):
        raise Unreadable(excerpt(body))
    return payload


def parse(body: bytes) -> Any:
    """Parse any JSON value, numbers as in `load`.

    Parameters
    ----------
    body : bytes
        As for `load`.

    Returns
    -------
    object
        The value.

    Raises
    ------
    Unreadable
        Not JSON, or nested too deeply.

    Examples
    --------
    >>> parse(b'["a", -0.5]')
    ['a', Decimal('-0.5')]
    """
    try:
        return json.loads(
            body.decode("utf-8-sig", errors="replace"),
            parse_float=_number,
            parse_int=_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError):
        raise Unreadable(excerpt(body)) from None


def excerpt(body: bytes) -> str:
    """Give the beginning of an answer, at most 2 kB of UTF-8.

    Parameters
    ----------
    body : bytes
        As it came.

    Returns
    -------
    str
        Storable text.

    Examples
    --------
    >>> excerpt(b"<html>" * 1000)[:12]
    '<html><html>'
    """
    start = body[:EXCERPT_BYTES].decode("utf-8-sig", errors="replace")
    # Each byte that was replaced grew to three.
    return _UNSTORABLE.sub("\ufffd", start).encode()[:EXCERPT_BYTES].decode(errors="ignore")


def text(value: Any) -> str | None:
    """Read a text; anything else, or a blank one, is None.

    Parameters
    ----------
    value : object
        Any JSON value.

    Returns
    -------
    str or None
        Stripped, storable as UTF-8, at most 2000 characters.

    Examples
    --------
    >>> text(" a cat "), text(""), text(5)
    ('a cat', None, None)
    """
    if not isinstance(value, str):
        return None
    return _UNSTORABLE.sub("\ufffd", value).strip()[:TEXT_CHARACTERS_MAX] or None


def decimal_text(value: Any) -> str | None:
    """Read an amount exactly, as plain decimal text.

    Parameters
    ----------
    value : object
        A JSON number or its text.

    Returns
    -------
    str or None
        None for anything negative, not finite, empty or unreadable.

    Examples
    --------
    >>> decimal_text("0.0280"), decimal_text(Decimal("1e-3")), decimal_text(""), decimal_text(-1)
    ('0.0280', '0.001', None, None)
    """
    written = value.strip() if isinstance(value, str) else number_text(value)
    if written is None or len(written) > _NUMBER_CHARACTERS_MAX or not _DECIMAL.fullmatch(written):
        return None
    return f"{Decimal(written):f}"


def is_usd(currency: str | None) -> bool:
    """Whether an amount is in USD: so it is where no currency is named.

    Parameters
    ----------
    currency : str or None
        As the service wrote it.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_usd(None), is_usd("usd"), is_usd("credit")
    (True, True, False)
    """
    return currency is None or currency.strip().upper() in ("USD", "US$", "$")


def number_text(value: Any) -> str | None:
    """Give the exact text of a JSON number.

    Parameters
    ----------
    value : object
        Any JSON value.

    Returns
    -------
    str or None
        None for what is no number, booleans included.

    Examples
    --------
    >>> number_text(Decimal("0.70")), number_text(1), number_text(True)
    ('0.70', '1', None)
    """
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    # A negative zero is a zero.
    return str(abs(value) if value == 0 else value)


def number(value: Any) -> float | None:
    """Read a finite number, or the text of one.

    Parameters
    ----------
    value : object
        Any JSON value.

    Returns
    -------
    float or None

    Examples
    --------
    >>> number("3.5"), number(Decimal("1e99999")), number(None)
    (3.5, None, None)
    """
    written = value if isinstance(value, str) else number_text(value)
    try:
        read = float(written) if written is not None else math.nan
    except ValueError:
        return None
    return read if math.isfinite(read) else None


def unix_time(value: Any) -> float | None:
    """Read a moment: Unix seconds, Unix milliseconds, or an ISO 8601 text (UTC if it names no zone).

    Parameters
    ----------
    value : object
        Any JSON value.

    Returns
    -------
    float or None
        Unix seconds.

    Examples
    --------
    >>> unix_time(1700000000), unix_time("2023-11-14T22:13:20Z"), unix_time("yesterday")
    (1700000000.0, 1700000000.0, None)
    """
    seconds = number(value)
    if seconds is not None:
        return seconds / 1000 if seconds >= _MILLISECONDS_FROM else seconds
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def message_in(payload: Any) -> ServiceMessage | None:
    """Find code and words in any of the shapes errors come in.

    Parameters
    ----------
    payload : object
        A whole body or an `error` value: object, text, number or list.

    Returns
    -------
    ServiceMessage or None
        None if nothing there speaks of an error: null, empty, or a code that means success.

    Examples
    --------
    >>> message_in({"error": {"code": 3011095, "error_message": "Internal generation error"}})
    ServiceMessage(code='003011095', message='Internal generation error')
    >>> message_in({"status": {"code": 401, "message": "bad key", "error_code": ""}, "data": None})
    ServiceMessage(code='000000401', message='bad key')
    """
    if not isinstance(payload, dict):
        return _bare_message(payload)
    sources = [source for source in _sources(payload) if not _is_success(source)]
    code = next(filter(None, map(_code_in, sources)), None)
    words = next(filter(None, map(_words, sources)), None)
    return ServiceMessage(code, words) if code or words else None


def code_text(value: Any) -> str | None:
    """Read an error code; numeric ones are padded to 9 digits.

    Parameters
    ----------
    value : object
        Any JSON value.

    Returns
    -------
    str or None
        None for what is neither text nor number.

    Examples
    --------
    >>> code_text(3011095), code_text("003011095"), code_text("E1"), code_text(None)
    ('003011095', '003011095', 'E1', None)
    """
    is_whole = isinstance(value, Decimal) and abs(value) < _CODE_BELOW and value % 1 == 0
    written = text(value) or number_text(int(value) if is_whole else value)
    return written.zfill(ERROR_CODE_DIGITS) if written and code_number(written) is not None else written


def code_number(code: str | None) -> int | None:
    """Give the number that a code is.

    Parameters
    ----------
    code : str or None
        As from `code_text`.

    Returns
    -------
    int or None
        None for a code that is no number.

    Examples
    --------
    >>> code_number("000000401"), code_number("E1"), code_number("\u00b2")
    (401, None, None)
    """
    return int(code) if code is not None and code.isascii() and code.isdigit() else None


def _number(written: str) -> int | Decimal | None:
    if len(written) > _NUMBER_CHARACTERS_MAX:
        return None
    # Exponents of up to 38 digits fit no Decimal, and no amount either.
    exponent = re.search(r"[eE][+-]?([0-9]+)", written)
    if exponent and len(exponent[1]) > len("1000"):
        return None
    return int(written) if written.lstrip("-").isdigit() else Decimal(written)


def _no_number(_name: str) -> None:
    """Stand for NaN and Infinity, which JSON does not have."""


def _bare_message(value: Any) -> ServiceMessage | None:
    """Read an error that is no object: words, or nothing but a code."""
    if value is True:
        return ServiceMessage(None, "the service says no more than error: true")
    code = code_text(value)
    if code_number(code) is not None:
        return ServiceMessage(code, None) if code_number(code) else None
    words = _words(value)
    return ServiceMessage(None, words) if words else None


def _sources(payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Look inside first: an outer code is often only the HTTP status again."""
    for key in ("error", "status", "detail"):
        if isinstance(payload.get(key), dict):
            yield payload[key]
    bare = _bare_message(payload.get("error")) if not isinstance(payload.get("error"), dict) else None
    yield {"code": bare.code} if bare else {}
    yield payload


def _is_success(source: dict[str, Any]) -> bool:
    return not source.get("error") and _bare(source.get("code")) in _NO_ERROR and not source.get("error_code")


def _bare(code: Any) -> str:
    written = text(code) or number_text(code) or ""
    return (written.lstrip("0") or "0").lower() if written else ""


def _code_in(source: dict[str, Any]) -> str | None:
    codes = (code_text(source.get(key)) for key in _CODE_KEYS)
    return next((code for code in codes if code and code_number(code) != 0), None)


def _words(value: Any) -> str | None:
    """Read words; of a list those of its items, of an object those it is known to keep words under."""
    if isinstance(value, dict):
        values = (value.get(key) for key in _MESSAGE_KEYS)
        return next(filter(None, (_words_of_leaf(one) for one in values)), None)
    return _words_of_leaf(value)


def _words_of_leaf(value: Any) -> str | None:
    if isinstance(value, list):
        items = (item.get("msg") or item.get("message") if isinstance(item, dict) else item for item in value)
        return text("; ".join(filter(None, map(text, items))))
    return text(value)


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
    answer = _about_task(load(body), task_id)
    if not _speaks_of_task(answer):
        raise Unreadable(excerpt(body))
    ids = _ids(answer)
    if ids and task_id not in ids:
        raise AboutAnother(excerpt(body), ids[0])
    task = _task(answer, task_id)
    return task if _is_as_documented(answer, task) else replace(task, excerpt=excerpt(body))


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
    return [one for one in (text(value) or number_text(value) for value in named) if one]


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
    word, error = _status(answer), message_in(answer.get("error"))
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
        cost=None if is_cost_unreadable else decimal_text(usage.get("cost")),
        discount=text(usage.get("discount")) or number_text(usage.get("discount")),
        error=error or (message_in(answer) if has_failed else None),
        created_at=unix_time(answer.get("created_at")),
        progress=_progress(answer.get("progress")),
        metadata=_metadata(answer.get("metadata")),
        is_completed_with_error=is_contradictory,
        is_cost_unreadable=is_cost_unreadable,
        unlisted_status=(text(answer.get("status")) or "")[:_WORD_CHARACTERS_MAX] or None
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
    word = (text(answer.get("status")) or "").lower()
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
    is_amount = decimal_text(cost) is not None and is_usd(text(usage.get("currency")))
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
    read = number(value)
    return int(read) if read is not None and 0 < read < _SIZE_MAX and read == int(read) else None


def _job_id(value: Any) -> str | None:
    told = text(value) or number_text(value)
    return told[:_JOB_ID_CHARACTERS] if told else None


def _progress(value: Any) -> float | None:
    read = number(value)
    return read if read is not None and 0 <= read <= 1 else None


def _metadata(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    read = ((text(name), number(one)) for name, one in value.items())
    times = [(name, one) for name, one in read if name is not None and one is not None]
    return dict(times[:_N_METADATA_MAX])


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
    answer = load(body)
    task_id = task_id_in(answer) or task_id_in(answer.get("data"))
    told = task_id or _refusal(answer)
    if told is None:
        raise Unreadable(excerpt(body))
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
        answer = load(body)
    except Unreadable:
        return None
    places = (answer, answer.get("data"))
    told = (text(place.get("request_id")) for place in places if isinstance(place, dict))
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
        data = load(body).get("data")
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
        return _refusal(load(body))
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
    answer = load(body)
    data = answer["data"] if isinstance(answer.get("data"), dict) else answer
    told = message_in(answer)
    currency = text(data.get("currency"))
    if not is_usd(currency):
        return Price(None, None, currency, f"it names a price in {currency!r}, not in USD")
    return Price(
        cost=decimal_text(data.get("cost")),
        discount=text(data.get("discount")) or number_text(data.get("discount")),
        currency=currency,
        reason=text(data.get("reason")) or (told.message if told is not None else None),
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
        return message_in(parse(body)) or ServiceMessage(None, None)
    except Unreadable as unreadable:
        return ServiceMessage(None, _plain(unreadable.excerpt))


def _around(model: str, *params: bytes) -> bytes:
    return b"".join((b'{"model": ', json.dumps(model).encode(), b', "input": [{"params": ', *params, b"}]}"))


def _refusal(answer: dict[str, Any]) -> ServiceMessage | None:
    """Read an error from an answer with HTTP 200: words alone are none, they may say "ok"."""
    told = message_in(answer)
    if told is None or message_in(answer.get("error")):
        return told
    return told if (code_number(told.code) or 0) >= _REFUSED_FROM else None


def _plain(written: str) -> str | None:
    """Give what a person would read of an HTML page or a plain text."""
    title = _TITLE.search(written)
    words = title[1] if title else re.sub(r"<[^>]*>", " ", written)
    return text(" ".join(html.unescape(words).split()))
