"""A run in shards, worked on by several processes: the same jobs and bills as in one, and each bought once."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import threading
from collections import Counter
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from decimal import Decimal
from itertools import chain
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch import parallel, shards
from dreamo_batch.call import Call
from dreamo_batch.engine import directory, store
from dreamo_batch.engine.directory import RunDirectory, shard_of
from dreamo_batch.engine.status import Snapshot
from dreamo_batch.errors import (
    BudgetReached,
    DirectoryLocked,
    LedgerDamaged,
    RunStopped,
    StorageFailed,
    UsageError,
)
from dreamo_batch.gateway.tasks import size_price
from dreamo_batch.service.client import Client
from dreamo_batch.shards import SIGNAL, Pulse, ShardedCall
from tests.flows import PATIENCE_S, Slow, until

QUIET = {"progress": False}
GOLDEN = {
    "00000000000000000000000000000000": "shards/00",
    "03ffffffffffffffffffffffffffffff": "shards/00",
    "04000000000000000000000000000000": "shards/01",
    "2b9634ce099d59a95602b68fd8f888a2": "shards/0a",
    "7dc8883f2f78cebe6031e8aee88d89bd": "shards/1f",
    "ffffffffffffffffffffffffffffffff": "shards/3f",
}


class Here(Executor):
    """Does each task at once, in this thread, as often as it is told, after its own trip through a pickle."""

    def __init__(self, times: int = 1) -> None:
        self.times = times
        self.tasks = []

    def submit(self, do, /, *args):
        self.tasks.append((do, args))
        future = Future()
        for _ in range(self.times):
            do, args = pickle.loads(pickle.dumps((do, args)))  # noqa: S301 - our own
            answer = pickle.loads(pickle.dumps(do(*args)))  # noqa: S301 - our own
        future.set_result(answer)
        return future


@pytest.fixture(autouse=True)
def _quick_beat(monkeypatch):
    monkeypatch.setattr("dreamo_batch.shards._BEAT_S", 0.1)


@pytest.fixture
def gateway():
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.01") as running:
        yield running


@pytest.fixture(scope="module")
def in_three_shards(tmp_path_factory):
    """Eight jobs of three shards: each takes a while to open."""
    reference = tmp_path_factory.mktemp("reference") / "reference.png"
    Image.new("RGB", (64, 64), "orange").save(reference)
    prompts = ["on a beach", "at night"]
    table = dreamo.sweep(
        image=str(reference), prompt=prompts, seed=range(1, 90), size="512x512", use_rephraser=False
    )
    of_shard = dreamo.plan(table)["job_id"].map(shard_of)
    found = [
        table[(of_shard == shard).to_numpy()].head(n)
        for shard, n in zip(of_shard.value_counts().index, (3, 3, 2), strict=False)
    ]
    return pd.concat(found, ignore_index=True)


@pytest.fixture
def jobs(in_three_shards):
    """Eleven rows: two alike, one without a seed, one invalid."""
    table = in_three_shards.assign(note=[f"row {n}" for n in range(8)])
    more = table.iloc[[0, 1]].assign(seed=[table["seed"].iloc[0], pd.NA], note="more")
    bad = table.iloc[[2]].assign(prompt="")
    table = pd.concat([table, more, bad], ignore_index=True)
    table.index = [f"r{n}" for n in range(len(table))]
    return table


def bought(gateway):
    return Counter((line["prompt"], line["seed"]) for line in gateway.invoice())


def billed(gateway):
    return sum((Decimal(line["cost"]) for line in gateway.invoice() if line["cost"]), Decimal(0))


def run(jobs, run_dir, gateway, **options):
    return dreamo.run(jobs, run_dir, gateway=gateway, on_invalid="skip", **{**QUIET, **options})


@pytest.mark.parametrize(("job_id", "shard"), GOLDEN.items())
def test_a_job_belongs_to_its_shard_for_ever(job_id, shard):
    assert shard_of(job_id) == shard


def test_shards_and_one_directory_give_equal_jobs_bills_and_tables(jobs, gateway, tmp_path):
    plain = run(jobs, tmp_path / "plain", gateway, unit_cost="0.03")
    n_plain = billed(gateway)
    engine = Here()
    # The seed that is drawn follows from the directory, so it is given here.
    told = jobs.assign(seed=plain["seed_sent"].astype("Int64"))
    parted = run(told, tmp_path / "parted", gateway, cluster=engine, unit_cost="0.03")
    assert billed(gateway) == 2 * n_plain
    same = [
        "note",
        "job_id",
        "status",
        "cost",
        "duplicate_of",
        "seed_sent",
        "output_sha256",
        "attempts",
        "error_code",
    ]
    pd.testing.assert_frame_equal(parted[same], plain[same])
    assert list(parted["output_path"].dropna()) == [
        f"{shard_of(job_id)}/images/{job_id}.jpg"
        for job_id in parted.loc[parted["output_path"].notna(), "job_id"]
    ]
    assert all((tmp_path / "parted" / path).is_file() for path in parted["output_path"].dropna())
    assert dreamo.load(tmp_path / "parted").equals(parted)
    assert dreamo.status(tmp_path / "parted") == dreamo.status(tmp_path / "plain")
    assert dreamo.costs(tmp_path / "parted", by="note").equals(dreamo.costs(tmp_path / "plain", by="note"))
    assert dreamo.verify(tmp_path / "parted", progress=False) == []
    assert not list((tmp_path / "parted").glob("shards/*/[jr]*s.parquet"))  # no tables, no results
    exported = [dreamo.export(done, tmp_path / "out" / name) for name, done in (("a", plain), ("b", parted))]
    assert [(one["pictures"], one["missing"]) for one in exported] == [(9, 0)] * 2
    names = [task.name for _, (tasks, _) in engine.tasks for task in tasks]
    assert sorted(names) == sorted(set(parted["job_id"].dropna().map(shard_of)))


def test_a_worker_has_several_shards_and_no_more_in_flight_than_its_part(jobs, gateway, tmp_path):
    """So none waits for a whole lot of them to end, and the service has no more at once than was asked for."""
    engine = Here()
    run(jobs, tmp_path / "run", gateway, cluster=engine, max_in_flight=6)
    handed_out = [(n_at_once, tasks) for _, (tasks, n_at_once) in engine.tasks]
    assert max(len(tasks) for _, tasks in handed_out) > 1
    for n_at_once, tasks in handed_out:
        assert {task.options.max_in_flight * n_at_once for task in tasks} == {6}


def test_the_disk_is_waited_for_only_where_a_promise_depends_on_it(jobs, gateway, tmp_path, monkeypatch):
    """How far a worker is, and what is kept of pictures, may be lost."""
    fsync, waited = os.fsync, set()

    def noted(fd):
        path = Path(f"/proc/self/fd/{fd}").readlink()
        waited.add(re.sub(r"\.partial-\d+-", "", path.name) if path.parent.parent.name == "shards" else "")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    run(jobs, tmp_path / "run", gateway, cluster=Here())
    assert waited == {"", "images", "journal-000001.jsonl", "run.json", "checkpoint.parquet"}


def test_what_stops_one_shard_stops_the_next_of_its_worker(jobs, tmp_path, monkeypatch):
    """Before the worker says so, which it does once it has gone through all that it was given."""
    monkeypatch.setattr("dreamo_batch.shards._SHARE", 1)
    with dreamo.LocalGateway(engine="flat", faults={"script": {"create": ["http_402"]}}) as gateway:
        with pytest.raises(dreamo.AccessRefused):
            run(jobs, tmp_path / "run", gateway, cluster=Here(), max_in_flight=1)
        assert not gateway.invoice()


def test_a_worker_says_that_it_is_there_before_it_submits_anything(jobs, gateway, tmp_path, monkeypatch):
    """One that isn't heard of when the run is stopped is killed: what it had on the wire would be in doubt."""
    create, heard = Client.create, []

    def noted(*args, **options):
        heard.append({path.parent.name for path in (tmp_path / "run").glob("shards/*/pulse.json")})
        return create(*args, **options)

    monkeypatch.setattr(Client, "create", noted)
    monkeypatch.setattr(shards, "_BEAT_S", 1.0)
    done = run(jobs, tmp_path / "run", gateway, cluster=Here(), max_in_flight=1)
    assert set(done["status"]) == {"completed", "invalid"}
    assert all(heard)


