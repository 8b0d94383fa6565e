"""The results table: assembled from rows and attempts, summarised, and traced to the run directory of each row."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Hashable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dreamo_batch import columns
from dreamo_batch.engine.attempts import (
    ARROW,
    SCHEMA,
    STATUS_OF,
    SUBMITTED,
    WEIGHTS,
    Spending,
    Stage,
    State,
    highest_price,
    possibly_billed,
    to_frame,
)
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.store import folder_of, is_url
from dreamo_batch.errors import DirectoryError, UsageError
from dreamo_batch.frames import PALETTE
from dreamo_batch.jobs.cells import is_missing
from dreamo_batch.jobs.fields import rating_columns
from dreamo_batch.money import dollars, exact_text, money, total
from dreamo_batch.results.rating_log import add_ratings
from dreamo_batch.text import counted, option, spelled

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

# In a table's attrs: the absolute path of each run directory, by its name in the column `run_dir`.
_ATTRIBUTE: Final = "dreamo_run_dirs"
_LISTED_MAX: Final = 10
# Where the user's own cells of a row are in `columns.ATTEMPT_INPUTS`.
_USER: Final = "columns"
Seconds = TypeVar("Seconds", pd.Series, pd.DataFrame)
_PENDING: Final = "pending"
_LONGEST_S: Final = 30 * 86_400.0
_STATUS: Final = {str(stage): status for stage, status in STATUS_OF.items()} | {_PENDING: columns.PENDING}
_UNTOUCHED: Final = (str(Stage.UNSENT), str(Stage.REFUSED), _PENDING)  # no answer about money is due
# Columns that the results copy from the attempt that decides its job's status.
_COPIED: Final = (
    columns.TASK_ID,
    columns.OUTPUT_URL,
    columns.OUTPUT_PATH,
    columns.OUTPUT_SHA256,
    columns.OUTPUT_BYTES,
    columns.OUTPUT_WIDTH,
    columns.OUTPUT_HEIGHT,
    columns.OUTPUT_ERROR,
    columns.OUTPUT_URLS,
    columns.OUTPUT_WARNING,
    columns.DISCOUNT,
    columns.ERROR_CLASS,
    columns.ERROR_CODE,
    columns.ERROR_MESSAGE,
    columns.COMPLETED_AT,
)
_READ: Final = [
    columns.JOB_ID,
    columns.STAGE,
    columns.SENT_AT,
    columns.COST,
    columns.MAY_HAVE_BEEN_BILLED,
    *_COPIED,
]


def mark(results: pd.DataFrame, directory: RunDirectory) -> pd.DataFrame:
    """Note in a table which run directory it comes from, and add its ratings; returns the same table."""
    add_ratings(results, directory.path)
    results[columns.RUN_DIR] = pd.Series(directory.given, index=results.index, dtype=columns.STR)
    results.attrs[_ATTRIBUTE] = {directory.given: str(directory.path)}
    manifest = directory.read_manifest()
    if manifest is not None and manifest.sample:
        results.attrs[columns.SAMPLE] = manifest.sample
    return results


def stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the results of several directories."""
    if len(tables) == 1:
        return tables[0]
    is_unlabelled = all(isinstance(table.index, pd.RangeIndex) for table in tables)
    start, shifted = 0, []
    for table in tables:
        moved = (table[columns.DUPLICATE_OF] + start).astype(columns.INT)
        shifted.append(table.assign(**{columns.DUPLICATE_OF: moved}))
        start += len(table)
    return _with_places(_outputs_last(pd.concat(shifted, ignore_index=is_unlabelled)), tables)


def interleaved(tables: list[pd.DataFrame], positions: list[list[int]]) -> pd.DataFrame:
    """Put the parts of a table together again, each row at its old position."""
    if len(tables) == 1:
        return tables[0]
    return _with_places(pd.concat(tables).iloc[np.argsort(np.concatenate(positions))], tables)


