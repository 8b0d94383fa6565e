"""The options of the commands; those of `run` are declared once, for every command that takes them."""

from __future__ import annotations

import csv
import re
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import click

from dreamo_batch.cli import output
from dreamo_batch.cli.output import hint

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


def _option(*flags: str, **attributes: Any) -> click.Option:
    return click.Option(flags, **attributes)


# Every keyword of `run()` but key, client, gateway and progress; names and defaults are those of the function.
RUN: Final[dict[str, click.Option]] = {
    "base_url": _option(
        "--base-url",
        metavar="URL",
        help="Where the service is; default: DREAMO_BASE_URL, else the public gateway.",
    ),
    "allow_private_links": _option(
        "--allow-private-links", is_flag=True, help="Follow links to pictures that lead to private addresses."
    ),
    "max_cost": _option(
        "--max-cost",
        metavar="USD",
        help="Cap over everything ever submitted in the directory; stored until given anew, inf lifts it.",
    ),
    "max_new_cost": _option(
        "--max-new-cost",
        metavar="USD",
        help="What this call may add at most; not stored. Default: the sum you agree to.",
    ),
    "unit_cost": _option(
        "--unit-cost",
        metavar="USD",
        help="What each attempt reserves; default: what the service tells, or was seen.",
    ),
    "pilot": _option(
        "--pilot",
        type=click.IntRange(min=1),
        metavar="N",
        help="With a cap and no known price: buy up to N attempts first, in all, which the cap can't bind.",
    ),
    "max_in_flight": _option(
        "--max-in-flight",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        metavar="N",
        help="Tasks at the service at once.",
    ),
    "download": _option("--download/--no-download", default=True, help="Save the pictures, or don't."),
    "fix_images": _option(
        "--fix-images",
        is_flag=True,
        help="Send corrected copies of pictures that the service would not take.",
    ),
    "keep_references": _option(
        "--keep-references/--no-keep-references",
        default=True,
        help="Keep copies of the reference pictures in the run directory, or don't.",
    ),
    "on_invalid": _option(
        "--on-invalid",
        type=click.Choice(["raise", "skip"]),
        default="raise",
        show_default=True,
        help="What to do about rows that can't be submitted.",
    ),
    "on_ambiguous": _option(
        "--on-ambiguous",
        type=click.Choice(["hold", "resubmit"]),
        default="hold",
        show_default=True,
        help="resubmit: attempt rows again that were ambiguous before; they may be paid twice.",
    ),
    "max_attempts": _option(
        "--max-attempts",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Attempts of a job in all, for failures that are known to be unbilled.",
    ),
    "retry_failed": _option(
        "--retry-failed", is_flag=True, help="Attempt rows again, once, that had failed before."
    ),
    "random_seed": _option(
        "--random-seed",
        type=click.Choice(["record", "service"]),
        default="record",
        show_default=True,
        help="record: draw missing seeds before sending; service: leave it to the service.",
    ),
    "task_timeout_s": _option(
        "--task-timeout-s",
        type=click.FloatRange(min=0, min_open=True),
        default=900.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for a task in this call; the next call asks for it again.",
    ),
    "adopt_copy": _option(
        "--adopt-copy",
        is_flag=True,
        help="Attempt also in a copy of a run directory, whose original may, too.",
    ),
    "base_dir": _option(
        "--base-dir",
        metavar="DIR",
        help="Where relative image paths start; default: the table file's folder.",
    ),
}
# The table of a directory is stored as it was checked.
ABOUT_TABLE: Final = ("fix_images", "keep_references", "on_invalid", "random_seed", "base_dir")

# What `plan` can be told; it takes the others too, so that a line can be planned before it is run.
PLAN: Final = (
    "max_cost",
    "unit_cost",
    "download",
    "fix_images",
    "on_ambiguous",
    "max_attempts",
    "retry_failed",
    "random_seed",
    "base_dir",
)

