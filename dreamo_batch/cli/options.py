"""Options shared by several commands; those of `run` are made from its signature and docstring."""

from __future__ import annotations

import ast
import csv
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import dreamo_batch as dreamo
from dreamo_batch.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import pandas as pd


def option(*flags: str, **attributes: Any) -> click.Option:
    """Declare an option."""
    return click.Option(flags, **attributes)


class VerbCommand(click.Command):
    """A command with options of public functions, which are made on demand."""

    def __init__(
        self, *args: Any, keywords: Callable[[], Mapping[str, click.Option]], **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self._keywords = keywords

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with its verbosity options."""
        with output.logging_to(**ctx.meta.get(_VERBOSITY, {})):
            return super().invoke(ctx)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own options, those of its function, and ``--help``."""
        *own, for_help = super().get_params(ctx)
        return [*own, *self._keywords().values(), for_help]


def command(
    *params: click.Parameter, keywords: Callable[[], Mapping[str, click.Option]] = dict
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Declare a command; `keywords` returns options made from a verb's keywords."""
    return click.command(cls=VerbCommand, params=list(params), keywords=keywords)


# The metavar of a keyword: by its name, or else by the first of these words in its annotation.
_METAVAR_OF: Final = {
    "attempt": "N",
    "base_url": "URL",
    "font": "FILE",
    "latency": "LATENCY",
    "not_before": "TIME",
    "notify": "URL",
    "price_per_second": "USD",
    "state_dir": "DIR",
    "task_id": "ID",
    "to": "ADDRESS",
}
_METAVARS: Final = {"PathLike": "DIR", "Amount": "USD", "Decimal": "USD", "int": "N", "float": "SECONDS"}
_TYPES: Final = {"N": click.IntRange(min=1), "SECONDS": click.FloatRange(min=0, min_open=True)}
# Keywords of `run` that aren't options here.
NOT_OPTIONS: Final = ("api_key", "client", "gateway", "progress", "on_event")
_WORKERS: Final = (
    "Buy in N processes at once, in shards of a run directory that is new or has them already; --max-in-flight counts "
    "over all of them."
)
# Options whose value may be a secret that shouldn't be visible in a list of processes.
_FROM_ENVIRONMENT: Final = {"notify": "DREAMO_NOTIFY_URL"}
# Not for `retry`, which uses the stored table.
ABOUT_TABLE: Final = ("fix_images", "keep_references", "on_invalid", "random_seed", "base_dir")


def of(place: str, *names: str, but: Collection[str] = NOT_OPTIONS) -> Callable[[], dict[str, click.Option]]:
    """Return a function that makes options of keywords from a function's source, because importing it takes long."""

    @functools.cache
    def made() -> dict[str, click.Option]:
        signature, docstring = _written(place)
        texts = dict(re.findall(r"^(\w+) : .*\n((?:    .*\n)+)", docstring, re.MULTILINE))
        defaults = [*signature.defaults, *signature.kw_defaults]  # of the last parameters
        keywords = [*signature.args, *signature.kwonlyargs][-len(defaults) :]
        return {
            arg.arg: _of_keyword(arg, default, " ".join(texts.get(arg.arg, "").replace("`", "").split()))
            for arg, default in zip(keywords, defaults, strict=True)
            if default is not None and (arg.arg in names if names else arg.arg not in but)
        }

    return made


def _written(place: str) -> tuple[ast.arguments, str]:
    """Return the parameters and the docstring of a function or class from its source file."""
    *module, name = place.split(".")
    source = Path(__file__).parents[1].joinpath(*module).with_suffix(".py").read_text("utf-8")
    kinds = ast.FunctionDef | ast.ClassDef
    defined = {node.name: node for node in ast.parse(source).body if isinstance(node, kinds)}[name]
    function = next(node for node in ast.walk(defined) if isinstance(node, ast.FunctionDef))
    return function.args, ast.get_docstring(defined) or ""


def _of_keyword(keyword: ast.arg, written: ast.expr, text: str) -> click.Option:
    """Declare an option of the right kind: a switch, a choice, a number, text, or a list of names."""
    (name, _, kind), default = ast.unparse(keyword).partition(": "), ast.literal_eval(written)
    flag = f"--{name.replace('_', '-')}"
    if name == "cluster":
        return option("--workers", "cluster", type=_TYPES["N"], metavar="N", help=_WORKERS)
    if kind == "bool":
        return option(f"{flag}/--no{flag[1:]}" if default else flag, is_flag=True, default=default, help=text)
    shown: dict[str, Any] = {"default": default, "show_default": default not in (None, ""), "help": text}
    if kind.startswith("Literal"):
        return option(flag, type=click.Choice(ast.literal_eval(kind.removeprefix("Literal"))), **shown)
    if "Iterable" in kind:
        return names_option(flag, **shown)
    metavar = _METAVAR_OF.get(name) or next(
        (metavar for word, metavar in _METAVARS.items() if word in kind), name.upper()
    )
    variable = _FROM_ENVIRONMENT.get(name)
    return option(flag, type=_TYPES.get(metavar), metavar=metavar, envvar=variable, **shown)


def names_option(flag: str, **attributes: Any) -> click.Option:
    """Declare an option that takes names, comma-separated or repeated."""
    attributes.setdefault("metavar", flag.strip("-").upper())
    return option(flag, multiple=True, callback=lambda _, __, given: split(given), **attributes)


TABLE: Final = click.Argument(["table"])
# How to read TABLE where detection fails.
ABOUT_FILE: Final = (
    option("--delimiter", metavar="CHARACTER", help="Delimiter of CSV, or tab; default: detected."),
    option("--decimal", type=click.Choice([".", ","]), help="Decimal mark in CSV; default: detected."),
    option("--encoding", metavar="NAME", help="Encoding of text, such as gb18030; default: UTF-8 or UTF-16."),
    option("--rename", multiple=True, metavar="OLD=NEW", help="Read column OLD as NEW."),
)
_OF_OPTION: Final = "dreamo_batch.run_dirs"


def _note_run_dirs(context: click.Context, _: click.Parameter, given: Sequence[str]) -> None:
    """Record the value of `--run-dir` for the argument, which is processed later."""
    context.meta[_OF_OPTION] = given


def _named(context: click.Context, argument: click.Parameter, given: Any) -> str | list[str]:
    """Return the value of `--run-dir` followed by those of the argument."""
    named = [*context.meta[_OF_OPTION], *([given] if isinstance(given, str) else given or ())]
    if not named or (argument.nargs == 1 and len(named) > 1):
        raise click.UsageError("name the run directory once, as RUN_DIR or with --run-dir RUN_DIR")
    return named[0] if argument.nargs == 1 else named


def run_dir_and(name: str, **attributes: Any) -> tuple[click.Parameter, ...]:
    """Declare an argument that begins with a run directory, and the option that may replace it."""
    given: dict[str, Any] = {
        "multiple": True,
        "expose_value": False,
        "is_eager": True,
        "callback": _note_run_dirs,
    }
    return (
        click.Argument([name], required=False, callback=_named, **attributes),
        option(
            "--run-dir", "named", metavar="RUN_DIR", help="A run directory, instead of the argument.", **given
        ),
    )


RUN_DIR: Final = run_dir_and("run_dir")
RUN_DIRS: Final = run_dir_and("run_dirs", nargs=-1, metavar="[RUN_DIR]...")
LOCAL: Final = option(
    "--local",
    "gateway",
    flag_value="local",
    help="Use the embedded local gateway: no key, no cost. Its state is kept in the run directory.",
)
YES: Final = option("--yes", is_flag=True, help="Accept the cost without being asked.")
NO_CAP: Final = option(
    "--no-cap", is_flag=True, help="With --yes: don't stop this call at 1.25 times what it should cost."
)
FORMAT: Final = option(
    "--format",
    type=click.Choice(output.FORMATS),
    default=output.TABLE,
    show_default=True,
    expose_value=False,
    callback=lambda _, __, value: output.shown_as.set(value),
    help="Format of standard output.",
)

ROWS: Final = option("--rows", is_flag=True, help="List every row instead of grouping similar ones.")
EXCEL_SAFE: Final = option(
    "--excel-safe", is_flag=True, help="Keep spreadsheets from reading cells as formulas."
)
BY: Final = names_option(
    "--by",
    metavar="COLUMNS",
    help='Columns such as prompt,seed; also run_dir, size, hour, or a length of time such as "1h".',
)

_VERBOSITY: Final = "dreamo_batch.verbosity"


def verbosity(*, is_hidden: bool = False) -> list[click.Option]:
    """Declare the verbosity options."""
    common: dict[str, Any] = {"expose_value": False, "callback": _note_verbosity, "hidden": is_hidden}
    return [
        option("-v", "--verbose", count=True, help="Show the log; twice: with details.", **common),
        option("-q", "--quiet", is_flag=True, help="Show only errors and warnings.", **common),
        option("--log-file", metavar="PATH", help="Append the dated log to a file.", **common),
    ]


def verbosity_words() -> list[str]:
    """Return the verbosity options as passed to this command."""
    asked = click.get_current_context().meta.get(_VERBOSITY, {})
    words = ["--verbose"] * asked.get("verbose", 0) + ["--quiet"] * asked.get("quiet", False)
    return words + (["--log-file", asked["log_file"]] if asked.get("log_file") else [])


def _note_verbosity(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Record a verbosity option, wherever it is given."""
    if value:
        context.meta.setdefault(_VERBOSITY, {})[parameter.name] = value


def read_table(path: str, options: dict[str, Any]) -> pd.DataFrame:
    """Read the table of a command, and remove the options about its file from the others."""
    delimiter, rename = options.pop("delimiter"), options.pop("rename")
    further = {name: options.pop(name) for name in ("decimal", "encoding")}
    pairs = [pair.partition("=") for pair in rename]
    for old, equals, new in pairs:
        if not (old and equals and new) or "=" in new:
            raise click.UsageError(f"--rename takes one OLD=NEW at a time, not {old + equals + new!r}")
    sep = "\t" if delimiter in {"\\t", "tab"} else delimiter
    return dreamo.read_table(path, sep=sep, rename={old: new for old, _, new in pairs}, **further)


def split(given: Sequence[str]) -> list[str] | None:
    """Split comma-separated words like CSV, so that quoted labels may contain commas; None if nothing is given."""
    words = [word.strip() for line in csv.reader(given, skipinitialspace=True) for word in line]
    found = [word for word in words if word]
    if given and not found:  # an unset variable in a script mustn't mean everything
        raise click.UsageError("a list of names is empty; write some, such as a,b, or leave the option out.")
    return found or None
