"""Run the notebooks and keep their outputs, small enough for a repository page: `make notebooks`.

Live widgets mean nothing without their kernel and break the page's viewer, so only their text is kept.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parent))
from test_notebooks import NOTEBOOKS, run_notebook

_WIDGETS = "application/vnd.jupyter.widget-view+json"


def publish(path: Path) -> None:
    """Run one notebook and write it back with what a reader should see."""
    with tempfile.TemporaryDirectory() as runs:
        notebook = run_notebook(path, Path(runs))
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_shown(output)]
    path.write_text(nbformat.writes(notebook).replace(runs, "runs") + "\n", encoding="utf-8")


def _is_shown(output: nbformat.NotebookNode) -> bool:
    return _WIDGETS not in output.get("data", {}) and output.get("name") != "stderr"


if __name__ == "__main__":
    for notebook in NOTEBOOKS:
        publish(notebook)
