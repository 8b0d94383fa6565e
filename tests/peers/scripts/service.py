"""The service in three requests, as one writes them with `requests`; shared by the scripts of the other tools."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import requests

if TYPE_CHECKING:
    from collections.abc import Callable

N_WORKERS = 6
POLL_EVERY_S = 0.5
TIMEOUT_S = 60
URL = os.environ["SERVICE_URL"] + "/model/v1/generation"
HEADERS = {"Authorization": f"Bearer {os.environ['SERVICE_KEY']}"}


def draw(image: str, prompt: str, seed: int) -> str:
    """Attempt one picture, wait for it, save it, and give its path."""
    task_id = create(image, prompt, seed)
    return save(wait(task_id), Path("pictures") / f"{task_id}.jpg")


def create(image: str, prompt: str, seed: int) -> str:
    content = base64.b64encode(Path(image).read_bytes()).decode()
    params = {
        "prompt": prompt,
        "seed": int(seed),
        "width": 512,
        "height": 512,
        "binary_data_base64": [content],
    }
    body = {"model": "spark_dreamo", "input": [{"params": params}]}
    answer = requests.post(URL, json=body, headers=HEADERS, timeout=TIMEOUT_S)
    answer.raise_for_status()
    return answer.json()["id"]


def poll(task_id: str) -> dict:
    answer = requests.get(f"{URL}/task/{task_id}", headers=HEADERS, timeout=TIMEOUT_S)
    answer.raise_for_status()
    return answer.json()


def wait(task_id: str, poll: Callable[[str], dict] = poll) -> str:
    while (task := poll(task_id))["status"] == "in_progress":
        time.sleep(POLL_EVERY_S)
    if task["status"] != "completed":
        raise RuntimeError(f"Task {task_id} ended as {task['status']}: {task.get('error')}")
    return task["output"][0]["content"][0]["url"]


def save(url: str, path: Path) -> str:
    answer = requests.get(url, timeout=TIMEOUT_S)
    answer.raise_for_status()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(answer.content)
    return str(path)
