"""One row of results as a grid shows it: what it is, how it is called, and all that is known of it.

Examples
--------
>>> import pandas as pd
>>> table = pd.DataFrame({"prompt": ["a fox"], "seed_sent": [7], "status": ["failed"], "error_class": ["task_lost"]})
>>> entry = reader(table, [], on_axes=[]).entry(0)
>>> entry.kind, entry.alt, entry.note
('failed', 'a fox, seed 7', 'task_lost')
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.results.axes import drawn
from dreamo_batch.results.texts import label_of, shortened
from dreamo_batch.table.cells import is_missing
from dreamo_batch.table.schema import image_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

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
    """One row of the results.

    Attributes
    ----------
    position : int
        In the table, from 0.
    row : str
        Its index label.
    kind : str
        ``picture``, ``unsaved``, or the status of what has no picture.
    alt : str
        What stands for the picture: its prompt, shortened, and seed.
    note : str
        Why there is no picture: class and message; empty otherwise.
    told : str
        What tells it from others in its cell; empty where nothing has to.
    facts : tuple of tuple of str
        Names and values: what was asked for, what came back.
    seed, cost, path, digest : str or None
        Seed that was sent, exact cost in USD, the picture relative to the run directory, and its SHA-256.
    duplicate_of : int or None
        Position of the row that was bought.
    """

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
    """Make a reader of a table's rows.

    Parameters
    ----------
    results : pandas.DataFrame
        The table.
    telling : sequence
        Columns that tell rows in one cell apart.
    on_axes : sequence
        Columns that the axes tell already.
    """
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
