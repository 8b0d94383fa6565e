"""Everything that can be settled without buying: ambiguous rows, missing pictures, and damage."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Hashable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dreamo_batch import columns, shards
from dreamo_batch.arguments import check_count, check_flag
from dreamo_batch.batch import run_to_end
from dreamo_batch.call import Call, Gateway, Service, stored_table
from dreamo_batch.engine import checkpoint, journal, ledger, runner, sending
from dreamo_batch.engine.attempts import Attempt, Stage, State, to_arrow
from dreamo_batch.engine.directory import UNREADABLE, RunDirectory, shard_of
from dreamo_batch.engine.pictures import (
    NotAPicture,
    further_paths,
    inspect_picture,
    is_unaltered,
    unknown_purchases,
)
from dreamo_batch.engine.plan import RunOptions
from dreamo_batch.engine.replica import refuse_young
from dreamo_batch.engine.shared_budget import return_unspent
from dreamo_batch.errors import DirectoryError, UsageError
from dreamo_batch.jobs.cells import text_of
from dreamo_batch.jobs.fields import user_columns
from dreamo_batch.parallel import bars, ticking
from dreamo_batch.results.frame import assemble, folders_of, interleaved, row_mask, run_dir_of, with_origin
from dreamo_batch.results.history import Source, read_results
from dreamo_batch.results.load import composed, existing, is_finished, list_run_dirs, load, read_state
from dreamo_batch.service.config import environment_key
from dreamo_batch.service.messages import is_task_id
from dreamo_batch.text import option, quoted, wording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pandas as pd

    from dreamo_batch.engine.ledger import Recovered
    from dreamo_batch.results.load import RunDir
    from dreamo_batch.service.client import Client


def resolve(
    run_dir: str | os.PathLike[str],
    row: Any,
    *,
    attempt: int | None = None,
    task_id: str | None = None,
    not_sent: bool = False,
    force: bool = False,
) -> pd.DataFrame:
    """Settle an ambiguous attempt by hand, after a look at the service's own list or bill.

    Parameters
    ----------
    run_dir : path
        The run directory.
    row : label or str
        Index label of the row, or its ``job_id``.
    attempt : int, optional
        Number of the attempt within its job, as in `dreamo_batch.attempts`, where a row was submitted again while an
        earlier attempt was in doubt. Default: the one that is ambiguous.
    task_id : str, optional
        The attempt was accepted, as this task; a run in progress here, or the next one, asks for it.
    not_sent : bool
        The attempt was not accepted. A run in progress here, or the next one, submits the row, unless an earlier
        attempt of it failed or is in doubt: then the row keeps that attempt's state.
    force : bool
        In a run directory in an object store, treat an attempt as not sent although it is younger than 15 minutes, so
        that a process that was suspended elsewhere might still send it.

    Returns
    -------
    pandas.DataFrame
        The table as it stands now.

    Raises
    ------
    UsageError
        If the row is not in the table or not ambiguous, or has several ambiguous attempts and none is named, or not
        exactly one of the two answers is given, the task is that of another attempt, or the attempt is too young
        to be treated as not sent.
    DirectoryError
        If the directory can't be used.

    Examples
    --------
    >>> resolve("runs/none", 3, not_sent=True)
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: No run directory at ...runs/none (it has no jobs.parquet).
    """
    check_flag("force", force)
    check_count("attempt", 1 if attempt is None else attempt)
    if (task_id is None) == (not check_flag("not_sent", not_sent)):
        raise UsageError(
            f"Pass either {wording('task_id=', '--task-id ID')}, if the attempt was accepted, or "
            f"{option('not_sent', value=True)}, if it wasn't."
        )
    if task_id is not None and (key := environment_key()) and key.lower() in str(task_id).lower():
        raise UsageError(
            f"{wording('task_id=', '--task-id')} shows your API key. Pass the task id from the service's list or bill."
        )
    if task_id is not None and not is_task_id(task_id):
        raise UsageError(f"{quoted(task_id)} is not a task id. Pass the one from the service's list or bill.")
    directory = RunDirectory(run_dir)
    table = checkpoint.read_jobs(directory.jobs)
    service, is_sharded = directory.require_manifest().service, directory.is_sharded
    job_id = find_job(table, row)
    holder = directory.shard(shard_of(job_id)) if is_sharded else directory
    elsewhere = read_state(directory) if is_sharded else State()

    def settle(running: runner.Runner) -> State:
        opened, now = running.open(service), time.time()
        settled = _ambiguous(opened.state.of(job_id), row, attempt)
        for other in chain(opened.state, elsewhere) if task_id is not None else ():
            if other.task_id == task_id and other != settled:  # else its cost would count twice
                raise UsageError(
                    f"Task {task_id} already belongs to attempt {other.attempt} of job {other.job_id}."
                )
        if not_sent and not force:
            refuse_young(holder.replica, [settled], now)
        running.settle(sending.resolved(settled, now, task_id))
        if running.coordinator is None:
            return_unspent(opened, now)
        return opened.state.copy()

    state = runner.ask(holder, settle)
    return with_origin(composed(directory, None if is_sharded else state), directory)


def find_job(table: checkpoint.StoredTable, row: Any) -> str:
    """Return the job id of a row, given by its label or job id."""
    if not isinstance(row, Hashable):
        raise UsageError(f"row must be the label of one row, or its job_id, not {quoted(row)}.")
    jobs = table.rows[columns.JOB_ID]
    label = text_of(row) if isinstance(row, bool | np.bool_) else row  # one boolean marks no row here
    found = jobs[row_mask(table.user.index, [label], jobs) | (jobs == str(row)).to_numpy()].dropna().unique()
    if len(found) != 1:
        why = f"has {len(found)} jobs; pass a job_id" if len(found) else "is invalid"
        raise UsageError(f"Row {quoted(row)} {why}.")
    return str(found[0])


def _ambiguous(attempts: tuple[Attempt, ...], row: Any, number: int | None) -> Attempt:
    held = [attempt for attempt in attempts if attempt.stage is Stage.AMBIGUOUS]
    found = [attempt for attempt in held if number in (None, attempt.attempt)]
    if len(found) == 1:
        return found[0]
    numbers = " or ".join(f"attempt={attempt.attempt}" for attempt in held)
    if held and number is None:
        raise UsageError(f"Row {row!r} has {len(held)} ambiguous attempts. Pass {numbers}.")
    if held:
        raise UsageError(f"Attempt {number} of row {row!r} is not ambiguous. Pass {numbers}.")
    how = f"is {attempts[-1].stage}" if attempts else "was never submitted"
    raise UsageError(f"Row {row!r} is not ambiguous: its job {how}.")


def download(
    results: Source,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    client: Client | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    gateway: Literal["local"] | Gateway | None = None,
    allow_private_links: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Fetch pictures that were made and are missing on disk; submits nothing, whatever else is to be done.

    After ``run(..., download=False)``, a download that failed, or a file that is gone. Attempts that are still open are
    asked for too; rows that were never submitted stay as they are.

    Parameters
    ----------
    results : pandas.DataFrame, path, or iterable of paths
        Rows of results, any part of them, or one or more run directories for all of their tables.
    run_dir : path, optional
        The run directory; default: those that the results came from, which are worked on one after the other.
    client, api_key, base_url, gateway : optional
        As for `run`. Default: the local gateway if the run used it, else as for `run`.
    allow_private_links : bool
        As for `run`.
    progress : bool
        As for `run`.

    Returns
    -------
    pandas.DataFrame
        The same rows as they are now; `output_error` says why a picture could not be fetched.

    Raises
    ------
    UsageError
        If these are no results, their directory is not known, or a run is in progress there.
    DirectoryError, RunStopped
        As for `run`.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", download=False, progress=False)
    >>> saved = dreamo.download(done.head(1), progress=False)
    >>> done["output_path"].isna().tolist(), saved["output_path"].isna().tolist()
    ([True, True], [False])
    """
    service = Service.of(locals())
    rows = read_results(results)
    folders = folders_of(rows, run_dir) or [run_dir_of(rows, run_dir)]
    positions: dict[Path, list[int]] = {folder: [] for folder in folders}
    for position, folder in zip(range(len(rows)), folders, strict=False):
        positions[folder].append(position)
    calls = []
    for folder, at in positions.items():
        directory, wanted = existing(folder), frozenset(rows[columns.JOB_ID].iloc[at].dropna())
        table = stored_table(directory)
        calls.append(Call.on_stored(directory, table, RunOptions(), service, fetched=wanted))
    for call in calls:
        run_to_end(shards.over_shards(call), show=progress)
    fresh = [
        _as_recorded(rows.iloc[at], call.directory)
        for at, call in zip(positions.values(), calls, strict=True)
    ]
    return interleaved(fresh, list(positions.values()))


