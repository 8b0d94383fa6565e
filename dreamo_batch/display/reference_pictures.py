"""The reference pictures of results, found without the network: from the run directory, else from the table's cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamo_batch import columns
from dreamo_batch.display.grid import key_of, label_of
from dreamo_batch.display.thumbnails import make_thumbnail
from dreamo_batch.engine.checkpoint import read_jobs, references_of
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.errors import DirectoryError
from dreamo_batch.images import small_picture
from dreamo_batch.jobs.cells import is_missing, items_of
from dreamo_batch.jobs.fields import image_columns
from dreamo_batch.jobs.sources import FILE, URL, Source, read_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pandas as pd
    from PIL import Image

    from dreamo_batch.display.grid import Grid
    from dreamo_batch.display.thumbnails import Thumbnails
    from dreamo_batch.engine.picture_cache import Thumbnail


@dataclass(frozen=True, slots=True)
class ReferencePicture:
    """A reference picture: its key, its name, and its path or content; None for a URL."""

    key: str
    label: str
    content: Any = None

    def image(self, side_px: int) -> Image.Image | None:
        """Read it, at most so large; None for a URL or a missing file."""
        return None if self.content is None else small_picture(self.content, side_px)

    def thumbnail(self, thumbnails: Thumbnails, bytes_max: int) -> Thumbnail | None:
        """Make its thumbnail; None for a URL or a missing file."""
        if isinstance(self.content, Path):
            return thumbnails.of_files([self.content], bytes_max=bytes_max)[0]
        return None if self.content is None else make_thumbnail(self.content, bytes_max)


class References:
    """The reference pictures of a table's rows."""

    def __init__(self, results: pd.DataFrame, folders: Sequence[Path]) -> None:
        self._cells = [results[name].to_numpy(dtype=object) for name in image_columns(results)]
        self._jobs = results[columns.JOB_ID].to_numpy(dtype=object) if columns.JOB_ID in results else None
        self._folders = folders
        self._recorded = {folder: _recorded(folder) for folder in dict.fromkeys(folders)}
        self._known: dict[str, ReferencePicture] = {}

    def of_rows(self, positions: Iterable[int]) -> dict[str, ReferencePicture]:
        """Return those of some rows by key, in order."""
        return {one.key: one for position in positions for one in self._of_row(position)}

    def _of_row(self, position: int) -> Iterator[ReferencePicture]:
        cells = [cell for column in self._cells for cell in _pictures_in(column[position])]
        job_id = None if self._jobs is None else self._jobs[position]
        known = self._recorded[self._folders[position]].get(str(job_id))
        if known is None:
            known = [(key, None) for cell in cells if (key := key_of(cell)) is not None]
        for number, (key, sent) in enumerate(known):
            if key not in self._known:
                cell = cells[number] if len(cells) == len(known) else None
                label = label_of(sent if cell is None else cell, is_picture=True)
                self._known[key] = ReferencePicture(key, label, _content(cell, sent))
            yield self._known[key]


@dataclass(frozen=True, slots=True)
class ReferencePlacement:
    """Where a grid shows its reference pictures: once, beside its rows, or above its columns, by number."""

    once: tuple[ReferencePicture, ...] = ()
    by_row: Mapping[int, tuple[ReferencePicture, ...]] = field(default_factory=dict)
    by_column: Mapping[int, tuple[ReferencePicture, ...]] = field(default_factory=dict)

    @property
    def all(self) -> list[ReferencePicture]:
        """Each of them once."""
        found = (one for line in (self.once, *self.by_row.values(), *self.by_column.values()) for one in line)
        return list({one.key: one for one in found}.values())


def place_references(grid: Grid, references: References) -> ReferencePlacement:
    """Choose where the reference pictures of a page stand."""
    by_row: dict[int, dict[str, ReferencePicture]] = {row: {} for row in grid.shown_rows}
    by_column: dict[int, dict[str, ReferencePicture]] = {column: {} for column in grid.shown_columns}
    for row in grid.shown_rows:
        for column in grid.shown_columns:
            found = references.of_rows(grid.positions(row, column))
            by_row[row] |= found
            by_column[column] |= found
    different = {key: one for line in by_row.values() for key, one in line.items()}
    if len(different) <= 1:
        return ReferencePlacement(once=tuple(different.values()))
    if max(map(len, by_column.values())) == 1 < max(map(len, by_row.values())):
        return ReferencePlacement(
            by_column={column: tuple(line.values()) for column, line in by_column.items()}
        )
    return ReferencePlacement(by_row={row: tuple(line.values()) for row, line in by_row.items()})


def _pictures_in(cell: Any) -> list[Any]:
    items = items_of(cell)
    return ([] if is_missing(cell) else [cell]) if items is None else items


def _recorded(run_dir: Path) -> Mapping[str, list[tuple[str, str | None]]]:
    """Return digest and location of the pictures of each job that the run directory knows."""
    try:
        decided = read_jobs(RunDirectory(run_dir).jobs).decided
    except DirectoryError:
        return {}
    known = references_of(decided[decided[columns.JOB_ID].notna()].drop_duplicates(columns.JOB_ID))
    found: dict[str, list[tuple[str, str | None]]] = {}
    names = [columns.JOB_ID, columns.IMAGE_DIGEST, columns.IMAGE_SENT]
    for job_id, digest, sent in known[names].itertuples(index=False, name=None):
        found.setdefault(job_id, []).append((digest, sent))
    return found


def _content(cell: Any, sent: str | None) -> Any:
    """Return a path, or a picture in memory; None for a URL, and for what is no picture."""
    if not is_missing(sent) and Path(str(sent)).is_absolute() and Path(str(sent)).is_file():
        return Path(str(sent))
    source = None if is_missing(cell) else read_source(cell, Path.cwd())
    if not isinstance(source, Source) or source.kind == URL:
        return None
    return Path(source.location) if source.kind == FILE else source.content
