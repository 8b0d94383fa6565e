"""The state of a run: snapshots, with errors, the newest pictures, the rate and the projected cost."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import TYPE_CHECKING, Any, Final, Literal

from dreamo_batch import columns
from dreamo_batch.engine.attempts import OPEN, Attempt, State, is_unresolved_cost, price_of, status_of
from dreamo_batch.money import ZERO, money, times, total

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    import pandas as pd

    from dreamo_batch.jobs.prepare import Job, Prepared

_SPEED_OVER: Final = 64  # rows settled lately that the rate is measured over
N_NEWEST: Final = 12
_ENDED_BADLY: Final = (columns.FAILED, columns.AMBIGUOUS)
_MEAN_DIGITS: Final = 12


# The fields of a snapshot that are money.
AMOUNTS: Final = ("spent_usd", "reserved_usd", "max_cost_usd")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment: rows by status, money in USD."""

    by_status: Mapping[str, int]
    spent_usd: Decimal
    reserved_usd: Decimal
    max_cost_usd: Decimal | None
    n_in_flight: int
    n_again: int = 0  # rows that have an outcome, and wait to be submitted again
    n_refused: int = 0  # requests of this call answered with 429
    waited_s: float = 0.0  # because of them
    n_held: int = 0  # attempts of this call that may or may not have been accepted
    outage: str = ""  # what the run waits for, while the service is away or refuses everything

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return sum(self.by_status.values())

    @property
    def n_settled(self) -> int:
        """Rows that nothing more will happen to in this call."""
        return sum(self.by_status.get(status, 0) for status in columns.SETTLED) - self.n_again

    @property
    def n_failed(self) -> int:
        """Rows that failed."""
        return self.by_status.get(columns.FAILED, 0)


