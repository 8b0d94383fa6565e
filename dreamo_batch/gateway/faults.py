"""The faults of the local gateway, as listed in faults.toml, and the plan of when they strike."""

from __future__ import annotations

import enum
import json
import numbers
import random
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from dreamo_batch.files import toml_beside
from dreamo_batch.text import quoted

Stage = Literal["create", "poll", "precharge", "download"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)


class Effect(enum.StrEnum):
    """The kind of effect that a fault has, as in faults.toml."""

    DROP = "drop"
    SLOW = "slow"
    ANSWER = "answer"
    VARY = "vary"
    MANGLE = "mangle"
    FATE = "fate"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave."""

    name: str
    stages: tuple[Stage, ...]
    effect: Effect
    meaning: str
    is_accepted: bool = True
    needs: Literal["in_progress", "completed", "failed"] | None = None
    status: int = 200
    word: str = ""
    code: str = ""
    set: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()


def _read_faults() -> Iterator[Fault]:
    for effect, faults in toml_beside(__file__, "faults.toml").items():
        for name, known in faults.items():
            stages: Any = tuple(known.pop("stages", " ".join(STAGES)).split())
            change = {"set": json.loads(known.pop("set", "{}")), "drop": tuple(known.pop("drop", "").split())}
            yield Fault(name, stages, Effect(effect), **known, **change)


FAULTS: Final = {fault.name: fault for fault in _read_faults()}


SLOW_S = 1.0
SECONDS_MAX = 86_400.0


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that strikes one request; `seconds` is the delay of `slow`, or the value of a Retry-After."""

    fault: Fault
    seconds: float


def _read_file(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"The faults in {path} can't be read as JSON: {reason}.") from None


def _read_strike(stage: Stage, entry: Any, seconds: float = SLOW_S) -> Strike:
    fields = dict(entry) if isinstance(entry, dict) else {"fault": entry}
    name, seconds = fields.pop("fault", None), fields.pop("seconds", seconds)
    fault = FAULTS.get(name) if isinstance(name, str) else None
    if fault is None or stage not in fault.stages or fields:
        known = ", ".join(fault.name for fault in FAULTS.values() if stage in fault.stages)
        raise ValueError(f"There is no fault {quoted(entry)} of {stage!r}; choose one of {known}.")
    return Strike(fault, _number("seconds", seconds, SECONDS_MAX))


def _read_stage(name: str) -> Stage:
    if not isinstance(name, str) or name not in STAGES:
        raise ValueError(f"There is no stage {quoted(name)}; choose one of {', '.join(STAGES)}.")
    return name


def _read_table(stage: Stage, faults: Any) -> list[tuple[Strike, float]]:
    table = []
    for name, value in _object(faults, f"The faults of {stage!r}").items():
        fields = dict(value) if isinstance(value, dict) else {"probability": value}
        probability = _number(name, fields.pop("probability", None), 1.0)
        table.append((_read_strike(stage, {"fault": name} | fields), probability))
    if sum(probability for _, probability in table) > 1 + 1e-9:
        raise ValueError(f"The probabilities of the faults of {stage!r} add up to more than 1.")
    return table


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be an object, not {quoted(value)}.")  # noqa: TRY004 - JSON from outside
    return dict(value)


def _number(name: str, value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{name!r:.80} must be a number from 0 to {most:g}, not {quoted(value)}.")
    return float(value)


def check_seed(seed: Any) -> None:
    """Refuse a seed that isn't one."""
    if seed is not None and not is_whole(seed):
        raise ValueError(f"seed={quoted(seed)} must be a whole number.")


def is_whole(number: Any) -> bool:
    """Whether a value is a whole number, of Python or NumPy."""
    return isinstance(number, numbers.Integral) and not isinstance(number, bool)


class FaultPlan:
    """The faults of one gateway; may be changed at any time from any thread.

    A fault is written as its name, or as ``{"fault": name, "seconds": 2.5}``: how long `slow` takes, or what a
    `Retry-After` says.

    Parameters
    ----------
    faults : mapping, path or None
        What `change` takes, or the path of a JSON file with it.
    seed : int or None
        Makes the draws repeatable, stage by stage.

    Raises
    ------
    ValueError
        If there is no such fault at that stage, or probabilities are below 0 or add up to more than 1.
    OSError
        If the file can't be read.

    Examples
    --------
    >>> plan = FaultPlan({"poll": {"http_503": 1.0}}, seed=0)
    >>> plan.draw("poll").fault.status
    503
    >>> plan.set({"poll": {}})
    >>> plan.script("create", "drop_after_accept")
    >>> plan.describe()["script"]
    {'create': ['drop_after_accept']}
    >>> plan.clear()
    """

    def __init__(self, faults: Mapping[str, Any] | str | Path | None = None, seed: int | None = None) -> None:
        self._lock = threading.Lock()
        check_seed(seed)
        self._rngs = {stage: random.Random(None if seed is None else f"{seed} {stage}") for stage in STAGES}
        self._clear()
        faults = _read_file(faults) if isinstance(faults, str | Path) else faults
        self.change({} if faults is None else faults)

    def script(self, stage: Stage, *entries: str | Mapping[str, Any], seconds: float = SLOW_S) -> None:
        """Add faults that strike the next requests of a stage, one each.

        Parameters
        ----------
        stage : {"create", "poll", "precharge", "download"}
            Where they strike.
        *entries : str or mapping
            The faults, in order. One that needs another state of the task waits, and so do those behind it.
        seconds : float
            For entries without seconds.

        Raises
        ------
        ValueError
            If there is no such fault at this stage; then nothing is added.
        """
        stage = _read_stage(stage)
        strikes = [_read_strike(stage, entry, seconds) for entry in entries]
        with self._lock:
            self._scripts[stage].extend(strikes)

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
        self.change(
            {_read_stage(stage): faults for stage, faults in _object(probabilities, "The faults").items()}
        )

    def change(self, request: Mapping[str, Any]) -> None:
        """Change probabilities and scripts at once, as a file or a request over HTTP does.

        Parameters
        ----------
        request : mapping
            Stages as for `set`, and beside them ``"script"``, stage to list of entries, and ``"clear": true`` to
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
        rest = _object(request, "The faults")
        does_clear = rest.pop("clear", False)
        scripts = _object(rest.pop("script", {}), "The scripts of faults")
        if not (isinstance(does_clear, bool) and all(isinstance(one, list) for one in scripts.values())):
            raise ValueError(
                '"script" must map stages to lists of faults, and "clear" must be true or false.'
            )
        tables = {stage: _read_table(stage, rest[stage]) for stage in map(_read_stage, rest)}
        strikes = {
            stage: [_read_strike(stage, entry) for entry in scripts[stage]]
            for stage in map(_read_stage, scripts)
        }
        with self._lock:
            if does_clear:
                self._clear()
            self._tables.update(tables)
            for stage, listed in strikes.items():
                self._scripts[stage].extend(listed)

    def clear(self) -> None:
        """Forget every script and every probability."""
        with self._lock:
            self._clear()

    def draw(self, stage: Stage, state: str | None = None) -> Strike | None:
        """Draw what strikes a request.

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
        if not self._scripts[_read_stage(stage)] and stage not in self._tables:
            return None
        with self._lock:
            strike, is_scripted = self._next(stage)
            if strike is None or (stage == "poll" and strike.fault.needs not in (None, state)):
                return None
            if is_scripted:
                self._scripts[stage].popleft()
            return strike

    def describe(self) -> dict[str, Any]:
        """Return what is planned, by name.

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
