"""What a commit costs where the ledger lies: on the disk, in memory, in our stand-in for S3, and in SeaweedFS."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import obstore.store
from report import Figure, show

import dreamo_batch as dreamo
from dreamo_batch.engine import replica
from dreamo_batch.engine.journal import Journal
from dreamo_batch.engine.store import ObjectStore
from tests.object_server import find_seaweedfs, object_server, seaweedfs

if TYPE_CHECKING:
    from collections.abc import Iterator

_N = 100
_URL = "s3://bucket/run"


def main() -> None:
    """Buy the same table in each place."""
    with tempfile.TemporaryDirectory() as folder, dreamo.LocalGateway(engine="flat") as gateway:
        for name in ("", "a directory"):  # the first one warms everything up
            plain = _bought_in(Path(folder) / f"run{name}", gateway, name, None)
        with _in_memory():
            _bought_in(_URL, gateway, "obstore's MemoryStore", plain)
        with object_server() as server, mock.patch.dict(os.environ, server.environment):
            _bought_in(_URL, gateway, "the stand-in for S3", plain)
        if find_seaweedfs() is not None:
            (Path(folder) / "weed").mkdir()
            with seaweedfs(Path(folder) / "weed") as server, mock.patch.dict(os.environ, server.environment):
                _bought_in(_URL, gateway, "SeaweedFS", plain)


@contextmanager
def _in_memory() -> Iterator[None]:
    kept = ObjectStore(_URL, obstore.store.MemoryStore())
    with mock.patch.object(replica, "open_store", return_value=kept):
        yield


def _bought_in(place: str | Path, gateway: dreamo.LocalGateway, name: str, baseline: float | None) -> float:
    """Buy a table in a new directory, and show what its commits cost; return the seconds that all took."""
    jobs = dreamo.sweep(
        image="data/mascot.png", prompt="on a beach", seed=range(1, _N + 1), use_rephraser=False
    )
    seconds: list[float] = []
    commit = Journal._commit

    def timed(journal: Journal, data: bytes) -> None:
        began_at = time.perf_counter()
        commit(journal, data)
        seconds.append(time.perf_counter() - began_at)

    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict(os.environ, {replica.CACHE_VARIABLE: cache}),
        mock.patch.object(Journal, "_commit", timed),
    ):
        began_at = time.perf_counter()
        dreamo.run(jobs, place, gateway=gateway, max_in_flight=16, progress=False)
        took = time.perf_counter() - began_at
    told = f"{len(seconds) / _N:.2f} commits a row, {1000 * sum(seconds) / len(seconds):.2f} ms each"
    if name:
        show(Figure(f"{_N} rows in {name}", told, None if baseline is None else took / baseline))
    return took
