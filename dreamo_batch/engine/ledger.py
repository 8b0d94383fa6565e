"""The ledger: every attempt of a run directory, read from its checkpoint and journals.

`Ledger` is the only writer; `read` is for everybody else and never blocks it.
"""

from __future__ import annotations

import errno
import hashlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from dreamo_batch import files
from dreamo_batch.engine import checkpoint, journal
from dreamo_batch.engine.attempts import (
    NO_TERMS,
    SCHEMA,
    Attempt,
    Event,
    EventKind,
    Key,
    Stage,
    State,
    StoredAttempts,
    Terms,
    absent,
    fold_lines,
    to_arrow,
)
from dreamo_batch.engine.directory import (
    SCHEMA_VERSION,
    UNREADABLE,
    Manifest,
    RunDirectory,
    is_same_file,
    new_entropy,
    refuse_newer,
)
from dreamo_batch.engine.journal import Stray, Strays
from dreamo_batch.engine.pictures import unknown_purchases
from dreamo_batch.errors import DirectoryError, LedgerDamaged, OtherService, logger_named
from dreamo_batch.text import local_option, option, same_call

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


logger = logger_named(__name__)

_EVENTS_BEFORE_CHECKPOINT: Final = 2000
_EVENTS_PER_ROW: Final = 1 / 4  # of four in all: at most 16 times as many rows are written as a table has
_COPIED: Final = "copied-"  # prefix of the identity of a copy that nobody has adopted
_READ_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Recovered:
    """The content of a ledger's files."""

    snapshot: pa.Table | None
    texts: tuple[memoryview, ...]  # the lines of the events since the snapshot
    meta: checkpoint.Meta | None  # the newest: of the last journal, or else of the checkpoint
    covers: int  # the last journal in the snapshot
    last_number: int
    checksum: int | None  # of the last journal's last line
    damaged: tuple[str, ...]  # unreadable checkpoints
    warnings: tuple[str, ...]  # about what was dropped
    terms: Terms
    strays: tuple[Stray, ...]

    def state(self) -> State:
        """Fold all events into the state."""
        return self.folded()[0]

    @property
    def n_events(self) -> int:
        """Count the events not covered by a checkpoint."""
        return sum(bytes(text).count(b"\n") for text in self.texts)

    def stray_attempts(self, service: str | None) -> list[Attempt]:
        """Return the stray attempts of the ledger's service, or of `service` if the ledger is new."""
        known = self.meta.service if self.meta is not None else service
        return [attempt for kept in self.strays if kept.service == known for attempt in kept.attempts]

    def folded(self, service: str | None = None) -> tuple[State, list[Event]]:
        """Return the state, and the events that strays add to it."""
        strays = self.stray_attempts(service)
        try:
            known = StoredAttempts(SCHEMA.empty_table() if self.snapshot is None else self.snapshot)
            jobs = {stray.job_id for stray in strays}
            plain, others = fold_lines(self.texts, known, jobs)
            events = list(map(journal.event_of, others))
            state = State(known.attempts_of(jobs | {event.job_id for event in events}), self.terms)
            for event in events:
                state.apply(event)
            added = journal.fold_strays(state, strays)
            state.stored = StoredAttempts(pa.concat_tables([known.table, plain]))
        except LedgerDamaged:
            raise
        # An impossible event or unknown fields: whatever it is, the files are at fault.
        except Exception as error:
            raise LedgerDamaged(f"The ledger contradicts itself: {error}. Restore it from a copy.") from error
        return state, added


def read(folder: Path, names: Sequence[str] = SCHEMA.names) -> Recovered:
    """Read a ledger, even while it is written to; `names` limits which columns of the checkpoint are read."""
    for _ in range(_READ_TRIES):
        before = journal.numbers(folder)
        try:
            return _read_guarded(folder, names)
        except (FileNotFoundError, LedgerDamaged):
            if journal.numbers(folder) == before:  # not compacted meanwhile
                raise
    return _read_guarded(folder, names)


