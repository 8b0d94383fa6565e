"""Which run directory each row of a results table comes from.

Results carry it in the column `run_dir`, as it was given, so that it is still there after a concat or a merge; the
table's `attrs` know the absolute places, for a process that has moved to another folder since.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine.attempts import CAME_TO_NOTHING, OPEN, STATUS_OF, SUBMITTED, Stage, State
from dreamo_batch.engine.budget import Budget, highest_price, money, possibly_billed, text, total
from dreamo_batch.errors import UsageError
from dreamo_batch.jobs.cells import is_missing
from dreamo_batch.text import dollars

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence
    from decimal import Decimal

    from numpy.typing import NDArray

    from dreamo_batch.engine.directory import RunDirectory


_ATTRIBUTE: Final = "dreamo_run_dirs"
_NAMED_MAX: Final = 3


def mark(results: pd.DataFrame, directory: RunDirectory) -> pd.DataFrame:
    """Note in a table where it comes from; gives the same table back."""
    results[columns.RUN_DIR] = pd.Series(directory.given, index=results.index, dtype=columns.STR)
    results.attrs[_ATTRIBUTE] = {directory.given: str(directory.path)}
    return results


def stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Put the results of several directories behind each other."""
    if len(tables) == 1:
        return tables[0]
    is_unlabelled = all(isinstance(table.index, pd.RangeIndex) for table in tables)
    start, shifted = 0, []
    for table in tables:
        moved = (table[columns.DUPLICATE_OF] + start).astype(columns.INT)
        shifted.append(table.assign(**{columns.DUPLICATE_OF: moved}))
        start += len(table)
    whole = pd.concat(shifted, ignore_index=is_unlabelled)
    own = [name for name in whole.columns if name not in columns.OUTPUTS]
    whole = whole[[*own, *columns.OUTPUTS]]
    whole.attrs[_ATTRIBUTE] = {given: place for table in tables for given, place in _places(table).items()}
    return whole


def run_dir_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> Path:
    """Give the one run directory of a table: the one given, else the one its rows come from."""
    if run_dir is not None:
        return Path(run_dir)
    found = _named(results)
    if len(found) > 1:
        told = ", ".join(list(found)[:_NAMED_MAX]) + (", ..." if len(found) > _NAMED_MAX else "")
        raise UsageError(
            f"These rows come from {len(found)} run directories ({told}). Give those of one, for example "
            f'results[results["{columns.RUN_DIR}"] == {next(iter(found))!r}].'
        )
    return next(iter(found.values()), None) or _only_known(results)


