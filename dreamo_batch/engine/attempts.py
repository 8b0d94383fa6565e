"""Attempts, the events that change them, and their fold into state: pure.

Settled attempts lie in an Arrow table, which is read by job, and folded from the lines of journals column by column.
That is for the many jobs whose first attempt has gone its way without surprise. Every other line is left to the fold by
row, which decides what is possible.

An attempt's way::

    sending ──> accepted ──> completed | failed | lost
       │  └───> ambiguous ──(resolved)──> accepted | unsent
       ├──────> unsent      nothing arrived: the same attempt may be sent again
       └──────> refused     the service said no: nothing was submitted

The fold is total over events in the order they were written, and applying one event twice changes
nothing, so a journal may be replayed over a checkpoint without care.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property, lru_cache
from io import BytesIO
from itertools import chain, compress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from dreamo_batch import columns

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray


Key = tuple[str, int]  # an attempt's job and its number within the job


class Stage(StrEnum):
    """How far an attempt is."""

    SENDING = "sending"
    UNSENT = "unsent"
    REFUSED = "refused"
    ACCEPTED = "accepted"
    AMBIGUOUS = "ambiguous"
    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"


class EventKind(StrEnum):
    """What happened to an attempt."""

    SENDING = "sending"
    NAMED = "named"
    NOT_SENT = "not_sent"
    REFUSED = "refused"
    ACCEPTED = "accepted"
    AMBIGUOUS = "ambiguous"
    OVERDUE = "overdue"
    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"
    SAVED = "saved"
    UNSAVED = "unsaved"


# The job status that a stage means, and its weight: of several attempts, one of the highest weight decides.
_DECIDING: Final = {
    Stage.COMPLETED: (columns.COMPLETED, 4),
    Stage.SENDING: (columns.SUBMITTING, 3),
    Stage.ACCEPTED: (columns.IN_PROGRESS, 3),
    Stage.AMBIGUOUS: (columns.AMBIGUOUS, 2),
    Stage.FAILED: (columns.FAILED, 1),
    Stage.LOST: (columns.FAILED, 1),
    Stage.REFUSED: (columns.FAILED, 1),
    Stage.UNSENT: (columns.PENDING, 0),
}
STATUS_OF: Final = {stage: status for stage, (status, _) in _DECIDING.items()}
WEIGHTS: Final = {stage: weight for stage, (_, weight) in _DECIDING.items()}

_SENDABLE: Final = frozenset({Stage.UNSENT, Stage.REFUSED})
# Stages in which an attempt exists, or may exist, at the service.
SUBMITTED: Final = frozenset(Stage) - _SENDABLE
# Stages in which an attempt gives no picture.
WITHOUT_PICTURE: Final = _SENDABLE | {Stage.FAILED, Stage.LOST}
OPEN: Final = frozenset({Stage.SENDING, Stage.ACCEPTED})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job, as in `columns.LEDGER`: numbered from 1, times in Unix seconds, money as exact text."""

    job_id: str
    attempt: int
    stage: Stage = Stage.UNSENT
    task_id: str | None = None
    seed_sent: int | None = None
    reserved: str | None = None
    cost: str | None = None
    discount: str | None = None
    output_url: str | None = None
    output_path: str | None = None
    output_sha256: str | None = None
    output_bytes: int | None = None
    output_width: int | None = None
    output_height: int | None = None
    output_error: str | None = None
    error_class: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    may_have_been_billed: bool | None = None
    excerpt: str | None = None
    metadata: str | None = None
    sent_at: float | None = None
    answered_at: float | None = None
    completed_at: float | None = None
    saved_at: float | None = None
    n_polls: int | None = None
    n_refusals: int | None = None
    waited_s: float | None = None
    output_urls: str | None = None
    output_warning: str | None = None
    output_job_id: str | None = None
    output_bytes_stated: int | None = None
    inputs: str | None = None

    @property
    def links(self) -> tuple[str, ...]:
        """The links to all pictures, in order."""
        if self.output_urls is not None:
            return tuple(json.loads(self.output_urls))
        return () if self.output_url is None else (self.output_url,)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an attempt at a certain time, with the fields it sets."""

    kind: EventKind
    job_id: str
    attempt: int
    at: float
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, kind: EventKind, key: Key, at: float, **fields: Any) -> Event:
        """Make an event that sets the fields that aren't None."""
        present = {name: _storable(value) for name, value in fields.items() if value is not None}
        return cls(kind, key[0], key[1], round(at, 6), present)


