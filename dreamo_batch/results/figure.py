"""The figure that a plot is drawn on where none is given; pyplot knows it, unless it is made without."""

from __future__ import annotations

import io
from typing import Any, Final

from matplotlib.figure import Figure

_DPI: Final = 144
_SIZE_IN: Final = (7.2, 4.0)


class Sheet(Figure):
    """One figure of its own, laid out so that nothing on it is cut off."""

    def __init__(self, *, figsize: tuple[float, float] | None = None, **options: Any) -> None:
        super().__init__(figsize=figsize or _SIZE_IN, **{"layout": "constrained", **options})

    def _repr_png_(self) -> bytes:
        """Give the picture that a notebook shows."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_DPI)
        return buffer.getvalue()
