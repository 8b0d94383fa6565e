"""What a status tells besides counts and money: errors by class, newest pictures, prices. Kept up event by event."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.batch.moment import ErrorGroup, Picture
from dreamo_batch.execution.budget import ZERO, money, price_of, times, total
from dreamo_batch.execution.coordinator import status_of
from dreamo_batch.execution.state import OPEN, ORDERED, Order, State, is_unresolved_cost

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from dreamo_batch.table.jobs import Job, Prepared

N_NEWEST: Final = 12
_ENDED_BADLY: Final = (columns.FAILED, columns.AMBIGUOUS)
_MEAN_DIGITS: Final = 12

Forecast = tuple[Decimal, Decimal, Decimal]
"""Low, likely, high; USD."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What of a table a status needs: its jobs, the label of each job's first row, rows per job, invalid rows."""

    jobs: Mapping[str, Job]
    labels: Mapping[str, Any]
    weights: Mapping[str, int]
    invalid: tuple[ErrorGroup, ...] = ()


def rows_of(index: pd.Index, prepared: Prepared) -> Rows:
    """Read off a prepared table what a status needs of it.

    Examples
    --------
    >>> import pandas as pd
    >>> from dreamo_batch.table.jobs import prepare
    >>> table = pd.DataFrame({"image": ["https://example.com/cat.png"] * 2, "prompt": ["a cat", ""]}, index=["a", "b"])
    >>> rows_of(table.index, prepare(table, entropy="e")).invalid[0].row
    'b'
    """
    job_ids = prepared.rows[columns.JOB_ID]
    is_job = job_ids.notna()
    is_first = is_job & prepared.rows[columns.DUPLICATE_OF].isna()
    labels = dict(zip(job_ids[is_first], index[is_first.to_numpy()], strict=True))
    weights = job_ids.value_counts().to_dict()
    return Rows(prepared.jobs, labels, weights, _invalid(index, prepared.rows[~is_job]))


def _invalid(index: pd.Index, rows: pd.DataFrame) -> tuple[ErrorGroup, ...]:
    if not len(rows):
        return ()
    position, message = rows.index[0], rows[columns.ERROR_MESSAGE].iloc[0]
    return (ErrorGroup(columns.INVALID, len(rows), index[position], str(message)),)


@dataclass(slots=True)
class _Prices:
    """Prices seen for pictures of one size."""

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


@dataclass(slots=True)
class _Errors:
    """Jobs that stand at an error of one class, first to come first."""

    n_rows: int = 0
    messages: dict[str, str] = field(default_factory=dict)


