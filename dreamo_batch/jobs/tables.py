"""Make a table fit for a file format that can't hold every cell that pandas can."""

from __future__ import annotations

import base64
import codecs
import contextlib
import csv
import datetime as dt
import importlib.util
import io
import json
import math
import re
import warnings
import zipfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dreamo_batch import columns
from dreamo_batch.errors import TableError, UsageError, path_given
from dreamo_batch.files import replacing
from dreamo_batch.images import suffix_of
from dreamo_batch.jobs.cells import (
    booleans,
    distinct,
    exact_end,
    guessed,
    integers,
    is_missing,
    printable,
    show,
    text_of,
    typed,
)
from dreamo_batch.jobs.fields import is_result, means

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from dreamo_batch.jobs.cells import Integers


_MEDIA_TYPES: Final = {".jpg": "image/jpeg", ".png": "image/png", ".bin": "application/octet-stream"}
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Write pictures in memory so that text can hold them: bytes as `data:` URIs."""
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
    """Turn an index that means something into columns, for formats that have none."""
    index = frame.index
    if index.nlevels == 1 and index.name is None and index.equals(pd.RangeIndex(len(frame))):
        return frame.reset_index(drop=True)
    try:
        return frame.reset_index()
    except ValueError as error:
        raise TableError(f"The index can't become columns: {error}. Rename it, or drop it first.") from None


def safe_for_spreadsheets(frame: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before text that a spreadsheet would take for a formula."""
    escaped = {name: frame[name].map(_escaped) for name in frame.columns if may_hold_text(frame[name])}
    return _with(frame, escaped).rename(columns=_escaped)


