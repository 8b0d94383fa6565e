"""Commands that say what a run came to: `costs`, `latency` and `failures`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from dreamo_batch import columns
from dreamo_batch.cli import exits
from dreamo_batch.cli import options as declared
from dreamo_batch.cli.output import hint, show_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

_BY: Final = click.Option(
    ["--by"],
    multiple=True,
    metavar="COLUMNS",
    help='Columns such as prompt,seed; also run_dir, size, hour, or a length of time such as "1h".',
)
_DIGITS: Final = 6
# What a terminal does without: exact text stands beside each float, and a class says most of its message.
_LEFT_OUT: Final = (columns.SPENT_USD, columns.ESTIMATED, columns.EXAMPLE, columns.ADVICE)


@click.command(params=[declared.RUN_DIRS, declared.RUN_DIRS_OPTION, _BY, declared.FORMAT])
def costs(run_dirs: Sequence[str], run_dirs_option: Sequence[str], *, by: Sequence[str], format_: str) -> int:
    """Say what orders cost, group by group.

    Of one run directory or several: rows, orders, spent, cost per usable picture, waste, what may be billed beside,
    what duplicates saved. Sums are exact and those of the ledger; what is not known is missing, never 0.
    """
    import dreamo_batch as dreamo

    paths = declared.run_dirs_of(run_dirs, run_dirs_option)
    return _show(dreamo.costs(paths, by=declared.split(by)), format_)


@click.command(params=[declared.RUN_DIRS, declared.RUN_DIRS_OPTION, _BY, declared.FORMAT])
def latency(
    run_dirs: Sequence[str], run_dirs_option: Sequence[str], *, by: Sequence[str], format_: str
) -> int:
    """Say how long orders took, phase by phase.

    Mean and quantiles in seconds; on standard error what --max-in-flight would suit the service.
    """
    import dreamo_batch as dreamo

    paths = declared.run_dirs_of(run_dirs, run_dirs_option)
    code = _show(dreamo.latency(paths, by=declared.split(by)), format_)
    hint(declared.python_to_shell(dreamo.pace(paths)["advice"]))
    return code


@click.command(params=[declared.RUN_DIRS, declared.RUN_DIRS_OPTION, declared.FORMAT])
def failures(run_dirs: Sequence[str], run_dirs_option: Sequence[str], *, format_: str) -> int:
    """Say what failed and why.

    By class, code and message: what each means, whether it may have been billed, and the Python call that tries just
    those rows again.
    """
    import dreamo_batch as dreamo

    found = dreamo.failures(declared.run_dirs_of(run_dirs, run_dirs_option))
    _show(found, format_)
    if not len(found):
        hint("nothing failed")
    return exits.DONE


def _show(table: pd.DataFrame, format_: str) -> int:
    show_frame(_for_reading(table) if format_ == "table" else table, format_)
    return exits.DONE


def _for_reading(table: pd.DataFrame) -> pd.DataFrame:
    told = [name for name in table.columns if name not in _LEFT_OUT and table[name].notna().any()]
    rounded = {
        name: table[name].round(_DIGITS) + 0.0  # no minus before a zero
        for name in told
        if table[name].dtype == columns.FLOAT
    }
    return table[told].assign(**rounded)
