"""The "ThreadPoolExecutor Example" of Python's documentation, with a CSV file that a second run goes on from.

Rows are known by prompt and seed, not by their place, and each is written as soon as it is done.
"""

from __future__ import annotations

import csv
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import requests
from service import N_WORKERS, draw

RESULTS = Path("results.csv")


def key(row: dict[str, str]) -> tuple[str, str]:
    return row["prompt"], row["seed"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


done = {key(row) for row in read(RESULTS)} if RESULTS.exists() else set()
to_do = [row for row in read(Path("jobs.csv")) if key(row) not in done]
n_failed = 0
with RESULTS.open("a", newline="", encoding="utf-8") as file:
    writer = csv.DictWriter(file, ["Index", "image", "prompt", "seed", "picture"])
    if file.tell() == 0:
        writer.writeheader()
    with ThreadPoolExecutor(max_workers=N_WORKERS) as pool:
        futures = {pool.submit(draw, row["image"], row["prompt"], int(row["seed"])): row for row in to_do}
        for future in as_completed(futures):
            try:
                writer.writerow({**futures[future], "picture": future.result()})
                file.flush()
            except (requests.RequestException, RuntimeError) as error:
                n_failed += 1
                print(f"{futures[future]} failed: {error}", file=sys.stderr)
sys.exit(n_failed > 0)
