"""What a report is made from, read once so that every section tells of the same moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreamo_batch import columns
from dreamo_batch.results.attempts import list_attempts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    import pandas as pd

    from dreamo_batch.execution.directory import Manifest
    from dreamo_batch.results.history import History


@dataclass(frozen=True, slots=True)
class Facts:
    """A run directory at one moment.

    Attributes
    ----------
    name : str
        The run directory, as it was given.
    path : pathlib.Path
        Where it is.
    manifest : Manifest or None
        Its `run.json`.
    results : pandas.DataFrame
        As from `dreamo_batch.load`.
    history : History
        Its rows and orders.
    decided : pandas.DataFrame
        What was decided for each row, by position: `dreamo_batch.execution.stored.StoredTable.decided`.
    summary : mapping
        As from `dreamo_batch.status`.
    is_worked_on : bool
        Whether a process is writing to it now.
    made_at : datetime
        When the report was made (UTC).
    """

    name: str
    path: Path
    manifest: Manifest | None
    results: pd.DataFrame
    history: History
    decided: pd.DataFrame
    summary: Mapping[str, Any]
    is_worked_on: bool
    made_at: datetime

    @property
    def rows(self) -> pd.DataFrame:
        """The results on a RangeIndex."""
        return self.history.rows

    @property
    def orders(self) -> pd.DataFrame:
        """Every order of the directory."""
        return self.history.orders

    @property
    def attempts(self) -> pd.DataFrame:
        """Every order with the row it was made for."""
        return list_attempts(self.history)

    @property
    def is_local(self) -> bool:
        """Whether the service was a gateway on this machine, whose pictures are previews."""
        return self.manifest is not None and self.manifest.service == "loopback"

    @property
    def bought(self) -> pd.DataFrame:
        """Rows that are jobs of their own: neither invalid nor the same as an earlier row."""
        return self.rows[self.rows[columns.JOB_ID].notna() & self.rows[columns.DUPLICATE_OF].isna()]
