"""What commands print, and the exit codes for errors and results.

Data goes to standard output as a table, JSON or CSV, hints and the log to standard error. Exit code 0: every row
completed and its picture saved. 1: finished, but not all of them. 2: nothing was done, because of the command line, the
table or the directory. 3: stopped early; the same command again resumes.
"""

from __future__ import annotations

import errno
import json
import logging
import logging.handlers
import os
import shutil
import sys
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from dreamo_batch import columns
from dreamo_batch.arguments import check_path
from dreamo_batch.errors import DreamoError, RunStopped, ServiceError
from dreamo_batch.text import aligned, harmless

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd

DONE: Final = 0
NOT_ALL: Final = 1
UNUSABLE: Final = 2
STOPPED: Final = 3

# The disk or the terminal is gone; the arguments are fine.
_GONE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EPIPE)
_BY_STATUS: Final = "by_status"
_UNKNOWN: Final = {"possibly_billed_usd": "unknown"}  # keys for which None means unknown rather than none
_LISTED_MAX: Final = 12  # rows, of a table that would break every line; more would fill several screens
_TOO_WIDE: Final = 1.25  # times the terminal's width
_LOGGER: Final = "dreamo_batch"
_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_PROGRESS_LOGGER: Final = "dreamo_batch.display.progress"  # it shows what it logs
_is_quiet: ContextVar[bool] = ContextVar("_is_quiet", default=False)
FORMATS = TABLE, JSON, CSV = ("table", "json", "csv")
shown_as: ContextVar[str] = ContextVar("shown_as", default=TABLE)


def code_of_results(results: pd.DataFrame, *, with_pictures: bool = True) -> int:
    """Return the exit code of a run that has ended."""
    status = results[columns.STATUS]
    if status.isin(columns.UNSETTLED).any():
        return STOPPED
    is_done = status == columns.COMPLETED
    if with_pictures:
        is_done &= results[columns.OUTPUT_PATH].notna()
    return DONE if is_done.all() else NOT_ALL


def code_of_error(error: BaseException) -> int:
    """Return the exit code of a command that ended with an exception."""
    match error:
        case click.exceptions.Exit(exit_code=code):
            return code
        case RunStopped() | ServiceError():
            return STOPPED
        case DreamoError() | click.ClickException() | ModuleNotFoundError():
            return UNUSABLE
        case OSError(errno=number):
            return STOPPED if number in _GONE else UNUSABLE
        case _:  # an interrupt or a bug; what was bought is on disk
            return STOPPED


def is_for_people() -> bool:
    """Whether data is printed as text for a terminal, the default of `--format`."""
    return shown_as.get() == TABLE


def show_frame(
    frame: pd.DataFrame, *, with_labels: bool = False, if_empty: str = "No rows.", excel_safe: bool = False
) -> None:
    """Print a table, as text with row labels if wanted, or a sentence if it is empty."""
    if shown_as.get() == CSV:
        emit(_csv(frame, excel_safe=excel_safe))
    elif shown_as.get() == JSON:
        lines = ",\n".join(map(_json, records(frame)))
        emit(f"[\n{lines}\n]\n" if lines else "[]\n")
    elif len(frame):
        rows = records(frame, with_labels=with_labels)
        is_terminal = sys.stdout is not None and sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if is_terminal else None
        text = aligned(list(rows[0]), [list(row.values()) for row in rows], width=width) + "\n"
        if width is not None and len(rows) <= _LISTED_MAX and text.index("\n") > _TOO_WIDE * width:
            text = "\n".join(map(_listed, rows))
        emit(text)
    else:
        emit(f"{if_empty}\n")


def show_summary(summary: Mapping[str, Any]) -> None:
    """Print counts and money."""
    if shown_as.get() == JSON:
        emit(_json(summary) + "\n")
    elif shown_as.get() == CSV:
        import pandas as pd

        flat = _flat(summary, dict.fromkeys(columns.STATUSES, 0))
        cells = {name: ["\n".join(cell) if isinstance(cell, list) else cell] for name, cell in flat.items()}
        emit(_csv(pd.DataFrame(cells), excel_safe=False))
    else:
        known = {
            name: _UNKNOWN.get(name) if value is None else value for name, value in _flat(summary).items()
        }
        emit(_listed(known))


