"""The state of a run: snapshots, with errors, the newest pictures, the rate and the projected cost."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from heapq import nlargest
from typing import TYPE_CHECKING, Any, Final, Literal

from dreamo_batch import columns
from dreamo_batch.engine.attempts import OPEN, Attempt, State, status_of
from dreamo_batch.engine.spending import is_unresolved_cost, price_of
from dreamo_batch.money import ZERO, money, times, total

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    import pandas as pd

    from dreamo_batch.jobs.prepare import Job, Prepared

_SPEED_OVER: Final = 64  # recently settled rows over which the rate is measured
N_NEWEST: Final = 12
_MEAN_DIGITS: Final = 12


# The fields of a snapshot that are amounts of money.
AMOUNTS: Final = ("spent_usd", "reserved_usd", "max_cost_usd")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment: rows by status, money in USD."""

    by_status: Mapping[str, int]
    spent_usd: Decimal
    reserved_usd: Decimal
    max_cost_usd: Decimal | None
    n_in_flight: int
    n_again: int = 0  # rows with an outcome that wait to be submitted again
    n_refused: int = 0  # requests of this call answered with 429
    waited_s: float = 0.0  # because of those refusals
    n_held: int = 0  # attempts of this call that may or may not have been accepted
    outage: str = ""  # what the run waits for, while the service is unreachable or refuses everything

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return sum(self.by_status.values())

    @property
    def n_settled(self) -> int:
        """Rows to which nothing more will happen in this call."""
        return sum(self.by_status.get(status, 0) for status in columns.SETTLED) - self.n_again

    @property
    def n_failed(self) -> int:
        """Rows that failed."""
        return self.by_status.get(columns.FAILED, 0)


Phase = Literal["running", "paused", "stopping", "stopped", "finished", "idle"]


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Rows that failed in the same way: their number, and the label and message of one of them as an example."""

    error_class: str
    n_rows: int
    row: Any
    message: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A saved picture: its row's label, prompt and seed, its path, and the cost of its job in USD."""

    row: Any
    job_id: str
    prompt: str
    seed: int | None
    path: Path
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Snapshot):
    """A run at one moment: rows by status, money in USD, times in seconds.

    Attributes
    ----------
    run_dir : Path
        The run directory.
    phase : {"running", "paused", "stopping", "stopped", "finished", "idle"}
        ``"stopping"``: nothing more is sent, creates on the wire are waited for. ``"stopped"``: ended before every
        row was settled. ``"idle"``: a watched directory that nobody works on.
    by_status : mapping of str to int
        Rows of the table by status.
    spent_usd, reserved_usd : Decimal
        Over every attempt of the directory: what is known to be paid, and what is set aside.
    max_cost_usd : Decimal or None
        The cap.
    projected_usd : tuple of Decimal (low, likely, high), or None
        What the directory will have cost once every row is settled, at the prices seen; None before the first.
    n_in_flight : int
        Tasks at the service.
    n_refused, waited_s : int, float
        Requests of this call answered with 429 (too many requests), and the seconds waited because of them.
    n_held : int
        Attempts of this call that may or may not have been accepted.
    outage : str
        What the run waits for, while the service is away or refuses everything; else empty.
    rows_per_s : float or None
        Rows settled per second lately, as far as the status was asked for; None before the first.
    eta_s : float or None
        Seconds left at that rate; None if unknown, 0 at the end.
    elapsed_s : float
        Seconds since this call began.
    errors : tuple of ErrorGroup
        Failed, invalid and ambiguous rows by class, most frequent first.
    newest : tuple of Picture
        The pictures saved last, newest first, 12 at most.
    notices : tuple of str
        Messages about the run, oldest first, the last 20.
    problem : str or None
        What stopped the run early, with what to do.
    is_cap_reached : bool
        Whether the cap stopped it.
    begins_at : datetime or None
        When a batch that waits for its time begins (UTC).
    at : datetime
        When this was so (UTC).

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=1, size="512x512")
    >>> with dreamo.start(jobs, tempfile.mkdtemp(), gateway="local") as live:
    ...     done = live.wait(progress=False)
    >>> live.status.by_status["completed"], live.status.n_in_flight
    (1, 0)
    """

    run_dir: Path
    phase: Phase
    projected_usd: tuple[Decimal, Decimal, Decimal] | None
    rows_per_s: float | None
    eta_s: float | None
    elapsed_s: float
    errors: tuple[ErrorGroup, ...]
    newest: tuple[Picture, ...]
    notices: tuple[str, ...]
    problem: str | None
    is_cap_reached: bool = False
    begins_at: datetime | None = None
    at: datetime

    @property
    def is_over(self) -> bool:
        """Whether no process works on the run any more."""
        return self.phase in ("stopped", "finished", "idle")


Forecast = tuple[Decimal, Decimal, Decimal]  # low, likely, high; USD


@dataclass(frozen=True, slots=True)
class Rows:
    """What a status needs of a table: its jobs, the label of each job's first row, rows per job, invalid rows."""

    jobs: Mapping[str, Job]
    labels: Mapping[str, Any]
    weights: Mapping[str, int]
    invalid: tuple[ErrorGroup, ...] = ()

    @property
    def n_invalid(self) -> int:
        """The number of rows without a job."""
        return sum(group.n_rows for group in self.invalid)


