"""A picture that is painted in layers, far things first.

A layer is a set of shapes, drawn at twice the size and reduced (smooth edges), filled with one colour or with
two that fade into each other from its top row to its bottom row. Lengths are pixels of the canvas.

Examples
--------
>>> canvas = blank(80, 60)
>>> with canvas.layer((255, 200, 0)) as pen:
...     pen.disc((40, 30), 10)
>>> canvas.image.getpixel((40, 30)), canvas.image.getpixel((0, 0))
((255, 200, 0), (0, 0, 0))
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike

    from dreamo_batch.local.preview.colour import Colour

Point: TypeAlias = tuple[float, float]

_FINER = 2


@dataclass(frozen=True, slots=True)
class Pen:
    """Draws the shapes of one layer; `grey` is the layer's strength there, 255 for all of it.

    Examples
    --------
    >>> mask = Image.new("L", (20, 20))
    >>> Pen(ImageDraw.Draw(mask), top=0).box(0, 0, 5, 5)
    >>> mask.getpixel((3, 3))
    255
    """

    draw: ImageDraw.ImageDraw
    top: int

    def polygon(self, points: ArrayLike, grey: int = 255) -> None:
        """Fill the shape with these corners: (n, 2) pixels."""
        corners = (np.asarray(points, dtype=float) - (0, self.top)) * _FINER
        self.draw.polygon(corners.ravel().tolist(), fill=grey)

    def line(self, points: ArrayLike, width: float, grey: int = 255) -> None:
        """Draw a line through these points, with round bends."""
        way = (np.asarray(points, dtype=float) - (0, self.top)) * _FINER
        self.draw.line(way.ravel().tolist(), fill=grey, width=max(1, round(width * _FINER)), joint="curve")

    def oval(self, middle: Point, radius_x: float, radius_y: float, grey: int = 255) -> None:
        """Fill the ellipse around this point."""
        x, y = middle
        edges = (x - radius_x, y - self.top - radius_y, x + radius_x, y - self.top + radius_y)
        self.draw.ellipse([edge * _FINER for edge in edges], fill=grey)

    def disc(self, middle: Point, radius: float, grey: int = 255) -> None:
        """Fill the circle around this point."""
        self.oval(middle, radius, radius, grey)

    def box(self, left: float, top: float, right: float, bottom: float, grey: int = 255) -> None:
        """Fill this rectangle; an empty one draws nothing."""
        if right > left and bottom > top:
            edges = (left, top - self.top, right, bottom - self.top)
            self.draw.rectangle([edge * _FINER for edge in edges], fill=grey)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A picture of the kind "RGB" to paint on.

    Examples
    --------
    >>> blank(80, 60).unit
    60
    """

    image: Image.Image

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.image.width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.image.height

    @property
    def unit(self) -> int:
        """Length of the shorter side in pixels: what is drawn in units keeps its proportions."""
        return min(self.image.size)

    @contextmanager
    def layer(
        self,
        colour: Colour,
        fade: Colour | None = None,
        *,
        rows: tuple[float, float] | None = None,
        opacity: float = 1.0,
        blur_px: float = 0.0,
    ) -> Iterator[Pen]:
        """Paint what the pen draws, all of it at once when the block ends.

        Parameters
        ----------
        colour : Colour
            Colour of the shapes, at the top row if there is a `fade`.
        fade : Colour, optional
            Colour at the bottom row.
        rows : pair of float, optional
            Paint between these two rows only: the fewer, the faster. The whole canvas by default.
        opacity : float
            0 to 1.
        blur_px : float
            Radius of the blur of the shapes' edges.

        Yields
        ------
        Pen

        Examples
        --------
        >>> canvas = blank(40, 40)
        >>> with canvas.layer((0, 0, 0), (200, 200, 200), opacity=0.5) as pen:
        ...     pen.box(0, 0, 40, 40)
        >>> canvas.image.getpixel((0, 0)), canvas.image.getpixel((0, 39))
        ((0, 0, 0), (100, 100, 100))
        """
        start, stop = rows or (0, self.height)
        first = int(np.clip(start, 0, self.height - 1))
        last = int(np.clip(np.ceil(stop), first + 1, self.height))
        mask = Image.new("L", (self.width * _FINER, (last - first) * _FINER))
        yield Pen(ImageDraw.Draw(mask), first)
        mask = mask.reduce(_FINER)
        if blur_px > 0:
            mask = mask.filter(ImageFilter.BoxBlur(blur_px))
        self.stamp(mask, (0, first), colour, fade, opacity=opacity)

    def stamp(
        self,
        mask: Image.Image,
        corner: tuple[int, int],
        colour: Colour,
        fade: Colour | None = None,
        *,
        opacity: float = 1.0,
    ) -> None:
        """Paint through a mask of the kind "L" whose top left corner lies at this pixel.

        Examples
        --------
        >>> canvas = blank(40, 40)
        >>> canvas.stamp(Image.new("L", (10, 10), 255), (5, 5), (9, 8, 7))
        >>> canvas.image.getpixel((5, 5)), canvas.image.getpixel((15, 15))
        ((9, 8, 7), (0, 0, 0))
        """
        if opacity < 1:
            mask = mask.point([round(grey * opacity) for grey in range(256)])
        if fade is None:
            self.image.paste(colour, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)
        else:
            self.image.paste(gradient((colour, fade), *mask.size), corner, mask)

    def glow(self, colour: Colour, middle: Point, radius: float, strength: float = 1.0) -> None:
        """Let this colour shine from a point, fading outwards until nothing is left at `radius` pixels.

        Examples
        --------
        >>> canvas = blank(40, 40)
        >>> canvas.glow((255, 0, 0), (20, 20), 15)
        >>> canvas.image.getpixel((20, 20))[0] > canvas.image.getpixel((28, 20))[0] > 0
        True
        """
        side = max(2, round(radius * 2))
        left, top = round(middle[0] - radius), round(middle[1] - radius)
        seen = max(0, left), max(0, top), min(self.width, left + side), min(self.height, top + side)
        if seen[2] > seen[0] and seen[3] > seen[1]:
            scale = 256 / side
            part = (
                (seen[0] - left) * scale,
                (seen[1] - top) * scale,
                (seen[2] - left) * scale,
                (seen[3] - top) * scale,
            )
            size = seen[2] - seen[0], seen[3] - seen[1]
            mask = _halo().resize(size, Image.Resampling.BILINEAR, box=part)
            self.stamp(mask, seen[:2], colour, opacity=strength)


