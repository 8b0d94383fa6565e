"""Asking before money is spent."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dreamo_batch import columns
from dreamo_batch.cli import process
from dreamo_batch.cli.options import (
    ABOUT_FILE,
    ABOUT_TABLE,
    FORMAT,
    LOCAL,
    NO_CAP,
    PLAN,
    RUN,
    RUN_DIR,
    RUN_DIR_OPTION,
    RUN_DIRS,
    RUN_DIRS_OPTION,
    TABLE,
    YES,
    python_to_shell,
    read_table,
    run_dir_of,
    run_dirs_of,
    split,
)
from dreamo_batch.cli.output import emit, hint, is_quiet, show_frame, show_summary, warn
from dreamo_batch.engine.budget import EXACT, money
from dreamo_batch.errors import RunStopped, UsageError
from dreamo_batch.text import harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import EllipsisType

    import pandas as pd

    from dreamo_batch.gateway import LocalGateway
    from dreamo_batch.service.config import Settings


NEW, _, _, IN_FLIGHT, _, INVALID, _ = columns.ACTIONS
_YES: Final = ("y", "yes")
_MARGIN: Final = Decimal("1.25")
_SHOWN_USD: Final = Decimal("0.0001")
_CONSENT_DIGITS: Final = 9  # what a sum of floats is off by lies below


@dataclass(frozen=True, slots=True)
class Offer:
    """What would be bought: attempts, and the most that they can cost, USD; NaN where no price is known."""

    n_attempts: int
    cost_usd: float

    def sentence(self, service: str, *, max_cost: str | None = None) -> str:
        """Say it."""
        attempts = "1 new attempt" if self.n_attempts == 1 else f"{self.n_attempts} new attempts"
        most = self.most()
        cost = "at a price not known yet" if most is None else f"for up to ${most}"
        cap = "" if money(max_cost) is None else f"; capped at ${max_cost} in all"
        return f"{attempts} at {service}, {cost}{cap}."

    def most(self, margin: Decimal = Decimal(1)) -> str | None:
        """Give the sum that the offer comes to, times a margin, as USD text rounded up; None without a price."""
        if math.isnan(self.cost_usd):
            return None
        exact = EXACT.multiply(Decimal(repr(round(self.cost_usd, _CONSENT_DIGITS))), margin)
        return format(exact.quantize(_SHOWN_USD, ROUND_UP, EXACT), "f")


def is_needed(settings: Settings, *, is_agreed: bool) -> bool:
    """Say whether a call could spend money that nobody agreed to yet."""
    return not (is_agreed or settings.is_loopback)


def ask(planned: pd.DataFrame, settings: Settings, options: Mapping[str, Any]) -> str | None:
    """Ask whether what is planned may be bought, and return the sum agreed to."""
    _refuse_invalid(planned, options)
    offer = offer_of(planned, may_repeat=options["max_attempts"] > 1)
    if not offer.n_attempts:
        return None
    sentence = offer.sentence(settings.service_name, max_cost=options["max_cost"])
    agree_to(sentence, settings, instead="see it row by row with --dry-run")
    return offer.most()


def bind(planned: pd.DataFrame, settings: Settings, options: Mapping[str, Any]) -> str | None:
    """Say what a call agreed to with `--yes` may come to, and return the sum that it stops at, USD."""
    _refuse_invalid(planned, options)
    offer = offer_of(planned, may_repeat=options["max_attempts"] > 1)
    if not offer.n_attempts:
        return None
    most = offer.most(_MARGIN)
    stops = (
        "no price is known, so nothing limits this call; --max-cost does"
        if most is None
        else f"this call stops at ${most}; --no-cap lifts that"
    )
    warn(f"{offer.sentence(settings.service_name)} {stops[0].upper()}{stops[1:]}.")
    return most


def agree_to(sentence: str, settings: Settings, *, instead: str = "") -> None:
    """Ask on the terminal."""
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        raise click.ClickException(
            f"{sentence} Nothing was sent: there is no terminal to ask on. Add --yes to agree to it"
            f"{f', or {instead}' if instead else ''}."
        )
    # Without a key nothing can be bought: the call itself says so, and there is nothing to ask.
    if settings.api_key is not None and not _says_yes(sentence):
        raise click.ClickException("not agreed to, so nothing was sent.")


def offer_of(planned: pd.DataFrame, *, may_repeat: bool = False) -> Offer:
    """Count what a plan would buy."""
    wanted = [NEW, IN_FLIGHT] if may_repeat else [NEW]
    bought = planned[planned[columns.ACTION].isin(wanted)]
    return Offer(len(bought), float(bought[columns.COST_HIGH_USD].sum(skipna=False)))


def _refuse_invalid(planned: pd.DataFrame, options: Mapping[str, Any]) -> None:
    """Refuse what the call would refuse, before anybody is asked about the rest."""
    invalid = planned[planned[columns.ACTION] == INVALID]
    if len(invalid) and options.get("on_invalid") == "raise":
        raise click.ClickException(
            f"{len(invalid)} of the rows can't be submitted; nothing was sent. Row {invalid.index[0]}: "
            f"{invalid[columns.REASON].iloc[0]} `dreamo-batch validate TABLE` lists every problem; "
            "--on-invalid skip leaves these rows out."
        )


def _says_yes(sentence: str) -> bool:
    sys.stderr.write(f"{harmless(sentence)} Buy? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in _YES


# The reason is what a reader looks for; it stands last, where it is never cut.
_READING_ORDER: Final = (
    columns.ACTION,
    columns.JOB_ID,
    columns.COST_LOW_USD,
    columns.COST_HIGH_USD,
    columns.REASON,
)
_HINTS: Final = {
    columns.FAILED: "failed: `dreamo-batch results {0}` says why, `dreamo-batch retry {0}` submits them again.",
    columns.AMBIGUOUS: "ambiguous: look at your bill, then `dreamo-batch resolve {0} ROW --task-id ID` or "
    "`--not-sent`; `dreamo-batch retry {0} --classes ambiguous` submits them again and may pay twice.",
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
    """See to it that what a call may spend was agreed to, and return the sum that then binds it."""
    from dreamo_batch.service.config import resolve

    if is_local and options["base_url"] is not None:
        raise click.UsageError("give --local or --base-url, not both")
    settings = None if is_local else resolve(base_url=options["base_url"])
    given: str | None = options["max_new_cost"]
    if settings is None or settings.is_loopback:
        return given
    _refuse_other_service(run_dir, settings.service_name)
    if not is_agreed:
        agreed = ask(plan(), settings, options)
        return given or agreed
    is_capped = options["max_cost"] is not None or _stored_cap(run_dir) is not None
    if given or no_cap or is_capped:
        return given
    return bind(plan(), settings, options)


def _stored_cap(run_dir: str) -> object:
    from dreamo_batch.engine.directory import RunDirectory
    from dreamo_batch.results.load import stored_cap

    return stored_cap(RunDirectory(run_dir))


def finish(work: Callable[[], pd.DataFrame], run_dir: str, format_: str, *, with_pictures: bool) -> int:
    """Do the work, print what it came to, and give the exit code."""
    import dreamo_batch as dreamo

    try:
        results = work()
    except RunStopped as stopped:
        if stopped.results is not None:
            show_summary(dreamo.status(run_dir), format_)
        raise
    show_summary(dreamo.status(run_dir), format_)
    _give_hints(results, run_dir, with_pictures=with_pictures)
    return process.of_results(results, with_pictures=with_pictures)


def show_plan(planned: pd.DataFrame, format_: str, *, on_invalid: str = "raise") -> int:
    """Print a plan, and give the exit code."""
    show_frame(planned[list(_READING_ORDER)] if format_ == "table" else planned, format_)
    counts = planned[columns.ACTION].value_counts()
    counted = ", ".join(f"{counts[action]} {action}" for action in columns.ACTIONS if counts.get(action))
    hint(f"{len(planned)} rows: {counted or 'none'}. Nothing was sent.")
    for warning in planned.warnings():
        warn(f"warning: {warning}")
    is_refused = on_invalid == "raise" and (planned[columns.ACTION] == INVALID).any()
    return process.UNUSABLE if is_refused else process.DONE


def _refuse_other_service(run_dir: str, service: str) -> None:
    """Refuse another service's directory before anybody is asked to pay this one."""
    from dreamo_batch.engine.directory import RunDirectory
    from dreamo_batch.engine.ledger import refuse_other_service

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


