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

import contextlib
import datetime as dt
import importlib.util
import re
import warnings
import zipfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import TableError
from dreamo_batch.table.cells import exact_end, is_missing
from dreamo_batch.table.delimited import with_header
from dreamo_batch.table.schema import means

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Excel shows and keeps 15 digits of a number; longer ones are written as text.
_EXACT_END: Final = 10**15
_CELL_CHARACTERS: Final = 32_767
_ROWS: Final = 1_048_575
_ENGINE: Final = "openpyxl"
_INSTALL: Final = "Install it with pip install 'dreamo-batch[excel]', or use CSV."
_BOUGHT_AS_TEXT: Final = (columns.PROMPT, columns.IMAGE, *columns.IMAGE_ALIASES)
_FORMULA_CHARACTERS: Final = 12
_WORKBOOK: Final = "xl/workbook.xml"
_CALCULATION_DUE = re.compile(b"fullCalcOnLoad=[\"'](?:1|true)[\"']")
_ESCAPE = re.compile("_x([0-9A-Fa-f]{4})_")
# What XML can't hold or doesn't keep, and what would be read as an escape, be it only with an escape behind it.
_NOT_IN_XML: Final = "\x00-\x08\x0b-\x1f\ufffe\uffff"
_TO_ESCAPE = re.compile(f"[{_NOT_IN_XML}]|_(?=x[0-9A-Fa-f]{{4}}[_{_NOT_IN_XML}])")
_HALF = re.compile("[\ud800-\udfff]")


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
        2**53 on are floats, since a sheet keeps them only roughly. A cell that holds an error, or a formula that
        was never calculated, is text that says so and names the cell. Rows at the end that are empty are left out.

    Raises
    ------
    TableError
        If the file is no workbook, openpyxl is not installed or too old, or a cell without a value stands where
        a name, a prompt, a picture or an output is expected.

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
    try:
        rows, faults = _first_sheet(path)
    except OSError:
        raise
    except ImportError as error:  # an openpyxl that is older than pandas wants
        raise TableError(f"{path} can't be read here: {error} {_INSTALL}") from None
    except Exception as error:  # noqa: BLE001 - ZIP, XML and openpyxl each have errors of their own
        raise TableError(
            f"{path} is no Excel workbook that can be read ({error}). Save it as .xlsx, or export a CSV."
        ) from None
    lines = _with_faults(path, pd.DataFrame(rows, dtype=object), faults)
    given = np.flatnonzero(lines.notna().any(axis=1))
    if not len(given):
        raise TableError(f"{path}: the first sheet is empty. Its first row must name the columns.")
    return with_header(path, lines.iloc[: given[-1] + 1])


def _first_sheet(path: Path) -> tuple[list[list[Any]], dict[tuple[int, int], str]]:
    """Read the rows of the first sheet, and the faults of its cells by row and column."""
    rows: list[list[Any]] = []
    faults: dict[tuple[int, int], str] = {}
    with warnings.catch_warnings(), contextlib.ExitStack() as books:
        # openpyxl warns of styles and drop-downs that it leaves out; cells are all that counts here.
        warnings.simplefilter("ignore")
        values, formulas = (
            books.enter_context(
                pd.ExcelFile(path, engine=_ENGINE, engine_kwargs={"data_only": only})
            ).book.worksheets[0]
            for only in (True, False)
        )
        for sheet in (values, formulas):
            sheet.reset_dimensions()  # which some programs write wrongly
        without_value = _without_value(path)
        for row, (valued, written) in enumerate(zip(values.rows, formulas.rows, strict=True)):
            rows.append([_value(cell) for cell in valued])
            for column, (cell, source) in enumerate(zip(valued, written, strict=True)):
                if cell.data_type == "e":
                    faults[row, column] = str(cell.value)
                elif source.data_type == "f" and cell.data_type == "n" and cell.value in without_value:
                    faults[row, column] = f"formula {_head(source.value)} was never calculated"
    width = max(map(len, rows), default=0)
    return [row + [None] * (width - len(row)) for row in rows], faults


def _without_value(path: Path) -> tuple[int | None, ...]:
    """Give the numbers that a formula has before it was calculated.

    Some programs write 0, and ask for a calculation when the file is opened; Excel drops the request when it saves.
    """
    with zipfile.ZipFile(path) as archive:
        is_there = _WORKBOOK in archive.namelist()
        is_due = is_there and _CALCULATION_DUE.search(archive.read(_WORKBOOK)) is not None
    return (None, 0) if is_due else (None,)


def _value(cell: Any) -> Any:
    """Give what a cell holds; a number that a sheet keeps only roughly is a float, any other whole one an integer."""
    value = cell.value
    if cell.data_type == "e":
        return None
    if isinstance(value, str):
        return _unescaped(value) or None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if abs(value) >= exact_end(float):
        return float(value)
    return int(value) if value == int(value) else value


def _head(formula: Any) -> str:
    """Give so much of a formula that the cell's address is still shown behind it."""
    text = formula if isinstance(formula, str) else str(getattr(formula, "text", "of a table"))
    return text if len(text) <= _FORMULA_CHARACTERS else text[:_FORMULA_CHARACTERS] + "…"


def _with_faults(path: Path, lines: pd.DataFrame, faults: Mapping[tuple[int, int], str]) -> pd.DataFrame:
    """Put text that names fault and cell where a cell has no value.

    Validation shows it where a number is expected. As a name, or as a text that is bought, it is refused.
    """
    names = [None if is_missing(name) else str(name) for name in lines.iloc[0]] if len(lines) else []
    for (row, column), what in faults.items():
        address = f"{_letters(column + 1)}{row + 1}"
        name = names[column]
        if row == 0 or (name is not None and (means(name) in _BOUGHT_AS_TEXT or name in columns.OUTPUTS)):
            raise TableError(
                f"{path}, cell {address}: {what}. Put a value there; a formula gets one when a spreadsheet program "
                "saves the file."
            )
        lines.iat[row, column] = f"{what} (cell {address})"  # noqa: PD009 - one cell
    return lines


def _letters(number: int) -> str:
    """Name a column as a sheet does."""
    rest, last = divmod(number - 1, 26)
    return (_letters(rest) if rest else "") + chr(ord("A") + last)


def write_workbook(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as a workbook of one sheet.

    Text stays text, so that nothing is taken for a formula or an error; whole numbers of 16 digits and more are
    written as text, times without their time zone (UTC), characters that XML can't hold as ``_xHHHH_``, which
    spreadsheet programs undo, and half characters as U+FFFD.

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
    holdable.columns = pd.Index([_cell(name, name) for name in frame.columns], dtype=object)
    with pd.ExcelWriter(path, engine=_ENGINE) as writer:
        holdable.to_excel(writer, index=False)
        for row in writer.book.active.iter_rows():
            for cell in row:
                if cell.data_type in {"f", "e"}:
                    cell.data_type = "s"


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
    escaped = _TO_ESCAPE.sub(lambda found: f"_x{ord(found[0]):04X}_", _HALF.sub("\ufffd", cell))
    n_characters = len(escaped.encode("utf-16-le")) // 2
    if n_characters > _CELL_CHARACTERS:
        raise TableError(
            f"Column {name!r} holds a text of {n_characters:,} characters as a sheet stores it; a cell holds at "
            f"most {_CELL_CHARACTERS:,}. Write CSV or Parquet instead."
        )
    return escaped


def _unescaped(text: str) -> str:
    """Undo `_xHHHH_`, by which sheets write what XML can't hold; halves of one character are joined."""
    plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    if not _HALF.search(plain):
        return plain
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
