"""Which results stand in which cell of a grid, for any columns as axes; pure, and of any size.

Examples
--------
>>> table = pd.DataFrame({"prompt": ["a", "a", "b"], "seed": [1, 2, 1], "seed_sent": [1, 2, 1], "status": "pending"})
>>> grid = lay_out(table, "prompt", "seed")
>>> grid.shape, [entry.row for entry in grid.entries(0, 1)], grid.entries(1, 1)
((2, 2), ['1'], [])
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.results import axes
from dreamo_batch.results.entries import Entry, Reader, reader
from dreamo_batch.results.texts import key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreamo_batch.results.axes import Axis

_COMPARED_MAX: Final = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A table as a grid, or a page of one.

    Attributes
    ----------
    results : pandas.DataFrame
        The table.
    rows, columns : Axis
        What its lines are, the whole grid's.
    shown_rows, shown_columns : range
        Lines that this page shows.
    """

    results: pd.DataFrame
    rows: Axis
    columns: Axis
    shown_rows: range
    shown_columns: range
    _places: dict[tuple[int, int], list[int]] = field(repr=False)
    _reader: Reader = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Lines down and across, of the whole grid."""
        return len(self.rows), len(self.columns)

    @property
    def n_pages(self) -> int:
        """How many pages like this one the whole grid takes; 1 for an empty grid."""
        return max(1, _n_pages(len(self.rows), self.shown_rows)) * max(
            1, _n_pages(len(self.columns), self.shown_columns)
        )

    def positions(self, row: int, column: int) -> list[int]:
        """Give the positions in the table of what stands in a cell; empty for a combination that it lacks."""
        return self._places.get((row, column), [])

    def entries(self, row: int, column: int, *, n_max: int | None = None) -> list[Entry]:
        """Read what stands in a cell, at most `n_max` of it."""
        return [self._reader.entry(position) for position in self.positions(row, column)[:n_max]]

    def shown(self, *, n_max: int | None = None, n_first: int = 0) -> list[Entry]:
        """Read what this page shows, line by line: of each cell what is behind its first, up to `n_max`."""
        cells = ((row, column) for row in self.shown_rows for column in self.shown_columns)
        positions = [position for cell in cells for position in self.positions(*cell)[n_first:n_max]]
        self._reader.prepare(positions)
        return [self._reader.entry(position) for position in positions]

    def entry(self, position: int) -> Entry:
        """Read the row of the table at a position."""
        return self._reader.entry(position)

    def whole(self) -> Grid:
        """Give the same grid on one page."""
        return replace(self, shown_rows=range(len(self.rows)), shown_columns=range(len(self.columns)))

    def page(self, number: int, n_rows: int, n_columns: int) -> Grid:
        """Give one page: those across first, then those below.

        Parameters
        ----------
        number : int
            From 1.
        n_rows, n_columns : int
            Lines that a page shows.

        Raises
        ------
        UsageError
            If there is no such page.
        """
        n_across = max(1, -(-len(self.columns) // n_columns))
        n_pages = n_across * max(1, -(-len(self.rows) // n_rows))
        if not 1 <= number <= n_pages:
            raise UsageError(f"page {number}: there are pages 1 to {n_pages}.")
        down, across = divmod(number - 1, n_across)
        return replace(
            self,
            shown_rows=_span(down, n_rows, len(self.rows)),
            shown_columns=_span(across, n_columns, len(self.columns)),
        )


def lay_out(
    results: pd.DataFrame,
    rows: str | Sequence[Any] | None = columns.PROMPT,
    across: str | Sequence[Any] | None = columns.SEED,
    *,
    is_spread: bool = False,
) -> Grid:
    """Lay results out as a grid.

    Parameters
    ----------
    results : pandas.DataFrame
        Results, of a run that is done or going on.
    rows, across : str, sequence of str, or None
        Columns that the lines down and across are made of; see `dreamo_batch.results.axes.read_axes`.
    is_spread : bool
        Give each job of the results a cell of its own, for paper, where nothing can be unfolded.

    Returns
    -------
    Grid
        On one page.

    Raises
    ------
    UsageError
        If it is no table of results, or there is no such column, or one is named twice.
    """
    refuse_other_tables(results)
    names = axes.listed(rows), axes.listed(across)
    down, along = axes.read_axes(results, *names)
    places = _places(down, along)
    told = _telling(results, places, [*names[0], *names[1]])
    read = reader(results, told, on_axes=[*names[0], *names[1]])
    if is_spread:
        down, along = axes.read_axes(results, *names, is_spread=True)
        places = _places(down, along)
    return Grid(results, down, along, range(len(down)), range(len(along)), places, read)


def _places(down: Axis, along: Axis) -> dict[tuple[int, int], list[int]]:
    places: dict[tuple[int, int], list[int]] = {}
    for position, cell in enumerate(zip(down.of_rows.tolist(), along.of_rows.tolist(), strict=True)):
        places.setdefault(cell, []).append(position)
    return places


def refuse_other_tables(results: Any) -> pd.DataFrame:
    """Give results back, and refuse what is no table of them.

    Raises
    ------
    UsageError
        If it is no table, or has no column `status`.
    """
    if not isinstance(results, pd.DataFrame) or columns.STATUS not in results.columns:
        raise UsageError("Expected results, as from run() or load(): a table with a column status.")
    return results


def _n_pages(n_lines: int, shown: range) -> int:
    return -(-n_lines // len(shown)) if len(shown) else 0


def _span(page: int, n_lines: int, n_all: int) -> range:
    return range(page * n_lines, min((page + 1) * n_lines, n_all))


def _differs(keys: pd.Series, cells: Any) -> bool:
    """Say whether a column has different values within any cell."""
    different = pd.DataFrame({"cell": cells, "key": keys}).drop_duplicates()
    return bool(different["cell"].duplicated().any())


def _telling(results: pd.DataFrame, places: dict[Any, list[int]], on_axes: list[Any]) -> list[Any]:
    """Name the columns that tell what stands in one cell apart."""
    crowded = [(cell, position) for cell, there in places.items() if len(there) > 1 for position in there]
    crowded = crowded[:_COMPARED_MAX]
    if not crowded:
        return []
    rows = results.iloc[[position for _, position in crowded]]
    cells = pd.factorize(np.array([cell[0] * (2**31) + cell[1] for cell, _ in crowded]))[0]
    told_elsewhere = {*on_axes, *columns.OUTPUTS} - ({columns.RUN_DIR} - {*on_axes})
    own = [name for name in results.columns if name not in told_elsewhere]
    keys = {name: rows[name].map(key_of).reset_index(drop=True) for name in own}
    return [name for name, key in keys.items() if _differs(key, cells)]
