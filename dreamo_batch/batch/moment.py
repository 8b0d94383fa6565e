"""A run at one moment, as `Batch.status` tells it: plain values that never change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dreamo_batch.execution.progress import Snapshot

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal
    from pathlib import Path

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
        Over every order of the directory: what is known to be paid, and what is set aside.
    max_cost_usd : Decimal or None
        The cap.
    projected_usd : tuple of Decimal (low, likely, high), or None
        What the directory will have cost once every row is settled, at the prices seen; None before the first.
    n_in_flight : int
        Tasks at the service.
    rows_per_s : float or None
        Rows settled in a second, lately; None before the first.
    eta_s : float or None
        Seconds left at that rate; None if it can't be told, 0 at the end.
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
    at : datetime
        When this was so (UTC).
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
    at: datetime

    @property
    def is_over(self) -> bool:
        """Whether nobody is working on the run any more."""
        return self.phase in ("stopped", "finished", "idle")
