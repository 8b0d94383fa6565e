"""A disk that is full, read-only, slow or gone stops a run before anything more is bought, and loses nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import dreamo_batch as dreamo
from dreamo_batch import verbs
from dreamo_batch.engine import journal
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.engine.directory import RunDirectory
from tests.flows import IS_LONG, Flow, Slow, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Up to what six rows need for certain; with more the run may end before the disk is full.
TMPFS_KB = range(24, 108, 2) if IS_LONG else (36, 64, 96)
FILE_LIMITS = range(100, 18_000, 450) if IS_LONG else (100, 2500)
# One write serves all that waits, so that only so many are certain: the first line, and each row's "about to".
N_WRITES = range(7) if IS_LONG else (1, 4, 6)


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[Flow]:
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.15") as gateway:
        yield Flow(tmp_path, gateway, n_rows=6)


def stopped(flow: Flow, **options: Any) -> dreamo.StorageFailed:
    """Run until the disk stops it, with a table, and without a lock left behind."""
    with pytest.raises(dreamo.StorageFailed) as caught:
        flow.run(**options)
    assert caught.value.run_dir == flow.run_dir
    assert re.search("(No more jobs are|Nothing was) submitted", str(caught.value))
    return caught.value


class Disk:
    """The disk under every journal: refuses what it is told to refuse, from a certain write on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n_left: int | None = None
        self.wait_s = 0.0
        self.n_refused = 0
        real = journal.Journal._write

        def write(opened: journal.Journal, data: bytes) -> None:
            self.before_write(data)
            real(opened, data)

        monkeypatch.setattr(journal.Journal, "_write", write)

    def before_write(self, _data: bytes) -> None:
        if self.wait_s:
            threading.Event().wait(self.wait_s)
        if self.n_left is not None:
            self.n_left -= 1
            if self.n_left < 0:
                self.n_refused += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.no_cover
@pytest.mark.parametrize("n_writes", N_WRITES)
def test_a_journal_that_can_not_be_written_stops_buying_at_once(flow, disk, n_writes):
    """Whichever write fails first, nothing is submitted after it, and every id is on the disk or in the error."""
    disk.n_left = n_writes
    error = stopped(flow, max_in_flight=1 if n_writes > 2 else 8)
    n_bought = len(flow.invoice())
    in_flight = [attempt for attempt in flow.attempts() if attempt.stage is Stage.AMBIGUOUS]
    told = [line["id"] for line in flow.invoice() if line["id"] in str(error)]
    flow.assert_bought_once()
    assert len(in_flight) >= len(told)
    known = {attempt.task_id for attempt in flow.attempts()} | set(told)
    assert {line["id"] for line in flow.invoice()} <= known, "an id reached neither the disk nor the terminal"

    disk.n_left = None
    for line in flow.invoice():  # as the error says
        if line["id"] in told:
            (job,) = [attempt.job_id for attempt in in_flight if attempt.seed_sent == line["seed"]]
            dreamo.resolve(flow.run_dir, job, task_id=line["id"])
    flow.assert_finishes()
    assert n_bought <= len(flow.table)


def test_a_disk_that_is_full_when_a_create_is_answered_tells_the_id(flow, disk, caplog, monkeypatch):
    """The answer can be written nowhere: the id stands in the error, in the log, and in the results."""
    disk.n_left = 2  # the journal's first line, and "about to"
    monkeypatch.setattr("dreamo_batch.engine.checkpoint.write", _refuse)
    error = stopped(flow, max_in_flight=1)
    (line,) = flow.invoice()
    assert line["id"] in str(error)
    assert "settle it with resolve(" in str(error)
    told = [record.levelno for record in caplog.records if line["id"] in record.getMessage()]
    assert logging.ERROR in told, "a log that only shows errors has lost the id"
    assert line["id"] in set(error.results["task_id"])


def _refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.no_cover
def test_a_disk_that_has_room_again_takes_what_it_refused(flow, disk):
    """A commit that failed is made up for by a later one, so that the next run goes on without a question."""
    disk.n_left = 2

    class Room(threading.Thread):
        def run(self) -> None:
            while not disk.n_refused:
                time.sleep(0.001)
            disk.n_left = None

    room = Room()
    room.start()
    stopped(flow)
    room.join()
    assert not [attempt for attempt in flow.attempts() if attempt.stage is Stage.AMBIGUOUS]
    flow.assert_finishes()


