"""Which rows of a table are meant, by labels or by a boolean for each.

Examples
--------
>>> import pandas as pd
>>> positions(pd.Index(["a", "b", "c"]), ["c", "a"]), positions(pd.RangeIndex(3), [True, False, True])
([0, 2], [0, 2])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dreamo_batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection


def positions(index: pd.Index, rows: Collection[Any] | pd.Series) -> list[int]:
    """Find rows.

    Parameters
    ----------
    index : pandas.Index
        Of the table.
    rows : collection or pandas.Series
        Labels, or a boolean for every row.

    Returns
    -------
    list of int
        Their positions, ascending; a label that several rows have means all of them.

    Raises
    ------
    UsageError
        If a label is not there.
    """
    values = list(rows)
    if len(values) == len(index) and all(isinstance(value, bool | np.bool_) for value in values):
        return [position for position, is_meant in enumerate(values) if is_meant]
    wanted = pd.Index(values) if index.nlevels == 1 else pd.MultiIndex.from_tuples(values)
    absent = [label for label in values if label not in index]
    if absent:
        raise UsageError(
            f"row {absent[0]!r} is not in the table; labels look like {index[:3].tolist()}. Give labels, or a boolean "
            "for every row."
        )
    return [int(position) for position in np.flatnonzero(index.isin(wanted))]
