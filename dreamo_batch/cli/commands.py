"""The commands: each reads its arguments, asks before it spends money, makes one call, and prints."""

from __future__ import annotations

import functools
import json
import shlex
import signal
import sys
import time
from contextlib import suppress
from datetime import datetime
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.arguments import file_path, output_file
from dreamo_batch.cli import background
from dreamo_batch.cli.options import (
    ABOUT_FILE,
    ABOUT_TABLE,
    BY,
    EXCEL_SAFE,
    FORMAT,
    LOCAL,
    NO_CAP,
    NOT_OPTIONS,
    ROWS,
    RUN_DIR,
    RUN_DIRS,
    TABLE,
    YES,
    command,
    names_option,
    of,
    option,
    read_table,
    run_dir_and,
    split,
    verbosity_words,
)
from dreamo_batch.cli.output import (
    DONE,
    NOT_ALL,
    STOPPED,
    UNUSABLE,
    code_of_results,
    emit,
    hint,
    is_for_people,
    is_quiet,
    show_frame,
    show_summary,
    warn,
)
from dreamo_batch.errors import RunStopped, UsageError
from dreamo_batch.money import EXACT, dollars, money, total_if_known
from dreamo_batch.text import counted, harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import EllipsisType

    import pandas as pd

    from dreamo_batch.engine.plan import Plan
    from dreamo_batch.service.config import Settings

NEW, _, _, IN_FLIGHT, _, INVALID, _ = columns.ACTIONS
_MARGIN: Final = Decimal("1.25")
_STEPS_USD: Final = (Decimal("0.01"), Decimal("0.0001"))  # from a dollar up, and below


# Asking for consent.


class PurchaseEstimate(NamedTuple):
    """The number of attempts that would be bought, and the most they can cost in USD; None if no price is known."""

    n_attempts: int
    cost_usd: Decimal | None

    def sentence(self, service: str, *, max_cost: str | None = None) -> str:
        """Say what would be bought, where, and for how much."""
        most, cap = self.most(), money(max_cost)
        cost = "at a price not known yet" if most is None else f"for up to {dollars(Decimal(most))}"
        capped = "" if cap is None else f"; capped at {dollars(cap)} in all"
        return f"{counted(self.n_attempts, 'new attempt')} at {service}, {cost}{capped}."

    def most(self, margin: Decimal = Decimal(1)) -> str | None:
        """Return the cost times a margin, rounded up, as text in USD; None without a price."""
        if self.cost_usd is None:
            return None
        exact = EXACT.multiply(self.cost_usd, margin)
        return format(exact.quantize(_STEPS_USD[exact < 1], ROUND_UP, EXACT), "f")


def agree(
    plan: Callable[[], Any], run_dir: str, options: Mapping[str, Any], *, is_agreed: bool, no_cap: bool
) -> str | None:
    """Get consent to what a call may spend; return the sum in USD at which it stops."""
    from dreamo_batch.engine.directory import RunDirectory
    from dreamo_batch.engine.ledger import refuse_other_service
    from dreamo_batch.results.load import stored_terms
    from dreamo_batch.service.config import key_missing, resolve

    settings = None if options["gateway"] else resolve(base_url=options["base_url"])
    limit: str | None = options["max_new_cost"]
    if settings is None or settings.is_loopback:
        return limit
    directory = RunDirectory(run_dir)
    manifest = directory.read_manifest()
    if manifest is not None:
        refuse_other_service(directory, manifest.service, settings.service_name)
    is_limited = limit or no_cap or options["max_cost"] is not None or stored_terms(directory).cap is not None
    if is_agreed and is_limited:
        return limit
    planned = plan()
    if settings.api_key is None:  # checked only now, because a table can be corrected without a key
        raise key_missing(settings, "use --local")
    agreed = consent(planned, settings, options, is_agreed=is_agreed)
    return limit or agreed


