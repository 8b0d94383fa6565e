"""Read run directories, also while they are in use: results, counts, attempts, and what a call ends with."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dreamo_batch import columns
from dreamo_batch.appearance import PALETTE
from dreamo_batch.engine import checkpoint, journal, ledger
from dreamo_batch.engine.attempts import (
    NO_TERMS,
    SCHEMA,
    SUBMITTED,
    Stage,
    State,
    StoredAttempts,
    Terms,
    to_arrow,
    to_frame,
)
from dreamo_batch.engine.directory import SHARDS, UNREADABLE, RunDirectory
from dreamo_batch.engine.spending import Spending, highest_price, possibly_billed
from dreamo_batch.errors import DirectoryError, LedgerDamaged, UsageError, logger_named, warn
from dreamo_batch.jobs.fields import check_pandas
from dreamo_batch.money import dollars, exact_text, money, total
from dreamo_batch.results.frame import TAKEN, assemble, stacked, with_jobs_left, with_origin
from dreamo_batch.text import counted, option, quoted, same_call, wording

if TYPE_CHECKING:
    from pathlib import Path

logger = logger_named(__name__)

_SHARD: Final = pa.field("shard", pa.string())
_BY_SHARD: Final = ds.partitioning(pa.schema([_SHARD]))
# What is read for results: not the long texts, unless they take something from these.
_LONG: Final = {columns.ATTEMPT_INPUTS, columns.METADATA}.difference(TAKEN)
_NEEDED: Final = [name for name in SCHEMA.names if name not in _LONG]
RunDir = str | os.PathLike[str]
"""One run directory."""


def load(run_dir: RunDir | Iterable[RunDir], *, all: bool = False) -> pd.DataFrame:  # noqa: A002 - what it is
    """Read the results of one or more run directories, at any time, from any process, also while they are in use.

    Parameters
    ----------
    run_dir : path, or iterable of paths
        One or more run directories.
    all : bool
        Add a row per job that was submitted for rows that have left the table, with their columns at that time; the
        column `in_table` marks which is which.

    Returns
    -------
    pandas.DataFrame
        The table of the last call with the columns of `dreamo_batch.columns.OUTPUTS`, as `run` returns it. Several
        directories are concatenated; the column `run_dir` names each row's.

    Raises
    ------
    UsageError
        If `run_dir` is not a path.
    DirectoryError
        If there is no run directory, or it can't be read.

    Examples
    --------
    >>> load("runs/none")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: No run directory at ...runs/none.
    """
    check_pandas()
    return stacked([_load(existing(path), with_left=all) for path in list_run_dirs(run_dir)])


def list_run_dirs(source: RunDir | Iterable[RunDir]) -> list[RunDir]:
    """Return one or more run directories as a list without repeats."""
    if isinstance(source, str | os.PathLike):
        return [source]
    # Iterating over a DataFrame would yield its columns.
    several = list(source) if isinstance(source, Iterable) and not isinstance(source, pd.DataFrame) else []
    if not several or not all(isinstance(path, str | os.PathLike) for path in several):
        raise UsageError(
            f"Expected a run directory, or several, got {quoted(source)}. Pass the path passed to run()."
        )
    by_place: dict[Path, RunDir] = {}
    for path in several:
        by_place.setdefault(RunDirectory(path).path.resolve(), path)
    # A command that waits in the background, or was stopped while waiting, leaves only its log.
    folders = {at: RunDirectory(at) for at in by_place}
    waiting = [at for at, folder in folders.items() if folder.log.is_file() and not journal.has_begun(folder)]
    if 0 < len(waiting) < len(by_place):
        warn(f"Left out {', '.join(map(str, waiting))}: no run has begun there yet.")
        return [path for place, path in by_place.items() if place not in waiting]
    return list(by_place.values())


def _load(directory: RunDirectory, state: State | None = None, *, with_left: bool = False) -> pd.DataFrame:
    with ledger.reading(directory):
        stored = _stored(directory) if is_finished(directory) else None
        results = composed(directory, state) if stored is None else stored
        if with_left:
            attempts = ledger_frame(directory)
            is_in_table = attempts[columns.JOB_ID].isin(results[columns.JOB_ID])
            left = attempts[attempts[columns.ATTEMPT].notna() & ~is_in_table]
            results = with_jobs_left(results, left)
        return with_origin(results, directory)


def status(run_dir: RunDir | Iterable[RunDir]) -> dict[str, Any]:
    """Count the rows of run directories, and add up their money.

    Parameters
    ----------
    run_dir : path, or iterable of paths
        One or more run directories.

    Returns
    -------
    dict
        ``rows``, ``by_status``, ``attempts``, ``spent_usd``, ``reserved_usd``, ``possibly_billed_usd``,
        ``max_cost_usd``. Money is exact decimal text and covers every attempt of a directory; ``possibly_billed_usd``
        is None if an attempt without a known price may have been billed, ``max_cost_usd`` if a directory has no cap.

    Raises
    ------
    UsageError
        If `run_dir` is not a path.
    DirectoryError
        If there is no run directory, or it can't be read.

    Examples
    --------
    >>> status("runs/none")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: No run directory at ...runs/none.
    """
    summaries = []
    for path in list_run_dirs(run_dir):
        directory = existing(path)
        state = read_state(directory)
        if doubt := doubt_of_cap(directory):
            warn(doubt)
        summaries.append(summarise(_load(directory, state), state, money(state.terms.cap)))
    return added(summaries)


def doubt_of_cap(directory: RunDirectory) -> str:
    """Say that a cap may not be shown, as `run.json` of a directory in shards can't be read; else return ""."""
    if not directory.is_sharded or directory.read_manifest() is not None:
        return ""
    return f"Can't read run.json in {directory.given}; if the run has a cap, it isn't shown."


