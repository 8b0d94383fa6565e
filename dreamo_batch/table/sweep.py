"""Make a table from axes: every combination, or some of them varied together.

Examples
--------
>>> sweep(image="https://example.com/cat.png", prompt=["a cat", "a dog"], seed=range(1, 3))[["prompt", "seed"]]
  prompt  seed
0  a cat     1
1  a cat     2
2  a dog     1
3  a dog     2
"""

from __future__ import annotations

import builtins
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.table.axes import read_axis
from dreamo_batch.table.cells import read_integer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_ROWS = 100_000


def sweep(
    *,
    image: Any,
    prompt: Any,
    seed: Any = None,
    n_seeds: int | None = None,
    size: Any = None,
    width: Any = None,
    height: Any = None,
    use_rephraser: Any = None,
    replicate: Any = None,
    zip: Iterable[Any] = (),  # noqa: A002 - the word every user of Python knows for it
    max_rows: int = MAX_ROWS,
    **user_axes: Any,
) -> pd.DataFrame:
    """Make a table of all combinations of the values given.

    Every argument is an axis: one value, or any iterable of values. Rows are in the order of nested loops, the
    first axis outermost and the last one varying fastest; axes are in the order of the signature, then the
    user's own as they were written. A group in `zip` stands where its first member would.

    Parameters
    ----------
    image : path, URL, bytes, PIL image, glob pattern, or iterable of these
        Reference pictures. ``"refs/*.png"`` means all files that match, sorted by name.
    prompt : str or iterable of str
        What to draw.
    seed : int or iterable of int, optional
        Seeds; None or -1 within a list: drawn when the table is run.
    n_seeds : int, optional
        That many rows with the seed missing, instead of `seed`: the run draws and records them.
    size : str, pair of int, or iterable of these, optional
        ``"16:9"``, ``"1328x1328"`` or ``(1328, 1328)``, instead of `width` and `height`.
    width, height : int or iterable of int, optional
        In pixels.
    use_rephraser : bool or iterable of bool, optional
        Whether the service may rewrite the prompt.
    replicate : int or iterable of int, optional
        Buys the same job once per value: ``replicate=range(3)`` for three.
    zip : iterable of groups of names, optional
        Axes of equal length that vary together: ``zip=(("prompt", "seed"),)`` pairs first with first.
        One group alone may be given as it is: ``zip=("prompt", "seed")``.
    max_rows : int, default 100_000
        Refuse to make more rows than this.
    **user_axes
        Further columns, carried through to the results.

    Returns
    -------
    pandas.DataFrame
        On a RangeIndex; columns only for what was given. `Int64` for integers, `boolean` for `use_rephraser`,
        `str` for text, `object` for pictures in memory.

    Raises
    ------
    UsageError
        If an axis is empty or holds what it can't, axes that vary together differ in length, a name of
        another column is used, or there would be more than `max_rows` rows.

    Examples
    --------
    >>> table = sweep(image="https://example.com/cat.png", prompt="a cat", size=["1:1", "16:9"], n_seeds=4)
    >>> len(table), table["seed"].isna().sum()
    (8, np.int64(8))
    >>> pairs = sweep(image="https://example.com/cat.png", prompt=["a", "b"], mood=["x", "y"], zip=("prompt", "mood"))
    >>> pairs[["prompt", "mood"]].values.tolist()
    [['a', 'x'], ['b', 'y']]
    """
    most = _read_count("max_rows", max_rows)
    _refuse_taken_names(user_axes)
    given = {
        columns.IMAGE: image,
        columns.PROMPT: prompt,
        columns.SEED: _seeds(seed, n_seeds, most),
        columns.SIZE: size,
        columns.WIDTH: width,
        columns.HEIGHT: height,
        columns.USE_REPHRASER: use_rephraser,
        columns.REPLICATE: replicate,
    } | user_axes
    axes = {
        name: read_axis(name, value, most=most)
        for name, value in given.items()
        if value is not None or name in {columns.IMAGE, columns.PROMPT, *user_axes}
    }
    groups = _groups(axes, _tied(zip))
    _refuse_explosion(axes, groups, most)
    return _product(axes, groups)


