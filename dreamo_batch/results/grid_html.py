"""A grid of pictures as a piece of HTML: no script, nothing from outside, every word of others escaped.

What is unfolded by a click is a `details` element, so that it works without a script, and in a notebook that is
not trusted, where styles are dropped too, the pictures and their titles are left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final

from dreamo_batch import columns
from dreamo_batch.results.entries import GONE, NO_RESULT, PICTURE, UNSAVED
from dreamo_batch.results.grid_style import CELL_PX, STYLE
from dreamo_batch.results.texts import shortened
from dreamo_batch.service.harmless import NO_FORMULAS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dreamo_batch.results.entries import Entry
    from dreamo_batch.results.grid import Grid
    from dreamo_batch.results.references import Beside, Reference
    from dreamo_batch.results.thumbnails import Thumbnail

ROOT_CLASS: Final = "dreamo-gallery"
IN_CELL_MAX: Final = 4
"""Rows of results that a cell shows at once; the others are unfolded."""
REFERENCES_MAX: Final = 3
"""Reference pictures that a line shows at once; the others are unfolded."""
UNFOLDED_MAX: Final = 60
"""Rows of results that a cell shows in all; how many there are beyond is said."""
WORDS: Final = {
    PICTURE: "picture",
    UNSAVED: "made, not saved",
    GONE: "file gone or damaged",
    columns.PENDING: "pending",
    columns.SUBMITTING: "submitting",
    columns.IN_PROGRESS: "in progress",
    columns.FAILED: "failed",
    columns.INVALID: "invalid",
    columns.AMBIGUOUS: "ambiguous",
    NO_RESULT: "no result",
}
_LABEL_CHARACTERS: Final = 2_000
_REFERENCE_PX: Final = 72


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a grid shows, made small.

    Attributes
    ----------
    of_entries : mapping of int to Thumbnail
        By position in the table; one that has a file and is not here is gone.
    of_references : mapping of str to Thumbnail
        By the reference's key.
    links : mapping of int to str
        Where the full pictures are, seen from the page; by position.
    omitted : frozenset of int
        Positions of those that are there, and were left out for size.
    """

    of_entries: Mapping[int, Thumbnail] = field(default_factory=dict)
    of_references: Mapping[str, Thumbnail] = field(default_factory=dict)
    links: Mapping[int, str] = field(default_factory=dict)
    omitted: frozenset[int] = frozenset()


def grid_html(
    grid: Grid,
    pictures: Pictures,
    beside: Beside,
    *,
    heading: str = "",
    notice: str = "",
    is_open: bool = True,
) -> str:
    """Draw a page of a grid as a fragment of HTML with its own styles.

    Parameters
    ----------
    grid : Grid
        The page.
    pictures : Pictures
        What it shows; see `dreamo_batch.results.gallery.Gallery.fragment`, which makes them.
    beside : Beside
        Where its reference pictures stand.
    heading : str
        A line above it.
    notice : str
        What is to be known beside what is drawn.
    is_open : bool
        Whether cells can be unfolded to tell all that is known of them.

    Returns
    -------
    str
        One `div` of class `dreamo-gallery`, with a `style` element in it.
    """
    drawing = _Drawing(grid, pictures, beside, is_open=is_open)
    return (
        f'<div class="{ROOT_CLASS} {NO_FORMULAS}" style="--dg-cell:{cell_px(grid)}px"><style>{STYLE}</style>'
        f"{drawing.head(heading, notice)}{drawing.table()}</div>"
    )


def kind_of(entry: Entry, pictures: Pictures) -> str:
    """Say what is drawn of a row: its kind, or that its file is gone."""
    if entry.kind == PICTURE and entry.position not in pictures.of_entries:
        return PICTURE if entry.position in pictures.omitted else GONE
    return entry.kind


def count(entries: Iterable[Entry], pictures: Pictures) -> dict[str, int]:
    """Count what is drawn, by kind, in the order in which it is told."""
    kinds = [kind_of(entry, pictures) for entry in entries]
    return {kind: n for kind in WORDS if (n := kinds.count(kind))}


