"""Guess the dtype of a user's own column from its cells, without losing a character that counts.

Identifiers such as ``007``, ``12e5`` or numbers of 16 digits among fractions stay text: a number would not
give them back.

Examples
--------
>>> [str(guessed(pd.Series(cells)).dtype) for cells in (["1", "2"], ["1", None], ["0.5", "1e-07"], ["007", "1"])]
['int64', 'Int64', 'float64', 'str']
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from dreamo_batch import columns
from dreamo_batch.table.cells import INT64_MAX, INT64_MIN, is_missing

_WHOLE: Final = r"(?:0|-?[1-9][0-9]{0,18})"
_NUMBER: Final = r"(?i)(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[+-][0-9]+)?|-?inf|nan)"
_INFINITE: Final = "(?i)-?inf"
# A float64 gives back whole numbers of 15 digits at least.
_INEXACT: Final = "-?[0-9]{16,}"
_INTEGER: Final = pd.ArrowDtype(pa.int64())
_FLOAT: Final = pd.ArrowDtype(pa.float64())
_TRUE_FALSE: Final = ({"True", "False"}, {"true", "false"}, {"TRUE", "FALSE"})


def guessed(series: pd.Series) -> pd.Series:
    """Give a column of text the narrowest dtype that holds its cells as they are written.

    Parameters
    ----------
    series : pandas.Series
        Text, or missing.

    Returns
    -------
    pandas.Series
        `int64`, `float64` or `bool`; `Int64` or `boolean` where cells are missing; else `str`.

    Examples
    --------
    >>> guessed(pd.Series(["True", None])).dtype.name
    'boolean'
    """
    text = series.astype(columns.STR)
    given = text.dropna()
    if given.empty:
        return text
    if given.str.fullmatch(_WHOLE).all():
        return _whole_of_text(text)
    if given.str.fullmatch(_NUMBER).all():
        return _number_of_text(text)
    if any(given.isin(words).all() for words in _TRUE_FALSE):
        return _true_or_false(text, (given.str.lower() == "true").tolist())
    return text


def typed(series: pd.Series) -> pd.Series:
    """Give a column of values the narrowest dtype that holds them; text stays text.

    Parameters
    ----------
    series : pandas.Series
        Of dtype object.

    Returns
    -------
    pandas.Series
        As `guessed` gives it for values that are numbers or booleans already; datetimes for datetimes; as it
        was for anything else.

    Examples
    --------
    >>> [str(typed(pd.Series(cells, dtype=object)).dtype) for cells in ([1, None], ["1", "2"], [[1], None])]
    ['Int64', 'str', 'object']
    """
    given = [cell for cell in series.tolist() if not is_missing(cell)]
    kind = pd.api.types.infer_dtype(given, skipna=False) if given else "string"
    if kind == "integer":
        return _whole(series, given)
    if kind == "boolean":
        return _true_or_false(series, given)
    if kind in {"floating", "mixed-integer-float"} and all(float(cell) == cell for cell in given):
        return _filled(series, [float(cell) for cell in given], columns.FLOAT, np.nan)
    if kind == "datetime":
        return pd.to_datetime(series)
    return series.astype(columns.STR) if kind == "string" else series


def _whole_of_text(text: pd.Series) -> pd.Series:
    try:
        numbers = text.astype(_INTEGER)
    except pa.ArrowInvalid:  # beyond 64 bits
        return text
    return numbers.astype(columns.INT if text.hasnans else "int64")


def _number_of_text(text: pd.Series) -> pd.Series:
    numbers = text.astype(_FLOAT).astype(columns.FLOAT)
    is_too_large = np.isinf(numbers) & ~text.str.fullmatch(_INFINITE, na=False)
    is_lossy = is_too_large | text.str.fullmatch(_INEXACT, na=False)
    return text if is_lossy.any() else numbers


def _whole(series: pd.Series, given: list[int]) -> pd.Series:
    if min(given) < INT64_MIN or max(given) > INT64_MAX:
        return series
    return _filled(series, given, "int64" if len(given) == len(series) else columns.INT, pd.NA)


def _true_or_false(series: pd.Series, given: list[bool]) -> pd.Series:
    return _filled(series, given, "bool" if len(given) == len(series) else columns.BOOL, pd.NA)


def _filled(series: pd.Series, given: list[Any], dtype: str, hole: Any) -> pd.Series:
    cells = np.full(len(series), hole, dtype=object)
    cells[[not is_missing(cell) for cell in series.tolist()]] = given
    return pd.Series(cells, index=series.index).astype(dtype)
