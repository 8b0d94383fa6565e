"""JupyterLab and marimo on 127.0.0.1: no file of the user's is read or written, and they are gone afterwards."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final, Self

CHROMIUM: Final = Path(os.environ.get("DREAMO_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium")
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_READY_WITHIN_S: Final = 60
_FOLDERS: Final = {
    "HOME": "home",
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    "IPYTHONDIR": "ipython",
    "XDG_CONFIG_HOME": "settings",
    "XDG_STATE_HOME": "state",
}
# JupyterLab asks its makers for news, and the user whether it may. Its debugger complains of kernels that end.
_PAGE_CONFIG: Final = {
    "disabledExtensions": {
        "@jupyterlab/apputils-extension:announcements": True,
        "@jupyterlab/debugger-extension": True,
    }
}


def what_is_missing() -> str | None:
    """Say what these tests lack on this machine, if anything."""
    if not CHROMIUM.is_file():
        return f"no Chromium at {CHROMIUM}: apt-get install chromium, or name yours in DREAMO_CHROMIUM"
    if importlib.util.find_spec("jupyterlab") is None:
        return "no JupyterLab: pip install jupyterlab"
    return None


class Server:
    """A server of notebooks in a process of its own, with folders of its own.

    Parameters
    ----------
    folder : Path
        An empty one; notebooks lie in `folder`/notebooks.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "notebooks"
        self.log = folder / "server.log"
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._folders = {name: folder / place for name, place in _FOLDERS.items()}

    def __enter__(self) -> Self:
        for place in {self.root, *self._folders.values()}:
            place.mkdir(parents=True)
        self._configure()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command()],
                env=self._env(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def _port(self) -> str:
        return self.url.rpartition(":")[2]

    def _configure(self) -> None:
        """Write the server's settings."""

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _status_url(self) -> str:
        raise NotImplementedError

    def _env(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DREAMO_", "JUPYTER"))
        }
        return kept | {name: str(place) for name, place in self._folders.items()}

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + _READY_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{type(self).__name__} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._status_url(), timeout=5) as answer:  # noqa: S310 - ours
                return bool(answer.status == 200)
        except urllib.error.URLError:
            return False

    def _stop(self) -> None:
        """End the server and its kernels, which share its session."""
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Lab(Server):
    """JupyterLab, and Notebook 7 beside it."""

    def _configure(self) -> None:
        config = self._folders["JUPYTER_CONFIG_DIR"] / "labconfig"
        config.mkdir()
        (config / "page_config.json").write_text(json.dumps(_PAGE_CONFIG))

    def _command(self) -> list[str]:
        return [
            *("jupyterlab", "--no-browser", "--allow-root"),
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self._port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.root}",
            "--LabApp.expose_app_in_browser=True",
            "--JupyterNotebookApp.expose_app_in_browser=True",
            "--LabApp.extension_manager=readonly",
        ]

    def _status_url(self) -> str:
        return f"{self.url}/api/status?token={self.token}"


class Marimo(Server):
    """marimo's editor of one notebook, which runs its cells when a browser opens it.

    Parameters
    ----------
    folder : Path
        An empty one.
    cells : str
        Source of the notebook's cells.
    """

    def __init__(self, folder: Path, *cells: str) -> None:
        super().__init__(folder)
        self._cells = cells

    def _configure(self) -> None:
        (self.root / "pyproject.toml").write_text("[tool.marimo.runtime]\nauto_instantiate = true\n")
        cells = (f"@app.cell\ndef _():\n{textwrap.indent(cell, '    ')}\n    return" for cell in self._cells)
        (self.root / "cells.py").write_text("\n\n".join(["import marimo\n\napp = marimo.App()", *cells]))

    def _command(self) -> list[str]:
        return [
            *("marimo", "-q", "edit", f"{self.root / 'cells.py'}", "--headless", "--skip-update-check"),
            *("--host", "127.0.0.1", "--port", self._port, "--token-password", self.token),
        ]

    def _status_url(self) -> str:
        return f"{self.url}/health"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
