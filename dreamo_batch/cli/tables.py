"""Commands on a table: `validate`, `plan` and `run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dreamo_batch import columns
from dreamo_batch.cli import buying, exits
from dreamo_batch.cli import options as declared
from dreamo_batch.cli.output import hint, is_quiet, show_frame

if TYPE_CHECKING:
    import pandas as pd

_RUN_DIR_REQUIRED = click.Option(
    ["--run-dir"],
    required=True,
    metavar="RUN_DIR",
    help="Keeps the ledger and the pictures; made if missing.",
)
_RUN_DIR = click.Option(
    ["--run-dir"], metavar="RUN_DIR", help="The run directory; without one everything is new."
)
_DRY_RUN = click.Option(["--dry-run"], is_flag=True, help="Print the plan and send nothing, as `plan` does.")


@click.command(
    params=[
        declared.TABLE,
        *declared.ABOUT_FILE,
        click.Option(
            ["--run-dir"], metavar="RUN_DIR", help="Taken as everywhere; a table is checked by itself."
        ),
        declared.RUN["fix_images"],
        declared.RUN["base_dir"],
        declared.FORMAT,
    ]
)
def validate(
    table: str, run_dir: str | None, *, fix_images: bool, base_dir: str | None, format_: str, **options: Any
) -> int:
    """List every problem of every row of TABLE.

    TABLE is CSV, TSV, text, JSON, JSON Lines, Parquet or Excel, by its suffix. Sends nothing. Exit code 2 if a row
    can't be ordered.
    """
    import dreamo_batch as dreamo
    from dreamo_batch.table.rules import ERROR

    del run_dir
    frame = declared.read_table(table, options)
    problems = dreamo.validate(frame, base_dir=base_dir or _folder_of(table), fix_images=fix_images)
    show_frame(_for_reading(problems) if format_ == "table" else problems, format_)
    n_errors = int((problems[columns.SEVERITY] == ERROR).sum())
    hint(f"{len(frame)} rows: {n_errors} errors, {len(problems) - n_errors} warnings.")
    return exits.UNUSABLE if n_errors else exits.DONE


@click.command(
    params=[
        declared.TABLE,
        *declared.ABOUT_FILE,
        _RUN_DIR,
        *declared.RUN.values(),
        declared.LOCAL,
        declared.YES,
        declared.FORMAT,
    ]
)
def plan(table: str, run_dir: str | None, *, local: bool, yes: bool, format_: str, **options: Any) -> int:
    """Say what `run` would buy, and why.

    Sends nothing. Takes every option of `run`, so that a line can be planned before it is run.
    """
    del local, yes
    planned = _plan(declared.read_table(table, options), run_dir, _at_home(options, table))
    return buying.show_plan(planned, format_, on_invalid=options["on_invalid"])


@click.command(
    params=[
        declared.TABLE,
        *declared.ABOUT_FILE,
        _RUN_DIR_REQUIRED,
        *declared.RUN.values(),
        declared.LOCAL,
        _DRY_RUN,
        declared.YES,
        declared.NO_CAP,
        declared.FORMAT,
    ]
)
def run(
    table: str,
    run_dir: str,
    *,
    local: bool,
    dry_run: bool,
    yes: bool,
    no_cap: bool,
    format_: str,
    **options: Any,
) -> int:
    """Work TABLE off, or go on with it.

    The same command again resumes, and a finished run costs nothing. Asks before it spends money; without a
    terminal it needs --yes instead. Prints counts and money.
    """
    import dreamo_batch as dreamo

    frame = declared.read_table(table, options)
    options = _at_home(options, table)
    if dry_run:
        return buying.show_plan(_plan(frame, run_dir, options), format_, on_invalid=options["on_invalid"])
    options["max_new_cost"] = buying.agree(
        lambda: _plan(frame, run_dir, options), run_dir, options, is_local=local, is_agreed=yes, no_cap=no_cap
    )
    return buying.finish(
        lambda: dreamo.run(
            frame, run_dir, gateway="local" if local else None, progress=not is_quiet(), **options
        ),
        run_dir,
        format_,
        with_pictures=options["download"],
    )


def _for_reading(problems: pd.DataFrame) -> pd.DataFrame:
    """Put what is wrong and what to do into one sentence, at the end."""
    said = problems[columns.MESSAGE] + " " + problems[columns.FIX]
    said = problems.assign(**{columns.MESSAGE: said.map(declared.python_to_shell)})
    return said[[columns.ROW, columns.COLUMN, columns.SEVERITY, columns.VALUE, columns.MESSAGE]]


def _plan(frame: pd.DataFrame, run_dir: str | None, options: dict[str, Any]) -> pd.DataFrame:
    import dreamo_batch as dreamo

    return dreamo.plan(frame, run_dir, **{keyword: options[keyword] for keyword in declared.PLAN})


def _at_home(options: dict[str, Any], table: str) -> dict[str, Any]:
    """Let relative image paths start at the table's own folder, unless told otherwise."""
    return options | {"base_dir": options["base_dir"] or _folder_of(table)}


def _folder_of(table: str) -> str:
    return str(Path(table).absolute().parent)
