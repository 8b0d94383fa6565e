"""Run the benchmarks: all of them, or those named on the command line (`journal import ...`).

What they measured is written to `latest.json`. `--release` puts that into `history.jsonl` as the line of this version.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(arguments: list[str]) -> None:
    """Run each and print a table of figures, ratios and targets."""
    sys.path.insert(0, str(HERE))
    report = importlib.import_module("report")
    if arguments == ["--release"]:
        from dreamo_batch import __version__

        report.release(__version__)
        return
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    unknown = set(arguments) - set(known)
    if unknown:
        sys.exit(f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    print(report.HEAD, flush=True)
    for name in arguments or known:
        report.shown.clear()
        importlib.import_module(f"bench_{name}").main()
        report.keep(name, report.shown)


if __name__ == "__main__":
    main(sys.argv[1:])
