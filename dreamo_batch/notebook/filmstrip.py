"""The newest pictures as widgets: a fixed number of places, each sent anew only when its picture changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import ipywidgets

from dreamo_batch.notebook import markup
from dreamo_batch.notebook.thumbnails import SHARED

if TYPE_CHECKING:
    from dreamo_batch.notebook.view import Caption

_N_PLACES: Final = 12


class FilmStrip:
    """A row of pictures that wraps.

    Attributes
    ----------
    box : ipywidgets.VBox
        What is displayed.

    Examples
    --------
    >>> strip = FilmStrip()
    >>> strip.show((), n_new=0), strip.box.layout.display
    (True, 'none')
    >>> strip.close()
    """

    def __init__(self) -> None:
        self._places = [ipywidgets.HTML() for _ in range(_N_PLACES)]
        self._taken: dict[Caption, Any] = {}
        self._heading = ipywidgets.HTML(markup.NEWEST)
        self._row = ipywidgets.Box(layout={"flex_flow": "row wrap", "overflow": "visible"})
        self._row.add_class("dreamo-pictures")
        self.box = ipywidgets.VBox([self._heading, self._row], layout={"display": "none"})
        self.box.add_class("dreamo-block")

    def show(self, captions: tuple[Caption, ...], *, n_new: int) -> bool:
        """Show pictures, newest first; those that stay keep their place, so that only new ones are sent.

        Returns
        -------
        bool
            Whether all of them are shown; False while some thumbnails are still to be made.
        """
        shown = tuple(dict.fromkeys(captions))[:_N_PLACES]
        thumbnails = SHARED.of((caption.path for caption in shown), n_new=n_new)
        self._settle(shown)
        for caption, place in self._taken.items():
            place.value = markup.picture(caption, thumbnails.get(caption.path))
        self._row.children = tuple(self._taken.values())
        self.box.layout.display = None if shown else "none"
        return all(caption.path in thumbnails for caption in shown)

    def close(self) -> None:
        """Close every widget."""
        for widget in (*self._places, self._heading, self._row, self.box):
            widget.close()

    def _settle(self, shown: tuple[Caption, ...]) -> None:
        kept = {caption: self._taken[caption] for caption in shown if caption in self._taken}
        used = {place.model_id for place in kept.values()}
        free = iter([place for place in self._places if place.model_id not in used])
        self._taken = {caption: kept[caption] if caption in kept else next(free) for caption in shown}
