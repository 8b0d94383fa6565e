"""The Parquet files of a run: checkpoints of its attempts, the table of the last call, and results."""

from __future__ import annotations

import io
import json
import math
import numbers
import zlib
from dataclasses import asdict, astuple, dataclass
from functools import cache, lru_cache, partial
from itertools import chain, starmap
from operator import attrgetter
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dreamo_batch import columns, files
from dreamo_batch.engine.attempts import NO_TERMS, SCHEMA, HashPositions, StoredAttempts, Terms, with_all
from dreamo_batch.engine.directory import INPUTS, MANIFEST, UNREADABLE
from dreamo_batch.engine.replica import url_of
from dreamo_batch.errors import DirectoryError, logger_named, warn
from dreamo_batch.jobs.cells import is_missing, items_of, read_integer, text_of
from dreamo_batch.jobs.fields import image_columns
from dreamo_batch.jobs.links import canonical
from dreamo_batch.jobs.prepare import Job, Prepared
from dreamo_batch.jobs.references import OF_IMAGE, URL, ImageSource, kept_copy, pictures_in
from dreamo_batch.jobs.tables import holds_text, storable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence


logger = logger_named(__name__)

NAME: Final = "checkpoint.parquet"
PREVIOUS: Final = "checkpoint-previous.parquet"
_META: Final = b"dreamo_batch"
_N_ROWS: Final = "n_rows"
_GROUP: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Meta:
    """The metadata of a checkpoint."""

    schema: int
    covers: int  # the number of the last journal folded into it
    generation: int
    entropy: str
    service: str
    is_followed: bool = False  # the next journal was already open, so its absence is a loss
    terms: Terms = NO_TERMS
    place: str = ""  # the identity of the directory
    checksum: int | None = None  # of the last journal's last line


def write(path: Path, stored: StoredAttempts, never: pa.Table, meta: Meta) -> None:
    """Write the attempts, and the rows of jobs that were never submitted."""
    note = asdict(meta) | {_N_ROWS: stored.n_attempts + len(never)}
    schema = SCHEMA.with_metadata({_META: _sealed(json.dumps(note).encode())})
    # Most cells are distinct, and compression handles the rest as well as a dictionary would.
    with pq.ParquetWriter(path, schema, write_page_checksum=True, use_dictionary=False) as writer:
        for table in chain(stored.parts(), [never]):
            writer.write_table(table)


def read(path: Path, names: Sequence[str] = SCHEMA.names) -> tuple[pa.Table, Meta]:
    """Read a checkpoint; columns that aren't named are filled with nulls."""
    # Opened once, so that a reader never mixes the file with the one that replaces it; by Arrow, because its threads
    # may release the file while the interpreter shuts down.
    with pa.OSFile(str(path)) as file:
        stored = pq.ParquetFile(file, page_checksum_verification=True)
        # Group by group: decoding all strings at once would briefly take half as much memory again.
        groups = [stored.read_row_group(number, list(names)) for number in range(stored.num_row_groups)]
        table = pa.concat_tables(groups or [stored.schema_arrow.empty_table()])
    note = _note(table.schema)
    if note[_N_ROWS] != table.num_rows:
        raise ValueError(f"it has {table.num_rows} rows, not as many as were written")
    if missing := set(names) - set(table.column_names):
        raise ValueError(f"it has no column {min(missing)}")
    return with_all(table, SCHEMA), _meta_of(note)


def read_meta(path: Path) -> Meta:
    """Read only the metadata of a checkpoint."""
    return _meta_of(_note(pq.read_schema(path)))


def _meta_of(note: dict[str, Any]) -> Meta:
    known = {name: value for name, value in note.items() if name != _N_ROWS}
    return Meta(**known | {"terms": Terms(**note["terms"])})


def read_version(path: Path) -> int:
    """Read only the format version of a checkpoint, which every version stores in the same place."""
    return int(_note(pq.read_schema(path))["schema"])


def _sealed(text: bytes) -> bytes:
    """Prefix a text with its checksum; Parquet has checksums for pages, but not for metadata."""
    return b"%08x %b" % (zlib.crc32(text), text)


