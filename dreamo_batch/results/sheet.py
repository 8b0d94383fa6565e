"""A contact sheet: the pictures of a run, small and labelled, as a picture or for print."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dreamo_batch import columns as names
from dreamo_batch.errors import UsageError
from dreamo_batch.results import sheet_files
from dreamo_batch.results.axes import choose_axes
from dreamo_batch.results.entries import GONE
from dreamo_batch.results.grid import lay_out, refuse_other_tables
from dreamo_batch.results.grid_html import WORDS
from dreamo_batch.results.lettering import Lettering, wrapped
from dreamo_batch.results.origin import folders_of
from dreamo_batch.results.texts import label_of
from dreamo_batch.results.thumbnails import shown
from dreamo_batch.table.looking import ticking
from dreamo_batch.table.pictures import pillow_settings

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from dreamo_batch.results.axes import Names

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
_PAPER: Final = "#f4f1ea"
_INK: Final = "#2b2b2b"
_BAD: Final = "#a04000"
_BAR: Final = "contact sheet"


def contact_sheet(
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
    """Draw the pictures of results for print; see `dreamo_batch.contact_sheet`.

    Examples
    --------
    >>> import pandas as pd
    >>> contact_sheet(pd.DataFrame({"prompt": [], "seed_sent": [], "output_path": []}), "none.png", run_dir="runs/none")
    0
    """
    target, folders, letters = Path(path), folders_of(results, run_dir), Lettering(font)
    kind = _FORMATS.get(target.suffix.lower())
    if kind is None:
        raise UsageError(f"{target}: a contact sheet is written as {', '.join(_FORMATS)}.")
    with pillow_settings:  # the user's limit of pixels would be one of letters, too
        if rows is not None or columns is not None:
            chosen = choose_axes(refuse_other_tables(results), rows, columns)
            with ticking(len(results), _BAR, unit="row", progress=progress) as tick:
                return sheet_files.write_grid(
                    lay_out(results, *chosen, is_spread=True),
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
                sheet_files.write_pages(sheet.pages(tick), target, kind)
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
        return any(shown(self._path(row), 1) is not None for row in self._rows)

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
        small = shown(self._path(row), _CELL_PX)
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
        sheet = Image.new("RGB", (width, _GAP_PX + sum(heights) + below), _PAPER)
        top = _GAP_PX
        for line, height in zip(lines, heights, strict=True):
            for across, cell in enumerate(line):
                self._draw(sheet, cell, (_GAP_PX + across * (_CELL_PX + _GAP_PX), top))
            top += height
        pen = ImageDraw.Draw(sheet)
        for number, text in enumerate(foot_lines):
            font = ImageFont.load_default(_TEXT_PX)
            pen.text((_GAP_PX, top + number * _LINE_PX), text, fill=_INK, font=font)
        return sheet

    def _draw(self, sheet: Image.Image, cell: _Cell, corner: tuple[int, int]) -> None:
        left, top = corner
        pen = ImageDraw.Draw(sheet)
        if cell.picture is None:
            pen.rectangle((left, top, left + _CELL_PX - 1, top + _CELL_PX - 1), outline=_BAD)
            for number, (text, font) in enumerate(self._lines(WORDS[GONE], cell.path)):
                pen.text((left + 8, top + 8 + number * _LINE_PX), text, fill=_BAD, font=font)
        else:
            place = left + (_CELL_PX - cell.picture.width) // 2, top + _CELL_PX - cell.picture.height
            sheet.paste(cell.picture, place)
        for number, (text, font) in enumerate(cell.lines):
            pen.text((left + 2, top + _CELL_PX + 2 + number * _LINE_PX), text, fill=_INK, font=font)


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
