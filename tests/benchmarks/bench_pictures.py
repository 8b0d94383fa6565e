"""Looking at many pictures: gallery, page, sheets, report, diversity, metrics, export, and what saving them costs.

The pictures are of 1328x1328 pixels and come from a run, so everything that a run keeps beside them is there. Targets
are set for 5,000 pictures and scaled to the number asked for: `DREAMO_PICTURES=5000 make bench`.
"""

from __future__ import annotations

import functools
import io
import os
import tempfile
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from PIL import Image
from report import Figure, Timer, show, timed

import dreamo_batch as dreamo
from dreamo_batch.engine import pictures
from dreamo_batch.gateway import LocalGateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from dreamo_batch.gateway.engines import DrawRequest

_N = int(os.environ.get("DREAMO_PICTURES", "200"))
_N_TARGET = 5_000
_LEAST_S = 1.5  # what a few pictures take: imports, fonts, charts
_N_PROMPTS = 10
_SIDE_PX = 1328
_MARGIN_PX = 256
_BUILT_IN = ("appearance", "colour", "shape")


class Photographs:
    """An engine whose pictures weigh, and decode, like photographs, and are all different."""

    name = "photographs"

    def generate(self, request: DrawRequest, reference: bytes) -> bytes:  # noqa: ARG002 - as an engine is called
        """Cut a picture out of one of a few scenes."""
        rng = np.random.default_rng(zlib.crc32(repr((request.prompt, request.seed)).encode()))
        left, top = rng.integers(0, _MARGIN_PX, 2)
        scene = _scene(int(rng.integers(0, 16)))
        picture = scene.crop((left, top, left + request.width, top + request.height))
        tint = Image.new("RGB", picture.size, tuple(rng.integers(0, 256, 3).tolist()))
        buffer = io.BytesIO()
        Image.blend(picture, tint, 0.2).save(buffer, "JPEG", quality=88)
        return buffer.getvalue()


@functools.cache
def _scene(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    side = _SIDE_PX + _MARGIN_PX
    layers = [(6, 1.0), (40, 0.35), (300, 0.2), (side, 0.06)]
    levels = np.zeros((side, side, 3), np.float32)
    for n, weight in layers:
        noise = Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8))
        grown = np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), np.float32)
        levels += weight * (grown - 128)
    return Image.fromarray((levels + 128).clip(0, 255).astype(np.uint8))


def main() -> None:
    """Buy the pictures from a local gateway, then look at them in every way."""
    _saving()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = _bought(Path(folder))
        done = dreamo.load(run_dir)
        floor = _floor(run_dir)
        _looking(run_dir, Path(folder))
        _measuring(run_dir, done, floor)


