"""What a panel shows of a run, decided without any widget: texts, shares of bars, and which buttons can be clicked."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import ROUND_UP, Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, NamedTuple

from dreamo_batch import columns
from dreamo_batch.frames import ON_LIGHT, PALETTE
from dreamo_batch.money import EXACT, dollars, total
from dreamo_batch.text import clock_time, counted, duration, harmless, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from dreamo_batch.engine.status import ErrorGroup, Picture, Status

_MESSAGE_CHARACTERS: Final = 300
_PROBLEM_CHARACTERS: Final = 2000
_LABEL_CHARACTERS: Final = 60
_PROMPT_CHARACTERS: Final = 200
_MINUTE_S: Final = 60
_RATES: Final = ((1, "s"), (_MINUTE_S, "min"), (3600, "h"))
_STEP_S: Final = 5
_TEN: Final = 10
_CENT: Final = Decimal("0.01")
_RAISED: Final = Decimal("1.5")

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
_COLOURS: Final = {
    "running": PALETTE[columns.IN_PROGRESS].colour,
    "finished": PALETTE[columns.COMPLETED].colour,
}
_ELSEWHERE: Final = "Another process is working on this run. You can watch it here; pause or stop it there."
_NOT_RUNNING: Final = "The run is not running."


class Caption(NamedTuple):
    """A picture's file, and the lines below it."""

    job_id: str
    path: Path
    label: str
    seed: str
    prompt: str


def view_of(status: Status, *, can_control: bool = True) -> SimpleNamespace:
    """Return what is shown of a run, by the names that the templates use; shares are of a bar's length, 0 to 1."""
    segments = tuple(
        SimpleNamespace(status=name, style=PALETTE[name], n_rows=n_rows, share=n_rows / status.n_rows)
        for name in _ORDER
        if (n_rows := status.by_status.get(name, 0))
    )
    return SimpleNamespace(
        title=status.phase.capitalize(),
        colour=PALETTE[columns.FAILED].colour
        if status.problem
        else _COLOURS.get(status.phase, ON_LIGHT.open),
        place=one_line(status.run_dir, _PROBLEM_CHARACTERS),
        progress=_progress(status),
        pace=_pace(status, is_ours=can_control),
        detail=_detail(status),
        counts=", ".join(f"{part.n_rows:,} {part.style.word}" for part in segments),
        segments=segments,
        money=_money(status),
        errors=tuple(map(_error, status.errors)),
        pictures=tuple(map(_caption, status.newest)),
        notices=tuple(one_line(notice, _MESSAGE_CHARACTERS) for notice in reversed(status.notices)),
        problem=message(status.problem or ""),
        controls=_controls(status, can_control=can_control),
        is_over=status.is_over,
        at=f"{status.at:%Y-%m-%d %H:%M:%S} UTC",
    )


def message(words: str) -> str:
    """Return a message of several lines, without characters that could do harm."""
    return "\n".join(harmless(line.rstrip()) for line in words[:_PROBLEM_CHARACTERS].strip().split("\n"))


def rate(rows_per_s: float) -> str:
    """Return a rate per second, minute or hour, whichever is the first to reach one."""
    per_s, unit = next((pair for pair in _RATES if rows_per_s * pair[0] >= 1), _RATES[-1])
    number = rows_per_s * per_s
    shown = f"{number:.1f}".removesuffix(".0") if number < _TEN else f"{number:,.0f}"
    return f"{shown} {'row' if shown == '1' else 'rows'}/{unit}"


def about(seconds: float) -> str:
    """Return an estimated length of time, no finer than it can be known."""
    step_s = _STEP_S if seconds < _MINUTE_S else _MINUTE_S
    return duration(math.ceil(seconds / step_s) * step_s)


def _progress(status: Status) -> str:
    if not status.n_rows:
        return "no rows"
    percent = 100 * status.n_settled // status.n_rows
    return f"{status.n_settled:,} of {counted(status.n_rows, 'row')} settled ({percent} %)"


def _pace(status: Status, *, is_ours: bool) -> str:
    """Return time and speed; nobody knows for how long another process has been working."""
    if status.is_over:
        return f"took {duration(status.elapsed_s)}" if is_ours and status.elapsed_s else ""
    parts = [f"{duration(status.elapsed_s)} so far"] if is_ours else []
    if status.n_in_flight:
        parts.append(f"{status.n_in_flight:,} in flight")
    if status.rows_per_s and status.phase == "running":
        parts.append(rate(status.rows_per_s))
    if status.eta_s and status.phase == "running":
        parts.append(f"about {about(status.eta_s)} left")
    return " · ".join(parts)


def _detail(status: Status) -> str:
    n_left = status.n_rows - status.n_settled
    if status.phase == "paused":
        tasks = f" Waiting for {counted(status.n_in_flight, 'submitted task')}." if status.n_in_flight else ""
        at = "" if status.begins_at is None else f" or it is {clock_time(status.begins_at.timestamp())}"
        return f"Nothing more is submitted until you resume{at}.{tasks}"
    if status.phase == "stopping":
        return "Nothing more is submitted. Waiting for requests that were already sent."
    if status.phase == "idle":
        return "No process is working on this run. Make the same call again to resume it."
    if status.phase == "stopped" and status.problem is None and n_left:
        left = f"{counted(n_left, 'row')} not settled."
        return f"{left} Resume, or make the same call again, to continue; nothing is paid twice."
    return ""


