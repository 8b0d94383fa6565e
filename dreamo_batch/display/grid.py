"""How values of a table read, whatever they are: as a label, as a key, shortened."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
from PIL import Image

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.jobs.cells import is_missing
from dreamo_batch.jobs.fields import image_columns
from dreamo_batch.jobs.sources import only_item
from dreamo_batch.text import harmless

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import EllipsisType

    from numpy.typing import NDArray

    Names = str | Sequence[Any] | EllipsisType | None


NONE: Final = "(none)"
_DATA: Final = "data:"
_IN_MEMORY: Final = "picture"


def label_of(value: Any, *, is_picture: bool = False) -> str:
    """Give a value as one line of text."""
    value = only_item(value) if is_picture else value
    if isinstance(value, (bytes, bytearray, memoryview, Image.Image)):
        return _IN_MEMORY
    if is_missing(value):
        return NONE
    if isinstance(value, tuple):  # a label of an index with several levels
        return ", ".join(map(label_of, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if is_picture and isinstance(value, str | os.PathLike):
        return _name(os.fspath(value))
    return harmless(" ".join(str(value).split()))


def key_of(value: Any) -> str | None:
    """Give what tells a value from others; None for a missing one."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Image.Image):
        return f"{_IN_MEMORY} {id(value)}"
    return None if is_missing(value) else str(value)


def shortened(text: str, n_characters: int) -> str:
    """Cut a text."""
    return text if len(text) <= n_characters else text[: n_characters - 1].rstrip() + "…"


def left_words(n: int) -> str:
    """Say how many pictures belong to rows that a table has no more; nothing if there are none."""
    if not n:
        return ""
    words = ("1 picture", "it is") if n == 1 else (f"{n} pictures", "they are")
    return f"not shown: {words[0]} of rows that are no longer in the table; {words[1]} in images/"


def _name(location: str) -> str:
    if location[: len(_DATA)].lower() == _DATA:
        return _IN_MEMORY
    path = unquote(urlsplit(location).path) if "://" in location else location
    return harmless(path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]) or harmless(location)


NUMBER: Final = "number"
"""Name of an axis that only counts."""
_DRAWN: Final = "drawn {}"
_CELLS_MAX: Final = 2  # for each row of the table, from which on a grid is mostly gaps


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis."""

    names: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    of_rows: NDArray[np.intp]

    def __len__(self) -> int:
        """Count the lines."""
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The values of one column: a code for each row, a label for each code; codes sort as values do.

    Bare values are numbers and truth values, which mean nothing without the column's name.
    """

    codes: NDArray[np.intp]
    labels: Sequence[str]
    is_bare: bool = False

    def label(self, code: int, name: Any, *, is_alone: bool) -> str:
        """Give a label; a number or truth value beside others says what it is of."""
        return f"{name} {self.labels[code]}" if self.is_bare and not is_alone else self.labels[code]


def read_axes(
    results: pd.DataFrame, rows: Sequence[Any], across: Sequence[Any], *, is_spread: bool = False
) -> tuple[Axis, Axis]:
    """Find the lines of both axes."""
    _refuse(results, [*rows, *across])
    parts = {name: _part(results, name) for name in (*rows, *across) if not _is_seed(results, name)}
    for name in (*rows, *across):
        if _is_seed(results, name):
            parts[name] = _seeds(results, [part.codes for part in parts.values()])
    down = _axis(len(results), {name: parts[name] for name in rows})
    along = _axis(len(results), {name: parts[name] for name in across})
    if across and not is_spread:
        return down, along
    cells = _cells([down.of_rows, along.of_rows], len(results))
    numbers = _counted_jobs(results, cells) if is_spread else _counted(cells)
    if across and len(numbers.labels) <= 1:
        return down, along
    return down, _axis(len(results), {**{name: parts[name] for name in across}, NUMBER: numbers})


def choose_axes(results: pd.DataFrame, rows: Names, across: Names) -> tuple[list[Any], list[Any]]:
    """Choose the columns of each axis that was left open with ``...``.

    Prompts stand down and seeds across. What was asked for in other ways under the same prompt and seed (picture,
    size, rephraser, replicate, run directory) joins them, and so does any other column that tells rows apart which
    would else share a cell, unless that leaves mostly gaps. Seeds that would leave mostly gaps are counted instead.
    """
    down = _there(results, [columns.PROMPT]) if rows is ... else listed(rows)
    along = _there(results, [columns.SEED]) if across is ... else listed(across)
    open_axes = [axis for axis, given in ((down, rows), (along, across)) if given is ...]
    if not open_axes or not len(results):
        return down, along
    _join_inputs(results, down, along, open_axes)
    if across is ... and _is_sparse(results, down, along):
        along = []
    elif across is not None:
        _join_others(results, down, along, open_axes[0])
    return down, along


