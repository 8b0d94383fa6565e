"""The one palette: the word, sign and colour of each status and outcome of a row, and the colours around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dreamo_batch import columns

PICTURE: Final = "picture"
UNSAVED: Final = "unsaved"
GONE: Final = "gone"
NO_RESULT: Final = "no_result"
"""Outcomes besides the statuses: a saved picture, one that wasn't saved, one whose file is missing or damaged, and a
row without results, as a merge can leave it."""


@dataclass(frozen=True, slots=True)
class StatusStyle:
    """The word, the sign and the colour of a status."""

    word: str
    sign: str
    colour: str

    def counted(self, n: int) -> str:
        """Return the word with a count before it."""
        return f"{n} {self.word}s" if self.word == PICTURE and n != 1 else f"{n} {self.word}"


# Blue, vermilion and purple of Okabe and Ito's palette: told apart by colour-blind readers, on white and on black.
PALETTE: Final = {
    PICTURE: StatusStyle("picture", "✓", "#0072b2"),
    UNSAVED: StatusStyle("not saved", "✗", "#d55e00"),
    GONE: StatusStyle("file missing or damaged", "✗", "#d55e00"),
    columns.COMPLETED: StatusStyle("completed", "✓", "#0072b2"),
    columns.PENDING: StatusStyle("pending", "·", "#b4b4b4"),
    columns.SUBMITTING: StatusStyle("submitting", "↑", "#9ad0f0"),
    columns.IN_PROGRESS: StatusStyle("in progress", "…", "#56b4e9"),
    columns.FAILED: StatusStyle("failed", "✗", "#d55e00"),
    columns.INVALID: StatusStyle("invalid", "!", "#8a6d3b"),
    columns.AMBIGUOUS: StatusStyle("ambiguous", "?", "#cc79a7"),
    NO_RESULT: StatusStyle("no result", "-", "#b4b4b4"),
}
"""In the order in which counts are listed."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of text, of grid lines, of what went well or badly, and of what is open, on one background."""

    ink: str
    faint: str
    good: str
    bad: str
    open: str


ON_LIGHT: Final = Theme(
    "#222222", "#d5d5d5", PALETTE[columns.COMPLETED].colour, PALETTE[columns.FAILED].colour, "#767676"
)
ON_DARK: Final = Theme("#ececec", "#4a4a4a", PALETTE[columns.IN_PROGRESS].colour, "#f0a04b", "#a8a8a8")
