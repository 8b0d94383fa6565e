"""Pictures worked on in other processes: the same values, whatever the engine, and whatever becomes of its workers."""

from __future__ import annotations

import errno
import functools
import inspect
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import current_process, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch import parallel
from dreamo_batch.engine import picture_cache
from dreamo_batch.errors import DreamoError, UsageError
from dreamo_batch.service.failures import Failure, FailureKind
from tests import tiny_models
from tests.flows import PATIENCE_S, dask_client, until

QUIET = {"progress": False}


def wider(reference, output):
    """A metric that travels by its name."""
    return output.width / reference.width


def doubled_after_a_death(mark: Path, number: int) -> int:
    """Double a number; the first process that is asked for 40 is killed."""
    if number == 40 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def doubled_beside_a_suspended_process(mark: Path, number: int) -> int:
    """Double a number; the first process that is asked for 40 waits until another is suspended, and is killed."""
    if number == 40 and not mark.exists():
        until(lambda: mark.with_suffix(".pid").exists() and mark.with_suffix(".pid").read_text())
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 0 and not mark.exists():
        mark.with_suffix(".pid").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    return 2 * number


def doubled(number: int) -> int:
    return 2 * number


def load_wider():
    """A metric that is made once a process and takes batches; it counts how often it was made."""
    made = Path(os.environ["DREAMO_TEST_MADE"])
    (made / f"{os.getpid()}-{len(list(made.iterdir()))}").touch()

    def widths(references, outputs):
        assert len(references) == len(outputs)
        return [output.width / reference.width for reference, output in zip(references, outputs, strict=True)]

    return widths


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Six pictures of a run, without what is kept of them."""
    run_dir = tmp_path_factory.mktemp("executors") / "run"
    jobs = dreamo.sweep(
        image="data/mascot.png", prompt=["a", "b"], seed=[1, 2, 3], size="512x512", use_rephraser=False
    )
    dreamo.run(jobs, run_dir, gateway="local", **QUIET)
    for path in (run_dir / picture_cache.NAME, run_dir / picture_cache.TAIL):
        path.unlink(missing_ok=True)
    return run_dir


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def dask():
    with dask_client() as client:
        yield client


@pytest.fixture(params=["processes", "dask", "count"])
def cluster(request):
    return 2 if request.param == "count" else request.getfixturevalue(request.param)


def looked_at(run_dir, folder, cluster):
    """Everything that takes a cluster, each from scratch."""
    metric = dreamo.Metric("wider", wider, version="1")
    measured = dreamo.measure(run_dir, ["appearance", "colour", "shape", metric], cluster=cluster, **QUIET)
    copy = shutil.copytree(
        run_dir, folder / "copy", ignore=shutil.ignore_patterns(picture_cache.NAME, "*.tail")
    )
    tables = [
        measured,
        dreamo.diversity(copy, cluster=cluster, **QUIET),
        dreamo.rank(copy, "shape", cluster=cluster, **QUIET),
        dreamo.near_duplicates(copy, max_bits=64, max_delta_e=100, cluster=cluster, **QUIET),
    ]
    summaries = pd.read_parquet(run_dir / picture_cache.NAME).sort_values("sha256", ignore_index=True)
    return [*tables, summaries]


def test_values_are_those_of_one_process(finished, tmp_path, cluster):
    """Bit by bit: metrics, fingerprints and thumbnails."""
    one, other = (shutil.copytree(finished, tmp_path / name) for name in ("one", "other"))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    alone = looked_at(one, tmp_path / "a", None)
    for mine, theirs in zip(alone, looked_at(other, tmp_path / "b", cluster), strict=True):
        pd.testing.assert_frame_equal(mine, theirs)


def test_vectors_and_exports_are_those_of_one_process(finished, tmp_path, processes):
    """Bit by bit, of every model, with an unreadable picture and batches that don't come out even."""
    models = tiny_models.folder_of_all(tmp_path / "models")
    metrics = [
        dreamo.metrics.Embedding(path=models, batch_size=4),
        dreamo.metrics.PromptMatch(path=models),
        dreamo.metrics.Face(path=models),
    ]
    made = []
    for name, cluster in (("one", None), ("other", processes)):
        run_dir = shutil.copytree(finished, tmp_path / name)
        next((run_dir / "images").iterdir()).write_bytes(b"cut off")
        measured = dreamo.measure(run_dir, metrics, cluster=cluster, **QUIET)
        counts = dreamo.export(finished, tmp_path / f"x-{name}", text=True, cluster=cluster, **QUIET)
        folder = Path(counts.pop("folder"))
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        vectors = pd.read_parquet(run_dir / "metrics.parquet").sort_values(
            ["metric", "output_sha256"], ignore_index=True
        )
        made.append((measured.drop(columns="run_dir", errors="ignore"), counts, files, vectors))
    (one, *files), (other, *others) = made
    pd.testing.assert_frame_equal(one, other)
    assert files[:2] == others[:2]
    pd.testing.assert_frame_equal(files[2], others[2])
    assert one["dinov2-small"].notna().sum() == 5


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_metric_is_loaded_once_a_process_and_takes_batches(finished, tmp_path, monkeypatch, is_elsewhere):
    """Here and elsewhere, with the values of single calls."""
    run_dir = shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "made").mkdir()
    monkeypatch.setenv("DREAMO_TEST_MADE", str(tmp_path / "made"))
    metric = dreamo.Metric("wider", load=load_wider, is_batched=True)
    singly = dreamo.measure(run_dir, dreamo.Metric("wider", wider), **QUIET)
    for _ in range(2):
        cluster = 1 if is_elsewhere else None
        pd.testing.assert_frame_equal(dreamo.measure(run_dir, metric, cluster=cluster, **QUIET), singly)
    assert len(list((tmp_path / "made").iterdir())) == (2 if is_elsewhere else 1)  # two pools of one process


