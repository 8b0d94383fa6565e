"""A grid on paper, as files: one page after the other, so that no more than one is in memory."""

from __future__ import annotations

import csv
import functools
from typing import TYPE_CHECKING, Final

from dreamo_batch import columns
from dreamo_batch.execution import durable
from dreamo_batch.results.lettering import fitted, line_px
from dreamo_batch.results.references import References, beside
from dreamo_batch.results.sheet_layout import DPI, GAP, REFERENCE, plan_layout
from dreamo_batch.results.sheet_pages import CAPTION_GAP, SMALL, Drawing, caption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from PIL import Image

    from dreamo_batch.results.grid import Grid
    from dreamo_batch.results.lettering import Lettering

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
        durable.replace(path, lambda temporary: _write_pdf(temporary, pages))
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
    durable.replace(path, lambda temporary: page.save(temporary, kind, dpi=(DPI, DPI), quality=_QUALITY))


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

    durable.replace(beside_it, write)
