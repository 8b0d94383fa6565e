"""The sky: colours, sun or moon, stars, clouds, and what flies there.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> stage = set_up("night", 42, 64, 48)
>>> x, y = paint(stage, horizon=30)
>>> sum(stage.canvas.image.getpixel((2, 2))) < 200
True
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from dreamo_batch.local.preview import colour, flyers, noise
from dreamo_batch.local.preview.canvas import gradient
from dreamo_batch.local.preview.colour import WHITE

if TYPE_CHECKING:
    from dreamo_batch.local.preview.canvas import Point
    from dreamo_batch.local.preview.stage import Stage


def paint(stage: Stage, horizon: float) -> tuple[float, float]:
    """Paint the whole sky.

    Parameters
    ----------
    stage : Stage
        Its canvas is painted over.
    horizon : float
        Row of the horizon in pixels; what is below gets the horizon's colour.

    Returns
    -------
    pair of float
        Where sun or moon stand, in pixels.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> x, y = paint(set_up("sunset", 42, 64, 48), horizon=30)
    >>> y < 30
    True
    """
    canvas, sky = stage.canvas, stage.palette.sky
    canvas.image.paste(sky[3], (0, 0, *canvas.image.size))
    canvas.image.paste(gradient(sky, canvas.width, max(1, round(horizon))), (0, 0))
    if stage.reading.hour in {"night", "dusk"}:
        stars(stage, horizon, n=round((420 if stage.palette.is_dark else 90) * canvas.width / canvas.unit))
    if stage.reading.has("sight.aurora") or (stage.palette.is_dark and stage.chance(0.2)):
        _aurora(stage, horizon)
    sun = _sun(stage, horizon)
    _veil(stage, horizon)
    if not stage.palette.is_dark:
        for _ in range(int(stage.rng.integers(2, 6))):
            base = stage.between(-0.1, 1.1) * canvas.width, stage.between(0.2, 0.85) * horizon
            cumulus(stage, base, stage.between(0.16, 0.42))
    flyers.sights(stage, horizon)
    return sun


def stars(stage: Stage, horizon: float, n: int) -> None:
    """Strew stars, most of them small, a few with rays.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> stage = set_up("space", 42, 64, 48)
    >>> stars(stage, horizon=48, n=50)
    >>> stage.canvas.image.getextrema()[0][1] > 0
    True
    """
    rng, unit = stage.rng, stage.unit
    x, y = rng.random(n) * stage.width, rng.random(n) ** 1.15 * horizon
    size = 0.0006 * unit + rng.pareto(3.2, n) * 0.0007 * unit
    with stage.canvas.layer((255, 250, 240), rows=(0, horizon)) as pen:
        for at_x, at_y, radius in np.stack([x, y, np.minimum(size, 0.0032 * unit)], axis=1).tolist():
            pen.disc((at_x, at_y), max(radius, 0.55), int(rng.integers(110, 256)))
        for k in range(n // 60):
            long, thin = rng.uniform(0.007, 0.014) * unit, 0.0009 * unit
            pen.polygon(_cross(x[k], y[k], long, thin))


def cumulus(stage: Stage, base: Point, size: float) -> None:
    """Paint one fair-weather cloud whose flat base has its middle here; `size` in units.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> stage = set_up("day", 42, 64, 48)
    >>> cumulus(stage, (32, 24), 0.5)
    >>> stage.canvas.image.getextrema()[0][1] > 0
    True
    """
    x, y = base
    wide, sky = size * stage.unit, stage.palette.sky
    top = colour.lit(colour.mix(WHITE, stage.palette.sun, 0.5), colour.mix(stage.palette.light, WHITE, 0.5))
    shade = colour.mix(sky[2], sky[3], 0.5)
    with stage.canvas.layer(top, shade, rows=(y - 0.36 * wide, y), opacity=0.85) as pen:
        for share in np.linspace(-1, 1, 9):
            hump = wide * 0.19 * (1 - 0.62 * abs(share)) * stage.between(0.75, 1.25)
            pen.disc((x + share * wide * 0.42, y - hump * stage.between(0.3, 0.7)), hump)
        pen.oval((x, y), wide * 0.52, wide * 0.05)


def _sun(stage: Stage, horizon: float) -> Point:
    """Sun or moon with its light; gives its place."""
    unit, canvas, sun = stage.unit, stage.canvas, stage.palette.sun
    is_low = stage.reading.hour in {"dawn", "sunset"}
    row = horizon - unit * stage.between(0.02, 0.2) if is_low else horizon * stage.between(0.16, 0.42)
    middle = stage.width * stage.between(0.14, 0.86), row
    radius = unit * (stage.between(0.075, 0.15) if is_low else stage.between(0.035, 0.07))
    halo = colour.mix(sun, stage.palette.sky[2], 0.35)
    canvas.glow(halo, middle, unit * (0.95 if is_low else 0.6), 0.75)
    canvas.glow(sun, middle, radius * 3, 0.6)
    _disc(stage, middle, radius)
    return middle


def _disc(stage: Stage, middle: Point, radius: float) -> None:
    """The sun, a full moon or a crescent."""
    hour, sun = stage.reading.hour, stage.palette.sun
    rows = (middle[1] - radius, middle[1] + radius)
    is_crescent = hour in {"night", "dusk"} and stage.chance(0.6)
    sunk = colour.mix(sun, stage.palette.sky[3], 0.45 if hour in {"dawn", "sunset"} else 0.1)
    with stage.canvas.layer(sun, sunk, rows=rows) as pen:
        pen.disc(middle, radius)
        if is_crescent:
            pen.disc((middle[0] + radius * 0.45, middle[1] - radius * 0.18), radius * 0.86, grey=0)
    if stage.palette.is_dark and not is_crescent:
        _craters(stage, middle, radius)


def _craters(stage: Stage, middle: Point, radius: float) -> None:
    shade = colour.mix(stage.palette.sun, stage.palette.sky[2], 0.35)
    with stage.canvas.layer(shade, rows=(middle[1] - radius, middle[1] + radius), opacity=0.55) as pen:
        for _ in range(7):
            angle, far = stage.between(0, math.tau), radius * math.sqrt(stage.between(0, 0.5))
            crater = middle[0] + far * math.cos(angle), middle[1] + far * math.sin(angle)
            pen.disc(crater, radius * stage.between(0.06, 0.2))


def _veil(stage: Stage, horizon: float) -> None:
    """Thin clouds, drawn out sideways."""
    width, height = max(1, stage.width // 4), max(1, round(horizon) // 4)
    mask = noise.clouds(stage.rng, width, height, (stage.unit * 0.22, stage.unit * 0.035))
    floor = int(stage.between(120, 160))
    mask = mask.point([max(0, min(255, round((grey - floor) * 2.6))) for grey in range(256)])
    mask = mask.filter(ImageFilter.BoxBlur(1)).resize(
        (stage.width, max(1, round(horizon))), Image.Resampling.BILINEAR
    )
    warm = colour.mix(stage.palette.sky[3], stage.palette.sun, 0.4)
    strength = 0.2 if stage.palette.is_dark else 0.5
    stage.canvas.stamp(mask, (0, 0), colour.mix(stage.palette.sky[2], warm, 0.5), warm, opacity=strength)


def _aurora(stage: Stage, horizon: float) -> None:
    """Curtains of light: bright at a wavy lower edge, fading upwards."""
    width, height = max(2, stage.width // 4), max(2, round(horizon) // 4)
    y = np.arange(height)[:, None] / height
    for hue in (stage.between(95, 150), stage.between(150, 200), stage.between(260, 310)):
        edge = stage.between(0.45, 0.8) + 0.16 * noise.ridge(stage.rng, width, width * 0.4, octaves=3)
        rays = 0.6 + 0.4 * noise.ridge(stage.rng, width, width * 0.03, octaves=2)
        above = edge[None, :] - y
        light = np.where(above > 0, np.exp(-above * 5), np.exp(above * 16)) * rays[None, :]
        mask = Image.fromarray((light * 190).clip(0, 255).astype(np.uint8))
        mask = mask.resize((stage.width, max(1, round(horizon))), Image.Resampling.BICUBIC)
        stage.canvas.stamp(mask, (0, 0), colour.turned((255, 60, 60), hue), opacity=0.8)


def _cross(x: float, y: float, long: float, thin: float) -> list[tuple[float, float]]:
    """Corners of a star with four rays."""
    return [
        (x, y - long), (x + thin, y - thin), (x + long, y), (x + thin, y + thin),
        (x, y + long), (x - thin, y + thin), (x - long, y), (x - thin, y - thin),
    ]  # fmt: skip