def storable(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Make a table that Parquet can hold and give back, and name what had to become text for it.

    Each column, and the index, is written and read for a try unless its dtype is known to survive that.
    """
    stored, changed = frame.copy(deep=False), []
    for place, name in enumerate(frame.columns):
        column = _plain_dtype(frame.iloc[:, place])
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


def _plain_dtype(series: pd.Series) -> pd.Series:
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
    """Say whether cells of a column may be text."""
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


_SEPARATORS: Final = (",", ";", "\t", "|")
_SAID: Final = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
_POINT: Final = r"[+-]?\d+\.\d+"
_COMMA: Final = r"[+-]?\d+(?:,\d+)?"
_QUOTING: Final = (
    "Does a text with the separator, a quote or a line break stand there without quotes around it? Write it as "
    '"a cat, sleeping", quotes inside doubled.'
)


def read_delimited(path: Path, separator: str | None, decimal: str | None = None) -> pd.DataFrame:
    """Read a file of separated values as text, changing nothing but decimal commas."""
    text = _decoded(path, path.read_bytes())
    n_skipped = 0
    if (said := _SAID.match(text)) is not None:
        separator, text, n_skipped = separator or said[1], text[said.end() :], 1
    separator = separator or _found_separator(text)
    _refuse_malformed(path, text, separator, n_skipped)
    # pandas before 3.1 cuts a cell off at a NUL, so a character that the text doesn't have stands in for it.
    stand_in = (
        next(chr(code) for code in range(0xE000, 0x110000) if chr(code) not in text) if "\0" in text else ""
    )
    try:
        lines = pd.read_csv(
            io.StringIO(text.replace("\0", stand_in)),
            sep=separator,
            header=None,
            dtype=columns.STR,
            keep_default_na=False,
            na_values=[""],
            low_memory=False,
            skip_blank_lines=False,
        )
    except pd.errors.EmptyDataError:
        raise TableError(f"{path} is empty. Its first line must name the columns.") from None
    except pd.errors.ParserError as error:
        raise TableError(_why_torn(path, str(error))) from None
    if stand_in:
        lines = lines.apply(lambda cells: cells.str.replace(stand_in, "\0", regex=False))
    table = with_header(path, _without_blanks(path, lines))
    return _with_points(table) if (decimal or _decimal(table, separator)) == "," else table


def write_delimited(frame: pd.DataFrame, path: Path, separator: str) -> None:
    """Write a table as separated values, verbatim: UTF-8, no byte order mark, no index."""
    # A lone carriage return is only quoted if it is part of what ends a line.
    line_end = "\r\n" if _holds_carriage_return(frame) else "\n"
    frame.to_csv(path, sep=separator, index=False, lineterminator=line_end, encoding="utf-8")


def with_header(path: Path, lines: pd.DataFrame) -> pd.DataFrame:
    """Take the first line of a table for the names of its columns."""
    frame = lines.iloc[1:].reset_index(drop=True)
    names = [None if is_missing(name) else str(name) for name in lines.iloc[0]]
    kept = [number for number, name in enumerate(names) if name is not None or frame[number].notna().any()]
    nameless = [number for number in kept if names[number] is None]
    if nameless and nameless != [0]:
        raise TableError(
            f"{path}: column {nameless[-1] + 1} has cells but no name. Name it in the first line."
        )
    table = frame[[number for number in kept if names[number] is not None]]
    table.columns = pd.Index([name for name in names if name is not None], dtype=object)
    _refuse_doubled_names(path, table)
    return table.set_axis(_index(frame[0])) if nameless else table


def _refuse_doubled_names(path: Path, table: pd.DataFrame) -> None:
    doubled = list(dict.fromkeys(table.columns[table.columns.duplicated()]))
    if doubled:
        raise TableError(
            f"{path}: several columns are named {', '.join(map(repr, doubled))}. Rename or drop all but one "
            "of each, so that it is clear which one counts."
        )


def _index(cells: pd.Series) -> pd.Index:
    index = pd.Index(guessed(cells)).rename(None)
    counted = pd.RangeIndex(len(index))
    return counted if index.equals(counted) else index


def _decoded(path: Path, content: bytes) -> str:
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        n_line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start : error.start + 1].hex()
        raise TableError(
            f"{path} is not {'UTF-16' if is_utf_16 else 'UTF-8'}: line {n_line} holds the byte 0x{byte}. Save it "
            'anew as UTF-8 (in Excel: "CSV UTF-8"; from Python: encoding="utf-8").'
        ) from None


def _found_separator(text: str) -> str:
    """Find what separates the names in the first line: the character that gives the most columns that are read."""
    first = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")

    def worth(separator: str) -> tuple[int, int]:
        names = next(csv.reader([first], delimiter=separator), [])
        return sum(means(name) is not None for name in names), len(names)

    return max(_SEPARATORS, key=worth)


def _refuse_malformed(path: Path, text: str, separator: str, n_skipped: int) -> None:
    """Refuse torn quotes and rows with cells too many, by the file's own line numbers: a reading would be a guess."""
    n_names = 0
    for line, n_cells in _records(path, text, separator, n_skipped):
        n_names = n_names or n_cells
        if n_cells > n_names:
            raise TableError(
                f"{path}, line {line} has {n_cells} cells, where the first line names {n_names} columns. {_QUOTING}"
            )


def _records(path: Path, text: str, separator: str, n_skipped: int) -> Iterator[tuple[int, int]]:
    """Give the line and the number of cells of each row that is not blank."""
    if '"' not in text:
        for number, row in enumerate(
            text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1 + n_skipped
        ):
            if row:
                yield number, row.count(separator) + 1
        return
    cell = re.compile(rf'"(?:[^"]|"")*"|[^{re.escape(separator)}"\r\n][^{re.escape(separator)}\r\n]*|')
    at, end, line, begun, n_cells = 0, len(text), 1 + n_skipped, 1 + n_skipped, 0
    while at <= end:
        found = cell.match(text, at)
        stop = found.end() if found else at
        last = line + text.count("\n", at, stop)
        following = text[stop : stop + 1]
        if following == '"':
            raise TableError(f"{path}, line {line}: a quote is opened and never closed. {_QUOTING}")
        if following not in (separator, "\r", "\n", ""):
            where = f"line {line}" if last == line else f"lines {line} to {last}"
            behind = text[stop : stop + 20].partition("\n")[0]
            raise TableError(f"{path}, {where}: {behind!r} stands behind a closing quote. {_QUOTING}")
        n_cells += 1
        if following != separator:
            if n_cells > 1 or stop > at:
                yield begun, n_cells
            stop += text.startswith("\r\n", stop)
            last += 1
            begun, n_cells = last, 0
        at, line = stop + 1, last


def _without_blanks(path: Path, lines: pd.DataFrame) -> pd.DataFrame:
    """Leave out rows without any cell; those at the end of the file are no rows at all."""
    is_blank = lines.isna().all(axis=1)
    is_blank |= (lines.apply(lambda column: column.str.strip().fillna("")) == "").all(axis=1)
    inside = is_blank[: len(is_blank) - int(is_blank[::-1].cumprod().sum())]
    if n := int(inside.sum()):
        told = ", ".join(str(place) for place in inside.index[inside][:5])
        rows = "1 blank row was" if n == 1 else f"{n} blank rows were"
        warnings.warn(f"{path}: {rows} left out (row {told} below the names).", stacklevel=6)
    return lines[~is_blank].reset_index(drop=True)


def _decimal(table: pd.DataFrame, separator: str) -> str:
    """Tell the decimal mark of a file with semicolons: what Excel writes where commas are decimal."""
    if separator != ";":
        return "."
    has_point = any(table[name].str.fullmatch(_POINT).fillna(False).any() for name in table.columns)
    return "." if has_point else ","


def _with_points(table: pd.DataFrame) -> pd.DataFrame:
    """Write decimal commas as points, in columns that hold nothing but numbers."""
    changed = {
        name: table[name].str.replace(",", ".")
        for name in table.columns
        if table[name].dropna().str.fullmatch(_COMMA).all() and table[name].notna().any()
    }
    return table.assign(**changed) if changed else table


def _why_torn(path: Path, reason: str) -> str:
    reason = reason.removeprefix("Error tokenizing data. C error: ").strip().rstrip(".")
    return f"{path} can't be read: {reason}. {_QUOTING}"


def _holds_carriage_return(frame: pd.DataFrame) -> bool:
    texts = (frame[name] for name in frame.columns if may_hold_text(frame[name]))
    return any("\r" in cell for text in texts for cell in text if isinstance(cell, str))


def read_json_lines(path: Path) -> pd.DataFrame:
    """Read a file of JSON objects, one a line; blank lines are skipped."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from None
    records = [_record(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    names = dict.fromkeys(name for record in records for name in record)
    return pd.DataFrame({name: _cells(records, name) for name in names}, index=pd.RangeIndex(len(records)))


def read_json_list(path: Path) -> pd.DataFrame:
    """Read a file that is one list of JSON objects; raise TableError for anything else."""
    try:
        records = json.loads(path.read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise TableError(
            f"{path} is not JSON ({error}). One object a line is JSON Lines: name it .jsonl."
        ) from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise TableError(f"{path}: a list of objects was expected, such as [{{...}}, {{...}}].")
    names = dict.fromkeys(name for record in records for name in record)
    return pd.DataFrame({name: _cells(records, name) for name in names}, index=pd.RangeIndex(len(records)))


def write_json_list(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as one list of JSON objects."""
    write_json_lines(frame, path)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def write_json_lines(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as JSON objects, one a line: numbers exact, times as ISO 8601, missing as null."""
    listed = {str(name): frame[name].tolist() for name in frame.columns}
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for cells in zip(*listed.values(), strict=True):
            record = {name: _plain(cell) for name, cell in zip(listed, cells, strict=True)}
            file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise TableError(
            f"{path}: line {number} is not JSON ({error}). Each line must be one object, such as "
            '{"image": "cat.png", "prompt": "a cat"}.'
        ) from None
    if not isinstance(record, dict):
        raise TableError(
            f"{path}: line {number} is a {type(record).__name__}, not an object such as "
            '{"image": "cat.png", "prompt": "a cat"}.'
        )
    return record


def _cells(records: list[dict[str, Any]], name: str) -> pd.Series:
    cells = np.empty(len(records), dtype=object)
    for number, record in enumerate(records):
        cell = record.get(name)
        cells[number] = math.nan if is_missing(cell) else cell
    return pd.Series(cells)


def _plain(cell: Any) -> Any:
    if is_missing(cell):
        return None
    if isinstance(cell, np.generic):
        return _plain(cell.item())
    if isinstance(cell, float) and not math.isfinite(cell):
        return str(cell)
    return cell.isoformat() if isinstance(cell, pd.Timestamp) else cell


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
    """Read the first sheet of a workbook."""
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


_WHOLE: Final = (columns.SEED, columns.WIDTH, columns.HEIGHT, columns.REPLICATE)
_TEXT: Final = (columns.IMAGE, *columns.IMAGE_ALIASES, columns.PROMPT, columns.SIZE)


def restored(frame: pd.DataFrame, own: Callable[[pd.Series], pd.Series]) -> pd.DataFrame:
    """Give every column the dtype it is meant to have."""
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


class _Format(NamedTuple):
    read: Callable[[Path], pd.DataFrame]
    write: Callable[[pd.DataFrame, Path], None]


def read_table(
    path: Path | str,
    *,
    sep: str | None = None,
    decimal: Literal[".", ","] | None = None,
    rename: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    r"""Read a table of jobs, or of results, from a file.

    Parameters
    ----------
    path : pathlib.Path or str
        By suffix: ``.csv``, ``.tsv`` and ``.txt`` (UTF-8, first line: names), ``.jsonl`` or ``.ndjson`` (one object a
        line), ``.json`` (a list of objects), ``.parquet``, ``.xlsx`` (first sheet). ``~`` is the user's home.
    sep : str, optional
        What separates the cells of CSV, TSV and text, one character; default: found in the first line.
    decimal : {".", ","}, optional
        The decimal mark in CSV, TSV and text; default: found.
    rename : mapping of str to str, optional
        Names in the file to the names that they are to have.

    Returns
    -------
    pandas.DataFrame
        Inputs and outputs with the dtypes of `columns.INPUTS` and `columns.OUTPUTS`: error codes keep their
        zeros, seeds stay integers. An input column with a cell that can't be read so stays text, for `validate`
        to show. Empty cells are missing, and nothing else is: a prompt ``NA`` is text. In CSV the user's own
        columns are guessed, keeping identifiers such as ``007`` as text; Parquet comes back as stored.

    Raises
    ------
    TableError
        If there is no such file, it can't be read, its format is not known, or `rename` names a column that is not
        there.

    UsageError
        If `sep` is not one character.

    Warns
    -----
    UserWarning
        If blank rows are left out.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "jobs.csv"
    >>> _ = path.write_text("image,prompt,seed\ncat.png,a cat,42.5\n")
    >>> read_table(path)["seed"].tolist()
    ['42.5']
    """
    path = Path(path_given("path", path)).expanduser()
    kind = _format(path)
    if sep is not None and len(sep) != 1:
        raise UsageError(f"sep must be one character, not {sep!r}")
    if path.is_dir():
        raise TableError(
            f"{path} is a folder. Give the table's file; results of a run directory come from load()."
        )
    if not path.exists():
        raise TableError(f"There is no file {path.absolute()}. Check the path.")
    try:
        if path.suffix.lower() in _DELIMITED:
            return restored(renamed(path, read_delimited(path, sep, decimal), rename), guessed)
        return renamed(path, kind.read(path), rename)
    except OSError as error:
        raise TableError(f"{path} can't be read: {error.strerror or error}.") from error


def write_table(frame: pd.DataFrame, path: Path | str, *, excel_safe: bool = False) -> None:
    r"""Write a table of jobs, or of results, to a file; whole or not at all.

    Parameters
    ----------
    frame : pandas.DataFrame
        What. Not changed. Except in Parquet, an index that means something becomes columns.
    path : pathlib.Path or str
        Where; the suffix decides as in `read_table`.
    excel_safe : bool, default False
        In CSV and TSV, begin with the byte order mark by which Excel knows UTF-8, and put an apostrophe before
        text that a spreadsheet would take for a formula. Without it, CSV is written verbatim. In
        Excel files text is always text.

    Raises
    ------
    TableError
        If the format is not known or can't hold the table, or the file can't be written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "jobs.csv"
    >>> write_table(pd.DataFrame({"prompt": ["=1+1"]}), path, excel_safe=True)
    >>> path.read_text(encoding="utf-8")
    "\ufeffprompt\n'=1+1\n"
    """
    path = Path(path_given("path", path)).expanduser()
    kind = _format(path)
    if frame.columns.has_duplicates:
        raise TableError("Several columns share a name. Rename or drop all but one of each before writing.")
    if not path.parent.is_dir():
        raise TableError(
            f"There is no folder {path.parent.absolute()} to write {path.name} to. Make it first."
        )
    is_marked = excel_safe and path.suffix.lower() in _DELIMITED
    if is_marked:
        frame = safe_for_spreadsheets(with_index_as_columns(frame))
    try:
        with replacing(path) as temporary:
            kind.write(frame, temporary)
            if is_marked:
                temporary.write_bytes(codecs.BOM_UTF8 + temporary.read_bytes())
    except OSError as error:
        raise TableError(f"{path} can't be written: {error.strerror or error}.") from error


def _format(path: Path) -> _Format:
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise TableError(
            f"The format of {path.name!r} is not known by its suffix {path.suffix!r}. Known are "
            f"{', '.join(_FORMATS)}; save the table as one of these."
        )
    return kind


def renamed(path: Path, table: pd.DataFrame, rename: Mapping[str, str] | None) -> pd.DataFrame:
    """Give columns of a file other names; raise TableError for one that isn't there."""
    absent = [name for name in rename or () if name not in table.columns]
    if absent:
        raise TableError(
            f"{path} has no column {absent[0]!r} to rename; it has: {', '.join(map(str, table.columns))}."
        )
    return table.rename(columns=dict(rename)) if rename else table


def _delimited(separator: str) -> _Format:
    return _Format(
        lambda path: restored(read_delimited(path, None), guessed),
        lambda frame, path: write_delimited(_flat(frame), path, separator),
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        # Opened by Arrow: its threads may still let go of a Python file's buffers while the interpreter ends.
        with pa.OSFile(str(path)) as file:
            frame = pd.read_parquet(file)
    except pa.ArrowException as error:
        raise TableError(f"{path} is no Parquet file that can be read: {error}") from None
    # Other programs write times and categories in their own way.
    return restored(frame, lambda series: series) if is_result(frame) else frame


def _write_parquet(frame: pd.DataFrame, path: Path) -> None:
    stored, changed = storable(frame)
    if changed:
        warnings.warn(f"Stored as text, since Parquet can't hold it: {', '.join(changed)}.", stacklevel=3)
    stored.to_parquet(path)


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    return as_text(with_index_as_columns(frame))


_DELIMITED: Final = {".csv": _delimited(","), ".tsv": _delimited("\t"), ".txt": _delimited("\t")}
_JSON: Final = _Format(
    lambda path: restored(read_json_lines(path), typed),
    lambda frame, path: write_json_lines(_flat(frame), path),
)
_JSON_LIST: Final = _Format(
    lambda path: restored(read_json_list(path), typed),
    lambda frame, path: write_json_list(_flat(frame), path),
)
_PARQUET: Final = _Format(_read_parquet, _write_parquet)
_EXCEL: Final = _Format(
    lambda path: restored(read_workbook(path), typed),
    lambda frame, path: write_workbook(_flat(frame), path),
)
_FORMATS: Final = _DELIMITED | {
    ".jsonl": _JSON,
    ".ndjson": _JSON,
    ".json": _JSON_LIST,
    ".parquet": _PARQUET,
    ".xlsx": _EXCEL,
}
