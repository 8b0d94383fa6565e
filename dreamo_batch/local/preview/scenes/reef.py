"""Under the sea: a reef in the light from above.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> underwater(set_up("under the sea", 42, 64, 48)).floats
True
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from dreamo_batch.local.preview import colour, land, plants, water
from dreamo_batch.local.preview.canvas import gradient
from dreamo_batch.local.preview.stage import Ground

if TYPE_CHECKING:
    from dreamo_batch.local.preview.canvas import Pen, Point
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.stage import Stage

_CORALS: Final = ((244, 112, 104), (250, 160, 90), (222, 92, 140), (160, 104, 190), (250, 200, 110))
_BY_DAY: Final = ((170, 240, 232), (52, 178, 196), (22, 104, 152), (12, 52, 98))
_BY_NIGHT: Final = ((52, 130, 168), (24, 78, 128), (14, 40, 88), (8, 18, 52))


def underwater(stage: Stage) -> Ground:
    """Paint rocks, corals, weed, fish and bubbles.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> underwater(set_up("under the sea", 42, 64, 48)).foot
    0.9
    """
    hue = stage.between(-18, 26)
    stops = [colour.turned(stop, hue) for stop in (_BY_NIGHT if stage.palette.is_dark else _BY_DAY)]
    stage.canvas.image.paste(gradient(stops, stage.width, stage.height), (0, 0))
    water.rays(stage, stops[0], 9)
    for k, near in enumerate((0.25, 0.5, 0.75)):
        rock = colour.mix(stops[2], (10, 40, 66), near)
        height = stage.unit * stage.between(0.1, 0.26)
        line = land.crags(stage, stage.height * (0.8 + 0.05 * k), height, length=0.3)
        land.cover(stage, line, colour.mix(rock, stops[1], 0.3), rock)
    for _ in range(4):
        _school(stage, colour.mix(stage.pick(_CORALS), stops[1], stage.between(0.1, 0.5)))
    floor = land.hills(stage, stage.height * 0.88, stage.unit * 0.03)
    sand = colour.mix(stops[1], (246, 226, 178), 0.5)
    land.cover(stage, floor, sand, colour.mix(sand, stops[3], 0.55))
    for _ in range(int(stage.rng.integers(5, 10) * stage.width / stage.unit)):
        _coral(stage, stops[2])
    _weed(stage, colour.mix((40, 120, 80), stops[2], 0.3))
    _bubbles(stage)
    return Ground(0.9, floats=True, front=_front)


def _front(view: Stage) -> None:
    plants.grass(view, view.height, view.unit * 0.09, ((30, 110, 96), (8, 40, 60)), density=0.5)


def _school(stage: Stage, tint: Colour) -> None:
    """Some fish that swim the same way."""
    middle = np.array([stage.between(0.05, 0.95) * stage.width, stage.between(0.12, 0.65) * stage.height])
    way = stage.pick((-1, 1))
    with stage.canvas.layer(tint) as pen:
        for x, y in (
            middle + stage.rng.normal(0, 1, (int(stage.rng.integers(3, 9)), 2)) * (0.08, 0.05) * stage.unit
        ):
            size = stage.unit * stage.between(0.008, 0.022)
            pen.oval((x, y), size, size * 0.5)
            tail = x - way * size * 1.5
            pen.polygon([(x - way * size * 0.7, y), (tail, y - size * 0.5), (tail, y + size * 0.5)])


def _coral(stage: Stage, deep: Colour) -> None:
    """Branches that fork, or a heap of bumps."""
    foot = stage.between(0, 1) * stage.width, stage.height * stage.between(0.87, 0.93)
    size = stage.unit * stage.between(0.06, 0.16)
    tint = colour.mix(stage.pick(_CORALS), deep, stage.between(0.05, 0.4))
    rows = (foot[1] - size * 1.6, foot[1] + size * 0.2)
    with stage.canvas.layer(tint, colour.mix(tint, deep, 0.5), rows=rows) as pen:
        if stage.chance(0.6):
            _branch(pen, stage, foot, -math.pi / 2, size * 0.5)
        else:
            for _ in range(9):
                shift = stage.rng.normal(0, 0.4) * size, -stage.between(0, 0.45) * size
                pen.disc((foot[0] + shift[0], foot[1] + shift[1]), size * stage.between(0.12, 0.3))


def _branch(pen: Pen, stage: Stage, start: Point, angle: float, length: float) -> None:
    end = (start[0] + length * math.cos(angle), start[1] + length * math.sin(angle))
    pen.line([start, end], length * 0.34)
    pen.disc(end, length * 0.17)
    if length > stage.unit * 0.012:
        for turn in (-0.5, 0.1, 0.55):
            _branch(
                pen, stage, end, angle + turn + stage.rng.normal(0, 0.15), length * stage.between(0.55, 0.72)
            )


def _weed(stage: Stage, tint: Colour) -> None:
    t = np.linspace(0, 1, 16)
    light, dark = colour.mix(tint, (160, 220, 120), 0.2), colour.mix(tint, (0, 20, 50), 0.4)
    with stage.canvas.layer(light, dark, rows=(stage.height * 0.5, stage.height)) as pen:
        for _ in range(14):
            x = stage.width * (stage.between(-0.02, 0.25) if stage.chance(0.5) else stage.between(0.75, 1.02))
            y = stage.height * 0.95 - stage.unit * stage.between(0.1, 0.36) * t
            way = x + stage.unit * 0.02 * np.sin(stage.between(0, 6) + t * 7) * t
            wide = stage.unit * 0.011 * (1 - t) ** 0.6 + 0.5
            pen.polygon(np.concatenate([np.stack([way - wide, y], 1), np.stack([way + wide, y], 1)[::-1]]))


def _bubbles(stage: Stage) -> None:
    with stage.canvas.layer((230, 255, 255), opacity=0.5) as pen:
        for _ in range(40):
            x, y = stage.between(0, stage.width), stage.between(0.05, 0.9) * stage.height
            size = min(stage.unit * 0.002 * (1 + stage.rng.pareto(2)), stage.unit * 0.014)
            pen.disc((x, y), size)
            pen.disc((x + size * 0.12, y + size * 0.12), size * 0.8, grey=70)
