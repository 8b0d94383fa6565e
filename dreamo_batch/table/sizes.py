"""Read the size of the picture wanted: `size`, `width` and `height`, or the service's default.

Examples
--------
>>> read_size("16:9"), read_size("1328 x 1000"), read_size("huge")
((1664, 936), (1328, 1000), None)
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dreamo_batch import columns
from dreamo_batch.service import parameters
from dreamo_batch.table import cells
from dreamo_batch.table.distinct import distinct
from dreamo_batch.table.fields import read_integers
from dreamo_batch.table.findings import Finding
from dreamo_batch.table.integers import Integers

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from dreamo_batch.table.findings import Findings

    Both: TypeAlias = tuple[Integers, Integers]
    Mask: TypeAlias = NDArray[np.bool_]

_WIDTH_X_HEIGHT = re.compile(r"(\d{1,9})\s*[x\u00d7*]\s*(\d{1,9})", re.ASCII | re.IGNORECASE)
# A spreadsheet takes 16:9 for a time of day, and may hand it on as 16:09:00.
_RATIO = re.compile(r"(\d{1,2})\s*[:\uff1a]\s*(\d{1,2})(?::00)?", re.ASCII)
_PAIR: Final = 2
_SIDES: Final = (columns.WIDTH, columns.HEIGHT)


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """Width and height of every row in pixels; a stand-in where they can't be read.

    Examples
    --------
    >>> Sizes(np.array([1328]), np.array([1328])).widths.tolist()
    [1328]
    """

    widths: NDArray[np.int64]
    heights: NDArray[np.int64]


def read_size(cell: Any) -> tuple[int, int] | None:
    """Read one cell of `size`.

    Parameters
    ----------
    cell : object
        ``"1328x1000"`` (also X, * or the times sign and blanks around it), an advised ratio such as ``"16:9"``, a pair
        of integers, or the time of day that a spreadsheet made of a ratio.

    Returns
    -------
    tuple of int or None
        Width and height in pixels, not checked against any limit; None if it can't be read.

    Examples
    --------
    >>> read_size((1664, 936)), read_size(dt.time(16, 9)), read_size("5:4")
    ((1664, 936), (1664, 936), None)
    """
    if isinstance(cell, str):
        return _size_of_text(cell.strip())
    if isinstance(cell, dt.time):
        return parameters.SIZES.get(f"{cell.hour}:{cell.minute}")
    if isinstance(cell, (tuple, list)) and len(cell) == _PAIR:
        width, height = (cells.read_integer(side).value for side in cell)
        return None if width is None or height is None else (width, height)
    return None


def read_sizes(findings: Findings) -> Sizes:
    """Read the sizes of a whole table.

    Parameters
    ----------
    findings : Findings
        Of a table that may have columns `size`, `width` and `height`; takes what is wrong. A row with a
        size needs no sides; if it has them, they must agree. A row with one side only gets the default
        for the other, and a warning.

    Returns
    -------
    Sizes
        Width and height of every row.

    Examples
    --------
    >>> import pandas as pd
    >>> from dreamo_batch.table.findings import Findings
    >>> table = pd.DataFrame({"size": ["1:1", None], "width": [None, 512]})
    >>> read_sizes(Findings(table)).widths.tolist()
    [1328, 512]
    """
    named = _read_named(findings)
    sides = read_integers(columns.WIDTH, findings), read_integers(columns.HEIGHT, findings)
    _find_contradictions(named, sides, findings)
    _find_single_sides(named, sides, findings)
    sizes = Sizes(*(_merged(meant, side) for meant, side in zip(named, sides, strict=True)))
    is_readable = ~np.logical_or.reduce([read.is_faulty for read in (*named, *sides)])
    _find_small_sides(sizes, named[0].is_given, is_readable, findings)
    _find_large_sizes(sizes, named[0].is_given, is_readable, findings)
    return sizes


def _size_of_text(text: str) -> tuple[int, int] | None:
    if match := _WIDTH_X_HEIGHT.fullmatch(text):
        return int(match[1]), int(match[2])
    if match := _RATIO.fullmatch(text):
        return parameters.SIZES.get(f"{int(match[1])}:{int(match[2])}")
    return None


def _read_named(findings: Findings) -> Both:
    n_rows = len(findings.of_table)
    if columns.SIZE not in findings.of_table:
        return Integers.nothing(n_rows), Integers.nothing(n_rows)
    named = distinct(findings.of_table[columns.SIZE])
    read = {number: read_size(cell) for number, cell in enumerate(named.cells) if not _is_blank(cell)}
    unknown = [number for number, size in read.items() if size is None]
    findings.add_cells(columns.SIZE, named, {number: [Finding.of("size-unknown")] for number in unknown})
    pairs = np.zeros((len(named.cells) + 1, _PAIR), dtype=np.int64)
    is_known, is_unknown = np.zeros((_PAIR, len(named.cells) + 1), dtype=bool)
    is_unknown[unknown] = True
    for number, size in read.items():
        if size is not None:
            pairs[number], is_known[number] = size, True
    # The last line is that of the missing cells, whose code is -1.
    faults = {"unknown": is_unknown[named.codes]}
    width, height = (Integers(side[named.codes], is_known[named.codes], faults) for side in pairs.T)
    return width, height


def _is_blank(cell: Any) -> bool:
    return isinstance(cell, str) and not cell.strip()


def _merged(meant: Integers, side: Integers) -> NDArray[np.int64]:
    given = np.where(side.is_given, side.numbers, parameters.SIDE_DEFAULT_PX.value)
    return np.where(meant.is_given, meant.numbers, given)


def _find_contradictions(named: Both, sides: Both, findings: Findings) -> None:
    width, height = (meant.numbers for meant in named)
    for name, meant, side in zip(_SIDES, named, sides, strict=True):
        differs = meant.is_given & side.is_given & (meant.numbers != side.numbers)
        findings.add(
            "size-contradiction", columns.SIZE, differs, width=width, height=height, side=name, n=side.numbers
        )


def _find_single_sides(named: Both, sides: Both, findings: Findings) -> None:
    has_size = named[0].is_given | named[0].is_faulty
    width, height = (side.is_given | side.is_faulty for side in sides)
    findings.add("one-side-only", columns.WIDTH, width & ~height & ~has_size)
    findings.add("one-side-only", columns.HEIGHT, height & ~width & ~has_size)


def _find_small_sides(sizes: Sizes, has_size: Mask, is_readable: Mask, findings: Findings) -> None:
    for name, side in zip(_SIDES, (sizes.widths, sizes.heights), strict=True):
        is_small = is_readable & (side < parameters.SIDE_MIN_PX.value)
        findings.add("side-too-small", columns.SIZE, is_small & has_size, side=name, n=side)
        findings.add("side-too-small", name, is_small & ~has_size, side=name, n=side)


def _find_large_sizes(sizes: Sizes, has_size: Mask, is_readable: Mask, findings: Findings) -> None:
    # As floats, since sides of any length may stand here and their product must not wrap around.
    product = sizes.widths.astype(np.float64) * sizes.heights
    is_full = product >= parameters.PRODUCT_MAX_PX.value
    is_beyond = np.maximum(sizes.widths, sizes.heights) > parameters.SIDE_MAX_PX.value
    is_wide = sizes.widths >= sizes.heights
    longest = np.maximum(sizes.widths, sizes.heights).astype(np.float64)
    is_extreme = longest > parameters.RATIO_OF_SIBLINGS.value * np.minimum(sizes.widths, sizes.heights)
    is_possible = np.minimum(sizes.widths, sizes.heights) >= parameters.SIDE_MIN_PX.value
    for code, is_broken in (
        ("product-too-large", is_readable & is_beyond & is_full),
        ("size-risky", is_readable & (is_beyond ^ is_full)),
        ("size-extreme-ratio", is_readable & is_possible & is_extreme & ~(is_beyond & is_full)),
    ):
        pair = {"width": sizes.widths, "height": sizes.heights}
        findings.add(code, columns.SIZE, is_broken & has_size, **pair)
        findings.add(code, columns.WIDTH, is_broken & ~has_size & is_wide, **pair)
        findings.add(code, columns.HEIGHT, is_broken & ~has_size & ~is_wide, **pair)