def _note(schema: pa.Schema) -> dict[str, Any]:
    checksum, text = schema.metadata[_META].split(b" ", 1)
    if checksum != b"%08x" % zlib.crc32(text):
        raise ValueError("its metadata was altered")
    note: dict[str, Any] = json.loads(text)
    return note


_PROBLEMS: Final = "problems"
ROWS: Final = columns.dtypes(columns.DECIDED_ROWS)
_JOB: Final = columns.dtypes(columns.DECIDED_JOBS)
_OUTCOME: Final = {name: dtype for name, dtype in ROWS.items() if name not in OF_IMAGE}


def _load_now() -> None:
    """Make pandas and Arrow import their Parquet code now, where no interrupt can leave it half imported."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(pd.DataFrame({"text": ["a"]})), file)
    file.seek(0)
    pd.read_parquet(file, engine="pyarrow")


_load_now()


@dataclass(frozen=True, slots=True)
class StoredTable:
    """The table of the last call: the user's frame, the decisions for its rows, and its id."""

    user: pd.DataFrame
    decided: pd.DataFrame
    table_id: str

    @property
    def rows(self) -> pd.DataFrame:
        """The columns that the results need."""
        return self.decided[list(ROWS)].astype(ROWS)

    @property
    def prepared(self) -> Prepared:
        """The jobs, rebuilt from the decisions; slow for a large table."""
        return Prepared(_jobs(self.decided), self.rows, _problems(self.decided[_PROBLEMS]), drawn=self.drawn)

    @property
    def drawn(self) -> frozenset[str]:
        """The ids of the jobs whose seed was drawn because their row had none."""
        ids = self.decided[columns.JOB_ID]
        if columns.SEED in self.user:
            given = [read_integer(cell).value for cell in self.user[columns.SEED]]
            ids = ids[[seed is None or seed < 0 for seed in given]]
        return frozenset(ids.dropna())


def _problem_texts(problems: pd.DataFrame) -> pd.Series:
    """Return each row's problems as JSON, by position."""
    of_rows: dict[int, list[Any]] = {}
    for record in json.loads(problems.to_json(orient="records")):
        of_rows.setdefault(record.pop(columns.POSITION), []).append(record)
    return pd.Series({position: json.dumps(found) for position, found in of_rows.items()}, dtype=columns.STR)


def _problems(texts: pd.Series) -> pd.DataFrame:
    found = [
        {columns.POSITION: position, **record}
        for position, text in texts.dropna().items()
        for record in json.loads(text)
    ]
    return columns.typed(pd.DataFrame(found, columns=list(columns.PROBLEMS)), columns.PROBLEMS)


_BLOCK: Final = 512


