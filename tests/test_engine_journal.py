"""The journal: what was acknowledged survives every cut, and nothing altered passes."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import threading
import zlib
from contextlib import closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch.engine import journal
from dreamo_batch.engine.attempts import Event, EventKind
from dreamo_batch.engine.directory import identity_of_file
from dreamo_batch.engine.journal import Header, Journal, path_of, read
from dreamo_batch.errors import LedgerDamaged
from tests.fakes import event, job_ids, order_fields, times

if TYPE_CHECKING:
    from pathlib import Path

HEADER = Header(schema=1, number=1, generation=1, entropy="00ff", service="loopback")
EVENTS = (
    event(EventKind.SENDING, at=1.5, seed_sent=2**63 - 1, reserved="0.0300"),
    event(EventKind.ACCEPTED, at=2.25, task_id="cqexample"),
    event(
        EventKind.COMPLETED, at=1_700_000_000.123456, cost="0.0286", output_url="https://h/蓝.png?a=1\u2028"
    ),
    event(EventKind.SAVED, at=4.0, output_bytes=12, output_path="images/a.png"),
)
FIELDS = ("task_id", "error_message", "cost", "seed_sent", "may_have_been_billed", "waited_s")
events = st.builds(
    Event,
    st.sampled_from(EventKind),
    job_ids,
    st.integers(1, 5),
    times,
    st.fixed_dictionaries({}, optional={name: order_fields()[name] for name in FIELDS}),
)


def write(folder: Path, written=EVENTS) -> bytes:
    """Write events and give the file's bytes."""
    path_of(folder, 1).unlink(missing_ok=True)
    with closing(Journal(folder, HEADER)) as opened:
        opened.append(written)
        opened.commit()
    return path_of(folder, 1).read_bytes()


def events_in(contents: journal.Contents) -> tuple[Event, ...]:
    """Read the events one by one."""
    return tuple(journal.event_of(line) for text in contents.texts for line in io.BytesIO(text))


def read_back(folder: Path, content: bytes) -> journal.Contents:
    path = folder / "copy"
    path.write_bytes(content)
    return read(path)


class Disk:
    """Stands in for a journal's file and fails as told, after taking a part of what it is given."""

    def __init__(self, file, failures, n_taken=7):
        self._file = file
        self.failures = failures
        self.n_taken = n_taken

    def __getattr__(self, name):
        if self.failures.get(name, 0) > 0 and name != "write":
            self.failures[name] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return getattr(self._file, name)

    def write(self, data):
        if self.failures.get("write", 0) > 0:
            self.failures["write"] -= 1
            self._file.write(bytes(data)[: self.n_taken])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(bytes(data)[:11])  # a disk may take less than it is given


def test_what_was_written_is_read_back(tmp_path):
    """Header, events, exact numbers and every kind of text come back as they were."""
    write(tmp_path)
    contents = read(path_of(tmp_path, 1))
    header = replace(HEADER, file=identity_of_file(path_of(tmp_path, 1)))
    assert (contents.header, events_in(contents), contents.n_torn_bytes) == (header, EVENTS, 0)


@given(st.lists(events, max_size=8))
def test_any_events_come_back(tmp_path_factory, written):
    """Whatever an event holds, reading gives the same event, and each line is plain JSON."""
    folder = tmp_path_factory.getbasetemp()
    content = write(folder, written)
    assert events_in(read_back(folder, content)) == tuple(written)
    assert content.count(b"\n") == len(written) + 1
    assert all(json.loads(line)["crc"] for line in content.splitlines())


def test_cut_anywhere_it_replays_a_prefix_of_whole_lines(tmp_path):
    """Every possible cut gives the events before it, and counts what was torn."""
    content = write(tmp_path)
    for at in range(len(content) + 1):
        whole, _, torn = content[:at].rpartition(b"\n")
        n_lines = whole.count(b"\n") + 1 if whole else 0
        contents = read_back(tmp_path, content[:at])
        assert events_in(contents) == EVENTS[: max(n_lines - 1, 0)]
        assert (contents.header is None) == (n_lines == 0)
        assert contents.n_torn_bytes == len(torn)


@given(st.lists(events, max_size=6), st.data())
def test_any_journal_cut_anywhere_replays_a_prefix(tmp_path_factory, written, data):
    """The same for any events and any cut."""
    folder = tmp_path_factory.getbasetemp()
    content = write(folder, written)
    cut = content[: data.draw(st.integers(0, len(content)))]
    assert events_in(read_back(folder, cut)) == tuple(written[: max(cut.count(b"\n") - 1, 0)])