def consent(planned: Plan, settings: Settings, options: Mapping[str, Any], *, is_agreed: bool) -> str | None:
    """Ask whether to buy what is planned, unless agreed; return the sum in USD to stop at; raise on invalid rows."""
    invalid = planned[planned[columns.ACTION] == INVALID]
    if len(invalid) and options.get("on_invalid") == "raise":
        raise click.ClickException(
            f"{counted(len(invalid), 'row')} can't be submitted; nothing was sent. Row {invalid.index[0]}: "
            f"{invalid[columns.REASON].iloc[0]} `dreamo-batch validate TABLE` lists every problem; "
            "--on-invalid skip leaves these rows out."
        )
    may_repeat = options["max_attempts"] > 1  # then also tasks in flight
    bought = planned[planned[columns.ACTION].isin([NEW, IN_FLIGHT] if may_repeat else [NEW])]
    offer = PurchaseEstimate(len(bought), total_if_known(map(money, bought[columns.COST_HIGH_USD])))
    if not offer.n_attempts:
        return None
    if not is_agreed:
        _show_warnings(planned)
        sentence = offer.sentence(settings.service_name, max_cost=options["max_cost"])
        _ask(sentence, instead=", or see the plan with --dry-run")
        return offer.most()
    most = offer.most(_MARGIN)
    stops = (
        "No price is known, so nothing limits this call; --max-cost does."
        if most is None
        else f"This call stops at {dollars(Decimal(most))}; --no-cap lifts that."
    )
    warn(f"{offer.sentence(settings.service_name)} {stops}")
    return most


def _show_warnings(planned: Plan) -> None:
    from dreamo_batch.batch import shown_before

    warnings = planned.warnings()
    for warning in warnings:
        warn(f"warning: {warning}")
    shown_before.set(frozenset(warnings))


