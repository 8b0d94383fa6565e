"""Run, start, plan, retry and resume a table.

How one row travels::

    the user's row -> jobs.prepare -> engine.plan
    -> engine.schedule says create -> engine.spending reserves
    -> engine.journal "about to" (fsync) -> service.client.create
    -> engine.journal task id (fsync) -> engine.schedule says poll, when due
    -> service.client.fetch -> engine.journal outcome
    -> engine.pictures saves the picture -> engine.attempts folds
    -> checkpoint.parquet -> results.frame

No arrow points back; a resume enters at the fold.
"""

from __future__ import annotations

import inspect
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Unpack

from dreamo_batch import columns, shards
from dreamo_batch.arguments import check_flag
from dreamo_batch.batch import Batch, begin, in_foreground, run_to_end, start_time, wait_until
from dreamo_batch.call import Call, CallInputs, Gateway, Service, jobs_to_retry, stored_table
from dreamo_batch.engine.attempts import State
from dreamo_batch.engine.checkpoint import known_images, read_jobs
from dreamo_batch.engine.directory import RunDirectory, new_entropy
from dreamo_batch.engine.ledger import OtherSeeds, peek_entropy
from dreamo_batch.engine.notify import Listeners, RunEvent
from dreamo_batch.engine.plan import Plan, RunOptions, planned, taken_over
from dreamo_batch.engine.runner import PATIENCE_S, live, storing
from dreamo_batch.engine.shared_budget import Budget, budget_of
from dreamo_batch.errors import InvalidTable, UsageError, logger_named
from dreamo_batch.jobs.fields import Table, convert_to_frame, recognised, user_columns
from dreamo_batch.jobs.prepare import prepare
from dreamo_batch.jobs.references import CheckOptions, Inputs
from dreamo_batch.jobs.rules import ERROR, LINK_EXPIRED, Problems, kind_lines
from dreamo_batch.parallel import Cluster, bars
from dreamo_batch.results.load import read_ledger
from dreamo_batch.text import counted, did_you_mean, option, wording

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterator, Mapping
    from datetime import datetime

    import pandas as pd

    from dreamo_batch.money import Amount
    from dreamo_batch.service.client import Client
    from dreamo_batch.verb_options import PlanOptions, StartOptions, StoredOptions

logger = logger_named(__name__)

T = TypeVar("T")
V = TypeVar("V", bound="Callable[..., Any]")

_OF_A_TABLE: Final = frozenset({"table", "base_dir"})


