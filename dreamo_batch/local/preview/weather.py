"""What falls through the air before everything else: rain, snow, petals, leaves, fireflies, mist.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> stage = set_up("snowing", 42, 64, 48)
>>> fall(stage)
>>> stage.canvas.image.getextrema()[0][1] > 0
True
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dreamo_batch.local.preview import colour, noise

if TYPE_CHECKING:
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.stage import Stage


def fall(stage: Stage, amount: float = 1.0) -> None:
    """Let fall what the prompt asks for, all of it or less.

    Parameters
    ----------
    stage : Stage
        Painted on; its reading says which weather.
    amount : float
        Share of it: the rest of the air is left to another call, with the figure between.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> stage = set_up("sunny day", 42, 64, 48)
    >>> fall(stage)
    >>> stage.canvas.image.getextrema()
    ((0, 0), (0, 0), (0, 0))
    """
    reading = stage.reading
    if reading.scene in {"space", "underwater"}:
        return
    if reading.has("weather.fog"):
        _mist(stage, amount)
    if reading.scene == "cafe":
        return
    if reading.has("weather.rain"):
        _rain(stage, amount)
    elif reading.has("weather.snow"):
        _snow(stage, amount)
    if reading.has("weather.petals"):
        _flakes(stage, amount, ((255, 196, 214), (255, 222, 230), (244, 150, 184)))
    elif reading.has("season.autumn"):
        _flakes(stage, amount, ((226, 120, 44), (200, 76, 40), (240, 176, 64)))
    if reading.has("weather.fireflies"):
        _fireflies(stage, amount)


def _rain(stage: Stage, amount: float) -> None:
    lean = stage.between(-0.3, 0.3)
    width, height = stage.width // 2 + 1, stage.height // 2 + 1
    mask = Image.new("L", (width, height))
    draw, unit = ImageDraw.Draw(mask), min(width, height)
    for _ in range(int(520 * amount * stage.width * stage.height / stage.unit**2)):
        near = float(stage.rng.random())
        x, y, long = (
            stage.between(-0.2, 1.2) * width,
            stage.between(-0.1, 1) * height,
            unit * (0.02 + 0.07 * near),
        )
        draw.line(
            [(x, y), (x + lean * long, y + long)], fill=int(70 + 120 * near), width=1 + int(near * unit / 420)
        )
    mask = mask.resize(stage.canvas.image.size, Image.Resampling.BILINEAR)
    stage.canvas.stamp(mask, (0, 0), colour.mix((226, 236, 250), stage.palette.sky[2], 0.2), opacity=0.62)


def _snow(stage: Stage, amount: float) -> None:
    for size, count, blur in ((0.0016, 420, 0.0), (0.0032, 170, 0.7), (0.0085, 26, 4.0)):
        n = int(count * amount * stage.width * stage.height / stage.unit**2)
        with stage.canvas.layer((250, 252, 255), opacity=0.85, blur_px=blur * stage.unit / 1000) as pen:
            for x, y, grow in stage.rng.random((n, 3)):
                pen.disc(
                    (x * stage.width, y * stage.height), max(0.8, stage.unit * size * (0.6 + 0.8 * grow))
                )


def _flakes(stage: Stage, amount: float, tints: tuple[Colour, ...]) -> None:
    """Petals or leaves: small almonds, turned every way."""
    angle = np.linspace(0, 2 * math.pi, 14, endpoint=False)
    almond = np.stack([np.cos(angle), 0.45 * np.sin(angle) * np.abs(np.sin(angle)) ** 0.5], axis=1)
    for tint in tints:
        with stage.canvas.layer(stage.palette.at(tint, 1), opacity=0.92) as pen:
            for _ in range(int(26 * amount * stage.width * stage.height / stage.unit**2)):
                turn, size = stage.between(0, math.tau), stage.unit * stage.between(0.004, 0.011)
                spin = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
                at = (stage.between(0, stage.width), stage.between(0, stage.height))
                pen.polygon(almond @ spin * size + at)


def _fireflies(stage: Stage, amount: float) -> None:
    for _ in range(int(34 * amount * stage.width * stage.height / stage.unit**2)):
        x, y = stage.between(0, stage.width), stage.between(0.35, 0.97) * stage.height
        size = stage.unit * stage.between(0.004, 0.012)
        stage.canvas.glow((255, 226, 120), (x, y), size * 3.2, 0.9)
        stage.canvas.glow((255, 255, 230), (x, y), size, 1.0)


def _mist(stage: Stage, amount: float) -> None:
    width, height = stage.width // 6 + 2, stage.height // 6 + 2
    mask = noise.clouds(stage.rng, width, height, (stage.unit * 0.1, stage.unit * 0.025))
    rise = (
        Image.linear_gradient("L")
        .resize((width, height))
        .point([round(30 + grey * 0.5) for grey in range(256)])
    )
    grey = Image.blend(mask.filter(ImageFilter.BoxBlur(2)), rise, 0.45)
    tint = colour.mix(stage.palette.sky[3], stage.palette.sky[2], 0.35)
    mask = grey.resize(stage.canvas.image.size, Image.Resampling.BICUBIC)
    stage.canvas.stamp(mask, (0, 0), tint, opacity=0.72 * amount)
