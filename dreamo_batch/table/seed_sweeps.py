"""Find rows that differ only in their seed while the service may rewrite the prompt of each.

Examples
--------
>>> import pandas as pd
>>> from dreamo_batch.table.distinct import distinct
>>> codes = [distinct(pd.Series(["a cat", "a cat", "a dog"])).codes]
>>> is_swept(codes, np.array([1, 2, 1]), np.array([True, True, True])).tolist()
[True, True, False]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.table.distinct import distinct
from dreamo_batch.table.schema import image_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dreamo_batch.table.distinct import Distinct
    from dreamo_batch.table.fields import Seeds
    from dreamo_batch.table.findings import Findings
    from dreamo_batch.table.sizes import Sizes

CODE: Final = "seed-sweep-rephrased"


def find_rephrased_sweeps(
    findings: Findings, prompts: Distinct, seeds: Seeds, sizes: Sizes, use_rephraser: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Find seed sweeps that leave the rephraser on, and say so once for the whole table.

    Parameters
    ----------
    findings : Findings
        Of the table, with all that is wrong with its rows; takes the warning.
    prompts, seeds, sizes, use_rephraser
        What was read of the rows.

    Returns
    -------
    numpy.ndarray of bool
        Which rows have the prompt, picture and size of another row, a seed of their own, and the rephraser on.
        Pictures are told apart by their cells.
    """
    table = findings.of_table
    found = np.zeros(len(table), dtype=bool)
    at = np.flatnonzero(use_rephraser & ~findings.is_in_error())
    if len(at):
        images = [distinct(table[name]).codes[at] for name in image_columns(table)]
        rest = (prompts.codes[at], sizes.widths[at], sizes.heights[at])
        keys = numbered([*images, *rest])
        found[at] = is_swept([keys], seeds.numbers[at], seeds.is_given[at])
        n_sweeps = len(np.unique(keys[found[at]]))
        is_first = np.arange(len(table)) == np.argmax(found)
        findings.add(CODE, _column(table), found & is_first, n_rows=int(found.sum()), n_sweeps=n_sweeps)
    return found


def is_swept(
    keys: Sequence[NDArray[np.int64]], seeds: NDArray[np.int64], is_given: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Say which rows have equals in `keys` with another seed; a seed still to be drawn is another one.

    Examples
    --------
    >>> one = np.array([0, 0, 0])
    >>> is_swept([one], np.array([7, 7, 7]), np.array([True, True, True])).any()
    np.False_
    >>> is_swept([one], np.array([7, -1, -1]), np.array([False, False, True])).all()
    np.True_
    """
    numbers = numbered(keys)
    codes = numbered([seeds])
    pairs = pd.unique(numbers[is_given] * (len(codes) + 1) + codes[is_given])
    n_keys = int(numbers.max(initial=-1)) + 1
    n_seeds = np.bincount(pairs // (len(codes) + 1), minlength=n_keys)
    n_seeds += np.bincount(numbers[~is_given], minlength=n_keys)
    swept: NDArray[np.bool_] = (n_seeds > 1)[numbers]
    return swept


def numbered(keys: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Number the distinct rows of several keys.

    Examples
    --------
    >>> numbered([np.array([5, 5, 7]), np.array([1, 2, 1])]).tolist()
    [0, 1, 2]
    """
    # Numbered anew after each key, so that nothing overflows.
    numbers = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        codes, found = pd.factorize(key)
        numbers = pd.factorize(numbers * (len(found) + 1) + codes)[0]
    return numbers.astype(np.int64)


def _column(table: pd.DataFrame) -> str:
    """Name the column that the warning is about: what there is of switch, seed and prompt."""
    return next(n for n in (columns.USE_REPHRASER, columns.SEED, columns.PROMPT) if n in table.columns)
