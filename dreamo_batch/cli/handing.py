"""Commands that make something of a run for others: `export` and `report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dreamo_batch.cli import exits
from dreamo_batch.cli import options as declared
from dreamo_batch.cli.output import emit, hint, show_summary

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(
    params=[
        declared.RUN_DIR,
        declared.RUN_DIR_OPTION,
        click.Option(["--output"], required=True, metavar="FOLDER", help="Where to; made if missing."),
        click.Option(
            ["--formats"],
            multiple=True,
            metavar="FORMATS",
            help="Of the table: parquet,csv,tsv,jsonl,xlsx; default: parquet,csv.",
        ),
        click.Option(
            ["--pictures"],
            type=click.Choice(["copy", "link", "none"]),
            default="copy",
            show_default=True,
            help="link: hard links, which take no space and must not be edited.",
        ),
        click.Option(["--text"], is_flag=True, help="Put prompt, seed and job id into PNG and JPEG copies."),
        click.Option(
            ["--excel-safe"], is_flag=True, help="Keep spreadsheets from reading cells as formulas."
        ),
        declared.FORMAT,
    ]
)
def export(
    run_dir: str | None,
    run_dir_option: str | None,
    *,
    output: str,
    formats: Sequence[str],
    pictures: str,
    text: bool,
    excel_safe: bool,
    format_: str,
) -> int:
    """Write results and pictures for other tools.

    The table as Parquet and CSV with a data dictionary, and an image folder with metadata.csv that the Hugging Face
    loader reads. The same command again changes nothing; files of others are never replaced. Exit code 1 if pictures
    are missing.
    """
    import dreamo_batch as dreamo

    told = dreamo.export(
        declared.run_dir_of(run_dir, run_dir_option),
        output,
        formats=declared.split(formats) or ("parquet", "csv"),
        pictures=pictures,  # type: ignore[arg-type] # click checked the words
        text=text,
        excel_safe=excel_safe,
    )
    show_summary(told, format_)
    return exits.NOT_ALL if told.get("missing") else exits.DONE


@click.command(
    params=[
        declared.RUN_DIRS,
        declared.RUN_DIRS_OPTION,
        click.Option(
            ["--output"],
            metavar="PATH",
            help="The file to write; default: report.html in RUN_DIR, if it is one.",
        ),
    ]
)
def report(run_dirs: Sequence[str], run_dirs_option: Sequence[str], *, output: str | None) -> int:
    """Write all that is to be told of a run as one page.

    One HTML file without any network: money, times, failures, ambiguous rows, pictures, near-duplicates, and a
    paragraph for a methods section. At any time, also while RUN_DIR is worked on. Prints the file's path.
    """
    import dreamo_batch as dreamo

    path = dreamo.report(declared.run_dirs_of(run_dirs, run_dirs_option), output)
    emit(f"{path}\n")
    hint(f"{path.stat().st_size / 1e6:.1f} MB; open it in a browser, or print it")
    return exits.DONE
