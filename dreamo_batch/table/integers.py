"""Read whole columns as integers or booleans, whatever their dtype.

Numeric dtypes are read at once with numpy; everything else one reading per distinct cell. Both ways
agree with `cells.read_integer` on every cell.

Examples
--------
>>> integers(pd.Series(["7", "x", None])).numbers.tolist()
[7, 0, 0]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from dreamo_batch.table import cells
from dreamo_batch.table.distinct import distinct

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dreamo_batch.table.distinct import Distinct

_PLAIN_DIGITS: Final = "-?[0-9]{1,18}"
_ARROW_INTEGER: Final = pd.ArrowDtype(pa.int64())


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """A column read as integers: 0 and not given where the cell is missing or can't be read.

    Examples
    --------
    >>> read = integers(pd.Series([1, None, "x"], dtype=object))
    >>> read.numbers.tolist(), read.is_given.tolist(), read.is_faulty.tolist()
    ([1, 0, 0], [True, False, False], [False, False, True])
    """

    numbers: NDArray[np.int64]
    is_given: NDArray[np.bool_]
    faults: dict[str, NDArray[np.bool_]]

    @classmethod
    def nothing(cls, n_rows: int) -> Integers:
        """Give what is read from a column that is not there.

        Parameters
        ----------
        n_rows : int
            Rows of the table.

        Returns
        -------
        Integers
            Nothing given, nothing wrong.

        Examples
        --------
        >>> Integers.nothing(2).is_given.tolist()
        [False, False]
        """
        return cls(np.zeros(n_rows, dtype=np.int64), np.zeros(n_rows, dtype=bool), {})

    @property
    def is_faulty(self) -> NDArray[np.bool_]:
        """Which cells could not be read."""
        mask = np.zeros(len(self.numbers), dtype=bool)
        for is_faulty in self.faults.values():
            mask |= is_faulty
        return mask


def integers(series: pd.Series) -> Integers:
    """Read a column of any dtype as integers.

    Parameters
    ----------
    series : pandas.Series
        Cells as `read_integer` takes them.

    Returns
    -------
    Integers
        Values (int64), which are given, and which have each fault.

    Examples
    --------
    >>> integers(pd.Series([1.0, 2.5, None])).is_given.tolist()
    [True, False, False]
    """
    if pd.api.types.is_bool_dtype(series.dtype):
        return _all_faulty(series.notna().to_numpy(dtype=bool), cells.NOT_INTEGER)
    if pd.api.types.is_float_dtype(series.dtype):
        return _of_floats(series)
    if pd.api.types.is_integer_dtype(series.dtype):
        return _of_integers(series)
    plain = _as_plain_integers(series)
    if plain is not None:
        return _of_integers(plain)
    return _of_distinct(distinct(series), cells.read_integer)


def booleans(series: pd.Series) -> Integers:
    """Read a column of any dtype as booleans, laid out as 0 and 1.

    Parameters
    ----------
    series : pandas.Series
        Cells as `read_boolean` takes them.

    Returns
    -------
    Integers
        Values 0 and 1, which are given, and which are not booleans.

    Examples
    --------
    >>> booleans(pd.Series(["true", "no", "?"])).numbers.tolist()
    [1, 0, 0]
    """
    return _of_distinct(distinct(series), cells.read_boolean)


def _as_plain_integers(series: pd.Series) -> pd.Series | None:
    """Text of at most 18 digits, or objects that are integers all, read at once; None if there is anything else."""
    try:
        if isinstance(series.dtype, pd.StringDtype):
            is_plain = series.str.fullmatch(_PLAIN_DIGITS, na=True)
            return series.astype(_ARROW_INTEGER) if is_plain.all() else None
        is_integer = series.dtype == object and pd.api.types.infer_dtype(series, skipna=True) == "integer"
        return series.astype("Int64") if is_integer else None
    except (OverflowError, TypeError, ValueError):
        # Beyond 64 bits, or some other kind of integer: then one by one.
        return None


def _all_faulty(is_faulty: NDArray[np.bool_], fault: str) -> Integers:
    nothing = np.zeros(len(is_faulty), dtype=bool)
    return Integers(np.zeros(len(is_faulty), dtype=np.int64), nothing, _found({fault: is_faulty}))


def _of_floats(series: pd.Series) -> Integers:
    numbers = series.to_numpy(dtype=np.float64, na_value=np.nan)
    is_whole = np.isfinite(numbers) & (numbers == np.trunc(numbers))
    is_exact = np.abs(numbers) < cells.exact_end(_numpy_dtype(series))
    is_given = is_whole & is_exact
    faults = {cells.NOT_INTEGER: ~is_whole & ~np.isnan(numbers), cells.INEXACT: is_whole & ~is_exact}
    return Integers(np.where(is_given, numbers, 0).astype(np.int64), is_given, _found(faults))


def _numpy_dtype(series: pd.Series) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(getattr(series.dtype, "numpy_dtype", series.dtype))
    return dtype


def _of_integers(series: pd.Series) -> Integers:
    is_given = series.notna().to_numpy(dtype=bool)
    numbers = series.to_numpy(dtype=_numpy_dtype(series), na_value=0)
    is_beyond = numbers > cells.INT64_MAX if numbers.dtype == np.uint64 else np.zeros(len(numbers), bool)
    is_exact = is_given & ~is_beyond
    faults = _found({cells.OUT_OF_RANGE: is_given & is_beyond})
    return Integers(np.where(is_exact, numbers, 0).astype(np.int64), is_exact, faults)


def _of_distinct(found: Distinct, read: Callable[[Any], cells.Read]) -> Integers:
    reads = [read(cell) for cell in found.cells]
    values = np.array([int(one.value or 0) for one in reads], dtype=np.int64)
    is_given = np.array([one.value is not None for one in reads], dtype=bool)
    faults = {
        fault: found.take(np.array([one.fault == fault for one in reads], dtype=bool), missing=False)
        for fault in cells.FAULTS
    }
    return Integers(found.take(values, missing=0), found.take(is_given, missing=False), _found(faults))


def _found(faults: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    return {fault: mask for fault, mask in faults.items() if mask.any()}
