"""A run that somebody else works on, followed from its directory; nothing is locked and nobody is stopped."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from dreamo_batch import columns
from dreamo_batch.batch.moment import Phase, Status
from dreamo_batch.batch.reading import existing, load, read_state
from dreamo_batch.batch.tally import Rows, Tally, rows_of
from dreamo_batch.batch.work import Speed, left_s
from dreamo_batch.errors import DirectoryError
from dreamo_batch.execution import stored
from dreamo_batch.execution.budget import Budget, highest_price, money
from dreamo_batch.execution.coordinator import status_of
from dreamo_batch.execution.state import OPEN, State

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import pandas as pd

_LOOK_EVERY_S: Final = 1.0
_SHARE: Final = 5.0  # looks take at most a fifth of the time, however large the run


class Follower:
    """Reads a run directory again and again, as seldom as is good for it.

    Parameters
    ----------
    run_dir : path-like
        The run directory.

    Raises
    ------
    DirectoryError
        If it is not a run directory, or can't be read.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.directory = existing(run_dir)
        self._began_at = time.monotonic()
        self._next_at = self._began_at
        self._table_id = ""
        self._rows = Rows({}, {}, {})
        self._speed: Speed | None = None
        self._status = self._look()

    def status(self) -> Status:
        """Say how the run stands; at most a second old, more for large runs."""
        began_at = time.monotonic()
        if began_at >= self._next_at:
            try:
                self._status = self._look()
            except DirectoryError as error:
                if not self.directory.path.is_dir():
                    raise
                self._status = _troubled(self._status, error)
            took_s = time.monotonic() - began_at
            self._next_at = began_at + max(_LOOK_EVERY_S, took_s * _SHARE)
        return self._status

    def results(self) -> pd.DataFrame:
        """Give the table as it stands on disk."""
        return load(self.directory.path)

    def _look(self) -> Status:
        is_worked_on = self.directory.is_locked()
        self._read_table()
        state, now = read_state(self.directory), time.monotonic()
        price = highest_price(state)
        budget = Budget(cap=money(state.cap), price=price, orders=state)
        by_status, tally = _count(self._rows, state), Tally(self._rows, state, self.directory.path)
        n_left = sum(by_status.get(status, 0) for status in columns.UNSETTLED)
        speed = self._rate(now, sum(by_status.values()) - n_left) if is_worked_on else None
        return Status(
            run_dir=self.directory.path,
            phase=_phase(n_left, is_worked_on=is_worked_on),
            by_status=by_status,
            spent_usd=budget.spent,
            reserved_usd=budget.reserved,
            max_cost_usd=budget.cap,
            projected_usd=tally.forecast(budget.spent, price),
            n_in_flight=sum(order.stage in OPEN for order in state),
            rows_per_s=speed,
            eta_s=left_s(n_left, speed),
            elapsed_s=now - self._began_at,
            errors=tally.errors(),
            newest=tally.newest(),
            notices=(),
            problem=None,
            at=datetime.now(UTC),
        )

    def _read_table(self) -> None:
        """Read the table, which takes a while, only where it is another one than before."""
        if not self.directory.jobs.exists():
            raise DirectoryError(f"{self.directory.path} has no {self.directory.jobs.name} (any more).")
        table_id = str(stored.read_meta(self.directory.jobs).get("table_id"))
        if table_id != self._table_id:
            table = stored.read_jobs(self.directory.jobs)
            self._rows = rows_of(table.user.index, table.prepared)
            self._table_id, self._speed = table.table_id, None

    def _rate(self, now: float, n_settled: int) -> float | None:
        if self._speed is None:
            self._speed = Speed(now, n_settled)
        self._speed.note(now, n_settled)
        return self._speed.rows_per_s(now)


def _phase(n_left: int, *, is_worked_on: bool) -> Phase:
    return "running" if is_worked_on else "idle" if n_left else "finished"


def _count(rows: Rows, state: State) -> Mapping[str, int]:
    counts: Counter[str] = Counter(dict.fromkeys(columns.STATUSES, 0))
    counts[columns.INVALID] = sum(group.n_rows for group in rows.invalid)
    for job_id, weight in rows.weights.items():
        counts[status_of(state.deciding(job_id))] += weight
    return dict(counts)


def _troubled(status: Status, error: DirectoryError) -> Status:
    return replace(status, problem=str(error), at=datetime.now(UTC))
