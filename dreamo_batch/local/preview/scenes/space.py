"""In space: nebulae, stars and planets, perhaps seen from a moon.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> space(set_up("space", 42, 64, 48)).foot > 0.5
True
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from dreamo_batch.local.preview import colour, land, noise
from dreamo_batch.local.preview import sky as heaven
from dreamo_batch.local.preview.canvas import gradient
from dreamo_batch.local.preview.stage import Ground

if TYPE_CHECKING:
    from dreamo_batch.local.preview.canvas import Point
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.stage import Stage

_NIGHT: Final = ((20, 4, 4), (40, 10, 10), (70, 18, 18))
_SHADE: Final[Colour] = (8, 6, 30)
# Inner and outer edge of the rings of a planet, in radii, and how dense they are.
_RINGS: Final = ((1.35, 1.62, 255), (1.67, 1.82, 170), (1.87, 1.98, 110))


def space(stage: Stage) -> Ground:
    """Paint the sky of another world.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> space(set_up("purple galaxy", 42, 64, 48)).foot > 0.5
    True
    """
    hue = stage.between(180, 340) if stage.reading.tint is None else stage.reading.tint
    night = [colour.turned(stop, hue) for stop in _NIGHT]
    stage.canvas.image.paste(gradient(night, stage.width, stage.height), (0, 0))
    for turn, strength in ((0.0, 0.75), (stage.between(40, 100), 0.6), (-stage.between(30, 80), 0.5)):
        _nebula(stage, colour.turned((255, 70, 80), hue + turn), strength)
    heaven.stars(stage, stage.height, n=round(700 * stage.width / stage.unit))
    for size in (stage.between(0.015, 0.04), stage.between(0.13, 0.22), stage.between(0.03, 0.07)):
        x = stage.width * (stage.between(0.06, 0.34) if stage.chance(0.5) else stage.between(0.66, 0.94))
        tint = colour.turned((230, 120, 90), stage.between(0, 360))
        _planet(stage, (x, stage.height * stage.between(0.12, 0.5)), stage.unit * size, tint)
    if stage.chance(0.65):
        return _moon(stage, colour.mix(colour.turned((150, 120, 120), hue), (190, 190, 205), 0.55))
    return Ground(0.84, floats=True)


def _nebula(stage: Stage, tint: Colour, strength: float) -> None:
    """Clouds of light in a band across the picture."""
    width, height = max(2, stage.width // 5), max(2, stage.height // 5)
    cloud = noise.clouds(stage.rng, width, height, (stage.unit * 0.12, stage.unit * 0.1), octaves=6)
    centre, slope = stage.between(0.2, 0.8), stage.between(-0.5, 0.5)
    y, x = np.mgrid[0:height, 0:width]
    band = np.exp(-(((y / height - centre - slope * (x / width - 0.5)) / 0.3) ** 2))
    light = (np.clip(np.asarray(cloud) / 255 - 0.3, 0, 1) * 1.7) ** 1.6 * band
    mask = Image.fromarray((light * 255).clip(0, 255).astype(np.uint8))
    mask = mask.resize(stage.canvas.image.size, Image.Resampling.BICUBIC)
    stage.canvas.stamp(mask, (0, 0), tint, opacity=strength)


def _planet(stage: Stage, middle: Point, radius: float, tint: Colour) -> None:
    """A striped ball, lit from the upper left, perhaps with rings."""
    tilt = stage.between(-0.5, 0.5) if stage.chance(0.55) else None
    stage.canvas.glow(tint, middle, radius * 1.7, 0.4)
    if tilt is not None:
        _rings(stage, middle, radius, tint, tilt + math.pi)
    _ball(stage, middle, radius, tint)
    if tilt is not None:
        _rings(stage, middle, radius, tint, tilt)


def _ball(stage: Stage, middle: Point, radius: float, tint: Colour) -> None:
    side = max(8, round(radius * 2))
    disc = Image.new("L", (side * 2, side * 2))
    ImageDraw.Draw(disc).ellipse((0, 0, side * 2 - 1, side * 2 - 1), fill=255)
    disc, corner = disc.reduce(2), (round(middle[0] - side / 2), round(middle[1] - side / 2))
    stage.canvas.stamp(disc, corner, colour.mix(tint, colour.WHITE, 0.25), tint)
    bands = noise.ridge(stage.rng, side, side * 0.3, octaves=4)[:, None]
    bands = bands + 0.18 * noise.ridge(stage.rng, side, side * 0.8)[None, :]
    stripes = Image.fromarray(np.clip(bands * 200 + 60, 0, 170).astype(np.uint8))
    stage.canvas.stamp(ImageChops.multiply(stripes, disc), corner, colour.mix(tint, (40, 10, 60), 0.55))
    v, u = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    dark = np.clip((np.hypot(u + 0.45, v + 0.45) - 0.45) / 1.05, 0, 1) ** 1.1
    shadow = Image.fromarray((dark * 235).astype(np.uint8))
    stage.canvas.stamp(ImageChops.multiply(shadow, disc), corner, colour.mix(tint, _SHADE, 0.93))


def _rings(stage: Stage, middle: Point, radius: float, tint: Colour, turn: float) -> None:
    """Half of the rings: those before the planet, or turned by pi, those behind it."""
    angle = np.linspace(0, math.pi, 60)
    spin = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    arc = np.stack([np.cos(angle), np.sin(angle) * 0.26], axis=1) @ spin * radius
    rows = (middle[1] - radius * 2.2, middle[1] + radius * 2.2)
    with stage.canvas.layer(colour.mix(tint, (255, 240, 220), 0.6), rows=rows, opacity=0.8) as pen:
        for inner, outer, grey in _RINGS:
            pen.polygon(np.concatenate([arc * outer, (arc * inner)[::-1]]) + middle, grey)


def _moon(stage: Stage, rock: Colour) -> Ground:
    """Barren ground with craters."""
    for k, share in enumerate((0.76, 0.84)):
        line = land.hills(stage, stage.height * share, stage.unit * 0.05, length=0.5, rough=0.5)
        tint = colour.mix((24, 20, 50), rock, 0.45 + 0.4 * k)
        land.cover(stage, line, tint, colour.mix(tint, _SHADE, 0.6))
        for _ in range(int(7 * stage.width / stage.unit)):
            y, wide = stage.between(share + 0.06, 0.98), stage.unit * stage.between(0.02, 0.09)
            _crater(
                stage, (stage.between(0, 1) * stage.width, y * stage.height), wide * (0.4 + 0.6 * k), tint
            )
    return Ground(0.92)


def _crater(stage: Stage, middle: Point, wide: float, rock: Colour) -> None:
    x, y = middle
    rows = (y - wide * 0.4, y + wide * 0.4)
    with stage.canvas.layer(colour.mix(rock, colour.WHITE, 0.25), rows=rows, opacity=0.7) as pen:
        pen.oval(middle, wide, wide * 0.26)
    with stage.canvas.layer(colour.mix(rock, _SHADE, 0.6), rows=rows, opacity=0.85) as pen:
        pen.oval((x, y - wide * 0.02), wide * 0.92, wide * 0.21)
    with stage.canvas.layer(colour.mix(rock, _SHADE, 0.3), rows=rows) as pen:
        pen.oval((x, y + wide * 0.04), wide * 0.8, wide * 0.15)