def test_any_altered_byte_is_noticed(tmp_path):
    """A bit flipped anywhere but in the last line's end is damage, wherever it is."""
    content = write(tmp_path)
    for at in range(len(content) - 1):
        for bit in (1, 32, 128):
            altered = bytearray(content)
            altered[at] ^= bit
            with pytest.raises(LedgerDamaged, match=r"copy, line \d+: wrong checksum"):
                read_back(tmp_path, bytes(altered))


@given(st.data())
def test_any_byte_of_any_value_is_noticed(tmp_path_factory, data):
    """The same for any journal and any new value, line ends among them."""
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(write(folder, data.draw(st.lists(events, min_size=1, max_size=4))))
    at = data.draw(st.integers(0, len(content) - 2))
    content[at] = data.draw(st.integers(0, 255).filter(lambda value: value != content[at]))
    with pytest.raises(LedgerDamaged):
        read_back(folder, bytes(content))


def test_a_line_lost_repeated_or_moved_is_noticed(tmp_path):
    """Each line is chained to the one before, so no line can go, come twice or change places."""
    lines = write(tmp_path).splitlines(keepends=True)
    for i in range(len(lines)):
        removed = lines[:i] + lines[i + 1 :]
        repeated = lines[: i + 1] + lines[i:]
        if i < len(lines) - 1:  # without its last line a journal is the journal of a moment before
            with pytest.raises(LedgerDamaged):
                read_back(tmp_path, b"".join(removed))
        with pytest.raises(LedgerDamaged):
            read_back(tmp_path, b"".join(repeated))
        for j in range(i):
            swapped = lines.copy()
            swapped[i], swapped[j] = swapped[j], swapped[i]
            with pytest.raises(LedgerDamaged):
                read_back(tmp_path, b"".join(swapped))


def test_an_empty_file_holds_nothing(tmp_path):
    """A program killed while it made the file had recorded nothing in it."""
    contents = read_back(tmp_path, b"")
    assert (contents.header, events_in(contents), contents.n_torn_bytes) == (None, (), 0)


def chained(*records: dict) -> bytes:
    """Lines with fitting checksums, whatever they say."""
    crc, lines = 0, []
    for record in records:
        body = json.dumps(record, separators=(",", ":")).encode()
        crc = zlib.crc32(body, crc)
        lines.append(b'{"crc":"%08x",%b\n' % (crc, body[1:]))
    return b"".join(lines)


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([{"kind": "sending"}], "not a journal header"),
        ([{"journal": {"schema": 1}}], "not a journal header"),
        ([{"journal": 5}], "not a journal header"),
        (["header", {"kind": "sending", "job": "a", "attempt": 1}], "not an event of this version"),
        (["header", {"kind": "exploded", "job": "a", "attempt": 1, "at": 1}], "not an event of this version"),
    ],
)
def test_lines_of_another_format_are_refused(tmp_path, records, text):
    """A journal that is whole but says what this version does not know is refused, not guessed at."""
    header = {"journal": asdict(HEADER)}
    with pytest.raises(LedgerDamaged, match=text):
        events_in(
            read_back(tmp_path, chained(*(header if record == "header" else record for record in records)))
        )


@pytest.mark.parametrize("failures", [{"write": 1}, {"write": 3}, {"fileno": 1}, {"write": 1, "truncate": 1}])
def test_a_commit_that_fails_leaves_a_whole_file_and_is_made_up_for(tmp_path, failures):
    """Whatever the disk refuses, the next commit that it takes writes the same lines once."""
    opened = Journal(tmp_path, HEADER)
    opened.append(EVENTS[:1])
    opened.commit()
    before = path_of(tmp_path, 1).read_bytes()
    n_failures = sum(failures.values())
    opened._file = Disk(opened._file, failures)
    opened.append(EVENTS[1:3])
    while any(failures.values()):
        with pytest.raises(OSError, match=r"space|Input/output"):
            opened.commit()
    assert n_failures
    if failures.keys() != {"write", "truncate"}:  # then it can't even be cut back, until the disk is back
        assert path_of(tmp_path, 1).read_bytes() == before
    opened.append(EVENTS[3:])
    opened.commit()
    opened.close()
    contents = read(path_of(tmp_path, 1))
    assert (events_in(contents), contents.n_torn_bytes) == (EVENTS, 0)


FULL_DISK = """
import pathlib, resource, signal, sys
from dreamo_batch.engine.directory import identity_of_file
from dreamo_batch.engine.journal import Header, Journal
from dreamo_batch.engine.attempts import Event, EventKind

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[1])
journal = Journal(folder, Header(1, 1, 1, "00", "loopback"))
journal.append([Event(EventKind.SENDING, "a" * 100, 1, 1.0, {})])
journal.commit()
size = (folder / "journal-000001.jsonl").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, resource.RLIM_INFINITY))
journal.append([Event(EventKind.ACCEPTED, "a" * 100, 1, 2.0, {"task_id": "t"})])
for _ in range(2):
    try:
        journal.commit()
    except OSError as error:
        print(error.strerror, (folder / "journal-000001.jsonl").stat().st_size - size)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append([Event(EventKind.COMPLETED, "a" * 100, 1, 3.0, {})])
journal.commit()
journal.close()
"""


