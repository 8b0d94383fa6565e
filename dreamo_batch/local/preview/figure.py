"""The reference in the scene: a figure with alpha stands in it, any other picture hangs there as a card.

Examples
--------
>>> picture = Image.new("RGBA", (40, 60))
>>> picture.paste((200, 80, 20, 255), (10, 10, 30, 60))
>>> cut_out(picture).size
(20, 50)
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from dreamo_batch.local.preview import colour

if TYPE_CHECKING:
    from dreamo_batch.local.preview.canvas import Point
    from dreamo_batch.local.preview.stage import Ground, Stage

_PIXELS_MAX: Final = 5000 * 5000
_UNSEEN: Final = 8  # of 255: alpha up to this is no part of a figure
_CLEAR_SHARE: Final = 0.02  # of the pixels: less is no background left out, just round corners
_SHADOW: Final = (12, 10, 34)
_PAPER: Final = (252, 250, 245, 255)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a figure goes: centre column, row of its feet and greatest height, in pixels, and its turn in degrees.

    Examples
    --------
    >>> Place(x=32.0, foot=44.0, height=20.0, turn=0.0, is_flipped=False).height
    20.0
    """

    x: float
    foot: float
    height: float
    turn: float
    is_flipped: bool


def load(reference: bytes, side_px: int) -> Image.Image:
    """Decode a picture, turned as its EXIF data ask, no larger than needed.

    Parameters
    ----------
    reference : bytes
        A file of any kind that Pillow reads; grey, 16-bit, palette and CMYK pictures too.
    side_px : int
        Sides longer than this are reduced.

    Returns
    -------
    PIL.Image.Image
        Of the kind "RGBA".

    Raises
    ------
    ValueError
        If it is no picture, is broken, or has more than 25 million pixels.

    Examples
    --------
    >>> file = io.BytesIO()
    >>> Image.new("L", (400, 200), 90).save(file, "PNG")
    >>> load(file.getvalue(), 100).size
    (100, 50)
    """
    try:
        picture = _decoded(reference, side_px)
    except Exception as error:  # Pillow lets nearly any exception out of damaged files
        raise ValueError(
            f"The reference picture can't be read: {error}. Send a whole JPEG or PNG file."
        ) from error
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return picture


def _decoded(reference: bytes, side_px: int) -> Image.Image:
    with Image.open(io.BytesIO(reference)) as file:
        if file.width * file.height > _PIXELS_MAX:
            raise ValueError(f"{file.width}x{file.height} px are more than {_PIXELS_MAX} pixels")
        file.draft("RGB", (side_px, side_px))
        picture = _eight_bit(file).convert("RGBA")
    ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit grey off at 255 when it converts; scale it instead."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    grey = np.asarray(picture, dtype=np.float64)
    return Image.fromarray((grey * (255 / max(float(grey.max()), 255.0))).clip(0, 255).astype(np.uint8))


def place(stage: Stage, ground: Ground, *, is_card: bool) -> Place:
    """Choose size, place and turn from the framing words, else from the seed.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import Ground, set_up
    >>> near = place(set_up("close-up", 42, 64, 48), Ground(0.9), is_card=False)
    >>> far = place(set_up("wide shot", 42, 64, 48), Ground(0.9), is_card=False)
    >>> near.height > 2 * far.height
    True
    """
    share, foot = _size(stage, ground)
    room = min(stage.height, 1.25 * stage.width)
    turn, is_flipped = stage.between(-4, 4) if is_card else 0.0, not is_card and stage.chance(0.5)
    if ground.floats or stage.reading.has("frame.air"):
        turn, foot = stage.between(-13, 13), min(foot, 0.5 + share / 2 + stage.between(-0.05, 0.1))
    return Place(_column(stage) * stage.width, foot * stage.height, share * room, turn, is_flipped)


def _size(stage: Stage, ground: Ground) -> tuple[float, float]:
    """Height of the figure and row of its feet, in shares of the picture."""
    if stage.reading.has("frame.close"):
        return stage.between(0.86, 0.96), 1.06
    if stage.reading.has("frame.wide"):
        return stage.between(0.24, 0.3), ground.foot - 0.02
    return stage.between(0.4, 0.56), ground.foot


def _column(stage: Stage) -> float:
    drawn = stage.pick((0.3, 0.42, 0.5, 0.58, 0.7)) + stage.between(-0.03, 0.03)
    named = (("frame.left", 0.27), ("frame.right", 0.73), ("frame.centre", 0.5))
    return next((at for word, at in named if stage.reading.has(word)), drawn)


