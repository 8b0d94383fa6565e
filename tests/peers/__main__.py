"""Put dreamo_batch beside what else is used for such work: `make peers`, or with names to run only those.

Prints a table; asserts nothing. Every tool does the same 60 jobs, six at a time, against a local gateway of its own
whose tasks take one second.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.gateway import gateway
from tests.peers.bad_day import BadDay

HERE = Path(__file__).parent
PEERS_PYTHON = HERE.parent.parent / ".venv-peers" / "bin" / "python"
TOOLS = {
    "dreamo_batch": ("dreamo-batch",),
    "paralify": ("paralify",),
    "pdmr": ("pdmr",),
    "joblib": ("joblib",),
    "threads": (),
    "tenacity": ("requests", "tenacity"),
}
COLUMNS = (
    "",
    "60 jobs",
    "3 answers lost",
    "runs needed",
    "kill -9, again",
    "Ctrl-C, again",
    "control back in",
    "submitted meanwhile",
    "finished, again",
    "reordered",
    "a row added",
)


def main(names: list[str]) -> None:
    unknown = set(names) - set(TOOLS)
    if unknown:
        sys.exit(f"no tool named {', '.join(sorted(unknown))}; there are {', '.join(TOOLS)}")
    # A shell that starts this in the background has it ignore Ctrl-C, and the tools would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for name in names or TOOLS:
        print(f"| {' | '.join([_title(name), *_cells(name)])} |", flush=True)


def _cells(name: str) -> list[str]:
    python = sys.executable if name == "dreamo_batch" else str(PEERS_PYTHON)
    command = [python, str(HERE / "scripts" / f"with_{name}.py")]
    with tempfile.TemporaryDirectory() as folder, gateway(latency="fixed:1") as service:
        day = BadDay(command, Path(folder), service)
        after_plain = [day.plain(), day.again(), day.reordered(), day.one_row_added()]
        dropped, killed, interrupted = day.drops(), day.kill(), day.ctrl_c()
        stroke = day.interrupt
    return [
        str(after_plain[0]),
        str(dropped),
        str(day.n_runs_after_drops),
        str(killed),
        str(interrupted),
        f"{stroke.until_exit_s:.1f} s",
        str(stroke.n_submitted_after),
        *map(str, after_plain[1:]),
    ]


def _title(name: str) -> str:
    if name == "dreamo_batch":
        return f"dreamo_batch {version('dreamo-batch')}"
    versions = "print(*(f'{name} {version(name)}' for name in sys.argv[1:]), sep=', ')"
    python = "print('threads and a CSV file, Python', platform.python_version())"
    code = (
        f"import platform, sys; from importlib.metadata import version; {versions if TOOLS[name] else python}"
    )
    command = [str(PEERS_PYTHON), "-c", code, *TOOLS[name]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1:])
