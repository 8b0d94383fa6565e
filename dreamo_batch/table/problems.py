"""The problems of a table, with a word above them on how many rows can be ordered.

Examples
--------
>>> import dreamo_batch as dreamo
>>> dreamo.validate(dreamo.sweep(image="data/mascot.png", prompt=["on a beach", "in the snow"], seed=7))
No problems: 2 rows can be ordered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.table.rules import ERROR, WARNING
from dreamo_batch.table.shown import BAD, WARN, Count, Lead, Shown

if TYPE_CHECKING:
    import pandas as pd

_COLOURS: Final = {ERROR: BAD, WARNING: WARN}
_NEEDED: Final = frozenset({columns.POSITION, columns.SEVERITY})


class Problems(Shown):
    """What `validate` gives: columns of `dreamo_batch.columns.PROBLEMS`, of a table of `n_rows` rows."""

    _metadata = ["_n_rows"]  # noqa: RUF012 - pandas' own way of keeping something beside the columns
    _colours = _COLOURS

    @classmethod
    def of(cls, problems: pd.DataFrame, n_rows: int) -> Problems:
        """Give problems their word, from how many rows the table has that they are of."""
        shown = cls(problems)
        shown._n_rows = n_rows
        return shown

    def _lead(self) -> Lead | None:
        """Say how many rows can be ordered."""
        if not set(self.columns) >= _NEEDED:
            return None
        positions = {
            kind: set(self.loc[self[columns.SEVERITY] == kind, columns.POSITION]) for kind in _COLOURS
        }
        n_errors, n_warned = len(positions[ERROR]), len(positions[WARNING] - positions[ERROR])
        counts = ((self[columns.SEVERITY] == kind).sum() for kind in _COLOURS)
        told = tuple(
            Count(_plural(kind, n), int(n), _COLOURS[kind])
            for kind, n in zip(_COLOURS, counts, strict=True)
            if n
        )
        return Lead(_headline(self._n_rows, n_errors, n_warned), told)


def _headline(n_rows: int, n_errors: int, n_warned: int) -> str:
    rows = f"{n_rows:,} {_plural('row', n_rows)}"
    share = "" if n_warned == n_rows - n_errors else f" {n_warned:,} of them"
    warned = f",{share} with a warning" if n_warned else ""
    if not n_errors:
        return f"{'' if n_warned else 'No problems: '}{rows} can be ordered{warned}."
    return f"{n_errors:,} of {rows} can't be ordered; {n_rows - n_errors:,} can{warned}."


def _plural(word: str, n: Any) -> str:
    return word if n == 1 else f"{word}s"
