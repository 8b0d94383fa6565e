"""The one maker of small pictures: JPEG, within a side and a number of bytes, each file read once."""

from __future__ import annotations

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from dreamo_batch.engine import picture_cache
from dreamo_batch.engine.picture_cache import QUALITY, SIDE_PX, PictureFile, Thumbnail, read_thumbnails
from dreamo_batch.images import encoded, small_picture
from dreamo_batch.parallel import bars, ticking

if TYPE_CHECKING:
    from collections.abc import Sequence

BYTES_MAX: Final = 40_000
_PANEL_PX: Final = 160
_SIDE_MIN: Final = 40
_QUALITY_MIN: Final = 40
_AT_ONCE: Final = 512  # of which the kept thumbnails are in memory
_BYTES_PER_PIXEL: Final = 0.06  # of photographs, about
_REMEMBERED: Final = 4_096
_WORKERS: Final = min(8, (os.cpu_count() or 1) + 1)


def thumbnails_of(
    paths: Sequence[Path],
    *,
    bytes_max: int = BYTES_MAX,
    digests: Sequence[str | None] | None = None,
    folders: Sequence[Path] | None = None,
) -> list[Thumbnail | None]:
    """Make thumbnails of files, several at once; None for a file that is missing or damaged.

    Where the digests and run directories of pictures are known, those are taken that the directories keep.
    """
    nothing = [None] * len(paths)
    pictures = list(map(picture_file, folders or nothing, paths, digests or nothing))
    picture_cache.complete(filter(None, pictures), what="making thumbnails")
    found: list[Thumbnail | None] = []
    with ThreadPoolExecutor(_WORKERS) as pool, ticking(len(paths), "thumbnails") as tick:
        for start in range(0, len(paths), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            sources = paths[part], read_thumbnails(pictures[part])
            for thumbnail in pool.map(lambda path, kept: _of_file(path, kept, bytes_max), *sources):
                found.append(thumbnail)
                tick()
    return found


def panel_jpeg(path: Path) -> bytes:
    """Return a picture's thumbnail for the panel as JPEG; empty for a missing or damaged file."""
    thumbnail = _of_file(path, None, BYTES_MAX, _PANEL_PX)
    return b"" if thumbnail is None else thumbnail.content


def _of_file(path: Path, kept: Thumbnail | None, bytes_max: int, side_px: int = SIDE_PX) -> Thumbnail | None:
    """Return a file's thumbnail, made once while it stays the same; None for a missing one, whatever is kept of it."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    if kept is not None and len(kept.content) <= bytes_max:
        return kept
    return _made(kept or path, bytes_max, side_px, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=_REMEMBERED)
def _made(source: Path | Thumbnail, bytes_max: int, side_px: int, *_version: int) -> Thumbnail | None:
    if isinstance(source, Path):
        return make_thumbnail(source, bytes_max, side_px)
    side = int(SIDE_PX * math.sqrt(bytes_max / len(source.content)))
    return make_thumbnail(source.content, bytes_max, side) or source


def picture_file(folder: Path | None, path: Path, digest: object) -> PictureFile | None:
    """Return a picture whose summary may be kept; None without a folder to keep it in, or a known digest."""
    return PictureFile(folder, path, digest) if folder and isinstance(digest, str) else None


def small_pictures(pictures: Sequence[tuple[Path, Path, object]], side_px: int) -> list[Image.Image | None]:
    """Read pictures for drawing, several at once: from what run directories keep of them where that is large enough.

    A picture is given as run directory, path and digest; None where it can't be read.
    """
    kept: Sequence[Thumbnail | None] = [None] * len(pictures)
    if side_px <= SIDE_PX:
        known = [picture_file(*picture) for picture in pictures]
        with bars(wanted=False):  # the sheet has one
            picture_cache.complete(filter(None, known), what="making thumbnails")
        kept = read_thumbnails(known)
    sources = [
        path if thumbnail is None else thumbnail.content
        for (_, path, _), thumbnail in zip(pictures, kept, strict=True)
    ]
    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(
            pool.map(lambda source: small_picture(source, side_px, resample=_resample(source)), sources)
        )


def _resample(source: object) -> Image.Resampling:
    """Shrink a thumbnail in a third of the time that a whole picture takes: there is less to lose."""
    return Image.Resampling.HAMMING if isinstance(source, bytes) else Image.Resampling.LANCZOS


def make_thumbnail(picture: Any, bytes_max: int, side_px: int = SIDE_PX) -> Thumbnail | None:
    """Make the thumbnail of a file or a picture in memory, as large as its bytes allow; None if it can't be read."""
    # Sizes far above the limit aren't worth encoding.
    side = max(_SIDE_MIN, min(side_px, math.isqrt(int(4 * bytes_max / _BYTES_PER_PIXEL))))
    quality, resample = QUALITY, _resample(picture)
    small = small_picture(picture, side, resample=resample)
    if small is None:
        return None
    while len(jpeg := encoded(small, quality=quality, optimize=True)) > bytes_max and side > _SIDE_MIN:
        side = max(_SIDE_MIN, int(side * min(0.9, 1.1 * math.sqrt(bytes_max / len(jpeg)))))
        quality = _QUALITY_MIN + side // 10  # what is small may be coarse
        small.thumbnail((side, side), resample)
    return Thumbnail(jpeg, *small.size)


def is_file(path: Path) -> bool:
    """Return whether there is a file; an impossible name has none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
