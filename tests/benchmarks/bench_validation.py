"""Checking a million rows before anything is sent, against reading each row once in Python."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image
from report import Figure, show, timed

import dreamo_batch as dreamo

_N = 1_000_000


def main() -> None:
    """Validate a million rows that share four pictures."""
    with tempfile.TemporaryDirectory() as folder:
        images = [str(_picture(Path(folder) / f"{i}.png", i)) for i in range(4)]
        jobs = dreamo.sweep(
            image=images,
            prompt=["on a beach", "in the snow"],
            seed=range(1, _N // 8 + 1),
            use_rephraser=False,
            max_rows=_N,
        )
        with timed() as ours:
            problems = dreamo.validate(jobs)
        with timed() as loop:
            total = sum(len(row.prompt) + row.seed for row in jobs.itertuples(index=False))
        assert len(problems) == 0
        assert total > 0
    show(
        Figure(
            f"validate() of {_N:,} rows / itertuples over them",
            f"{ours.seconds:.2f} s",
            ours.seconds / loop.seconds,
        )
    )


def _picture(path: Path, i: int) -> Path:
    Image.new("RGB", (64, 64), (50 * i, 90, 120)).save(path)
    return path