def _bought(folder: Path) -> Path:
    """Run a table whose pictures are photographs."""
    reference = folder / "reference.jpg"
    _scene(99).resize((768, 768)).save(reference, quality=90)
    prompts = [f"place {number}" for number in range(_N_PROMPTS)]
    jobs = dreamo.sweep(
        image=str(reference), prompt=prompts, seed=range(1, _N // _N_PROMPTS + 1), use_rephraser=False
    )
    run_dir = folder / "run"
    with LocalGateway(engine=Photographs()) as gateway:
        service = {"base_url": gateway.base_url, "api_key": gateway.api_key}
        done = dreamo.run(jobs, run_dir, **service, max_in_flight=16, progress=False)
    assert (done["status"] == "completed").all()
    return run_dir


def _floor(run_dir: Path) -> float:
    """Seconds of CPU for decoding all pictures at a quarter of their size."""
    with _cpu() as timer:
        for path in (run_dir / "images").iterdir():
            with Image.open(path) as picture:
                picture.draft("RGB", (320, 320))
                picture.load()
    each_ms = 1000 * timer.seconds / _N
    show(Figure("decoding a picture at a quarter of its size, the floor", f"{each_ms:.1f} ms CPU"))
    return timer.seconds


def _looking(run_dir: Path, folder: Path) -> None:
    works: dict[str, tuple[float, Callable[[], object]]] = {
        "gallery, its first page in a notebook": (1.5, lambda: _shown(run_dir)),
        "page of the gallery": (
            6,
            lambda: dreamo.gallery(run_dir).to_html(folder / "page.html", progress=False),
        ),
        "contact sheet, PDF": (
            15,
            lambda: dreamo.contact_sheet(run_dir, folder / "sheet.pdf", progress=False),
        ),
        "contact sheet, PNG": (
            15,
            lambda: dreamo.contact_sheet(run_dir, folder / "sheet.png", progress=False),
        ),
        "contact sheet with axes, PDF": (15, lambda: _axes(run_dir, folder)),
        "report": (5, lambda: dreamo.report(run_dir, folder / "report.html", progress=False)),
        "diversity": (3, lambda: dreamo.diversity(run_dir, progress=False)),
        "export, as links": (
            15,
            lambda: dreamo.export(run_dir, folder / "links", pictures="link", progress=False),
        ),
        "export, as copies": (20, lambda: dreamo.export(run_dir, folder / "export", progress=False)),
    }
    for name, (whole_s, work) in works.items():
        _forget()
        with timed() as wall, _cpu() as cpu:
            work()
        target_s = max(_LEAST_S, whole_s * _N / _N_TARGET)
        value = f"{wall.seconds:.2f} s, {cpu.seconds:.2f} s CPU"
        show(Figure(f"{name}, {_N:,} pictures / {target_s:.2g} s", value, cpu.seconds / target_s, "<= 1"))


def _shown(run_dir: Path) -> dict[str, Any]:
    return dreamo.gallery(run_dir)._repr_mimebundle_()


def _axes(run_dir: Path, folder: Path) -> int:
    return dreamo.contact_sheet(run_dir, folder / "axes.pdf", rows="prompt", columns="seed", progress=False)


def _forget() -> None:
    """Empty what a process keeps between calls, as if each were made in a fresh notebook."""
    from dreamo_batch.display import grid

    grid._reduce.cache_clear()


def _measuring(run_dir: Path, done: Any, floor: float) -> None:
    with timed() as wall, _cpu() as cpu:
        measured = dreamo.measure(run_dir, _BUILT_IN, progress=False)
    assert measured["appearance"].notna().all()
    target_s = max(_LEAST_S, _N / _N_TARGET)
    value = f"{wall.seconds:.2f} s, {cpu.seconds:.2f} s CPU"
    show(
        Figure(
            f"measure, 3 built-ins, summaries stored / {target_s:.2g} s",
            value,
            wall.seconds / target_s,
            "<= 1",
        )
    )
    _unmeasured(run_dir)
    with _cpu() as cpu:
        dreamo.measure(run_dir, _BUILT_IN, progress=False)
    each_ms = 1000 * cpu.seconds / _N
    show(Figure("... from scratch / 8 ms a picture", f"{each_ms:.1f} ms CPU a picture", each_ms / 8, "<= 1"))
    show(Figure("... from scratch / decoding at a quarter", f"{cpu.seconds:.2f} s CPU", cpu.seconds / floor))
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        _in_processes(run_dir, pool)  # what each loads once doesn't count
        both_s = _in_processes(run_dir, pool)
    name = "... in two processes, CPU that the engine adds / CPU of one process"
    show(Figure(name, f"{both_s:.2f} s CPU in all", both_s / cpu.seconds - 1, "<= 0.05"))


def _in_processes(run_dir: Path, pool: Executor) -> float:
    """Measure from scratch in the processes of a pool; return the CPU seconds of them and of this one."""
    _unmeasured(run_dir)
    before = _used_by(pool)
    with _cpu() as own:
        dreamo.measure(run_dir, _BUILT_IN, cluster=pool, progress=False)
    return own.seconds + _used_by(pool) - before


def _used_by(pool: Executor) -> float:
    """CPU seconds of all processes of a pool, asked so often that each answers."""
    return sum(dict(pool.map(_used, range(8))).values())


def _used(_number: int) -> tuple[int, float]:
    time.sleep(0.05)
    return os.getpid(), time.process_time()


def _unmeasured(run_dir: Path) -> None:
    for path in run_dir.glob("*picture-cache*"):
        path.unlink()
    (run_dir / "metrics.parquet").unlink(missing_ok=True)


def _saving() -> None:
    """Save pictures as a run does, with and without their summaries."""
    scenes = [_scene(number).crop((0, 0, _SIDE_PX, _SIDE_PX)) for number in range(8)]
    for kind in ("JPEG", "PNG"):
        contents = [_encoded(scene, kind) for scene in scenes]
        with_summaries = _saved(contents)
        with patch.object(pictures, "_reduce"), patch.object(pictures, "_cache_summary"):
            without = _saved(contents)
        more_ms = 1000 * (with_summaries - without) / len(contents)
        name = f"CPU of keeping a summary of a picture when it is saved ({kind}) / 12 ms"
        show(Figure(name, f"{more_ms:.1f} ms", more_ms / 12, "<= 1"))


def _encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=88)
    return buffer.getvalue()


def _saved(contents: list[bytes]) -> float:
    """Return the CPU seconds of saving pictures, the least of three times."""
    seconds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder, _cpu() as timer:
            for number, content in enumerate(contents):
                pictures.save(content, f"{number:032x}", Path(folder))
        seconds.append(timer.seconds)
    return min(seconds)


@contextmanager
def _cpu() -> Iterator[Timer]:
    """Measure CPU seconds of a block, also those of processes that have ended in it."""
    timer = Timer()
    before = sum(os.times()[:4])
    yield timer
    timer.seconds = sum(os.times()[:4]) - before


if __name__ == "__main__":
    main()
