"""What a first use waits for, in CPU seconds of fresh interpreters: imports, help, status, a check, a first picture."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from report import Figure, show

import dreamo_batch as dreamo
from dreamo_batch.gateway.engines import DrawRequest, engine_named

_USED = "import dreamo_batch as d; d.run, d.sweep, d.validate, d.plan, d.load"
_VALIDATED = """
import sys, time
import dreamo_batch as d
images = sys.argv[1:]
jobs = d.sweep(image=images, prompt=["on a beach", "in the snow"], seed=range(1, 335), use_rephraser=False).head(2000)
d.validate
start = time.process_time()
assert len(d.validate(jobs)) == 0
print(time.process_time() - start)
"""
_N_PICTURES = 10


def main() -> None:
    """Measure each as the least of five runs."""
    nothing = _cpu_s("-c", "pass")
    pandas = _cpu_s("-c", "import pandas") - nothing
    package = _cpu_s("-c", "import dreamo_batch")
    show(
        Figure(
            "`import dreamo_batch`, CPU / 0.25 s",
            f"{package:.2f} s",
            package / 0.25,
            "<= 1",
        )
    )
    used = _cpu_s("-c", _USED) - nothing
    show(
        Figure(
            "... and of touching run, sweep, validate, plan, load / import pandas",
            f"{used:.2f} s",
            used / pandas,
        )
    )
    help_s = _cpu_s("-m", "dreamo_batch", "--help")
    show(Figure("`dreamo-batch --help` / 0.25 s", f"{help_s:.2f} s", help_s / 0.25, "<= 1"))
    with tempfile.TemporaryDirectory() as folder:
        images = [str(_picture(Path(folder) / f"{number}.png", number)) for number in range(3)]
        jobs = dreamo.sweep(image=images, prompt="on a beach", seed=[1, 2], size="512x512")
        dreamo.run(jobs, f"{folder}/run", gateway="local", progress=False)
        status = _cpu_s("-m", "dreamo_batch", "status", f"{folder}/run")
        show(Figure("`dreamo-batch status` / 0.6 s", f"{status:.2f} s", status / 0.6, "<= 1"))
        show(Figure("... / import pandas", f"{status:.2f} s", status / pandas))
        out = [subprocess.check_output([sys.executable, "-c", _VALIDATED, *images]) for _ in range(3)]
        checked = min(map(float, out))
        name = "`validate` of 2,000 rows with 3 pictures of 1328x1328 / 0.3 s"
        show(Figure(name, f"{checked:.2f} s", checked / 0.3, "<= 1"))
        _draw(Path(images[0]).read_bytes())


def _draw(reference: bytes) -> None:
    engine = engine_named("preview")
    start = time.process_time()
    for seed in range(_N_PICTURES):
        engine.generate(DrawRequest("a fox on a beach", seed, 1328, 1328, False), reference)
    rate = 2 * _N_PICTURES / (time.process_time() - start)
    show(
        Figure(
            "pictures of 1328x1328 by the local gateway, two cores",
            f"{rate:.0f} a second",
            None,
            ">= 10",
        )
    )


def _picture(path: Path, number: int) -> Path:
    Image.effect_noise((1328, 1328), 40 + number).convert("RGB").save(path)
    return path


def _cpu_s(*arguments: str) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds = []
    for _ in range(5):
        before = sum(os.times()[2:4])
        subprocess.run([sys.executable, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL)
        seconds.append(sum(os.times()[2:4]) - before)
    return min(seconds)
