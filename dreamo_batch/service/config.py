"""Settings of one service: base URL, API key and timeouts."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import math
import os
import re
import sys
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import SplitResult, quote, urlsplit

from dreamo_batch.arguments import is_number
from dreamo_batch.errors import KeyMissing, SettingsError
from dreamo_batch.service import contract
from dreamo_batch.text import quoted, type_of, wording

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KEY_VARIABLE: Final = "DREAMO_API_KEY"
BASE_URL_VARIABLE: Final = "DREAMO_BASE_URL"
MASK: Final = "***"
NO_KEY_NEEDED: Final = "pass base_url and api_key of a LocalGateway"

PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_PATH: Final = re.compile(r"(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*")
# How characters are written in URLs, also within other URLs, in JSON, also within JSON, in Python and HTML; breaks of
# lines stand for nothing, since a text may have been wrapped.
_ESCAPED: Final = re.compile(
    r"%(?:25)*([0-9a-f]{2})|(?:%|(?<!\\)\\)\\*+u([0-9a-f]{4})|(?:0|(?<!\\)\\)\\*+x([0-9a-f]{2})|&#x([0-9a-f]{1,6});"
    r"|&#([0-9]{1,7});|(?<!\\)\\++(/)|[\r\n]\s*|(?<!\\)\\++[nr](?:\s|\\++[nrt])*",
    re.IGNORECASE,
)
_NOTHING: Final = re.compile("(?!)")
# Three escaped characters in a file; fewer leave a word of the key whole.
_ESCAPES_IN_A_ROW: Final = [
    re.compile(3 * escape)
    for escape in (rb"%(?:25){0,3}[0-9a-f]{2}", rb"&#x?[0-9a-f]{1,7};", rb"\\\\{0,3}(?:u00|x)[0-9a-f]{2}")
]
# A shorter prefix of the key at the end of a truncated text reveals nothing, and may be an ordinary word.
_REVEALING_CHARACTERS: Final = 4
_REVEALING_IN_IDS_CHARACTERS: Final = 8


class Secret:
    """An API key that no repr, log or pickle shows."""

    __slots__ = ("_is_long", "_spellings", "_value")

    def __init__(self, value: str) -> None:
        self._value = _checked_key(value)
        self._spellings = tuple(dict.fromkeys(map(str.lower, _spellings(self._value))))
        self._is_long = len(self._value) >= _REVEALING_IN_IDS_CHARACTERS

    def reveal(self) -> str:
        """Return the key itself, for the Authorization header only."""
        return self._value

    def mask(self, text: str) -> str:
        """Mask the key in any letter case: plain, escaped for a URL, JSON or HTML, in base64, or cut short."""
        for pattern in _readings(text):
            if self._may_show(text, pattern):
                text = self._mask_read(text, pattern)
        return text

    def is_in(self, text: str) -> bool:
        """Return whether an id or a link contains the whole key, unless short, in any spelling that `mask` knows."""
        readings = [_read(text, pattern) for pattern in _readings(text)]
        return self._is_long and any(spelling in read for read in readings for spelling in self._spellings)

    def overwrite(self, content: bytes) -> bytes:
        """Replace the key in a file by asterisks, in any letter case, escaped or in UTF-16, unless it is short."""
        if not self._is_long or not _may_be_written_in(content.lower(), self._spellings):
            return content
        return re.sub(_in_bytes(self._spellings), lambda found: re.sub(rb"[^\0]", b"*", found[0]), content)

    def may_be_in(self, answer: bytes) -> bool:
        """Return False if no text in an answer can contain part of the key; a quick test that settles most answers."""
        text = answer.decode(json.detect_encoding(answer), errors="replace")
        return b"\\" in answer or any(self._may_show(text, pattern) for pattern in _readings(text))

    def _may_show(self, text: str, pattern: re.Pattern[str]) -> bool:
        read = _read(text, pattern)
        return any(spelling[:_REVEALING_CHARACTERS] in read for spelling in self._spellings)

    def _mask_read(self, text: str, pattern: re.Pattern[str]) -> str:
        """Mask the key in a text read with some escapes, including a prefix of the key at the end."""
        read = list(_characters(text, pattern))
        plain = "".join(character for character, _, _ in read)
        shown: set[int] = set()
        for spelling in self._spellings:
            spans = [match.span() for match in re.finditer(re.escape(spelling), plain)]
            lengths = range(len(spelling) - 1, _REVEALING_CHARACTERS - 1, -1)
            spans += [(len(plain) - n, len(plain)) for n in lengths if plain.endswith(spelling[:n])][:1]
            shown.update(*(range(read[begin][1], read[end - 1][2]) for begin, end in spans))
        pieces = groupby(range(len(text)), shown.__contains__)
        return "".join(MASK if is_shown else "".join(map(text.__getitem__, at)) for is_shown, at in pieces)

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, format_spec: str) -> str:
        return format(MASK, format_spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is never pickled or copied; pass it in DREAMO_API_KEY")


def _spellings(key: str) -> Iterator[str]:
    """Yield the spellings of a key: plain, quoted, and in base64, also inside the base64 of a longer text."""
    yield from (key, quote(key, safe=""), json.dumps(key)[1:-1])  # a quote or a backslash
    packed = [base64.b64encode(sent.encode()).decode().rstrip("=") for sent in (key, f"Bearer {key}")]
    for n_before in range(3):  # bytes that share its first group of three
        within = base64.b64encode(bytes(n_before) + key.encode()).decode()
        packed.append(within[-(-8 * n_before // 6) : 8 * (n_before + len(key)) // 6])
    for text in packed:
        if len(text) >= _REVEALING_IN_IDS_CHARACTERS:
            yield from (text, text.replace("+", "-").replace("/", "_"))


def _may_be_written_in(lowered: bytes, spellings: Iterable[str]) -> bool:
    """Return False if a file can't hold the key as anybody writes it; a tenth of the time of the search for it."""
    if any(escapes.search(lowered) for escapes in _ESCAPES_IN_A_ROW):
        return True
    words = {max(re.findall(r"[^\W_]+", spelling), key=len, default="") for spelling in spellings}
    return any(part.encode() in lowered for word in words for part in (word, "\0".join(word)))


