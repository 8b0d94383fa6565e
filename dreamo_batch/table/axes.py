"""Read the axes of a sweep: what the user gave for one column becomes a list of cells.

Examples
--------
>>> read_axis("seed", range(3), most=10)
[0, 1, 2]
>>> read_axis("style", "oil", most=10)
['oil']
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.table.cells import is_missing, printable, read_boolean, read_integer, show
from dreamo_batch.table.paths import matching
from dreamo_batch.table.sizes import read_size

if TYPE_CHECKING:
    from collections.abc import Callable

_WHOLE = (columns.SEED, columns.WIDTH, columns.HEIGHT, columns.REPLICATE)
# Iterable, yet one value.
_SINGLE = (str, bytes, bytearray, memoryview, os.PathLike, Mapping, Image.Image)
_MAGIC = "*?["
_PAIR = 2
_NAMED_MAX = 5


def read_axis(name: str, given: Any, *, most: int) -> list[Any]:
    """Turn what was given for one column into its cells.

    Parameters
    ----------
    name : str
        The column.
    given : object
        One value, or any iterable of values: list, range, array, Series, generator. An `image` may be a
        glob pattern, alone or in a list; a `size` may be a pair of integers.
    most : int
        Cells that are read at most, plus one; an endless iterable is cut off there.

    Returns
    -------
    list
        Cells, at least one: integers for seeds, sides and replicates, booleans for `use_rephraser`, text
        for paths and sizes, anything for the user's own columns; None where one is missing.

    Raises
    ------
    UsageError
        If the axis is empty or a set, a pattern matches nothing, or a value can't be what it should be.

    Examples
    --------
    >>> read_axis("size", (1664, 936), most=10), read_axis("size", ["1:1", (512, 512)], most=10)
    (['1664x936'], ['1:1', '512x512'])
    >>> read_axis("seed", 42.5, most=10)
    Traceback (most recent call last):
    dreamo_batch.errors.UsageError: seed: 42.5 is not a whole number of 64 bits.
    """
    values = _values(name, given, most)
    if name == columns.IMAGE:
        values = [path for value in values for path in _images(value)]
    elif name in _WHOLE:
        values = [_read(name, value, _integer) for value in values]
    elif name == columns.USE_REPHRASER:
        values = [_read(name, value, _boolean) for value in values]
    elif name == columns.SIZE:
        values = [_read(name, value, _size) for value in values]
    elif name == columns.PROMPT:
        values = [_read(name, value, _text) for value in values]
    if not values:
        raise UsageError(f"{name}: the axis is empty. Give at least one value, or leave it out.")
    return values


def _values(name: str, given: Any, most: int) -> list[Any]:
    if isinstance(given, (set, frozenset)):
        raise UsageError(
            f"{name}: a set has no order, so the rows would differ from run to run. Give a list."
        )
    if isinstance(given, _SINGLE) or not isinstance(given, Iterable) or _is_pair(name, given):
        return [given]
    return list(itertools.islice(given, most + 1))


def _is_pair(name: str, given: Any) -> bool:
    return (
        name == columns.SIZE
        and isinstance(given, tuple)
        and len(given) == _PAIR
        and all(read_integer(side).value is not None for side in given)
    )


def _read(name: str, value: Any, read: Callable[[Any], Any]) -> Any:
    if is_missing(value) and name != columns.PROMPT:
        return None
    try:
        return read(value)
    except ValueError as error:
        raise UsageError(f"{name}: {show(value)} {error}.") from None


def _integer(value: Any) -> int:
    read = read_integer(value)
    if read.value is None:
        raise ValueError("is not a whole number of 64 bits")
    return int(read.value)


def _boolean(value: Any) -> bool:
    read = read_boolean(value)
    if read.value is None:
        raise ValueError("is neither true nor false")
    return bool(read.value)


def _size(value: Any) -> str:
    size = read_size(value)
    if size is None:
        raise ValueError("is neither WIDTHxHEIGHT nor an advised ratio such as 16:9")
    # A name stays a name: it reads better in a gallery's heading than the pixels it stands for.
    return value if isinstance(value, str) else f"{size[0]}x{size[1]}"


def _text(value: Any) -> str:
    if is_missing(value) or not isinstance(value, str):
        raise ValueError("is no prompt; text was expected")
    return value


def _images(value: Any) -> list[Any]:
    if is_missing(value):
        raise UsageError("image: a picture is missing. Give a path, a URL, bytes or a PIL image.")
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not _is_pattern(value):
        return [value]
    found, near = matching(str(Path(value).expanduser()))
    for path in found:
        if printable(path) != path:
            raise UsageError(f"image: the name {printable(path)} is not plain text (UTF-8). Rename the file.")
    named = ", ".join(map(printable, near[:_NAMED_MAX])) + (" and others" if len(near) > _NAMED_MAX else "")
    if not found:
        hint = f" Only with other capitals: {named}." if near else ""
        raise UsageError(
            f"image: no file matches {value!r} (looked in {Path.cwd()}).{hint} Check the pattern, or give a path."
        )
    if near:
        warnings.warn(
            f"image: {value!r} leaves out {len(near)} files whose names differ in capitals only: {named}. "
            "Give a list of patterns to take them too.",
            stacklevel=2,
        )
    return found


def _is_pattern(text: str) -> bool:
    if text.strip()[:5].lower() == "data:" or "://" in text:
        return False
    # A file may well be called "cat [1].png".
    return any(character in text for character in _MAGIC) and not Path(text).expanduser().exists()
