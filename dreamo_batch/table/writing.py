"""Write a file whole or not at all.

Examples
--------
>>> from pathlib import Path
>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "a.txt"
>>> write_atomically(path, b"all of it")
>>> path.read_bytes()
b'all of it'
"""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
