"""The ledger: checkpoint + journals = every order ever made in a run directory.

`Ledger` is the one writer; `read` is for everybody else and never blocks it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from dreamo_batch.errors import LedgerDamaged, OtherService
from dreamo_batch.execution import checkpoint, journal
from dreamo_batch.execution.directory import (
    SCHEMA_VERSION,
    Manifest,
    RunDirectory,
    new_entropy,
    refuse_newer,
)
from dreamo_batch.execution.state import Event, ImpossibleEvent, Order, Stage, State

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pyarrow as pa

logger = logging.getLogger(__name__)

_EVENTS_BEFORE_CHECKPOINT: Final = 2000
_READ_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the files of a ledger say, before anything is written.

    `snapshot` and `tail` are the parts that `state` is folded from; `warnings` tell what was dropped.
    """

    snapshot: pa.Table | None
    tail: tuple[Event, ...]
    meta: checkpoint.Meta | None
    last_number: int
    warnings: tuple[str, ...] = field(default=())

    def state(self) -> State:
        """Fold everything.

        Raises
        ------
        LedgerDamaged
            If an event can't follow what is known of its order.
        """
        state = State() if self.snapshot is None else checkpoint.to_state(self.snapshot)
        try:
            for event in self.tail:
                state.apply(event)
        except ImpossibleEvent as error:
            raise LedgerDamaged(
                f"the journal contradicts itself: {error}. Restore it from a copy."
            ) from error
        return state


def read(folder: Path) -> Recovered:
    """Read a ledger that may be written to at the same time.

    Parameters
    ----------
    folder : pathlib.Path
        The run directory.

    Returns
    -------
    Recovered

    Raises
    ------
    LedgerDamaged
        If what is left of the ledger can't show all that was bought.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> read(Path(tempfile.mkdtemp())).last_number
    0
    """
    for _ in range(_READ_TRIES):
        before = journal.numbers(folder)
        try:
            return _read_once(folder)
        except (FileNotFoundError, LedgerDamaged):
            if journal.numbers(folder) == before:  # nobody compacted it under our hands
                raise
    return _read_once(folder)


def _read_once(folder: Path) -> Recovered:
    snapshot, meta, warnings = _newest_checkpoint(folder)
    covers = meta.covers if meta else 0
    present = journal.numbers(folder)
    wanted = [number for number in present if number > covers]
    _refuse_gaps(covers, wanted, folder)
    tail: list[Event] = []
    for number in wanted:
        path = journal.path_of(folder, number)
        contents = journal.read(path)
        tail += contents.events
        meta = _newer(meta, contents.header, covers)
        if contents.n_torn_bytes:
            warnings.append(
                f"{path.name}: the last {contents.n_torn_bytes} bytes were cut off in the middle of a write "
                "and were dropped; nothing that was acknowledged is lost"
            )
    return Recovered(snapshot, tuple(tail), meta, max([covers, *present]), tuple(warnings))