def _in_bytes(spellings: Iterable[str]) -> bytes:
    """Return a pattern for spellings in a file, each character plain or escaped for a URL, JSON or HTML."""

    def in_any_form(one: str) -> str:
        in_hex, decimal = (
            "|".join(form % ord(case) for case in (one, one.upper())) for form in ("%02x", "%d")
        )
        return (
            rf"(?:\\{{0,4}}{re.escape(one)}|(?:%(?:25){{0,3}}|\\{{1,4}}(?:u00|x))(?:{in_hex})"
            rf"|&\#(?:x0{{0,4}}(?:{in_hex})|0{{0,4}}(?:{decimal}));)"
        )

    written = (r"\0?".join(map(in_any_form, spelling)) for spelling in spellings)
    first = re.escape("".join({spelling[0] for spelling in spellings}))
    return rf"(?i)(?=[{first}%&\\])(?:{'|'.join(written)})".encode()  # the look ahead only saves time


def _readings(text: str) -> tuple[re.Pattern[str], ...]:
    """Return the ways to read a text: with escapes decoded, if it has any, and as it is."""
    return (_ESCAPED, _NOTHING) if _ESCAPED.search(text) else (_NOTHING,)


def _read(text: str, escaped: re.Pattern[str]) -> str:
    """Return a text in lower case with escapes decoded."""
    return escaped.sub(_read_escape, text).lower()


def _read_escape(escape: re.Match[str]) -> str:
    percent, unicode, byte, hexadecimal, decimal, slash = escape.groups()
    digits = percent or unicode or byte or hexadecimal
    if not (digits or decimal):
        return slash or ""
    number = int(digits, 16) if digits else int(decimal)
    return chr(number) if number <= sys.maxunicode else "\ufffd"


def _characters(text: str, escaped: re.Pattern[str]) -> Iterator[tuple[str, int, int]]:
    """Yield each character that `_read` returns, with its start and end in the text."""
    for found in re.finditer(f"{escaped.pattern}|.", text, re.IGNORECASE | re.DOTALL):
        yield from ((character, *found.span()) for character in _read(found[0], escaped))