_BY: Final = click.Option(
    ["--by"],
    multiple=True,
    metavar="COLUMNS",
    help='Columns such as prompt,seed; also run_dir, size, hour, or a length of time such as "1h".',
)
_DIGITS: Final = 6
# What a terminal does without: exact text stands beside each float, and a class says most of its message.
_LEFT_OUT: Final = (columns.SPENT_USD, columns.ESTIMATED, columns.EXAMPLE, columns.ADVICE)


@click.command(params=[RUN_DIRS, RUN_DIRS_OPTION, _BY, FORMAT])
def costs(run_dirs: Sequence[str], run_dirs_option: Sequence[str], *, by: Sequence[str], format_: str) -> int:
    """Say what attempts cost, group by group.

    Of one run directory or several: rows, attempts, spent, cost per usable picture, waste, what may be billed beside,
    what duplicates saved. Sums are exact and those of the ledger; what is not known is missing, never 0.
    """
    import dreamo_batch as dreamo

    paths = run_dirs_of(run_dirs, run_dirs_option)
    return _show(dreamo.costs(paths, by=split(by)), format_)


@click.command(params=[RUN_DIRS, RUN_DIRS_OPTION, _BY, FORMAT])
def latency(
    run_dirs: Sequence[str], run_dirs_option: Sequence[str], *, by: Sequence[str], format_: str
) -> int:
    """Say how long attempts took, phase by phase.

    Mean and quantiles in seconds; on standard error what --max-in-flight would suit the service.
    """
    import dreamo_batch as dreamo

    paths = run_dirs_of(run_dirs, run_dirs_option)
    code = _show(dreamo.latency(paths, by=split(by)), format_)
    hint(python_to_shell(dreamo.pace(paths)["advice"]))
    return code


