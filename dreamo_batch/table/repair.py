"""The corrected copy of a reference picture: the recipe, and what it says beforehand.

The recipe has a version, which is part of a corrected picture's identity: change what it does, and the
version must change too.

Examples
--------
>>> buffer = io.BytesIO()
>>> Image.new("RGB", (6000, 3000)).save(buffer, "PNG")
>>> with Image.open(io.BytesIO(repair(buffer.getvalue()))) as copy:
...     copy.size
(4096, 2048)
"""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageOps

from dreamo_batch.service import parameters
from dreamo_batch.table import rules
from dreamo_batch.table.pictures import extremes, in_eight_bits, is_jpeg, opened, suffix_of

if TYPE_CHECKING:
    from dreamo_batch.table.findings import Finding

RECIPE: Final = 1

_SIDE_MAX: Final = parameters.INPUT_SIDE_MAX_PX.value
_BYTES_MAX: Final = parameters.INPUT_BYTES_ADVISED.value
_QUALITIES: Final = (95, 90, 85, 80, 75)
_SHRINK: Final = 0.8
_LOSSY: Final = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
_KEEPING_COLOURS: Final = ("L", "P", "RGB", "RGBA")
_UNIFORM_LEVELS: Final = 2  # what differs by no more is one colour to the eye


class CameOutUniform(ValueError):  # noqa: N818 - it names what happened to the copy
    """The copy is of one colour although the picture is not."""


def is_repairable(finding: Finding) -> bool:
    """Say whether a corrected copy would be without the problem.

    Parameters
    ----------
    finding : Finding
        About a picture.

    Returns
    -------
    bool
        Whether the recipe mends it.

    Examples
    --------
    >>> from dreamo_batch.table.findings import Finding
    >>> is_repairable(Finding.of("image-rotated")), is_repairable(Finding.of("image-empty"))
    (True, False)
    """
    return bool(rules.RULES[finding.code].repair)


def announce(finding: Finding, *, fix_images: bool) -> Finding:
    """Say beforehand what `fix_images` does, or would do, about a problem.

    Parameters
    ----------
    finding : Finding
        About a picture.
    fix_images : bool
        Whether a corrected copy will be written.

    Returns
    -------
    Finding
        A mere warning if it will be mended.

    Examples
    --------
    >>> from dreamo_batch.table.findings import Finding
    >>> announce(Finding.of("image-rotated"), fix_images=True).fix
    'Nothing to do: the run sends a corrected copy, turned upright.'
    """
    repair_text = rules.RULES[finding.code].repair
    if not repair_text:
        return finding
    if not fix_images:
        return dataclasses.replace(finding, fix=f"{finding.fix}, or let fix_images=True do it.")
    fix = f"Nothing to do: the run sends a corrected copy, {repair_text}."
    return dataclasses.replace(finding, severity=rules.WARNING, fix=fix)


def repair(content: bytes) -> bytes:
    """Make a copy of a picture that breaks no rule that can be mended.

    Upright, first frame, 8-bit grey or RGB, at most 4096 pixels a side, at most 4.7 MB; JPEG or PNG. What was
    stored with loss becomes a JPEG, everything else a PNG if that is small enough. Alpha is kept as long as
    the PNG is small enough, else laid on white. The same bytes and Pillow give the same copy.

    Parameters
    ----------
    content : bytes
        The whole file, of a format in `pictures.CONVERTIBLE`.

    Returns
    -------
    bytes
        The whole corrected file.

    Raises
    ------
    CameOutUniform
        If the copy is of one colour although the picture is not.
    Exception
        Whatever Pillow raises if the picture can't be decoded.

    Examples
    --------
    >>> buffer = io.BytesIO()
    >>> Image.new("RGB", (8, 8)).save(buffer, "GIF")
    >>> repair(buffer.getvalue())[1:4]
    b'PNG'
    """
    with opened(io.BytesIO(content)) as image:
        corrected, is_lossy, profile = _corrected(image)
        copy = _encode(corrected, is_lossy, profile)
        is_flat = suffix_of(copy) == ".jpg"
        if _is_uniform(_on_white(corrected) if is_flat else corrected) and not _is_uniform(image):
            raise CameOutUniform
        return copy


def _corrected(image: Image.Image) -> tuple[Image.Image, bool, bytes | None]:
    is_lossy = image.format in _LOSSY
    if is_jpeg(image):
        # Decodes at a half or a quarter of the size where that is still enough.
        image.draft(None, (_SIDE_MAX, _SIDE_MAX))
    # A profile only fits the colours it was made for, so it goes where these are converted.
    profile = image.info.get("icc_profile") if image.mode in _KEEPING_COLOURS else None
    upright = _in_plain_mode(ImageOps.exif_transpose(image))
    upright.thumbnail((_SIDE_MAX, _SIDE_MAX), Image.Resampling.LANCZOS, reducing_gap=None)
    return upright, is_lossy, profile


def _in_plain_mode(image: Image.Image) -> Image.Image:
    image = in_eight_bits(image)
    if image.mode in {"L", "RGB"}:
        return image
    if image.mode in {"1", "F"}:
        return image.convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return rgba if rgba.getchannel("A").getextrema() != (255, 255) else rgba.convert("RGB")


def _encode(image: Image.Image, is_lossy: bool, profile: bytes | None) -> bytes:
    if not is_lossy or image.mode == "RGBA":
        png = _saved(image, "PNG", icc_profile=profile)
        if len(png) <= _BYTES_MAX:
            return png
    return _encode_jpeg(_on_white(image), profile)


def _encode_jpeg(image: Image.Image, profile: bytes | None) -> bytes:
    while True:
        for quality in _QUALITIES:
            jpeg = _saved(image, "JPEG", quality=quality, optimize=True, icc_profile=profile)
            if len(jpeg) <= _BYTES_MAX:
                return jpeg
        width, height = (max(1, round(side * _SHRINK)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _is_uniform(image: Image.Image) -> bool:
    return all(high - low <= _UNIFORM_LEVELS for low, high in extremes(image))


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
