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
import io
from typing import TYPE_CHECKING, Final

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import TableError
from dreamo_batch.table.cells import is_missing
from dreamo_batch.table.guessing import guessed
from dreamo_batch.table.portable import may_hold_text

if TYPE_CHECKING:
    from pathlib import Path

_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}


def read_delimited(path: Path, separator: str) -> pd.DataFrame:
    r"""Read a file of separated values as text, changing nothing.

    Parameters
    ----------
    path : pathlib.Path
        UTF-8, with or without a byte order mark, or UTF-16 with one.
    separator : str
        One character.

    Returns
    -------
    pandas.DataFrame
        Text as it stands in the file, missing where a cell is empty. A first column without a name, as
        pandas writes it, becomes the index.

    Raises
    ------
    TableError
        If the file is empty or can't be read; names the line.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "jobs.csv"
    >>> _ = path.write_text("a,b\n1,2,3\n")
    >>> read_delimited(path, ",")
    Traceback (most recent call last):
    dreamo_batch.errors.TableError: ... Expected 2 fields in line 2, saw 3...
    """
    text = _decoded(path, path.read_bytes())
    _refuse_other_separators(path, text, separator)
    try:
        lines = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            header=None,
            dtype=columns.STR,
            keep_default_na=False,
            na_values=[""],
            low_memory=False,
        )
    except pd.errors.EmptyDataError:
        raise TableError(f"{path} is empty. Its first line must name the columns.") from None
    except pd.errors.ParserError as error:
        raise TableError(_why_torn(path, str(error))) from None
    return with_header(path, lines)


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


def _refuse_other_separators(path: Path, text: str, separator: str) -> None:
    names = text.partition("\n")[0]
    found = [word for character, word in _SEPARATORS.items() if character in names]
    if found and separator not in names:
        raise TableError(
            f"{path}: the first line has {found[0]}, but no {_SEPARATORS[separator]} between the columns' "
            "names. Save it as CSV with commas (.csv) or with tabs (.tsv)."
        )


def _why_torn(path: Path, reason: str) -> str:
    reason = reason.removeprefix("Error tokenizing data. C error: ").strip().rstrip(".")
    return (
        f"{path} can't be read: {reason}. Does a text with a comma, a quote or a line break stand there "
        'without quotes around it? Write it as "a cat, sleeping", quotes inside doubled.'
    )


def _holds_carriage_return(frame: pd.DataFrame) -> bool:
    texts = (frame[name] for name in frame.columns if may_hold_text(frame[name]))
    return any("\r" in cell for text in texts for cell in text if isinstance(cell, str))