def run(
    table: Table,
    run_dir: str | os.PathLike[str],
    *,
    client: Client | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    gateway: Literal["local"] | Gateway | None = None,
    allow_private_links: bool = False,
    max_cost: Amount | None = None,
    max_new_cost: Amount | None = None,
    unit_cost: Amount | None = None,
    pilot: int | None = None,
    budget: str | os.PathLike[str] | Budget | None = None,
    max_in_flight: int = 8,
    download: bool = True,
    fix_images: bool = False,
    keep_references: bool = True,
    on_invalid: Literal["raise", "skip"] = "raise",
    on_ambiguous: Literal["hold", "resubmit"] = "hold",
    max_attempts: int = 1,
    retry_failed: bool = False,
    random_seed: Literal["record", "service"] = "record",
    task_timeout_s: float = 900.0,
    adopt_copy: bool = False,
    progress: bool = True,
    base_dir: str | os.PathLike[str] | None = None,
    notify: str | None = None,
    on_event: Callable[[RunEvent], Any] | None = None,
    not_before: datetime | str | None = None,
    cluster: Cluster = None,
) -> pd.DataFrame:
    """Run the jobs of a table, or resume them: the same call again continues, and a finished run costs nothing.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per requested picture, with the columns of `dreamo_batch.columns.INPUTS`; any others are yours and come
        back untouched. Not modified.
    run_dir : path
        Directory for the ledger and the pictures; created if missing.
    client : Client, optional
        Client for the service; replaces `api_key` and `base_url`.
    api_key : str, optional
        Key for the service. Default: the environment's ``DREAMO_API_KEY``.
    base_url : str, optional
        Address of the service. Default: the environment's ``DREAMO_BASE_URL``, else the public gateway.
    gateway : "local" or LocalGateway, optional
        ``"local"`` starts the embedded gateway, which needs no key and costs nothing; its state is kept in the run
        directory. A `LocalGateway` that is not running is started, and closed at the end.
    allow_private_links : bool
        Follow links to pictures at private addresses, such as a service in your own network.
    max_cost : float, str or Decimal, optional
        Spending cap in USD for this run directory, over its whole life. Kept until changed; inf removes it.
    max_new_cost : float, str or Decimal, optional
        Most that this call may add, in USD; not kept. It limits a batch as a whole, however often it is resumed or
        retried. Default: no limit; on the command line, the sum you agree to.
    unit_cost : float, str or Decimal, optional
        Price in USD to reserve per attempt. Default: the service's quote, else the highest price seen.
    pilot : int, optional
        With a cap but no known price: buy up to this many attempts first, which the cap can't limit. Counts over the
        life of the directory.
    budget : path, str or Budget, optional
        Path or URL of a cap shared with other run directories and people; see `Budget`. The directory then stays in
        it.
    max_in_flight : int
        Most tasks at the service at once.
    download : bool
        Save the pictures.
    fix_images : bool
        Send corrected copies of reference pictures that the service would refuse.
    keep_references : bool
        Keep a copy of each reference picture in the run directory, so that it can be moved or shared.
    on_invalid : {"raise", "skip"}
        What to do if rows can't be submitted: refuse the table, or run the others.
    on_ambiguous : {"hold", "resubmit"}
        What to do with rows that may or may not have been accepted before this call: leave them, or submit them again,
        at the risk of paying twice.
    max_attempts : int
        Most attempts per job. Only failures known to be unbilled are retried.
    retry_failed : bool
        Submit rows that failed before this call again, once each.
    random_seed : {"record", "service"}
        Who draws missing seeds: this package, which records them, or the service.
    task_timeout_s : float
        Seconds that this call waits for a task; the next call asks for it again.
    adopt_copy : bool
        Submit jobs although the directory is a copy of another run directory, whose owner could submit the same.
    progress : bool
        Show a progress bar and notices.
    base_dir : path, optional
        Folder that relative image paths start at. Default: the working directory; on the command line, the folder
        of the table's file.
    notify : str, optional
        URL that events are posted to as JSON: done, stopped, budget, held, outage. Not kept. Signed if the
        environment's ``DREAMO_NOTIFY_SECRET`` is set. On the command line also ``DREAMO_NOTIFY_URL``.
    on_event : callable, optional
        Function called with each `RunEvent`, in its own thread; what it raises is logged.
    not_before : datetime or str, optional
        Check now, wait until then, and check again: a datetime, or text: 22:30 (the next one), 2027-01-31T22:30, both
        local, or with an offset (+01:00). Nothing is sent before.
    cluster : Dask Client, concurrent.futures.Executor or int, optional
        Buy in several processes at once, on this machine (their number) or others, in shards of a run directory that is
        new or has shards already. `max_in_flight` counts over all of them. Each reads the key from its own environment.

    Returns
    -------
    pandas.DataFrame
        `table` with the columns of `dreamo_batch.columns.OUTPUTS`, on the same index and in the same order.

    Raises
    ------
    InvalidTable
        If rows can't be submitted (with ``on_invalid="raise"``); `.problems` lists them all. Nothing was sent.
    UsageError, PriceUnknown
        If an option can't be used. Nothing was sent.
    DirectoryError
        If the directory is in use, belongs to another service, or its ledger is damaged.
    RunStopped
        `BudgetReached`, `AccessRefused`, `KeyMissing`, `StorageFailed` or `ServiceUnreachable`; `.results` has the
        table so far.
    KeyboardInterrupt
        Within 2 s of an interrupt; run again to resume.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> done["status"].tolist()
    ['completed', 'completed']
    >>> again = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> again["task_id"].equals(done["task_id"])
    True
    """
    given = locals()
    options, service = RunOptions.of(given), Service.of(given)
    with _listening(run_dir, given) as (directory, listeners):

        def call(at: float | None) -> Call:
            with bars(progress):
                return _call(given, options, service, directory, listeners, at=at, is_kept=at is None)

        return _run_when_due(call, given)