def test_a_shard_that_is_run_again_buys_nothing(jobs, gateway, tmp_path):
    """Not even of rows that were failed and asked for again."""
    jobs, faults = jobs.head(3), {"create": {"error_code_error_message": 1.0}}
    with dreamo.LocalGateway(engine="flat", faults=faults) as refusing:
        failed = run(jobs, tmp_path / "run", refusing, cluster=Here(times=2))
        assert failed["status"].eq("failed").all()
        run(jobs, tmp_path / "run", refusing, cluster=Here(times=2), retry_failed=True)
    assert dreamo.attempts(tmp_path / "run").groupby("job_id")["attempt"].max().eq(2).all()
    engine = Here(times=2)
    done = dreamo.retry(tmp_path / "run", gateway=gateway, cluster=engine, **QUIET)
    assert done["status"].eq("completed").all()
    for do, args in engine.tasks:  # of a call that is over
        assert all(outcome.snapshot is None for outcome in do(*args))
    assert set(bought(gateway).values()) == {1}


def test_the_call_without_a_cluster_goes_on_in_this_process(jobs, gateway, tmp_path):
    first = run(jobs.head(4), tmp_path / "run", gateway, cluster=Here())
    done = run(jobs, tmp_path / "run", gateway)
    assert done.loc[first.index, "task_id"].equals(first["task_id"])
    assert dreamo.resume(tmp_path / "run", gateway=gateway, **QUIET)["task_id"].equals(done["task_id"])
    assert set(bought(gateway).values()) == {1}
    assert set(dreamo.plan(jobs, tmp_path / "run")["action"]) == {"reuse", "duplicate", "invalid"}


