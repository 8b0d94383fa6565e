"""Replace a file so that a reader, or a crash, sees the old one or the new one and nothing between."""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


TEMPORARY = ".partial"


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, then put it in its place, durably.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "note.txt"
    >>> replace(path, lambda temporary: temporary.write_text("kept"))
    >>> path.read_text()
    'kept'
    """
    # Its own for each thread: two calls may be saving the same picture at once.
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}{TEMPORARY}")
    try:
        write(temporary)
        fsync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def fsync_file(path: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Wait until renames and new names in a folder are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomically(path: Path, content: bytes) -> None:
    """Write bytes so that the path holds either all of them or what it held before.

    Parameters
    ----------
    path : pathlib.Path
        Where; its folder must exist.
    content : bytes
        What.

    Raises
    ------
    OSError
        If the folder can't be written to; nothing is left behind.

    Examples
    --------
    >>> from pathlib import Path
    >>> write_atomically(Path("/nowhere/a"), b"")
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary path beside `path`, whose file takes its place when all went well.

    Parameters
    ----------
    path : pathlib.Path
        What is to be replaced; its folder must exist.

    Yields
    ------
    pathlib.Path
        A temporary path with the same suffix, for the caller to write to.

    Raises
    ------
    OSError
        If the folder can't be written to.

    Examples
    --------
    >>> from pathlib import Path
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("a")
    >>> [file.name for file in path.parent.iterdir()]
    ['a.txt']
    """
    temporary = path.with_name(f".{path.stem[:40]}-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