def folders_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Give the run directory of each row: the one given for all, else the one that the row comes from."""
    found = {} if run_dir is not None else _named(results)
    if not found:
        return [run_dir_of(results, run_dir)] * len(results)
    names = results[columns.RUN_DIR]
    has_picture = results[columns.OUTPUT_PATH].notna() if columns.OUTPUT_PATH in results else names.notna()
    lost = names.isna() & has_picture
    if lost.any():
        raise UsageError(
            f"{int(lost.sum())} rows have a picture and no {columns.RUN_DIR}, the first is row "
            f"{results.index[lost.to_numpy().argmax()]!r}: fill that column, or give run_dir=."
        )
    anywhere = next(iter(found.values()))  # for rows that have no picture, and none to be looked for
    return [anywhere if is_missing(name) else found[name] for name in names]


def row_mask(index: pd.Index, rows: Collection[Any] | pd.Series) -> NDArray[np.bool_]:
    """Mark the rows meant by labels, or by texts of labels as a command line passes them, or by a boolean per row."""
    values = list(rows)
    if len(values) == len(index) and all(isinstance(value, bool | np.bool_) for value in values):
        return np.array(values, dtype=bool)
    places: dict[Any, list[int]] = {}
    for position, label in enumerate(index.tolist()):
        for key in {label, str(label)}:
            places.setdefault(key, []).append(position)
    mask = np.zeros(len(index), dtype=bool)
    for value in values:
        is_key = isinstance(value, Hashable) and not isinstance(
            value, bool | np.bool_
        )  # True would find row 1
        found = places.get(value if is_key else str(value)) or places.get(str(value))
        if found is None:
            raise UsageError(
                f"Row {value!r} is not in the table; its labels look like {index[:3].tolist()}. "
                "Pass labels, or a boolean for every row."
            )
        mask[found] = True
    return mask


def _named(results: pd.DataFrame) -> dict[str, Path]:
    """Give the place of each run directory that the rows name."""
    if columns.RUN_DIR not in results.columns:
        return {}
    known = _places(results)
    named = results[columns.RUN_DIR].dropna().unique()
    return {name: _place(str(name), known.get(str(name))) for name in named}


def _place(given: str, known: str | None) -> Path:
    """Prefer the place that was known when the table was made, as long as it is there."""
    here = Path(given).expanduser().absolute()
    return Path(known) if known is not None and (Path(known).is_dir() or not here.is_dir()) else here


def _places(results: pd.DataFrame) -> dict[str, str]:
    known = results.attrs.get(_ATTRIBUTE)
    return known if isinstance(known, dict) else {}


def _only_known(results: pd.DataFrame) -> Path:
    places = list(_places(results).values())
    if len(places) != 1:
        raise UsageError(
            "where the pictures of this table are is not known: give run_dir=, or take the table from load(run_dir)."
        )
    return Path(places[0])


# Where the user's own cells of a row stand in `columns.ATTEMPT_INPUTS`.
_USER: Final = "columns"
Seconds = TypeVar("Seconds", pd.Series, pd.DataFrame)
_PENDING: Final = "pending"
_LONGEST_S: Final = 30 * 86_400.0
_STATUS: Final = {str(stage): status for stage, status in STATUS_OF.items()} | {_PENDING: columns.PENDING}
# Columns that the results take as they are from the attempt that says how its job stands.
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


def assemble(user: pd.DataFrame, rows: pd.DataFrame, attempts: pd.DataFrame) -> pd.DataFrame:
    """Lay what became of the jobs beside the user's table."""
    outcome = _to_rows(_by_job(attempts), rows)
    _mark_invalid(outcome, rows)
    _mark_duplicates(outcome, rows)
    outcome[columns.JOB_ID] = rows[columns.JOB_ID].to_numpy()
    outcome[columns.DUPLICATE_OF] = rows[columns.DUPLICATE_OF].array
    outcome[columns.SEED_SENT] = rows[columns.SEED_SENT].array
    outcome[columns.RUN_DIR] = None  # a directory may be moved; who reads it says where it is
    outcome[columns.COST_USD] = pd.to_numeric(outcome[columns.COST])
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
    told = [read_inputs(text) for text in latest[columns.ATTEMPT_INPUTS]]
    user = pd.DataFrame([own_cells(one) for one in told], index=latest.index)
    named = [
        columns.JOB_ID,
        columns.SEED_SENT,
        columns.ERROR_CLASS,
        columns.ERROR_CODE,
        columns.ERROR_MESSAGE,
    ]
    rows = latest[named].assign(**{columns.DUPLICATE_OF: pd.array([None] * len(latest), dtype=columns.INT)})
    left = assemble(user[[name for name in user if name not in columns.OUTPUTS]], rows, attempts)
    left.index = _labels(results.index, [one.get(columns.ROW) for one in told])
    whole = pd.concat([results, left.assign(**{columns.IN_TABLE: False})])
    own = [name for name in whole.columns if name not in columns.OUTPUTS]
    return whole[[*own, *columns.OUTPUTS]].astype(output_dtypes())


