"""Processes that buy in shards, killed and stopped in mid-run: each job is bought once, and the bill adds up."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch import shards
from dreamo_batch.engine import replica, store
from dreamo_batch.engine.directory import RunDirectory, shard_of
from tests.cli_sweep import call, signals_kept
from tests.flows import PATIENCE_S, Flow, Slow, dask_client, until
from tests.object_server import object_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

N = 16
N_SHARDS = 4
IN_FLIGHT = 8

_kept = pytest.fixture(autouse=True)(signals_kept)


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def flow(tmp_path, slow, monkeypatch):
    with dreamo.LocalGateway(
        engine="flat", latency="fixed:600", clock=slow, api_key="key-of-the-test"
    ) as gateway:
        monkeypatch.setenv("DREAMO_API_KEY", gateway.api_key)
        flow = Flow(tmp_path, gateway, 12 * N, use_rephraser=False)
        of_shard = dreamo.plan(flow.table)["job_id"].map(shard_of)
        few = of_shard[of_shard.isin(of_shard.value_counts().index[:N_SHARDS])]
        # As many rows in each: a shard of one row would leave a place in flight empty.
        flow.table = flow.table.loc[few.groupby(few).head(N // N_SHARDS).index]
        yield flow


@pytest.fixture
def dask():
    with dask_client() as client:  # made after the key is in the environment, which its workers get
        yield client


class Background:
    """A run in a thread, since what disturbs it happens in the test."""

    def __init__(self, flow, **options):
        self.error = self.done = None
        self._thread = threading.Thread(target=self._run, args=(flow, options))
        self._thread.start()

    def _run(self, flow, options):
        try:
            self.done = flow.run(max_in_flight=IN_FLIGHT, **options)
        except BaseException as error:  # noqa: BLE001 - looked at in the test
            self.error = error

    def wait(self):
        self._thread.join(120)
        assert not self._thread.is_alive()


def settle(flow, done):
    """What was on the wire when its process died is looked up in the bill, as people do; everything else goes on."""
    held = done[done["status"] == "ambiguous"]
    assert len(held) <= IN_FLIGHT
    invoice = {line["seed"]: line["id"] for line in flow.invoice()}
    for label, row in held.iterrows():
        task_id = invoice.get(row["seed"])
        answer = {"not_sent": True} if task_id is None else {"task_id": task_id}
        dreamo.resolve(flow.run_dir, label, **answer)
    flow.assert_finishes(max_in_flight=IN_FLIGHT)


def some_are_in_flight(flow):
    return lambda: len(flow.invoice()) >= 2


@pytest.mark.no_cover
def test_a_killed_process_of_this_machine_is_replaced(flow, slow):
    run = Background(flow, cluster=2)
    until(some_are_in_flight(flow))
    next(child for child in active_children() if child.name.startswith("Spawn")).kill()
    slow.speed_up()
    run.wait()
    assert run.error is None
    flow.assert_money_adds_up()
    settle(flow, run.done)


def test_an_idle_process_may_be_killed_beside_a_busy_one(flow, slow):
    """It holds the lock of the queue then, so the other can ask for nothing more, and ends as it is told to."""
    of_shard = dreamo.plan(flow.table)["job_id"].map(shard_of)
    long, short = of_shard.value_counts().index[:2]
    flow.table = pd.concat(
        flow.table[(of_shard == shard).to_numpy()].head(n) for shard, n in ((long, 3), (short, 1))
    )
    batch = flow.start(cluster=2, max_in_flight=2)
    until(lambda: len(flow.invoice()) == 2)
    slow.let_tasks_end()
    until(lambda: len(flow.invoice()) == 3 and not RunDirectory(flow.run_dir / short).is_locked())
    pulse = flow.run_dir / long / "pulse.json"
    until(pulse.exists)
    busy = json.loads(pulse.read_bytes())["pid"]
    next(one for one in active_children() if one.name.startswith("Spawn") and one.pid != busy).kill()
    slow.speed_up()
    done = batch.wait(PATIENCE_S, progress=False)
    assert any("A worker died" in line for line in batch.status.notices)
    flow.assert_money_adds_up()
    settle(flow, done)


def test_a_suspended_process_beside_a_killed_one_is_waited_for_only_while_it_is_heard(
    flow, slow, monkeypatch
):
    """Python's pool ends it when it finds the other dead, and would wait until it wakes up."""
    batch = flow.start(cluster=2, max_in_flight=IN_FLIGHT)
    until(lambda: len(flow.invoice()) == IN_FLIGHT and batch.status.n_in_flight == IN_FLIGHT)
    monkeypatch.setattr(store, "STILL_S", 2.0)
    killed, suspended = (one for one in active_children() if one.name.startswith("Spawn"))
    os.kill(suspended.pid, signal.SIGSTOP)
    killed.kill()
    slow.speed_up()
    done = batch.wait(PATIENCE_S, progress=False)
    assert f"Killed process {suspended.pid}: not heard from for 2 s." in batch.status.notices
    flow.assert_money_adds_up()
    settle(flow, done)


