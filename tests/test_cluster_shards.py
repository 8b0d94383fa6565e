"""A run in shards, worked on by several processes: the same jobs and bills as in one, and each bought once."""

from __future__ import annotations

import pickle
from collections import Counter
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from decimal import Decimal

import pandas as pd
import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch.engine.directory import RunDirectory, shard_of
from dreamo_batch.errors import BudgetReached, LedgerDamaged, RunStopped, UsageError

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


@pytest.fixture
def gateway():
    with dreamo.LocalGateway(engine="flat") as running:
        yield running


@pytest.fixture
def jobs(tmp_path):
    """Ten rows: two alike, one without a seed, one invalid."""
    reference = tmp_path / "reference.png"
    Image.new("RGB", (64, 64), "orange").save(reference)
    table = dreamo.sweep(
        image=str(reference), prompt=["on a beach", "at night"], seed=range(1, 5), size="512x512"
    )
    table = table.assign(note=[f"row {n}" for n in range(8)], use_rephraser=False)
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
    assert len(engine.tasks) == parted["job_id"].dropna().map(shard_of).nunique()


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
        assert do(*args).snapshot is None
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
    with pytest.raises(RunStopped, match="died"):
        run(jobs, tmp_path / "run", gateway, cluster=Dying())
    done = run(jobs, tmp_path / "run", gateway)
    assert done["status"].eq("completed").sum() == 10
    assert set(bought(gateway).values()) == {1}


def test_what_does_not_work_on_shards_says_so(jobs, gateway, tmp_path):
    run(jobs.head(2), tmp_path / "run", gateway, cluster=Here())
    with pytest.raises(UsageError, match="start"):
        dreamo.start(jobs, tmp_path / "run", gateway=gateway)
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


def test_the_cap_holds_over_all_shards(jobs, gateway, tmp_path):
    """Also one set later, over what was bought before; the call goes on when it is raised."""
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
    team = dreamo.Budget(tmp_path / "team.budget", cap="0.02")
    with pytest.raises(BudgetReached, match="shared budget"):
        run(jobs, tmp_path / "run", gateway, cluster=Here(), budget=team)
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
