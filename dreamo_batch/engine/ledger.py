"""The ledger: checkpoint + journals = every attempt ever made in a run directory.

`Ledger` is the one writer; `read` is for everybody else and never blocks it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from dreamo_batch.engine import journal
from dreamo_batch.engine.attempts import Attempt, Event, Stage, State
from dreamo_batch.engine.checkpoint import (
    NAME,
    PREVIOUS,
    Meta,
    read_table,
    read_version,
    rotate,
    to_state,
    write,
)
from dreamo_batch.engine.directory import (
    SCHEMA_VERSION,
    UNREADABLE,
    Manifest,
    RunDirectory,
    is_same_place,
    new_entropy,
    refuse_newer,
    refuse_unknown_purchases,
)
from dreamo_batch.engine.journal import Kept, Strays, worth_keeping
from dreamo_batch.errors import DirectoryError, LedgerDamaged, OtherService
from dreamo_batch.text import same_call

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


logger = logging.getLogger(__name__)

_EVENTS_BEFORE_CHECKPOINT: Final = 2000
_READ_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the files of a ledger say, before anything is written.

    `snapshot`, `tail` and `cap` are the parts that `state` is folded from, `covers` the last journal that is in the
    snapshot, `meta` the newest word on whose ledger it is, `checksum` that of the last line of the last journal;
    `damaged` names checkpoints that can't be read, and `warnings` tell what was dropped. `strays` are files of
    attempts beside the journals.
    """

    snapshot: pa.Table | None
    tail: tuple[Event, ...]
    meta: Meta | None
    covers: int
    last_number: int
    checksum: int | None = None
    damaged: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    cap: str | None = None
    strays: tuple[Kept, ...] = ()

    def state(self, is_wanted: NDArray[np.bool_] | None = None) -> State:
        """Fold everything, or of the snapshot only the rows of the jobs that are wanted."""
        return self.folded(is_wanted)[0]

    def stray_attempts(self, service: str | None = None) -> list[Attempt]:
        """Give the attempts beside the journals that were sent to the service, by default that of the ledger."""
        known = self.meta.service if self.meta is not None else service
        return [attempt for kept in self.strays if kept.service == known for attempt in kept.attempts]

    def folded(
        self, is_wanted: NDArray[np.bool_] | None = None, service: str | None = None
    ) -> tuple[State, list[Event]]:
        """Fold everything as `state` does, and give the events that strays add to what the journals hold."""
        try:
            snapshot = self.snapshot
            if snapshot is not None and is_wanted is not None:
                snapshot = snapshot.filter(is_wanted)
            state = State() if snapshot is None else to_state(snapshot)
            state.cap = self.cap
            for event in self.tail:
                state.apply(event)
            added = journal.fold_strays(state, self.stray_attempts(service))
        except (
            Exception
        ) as error:  # an impossible event, fields nobody knows: whatever it is, it is the ledger's
            raise LedgerDamaged(f"the ledger contradicts itself: {error}. Restore it from a copy.") from error
        return state, added


def read(folder: Path) -> Recovered:
    """Read a ledger that may be written to at the same time."""
    for _ in range(_READ_TRIES):
        before = journal.numbers(folder)
        try:
            return _read_guarded(folder)
        except (FileNotFoundError, LedgerDamaged):
            if journal.numbers(folder) == before:  # nobody compacted it under our hands
                raise
    return _read_guarded(folder)


def _read_guarded(folder: Path) -> Recovered:
    """Read once; what a damaged file makes the code trip over is told as damage, never as a bare exception."""
    try:
        return _read_once(folder)
    except (DirectoryError, OSError):
        raise
    except Exception as error:
        raise LedgerDamaged(
            f"the ledger in {folder} can't be read ({type(error).__name__}: {error}). Restore it from a copy."
        ) from error


def _read_once(folder: Path) -> Recovered:
    end = journal.read_end(folder)  # first: by the time the journal is read it may only have grown
    beside = journal.read_strays(folder)  # before the journals, which know them before they are deleted
    snapshot, meta, damaged = _newest_checkpoint(folder)
    covers, cap = (meta.covers, meta.cap) if meta else (0, None)
    present = journal.numbers(folder)
    wanted = [number for number in present if number > covers]
    _refuse_gaps(covers, wanted, end, folder, is_followed=meta is not None and meta.is_followed)
    warnings = [f"{text}; what came before it and the journals are used instead" for text in damaged.values()]
    tail: list[Event] = []
    checksum: int | None = None
    n_before = 0
    for number in wanted:
        path = journal.path_of(folder, number)
        contents = journal.read(path)
        meta = _newer(meta, contents.header, number, covers)
        if not _follows(contents.header, checksum):
            _drop_late_events(tail, n_before, contents.header, number, folder)
        _refuse_early_end(contents, end, number, folder)
        checksum, n_before = contents.checksum, len(tail)
        tail += contents.events
        cap = contents.caps[-1] if contents.caps else cap
        if contents.n_torn_bytes:
            warnings.append(
                f"{path.name}: the last {contents.n_torn_bytes} bytes were cut off in the middle of a write "
                "and were dropped; nothing that was acknowledged is lost"
            )
    last_number = max([covers, *present])
    return Recovered(
        snapshot,
        tuple(tail),
        meta,
        covers,
        last_number,
        checksum,
        tuple(damaged),
        tuple(warnings),
        cap,
        beside,
    )


