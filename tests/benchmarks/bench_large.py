"""A table of 100,000 rows and instant tasks through the real client: checkpoints, memory, files, the call again."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from unittest import mock

from gateway import instant_service
from PIL import Image
from report import Figure, show

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.engine.checkpoint import NAME
from dreamo_batch.engine.ledger import Ledger

_N = 100_000


def main() -> None:
    """Run the table, watch what grows, and run it again."""
    with tempfile.TemporaryDirectory() as folder, instant_service() as served:
        Image.effect_noise((256, 256), 60).convert("RGB").save(f"{folder}/reference.png")
        jobs = dreamo.sweep(
            image=f"{folder}/reference.png", prompt="on a beach", seed=range(1, _N + 1), size="512x512"
        )
        how = {"base_url": served.base_url, "api_key": served.api_key, "download": False}
        spent: list[float] = []
        began, cpu_s = time.perf_counter(), time.process_time()
        with mock.patch.object(Ledger, "checkpoint", _timed(Ledger.checkpoint, spent)):
            live = dreamo.start(jobs, f"{folder}/run", max_in_flight=16, **how)
            marks = [_mark(live, folder, share) for share in (0.25, 0.5, 0.95)]
            done = live.wait(progress=False)
        assert (done[columns.STATUS] == columns.COMPLETED).all()
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
        name = f"{_N:,} instant tasks, 16 in flight"
        show(Figure(f"{name}: CPU a row", f"{1000 * cpu_s / _N:.2f} ms, {_N / seconds:.0f} rows/s"))
        share = sum(spent) / cpu_s
        show(Figure(f"... share of {len(spent)} checkpoints in it", f"{sum(spent):.1f} s", share, "<= 0.03"))
        (rows, memory, _), (_, _, half), (rows_later, memory_later, whole) = marks
        growth = (memory_later - memory) / (rows_later - rows)
        show(Figure("... memory that each further row takes", f"{growth / 1000:.2f} kB"))
        show(Figure("... growth of the checkpoint, from half to 95 % of the rows", f"{whole / half:.2f} x"))
        again = time.process_time()
        dreamo.run(jobs, f"{folder}/run", progress=False, **how)
        per_million = (time.process_time() - again) * 1e6 / _N
        show(
            Figure(
                "the finished call again, CPU for a million rows / 20 s",
                f"{per_million:.1f} s",
                per_million / 20,
                "<= 1",
            )
        )


def _timed(checkpoint, spent: list[float]):
    def timed(ledger: Ledger, pending) -> None:
        began = time.thread_time()
        checkpoint(ledger, pending)
        spent.append(time.thread_time() - began)

    return timed


def _mark(live: dreamo.Batch, folder: str, share: float) -> tuple[int, int, int]:
    """Wait for a share of the rows; return how many are settled, and the bytes of memory and checkpoint."""
    while live.status.n_settled < share * _N:
        time.sleep(0.2)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    return live.status.n_settled, resident, (Path(folder) / "run" / NAME).stat().st_size
