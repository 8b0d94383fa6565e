"""Rows a second with instant tasks, against bare `requests` sessions making the same calls."""

from __future__ import annotations

import base64
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from gateway import Gateway, instant_service
from PIL import Image
from report import Figure, show, timed

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.service import contract

_N = 1500
_IN_FLIGHT = 16
_PAIRS = 3


def main() -> None:
    """Measure both several times, in turn, and compare the best ones."""
    pairs = [(_ours(), _bare()) for _ in range(_PAIRS)]
    ours, bare = (tuple(map(min, *runs)) for runs in zip(*pairs, strict=True))
    name = f"{_N:,} instant tasks, {_IN_FLIGHT} in flight, journal on / bare sessions"
    show(Figure(f"rows a second, {name}", f"{_N / ours[0]:.0f} rows/s", bare[0] / ours[0], ">= 1.5"))
    show(Figure(f"CPU a row, {name}", f"{1000 * ours[1] / _N:.2f} ms", ours[1] / bare[1], "<= 0.53"))


def _reference(folder: str) -> Path:
    path = Path(folder) / "reference.png"
    Image.effect_noise((256, 256), 60).convert("RGB").save(path)
    return path


def _ours() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder, instant_service() as served:
        jobs = dreamo.sweep(
            image=str(_reference(folder)), prompt="on a beach", seed=range(1, _N + 1), size="512x512"
        )
        service = {"base_url": served.base_url, "api_key": served.api_key}
        options = {"max_in_flight": _IN_FLIGHT, "download": False, "progress": False}
        cpu_s = time.process_time()
        with timed() as timer:
            done = dreamo.run(jobs, f"{folder}/run", **service, **options)
        cpu_s = time.process_time() - cpu_s
        assert (done[columns.STATUS] == columns.COMPLETED).all()
    return timer.seconds, cpu_s


def _bare() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder, instant_service() as served:
        image = base64.b64encode(_reference(folder).read_bytes()).decode()
        local = threading.local()
        cpu_s = time.process_time()
        with ThreadPoolExecutor(_IN_FLIGHT) as pool, timed() as timer:
            list(pool.map(lambda seed: _attempt(served, image, seed, local), range(_N)))
        cpu_s = time.process_time() - cpu_s
    return timer.seconds, cpu_s


def _attempt(served: Gateway, image: str, seed: int, local: threading.local) -> None:
    if not hasattr(local, "session"):
        local.session = requests.Session()
        local.session.headers["Authorization"] = f"Bearer {served.api_key}"
    params = {"prompt": "on a beach", "binary_data_base64": [image], "seed": seed, "use_rephraser": True}
    body = {"model": contract.MODEL, "input": [{"params": {**params, "width": 512, "height": 512}}]}
    url = served.base_url + contract.CREATE_PATH.value
    created = local.session.post(url, json=body, timeout=(5, 60)).json()
    task_url = served.base_url + contract.TASK_PATH.value.format(task_id=created["id"])
    while local.session.get(task_url, timeout=(5, 60)).json()["status"] != "completed":
        continue