def blank(width: int, height: int) -> Canvas:
    """Give a black canvas of this size in pixels.

    Parameters
    ----------
    width, height : int
        At least 1.

    Returns
    -------
    Canvas

    Examples
    --------
    >>> blank(8, 4).image.size
    (8, 4)
    """
    return Canvas(Image.new("RGB", (width, height)))


def gradient(stops: Sequence[Colour], width: int, height: int) -> Image.Image:
    """Give a picture that goes through these colours from its top row to its bottom row.

    Parameters
    ----------
    stops : sequence of Colour
        Two or more, at equal distances.
    width, height : int
        Size in pixels.

    Returns
    -------
    PIL.Image.Image
        Of the kind "RGB".

    Examples
    --------
    >>> gradient([(0, 0, 0), (250, 100, 0)], 3, 11).getpixel((1, 5))
    (125, 50, 0)
    """
    at = np.linspace(0, len(stops) - 1, height)
    colours = np.array(stops, dtype=float)
    rows = np.stack([np.interp(at, np.arange(len(stops)), band) for band in colours.T], axis=-1)
    strip = Image.fromarray(np.rint(rows).astype(np.uint8)[:, None, :])
    return strip.resize((width, height), Image.Resampling.NEAREST)


@lru_cache(maxsize=1)
def _halo() -> Image.Image:
    """Light around a point: strong in the middle, with a long tail."""
    return Image.radial_gradient("L").point(
        [round(255 * max(0, 1 - grey / 180) ** 2.2) for grey in range(256)]
    )
