"""Contact sheets: pictures of results for print, as a grid with labelled axes, or one after the other."""

from __future__ import annotations

import functools
import itertools
import math
import struct
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd
from PIL import Image, ImageColor, ImageDraw, ImageOps

from dreamo_batch import columns as names
from dreamo_batch.appearance import GONE, ON_LIGHT, PALETTE, PICTURE, UNSAVED
from dreamo_batch.arguments import check_choice, check_count, check_text, file_path, names_in, output_file
from dreamo_batch.display.grid import (
    NUMBER,
    ReferencePlacement,
    References,
    label_of,
    lay_out,
    removed_rows_notice,
    small_pictures,
    telling_apart,
)
from dreamo_batch.engine import picture_cache
from dreamo_batch.engine.picture_cache import THUMBNAIL_PX, PictureFile
from dreamo_batch.fonts import Fonts, fitted, is_cut, line_px, wrapped
from dreamo_batch.images import PNG, pillow_settings, png_chunk
from dreamo_batch.jobs.fields import convert_to_frame, image_columns
from dreamo_batch.parallel import Cluster, bars, threads, ticking, working, write_file
from dreamo_batch.results.frame import folders_of
from dreamo_batch.results.history import Source, check_results
from dreamo_batch.results.load import list_run_dirs, load, pictures_left

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from dreamo_batch.display.grid import Grid, Names, ReferencePicture
    from dreamo_batch.fonts import Font

FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".pdf": "PDF"}
_PDF: Final = "PDF"
_DPI: Final = 300
_DOTS_PER_METRE: Final = round(_DPI / 0.0254)
_WRITERS: Final = 2
_QUALITY: Final = 90
_LEGEND: Final = ".legend.csv"
_WASH: Final = 0.1  # the share of its status's colour in a box

# A grid, in pixels at 300 dpi.
PAPERS: Final = {"a4": (2480, 3508), "letter": (2550, 3300)}
"""Width and height, upright."""
MARGIN: Final = 150
_GAP: Final = 18
_CAPTION_GAP: Final = 8
_LABELS: Final = 96
"""Room above the columns for their labels, two lines."""
_FOOT: Final = 70
_REFERENCE: Final = 230
_REFERENCE_BELOW: Final = 150
"""Room below a picture for its references, where pictures stand side by side."""
_UPRIGHT_MAX: Final = 4
_ACROSS_MAX: Final = {True: 6, False: 10}
_CELL_MAX: Final = 620
_ASPECTS: Final = (0.4, 2.5)
_SIDE_SHARE: Final = 0.19
_CAPTION_MAX: Final = 180
_TITLE_ROOM: Final = 190
_NO_TITLE_ROOM: Final = 50
_LEGEND_LINES: Final = 60
# Sizes to try until a text fits.
_TITLE_PX: Final = (54, 44, 36, 28)
_LABEL_PX: Final = (34, 30, 26, 22, 18, 15)
_SMALL_PX: Final = (28, 24, 20, 16)
_REFERENCE_LABEL_PX: Final = (24, 20, 16, 13)

# Pictures one after the other, in pixels.
_PLAIN_CELL: Final = THUMBNAIL_PX  # so that stored thumbnails are drawn unscaled
_PLAIN_GAP: Final = 12
_PLAIN_LABEL: Final = 40
_PLAIN_TEXT_PX: Final = 15
_PLAIN_LINE: Final = 18
_PLAIN_LINES_MAX: Final = 80
_PLAIN_PICTURES_MAX: Final = 100
_LINES_ON_PAPER: Final = 1.26  # of square pictures, for each in a line: about the shape of A4
_SEEDS: Final = (names.SEED_SENT, names.SEED)
_FOLDER: Final = "folder of the run"
_PLAIN_PAPER: Final = "#f4f1ea"


