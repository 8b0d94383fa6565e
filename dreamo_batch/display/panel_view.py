"""Numbers as people read them: money, lengths of time, rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.engine.budget import EXACT, total
from dreamo_batch.engine.status import ErrorGroup, Status
from dreamo_batch.text import dollars, harmless

if TYPE_CHECKING:
    from dreamo_batch.engine.status import Phase, Picture


_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400
_STEP_S: Final = 5
_TEN: Final = 10
_CENTS: Final = Decimal("0.01")
_FINEST: Final = Decimal("0.0001")


def length(seconds: float) -> str:
    """Write a length of time in its two largest units."""
    whole = max(0, round(seconds))
    for unit_s, unit, part_s, part in (
        (_DAY_S, "d", _HOUR_S, "h"),
        (_HOUR_S, "h", _MINUTE_S, "min"),
        (_MINUTE_S, "min", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // part_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def about(seconds: float) -> str:
    """Write a length of time that is only guessed: no finer than it can be known."""
    step_s = _STEP_S if seconds < _MINUTE_S else _MINUTE_S
    return length(math.ceil(seconds / step_s) * step_s)


def rate(rows_per_s: float) -> str:
    """Write a rate by the second, minute or hour, whichever gives a number to read."""
    for per_s, unit in ((1, "s"), (_MINUTE_S, "min"), (_HOUR_S, "h")):
        if rows_per_s * per_s >= 1 or unit == "h":
            number = rows_per_s * per_s
            break
    return f"{number:.1f} rows/{unit}".replace(".0 ", " ") if number < _TEN else f"{number:,.0f} rows/{unit}"


def count(number: int, noun: str) -> str:
    """Write a number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Money:
    """Amounts as text, and their shares of a bar whose end is the cap, or else the highest projection."""

    spent: str
    reserved: str
    cap: str
    projected: str
    warning: str
    has_bar: bool
    spent_share: float
    reserved_share: float
    projected_shares: tuple[float, float, float] | None


def money_of(status: Status) -> Money:
    """Say what is shown of the money."""
    end = _end(status)
    spent = _share(status.spent_usd, end)
    return Money(
        spent=dollars(status.spent_usd),
        reserved=dollars(status.reserved_usd) if status.reserved_usd else "",
        cap="none" if status.max_cost_usd is None else dollars(status.max_cost_usd),
        projected=_projected(status),
        warning=_warning(status),
        has_bar=bool(end),
        spent_share=spent,
        reserved_share=min(1 - spent, _share(status.reserved_usd, end)),
        projected_shares=_marks(status, end),
    )


def falls_short(status: Status) -> bool:
    """Whether the cap may end before the rows do."""
    if status.max_cost_usd is None or status.n_settled == status.n_rows:
        return False
    expected = (
        status.projected_usd[2] if status.projected_usd else total((status.spent_usd, status.reserved_usd))
    )
    return expected > status.max_cost_usd


def _end(status: Status) -> Decimal:
    if status.max_cost_usd is not None:
        return status.max_cost_usd
    highest = status.projected_usd[2] if status.projected_usd else Decimal(0)
    return max(highest, total((status.spent_usd, status.reserved_usd)))


def _share(amount: Decimal, end: Decimal) -> float:
    return float(min(Decimal(1), EXACT.divide(amount, end))) if end else 0.0


def _marks(status: Status, end: Decimal) -> tuple[float, float, float] | None:
    if status.projected_usd is None or status.n_settled == status.n_rows:
        return None
    low, likely, high = status.projected_usd
    return _share(low, end), _share(likely, end), _share(high, end)


def _projected(status: Status) -> str:
    if status.projected_usd is None or status.n_settled == status.n_rows:
        return ""
    low, likely, high = map(dollars, status.projected_usd)
    return likely if low == high else f"{likely} ({low} to {high})"


def _warning(status: Status) -> str:
    if not falls_short(status) or status.projected_usd is None or status.max_cost_usd is None:
        return ""
    sure = status.projected_usd[0] > status.max_cost_usd
    return "the cap will not last" if sure else "the cap may not last"


_CAP: Final = "max_cost"
_ENOUGH: Final = Decimal("1.5")
_ONE: Final = Decimal(1)
_CAP_CENTS: Final = Decimal("0.01")
_ELSEWHERE: Final = (
    "Another process works on this run: it can be watched from here, and paused or stopped there."
)


@dataclass(frozen=True, slots=True)
class Button:
    """A button: its words, whether it can be clicked, and what it does or why it can't."""

    words: str
    is_enabled: bool
    tooltip: str


@dataclass(frozen=True, slots=True)
class Controls:
    """All buttons; `suggested_cap` is text to begin with where a new cap is asked for, empty where it is not."""

    pause: Button
    resume: Button
    stop: Button
    retry: Button
    suggested_cap: str
    why_not: str

    @property
    def has_any(self) -> bool:
        """Whether anything can be clicked."""
        return any(button.is_enabled for button in (self.pause, self.resume, self.stop, self.retry))


