"""The checkpoint: every order as one row of a Parquet file that plain `pd.read_parquet` reads.

Two are kept, the newest and the one before, so that one damaged file never loses the ledger; a journal is
removed only when both cover it.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dreamo_batch import columns
from dreamo_batch.execution import durable
from dreamo_batch.execution.state import ORDERED, Order, Stage, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

NAME: Final = "checkpoint.parquet"
PREVIOUS: Final = "checkpoint-previous.parquet"
# What reading a file that is missing, cut short, altered or of another kind raises.
UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)
_META: Final = b"dreamo_batch"
_N_ROWS: Final = "n_rows"
_PENDING: Final = "pending"
_MICROSECONDS: Final = 1_000_000

_ARROW: Final = {
    columns.STR: pa.string(),
    columns.INT: pa.int64(),
    columns.FLOAT: pa.float64(),
    columns.BOOL: pa.bool_(),
    columns.TIME: pa.timestamp("us", tz="UTC"),
}
SCHEMA: Final = pa.schema([(column.name, _ARROW[column.dtype]) for column in columns.ORDERS.values()])
# Columns that files of format 1 lack.
_ADDED: Final = frozenset(SCHEMA.names[SCHEMA.names.index(columns.OUTPUT_URLS) :])
_TIMES: Final = frozenset(c.name for c in columns.ORDERS.values() if c.dtype == columns.TIME)
_PANDAS: Final = {
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(na_value=float("nan")),
}


@dataclass(frozen=True, slots=True)
class Meta:
    """What a checkpoint says of itself.

    `covers` is the number of the last journal folded into it; `is_followed` says that a journal after that one
    was open already, so that its absence is a loss. `cap` is the one in force, USD as exact decimal text;
    `place` says where the directory was on the disk.
    """

    schema: int
    covers: int
    generation: int
    entropy: str
    service: str
    is_followed: bool = False
    cap: str | None = None
    place: str = ""


def write(path: Path, state: State, pending: Iterable[str], meta: Meta) -> None:
    """Write the state, and a row for each job that was never ordered.

    Parameters
    ----------
    path : pathlib.Path
        Temporary file to fill; see `dreamo_batch.execution.durable.replace`.
    state : State
        All orders.
    pending : iterable of str
        Ids of the jobs of the table; those without orders get a row with `order` missing.
    meta : Meta
        Stored in the file's metadata.
    """
    table = to_arrow(state, pending)
    note = asdict(meta) | {_N_ROWS: table.num_rows}
    metadata = {_META: _sealed(json.dumps(note).encode())}
    table = table.replace_schema_metadata((table.schema.metadata or {}) | metadata)
    pq.write_table(table, path, write_page_checksum=True)


def to_arrow(state: State, pending: Iterable[str] = ()) -> pa.Table:
    """Lay the orders out as an Arrow table with the columns of `dreamo_batch.columns.ORDERS`.

    Examples
    --------
    >>> to_arrow(State([Order("a1", 1, Stage.ACCEPTED)]), ["a1", "b2"]).column("stage").to_pylist()
    ['accepted', 'pending']
    """
    never = [job_id for job_id in pending if not state.of(job_id)]
    orders = list(state)
    arrays = [pa.array(chain(_cells(orders, f), _absent(never, f)), f.type) for f in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Give the orders as a DataFrame with the dtypes of `dreamo_batch.columns.ORDERS`.

    Examples
    --------
    >>> to_frame(to_arrow(State())).dtypes["order"]
    Int64Dtype()
    """
    frame: pd.DataFrame = table.to_pandas(types_mapper=_PANDAS.get)
    return frame


