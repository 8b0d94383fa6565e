"""Commands on a run directory: `status`, `results`, `retry` and `resolve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from dreamo_batch import columns
from dreamo_batch.cli import buying, exits
from dreamo_batch.cli import options as declared
from dreamo_batch.cli.output import hint, is_quiet, show_frame, show_summary, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

# A terminal gets what tells one row from another and how it went; the last one may run on.
_SHOWN: Final = (
    columns.STATUS,
    columns.DUPLICATE_OF,
    columns.SEED_SENT,
    columns.COST,
    columns.OUTPUT_PATH,
    columns.OUTPUT_ERROR,
    columns.ERROR_CLASS,
    columns.ERROR_MESSAGE,
)
_RETRY: Final = [option for keyword, option in declared.RUN.items() if keyword not in declared.ABOUT_TABLE]


@click.command(
    params=[
        declared.RUN_DIR,
        declared.RUN_DIR_OPTION,
        click.Option(
            ["--verify"], is_flag=True, help="Check the ledger and the bytes of every picture; 1 if damaged."
        ),
        declared.FORMAT,
    ]
)
def status(run_dir: str | None, run_dir_option: str | None, *, verify: bool, format_: str) -> int:
    """Count rows and add up money.

    At any time, also while RUN_DIR is worked on.
    """
    import dreamo_batch as dreamo

    path = declared.run_dir_of(run_dir, run_dir_option)
    damage = dreamo.verify(path) if verify else []
    try:
        summary = dreamo.status(path)
    except dreamo.DirectoryError:  # too damaged to count, but what is wrong is known
        for line in damage:
            warn(line)
        raise
    show_summary(summary | ({"damage": damage} if verify else {}), format_)
    if verify:
        hint(f"damage: {len(damage)}" if damage else "nothing is damaged")
    return exits.NOT_ALL if damage else exits.DONE


@click.command(
    params=[
        declared.RUN_DIRS,
        declared.RUN_DIRS_OPTION,
        click.Option(
            ["--output"], metavar="PATH", help="Write a file instead: .csv, .tsv, .jsonl, .parquet or .xlsx."
        ),
        click.Option(
            ["--excel-safe"], is_flag=True, help="Keep spreadsheets from reading cells as formulas."
        ),
        declared.FORMAT,
    ]
)
def results(
    run_dirs: Sequence[str],
    run_dirs_option: Sequence[str],
    *,
    output: str | None,
    excel_safe: bool,
    format_: str,
) -> int:
    """Print or write the table with its results.

    That of the last run in RUN_DIR, or those of several behind each other, with status, pictures, costs and errors
    beside your own columns.
    """
    import dreamo_batch as dreamo

    frame = dreamo.load(declared.run_dirs_of(run_dirs, run_dirs_option))
    if output is not None:
        dreamo.write_table(frame, output, excel_safe=excel_safe)
        hint(f"{len(frame)} rows written to {output}")
    elif format_ == "table":
        show_frame(_for_reading(frame), format_)
        hint("--format json or csv, or --output PATH, give every column.")
    else:
        show_frame(frame, format_, excel_safe=excel_safe)
    return exits.DONE


@click.command(
    params=[
        declared.RUN_DIR,
        declared.RUN_DIR_OPTION,
        click.Option(
            ["--rows"], multiple=True, metavar="LABELS", help="Labels, such as 3,7; default: all that failed."
        ),
        click.Option(
            ["--classes"],
            multiple=True,
            metavar="CLASSES",
            help="Only these error classes, or ambiguous: a,b,...",
        ),
        *_RETRY,
        declared.LOCAL,
        click.Option(["--dry-run"], is_flag=True, help="Print what would be ordered, and send nothing."),
        declared.YES,
        declared.NO_CAP,
        declared.FORMAT,
    ]
)
def retry(
    run_dir: str | None,
    run_dir_option: str | None,
    *,
    rows: Sequence[str],
    classes: Sequence[str],
    local: bool,
    dry_run: bool,
    yes: bool,
    no_cap: bool,
    format_: str,
    **options: Any,
) -> int:
    """Order failed or ambiguous rows again.

    Each once; ambiguous ones only if named, since they may be paid twice. Asks before it spends money, as `run`
    does. The cap defaults to the stored one; a run of the local gateway is recognised by itself.
    """
    import dreamo_batch as dreamo
    from dreamo_batch.batch.retry_plan import plan_retry
    from dreamo_batch.execution.directory import RunDirectory

    path = declared.run_dir_of(run_dir, run_dir_option)
    chosen: dict[str, Any] = {"rows": declared.split(rows), "classes": declared.split(classes)}
    asked = {
        keyword: value
        for keyword, value in options.items()
        if keyword not in {"base_url", "allow_private_links"}
    }
    is_local = local or (options["base_url"] is None and RunDirectory(path).gateway.is_dir())

    def planned() -> pd.DataFrame:
        return plan_retry(path, **chosen, **asked)

    if dry_run:
        return buying.show_plan(planned(), format_, on_invalid="skip")
    options["max_new_cost"] = buying.agree(
        planned, path, options, is_local=is_local, is_agreed=yes, no_cap=no_cap
    )
    return buying.finish(
        lambda: dreamo.retry(
            path, gateway="local" if is_local else None, progress=not is_quiet(), **chosen, **options
        ),
        path,
        format_,
        with_pictures=options["download"],
    )


@click.command(
    params=[
        click.Argument(["words"], nargs=-1, metavar="[RUN_DIR] ROW"),
        declared.RUN_DIR_OPTION,
        click.Option(
            ["--order"],
            type=click.IntRange(min=1),
            metavar="N",
            help="Number of the order, where several of the row are in doubt.",
        ),
        click.Option(
            ["--task-id"], metavar="ID", help="The order was taken, as this task; the next run asks for it."
        ),
        click.Option(["--not-sent"], is_flag=True, help="The order was not taken; the next run orders it."),
        declared.FORMAT,
    ]
)
def resolve(
    words: Sequence[str],
    run_dir_option: str | None,
    *,
    order: int | None,
    task_id: str | None,
    not_sent: bool,
    format_: str,
) -> int:
    """Settle an ambiguous row by hand.

    After a look at your bill: was the order taken, or not? ROW is the label of the row, or its job_id.
    """
    import dreamo_batch as dreamo

    if not words or len(words) > 2:  # noqa: PLR2004 - a directory and a row
        raise click.UsageError("name a run directory and one row: RUN_DIR ROW")
    *named, row = words
    path = declared.run_dir_of(named[0] if named else None, run_dir_option)
    if (task_id is None) != not_sent:
        raise click.UsageError("say either --task-id ID (it was taken) or --not-sent (it was not)")
    dreamo.resolve(path, row, order=order, task_id=task_id, not_sent=not_sent)
    show_summary(dreamo.status(path), format_)
    hint(f"row {row} is settled; run the table again to go on.")
    return exits.DONE


def _for_reading(frame: pd.DataFrame) -> pd.DataFrame:
    names = [name for name in frame.columns if name not in columns.OUTPUTS]
    told = [name for name in _SHOWN if frame[name].notna().any()]
    told += [columns.RUN_DIR] if len(frame[columns.RUN_DIR].unique()) > 1 else []
    return frame[[*names, *told]]