def _read_guarded(folder: Path, names: Sequence[str]) -> Recovered:
    """Read the ledger once, and turn unexpected errors into LedgerDamaged."""
    try:
        return _read_once(folder, names)
    except (DirectoryError, OSError):
        raise
    except Exception as error:
        raise LedgerDamaged(
            f"Can't read the ledger in {folder} ({type(error).__name__}: {error}). Restore it from a copy."
        ) from error


def _read_once(folder: Path, names: Sequence[str]) -> Recovered:
    end = journal.read_end(folder)  # first, because the journal can only have grown by the time it is read
    beside = journal.read_strays(folder)  # before the journals, to which they are moved
    snapshot, meta, damaged = _newest_checkpoint(folder, names)
    covers, terms = (meta.covers, meta.terms) if meta else (0, NO_TERMS)
    present = journal.numbers(folder)
    wanted = [number for number in present if number > covers]
    _refuse_gaps(covers, wanted, end, folder, is_followed=meta is not None and meta.is_followed)
    warnings = [f"{text}; used the previous checkpoint and the journals instead" for text in damaged.values()]
    texts: dict[int, tuple[memoryview, ...]] = {}
    checksum = None if meta is None else meta.checksum
    for number in wanted:
        path = journal.path_of(folder, number)
        contents = journal.read(path)
        meta = _newer(meta, contents.header, number, covers)
        follows = None if contents.header is None else contents.header.follows
        if follows is not None and checksum not in (None, follows):
            before = _texts_before(follows, number, folder)
            if number - 1 > covers:  # otherwise they are in the checkpoint
                texts[number - 1] = before
        _refuse_early_end(contents, end, number, folder)
        checksum, texts[number] = contents.checksum, contents.texts
        terms = replace(terms, **contents.terms)
        if contents.n_torn_bytes:
            warnings.append(
                f"{path.name}: dropped {contents.n_torn_bytes} bytes of an unfinished write at its end; no recorded "
                "attempt is lost"
            )
    last_number = max([covers, *present])
    return Recovered(
        snapshot,
        tuple(chain.from_iterable(texts.values())),
        meta,
        covers,
        last_number,
        checksum,
        tuple(damaged),
        tuple(warnings),
        terms,
        beside,
    )


def _newest_checkpoint(
    folder: Path, names: Sequence[str]
) -> tuple[pa.Table | None, checkpoint.Meta | None, dict[str, str]]:
    """Return the newest readable checkpoint, and why newer ones can't be read."""
    damaged: dict[str, str] = {}
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        path = folder / name
        try:
            table, meta = checkpoint.read(path, names) if names else (None, checkpoint.read_meta(path))
        except FileNotFoundError:
            if name == checkpoint.NAME and (folder / checkpoint.PREVIOUS).exists():
                damaged[name] = f"{name} is missing"
            continue
        except UNREADABLE as error:
            with suppress(*UNREADABLE):
                refuse_newer(checkpoint.read_version(path), path)
            damaged[name] = f"{name} can't be read ({error})"
            continue
        return table, meta, damaged
    return None, None, damaged


def _refuse_gaps(
    covers: int, wanted: list[int], end: journal.End | None, folder: Path, *, is_followed: bool
) -> None:
    last = max(covers + max(len(wanted), is_followed), end.number if end is not None else 0)
    expected = list(range(covers + 1, last + 1))
    if wanted != expected:
        missing = next(number for number in expected if number not in wanted)
        raise LedgerDamaged(
            f"{journal.path_of(folder, missing).name} is missing in {folder}, and no checkpoint covers it. "
            "Its purchases are unknown, so nothing more is bought here. Restore the file from a copy, or start a new "
            "run directory."
        )


