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
    from types import EllipsisType

    from numpy.typing import NDArray

    Names = str | Sequence[Any] | EllipsisType | None

NUMBER: Final = "number"
"""Name of an axis that only counts."""
_DRAWN: Final = "drawn {}"
_CELLS_MAX: Final = 2  # for each row of the table, from which on a grid is mostly gaps


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
    """The values of one column: a code for each row, a label for each code; codes sort as values do.

    Bare values are numbers and truth values, which mean nothing without the column's name.
    """

    codes: NDArray[np.intp]
    labels: Sequence[str]
    is_bare: bool = False

    def label(self, code: int, name: Any, *, is_alone: bool) -> str:
        """Give a label; a number or truth value beside others says what it is of."""
        return f"{name} {self.labels[code]}" if self.is_bare and not is_alone else self.labels[code]


def read_axes(
    results: pd.DataFrame, rows: Sequence[Any], across: Sequence[Any], *, is_spread: bool = False
) -> tuple[Axis, Axis]:
    """Find the lines of both axes.

    Parameters
    ----------
    results : pandas.DataFrame
        Results.
    rows, across : sequence of str
        Columns of each axis. ``"seed"`` is the seed that was sent; seeds that were not asked for but drawn differ
        from row to row, so that those are counted within what else is equal on the axes: ``drawn 1``, ...
        Nothing for `rows`: one line. Nothing for `across`: what stands in a line is counted.
    is_spread : bool
        Count the jobs that share a cell, as one more column of `across`, so that none does.

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
    along = _axis(len(results), {name: parts[name] for name in across})
    if across and not is_spread:
        return down, along
    cells = _cells([down.of_rows, along.of_rows], len(results))
    numbers = _counted_jobs(results, cells) if is_spread else _counted(cells)
    if across and len(numbers.labels) <= 1:
        return down, along
    return down, _axis(len(results), {**{name: parts[name] for name in across}, NUMBER: numbers})


def choose_axes(results: pd.DataFrame, rows: Names, across: Names) -> tuple[list[Any], list[Any]]:
    """Choose the columns of each axis that was left open with ``...``.

    Prompts stand down and seeds across. What was asked for in other ways under the same prompt and seed (picture,
    size, rephraser, replicate, run directory) joins them, and so does any other column that tells rows apart which
    would else share a cell, unless that leaves mostly gaps. Seeds that would leave mostly gaps are counted instead.

    Parameters
    ----------
    results : pandas.DataFrame
        Results.
    rows, across : str, sequence of str, None or ...
        As the user gave them.

    Returns
    -------
    tuple of list
        Columns of each axis, as `read_axes` takes them.

    Examples
    --------
    >>> table = pd.DataFrame({"prompt": "a", "image": ["x.png", "y.png"], "seed": 1, "seed_sent": 1})
    >>> choose_axes(table, ..., ...)
    (['prompt', 'image'], ['seed'])
    """
    down = _there(results, [columns.PROMPT]) if rows is ... else listed(rows)
    along = _there(results, [columns.SEED]) if across is ... else listed(across)
    open_axes = [axis for axis, given in ((down, rows), (along, across)) if given is ...]
    if not open_axes or not len(results):
        return down, along
    _join_inputs(results, down, along, open_axes)
    if across is ... and _is_sparse(results, down, along):
        along = []
    elif across is not None:
        _join_others(results, down, along, open_axes[0])
    return down, along


def listed(names: str | Sequence[Any] | None) -> list[Any]:
    """Give one name, several or none as a list.

    Examples
    --------
    >>> listed("prompt"), listed(("prompt", "size")), listed(None)
    (['prompt'], ['prompt', 'size'], [])
    """
    if names is None:
        return []
    return list(names) if isinstance(names, list | tuple) else [names]


def _there(results: pd.DataFrame, names: Sequence[Any]) -> list[Any]:
    is_size_told = {columns.WIDTH, columns.HEIGHT} <= set(results.columns)
    told = {columns.SEED: columns.SEED_SENT in results.columns, columns.SIZE: is_size_told}
    return [name for name in names if name in results.columns or told.get(name, False)]


def _join_inputs(
    results: pd.DataFrame, down: list[Any], along: list[Any], open_axes: list[list[Any]]
) -> None:
    """Join what was asked for in different ways within a cell, where all drawn seeds count as one."""
    names = (
        columns.RUN_DIR,
        columns.PROMPT,
        *image_columns(results),
        columns.SIZE,
        columns.WIDTH,
        columns.HEIGHT,
    )
    candidates = _there(results, [*names, columns.USE_REPHRASER, columns.SEED, columns.REPLICATE])
    cells = _cells([_codes(results, name) for name in (*down, *along)], len(results))
    for name in candidates:
        if name in down or name in along:
            continue
        codes = _codes(results, name)
        if _differs(codes, cells):
            wanted = along if name in {columns.SEED, columns.REPLICATE} else down
            (wanted if any(wanted is axis for axis in open_axes) else open_axes[0]).append(name)
            cells = _cells([cells, codes], len(results))


def _join_others(results: pd.DataFrame, down: list[Any], along: list[Any], axis: list[Any]) -> None:
    """Join columns of the user's own that tell rows of one cell apart."""
    own = [name for name in results.columns if name not in columns.OUTPUTS and name not in columns.INPUTS]
    for name in own:
        lines = read_axes(results, down, along)
        cells = _cells([line.of_rows for line in lines], len(results))
        if not pd.Series(cells).duplicated().any():
            return
        if name in down or name in along or not _differs(_codes(results, name), cells):
            continue
        axis.append(name)
        if _is_sparse(results, down, along):
            axis.remove(name)