def test_an_ordinary_directory_refuses_several_processes(jobs, gateway, tmp_path):
    run(jobs, tmp_path / "run", gateway)
    with pytest.raises(UsageError, match="ordinary run directory"):
        run(jobs, tmp_path / "run", gateway, cluster=2)
    with pytest.raises(UsageError, match="ordinary run directory"):
        dreamo.resume(tmp_path / "run", gateway=gateway, cluster=2, **QUIET)
    with pytest.raises(UsageError, match="cluster="):
        run(jobs, tmp_path / "other", gateway, cluster="dask")


class Dying(Here):
    """Loses its worker once a shard is done."""

    def submit(self, do, /, *args):
        if self.tasks:
            raise BrokenProcessPool("a process was terminated abruptly")
        return super().submit(do, *args)


def test_an_executor_that_loses_its_workers_ends_the_call(jobs, gateway, tmp_path):
    """It can't be started anew from here; the next call goes on."""
    with pytest.raises(RunStopped, match=r"have failed \(a process was terminated"):
        run(jobs, tmp_path / "run", gateway, cluster=Dying(), max_in_flight=1)
    done = run(jobs, tmp_path / "run", gateway)
    assert done["status"].eq("completed").sum() == 10
    assert set(bought(gateway).values()) == {1}


class Silent(Here):
    """Its first worker says that it is there, then falls silent; it wakes once it is told to."""

    def submit(self, do, /, *args):
        if self.tasks:
            return super().submit(do, *args)
        self.tasks.append((do, args))
        for task in args[0]:
            shard = RunDirectory(f"{task.run_dir}/{task.name}")
            shard.path.mkdir(parents=True)
            beat_of(task, at=1.0, n_left=1)
        return Future()

    def wake(self):
        do, args = self.tasks[0]
        return do(*args)


def beat_of(task, at, n_left):
    """Say that a shard is worked on, as a worker does, with so many rows still to be bought."""
    shard = RunDirectory(f"{task.run_dir}/{task.name}")
    snapshot = Snapshot({"pending": n_left, "completed": 1}, Decimal(0), Decimal(0), None, n_in_flight=0)
    with mock.patch("time.time", return_value=at):
        shards._Parent(task, threading.Event()).report(shard, snapshot)


def test_the_shards_of_a_silent_worker_are_handed_out_anew(jobs, gateway, tmp_path, monkeypatch):
    """It is named, and buys nothing once it wakes."""
    monkeypatch.setattr(store, "STILL_S", 0.3)
    executor = Silent()
    done = run(jobs, tmp_path / "run", gateway, cluster=executor)
    handed_out = [[task.name for task in tasks] for _, (tasks, _) in executor.tasks]
    names = Counter(chain(*handed_out))
    assert names == {name: 2 if name in handed_out[0] else 1 for name in names}
    assert Counter(done["status"]) == {"completed": len(jobs) - 1, "invalid": 1}
    before = bought(gateway)
    assert set(before.values()) == {1}
    executor.wake()
    assert bought(gateway) == before


