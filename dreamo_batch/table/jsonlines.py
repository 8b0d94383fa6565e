r"""Read and write JSON Lines: one object a line.

Examples
--------
>>> import tempfile
>>> from pathlib import Path
>>> path = Path(tempfile.mkdtemp()) / "jobs.jsonl"
>>> _ = path.write_text('{"seed": 9007199254740993}\n{"prompt": "a cat"}\n')
>>> read_json_lines(path).to_dict("records")
[{'seed': 9007199254740993, 'prompt': nan}, {'seed': nan, 'prompt': 'a cat'}]
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dreamo_batch.errors import TableError
from dreamo_batch.table.cells import is_missing

if TYPE_CHECKING:
    from pathlib import Path


def read_json_lines(path: Path) -> pd.DataFrame:
    """Read a file of JSON objects, one a line; blank lines are skipped.

    Parameters
    ----------
    path : pathlib.Path
        UTF-8.

    Returns
    -------
    pandas.DataFrame
        Columns of dtype object in order of first appearance, values as JSON has them; missing where an object
        lacks a key or has null.

    Raises
    ------
    TableError
        If a line is no JSON object; names the line.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "jobs.jsonl"
    >>> _ = path.write_text("[1]")
    >>> read_json_lines(path)
    Traceback (most recent call last):
    dreamo_batch.errors.TableError: ... line 1 is a list, not an object ...
    """
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
    r"""Write a table as JSON objects, one a line: numbers exact, times as ISO 8601, missing as null.

    Parameters
    ----------
    frame : pandas.DataFrame
        What. Cells that JSON does not know are written as text.
    path : pathlib.Path
        Where.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "jobs.jsonl"
    >>> write_json_lines(pd.DataFrame({"seed": pd.array([2**60, None], dtype="Int64")}), path)
    >>> path.read_text()
    '{"seed": 1152921504606846976}\n{"seed": null}\n'
    """
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
