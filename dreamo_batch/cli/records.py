"""A frame as plain Python values: what JSON and terminals can show.

Examples
--------
>>> import pandas as pd
>>> records(pd.DataFrame({"seed": pd.array([7, None], dtype="Int64"), "cost_usd": [0.5, float("nan")]}))
[{'seed': 7, 'cost_usd': 0.5}, {'seed': None, 'cost_usd': None}]
"""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns

if TYPE_CHECKING:
    import pandas as pd

_PLAIN: Final = (str, bool, int, float)


def records(frame: pd.DataFrame, *, with_position: bool = False) -> list[dict[str, Any]]:
    """Give each row as a dictionary of plain values.

    Parameters
    ----------
    frame : pandas.DataFrame
        Any frame, any dtypes.
    with_position : bool
        Begin each row with its label, also where this is only its position, unless there is a column `row`.

    Returns
    -------
    list of dict
        Column to value; anything missing, also NaN and infinity, is None; times are ISO 8601 text. An index that
        says more than the position comes first, as columns.

    Examples
    --------
    >>> import pandas as pd
    >>> records(pd.DataFrame({"prompt": ["a fox"]}, index=["first"]))
    [{'row': 'first', 'prompt': 'a fox'}]
    """
    is_labelled = not _is_position(frame.index) or (with_position and columns.ROW not in frame)
    labels = _labels(frame) if is_labelled else {}
    cells = labels | {
        str(name): [plain(cell) for cell in frame[name].astype(object)] for name in frame.columns
    }
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def plain(cell: Any) -> Any:
    """Give a cell as text, number, boolean or None.

    Parameters
    ----------
    cell : object
        Anything.

    Returns
    -------
    str, int, float, bool or None

    Examples
    --------
    >>> import numpy as np
    >>> plain(np.int64(3)), plain(float("inf")), plain(("a", 1))
    (3, None, "('a', 1)")
    """
    import numpy as np
    import pandas as pd

    if isinstance(cell, np.generic):
        cell = cell.item()
    if (
        cell is None
        or cell is pd.NA
        or cell is pd.NaT
        or (isinstance(cell, float) and not math.isfinite(cell))
    ):
        return None
    if isinstance(cell, dt.datetime):
        return cell.isoformat()
    return cell if isinstance(cell, _PLAIN) else str(cell)


def _is_position(index: pd.Index) -> bool:
    import pandas as pd

    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1 and index.name is None


def _labels(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Give the index by level, under names that no column has."""
    index = frame.index
    names = [columns.ROW if name is None else str(name) for name in index.names]
    taken = {str(name) for name in frame.columns}
    return {
        _free(name, number, taken): [plain(label) for label in index.get_level_values(number)]
        for number, name in enumerate(names)
    }


def _free(name: str, number: int, taken: set[str]) -> str:
    name = name if name not in taken else f"{name}_{number}"
    taken.add(name)
    return name