def _ask(sentence: str, *, instead: str = "") -> None:
    """Ask on the terminal; raise unless the answer is yes."""
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        raise click.ClickException(
            f"{sentence} Nothing was sent: there's no terminal to ask on. Pass --yes to agree{instead}."
        )
    sys.stderr.write(f"{harmless(sentence)} Buy? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise click.ClickException("not confirmed; nothing was sent.")


# Tables and runs.

_REQUIRED_RUN_DIR: Final = option(
    "--run-dir", required=True, metavar="RUN_DIR", help="Directory for the ledger and the pictures."
)
_PLAN_RUN_DIR: Final = option(
    "--run-dir", metavar="RUN_DIR", help="The run directory; without one every row is new."
)
_DRY_RUN: Final = option("--dry-run", is_flag=True, help="Print the plan and send nothing, as `plan` does.")
_DETACH: Final = option(
    "--detach",
    is_flag=True,
    help="Check and ask, then continue in the background: process id and log are in RUN_DIR, for `watch` and `stop`.",
)
_ABOUT_CALL: Final = (LOCAL, _DRY_RUN, ROWS, YES, NO_CAP, _DETACH, FORMAT)
# The reason comes last, because the last column is never cut.
_PLAN_COLUMNS: Final = [
    columns.ACTION,
    columns.JOB_ID,
    columns.COST_LOW_USD,
    columns.COST_HIGH_USD,
    columns.REASON,
]
_HINTS: Final = {
    columns.FAILED: "failed: `dreamo-batch failures {0}` says why, `dreamo-batch retry {0}` submits again.",
    columns.AMBIGUOUS: "ambiguous: check your bill, then `dreamo-batch resolve {0} ROW --task-id ID` or "
    "`--not-sent`; `dreamo-batch retry {0} --classes ambiguous` submits again and may pay twice.",
    columns.IN_PROGRESS: "in progress: run the same command again to collect the result.",
}


@command(
    TABLE,
    *ABOUT_FILE,
    option(
        "--run-dir", metavar="RUN_DIR", help="Ignored; accepted so that other commands' lines can be reused."
    ),
    FORMAT,
    keywords=of("verbs.run", "fix_images", "base_dir"),
)
def validate(
    table: str, run_dir: str | None, *, fix_images: bool, base_dir: str | None, **options: Any
) -> int:
    """List every problem of every row of TABLE.

    TABLE is CSV, TSV, text, JSON, JSON Lines, Parquet or Excel, by its suffix. Sends nothing. Exit code 2 if a row
    can't be submitted.
    """
    from dreamo_batch.jobs.rules import ERROR, distinct_lines

    del run_dir
    frame = read_table(table, options)
    problems = dreamo.validate(frame, base_dir=base_dir or _folder_of(table), fix_images=fix_images)
    if is_for_people():
        emit("".join(f"{harmless(line)}\n" for line in distinct_lines(problems)))
    else:
        show_frame(problems)
    hint(problems.summary())
    return UNUSABLE if (problems[columns.SEVERITY] == ERROR).any() else DONE


@command(TABLE, *ABOUT_FILE, _PLAN_RUN_DIR, *_ABOUT_CALL, keywords=of("verbs.run"))
def plan(table: str, run_dir: str | None, *, rows: bool, **options: Any) -> int:
    """Print what `run` would buy, and why.

    Rows with the same action and reason share a line; --rows lists each. Sends nothing. Takes every option of `run`,
    so that a command line can be planned before it is run.
    """
    for name in ("dry_run", "yes", "no_cap", "detach"):  # a plan doesn't need them
        del options[name]
    frame = read_table(table, options)
    planned = dreamo.plan(frame, run_dir, **_with_base_dir(options, table))
    return _show_plan(planned, rows=rows, on_invalid=options["on_invalid"])


@command(TABLE, *ABOUT_FILE, _REQUIRED_RUN_DIR, *_ABOUT_CALL, keywords=of("verbs.run"))
def run(
    table: str,
    run_dir: str,
    *,
    dry_run: bool,
    rows: bool,
    yes: bool,
    no_cap: bool,
    detach: bool,
    **options: Any,
) -> int:
    """Run the jobs in TABLE, or resume them.

    A finished run costs nothing. Asks before it spends money; without a terminal it needs --yes instead. Prints
    counts and money.
    """
    from dreamo_batch.batch import start_time

    about_file = {name: options[name] for name in ("delimiter", "decimal", "encoding", "rename")}
    frame = read_table(table, options)
    options = _with_base_dir(options, table)
    planned = functools.partial(dreamo.plan, frame, run_dir, **options)
    if dry_run:
        return _show_plan(planned(), rows=rows, on_invalid=options["on_invalid"])
    at = start_time(options["not_before"], now=time.time())
    # Pass an absolute time to a process in the background.
    options["not_before"] = None if at is None else datetime.fromtimestamp(at).astimezone().isoformat()
    options["max_new_cost"] = agree(planned, run_dir, options, is_agreed=yes, no_cap=no_cap)
    if not detach:
        return _finish(dreamo.run, (frame, run_dir), options)
    given = {"table": table, "about_file": about_file, "options": options}
    pid, log, code = background.detach(run_dir, verbosity_words(), given)
    show_summary({"run_dir": run_dir, "pid": pid, "log": str(log)})
    if code is not None:
        return code if code >= 0 else STOPPED
    place = shlex.quote(run_dir)
    hint(f"{background.sentence(run_dir)} `dreamo-batch watch {place}` follows it, `stop` stops it.")
    return DONE


@command(*RUN_DIR)
def in_background(run_dir: str) -> int:
    """Continue what `run --detach` has checked, with the options from standard input."""
    given = background.take_over(run_dir)
    frame = read_table(given["table"], given["about_file"])
    return _finish(dreamo.run, (frame, run_dir), given["options"])


in_background.hidden = True


@command(
    *RUN_DIR,
    names_option(
        "--rows",
        metavar="LABELS",
        help="Labels of rows, as `results` shows them first in a line, or job ids: 3,7 or 3-7; never positions. "
        "Default: every failed row.",
    ),
    names_option("--classes", help="Only these error classes, or ambiguous: a,b."),
    LOCAL,
    _DRY_RUN,
    YES,
    NO_CAP,
    FORMAT,
    keywords=of("verbs.run", but=(*NOT_OPTIONS, *ABOUT_TABLE)),
)
def retry(run_dir: str, *, dry_run: bool, yes: bool, no_cap: bool, **options: Any) -> int:
    """Submit failed or ambiguous rows again.

    Each once; ambiguous ones only if named, since they may be paid twice. Asks before it spends money, as `run`
    does. The cap defaults to the stored one; a run of the local gateway is recognised.
    """
    from dreamo_batch.engine.directory import RunDirectory
    from dreamo_batch.verbs import plan_retry

    if options["base_url"] is None and RunDirectory(run_dir).gateway.is_dir():
        options["gateway"] = "local"
    planned = functools.partial(plan_retry, run_dir, **options)
    if dry_run:
        return _show_plan(planned(), rows=False, on_invalid="skip")
    options["max_new_cost"] = agree(planned, run_dir, options, is_agreed=yes, no_cap=no_cap)
    return _finish(dreamo.retry, (run_dir,), options)


@command(
    *run_dir_and("words", nargs=-1, metavar="[RUN_DIR] ROW"),
    FORMAT,
    keywords=of("settle.resolve", "attempt", "task_id", "not_sent", "force"),
)
def resolve(words: Sequence[str], **answer: Any) -> None:
    """Settle an ambiguous row by hand.

    Check your bill first: was the attempt accepted? ROW is the label of the row, or its job_id.
    """
    if len(words) != 2:  # noqa: PLR2004 - a directory and a row
        raise click.UsageError("name a run directory and one row: RUN_DIR ROW")
    path, row = words
    dreamo.resolve(path, row, **answer)
    show_summary(dreamo.status(path))
    hint(f"Row {row} is settled. Run the table again to continue.")


def _with_base_dir(options: dict[str, Any], table: str) -> dict[str, Any]:
    """Resolve relative image paths against the table's folder by default."""
    return options | {"base_dir": options["base_dir"] or _folder_of(table)}


def _folder_of(table: str) -> str:
    return str(file_path("TABLE", table).absolute().parent)


def _show_plan(planned: Any, *, rows: bool, on_invalid: str) -> int:
    shown = planned if not is_for_people() else planned[_PLAN_COLUMNS] if rows else planned.changes()
    show_frame(shown, with_labels=rows)
    _show_warnings(planned)
    hint(f"{planned.summary()} Nothing was sent.")
    is_refused = on_invalid == "raise" and (planned[columns.ACTION] == INVALID).any()
    return UNUSABLE if is_refused else DONE


def _finish(verb: Callable[..., pd.DataFrame], given: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """Call a verb that buys, print the summary and what to do next, and return the exit code."""
    run_dir, with_pictures = given[-1], options.get("download", True)
    try:
        with background.findable(run_dir):
            results = verb(*given, progress=not is_quiet(), **options)
    except RunStopped as stopped:
        if stopped.results is not None:
            show_summary(dreamo.status(run_dir))
        raise
    show_summary(dreamo.status(run_dir))
    counts = results[columns.STATUS].value_counts()
    for status, text in _HINTS.items():
        if n := int(counts.get(status, 0)):
            say = warn if status == columns.AMBIGUOUS else hint
            say(f"{n} {text.format(shlex.quote(run_dir))}")
    return code_of_results(results, with_pictures=with_pictures)


# The outcome of a run.

# What distinguishes rows, and how they went; the last column is never cut.
_RESULT_COLUMNS: Final = (
    columns.STATUS,
    columns.DUPLICATE_OF,
    columns.SEED_SENT,
    columns.COST,
    columns.OUTPUT_PATH,
    columns.OUTPUT_ERROR,
    columns.ERROR_CLASS,
    columns.ERROR_MESSAGE,
)
_DIGITS: Final = 6
_NOT_IN_TABLES: Final = (columns.SPENT_USD, columns.ESTIMATED, columns.GRANTED_USD, columns.REPORTED_AT)


@command(
    *RUN_DIRS,
    option("--verify", is_flag=True, help="Check the ledger and every picture; exit code 1 if damaged."),
    FORMAT,
)
def status(run_dirs: Sequence[str], *, verify: bool) -> int:
    """Count rows and add up money, at any time, also during a run.

    Over one run directory or several.
    """
    begun = [run_dir for run_dir in run_dirs if not background.should_begin(run_dir)]
    for run_dir in run_dirs:
        hint(background.sentence(run_dir))
    damage = dreamo.verify(begun) if verify and begun else []
    try:
        summary = dreamo.status(begun) if begun else {}
    except dreamo.DirectoryError:  # too damaged to count
        for line in damage:
            warn(line)
        raise
    show_summary(summary | ({"damage": damage} if verify else {}))
    if verify:
        hint(f"damage: {len(damage)}" if damage else "nothing is damaged")
    return NOT_ALL if damage else DONE


@command(*RUN_DIR, FORMAT)
def watch(run_dir: str) -> int:
    """Follow the run in RUN_DIR until it ends.

    Ctrl-C stops only the watching. Exits with the code of `run`.
    """
    background.wait_for_begin(run_dir)
    results = dreamo.watch(run_dir).wait(progress=not is_quiet())
    hint(background.sentence(run_dir))  # where its log continues
    show_summary(dreamo.status(run_dir))
    return code_of_results(results)


@command(*RUN_DIR, FORMAT)
def stop(run_dir: str) -> int:
    """Stop the `run` or `retry` on RUN_DIR, and wait until it has ended.

    Answers to requests already sent are awaited and kept. Exit code 0 once it has ended, 1 if it was killed meanwhile
    and attempts may be held, 2 if nothing runs there that can be stopped from here, 3 if Ctrl-C ended the waiting.
    """
    from dreamo_batch.engine.directory import RunDirectory
    from dreamo_batch.engine.ledger import interrupted, read

    if background.stop(run_dir).until:
        hint("The command was only waiting; nothing was sent.")
        return DONE
    summary = dreamo.status(run_dir)
    show_summary(summary)
    lost = interrupted(read(RunDirectory(run_dir).path).state())
    n_left = sum(summary["by_status"].get(status, 0) for status in columns.UNSETTLED)
    if lost:
        warn(f"It was killed. Held {counted(len(lost), 'attempt')} that may have been accepted and billed.")
    else:
        stopped = f"Stopped with {counted(n_left, 'row')} left. The same command again resumes."
        hint(stopped if n_left else "The run had already finished.")
    return NOT_ALL if lost else DONE


@command(
    *RUN_DIRS,
    option("--output", metavar="PATH", help="Write a file instead: .csv, .tsv, .jsonl, .parquet or .xlsx."),
    EXCEL_SAFE,
    FORMAT,
    keywords=of("results.load.load", "all"),
)
def results(run_dirs: Sequence[str], *, output: str | None, excel_safe: bool, **which: bool) -> None:
    """Print or write the table with its results.

    The table of the last run in RUN_DIR, or in several: your columns, then status, pictures, costs and errors.
    """
    frame = dreamo.load(run_dirs, **which)
    if output is not None:
        dreamo.write_table(frame, output, excel_safe=excel_safe)
        hint(f"{counted(len(frame), 'row')} written to {output}")
    elif not is_for_people():
        show_frame(frame, excel_safe=excel_safe)
    else:
        names = [name for name in frame.columns if name not in columns.OUTPUTS]
        names += [name for name in _RESULT_COLUMNS if frame[name].notna().any()]
        if len(frame[columns.RUN_DIR].unique()) > 1:
            names.append(columns.RUN_DIR)
        show_frame(frame[names], with_labels=True, if_empty="No attempts." if which["all"] else "No rows.")
        hint("--format json or csv, or --output PATH, include every column.")


@command(
    *run_dir_and("words", nargs=-1, metavar="[RUN_DIR] ROWS... VALUE"),
    option("--rater", metavar="NAME", help="Who rates; default: DREAMO_RATER, else the name of the user."),
    FORMAT,
)
def rate(words: Sequence[str], *, rater: str | None) -> None:
    """Rate, pick or reject pictures; kept at once in RUN_DIR.

    ROWS are labels as `results` shows them, ranges of them or job ids: 3,7 or 3-7. VALUE is 1 to 5, pick,
    reject, or undo, which removes your last rating of each picture. Prints your ratings as they stand now.
    """
    if len(words) < 3:  # noqa: PLR2004 - a directory, rows and a value
        raise click.UsageError("name a run directory, rows and a value: RUN_DIR ROWS... VALUE")
    path, *rows, value = words
    rated = dreamo.rate(path, split(rows) or (), int(value) if value.isdecimal() else value, rater=rater)
    show_frame(rated)


@command(*RUN_DIRS, BY, FORMAT)
def costs(run_dirs: Sequence[str], *, by: list[str] | None) -> None:
    """Print what attempts cost, by group.

    Over one run directory or several: rows, attempts, spent, cost per usable picture, waste, what may have been billed
    on top, and what duplicates saved. Sums are exact; unknown amounts are missing, never 0.
    """
    _show_rounded(dreamo.costs(run_dirs, by=by))


@command(click.Argument(["place"]), FORMAT, keywords=of("engine.shared_budget.Budget", "cap", "per_user"))
def budget(place: str, **amounts: str | None) -> None:
    """Print what was spent from a shared budget, or set its cap.

    PLACE is the folder or URL passed to runs as --budget. Shows by user, directory and month what was spent, reserved,
    and held by runs.
    """
    status = dreamo.Budget(place, **amounts).status()
    hint(status.summary())
    _show_rounded(status, if_empty="Nothing has been spent yet.")


@command(*RUN_DIRS, BY, FORMAT)
def latency(run_dirs: Sequence[str], *, by: list[str] | None) -> None:
    """Print how long each phase of an attempt took.

    Mean and quantiles in seconds, and on standard error which --max-in-flight suits the service.
    """
    _show_rounded(dreamo.latency(run_dirs, by=by), if_empty="No attempts.")
    hint(dreamo.pace(run_dirs)["advice"])


def _show_rounded(table: pd.DataFrame, *, if_empty: str = "No rows.") -> None:
    if is_for_people():
        filled = [name for name in table.columns if name not in _NOT_IN_TABLES and table[name].notna().any()]
        floats = [name for name in filled if table[name].dtype == columns.FLOAT]
        # Adding 0 turns -0.0 into 0.0.
        table = table[filled].assign(**{name: table[name].round(_DIGITS) + 0.0 for name in floats})
    show_frame(table, if_empty=if_empty)


@command(*RUN_DIRS, FORMAT)
def failures(run_dirs: Sequence[str]) -> None:
    """Explain what failed, and print the commands that try it again.

    By class, code and message: what each means, whether it may have been billed, and what to do. Ambiguous rows,
    which may have been accepted and billed, come last.
    """
    from dreamo_batch.results.summaries import FailureGroups

    found = dreamo.failures(run_dirs)
    if is_for_people() and len(found):
        emit(f"{FailureGroups(found).in_full()}\n")
    else:
        show_frame(found, if_empty="No failures.")


@command(
    *RUN_DIRS,
    option("--output", metavar="FOLDER", help="Folder to write to; created if missing."),
    FORMAT,
    keywords=of("results.export.export", "to", "licence", "formats", "pictures", "text", "excel_safe"),
)
def export(run_dirs: Sequence[str], *, output: str | None, **options: Any) -> int:
    """Write results and pictures of runs for other tools.

    The table as Parquet and CSV with a data dictionary, and an image folder with metadata.csv that the Hugging Face
    loader reads. The same command again changes nothing; files that aren't from an export are never replaced. Exit
    code 1 if pictures are missing.
    """
    counts = dreamo.export(run_dirs, output, **options)
    show_summary(counts)
    return NOT_ALL if counts.get("missing") else DONE


@command(
    *RUN_DIRS,
    option(
        "--output", metavar="PATH", help="File to write; default: report.html in RUN_DIR, if it is only one."
    ),
)
def report(run_dirs: Sequence[str], *, output: str | None) -> None:
    """Write a report on a run as one page.

    One HTML file that needs no network: money, times, failures, ambiguous rows, pictures, near-duplicates, and a
    paragraph for a methods section. At any time, also during a run. Prints the file's path.
    """
    path = dreamo.report(run_dirs, output)
    emit(f"{path}\n")
    hint(f"{path.stat().st_size / 1e6:.1f} MB; open it in a browser, or print it")


@command(
    *RUN_DIRS,
    option(
        "--output",
        metavar="PATH",
        help="A page (.html), or a sheet for print (.png, .jpg, .pdf); default: gallery.html in RUN_DIR, if it is only "
        "one.",
    ),
    option(
        "--rows",
        metavar="COLUMNS",
        help="Columns whose values make the grid's rows: a,b; none: one row. Default: prompt, and whatever else "
        "tells rows apart.",
    ),
    option(
        "--columns",
        "across",
        metavar="COLUMNS",
        help="Columns whose values make the grid's columns; none: count the pictures of a row. Default: seed.",
    ),
    keywords=of("display.sheet.contact_sheet", "title", "paper", "font"),
)
def gallery(
    run_dirs: Sequence[str],
    *,
    output: str | None,
    rows: str | None,
    across: str | None,
    title: str,
    **of_sheet: Any,
) -> None:
    """Show the pictures of one run or several as a grid.

    By default prompts against seeds, beside the reference picture; failed and open rows have a cell that says so. At
    any time, also during a run. Prints the file's path.
    """
    from dreamo_batch.display.gallery import PAGES
    from dreamo_batch.display.sheet import FORMATS
    from dreamo_batch.results.load import existing

    if output is None:
        if len(run_dirs) > 1:
            raise click.UsageError("name a file for a gallery of several run directories: --output PATH")
        output = str(existing(run_dirs[0]).path / "gallery.html")
    axes: dict[str, Any] = {"rows": _axis(rows), "columns": _axis(across)}
    if output_file("output", output, (*PAGES, *FORMATS)).suffix.lower() in PAGES:
        shown = dreamo.gallery(run_dirs, **axes, title=title)
        emit(f"{shown.to_html(output)}\n")
        hint(f"{counted(len(shown.results), 'row')}; open it in a browser")
    else:
        n_pictures = dreamo.contact_sheet(run_dirs, output, **axes, title=title, **of_sheet)
        emit(f"{output}\n" if n_pictures else "")
        hint(counted(n_pictures, "picture"))


def _axis(text: str | None) -> Sequence[str] | EllipsisType:
    if text is None:
        return ...
    return [word for word in map(str.strip, text.split(",")) if word and word != "none"]


# The local gateway and the service.

_TABLE: Final = "jobs_small.csv"
_SHEET: Final = "contact.png"


@command(
    option(
        "--port",
        type=click.IntRange(0, 65535),
        default=0,
        show_default="any free one",
        help="Port to listen on.",
    ),
    option("--run-dir", metavar="RUN_DIR", help="Serve the state of a --local run: RUN_DIR/gateway."),
    option(
        "--price-per-picture", "price", metavar="USD", help="What each picture costs; default: by its size."
    ),
    option("--faults", metavar="FILE", help="JSON file with the faults to inject."),
    keywords=of("gateway.gateway.LocalGateway", "host", "state_dir", "engine", "latency", "price_per_second"),
)
def serve(state_dir: str | None, run_dir: str | None, **options: Any) -> None:
    """Run the local gateway until it is interrupted.

    It follows the service's contract, at no cost, with generated pictures. Its key is DREAMO_API_KEY, or generated.
    Prints one line of JSON once ready: base_url and api_key.
    """
    from dreamo_batch.engine.directory import RunDirectory
    from dreamo_batch.gateway import LocalGateway
    from dreamo_batch.service.config import environment_key

    if state_dir is not None and run_dir is not None:
        raise click.UsageError("pass --state-dir or --run-dir, not both")
    folder = state_dir if run_dir is None else RunDirectory(run_dir).gateway
    try:
        with (
            suppress(KeyboardInterrupt),
            LocalGateway(folder, api_key=environment_key(), **options) as gateway,
        ):
            emit(json.dumps({"base_url": gateway.base_url, "api_key": gateway.api_key}) + "\n")
            while True:
                signal.pause()
    except ValueError as error:
        raise UsageError(str(error)) from None


@command(
    option(
        "--run-dir",
        default="runs/demo",
        show_default=True,
        metavar="RUN_DIR",
        help="The run directory; created if missing.",
    ),
    FORMAT,
)
def demo(run_dir: str) -> int:
    """Run a small sweep on the local gateway.

    No key, no cost; a second demo buys nothing.
    """
    folder = demo_folder()
    options = {"gateway": "local", "base_dir": folder}
    code = _finish(dreamo.run, (dreamo.read_table(folder / _TABLE), run_dir), options)
    pictures, sheet = Path(run_dir) / "images", Path(run_dir) / _SHEET
    dreamo.contact_sheet(dreamo.load(run_dir), sheet, run_dir=run_dir, labels=[columns.PROMPT])
    hint(f"The local gateway makes up its prices. The pictures are in {pictures}, all on one sheet: {sheet}")
    return code


def demo_folder() -> Path:
    """Return the folder of the demo's table: in an installed package, or in the repository."""
    package = Path(__file__).parent.parent
    folders = (package / "demo_data", package.parent / "data")
    for folder in folders:
        if (folder / _TABLE).exists():
            return folder
    raise UsageError(f"{_TABLE} is missing in {' and '.join(map(str, folders))}. Reinstall the package.")


@command(
    option("--live", is_flag=True, help="Check the real service, which costs money."),
    option(
        "--model", "models", multiple=True, metavar="NAME", help="Check only this model; may be repeated."
    ),
    option(
        "--store",
        metavar="URL",
        help="Check an object store instead: whether run directories are safe there.",
    ),
    YES,
    FORMAT,
    keywords=of("verbs.run", "base_url"),
)
def check(*, live: bool, models: tuple[str, ...], base_url: str | None, store: str | None, yes: bool) -> int:
    """Check that a service follows its contract.

    Without --live this checks the embedded local gateway, at no cost. With it the real service gets up to two
    attempts of small pictures per model, after a question that says what they can cost.
    """
    from dreamo_batch.gateway import LocalGateway

    if store is not None:
        return _check_store(store)
    if live:
        return _check(base_url, None, models, is_agreed=yes)
    if base_url is not None:
        raise click.UsageError("--base-url names a service that may cost money: add --live")
    with LocalGateway(engine="flat") as gateway:
        return _check(gateway.base_url, gateway.api_key, models, is_agreed=yes)


def _check_store(url: str) -> int:
    from dreamo_batch.engine.replica import open_store
    from dreamo_batch.engine.store import N_RACERS, N_RACES, SCHEMES, is_url, races, refuse_unsafe

    if not is_url(url):
        raise click.UsageError(f"--store {url}: expected a URL such as {SCHEMES[0]}://bucket/folder")
    opened = open_store(url)
    refuse_unsafe(opened, url)
    if n := races(opened):
        hint(
            f"{url}: {counted(n, 'object')} of {N_RACES} accepted more than one writer as the first, so two runs there"
        )
        hint("wouldn't notice each other. Use another store, or a newer version of it.")
        return NOT_ALL
    hint(
        f"{url}: no object is overwritten, and of {N_RACERS} simultaneous writers one wins. Run directories are safe."
    )
    return DONE


def _check(base_url: str | None, api_key: str | None, models: tuple[str, ...], *, is_agreed: bool) -> int:
    from dreamo_batch.call import with_key
    from dreamo_batch.probe import N_ATTEMPTS_MAX, check_service, highest_cost, known_models
    from dreamo_batch.service.client import Client

    chosen = known_models(models)
    with Client(api_key=api_key, base_url=base_url) as client:
        settings = with_key(client, "leave out --live").settings
        offer = PurchaseEstimate(N_ATTEMPTS_MAX * len(chosen), highest_cost(client, chosen))
        sentence = f"Up to {offer.sentence(settings.service_name)}"
        hint(sentence)
        if not (is_agreed or settings.is_loopback):
            _ask(sentence)
        checks = check_service(client=client, models=chosen)
    show_frame(checks)
    n_failed = int((~checks[columns.PASSED].fillna(value=False)).sum())
    hint(f"{len(checks) - n_failed} of {len(checks)} checks passed.")
    return NOT_ALL if n_failed else DONE