def test_a_slow_disk_only_takes_longer(flow, disk):
    """Every fsync waits for a while: fewer of them serve more events each, and nothing else changes."""
    disk.wait_s = 0.05
    flow.assert_finishes()


def test_a_create_is_sent_only_once_it_is_written_down(flow, monkeypatch):
    """While the disk has not yet taken "about to", nothing of it is on the invoice."""
    seen = []
    real = journal.Journal._write

    def write(opened: journal.Journal, data: bytes) -> None:
        jobs = {one["job"] for one in map(json.loads, data.splitlines()) if one.get("kind") == "sending"}
        threading.Event().wait(0.02)
        seen.append((len(jobs), len(flow.invoice())))
        real(opened, data)

    monkeypatch.setattr(journal.Journal, "_write", write)
    flow.run(max_in_flight=2)
    sent = 0
    for n_jobs, n_on_invoice in seen:
        assert n_on_invoice <= sent
        sent += n_jobs
    assert sent == len(flow.table)


# A run in a process of its own, so that a limit or another user binds nobody else. It prints how it ended.
CHILD = """
import json, os, resource, signal, sys
import dreamo_batch as dreamo
table = dreamo.read_table(sys.argv[1])
dreamo.run
dreamo.validate(table)  # what is imported late may not be readable for another user
limit, user = int(sys.argv[5]), int(sys.argv[6])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
if user:
    os.setgid(user)
    os.setuid(user)
try:
    dreamo.run(table, sys.argv[2], base_url=sys.argv[3], api_key=sys.argv[4], progress=False, max_in_flight=2)
except dreamo.DreamoError as error:
    results = getattr(error, "results", None)
    print(json.dumps({"error": type(error).__name__, "text": str(error), "has_results": results is not None}))
else:
    print(json.dumps({"error": None}))
"""


def in_a_child(flow: Flow, *, limit_bytes: int = 0, user: int = 0) -> dict[str, Any]:
    csv = flow.run_dir.parent / "jobs.csv"
    dreamo.write_table(flow.table, csv)
    where = (str(csv), str(flow.run_dir), flow.gateway.base_url, flow.gateway.api_key)
    command = [sys.executable, "-c", CHILD, *where, str(limit_bytes), str(user)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.no_cover
@pytest.mark.parametrize("limit_bytes", FILE_LIMITS)
def test_files_that_may_not_grow_stop_the_run(flow, limit_bytes):
    """A limit on the size of files, hit by the first line, in the middle of the journal, or by a table."""
    ended = in_a_child(flow, limit_bytes=limit_bytes)
    assert ended["error"] == "StorageFailed"
    assert "File too large" in ended["text"]
    flow.assert_bought_once()
    ids = {attempt.task_id for attempt in flow.attempts()} if RunDirectory(flow.run_dir).exists() else set()
    assert all(line["id"] in ids or line["id"] in ended["text"] for line in flow.invoice())
    n_bought = len(flow.invoice())
    if limit_bytes == 100:
        assert n_bought == 0
    after = flow.run()
    flow.assert_money_adds_up()
    assert set(after["status"]) <= {"completed", "ambiguous"}


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Any]:
    """Gives a small disk of a size in kB, mounted as the run directory."""
    mounted = []

    @contextmanager
    def mount(path: Path, size_kb: int) -> Iterator[None]:
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        yield

    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk takes root")
    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)
    del tmp_path


@pytest.mark.parametrize("size_kb", TMPFS_KB)
def test_a_disk_that_fills_up_stops_the_run_and_goes_on_with_room(flow, tmpfs, size_kb):
    """On a real small disk, full at the start, between creates or with the pictures; then it is made larger."""
    with tmpfs(flow.run_dir, size_kb):
        error = stopped(flow, max_in_flight=2)
        assert "No space left" in str(error)
        flow.assert_bought_once()
        n_bought = len(flow.invoice())
        stopped(flow, max_in_flight=2)
        assert len(flow.invoice()) <= n_bought + 2
        subprocess.run(["mount", "-o", "remount,size=4m", str(flow.run_dir)], check=True)
        after = flow.run()
        flow.assert_money_adds_up()
        assert set(after["status"]) <= {"completed", "ambiguous"}


