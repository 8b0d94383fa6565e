"""Tables as text for a terminal: aligned, cut to its width, and unable to do anything to it.

Examples
--------
>>> print(layout(["row", "prompt"], [[0, "雪山"], [1, "a fox"]]))
row  prompt
  0  雪山
  1  a fox
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.service.harmless import harmless

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP: Final = "  "
_CELL_MAX: Final = 60
_CELL_MIN: Final = 10
_LAST_MIN: Final = 24
_CUT: Final = "…"
_WIDE: Final = ("W", "F")
_WIDTHLESS: Final = ("Mn", "Me", "Cf")


def layout(names: Sequence[str], rows: Sequence[Sequence[Any]], *, width: int | None = None) -> str:
    r"""Lay a table out as text.

    Parameters
    ----------
    names : sequence of str
        Headings.
    rows : sequence of sequences
        Cells; None is shown as nothing, numbers stand to the right.
    width : int, optional
        Columns of the terminal; wide columns are cut until the table fits, but for the last: text there may run
        on into the next line. Default: no limit.

    Returns
    -------
    str
        Lines without a newline at the end; control characters are written out.

    Examples
    --------
    >>> print(layout(["prompt"], [["red \x1b[31m alert"]]))
    prompt
    red \x1b[31m alert
    """
    lines = [list(map(harmless, names)), *([_text(cell) for cell in row] for row in rows)]
    *widths, last = [max(map(width_of, cells)) for cells in zip(*lines, strict=True)]
    widths = [*_fitting(widths, None if width is None else width - min(last, _LAST_MIN)), last]
    is_number = [_are_numbers(cells) for cells in zip(*rows, strict=True)] or [False] * len(names)
    return "\n".join(
        _GAP.join(_padded(*shape) for shape in zip(line, widths, is_number, strict=True)).rstrip()
        for line in lines
    )


def width_of(text: str) -> int:
    """Count the terminal columns that a text takes.

    Parameters
    ----------
    text : str
        One line.

    Returns
    -------
    int
        Chinese characters and most emoji take two, accents none.

    Examples
    --------
    >>> width_of("fox"), width_of("狐狸")
    (3, 4)
    """
    return len(text) if text.isascii() else sum(map(_width_of_character, text))


def _width_of_character(character: str) -> int:
    if unicodedata.category(character) in _WIDTHLESS:
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1


def _text(cell: Any) -> str:
    return "" if cell is None else harmless(str(cell))


def _are_numbers(cells: Sequence[Any]) -> bool:
    return all(
        cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool)) for cell in cells
    )


def _fitting(widths: list[int], width: int | None) -> list[int]:
    """Take from the widest columns until the table fits, or nothing is left to take."""
    widths = [min(natural, _CELL_MAX) for natural in widths]
    excess = 0 if width is None else sum(widths) + len(_GAP) * len(widths) - width
    while excess > 0 and (widest := max(widths, default=0)) > _CELL_MIN:
        widths[widths.index(widest)] -= 1
        excess -= 1
    return widths


def _padded(text: str, width: int, is_number: bool) -> str:
    cut = _cut(text, width)
    space = " " * (width - width_of(cut))
    return space + cut if is_number else cut + space


def _cut(text: str, width: int) -> str:
    if width_of(text) <= width:
        return text
    kept, taken = [], width_of(_CUT)
    for character in text:
        taken += _width_of_character(character)
        if taken > width:
            break
        kept.append(character)
    return "".join(kept) + _CUT
