"""The colours of a picture: its hour gives the sky and the light, the seed picks one of several.

Examples
--------
>>> import numpy as np
>>> palette = choose("night", np.random.default_rng(7))
>>> palette.is_dark, len(palette.sky)
(True, 4)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dreamo_batch.local.preview import colour

if TYPE_CHECKING:
    import numpy as np

    from dreamo_batch.local.preview.colour import Colour


@dataclass(frozen=True, slots=True)
class Palette:
    """Sky from the zenith to the horizon, colour of sun or moon, and the light that falls on things.

    Examples
    --------
    >>> import numpy as np
    >>> palette = choose("day", np.random.default_rng(7))
    >>> palette.at((60, 120, 60), 1.0) == colour.lit((60, 120, 60), palette.light)
    True
    """

    sky: tuple[Colour, Colour, Colour, Colour]
    sun: Colour
    light: Colour
    is_dark: bool

    @property
    def horizon(self) -> Colour:
        """Colour of the air far away."""
        return self.sky[3]

    def at(self, base: Colour, nearness: float) -> Colour:
        """Give the colour of a thing in this light: 1 is near, 0 is so far that it is all air.

        Examples
        --------
        >>> import numpy as np
        >>> palette = choose("day", np.random.default_rng(7))
        >>> palette.at((60, 120, 60), 0.0) == colour.mix(palette.horizon, palette.sky[2], 0.5)
        True
        """
        air = colour.mix(self.horizon, self.sky[2], 0.5)
        return colour.mix(air, colour.lit(base, self.light), nearness)

    def overcast(self) -> Palette:
        """Give the same hour under rain clouds.

        Examples
        --------
        >>> import numpy as np
        >>> palette = choose("day", np.random.default_rng(7))
        >>> sum(palette.overcast().light) < sum(palette.light)
        True
        """
        grey = (66, 76, 104) if self.is_dark else (146, 160, 182)
        first, second, third, last = (colour.mix(part, grey, 0.6) for part in self.sky)
        light = colour.lit(self.light, (214, 220, 236))
        return replace(
            self, sky=(first, second, third, last), sun=colour.mix(self.sun, grey, 0.4), light=light
        )


# Hour: skies (zenith to horizon, then the sun or moon), and the light.
_SKIES: Final[dict[str, tuple[str, ...]]] = {
    "dawn": (
        "6f86c2 b3add8 f5c9cb ffecd2 fff4dc",
        "8478b8 cfa3c6 f9c4b4 fff1d6 fff0d0",
        "4f8fb0 9fcbcf f6dfc6 fff5e2 fffbe8",
        "c77fa0 f0a8a4 fcd0b0 fff2d4 fffae0",
    ),
    "day": (
        "2f7fd8 6db5f0 b9e0f7 eef8f2 fffbe0",
        "1d8fb0 63c3cf b9e8dc fbf6d8 fffde8",
        "5a9be0 97c8f2 d3e8f7 fff3e4 fffdf0",
        "2a62b8 5c9be0 a6d3f4 e9f6f6 fffce4",
        "3aa0c8 86d0e0 d6efd8 fff6cc fff8d0",
    ),
    "sunset": (
        "33285f 8e4179 ef6c56 ffc96f fff0b8",
        "47204f b5435f f7884a ffdb86 fff3c0",
        "24406e 7f5d8f f59c7c ffe2a0 fff2c8",
        "5f2f74 ca5678 ff9b72 ffe4ae fff6d4",
        "7a2f4a d8553f fb9a3c ffe08a fff6c8",
    ),
    "dusk": (
        "18204c 3c3f8a 8a6cae eaa9a6 ffe8d8",
        "11294a 2a5878 6a93a0 eebf9c fff0d8",
        "211850 552f80 a4528e f59a8c ffe4d0",
        "1a2a5c 4e5aa0 a88ac4 f7b8b0 fff0e4",
    ),
    "night": (
        "060c24 0f2048 20396c 46659a f2f4ff",
        "0b0826 1f1550 3c2a78 6f58a4 fbf0ff",
        "051a24 0c303f 1a5560 4a8f8c f0fff4",
        "0a1030 16245c 2b4488 5a7ab8 fff8e0",
        "120a2a 2c1650 5a2c74 a05a90 fff0e8",
    ),
}
_LIGHTS: Final[dict[str, str]] = {
    "dawn": "ffe6da",
    "day": "fffdf6",
    "sunset": "ffd2ac",
    "dusk": "a8a2d0",
    "night": "6a78b4",
}


def choose(hour: str, rng: np.random.Generator, tint: float | None = None) -> Palette:
    """Pick the colours of a picture.

    Parameters
    ----------
    hour : str
        ``"dawn"``, ``"day"``, ``"sunset"``, ``"dusk"`` or ``"night"``.
    rng : numpy.random.Generator
        Picks one of the hour's skies and turns it a little.
    tint : float, optional
        Hue wanted, in degrees, where the prompt names a colour: sky and light lean towards it.

    Returns
    -------
    Palette

    Examples
    --------
    >>> import numpy as np
    >>> choose("sunset", np.random.default_rng(7)).is_dark
    False
    """
    *sky, sun = (colour.parse(text) for text in str(rng.choice(_SKIES[hour])).split())
    degrees, saturation = rng.uniform(-9, 9), rng.uniform(0.9, 1.1)
    first, second, third, last = (colour.turned(part, degrees, saturation) for part in sky)
    light = colour.parse(_LIGHTS[hour])
    palette = Palette((first, second, third, last), sun, light, is_dark=hour == "night")
    return palette if tint is None else _leaning(palette, tint)


def _leaning(palette: Palette, tint: float) -> Palette:
    """Lay a transparent colour over sky and light."""
    veil = colour.turned((255, 70, 70), tint)
    first, second, third, last = (
        colour.mix(part, colour.lit(veil, colour.mix(part, colour.WHITE, 0.35)), 0.42) for part in palette.sky
    )
    light = colour.lit(palette.light, colour.mix(colour.WHITE, veil, 0.25))
    return replace(palette, sky=(first, second, third, last), light=light)
