"""The command on the pictures of a run directory: `gallery`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dreamo_batch.cli import exits
from dreamo_batch.cli import options as declared
from dreamo_batch.cli.output import hint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import EllipsisType

_PAGES: Final = (".html", ".htm")
_NOTHING: Final = "none"


@click.command(
    params=[
        declared.RUN_DIRS,
        declared.RUN_DIRS_OPTION,
        click.Option(
            ["--output"],
            metavar="PATH",
            required=True,
            help="A page (.html), or a sheet for print (.png, .jpg, .pdf).",
        ),
        click.Option(
            ["--rows"],
            metavar="COLUMNS",
            help="What the lines down stand for: a column, or several, a,b; none: one line. Default: prompt, and "
            "whatever else tells rows apart.",
        ),
        click.Option(
            ["--columns", "across"],
            metavar="COLUMNS",
            help="What the lines across stand for; none: what is in a line is counted. Default: seed.",
        ),
        click.Option(["--title"], default="", metavar="TEXT", help="A heading."),
        click.Option(
            ["--paper"],
            type=click.Choice(["a4", "letter"]),
            default="a4",
            show_default=True,
            help="What a sheet is laid out for.",
        ),
        click.Option(["--font"], metavar="FILE", help="Font for the labels of a sheet."),
    ]
)
def gallery(
    run_dirs: Sequence[str],
    run_dirs_option: Sequence[str],
    *,
    output: str,
    rows: str | None,
    across: str | None,
    title: str,
    **of_sheet: Any,
) -> int:
    """Show the pictures of a run, or of several, as a grid.

    By default prompts against seeds, with the reference picture beside them, and what failed or is still open drawn
    as what it is. At any time, also while RUN_DIR is worked on.
    """
    import dreamo_batch as dreamo

    paths = declared.run_dirs_of(run_dirs, run_dirs_option)
    axes: dict[str, Any] = {"rows": _listed(rows), "columns": _listed(across)}
    if Path(output).suffix.lower() in _PAGES:
        seen = dreamo.gallery(paths, **axes, title=title)
        seen.to_html(output)
        hint(f"{len(seen.results)} rows shown in {output}")
    else:
        n_pictures = dreamo.contact_sheet(paths, output, **axes, title=title, **of_sheet)
        hint(f"{n_pictures} pictures on {output}")
    return exits.DONE


def _listed(text: str | None) -> Sequence[str] | EllipsisType:
    if text is None:
        return ...
    words = [word.strip() for word in text.split(",")]
    return [word for word in words if word and word != _NOTHING]
