r"""The `flat` engine: one plain colour per order, for tests that count pictures rather than look at them.

Examples
--------
>>> from dreamo_batch.local.engine import Order
>>> Flat().generate(Order("a fox", 1, 512, 512, use_rephraser=True), b"").content[:3]
b'\xff\xd8\xff'
"""

from __future__ import annotations

import io
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image

from dreamo_batch.local import label
from dreamo_batch.local.engine import Picture

if TYPE_CHECKING:
    from dreamo_batch.local.engine import Order

_N_COLOURS = 24


class Flat:
    """Plain pictures: equal orders give equal bytes, different orders different ones.

    Examples
    --------
    >>> Flat().name
    'flat'
    """

    name = "flat"

    def generate(self, order: Order, reference: bytes) -> Picture:
        """Give a JPEG of one colour.

        Parameters
        ----------
        order : Order
            Prompt and seed choose the colour.
        reference : bytes
            Any bytes; they are not decoded, but other bytes give another file.

        Returns
        -------
        Picture

        Examples
        --------
        >>> from dreamo_batch.local.engine import Order
        >>> one, two = (Order("a fox", seed, 512, 512, use_rephraser=True) for seed in (1, 2))
        >>> Flat().generate(one, b"").content == Flat().generate(two, b"").content
        False
        """
        hue = zlib.crc32(repr((order.seed, order.prompt)).encode()) % _N_COLOURS
        remark = label.comment(self.name, order, reference)
        content = label.with_comment(_plain(order.width, order.height, hue), remark)
        return Picture(content, "image/jpeg", order.width, order.height)


@lru_cache(maxsize=128)
def _plain(width: int, height: int, hue: int) -> bytes:
    """Encoding takes 10 ms at 1328x1328, so each colour and size is encoded once."""
    colour = Image.new("HSV", (1, 1), (hue * 255 // _N_COLOURS, 96, 224)).convert("RGB").getpixel((0, 0))
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "JPEG", quality=60, exif=label.exif(Flat.name))
    return file.getvalue()
