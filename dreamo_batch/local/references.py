"""The reference picture of an order: looked at before the order is taken, and kept once per content.

Examples
--------
>>> look_at(b"GIF89a")
Traceback (most recent call last):
...
dreamo_batch.local.references.BadReference: the picture is neither JPEG nor PNG
"""

from __future__ import annotations

import functools
import os
import struct
from io import BytesIO
from typing import TYPE_CHECKING

from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from dreamo_batch.service import parameters

if TYPE_CHECKING:
    from pathlib import Path

# By their first bytes; the classes read the header only, so a picture that unpacks to gigabytes stays packed.
_FORMATS = {b"\xff\xd8\xff": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile}
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, struct.error)
N_KEPT = 4


class BadReference(ValueError):  # noqa: N818 - it says what is wrong, and is no error of ours
    """The picture can't be used as a reference; says why, as the end of a sentence."""


def look_at(content: bytes) -> tuple[int, int]:
    """Check a reference against what the service's page asks for, by its header only.

    Parameters
    ----------
    content : bytes
        The file.

    Returns
    -------
    width, height : int
        In pixels.

    Raises
    ------
    BadReference
        If it is too large in bytes or pixels, neither JPEG nor PNG, or its header can't be read.

    Examples
    --------
    >>> from PIL import Image
    >>> file = BytesIO()
    >>> Image.new("RGB", (64, 48)).save(file, "PNG")
    >>> look_at(file.getvalue())
    (64, 48)
    """
    if len(content) > parameters.INPUT_BYTES_MAX.value:
        raise BadReference(
            f"the picture has {len(content)} bytes, more than {parameters.INPUT_BYTES_MAX.value}"
        )
    reader = next((reader for start, reader in _FORMATS.items() if content.startswith(start)), None)
    if reader is None:
        raise BadReference("the picture is neither JPEG nor PNG")
    try:
        with reader(BytesIO(content)) as image:
            width, height = image.size
    except _UNREADABLE:
        raise BadReference("the picture's header can't be read") from None
    if max(width, height) > parameters.INPUT_SIDE_MAX_PX.value:
        most = parameters.INPUT_SIDE_MAX_PX.value
        raise BadReference(f"the picture is {width}x{height}, larger than {most}x{most} pixels")
    return width, height


class References:
    """Reference pictures on disk, each content once, named by its SHA-256.

    Parameters
    ----------
    folder : Path
        Where they are kept; it must exist.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     references = References(pathlib.Path(folder))
    ...     references.keep("e" * 64, b"...")
    ...     references.read("e" * 64)
    b'...'
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept = {path.name for path in folder.iterdir()}
        # Rows of a table share few references; the last ones are kept in memory.
        self.read = functools.lru_cache(maxsize=N_KEPT)(self._read)

    def keep(self, digest: str, content: bytes) -> None:
        """Write a picture down unless it is there already; when this returns, it is.

        Parameters
        ----------
        digest : str
            SHA-256 of the content as 64 hex digits.
        content : bytes
            The file.
        """
        if digest not in self._kept:
            write_whole(self._folder / digest, content)
            self._kept.add(digest)

    def _read(self, digest: str) -> bytes:
        return (self._folder / digest).read_bytes()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, should the process be killed.

    Parameters
    ----------
    path : Path
        Where to; replaced if it exists.
    content : bytes
        All of it.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(pathlib.Path(folder, "a"), b"...")
    ...     pathlib.Path(folder, "a").read_bytes()
    b'...'
    """
    draft = path.with_name(f"{path.name}.{os.urandom(4).hex()}.part")
    draft.write_bytes(content)
    draft.replace(path)
