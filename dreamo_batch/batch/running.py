"""`run`, `plan` and `retry`."""

from __future__ import annotations

import logging
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from dreamo_batch import columns
from dreamo_batch.batch.call import Task
from dreamo_batch.batch.choosing import choose
from dreamo_batch.batch.connection import known_service, service_given
from dreamo_batch.batch.foreground import in_front, work_off
from dreamo_batch.batch.reading import read_state
from dreamo_batch.errors import InvalidTable, UsageError, path_given
from dreamo_batch.execution import plan as planning
from dreamo_batch.execution import stored
from dreamo_batch.execution.budget import Budget, money
from dreamo_batch.execution.directory import RunDirectory, new_entropy
from dreamo_batch.execution.ledger import peek_entropy
from dreamo_batch.execution.options import RunOptions, flag
from dreamo_batch.execution.session import storage_failed
from dreamo_batch.execution.state import State
from dreamo_batch.results.planned import Plan
from dreamo_batch.table.inputs import Inputs
from dreamo_batch.table.jobs import Prepared, prepare
from dreamo_batch.table.looking import shown
from dreamo_batch.table.problems import Problems
from dreamo_batch.table.rules import ERROR
from dreamo_batch.table.schema import as_frame, recognised, user_columns

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

    import pandas as pd

    from dreamo_batch.batch.connection import Gateway
    from dreamo_batch.service.client import Client

logger = logging.getLogger(__name__)

Amount = float | str | Decimal
_LISTED_MAX: Final = 5


