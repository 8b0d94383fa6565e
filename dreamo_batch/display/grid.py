"""The model of every grid: which row of a table is in which cell, its texts, and its thumbnail."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
from PIL import Image

from dreamo_batch import columns
from dreamo_batch.appearance import NO_RESULT, PICTURE, UNSAVED
from dreamo_batch.arguments import names_in
from dreamo_batch.engine import picture_cache
from dreamo_batch.engine.checkpoint import read_distinct_jobs, references_by_job
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.picture_cache import THUMBNAIL_PX, PictureFile, Thumbnail, read_thumbnails
from dreamo_batch.engine.pictures import is_unaltered
from dreamo_batch.errors import UsageError
from dreamo_batch.images import encoded, small_picture
from dreamo_batch.jobs.cells import is_missing, items_of, printable
from dreamo_batch.jobs.fields import image_columns, numbered, rating_columns
from dreamo_batch.jobs.references import FILE, URL, Source, pictures_in, read_source
from dreamo_batch.jobs.tables import restore_input_dtype
from dreamo_batch.money import dollars, money
from dreamo_batch.parallel import threads, ticking
from dreamo_batch.results.history import check_results
from dreamo_batch.text import counted, harmless, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import EllipsisType

    from numpy.typing import NDArray

    Names = str | Sequence[Any] | EllipsisType | None

NUMBER: Final = "number"
"""Name of an axis that only counts."""
# Thumbnails; the side and quality of those that a run keeps are in `picture_cache`.
THUMBNAIL_BYTES_MAX: Final = 40_000
_PANEL_PX: Final = 160
_SIDE_MIN: Final = 40
_QUALITY_MIN: Final = 40
_BYTES_PER_PIXEL: Final = 0.06  # of photographs, roughly
_AT_ONCE: Final = 512  # whose stored thumbnails are in memory at once
_WORKERS: Final = min(8, (os.cpu_count() or 1) + 1)
_CELLS_MAX: Final = 2  # per row of the table; with more, a grid is mostly gaps
_ROWS_COMPARED_MAX: Final = 2_000
_ENTRIES_KEPT_MAX: Final = 20_000
_ALT_MAX: Final = 120
_CAPTION_MAX: Final = 200
_NOTE_MAX: Final = 240
_FACT_MAX: Final = 1_500
_SIZED: Final = (columns.SIZE, columns.WIDTH, columns.HEIGHT)
_INPUTS: Final = (columns.PROMPT, *_SIZED, columns.USE_REPHRASER, columns.REPLICATE, *columns.INPUTS_OF_SOME)
_OUTCOME: Final = (
    columns.STATUS,
    columns.ERROR_CLASS,
    columns.ERROR_CODE,
    columns.ERROR_MESSAGE,
    columns.OUTPUT_ERROR,
    columns.MAY_HAVE_BEEN_BILLED,
    columns.DUPLICATE_OF,
    columns.ATTEMPTS,
    columns.LATENCY_S,
    columns.TASK_ID,
    columns.JOB_ID,
)
_NOT_LISTED: Final = {(columns.MAY_HAVE_BEEN_BILLED, str(False)), (columns.ATTEMPTS, "1")}
_SIZES: Final = ((columns.WIDTH, columns.HEIGHT), (columns.OUTPUT_WIDTH, columns.OUTPUT_HEIGHT))


def label_of(value: Any, *, is_picture: bool = False) -> str:
    """Return any value as one line of text; for a picture's location, its last part."""
    if is_picture and (items := items_of(value)):
        return " + ".join(label_of(item, is_picture=True) for item in items)
    if isinstance(value, (bytes, bytearray, memoryview, Image.Image)):
        return PICTURE
    if is_missing(value):
        return "(none)"
    if isinstance(value, tuple):  # a label of an index with several levels
        return ", ".join(map(label_of, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if is_picture and isinstance(value, str | os.PathLike):
        return _file_name(os.fspath(value))
    return harmless(" ".join(str(value).split()))


def _file_name(location: str) -> str:
    if location[:5].lower() == "data:":
        return PICTURE
    path = unquote(urlsplit(location).path) if "://" in location else location
    return harmless(path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]) or harmless(location)


def key_of(value: Any) -> str | None:
    """Return a key that distinguishes a value from others; None for a missing value."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Image.Image):
        return f"{PICTURE} {id(value)}"
    items = None if isinstance(value, str) else items_of(value)
    if items is not None:
        return " ".join(str(key_of(item)) for item in items)
    return None if is_missing(value) else printable(str(value))


def removed_rows_notice(n: int) -> str:
    """Return a notice of how many pictures belong to removed rows; empty if there are none."""
    where = "it is" if n == 1 else "they are"
    return (
        f"not shown: {counted(n, 'picture')} of rows no longer in the table; {where} in images/" if n else ""
    )


class Entry:
    """What a grid shows about one row of the results."""

    def __init__(self, position: int, label: Any, row: dict[Any, Any], shown: Entries) -> None:
        seed = _text(row, columns.SEED_SENT)
        alt = shortened(label_of(row.get(columns.PROMPT, f"row {position}")), _ALT_MAX)
        values = [(name, label_of(row[name], is_picture=name in shown.pictures)) for name in shown.distinct]
        caption = [f"{name} {shortened(value, _CAPTION_MAX)}" for name, value in values]
        has_seed = shown.shows_seed[position] and seed is not None
        self.position, self.row, self.kind = position, label_of(label), _kind(row)
        self.alt = alt if seed is None else f"{alt}, seed {seed}"
        self.note = "" if self.kind == PICTURE else shortened(_note(row, self.kind), _NOTE_MAX)
        self.caption = ", ".join([f"seed {seed}", *caption] if has_seed else caption)
        self.cost = None if (cost := money(_text(row, columns.COST))) is None else dollars(cost)
        self.path, self.digest = _text(row, columns.OUTPUT_PATH), _text(row, columns.OUTPUT_SHA256)
        self.duplicate_of = None if (first := _text(row, columns.DUPLICATE_OF)) is None else int(first)
        sides = [_text(row, name) for name in (columns.OUTPUT_WIDTH, columns.OUTPUT_HEIGHT)]
        facts = [
            *((str(name), _fact(row[name], is_picture=name in shown.pictures)) for name in shown.listed),
            (columns.SEED, seed),
            (columns.COST, self.cost),
            (PICTURE, None if None in sides else f"{sides[0]} x {sides[1]} px"),
            *((name, _fact(row.get(name))) for name in _OUTCOME),
            (columns.ROW, self.row),
        ]
        self.facts = [(name, value) for name, value in facts if value and (name, value) not in _NOT_LISTED]

    @property
    def title(self) -> str:
        """The tooltip."""
        parts = (self.alt, self.caption, self.note or self.kind, self.cost)
        return ", ".join(part for part in parts if part)

    def file_in(self, folders: Sequence[Path]) -> PictureFile:
        """Return its picture file, which may not exist; `folders` are the run directories of all rows."""
        folder = folders[self.position]
        return PictureFile(folder, folder / (self.path or ""), self.digest)


class Entries:
    """Reads rows of a table as entries, on demand."""

    def __init__(
        self, results: pd.DataFrame, places: dict[tuple[int, int], list[int]], on_axes: list[Any]
    ) -> None:
        self._results, self.pictures = results, image_columns(results)
        self.distinct = _distinct_columns(results, places, on_axes)
        own = [name for name in results.columns if name not in columns.OUTPUTS and name != columns.SEED]
        if columns.RUN_DIR in results and len(results[columns.RUN_DIR].dropna().unique()) > 1:
            own.append(columns.RUN_DIR)
        self.listed = sorted(own, key=lambda name: _INPUTS.index(name) if name in _INPUTS else len(_INPUTS))
        self.shows_seed = _shows_seed(results, on_axes)
        self._known: dict[int, Entry] = {}

    def read(self, positions: Sequence[int]) -> list[Entry]:
        """Read several rows at once, which is much cheaper than one by one."""
        if len(self._known) > _ENTRIES_KEPT_MAX:
            self._known.clear()
        if unread := [position for position in positions if position not in self._known]:
            block = self._results.iloc[unread]
            cells = [block.iloc[:, place].tolist() for place in range(block.shape[1])]
            for position, label, *values in zip(unread, block.index, *cells, strict=True):
                row = dict(zip(block.columns, values, strict=True))
                self._known[position] = Entry(position, label, row, self)
        return [self._known[position] for position in positions]


def _kind(row: dict[Any, Any]) -> str:
    if is_missing(row[columns.STATUS]):
        return NO_RESULT
    if row[columns.STATUS] != columns.COMPLETED:
        return str(row[columns.STATUS])
    return UNSAVED if _text(row, columns.OUTPUT_PATH) is None else PICTURE


def _note(row: dict[Any, Any], kind: str) -> str:
    names = (columns.OUTPUT_ERROR,) if kind == UNSAVED else (columns.ERROR_CLASS, columns.ERROR_MESSAGE)
    return ": ".join(text for name in names if (text := _text(row, name)) not in (None, kind))


def _fact(value: Any, *, is_picture: bool = False) -> str | None:
    if is_missing(value):
        return None
    if isinstance(value, float):
        return f"{value:.6g}"
    return shortened(label_of(value, is_picture=is_picture), _FACT_MAX)


def _text(row: dict[Any, Any], name: str) -> str | None:
    value = row.get(name)
    return None if is_missing(value) else label_of(value)


class Axis:
    """One axis: its columns, the parts of each line's label, and the line of each row of the table."""

    def __init__(self, n_rows: int, parts: dict[Any, _AxisColumn], *, is_named: bool = False) -> None:
        self.names, self.parts = tuple(map(str, parts)), parts
        codes = np.column_stack([np.zeros(n_rows, int), *(part.codes for part in parts.values())])
        lines, of_rows = np.unique(codes, axis=0, return_inverse=True)
        self.of_rows = of_rows.reshape(-1)
        has_names = is_named or len(parts) > 1
        self.labels = tuple(
            tuple(
                f"{name} {part.labels[code]}" if part.is_bare and has_names else part.labels[code]
                for (name, part), code in zip(parts.items(), line[1:], strict=True)
            )
            for line in lines
        )

    def __len__(self) -> int:
        """Count the lines."""
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A table as a grid, or a page of one."""

    results: pd.DataFrame
    rows: Axis
    columns: Axis
    shown_rows: range
    shown_columns: range
    _places: dict[tuple[int, int], list[int]] = field(repr=False)
    _entries: Entries = field(repr=False)
    n_pages: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and columns of the whole grid."""
        return len(self.rows), len(self.columns)

    @property
    def is_one_column(self) -> bool:
        """Whether only the rows vary; they are then shown side by side, with their labels below."""
        return len(self.columns) == 1 < len(self.rows)

    @property
    def extent(self) -> str:
        """Which part of the grid this page shows; empty if it shows all of it."""
        axes = (("rows", self.shown_rows, len(self.rows)), ("columns", self.shown_columns, len(self.columns)))
        return ", ".join(
            f"{name} {shown.start + 1} to {shown.stop} of {n}" for name, shown, n in axes if len(shown) < n
        )

    def positions(self, row: int, column: int) -> list[int]:
        """Return the positions in the table of a cell's rows; none for a combination that the table lacks."""
        return self._places.get((row, column), [])

    def entries(self, row: int, column: int, *, n_max: int | None = None) -> list[Entry]:
        """Read at most `n_max` rows of a cell."""
        return self._entries.read(self.positions(row, column)[:n_max])

    def shown(self, *, n_max: int | None = None, n_first: int = 0) -> list[Entry]:
        """Read the rows that this page shows: of each cell those from `n_first` up to `n_max`."""
        cells = ((row, column) for row in self.shown_rows for column in self.shown_columns)
        return self._entries.read([place for cell in cells for place in self.positions(*cell)[n_first:n_max]])

    def entry(self, position: int) -> Entry:
        """Read the row at a position of the table."""
        return self._entries.read([position])[0]

    def page(self, number: int, n_rows: int, n_columns: int) -> Grid:
        """Return one page: pages go across first, then down."""
        n_across = max(1, -(-len(self.columns) // n_columns))
        n_pages = n_across * max(1, -(-len(self.rows) // n_rows))
        if not 1 <= number <= n_pages:
            raise UsageError(f"No page {number}; there are pages 1 to {n_pages}.")
        down, across = divmod(number - 1, n_across)
        rows, along = range(len(self.rows)), range(len(self.columns))
        return replace(
            self,
            shown_rows=rows[down * n_rows : (down + 1) * n_rows],
            shown_columns=along[across * n_columns : (across + 1) * n_columns],
            n_pages=n_pages,
        )


def lay_out(
    results: pd.DataFrame,
    rows: Names = columns.PROMPT,
    across: Names = columns.SEED,
    *,
    is_spread: bool = False,
) -> Grid:
    """Lay results out as a grid; ``...`` chooses the columns of an axis."""
    # Prompts run down and seeds across, or are counted where they would leave gaps. Whatever else tells rows of a cell
    # apart joins them; with `is_spread`, rows that still share a cell are counted across.
    check_results(results, columns.STATUS)
    names = _choose_axes(results, rows, across)
    down, along = _read_axes(results, *names)
    shared = along if names[1] else Axis(len(results), {})  # a number distinguishes nothing
    entries = Entries(results, _places(down, shared), [*names[0], *names[1]])
    if is_spread:
        down, along = _read_axes(results, *names, is_spread=True)
    if len(along) == 1 < len(down):
        down = Axis(len(results), down.parts, is_named=True)
    return Grid(results, down, along, range(len(down)), range(len(along)), _places(down, along), entries)


def _places(down: Axis, along: Axis) -> dict[tuple[int, int], list[int]]:
    places: dict[tuple[int, int], list[int]] = {}
    for position, cell in enumerate(zip(down.of_rows.tolist(), along.of_rows.tolist(), strict=True)):
        places.setdefault(cell, []).append(position)
    return places


def _distinct_columns(
    results: pd.DataFrame, places: dict[tuple[int, int], list[int]], on_axes: list[Any]
) -> list[Any]:
    """Return the columns besides the seed that distinguish rows sharing a cell."""
    crowded = [
        (number, position)
        for number, rows in enumerate(places.values())
        if len(rows) > 1
        for position in rows
    ][:_ROWS_COMPARED_MAX]
    if not crowded:
        return []
    cells = np.array([number for number, _ in crowded])
    rows = results.iloc[[position for _, position in crowded]]
    known = {columns.SEED, *columns.OUTPUTS, *rating_columns(results)} - {columns.RUN_DIR} | {*on_axes}
    return [name for name in results.columns if name not in known and _differ(rows[name].map(key_of), cells)]


def telling_apart(results: pd.DataFrame) -> dict[Any, str]:
    """Return the prompt and the columns that distinguish rows of the same prompt and seed, with prefixes for values."""
    down, along = (_available(results, [name]) for name in (columns.PROMPT, columns.SEED))
    distinct = _distinct_columns(results, _places(*_read_axes(results, down, along)), [*down, *along])
    return dict.fromkeys(down, "") | {name: f"{name} " for name in distinct}


def _shows_seed(results: pd.DataFrame, on_axes: Sequence[Any]) -> list[bool]:
    """Return for each row whether the axes don't show its seed."""
    if columns.SEED_SENT not in results.columns:
        return [False] * len(results)
    if columns.SEED not in on_axes:
        return [len(results[columns.SEED_SENT].dropna().unique()) > 1] * len(results)
    return list(map(bool, _named_seeds(results).isna() & results[columns.SEED_SENT].notna()))


@dataclass(frozen=True, slots=True, eq=False)
class _AxisColumn:
    """The values of one column: a code for each row, a label for each code; codes sort as values do."""

    codes: NDArray[np.intp]
    labels: Sequence[str]
    is_bare: bool = False  # numbers and truth values, which mean nothing without the column's name


def _read_axes(
    results: pd.DataFrame, rows: Sequence[Any], across: Sequence[Any], *, is_spread: bool = False
) -> tuple[Axis, Axis]:
    names = [*rows, *across]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"rows or columns: {doubled[0]!r} is named twice; it can be on one axis only.")
    parts = {name: _part(results, name) for name in names if not _is_seed(results, name)}
    for name in names:
        if _is_seed(results, name):
            parts[name] = _seeds(results, [part.codes for part in parts.values()])
    down = Axis(len(results), {name: parts[name] for name in rows})
    along = Axis(len(results), {name: parts[name] for name in across})
    if across and not is_spread:
        return down, along
    cells = numbered([down.of_rows, along.of_rows])
    places = pd.Series(cells).groupby(cells).cumcount()
    codes = _job_numbers(results, cells) if is_spread else places.to_numpy(dtype=np.intp)
    numbers = _AxisColumn(codes, [str(n + 1) for n in range(int(codes.max(initial=-1)) + 1)], is_bare=True)
    if across and len(numbers.labels) <= 1:
        return down, along
    return down, Axis(len(results), {**{name: parts[name] for name in across}, NUMBER: numbers})


def _part(results: pd.DataFrame, name: Any) -> _AxisColumn:
    values = results[name] if name in results.columns else _sizes(results, name)
    is_number = pd.api.types.is_numeric_dtype(values)
    is_date = pd.api.types.is_datetime64_any_dtype(values)
    if is_number or is_date or isinstance(values.dtype, pd.CategoricalDtype):
        codes, distinct = pd.factorize(values, sort=True)
        labels = [label_of(value) for value in distinct]
    else:
        codes, distinct = pd.factorize(values.map(key_of))
        labels = _labels(values, codes, is_picture=name in image_columns(results))
    codes = np.where(codes < 0, len(distinct), codes).astype(np.intp)
    return _AxisColumn(codes, [*labels, label_of(None)], is_bare=is_number)


def _labels(values: pd.Series, codes: NDArray[np.intp], *, is_picture: bool) -> list[str]:
    """Label each code by its first value; equal labels are numbered."""
    firsts = np.unique(codes[codes >= 0], return_index=True)[1]
    labels = [label_of(value, is_picture=is_picture) for value in values[codes >= 0].iloc[firsts]]
    n_of = Counter(labels)
    return [f"{label} ({number})" if n_of[label] > 1 else label for number, label in enumerate(labels, 1)]


def _sizes(results: pd.DataFrame, name: Any) -> pd.Series:
    pair = next((pair for pair in _SIZES if set(pair) <= set(results.columns)), None)
    if name == columns.SEED or pair is None:
        raise UsageError(f"rows or columns: the table has no {name}; name one of its columns.")
    return columns.sizes(results, *pair)


def _is_seed(results: pd.DataFrame, name: Any) -> bool:
    return bool(name == columns.SEED and columns.SEED_SENT in results.columns)


def _seeds(results: pd.DataFrame, others: Sequence[NDArray[np.intp]]) -> _AxisColumn:
    """Read the seeds: given seeds by number, drawn seeds counted."""
    named = _named_seeds(results)
    is_asked = named.notna().to_numpy()
    asked, numbers = np.unique(named[is_asked].to_numpy(dtype=np.int64), return_inverse=True)
    keys = pd.DataFrame(dict(enumerate(others)), index=range(len(results)))[~is_asked]
    drawn = keys.groupby(list(keys.columns)).cumcount().to_numpy() if len(others) else np.arange(len(keys))
    codes = np.zeros(len(results), dtype=np.intp)
    codes[is_asked], codes[~is_asked] = numbers, drawn + len(asked)
    labels = [f"drawn {n + 1}" for n in range(int(drawn.max(initial=-1)) + 1)]
    return _AxisColumn(codes, [*map(str, asked), *labels], is_bare=bool(is_asked.all()))


def _named_seeds(results: pd.DataFrame) -> pd.Series:
    """Return the seeds given in the table; without such a column, a seed that recurs counts as given."""
    sent = columns.integers(results[columns.SEED_SENT])
    if columns.SEED not in results.columns:
        return sent.where((sent >= 0) & sent.duplicated(keep=False).any())
    named = restore_input_dtype(columns.SEED, results[columns.SEED])
    return sent.fillna(named).where(named >= 0)  # an invalid row was never sent


def _job_numbers(results: pd.DataFrame, cells: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number the jobs within each cell; rows of the same job have the same number."""
    keys = pd.Series(range(len(results))).astype(columns.STR)
    if columns.JOB_ID in results.columns:
        names = [name for name in (columns.RUN_DIR, columns.JOB_ID) if name in results.columns]
        ids = [results[name].reset_index(drop=True).astype(columns.STR).fillna("") for name in names]
        keys = (ids[0] + " " + ids[-1]).where(results[columns.JOB_ID].notna().to_numpy(), keys)
    jobs = numbered([cells, pd.factorize(keys)[0]])
    firsts = pd.DataFrame({"cell": cells, "job": jobs}).drop_duplicates("job")
    return np.asarray(firsts.groupby("cell").cumcount())[jobs]


def _choose_axes(results: pd.DataFrame, rows: Names, across: Names) -> tuple[list[Any], list[Any]]:
    known = [*results, columns.SEED, columns.SIZE]
    down = _available(results, [columns.PROMPT]) if rows is ... else names_in("rows", rows, known)
    along = _available(results, [columns.SEED]) if across is ... else names_in("columns", across, known)
    open_axes = [axis for axis, wanted in ((down, rows), (along, across)) if wanted is ...]
    if not open_axes or not len(results):
        return down, along
    _join_inputs(results, down, along, open_axes)
    n_numbers, n_seeds = (len(_read_axes(results, down, axis)[1]) for axis in ([], along))
    if across is ... and n_numbers < n_seeds and _is_sparse(results, down, along):
        along.clear()
        if rows is ... and len(down) > 1 and _is_sparse(results, down, along):
            down.append(columns.SEED)  # one line per job, which stand side by side
    elif across is not None:
        _join_others(results, down, along, open_axes[0])
    return down, along


def _available(results: pd.DataFrame, names: Sequence[Any]) -> list[Any]:
    known = {*results.columns}
    known |= {columns.SEED} if columns.SEED_SENT in known else set()
    known |= {columns.SIZE} if {columns.WIDTH, columns.HEIGHT} <= known else set()
    return [name for name in names if name in known]


def _join_inputs(
    results: pd.DataFrame, down: list[Any], along: list[Any], open_axes: list[list[Any]]
) -> None:
    """Add inputs that vary within a cell to the axes, counting all drawn seeds as one."""
    cells = numbered([np.zeros(len(results), int), *(_codes(results, name) for name in (*down, *along))])
    wanted = [columns.RUN_DIR, columns.PROMPT, *image_columns(results), *_SIZED, *columns.INPUTS_OF_SOME]
    for name in _available(results, [*wanted, columns.USE_REPHRASER, columns.SEED, columns.REPLICATE]):
        if name in down or name in along:
            continue
        codes = _codes(results, name)
        if _differ(codes, cells):
            own = along if name in {columns.SEED, columns.REPLICATE} else down
            (own if any(own is axis for axis in open_axes) else open_axes[0]).append(name)
            cells = numbered([cells, codes])


def _join_others(results: pd.DataFrame, down: list[Any], along: list[Any], axis: list[Any]) -> None:
    """Add the user's own columns that distinguish rows of a cell to the axes."""
    for name in results.columns:
        if name in columns.OUTPUTS or name in columns.INPUTS or name in columns.RATED:
            continue
        cells = numbered([line.of_rows for line in _read_axes(results, down, along)])
        if not pd.Series(cells).duplicated().any():
            return
        if name not in down and name not in along and _differ(_codes(results, name), cells):
            axis.append(name)
            if _is_sparse(results, down, along):
                axis.remove(name)


def _codes(results: pd.DataFrame, name: Any) -> NDArray[np.intp]:
    is_seed = _is_seed(results, name)
    return pd.factorize(_named_seeds(results))[0] if is_seed else _part(results, name).codes


def _differ(values: Any, cells: NDArray[np.intp]) -> bool:
    """Return whether any cell contains different values."""
    different = pd.DataFrame({"cell": cells, "value": np.asarray(values)}).drop_duplicates()
    return bool(different["cell"].duplicated().any())


def _is_sparse(results: pd.DataFrame, down: list[Any], along: list[Any]) -> bool:
    lines = _read_axes(results, down, along)
    return len(lines[0]) * len(lines[1]) > _CELLS_MAX * len(results)


# The reference pictures of results, found without network: in the run directory, or else in the table's cells.


@dataclass(frozen=True, slots=True)
class ReferencePicture:
    """A reference picture: its key, its name, and its path or content (None for a URL)."""

    key: str
    label: str
    content: Any

    def image(self, side_px: int) -> Image.Image | None:
        """Read it, at most `side_px` a side; None for a URL or a missing file."""
        return None if self.content is None else small_picture(self.content, side_px)

    def thumbnail(self, bytes_max: int) -> Thumbnail | None:
        """Make its thumbnail; None for a URL or a missing file."""
        if isinstance(self.content, Path):
            return thumbnails_of([PictureFile(Path(), self.content, None)], bytes_max)[0]
        return None if self.content is None else make_thumbnail(self.content, bytes_max)


class References:
    """The reference pictures of a table's rows."""

    def __init__(self, results: pd.DataFrame, folders: Sequence[Path]) -> None:
        self._cells = [results[name].to_numpy(dtype=object) for name in image_columns(results)]
        self._jobs = results[columns.JOB_ID].to_numpy(dtype=object) if columns.JOB_ID in results else None
        self._folders = folders
        self._recorded = {
            folder: references_by_job(read_distinct_jobs(RunDirectory(folder).jobs))
            for folder in dict.fromkeys(folders)
        }
        self._known: dict[str, ReferencePicture] = {}

    def of_rows(self, positions: Iterable[int]) -> dict[str, ReferencePicture]:
        """Return the references of some rows by key, in order."""
        return {reference.key: reference for position in positions for reference in self._of_row(position)}

    def _of_row(self, position: int) -> Iterator[ReferencePicture]:
        cells = [picture for column in self._cells for picture in pictures_in(column[position])]
        job_id = None if self._jobs is None else self._jobs[position]
        recorded = self._recorded[self._folders[position]].get(str(job_id), ())
        known = [(image.digest, image.sent_location, image.sent_digest) for image in recorded]
        known = known or [(key, "", "") for cell in cells if (key := key_of(cell)) is not None]
        for number, (key, sent, digest) in enumerate(known):
            if key not in self._known:
                cell = cells[number] if len(cells) == len(known) else None
                label = label_of(sent if cell is None else cell, is_picture=True)
                content = _content(cell, sent)
                if sent and isinstance(content, Path) and content.is_file():
                    is_sent = any(is_unaltered(content.parent, content.name, one) for one in (digest, key))
                    label += "" if is_sent else " (changed since sent)"
                self._known[key] = ReferencePicture(key, label, content)
            yield self._known[key]


class ReferencePlacement:
    """Where a page of a grid shows its reference pictures: once, beside rows or above columns (by number)."""

    def __init__(self, grid: Grid, references: References) -> None:
        by_row: dict[int, dict[str, ReferencePicture]] = {row: {} for row in grid.shown_rows}
        by_column: dict[int, dict[str, ReferencePicture]] = {column: {} for column in grid.shown_columns}
        cells = {
            (row, column): found
            for row in grid.shown_rows
            for column in grid.shown_columns
            if (found := references.of_rows(grid.positions(row, column)))
        }
        for (row, column), found in cells.items():
            by_row[row] |= found
            by_column[column] |= found
        different = {key: reference for found in cells.values() for key, reference in found.items()}
        self.all, lines = list(different.values()), (*by_row.values(), *by_column.values())
        is_once = all(line.keys() == different.keys() for line in lines if line)
        rows_differ = any(by_row[row].keys() != found.keys() for (row, _), found in cells.items())
        columns_agree = all(by_column[column].keys() == found.keys() for (_, column), found in cells.items())
        is_above = rows_differ and columns_agree and not is_once
        self.once = self.all if is_once else []
        self.by_column = {at: [*line.values()] for at, line in by_column.items() if is_above}
        self.by_row = {at: [*line.values()] for at, line in by_row.items() if not (is_once or is_above)}


def _content(cell: Any, sent: str) -> Any:
    """Return a path, or a picture in memory; None for a URL or anything else."""
    if not is_missing(sent) and Path(str(sent)).is_absolute() and Path(str(sent)).is_file():
        return Path(str(sent))
    source = None if is_missing(cell) else read_source(cell, Path.cwd())
    if not isinstance(source, Source) or source.kind == URL:
        return None
    return Path(source.location) if source.kind == FILE else source.content


def thumbnails_of(pictures: Sequence[PictureFile], bytes_max: int) -> list[Thumbnail | None]:
    """Return thumbnails of files, stored or new; None for a missing or damaged file."""
    picture_cache.complete(pictures)
    found: list[Thumbnail | None] = []
    with threads(_WORKERS) as pool, ticking(len(pictures), "thumbnails") as tick:
        for start in range(0, len(pictures), _AT_ONCE):
            part = pictures[start : start + _AT_ONCE]
            of_file = functools.partial(_of_file, bytes_max=bytes_max, side_px=THUMBNAIL_PX)
            made = pool.map(of_file, (file.path for file in part), read_thumbnails(part))
            for thumbnail in made:
                found.append(thumbnail)
                tick()
    return found


def panel_jpeg(path: Path) -> bytes:
    """Return a picture's thumbnail for the panel as JPEG; empty for a missing or damaged file."""
    thumbnail = _of_file(path, None, THUMBNAIL_BYTES_MAX, _PANEL_PX)
    return b"" if thumbnail is None else thumbnail.content


def _of_file(path: Path, kept: Thumbnail | None, bytes_max: int, side_px: int) -> Thumbnail | None:
    """Return a file's thumbnail, made once while the file is unchanged; None if the file is missing."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    if kept is not None and len(kept.content) <= bytes_max:
        return kept
    return _reduce(kept or path, bytes_max, side_px, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=4_096)
def _reduce(source: Path | Thumbnail, bytes_max: int, side_px: int, *_version: int) -> Thumbnail | None:
    if isinstance(source, Path):
        return make_thumbnail(source, bytes_max, side_px)
    side = int(THUMBNAIL_PX * math.sqrt(bytes_max / len(source.content)))
    return make_thumbnail(source.content, bytes_max, side) or source


def small_pictures(pictures: Sequence[PictureFile], side_px: int) -> list[Image.Image | None]:
    """Read pictures for drawing, from stored thumbnails if large enough; None for unreadable ones."""
    kept = read_thumbnails(pictures) if side_px <= THUMBNAIL_PX else [None] * len(pictures)

    def read(picture: PictureFile, thumbnail: Thumbnail | None) -> Image.Image | None:
        source = picture.path if thumbnail is None else thumbnail.content
        return small_picture(source, side_px, resample=_resample(source))

    with threads(_WORKERS) as pool:
        return list(pool.map(read, pictures, kept))


def _resample(source: object) -> Image.Resampling:
    """Choose a filter: thumbnails are shrunk with a faster one, since there is less to lose."""
    return Image.Resampling.HAMMING if isinstance(source, bytes) else Image.Resampling.LANCZOS


def make_thumbnail(picture: Any, bytes_max: int, side_px: int = THUMBNAIL_PX) -> Thumbnail | None:
    """Make a thumbnail as large as a limit of bytes allows; None if the picture can't be read."""
    # Sizes far above the limit aren't worth encoding.
    side = max(_SIDE_MIN, min(side_px, math.isqrt(int(4 * bytes_max / _BYTES_PER_PIXEL))))
    quality, resample = picture_cache.THUMBNAIL_QUALITY, _resample(picture)
    small = small_picture(picture, side, resample=resample)
    if small is None:
        return None
    while len(jpeg := encoded(small, quality=quality, optimize=True)) > bytes_max and side > _SIDE_MIN:
        side = max(_SIDE_MIN, int(side * min(0.9, 1.1 * math.sqrt(bytes_max / len(jpeg)))))
        quality = _QUALITY_MIN + side // 10  # a small picture may have a low quality
        small.thumbnail((side, side), resample)
    return Thumbnail(jpeg, *small.size)
