"""Built-in likeness of a picture to its reference: colour and shape, which is not identity.

Each score runs from 0 to 1, and equal pictures reach 1. They compare whole pictures: that a small fox in a large
landscape is the fox of the reference, or that a face is the same person's, none of them can tell. A picture that
copies the reference scores highest, whether or not that was wanted. Use them to sort, and to find what went astray;
for identity pass a metric of your own (see `dreamo_batch.Metric`).

Examples
--------
>>> from PIL import Image
>>> appearance(Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "red"))
1.0
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dreamo_batch.results.colours import thumbnail

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

_SIDE_PX: Final = 64
N_LEVELS: Final = 128
_FADE: Final = 25.0  # Delta E at which likeness of colour has fallen to 1/e
_N_CELLS: Final = 4
_N_DIRECTIONS: Final = 8
_FAINT: Final = 1.0  # L* from one pixel to the next but one: below is noise of compression
N_EDGES: Final = _N_CELLS**2 * _N_DIRECTIONS


class Traits(NamedTuple):
    """What the scores compare: sorted levels of L*, a* and b* (3 x 128), and the histogram of edges (128)."""

    levels: NDArray[np.float32]
    edges: NDArray[np.float32]


def traits(picture: Image.Image) -> Traits:
    """Return the traits of a picture of mode RGB."""
    lab = thumbnail(picture, _SIDE_PX)
    levels = np.sort(lab.reshape(-1, 3), axis=0).reshape(N_LEVELS, -1, 3).mean(axis=1).T
    return Traits(np.ascontiguousarray(levels), _edges(lab[..., 0]).astype(np.float32))


def colour_likeness(one: Traits, other: Traits) -> float:
    """Score the levels of two pictures, 0 to 1."""
    distances = np.abs(one.levels - other.levels).mean(axis=1)
    return math.exp(-float(np.linalg.norm(distances) / _FADE))


def shape_likeness(one: Traits, other: Traits) -> float:
    """Score the edges of two pictures, 0 to 1."""
    lengths = float(np.linalg.norm(one.edges)), float(np.linalg.norm(other.edges))
    if not all(lengths):
        return float(not any(lengths))
    return min(1.0, float(one.edges @ other.edges) / (lengths[0] * lengths[1]))


def likeness(one: Traits, other: Traits) -> float:
    """Score colour and shape; the mean of the two."""
    return (colour_likeness(one, other) + shape_likeness(one, other)) / 2


def colour(reference: Image.Image, output: Image.Image) -> float:
    """Compare which colours there are and how much of each, wherever they are.

    The levels of L*, a* and b* are sorted, averaged in 128 steps and compared (the Wasserstein distance of each); the
    length of the three, in units of Delta E, fades as exp(-distance / 25).

    Parameters
    ----------
    reference, output : PIL.Image.Image
        Of mode RGB.

    Returns
    -------
    float
        0 to 1. Mirrored, turned or shuffled pictures score 1; so does another thing of the same colours.

    Examples
    --------
    >>> from PIL import Image
    >>> round(colour(Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")), 3)
    0.018
    """
    return colour_likeness(traits(reference), traits(output))


def shape(reference: Image.Image, output: Image.Image) -> float:
    """Compare where edges are and which way they run, whatever the colours.

    A histogram of 8 directions of the edges of L*, weighted by their strength, in each of 4 x 4 parts; the cosine of
    the two (as in histograms of oriented gradients, Dalal and Triggs, 2005). What is not square is squeezed.

    Parameters
    ----------
    reference, output : PIL.Image.Image
        Of mode RGB.

    Returns
    -------
    float
        0 to 1; 1 for two pictures without edges. A thing that moved across the picture, or was mirrored, scores low.

    Examples
    --------
    >>> from PIL import Image
    >>> across = Image.linear_gradient("L").convert("RGB")
    >>> shape(across, across.rotate(90)) < 0.01
    True
    """
    return shape_likeness(traits(reference), traits(output))


def appearance(reference: Image.Image, output: Image.Image) -> float:
    """Compare colour and shape; the mean of the two.

    Parameters
    ----------
    reference, output : PIL.Image.Image
        Of mode RGB.

    Returns
    -------
    float
        0 to 1.

    Examples
    --------
    >>> from PIL import Image
    >>> round(appearance(Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")), 3)
    0.509
    """
    return likeness(traits(reference), traits(output))


def _edges(lightness: NDArray[np.float32]) -> NDArray[np.float64]:
    down, across = np.gradient(lightness.astype(np.float64))
    strength = np.hypot(down, across)
    strength[strength < _FAINT / 2] = 0.0
    # Half a turn: a dark line on light ground runs the same way as a light one on dark.
    angle = np.mod(np.arctan2(down, across), np.pi)
    direction = np.rint(angle / np.pi * _N_DIRECTIONS).astype(int) % _N_DIRECTIONS
    part = np.arange(_SIDE_PX) * _N_CELLS // _SIDE_PX
    numbers = (part[:, None] * _N_CELLS + part[None, :]) * _N_DIRECTIONS + direction
    weights = strength.ravel().astype(np.float64)
    return np.bincount(numbers.ravel(), weights, minlength=_N_CELLS**2 * _N_DIRECTIONS).astype(np.float64)
