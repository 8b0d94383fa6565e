"""dreamo_batch as its README says: one call, and the same call again."""

from __future__ import annotations

import os
import sys

import dreamo_batch as dreamo

jobs = dreamo.read_table("jobs.csv").assign(size="512x512")
done = dreamo.run(
    jobs, "run", base_url=os.environ["SERVICE_URL"], api_key=os.environ["SERVICE_KEY"], max_in_flight=6
)
done["picture"] = "run/" + done["output_path"]
dreamo.write_table(done, "results.csv")
sys.exit(bool(done["picture"].isna().any()))