@click.command(params=[RUN_DIRS, RUN_DIRS_OPTION, FORMAT])
def failures(run_dirs: Sequence[str], run_dirs_option: Sequence[str], *, format_: str) -> int:
    """Say what failed and why.

    By class, code and message: what each means, whether it may have been billed, and the Python call that tries just
    those rows again.
    """
    import dreamo_batch as dreamo

    found = dreamo.failures(run_dirs_of(run_dirs, run_dirs_option))
    _show(found, format_)
    if not len(found):
        hint("nothing failed")
    return process.DONE


def _show(table: pd.DataFrame, format_: str) -> int:
    show_frame(_rounded_for_reading(table) if format_ == "table" else table, format_)
    return process.DONE


def _rounded_for_reading(table: pd.DataFrame) -> pd.DataFrame:
    told = [name for name in table.columns if name not in _LEFT_OUT and table[name].notna().any()]
    rounded = {
        name: table[name].round(_DIGITS) + 0.0  # no minus before a zero
        for name in told
        if table[name].dtype == columns.FLOAT
    }
    return table[told].assign(**rounded)


@click.command(
    params=[
        click.Option(["--live"], is_flag=True, help="Check the real service, which costs money."),
        RUN["base_url"],
        YES,
        FORMAT,
    ]
)
def check(live: bool, base_url: str | None, yes: bool, format_: str) -> int:
    """Check that a service keeps its contract.

    Without --live it is the embedded local gateway that is checked, at no cost. With it the real service gets up to
    two attempts of small pictures; the most that they can cost is told first, and asked about.
    """
    from dreamo_batch.gateway import LocalGateway

    if live:
        return _check(base_url, None, format_, is_agreed=yes)
    if base_url is not None:
        raise click.UsageError("--base-url names a service that may cost money: add --live")
    with LocalGateway(engine="flat") as gateway:
        return _check(gateway.base_url, gateway.api_key, format_, is_agreed=yes)