def takes_options_of_run(*, but: Collection[str] = ()) -> Callable[[V], V]:
    """Show the arguments of `run` in place of a verb's `**options`, which `all_arguments` then reads."""

    def declare(verb: V) -> V:
        own, of_run = inspect.signature(verb), inspect.signature(run).parameters
        shown = {name: parameter for name, parameter in own.parameters.items() if name != "options"}
        shown |= {name: parameter for name, parameter in of_run.items() if name not in {*shown, *but}}
        verb.__signature__ = own.replace(parameters=list(shown.values()))  # type: ignore[attr-defined]  # what inspect shows
        return verb

    return declare


def all_arguments(verb: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a verb with those in its `options` and their defaults; raise for an unknown one."""
    known = inspect.signature(verb).parameters
    for name in given["options"]:
        if name not in known:
            raise UsageError(f"{verb.__name__}() has no argument {name!r}; {did_you_mean(name, known)}")
    return {**{name: parameter.default for name, parameter in known.items()}, **given, **given["options"]}


@contextmanager
def _listening(
    run_dir: str | os.PathLike[str], given: Mapping[str, Any]
) -> Iterator[tuple[RunDirectory, Listeners]]:
    """Check what every call in the foreground is given, and report to its listeners what keeps it from beginning."""
    with in_foreground():
        directory = RunDirectory(run_dir)
        listeners = Listeners(directory.name, given["notify"], given["on_event"])
        with listeners.report_refusal():
            check_flag("progress", given["progress"])
            shards.refuse_ordinary(directory, given["cluster"])
            yield directory, listeners


def _call(
    given: Mapping[str, Any],
    options: RunOptions,
    service: Service,
    directory: RunDirectory,
    listeners: Listeners,
    *,
    at: float | None,
    is_kept: bool,
) -> Call:
    """Check the table that a verb is given, and make it a call on the directory; unless `is_kept`, write nothing."""
    table = convert_to_frame(given["table"])
    named, _ = recognised(table)
    # Raised below, if nothing is wrong with the table; until then nothing is written.
    refusal: Exception | None = None
    try:
        service.check()
        if is_kept and (earlier := live(directory.path)) is not None:
            # One that was interrupted may still be making the directory.
            earlier.ask(lambda _: None, PATIENCE_S)
            with storing(directory):
                earlier.directory.refuse_loss()  # what it bought would be bought again in a new one
    except Exception as error:  # noqa: BLE001 - raised below
        refusal = error
    entropy = peek_entropy(directory) or new_entropy()
    kept = Inputs(directory.inputs if is_kept and refusal is None else None)
    with kept.undone_if_refused():
        how = CheckOptions(given["base_dir"], options.fix_images, kept, known_images(directory.jobs), at)
        prepared = prepare(table, how, entropy=entropy, random_seed=options.random_seed)
        errors = prepared.problems[prepared.problems[columns.SEVERITY] == ERROR]
        # Links that have all expired leave nothing to buy: the rows come back as invalid, with those that were bought.
        is_over = at is None and not prepared.jobs and errors[columns.CODE].eq(LINK_EXPIRED).all()
        if len(errors) and options.on_invalid == "raise" and not is_over:
            raise InvalidTable(_what_is_wrong(errors), Problems.of(prepared.problems, n_rows=len(table)))
        if refusal is not None:
            raise refusal
        inputs = CallInputs(named[user_columns(named)], prepared, options)
    if options.keep_references and is_kept:
        with storing(directory):
            directory.make()
        kept.keep_references(image for job in prepared.jobs.values() for image in job.images)
    return Call(directory, inputs, entropy, service, listeners=listeners, not_before=at)


def _run_when_due(make: Callable[[float | None], Call], given: Mapping[str, Any]) -> pd.DataFrame:
    """Run a call to its end in the foreground; one for a later time is checked now, and checked again then."""
    if (at := start_time(given["not_before"], now=time.time())) is not None:
        early = make(at)
        early.check()
        wait_until(at, early.directory, show=given["progress"])
    return _joining(
        lambda: run_to_end(shards.over_shards(make(None), given["cluster"]), show=given["progress"])
    )


def _joining(begin: Callable[[], T]) -> T:
    """Begin a call; once more, with its seeds, where another call created the directory meanwhile."""
    with suppress(OtherSeeds):
        return begin()
    return begin()


@takes_options_of_run()
def plan(
    table: Table, run_dir: str | os.PathLike[str] | None = None, **options: Unpack[PlanOptions]
) -> pd.DataFrame:
    """Show what `run` would do with each row, why, and what it can cost; sends and writes nothing.

    Parameters
    ----------
    table : pandas.DataFrame
        As for `run`.
    run_dir : path, optional
        The run directory; without one everything is new.
    max_cost, unit_cost : float, str or Decimal, optional
        As for `run`; the cap is compared with what the rows can cost, and not kept.
    **options
        The other arguments of `run`, so that a call can be planned as it stands; all are checked.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.PLAN` on the table's index; costs in USD, missing if no price is known. Shown
        with a headline: how many rows would be bought, and for how much.

    Raises
    ------
    TableError
        If the table lacks a column; rows that can't be submitted are planned as ``invalid``.
    UsageError, DirectoryError
        If an argument has a value that `run` refuses.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1, 1])
    >>> dreamo.plan(jobs, unit_cost="0.03")["action"].tolist()
    ['new', 'duplicate']
    """
    given = all_arguments(plan, locals())
    table, checked = convert_to_frame(table), RunOptions.of(given)
    directory = None if run_dir is None else RunDirectory(run_dir)
    _refuse_what_run_refuses(directory, given)
    state, is_copy = (State(), False) if directory is None else read_ledger(directory)
    entropy = (None if directory is None else peek_entropy(directory)) or new_entropy()
    known = {} if directory is None else known_images(directory.jobs)
    how = CheckOptions(given["base_dir"], checked.fix_images, Inputs(None), known)
    prepared = prepare(table, how, entropy=entropy, random_seed=checked.random_seed)
    return planned(prepared, table.index, state, checked, directory, is_copy=is_copy)


def _refuse_what_run_refuses(directory: RunDirectory | None, given: Mapping[str, Any]) -> None:
    """Check what a plan is given beside options of a run; writes and reports nothing."""
    check_flag("progress", given["progress"])
    shards.refuse_ordinary(directory, given["cluster"])
    Service.of(given)
    Listeners("", given["notify"], given["on_event"])
    start_time(given["not_before"], now=0.0)
    if given["budget"] is not None:
        budget_of(given["budget"])
    if directory is not None:
        directory.refuse_foreign_folder()
        if directory.is_sharded:
            directory.require_manifest()
        if directory.replica is not None and not directory.replica.has_log():
            directory.replica.refuse_taken()


@takes_options_of_run(but=_OF_A_TABLE)
def retry(
    run_dir: str | os.PathLike[str],
    *,
    rows: Collection[Any] | pd.Series | None = None,
    classes: str | Collection[str] | None = None,
    **options: Unpack[StoredOptions],
) -> pd.DataFrame:
    """Submit chosen failed or ambiguous rows of a run directory again, once each.

    Parameters
    ----------
    run_dir : path
        The run directory.
    rows : collection of labels, DataFrame, or boolean mask, optional
        Rows to submit again: their index labels, also as text, ranges of labels such as ``"3-7"`` (from the one to the
        other as the table lists them), or job ids; never positions. A table stands for its labels, an empty list for no
        row. Default: all that failed. An ambiguous row named here is submitted again, and may be paid twice.
    classes : str or collection of str, optional
        Only failures of these classes (column ``error_class``); ``"ambiguous"`` means all ambiguous rows.
    **options
        Any other argument of `run` but `base_dir`. `max_cost` defaults to the stored cap, the service to the local
        gateway if the run used it. Without `cluster`, shards are worked on in this process.

    Returns
    -------
    pandas.DataFrame
        The whole table, as from `run`.

    Raises
    ------
    UsageError
        If a row label is not in the table, or an option is unknown.
    DirectoryError, RunStopped
        As for `run`.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1], size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.retry(run_dir, progress=False)["attempts"].tolist()
    [1]
    """
    given = all_arguments(retry, locals())
    with _listening(run_dir, given) as (directory, listeners):
        service, checked = Service.of(given), RunOptions.of(options)

        def call(_at: float | None) -> Call:
            table = stored_table(directory)
            chosen = jobs_to_retry(directory, rows, classes)
            return Call.on_stored(directory, table, checked, service, chosen=chosen, listeners=listeners)

        return _run_when_due(call, given)


@takes_options_of_run(but=_OF_A_TABLE)
def resume(run_dir: str | os.PathLike[str], **options: Unpack[StoredOptions]) -> pd.DataFrame:
    """Resume the last call on a run directory, with its table and its options.

    It needs neither the table nor, in a directory that keeps its references, the pictures: what was decided for each
    row is stored there. Seeds that were drawn stay as they are.

    Parameters
    ----------
    run_dir : path
        The run directory.
    **options
        Arguments of `run` to change, as for `retry`; the other options are those of the last call, except
        ``retry_failed``, ``on_ambiguous`` and ``adopt_copy``, which hold for one call only.

    Returns
    -------
    pandas.DataFrame
        The whole table, as from `run`.

    Raises
    ------
    UsageError
        If an option is unknown.
    DirectoryError, RunStopped
        As for `run`.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1], size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.resume(run_dir, progress=False)["attempts"].tolist()
    [1]
    """
    given = all_arguments(resume, locals())
    with _listening(run_dir, given) as (directory, listeners):
        manifest, service = directory.read_manifest(), Service.of(given)
        checked = RunOptions.of(taken_over({} if manifest is None else manifest.settings) | options)

        def call(_at: float | None) -> Call:
            return Call.on_stored(directory, stored_table(directory), checked, service, listeners=listeners)

        return _run_when_due(call, given)


def _what_is_wrong(errors: pd.DataFrame) -> str:
    n_rows = errors[columns.POSITION].nunique()
    see = wording("See .problems (or call validate)", "See `dreamo-batch validate TABLE`")
    lines = [
        f"{counted(n_rows, 'row')} can't be submitted; nothing was sent.",
        *(f"  {line}" for line in kind_lines(errors)),
        f"{see} for all of them, or pass {option('on_invalid', 'skip')} to leave these rows out.",
    ]
    return "\n".join(lines)


@takes_options_of_run(but=_OF_A_TABLE)
def plan_retry(
    run_dir: str | os.PathLike[str],
    *,
    rows: Collection[Any] | pd.Series | None = None,
    classes: str | Collection[str] | None = None,
    **options: Unpack[StoredOptions],
) -> Plan:
    """Return what `retry` would do with each row, why, and what it can cost; sends and writes nothing."""
    given, directory = all_arguments(plan_retry, locals()), RunDirectory(run_dir)
    checked = RunOptions.of(given)
    _refuse_what_run_refuses(directory, given)
    table = read_jobs(directory.jobs)
    chosen = jobs_to_retry(directory, rows, classes)
    state, is_copy = read_ledger(directory)
    index = table.user.index
    return planned(table.prepared, index, state, checked, directory, chosen=chosen, is_copy=is_copy)


@takes_options_of_run(but={"progress"})
def start(table: Table, run_dir: str | os.PathLike[str], **options: Unpack[StartOptions]) -> Batch:
    """Run the jobs of a table in the background, or resume them.

    Returns once the table is checked, the directory locked and the price known; everything else happens in threads.

    Parameters
    ----------
    table : pandas.DataFrame
        As for `run`.
    run_dir : path
        As for `run`.
    **options
        Every other argument of `run` but `progress`, with the same default. With `not_before`, everything is checked
        only now: the directory is held, and the batch paused, until then; its `resume` begins at once.

    Returns
    -------
    Batch
        The run: `.status`, `.pause()`, `.resume()`, `.stop()`, `.wait()`, `.results()`, `.panel()`.

    Raises
    ------
    InvalidTable, UsageError, PriceUnknown, DirectoryError, AccessRefused
        As for `run`; nothing was submitted. What stops the run later is in `Batch.status` and raised by `Batch.wait`.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> live = dreamo.start(jobs, tempfile.mkdtemp(), gateway="local")
    >>> live.wait(progress=False)["status"].tolist()
    ['completed', 'completed']
    """
    given = all_arguments(start, locals()) | {"progress": False}
    checked, service = RunOptions.of(given), Service.of(given)
    with _listening(run_dir, given) as (directory, listeners):
        at = start_time(given["not_before"], now=time.time())

        def call() -> Call:
            return _call(given, checked, service, directory, listeners, at=at, is_kept=True)

        return _joining(lambda: begin(shards.over_shards(call(), given["cluster"])))
