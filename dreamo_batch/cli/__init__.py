"""The command line `dreamo-batch`: each command reads its arguments, makes one call, and prints.

Data goes to standard output, progress and hints to standard error; `output` explains the exit codes.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
import traceback
import warnings
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from dreamo_batch import __version__
from dreamo_batch.cli import commands, options
from dreamo_batch.cli.output import DONE, code_of_error, silence, warn
from dreamo_batch.errors import DreamoError, SettingsError, take_signals
from dreamo_batch.text import shell_words

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

# Python verbs that users may try as commands.
_IN_THE_SHELL: Final = {"load": "results RUN_DIR", "resume": "run TABLE", "start": "run TABLE --detach"}


class CommandGroup(click.Group):
    """The group of all commands; runs a command and exits with its code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """List the commands in the order they were added."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; for a Python verb, name the command that does the same."""
        if here := _IN_THE_SHELL.get(cmd_name):
            ctx.fail(f"No such command {cmd_name!r}; use `dreamo-batch {here}`.")
        return super().get_command(ctx, cmd_name)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, with the verbosity options, which may come before or after its name."""
        cmd.params = [*cmd.params, *options.verbosity(is_hidden=True)]
        super().add_command(cmd, name)

    def main(  # type: ignore[override] # only as a command
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and exit with its code."""
        atexit.register(gc.freeze)  # else garbage collection of all of pandas delays the exit by 0.1 s
        with shell_words():  # in its own context, so that no state is left afterwards
            sys.exit(copy_context().run(self._run, args, prog_name, **extra))

    def _run(self, args: Sequence[str] | None, prog_name: str | None, **extra: Any) -> int:
        take_signals(_interrupt_once)
        _open_missing_files()
        _escape_unencodable()
        name, words = prog_name or "dreamo-batch", list(sys.argv[1:] if args is None else args)
        try:
            with warnings.catch_warnings(), self.make_context(name, words, **extra) as context:
                warnings.simplefilter("default", UserWarning)
                warnings.showwarning = lambda message, *_where, **_more: warn(f"warning: {message}")
                code = self.invoke(context) or DONE
        except BaseException as error:  # noqa: BLE001 - printed here, and turned into an exit code
            _print_error(error)
            code = code_of_error(error)
        return int(code)


def _escape_unencodable() -> None:
    """Escape characters that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open_missing_files() -> None:
    """Open missing standard streams, so that no other file gets their descriptors."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor


def _interrupt_once(number: int, _frame: object) -> NoReturn:
    """Interrupt only once, because a terminal and its shell both send SIGHUP, and `stop` may be repeated."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _print_error(error: BaseException) -> None:
    match error:
        case click.exceptions.Exit():
            pass
        case KeyboardInterrupt():
            warn("Interrupted.")
        case BrokenPipeError():
            silence(sys.stdout)
            silence(sys.stderr)
        case click.exceptions.NoArgsIsHelpError():
            warn(error.format_message())
        case click.ClickException():
            _print_usage(error)
        case OSError(strerror=str(reason)):
            _print_line(reason if error.filename is None else f"{error.filename}: {reason}")
        case DreamoError() | OSError() | ModuleNotFoundError():  # the last line names the extra
            _print_line(str(error))
        case _:
            warn(_without_key("".join(traceback.format_exception(error))))


def _print_usage(error: click.ClickException) -> None:
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        argument = error.option_name.strip("-").replace("-", "_")  # as in Python, such as gateway for --local
        options = (parameter for parameter in error.ctx.command.params if isinstance(parameter, click.Option))
        flag = next((option.opts[0] for option in options if option.name == argument), None)
        if flag is not None:
            text = f"No such option '{error.option_name}'. Did you mean '{flag}'?"
            error = click.UsageError(text, error.ctx)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        warn(error.ctx.get_usage())
        warn(f"See `{error.ctx.command_path} --help`.")
    _print_line(error.format_message())


def _print_line(text: str) -> None:
    warn(f"error: {_without_key(text)}")


def _without_key(text: str) -> str:
    from dreamo_batch.service.config import MASK, Secret, environment_key

    key = environment_key()
    if key is None:
        return text
    try:
        return Secret(key).mask(text)
    except SettingsError:
        return text.replace(key, MASK)


@click.group(cls=CommandGroup, context_settings={"max_content_width": 100}, params=options.verbosity())
@click.version_option(__version__, message="dreamo-batch %(version)s")
def main() -> None:
    """Run tables of image-to-image jobs against the Spark DreamO service, and never pay twice without knowing.

    The same command again resumes. Set the API key in DREAMO_API_KEY; --local needs none.

    Exit codes: 0 every row done; 1 finished, not all of them; 2 bad usage, table or directory; 3 stopped, run
    again to resume.

    The options below may come before or after a command.
    """


for command in vars(commands).values():
    if isinstance(command, click.Command):
        main.add_command(command)
