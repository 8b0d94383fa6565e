"""The one maker of small pictures: JPEG, within a side and a number of bytes, each file read once."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from dreamo_batch.engine import picture_cache
from dreamo_batch.engine.picture_cache import QUALITY, SIDE_PX, PictureFile, Thumbnail, read_thumbnails
from dreamo_batch.images import encoded, small_picture
from dreamo_batch.parallel import bars, ticking

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence
    from pathlib import Path
    from typing import TypeAlias

    _Step: TypeAlias = tuple[int, int, float]

BYTES_MAX: Final = 40_000
_PANEL_PX: Final = 160
# Side, JPEG quality, and what a pixel weighs at that quality compared to the first. The largest that fits the bytes is
# taken, and the last in any case.
_STEPS: Final = (
    (SIDE_PX, QUALITY, 1.0),
    (320, 70, 0.72),
    (256, 70, 0.76),
    (200, 68, 0.76),
    (160, 75, 0.85),
    (160, 65, 0.75),
    (128, 60, 0.72),
    (96, 55, 0.7),
    (72, 50, 0.7),
    (56, 42, 0.66),
    (40, 35, 0.65),
)
_AT_ONCE: Final = 512  # of which the kept thumbnails are in memory
# Photographs weigh about this.
_BYTES_PER_PIXEL: Final = 0.06
_TOLERANCE: Final = 1.1  # the weight of a step is estimated from the one before, and may be a little less
_CACHE_BYTES_MAX: Final = 48_000_000
_ENTRY_BYTES: Final = 200  # what the cache counts for an entry besides its JPEG
_WORKERS: Final = min(8, (os.cpu_count() or 1) + 1)


class Thumbnails:
    """Makes thumbnails and keeps them, by content where its digest is known; may be used from any thread."""

    def __init__(self, cache_bytes_max: int = _CACHE_BYTES_MAX) -> None:
        self._cache: OrderedDict[Hashable, Thumbnail | None] = OrderedDict()
        self._n_bytes, self._n_bytes_max = 0, cache_bytes_max
        self._lock = threading.Lock()

    def of_files(
        self,
        paths: Sequence[Path],
        *,
        bytes_max: int = BYTES_MAX,
        digests: Sequence[str | None] | None = None,
        folders: Sequence[Path] | None = None,
    ) -> list[Thumbnail | None]:
        """Make thumbnails of files, several at once; None for a file that is missing or damaged.

        Of files with known digests, those kept in the run directories `folders` are shrunk.
        """
        digests = digests or [None] * len(paths)
        places: Sequence[Path | None] = folders or [None] * len(paths)
        pictures = list(map(picture_file, places, paths, digests))
        picture_cache.complete(filter(None, pictures), what="making thumbnails")
        found: list[Thumbnail | None] = []
        with ThreadPoolExecutor(_WORKERS) as pool, ticking(len(paths), "thumbnails") as tick:
            for start in range(0, len(paths), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                jobs = zip(paths[part], digests[part], read_thumbnails(pictures[part]), strict=True)
                for thumbnail in pool.map(lambda job: self._of_file(*job, bytes_max=bytes_max), jobs):
                    found.append(thumbnail)
                    tick()
        return found

    def panel_jpegs(self, paths: Iterable[Path], *, n_new: int | None = None) -> dict[Path, bytes]:
        """Return the panel's thumbnails as JPEG, making `n_new` at most; empty for missing or damaged files."""
        found: dict[Path, bytes] = {}
        for path in paths:
            key = _key(path, None, BYTES_MAX, _PANEL_PX)
            with self._lock:
                is_known = key is None or key in self._cache
            if not is_known and n_new == 0:
                continue
            n_new = n_new if is_known or n_new is None else n_new - 1
            thumbnail = self._of_file(path, None, bytes_max=BYTES_MAX, side_px=_PANEL_PX)
            found[path] = b"" if thumbnail is None else thumbnail.content
        return found

    def _of_file(
        self,
        path: Path,
        digest: str | None,
        kept: Thumbnail | None = None,
        *,
        bytes_max: int,
        side_px: int = SIDE_PX,
    ) -> Thumbnail | None:
        key = _key(path, digest, bytes_max, side_px)
        if key is None:
            return None
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        if kept is not None:
            thumbnail: Thumbnail | None = shrunk(kept, bytes_max)
        else:
            thumbnail = make_thumbnail(path, bytes_max, side_px)
        if thumbnail is not None or digest is None:  # a damaged file doesn't stand for its whole copies
            self._keep(key, thumbnail)
        return thumbnail

    def _keep(self, key: Hashable, thumbnail: Thumbnail | None) -> None:
        with self._lock:
            if key not in self._cache:
                self._n_bytes += _weight(thumbnail)
            self._cache[key] = thumbnail
            while self._n_bytes > self._n_bytes_max:
                self._n_bytes -= _weight(self._cache.popitem(last=False)[1])


THUMBNAILS: Final = Thumbnails()
"""The maker that galleries and panels share, so that drawing again costs nothing."""


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
    """Make the thumbnail of a file or a picture in memory; None if it can't be read."""
    # Steps far above the limit aren't worth encoding.
    fitting = [
        step for step in _STEPS if step[0] <= side_px and step[0] ** 2 * _BYTES_PER_PIXEL <= 4 * bytes_max
    ]
    return _encoded(picture, bytes_max, fitting or _STEPS[-1:])


def shrunk(thumbnail: Thumbnail, bytes_max: int) -> Thumbnail:
    """Return a thumbnail of the largest size as it is if it fits the bytes, else a smaller one."""
    n_bytes = len(thumbnail.content)
    if n_bytes <= bytes_max:
        return thumbnail
    made = _encoded(thumbnail.content, bytes_max, _lighter(_STEPS, n_bytes / SIDE_PX**2, bytes_max))
    return thumbnail if made is None else made


def _encoded(picture: Any, bytes_max: int, steps: Sequence[_Step]) -> Thumbnail | None:
    """Encode a picture by the first of some steps that fits the bytes, the last in any case."""
    resample = _resample(picture)
    small = small_picture(picture, steps[0][0], resample=resample)
    if small is None:
        return None
    while True:
        side, quality, weight = steps[0]
        small.thumbnail((side, side), resample)
        jpeg = encoded(small, quality=quality, optimize=True)
        if len(jpeg) <= bytes_max or len(steps) == 1:
            return Thumbnail(jpeg, *small.size)
        steps = _lighter(steps[1:], len(jpeg) / (side**2 * weight), bytes_max)


def _lighter(steps: Sequence[_Step], bytes_per_pixel: float, bytes_max: int) -> Sequence[_Step]:
    """Return the steps that may fit the bytes, or the last."""
    fitting = [step for step in steps if step[0] ** 2 * step[2] * bytes_per_pixel <= _TOLERANCE * bytes_max]
    return fitting or steps[-1:]


def is_file(path: Path) -> bool:
    """Return whether there is a file; an impossible name has none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _key(path: Path, digest: str | None, bytes_max: int, side_px: int) -> Hashable | None:
    """Return what tells a file's thumbnail from others; None for a missing file, also if its thumbnail is kept."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return digest or (str(path), found.st_mtime_ns), found.st_size, bytes_max, side_px


def _weight(thumbnail: Thumbnail | None) -> int:
    return _ENTRY_BYTES + (0 if thumbnail is None else len(thumbnail.content))
