"""A run directory opened for writing: its lock, its ledger, and what was opened for the calls on it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dreamo_batch.errors import StorageFailed
from dreamo_batch.execution import outcomes
from dreamo_batch.execution.ledger import Ledger, interrupted

if TYPE_CHECKING:
    from dreamo_batch.execution.clock import Clock
    from dreamo_batch.execution.directory import RunDirectory


@dataclass(slots=True)
class Session:
    """A run directory opened for writing; `resources` are closed with it."""

    directory: RunDirectory
    ledger: Ledger
    resources: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Give up the lock and everything that was opened for calls."""
        self.directory.unlock()
        self.resources.close()


def open_session(directory: RunDirectory, service: str, clock: Clock, entropy: str | None = None) -> Session:
    """Lock a run directory and open its ledger; creates that a dead process left on the wire become ambiguous.

    Raises
    ------
    DirectoryLocked
        If another process works on it.
    LedgerDamaged, OtherService, DirectoryError
        See `dreamo_batch.execution.ledger.Ledger`.
    StorageFailed
        If the directory can't be written to.
    """
    with ExitStack() as undo:
        try:
            directory.lock()
            undo.callback(directory.unlock)
            ledger = Ledger(directory, service, entropy)
            undo.callback(ledger.abandon)
            ledger.record(outcomes.interrupted(order, clock.wall()) for order in interrupted(ledger.state))
            ledger.commit()
        except OSError as error:
            raise storage_failed(directory, error) from error
        undo.pop_all()
    return Session(directory, ledger)


def storage_failed(directory: RunDirectory, error: OSError) -> StorageFailed:
    """Say that a call can't begin, since the disk does not let it."""
    return StorageFailed(
        f"the run directory {directory.path} can't be used ({error.strerror or error}). Nothing is ordered. Make "
        "room or mend the directory, then run the same call again.",
        run_dir=directory.path,
    )