@pytest.mark.parametrize(
    ("beats", "silent"),
    [
        ([(1.0, 1), (1.0, 1), (1.0, 1)], 2),
        ([(1.0, 1), (1.0, 1), (2.0, 1)], 0),
        ([(1.0, 1), (1.0, 1), (2.0, 1), (2.0, 1)], 1),
        ([(1.0, 1), (1.0, 0), (1.0, 0)], 0),
        ([None, None, None], 0),
    ],
    ids=["silent", "heard again", "silent anew", "nothing left to do", "not begun"],
)
def test_a_worker_is_silent_while_it_has_work_and_says_nothing_new(tmp_path, monkeypatch, beats, silent):
    """Whoever waits for its turn, or is done and awaited, says nothing either."""
    task = mock.Mock(run_dir=str(tmp_path), call_id="call", pulse_id="worker")
    task.name = "shards/00"
    (tmp_path / task.name).mkdir(parents=True)
    monkeypatch.setattr(shards, "beat_s", lambda _run_dir: 20.0)
    call = ShardedCall(Call(RunDirectory(tmp_path), None, "entropy", None), 2)
    call._snapshots = {}
    work = shards._WorkerShards([task.name], task.pulse_id)
    for beat in beats:
        if beat is not None:
            beat_of(task, *beat)
        call._pulsed_at = 0.0
        call._read_pulses([work])
    assert work.silent_s == silent * 20.0


def test_a_worker_that_has_just_reported_is_not_given_up_where_dask_is_slow_at_a_stop(tmp_path, monkeypatch):
    """It may have creates on the wire; one that says nothing more is waited for no longer than a beat."""
    task = mock.Mock(run_dir=str(tmp_path), call_id="call", pulse_id="worker")
    task.name = "shards/00"
    (tmp_path / task.name).mkdir(parents=True)
    monkeypatch.setattr(parallel, "trouble_of", lambda _cluster: "Dask's scheduler doesn't answer.")
    call = ShardedCall(Call(RunDirectory(tmp_path), None, "entropy", None), Here())
    call._snapshots, call._table_id = {}, "call"
    work = shards._WorkerShards([task.name], task.pulse_id)
    beat_of(task, at=1.0, n_left=1)
    call._read_pulses([work])
    call.halt()
    lost = []
    for _ in range(2):
        call._read_pulses([work])
        lost.append(call._is_lost(work))
        call._pulsed_at = 0.0
    assert lost == [False, True]


def in_background(jobs, run_dir, gateway, **options):
    return dreamo.start(jobs.head(8), run_dir, gateway=gateway, **options)


def test_a_run_in_the_background_is_paused_stopped_and_resumed(jobs, tmp_path, monkeypatch):
    """Whoever works on its shards."""
    slow, events, paused = Slow(), [], []

    def pause(shard, *, is_paused):
        Call.pause(shard, is_paused=is_paused)
        if is_paused:
            paused.append(shard)

    monkeypatch.setattr(shards._ShardCall, "pause", pause)
    options = {"max_in_flight": 2, "on_event": events.append}
    with (
        dreamo.LocalGateway(engine="flat", latency="fixed:600", clock=slow) as gateway,
        ThreadPoolExecutor(1) as pool,
        in_background(jobs, tmp_path / "run", gateway, cluster=pool, **options) as batch,
    ):
        until(lambda: batch.status.n_in_flight == 2)
        assert dreamo.watch(tmp_path / "run").can_control
        assert batch.results()["status"].isin(["in_progress", "pending", "submitting"]).all()
        for again in (lambda: run(jobs, tmp_path / "run", gateway), batch.retry):
            with pytest.raises(DirectoryLocked, match="This process is working on the shards"):
                again()
        batch.pause()
        until(lambda: sum(shard.snapshot().n_in_flight for shard in paused) == 2)
        slow.speed_up()
        until(lambda: batch.status.n_settled == 2 and len(batch.status.newest) == 2)
        assert batch.status.phase == "paused"
        batch.stop()
        assert batch.wait(**QUIET)["status"].value_counts()["completed"] == 2
        assert batch.status.phase == "stopped"
        assert len(gateway.invoice()) == 2
        batch.resume()
        assert batch.wait(**QUIET)["status"].eq("completed").all()
        assert batch.status.phase == "finished"
        assert [event.kind for event in events] == ["stopped", "done"]
        assert set(bought(gateway).values()) == {1}


