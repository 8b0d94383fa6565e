"""Exact sums of money by group."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.execution.budget import EXACT, ZERO, money, text

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np


def sums(amounts: pd.Series, of_groups: np.ndarray, n_groups: int) -> pd.Series:
    """Add up the amounts that can be read, exactly, group by group.

    Parameters
    ----------
    amounts : pandas.Series of str
        Money as decimal text; missing where unknown.
    of_groups : numpy.ndarray of int
        The group of each.
    n_groups : int
        How many groups there are.

    Returns
    -------
    pandas.Series of str
        One text per group, "0" where nothing was added.

    Examples
    --------
    >>> import numpy as np
    >>> sums(pd.Series(["0.1", "0.2", None, "1"]), np.array([0, 0, 0, 2]), 3).tolist()
    ['0.3', '0', '1']
    """
    totals = [ZERO] * n_groups
    with localcontext(EXACT):
        for amount, number in zip(_read(amounts), of_groups, strict=True):
            if amount is not None:
                totals[number] += amount
    return pd.Series([text(total) for total in totals], dtype=columns.STR)


def _read(amounts: Iterable[object]) -> Iterable[Decimal | None]:
    """Read each different text once: a price is met thousands of times."""
    known: dict[str, Decimal | None] = {}
    for amount in amounts:
        if not isinstance(amount, str):
            yield None
            continue
        if amount not in known:
            known[amount] = money(amount)
        yield known[amount]
