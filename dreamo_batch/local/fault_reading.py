"""Read what a test, a file or a request over HTTP asks the gateway to do wrong.

Examples
--------
>>> change = read_change({"poll": {"http_500": 0.5}, "script": {"create": ["drop_before_accept"]}})
>>> change.scripts["create"][0].fault.name
'drop_before_accept'
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamo_batch.local.faults import FAULTS, STAGES, Fault, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

SLOW_S = 1.0
SECONDS_MAX = 86_400.0


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault about to strike one request, with the seconds it takes or tells of.

    Examples
    --------
    >>> Strike(FAULTS["slow"], seconds=2.5).seconds
    2.5
    """

    fault: Fault
    seconds: float = SLOW_S


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the plan, read and checked.

    Examples
    --------
    >>> Change({}, {}, does_clear=True).does_clear
    True
    """

    tables: dict[Stage, list[tuple[Strike, float]]]
    scripts: dict[Stage, list[Strike]]
    does_clear: bool


def read_change(request: Mapping[str, Any]) -> Change:
    """Read a whole change; see `FaultPlan.change` for its form.

    Parameters
    ----------
    request : mapping
        Stages, and beside them ``"script"`` and ``"clear"``.

    Returns
    -------
    Change

    Raises
    ------
    ValueError
        If any of it can't be used.

    Examples
    --------
    >>> read_change({"clear": True})
    Change(tables={}, scripts={}, does_clear=True)
    """
    rest = dict(_object(request, "The faults"))
    does_clear, scripts = rest.pop("clear", False), _object(rest.pop("script", {}), "The scripts of faults")
    if not isinstance(does_clear, bool) or not all(isinstance(entries, list) for entries in scripts.values()):
        raise ValueError('"script" must map stages to lists of faults, and "clear" be true or false.')
    return Change(
        {read_stage(stage): _table(read_stage(stage), faults) for stage, faults in rest.items()},
        {
            read_stage(stage): [read_strike(read_stage(stage), entry) for entry in scripts[stage]]
            for stage in scripts
        },
        does_clear,
    )


def read_file(path: str | Path) -> Any:
    """Read a change from a JSON file.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    object
        What `read_change` is to read.

    Raises
    ------
    OSError
        If the file can't be read.
    ValueError
        If it is not JSON.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w") as file:
    ...     _ = file.write('{"clear": true}'), file.flush()
    ...     read_file(file.name)
    {'clear': True}
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The faults in {path} are not JSON: {error}.") from None


def read_strike(stage: Stage, entry: Any, seconds: float = SLOW_S) -> Strike:
    """Read one fault of a stage.

    Parameters
    ----------
    stage : {"create", "poll", "precharge", "download"}
        Where it is to strike.
    entry : str or mapping
        Its name, or ``{"fault": name, "seconds": 2.5}``.
    seconds : float
        If the entry says nothing else.

    Returns
    -------
    Strike

    Raises
    ------
    ValueError
        If there is no such fault at this stage; the message lists those there are.

    Examples
    --------
    >>> read_strike("poll", {"fault": "slow", "seconds": 2}).seconds
    2.0
    """
    given = dict(entry) if isinstance(entry, dict) else {"fault": entry}
    name, seconds = given.pop("fault", None), given.pop("seconds", seconds)
    fault = FAULTS.get(name) if isinstance(name, str) else None
    if fault is None or stage not in fault.stages or given:
        known = ", ".join(fault.name for fault in FAULTS.values() if stage in fault.stages)
        raise ValueError(f"There is no fault {entry!r:.80} of {stage!r}; there are {known}.")
    return Strike(fault, _number("seconds", seconds))


def read_stage(name: str) -> Stage:
    """Read the name of a stage.

    Parameters
    ----------
    name : str
        The name.

    Returns
    -------
    {"create", "poll", "precharge", "download"}

    Raises
    ------
    ValueError
        If there is no such stage.

    Examples
    --------
    >>> read_stage("poll")
    'poll'
    """
    for stage in STAGES:
        if name == stage:
            return stage
    raise ValueError(f"There is no stage {name!r:.80}; there are {', '.join(STAGES)}.")


def _table(stage: Stage, faults: Any) -> list[tuple[Strike, float]]:
    table = []
    for name, value in _object(faults, f"The faults of {stage!r}").items():
        given = dict(value) if isinstance(value, dict) else {"probability": value}
        probability = _number(name, given.pop("probability", None), most=1.0)
        table.append((read_strike(stage, {"fault": name} | given), probability))
    if sum(probability for _, probability in table) > 1 + 1e-9:
        raise ValueError(f"The probabilities of the faults of {stage!r} add up to more than 1.")
    return table


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, and are {value!r:.80}.")  # noqa: TRY004 - JSON from outside
    return value


def _number(name: str, value: Any, most: float = math.inf) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= min(most, SECONDS_MAX)
    ):
        raise ValueError(
            f"{name!r:.80} must be a number from 0 to {min(most, SECONDS_MAX):g}, not {value!r:.80}."
        )
    return float(value)
