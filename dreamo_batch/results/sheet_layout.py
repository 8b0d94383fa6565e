"""How a grid is laid out on paper: what is where, in pixels, and how many lines a page takes. Pure.

Examples
--------
>>> layout = plan_layout(3, 6, aspect=1.0, paper="a4")
>>> layout.width > layout.height, layout.n_rows >= 3, layout.n_columns
(True, True, 6)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dreamo_batch.errors import UsageError

DPI: Final = 300
PAPERS: Final = {"a4": (2480, 3508), "letter": (2550, 3300)}
"""Width and height in pixels at 300 dpi, upright."""
MARGIN: Final = 150
GAP: Final = 18
LABELS: Final = 96
"""Room over the columns for their labels, two lines."""
FOOT: Final = 70
REFERENCE: Final = 230
_UPRIGHT_MAX: Final = 4
_ACROSS_MAX: Final = {True: 6, False: 10}
CELL_MAX: Final = 620
_ASPECTS: Final = (0.4, 2.5)
_SIDE_SHARE: Final = 0.19


@dataclass(frozen=True, slots=True)
class Layout:
    """A page, in pixels.

    Attributes
    ----------
    width, height : int
        Of the page.
    side : int
        Width of the labels of rows.
    cell_width, cell_height : int
        Of a picture.
    caption : int
        Height of the line below each picture; 0 for none.
    head, over : int
        Height of title and reference picture, and of what stands over the columns.
    n_rows, n_columns : int
        Lines that a page takes.
    """

    width: int
    height: int
    side: int
    cell_width: int
    cell_height: int
    caption: int
    head: int
    over: int
    n_rows: int
    n_columns: int

    @property
    def row_step(self) -> int:
        """From one row to the next."""
        return self.cell_height + self.caption + GAP

    @property
    def top(self) -> int:
        """Where the first row begins."""
        return MARGIN + self.head + self.over

    def left(self, place: int) -> int:
        """Where a column begins."""
        return MARGIN + self.side + GAP + place * (self.cell_width + GAP)


def plan_layout(
    n_rows: int,
    n_columns: int,
    *,
    aspect: float,
    paper: str,
    head: int = 0,
    caption: int = 0,
    has_references_over: bool = False,
) -> Layout:
    """Lay out a grid.

    Parameters
    ----------
    n_rows, n_columns : int
        Of the whole grid.
    aspect : float
        Height by width of the pictures.
    paper : {"a4", "letter"}
        What it is printed on; upright for few columns, else across.
    head : int
        Room for a title and a reference picture.
    caption : int
        Room for what stands below pictures.
    has_references_over : bool
        Whether reference pictures stand over the columns.

    Raises
    ------
    UsageError
        If there is no such paper.
    """
    if paper not in PAPERS:
        raise UsageError(f"paper={paper!r}: expected one of {', '.join(PAPERS)}.")
    is_upright = n_columns <= _UPRIGHT_MAX
    width, height = PAPERS[paper] if is_upright else reversed(PAPERS[paper])
    across = _shared_out(n_columns, _ACROSS_MAX[is_upright])
    side = round(width * _SIDE_SHARE)
    room = width - 2 * MARGIN - side - GAP
    cell_width = min(CELL_MAX, room // across - GAP)
    cell_height = round(cell_width * min(max(aspect, _ASPECTS[0]), _ASPECTS[1]))
    over = LABELS + (REFERENCE + GAP if has_references_over else 0)
    down = max(1, (height - 2 * MARGIN - head - over - FOOT) // (cell_height + caption + GAP))
    return Layout(
        width, height, side, cell_width, cell_height, caption, head, over, _shared_out(n_rows, down), across
    )


def _shared_out(n: int, n_max: int) -> int:
    """Give how many lines a page takes, so that the last one is not nearly empty."""
    n_pages = max(1, -(-n // n_max))
    return max(1, -(-n // n_pages))
