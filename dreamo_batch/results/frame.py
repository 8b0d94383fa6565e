"""The results table: made from the ledger, where its pictures are, and which of its rows are chosen."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dreamo_batch import columns
from dreamo_batch.engine.attempts import ARROW, SCHEMA, STATUS_OF, SUBMITTED, WEIGHTS, Stage, to_frame
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.replica import folder_of
from dreamo_batch.engine.store import is_url
from dreamo_batch.errors import DirectoryError, UsageError, warn
from dreamo_batch.jobs.cells import is_missing
from dreamo_batch.jobs.fields import rating_columns
from dreamo_batch.money import exact_text, money, total
from dreamo_batch.results.rating_log import with_ratings
from dreamo_batch.text import counted, quoted, wording

if TYPE_CHECKING:
    import os
    from decimal import Decimal

    from numpy.typing import NDArray


# Key in a table's attrs: the absolute path of each run directory, by its name in the column `run_dir`.
_ATTRIBUTE: Final = "dreamo_run_dirs"
# Key of the user's own cells in `columns.ATTEMPT_INPUTS`.
_USER: Final = "columns"
Seconds = TypeVar("Seconds", pd.Series, pd.DataFrame)
_PENDING: Final = "pending"
_LONGEST_S: Final = 30 * 86_400.0
_STATUS: Final = {str(stage): status for stage, status in STATUS_OF.items()} | {_PENDING: columns.PENDING}
_UNTOUCHED: Final = (str(Stage.UNSENT), str(Stage.REFUSED), _PENDING)  # no question about money is open
# What the results take from the attempt that decides its job's status: what they copy, and what more they need.
_COPIED: Final = columns.OUTPUTS.keys() & columns.LEDGER.keys() - {columns.SEED_SENT}
TAKEN: Final = [*sorted(_COPIED), columns.STAGE, columns.SENT_AT]


def with_origin(results: pd.DataFrame, directory: RunDirectory) -> pd.DataFrame:
    """Record in a table which run directory it comes from, and add its ratings."""
    results = with_ratings(results, [directory.path] * len(results))
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
    """Reassemble the parts of a table, with each row at its old position."""
    if len(tables) == 1:
        return tables[0]
    return _with_places(pd.concat(tables).iloc[np.argsort(np.concatenate(positions))], tables)


def _with_places(whole: pd.DataFrame, tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Record in a table where its parts come from; return the same table."""
    whole.attrs[_ATTRIBUTE] = {name: place for table in tables for name, place in _places(table).items()}
    return whole


def run_dir_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the run directory of a table that comes from only one: `run_dir`, or the one named in the table."""
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
    """Return the run directory of each row, like `places_of`, after fetching pictures and references from stores."""
    return with_pictures(results, with_additions(places_of(results, run_dir)))


def places_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the run directory of each row: `run_dir`, or the one it comes from; warn if one is gone."""
    found = {} if run_dir is not None else _run_dirs(results)
    if found:
        names = results[columns.RUN_DIR]
        lost = names.isna() & results.get(columns.OUTPUT_PATH, names).notna()
        if lost.any():
            some = "row has" if lost.sum() == 1 else "rows have"
            raise UsageError(
                f"{lost.sum()} {some} a picture but no {columns.RUN_DIR}, first row "
                f"{results.index[lost.to_numpy().argmax()]!r}. Fill that column, or pass run_dir=."
            )
        anywhere = next(iter(found.values()))  # for rows without a picture
        folders = [anywhere if is_missing(name) else found[name] for name in names]
    else:
        folders = [run_dir_of(results, run_dir)] * len(results)
    paths = results.get(columns.OUTPUT_PATH, ())
    for folder in dict.fromkeys(at for at, one in zip(folders, paths, strict=False) if isinstance(one, str)):
        if not folder.is_dir():
            warn(
                f"No directory at {folder}, where the table's pictures were. If it was moved, pass run_dir=."
            )
    return folders


