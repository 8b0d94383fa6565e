"""Peak memory of large runs, above the memory after import; each in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from gateway import gateway
from PIL import Image
from report import Figure, show

_RUN = """
import json, resource, sys, time
import dreamo_batch as dreamo
dreamo.start, dreamo.sweep, dreamo.load
def now_mb():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
given = json.loads(sys.argv[1])
start = now_mb()
jobs = dreamo.sweep(image=given["images"], prompt="on a beach", seed=range(1, given["n_seeds"] + 1), size="512x512")
live = dreamo.start(jobs, given["run_dir"], download=False, **given["options"])
n_most = 0
while not live.status.is_over:
    n_most = max(n_most, live.status.n_in_flight)
    time.sleep(0.1)
assert (live.wait(progress=False)["status"] == "completed").all()
# Not `ru_maxrss`: that begins with the memory of the process which started this one.
peak = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
print(json.dumps([peak - start, n_most]))
"""
_PICTURE_BYTES = 4_600_000


def main() -> None:
    """Measure 1,000 tasks in flight with the largest pictures, and a run of 100,000 rows."""
    with tempfile.TemporaryDirectory() as folder:
        images = [_picture(Path(folder) / f"{i}.png", i) for i in range(40)]
        # Long enough that the last is sent before the first has ended.
        peak, n_most = _peak(folder, images, 25, max_in_flight=1000, latency="fixed:60")
        name = f"peak memory, {n_most:,} of 1,000 in flight at once, with 4.6 MB pictures"
        show(Figure(name, f"{peak:.0f} MB", None, "<= 100 MB"))
        small = Path(folder) / "small.png"
        Image.new("RGB", (64, 64), "orange").save(small)
        peak, _ = _peak(folder, [str(small)], 100_000, max_in_flight=64, latency="instant")
        show(Figure("peak memory, a run of 100,000 rows", f"{peak:.0f} MB"))


def _peak(
    folder: str, images: list[str], n_seeds: int, *, max_in_flight: int, latency: str
) -> tuple[float, int]:
    """Return the peak in MB, and how many tasks were in flight at most."""
    with gateway(latency=latency) as served:
        options = {"base_url": served.base_url, "api_key": served.api_key, "max_in_flight": max_in_flight}
        given = {
            "images": images,
            "n_seeds": n_seeds,
            "run_dir": f"{folder}/run{n_seeds}",
            "options": options,
        }
        command = [sys.executable, "-c", _RUN, json.dumps(given)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak, n_most = json.loads(done.stdout)
    return peak, n_most


def _picture(path: Path, seed: int) -> str:
    """Write a picture of almost the largest size: noise does not compress."""
    side = 1238
    noise = Image.frombytes("RGB", (side, side), _noise(side * side * 3, seed))
    noise.save(path, compress_level=0)
    assert _PICTURE_BYTES - 100_000 < path.stat().st_size < _PICTURE_BYTES + 100_000
    return str(path)


def _noise(n_bytes: int, seed: int) -> bytes:
    import random

    return random.Random(seed).randbytes(n_bytes)
