"""The panel as a widget: built in the thread that asks for it, then written to by its painter alone.

This module and those of its parts load ipywidgets; whoever only wants the static form does not import them.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any, Final

import ipywidgets

from dreamo_batch.notebook import markup
from dreamo_batch.notebook.buttons import ButtonRow
from dreamo_batch.notebook.filmstrip import FilmStrip
from dreamo_batch.notebook.static import static_bundle
from dreamo_batch.notebook.style import SHEET
from dreamo_batch.notebook.view import message, view_of

if TYPE_CHECKING:
    from dreamo_batch.notebook.control import Controlled
    from dreamo_batch.notebook.view import View

VIEW_TYPE: Final = "application/vnd.jupyter.widget-view+json"
_N_NEW: Final = 3  # so that numbers never wait long for pictures
_BLOCKS: Final = ("heading", "progress", "money", "problem", "errors", "notices")


class Panel:
    """The widgets of one panel: what they show, and the outputs that show them.

    Parameters
    ----------
    batch : Controlled
        The run that is shown and held.

    Attributes
    ----------
    box : ipywidgets.VBox
        What is displayed; closing it ends the panel.
    wake : threading.Event
        Set when there is something to paint at once.
    """

    def __init__(self, batch: Controlled) -> None:
        self.batch = batch
        self.wake = threading.Event()
        self._trouble = ""
        self._outputs: list[Any] = []
        self._kept: View | None = None
        self._sheet = ipywidgets.HTML(f"<style>{SHEET}</style>", layout={"display": "none"})
        self._blocks = {name: ipywidgets.HTML() for name in (*_BLOCKS, "trouble")}
        self._buttons = ButtonRow(batch, self._tell)
        self._strip = FilmStrip()
        self.box = self._assemble()
        self.paint(n_new=0)  # the thread that asks for a panel does not wait for pictures

    @property
    def is_closed(self) -> bool:
        """Whether the widget was closed."""
        return self.box.comm is None

    def paint(self, *, n_new: int = _N_NEW) -> bool:
        """Show the run as it is now; what has not changed is not sent.

        Parameters
        ----------
        n_new : int
            Thumbnails to make at most; the others follow the next time.

        Returns
        -------
        bool
            Whether that was its last state, as far as can be told.
        """
        try:
            view = view_of(self.batch.status, can_control=self.batch.can_control)
        except Exception as error:  # noqa: BLE001 - the user must see it, and the next look may succeed
            self._show("trouble", markup.warning_box(message(f"The run can't be read: {error!r}")))
            return False
        for name in _BLOCKS:
            self._show(name, getattr(markup, name)(view))
        self._show("trouble", markup.warning_box(self._trouble) if self._trouble else "")
        self._buttons.show(view.controls)
        is_whole = self._strip.show(view.pictures, n_new=n_new)
        self._keep(view if is_whole and view.is_over else None)
        return is_whole and view.is_over

    def display(self) -> None:
        """Show the panel in the output of the cell that runs now."""
        from IPython.display import display

        output = display(self.bundle(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        if output is not None:
            self._outputs.append(output)

    def bundle(self, **_: Any) -> dict[str, Any]:
        """Give the widget together with the static form of the same moment.

        Once a run is over and nothing can be clicked, the static form stands alone: it shows in a notebook that is
        opened again without its kernel, where the widget would not.
        """
        status = self.batch.status
        controls = view_of(status, can_control=self.batch.can_control).controls
        bundle = static_bundle(status)
        if self.is_closed or (status.is_over and not controls.has_any):
            return bundle
        return {**bundle, VIEW_TYPE: {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}}

    def close(self) -> None:
        """Close every widget."""
        for part in (self._sheet, *self._blocks.values(), self._buttons, self._strip, self.box):
            part.close()

    def _assemble(self) -> Any:
        above = [self._blocks[name] for name in ("heading", "progress", "money", "problem", "trouble")]
        below = [self._blocks["errors"], self._strip.box, self._blocks["notices"]]
        box = ipywidgets.VBox([self._sheet, *above, self._buttons.box, *below])
        box.add_class("dreamo-panel")
        wake = self.wake
        box.observe(lambda _: wake.set(), names="comm")
        box._repr_mimebundle_ = self.bundle
        box._ipython_display_ = self.display
        return box

    def _show(self, name: str, html: str) -> None:
        self._blocks[name].value = html
        self._blocks[name].layout.display = "" if html else "none"

    def _tell(self, trouble: str) -> None:
        """Take what a click led to, in whatever thread; the painter shows it."""
        self._trouble = message(trouble)
        self.wake.set()

    def _keep(self, view: View | None) -> None:
        """Write the last state into the outputs, where a saved notebook keeps it; if it goes on, bring buttons back."""
        last = None if view is None else dataclasses.replace(view, at="")
        is_gone = self._kept is not None and not self._kept.controls.has_any
        if last != self._kept and (last is not None or is_gone):
            for output in self._outputs:
                output.update(self.bundle(), raw=True)
        self._kept = last