@dataclass(frozen=True, slots=True)
class _Drawing:
    grid: Grid
    pictures: Pictures
    beside: Beside
    is_open: bool

    def head(self, heading: str, notice: str) -> str:
        title = f"<b>{escape(heading)}</b>" if heading else ""
        counts = count(self.grid.shown(), self.pictures)
        told = " ".join(
            f'<span class="dg-key dg-{kind}">{n} {plural(WORDS[kind], n)}</span>'
            for kind, n in counts.items()
        )
        once = self._references(self.beside.once, "reference")
        words = f'{title}<div class="dg-keys">{told}</div>{self._extent(notice)}'
        return f'<div class="dg-head">{once}<div>{words}</div></div>'

    def _extent(self, notice: str) -> str:
        told = (text for text in (extent(self.grid), notice) if text)
        return "".join(f'<div class="dg-extent">{escape(text)}</div>' for text in told)

    def table(self) -> str:
        if not len(self.grid.shown_rows):
            return "<p>nothing to show: the table has no rows</p>"
        body = "".join(self._row(row) for row in self.grid.shown_rows)
        return f'<div class="dg-scroll"><table>{self._header()}<tbody>{body}</tbody></table></div>'

    def _header(self) -> str:
        corner = escape(" / ".join(self.grid.rows.names))
        axis = escape(" / ".join(self.grid.columns.names))
        cells = "".join(
            f'<th scope="col">{self._over(place)}{_label(self.grid.columns.labels[column])}</th>'
            for place, column in enumerate(self.grid.shown_columns)
        )
        return (
            f'<thead><tr><th class="dg-names"><span class="dg-down">{corner}</span> '
            f'<span class="dg-across">{axis}</span></th>{cells}</tr></thead>'
        )

    def _over(self, place: int) -> str:
        return self._references(self.beside.by_column[place]) if self.beside.by_column else ""

    def _row(self, row: int) -> str:
        place = row - self.grid.shown_rows.start
        references = self._references(self.beside.by_row[place]) if self.beside.by_row else ""
        cells = "".join(self._cell(row, column) for column in self.grid.shown_columns)
        return f'<tr><th scope="row">{references}{_label(self.grid.rows.labels[row])}</th>{cells}</tr>'

    def _cell(self, row: int, column: int) -> str:
        label = escape(_one_line(self.grid.columns.labels[column]), quote=True)
        n = len(self.grid.positions(row, column))
        if not n:
            return f'<td data-column="{label}" class="dg-none" title="not in the table">&ndash;</td>'
        drawn = [self._entry(entry) for entry in self.grid.entries(row, column, n_max=self._n_unfolded())]
        several = ' class="dg-several"' if n > 1 else ""
        more = self._more(drawn[IN_CELL_MAX:], n)
        return f'<td data-column="{label}"{several}>{"".join(drawn[:IN_CELL_MAX])}{more}</td>'

    def _n_unfolded(self) -> int:
        return UNFOLDED_MAX if self.is_open else IN_CELL_MAX

    def _more(self, drawn: Sequence[str], n: int) -> str:
        """Unfold what does not stand in the cell at once."""
        if n <= IN_CELL_MAX:
            return ""
        told = f"+{n - IN_CELL_MAX} more"
        if not drawn:
            return f'<div class="dg-more">{told}</div>'
        n_beyond = n - IN_CELL_MAX - len(drawn)
        beyond = f'<div class="dg-beyond">{beyond_words(n_beyond)}</div>' if n_beyond else ""
        return f'<details class="dg-more"><summary>{told}</summary>{"".join(drawn)}{beyond}</details>'

    def _entry(self, entry: Entry) -> str:
        kind = kind_of(entry, self.pictures)
        told = f'<span class="dg-told">{escape(entry.told)}</span>' if entry.told else ""
        face = f"{self._face(entry, kind)}{told}"
        title = escape(entry.title, quote=True)
        place = f'class="dg-entry dg-{kind}" data-kind="{kind}" data-position="{entry.position}"'
        if not self.is_open:
            return f'<div {place} title="{title}">{face}</div>'
        return f'<details {place}><summary title="{title}">{face}</summary>{self._facts(entry)}</details>'

    def _face(self, entry: Entry, kind: str) -> str:
        thumbnail = self.pictures.of_entries.get(entry.position)
        if thumbnail is not None and kind == PICTURE:
            mark = '<span class="dg-same">duplicate</span>' if entry.duplicate_of is not None else ""
            return image(thumbnail, entry.alt, cell_px(self.grid)) + mark
        word = "picture not embedded" if kind == PICTURE else WORDS[kind]
        note = entry.path or "" if kind == GONE else entry.note
        return (
            f'<span class="dg-box"><b>{escape(word)}</b> <span>{escape(shortened(note, 120))}</span></span>'
        )

    def _facts(self, entry: Entry) -> str:
        link = self.pictures.links.get(entry.position)
        full = f'<a href="{escape(link, quote=True)}">full picture</a>' if link else ""
        lines = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in self._untold(entry)
        )
        return f'<div class="dg-facts">{full}<dl>{lines}</dl></div>'

    def _untold(self, entry: Entry) -> Sequence[tuple[str, str]]:
        """Leave out the long words that the line's head tells; a page of thousands would repeat them."""
        told = {columns.PROMPT} & {*self.grid.rows.names, *self.grid.columns.names}
        return [fact for fact in entry.facts if fact[0] not in told]

    def _references(self, references: Sequence[Reference], word: str = "") -> str:
        drawn = [self._reference(one, word) for one in references]
        first, others = "".join(drawn[:REFERENCES_MAX]), drawn[REFERENCES_MAX:]
        more = f'<details class="dg-more"><summary>+{len(others)} more</summary>{"".join(others)}</details>'
        return f'<div class="dg-references">{first}{more if others else ""}</div>' if drawn else ""

    def _reference(self, one: Reference, word: str) -> str:
        thumbnail = self.pictures.of_references.get(one.key)
        label = escape(shortened(one.label, 60))
        drawn = image(thumbnail, f"reference {one.label}", _REFERENCE_PX) if thumbnail else ""
        return f"<figure>{drawn}<figcaption>{f'{word} ' if word else ''}{label}</figcaption></figure>"


