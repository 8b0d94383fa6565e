"""A plan, with a word above it on how many rows are bought and what that can cost.

Examples
--------
>>> import dreamo_batch as dreamo
>>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1, 1])
>>> print(str(dreamo.plan(jobs, unit_cost="0.03")).splitlines()[0])
1 of 2 rows is to be bought. 1 new, 1 duplicate. From now on it costs $0.03.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from dreamo_batch import columns
from dreamo_batch.execution.budget import money, total
from dreamo_batch.execution.plan import REPHRASED, nearly_bought_warnings, rephrased_warning
from dreamo_batch.execution.progress import dollars
from dreamo_batch.table import shown
from dreamo_batch.table.shown import Count, Lead, Shown

if TYPE_CHECKING:
    from decimal import Decimal

    import pandas as pd

_COLOURS: Final = dict(
    zip(
        columns.ACTIONS,
        (shown.NEW, shown.GOOD, shown.PALE, shown.OPEN, shown.WARN, shown.BAD, shown.BAD),
        strict=True,
    )
)
_NEW: Final = columns.ACTIONS[0]
_REPHRASED: Final = f"; {REPHRASED}"
_NEEDED: Final = frozenset({columns.ACTION, columns.COST_LOW_USD, columns.COST_HIGH_USD})


class Plan(Shown):
    """What `plan` gives: columns of `dreamo_batch.columns.PLAN`, on the index of the user's table."""

    _metadata = ["_cap", "_spent", "_remarks"]  # noqa: RUF012 - pandas' own way of keeping something beside the columns
    _colours = _COLOURS

    @classmethod
    def of(
        cls, plan: pd.DataFrame, *, cap: Decimal | None, spent: Decimal, remarks: tuple[str, ...] = ()
    ) -> Plan:
        """Give a plan its word, from the directory's cap, what was spent in it (USD), and remarks on the table."""
        made = cls(plan)
        made._cap, made._spent, made._remarks = cap, spent, remarks
        return made

    def _lead(self) -> Lead | None:
        if not set(self.columns) >= _NEEDED:
            return None
        counts = self[columns.ACTION].value_counts()
        told = tuple(
            Count(word, int(counts[word]), _COLOURS[word]) for word in columns.ACTIONS if counts.get(word)
        )
        n_new = int(counts.get(_NEW, 0))
        low, high = (_sum(self[name]) for name in (columns.COST_LOW_USD, columns.COST_HIGH_USD))
        notes = (_cost_sentence(low, high), *_cap_sentences(self._cap, self._spent, high))
        notes += tuple(f"Warning: {warning}" for warning in self.warnings())
        return Lead(_headline(len(self), n_new), told, notes)

    def _told(self, name: object, text: str) -> str:
        """Leave out of each row's reason what stands once above all of them."""
        return text.removesuffix(_REPHRASED) if name == columns.REASON else text

    def warnings(self) -> list[str]:
        """Say what should be known before these rows are bought."""
        said = list(self._remarks)
        if columns.REASON not in self.columns:
            return said
        is_new = self[columns.ACTION] == _NEW if columns.ACTION in self.columns else slice(None)
        said += nearly_bought_warnings(self.loc[is_new, columns.REASON].astype(columns.STR))
        n_rephrased = int(self[columns.REASON].astype(columns.STR).str.endswith(_REPHRASED).sum())
        return [*said, rephrased_warning(n_rephrased)] if n_rephrased else said


def _sum(amounts: pd.Series) -> Decimal | None:
    """Add up exactly what each float was made from; None if any is not known."""
    known = [money(amount) for amount in amounts if not math.isnan(amount)]
    return total(amount for amount in known if amount is not None) if len(known) == len(amounts) else None


def _headline(n_rows: int, n_new: int) -> str:
    if not n_new:
        return "Nothing is to be bought."
    return f"{n_new:,} of {n_rows:,} rows {'is' if n_new == 1 else 'are'} to be bought."


def _cost_sentence(low: Decimal | None, high: Decimal | None) -> str:
    if low is None or high is None:
        return "What it costs is not known yet: the first order tells, or give unit_cost=."
    if not high:
        return "From now on it costs nothing."
    if low == high:
        return f"From now on it costs ${dollars(high)}."
    if not low:
        return f"From now on it costs up to ${dollars(high)}."
    return f"From now on it costs between ${dollars(low)} and ${dollars(high)}."


def _cap_sentences(cap: Decimal | None, spent: Decimal, high: Decimal | None) -> list[str]:
    said = [f"${dollars(spent)} was spent here before."] if spent else []
    if cap is None:
        return said
    said.append(f"The cap is ${dollars(cap)}.")
    if high is not None and total((spent, high)) > cap:
        said.append("It may stop at the cap.")
    return said
