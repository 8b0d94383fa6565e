"""What the columns of a table are: a data dictionary, as a table and as Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pandas as pd

from dreamo_batch import columns

if TYPE_CHECKING:
    from collections.abc import Mapping

_YOURS: Final = columns.Column("", "", "", "A column of the table that was run, unchanged.")
_PLAIN: Final = re.compile(r"\w+")
_SPECIAL: Final = "\\`*_{}[]<>()#+-!|~&$"


def describe(frame: pd.DataFrame, known: Mapping[str, columns.Column]) -> pd.DataFrame:
    """Say of each column what it is.

    Parameters
    ----------
    frame : pandas.DataFrame
        Any table.
    known : mapping of str to Column
        What is known of columns by their name; the others are the user's.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.DICTIONARY`, one line per column, in the table's order.

    Examples
    --------
    >>> table = pd.DataFrame({"seed": pd.array([7], dtype="Int64"), "scene": ["snow"]})
    >>> describe(table, columns.INPUTS)["dtype"].tolist()
    ['Int64', 'str']
    """
    lines = [_line(name, frame[name], known.get(name, _YOURS)) for name in frame.columns]
    table = pd.DataFrame(lines, columns=list(columns.DICTIONARY))
    return table.astype(columns.dtypes(columns.DICTIONARY))


def markdown(described: pd.DataFrame) -> str:
    r"""Lay a dictionary out as a Markdown table; users' names are shown as they are, and do nothing.

    Examples
    --------
    >>> print(markdown(pd.DataFrame({"column": ["a|b"], "dtype": ["str"], "unit": [None], "meaning": ["What."]})))
    | column | dtype | unit | meaning |
    | --- | --- | --- | --- |
    | a\|b | str |  | What. |
    """
    cells = described.astype(object).where(described.notna(), "").itertuples(index=False, name=None)
    lines = [described.columns, ["---"] * len(described.columns), *([_name(n), *rest] for n, *rest in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(name: str, column: pd.Series, known: columns.Column) -> tuple[str, str, str | None, str]:
    return str(name), known.dtype or str(column.dtype), known.unit or None, known.meaning


def _name(name: str) -> str:
    if _PLAIN.fullmatch(name):
        return f"`{name}`"
    return "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in " ".join(name.split()))
