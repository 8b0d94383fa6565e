"""A grid drawn on paper: labelled axes, pictures, and what has none drawn as what it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dreamo_batch.results.entries import GONE, PICTURE
from dreamo_batch.results.grid_html import WORDS
from dreamo_batch.results.lettering import wrapped
from dreamo_batch.results.sheet_layout import FOOT, GAP, MARGIN, REFERENCE
from dreamo_batch.results.texts import shortened
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
_FAINT: Final = "#6f6f6b"
_LINE: Final = "#c9c9c4"
_WASHES: Final = {"failed": ("#fbeee4", "#d55e00"), "ambiguous": ("#f8eef4", "#b45a8c")}
_OPEN: Final = ("#eef3f8", "#3a77a8")
_BAD: Final = ("failed", "invalid", "unsaved", GONE)
_LEGEND_LINES: Final = 3


@dataclass(slots=True)
class Codes:
    """Labels that no font here has the letters for, by the codes that stand for them."""

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
    is_cut: bool = True
    codes: Codes = field(default_factory=Codes)
    drawn: set[str] = field(default_factory=set)

    def page(self, grid: Grid, number: int, n_pages: int) -> Image.Image:
        """Draw one page; a picture is cut below its last line, paper is not."""
        sheet = Image.new("RGB", (self.layout.width, self.layout.height), _PAPER)
        pen = _Pen(sheet, self.lettering)
        self._head(pen, grid)
        self._columns(pen, grid)
        for place, row in enumerate(grid.shown_rows):
            self._row(pen, grid, place, row)
        bottom = self.layout.top + len(grid.shown_rows) * self.layout.row_step
        bottom = self._legend(pen, grid, bottom)
        if n_pages > 1:
            pen.line((MARGIN, bottom + GAP), f"page {number} of {n_pages}", SMALL_PX, _FAINT)
            bottom += FOOT
        if not self.is_cut:
            return sheet
        return sheet.crop((0, 0, sheet.width, min(sheet.height, bottom + MARGIN // 2)))

    def _head(self, pen: _Pen, grid: Grid) -> None:
        left = MARGIN
        for one in self.beside.once:
            left += self._reference(pen, (left, MARGIN), one, is_named=False) + 2 * GAP
        room = self.layout.width - MARGIN - left
        top = (
            pen.block((left, MARGIN), self.label(self.title, "T"), TITLE_PX, _INK, room, 2)
            if self.title
            else 0
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
        pen.line((left, MARGIN + top), ", ".join([*told, *parts]), SMALL_PX, _FAINT)

    def _columns(self, pen: _Pen, grid: Grid) -> None:
        below = self.layout.top - GAP
        names = self.label(" / ".join(grid.rows.names), "N"), self.label(" / ".join(grid.columns.names), "N")
        pen.line((MARGIN, below - SMALL_PX), names[0], SMALL_PX, _FAINT)
        pen.line((MARGIN + self.layout.side, below - SMALL_PX), names[1], SMALL_PX, _FAINT, anchor="ra")
        for place, column in enumerate(grid.shown_columns):
            left, width = self.layout.left(place), self.layout.cell_width
            if self.beside.by_column and self.beside.by_column[column]:
                self._reference(
                    pen,
                    (left + (width - REFERENCE) // 2, MARGIN + self.layout.head),
                    self.beside.by_column[column][0],
                )
            text = self.label(", ".join(grid.columns.labels[column]), "C")
            pen.block((left, below), text, TEXT_PX, _INK, width, 2, is_centred=True, is_above=True)

    def _row(self, pen: _Pen, grid: Grid, place: int, row: int) -> None:
        top = self.layout.top + place * self.layout.row_step
        room = self.layout.cell_height
        if self.beside.by_row and self.beside.by_row[row]:
            self._reference(pen, (MARGIN, top), self.beside.by_row[row][0], side_px=min(REFERENCE, room // 2))
            top, room = top + room // 2 + 2 * GAP + SMALL_PX, room // 2 - SMALL_PX - 2 * GAP
        lines = max(1, room // round(TEXT_PX * 1.3))
        for part in grid.rows.labels[row]:
            used = pen.block(
                (MARGIN, top), self.label(part, "P"), TEXT_PX, _INK, self.layout.side - GAP, lines
            )
            top, lines = top + used, max(1, lines - used // TEXT_PX)
        for across, column in enumerate(grid.shown_columns):
            corner = self.layout.left(across), self.layout.top + place * self.layout.row_step
            self._cell(pen, grid, (row, column), corner)

    def _cell(self, pen: _Pen, grid: Grid, cell: tuple[int, int], corner: tuple[int, int]) -> None:
        """Draw the first of a cell, and say how many more stand there."""
        entries = grid.entries(*cell, n_max=1)
        n_more = len(grid.positions(*cell)) - 1
        width, height = self.layout.cell_width, self.layout.cell_height
        if not entries:
            pen.box(corner, (width, height), _PAPER, _LINE)
            pen.block(
                (corner[0], corner[1] + height // 2),
                "not in the table",
                SMALL_PX,
                _FAINT,
                width,
                1,
                is_centred=True,
            )
            return
        entry = entries[0]
        small = shown(self.path_of(entry), max(width, height)) if entry.kind == PICTURE else None
        if small is None:
            self._face(pen, entry, corner)
        else:
            small = ImageOps.contain(small, (width, height), Image.Resampling.LANCZOS)
            place = corner[0] + (width - small.width) // 2, corner[1] + (height - small.height) // 2
            pen.sheet.paste(small, place)
            self.drawn.add(entry.path or "")
        told = ", ".join(part for part in (entry.told, f"+{n_more} more" if n_more else "") if part)
        pen.block((corner[0], corner[1] + height + 8), self.label(told, "D"), SMALL_PX, _FAINT, width, 1)

    def _face(self, pen: _Pen, entry: Entry, corner: tuple[int, int]) -> None:
        kind = GONE if entry.kind == PICTURE else entry.kind
        wash, line = _WASHES.get("failed" if kind in _BAD else kind, _OPEN)
        width, height = self.layout.cell_width, self.layout.cell_height
        pen.box(corner, (width, height), wash, line)
        left, room = corner[0] + GAP, width - 2 * GAP
        n_lines = max(1, (height - 2 * GAP) // round(SMALL_PX * 1.3) - 2)
        top = corner[1] + GAP
        top += pen.block((left, top), WORDS[kind], TEXT_PX, line, room, 2) + 6
        reason = entry.path or "" if kind == GONE else entry.note
        note = shortened(self.label(reason, "M"), 160)
        pen.block((left, top), note, SMALL_PX, _INK, room, n_lines)

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
            text = self.label(one.label, "R")
            pen.block((corner[0], corner[1] + height + 6), text, SMALL_PX - 4, _FAINT, max(side_px, 160), 1)
        return width

    def _legend(self, pen: _Pen, grid: Grid, top: int) -> int:
        """Say what can be said of labels that have become codes."""
        shown_labels = [*_labels(grid, rows=True), *_labels(grid, rows=False)]
        coded = [(self.codes.names[label], label) for label in shown_labels if label in self.codes.names]
        if not coded:
            return top
        top += GAP
        for code, label in dict.fromkeys(coded):
            text = f"{code}: {drawable(label, self.lettering)}"
            top += pen.block(
                (MARGIN, top), text, SMALL_PX, _FAINT, self.layout.width - 2 * MARGIN, _LEGEND_LINES
            )
        return top

    def label(self, text: str, prefix: str) -> str:
        """Give a text if it can be drawn, else a code for it."""
        if not text or self.lettering.font_for(text, TEXT_PX) is not None:
            return text
        return self.codes.of(text, prefix)


def drawable(text: str, lettering: Lettering) -> str:
    """Keep of a text what there are letters for, and say that the rest is elsewhere."""
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

    def line(self, at: tuple[int, int], text: str, size_px: int, ink: str, *, anchor: str = "la") -> None:
        """Write one line."""
        if text:
            self._draw.text(at, text, fill=ink, font=self._font(text, size_px), anchor=anchor)

    def block(  # noqa: PLR0917 - where, what, how large, and within what
        self,
        at: tuple[int, int],
        text: str,
        size_px: int,
        ink: str,
        width: int,
        n_lines: int,
        *,
        is_centred: bool = False,
        is_above: bool = False,
    ) -> int:
        """Write lines that fit a width; gives their height."""
        font = self._font(text, size_px)
        lines = wrapped(text, font, width, n_lines) if text else []
        step = round(size_px * 1.3)
        top = at[1] - len(lines) * step if is_above else at[1]
        left, anchor = (at[0] + width // 2, "ma") if is_centred else (at[0], "la")
        for number, line in enumerate(lines):
            self._draw.text((left, top + number * step), line, fill=ink, font=font, anchor=anchor)
        return len(lines) * step

    def box(self, at: tuple[int, int], size: tuple[int, int], fill: str, line: str) -> None:
        """Draw a box."""
        corner = (at[0] + size[0] - 1, at[1] + size[1] - 1)
        self._draw.rounded_rectangle((*at, *corner), radius=8, fill=fill, outline=line, width=2)

    def _font(self, text: str, size_px: int) -> Font:
        return self._lettering.font_for(text, size_px) or ImageFont.load_default(size_px)
