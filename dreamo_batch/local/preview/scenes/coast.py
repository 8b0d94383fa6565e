"""At the sea: a beach with palms, and rocks above the waves.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> beach(set_up("beach", 42, 64, 48)).foot
0.93
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dreamo_batch.local.preview import buildings, colour, flyers, land, noise, plants, water
from dreamo_batch.local.preview import sky as heaven
from dreamo_batch.local.preview.stage import Ground

if TYPE_CHECKING:
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.stage import Stage

_WATERS: Final = ((24, 116, 160), (20, 140, 150), (36, 96, 150), (30, 150, 170))
_SANDS: Final = ((250, 222, 172), (244, 208, 160), (255, 232, 196))
_SHELLS: Final = ((255, 250, 240), (236, 150, 130), (200, 160, 120))
_FOAM: Final[Colour] = (255, 255, 255)


def beach(stage: Stage) -> Ground:
    """Paint sand, palms and the sea.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> beach(set_up("beach", 42, 64, 48)).floats
    False
    """
    horizon = _open_sea(stage)
    if stage.chance(0.6):
        boat = stage.between(0.1, 0.9) * stage.width, horizon + stage.unit * 0.03
        buildings.sailboat(stage, boat, stage.unit * stage.between(0.07, 0.15))
    if stage.chance(0.6):
        flyers.birds(stage, horizon, 6)
    _sand(stage)
    is_left = stage.chance(0.5)
    leaf, bark = stage.tint((48, 128, 82), 0.95), stage.tint((140, 100, 76), 0.95)
    for _ in range(int(stage.rng.integers(1, 4))):
        x = stage.width * (stage.between(0.0, 0.2) if is_left else stage.between(0.8, 1.0))
        foot = (x, stage.height * stage.between(0.82, 0.95))
        plants.palm(stage, foot, stage.unit * stage.between(0.42, 0.66), leaf, bark)
    return Ground(0.93)


def sea(stage: Stage) -> Ground:
    """Paint the open sea with boats, seen from a headland, perhaps with a lighthouse.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> sea(set_up("sea", 42, 64, 48)).floats
    False
    """
    horizon = _open_sea(stage)
    for near in np.sort(stage.rng.uniform(0.1, 0.8, int(stage.rng.integers(1, 4)))):
        boat = stage.between(0.08, 0.92) * stage.width, horizon + near * 0.2 * stage.height
        buildings.sailboat(stage, boat, stage.unit * (0.05 + 0.14 * near), nearness=0.6 + 0.4 * near)
    if stage.chance(0.5):
        rock = stage.width * stage.pick((0.1, 0.16, 0.86, 0.92)), horizon + stage.unit * 0.03
        buildings.lighthouse(stage, rock, stage.unit * stage.between(0.2, 0.32))
    if stage.chance(0.7):
        flyers.birds(stage, horizon, 7)
    _headland(stage)
    blades = stage.tint((86, 116, 80)), stage.tint((30, 50, 50))
    return Ground(
        0.935, front=lambda view: plants.grass(view, view.height, view.unit * 0.045, blades, density=0.6)
    )


def _open_sea(stage: Stage) -> float:
    """Sky, islands and water; gives the row of the horizon."""
    horizon = stage.height * stage.between(0.46, 0.57)
    sun = heaven.paint(stage, horizon)
    for near in (0.2, 0.42):
        if stage.chance(0.7):
            height = stage.unit * stage.between(0.05, 0.13)
            line = land.crags(stage, horizon + 1, height) + stage.unit * 0.05
            land.cover(
                stage, np.minimum(line, horizon + 1), stage.tint((70, 100, 110), near), bottom=horizon + 1
            )
    water.sea(stage, horizon, sun, stage.pick(_WATERS))
    return horizon


def _headland(stage: Stage) -> None:
    """Rock to stand on, with foam at its foot."""
    n = land.n_points(stage)
    line = stage.height * 0.86 + 0.06 * stage.unit * noise.ridge(stage.rng, n, 0.2 * stage.unit)
    splash = stage.unit * 0.012 * (1 + noise.ridge(stage.rng, n, 0.05 * stage.unit))
    land.cover(stage, line - splash, stage.tint(_FOAM, 0.9))
    rock = colour.mix((86, 82, 98), stage.palette.sky[1], 0.12)
    light, dark = colour.mix(rock, (255, 240, 220), 0.2), colour.mix(rock, (10, 10, 40), 0.5)
    land.cover(stage, line, stage.tint(light, 0.98), stage.tint(dark))


def _sand(stage: Stage) -> None:
    """The water's edge: shallow water, foam, wet sand, dry sand with shells."""
    line = land.hills(
        stage, stage.height * stage.between(0.72, 0.78), stage.unit * 0.035, length=0.8, rough=0.25
    )
    dry, end = stage.pick(_SANDS), float(line.max()) + 4
    land.cover(stage, line - stage.unit * 0.06, stage.tint((150, 226, 216), 0.85), bottom=end)
    for lift, tint in ((0.026, _FOAM), (0.016, (176, 214, 206)), (0.006, _FOAM)):
        waver = stage.unit * 0.006 * noise.ridge(stage.rng, len(line), 0.05 * stage.unit)
        land.cover(stage, line - stage.unit * lift + waver, stage.tint(tint, 0.95), bottom=end)
    wet, far = colour.mix(dry, (140, 110, 100), 0.28), colour.mix(dry, (190, 120, 90), 0.35)
    land.cover(stage, line, stage.tint(wet), stage.tint(dry), bottom=end + stage.unit * 0.05)
    land.cover(stage, line + stage.unit * 0.032, stage.tint(dry), stage.tint(far))
    shells = tuple(stage.tint(tint) for tint in _SHELLS)
    plants.flowers(stage, (stage.height * 0.84, stage.height * 0.99), shells, 36, stage.unit * 0.007)