@pytest.mark.no_cover
def test_dask_does_the_shards_of_a_killed_worker_again(flow, slow, dask):
    run = Background(flow, cluster=dask)
    until(some_are_in_flight(flow))
    os.kill(next(iter(dask.run(os.getpid).values())), signal.SIGKILL)
    slow.speed_up()
    run.wait()
    assert run.error is None, run.error
    flow.assert_money_adds_up()
    settle(flow, run.done)


def wider(reference, output):
    return output.width / reference.width


def test_dask_without_our_packages_says_so_at_once(flow, slow, tmp_path, dask):
    """It would lose every task, and everybody would wait for it."""
    dask.run(exec, "import sys; sys.modules['dreamo_batch'] = None")
    with pytest.raises(
        dreamo.RunStopped, match=r"have failed \(No module named 'dreamo_batch.* same packages"
    ):
        flow.run(cluster=dask)
    assert flow.invoice() == []
    slow.speed_up()
    done = dreamo.run(flow.table.head(2), tmp_path / "other", gateway=flow.gateway, progress=False)
    with pytest.raises(
        dreamo.UsageError, match=r"have failed \(No module named 'dreamo_batch.* same packages"
    ):
        dreamo.measure(done, wider, cluster=dask.get_executor(), progress=False)


class Engine(Executor):
    """An executor whose own failures come back from it, or which never starts anything."""

    def __init__(self, error=None):
        self.error, self.futures = error, []

    def submit(self, *_args):
        future = Future()
        self.futures.append(future)
        if self.error is not None:
            future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    ("error", "said"),
    [(CancelledError(), "CancelledError"), (ModuleNotFoundError("No module\nnamed so"), "No module")],
)
def test_what_an_engine_raises_is_reported_in_words(flow, error, said):
    """Such as that it was restarted or closed, or that its workers can't read what they are sent."""
    with pytest.raises(dreamo.RunStopped, match=rf"have failed \({said}\).* to resume; nothing is bought"):
        flow.run(cluster=Engine(error))
    assert flow.invoice() == []


def no_workers(*_args, **_options):
    return {}


def no_answer(*_args, **_options):
    raise TimeoutError


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "Nothing heard yet from some workers"),
        (no_workers, "The Dask cluster has no workers."),
        (no_answer, "Dask's scheduler doesn't answer (TimeoutError)."),
    ],
    ids=["any engine", "Dask without workers", "Dask suspended"],
)
def test_workers_that_are_never_heard_of_are_named(flow, monkeypatch, answer, said):
    """An engine may wait for workers, so the run does, too, until it is stopped."""
    monkeypatch.setattr(store, "STILL_S", 1.0)
    monkeypatch.setattr(shards, "_PATIENCE_S", 2.0 if answer is None else PATIENCE_S)
    for name in ("_BEAT_S", "_BEAT_OF_STORE_S"):
        monkeypatch.setattr(shards, name, 0.2)
    engine = Engine()
    client = SimpleNamespace(get_executor=list, scheduler=SimpleNamespace(ncores=None), sync=no_workers)
    if answer is not None:
        engine._client = client
    batch = flow.start(cluster=engine)
    client.sync = answer
    until(lambda: any(said in line for line in batch.status.notices))
    batch.stop()
    batch.wait(PATIENCE_S, progress=False)
    assert all(future.cancelled() for future in engine.futures)