def with_pictures(results: pd.DataFrame, folders: list[Path]) -> list[Path]:
    """Fetch missing pictures of rows whose run directory is in a store; return the directories."""
    paths = results.get(columns.OUTPUT_PATH, [None] * len(results))
    for folder in dict.fromkeys(folders):
        replica = RunDirectory(folder).replica
        if replica is not None:
            replica.fetch(
                one for at, one in zip(folders, paths, strict=True) if at == folder and isinstance(one, str)
            )
    return folders


def with_additions(folders: list[Path]) -> list[Path]:
    """Fetch files other than pictures, such as references, of run directories in stores; return the directories."""
    for folder in dict.fromkeys(folders):
        replica = RunDirectory(folder).replica
        if replica is not None:
            replica.fetch_additions()
    return folders


def _run_dirs(results: pd.DataFrame) -> dict[str, Path]:
    """Return the path of each run directory that rows name, as recorded in the table if that still exists."""
    found = {}
    for name in results[columns.RUN_DIR].dropna().unique() if columns.RUN_DIR in results.columns else ():
        path = folder_of(name) if is_url(name) else Path(name).expanduser().absolute()
        noted = _places(results).get(str(name))
        is_noted = noted is not None and (Path(noted).is_dir() or not path.is_dir())
        found[name] = Path(noted) if noted is not None and is_noted else path
    return found


def _places(results: pd.DataFrame) -> dict[str, str]:
    known = results.attrs.get(_ATTRIBUTE)
    return known if isinstance(known, dict) else {}


def _outputs_last(results: pd.DataFrame) -> pd.DataFrame:
    rated = rating_columns(results)
    own = [name for name in results.columns if name not in columns.OUTPUTS and name not in rated]
    return results[[*own, *columns.OUTPUTS, *rated]]


def row_mask(index: pd.Index, rows: Any, job_ids: pd.Series | None = None) -> NDArray[np.bool_]:
    """Return a mask of the rows given by labels (also as text), ranges ("3-7"), job ids, or a boolean per row."""
    if isinstance(rows, pd.Series) and len(rows) and pd.api.types.infer_dtype(rows) == "boolean":
        return _aligned(index, rows)
    values = _several(index, rows)
    if isinstance(rows, Mapping) or any(isinstance(one, list | dict | np.ndarray | slice) for one in values):
        raise UsageError(f"rows: expected labels of rows, or a boolean for every row, not {quoted(rows)}.")
    is_given = [isinstance(value, bool | np.bool_) for value in values]
    if len(values) == len(index) and all(is_given):
        return np.array(values, dtype=bool)
    if any(is_given):
        raise UsageError(
            f"rows: {counted(sum(is_given), 'boolean')} for {counted(len(index), 'row')}: pass one for every row, or "
            "labels."
        )
    places: dict[Any, list[int]] = {}
    for position, label in enumerate(index.tolist()):
        as_shown = label.isoformat() if isinstance(label, dt.datetime) else str(label)
        for key in {label, str(label), as_shown}:
            places.setdefault(key, []).append(position)
    by_job: dict[str, list[int]] = {}
    for position, job_id in enumerate(() if job_ids is None else job_ids.tolist()):
        by_job.setdefault(job_id, []).append(position)
    mask = np.zeros(len(index), dtype=bool)
    for value in values:
        found = places.get(value if isinstance(value, Hashable) else str(value)) or places.get(str(value))
        found = found or by_job.get(str(value)) or _between(places, value)
        if found is None:
            raise UsageError(
                f"Row {value!r} is not in the table; its labels look like {index[:3].tolist()}. "
                f"Pass labels of the table{wording('', ', as `dreamo-batch results` shows them')}."
            )
        mask[found] = True
    return mask


def _aligned(index: pd.Index, mask: pd.Series) -> NDArray[np.bool_]:
    """Return a mask in the order of the table, aligned like in pandas."""
    if not mask.index.equals(index):
        if len(mask) != len(index) or not (mask.index.is_unique and index.isin(mask.index).all()):
            raise UsageError(
                f"rows: the mask's labels aren't the table's ({index[:3].tolist()}). Pass labels, or one boolean "
                "per row."
            )
        mask = mask.reindex(index)
    return np.array(mask.fillna(value=False), dtype=bool)


