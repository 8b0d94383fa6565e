"""What a run prints while it goes: a bar, or lines.

Showing never fails a run: what can't be shown as a bar is written as lines, and what can't be written is logged.
"""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dreamo_batch import columns
from dreamo_batch.errors import logger_named
from dreamo_batch.importing import load_module
from dreamo_batch.money import dollars
from dreamo_batch.parallel import bar_class, is_in_marimo, is_in_notebook, is_watched, marimo_bar
from dreamo_batch.text import duration, harmless

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.engine.status import Snapshot

logger = logger_named(__name__)

_PAINT_EVERY_S: Final = 0.2
_LINE_EVERY_S: Final = 30.0
_BAR_FORMAT: Final = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix} [{elapsed}<{remaining}, {rate_fmt}]"
_TICK_S: Final = 1.0  # the first row may take a minute, and a bar that doesn't move looks broken


class LoggedProgress:
    """Shows nothing; logs lines, and progress at most every 30 s or when rows first fail."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_at = clock()
        self._is_bad = (False, False)
        self._reported = self._now = ""

    def say(self, text: str, level: int = logging.INFO) -> None:
        """Log a line."""
        logger.log(level, "%s", text)

    def update(self, snapshot: Snapshot) -> None:
        """Log the progress if that is due."""
        self._now = f"{snapshot.n_settled} of {snapshot.n_rows} rows settled, {postfix(snapshot)}"
        is_bad = (snapshot.n_failed > 0, snapshot.by_status.get(columns.AMBIGUOUS, 0) > 0)
        if self._clock() >= self._next_at or not is_bad <= self._is_bad:
            self._is_bad = is_bad
            self.close()

    def close(self) -> None:
        """Log the final progress, unless it was logged."""
        if self._now != self._reported:
            self._next_at = self._clock() + _LINE_EVERY_S
            self._reported = self._now
            self.say(self._now)


class LineProgress(LoggedProgress):
    """Writes the same to standard error, with dates, for a file or a system journal."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC).astimezone(),
    ) -> None:
        super().__init__(clock=clock)
        self._stream = _usable(sys.stderr)
        self._date = now

    def say(self, text: str, level: int = logging.INFO) -> None:  # noqa: ARG002 - the text shows the level
        """Write the line."""
        self._stream.write(f"{self._date():%Y-%m-%d %H:%M:%S%z} dreamo: {harmless(text)}\n")
        self._stream.flush()