@pytest.mark.no_cover
def test_a_directory_that_may_not_be_written_is_refused_before_anything_is_bought(flow):
    """Another user's directory: nothing is submitted, reading works, and its owner goes on as ever."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    flow.run(flow.table.head(2))
    _open_to_all(flow.run_dir.parent)
    invoice = flow.invoice()
    ended = in_a_child(flow, user=65534)
    assert ended["error"] in {
        "StorageFailed",
        "DirectoryError",
    }  # the second where a folder above is closed, too
    assert "Permission denied" in ended["text"]
    assert flow.invoice() == invoice
    flow.assert_finishes()


def test_a_directory_that_may_not_even_be_read_is_refused_in_words(flow):
    """No traceback of the file system: one error that names the directory."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    flow.run(flow.table.head(2))
    _open_to_all(flow.run_dir.parent)
    flow.run_dir.chmod(0o700)
    invoice = flow.invoice()
    ended = in_a_child(flow, user=65534)
    assert ended["error"] in {"DirectoryError", "StorageFailed"}
    assert str(flow.run_dir) in ended["text"]
    assert flow.invoice() == invoice


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_file_system_without_locks_is_refused_in_words(flow, monkeypatch, number, is_sharded):
    """A file in place of a lock would keep everybody out once its writer was killed."""

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with ThreadPoolExecutor(1) as pool:
        assert "Choose one on a file system that has locks" in str(
            stopped(flow, cluster=pool if is_sharded else None)
        )
    assert flow.invoice() == []


def test_a_file_system_whose_folders_have_no_fsync_is_used(flow, monkeypatch):
    """Such as those that a virtual machine shares with its host."""
    fsync = os.fsync

    def of_files(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", of_files)
    flow.assert_finishes()


_FOLDERS = ["lock", "run.json", "jobs.parquet", "results.parquet", "checkpoint-previous.parquet"]


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("name", "is_folder"), [*((name, True) for name in _FOLDERS), ("lock", False), ("images", False)]
)
def test_what_stands_where_a_file_belongs_is_named(flow, name, is_folder):
    """A folder, or a link to nowhere: it isn't ours, so it can be moved away, and the same call goes on."""
    for n in (1, 2):
        flow.run(flow.table.head(n))
    path = flow.run_dir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.mkdir() if is_folder else path.symlink_to("nowhere")
    assert f"Move {path} away" in str(stopped(flow))
    path.rmdir() if is_folder else path.unlink()
    flow.assert_finishes()


def _open_to_all(folder: Path) -> None:
    """Let everybody read what is in a folder, and pass down to it from the first one that is ours."""
    for path in (folder, *(one for one in folder.parents if one.name.startswith("pytest-"))):
        path.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture
def clock() -> Slow:
    return Slow()


@pytest.fixture
def open_flow(tmp_path: Path, clock: Slow) -> Iterator[Flow]:
    """A run whose tasks end once the test has done to its directory what it does."""
    with dreamo.LocalGateway(engine="flat", latency="fixed:1000", clock=clock) as gateway:
        yield Flow(tmp_path, gateway, n_rows=6)


class Background:
    """A run in a thread, two tasks at a time, and how it ended; the test goes on once these are submitted."""

    def __init__(self, flow: Flow, **options: Any) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(flow, options))
        self._thread.start()
        until(lambda: len(flow.invoice()) == 2)

    def join(self) -> BaseException | None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.error

    def _work(self, flow: Flow, options: dict[str, Any]) -> None:
        try:
            flow.run(max_in_flight=2, **options)
        except dreamo.DreamoError as error:
            self.error = error


@pytest.mark.no_cover
@pytest.mark.parametrize("download", [True, False])
def test_a_directory_renamed_under_a_run_stops_it_and_goes_on_where_it_is_now(open_flow, clock, download):
    """The ledger moves along and is whole; nothing is submitted after the move, and nothing is made at the old path."""
    flow = open_flow
    running = Background(flow, download=download)
    old, new = flow.run_dir, flow.run_dir.with_name("moved")
    old.rename(new)
    clock.speed_up()
    error = running.join()
    assert isinstance(error, dreamo.StorageFailed)
    assert "was moved or deleted" in str(error)
    assert "new path" in str(error)
    assert not old.exists()
    assert len(flow.invoice()) == 2
    flow.run_dir = new
    assert not [attempt for attempt in flow.attempts() if attempt.stage is Stage.AMBIGUOUS]
    assert {line["id"] for line in flow.invoice()} == {attempt.task_id for attempt in flow.attempts()}
    flow.assert_finishes()


