"""What a call would do and cost: its options, checked first of all, a decision for each job, and the plan."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from dreamo_batch import arguments, columns, errors
from dreamo_batch.appearance import PALETTE, Count, HeadedFrame, Headline
from dreamo_batch.engine import checkpoint, pictures
from dreamo_batch.engine.attempts import Stage, deciding, next_number, without_attempts
from dreamo_batch.engine.coordinator import Assignment
from dreamo_batch.engine.schedule import was_forbidden
from dreamo_batch.engine.sending import is_retryable
from dreamo_batch.engine.spending import Spending, price_of
from dreamo_batch.jobs.cells import text_of
from dreamo_batch.jobs.links import address, canonical
from dreamo_batch.jobs.prepare import Job, Prepared, as_seen, difference_of
from dreamo_batch.jobs.references import URL
from dreamo_batch.jobs.rules import COLUMN_NAME, ERROR, OF_TABLE, kind_lines, which_rows
from dreamo_batch.money import Amount, dollars, minus, money, total, total_if_known
from dreamo_batch.text import aligned, counted, option, quoted, wording

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from decimal import Decimal
    from pathlib import Path

    from dreamo_batch.engine.attempts import Attempt, Key, State
    from dreamo_batch.engine.directory import RunDirectory
    from dreamo_batch.jobs.references import ImageSource


NEW, REUSE, DUPLICATE, IN_FLIGHT, AMBIGUOUS, INVALID, FAILED = columns.ACTIONS
_CHOSEN: Final = "submitted again, as asked"
_NEARLY: Final = "nearly equals a bought row; differs only in "


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to a job, and why."""

    action: str
    reason: str
    is_fetched: bool = False


def decide(
    attempts: tuple[Attempt, ...],
    options: RunOptions,
    run_dir: Path | None,
    chosen: Collection[str] = frozenset(),
) -> Decision:
    """Decide about one job; failed and ambiguous jobs are submitted again if they were chosen for a retry."""
    latest = deciding(attempts)
    if latest is None:
        return Decision(NEW, "not submitted yet")
    if latest.stage is Stage.UNSENT:
        return Decision(NEW, "an earlier submission never arrived")
    if latest.stage is Stage.SENDING:
        return Decision(IN_FLIGHT, "being submitted")
    if latest.stage is Stage.ACCEPTED:
        return Decision(IN_FLIGHT, f"submitted as task {latest.task_id}")
    if latest.stage is Stage.COMPLETED:
        return _completed(latest.output_path, latest.output_bytes, options, run_dir)
    return _ended_badly(latest, next_number(attempts), options, is_chosen=latest.job_id in chosen)


def assignment(
    prepared: Prepared,
    state: State,
    options: RunOptions,
    run_dir: Path,
    chosen: Collection[str] = frozenset(),
    *,
    fetched: Collection[str] | None = None,
) -> Assignment:
    """Turn the plan into what a runner is to do; with `fetched`, only polls, and saving those jobs' pictures."""
    to_submit: list[Key] = []
    refused: list[Key] = []  # they come last
    to_poll: list[Key] = []
    to_save: list[tuple[Key, bool]] = []
    reused = _reused(state, options, run_dir)
    for job_id in chain(prepared.jobs, (job_id for job_id in state.job_ids() if job_id not in prepared.jobs)):
        if job_id in reused:
            continue
        attempts = state.of(job_id)
        decision = decide(attempts, options, run_dir, chosen)
        if decision.action == NEW and job_id in prepared.jobs:
            queue = refused if was_forbidden(deciding(attempts)) else to_submit
            queue.append((job_id, next_number(attempts)))
        to_poll += [(o.job_id, o.attempt) for o in attempts if o.stage is Stage.ACCEPTED]
        if decision.is_fetched and (fetched is None or job_id in fetched):
            latest = deciding(attempts) or attempts[-1]
            to_save.append(
                ((job_id, latest.attempt), latest.output_path is not None or latest.output_url is None)
            )
    return Assignment(
        jobs=prepared.jobs,
        weights=prepared.weights,
        n_invalid=int(prepared.rows[columns.JOB_ID].isna().sum()),
        to_submit=to_submit + refused if fetched is None else (),
        to_poll=to_poll,
        to_save=to_save,
        max_attempts=options.max_attempts if fetched is None else 1,
        should_download=options.download,
        may_submit=fetched is None,
    )


