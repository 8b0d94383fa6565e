"""Pictures on disk: checked, hashed, and in place only when whole.

Where a picture comes from is the caller's business; nothing here knows the key or opens a connection.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dreamo_batch.execution import durable
from dreamo_batch.service import parameters
from dreamo_batch.table.pictures import opened

if TYPE_CHECKING:
    from pathlib import Path

PICTURE_BYTES_MAX: Final = 32 * 1024 * 1024  # a raw 2048 x 2048 with 8 bits a channel has half of it
PICTURE_PIXELS_MAX: Final = 64 * 1024 * 1024
_SUFFIXES: Final = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_LOOKS: Final = 60


class NotAPicture(ValueError):  # noqa: N818 - it names what arrived
    """What came from the output URL is not a picture of a known format."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A picture on disk; `path` is relative to the run directory, sizes in bytes and pixels.

    `warning` says what is odd about it, or what else the task made.
    """

    path: str
    sha256: str
    n_bytes: int
    width_px: int
    height_px: int
    warning: str | None = None


def save(content: bytes, name: str, run_dir: Path, folder: str = "images") -> Saved:
    """Check a picture and put it in the run directory.

    Parameters
    ----------
    content : bytes
        What the output URL gave; JPEG, PNG or WebP.
    name : str
        Of the file, made of the job's id; neither the server nor the table can choose it.
    run_dir : pathlib.Path
        The run directory.
    folder : str
        Folder in it.

    Returns
    -------
    Saved

    Raises
    ------
    NotAPicture
        If the bytes are not a whole picture of a known format.
    OSError
        If the disk does not take it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> buffer = io.BytesIO()
    >>> Image.new("RGB", (8, 4)).save(buffer, "PNG")
    >>> save(buffer.getvalue(), "a1", Path(tempfile.mkdtemp())).path
    'images/a1.png'
    """
    suffix, width_px, height_px = look(content)
    path = run_dir / folder / f"{name}.{suffix}"
    path.parent.mkdir(exist_ok=True)
    durable.replace(path, lambda temporary: temporary.write_bytes(content))
    digest = hashlib.sha256(content).hexdigest()
    return Saved(path.relative_to(run_dir).as_posix(), digest, len(content), width_px, height_px)


def look(content: bytes) -> tuple[str, int, int]:
    """Decode a picture once and give its suffix, width and height in px.

    Raises
    ------
    NotAPicture
        If it can't be decoded, or is of another format.

    Examples
    --------
    >>> look(b"<html>busy</html>")
    Traceback (most recent call last):
    ...
    dreamo_batch.execution.archive.NotAPicture: expected JPEG, PNG or WEBP, got 17 bytes starting b'<html>busy</html>'
    """
    try:
        formats = parameters.OUTPUT_FORMATS.value
        with opened(io.BytesIO(content), formats=formats, pixels_max=PICTURE_PIXELS_MAX) as picture:
            picture.load()
            return _SUFFIXES[str(picture.format)], picture.width, picture.height
    except Exception:  # noqa: BLE001 - decoders raise anything at all over bytes that are no picture
        expected = "JPEG, PNG or WEBP"
        start = content[:_LOOKS]
        raise NotAPicture(f"expected {expected}, got {len(content)} bytes starting {start!r}") from None


def is_in_place(run_dir: Path, path: str | None, n_bytes: int | None) -> bool:
    """Whether a saved picture is still there with its size; its bytes are not read.

    Examples
    --------
    >>> from pathlib import Path
    >>> is_in_place(Path("runs/none"), "images/a1.png", 10)
    False
    """
    if path is None:
        return False
    try:
        return (run_dir / path).stat().st_size == n_bytes
    except OSError:
        return False


def is_unaltered(run_dir: Path, path: str, sha256: str) -> bool:
    """Whether a saved picture still has the bytes it was saved with."""
    try:
        with (run_dir / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False
