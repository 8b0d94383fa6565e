"""Small copies of pictures, for showing: made once per file and kept in bounded memory."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from dreamo_batch.results.thumbnails import shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_SIDE_PX: Final = 160
_QUALITY: Final = 75
_N_KEPT: Final = 96

# A file as it was: replaced by another, it is read anew.
_Key = tuple[str, int]


class Thumbnails:
    r"""Thumbnails of files as JPEG bytes, at most 160 px a side; may be used from any thread.

    Parameters
    ----------
    n_kept : int
        How many are kept, those used last.

    Examples
    --------
    >>> from pathlib import Path
    >>> thumbnails = Thumbnails()
    >>> thumbnails.of([Path("data/mascot.png")])[Path("data/mascot.png")][:3]
    b'\xff\xd8\xff'
    >>> thumbnails.of([Path("no/such.png")])
    {PosixPath('no/such.png'): b''}
    """

    def __init__(self, n_kept: int = _N_KEPT) -> None:
        self._n_kept = n_kept
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, paths: Iterable[Path], *, n_new: int | None = None) -> dict[Path, bytes]:
        """Give the thumbnails of some files.

        Parameters
        ----------
        paths : iterable of Path
            Pictures, the most wanted first.
        n_new : int, optional
            Make so many at most now; the others that are not known yet are left out.

        Returns
        -------
        dict of Path to bytes
            JPEG files; empty bytes for a file that is gone or can't be read.
        """
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
    """Make the thumbnail of a file; empty bytes if it can't be read.

    Examples
    --------
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> with Image.open(io.BytesIO(small(Path("data/chelsea.jpg")))) as picture:
    ...     max(picture.size), picture.format
    (160, 'JPEG')
    """
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
SHARED: Final = Thumbnails()
