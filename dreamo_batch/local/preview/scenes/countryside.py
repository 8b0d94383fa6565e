"""Forests, meadows and villages.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> forest(set_up("forest", 42, 64, 48)).foot
0.94
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreamo_batch.local.preview import buildings, colour, land, plants, sky, water
from dreamo_batch.local.preview.ground import BARK, crowns, lawn, leaves

if TYPE_CHECKING:
    from dreamo_batch.local.preview.noise import Line
    from dreamo_batch.local.preview.stage import Ground, Stage


_NEAR_ROWS = (2, 3)


def forest(stage: Stage) -> Ground:
    """Paint rows of trees in mist, with light between them.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> forest(set_up("autumn forest", 42, 64, 48)).floats
    False
    """
    sky.paint(stage, stage.height * 0.66)
    leaf = leaves(stage)
    is_broad_leaved = stage.reading.has("season.autumn", "season.spring") or stage.chance(0.3)
    for k, near in enumerate((0.2, 0.44, 0.72, 1.0)):
        line = land.hills(stage, stage.height * (0.6 + 0.075 * k), stage.unit * 0.03, length=0.8)
        tint, fog = stage.fading(leaf, near, 0.5)
        if is_broad_leaved and k in _NEAR_ROWS:
            _grove(stage, line, stage.unit * (0.12 + 0.1 * k), near)
        else:
            plants.wood(stage, line, stage.unit * (0.2 + 0.115 * k), (tint, fog), gap=0.26 + 0.05 * k)
        bottom = stage.height * (0.75 + 0.075 * k)
        land.cover(stage, line, colour.mix(tint, fog, 0.8), fog, bottom=bottom)
    water.rays(stage, colour.mix(stage.palette.sun, stage.palette.sky[3], 0.3), 6)
    return lawn(stage, leaf)


def meadow(stage: Stage) -> Ground:
    """Paint hills with single trees and fields of flowers.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> meadow(set_up("flower garden", 42, 64, 48)).floats
    False
    """
    horizon = stage.height * stage.between(0.54, 0.64)
    sky.paint(stage, horizon)
    leaf = leaves(stage)
    land.far_ranges(stage, horizon, leaf, 2)
    for k, share in enumerate((0.62, 0.69, 0.77)):
        near, row = 0.5 + 0.2 * k, stage.height * share
        turf = colour.mix(leaf, (176, 188, 70), 0.3 + 0.12 * (k % 2))
        line = land.hills(stage, row, stage.unit * 0.06, length=0.9, rough=0.2)
        light, shade = colour.mix(turf, (255, 244, 150), 0.2), colour.mix(turf, (20, 70, 60), 0.25)
        land.cover(stage, line, stage.tint(light, near), stage.tint(shade, near))
        petals = tuple(
            stage.tint(colour.turned((246, 104, 132), stage.between(-60, 60)), near) for _ in range(3)
        )
        fields = row + stage.unit * 0.05, row + stage.unit * 0.17
        plants.flowers(stage, fields, petals, 200 * (k + 1), stage.unit * (0.004 + 0.003 * k))
        for x in stage.rng.uniform(0.03, 0.97, 4 - k) * stage.width:
            foot = (x, land.at_column(line, x) + stage.unit * 0.012)
            height = stage.unit * (0.07 + 0.08 * k) * stage.between(0.8, 1.4)
            plants.tree(stage, foot, height, stage.tint(crowns(stage, leaf), near), stage.tint(BARK, near))
    return lawn(stage, colour.mix(leaf, (130, 170, 60), 0.35))


def village(stage: Stage) -> Ground:
    """Paint a castle on a hill, and cottages below it.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> village(set_up("village", 42, 64, 48)).floats
    False
    """
    horizon = stage.height * stage.between(0.56, 0.64)
    sky.paint(stage, horizon)
    leaf = leaves(stage)
    land.far_ranges(stage, horizon, colour.mix(leaf, (92, 98, 128), 0.6), 2)
    line = land.hills(stage, stage.height * 0.62, stage.unit * 0.07, length=0.8, rough=0.2)
    x = stage.width * stage.between(0.2, 0.8)
    foot = x, land.at_column(line, x) + stage.unit * 0.02
    buildings.castle(stage, foot, stage.unit * stage.between(0.24, 0.34), nearness=0.55)
    land.cover(stage, line, *stage.fading(leaf, 0.6, 0.75))
    for k, share in enumerate((0.72, 0.8)):
        line = land.hills(stage, stage.height * share, stage.unit * 0.03, length=0.8, rough=0.2)
        near = 0.75 + 0.2 * k
        plants.wood(stage, line, stage.unit * 0.1, stage.fading(leaf, near * 0.8, 0.75), gap=0.9)
        land.cover(stage, line, *stage.fading(leaf, near, 0.85))
        for x in np.sort(stage.rng.uniform(0.03, 0.97, 4 + k)) * stage.width:
            size = stage.unit * (0.075 + 0.045 * k) * stage.between(0.85, 1.2)
            buildings.house(stage, (x, land.at_column(line, x) + stage.unit * 0.02), size, nearness=near)
    return lawn(stage, leaf)


def _grove(stage: Stage, line: Line, height: float, near: float) -> None:
    """Round trees along a line, each with leaves of its own."""
    for x in np.arange(stage.between(-0.2, 0.1) * height, stage.width + height * 0.3, height * 0.62):
        at = x + stage.between(-0.15, 0.15) * height
        leaf = colour.turned(crowns(stage, leaves(stage)), stage.between(-8, 8))
        foot = (at, land.at_column(line, at) + height * 0.02)
        plants.tree(
            stage, foot, height * stage.between(0.75, 1.25), stage.tint(leaf, near), stage.tint(BARK, near)
        )
