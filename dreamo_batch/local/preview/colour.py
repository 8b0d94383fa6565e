"""Colours as three whole numbers, and the few ways of mixing them that the painters need.

Examples
--------
>>> mix(parse("000000"), parse("ffffff"), 0.5)
(128, 128, 128)
"""

from __future__ import annotations

import colorsys
from typing import TypeAlias

Colour: TypeAlias = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)


def parse(text: str) -> Colour:
    """Read a colour as CSS writes it.

    Parameters
    ----------
    text : str
        Six hexadecimal digits.

    Returns
    -------
    Colour
        Red, green and blue, 0 to 255.

    Examples
    --------
    >>> parse("ff8000")
    (255, 128, 0)
    """
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Go from one colour towards another.

    Parameters
    ----------
    one, other : Colour
        Where to start and where to go.
    share : float
        0 gives `one`, 1 gives `other`.

    Returns
    -------
    Colour

    Examples
    --------
    >>> mix((0, 0, 0), (100, 200, 40), 0.25)
    (25, 50, 10)
    """
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def lit(colour: Colour, light: Colour) -> Colour:
    """Show a colour under a coloured light.

    Parameters
    ----------
    colour, light : Colour
        White light changes nothing, black light leaves nothing.

    Returns
    -------
    Colour

    Examples
    --------
    >>> lit((200, 100, 50), (255, 128, 0))
    (200, 50, 0)
    """
    red, green, blue = (a * b // 255 for a, b in zip(colour, light, strict=True))
    return red, green, blue


def turned(colour: Colour, degrees: float, saturation: float = 1.0) -> Colour:
    """Turn a colour around the colour wheel.

    Parameters
    ----------
    colour : Colour
        The colour to turn.
    degrees : float
        How far; 120 makes red green.
    saturation : float
        Factor of the saturation.

    Returns
    -------
    Colour

    Examples
    --------
    >>> turned((255, 0, 0), 120)
    (0, 255, 0)
    """
    hue, chroma, value = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
    red, green, blue = colorsys.hsv_to_rgb((hue + degrees / 360) % 1, min(1, chroma * saturation), value)
    return round(red * 255), round(green * 255), round(blue * 255)