def _check(base_url: str | None, api_key: str | None, format_: str, *, is_agreed: bool) -> int:
    from dreamo_batch.connect import with_key
    from dreamo_batch.probe import N_ORDERS_MAX, check_service, most_it_costs
    from dreamo_batch.service.client import Client

    with Client(api_key=api_key, base_url=base_url) as client:
        settings = with_key(client).settings
        most = most_it_costs(client)
        offer = Offer(N_ORDERS_MAX, math.nan if most is None else float(most))
        sentence = f"Up to {offer.sentence(settings.service_name)}"
        hint(sentence)
        if is_needed(settings, is_agreed=is_agreed):
            agree_to(sentence, settings)
        checks = check_service(client=client)
    show_frame(checks, format_)
    n_failed = int((~checks[columns.PASSED].fillna(value=False)).sum())
    hint(f"{len(checks) - n_failed} of {len(checks)} checks passed.")
    return process.NOT_ALL if n_failed else process.DONE


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
_RETRY: Final = [option for keyword, option in RUN.items() if keyword not in ABOUT_TABLE]


@click.command(
    params=[
        RUN_DIR,
        RUN_DIR_OPTION,
        click.Option(
            ["--verify"], is_flag=True, help="Check the ledger and the bytes of every picture; 1 if damaged."
        ),
        FORMAT,
    ]
)
def status(run_dir: str | None, run_dir_option: str | None, *, verify: bool, format_: str) -> int:
    """Count rows and add up money.

    At any time, also while RUN_DIR is worked on.
    """
    import dreamo_batch as dreamo

    path = run_dir_of(run_dir, run_dir_option)
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
    return process.NOT_ALL if damage else process.DONE


