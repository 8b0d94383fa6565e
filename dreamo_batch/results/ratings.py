"""Ratings of pictures: `rate` stores them, `ratings` reads them back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.arguments import is_number
from dreamo_batch.errors import UsageError
from dreamo_batch.results import rating_log
from dreamo_batch.results.frame import places_of, row_mask
from dreamo_batch.results.history import LABEL, labelled
from dreamo_batch.results.load import RunDir, existing, list_run_dirs, load
from dreamo_batch.text import quoted, wording

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path


LOWEST, HIGHEST = 1, 5
WORDS: Final = (rating_log.PICK, rating_log.REJECT, rating_log.UNDO)


def rate(
    run_dir: RunDir, rows: Collection[Any] | pd.Series, value: int | str, *, rater: str | None = None
) -> pd.DataFrame:
    """Rate, pick or reject pictures; kept at once in the run directory, in `ratings.parquet`.

    The file only grows: what is said later counts, and nothing is overwritten. Several people, and several processes,
    may rate in the same directory at the same time.

    Parameters
    ----------
    run_dir : path
        A run directory, also while a run is in progress there.
    rows : collection or pandas.Series
        Index labels, also as text, ranges such as ``"3-7"``, job ids, or a boolean for every row.
    value : int or str
        1 to 5; ``"pick"`` to keep the picture, ``"reject"`` not to; ``"undo"`` to take back what you said last of it.
    rater : str, optional
        Who rates; default: the environment's ``DREAMO_RATER``, else the name of the user.

    Returns
    -------
    pandas.DataFrame
        One line per picture meant, with its row, job, and your `rating` and `picked` as they are now.

    Raises
    ------
    UsageError
        If there is no such row or value, or a row has no picture. Nothing is kept then.
    DirectoryError
        If there is no run directory, or its ratings can't be read.
    StorageFailed
        If it can't be written.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="a beach", seed=[1, 2], size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> _ = dreamo.rate(run_dir, [0], 5)
    >>> _ = dreamo.rate(run_dir, [0], "pick")
    >>> dreamo.load(run_dir)[["seed", "rating", "picked"]].values.tolist()
    [[1, 5.0, True], [2, nan, <NA>]]
    """
    results = load(run_dir)
    positions = np.flatnonzero(row_mask(results.index, rows, results[columns.JOB_ID])).tolist()
    rate_positions(results, positions, value, folders=places_of(results), rater=rater)
    chosen = labelled(results).iloc[positions].drop_duplicates(columns.JOB_ID)[[LABEL, columns.JOB_ID]]
    current = rating_log.by_job(existing(run_dir).path, rating_log.rater_named(rater))
    return chosen.join(current, on=columns.JOB_ID).rename(columns={LABEL: columns.ROW}).reset_index(drop=True)


def rate_positions(
    results: pd.DataFrame,
    positions: Sequence[int],
    value: int | str,
    *,
    folders: Sequence[Path],
    rater: str | None,
) -> None:
    """Store ratings of rows' pictures, each in its row's directory; refuse rows without a picture."""
    kind, number = _read(value)
    is_bare = results[[columns.JOB_ID, columns.OUTPUT_PATH]].isna().any(axis=1).to_numpy()
    if bare := [position for position in positions if is_bare[position]]:
        labels = ", ".join(str(results.index[position]) for position in bare[:5])
        raise UsageError(f"No picture to rate in row {labels}. Rate rows that are completed and saved.")
    name = rating_log.rater_named(rater)
    of_folder: dict[Path, dict[str, None]] = {}  # each job once, in the given order
    for position in positions:
        of_folder.setdefault(folders[position], {})[str(results[columns.JOB_ID].iloc[position])] = None
    for folder, jobs in of_folder.items():
        line = {columns.RATER: name, columns.KIND: kind, columns.VALUE: number}
        rating_log.rating_table(folder).append({columns.JOB_ID: job_id, **line} for job_id in jobs)


def _read(value: int | str) -> tuple[str, float | None]:
    if isinstance(value, str) and value in WORDS:
        return value, None
    is_whole = is_number(value) and float(value).is_integer()
    if is_whole and LOWEST <= float(value) <= HIGHEST:
        return rating_log.RATING, float(value)
    raise UsageError(
        f"{wording('value=', 'VALUE ')}{quoted(value)}: expected {LOWEST} to {HIGHEST}, or one of "
        f"{', '.join(map(repr, WORDS))}."
    )


def ratings(run_dir: RunDir | Iterable[RunDir]) -> pd.DataFrame:
    """Read everything that was said of pictures, oldest first.

    Parameters
    ----------
    run_dir : path, or iterable of paths
        One or more run directories.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.RATINGS_READ`, and `run_dir` where there are several directories; empty if
        nothing was rated. What counts in `rating` and `picked` of the results is marked in `stands`.

    Raises
    ------
    DirectoryError
        If there is no run directory, or its ratings can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="a beach", seed=[1, 2], size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> for value in (3, 5, "undo"):
    ...     _ = dreamo.rate(run_dir, [1], value, rater="ann")
    >>> dreamo.ratings(run_dir)[["row", "rater", "kind", "value", "stands"]].values.tolist()
    [['1', 'ann', 'rating', 3.0, True], ['1', 'ann', 'rating', 5.0, False], ['1', 'ann', 'undo', nan, False]]
    """
    read = {os.fspath(path): _ratings_of(path) for path in list_run_dirs(run_dir)}
    if len(read) > 1:
        read = {name: lines.assign(**{columns.RUN_DIR: name}) for name, lines in read.items()}
    return pd.concat(read.values()).sort_values(columns.AT, kind="stable", ignore_index=True)


def _ratings_of(run_dir: RunDir) -> pd.DataFrame:
    rows = labelled(load(run_dir)).dropna(subset=columns.JOB_ID).drop_duplicates(columns.JOB_ID)
    log = rating_log.rating_table(existing(run_dir).path).frame()
    log[columns.ROW] = log[columns.JOB_ID].map(rows.set_index(columns.JOB_ID)[LABEL])
    log[columns.STANDS] = log.index.isin(rating_log.ratings_in_force(log))
    return columns.typed(log[list(columns.RATINGS_READ)], columns.RATINGS_READ)
