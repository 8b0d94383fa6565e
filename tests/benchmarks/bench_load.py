"""Reading the results of a million rows, against reading the checkpoint with plain pandas."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
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
# The most that a run may have done since its last checkpoint: a quarter of an event per row, of four each.
_N_STORED = _N - _N // 16


def main() -> None:
    """Build a run directory of a million completed rows and read it back, finished and unfinished."""
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(folder)
        _build(directory)
        plain = best_of(3, lambda: pd.read_parquet(Path(folder) / NAME))
        composed = best_of(3, lambda: load(folder))
        frame = load(folder)
        assert len(frame) == _N
        assert (frame[columns.STATUS] == columns.COMPLETED).all()
        name = (
            f"load() of {_N:,} rows, an unfinished run with a journal tail / read_parquet of the checkpoint"
        )
        show(Figure(name, f"{composed:.2f} s", composed / plain, "<= 3"))
        _finish(directory, frame)
        finished = best_of(3, lambda: load(folder))
        show(Figure("... of a finished run", f"{finished:.2f} s", finished / plain, "<= 3"))


def _build(directory: RunDirectory) -> None:
    directory.lock()
    ledger = Ledger(directory, "loopback")
    image = ImageSource("file", "data/mascot.png", "0" * 64, "data/mascot.png", "0" * 64)
    jobs = {f"{i:032x}": Job(f"{i:032x}", "on a beach", i, 1328, 1328, True, 0, image) for i in range(_N)}
    for i, job_id in zip(range(_N_STORED), jobs, strict=False):
        ledger.state.put(attempt_of(job_id, i))
    ledger.checkpoint(jobs)
    for i, job_id in enumerate(jobs):
        if i >= _N_STORED:
            ledger.record(_events(attempt_of(job_id, i)))
    ledger.commit()
    write_jobs(directory.jobs, *tables_of(jobs), "bench")
    directory.update_manifest(table_id="bench")
    ledger.abandon()
    directory.unlock()


def _events(attempt: Attempt) -> list[Event]:
    """Return what a run records of an attempt that completed."""
    told = {name: value for name, value in asdict(attempt).items() if value is not None}
    of_kind = {
        EventKind.SENDING: ("sent_at", ("seed_sent", "reserved", "inputs")),
        EventKind.ACCEPTED: ("answered_at", ("task_id",)),
        EventKind.COMPLETED: ("completed_at", ("output_url", "cost", "discount", "metadata", "n_polls")),
        EventKind.SAVED: ("saved_at", ("output_path", "output_sha256", "output_bytes")),
    }
    return [
        Event(kind, attempt.job_id, 1, told[at], {name: told[name] for name in names})
        for kind, (at, names) in of_kind.items()
    ]


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
        metadata='{"in_queue_at":0.1,"started_at":0.4,"completed_at":3.0}',
        inputs=json.dumps(
            {
                columns.ROW: str(i),
                columns.PROMPT: "on a beach",
                columns.IMAGE_SOURCE: "/home/user/data/mascot.png",
                columns.IMAGE_DIGEST: "0" * 64,
                columns.SEED_SENT: i,
                columns.WIDTH: 1328,
                columns.HEIGHT: 1328,
                columns.USE_REPHRASER: True,
                columns.REPLICATE: 0,
                columns.MODEL: "DreamO",
                "columns": {columns.IMAGE: "data/mascot.png", columns.PROMPT: "on a beach", columns.SEED: i},
            }
        ),
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
