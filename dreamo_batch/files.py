"""Replace a file so that readers and crashes see either the old or the new one; read the package's own TOML."""

from __future__ import annotations

import errno
import os
import threading
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


_STEM_MAX = 40
_publishers: dict[Path, Callable[[Path], object]] = {}


def publish(folder: Path, put: Callable[[Path], object] | None) -> None:
    """Call `put` with each file replaced in a folder or its subfolders from now on; None ends that."""
    if put is None:
        _publishers.pop(folder, None)
    else:
        _publishers[folder] = put


def replace(
    path: Path, write: Callable[[Path], object], *, previous: Path | None = None, is_durable: bool = True
) -> None:
    """Let `write` fill a temporary file beside `path`, rename it to `path`, and what was there to `previous`."""
    # Unique per thread, as two calls may save the same picture; writers read the format from the suffix.
    stem = path.stem[:_STEM_MAX]
    temporary = path.with_name(f".partial-{threading.get_native_id()}-{stem}{path.suffix}")
    try:
        write(temporary)
        if is_durable:
            fsync_file(temporary)
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    except OSError as error:
        # Nobody else knows the temporary file.
        error.filename = str(path if previous is None or not previous.is_dir() else previous)
        del error.filename2
        raise
    finally:
        with suppress(OSError):  # read-only, which the error says already
            temporary.unlink(missing_ok=True)
    if is_durable:
        fsync_folder(path.parent)
    for folder, put in tuple(_publishers.items()):
        if path.is_relative_to(folder):
            put(path)


def fsync_file(path: Path) -> None:
    """Wait until a file's content is on disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Wait until renames and new names in a folder are on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network drives and shared folders of virtual machines don't support it.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def toml_beside(module: str, name: str) -> dict[str, Any]:
    """Read a TOML file that lies beside a module, which is given by its ``__file__``."""
    return tomllib.loads(Path(module).with_name(name).read_text(encoding="utf-8"))
