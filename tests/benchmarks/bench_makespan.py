"""Makespan of 1,000 tasks of log-normal latency, against the least that their latencies allow."""

from __future__ import annotations

import heapq
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from gateway import Gateway, gateway, instant_service
from PIL import Image
from report import Figure, show

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.engine import checkpoint

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_N = 1000
_MEDIAN_S, _SIGMA = 2.65, 0.5  # a mean of 3 s


def main() -> None:
    """Measure with as many tasks at once as there are, with 50, and with more than a service works on at once."""
    name, target = "1,000 tasks, no limit", "<= 1.04, <= 1.6 polls"
    # How late the longest task is sent decides, so several draws are taken.
    light = [instant_service(math.log(_MEDIAN_S), _SIGMA, seed) for seed in (1, 2, 3)]
    _measure(f"{name}, a light service, three draws", target, *light, max_in_flight=_N)
    _measure(f"{name} at the gateway", target, _gateway(), max_in_flight=_N)
    served = _gateway(max_concurrent=50)
    _measure("1,000 tasks, 50 at once at the gateway", "<= 1.04, <= 8 polls", served, max_in_flight=50)
    served = _gateway(max_concurrent=50, when_full="queue")
    name = "1,000 tasks, 60 in flight, 50 at once at the gateway"
    _measure(name, "<= 1.01", served, max_in_flight=60, slots=50)


def _gateway(**limits: object) -> AbstractContextManager[Gateway]:
    return gateway(latency=f"lognormal:{_MEDIAN_S},{_SIGMA}", **limits)


def _measure(
    name: str,
    target: str,
    *services: AbstractContextManager[Gateway],
    max_in_flight: int,
    slots: int | None = None,
) -> None:
    runs = [_run(service, max_in_flight, slots or max_in_flight) for service in services]
    took, ideal, polls = (sum(figures) / len(runs) for figures in zip(*runs, strict=True))
    show(Figure(f"makespan, {name} / ideal", f"{took:.2f} s, {polls:.1f} polls a task", took / ideal, target))


def _run(
    service: AbstractContextManager[Gateway], max_in_flight: int, slots: int
) -> tuple[float, float, float]:
    """Return the seconds that the tasks took, the least that they can take, and the polls of a task."""
    with tempfile.TemporaryDirectory() as folder, service as served:
        path = Path(folder) / "reference.png"
        Image.new("RGB", (64, 64), "orange").save(path)
        jobs = dreamo.sweep(image=str(path), prompt="on a beach", seed=range(1, _N + 1), size="512x512")
        where = {"base_url": served.base_url, "api_key": served.api_key, "unit_cost": 0.0286}
        done = dreamo.run(
            jobs, f"{folder}/run", **where, max_in_flight=max_in_flight, download=False, progress=False
        )
        assert (done[columns.STATUS] == columns.COMPLETED).all()
        took = (done[columns.COMPLETED_AT].max() - done[columns.SUBMITTED_AT].min()).total_seconds()
        n_polls = checkpoint.read(Path(folder) / "run" / checkpoint.NAME)[0].column(columns.N_POLLS)
        return took, _ideal(served, slots), sum(n_polls.to_pylist()) / _N


def _ideal(served: Gateway, slots: int) -> float:
    """Seconds that the same latencies take in the same order when a freed place is filled at once."""
    headers = {"Authorization": f"Bearer {served.api_key}"}
    lines = requests.get(f"{served.base_url}/local/invoice", headers=headers, timeout=30).json()["tasks"]
    free = [0.0] * slots
    for line in sorted(lines, key=lambda line: line["accepted_at"]):
        heapq.heappush(free, heapq.heappop(free) + line["latency_s"])
    return max(free)
