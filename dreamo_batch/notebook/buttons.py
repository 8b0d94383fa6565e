"""The buttons of a panel: a click calls the run and returns, and what goes wrong is told, not raised."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import ipywidgets

from dreamo_batch.errors import UsageError
from dreamo_batch.execution.budget import money

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.notebook.control import Controlled
    from dreamo_batch.notebook.controls import Button, Controls

logger = logging.getLogger(__name__)


class ButtonRow:
    """Pause, Resume, Stop, Retry failed, and a field for a new cap where one is needed.

    Parameters
    ----------
    batch : Controlled
        What is called.
    tell : callable
        Called when what was clicked is done, in another thread, with what went wrong, or with empty text.

    Attributes
    ----------
    box : ipywidgets.Box
        What is displayed.
    """

    def __init__(self, batch: Controlled, tell: Callable[[str], None]) -> None:
        self._batch = batch
        self._tell = tell
        self._under_way: set[str] = set()
        self._pause = self._button("Pause", batch.pause)
        self._resume = self._button("Resume", batch.resume)
        self._stop = self._button("Stop", batch.stop)
        self._retry = self._button("Retry failed", batch.retry)
        self._cap = ipywidgets.Text(description="New cap, USD", style={"description_width": "initial"})
        self._raise = self._button("Raise cap", self._raise_cap)
        self._raise.tooltip = "Set a new cap over everything ever ordered in this directory."
        self._why_not = ipywidgets.Label()
        self._all = [
            self._pause,
            self._resume,
            self._stop,
            self._retry,
            self._cap,
            self._raise,
            self._why_not,
        ]
        self.box = ipywidgets.Box(self._all)
        self.box.add_class("dreamo-buttons")

    def show(self, controls: Controls) -> None:
        """Show which can be clicked, and why the others can't."""
        _show(self._pause, controls.pause)
        _show(self._resume, controls.resume)
        _show(self._stop, controls.stop)
        _show(self._retry, controls.retry)
        self._offer_cap(controls.suggested_cap)
        self._why_not.value = controls.why_not
        _reveal(self._why_not, is_shown=bool(controls.why_not))

    def close(self) -> None:
        """Close every widget."""
        for widget in (*self._all, self.box):
            widget.close()

    def _offer_cap(self, suggested: str) -> None:
        """Ask for a new cap; what somebody is typing is never written over."""
        if suggested and self._cap.layout.display != "":
            self._cap.value = suggested
        _reveal(self._cap, is_shown=bool(suggested))
        _reveal(self._raise, is_shown=bool(suggested))

    def _raise_cap(self) -> None:
        amount = money(self._cap.value)
        if amount is None:
            raise UsageError(f"{self._cap.value!r} is not an amount; expected USD, such as 7.50.")
        self._batch.raise_budget(amount)

    def _button(self, words: str, action: Callable[[], None]) -> Any:
        button = ipywidgets.Button(description=words)
        button.on_click(lambda _: self._click(words, action))
        return button

    def _click(self, words: str, action: Callable[[], None]) -> None:
        """Do it in a thread of its own: going on may ask the service for its price first, which takes a while."""
        if words not in self._under_way:
            self._under_way.add(words)
            threading.Thread(target=self._do, args=(words, action), name="dreamo-click", daemon=True).start()

    def _do(self, words: str, action: Callable[[], None]) -> None:
        trouble = ""
        try:
            action()
        except Exception as error:  # raised in a callback, it would be seen by nobody
            logger.debug("%s", words, exc_info=True)
            trouble = f"{words}: {str(error) or type(error).__name__}"
        self._under_way.discard(words)
        self._tell(trouble)


def _show(widget: Any, button: Button) -> None:
    widget.description = button.words
    widget.disabled = not button.is_enabled
    widget.tooltip = button.tooltip


def _reveal(widget: Any, *, is_shown: bool) -> None:
    widget.layout.display = "" if is_shown else "none"