def _codes(results: pd.DataFrame, name: Any) -> NDArray[np.intp]:
    if not _is_seed(results, name):
        return _part(results, name).codes
    sent = results[columns.SEED_SENT].astype(columns.INT)
    codes: NDArray[np.intp] = pd.factorize(sent.where(_is_asked(results, sent)))[0]
    return codes


def _cells(codes: Sequence[NDArray[np.intp]], n_rows: int) -> NDArray[np.intp]:
    if not codes:
        return np.zeros(n_rows, dtype=np.intp)
    by_row = pd.DataFrame(dict(enumerate(codes)))
    numbers: NDArray[np.intp] = by_row.groupby(list(by_row.columns)).ngroup().to_numpy()
    return numbers


def _differs(codes: NDArray[np.intp], cells: NDArray[np.intp]) -> bool:
    different = pd.DataFrame({"cell": cells, "code": codes}).drop_duplicates()
    return bool(different["cell"].duplicated().any())


def _is_sparse(results: pd.DataFrame, down: list[Any], along: list[Any]) -> bool:
    lines = read_axes(results, down, along)
    return len(lines[0]) * len(lines[1]) > _CELLS_MAX * len(results)


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
    is_alone = len(parts) == 1
    labels = [
        tuple(
            part.label(code, name, is_alone=is_alone)
            for (name, part), code in zip(parts.items(), line, strict=True)
        )
        for line in lines
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
    return _Part(codes, [*labels, label_of(None)], is_bare=pd.api.types.is_numeric_dtype(values))


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


def _counted_jobs(results: pd.DataFrame, cells: NDArray[np.intp]) -> _Part:
    """Count the jobs of each cell; rows of the same one have the same number."""
    places = pd.Series(range(len(results))).astype(columns.STR)
    names = [name for name in (columns.RUN_DIR, columns.JOB_ID) if name in results.columns]
    jobs = [results[name].reset_index(drop=True).astype(columns.STR).fillna("") for name in names]
    keys = places
    if columns.JOB_ID in names:
        keys = (jobs[0] + " " + jobs[-1]).where(results[columns.JOB_ID].notna().to_numpy(), places)
    of_rows = pd.DataFrame({"cell": cells, "key": keys})
    lines = of_rows.drop_duplicates()
    numbers = lines.assign(number=lines.groupby("cell").cumcount())
    counted = of_rows.merge(numbers, on=["cell", "key"], how="left")["number"].to_numpy(dtype=np.intp)
    return _Part(counted, [str(n + 1) for n in range(int(counted.max(initial=-1)) + 1)], is_bare=True)


def _counted(of_rows: NDArray[np.intp]) -> _Part:
    counted = pd.Series(of_rows).groupby(of_rows).cumcount().to_numpy()
    return _Part(counted, [str(n + 1) for n in range(int(counted.max(initial=-1)) + 1)], is_bare=True)
