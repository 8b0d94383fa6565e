"""A gateway in the tests' process, the cells that buy from it, and what its invoice must say afterwards.

It outlives the kernels that buy from it, so the invoice shows what a restart did.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from PIL import Image

import dreamo_batch as dreamo

if TYPE_CHECKING:
    from pathlib import Path

_SETUP = """\
import os
os.environ["DREAMO_BASE_URL"] = {url!r}
os.environ["DREAMO_API_KEY"] = {key!r}
import dreamo_batch as dreamo
jobs = dreamo.sweep(
    image={image!r}, prompt={prompts!r}, seed=range({n_seeds}), size="512x512",
)"""


class Shop:
    """A running gateway and a run directory that is bought for.

    Parameters
    ----------
    folder : Path
        For the reference picture and the run directory.
    gateway : LocalGateway
        Running.
    """

    def __init__(self, folder: Path, gateway: dreamo.LocalGateway) -> None:
        self.gateway = gateway
        self.run_dir = folder / "run"
        self._image = folder / "reference.png"
        Image.new("RGB", (96, 96), "orange").save(self._image)

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
        """Every row is there with its picture, each was ordered once, and the ledger has what the invoice has."""
        done, invoice = dreamo.load(self.run_dir), self.gateway.invoice()
        assert done["status"].tolist() == ["completed"] * n_rows
        assert sorted(done["task_id"]) == sorted(line["id"] for line in invoice)
        assert sum(map(Decimal, done["cost"])) == sum(Decimal(line["cost"]) for line in invoice)
        assert all((self.run_dir / path).is_file() for path in done["output_path"])