def listed(names: str | Sequence[Any] | None) -> list[Any]:
    """Give one name, several or none as a list."""
    if names is None:
        return []
    return list(names) if isinstance(names, list | tuple) else [names]


def _there(results: pd.DataFrame, names: Sequence[Any]) -> list[Any]:
    is_size_told = {columns.WIDTH, columns.HEIGHT} <= set(results.columns)
    told = {columns.SEED: columns.SEED_SENT in results.columns, columns.SIZE: is_size_told}
    return [name for name in names if name in results.columns or told.get(name, False)]


def _join_inputs(
    results: pd.DataFrame, down: list[Any], along: list[Any], open_axes: list[list[Any]]
) -> None:
    """Join what was asked for in different ways within a cell, where all drawn seeds count as one."""
    names = (
        columns.RUN_DIR,
        columns.PROMPT,
        *image_columns(results),
        columns.SIZE,
        columns.WIDTH,
        columns.HEIGHT,
    )
    candidates = _there(results, [*names, columns.USE_REPHRASER, columns.SEED, columns.REPLICATE])
    cells = _cells([_codes(results, name) for name in (*down, *along)], len(results))
    for name in candidates:
        if name in down or name in along:
            continue
        codes = _codes(results, name)
        if _codes_differ(codes, cells):
            wanted = along if name in {columns.SEED, columns.REPLICATE} else down
            (wanted if any(wanted is axis for axis in open_axes) else open_axes[0]).append(name)
            cells = _cells([cells, codes], len(results))


def _join_others(results: pd.DataFrame, down: list[Any], along: list[Any], axis: list[Any]) -> None:
    """Join columns of the user's own that tell rows of one cell apart."""
    own = [name for name in results.columns if name not in columns.OUTPUTS and name not in columns.INPUTS]
    for name in own:
        lines = read_axes(results, down, along)
        cells = _cells([line.of_rows for line in lines], len(results))
        if not pd.Series(cells).duplicated().any():
            return
        if name in down or name in along or not _codes_differ(_codes(results, name), cells):
            continue
        axis.append(name)
        if _is_sparse(results, down, along):
            axis.remove(name)


def _codes(results: pd.DataFrame, name: Any) -> NDArray[np.intp]:
    if not _is_seed(results, name):
        return _part(results, name).codes
    sent = results[columns.SEED_SENT].astype(columns.INT)
    codes: NDArray[np.intp] = pd.factorize(sent.where(_is_asked(results, sent)))[0]
    return codes


def _cells(codes: Sequence[NDArray[np.intp]], n_rows: int) -> NDArray[np.intp]:
    if not codes:
        return np.zeros(n_rows, dtype=np.intp)
    by_row = pd.DataFrame(dict(enumerate(codes)))
    numbers: NDArray[np.intp] = by_row.groupby(list(by_row.columns)).ngroup().to_numpy()
    return numbers


def _codes_differ(codes: NDArray[np.intp], cells: NDArray[np.intp]) -> bool:
    different = pd.DataFrame({"cell": cells, "code": codes}).drop_duplicates()
    return bool(different["cell"].duplicated().any())


def _is_sparse(results: pd.DataFrame, down: list[Any], along: list[Any]) -> bool:
    lines = read_axes(results, down, along)
    return len(lines[0]) * len(lines[1]) > _CELLS_MAX * len(results)


def _refuse(results: pd.DataFrame, names: Sequence[Any]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name!r} is named twice; a column can stand on one axis of a grid only.")
        if name not in results.columns and name not in (columns.SEED, columns.SIZE):
            known = ", ".join(str(column) for column in results.columns)
            raise UsageError(f"rows or columns: there is no column {name!r}; the columns are {known}.")


def _is_seed(results: pd.DataFrame, name: Any) -> bool:
    return bool(name == columns.SEED and columns.SEED_SENT in results.columns)