def controls_of(status: Status, *, can_control: bool) -> Controls:
    """Say what can be clicked."""
    return Controls(
        pause=_button("Pause", _pausing(status.phase), can_control=can_control),
        resume=_button("Resume", _resuming(status), can_control=can_control),
        stop=_button("Stop", _stopping(status.phase), can_control=can_control),
        retry=_retry(status, can_control=can_control),
        suggested_cap=_suggested_cap(status) if can_control else "",
        why_not="" if can_control else _ELSEWHERE,
    )


# What a button does, or why it can't be clicked.
_Use = tuple[bool, str]


def _button(words: str, use: _Use, *, can_control: bool) -> Button:
    return Button(words, *use) if can_control else Button(words, False, _ELSEWHERE)


def _pausing(phase: Phase) -> _Use:
    if phase == "running":
        return True, "Attempt nothing more for now; tasks at the service go on and their pictures are saved."
    return False, "Already paused." if phase == "paused" else "The run is not going."


def _resuming(status: Status) -> _Use:
    if status.phase == "paused":
        return True, "Go on submitting."
    if status.phase == "stopped":
        return True, "Go on with the rows that are not settled; nothing is paid twice."
    return False, "The run is going." if status.phase == "running" else "There is nothing to resume."


def _stopping(phase: Phase) -> _Use:
    if phase in ("running", "paused"):
        return True, "Attempt nothing more and end. Safe: what was submitted is recorded, and Resume goes on."
    return False, "Already stopping." if phase == "stopping" else "The run is not going."


def _retry(status: Status, *, can_control: bool) -> Button:
    n_failed = status.by_status.get(columns.FAILED, 0)
    words = f"Retry failed ({n_failed:,})" if n_failed else "Retry failed"
    if not n_failed:
        use = False, "No row has failed."
    elif status.phase == "stopping":
        use = False, "The run is stopping."
    else:
        use = (
            True,
            f"Attempt {count(n_failed, 'failed row')} again, each once; this may cost money again.",
        )
    return _button(words, use, can_control=can_control)


def _suggested_cap(status: Status) -> str:
    """Give a cap that would last, in whole cents; asked for where the present one stopped the run, or may."""
    cap = status.max_cost_usd
    if cap is None or not (falls_short(status) or _is_stopped_by_cap(status)):
        return ""
    expected = status.projected_usd[2] if status.projected_usd else cap
    enough = expected if expected > cap else EXACT.multiply(_ENOUGH, cap) or _ONE
    return f"{enough.quantize(_CAP_CENTS, ROUND_UP, EXACT):f}"


def _is_stopped_by_cap(status: Status) -> bool:
    """Whether what stopped the run names the cap as what to change."""
    return status.phase == "stopped" and _CAP in (status.problem or "")


_MESSAGE_CHARACTERS: Final = 300
_PROBLEM_CHARACTERS: Final = 2000
_LABEL_CHARACTERS: Final = 60
_PROMPT_CHARACTERS: Final = 200

# In the order of the bar: what is settled, what is under way, what is to come.
_ORDER: Final = (
    columns.COMPLETED,
    columns.FAILED,
    columns.AMBIGUOUS,
    columns.INVALID,
    columns.IN_PROGRESS,
    columns.SUBMITTING,
    columns.PENDING,
)

