"""Tables that show a headline above their rows, and the word, sign and colour of each status, the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.text import harmless, shortened, templates

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHARACTERS_MAX: Final = 400
_TITLE_MAX: Final = 1_000
_ONE_LINE: Final = 16
_LONG: Final = 32
_LABEL_MAX: Final = 60
_COLUMN_MAX: Final = {columns.JOB_ID: 10, columns.VALUE: 60}


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


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows are of a kind, and the kind's colour."""

    word: str
    n: int
    colour: str


@dataclass(frozen=True, slots=True)
class Headline:
    """The summary of a table: one sentence, counts by kind, further sentences, and warnings."""

    text: str
    counts: tuple[Count, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return one line for a terminal."""
        counts = ", ".join(f"{count.n} {count.word}" for count in self.counts)
        return harmless(" ".join([self.text, *([f"{counts}."] if counts else []), *self.notes]))

    def as_text(self) -> str:
        """Return one line for a terminal, and one per warning."""
        return "\n".join([self.summary(), *(harmless(f"Warning: {warning}") for warning in self.warnings)])


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    kind: str = ""
    title: str = ""
    colour: str | None = None


class HeadedFrame(pd.DataFrame):  # type: ignore[misc] # pandas has no types here
    """A DataFrame that shows a headline above its rows."""

    # Values of cells that get a dot in front of them, and its colour.
    _colours: Mapping[str, str] = {}

    @classmethod
    def of(cls, table: pd.DataFrame, **known: Any) -> Self:
        """Return a table that also knows what its headline needs, as attributes that `_metadata` names."""
        made: Self = cls(table)
        made.attrs = dict(table.attrs)  # which pandas leaves behind
        for name, value in known.items():
            setattr(made, f"_{name}", value)
        return made

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return pd.DataFrame, (pd.DataFrame(self),)

    def __repr__(self) -> str:
        headline = self._headline()
        if headline is None:
            return str(super().__repr__())
        return f"{headline.as_text()}\n{self._text()}" if len(self) else headline.as_text()

    def _repr_html_(self) -> str | None:
        headline = self._headline()
        if headline is None or not pd.get_option("display.notebook_repr_html"):
            plain: str | None = super()._repr_html_()
            return plain
        listed = self._listed()
        first, last = _n_shown(len(listed))
        index_name = ", ".join("" if name is None else str(name) for name in listed.index.names).strip(", ")
        return (
            templates()
            .get_template("table.html.j2")
            .render(
                headline=headline,
                names=[harmless(str(name)) for name in (index_name, *listed.columns)] if len(listed) else [],
                first=[self._row(listed, place) for place in range(first)],
                n_hidden=len(listed) - first - last,
                last=[self._row(listed, place) for place in range(len(listed) - last, len(listed))],
            )
        )

    def summary(self) -> str:
        """Return the headline as one line for a terminal."""
        headline = self._headline()
        return "" if headline is None else headline.summary()

    def _row(self, listed: pd.DataFrame, place: int) -> tuple[str, list[_Cell]]:
        label = listed.index[place]
        text = ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)
        cells = [self._cell(str(name), listed[name].iloc[place]) for name in listed.columns]
        return shortened(harmless(text), _LABEL_MAX), cells

    def _cell(self, column: str, value: Any) -> _Cell:
        if pd.api.types.is_scalar(value) and pd.isna(value):
            return _Cell("")
        if isinstance(value, float):
            return _Cell(f"{value:.6g}", "number")
        whole = harmless(str(value))
        text = shortened(self._cell_text(column, whole), _COLUMN_MAX.get(column, _CHARACTERS_MAX))
        kind = "long" if len(text) > _LONG else "some" if len(text) > _ONE_LINE else ""
        return _Cell(text, kind, whole[:_TITLE_MAX] if text != whole else "", self._colours.get(whole))

    def _cell_text(self, column: str, text: str) -> str:  # noqa: ARG002 - subclasses shorten some columns
        """Return what a cell of a column shows."""
        return text

    def _headline(self) -> Headline | None:
        """Return the headline; None if the columns it needs were taken out."""
        return None

    def _listed(self) -> pd.DataFrame:
        """Return what a notebook lists below the headline."""
        return self

    def _text(self) -> str:
        """Return what a terminal shows below the headline."""
        return str(super().__repr__())


def _n_shown(n: int) -> tuple[int, int]:
    """Return how many rows are shown from the top and from the end, by pandas' own options."""
    most = pd.get_option("display.max_rows") or n
    if n <= most:
        return n, 0
    few = min(pd.get_option("display.min_rows") or most, most)
    return few - few // 2, few // 2
