"""How a benchmark reports: a figure, what it is compared with in the same run, their ratio and the target.

What the last runs measured is kept in `latest.json`, by benchmark; `history.jsonl` has a line per release, from which
the table of the docs is made.
"""

from __future__ import annotations

import json
import operator
import os
import platform
import re
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


HERE = Path(__file__).parent
LATEST = HERE / "latest.json"
HISTORY = HERE / "history.jsonl"
HEAD = "| what | measured | ratio | target |\n| --- | --- | --- | --- |"
_LIMIT = re.compile(r"(<=|>=|<) ([\d.]+) ?(%|polls)?")
_HOLDS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt}
_NUMBER = re.compile(r"[\d.]+")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; `ratio` is against a baseline measured in the same run.

    A target starts with ``<=`` or ``>=`` and a number, which the ratio has to keep, or the figure where it has none.
    """

    name: str
    value: str
    ratio: float | None = None
    target: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without one."""
        limits, number = _LIMIT.findall(self.target), _NUMBER.search(self.value)
        if not limits or number is None:
            return None
        first = float(number[0]) if self.ratio is None else self.ratio
        return all(
            _HOLDS[sign](self._of_unit(unit) if unit else first, float(limit)) for sign, limit, unit in limits
        )

    def _of_unit(self, unit: str) -> float:
        """Return the first number of the value in a unit."""
        return float(re.findall(rf"([\d.]+) ?{unit}", self.value)[0])

    @property
    def line(self) -> str:
        """The figure as a line of a table."""
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        return f"| {self.name} | {self.value} | {ratio} | {self.target} |"


shown: list[Figure] = []


def show(figure: Figure) -> None:
    """Print a figure as one line of a table, and keep it."""
    shown.append(figure)
    print(figure.line, flush=True)


def keep(benchmark: str, figures: list[Figure]) -> None:
    """Replace what is kept of a benchmark."""
    known = json.loads(LATEST.read_text(encoding="utf-8")) if LATEST.exists() else {}
    kept = [{**asdict(figure), "is_met": figure.is_met} for figure in figures]
    today = time.strftime("%Y-%m-%d", time.gmtime())
    known[benchmark] = {"date": today, "busy": round(os.getloadavg()[2]), "figures": kept}
    LATEST.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def release(version: str) -> None:
    """Put what is kept into the history, as the line of a version; what was not measured again stays in it."""
    latest = json.loads(LATEST.read_text(encoding="utf-8"))
    of_version = {one["version"]: one["benchmarks"] for one in read_history()}.get(version, {})
    line = {"version": version, "machine": machine(), "benchmarks": of_version | latest}
    lines = [*(one for one in read_history() if one["version"] != version), line]
    HISTORY.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")


def read_history() -> list[dict[str, Any]]:
    """Read the line of each release, the oldest first."""
    return (
        [json.loads(line) for line in HISTORY.read_text(encoding="utf-8").splitlines()]
        if HISTORY.exists()
        else []
    )


def machine() -> str:
    """Describe the machine by what matters to the figures."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = f"{os.cpu_count()} cores ({platform.machine()})"
    return f"{cores}, {memory_gb:.0f} GB, {platform.system()}, Python {platform.python_version()}"


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