def _newest_checkpoint(folder: Path) -> tuple[pa.Table | None, checkpoint.Meta | None, list[str]]:
    warnings = []
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            table, meta = checkpoint.read_table(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            refuse_newer_checkpoint(path)
            warnings.append(
                f"{name} can't be read ({error}); what came before it and the journals are used instead"
            )
            continue
        return table, meta, warnings
    return None, None, warnings


def refuse_newer_checkpoint(path: Path) -> None:
    """Tell a checkpoint of a newer format from a damaged one."""
    try:
        schema = checkpoint.read_meta(path).schema
    except (OSError, ValueError, KeyError, TypeError):
        return
    refuse_newer(schema, path)


def _refuse_gaps(covers: int, wanted: list[int], folder: Path) -> None:
    expected = list(range(covers + 1, covers + 1 + len(wanted)))
    if wanted != expected:
        missing = next(number for number in expected if number not in wanted)
        raise LedgerDamaged(
            f"{journal.path_of(folder, missing).name} is missing in {folder}, and no checkpoint covers it. "
            "What it recorded as bought is unknown, so nothing more is bought here. Restore the file from a "
            "copy, or start a new run directory."
        )


def _newer(
    meta: checkpoint.Meta | None, header: journal.Header | None, covers: int
) -> checkpoint.Meta | None:
    if header is None:  # killed while the file was being made: nothing was recorded in it
        return meta
    if meta is not None and (meta.entropy, meta.service) != (header.entropy, header.service):
        raise LedgerDamaged(
            f"journal {header.number} belongs to another run (service {header.service}, not {meta.service}). "
            "Files of two run directories were mixed; put each back where it came from."
        )
    return checkpoint.Meta(header.schema, covers, header.generation, header.entropy, header.service)


def peek_entropy(directory: RunDirectory) -> str | None:
    """Give what a directory draws its seeds from, without opening it; None for a new one."""
    manifest = directory.read_manifest()
    if manifest is not None:
        return manifest.entropy
    meta = read(directory.path).meta if directory.path.is_dir() else None
    return None if meta is None else meta.entropy


class Ledger:
    """The open ledger of a run directory: the one place that writes what was ordered.

    Parameters
    ----------
    directory : RunDirectory
        Locked by the caller.
    service : str
        Name of the service this call talks to.
    entropy : str, optional
        What a new directory draws its seeds from; one in use keeps its own.

    Raises
    ------
    LedgerDamaged
        If what is left of the ledger can't show all that was bought.
    OtherService
        If the directory belongs to another service.

    Examples
    --------
    >>> import tempfile
    >>> ledger = Ledger(RunDirectory(tempfile.mkdtemp()), "loopback")
    >>> ledger.generation
    1
    >>> ledger.close(pending=[])
    """

    def __init__(self, directory: RunDirectory, service: str, entropy: str | None = None) -> None:
        self.directory = directory
        recovered = read(directory.path)
        _set_damaged_aside(directory.path)
        manifest = _reconcile(directory, recovered, service, entropy or new_entropy())
        self.warnings = recovered.warnings
        self.state = recovered.state()
        self.entropy = manifest.entropy
        self.service = manifest.service
        self.generation = manifest.generation + 1
        self._n_since = len(recovered.tail)
        self._unwritten: list[Event] = []
        self._covered_before = _previous_covers(directory.path)
        self._journal = self._open_journal(recovered.last_number + 1)
        directory.write_manifest(_opened(manifest, self.generation))

    def record(self, events: Iterable[Event]) -> list[Order]:
        """Fold events in and put them in the journal's buffer; they count once `commit` has returned."""
        events = list(events)
        orders = [self.state.apply(event) for event in events]
        self._journal.append(events)
        self._unwritten += events
        self._n_since += len(events)
        return orders

    def commit(self) -> None:
        """Make everything recorded durable.

        Raises
        ------
        OSError
            If the disk is full, read-only or gone.
        """
        self._journal.commit()
        self._unwritten.clear()

    def unwritten(self) -> tuple[Event, ...]:
        """Give the events that are not on the disk."""
        return tuple(self._unwritten)

    def is_checkpoint_due(self) -> bool:
        """Whether enough has happened since the last checkpoint; intervals grow with the state."""
        return self._n_since >= max(_EVENTS_BEFORE_CHECKPOINT, len(self.state))

    def checkpoint(self, pending: Iterable[str]) -> None:
        """Start a new journal and write the state so far beside it."""
        covered = self._journal.header.number
        self._rotate(covered, pending)
        self._journal = self._open_journal(covered + 1)

    def close(self, pending: Iterable[str]) -> None:
        """Write a last checkpoint and close."""
        self._rotate(self._journal.header.number, pending)

    @property
    def covers(self) -> int:
        """Number of the last journal that the newest checkpoint covers."""
        return self._covered_before

    def abandon(self) -> None:
        """Close without writing anything more, as when the disk is gone."""
        self._journal.close()

    def _rotate(self, covered: int, pending: Iterable[str]) -> None:
        self.commit()
        self._journal.close()
        meta = checkpoint.Meta(SCHEMA_VERSION, covered, self.generation, self.entropy, self.service)
        folder = self.directory.path
        checkpoint.rotate(folder, lambda path: checkpoint.write(path, self.state, pending, meta))
        self._n_since = 0
        for number in journal.numbers(folder):
            if number <= self._covered_before:
                journal.path_of(folder, number).unlink()
        self._covered_before = covered

    def _open_journal(self, number: int) -> journal.Journal:
        header = journal.Header(SCHEMA_VERSION, number, self.generation, self.entropy, self.service)
        return journal.Journal(self.directory.path, header)


def interrupted(state: State) -> list[Order]:
    """List the orders that were on the wire when the last writer died."""
    return [order for order in state if order.stage is Stage.SENDING]


def _set_damaged_aside(folder: Path) -> None:
    """Keep a damaged checkpoint from taking the place of the good one before it."""
    current = folder / checkpoint.NAME
    if current.exists() and not _previous_covers(folder):
        current.replace(folder / "checkpoint-damaged.parquet")


def _previous_covers(folder: Path) -> int:
    """Say up to which journal the checkpoint in place reaches; 0 where there is none to rely on."""
    try:
        return checkpoint.read_meta(folder / checkpoint.NAME).covers
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _opened(manifest: Manifest, generation: int) -> Manifest:
    return replace(
        manifest, generation=generation, schema=SCHEMA_VERSION, package_version=version("dreamo-batch")
    )


def _reconcile(directory: RunDirectory, recovered: Recovered, service: str, entropy: str) -> Manifest:
    """Join manifest and ledger, and refuse where they show purchases that the ledger has lost."""
    manifest, meta = directory.read_manifest(), recovered.meta
    if meta is None and (directory.has_purchases() or (manifest and manifest.generation > 0)):
        raise LedgerDamaged(
            f"{directory.path} shows signs of earlier purchases (pictures, results or run.json) but its ledger "
            "(checkpoint and journals) is gone. Buying again could pay twice, so nothing is bought. Restore the "
            "ledger from a copy, or start a new run directory."
        )
    if meta is None:
        return manifest or Manifest(service=service, entropy=entropy)
    if manifest is None:
        logger.warning("run.json is missing in %s and is rebuilt from the ledger", directory.path)
        manifest = Manifest(service=meta.service, entropy=meta.entropy)
    if manifest.generation > meta.generation:
        raise LedgerDamaged(
            f"run.json in {directory.path} knows of {manifest.generation} openings, the ledger only of "
            f"{meta.generation}: newer journals are missing. Restore them from a copy, or start a new run directory."
        )
    refuse_other_service(directory, meta.service, service)
    return replace(manifest, generation=meta.generation, entropy=meta.entropy, service=meta.service)


def refuse_other_service(directory: RunDirectory, known: str, asked: str) -> None:
    """Refuse to mix the results of two services.

    Raises
    ------
    OtherService
        If the directory belongs to a service other than the one asked for.
    """
    if known != asked:
        raise OtherService(
            f"{directory.path} belongs to the service {known}, and this call would use {asked}. Results of two "
            "services are never mixed: use another run directory, or the base URL the run was started with."
        )
