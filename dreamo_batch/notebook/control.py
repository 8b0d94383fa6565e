"""What a panel needs of a run in the background: its state, and a hand on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection
    from decimal import Decimal

    from dreamo_batch.batch.moment import Status


class Controlled(Protocol):
    """A run that is shown and held; every method returns at once and may be called from any thread."""

    @property
    def status(self) -> Status:
        """The run at this moment; read from any thread, four times a second."""
        ...

    @property
    def can_control(self) -> bool:
        """Whether this process works on the run; False: another one does, which can only be watched."""
        ...

    def pause(self) -> None:
        """Send nothing more until `resume`; what is in flight goes on."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...

    def stop(self) -> None:
        """Send nothing more, and end once what was sent is answered."""
        ...

    def retry(
        self, rows: Collection[Any] | None = None, classes: str | Collection[str] | None = None
    ) -> None:
        """Order failed rows again in the background, each once."""
        ...

    def raise_budget(self, max_cost: float | str | Decimal) -> None:
        """Set a new cap in USD."""
        ...