def test_a_full_disk_loses_nothing_once_there_is_room(tmp_path):
    """A real write that stops half way is cut back, and made up for when the disk takes it."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["File too large 0"] * 2
    contents = read(path_of(tmp_path, 1))
    assert [one.kind for one in events_in(contents)] == [
        EventKind.SENDING,
        EventKind.ACCEPTED,
        EventKind.COMPLETED,
    ]
    assert contents.n_torn_bytes == 0


def test_a_journal_that_can_not_be_made_leaves_nothing_behind(tmp_path, monkeypatch):
    """If the disk does not even take the header, the file is closed and gone, so the next try can make it."""

    def refuse(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="space"):
            Journal(tmp_path, HEADER)
    assert journal.numbers(tmp_path) == []
    write(tmp_path)
    assert events_in(read(path_of(tmp_path, 1))) == EVENTS


def test_an_existing_journal_is_never_opened_again(tmp_path):
    """Every opening starts a new file; an old one stays as it was."""
    before = write(tmp_path)
    with pytest.raises(FileExistsError):
        Journal(tmp_path, HEADER)
    assert path_of(tmp_path, 1).read_bytes() == before


def test_a_journal_deleted_under_the_run_is_noticed(tmp_path):
    """Writing into a file that nobody can find any more acknowledges nothing."""
    with closing(Journal(tmp_path, HEADER)) as opened:
        path_of(tmp_path, 1).unlink()
        opened.append(EVENTS[:1])
        for _ in range(2):
            with pytest.raises(FileNotFoundError, match="deleted during the run"):
                opened.commit()


def test_a_journal_moved_with_its_directory_goes_on(tmp_path):
    """Moving the run directory while it runs loses nothing that is committed."""
    folder = tmp_path / "before"
    folder.mkdir()
    with closing(Journal(folder, HEADER)) as opened:
        folder.rename(tmp_path / "after")
        opened.append(EVENTS)
        opened.commit()
    assert events_in(read(path_of(tmp_path / "after", 1))) == EVENTS


def test_one_fsync_serves_every_event_waiting(tmp_path, monkeypatch):
    """A commit of a hundred events waits for the disk once, and one of none not at all."""
    calls = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(fd) or real(fd))
    with closing(Journal(tmp_path, HEADER)) as opened:
        calls.clear()
        opened.append(EVENTS[:1] * 100)
        opened.commit()
        assert len(calls) == 1
        opened.commit()
    assert len(calls) == 1


def test_what_was_not_committed_is_not_there(tmp_path):
    """Closing is no commit: what was never acknowledged leaves no trace."""
    with closing(Journal(tmp_path, HEADER)) as opened:
        opened.append(EVENTS)
    assert events_in(read(path_of(tmp_path, 1))) == ()


def test_an_event_that_json_can_not_hold_leaves_the_chain_whole(tmp_path):
    """A number that is none is refused before anything of it is in the file."""
    with closing(Journal(tmp_path, HEADER)) as opened:
        with pytest.raises(ValueError, match="JSON"):
            opened.append([event(EventKind.SENDING, waited_s=float("nan"))])
        opened.append(EVENTS)
        opened.commit()
    assert events_in(read(path_of(tmp_path, 1))) == EVENTS


def test_only_journals_are_counted(tmp_path):
    """Other files of the folder are no journals, and numbers are read as numbers."""
    for name in ("journal-000010.jsonl", "journal-1000001.jsonl", "journal-000002.jsonl"):
        (tmp_path / name).touch()
    for name in ("journal-2.jsonl", "journal-000003.jsonl.bak", "a-journal-000004.jsonl", "run.json"):
        (tmp_path / name).touch()
    assert journal.numbers(tmp_path) == [2, 10, 1_000_001]


def test_a_reader_beside_the_writer_sees_a_prefix(tmp_path):
    """Reading while it is written gives whole events, in order, never damage."""
    seen = []
    is_done = threading.Event()

    def look():
        while not is_done.is_set():
            seen.append(events_in(read(path_of(tmp_path, 1))))

    with closing(Journal(tmp_path, HEADER)) as opened:
        thread = threading.Thread(target=look)
        thread.start()
        for at in range(200):
            opened.append([event(EventKind.SENDING, "a" * 32, 1, float(at))])
            opened.commit()
        is_done.set()
        thread.join()
    assert seen
    assert all([one.at for one in some] == [float(at) for at in range(len(some))] for some in seen)
