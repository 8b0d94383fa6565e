"""Read and write Excel workbooks, around the pitfalls of cells that change what is put in.

Examples
--------
>>> import tempfile
>>> from pathlib import Path
>>> path = Path(tempfile.mkdtemp()) / "jobs.xlsx"
>>> write_workbook(pd.DataFrame({"prompt": ["=1+1"], "seed": [2**60]}), path)
>>> read_workbook(path).values.tolist()
[['=1+1', '1152921504606846976']]
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import re
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import TableError
from dreamo_batch.table.cells import exact_end, is_missing
from dreamo_batch.table.delimited import with_header
from dreamo_batch.table.schema import means

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Excel shows and keeps 15 digits of a number; longer ones are written as text.
_EXACT_END: Final = 10**15
_CELL_CHARACTERS: Final = 32_767
_ROWS: Final = 1_048_575
_ENGINE: Final = "openpyxl"
_INSTALL: Final = "Install it with pip install 'dreamo-batch[excel]', or use CSV."
_BOUGHT_AS_TEXT: Final = (columns.PROMPT, columns.IMAGE, *columns.IMAGE_ALIASES)
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")
_ESCAPABLE = re.compile("_(?=x[0-9A-Fa-f]{4}_)")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def read_workbook(path: Path) -> pd.DataFrame:
    """Read the first sheet of a workbook.

    Parameters
    ----------
    path : pathlib.Path
        An ``.xlsx`` or ``.xlsm`` file; formulas count with the value they had when it was saved.

    Returns
    -------
    pandas.DataFrame
        Columns of dtype object, values as the sheet has them, missing where a cell is empty. Whole numbers from
        2**53 on are floats, since a sheet keeps them only roughly. Rows at the end that are empty are left out.

    Raises
    ------
    TableError
        If the file is no workbook, or openpyxl is not installed or too old.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "jobs.xlsx"
    >>> _ = path.write_text("prompt")
    >>> read_workbook(path)
    Traceback (most recent call last):
    dreamo_batch.errors.TableError: ... is no Excel workbook ...
    """
    _need_openpyxl(path)
    with warnings.catch_warnings():
        # openpyxl warns of styles and drop-downs that it leaves out; cells are all that counts here.
        warnings.simplefilter("ignore")
        try:
            lines = pd.read_excel(
                path, header=None, dtype=object, keep_default_na=False, na_values=[""], engine=_ENGINE
            )
        except OSError:
            raise
        except ImportError as error:  # an openpyxl that is older than pandas wants
            raise TableError(f"{path} can't be read here: {error} {_INSTALL}") from None
        except Exception as error:  # noqa: BLE001 - ZIP, XML and openpyxl each have errors of their own
            raise TableError(
                f"{path} is no Excel workbook that can be read ({error}). Save it as .xlsx, or export a CSV."
            ) from None
    if lines.empty:
        raise TableError(f"{path}: the first sheet is empty. Its first row must name the columns.")
    lines = lines.map(_as_kept)
    lines = _with_faults(path, lines.map(_unescaped))
    given = np.flatnonzero(lines.notna().any(axis=1))
    return with_header(path, lines.iloc[: given[-1] + 1])


def _with_faults(path: Path, lines: pd.DataFrame) -> pd.DataFrame:
    """Put errors and formulas without a value, which pandas reads as empty cells, back in as text that names the cell.

    Validation shows such a text where a number is expected; in a column of texts it would be bought, and is refused.
    """
    names = lines.iloc[0]
    for row, column, address, what in _faults(path):
        if row >= len(lines) or column >= len(lines.columns) or not is_missing(lines.iloc[row, column]):
            continue
        if isinstance(names[column], str) and means(names[column]) in _BOUGHT_AS_TEXT:
            raise TableError(
                f"{path}, cell {address}: {what}. Put a value there; a formula gets one when a spreadsheet program "
                "saves the file."
            )
        lines.iloc[row, column] = f"{what} (cell {address})"
    return lines


def _faults(path: Path) -> Iterator[tuple[int, int, str, str]]:
    """Give row, column, address and fault of each cell of the first sheet that has an error or no calculated value."""
    import openpyxl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        valued, written = (openpyxl.load_workbook(path, data_only=only) for only in (True, False))
    values, formulas = valued.worksheets[0], written.worksheets[0]
    for row in formulas.iter_rows():
        for cell in row:
            value = values.cell(cell.row, cell.column)
            place = cell.row - 1, cell.column - 1, cell.coordinate
            if value.data_type == "e":
                yield *place, str(value.value)
            elif cell.data_type == "f" and value.value is None and value.data_type != "s":  # "" is a value
                yield *place, f"formula {cell.value} was never calculated"


def write_workbook(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as a workbook of one sheet.

    Text stays text, so that nothing is taken for a formula; whole numbers of 16 digits and more are written as
    text, times without their time zone (UTC), and characters that a sheet can't hold as U+FFFD.

    Parameters
    ----------
    frame : pandas.DataFrame
        What.
    path : pathlib.Path
        Where.

    Raises
    ------
    TableError
        If there are more rows or longer texts than a sheet holds, or openpyxl is not installed or too old.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> write_workbook(pd.DataFrame({"prompt": ["a" * 40_000]}), Path(tempfile.mkdtemp()) / "jobs.xlsx")
    Traceback (most recent call last):
    dreamo_batch.errors.TableError: Column 'prompt' holds a text of 40,000 characters...
    """
    _need_openpyxl(path)
    if len(frame) > _ROWS:
        raise TableError(
            f"{len(frame):,} rows don't fit into a sheet ({_ROWS:,}). Write CSV or Parquet instead."
        )
    holdable = pd.DataFrame({name: _holdable(name, frame[name]) for name in frame.columns}, index=frame.index)
    with pd.ExcelWriter(path, engine=_ENGINE) as writer:
        holdable.to_excel(writer, index=False)
        for row in writer.book.active.iter_rows():
            for cell in row:
                if cell.data_type == "f":
                    cell.data_type = "s"


