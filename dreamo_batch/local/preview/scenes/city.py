"""In the city: a street at the foot of a skyline.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> city(set_up("city", 42, 64, 48)).foot
0.95
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dreamo_batch.local.preview import buildings, colour, land, plants, water
from dreamo_batch.local.preview import sky as heaven
from dreamo_batch.local.preview.ground import crowns, leaves
from dreamo_batch.local.preview.stage import Ground

if TYPE_CHECKING:
    from dreamo_batch.local.preview.canvas import Pen
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.stage import Stage

_TONES: Final = ((96, 108, 146), (120, 104, 124), (84, 116, 132), (132, 112, 108))
_LAMPS: Final = ((255, 214, 130), (255, 190, 110), (255, 240, 200), (160, 220, 255))
_NEON: Final = ((255, 64, 140), (60, 220, 255), (170, 90, 255), (255, 180, 60), (90, 255, 170))
_FAR: Final = 0.22  # nearness of the last row
_SHADE: Final[Colour] = (20, 16, 50)
# Share of the windows with light in them; by day, of those that mirror the sky.
_LIT: Final = {"night": 0.55, "dusk": 0.45, "sunset": 0.3, "dawn": 0.2, "day": 0.6}


@dataclass(frozen=True, slots=True)
class _Block:
    left: float
    wide: float
    tall: float


def city(stage: Stage) -> Ground:
    """Paint three rows of buildings, a wet street and a pavement.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> city(set_up("cyberpunk city", 42, 64, 48)).floats
    False
    """
    row = stage.height * 0.74
    heaven.paint(stage, row)
    tone = stage.pick(_TONES)
    for k, near in enumerate((_FAR, 0.48, 0.85)):
        _skyline(stage, row + stage.height * 0.02 * k, stage.unit * (0.5 - 0.07 * k), tone, near)
        land.haze(stage, row - stage.height * 0.01, stage.unit * 0.03, 0.35)
    if stage.palette.is_dark and stage.reading.has("style.vivid"):
        _neon(stage, row)
    _street(stage, row + stage.height * 0.05, tone)
    _pavement(stage)
    return Ground(0.95)


def _skyline(stage: Stage, row: float, tallest: float, tone: Colour, near: float) -> None:
    """One row of buildings, far rows pale and without windows."""
    blocks = _blocks(stage, tallest, near)
    wall, foot = stage.fading(tone, near, 0.55)
    with stage.canvas.layer(wall, foot, rows=(row - tallest * 1.35, row + 2)) as pen:
        for block in blocks:
            pen.box(block.left, row - block.tall, block.left + block.wide, row + 2)
            _roof(pen, stage, block, row - block.tall)
    with stage.canvas.layer(
        colour.mix(wall, _SHADE, 0.4), rows=(row - tallest, row + 2), opacity=0.35
    ) as pen:
        for block in blocks:
            pen.box(block.left + block.wide * 0.68, row - block.tall, block.left + block.wide, row + 2)
    if near > _FAR:
        for lamp in (stage.pick(_LAMPS), stage.pick(_LAMPS)):
            _windows(stage, row, blocks, lamp, near)


def _blocks(stage: Stage, tallest: float, near: float) -> list[_Block]:
    blocks, x = [], -stage.unit * 0.05
    while x < stage.width:
        wide = stage.unit * stage.between(0.06, 0.13) * (0.6 + 0.6 * near)
        blocks.append(_Block(x, wide, tallest * stage.between(0.3, 1.0) ** 1.3))
        x += wide * stage.between(0.92, 1.25)
    return blocks


def _roof(pen: Pen, stage: Stage, block: _Block, top: float) -> None:
    """A mast, a gable, steps, a slope, or nothing."""
    left, wide = block.left, block.wide
    match int(stage.rng.integers(0, 5)):
        case 0:
            pen.box(left + wide * 0.47, top - wide * 0.9, left + wide * 0.53, top)
            pen.box(left + wide * 0.3, top - wide * 0.18, left + wide * 0.7, top)
        case 1:
            pen.polygon([(left, top + 1), (left + wide * 0.5, top - wide * 0.5), (left + wide, top + 1)])
        case 2:
            pen.box(left + wide * 0.15, top - wide * 0.25, left + wide * 0.85, top)
            pen.box(left + wide * 0.3, top - wide * 0.5, left + wide * 0.7, top)
        case 3:
            pen.polygon([(left, top + 1), (left, top - wide * 0.45), (left + wide, top + 1)])


def _windows(stage: Stage, row: float, blocks: list[_Block], lamp: Colour, near: float) -> None:
    hour, pitch = stage.reading.hour, stage.unit * (0.011 + 0.009 * near)
    glass = stage.tint((176, 214, 236), near)
    tint = glass if hour == "day" else colour.mix(lamp, stage.palette.sky[2], 0.45 * (1 - near))
    opacity = 0.95 if hour in {"night", "dusk"} else 0.7
    with stage.canvas.layer(tint, rows=(row - stage.unit * 0.55, row), opacity=opacity) as pen:
        for block in blocks:
            shape = max(1, int(block.tall / pitch / 1.35 - 0.6)), max(1, int(block.wide / pitch - 0.6))
            corner = block.left + (block.wide - shape[1] * pitch) / 2, row - block.tall + pitch * 0.7
            for k, j in np.argwhere(stage.rng.random(shape) < _LIT[hour] / 2).tolist():
                x, y = corner[0] + j * pitch, corner[1] + k * pitch * 1.35
                pen.box(x + pitch * 0.22, y, x + pitch * 0.78, y + pitch * 0.8)


def _street(stage: Stage, row: float, tone: Colour) -> None:
    """Wet asphalt that mirrors the town."""
    water.mirror(stage, row)
    asphalt = colour.mix(stage.tint(colour.mix(tone, (60, 60, 80), 0.5)), (16, 16, 40), 0.25)
    with stage.canvas.layer(
        asphalt, colour.mix(asphalt, (8, 8, 20), 0.4), rows=(row, stage.height), opacity=0.55
    ) as pen:
        pen.box(0, row, stage.width, stage.height)


def _pavement(stage: Stage) -> None:
    """Flags with a kerb, trees and lamps."""
    kerb, row = stage.tint((176, 168, 172), 0.95), stage.height * 0.87
    with stage.canvas.layer(kerb, colour.mix(kerb, _SHADE, 0.45), rows=(row, stage.height)) as pen:
        pen.box(0, row, stage.width, stage.height)
    with stage.canvas.layer(colour.mix(kerb, _SHADE, 0.5), rows=(row, stage.height), opacity=0.5) as pen:
        pen.box(0, row + stage.height * 0.015, stage.width, row + stage.height * 0.019)
        for x in np.linspace(-1.7, 1.7, 26):
            near, far = 0.5 + x * 1.15, 0.5 + x * 0.8
            pen.line(
                [(stage.width * far, row * 1.02), (stage.width * near, stage.height)], stage.unit * 0.0015
            )
    leaf = crowns(stage, leaves(stage))
    for x in np.arange(stage.between(0.0, 0.15), 1.1, 0.27 * stage.unit / stage.width) * stage.width:
        foot = (x, row + stage.height * 0.008)
        if stage.chance(0.55):
            height = stage.unit * stage.between(0.16, 0.24)
            plants.tree(stage, foot, height, stage.tint(leaf, 0.9), stage.tint((70, 52, 56), 0.9))
        else:
            buildings.lamp(stage, foot, stage.unit * 0.24)


def _neon(stage: Stage, row: float) -> None:
    """Signs on the houses."""
    for _ in range(int(11 * stage.width / stage.unit)):
        tint, x, y = (
            stage.pick(_NEON),
            stage.between(0, stage.width),
            row - stage.unit * stage.between(0.02, 0.26),
        )
        wide, tall = stage.unit * stage.between(0.015, 0.04), stage.unit * stage.between(0.03, 0.1)
        stage.canvas.glow(tint, (x, y), tall * 2.5, 0.6)
        edge = wide * 0.16
        with stage.canvas.layer(colour.mix(tint, colour.WHITE, 0.35), rows=(y - tall, y + tall)) as pen:
            pen.box(x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2)
            pen.box(
                x - wide / 2 + edge, y - tall / 2 + edge, x + wide / 2 - edge, y + tall / 2 - edge, grey=90
            )
