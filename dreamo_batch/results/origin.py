"""Which run directory each row of a results table comes from.

Results carry it in the column `run_dir`, as it was given, so that it is still there after a concat or a merge; the
table's `attrs` know the absolute places, for a process that has moved to another folder since.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.table.cells import is_missing

if TYPE_CHECKING:
    import os

    from dreamo_batch.execution.directory import RunDirectory

_ATTRIBUTE: Final = "dreamo_run_dirs"
_NAMED_MAX: Final = 3


def mark(results: pd.DataFrame, directory: RunDirectory) -> pd.DataFrame:
    """Note in a table where it comes from; gives the same table back.

    Examples
    --------
    >>> from dreamo_batch.execution.directory import RunDirectory
    >>> run_dir_of(mark(pd.DataFrame({"prompt": ["a"]}), RunDirectory("runs/first"))).name
    'first'
    """
    results[columns.RUN_DIR] = pd.Series(directory.given, index=results.index, dtype=columns.STR)
    results.attrs[_ATTRIBUTE] = {directory.given: str(directory.path)}
    return results


def stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Put the results of several directories behind each other.

    Parameters
    ----------
    tables : list of pandas.DataFrame
        Marked results, at least one.

    Returns
    -------
    pandas.DataFrame
        The users' columns, then those of `dreamo_batch.columns.OUTPUTS`; labels are counted anew where none of the
        tables had any of its own, and `duplicate_of` counts in the whole.
    """
    if len(tables) == 1:
        return tables[0]
    is_unlabelled = all(isinstance(table.index, pd.RangeIndex) for table in tables)
    start, shifted = 0, []
    for table in tables:
        moved = (table[columns.DUPLICATE_OF] + start).astype(columns.INT)
        shifted.append(table.assign(**{columns.DUPLICATE_OF: moved}))
        start += len(table)
    whole = pd.concat(shifted, ignore_index=is_unlabelled)
    own = [name for name in whole.columns if name not in columns.OUTPUTS]
    whole = whole[[*own, *columns.OUTPUTS]]
    whole.attrs[_ATTRIBUTE] = {given: place for table in tables for given, place in _places(table).items()}
    return whole


def run_dir_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> Path:
    """Give the one run directory of a table: the one given, else the one its rows come from.

    Raises
    ------
    UsageError
        If it is not known, as with a table that was read from a CSV file, or if there are several.

    Examples
    --------
    >>> run_dir_of(pd.DataFrame(), "runs/first")
    PosixPath('runs/first')
    """
    if run_dir is not None:
        return Path(run_dir)
    found = _named(results)
    if len(found) > 1:
        told = ", ".join(list(found)[:_NAMED_MAX]) + (", ..." if len(found) > _NAMED_MAX else "")
        raise UsageError(
            f"These rows come from {len(found)} run directories ({told}). Give those of one, for example "
            f'results[results["{columns.RUN_DIR}"] == {next(iter(found))!r}].'
        )
    return next(iter(found.values()), None) or _only_known(results)


def folders_of(results: pd.DataFrame, run_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Give the run directory of each row: the one given for all, else the one that the row comes from.

    Raises
    ------
    UsageError
        If a row has a picture and it is not known where.

    Examples
    --------
    >>> folders_of(pd.DataFrame({"prompt": ["a", "b"]}), "runs/first")
    [PosixPath('runs/first'), PosixPath('runs/first')]
    """
    found = {} if run_dir is not None else _named(results)
    if not found:
        return [run_dir_of(results, run_dir)] * len(results)
    names = results[columns.RUN_DIR]
    has_picture = results[columns.OUTPUT_PATH].notna() if columns.OUTPUT_PATH in results else names.notna()
    lost = names.isna() & has_picture
    if lost.any():
        raise UsageError(
            f"{int(lost.sum())} rows have a picture and no {columns.RUN_DIR}, the first is row "
            f"{results.index[lost.to_numpy().argmax()]!r}: fill that column, or give run_dir=."
        )
    anywhere = next(iter(found.values()))  # for rows that have no picture, and none to be looked for
    return [anywhere if is_missing(name) else found[name] for name in names]


def _named(results: pd.DataFrame) -> dict[str, Path]:
    """Give the place of each run directory that the rows name."""
    if columns.RUN_DIR not in results.columns:
        return {}
    known = _places(results)
    named = results[columns.RUN_DIR].dropna().unique()
    return {name: _place(str(name), known.get(str(name))) for name in named}


def _place(given: str, known: str | None) -> Path:
    """Prefer the place that was known when the table was made, as long as it is there."""
    here = Path(given).expanduser().absolute()
    return Path(known) if known is not None and (Path(known).is_dir() or not here.is_dir()) else here


def _places(results: pd.DataFrame) -> dict[str, str]:
    known = results.attrs.get(_ATTRIBUTE)
    return known if isinstance(known, dict) else {}


def _only_known(results: pd.DataFrame) -> Path:
    places = list(_places(results).values())
    if len(places) != 1:
        raise UsageError(
            "where the pictures of this table are is not known: give run_dir=, or take the table from load(run_dir)."
        )
    return Path(places[0])
