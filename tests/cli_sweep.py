"""What the tests of the command line share: a small table in a folder, and a way to call a command."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import tqdm.auto  # noqa: F401 - when it is imported, it reads the environment that `call` changes
from click.testing import CliRunner, Result
from PIL import Image

from dreamo_batch.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import dreamo_batch as dreamo

ELSEWHERE = "https://gateway.example"


def write_table(folder: Path, n_rows: int = 3, *lines: str) -> Path:
    """Write a table whose picture lies beside it, and is named relative to it."""
    Image.new("RGB", (64, 64), "orange").save(folder / "fox.png")
    rows = [f"fox.png,on a beach,{seed},512x512" for seed in range(1, n_rows + 1)]
    path = folder / "jobs.csv"
    path.write_text("\n".join(["image,prompt,seed,size", *rows, *lines, ""]), encoding="utf-8")
    return path


def call(*words: Any, env: dict[str, str | None] | None = None) -> Result:
    """Run a command in this process, as its user would; no key unless given."""
    clean: dict[str, str | None] = {"DREAMO_API_KEY": None, "DREAMO_BASE_URL": None}
    return CliRunner(env=clean | (env or {})).invoke(main, [str(word) for word in words])


def at(gateway: dreamo.LocalGateway) -> dict[str, str | None]:
    """Give the environment in which a gateway is the service."""
    return {"DREAMO_API_KEY": gateway.api_key, "DREAMO_BASE_URL": gateway.base_url}


def signals_kept() -> Iterator[None]:
    """Put the handlers of this process back; a command leaves its own, for it ends with its process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
