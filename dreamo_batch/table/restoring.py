"""Give the columns of a table that was read from a file their dtypes back.

Nothing is changed silently: a column of numbers stays text as long as one of its cells is no such number,
so that validation can show the cell as it was written.

Examples
--------
>>> from dreamo_batch.table.guessing import guessed
>>> frame = pd.DataFrame({"seed": ["7", "42.0"], "width": ["512", "wide"], "subject": ["007", "012"]}, dtype="str")
>>> {name: str(dtype) for name, dtype in restored(frame, guessed).dtypes.items()}
{'seed': 'Int64', 'width': 'str', 'subject': 'str'}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import TableError
from dreamo_batch.table.cells import is_missing, show
from dreamo_batch.table.distinct import distinct
from dreamo_batch.table.integers import booleans, integers
from dreamo_batch.table.schema import is_result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from dreamo_batch.table.integers import Integers

_WHOLE: Final = (columns.SEED, columns.WIDTH, columns.HEIGHT, columns.REPLICATE)
_TEXT: Final = (columns.IMAGE, *columns.IMAGE_ALIASES, columns.PROMPT, columns.SIZE)


def restored(frame: pd.DataFrame, own: Callable[[pd.Series], pd.Series]) -> pd.DataFrame:
    """Give every column the dtype it is meant to have.

    Parameters
    ----------
    frame : pandas.DataFrame
        As read: text only, or values of any kind. Missing cells are missing.
    own : callable
        Takes and gives back a column of the user's own.

    Returns
    -------
    pandas.DataFrame
        Inputs as in `columns.INPUTS` as far as their cells can be read so; the outputs of a result exactly
        as in `columns.OUTPUTS`; the user's own columns as `own` gives them back.

    Raises
    ------
    TableError
        If an output of a result can't be read.

    Examples
    --------
    >>> from dreamo_batch.table.guessing import guessed
    >>> frame = pd.DataFrame({"prompt": ["NA", "2"], "use_rephraser": ["yes", None]})
    >>> restored(frame, guessed)["use_rephraser"].tolist()
    [True, <NA>]
    """
    outputs = columns.OUTPUTS if is_result(frame) else {}
    series = {name: _column(name, frame[name], outputs, own) for name in frame.columns}
    return pd.DataFrame(series, index=frame.index)


def _column(
    name: Any,
    series: pd.Series,
    outputs: Mapping[str, columns.Column],
    own: Callable[[pd.Series], pd.Series],
) -> pd.Series:
    if name in outputs:
        return _output(outputs[name], series)
    if name in _WHOLE:
        return _if_readable(series, integers(series), _whole)
    if name == columns.USE_REPHRASER:
        return _if_readable(series, booleans(series), _true_or_false)
    if name in _TEXT:
        return series.infer_objects()
    return own(series)


def _if_readable(
    series: pd.Series, read: Integers, restore: Callable[[pd.Index, Integers], pd.Series]
) -> pd.Series:
    return series if read.is_faulty.any() else restore(series.index, read)


def _whole(index: pd.Index, read: Integers) -> pd.Series:
    return pd.Series(pd.arrays.IntegerArray(read.numbers, ~read.is_given), index=index)


def _true_or_false(index: pd.Index, read: Integers) -> pd.Series:
    return pd.Series(pd.arrays.BooleanArray(read.numbers != 0, ~read.is_given), index=index)


def _output(column: columns.Column, series: pd.Series) -> pd.Series:
    restore = {
        columns.INT: _whole_output,
        columns.BOOL: _boolean_output,
        columns.FLOAT: _float_output,
        columns.TIME: _time_output,
        columns.CATEGORY: _category_output,
    }.get(column.dtype, _text_output)
    restored_column = restore(series)
    # Conversions leave a hole where they can't read a cell; a hole in the file is no harm.
    lost = np.flatnonzero(restored_column.isna().to_numpy() & ~_is_hole(series))
    if len(lost):
        cell = show(series.iloc[lost[0]])
        raise TableError(
            f"Column {column.name!r} of a result can't be read: row {lost[0]} holds {cell!r}, where "
            f"{column.dtype} was expected. Was the file edited? Put the cell right, or drop the column."
        )
    return restored_column


def _is_hole(series: pd.Series) -> NDArray[np.bool_]:
    cells = distinct(series)
    is_blank = np.array([isinstance(cell, str) and not cell.strip() for cell in cells.cells], dtype=bool)
    return cells.take(is_blank, missing=True)


def _whole_output(series: pd.Series) -> pd.Series:
    return _whole(series.index, integers(series))


def _boolean_output(series: pd.Series) -> pd.Series:
    return _true_or_false(series.index, booleans(series))


def _float_output(series: pd.Series) -> pd.Series:
    return pd.to_numeric(series.astype(object), errors="coerce").astype(columns.FLOAT)


def _time_output(series: pd.Series) -> pd.Series:
    return pd.to_datetime(series, utc=True, format="ISO8601", errors="coerce").astype(columns.TIME)


def _category_output(series: pd.Series) -> pd.Series:
    known = series.astype(object).where(series.isin(columns.STATUSES))
    return known.astype(pd.CategoricalDtype(list(columns.STATUSES)))


def _text_output(series: pd.Series) -> pd.Series:
    cells = [None if is_missing(cell) else str(cell) for cell in series]
    return pd.Series(cells, index=series.index, dtype=columns.STR)
