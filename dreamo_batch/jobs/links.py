"""Links to pictures: what identifies one, when a signed one expires, and what is wrong with others."""

from __future__ import annotations

import base64
import functools
import ipaddress
import json
import os
import re
import unicodedata
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes, urlsplit

from dreamo_batch import files
from dreamo_batch.jobs.rules import Finding
from dreamo_batch.service.config import PORTS
from dreamo_batch.service.messages import unix_time

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping


_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]")
_LEFT_ALONE: Final = "%:/?#[]@!$&'()*+,;="
CLOCK_SKEW_S: Final = 300.0
_YEAR_10000: Final = 253_402_300_800


def canonical(url: str) -> str:
    """Return a URL without fragment, default port and signature, in one spelling, to identify its picture."""
    parts = urlsplit(url)
    query = "&".join(_unsigned(url, parts.query.split("&"))) if parts.query else ""
    path = _spelled(parts.path) or "/"
    return f"{parts.scheme.lower()}://{_host(url)}{path}" + (f"?{_spelled(query)}" if query else "")


def address(url: str) -> str:
    """Return a URL without its query, to find links that may lead to the same picture."""
    path = unicodedata.normalize("NFC", unquote(urlsplit(url).path)).lstrip("/")
    return _host(url) + os.path.normpath(f"/{path}")


def expires_at(url: str) -> float | None:
    """Return when a signed link expires; None if it doesn't say."""
    given = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    for scheme in _SCHEMES:
        if scheme.signs(url, given):
            try:
                seconds = scheme.expires(given)
            except (ValueError, TypeError, KeyError, OverflowError, IndexError, AttributeError):
                return None
            return seconds if seconds is not None and 0 <= seconds < _YEAR_10000 else None
    return None


def has_expired(url: str, now: float) -> bool:
    """Return whether a signed link has expired for certain, even if the local clock is a few minutes off."""
    end = expires_at(url)
    return end is not None and end + CLOCK_SKEW_S <= now


def _host(url: str) -> str:
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else _ascii(host)
    return host if parts.port in {None, PORTS.get(parts.scheme.lower())} else f"{host}:{parts.port}"


def _ascii(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _spelled(text: str) -> str:
    return quote(_ESCAPE.sub(_escape, text), safe=_LEFT_ALONE)


def _escape(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if _UNRESERVED.fullmatch(character) else found[0].upper()


def _unsigned(url: str, parameters: list[str]) -> Iterable[str]:
    names = [unquote(parameter.partition("=")[0]).lower() for parameter in parameters]
    signed = [scheme for scheme in _SCHEMES if scheme.signs(url, names)]
    for name, parameter in zip(names, parameters, strict=True):
        if parameter and not any(scheme.names.fullmatch(name) for scheme in signed):
            yield parameter


class _Scheme:
    """A scheme for signing links: the parameters that identify it, all that belong to it, and how it expires."""

    def __init__(self, needs: str, others: str = "", url: str = "", ends: str = "never") -> None:
        self.needs = frozenset(needs.split())
        self.names = re.compile("|".join([*map(re.escape, needs.split()), *others.split()]))
        self.url = re.compile(url, re.IGNORECASE)
        kind, *arguments = ends.split(" ")
        self.expires = functools.partial(_READERS[kind], *arguments)

    def signs(self, url: str, names: Collection[str]) -> bool:
        return self.needs <= {*names} and self.url.search(url) is not None


def _lasting(prefix: str, given: Mapping[str, str]) -> float | None:
    """Read a start and a duration in seconds."""
    start = unix_time(given[f"{prefix}-date"])
    return None if start is None else start + float(given[f"{prefix}-expires"])


def _baidu(given: Mapping[str, str]) -> float | None:
    _, _, start, seconds, *_ = given["authorization"].split("/")
    return _lasting("", {"-date": start, "-expires": seconds})


def _unpacked(packed: str) -> Any:
    return json.loads(base64.b64decode(padded(packed)))


def _cloudfront(given: Mapping[str, str]) -> float | None:
    if "expires" in given:
        return unix_time(given["expires"])
    policy = _unpacked(given["policy"].translate(str.maketrans("-_~", "+=/")))
    statements = policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]
    return min(float(statement["Condition"]["DateLessThan"]["AWS:EpochTime"]) for statement in statements)


_READERS: Final[Mapping[str, Callable[..., float | None]]] = {
    "never": lambda _: None,
    "until": lambda name, given: unix_time(given.get(name)),
    "lasting": _lasting,
    "hex": lambda name, given: float(int(given[name], 16)),
    "part": lambda name, pattern, given: float(re.findall(pattern, given[name])[0]),
    "jwt": lambda name, given: float(
        _unpacked(given[name].split(".")[1].translate(str.maketrans("-_", "+/")))["exp"]
    ),
    "cloudfront": _cloudfront,
    "baidu": _baidu,
}
_LINKS: Final = files.toml_beside(__file__, "links.toml")
_SCHEMES: Final = [_Scheme(**scheme) for scheme in _LINKS["signed"].values()]


def why_unusable(url: str) -> str:
    """Return why a link can't be used as it is written; empty if it can."""
    if reason := advice_on("unusable", url):
        return str(reason)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return str(error)
    if not parts.hostname:
        return "it has no host"
    if parts.username is not None or parts.password is not None:
        return "it contains a user name or password, which would be sent to the service"
    return "port 0 doesn't exist" if port == 0 else ""


def judge_url(url: str) -> Finding | None:
    """Return a warning about a usable URL that the service may not reach."""
    host = urlsplit(url).hostname or ""
    try:
        is_public = ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.rstrip(".")
        is_public = "." in name and not name.endswith(tuple(_LINKS["local"]))
    if not is_public:
        return Finding.of("image-url-not-public", host=host)
    if page := advice_on("page", url.partition("://")[2]):
        return Finding.of("image-url-of-page", site=page[0], instead=page[1])
    other = re.search(_LINKS["other_format"], url)
    return None if other is None else Finding.of("image-url-format", suffix=other[1])


def advice_on(kind: str, text: str) -> Any:
    """Return what `links.toml` says about a text; None if nothing."""
    entries = _LINKS[kind].items()
    return next((what for pattern, what in entries if re.search(pattern, text, re.IGNORECASE)), None)


def padded(body: str) -> bytes:
    """Return base64 of a URL with the `=` at its end that it may lack."""
    packed = unquote_to_bytes("".join(body.split())).rstrip(b"=")
    return packed + b"=" * (-len(packed) % 4)
