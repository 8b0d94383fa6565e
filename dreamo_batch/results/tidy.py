"""Results as other tools want them: one flat table of rows, and one line per picture."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.table.portable import with_index_as_columns

if TYPE_CHECKING:
    from collections.abc import Iterable

_ORDERED: Final = (columns.WIDTH, columns.HEIGHT, columns.USE_REPHRASER)
# What `jobs.parquet` tells of a job.
DECIDED: Final = (*_ORDERED, columns.IMAGE_SOURCE, columns.IMAGE_DIGEST, columns.IMAGE_SENT)
_SOURCES: Final = {
    columns.SEED: columns.SEED_SENT,
    columns.WIDTH: columns.OUTPUT_WIDTH,
    columns.HEIGHT: columns.OUTPUT_HEIGHT,
}
# Columns that the line of a picture has no place for: where the reference lay, and what was asked for in other words.
_LEFT_OUT: Final = (columns.IMAGE, *columns.IMAGE_ALIASES, columns.SIZE)
# Endings by which the Hugging Face loader takes a column for one of files.
_LOADED: Final = ("file_name", "file_names")


def flat(results: pd.DataFrame, decided: pd.DataFrame) -> pd.DataFrame:
    """Make one flat table: the index as columns, and beside each row what was ordered where it had said nothing.

    Parameters
    ----------
    results : pandas.DataFrame
        As from `dreamo_batch.run` or `load`, or rows of it.
    decided : pandas.DataFrame
        What `jobs.parquet` keeps of each job, by job id.

    Returns
    -------
    pandas.DataFrame
        On a RangeIndex.

    Raises
    ------
    TableError
        If a level of the index is named like a column.
    """
    table = with_index_as_columns(results).drop(
        columns=columns.RUN_DIR, errors="ignore"
    )  # it is not given away
    jobs = decided.reindex(table[columns.JOB_ID])
    for name in _ORDERED:
        ordered = jobs[name].astype(columns.INPUTS[name].dtype).set_axis(table.index)
        table[name] = ordered if name not in table else table[name].astype(object).fillna(ordered)
        table[name] = table[name].astype(columns.INPUTS[name].dtype)
    return table


def pictures(table: pd.DataFrame, decided: pd.DataFrame, names: pd.Series) -> pd.DataFrame:
    """Make one line per picture, that of the row it was bought for.

    Parameters
    ----------
    table : pandas.DataFrame
        As from `flat`.
    decided : pandas.DataFrame
        As there.
    names : pandas.Series of str
        File name of each picture, by position of its row.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.PICTURES`, then the user's own; those whose names are taken, or which a
        loader would take for files, end in ``_text``.
    """
    rows = table.loc[names.index]
    jobs = decided.reindex(rows[columns.JOB_ID])
    lines = rows.assign(
        **{
            columns.FILE_NAME: names,
            columns.REFERENCE: [_base_name(place) for place in jobs[columns.IMAGE_SOURCE]],
            columns.IMAGE_DIGEST: jobs[columns.IMAGE_DIGEST].to_numpy(),
        },
        **{name: rows[source] for name, source in _SOURCES.items()},
    )
    told = lines[list(columns.PICTURES)].astype(columns.dtypes(columns.PICTURES))
    own = rows[[name for name in rows.columns if name not in {*columns.INPUTS, *columns.OUTPUTS, *_LEFT_OUT}]]
    return pd.concat([told, own.set_axis(_free(own.columns), axis=1)], axis=1).reset_index(drop=True)


def _base_name(place: object) -> str | None:
    """Give the last part of a path or URL: the folders of somebody's machine are nobody's business."""
    return PurePosixPath(urlsplit(place).path).name or None if isinstance(place, str) else None


def _free(names: Iterable[str]) -> list[str]:
    taken = {*columns.PICTURES, *columns.INPUTS}
    free = []
    for name in map(str, names):
        fresh = f"{name}_text" if name in taken or name.endswith(_LOADED) else name
        while fresh in taken:
            fresh += "_"
        taken.add(fresh)
        free.append(fresh)
    return free