def _storable(value: Any) -> Any:
    """Replace characters that UTF-8 can't hold, such as bytes of a file name in another encoding."""
    return value if type(value) is not str or value.isascii() else value.encode(errors="replace").decode()


class ImpossibleEvent(ValueError):  # noqa: N818 - it names what was found in the journal
    """An event that can't follow the current state of its attempt."""


_NO_ERROR: Final = dict.fromkeys(("error_class", "error_code", "error_message", "excerpt"))


@dataclass(frozen=True, slots=True)
class _Rule:
    """The effect of an event: the stages it may follow, the next stage, the field of its time, the fields it resets."""

    after: frozenset[Stage]
    stage: Stage | None
    time: str | None = None
    resets: Mapping[str, Any] | None = None


_ON_THE_WIRE = frozenset({Stage.SENDING})
_UNDECIDED = frozenset({Stage.SENDING, Stage.AMBIGUOUS})
_RUNNING = frozenset({Stage.ACCEPTED})
_MADE = frozenset({Stage.COMPLETED})

RULES: Final[Mapping[EventKind, _Rule]] = {
    EventKind.SENDING: _Rule(
        _SENDABLE, Stage.SENDING, "sent_at", _NO_ERROR | {"answered_at": None, "may_have_been_billed": None}
    ),
    EventKind.NAMED: _Rule(_ON_THE_WIRE, Stage.SENDING),
    EventKind.NOT_SENT: _Rule(
        _UNDECIDED, Stage.UNSENT, "answered_at", _NO_ERROR | {"may_have_been_billed": None, "reserved": None}
    ),
    EventKind.REFUSED: _Rule(_ON_THE_WIRE, Stage.REFUSED, "answered_at", _NO_ERROR | {"reserved": None}),
    EventKind.ACCEPTED: _Rule(
        _UNDECIDED, Stage.ACCEPTED, "answered_at", _NO_ERROR | {"may_have_been_billed": None}
    ),
    EventKind.AMBIGUOUS: _Rule(_ON_THE_WIRE, Stage.AMBIGUOUS, "answered_at"),
    EventKind.OVERDUE: _Rule(_RUNNING, Stage.ACCEPTED),
    EventKind.COMPLETED: _Rule(_RUNNING, Stage.COMPLETED, "completed_at", _NO_ERROR),
    EventKind.FAILED: _Rule(_RUNNING, Stage.FAILED, "completed_at", _NO_ERROR),
    EventKind.LOST: _Rule(_RUNNING, Stage.LOST, "completed_at", _NO_ERROR),
    EventKind.SAVED: _Rule(_MADE, None, "saved_at", {"output_error": None, "output_warning": None}),
    EventKind.UNSAVED: _Rule(_MADE, None),
}


_FIELDS: Final = tuple(field.name for field in fields(Attempt))
_values_of: Final = attrgetter(*_FIELDS)


def advance(attempt: Attempt, event: Event) -> Attempt:
    """Apply one event to its attempt."""
    rule = RULES[event.kind]
    changes = dict(rule.resets or ())
    if rule.stage is not None:
        changes["stage"] = rule.stage
    if rule.time is not None:
        changes[rule.time] = event.at
    changes.update(event.fields)
    # dataclasses.replace takes three times as long.
    changed = Attempt(**dict(zip(_FIELDS, _values_of(attempt), strict=True)) | changes)
    if attempt.stage not in rule.after and changed != attempt:  # the same event again changes nothing
        raise ImpossibleEvent(
            f"attempt {event.attempt} of job {event.job_id} is {attempt.stage}, so it can't be {event.kind}"
        )
    return changed


@dataclass(frozen=True, slots=True)
class Terms:
    """What may be spent in a run directory, in USD as exact decimal text; None where there is no limit."""

    cap: str | None = None
    slice: str | None = None  # of a cap shared with other directories
    budget: str | None = None  # where that cap is kept


NO_TERMS: Final = Terms()


# The fields that determine what an attempt may cost.
KIND: Final = (columns.STAGE, columns.COST, columns.RESERVED, columns.MAY_HAVE_BEEN_BILLED)