def describer(user: pd.DataFrame, rows: pd.DataFrame) -> Callable[[Job], str]:
    """Return a function that describes a job as JSON: its fields, and the user's columns of its first row."""
    ids = rows[columns.JOB_ID]
    places = cache(lambda: HashPositions(np.fromiter(map(hash, ids), np.int64, len(ids))))
    names = list(map(str, user.columns))

    @lru_cache(maxsize=1)
    def block(number: int) -> list[tuple[Any, ...]]:
        """Read many rows at once, because pandas takes as long for one."""
        part = user.iloc[number * _BLOCK : (number + 1) * _BLOCK]
        return list(zip(*(part.iloc[:, at].tolist() for at in range(len(names))), strict=True))

    def describe(job: Job) -> str:
        found = places().of(hash(job.job_id))
        place = min((place for place in found if ids.array[place] == job.job_id), default=None)
        cells = () if place is None else block(place // _BLOCK)[place % _BLOCK]
        described = {
            columns.ROW: None if place is None else text_of(user.index[place]),
            columns.PROMPT: job.prompt,
            columns.IMAGE_SOURCE: job.image.location,
            columns.IMAGE_DIGEST: job.image.digest,
            columns.SEED_SENT: job.seed,
            columns.WIDTH: job.width,
            columns.HEIGHT: job.height,
            columns.USE_REPHRASER: job.use_rephraser,
            columns.REPLICATE: job.replicate,
            columns.MODEL: job.model,
            **dict(job.own),
            "columns": dict(zip(names, map(_plain, cells), strict=False)),
        }
        if job.further:
            described[columns.IMAGES_FURTHER] = [[image.location, image.digest] for image in job.further]
        return json.dumps(described, ensure_ascii=False)

    return describe


def _plain(cell: Any) -> Any:
    """Return a cell as a JSON value; None for a missing cell or a picture in memory."""
    items = None if isinstance(cell, str) else items_of(cell)
    return _plain_item(cell) if items is None else list(map(_plain_item, items))


def _plain_item(cell: Any) -> Any:
    if isinstance(cell, bool | np.bool_):
        return bool(cell)
    if isinstance(cell, str | np.datetime64 | np.timedelta64):
        return None if pd.isna(cell) else text_of(cell)
    if isinstance(cell, numbers.Integral):
        return int(cell)
    if isinstance(cell, numbers.Real):
        return float(cell) if math.isfinite(cell) else None
    if is_missing(cell) or isinstance(cell, bytes | bytearray | memoryview) or hasattr(cell, "tobytes"):
        return None
    return text_of(cell)


def write_jobs(path: Path, user: pd.DataFrame, prepared: Prepared, table_id: str) -> None:
    """Store the user's table and the decisions for each row; warn about columns that can only be stored as text."""
    decided = pd.concat([prepared.rows[list(ROWS)], _job_columns(prepared)], axis=1)
    decided[_PROBLEMS] = _problem_texts(prepared.problems).reindex(decided.index)
    decided = decided.add_prefix(columns.STORED_PREFIX).set_axis(user.index, axis=0)
    changed = write_frame(path, pd.concat([user, decided], axis=1), {"table_id": table_id}, prepared)
    if changed:
        warn(f"Stored as text in the run directory, because Parquet can't hold it: {', '.join(changed)}.")


def _with_places(table: pd.DataFrame, prepared: Prepared) -> pd.DataFrame:
    """Replace pictures in memory by the paths of their stored copies, so that the table can be run again."""
    names = image_columns(table)
    if all(table[name].dtype != object or holds_text(table[name]) for name in names):
        return table
    jobs = map(prepared.jobs.get, prepared.rows[columns.JOB_ID])
    kept = [iter([] if job is None else [ref.location for ref in (job.image, *job.further)]) for job in jobs]
    placed = {name: list(map(_placed, table[name], kept)) for name in names}
    return table.assign(**{name: pd.Series(cells, table.index, object) for name, cells in placed.items()})


def _placed(cell: Any, kept: Iterator[str]) -> Any:
    pictures = [] if is_missing(cell) else pictures_in(cell)
    places = [(picture, next(kept, picture)) for picture in pictures]
    named = [str(picture) if isinstance(picture, str | PathLike) else place for picture, place in places]
    return str(named) if len(named) > 1 else named[0] if named else cell


def read_jobs(path: Path) -> StoredTable:
    """Read the table of the last call."""
    frame, meta = read_frame(path)
    user, decided = _split(frame, path, (*ROWS, *_JOB, _PROBLEMS))
    decided = _kept_here(decided.astype(dict.fromkeys(OF_IMAGE, columns.STR)), path.parent)
    return StoredTable(user, decided, str(meta.get("table_id")))


def read_distinct_jobs(path: Path) -> pd.DataFrame:
    """Return the decisions of the last call, one row per job; no rows if they can't be read."""
    try:
        decided = read_jobs(path).decided
    except DirectoryError:
        return pd.DataFrame(columns=[*ROWS, *_JOB]).astype(ROWS | _JOB)
    return decided[decided[columns.JOB_ID].notna()].drop_duplicates(columns.JOB_ID)


def read_outcomes(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read what the results of the last call need: the user's frame, and its jobs and errors."""
    needless = {columns.STORED_PREFIX + name for name in {*ROWS, *_JOB, _PROBLEMS} - set(_OUTCOME)}
    user, decided = _split(read_frame(path, needless)[0], path, tuple(_OUTCOME))
    return user, decided.astype(_OUTCOME)


def _split(frame: pd.DataFrame, path: Path, needed: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Separate the user's columns from the decisions."""
    is_decided = np.array(
        [isinstance(n, str) and n.startswith(columns.STORED_PREFIX) for n in frame], dtype=bool
    )
    decided = frame.loc[:, is_decided].reset_index(drop=True)
    decided.columns = decided.columns.str.removeprefix(columns.STORED_PREFIX)
    missing = [name for name in needed if name not in decided]
    if missing:
        raise DirectoryError(
            f"Can't read {path} (it has no column {missing[0]}). Run the table again on this directory; purchases are "
            "reused."
        )
    return frame.loc[:, ~is_decided], decided


def known_images(path: Path) -> dict[str, ImageSource]:
    """Return the reference pictures of the last call's table by absolute path or canonical URL."""
    fields = (*IMAGE, columns.IMAGES_FURTHER)
    names = [columns.STORED_PREFIX + name for name in fields]
    try:
        table = pq.read_table(path, columns=names, read_dictionary=names, page_checksum_verification=True)
        rows = table.select(names).to_pandas(ignore_metadata=True).drop_duplicates().set_axis(fields, axis=1)
    except UNREADABLE:
        return {}  # a first call, or a table about to be replaced
    rows = _kept_here(rows.astype(columns.STR).dropna(subset=list(IMAGE)), path.parent)
    images = starmap(ImageSource, references_of(rows)[list(IMAGE)].itertuples(index=False, name=None))
    return {canonical(image.location) if image.kind == URL else image.location: image for image in images}


def references_of(decided: pd.DataFrame) -> pd.DataFrame:
    """Return one row per reference picture of each row of a table, in order, with the index of its row."""
    names = [name for name in (columns.JOB_ID, *IMAGE) if name in decided]
    first = decided.loc[decided[columns.IMAGE_DIGEST].notna(), names]
    if columns.IMAGES_FURTHER not in decided or decided[columns.IMAGES_FURTHER].isna().all():
        return first
    further = _further(decided[columns.IMAGES_FURTHER])
    if columns.JOB_ID in decided:
        further[columns.JOB_ID] = decided[columns.JOB_ID].reindex(further.index)
    return pd.concat([first, further[names]]).sort_index(kind="stable")


def references_by_job(decided: pd.DataFrame) -> dict[str, list[ImageSource]]:
    """Return the reference pictures of each job of a table, in order."""
    found: dict[str, list[ImageSource]] = {}
    cells = references_of(decided)[[columns.JOB_ID, *IMAGE]].itertuples(index=False, name=None)
    for job_id, *image in cells:
        found.setdefault(job_id, []).append(ImageSource(*image))
    return found


def _further(texts: pd.Series) -> pd.DataFrame:
    """Read the pictures after the first, one per line, with the index of their row."""
    listed = [(label, *image) for label, text in texts.dropna().items() for image in json.loads(text)]
    return pd.DataFrame(listed, columns=["label", *IMAGE]).set_index("label").astype(columns.STR)


def write_frame(
    path: Path, frame: pd.DataFrame, meta: Mapping[str, Any], prepared: Prepared | None = None
) -> list[str]:
    """Write a frame and its index as Parquet, atomically; return the columns that had to be stored as text."""
    stored, changed = storable(frame if prepared is None else _with_places(frame, prepared))
    table = pa.Table.from_pandas(stored)
    metadata = (table.schema.metadata or {}) | {_META: json.dumps(dict(meta)).encode()}
    table = table.replace_schema_metadata(metadata)
    files.replace(path, lambda temporary: pq.write_table(table, temporary, _GROUP, write_page_checksum=True))
    return changed


def read_frame(path: Path, besides: Collection[str] = ()) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a frame that `write_frame` wrote, without some columns, and its metadata."""
    try:
        # Opened once and by Arrow, as in `read`.
        with pa.OSFile(str(path)) as file:
            names = [name for name in pq.read_schema(file).names if name not in besides]
            table = pq.read_table(file, columns=names, page_checksum_verification=True)
            return _to_frame(table), _meta(table.schema)
    except FileNotFoundError:
        place = url_of(path.parent) or path.parent
        what = "No table is stored in" if path.with_name(MANIFEST).exists() else "No run directory at"
        raise DirectoryError(f"{what} {place} (it has no {path.name}).") from None
    except UNREADABLE as error:
        raise DirectoryError(
            f"{path} can't be read ({error}). Run the table again on this directory; purchases are reused."
        ) from error


def _to_frame(table: pa.Table) -> pd.DataFrame:
    """Convert a stored table to a frame, without pandas' metadata if that can't be read."""
    try:
        return table.to_pandas()
    except Exception:  # another version of pandas may have written metadata that this one can't read
        logger.warning("Reading a stored table without pandas' metadata on dtypes and index", exc_info=True)
    notes = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
    index = [name for name in notes.get("index_columns", ()) if isinstance(name, str)]
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    return (
        frame.set_index(index).rename_axis([None if n.startswith("__index") else n for n in index])
        if index
        else frame
    )


def read_table_meta(path: Path) -> dict[str, Any]:
    """Read only the metadata of a frame."""
    return _meta(pq.read_schema(path))


def _meta(schema: pa.Schema) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((schema.metadata or {})[_META])
    return meta


def _kept_here(images: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Update the paths of stored pictures, because the run directory may have been moved."""
    now = cache(partial(kept_at, folder))

    def moved(text: str) -> str:
        return json.dumps([(*image, now(sent, digest), digest) for *image, sent, digest in json.loads(text)])

    known = images.loc[images[columns.IMAGE_SENT].notna(), [columns.IMAGE_SENT, columns.IMAGE_SENT_DIGEST]]
    found = starmap(now, known.itertuples(index=False, name=None))
    sent = pd.Series(list(found), known.index, columns.STR).reindex(images.index)
    further = images[columns.IMAGES_FURTHER].map(moved, na_action="ignore")
    return images.assign(**{columns.IMAGE_SENT: sent, columns.IMAGES_FURTHER: further})


def kept_at(folder: Path, location: str, digest: str) -> str:
    """Return the current path of a picture that was sent: its copy in the run directory, if there is one."""
    named = folder / INPUTS / Path(location).name
    copy = kept_copy(folder / INPUTS, digest) or (named if f"/{INPUTS}/" in location else None)
    return location if copy is None or not copy.is_file() else str(copy)


def _job_columns(prepared: Prepared) -> pd.DataFrame:
    ids = prepared.rows[columns.JOB_ID]
    rows = ids[ids.notna()]
    jobs = list(map(prepared.jobs.__getitem__, rows))
    return pd.DataFrame(
        {
            name: pd.Series(list(map(_READERS.get(name) or attrgetter(name), jobs)), rows.index, dtype)
            for name, dtype in _JOB.items()
        },
        index=ids.index,
    )


_READERS: Final[Mapping[str, Callable[[Job], str | None]]] = {
    columns.IMAGE_KIND: attrgetter("image.kind"),
    columns.IMAGES_FURTHER: lambda job: json.dumps(list(map(astuple, job.further))) if job.further else None,
    columns.OWN_PARAMETERS: lambda job: json.dumps(job.own) if job.own else None,
}


def _jobs(decided: pd.DataFrame) -> dict[str, Job]:
    first = decided[decided[columns.JOB_ID].notna() & decided[columns.DUPLICATE_OF].isna()]
    cells = zip(*(first[name].tolist() for name in (*IMAGE, *_FIELDS)), strict=True)
    jobs = (_job(row[: len(IMAGE)], dict(zip(_FIELDS, row[len(IMAGE) :], strict=True))) for row in cells)
    return {job.job_id: job for job in jobs}


# Columns in the order of the fields of `ImageSource`, and columns of the fields of `Job` by name.
IMAGE: Final = (columns.IMAGE_KIND, *OF_IMAGE)
_FIELDS: Final = (columns.JOB_ID, columns.SEED_SENT, *(name for name in _JOB if name != columns.IMAGE_KIND))
_RENAMED: Final = (columns.SEED_SENT, columns.IMAGES_FURTHER, columns.OWN_PARAMETERS)


def _job(image: tuple[Any, ...], fields: Mapping[str, Any]) -> Job:
    rest = {name: value for name, value in fields.items() if name not in _RENAMED}
    seed, further, own = (fields[name] for name in _RENAMED)
    return Job(
        image=ImageSource(*image),
        seed=seed,
        further=tuple(ImageSource(*ref) for ref in json.loads(further)) if isinstance(further, str) else (),
        own=tuple((name, tuple(cell) if isinstance(cell, list) else cell) for name, cell in json.loads(own))
        if isinstance(own, str)
        else (),
        **rest,
    )
