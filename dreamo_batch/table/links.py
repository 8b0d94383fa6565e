"""Links to pictures: what of a URL names the picture, and when a signed link expires.

Examples
--------
>>> canonical("HTTPS://B.s3.amazonaws.com:443/a%7e.png?X-Amz-Expires=60&X-Amz-Signature=00#top")
'https://b.s3.amazonaws.com/a~.png'
>>> canonical("https://example.com/cat.png?size=large")
'https://example.com/cat.png?size=large'
"""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]")
_LEFT_ALONE: Final = "%:/?#[]@!$&'()*+,;="
_MILLISECONDS_FROM: Final = 1e11
_YEAR_10000: Final = 253_402_300_800


def canonical(url: str) -> str:
    """Return what of a URL names the picture.

    Without fragment, default port and the parameters of a signature; scheme and host in lower case; each escape
    written in one way.

    Parameters
    ----------
    url : str
        An http or https URL.

    Returns
    -------
    str
        The same text for every link to the same object that differs in none but these.

    Examples
    --------
    >>> canonical("https://cdn.discordapp.com/a/1/fox.png?ex=66f&is=66e&hm=ab")
    'https://cdn.discordapp.com/a/1/fox.png'
    """
    parts = urlsplit(url)
    query = "&".join(_unsigned(parts.query.split("&"))) if parts.query else ""
    path = _spelled(parts.path) or "/"
    return f"{parts.scheme.lower()}://{_host(url)}{path}" + (f"?{_spelled(query)}" if query else "")


def place(url: str) -> str:
    """Return where a URL leads whatever its query, for telling which links may mean the same picture.

    Examples
    --------
    >>> place("https://example.com/a/../b//cat.png?token=1"), place("https://example.com/b/cat.png")
    ('example.com/b/cat.png', 'example.com/b/cat.png')
    """
    path: list[str] = []
    for part in unicodedata.normalize("NFC", unquote(urlsplit(url).path)).split("/"):
        if part == "..":
            path = path[:-1]
        elif part not in {"", "."}:
            path.append(part)
    return "/".join([_host(url), *path])


def query(url: str) -> str:
    """Return what stands behind the question mark.

    Examples
    --------
    >>> query("https://example.com/cat.png?size=large")
    'size=large'
    """
    return urlsplit(url).query


def expires_at(url: str) -> float | None:
    """Read from a signed link when it expires.

    Parameters
    ----------
    url : str
        An http or https URL.

    Returns
    -------
    float or None
        Unix seconds; None if the link isn't signed in a known way, or doesn't say.

    Examples
    --------
    >>> expires_at("https://b.s3.amazonaws.com/a?X-Amz-Date=20200101T000000Z&X-Amz-Expires=60&X-Amz-Signature=0")
    1577836860.0
    >>> expires_at("https://example.com/a?Expires=5")
    """
    given = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    for scheme in _SCHEMES:
        if scheme.needs <= given.keys():
            try:
                seconds = scheme.expires(given)
            except (ValueError, TypeError, KeyError, OverflowError, IndexError, AttributeError):
                return None
            return seconds if seconds is not None and 0 <= seconds < _YEAR_10000 else None
    return None


def _host(url: str) -> str:
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else _ascii(host)
    return host if parts.port in {None, _DEFAULT_PORTS.get(parts.scheme.lower())} else f"{host}:{parts.port}"


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


def _unsigned(parameters: list[str]) -> Iterable[str]:
    names = [unquote(one.partition("=")[0]).lower() for one in parameters]
    signed = [scheme for scheme in _SCHEMES if scheme.needs <= set(names)]
    for name, one in zip(names, parameters, strict=True):
        if one and not any(scheme.names.fullmatch(name) for scheme in signed):
            yield one


@dataclass(frozen=True, slots=True)
class _Scheme:
    """A way of signing links: the parameters that show it, all that belong to it, and how it says its end."""

    needs: frozenset[str]
    names: re.Pattern[str]
    expires: Callable[[Mapping[str, str]], float | None]


def _scheme(needs: str, others: str, expires: Callable[[Mapping[str, str]], float | None]) -> _Scheme:
    names = "|".join([*map(re.escape, needs.split()), *others.split()])
    return _Scheme(frozenset(needs.split()), re.compile(names), expires)


def _lasting(prefix: str) -> Callable[[Mapping[str, str]], float]:
    """Read a beginning and how many seconds it lasts."""
    return lambda given: _moment(given[f"{prefix}-date"]) + float(given[f"{prefix}-expires"])


def _until(name: str) -> Callable[[Mapping[str, str]], float | None]:
    return lambda given: _moment(given[name]) if name in given else None


def _moment(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    return seconds / 1000 if seconds >= _MILLISECONDS_FROM else seconds


def _cloudfront(given: Mapping[str, str]) -> float | None:
    if "expires" in given:
        return _moment(given["expires"])
    packed = given["policy"].translate(str.maketrans("-_~", "+=/"))
    policy: Any = json.loads(base64.b64decode(packed))
    return float(policy["Statement"][0]["Condition"]["DateLessThan"]["AWS:EpochTime"])


_AZURE: Final = "sv se st sp sr spr sip ss srt si ses sdd skoid sktid skt ske sks skv saoid suoid scid"
_SCHEMES: Final = (
    _scheme("x-amz-signature", r"x-amz-.* x-id", _lasting("x-amz")),
    _scheme("x-goog-signature", r"x-goog-.*", _lasting("x-goog")),
    _scheme(
        "x-tos-signature",
        r"x-tos-(?:algorithm|credential|date|expires|signedheaders|security-token|policy)",
        _lasting("x-tos"),
    ),
    _scheme(
        "x-oss-signature",
        r"x-oss-(?:signature-version|credential|date|expires|additional-headers|security-token)",
        _lasting("x-oss"),
    ),
    _scheme("awsaccesskeyid signature", "expires x-amz-security-token", _until("expires")),
    _scheme("googleaccessid signature", "expires", _until("expires")),
    _scheme("ossaccesskeyid signature", "expires security-token", _until("expires")),
    _scheme("accesskeyid signature", "expires x-obs-security-token", _until("expires")),
    _scheme("key-pair-id signature", "expires policy hash-algorithm", _cloudfront),
    _scheme(
        "q-signature", r"q-.* x-cos-security-token", lambda given: float(given["q-sign-time"].split(";")[1])
    ),
    _scheme("sig sv", _AZURE, _until("se")),
    _scheme("ex is hm", "", lambda given: float(int(given["ex"], 16))),
)
