"""A notebook in the browser, worked as a person works it: cells are run, buttons of the toolbar are pressed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import nbformat
from playwright.sync_api import Locator, Page, expect

if TYPE_CHECKING:
    from pathlib import Path

# The kernel is asked something first: without it one cell in a hundred is lost, run before the kernel listens.
_OPEN = """async path => {
  const app = window.jupyterapp;
  const panel = await app.commands.execute('docmanager:open', {path, factory: 'Notebook'});
  window.panel = panel;
  await panel.context.ready;
  await panel.sessionContext.ready;
  app.shell.activateById(panel.id);
}"""
_OPENED = """async () => {
  const app = window.jupyterapp;
  await app.restored;
  window.panel = app.shell.currentWidget;
  await window.panel.context.ready;
  await window.panel.sessionContext.ready;
}"""
_LISTENS = """async () => {
  const kernel = window.panel.sessionContext.session.kernel;
  await kernel.info;
  const isReady = () => kernel.connectionStatus === 'connected' && kernel.status === 'idle';
  for (let i = 0; i < 200 && !isReady(); i++) await new Promise(done => setTimeout(done, 50));
  await kernel.requestExecute({code: 'pass', silent: true, store_history: false}).done;
}"""
_RUN = """at => {
  const notebook = window.panel.content;
  notebook.activeCellIndex = at;
  notebook.deselectAll();
  notebook.widgets[at].model.clearExecution();
  window.jupyterapp.commands.execute('notebook:run-cell');
}"""
_CLOSE = """async () => {
  const panel = window.panel;
  await panel.context.save();
  await panel.sessionContext.shutdown();
  panel.dispose();
}"""
# JupyterLab asks which kernel to take where a notebook does not say.
_PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
# Timed in the page: from here a busy machine's way to the browser would be added to it. The cell's number tells;
# the kernel's status does not, since it is idle for a moment after each message of a widget.
_TIME_STOP = """() => {
  const prompt = window.panel.content.activeCell.node.querySelector('.jp-InputArea-prompt');
  window.stopped = new Promise(done => document.addEventListener('click', () => {
    const from = performance.now();
    const hasRun = () => /\\d/.test(prompt.textContent);
    const look = () => hasRun() ? done((performance.now() - from) / 1000) : setTimeout(look, 10);
    look();
  }, {once: true, capture: true}));
}"""
# Watched from before the click: right after it the kernel's status is still the old one's "idle".
_AWAIT_RESTART = """() => {
  const kernel = window.panel.sessionContext.session.kernel;
  window.restarted = new Promise(done => kernel.statusChanged.connect(function look(_, status) {
    if (status !== 'restarting') return;
    kernel.statusChanged.disconnect(look);
    done();
  }));
}"""
_HAS_RUN = re.compile(r"\[\d+\]:")
_PATIENCE_MS = 60_000


class NotebookPage:
    """One notebook, open in JupyterLab.

    Parameters
    ----------
    page : Page
        The browser's page with JupyterLab in it.
    file : Path
        Where the notebook is written.
    cells : str
        Source of its cells.
    """

    def __init__(self, page: Page, file: Path, *cells: str) -> None:
        self.page = page
        self.file = file
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells], metadata=_PYTHON
        )
        nbformat.write(notebook, file)

    def open(self) -> None:
        """Open the notebook, and wait until its kernel listens."""
        self.page.evaluate(_OPEN, self.file.name)
        self.page.evaluate(_LISTENS)

    def open_in_notebook_7(self, url: str, token: str) -> None:
        """Open the notebook in Notebook 7, which shows one a page, and wait until its kernel listens."""
        self.page.goto(f"{url}/notebooks/{self.file.name}?token={token}")
        self.page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext")
        self.page.evaluate(_OPENED)
        self.page.evaluate(_LISTENS)

    def close(self) -> None:
        """Save the notebook, end its kernel and close its tab."""
        self.page.evaluate(_CLOSE)

    def reopen(self) -> None:
        """Close the notebook and open it again; its outputs are those of the file, its kernel is new."""
        self.close()
        self.open()

    def save(self) -> nbformat.NotebookNode:
        """Save the notebook and give what is in the file."""
        self.page.evaluate("() => window.panel.context.save()")
        return nbformat.read(self.file, 4)

    def cell(self, at: int) -> Locator:
        return self.page.locator(".jp-NotebookPanel:visible .jp-Notebook-cell").nth(at)

    def output(self, at: int) -> Locator:
        return self.cell(at).locator(".jp-Cell-outputArea")

    def start(self, at: int) -> Locator:
        """Run a cell without waiting for it; gives its output."""
        self.page.evaluate(_RUN, at)
        return self.output(at)

    def run(self, *cells: int) -> Locator:
        """Run cells, each to its end and without an error; gives the output of the last."""
        for at in cells:
            self.start(at)
            self.wait(at)
            error = self.output(at).locator("[data-mime-type='application/vnd.jupyter.stderr'] .ansi-red-fg")
            assert error.count() == 0, self.output(at).inner_text()
        return self.output(cells[-1])

    def wait(self, at: int, timeout_ms: float = _PATIENCE_MS) -> None:
        """Wait until a cell has run, well or not."""
        prompt = self.cell(at).locator(".jp-InputArea-prompt")
        expect(prompt).to_have_text(_HAS_RUN, timeout=timeout_ms)

    def press(self, button: str) -> None:
        """Press a button of the notebook's toolbar: "interrupt", "restart", ..."""
        self.page.locator(f".jp-NotebookPanel:visible [data-jp-item-name='{button}'] jp-button").click()

    def interrupt(self) -> float:
        """Press the stop button; gives the seconds until the cell had ended."""
        self.page.evaluate(_TIME_STOP)
        self.press("interrupt")
        return float(self.page.evaluate("() => window.stopped"))

    def restart(self) -> None:
        """Restart the kernel, say yes to the question, and wait until the new one listens."""
        self.page.evaluate(_AWAIT_RESTART)
        self.press("restart")
        self.page.locator(".jp-Dialog").get_by_role("button", name="Confirm Kernel Restart").click()
        self.page.evaluate("() => window.restarted")
        self.page.wait_for_function("() => window.panel.sessionContext.session.kernel.status === 'idle'")
        self.page.evaluate(_LISTENS)
