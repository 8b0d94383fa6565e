"""Exact sums of money by group."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.engine.budget import EXACT, ZERO, money, text
from dreamo_batch.errors import UsageError
from dreamo_batch.results.history import DIRECTORY, Groups, group

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dreamo_batch.results.history import History


def sums(amounts: pd.Series, of_groups: np.ndarray, n_groups: int) -> pd.Series:
    """Add up the amounts that can be read, exactly, group by group."""
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


_COST_DIGITS: Final = 12
_RATE_MIN: Final = 0.1  # less is rather an amount, which the service's page also calls a discount
_COUNTED: Final = (columns.COMPLETED, columns.FAILED, columns.AMBIGUOUS)


def summarise_costs(
    history: History, by: str | Sequence[str] | None = None, *, plan: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Count attempts and add up money, group by group."""
    groups = group(history, by, reserved=(*columns.COSTS, *columns.COSTS_PLANNED))
    counts = _counts(history, groups)
    spent = _money(history.attempts, groups, _saved(history, groups))
    table = pd.concat([counts, spent], axis=1)
    _divide(table, history.attempts, groups)
    shaped = table[list(columns.COSTS)].astype(columns.dtypes(columns.COSTS))
    planned = [] if plan is None else [_planned(plan, history, groups)]
    return pd.concat([groups.keys, shaped, *planned], axis=1)


def is_usable(attempts: pd.DataFrame) -> pd.Series:
    """Say which attempts gave a picture that is, or can still be, on disk."""
    has_picture = attempts[columns.OUTPUT_URL].notna() | attempts[columns.OUTPUT_PATH].notna()
    is_completed = attempts[columns.STAGE] == str(Stage.COMPLETED)
    return is_completed & has_picture & attempts[columns.OUTPUT_ERROR].isna()


def is_unpriced(attempts: pd.DataFrame) -> pd.Series:
    """Say which attempts' cost is not known; one that failed and can't have been billed cost nothing."""
    billed = attempts[columns.MAY_HAVE_BEEN_BILLED].astype(columns.BOOL)
    is_free = (attempts[columns.STAGE] == str(Stage.FAILED)) & ~billed.fillna(value=True)
    is_unknown = attempts[columns.COST].isna() & ~is_free
    return (is_unknown | billed.fillna(value=False)).astype(bool)  # several on one line may be known in part


def _counts(history: History, groups: Groups) -> pd.DataFrame:
    status = history.rows[columns.STATUS]
    attempts, weights = history.attempts, history.attempts[columns.ATTEMPTS]
    counts = {columns.N_ROWS: _count(groups.of_rows, groups)}
    counts |= {name: _count(groups.of_rows[(status == name).to_numpy()], groups) for name in _COUNTED}
    counts[columns.ATTEMPTS] = _count(groups.of_attempts, groups, weights.to_numpy(dtype=float))
    counts[columns.N_USABLE] = _count(groups.of_attempts[is_usable(attempts).to_numpy()], groups)
    counts[columns.N_UNPRICED] = _count(groups.of_attempts[is_unpriced(attempts).to_numpy()], groups)
    return pd.DataFrame(counts)


def _count(numbers: np.ndarray, groups: Groups, weights: np.ndarray | None = None) -> np.ndarray:
    return np.bincount(numbers, weights, minlength=len(groups.keys)).astype(np.int64)


def _money(attempts: pd.DataFrame, groups: Groups, saved: pd.Series) -> pd.DataFrame:
    cost, unpriced = attempts[columns.COST], is_unpriced(attempts)
    may_be_billed = attempts[columns.MAY_HAVE_BEEN_BILLED].astype(columns.BOOL).fillna(value=False)
    may_be_billed = may_be_billed.astype(bool)
    is_several = attempts[columns.ATTEMPTS] > 1  # on one line, where nobody can tell which of them was paid
    spent = _sum(cost, groups, cost.notna())
    nothing_known = _any(unpriced, groups) & ~_any(~unpriced | cost.notna(), groups)
    return pd.DataFrame(
        {
            columns.SPENT: spent.mask(nothing_known),
            columns.WASTE: _sum(cost, groups, ~is_usable(attempts)).mask(
                _any((is_usable(attempts) & is_several).astype(bool), groups)
            ),
            columns.POSSIBLY_BILLED: _known_sum(attempts[columns.RESERVED], groups, may_be_billed),
            columns.ESTIMATED: _known_sum(attempts[columns.RESERVED], groups, cost.notna()),
            columns.SAVED: saved,
            columns.RATES: _rates(attempts, groups),
            columns.LIST_USD: _list_usd(attempts, groups),
        }
    )


def _sum(texts: pd.Series, groups: Groups, chosen: pd.Series) -> pd.Series:
    is_chosen = chosen.to_numpy(dtype=bool)
    return sums(texts[is_chosen], groups.of_attempts[is_chosen], len(groups.keys))


def _known_sum(texts: pd.Series, groups: Groups, chosen: pd.Series) -> pd.Series:
    """Sum the chosen; missing where any of them is unknown."""
    return _sum(texts, groups, chosen).mask(_any(chosen & texts.isna(), groups))