def test_a_higher_cap_lets_a_run_in_the_background_go_on(jobs, gateway, tmp_path):
    price = float(size_price(512, 512))
    batch = in_background(jobs, tmp_path / "run", gateway, cluster=Here(), max_cost=2.5 * price)
    with pytest.raises(BudgetReached, match="max_cost"):
        batch.wait(**QUIET)
    assert batch.status.is_cap_reached
    assert batch.status.problem.startswith("The cap of")
    batch.raise_budget("inf")
    assert batch.wait(**QUIET)["status"].eq("completed").all()
    assert batch.status.max_cost_usd is None
    assert set(bought(gateway).values()) == {1}


def test_a_cap_raised_while_shards_are_bought_counts_for_them(jobs, tmp_path):
    slow, price = Slow(), float(size_price(512, 512))
    options = {"max_in_flight": 4, "max_cost": 2.5 * price}
    with (
        dreamo.LocalGateway(engine="flat", latency="fixed:600", clock=slow) as gateway,
        ThreadPoolExecutor(1) as pool,
        in_background(jobs, tmp_path / "run", gateway, cluster=pool, **options) as batch,
    ):
        until(lambda: batch.status.n_in_flight == 2)
        batch.raise_budget(1)
        slow.speed_up()
        assert batch.wait(**QUIET)["status"].eq("completed").all()
        assert dreamo.status(tmp_path / "run")["max_cost_usd"] == "1"


class Kept(ThreadPoolExecutor):
    """Keeps what it was asked for."""

    def __init__(self, n):
        super().__init__(n)
        self.asked = []

    def submit(self, do, /, *args):
        self.asked.append(super().submit(do, *args))
        return self.asked[-1]


def test_a_cap_lifted_once_shards_are_short_of_it_lets_them_go_on(jobs, tmp_path):
    """While another is still being worked on."""
    slow, price = Slow(), float(size_price(512, 512))
    options = {"max_in_flight": 2, "max_cost": 1.5 * price}
    with (
        dreamo.LocalGateway(engine="flat", latency="fixed:600", clock=slow) as gateway,
        Kept(2) as pool,
        in_background(jobs, tmp_path / "run", gateway, cluster=pool, **options) as batch,
    ):
        until(lambda: len(gateway.invoice()) == 1 and sum(map(Future.done, pool.asked)) == 2)
        batch.raise_budget("inf")
        slow.speed_up()
        assert batch.wait(**QUIET)["status"].eq("completed").all()
        assert set(bought(gateway).values()) == {1}


def test_a_directory_that_is_moved_says_so(jobs, tmp_path):
    slow, options = Slow(), {"max_in_flight": 2}
    with (
        dreamo.LocalGateway(engine="flat", latency="fixed:600", clock=slow) as gateway,
        ThreadPoolExecutor(1) as pool,
    ):
        batch = in_background(jobs, tmp_path / "run", gateway, cluster=pool, **options)
        until(lambda: batch.status.n_in_flight == 2)
        (tmp_path / "run").rename(tmp_path / "moved")
        slow.speed_up()
        with pytest.raises(StorageFailed, match="moved or deleted during the run"):
            batch.wait(**QUIET)


def test_a_worker_that_fails_leaves_no_shard_under_way(jobs, tmp_path):
    with (
        dreamo.LocalGateway(engine="flat", latency="fixed:600", clock=Slow()) as gateway,
        ThreadPoolExecutor(1) as pool,
    ):
        batch = in_background(jobs, tmp_path / "run", gateway, cluster=pool, max_in_flight=2)
        until(lambda: batch.status.n_in_flight == 2)
        (tmp_path / "run" / SIGNAL).write_text("not such as a driver writes")
        with pytest.raises(RunStopped, match=r"have failed \(Expecting value"):
            batch.wait(**QUIET)
        assert not RunDirectory(tmp_path / "run").is_locked()


def test_a_worker_that_is_asked_to_end_more_than_once_ends(monkeypatch):
    """It goes back to no queue, whose lock may be held by a process that was killed."""
    raised = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)

    def told_twice(is_ending, _):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            assert is_ending.wait(PATIENCE_S)

    monkeypatch.setattr(shards, "_work_on_shard", told_twice)
    shards.work_on_shards(["a", "b"], 2)
    assert raised == [signal.SIGTERM]


