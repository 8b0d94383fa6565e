"""A run at one moment, for the examples of this package."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from dreamo_batch import columns
from dreamo_batch.batch.moment import ErrorGroup, Status


def example(**changes: Any) -> Status:
    """Give a small run that is under way.

    Parameters
    ----------
    **changes
        Fields of `Status` that are to be different.

    Returns
    -------
    Status

    Examples
    --------
    >>> example(phase="paused").n_rows
    4
    """
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
