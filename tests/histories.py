"""Attempts and results made by hand, and the history that they are together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine.attempts import Attempt, Stage, State, to_arrow, to_frame
from dreamo_batch.results import frame, history

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreamo_batch.results.history import History

NOON = 1_795_435_200.0  # 2026-11-23 12:00 UTC


def completed(job_id: str, number: int = 1, cost: str | None = "0.0286", **fields: Any) -> Attempt:
    """Make an attempt that gave a picture."""
    known = {
        "discount": "1",
        "output_url": f"http://127.0.0.1/{job_id}.jpg",
        "output_path": f"images/{job_id}.jpg",
        "may_have_been_billed": cost is None,
        "sent_at": NOON,
        "answered_at": NOON + 1,
        "completed_at": NOON + 4,
        "saved_at": NOON + 5,
    }
    return Attempt(job_id, number, Stage.COMPLETED, **known | {"cost": cost} | fields)


def failed(job_id: str, number: int = 1, cost: str | None = None, **fields: Any) -> Attempt:
    """Make an attempt that failed, unbilled unless it says otherwise."""
    known = {
        "error_class": "generation_error",
        "error_code": "003011095",
        "error_message": "Internal generation error",
        "may_have_been_billed": False,
        "sent_at": NOON - 3600,
        "completed_at": NOON - 3590,
    }
    return Attempt(job_id, number, Stage.FAILED, **known | {"cost": cost} | fields)


def ambiguous(job_id: str, number: int = 1, reserved: str | None = "0.03", **fields: Any) -> Attempt:
    """Make an attempt that may have been taken."""
    known = {
        "error_class": "no_answer",
        "error_message": "no answer after 60 s",
        "may_have_been_billed": True,
        "sent_at": NOON,
    }
    return Attempt(job_id, number, Stage.AMBIGUOUS, reserved=reserved, **known | fields)


def results(
    jobs: Sequence[str | None], attempts: Sequence[Attempt], index: Any = None, **user: Any
) -> pd.DataFrame:
    """Lay attempts beside rows, one per job id; None is a row that can't be submitted."""
    frames = _rows(jobs)
    table = pd.DataFrame(user, index=pd.RangeIndex(len(jobs)) if index is None else index)
    return frame.assemble(table, frames, to_arrow(State(attempts)))


def history_of(
    jobs: Sequence[str | None], attempts: Sequence[Attempt], index: Any = None, **user: Any
) -> History:
    """Give what the ledger of one directory tells."""
    part = history.from_ledger(results(jobs, attempts, index, **user), ledger(attempts))
    return history.concatenated({"runs/a": part})


def ledger(attempts: Sequence[Attempt]) -> pd.DataFrame:
    """Lay attempts out as a ledger does."""
    return to_frame(to_arrow(State(attempts)))


def _rows(jobs: Sequence[str | None]) -> pd.DataFrame:
    firsts: dict[str, int] = {}
    duplicate_of = [
        None if job is None or firsts.setdefault(job, place) == place else firsts[job]
        for place, job in enumerate(jobs)
    ]
    rows = pd.DataFrame(
        {
            columns.JOB_ID: pd.Series(jobs, dtype="str"),
            columns.DUPLICATE_OF: pd.array(duplicate_of, dtype="Int64"),
            columns.SEED_SENT: pd.array([None] * len(jobs), dtype="Int64"),
        }
    )
    is_invalid = rows[columns.JOB_ID].isna()
    for name, text in {
        columns.ERROR_CLASS: "invalid",
        columns.ERROR_CODE: "prompt_missing",
        columns.ERROR_MESSAGE: "The prompt is missing.",
    }.items():
        rows[name] = pd.Series([text] * len(jobs), dtype="str").where(is_invalid)
    return rows
