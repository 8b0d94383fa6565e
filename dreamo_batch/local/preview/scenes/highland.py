"""Mountains: above forests, above a lake, in snow.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> mountain(set_up("mountain", 42, 64, 48)).foot
0.94
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dreamo_batch.local.preview import buildings, colour, land, plants, sky, water
from dreamo_batch.local.preview.ground import lawn, leaves
from dreamo_batch.local.preview.stage import Ground

if TYPE_CHECKING:
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.stage import Stage

ROCKS: Final = ((92, 98, 128), (110, 96, 108), (84, 104, 116), (120, 104, 100))
_SNOW: Final[Colour] = (246, 249, 255)
_SNOW_SHADE: Final[Colour] = (150, 174, 216)
_PINE: Final[Colour] = (52, 84, 92)


def mountain(stage: Stage) -> Ground:
    """Paint a range behind rows of pines.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> mountain(set_up("volcano", 42, 64, 48)).floats
    False
    """
    horizon = stage.height * stage.between(0.6, 0.68)
    sky.paint(stage, horizon)
    rock, leaf = stage.pick(ROCKS), leaves(stage)
    land.far_ranges(stage, horizon, rock, 2)
    land.mountains(stage, horizon + stage.height * 0.03, stage.unit * stage.between(0.36, 0.5), rock)
    land.haze(stage, horizon + stage.height * 0.02, stage.unit * 0.035, 0.55)
    for k, share in enumerate((0.66, 0.74)):
        line = land.hills(stage, stage.height * share, stage.unit * 0.05, length=0.7)
        tints = stage.fading(leaf, 0.6 + 0.25 * k, 0.72)
        plants.wood(stage, line, stage.unit * (0.07 + 0.05 * k), tints)
        land.cover(stage, line, *tints)
    return lawn(stage, leaf)


def lake(stage: Stage) -> Ground:
    """Paint a lake that mirrors mountains.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> lake(set_up("lake", 42, 64, 48)).floats
    False
    """
    shore = stage.height * stage.between(0.56, 0.62)
    sky.paint(stage, shore)
    rock, leaf = stage.pick(ROCKS), leaves(stage)
    land.far_ranges(stage, shore, rock, 2)
    land.mountains(stage, shore, stage.unit * stage.between(0.3, 0.42), rock)
    line = land.hills(stage, shore - stage.unit * 0.005, stage.unit * 0.025, length=0.5)
    plants.wood(stage, line, stage.unit * 0.075, stage.fading(leaf, 0.75, 0.8))
    land.cover(stage, line, stage.tint(leaf, 0.7), bottom=shore + 2)
    water.mirror(stage, shore)
    return lawn(stage, leaf)


def snow(stage: Stage) -> Ground:
    """Paint a snow field with pines and perhaps a hut.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> snow(set_up("winter", 42, 64, 48)).floats
    False
    """
    horizon = stage.height * stage.between(0.58, 0.66)
    sky.paint(stage, horizon)
    land.far_ranges(stage, horizon, (126, 140, 176), 1)
    foot = horizon + stage.height * 0.03
    land.mountains(stage, foot, stage.unit * stage.between(0.3, 0.44), (104, 116, 150), snow=0.75)
    land.haze(stage, foot, stage.unit * 0.03, 0.5)
    for k, share in enumerate((0.68, 0.77)):
        line, near = land.hills(stage, stage.height * share, stage.unit * 0.045, length=0.8), 0.7 + 0.2 * k
        plants.wood(stage, line, stage.unit * (0.09 + 0.07 * k), stage.fading(_PINE, near, 0.7), gap=0.55)
        land.cover(stage, line, stage.tint(_SNOW, near), stage.tint(_SNOW_SHADE, near))
    if stage.chance(0.6):
        hut = stage.width * stage.between(0.15, 0.85), stage.height * 0.8
        buildings.house(stage, hut, stage.unit * 0.11)
    line = land.hills(stage, stage.height * 0.86, stage.unit * 0.03, length=0.9)
    land.cover(stage, line, stage.tint(_SNOW), stage.tint(_SNOW_SHADE))
    return Ground(0.94, front=_drift)


def _drift(view: Stage) -> None:
    """Snow before the figure's feet."""
    line = land.hills(view, view.height * 0.985, view.unit * 0.02, length=0.5)
    land.cover(view, line, view.tint(_SNOW), view.tint(colour.mix(_SNOW, _SNOW_SHADE, 0.5)))
