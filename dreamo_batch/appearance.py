"""How results look: tables with a headline above their rows; word, sign and colour of each status; widgets or not."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.importing import load_module
from dreamo_batch.text import fill_template, harmless, shortened

if TYPE_CHECKING:
    from collections.abc import Callable

_CHARACTERS_MAX: Final = 400
_COLUMN_MAX: Final = {"": 60, columns.JOB_ID: 10, columns.VALUE: 60}

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


class Count(NamedTuple):
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


class HeadedFrame(pd.DataFrame):  # type: ignore[misc] # pandas has no types here
    """A DataFrame that shows a headline above its rows."""

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
        most = pd.get_option("display.max_rows") or len(listed)
        shown = listed if len(listed) <= most else listed.head(pd.get_option("display.min_rows") or most)
        index_name = ", ".join("" if name is None else str(name) for name in listed.index.names).strip(", ")
        names = ["", *map(str, listed.columns)]
        return fill_template(
            "table.html.j2",
            headline=headline,
            names=[harmless(name) for name in (index_name, *names[1:])] if len(listed) else [],
            rows=[list(map(_cell, names, row)) for row in shown.itertuples(name=None)],
            n_hidden=len(listed) - len(shown),
        )

    def summary(self) -> str:
        """Return the headline as one line for a terminal."""
        headline = self._headline()
        return "" if headline is None else headline.summary()

    def _headline(self) -> Headline | None:
        """Return the headline; None if the columns it needs were taken out."""
        return None

    def _listed(self) -> pd.DataFrame:
        """Return what a notebook lists below the headline."""
        return self

    def _text(self) -> str:
        """Return what a terminal shows below the headline."""
        return str(super().__repr__())


class TableOfFile(HeadedFrame):
    """A table as it was read, which knows the line of the file where each row begins; changed copies don't."""

    _metadata = ["_lines"]  # noqa: RUF012 - how pandas keeps an attribute beside the columns


def lines_of(table: pd.DataFrame) -> pd.Series:
    """Return the line of the file where each row begins; missing if it isn't known."""
    lines: pd.Series | None = getattr(table, "_lines", None) if isinstance(table, TableOfFile) else None
    is_known = lines is not None and lines.index.equals(table.index)
    return lines if is_known else pd.Series(pd.NA, table.index, dtype=columns.INT)


def _cell(column: str, value: Any) -> str:
    """Return what a cell of a column shows, or of the index, which has no name."""
    if isinstance(value, tuple):  # a label of several levels
        value = ", ".join(map(str, value))
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else harmless(str(value))
    return shortened(text, _COLUMN_MAX.get(column, _CHARACTERS_MAX))


# What a notebook shows: widgets where a person has a kernel, otherwise the static form.


def can_show_widgets() -> bool:
    """Whether there is a kernel with a front end, and ipywidgets."""
    with suppress(Exception):  # a broken installation raises what it likes
        return _kernel() is not None and bool(load_module("ipywidgets"))
    return False


def beside_widget(static: dict[str, Any], widget: Callable[[], Any]) -> Any:
    """Return what a notebook displays of an anywidget: the live form beside the static one, or that one alone."""
    if is_only_run():
        return static
    try:
        live = widget()._repr_mimebundle_()
    except Exception:  # noqa: BLE001 - anywidget is missing or broken
        return static
    data, metadata = live if isinstance(live, tuple) else (live or {}, {})
    bundle = {**data, **static}
    return (bundle, metadata) if metadata else bundle


def is_only_run() -> bool:
    """Whether a program runs this cell, as nbconvert and papermill do: who sees its output then has no kernel."""
    message: dict[str, Any] = getattr(_kernel(), "get_parent", dict)()
    asked = message.get("content", {})
    return asked.get("allow_stdin") is False and "VOILA_REQUEST_URL" not in os.environ


def _kernel() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython and getattr(ipython.get_ipython(), "kernel", None)
