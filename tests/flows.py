"""A small table, its run directory and the gateway it is bought from; what every flow test of one checks."""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections import Counter
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch.engine.attempts import SUBMITTED, Attempt, Stage
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.results.load import read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pandas as pd

IS_LONG = bool(os.environ.get("DREAMO_CHAOS"))
PATIENCE_S = 60.0  # only reached where something is broken, whatever else the machine does


class Flow:
    """A table of cheap jobs and its run directory, worked off against a gateway.

    The gateway may serve several flows: the table's prompt tells its attempts from those of others.
    """

    def __init__(self, folder: Path, gateway: dreamo.LocalGateway, n_rows: int = 4, **columns: Any) -> None:
        self.gateway = gateway
        self.run_dir = folder / "run"
        self.prompt = columns.pop("prompt", f"on a beach, {folder}")
        reference = folder / "reference.png"
        Image.new("RGB", (64, 64), "orange").save(reference)
        self.table = dreamo.sweep(
            image=str(reference), prompt=self.prompt, seed=range(1, n_rows + 1), size="512x512", **columns
        )

    def copied(self, folder: Path) -> Flow:
        """Give the same flow on a copy of its run directory; attempts of both stand on one invoice."""
        other = copy.copy(self)
        other.run_dir = folder / "run"
        shutil.copytree(self.run_dir, other.run_dir)
        return other

    def start(self, **options: Any) -> dreamo.Batch:
        return dreamo.start(self.table, self.run_dir, gateway=self.gateway, **options)

    def run(self, table: pd.DataFrame | None = None, **options: Any) -> pd.DataFrame:
        return dreamo.run(
            self.table if table is None else table,
            self.run_dir,
            **{"gateway": self.gateway, "progress": False, **options},
        )

    def invoice(self) -> list[dict[str, Any]]:
        return [line for line in self.gateway.invoice() if line["prompt"] == self.prompt]

    def attempts(self) -> list[Attempt]:
        return [attempt for attempt in read_state(RunDirectory(self.run_dir)) if attempt.stage in SUBMITTED]

    def assert_bought_once(self) -> None:
        """No seed is on the invoice twice, and each attempt is in the ledger or its row is ambiguous."""
        invoice, attempts = self.invoice(), self.attempts()
        per_seed = Counter(line["seed"] for line in invoice)
        assert max(per_seed.values(), default=0) <= 1, per_seed
        known = {attempt.task_id for attempt in attempts if attempt.task_id is not None}
        ambiguous = {attempt.seed_sent for attempt in attempts if attempt.stage is Stage.AMBIGUOUS}
        unknown = [line for line in invoice if line["id"] not in known]
        assert {line["seed"] for line in unknown} <= ambiguous
        assert known <= {line["id"] for line in invoice}

    def assert_money_adds_up(self) -> None:
        """Ledger + what ambiguous rows cost on the invoice = the invoice, to the last digit."""
        self.assert_bought_once()
        attempts, invoice = self.attempts(), self.invoice()
        known = {attempt.task_id for attempt in attempts}
        ledger = sum((Decimal(attempt.cost) for attempt in attempts if attempt.cost), Decimal(0))
        of_ambiguous = _total(line for line in invoice if line["id"] not in known)
        assert ledger + of_ambiguous == _total(invoice)

    def assert_finishes(self, **options: Any) -> pd.DataFrame:
        """The next run completes every row, and once more nothing is left to do or to complain of."""
        done = self.run(**options)
        assert done["status"].tolist() == ["completed"] * len(self.table)
        assert len(self.invoice()) == len(self.table)
        self.assert_money_adds_up()
        assert all((self.run_dir / path).is_file() for path in done["output_path"])
        assert dreamo.verify(self.run_dir) == []
        return done


def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so, as it soon is."""
    given_up_at = time.monotonic() + PATIENCE_S
    looked_at = time.monotonic()
    while not is_so():
        now = time.monotonic()
        assert now < given_up_at, "it never came to that"
        # Looks that cost much leave the machine to what is waited for.
        time.sleep(max(0.005, 2 * (now - looked_at)))
        looked_at = time.monotonic()


class Slow:
    """The clock of a gateway whose tasks take hours, until a test lets them end."""

    def __init__(self) -> None:
        self._late_s = 0.0
        self._speed = 0.0
        self._sped_up_at = 0.0

    def __call__(self) -> float:
        now = time.time()
        return now + self._late_s + (now - self._sped_up_at) * self._speed

    def let_tasks_end(self, of_at_most_s: float = 10_000.0) -> None:
        """Let the tasks of this moment end, or those of a latency of at most so many seconds."""
        self._late_s += of_at_most_s

    def speed_up(self) -> None:
        """Let hours pass in less than a second from now on."""
        if not self._speed:
            self._speed, self._sped_up_at = 10_000.0, time.time()

    def slow_down(self) -> None:
        """Let tasks take hours again."""
        self._late_s, self._speed = self() - time.time(), 0.0


@contextmanager
def dask_client() -> Iterator[Any]:
    """Start two workers of Dask, each a process."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def _total(lines: Any) -> Decimal:
    return sum((Decimal(line["cost"] or 0) for line in lines), Decimal(0))
