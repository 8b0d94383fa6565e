"""Make a table fit for a file format that can't hold every cell that pandas can.

Examples
--------
>>> as_text(pd.DataFrame({"image": [b"GIF89a"]}))["image"][0]
'data:application/octet-stream;base64,R0lGODlh'
"""

from __future__ import annotations

import base64
import io
import warnings
from itertools import count
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dreamo_batch.errors import TableError
from dreamo_batch.table.cells import is_missing, printable, text_of
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
    # Without a dtype pandas would make a column of str, which can't hold half characters.
    written = {name: [_data_uri(cell) for cell in frame[name]] for name in in_memory}
    return _with(frame, {name: pd.Series(cells, frame.index, object) for name, cells in written.items()})


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


def storable(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Make a table that Parquet can hold and give back, and name what had to become text for it.

    Each column, and the index, is written and read for a try unless its dtype is known to survive that.

    Examples
    --------
    >>> held, changed = storable(pd.DataFrame({"a": [object()], "b": [1]}))
    >>> changed, held["a"].dtype == "str"
    (['a'], True)
    """
    stored, changed = frame.copy(deep=False), []
    for place, name in enumerate(frame.columns):
        column = _plain(frame.iloc[:, place])
        if not _survives(column):
            column = pd.Series(
                [None if is_missing(cell) else text_of(cell) for cell in column], frame.index, "str"
            )
            changed.append(printable(str(name)))
        if column is not frame.iloc[:, place]:
            stored.isetitem(place, column)
    if not all(isinstance(name, str) and _is_utf8(name) for name in frame.columns):
        stored.columns = pd.Index(_unique([text_of(name) for name in frame.columns]), dtype="str")
        changed.append("the names of columns")
    index = stored.index
    levels = (index.get_level_values(place).rename("") for place in range(index.nlevels))
    if not all(_survives(pd.Series(level, dtype=level.dtype)) for level in levels):
        index = pd.Index([text_of(label) for label in index], dtype="str", name=index.name)
        changed.append("the index")
    stored.index = index.set_names([None if name is None else text_of(name) for name in index.names])
    # What a user hangs onto a frame need not be JSON, which is all that Parquet could keep of it.
    stored.attrs = {}
    return stored, changed


def _unique(names: list[str]) -> list[str]:
    """Tell apart names that are the same as text, such as 1 and "1"."""
    taken: dict[str, None] = {}
    for name in names:
        free = (f"{name}.{number}" if number else name for number in count())
        taken[next(one for one in free if one not in taken)] = None
    return list(taken)


def _plain(series: pd.Series) -> pd.Series:
    """Give a column in the dtypes of pandas' own that a file brings back."""
    if isinstance(series.dtype, pd.SparseDtype):
        return series.sparse.to_dense()
    if isinstance(series.dtype, pd.ArrowDtype):
        kind = series.dtype.pyarrow_dtype
        return series if pa.types.is_primitive(kind) or pa.types.is_string(kind) else series.astype(object)
    return series


def _survives(series: pd.Series) -> bool:
    """Whether a column can be written to Parquet and read again."""
    if _is_known(series.dtype):
        return True
    frame = series.rename("values").reset_index(drop=True).to_frame()
    frame.attrs = {}
    file = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pandas(frame), file)
        file.seek(0)
        pq.read_table(file).to_pandas()
    except Exception:  # noqa: BLE001 - whatever pandas or Arrow trips over, the column is not to be stored so
        return False
    return True


def _is_known(dtype: Any) -> bool:
    is_numpy = isinstance(dtype, np.dtype) and (dtype.kind in "iufbM" and dtype != np.float16)
    return is_numpy or isinstance(dtype, pd.BooleanDtype | pd.Int64Dtype | pd.Float64Dtype)


def _is_utf8(text: str) -> bool:
    return text_of(text) == text


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
    if isinstance(cell, str):
        return printable(cell)
    if isinstance(cell, Image.Image):
        return f"<PIL image {cell.mode} {cell.width}x{cell.height}>"
    if not isinstance(cell, (bytes, bytearray, memoryview)):
        return cell
    content = bytes(cell)
    return f"data:{_MEDIA_TYPES[suffix_of(content)]};base64,{base64.b64encode(content).decode('ascii')}"


def _escaped(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