def _error(group: ErrorGroup) -> ErrorGroup:
    label, row = one_line(group.error_class, _LABEL_CHARACTERS), one_line(group.row, _LABEL_CHARACTERS)
    return replace(group, error_class=label, row=row, message=one_line(group.message, _MESSAGE_CHARACTERS))


def _caption(picture: Picture) -> Caption:
    cost = "" if picture.cost_usd is None else f" · {dollars(picture.cost_usd)}"
    return Caption(
        job_id=picture.job_id,
        path=picture.path,
        label=f"row {one_line(picture.row, _LABEL_CHARACTERS)}{cost}",
        seed="" if picture.seed is None else f"seed {picture.seed}",
        prompt=one_line(picture.prompt, _PROMPT_CHARACTERS),
    )


def _money(status: Status) -> SimpleNamespace:
    """Return amounts as text, and shares of a bar that ends at the cap, or without one at the highest projection."""
    cap = status.max_cost_usd  # what is settled costs nothing more
    projected = None if status.n_settled == status.n_rows else status.projected_usd
    low, likely, high = projected or [total((status.spent_usd, status.reserved_usd))] * 3
    end = max(high, total((status.spent_usd, status.reserved_usd))) if cap is None else cap

    def share(amount: Decimal) -> float:
        return float(min(Decimal(1), EXACT.divide(amount, end))) if end else 0.0

    warning = ""
    if projected and cap is not None and high > cap:
        warning = "the cap will not last" if low > cap else "the cap may not last"
    between = "" if low == high else f" ({dollars(low)} to {dollars(high)})"
    return SimpleNamespace(
        spent=dollars(status.spent_usd),
        reserved=dollars(status.reserved_usd) if status.reserved_usd else "",
        cap="none" if cap is None else dollars(cap),
        projected=f"{dollars(likely)}{between}" if projected else "",
        warning=warning,
        has_bar=bool(end),
        spent_share=share(status.spent_usd),
        reserved_share=min(1 - share(status.spent_usd), share(status.reserved_usd)),
        projected_shares=(share(low), share(likely), share(high)) if projected else None,
    )


def _controls(status: Status, *, can_control: bool) -> SimpleNamespace:
    """Return all buttons; `suggested_cap` is empty where no new cap is needed."""
    phase, n_failed = status.phase, status.by_status.get(columns.FAILED, 0)
    resumes = "Continue with the rows that are not settled. Nothing is paid twice."
    # Of each button its words, what it does, and why it can't be clicked now; empty if it can.
    buttons = {
        "pause": (
            "Pause",
            "Submit nothing more for now. Submitted tasks continue and their pictures are saved.",
            {"running": "", "paused": "Already paused."}.get(phase, _NOT_RUNNING),
        ),
        "resume": (
            "Resume",
            "Continue submitting." if phase == "paused" else resumes,
            {"paused": "", "stopped": "", "running": "The run is running."}.get(phase, "Nothing to resume."),
        ),
        "stop": (
            "Stop",
            "Submit nothing more and end the run. What was submitted is recorded; Resume continues.",
            {"running": "", "paused": "", "stopping": "Already stopping."}.get(phase, _NOT_RUNNING),
        ),
        "retry": (
            f"Retry failed ({n_failed:,})" if n_failed else "Retry failed",
            f"Submit {counted(n_failed, 'failed row')} again, each once. This may cost money again.",
            "No row has failed." if not n_failed else "The run is stopping." if phase == "stopping" else "",
        ),
    }
    elsewhere = "" if can_control else _ELSEWHERE
    shown = {
        name: SimpleNamespace(
            words=words,
            is_enabled=not (elsewhere or why_not),
            tooltip=elsewhere or why_not or tooltip,
        )
        for name, (words, tooltip, why_not) in buttons.items()
    }
    return SimpleNamespace(
        buttons=shown,
        has_any=any(button.is_enabled for button in shown.values()),
        suggested_cap=_suggested_cap(status) if can_control else "",
        why_not=elsewhere,
    )


def _suggested_cap(status: Status) -> str:
    """Return a cap that would last, in whole cents, where the present one stopped the run or may do so."""
    cap = status.max_cost_usd
    if cap is None:
        return ""
    spent = total((status.spent_usd, status.reserved_usd))
    expected = status.projected_usd[2] if status.projected_usd else spent
    falls_short = status.n_settled < status.n_rows and expected > cap
    if not falls_short and not (status.phase == "stopped" and status.is_cap_reached):
        return ""
    is_known = status.projected_usd is not None and expected > cap
    enough = expected if is_known else EXACT.multiply(_RAISED, cap) or Decimal(1)
    return f"{enough.quantize(_CENT, ROUND_UP, EXACT):f}"
