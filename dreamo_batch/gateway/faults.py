"""Every way in which the local gateway can misbehave, as one table, and the plan of which faults strike when."""

from __future__ import annotations

import enum
import json
import random
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


Stage = Literal["create", "poll", "precharge", "download"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
CREATE: Final[tuple[Stage, ...]] = ("create",)
POLL: Final[tuple[Stage, ...]] = ("poll",)
JSON: Final[tuple[Stage, ...]] = ("create", "poll", "precharge")
DOWNLOAD: Final[tuple[Stage, ...]] = ("download",)


class Effect(enum.StrEnum):
    """What kind of thing a fault does."""

    DROP = "drop"  # closes the connection without an answer
    SLOW = "slow"  # answers late
    ANSWER = "answer"  # answers something else
    VARY = "vary"  # answers right, in another spelling
    MANGLE = "mangle"  # spoils the answer's bytes
    FATE = "fate"  # decides what becomes of the task that is being accepted


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


ERROR_SHAPES: Final = (
    "code_error_message",
    "code_message",
    "message",
    "string",
    "detail",
    "status",
    "flat",
    "integer_code",
    "html",
    "empty",
)


def _connections() -> Iterator[Fault]:
    meaning = "connection closed, nothing accepted"
    yield Fault("drop_before_accept", CREATE, Effect.DROP, meaning, is_accepted=False)
    yield Fault("drop_after_accept", CREATE, Effect.DROP, "connection closed, but accepted and billed")
    yield Fault("drop", ("poll", "precharge", "download"), Effect.DROP, "connection closed")
    yield Fault("slow", STAGES, Effect.SLOW, "right answer after some seconds; a create is accepted at once")


def _answers() -> Iterator[Fault]:
    for status in (401, 402, 403, 404, 408, 500, 502, 503, 504):
        yield _refusal(f"http_{status}", f"HTTP {status}", status=status)
    for hint in ("", "seconds", "date", "body"):
        name, meaning = f"http_429_{hint}".rstrip("_"), f"HTTP 429, Retry-After: {hint or 'none'}"
        yield _refusal(name, meaning, status=429, word=hint)
    for status in (408, 500, 502, 503, 504):
        yield _after_accept(f"http_{status}", f"HTTP {status}, but accepted and billed", status=status)
    yield _refusal("redirect", "HTTP 307 to the same path", status=307)
    yield _after_accept("redirect", "HTTP 307 to the same path, but accepted", status=307)
    for shape in ERROR_SHAPES:
        meaning = f"HTTP error (400 on create, else 500) with a body of shape {shape!r}"
        yield _refusal(f"error_{shape}", meaning, status=0, word=shape)
    yield _refusal("html", "HTTP 200 with an HTML page", word="html")
    yield _after_accept("html", "HTTP 200 with an HTML page, but accepted", word="html")
    meaning = "HTTP 200 with an empty body; a create is accepted"
    yield Fault("empty_answer", STAGES, Effect.ANSWER, meaning, word="empty")
    yield Fault("unexpected_json", JSON, Effect.ANSWER, "HTTP 200 with []; a create is accepted", word="list")
    meaning = "HTTP 200 with an error and no id"
    yield Fault("error_in_200", CREATE, Effect.ANSWER, meaning, is_accepted=False, word="code_error_message")
    meaning = "right answer cut in half; a create is accepted"
    yield Fault("truncated_json", JSON, Effect.MANGLE, meaning)
    for ending, more in (("long", "more"), ("short", "less")):
        meaning = f"Content-Length promises {more} than is sent; a create is accepted"
        yield Fault(f"content_length_too_{ending}", STAGES, Effect.MANGLE, meaning)


def _refusal(name: str, meaning: str, **details: Any) -> Fault:
    return Fault(name, STAGES, Effect.ANSWER, meaning, is_accepted=False, **details)


def _after_accept(name: str, meaning: str, **details: Any) -> Fault:
    return Fault(f"{name}_after_accept", CREATE, Effect.ANSWER, meaning, **details)


def _fates() -> Iterator[Fault]:
    failures = {
        f"fail_{code[-3:]}": (code, row.meaning)
        for code, row in contract.ERROR_CODES.items()
        if code >= "003011095"
    }
    for name, (code, text) in failures.items():
        yield Fault(name, CREATE, Effect.FATE, f"the task fails with {code}", code=code, word=text)
    failures = {
        "fail_moderation": ("003011095", "Internal generation error: Risk Not Pass"),
        "fail_moderation_code": ("000110001", "input image may contain sensitive information"),
        "fail_upstream_429": ("003011097", "HTTP error response: 429 Too Many Requests"),
        "fail_upstream_503": ("003011097", "HTTP error response: 503 Service Unavailable"),
        "fail_upstream_400": ("003011097", "HTTP error response: 400 Bad Request"),
    }
    for name, (code, text) in failures.items():
        yield Fault(name, CREATE, Effect.FATE, f"the task fails with {code}, {text!r}", code=code, word=text)
    fates = {
        "stuck": "the task never ends",
        "forgotten": "accepted and billed, but polls don't find the task",
        "completed_with_error": "the task ends completed, billed, and with an error",
    }
    for name, meaning in fates.items():
        yield Fault(name, CREATE, Effect.FATE, meaning, word=name)


def _spellings() -> Iterator[Fault]:
    for word, state in contract.STATUS_WORDS.items():
        if word != state:
            # Words for an unfinished task are also sent for finished ones, which then are not finished yet.
            needs: Any = None if state == "in_progress" else state
            yield Fault(f"status_{word}", POLL, Effect.VARY, f"status {word!r}", needs=needs, word=word)
    yield Fault("status_unknown", POLL, Effect.VARY, "an unknown status, not finished", word="warming_up")
    yield Fault("status_upper_case", POLL, Effect.VARY, "status in capitals")
    yield Fault("not_yet", POLL, Effect.VARY, "in progress, whatever it was", word="in_progress")
    yield Fault("id_missing", CREATE, Effect.VARY, "HTTP 200 in progress without an id, but accepted")
    yield Fault("created_at_text", ("create", "poll"), Effect.VARY, "created_at as ISO text")
    yield Fault("unknown_fields", JSON, Effect.VARY, "unknown fields")
    for name, status in (("unknown_task", 404), ("unknown_task_400", 400)):
        meaning = f"HTTP {status} Task not found, once"
        yield Fault(name, POLL, Effect.ANSWER, meaning, status=status, word="not_found")
    errors = {
        "failed_integer_code": "error.code as an integer",
        "failed_message": 'error as {"code", "message"}',
        "failed_string": "error as a plain string",
        "failed_no_code": "error without a code",
        "failed_no_error": "failed without an error",
    }
    for name, meaning in errors.items():
        yield Fault(name, POLL, Effect.VARY, meaning, needs="failed")
    costs = {
        "empty": '""',
        "null": "null",
        "number": "a number",
        "unreadable": '"n/a"',
        "missing": "no usage",
    }
    for name, value in costs.items():
        stages: tuple[Stage, ...] = ("poll", "precharge")
        yield Fault(f"cost_{name}", stages, Effect.VARY, f"cost: {value}", needs="completed", word=name)
    meaning = "HTTP 200, failed, with COST_CACHE_MISS in data"
    yield Fault("cost_cache_miss", ("precharge",), Effect.VARY, meaning)
    meaning = "HTTP 200, failed, with COST_CACHE_MISS beside data, which is null"
    yield Fault("cost_cache_miss_flat", ("precharge",), Effect.VARY, meaning)
    outputs = {
        "output_missing": "completed without output",
        "output_empty": "completed with an empty output",
        "output_untyped": "contents without a type",
        "output_expired": "an expired link",
    }
    for name, meaning in outputs.items():
        yield Fault(name, POLL, Effect.VARY, meaning, needs="completed")


def _downloads() -> Iterator[Fault]:
    yield Fault("link_expired", DOWNLOAD, Effect.ANSWER, "HTTP 403 with XML", status=403, word="expired")
    meaning = "HTTP 200, image/jpeg, but no picture"
    yield Fault("wrong_content", DOWNLOAD, Effect.ANSWER, meaning, word="noise")
    meaning = "half a picture, with the Content-Length of that half"
    yield Fault("truncated_picture", DOWNLOAD, Effect.MANGLE, meaning)


FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault for fault in (*_connections(), *_answers(), *_fates(), *_spellings(), *_downloads())
}


