"""Guess the dtype of a user's own column from its cells, without losing a character that counts.

Identifiers such as ``007``, ``12e5`` or numbers of 16 digits among fractions stay text: a number would not
give them back.

Examples
--------
>>> [str(guessed(pd.Series(cells)).dtype) for cells in (["1", "2"], ["1", None], ["0.5", "1e-07"], ["007", "1"])]
['int64', 'Int64', 'float64', 'str']
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.table.cells import INT64_MAX, INT64_MIN, is_missing

_WHOLE = re.compile(r"0|-?[1-9]\d{0,18}", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:e[+-]\d+)?|-?inf|nan", re.ASCII | re.IGNORECASE)
# A float64 gives back whole numbers of 15 digits at least.
_EXACT_DIGITS: Final = 15
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
    given = [cell for cell in series.tolist() if not is_missing(cell)]
    if not given:
        return series.astype(columns.STR)
    if all(_WHOLE.fullmatch(cell) for cell in given):
        return _whole(series, [int(cell) for cell in given])
    if all(_NUMBER.fullmatch(cell) for cell in given) and _is_exact(given):
        return _filled(series, [float(cell) for cell in given], columns.FLOAT, np.nan)
    if any(set(given) <= words for words in _TRUE_FALSE):
        return _true_or_false(series, [cell.lower() == "true" for cell in given])
    return series.astype(columns.STR)


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


def _is_exact(given: list[str]) -> bool:
    whole = (cell for cell in given if _WHOLE.fullmatch(cell))
    is_short = all(len(cell.lstrip("-")) <= _EXACT_DIGITS for cell in whole)
    return is_short and all(np.isfinite(float(cell)) for cell in given if cell[-1].isdigit())


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
