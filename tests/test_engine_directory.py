"""The run directory: one writer, any number of readers, and a manifest that is whole or not there."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dreamo_batch import files
from dreamo_batch.engine import directory
from dreamo_batch.engine.directory import SCHEMA_VERSION, Manifest, RunDirectory
from dreamo_batch.errors import DirectoryError, DirectoryLocked, LedgerDamaged

HOLDER = """
import sys
from dreamo_batch.engine.directory import RunDirectory
directory = RunDirectory(sys.argv[1])
directory.lock()
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that is writing to the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused_by_name(tmp_path, holder):
    """The message names the process that holds the lock, also after others have asked."""
    mine = RunDirectory(tmp_path)
    for _ in range(2):
        assert mine.is_locked()
        with pytest.raises(DirectoryLocked, match=f"Process {holder.pid} on .* is writing to "):
            mine.lock()


def test_a_pipe_in_place_of_the_lock_is_not_waited_for(tmp_path):
    """It locks like a file, but nothing is read from it."""
    os.mkfifo(tmp_path / directory.LOCK)
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    try:
        first.lock()
    except OSError as error:  # before 4.3, filelock empties what it locks, which a pipe refuses
        assert error.errno == errno.EINVAL  # noqa: PT017 - newer ones raise nothing
        return
    with pytest.raises(DirectoryLocked, match="Another process is writing to "):
        second.lock()
    first.unlock()


def test_a_killed_writer_leaves_no_lock(tmp_path, holder):
    """The lock dies with its process; nobody has to remove a file."""
    holder.kill()
    holder.wait()
    mine = RunDirectory(tmp_path)
    assert not mine.is_locked()
    mine.lock()
    assert (tmp_path / directory.LOCK).read_text().startswith(f"Process {os.getpid()} on ")
    mine.unlock()


def test_two_writers_in_one_process_are_two(tmp_path):
    """A second object of the same process is refused too, until the first one lets go."""
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    first.lock()
    assert first.is_locked()
    assert second.is_locked()
    with pytest.raises(DirectoryLocked, match=f"Process {os.getpid()}"):
        second.lock()
    first.unlock()
    first.unlock()
    second.lock()
    second.unlock()
    assert not first.is_locked()


def test_asking_does_not_keep_a_writer_out(tmp_path):
    """A writer that comes while readers ask is patient for longer than asking takes."""
    (tmp_path / directory.LOCK).touch()
    is_done = threading.Event()

    def ask():
        while not is_done.wait(0.001):
            RunDirectory(tmp_path).is_locked()

    readers = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
    writer = RunDirectory(tmp_path)
    for _ in range(5):
        writer.lock()
        assert RunDirectory(tmp_path).is_locked()
        writer.unlock()
    is_done.set()
    for reader in readers:
        reader.join()


def test_a_lock_that_is_gone_is_noticed(tmp_path):
    """Another writer could take the place, so the one that has lost its lock must know."""
    run_dir = RunDirectory(tmp_path)
    run_dir.refuse_loss()
    run_dir.lock()
    run_dir.refuse_loss()
    assert not run_dir.is_lost()
    (tmp_path / directory.LOCK).unlink()
    assert run_dir.is_lost()
    with pytest.raises(FileNotFoundError, match="moved or deleted"):
        run_dir.refuse_loss()
    (tmp_path / directory.LOCK).touch()
    assert run_dir.is_lost()
    run_dir.unlock()


def test_a_lock_that_can_not_say_whose_it_is_is_given_up(tmp_path, monkeypatch):
    """If the disk takes no name, nobody is left locked out."""

    def refuse(*_args):
        raise OSError("no")

    run_dir = RunDirectory(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "_find_lock", refuse)
        with pytest.raises(OSError, match="no"):
            run_dir.lock()
    assert not RunDirectory(tmp_path).is_locked()


