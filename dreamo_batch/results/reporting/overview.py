"""The head of a report: how many rows there are, and what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.results.reporting import wording

if TYPE_CHECKING:
    from dreamo_batch.results.reporting.facts import Facts

_OPEN: Final = (columns.PENDING, columns.SUBMITTING, columns.IN_PROGRESS)
_WORDS: Final = {status: status.replace("_", " ") for status in columns.STATUSES}


def overview(facts: Facts) -> dict[str, Any]:
    """Count rows by status, and say whether each is accounted for.

    Parameters
    ----------
    facts : Facts
        The run.

    Returns
    -------
    dict
        ``n_rows``, ``n_accounted``, ``is_complete``, ``shares`` (status, words, count and percentage), ``state``
        (one sentence) and ``pictures``.
    """
    by_status = facts.summary["by_status"]
    n_rows, n_accounted = len(facts.rows), sum(by_status.values())
    return {
        "n_rows": n_rows,
        "n_accounted": n_accounted,
        "is_complete": n_rows == n_accounted,
        "shares": [
            {"status": status, "words": _WORDS[status], "n": n, "percent": f"{100 * n / n_rows:.4g}"}
            for status, n in by_status.items()
        ],
        "state": _state(facts, by_status),
        "n_pictures": int(facts.bought[columns.OUTPUT_PATH].notna().sum()),
    }


def _state(facts: Facts, by_status: dict[str, int]) -> str:
    if not len(facts.rows):
        return "The table is empty."
    if facts.is_worked_on:
        return "The run is being worked on; this is how it stood when the page was made."
    n_open = sum(by_status.get(status, 0) for status in _OPEN)
    if n_open:
        return f"The run is not finished: {wording.plural(n_open, 'row')} to go. The same call again goes on."
    if by_status.get(columns.COMPLETED) == len(facts.rows):
        return "Every row is completed."
    return "The run is finished; not every row is completed."
