"""How a benchmark reports: a figure, what it is compared with in the same run, their ratio and the target."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; `ratio` is against a baseline measured in the same run."""

    name: str
    value: str
    ratio: float | None = None
    target: str = ""


def show(figure: Figure) -> None:
    """Print a figure as one line of a table."""
    ratio = "" if figure.ratio is None else f"{figure.ratio:.3f}"
    print(f"| {figure.name} | {figure.value} | {ratio} | {figure.target} |", flush=True)


@dataclass(slots=True)
class Timer:
    """Seconds between entering and leaving."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Timer]:
    """Measure a block."""
    timer = Timer()
    start = time.perf_counter()
    yield timer
    timer.seconds = time.perf_counter() - start


def best_of(n: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest of n runs: the machine is shared, so the least disturbed one counts."""
    times = []
    for _ in range(n):
        with timed() as timer:
            work()
        times.append(timer.seconds)
    return min(times)
