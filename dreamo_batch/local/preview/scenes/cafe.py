"""In a cafe: lamps, tables, shelves, and a window with another scene behind it.

Examples
--------
>>> from dreamo_batch.local.preview.scenes.city import city
>>> from dreamo_batch.local.preview.stage import set_up
>>> cafe(set_up("cafe", 42, 64, 48), city).foot
0.95
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from dreamo_batch.local.preview import colour
from dreamo_batch.local.preview.canvas import blank, gradient
from dreamo_batch.local.preview.stage import Ground

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.local.preview.canvas import Point
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.stage import Stage

_WALLS: Final = ((176, 108, 84), (96, 126, 116), (196, 152, 112), (120, 96, 120), (84, 104, 132))
_WOOD: Final[Colour] = (150, 98, 66)


def cafe(stage: Stage, view: Callable[[Stage], Ground]) -> Ground:
    """Paint a room whose window shows this view.

    Examples
    --------
    >>> from dreamo_batch.local.preview.scenes.city import city
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> cafe(set_up("cafe at night", 42, 64, 48), city).floats
    False
    """
    is_evening = stage.reading.hour in {"night", "dusk", "sunset"}
    light = (255, 226, 190) if is_evening else (255, 248, 236)
    wall, floor = stage.pick(_WALLS), stage.height * 0.8
    top = colour.mix(wall, (30, 16, 30), 0.35 if is_evening else 0.1)
    walls = gradient((colour.lit(top, light), colour.lit(wall, light)), stage.width, stage.height)
    stage.canvas.image.paste(walls, (0, 0))
    _window(stage, floor, view)
    _floor(stage, floor, colour.lit(_WOOD, light))
    for side in (-0.62, 0.62):
        for row in (0.3, 0.42, 0.54):
            _shelf(stage, (stage.width / 2 + side * stage.unit, stage.height * row), light)
    for x in np.linspace(0.12, 0.88, int(stage.rng.integers(3, 6))) * stage.width:
        _pendant(stage, (x, stage.height * stage.between(0.12, 0.22)), stage.unit * 0.05)
    for x in (stage.between(0.08, 0.18), stage.between(0.82, 0.94)):
        _table(stage, (x * stage.width, stage.height * stage.between(0.9, 0.94)), stage.unit * 0.2, light)
    return Ground(0.95)


def _window(stage: Stage, floor: float, view: Callable[[Stage], Ground]) -> None:
    middle, half = stage.width * (0.5 + stage.between(-0.12, 0.12)), stage.unit * 0.4
    left, top = round(middle - half), round(stage.height * 0.14)
    right, bottom = round(middle + half), round(floor - stage.unit * 0.16)
    outside = replace(stage, canvas=blank(max(8, right - left), max(8, bottom - top)))
    view(outside)
    stage.canvas.image.paste(outside.canvas.image, (left, top))
    thick = stage.unit * 0.014
    frame = (58, 40, 40) if stage.palette.is_dark else stage.tint((74, 50, 44))
    with stage.canvas.layer(frame) as pen:
        for x in np.linspace(left, right, 4):
            pen.box(x - thick / 2, top, x + thick / 2, bottom)
        for y in (top, top + (bottom - top) * 0.28, bottom):
            pen.box(left - thick / 2, y - thick / 2, right + thick / 2, y + thick / 2)
        pen.box(left - thick * 2, bottom, right + thick * 2, bottom + thick * 1.6)


def _floor(stage: Stage, row: float, wood: Colour) -> None:
    """Boards that run away from the eye, and a skirting."""
    with stage.canvas.layer(colour.mix(wood, (30, 14, 20), 0.3), wood, rows=(row, stage.height)) as pen:
        pen.box(0, row, stage.width, stage.height)
    with stage.canvas.layer((50, 26, 24), rows=(row, stage.height), opacity=0.3) as pen:
        for x in np.linspace(-2, 2, 44):
            near, far = stage.width * (0.5 + x * 1.3), stage.width * (0.5 + x * 0.7)
            pen.line([(far, row), (near, stage.height)], stage.unit * 0.002)
    skirting = row - stage.unit * 0.022
    with stage.canvas.layer(colour.mix(wood, (250, 230, 200), 0.4), rows=(skirting, row)) as pen:
        pen.box(0, skirting, stage.width, row)


def _shelf(stage: Stage, middle: Point, light: Colour) -> None:
    """A board with books."""
    x, row = middle
    half = stage.unit * 0.1
    for at in np.linspace(-0.8, 0.8, 7):
        cover = colour.lit(colour.turned((200, 110, 90), stage.between(0, 360), 0.8), light)
        with stage.canvas.layer(cover, rows=(row - stage.unit * 0.08, row)) as pen:
            pen.box(
                x + (at - 0.1) * half,
                row - stage.unit * stage.between(0.025, 0.07),
                x + (at + 0.08) * half,
                row,
            )
    with stage.canvas.layer(colour.lit((110, 70, 50), light), rows=(row, row + stage.unit * 0.014)) as pen:
        pen.box(x - half, row, x + half, row + stage.unit * 0.012)


def _pendant(stage: Stage, top: Point, size: float) -> None:
    """A lamp that hangs from the ceiling."""
    x, y = top
    stage.canvas.glow((255, 206, 130), (x, y + size), size * 5, 0.45)
    angle = np.linspace(math.pi, 2 * math.pi, 24)
    with stage.canvas.layer((44, 34, 40), rows=(0, y + size)) as pen:
        pen.box(x - size * 0.03, 0, x + size * 0.03, y)
        pen.polygon(np.stack([x + size * 0.9 * np.cos(angle), y + size * 0.75 * (1 + np.sin(angle))], axis=1))
    with stage.canvas.layer((255, 240, 196), rows=(y, y + size * 1.2)) as pen:
        pen.oval((x, y + size * 0.76), size * 0.55, size * 0.22)


def _table(stage: Stage, foot: Point, size: float, light: Colour) -> None:
    """A round table with a steaming cup."""
    x, y = foot
    wood, china, rows = (
        colour.lit((128, 78, 54), light),
        colour.lit((250, 244, 234), light),
        (y - size * 1.5, y + 3),
    )
    with stage.canvas.layer(colour.mix(wood, (20, 10, 20), 0.5), rows=rows) as pen:
        pen.box(x - size * 0.04, y - size * 0.7, x + size * 0.04, y)
        pen.oval(foot, size * 0.3, size * 0.06)
    with stage.canvas.layer(
        colour.mix(wood, (255, 220, 170), 0.25), wood, rows=(y - size * 0.82, y - size * 0.58)
    ) as pen:
        pen.oval((x, y - size * 0.7), size * 0.62, size * 0.12)
    with stage.canvas.layer(
        china, colour.mix(china, (120, 90, 90), 0.35), rows=(y - size, y - size * 0.68)
    ) as pen:
        pen.oval((x, y - size * 0.72), size * 0.2, size * 0.04)
        rim, low = (y - size * 0.95), (y - size * 0.73)
        left, right = (x - size * 0.13, rim), (x + size * 0.13, rim)
        pen.polygon([left, right, (x + size * 0.09, low), (x - size * 0.09, low)])
    t = np.linspace(0, 1, 14)
    with stage.canvas.layer((255, 255, 255), rows=rows, opacity=0.35, blur_px=2) as pen:
        for at in (-0.05, 0.05):
            waft = x + at * size + 0.04 * size * np.sin(7 * t + at * 40)
            pen.line(np.stack([waft, y - size * (1.0 + 0.35 * t)], axis=1), size * 0.025)