def _texts_before(follows: int, number: int, folder: Path) -> tuple[memoryview, ...]:
    """Read a journal again, up to the line that the next journal follows."""
    before, path = journal.path_of(folder, number - 1), journal.path_of(folder, number)
    with suppress(FileNotFoundError):  # what a writer without its lock wrote later is in its strays
        contents = journal.read(before, follows)
        if contents.checksum == follows:
            return contents.texts
    raise LedgerDamaged(
        f"{before.name} has lost lines at its end: {path.name} follows a line that is missing. They may record "
        "purchases, so nothing is bought while the ledger is damaged. Restore the file from a copy."
    )


def _refuse_early_end(contents: journal.Contents, end: journal.End | None, number: int, folder: Path) -> None:
    """Raise if a journal is shorter than it once was on disk."""
    if end is None or end.number != number or contents.n_bytes >= end.n_bytes:
        return
    raise LedgerDamaged(
        f"{journal.path_of(folder, number).name} has lost {end.n_bytes - contents.n_bytes} bytes at its end. They may "
        "record purchases, so nothing is bought while the ledger is damaged. Restore the file from a copy. Without a "
        f"copy, deleting {journal.END_NAME} and passing {option('adopt_copy', value=True)} accepts the loss: the jobs "
        "in those lines may be bought again."
    )


def _newer(
    meta: checkpoint.Meta | None, header: journal.Header | None, number: int, covers: int
) -> checkpoint.Meta | None:
    if header is None:  # killed while the file was being created: it is empty
        return meta
    run = (header.entropy, header.service)
    is_other = meta is not None and (
        (meta.entropy, meta.service) != run or header.generation < meta.generation
    )
    if header.number != number or is_other:
        raise LedgerDamaged(
            f"Journal {number} is number {header.number} of a run with {header.service} and doesn't belong here. Files "
            "of two run directories were mixed, or renamed. Put each back where it came from."
        )
    return checkpoint.Meta(header.schema, covers, header.generation, *run, place=header.place)


@contextmanager
def reading(directory: RunDirectory) -> Iterator[None]:
    """Turn errors while reading a run directory into DirectoryError, with what to check."""
    try:
        yield
    except OSError as error:
        raise DirectoryError(
            f"Can't read {error.filename or directory.path} ({error.strerror or error}). Check its permissions and "
            "the disk."
        ) from error


def peek_entropy(directory: RunDirectory) -> str | None:
    """Return the entropy for drawing seeds in a directory, without opening it; None for a new directory."""
    manifest = directory.read_manifest()
    if manifest is not None:
        return manifest.entropy
    with reading(directory):
        meta = read(directory.path).meta if directory.path.is_dir() else None
        beside = journal.read_strays(directory.path)
    known = [kept.entropy for kept in beside] if meta is None else [meta.entropy]
    return known[-1] if known else None


