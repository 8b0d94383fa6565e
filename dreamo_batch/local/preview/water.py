"""Water and light: the open sea, still water that mirrors the land, and rays that fall through leaves or waves.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> stage = set_up("sea", 42, 64, 48)
>>> sea(stage, 24, (32, 10), (24, 116, 160))
>>> stage.canvas.image.getpixel((5, 47)) != (0, 0, 0)
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dreamo_batch.local.preview import colour
from dreamo_batch.local.preview.canvas import gradient

if TYPE_CHECKING:
    from dreamo_batch.local.preview.canvas import Pen, Point
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.stage import Stage


def sea(stage: Stage, horizon: float, sun: Point, base: Colour) -> None:
    """Paint the sea below this row: its colour, its waves, and the way of the light on it.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> sea(set_up("sea", 42, 64, 48), 24, (32, 10), (24, 116, 160))
    """
    palette, row, deep = stage.palette, round(horizon), stage.height - round(horizon)
    body = colour.lit(base, palette.light)
    far = colour.mix(colour.mix(palette.sky[2], palette.sky[3], 0.5), body, 0.4)
    near = colour.mix(body, palette.sky[0], 0.3)
    stage.canvas.image.paste(gradient((far, colour.mix(far, near, 0.75), near), stage.width, deep), (0, row))
    crest, trough = colour.mix(far, colour.WHITE, 0.3), colour.mix(near, (0, 10, 50), 0.35)
    for tint, strength in ((crest, 0.5), (trough, 0.4)):
        with stage.canvas.layer(tint, rows=(row, stage.height), opacity=strength) as pen:
            for close in stage.rng.random(int(120 * stage.width / stage.unit)) ** 1.6:
                _ripple(pen, stage, (stage.between(0, stage.width), row + 2 + close * deep), close)
    glitter = colour.mix(palette.sun, palette.sky[3], 0.25)
    with stage.canvas.layer(glitter, rows=(row, stage.height), opacity=0.85) as pen:
        for close in stage.rng.random(150) ** 1.5:
            x = sun[0] + stage.rng.normal(0, 0.02 + 0.1 * close) * stage.unit
            _ripple(pen, stage, (x, row + 1 + close * deep * 0.9), close * 0.5)
    stage.canvas.glow(palette.sun, (sun[0], horizon), stage.unit * 0.4, 0.3)


def mirror(stage: Stage, shore: float) -> None:
    """Turn what is below this row into still water that mirrors what is above it.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> mirror(set_up("lake", 42, 64, 48), 24)
    """
    image, row = stage.canvas.image, round(shore)
    deep = stage.height - row
    above = image.crop((0, max(0, row - deep), stage.width, row)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    blur = ImageFilter.BoxBlur((stage.unit * 0.0015, stage.unit * 0.006))
    above = above.resize((stage.width, deep)).filter(blur)
    tint = Image.new("RGB", above.size, colour.mix(stage.palette.sky[1], stage.palette.sky[0], 0.5))
    image.paste(Image.blend(above, tint, 0.24), (0, row))
    light = colour.mix(stage.palette.sky[3], colour.WHITE, 0.3)
    with stage.canvas.layer(light, rows=(row, stage.height), opacity=0.3) as pen:
        for close in stage.rng.random(int(70 * stage.width / stage.unit)) ** 1.8:
            middle = stage.between(0, stage.width), row + 2 + close * deep
            wide = stage.unit * (0.015 + 0.09 * close) * stage.between(0.4, 1)
            pen.oval(middle, wide, stage.unit * (0.0006 + 0.0018 * close))


def rays(stage: Stage, light: Colour, n: int, *, strength: float = 0.9) -> None:
    """Let rays fall from above, all the same way, weaker towards the ground.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> stage = set_up("forest", 42, 64, 48)
    >>> rays(stage, (255, 255, 200), 6)
    >>> stage.canvas.image.getextrema()[0][1] > 0
    True
    """
    mask = Image.new("L", (stage.width // 4 + 1, stage.height // 4 + 1))
    draw, lean = ImageDraw.Draw(mask), stage.between(-0.45, 0.45)
    for _ in range(n):
        x, wide = stage.between(-0.15, 1.15) * mask.width, stage.between(0.01, 0.055) * mask.width
        end = x + lean * mask.height
        draw.polygon([(x, -2), (x + wide, -2), (end + wide * 2.6, mask.height), (end, mask.height)], fill=72)
    fade = Image.linear_gradient("L").resize(mask.size).point([255 - grey for grey in range(256)])
    mask = ImageChops.multiply(mask.filter(ImageFilter.BoxBlur(3)), fade)
    mask = mask.resize(stage.canvas.image.size, Image.Resampling.BILINEAR)
    stage.canvas.stamp(mask, (0, 0), light, opacity=strength)


def _ripple(pen: Pen, stage: Stage, middle: Point, close: float) -> None:
    wide = stage.unit * (0.006 + 0.06 * close) * stage.between(0.5, 1.3)
    pen.oval(middle, wide, stage.unit * (0.0007 + 0.003 * close))
