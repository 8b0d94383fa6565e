"""What went wrong in a run: failures by kind, and rows that nobody can tell of whether they were ordered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.execution.state import Stage
from dreamo_batch.results.failures import summarise_failures
from dreamo_batch.results.history import LABEL
from dreamo_batch.results.reporting import wording

if TYPE_CHECKING:
    from dreamo_batch.results.reporting.facts import Facts

N_MAX: Final = 100


def failures(facts: Facts) -> dict[str, Any]:
    """Say what failed, what it means, and what tries it again.

    Returns
    -------
    dict
        ``kinds`` (one entry each, most frequent first) and ``n_more``.
    """
    found = summarise_failures(facts.history)
    return {
        "kinds": [_kind(kind) for kind in found.head(N_MAX).to_dict("records")],
        "n_more": max(0, len(found) - N_MAX),
    }


def ambiguous(facts: Facts) -> dict[str, Any]:
    """List rows that may have been ordered, with what each may cost, and how to settle it.

    Returns
    -------
    dict
        ``rows``, ``n_more``, and ``calls`` that settle the first.
    """
    rows = facts.bought[facts.bought[columns.STATUS] == columns.AMBIGUOUS]
    orders = facts.orders[facts.orders[columns.STAGE] == str(Stage.AMBIGUOUS)]
    held = orders.drop_duplicates(columns.JOB_ID, keep="last").set_index(columns.JOB_ID)[columns.RESERVED]
    return {
        "rows": [_row(row, held) for row in rows.head(N_MAX).to_dict("records")],
        "n_more": max(0, len(rows) - N_MAX),
        "calls": [] if rows.empty else _settling(facts, rows[columns.JOB_ID].iloc[0]),
    }


def _kind(kind: dict[Any, Any]) -> dict[str, Any]:
    code, call = kind[columns.ERROR_CODE], kind[columns.CALL]
    is_billed = bool(kind[columns.MAY_HAVE_BEEN_BILLED])
    return {
        "name": wording.words(kind[columns.ERROR_CLASS]),
        "code": "" if pd.isna(code) else wording.words(code),
        "counts": f"{wording.plural(int(kind[columns.N_ROWS]), 'row')}, "
        + wording.plural(int(kind[columns.N_ORDERS]), "order"),
        "meaning": kind[columns.MEANING].rstrip(".") + ".",
        "advice": kind[columns.ADVICE],
        "billed": "may have been billed" if is_billed else f"billed: USD {wording.usd(kind[columns.SPENT])}",
        "is_billed": is_billed,
        "has_rows": bool(kind[columns.N_ROWS]),
        "example_rows": wording.words(kind[columns.EXAMPLE_ROWS]),
        "example": wording.words(kind[columns.EXAMPLE], 400),
        "call": None if pd.isna(call) else wording.words(call, 4000),
    }


def _row(row: dict[Any, Any], held: pd.Series) -> dict[str, str]:
    amount = held.get(row[columns.JOB_ID])
    return {
        "label": wording.words(row[LABEL]),
        "prompt": wording.words(row.get(columns.PROMPT), 120),
        "seed": wording.words(row[columns.SEED_SENT]),
        "job_id": row[columns.JOB_ID],
        "sent_at": wording.moment(row[columns.SUBMITTED_AT]),
        "why": wording.words(row[columns.ERROR_CLASS]),
        "cost": wording.usd(amount),
    }


def _settling(facts: Facts, job_id: str) -> list[tuple[str, str]]:
    named = f"{json.dumps(facts.name, ensure_ascii=False)}, {json.dumps(job_id)}"
    calls = [
        ("It was taken, as this task", f'dreamo.resolve({named}, task_id="...")'),
        ("It was not taken; the next run orders it", f"dreamo.resolve({named}, not_sent=True)"),
    ]
    return [(what, wording.words(call, 4000)) for what, call in calls]
