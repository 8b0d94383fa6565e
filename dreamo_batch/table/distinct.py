"""Find the distinct cells of a column, so that each is read, opened or checked once.

Examples
--------
>>> distinct(pd.Series(["a", None, "b", "a"])).codes.tolist()
[0, -1, 1, 0]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dreamo_batch.table.cells import is_missing

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Distinct:
    """The distinct cells of a column, and which of them stands at each position.

    `codes` holds for each position an index into `cells`, or -1 where the cell is missing. Values that
    only compare equal, such as ``1`` and ``True``, are told apart.

    Examples
    --------
    >>> distinct(pd.Series(["a", None, "b", "a"])).codes.tolist()
    [0, -1, 1, 0]
    """

    codes: NDArray[np.intp]
    cells: list[Any]

    def positions(self, chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Give the positions whose distinct cell is chosen.

        Parameters
        ----------
        chosen : numpy.ndarray of bool
            One flag per distinct cell.

        Returns
        -------
        numpy.ndarray of int
            Positions in the column, ascending.

        Examples
        --------
        >>> distinct(pd.Series(["a", None, "b", "a"])).positions(np.array([True, False])).tolist()
        [0, 3]
        """
        return np.flatnonzero(self.take(chosen, missing=False))

    def take(self, values: NDArray[Any], *, missing: Any) -> NDArray[Any]:
        """Lay one value per distinct cell out over all positions.

        Parameters
        ----------
        values : numpy.ndarray
            One value per distinct cell.
        missing : object
            What stands at positions whose cell is missing.

        Returns
        -------
        numpy.ndarray
            One value per position, of the dtype of `values`.

        Examples
        --------
        >>> distinct(pd.Series(["a", None, "b"])).take(np.array([10, 20]), missing=0).tolist()
        [10, 0, 20]
        """
        return np.append(values, np.array([missing], dtype=values.dtype))[self.codes]


def distinct(series: pd.Series) -> Distinct:
    """Find the distinct cells of a column of any dtype.

    Parameters
    ----------
    series : pandas.Series
        Any dtype; cells may be unhashable, such as lists, or pictures.

    Returns
    -------
    Distinct
        Cells in order of first appearance. Cells that can't be hashed are told apart by identity.

    Examples
    --------
    >>> distinct(pd.Series([1, True, 1], dtype=object)).cells
    [1, True]
    """
    if _holds_text(series) or isinstance(series.dtype, pd.CategoricalDtype):
        codes, found = pd.factorize(series)
        return _without_missing(codes, found.astype(object).tolist())
    return _without_missing(*_by_type_and_value(series.astype(object).tolist()))


def _holds_text(series: pd.Series) -> bool:
    if isinstance(series.dtype, pd.StringDtype):
        return True
    return bool(series.dtype == object and pd.api.types.infer_dtype(series, skipna=True) == "string")


def _by_type_and_value(listed: list[Any]) -> tuple[NDArray[np.intp], list[Any]]:
    number_of: dict[Any, int] = {}
    found: list[Any] = []
    codes = np.empty(len(listed), dtype=np.intp)
    for position, cell in enumerate(listed):
        number = number_of.setdefault(_key(cell), len(found))
        if number == len(found):
            found.append(cell)
        codes[position] = number
    return codes, found


def _key(cell: Any) -> tuple[type, Any]:
    try:
        hash(cell)
    except TypeError:
        return type(cell), id(cell)
    return type(cell), cell


def _without_missing(codes: NDArray[np.intp], found: list[Any]) -> Distinct:
    given = [number for number, cell in enumerate(found) if not is_missing(cell)]
    renumbered = np.full(len(found) + 1, -1, dtype=np.intp)
    renumbered[given] = np.arange(len(given))
    return Distinct(renumbered[codes], [found[number] for number in given])
