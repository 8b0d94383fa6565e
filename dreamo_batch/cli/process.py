"""Exit codes: the one place where errors and results become a number.

0: every row completed and its picture saved. 1: finished, but not all of them. 2: nothing was done, because of the
command line, the table or the directory. 3: stopped early; the same command again goes on.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from dreamo_batch import columns
from dreamo_batch.cli import options
from dreamo_batch.cli.output import silence, warn
from dreamo_batch.errors import DreamoError, InvalidTable, RunStopped, ServiceError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    import pandas as pd


DONE: Final = 0
NOT_ALL: Final = 1
UNUSABLE: Final = 2
STOPPED: Final = 3

MEANINGS: Final = {
    DONE: "Every row completed and its picture saved (unless `--no-download`).",
    NOT_ALL: "Finished with failed, ambiguous or invalid (skipped) rows or pictures that could not be saved; "
    "`status --verify` found damage.",
    UNUSABLE: "Usage, unreadable or invalid table, missing `--yes`, cap without a price, directory in use, of another "
    "service, or unreadable.",
    STOPPED: "Interrupt, budget, access refused, no key, disk, outage, rows still in progress: run again to resume.",
}

_OPEN: Final = (columns.PENDING, columns.SUBMITTING, columns.IN_PROGRESS)
# The disk, or the terminal that was written to, went away: nothing is wrong with what was asked for.
_GONE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EPIPE)


def of_results(results: pd.DataFrame, *, with_pictures: bool = True) -> int:
    """Give the code of a run that came to its end."""
    status = results[columns.STATUS]
    if status.isin(_OPEN).any():
        return STOPPED
    is_done = status == columns.COMPLETED
    if with_pictures:
        is_done &= results[columns.OUTPUT_PATH].notna()
    return DONE if is_done.all() else NOT_ALL


def of_error(error: BaseException) -> int:
    """Give the code of a command that ended with an exception."""
    match error:
        case click.exceptions.Exit(exit_code=code):
            return code
        case RunStopped() | ServiceError():
            return STOPPED
        case DreamoError() | click.ClickException() | ModuleNotFoundError():
            return UNUSABLE
        case OSError(errno=number):
            return STOPPED if number in _GONE else UNUSABLE
        case _:  # an interrupt, or an error of ours: what was bought is on disk
            return STOPPED


# Packages of the extras, by the name of the module that is missing without them.
_EXTRAS: Final = {
    "fastapi": "local",
    "uvicorn": "local",
    "openpyxl": "excel",
    "matplotlib": "plots",
}


class Door(click.Group):
    """The group of all commands; calling it runs one and leaves the process with its code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """List the commands in the order in which they are used."""
        return list(self.commands)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command; how much it says can be told before its name and after it."""
        cmd.params = [*cmd.params, *options.saying(is_hidden=True)]
        super().add_command(cmd, name)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and leave the process with its exit code."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        _take_signals()
        _open_missing_files()
        _never_fail_on_letters()
        words = list(sys.argv[1:] if args is None else args)
        try:
            with self.make_context(prog_name or "dreamo-batch", words, **extra) as context:
                code = self.invoke(context) or DONE
        except BaseException as error:  # noqa: BLE001 - the last one to know of it says it, and gives the code
            _tell(error)
            code = of_error(error)
        sys.exit(code)


def _never_fail_on_letters() -> None:
    """Write out what the terminal's encoding has no letter for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open_missing_files() -> None:
    """Open standard files that the process began without, lest the next file opened take their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _take_signals() -> None:
    """Let SIGTERM and SIGHUP count as an interrupt from the first moment to the last."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in ((signal.SIGTERM, signal.default_int_handler), (signal.SIGHUP, _hang_up)):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, handler)


def _hang_up(number: int, _: FrameType | None) -> NoReturn:
    """Interrupt once: a terminal and its shell both tell that the line is gone."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _tell(error: BaseException) -> None:
    """Say on standard error what ended the command."""
    match error:
        case click.exceptions.Exit():
            pass
        case KeyboardInterrupt():
            warn("interrupted")
        case BrokenPipeError():
            silence(sys.stdout)
            silence(sys.stderr)
        case click.ClickException():
            _tell_usage(error)
        case DreamoError():
            _say(options.python_to_shell(str(error)))
            if isinstance(error, InvalidTable):
                warn("`dreamo-batch validate TABLE` lists every problem.")
        case OSError():
            _say(str(error))
        case ModuleNotFoundError(name=str(name)) if name in _EXTRAS:
            _say(f"{name} is not installed; it comes with pip install 'dreamo-batch[{_EXTRAS[name]}]'")
        case _:
            warn(_without_key("".join(traceback.format_exception(error))))


def _tell_usage(error: click.ClickException) -> None:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        warn(error.ctx.get_usage())
        warn(f"`{error.ctx.command_path} --help` tells more.")
    _say(error.format_message())


def _say(text: str) -> None:
    warn(f"error: {_without_key(text)}")


def _without_key(text: str) -> str:
    from dreamo_batch.service.config import KEY_VARIABLE, MASK, Secret

    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        return text
    try:
        return Secret(key).mask(text)
    except SettingsError:
        return text.replace(key, MASK)