def of_notebook(number):
    """Stands for what a cell defines: `in_a_notebook` gives it to a `__main__` that no other process can import."""
    return 2 * number


def used(sent, numbers):
    """A task: which process has made it, as which object, and what it returns."""
    return [(os.getpid(), id(parallel.unpacked(sent)), parallel.unpacked(sent)(number)) for number in numbers]


@pytest.fixture
def in_a_notebook(monkeypatch):
    main = sys.modules["__main__"]
    monkeypatch.delattr(main, "__file__", raising=False)
    monkeypatch.setattr(main, "of_notebook", of_notebook, raising=False)
    monkeypatch.setattr(of_notebook, "__module__", "__main__")


@pytest.mark.usefixtures("in_a_notebook")
def test_what_a_notebook_defines_is_made_once_in_each_process(processes, monkeypatch):
    """So a model that it loads stays there for the next pictures."""
    with parallel.working(cluster=processes):
        do = functools.partial(used, parallel.portable(of_notebook))
        made = [one for _, one in parallel.each(range(8), do, what="using", is_portable=True, n_batch=1)]
        assert [value for *_, value in made] == [2 * number for number in range(8)]
        assert len({one[:2] for one in made}) == len({pid for pid, *_ in made})
        monkeypatch.setattr(parallel, "find_spec", {}.get)  # there is no cloudpickle
        do = functools.partial(used, parallel.portable(of_notebook))
        with pytest.raises(
            UsageError, match=r"have failed \(Can't get attribute 'of_notebook'.* with cloudpickle"
        ):
            list(parallel.each(range(2), do, what="using", is_portable=True, n_batch=1))


def test_a_metric_that_cannot_be_sent_is_refused(finished, processes):
    """Before anything is measured; threads need no copy of it."""
    lock = threading.Lock()
    metric = dreamo.Metric("locked", lambda *_: lock and 1.0)
    with pytest.raises(UsageError, match=r"can't be sent to other processes \(.*top level of a module"):
        dreamo.measure(finished, metric, cluster=processes, **QUIET)
    with ThreadPoolExecutor(2) as pool:
        assert dreamo.measure(finished, metric, cluster=pool, **QUIET)["locked"].eq(1).all()


