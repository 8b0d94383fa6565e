"""Open a saved picture or a reference as what a person sees: upright, without transparency, in RGB.

Examples
--------
>>> rgb(Image.new("RGBA", (4, 2), (255, 0, 0, 0))).getpixel((0, 0))
(255, 255, 255)
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageOps

from dreamo_batch.table.pictures import DEEP_MODES, in_eight_bits, opened

if TYPE_CHECKING:
    from pathlib import Path

_WHITE: Final = (255, 255, 255, 255)


class Unseen(Exception):  # noqa: N818 - it names what became of the picture
    """A picture that can't be looked at; the text says why."""


def read(path: Path, sha256: str, *, side_px: int | None = None) -> Image.Image:
    """Open the picture at a path, if it still is the one that is known.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    sha256 : str
        Digest of its bytes.
    side_px : int, optional
        No more is needed than this on each side: a JPEG is decoded at a fraction of its size, which is quicker.

    Returns
    -------
    PIL.Image.Image
        As from `rgb`.

    Raises
    ------
    Unseen
        If it is gone, not the same any more, or can't be decoded.

    Examples
    --------
    >>> from pathlib import Path
    >>> read(Path("runs/none.jpg"), "00")
    Traceback (most recent call last):
    ...
    dreamo_batch.results.pictures.Unseen: none.jpg is gone
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Unseen(f"{path.name} is gone") from None
    except OSError as error:
        raise Unseen(f"{path.name} can't be read ({error.strerror or error})") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Unseen(f"{path.name} is not the picture that it was")
    try:
        return _decoded(content, side_px)
    except Exception as error:  # noqa: BLE001 - decoders raise anything at all over damaged files
        raise Unseen(f"{path.name} can't be decoded ({error})") from None


def rgb(picture: Image.Image) -> Image.Image:
    """Turn a picture upright by its EXIF note and make it RGB.

    Transparency is laid on white, 16 bits a channel become 8, CMYK and greyscale are converted without colour
    profiles.

    Parameters
    ----------
    picture : PIL.Image.Image
        Of any mode; not changed.

    Returns
    -------
    PIL.Image.Image
        A new picture of mode RGB.

    Examples
    --------
    >>> rgb(Image.new("CMYK", (2, 2), (0, 255, 255, 0))).getpixel((0, 0))
    (255, 0, 0)
    """
    turned = ImageOps.exif_transpose(picture)
    if turned.mode in (*DEEP_MODES, "I"):
        return in_eight_bits(turned).convert("RGB")
    if turned.has_transparency_data:
        paper = Image.new("RGBA", turned.size, _WHITE)
        return Image.alpha_composite(paper, turned.convert("RGBA")).convert("RGB")
    return turned.convert("RGB")


def _decoded(content: bytes, side_px: int | None) -> Image.Image:
    with opened(io.BytesIO(content)) as picture:
        if side_px is not None:
            picture.draft(None, (side_px, side_px))  # only JPEG can; others are decoded whole
        return rgb(picture)
