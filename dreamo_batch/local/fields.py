"""The parameters of an order, field by field: each reader gives the value or refuses it with a code.

Examples
--------
>>> read_prompt({"prompt": "a fox"}), read_size({"width": 2016, "height": 864})
('a fox', (2016, 864))
>>> read_prompt({"prompt": " "})
Traceback (most recent call last):
...
dreamo_batch.local.fields.Refused: Missing prompt
"""

from __future__ import annotations

import binascii
import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dreamo_batch.local.references import BadReference, look_at
from dreamo_batch.service import parameters

if TYPE_CHECKING:
    from collections.abc import Callable

MISSING_PROMPT = "003011001"
MISSING_IMAGE = "003011002"
PROMPT_LENGTH = "003011003"
INVALID = "003011004"
URL_CHARACTERS_MAX = 2048
SMALL_BYTES = 64 * 1024
N_SMALL, N_LARGE = 32, 4
# The longest side whose product with the shortest stays below the limit.
# The page states no maximum; this one refuses what no prompt is, so that the error can be met.
PROMPT_CHARACTERS_MOST = 10_000
SIDE_MOST_PX = (parameters.PRODUCT_MAX_PX.value - 1) // parameters.SIDE_MIN_PX.value


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an order: the service's code, and what exactly.

    Examples
    --------
    >>> Problem("003011001").message, Problem("003011004", "seed must be an integer").message
    ('Missing prompt', 'Invalid parameter: seed must be an integer')
    """

    code: str
    detail: str = ""

    @property
    def message(self) -> str:
        """The page's words for the code, and the detail."""
        meaning = parameters.ERROR_CODES[self.code].meaning
        return f"{meaning}: {self.detail}" if self.detail else meaning


