"""Opening a run directory for one call: lock, ledger and workers, or those of a live runner taken over."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dreamo_batch.errors import DirectoryLocked, StorageFailed
from dreamo_batch.execution import outcomes, runner
from dreamo_batch.execution.ledger import Ledger, interrupted, refuse_other_entropy, refuse_other_service

if TYPE_CHECKING:
    from dreamo_batch.execution.clock import Clock
    from dreamo_batch.execution.directory import RunDirectory
    from dreamo_batch.execution.schedule import Key
    from dreamo_batch.execution.workers import Workers

_TAKEOVER_S: Final = 10.0


@dataclass(slots=True)
class Session:
    """A run directory opened for writing.

    `on_the_wire` are creates that a runner taken over had sent, `n_busy` its workers with any request, `was_paused`
    whether somebody had paused it; `resources` are closed with the ledger.
    """

    directory: RunDirectory
    ledger: Ledger
    workers: Workers | None = None
    on_the_wire: frozenset[Key] = frozenset()
    n_busy: int = 0
    was_paused: bool = False
    resources: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Give up the lock and everything that was opened for the call."""
        runner_here = runner.live(self.directory.path)
        if runner_here is not None:
            runner.forget(self.directory.path, runner_here)
        self.directory.unlock()
        self.resources.close()


def open_session(directory: RunDirectory, service: str, clock: Clock, entropy: str | None = None) -> Session:
    """Open a run directory, or take over the runner of this process that works on it.

    Raises
    ------
    DirectoryLocked
        If another process works on it.
    LedgerDamaged, OtherService, DirectoryError
        See `dreamo_batch.execution.ledger.Ledger`.
    StorageFailed
        If the directory can't be written to.
    """
    return _take_over(directory, service, entropy) or _open(directory, service, clock, entropy)


def storage_failed(directory: RunDirectory, error: OSError) -> StorageFailed:
    """Say that a call can't begin, since the disk does not let it."""
    return StorageFailed(
        f"the run directory {directory.path} can't be used ({error.strerror or error}). Nothing is ordered. Make "
        "room or mend the directory, then run the same call again.",
        run_dir=directory.path,
    )


def _open(directory: RunDirectory, service: str, clock: Clock, entropy: str | None) -> Session:
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


def _take_over(directory: RunDirectory, service: str, entropy: str | None) -> Session | None:
    old = runner.live(directory.path)
    if old is None:
        return None
    refuse_other_service(directory, old.coordinator.ledger.service, service)
    refuse_other_entropy(directory, old.coordinator.ledger.entropy, entropy)
    on_the_wire = old.hand_over(_TAKEOVER_S)
    if on_the_wire is None:
        if not old.is_closed.wait(_TAKEOVER_S):
            raise DirectoryLocked(
                f"an earlier call in this process is still writing to {directory.path}; try again."
            )
        return None
    session = old.session
    session.workers = old.workers
    session.on_the_wire, session.n_busy = on_the_wire, old.n_busy
    session.was_paused = old.coordinator.schedule.is_paused
    return session