def test_a_batch_that_fails_is_measured_one_by_one(finished, tmp_path):
    """One picture is not all of them."""

    def picky(references, outputs):
        if len(outputs) > 1:
            raise ValueError("too many")
        return [output.width / reference.width for reference, output in zip(references, outputs, strict=True)]

    run_dir = shutil.copytree(finished, tmp_path / "run")
    measured = dreamo.measure(run_dir, dreamo.Metric("picky", picky, is_batched=True), **QUIET)
    assert measured["picky"].notna().all()
    two = dreamo.Metric("two", lambda _references, _outputs: [1.0, 2.0], is_batched=True)
    with pytest.warns(UserWarning, match="two failed: ValueError: too many values"):
        measured = dreamo.measure(run_dir, two, **QUIET)
    assert measured["two"].isna().all()


def test_a_metric_needs_a_function_or_a_way_to_load_one():
    """Not both, not neither."""
    for options in ({}, {"function": wider, "load": load_wider}, {"function": 3}):
        with pytest.raises(UsageError, match="either a function or load="):
            dreamo.Metric("wider", **options)
    for name, version in (("", None), (3, None), ("wider", 1)):
        with pytest.raises(UsageError, match="expected text"):
            dreamo.Metric(name, wider, version)


def test_pages_and_sheets_have_their_thumbnails_made_elsewhere(finished, tmp_path, processes):
    """They are kept as if they had been made here."""
    run_dir = shutil.copytree(finished, tmp_path / "run")
    assert dreamo.gallery(run_dir).to_html(cluster=processes, **QUIET).count("<img") == 7
    assert len(pd.read_parquet(run_dir / picture_cache.NAME)) == 6
    (run_dir / picture_cache.NAME).unlink()
    assert dreamo.contact_sheet(run_dir, tmp_path / "sheet.png", cluster=processes, **QUIET) == 6
    assert len(pd.read_parquet(run_dir / picture_cache.NAME)) == 6


@pytest.mark.parametrize("doubling", [doubled_after_a_death, doubled_beside_a_suspended_process])
def test_a_killed_process_costs_only_its_work(tmp_path, doubling):
    """Of local processes and of Dask; results come in order."""
    do = functools.partial(doubling, tmp_path / "mark")
    with parallel.working(cluster=2):
        done = list(parallel.each(range(100), do, what="doubling", is_portable=True))
    assert done == [(number, 2 * number) for number in range(100)]
    assert (tmp_path / "mark").exists()


def test_a_process_that_cannot_start_is_reported(monkeypatch):
    def refuse(_process):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(BaseProcess, "start", refuse)
    with (
        pytest.raises(UsageError, match=r"No process of cluster=2 could start.* \(.*Resource temporarily"),
        parallel.working(cluster=2),
    ):
        list(parallel.each(range(2), doubled, what="doubling", is_portable=True))


def test_the_death_of_the_last_process_is_noticed_while_the_others_work():
    with parallel.executor_of(2) as pool:
        futures = [pool.submit(signal.pause) for _ in range(2)]
        list(pool._processes.values())[-1].kill()
        with pytest.raises(BrokenProcessPool):
            futures[0].result(PATIENCE_S)


def test_dask_survives_a_killed_worker(tmp_path, dask):
    """It hands the work to another one."""
    do = functools.partial(doubled_after_a_death, tmp_path / "mark")
    with parallel.working(cluster=dask):
        done = list(parallel.each(range(100), do, what="doubling", is_portable=True))
    assert done == [(number, 2 * number) for number in range(100)]