def _as_recorded(rows: pd.DataFrame, directory: RunDirectory) -> pd.DataFrame:
    """Update rows with what the ledger knows now, including rows that have left the directory's table."""
    attempts = to_arrow(read_state(directory))
    fresh = assemble(rows[user_columns(rows)], rows.reset_index(drop=True), attempts)
    fresh = with_origin(fresh, directory)
    if columns.RUN_DIR in rows and rows[columns.RUN_DIR].notna().all():
        fresh[columns.RUN_DIR], fresh.attrs = rows[columns.RUN_DIR], rows.attrs
    return fresh


def verify(run_dir: RunDir | Iterable[RunDir], *, progress: bool = True) -> list[str]:
    """Check run directories: ledger, tables, counts, and the bytes of every picture.

    Meant for directories that nobody is working on: a picture being saved by another process may look like damage.

    Parameters
    ----------
    run_dir : path, or iterable of paths
        One or more run directories.
    progress : bool
        Show a bar while the pictures are read.

    Returns
    -------
    list of str
        One sentence per damage, which begins with its directory if there are several; empty if there is none.

    Raises
    ------
    UsageError
        If this process works on a directory, or `run_dir` is not a path.

    Examples
    --------
    >>> verify("runs/none")
    ['No run directory at ...runs/none.']
    """
    found = {path: _damage(path, progress=progress) for path in list_run_dirs(run_dir)}
    if len(found) == 1:
        return next(iter(found.values()))
    return [f"{os.fspath(path)}: {line}" for path, lines in found.items() for line in lines]