class State:
    """All attempts of a run directory, by job, in the order they were made, and the terms that limit them."""

    def __init__(self, attempts: Iterable[Attempt] = (), terms: Terms = NO_TERMS) -> None:
        self.terms = terms
        self.stored = _NOTHING_STORED  # as a table; none is open
        self.changed: dict[str, tuple[Attempt, ...]] = {}  # of jobs with newer or open attempts
        for attempt in attempts:
            self.put(attempt)

    def __len__(self) -> int:
        """Count the jobs with attempts."""
        return len(self.stored) + sum(job_id not in self.stored for job_id in self.changed)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self.changed or job_id in self.stored

    def __iter__(self) -> Iterator[Attempt]:
        """Every attempt, job by job."""
        for job_id in self.job_ids():
            yield from self.of(job_id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State) or self.terms != other.terms:
            return False
        return {job_id: self.of(job_id) for job_id in self.job_ids()} == {
            job_id: other.of(job_id) for job_id in other.job_ids()
        }

    __hash__ = None  # type: ignore[assignment]  # mutable, so not hashable

    def of(self, job_id: str) -> tuple[Attempt, ...]:
        """Return every attempt of a job, oldest first."""
        attempts = self.changed.get(job_id)
        return self.stored.get(job_id, ()) if attempts is None else attempts

    def job_ids(self) -> Iterator[str]:
        """Every job with attempts."""
        yield from self.stored
        yield from (job_id for job_id in self.changed if job_id not in self.stored)

    def cells(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Yield some fields of every attempt."""
        yield from self.stored.cells(self.changed, names)
        values = attrgetter(*names)
        yield from (values(attempt) for attempts in self.changed.values() for attempt in attempts)

    def completed(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Yield some fields of stored attempts that completed and are the only one of their job: the bulk, cheaply."""
        return self.stored.cells(self.changed, names, is_completed_only=True)

    def open(self) -> Iterator[Attempt]:
        """Yield the attempts on the wire or at the service."""
        return (one for attempts in self.changed.values() for one in attempts if one.stage in OPEN)

    def kinds(self) -> Counter[Attempt]:
        """Count the attempts by what their cost depends on: stage, cost, reservation, whether they may be billed."""
        counts = self.stored.kinds(self.changed)
        kinds = map(attrgetter(*KIND), chain.from_iterable(self.changed.values()))
        counts.update(Attempt("", 1, **dict(zip(KIND, values, strict=True))) for values in kinds)
        return counts

    def store(self, stored: StoredAttempts) -> None:
        """Replace the stored attempts, and drop the settled ones that they now contain."""
        self.stored = stored  # first, as another thread may be copying
        self.changed = {
            job_id: attempts
            for job_id, attempts in self.changed.items()
            if not OPEN.isdisjoint(attempt.stage for attempt in attempts)
        }

    def deciding(self, job_id: str) -> Attempt | None:
        """Return the attempt that decides a job's state, or None; see `deciding`."""
        return deciding(self.of(job_id))

    def find(self, job_id: str, number: int) -> Attempt | None:
        """Return one attempt of a job, or None."""
        attempts = self.of(job_id)
        return attempts[number - 1] if 0 < number <= len(attempts) else None

    def copy(self) -> State:
        """Return a copy of the state; it is cheap, because attempts are immutable."""
        copied = State(terms=self.terms)
        copied.changed = dict(self.changed)
        copied.stored = self.stored  # last, so that what is stored meanwhile is in one or the other
        return copied

    def put(self, attempt: Attempt) -> None:
        """Set an attempt; its number must exist already or be the next."""
        attempts = self.of(attempt.job_id)
        if not 0 < attempt.attempt <= len(attempts) + 1:
            raise ImpossibleEvent(
                f"attempt {attempt.attempt} of job {attempt.job_id} follows {len(attempts)} attempts"
            )
        self.changed[attempt.job_id] = (
            *attempts[: attempt.attempt - 1],
            attempt,
            *attempts[attempt.attempt :],
        )

    def apply(self, event: Event) -> Attempt:
        """Apply an event, and return the resulting attempt."""
        attempt = self.find(event.job_id, event.attempt) or Attempt(event.job_id, event.attempt)
        attempt = advance(attempt, event)
        self.put(attempt)
        return attempt


def deciding(attempts: tuple[Attempt, ...]) -> Attempt | None:
    """Return the attempt that decides its job's state: the latest of those that weigh most."""
    # So a later attempt hides no picture and no attempt under way, and what may have been billed stays in doubt.
    if len(attempts) == 1:
        return attempts[0]
    return max(reversed(attempts), key=lambda attempt: WEIGHTS[attempt.stage], default=None)


def next_number(attempts: tuple[Attempt, ...]) -> int:
    """Return the number the next create of a job is sent under; one that never became an attempt is used again."""
    last = attempts[-1] if attempts and attempts[-1].stage in _SENDABLE else None
    # A run that lost its directory may still take that create for ambiguous: only an attempt shows that it failed.
    is_answered_doubt = last and last.stage is Stage.UNSENT and last.may_have_been_billed is False
    return len(attempts) + 1 if last is None or is_answered_doubt else last.attempt


def status_of(attempt: Attempt | None) -> str:
    """Return a job's status from its deciding attempt."""
    return columns.PENDING if attempt is None else STATUS_OF[attempt.stage]


ARROW: Final = {
    columns.STR: pa.string(),
    columns.INT: pa.int64(),
    columns.FLOAT: pa.float64(),
    columns.BOOL: pa.bool_(),
    columns.TIME: pa.timestamp("us", tz="UTC"),
}


def schema_of(described: Mapping[str, columns.Column]) -> pa.Schema:
    """Return the Arrow schema for some columns; objects are stored as bytes."""
    return pa.schema([(column.name, ARROW.get(column.dtype, pa.binary())) for column in described.values()])


def rows_as_table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Return rows as an Arrow table with a schema."""
    cells = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(cells, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


SCHEMA: Final = schema_of(columns.LEDGER)
_NO_ROWS: Final = SCHEMA.empty_table()
_TIMES: Final = frozenset(c.name for c in columns.LEDGER.values() if c.dtype == columns.TIME)
_PANDAS: Final = {
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(na_value=float("nan")),
}
_PENDING: Final = "pending"
_MICROSECONDS: Final = 1_000_000
_STAGES: Final = {str(stage): stage for stage in Stage}
_STAGE_AT: Final = SCHEMA.names.index(columns.STAGE)
_BLOCK: Final = 4096
_BLOCKS_AT_ONCE: Final = 4
_COMPRESSED: Final = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)


class HashPositions:
    """Finds the positions of hashes in an array, in a sixth of a dict's memory."""

    def __init__(self, hashes: NDArray[np.int64]) -> None:
        self._order = np.argsort(hashes)
        self._sorted = hashes[self._order].data

    def of(self, wanted: int) -> list[int]:
        """Return every position of a hash."""
        first, end = bisect_left(self._sorted, wanted), bisect_right(self._sorted, wanted)
        return [int(place) for place in self._order[first:end]]


class FirstJobs:
    """Maps each hash to the first job given for it, in a quarter of a dict's memory."""

    def __init__(self) -> None:
        self._new: dict[int, str] = {}
        self._hashes, self._jobs = np.empty(0, np.int64), np.empty(0, object)

    def setdefault(self, wanted: int, job_id: str) -> str:
        """Return the job of a hash; if there was none, set it to this one."""
        at = bisect_left(self._hashes.data, wanted)
        if at < len(self._hashes) and self._hashes.data[at] == wanted:
            return str(self._jobs[at])
        owner = self._new.setdefault(wanted, job_id)
        if len(self._new) >= max(_BLOCK, len(self._hashes) // 8):
            hashes = np.concatenate([self._hashes, np.fromiter(self._new, np.int64)])
            jobs = np.concatenate([self._jobs, np.fromiter(self._new.values(), object)])
            order = np.argsort(hashes, kind="stable")
            self._hashes, self._jobs, self._new = hashes[order], jobs[order], {}
        return owner


class _Block(NamedTuple):
    """Some rows and their jobs; kept compressed where they would double a run's memory."""

    job_ids: pa.ChunkedArray
    rows: pa.Table | pa.Buffer

    def opened(self) -> pa.Table:
        """Return the rows, decompressed."""
        return self.rows if isinstance(self.rows, pa.Table) else pa.ipc.open_stream(self.rows).read_all()


class StoredAttempts:
    """The attempts in a table, by job, built on demand."""

    def __init__(self, table: pa.Table | None, blocks: Sequence[_Block] = ()) -> None:
        """Check that the rows of each job are adjacent and numbered from 1."""
        self._table, self._blocks = table, blocks
        if table is not None:
            if unknown := set(pc.unique(table[columns.STAGE]).to_pylist()) - {*_STAGES, _PENDING}:
                raise ImpossibleEvent(f"an attempt has the unknown stage {unknown.pop()!r}")
            self._table = _without_pending(table)
            self._blocks = [_Block(part[columns.JOB_ID], part) for part in _slices(self._table)]
        job_ids = [chunk for block in self._blocks for chunk in block.job_ids.iterchunks()]
        self._job_ids = pa.chunked_array(job_ids, pa.string())
        self.n_attempts = len(self._job_ids)
        self._ends = np.cumsum([len(block.job_ids) for block in self._blocks])
        n = self.n_attempts
        is_first = np.ones(n, dtype=bool)
        is_first[1:] = pc.not_equal(self._job_ids.slice(1), self._job_ids.slice(0, max(n - 1, 0)))
        self._starts = np.append(np.flatnonzero(is_first), n)
        if self._table is not None:
            numbers = pc.fill_null(self._table[columns.ATTEMPT], 0).to_numpy()
            expected = np.arange(n) - np.repeat(self._starts[:-1], np.diff(self._starts)) + 1
            if ((numbers != 0) & (numbers != expected)).any():
                raise ImpossibleEvent("the attempts of a job are not numbered from 1")
        blocks = self._blocks
        # Neighbouring rows are read together, because Arrow takes nearly as long for one.
        self._rows_of = lru_cache(maxsize=1)(lambda number: _rows(blocks[number].opened()))

    @property
    def table(self) -> pa.Table:
        """The table, without jobs that were never submitted."""
        opened = [self._table] if self._table is not None else map(_Block.opened, self._blocks)
        return pa.concat_tables([_NO_ROWS, *opened])

    def parts(self) -> Iterator[pa.Table]:
        """Yield every row, in tables that need little memory at a time."""
        for first in range(0, len(self._blocks), _BLOCKS_AT_ONCE):
            yield pa.concat_tables(map(_Block.opened, self._blocks[first : first + _BLOCKS_AT_ONCE]))

    def packed_with(self, changed: Mapping[str, Sequence[Attempt]]) -> StoredAttempts:
        """Return all attempts compressed, with those of some jobs replaced; most blocks are reused."""
        is_of, blocks = _is_of(self._job_ids, changed), list[_Block]()
        for block, end in zip(self._blocks, self._ends.tolist(), strict=True):
            n = len(block.job_ids)
            is_kept = isinstance(block.rows, pa.Buffer) and not pc.any(is_of.slice(end - n, n)).as_py()
            blocks += [block] if is_kept else _packed(_of_other_jobs(block.opened(), changed))
        blocks += _packed(_table_of([attempt for of_job in changed.values() for attempt in of_job]))
        return StoredAttempts(None, blocks)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __contains__(self, job_id: object) -> bool:
        return self._place(job_id) is not None

    def get(self, job_id: str, default: tuple[Attempt, ...] = ()) -> tuple[Attempt, ...]:
        """Return every attempt of a job, oldest first."""
        place = self._place(job_id)
        if place is None:
            return default
        start, end = self._starts[place : place + 2].tolist()
        return tuple(_attempt(self._row(row), row - start + 1) for row in range(start, end))

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(map(pa.ChunkedArray.to_pylist, _slices(self._firsts())))

    def attempts_of(self, job_ids: Collection[str]) -> Iterator[Attempt]:
        """Return the attempts of some jobs, and of jobs with an open attempt."""
        is_open = pc.is_in(self.table[columns.STAGE], pa.array(list(OPEN), pa.string()))
        wanted = {*job_ids, *self.table[columns.JOB_ID].filter(is_open).to_pylist()}
        numbers: Counter[str] = Counter()
        for row in _rows(self.table.filter(_is_of(self._job_ids, wanted))):
            numbers[row[0]] += 1
            yield _attempt(row, numbers[row[0]])

    def without_attempts(self, job_ids: pa.Array) -> pa.Array:
        """Return those of some jobs that have no attempts here."""
        return job_ids.filter(pc.invert(pc.is_in(job_ids, self._job_ids))) if len(job_ids) else job_ids

    def kinds(self, besides: Collection[str]) -> Counter[Attempt]:
        """Count the attempts of all jobs but some, as `State.kinds` does."""
        rows = self.table.select(KIND).filter(pc.invert(_is_of(self._job_ids, besides)))
        counts: Counter[Attempt] = Counter()
        for row in rows.group_by(list(KIND)).aggregate([([], "count_all")]).to_pylist():
            n, stage = row.pop("count_all"), _STAGES[row.pop(columns.STAGE)]
            counts[Attempt("", 1, stage, **row)] = n
        return counts

    def cells(
        self, besides: Collection[str], names: Sequence[str], *, is_completed_only: bool = False
    ) -> Iterator[tuple[Any, ...]]:
        """Yield some fields of the attempts of all jobs but some, or only of jobs whose one attempt completed."""
        table, wanted = self.table, pc.invert(_is_of(self._job_ids, besides))
        if is_completed_only:
            n_of_job = np.diff(self._starts)
            is_only = pa.array(np.repeat(n_of_job == 1, n_of_job))
            is_completed = pc.equal(table[columns.STAGE], str(Stage.COMPLETED))
            wanted = pc.and_(wanted, pc.and_(is_completed, is_only))
        parts = _slices(table.select(list(names)).filter(wanted))
        return chain.from_iterable(zip(*map(_cells, part.columns), strict=True) for part in parts)

    def _firsts(self) -> pa.ChunkedArray:
        return self._job_ids.take(self._starts[:-1])

    @cached_property
    def _places(self) -> HashPositions:
        """The positions of each job; strings as keys would take much more memory."""
        if self._table is not None and len(pc.unique(self._firsts())) < len(self):
            raise ImpossibleEvent("the attempts of a job don't follow each other")
        return HashPositions(np.fromiter(map(hash, self), np.int64, len(self)))

    def _place(self, job_id: object) -> int | None:
        ids, starts, places = self._job_ids, self._starts, self._places.of(hash(job_id))
        return next((place for place in places if ids[int(starts[place])].as_py() == job_id), None)

    def _row(self, number: int) -> tuple[Any, ...]:
        block = int(np.searchsorted(self._ends, number, "right"))
        return self._rows_of(block)[number - int(self._ends[block])]


def _slices(table: Any) -> Iterator[Any]:
    return (table.slice(start, _BLOCK) for start in range(0, len(table), _BLOCK))


def _packed(table: pa.Table) -> Iterator[_Block]:
    for part in _slices(table):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA, options=_COMPRESSED) as stream:
            stream.write_table(part)
        yield _Block(part[columns.JOB_ID], sink.getvalue())


def to_arrow(state: State) -> pa.Table:
    """Return the attempts with the columns of `columns.LEDGER`."""
    stored = _of_other_jobs(state.stored.table, state.changed)
    return pa.concat_tables([stored, _table_of([*chain.from_iterable(state.changed.values())])])


def without_attempts(state: State, job_ids: Iterable[str]) -> list[str]:
    """Return the job ids that have no attempts, much faster than asking one by one."""
    unstored = state.stored.without_attempts(pa.array(list(job_ids), pa.string())).to_pylist()
    return [job_id for job_id in unstored if job_id not in state.changed]


def absent(state: State, pending: Iterable[str]) -> pa.Table:
    """Return a table with a row for each of some jobs that were never submitted."""
    never = without_attempts(state, pending)
    known = {columns.JOB_ID: pa.array(never, pa.string()), columns.STAGE: pa.repeat(_PENDING, len(never))}
    n, rest = divmod(len(never), _BLOCK)
    blocks = {field.name: pa.nulls(_BLOCK, field.type) for field in SCHEMA}  # in memory only once
    missing = {name: pa.chunked_array([*[block] * n, block.slice(0, rest)]) for name, block in blocks.items()}
    return pa.table(missing | known, schema=SCHEMA)


def with_all(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of a schema; those it lacks are filled with nulls."""
    known = set(table.column_names)
    arrays = [table[f.name] if f.name in known else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(arrays, names=schema.names).cast(schema)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return the attempts as a DataFrame with the dtypes of `dreamo_batch.columns.LEDGER`."""
    return table.to_pandas(types_mapper=_PANDAS.get)


def _without_pending(table: pa.Table) -> pa.Table:
    """Drop the rows of jobs that were never submitted, which are usually the last."""
    is_attempt = pc.not_equal(table[columns.STAGE], _PENDING)
    n = pc.sum(is_attempt).as_py() or 0
    is_head = n == (pc.sum(is_attempt.slice(0, n)).as_py() or 0)
    return table.slice(0, n) if is_head else table.filter(is_attempt)


def _is_of(rows: pa.ChunkedArray, job_ids: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(rows, pa.array(list(job_ids), pa.string()))


def _of_other_jobs(table: pa.Table, job_ids: Collection[str]) -> pa.Table:
    is_of = _is_of(table[columns.JOB_ID], job_ids)
    return table.filter(pc.invert(is_of)) if pc.any(is_of).as_py() else table


def _table_of(attempts: Sequence[Attempt]) -> pa.Table:
    return pa.Table.from_arrays([_array(attempts, field) for field in SCHEMA], schema=SCHEMA)


def _array(attempts: Sequence[Attempt], field: pa.Field) -> pa.Array:
    cells = list(map(attrgetter(field.name), attempts))
    if field.name == columns.ATTEMPT:
        is_submitted = [attempt.stage in SUBMITTED for attempt in attempts]
        return pa.array(cells, field.type, mask=~np.array(is_submitted, dtype=bool))
    return _times(np.array(cells, dtype=float)) if field.name in _TIMES else pa.array(cells, field.type)


def _times(seconds: NDArray[np.float64]) -> pa.Array:
    is_missing = np.isnan(seconds)
    microseconds = np.rint(np.where(is_missing, 0.0, seconds) * _MICROSECONDS).astype(np.int64)
    return pa.array(microseconds, pa.int64(), mask=is_missing).cast(ARROW[columns.TIME])


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*map(_cells, table.columns), strict=True))


def _cells(column: pa.ChunkedArray) -> list[Any]:
    if column.type == ARROW[columns.TIME]:
        return [None if at is None else at / _MICROSECONDS for at in column.cast(pa.int64()).to_pylist()]
    return list(column.to_pylist())


def _attempt(cells: tuple[Any, ...], number: int) -> Attempt:
    """Build an attempt from its cells; one that never reached the service is stored without its number."""
    return Attempt(cells[0], number, _STAGES[cells[_STAGE_AT]], *cells[_STAGE_AT + 1 :])


# Journal lines as Arrow reads them: a column for each field that every line has, and one for each optional field.
_EVERY_LINE: Final = {
    "crc": pa.string(),
    "kind": pa.string(),
    "job": pa.string(),
    "attempt": pa.int64(),
    "at": pa.float64(),
}
_SET_BY_LINES: Final = tuple(
    field for field in SCHEMA if field.name not in (columns.JOB_ID, columns.ATTEMPT, columns.STAGE)
)
_LINES: Final = pa.schema(
    [
        *_EVERY_LINE.items(),
        *((field.name, pa.float64() if field.name in _TIMES else field.type) for field in _SET_BY_LINES),
    ]
)
# The fields of an attempt that goes as usual; a column that is mostly missing takes as long as any other.
_USUAL: Final = pa.schema(
    _LINES.field(name)
    for name in (
        *_EVERY_LINE,
        columns.SEED_SENT,
        columns.RESERVED,
        columns.ATTEMPT_INPUTS,
        columns.TASK_ID,
        columns.OUTPUT_URL,
        columns.COST,
        columns.DISCOUNT,
        columns.METADATA,
        columns.OUTPUT_PATH,
        columns.OUTPUT_SHA256,
        columns.OUTPUT_BYTES,
        columns.OUTPUT_WIDTH,
        columns.OUTPUT_HEIGHT,
    )
)
_NULL: Final = b":null"
_READ_BYTES: Final = 1 << 24

# The rules of events as arrays, indexed by the stage before and the kind.
_ALL_STAGES: Final = tuple(Stage)
_ALL_KINDS: Final = tuple(EventKind)
_IS_POSSIBLE: Final = np.array([[stage in RULES[kind].after for kind in _ALL_KINDS] for stage in _ALL_STAGES])
_AFTER: Final = np.array(
    [_ALL_STAGES.index(RULES[kind].stage or min(RULES[kind].after)) for kind in _ALL_KINDS]
)
_IS_TIMED: Final = {name: np.array([RULES[kind].time == name for kind in _ALL_KINDS]) for name in _TIMES}
_IS_RESET: Final = {
    field.name: np.array([field.name in (RULES[kind].resets or ()) for kind in _ALL_KINDS])
    for field in _SET_BY_LINES
}


def fold_lines(
    texts: Sequence[memoryview], known: StoredAttempts, strays: Collection[str]
) -> tuple[pa.Table, list[bytes]]:
    """Fold by column the new jobs where that is possible; return their attempts, and the lines of the others."""
    lines = _parsed(texts)
    if lines is None:
        return _NO_ROWS, list(_each(texts))
    jobs = lines["job"].combine_chunks().dictionary_encode()
    of_job = jobs.indices.to_numpy()
    kind = pc.fill_null(pc.index_in(lines["kind"], pa.array(_ALL_KINDS, pa.string())), -1).to_numpy()
    at = lines["at"].to_numpy()
    stage = _AFTER[kind]
    is_plain_line = (
        (kind >= 0) & (lines["attempt"].to_numpy() == 1) & _IS_POSSIBLE[_before(of_job, stage), kind]
    )
    is_plain_line &= np.rint(at * _MICROSECONDS) / _MICROSECONDS == at  # otherwise the table would change it
    if any(re.search(_NULL, text) for text in texts):  # Arrow can't tell it from a missing field
        is_plain_line &= np.fromiter((_NULL not in line for line in _each(texts)), bool)
    is_plain = np.ones(len(jobs.dictionary), dtype=bool)
    is_plain[of_job[~is_plain_line]] = False
    for apart in (known.table[columns.JOB_ID], pa.array(list(strays), pa.string())):
        is_plain[pc.index_in(apart, jobs.dictionary).drop_null()] = False
    last_stage = np.zeros(len(is_plain), dtype=int)
    last_stage[of_job] = stage
    is_plain &= ~np.isin(last_stage, [_ALL_STAGES.index(stage) for stage in OPEN])  # needed as objects
    last_stage = last_stage[is_plain]
    is_submitted = np.isin(last_stage, [_ALL_STAGES.index(stage) for stage in SUBMITTED])
    folded = {
        columns.JOB_ID: jobs.dictionary.filter(pa.array(is_plain)),
        columns.ATTEMPT: pa.array(np.ones(len(last_stage), dtype=np.int64), mask=~is_submitted),
        columns.STAGE: pa.array(_ALL_STAGES, pa.string()).take(pa.array(last_stage)),
    }

    def last_line(is_set: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the last of some lines for each plain job; -1 if it has none."""
        last = np.full(len(is_plain), -1)
        numbers = np.flatnonzero(is_set)
        last[of_job[numbers]] = numbers
        return last[is_plain]

    for field in _SET_BY_LINES:
        column = lines[field.name]
        is_set = column.is_valid().to_numpy()
        if field.name in _TIMES:
            seconds = np.where(is_set, column.to_numpy(), np.where(_IS_TIMED[field.name][kind], at, np.nan))
            last = last_line(is_set | _IS_TIMED[field.name][kind] | _IS_RESET[field.name][kind])
            folded[field.name] = _times(np.where(last < 0, np.nan, seconds[last]))
        elif column.null_count == len(column):
            folded[field.name] = pa.nulls(len(last_stage), field.type)
        else:
            last = last_line(is_set | _IS_RESET[field.name][kind])
            folded[field.name] = column.take(pa.array(last, mask=(last < 0) | ~is_set[last]))
    others = [] if is_plain.all() else list(compress(_each(texts), ~is_plain[of_job]))
    return pa.table(folded, schema=SCHEMA), others


def _each(texts: Iterable[memoryview]) -> Iterator[bytes]:
    return chain.from_iterable(map(BytesIO, texts))


def _parsed(texts: Sequence[memoryview]) -> pa.Table | None:
    """Parse lines; None if there are none, or one isn't in the format of this version."""
    reading = pyarrow.json.ReadOptions(block_size=_READ_BYTES)
    for schema, unusual in ((_USUAL, "infer"), (_LINES, "error")):
        options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unusual)
        try:
            parsed = pa.concat_tables(
                [
                    pyarrow.json.read_json(pa.BufferReader(pa.py_buffer(text)), reading, options)
                    for text in texts
                ],
                promote_options="default",
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            continue
        if set(parsed.schema) <= set(_LINES):  # otherwise a type was guessed wrong
            return None if any(parsed[name].null_count for name in _EVERY_LINE) else with_all(parsed, _LINES)
    return None


def _before(of_job: NDArray[np.intp], stage: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the stage before each line, from the previous line of the same job."""
    order = np.argsort(of_job, kind="stable")
    before = np.full(len(stage), _ALL_STAGES.index(Stage.UNSENT))
    is_later = of_job[order[1:]] == of_job[order[:-1]]
    before[order[1:][is_later]] = stage[order[:-1][is_later]]
    return before


_NOTHING_STORED: Final = StoredAttempts(_NO_ROWS)