def contact_sheet(
    source: Source,
    path: str | os.PathLike[str],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    rows: Names = None,
    columns: Names = None,
    n_across: int = 4,
    labels: Sequence[str] | None = None,
    title: str = "",
    paper: Literal["a4", "letter"] = "a4",
    font: str | os.PathLike[str] | None = None,
    cluster: Cluster = None,
    progress: bool = True,
) -> int:
    """Draw the pictures of results for print: as a grid with labelled axes, or one after the other.

    Parameters
    ----------
    source : pandas.DataFrame, path or iterable of paths
        Results, or rows of them, also of several runs put together; or the run directories whose results to load.
    path : path
        The PNG, JPEG or PDF to write, by its suffix; replaced atomically. Several pages become one PDF, or
        ``sheet.png``, ``sheet-2.png``, ...
    run_dir : path, optional
        Where the pictures are; default: where the results came from.
    rows, columns : str, sequence of str, or None
        Columns that the grid's rows and columns stand for, as in `gallery`; ``...`` chooses them as `gallery` does.
        Rows without a picture are drawn as boxes with their status, and jobs that share a cell are counted across.
        Both None: saved pictures only, in the table's order, each once; a last line counts the rows without one.
    n_across : int
        Without axes: pictures in a row.
    labels : sequence of str, optional
        Without axes: columns to write below each picture; the seed is always there. Default: the prompt, and what else
        tells them apart.
    title : str
        A heading, with axes.
    paper : {"a4", "letter"}
        Paper size of a grid, at 300 dpi; portrait for few columns, otherwise landscape.
    font : path, optional
        Font file for the labels. Default: Pillow's, and an installed one for letters it lacks, such as Chinese.
        Labels that no font can write, or that don't fit, become codes (P1, ...), explained in ``PATH.legend.csv``.
    cluster : dask.distributed.Client, concurrent.futures.Executor or int, optional
        Where thumbnails that are missing are made, as for `measure`.
    progress : bool
        Show a bar.

    Returns
    -------
    int
        Number of pictures on the sheet. Without axes, nothing is written if it is 0.

    Raises
    ------
    UsageError
        If there is no such column, paper, font or file format, or the pictures can't be located.
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
    target = output_file("path", path, FORMATS)
    check_count("n_across", n_across)
    check_text("title", title)
    kind = FORMATS[target.suffix.lower()]
    source, notice = convert_to_frame(source), ""
    if not isinstance(source, pd.DataFrame):
        run_dirs = list_run_dirs(source)
        source = load(run_dirs)
        notice = removed_rows_notice(pictures_left(run_dirs, source))
    check_results(source, names.OUTPUT_PATH)
    shown = telling_apart(source) if labels is None else dict.fromkeys(names_in("labels", labels, source), "")
    shown = {name: before for name, before in shown.items() if name not in _SEEDS}
    is_cut = kind != _PDF  # pages of a PDF are paper
    folders, fonts = folders_of(source, run_dir), Fonts(None if font is None else file_path("font", font))
    # With the package's Pillow settings, because the user's limit on pixels would also limit text.
    with working(cluster=cluster, progress=progress), pillow_settings:
        if rows is None and columns is None:
            plain = _PlainSheet(
                source, folders, shown, fonts, n_across=n_across, notice=notice, is_cut=is_cut
            )
            if not any(small_pictures([file], 1)[0] for file in plain.files):
                return 0
            sheet: _PlainSheet | _GridSheet = plain
        else:
            grid = lay_out(source, rows, columns, is_spread=True)
            sheet = _GridSheet(grid, folders, fonts, title=title, paper=paper, notice=notice, is_cut=is_cut)
        with ticking(len(sheet), "contact sheet", unit="row") as tick:
            _write_pages(sheet.pages(tick), target, kind, title or target.stem)
        _write_legend(target, sheet.codes)
        return len(sheet.drawn)


def _write_pages(pages: Iterable[Image.Image], path: Path, kind: str, title: str) -> None:
    """Write pages while the next are drawn: into one PDF, or into pictures numbered from the second on."""
    if kind == _PDF:

        def write(temporary: Path) -> None:
            for number, page in enumerate(pages):
                page.save(temporary, _PDF, resolution=_DPI, quality=_QUALITY, append=number > 0, title=title)

        write_file(path, write)
        return
    with threads(_WRITERS) as pool:
        writing: list[Future[None]] = []
        for number, page in enumerate(pages, 1):
            target = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
            save = functools.partial(page.save, format=kind, dpi=(_DPI, _DPI), quality=_QUALITY)
            save = functools.partial(_save_png, page) if kind == "PNG" else save
            writing.append(pool.submit(write_file, target, save))
            if len(writing) > _WRITERS:  # only a few pages are in memory at once
                writing.pop(0).result()
        for written in writing:
            written.result()


def _save_png(page: Image.Image, path: Path) -> None:
    # Pillow tries five filters on every line, which takes longer than compression; one filter is nearly as small.
    lines = np.asarray(page).reshape(page.height, -1)
    filtered = np.full((page.height, 1 + lines.shape[1]), 2, np.uint8)  # each byte less the one above it
    filtered[0, 1:] = lines[0]
    np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])
    compressor = zlib.compressobj(1, strategy=zlib.Z_RLE)
    chunks = {
        b"IHDR": struct.pack(">2I5B", *page.size, 8, 2, 0, 0, 0),
        b"pHYs": struct.pack(">2IB", _DOTS_PER_METRE, _DOTS_PER_METRE, 1),
        b"IDAT": compressor.compress(filtered.data) + compressor.flush(),
        b"IEND": b"",
    }
    path.write_bytes(PNG + b"".join(itertools.starmap(png_chunk, chunks.items())))


def _write_legend(path: Path, codes: dict[str, str]) -> None:
    """Write the meaning of the codes beside the sheet; remove the legend of an earlier sheet."""
    target = path.with_name(path.name + _LEGEND)
    if not codes:
        target.unlink(missing_ok=True)
        return
    legend = pd.DataFrame({"code": codes.values(), "label": codes.keys()})
    written = functools.partial(legend.to_csv, index=False, encoding="utf-8-sig", lineterminator="\r\n")
    write_file(target, written)


def _read(pictures: Sequence[PictureFile], side_px: int) -> list[Image.Image | None]:
    """Read pictures for drawing, after making missing thumbnails."""
    with bars(wanted=False):  # the sheet has its own bar
        picture_cache.complete(pictures)
    return small_pictures(pictures, side_px)


class _Pen:
    """Draws text, boxes and pictures on one page."""

    def __init__(self, page: Image.Image, fonts: Fonts) -> None:
        self.page, self._fonts = page, fonts
        self._draw = ImageDraw.Draw(page)

    def write(
        self,
        at: tuple[int, int],
        text: str,
        sizes_px: Sequence[int],
        room: tuple[int, int],
        *,
        ink: str = ON_LIGHT.ink,
        align: str = "left",
        is_above: bool = False,
    ) -> int:
        """Write a text as large as fits the room; return its height."""
        if not text:
            return 0
        size_px, lines = fitted(text, self._fonts, room, sizes_px)
        n_halves, anchor = {"left": (0, "la"), "center": (1, "ma"), "right": (2, "ra")}[align]
        left = at[0] + n_halves * room[0] // 2
        top = at[1] - len(lines) * line_px(size_px) if is_above else at[1]
        font = self._fonts.font_or_default(text, size_px)
        self.lines((left, top), ((line, font) for line in lines), line_px(size_px), fill=ink, anchor=anchor)
        return len(lines) * line_px(size_px)

    def lines(self, at: tuple[int, int], lines: Iterable[tuple[str, Font]], step: int, **style: Any) -> None:
        style = {"fill": ON_LIGHT.ink, **style}
        for number, (line, font) in enumerate(lines):
            self._draw.text((at[0], at[1] + number * step), line, font=font, **style)

    def box(self, at: tuple[int, int], size: tuple[int, int], fill: str | tuple[int, ...], line: str) -> None:
        corner = (at[0] + size[0] - 1, at[1] + size[1] - 1)
        self._draw.rounded_rectangle((*at, *corner), radius=8, fill=fill, outline=line, width=2)

    def status(
        self, at: tuple[int, int], size: tuple[int, int], kind: str, note: str, sizes_px: Sequence[int]
    ) -> None:
        """Draw a box with a row's status and the reason in place of its picture."""
        style = PALETTE[kind]
        colour = ImageColor.getrgb(style.colour)
        self.box(at, size, tuple(round(255 - _WASH * (255 - level)) for level in colour), style.colour)
        left, top, width = at[0] + _GAP, at[1] + _GAP, size[0] - 2 * _GAP
        top += self.write((left, top), style.word, sizes_px, (width, 2 * line_px(sizes_px[0]))) + 6
        room = width, max(line_px(sizes_px[-1]), at[1] + size[1] - _GAP - top)
        self.write((left, top), note, [size for size in _SMALL_PX if size <= sizes_px[0]] or sizes_px, room)

    def picture(
        self, at: tuple[int, int], size: tuple[int, int], picture: Image.Image, *, is_low: bool = False
    ) -> None:
        """Paste a picture into the middle or at the bottom of a room."""
        fitting = ImageOps.contain(picture, size, Image.Resampling.LANCZOS)
        down = size[1] - fitting.height
        self.page.paste(
            fitting, (at[0] + (size[0] - fitting.width) // 2, at[1] + (down if is_low else down // 2))
        )


class Layout:
    """The layout of a grid on paper, in pixels: the size of cells, and how many fit on a page."""

    def __init__(
        self,
        n_rows: int,
        n_columns: int,
        *,
        aspect: float,
        paper: str,
        head: int = 0,
        caption: int = 0,
        has_references_over: bool = False,
        is_one_column: bool = False,
        is_cut: bool = False,
    ) -> None:
        check_choice("paper", paper, PAPERS)
        if is_one_column:  # rows stand side by side to fill the paper
            n_columns = _per_page(n_rows, _UPRIGHT_MAX)
            n_rows = -(-n_rows // n_columns)
        is_upright = n_columns <= _UPRIGHT_MAX
        self.width, self.height = PAPERS[paper] if is_upright else reversed(PAPERS[paper])
        self.head, self.caption = head, caption
        self.n_columns = _per_page(n_columns, _ACROSS_MAX[is_upright])
        self.side = round(self.width * _SIDE_SHARE)
        self.start = MARGIN if is_one_column else MARGIN + self.side + _GAP
        self.cell_width = min(_CELL_MAX, (self.width - MARGIN - self.start) // self.n_columns - _GAP)
        if is_cut:
            self.width = self.left(self.n_columns) - _GAP + MARGIN
        self.cell_height = round(self.cell_width * min(max(aspect, _ASPECTS[0]), _ASPECTS[1]))
        # The top of the first row, and the distance to the next.
        self.top = MARGIN + head + _LABELS + (_REFERENCE + _GAP if has_references_over else 0)
        self.row_step = self.cell_height + caption + (2 * _GAP if is_one_column else _GAP)
        self.n_rows = _per_page(n_rows, max(1, (self.height - MARGIN - self.top - _FOOT) // self.row_step))

    def left(self, place: int) -> int:
        """Return the left edge of a column."""
        return self.start + place * (self.cell_width + _GAP)


def _per_page(n: int, n_max: int) -> int:
    """Return the lines per page, distributed so that the last page isn't nearly empty."""
    n_pages = max(1, -(-n // n_max))
    return max(1, -(-n // n_pages))


@dataclass(eq=False)
class _GridSheet:
    """Draws the pages of a grid; labels that can't be drawn or don't fit become codes."""

    grid: Grid
    folders: Sequence[Path]
    fonts: Fonts
    title: str
    paper: str
    notice: str
    is_cut: bool

    def __post_init__(self) -> None:
        grid, fonts = self.grid, self.fonts
        self.codes: dict[str, str] = {}
        self.on_page: dict[str, str] = {}
        self.drawn: set[Path] = set()
        self.pictures: dict[Path, Image.Image] = {}
        self.placement = ReferencePlacement(grid, References(grid.results, self.folders))
        head = _TITLE_ROOM if self.title else _NO_TITLE_ROOM
        head = _REFERENCE + 2 * _GAP if self.placement.once else head
        plan = functools.partial(
            Layout,
            *grid.shape,
            aspect=_aspect(grid.results),
            paper=self.paper,
            head=head,
            has_references_over=bool(self.placement.by_column),
            is_one_column=grid.is_one_column,
            is_cut=self.is_cut,
        )
        width = plan().cell_width
        captions = set()
        for row in grid.shown_rows:
            replace(grid, shown_rows=range(row, row + 1)).shown(n_max=1)  # draws a line at once
            captions |= {_caption(grid, (row, column)) for column in grid.shown_columns}
        found = (fitted(text, fonts, (width, _CAPTION_MAX), _SMALL_PX) for text in captions - {""})
        caption = max((_CAPTION_GAP + len(lines) * line_px(size_px) for size_px, lines in found), default=0)
        self.references_below = _REFERENCE_BELOW if grid.is_one_column and self.placement.by_row else 0
        self.layout = plan(caption=self.references_below + caption)

    def __len__(self) -> int:
        return len(self.grid.results)

    def pages(self, tick: Callable[[], None]) -> Iterator[Image.Image]:
        """Draw the pages in turn, calling `tick` for each row of the table."""
        n_across = self.layout.n_columns if self.grid.is_one_column else 1
        size = self.layout.n_rows * n_across, self.layout.n_columns
        n_pages = self.grid.page(1, *size).n_pages
        for number in range(1, n_pages + 1):
            grid = self.grid.page(number, *size)
            page = Image.new("RGB", (self.layout.width, self.layout.height), "white")
            pen, self.on_page = _Pen(page, self.fonts), {}
            self._head(pen, grid)
            self._columns(pen, grid)
            self._read_pictures(grid)
            draw = self._in_one_column if grid.is_one_column else self._row
            for place, row in enumerate(grid.shown_rows):
                draw(pen, grid, place, row)
                for _ in itertools.chain.from_iterable(grid.positions(row, at) for at in grid.shown_columns):
                    tick()
            foot = [f"{code}: {self._drawable(label)}" for label, code in self.on_page.items()]
            foot += [self.notice] if self.notice and number == n_pages else []
            foot += [f"page {number} of {n_pages}"] if n_pages > 1 else []
            n_lines = -(-len(grid.shown_rows) // n_across)
            yield self._with_foot(page, self.layout.top + n_lines * self.layout.row_step, foot)

    def _with_foot(self, page: Image.Image, bottom: int, foot: Sequence[str]) -> Image.Image:
        """Write lines below the grid; the page gets longer if necessary, or is cut below the last line."""
        size_px, width = _SMALL_PX[0], self.layout.width - 2 * MARGIN
        lines = _broken(foot, self.fonts, size_px, width, _LEGEND_LINES)
        end = bottom + MARGIN // 2 + len(lines) * line_px(size_px)
        whole = Image.new("RGB", (page.width, max(end, 0 if self.is_cut else page.height)), "white")
        whole.paste(page)
        _Pen(whole, self.fonts).lines((MARGIN, bottom + _GAP), lines, line_px(size_px), fill=ON_LIGHT.open)
        return whole

    def _head(self, pen: _Pen, grid: Grid) -> None:
        left = MARGIN
        for reference in self.placement.once:
            left += self._reference(pen, (left, MARGIN), reference)[0] + 2 * _GAP
        room = self.layout.width - MARGIN - left
        title = self._label(self.title, "T")
        top = pen.write((left, MARGIN), title, _TITLE_PX, (room, 2 * line_px(_TITLE_PX[0])))
        references = [f"reference: {self._label(reference.label, 'R')}" for reference in self.placement.once]
        text = ", ".join(part for part in (*references, grid.extent) if part)
        height = max(line_px(_SMALL_PX[0]), self.layout.head - top)
        pen.write((left, MARGIN + top), text, _SMALL_PX, (room, height), ink=ON_LIGHT.open)

    def _columns(self, pen: _Pen, grid: Grid) -> None:
        below = self.layout.top - _GAP
        if grid.is_one_column:  # the parts that all share
            room = self.layout.width - 2 * MARGIN, _LABELS - _GAP
            common = [*grid.columns.names, *grid.columns.labels[0]] * (NUMBER not in grid.columns.names)
            text = self._label(" ".join(common), "C", room)
            pen.write((MARGIN, below), text, _LABEL_PX, room, is_above=True)
            return
        down, across = (self._label(" / ".join(axis.names), "N") for axis in (grid.rows, grid.columns))
        room = self.layout.side - _GAP, (_LABELS - _GAP) // 2
        pen.write((MARGIN, below - _LABELS + _GAP), across, _SMALL_PX, room, ink=ON_LIGHT.open, align="right")
        pen.write((MARGIN, below - room[1]), down, _SMALL_PX, room, ink=ON_LIGHT.open)
        width, room = self.layout.cell_width, (self.layout.cell_width, _LABELS - _GAP)
        for place, column in enumerate(grid.shown_columns):
            left = self.layout.left(place)
            found = self.placement.by_column.get(column, ())
            self._references(pen, (left, MARGIN + self.layout.head), found, (width, _REFERENCE))
            text = self._label(", ".join(grid.columns.labels[column]), "C", room)
            pen.write((left, below), text, _LABEL_PX, room, align="center", is_above=True)

    def _read_pictures(self, grid: Grid) -> None:
        """Read the pictures of a page, several at once."""
        found = [entry.file_in(self.folders) for entry in grid.shown(n_max=1) if entry.kind == PICTURE]
        read = _read(found, max(self.layout.cell_width, self.layout.cell_height))
        self.pictures = {file.path: item for file, item in zip(found, read, strict=True) if item is not None}

    def _in_one_column(self, pen: _Pen, grid: Grid, place: int, row: int) -> None:
        down, across = divmod(place, self.layout.n_columns)
        left, top = self.layout.left(across), self.layout.top + down * self.layout.row_step
        self._cell(pen, grid, (row, 0), (left, top))
        below = left, top + self.layout.cell_height + _CAPTION_GAP
        room = self.layout.cell_width, self.references_below
        self._references(pen, below, self.placement.by_row.get(row, ()), room)

    def _row(self, pen: _Pen, grid: Grid, place: int, row: int) -> None:
        row_top = top = self.layout.top + place * self.layout.row_step
        room = self.layout.cell_height
        if found := self.placement.by_row.get(row, ()):
            used = self._references(pen, (MARGIN, top), found, (self.layout.side - _GAP, room // 2)) + _GAP
            top, room = top + used, room - used
        self._row_labels(pen, grid.rows.labels[row], (MARGIN, top), (self.layout.side - _GAP, room))
        for across, column in enumerate(grid.shown_columns):
            self._cell(pen, grid, (row, column), (self.layout.left(across), row_top))

    def _row_labels(
        self, pen: _Pen, parts: Sequence[str], corner: tuple[int, int], room: tuple[int, int]
    ) -> None:
        """Write the parts of a row's label below each other; the first gets the room that the others leave."""
        top, rest = corner[1], room[1]
        for number, part in enumerate(parts):
            n_after = len(parts) - number - 1
            part_room = room[0], max(line_px(_LABEL_PX[-1]), rest - n_after * line_px(_SMALL_PX[0]))
            sizes = _SMALL_PX if number else _LABEL_PX
            used = pen.write((corner[0], top), self._label(part, "P", part_room), sizes, part_room)
            top, rest = top + used, rest - used

    def _cell(self, pen: _Pen, grid: Grid, cell: tuple[int, int], corner: tuple[int, int]) -> None:
        """Draw a cell, which on a sheet has at most one job."""
        size = width, height = self.layout.cell_width, self.layout.cell_height
        entries = grid.entries(*cell, n_max=1)
        if not entries and NUMBER in grid.columns.names:  # a row of counted cells simply ends
            return
        if not entries:
            pen.box(corner, size, "white", ON_LIGHT.faint)
            room = width, line_px(_SMALL_PX[0])
            middle = corner[0], corner[1] + height // 2
            pen.write(middle, "not in the table", _SMALL_PX, room, ink=ON_LIGHT.open, align="center")
            return
        entry, path = entries[0], entries[0].file_in(self.folders).path
        picture = self.pictures.get(path) if entry.kind == PICTURE else None
        if picture is None:
            kind = GONE if entry.kind == PICTURE else entry.kind
            note = entry.path or "" if kind == GONE else entry.note
            pen.status(corner, size, kind, self._label(note, "M"), _LABEL_PX)
        else:
            pen.picture(corner, size, picture)
            self.drawn.add(path)
        top = corner[1] + height + _CAPTION_GAP + self.references_below
        room = width, self.layout.caption - _CAPTION_GAP - self.references_below
        text = self._label(_caption(grid, cell), "D", room)
        pen.write((corner[0], top), text, _SMALL_PX, room, ink=ON_LIGHT.open)

    def _references(
        self, pen: _Pen, corner: tuple[int, int], found: Sequence[ReferencePicture], size: tuple[int, int]
    ) -> int:
        """Draw the reference pictures of a line side by side, with their names below; return the total height."""
        names_px = line_px(_REFERENCE_LABEL_PX[0]) + 4
        side_px = min(_REFERENCE, size[1] - names_px, (size[0] + _GAP) // max(1, len(found)) - _GAP)
        height = 0
        for number, reference in enumerate(found):
            left = corner[0] + number * (side_px + _GAP)
            height = max(height, self._reference(pen, (left, corner[1]), reference, side_px)[1])
        room = size[0], _SMALL_PX[0] + _GAP
        text = self._label(", ".join(reference.label for reference in found), "R", room)
        at = corner[0], corner[1] + height + 4
        return height + 4 + pen.write(at, text, _REFERENCE_LABEL_PX, room, ink=ON_LIGHT.open)

    def _reference(
        self, pen: _Pen, corner: tuple[int, int], reference: ReferencePicture, side_px: int = _REFERENCE
    ) -> tuple[int, int]:
        """Draw a reference picture; return its size, 0 if it can't be read."""
        picture = reference.image(side_px)
        if picture is None:
            return 0, 0
        picture = ImageOps.contain(picture, (side_px, side_px))
        pen.page.paste(picture, corner)
        return picture.size

    def _drawable(self, text: str) -> str:
        if self.fonts.font_for(text, _LABEL_PX[0]) is not None:
            return text
        return f"{self.fonts.drawable(text)} (complete in the legend beside this file)".strip()

    def _label(self, text: str, prefix: str, room: tuple[int, int] | None = None) -> str:
        """Return a text if it can be drawn (in the room, if given), otherwise a code for it."""
        has_letters = self.fonts.font_for(text, _LABEL_PX[0]) is not None
        shown = [text] if room is None else fitted(text, self.fonts, room, _LABEL_PX[-1:])[1]
        if not text or (has_letters and not is_cut(shown, text)):
            return text
        n = sum(code.startswith(prefix) for code in self.codes.values()) + 1
        self.on_page[text] = self.codes.setdefault(text, f"{prefix}{n}")
        return self.on_page[text]


def _aspect(results: pd.DataFrame) -> float:
    """Return the most common ratio of height to width."""
    sides = results.reindex(columns=[names.OUTPUT_HEIGHT, names.OUTPUT_WIDTH]).dropna()
    return float((sides.iloc[:, 0] / sides.iloc[:, 1]).median()) if len(sides) else 1.0


def _caption(grid: Grid, cell: tuple[int, int]) -> str:
    """Return what distinguishes a cell, and how many rows of the table it represents."""
    n = len(grid.positions(*cell))
    captions = [", ".join(grid.rows.labels[cell[0]])] * grid.is_one_column
    captions += [entry.caption for entry in grid.entries(*cell, n_max=1)]
    return ", ".join(part for part in (*captions, f"{n} rows with the same job" if n > 1 else "") if part)


def _plain_height(picture: Image.Image | None) -> int:
    """Return the height of a picture as wide as its cell; an unreadable one gets a square box."""
    aspect = 1.0 if picture is None else picture.height / picture.width
    return min(_PLAIN_CELL, round(_PLAIN_CELL * aspect))


@dataclass(eq=False)
class _PlainSheet:
    """Draws pictures one after the other, page by page; a last line counts the rows without one."""

    results: pd.DataFrame
    folders: Sequence[Path]
    labels: Mapping[Any, str]  # columns, with a prefix for their values
    fonts: Fonts
    n_across: int = 4
    notice: str = ""
    is_cut: bool = True

    def __post_init__(self) -> None:
        results = self.results
        is_saved = results[names.OUTPUT_PATH].notna()
        placed = results.assign(**{_FOLDER: pd.Series(self.folders, index=results.index, dtype=object)})
        saved = placed[is_saved].drop_duplicates([_FOLDER, names.OUTPUT_PATH])
        self._rows, self._pictures = saved.to_dict("records"), image_columns(results)
        paths = [row[_FOLDER] / row[names.OUTPUT_PATH] for row in self._rows]
        digests = [row.get(names.OUTPUT_SHA256) for row in self._rows]
        self.files = list(map(PictureFile, saved[_FOLDER], paths, digests))
        self._foot = "; ".join(text for text in (_without_picture(results[~is_saved]), self.notice) if text)
        self.n_across = min(self.n_across, max(1, len(self._rows)))
        on_paper = self.n_across * int(_LINES_ON_PAPER * self.n_across)
        self._n_on_page = _PLAIN_PICTURES_MAX if self.is_cut else min(on_paper, _PLAIN_PICTURES_MAX)
        self.drawn: set[Path] = set()
        self.codes: dict[str, str] = {}  # without letters that no font has

    def __len__(self) -> int:
        """Count the files to draw."""
        return len(self._rows)

    def pages(self, tick: Callable[[], None]) -> Iterator[Image.Image]:
        """Draw the pages in turn, calling `tick` for each picture."""
        n_pages = math.ceil(len(self._rows) / self._n_on_page)
        for number in range(n_pages):
            part = slice(number * self._n_on_page, (number + 1) * self._n_on_page)
            foot = [f"page {number + 1} of {n_pages}"] if n_pages > 1 else []
            foot += [self._foot] if self._foot and number == n_pages - 1 else []
            yield self._page(part, foot, tick)

    def _page(self, part: slice, foot: list[str], tick: Callable[[], None]) -> Image.Image:
        rows, n, step = self._rows[part], self.n_across, _PLAIN_CELL + _PLAIN_GAP
        files, pictures = self.files[part], _read(self.files[part], _PLAIN_CELL)
        captions = [self.caption(row) for row in rows]
        starts = range(0, len(rows), n)
        heights = [max(map(_plain_height, pictures[start : start + n])) for start in starts]
        n_lines = [max(map(len, captions[start : start + n])) for start in starts]
        labels = (max(_PLAIN_LABEL, 4 + k * _PLAIN_LINE) for k in n_lines)
        steps = [height + label + _PLAIN_GAP for height, label in zip(heights, labels, strict=True)]
        foot_lines = self._lines(foot, n * step - _PLAIN_GAP)
        foot_height = len(foot_lines) * _PLAIN_LINE + _PLAIN_GAP if foot_lines else 0
        *tops, bottom = itertools.accumulate(steps, initial=_PLAIN_GAP)
        page = Image.new("RGB", (n * step + _PLAIN_GAP, bottom + foot_height), _PLAIN_PAPER)
        pen = _Pen(page, self.fonts)
        for number, (row, picture, caption) in enumerate(zip(rows, pictures, captions, strict=True)):
            line, across = divmod(number, n)
            left, top, height = _PLAIN_GAP + across * step, tops[line], heights[line]
            room = _PLAIN_CELL, height
            if picture is None:
                pen.status((left, top), room, GONE, str(row[names.OUTPUT_PATH]), [_PLAIN_TEXT_PX])
            else:
                pen.picture((left, top), room, picture, is_low=True)
                self.drawn.add(files[number].path)
            pen.lines((left + 2, top + height + 2), caption, _PLAIN_LINE)
            tick()
        pen.lines((_PLAIN_GAP, bottom), foot_lines, _PLAIN_LINE)
        return page

    def caption(self, row: dict[Any, Any]) -> list[tuple[str, Font]]:
        shown = ((before, row[name], name in self._pictures) for name, before in self.labels.items())
        texts = (f"{before}{label_of(value, is_picture=is_picture)}" for before, value, is_picture in shown)
        seeds = [f"seed {row[name]}" for name in _SEEDS if name in row]
        return self._lines([*filter(None, map(self.fonts.drawable, texts)), *seeds[:1]], _PLAIN_CELL - 4)

    def _lines(self, texts: Sequence[str], width: int) -> list[tuple[str, Font]]:
        return _broken(texts, self.fonts, _PLAIN_TEXT_PX, width, _PLAIN_LINES_MAX)


def _broken(
    texts: Iterable[str], fonts: Fonts, size_px: int, width: int, n_lines_max: int
) -> list[tuple[str, Font]]:
    """Break each text into lines that fit, each with its font; an empty text is an empty line."""
    return [
        (line, font)
        for text in texts
        for font in [fonts.font_or_default(text, size_px)]
        for line in wrapped(text, font, width, n_lines_max) or [""]
    ]


def _without_picture(rows: pd.DataFrame) -> str:
    """Count the rows without a picture to draw, by status."""
    if not len(rows) or names.STATUS not in rows:
        return f"without a picture: {len(rows)}" if len(rows) else ""
    kinds = rows[names.STATUS].astype(str).replace(names.COMPLETED, UNSAVED).value_counts()
    counts = (f"{n} {PALETTE[kind].word if kind in PALETTE else kind}" for kind, n in kinds.items())
    return f"without a picture: {', '.join(counts)}"