def _read_count(name: str, given: Any) -> int:
    read = read_integer(given)
    if read.value is None or read.value < 1:
        raise UsageError(f"{name} is {given!r}; a whole number of at least 1 was expected.")
    return int(read.value)


def _seeds(seed: Any, n_seeds: int | None, most: int) -> Any:
    if n_seeds is None:
        return seed
    if seed is not None:
        raise UsageError(
            "Both seed and n_seeds are given. Keep seed to choose seeds, n_seeds to have them drawn."
        )
    return [None] * min(_read_count("n_seeds", n_seeds), most + 1)


def _refuse_taken_names(user_axes: dict[str, Any]) -> None:
    for name in user_axes:
        if name in columns.OUTPUTS:
            raise UsageError(
                f"{name} is a column that comes back. Name the axis otherwise, for example my_{name}."
            )
        if name in columns.IMAGE_ALIASES:
            raise UsageError(f"Give the pictures as image=, whatever they are, rather than {name}=.")


def _tied(groups: Iterable[Any]) -> list[tuple[str, ...]]:
    listed = [groups] if isinstance(groups, str) else list(groups)
    if listed and all(isinstance(name, str) for name in listed):
        return [tuple(listed)]
    return [tuple(group) for group in listed]


def _groups(axes: dict[str, list[Any]], tied: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    names = [name for group in tied for name in group]
    for name in names:
        if name not in axes:
            raise UsageError(f"zip names {name!r}, which is no axis here; there are: {', '.join(axes)}.")
        if names.count(name) > 1:
            raise UsageError(f"zip names {name!r} twice; an axis can vary with one group only.")
    for group in tied:
        _refuse_unequal_lengths({name: len(axes[name]) for name in group})
    group_of = {name: group for group in tied for name in group}
    return list(dict.fromkeys(group_of.get(name, (name,)) for name in axes))


def _refuse_unequal_lengths(lengths: dict[str, int]) -> None:
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise UsageError(f"Axes that vary together need equally many values, but {listed}.")


def _refuse_explosion(axes: dict[str, list[Any]], groups: Sequence[tuple[str, ...]], most: int) -> None:
    lengths = {" and ".join(group): len(axes[group[0]]) for group in groups}
    n_rows = math.prod(lengths.values())
    if n_rows <= most:
        return
    factors = " x ".join(f"{n:,} {name}" for name, n in lengths.items() if n > 1)
    at_least = "at least " if max(lengths.values()) > most else ""
    raise UsageError(
        f"The sweep would have {at_least}{n_rows:,} rows ({factors}), more than max_rows={most:,}. "
        "Give fewer values, or a larger max_rows if you mean it."
    )


def _product(axes: dict[str, list[Any]], groups: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    lengths = [len(axes[group[0]]) for group in groups]
    row = np.arange(math.prod(lengths))
    # How many rows a value stays the same for: all combinations of the axes behind it.
    spans = [math.prod(lengths[number + 1 :]) for number in range(len(lengths))]
    place_of = {
        name: row // span % length
        for group, span, length in builtins.zip(groups, spans, lengths, strict=True)
        for name in group
    }
    return pd.DataFrame({name: _column(name, values).take(place_of[name]) for name, values in axes.items()})


def _column(name: str, values: list[Any]) -> Any:
    dtype = columns.INPUTS[name].dtype if name in columns.INPUTS else None
    if name == columns.IMAGE and all(isinstance(value, str) for value in values):
        dtype = columns.STR
    if dtype not in {None, "object"}:
        return pd.array(values, dtype=dtype)
    boxed = np.empty(len(values), dtype=object)
    for number, value in enumerate(values):
        boxed[number] = value  # one by one: numpy would take lists and pictures apart
    return boxed if dtype else pd.Series(boxed).infer_objects().array