def _newest_checkpoint(folder: Path) -> tuple[pa.Table | None, Meta | None, dict[str, str]]:
    """Give the newest checkpoint that can be read, and what is wrong with those that can't."""
    damaged: dict[str, str] = {}
    for name in (NAME, PREVIOUS):
        path = folder / name
        try:
            table, meta = read_table(path)
        except FileNotFoundError:
            damaged |= _missing(name, folder)
            continue
        except UNREADABLE as error:
            _refuse_newer_checkpoint(path)
            damaged[name] = f"{name} can't be read ({error})"
            continue
        return table, meta, damaged
    return None, None, damaged


def _missing(name: str, folder: Path) -> dict[str, str]:
    """Say that the newest checkpoint is gone, where there was one: the one before it shows that."""
    was_there = name == NAME and (folder / PREVIOUS).exists()
    return {name: f"{name} is missing"} if was_there else {}


def _refuse_newer_checkpoint(path: Path) -> None:
    """Tell a checkpoint of a newer format from a damaged one."""
    try:
        version_of_format = read_version(path)
    except UNREADABLE:
        return
    refuse_newer(version_of_format, path)


def _refuse_gaps(
    covers: int, wanted: list[int], end: journal.End | None, folder: Path, *, is_followed: bool
) -> None:
    last = max(covers + max(len(wanted), is_followed), end.number if end is not None else 0)
    expected = list(range(covers + 1, last + 1))
    if wanted != expected:
        missing = next(number for number in expected if number not in wanted)
        raise LedgerDamaged(
            f"{journal.path_of(folder, missing).name} is missing in {folder}, and no checkpoint covers it. "
            "What it recorded as bought is unknown, so nothing more is bought here. Restore the file from a "
            "copy, or start a new run directory."
        )


def _follows(header: journal.Header | None, checksum: int | None) -> bool:
    return header is None or None in (header.follows, checksum) or header.follows == checksum


def _drop_late_events(
    tail: list[Event], n_before: int, header: journal.Header | None, number: int, folder: Path
) -> None:
    """Drop what a writer that had lost its lock wrote after the next one had read its journal; it is in its strays.

    A journal that ends before the place where the next one went on is refused.
    """
    before, path = journal.path_of(folder, number - 1), journal.path_of(folder, number)
    follows = None if header is None else header.follows
    n_events = None if follows is None else journal.n_events_until(before, follows)
    if n_events is not None:
        del tail[n_before + n_events :]
        return
    raise LedgerDamaged(
        f"{before.name} does not end where {path.name} went on: lines at its end are lost, and with them what they "
        "recorded as bought. Nothing is bought on the word of a damaged ledger; restore the file from a copy."
    )


def _refuse_early_end(contents: journal.Contents, end: journal.End | None, number: int, folder: Path) -> None:
    """Refuse a journal that ends before what was on the disk once."""
    if end is None or end.number != number or contents.n_bytes >= end.n_bytes:
        return
    raise LedgerDamaged(
        f"{journal.path_of(folder, number).name} has lost {end.n_bytes - contents.n_bytes} bytes at its end, and with "
        "them what they recorded as bought. Nothing is bought on the word of a damaged ledger; restore the file from "
        f"a copy. Where there is none, deleting {journal.END_NAME} accepts the loss: what those lines recorded as "
        "bought may be bought again."
    )


def _newer(meta: Meta | None, header: journal.Header | None, number: int, covers: int) -> Meta | None:
    if header is None:  # killed while the file was being made: nothing was recorded in it
        return meta
    if header.number != number or (meta is not None and not _is_of_same_run(meta, header)):
        raise LedgerDamaged(
            f"the journal in place {number} is number {header.number} of a run with {header.service}, and does not "
            "belong there. Files of two run directories were mixed, or renamed; put each back where it came from."
        )
    return Meta(header.schema, covers, header.generation, header.entropy, header.service, place=header.place)


def _is_of_same_run(meta: Meta, header: journal.Header) -> bool:
    is_later = header.generation >= meta.generation
    return is_later and (meta.entropy, meta.service) == (header.entropy, header.service)