def table(
    prepared: Prepared,
    index: pd.Index,
    state: State,
    options: RunOptions,
    run_dir: Path | None,
    *,
    chosen: Collection[str] = frozenset(),
    nearly: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return the plan on the user's index; `nearly` is the result of `nearly_bought`."""
    reused = _reused(state, options, run_dir)
    decisions = {
        job_id: reused.get(job_id) or decide(state.of(job_id), options, run_dir, chosen)
        for job_id in prepared.jobs
    }
    for job_id, what in (nearly or {}).items():
        decisions[job_id] = replace(decisions[job_id], reason=f"{decisions[job_id].reason}; {_NEARLY}{what}")
    known = (price_of(attempt) for attempt in state.kinds())
    seen = [float(price) for price in known if price is not None] or [math.nan]
    prices = (min(seen), max(seen)) if (cost := money(options.unit_cost)) is None else (float(cost),) * 2
    cells = prepared.rows[[columns.JOB_ID, columns.DUPLICATE_OF, columns.ERROR_MESSAGE]]
    rows = [_row(decisions, prices, *row, index=index) for row in cells.itertuples(index=False, name=None)]
    return columns.typed(pd.DataFrame(rows, columns=list(columns.PLAN), index=index), columns.PLAN)


def planned(
    prepared: Prepared,
    index: pd.Index,
    state: State,
    options: RunOptions,
    directory: RunDirectory | None,
    *,
    chosen: Collection[str] = frozenset(),
    is_copy: bool = False,
) -> Plan:
    """Return the plan for a table, with the warnings to read before buying."""
    nearly = nearly_bought(prepared, state, None if directory is None else directory.jobs)
    run_dir = None if directory is None else directory.path
    rows = table(prepared, index, state, options, run_dir, chosen=chosen, nearly=nearly)
    new = list(rows.loc[rows[columns.ACTION] == NEW, columns.JOB_ID])
    remarks = (
        *_row_warnings(prepared, new, with_left_out=False),
        *(() if directory is None else _leaving(prepared, state, directory.jobs)),
        *((copy_warning(),) if is_copy else ()),
        *_nearly_bought_warnings(nearly, new),
    )
    return Plan.of(
        rows, cap=options.cap(state.terms.cap), spent=Spending(attempts=state.kinds()).spent, remarks=remarks
    )


def warnings_of(prepared: Prepared, nearly: Mapping[str, str], job_ids: Collection[str]) -> tuple[str, ...]:
    """Return warnings about these jobs, one line per kind of problem."""
    about_rows = _row_warnings(prepared, job_ids) if job_ids else ()
    return (*about_rows, *_nearly_bought_warnings(nearly, job_ids))


def _row_warnings(
    prepared: Prepared, job_ids: Collection[str], *, with_left_out: bool = True
) -> tuple[str, ...]:
    """Return the problems of these jobs' rows, of rows left out, and of column names, one line per kind."""
    problems = prepared.problems
    if not len(problems):
        return ()
    positions = np.flatnonzero(prepared.rows[columns.JOB_ID].isin(list(job_ids)))
    of_table = OF_TABLE if job_ids else [COLUMN_NAME]
    is_left_out = problems[columns.SEVERITY] == ERROR
    is_said = ~is_left_out & (
        problems[columns.POSITION].isin(positions) | problems[columns.CODE].isin(of_table)
    )
    left_out = kind_lines(problems[is_left_out]) if with_left_out else []
    return (*(f"not submitted: {line}" for line in left_out), *kind_lines(problems[is_said]))


def nearly_bought(prepared: Prepared, state: State, jobs_path: Path | None) -> dict[str, str]:
    """Find new jobs that nearly equal one that was submitted and has left the table, and say how they differ."""
    fresh = [prepared.jobs[job_id] for job_id in without_attempts(state, prepared.jobs)]
    if jobs_path is None or not fresh or not len(state):
        return {}
    try:
        last = checkpoint.read_jobs(jobs_path)
    except errors.DirectoryError:
        return {}
    gone = [job for one, job in last.prepared.jobs.items() if one in state and one not in prepared.jobs]
    found: dict[str, str] = {}
    for picture in ("location", "digest"):  # another one in the same place, or the same one anywhere
        bought = {_parts_of(job, last.drawn, picture): job for job in gone}
        same = ((job, bought.get(_parts_of(job, prepared.drawn, picture))) for job in fresh)
        found |= {job.job_id: _differs(job, other) for job, other in same if other is not None}
    return found


def _nearly_bought_warnings(nearly: Mapping[str, str], job_ids: Collection[str]) -> tuple[str, ...]:
    """Warn about rows to be bought that nearly equal a bought row."""
    counts = Counter(nearly[job_id] for job_id in job_ids if job_id in nearly)
    see = wording("plan()", "`dreamo-batch plan --rows`")
    return tuple(
        f"{counted(n, 'row')} to be bought, although a bought one differs only in {what}: see {see}."
        for what, n in counts.items()
    )


def copy_warning() -> str:
    """Return the warning about a copied run directory."""
    return (
        "This is a copy of a run directory (or was restored, or moved to another disk or URL); what the original "
        f"submitted since isn't known here. `run` refuses to submit unless you pass {option('adopt_copy', value=True)}."
    )


def _leaving(prepared: Prepared, state: State, jobs_path: Path) -> tuple[str, ...]:
    """Warn how many paid rows of the last call's table are missing from this one."""
    try:
        last = checkpoint.read_jobs(jobs_path).decided[columns.JOB_ID].dropna()
    except errors.DirectoryError:
        return ()
    n = sum(
        any(attempt.stage is Stage.COMPLETED or money(attempt.cost) for attempt in state.of(job_id))
        for job_id in last
        if job_id not in prepared.jobs
    )
    if not n:
        return ()
    are = "row of the last table is" if n == 1 else "rows of the last table are"
    return (
        f"{n:,} paid {are} not in this one. Pictures and costs stay in the run directory: "
        + wording("load(run_dir, all=True).", "`dreamo-batch results RUN_DIR --all`."),
    )


_COMPLETED: Final = Decision(REUSE, "completed")
_ON_DISK: Final = Decision(REUSE, "completed, picture on disk")
_TO_FETCH: Final = Decision(REUSE, "completed, picture to be fetched", is_fetched=True)


def _completed(path: str | None, n_bytes: int | None, options: RunOptions, run_dir: Path | None) -> Decision:
    if not options.download:
        return _COMPLETED
    return _ON_DISK if run_dir is not None and pictures.is_in_place(run_dir, path, n_bytes) else _TO_FETCH


def _reused(state: State, options: RunOptions, run_dir: Path | None) -> dict[str, Decision]:
    """Decide about the jobs that need nothing more, the bulk of a table that is run again."""
    of_job = state.completed(columns.JOB_ID, columns.OUTPUT_PATH, columns.OUTPUT_BYTES)
    decided = ((job_id, _completed(path, n_bytes, options, run_dir)) for job_id, path, n_bytes in of_job)
    return {job_id: decision for job_id, decision in decided if not decision.is_fetched}


def _ended_badly(latest: Attempt, number: int, options: RunOptions, *, is_chosen: bool) -> Decision:
    """Decide about a job without a picture; `number` is the number of its next attempt."""
    if latest.stage is Stage.AMBIGUOUS:
        if is_chosen or options.on_ambiguous == "resubmit":
            return Decision(NEW, f"ambiguous, {_CHOSEN}; it may be paid twice")
        return Decision(AMBIGUOUS, "may have been submitted: resolve it, or submit it again")
    if is_chosen or options.retry_failed:
        return Decision(NEW, f"failed, {_CHOSEN}")
    if number <= options.max_attempts and is_retryable(latest):
        return Decision(NEW, f"failed unbilled ({latest.error_class}), attempts left")
    return Decision(FAILED, f"failed: {latest.error_class}")


def _row(
    decisions: Mapping[str, Decision],
    prices: tuple[float, ...],
    job_id: str | float,
    duplicate_of: Any,
    message: str | float,
    *,
    index: pd.Index,
) -> tuple[object, ...]:
    if not isinstance(job_id, str):
        return (INVALID, message, None, 0.0, 0.0)
    if not pd.isna(duplicate_of):
        return (DUPLICATE, f"same job as row {text_of(index[duplicate_of])}", job_id, 0.0, 0.0)
    action, reason = decisions[job_id].action, decisions[job_id].reason
    low = prices[0] if action in (NEW, IN_FLIGHT) else 0.0
    high = prices[1] if action in (NEW, IN_FLIGHT, AMBIGUOUS) else 0.0
    return (action, reason, job_id, low, high)


def _parts_of(job: Job, drawn: Collection[str], picture: str) -> tuple[object, ...]:
    """Return the parts that two jobs share if a user may think they are equal; a drawn seed follows from the rest."""
    seed = None if job.job_id in drawn else job.seed
    rest = (seed, job.width, job.height, job.use_rephraser, job.replicate, job.model, job.own)
    sources = tuple(address(ref.location) if ref.kind == URL else getattr(ref, picture) for ref in job.images)
    return (sources, as_seen(job.prompt), *rest)


def _differs(job: Job, other: Job) -> str:
    in_prompt = difference_of(job.prompt, other.prompt)
    in_images = map(_image_difference, job.images, other.images)
    differences = [f"the {in_prompt} of its prompt"] if in_prompt else []
    differences += dict.fromkeys(filter(None, in_images))
    # Differently signed links are one picture now; in directories of earlier versions they were two jobs.
    return " and ".join(differences) or "the signature of its link"


def _image_difference(image: ImageSource, other: ImageSource) -> str:
    if image.digest != other.digest and image.kind != URL:
        return "the content of its picture file"
    if image.kind != URL:
        is_fixed = [reference.sent_digest != reference.digest for reference in (image, other)]
        return "whether a corrected copy of the picture is sent" if is_fixed[0] != is_fixed[1] else ""
    this, that = canonical(image.location), canonical(other.location)
    if this == that:
        return ""
    is_query = urlsplit(this).query != urlsplit(that).query
    return f"the {'query' if is_query else 'spelling'} of its link"


_AMOUNTS: Final = ("max_cost", "max_new_cost", "unit_cost")
# Options that `resume` doesn't take over: caps and budget are in the ledger, the others must be passed each time.
_OF_ONE_CALL: Final = frozenset(
    {"max_cost", "max_new_cost", "retry_failed", "on_ambiguous", "adopt_copy", "budget"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of `run` that don't concern the service; see `run`."""

    max_cost: Amount | None = None
    max_new_cost: Amount | None = None
    unit_cost: Amount | None = None
    pilot: int | None = None
    max_in_flight: int = 8
    download: bool = True
    fix_images: bool = False
    keep_references: bool = True
    on_invalid: Literal["raise", "skip"] = "raise"
    on_ambiguous: Literal["hold", "resubmit"] = "hold"
    max_attempts: int = 1
    retry_failed: bool = False
    random_seed: Literal["record", "service"] = "record"
    task_timeout_s: float = 900.0
    adopt_copy: bool = False
    budget: Any = None  # a path, a URL or a Budget, opened when the call begins

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> RunOptions:
        """Make it from the arguments of a call that are options, and check them."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls) if field.name in arguments})

    def __post_init__(self) -> None:
        """Check everything at once."""
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if hint is bool:
                value = arguments.check_flag(name, value)
            elif hint is float:
                if not arguments.is_number(value) or not float(value) > 0:  # NaN neither
                    raise errors.UsageError(f"{name} must be more than 0 seconds, not {quoted(value)}")
                value = float(value)
            elif get_origin(hint) is Literal:
                arguments.check_choice(name, value, get_args(hint))
            elif hint == Amount | None:
                arguments.check_amount(name, value, unless="no cap" if name == "max_cost" else "")
            elif hint is int or (value is not None and hint is not Any):
                arguments.check_count(name, value)
                value = int(value)
            object.__setattr__(self, name, value)  # run.json can't hold NumPy numbers

    def cap(self, stored: str | None) -> Decimal | None:
        """Return the cap in force: the one passed now, else the stored one; infinity removes it."""
        return money(stored if self.max_cost is None else self.max_cost)  # None for infinity

    def as_settings(self) -> dict[str, Any]:
        """Return the options as JSON values, for `run.json`."""
        amounts = {name: str(value) for name in _AMOUNTS if (value := getattr(self, name)) is not None}
        return asdict(replace(self, budget=None)) | amounts  # the budget is in the ledger


def taken_over(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings of a `run.json`, by any version, that a later call takes over."""
    names = {field.name for field in fields(RunOptions)} - _OF_ONE_CALL
    return {name: value for name, value in settings.items() if name in names}


# Actions whose colour is that of a status with another name.
_LIKE: Final = {
    NEW: columns.IN_PROGRESS,
    REUSE: columns.COMPLETED,
    DUPLICATE: columns.PENDING,
    IN_FLIGHT: columns.SUBMITTING,
}
_CHANGES: Final = (columns.ACTION, columns.N_ROWS, "which", columns.COST, columns.REASON)
_REASONS_MAX: Final = 5  # per action; with more, a single one is shown


class Plan(HeadedFrame):
    """What `plan` returns: columns of `dreamo_batch.columns.PLAN`, on the index of the user's table.

    A DataFrame that shows what it comes to above its rows; what is made from it is a plain one.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), use_rephraser=False)
    >>> planned = dreamo.plan(jobs, unit_cost="0.03")
    >>> planned["action"].tolist(), planned["cost_high_usd"].sum()
    (['new', 'new'], np.float64(0.06))
    >>> planned.changes()[["action", "rows"]].values.tolist(), planned.warnings()
    ([['new', 2]], [])
    """

    # The directory's cap, what was spent in it (USD), and remarks on the table.
    _metadata = ["_cap", "_spent", "_remarks"]  # noqa: RUF012 - pandas' own way of keeping something beside the columns
    _remarks: tuple[str, ...] = ()

    def _headline(self) -> Headline | None:
        if not set(self.columns) >= set(columns.PLAN):
            return None
        counts = self[columns.ACTION].value_counts()
        changes = tuple(
            Count(word, int(counts[word]), PALETTE[_LIKE.get(word, word)].colour)
            for word in columns.ACTIONS
            if counts.get(word)
        )
        n_new = int(counts.get(NEW, 0))
        low, high = (
            total_if_known(map(money, self[name])) for name in (columns.COST_LOW_USD, columns.COST_HIGH_USD)
        )
        cost = [_cost_sentence(low, high)] if n_new or high != 0 else []
        notes = (*cost, *_cap_sentences(self._cap, self._spent, high))
        first = f"{n_new:,} of {len(self):,} rows to buy." if n_new else "Nothing to buy."
        return Headline(first, changes, notes, self._remarks)

    def changes(self) -> pd.DataFrame:
        """Summarise the plan.

        Returns
        -------
        pandas.DataFrame
            One row per action and reason: how many rows, which ones, and the most they can cost.
        """
        labels = [text_of(label) for label in self.index]
        plan = pd.DataFrame(self).reset_index(drop=True)
        reasons = plan[columns.REASON].astype(columns.STR)
        n_reasons = reasons.groupby(plan[columns.ACTION], observed=True).transform("nunique")
        names_another = plan[columns.ACTION].isin([DUPLICATE, IN_FLIGHT])
        alike = reasons.mask(n_reasons > np.where(names_another, 1, _REASONS_MAX), "")
        changes = []
        for (action, reason), group in plan.groupby([columns.ACTION, alike], sort=False, observed=True):
            of_group = [labels[place] for place in group.index]
            text = reason or f"{reasons[group.index[0]]} (row {of_group[0]}, for example)"
            which = which_rows(of_group, group.index.tolist())
            high = total_if_known(map(money, group[columns.COST_HIGH_USD]))
            cost = "unknown" if high is None else dollars(high) if high else ""
            changes.append((action, len(group), which, cost, text))
        changes.sort(key=lambda change: columns.ACTIONS.index(change[0]))
        return pd.DataFrame(changes, columns=list(_CHANGES))

    def _text(self) -> str:
        """Return one line per action and reason, in full."""
        changes = self.changes()
        return aligned(list(changes), changes.to_numpy(dtype=object).tolist())

    def warnings(self) -> list[str]:
        """Return what to know before these rows are bought.

        Returns
        -------
        list of str
            One sentence or more per warning; empty if there is none.
        """
        return list(self._remarks)


def _cost_sentence(low: Decimal | None, high: Decimal | None) -> str:
    if low is None or high is None:
        return f"The cost is not known yet: the first attempt will show it, or pass {option('unit_cost')}."
    if not high:
        return "Still to pay: nothing."
    least = "" if low == high else f"{dollars(low)} to " if low else "up to "
    return f"Still to pay: {least}{dollars(high)}."


def _cap_sentences(cap: Decimal | None, spent: Decimal, high: Decimal | None) -> list[str]:
    sentences = [f"{dollars(spent)} was spent here before."] if spent else []
    if cap is None:
        return sentences
    over = f" and exceeded by {dollars(minus(spent, cap))}" if spent > cap else ""
    sentences.append(f"The cap is {dollars(cap)}{over}.")
    if high and total((spent, high)) > cap:
        sentences.append("It may stop at the cap.")
    return sentences