def _damage(run_dir: RunDir, *, progress: bool, is_shard: bool = False) -> list[str]:
    try:
        directory = existing(run_dir)
        shards = directory.shards()
    except DirectoryError as error:
        return [str(error)]
    if runner.live(directory.path) is not None:
        raise UsageError(
            f"A run is in progress in {directory.name}; a picture being saved would look like damage. Stop it, or wait."
        )
    found = [
        f"{name}: {line}"
        for name, shard in shards.items()
        for line in _damage(shard.given, progress=progress, is_shard=True)
    ]
    checks: tuple[Callable[[RunDirectory], Iterator[str]], ...] = (_ledger, _manifest, _tables, _inputs)
    # A sharded directory has the table; its shards have the ledgers.
    for check in checks[:2] if is_shard else checks[directory.is_sharded :]:
        try:
            with bars(progress):
                found += list(check(directory))
        except DirectoryError as error:
            found.append(str(error))
        except OSError as error:
            found.append(f"{error.filename or directory.path} can't be read ({error.strerror or error})")
    return list(dict.fromkeys(found))


def _ledger(directory: RunDirectory) -> Iterator[str]:
    recovered = ledger.read(directory.path)
    yield from recovered.warnings
    state = recovered.state()
    attempts = list(state)
    saved = [attempt.output_path for attempt in attempts if attempt.output_path is not None]
    replica, stored = directory.replica, set[str]()
    if replica is None:  # in a store, the log keeps the previous checkpoint
        yield from _reserve(directory, recovered)
    else:
        stored.update(replica.names())
        for path in saved:
            if path not in stored and (directory.path / path).exists():
                yield f"{path} is missing in the store; run again on this machine to put it there"
        replica.fetch(saved)
        replica.fetch_additions()
    with ticking(len(attempts), "verifying", unit="attempt") as tick:
        for attempt in attempts:
            found = list(_picture(directory, attempt))
            if found and replica is not None and attempt.output_path in stored:  # maybe changed here
                (directory.path / attempt.output_path).unlink(missing_ok=True)
                replica.fetch([attempt.output_path])
                found = list(_picture(directory, attempt))
            yield from found
            tick()
    for trace in unknown_purchases(directory, state):
        yield f"{trace} shows a purchase that the ledger doesn't have; nothing more is bought here"