def stored_terms(directory: RunDirectory) -> Terms:
    """Return the spending limits stored in a run directory; none if there is no directory yet."""
    if directory.is_sharded:
        manifest = directory.read_manifest()
        return NO_TERMS if manifest is None else Terms(cap=manifest.cap, budget=manifest.budget)
    with ledger.reading(directory):
        return ledger.read(directory.path, ()).terms if directory.path.is_dir() else NO_TERMS


def read_state(directory: RunDirectory, names: Sequence[str] = SCHEMA.names) -> State:
    """Read the ledger (or some columns) into a state; attempts on the wire when the process ended are ambiguous."""
    return read_ledger(directory, names)[0]


def read_ledger(directory: RunDirectory, names: Sequence[str] = SCHEMA.names) -> tuple[State, bool]:
    """Read the ledger like `read_state`, and return whether the directory is a copy of the original."""
    if not directory.path.is_dir():  # it doesn't exist yet
        return State(), False
    if directory.is_sharded:
        shards = {name: read_ledger(shard, names) for name, shard in directory.shards().items()}
        whole = joined({name: state for name, (state, _) in shards.items()}, stored_terms(directory))
        return whole, any(is_copy for _, is_copy in shards.values())
    is_live = directory.is_locked()
    with ledger.reading(directory):
        recovered = ledger.read(directory.path, names)
        is_copy = ledger.is_copied(recovered, directory)
    state = recovered.state()
    return state if is_live else _settled(state), is_copy


def joined(shards: Mapping[str, State], terms: Terms) -> State:
    """Return the attempts of all shards, with picture paths relative to the whole directory."""
    whole, tables = State(terms=terms), [SCHEMA.empty_table()]
    for name, state in shards.items():
        table, number = state.stored.table, SCHEMA.get_field_index(columns.OUTPUT_PATH)
        paths = pc.binary_join_element_wise(name, table[columns.OUTPUT_PATH], "/")
        tables.append(table.set_column(number, SCHEMA.field(number), paths))
        for job_id, attempts in state.changed.items():
            whole.changed[job_id] = tuple(
                one if one.output_path is None else replace(one, output_path=f"{name}/{one.output_path}")
                for one in attempts
            )
    whole.stored = StoredAttempts(pa.concat_tables(tables))
    return whole


def _settled(state: State) -> State:
    for attempt in list(ledger.interrupted(state)):
        from dreamo_batch.engine.sending import interrupted  # imports requests, which is rarely needed here

        state.apply(interrupted(attempt, attempt.sent_at or time.time()))
    return state


def existing(run_dir: str | os.PathLike[str]) -> RunDirectory:
    """Return the run directory at a path; raise if there is none."""
    directory = RunDirectory(run_dir)
    with ledger.reading(directory):
        is_there = journal.has_begun(directory)
    if not is_there:
        log = f" No run has begun there yet; see {directory.log}." if directory.log.is_file() else ""
        raise DirectoryError(f"No run directory at {directory.name}.{log}")
    if directory.replica is not None and directory.replica.silence:
        logger.warning("%s", directory.replica.silence)
    return directory


def is_finished(directory: RunDirectory) -> bool:
    """Return whether `results.parquet` is complete for the table of the last call."""
    try:
        results, jobs = map(checkpoint.read_table_meta, (directory.results, directory.jobs))
        meta = checkpoint.read_meta(directory.path / checkpoint.NAME)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    newest = max(journal.numbers(directory.path), default=0)
    return bool(
        results["table_id"] == jobs["table_id"] and results["covers"] == meta.covers and newest <= meta.covers
    )


