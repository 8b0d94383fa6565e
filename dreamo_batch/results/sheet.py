"""A contact sheet: the pictures of a run, small and labelled, as a picture or for print."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dreamo_batch import columns as names
from dreamo_batch.errors import UsageError
from dreamo_batch.execution import durable
from dreamo_batch.results import sheet_files
from dreamo_batch.results.grid import lay_out
from dreamo_batch.results.lettering import Lettering, wrapped
from dreamo_batch.results.origin import run_dir_of
from dreamo_batch.results.texts import label_of
from dreamo_batch.results.thumbnails import shown

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pandas as pd

_CELL_PX: Final = 300
_LABEL_PX: Final = 40
_GAP_PX: Final = 12
_TEXT_PX: Final = 15
_N_ACROSS: Final = 4
_N_MAX: Final = 100
_LINE_PX: Final = 18
_FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".pdf": "PDF"}
_BEYOND_LATIN: Final = "\u0250"
_PAPER: Final = "#f4f1ea"
_INK: Final = "#2b2b2b"


def contact_sheet(
    results: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    rows: str | Sequence[Any] | None = None,
    columns: str | Sequence[Any] | None = None,
    n_across: int = _N_ACROSS,
    labels: Sequence[str] = (names.PROMPT,),
    title: str = "",
    paper: str = "a4",
    font: str | os.PathLike[str] | None = None,
) -> int:
    """Draw the pictures of results for print; see `dreamo_batch.contact_sheet`.

    Examples
    --------
    >>> import pandas as pd
    >>> contact_sheet(pd.DataFrame({"prompt": [], "seed_sent": [], "output_path": []}), "none.png", run_dir="runs/none")
    0
    """
    target, folder, letters = Path(path), run_dir_of(results, run_dir), Lettering(font)
    kind = _FORMATS.get(target.suffix.lower())
    if kind is None:
        raise UsageError(f"{target}: a contact sheet is written as {', '.join(_FORMATS)}.")
    if rows is not None or columns is not None:
        return sheet_files.write_grid(
            lay_out(results, rows, columns),
            target,
            kind,
            run_dir=folder,
            title=title,
            paper=paper,
            letters=letters,
        )
    kept = results[results[names.OUTPUT_PATH].notna()].drop_duplicates(names.OUTPUT_PATH)
    cells = [
        cell for row in kept.head(_N_MAX).to_dict("records") if (cell := _cell(row, folder, labels, letters))
    ]
    if cells:
        sheet = _sheet(cells, n_across)
        durable.replace(target, lambda temporary: sheet.save(temporary, kind, quality=88))
    return len(cells)


def _sheet(cells: list[Image.Image], n_across: int) -> Image.Image:
    n_across = min(n_across, len(cells))
    n_down = math.ceil(len(cells) / n_across)
    step = (_CELL_PX + _GAP_PX, _CELL_PX + _LABEL_PX + _GAP_PX)
    sheet = Image.new("RGB", (n_across * step[0] + _GAP_PX, n_down * step[1] + _GAP_PX), _PAPER)
    for number, cell in enumerate(cells):
        down, across = divmod(number, n_across)
        sheet.paste(cell, (_GAP_PX + across * step[0], _GAP_PX + down * step[1]))
    return sheet


def _cell(
    row: dict[Any, Any], run_dir: Path, labels: Sequence[str], letters: Lettering
) -> Image.Image | None:
    """Draw one picture with its label; None if the file is gone or damaged."""
    small = shown(run_dir / row[names.OUTPUT_PATH], _CELL_PX)
    if small is None:
        return None
    if max(small.size) < _CELL_PX:
        small = ImageOps.contain(small, (_CELL_PX, _CELL_PX))
    cell = Image.new("RGB", (_CELL_PX, _CELL_PX + _LABEL_PX), _PAPER)
    cell.paste(small, ((_CELL_PX - small.width) // 2, _CELL_PX - small.height))
    told = ": ".join(text for name in labels if (text := _drawable(str(row[name]), letters)))
    pen = ImageDraw.Draw(cell)
    for number, text in enumerate((told, f"seed {row[names.SEED_SENT]}")):
        font = letters.font_for(text, _TEXT_PX) or ImageFont.load_default(_TEXT_PX)
        line = next(iter(wrapped(text, font, _CELL_PX - 4, 1)), "")
        pen.text((2, _CELL_PX + 2 + number * _LINE_PX), line, fill=_INK, font=font)
    return cell


def _drawable(text: str, letters: Lettering) -> str:
    """Give a text if a font here has its letters, else what is left where those that none has are left out."""
    whole = label_of(text)
    known = "".join(letter for letter in whole if letters.font_for(letter, _TEXT_PX))
    latin = "".join(letter for letter in whole if letter < _BEYOND_LATIN)
    for kept in (whole, known):
        if letters.font_for(kept, _TEXT_PX) is not None:
            return " ".join(kept.split())
    return " ".join(latin.split())