def _several(index: pd.Index, rows: Any) -> list[Any]:
    """Return the values that name rows: a table means its labels, a single label itself, a missing boolean False."""
    rows = rows.index if isinstance(rows, pd.DataFrame) else rows
    is_one = isinstance(rows, str | bytes) or not hasattr(rows, "__iter__")
    values = (
        [rows] if is_one or (isinstance(rows, tuple) and index.nlevels > 1 and rows in index) else [*rows]
    )
    is_mask = any(isinstance(value, bool | np.bool_) for value in values)
    return [not is_missing(value) and value for value in values] if is_mask else values


def _between(places: dict[Any, list[int]], value: Any) -> list[int] | None:
    """Return the rows from one label to another ("3-7"), in the order of the table."""
    if not isinstance(value, str) or "-" not in value:
        return None
    cuts = (place for place, letter in enumerate(value) if letter == "-")
    pairs = ((value[:cut].strip(), value[cut + 1 :].strip()) for cut in cuts)
    ends = max(pairs, key=lambda pair: sum(end in places for end in pair))
    first, last = map(places.get, ends)
    if not first and not last:
        return None
    if not first or not last:
        labels, unknown = [*places], ends[bool(first)]
        raise UsageError(
            f"Rows {value!r}: {unknown!r} isn't a label; both ends of a range must be labels of the table, "
            f"{labels[0]} to {labels[-1]}."
        )
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
    # The first row of a job has its cost; duplicates cost 0.
    is_duplicate = rows[columns.DUPLICATE_OF].notna().to_numpy()
    is_free = is_duplicate & outcome[columns.COST].notna().to_numpy()
    outcome.loc[is_free, columns.COST], outcome.loc[is_free, columns.COST_USD] = "0", 0.0
    outcome.loc[is_duplicate, columns.ATTEMPTS] = 0
    outcome.loc[is_duplicate, columns.MAY_HAVE_BEEN_BILLED] = False
    for name in (columns.JOB_ID, columns.DUPLICATE_OF, columns.SEED_SENT):
        outcome[name] = rows[name].array
    outcome[columns.RUN_DIR] = None  # filled in by `mark`, because a directory may be moved
    outcome = columns.typed(outcome[list(columns.OUTPUTS)], columns.OUTPUTS)
    outcome.index = user.index
    return pd.concat([user, outcome], axis=1)


def with_jobs_left(results: pd.DataFrame, attempts: pd.DataFrame) -> pd.DataFrame:
    """Add a row for each job that left the table, with the values its row had when submitted."""
    results = results.assign(**{columns.IN_TABLE: True})
    if not len(attempts):
        return results
    attempts = attempts.reset_index(drop=True)
    latest = _deciding(attempts).sort_index().reset_index(drop=True)
    inputs = [read_inputs(text) for text in latest[columns.ATTEMPT_INPUTS]]
    user = pd.DataFrame([own_cells(text) for text in inputs], index=latest.index)
    errors = [columns.ERROR_CLASS, columns.ERROR_CODE, columns.ERROR_MESSAGE]
    rows = latest[[columns.JOB_ID, columns.SEED_SENT, *errors]].assign(
        **{columns.DUPLICATE_OF: pd.array([None] * len(latest), dtype=columns.INT)}
    )
    own = user[[name for name in user if name not in columns.OUTPUTS]]
    left = assemble(own, rows, pa.Table.from_pandas(attempts, SCHEMA, preserve_index=False))
    left.index = _labels(results.index, [cells.get(columns.ROW) for cells in inputs])
    whole = pd.concat([results, left.assign(**{columns.IN_TABLE: False})])
    return columns.typed(_outputs_last(whole), columns.OUTPUTS)


