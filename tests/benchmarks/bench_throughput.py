"""Rows a second with instant tasks, against bare `requests` sessions making the same calls."""

from __future__ import annotations

import base64
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from gateway import Gateway, gateway
from PIL import Image
from report import Figure, show, timed

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.service import contract

_N = 3000
_THREADS = 16


def main() -> None:
    """Measure both twice, in turn, and compare the better ones."""
    ours, bare = [], []
    for _ in range(2):
        ours.append(_ours())
        bare.append(_bare())
    rate = _N / min(ours)
    name = f"rows a second, {_N:,} instant tasks, journal on / bare sessions, {_THREADS} threads"
    show(Figure(name, f"{rate:.0f} rows/s", min(bare) / min(ours), ">= 1.15"))


def _reference(folder: str) -> Path:
    path = Path(folder) / "reference.png"
    Image.effect_noise((256, 256), 60).convert("RGB").save(path)
    return path


def _ours() -> float:
    with tempfile.TemporaryDirectory() as folder, gateway() as served:
        jobs = dreamo.sweep(
            image=str(_reference(folder)), prompt="on a beach", seed=range(_N), size="512x512"
        )
        service = {"base_url": served.base_url, "api_key": served.api_key}
        with timed() as timer:
            done = dreamo.run(
                jobs, f"{folder}/run", **service, max_in_flight=64, download=False, progress=False
            )
        assert (done[columns.STATUS] == columns.COMPLETED).all()
    return timer.seconds


def _bare() -> float:
    with tempfile.TemporaryDirectory() as folder, gateway() as served:
        image = base64.b64encode(_reference(folder).read_bytes()).decode()
        local = threading.local()
        with ThreadPoolExecutor(_THREADS) as pool, timed() as timer:
            list(pool.map(lambda seed: _attempt(served, image, seed, local), range(_N)))
    return timer.seconds


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
