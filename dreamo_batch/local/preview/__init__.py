"""The `preview` engine: painted scenes read from the prompt, with the reference standing in them.

A picture's way: `words` reads the prompt, `palette` picks colours, one of `scenes` is painted at a
reduced size, `figure` puts the reference into it at full size, `weather` falls behind and before it, `finish` ends.

Examples
--------
>>> Preview().name
'preview'
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Final

from PIL import Image

from dreamo_batch.local import label
from dreamo_batch.local.engine import Picture
from dreamo_batch.local.preview import figure, finish, scenes, weather
from dreamo_batch.local.preview.canvas import Canvas
from dreamo_batch.local.preview.stage import Stage, set_up

if TYPE_CHECKING:
    from dreamo_batch.local.engine import Order

# Scenes are painted with about this many pixels and enlarged: they are soft shapes, and it takes half the time.
_PAINTED_PX: Final = 860 * 860
_WEATHER_BEHIND: Final = 0.75
_JPEG_QUALITY: Final = 88


class Preview:
    """Paints the prompt around the reference; equal orders with equal references give equal files.

    Examples
    --------
    >>> Preview().name
    'preview'
    """

    name = "preview"

    def generate(self, order: Order, reference: bytes) -> Picture:
        """Paint an order.

        Parameters
        ----------
        order : Order
            What to paint; width and height in pixels.
        reference : bytes
            JPEG or PNG file; its alpha, if it has any, cuts the figure out.

        Returns
        -------
        Picture
            A JPEG with the marks of `label`.

        Raises
        ------
        ValueError
            If the reference can't be read.

        Examples
        --------
        >>> from dreamo_batch.local.engine import Order
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (64, 64), (200, 120, 40)).save(file, "PNG")
        >>> order = Order("a lake at dawn", 7, 640, 512, use_rephraser=True)
        >>> Preview().generate(order, file.getvalue()).media_type
        'image/jpeg'
        """
        image = _painted(order, figure.load(reference, max(order.width, order.height)))
        finish.sign(image, label.banner(order.seed))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_JPEG_QUALITY, exif=label.exif(self.name))
        content = label.with_comment(file.getvalue(), label.comment(self.name, order, reference))
        return Picture(content, "image/jpeg", order.width, order.height)


def _painted(order: Order, reference: Image.Image) -> Image.Image:
    """Scene and weather; then, at full size, the figure, what stands before it, and more weather."""
    scale = min(1.0, math.sqrt(_PAINTED_PX / (order.width * order.height)))
    size = max(1, round(order.width * scale)), max(1, round(order.height * scale))
    scene = set_up(order.prompt, order.seed, *size, use_rephraser=order.use_rephraser)
    ground = scenes.paint(scene)
    weather.fall(scene, _WEATHER_BEHIND)
    full = finish.tone(scene.canvas.image).resize((order.width, order.height), Image.Resampling.BICUBIC)
    stage = Stage(Canvas(full), scene.palette, scene.reading, scene.rng)
    figure.put(stage, ground, reference)
    if ground.front is not None:
        ground.front(stage)
    weather.fall(stage, 1 - _WEATHER_BEHIND)
    return finish.style(full, scene.reading)
