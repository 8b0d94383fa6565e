"""Commands on the embedded local gateway: `serve` and `demo`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dreamo_batch import columns
from dreamo_batch.cli import buying, consent, exits
from dreamo_batch.cli import options as declared
from dreamo_batch.cli.output import emit, hint, is_quiet
from dreamo_batch.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from dreamo_batch.local import LocalGateway

_TABLE: Final = "jobs_small.csv"
_SCENE: Final = "scene"  # a column of that table's own
_SHEET: Final = "contact.png"


@click.command(
    params=[
        click.Option(["--host"], default="127.0.0.1", show_default=True, help="Address to listen on."),
        click.Option(
            ["--port"],
            type=click.IntRange(0, 65535),
            default=0,
            show_default="any free one",
            help="Port to listen on.",
        ),
        click.Option(
            ["--state-dir"], metavar="DIR", help="Keeps tasks and pictures; default: they go with it."
        ),
        click.Option(
            ["--run-dir"], metavar="RUN_DIR", help="Serve the state of a --local run: RUN_DIR/gateway."
        ),
        click.Option(
            ["--engine"], default="preview", show_default=True, help="What makes pictures: preview or flat."
        ),
        click.Option(
            ["--latency"],
            default="instant",
            show_default=True,
            help="How long tasks take: instant, fixed:SECONDS or lognormal:MEDIAN_S,SIGMA.",
        ),
        click.Option(["--faults"], metavar="FILE", help="JSON file that says what goes wrong."),
    ]
)
def serve(state_dir: str | None, run_dir: str | None, **options: Any) -> int:
    """Run the local gateway.

    Until it is interrupted: the service's contract, made-up pictures, no cost. Its key is taken from DREAMO_API_KEY,
    or made up. Prints one line of JSON once ready: base_url and api_key.
    """
    from dreamo_batch.execution.directory import RunDirectory
    from dreamo_batch.local import serve as local
    from dreamo_batch.service.settings import KEY_VARIABLE

    if state_dir is not None and run_dir is not None:
        raise click.UsageError("give --state-dir or --run-dir, not both")
    folder = state_dir if run_dir is None else RunDirectory(run_dir).gateway
    key = os.environ.get(KEY_VARIABLE, "").strip() or None
    try:
        local.serve(on_ready=_say_where, state_dir=folder, api_key=key, **options)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return exits.DONE


@click.command(
    params=[
        click.Option(
            ["--run-dir"], default="runs/demo", show_default=True, metavar="RUN_DIR", help="Where it is kept."
        ),
        declared.FORMAT,
    ]
)
def demo(run_dir: str, format_: str) -> int:
    """Run a small sweep on the local gateway.

    No key, no cost; a second demo buys nothing.
    """
    import dreamo_batch as dreamo

    folder = demo_folder()
    table = dreamo.read_table(folder / _TABLE)
    n_new = consent.offer_of(dreamo.plan(table, run_dir, base_dir=folder)).n_orders

    def work() -> pd.DataFrame:
        return dreamo.run(table, run_dir, gateway="local", base_dir=folder, progress=not is_quiet())

    code = buying.finish(work, run_dir, format_, with_pictures=True)
    hint(
        f"{n_new} pictures were ordered; the local gateway makes up its prices."
        if n_new
        else "Nothing was bought: every row had been ordered before."
    )
    _show_pictures(run_dir)
    return code


def _say_where(gateway: LocalGateway) -> None:
    emit(json.dumps({"base_url": gateway.base_url, "api_key": gateway.api_key}) + "\n")


def demo_folder() -> Path:
    """Find the demo's table: within an installed package, or beside it in the repository."""
    package = Path(__file__).parent.parent
    folders = (package / "demo_data", package.parent / "data")
    for folder in folders:
        if (folder / _TABLE).exists():
            return folder
    raise UsageError(
        f"the demo's table {_TABLE} is in neither of {', '.join(map(str, folders))}; install again"
    )


def _show_pictures(run_dir: str) -> None:
    import dreamo_batch as dreamo

    results = dreamo.load(run_dir)
    labels = [name for name in (_SCENE, columns.PROMPT) if name in results]
    sheet = Path(run_dir) / _SHEET
    n_shown = dreamo.contact_sheet(results, sheet, run_dir=run_dir, labels=labels)
    hint(f"The pictures are in {Path(run_dir) / 'images'}.")
    if n_shown:
        hint(f"All of them on one sheet: {sheet}")
