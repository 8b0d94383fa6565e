"""The money of a run: exact totals of the ledger, and the cost of each group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.execution.budget import ZERO, text
from dreamo_batch.execution.budget import money as amount_of
from dreamo_batch.results.costs import summarise_costs
from dreamo_batch.results.reporting import wording

if TYPE_CHECKING:
    from dreamo_batch.results.reporting.facts import Facts

_GROUPED: Final = (columns.PROMPT, columns.SIZE, columns.USE_REPHRASER)
N_GROUPS_MAX: Final = 40


def money(facts: Facts) -> dict[str, Any]:
    """Add up what was spent, reserved, wasted and saved.

    Parameters
    ----------
    facts : Facts
        The run.

    Returns
    -------
    dict
        ``spent``, ``per_picture``, ``n_usable``, ``possibly_billed``, ``may_be_billed``, ``unpriced`` (words),
        ``lines`` (words, amount, meaning) and ``groups`` (tables by prompt, size and rephraser, where they differ).
    """
    whole = summarise_costs(facts.history).iloc[0]
    n_unpriced, summary = int(whole[columns.N_UNPRICED]), facts.summary
    return {
        "spent": wording.usd(summary["spent_usd"]),
        "per_picture": wording.about(whole[columns.USD_PER_PICTURE]),
        "n_usable": int(whole[columns.N_USABLE]),
        "possibly_billed": wording.usd(summary["possibly_billed_usd"]),
        "may_be_billed": summary["possibly_billed_usd"] is None
        or bool(amount_of(summary["possibly_billed_usd"])),
        "unpriced": wording.plural(n_unpriced, "order") if n_unpriced else "",
        "lines": _lines(facts, whole),
        "groups": [table for by in _GROUPED if (table := _grouped(facts, by))],
    }


def _lines(facts: Facts, whole: pd.Series) -> list[tuple[str, str, str]]:
    summary = facts.summary
    cap = summary["max_cost_usd"]
    lines = [
        (
            "Spent",
            wording.usd(summary["spent_usd"]),
            f"known costs of {wording.plural(summary['orders'], 'order')}, exact",
        ),
        (
            "Possibly billed",
            wording.usd(summary["possibly_billed_usd"]),
            "ambiguous, lost or unpriced orders",
        ),
        (
            "Reserved",
            wording.usd(summary["reserved_usd"]),
            "held back for orders whose cost is not known yet",
        ),
        ("Cap", "none" if cap is None else wording.usd(cap), _left(facts)),
        ("Waste", wording.usd(whole[columns.WASTE]), "paid for orders that gave no picture"),
        ("Saved", wording.usd(whole[columns.SAVED]), "rows with the same job, bought once"),
    ]
    if pd.notna(whole[columns.LIST_USD]):
        listed = wording.about(whole[columns.LIST_USD])
        lines.append(("List price", listed, f"before discount; rate {wording.words(whole[columns.RATES])}"))
    return lines


def _left(facts: Facts) -> str:
    cap, spent, reserved = (
        amount_of(facts.summary[name]) for name in ("max_cost_usd", "spent_usd", "reserved_usd")
    )
    if cap is None or spent is None or reserved is None:
        return "over everything ever ordered here"
    return f"{text(max(cap - spent - reserved, ZERO))} left"


def _grouped(facts: Facts, by: str) -> dict[str, Any] | None:
    """Lay out the cost of each group, the most expensive first; None where there is only one."""
    try:
        table = summarise_costs(facts.history, by)
    except UsageError:  # no such column, or cells that can't be told apart: the whole still stands
        return None
    if len(table) < 2:  # noqa: PLR2004 - one group is the whole
        return None
    table = table.sort_values(columns.SPENT_USD, ascending=False, kind="stable")
    highest = table[columns.SPENT_USD].max()
    shown = table.head(N_GROUPS_MAX).to_dict("records")
    return {
        "by": by.replace("_", " "),
        "lines": [_line(line, by, highest) for line in shown],
        "n_more": len(table) - len(shown),
    }


def _line(line: dict[Any, Any], by: str, highest: float) -> dict[str, Any]:
    share = line[columns.SPENT_USD] / highest if highest else 0.0
    return {
        "key": wording.words(line[by]),
        "n_rows": int(line[columns.N_ROWS]),
        "n_usable": int(line[columns.N_USABLE]),
        "spent": wording.usd(line[columns.SPENT]),
        "per_picture": wording.about(line[columns.USD_PER_PICTURE]),
        "waste": wording.usd(line[columns.WASTE]),
        "possibly_billed": wording.usd(line[columns.POSSIBLY_BILLED]),
        "percent": "0" if pd.isna(share) else f"{100 * share:.4g}",
    }
