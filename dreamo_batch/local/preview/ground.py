"""What is under the figure's feet: leaves of the season, lawns, banks of clouds.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> lawn(set_up("park", 42, 64, 48), (60, 120, 60)).foot
0.94
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dreamo_batch.local.preview import colour, land, plants
from dreamo_batch.local.preview.stage import Ground

if TYPE_CHECKING:
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.stage import Stage

GREENS: Final = ((58, 112, 62), (44, 104, 84), (92, 122, 52), (40, 92, 72))
AUTUMN: Final = ((196, 96, 40), (206, 134, 44), (170, 66, 44), (160, 112, 50))
BLOSSOM: Final[Colour] = (246, 168, 190)
BARK: Final[Colour] = (84, 58, 52)


def leaves(stage: Stage) -> Colour:
    """Give the colour of the season's leaves.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> leaves(set_up("autumn", 42, 64, 48)) in AUTUMN
    True
    """
    return stage.pick(AUTUMN if stage.reading.has("season.autumn") else GREENS)


def crowns(stage: Stage, leaf: Colour) -> Colour:
    """Give the colour of trees that flower in spring.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> crowns(set_up("cherry blossom", 42, 64, 48), (60, 120, 60)) == BLOSSOM
    True
    """
    return BLOSSOM if stage.reading.has("season.spring") else leaf


def lawn(stage: Stage, leaf: Colour) -> Ground:
    """Paint a foreground of grass with flowers; blades will stand before the figure's feet.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> lawn(set_up("park", 42, 64, 48), (60, 120, 60)).floats
    False
    """
    line = land.hills(stage, stage.height * 0.85, stage.unit * 0.03, length=0.9)
    grass = colour.mix(leaf, (150, 170, 60), 0.25)
    top, base = stage.tint(grass, 0.97), stage.tint(colour.mix(grass, (10, 30, 40), 0.55))
    land.cover(stage, line, top, base)
    plants.grass(stage, float(line.mean()) + stage.unit * 0.02, stage.unit * 0.03, (top, base), density=0.8)
    hues = (stage.between(0, 360), stage.between(0, 360))
    tints = [stage.tint(colour.turned((250, 120, 140), hue)) for hue in hues]
    rows = (stage.height * 0.86, stage.height * 0.99)
    plants.flowers(stage, rows, (*tints, stage.tint((255, 250, 236))), 100, stage.unit * 0.0085)
    blades = colour.mix(top, base, 0.3), colour.mix(base, (0, 0, 0), 0.25)
    return Ground(0.94, front=lambda view: plants.grass(view, view.height, view.unit * 0.07, blades))


def billow(stage: Stage, row: float, size: float, tints: tuple[Colour, Colour]) -> None:
    """Paint a bank of clouds from this row down; `size` of its humps in pixels.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> billow(set_up("sky", 42, 64, 48), 30, 5, ((255, 255, 255), (200, 200, 220)))
    """
    line = land.hills(stage, row, size * 0.9, length=0.5)
    top, bottom = float(line.min()) - size * 1.6, min(float(stage.height), row + size * 2.4)
    with stage.canvas.layer(*tints, rows=(top, bottom)) as pen:
        edge = [(float(x), land.at_column(line, x)) for x in range(0, stage.width + 9, 8)]
        pen.polygon([*edge, (stage.width + 9, bottom + 1), (0, bottom + 1)])
        x = -size
        while x < stage.width + size:
            radius = size * stage.between(0.45, 1.35)
            pen.disc((x, land.at_column(line, x) + radius * 0.25), radius)
            x += radius * stage.between(0.7, 1.3)
    if bottom < stage.height:
        stage.canvas.image.paste(tints[1], (0, int(bottom), stage.width, stage.height))
