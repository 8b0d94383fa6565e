"""What a run shows while it goes: snapshots, and who paints them."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol

from dreamo_batch import columns
from dreamo_batch.execution.budget import EXACT
from dreamo_batch.service.harmless import harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

_SHOWN_USD: Final = Decimal("0.0001")
_PAINT_EVERY_S: Final = 0.2
_LOG_EVERY_S: Final = 10.0
_TICK_S: Final = 1.0  # the first row of a service may take a minute; a bar that stands still looks broken


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment: rows by status, money in USD.

    Examples
    --------
    >>> from decimal import Decimal
    >>> Snapshot({"completed": 3, "pending": 1}, Decimal("0.09"), Decimal(0), None, 0).n_settled
    3
    """

    by_status: Mapping[str, int]
    spent_usd: Decimal
    reserved_usd: Decimal
    max_cost_usd: Decimal | None
    n_in_flight: int

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return sum(self.by_status.values())

    @property
    def n_settled(self) -> int:
        """Rows that nothing more will happen to in this call."""
        return sum(self.by_status.get(status, 0) for status in columns.SETTLED)

    @property
    def n_failed(self) -> int:
        """Rows that failed."""
        return self.by_status.get(columns.FAILED, 0)


class Progress(Protocol):
    """Shows a run; called from one thread only."""

    def update(self, snapshot: Snapshot) -> None:
        """Show how far it is."""
        ...

    def say(self, text: str) -> None:
        """Show a line."""
        ...

    def close(self) -> None:
        """Show no more."""
        ...


class Silent:
    """Shows nothing; lines go to the log.

    Examples
    --------
    >>> Silent().say("3 rows")
    """

    def update(self, snapshot: Snapshot) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Log the line."""
        logger.info("%s", text)

    def close(self) -> None:
        """Nothing to close."""


class Bar:
    """A tqdm bar of rows, with what was spent and what failed; on standard error or as a notebook widget.

    Lines go to standard error too; in a notebook to standard output, since it shows the other in red, as if all had
    gone wrong. Rows settled by earlier calls are its starting point, so that the time left is that of the rest.

    Parameters
    ----------
    first : Snapshot
        How the run starts.
    clock : callable
        Gives seconds.
    **options
        Passed on to tqdm.

    Examples
    --------
    >>> from decimal import Decimal
    >>> import io
    >>> out = io.StringIO()
    >>> bar = Bar(Snapshot({"pending": 2}, Decimal(0), Decimal(0), None, 0), file=out)
    >>> bar.update(Snapshot({"pending": 1, "completed": 1}, Decimal("0.03"), Decimal(0), None, 0))
    >>> bar.close()
    >>> "1/2" in out.getvalue(), "spent=$0.03" in out.getvalue()
    (True, True)
    """

    def __init__(
        self, first: Snapshot, *, clock: Callable[[], float] = time.monotonic, **options: Any
    ) -> None:
        from tqdm.auto import tqdm

        interval_s = _interval_s(options.get("file", sys.stderr))
        self._tqdm = tqdm
        self._clock = clock
        self._ticks_at = clock()
        self._is_watched = interval_s == _PAINT_EVERY_S
        self._bar = tqdm(
            total=first.n_rows,
            initial=first.n_settled,
            unit="row",
            desc="dreamo",
            dynamic_ncols=True,  # as wide as the terminal or the notebook's window is, also after it has changed
            mininterval=interval_s,
            **options,
        )
        self.update(first)

    def update(self, snapshot: Snapshot) -> None:
        """Show rows settled, money and failures; every second too, where a person sees time pass."""
        self._bar.set_postfix_str(postfix(snapshot), refresh=False)
        if snapshot.n_settled > self._bar.n:
            self._bar.update(snapshot.n_settled - self._bar.n)
        elif snapshot.n_settled < self._bar.n:  # a failed row is ordered again
            self._bar.n = snapshot.n_settled
            self._bar.refresh()
        elif self._is_watched and self._clock() >= self._ticks_at:
            self._ticks_at = self._clock() + _TICK_S
            self._bar.refresh()

    def say(self, text: str) -> None:
        """Write a line above the bar; labels and the service's words can't do anything to the terminal."""
        self._tqdm.write(harmless(text), file=sys.stdout if _is_widget() else sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.refresh()
        self._bar.close()


def _interval_s(file: Any) -> float:
    """Seconds between paintings: often for a person, seldom for a log file."""
    return _PAINT_EVERY_S if _is_widget() or file.isatty() else _LOG_EVERY_S


def _is_widget() -> bool:
    """Whether tqdm draws in a notebook."""
    from tqdm.autonotebook import tqdm as chosen
    from tqdm.std import tqdm as of_text

    return chosen is not of_text


def postfix(snapshot: Snapshot) -> str:
    """Tell money, failures and what is in flight in a few words.

    Examples
    --------
    >>> from decimal import Decimal
    >>> postfix(Snapshot({"failed": 2}, Decimal("0.0286"), Decimal(0), Decimal(5), 3))
    'spent=$0.0286/5, failed=2, in flight=3'
    """
    cap = "" if snapshot.max_cost_usd is None else f"/{snapshot.max_cost_usd.normalize(EXACT):f}"
    parts = [f"spent=${dollars(snapshot.spent_usd)}{cap}", f"failed={snapshot.n_failed}"]
    if snapshot.by_status.get(columns.AMBIGUOUS):
        parts.append(f"ambiguous={snapshot.by_status[columns.AMBIGUOUS]}")
    if snapshot.n_in_flight:
        parts.append(f"in flight={snapshot.n_in_flight}")
    return ", ".join(parts)


def dollars(amount: Decimal) -> str:
    """Write an amount for reading, with at most four decimals.

    Examples
    --------
    >>> from decimal import Decimal
    >>> dollars(Decimal("0.028571428")), dollars(Decimal("12"))
    ('0.0286', '12')
    """
    if "." not in f"{amount:f}":
        return f"{amount:f}"
    return f"{amount.quantize(_SHOWN_USD, context=EXACT):f}".rstrip("0").rstrip(".")