def peek_entropy(directory: RunDirectory) -> str | None:
    """Give what a directory draws its seeds from, without opening it; None for a new one."""
    manifest = directory.read_manifest()
    if manifest is not None:
        return manifest.entropy
    try:
        meta = read(directory.path).meta if directory.path.is_dir() else None
        beside = journal.read_strays(directory.path)
    except OSError as error:
        raise DirectoryError(
            f"{directory.path} can't be read ({error.strerror or error}). Mend its permissions, or the disk."
        ) from error
    known = [kept.entropy for kept in beside] if meta is None else [meta.entropy]
    return known[-1] if known else None


class Ledger:
    """The open ledger of a run directory: the one place that writes what was submitted."""

    def __init__(self, directory: RunDirectory, service: str, entropy: str | None = None) -> None:
        self.directory = directory
        recovered = read(directory.path)
        manifest = _reconcile(directory, recovered, service, entropy)
        self.warnings = recovered.warnings
        self.state, stray_events = recovered.folded(service=service)
        refuse_unknown_purchases(directory, self.state)
        self.entropy = manifest.entropy
        self.service = manifest.service
        self.generation = manifest.generation + 1
        self._n_since = len(recovered.tail)
        self._unwritten: list[Event] = []
        self._covered_before = recovered.covers
        here, before = directory.place(), "" if recovered.meta is None else recovered.meta.place
        self.is_copy = not is_same_place(before, here)
        self._place = before if self.is_copy else here
        self._strays = Strays(directory.path, directory.folder_fd, self.service, self.entropy)
        self._is_all_aside = False
        _set_aside(directory.path, recovered.damaged)
        self._journal = self._open_journal(recovered.last_number + 1, recovered.checksum)
        try:
            self._journal.append(stray_events)
            self._journal.commit()
            for kept in recovered.strays:
                if kept.service == self.service:
                    journal.remove_strays(kept)
            directory.write_manifest(_opened(manifest, self.generation))
        except BaseException:
            self.abandon()
            raise

    def record(self, events: Iterable[Event]) -> list[Attempt]:
        """Fold events in and put them in the journal's buffer; they count once `commit` has returned."""
        events = list(events)
        attempts = [self.state.apply(event) for event in events]
        self._journal.append(events)
        self._unwritten += events
        self._n_since += len(events)
        return attempts

    def set_cap(self, cap: str | None, at: float) -> None:
        """Put a cap in force, USD as exact decimal text, None for no cap; it counts once `commit` has returned."""
        if cap != self.state.cap:
            self._journal.set_cap(cap, at)
            self.state.cap = cap

    def commit(self) -> None:
        """Make everything recorded durable."""
        if not self.directory.is_lost():  # else the journal may be somebody else's to go on from
            try:
                self._journal.commit()
            except FileNotFoundError:  # it was deleted
                self._keep_aside()
                raise
        # Asked after the write, too: a writer that came in between may have read the journal before it.
        if self.directory.is_lost():
            self._keep_aside()
            self.directory.refuse_loss()
        self._unwritten.clear()

    def _keep_aside(self) -> None:
        """Write what changed beside the journals, or everything where they are gone."""
        if self._journal.is_deleted() and not self._is_all_aside:
            self._strays.write(worth_keeping(self.state))
            self._is_all_aside = True
        changed = dict.fromkeys((event.job_id, event.attempt) for event in self._unwritten)
        self._strays.write(attempt for key in changed if (attempt := self.state.find(*key)) is not None)
        self._unwritten.clear()

    def unwritten(self) -> tuple[Event, ...]:
        """Give the events that are not on the disk."""
        return tuple(self._unwritten)

    def is_checkpoint_due(self) -> bool:
        """Whether enough has happened since the last checkpoint; intervals grow with the state."""
        return self._n_since >= max(_EVENTS_BEFORE_CHECKPOINT, len(self.state))

    def checkpoint(self, pending: Iterable[str]) -> None:
        """Start a new journal and write the state so far beside it."""
        self.commit()
        covered = self._journal.header.number
        fresh = self._open_journal(covered + 1, self._journal.checksum)
        self._journal.close()
        self._journal = fresh
        self._cover(covered, pending, is_followed=True)

    def close(self, pending: Iterable[str]) -> None:
        """Write a last checkpoint and close."""
        try:
            self.commit()
        except OSError:
            self.directory.refuse_loss()  # else a checkpoint could fall into the hands of another writer
            self._cover(self._journal.header.number, pending, is_followed=False)
            self._unwritten.clear()
            raise
        self._cover(self._journal.header.number, pending, is_followed=False)
        self._journal.close()

    @property
    def covers(self) -> int:
        """Number of the last journal that the newest checkpoint covers."""
        return self._covered_before

    def abandon(self) -> None:
        """Close without writing anything more, as when the disk is gone."""
        self._journal.close()
        self._strays.close()

    def adopt(self, pending: Iterable[str]) -> None:
        """Make a copy of a run directory one of its own, that may buy."""
        self._place, self.is_copy = self.directory.place(), False
        self.checkpoint(pending)

    def _cover(self, covered: int, pending: Iterable[str], *, is_followed: bool) -> None:
        """Write a checkpoint of all up to a journal, and remove the journals that two checkpoints cover."""
        meta = Meta(
            SCHEMA_VERSION,
            covered,
            self.generation,
            self.entropy,
            self.service,
            is_followed=is_followed,
            cap=self.state.cap,
            place=self._place,
        )
        folder = self.directory.path
        rotate(folder, lambda path: write(path, self.state, pending, meta))
        self._n_since = 0
        for number in journal.numbers(folder):
            if number <= self._covered_before:
                journal.path_of(folder, number).unlink()
        self._covered_before = covered

    def _open_journal(self, number: int, follows: int | None) -> journal.Journal:
        header = journal.Header(
            SCHEMA_VERSION, number, self.generation, self.entropy, self.service, follows, self._place
        )
        return journal.Journal(self.directory.path, header)


