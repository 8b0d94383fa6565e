"""Quotas of a gateway: how many requests are refused once they are known, and how far they are used."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import requests
from gateway import Gateway, gateway
from PIL import Image
from report import Figure, show

import dreamo_batch as dreamo
from dreamo_batch.service.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

_ASKS = ("none", "seconds")
_WARM_UP = 0.25  # of the time in which there is something to submit, or to ask


def main() -> None:
    """Measure caps on tasks and on requests, with and without Retry-After."""
    for asks in _ASKS:
        for n_most, n_rows, latency in ((1, 30, 0.9), (2, 60, 0.9), (10, 300, 0.9), (50, 1000, 2.65)):
            _tasks(n_most, n_rows, latency=f"lognormal:{latency},0.5", retry_after=asks)
        for rate in (10, 50):
            _requests(rate, 30 * rate, retry_after=asks)


def _tasks(n_most: int, n_rows: int, **options: Any) -> None:
    limits = {"max_concurrent": n_most, "when_full": "refuse", **options}
    with gateway(**limits) as served:
        asked = _run(served, n_rows)
        spans = [(line["accepted_at"], line["latency_s"]) for line in _invoice(served)]
    since, until = _middle([at for at, _ in spans])
    busy_s = sum(max(min(at + s, until) - max(at, since), 0.0) for at, s in spans)
    used = busy_s / (until - since) / n_most
    name = f"{n_most} task{'s' * (n_most != 1)} at once at the gateway, Retry-After: {options['retry_after']}"
    show(Figure(name, f"{_refused(asked):.2%} answered 429, {used:.1%} used", used, ">= 0.9, < 1 %"))


def _requests(rate: int, n_rows: int, **options: Any) -> None:
    with gateway(max_requests_per_s=rate, latency="fixed:1", **options) as served:
        asked = _run(served, n_rows)
    since, until = _middle([at for at, _ in asked])
    n_answered = sum(since <= at < until and status != requests.codes.too_many for at, status in asked)
    used = n_answered / (until - since) / rate
    name = f"{rate} requests a second at the gateway, Retry-After: {options['retry_after']}"
    show(Figure(name, f"{_refused(asked):.2%} answered 429, {used:.1%} used", used, ">= 0.9, < 1 %"))


def _run(served: Gateway, n_rows: int) -> list[tuple[float, int]]:
    """Work a table off, and give when each request was answered and how."""
    asked: list[tuple[float, int]] = []
    call = Client._call

    def recording(self: Client, *args: Any, **options: Any) -> Any:
        status = 200
        try:
            return call(self, *args, **options)
        except dreamo.ServiceError as error:
            status = error.failure.http_status or 0
            raise
        finally:
            asked.append((time.time(), status))

    with tempfile.TemporaryDirectory() as folder, patch.object(Client, "_call", recording):
        path = Path(folder) / "reference.png"
        Image.new("RGB", (64, 64), "orange").save(path)
        jobs = dreamo.sweep(image=str(path), prompt="on a beach", seed=range(1, n_rows + 1), size="512x512")
        service = {"base_url": served.base_url, "api_key": served.api_key}
        done = dreamo.run(jobs, f"{folder}/run", **service, max_in_flight=200, download=False, progress=False)
    assert (done["status"] == "completed").all()
    return asked


def _refused(asked: list[tuple[float, int]]) -> float:
    since, _ = _middle([at for at, _ in asked])
    statuses = [status for at, status in asked if at >= since]
    return statuses.count(requests.codes.too_many) / len(statuses)


def _middle(times: list[float]) -> tuple[float, float]:
    first, last = min(times), max(times)
    return first + _WARM_UP * (last - first), last


def _invoice(served: Gateway) -> Iterator[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {served.api_key}"}
    return requests.get(f"{served.base_url}/local/invoice", headers=headers, timeout=30).json()["tasks"]