class Ledger:
    """The open ledger of a run directory, which no other code writes to."""

    def __init__(self, directory: RunDirectory, service: str, entropy: str | None = None) -> None:
        self.directory = directory
        recovered = read(directory.path)
        manifest = _reconcile(directory, recovered, service, entropy)
        self.warnings = recovered.warnings
        self.state, stray_events = recovered.folded(service=service)
        for trace in unknown_purchases(directory, self.state):
            raise LedgerDamaged(
                f"{trace} in {directory.name} shows a purchase that the ledger doesn't have: lines at its end were "
                "lost, or files of two run directories were mixed. Nothing was bought, because that could pay twice. "
                "Restore the ledger from a copy, or move the file away if it doesn't belong there."
            )
        self.entropy = manifest.entropy
        self.service = manifest.service
        self.generation = manifest.generation + 1
        self._n_since = recovered.n_events
        self._n_rows = 0 if recovered.snapshot is None else recovered.snapshot.num_rows
        self.unwritten: list[Event] = []  # not on disk yet
        self.n_recorded = 0
        self.covers = recovered.covers  # number of the last journal that the newest checkpoint covers
        self.is_closed = False
        self.interrupted: list[str] = []  # jobs whose attempts a dead process left on the wire
        self.is_copy, place = is_copied(recovered, directory), directory.folder_identity()
        before = "" if recovered.meta is None else recovered.meta.place  # by which a budget knows it
        self._place = f"{_COPIED}{place}" if self.is_copy else before or place  # until a copy is adopted
        self.strays = Strays(directory.path, directory.folder_fd, self.service, self.entropy)
        self._is_all_aside = False
        for path in map(directory.path.joinpath, recovered.damaged):
            if path.exists():  # a bad file must not replace a good one
                path.replace(path.with_stem(f"{path.stem}-damaged"))
        self._journal = self._open_journal(recovered.last_number + 1, recovered.checksum)
        try:
            self._journal.append(stray_events)
            self._journal.commit()
            for kept in recovered.strays:
                if kept.service == self.service:
                    journal.remove_strays(kept)
            manifest = replace(manifest, generation=self.generation, schema=SCHEMA_VERSION)
            directory.write_manifest(replace(manifest, package_version=version("dreamo-batch")))
        except BaseException:
            self.abandon()
            raise

    def record(self, events: Iterable[Event]) -> list[Attempt]:
        """Apply events and buffer them for the journal; they are durable once `commit` has returned."""
        events = list(events)
        attempts = [self.state.apply(event) for event in events]
        self._journal.append(events)
        self.unwritten += events
        self.n_recorded += len(events)
        self._n_since += len(events)
        return attempts

    def set_terms(self, at: float, **terms: str | None) -> None:
        """Set spending limits in USD as exact decimal text (None: no limit); they are durable after `commit`."""
        changed = {name: value for name, value in terms.items() if value != getattr(self.state.terms, name)}
        if changed:
            self._journal.set_terms(changed, at)
            self.state.terms = replace(self.state.terms, **changed)

    def commit(self) -> None:
        """Make everything recorded durable."""
        n_recorded = self.n_recorded
        try:
            self.write()
        except OSError as error:
            if isinstance(error, FileNotFoundError) or self.directory.replica is not None:
                self._write_strays()  # the journal or the directory is gone, or the store refuses it
            raise
        self.written(n_recorded)

    def write(self) -> None:
        """Write everything recorded to disk; another thread may record more meanwhile."""
        if not self.directory.is_lost():  # otherwise another run may already continue the journal
            self._journal.commit()
        # Checked again after the write: a writer that started in between may have read the journal before it.
        self.directory.refuse_loss()

    def written(self, n_recorded: int) -> None:
        """Note that the first n recorded events are durable."""
        del self.unwritten[: max(0, n_recorded - self.n_recorded + len(self.unwritten))]

    def _write_strays(self) -> None:
        """Write changed attempts to strays, or all attempts if the journal was deleted."""
        if self._journal.is_deleted() and not self._is_all_aside:
            self.strays.write(self.state)
            self._is_all_aside = True
        changed = dict.fromkeys((event.job_id, event.attempt) for event in self.unwritten)
        self.strays.write(attempt for key in changed if (attempt := self.state.find(*key)) is not None)
        self.unwritten.clear()
        if self.directory.replica is not None and self.strays.path is not None:
            with suppress(OSError):  # also in the folder, which the next call on this machine reads
                self.directory.replica.put_strays(self.strays.path)

    @contextmanager
    def strays_on_error(self, key: Key, result: object) -> Iterator[None]:
        """Write a task to strays if any error prevents the answer with its id from being recorded."""
        try:
            yield
        except BaseException:
            if isinstance(result, str) and (attempt := self.state.find(*key)) is not None:
                self.strays.write([replace(attempt, task_id=result)])
            raise

    def answers_in_strays(self) -> Iterator[Event]:
        """Yield events that settle attempts in doubt, from the answers that another writer kept in strays."""
        if self.directory.replica is not None:
            self.directory.replica.pull_strays()
        for kept in journal.read_strays(self.directory.path):
            for stray in kept.attempts if kept.service == self.service else ():
                for event in journal.events_of(self.state, stray):
                    attempt = self.state.find(event.job_id, event.attempt)
                    if attempt is not None and attempt.stage is Stage.AMBIGUOUS:
                        yield event

    def unwritten_tasks(self) -> list[Attempt]:
        """List the attempts whose task is in no file: those of unwritten events, or all if the journals are gone."""
        if self._journal.is_deleted() and not self._is_all_aside and self.directory.is_lost():
            return [attempt for attempt in self.state if attempt.task_id is not None]
        taken = [event for event in self.unwritten if event.kind is EventKind.ACCEPTED]
        found = (self.state.find(event.job_id, event.attempt) for event in taken)
        return [attempt for attempt in found if attempt is not None]

    def is_checkpoint_due(self) -> bool:
        """Whether enough has happened since the last checkpoint; the larger it is, the longer the interval."""
        return self._n_since >= max(_EVENTS_BEFORE_CHECKPOINT, self._n_rows * _EVENTS_PER_ROW)

    def checkpoint(self, pending: Iterable[str]) -> None:
        """Start a new journal, and write a checkpoint of everything before it."""
        self.commit()
        covered = self._journal.header.number
        fresh = self._open_journal(covered + 1, self._journal.checksum)
        self._journal.close()
        self._journal = fresh
        self._cover(self.state.stored.packed_with(self.state.changed), pending, is_followed=True)
        pa.default_memory_pool().release_unused()

    def close(self, pending: Iterable[str]) -> None:
        """Write a last checkpoint and close."""
        try:
            self.commit()
        except OSError:
            self.directory.refuse_loss()  # else the checkpoint could end up in another writer's directory
            self._cover(StoredAttempts(to_arrow(self.state)), pending, is_followed=False)
            self.unwritten.clear()
            raise
        self._cover(StoredAttempts(to_arrow(self.state)), pending, is_followed=False)
        self._journal.close()
        self.is_closed = True

    @property
    def identity(self) -> str:
        """An identifier of the directory that no other directory shares, not even a copy."""
        # By its inode number alone: several may be created at the same moment, and not every machine knows when.
        number, _, _ = self._place.removeprefix(_COPIED).partition("-")
        return hashlib.sha256(f"{self.entropy} {number}".encode()).hexdigest()[:16]

    def abandon(self) -> None:
        """Close without writing anything more, because the disk is gone."""
        self._journal.close()
        self.strays.close()

    def adopt(self, pending: Iterable[str]) -> None:
        """Make a copied run directory independent, so that it can buy."""
        self._place, self.is_copy = self.directory.folder_identity(), False
        if self.state.terms.slice is not None:  # the slice belongs to the original, which may still spend it
            self.state.terms = replace(self.state.terms, slice="0")
        self.checkpoint(pending)

    def _cover(self, stored: StoredAttempts, pending: Iterable[str], *, is_followed: bool) -> None:
        """Write a checkpoint of everything recorded, and remove journals covered by two; an open next one is empty."""
        header = self._journal.header
        covered = header.number - is_followed
        meta = checkpoint.Meta(
            SCHEMA_VERSION,
            covered,
            self.generation,
            self.entropy,
            self.service,
            is_followed=is_followed,
            terms=self.state.terms,
            place=self._place,
            checksum=header.follows if is_followed else self._journal.checksum,
        )
        folder, never = self.directory.path, absent(self.state, pending)
        files.replace(
            folder / checkpoint.NAME,
            lambda path: checkpoint.write(path, stored, never, meta),
            previous=folder / checkpoint.PREVIOUS,
        )
        self.state.store(stored)
        self._n_since, self._n_rows = 0, stored.n_attempts + len(never)
        if self.directory.replica is not None:
            self.directory.replica.checkpoint(covered)
        for number in journal.numbers(folder):
            if number <= self.covers:
                journal.path_of(folder, number).unlink()
        self.covers = covered

    def _open_journal(self, number: int, follows: int | None) -> journal.Journal:
        header = journal.Header(
            SCHEMA_VERSION, number, self.generation, self.entropy, self.service, follows, self._place
        )
        replica = self.directory.replica
        return journal.Journal(self.directory.path, header, None if replica is None else replica.ship)


