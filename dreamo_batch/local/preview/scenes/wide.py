"""Wide places: the desert, and above the clouds.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> desert(set_up("desert", 42, 64, 48)).floats
False
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dreamo_batch.local.preview import colour, flyers, land, plants
from dreamo_batch.local.preview import sky as heaven
from dreamo_batch.local.preview.ground import billow
from dreamo_batch.local.preview.stage import Ground

if TYPE_CHECKING:
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.stage import Stage

_SANDS: Final = ((232, 178, 112), (222, 150, 96), (240, 196, 140), (214, 128, 88))


def desert(stage: Stage) -> Ground:
    """Paint dunes with cacti, perhaps below table mountains.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> desert(set_up("desert", 42, 64, 48)).foot
    0.945
    """
    horizon = stage.height * stage.between(0.58, 0.66)
    heaven.paint(stage, horizon)
    sand = stage.pick(_SANDS)
    if stage.chance(0.6):
        _mesas(stage, horizon, colour.mix(sand, (150, 60, 50), 0.5))
    for k, share in enumerate((0.63, 0.7, 0.78)):
        _dune(stage, stage.height * share, stage.unit * (0.05 + 0.035 * k), sand, 0.55 + 0.18 * k)
    for _ in range(int(stage.rng.integers(1, 4))):
        x = stage.width * (stage.between(0.04, 0.3) if stage.chance(0.5) else stage.between(0.7, 0.96))
        foot = (x, stage.height * stage.between(0.8, 0.86))
        plants.cactus(stage, foot, stage.unit * stage.between(0.1, 0.24), stage.tint((76, 122, 84), 0.95))
    _dune(stage, stage.height * 0.88, stage.unit * 0.05, sand, 1.0)
    return Ground(0.945)


def sky(stage: Stage) -> Ground:
    """Paint banks of clouds to stand on, and balloons.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> sky(set_up("above the clouds", 42, 64, 48)).foot
    0.93
    """
    heaven.paint(stage, stage.height * 0.9)
    flyers.balloons(stage, int(stage.rng.integers(2, 6)))
    white = colour.mix(colour.WHITE, stage.palette.sun, 0.3)
    shade = colour.mix(white, stage.palette.sky[0], 0.72)
    for k, share in enumerate((0.62, 0.7, 0.79, 0.9)):
        near = 0.5 + 0.16 * k
        tints = stage.tint(white, near), colour.mix(stage.tint(shade, near), stage.palette.sky[1], 0.35)
        billow(stage, stage.height * share, stage.unit * (0.035 + 0.02 * k), tints)
    tints = stage.tint(white), stage.tint(shade)
    return Ground(0.93, front=lambda view: billow(view, view.height * 0.995, view.unit * 0.05, tints))


def _mesas(stage: Stage, row: float, rock: Colour) -> None:
    foot = max(row, stage.height * 0.66) + stage.height * 0.03
    with stage.canvas.layer(*stage.fading(rock, 0.5, 0.6), rows=(row - stage.unit * 0.3, foot)) as pen:
        for _ in range(int(stage.rng.integers(2, 5))):
            x, wide = stage.between(0, 1) * stage.width, stage.unit * stage.between(0.04, 0.16)
            top = row - stage.unit * stage.between(0.08, 0.24)
            ledge = (row + top) / 2
            left = [(x - wide * 1.6, foot + 2), (x - wide * 1.1, ledge), (x - wide, top)]
            pen.polygon([*left, (x + wide * 0.9, top), (x + wide * 1.05, ledge), (x + wide * 1.7, foot + 2)])


def _dune(stage: Stage, row: float, height: float, sand: Colour, near: float) -> None:
    """A dune with a lit and a shaded side along its crest."""
    line = land.hills(stage, row, height, length=stage.between(0.7, 1.2), rough=0.12)
    light, low = colour.mix(sand, (255, 250, 220), 0.25), colour.mix(sand, (130, 60, 60), 0.25)
    land.cover(stage, line, stage.tint(light, near), stage.tint(low, near))
    margin = len(line) // 8
    top = int(np.argmin(line[margin:-margin])) + margin
    deep, t = (stage.height - row) * 0.9, np.linspace(1, 0, 16)
    x = np.linspace(top / len(line), 1, 40) * (stage.width + 4)
    crest = np.stack([x, [land.at_column(line, at) for at in x]], axis=1)
    bend = stage.unit * 0.13 * np.sin(t * 3.1) * t + deep * 0.5 * t
    edge = np.stack([crest[0, 0] + bend, crest[0, 1] + deep * t], axis=1)
    dark, dim = colour.mix(sand, (90, 40, 80), 0.62), colour.mix(sand, (90, 40, 80), 0.3)
    rows = float(line.min()), row + deep
    with stage.canvas.layer(stage.tint(dark, near), stage.tint(dim, near), rows=rows, opacity=0.6) as pen:
        pen.polygon(np.concatenate([crest, [[stage.width + 9, stage.height]], edge]))
