"""A frame as plain Python values: what JSON and terminals can show."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import unicodedata
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from dreamo_batch import columns
from dreamo_batch.text import harmless

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd


_PLAIN: Final = (str, bool, int, float)


def records(frame: pd.DataFrame, *, with_position: bool = False) -> list[dict[str, Any]]:
    """Give each row as a dictionary of plain values."""
    is_labelled = not _is_position(frame.index) or (with_position and columns.ROW not in frame)
    labels = _labels(frame) if is_labelled else {}
    cells = labels | {
        str(name): [plain(cell) for cell in frame[name].astype(object)] for name in frame.columns
    }
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def plain(cell: Any) -> Any:
    """Give a cell as text, number, boolean or None."""
    import numpy as np
    import pandas as pd

    if isinstance(cell, np.generic):
        cell = cell.item()
    if (
        cell is None
        or cell is pd.NA
        or cell is pd.NaT
        or (isinstance(cell, float) and not math.isfinite(cell))
    ):
        return None
    if isinstance(cell, dt.datetime):
        return cell.isoformat()
    return cell if isinstance(cell, _PLAIN) else str(cell)


def _is_position(index: pd.Index) -> bool:
    import pandas as pd

    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1 and index.name is None


def _labels(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Give the index by level, under names that no column has."""
    index = frame.index
    names = [columns.ROW if name is None else str(name) for name in index.names]
    taken = {str(name) for name in frame.columns}
    return {
        _free(name, number, taken): [plain(label) for label in index.get_level_values(number)]
        for number, name in enumerate(names)
    }


def _free(name: str, number: int, taken: set[str]) -> str:
    name = name if name not in taken else f"{name}_{number}"
    taken.add(name)
    return name


_GAP: Final = "  "
_CELL_MAX: Final = 60
_CELL_MIN: Final = 10
_LAST_MIN: Final = 24
_CUT: Final = "…"
_WIDE: Final = ("W", "F")
_WIDTHLESS: Final = ("Mn", "Me", "Cf")


def layout(names: Sequence[str], rows: Sequence[Sequence[Any]], *, width: int | None = None) -> str:
    """Lay a table out as text."""
    lines = [list(map(harmless, names)), *([_text(cell) for cell in row] for row in rows)]
    *widths, last = [max(map(width_of, cells)) for cells in zip(*lines, strict=True)]
    widths = [*_fitting(widths, None if width is None else width - min(last, _LAST_MIN)), last]
    is_number = [_are_numbers(cells) for cells in zip(*rows, strict=True)] or [False] * len(names)
    return "\n".join(
        _GAP.join(_padded(*shape) for shape in zip(line, widths, is_number, strict=True)).rstrip()
        for line in lines
    )


def width_of(text: str) -> int:
    """Count the terminal columns that a text takes."""
    return len(text) if text.isascii() else sum(map(_width_of_character, text))


def _width_of_character(character: str) -> int:
    if unicodedata.category(character) in _WIDTHLESS:
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1


def _text(cell: Any) -> str:
    return "" if cell is None else harmless(str(cell))


def _are_numbers(cells: Sequence[Any]) -> bool:
    return all(
        cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool)) for cell in cells
    )


def _fitting(widths: list[int], width: int | None) -> list[int]:
    """Take from the widest columns until the table fits, or nothing is left to take."""
    widths = [min(natural, _CELL_MAX) for natural in widths]
    excess = 0 if width is None else sum(widths) + len(_GAP) * len(widths) - width
    while excess > 0 and (widest := max(widths, default=0)) > _CELL_MIN:
        widths[widths.index(widest)] -= 1
        excess -= 1
    return widths


def _padded(text: str, width: int, is_number: bool) -> str:
    cut = _cut(text, width)
    space = " " * (width - width_of(cut))
    return space + cut if is_number else cut + space


def _cut(text: str, width: int) -> str:
    if width_of(text) <= width:
        return text
    kept, taken = [], width_of(_CUT)
    for character in text:
        taken += _width_of_character(character)
        if taken > width:
            break
        kept.append(character)
    return "".join(kept) + _CUT


_BY_STATUS: Final = "by_status"
_LOGGER: Final = "dreamo_batch"
_LOGGED: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_SAID: Final = "dreamo_batch.engine.status"  # what it logs, it shows as well
_is_quiet: ContextVar[bool] = ContextVar("_is_quiet", default=False)
_UNKNOWN: Final = {"possibly_billed_usd": "unknown"}  # where no value is no "none"


def show_frame(frame: pd.DataFrame, format_: str, *, excel_safe: bool = False) -> None:
    """Print a table."""
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
    """Print what a run came to."""
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
    """Write data to standard output; a reader that has seen enough is no error."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)


def hint(text: str) -> None:
    """Write what is good to know to standard error, unless `--quiet` was given."""
    if not _is_quiet.get():
        warn(text)


def warn(text: str) -> None:
    """Write what must be known to standard error, unable to do anything to the terminal."""
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
    """Say more or less than usual, and keep a log, for as long as the block lasts."""
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
    """Let everything written to a stream from now on go nowhere, so that leaving does not fail on it."""
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
