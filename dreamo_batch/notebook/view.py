"""What is shown of a run: `Status` -> `View`, texts and fractions only, without any widget or HTML.

Texts are anybody's words made `harmless` and cut to a length; whoever writes HTML of them still escapes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.notebook import amounts
from dreamo_batch.notebook.controls import Controls, controls_of
from dreamo_batch.notebook.money import Money, money_of
from dreamo_batch.service.harmless import harmless

if TYPE_CHECKING:
    from pathlib import Path

    from dreamo_batch.batch.moment import ErrorGroup, Picture, Status

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
    """Everything that a panel shows.

    Attributes
    ----------
    title, tone : str
        What the run does, and the colour of that by name: ``"busy"``, ``"good"``, ``"bad"`` or ``"quiet"``.
    place : str
        The run directory.
    progress, pace : str
        Rows settled of all; rate, time left, tasks in flight. Empty where there is nothing to say.
    detail : str
        What the title means, where it is not plain.
    """

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
    """Say what is shown of a run.

    Parameters
    ----------
    status : Status
        The run at one moment.
    can_control : bool
        Whether this process works on it.

    Returns
    -------
    View

    Examples
    --------
    >>> from dreamo_batch.notebook.example import example
    >>> view = view_of(example())
    >>> view.title, view.progress, [(part.label, part.n_rows) for part in view.segments]
    ('Running', '3 of 4 rows settled (75 %)', [('completed', 2), ('failed', 1), ('in progress', 1)])
    """
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
    r"""Write anybody's words on one line of a limited length, without what could do harm.

    Examples
    --------
    >>> shortened("a\n fox", 9), shortened("a long story", 9), shortened("\x1b[31m", 9)
    ('a fox', 'a long s…', '\\x1b[31m')
    """
    text = harmless(" ".join(str(words).split()))
    return text if len(text) <= n_characters else text[: n_characters - 1].rstrip() + "…"


def message(words: str) -> str:
    r"""Write a message of several lines, each without what could do harm.

    Examples
    --------
    >>> message("no\x07\nyes")
    'no\\x07\nyes'
    """
    return "\n".join(harmless(line.rstrip()) for line in words[:_PROBLEM_CHARACTERS].strip().split("\n"))


def _progress(status: Status) -> str:
    if not status.n_rows:
        return "no rows"
    percent = 100 * status.n_settled // status.n_rows
    return f"{status.n_settled:,} of {amounts.count(status.n_rows, 'row')} settled ({percent} %)"


def _pace(status: Status, *, is_ours: bool) -> str:
    """Tell time and speed; for how long somebody else has been working can't be told."""
    if status.is_over:
        return f"took {amounts.length(status.elapsed_s)}" if is_ours and status.elapsed_s else ""
    parts = [f"{amounts.length(status.elapsed_s)} so far"] if is_ours else []
    if status.n_in_flight:
        parts.append(f"{status.n_in_flight:,} in flight")
    if status.rows_per_s and status.phase == "running":
        parts.append(amounts.rate(status.rows_per_s))
    if status.eta_s and status.phase == "running":
        parts.append(f"about {amounts.about(status.eta_s)} left")
    return " · ".join(parts)


def _detail(status: Status) -> str:
    in_flight = amounts.count(status.n_in_flight, "task")
    if status.phase == "paused":
        still = f"; {in_flight} at the service still fetched" if status.n_in_flight else ""
        return f"Nothing more is ordered until you resume{still}."
    if status.phase == "stopping":
        return "Nothing more is ordered; what was already sent is waited for."
    if status.phase == "idle":
        return "Nobody is working on this run. The same call again goes on with it."
    n_left = status.n_rows - status.n_settled
    if status.phase == "stopped" and status.problem is None and n_left:
        left = amounts.count(n_left, "row")
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
        count=amounts.count(group.n_rows, "row"),
        row=shortened(group.row, _LABEL_CHARACTERS),
        message=shortened(group.message, _MESSAGE_CHARACTERS),
    )


def _caption(picture: Picture) -> Caption:
    label = f"row {shortened(picture.row, _LABEL_CHARACTERS)}"
    return Caption(
        job_id=picture.job_id,
        path=picture.path,
        label=label if picture.cost_usd is None else f"{label} · {amounts.dollars(picture.cost_usd)}",
        seed="" if picture.seed is None else f"seed {picture.seed}",
        prompt=shortened(picture.prompt, _PROMPT_CHARACTERS),
    )
