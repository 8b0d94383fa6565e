"""Write requests as JSON, and read answers leniently: nothing a service sends makes the readers crash.

Numbers keep their exact text, what can't be read is None, and all text can be stored as UTF-8.
"""

from __future__ import annotations

import html
import itertools
import json
import math
import re
import unicodedata
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from dreamo_batch.errors import UsageError
from dreamo_batch.money import exact_text
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping


EXCERPT_BYTES: Final = 2000
TEXT_CHARACTERS_MAX: Final = 2000
_NUMBER_CHARACTERS_MAX: Final = 40
_DECIMAL: Final = re.compile(r"\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
# What may be missing at the end of a JSON object, up to four levels deep.
_ENDS: Final = [bytes(end) for n in range(1, 5) for end in itertools.product(b"}]", repeat=n)]
# Lone surrogates can't be encoded, and many programs can't store NUL.
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
# A time beyond this (in the year 5138, read as seconds) is in milliseconds.
_MILLISECONDS_FROM: Final = 1e11
_CODE_BELOW: Final = 10**12
_CODE_KEYS: Final = ("errorcode", "code", "errcode")
_MESSAGE_KEYS: Final = (
    *("errormessage", "message", "msg", "errormsg", "errmsg", "statusmsg", "failreason", "failmsg"),
    *("errordescription", "detail", "reason", "error", "errors", "description", "title"),
)
_NO_ERROR_WORDS: Final = frozenset({"none", "null", "nil", "ok", "success", "no error", "false", "成功"})
_NO_ERROR: Final = frozenset({"0", "200", "ok", "success"})


class Unreadable(Exception):  # noqa: N818 - it names what the answer is
    """An answer isn't the expected JSON object."""

    def __init__(self, excerpt: str) -> None:
        super().__init__(f"expected a JSON object, not {excerpt[:80]!r}")
        self.excerpt = excerpt


@dataclass(frozen=True, slots=True)
class ServiceMessage:
    """The service's error: its code and message."""

    code: str | None
    message: str | None


def load(body: bytes) -> dict[str, Any]:
    """Parse a JSON object."""
    payload = parse(body)
    if isinstance(payload, list) and len(payload) == 1:
        payload = payload[0]
    if not isinstance(payload, dict):
        raise Unreadable(excerpt(body))
    return payload


def load_leniently(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; return an empty one for anything else."""
    try:
        return load(body)
    except Unreadable:
        return {}


def _load_inside(body: bytes) -> dict[str, Any]:
    """Parse a JSON object inside other text, such as warnings of programs on the way; empty if there is none."""
    return load_leniently(body[body.find(b"{") : body.rfind(b"}") + 1])


def _load_cut(body: bytes) -> dict[str, Any]:
    """Parse the intact part of a truncated JSON object; empty if there is none."""
    wholes = (body if body.endswith((b'"', b"}", b"]")) else b"", body.rpartition(b",")[0])
    closed = (load_leniently(whole + end) for whole in wholes for end in _ENDS)
    return next(filter(None, closed), {})


def parse(body: bytes) -> Any:
    """Parse any JSON value with exact numbers; an object may not repeat a field with different values."""
    try:
        return json.loads(
            body.decode(json.detect_encoding(body), errors="replace"),
            object_pairs_hook=_object,
            parse_float=_number,
            parse_int=_number,
            parse_constant=lambda _: None,  # NaN and Infinity, which JSON lacks
        )
    except (ValueError, RecursionError):
        raise Unreadable(excerpt(body)) from None


def excerpt(body: bytes) -> str:
    """Return the beginning of an answer, at most 2 kB of UTF-8."""
    start = body[:EXCERPT_BYTES].decode("utf-8-sig", errors="replace")
    # A replacement character takes three bytes.
    return _UNSTORABLE.sub("\ufffd", start).encode()[:EXCERPT_BYTES].decode(errors="ignore")


def text(value: Any) -> str | None:
    """Return a text; None for anything else or a blank text."""
    if not isinstance(value, str):
        return None
    return _UNSTORABLE.sub("\ufffd", value).strip()[:TEXT_CHARACTERS_MAX] or None


def decimal_text(value: Any) -> str | None:
    """Return an amount as exact plain decimal text."""
    written = value.strip() if isinstance(value, str) else number_text(value)
    if written is None or len(written) > _NUMBER_CHARACTERS_MAX or not _DECIMAL.fullmatch(written):
        return None
    return exact_text(Decimal(written))


def is_usd(currency: str | None) -> bool:
    """Return whether an amount is in USD, the default currency."""
    return currency is None or currency.strip().upper() in ("USD", "US$", "$")


def number_text(value: Any) -> str | None:
    """Return the exact text of a JSON number."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    return str(abs(value) if value == 0 else value)  # without a negative zero


def _written(value: Any) -> str | None:
    return text(value) or number_text(value)


def number(value: Any) -> float | None:
    """Read a finite number, or the text of one."""
    written = value if isinstance(value, str) else number_text(value)
    try:
        read = float(written) if written is not None else math.nan
    except ValueError:
        return None
    return read if math.isfinite(read) else None


def unix_time(value: Any) -> float | None:
    """Read a time: Unix seconds, Unix milliseconds, or ISO 8601 (UTC by default)."""
    seconds = number(value)
    if seconds is not None:
        return seconds / 1000 if seconds >= _MILLISECONDS_FROM else seconds
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def message_in(payload: Any) -> ServiceMessage | None:
    """Find the code and message in an error of any known shape."""
    if not isinstance(payload, dict):
        return _bare_message(payload)
    named = ({plain(name): source[name] for name in reversed(source)} for source in _sources(payload))
    sources = [source for source in named if not _is_success(source)]
    code = next(filter(None, map(_code_in, sources)), None)
    words = next(filter(None, map(_words, sources)), None)
    return ServiceMessage(code, words) if code or words else None


def code_text(value: Any) -> str | None:
    """Read an error code; numeric ones are padded to 9 digits."""
    is_whole = isinstance(value, Decimal) and abs(value) < _CODE_BELOW and value % 1 == 0
    written = text(value) or number_text(int(value) if is_whole else value)
    return (
        written.zfill(contract.ERROR_CODE_DIGITS) if written and code_number(written) is not None else written
    )


def code_number(code: str | None) -> int | None:
    """Return a numeric code as a number."""
    return int(code) if code is not None and code.isascii() and code.isdigit() else None


def _object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; refuse a repeated field with different values, as nobody knows which one is meant."""
    read = dict(fields)
    if len(read) < len(fields) and any(read[name] != value for name, value in fields):
        raise ValueError
    return read


def _number(written: str) -> int | Decimal | None:
    if len(written) > _NUMBER_CHARACTERS_MAX:
        return None
    if written.lstrip("-").isdigit():
        return int(written)
    # Huge exponents don't fit a Decimal, and no amount needs one.
    exponent = re.search(r"[eE][+-]?([0-9]+)", written)
    return None if exponent and len(exponent[1]) > len("1000") else Decimal(written)


def _bare_message(value: Any) -> ServiceMessage | None:
    """Read an error that isn't an object: words, or only a code."""
    if value is True:
        return ServiceMessage(None, "the service says only error: true")
    code = code_text(value)
    if code_number(code) is not None:
        return ServiceMessage(code, None) if code_number(code) else None
    words = _words(value)
    items = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    error = ServiceMessage(next(filter(None, map(_code_in, items)), None), words)
    return None if _says_nothing(error) else error


def _says_nothing(error: ServiceMessage) -> bool:
    """Return whether an error actually means "no error", such as "ok" without a documented code."""
    words = (error.message or "").lower().rstrip(".!。")
    is_known = error.code in contract.ERROR_CODES
    return words in _NO_ERROR_WORDS and not is_known if words else error.code is None


def _sources(payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the objects that may hold an error, inner ones first, as an outer code often repeats the HTTP status."""
    for key in ("error", "status", "detail", "errors"):
        value = payload.get(key)
        first = value[0] if isinstance(value, list) and value and key == "errors" else value
        if isinstance(first, dict):
            yield first
    bare = _bare_message(payload.get("error")) if not isinstance(payload.get("error"), dict) else None
    yield {"code": bare.code} if bare else {}
    yield payload


def _is_success(source: dict[str, Any]) -> bool:
    written = _written(source.get("code")) or ""
    code = (written.lstrip("0") or "0").lower() if written else ""
    return not source.get("error") and code in _NO_ERROR and not source.get("errorcode")


def plain(name: str) -> str:
    """Normalise the name of a field: `error_message`, `errorMessage` and `Error-Message` are the same."""
    return re.sub("[_-]", "", name).lower()


def _code_in(source: dict[str, Any]) -> str | None:
    codes = (code_text(source.get(key)) for key in _CODE_KEYS)
    code = next((code for code in codes if code and code_number(code) != 0), None)
    kind = text(source.get("type")) or ""
    # Such as `insufficient_quota`; other types are `image`, a URL, ...
    is_error = kind.lower().startswith("insufficient") or kind.lower().endswith("_error")
    return code or (kind if is_error else None)


def _words(value: Any) -> str | None:
    """Return text from a string, from the items of a list, or from known keys of an object."""
    values = map(value.get, _MESSAGE_KEYS) if isinstance(value, dict) else [value]
    return next(filter(None, map(_words_of_leaf, values)), None)


def _words_of_leaf(value: Any) -> str | None:
    if isinstance(value, list):
        items = (item.get("msg") or item.get("message") if isinstance(item, dict) else item for item in value)
        return text("; ".join(filter(None, map(text, items))))
    return text(value)


def says_missing(error: ServiceMessage | None) -> bool:
    """Return whether an error says that the service doesn't know a task."""
    words = "" if error is None else f"{error.code} {error.message}".replace("_", " ")
    return _TASK_MISSING.search(words) is not None


def says_busy(error: ServiceMessage | None) -> bool:
    """Return whether an error's code means that requests come too fast."""
    return _RATE_LIMIT.fullmatch(_bare_code(error)) is not None


def says_unclear(error: ServiceMessage | None) -> bool:
    """Return whether an error's code means that the service failed, so that the fate of the request is unknown."""
    return _UNCLEAR.fullmatch(_bare_code(error)) is not None


def _bare_code(error: ServiceMessage | None) -> str:
    return "" if error is None else WORD_ENDS.sub(" ", error.code or "").lstrip("0")


TaskStatus = Literal["in_progress", "completed", "failed"]

WORD_ENDS: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|[\s_-]+")
_RATE_LIMIT: Final = re.compile(contract.RATE_LIMIT_CODES, re.IGNORECASE)
_TASK_IN_WORDS: Final = re.compile(contract.TASK_IN_WORDS, re.IGNORECASE | re.ASCII)
_UNCLEAR: Final = re.compile(contract.UNCLEAR_CODES, re.IGNORECASE)
_TASK_MISSING: Final = re.compile(contract.TASK_MISSING_WORDS, re.IGNORECASE | re.DOTALL)

# Printable, and not "." or "..".
_TASK_ID: Final = re.compile(r"(?!\.{1,2}$)[!-~]{1,200}")
# Spaces after the host are quoted when the link is followed.
_LINK: Final = re.compile(
    r"https?://[^\x00-\x20/\x7f-\xa0\ud800-\udfff]+(?:/[^\x00-\x1f\x7f-\xa0\ud800-\udfff]*)?", re.IGNORECASE
)
# Names of links other than `url`, and of fields with pictures; not thumbnails, inputs or callbacks.
_LINK_KEY: Final = re.compile(
    "content|(?:(?:image|img|picture|file|download|output|result)_?)?(?:url|uri|link|src|href)", re.IGNORECASE
)
_PICTURES_KEY: Final = re.compile("(?i)images|(?:output|result)s?|(?:image|output|result)_?(?:url|link)s?")
_N_METADATA_MAX: Final = 50
_SIZE_MAX: Final = 2**53
_ID_CHARACTERS_MAX: Final = 200
_WORD_CHARACTERS_MAX: Final = 80
_OUTPUT_KEYS: Final = ("output", "outputs", "result", "results", "images")
_WORDS: Final = contract.STATUS_WORDS_ELSEWHERE | contract.STATUS_WORDS
_ID_KEYS: Final = ("id", "task_id")
_TASK_KEY: Final = re.compile("(?:task|generation)(?:[_-]?id)?", re.IGNORECASE)
_USD: Final = re.compile(r"^\s*(?:US)?\$\s*|^\s*USD\s+|\s*(?:USD|US\$|\$)\s*$", re.IGNORECASE)
_ECHOED: Final = ("seed", "width", "height", "prompt")
_ECHO_KEYS: Final = ("params", "parameters", "request", "input")
_CUT_FROM: Final = 20  # length from which a repeated prompt may be truncated


class AboutAnother(Unreadable):
    """An answer is about another task than the requested one."""

    def __init__(self, excerpt: str, task_id: str) -> None:
        super().__init__(excerpt)
        self.task_id = task_id


@dataclass(frozen=True, slots=True)
class Task:
    """A task as reported by a poll."""

    task_id: str
    status: TaskStatus
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
    echo: Mapping[str, int | str] = field(default_factory=dict)
    other_id: str | None = None
    sizes: tuple[int | None, ...] = ()
    job_ids: tuple[str | None, ...] = ()


def read_task(body: bytes, task_id: str) -> Task:
    """Read the answer to a poll."""
    answer = _about_task(load_leniently(body), task_id)
    if not answer:
        answer = _about_task(_load_inside(body), task_id)
        answer = answer if task_id in _ids(answer) else {}  # a page may hold any JSON
    if not _mentions_task(answer):
        raise Unreadable(excerpt(body))
    ids = _ids(answer)
    if ids and task_id not in ids:
        raise AboutAnother(excerpt(body), ids[0])
    request_id = None if ids else text(answer.get("request_id"))
    other = next((found_id for found_id in (*ids, request_id) if found_id not in (None, task_id)), None)
    task = replace(_task(answer, task_id), other_id=other and other[:_ID_CHARACTERS_MAX])
    return task if _is_as_documented(answer, task) else replace(task, excerpt=excerpt(body))


def task_id_in(answer: Any) -> str | None:
    """Find the id of a task; None if there is none that can be polled."""
    return next((found_id for found_id in _ids(answer) if is_task_id(found_id)), None)


def is_task_id(value: str) -> bool:
    """Return whether a text can be a task id: printable ASCII without spaces, and not a step in a path."""
    return _TASK_ID.fullmatch(value) is not None


def _ids(answer: Any) -> list[str]:
    """Return every id in an answer, valid or not, except numbers with a fraction or exponent."""
    if not isinstance(answer, dict):
        return []
    named = (answer.get(key) for key in _ID_KEYS)
    return [one for value in named if not isinstance(value, Decimal) and (one := _written(value))]


def _about_task(answer: dict[str, Any], task_id: str) -> dict[str, Any]:
    """Return the envelope's `data` if it has the task; merge both if the id is outside and the status inside."""
    data = answer.get("data")
    if not isinstance(data, dict) or not ("status" in data or "id" in data):
        return answer
    is_envelope = task_id_in(answer) is None or (task_id not in _ids(answer) and task_id in _ids(data))
    is_split = isinstance(data.get("status"), str) and not (_ids(data) or any(map(answer.get, _OUTPUT_KEYS)))
    return cast("dict[str, Any]", data) if is_envelope else answer | data if is_split else answer


def _mentions_task(answer: dict[str, Any]) -> bool:
    """Return whether an answer is about a task, unlike a gateway's `{"status": "error", "error": "try again"}`."""
    error, status = message_in(answer.get("error")), _status(answer)
    is_documented = error is not None and error.code in contract.ERROR_CODES
    if says_missing(error) and not is_documented and status != "completed":
        return False
    if task_id_in(answer) is not None:
        if answer.get("status") is None and (says_unclear(error) or says_busy(error)):
            return False  # an error of the gateway itself
        return not isinstance(answer.get("status"), dict) or bool(answer.get("output"))
    is_end = is_documented or ("error" in answer and _word(answer) == "failed")
    return isinstance(answer.get("status"), str) and (status != "failed" or is_end)


def _task(answer: dict[str, Any], task_id: str) -> Task:
    word, error, data = _status(answer), message_in(answer.get("error")), answer.get("data")
    echo = _echo(answer)
    written, progress = _written(answer.get("status")), number(answer.get("progress"))
    listed = data if isinstance(data, list) else []  # an object may repeat the link of the reference
    pictures = _pictures([*map(answer.get, _OUTPUT_KEYS), *listed])
    if word == "completed" and not pictures and not echo:  # otherwise the links may be those of references
        places = answer | data if isinstance(data, dict) else answer
        pictures = _pictures([value for name, value in places.items() if _PICTURES_KEY.fullmatch(name)])
    if pictures and error is not None and _says_nothing(error):
        error = None  # such as 10000, "Success"
    if word == "failed" and _word(answer) not in contract.STATUS_WORDS and pictures and error is None:
        word = None  # a picture says more than an unknown word
    is_cost_unreadable = _is_cost_unreadable(usage := _usage(answer), answer)
    usage = usage if isinstance(usage, dict) else {}
    has_output = word == "completed" or (word is None and bool(pictures))
    is_contradictory = has_output and error is not None
    has_failed = word == "failed" or is_contradictory or (word is None and error is not None)
    status: TaskStatus = "failed" if has_failed else "completed" if has_output else "in_progress"
    return Task(
        task_id=task_id,
        status=status,
        urls=tuple(pictures),
        sizes=tuple(size for size, _ in pictures.values()),
        job_ids=tuple(job_id for _, job_id in pictures.values()),
        cost=None if is_cost_unreadable else _usd(usage.get("cost")),
        discount=_written(usage.get("discount")),
        error=error or (message_in(answer) if has_failed else None),
        created_at=unix_time(answer.get("created_at")),
        progress=None if progress is None or not 0 <= progress <= 1 else progress,
        metadata=_metadata(answer.get("metadata")),
        is_completed_with_error=is_contradictory,
        is_cost_unreadable=is_cost_unreadable,
        unlisted_status=None if word or not written else written[:_WORD_CHARACTERS_MAX],
        echo=echo,
    )


def _echo(answer: dict[str, Any]) -> dict[str, int | str]:
    """Return the parameters that an answer repeats."""
    inputs = answer.get("input")
    first = inputs[0] if isinstance(inputs, list) and inputs else inputs
    nested = first.get("params") if isinstance(first, dict) else None
    places = [nested, first, *map(answer.get, _ECHO_KEYS)]
    # A size beside the output may be that of the picture.
    places.append({name: answer.get(name) for name in ("seed", "prompt")})
    found: dict[str, int | str] = {}
    for place in (place for place in places if isinstance(place, dict)):
        for name in _ECHOED:
            value = text(place.get(name)) if name == "prompt" else _whole(place.get(name))
            if value is not None:
                found.setdefault(name, value)
    return found


def _whole(value: Any) -> int | None:
    read = number(value)
    return int(read) if read is not None and abs(read) < _SIZE_MAX and read == int(read) else None


def contradiction(
    echo: Mapping[str, int | str], sent: Mapping[str, Any], other_prompts: Callable[[], Collection[str]]
) -> str | None:
    """Return which repeated parameter differs from what was sent; None if the answer may be about this attempt."""
    for name in ("seed", "width", "height"):
        asked = sent.get(name)
        is_compared = name in echo and isinstance(asked, int) and 0 < asked < _SIZE_MAX
        if is_compared and echo[name] != asked:
            return f"{name} {echo[name]}, not {asked}"
    echoed, asked = _comparable(echo.get("prompt")), _comparable(sent.get("prompt"))
    if not echoed or not asked or echoed == asked or (len(echoed) >= _CUT_FROM and asked.startswith(echoed)):
        return None
    # A rephrased prompt may differ, unless it is one of the others.
    if sent.get("use_rephraser") and echoed not in map(_comparable, other_prompts()):
        return None
    return f"the prompt {echoed[:_WORD_CHARACTERS_MAX]!r}"


def _comparable(prompt: Any) -> str:
    """Return a prompt without what services may change: white space, Unicode form, an ellipsis after truncation."""
    return " ".join(unicodedata.normalize("NFC", str(prompt or "")).split()).rstrip(".\u2026 ")


def _word(answer: dict[str, Any]) -> str:
    return re.sub(r"[\s-]+", "_", (text(answer.get("status")) or "").lower())


def _status(answer: dict[str, Any]) -> TaskStatus | None:
    return cast("TaskStatus | None", _WORDS.get(_word(answer)))


def _is_as_documented(answer: dict[str, Any], task: Task) -> bool:
    if _status(answer) is None or task.unlisted_status is not None:
        return False
    is_whole = {
        "completed": bool(task.urls),
        "failed": task.error is not None,
        "in_progress": task.error is None,
    }
    return not task.is_cost_unreadable and is_whole[task.status] and not task.is_completed_with_error


def _usage(answer: dict[str, Any]) -> Any:
    """Find the cost in `usage`, where it is documented, or elsewhere if that has none."""
    usage = answer.get("usage")
    if (usage.get("cost") if isinstance(usage, dict) else usage) not in (None, ""):
        return usage
    fields = fields_in(answer, but=_ECHO_KEYS)
    places = (value for name, value in fields if isinstance(value, dict) and not _NO_COST_KEY.match(name))
    return next((place for place in places if place.get("cost") not in (None, "")), usage)


def _usd(cost: Any) -> str | None:
    """Return an amount in USD, with or without a dollar sign; None if no picture can cost that."""
    # The pattern takes long for many blanks.
    is_short = isinstance(cost, str) and len(cost) <= TEXT_CHARACTERS_MAX
    read = decimal_text(_USD.sub("", cost) if is_short else cost)
    return None if read is None or Decimal(read) > contract.COST_MAX_USD.value else read


def _currency(about: dict[str, Any]) -> str | None:
    """Return the stated currency of an amount, in any known shape."""
    named = {name.lower(): value for name, value in about.items() if value not in (None, "", [], {})}
    keys = sorted(name for name in named if re.fullmatch("(.*(?<!con))?currency(_?code)?|unit", name))
    return (_written(named[keys[0]]) or str(named[keys[0]])[:_WORD_CHARACTERS_MAX]) if keys else None


# A cost under another name or elsewhere can't be counted, but shows that the task wasn't free.
_COST_KEY: Final = re.compile(
    "(?i).*(?:cost|charge|billed|paid|price|amount|fees?(?![a-z])|credit|deduct|debit|spent|consumed)"
)
# Names of limits, unit prices and durations, which aren't costs.
_NO_COST_KEY: Final = re.compile(
    "(?i)unit|.*(?:remain|left|balance|limit|max|estimat|recharge|_per_"
    "|timing|time_?(?:cost|spent|consumed)|(?:cost|spent|consumed)_?time)"
)


def _is_cost_unreadable(usage: Any, answer: dict[str, Any]) -> bool:
    if not isinstance(usage, dict) and usage not in (None, ""):
        return True
    cost = usage.get("cost") if isinstance(usage, dict) else None
    if cost in (None, ""):
        return _names_a_cost(answer)
    return _usd(cost) is None or not is_usd(_currency(usage))


def _names_a_cost(answer: dict[str, Any]) -> bool:
    """Return whether any field named like a cost is true or has a digit other than 0."""
    fields = fields_in(answer, but=_ECHO_KEYS)
    costs = (value for name, value in fields if _COST_KEY.match(name) and not _NO_COST_KEY.match(name))
    return any(value is True or re.search("[1-9]", _written(value) or "") for value in costs)


def fields_in(answer: Any, *, but: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield all names and values in an answer at any depth, skipping some names."""
    waiting = [("", answer)]
    while waiting:
        name, value = waiting.pop()
        yield name, value
        items = [("", item) for item in value] if isinstance(value, list) else []
        fields = value.items() if isinstance(value, dict) else items
        waiting += ((key, item) for key, item in fields if key not in but)


def _pictures(output: Any) -> dict[str, tuple[int | None, str | None]]:
    """Collect all links in order, with size and job id, at any depth of nesting."""
    found: dict[str, tuple[int | None, str | None]] = {}
    waiting: list[tuple[Any, dict[str, Any]]] = [(output, {})]
    while waiting:
        value, beside = waiting.pop()
        if isinstance(value, str) and _LINK.fullmatch(value.strip()):
            size, job_id = _whole(beside.get("size")) or 0, _written(beside.get("jobId"))
            found.setdefault(
                value.strip(), (size if size > 0 else None, job_id and job_id[:_ID_CHARACTERS_MAX])
            )
        elif isinstance(value, list):
            waiting.extend((item, beside) for item in reversed(value))
        elif isinstance(value, dict):
            links = {"url"} if "url" in value else set(filter(_LINK_KEY.fullmatch, value))
            inside = [item for key, item in value.items() if key in links or not isinstance(item, str)]
            waiting.extend((item, value) for item in reversed(inside))
    return found


def _metadata(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    read = ((text(name), number(seconds)) for name, seconds in value.items())
    times = [(name, seconds) for name, seconds in read if name is not None and seconds is not None]
    return dict(times[:_N_METADATA_MAX])


_TITLE: Final = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_REASON: Final = re.compile(r"\bReason: ([^<]+)<")  # on pages of Apache, whose titles don't say it
_REFUSED_FROM: Final = 400


@dataclass(frozen=True, slots=True)
class Request:
    """One create request.

    Attributes
    ----------
    prompt : str
    seed : int
        -1 for a random seed.
    width, height : int
        In pixels.
    use_rephraser : bool
    image_url : str, tuple of str, or None
        Public URL of the reference picture, or of several. Pass either this or `image_base64`.
    image_base64 : bytes, tuple of bytes, or None
        The reference picture in base64 (ASCII, no `data:` prefix), or several.
    model : str
        `spark_dreamo` takes one picture, `spark_multi_dreamo` 1 to 5.
    ref_type : tuple of str
        What each picture is: `AUTO`, `IP`, `ID` or `STYLE`. Not sent if empty.
    guidance_scale1, guidance_scale2 : float or None
        Not sent if None.

    Raises
    ------
    UsageError
        If there are no pictures, both kinds, or more than the model takes.

    Examples
    --------
    >>> Request("a red fox", -1, 1328, 1328, True, image_base64=b"/9j/").seed
    -1
    >>> both = ("https://example.com/fox.png", "https://example.com/hat.png")
    >>> several = Request("a fox with a hat", 7, 1328, 1328, True, image_url=both, model="spark_multi_dreamo")
    >>> len(several.image_urls)
    2
    """

    prompt: str
    seed: int
    width: int
    height: int
    use_rephraser: bool
    image_url: str | tuple[str, ...] | None = None
    image_base64: bytes | tuple[bytes, ...] | None = field(default=None, repr=False)
    model: str = contract.MODEL
    ref_type: tuple[str, ...] = ()
    guidance_scale1: float | None = None
    guidance_scale2: float | None = None

    def __post_init__(self) -> None:
        n_images = len(self.image_urls) + len(self.images_base64)
        most = contract.MODELS[self.model].images_max.value if self.model in contract.MODELS else n_images
        if not n_images or (self.image_urls and self.images_base64) or n_images > most:
            expected = "exactly one picture" if most == 1 else f"1 to {most} pictures of one kind"
            raise UsageError(f"a request needs {expected}: pass image_url or image_base64")

    @property
    def image_urls(self) -> tuple[str, ...]:
        """The URLs of the pictures."""
        return (self.image_url,) if isinstance(self.image_url, str) else tuple(self.image_url or ())

    @property
    def images_base64(self) -> tuple[bytes, ...]:
        """The pictures in base64."""
        if isinstance(self.image_base64, tuple | list | None):
            return tuple(self.image_base64 or ())
        return (self.image_base64,)


@dataclass(frozen=True, slots=True)
class Price:
    """What a create would cost."""

    cost: str | None
    discount: str | None
    currency: str | None
    reason: str | None


def pieces_of(request: Request) -> list[bytes]:
    """Build the JSON body of a create in pieces, so that megabytes of base64 are neither encoded nor copied."""
    params: dict[str, Any] = {
        "prompt": request.prompt,
        "seed": request.seed,
        "use_rephraser": request.use_rephraser,
        "width": request.width,
        "height": request.height,
    }
    optional = {name: getattr(request, name) for name in contract.SCALES}
    optional[contract.REF_TYPES_PARAMETER.value] = request.ref_type or None
    optional["image_urls"] = request.image_urls or None
    params |= {name: value for name, value in optional.items() if value is not None}
    written = b'{"model": %b, "input": [{"params": %b' % tuple(
        json.dumps(part).encode() for part in (request.model, params)
    )
    if request.image_urls:
        return [written, b"}]}"]
    first, *others = request.images_base64
    further = [piece for picture in others for piece in (b'", "', picture)]
    return [written[:-1] + b', "binary_data_base64": ["', first, *further, b'"]}}]}']


def read_created(body: bytes) -> str | ServiceMessage:
    """Read the answer to a create; if it names two tasks, it is unclear which one was created."""
    answer = load(body)
    if len(_all_ids(answer) if refusal_in(answer) is None else named_tasks_in(body)) > 1:
        raise Unreadable(excerpt(body))
    created = task_id_in(answer) or task_id_in(answer.get("data")) or refusal_in(answer)
    if created is None:
        raise Unreadable(excerpt(body))
    return created


def _all_ids(answer: dict[str, Any]) -> set[str]:
    return {one for place in (answer, answer.get("data"), answer.get("error")) for one in _ids(place)}


def named_tasks_in(body: bytes) -> list[str]:
    """Return the ids anywhere in an answer, even a refused or truncated one: no proof, but tasks to look up."""
    answer = load_leniently(body) or _load_inside(body) or _load_cut(body)
    data = answer.get("data")
    items = data if isinstance(data, list) else [answer.get("result")]
    named = _all_ids(answer).union(*map(_ids, items))
    for name, value in fields_in(answer):
        if _TASK_KEY.fullmatch(name):  # at deeper levels, other objects have an `id`, too
            named.update(_ids(value) or _ids({"id": value}))
    return sorted(filter(is_task_id, named))


def tasks_in_words(words: str) -> list[str]:
    """Return the ids of tasks that a text mentions, which may be anyone's."""
    return sorted(set(_TASK_IN_WORDS.findall(words)))


def says_only_running(body: bytes) -> bool:
    """Return whether a body only says that one task is running, like the answer to an accepted create."""
    answer = load_leniently(body)
    return _status(answer) == "in_progress" and message_in(answer) is None and len(_all_ids(answer)) == 1


def queue_id_in(body: bytes) -> str | None:
    """Read the `request_id` that a queue protocol sends instead of an `id`."""
    answer = load_leniently(body)
    places = (answer, answer.get("data"))
    ids = (text(place.get("request_id")) for place in places if isinstance(place, dict))
    return next((found_id[:_ID_CHARACTERS_MAX] for found_id in ids if found_id), None)


def read_description(body: bytes) -> dict[str, Any] | None:
    """Read a model's description."""
    data = load_leniently(body).get("data")
    listed = data.get("parameters") if isinstance(data, dict) else None
    return data if isinstance(listed, list) and listed else None


def read_price(body: bytes) -> Price:
    """Read the answer to a precharge."""
    answer = load(body)
    data = answer["data"] if isinstance(answer.get("data"), dict) else answer
    error = message_in(answer)
    currency, price = _currency(data) or _currency(answer), _written(data.get("cost"))
    if not is_usd(currency):
        return Price(None, None, currency, f"the price is in {currency!r}, not in USD")
    cost = _usd(data.get("cost"))
    unread = f"the price {price!r} can't be read" if price is not None and cost is None else None
    return Price(
        cost=cost,
        discount=_written(data.get("discount")),
        currency=currency,
        reason=text(data.get("reason")) or (error.message if error is not None else unread),
    )


def read_error(body: bytes) -> ServiceMessage:
    """Read the body of an HTTP error: JSON of any known shape, HTML, text, or nothing."""
    try:
        payload = parse(body)
        error = message_in(payload) or ServiceMessage(None, None)
        inside = (message_in(one) for _, one in fields_in(payload, but=_ECHO_KEYS) if isinstance(one, dict))
        return error if error.message else next((inner for inner in inside if inner and inner.message), error)
    except Unreadable as unreadable:
        page = unreadable.excerpt
        told = (pattern.search(page) for pattern in (_TITLE, _REASON))
        words = " ".join(found[1] for found in told if found) or re.sub(r"<[^>]*>", " ", page)
        return ServiceMessage(None, text(" ".join(html.unescape(words).split())))


def refusal_in(answer: dict[str, Any]) -> ServiceMessage | None:
    """Return the error in an answer with HTTP 200; a message alone isn't one, it may be "ok"."""
    error = message_in(answer)
    if error is None or message_in(answer.get("error")):
        return error
    return error if (code_number(error.code) or 0) >= _REFUSED_FROM else None