_TITLES: Final = {
    "running": ("Running", "busy"),
    "paused": ("Paused", "quiet"),
    "stopping": ("Stopping", "quiet"),
    "stopped": ("Stopped", "quiet"),
    "finished": ("Finished", "good"),
    "idle": ("Idle", "quiet"),
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the bar: a status, how many rows have it, and its share of the whole (0 to 1)."""

    name: str
    label: str
    n_rows: int
    share: float


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """One class of errors: how many rows, and one of them with its message."""

    name: str
    count: str
    row: str
    message: str


@dataclass(frozen=True, slots=True)
class Caption:
    """A picture: where it lies, and the lines below it."""

    job_id: str
    path: Path
    label: str
    seed: str
    prompt: str


@dataclass(frozen=True, slots=True)
class View:
    """Everything that a panel shows."""

    title: str
    tone: str
    place: str
    progress: str
    pace: str
    detail: str
    segments: tuple[Segment, ...]
    money: Money
    errors: tuple[ErrorLine, ...]
    pictures: tuple[Caption, ...]
    notices: tuple[str, ...]
    problem: str
    controls: Controls
    is_over: bool
    at: str


def view_of(status: Status, *, can_control: bool = True) -> View:
    """Say what is shown of a run."""
    title, tone = _TITLES[status.phase]
    return View(
        title=title,
        tone="bad" if status.problem is not None else tone,
        place=shortened(status.run_dir, _PROBLEM_CHARACTERS),
        progress=_progress(status),
        pace=_pace(status, is_ours=can_control),
        detail=_detail(status),
        segments=_segments(status),
        money=money_of(status),
        errors=tuple(_error(group) for group in status.errors),
        pictures=tuple(_caption(picture) for picture in status.newest),
        notices=tuple(shortened(notice, _MESSAGE_CHARACTERS) for notice in reversed(status.notices)),
        problem=message(status.problem or ""),
        controls=controls_of(status, can_control=can_control),
        is_over=status.is_over,
        at=f"{status.at:%Y-%m-%d %H:%M:%S} UTC",
    )


def shortened(words: Any, n_characters: int) -> str:
    """Write anybody's words on one line of a limited length, without what could do harm."""
    text = harmless(" ".join(str(words).split()))
    return text if len(text) <= n_characters else text[: n_characters - 1].rstrip() + "…"


def message(words: str) -> str:
    """Write a message of several lines, each without what could do harm."""
    return "\n".join(harmless(line.rstrip()) for line in words[:_PROBLEM_CHARACTERS].strip().split("\n"))


def _progress(status: Status) -> str:
    if not status.n_rows:
        return "no rows"
    percent = 100 * status.n_settled // status.n_rows
    return f"{status.n_settled:,} of {count(status.n_rows, 'row')} settled ({percent} %)"


def _pace(status: Status, *, is_ours: bool) -> str:
    """Tell time and speed; for how long somebody else has been working can't be told."""
    if status.is_over:
        return f"took {length(status.elapsed_s)}" if is_ours and status.elapsed_s else ""
    parts = [f"{length(status.elapsed_s)} so far"] if is_ours else []
    if status.n_in_flight:
        parts.append(f"{status.n_in_flight:,} in flight")
    if status.rows_per_s and status.phase == "running":
        parts.append(rate(status.rows_per_s))
    if status.eta_s and status.phase == "running":
        parts.append(f"about {about(status.eta_s)} left")
    return " · ".join(parts)


def _detail(status: Status) -> str:
    in_flight = count(status.n_in_flight, "task")
    if status.phase == "paused":
        still = f"; {in_flight} at the service still fetched" if status.n_in_flight else ""
        return f"Nothing more is submitted until you resume{still}."
    if status.phase == "stopping":
        return "Nothing more is submitted; what was already sent is waited for."
    if status.phase == "idle":
        return "Nobody is working on this run. The same call again goes on with it."
    n_left = status.n_rows - status.n_settled
    if status.phase == "stopped" and status.problem is None and n_left:
        left = count(n_left, "row")
        return f"{left} not settled. Resume, or the same call again, goes on; nothing is paid twice."
    return ""


def _segments(status: Status) -> tuple[Segment, ...]:
    known = [name for name in _ORDER if status.by_status.get(name)]
    return tuple(
        Segment(name, name.replace("_", " "), status.by_status[name], status.by_status[name] / status.n_rows)
        for name in known
    )


def _error(group: ErrorGroup) -> ErrorLine:
    return ErrorLine(
        name=shortened(group.error_class, _LABEL_CHARACTERS),
        count=count(group.n_rows, "row"),
        row=shortened(group.row, _LABEL_CHARACTERS),
        message=shortened(group.message, _MESSAGE_CHARACTERS),
    )


def _caption(picture: Picture) -> Caption:
    label = f"row {shortened(picture.row, _LABEL_CHARACTERS)}"
    return Caption(
        job_id=picture.job_id,
        path=picture.path,
        label=label if picture.cost_usd is None else f"{label} · {dollars(picture.cost_usd)}",
        seed="" if picture.seed is None else f"seed {picture.seed}",
        prompt=shortened(picture.prompt, _PROMPT_CHARACTERS),
    )


def example(**changes: Any) -> Status:
    """Give a small run that is under way."""
    fields: dict[str, Any] = {
        "run_dir": Path("runs/example"),
        "phase": "running",
        "by_status": {columns.COMPLETED: 2, columns.FAILED: 1, columns.IN_PROGRESS: 1},
        "spent_usd": Decimal("0.06"),
        "reserved_usd": Decimal("0.03"),
        "max_cost_usd": Decimal("0.5"),
        "projected_usd": (Decimal("0.11"), Decimal("0.12"), Decimal("0.13")),
        "n_in_flight": 1,
        "rows_per_s": 0.5,
        "eta_s": 2.0,
        "elapsed_s": 6.0,
        "errors": (ErrorGroup("permanent", 1, 2, "Invalid parameter"),),
        "newest": (),
        "notices": (),
        "problem": None,
        "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    return Status(**{**fields, **changes})
