"""What one image cell points at: a file, a URL, bytes or pixels. Nothing is opened here.

Examples
--------
>>> read_source("HTTPS://example.com/cat.png", Path("/data")).kind
'url'
>>> read_source("cats/1.png", Path("/data")).location
'/data/cats/1.png'
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

import numpy as np
from PIL import Image

from dreamo_batch.table.cells import printable
from dreamo_batch.table.findings import Finding
from dreamo_batch.table.paths import AROUND, QUOTES

if TYPE_CHECKING:
    from collections.abc import Hashable

FILE: Final = "file"
URL: Final = "url"
BYTES: Final = "bytes"
PIXELS: Final = "pixels"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# What can't begin a relative path, so that quotes before it are not part of a name.
_WHOLE = ("/", "~", "http:", "https:", "data:")
_LOCAL_NAMES = ("localhost", ".localhost", ".local", ".internal", ".lan")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the picture of a cell is: `location` of a file (absolute) or URL, or `content` in memory.

    Examples
    --------
    >>> Source("url", "https://example.com/cat.png").content is None
    True
    """

    kind: Literal["file", "url", "bytes", "pixels"]
    location: str = ""
    content: Any = None

    @property
    def key(self) -> Hashable:
        """What tells it apart from other sources: the place, or in memory the object itself."""
        return (self.kind, self.location) if self.location else (self.kind, id(self.content))


def read_source(cell: Any, base_dir: Path) -> Source | Finding:
    """Tell what an image cell points at.

    Parameters
    ----------
    cell : object
        Path, http(s) URL or ``data:`` URI as text; any path-like; bytes, bytearray or memoryview; a PIL
        image; a list of one of these, as the service's own `image_urls` is. Not a missing cell.
    base_dir : pathlib.Path
        Absolute folder that relative paths start at; ``~`` is the user's home.

    Returns
    -------
    Source or Finding
        The finding says why the cell can't be used.

    Examples
    --------
    >>> read_source(b"GIF89a", Path("/data")).kind, read_source(3, Path("/data")).code
    ('bytes', 'image-not-a-source')
    """
    cell = only_item(cell)
    if isinstance(cell, str):
        return _source_of_text(cell, base_dir)
    if isinstance(cell, os.PathLike) and isinstance(os.fspath(cell), str):
        return _source_of_path(os.fspath(cell), base_dir)
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return Source(BYTES, content=bytes(cell))
    if isinstance(cell, Image.Image):
        return Source(PIXELS, content=cell)
    return Finding.of("image-not-a-source", type=type(cell).__name__)


def only_item(cell: Any) -> Any:
    """Return the one item of a list, tuple or array; anything else as it is.

    Examples
    --------
    >>> only_item(["cat.png"]), only_item(("a.png", "b.png")), only_item("cat.png")
    ('cat.png', ('a.png', 'b.png'), 'cat.png')
    """
    is_listed = isinstance(cell, (list, tuple, np.ndarray)) and np.ndim(cell) <= 1
    return cell[0] if is_listed and len(cell) == 1 else cell


def judge_url(url: str) -> Finding | None:
    """Say what is doubtful about a URL that can be used.

    Parameters
    ----------
    url : str
        A URL that `read_source` took.

    Returns
    -------
    Finding or None
        A warning for hosts that the service can hardly reach.

    Examples
    --------
    >>> judge_url("http://127.0.0.1:8000/cat.png").code
    'image-url-not-public'
    >>> judge_url("https://example.com/cat.png")
    """
    host = urlsplit(url).hostname or ""
    return None if _is_public(host) else Finding.of("image-url-not-public", host=host)


def _source_of_text(text: str, base_dir: Path) -> Source | Finding:
    stripped = text.strip()
    if stripped[:1] in QUOTES and (bare := stripped.strip(AROUND)).startswith(_WHOLE):
        stripped = text = bare
    scheme = stripped[:8].lower()
    if scheme.startswith("data:"):
        return _source_of_data_uri(stripped)
    if scheme.startswith(("http:", "https:")):
        return _source_of_url(stripped)
    if match := _SCHEME.match(stripped):
        return Finding.of("image-bad-url", reason=f"{match[0]} is not http:// or https://")
    return _source_of_path(text, base_dir)


def _source_of_url(url: str) -> Source | Finding:
    reason = _why_unusable(url)
    return Finding.of("image-bad-url", reason=reason) if reason else Source(URL, url)


def _why_unusable(url: str) -> str:
    if any(character.isspace() or not character.isprintable() for character in url):
        return "it holds blanks or control characters (a blank is written %20)"
    try:
        parts = urlsplit(url)
        return _why_incomplete(parts, parts.port)
    except ValueError as error:
        return str(error)


def _why_incomplete(parts: SplitResult, port: int | None) -> str:
    if not parts.hostname:
        return "it names no host"
    if parts.username is not None or parts.password is not None:
        return "it holds a user name or password, which would be handed on"
    return "port 0 can't be reached" if port == 0 else ""


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.rstrip(".")
        return "." in name and not name.endswith(_LOCAL_NAMES)


def _source_of_path(path: str, base_dir: Path) -> Source | Finding:
    if "\0" in path or printable(path) != path:
        return Finding.of("image-unreadable", reason="its path is not plain text (UTF-8); rename the file")
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        return Finding.of("image-unreadable", reason=str(error))
    return Source(FILE, os.path.abspath(base_dir / expanded))  # noqa: PTH100 - resolve() would follow symlinks


def _source_of_data_uri(uri: str) -> Source | Finding:
    head, comma, body = uri.partition(",")
    if not comma:
        return Finding.of("image-bad-data-uri", reason="there is no comma before the data")
    if not head.lower().endswith(";base64"):
        return Source(BYTES, content=unquote_to_bytes(body))
    try:
        return Source(BYTES, content=base64.b64decode(_padded(body), validate=True))
    except (binascii.Error, ValueError) as error:
        return Finding.of("image-bad-data-uri", reason=str(error))


def _padded(body: str) -> bytes:
    packed = unquote_to_bytes("".join(body.split())).rstrip(b"=")
    return packed + b"=" * (-len(packed) % 4)
