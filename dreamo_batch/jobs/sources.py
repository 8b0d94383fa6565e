"""Find the picture that a cell points at: a file, a URL, bytes or a PIL image."""

from __future__ import annotations

import base64
import binascii
import functools
import glob
import ipaddress
import json
import numbers
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes, urlsplit

from PIL import Image

from dreamo_batch.jobs.cells import items_of, printable
from dreamo_batch.jobs.rules import Finding
from dreamo_batch.service.config import PORTS
from dreamo_batch.service.messages import unix_time
from dreamo_batch.text import type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping


_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]")
_LEFT_ALONE: Final = "%:/?#[]@!$&'()*+,;="
CLOCK_SKEW_S: Final = 300.0
_YEAR_10000: Final = 253_402_300_800


def canonical(url: str) -> str:
    """Return the part of a URL that identifies the picture.

    Without fragment, default port and signature; scheme and host in lower case; escapes in one spelling.
    """
    parts = urlsplit(url)
    query = "&".join(_unsigned(parts.query.split("&"))) if parts.query else ""
    path = _spelled(parts.path) or "/"
    return f"{parts.scheme.lower()}://{_host(url)}{path}" + (f"?{_spelled(query)}" if query else "")


def place(url: str) -> str:
    """Return where a URL leads regardless of its query, to find links that may mean the same picture."""
    path: list[str] = []
    for part in unicodedata.normalize("NFC", unquote(urlsplit(url).path)).split("/"):
        if part == "..":
            path = path[:-1]
        elif part not in {"", "."}:
            path.append(part)
    return "/".join([_host(url), *path])


def expires_at(url: str) -> float | None:
    """Return when a signed link expires; None if it doesn't say."""
    given = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    for scheme in _SCHEMES:
        if scheme.needs <= given.keys():
            try:
                seconds = scheme.expires(given)
            except (ValueError, TypeError, KeyError, OverflowError, IndexError, AttributeError):
                return None
            return seconds if seconds is not None and 0 <= seconds < _YEAR_10000 else None
    return None


def has_expired(url: str, now: float) -> bool:
    """Return whether a signed link has expired, also if the local clock is a few minutes wrong."""
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


def _unsigned(parameters: list[str]) -> Iterable[str]:
    names = [unquote(one.partition("=")[0]).lower() for one in parameters]
    signed = [scheme for scheme in _SCHEMES if scheme.needs <= set(names)]
    for name, one in zip(names, parameters, strict=True):
        if one and not any(scheme.names.fullmatch(name) for scheme in signed):
            yield one


@dataclass(frozen=True, slots=True)
class _Scheme:
    """A way of signing links: the parameters that reveal it, all that belong to it, and how to read its expiry."""

    needs: frozenset[str]
    names: re.Pattern[str]
    expires: Callable[[Mapping[str, str]], float | None]


def _scheme(needs: str, others: str, expires: Callable[[Mapping[str, str]], float | None]) -> _Scheme:
    names = "|".join([*map(re.escape, needs.split()), *others.split()])
    return _Scheme(frozenset(needs.split()), re.compile(names), expires)


def _lasting(prefix: str) -> Callable[[Mapping[str, str]], float | None]:
    """Read a start and a duration in seconds."""

    def end(given: Mapping[str, str]) -> float | None:
        start = unix_time(given[f"{prefix}-date"])
        return None if start is None else start + float(given[f"{prefix}-expires"])

    return end


def _until(name: str) -> Callable[[Mapping[str, str]], float | None]:
    return lambda given: unix_time(given.get(name))


def _cloudfront(given: Mapping[str, str]) -> float | None:
    if "expires" in given:
        return unix_time(given["expires"])
    packed = given["policy"].translate(str.maketrans("-_~", "+=/"))
    policy: Any = json.loads(base64.b64decode(_padded(packed)))
    statements = policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]
    return min(float(one["Condition"]["DateLessThan"]["AWS:EpochTime"]) for one in statements)


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


QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d"
AROUND: Final = " \t\r\n\u00a0\u3000\ufeff\u200b" + QUOTES


def same_name(path: str, other: str) -> bool:
    """Return whether two paths differ only in Unicode form and in blanks or quotes around their parts."""
    return _parts(path) == _parts(other)


def nearest(path: str) -> str | None:
    """Find the one file that a path without a file may mean."""
    found = [Path(os.sep)]
    for part in _parts(path):
        found = [entry for folder in found for entry in _entries(folder, part)]
    files = [str(one) for one in found if one.is_file()]
    exact = [one for one in files if same_name(one, path)]
    best = exact or files
    return best[0] if len(best) == 1 else None


def matching(pattern: str) -> tuple[list[str], list[str]]:
    """Return the files that a glob pattern matches, and those that it misses only by letter case."""
    forms = dict.fromkeys([pattern, *(unicodedata.normalize(form, pattern) for form in ("NFC", "NFD"))])
    found = {path for form in forms for path in _files(form)}
    near = {path for form in forms for path in _files(_any_capitals(form))}
    return sorted(found), sorted(near - found)


