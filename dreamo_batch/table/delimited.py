r"""Read and write CSV and TSV.

Examples
--------
>>> import tempfile
>>> from pathlib import Path
>>> path = Path(tempfile.mkdtemp()) / "jobs.csv"
>>> _ = path.write_text("prompt,code\nNA,007\n")
>>> read_delimited(path, ",").values.tolist()
[['NA', '007']]
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import warnings
from typing import TYPE_CHECKING, Final

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import TableError
from dreamo_batch.table.cells import is_missing
from dreamo_batch.table.guessing import guessed
from dreamo_batch.table.portable import may_hold_text
from dreamo_batch.table.schema import means

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SEPARATORS: Final = (",", ";", "\t", "|")
_SAID: Final = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
_POINT: Final = r"[+-]?\d+\.\d+"
_COMMA: Final = r"[+-]?\d+(?:,\d+)?"
_QUOTING: Final = (
    "Does a text with the separator, a quote or a line break stand there without quotes around it? Write it as "
    '"a cat, sleeping", quotes inside doubled.'
)


def read_delimited(path: Path, separator: str | None, decimal: str | None = None) -> pd.DataFrame:
    r"""Read a file of separated values as text, changing nothing but decimal commas.

    Parameters
    ----------
    path : pathlib.Path
        UTF-8, with or without a byte order mark, or UTF-16 with one. A first line ``sep=;``, as Excel writes it, names
        the separator.
    separator : str, optional
        One character; left out, it is found in the first line.
    decimal : str, optional
        ``"."`` or ``","``; left out, commas are taken where semicolons separate and no cell has a decimal point.

    Returns
    -------
    pandas.DataFrame
        Text as it stands in the file, missing where a cell is empty. A first column without a name, as
        pandas writes it, becomes the index. Blank rows are left out, with a warning.

    Raises
    ------
    TableError
        If the file is empty or can't be read; names the line.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "jobs.csv")
    >>> _ = path.write_text("image;prompt\na.png;a cat\n", encoding="utf-8")
    >>> read_delimited(path, None).to_dict("list")
    {'image': ['a.png'], 'prompt': ['a cat']}
    >>> _ = path.write_text("image,prompt\na.png,a cat, sleeping\n", encoding="utf-8")
    >>> read_delimited(path, ",")
    Traceback (most recent call last):
    dreamo_batch.errors.TableError: ... line 2 has 3 cells, where the first line names 2 columns...
    """
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
    r"""Write a table as separated values, verbatim: UTF-8, no byte order mark, no index.

    Parameters
    ----------
    frame : pandas.DataFrame
        What.
    path : pathlib.Path
        Where.
    separator : str
        One character.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "jobs.csv"
    >>> write_delimited(pd.DataFrame({"code": ["007"]}), path, ",")
    >>> path.read_text()
    'code\n007\n'
    """
    # A lone carriage return is only quoted if it is part of what ends a line.
    line_end = "\r\n" if _holds_carriage_return(frame) else "\n"
    frame.to_csv(path, sep=separator, index=False, lineterminator=line_end, encoding="utf-8")


def with_header(path: Path, lines: pd.DataFrame) -> pd.DataFrame:
    """Take the first line of a table for the names of its columns.

    Parameters
    ----------
    path : pathlib.Path
        To be named in errors.
    lines : pandas.DataFrame
        All lines, the names first.

    Returns
    -------
    pandas.DataFrame
        The other lines on a RangeIndex, or on the first column if it has no name. Columns that have neither
        name nor cells are dropped.

    Raises
    ------
    TableError
        If two columns share a name, or one that has cells has none.

    Examples
    --------
    >>> from pathlib import Path
    >>> with_header(Path("a.csv"), pd.DataFrame([["a", None], ["1", None]])).columns.tolist()
    ['a']
    """
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
