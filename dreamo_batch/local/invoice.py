"""The invoice: what was ordered, and what it has cost so far. The truth that others' totals are compared with.

Examples
--------
>>> total([{"cost": "0.0286"}, {"cost": ""}, {"cost": "0.0000000001"}])
'0.0286000001'
"""

from __future__ import annotations

from decimal import Context, Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dreamo_batch.local.tasks import Task

# More digits than any sum of prices has.
_EXACT = Context(prec=1000)


def invoice_line(task: Task, now: float) -> dict[str, Any]:
    """Give one task as it stands on the invoice.

    Parameters
    ----------
    task : Task
        The task.
    now : float
        Unix seconds.

    Returns
    -------
    dict
        id, digest (see `tasks.request_digest`), prompt, seed (as ordered), seed_drawn, width, height (pixels),
        use_rephraser, image (SHA-256), accepted_at (Unix seconds), latency_s (from its start
        to its end), state, error_code (None unless it failed), price
        (what it costs once completed), cost (so far, empty for nothing; both USD as exact decimal text) and billed.

    Examples
    --------
    >>> from dreamo_batch.local.tasks import Task
    >>> task = Task("c0", "d" * 64, "a fox", -1, 512, 512, True, "e" * 64, 7, 0.0, 0.0, 3.0, "0.01", picture="f.jpg")
    >>> [(line["state"], line["cost"], line["billed"]) for line in (invoice_line(task, 1.0), invoice_line(task, 3.0))]
    [('in_progress', '', False), ('completed', '0.01', True)]
    """
    state, cost = task.state(now), task.cost(now)
    return {
        "id": task.task_id,
        "digest": task.digest,
        "prompt": task.prompt,
        "seed": task.seed,
        "seed_drawn": task.seed_drawn,
        "width": task.width,
        "height": task.height,
        "use_rephraser": task.use_rephraser,
        "image": task.image,
        "accepted_at": task.accepted_at,
        "latency_s": task.due_at - task.starts_at,
        "state": state,
        "error_code": task.error_code if state == "failed" else None,
        "price": task.price,
        "cost": cost,
        "billed": bool(cost),
    }


def total(lines: Iterable[Mapping[str, Any]]) -> str:
    """Add up the costs of an invoice, to the last digit.

    Parameters
    ----------
    lines : iterable of mapping
        As `invoice_line` gives them.

    Returns
    -------
    str
        USD as plain decimal text.
    """
    costs = (Decimal(line["cost"]) for line in lines if line["cost"])
    return format(reduce(_EXACT.add, costs, Decimal(0)), "f")