def test_lost_answers_are_reported_whenever_their_number_doubles(jobs, tmp_path, monkeypatch):
    """Over all shards."""
    monkeypatch.setattr("dreamo_batch.shards._AT_ONCE", 1)
    faults, events = {"script": {"create": ["drop_before_accept"] * 8}}, []
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.01", faults=faults) as gateway:
        run(jobs.head(8), tmp_path / "run", gateway, cluster=Here(), on_event=events.append, max_in_flight=3)
    assert [event.message[:10] for event in events[:-1]] == ["3 attempts", "6 attempts", "8 attempts"]
    assert {event.kind for event in events[:-1]} == {"held"}


class Waiting(Here):
    """Does nothing before it is told to; its workers say that the service is away."""

    def submit(self, do, /, *args):
        future, ((task,), _) = Future(), args
        self.tasks.append((future, do, args))
        shard = Path(task.run_dir, task.name)
        shard.mkdir(parents=True, exist_ok=True)
        told = asdict(Pulse(task.pulse_id, 0.0, 1, "here")) | {
            "spent_usd": "0",
            "reserved_usd": "0",
            "outage": "The service is away.",
        }
        told |= {"max_cost_usd": None, "by_status": {}, "n_in_flight": 0}
        (shard / "pulse.json").write_text(json.dumps(told))
        return future


def test_an_outage_is_reported_once_while_it_lasts(jobs, gateway, tmp_path):
    """Not by each shard."""
    events, engine = [], Waiting()
    engine._max_workers = 3
    batch = in_background(jobs, tmp_path / "run", gateway, cluster=engine, on_event=events.append)
    until(lambda: len(engine.tasks) == 3 and batch.status.outage)
    for future, do, args in engine.tasks:
        future.set_result(do(*args))
    assert batch.wait(**QUIET)["status"].eq("completed").all()
    assert [event.kind for event in events] == ["outage", "done"]
    assert "The service is away." in batch.status.notices


@pytest.mark.parametrize("torn", ["shards.write_jobs", "engine.directory.RunDirectory.write_manifest"])
def test_a_call_that_ended_while_it_began_may_be_made_again(jobs, gateway, tmp_path, torn):
    with mock.patch(f"dreamo_batch.{torn}", side_effect=OSError), pytest.raises(StorageFailed):
        run(jobs, tmp_path / "run", gateway, cluster=Here())
    assert (
        run(jobs, tmp_path / "run", gateway, cluster=Here())["status"].eq("completed").sum() == len(jobs) - 1
    )


def test_a_directory_that_lost_its_manifest_is_refused(jobs, gateway, tmp_path):
    run(jobs.head(2), tmp_path / "run", gateway, cluster=Here())
    (tmp_path / "run" / "run.json").rename(tmp_path / "run.json")
    for again in ({}, {"cluster": Here()}):
        with pytest.raises(LedgerDamaged, match="missing"):
            run(jobs.head(2), tmp_path / "run", gateway, **again)
    (tmp_path / "run.json").rename(tmp_path / "run" / "run.json")
    assert run(jobs.head(2), tmp_path / "run", gateway)["status"].eq("completed").all()


