"""Time to import the package, against importing pandas, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

from report import Figure, best_of, show

_USED = "import dreamo_batch as d; d.run, d.sweep, d.validate, d.plan, d.load"


def main() -> None:
    """Import each five times and compare the fastest."""
    nothing = _seconds("pass")
    pandas = _seconds("import pandas") - nothing
    package = _seconds("import dreamo_batch") - nothing
    used = _seconds(_USED) - nothing
    show(Figure("import dreamo_batch / import pandas", f"{package:.3f} s", package / pandas, "<= 1.15"))
    show(Figure("... and touching run, sweep, validate, plan, load", f"{used:.3f} s", used / pandas))


def _seconds(code: str) -> float:
    return best_of(5, lambda: subprocess.run([sys.executable, "-c", code], check=True))