def test_nobody_writes_where_nobody_was(tmp_path):
    """A directory without a lock file is not locked, and asking makes none."""
    assert not RunDirectory(tmp_path).is_locked()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_may_not_be_tried_is_taken_as_free(tmp_path):
    """In a folder one may only read, asking is no error."""
    (tmp_path / directory.LOCK).mkdir()
    assert not RunDirectory(tmp_path).is_locked()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EEXIST, "Move .*images away"),
        (errno.ENOENT, "Put the"),
        (errno.ENOSPC, "Free"),
        (errno.EACCES, "fix"),
    ],
)
def test_the_folder_of_pictures_is_moved_away_only_if_it_is_none(tmp_path, number, advice):
    """A full disk, a lost permission or a lost directory says nothing against the pictures in it."""
    run_dir = RunDirectory(tmp_path)
    assert re.search(advice, run_dir.remedy(OSError(number, os.strerror(number), str(run_dir.images))))


def test_a_lock_without_a_name_is_still_a_lock(tmp_path, holder):
    """If the name in the lock file is gone, the writer is refused all the same."""
    (tmp_path / directory.LOCK).write_text("")
    with pytest.raises(DirectoryLocked, match="Another process is writing to"):
        RunDirectory(tmp_path).lock()
    assert holder.poll() is None


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_is_no_run_directory(tmp_path, path):
    """A path that can't be a folder is refused in words."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DirectoryError, match="is not a folder"):
        RunDirectory(tmp_path / path).lock()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_that_tables_can_not_be_opened_at_is_refused_in_words(tmp_path):
    """Parquet takes UTF-8 only, whatever else a file system allows."""
    for path in (tmp_path / "caf\udce9", tmp_path / "caf\udce9" / "run"):
        with pytest.raises(DirectoryError, match=r"caf\\udce9.* isn't UTF-8, which a run's tables need"):
            RunDirectory(path)


def test_a_closed_folder_is_refused_when_it_is_made(tmp_path, monkeypatch):
    """Looking for what it must not be raises nothing before that."""

    def stat(path, *, look=Path.stat, **options):
        if "closed" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    RunDirectory(tmp_path / "closed" / "run").refuse_foreign_folder()


def test_a_file_that_can_not_be_replaced_is_named(tmp_path):
    """By its own name, not by that of the temporary file."""
    with pytest.raises(OSError, match="Is a directory") as caught:
        files.replace(tmp_path, Path.touch)
    assert str(caught.value).endswith(f": '{tmp_path}'")


def test_a_folder_in_place_of_the_previous_file_is_named_not_the_good_file(tmp_path):
    """Whoever moves away what the error names loses nothing."""
    (tmp_path / "file").write_text("good")
    (tmp_path / "previous").mkdir()
    with pytest.raises(OSError, match=r"previous'$"):
        files.replace(tmp_path / "file", Path.touch, previous=tmp_path / "previous")
    assert (tmp_path / "file").read_text() == "good"


def test_manifest_comes_back(tmp_path):
    """Everything written is read, and text stays readable for people."""
    run_dir = RunDirectory(tmp_path)
    manifest = Manifest(
        "host:443",
        "00ff",
        generation=3,
        table_id="t",
        settings={"note": "蓝"},
        reconciliation={"rows_in": 3},
    )
    run_dir.write_manifest(manifest)
    assert run_dir.read_manifest() == manifest
    assert "蓝" in (tmp_path / "run.json").read_text(encoding="utf-8")
    changed = run_dir.update_manifest(table_id=None)
    assert run_dir.read_manifest() == changed
    assert (changed.table_id, changed.generation) == (None, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b'"text"',
        b"{}",
        b'{"schema": 1}',
        b'{"schema": "one"}',
        b'{"schema": 1e999}',
        b'{"schema": null, "service": "s", "entropy": "e"}',
        b'{"schema": 1, "service": "s", "entropy": 5}',
        b'{"schema": 1, "service": "s", "entropy": "e", "generation": "3"}',
        b'{"schema": 1, "service": "s", "entropy": "e", "settings": []}',
        b'{"schema": 1, "service": "s", "entropy": "e", "table_id": NaN}',
        b'{"schema": 1, "service": "s", "entropy": "e", "cap": "NaN"}',
        b'{"schema": 1, "service": "s", "entropy": "e", "cap": "0,12"}',
        b'{"schema": 1, "service": "s", "entropy": "e", "cap": "inf"}',
        b"\xff\xfe",
    ],
)
def test_a_manifest_that_can_not_be_read_is_none(tmp_path, content):
    """A cut or foreign `run.json` counts as missing; changing it is refused."""
    (tmp_path / "run.json").write_bytes(content)
    assert RunDirectory(tmp_path).read_manifest() is None
    with pytest.raises(LedgerDamaged, match="Run again on this directory to rebuild it"):
        RunDirectory(tmp_path).update_manifest(table_id="t")


def test_unknown_fields_of_the_same_format_are_left_out(tmp_path):
    """A field that this version does not know does not make the manifest unreadable."""
    fields = {"schema": SCHEMA_VERSION, "service": "loopback", "entropy": "00", "colour": "blue"}
    (tmp_path / "run.json").write_text(json.dumps(fields))
    assert RunDirectory(tmp_path).read_manifest() == Manifest("loopback", "00")


def test_a_newer_format_is_refused(tmp_path):
    """A directory written by a newer version is not touched."""
    (tmp_path / "run.json").write_text('{"schema": 99}')
    with pytest.raises(
        DirectoryError, match=rf"newer version .* \(format 99; this version reads up to {SCHEMA_VERSION}\)"
    ):
        RunDirectory(tmp_path).read_manifest()


def test_a_manifest_that_can_not_be_written_leaves_the_old_one(tmp_path):
    """What JSON can't hold changes nothing and leaves nothing behind."""
    run_dir = RunDirectory(tmp_path)
    run_dir.write_manifest(Manifest("loopback", "00"))
    with pytest.raises(TypeError):
        run_dir.update_manifest(settings={"a": object()})
    assert run_dir.read_manifest() == Manifest("loopback", "00")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_what_makes_a_run_directory(tmp_path):
    """Any of its files makes a folder a run directory; pictures and results are traces of purchases."""
    run_dir = RunDirectory(tmp_path / "runs")
    assert (run_dir.exists(), run_dir.has_purchases()) == (False, False)
    run_dir.images.mkdir(parents=True)
    assert (run_dir.exists(), run_dir.has_purchases()) == (False, False)
    (run_dir.images / "a.png").touch()
    assert (run_dir.exists(), run_dir.has_purchases()) == (True, True)
    (run_dir.images / "a.png").unlink()
    run_dir.jobs.touch()
    assert (run_dir.exists(), run_dir.has_purchases()) == (True, False)
    run_dir.results.touch()
    assert run_dir.has_purchases()