def read_table(path: Path) -> tuple[pa.Table, Meta]:
    """Read a checkpoint whole.

    Raises
    ------
    One of UNREADABLE
        If the file is missing, cut short, altered, or not a checkpoint.
    """
    # Opened once: a reader never mixes the file with the one that replaces it. Opened by Arrow, whose threads may
    # still let go of what they read while the interpreter ends, and must not need it for that.
    with pa.OSFile(str(path)) as file:
        table = pq.read_table(file, page_checksum_verification=True)
    note = _note(table.schema)
    if note.pop(_N_ROWS) != table.num_rows:
        raise ValueError(f"it has {table.num_rows} rows, not as many as were written")
    for name in set(SCHEMA.names) - set(table.column_names):
        if note["schema"] != 1 or name not in _ADDED:
            raise ValueError(f"it has no column {name}")
        table = table.append_column(name, pa.nulls(table.num_rows, SCHEMA.field(name).type))
    return table.select(SCHEMA.names).cast(SCHEMA), Meta(**note)


def read_meta(path: Path) -> Meta:
    """Read only what a checkpoint says of itself.

    Raises
    ------
    One of UNREADABLE
        As for `read_table`.
    """
    note = _note(pq.read_schema(path))
    del note[_N_ROWS]
    return Meta(**note)


def read_version(path: Path) -> int:
    """Read only the format of a checkpoint, which every version of this package puts in the same place.

    Raises
    ------
    One of UNREADABLE
        As for `read_table`.
    """
    return int(_note(pq.read_schema(path))["schema"])


def to_state(table: pa.Table) -> State:
    """Rebuild the orders from an Arrow table.

    Examples
    --------
    >>> state = State([Order("a1", 1, Stage.ACCEPTED, task_id="t")])
    >>> to_state(to_arrow(state, ["b2"])) == state
    True
    """
    state = State()
    readers = (_reader(field)(table.column(field.name)) for field in SCHEMA)
    for cells in zip(*readers, strict=True):
        if cells[_STAGE_AT] != _PENDING:
            state.put(_order(cells, state))
    return state


_STAGE_AT: Final = SCHEMA.names.index(columns.STAGE)
_ORDER_AT: Final = SCHEMA.names.index(columns.ORDER)


def rotate(folder: Path, fill: Callable[[Path], None]) -> None:
    """Put a new checkpoint in place and keep the one before."""
    current = folder / NAME
    fresh = folder / f".{NAME}{durable.TEMPORARY}"
    try:
        fill(fresh)
        durable.fsync_file(fresh)
        if current.exists():
            current.replace(folder / PREVIOUS)
        fresh.replace(current)
    finally:
        fresh.unlink(missing_ok=True)
    durable.fsync_folder(folder)


def _sealed(text: bytes) -> bytes:
    """Put a checksum before the text; Parquet guards the pages of a file, but not what it says of itself."""
    return b"%08x %b" % (zlib.crc32(text), text)


def _note(schema: pa.Schema) -> dict[str, Any]:
    checksum, text = schema.metadata[_META].split(b" ", 1)
    if checksum != b"%08x" % zlib.crc32(text):
        raise ValueError("what it says of itself was altered")
    note: dict[str, Any] = json.loads(text)
    return note


def _cells(orders: Sequence[Order], field: pa.Field) -> Iterable[Any]:
    values = map(attrgetter(field.name), orders)
    if field.name in _TIMES:
        return (None if at is None else round(at * _MICROSECONDS) for at in values)
    if field.name == columns.ORDER:
        return (order.order if order.stage in ORDERED else None for order in orders)
    return values


def _absent(job_ids: Sequence[str], field: pa.Field) -> Iterable[Any]:
    if field.name == columns.JOB_ID:
        return job_ids
    return [_PENDING if field.name == columns.STAGE else None] * len(job_ids)


def _reader(field: pa.Field) -> Callable[[pa.ChunkedArray], list[Any]]:
    if field.name in _TIMES:
        return lambda column: [
            None if at is None else at / _MICROSECONDS for at in column.cast(pa.int64()).to_pylist()
        ]
    return lambda column: column.to_pylist()


def _order(cells: tuple[Any, ...], state: State) -> Order:
    """Number an order that never reached the service by its place: it is always its job's last."""
    number = cells[_ORDER_AT] or len(state.of(cells[0])) + 1
    return Order(cells[0], number, Stage(cells[_STAGE_AT]), *cells[_STAGE_AT + 1 :])
