"""What every command that buys has in common: whom it pays, who agrees to it, and how it ends."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

import click

from dreamo_batch import columns
from dreamo_batch.cli import consent, exits
from dreamo_batch.cli.output import hint, show_frame, show_summary, warn
from dreamo_batch.errors import RunStopped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

# The reason is what a reader looks for; it stands last, where it is never cut.
_READING_ORDER: Final = (
    columns.ACTION,
    columns.JOB_ID,
    columns.COST_LOW_USD,
    columns.COST_HIGH_USD,
    columns.REASON,
)
_HINTS: Final = {
    columns.FAILED: "failed: `dreamo-batch results {0}` says why, `dreamo-batch retry {0}` orders them again.",
    columns.AMBIGUOUS: "ambiguous: look at your bill, then `dreamo-batch resolve {0} ROW --task-id ID` or "
    "`--not-sent`; `dreamo-batch retry {0} --classes ambiguous` orders them again and may pay twice.",
    columns.IN_PROGRESS: "in progress: the same command again asks for them.",
}


def agree(
    plan: Callable[[], pd.DataFrame],
    run_dir: str,
    options: Mapping[str, Any],
    *,
    is_local: bool,
    is_agreed: bool,
    no_cap: bool,
) -> str | None:
    """See to it that what a call may spend was agreed to, and return the sum that then binds it.

    Parameters
    ----------
    plan : callable
        Gives what would be bought; called only if somebody has to be asked.
    run_dir : str
        The run directory.
    options : mapping
        Options of the call.
    is_local : bool
        Whether the embedded gateway is used.
    is_agreed : bool
        Whether `--yes` was given.
    no_cap : bool
        Whether `--yes` is not to bind the call to what it should cost.

    Returns
    -------
    str or None
        USD that the call may add, as text: given with `--max-new-cost`, else agreed to; None where nothing limits it.

    Raises
    ------
    click.ClickException
        If it was not.
    SettingsError, OtherService
        If the service can't be used, or not with this directory.
    """
    from dreamo_batch.service.settings import resolve

    if is_local and options["base_url"] is not None:
        raise click.UsageError("give --local or --base-url, not both")
    settings = None if is_local else resolve(base_url=options["base_url"])
    given: str | None = options["max_new_cost"]
    if settings is None or settings.is_loopback:
        return given
    _refuse_other_service(run_dir, settings.service_name)
    if not is_agreed:
        agreed = consent.ask(plan(), settings, options)
        return given or agreed
    is_capped = options["max_cost"] is not None or _stored_cap(run_dir) is not None
    if given or no_cap or is_capped:
        return given
    return consent.bind(plan(), settings, options)


def _stored_cap(run_dir: str) -> object:
    from dreamo_batch.batch.reading import stored_cap
    from dreamo_batch.execution.directory import RunDirectory

    return stored_cap(RunDirectory(run_dir))


def finish(work: Callable[[], pd.DataFrame], run_dir: str, format_: str, *, with_pictures: bool) -> int:
    """Do the work, print what it came to, and give the exit code.

    Parameters
    ----------
    work : callable
        Buys, and gives the results.
    run_dir : str
        The run directory.
    format_ : {"table", "json", "csv"}
        How the summary is printed.
    with_pictures : bool
        Whether pictures were to be saved.

    Returns
    -------
    int
        See `exits.of_results`.
    """
    import dreamo_batch as dreamo

    try:
        results = work()
    except RunStopped as stopped:
        if stopped.results is not None:
            show_summary(dreamo.status(run_dir), format_)
        raise
    show_summary(dreamo.status(run_dir), format_)
    _give_hints(results, run_dir, with_pictures=with_pictures)
    return exits.of_results(results, with_pictures=with_pictures)


def show_plan(planned: pd.DataFrame, format_: str, *, on_invalid: str = "raise") -> int:
    """Print a plan, and give the exit code.

    Parameters
    ----------
    planned : pandas.DataFrame
        Columns of `dreamo_batch.columns.PLAN`.
    format_ : {"table", "json", "csv"}
        How it is printed.
    on_invalid : {"raise", "skip"}
        What the call would do about rows that can't be ordered.

    Returns
    -------
    int
        2 if the call would refuse the table.
    """
    show_frame(planned[list(_READING_ORDER)] if format_ == "table" else planned, format_)
    counts = planned[columns.ACTION].value_counts()
    counted = ", ".join(f"{counts[action]} {action}" for action in columns.ACTIONS if counts.get(action))
    hint(f"{len(planned)} rows: {counted or 'none'}. Nothing was sent.")
    for warning in planned.warnings():
        warn(f"warning: {warning}")
    is_refused = on_invalid == "raise" and (planned[columns.ACTION] == consent.INVALID).any()
    return exits.UNUSABLE if is_refused else exits.DONE


def _refuse_other_service(run_dir: str, service: str) -> None:
    """Refuse another service's directory before anybody is asked to pay this one."""
    from dreamo_batch.execution.directory import RunDirectory
    from dreamo_batch.execution.ledger import refuse_other_service

    directory = RunDirectory(run_dir)
    manifest = directory.read_manifest()
    if manifest is not None:
        refuse_other_service(directory, manifest.service, service)


def _give_hints(results: pd.DataFrame, run_dir: str, *, with_pictures: bool) -> None:
    counts = results[columns.STATUS].value_counts()
    for status, text in _HINTS.items():
        if n := int(counts.get(status, 0)):
            tell = warn if status == columns.AMBIGUOUS else hint
            tell(f"{n} {text.format(shlex.quote(run_dir))}")
    n_unsaved = int(
        ((results[columns.STATUS] == columns.COMPLETED) & results[columns.OUTPUT_PATH].isna()).sum()
    )
    if n_unsaved and with_pictures:
        hint(
            f"{n_unsaved} pictures could not be saved: the same command again fetches them; nothing is bought."
        )
