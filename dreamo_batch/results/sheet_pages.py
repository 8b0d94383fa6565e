"""A grid drawn on paper: labelled axes, pictures, and what has none drawn as what it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dreamo_batch.results.axes import NUMBER
from dreamo_batch.results.entries import GONE, PICTURE
from dreamo_batch.results.grid_html import WORDS
from dreamo_batch.results.lettering import fitted, is_cut, line_px, wrapped
from dreamo_batch.results.sheet_layout import GAP, LABELS, MARGIN, REFERENCE
from dreamo_batch.results.thumbnails import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dreamo_batch.results.entries import Entry
    from dreamo_batch.results.grid import Grid
    from dreamo_batch.results.lettering import Font, Lettering
    from dreamo_batch.results.references import Beside, Reference
    from dreamo_batch.results.sheet_layout import Layout

TEXT_PX: Final = 34
SMALL_PX: Final = 28
TITLE_PX: Final = 54
_PAPER: Final = "#ffffff"
_INK: Final = "#1c1c1a"
CAPTION_GAP: Final = 8
_FAINT: Final = "#6f6f6b"
_LINE: Final = "#c9c9c4"
_WASHES: Final = {"failed": ("#fbeee4", "#d55e00"), "ambiguous": ("#f8eef4", "#b45a8c")}
_OPEN: Final = ("#eef3f8", "#3a77a8")
_BAD: Final = ("failed", "invalid", "unsaved", GONE)
_LEGEND_LINES: Final = 60
# Sizes that a text is tried in until it fits: of titles, of what names a line, of small print.
_TITLES: Final = (TITLE_PX, 44, 36, 28)
_NAMES: Final = (TEXT_PX, 30, 26, 22, 18, 15)
SMALL: Final = (SMALL_PX, 24, 20, 16)


@dataclass(slots=True)
class Codes:
    """Labels that no font here has the letters for, or that have no room, by the codes that stand for them."""

    names: dict[str, str] = field(default_factory=dict)

    def of(self, label: str, prefix: str) -> str:
        """Give the code of a label."""
        if label not in self.names:
            n = sum(code.startswith(prefix) for code in self.names.values()) + 1
            self.names[label] = f"{prefix}{n}"
        return self.names[label]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Draws pages of one sheet."""

    layout: Layout
    lettering: Lettering
    beside: Beside
    path_of: Callable[[Entry], Path]
    title: str
    tick: Callable[[], None]
    notice: str = ""
    is_cut: bool = True
    codes: Codes = field(default_factory=Codes)
    drawn: set[Path] = field(default_factory=set)

    def page(self, grid: Grid, number: int, n_pages: int) -> Image.Image:
        """Draw one page; a picture is cut below its last line, paper is not."""
        sheet = Image.new("RGB", (self.layout.width, self.layout.height), _PAPER)
        pen = _Pen(sheet, self.lettering)
        self._head(pen, grid)
        self._columns(pen, grid)
        for place, row in enumerate(grid.shown_rows):
            self._row(pen, grid, place, row)
        bottom = self.layout.top + len(grid.shown_rows) * self.layout.row_step
        legend = self._legend(grid)
        if self.notice and number == n_pages:
            legend.append(self.notice)
        if n_pages > 1:
            legend.append(f"page {number} of {n_pages}")
        return self._footed(sheet, bottom, legend)

    def _footed(self, sheet: Image.Image, bottom: int, foot: Sequence[str]) -> Image.Image:
        """Write lines below the grid; where they have no room, the page gets longer."""
        pen, room = _Pen(sheet, self.lettering), self.layout.width - 2 * MARGIN
        end = bottom + MARGIN // 2 + sum(pen.height(text, SMALL_PX, room, _LEGEND_LINES) for text in foot)
        height = max(end, 0 if self.is_cut else sheet.height)
        if height != sheet.height:
            longer = Image.new("RGB", (sheet.width, height), _PAPER)
            longer.paste(sheet)
            pen = _Pen(longer, self.lettering)
        top = bottom + GAP
        for text in foot:
            top += pen.block((MARGIN, top), text, SMALL_PX, _FAINT, room, _LEGEND_LINES)
        return pen.sheet

    def _head(self, pen: _Pen, grid: Grid) -> None:
        left = MARGIN
        for one in self.beside.once:
            left += self._reference(pen, (left, MARGIN), one, is_named=False) + 2 * GAP
        room = self.layout.width - MARGIN - left
        top = pen.fitted(
            (left, MARGIN), self.label(self.title, "T"), _TITLES, _INK, (room, 2 * line_px(TITLE_PX))
        )
        n_rows, n_columns = grid.shape
        parts = [
            f"{name} {lines.start + 1} to {lines.stop} of {n}"
            for name, lines, n in (
                ("rows", grid.shown_rows, n_rows),
                ("columns", grid.shown_columns, n_columns),
            )
            if len(lines) < n
        ]
        told = [f"reference: {self.label(one.label, 'R')}" for one in self.beside.once]
        left_over = max(line_px(SMALL_PX), self.layout.head - top)
        pen.fitted((left, MARGIN + top), ", ".join([*told, *parts]), SMALL, _FAINT, (room, left_over))

    def _columns(self, pen: _Pen, grid: Grid) -> None:
        below = self.layout.top - GAP
        names = self.label(" / ".join(grid.rows.names), "N"), self.label(" / ".join(grid.columns.names), "N")
        room = self.layout.side - GAP, (LABELS - GAP) // 2
        pen.fitted((MARGIN, below - LABELS + GAP), names[1], SMALL, _FAINT, room, is_right=True)
        pen.fitted((MARGIN, below - room[1]), names[0], SMALL, _FAINT, room)
        for place, column in enumerate(grid.shown_columns):
            left, width = self.layout.left(place), self.layout.cell_width
            if self.beside.by_column and self.beside.by_column[column]:
                self._reference(
                    pen,
                    (left + (width - REFERENCE) // 2, MARGIN + self.layout.head),
                    self.beside.by_column[column][0],
                )
            text = self.label(", ".join(grid.columns.labels[column]), "C", (width, LABELS - GAP))
            pen.fitted(
                (left, below), text, _NAMES, _INK, (width, LABELS - GAP), is_centred=True, is_above=True
            )

    def _row(self, pen: _Pen, grid: Grid, place: int, row: int) -> None:
        top = self.layout.top + place * self.layout.row_step
        room = self.layout.cell_height
        if self.beside.by_row and self.beside.by_row[row]:
            self._reference(pen, (MARGIN, top), self.beside.by_row[row][0], side_px=min(REFERENCE, room // 2))
            top, room = top + room // 2 + 2 * GAP + SMALL_PX, room // 2 - SMALL_PX - 2 * GAP
        self._names(pen, grid.rows.labels[row], (MARGIN, top), (self.layout.side - GAP, room))
        for across, column in enumerate(grid.shown_columns):
            corner = self.layout.left(across), self.layout.top + place * self.layout.row_step
            self._cell(pen, grid, (row, column), corner)

    def _names(self, pen: _Pen, parts: Sequence[str], corner: tuple[int, int], room: tuple[int, int]) -> None:
        """Name a line by its values below each other; the first has what the others leave of the room."""
        top, rest = corner[1], room[1]
        for number, part in enumerate(parts):
            n_behind = len(parts) - number - 1
            part_room = room[0], max(line_px(_NAMES[-1]), rest - n_behind * line_px(SMALL_PX))
            used = pen.fitted(
                (corner[0], top),
                self.label(part, "P", part_room),
                _NAMES if not number else SMALL,
                _INK,
                part_room,
            )
            top, rest = top + used, rest - used

    def _cell(self, pen: _Pen, grid: Grid, cell: tuple[int, int], corner: tuple[int, int]) -> None:
        """Draw what stands in a cell: on a sheet one job at most."""
        entries = grid.entries(*cell, n_max=1)
        width, height = self.layout.cell_width, self.layout.cell_height
        if not entries and NUMBER in grid.columns.names:  # counted cells end where they end; none is missing
            return
        if not entries:
            pen.box(corner, (width, height), _PAPER, _LINE)
            middle = corner[0], corner[1] + height // 2
            pen.fitted(middle, "not in the table", SMALL, _FAINT, (width, line_px(SMALL_PX)), is_centred=True)
            return
        entry = entries[0]
        for _ in grid.positions(*cell):
            self.tick()
        small = shown(self.path_of(entry), max(width, height)) if entry.kind == PICTURE else None
        if small is None:
            self._face(pen, entry, corner)
        else:
            small = ImageOps.contain(small, (width, height), Image.Resampling.LANCZOS)
            place = corner[0] + (width - small.width) // 2, corner[1] + (height - small.height) // 2
            pen.sheet.paste(small, place)
            self.drawn.add(self.path_of(entry))
        room = width, self.layout.caption - CAPTION_GAP
        told = self.label(caption(grid, cell), "D", room)
        pen.fitted((corner[0], corner[1] + height + CAPTION_GAP), told, SMALL, _FAINT, room)

    def _face(self, pen: _Pen, entry: Entry, corner: tuple[int, int]) -> None:
        kind = GONE if entry.kind == PICTURE else entry.kind
        wash, line = _WASHES.get("failed" if kind in _BAD else kind, _OPEN)
        width, height = self.layout.cell_width, self.layout.cell_height
        pen.box(corner, (width, height), wash, line)
        left, room = corner[0] + GAP, width - 2 * GAP
        top = corner[1] + GAP
        top += pen.fitted((left, top), WORDS[kind], _NAMES, line, (room, 2 * line_px(TEXT_PX))) + 6
        reason = entry.path or "" if kind == GONE else entry.note
        rest = max(line_px(SMALL[-1]), corner[1] + height - GAP - top)
        pen.fitted((left, top), self.label(reason, "M"), SMALL, _INK, (room, rest))

    def _reference(
        self,
        pen: _Pen,
        corner: tuple[int, int],
        one: Reference,
        *,
        is_named: bool = True,
        side_px: int = REFERENCE,
    ) -> int:
        """Draw a reference picture; gives its width, 0 if it can't be had."""
        small = one.image(side_px)
        if small is not None:
            small = ImageOps.contain(small, (side_px, side_px))
        width, height = (0, 0) if small is None else small.size
        if small is not None:
            pen.sheet.paste(small, corner)
        if is_named:
            room = max(side_px, 160), SMALL_PX + GAP
            text = self.label(one.label, "R", room)
            pen.fitted((corner[0], corner[1] + height + 4), text, (24, 20, 16, 13), _FAINT, room)
        return width

    def _legend(self, grid: Grid) -> list[str]:
        """Say what the codes on a page stand for."""
        named = [*_labels(grid, rows=True), *_labels(grid, rows=False)]
        told = [caption(grid, (row, column)) for row in grid.shown_rows for column in grid.shown_columns]
        coded = [(self.codes.names[label], label) for label in [*named, *told] if label in self.codes.names]
        return [f"{code}: {drawable(label, self.lettering)}" for code, label in dict.fromkeys(coded)]

    def label(self, text: str, prefix: str, room: tuple[int, int] | None = None) -> str:
        """Give a text if it can be drawn, and within a room if there is one, else a code for it."""
        if not text or self.lettering.font_for(text, TEXT_PX) is None:
            return text and self.codes.of(text, prefix)
        least = _NAMES[-1:]
        if room is not None and is_cut(fitted(text, self.lettering, room, least)[1], text):
            return self.codes.of(text, prefix)
        return text


def caption(grid: Grid, cell: tuple[int, int]) -> str:
    """Say what tells a cell from others of its line, and how many rows of the table it stands for."""
    entries, n = grid.entries(*cell, n_max=1), len(grid.positions(*cell))
    told = [entry.told for entry in entries] + ([f"{n} rows with the same job"] if n > 1 else [])
    return ", ".join(part for part in told if part)


def drawable(text: str, lettering: Lettering) -> str:
    """Keep of a text what there are letters for, and say that the rest is elsewhere."""
    if lettering.font_for(text, TEXT_PX) is not None:
        return text
    kept = "".join(letter if lettering.font_for(letter, TEXT_PX) else " " for letter in text)
    return f"{' '.join(kept.split())} (whole in the legend beside this file)".strip()


def _labels(grid: Grid, *, rows: bool) -> Sequence[str]:
    if rows:
        return [part for row in grid.shown_rows for part in grid.rows.labels[row]]
    return [", ".join(grid.columns.labels[column]) for column in grid.shown_columns]


class _Pen:
    """Writes on one sheet."""

    def __init__(self, sheet: Image.Image, lettering: Lettering) -> None:
        self.sheet, self._lettering = sheet, lettering
        self._draw = ImageDraw.Draw(sheet)

    def height(self, text: str, size_px: int, width: int, n_lines: int) -> int:
        """Say how high a block will be."""
        return len(wrapped(text, self._font(text, size_px), width, n_lines)) * line_px(size_px)

    def block(self, at: tuple[int, int], text: str, size_px: int, ink: str, width: int, n_lines: int) -> int:  # noqa: PLR0917 - where, what, how large, and within what
        """Write lines that fit a width; gives their height."""
        return self.fitted(at, text, (size_px,), ink, (width, n_lines * line_px(size_px)))

    def fitted(
        self,
        at: tuple[int, int],
        text: str,
        sizes_px: Sequence[int],
        ink: str,
        room: tuple[int, int],
        *,
        is_centred: bool = False,
        is_right: bool = False,
        is_above: bool = False,
    ) -> int:
        """Write a text as large as it fits a room; gives its height."""
        if not text:
            return 0
        size_px, lines = fitted(text, self._lettering, room, sizes_px)
        step, font = line_px(size_px), self._font(text, size_px)
        top = at[1] - len(lines) * step if is_above else at[1]
        left, anchor = (at[0] + room[0] // 2, "ma") if is_centred else (at[0], "la")
        if is_right:
            left, anchor = at[0] + room[0], "ra"
        for number, line in enumerate(lines):
            self._draw.text((left, top + number * step), line, fill=ink, font=font, anchor=anchor)
        return len(lines) * step

    def box(self, at: tuple[int, int], size: tuple[int, int], fill: str, line: str) -> None:
        """Draw a box."""
        corner = (at[0] + size[0] - 1, at[1] + size[1] - 1)
        self._draw.rounded_rectangle((*at, *corner), radius=8, fill=fill, outline=line, width=2)

    def _font(self, text: str, size_px: int) -> Font:
        return self._lettering.font_for(text, size_px) or ImageFont.load_default(size_px)