def be_another_machine():
    """Begin a worker that shares nothing with the others but the store, and whose lease runs out soon."""
    store.STILL_S, store.BEAT_S, shards._BEAT_OF_STORE_S = 2.0, 0.5, 0.5
    os.environ[replica.CACHE_VARIABLE] += f"-{os.getpid()}"


def test_the_shards_of_a_suspended_worker_go_to_another_one(flow, slow, tmp_path, monkeypatch):
    """Once awake, it finds its logs taken over, and can do nothing more."""
    flow.run_dir = "s3://bucket/exp"
    monkeypatch.setenv(replica.CACHE_VARIABLE, str(tmp_path / "cache"))
    for module, name in ((store, "STILL_S"), (store, "BEAT_S"), (shards, "_BEAT_OF_STORE_S")):
        monkeypatch.setattr(module, name, getattr(module, name))
    be_another_machine()
    with object_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with ProcessPoolExecutor(2, get_context("spawn"), be_another_machine) as pool:
            batch = flow.start(cluster=pool, max_in_flight=IN_FLIGHT)
            until(lambda: len(flow.invoice()) == IN_FLIGHT and batch.status.n_in_flight == IN_FLIGHT)
            suspended = next(iter(pool._processes))
            os.kill(suspended, signal.SIGSTOP)
            try:
                slow.speed_up()
                done = batch.wait(progress=False)
                assert any(f"from process {suspended} on " in line for line in batch.status.notices)
                n_bought = len(flow.invoice())
            finally:
                os.kill(suspended, signal.SIGCONT)
        assert set(done["status"]) <= {"completed", "ambiguous"}
        assert set(flow.run()["status"]) <= {"completed", "ambiguous"}
        assert len(flow.invoice()) == n_bought
        flow.assert_money_adds_up()


SCRIPT = """
import sys
import dreamo_batch as dreamo
if __name__ == "__main__":
    table = dreamo.read_table(sys.argv[1])
    done = dreamo.run(table, sys.argv[2], cluster=1, max_in_flight=8, progress=True)
"""


