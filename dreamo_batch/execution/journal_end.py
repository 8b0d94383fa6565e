"""How far the newest journal had come: a note beside it, so that lines lost at its end are noticed.

Each journal is chained to the one before, which shows where an earlier one ended; nothing but this shows it for the
last one. The note is written after the journal is on the disk, and never waited for: a power failure may leave it
behind the journal, but never ahead of it. Where it is behind, or missing, less is noticed, and nothing else.
"""

from __future__ import annotations

import os
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = "journal.end"
_NOTE: Final = re.compile(rb"(\d{12} \d{16}) ([0-9a-f]{8})\n")


@dataclass(frozen=True, slots=True)
class End:
    """The number of a journal, and how many bytes of it were on the disk at least."""

    number: int
    n_bytes: int


class EndNote:
    """Keeps the note of an open journal; where the disk refuses it, the one before stays.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> note = EndNote(folder, 3)
    >>> note.write(120)
    >>> note.close()
    >>> read(folder)
    End(number=3, n_bytes=120)
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._number = number
        self._fd: int | None = None
        with suppress(OSError):
            self._fd = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT, 0o644)

    def write(self, n_bytes: int) -> None:
        """Say that so much of the journal is on the disk; the note has one length, and is replaced at once."""
        text = b"%012d %016d" % (self._number, n_bytes)
        if self._fd is not None:
            with suppress(OSError):
                os.pwrite(self._fd, b"%b %08x\n" % (text, zlib.crc32(text)), 0)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def read(folder: Path) -> End | None:
    """Read the note; None where there is none that can be trusted.

    Examples
    --------
    >>> from pathlib import Path
    >>> read(Path("runs/none")) is None
    True
    """
    try:
        match = _NOTE.fullmatch((folder / NAME).read_bytes())
    except OSError:
        return None
    if match is None or int(match[2], 16) != zlib.crc32(match[1]):
        return None
    number, n_bytes = match[1].split()
    return End(int(number), int(n_bytes))