def _as_kept(cell: Any) -> Any:
    """Give a whole number that a sheet keeps only roughly back as the float it is there."""
    is_whole = isinstance(cell, int) and not isinstance(cell, bool)
    return float(cell) if is_whole and abs(cell) >= exact_end(float) else cell


def _need_openpyxl(path: Path) -> None:
    if importlib.util.find_spec(_ENGINE) is None:
        raise TableError(f"{path}: Excel needs the package openpyxl. {_INSTALL}")


def _holdable(name: Any, series: pd.Series) -> pd.Series:
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        return series.dt.tz_convert("UTC").dt.tz_localize(None)
    return series.astype(object).map(lambda cell: _cell(name, cell))


def _cell(name: Any, cell: Any) -> Any:
    if isinstance(cell, (int, np.integer)) and not isinstance(cell, bool) and abs(int(cell)) >= _EXACT_END:
        return str(cell)
    if isinstance(cell, dt.datetime) and cell.tzinfo is not None:
        return cell.astimezone(dt.UTC).replace(tzinfo=None)
    if not isinstance(cell, str):
        return cell
    if len(cell) > _CELL_CHARACTERS:
        raise TableError(
            f"Column {name!r} holds a text of {len(cell):,} characters; a sheet's cell holds at most "
            f"{_CELL_CHARACTERS:,}. Write CSV or Parquet instead."
        )
    escaped = _ESCAPABLE.sub("_x005F_", cell).replace("\r", "_x000D_")
    return _NOT_IN_XML.sub("\ufffd", escaped)


def _unescaped(cell: Any) -> Any:
    """Undo `_xHHHH_`, by which sheets write what XML can't hold, and a carriage return."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), cell) if isinstance(cell, str) else cell
