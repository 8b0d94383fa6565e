"""What makes the pictures of the local gateway: one protocol, two engines, chosen by name.

`preview` draws a scene from the prompt's words and puts the reference into it; `flat` makes one plain
colour in well under a millisecond, for tests. Neither is DreamO, and every picture says so (see `label`).

Examples
--------
>>> order = Order("a fox on the beach", seed=42, width=640, height=512, use_rephraser=True)
>>> picture = by_name("flat").generate(order, reference=b"")
>>> picture.media_type, picture.width, picture.height
('image/jpeg', 640, 512)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture: the file's bytes, their media type, and the size in pixels.

    Examples
    --------
    >>> Picture(b"...", "image/jpeg", 512, 512).width
    512
    """

    content: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be drawn: prompt, seed as drawn (not -1), size in pixels, and the rephraser's switch.

    Examples
    --------
    >>> Order("雪山", seed=7, width=1328, height=1328, use_rephraser=False).seed
    7
    """

    prompt: str
    seed: int
    width: int
    height: int
    use_rephraser: bool


class Engine(Protocol):
    """Makes one picture per order; safe to be called from several threads at once."""

    name: str

    def generate(self, order: Order, reference: bytes) -> Picture:
        """Draw the order around the reference, a JPEG or PNG file's bytes; ValueError if it can't be read."""
        ...


def by_name(name: str) -> Engine:
    """Give the engine of this name.

    Parameters
    ----------
    name : str
        ``"preview"`` or ``"flat"``.

    Returns
    -------
    Engine

    Raises
    ------
    ValueError
        If there is no such engine; the message lists those there are.

    Examples
    --------
    >>> by_name("flat").name
    'flat'
    """
    # Imported here: the engines import this module, and `flat` needs nothing of what `preview` loads.
    from dreamo_batch.local.flat import Flat
    from dreamo_batch.local.preview import Preview

    engines: dict[str, type[Engine]] = {"flat": Flat, "preview": Preview}
    if name not in engines:
        raise ValueError(f"No engine is called {name!r}; choose one of {', '.join(sorted(engines))}.")
    return engines[name]()
