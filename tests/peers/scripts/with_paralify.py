"""paralify as its project page says: `resume()` goes on after a crash, and starts from scratch if there is nothing.

"Crash-safe resume()" of the page: same input, same output file. A checkpoint after every item, the safest setting,
since every item is paid for; retries are left as they come.
"""

from __future__ import annotations

import sys

import pandas as pd
from paralify import ParallelProcessor
from service import N_WORKERS, draw


def process(row: dict) -> str:
    return draw(row["image"], row["prompt"], row["seed"])


jobs = pd.read_csv("jobs.csv")
processor = ParallelProcessor(
    data=jobs,
    process_fn=process,
    output_file="results.pkl",
    n_workers=N_WORKERS,
    max_retries=5,
    retry_wait_seconds=1,
    save_every=1,
)
pictures = [result if isinstance(result, str) else None for result in processor.resume()]
jobs.assign(picture=pictures).to_csv("results.csv", index=False)
sys.exit(None in pictures)