INTERRUPTED = """
import os, signal, sys
if __name__ == "__mp_main__":
    os.killpg(0, signal.SIGINT)
import dreamo_batch as dreamo

def wider(reference, output):
    return output.width / reference.width

if __name__ == "__main__":
    with dreamo.LocalGateway(engine="flat") as gateway:
        jobs = dreamo.sweep(image="data/mascot.png", prompt="a", seed=range(1, 9), size="512x512", use_rephraser=False)
        call = {"gateway": gateway, "progress": False}
        if sys.argv[2] == "run":
            dreamo.run(jobs, sys.argv[1], cluster=2, **call)
        dreamo.measure(dreamo.run(jobs, sys.argv[1], **call), wider, cluster=2, progress=False)
"""


@pytest.mark.parametrize("verb", ["run", "measure"])
def test_an_interrupt_while_processes_start_is_that_of_the_one_that_started_them(tmp_path, verb):
    """The terminal sends it to all of them, and each would show what it was importing."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, tmp_path / "run", verb],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        start_new_session=True,
        check=False,
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert done.stderr.count("Traceback") == 1, done.stderr


def test_an_executor_of_somebody_else_is_left_to_them(tmp_path):
    """It is not shut down, and not made anew when its processes die."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with parallel.working(cluster=pool):
            assert list(parallel.each([1], doubled, what="doubling", is_portable=True)) == [(1, 2)]
        assert pool.submit(doubled, 3).result() == 6
        do = functools.partial(doubled_after_a_death, tmp_path / "mark")
        with (
            parallel.working(cluster=pool),
            pytest.raises(UsageError, match=r"have failed \(A process in the"),
        ):
            list(parallel.each(range(100), do, what="doubling", is_portable=True))


def test_what_is_no_cluster_is_refused(finished):
    """Before anything is read."""
    for wrong in (0, -1, True, "4", object()):
        with pytest.raises(UsageError, match="expected a Dask Client"):
            dreamo.measure(finished, cluster=wrong, **QUIET)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(UsageError, match=r"have failed \(cannot schedule new futures"):
        dreamo.measure(finished, wider, cluster=pool, **QUIET)


@pytest.mark.parametrize(
    ("state", "said"),
    [({"status": "closed"}, "is closed"), ({"asynchronous": True}, "without asynchronous=True")],
)
def test_a_dask_client_that_would_never_answer_is_refused(state, said, finished, tmp_path):
    """Itself, and where its executor is given."""
    client = SimpleNamespace(get_executor=list, **state)
    executor = Executor()
    executor._client = client
    for cluster in (client, executor):
        with pytest.raises(UsageError, match=said):
            dreamo.measure(finished, cluster=cluster, **QUIET)
        with pytest.raises(UsageError, match=said):
            dreamo.run(dreamo.sweep(image="x", prompt="a"), tmp_path, cluster=cluster, **QUIET)


def test_the_workers_of_dask_are_counted_also_behind_its_executor(dask):
    assert [parallel.n_workers(one) for one in (dask, dask.get_executor(pure=False))] == [2, 2]


class Forgetful(Executor):
    """Dask's executor after a restart amid the fetching of a result: its future never ends."""

    __module__ = "distributed.cfexecutor"
    _client = SimpleNamespace(get_executor=list, futures={})

    def submit(self, *_args, **_options):
        return Future()


def test_a_task_that_dask_forgot_is_not_waited_for(finished):
    with pytest.raises(UsageError, match=r"have failed \(CancelledError"):
        dreamo.measure(finished, wider, cluster=Forgetful(), **QUIET)


def test_an_interrupt_of_work_is_shown_at_the_users_line():
    """As that of a run is."""
    with pytest.raises(KeyboardInterrupt) as stopped, parallel.working():
        raise KeyboardInterrupt
    assert hasattr(stopped.value, "_render_traceback_")


