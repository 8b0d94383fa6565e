"""Which fault strikes next: scripted ones first, in order, then by probability.

Examples
--------
>>> plan = FaultPlan(seed=0)
>>> plan.script("create", "drop_after_accept", "http_429")
>>> [strike and strike.fault.name for strike in (plan.draw("create"), plan.draw("create"), plan.draw("create"))]
['drop_after_accept', 'http_429', None]
"""

from __future__ import annotations

import random
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamo_batch.local.fault_reading import (
    SLOW_S,
    Strike,
    read_change,
    read_file,
    read_stage,
    read_strike,
)
from dreamo_batch.local.faults import STAGES, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping


class FaultPlan:
    """The faults of one gateway; may be changed at any time from any thread.

    Wherever a fault is asked for, it may be a name, or ``{"fault": name, "seconds": 2.5}``: how long `slow` takes,
    or what a `Retry-After` says.

    Parameters
    ----------
    faults : mapping, path or None
        As `change` takes it, or a JSON file that holds it.
    seed : int or None
        Makes the draws repeatable, stage by stage.

    Raises
    ------
    ValueError
        If there is no such fault, or not at that stage, or probabilities are not from 0 to 1 in sum.
    OSError
        If the file can't be read.

    Examples
    --------
    >>> plan = FaultPlan({"poll": {"http_503": 1.0}}, seed=0)
    >>> plan.draw("poll").fault.status
    503
    """

    def __init__(self, faults: Mapping[str, Any] | str | Path | None = None, seed: int | None = None) -> None:
        self._lock = threading.Lock()
        self._rngs = {stage: random.Random(None if seed is None else f"{seed} {stage}") for stage in STAGES}
        self._clear()
        self.change(read_file(faults) if isinstance(faults, str | Path) else faults or {})

    def script(self, stage: Stage, *entries: str | Mapping[str, Any], seconds: float = SLOW_S) -> None:
        """Add faults that strike the next requests of a stage, one each.

        Parameters
        ----------
        stage : {"create", "poll", "precharge", "download"}
            Where they strike.
        *entries : str or mapping
            The faults, in order. One that needs another state of the task waits, and so do those behind it.
        seconds : float
            For the entries that say nothing else.

        Raises
        ------
        ValueError
            If there is no such fault at this stage; then none is added.
        """
        strikes = [read_strike(read_stage(stage), entry, seconds) for entry in entries]
        with self._lock:
            self._scripts[read_stage(stage)].extend(strikes)

    def set(self, probabilities: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the probabilities of the stages named.

        Parameters
        ----------
        probabilities : mapping
            Stage to fault to probability, as in ``{"create": {"drop_after_accept": 0.1}}``; or to
            ``{"probability": 0.1, "seconds": 2.5}``.

        Raises
        ------
        ValueError
            If one can't be used; then nothing is changed.
        """
        self.change({stage: dict(faults) for stage, faults in probabilities.items()})

    def change(self, request: Mapping[str, Any]) -> None:
        """Do all of it at once, as a file or a request over HTTP asks for.

        Parameters
        ----------
        request : mapping
            Stages as `set` takes them; beside them ``"script"``, stage to list of entries, and ``"clear": true`` to
            forget everything first.

        Raises
        ------
        ValueError
            If any of it can't be used; then nothing is changed.

        Examples
        --------
        >>> plan = FaultPlan()
        >>> plan.change({"poll": {"http_500": 0.5}, "script": {"create": ["drop_before_accept"]}})
        >>> plan.describe()
        {'probabilities': {'poll': {'http_500': 0.5}}, 'script': {'create': ['drop_before_accept']}}
        """
        change = read_change(request)
        with self._lock:
            if change.does_clear:
                self._clear()
            self._tables.update(change.tables)
            for stage, strikes in change.scripts.items():
                self._scripts[stage].extend(strikes)

    def clear(self) -> None:
        """Forget every script and every probability."""
        with self._lock:
            self._clear()

    def draw(self, stage: Stage, state: str | None = None) -> Strike | None:
        """Settle what strikes a request.

        Parameters
        ----------
        stage : {"create", "poll", "precharge", "download"}
            What the request is.
        state : str or None
            State of the polled task: a fault that needs another one does not strike.

        Returns
        -------
        Strike or None
        """
        if not self._scripts[stage] and stage not in self._tables:
            return None
        with self._lock:
            strike, is_scripted = self._next(stage)
            if strike is None or (stage == "poll" and strike.fault.needs not in (None, state)):
                return None
            if is_scripted:
                self._scripts[stage].popleft()
            return strike

    def describe(self) -> dict[str, Any]:
        """Tell what is planned, by name.

        Returns
        -------
        dict
            ``"probabilities"`` by stage and fault, ``"script"`` by stage.
        """
        with self._lock:
            tables = {
                stage: {strike.fault.name: probability for strike, probability in table}
                for stage, table in self._tables.items()
            }
            scripts = {
                stage: [s.fault.name for s in entries] for stage, entries in self._scripts.items() if entries
            }
        return {"probabilities": tables, "script": scripts}

    def _clear(self) -> None:
        self._tables: dict[Stage, list[tuple[Strike, float]]] = {}
        self._scripts: dict[Stage, deque[Strike]] = {stage: deque() for stage in STAGES}

    def _next(self, stage: Stage) -> tuple[Strike | None, bool]:
        if self._scripts[stage]:
            return self._scripts[stage][0], True
        chance = self._rngs[stage].random()
        for strike, probability in self._tables.get(stage, []):
            chance -= probability
            if chance < 0:
                return strike, False
        return None, False
