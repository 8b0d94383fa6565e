"""Make a table fit for a file format that can't hold every cell that pandas can.

Examples
--------
>>> as_text(pd.DataFrame({"image": [b"GIF89a"]}))["image"][0]
'data:application/octet-stream;base64,R0lGODlh'
"""

from __future__ import annotations

import base64
import warnings
from typing import Any, Final

import pandas as pd
import pyarrow as pa
from PIL import Image

from dreamo_batch.errors import TableError
from dreamo_batch.table.pictures import suffix_of

_MEDIA_TYPES: Final = {".jpg": "image/jpeg", ".png": "image/png", ".bin": "application/octet-stream"}
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Write pictures in memory so that text can hold them: bytes as `data:` URIs.

    Parameters
    ----------
    frame : pandas.DataFrame
        Not changed.

    Returns
    -------
    pandas.DataFrame
        The same, PIL images as a description, with one warning: identity comes from their pixels, which a file
        of text can't keep.

    Examples
    --------
    >>> as_text(pd.DataFrame({"prompt": ["a"]}))["prompt"].tolist()
    ['a']
    """
    in_memory = [name for name in frame.columns if frame[name].dtype == object]
    lost = [str(name) for name in in_memory if any(isinstance(cell, Image.Image) for cell in frame[name])]
    if lost:
        warnings.warn(
            f"PIL images in {', '.join(lost)} are written as a description only. Save them as files first to "
            "keep them.",
            stacklevel=5,
        )
    return _with(frame, {name: frame[name].map(_data_uri) for name in in_memory})


def with_index_as_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn an index that means something into columns, for formats that have none.

    Parameters
    ----------
    frame : pandas.DataFrame
        Not changed.

    Returns
    -------
    pandas.DataFrame
        On a RangeIndex. One that merely counts from 0 and has no name is left out.

    Raises
    ------
    TableError
        If a level of the index is named like a column.

    Examples
    --------
    >>> with_index_as_columns(pd.DataFrame({"a": [1]}, index=["x"])).columns.tolist()
    ['index', 'a']
    """
    index = frame.index
    if index.nlevels == 1 and index.name is None and index.equals(pd.RangeIndex(len(frame))):
        return frame.reset_index(drop=True)
    try:
        return frame.reset_index()
    except ValueError as error:
        raise TableError(f"The index can't become columns: {error}. Rename it, or drop it first.") from None


def safe_for_spreadsheets(frame: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before text that a spreadsheet would take for a formula.

    Parameters
    ----------
    frame : pandas.DataFrame
        Not changed.

    Returns
    -------
    pandas.DataFrame
        Cells and names that begin with ``= + - @``, a tab or a carriage return begin with ``'``.

    Examples
    --------
    >>> safe_for_spreadsheets(pd.DataFrame({"prompt": ["=1+1", "a cat"]}))["prompt"].tolist()
    ["'=1+1", 'a cat']
    """
    escaped = {name: frame[name].map(_escaped) for name in frame.columns if may_hold_text(frame[name])}
    return _with(frame, escaped).rename(columns=_escaped)


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """Make a table that Parquet can hold.

    Parameters
    ----------
    frame : pandas.DataFrame
        Not changed.

    Returns
    -------
    pandas.DataFrame
        Columns that Parquet can't hold, such as mixed types or PIL images, are text, with one warning; names of
        columns are text.

    Examples
    --------
    >>> storable(pd.DataFrame({"a": [1, 2]})).equals(pd.DataFrame({"a": [1, 2]}))
    True
    """
    held = frame.rename(columns=str)
    lost = [name for name in held.columns if held[name].dtype == object and not _is_storable(held[name])]
    if lost:
        warnings.warn(f"Stored as text, since Parquet can't hold it: {', '.join(lost)}.", stacklevel=4)
    stored = _with(held, {name: held[name].map(str, na_action="ignore").astype("str") for name in lost})
    # What a user hangs onto a frame need not be JSON, which is all that Parquet could keep of it.
    stored.attrs = {}
    return stored


def may_hold_text(series: pd.Series) -> bool:
    """Say whether cells of a column may be text.

    Parameters
    ----------
    series : pandas.Series
        A column.

    Returns
    -------
    bool
        Judged by the dtype alone.

    Examples
    --------
    >>> may_hold_text(pd.Series(["a"])), may_hold_text(pd.Series([1]))
    (True, False)
    """
    return series.dtype == object or isinstance(series.dtype, (pd.StringDtype, pd.CategoricalDtype))


def _with(frame: pd.DataFrame, series: dict[Any, pd.Series]) -> pd.DataFrame:
    copy = frame.copy(deep=False)
    for name, one in series.items():
        copy[name] = one
    return copy


def _data_uri(cell: Any) -> Any:
    if isinstance(cell, Image.Image):
        return f"<PIL image {cell.mode} {cell.width}x{cell.height}>"
    if not isinstance(cell, (bytes, bytearray, memoryview)):
        return cell
    content = bytes(cell)
    return f"data:{_MEDIA_TYPES[suffix_of(content)]};base64,{base64.b64encode(content).decode('ascii')}"


def _escaped(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _is_storable(series: pd.Series) -> bool:
    try:
        pa.array(series, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True
