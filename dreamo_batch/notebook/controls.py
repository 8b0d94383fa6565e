"""What can be clicked, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from typing import TYPE_CHECKING, Final

from dreamo_batch import columns
from dreamo_batch.execution.budget import EXACT
from dreamo_batch.notebook import amounts
from dreamo_batch.notebook.money import falls_short

if TYPE_CHECKING:
    from dreamo_batch.batch.moment import Phase, Status

_CAP: Final = "max_cost"
_ENOUGH: Final = Decimal("1.5")
_ONE: Final = Decimal(1)
_CENTS: Final = Decimal("0.01")
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
    """Say what can be clicked.

    Examples
    --------
    >>> from dreamo_batch.notebook.example import example
    >>> controls = controls_of(example(), can_control=True)
    >>> controls.pause.is_enabled, controls.resume.is_enabled, controls.retry.words
    (True, False, 'Retry failed (1)')
    """
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
        return True, "Order nothing more for now; tasks at the service go on and their pictures are saved."
    return False, "Already paused." if phase == "paused" else "The run is not going."


def _resuming(status: Status) -> _Use:
    if status.phase == "paused":
        return True, "Go on ordering."
    if status.phase == "stopped":
        return True, "Go on with the rows that are not settled; nothing is paid twice."
    return False, "The run is going." if status.phase == "running" else "There is nothing to resume."


def _stopping(phase: Phase) -> _Use:
    if phase in ("running", "paused"):
        return True, "Order nothing more and end. Safe: what was ordered is recorded, and Resume goes on."
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
            f"Order {amounts.count(n_failed, 'failed row')} again, each once; this may cost money again.",
        )
    return _button(words, use, can_control=can_control)


def _suggested_cap(status: Status) -> str:
    """Give a cap that would last, in whole cents; asked for where the present one stopped the run, or may."""
    cap = status.max_cost_usd
    if cap is None or not (falls_short(status) or _is_stopped_by_cap(status)):
        return ""
    expected = status.projected_usd[2] if status.projected_usd else cap
    enough = expected if expected > cap else EXACT.multiply(_ENOUGH, cap) or _ONE
    return f"{enough.quantize(_CENTS, ROUND_UP, EXACT):f}"


def _is_stopped_by_cap(status: Status) -> bool:
    """Whether what stopped the run names the cap as what to change."""
    return status.phase == "stopped" and _CAP in (status.problem or "")
