"""Every notebook runs from top to bottom on the local gateway, without a key."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from traitlets.config import Config

if TYPE_CHECKING:
    import nbformat

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LARGEST_BYTES = 300_000

# ipykernel and zmq leave their own sockets to the garbage collector.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def read(path: Path) -> nbformat.NotebookNode:
    # Loaded here: every worker loads this module, and nothing else that it would load takes as long.
    import nbformat

    return nbformat.read(path, 4)


def run_notebook(path: Path, runs: Path, timeout_s: int = 120) -> nbformat.NotebookNode:
    """Execute a notebook in its own folder; a failure names the cell and shows only the notebook's frames."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = read(path)
    at: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="k") as short:  # paths of unix sockets are limited
        config = Config(
            {
                "AsyncKernelManager": {
                    "transport": "ipc",
                    "ip": f"{short}/k",
                    "connection_file": f"{short}/k.json",
                }
            }
        )
        client = NotebookClient(
            notebook,
            config=config,
            kernel_name="python3",
            timeout=timeout_s,
            shutdown_kernel="immediate",
            resources={"metadata": {"path": str(path.parent)}},
        )
        client.on_cell_start = lambda **cell: at.update(cell=cell["cell_index"])
        env = {name: value for name, value in os.environ.items() if not name.startswith("DREAMO_")}
        try:
            client.execute(env={**env, "DREAMO_RUNS": str(runs)})
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise AssertionError(_what_failed(path, notebook, at["cell"], error)) from None
    return notebook


def _what_failed(path: Path, notebook: nbformat.NotebookNode, at: int, error: Exception) -> str:
    cell = notebook.cells[at]
    output = next((o for o in cell.get("outputs", []) if o.output_type == "error"), None)
    trace = _COLOURS.sub("", "\n".join(output.traceback)) if output else str(error)
    frames = "\n".join(part for part in trace.split("\n\n") if "Cell In[" in part)
    what = f"{output.ename}: {output.evalue}" if output else str(error)
    return f"{path.name} cell {at}: {what}\n{cell.source}\n{frames}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_pictures(path, tmp_path):
    """No cell fails, and the reader sees at least one picture."""
    notebook = run_notebook(path, tmp_path)
    shown = {
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", ())
    }
    assert shown & {"image/png", "image/jpeg"}


_RUN = """
import dreamo_batch as dreamo
gateway = dreamo.LocalGateway(engine="flat").start()
jobs = dreamo.sweep(image={reference!r}, prompt="a fox", seed=range(1, 5), size="512x512", use_rephraser=False)
def buy(jobs, **options):
    return dreamo.run(jobs, {run_dir!r}, gateway=gateway, **options)
done = buy(jobs)
"""


def test_a_saved_notebook_shows_a_finished_run_and_only_the_users_lines(tmp_path):
    """The bar that is saved reads 100 %, and an error shows the cell and nothing of this package."""
    import nbformat

    Image.new("RGB", (64, 64), "orange").save(reference := tmp_path / "reference.png")
    first = _RUN.format(reference=str(reference), run_dir=str(tmp_path / "run"))
    failing = nbformat.v4.new_code_cell(
        "buy(jobs.assign(prompt=''))", metadata={"tags": ["raises-exception"]}
    )
    interrupted = nbformat.v4.new_code_cell(
        "import _thread, threading\n"
        "gateway.faults.script('create', 'slow', seconds=3.0)\n"
        "threading.Timer(1.0, _thread.interrupt_main).start()\n"
        "buy(jobs.assign(prompt='a wolf'))",
        metadata={"tags": ["raises-exception"]},
    )
    path = tmp_path / "saved.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(first), failing, interrupted]), path
    )
    ran, failed, stopped = (cell.outputs for cell in run_notebook(path, tmp_path).cells)
    bars = [shown for output in ran if "dreamo:" in (shown := output.get("data", {}).get("text/plain", ""))]
    assert len(bars) == 1
    assert "100%" in bars[0]
    assert "4/4" in bars[0]
    for outputs, name in ((failed, "InvalidTable"), (stopped, "KeyboardInterrupt")):
        (error,) = [output for output in outputs if output.output_type == "error"]
        trace = _COLOURS.sub("", "\n".join(error.traceback))
        assert error.ename == name
        assert "buy(jobs" in trace
        assert "dreamo.run(jobs" in trace
        assert "dreamo_batch/" not in trace
        assert "hidden" not in trace


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_small_and_holds_no_widget_state(path):
    """A committed notebook shows on a repository page: small, and without widget state that breaks the viewer."""
    notebook = read(path)
    assert path.stat().st_size < _LARGEST_BYTES
    assert "widgets" not in notebook.metadata
    assert not any(
        "error" in output.output_type for cell in notebook.cells for output in cell.get("outputs", [])
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_shows_pictures_without_being_run(path):
    """What is committed has its outputs, among them a picture that a repository page can show."""
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    shown = {kind for cell in cells for output in cell.outputs for kind in output.get("data", ())}
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert shown & {"image/png", "image/jpeg"}
    assert "application/vnd.jupyter.widget-view+json" not in shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_tells_nothing_of_the_machine_it_was_run_on(path):
    """Outputs name no folder of the machine, whole or cut off by pandas."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.\-])/(work|tmp|home|root|Users)\b", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_a_sentence_above_each_cell_and_no_helpers(path):
    """Each code cell follows a text cell, and none defines a function."""
    cells = read(path).cells
    for before, cell in itertools.pairwise(cells):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", cell.source
            assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE)