def _files(pattern: str) -> list[str]:
    return [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207 - any pattern


def _any_capitals(pattern: str) -> str:
    written, is_inside = [], False
    for character in pattern:
        is_inside = character == "[" or (is_inside and character != "]")
        both = {character.lower(), character.upper()}
        is_plain = len(both) == 1 or any(len(one) != 1 for one in both)
        if is_plain:
            written.append(character)
        else:
            written.append("".join(sorted(both)) if is_inside else f"[{''.join(sorted(both))}]")
    return "".join(written)


def _parts(path: str) -> list[str]:
    parts = unicodedata.normalize("NFC", path).strip(AROUND).split("/")
    return [stripped for part in parts if (stripped := part.strip(AROUND))]


def _entries(folder: Path, part: str) -> list[Path]:
    """Return what a part of a path may mean in a folder: exactly that name if it exists."""
    if (folder / part).exists():
        return [folder / part]
    try:
        listed = _listed(folder, folder.stat().st_mtime_ns)
    except OSError:
        return []
    return [folder / name for name in listed.get(part.casefold(), ())]


@functools.lru_cache(maxsize=64)
def _listed(folder: Path, _mtime_ns: int) -> dict[str, list[str]]:
    """Return the names in a folder by their casefolded spelling; cached, for tables with many missing files."""
    listed: dict[str, list[str]] = {}
    for name in os.listdir(folder):  # noqa: PTH208 - only the names
        listed.setdefault("".join(_parts(name)).casefold(), []).append(name)
    return listed


FILE: Final = "file"
URL: Final = "url"
BYTES: Final = "bytes"
PIXELS: Final = "pixels"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# What Windows puts before a path that is copied from a dialog.
_DIRECTIONS: Final = "\u202a\u202b\u202c\u2066\u2068\u200e\u200f"
# These can't begin a relative path, so quotes before them aren't part of a file name.
_WHOLE = ("/", "~", "http:", "https:", "data:")
_LOCAL_NAMES = ("localhost", ".localhost", ".local", ".internal", ".lan")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a cell's picture is: `location` of a file (absolute path) or URL, or `content` in memory."""

    kind: Literal["file", "url", "bytes", "pixels"]
    location: str = ""
    content: Any = None

    @property
    def key(self) -> Hashable:
        """What identifies it: the location, or in memory the object itself."""
        return (self.kind, self.location) if self.location else (self.kind, id(self.content))


def read_sources(cell: Any, base_dir: Path) -> tuple[Source | Finding, ...]:
    """Return what an image cell points at: one picture, or several if it holds a list."""
    items = items_of(cell)
    if items is None or any(
        isinstance(item, numbers.Number) for item in items[:1]
    ):  # levels or bytes, no pictures
        items = [cell]
    return tuple(read_source(item, base_dir) for item in items)


def read_source(cell: Any, base_dir: Path) -> Source | Finding:
    """Return what one picture points at, or why it can't be used."""
    if isinstance(cell, str):
        return _source_of_text(cell, base_dir)
    if isinstance(cell, os.PathLike) and isinstance(os.fspath(cell), str):
        return _source_of_path(os.fspath(cell), base_dir)
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return Source(BYTES, content=bytes(cell))
    if isinstance(cell, Image.Image):
        return Source(PIXELS, content=cell)
    return Finding.of("image-not-a-source", type=type_of(cell))


def judge_url(url: str) -> Finding | None:
    """Return a warning about a usable URL that the service may not reach."""
    host = urlsplit(url).hostname or ""
    try:
        is_public = ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.rstrip(".")
        is_public = "." in name and not name.endswith(_LOCAL_NAMES)
    return None if is_public else Finding.of("image-url-not-public", host=host)


def _source_of_text(text: str, base_dir: Path) -> Source | Finding:
    stripped = text.strip()
    if stripped[:1] in QUOTES and (bare := stripped.strip(AROUND)).startswith(_WHOLE):
        stripped = text = bare
    elif (bare := text.lstrip(AROUND + _DIRECTIONS)).startswith(_WHOLE):
        text, stripped = bare, bare.strip()
    scheme = stripped[:8].lower()
    if scheme.startswith("data:"):
        return _source_of_data_uri(stripped)
    if scheme.startswith(("http:", "https:")):
        reason = _why_unusable(stripped)
        return Finding.of("image-bad-url", reason=reason) if reason else Source(URL, stripped)
    if match := _SCHEME.match(stripped):
        return Finding.of("image-bad-url", reason=f"{match[0]} is not http:// or https://")
    return _source_of_path(text, base_dir)


def _why_unusable(url: str) -> str:
    if any(character.isspace() or not character.isprintable() for character in url):
        return "it contains spaces or control characters (write a space as %20)"
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


def _source_of_path(path: str, base_dir: Path) -> Source | Finding:
    if "\0" in path or printable(path) != path:
        return Finding.of(
            "image-unreadable", reason="its path holds a NUL or isn't valid UTF-8; rename the file"
        )
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        return Finding.of("image-unreadable", reason=str(error).rstrip("."))
    return Source(FILE, os.path.abspath(base_dir / expanded))  # noqa: PTH100 - resolve() would follow symlinks


def _source_of_data_uri(uri: str) -> Source | Finding:
    head, comma, body = uri.partition(",")
    if not comma:
        return Finding.of("image-bad-data-uri", reason="it has no comma before the data")
    if not head.lower().endswith(";base64"):
        return Source(BYTES, content=unquote_to_bytes(body))
    try:
        return Source(BYTES, content=base64.b64decode(_padded(body), validate=True))
    except (binascii.Error, ValueError) as error:
        return Finding.of("image-bad-data-uri", reason=str(error))


def _padded(body: str) -> bytes:
    packed = unquote_to_bytes("".join(body.split())).rstrip(b"=")
    return packed + b"=" * (-len(packed) % 4)