def own_cells(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's columns of a submitted row, with what was sent where the row had none of its own."""
    sent = {columns.PROMPT: inputs.get(columns.PROMPT)}
    own = inputs.get(_USER, {})
    if not any(own.get(name) for name in (columns.IMAGE, *columns.IMAGE_ALIASES)):
        sent[columns.IMAGE] = inputs.get(columns.IMAGE_SOURCE)
    return sent | {name: cell for name, cell in own.items() if cell is not None}


def read_inputs(text: object) -> dict[str, Any]:
    """Read what was submitted; nothing of it is known of attempts that an older version made."""
    read: dict[str, Any] = json.loads(text) if isinstance(text, str) else {}
    return read


def _labels(index: pd.Index, labels: list[str | None]) -> pd.Index:
    """Label added rows as they were labelled, in the kind of labels that the others have."""
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
    """Replace lengths of time that only a clock that was set gives: negative ones, and those of 30 days or more."""
    return seconds.where((seconds >= 0) & (seconds < _LONGEST_S))


def output_dtypes() -> dict[str, object]:
    """Give the dtypes of the result columns; the status is categorical with fixed categories."""
    return {**columns.dtypes(columns.OUTPUTS), columns.STATUS: pd.CategoricalDtype(columns.STATUSES)}


def _by_job(attempts: pd.DataFrame) -> pd.DataFrame:
    """One row per job: the attempt that says how it stands, with sums over all of them."""
    attempts = attempts.assign(
        **{columns.ATTEMPTS: attempts[columns.STAGE].isin([str(s) for s in SUBMITTED])}
    )
    attempts[columns.ATTEMPTS] = attempts[columns.ATTEMPTS].astype(columns.INT)
    attempts = _with_deciding_last(attempts)
    is_followed = attempts[columns.JOB_ID].duplicated(keep="last")
    if not is_followed.any():
        return _shape(attempts.set_index(columns.JOB_ID, drop=False))
    latest = attempts[~is_followed].set_index(columns.JOB_ID, drop=False)
    _add_up(latest, attempts[attempts[columns.JOB_ID].duplicated(keep=False)])
    return _shape(latest)


def _with_deciding_last(attempts: pd.DataFrame) -> pd.DataFrame:
    """Put the attempt that says how its job stands behind the others; see `dreamo_batch.engine.attempts.deciding`."""
    is_one_of_several = attempts[columns.JOB_ID].duplicated(keep=False)
    if not is_one_of_several.any():
        return attempts
    several = attempts[is_one_of_several]
    jobs, stages = several[columns.JOB_ID], several[columns.STAGE]
    is_completed = stages == str(Stage.COMPLETED)
    is_idle = ~jobs.duplicated(keep="last") & stages.isin([str(stage) for stage in CAME_TO_NOTHING])
    is_under_way = stages.isin([str(stage) for stage in OPEN]) & jobs.isin(jobs[is_idle])
    is_chosen = is_completed | (is_under_way & ~jobs.isin(jobs[is_completed]))
    chosen = several[is_chosen].drop_duplicates(columns.JOB_ID, keep="last")
    return attempts if chosen.empty else pd.concat([attempts.drop(chosen.index), chosen])


def _add_up(latest: pd.DataFrame, several: pd.DataFrame) -> None:
    """Give jobs with several attempts the sums over all of them."""
    by_job = several.groupby(columns.JOB_ID, sort=False)
    attempts = by_job[columns.ATTEMPTS].sum()
    latest.loc[attempts.index, columns.ATTEMPTS] = attempts
    costs = by_job[columns.COST].agg(_exact_sum).astype(columns.STR)  # without any cost it would be of floats
    latest.loc[costs.index, columns.COST] = costs
    billed = by_job[columns.MAY_HAVE_BEEN_BILLED].max()  # True if any is, and missing ones left out
    is_open = latest.loc[billed.index, columns.MAY_HAVE_BEEN_BILLED].isna()
    latest.loc[billed.index, columns.MAY_HAVE_BEEN_BILLED] = billed.mask(
        is_open & ~billed.fillna(value=False)
    )


def _shape(latest: pd.DataFrame) -> pd.DataFrame:
    shaped = latest[[*_COPIED, columns.COST, columns.ATTEMPTS, columns.MAY_HAVE_BEEN_BILLED]].copy()
    shaped[columns.STATUS] = latest[columns.STAGE].map(_STATUS)
    shaped[columns.SUBMITTED_AT] = latest[columns.SENT_AT]
    seconds = (latest[columns.COMPLETED_AT] - latest[columns.SENT_AT]).dt.total_seconds()
    shaped[columns.LATENCY_S] = plausible(seconds).astype(columns.FLOAT)
    is_untouched = latest[columns.STAGE].isin([_PENDING, str(Stage.UNSENT), str(Stage.REFUSED)])
    no_answer_due = shaped[columns.MAY_HAVE_BEEN_BILLED].isna() & is_untouched
    shaped.loc[no_answer_due, columns.MAY_HAVE_BEEN_BILLED] = False
    return shaped


def _to_rows(jobs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Repeat each job's outcome on its rows; rows without an attempt are pending."""
    wanted = rows[columns.JOB_ID]
    if len(jobs) == len(wanted) and (jobs.index.to_numpy() == wanted.to_numpy()).all():
        outcome = jobs.reset_index(drop=True)
    else:
        places = jobs.index.get_indexer(pd.Index(wanted))
        outcome = jobs.take(np.where(places < 0, 0, places)) if len(jobs) else jobs.reindex(wanted)
        outcome = outcome.reset_index(drop=True)
        if len(jobs):
            outcome[places < 0] = None
    is_new = outcome[columns.STATUS].isna()
    outcome.loc[is_new, columns.STATUS] = columns.PENDING
    outcome.loc[is_new, columns.ATTEMPTS] = 0
    outcome.loc[is_new, columns.MAY_HAVE_BEEN_BILLED] = False
    return outcome


def _mark_invalid(outcome: pd.DataFrame, rows: pd.DataFrame) -> None:
    is_invalid = rows[columns.JOB_ID].isna().to_numpy()
    outcome.loc[is_invalid, columns.STATUS] = columns.INVALID
    for name in (columns.ERROR_CLASS, columns.ERROR_CODE, columns.ERROR_MESSAGE):
        outcome.loc[is_invalid, name] = rows.loc[is_invalid, name].to_numpy()


def _mark_duplicates(outcome: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Let the cost stand on the row that was bought, and nothing on the others."""
    is_duplicate = rows[columns.DUPLICATE_OF].notna().to_numpy()
    has_cost = outcome[columns.COST].notna().to_numpy()
    outcome.loc[is_duplicate & has_cost, columns.COST] = "0"
    outcome.loc[is_duplicate, columns.ATTEMPTS] = 0
    outcome.loc[is_duplicate, columns.MAY_HAVE_BEEN_BILLED] = False


def _exact_sum(costs: Sequence[object]) -> str | float:
    known: list[Decimal] = [
        amount for cost in costs if isinstance(cost, str) and (amount := money(cost)) is not None
    ]
    return text(total(known)) if known else float("nan")


_LISTED_MAX: Final = 10


def summarise(results: pd.DataFrame, state: State, cap: Decimal | None) -> dict[str, Any]:
    """Count rows and add up money."""
    doubtful = possibly_billed(state)
    budget = Budget(cap=cap, attempts=state)
    counts = results[columns.STATUS].value_counts()
    return {
        "rows": len(results),
        "by_status": {status: int(counts[status]) for status in columns.STATUSES if counts[status]},
        "attempts": sum(attempt.stage in SUBMITTED for attempt in state),
        "spent_usd": text(budget.spent),
        "reserved_usd": text(budget.reserved),
        "possibly_billed_usd": None if doubtful is None else text(doubtful),
        "max_cost_usd": None if cap is None else text(cap),
    }


def reconcile(n_rows: int, results: pd.DataFrame) -> dict[str, Any]:
    """Compare rows in with rows accounted for."""
    counts = results[columns.STATUS].value_counts()
    by_status = {status: int(counts[status]) for status in columns.STATUSES if counts[status]}
    n_accounted = sum(by_status.values())
    return {
        "rows_in": n_rows,
        "rows_accounted_for": n_accounted,
        "is_complete": n_rows == n_accounted == len(results),
        "by_status": by_status,
    }


def sentence(reconciliation: dict[str, Any], spent_usd: Decimal) -> str:
    """Say the reconciliation in one line."""
    counts = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in reconciliation["by_status"].items())
    n_in, n_out = reconciliation["rows_in"], reconciliation["rows_accounted_for"]
    return f"{n_in} rows in, {n_out} accounted for: {counts or 'none'}; {dollars(spent_usd)} spent"


def ambiguous_lines(results: pd.DataFrame, state: State) -> list[str]:
    """List ambiguous rows with what each may have cost, and say what to do."""
    rows = results[(results[columns.STATUS] == columns.AMBIGUOUS) & results[columns.DUPLICATE_OF].isna()]
    lines = [
        _ambiguous_line(label, row[columns.JOB_ID], state) for label, row in rows.head(_LISTED_MAX).iterrows()
    ]
    if len(rows) > _LISTED_MAX:
        lines.append(f"... and {len(rows) - _LISTED_MAX} more")
    if lines:
        lines.append(
            "ambiguous rows may have been submitted and billed; they are never sent again by themselves. Settle each "
            "with resolve(run_dir, row, task_id=...) or resolve(run_dir, row, not_sent=True), or submit again with "
            'on_ambiguous="resubmit".'
        )
    return lines


def _ambiguous_line(label: object, job_id: str, state: State) -> str:
    attempt = state.deciding(job_id)
    price, reserved = highest_price(state), money(None if attempt is None else attempt.reserved)
    if reserved is not None:
        cost = f"up to {dollars(reserved)}"
    else:
        cost = (
            "an unknown cost" if price is None else f"perhaps {dollars(price)}, the highest price seen here"
        )
    why = "" if attempt is None else f" ({attempt.error_class})"
    return f"row {label} is ambiguous{why}: job {job_id}, possibly billed {cost}"