Phase = Literal["running", "paused", "stopping", "stopped", "finished", "idle"]


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Rows that failed in the same way: how many, and one of them as an example (its label and the service's words)."""

    error_class: str
    n_rows: int
    row: Any
    message: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A saved picture: its row's label, prompt and seed, where it lies, and what its job cost in USD."""

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
        Rows settled in a second, lately; None before the first.
    eta_s : float or None
        Seconds left at that rate; None if unknown, 0 at the end.
    elapsed_s : float
        Seconds since this call began.
    errors : tuple of ErrorGroup
        Failed, invalid and ambiguous rows by class, most frequent first.
    newest : tuple of Picture
        The pictures saved last, newest first, 12 at most.
    notices : tuple of str
        What was to be said, oldest first, the last 20.
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
        """Whether nobody is working on the run any more."""
        return self.phase in ("stopped", "finished", "idle")


Forecast = tuple[Decimal, Decimal, Decimal]  # low, likely, high; USD


@dataclass(frozen=True, slots=True)
class Rows:
    """What of a table a status needs: its jobs, the label of each job's first row, rows per job, invalid rows."""

    jobs: Mapping[str, Job]
    labels: Mapping[str, Any]
    weights: Mapping[str, int]
    invalid: tuple[ErrorGroup, ...] = ()

    @property
    def n_invalid(self) -> int:
        """Rows without a job."""
        return sum(group.n_rows for group in self.invalid)


def rows_of(index: pd.Index, prepared: Prepared) -> Rows:
    """Read off a prepared table what a status needs of it."""
    is_job, is_again = (prepared.rows[name].notna() for name in (columns.JOB_ID, columns.DUPLICATE_OF))
    labels = dict(zip(prepared.jobs, index[(is_job & ~is_again).to_numpy()], strict=True))
    messages = prepared.rows.loc[~is_job, columns.ERROR_MESSAGE]
    first = zip(index[messages.index[:1]], messages.iloc[:1], strict=True)
    invalid = (ErrorGroup(columns.INVALID, len(messages), label, str(message)) for label, message in first)
    return Rows(prepared.jobs, labels, prepared.weights, tuple(invalid))


@dataclass(slots=True)
class _Prices:
    n: int = 0
    sum_usd: Decimal = ZERO
    low: Decimal = ZERO
    high: Decimal = ZERO

    def add(self, price: Decimal) -> None:
        self.low = min(self.low, price) if self.n else price
        self.high = max(self.high, price)
        self.n, self.sum_usd = self.n + 1, total((self.sum_usd, price))

    def forecast(self) -> Forecast:
        with localcontext(Context(prec=_MEAN_DIGITS)):
            return self.low, self.sum_usd / self.n, self.high


class Tally:
    """Follows the attempts of a run; fed by one thread, read by any."""

    def __init__(self, rows: Rows, state: State, run_dir: Path) -> None:
        self._rows = rows
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._newest: deque[Attempt] = deque(maxlen=N_NEWEST)
        self._errors: dict[str, tuple[str, str]] = {}  # class and message of each job whose state is an error
        self._prices = _Prices()
        self._n_unsettled = 0
        self._status: dict[str, str] = {}
        self._unknown = ZERO  # held back for attempts that ended without a cost
        self._start(state)

    def note(self, before: Attempt | None, after: Attempt, deciding: Attempt) -> None:
        """Handle what became of an attempt; `deciding` is the one that decides its job's state."""
        with self._lock:
            self._count_money(before, after)
            is_newly_saved = after.output_path not in (None, before and before.output_path)
            if after.job_id in self._rows.weights and is_newly_saved:
                self._newest.append(after)
            self._settle(deciding)

    def errors(self) -> tuple[ErrorGroup, ...]:
        """Return rows that failed or may have been submitted, by class, most frequent first."""
        with self._lock:
            errors = list(self._errors.items())
        n_rows: Counter[str] = Counter()
        first: dict[str, tuple[str, str]] = {}
        for job_id, (name, message) in errors:
            n_rows[name] += self._rows.weights[job_id]
            first.setdefault(name, (job_id, message))
        groups = [
            ErrorGroup(name, n_rows[name], self._rows.labels.get(job_id), message)
            for name, (job_id, message) in first.items()
        ]
        return tuple(sorted((*groups, *self._rows.invalid), key=lambda group: -group.n_rows))

    def newest(self) -> tuple[Picture, ...]:
        """Return the pictures saved last, newest first."""
        with self._lock:
            return tuple(self._picture(attempt) for attempt in reversed(self._newest))

    def forecast(self, spent_usd: Decimal, price: Decimal | None) -> Forecast | None:
        """Say what the directory will have cost once every row is settled."""
        with self._lock:
            n, unknown = self._n_unsettled, self._unknown
            if n and price is None and not self._prices.n:
                return None
            seen = self._prices.forecast() if self._prices.n else (price or ZERO,) * 3
        low, likely, high = (total((spent_usd, times(n, each))) for each in seen)
        return low, total((likely, unknown)), total((high, unknown))

    # Private; called with the lock held, but for the start.

    def _start(self, state: State) -> None:
        for attempt in state:
            self._count_money(None, attempt)
        cells = state.cells(columns.SAVED_AT, columns.JOB_ID, columns.ATTEMPT, columns.OUTPUT_PATH)
        saved = [
            (saved_at or 0.0, job_id, number)
            for saved_at, job_id, number, path in cells
            if path is not None and job_id in self._rows.weights
        ]
        newest = (state.find(job_id, number) for _, job_id, number in sorted(saved)[-N_NEWEST:])
        self._newest.extend(attempt for attempt in newest if attempt is not None)
        for job_id in dict.fromkeys((*self._rows.weights, *state.job_ids())):
            self._settle(state.deciding(job_id) or Attempt(job_id, 1))

    def _count_money(self, before: Attempt | None, after: Attempt) -> None:
        self._unknown = total((self._unknown, _unknown(before).copy_negate(), _unknown(after)))
        price = price_of(after)
        if price is not None and (before is None or price_of(before) is None):
            self._prices.add(price)

    def _settle(self, attempt: Attempt) -> None:
        status = status_of(attempt)
        if attempt.job_id not in self._rows.weights and attempt.stage not in OPEN:
            status = ""  # no row waits for it
        before = self._status.get(attempt.job_id)
        self._n_unsettled += (status in columns.UNSETTLED) - (before in columns.UNSETTLED)
        self._status[attempt.job_id] = status
        self._errors.pop(attempt.job_id, None)
        name = columns.OUTPUT_ERROR if attempt.output_error is not None else None
        name = attempt.error_class or status if status in _ENDED_BADLY else name
        if name is not None and attempt.job_id in self._rows.weights:
            self._errors[attempt.job_id] = name, attempt.error_message or attempt.output_error or ""

    def _picture(self, attempt: Attempt) -> Picture:
        job = self._rows.jobs.get(attempt.job_id)
        return Picture(
            row=self._rows.labels.get(attempt.job_id),
            job_id=attempt.job_id,
            prompt="" if job is None else job.prompt,
            seed=attempt.seed_sent,
            path=self._run_dir / str(attempt.output_path),
            cost_usd=money(attempt.cost),
        )


def _unknown(attempt: Attempt | None) -> Decimal:
    """Return what is held back for an attempt that ended, or may have been taken, without a known cost."""
    if attempt is None or attempt.stage in OPEN or not is_unresolved_cost(attempt):
        return ZERO
    return money(attempt.reserved) or ZERO


class Speed:
    """How many rows are settled in a second, lately."""

    def __init__(self, began_at: float, n_settled: int) -> None:
        self._marks: deque[tuple[float, int]] = deque([(began_at, n_settled)], maxlen=_SPEED_OVER)

    def note(self, now: float, n_settled: int) -> None:
        """Take in how many rows are settled now."""
        if n_settled != self._marks[-1][1]:
            self._marks.append((now, n_settled))

    def rows_per_s(self, now: float) -> float | None:
        """Return the rate; None before the first row."""
        first, last = self._marks[0], self._marks[-1]
        n_rows = last[1] - first[1]
        return n_rows / (now - first[0]) if n_rows > 0 and now > first[0] else None


def left_s(n_left: int, rows_per_s: float | None) -> float | None:
    """Return how many seconds are left; None if unknown."""
    if n_left == 0:
        return 0.0
    return n_left / rows_per_s if rows_per_s else None
