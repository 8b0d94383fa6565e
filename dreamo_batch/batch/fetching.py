"""`download`: fetch pictures that were made and are not on disk; orders nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.batch.call import Task
from dreamo_batch.batch.connection import known_service, service_given
from dreamo_batch.batch.foreground import work_off
from dreamo_batch.batch.reading import load, read_state
from dreamo_batch.execution import checkpoint, stored
from dreamo_batch.execution.directory import RunDirectory, new_entropy
from dreamo_batch.execution.ledger import peek_entropy
from dreamo_batch.execution.options import RunOptions
from dreamo_batch.results import frame, history, origin
from dreamo_batch.table.schema import user_columns

if TYPE_CHECKING:
    import os

    from dreamo_batch.batch.connection import Gateway
    from dreamo_batch.service.client import Client


def download(
    results: pd.DataFrame | str | os.PathLike[str],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    client: Client | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    gateway: Literal["local"] | Gateway | None = None,
    allow_private_links: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Fetch pictures that were made and are missing on disk; orders nothing, whatever else is to be done.

    After ``run(..., download=False)``, a download that failed, or a file that is gone. Orders that are still open are
    asked for too; rows that were never ordered stay as they are.

    Parameters
    ----------
    results : pandas.DataFrame or path-like
        Rows of results, any part of them, or a run directory for all of its table.
    run_dir : path-like, optional
        The run directory; default: the one that the results came from.
    client, api_key, base_url, gateway, allow_private_links, progress
        As for `run`; a run of the local gateway is recognised by itself.

    Returns
    -------
    pandas.DataFrame
        The same rows as they stand now. What could not be fetched says why in `output_error`.

    Raises
    ------
    UsageError
        If these are no results, their directory is not known, or a run is going on in it.
    DirectoryError, RunStopped
        As for `run`.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", download=False, progress=False)
    >>> saved = dreamo.download(done.head(1), progress=False)
    >>> done["output_path"].isna().tolist(), saved["output_path"].isna().tolist()
    ([True, True], [False])
    """
    rows = results if isinstance(results, pd.DataFrame) else load(results)
    history.refuse_other_tables(rows)
    directory = RunDirectory(origin.run_dir_of(rows, run_dir))
    service = service_given(
        client=client,
        api_key=api_key,
        base_url=base_url,
        gateway=gateway,
        allow_private_links=allow_private_links,
    )
    work_off(*_nothing_ordered(directory, rows), known_service(directory, service), show=progress)
    return _as_they_stand(rows, directory)


def _nothing_ordered(directory: RunDirectory, rows: pd.DataFrame) -> tuple[RunDirectory, Task, str]:
    table = stored.read_jobs(directory.jobs)
    wanted = frozenset(rows[columns.JOB_ID].dropna())
    task = Task(table.user, table.prepared, RunOptions(), fetched=wanted)
    return directory, task, peek_entropy(directory) or new_entropy()


def _as_they_stand(rows: pd.DataFrame, directory: RunDirectory) -> pd.DataFrame:
    """Lay what the ledger knows now beside the rows, also those that the directory's table no longer has."""
    orders = checkpoint.to_frame(
        checkpoint.to_arrow(read_state(directory), rows[columns.JOB_ID].dropna().unique())
    )
    fresh = frame.assemble(rows[user_columns(rows)], rows.reset_index(drop=True), orders)
    return origin.mark(fresh, directory)
