"""Reading the results of a million rows, against reading the checkpoint with plain pandas."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
from report import Figure, best_of, show

from dreamo_batch import columns, load
from dreamo_batch.engine.attempts import Attempt, Event, EventKind, Stage
from dreamo_batch.engine.checkpoint import NAME, ROWS, write_frame, write_jobs
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.ledger import Ledger
from dreamo_batch.jobs.prepare import Job, Prepared
from dreamo_batch.jobs.references import ImageSource

_N = 1_000_000


def main() -> None:
    """Build a run directory of a million completed rows and read it back, finished and unfinished."""
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(folder)
        _build(directory)
        plain = best_of(3, lambda: pd.read_parquet(Path(folder) / NAME))
        composed = best_of(3, lambda: load(folder))
        frame = load(folder)
        assert len(frame) == _N
        assert (frame[columns.STATUS] == columns.COMPLETED).sum() == _N - 1
        name = (
            f"load() of {_N:,} rows, an unfinished run with a journal tail / read_parquet of the checkpoint"
        )
        show(Figure(name, f"{composed:.2f} s", composed / plain, "<= 5"))
        _finish(directory, frame)
        finished = best_of(3, lambda: load(folder))
        show(Figure("... of a finished run", f"{finished:.2f} s", finished / plain, "<= 5"))


def _build(directory: RunDirectory) -> None:
    directory.lock()
    ledger = Ledger(directory, "loopback")
    image = ImageSource("file", "data/mascot.png", "0" * 64, "data/mascot.png", "0" * 64)
    jobs = {f"{i:032x}": Job(f"{i:032x}", "on a beach", i, 1328, 1328, True, 0, image) for i in range(_N)}
    for i, job_id in enumerate(jobs):
        ledger.state.put(attempt_of(job_id, i))
    ledger.checkpoint(())
    last = f"{_N - 1:032x}"
    ledger.record([Event(EventKind.SENDING, last, 2, 1_790_000_000.0, {"reserved": "0.03"})])
    ledger.commit()
    write_jobs(directory.jobs, *tables_of(jobs), "bench")
    directory.update_manifest(table_id="bench")
    ledger.abandon()
    directory.unlock()


def attempt_of(job_id: str, i: int) -> Attempt:
    """Return an attempt that completed."""
    return Attempt(
        job_id,
        1,
        Stage.COMPLETED,
        task_id=f"d{i:019d}",
        seed_sent=i,
        reserved="0.03",
        cost="0.028571428571",
        discount="1",
        output_url=f"https://files.example/{i}.jpg",
        output_path=f"images/{job_id}.jpg",
        output_sha256="0" * 64,
        output_bytes=250_000,
        output_width=1328,
        output_height=1328,
        may_have_been_billed=False,
        sent_at=1_790_000_000.0 + i,
        answered_at=1_790_000_000.1 + i,
        completed_at=1_790_000_003.0 + i,
        saved_at=1_790_000_003.2 + i,
        n_polls=4,
    )


def tables_of(jobs: dict[str, Job]) -> tuple[pd.DataFrame, Prepared]:
    """Return the user's table of jobs, and what was decided for it."""
    user = pd.DataFrame({"image": "data/mascot.png", "prompt": "on a beach", "seed": range(len(jobs))})
    rows = pd.DataFrame({columns.JOB_ID: list(jobs), columns.SEED_SENT: range(len(jobs))})
    rows = rows.reindex(columns=list(ROWS)).astype(ROWS)
    return user, Prepared(jobs, rows, pd.DataFrame(columns=list(columns.PROBLEMS)))


def _finish(directory: RunDirectory, frame: pd.DataFrame) -> None:
    directory.lock()
    ledger = Ledger(directory, "loopback")
    ledger.close(())
    meta = {"table_id": "bench", "generation": ledger.generation, "covers": ledger.covers}
    write_frame(directory.results, frame, meta)
    directory.unlock()
