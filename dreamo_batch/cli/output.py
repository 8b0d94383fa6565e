"""What commands print: data on standard output, hints on standard error.

Examples
--------
>>> show_summary({"rows": 2, "by_status": {"completed": 2}, "spent_usd": "0.0572"}, "json")
{"rows": 2, "by_status": {"completed": 2}, "spent_usd": "0.0572"}
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from dreamo_batch import columns
from dreamo_batch.cli.records import records
from dreamo_batch.cli.screen import layout
from dreamo_batch.service.harmless import harmless

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

_BY_STATUS: Final = "by_status"
_UNKNOWN: Final = {"possibly_billed_usd": "unknown"}  # where no value is no "none"


def show_frame(frame: pd.DataFrame, format_: str, *, excel_safe: bool = False) -> None:
    """Print a table.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table.
    format_ : {"table", "json", "csv"}
        As text for a terminal, as a JSON list of records, or as CSV.
    excel_safe : bool
        Keep spreadsheets from reading cells of the CSV as formulas.

    Examples
    --------
    >>> import pandas as pd
    >>> show_frame(pd.DataFrame({"prompt": ["雪山", None]}), "json")
    [
    {"prompt": "雪山"},
    {"prompt": null}
    ]
    """
    if format_ == "table":
        rows = records(frame, with_position=True)
        if rows:
            emit(layout(list(rows[0]), [list(row.values()) for row in rows], width=_width()) + "\n")
    elif format_ == "json":
        lines = ",\n".join(_json(record) for record in records(frame))
        emit(f"[\n{lines}\n]\n" if lines else "[]\n")
    else:
        emit(_csv(frame, excel_safe=excel_safe))


def show_summary(summary: Mapping[str, Any], format_: str) -> None:
    """Print what a run came to.

    Parameters
    ----------
    summary : mapping
        As from `dreamo_batch.status`, perhaps with more.
    format_ : {"table", "json", "csv"}
        As lines for a terminal, as one JSON object, or as CSV with one row.

    Examples
    --------
    >>> show_summary({"rows": 2, "by_status": {"failed": 2}, "max_cost_usd": None}, "table")
    rows    2
    failed  2
    >>> show_summary({"rows": 1, "possibly_billed_usd": None}, "table")
    rows                 1
    possibly_billed_usd  unknown
    """
    if format_ == "json":
        emit(_json(summary) + "\n")
    elif format_ == "csv":
        emit(_csv_line(_flat(summary, dict.fromkeys(columns.STATUSES, 0))))
    else:
        emit(
            _lines(
                {
                    name: _UNKNOWN.get(name) if value is None else value
                    for name, value in _flat(summary).items()
                }
            )
        )


def emit(text: str) -> None:
    r"""Write data to standard output; a reader that has seen enough is no error.

    Examples
    --------
    >>> emit("data\n")
    data
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)


def hint(text: str) -> None:
    """Write lines to standard error, unable to do anything to the terminal.

    Parameters
    ----------
    text : str
        One line or several.

    Examples
    --------
    >>> hint("run again to resume")
    """
    try:
        sys.stderr.write("\n".join(map(harmless, text.rstrip("\n").split("\n"))) + "\n")
        sys.stderr.flush()
    except OSError:
        silence(sys.stderr)  # the terminal is gone: there is nobody left to tell


def silence(stream: TextIO) -> None:
    """Let everything written to a stream from now on go nowhere, so that leaving does not fail on it.

    Examples
    --------
    >>> silence(io.StringIO())
    """
    try:
        number = stream.fileno()
    except OSError:  # a stream that is no file has no end that could be closed
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _json(value: Mapping[str, Any]) -> str:
    is_unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    return json.dumps(value, ensure_ascii=not is_unicode)


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _flat(summary: Mapping[str, Any], by_status: Mapping[str, int] | None = None) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in summary.items():
        flat |= ({**(by_status or {}), **value}) if name == _BY_STATUS else {name: value}
    return flat


def _lines(summary: Mapping[str, Any]) -> str:
    lines = [
        (name, str(part))
        for name, value in summary.items()
        if value is not None
        for part in (value if isinstance(value, list) else [value])
    ]
    width = max(len(name) for name, _ in lines)
    return "".join(f"{name:{width}}  {harmless(value)}\n" for name, value in lines)


def _csv_line(summary: Mapping[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(summary)
    writer.writerow("\n".join(value) if isinstance(value, list) else value for value in summary.values())
    return text.getvalue()


def _csv(frame: pd.DataFrame, *, excel_safe: bool) -> str:
    """Give the very text that a CSV file of the frame would hold."""
    import dreamo_batch as dreamo

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        dreamo.write_table(frame, path, excel_safe=excel_safe)
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