def image(thumbnail: Thumbnail, alt: str, width_px: int) -> str:
    """Give a thumbnail as an element, as wide as is said where styles are dropped."""
    width = min(width_px, thumbnail.width)
    height = round(thumbnail.height * width / thumbnail.width)
    return (
        f'<img src="{thumbnail.data_uri}" width="{width}" height="{height}" alt="{escape(alt, quote=True)}">'
    )


def _label(parts: Sequence[str]) -> str:
    return " ".join(
        f'<span class="dg-label">{escape(shortened(part, _LABEL_CHARACTERS))}</span>' for part in parts
    )


def _one_line(parts: Sequence[str]) -> str:
    return shortened(", ".join(parts), 80)


def plural(word: str, n: int) -> str:
    """Give the word for so many of a kind."""
    return word + "s" if word == WORDS[PICTURE] and n != 1 else word


def beyond_words(n: int) -> str:
    """Say how the rows are seen that a cell shows neither at once nor unfolded."""
    return f"{n} more not shown here: add a column to rows= or columns=, or give fewer rows"


def extent(grid: Grid) -> str:
    """Say which part of the whole a page is; nothing if it is the whole."""
    n_rows, n_columns = grid.shape
    parts = [
        f"{name} {shown.start + 1} to {shown.stop} of {n}"
        for name, shown, n in (("rows", grid.shown_rows, n_rows), ("columns", grid.shown_columns, n_columns))
        if len(shown) < n
    ]
    return ", ".join(parts)


def cell_px(grid: Grid) -> int:
    """Choose how wide a cell is, by how many stand side by side."""
    n = len(grid.shown_columns)
    return next(width for at_most, width in CELL_PX if n <= at_most)
