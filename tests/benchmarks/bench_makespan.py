"""Makespan of 1,000 tasks of log-normal latency, against the least that their latencies allow."""

from __future__ import annotations

import heapq
import tempfile
from pathlib import Path
from typing import Any

import requests
from gateway import Gateway, gateway
from PIL import Image
from report import Figure, show

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.engine import checkpoint

_N = 1000
_LATENCY = "lognormal:2.65,0.5"  # median and sigma: a mean of 3 s


def main() -> None:
    """Measure with as many tasks at once as there are, with 50, and with more than a service works on at once."""
    _measure("1,000 tasks, no limit at the gateway", "<= 1.04, <= 1.6 polls", max_in_flight=_N)
    _measure(
        "1,000 tasks, 50 at once at the gateway", "<= 1.04, <= 8 polls", max_in_flight=50, max_concurrent=50
    )
    queue = {"max_concurrent": 50, "when_full": "queue"}
    name = "1,000 tasks, 60 in flight, 50 at once at the gateway"
    _measure(name, "<= 1.01", max_in_flight=60, slots=50, **queue)


def _measure(name: str, target: str, *, max_in_flight: int, slots: int | None = None, **limits: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, gateway(latency=_LATENCY, **limits) as served:
        path = Path(folder) / "reference.png"
        Image.new("RGB", (64, 64), "orange").save(path)
        jobs = dreamo.sweep(image=str(path), prompt="on a beach", seed=range(1, _N + 1), size="512x512")
        service = {"base_url": served.base_url, "api_key": served.api_key}
        done = dreamo.run(
            jobs, f"{folder}/run", **service, max_in_flight=max_in_flight, download=False, progress=False
        )
        assert (done[columns.STATUS] == columns.COMPLETED).all()
        took = (done[columns.COMPLETED_AT].max() - done[columns.SUBMITTED_AT].min()).total_seconds()
        ideal = _ideal(served, slots or max_in_flight)
        n_polls = checkpoint.read_table(Path(folder) / "run" / checkpoint.NAME)[0].column(columns.N_POLLS)
    polls = sum(n_polls.to_pylist()) / _N
    show(Figure(f"makespan, {name} / ideal", f"{took:.2f} s, {polls:.1f} polls a task", took / ideal, target))


def _ideal(served: Gateway, slots: int) -> float:
    """Seconds that the same latencies take in the same order when a freed place is filled at once."""
    headers = {"Authorization": f"Bearer {served.api_key}"}
    lines = requests.get(f"{served.base_url}/local/invoice", headers=headers, timeout=30).json()["tasks"]
    free = [0.0] * slots
    for line in sorted(lines, key=lambda line: line["accepted_at"]):
        heapq.heappush(free, heapq.heappop(free) + line["latency_s"])
    return max(free)
