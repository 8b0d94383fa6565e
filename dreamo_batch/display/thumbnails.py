"""The one maker of small pictures: JPEG, within a side and a number of bytes, each file read once."""

from __future__ import annotations

import base64
import io
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from dreamo_batch.images import small_picture
from dreamo_batch.parallel import ticking

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence
    from pathlib import Path

BYTES_MAX: Final = 40_000
_PANEL_PX: Final = 160
# Side, JPEG quality, and what a pixel weighs at that quality compared to the first. The largest that fits the bytes is
# taken, and the last in any case.
_STEPS: Final = (
    (320, 82, 1.0),
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
# Steps far above the limit aren't worth encoding; photographs weigh about this.
_BYTES_PER_PIXEL: Final = 0.06
_TOLERANCE: Final = 1.1  # the weight of a step is estimated from the one before, and may be a little less
_CACHE_BYTES_MAX: Final = 48_000_000
_ENTRY_BYTES: Final = 200  # what the cache counts for an entry besides its JPEG
_WORKERS: Final = min(8, (os.cpu_count() or 1) + 1)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG and its size in pixels."""

    content: bytes
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        """The picture as text to embed in a page."""
        return "data:image/jpeg;base64," + base64.b64encode(self.content).decode("ascii")


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
        digests: Iterable[str | None] | None = None,
        progress: bool = False,
    ) -> list[Thumbnail | None]:
        """Make thumbnails of files, several at once; None for a file that is missing or damaged."""
        found = []
        jobs = zip(paths, [None] * len(paths) if digests is None else digests, strict=True)
        bar = ticking(len(paths), "thumbnails", progress=progress)
        with ThreadPoolExecutor(_WORKERS) as pool, bar as tick:
            for thumbnail in pool.map(lambda job: self._of_file(*job, bytes_max=bytes_max), jobs):
                found.append(thumbnail)
                tick()
        return found

    def panel_jpegs(self, paths: Iterable[Path], *, n_new: int | None = None) -> dict[Path, bytes]:
        """Return the panel's thumbnails as JPEG, making `n_new` at most; empty for missing or damaged files."""
        found: dict[Path, bytes] = {}
        for path in paths:
            key = _key(path, None, BYTES_MAX, _PANEL_PX)
            is_known = key is None or self._is_kept(key)
            if not is_known and n_new == 0:
                continue
            n_new = n_new if is_known or n_new is None else n_new - 1
            thumbnail = self._of_file(path, None, bytes_max=BYTES_MAX, side_px=_PANEL_PX)
            found[path] = b"" if thumbnail is None else thumbnail.content
        return found

    def _of_file(
        self, path: Path, digest: str | None, *, bytes_max: int, side_px: int = _STEPS[0][0]
    ) -> Thumbnail | None:
        key = _key(path, digest, bytes_max, side_px)
        if key is None:
            return None
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        thumbnail = make_thumbnail(path, bytes_max, side_px)
        if thumbnail is not None or digest is None:  # a damaged file doesn't stand for its whole copies
            self._keep(key, thumbnail)
        return thumbnail

    def _is_kept(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._cache

    def _keep(self, key: Hashable, thumbnail: Thumbnail | None) -> None:
        with self._lock:
            if key not in self._cache:
                self._n_bytes += _weight(thumbnail)
            self._cache[key] = thumbnail
            while self._n_bytes > self._n_bytes_max:
                self._n_bytes -= _weight(self._cache.popitem(last=False)[1])


THUMBNAILS: Final = Thumbnails()
"""The maker that galleries and panels share, so that drawing again costs nothing."""


def make_thumbnail(picture: Any, bytes_max: int, side_px: int = _STEPS[0][0]) -> Thumbnail | None:
    """Make the thumbnail of a file or a picture in memory; None if it can't be read."""
    fitting = [
        step for step in _STEPS if step[0] <= side_px and step[0] ** 2 * _BYTES_PER_PIXEL <= 4 * bytes_max
    ]
    steps = fitting or [_STEPS[-1]]
    picture = small_picture(picture, steps[0][0])
    if picture is None:
        return None
    while True:
        side, quality, weight = steps.pop(0)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= bytes_max or not steps:
            return Thumbnail(buffer.getvalue(), *picture.size)
        per_pixel = buffer.tell() / (side**2 * weight)
        fitting = [step for step in steps if step[0] ** 2 * step[2] * per_pixel <= _TOLERANCE * bytes_max]
        steps = fitting or steps[-1:]


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