def rows_of(index: pd.Index, prepared: Prepared) -> Rows:
    """Return what a status needs of a prepared table."""
    is_job, is_again = (prepared.rows[name].notna() for name in (columns.JOB_ID, columns.DUPLICATE_OF))
    labels = dict(zip(prepared.jobs, index[(is_job & ~is_again).to_numpy()], strict=True))
    messages = prepared.rows.loc[~is_job, columns.ERROR_MESSAGE]
    first = zip(index[messages.index[:1]], messages.iloc[:1], strict=True)
    invalid = (ErrorGroup(columns.INVALID, len(messages), label, str(message)) for label, message in first)
    return Rows(prepared.jobs, labels, prepared.weights, tuple(invalid))


class Tally:
    """What a status shows beyond counts: errors, the newest pictures, and the projected cost."""

    def __init__(self, rows: Rows, state: State, run_dir: Path) -> None:
        self.rows, self._run_dir = rows, run_dir
        self._kinds = state.kinds()
        completed = state.completed(columns.JOB_ID, columns.OUTPUT_ERROR)
        is_whole = {job_id for job_id, error in completed if error is None}
        # All jobs but the bulk, about which there is nothing more to say.
        left = {job_id: state.deciding(job_id) for job_id in rows.weights if job_id not in is_whole}
        elsewhere = {attempt.job_id for attempt in state.open() if attempt.job_id not in rows.weights}
        self._n_left = len(elsewhere) + sum(status_of(one) in columns.UNSETTLED for one in left.values())
        # Rows that failed or may have been submitted, by class, most frequent first.
        self.errors = self._errors_of(left)
        # The pictures saved last, newest first.
        self.newest = self._newest_of(state)

    def _errors_of(self, left: Mapping[str, Attempt | None]) -> tuple[ErrorGroup, ...]:
        n_rows: Counter[str] = Counter()
        first: dict[str, tuple[str, str]] = {}
        for job_id, attempt in left.items():
            is_bad = (status := status_of(attempt)) in columns.ENDED_BADLY
            if attempt is not None and (is_bad or attempt.output_error is not None):
                name = attempt.error_class or status if is_bad else columns.OUTPUT_ERROR
                n_rows[name] += self.rows.weights[job_id]
                first.setdefault(name, (job_id, attempt.error_message or attempt.output_error or ""))
        groups = [
            ErrorGroup(name, n_rows[name], self.rows.labels.get(job_id), message)
            for name, (job_id, message) in first.items()
        ]
        return tuple(sorted((*groups, *self.rows.invalid), key=lambda group: -group.n_rows))

    def _newest_of(self, state: State) -> tuple[Picture, ...]:
        cells = state.cells(columns.SAVED_AT, columns.JOB_ID, columns.ATTEMPT, columns.OUTPUT_PATH)
        saved = (
            (saved_at or 0.0, job_id, number)
            for saved_at, job_id, number, path in cells
            if path is not None and job_id in self.rows.weights
        )
        newest = (state.find(job_id, number) for _, job_id, number in nlargest(N_NEWEST, saved))
        return tuple(self._picture(attempt) for attempt in newest if attempt is not None)

    def forecast(self, spent_usd: Decimal, price: Decimal | None) -> Forecast | None:
        """Project what the directory will have cost once every row is settled."""
        seen = [(cost, n) for kind, n in self._kinds.items() if (cost := price_of(kind)) is not None]
        if self._n_left and price is None and not seen:
            return None
        low = likely = high = price or ZERO
        if seen:
            low, high = min(seen)[0], max(seen)[0]
            with localcontext(Context(prec=_MEAN_DIGITS)):
                likely = total(times(n, cost) for cost, n in seen) / sum(n for _, n in seen)
        low, likely, high = (total((spent_usd, times(self._n_left, each))) for each in (low, likely, high))
        # Reserved for attempts that ended, or may have been accepted, without a known cost.
        unknown = total(
            times(n, money(kind.reserved) or ZERO)
            for kind, n in self._kinds.items()
            if kind.stage not in OPEN and is_unresolved_cost(kind)
        )
        return low, total((likely, unknown)), total((high, unknown))

    def _picture(self, attempt: Attempt) -> Picture:
        job = self.rows.jobs.get(attempt.job_id)
        return Picture(
            row=self.rows.labels.get(attempt.job_id),
            job_id=attempt.job_id,
            prompt="" if job is None else job.prompt,
            seed=attempt.seed_sent,
            path=self._run_dir / str(attempt.output_path),
            cost_usd=money(attempt.cost),
        )


class Speed:
    """Measures how many rows were settled per second recently."""

    def __init__(self, began_at: float, n_settled: int) -> None:
        self._marks: deque[tuple[float, int]] = deque([(began_at, n_settled)], maxlen=_SPEED_OVER)

    def note(self, now: float, n_settled: int) -> None:
        """Note how many rows are settled now."""
        if n_settled != self._marks[-1][1]:
            self._marks.append((now, n_settled))

    def rows_per_s(self, now: float) -> float | None:
        """Return the rate; None before the first row."""
        first, last = self._marks[0], self._marks[-1]
        n_rows = last[1] - first[1]
        return n_rows / (now - first[0]) if n_rows > 0 and now > first[0] else None


def left_s(n_left: int, rows_per_s: float | None) -> float | None:
    """Return the estimated seconds left; None if unknown."""
    if n_left == 0:
        return 0.0
    return n_left / rows_per_s if rows_per_s else None