@click.command(
    params=[
        RUN_DIRS,
        RUN_DIRS_OPTION,
        click.Option(
            ["--output"], metavar="PATH", help="Write a file instead: .csv, .tsv, .jsonl, .parquet or .xlsx."
        ),
        click.Option(
            ["--excel-safe"], is_flag=True, help="Keep spreadsheets from reading cells as formulas."
        ),
        FORMAT,
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

    frame = dreamo.load(run_dirs_of(run_dirs, run_dirs_option))
    if output is not None:
        dreamo.write_table(frame, output, excel_safe=excel_safe)
        hint(f"{len(frame)} rows written to {output}")
    elif format_ == "table":
        show_frame(_results_for_reading(frame), format_)
        hint("--format json or csv, or --output PATH, give every column.")
    else:
        show_frame(frame, format_, excel_safe=excel_safe)
    return process.DONE


@click.command(
    params=[
        RUN_DIR,
        RUN_DIR_OPTION,
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
        LOCAL,
        click.Option(["--dry-run"], is_flag=True, help="Print what would be submitted, and send nothing."),
        YES,
        NO_CAP,
        FORMAT,
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
    """Attempt failed or ambiguous rows again.

    Each once; ambiguous ones only if named, since they may be paid twice. Asks before it spends money, as `run`
    does. The cap defaults to the stored one; a run of the local gateway is recognised by itself.
    """
    import dreamo_batch as dreamo
    from dreamo_batch.batch import plan_retry
    from dreamo_batch.engine.directory import RunDirectory

    path = run_dir_of(run_dir, run_dir_option)
    chosen: dict[str, Any] = {"rows": split(rows), "classes": split(classes)}
    asked = {
        keyword: value
        for keyword, value in options.items()
        if keyword not in {"base_url", "allow_private_links"}
    }
    is_local = local or (options["base_url"] is None and RunDirectory(path).gateway.is_dir())

    def planned() -> pd.DataFrame:
        return plan_retry(path, **chosen, **asked)

    if dry_run:
        return show_plan(planned(), format_, on_invalid="skip")
    options["max_new_cost"] = agree(planned, path, options, is_local=is_local, is_agreed=yes, no_cap=no_cap)
    return finish(
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
        RUN_DIR_OPTION,
        click.Option(
            ["--attempt"],
            type=click.IntRange(min=1),
            metavar="N",
            help="Number of the attempt, where several of the row are in doubt.",
        ),
        click.Option(
            ["--task-id"], metavar="ID", help="The attempt was taken, as this task; the next run asks for it."
        ),
        click.Option(
            ["--not-sent"], is_flag=True, help="The attempt was not taken; the next run submits it."
        ),
        FORMAT,
    ]
)
def resolve(
    words: Sequence[str],
    run_dir_option: str | None,
    *,
    attempt: int | None,
    task_id: str | None,
    not_sent: bool,
    format_: str,
) -> int:
    """Settle an ambiguous row by hand.

    After a look at your bill: was the attempt taken, or not? ROW is the label of the row, or its job_id.
    """
    import dreamo_batch as dreamo

    if not words or len(words) > 2:  # noqa: PLR2004 - a directory and a row
        raise click.UsageError("name a run directory and one row: RUN_DIR ROW")
    *named, row = words
    path = run_dir_of(named[0] if named else None, run_dir_option)
    if (task_id is None) != not_sent:
        raise click.UsageError("say either --task-id ID (it was taken) or --not-sent (it was not)")
    dreamo.resolve(path, row, attempt=attempt, task_id=task_id, not_sent=not_sent)
    show_summary(dreamo.status(path), format_)
    hint(f"row {row} is settled; run the table again to go on.")
    return process.DONE


def _results_for_reading(frame: pd.DataFrame) -> pd.DataFrame:
    names = [name for name in frame.columns if name not in columns.OUTPUTS]
    told = [name for name in _SHOWN if frame[name].notna().any()]
    told += [columns.RUN_DIR] if len(frame[columns.RUN_DIR].unique()) > 1 else []
    return frame[[*names, *told]]


@click.command(
    params=[
        RUN_DIR,
        RUN_DIR_OPTION,
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
        FORMAT,
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
        run_dir_of(run_dir, run_dir_option),
        output,
        formats=split(formats) or ("parquet", "csv"),
        pictures=pictures,  # type: ignore[arg-type] # click checked the words
        text=text,
        excel_safe=excel_safe,
    )
    show_summary(told, format_)
    return process.NOT_ALL if told.get("missing") else process.DONE


@click.command(
    params=[
        RUN_DIRS,
        RUN_DIRS_OPTION,
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

    path = dreamo.report(run_dirs_of(run_dirs, run_dirs_option), output)
    emit(f"{path}\n")
    hint(f"{path.stat().st_size / 1e6:.1f} MB; open it in a browser, or print it")
    return process.DONE


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
    from dreamo_batch.engine.directory import RunDirectory
    from dreamo_batch.gateway import gateway as local
    from dreamo_batch.service.config import KEY_VARIABLE

    if state_dir is not None and run_dir is not None:
        raise click.UsageError("give --state-dir or --run-dir, not both")
    folder = state_dir if run_dir is None else RunDirectory(run_dir).gateway
    key = os.environ.get(KEY_VARIABLE, "").strip() or None
    try:
        local.serve(on_ready=_say_where, state_dir=folder, api_key=key, **options)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return process.DONE


@click.command(
    params=[
        click.Option(
            ["--run-dir"], default="runs/demo", show_default=True, metavar="RUN_DIR", help="Where it is kept."
        ),
        FORMAT,
    ]
)
def demo(run_dir: str, format_: str) -> int:
    """Run a small sweep on the local gateway.

    No key, no cost; a second demo buys nothing.
    """
    import dreamo_batch as dreamo

    folder = demo_folder()
    table = dreamo.read_table(folder / _TABLE)
    n_new = offer_of(dreamo.plan(table, run_dir, base_dir=folder)).n_attempts

    def work() -> pd.DataFrame:
        return dreamo.run(table, run_dir, gateway="local", base_dir=folder, progress=not is_quiet())

    code = finish(work, run_dir, format_, with_pictures=True)
    hint(
        f"{n_new} pictures were submitted; the local gateway makes up its prices."
        if n_new
        else "Nothing was bought: every row had been submitted before."
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


_PAGES: Final = (".html", ".htm")
_NOTHING: Final = "none"


@click.command(
    params=[
        RUN_DIRS,
        RUN_DIRS_OPTION,
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

    paths = run_dirs_of(run_dirs, run_dirs_option)
    axes: dict[str, Any] = {"rows": _listed(rows), "columns": _listed(across)}
    if Path(output).suffix.lower() in _PAGES:
        seen = dreamo.gallery(paths, **axes, title=title)
        seen.to_html(output)
        hint(f"{len(seen.results)} rows shown in {output}")
    else:
        n_pictures = dreamo.contact_sheet(paths, output, **axes, title=title, **of_sheet)
        hint(f"{n_pictures} pictures on {output}")
    return process.DONE


def _listed(text: str | None) -> Sequence[str] | EllipsisType:
    if text is None:
        return ...
    words = [word.strip() for word in text.split(",")]
    return [word for word in words if word and word != _NOTHING]


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
        TABLE,
        *ABOUT_FILE,
        click.Option(
            ["--run-dir"], metavar="RUN_DIR", help="Taken as everywhere; a table is checked by itself."
        ),
        RUN["fix_images"],
        RUN["base_dir"],
        FORMAT,
    ]
)
def validate(
    table: str, run_dir: str | None, *, fix_images: bool, base_dir: str | None, format_: str, **options: Any
) -> int:
    """List every problem of every row of TABLE.

    TABLE is CSV, TSV, text, JSON, JSON Lines, Parquet or Excel, by its suffix. Sends nothing. Exit code 2 if a row
    can't be submitted.
    """
    import dreamo_batch as dreamo
    from dreamo_batch.jobs.rules import ERROR

    del run_dir
    frame = read_table(table, options)
    problems = dreamo.validate(frame, base_dir=base_dir or _folder_of(table), fix_images=fix_images)
    show_frame(_problems_for_reading(problems) if format_ == "table" else problems, format_)
    n_errors = int((problems[columns.SEVERITY] == ERROR).sum())
    hint(f"{len(frame)} rows: {n_errors} errors, {len(problems) - n_errors} warnings.")
    return process.UNUSABLE if n_errors else process.DONE


@click.command(
    params=[
        TABLE,
        *ABOUT_FILE,
        _RUN_DIR,
        *RUN.values(),
        LOCAL,
        YES,
        FORMAT,
    ]
)
def plan(table: str, run_dir: str | None, *, local: bool, yes: bool, format_: str, **options: Any) -> int:
    """Say what `run` would buy, and why.

    Sends nothing. Takes every option of `run`, so that a line can be planned before it is run.
    """
    del local, yes
    planned = _plan(read_table(table, options), run_dir, _at_home(options, table))
    return show_plan(planned, format_, on_invalid=options["on_invalid"])


@click.command(
    params=[
        TABLE,
        *ABOUT_FILE,
        _RUN_DIR_REQUIRED,
        *RUN.values(),
        LOCAL,
        _DRY_RUN,
        YES,
        NO_CAP,
        FORMAT,
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

    frame = read_table(table, options)
    options = _at_home(options, table)
    if dry_run:
        return show_plan(_plan(frame, run_dir, options), format_, on_invalid=options["on_invalid"])
    options["max_new_cost"] = agree(
        lambda: _plan(frame, run_dir, options), run_dir, options, is_local=local, is_agreed=yes, no_cap=no_cap
    )
    return finish(
        lambda: dreamo.run(
            frame, run_dir, gateway="local" if local else None, progress=not is_quiet(), **options
        ),
        run_dir,
        format_,
        with_pictures=options["download"],
    )


def _problems_for_reading(problems: pd.DataFrame) -> pd.DataFrame:
    """Put what is wrong and what to do into one sentence, at the end."""
    said = problems[columns.MESSAGE] + " " + problems[columns.FIX]
    said = problems.assign(**{columns.MESSAGE: said.map(python_to_shell)})
    return said[[columns.ROW, columns.COLUMN, columns.SEVERITY, columns.VALUE, columns.MESSAGE]]


def _plan(frame: pd.DataFrame, run_dir: str | None, options: dict[str, Any]) -> pd.DataFrame:
    import dreamo_batch as dreamo

    return dreamo.plan(frame, run_dir, **{keyword: options[keyword] for keyword in PLAN})


def _at_home(options: dict[str, Any], table: str) -> dict[str, Any]:
    """Let relative image paths start at the table's own folder, unless told otherwise."""
    return options | {"base_dir": options["base_dir"] or _folder_of(table)}


def _folder_of(table: str) -> str:
    return str(Path(table).absolute().parent)
