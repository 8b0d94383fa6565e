"""The last touches: style, darker corners, a little grain, and the words that say what this is.

Examples
--------
>>> tone(Image.new("RGB", (64, 48))).size
(64, 48)
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFont

if TYPE_CHECKING:
    from dreamo_batch.local.preview.words import Reading

_TILE_PX = 256


def tone(image: Image.Image) -> Image.Image:
    """Darken the corners a little and add fine grain, which hides the steps of long gradients.

    Parameters
    ----------
    image : PIL.Image.Image
        Of the kind "RGB"; left alone.

    Returns
    -------
    PIL.Image.Image

    Examples
    --------
    >>> toned = tone(Image.new("RGB", (64, 64), (200, 200, 200)))
    >>> toned.getpixel((0, 0)) < toned.getpixel((32, 32))
    True
    """
    darkened = ImageChops.multiply(image, _vignette(*image.size))
    return ImageChops.add(darkened, _grain(*image.size), scale=1, offset=-128)


def style(image: Image.Image, reading: Reading) -> Image.Image:
    """Give the picture the style that the prompt names.

    Parameters
    ----------
    image : PIL.Image.Image
        Of the kind "RGB"; left alone.
    reading : Reading
        Of the prompt.

    Returns
    -------
    PIL.Image.Image
        The same picture if no style is named.

    Examples
    --------
    >>> from dreamo_batch.local.preview.words import read
    >>> reading = read("a monochrome fox", 42, use_rephraser=True)
    >>> style(Image.new("RGB", (8, 8), (200, 90, 30)), reading).getpixel((0, 0))
    (119, 116, 111)
    """
    if reading.has("style.ink"):
        grey = ImageEnhance.Contrast(image.convert("L")).enhance(1.2)
        return Image.merge("RGB", (grey.point(_curve(6, 255)), grey, grey.point(_curve(0, 245))))
    if reading.has("style.film"):
        red, green, blue = ImageEnhance.Color(image).enhance(0.62).split()
        bands = red.point(_curve(26, 250)), green.point(_curve(20, 238)), blue.point(_curve(34, 206))
        return Image.merge("RGB", bands)
    if reading.has("style.vivid"):
        return ImageEnhance.Contrast(ImageEnhance.Color(image).enhance(1.3)).enhance(1.06)
    if reading.has("style.soft"):
        return Image.blend(image, Image.new("RGB", image.size, (255, 244, 246)), 0.16)
    return image


def sign(image: Image.Image, words: str) -> None:
    """Write small words into the lower left corner, on a dark band that lets the picture through.

    Examples
    --------
    >>> image = Image.new("RGB", (640, 480), (200, 220, 240))
    >>> sign(image, "local preview")
    >>> image.getpixel((14, 470)) != (200, 220, 240)
    True
    """
    size = max(11, round(min(image.size) * 0.0165))
    font = _font(size)
    left, top, right, bottom = font.getbbox(words)
    pad, margin = round(size * 0.5), round(size * 0.7)
    wide, tall = round(right - left) + 2 * pad, round(size * 1.15) + pad
    at = margin, image.height - margin - tall
    band = Image.new("L", (wide, tall))
    ImageDraw.Draw(band).rounded_rectangle((0, 0, wide - 1, tall - 1), radius=tall / 3, fill=105)
    image.paste((10, 12, 24), (*at, at[0] + wide, at[1] + tall), band)
    ink = Image.new("L", (wide, tall))
    ImageDraw.Draw(ink).text((pad - left, (tall - (bottom + top)) / 2), words, font=font, fill=225)
    image.paste((255, 255, 255), (*at, at[0] + wide, at[1] + tall), ink)


def _curve(low: int, high: int) -> list[int]:
    return [round(low + (high - low) * value / 255) for value in range(256)]


@lru_cache(maxsize=4)
def _vignette(width: int, height: int) -> Image.Image:
    falloff = [round(255 * (1 - 0.2 * max(0.0, (grey / 255 - 0.35) / 0.65) ** 2)) for grey in range(256)]
    small = Image.radial_gradient("L").point(falloff)
    return Image.merge("RGB", [small.resize((width, height), Image.Resampling.BILINEAR)] * 3)


@lru_cache(maxsize=4)
def _grain(width: int, height: int) -> Image.Image:
    """Grey noise around 128; always the same, so that it costs nothing and pictures can be repeated."""
    tile = np.random.default_rng(1328).normal(128.5, 2.6, (_TILE_PX, _TILE_PX)).clip(0, 255).astype(np.uint8)
    rows, columns = -(-height // _TILE_PX), -(-width // _TILE_PX)
    sheet = Image.fromarray(np.tile(tile, (rows, columns))[:height, :width])
    return Image.merge("RGB", [sheet] * 3)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
