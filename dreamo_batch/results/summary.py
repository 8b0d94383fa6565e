"""What a run came to: counts, money and the reconciliation of rows, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.execution.budget import Budget, highest_price, possibly_billed, text
from dreamo_batch.execution.progress import dollars
from dreamo_batch.execution.state import ORDERED, State

if TYPE_CHECKING:
    from decimal import Decimal

    import pandas as pd

_LISTED_MAX: Final = 10


def summarise(results: pd.DataFrame, state: State, cap: Decimal | None) -> dict[str, Any]:
    """Count rows and add up money.

    Parameters
    ----------
    results : pandas.DataFrame
        Results of the table.
    state : State
        Every order of the directory, also those outside the table.
    cap : Decimal or None
        The cap in force, USD.

    Returns
    -------
    dict
        ``rows``, ``by_status``, ``orders``, ``spent_usd``, ``reserved_usd``, ``possibly_billed_usd``,
        ``max_cost_usd``; money as exact decimal text, None where there is no cap, or where an order that may
        have been billed was sent without a price.
    """
    doubtful = possibly_billed(state)
    budget = Budget(cap=cap, orders=state)
    counts = results[columns.STATUS].value_counts()
    return {
        "rows": len(results),
        "by_status": {status: int(counts[status]) for status in columns.STATUSES if counts[status]},
        "orders": sum(order.stage in ORDERED for order in state),
        "spent_usd": text(budget.spent),
        "reserved_usd": text(budget.reserved),
        "possibly_billed_usd": None if doubtful is None else text(doubtful),
        "max_cost_usd": None if cap is None else text(cap),
    }


def reconcile(n_rows: int, results: pd.DataFrame) -> dict[str, Any]:
    """Compare rows in with rows accounted for.

    Returns
    -------
    dict
        ``rows_in``, ``rows_accounted_for``, ``is_complete`` and the counts by status.
    """
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
    """Say the reconciliation in one line.

    Examples
    --------
    >>> from decimal import Decimal
    >>> counts = {"rows_in": 3, "rows_accounted_for": 3, "by_status": {"completed": 3}}
    >>> sentence(counts, Decimal("0.0858"))
    '3 rows in, 3 accounted for: 3 completed; $0.0858 spent'
    """
    counts = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in reconciliation["by_status"].items())
    n_in, n_out = reconciliation["rows_in"], reconciliation["rows_accounted_for"]
    return f"{n_in} rows in, {n_out} accounted for: {counts or 'none'}; ${dollars(spent_usd)} spent"


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
            "ambiguous rows may have been ordered and billed; they are never sent again by themselves. Settle each "
            "with resolve(run_dir, row, task_id=...) or resolve(run_dir, row, not_sent=True), or order again with "
            'on_ambiguous="resubmit".'
        )
    return lines


def _ambiguous_line(label: object, job_id: str, state: State) -> str:
    order = state.deciding(job_id)
    price = highest_price(state)
    if order is not None and order.reserved is not None:
        cost = f"up to ${order.reserved}"
    else:
        cost = "an unknown cost" if price is None else f"perhaps ${text(price)}, the highest price seen here"
    why = "" if order is None else f" ({order.error_class})"
    return f"row {label} is ambiguous{why}: job {job_id}, possibly billed {cost}"