def test_the_bar_names_the_dashboard(monkeypatch, capsys):
    """So that people see where Dask shows its work."""

    class Client:
        dashboard_link = "http://127.0.0.1:8787/status"

        def get_executor(self, *, pure):
            assert pure is False
            return pool

    monkeypatch.setattr(parallel, "_DELAY_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, parallel.working(cluster=Client()):
        list(parallel.each([1], doubled, what="doubling", is_portable=True))
    assert "doubling (http://127.0.0.1:8787/status)" in capsys.readouterr().err


def kinds_of_errors(kind: type = DreamoError) -> list[type]:
    return [kind, *(found for child in kind.__subclasses__() for found in kinds_of_errors(child))]


@pytest.mark.parametrize("kind", kinds_of_errors(), ids=lambda kind: kind.__name__)
def test_every_error_comes_back_from_another_process_with_all_it_knows(kind):
    known = {
        "problems": dreamo.validate(pd.DataFrame({"image": ["none.png"], "prompt": [""]})),
        "results": pd.DataFrame({"status": ["pending"]}),
        "run_dir": Path("runs/first"),
        "failure": Failure(FailureKind.STOP, "no_credit", http_status=402, message="no credit"),
    }
    wanted = {name: known[name] for name in inspect.signature(kind.__init__).parameters if name in known}
    error = kind(**wanted) if "failure" in wanted else kind("what happened", **wanted)
    error.results = known["results"]
    error.add_note("beside row 3")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(again), str(again), again.__notes__) == (kind, str(error), ["beside row 3"])
    for name in {**wanted, "results": None}:
        found, expected = getattr(again, name), getattr(error, name)
        assert found.equals(expected) if isinstance(expected, pd.DataFrame) else found == expected


SCRIPT = """
import dreamo_batch.parallel as parallel
print("imported")
with parallel.executor_of(2) as pool:
    print(pool.submit(len, "ab").result())
"""


def test_a_script_that_each_process_would_run_again_learns_what_to_do(tmp_path):
    """At once, rather than after processes have died again and again."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    *_, last = ran.stderr.splitlines()
    assert "UsageError: No process of cluster=2 could start, or it was killed at once (" in last
    assert last.endswith('belong under `if __name__ == "__main__":`.')


GUARDED = """
import os, signal
import dreamo_batch.parallel as parallel
if __name__ == "__main__":
    with parallel.executor_of(2) as pool:
        assert pool.submit(len, "ab").result() == 2
        print("begun", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_after_their_parent_was_killed(tmp_path):
    """They hold its output, which ends with the last of them."""
    script = tmp_path / "script.py"
    script.write_text(GUARDED)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (-signal.SIGKILL, "begun\n")
    assert "Traceback" not in ran.stderr  # Python itself names the semaphores that it cleans up


def test_nothing_is_bought_by_a_process_that_imports_the_script(monkeypatch, tmp_path):
    monkeypatch.setattr(current_process(), "_inheriting", True, raising=False)
    jobs = dreamo.sweep(image="data/mascot.png", prompt="a fox", seed=1, size="512x512")
    with pytest.raises(UsageError, match="Nothing is done while a new process imports the script"):
        dreamo.run(jobs, tmp_path / "run", gateway="local", progress=False)
    assert not (tmp_path / "run" / "jobs.parquet").exists()


AT_EXIT = """
import atexit, sys, threading
import dreamo_batch as dreamo
jobs = dreamo.sweep(image="data/mascot.png", prompt="a fox", seed=1, size="512x512")
def late():
    threading.main_thread().join()
    dreamo.run(jobs, sys.argv[1], gateway="local", progress=False)
atexit.register(dreamo.run, jobs, sys.argv[1], gateway="local", progress=False)
threading.Thread(target=late).start()
class Last:
    def __del__(self):
        dreamo.load(sys.argv[1])  # not loaded before
last = Last()
"""


def test_nothing_is_bought_while_python_shuts_down(tmp_path):
    """In a thread that the script doesn't wait for, an exit handler or a finalizer, it says so; nothing is left."""
    command = [sys.executable, "-c", AT_EXIT, tmp_path / "run"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stderr.count("UsageError: Python is shutting down") == 3, ran.stderr
    assert "RuntimeError" not in ran.stderr
    assert not (tmp_path / "run").exists()
