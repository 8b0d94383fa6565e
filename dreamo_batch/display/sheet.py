"""How a grid is laid out on paper: what is where, in pixels, and how many lines a page takes. Pure."""

from __future__ import annotations

import csv
import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dreamo_batch import columns, files
from dreamo_batch import columns as names
from dreamo_batch.display.grid import NUMBER, label_of, lay_out, removed_rows_notice
from dreamo_batch.display.references import References, beside
from dreamo_batch.errors import UsageError
from dreamo_batch.fonts import Lettering, fitted, is_cut, line_px, wrapped
from dreamo_batch.images import pillow_settings, small_picture
from dreamo_batch.palette import GONE, PALETTE, PICTURE
from dreamo_batch.parallel import ticking
from dreamo_batch.results.frame import folders_of
from dreamo_batch.results.load import RunDir, as_paths, load, pictures_left

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dreamo_batch.display.grid import Entry, Grid, Names
    from dreamo_batch.display.references import Beside, Reference
    from dreamo_batch.fonts import Font


DPI: Final = 300
PAPERS: Final = {"a4": (2480, 3508), "letter": (2550, 3300)}
"""Width and height in pixels at 300 dpi, upright."""
MARGIN: Final = 150
GAP: Final = 18
LABELS: Final = 96
"""Room over the columns for their labels, two lines."""
FOOT: Final = 70
REFERENCE: Final = 230
_UPRIGHT_MAX: Final = 4
_ACROSS_MAX: Final = {True: 6, False: 10}
CELL_MAX: Final = 620
_ASPECTS: Final = (0.4, 2.5)
_SIDE_SHARE: Final = 0.19


@dataclass(frozen=True, slots=True)
class Layout:
    """A page, in pixels."""

    width: int
    height: int
    side: int
    cell_width: int
    cell_height: int
    caption: int
    head: int
    over: int
    n_rows: int
    n_columns: int

    @property
    def row_step(self) -> int:
        """From one row to the next."""
        return self.cell_height + self.caption + GAP

    @property
    def top(self) -> int:
        """Where the first row begins."""
        return MARGIN + self.head + self.over

    def left(self, place: int) -> int:
        """Where a column begins."""
        return MARGIN + self.side + GAP + place * (self.cell_width + GAP)