class Refused(Exception):  # noqa: N818 - it names what happened
    """An order can't be read; `problem` says why.

    Examples
    --------
    >>> Refused("003011002").problem.message
    'Missing image'
    """

    def __init__(self, code: str, detail: str = "") -> None:
        self.problem = Problem(code, detail)
        super().__init__(self.problem.message)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the reference comes from: `image` is the SHA-256 of its bytes, or of its URL's text.

    Examples
    --------
    >>> Source("e" * 64, url="https://example.org/a.jpg").content is None
    True
    """

    image: str = ""
    url: str | None = None
    content: bytes | None = None


def read_prompt(params: dict[str, Any]) -> str:
    """Read the prompt: a string of 1 to 800 characters that is not blank.

    Parameters
    ----------
    params : dict
        The order's parameters.

    Returns
    -------
    str

    Raises
    ------
    Refused
        With 001 if there is none, 003 if it is too long, 004 if it is no text.

    Examples
    --------
    >>> read_prompt({"prompt": "雪山"})
    '雪山'
    """
    prompt = params.get("prompt", "")
    if not isinstance(prompt, str):
        raise Refused(INVALID, "prompt must be a string")
    if not prompt.strip():
        raise Refused(MISSING_PROMPT)
    if len(prompt) > PROMPT_CHARACTERS_MOST:
        raise Refused(PROMPT_LENGTH, f"{len(prompt)} characters of {PROMPT_CHARACTERS_MOST}")
    if not _is_text(prompt):
        raise Refused(INVALID, "prompt holds half of a surrogate pair")
    return prompt


def read_source(params: dict[str, Any]) -> Source:
    """Read the reference: exactly one of the two fields, with exactly one item.

    Parameters
    ----------
    params : dict
        The order's parameters.

    Returns
    -------
    Source

    Raises
    ------
    Refused
        With 002 if there is none, 004 if there is more than one, or it can't be used.

    Examples
    --------
    >>> read_source({"image_urls": ["https://example.org/a.jpg"]}).url
    'https://example.org/a.jpg'
    """
    given = [(name, params[name]) for name in _READERS if params.get(name) not in (None, [])]
    match given:
        case []:
            raise Refused(MISSING_IMAGE)
        case [(_, ["" | b""])]:
            raise Refused(MISSING_IMAGE)
        case [(name, [str() | bytes() as item])]:
            return _READERS[name](item)
        case [(name, _)]:
            raise Refused(INVALID, f"{name} must be an array of exactly one string")
    raise Refused(INVALID, f"exactly one of {' and '.join(_READERS)} must be given")


def read_seed(params: dict[str, Any]) -> int:
    """Read the seed: -1 for a random one, or 0 to 2**63-1.

    Parameters
    ----------
    params : dict
        The order's parameters.

    Returns
    -------
    int

    Raises
    ------
    Refused
        With 004 if it is anything else.

    Examples
    --------
    >>> read_seed({}), read_seed({"seed": 42.0})
    (-1, 42)
    """
    return _integer(params, "seed", parameters.SEED_RANDOM.value, -1, parameters.SEED_MAX.value)


def read_size(params: dict[str, Any]) -> tuple[int, int]:
    """Read width and height: 512 to 2048, and more only while the product stays below 2048*2048.

    Parameters
    ----------
    params : dict
        The order's parameters.

    Returns
    -------
    width, height : int
        In pixels.

    Raises
    ------
    Refused
        With 004 if they are anything else.

    Examples
    --------
    >>> read_size({"width": 4096})
    Traceback (most recent call last):
    ...
    dreamo_batch.local.fields.Refused: Invalid parameter: width or height beyond 2048 needs ...
    """
    default, least, most = parameters.SIDE_DEFAULT_PX.value, parameters.SIDE_MIN_PX.value, SIDE_MOST_PX
    width = _integer(params, "width", default, least, most)
    height = _integer(params, "height", default, least, most)
    advised = parameters.SIDE_MAX_PX.value
    if max(width, height) > advised and width * height >= parameters.PRODUCT_MAX_PX.value:
        raise Refused(
            INVALID, f"width or height beyond {advised} needs width*height below {advised}*{advised}"
        )
    return width, height


def read_rephraser(params: dict[str, Any]) -> bool:
    """Read the rephraser's switch.

    Parameters
    ----------
    params : dict
        The order's parameters.

    Returns
    -------
    bool

    Raises
    ------
    Refused
        With 004 if it is neither true nor false.

    Examples
    --------
    >>> read_rephraser({})
    True
    """
    value = params.get("use_rephraser", parameters.USE_REPHRASER_DEFAULT.value)
    if not isinstance(value, bool):
        raise Refused(INVALID, "use_rephraser must be true or false")
    return value


def check_url(text: str) -> None:
    """Check that a URL is one a reference may be fetched from.

    Parameters
    ----------
    text : str
        The URL.

    Raises
    ------
    Refused
        If it is not http or https, has no host, or holds a name and password.

    Examples
    --------
    >>> check_url("file:///etc/passwd")
    Traceback (most recent call last):
    ...
    dreamo_batch.local.fields.Refused: Invalid parameter: image_urls must hold an http or https URL
    """
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    # What is left over would be read differently by every client.
    if not is_good or not text.isprintable() or " " in text or len(text) > URL_CHARACTERS_MAX:
        raise Refused(INVALID, "image_urls must hold an http or https URL")
    if "@" in parts.netloc:
        raise Refused(INVALID, "image_urls must not hold a user name or password")


def _integer(params: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = params.get(name, default)
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole or not least <= value <= most:
        raise Refused(INVALID, f"{name} must be an integer from {least} to {most}")
    return int(value)


def _from_base64(text: str | bytes) -> Source:
    if text[:5] in ("data:", b"data:"):
        raise Refused(INVALID, "binary_data_base64 must be bare, without a data: prefix")
    # Rows of a table share few references. Decoding a large one takes 20 ms in which no other thread runs; its
    # digest is a third of that, and leaves the others alone.
    return _decoded_small(text) if len(text) <= SMALL_BYTES else _decoded_large(_Text(text))


@functools.lru_cache(maxsize=N_SMALL)
def _decoded_small(text: str | bytes) -> Source:
    return _decoded(text)


@functools.lru_cache(maxsize=N_LARGE)
def _decoded_large(text: _Text) -> Source:
    return _decoded(text.take())


class _Text:
    """A large text as a key: equal by its digest, and no longer held once it is decoded."""

    def __init__(self, text: str | bytes) -> None:
        self._text = text
        self._digest = hashlib.sha256(
            text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        ).digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Text) and self._digest == other._digest

    def take(self) -> str | bytes:
        text, self._text = self._text, ""
        return text


def _decoded(text: str | bytes) -> Source:
    try:
        content = binascii.a2b_base64(text, strict_mode=True)
        look_at(content)
    except BadReference as bad:
        raise Refused(INVALID, str(bad)) from None
    except ValueError:
        raise Refused(INVALID, "binary_data_base64 is not base64") from None
    return Source(hashlib.sha256(content).hexdigest(), content=content)


def _from_url(text: str) -> Source:
    check_url(text)
    return Source(hashlib.sha256(text.encode()).hexdigest(), url=text)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_READERS: dict[str, Callable[[Any], Source]] = {"image_urls": _from_url, "binary_data_base64": _from_base64}