def run(
    table: pd.DataFrame,
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
) -> pd.DataFrame:
    """Work a table off; the same call again resumes, and a finished run costs nothing.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per picture wanted; columns as in `dreamo_batch.columns.INPUTS`, any others are yours and come
        back untouched. Never changed.
    run_dir : path-like
        Directory that keeps the ledger and the pictures; made if missing.
    client : Client, optional
        Talks to the service; instead of `api_key` and `base_url`.
    api_key, base_url : str, optional
        Default: the environment's ``DREAMO_API_KEY`` and ``DREAMO_BASE_URL``, else the public gateway.
    gateway : "local" or LocalGateway, optional
        ``"local"`` starts the embedded gateway, which needs no key and costs nothing; its state is kept in
        the run directory. A `LocalGateway` that is not running is started and closed in the same way.
    allow_private_links : bool
        Follow links to pictures that lead to private addresses, as of a service in your own network.
    max_cost : float, str or Decimal, optional
        Cap in USD over everything ever ordered in the directory; stored until given anew, infinity lifts it.
    max_new_cost : float, str or Decimal, optional
        USD that this call may add at most to what was spent and reserved before it; not stored. It binds a batch
        as a whole, however often it is resumed or retried.
    unit_cost : float, str or Decimal, optional
        USD that each order reserves; default: what the service's precharge tells, else the highest price seen.
    pilot : int, optional
        With a cap and no known price: buy up to so many orders first, which the cap can't bind. Counts over the
        directory's life, so that the same call again buys no more of them.
    max_in_flight : int
        Tasks at the service at once.
    download : bool
        Save the pictures.
    fix_images : bool
        Send corrected copies of reference pictures that the service would not take.
    keep_references : bool
        Keep a copy of each reference picture in the run directory, so that it can be moved or given away.
    on_invalid : {"raise", "skip"}
        What to do about rows that can't be ordered.
    on_ambiguous : {"hold", "resubmit"}
        ``"resubmit"`` orders rows again that were ambiguous before this call; they may be paid twice.
    max_attempts : int
        Orders of a job in all, for failures that are known to be unbilled.
    retry_failed : bool
        Order rows again, once, that had failed before this call.
    random_seed : {"record", "service"}
        ``"record"`` draws missing seeds before sending; ``"service"`` leaves it to the service.
    task_timeout_s : float
        Seconds to wait for a task in this call; the next call asks for it again.
    adopt_copy : bool
        Order also where the directory is a copy of a run directory, whose original may order the same.
    progress : bool
        Show a bar and lines on standard error.
    base_dir : path-like, optional
        Folder that relative image paths start from; default: the working directory.

    Returns
    -------
    pandas.DataFrame
        `table` with the columns of `dreamo_batch.columns.OUTPUTS`, on the same index and in the same order.

    Raises
    ------
    InvalidTable
        If rows can't be ordered (with ``on_invalid="raise"``); `.problems` lists all. Nothing was sent.
    UsageError, PriceUnknown
        If an option can't be used. Nothing was sent.
    DirectoryError
        If the directory is in use, belongs to another service, or its ledger is damaged.
    RunStopped
        `BudgetReached`, `AccessRefused`, `KeyMissing`, `StorageFailed` or `ServiceUnreachable`; `.results` holds
        the table as it stands.
    KeyboardInterrupt
        Within 2 s of an interrupt; run again to go on.

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
    options = RunOptions(
        max_cost=max_cost,
        max_new_cost=max_new_cost,
        unit_cost=unit_cost,
        pilot=pilot,
        max_in_flight=max_in_flight,
        download=download,
        fix_images=fix_images,
        keep_references=keep_references,
        on_invalid=on_invalid,
        on_ambiguous=on_ambiguous,
        max_attempts=max_attempts,
        retry_failed=retry_failed,
        random_seed=random_seed,
        task_timeout_s=task_timeout_s,
        adopt_copy=adopt_copy,
    )
    __tracebackhide__ = True  # a notebook shows the user's own line, not ours
    service = service_given(
        client=client,
        api_key=api_key,
        base_url=base_url,
        gateway=gateway,
        allow_private_links=allow_private_links,
    )
    with in_front():
        flag("progress", progress)
        with shown(progress):
            ready = made_ready(table, RunDirectory(run_dir), options, base_dir)
        return work_off(*ready, service, show=progress)


def made_ready(
    table: pd.DataFrame,
    directory: RunDirectory,
    options: RunOptions,
    base_dir: str | os.PathLike[str] | None = None,
) -> tuple[RunDirectory, Task, str]:
    """Check a table and turn it into what a call is given: directory, task and entropy.

    Raises
    ------
    InvalidTable, TableError, DirectoryError
        As `run`; nothing was sent.
    """
    table = as_frame(table)
    named, _ = recognised(table)
    entropy = peek_entropy(directory) or new_entropy()
    prepared = _prepare(table, directory, options, entropy, base_dir=base_dir)
    return directory, Task(named[user_columns(named)], prepared, options), entropy


def plan(
    table: pd.DataFrame,
    run_dir: str | os.PathLike[str] | None = None,
    *,
    max_cost: Amount | None = None,
    unit_cost: Amount | None = None,
    download: bool = True,
    fix_images: bool = False,
    on_ambiguous: Literal["hold", "resubmit"] = "hold",
    max_attempts: int = 1,
    retry_failed: bool = False,
    random_seed: Literal["record", "service"] = "record",
    base_dir: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Say what `run` would do with each row, why, and what it can cost; sends and writes nothing.

    Parameters
    ----------
    table : pandas.DataFrame
        As for `run`.
    run_dir : path-like, optional
        The run directory; without one everything is new.
    max_cost, unit_cost, download, fix_images, on_ambiguous, max_attempts, retry_failed, random_seed, base_dir
        As for `run`; the cap is compared with what the rows can cost, and not stored.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.PLAN` on the table's index; costs in USD, missing where no price is known.
        A notebook shows above them what is to be bought, and what it can cost.

    Raises
    ------
    TableError
        If the table's columns are not what was expected; rows that can't be ordered are planned as ``invalid``.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1, 1])
    >>> dreamo.plan(jobs, unit_cost="0.03")["action"].tolist()
    ['new', 'duplicate']
    """
    table = as_frame(table)
    options = RunOptions(
        max_cost=max_cost,
        unit_cost=unit_cost,
        download=download,
        fix_images=fix_images,
        on_ambiguous=on_ambiguous,
        max_attempts=max_attempts,
        retry_failed=retry_failed,
        random_seed=random_seed,
    )
    directory = None if run_dir is None else RunDirectory(run_dir)
    is_known = directory is not None and directory.path.is_dir()
    state = read_state(directory) if directory is not None and is_known else State()
    entropy = (peek_entropy(directory) if directory is not None and is_known else None) or new_entropy()
    prepared = prepare(
        table,
        entropy=entropy,
        random_seed=random_seed,
        base_dir=path_of(base_dir),
        inputs_dir=None,
        fix_images=fix_images,
        known_images={} if directory is None else stored.known_images(directory.jobs),
    )
    planned = planning.table(
        prepared,
        table.index,
        state,
        options.plan_options(),
        run_dir=None if directory is None else directory.path,
        unit_cost=money(unit_cost),
        nearly=planning.nearly_bought(prepared, state, None if directory is None else directory.jobs),
    )
    cap = options.cap(state.cap)
    remarks = planning.misnamed_columns(prepared)
    if directory is not None:
        remarks += planning.leaving(prepared, state, directory.jobs)
    return Plan.of(planned, cap=cap, spent=Budget(orders=state).spent, remarks=remarks)