def own_cells(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's columns of a submitted row, with empty cells filled in as sent."""
    sent = {columns.PROMPT: inputs.get(columns.PROMPT)}
    own = inputs.get(_USER, {})
    if not any(own.get(name) for name in (columns.IMAGE, *columns.IMAGE_ALIASES, *columns.IMAGE_NUMBERED)):
        sent[columns.IMAGE] = inputs.get(columns.IMAGE_SOURCE)
    return sent | {name: cell for name, cell in own.items() if cell is not None}


def read_inputs(text: object) -> dict[str, Any]:
    """Parse what was submitted; empty if the attempt doesn't record it."""
    return json.loads(text) if isinstance(text, str) else {}


def _labels(index: pd.Index, labels: list[str | None]) -> pd.Index:
    """Return the labels of added rows in the dtype of the other labels, if they can be converted."""
    if isinstance(index, pd.RangeIndex):
        return pd.RangeIndex(len(index), len(index) + len(labels))
    if index.nlevels > 1:
        # None instead of "" would turn the integers of a level into floats.
        return pd.MultiIndex.from_product([labels, *[[""]] * (index.nlevels - 1)], names=index.names)
    try:
        return pd.Index(labels, name=index.name).astype(index.dtype)
    except (ValueError, TypeError):
        return pd.Index(labels, name=index.name, dtype=object)


def plausible(seconds: Seconds) -> Seconds:
    """Replace durations that only a changed clock explains (negative, or 30 days and more) by missing values."""
    return seconds.where((seconds >= 0) & (seconds < _LONGEST_S))


def _one_each(attempts: pa.Table) -> pa.Table:
    """Return one row per job: the attempt that decides its status, with sums over all its attempts."""
    is_submitted = pc.is_in(attempts[columns.STAGE], pa.array(list(SUBMITTED), pa.string()))
    attempts = attempts.select(TAKEN).append_column(columns.ATTEMPTS, is_submitted.cast(pa.int64()))
    job_ids = attempts[columns.JOB_ID]
    is_again = pc.equal(job_ids.slice(1), job_ids.slice(0, max(len(job_ids) - 1, 0)))
    if not pc.any(is_again).as_py():
        return attempts
    is_several = pc.is_in(job_ids, job_ids.slice(1).filter(is_again))
    several = to_frame(attempts.filter(is_several))
    latest = _deciding(several).set_index(columns.JOB_ID, drop=False)
    _add_up(latest, several)
    decided = pa.Table.from_pandas(latest, attempts.schema, preserve_index=False)
    return pa.concat_tables([attempts.filter(pc.invert(is_several)), decided])


def _deciding(attempts: pd.DataFrame) -> pd.DataFrame:
    """Return the attempt that decides each job's status; see `dreamo_batch.engine.attempts.deciding`."""
    weights = attempts[columns.STAGE].map({str(stage): weight for stage, weight in WEIGHTS.items()})
    by_weight = attempts.loc[weights.sort_values(kind="stable").index]
    return by_weight.drop_duplicates(columns.JOB_ID, keep="last")


def _add_up(latest: pd.DataFrame, several: pd.DataFrame) -> None:
    """Write the sums over all attempts of a job into its deciding attempt."""
    by_job = several.groupby(columns.JOB_ID, sort=False)
    attempts = by_job[columns.ATTEMPTS].sum()
    latest.loc[attempts.index, columns.ATTEMPTS] = attempts
    costs = by_job[columns.COST].agg(_exact_sum).astype(columns.STR)  # without any cost it would be of floats
    latest.loc[costs.index, columns.COST] = costs
    billed = by_job[columns.MAY_HAVE_BEEN_BILLED].max()  # True if any is True; missing values are ignored
    is_open = latest.loc[billed.index, columns.MAY_HAVE_BEEN_BILLED].isna()
    latest.loc[billed.index, columns.MAY_HAVE_BEEN_BILLED] = billed.mask(
        is_open & ~billed.fillna(value=False)
    )


def _of_rows(jobs: pa.Table, job_ids: pd.Series) -> pa.Table:
    """Return each row's job; all columns are missing if it has no attempt."""
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
