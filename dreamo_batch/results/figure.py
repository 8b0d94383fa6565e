"""A figure that shows itself in a notebook without pyplot, whose state belongs to the user."""

from __future__ import annotations

import io
from typing import Final

from matplotlib.figure import Figure

_DPI: Final = 144
_SIZE_IN: Final = (7.2, 4.0)


class Sheet(Figure):
    """One figure of its own.

    Examples
    --------
    >>> Sheet()._repr_png_()[1:4]
    b'PNG'
    """

    def __init__(self) -> None:
        super().__init__(figsize=_SIZE_IN, layout="constrained")

    def _repr_png_(self) -> bytes:
        """Give the picture that a notebook shows."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_DPI)
        return buffer.getvalue()