def put(stage: Stage, ground: Ground, picture: Image.Image) -> None:
    """Set the reference into the scene, in its light and with its shadow.

    Parameters
    ----------
    stage : Stage
        Painted on, at the size of the finished picture.
    ground : Ground
        Where feet go in this scene.
    picture : PIL.Image.Image
        As `load` gives it.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import Ground, set_up
    >>> stage = set_up("day", 42, 64, 48)
    >>> put(stage, Ground(0.9), Image.new("RGBA", (30, 30), (255, 0, 0, 255)))
    >>> stage.canvas.image.getextrema()[0][1] > 150
    True
    """
    figure = cut_out(picture)
    where = place(stage, ground, is_card=figure is None)
    figure = _in_light(_fitted(figure or card(picture), stage, where), stage)
    left = round(min(max(where.x - figure.width / 2, 0), stage.width - figure.width))
    if not (ground.floats or stage.reading.has("frame.air")):
        _shadow(stage, (left + figure.width / 2, where.foot), figure)
    stage.canvas.image.paste(figure, (left, round(where.foot - figure.height)), figure)


def cut_out(picture: Image.Image) -> Image.Image | None:
    """Give the figure of a picture with alpha, cropped to what is seen; None if there is no background to leave out.

    Examples
    --------
    >>> cut_out(Image.new("RGBA", (8, 8), (1, 2, 3, 255))) is None
    True
    """
    alpha, n_pixels = picture.getchannel("A"), picture.width * picture.height
    n_clear = sum(alpha.histogram()[:128])
    if not _CLEAR_SHARE * n_pixels <= n_clear < n_pixels:
        return None
    return picture.crop(alpha.point([255 * (grey > _UNSEEN) for grey in range(256)]).getbbox())


def card(picture: Image.Image) -> Image.Image:
    """Give a picture as a print with a white border, round corners and soft edges.

    Examples
    --------
    >>> card(Image.new("RGBA", (100, 80), (1, 2, 3, 255))).size
    (106, 86)
    """
    edge = max(2, round(0.028 * max(picture.size)))
    size = picture.width + 2 * edge, picture.height + 2 * edge
    sheet = Image.new("RGBA", size, _PAPER)
    sheet.alpha_composite(picture, (edge, edge))
    sheet.putalpha(_rounded(size, edge))
    return sheet


def _rounded(size: tuple[int, int], edge: int) -> Image.Image:
    """A rectangle with round, soft corners."""
    soft, mask = max(1, edge // 4), Image.new("L", (size[0] * 2, size[1] * 2))
    inner = (soft * 4, soft * 4, size[0] * 2 - soft * 4, size[1] * 2 - soft * 4)
    ImageDraw.Draw(mask).rounded_rectangle(inner, radius=edge * 2.4, fill=255)
    return mask.reduce(2).filter(ImageFilter.GaussianBlur(soft))


def _fitted(figure: Image.Image, stage: Stage, where: Place) -> Image.Image:
    widest = stage.width * (0.96 if stage.reading.has("frame.close") else 0.68)
    scale = min(where.height / figure.height, widest / figure.width)
    size = max(1, round(figure.width * scale)), max(1, round(figure.height * scale))
    figure = figure.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if where.is_flipped:
        figure = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return figure.rotate(where.turn, Image.Resampling.BICUBIC, expand=True) if where.turn else figure


def _in_light(figure: Image.Image, stage: Stage) -> Image.Image:
    """The scene's light falls on the figure too, more weakly, so that it stays the figure it was."""
    light = colour.mix(colour.WHITE, stage.palette.light, 0.42)
    lit = ImageChops.multiply(figure.convert("RGB"), Image.new("RGB", figure.size, light))
    lit.putalpha(figure.getchannel("A"))
    return lit


def _shadow(stage: Stage, foot: Point, figure: Image.Image) -> None:
    wide, tall = figure.width * 0.5, max(2.0, figure.height * 0.045)
    rows, middle = (foot[1] - tall * 3, foot[1] + tall * 3), (foot[0], foot[1] - tall * 0.3)
    for grow, strength in ((1.0, 0.42), (0.72, 0.4)):
        with stage.canvas.layer(_SHADOW, rows=rows, opacity=strength, blur_px=tall * 0.5 * grow) as pen:
            pen.oval(middle, wide * grow, tall * grow)
