"""What a wheel without extras can do, and how it names the extra otherwise; run by `tests.release_check`.

Usage: ``python bare_install.py BASE_URL IMAGE``, in an environment that has the wheel and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import dreamo_batch as dreamo

if TYPE_CHECKING:
    from collections.abc import Callable

# What needs an extra, and the extra's name.
NEEDS = {
    "local": lambda _: dreamo.LocalGateway(),
    "local ": lambda folder: dreamo.run(TABLE, folder / "other", gateway="local", progress=False),
    "excel": lambda folder: dreamo.write_table(TABLE, folder / "jobs.xlsx"),
    "excel ": lambda folder: dreamo.read_table(folder / "jobs.xlsx"),
    "plots": lambda folder: dreamo.plot_costs(dreamo.costs(folder / "run", by="prompt")),
    "report": lambda folder: dreamo.report(folder / "run"),
}
TABLE = dreamo.sweep(
    image=sys.argv[2], prompt=["a fox", "a hare"], seed=[1, 2], size="512x512", use_rephraser=False
)


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    (folder / "jobs.xlsx").write_bytes(b"PK\x03\x04")
    buy(folder, sys.argv[1])
    look(folder)
    for extra, use in NEEDS.items():
        said = what_is_said(use, folder)
        assert f"dreamo-batch[{extra.strip()}]" in said, f"{extra}: {said}"
    print("A wheel without extras does what needs none, and names the extra otherwise.")


def what_is_said(use: Callable[[Path], object], folder: Path) -> str:
    try:
        use(folder)
    except (dreamo.UsageError, ImportError) as error:
        return str(error)
    return "it was not missed"


def buy(folder: Path, base_url: str) -> None:
    """Every step from a table on disk to results on disk."""
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        dreamo.write_table(TABLE, folder / f"jobs.{suffix}")
        pd.testing.assert_frame_equal(dreamo.read_table(folder / f"jobs.{suffix}"), pd.DataFrame(TABLE))
    assert len(dreamo.validate(TABLE)) == 0
    assert (dreamo.plan(TABLE, folder / "run")["action"] == "new").all()
    done = dreamo.run(TABLE, folder / "run", base_url=base_url, api_key="bare-install", progress=False)
    assert (done["status"] == "completed").all(), done
    again = dreamo.start(TABLE, folder / "run", base_url=base_url, api_key="bare-install")
    pd.testing.assert_frame_equal(again.wait(progress=False), done)
    again._repr_mimebundle_()


def look(folder: Path) -> None:
    """Everything that is read from a run directory."""
    done = dreamo.load(folder / "run")
    assert dreamo.status(folder / "run")["attempts"] == len(done)
    assert dreamo.verify(folder / "run") == []
    for table in (
        dreamo.costs(done),
        dreamo.latency(done),
        dreamo.throughput(done),
        dreamo.attempts(folder / "run"),
    ):
        assert len(table)
    dreamo.failures(done)
    assert dreamo.measure(done, progress=False)["appearance"].notna().all()
    assert len(dreamo.diversity(done, progress=False))
    assert "<img" in dreamo.gallery(done)._repr_html_()
    dreamo.gallery(done).to_html(folder / "gallery.html")
    assert dreamo.contact_sheet(done, folder / "sheet.png")
    dreamo.export(folder / "run", folder / "export")
    command = [str(Path(sys.executable).with_name("dreamo-batch")), "status", str(folder / "run")]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