@pytest.mark.parametrize("is_live", [True, False])
def test_a_directory_renamed_while_a_second_call_prepares_is_missed(open_flow, clock, monkeypatch, is_live):
    """That call buys nothing in what it finds at the old path, and the first puts neither table nor picture there."""
    flow, prepare = open_flow, verbs.prepare
    running = Background(flow)
    if not is_live:
        clock.speed_up()
        assert running.join() is None
    old, new = flow.run_dir, flow.run_dir.with_name("moved")

    def prepare_elsewhere(*given: Any, **options: Any) -> Any:
        old.rename(new)
        old.mkdir()
        return prepare(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(verbs, "prepare", prepare_elsewhere)
        assert "moved or deleted" in str(stopped(flow))
    clock.speed_up()
    assert isinstance(running.join(), dreamo.StorageFailed) is is_live
    assert {path.name for path in old.iterdir()} <= {"inputs", "lock"}
    flow.run_dir = new
    flow.assert_finishes()


def test_a_directory_deleted_under_a_run_stops_it_and_the_error_holds_what_was_submitted(open_flow, clock):
    """Nothing is submitted after it is gone; a file written while it is being deleted may go with it."""
    flow = open_flow
    running = Background(flow)
    shutil.rmtree(flow.run_dir, ignore_errors=True)  # the run may put what it knows into it before it is gone
    clock.speed_up()
    error = running.join()
    assert isinstance(error, dreamo.StorageFailed)
    assert "was moved or deleted" in str(error)
    assert len(flow.invoice()) == 2
    assert {line["id"] for line in flow.invoice()} <= set(error.results["task_id"])


@pytest.mark.no_cover
@pytest.mark.parametrize("name", ["journal", "images", "run.json", "jobs.parquet"])
def test_a_file_deleted_under_a_run_loses_nothing(open_flow, clock, name):
    """Without its journal the run stops, and leaves a checkpoint of all it knows; everything else is made again."""
    flow = open_flow
    running = Background(flow)
    if name == "journal":
        journal.path_of(flow.run_dir, 1).unlink()
        clock.speed_up()
        error = running.join()
        assert isinstance(error, dreamo.StorageFailed)
        assert "deleted during the run" in str(error)
        assert {line["id"] for line in flow.invoice()} <= set(error.results["task_id"])
    else:
        path = flow.run_dir / name
        if name == "images":
            clock.let_tasks_end()
            until(lambda: len(flow.invoice()) == 4 and len(list(path.glob("[!.]*"))) == 2)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        clock.speed_up()
        assert running.join() is None
    flow.assert_finishes()


def test_file_names_come_from_job_ids_only(tmp_path):
    """Whatever prompts and links say, no file lies outside the directory, and each is named by its job."""
    with dreamo.LocalGateway(engine="flat") as gateway:
        flow = Flow(tmp_path, gateway, n_rows=1)
        hostile = ["../../../etc/passwd", "a/b\\c\0d", "$(touch x); `id`", "<script>", "CON", "." * 300]
        flow.table = dreamo.sweep(
            image=flow.table["image"].iloc[0], prompt=hostile, seed=[1], size="512x512", note=["../up"]
        )
        before = {path for path in tmp_path.rglob("*") if flow.run_dir not in path.parents}
        done = flow.run(on_invalid="skip")
        bought = done[done["status"] == "completed"]
        assert len(bought) >= len(hostile) - 1
        expected = {f"images/{job_id}.jpg" for job_id in bought["job_id"]}
        assert {path.rsplit(".", 1)[0] for path in bought["output_path"]} == {
            path.rsplit(".", 1)[0] for path in expected
        }
        files = {path.relative_to(flow.run_dir).as_posix() for path in (flow.run_dir / "images").iterdir()}
        assert files == set(bought["output_path"])
        outside = {path for path in tmp_path.rglob("*") if flow.run_dir not in path.parents}
        assert outside - before <= {flow.run_dir}
