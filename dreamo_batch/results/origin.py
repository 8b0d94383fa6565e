"""Which run directory a results table comes from; kept in the table's `attrs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from dreamo_batch.errors import UsageError

if TYPE_CHECKING:
    import os

    import pandas as pd

_ATTRIBUTE: Final = "dreamo_run_dir"


def mark(results: pd.DataFrame, run_dir: Path) -> pd.DataFrame:
    """Note in a table where it comes from; gives the same table back.

    Examples
    --------
    >>> import pandas as pd
    >>> run_dir_of(mark(pd.DataFrame(), Path("runs/first"))).name
    'first'
    """
    results.attrs[_ATTRIBUTE] = str(run_dir)
    return results


def run_dir_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> Path:
    """Give the run directory of a table: the one given, else the one it came from.

    Raises
    ------
    UsageError
        If neither is known, as with a table that was read from a CSV file.

    Examples
    --------
    >>> import pandas as pd
    >>> run_dir_of(pd.DataFrame(), "runs/first")
    PosixPath('runs/first')
    """
    if run_dir is not None:
        return Path(run_dir)
    known = results.attrs.get(_ATTRIBUTE)
    if known is None:
        raise UsageError(
            "where the pictures of this table are is not known: give run_dir=, or take the table from load(run_dir)."
        )
    return Path(known)