def is_copied(recovered: Recovered, directory: RunDirectory) -> bool:
    """Whether a directory or its newest journal is a copy, or older than what it replaced."""
    before, folder = "" if recovered.meta is None else recovered.meta.place, directory.path
    is_older = directory.replica is None and journal.is_rolled_back(folder, recovered.covers)
    return is_older or not is_same_file(before, directory.folder_identity()) or journal.is_copied(folder)


def interrupted(state: State) -> list[Attempt]:
    """Return the attempts that were on the wire when the last writer died."""
    return [attempt for attempt in state.open() if attempt.stage is Stage.SENDING]


def _reconcile(directory: RunDirectory, recovered: Recovered, service: str, entropy: str | None) -> Manifest:
    """Combine manifest and ledger; raise if there are signs of purchases that the ledger lacks."""
    before, manifest, meta = directory.manifest, directory.read_manifest(), recovered.meta
    if before is not None and manifest is None and meta is None:
        raise FileNotFoundError(errno.ENOENT, "it was moved or deleted meanwhile", str(directory.path))
    if directory.is_sharded:
        raise DirectoryError(
            f"{directory.name} records its attempts in shards, on which run, resume, retry, resolve and download work."
        )
    is_traced = bool(recovered.stray_attempts(service))  # it must then explain every purchase
    has_bought = directory.has_purchases() or (manifest is not None and manifest.generation > 0)
    if meta is None and has_bought and not is_traced:
        raise LedgerDamaged(
            f"{directory.name} shows earlier purchases (pictures, results or run.json), but its ledger (checkpoint "
            "and journals) is missing. Nothing was bought, because that could pay twice. Restore the ledger from a "
            "copy, or start a new run directory."
        )
    if meta is None:
        return manifest or Manifest(service=service, entropy=entropy or new_entropy())
    refuse_newer(meta.schema, directory.path)
    if manifest is None:
        logger.warning(
            "Rebuilding run.json in %s from the ledger, because it is missing or unreadable", directory.path
        )
        manifest = Manifest(service=meta.service, entropy=meta.entropy)
    _refuse_mixture(directory, manifest, meta)
    refuse_other_service(directory, meta.service, service)
    refuse_other_entropy(directory, meta.entropy, entropy)
    return replace(manifest, generation=meta.generation)


