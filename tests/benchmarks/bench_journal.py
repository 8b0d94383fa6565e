"""Cost of an event in the journal, and whether it grows with the journal."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from report import Figure, show, timed

from dreamo_batch.engine.attempts import Event, EventKind
from dreamo_batch.engine.journal import Header, Journal, path_of, read

if TYPE_CHECKING:
    from collections.abc import Iterator

_GROUP = 50


def main() -> None:
    """Measure 10k and 1M events, fifty to a commit."""
    small = _write(10_000)
    large = _write(1_000_000)
    show(Figure("journal, ms an event (10k events, 50 a commit)", f"{small:.4f}", None, "<= 0.02 ms"))
    show(
        Figure(
            "journal, ms an event (1M events, 50 a commit)", f"{large:.4f}", large / small, "linear: about 1"
        )
    )


def _write(n: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        header = Header(1, 1, 1, "00", "loopback")
        with closing(Journal(Path(folder), header)) as journal, timed() as timer:
            for group in _groups(n):
                journal.append(group)
                journal.commit()
        if n <= 10_000:
            assert sum(bytes(text).count(b"\n") for text in read(path_of(Path(folder), 1)).texts) == n
    return timer.seconds * 1000 / n


def _groups(n: int) -> Iterator[list[Event]]:
    for start in range(0, n, _GROUP):
        yield [
            Event(EventKind.ACCEPTED, f"{i:032x}", 1, 1_790_000_000.0 + i, {"task_id": f"d{i:019d}"})
            for i in range(start, start + _GROUP)
        ]