def _with_places(whole: pd.DataFrame, tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Note in a table where its parts come from; returns the same table."""
    whole.attrs[_ATTRIBUTE] = {name: place for table in tables for name, place in _places(table).items()}
    return whole


def run_dir_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the run directory of a table without rows of several: `run_dir`, or that which it comes from."""
    if run_dir is not None:
        directory = RunDirectory(run_dir)
        if not directory.path.is_dir() and not directory.exists():
            raise DirectoryError(f"No run directory at {directory.name}.")
        return directory.path
    places = [*_run_dirs(results).values()] or [Path(place) for place in _places(results).values()]
    if len(places) != 1:
        raise UsageError(
            "Can't locate this table's pictures; pass run_dir=, or use what load(run_dir) returns."
        )
    return places[0]


def folders_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the run directory of each row: `run_dir` for all, or that which the row comes from."""
    found = {} if run_dir is not None else _run_dirs(results)
    if not found:
        only = run_dir_of(results, run_dir)
        return _with_pictures(results, [only] * len(results))
    names = results[columns.RUN_DIR]
    has_picture = results[columns.OUTPUT_PATH].notna() if columns.OUTPUT_PATH in results else names.notna()
    lost = names.isna() & has_picture
    if lost.any():
        some = "row has" if lost.sum() == 1 else "rows have"
        raise UsageError(
            f"{lost.sum()} {some} a picture but no {columns.RUN_DIR}, first row "
            f"{results.index[lost.to_numpy().argmax()]!r}. Fill that column, or pass run_dir=."
        )
    anywhere = next(iter(found.values()))  # for rows without a picture
    return _with_pictures(results, [anywhere if is_missing(name) else found[name] for name in names])


def _with_pictures(results: pd.DataFrame, folders: list[Path]) -> list[Path]:
    """Fetch the pictures of rows whose run directory is in a store, unless they are here; return the directories."""
    paths = results.get(columns.OUTPUT_PATH, [None] * len(results))
    for folder in dict.fromkeys(folders):
        replica = RunDirectory(folder).replica
        if replica is not None:
            replica.fetch(
                path
                for here, path in zip(folders, paths, strict=True)
                if here == folder and isinstance(path, str)
            )
            replica.fetch_additions()
    return folders


def _run_dirs(results: pd.DataFrame) -> dict[str, Path]:
    """Return the path of each run directory that the rows name; the path noted in the table, if it still exists."""
    found = {}
    for name in results[columns.RUN_DIR].dropna().unique() if columns.RUN_DIR in results.columns else ():
        here = folder_of(name) if is_url(name) else Path(name).expanduser().absolute()
        noted = _places(results).get(str(name))
        is_noted = noted is not None and (Path(noted).is_dir() or not here.is_dir())
        found[name] = Path(noted) if noted is not None and is_noted else here
    return found


def _places(results: pd.DataFrame) -> dict[str, str]:
    known = results.attrs.get(_ATTRIBUTE)
    return known if isinstance(known, dict) else {}


def _outputs_last(results: pd.DataFrame) -> pd.DataFrame:
    rated = rating_columns(results)
    own = [name for name in results.columns if name not in columns.OUTPUTS and name not in rated]
    return results[[*own, *columns.OUTPUTS, *rated]]


def row_mask(index: pd.Index, rows: Any, job_ids: pd.Series | None = None) -> NDArray[np.bool_]:
    """Mark the rows meant by labels, texts of labels, ranges of them ("3-7") or job ids, or by a boolean per row."""
    if isinstance(rows, pd.Series) and pd.api.types.is_bool_dtype(rows.dtype):
        return _aligned(index, rows)
    values = list(_several(index, rows))
    is_given = [isinstance(value, bool | np.bool_) for value in values]
    if len(values) == len(index) and all(is_given):
        return np.array(values, dtype=bool)
    places: dict[Any, list[int]] = {}
    for position, label in enumerate(index.tolist()):
        as_shown = label.isoformat() if isinstance(label, dt.datetime) else str(label)
        for key in {label, str(label), as_shown}:
            places.setdefault(key, []).append(position)
    by_job: dict[str, list[int]] = {}
    for position, job_id in enumerate(() if job_ids is None else job_ids.tolist()):
        by_job.setdefault(job_id, []).append(position)
    mask = np.zeros(len(index), dtype=bool)
    for value, is_flag in zip(values, is_given, strict=True):
        is_key = isinstance(value, Hashable) and not is_flag  # True would find row 1
        found = places.get(value if is_key else str(value)) or places.get(str(value))
        found = found or by_job.get(str(value)) or _between(places, value)
        if found is None and is_flag:
            raise UsageError(
                f"{counted(len(values), 'boolean')} for {counted(len(index), 'row')}: pass one for every "
                "row, or labels."
            )
        if found is None:
            raise UsageError(
                f"Row {value!r} is not in the table; its labels look like {index[:3].tolist()}. "
                f"Pass labels{spelled(', or a boolean for every row', ', as `dreamo-batch results` shows them')}."
            )
        mask[found] = True
    return mask


def _aligned(index: pd.Index, mask: pd.Series) -> NDArray[np.bool_]:
    """Return a mask in the order of the table, as pandas aligns one."""
    if not mask.index.equals(index):
        if len(mask) != len(index) or not (mask.index.is_unique and index.isin(mask.index).all()):
            raise UsageError(
                f"A mask of {len(mask):,} rows doesn't fit the table's {len(index):,}; its labels look like "
                f"{index[:3].tolist()}. Pass labels, or a boolean for every row."
            )
        mask = mask.reindex(index)
    return np.array(mask.fillna(value=False), dtype=bool)


def _several(index: pd.Index, rows: Any) -> Any:
    """Return the values that name rows: a table stands for its labels, one label for itself."""
    if isinstance(rows, pd.DataFrame):
        return rows.index
    is_one = isinstance(rows, str | bytes) or not hasattr(rows, "__iter__")
    return [rows] if is_one or (isinstance(rows, tuple) and index.nlevels > 1 and rows in index) else rows


def _between(places: dict[Any, list[int]], value: Any) -> list[int] | None:
    """Return the rows from one label to another, "3-7", in the order of the table."""
    if not isinstance(value, str):
        return None
    cuts = (place for place, letter in enumerate(value) if letter == "-")
    ends = ((places.get(value[:cut].strip()), places.get(value[cut + 1 :].strip())) for cut in cuts)
    first, last = next((pair for pair in ends if all(pair)), (None, None))
    if first is None or last is None:
        return None
    if first[0] > last[-1]:
        raise UsageError(f"Rows {value!r}: the table lists the first of these labels after the second.")
    return list(range(first[0], last[-1] + 1))


def assemble(user: pd.DataFrame, rows: pd.DataFrame, attempts: pa.Table) -> pd.DataFrame:
    """Add the outcome of each row's job to the user's table."""
    outcome = _outcome(_of_rows(_one_each(attempts), rows[columns.JOB_ID]))
    is_invalid = rows[columns.JOB_ID].isna().to_numpy()
    outcome.loc[is_invalid, columns.STATUS] = columns.INVALID
    for name in (columns.ERROR_CLASS, columns.ERROR_CODE, columns.ERROR_MESSAGE):
        outcome.loc[is_invalid, name] = rows.loc[is_invalid, name].to_numpy()
    # The cost belongs to the row that was bought, and is 0 on its duplicates.
    is_duplicate = rows[columns.DUPLICATE_OF].notna().to_numpy()
    is_free = is_duplicate & outcome[columns.COST].notna().to_numpy()
    outcome.loc[is_free, columns.COST], outcome.loc[is_free, columns.COST_USD] = "0", 0.0
    outcome.loc[is_duplicate, columns.ATTEMPTS] = 0
    outcome.loc[is_duplicate, columns.MAY_HAVE_BEEN_BILLED] = False
    for name in (columns.JOB_ID, columns.DUPLICATE_OF, columns.SEED_SENT):
        outcome[name] = rows[name].array
    outcome[columns.RUN_DIR] = None  # a directory may be moved; `mark` fills it in
    outcome = outcome[list(columns.OUTPUTS)].astype(output_dtypes())
    outcome.index = user.index
    return pd.concat([user, outcome], axis=1)


def with_left(results: pd.DataFrame, attempts: pd.DataFrame) -> pd.DataFrame:
    """Add a row for each job that the table no longer has, with what its row held when it was submitted."""
    results = results.assign(**{columns.IN_TABLE: True})
    if not len(attempts):
        return results
    attempts = attempts.reset_index(drop=True)
    latest = _with_deciding_last(attempts).drop_duplicates(columns.JOB_ID, keep="last")
    latest = latest.sort_index().reset_index(drop=True)
    inputs = [read_inputs(text) for text in latest[columns.ATTEMPT_INPUTS]]
    user = pd.DataFrame([own_cells(one) for one in inputs], index=latest.index)
    errors = [columns.ERROR_CLASS, columns.ERROR_CODE, columns.ERROR_MESSAGE]
    rows = latest[[columns.JOB_ID, columns.SEED_SENT, *errors]].assign(
        **{columns.DUPLICATE_OF: pd.array([None] * len(latest), dtype=columns.INT)}
    )
    own = user[[name for name in user if name not in columns.OUTPUTS]]
    left = assemble(own, rows, pa.Table.from_pandas(attempts, SCHEMA, preserve_index=False))
    left.index = _labels(results.index, [one.get(columns.ROW) for one in inputs])
    whole = pd.concat([results, left.assign(**{columns.IN_TABLE: False})])
    return _outputs_last(whole).astype(output_dtypes())


def own_cells(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's columns of a submitted row, with what was sent where the row had no value."""
    sent = {columns.PROMPT: inputs.get(columns.PROMPT)}
    own = inputs.get(_USER, {})
    if not any(own.get(name) for name in (columns.IMAGE, *columns.IMAGE_ALIASES, *columns.IMAGE_NUMBERED)):
        sent[columns.IMAGE] = inputs.get(columns.IMAGE_SOURCE)
    return sent | {name: cell for name, cell in own.items() if cell is not None}


def read_inputs(text: object) -> dict[str, Any]:
    """Read what was submitted; empty if the attempt doesn't say."""
    read: dict[str, Any] = json.loads(text) if isinstance(text, str) else {}
    return read


def _labels(index: pd.Index, labels: list[str | None]) -> pd.Index:
    """Return the labels of added rows in the dtype of the other labels, if they can be converted."""
    if isinstance(index, pd.RangeIndex):
        return pd.RangeIndex(len(index), len(index) + len(labels))
    if index.nlevels > 1:
        rest = [None] * (index.nlevels - 1)
        return pd.MultiIndex.from_tuples([(label, *rest) for label in labels], names=index.names)
    try:
        return pd.Index(labels, name=index.name).astype(index.dtype)
    except (ValueError, TypeError):
        return pd.Index(labels, name=index.name, dtype=object)


def plausible(seconds: Seconds) -> Seconds:
    """Make durations missing that only a changed clock explains: negative ones, and those of 30 days or more."""
    return seconds.where((seconds >= 0) & (seconds < _LONGEST_S))


def output_dtypes() -> dict[str, object]:
    """Return the dtypes of the result columns; the status is categorical with fixed categories."""
    return {**columns.dtypes(columns.OUTPUTS), columns.STATUS: pd.CategoricalDtype(columns.STATUSES)}


def _one_each(attempts: pa.Table) -> pa.Table:
    """Return one row per job, whose attempts follow each other: the one that decides its status, with sums over all."""
    is_submitted = pc.is_in(attempts[columns.STAGE], pa.array(list(SUBMITTED), pa.string()))
    attempts = attempts.select(_READ).append_column(columns.ATTEMPTS, is_submitted.cast(pa.int64()))
    job_ids = attempts[columns.JOB_ID]
    is_again = pc.equal(job_ids.slice(1), job_ids.slice(0, max(len(job_ids) - 1, 0)))
    if not pc.any(is_again).as_py():
        return attempts
    is_several = pc.is_in(job_ids, job_ids.slice(1).filter(is_again))
    several = to_frame(attempts.filter(is_several))
    latest = _with_deciding_last(several).drop_duplicates(columns.JOB_ID, keep="last")
    latest = latest.set_index(columns.JOB_ID, drop=False)
    _add_up(latest, several)
    decided = pa.Table.from_pandas(latest, attempts.schema, preserve_index=False)
    return pa.concat_tables([attempts.filter(pc.invert(is_several)), decided])


def _with_deciding_last(attempts: pd.DataFrame) -> pd.DataFrame:
    """Move the attempt that decides its job's status behind the others; see `dreamo_batch.engine.attempts.deciding`."""
    is_one_of_several = attempts[columns.JOB_ID].duplicated(keep=False)
    if not is_one_of_several.any():
        return attempts
    several = attempts[is_one_of_several]
    weights = several[columns.STAGE].map({str(stage): weight for stage, weight in WEIGHTS.items()})
    by_weight = several.loc[weights.sort_values(kind="stable").index]
    chosen = by_weight.drop_duplicates(columns.JOB_ID, keep="last")
    return pd.concat([attempts.drop(chosen.index), chosen])


def _add_up(latest: pd.DataFrame, several: pd.DataFrame) -> None:
    """Write the sums over all attempts of a job into its latest one."""
    by_job = several.groupby(columns.JOB_ID, sort=False)
    attempts = by_job[columns.ATTEMPTS].sum()
    latest.loc[attempts.index, columns.ATTEMPTS] = attempts
    costs = by_job[columns.COST].agg(_exact_sum).astype(columns.STR)  # without any cost it would be of floats
    latest.loc[costs.index, columns.COST] = costs
    billed = by_job[columns.MAY_HAVE_BEEN_BILLED].max()  # True if any is; missing values are ignored
    is_open = latest.loc[billed.index, columns.MAY_HAVE_BEEN_BILLED].isna()
    latest.loc[billed.index, columns.MAY_HAVE_BEEN_BILLED] = billed.mask(
        is_open & ~billed.fillna(value=False)
    )


def _of_rows(jobs: pa.Table, job_ids: pd.Series) -> pa.Table:
    """Return the job of each row; all is missing where it has no attempt."""
    wanted, known = pa.array(job_ids, pa.string(), from_pandas=True), jobs[columns.JOB_ID]
    n = min(len(wanted), len(known))
    is_in_place = pc.fill_null(pc.equal(known.slice(0, n), wanted.slice(0, n)), fill_value=False).to_numpy()
    n_in_place = n if is_in_place.all() else int(is_in_place.argmin())
    in_place, rest = jobs.slice(0, n_in_place), wanted.slice(n_in_place)
    return pa.concat_tables([in_place, jobs.take(pc.index_in(rest, known))]) if len(rest) else in_place


def _outcome(of_rows: pa.Table) -> pd.DataFrame:
    outcome = to_frame(of_rows)
    stages = pc.fill_null(
        pc.index_in(of_rows[columns.STAGE], pa.array(_STATUS, pa.string())), len(_STATUS) - 1
    )
    codes = np.array([columns.STATUSES.index(status) for status in _STATUS.values()])[stages.to_numpy()]
    outcome[columns.STATUS] = pd.Categorical.from_codes(codes, columns.STATUSES)
    costs = of_rows[columns.COST].combine_chunks().dictionary_encode()
    exact = [_exact_sum([cost]) for cost in costs.dictionary.to_pylist()]
    for name, amounts in ((columns.COST, exact), (columns.COST_USD, list(map(float, exact)))):
        values = pa.array(amounts, ARROW[columns.OUTPUTS[name].dtype], from_pandas=True)
        outcome[name] = to_frame(pa.table({name: values.take(costs.indices)}))[name]
    outcome[columns.SUBMITTED_AT] = outcome[columns.SENT_AT]
    seconds = (outcome[columns.COMPLETED_AT] - outcome[columns.SENT_AT]).dt.total_seconds()
    outcome[columns.LATENCY_S] = plausible(seconds).astype(columns.FLOAT)
    outcome[columns.ATTEMPTS] = outcome[columns.ATTEMPTS].fillna(0)
    is_untouched = np.isin(stages.to_numpy(), [list(_STATUS).index(stage) for stage in _UNTOUCHED])
    billed = outcome[columns.MAY_HAVE_BEEN_BILLED]
    outcome[columns.MAY_HAVE_BEEN_BILLED] = billed.mask(is_untouched & billed.isna(), other=False)
    return outcome


def _exact_sum(costs: Sequence[object]) -> str | float:
    known: list[Decimal] = [
        amount for cost in costs if isinstance(cost, str) and (amount := money(cost)) is not None
    ]
    return exact_text(total(known)) if known else float("nan")


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
    """Add up the summaries of several directories; a sum is None if one of them is."""
    if len(summaries) == 1:
        return summaries[0]
    whole: dict[str, Any] = {}
    for name in summaries[0]:
        values = [summary[name] for summary in summaries]
        if name == "by_status":
            counts = {status: sum(one.get(status, 0) for one in values) for status in columns.STATUSES}
            whole[name] = {status: n for status, n in counts.items() if n}
        elif isinstance(values[0], int):
            whole[name] = sum(values)
        else:
            whole[name] = None if None in values else exact_text(total(map(Decimal, values)))
    return whole


def reconcile(n_rows: int, results: pd.DataFrame) -> dict[str, Any]:
    """Compare rows in with rows accounted for."""
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


def sentence(reconciliation: dict[str, Any], spent_usd: Decimal) -> str:
    """Write the reconciliation as one line."""
    counts = ", ".join(f"{n} {PALETTE[status].word}" for status, n in reconciliation["by_status"].items())
    n_in, n_out = reconciliation["rows_in"], reconciliation["rows_accounted_for"]
    return (
        f"{counted(n_in, 'row')} in, {n_out:,} accounted for: {counts or 'none'}; {dollars(spent_usd)} spent"
    )


def ambiguous_lines(results: pd.DataFrame, state: State) -> list[str]:
    """List ambiguous rows with what each may have cost, and how to settle them."""
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
            + spelled(
                "resolve(run_dir, row, task_id=...) or resolve(run_dir, row, not_sent=True)",
                "`dreamo-batch resolve RUN_DIR ROW`",
            )
            + f", or submit them again with {option('on_ambiguous', 'resubmit')}."
        )
    return lines


def _ambiguous_line(label: object, job_id: str, state: State) -> str:
    attempt, price = state.deciding(job_id), highest_price(state.kinds())
    reserved = money(None if attempt is None else attempt.reserved)
    cost = "an unknown cost" if price is None else f"perhaps {dollars(price)}, the highest price seen here"
    cost = cost if reserved is None else f"up to {dollars(reserved)}"
    why = "" if attempt is None else f" ({attempt.error_class})"
    return f"row {label} is ambiguous{why}: job {job_id}, possibly billed {cost}"
