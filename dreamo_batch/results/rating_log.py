"""Append-only files of a run directory: ratings and choices, stored immediately.

Several processes may append at the same time: each waits for the file's lock, adds its lines to what is there by then,
and replaces the file durably. In an object store, what is appended at once is a separate file.
"""

from __future__ import annotations

import functools
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dreamo_batch import columns, files
from dreamo_batch.engine.attempts import schema_of
from dreamo_batch.engine.directory import UNREADABLE, RunDirectory
from dreamo_batch.errors import DirectoryError, StorageFailed, UsageError, warn
from dreamo_batch.jobs.cells import text_of
from dreamo_batch.jobs.fields import rating_columns
from dreamo_batch.text import quoted, user_name

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence
    from pathlib import Path

NAME: Final = "ratings.parquet"
RATING, PICK, REJECT, UNDO = "rating", "pick", "reject", "undo"
RATER_VARIABLE: Final = "DREAMO_RATER"
_LOCK_WAIT_S: Final = 30.0


def read_kept(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a file of a run directory, opened only once so that it is never mixed with its replacement."""
    try:
        with pa.OSFile(str(path)) as file:
            return pq.read_table(file, page_checksum_verification=True).select(schema.names).cast(schema)
    except FileNotFoundError:
        return schema.empty_table()


class GrowingTable:
    """An append-only table in a run directory."""

    def __init__(self, path: Path, described: Mapping[str, columns.Column]) -> None:
        self._path = path
        self._replica = RunDirectory(path.parent).replica
        self._schema = schema_of(described)
        self._dtypes = columns.dtypes(described)

    def exists(self) -> bool:
        """Whether anything was ever appended."""
        return self._path.exists() if self._replica is None else bool(self._replica.parts(self._path.name))

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines with the time of writing; they are on disk when this returns."""
        now = datetime.fromtimestamp(time.time(), UTC)
        added = pa.Table.from_pylist([{**line, columns.AT: now} for line in lines], self._schema)
        try:
            if self._replica is not None:
                content = pa.BufferOutputStream()
                pq.write_table(added, content, write_page_checksum=True)
                self._replica.add_part(self._path.name, content.getvalue().to_pybytes())
                return
            lock = filelock.FileLock(self._path.with_name(f".{self._path.name}.lock"))
            with lock.acquire(timeout=_LOCK_WAIT_S):
                whole = pa.concat_tables([self._read(), added])
                files.replace(self._path, functools.partial(pq.write_table, whole, write_page_checksum=True))
        except (OSError, filelock.Timeout) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageFailed(
                f"Can't write {self._path} ({reason}); the last rating is not kept. Free some space or check the "
                "permissions, and rate again."
            ) from error

    def frame(self) -> pd.DataFrame:
        """Return all lines, oldest first."""
        return self._read().to_pandas().astype(self._dtypes)

    def _read(self) -> pa.Table:
        paths = [self._path] if self._replica is None else self._replica.parts(self._path.name)
        return pa.concat_tables([self._schema.empty_table(), *map(self._read_file, paths)])

    def _read_file(self, path: Path) -> pa.Table:
        try:
            return read_kept(path, self._schema)
        except UNREADABLE as error:
            why = getattr(error, "strerror", None) or "it is damaged"
            raise DirectoryError(
                f"{path} can't be read ({why}). It is left unchanged: restore it, or move it away to start over."
            ) from error


def rating_table(run_dir: Path) -> GrowingTable:
    """Return the ratings of a run directory."""
    return GrowingTable(run_dir / NAME, columns.RATINGS)


def rater_named(rater: str | None) -> str:
    """Return the rater: the argument, or the environment variable, or the user's name."""
    if rater is None:
        rater = os.environ.get(RATER_VARIABLE)
    if rater:
        if not isinstance(rater, str) or not rater.strip():
            raise UsageError(f"rater must be a name, not {quoted(rater)}.")
        return text_of(rater.strip())
    return user_name()


def positions_in_force(keys: Iterable[Hashable], kinds: Iterable[str]) -> list[int]:
    """Return the positions of lines that count: for each key, the last rating and the last word not undone."""
    open_lines: dict[Hashable, list[tuple[bool, int]]] = {}
    for number, (key, kind) in enumerate(zip(keys, kinds, strict=True)):
        lines = open_lines.setdefault(key, [])
        if kind != UNDO:
            lines.append((kind == RATING, number))
        elif lines:
            lines.pop()
    last = {(key, is_rating): number for key, lines in open_lines.items() for is_rating, number in lines}
    return sorted(last.values())


def ratings_in_force(log: pd.DataFrame) -> list[int]:
    """Return the positions of a rating table's lines that count, for each rater and job."""
    return positions_in_force(zip(log[columns.JOB_ID], log[columns.RATER], strict=True), log[columns.KIND])


def by_job(run_dir: Path, rater: str | None = None) -> pd.DataFrame:
    """Return the columns `rating` and `picked` by job, from all raters or one."""
    log = rating_table(run_dir).frame()
    current = log.iloc[ratings_in_force(log)]
    if rater is not None:
        current = current[current[columns.RATER] == rater]
    is_rating = current[columns.KIND] == RATING
    rating = current[is_rating].groupby(columns.JOB_ID)[columns.VALUE].mean()
    words = current[~is_rating]
    balance = words[columns.KIND].map({PICK: 1, REJECT: -1}).astype(int).groupby(words[columns.JOB_ID]).sum()
    picked = (balance > 0).astype(columns.BOOL).mask(balance == 0)
    found = pd.DataFrame({columns.RATING: rating, columns.PICKED: picked})
    return columns.typed(found, columns.RATED).rename_axis(columns.JOB_ID)


def with_ratings(
    results: pd.DataFrame, folders: Sequence[Path], rater: str | None = None, *, is_needed: bool = False
) -> pd.DataFrame:
    """Return a table with current ratings, by all raters or one; the user's own columns stay."""
    try:
        rated = [folder for folder in dict.fromkeys(folders) if rating_table(folder).exists()]
        if not rated or any(name in results for name in {*columns.RATED}.difference(rating_columns(results))):
            return results
        known = pd.concat({str(folder): by_job(folder, rater) for folder in rated})
    except DirectoryError as error:  # pictures are useful without ratings
        if is_needed:
            raise
        warn(str(error))
        return results
    found = known.reindex(
        pd.MultiIndex.from_arrays([list(map(str, folders))[: len(results)], results[columns.JOB_ID]])
    )
    return results.assign(**{name: found[name].array for name in columns.RATED})
