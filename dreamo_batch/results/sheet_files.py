"""A grid on paper, as files: one page after the other, so that no more than one is in memory."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.execution import durable
from dreamo_batch.results.references import References, beside
from dreamo_batch.results.sheet_layout import DPI, GAP, REFERENCE, plan_layout
from dreamo_batch.results.sheet_pages import Drawing

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from dreamo_batch.results.grid import Grid
    from dreamo_batch.results.lettering import Lettering

_PDF: Final = "PDF"
_QUALITY: Final = 90
_LEGEND: Final = ".legend.csv"
_TITLE_PX: Final = 190
_NO_TITLE_PX: Final = 50


def write_grid(
    grid: Grid, path: Path, kind: str, *, run_dir: Path, title: str, paper: str, letters: Lettering
) -> int:
    """Write a grid of pictures; gives how many pictures are on it."""
    where = beside(grid, References(grid.results, run_dir))
    layout = plan_layout(
        *grid.shape,
        aspect=_aspect(grid),
        paper=paper,
        head=REFERENCE + 2 * GAP if where.once else _TITLE_PX if title else _NO_TITLE_PX,
        has_captions=_has_captions(grid),
        has_references_over=bool(where.by_column),
    )
    drawing = Drawing(
        layout, letters, where, lambda entry: run_dir / (entry.path or ""), title, is_cut=kind != _PDF
    )
    n_pages = grid.page(1, layout.n_rows, layout.n_columns).n_pages
    pages = (
        drawing.page(grid.page(number, layout.n_rows, layout.n_columns), number, n_pages)
        for number in range(1, n_pages + 1)
    )
    if kind == _PDF:
        durable.replace(path, lambda temporary: _write_pdf(temporary, pages))
    else:
        for number, page in enumerate(pages, 1):
            _write_picture(_numbered(path, number), page, kind)
    _write_legend(path, drawing.codes.names)
    return len(drawing.drawn)


def _aspect(grid: Grid) -> float:
    """Give height by width of most pictures."""
    if not {columns.OUTPUT_WIDTH, columns.OUTPUT_HEIGHT} <= set(grid.results.columns):
        return 1.0
    aspects = (grid.results[columns.OUTPUT_HEIGHT] / grid.results[columns.OUTPUT_WIDTH]).dropna()
    return float(aspects.median()) if len(aspects) else 1.0


def _has_captions(grid: Grid) -> bool:
    n_rows, n_columns = grid.shape
    is_crowded = len(grid.results) > len(
        [1 for row in range(n_rows) for column in range(n_columns) if grid.positions(row, column)]
    )
    return is_crowded or any(entry.told for entry in grid.shown(n_max=1))


def _write_pdf(path: Path, pages: Any) -> None:
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
