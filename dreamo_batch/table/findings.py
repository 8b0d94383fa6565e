"""Findings: which rows break which rule, collected column by column and laid out as one table.

Examples
--------
>>> found = Findings(pd.DataFrame({"prompt": ["a", None]}, index=["x", "y"]))
>>> found.add("prompt-missing", "prompt", np.array([False, True]))
>>> found.frame()[["row", "code"]].values.tolist()
[['y', 'prompt-missing']]
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.table import rules
from dreamo_batch.table.cells import printable, show
from dreamo_batch.table.distinct import Distinct, distinct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one cell, whatever the number of rows that share the cell.

    Examples
    --------
    >>> Finding.of("image-bomb", size="90000x90000 pixels").is_error
    True
    """

    code: str
    severity: str
    message: str
    fix: str

    @classmethod
    def of(cls, code: str, **details: object) -> Finding:
        """State that a rule is broken.

        Parameters
        ----------
        code : str
            Key of `rules.RULES`.
        **details : object
            What its message and fix name in braces.

        Returns
        -------
        Finding
            The problem, in words.

        Examples
        --------
        >>> Finding.of("prompt-long", n=400).message
        'The prompt has 400 characters; at most 300 are advised.'
        """
        rule = rules.RULES[code]
        message, fix = (printable(text.format(**details)) for text in (rule.message, rule.fix))
        return cls(code, rule.severity, message, fix)

    @property
    def is_error(self) -> bool:
        """Whether the row can't be ordered."""
        return self.severity == rules.ERROR


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    column: str
    positions: NDArray[np.intp]
    shown: NDArray[np.object_]
    findings: NDArray[np.object_]


@dataclass(slots=True, eq=False)
class Findings:
    """All findings of one table, in the order in which the rules were looked at.

    Examples
    --------
    >>> found = Findings(pd.DataFrame({"prompt": ["", "a", ""]}))
    >>> found.add("prompt-missing", "prompt", np.array([True, False, True]))
    >>> found.is_in_error().tolist()
    [True, False, True]
    """

    of_table: pd.DataFrame
    _parts: list[_Part] = field(default_factory=list)

    def add(self, code: str, column: str, is_broken: NDArray[np.bool_], **details: Any) -> None:
        """Add one rule for all rows that break it.

        Parameters
        ----------
        code : str
            Key of `rules.RULES`.
        column : str
            Column of the table that the problem is in.
        is_broken : numpy.ndarray of bool
            One flag per row.
        **details : numpy.ndarray or object
            What the rule's texts name in braces: an array has one per row, anything else is the same
            for all.

        Examples
        --------
        >>> found = Findings(pd.DataFrame({"width": [1, 600]}))
        >>> found.add("side-too-small", "width", np.array([True, False]), side="width", n=np.array([1, 600]))
        >>> found.frame()["message"][0]
        'The width is 1 pixels; the service makes no picture below 512.'
        """
        positions = np.flatnonzero(is_broken)
        if not len(positions):
            return
        found = _findings(code, details, positions)
        self._parts.append(_Part(column, positions, self._shown(column, positions), found))

    def add_cells(self, column: str, cells: Distinct, found: Mapping[int, Sequence[Finding]]) -> None:
        """Add the findings about distinct cells, once for each row that holds them.

        Parameters
        ----------
        column : str
            Column the cells are in.
        cells : Distinct
            The column.
        found : mapping of int to sequence of Finding
            Number of the distinct cell to what is wrong with it.

        Examples
        --------
        >>> from dreamo_batch.table.distinct import distinct
        >>> found = Findings(pd.DataFrame({"image": ["a", "b"]}))
        >>> found.add_cells("image", distinct(found.of_table["image"]), {1: [Finding.of("image-empty")]})
        >>> found.is_in_error().tolist()
        [False, True]
        """
        shown = _objects([None] * len(cells.cells))
        for number in found:
            shown[number] = show(cells.cells[number])
        for depth in range(max(map(len, found.values()), default=0)):
            layer = _objects([None] * len(cells.cells))
            is_found = np.zeros(len(cells.cells), dtype=bool)
            deep_enough = ((number, of_cell) for number, of_cell in found.items() if depth < len(of_cell))
            for number, of_cell in deep_enough:
                layer[number], is_found[number] = of_cell[depth], True
            positions = cells.positions(is_found)
            numbers = cells.codes[positions]
            self._parts.append(_Part(column, positions, shown[numbers], layer[numbers]))

    def is_in_error(self) -> NDArray[np.bool_]:
        """Say which rows can't be ordered.

        Returns
        -------
        numpy.ndarray of bool
            One flag per row.

        Examples
        --------
        >>> Findings(pd.DataFrame({"prompt": ["a"]})).is_in_error().tolist()
        [False]
        """
        mask = np.zeros(len(self.of_table), dtype=bool)
        for part in self._parts:
            mask[part.positions[[finding.is_error for finding in part.findings]]] = True
        return mask

    def frame(self) -> pd.DataFrame:
        """Lay all findings out, row by row.

        Returns
        -------
        pandas.DataFrame
            Columns and dtypes of `columns.PROBLEMS`, on a RangeIndex, ordered by position.

        Examples
        --------
        >>> Findings(pd.DataFrame()).frame().dtypes["position"]
        Int64Dtype()
        """
        unsorted = np.concatenate([np.empty(0, np.intp), *(part.positions for part in self._parts)])
        order = np.argsort(unsorted, kind="stable")
        positions = unsorted[order]
        findings, shown, in_column = (_objects(cells)[order] for cells in self._laid_end_to_end())
        problems = {
            columns.POSITION: positions,
            columns.ROW: [printable(str(label)) for label in self.of_table.index.take(positions)],
            columns.COLUMN: in_column,
            columns.SEVERITY: [finding.severity for finding in findings],
            columns.CODE: [finding.code for finding in findings],
            columns.VALUE: shown,
            columns.MESSAGE: [finding.message for finding in findings],
            columns.FIX: [finding.fix for finding in findings],
        }
        dtypes = columns.dtypes(columns.PROBLEMS)
        return pd.DataFrame({name: pd.array(cells, dtype=dtypes[name]) for name, cells in problems.items()})

    def _laid_end_to_end(self) -> tuple[list[Finding], list[str | None], list[str]]:
        findings = [finding for part in self._parts for finding in part.findings]
        shown = [cell for part in self._parts for cell in part.shown]
        return findings, shown, [part.column for part in self._parts for _ in part.positions]

    def _shown(self, column: str, positions: NDArray[np.intp]) -> NDArray[np.object_]:
        cells = distinct(self.of_table[column].iloc[positions])
        return cells.take(_objects([show(cell) for cell in cells.cells]), missing=None)


def _findings(code: str, details: Mapping[str, Any], positions: NDArray[np.intp]) -> NDArray[np.object_]:
    per_row = (
        detail[positions].tolist()
        if isinstance(detail, np.ndarray)
        else itertools.repeat(detail, len(positions))
        for detail in details.values()
    )
    # Rows that break a rule in the same way share one finding.
    made: dict[tuple[Any, ...], Finding] = {}
    found = _objects([None] * len(positions))
    for place, values in enumerate(zip(*per_row, strict=True) if details else [()] * len(positions)):
        if values not in made:
            made[values] = Finding.of(code, **dict(zip(details, values, strict=True)))
        found[place] = made[values]
    return found


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
