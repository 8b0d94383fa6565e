"""What is seen in the air: balloons, birds, rainbows, fireworks. Places and sizes are pixels.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> stage = set_up("sky", 42, 64, 48)
>>> balloon(stage, (32, 20), 10)
>>> stage.canvas.image.getpixel((32, 20)) != (0, 0, 0)
True
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dreamo_batch.local.preview import colour

if TYPE_CHECKING:
    from dreamo_batch.local.preview.canvas import Point
    from dreamo_batch.local.preview.noise import Line
    from dreamo_batch.local.preview.stage import Stage


def sights(stage: Stage, horizon: float) -> None:
    """Paint those sights that the prompt names.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> stage = set_up("fireworks, a rainbow, balloons and birds", 42, 64, 48)
    >>> sights(stage, 30)
    >>> stage.canvas.image.getextrema()[0][1] > 0
    True
    """
    reading = stage.reading
    if reading.has("sight.rainbow"):
        _rainbow(stage, horizon)
    if reading.has("sight.fireworks"):
        for _ in range(6):
            _firework(stage, horizon)
    if reading.has("sight.balloons") and reading.scene != "sky":
        balloons(stage, 3)
    if reading.has("sight.birds"):
        birds(stage, horizon, 9)


def balloons(stage: Stage, n: int) -> None:
    """Let some balloons float in the upper part of the picture.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> balloons(set_up("sky", 42, 64, 48), 3)
    """
    for near in np.sort(stage.rng.random(n)):
        middle = stage.between(0.05, 0.95) * stage.width, stage.between(0.12, 0.5) * stage.height
        balloon(stage, middle, stage.unit * (0.028 + 0.06 * near), nearness=0.65 + 0.3 * near)


def balloon(stage: Stage, middle: Point, size: float, *, nearness: float = 0.9) -> None:
    """Paint a striped hot-air balloon; `size` is its radius.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> balloon(set_up("sky", 42, 64, 48), (32, 20), 10, nearness=0.5)
    """
    x, y = middle
    hue, rows = stage.between(0, 360), (y - size, y + size * 1.9)
    with stage.canvas.layer(stage.tint((255, 240, 214), nearness), rows=rows) as pen:
        pen.polygon(_gore(middle, size, 1.0))
    for turn, share in ((0, 0.78), (40, 0.28)):
        stripe = colour.turned((235, 90, 80), hue + turn)
        with stage.canvas.layer(stage.tint(stripe, nearness), rows=rows) as pen:
            pen.polygon(_gore(middle, size, share))
            pen.polygon(_gore(middle, size, share - 0.26), grey=0)
    with stage.canvas.layer((60, 30, 80), rows=rows, opacity=0.3) as pen:
        pen.polygon(_gore(middle, size, 1.0))
        pen.oval((x - size * 0.35, y - size * 0.2), size * 0.95, size * 1.3, grey=0)
    with stage.canvas.layer(stage.tint((96, 58, 40), nearness), rows=rows) as pen:
        for side in (-1, 1):
            pen.line(
                [(x + side * size * 0.2, y + size * 1.15), (x + side * size * 0.11, y + size * 1.5)],
                size * 0.025,
            )
        pen.box(x - size * 0.15, y + size * 1.48, x + size * 0.15, y + size * 1.7)


def birds(stage: Stage, horizon: float, n: int) -> None:
    """Let some birds fly in a loose flock above this row.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> birds(set_up("sky", 42, 64, 48), 30, 5)
    """
    middle = np.array([stage.between(0.15, 0.75) * stage.width, stage.between(0.25, 0.6) * horizon])
    t = np.linspace(-1, 1, 9)
    with stage.canvas.layer(stage.tint((30, 30, 50), 0.85), rows=(0, horizon)) as pen:
        for _ in range(n):
            at = middle + stage.rng.normal(0, 1, 2) * (0.1, 0.05) * stage.unit
            span, lift = stage.between(0.007, 0.016) * stage.unit, stage.between(0.3, 0.8)
            wing = np.stack([t * span, -lift * np.abs(np.sin(math.pi * t)) * span * 0.9], axis=1) + at
            body = np.stack([0 * t, span * 0.13 * (1 - np.abs(t)) + 0.6], axis=1)
            pen.polygon(np.concatenate([wing, (wing + body)[::-1]]))


def _rainbow(stage: Stage, horizon: float) -> None:
    middle, radius = (
        (stage.between(0.25, 0.75) * stage.width, horizon * 1.05),
        stage.unit * stage.between(0.45, 0.55),
    )
    for k in range(7):
        size, band = radius - k * stage.unit * 0.011, stage.unit * 0.011
        tint = colour.turned((255, 90, 90), k * 46)
        with stage.canvas.layer(tint, rows=(0, horizon), opacity=0.5, blur_px=stage.unit * 0.004) as pen:
            pen.disc(middle, size)
            pen.disc(middle, size - band, grey=0)


def _firework(stage: Stage, horizon: float) -> None:
    """Rays from a point, bent by gravity, with a spark at each end."""
    middle = np.array([stage.between(0.08, 0.92) * stage.width, stage.between(0.08, 0.62) * horizon])
    size, tint = stage.unit * stage.between(0.05, 0.13), colour.turned((255, 110, 90), stage.between(0, 360))
    stage.canvas.glow(tint, (middle[0], middle[1]), size * 1.9, 0.5)
    t = np.linspace(0.15, 1, 8)[:, None]
    with stage.canvas.layer(colour.mix(tint, colour.WHITE, 0.45), rows=(0, horizon)) as pen:
        for angle in np.linspace(0, math.tau, 26, endpoint=False) + stage.rng.normal(0, 0.05, 26):
            way = np.array([math.cos(angle), math.sin(angle)]) * size * stage.between(0.7, 1.05)
            ray = middle + way * t + np.array([0, 0.22 * size]) * t**2
            pen.line(ray, max(1.0, stage.unit * 0.0016), grey=190)
            pen.disc((ray[-1, 0], ray[-1, 1]), stage.unit * 0.0024)


def _gore(middle: Point, size: float, share: float) -> Line:
    """Outline of a balloon, or of the middle of it that takes this share of the width."""
    angle = np.linspace(-0.5 * math.pi, 1.5 * math.pi, 60)
    down = np.sin(angle)
    wide = np.cos(angle) * (1 - 0.35 * np.clip(down, 0, 1) ** 2) * 0.95 * share
    return np.stack([middle[0] + size * wide, middle[1] + size * down * np.where(down > 0, 1.2, 1.0)], axis=1)
