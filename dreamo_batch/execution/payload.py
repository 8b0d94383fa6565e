"""Requests, built in the worker just before they are sent and dropped after.

The bytes of a reference picture are hashed when they are read; if they are not the bytes the job was planned
with, nothing is sent. The base64 text of a picture that many rows share is made once and kept in a bounded
cache.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dreamo_batch.service.wire import Request
from dreamo_batch.table import links

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.table.images import ImageSource
    from dreamo_batch.table.jobs import Job

_CACHE_BYTES_MAX: Final = 64 * 1024 * 1024


class ImageChanged(ValueError):  # noqa: N818 - it names what happened to the file
    """The reference picture is not the one the job was planned with."""


class ImageGone(OSError):  # noqa: N818 - it names what happened to the file
    """The reference picture can't be read any more, or its link has expired."""


class Payloads:
    """Builds the request of a job; safe to share between threads.

    Examples
    --------
    >>> Payloads().n_cached_bytes
    0
    """

    def __init__(self, max_bytes: int = _CACHE_BYTES_MAX, wall: Callable[[], float] = time.time) -> None:
        self.n_cached_bytes = 0
        self._wall = wall
        self._max_bytes = max_bytes
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def request(self, job: Job) -> Request:
        """Build the request of a job.

        Raises
        ------
        ImageChanged
            If the file's bytes are not those of the plan.
        ImageGone
            If the file can't be read, or the link has expired.
        """
        is_url = job.image.kind == "url"
        if is_url:
            self._refuse_expired(job.image.sent_location)
        return Request(
            prompt=job.prompt,
            seed=job.seed,
            width=job.width,
            height=job.height,
            use_rephraser=job.use_rephraser,
            image_url=job.image.sent_location if is_url else None,
            image_base64=None if is_url else self._base64(job.image),
        )

    def _refuse_expired(self, url: str) -> None:
        expires_at = links.expires_at(url)
        if expires_at is not None and expires_at <= self._wall():
            raise ImageGone(
                "the link to the reference picture has expired; nothing was sent. Run again with a new link "
                "and retry_failed=True; the row stays the same job."
            )

    def _base64(self, image: ImageSource) -> bytes:
        with self._lock:
            known = self._cache.get(image.sent_digest)
            if known is not None:
                self._cache.move_to_end(image.sent_digest)
                return known
        fresh = base64.b64encode(_read(image))
        self._keep(image.sent_digest, fresh)
        return fresh

    def _keep(self, digest: str, content: bytes) -> None:
        with self._lock:
            if digest in self._cache:
                return
            self._cache[digest] = content
            self.n_cached_bytes += len(content)
            while self.n_cached_bytes > self._max_bytes:
                _, dropped = self._cache.popitem(last=False)
                self.n_cached_bytes -= len(dropped)


def _read(image: ImageSource) -> bytes:
    try:
        content = Path(image.sent_location).read_bytes()
    except OSError as error:
        raise ImageGone(
            f"the reference picture {image.sent_location} can't be read any more ({error.strerror}); put it back "
            "and retry the row"
        ) from error
    if hashlib.sha256(content).hexdigest() != image.sent_digest:
        raise ImageChanged(
            f"the reference picture {image.sent_location} changed after the table was checked; nothing was sent. "
            "Run again to order the row with the new picture."
        )
    return content
