"""Shards beside one directory: reading a million rows, and buying with one process and with two."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import bench_load
from report import Figure, best_of, show

import dreamo_batch as dreamo
from dreamo_batch.engine.checkpoint import write_jobs
from dreamo_batch.engine.directory import N_SHARDS, Manifest, RunDirectory, shard_of
from dreamo_batch.engine.ledger import Ledger
from dreamo_batch.jobs.prepare import Job
from dreamo_batch.jobs.references import ImageSource

_N = 1_000_000
_N_BOUGHT = 400


def main() -> None:
    """Read the same attempts from one checkpoint and from 64, then buy the same table in each way."""
    with tempfile.TemporaryDirectory() as folder:
        one, parted = RunDirectory(Path(folder) / "one"), RunDirectory(Path(folder) / "parted")
        _build(one, parted)
        baseline = best_of(3, lambda: dreamo.load(one.path))
        shards = best_of(3, lambda: dreamo.load(parted.path))
        assert len(dreamo.load(parted.path)) == _N
        show(
            Figure(
                f"load() of {_N:,} rows in {N_SHARDS} shards / in one directory",
                f"{shards:.2f} s",
                shards / baseline,
                "<= 3",
            )
        )
    with dreamo.LocalGateway(engine="flat") as gateway:
        baseline = _bought_in(gateway, None)
        for n in (1, 2):
            took = _bought_in(gateway, n)
            name = f"rows a second in shards, {n} process{'es' if n > 1 else ''} / in one directory"
            show(Figure(name, f"{_N_BOUGHT / took:.1f}", baseline / took))


def _build(one: RunDirectory, parted: RunDirectory) -> None:
    image = ImageSource("file", "data/mascot.png", "0" * 64, "data/mascot.png", "0" * 64)
    ids = [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(_N)]
    jobs = {job_id: Job(job_id, "on a beach", i, 1328, 1328, True, 0, image) for i, job_id in enumerate(ids)}
    of_shard: dict[str, list[Any]] = defaultdict(list)
    for i, job_id in enumerate(ids):
        of_shard[shard_of(job_id)].append(bench_load.attempt_of(job_id, i))
    parted.make()
    parted.write_manifest(Manifest("loopback", "0" * 32, n_shards=N_SHARDS))
    for directory, attempts in [
        (one, [attempt for several in of_shard.values() for attempt in several]),
        *((parted.shard(name), several) for name, several in of_shard.items()),
    ]:
        directory.lock()
        ledger = Ledger(directory, "loopback")
        for attempt in attempts:
            ledger.state.put(attempt)
        ledger.close(())
        directory.unlock()
    for directory in (one, parted):
        write_jobs(directory.jobs, *bench_load.tables_of(jobs), "bench")


def _bought_in(gateway: dreamo.LocalGateway, cluster: int | None) -> float:
    """Buy a table in a new directory; return the seconds that took."""
    jobs = dreamo.sweep(
        image="data/mascot.png", prompt="on a beach", seed=range(1, _N_BOUGHT + 1), use_rephraser=False
    )
    with tempfile.TemporaryDirectory() as folder:
        began_at = time.perf_counter()
        dreamo.run(
            jobs, Path(folder) / "run", gateway=gateway, cluster=cluster, max_in_flight=32, progress=False
        )
        return time.perf_counter() - began_at