def _listed(values: Mapping[str, object]) -> str:
    """Return each known value on a line behind its name, and each item of a list on its own."""
    lines = [
        (name, str(part))
        for name, value in values.items()
        if value is not None
        for part in (value if isinstance(value, list) else [value])
    ]
    return aligned(lines[0], lines[1:]) + "\n" if lines else ""


def _flat(summary: Mapping[str, Any], by_status: Mapping[str, int] | None = None) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in summary.items():
        flat |= {**(by_status or {}), **value} if name == _BY_STATUS else {name: value}
    return flat


def records(frame: pd.DataFrame, *, with_labels: bool = False) -> list[dict[str, Any]]:
    """Return each row as a dictionary of plain values; index levels come first unless they are row numbers."""
    from dreamo_batch.jobs.tables import is_counting, plain, with_index_as_columns

    if not is_counting(frame.index) or (with_labels and columns.ROW not in frame):
        names = [columns.ROW if level is None else level for level in frame.index.names]
        frame = with_index_as_columns(frame.rename_axis(names))
    cells = {str(name): list(map(plain, column.astype(object))) for name, column in frame.items()}
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def _json(value: Mapping[str, Any]) -> str:
    is_unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
    return json.dumps(value, ensure_ascii=not is_unicode, default=str)


def _csv(frame: pd.DataFrame, *, excel_safe: bool) -> str:
    """Return the frame as the content of a CSV file."""
    from dreamo_batch.jobs.tables import content_of

    return content_of(frame, "table.csv", excel_safe=excel_safe).decode()


def emit(text: str) -> None:
    """Write data to standard output; a closed pipe is no error."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as error:
        error.filename = "standard output"
        raise


def hint(text: str) -> None:
    """Write advice, if any, to standard error unless `--quiet` was passed."""
    if text and not _is_quiet.get():
        warn(text)


def warn(text: str) -> None:
    """Write a warning to standard error, without control characters."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write("\n".join(map(harmless, text.rstrip("\n").split("\n"))) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        silence(sys.stderr)  # the terminal is gone


def is_quiet() -> bool:
    """Whether `--quiet` was passed."""
    return _is_quiet.get()


def silence(stream: TextIO) -> None:
    """Discard everything written to a stream from now on."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # closed, or not a file
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


@contextmanager
def logging_to(*, verbose: int = 0, quiet: bool = False, log_file: str | None = None) -> Iterator[None]:
    """Set the verbosity, and write the log to a file, inside the block."""
    logger, level = logging.getLogger(_LOGGER), logging.DEBUG if verbose > 1 else logging.INFO
    with ExitStack() as undo:
        token = _is_quiet.set(quiet)
        undo.callback(_is_quiet.reset, token)
        undo.callback(logger.setLevel, logger.level)
        handlers: list[logging.Handler] = [_StderrHandler(level if verbose else logging.WARNING)]
        if log_file is not None:
            path = Path(check_path("--log-file", log_file))
            path.parent.mkdir(parents=True, exist_ok=True)  # the folder of a run directory yet to be created
            handlers.append(_LogFile(path, encoding="utf-8"))
        for handler in handlers:
            handler.setFormatter(_HarmlessFormatter(_LOG_FORMAT))
            logger.addHandler(handler)
            undo.callback(handler.close)
            undo.callback(logger.removeHandler, handler)
        logger.setLevel(level if verbose or log_file is not None else logging.WARNING)
        yield


class _HarmlessFormatter(logging.Formatter):
    """Writes a record as one line without control characters, and its traceback below."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        return harmless(super().formatMessage(record))


class _LogFile(logging.handlers.WatchedFileHandler):
    """Appends to a file, or to a new one after logrotate moved it away; reports a failure once."""

    _is_full = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # a new file couldn't be opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - the name is logging's
        if not self._is_full:
            self._is_full = True
            warn(f"warning: the log can't be written to {self.baseFilename}: {sys.exception()}")

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what can't be flushed was reported above
            self.stream = None


class _StderrHandler(logging.Handler):
    """Writes the log above a progress bar, without records that progress shows anyway."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == _PROGRESS_LOGGER and record.levelno < logging.WARNING:
            return
        from dreamo_batch.parallel import bar_class

        try:
            with bar_class().external_write_mode(file=sys.stderr):
                warn(self.format(record))
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)