def retry(
    run_dir: str | os.PathLike[str],
    *,
    rows: Collection[Any] | pd.Series | None = None,
    classes: str | Collection[str] | None = None,
    client: Client | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    gateway: Literal["local"] | Gateway | None = None,
    allow_private_links: bool = False,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Order chosen failed or ambiguous rows of the directory's table again, each once.

    Parameters
    ----------
    run_dir : path-like
        The run directory.
    rows : collection of labels, or boolean mask, optional
        Rows to order again; default: every failed one. An ambiguous row named here is sent again, and may be
        paid twice.
    classes : str or collection of str, optional
        Only failures of these classes (column ``error_class``); ``"ambiguous"`` stands for every ambiguous row.
    client, api_key, base_url, gateway, allow_private_links, progress
        As for `run`; a run of the local gateway is recognised by itself.
    **options
        Every other option of `run`; `max_cost` defaults to the stored cap.

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
    with in_front():
        flag("progress", progress)
        directory = RunDirectory(run_dir)
        table = stored.read_jobs(directory.jobs)
        chosen = choose(directory, table, rows, classes)
        try:
            task = Task(table.user, table.prepared, RunOptions(**options), chosen)
        except TypeError as error:
            raise UsageError(f"retry: {error}") from None
        service = service_given(
            client=client,
            api_key=api_key,
            base_url=base_url,
            gateway=gateway,
            allow_private_links=allow_private_links,
        )
        entropy = peek_entropy(directory) or new_entropy()
        return work_off(directory, task, entropy, known_service(directory, service), show=progress)


def _prepare(
    table: pd.DataFrame,
    directory: RunDirectory,
    options: RunOptions,
    entropy: str,
    *,
    base_dir: str | os.PathLike[str] | None,
) -> Prepared:
    prepared = prepare(
        table,
        entropy=entropy,
        random_seed=options.random_seed,
        base_dir=path_of(base_dir),
        inputs_dir=directory.inputs,
        fix_images=options.fix_images,
        known_images=stored.known_images(directory.jobs),
    )
    errors = prepared.problems[prepared.problems[columns.SEVERITY] == ERROR]
    if len(errors) and options.on_invalid == "raise":
        raise InvalidTable(_what_is_wrong(errors), Problems.of(prepared.problems, len(table)))
    if options.keep_references:
        _keep_references(prepared, directory)
    return prepared


def _keep_references(prepared: Prepared, directory: RunDirectory) -> None:
    try:
        directory.make()
    except OSError as error:
        raise storage_failed(directory, error) from error
    Inputs(directory.inputs).keep_references(job.image for job in prepared.jobs.values())


def _what_is_wrong(errors: pd.DataFrame) -> str:
    n_rows = errors[columns.POSITION].nunique()
    lines = [
        f"  row {row[columns.ROW]}, {row[columns.COLUMN]}: {row[columns.MESSAGE]} {row[columns.FIX]}"
        for row in errors.head(_LISTED_MAX).to_dict("records")
    ]
    if len(errors) > _LISTED_MAX:
        lines.append(f"  ... and {len(errors) - _LISTED_MAX} more")
    return "\n".join(
        [
            f"{n_rows} of the rows can't be ordered ({len(errors)} problems); nothing was sent.",
            *lines,
            'See .problems for all of them (or call validate), or pass on_invalid="skip" to leave these rows out.',
        ]
    )


def path_of(path: str | os.PathLike[str] | None) -> Path | None:
    """Read a path that may be left out."""
    return None if path is None else Path(path_given("base_dir", path))
