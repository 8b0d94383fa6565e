"""What every painter is handed: the canvas, the palette, the reading of the prompt, and the generator.

Examples
--------
>>> stage = set_up("a fox on the beach", 42, 64, 48)
>>> stage.reading.scene, stage.canvas.width
('beach', 64)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from dreamo_batch.local.preview import canvas, palette, words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from dreamo_batch.local.preview.canvas import Canvas
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.palette import Palette
    from dreamo_batch.local.preview.words import Reading


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a scene is painted.

    Examples
    --------
    >>> set_up("night", 42, 64, 48).palette.is_dark
    True
    """

    canvas: Canvas
    palette: Palette
    reading: Reading
    rng: np.random.Generator

    @property
    def width(self) -> int:
        """Width of the canvas in pixels."""
        return self.canvas.width

    @property
    def height(self) -> int:
        """Height of the canvas in pixels."""
        return self.canvas.height

    @property
    def unit(self) -> int:
        """Shorter side of the canvas in pixels."""
        return self.canvas.unit

    def tint(self, base: Colour, nearness: float = 1.0) -> Colour:
        """Give the colour of a thing in the scene's light, paler the farther away."""
        return self.palette.at(base, nearness)

    def fading(self, base: Colour, nearness: float, share: float) -> tuple[Colour, Colour]:
        """Give the colours of the top and of the foot of a thing that stands in mist; `share` of it is seen there."""
        return self.palette.at(base, nearness), self.palette.at(base, nearness * share)

    def between(self, low: float, high: float) -> float:
        """Draw a number between these two."""
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        """Draw whether something is there; `share` is how often it is."""
        return bool(self.rng.random() < share)

    def pick(self, choices: Sequence[T]) -> T:
        """Draw one of these."""
        return choices[int(self.rng.integers(len(choices)))]


@dataclass(frozen=True, slots=True)
class Ground:
    """Where the figure stands in a finished scene.

    `foot` is the row of its feet in shares of the height; `floats` tells that nothing is under it; `front`
    paints what stands before it, at the size of the finished picture.

    Examples
    --------
    >>> Ground(0.9).floats
    False
    """

    foot: float
    floats: bool = False
    front: Callable[[Stage], None] | None = None


def set_up(prompt: str, seed: int, width: int, height: int, *, use_rephraser: bool = True) -> Stage:
    """Read the prompt, choose the colours and stretch a canvas.

    Parameters
    ----------
    prompt, seed, use_rephraser
        As ordered.
    width, height : int
        Size of the canvas in pixels.

    Returns
    -------
    Stage

    Examples
    --------
    >>> set_up("", 42, 64, 48).unit
    48
    """
    reading = words.read(prompt, seed, use_rephraser=use_rephraser)
    rng = reading.rng()
    colours = palette.choose(reading.hour, rng, reading.tint)
    if reading.has("weather.rain"):
        colours = colours.overcast()
    return Stage(canvas.blank(width, height), colours, reading, rng)