def _axis(n_rows: int, parts: dict[Any, _Part]) -> Axis:
    names = tuple(str(name) for name in parts)
    if not n_rows:
        return Axis(names, (), np.zeros(0, dtype=np.intp))
    if not parts:
        return Axis((), ((),), np.zeros(n_rows, dtype=np.intp))
    lines, of_rows = np.unique(
        np.column_stack([part.codes for part in parts.values()]), axis=0, return_inverse=True
    )
    is_alone = len(parts) == 1
    labels = [
        tuple(
            part.label(code, name, is_alone=is_alone)
            for (name, part), code in zip(parts.items(), line, strict=True)
        )
        for line in lines
    ]
    return Axis(names, tuple(labels), of_rows.reshape(-1))


def _part(results: pd.DataFrame, name: Any) -> _Part:
    values = results[name] if name in results.columns else _missing_column(results, name)
    if _is_sorted(values):
        codes, distinct = pd.factorize(values, sort=True)
        labels = [label_of(value) for value in distinct]
    else:
        codes, distinct = pd.factorize(values.map(key_of))
        labels = _labels(values, codes, len(distinct), is_picture=name in image_columns(results))
    codes = np.where(codes < 0, len(distinct), codes).astype(np.intp)
    return _Part(codes, [*labels, label_of(None)], is_bare=pd.api.types.is_numeric_dtype(values))


def _missing_column(results: pd.DataFrame, name: Any) -> pd.Series:
    """Make a size or seed of what else tells it."""
    pairs = [(columns.WIDTH, columns.HEIGHT), (columns.OUTPUT_WIDTH, columns.OUTPUT_HEIGHT)]
    pair = next((pair for pair in pairs if set(pair) <= set(results.columns)), None)
    if name == columns.SEED or pair is None:
        raise UsageError(f"rows or columns: the table tells no {name}; name a column that it has.")
    width, height = (results[side].astype(columns.INT).astype(columns.STR) for side in pair)
    return width + "x" + height


def _is_sorted(values: pd.Series) -> bool:
    kinds = pd.api.types
    return bool(
        kinds.is_numeric_dtype(values)
        or kinds.is_datetime64_any_dtype(values)
        or isinstance(values.dtype, pd.CategoricalDtype)
    )


def _labels(values: pd.Series, codes: NDArray[np.intp], n: int, *, is_picture: bool) -> list[str]:
    firsts = np.unique(codes[codes >= 0], return_index=True)[1]
    given = values[codes >= 0].iloc[firsts]
    labels = [label_of(value, is_picture=is_picture) for value in given]
    doubled = {label for label in labels if labels.count(label) > 1} if n < _COMPARED_MAX else set()
    return [f"{label} ({place})" if label in doubled else label for place, label in enumerate(labels, 1)]


_COMPARED_MAX: Final = 1_000


def _seeds(results: pd.DataFrame, others: Sequence[NDArray[np.intp]]) -> _Part:
    sent = results[columns.SEED_SENT].astype(columns.INT)
    is_asked = _is_asked(results, sent).to_numpy()
    asked, numbers = np.unique(sent[is_asked].to_numpy(dtype=np.int64), return_inverse=True)
    keys = pd.DataFrame(dict(enumerate(others)), index=range(len(results)))[~is_asked]
    counted = keys.groupby(list(keys.columns)).cumcount().to_numpy() if len(others) else np.arange(len(keys))
    codes = np.zeros(len(results), dtype=np.intp)
    codes[is_asked], codes[~is_asked] = numbers, counted + len(asked)
    n_drawn = int(counted.max()) + 1 if len(counted) else 0
    return _Part(codes, [*map(str, asked), *(_DRAWN.format(n + 1) for n in range(n_drawn))])


def _is_asked(results: pd.DataFrame, sent: pd.Series) -> pd.Series:
    """Say which seeds the table named; where it has no such column, one that is met twice was hardly drawn."""
    is_sent = (sent >= 0).fillna(value=False).astype(bool)
    if columns.SEED in results.columns:
        return is_sent & (pd.to_numeric(results[columns.SEED], errors="coerce") >= 0).fillna(value=False)
    return is_sent & sent.duplicated(keep=False).any()


def drawn(results: pd.DataFrame) -> pd.Series:
    """Say of each row whether its seed was drawn rather than asked for."""
    sent = results[columns.SEED_SENT].astype(columns.INT)
    return ~_is_asked(results, sent) & sent.notna()