@dataclass(frozen=True, slots=True)
class Settings:
    """One service: base URL, key and timeouts, checked at construction."""

    base_url: str
    api_key: Secret | None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", _checked_url(self.base_url))
        for name in ("connect_timeout_s", "read_timeout_s"):
            value = getattr(self, name)
            if not is_number(value) or not 0 < float(value) < math.inf:
                raise SettingsError(f"{name} is {quoted(value)}; expected a number of seconds above 0")

    def masked(self, text: str) -> str:
        """Return a text with the key masked."""
        return text if self.api_key is None else self.api_key.mask(text)

    @property
    def is_loopback(self) -> bool:
        """Whether the service runs on this machine."""
        return is_loopback_host(urlsplit(self.base_url).hostname or "")

    @property
    def service_name(self) -> str:
        """`host:port`, or `loopback` for any port of this machine; keeps results of different services apart."""
        if self.is_loopback:
            return "loopback"
        parts = urlsplit(self.base_url)
        host = parts.hostname or ""
        return f"[{host}]:{_port(parts)}" if ":" in host else f"{host}:{_port(parts)}"


def resolve(api_key: str | Secret | None = None, base_url: str | None = None, **timeouts: float) -> Settings:
    """Return the settings from the arguments, else the environment, else the public gateway."""
    if not isinstance(api_key, str | Secret | None):
        raise SettingsError(f"api_key must be text, not {type_of(api_key)}.")
    if not isinstance(base_url, str | None):
        raise SettingsError(f"base_url must be text, not {type_of(base_url)}.")
    key = api_key or environment_key()
    if isinstance(key, str):
        key = Secret(key) if key.strip() else None
    url = base_url or os.environ.get(BASE_URL_VARIABLE) or contract.BASE_URL.value
    return Settings(url, key, **timeouts)


def environment_key() -> str | None:
    """Return the key that the environment holds, if any."""
    return os.environ.get(KEY_VARIABLE, "").strip() or None


def key_missing(settings: Settings, free: str = NO_KEY_NEEDED) -> KeyMissing:
    """Return the error for a service that needs a key and has none; `free` says how to do without one."""
    return KeyMissing(
        f"{settings.service_name} needs an API key: set the environment variable "
        f"{KEY_VARIABLE}{wording(', or pass api_key=', '')}. Nothing was sent. To try without a key or cost, {free}."
    )


def is_loopback_host(host: str) -> bool:
    """Return whether a host name or address means this machine, without resolving names."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_key(value: str) -> str:
    key = value.strip()
    if not key:
        raise SettingsError(f"the API key is empty; set {KEY_VARIABLE}{wording(' or pass api_key=', '')}")
    if not re.fullmatch(r"""(?!["'])[!-~]+""", key):  # a Docker env file keeps the quotes
        raise SettingsError(
            "the API key contains whitespace, control characters or non-ASCII letters, or begins with a quote; "
            "pass the bare key, without quotes, line breaks or the word Bearer"
        )
    return key


def _checked_url(url: str) -> str:
    """Return the URL without its trailing slash, or raise SettingsError."""
    url = url.strip()
    expected = "expected https://host[:port][/path]"
    if re.search(r"[@?#\\]", url):  # it may contain a secret, so no message quotes it
        raise SettingsError(
            f"base_url contains user information, a query, a fragment or a backslash; {expected}"
        )
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in PORTS and _port(parts) != 0
    except ValueError as error:
        raise SettingsError(f"base_url {url!r} can't be used: {error}") from None
    is_plain = _HOST.fullmatch(parts.netloc.removesuffix(f":{parts.port}")) and _PATH.fullmatch(parts.path)
    if not (is_complete and is_plain):
        raise SettingsError(f"base_url {url!r} can't be used; {expected}")
    if parts.scheme == "http" and not is_loopback_host(parts.hostname or ""):
        raise SettingsError(
            f"base_url {url!r} would send the key unencrypted; use https (plain http works only for loopback)"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def _port(parts: SplitResult) -> int:
    return parts.port if parts.port is not None else PORTS.get(parts.scheme, -1)
