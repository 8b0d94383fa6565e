"""How a picture of the local gateway says that it is none of DreamO's: in its file, and in the picture.

In every file: EXIF `ImageDescription` (tag 270) is `DESCRIPTION`, EXIF `Software` (tag 305) names the engine,
and the JPEG comment is JSON with the keys `engine`, `prompt`, `seed`, `width`, `height`, `use_rephraser` and
`reference_crc32`. Nothing in it depends on the time, so equal orders give equal files.

Examples
--------
>>> exif("flat")[270]
'Local preview, not a real DreamO result'
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from PIL import Image

if TYPE_CHECKING:
    from dreamo_batch.local.engine import Order

DESCRIPTION: Final = "Local preview, not a real DreamO result"
IMAGE_DESCRIPTION_TAG: Final = 270
SOFTWARE_TAG: Final = 305


def exif(engine: str) -> Image.Exif:
    """Give the EXIF block of a picture made by this engine.

    Parameters
    ----------
    engine : str
        Name of the engine.

    Returns
    -------
    PIL.Image.Exif
        To be given to `Image.save`.

    Examples
    --------
    >>> exif("preview")[SOFTWARE_TAG]
    'dreamo-batch local gateway, engine preview'
    """
    block = Image.Exif()
    block[IMAGE_DESCRIPTION_TAG] = DESCRIPTION
    block[SOFTWARE_TAG] = f"dreamo-batch local gateway, engine {engine}"
    return block


def banner(seed: int) -> str:
    """Give the words that are written into the picture.

    Parameters
    ----------
    seed : int
        Seed of the order.

    Returns
    -------
    str

    Examples
    --------
    >>> banner(42)
    'local preview - not a real DreamO result · seed 42'
    """
    return f"local preview - not a real DreamO result · seed {seed}"


def comment(engine: str, order: Order, reference: bytes) -> bytes:
    """Give the JPEG comment: what was ordered, as JSON in ASCII.

    Parameters
    ----------
    engine : str
        Name of the engine.
    order : Order
        What was drawn.
    reference : bytes
        The reference file; its checksum is kept.

    Returns
    -------
    bytes
        At most 65,533 bytes, as much as a comment can hold; a prompt that is too long is cut.

    Examples
    --------
    >>> from dreamo_batch.local.engine import Order
    >>> json.loads(comment("flat", Order("狐狸", 7, 512, 512, use_rephraser=True), b""))["prompt"]
    '狐狸'
    """
    ordered = asdict(order) | {"prompt": order.prompt[:_PROMPT_CHARACTERS]}
    return json.dumps({"engine": engine, **ordered, "reference_crc32": zlib.crc32(reference)}).encode()


def with_comment(jpeg: bytes, remark: bytes) -> bytes:
    r"""Put a comment into a JPEG file that Pillow wrote, without encoding it anew.

    Parameters
    ----------
    jpeg : bytes
        A JFIF file: the marker of its start, then its APP0 segment.
    remark : bytes
        The comment, at most 65,533 bytes.

    Returns
    -------
    bytes
        The file with the comment behind APP0, where JFIF allows it.

    Examples
    --------
    >>> with_comment(b"\xff\xd8\xff\xe0\x00\x02 and the rest", b"hello")
    b'\xff\xd8\xff\xe0\x00\x02\xff\xfe\x00\x07hello and the rest'
    """
    behind_app0 = 4 + int.from_bytes(jpeg[4:6], "big")
    segment = b"\xff\xfe" + (len(remark) + 2).to_bytes(2, "big") + remark
    return jpeg[:behind_app0] + segment + jpeg[behind_app0:]


# A character is at most twelve bytes in JSON's ASCII (a pair of surrogates), and a comment holds 65,533.
_PROMPT_CHARACTERS: Final = 5000