class Bar:
    """A tqdm bar of rows, with money spent and failures; on a terminal or as a notebook widget."""

    def __init__(
        self,
        first: Snapshot,
        *,
        n_before: int = 0,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        self._tqdm = bar_class()
        is_widget = is_in_notebook()
        if is_widget:
            options["display"] = False
        else:
            _usable(options.get("file", sys.stderr))
            # A narrow terminal cuts off the rate rather than the failures.
            options["bar_format"] = _BAR_FORMAT
        self._clock = clock
        self._ticks_at = clock()
        self._n_before = n_before
        self._bar: Any = self._tqdm(
            total=first.n_rows - n_before,
            initial=first.n_settled - n_before,
            unit="row",
            desc="dreamo",
            dynamic_ncols=True,  # as wide as the terminal or the notebook window, even after it was resized
            mininterval=_PAINT_EVERY_S,
            **options,
        )
        # A saved notebook keeps the text of a display id as it was last updated.
        self._output = None
        if is_widget and not self._bar.disable:
            self._output = load_module("IPython.display").display(self._bar.container, display_id=True)
        self.update(first)

    def update(self, snapshot: Snapshot) -> None:
        """Show rows settled, money and failures; also every second, if a person is watching."""
        n_settled = snapshot.n_settled - self._n_before
        self._bar.set_postfix_str(postfix(snapshot), refresh=False)
        if n_settled > self._bar.n:
            self._bar.update(n_settled - self._bar.n)
        elif n_settled < self._bar.n:  # a failed row is submitted again
            self._bar.n = n_settled
            self._bar.refresh()
        elif self._clock() >= self._ticks_at:
            self._ticks_at = self._clock() + _TICK_S
            self._bar.refresh()

    def say(self, text: str, level: int = logging.INFO) -> None:  # noqa: ARG002 - the text shows the level
        """Write a line above the bar, without characters that a terminal would act on."""
        # With widgets, tqdm would redraw all bars, which fails for one that an interrupt left half built.
        write = print if hasattr(self._bar, "container") else self._tqdm.write
        write(harmless(text), file=sys.stdout if is_in_notebook() else _usable(sys.stderr))

    def close(self) -> None:
        """Leave the bar as it is, in a notebook also in the saved file."""
        self._bar.refresh()
        self._bar.close()
        if self._output is not None:
            self._output.update(self._bar.container)

    def abandon(self) -> None:
        """Stop drawing, whatever happens."""
        self._bar.disable = True


class MarimoBar:
    """marimo's own bar of rows; lines appear below the cell."""

    def __init__(self, first: Snapshot, *, n_before: int = 0) -> None:
        self._n_before = n_before
        self._n = 0
        self._place = marimo_bar(first.n_rows - n_before, "dreamo", remove_on_exit=False)
        self._bar = self._place.__enter__()
        self.update(first)

    def update(self, snapshot: Snapshot) -> None:
        """Show rows settled, money and failures."""
        n_more = snapshot.n_settled - self._n_before - self._n
        self._n += n_more
        self._bar.update(n_more, subtitle=postfix(snapshot))

    def say(self, text: str, level: int = logging.INFO) -> None:  # noqa: ARG002 - the text shows the level
        """Write a line."""
        sys.stdout.write(f"{harmless(text)}\n")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._place.__exit__(None, None, None)


_Display: TypeAlias = Bar | MarimoBar | LineProgress


class FailsafeProgress:
    """Shows a run in the best way that works, and never fails: as a bar, as lines, or only in the log."""

    def __init__(self, first: Snapshot, *, n_before: int = 0) -> None:
        def bar() -> _Display:
            return (MarimoBar if is_in_marimo() else Bar)(first, n_before=n_before)

        self._log = LoggedProgress()
        self._shown: _Display | None = None
        self._ways: list[Callable[[], _Display]] = [bar, LineProgress] if is_watched() else [LineProgress]
        self.update(first)

    def update(self, snapshot: Snapshot) -> None:
        """Show the progress."""
        self._show(lambda shown: shown.update(snapshot))
        _safely(lambda: self._log.update(snapshot))

    def say(self, text: str, level: int = logging.INFO) -> None:
        """Show a line and log it, at its own level only if it couldn't be shown."""
        is_shown = self._show(lambda shown: shown.say(text, level))
        _safely(lambda: self._log.say(text, logging.INFO if is_shown else level))

    def close(self) -> None:
        """Stop showing the run."""
        self._show(lambda shown: shown.close())
        _safely(self._log.close)

    def _show(self, do: Callable[[_Display], None]) -> bool:
        """Show something in the first way that works; return False if none does."""
        while self._ways:
            try:
                if self._shown is None:
                    self._shown = self._ways[0]()
                do(self._shown)
            except Exception as error:  # noqa: BLE001 - a run must not end because it can't be shown
                self._fall_back(error)
            else:
                return True
        return False

    def _fall_back(self, error: Exception) -> None:
        if isinstance(self._shown, Bar):
            self._shown.abandon()
        self._shown = None
        del self._ways[0]
        _safely(lambda: logger.warning("progress can't be shown (%r); the run continues", error))


Progress: TypeAlias = FailsafeProgress | LoggedProgress


def shown(first: Snapshot, *, show: bool, n_before: int = 0) -> Progress:
    """Start to show a run, or only log it."""
    return FailsafeProgress(first, n_before=n_before) if show else LoggedProgress()


def say(text: str, *, show: bool) -> None:
    """Show and log a line while no run is being shown."""
    _safely(lambda: logger.info("%s", text))
    if show and not is_watched():
        _safely(lambda: LineProgress().say(text))
    elif show:
        stream = sys.stdout if is_in_notebook() or is_in_marimo() else sys.stderr
        _safely(lambda: print(harmless(text), file=_usable(stream), flush=True))


def _safely(do: Callable[[], None]) -> None:
    try:
        do()
    except Exception:  # noqa: BLE001 - a failing log can't be reported anywhere
        return


def _usable(stream: Any) -> Any:
    """Return a stream that can be written to; raise if there is none, or it is closed."""
    if stream is None:
        raise OSError("there is no standard error")
    stream.write("")
    stream.flush()
    return stream


def postfix(snapshot: Snapshot) -> str:
    """Summarise money, failures and tasks in flight in a few words."""
    cap = "" if snapshot.max_cost_usd is None else f"/{dollars(snapshot.max_cost_usd)}"
    parts = [f"spent={dollars(snapshot.spent_usd)}{cap}", f"failed={snapshot.n_failed}"]
    if snapshot.by_status.get(columns.AMBIGUOUS):
        parts.append(f"ambiguous={snapshot.by_status[columns.AMBIGUOUS]}")
    if snapshot.n_in_flight:
        parts.append(f"in flight={snapshot.n_in_flight}")
    if snapshot.n_refused:
        parts.append(f"429={snapshot.n_refused} (waited {duration(snapshot.waited_s)})")
    return ", ".join(parts)
