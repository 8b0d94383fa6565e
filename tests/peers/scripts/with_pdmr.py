"""pdmr as the "Usage" of its project page says: a function of index and columns, and a column of ids as the index.

`use_async=True` gives threads, right for requests; a checkpoint after every row is the safest setting, and `run`
goes on from the checkpoints that it finds.
"""

from __future__ import annotations

import sys

import pandas as pd
from pdmr import PandasMultiprocessRunner
from service import N_WORKERS, draw


def process(_index: int, image: str, prompt: str, seed: int) -> str:
    return draw(image, prompt, seed)


jobs = pd.read_csv("jobs.csv").set_index("Index")
runner = PandasMultiprocessRunner(
    process, jobs, checkpoint_interval=1, output_dir="results", max_workers=N_WORKERS, use_async=True
)
results = runner.run("image", "prompt", "seed").set_index("index")
jobs = jobs.join(results["result"].rename("picture"))
jobs.to_csv("results.csv")
sys.exit(bool(jobs["picture"].isna().any()))
