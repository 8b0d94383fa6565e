"""Tables as files: CSV, TSV, JSON Lines, Parquet and Excel, by suffix.

Examples
--------
>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "jobs.csv"
>>> write_table(pd.DataFrame({"prompt": ["NA"], "seed": pd.array([2**60], dtype="Int64")}), path)
>>> read_table(path).to_dict("records")
[{'prompt': 'NA', 'seed': 1152921504606846976}]
"""

from __future__ import annotations

import codecs
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import pandas as pd
import pyarrow as pa

from dreamo_batch.errors import TableError, UsageError, path_given
from dreamo_batch.table import portable
from dreamo_batch.table.delimited import read_delimited, write_delimited
from dreamo_batch.table.guessing import guessed, typed
from dreamo_batch.table.jsonlines import read_json_lines, read_json_list, write_json_lines, write_json_list
from dreamo_batch.table.restoring import restored
from dreamo_batch.table.schema import is_result
from dreamo_batch.table.spreadsheets import read_workbook, write_workbook
from dreamo_batch.table.writing import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


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
        frame = portable.safe_for_spreadsheets(portable.with_index_as_columns(frame))
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
    stored, changed = portable.storable(frame)
    if changed:
        warnings.warn(f"Stored as text, since Parquet can't hold it: {', '.join(changed)}.", stacklevel=3)
    stored.to_parquet(path)


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    return portable.as_text(portable.with_index_as_columns(frame))


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
