"""Plants: pines, round trees, palms, cacti, grass and flowers. Places and sizes are pixels.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> stage = set_up("forest", 42, 64, 48)
>>> with stage.canvas.layer((20, 60, 40)) as pen:
...     pine(pen, (32, 40), 20, stage.rng)
>>> stage.canvas.image.getpixel((32, 35))
(20, 60, 40)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dreamo_batch.local.preview import colour
from dreamo_batch.local.preview.land import at_column

if TYPE_CHECKING:
    from dreamo_batch.local.preview.canvas import Pen, Point
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.noise import Line
    from dreamo_batch.local.preview.stage import Stage


def pine(pen: Pen, foot: Point, height: float, rng: np.random.Generator) -> None:
    """Draw a conifer: tiers of hanging branches on a stem.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> stage = set_up("forest", 42, 64, 48)
    >>> with stage.canvas.layer((20, 60, 40)) as pen:
    ...     pine(pen, (32, 40), 20, stage.rng)
    """
    x, y = foot
    half, n_tiers = height * rng.uniform(0.17, 0.24), int(rng.integers(5, 8))
    left: list[Point] = []
    right: list[Point] = []
    for down in np.linspace(0, 1, n_tiers + 1)[1:]:
        tip, inner = y - height * (1 - down * 0.9), half * down * 0.42
        reach = half * down**0.85 * rng.uniform(0.85, 1.15, 2)
        left += [(x - reach[0], tip), (x - inner, tip - height * 0.02)]
        right += [(x + reach[1], tip), (x + inner, tip - height * 0.02)]
    pen.box(x - height * 0.015, y - height * 0.2, x + height * 0.015, y)
    pen.polygon([(x, y - height), *right, *reversed(left)])


def wood(stage: Stage, line: Line, height: float, tints: tuple[Colour, Colour], *, gap: float = 0.3) -> None:
    """Plant pines along a line of land, `gap` heights apart, in colours for the top and the foot.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> stage = set_up("forest", 42, 64, 48)
    >>> wood(stage, np.full(34, 40.0), 20, ((20, 60, 40), (40, 80, 60)))
    """
    rows = float(line.min()) - height * 1.3, float(line.max()) + 2
    with stage.canvas.layer(*tints, rows=rows) as pen:
        x = stage.between(-0.5, 0.5) * height * gap
        while x < stage.width + height * 0.2:
            pine(pen, (x, at_column(line, x) + 2), height * stage.between(0.55, 1.25), stage.rng)
            x += height * gap * stage.between(0.5, 1.5)


def tree(stage: Stage, foot: Point, height: float, leaf: Colour, bark: Colour) -> None:
    """Paint a tree with a round crown, lit from the upper left.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> tree(set_up("park", 42, 64, 48), (32, 40), 20, (60, 120, 60), (80, 60, 50))
    """
    x, y = foot
    crown, radius = y - height * 0.66, height * 0.34
    with stage.canvas.layer(bark, rows=(y - height * 0.7, y + 1)) as pen:
        thin, thick = height * 0.03, height * 0.055
        pen.polygon([(x - thin, crown), (x + thin, crown), (x + thick, y), (x - thick, y)])
    angle = stage.rng.uniform(0, math.tau, 15)
    far = np.sqrt(stage.rng.uniform(0.05, 1, 15)) * radius * 0.68
    middles = np.stack([x + far * np.cos(angle) * 1.2, crown + far * np.sin(angle) * 0.85], axis=1)
    sizes = stage.rng.uniform(0.3, 0.5, 15) * radius
    dark, light = colour.mix(leaf, (20, 20, 60), 0.35), colour.mix(leaf, (255, 250, 180), 0.3)
    for tint, lift, share in ((dark, 0.1, 1.0), (leaf, -0.02, 0.86), (light, -0.16, 0.5)):
        with stage.canvas.layer(tint, rows=(crown - height * 0.5, crown + height * 0.5)) as pen:
            for (at_x, at_y), size in zip(middles, sizes, strict=True):
                pen.disc((at_x - (1 - share) * radius * 0.25, at_y + lift * radius), size * share)


def palm(stage: Stage, foot: Point, height: float, leaf: Colour, bark: Colour) -> None:
    """Paint a palm that leans towards the middle of the picture.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> palm(set_up("beach", 42, 64, 48), (10, 40), 20, (60, 120, 60), (80, 60, 50))
    """
    lean = stage.between(0.12, 0.34) * height * (1 if foot[0] < stage.width / 2 else -1)
    t = np.linspace(0, 1, 14)
    stem = np.stack([foot[0] + lean * t**1.8, foot[1] - height * t], axis=1)
    thick = (height * (0.034 - 0.018 * t))[:, None] * np.array([1.0, 0.0])
    rows = (foot[1] - height * 1.5, foot[1] + height * 0.03)
    with stage.canvas.layer(bark, rows=rows) as pen:
        pen.polygon(np.concatenate([stem - thick, (stem + thick)[::-1]]))
        pen.oval(foot, height * 0.05, height * 0.014)
    crown = stem[-1]
    for tint, droop in ((colour.mix(leaf, (10, 20, 40), 0.35), 0.36), (leaf, 0.2)):
        with stage.canvas.layer(tint, rows=rows) as pen:
            for angle in np.linspace(-0.25, math.pi + 0.25, 7) + stage.rng.uniform(-0.18, 0.18, 7):
                pen.polygon(_frond(crown, angle, height * stage.between(0.38, 0.5), droop))
    with stage.canvas.layer(colour.mix(bark, (60, 30, 10), 0.4), rows=rows) as pen:
        for shift in (-0.022, 0.018):
            pen.disc((crown[0] + shift * height, crown[1] + 0.02 * height), 0.022 * height)


def cactus(stage: Stage, foot: Point, height: float, tint: Colour) -> None:
    """Paint a cactus with two arms.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> cactus(set_up("desert", 42, 64, 48), (32, 40), 20, (60, 120, 60))
    """
    x, y = foot
    thick = height * 0.14
    light, dark = colour.mix(tint, (255, 255, 200), 0.12), colour.mix(tint, (10, 10, 50), 0.2)
    with stage.canvas.layer(light, dark, rows=(y - height * 1.1, y)) as pen:
        pen.line([(x, y), (x, y - height)], thick)
        pen.disc((x, y - height), thick / 2)
        for side, low, high in ((-1, stage.between(0.3, 0.45), 0.75), (1, stage.between(0.4, 0.55), 0.85)):
            elbow, tip = (
                (x + side * height * 0.22, y - height * low),
                (x + side * height * 0.22, y - height * high),
            )
            pen.line([(x, elbow[1]), elbow, tip], thick * 0.7)
            pen.disc(elbow, thick * 0.35)
            pen.disc(tip, thick * 0.35)


def grass(
    stage: Stage, row: float, height: float, tints: tuple[Colour, Colour], *, density: float = 1.0
) -> None:
    """Grow bent blades along this row, in colours for the tips and the roots.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> grass(set_up("park", 42, 64, 48), 40, 8, ((60, 120, 60), (20, 60, 30)))
    """
    n = int(stage.width / max(2.0, height) * 14 * density)
    x, tall = stage.rng.uniform(-0.02, 1.02, n) * stage.width, height * stage.rng.uniform(0.35, 1, n)
    bend, foot = stage.rng.normal(0.05, 0.3, n) * tall, row + stage.rng.uniform(0, 0.5, n) * height
    thin = height * 0.035
    with stage.canvas.layer(*tints, rows=(row - height, row + height)) as pen:
        for a, b, c, d in zip(x, tall, bend, foot, strict=True):
            middle, knee = a + c * 0.35, d - b * 0.6
            pen.polygon(
                [(a - thin, d), (middle - thin, knee), (a + c, d - b), (middle + thin, knee), (a + thin, d)]
            )


def flowers(stage: Stage, rows: tuple[float, float], tints: tuple[Colour, ...], n: int, size: float) -> None:
    """Strew flowers between two rows, growing to `size` at the lower one.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> flowers(set_up("park", 42, 64, 48), (30, 46), ((255, 0, 0), (255, 255, 0)), 20, 2)
    """
    for tint in tints:
        with stage.canvas.layer(tint, rows=(rows[0] - size, rows[1] + size)) as pen:
            for near in np.sort(stage.rng.random(n // len(tints))):
                x, y = stage.between(0, stage.width), rows[0] + (rows[1] - rows[0]) * near**1.4
                radius = size * (0.18 + 0.82 * near**1.5) * stage.between(0.6, 1.1)
                pen.oval((x, y), radius, radius * 0.62)


def _frond(crown: Line, angle: float, length: float, droop: float) -> Line:
    """A leaf that rises from the crown and hangs over, feathered below."""
    t = np.linspace(0, 1, 12)
    x = crown[0] + math.cos(angle) * length * t
    y = crown[1] - math.sin(angle) * length * 0.75 * t + droop * length * 2.1 * t**2
    wide = length * 0.13 * np.sin(math.pi * np.clip(t, 0.02, 1) ** 0.7)
    teeth = wide * np.where(np.arange(12) % 2, 1.0, 0.5)
    return np.concatenate([np.stack([x, y - wide * 0.25], axis=1), np.stack([x, y + teeth], axis=1)[::-1]])
