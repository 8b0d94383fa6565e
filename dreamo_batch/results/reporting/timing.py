"""The time of a run: how long orders took, how fast they went, and what would suit the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.results.latency import summarise_latency
from dreamo_batch.results.pace import measure_pace
from dreamo_batch.results.reporting import wording

if TYPE_CHECKING:
    import pandas as pd

    from dreamo_batch.results.reporting.facts import Facts

_PHASES: Final = {
    columns.CREATE: "sending the order",
    columns.QUOTA: "waiting for quota",
    columns.QUEUE: "in the service's queue",
    columns.GENERATION: "being made",
    columns.UPLOAD: "upload at the service",
    columns.TASK: "from sending to its end seen",
    columns.DOWNLOAD: "saving the picture",
}
_SHOWN: Final = {
    columns.P50_S: "median",
    columns.P90_S: "90 % within",
    columns.P99_S: "99 % within",
    columns.MAX_S: "longest",
}


def timing(facts: Facts) -> dict[str, Any]:
    """Say how long orders took, and what to change.

    Parameters
    ----------
    facts : Facts
        The run.

    Returns
    -------
    dict
        ``names`` (of the columns), ``lines`` (the phases of all orders), ``sizes`` (the whole, by size, where they
        differ), ``median``, ``pace`` (words and values) and ``advice``.
    """
    whole = summarise_latency(facts.history)
    pace = measure_pace(facts.history)
    return {
        "names": list(_SHOWN.values()),
        "lines": [
            _line(line[columns.PHASE], line, _PHASES[line[columns.PHASE]])
            for line in whole.to_dict("records")
        ],
        "sizes": _by_size(facts),
        "median": wording.seconds(_median(whole)),
        "pace": _pace(pace, facts),
        "advice": pace["advice"] if pace["orders"] else "",
    }


def _by_size(facts: Facts) -> list[dict[str, Any]]:
    try:
        table = summarise_latency(facts.history, columns.SIZE)
    except UsageError:  # sizes of the user's own that can't be told apart
        return []
    table = table[table[columns.PHASE] == columns.TASK]
    lines = [_line(wording.words(line[columns.SIZE]), line) for line in table.to_dict("records")]
    return lines if len(lines) > 1 else []


def _line(name: str, line: dict[Any, Any], about: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "about": about,
        "n": int(line[columns.N_ORDERS]),
        "times": [wording.seconds(line[column]) for column in _SHOWN],
    }


def _median(whole: pd.DataFrame) -> float | None:
    task = whole.loc[whole[columns.PHASE] == columns.TASK, columns.P50_S]
    return None if task.empty else float(task.iloc[0])


def _pace(pace: dict[str, Any], facts: Facts) -> list[tuple[str, str]]:
    orders = facts.orders
    share, speed = pace["waiting_share"], pace["per_minute"]
    return [
        ("First order sent", wording.moment(orders[columns.SENT_AT].min())),
        ("Last end seen", wording.moment(orders[columns.COMPLETED_AT].max())),
        ("Busy", wording.seconds(pace["busy_s"])),
        ("Orders completed a minute", wording.UNKNOWN if speed is None else f"{speed:.3g}"),
        ("Most in flight at once", f"{pace['peak_in_flight']:,}"),
        ("Refused for quota (429)", f"{pace['refusals']:,}"),
        ("Time spent waiting for quota", wording.UNKNOWN if share is None else f"{100 * share:.3g} %"),
    ]
