"""The axes of a grid: which line each row of a table stands in, by any columns.

Numbers, times and categories are sorted; texts and pictures stand in the order in which they first appear.

Examples
--------
>>> table = pd.DataFrame({"prompt": ["b", "a", "b"], "seed": [2, 1, 1], "seed_sent": [2, 1, 1]})
>>> rows, seeds = read_axes(table, ["prompt"], ["seed"])
>>> rows.labels, rows.of_rows.tolist(), seeds.labels
((('b',), ('a',)), [0, 1, 0], (('1',), ('2',)))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.results.texts import key_of, label_of
from dreamo_batch.table.schema import image_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NUMBER: Final = "number"
"""Name of an axis that only counts."""
_DRAWN: Final = "drawn {}"


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis.

    Attributes
    ----------
    names : tuple of str
        Columns that it is made of; empty where it has only one line.
    labels : tuple of tuple of str
        For each line, its value of each column, as text.
    of_rows : numpy.ndarray of int
        The line that each row of the table stands in.
    """

    names: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    of_rows: NDArray[np.intp]

    def __len__(self) -> int:
        """Count the lines."""
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The values of one column: a code for each row, a label for each code; codes sort as values do."""

    codes: NDArray[np.intp]
    labels: Sequence[str]


def read_axes(results: pd.DataFrame, rows: Sequence[Any], across: Sequence[Any]) -> tuple[Axis, Axis]:
    """Find the lines of both axes.

    Parameters
    ----------
    results : pandas.DataFrame
        Results.
    rows, across : sequence of str
        Columns of each axis. ``"seed"`` is the seed that was sent; seeds that were not asked for but drawn differ
        from row to row, so that those are counted within what else is equal on the axes: ``drawn 1``, ...
        Nothing for `rows`: one line. Nothing for `across`: what stands in a line is counted.

    Returns
    -------
    tuple of Axis
        Rows and columns.

    Raises
    ------
    UsageError
        If there is no such column, or one is named twice.
    """
    _refuse(results, [*rows, *across])
    parts = {name: _part(results, name) for name in (*rows, *across) if not _is_seed(results, name)}
    for name in (*rows, *across):
        if _is_seed(results, name):
            parts[name] = _seeds(results, [part.codes for part in parts.values()])
    down = _axis(len(results), {name: parts[name] for name in rows})
    if across:
        return down, _axis(len(results), {name: parts[name] for name in across})
    return down, _axis(len(results), {NUMBER: _counted(down.of_rows)})


def _refuse(results: pd.DataFrame, names: Sequence[Any]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name!r} is named twice; a column can stand on one axis of a grid only.")
        if name not in results.columns and name not in (columns.SEED, columns.SIZE):
            known = ", ".join(str(column) for column in results.columns)
            raise UsageError(f"rows or columns: there is no column {name!r}; the columns are {known}.")


def _is_seed(results: pd.DataFrame, name: Any) -> bool:
    return bool(name == columns.SEED and columns.SEED_SENT in results.columns)


def _axis(n_rows: int, parts: dict[Any, _Part]) -> Axis:
    names = tuple(str(name) for name in parts)
    if not n_rows:
        return Axis(names, (), np.zeros(0, dtype=np.intp))
    if not parts:
        return Axis((), ((),), np.zeros(n_rows, dtype=np.intp))
    lines, of_rows = np.unique(
        np.column_stack([part.codes for part in parts.values()]), axis=0, return_inverse=True
    )
    labels = [
        tuple(part.labels[code] for part, code in zip(parts.values(), line, strict=True)) for line in lines
    ]
    return Axis(names, tuple(labels), of_rows.reshape(-1))


def _part(results: pd.DataFrame, name: Any) -> _Part:
    values = results[name] if name in results.columns else _missing_column(results, name)
    if _is_sorted(values):
        codes, distinct = pd.factorize(values, sort=True)
        labels = [label_of(value) for value in distinct]
    else:
        codes, distinct = pd.factorize(values.map(key_of))
        labels = _labels(values, codes, len(distinct), is_picture=name in image_columns(results))
    codes = np.where(codes < 0, len(distinct), codes).astype(np.intp)
    return _Part(codes, [*labels, label_of(None)])


def _missing_column(results: pd.DataFrame, name: Any) -> pd.Series:
    """Make a size or seed of what else tells it."""
    pairs = [(columns.WIDTH, columns.HEIGHT), (columns.OUTPUT_WIDTH, columns.OUTPUT_HEIGHT)]
    pair = next((pair for pair in pairs if set(pair) <= set(results.columns)), None)
    if name == columns.SEED or pair is None:
        raise UsageError(f"rows or columns: the table tells no {name}; name a column that it has.")
    width, height = (results[side].astype(columns.INT).astype(columns.STR) for side in pair)
    return width + "x" + height


def _is_sorted(values: pd.Series) -> bool:
    kinds = pd.api.types
    return bool(
        kinds.is_numeric_dtype(values)
        or kinds.is_datetime64_any_dtype(values)
        or isinstance(values.dtype, pd.CategoricalDtype)
    )


def _labels(values: pd.Series, codes: NDArray[np.intp], n: int, *, is_picture: bool) -> list[str]:
    firsts = np.unique(codes[codes >= 0], return_index=True)[1]
    given = values[codes >= 0].iloc[firsts]
    labels = [label_of(value, is_picture=is_picture) for value in given]
    doubled = {label for label in labels if labels.count(label) > 1} if n < _COMPARED_MAX else set()
    return [f"{label} ({place})" if label in doubled else label for place, label in enumerate(labels, 1)]


_COMPARED_MAX: Final = 1_000


def _seeds(results: pd.DataFrame, others: Sequence[NDArray[np.intp]]) -> _Part:
    sent = results[columns.SEED_SENT].astype(columns.INT)
    is_asked = _is_asked(results, sent).to_numpy()
    asked, numbers = np.unique(sent[is_asked].to_numpy(dtype=np.int64), return_inverse=True)
    keys = pd.DataFrame(dict(enumerate(others)), index=range(len(results)))[~is_asked]
    counted = keys.groupby(list(keys.columns)).cumcount().to_numpy() if len(others) else np.arange(len(keys))
    codes = np.zeros(len(results), dtype=np.intp)
    codes[is_asked], codes[~is_asked] = numbers, counted + len(asked)
    n_drawn = int(counted.max()) + 1 if len(counted) else 0
    return _Part(codes, [*map(str, asked), *(_DRAWN.format(n + 1) for n in range(n_drawn))])


def _is_asked(results: pd.DataFrame, sent: pd.Series) -> pd.Series:
    """Say which seeds the table named; where it has no such column, one that is met twice was hardly drawn."""
    is_sent = (sent >= 0).fillna(value=False).astype(bool)
    if columns.SEED in results.columns:
        return is_sent & (pd.to_numeric(results[columns.SEED], errors="coerce") >= 0).fillna(value=False)
    return is_sent & sent.duplicated(keep=False).any()


def drawn(results: pd.DataFrame) -> pd.Series:
    """Say of each row whether its seed was drawn rather than asked for."""
    sent = results[columns.SEED_SENT].astype(columns.INT)
    return ~_is_asked(results, sent) & sent.notna()


def _counted(of_rows: NDArray[np.intp]) -> _Part:
    counted = pd.Series(of_rows).groupby(of_rows).cumcount().to_numpy()
    return _Part(counted, [str(n + 1) for n in range(int(counted.max(initial=-1)) + 1)])