def interrupted(state: State) -> list[Attempt]:
    """List the attempts that were on the wire when the last writer died."""
    return [attempt for attempt in state if attempt.stage is Stage.SENDING]


def _set_aside(folder: Path, damaged: Iterable[str]) -> None:
    """Keep a damaged checkpoint from taking the place of a good one."""
    for name in damaged:
        path = folder / name
        if path.exists():
            path.replace(path.with_stem(f"{path.stem}-damaged"))


def _opened(manifest: Manifest, generation: int) -> Manifest:
    return replace(
        manifest, generation=generation, schema=SCHEMA_VERSION, package_version=version("dreamo-batch")
    )


def _reconcile(directory: RunDirectory, recovered: Recovered, service: str, entropy: str | None) -> Manifest:
    """Join manifest and ledger, and refuse where they show purchases that the ledger has lost."""
    manifest, meta = directory.read_manifest(), recovered.meta
    is_traced = bool(recovered.stray_attempts(service))  # then each purchase has to be among these
    if (
        meta is None
        and not is_traced
        and (directory.has_purchases() or (manifest and manifest.generation > 0))
    ):
        raise LedgerDamaged(
            f"{directory.path} shows signs of earlier purchases (pictures, results or run.json) but its ledger "
            "(checkpoint and journals) is gone. Buying again could pay twice, so nothing is bought. Restore the "
            "ledger from a copy, or start a new run directory."
        )
    if meta is None:
        return manifest or Manifest(service=service, entropy=entropy or new_entropy())
    refuse_newer(meta.schema, directory.path)
    if manifest is None:
        logger.warning("run.json is missing in %s and is rebuilt from the ledger", directory.path)
        manifest = Manifest(service=meta.service, entropy=meta.entropy)
    _refuse_mixture(directory, manifest, meta)
    refuse_other_service(directory, meta.service, service)
    refuse_other_entropy(directory, meta.entropy, entropy)
    return replace(manifest, generation=meta.generation)


def _refuse_mixture(directory: RunDirectory, manifest: Manifest, meta: Meta) -> None:
    """Refuse a manifest and a ledger that are not of one directory at one time."""
    if (manifest.entropy, manifest.service) != (meta.entropy, meta.service):
        raise LedgerDamaged(
            f"run.json in {directory.path} belongs to another run (service {manifest.service}) than its ledger "
            f"(service {meta.service}). Files of two run directories were mixed; put each back where it came from."
        )
    if manifest.generation > meta.generation:
        raise LedgerDamaged(
            f"run.json in {directory.path} knows of {manifest.generation} openings, the ledger only of "
            f"{meta.generation}: newer journals are missing. Restore them from a copy, or start a new run directory."
        )


def refuse_other_service(directory: RunDirectory, known: str, asked: str) -> None:
    """Refuse to mix the results of two services."""
    if known != asked:
        raise OtherService(
            f"{directory.path} belongs to the service {known}, and this call would use {asked}. Results of two "
            "services are never mixed: use another run directory, or the base URL the run was started with."
        )


def refuse_other_entropy(directory: RunDirectory, known: str, used: str | None) -> None:
    """Refuse a table whose seeds were drawn for another directory: every seedless row would be bought again."""
    if used not in (None, known):
        raise DirectoryError(
            f"{directory.path} was made by another call while this one prepared its table; run {same_call()} again."
        )