def test_the_key_stays_here(jobs, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMO_BASE_URL", "https://example.com")
    for service in ({"api_key": "sk-secret-key"}, {"client": dreamo.Client(api_key="sk-secret-key")}):
        with pytest.raises(UsageError, match="DREAMO_API_KEY"):
            dreamo.run(
                jobs, tmp_path / "run", on_invalid="skip", cluster=ThreadPoolExecutor(1), **service, **QUIET
            )


def test_ambiguous_rows_are_settled_in_their_shard(jobs, tmp_path):
    faults = {"script": {"create": ["drop_before_accept"]}}
    with dreamo.LocalGateway(engine="flat", faults=faults) as gateway:
        done = run(jobs, tmp_path / "run", gateway, cluster=Here(), max_in_flight=1)
        (row,) = done.index[(done["status"] == "ambiguous") & done["duplicate_of"].isna()]
        others = done["task_id"].dropna().iloc[0]
        with pytest.raises(UsageError, match=f"Task {others} already belongs"):
            dreamo.resolve(tmp_path / "run", row, task_id=others)
        settled = dreamo.resolve(tmp_path / "run", row, not_sent=True)
        assert settled.loc[row, "status"] == "pending"
        done = run(jobs, tmp_path / "run", gateway)
        assert done["status"].isin(["completed", "invalid"]).all()
        assert set(bought(gateway).values()) == {1}


def test_missing_pictures_are_fetched_in_their_shards(jobs, gateway, tmp_path):
    done = run(jobs, tmp_path / "run", gateway, cluster=Here(), download=False)
    assert done["output_path"].isna().all()
    done = dreamo.download(tmp_path / "run", gateway=gateway, **QUIET)
    assert done["output_path"].notna().sum() == 10
    assert all((tmp_path / "run" / path).is_file() for path in done["output_path"].dropna())


@pytest.mark.parametrize("cluster", [None, Here()], ids=["plain", "shards"])
def test_attempts_are_scanned_as_a_dataset(jobs, gateway, tmp_path, cluster):
    done = run(jobs, tmp_path / "run", gateway, cluster=cluster)
    found = dreamo.scan(tmp_path / "run").to_table().to_pandas()
    assert sorted(found["task_id"].dropna()) == sorted(set(done["task_id"].dropna()))
    assert found["stage"].eq("completed").all()
    if cluster is not None:
        paths = "shards/" + found["shard"] + "/" + found["output_path"]
        assert set(paths) == set(done["output_path"].dropna())
        # What a worker that was killed left behind is in its journals.
        some = next(iter(RunDirectory(tmp_path / "run").shards().values())).path
        (some / "checkpoint.parquet").unlink()
        again = dreamo.scan(tmp_path / "run").to_table().to_pandas()
        assert sorted(again["task_id"]) == sorted(found["task_id"])


def test_the_cap_holds_over_all_shards(jobs, gateway, tmp_path, monkeypatch):
    """Also one set later, over what was bought before; the call goes on when it is raised."""
    monkeypatch.setattr(directory, "_born_at", lambda _path: "1.0")  # all are made in the same moment
    first = run(jobs.head(3), tmp_path / "run", gateway, cluster=Here())
    assert first["status"].eq("completed").all()
    before = billed(gateway)
    price = before / 3
    with pytest.raises(BudgetReached, match="max_cost") as stopped:
        run(jobs, tmp_path / "run", gateway, max_cost=before + 2 * price)
    assert billed(gateway) == before + 2 * price
    assert stopped.value.results["status"].eq("completed").sum() >= 5
    assert dreamo.status(tmp_path / "run")["max_cost_usd"] == str((before + 2 * price).normalize())
    with pytest.raises(BudgetReached, match="max_new_cost"):
        run(jobs, tmp_path / "run", gateway, max_cost="inf", max_new_cost=price, cluster=Here())
    assert billed(gateway) == before + 3 * price
    done = run(jobs, tmp_path / "run", gateway, max_cost=1, cluster=Here())
    assert done["status"].eq("completed").sum() == 10
    assert set(bought(gateway).values()) == {1}
    again = run(jobs.assign(prompt=jobs["prompt"] + " again"), tmp_path / "run", gateway, max_cost="inf")
    assert again["status"].eq("completed").sum() >= 10


def test_shards_belong_to_a_budget_that_others_share(jobs, gateway, tmp_path):
    """What was spent here is that of all shards, none of which is another directory."""
    team = dreamo.Budget(tmp_path / "team.budget", cap="0.02")
    with pytest.raises(BudgetReached, match="shared budget") as reached:
        run(jobs, tmp_path / "run", gateway, cluster=Here(), budget=team)
    assert re.search(r"\$0\.01\d+ spent and .* rows not submitted. No other directory", str(reached.value))
    assert billed(gateway) <= Decimal("0.02")
    n_before = len(gateway.invoice())
    assert n_before > 0
    with pytest.raises(BudgetReached, match="shared budget"):
        run(jobs, tmp_path / "run", gateway)
    with pytest.raises(UsageError, match="one cap"):
        run(jobs, tmp_path / "run", gateway, max_cost=1)
    assert len(gateway.invoice()) == n_before
    dreamo.Budget(tmp_path / "team.budget", cap=1)
    assert run(jobs, tmp_path / "run", gateway)["status"].eq("completed").sum() == 10
    assert sum(map(Decimal, team.status()["spent"])) == billed(gateway)