def _counted_jobs(results: pd.DataFrame, cells: NDArray[np.intp]) -> _Part:
    """Count the jobs of each cell; rows of the same one have the same number."""
    places = pd.Series(range(len(results))).astype(columns.STR)
    names = [name for name in (columns.RUN_DIR, columns.JOB_ID) if name in results.columns]
    jobs = [results[name].reset_index(drop=True).astype(columns.STR).fillna("") for name in names]
    keys = places
    if columns.JOB_ID in names:
        keys = (jobs[0] + " " + jobs[-1]).where(results[columns.JOB_ID].notna().to_numpy(), places)
    of_rows = pd.DataFrame({"cell": cells, "key": keys})
    lines = of_rows.drop_duplicates()
    numbers = lines.assign(number=lines.groupby("cell").cumcount())
    counted = of_rows.merge(numbers, on=["cell", "key"], how="left")["number"].to_numpy(dtype=np.intp)
    return _Part(counted, [str(n + 1) for n in range(int(counted.max(initial=-1)) + 1)], is_bare=True)


def _counted(of_rows: NDArray[np.intp]) -> _Part:
    counted = pd.Series(of_rows).groupby(of_rows).cumcount().to_numpy()
    return _Part(counted, [str(n + 1) for n in range(int(counted.max(initial=-1)) + 1)], is_bare=True)


PICTURE: Final = "picture"
UNSAVED: Final = "unsaved"
GONE: Final = "gone"
NO_RESULT: Final = "no_result"
"""Kinds beside the statuses: a picture, one that was made and not saved, one whose file is gone or damaged, and a row
without results, as a merge can leave it."""