def _refuse_mixture(directory: RunDirectory, manifest: Manifest, meta: checkpoint.Meta) -> None:
    """Raise if manifest and ledger don't belong together."""
    if (manifest.entropy, manifest.service) != (meta.entropy, meta.service):
        raise LedgerDamaged(
            f"run.json in {directory.name} belongs to another run (service {manifest.service}) than its ledger "
            f"(service {meta.service}). Files of two run directories were mixed; put each back where it came from."
        )
    if manifest.generation > meta.generation:
        raise LedgerDamaged(
            f"run.json in {directory.name} knows of {manifest.generation} openings, the ledger only of "
            f"{meta.generation}: newer journals are missing. Restore them from a copy, or start a new run directory."
        )


def refuse_other_service(directory: RunDirectory, known: str, asked: str) -> None:
    """Raise if a directory belongs to another service."""
    if known != asked:
        where = local_option() if directory.gateway.is_dir() else "the base URL that the run started with"
        raise OtherService(
            f"{directory.name} belongs to the service {known}, but this call would use {asked}. Results of two "
            f"services are never mixed. Use another run directory, or {where}."
        )


class OtherSeeds(DirectoryError):  # noqa: N818 - it names what the call has
    """A table's seeds were drawn before another call created the directory."""


def refuse_other_entropy(directory: RunDirectory, known: str, used: str | None) -> None:
    """Raise if a table's seeds were drawn for another directory: each row without a seed would be bought again."""
    if used not in (None, known):
        raise OtherSeeds(
            f"Another call created {directory.name} while this one prepared its table. Run {same_call()} again."
        )