def test_paths_lie_in_the_directory(tmp_path, monkeypatch):
    """Every path is absolute and below the directory, also from a relative one."""
    monkeypatch.chdir(tmp_path)
    run_dir = RunDirectory("runs/first")
    for path in (run_dir.jobs, run_dir.results, run_dir.images, run_dir.inputs, run_dir.gateway):
        assert path.parent == tmp_path / "runs" / "first"


def test_entropy_is_drawn_anew():
    """Two new directories draw different seeds."""
    assert len({directory.new_entropy() for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("before", "now", "is_same"),
    [
        ("", "2-4.123000000", True),
        ("2-4.123000000", "2-4.123000000", True),
        ("2-5.123000000", "2-4.123000000", False),
        ("9-4.123000000", "2-4.123000000", False),
        ("2-", "2-4.123000000", True),
        ("9-", "2-4.123000000", False),
        ("copied-2-4.123000000", "2-4.123000000", False),
        ("copied-2-", "2-4.123000000", False),
        ("copied-2-", "2-", False),
        ("1-2-3-4", "2-4", False),
        ("9-4.120000000", "2-4.120000000", True),
        ("9-4.130000000", "2-4.120000000", False),
        ("copied-9-4.120000000", "2-4.120000000", False),
        ("9-4.120000000", "2-", False),
    ],
)
def test_a_file_is_the_same_if_its_number_is_or_its_file_system_numbers_files_anew(
    before, now, is_same, monkeypatch
):
    """Those that do so when they are mounted have coarse times; elsewhere, copies may have the time of their original.

    What another version wrote says nothing, so that it counts as a copy.
    """
    monkeypatch.setattr(directory, "_IS_LINUX", True)
    assert directory.is_same_file(before, now) is is_same


def test_where_copies_keep_coarse_times_the_number_counts(monkeypatch):
    """As on macOS and Windows."""
    monkeypatch.setattr(directory, "_IS_LINUX", False)
    assert not directory.is_same_file("9-4.120000000", "2-4.120000000")