def _reserve(directory: RunDirectory, recovered: Recovered) -> Iterator[str]:
    """Check the previous checkpoint, which is read only if the newest one is damaged."""
    path = directory.path / checkpoint.PREVIOUS
    try:
        checkpoint.read(path)
    except FileNotFoundError:
        if recovered.snapshot is not None and journal.numbers(directory.path)[:1] != [1]:
            yield f"{path.name} is missing; the next run writes it again"
    except UNREADABLE as error:
        if path.name not in recovered.damaged:
            yield f"{path.name} can't be read ({error}); the next run replaces it"


def _picture(directory: RunDirectory, attempt: Attempt) -> Iterator[str]:
    if attempt.output_path is None or attempt.output_sha256 is None:
        return
    try:
        n_bytes = (directory.path / attempt.output_path).stat().st_size
    except FileNotFoundError:
        yield f"{attempt.output_path} is missing; run again to fetch it once more"
        return
    if n_bytes != attempt.output_bytes:
        yield (
            f"{attempt.output_path} has {n_bytes} bytes, not the {attempt.output_bytes} that were saved; run again to "
            "fetch it once more"
        )
    elif not is_unaltered(directory.path, attempt.output_path, attempt.output_sha256):
        yield f"{attempt.output_path} is not the picture that was saved; delete it and run again"
    again = f"delete {attempt.output_path} and run again to fetch every picture of its task"
    for number, path in enumerate(further_paths(directory.path, attempt.output_path, attempt.output_urls), 2):
        if path is None:
            yield f"picture {number} of the task of {attempt.output_path} is missing; {again}"
            continue
        try:
            inspect_picture((directory.path / path).read_bytes())
        except NotAPicture:
            yield f"{path} is damaged; {again}"


def _manifest(directory: RunDirectory) -> Iterator[str]:
    manifest = directory.read_manifest()
    if manifest is None:
        remedy = "restore it from a copy" if directory.is_sharded else "the next run rebuilds it"
        yield f"run.json is missing or can't be read; {remedy}"
        return
    n_rows = manifest.reconciliation.get("rows_in")
    if n_rows is not None and (n_found := len(load(directory.path))) != n_rows:
        yield f"run.json counted {n_rows} rows, the table has {n_found}"


def _tables(directory: RunDirectory) -> Iterator[str]:
    checkpoint.read_jobs(directory.jobs)
    if not directory.results.exists():
        manifest = directory.read_manifest()
        if manifest is not None and manifest.reconciliation and not directory.is_sharded:
            yield "results.parquet is missing; the next run writes it again"
        return
    results = checkpoint.read_frame(directory.results)[0]
    if not is_finished(directory):
        return
    known = composed(directory)
    names = [name for name in columns.OUTPUTS if name in results]
    if len(results) != len(known) or not results[names].astype(str).equals(known[names].astype(str)):
        yield "results.parquet differs from the ledger; the next run writes it again"


def _inputs(directory: RunDirectory) -> Iterator[str]:
    """Check the reference pictures stored in the directory; others are the user's."""
    known = checkpoint.references_of(checkpoint.read_jobs(directory.jobs).decided)
    rows, digests = known[[columns.IMAGE_SENT, columns.IMAGE_SENT_DIGEST]], {*known[columns.IMAGE_DIGEST]}
    for location, digest in rows.dropna().drop_duplicates().itertuples(index=False):
        path = Path(location)
        # Recorded before the directory was moved.
        was_here = path.stem.partition("-")[0] in digests and not path.exists()
        if path.parent != directory.inputs and not was_here:
            continue
        if not path.exists():
            yield f"inputs/{path.name} is missing; rows not submitted yet need it"
        elif path.parent == directory.inputs and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield f"inputs/{path.name} is not the picture that was kept; rows not submitted yet need it"
