"""Pictures that a run saved: their names, the check of their bytes, and whether they are still there."""

from __future__ import annotations

import filecmp
import hashlib
import io
import json
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dreamo_batch import columns, files
from dreamo_batch.engine import picture_cache
from dreamo_batch.engine.attempts import WITHOUT_PICTURE
from dreamo_batch.engine.directory import GATEWAY, UNREADABLE, RunDirectory
from dreamo_batch.engine.replica import url_of
from dreamo_batch.errors import logger_named
from dreamo_batch.images import is_jpeg, opened, reduced
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL import Image

    from dreamo_batch.engine.attempts import Attempt, State


logger = logger_named(__name__)

PICTURE_BYTES_MAX: Final = 32 * 1024 * 1024  # twice a raw 2048 x 2048 picture with 8 bits per channel
PICTURE_PIXELS_MAX: Final = 64 * 1024 * 1024
_SUFFIXES: Final = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_EXCERPT_BYTES: Final = 60
_PICTURE: Final = re.compile(r"([0-9a-f]{32})(-(attempt-)?\d+)?\.\w+")  # as named by `picture_name`


class NotAPicture(ValueError):  # noqa: N818 - it names what arrived
    """A download that is not a picture of a known format."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A picture on disk (path in the run directory, digest, bytes, pixels), and a `warning` if something is odd."""

    path: str
    sha256: str
    n_bytes: int
    width_px: int
    height_px: int
    warning: str | None = None


def picture_name(attempts: Sequence[Attempt], number: int) -> str:
    """Name a picture by its job, or by job and number if a later attempt has or may still get the job's name."""
    job_id = attempts[0].job_id
    last = max(attempt.attempt for attempt in attempts if attempt.stage not in WITHOUT_PICTURE)
    others = {Path(one.output_path).stem for one in attempts if one.output_path and one.attempt != number}
    return job_id if last == number and job_id not in others else f"{job_id}-attempt-{number}"


def save(content: bytes, name: str, run_dir: Path, folder: str = "images") -> Saved:
    """Check a picture, put it in the run directory, and keep its summary."""
    small: list[Image.Image] = []
    suffix, width_px, height_px = inspect_picture(content, use=lambda picture: _reduce(picture, small))
    path = run_dir / folder / f"{name}.{suffix}"
    path.parent.mkdir(exist_ok=True)
    files.replace(path, lambda temporary: temporary.write_bytes(content))
    digest = hashlib.sha256(content).hexdigest()
    _cache_summary(run_dir, path, digest, content, small)
    return Saved(path.relative_to(run_dir).as_posix(), digest, len(content), width_px, height_px)


def share_with_gateway(run_dir: Path, path: str, url: str) -> None:
    """Replace the local gateway's copy of a saved picture by a hard link, if its state is in the directory."""
    saved, copy = run_dir / path, run_dir / GATEWAY / "pictures" / PurePosixPath(urlsplit(url).path).name
    link = copy.with_name(f".link-{threading.get_native_id()}")
    try:
        if copy.is_file() and not copy.samefile(saved) and filecmp.cmp(copy, saved, shallow=False):
            link.hardlink_to(saved)
            link.replace(copy)
    except (OSError, ValueError) as error:  # another disk, or one without hard links
        link.unlink(missing_ok=True)
        logger.info("the gateway keeps a copy of %s: %s", path, error)


def _reduce(picture: Image.Image, small: list[Image.Image]) -> None:
    """Reduce a decoded picture; a JPEG is decoded again at reduced size, as when no summary was stored."""
    try:
        small.extend([] if is_jpeg(picture) else [reduced(picture, picture_cache.THUMBNAIL_PX)])
    except Exception as error:  # noqa: BLE001 - the picture is intact, and is saved without a summary
        logger.info("a picture can't be reduced: %s", error)


def _cache_summary(run_dir: Path, path: Path, sha256: str, content: bytes, small: list[Image.Image]) -> None:
    try:
        summary = picture_cache.summarise_picture(content, *small)
        picture_cache.keep(run_dir, sha256, summary._replace(modified_ns=path.stat().st_mtime_ns))
    except Exception as error:  # noqa: BLE001 - the picture is saved, and its summary can be made later
        logger.info("the summary of picture %s isn't kept: %s", sha256, error)


def inspect_picture(
    content: bytes, *, use: Callable[[Image.Image], object] | None = None
) -> tuple[str, int, int]:
    """Decode a picture completely, pass it to `use`, and return its suffix, width and height in px."""
    formats = contract.OUTPUT_FORMATS.value
    try:
        with opened(io.BytesIO(content), formats=formats, pixels_max=PICTURE_PIXELS_MAX) as picture:
            picture.load()
            if use is not None:
                use(picture)
            return _SUFFIXES[str(picture.format)], picture.width, picture.height
    except Exception:  # noqa: BLE001 - decoders raise all kinds of exceptions for bad bytes
        got = f"{len(content)} bytes starting {content[:_EXCERPT_BYTES]!r}"
        raise NotAPicture(f"expected a whole JPEG, PNG or WEBP file, got {got}") from None


def is_in_place(run_dir: Path, path: str | None, n_bytes: int | None) -> bool:
    """Whether a saved picture still exists with its size; its bytes aren't read."""
    if path is None:
        return False
    try:
        is_here = os.stat(os.path.join(run_dir, path)).st_size == n_bytes  # noqa: PTH116, PTH118 - a million of them
    except FileNotFoundError:
        is_here = False
    except OSError:
        return False
    # In a store, pictures count as saved once they are there, and are fetched when needed.
    return is_here or url_of(run_dir) is not None


def further_paths(run_dir: Path, path: str, urls: object) -> list[str | None]:
    """Return the paths of a task's further pictures; None for each that is missing."""
    n = len(json.loads(urls)) if isinstance(urls, str) else 1
    stem, suffixes = path.rpartition(".")[0], dict.fromkeys(_SUFFIXES.values())
    found: list[str | None] = []
    for number in range(2, n + 1):
        paths = (f"{stem}-{number}.{suffix}" for suffix in suffixes)
        found.append(next((further for further in paths if (run_dir / further).is_file()), None))
    return found


def is_unaltered(run_dir: Path, path: str, sha256: str) -> bool:
    """Whether a saved picture still has the bytes it was saved with."""
    try:
        with (run_dir / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def unknown_purchases(directory: RunDirectory, state: State) -> Iterator[str]:
    """Yield the names of files that show purchases the ledger doesn't have."""
    for path in sorted(directory.images.iterdir()) if directory.images.is_dir() else ():
        is_ours = _PICTURE.fullmatch(path.name)  # all others are the user's
        if is_ours and path.stem.partition("-")[0] not in state:
            yield f"images/{path.name}"
    for job_id in state.stored.without_attempts(_bought(directory.results)).to_pylist():
        if job_id not in state:
            yield f"results.parquet (job {job_id})"


def _bought(results: Path) -> pa.Array:
    """Return the ids of the jobs that the results show as submitted; none if they can't be read."""
    try:
        table = pq.read_table(results, columns=[columns.JOB_ID, columns.TASK_ID])
        is_bought = pc.and_(pc.is_valid(table[columns.TASK_ID]), pc.is_valid(table[columns.JOB_ID]))
        return pc.unique(table[columns.JOB_ID].filter(is_bought))
    except UNREADABLE:
        return pa.array([], pa.string())
