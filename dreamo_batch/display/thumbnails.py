"""Small pictures: at most 320 px, JPEG, no more bytes than asked for, each made once."""

from __future__ import annotations

import base64
import io
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from PIL import Image, ImageOps

from dreamo_batch.jobs.references import in_eight_bits, opened
from dreamo_batch.parallel import ticking

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence
    from pathlib import Path


SIDE_MAX_PX: Final = 320
BYTES_MAX: Final = 40_000
# Side, JPEG quality, and what a pixel weighs at that quality against the first; tried from the top until the bytes
# fit, the last is taken whatever it weighs.
_STEPS: Final = (
    (320, 82, 1.0),
    (320, 70, 0.72),
    (256, 70, 0.76),
    (200, 68, 0.76),
    (160, 65, 0.75),
    (128, 60, 0.72),
    (96, 55, 0.7),
    (72, 50, 0.7),
    (56, 42, 0.66),
    (40, 35, 0.65),
)
# A step that would weigh so much more than asked for is not worth encoding; photographs weigh about this.
_BYTES_PER_PIXEL: Final = 0.06
_HOPE: Final = 1.1  # what a step weighs is guessed from the one before, and may be a little less
_CACHE_BYTES_MAX: Final = 48_000_000
_WORKERS: Final = min(8, (os.cpu_count() or 1) + 1)
_PAPER: Final = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG and its size in pixels."""

    content: bytes
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        """The picture as text that a page can hold."""
        return "data:image/jpeg;base64," + base64.b64encode(self.content).decode("ascii")


class Thumbnails:
    """Makes thumbnails and remembers them, by content where that is known, within bounded memory."""

    def __init__(self, cache_bytes_max: int = _CACHE_BYTES_MAX) -> None:
        self._cache: OrderedDict[Hashable, Thumbnail] = OrderedDict()
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
        """Make thumbnails of files, several at once."""
        known = [None] * len(paths) if digests is None else list(digests)
        made = []
        bar = ticking(len(paths), "thumbnails", progress=progress)
        with ThreadPoolExecutor(_WORKERS) as pool, bar as tick:
            for small in pool.map(self._of_file, paths, known, [bytes_max] * len(paths)):
                made.append(small)
                tick()
        return made

    def of_content(self, content: bytes | Image.Image, *, bytes_max: int = BYTES_MAX) -> Thumbnail | None:
        """Make the thumbnail of a picture in memory; None if it can't be read."""
        return _made(content if isinstance(content, Image.Image) else io.BytesIO(content), bytes_max)

    def _of_file(self, path: Path, digest: str | None, bytes_max: int) -> Thumbnail | None:
        try:
            found = path.stat()  # also where it is remembered: a picture that is gone is shown as gone
        except (OSError, ValueError):
            return None
        key = (digest or (str(path), found.st_mtime_ns), found.st_size, bytes_max)
        known = self._remembered(key)
        if known is None and (known := _made(path, bytes_max)) is not None:
            self._remember(key, known)
        return known

    def _remembered(self, key: Hashable) -> Thumbnail | None:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
            return self._cache.get(key)

    def _remember(self, key: Hashable, made: Thumbnail) -> None:
        with self._lock:
            replaced = self._cache.pop(key, None)
            self._cache[key] = made
            self._n_bytes += len(made.content) - (len(replaced.content) if replaced else 0)
            while self._n_bytes > self._n_bytes_max:
                self._n_bytes -= len(self._cache.popitem(last=False)[1].content)


def is_there(path: Path) -> bool:
    """Say whether there is a file; an impossible name has none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def shown(picture: Path | io.BytesIO | Image.Image, side_px: int) -> Image.Image | None:
    """Read a picture, upright and at most so large, on white; None if it is gone or damaged."""
    try:
        if isinstance(picture, Image.Image):
            return _small(picture, side_px)
        with opened(picture) as image:
            image.draft("RGB", (2 * side_px, 2 * side_px))  # a JPEG is decoded at a fraction of its size
            return _small(image, side_px)
    except Exception:  # noqa: BLE001 - Pillow lets nearly any exception out of damaged files
        return None


def _small(picture: Image.Image, side_px: int) -> Image.Image:
    upright = in_eight_bits(ImageOps.exif_transpose(picture))
    if upright.mode in {"P", "PA", "LA", "RGBA"} or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        paper = Image.new("RGBA", upright.size, (*_PAPER, 255))
        upright = Image.alpha_composite(paper, upright)
    plain = upright.convert("RGB")
    if max(plain.size) > side_px:
        plain.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return plain


def _made(picture: Any, bytes_max: int) -> Thumbnail | None:
    steps = [step for step in _STEPS if step[0] ** 2 * _BYTES_PER_PIXEL <= 4 * bytes_max] or [_STEPS[-1]]
    small = shown(picture, steps[0][0])
    if small is None:
        return None
    while True:
        side_px, quality, weight = steps.pop(0)
        small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= bytes_max or not steps:
            return Thumbnail(buffer.getvalue(), *small.size)
        per_pixel = buffer.tell() / (side_px**2 * weight)
        fitting = [step for step in steps if step[0] ** 2 * step[2] * per_pixel <= _HOPE * bytes_max]
        steps = fitting or steps[-1:]


_SIDE_PX: Final = 160
_QUALITY: Final = 75
_N_KEPT: Final = 96

# A file as it was: replaced by another, it is read anew.
_Key = tuple[str, int]


class PanelThumbnails:
    """Thumbnails of files as JPEG bytes, at most 160 px a side; may be used from any thread."""

    def __init__(self, n_kept: int = _N_KEPT) -> None:
        self._n_kept = n_kept
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, paths: Iterable[Path], *, n_new: int | None = None) -> dict[Path, bytes]:
        """Give the thumbnails of some files."""
        found: dict[Path, bytes] = {}
        for path in paths:
            key = _key(path)
            content = b"" if key is None else self._known(key)
            if content is None and n_new != 0:
                content = self._keep(key, small(path))
                n_new = None if n_new is None else n_new - 1
            if content is not None:
                found[path] = content
        return found

    def _known(self, key: _Key) -> bytes | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: _Key | None, content: bytes) -> bytes:
        with self._lock:
            if key is not None:
                self._kept[key] = content
            while len(self._kept) > self._n_kept:
                self._kept.popitem(last=False)
        return content


def small(path: Path) -> bytes:
    """Make the thumbnail of a file; empty bytes if it can't be read."""
    picture = shown(path, _SIDE_PX)
    if picture is None:
        return b""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _key(path: Path) -> _Key | None:
    try:
        return str(path), path.stat().st_mtime_ns
    except OSError:
        return None


# Shared by every panel and by the static form: the same pictures are shown by all of them.
SHARED: Final = PanelThumbnails()