def started(flow, tmp_path):
    script, table = tmp_path / "script.py", tmp_path / "table.csv"
    script.write_text(SCRIPT)
    flow.table.to_csv(table, index=False)
    env = os.environ | {"DREAMO_BASE_URL": flow.gateway.base_url}
    command = [sys.executable, "-W", "ignore", str(script), str(table), str(flow.run_dir)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.no_cover
def test_a_killed_driver_is_succeeded_and_a_live_one_is_not(flow, slow, tmp_path):
    """Its workers make way for those of the next call."""
    driver = started(flow, tmp_path)
    try:
        until(some_are_in_flight(flow))
        with pytest.raises(dreamo.DirectoryLocked):
            flow.run(cluster=2)
        assert dreamo.watch(flow.run_dir).status.phase == "running"
        driver.kill()
        run = Background(flow)
        slow.speed_up()
        run.wait()
        assert run.error is None, run.error
        assert set(run.done["status"]) == {"completed"}
        flow.assert_finishes()
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()


@pytest.mark.no_cover
@pytest.mark.parametrize("is_in_store", [False, True], ids=["on the disk", "in a store"])
def test_stop_reaches_every_worker(flow, slow, tmp_path, monkeypatch, is_in_store):
    """Also a Ctrl-C, which the terminal sends to the workers, too."""
    with object_server() as server:
        monkeypatch.setenv(replica.CACHE_VARIABLE, str(tmp_path / "cache"))
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        run_dir, table = "s3://bucket/exp" if is_in_store else flow.run_dir, tmp_path / "table.csv"
        flow.table.to_csv(table, index=False)
        words = [
            "run",
            str(table),
            "--run-dir",
            str(run_dir),
            "--workers",
            "1",
            "--max-in-flight",
            "8",
            "--yes",
        ]
        driver = subprocess.Popen(
            [sys.executable, "-m", "dreamo_batch", *words],
            env=os.environ | {"DREAMO_BASE_URL": flow.gateway.base_url},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        until(some_are_in_flight(flow))
        if is_in_store:
            assert call("stop", run_dir).exit_code == 0
        else:
            os.killpg(driver.pid, signal.SIGINT)
        told = driver.communicate(timeout=60)[1]
        assert "Stopped. Run" in told
        assert "Traceback" not in told
        assert dreamo.watch(run_dir).status.phase == "idle"
        assert set(dreamo.load(run_dir)["status"]) <= {"pending", "in_progress"}
        slow.speed_up()
        done = dreamo.resume(run_dir, gateway=flow.gateway, progress=False)
        assert set(done["status"]) == {"completed"}
        assert len(flow.invoice()) == len(flow.table)


@contextmanager
def stopped_at_its_cap(tmp_path: Path) -> Iterator[tuple[Flow, Path]]:
    """Buy two of four rows in shards, and give the flow and its `run.json`."""
    with dreamo.LocalGateway(engine="flat", price="0.02") as gateway:
        flow = Flow(tmp_path, gateway, 4)
        with pytest.raises(dreamo.BudgetReached):
            flow.run(cluster=1, max_cost="0.04")
        yield flow, flow.run_dir / "run.json"


@pytest.mark.parametrize("n_shards", [0, None, 8], ids=["said to have none", "not said", "said to be others"])
def test_shards_are_known_whatever_run_json_says_of_them(tmp_path, n_shards):
    """What they show as bought isn't bought again, and the cap over all of them stands."""
    with stopped_at_its_cap(tmp_path) as (flow, path):
        fields = json.loads(path.read_text()) | {"n_shards": n_shards}
        if n_shards is None:
            del fields["n_shards"]
        path.write_text(json.dumps(fields))
        assert dreamo.status(flow.run_dir)["max_cost_usd"] == "0.04"
        with pytest.raises(dreamo.BudgetReached):
            flow.run()
        assert len(flow.invoice()) == 2
        assert (flow.run(max_cost="0.08")["status"] == "completed").all()
        assert len(flow.invoice()) == 4
        assert json.loads(path.read_text())["n_shards"] == 64
        assert dreamo.verify(flow.run_dir) == []


@pytest.mark.parametrize("cap", ["NaN", "0,04", "inf", ["0.04"]], ids=str)
def test_a_cap_over_shards_that_can_not_be_read_lets_nothing_be_bought(tmp_path, cap):
    """That file also says whose run it is, so it is to be restored."""
    with stopped_at_its_cap(tmp_path) as (flow, path):
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | {"cap": cap}))
        with pytest.raises(
            dreamo.LedgerDamaged,
            match=r"run\.json is missing or can't be read in .* with shards",
        ):
            flow.run()
        assert len(dreamo.load(flow.run_dir)) == 4
        with pytest.raises(dreamo.LedgerDamaged, match="nothing is bought"):
            dreamo.plan(flow.table, flow.run_dir)
        with pytest.warns(UserWarning, match="if the run has a cap, it isn't shown"):
            assert dreamo.status(flow.run_dir)["max_cost_usd"] is None
        assert any("it isn't shown" in notice for notice in dreamo.watch(flow.run_dir).status.notices)
        assert dreamo.verify(flow.run_dir) == ["run.json is missing or can't be read; restore it from a copy"]
        path.write_text(before)
        with pytest.raises(dreamo.BudgetReached):
            flow.run()
        assert len(flow.invoice()) == 2


@pytest.mark.parametrize("change", [{"cap": None}, {"cap": "99"}])
def test_a_cap_over_shards_is_not_lifted_in_run_json(tmp_path, change):
    """It is kept beside its slices, too; only a call changes it."""
    with stopped_at_its_cap(tmp_path) as (flow, path):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        for _ in range(2):
            with pytest.raises(dreamo.BudgetReached):
                flow.run(max_new_cost="0.50")
        assert len(flow.invoice()) == 2
        assert json.loads(path.read_text())["cap"] == "0.04"
        with pytest.raises(dreamo.BudgetReached):
            flow.run(max_cost="0.06")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"cap": "99"}))
        with pytest.raises(dreamo.BudgetReached):
            flow.run()
        assert len(flow.invoice()) == 3
        assert flow.run(max_cost=math.inf)["status"].eq("completed").all()
        assert len(flow.invoice()) == 4