def _stored(directory: RunDirectory) -> pd.DataFrame | None:
    """Read the stored results; None if they are damaged, as the ledger has the same information."""
    try:
        results, _ = checkpoint.read_frame(directory.results)
    except DirectoryError as error:
        logger.warning("%s", error)
        return None
    own = [name for name in results.columns if name not in columns.OUTPUTS]
    return columns.typed(results.reindex(columns=[*own, *columns.OUTPUTS]), columns.OUTPUTS)


def composed(directory: RunDirectory, state: State | None = None) -> pd.DataFrame:
    """Assemble the results from the table of the last call and the ledger, which is read unless passed."""
    user, rows = checkpoint.read_outcomes(directory.jobs)
    try:
        state = read_state(directory, _NEEDED) if state is None else state
    except LedgerDamaged:  # all columns are needed to recognise a repeated event
        state = read_state(directory)
    return assemble(user, rows, to_arrow(state))


def decided_for(results: pd.DataFrame, folders: Sequence[Path], names: Iterable[str]) -> pd.DataFrame:
    """Return the decisions for each row's job, by position; missing if its directory has none."""
    known = [
        checkpoint.read_distinct_jobs(RunDirectory(folder).jobs).set_index(columns.JOB_ID)[list(names)]
        for folder in dict.fromkeys(folders)
    ]
    if not known:
        return pd.DataFrame(columns=list(names))
    numbers = pd.factorize(np.array(folders, dtype=object))[0][: len(results)]
    keys = pd.MultiIndex.from_arrays([numbers, results[columns.JOB_ID]])
    return pd.concat(known, keys=range(len(known))).reindex(keys).reset_index(drop=True)


def pictures_left(run_dirs: Iterable[RunDir], results: pd.DataFrame) -> int:
    """Count the saved pictures of rows that have left the tables of run directories."""
    n = 0
    for run_dir in run_dirs:
        attempts = ledger_frame(existing(run_dir))
        saved = attempts.loc[attempts[columns.OUTPUT_PATH].notna(), columns.JOB_ID]
        current = results.loc[results[columns.RUN_DIR] == os.fspath(run_dir), columns.JOB_ID]
        n += int((~saved.isin(current)).sum())
    return n


def ledger_frame(directory: RunDirectory) -> pd.DataFrame:
    """Return a row per attempt, as in `read_state`."""
    return to_frame(to_arrow(read_state(directory)))


def scan(run_dir: RunDir) -> ds.Dataset:
    """Open every attempt of a run directory as a dataset, for DuckDB, Polars, Dask or Arrow, without reading it yet.

    Parameters
    ----------
    run_dir : path
        The run directory.

    Returns
    -------
    pyarrow.dataset.Dataset
        Columns of `dreamo_batch.columns.LEDGER`, a row per attempt, and one of stage ``pending`` per job without any.
        From a directory of shards also `shard`, such as ``"0a"``: `output_path` is relative to ``shards/0a``.

    Raises
    ------
    DirectoryError
        If there is no run directory, or it can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.scan(run_dir).to_table(columns=["stage", "cost"]).to_pylist()[0]
    {'stage': 'completed', 'cost': '0.004251183'}
    """
    directory = existing(run_dir)
    is_sharded = directory.is_sharded
    several = list(directory.shards().values()) if is_sharded else [directory]
    schema = SCHEMA.append(_SHARD) if is_sharded else SCHEMA
    closed = [shard for shard in several if _is_settled(shard)]
    found = [ds.dataset(_as_table(shard, schema)) for shard in several if shard not in closed]
    if closed or not found:
        paths = [str(shard.path / checkpoint.NAME) for shard in closed]
        base = str(directory.path / SHARDS)
        found.append(ds.dataset(paths, schema, "parquet", partitioning=_BY_SHARD, partition_base_dir=base))
    return ds.dataset(found)


def _as_table(directory: RunDirectory, schema: pa.Schema) -> pa.Table:
    """Read a ledger as a table, with a column for the shard if the schema has one."""
    table = to_arrow(read_state(directory))
    for field in list(schema)[len(SCHEMA) :]:
        table = table.append_column(field, pa.array([directory.path.name] * len(table), field.type))
    return table


def _is_settled(directory: RunDirectory) -> bool:
    """Whether the checkpoint of a ledger is complete."""
    try:
        meta = checkpoint.read_meta(directory.path / checkpoint.NAME)
        stages = pq.read_table(directory.path / checkpoint.NAME, columns=[columns.STAGE])[columns.STAGE]
    except UNREADABLE:
        return False
    is_behind = max(journal.numbers(directory.path), default=0) > meta.covers
    is_sending = pc.any(pc.equal(stages, str(Stage.SENDING))).as_py()
    return not (is_behind or is_sending or journal.read_strays(directory.path))


_LISTED_MAX: Final = 10


