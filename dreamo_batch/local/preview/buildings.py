"""Buildings and boats: cottages, a castle, a lighthouse, street lamps, sails. Places and sizes are pixels.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> stage = set_up("village", 42, 64, 48)
>>> house(stage, (32, 40), 20)
>>> stage.canvas.image.getpixel((32, 38)) != (0, 0, 0)
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dreamo_batch.local.preview import colour

if TYPE_CHECKING:
    from dreamo_batch.local.preview.canvas import Point
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.stage import Stage

LAMPLIGHT: Final[Colour] = (255, 206, 120)

_WALLS: Final = ((238, 214, 180), (214, 190, 176), (244, 232, 214), (196, 150, 124))
_ROOFS: Final = ((150, 66, 56), (84, 70, 96), (120, 82, 60), (70, 90, 104))
# Of the castle: place and height of each tower in shares of its width.
_TOWERS: Final = ((-0.42, 0.55), (-0.2, 0.8), (0.02, 1.15), (0.24, 0.7), (0.44, 0.5))


def house(stage: Stage, foot: Point, size: float, *, nearness: float = 1.0) -> None:
    """Paint a cottage with a steep roof, its windows lit unless it is day; `size` is its width.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> house(set_up("a village at night", 42, 64, 48), (32, 40), 20)
    """
    x, y = foot
    wall, roof = stage.tint(stage.pick(_WALLS), nearness), stage.tint(stage.pick(_ROOFS), nearness)
    eaves, rows = y - size * stage.between(0.6, 0.85), (y - size * 1.9, y + 2)
    with stage.canvas.layer(colour.mix(roof, (20, 10, 30), 0.3), rows=rows) as pen:
        pen.box(x + size * 0.18, eaves - size * 0.6, x + size * 0.3, eaves)
    with stage.canvas.layer(wall, colour.mix(wall, (30, 20, 60), 0.2), rows=rows) as pen:
        pen.box(x - size / 2, eaves, x + size / 2, y)
    with stage.canvas.layer(roof, rows=rows) as pen:
        pen.polygon([(x - size * 0.6, eaves), (x - size * 0.02, eaves - size * 0.7), (x + size * 0.6, eaves)])
    is_lit = stage.reading.hour != "day"
    with stage.canvas.layer(LAMPLIGHT if is_lit else colour.mix(wall, (60, 90, 140), 0.6), rows=rows) as pen:
        for at in (-0.3, 0.12):
            pen.box(x + at * size, y + (eaves - y) * 0.72, x + (at + 0.18) * size, y + (eaves - y) * 0.4)
    if is_lit:
        stage.canvas.glow(LAMPLIGHT, (x, (y + eaves) / 2), size * 0.9, 0.4)


def castle(stage: Stage, foot: Point, size: float, *, nearness: float = 0.6) -> None:
    """Paint a castle of towers with pointed roofs; `size` is its width.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> castle(set_up("a castle", 42, 64, 48), (32, 40), 20)
    """
    x, y = foot
    wall, roof = stage.tint((196, 180, 190), nearness), stage.tint((92, 74, 132), nearness)
    rows = (y - size * 1.8, y + 2)
    with stage.canvas.layer(wall, colour.mix(wall, stage.palette.horizon, 0.5), rows=rows) as pen:
        pen.box(x - size * 0.45, y - size * 0.34, x + size * 0.45, y)
        for at, tall in _TOWERS:
            pen.box(x + (at - 0.075) * size, y - tall * size, x + (at + 0.075) * size, y)
    with stage.canvas.layer(roof, rows=rows) as pen:
        for at, tall in _TOWERS:
            eaves, middle = y - tall * size, x + at * size
            pen.polygon(
                [(middle - 0.1 * size, eaves), (middle, eaves - 0.36 * size), (middle + 0.1 * size, eaves)]
            )
    with stage.canvas.layer(
        LAMPLIGHT, rows=rows, opacity=0.35 if stage.reading.hour == "day" else 0.9
    ) as pen:
        for at, tall in _TOWERS:
            pen.box(
                x + (at - 0.018) * size,
                y - (tall - 0.12) * size,
                x + (at + 0.018) * size,
                y - (tall - 0.21) * size,
            )


def lighthouse(stage: Stage, foot: Point, size: float) -> None:
    """Paint a striped lighthouse on a rock, with its beam unless it is day; `size` is its height.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> lighthouse(set_up("a lighthouse at night", 42, 64, 48), (32, 40), 20)
    """
    x, y = foot
    rows = (y - size * 1.3, y + size * 0.2)
    if stage.reading.hour != "day":
        _beam(stage, (x, y - size * 1.04), size)
    for tint, bands in (((250, 246, 238), range(6)), ((206, 62, 56), range(0, 6, 2))):
        with stage.canvas.layer(stage.tint(tint, 0.9), rows=rows) as pen:
            for k in bands:
                low, high = (size * (0.13 - 0.05 * step / 6) for step in (k, k + 1))
                foot_row, top_row = y - size * k / 6, y - size * (k + 1) / 6
                pen.polygon(
                    [(x - low, foot_row), (x - high, top_row), (x + high, top_row), (x + low, foot_row)]
                )
    with stage.canvas.layer(stage.tint((48, 44, 66), 0.9), rows=rows) as pen:
        pen.box(x - size * 0.11, y - size * 1.02, x + size * 0.11, y - size * 0.99)
        pen.polygon(
            [(x - size * 0.075, y - size * 1.1), (x, y - size * 1.22), (x + size * 0.075, y - size * 1.1)]
        )
        left, right = (x - size * 0.2, y - size * 0.06), (x + size * 0.24, y - size * 0.05)
        pen.polygon([(x - size * 0.5, y + 2), left, right, (x + size * 0.6, y + 2)])
    with stage.canvas.layer((255, 240, 180), rows=rows) as pen:
        pen.box(x - size * 0.05, y - size * 1.09, x + size * 0.05, y - size * 1.02)


def lamp(stage: Stage, foot: Point, size: float) -> None:
    """Paint a street lamp, lit unless it is day; `size` is its height.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> lamp(set_up("a street at night", 42, 64, 48), (32, 40), 20)
    """
    x, y = foot
    rows, eaves = (y - size * 1.1, y + 2), y - size
    with stage.canvas.layer(stage.tint((52, 52, 68)), rows=rows) as pen:
        pen.box(x - size * 0.016, eaves, x + size * 0.016, y)
        pen.box(x - size * 0.04, y - size * 0.06, x + size * 0.04, y)
        pen.polygon([(x - size * 0.09, eaves), (x, eaves - size * 0.08), (x + size * 0.09, eaves)])
    with stage.canvas.layer((255, 236, 180), rows=rows) as pen:
        wide, low, narrow = size * 0.055, eaves + size * 0.12, size * 0.04
        pen.polygon([(x - wide, eaves), (x + wide, eaves), (x + narrow, low), (x - narrow, low)])
    if stage.reading.hour != "day":
        stage.canvas.glow((255, 214, 140), (x, eaves + size * 0.06), size * 0.8, 0.75)
        stage.canvas.glow((255, 200, 120), (x, y), size * 0.5, 0.3)


def sailboat(stage: Stage, water: Point, size: float, *, nearness: float = 0.8) -> None:
    """Paint a boat with two sails on the water; `size` is the height of its mast.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> sailboat(set_up("sea", 42, 64, 48), (32, 40), 20)
    """
    x, y = water
    rows, sail = (y - size * 1.1, y + size * 0.2), stage.tint((255, 250, 238), nearness)
    with stage.canvas.layer(sail, colour.mix(sail, stage.palette.horizon, 0.4), rows=rows) as pen:
        pen.polygon([(x, y - size), (x + size * 0.05, y - size * 0.1), (x + size * 0.52, y - size * 0.14)])
        mast = x - size * 0.04
        pen.polygon([(mast, y - size * 0.9), (mast, y - size * 0.12), (x - size * 0.34, y - size * 0.15)])
    with stage.canvas.layer(stage.tint((122, 62, 48), nearness), rows=rows) as pen:
        deck, keel = y - size * 0.09, y + size * 0.05
        pen.polygon(
            [
                (x - size * 0.45, deck),
                (x + size * 0.56, deck),
                (x + size * 0.4, keel),
                (x - size * 0.32, keel),
            ]
        )


def _beam(stage: Stage, light: Point, size: float) -> None:
    x, y = light
    with stage.canvas.layer((255, 244, 200), rows=(0, y + size), opacity=0.22, blur_px=3) as pen:
        for side in (-12, 12):
            pen.polygon([light, (x + side * size, y - size * 1.5), (x + side * size, y + size * 0.9)])
    stage.canvas.glow((255, 240, 190), light, size * 0.7, 0.8)
