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

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.service.parameters import ERROR_CODE_DIGITS

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
