"""Read and write tables: CSV, JSON, Parquet and Excel."""

from __future__ import annotations

import base64
import codecs
import contextlib
import csv
import datetime as dt
import functools
import inspect
import io
import json
import math
import numbers
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from decimal import Decimal
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dreamo_batch import columns, files
from dreamo_batch.appearance import TableOfFile
from dreamo_batch.arguments import check_flag, file_errors, file_path, output_file
from dreamo_batch.errors import TableError, UsageError, warn
from dreamo_batch.images import looks_like, suffix_of
from dreamo_batch.importing import load_extra
from dreamo_batch.jobs import cells
from dreamo_batch.jobs.fields import Table, check_pandas, convert_to_frame, dtype_of, input_named, is_result
from dreamo_batch.jobs.rules import which_rows
from dreamo_batch.money import exact_text
from dreamo_batch.text import counted, did_you_mean, option, quoted, type_of, wording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dreamo_batch.jobs.cells import Integers

_DELIMITED: Final = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_JSON_LINES: Final = (".jsonl", ".ndjson")
_SUFFIXES: Final = (*_DELIMITED, *_JSON_LINES, ".json", ".parquet", ".xlsx")


def read_table(
    path: Path | str,
    *,
    sep: str | None = None,
    decimal: Literal[".", ","] | None = None,
    encoding: str | None = None,
    rename: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    r"""Read a table of jobs, or of results, from a file.

    Parameters
    ----------
    path : pathlib.Path or str
        By suffix: ``.csv``, ``.tsv`` and ``.txt`` (names in the first line), ``.jsonl`` or ``.ndjson`` (one
        object per line), ``.json`` (also a list), ``.parquet``, ``.xlsx`` (first sheet). ``~`` is the user's home.
    sep : str, optional
        The separator in CSV, TSV and text files, one character; default: detected in the first line.
    decimal : {".", ","}, optional
        The decimal mark in CSV, TSV and text files; default: detected.
    encoding : str, optional
        The encoding of CSV, TSV, text and JSON files, such as ``"gb18030"`` for what Excel saves as CSV in China;
        default: UTF-8. A mark of UTF-8 or UTF-16 at its beginning overrides either.
    rename : mapping of str to str, optional
        New names of columns by their names in the file, all at once: names may be swapped.

    Returns
    -------
    pandas.DataFrame
        Inputs and outputs with the dtypes of `columns.INPUTS` and `columns.OUTPUTS`: error codes keep their
        zeros, seeds stay integers. An input column with an unreadable cell stays text, for `validate` to report.
        Empty cells are missing; except in prompt, `image` and the user's own columns, so are ``NA``, ``NaN``, ``<NA>``
        and ``NULL``. In CSV the types of the user's own columns are guessed, and identifiers such as ``007`` stay text;
        Parquet columns come back as stored. Problems of the table as it was read name lines of the file.

    Raises
    ------
    TableError
        If the file doesn't exist or can't be read, its format is unknown, it has no column that `rename` names, or two
        columns would mean the same after renaming.
    UsageError
        If `sep` isn't one character, Python has no such encoding, a new name isn't text, or the package for Excel files
        isn't installed (extra `excel`).

    Warns
    -----
    UserWarning
        If blank rows are skipped.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "jobs.csv"
    >>> _ = path.write_text("image,prompt,seed\ncat.png,a cat,42.5\n")
    >>> read_table(path)["seed"].tolist()
    ['42.5']
    """
    check_pandas()
    path = file_path("path", path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise TableError(
            f"Unknown format of {path.name!r}, by its suffix {path.suffix!r}. Use one of {', '.join(_SUFFIXES)}. "
            "Unpack compressed files; save other tables as .csv or .xlsx."
        )
    if sep is not None and not (isinstance(sep, str) and len(sep) == 1):
        raise UsageError(f"{wording('sep', '--delimiter')} must be one character, not {quoted(sep)}")
    if decimal is not None and not (isinstance(decimal, str) and decimal in (".", ",")):
        raise UsageError(f"{wording('decimal', '--decimal')} must be '.' or ',', not {quoted(decimal)}")
    if not isinstance(rename, Mapping | None):
        raise UsageError(f"rename must map names in the file to new ones, not be {type_of(rename)}.")
    with file_errors(TableError, path, "read"):
        if not path.exists():
            raise TableError(f"No file at {path.absolute()}. Check the path.")
        if not path.is_file():  # a pipe might block forever
            raise TableError(
                f"{path} is a {'folder' if path.is_dir() else 'pipe or a device'}. Pass a table's file; use "
                f"{wording('load()', '`dreamo-batch results`')} to read a run directory."
            )
        if suffix == ".parquet":
            return _renamed(path, _read_parquet(path), rename)
        if suffix in _DELIMITED:
            table, lines = _read_delimited(path, sep, decimal, encoding)
        else:
            table, lines = _read_workbook(path) if suffix == ".xlsx" else _read_json(path, encoding)
    table = _restored(_renamed(path, table, rename), cells.guessed if suffix in _DELIMITED else cells.typed)
    return TableOfFile.of(table, lines=pd.Series(lines or pd.NA, table.index, dtype=columns.INT))


def write_table(frame: Table, path: Path | str, *, excel_safe: bool = False) -> None:
    r"""Write a table of jobs, or of results, to a file, completely or not at all.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table; not changed. Except in Parquet, an index other than row numbers becomes columns.
    path : pathlib.Path or str
        The file; its suffix decides the format, as in `read_table`.
    excel_safe : bool, default False
        In CSV and TSV, begin with the byte order mark by which Excel recognises UTF-8, and put an apostrophe before
        text that a spreadsheet would read as a formula; `read_table` takes both away. Without it, CSV is written
        verbatim. In Excel files, text is always text.

    Raises
    ------
    TableError
        If the format is unknown or can't store the table, or the file can't be written.
    UsageError
        If the package for Excel files isn't installed (extra `excel`).

    Warns
    -----
    UserWarning
        If the format can store some columns only as text.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "jobs.csv"
    >>> write_table(pd.DataFrame({"prompt": ["=1+1"]}), path, excel_safe=True)
    >>> path.read_text(encoding="utf-8")
    "\ufeffprompt\n'=1+1\n"
    """
    path, frame = output_file("path", path, _SUFFIXES, TableError), convert_to_frame(frame)
    suffix = path.suffix.lower()
    check_flag("excel_safe", excel_safe)
    if not isinstance(frame, pd.DataFrame):
        raise TableError(f"frame must be a DataFrame, not {type_of(frame)}.")
    if frame.columns.has_duplicates:
        raise TableError("Several columns share a name. Rename or drop all but one of each before writing.")
    with file_errors(TableError, path, "written"):
        files.replace(path, lambda temporary: _write(frame, temporary, suffix, excel_safe=excel_safe))


def content_of(frame: pd.DataFrame, name: str, *, excel_safe: bool = False) -> bytes:
    """Return what a file of that name would contain."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write_table(frame, path, excel_safe=excel_safe)
        return path.read_bytes()


def _write(frame: pd.DataFrame, path: Path, suffix: str, *, excel_safe: bool) -> None:
    if suffix == ".parquet":
        stored, changed = storable(frame)
        if changed:
            warn(f"Stored as text, because Parquet can't: {', '.join(changed)}.")
        if isinstance(sample := frame.attrs.get(columns.SAMPLE), dict):
            stored.attrs = {columns.SAMPLE: json.loads(json.dumps(sample, default=str))}
        stored.to_parquet(path, engine="pyarrow")
        return
    frame = with_index_as_columns(frame)
    names = ("" if cells.is_missing(name) else cells.text_of(name) for name in frame.columns)
    frame = frame.set_axis(pd.Index(_unique([name or "unnamed" for name in names]), dtype=object), axis=1)
    frame = _without_pictures(frame, is_flat=suffix in (*_DELIMITED, ".xlsx"))
    if suffix in _DELIMITED:
        frame = _safe_for_spreadsheets(frame) if excel_safe else frame
        _write_delimited(frame, path, _DELIMITED[suffix], encoding="utf-8-sig" if excel_safe else "utf-8")
    elif suffix == ".xlsx":
        _write_workbook(frame, path)
    else:
        _write_json(frame, path, is_list=suffix == ".json")


def _renamed(path: Path, table: pd.DataFrame, rename: Mapping[str, str] | None) -> pd.DataFrame:
    """Rename columns, all at once, so that names may be swapped; each name must still mean one column."""
    new_names = dict(rename or {})
    for column, name in new_names.items():
        if column not in table.columns:
            raise TableError(f"{path}: no column {column!r} to rename; {did_you_mean(column, table.columns)}")
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"rename: the new name of column {column!r} must be text, not {name!r}.")
    first: dict[str, Any] = {}
    for old in table.columns:
        new = new_names.get(old, old)
        meaning = input_named(new) or new if isinstance(new, str) else new
        if (other := first.setdefault(meaning, old)) != old and not {old, other}.isdisjoint(new_names):
            raise TableError(
                f"{path}: after renaming, columns {other!r} and {old!r} would both mean {meaning!r}. Choose another "
                "name, or drop one of them from the file."
            )
    return table.rename(columns=new_names) if new_names else table


def is_counting(index: pd.Index) -> bool:
    """Return whether labels are only the numbers of rows."""
    return index.nlevels == 1 and index.name is None and index.equals(pd.RangeIndex(len(index)))


def with_index_as_columns(frame: pd.DataFrame, further_names: Iterable[str] = ()) -> pd.DataFrame:
    """Turn an index other than row numbers into columns; `_index` is appended to a level whose name is taken."""
    index = frame.index
    if is_counting(index):
        return frame.reset_index(drop=True)
    if index.nlevels == 1 and index.dtype == object:
        shown = [cells.printable(label) if isinstance(label, str) else label for label in index]
        frame = frame.set_axis(pd.Index(shown, dtype=object, name=index.name, tupleize_cols=False), axis=0)
    taken, names = {*frame.columns, *map(str, frame.columns), *further_names}, []
    for number, name in enumerate(index.names):
        free = name if name is not None else "index" if index.nlevels == 1 else f"level_{number}"
        free = cells.printable(free) if isinstance(free, str) else free
        while free in taken or str(free) in taken:
            free = f"{free}_index"
        taken |= {free, str(free)}
        names.append(free)
    return frame.reset_index(names=names)


def _may_hold_text(series: pd.Series) -> bool:
    return series.dtype == object or isinstance(series.dtype, (pd.StringDtype, pd.CategoricalDtype))


def _with(frame: pd.DataFrame, series: dict[Any, pd.Series]) -> pd.DataFrame:
    copy = frame.copy(deep=False)
    for name, column in series.items():
        copy[name] = column
    return copy


_MEDIA_TYPES: Final = {".jpg": "image/jpeg", ".png": "image/png", ".bin": "application/octet-stream"}
_LOST: Final = (Image.Image, io.IOBase)
_ANY: Final = (np.dtypes.ObjectDType, pd.ArrowDtype)  # dtypes whose cells may be bytes, lists or pictures
_WRITABLE: Final = (numbers.Number, np.generic, dt.date, dt.time, dt.timedelta, dict)  # others as text


def _without_pictures(frame: pd.DataFrame, *, is_flat: bool) -> pd.DataFrame:
    """Replace pictures in memory by text: bytes by `data:` URIs, PIL images and arrays by a description."""
    in_memory = [name for name in frame.columns if isinstance(frame[name].dtype, _ANY)]
    if lost := [str(name) for name in in_memory if any(map(_is_lost, frame[name]))]:
        warn(
            f"PIL images, arrays or files in {', '.join(lost)} are written only as a description. Save them first."
        )
    # By default pandas would make columns of str, which can't hold half characters.
    as_text = (lambda cell: _list_as_text(_as_text(cell))) if is_flat else _as_text
    series = {name: pd.Series(list(map(as_text, frame[name])), frame.index, object) for name in in_memory}
    return _with(frame, series)


def _is_lost(cell: Any) -> bool:
    return (
        _is_shallow(cell) and any(map(_is_lost, cell))
        if isinstance(cell, list | tuple)
        else isinstance(cells.unwrapped(cell), _LOST)
    )


def _list_as_text(cell: Any) -> Any:
    """Write a list as JSON, from which it can be read back."""
    return json.dumps(plain(cell), ensure_ascii=False, default=cells.text_of) if _is_list(cell) else cell


def _is_list(cell: Any) -> bool:
    return isinstance(cell, list | tuple) or (isinstance(cell, np.ndarray) and cell.ndim > 0)


def _as_text(cell: Any) -> Any:
    cell = cells.unwrapped(cell)
    if _is_list(cell) and _is_shallow(cell):
        return [_as_text(item) for item in cell]
    if isinstance(cell, Image.Image):
        return f"<PIL image {cell.mode} {cell.width}x{cell.height}>"
    if isinstance(cell, bytes | bytearray | memoryview):
        content = bytes(cell)
        return f"data:{_MEDIA_TYPES[suffix_of(content)]};base64,{base64.b64encode(content).decode('ascii')}"
    if cells.is_missing(cell):  # pandas fails on a signalling NaN
        return None
    return cell if isinstance(cell, _WRITABLE) and _is_shallow(cell) else cells.text_of(cell)


# Input columns whose cells may be lists.
_LISTED: Final = (columns.IMAGE, *columns.IMAGE_ALIASES, *columns.IMAGE_NUMBERED, columns.REF_TYPE)

# A table, and the line of its file where each row begins.
_Read: TypeAlias = tuple[pd.DataFrame, list[int]]


_MARKS: Final = {codecs.BOM_UTF8: "UTF-8", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def decoded(path: Path, content: bytes, encoding: str | None = None, *, or_else: str = "") -> str:
    """Decode a text file by its byte order mark, else in the encoding that was passed, else as UTF-8."""
    marked = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
    own = encoding if content.startswith(codecs.BOM_UTF32_LE) else None  # which begins like UTF-16
    named = own or marked or encoding or "UTF-8"
    try:
        text = content.decode(named).removeprefix("\ufeff")
        # Every other byte is zero in UTF-16 and UTF-32.
        at = content.index(b"\0") if "\0" in text[:2] else None
    except UnicodeDecodeError as error:
        at = error.start
    except (LookupError, TypeError, ValueError):
        raise UsageError(f"{option('encoding', encoding)}: Python knows no such encoding.") from None
    if at is None:
        return text
    n_line = content.count(b"\n", 0, at) + 1
    raise TableError(
        f"{path} is not {named} text{looks_like(content)}: line {n_line} contains the byte 0x{content[at]:02x}. "
        f'Save it as UTF-8 (in Excel: "CSV UTF-8"; in Python: encoding="utf-8"){or_else}.'
    )


def _decoded(path: Path, content: bytes, encoding: str | None) -> str:
    advice = f", or pass {wording('encoding=', '--encoding')}, such as gb18030 for Chinese"
    return decoded(path, content, encoding, or_else="" if encoding else advice)


# Separated values

_SEPARATORS: Final = (",", ";", "\t", "|")
_SEP_LINE: Final = re.compile(r'"?sep=(.)"?(?:\r\n|\n|\r)', re.IGNORECASE)  # Excel's own first line
_RULED: Final = re.compile(rb"(?:[^\n]*\n)?[ |:+-]*--[ |:+-]*\r?\n")  # a line of dashes, as in Markdown
_NUMBER: Final = r"[+-]?(?:[1-9]\d{0,2}(?:\.\d{3})+|\d+)(?:,\d+)?"  # with a decimal comma
_THOUSANDS: Final = r"[+-]?[1-9]\d{0,2}(?:[.,]\d{3})+"  # or decimals
_DECIMALS: Final = r"[+-]?(?:\d+%s(?:\d{1,2}|\d{4,})|(?:0\d*|\d{4,})%s\d+)"
# What a spreadsheet would read as a formula, also after apostrophes; one is added on writing and removed on reading.
_GUARD: Final = re.compile(r"^'(?='*[=+\-@\t\r])")
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_PICTURE: Final = re.compile(r"(?i)^\W?(?:https?|data):|\.(?:png|jpe?g|webp|gif|bmp|tiff?|avif|heic)\W?$")
_IF_TITLE: Final = "If {} is a title, delete it. "
_QUOTING: Final = (
    'Put straight quotes (") right around text with a separator (, ; | tab), quote or line break; double those inside: '
    '"a ""big"" cat, asleep".'
)


def _read_delimited(path: Path, separator: str | None, decimal: str | None, encoding: str | None) -> _Read:
    """Read separated values as text, changing only decimal commas; also return the line where each row begins."""
    if guess := looks_like(content := path.read_bytes()) or (_RULED.match(content) and " (it is drawn)"):
        raise TableError(f"{path} isn't CSV{guess}. Unpack it, name it after its format, or export a CSV.")
    text = _decoded(path, content, encoding)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may hold a picture
    first_line = 1
    if (sep_line := _SEP_LINE.match(text)) is not None:
        separator, text, first_line = separator or sep_line[1], text[sep_line.end() :], 2
    separator = separator or _found_separator(text)
    rows = _rows(path, text, separator, first_line)
    if content.startswith(codecs.BOM_UTF8):  # as written with `excel_safe`
        rows = ((line, [cell and _GUARD.sub("", cell) for cell in row]) for line, row in rows)
    table, lines = _with_header(path, _without_blank_rows(path, rows, "line"), columns.STR)
    decimal = decimal or _found_decimal(path, table, separator)
    return _with_points(table) if decimal == "," else table, lines


def _found_decimal(path: Path, table: pd.DataFrame, separator: str) -> str:
    """Return the decimal mark that a cell proves; if none does, refuse seeds and sizes that could be in thousands."""
    numbers = [table[name] for name in table.columns if input_named(name) not in _AS_WRITTEN]

    def has_any(pattern: str) -> bool:
        return any(column.str.fullmatch(pattern, na=False).any() for column in numbers)

    if separator == "," or has_any(_DECIMALS % (r"\.", r"\.")):
        return "."  # English programs separate with commas, others use them as decimal marks
    if has_any(_DECIMALS % (",", ",")):
        return ","
    for column in (number for number in numbers if input_named(number.name) in _TYPED_INPUTS):
        for cell in column[column.str.fullmatch(_THOUSANDS, na=False)]:
            raise TableError(
                f"{path}, column {column.name!r}: {cell!r} may mean thousands or decimals. Write whole numbers without "
                f"points and commas, or pass {wording('decimal=', '--decimal')}."
            )
    return "."


def _found_separator(text: str) -> str:
    """Return the character that splits the first line into the most known names, or else into the most names."""
    first = (re.search(r"[^\r\n]*\S[^\r\n]*", text) or [""])[0]

    def n_names(separator: str) -> tuple[int, int]:
        names = next(csv.reader([first], delimiter=separator), [])
        return sum(input_named(name) is not None for name in names), len(names)

    return max(_SEPARATORS, key=n_names)


def _rows(path: Path, text: str, separator: str, first_line: int) -> Iterator[tuple[int, list[str | None]]]:
    """Yield the line and the cells of each row; refuse rows with too many cells: any reading would be a guess."""
    n_names, title = 0, ""
    short: list[int] = []
    for line, row in _records(path, text, separator, first_line):
        if n_names == 0 and _has_text(row):
            n_names, title = len(row), _IF_TITLE.format(quoted(row[0])) if len(row) == 1 else ""
        if 0 < len(row) < n_names and _has_text(row):
            short.append(line)
        row.extend([""] * (n_names - len(row)))
        yield line, [cell or None for cell in row]
        if len(row) > n_names > 0:  # unless the caller had a more specific reason to refuse this row
            raise TableError(
                f"{path}, line {line} has {counted(len(row), 'cell')}, but the first line names "
                f"{counted(n_names, 'column')}, separated by {separator!r}. {title}{_QUOTING}"
            )
    if short:
        warn(
            f"{path}: {counted(len(short), 'row')} with fewer cells than the first line has names; the last cells are "
            f"taken as empty ({_places('line', short)}). Was the file cut off?"
        )


def _records(path: Path, text: str, separator: str, line: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the cells of each row (none for a blank row); refuse broken quotes."""
    source = (one for one in io.StringIO(text, newline=""))
    lines = csv.reader(source, delimiter=separator, strict=True)
    begun, names = line, list[str]()
    try:
        for row in lines:
            names, last = names or row, line + lines.line_num - 1
            if last > begun and _holds_rows(row, names, separator):
                raise TableError(
                    f"{path}, lines {begun} to {last}: a quote opened in one row is closed in another. {_QUOTING}"
                )
            yield begun, row
            begun = last + 1
    except csv.Error:
        last = line + lines.line_num - 1
        where = f"line {begun}" if last == begun else f"lines {begun} to {last}"
        is_open = inspect.getgeneratorstate(source) == inspect.GEN_CLOSED  # it looked for one more line
        what = "a quote is opened but never closed" if is_open else "text follows a closing quote"
        raise TableError(f"{path}, {where}: {what}. {_QUOTING}") from None


def _holds_rows(row: list[str], names: list[str], separator: str) -> bool:
    """Return whether a quoted cell, split as text, would complete its row and begin another one with a picture."""
    pictures = [place for place, name in enumerate(names) if input_named(name) in _LISTED]
    for place, cell in enumerate(row):
        first, *others = (line.split(separator) for line in re.split(r"\r\n|\r|\n", cell))
        if others and place + len(first) == len(names):
            others[-1] += row[place + 1 :]
            whole = [row for row in others if len(row) == len(names)]
            if any(_PICTURE.search(row[at].strip()) for row in whole for at in pictures):
                return True
    return False


def _without_blank_rows(
    path: Path, rows: Iterable[tuple[int, list[Any]]], unit: Literal["line", "row"]
) -> dict[int, list[Any]]:
    """Return the rows that aren't blank by their numbers; warn about blank ones between them."""
    kept: dict[int, list[Any]] = {}
    blank: list[int] = []
    for number, row in rows:
        if _has_text(row):
            kept[number] = row
        elif kept:
            blank.append(number)
    if not kept:
        part = "" if unit == "line" else ": the first sheet"
        raise TableError(f"{path}{part} is empty. Its first {unit} must name the columns.")
    last = max(kept)
    if between := [number for number in blank if number < last]:
        warn(f"{path}: skipped {counted(len(between), 'blank row')} ({_places(unit, between)}).")
    return kept


def _places(unit: str, numbers: list[int]) -> str:
    return f"{unit}{'' if len(numbers) == 1 else 's'} {which_rows(list(map(str, numbers)), numbers)}"


def _has_text(row: list[Any]) -> bool:
    for cell in row:  # noqa: SIM110 - a third of the time that any() takes
        if cell is not None and str(cell).strip():
            return True
    return False


def _with_header(path: Path, numbered: dict[int, list[Any]], dtype: str) -> _Read:
    """Use the first row as the column names; also return the numbers of the other rows."""
    (_, *lines), (header, *rows) = numbered, numbered.values()
    names = [None if cells.is_missing(name) else str(name) for name in header]
    frame = pd.DataFrame(rows, columns=range(len(names)), dtype=dtype)
    named = [number for number, name in enumerate(names) if name is not None]
    nameless = [number for number in frame if names[number] is None and frame[number].notna().any()]
    if nameless and nameless != [0]:
        title = _IF_TITLE.format(quoted(names[named[0]])) if len(named) == 1 else ""
        raise TableError(
            f"{path}: column {nameless[-1] + 1} has cells but no name. {title}Name the column in the first line."
        )
    table = frame[named].set_axis(pd.Index([names[number] for number in named], dtype=object), axis=1)
    doubled = list(dict.fromkeys(table.columns[table.columns.duplicated()]))
    if doubled:
        raise TableError(
            f"{path}: several columns are named {', '.join(map(repr, doubled))}. Rename or drop all but one of each."
        )
    if nameless:
        index = pd.Index(cells.guessed(frame[0])).rename(None)  # a first column without a name: pandas' index
        table = table if index.equals(table.index) else table.set_axis(index)
    return table, lines


def _with_points(table: pd.DataFrame) -> pd.DataFrame:
    """Replace decimal commas by points in columns of numbers, and drop the points that separate thousands."""
    changed = {
        name: table[name].str.replace(".", "").str.replace(",", ".")
        for name in table.columns
        if table[name].dropna().str.fullmatch(_NUMBER).all()
        and table[name].notna().any()
        and input_named(name) not in _AS_WRITTEN
    }
    return table.assign(**changed) if changed else table


def _write_delimited(frame: pd.DataFrame, path: Path, separator: str, encoding: str) -> None:
    texts = (frame[name] for name in frame.columns if _may_hold_text(frame[name]))
    has_return = any("\r" in cell for text in texts for cell in text if isinstance(cell, str))
    # pandas quotes a lone carriage return only if the line terminator contains one.
    line_end = "\r\n" if has_return else "\n"
    frame.to_csv(path, sep=separator, index=False, lineterminator=line_end, encoding=encoding)


def _safe_for_spreadsheets(frame: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before text that a spreadsheet would read as a formula."""

    def escaped(cell: Any) -> Any:
        return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell

    changed = {name: frame[name].map(escaped) for name in frame.columns if _may_hold_text(frame[name])}
    return _with(frame, changed).rename(columns=escaped)


# JSON

_OBJECT: Final = re.compile(r"\s*\{.*\}\s*")
_EXAMPLE: Final = '{"image": "cat.png", "prompt": "a cat"}'


def _read_json(path: Path, encoding: str | None) -> _Read:
    text, lines = _decoded(path, path.read_bytes(), encoding), list[int]()
    written = {number: line for number, line in enumerate(text.split("\n"), start=1) if line.strip()}
    are_objects = len(written) > 1 and all(map(_OBJECT.fullmatch, written.values()))
    if path.suffix.lower() in _JSON_LINES or are_objects:
        records = [_record(f"{path}: line {number}", line) for number, line in written.items()]
        lines = list(written)
    else:
        hint = "JSON has no comments and no comma after the last item; JSON Lines have one object per line."
        records = _parsed(text, str(path), hint)
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise TableError(
                f'{path}: expected a list of objects, such as [{_EXAMPLE}], by pandas written with orient="records". '
                "Take a list out of the object around it; pandas.json_normalize flattens nested objects."
            )
    names = dict.fromkeys(name for record in records for name in record)
    if torn := [name for name in names if cells.printable(name) != name]:
        raise TableError(f"{path}: column {torn[0]!r} has half a character in its name. Rename it.")
    table = {
        name: [math.nan if cells.is_missing(cell := record.get(name)) else cell for record in records]
        for name in names
    }
    return pd.DataFrame(table, pd.RangeIndex(len(records)), dtype=object), lines


def _record(place: str, line: str) -> dict[str, Any]:
    record = _parsed(line, place, f"Each line must be one object, such as {_EXAMPLE}.")
    if not isinstance(record, dict):
        raise TableError(f"{place} is {type_of(record)}; expected an object such as {_EXAMPLE}.")
    return record


def _parsed(text: str, place: str, hint: str) -> Any:
    """Parse JSON; refuse objects that repeat a name, of which a parser would keep only the last value."""

    def record_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            names = [name for name, _ in pairs]
            doubled = next(name for name in names if names.count(name) > 1)
            raise TableError(f"{place}: an object has several values named {doubled!r}. Keep one.")
        return record

    try:
        return json.loads(text, object_pairs_hook=record_of)
    except TableError:
        raise
    except (ValueError, RecursionError) as error:
        raise TableError(f"{place} is not JSON ({error}). {hint}") from None


def _write_json(frame: pd.DataFrame, path: Path, *, is_list: bool) -> None:
    """Write one object per line: numbers exact, times as ISO 8601, missing as null."""
    listed = {str(name): frame[name].tolist() for name in frame.columns}
    lines = (
        json.dumps(dict(zip(listed, map(plain, row), strict=True)), ensure_ascii=False, default=cells.text_of)
        for row in zip(*listed.values(), strict=True)
    )
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        if is_list:
            file.write("[\n" + ",\n".join(lines) + "\n]\n")
        else:
            file.writelines(f"{line}\n" for line in lines)


def plain(cell: Any) -> Any:
    """Return a cell as a JSON value; anything JSON can't express stays as it is, and is written as text."""
    if cells.is_missing(cell):
        return None
    if isinstance(cell, np.generic):
        return str(cell) if cell.dtype.char in "mMgG" else plain(cell.item())  # times become numbers, too
    if _is_list(cell):
        return [plain(item) for item in cell]
    if isinstance(cell, dict):
        return {str(name): plain(item) for name, item in cell.items()}
    if isinstance(cell, float) and not math.isfinite(cell):
        return str(cell)
    return cell.isoformat() if isinstance(cell, pd.Timestamp) else cell


# Excel

# Excel keeps 15 digits of a number; longer ones are written as text.
_EXACT_END: Final = 10**15
_CELL_CHARACTERS: Final = 32_767
_ROWS: Final = 1_048_575
_ENGINE: Final = "openpyxl"
_INSTALL: Final = "Install it with pip install 'dreamo-batch[excel]', or use CSV."
_TEXT_INPUTS: Final = (columns.PROMPT, columns.MODEL, *_LISTED)
_AS_WRITTEN: Final = (*_TEXT_INPUTS, columns.SIZE)
_WORKBOOK: Final = "xl/workbook.xml"
_PROPERTIES: Final = "docProps/core.xml"
_MADE_AT = re.compile(rb"<dcterms:(created|modified)\b.*?</dcterms:\1>", re.DOTALL)
_CALCULATION_DUE = re.compile(b"fullCalcOnLoad=[\"'](?:1|true)[\"']")
_HIDDEN = re.compile(b"<(?:\\w+:)?(?:row|col) [^>]*\\bhidden=[\"'](?:1|true)[\"'][^>]*>")
_PLACES = re.compile(b"\\b(r|min|max)=[\"']([0-9]+)[\"']")
_ESCAPE = re.compile("_x([0-9A-Fa-f]{4})_")
# What XML can't hold or doesn't preserve, and what would be read as an escape, if only together with one after it.
_NOT_IN_XML: Final = "\x00-\x08\x0b-\x1f\ufffe\uffff"
_TO_ESCAPE = re.compile(f"[{_NOT_IN_XML}]|_(?=x[0-9A-Fa-f]{{4}}[_{_NOT_IN_XML}])")
_HALF = re.compile("[\ud800-\udfff]")


def _read_workbook(path: Path) -> _Read:
    """Read the first sheet of a workbook, and the number of each row."""
    load_extra(_ENGINE, "Excel files need", "excel")
    try:
        rows, hidden = _first_sheet(path)
    except OSError:
        raise
    except ImportError as error:  # pandas needs a newer openpyxl
        raise TableError(f"{path} can't be read here: {error} {_INSTALL}") from None
    except Exception as error:  # noqa: BLE001 - ZIP, XML and openpyxl each have their own errors
        what = f"{looks_like(path.read_bytes())}: {str(error).rstrip('.')}"
        raise TableError(
            f"{path} is not a readable Excel workbook{what}. Save it as .xlsx without a password, or export a CSV."
        ) from None
    if hidden:
        warn(
            f"{path}: hidden in the workbook, but read like the rest: {', '.join(hidden)}. Delete it to leave it out."
        )
    kept = _without_blank_rows(path, enumerate(rows, 1), "row")
    _refuse_faults(path, kept.values())
    return _with_header(path, kept, "object")


class _Fault(str):
    """The placeholder for a cell without a value; it contains the cell's address, for validation to report."""

    __slots__ = ()


def _first_sheet(path: Path) -> tuple[list[list[Any]], list[str]]:
    """Read the rows of the first sheet, and what is hidden."""
    with warnings.catch_warnings(), contextlib.ExitStack() as books:
        warnings.simplefilter("ignore")  # openpyxl warns about styles and drop-downs
        values, formulas = (
            books.enter_context(
                pd.ExcelFile(path, engine=_ENGINE, engine_kwargs={"data_only": only})
            ).book.worksheets[0]
            for only in (True, False)
        )
        for sheet in (values, formulas):
            sheet.reset_dimensions()  # some programs write wrong ones
        archive = books.enter_context(zipfile.ZipFile(path))
        # Some programs write 0 and request a calculation when the file is opened; Excel drops the request on saving.
        is_due = (
            _WORKBOOK in archive.namelist() and _CALCULATION_DUE.search(archive.read(_WORKBOOK)) is not None
        )
        uncalculated = (None, 0) if is_due else (None,)
        sheet_xml = archive.read(values._worksheet_path)  # noqa: SLF001 - there is no public name
        rows = [
            [_cell_value(*cells_, uncalculated) for cells_ in zip(valued, written, strict=True)]
            for valued, written in zip(values.rows, formulas.rows, strict=True)
        ]
        others = [sheet.title for sheet in values.parent.worksheets[1:] if any(map(_has_text, sheet.values))]
    if others:
        warn(
            f"{path}: only the first sheet is read, not {', '.join(map(repr, others))}. Save each as its own file."
        )
    width = max(map(len, rows), default=0)
    rows = [row + [None] * (width - len(row)) for row in rows]
    return rows, _hidden(sheet_xml, values, rows)


def _hidden(xml: bytes, sheet: Any, rows: list[list[Any]]) -> list[str]:
    """Describe which rows (by hand or by a filter) and columns with values are hidden, or that the whole sheet is."""
    first = next((number for number, row in enumerate(rows, 1) if _has_text(row)), 0)
    hidden_rows, hidden_columns = [], []
    for tag in _HIDDEN.findall(xml):
        ends = {name: int(number) for name, number in _PLACES.findall(tag)}
        if b"r" in ends:
            hidden_rows += [ends[b"r"]] if first < ends[b"r"] <= len(rows) else []
        elif first:
            hidden_columns += rows[first - 1][ends.get(b"min", 1) - 1 : ends.get(b"max", 0)]
    hidden_rows = [number for number in hidden_rows if _has_text(rows[number - 1])]
    names = [str(name) for name in hidden_columns if name is not None]
    hidden = [f"the sheet {sheet.title!r}"] if sheet.sheet_state != "visible" else []
    if hidden_rows:
        hidden.append(
            f"{counted(len(hidden_rows), 'row')} ({which_rows(list(map(str, hidden_rows)), hidden_rows)})"
        )
    if names:
        hidden.append(f"{counted(len(names), 'column')} ({', '.join(names)})")
    return hidden


def _cell_value(cell: Any, source: Any, uncalculated: tuple[int | None, ...]) -> Any:
    """Return a cell's value (exact whole numbers as integers, others as floats), or what is wrong with it."""
    value = cell.value
    if cell.data_type == "e":
        return _Fault(f"{value} (cell {cell.coordinate})")
    if source.data_type == "f" and cell.data_type == "n" and value in uncalculated:
        return _Fault(f"formula never calculated (cell {source.coordinate})")
    if isinstance(value, str):
        return _unescaped(value) or None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if abs(value) >= cells.exact_end(float):
        return float(value)
    return int(value) if value == int(value) else value


def _refuse_faults(path: Path, rows: Iterable[list[Any]]) -> None:
    """Refuse cells without a value in the header, in text inputs and in outputs, where any text would be accepted."""
    for name, *below in zip(*rows, strict=True):
        takes_text = input_named(str(name)) in _TEXT_INPUTS or name in columns.OUTPUTS
        for cell in (name, *(below if takes_text else ())):
            if isinstance(cell, _Fault):
                raise TableError(
                    f"{path}: {cell}. Replace it with a value, or open and save the file in a spreadsheet program to "
                    "calculate its formulas."
                )


def _write_workbook(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as a workbook of one sheet, in which text is never a formula or an error."""
    load_extra(_ENGINE, "Excel files need", "excel")
    if len(frame) > _ROWS:
        raise TableError(
            f"{len(frame):,} rows don't fit into a sheet ({_ROWS:,}). Write CSV or Parquet instead."
        )
    holdable = frame.astype(object).apply(
        lambda column: column.map(functools.partial(_sheet_cell, column.name))
    )
    holdable.columns = pd.Index([_sheet_cell(name, name) for name in frame.columns], dtype=object)
    written = io.BytesIO()
    with pd.ExcelWriter(written, engine=_ENGINE) as writer:
        holdable.to_excel(writer, index=False)
        for row in writer.book.active.iter_rows():
            for cell in row:
                if cell.data_type in {"f", "e"}:
                    cell.data_type = "s"
    # Omit the time of writing, so that equal tables make equal files.
    with zipfile.ZipFile(written) as made, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in made.namelist():
            content = made.read(name)
            if name == _PROPERTIES:
                content = _MADE_AT.sub(b"", content)
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def _sheet_cell(name: Any, cell: Any) -> Any:
    if isinstance(cell, np.timedelta64 | np.datetime64 | dt.timedelta) or (
        isinstance(cell, dt.time) and cell.tzinfo is not None
    ):
        return str(cell)
    if isinstance(cell, (int, np.integer)) and not isinstance(cell, bool) and abs(int(cell)) >= _EXACT_END:
        return str(cell)
    if isinstance(cell, dt.datetime) and cell.tzinfo is not None:
        cell = pd.Timestamp(cell).tz_convert("UTC").tz_localize(None)
    if isinstance(cell, dt.date) and cell.year > dt.MAXYEAR:  # pandas has later dates than Excel
        return str(cell)
    if not isinstance(cell, str):
        return cell
    escaped = _TO_ESCAPE.sub(lambda found: f"_x{ord(found[0]):04X}_", _HALF.sub("\ufffd", cell))
    n_characters = len(escaped.encode("utf-16-le")) // 2
    if n_characters > _CELL_CHARACTERS:
        raise TableError(
            f"Column {name!r} has a text of {n_characters:,} characters, as Excel counts them; a cell holds at most "
            f"{_CELL_CHARACTERS:,}. Write CSV or Parquet instead."
        )
    return escaped


def _unescaped(text: str) -> str:
    """Decode `_xHHHH_`, which sheets use for what XML can't hold; halves of a character are joined."""
    plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# Parquet


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        # Opened by Arrow, whose threads may otherwise release a Python file's buffers at interpreter exit.
        with pa.OSFile(str(path)) as file:
            frame = pd.read_parquet(file, engine="pyarrow")
            kinds = {f.name: f.type for f in pq.read_schema(file) if pa.types.is_integer(f.type)}
            # pandas would turn integers with missing cells into floats, and lose digits.
            lossy = [name for name in kinds if name in frame and frame[name].dtype == columns.FLOAT]
            exact = pq.read_table(file, columns=lossy).to_pandas(types_mapper=dtype_of, ignore_metadata=True)
            frame = _with(frame, {name: exact[name].set_axis(frame.index) for name in lossy})
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - Arrow and pandas raise almost anything for odd files
        reason = f"{looks_like(path.read_bytes())}: {str(error).partition(chr(10))[0].rstrip('.')}."
        raise TableError(f"{path} is not a readable Parquet file{reason}") from None
    # Other programs store times and categories differently.
    return _restored(frame, lambda series: series) if is_result(frame) else frame


def storable(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return a table that Parquet can store, tried where a dtype may fail, and the names of what became text."""
    stored, changed = frame.copy(deep=False), []
    for place, (name, given) in enumerate(frame.items()):
        column = _plain_dtype(given)
        is_listed = name == columns.SIZE or (name in _LISTED and holds_text(column))
        if is_listed and not _survives(column):
            column = pd.Series(map(_list_as_text, column), frame.index, dtype=object)
            column = column.astype(columns.STR) if _survives(column) else column
        if not _survives(column):
            texts = [None if cells.is_missing(cell) else cells.text_of(cell) for cell in column]
            column = pd.Series(texts, frame.index, columns.STR)
            changed.append(cells.text_of(name))
        if column is not given:
            stored.isetitem(place, column)
    if not all(isinstance(name, str) and cells.text_of(name) == name for name in frame.columns):
        stored.columns = pd.Index(_unique([cells.text_of(name) for name in frame.columns]), dtype="str")
        changed.append("the names of columns")
    elif isinstance(frame.columns.dtype, pd.CategoricalDtype):  # they can be written, but not read back
        stored.columns = frame.columns.astype("str")
    index = stored.index
    levels = (index.get_level_values(place).rename("") for place in range(index.nlevels))
    if not all(_survives(pd.Series(level, dtype=level.dtype)) for level in levels):
        index = pd.Index([cells.text_of(label) for label in index], dtype="str", name=index.name)
        changed.append("the index")
    stored.index = index.set_names([None if name is None else cells.text_of(name) for name in index.names])
    stored.attrs = {}  # Parquet stores attributes as JSON, and users' attributes may be anything
    return stored, changed


def holds_text(column: pd.Series) -> bool:
    """Return whether a column holds only text and lists of text."""
    listed = zip(column, map(cells.items_of, column), strict=True)
    items = chain.from_iterable([cell] if several is None else several for cell, several in listed)
    return all(isinstance(item, str | os.PathLike) or cells.is_missing(item) for item in items)


def _unique(names: list[str]) -> list[str]:
    """Distinguish names that are equal as text, such as 1 and "1"."""
    taken: dict[str, None] = {}
    for name in names:
        free = (f"{name}.{number}" if number else name for number in count())
        taken[next(name for name in free if name not in taken)] = None
    return list(taken)


def _plain_dtype(series: pd.Series) -> pd.Series:
    """Convert a column to one of pandas' own dtypes, which survive being written and read."""
    if isinstance(series.dtype, pd.SparseDtype):
        return series.sparse.to_dense()
    if isinstance(series.dtype, pd.ArrowDtype):
        kind = series.dtype.pyarrow_dtype
        return series if pa.types.is_primitive(kind) or pa.types.is_string(kind) else series.astype(object)
    return series


_SURVIVING: Final = re.compile(r"bool(ean)?|u?int\d+|Int64|float(32|64)|Float64|datetime64\[us, UTC\]")


def _survives(series: pd.Series) -> bool:
    """Return whether a column can be written to Parquet and read again."""
    dtype = series.dtype
    text = dtype.categories.dtype if isinstance(dtype, pd.CategoricalDtype) else dtype
    is_arrow_text = isinstance(text, pd.StringDtype) and text.storage == "pyarrow"  # has no half characters
    if is_arrow_text or _SURVIVING.fullmatch(str(dtype)):
        return True
    frame = series.rename("values").reset_index(drop=True).to_frame()
    frame.attrs = {}
    file = io.BytesIO()
    try:
        if pd.api.types.is_object_dtype(dtype) and not all(map(_is_shallow, series)):
            return False  # Arrow would crash the process
        pq.write_table(pa.Table.from_pandas(frame), file)
        file.seek(0)
        pq.read_table(file).to_pandas()
    except Exception:  # noqa: BLE001 - whatever pandas or Arrow raises, the column can't be stored as it is
        return False
    return True


def _is_shallow(cell: Any, levels: int = 50) -> bool:
    """Return whether nested lists end within some levels; a list that contains itself never does."""
    within = list(cell.values()) if isinstance(cell, dict) else cell
    if not isinstance(within, list | tuple) and getattr(getattr(within, "dtype", None), "kind", "") != "O":
        return True
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in within)


# Dtypes

# Upper bounds of numbers of each unit since 1970, up to the year 5138.
_EPOCHS: Final = {"s": 1e11, "ms": 1e14, "us": 1e17}
# How R, pandas and SQL write a missing value.
_MISSING: Final = frozenset({"NA", "NaN", "nan", "<NA>", "NULL"})
_NEEDED: Final = (columns.PROMPT, columns.IMAGE, *columns.IMAGE_ALIASES)  # required in every row
_TYPED_INPUTS: Final = (columns.SEED, columns.WIDTH, columns.HEIGHT, columns.REPLICATE, columns.USE_REPHRASER)


def _restored(frame: pd.DataFrame, own: Callable[[pd.Series], pd.Series]) -> pd.DataFrame:
    """Convert inputs and outputs to their dtypes, and the user's own columns with `own`."""
    outputs = columns.OUTPUTS if is_result(frame) else {}
    series = {}
    for name, column in frame.items():
        meaning = input_named(name) if isinstance(name, str) else None
        if (name in outputs or meaning not in (None, *_NEEDED)) and column.dtype.kind == "O":
            is_missing = [isinstance(cell, str) and cell in _MISSING for cell in column.tolist()]
            column = column.mask(is_missing) if any(is_missing) else column  # noqa: PLW2901
        if name in outputs:
            series[name] = _output(str(name), outputs[str(name)].dtype, column)
        elif meaning in _TYPED_INPUTS:
            read, converted = _converted(columns.INPUTS[meaning].dtype, column)
            series[name] = column if read.is_faulty.any() else converted
        else:
            try:
                series[name] = column.infer_objects() if meaning in _AS_WRITTEN else own(column)
            except UnicodeEncodeError:  # half a character, for `validate` to report
                series[name] = column
    return pd.DataFrame(series, index=frame.index)


def restore_output_dtypes(table: pd.DataFrame) -> pd.DataFrame:
    """Convert output columns back to their dtypes, after JSON, SQL or another program changed them."""
    outputs = [(name, table[name], columns.OUTPUTS[name].dtype) for name in columns.OUTPUTS if name in table]
    restored = {
        name: _output(name, dtype, column) for name, column, dtype in outputs if column.dtype != dtype
    }
    return table.assign(**restored) if restored else table


def restore_input_dtype(name: str, column: pd.Series) -> pd.Series:
    """Convert an input of numbers or booleans to its dtype; cells that can't be read are missing."""
    return _converted(columns.INPUTS[name].dtype, column)[1]


def _converted(dtype: str, column: pd.Series) -> tuple[Integers, pd.Series]:
    """Convert to `Int64` or `boolean`; also return what was read."""
    read = (cells.booleans if dtype == columns.BOOL else cells.integers)(column)
    return read, pd.Series(read.numbers, column.index).astype(dtype).where(read.is_given)


def _times(series: pd.Series) -> pd.Series:
    """Parse times, in UTC unless they say otherwise; numbers count from 1970, as `DataFrame.to_json` writes them."""
    texts = pd.to_datetime(series, utc=True, format="ISO8601", errors="coerce").astype(columns.TIME)
    numbers = pd.to_numeric(series.where(texts.isna()).astype(object), errors="coerce")
    unit = next((unit for unit, most in _EPOCHS.items() if numbers.max() < most), "ns")
    return texts.fillna(pd.to_datetime(numbers, unit=unit, utc=True).astype(columns.TIME))


def _text(cell: Any) -> str | None:
    """Return a cell as text; a number that was text once, such as 1 for "1", in its exact form."""
    if cells.is_missing(cell):
        return None
    return exact_text(Decimal(str(cell))) if isinstance(cell, float) and math.isfinite(cell) else str(cell)


def _output(name: str, dtype: str, series: pd.Series) -> pd.Series:
    if dtype in (columns.INT, columns.BOOL):
        _, restored = _converted(dtype, series)
    elif dtype == columns.FLOAT:
        restored = pd.to_numeric(series.astype(object), errors="coerce").astype(columns.FLOAT)
    elif dtype == columns.TIME:
        restored = _times(series)
    elif dtype == columns.CATEGORY:
        known = series.astype(object).where(series.isin(columns.STATUSES))
        restored = known.astype(pd.CategoricalDtype(list(columns.STATUSES)))
    else:
        return pd.Series(map(_text, series), index=series.index, dtype=columns.STR)
    # Unreadable cells became missing in the conversion; blank cells are allowed to be missing.
    for at in np.flatnonzero(restored.isna() & series.notna()):
        cell = series.iloc[at]
        if not (cells.is_missing(cell) or cells.is_blank(cell)):
            raise TableError(
                f"Column {name!r} of a result can't be read: row {at} contains {cells.show(cell)!r}; expected {dtype}. "
                "Correct the cell, or clear it."
            )
    return restored
