"""Which rows a retry is about."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.batch.call import results_of
from dreamo_batch.batch.reading import read_state
from dreamo_batch.errors import UsageError
from dreamo_batch.results import meanings

if TYPE_CHECKING:
    from collections.abc import Collection

    from dreamo_batch.execution.directory import RunDirectory
    from dreamo_batch.execution.stored import StoredTable


def choose(
    directory: RunDirectory,
    table: StoredTable,
    rows: Collection[Any] | pd.Series | None,
    classes: str | Collection[str] | None,
) -> frozenset[str]:
    """Give the jobs that a retry is about."""
    results = results_of(table.user, table.prepared, read_state(directory))
    is_failed = results[columns.STATUS] == columns.FAILED
    is_ambiguous = results[columns.STATUS] == columns.AMBIGUOUS
    wanted = is_failed if rows is None else is_failed | is_ambiguous
    if classes is not None:
        names = {classes} if isinstance(classes, str) else set(classes)
        known = meanings.classes() | {columns.AMBIGUOUS, *results[columns.ERROR_CLASS].dropna()}
        if unknown := sorted(names - known):
            near = difflib.get_close_matches(str(unknown[0]), known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(known))}."
            raise UsageError(f"classes: {unknown[0]!r} is no class of failures{meant}")
        of_class = is_failed & results[columns.ERROR_CLASS].isin(names)
        wanted = of_class | (is_ambiguous if columns.AMBIGUOUS in names else False)
    if rows is not None:
        wanted &= _mask(results.index, rows)
    return frozenset(results.loc[wanted.to_numpy(), columns.JOB_ID].dropna())


def _mask(index: pd.Index, rows: Collection[Any] | pd.Series) -> Any:
    labels = rows if isinstance(rows, pd.Series) else pd.Series(list(rows), dtype=object)
    values = labels.to_numpy()
    if len(values) == len(index) and all(isinstance(value, bool | np.bool_) for value in values):
        return values.astype(bool)
    wanted = {str(value) for value in values}
    texts = index.map(str)
    missing = sorted(wanted - set(texts))
    if missing:
        raise UsageError(f"row {missing[0]!r} is not in the table; labels look like {list(texts[:3])}")
    return texts.isin(wanted)