SLOW_S = 1.0
SECONDS_MAX = 86_400.0


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that strikes one request; `seconds` is how long `slow` takes, or what a Retry-After says."""

    fault: Fault
    seconds: float = SLOW_S


@dataclass(frozen=True, slots=True)
class FaultChange:
    """A change of the plan, read and checked."""

    tables: dict[Stage, list[tuple[Strike, float]]]
    scripts: dict[Stage, list[Strike]]
    does_clear: bool


def read_change(request: Mapping[str, Any]) -> FaultChange:
    """Read a whole change; see `FaultPlan.change` for its form."""
    rest = dict(_object(request, "The faults"))
    does_clear, scripts = rest.pop("clear", False), _object(rest.pop("script", {}), "The scripts of faults")
    if not isinstance(does_clear, bool) or not all(isinstance(entries, list) for entries in scripts.values()):
        raise ValueError('"script" must map stages to lists of faults, and "clear" must be true or false.')
    return FaultChange(
        {stage: _read_table(stage, rest[stage]) for stage in map(_read_stage, rest)},
        {
            stage: [_read_strike(stage, entry) for entry in scripts[stage]]
            for stage in map(_read_stage, scripts)
        },
        does_clear,
    )


def _read_file(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The faults in {path} are not JSON: {error}.") from None


def _read_strike(stage: Stage, entry: Any, seconds: float = SLOW_S) -> Strike:
    fields = dict(entry) if isinstance(entry, dict) else {"fault": entry}
    name, seconds = fields.pop("fault", None), fields.pop("seconds", seconds)
    fault = FAULTS.get(name) if isinstance(name, str) else None
    if fault is None or stage not in fault.stages or fields:
        known = ", ".join(fault.name for fault in FAULTS.values() if stage in fault.stages)
        raise ValueError(f"There is no fault {entry!r:.80} of {stage!r}; choose one of {known}.")
    return Strike(fault, _number("seconds", seconds, SECONDS_MAX))


def _read_stage(name: str) -> Stage:
    for stage in STAGES:
        if name == stage:
            return stage
    raise ValueError(f"There is no stage {name!r:.80}; choose one of {', '.join(STAGES)}.")


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
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, not {value!r:.80}.")  # noqa: TRY004 - JSON from outside
    return value


def _number(name: str, value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{name!r:.80} must be a number from 0 to {most:g}, not {value!r:.80}.")
    return float(value)


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
        If there is no such fault at that stage, or probabilities are not from 0 to 1 in sum.
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
        self.change(_read_file(faults) if isinstance(faults, str | Path) else faults or {})

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
        self.change({stage: dict(faults) for stage, faults in probabilities.items()})

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