TABLE: Final = click.Argument(["table"])
# How the file of TABLE is read, where that can't be found out.
ABOUT_FILE: Final = (
    _option(
        "--delimiter", metavar="CHARACTER", help="What separates the cells of CSV, or tab; default: found."
    ),
    _option("--decimal", type=click.Choice([".", ","]), help="The decimal mark in CSV; default: found."),
    _option("--rename", multiple=True, metavar="OLD=NEW", help="Read column OLD as NEW."),
)
RUN_DIR: Final = click.Argument(["run_dir"], required=False)
RUN_DIR_OPTION: Final = _option("--run-dir", "run_dir_option", metavar="RUN_DIR", help="The run directory.")
RUN_DIRS: Final = click.Argument(["run_dirs"], nargs=-1, metavar="[RUN_DIR]...")
RUN_DIRS_OPTION: Final = _option(
    "--run-dir", "run_dirs_option", multiple=True, metavar="RUN_DIR", help="A run directory; several add up."
)
LOCAL: Final = _option(
    "--local",
    is_flag=True,
    help="Use the embedded local gateway: no key, no cost; its state is kept in the run directory.",
)
YES: Final = _option("--yes", is_flag=True, help="Agree to what it costs, without being asked.")
NO_CAP: Final = _option(
    "--no-cap", is_flag=True, help="With --yes: don't stop this call at 1.25 times what it should cost."
)
FORMAT: Final = _option(
    "--format",
    "format_",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How the data on standard output is written.",
)

_SAYING: Final = "dreamo_batch.saying"


def saying(*, is_hidden: bool = False) -> list[click.Option]:
    """Declare the options that say how much is said: of all commands, and of each."""
    common: dict[str, Any] = {"expose_value": False, "callback": _say_so, "hidden": is_hidden}
    return [
        _option(
            "-v",
            "--verbose",
            count=True,
            help="Show the log of what is done; twice: its details too.",
            **common,
        ),
        _option("-q", "--quiet", is_flag=True, help="Show only errors and warnings.", **common),
        _option("--log-file", metavar="PATH", help="Add the log to a file, with dates.", **common),
    ]


def _say_so(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Say as much as was asked for up to this option."""
    if not value:
        return
    asked = context.meta.setdefault(_SAYING, {"verbose": 0, "quiet": False, "log_file": None})
    asked[option.name] = value
    if (before := asked.pop("until", None)) is not None:
        before.close()
    until = asked["until"] = ExitStack()
    context.find_root().call_on_close(until.close)
    until.enter_context(
        output.saying(verbosity=asked["verbose"], quiet=asked["quiet"], log_file=asked["log_file"])
    )


_PYTHON: Final = re.compile(rf'\b({"|".join(RUN)})=(?:"(\w+)"|(\w+))?')


def read_table(path: str, options: dict[str, Any]) -> pd.DataFrame:
    """Read the table of a command; takes the options about its file out of the others."""
    import dreamo_batch as dreamo

    delimiter, decimal, rename = (options.pop(name) for name in ("delimiter", "decimal", "rename"))
    pairs = [one.partition("=") for one in rename]
    for old, equals, new in pairs:
        if not (old and equals and new):
            raise click.UsageError(f"--rename takes OLD=NEW, not {old + equals + new!r}")
    sep = "\t" if delimiter in {"\\t", "tab"} else delimiter
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        table = dreamo.read_table(path, sep=sep, decimal=decimal, rename={old: new for old, _, new in pairs})
    for warning in said:
        hint(f"warning: {warning.message}")
    return table


def run_dir_of(argument: str | None, option: str | None) -> str:
    """Give the run directory, named as an argument or with `--run-dir`."""
    named = argument if option is None else option
    if named is None or (argument is not None and option is not None):
        raise click.UsageError("name the run directory once: as RUN_DIR or with --run-dir RUN_DIR")
    return named


def run_dirs_of(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """Give the run directories, named as arguments or with `--run-dir`."""
    if not (arguments or options):
        raise click.UsageError("name a run directory: as RUN_DIR or with --run-dir RUN_DIR")
    return [*arguments, *options]


def split(given: Sequence[str]) -> list[str] | None:
    """Read comma-separated words as CSV does, so that a quoted label may hold a comma; None if there are none."""
    words = [word.strip() for line in csv.reader(given, skipinitialspace=True) for word in line]
    return [word for word in words if word] or None


def python_to_shell(text: str) -> str:
    """Spell the library's keywords in a message as options of the command line."""
    return _PYTHON.sub(_as_option, text.replace('gateway="local"', "--local"))


def _as_option(found: re.Match[str]) -> str:
    flag = RUN[found[1]].opts[0]
    value = found[2] or found[3]
    return f"{flag} {value}" if value and value != str(True) else flag