class Tally:
    """Follows the orders of a run; fed by one thread, read by any.

    Parameters
    ----------
    rows : Rows
        The table.
    state : State
        The ledger as it stands.
    run_dir : Path
        Where pictures are.

    Examples
    --------
    >>> from pathlib import Path
    >>> from dreamo_batch.execution.state import Stage
    >>> failed = Order("a", 1, Stage.FAILED, error_class="moderated", error_message="Risk Not Pass")
    >>> Tally(Rows({}, {"a": 7}, {"a": 2}), State([failed]), Path("runs/x")).errors()
    (ErrorGroup(error_class='moderated', n_rows=2, row=7, message='Risk Not Pass'),)
    """

    def __init__(self, rows: Rows, state: State, run_dir: Path) -> None:
        self._rows = rows
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._newest: deque[Order] = deque(maxlen=N_NEWEST)
        self._errors: dict[str, _Errors] = {}
        self._class_of: dict[str, str] = {}
        self._prices: dict[int | None, _Prices] = {}
        self._unsettled: Counter[int | None] = Counter()
        self._status: dict[str, str] = {}
        self._unknown = ZERO  # held back for orders that ended without a cost
        self._start(state)

    def note(self, before: Order | None, after: Order, deciding: Order) -> None:
        """Take in what became of an order; `deciding` is the one that says how its job stands now."""
        with self._lock:
            self._count_money(before, after)
            if after.job_id in self._rows.weights and _is_newly_saved(before, after):
                self._newest.append(after)
            self._settle(deciding)

    def errors(self) -> tuple[ErrorGroup, ...]:
        """Give rows that failed or may have been ordered, by class, most frequent first."""
        with self._lock:
            groups = [self._group(name, errors) for name, errors in self._errors.items() if errors.messages]
        return tuple(sorted((*groups, *self._rows.invalid), key=lambda group: -group.n_rows))

    def newest(self) -> tuple[Picture, ...]:
        """Give the pictures saved last, newest first."""
        with self._lock:
            return tuple(self._picture(order) for order in reversed(self._newest))

    def forecast(self, spent_usd: Decimal, price: Decimal | None) -> Forecast | None:
        """Say what the directory will have cost once every row is settled.

        Parameters
        ----------
        spent_usd : Decimal
            USD spent so far.
        price : Decimal or None
            USD that an order is taken to cost while none has told.

        Returns
        -------
        tuple of Decimal (low, likely, high), or None
            At the prices seen for pictures of each size, else for any; None where none is known. Orders that may
            have been billed without a known cost count as what is held back for them in all but the low one.
        """
        with self._lock:
            at_any = self._overall() or (None if price is None else (price, price, price))
            parts: list[Forecast] = [(spent_usd, spent_usd, spent_usd), (ZERO, self._unknown, self._unknown)]
            for n_pixels, n_jobs in (+self._unsettled).items():
                each = self._prices[n_pixels].forecast() if n_pixels in self._prices else at_any
                if each is None:
                    return None
                parts.append((times(n_jobs, each[0]), times(n_jobs, each[1]), times(n_jobs, each[2])))
        low, likely, high = (total(part[place] for part in parts) for place in range(3))
        return low, likely, high

    # Private; called with the lock held, but for the start.

    def _start(self, state: State) -> None:
        for order in state:
            self._count_money(None, order)
        saved = (
            order for order in state if order.output_path is not None and order.job_id in self._rows.weights
        )
        self._newest.extend(sorted(saved, key=lambda order: order.saved_at or 0.0)[-N_NEWEST:])
        for job_id in self._rows.weights:
            self._settle(state.deciding(job_id) or Order(job_id, 1))
        for job_id in {order.job_id for order in state} - self._rows.weights.keys():
            self._settle(state.deciding(job_id) or Order(job_id, 1))

    def _count_money(self, before: Order | None, after: Order) -> None:
        self._unknown = total((self._unknown, _unknown(before).copy_negate(), _unknown(after)))
        price = price_of(after)
        if price is not None and (before is None or price_of(before) is None):
            self._prices.setdefault(self._n_pixels(after.job_id), _Prices()).add(price)

    def _settle(self, order: Order) -> None:
        status, n_pixels = status_of(order), self._n_pixels(order.job_id)
        if order.job_id not in self._rows.weights and order.stage not in OPEN:
            status = ""  # no row waits for it
        self._unsettled[n_pixels] += (status in columns.UNSETTLED) - (
            self._status.get(order.job_id) in columns.UNSETTLED
        )
        self._status[order.job_id] = status
        self._set_error(order, status)

    def _set_error(self, order: Order, status: str) -> None:
        weight = self._rows.weights.get(order.job_id, 0)
        old = self._class_of.pop(order.job_id, None)
        if old is not None:
            self._errors[old].n_rows -= weight
            del self._errors[old].messages[order.job_id]
        message = order.error_message or order.output_error
        name = _class(order, status)
        if name is not None and weight:
            errors = self._errors.setdefault(name, _Errors())
            errors.n_rows += weight
            errors.messages[order.job_id] = message or ""
            self._class_of[order.job_id] = name

    def _group(self, name: str, errors: _Errors) -> ErrorGroup:
        job_id, message = next(iter(errors.messages.items()))
        return ErrorGroup(name, errors.n_rows, self._rows.labels.get(job_id), message)

    def _picture(self, order: Order) -> Picture:
        job = self._rows.jobs.get(order.job_id)
        return Picture(
            row=self._rows.labels.get(order.job_id),
            job_id=order.job_id,
            prompt="" if job is None else job.prompt,
            seed=order.seed_sent,
            path=self._run_dir / str(order.output_path),
            cost_usd=money(order.cost),
        )

    def _n_pixels(self, job_id: str) -> int | None:
        job = self._rows.jobs.get(job_id)
        return None if job is None else job.width * job.height

    def _overall(self) -> Forecast | None:
        if not self._prices:
            return None
        known = self._prices.values()
        whole = _Prices(
            n=sum(one.n for one in known),
            sum_usd=total(one.sum_usd for one in known),
            low=min(one.low for one in known),
            high=max(one.high for one in known),
        )
        return whole.forecast()


def _is_newly_saved(before: Order | None, after: Order) -> bool:
    return after.output_path is not None and (before is None or before.output_path != after.output_path)


def _class(order: Order, status: str) -> str | None:
    """Name the error that a job stands at; None where there is none."""
    if status in _ENDED_BADLY:
        return order.error_class or status
    return columns.OUTPUT_ERROR if order.output_error is not None else None


def _unknown(order: Order | None) -> Decimal:
    """Give what is held back for an order that ended, or may have been taken, without a known cost."""
    if order is None or order.stage not in ORDERED or order.stage in OPEN or not is_unresolved_cost(order):
        return ZERO
    return money(order.reserved) or ZERO
