"""A contact sheet: the pictures of a run, small and labelled, in one image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dreamo_batch import columns
from dreamo_batch.execution import durable

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
_FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_BEYOND_LATIN: Final = "\u0250"
_PAPER: Final = "#f4f1ea"
_INK: Final = "#2b2b2b"


def contact_sheet(
    results: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    run_dir: str | os.PathLike[str],
    n_across: int = _N_ACROSS,
    labels: Sequence[str] = (columns.PROMPT,),
) -> int:
    """Draw the saved pictures of a run on one sheet, in the table's order, labelled by prompt and seed.

    Parameters
    ----------
    results : pandas.DataFrame
        Results as from `dreamo_batch.run` or `load`.
    path : path-like
        The PNG or JPEG to write, by its ending; replaced atomically. Nothing is written without a picture.
    run_dir : path-like
        Where their pictures are.
    n_across : int
        Pictures in a row.
    labels : sequence of str
        Columns that tell the pictures apart, besides the seed; what is not Latin in them can't be drawn.

    Returns
    -------
    int
        Number of pictures on it, 100 at most; each is shown once, and unreadable ones are left out.

    Raises
    ------
    OSError
        If the sheet can't be written.

    Examples
    --------
    >>> import pandas as pd
    >>> contact_sheet(pd.DataFrame({"prompt": [], "seed_sent": [], "output_path": []}), "none.png", run_dir="runs/none")
    0
    """
    rows = results[results[columns.OUTPUT_PATH].notna()].drop_duplicates(columns.OUTPUT_PATH)
    cells = [
        cell for row in rows.head(_N_MAX).to_dict("records") if (cell := _cell(row, Path(run_dir), labels))
    ]
    if cells:
        durable.replace(
            Path(path),
            lambda temporary: _sheet(cells, n_across).save(
                temporary, _FORMATS[Path(path).suffix.lower()], quality=88
            ),
        )
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


def _cell(row: dict[Any, Any], run_dir: Path, labels: Sequence[str]) -> Image.Image | None:
    """Draw one picture with its label; None if the file is gone or damaged."""
    try:
        with Image.open(run_dir / row[columns.OUTPUT_PATH]) as picture:
            picture.draft("RGB", (_CELL_PX, _CELL_PX))  # a JPEG is decoded at a fraction of its size
            small = ImageOps.contain(picture.convert("RGB"), (_CELL_PX, _CELL_PX))
    except OSError:
        return None
    cell = Image.new("RGB", (_CELL_PX, _CELL_PX + _LABEL_PX), _PAPER)
    cell.paste(small, ((_CELL_PX - small.width) // 2, _CELL_PX - small.height))
    font = ImageFont.load_default(_TEXT_PX)
    told = ": ".join(text for name in labels if (text := _drawable(str(row[name]))))
    lines = (_fitting(told, font), f"seed {row[columns.SEED_SENT]}")
    ImageDraw.Draw(cell).multiline_text((2, _CELL_PX + 2), "\n".join(lines), fill=_INK, font=font, spacing=3)
    return cell


def _drawable(text: str) -> str:
    """Keep what the built-in font has letters for; it has none beyond Latin."""
    kept = "".join(character for character in text if character.isprintable() and character < _BEYOND_LATIN)
    return " ".join(kept.split())


def _fitting(text: str, font: Any) -> str:
    """Cut a line to the width of a cell."""
    if font.getlength(text) <= _CELL_PX - 4:
        return text
    while text and font.getlength(text + "...") > _CELL_PX - 4:
        text = text[:-1]
    return text.rstrip() + "..."