def plan_layout(
    n_rows: int,
    n_columns: int,
    *,
    aspect: float,
    paper: str,
    head: int = 0,
    caption: int = 0,
    has_references_over: bool = False,
) -> Layout:
    """Lay out a grid."""
    if paper not in PAPERS:
        raise UsageError(f"paper={paper!r}: expected one of {', '.join(PAPERS)}.")
    is_upright = n_columns <= _UPRIGHT_MAX
    width, height = PAPERS[paper] if is_upright else reversed(PAPERS[paper])
    across = _shared_out(n_columns, _ACROSS_MAX[is_upright])
    side = round(width * _SIDE_SHARE)
    room = width - 2 * MARGIN - side - GAP
    cell_width = min(CELL_MAX, room // across - GAP)
    cell_height = round(cell_width * min(max(aspect, _ASPECTS[0]), _ASPECTS[1]))
    over = LABELS + (REFERENCE + GAP if has_references_over else 0)
    down = max(1, (height - 2 * MARGIN - head - over - FOOT) // (cell_height + caption + GAP))
    return Layout(
        width, height, side, cell_width, cell_height, caption, head, over, _shared_out(n_rows, down), across
    )


def _shared_out(n: int, n_max: int) -> int:
    """Give how many lines a page takes, so that the last one is not nearly empty."""
    n_pages = max(1, -(-n // n_max))
    return max(1, -(-n // n_pages))


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
_UNSEEN: Final = ("failed", "invalid", "unsaved", GONE)
_LEGEND_LINES: Final = 60
# Sizes that a text is tried in until it fits: of titles, of what names a line, of small print.
_TITLES: Final = (TITLE_PX, 44, 36, 28)
_CAPTION_SIZES_PX: Final = (TEXT_PX, 30, 26, 22, 18, 15)
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
            if self.beside.by_column.get(column):
                self._reference(
                    pen,
                    (left + (width - REFERENCE) // 2, MARGIN + self.layout.head),
                    self.beside.by_column[column][0],
                )
            text = self.label(", ".join(grid.columns.labels[column]), "C", (width, LABELS - GAP))
            pen.fitted(
                (left, below),
                text,
                _CAPTION_SIZES_PX,
                _INK,
                (width, LABELS - GAP),
                is_centred=True,
                is_above=True,
            )

    def _row(self, pen: _Pen, grid: Grid, place: int, row: int) -> None:
        top = self.layout.top + place * self.layout.row_step
        room = self.layout.cell_height
        if self.beside.by_row.get(row):
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
            part_room = room[0], max(line_px(_CAPTION_SIZES_PX[-1]), rest - n_behind * line_px(SMALL_PX))
            used = pen.fitted(
                (corner[0], top),
                self.label(part, "P", part_room),
                _CAPTION_SIZES_PX if not number else SMALL,
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
        small = small_picture(self.path_of(entry), max(width, height)) if entry.kind == PICTURE else None
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
        wash, line = _WASHES.get("failed" if kind in _UNSEEN else kind, _OPEN)
        width, height = self.layout.cell_width, self.layout.cell_height
        pen.box(corner, (width, height), wash, line)
        left, room = corner[0] + GAP, width - 2 * GAP
        top = corner[1] + GAP
        top += (
            pen.fitted((left, top), PALETTE[kind].word, _CAPTION_SIZES_PX, line, (room, 2 * line_px(TEXT_PX)))
            + 6
        )
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
        least = _CAPTION_SIZES_PX[-1:]
        if room is not None and is_cut(fitted(text, self.lettering, room, least)[1], text):
            return self.codes.of(text, prefix)
        return text


def caption(grid: Grid, cell: tuple[int, int]) -> str:
    """Say what tells a cell from others of its line, and how many rows of the table it stands for."""
    entries, n = grid.entries(*cell, n_max=1), len(grid.positions(*cell))
    told = [entry.caption for entry in entries] + ([f"{n} rows with the same job"] if n > 1 else [])
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


_PDF: Final = "PDF"
_QUALITY: Final = 90
_LEGEND: Final = ".legend.csv"
_TITLE_PX: Final = 190
_CAPTION_MAX: Final = 5 * 36
_NO_TITLE_PX: Final = 50


def write_grid(
    grid: Grid,
    path: Path,
    kind: str,
    *,
    folders: Sequence[Path],
    title: str,
    paper: str,
    letters: Lettering,
    tick: Callable[[], None],
    notice: str = "",
) -> int:
    """Write a grid of pictures, counting each row that was drawn; gives how many pictures are on it."""
    where = beside(grid, References(grid.results, folders))
    plan = functools.partial(
        plan_layout,
        *grid.shape,
        aspect=_aspect(grid),
        paper=paper,
        head=REFERENCE + 2 * GAP if where.once else _TITLE_PX if title else _NO_TITLE_PX,
        has_references_over=bool(where.by_column),
    )
    layout = plan(caption=_caption(grid, letters, plan().cell_width))
    drawing = Drawing(
        layout,
        letters,
        where,
        lambda entry: folders[entry.position] / (entry.path or ""),
        title,
        tick,
        notice,
        is_cut=kind != _PDF,
    )
    n_pages = grid.page(1, layout.n_rows, layout.n_columns).n_pages
    pages = (
        drawing.page(grid.page(number, layout.n_rows, layout.n_columns), number, n_pages)
        for number in range(1, n_pages + 1)
    )
    write_pages(pages, path, kind)
    _write_legend(path, drawing.codes.names)
    return len(drawing.drawn)


def write_pages(pages: Iterable[Image.Image], path: Path, kind: str) -> None:
    """Write pages as they are drawn: into one PDF, or into pictures that are numbered from the second on."""
    if kind == _PDF:
        files.replace(path, lambda temporary: _write_pdf(temporary, pages))
        return
    for number, page in enumerate(pages, 1):
        _write_picture(_numbered(path, number), page, kind)


def _aspect(grid: Grid) -> float:
    """Give height by width of most pictures."""
    if not {columns.OUTPUT_WIDTH, columns.OUTPUT_HEIGHT} <= set(grid.results.columns):
        return 1.0
    aspects = (grid.results[columns.OUTPUT_HEIGHT] / grid.results[columns.OUTPUT_WIDTH]).dropna()
    return float(aspects.median()) if len(aspects) else 1.0


def _caption(grid: Grid, letters: Lettering, width: int) -> int:
    """Give the room that the longest of the captions takes."""
    n_rows, n_columns = grid.shape
    told = {caption(grid, (row, column)) for row in range(n_rows) for column in range(n_columns)} - {""}
    room = width, _CAPTION_MAX
    found = (fitted(text, letters, room, SMALL) for text in told)
    heights = [CAPTION_GAP + len(lines) * line_px(size_px) for size_px, lines in found]
    return max(heights, default=0)


def _write_pdf(path: Path, pages: Iterable[Image.Image]) -> None:
    for number, page in enumerate(pages):
        page.save(path, _PDF, resolution=DPI, quality=_QUALITY, append=number > 0)


def _write_picture(path: Path, page: Image.Image, kind: str) -> None:
    files.replace(path, lambda temporary: page.save(temporary, kind, dpi=(DPI, DPI), quality=_QUALITY))


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _write_legend(path: Path, names: dict[str, str]) -> None:
    """Keep what the codes stand for beside the sheet; a legend of an earlier one is taken away."""
    beside_it = path.with_name(path.name + _LEGEND)
    if not names:
        beside_it.unlink(missing_ok=True)
        return

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows([("code", "label"), *((code, label) for label, code in names.items())])

    files.replace(beside_it, write)


_CELL_PX: Final = 300
_LABEL_PX: Final = 40
_GAP_PX: Final = 12
_TEXT_PX: Final = 15
_N_ACROSS: Final = 4
_N_MAX: Final = 100
"""Pictures on a page."""
_LINE_PX: Final = 18
_LINES_MAX: Final = 80
_FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".pdf": "PDF"}
_BEYOND_LATIN: Final = "\u0250"
_SHEET_PAPER: Final = "#f4f1ea"
_SHEET_INK: Final = "#2b2b2b"
_BAD: Final = "#a04000"
_BAR: Final = "contact sheet"


def draw_sheet(
    results: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    rows: Names = None,
    columns: Names = None,
    n_across: int = _N_ACROSS,
    labels: Sequence[str] = (names.PROMPT,),
    title: str = "",
    paper: str = "a4",
    font: str | os.PathLike[str] | None = None,
    progress: bool = True,
    notice: str = "",
) -> int:
    """Draw the pictures of results for print; see `dreamo_batch.contact_sheet`."""
    target, folders, letters = Path(path), folders_of(results, run_dir), Lettering(font)
    kind = _FORMATS.get(target.suffix.lower())
    if kind is None:
        raise UsageError(f"{target}: a contact sheet is written as {', '.join(_FORMATS)}.")
    with pillow_settings:  # the user's limit of pixels would be one of letters, too
        if rows is not None or columns is not None:
            with ticking(len(results), _BAR, unit="row", progress=progress) as tick:
                return write_grid(
                    lay_out(results, rows, columns, is_spread=True),
                    target,
                    kind,
                    folders=folders,
                    title=title,
                    paper=paper,
                    letters=letters,
                    tick=tick,
                    notice=notice,
                )
        sheet = _Sheet(results, folders, labels, letters, n_across=n_across, notice=notice)
        if sheet.has_pictures():
            with ticking(len(sheet), _BAR, progress=progress) as tick:
                write_pages(sheet.pages(tick), target, kind)
        return sheet.n_drawn


@dataclass(frozen=True, slots=True)
class _Cell:
    """One picture, or None for a file that can't be shown, and the lines below it."""

    picture: Image.Image | None
    path: str
    lines: list[tuple[str, Any]]

    @property
    def label_px(self) -> int:
        return max(_LABEL_PX, 2 + len(self.lines) * _LINE_PX + 2)


class _Sheet:
    """Pictures one after the other, a page at a time, and what has none said below the last of them."""

    def __init__(
        self,
        results: pd.DataFrame,
        folders: Sequence[Path],
        labels: Sequence[str],
        letters: Lettering,
        *,
        n_across: int = _N_ACROSS,
        notice: str = "",
    ) -> None:
        is_saved = results[names.OUTPUT_PATH].notna()
        placed = results.assign(**{names.RUN_DIR: pd.Series(folders, index=results.index, dtype=object)})
        saved = placed[is_saved].drop_duplicates([names.RUN_DIR, names.OUTPUT_PATH])
        self._rows = saved.to_dict("records")
        self._without = "; ".join(text for text in (_told_without(results[~is_saved]), notice) if text)
        self._labels, self._letters = labels, letters
        self._n_across = min(n_across, max(1, len(self._rows)))
        self.n_drawn = 0

    def has_pictures(self) -> bool:
        """Say whether there is anything to draw."""
        return any(small_picture(self._path(row), 1) is not None for row in self._rows)

    def __len__(self) -> int:
        """Count the files to be drawn."""
        return len(self._rows)

    def pages(self, tick: Callable[[], None]) -> Iterator[Image.Image]:
        """Draw one page after the other, and count each picture."""
        n_pages = math.ceil(len(self._rows) / _N_MAX)
        for number in range(n_pages):
            cells = []
            for row in self._rows[number * _N_MAX : (number + 1) * _N_MAX]:
                cells.append(self._cell(row))
                tick()
            foot = [f"page {number + 1} of {n_pages}"] if n_pages > 1 else []
            if self._without and number == n_pages - 1:
                foot.append(self._without)
            yield self._page(cells, foot)

    def _path(self, row: dict[Any, Any]) -> Path:
        return Path(row[names.RUN_DIR], str(row[names.OUTPUT_PATH]))

    def _cell(self, row: dict[Any, Any]) -> _Cell:
        small = small_picture(self._path(row), _CELL_PX)
        self.n_drawn += small is not None
        if small is not None and max(small.size) < _CELL_PX:
            small = ImageOps.contain(small, (_CELL_PX, _CELL_PX))
        told = ": ".join(text for name in self._labels if (text := _drawable(str(row[name]), self._letters)))
        return _Cell(small, row[names.OUTPUT_PATH], self._lines(told, f"seed {row[names.SEED_SENT]}"))

    def _lines(self, *texts: str) -> list[tuple[str, Any]]:
        fonts = [self._letters.font_for(text, _TEXT_PX) or ImageFont.load_default(_TEXT_PX) for text in texts]
        return [
            (line, font)
            for text, font in zip(texts, fonts, strict=True)
            for line in wrapped(text, font, _CELL_PX - 4, _LINES_MAX) or [""]
        ]

    def _page(self, cells: list[_Cell], foot: list[str]) -> Image.Image:
        lines = [cells[start : start + self._n_across] for start in range(0, len(cells), self._n_across)]
        heights = [_CELL_PX + max(cell.label_px for cell in line) + _GAP_PX for line in lines]
        width = self._n_across * (_CELL_PX + _GAP_PX) + _GAP_PX
        foot_lines = [
            line
            for text in foot
            for line in wrapped(text, ImageFont.load_default(_TEXT_PX), width - 2 * _GAP_PX, _LINES_MAX)
        ]
        below = len(foot_lines) * _LINE_PX + _GAP_PX if foot_lines else 0
        sheet = Image.new("RGB", (width, _GAP_PX + sum(heights) + below), _SHEET_PAPER)
        top = _GAP_PX
        for line, height in zip(lines, heights, strict=True):
            for across, cell in enumerate(line):
                self._draw(sheet, cell, (_GAP_PX + across * (_CELL_PX + _GAP_PX), top))
            top += height
        pen = ImageDraw.Draw(sheet)
        for number, text in enumerate(foot_lines):
            font = ImageFont.load_default(_TEXT_PX)
            pen.text((_GAP_PX, top + number * _LINE_PX), text, fill=_SHEET_INK, font=font)
        return sheet

    def _draw(self, sheet: Image.Image, cell: _Cell, corner: tuple[int, int]) -> None:
        left, top = corner
        pen = ImageDraw.Draw(sheet)
        if cell.picture is None:
            pen.rectangle((left, top, left + _CELL_PX - 1, top + _CELL_PX - 1), outline=_BAD)
            for number, (text, font) in enumerate(self._lines(PALETTE[GONE].word, cell.path)):
                pen.text((left + 8, top + 8 + number * _LINE_PX), text, fill=_BAD, font=font)
        else:
            place = left + (_CELL_PX - cell.picture.width) // 2, top + _CELL_PX - cell.picture.height
            sheet.paste(cell.picture, place)
        for number, (text, font) in enumerate(cell.lines):
            pen.text((left + 2, top + _CELL_PX + 2 + number * _LINE_PX), text, fill=_SHEET_INK, font=font)


def _told_without(rows: pd.DataFrame) -> str:
    """Say which rows have no picture to be drawn, by what became of them."""
    if not len(rows) or names.STATUS not in rows:
        return f"without a picture: {len(rows)}" if len(rows) else ""
    made = {names.COMPLETED: "made, not saved"}
    counts = rows[names.STATUS].astype(str).map(lambda status: made.get(status, status)).value_counts()
    return "without a picture: " + ", ".join(f"{n} {word.replace('_', ' ')}" for word, n in counts.items())


def _drawable(text: str, letters: Lettering) -> str:
    """Give a text if a font here has its letters, else what is left where those that none has are left out."""
    whole = label_of(text)
    known = "".join(letter for letter in whole if letters.font_for(letter, _TEXT_PX))
    latin = "".join(letter for letter in whole if letter < _BEYOND_LATIN)
    for kept in (whole, known):
        if letters.font_for(kept, _TEXT_PX) is not None:
            return " ".join(kept.split())
    return " ".join(latin.split())


def contact_sheet(
    source: pd.DataFrame | RunDir | Iterable[RunDir],
    path: str | os.PathLike[str],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    rows: Names = None,
    columns: Names = None,
    n_across: int = 4,
    labels: Sequence[str] = (names.PROMPT,),
    title: str = "",
    paper: str = "a4",
    font: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> int:
    """Draw the pictures of results for print: as a grid with labelled axes, or one after the other.

    Parameters
    ----------
    source : pandas.DataFrame, path-like or iterable of path-like
        Results, or rows of them, also of several runs put together; or a run directory, or several, whose results are
        loaded.
    path : path-like
        The PNG, JPEG or PDF to write, by its ending; replaced atomically. What takes several pages becomes one
        PDF, or ``sheet.png``, ``sheet-2.png``, ...
    run_dir : path-like, optional
        Where the pictures are; default: where the results came from.
    rows, columns : str, sequence of str, or None
        Columns that the lines down and across stand for, as for `gallery`, and ``...`` for those that it would choose;
        what has no picture is drawn as what it is, and rows that share a cell are counted across. Both None: saved
        pictures only, in the table's order, each once; below the last is said how many rows have none.
    n_across : int
        Without axes: pictures in a row.
    labels : sequence of str
        Without axes: columns that tell the pictures apart, besides the seed.
    title : str
        A heading, with axes.
    paper : {"a4", "letter"}
        What a grid is laid out for, at 300 dpi; few columns upright, else across.
    font : path-like, optional
        Font file for the labels. Default: Latin letters as they are, Chinese in a font of this machine. Labels that no
        font has letters for, or that have no room, become codes (P1, C1, ...), and ``PATH.legend.csv`` says what they
        stand for.
    progress : bool
        Show a bar.

    Returns
    -------
    int
        Number of pictures on it. Without axes nothing is written if that is 0.

    Raises
    ------
    UsageError
        If there is no such column, paper, font or kind of file, or it is not known where the pictures are.
    DirectoryError
        If a run directory can't be read.
    OSError
        If the sheet can't be written.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["a beach", "snow"], seed=range(1, 4), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.contact_sheet(done, run_dir + "/sheet.pdf", rows="prompt", columns="seed")
    6
    """
    notice = ""
    if not isinstance(source, pd.DataFrame):
        run_dirs = as_paths(source)
        source = load(run_dirs)
        notice = _left(run_dirs, source)
    return draw_sheet(
        source,
        path,
        run_dir=run_dir,
        rows=rows,
        columns=columns,
        n_across=n_across,
        labels=labels,
        title=title,
        paper=paper,
        font=font,
        progress=progress,
        notice=notice,
    )


def _left(run_dirs: Iterable[RunDir], results: pd.DataFrame) -> str:
    return removed_rows_notice(pictures_left(run_dirs, results))