def summarise(results: pd.DataFrame, state: State, cap: Decimal | None) -> dict[str, Any]:
    """Count rows and add up money."""
    kinds = state.kinds()
    doubtful = possibly_billed(kinds)
    budget = Spending(cap=cap, attempts=kinds)
    return {
        "rows": len(results),
        "by_status": _by_status(results),
        "attempts": sum(n for attempt, n in kinds.items() if attempt.stage in SUBMITTED),
        "spent_usd": exact_text(budget.spent),
        "reserved_usd": exact_text(budget.reserved),
        "possibly_billed_usd": None if doubtful is None else exact_text(doubtful),
        "max_cost_usd": None if cap is None else exact_text(cap),
    }


def added(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up the summaries of several directories; a sum is None if one of its parts is."""
    whole: dict[str, Any] = {}
    for name in summaries[0]:
        values = [summary[name] for summary in summaries]
        if name == "by_status":
            counts: Counter[str] = sum(map(Counter, values), Counter())
            whole[name] = {status: counts[status] for status in columns.STATUSES if counts[status]}
        elif isinstance(values[0], int):
            whole[name] = sum(values)
        else:
            whole[name] = None if None in values else exact_text(total(map(Decimal, values)))
    return whole


def reconcile(n_rows: int, results: pd.DataFrame) -> dict[str, Any]:
    """Compare the number of rows passed in with those accounted for."""
    by_status = _by_status(results)
    n_accounted = sum(by_status.values())
    return {
        "rows_in": n_rows,
        "rows_accounted_for": n_accounted,
        "is_complete": n_rows == n_accounted == len(results),
        "by_status": by_status,
    }


def _by_status(results: pd.DataFrame) -> dict[str, int]:
    counts = results[columns.STATUS].value_counts()
    return {status: int(counts[status]) for status in columns.STATUSES if counts[status]}


def sentence(counts: dict[str, Any], spent_usd: Decimal, results: pd.DataFrame) -> str:
    """Return the reconciliation as one line, with the number of pictures without a cost in USD."""
    states = ", ".join(f"{n} {PALETTE[status].word}" for status, n in counts["by_status"].items()) or "none"
    n_in, n_out = counts["rows_in"], counts["rows_accounted_for"]
    text = f"{counted(n_in, 'row')} in, {n_out:,} accounted for: {states}; {dollars(spent_usd)} spent"
    n = _n_unpriced(results)
    return f"{text}, {n:,} more of unknown cost" if n else text


def _n_unpriced(results: pd.DataFrame) -> int:
    """Count the pictures that have no cost in USD."""
    is_made = results[columns.STATUS].eq(columns.COMPLETED) & results[columns.DUPLICATE_OF].isna()
    return int((is_made & results[columns.COST].isna()).sum())


def open_lines(results: pd.DataFrame, state: State) -> list[str]:
    """List ambiguous rows with their possible cost and how to settle them; count pictures unsaved or without cost."""
    rows = results[(results[columns.STATUS] == columns.AMBIGUOUS) & results[columns.DUPLICATE_OF].isna()]
    lines = [
        _ambiguous_line(label, job_id, state)
        for label, job_id in rows[columns.JOB_ID].head(_LISTED_MAX).items()
    ]
    if len(rows) > _LISTED_MAX:
        lines.append(f"... and {len(rows) - _LISTED_MAX} more")
    if lines:
        lines.append(
            "Ambiguous rows may have been accepted and billed. They won't be resent unless you ask: settle each with "
            + wording(
                "resolve(run_dir, row, task_id=...) or resolve(run_dir, row, not_sent=True)",
                "`dreamo-batch resolve RUN_DIR ROW`",
            )
            + f", or submit them again with {option('on_ambiguous', 'resubmit')}."
        )
    unsaved = results.loc[results[columns.DUPLICATE_OF].isna(), columns.OUTPUT_ERROR].dropna()
    if len(unsaved):
        lost = f"{counted(len(unsaved), 'picture')} could not be saved; {same_call()} again fetches what is missing"
        lines.append(f"{lost} for free. Row {unsaved.index[0]}: {unsaved.iloc[0]}")
    if n := _n_unpriced(results):
        lines.append(
            f"The service gave no cost in USD for {counted(n, 'picture')}; the amount spent doesn't include them."
        )
    return lines


def _ambiguous_line(label: object, job_id: str, state: State) -> str:
    attempt, price = state.deciding(job_id), highest_price(state.kinds())
    reserved = money(None if attempt is None else attempt.reserved)
    cost = "an unknown cost" if price is None else f"{dollars(price)}, the highest price seen here"
    cost = cost if reserved is None else f"up to {dollars(reserved)}"
    why = "" if attempt is None else f" ({attempt.error_class})"
    return f"row {label} is ambiguous{why}: job {job_id}, possibly billed {cost}"
