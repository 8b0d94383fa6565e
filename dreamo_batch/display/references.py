"""The reference pictures of results, found without asking anybody over the network.

A run directory knows where each picture was, or keeps a copy of it; where it does not tell, the table's cell does.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamo_batch import columns
from dreamo_batch.display.grid import key_of, label_of
from dreamo_batch.display.thumbnails import shown
from dreamo_batch.engine import directory
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.errors import DirectoryError
from dreamo_batch.jobs.cells import is_missing
from dreamo_batch.jobs.fields import image_columns
from dreamo_batch.jobs.sources import FILE, URL, Source, read_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd
    from PIL import Image

    from dreamo_batch.display.grid import Grid
    from dreamo_batch.display.thumbnails import Thumbnail, Thumbnails


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference picture: what tells it from others, its name, and where it is."""

    key: str
    label: str
    content: Any = None

    def image(self, side_px: int) -> Image.Image | None:
        """Read it, at most so large; None for one at a URL, and for one that is gone."""
        if self.content is None:
            return None
        return shown(io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content, side_px)

    def picture(self, thumbnails: Thumbnails, bytes_max: int) -> Thumbnail | None:
        """Make it small; None for one at a URL, and for one that is gone."""
        if isinstance(self.content, Path):
            return thumbnails.of_files([self.content], bytes_max=bytes_max)[0]
        return None if self.content is None else thumbnails.of_content(self.content, bytes_max=bytes_max)


class References:
    """The reference pictures of a table's rows."""

    def __init__(self, results: pd.DataFrame, folders: Sequence[Path]) -> None:
        self._cells = [results[name].to_numpy(dtype=object) for name in image_columns(results)]
        self._jobs = results[columns.JOB_ID].to_numpy(dtype=object) if columns.JOB_ID in results else None
        self._folders = folders
        self._recorded = {folder: _recorded(folder) for folder in dict.fromkeys(folders)}
        self._read: dict[str, Reference] = {}

    def of_rows(self, positions: Iterable[int]) -> tuple[Reference, ...]:
        """Give the different ones of some rows, in their order."""
        found = (self.of_row(position) for position in positions)
        return tuple({one.key: one for one in found if one is not None}.values())

    def of_row(self, position: int) -> Reference | None:
        """Give that of one row; None where none can be told."""
        cells = (given[position] for given in self._cells)
        cell = next((cell for cell in cells if not is_missing(cell)), None)
        job_id = None if self._jobs is None else self._jobs[position]
        recorded = self._recorded[self._folders[position]]
        record = None if is_missing(job_id) else recorded.get(str(job_id))
        key = record[0] if record else key_of(cell)
        if key is None:
            return None
        if key not in self._read:
            name = label_of(cell if cell is not None else record and record[1], is_picture=True)
            self._read[key] = Reference(key, name, _content(cell, record))
        return self._read[key]


@dataclass(frozen=True, slots=True)
class Beside:
    """Where a page shows its reference pictures: once, or beside its rows, or over its columns."""

    once: tuple[Reference, ...]
    by_row: tuple[tuple[Reference, ...], ...]
    by_column: tuple[tuple[Reference, ...], ...]

    @property
    def all(self) -> tuple[Reference, ...]:
        """Each of them once."""
        found = (one for line in (self.once, *self.by_row, *self.by_column) for one in line)
        return tuple({one.key: one for one in found}.values())


def beside(grid: Grid, references: References) -> Beside:
    """Decide where the reference pictures of a page stand."""
    cells = {
        (row, column): references.of_rows(grid.positions(row, column))
        for row in grid.shown_rows
        for column in grid.shown_columns
    }
    different = {one.key: one for cell in cells.values() for one in cell}
    if len(different) <= 1:
        return Beside(tuple(different.values()), (), ())
    by_row = _merged(cells, 0, grid.shown_rows)
    by_column = _merged(cells, 1, grid.shown_columns)
    if max(map(len, by_column)) == 1 < max(map(len, by_row)):
        return Beside((), (), by_column)
    return Beside((), by_row, ())


def _merged(
    cells: Mapping[tuple[int, int], tuple[Reference, ...]], side: int, lines: Iterable[int]
) -> tuple[tuple[Reference, ...], ...]:
    merged: dict[int, dict[str, Reference]] = {line: {} for line in lines}
    for place, cell in cells.items():
        merged[place[side]] |= {one.key: one for one in cell}
    return tuple(tuple(line.values()) for line in merged.values())


def _recorded(run_dir: Path) -> Mapping[str, tuple[str, str]]:
    """Give digest and place of the picture of each job that the run directory knows."""
    try:
        decided = directory.read_jobs(RunDirectory(run_dir).jobs).decided
    except DirectoryError:
        return {}
    known = decided[decided[columns.JOB_ID].notna()]
    told = zip(known[columns.IMAGE_DIGEST], known[columns.IMAGE_SENT], strict=True)
    return dict(zip(known[columns.JOB_ID], told, strict=True))


def _content(cell: Any, record: tuple[str, str] | None) -> Any:
    """Give a file or a picture in memory; None for a URL, and for what is no picture."""
    place = record[1] if record and not is_missing(record[1]) else None
    if place is not None and Path(place).is_absolute() and Path(place).is_file():
        return Path(place)
    read = None if is_missing(cell) else read_source(cell, Path.cwd())
    if not isinstance(read, Source) or read.kind == URL:
        return None
    return Path(read.location) if read.kind == FILE else read.content
