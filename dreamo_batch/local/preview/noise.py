"""Irregular lines and clouds: noise with several wavelengths, from a generator that the seed feeds.

Examples
--------
>>> line = ridge(np.random.default_rng(7), 100, 40.0)
>>> line.shape, bool(abs(line).max() <= 1)
((100,), True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

Line: TypeAlias = "NDArray[np.float64]"


def ridge(
    rng: np.random.Generator, n: int, wavelength: float, *, octaves: int = 5, rough: float = 0.5
) -> Line:
    """Give an irregular line, as of hills.

    Parameters
    ----------
    rng : numpy.random.Generator
        Drawn from.
    n : int
        Number of points, one a pixel.
    wavelength : float
        Width of the widest hills, in pixels.
    octaves : int
        How many times smaller hills stand on the hills.
    rough : float
        Height of the hills of one octave in those of the one before.

    Returns
    -------
    array of float64, shape (n,)
        -1 to 1.

    Examples
    --------
    >>> bool(ridge(np.random.default_rng(7), 50, 20.0).std() > 0)
    True
    """
    x = np.arange(n) / max(1.0, wavelength)
    total = sum(rough**k * _wave(rng, x * 2**k) for k in range(octaves))
    return np.asarray(total / sum(rough**k for k in range(octaves)))


def clouds(
    rng: np.random.Generator, width: int, height: int, cell: tuple[float, float], octaves: int = 5
) -> Image.Image:
    """Give a picture of soft clouds.

    Parameters
    ----------
    rng : numpy.random.Generator
        Drawn from.
    width, height : int
        Size in pixels.
    cell : pair of float
        Width and height of the largest clouds, in pixels.
    octaves : int
        How many times smaller clouds are laid over them.

    Returns
    -------
    PIL.Image.Image
        Of the kind "L", spread over 0 to 255.

    Examples
    --------
    >>> clouds(np.random.default_rng(7), 64, 32, (16, 8)).getextrema()
    (0, 255)
    """
    total = np.zeros((height, width), dtype=np.float32)
    for k in range(octaves):
        columns, rows = (
            int(side * 2**k / max(length, 2)) + 2 for side, length in zip((width, height), cell, strict=True)
        )
        grains = Image.fromarray(rng.random((min(rows, height), min(columns, width)), dtype=np.float32))
        total += np.asarray(grains.resize((width, height), Image.Resampling.BICUBIC)) * np.float32(0.5**k)
    total -= total.min()
    return Image.fromarray((total * (255.49 / max(float(total.max()), 1e-6))).astype(np.uint8))


def _wave(rng: np.random.Generator, x: Line) -> Line:
    """Smooth noise, -1 to 1, with a value drawn for every whole number and a random shift."""
    x = x + rng.random()
    knots = rng.uniform(-1, 1, int(x[-1]) + 3)
    left = x.astype(int)
    share = x - left
    eased = share * share * (3 - 2 * share)
    return np.asarray(knots[left] * (1 - eased) + knots[left + 1] * eased)
