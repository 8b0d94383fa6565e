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

from dreamo_batch.errors import TableError
from dreamo_batch.table.cells import exact_end
from dreamo_batch.table.delimited import with_header

if TYPE_CHECKING:
    from pathlib import Path

# Excel shows and keeps 15 digits of a number; longer ones are written as text.
_EXACT_END: Final = 10**15
_CELL_CHARACTERS: Final = 32_767
_ROWS: Final = 1_048_575
_ENGINE: Final = "openpyxl"
_INSTALL: Final = "Install it with pip install 'dreamo-batch[excel]', or use CSV."
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
    given = np.flatnonzero(lines.notna().any(axis=1))
    return with_header(path, lines.iloc[: given[-1] + 1])


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
    return _NOT_IN_XML.sub("\ufffd", cell)
