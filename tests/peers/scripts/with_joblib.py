"""joblib: "Checkpoint using joblib.Memory and joblib.Parallel" of its gallery, with threads.

`prefer="threads"` is what "Thread-based parallelism vs process-based parallelism" of its guide advises for work
that waits.
"""

from __future__ import annotations

import pandas as pd
import service
from joblib import Memory, Parallel, delayed

draw = Memory("cache", verbose=0).cache(service.draw)

jobs = pd.read_csv("jobs.csv")
calls = (delayed(draw)(row.image, row.prompt, row.seed) for row in jobs.itertuples())
pictures = Parallel(n_jobs=service.N_WORKERS, prefer="threads")(calls)
jobs.assign(picture=pictures).to_csv("results.csv", index=False)
