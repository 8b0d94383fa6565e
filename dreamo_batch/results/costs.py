"""What attempts cost, group by group: exact sums of money, and counts of what it bought."""

from __future__ import annotations

from decimal import localcontext
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.errors import UsageError
from dreamo_batch.jobs.fields import rating_columns
from dreamo_batch.money import EXACT, ZERO, exact_text, money
from dreamo_batch.results.load import DIRECTORY, Groups, History, group, read_history

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreamo_batch.results.load import Source

_USD_DIGITS: Final = 12  # far below a price, so that a difference of equal amounts is 0
_RATE_MIN: Final = 0.1  # less is rather an amount, which the service's page also calls a discount
_COUNTED: Final = (columns.COMPLETED, columns.FAILED, columns.AMBIGUOUS)
_DUPLICATE: Final = columns.ACTIONS[2]


def costs(
    source: Source, by: str | Sequence[str] | None = None, *, plan: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Add up what attempts cost, what was wasted and what is not known, group by group.

    Parameters
    ----------
    source : path, iterable of paths, or pandas.DataFrame
        One or more run directories, or results. From a directory the sums are those of its ledger, exact, over
        all its attempts. Results hold less: only the sum of all attempts of a job, and not what was reserved. Of
        rows that a merge or `pandas.concat` repeated, the first is counted.
    by : str, sequence of str, or None
        Columns of the results, ``"run_dir"``, ``"size"``, ``"hour"`` (UTC), or a length of time such as ``"1h"``
        (buckets of when attempts were sent, column `submitted_at`). None: one line for all.
    plan : pandas.DataFrame, optional
        What `plan` returned beforehand; adds `planned_low_usd` and `planned_high_usd`.

    Returns
    -------
    pandas.DataFrame
        One line per group: its keys, then the columns of `dreamo_batch.columns.COSTS`; exact USD as decimal
        text. Unknown amounts are missing, never 0. Attempts belong to the group of their row; if the row has left
        the table, to the group of the values it had when they were submitted.

    Raises
    ------
    UsageError
        If `source` is neither, or `by` is not a column.
    DirectoryError
        If a directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["on a beach", "in the snow"], seed=[1], size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.costs(run_dir, by="prompt")[["prompt", "attempts", "spent"]].to_dict("records")
    [{'prompt': 'in the snow', 'attempts': 1, 'spent': '0.004251183'},
     {'prompt': 'on a beach', 'attempts': 1, 'spent': '0.004251183'}]
    >>> dreamo.costs(run_dir)["spent"].item()
    '0.008502366'
    """
    history = read_history(source)
    groups = group(history, by, reserved=(*columns.COSTS, *columns.COSTS_PLANNED))
    table = pd.concat(
        [_counts(history, groups), _sums(history.attempts, groups), _prices(history.attempts, groups)], axis=1
    )
    table[columns.SAVED] = _saved(history, groups)
    spent = pd.to_numeric(table[columns.SPENT]).astype(columns.FLOAT)
    table[columns.SPENT_USD] = spent
    for name, counted in ((columns.USD_PER_ATTEMPT, "n_priced"), (columns.USD_PER_PICTURE, "n_pictures")):
        table[name] = spent / table[counted].where(table[counted] > 0)
    table[columns.N_KEPT] = _n_kept(history, groups)
    kept = table[columns.N_KEPT].astype(columns.FLOAT)
    table[columns.USD_PER_KEPT] = spent / kept.where(kept > 0)
    table[columns.DISCOUNT_USD] = (table[columns.LIST_USD] - spent).round(_USD_DIGITS) + 0.0
    shaped = table[list(columns.COSTS)].astype(columns.dtypes(columns.COSTS))
    planned = [] if plan is None else [_planned(plan, history, groups)]
    return pd.concat([groups.keys, shaped, *planned], axis=1)


def sums(amounts: pd.Series, of_groups: np.ndarray, n_groups: int) -> pd.Series:
    """Add up the amounts that can be read, exactly, group by group."""
    known = {amount: money(amount) for amount in amounts.dropna().unique()}  # most amounts are the same
    totals = [ZERO] * n_groups
    with localcontext(EXACT):
        for amount, number in zip(amounts, of_groups, strict=True):
            totals[number] += known.get(amount) or ZERO
    return pd.Series([exact_text(total) for total in totals], dtype=columns.STR)


def _is_usable(attempts: pd.DataFrame) -> pd.Series:
    """Return which attempts produced a picture that is, or can still be, on disk."""
    has_picture = attempts[columns.OUTPUT_URL].notna() | attempts[columns.OUTPUT_PATH].notna()
    is_completed = attempts[columns.STAGE] == str(Stage.COMPLETED)
    return is_completed & has_picture & attempts[columns.OUTPUT_ERROR].isna()


def _is_unpriced(attempts: pd.DataFrame) -> pd.Series:
    """Return which attempts have an unknown cost; one that failed and can't have been billed cost nothing."""
    billed = attempts[columns.MAY_HAVE_BEEN_BILLED].astype(columns.BOOL)
    is_free = (attempts[columns.STAGE] == str(Stage.FAILED)) & ~billed.fillna(value=True)
    is_unknown = attempts[columns.COST].isna() & ~is_free
    return (is_unknown | billed.fillna(value=False)).astype(bool)  # several on one line may be known in part


def _counts(history: History, groups: Groups) -> pd.DataFrame:
    attempts, status = history.attempts, history.rows[columns.STATUS]
    n_attempts, is_priced = attempts[columns.ATTEMPTS].to_numpy(dtype=float), ~_is_unpriced(attempts)
    has_price = _is_usable(attempts) & attempts[columns.COST].notna()
    counts = {columns.N_ROWS: _count(groups.of_rows, groups)}
    counts |= {name: _count(groups.of_rows[(status == name).to_numpy()], groups) for name in _COUNTED}
    return pd.DataFrame(
        counts
        | {
            columns.ATTEMPTS: _count(groups.of_attempts, groups, n_attempts),
            columns.N_USABLE: _n_where(_is_usable(attempts), groups),
            columns.N_UNPRICED: _n_where(~is_priced, groups),
            "n_priced": _count(groups.of_attempts, groups, n_attempts * is_priced.to_numpy()),
            "n_pictures": _n_where(has_price, groups),
        }
    )


def _count(numbers: np.ndarray, groups: Groups, weights: np.ndarray | None = None) -> np.ndarray:
    return np.bincount(numbers, weights, minlength=len(groups.keys)).astype(np.int64)


def _n_where(is_true: pd.Series, groups: Groups) -> np.ndarray:
    """Count the attempts of each group for which something is true."""
    return _count(groups.of_attempts[is_true.to_numpy(dtype=bool)], groups)


def _sums(attempts: pd.DataFrame, groups: Groups) -> pd.DataFrame:
    cost, reserved, is_usable = attempts[columns.COST], attempts[columns.RESERVED], _is_usable(attempts)
    may_be_billed = attempts[columns.MAY_HAVE_BEEN_BILLED].astype(columns.BOOL).fillna(value=False)
    is_several = attempts[columns.ATTEMPTS] > 1  # summed up: which of them was paid is unknown
    is_known = _n_where(cost.notna() | ~_is_unpriced(attempts), groups) > 0
    is_empty = _count(groups.of_attempts, groups) == 0
    return pd.DataFrame(
        {
            columns.SPENT: _sum(cost, groups, cost.notna()).where(is_known | is_empty),
            columns.WASTE: _sum(cost, groups, ~is_usable).mask(_n_where(is_usable & is_several, groups) > 0),
            columns.POSSIBLY_BILLED: _known_sum(reserved, groups, may_be_billed),
            columns.ESTIMATED: _known_sum(reserved, groups, cost.notna()),
        }
    )


def _sum(amounts: pd.Series, groups: Groups, chosen: pd.Series) -> pd.Series:
    is_chosen = chosen.to_numpy(dtype=bool)
    return sums(amounts[is_chosen], groups.of_attempts[is_chosen], len(groups.keys))


def _known_sum(amounts: pd.Series, groups: Groups, chosen: pd.Series) -> pd.Series:
    """Sum the chosen; missing where any of them is unknown."""
    return _sum(amounts, groups, chosen).mask(_n_where(chosen & amounts.isna(), groups) > 0)


def _saved(history: History, groups: Groups) -> pd.Series:
    """Add up what duplicates of completed jobs would have cost again."""
    rows, attempts = history.rows, history.attempts
    keys = [columns.JOB_ID] if columns.RUN_DIR not in attempts else [columns.RUN_DIR, columns.JOB_ID]
    usable = attempts.loc[_is_usable(attempts), [*keys, columns.COST, columns.ATTEMPTS]].drop_duplicates(keys)
    is_saved = (rows[columns.DUPLICATE_OF].notna() & (rows[columns.STATUS] == columns.COMPLETED)).to_numpy()
    saved = rows[is_saved].drop(columns=columns.RUN_DIR) if DIRECTORY in rows else rows[is_saved]
    prices = saved.rename(columns={DIRECTORY: columns.RUN_DIR})[keys].merge(usable, on=keys, how="left")
    prices[columns.COST] = prices[columns.COST].mask(prices[columns.ATTEMPTS] > 1)  # a sum is no price
    numbers = groups.of_rows[is_saved]
    n_unknown = _count(numbers[prices[columns.COST].isna().to_numpy()], groups)
    return sums(prices[columns.COST], numbers, len(groups.keys)).mask(n_unknown > 0)


def _n_kept(history: History, groups: Groups) -> pd.Series:
    """Count the pictures that were picked, each once; missing where none is rated."""
    rows = history.rows
    n_kept = pd.Series(pd.NA, index=groups.keys.index, dtype=columns.INT)
    if not rating_columns(rows):
        return n_kept
    is_kept = rows[columns.PICKED].fillna(value=False).astype(bool) & rows[columns.DUPLICATE_OF].isna()
    n_kept[:] = _count(groups.of_rows[is_kept.to_numpy()], groups)
    return n_kept


def _prices(attempts: pd.DataFrame, groups: Groups) -> pd.DataFrame:
    """Return the discount rates, and the cost before them; a cost of nothing has no list price."""
    cost = pd.to_numeric(attempts[columns.COST]).astype(columns.FLOAT)
    rates = attempts[columns.DISCOUNT]
    rate = pd.to_numeric(rates, errors="coerce").astype(columns.FLOAT)
    rate = rate.where((rate >= _RATE_MIN) & (rate <= 1) & (attempts[columns.ATTEMPTS] == 1).astype(bool))
    is_paid = cost > 0
    weights = (cost / rate)[is_paid].fillna(0.0)
    listed = np.bincount(groups.of_attempts[is_paid], weights, minlength=len(groups.keys))
    is_known = (_n_where(is_paid, groups) > 0) & (_n_where(is_paid & rate.isna(), groups) == 0)
    by_group = rates.dropna().groupby(groups.of_attempts[rates.notna().to_numpy()])
    named = by_group.agg(lambda of_group: ", ".join(sorted(set(of_group))))
    return pd.DataFrame(
        {
            columns.RATES: named.reindex(range(len(groups.keys))).astype(columns.STR),
            columns.LIST_USD: pd.Series(listed).where(is_known),
        }
    )


def _planned(plan: pd.DataFrame, history: History, groups: Groups) -> pd.DataFrame:
    """Add up what the plan said of each row; duplicates were planned at nothing."""
    absent = [name for name in columns.PLAN if name not in plan.columns]
    if absent:
        raise UsageError(f"plan= isn't a plan (no {absent[0]!r} column). Pass what plan() returned.")
    said = plan[plan[columns.JOB_ID].notna() & (plan[columns.ACTION] != _DUPLICATE)]
    said = said.drop_duplicates(columns.JOB_ID).set_index(columns.JOB_ID)
    is_first = history.rows[columns.DUPLICATE_OF].isna().to_numpy()
    jobs, numbers = history.rows.loc[is_first, columns.JOB_ID], groups.of_rows[is_first]
    sources = {
        columns.PLANNED_LOW_USD: columns.COST_LOW_USD,
        columns.PLANNED_HIGH_USD: columns.COST_HIGH_USD,
    }
    planned = {
        name: jobs.map(said[source]).groupby(numbers).sum(min_count=1) for name, source in sources.items()
    }
    return pd.DataFrame(planned, index=groups.keys.index).astype(columns.dtypes(columns.COSTS_PLANNED))
