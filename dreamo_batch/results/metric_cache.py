"""`metrics.parquet`: what was measured of the pictures of a run directory, so that it is measured once.

It is a file of its own: no lock is needed, and a run that is under way is not disturbed. It is replaced as a whole,
after what others have put there meanwhile was read again; should two write in the same moment, one's values are
measured once more. It can be deleted at any time.

Examples
--------
>>> from pathlib import Path
>>> Cache(Path("runs/none")).get(Key("00", "", "shape", "1")) is None
True
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dreamo_batch import columns
from dreamo_batch.execution import checkpoint, durable

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

NAME: Final = "metrics.parquet"
_SCHEMA: Final = pa.schema(
    [
        (columns.OUTPUT_SHA256, pa.string()),
        (columns.REFERENCE_SHA256, pa.string()),
        (columns.METRIC, pa.string()),
        (columns.VERSION, pa.string()),
        (columns.VALUE, pa.float64()),
        (columns.LOOK, pa.binary()),
    ]
)
_KEYS: Final = _SCHEMA.names[:4]


class Key(NamedTuple):
    """What a value belongs to; `reference` is empty for what is seen in the picture alone."""

    output: str
    reference: str
    metric: str
    version: str


class Value(NamedTuple):
    """A number, None where there was nothing to measure, or the look of a picture."""

    number: float | None = None
    look: bytes | None = None


class Cache:
    """Values by what they belong to; nothing is written before `save`.

    Parameters
    ----------
    run_dir : pathlib.Path
        The run directory.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> run_dir = Path(tempfile.mkdtemp())
    >>> cache = Cache(run_dir)
    >>> cache.put(Key("00", "", "shape", "1"), Value(0.5))
    >>> cache.save()
    >>> Cache(run_dir).get(Key("00", "", "shape", "1"))
    Value(number=0.5, look=None)
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / NAME
        self._known = _read(self._path)
        self._fresh: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """Give what was measured; None if nothing was."""
        return self._fresh.get(key) or self._known.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Take what was measured."""
        self._fresh[key] = value

    def save(self) -> None:
        """Write what is new beside what is there by now; a directory that can't be written to is only warned of."""
        if not self._fresh:
            return
        table = _laid_out((self._known | _read(self._path, is_quiet=True)) | self._fresh)
        try:
            durable.replace(
                self._path, lambda temporary: pq.write_table(table, temporary, write_page_checksum=True)
            )
        except OSError as error:
            warnings.warn(
                f"{self._path} can't be written ({error.strerror or error}): what was measured is not kept, and is "
                "measured again next time",
                stacklevel=2,
            )


def _read(path: Path, *, is_quiet: bool = False) -> dict[Key, Value]:
    try:
        # Opened once, so that it is never mixed with the one that replaces it.
        with pa.OSFile(str(path)) as file:
            table = pq.read_table(file, page_checksum_verification=True).select(_SCHEMA.names).cast(_SCHEMA)
    except FileNotFoundError:
        return {}
    except (*checkpoint.UNREADABLE, KeyError) as error:
        if not is_quiet:
            warnings.warn(f"{path} can't be read ({error}): its pictures are measured again", stacklevel=2)
        return {}
    keys = zip(*(table[name].to_pylist() for name in _KEYS), strict=True)
    values = zip(table[columns.VALUE].to_pylist(), table[columns.LOOK].to_pylist(), strict=True)
    return {Key(*key): Value(*value) for key, value in zip(keys, values, strict=True)}


def _laid_out(values: dict[Key, Value]) -> pa.Table:
    rows = [(*key, *value) for key, value in values.items()]
    cells = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(cells, _SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)