_KNOWN_MAX: Final = 20_000
_ALT_CHARACTERS: Final = 120
_FACT_CHARACTERS: Final = 1_500
_NOTE_CHARACTERS: Final = 240
_TOLD_CHARACTERS: Final = 200
_ASKED: Final = (
    columns.PROMPT,
    columns.SIZE,
    columns.WIDTH,
    columns.HEIGHT,
    columns.USE_REPHRASER,
    columns.REPLICATE,
)
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
# What goes without saying.
_USUAL: Final = {columns.MAY_HAVE_BEEN_BILLED: str(False), columns.ATTEMPTS: "1"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the results."""

    position: int
    row: str
    kind: str
    alt: str
    note: str
    told: str
    facts: tuple[tuple[str, str], ...]
    seed: str | None
    cost: str | None
    path: str | None
    digest: str | None
    duplicate_of: int | None

    @property
    def title(self) -> str:
        """What a pointer that rests on it is told."""
        parts = (self.alt, self.told, self.note or self.kind, self.cost and f"${self.cost}")
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """Reads rows of a table as entries, each when it is asked for."""

    results: pd.DataFrame
    telling: tuple[Any, ...]
    listed: tuple[Any, ...]
    pictures: tuple[Any, ...]
    tells_seed: Any
    _known: OrderedDict[int, Entry] = field(default_factory=OrderedDict, repr=False)

    def entry(self, position: int) -> Entry:
        """Read the row at a position; what was read lately is remembered."""
        if position not in self._known:
            self.prepare([position])
        return self._known[position]

    def prepare(self, positions: Sequence[int]) -> None:
        """Read many rows at once, which costs far less than one by one."""
        unread = [position for position in positions if position not in self._known]
        block = self.results.iloc[unread]
        cells = [block.iloc[:, place].tolist() for place in range(block.shape[1])]
        for position, values in zip(unread, zip(*cells, strict=True), strict=True):
            self._known[position] = self._read(position, dict(zip(block.columns, values, strict=True)))
        while len(self._known) > max(_KNOWN_MAX, len(positions)):
            self._known.popitem(last=False)

    def _read(self, position: int, row: dict[Any, Any]) -> Entry:
        seed, kind = _text(row, columns.SEED_SENT), _kind(row)
        duplicate_of = _text(row, columns.DUPLICATE_OF)
        return Entry(
            position=position,
            row=label_of(self.results.index[position]),
            kind=kind,
            alt=_alt(row, seed, position),
            note="" if kind == PICTURE else shortened(_note(row, kind), _NOTE_CHARACTERS),
            told=self._told(row, position, seed),
            facts=self._facts(row, position),
            seed=seed,
            cost=_text(row, columns.COST),
            path=_text(row, columns.OUTPUT_PATH),
            digest=_text(row, columns.OUTPUT_SHA256),
            duplicate_of=None if duplicate_of is None else int(duplicate_of),
        )

    def _told(self, row: dict[Any, Any], position: int, seed: str | None) -> str:
        parts = [f"seed {seed}"] if self.tells_seed[position] and seed is not None else []
        for name in self.telling:
            value = label_of(row[name], is_picture=name in self.pictures)
            parts += [f"{name} {shortened(value, _TOLD_CHARACTERS)}"] if name != columns.SEED else []
        return ", ".join(parts)

    def _facts(self, row: dict[Any, Any], position: int) -> tuple[tuple[str, str], ...]:
        asked = [(str(name), _fact(row[name], is_picture=name in self.pictures)) for name in self.listed]
        facts = [
            *asked,
            (columns.SEED, _text(row, columns.SEED_SENT)),
            (columns.COST, None if (cost := _text(row, columns.COST)) is None else f"${cost}"),
            (PICTURE, _pixels(row)),
            *((name, _fact(row.get(name))) for name in _OUTCOME),
            (columns.ROW, label_of(self.results.index[position])),
        ]
        return tuple(
            (name, value) for name, value in facts if value is not None and value != _USUAL.get(name)
        )


def reader(results: pd.DataFrame, telling: Sequence[Any], *, on_axes: Sequence[Any]) -> Reader:
    """Make a reader of a table's rows."""
    own = [name for name in results.columns if name not in columns.OUTPUTS and name != columns.SEED]
    if columns.RUN_DIR in results and len(results[columns.RUN_DIR].dropna().unique()) > 1:
        own.append(columns.RUN_DIR)
    named = [name for name in _ASKED if name in own]
    others = [name for name in own if name not in named]
    return Reader(
        results,
        tuple(telling),
        (*named, *others),
        tuple(image_columns(results)),
        _tells_seed(results, on_axes),
    )


def _tells_seed(results: pd.DataFrame, on_axes: Sequence[Any]) -> list[bool]:
    """Say of which rows the axes leave open which seed they have."""
    if columns.SEED_SENT not in results.columns:
        return [False] * len(results)
    if columns.SEED in on_axes:
        return [bool(is_drawn) for is_drawn in drawn(results).tolist()]
    return [len(results[columns.SEED_SENT].dropna().unique()) > 1] * len(results)


def _kind(row: dict[Any, Any]) -> str:
    if is_missing(row[columns.STATUS]):
        return NO_RESULT
    status = str(row[columns.STATUS])
    if status != columns.COMPLETED:
        return status
    return UNSAVED if _text(row, columns.OUTPUT_PATH) is None else PICTURE


def _alt(row: dict[Any, Any], seed: str | None, position: int) -> str:
    prompt = label_of(row[columns.PROMPT]) if columns.PROMPT in row else f"row {position}"
    told = shortened(prompt, _ALT_CHARACTERS)
    return told if seed is None else f"{told}, seed {seed}"


def _note(row: dict[Any, Any], kind: str) -> str:
    names = (columns.OUTPUT_ERROR,) if kind == UNSAVED else (columns.ERROR_CLASS, columns.ERROR_MESSAGE)
    return ": ".join(text for name in names if (text := _text(row, name)) is not None)


def _fact(value: Any, *, is_picture: bool = False) -> str | None:
    if is_missing(value):
        return None
    if isinstance(value, float):
        return f"{value:.6g}"
    return shortened(label_of(value, is_picture=is_picture), _FACT_CHARACTERS)


def _pixels(row: dict[Any, Any]) -> str | None:
    width, height = _text(row, columns.OUTPUT_WIDTH), _text(row, columns.OUTPUT_HEIGHT)
    return None if width is None or height is None else f"{width} x {height} px"


def _text(row: dict[Any, Any], name: str) -> str | None:
    value = row.get(name)
    return None if is_missing(value) else label_of(value)


_CELLS_COMPARED_MAX: Final = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A table as a grid, or a page of one."""

    results: pd.DataFrame
    rows: Axis
    columns: Axis
    shown_rows: range
    shown_columns: range
    _places: dict[tuple[int, int], list[int]] = field(repr=False)
    _reader: Reader = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Lines down and across, of the whole grid."""
        return len(self.rows), len(self.columns)

    @property
    def n_pages(self) -> int:
        """How many pages like this one the whole grid takes; 1 for an empty grid."""
        return max(1, _n_pages(len(self.rows), self.shown_rows)) * max(
            1, _n_pages(len(self.columns), self.shown_columns)
        )

    def positions(self, row: int, column: int) -> list[int]:
        """Give the positions in the table of what stands in a cell; empty for a combination that it lacks."""
        return self._places.get((row, column), [])

    def entries(self, row: int, column: int, *, n_max: int | None = None) -> list[Entry]:
        """Read what stands in a cell, at most `n_max` of it."""
        return [self._reader.entry(position) for position in self.positions(row, column)[:n_max]]

    def shown(self, *, n_max: int | None = None, n_first: int = 0) -> list[Entry]:
        """Read what this page shows, line by line: of each cell what is behind its first, up to `n_max`."""
        cells = ((row, column) for row in self.shown_rows for column in self.shown_columns)
        positions = [position for cell in cells for position in self.positions(*cell)[n_first:n_max]]
        self._reader.prepare(positions)
        return [self._reader.entry(position) for position in positions]

    def entry(self, position: int) -> Entry:
        """Read the row of the table at a position."""
        return self._reader.entry(position)

    def whole(self) -> Grid:
        """Give the same grid on one page."""
        return replace(self, shown_rows=range(len(self.rows)), shown_columns=range(len(self.columns)))

    def page(self, number: int, n_rows: int, n_columns: int) -> Grid:
        """Give one page: those across first, then those below."""
        n_across = max(1, -(-len(self.columns) // n_columns))
        n_pages = n_across * max(1, -(-len(self.rows) // n_rows))
        if not 1 <= number <= n_pages:
            raise UsageError(f"page {number}: there are pages 1 to {n_pages}.")
        down, across = divmod(number - 1, n_across)
        return replace(
            self,
            shown_rows=_span(down, n_rows, len(self.rows)),
            shown_columns=_span(across, n_columns, len(self.columns)),
        )


def lay_out(
    results: pd.DataFrame,
    rows: str | Sequence[Any] | None = columns.PROMPT,
    across: str | Sequence[Any] | None = columns.SEED,
    *,
    is_spread: bool = False,
) -> Grid:
    """Lay results out as a grid."""
    refuse_other_tables(results)
    names = listed(rows), listed(across)
    down, along = read_axes(results, *names)
    places = _places(down, along)
    told = _telling(results, places, [*names[0], *names[1]])
    read = reader(results, told, on_axes=[*names[0], *names[1]])
    if is_spread:
        down, along = read_axes(results, *names, is_spread=True)
        places = _places(down, along)
    return Grid(results, down, along, range(len(down)), range(len(along)), places, read)


def _places(down: Axis, along: Axis) -> dict[tuple[int, int], list[int]]:
    places: dict[tuple[int, int], list[int]] = {}
    for position, cell in enumerate(zip(down.of_rows.tolist(), along.of_rows.tolist(), strict=True)):
        places.setdefault(cell, []).append(position)
    return places


def refuse_other_tables(results: Any) -> pd.DataFrame:
    """Give results back, and refuse what is no table of them."""
    if not isinstance(results, pd.DataFrame) or columns.STATUS not in results.columns:
        raise UsageError("Expected results, as from run() or load(): a table with a column status.")
    return results


def _n_pages(n_lines: int, shown: range) -> int:
    return -(-n_lines // len(shown)) if len(shown) else 0


def _span(page: int, n_lines: int, n_all: int) -> range:
    return range(page * n_lines, min((page + 1) * n_lines, n_all))


def _differs(keys: pd.Series, cells: Any) -> bool:
    """Say whether a column has different values within any cell."""
    different = pd.DataFrame({"cell": cells, "key": keys}).drop_duplicates()
    return bool(different["cell"].duplicated().any())


def _telling(results: pd.DataFrame, places: dict[Any, list[int]], on_axes: list[Any]) -> list[Any]:
    """Name the columns that tell what stands in one cell apart."""
    crowded = [(cell, position) for cell, there in places.items() if len(there) > 1 for position in there]
    crowded = crowded[:_CELLS_COMPARED_MAX]
    if not crowded:
        return []
    rows = results.iloc[[position for _, position in crowded]]
    cells = pd.factorize(np.array([cell[0] * (2**31) + cell[1] for cell, _ in crowded]))[0]
    told_elsewhere = {*on_axes, *columns.OUTPUTS} - ({columns.RUN_DIR} - {*on_axes})
    own = [name for name in results.columns if name not in told_elsewhere]
    keys = {name: rows[name].map(key_of).reset_index(drop=True) for name in own}
    return [name for name, key in keys.items() if _differs(key, cells)]
