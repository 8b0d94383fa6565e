"""requests + tenacity, written with care: every request is retried by itself, and a picture on disk is not drawn again.

`stop_after_attempt`, `wait_exponential` and `retry_if_exception_type` as in tenacity's examples. Pictures are named by
what was submitted and moved into place whole; Ctrl-C drops what is queued, with `shutdown(cancel_futures=True)` of
Python's `concurrent.futures`.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import requests
import service
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

again = retry(
    retry=retry_if_exception_type(requests.RequestException),
    stop=stop_after_attempt(5),
    wait=wait_exponential(multiplier=0.5, max=10),
)
create = again(service.create)
poll = again(service.poll)
save = again(service.save)


def draw(row: Any) -> str | None:
    path = Path("pictures") / f"{row.prompt.replace(' ', '-')}-{row.seed}.jpg"
    if not path.exists():
        part = path.with_suffix(".part")
        try:
            save(service.wait(create(row.image, row.prompt, row.seed), poll), part)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other rows are to go on
            print(f"{row} failed: {error}", file=sys.stderr)
            return None
        part.rename(path)
    return str(path)


jobs = pd.read_csv("jobs.csv")
pool = ThreadPoolExecutor(max_workers=service.N_WORKERS)
try:
    pictures = list(pool.map(draw, jobs.itertuples()))
finally:
    pool.shutdown(cancel_futures=True)
jobs.assign(picture=pictures).to_csv("results.csv", index=False)
sys.exit(None in pictures)
