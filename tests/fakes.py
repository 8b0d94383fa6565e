"""Stand-ins that several test modules share: a clock, attempts, jobs and pictures."""

from __future__ import annotations

import io
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from hypothesis import strategies as st
from PIL import Image

from dreamo_batch import columns
from dreamo_batch.engine.attempts import (
    Attempt,
    Event,
    EventKind,
    Stage,
    State,
    StoredAttempts,
    absent,
    to_arrow,
)
from dreamo_batch.engine.checkpoint import ROWS, Meta, write
from dreamo_batch.engine.schedule import Limits
from dreamo_batch.engine.status import ErrorGroup, Status
from dreamo_batch.jobs.prepare import Job, Prepared
from dreamo_batch.jobs.references import ImageSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


# Text that UTF-8 can hold, of every kind: emoji, Chinese, control characters, line separators.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
amounts = st.decimals(min_value=0, max_value=1000, places=6).map(lambda amount: format(amount, "f"))
times = st.integers(0, 2_000_000_000_000_000).map(lambda microseconds: microseconds / 1_000_000)
job_ids = st.sampled_from(["a" * 32, "b" * 32, "c" * 32, "d" * 32])


def scratch() -> Path:
    """Make a folder in memory where there is one: state machines write thousands of files to be fsynced."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder in it is made by mkdtemp
    return Path(tempfile.mkdtemp(prefix="dreamo-", dir=memory if memory.is_dir() else None))


class FakeClock:
    """Time that moves only when a test moves it."""

    def __init__(self, start: float = 1_000.0, wall: float = 1_700_000_000.0) -> None:
        self.now = start
        self._offset = wall - start

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self._offset

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, "time does not run backwards"
        self.now += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as a user or a server of time may."""
        self._offset += seconds


def event(kind: EventKind, job_id: str = "a", attempt: int = 1, at: float = 5.0, **fields: Any) -> Event:
    return Event(kind, job_id, attempt, at, fields)


def write_checkpoint(path: Path, state: State, pending: list[str], meta: Meta) -> None:
    """Write a checkpoint of a state, with rows for these jobs if they were never submitted."""
    write(path, state.stored.packed_with(state.changed), absent(state, pending), meta)


def with_pending(state: State, job_ids: Iterable[str]) -> pa.Table:
    """Lay out the attempts, and a row for each of some jobs that has none."""
    return pa.concat_tables([to_arrow(state), absent(state, job_ids)])


def to_state(table: pa.Table) -> State:
    """Rebuild each attempt that a table holds."""
    stored = StoredAttempts(table)
    return State(one for job_id in stored for one in stored.get(job_id))


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def order_fields() -> Mapping[str, st.SearchStrategy[Any]]:
    """What each field of an attempt may hold, apart from job, number and stage."""
    text_fields = (
        "task_id",
        "output_url",
        "output_path",
        "output_sha256",
        "output_error",
        "error_class",
        "error_code",
        "error_message",
        "excerpt",
        "metadata",
        "discount",
    )
    counts = ("output_bytes", "output_width", "output_height", "n_polls", "n_refusals")
    return {
        **{name: maybe(texts) for name in text_fields},
        **{name: maybe(st.integers(0, 2**40)) for name in counts},
        **{name: maybe(amounts) for name in ("reserved", "cost")},
        **{name: maybe(times) for name in ("sent_at", "answered_at", "completed_at", "saved_at")},
        "seed_sent": maybe(st.integers(-1, 2**63 - 1)),
        "may_have_been_billed": maybe(st.booleans()),
        "waited_s": maybe(st.floats(0, 1e9)),
    }


ORDERED_STAGES = (Stage.SENDING, Stage.ACCEPTED, Stage.AMBIGUOUS, Stage.COMPLETED, Stage.FAILED, Stage.LOST)


@st.composite
def histories(draw: st.DrawFn, max_jobs: int = 4, max_attempts: int = 3) -> list[Attempt]:
    """Attempts of some jobs as a ledger may hold them; what never reached the service is its job's last."""
    attempts = []
    known = order_fields()
    for job_id in draw(st.lists(job_ids, unique=True, max_size=max_jobs)):
        n_attempts = draw(st.integers(1, max_attempts))
        for number in range(1, n_attempts + 1):
            stages = tuple(Stage) if number == n_attempts else ORDERED_STAGES
            names = draw(st.sets(st.sampled_from(sorted(known)), max_size=6))
            fields = {name: draw(known[name]) for name in sorted(names)}
            attempts.append(Attempt(job_id, number, draw(st.sampled_from(stages)), **fields))
    return attempts


@cache
def picture(file_format: str = "PNG", size: tuple[int, int] = (8, 4)) -> bytes:
    """Bytes of a small picture."""
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, file_format)
    return buffer.getvalue()


def job(job_id: str = "a", *, seed: int = 7, image: ImageSource | None = None) -> Job:
    url = "https://example.com/cat.png"
    source = image or ImageSource("url", url, "00", url, "00")
    return Job(
        job_id, f"a cat called {job_id}", seed, 1328, 1328, use_rephraser=True, replicate=0, image=source
    )


def prepared(*names: str | None) -> Prepared:
    """A table whose rows have these jobs, in their order; None is a row that can't be submitted."""
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if name is not None:
            first.setdefault(name, position)
    rows = pd.DataFrame({name: pd.Series([None] * len(names), dtype=dtype) for name, dtype in ROWS.items()})
    for position, name in enumerate(names):
        if name is None:
            rows.loc[position, columns.ERROR_CLASS] = "invalid"
            rows.loc[position, columns.ERROR_MESSAGE] = "prompt: it is blank"
            continue
        rows.loc[position, columns.JOB_ID] = name
        rows.loc[position, columns.SEED_SENT] = 7
        if first[name] != position:
            rows.loc[position, columns.DUPLICATE_OF] = first[name]
    problems = pd.DataFrame(columns=list(columns.PROBLEMS))
    return Prepared({name: job(name) for name in first}, rows, problems)


def small_run(**changes: Any) -> Status:
    """Return a small run that is under way."""
    fields: dict[str, Any] = {
        "run_dir": Path("runs/example"),
        "phase": "running",
        "by_status": {columns.COMPLETED: 2, columns.FAILED: 1, columns.IN_PROGRESS: 1},
        "spent_usd": Decimal("0.06"),
        "reserved_usd": Decimal("0.03"),
        "max_cost_usd": Decimal("0.5"),
        "projected_usd": (Decimal("0.11"), Decimal("0.12"), Decimal("0.13")),
        "n_in_flight": 1,
        "rows_per_s": 0.5,
        "eta_s": 2.0,
        "elapsed_s": 6.0,
        "errors": (ErrorGroup("permanent", 1, 2, "Invalid parameter"),),
        "newest": (),
        "notices": (),
        "problem": None,
        "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    return Status(**{**fields, **changes})


class Unsayable:
    """What has no text."""

    def __str__(self):
        raise RuntimeError

    __repr__ = __str__


def limits_of(**changes):
    """Return limits like those of a call with the usual options."""
    usual = {"max_in_flight": 8, "n_workers": 16, "task_timeout_s": 900.0, "patience_s": 900.0}
    return Limits(**usual | changes)
