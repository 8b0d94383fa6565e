"""Traces of purchases outside the ledger: saved pictures and results that it must know of.

What they show as bought and the ledger does not know was lost from the ledger, and would be bought again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pyarrow.compute as pc
import pyarrow.parquet as pq

from dreamo_batch import columns
from dreamo_batch.errors import LedgerDamaged
from dreamo_batch.execution.checkpoint import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dreamo_batch.execution.directory import RunDirectory
    from dreamo_batch.execution.state import State

_PICTURE: Final = re.compile(r"([0-9a-f]{32})(-(order-)?\d+)?\.\w+")


def refuse_unknown_purchases(directory: RunDirectory, state: State) -> None:
    """Refuse a ledger that does not know what the directory shows as bought.

    Raises
    ------
    LedgerDamaged
        If a saved picture or a row of the results has no order in the ledger; the message names the first.
    """
    for trace in unknown_purchases(directory, state):
        raise LedgerDamaged(
            f"{trace} in {directory.path} shows that a picture was bought, but the ledger does not know of it: lines "
            "at its end were lost, or files of two run directories were mixed. Buying again could pay twice, so "
            "nothing is bought. Restore the ledger from a copy, or take the file away if it does not belong there."
        )


def unknown_purchases(directory: RunDirectory, state: State) -> Iterator[str]:
    """Name what shows a purchase that the ledger does not know of.

    Examples
    --------
    >>> from dreamo_batch.execution.directory import RunDirectory
    >>> from dreamo_batch.execution.state import State
    >>> list(unknown_purchases(RunDirectory("runs/none"), State()))
    []
    """
    for path in pictures(directory):
        if not state.of(path.stem.partition("-")[0]):
            yield f"images/{path.name}"
    for job_id in _bought(directory.results):
        if not state.of(job_id):
            yield f"results.parquet (job {job_id})"


def pictures(directory: RunDirectory) -> list[Path]:
    """List the files that are named as saved pictures are; whatever else lies there is the user's."""
    if not directory.images.is_dir():
        return []
    return sorted(path for path in directory.images.iterdir() if _PICTURE.fullmatch(path.name))


def _bought(results: Path) -> list[str]:
    """List the jobs that the results show as ordered; results that can't be read show nothing."""
    try:
        table = pq.read_table(results, columns=[columns.JOB_ID, columns.TASK_ID])
        is_bought = pc.and_(pc.is_valid(table[columns.TASK_ID]), pc.is_valid(table[columns.JOB_ID]))
        job_ids: list[str] = pc.unique(table[columns.JOB_ID].filter(is_bought)).to_pylist()
    except UNREADABLE:
        return []
    return job_ids
