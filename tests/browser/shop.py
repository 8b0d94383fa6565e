"""A gateway in the tests' process, the cells that buy from it, and what its invoice must say afterwards.

It outlives the kernels that buy from it, so the invoice shows what a restart did.
"""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Self

from PIL import Image

import dreamo_batch as dreamo

if TYPE_CHECKING:
    from pathlib import Path

TASK_S: Final = 1.0
_SETUP: Final = """\
import os
os.environ["DREAMO_BASE_URL"] = {url!r}
os.environ["DREAMO_API_KEY"] = {key!r}
import dreamo_batch as dreamo
jobs = dreamo.sweep(
    image={image!r}, prompt={prompts!r}, seed=range({n_seeds}), size="512x512",
)"""


class Clock:
    """The gateway's clock, which stands still: no task ends while a busy machine makes the test wait for it."""

    def __init__(self) -> None:
        self._at = time.time()
        self._since: float | None = None

    def __call__(self) -> float:
        return self._at if self._since is None else self._at + time.monotonic() - self._since

    def advance(self, seconds: float) -> None:
        self._at += seconds

    def go(self) -> None:
        """Go on as clocks do."""
        self._since = time.monotonic()


class Shop:
    """A gateway whose tasks take `TASK_S` on a clock that stands still, and a run directory that is bought for.

    Parameters
    ----------
    folder : Path
        For the reference picture and the run directory.
    """

    def __init__(self, folder: Path, engine: str = "flat") -> None:
        self._clock = Clock()
        self.gateway = dreamo.LocalGateway(engine=engine, latency=f"fixed:{TASK_S}", clock=self._clock)
        self.run_dir = folder / "run"
        self._image = folder / "reference.png"
        Image.new("RGB", (96, 96), "orange").save(self._image)

    def __enter__(self) -> Self:
        self.gateway.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gateway.stop()

    def finish_tasks(self) -> None:
        """End the tasks that are at the service now; those submitted afterwards wait for the next time."""
        self._clock.advance(TASK_S)

    def open_for_good(self) -> None:
        """Let every task end in its time from now on."""
        self._clock.go()

    def n_attempts(self) -> int:
        return len(self.gateway.invoice())

    def setup(self, n_rows: int = 6, prompts: tuple[str, ...] = ("on a beach",)) -> str:
        """Give the cell that makes the table."""
        return _SETUP.format(
            url=self.gateway.base_url,
            key=self.gateway.api_key,
            image=str(self._image),
            prompts=list(prompts),
            n_seeds=n_rows // len(prompts),
        )

    def call(self, verb: str, name: str = "done", **options: Any) -> str:
        """Give the cell that calls `run` or `start` on the table."""
        given = "".join(f", {option}={value!r}" for option, value in options.items())
        return f"{name} = dreamo.{verb}(jobs, {str(self.run_dir)!r}{given})"

    def assert_bought_once(self, n_rows: int) -> None:
        """Every row is there with its picture, each was submitted once, and the ledger has what the invoice has."""
        done, invoice = dreamo.load(self.run_dir), self.gateway.invoice()
        assert done["status"].tolist() == ["completed"] * n_rows
        assert sorted(done["task_id"]) == sorted(line["id"] for line in invoice)
        assert sum(map(Decimal, done["cost"])) == sum(Decimal(line["cost"]) for line in invoice)
        assert all((self.run_dir / path).is_file() for path in done["output_path"])