def _any(is_true: pd.Series, groups: Groups) -> np.ndarray:
    found: np.ndarray = _count(groups.of_attempts[is_true.to_numpy(dtype=bool)], groups) > 0
    return found


def _saved(history: History, groups: Groups) -> pd.Series:
    """Sum up what duplicates of completed jobs would have cost again."""
    rows, attempts = history.rows, history.attempts
    keys = [columns.JOB_ID] if columns.RUN_DIR not in attempts else [columns.RUN_DIR, columns.JOB_ID]
    usable = attempts.loc[is_usable(attempts), [*keys, columns.COST, columns.ATTEMPTS]].drop_duplicates(keys)
    is_saved = (rows[columns.DUPLICATE_OF].notna() & (rows[columns.STATUS] == columns.COMPLETED)).to_numpy()
    told = rows[is_saved].drop(columns=columns.RUN_DIR) if DIRECTORY in rows else rows[is_saved]
    prices = told.rename(columns={DIRECTORY: columns.RUN_DIR})[keys].merge(usable, on=keys, how="left")
    prices[columns.COST] = prices[columns.COST].mask(prices[columns.ATTEMPTS] > 1)  # a sum is no price
    numbers = groups.of_rows[is_saved]
    is_unknown = _count(numbers[prices[columns.COST].isna().to_numpy()], groups) > 0
    return sums(prices[columns.COST], numbers, len(groups.keys)).mask(is_unknown)


def _rates(attempts: pd.DataFrame, groups: Groups) -> pd.Series:
    told = attempts[columns.DISCOUNT].dropna()
    numbers = groups.of_attempts[attempts[columns.DISCOUNT].notna().to_numpy()]
    listed = told.groupby(numbers).agg(lambda rates: ", ".join(sorted(set(rates))))
    return listed.reindex(range(len(groups.keys))).astype(columns.STR)


def _list_usd(attempts: pd.DataFrame, groups: Groups) -> pd.Series:
    """Cost by rate; a cost of nothing has no list price to be read off."""
    cost = pd.to_numeric(attempts[columns.COST]).astype(columns.FLOAT)
    rate = pd.to_numeric(attempts[columns.DISCOUNT], errors="coerce").astype(columns.FLOAT)
    rate = rate.where((rate >= _RATE_MIN) & (rate <= 1) & (attempts[columns.ATTEMPTS] == 1).astype(bool))
    is_paid = cost > 0
    listed = np.bincount(
        groups.of_attempts[is_paid], (cost / rate)[is_paid].fillna(0.0), minlength=len(groups.keys)
    )
    return pd.Series(listed).mask(_any(is_paid & rate.isna(), groups) | ~_any(is_paid, groups))


def _divide(table: pd.DataFrame, attempts: pd.DataFrame, groups: Groups) -> None:
    spent = pd.to_numeric(table[columns.SPENT]).astype(columns.FLOAT)
    n_priced = _count(
        groups.of_attempts,
        groups,
        (attempts[columns.ATTEMPTS] * ~is_unpriced(attempts)).to_numpy(dtype=float),
    )
    is_priced = is_usable(attempts) & attempts[columns.COST].notna()
    n_pictures = _count(groups.of_attempts[is_priced.to_numpy(dtype=bool)], groups)
    table[columns.SPENT_USD] = spent
    table[columns.USD_PER_ATTEMPT] = spent / pd.Series(n_priced).where(n_priced > 0)
    table[columns.USD_PER_PICTURE] = spent / pd.Series(n_pictures).where(n_pictures > 0)
    # Rounded far below a price, so that a difference of equal amounts is 0.
    table[columns.DISCOUNT_USD] = (table[columns.LIST_USD] - spent).round(_COST_DIGITS) + 0.0


def _planned(plan: pd.DataFrame, history: History, groups: Groups) -> pd.DataFrame:
    """Add up what the plan had said of each row; duplicates were planned at nothing."""
    absent = [name for name in columns.PLAN if name not in plan.columns]
    if absent:
        raise UsageError(f"plan= is no plan: it has no column {absent[0]!r}. Give what plan() gave back.")
    said = plan[plan[columns.JOB_ID].notna() & (plan[columns.ACTION] != _DUPLICATE)]
    said = said.drop_duplicates(columns.JOB_ID).set_index(columns.JOB_ID)
    is_bought = history.rows[columns.DUPLICATE_OF].isna().to_numpy()
    jobs, numbers = history.rows.loc[is_bought, columns.JOB_ID], groups.of_rows[is_bought]
    sources = {
        columns.PLANNED_LOW_USD: columns.COST_LOW_USD,
        columns.PLANNED_HIGH_USD: columns.COST_HIGH_USD,
    }
    planned = {
        name: jobs.map(said[source]).groupby(numbers).sum(min_count=1) for name, source in sources.items()
    }
    return pd.DataFrame(planned, index=groups.keys.index).astype(columns.dtypes(columns.COSTS_PLANNED))


_DUPLICATE: Final = columns.ACTIONS[2]
