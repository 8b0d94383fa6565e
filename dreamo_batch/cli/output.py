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
import logging
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from dreamo_batch import columns
from dreamo_batch.cli.records import records
from dreamo_batch.cli.screen import layout
from dreamo_batch.service.harmless import harmless

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd

_BY_STATUS: Final = "by_status"
_LOGGER: Final = "dreamo_batch"
_LOGGED: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_SAID: Final = "dreamo_batch.execution.progress"  # what it logs, it shows as well
_is_quiet: ContextVar[bool] = ContextVar("_is_quiet", default=False)
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
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)


def hint(text: str) -> None:
    """Write what is good to know to standard error, unless `--quiet` was given.

    Parameters
    ----------
    text : str
        One line or several.

    Examples
    --------
    >>> hint("run again to resume")
    """
    if not _is_quiet.get():
        warn(text)


def warn(text: str) -> None:
    """Write what must be known to standard error, unable to do anything to the terminal.

    Parameters
    ----------
    text : str
        One line or several.

    Examples
    --------
    >>> warn("error: no such table")
    """
    if sys.stderr is None:
        return
    try:
        sys.stderr.write("\n".join(map(harmless, text.rstrip("\n").split("\n"))) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        silence(sys.stderr)  # the terminal is gone: there is nobody left to tell


def is_quiet() -> bool:
    """Whether `--quiet` was given."""
    return _is_quiet.get()


@contextmanager
def saying(*, verbosity: int, quiet: bool, log_file: str | None) -> Iterator[None]:
    """Say more or less than usual, and keep a log, for as long as the block lasts.

    Parameters
    ----------
    verbosity : int
        1: the package's log on standard error, 2: its details too.
    quiet : bool
        Only errors and warnings.
    log_file : str or None
        File that the log is added to, with its dates.

    Raises
    ------
    OSError
        If the file can't be written to.

    Examples
    --------
    >>> with saying(verbosity=0, quiet=True, log_file=None):
    ...     is_quiet()
    True
    """
    logger, level = logging.getLogger(_LOGGER), logging.DEBUG if verbosity > 1 else logging.INFO
    with ExitStack() as undo:
        token = _is_quiet.set(quiet)
        undo.callback(_is_quiet.reset, token)
        undo.callback(logger.setLevel, logger.level)
        handlers: list[logging.Handler] = [_OnStandardError(level if verbosity else logging.WARNING)]
        if log_file is not None:
            kept = logging.FileHandler(log_file, encoding="utf-8", delay=False)
            kept.setFormatter(_Harmless(_LOGGED))
            handlers.append(kept)
        for handler in handlers:
            logger.addHandler(handler)
            undo.callback(handler.close)
            undo.callback(logger.removeHandler, handler)
        logger.setLevel(level if verbosity or log_file is not None else logging.WARNING)
        yield


class _Harmless(logging.Formatter):
    """Writes a record as one line that can do nothing to a terminal; a traceback follows it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        return harmless(super().formatMessage(record))


class _OnStandardError(logging.Handler):
    """Writes the log as hints are written, above a bar that is there; not what progress shows anyway."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.setFormatter(_Harmless(_LOGGED))

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == _SAID and record.levelno < logging.WARNING:
            return
        from tqdm import tqdm

        try:
            with tqdm.external_write_mode(file=sys.stderr):
                warn(self.format(record))
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)


def silence(stream: TextIO) -> None:
    """Let everything written to a stream from now on go nowhere, so that leaving does not fail on it.

    Examples
    --------
    >>> silence(io.StringIO())
    """
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # a stream that is closed, or no file, has no end that could be closed
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _json(value: Mapping[str, Any]) -> str:
    is_unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
    return json.dumps(value, ensure_ascii=not is_unicode)


def _width() -> int | None:
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else None


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
