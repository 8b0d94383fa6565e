"""One cap over many run directories and people, compared with the gateway's invoice to the last digit."""

from __future__ import annotations

import errno
import random
import shutil
import signal
import time
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest

import dreamo_batch as dreamo
from dreamo_batch.engine import directory
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.shared_budget import BudgetShare
from dreamo_batch.engine.store import FolderStore
from dreamo_batch.results.load import read_state
from tests.flows import IS_LONG, Flow, Slow
from tests.fork_server import ForkServer
from tests.object_server import object_server

PRICE = Decimal("0.0301")


@pytest.fixture
def gateway():
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.05", price=str(PRICE)) as running:
        yield running


@pytest.fixture
def place(tmp_path):
    return tmp_path / "team.budget"


def flow(tmp_path, gateway, name, n_rows=6):
    (tmp_path / name).mkdir()
    return Flow(tmp_path / name, gateway, n_rows)


def billed(gateway):
    return sum((Decimal(line["cost"] or 0) for line in gateway.invoice()), Decimal(0))


def spent(status):
    return sum(map(Decimal, status["spent"]), Decimal(0))


def granted(budget):
    status = budget.status()
    return sum(
        (Decimal(amount) for name in ("spent", "reserved", "held") for amount in status[name]), Decimal(0)
    )


def slice_of(run_dir):
    return read_state(RunDirectory(run_dir)).terms.slice


def test_a_budget_offers_only_what_is_meant_for_its_users():
    """What the engine does with it is no method."""
    assert [name for name in dir(dreamo.Budget) if not name.startswith("_")] == ["status"]


def test_directories_and_people_share_a_cap(tmp_path, gateway, place):
    """Each its part, and a user no more than theirs."""
    dreamo.Budget(place, cap=PRICE * 7, per_user=PRICE * 4)
    (place / "slices" / "Thumbs.db").touch()  # as other programs leave in shared folders
    anna, ben = (dreamo.Budget(place, user=name) for name in ("anna", "ben"))
    with pytest.raises(
        dreamo.BudgetReached, match=r"^anna's part of the shared budget .*, \$0.1204, is used up"
    ):
        flow(tmp_path, gateway, "a").run(budget=anna)
    with pytest.raises(
        dreamo.BudgetReached,
        match=r"^The shared budget .*\$\S+ was spent in other directories. No other directory holds any of it",
    ):
        flow(tmp_path, gateway, "b").run(budget=ben)
    status = anna.status()
    assert status[["user", "spent", "reserved", "held"]].to_numpy().tolist() == [
        ["anna", str(PRICE * 4), "0", "0"],
        ["ben", str(PRICE * 3), "0", "0"],
    ]
    assert status["directory"].tolist() == [str(tmp_path / name / "run") for name in "ab"]
    assert spent(status) == billed(gateway) == PRICE * 7
    assert "$0.2107 spent, $0.00 reserved, $0.00 held by runs. $0.00 left." in repr(status)


def test_what_a_run_doesnt_need_others_get(tmp_path, gateway, place):
    """At its end, at the latest; and its own cap holds as well."""
    budget = dreamo.Budget(place, cap=PRICE * 8)
    with pytest.raises(dreamo.BudgetReached, match=r"The cap of \$0.07 is reached"):
        flow(tmp_path, gateway, "a").run(budget=place, max_cost="0.07")
    flow(tmp_path, gateway, "b").run(budget=str(place))
    assert spent(budget.status()) == billed(gateway) == PRICE * 8


def test_a_directory_stays_in_its_budget(tmp_path, gateway, place):
    """Also for calls that don't name it."""
    dreamo.Budget(place, cap=PRICE * 2)
    one = flow(tmp_path, gateway, "a")
    for options in ({"budget": place}, {}, {"max_cost": "inf"}):
        with pytest.raises(dreamo.BudgetReached, match=r"team\.budget"):
            one.run(**options)
    with pytest.raises(dreamo.BudgetReached):
        dreamo.resume(one.run_dir, client=dreamo.Client(base_url=gateway.base_url, api_key=gateway.api_key))
    dreamo.Budget(place, cap=1)
    one.run()
    one.assert_bought_once()


def test_a_run_gets_more_while_it_goes_once_another_has_ended(tmp_path, place):
    """It asks again between two attempts, and says who holds what if it must stop."""
    slow = Slow()
    anna, ben = (dreamo.Budget(place, cap=PRICE * 8, user=name) for name in ("anna", "ben"))
    with dreamo.LocalGateway(engine="flat", latency="fixed:1000", clock=slow, price=str(PRICE)) as gateway:
        one, other = flow(tmp_path, gateway, "a"), flow(tmp_path, gateway, "b")
        live = dreamo.start(one.table, one.run_dir, gateway=gateway, budget=anna, max_in_flight=1)
        holds = rf"\$0.1806 by anna in {one.run_dir} on .* once others have given something back"
        with pytest.raises(dreamo.BudgetReached, match=holds):
            other.run(task_timeout_s=0.2, budget=ben)
        again = dreamo.start(other.table, other.run_dir, gateway=gateway)
        live.stop()
        until = time.monotonic() + 60
        while set(anna.status()["held"]) != {"0"} and time.monotonic() < until:
            time.sleep(0.02)
        while not again.status.is_over and time.monotonic() < until:
            slow.let_tasks_end()
            time.sleep(0.05)
        assert again.wait(progress=False)["status"].eq("completed").all()
        assert granted(anna) <= PRICE * 8
        assert len(other.invoice()) == 6


@pytest.mark.parametrize("moment", ["granted", "written down", "lowered"])
def test_a_killed_run_holds_its_slice_until_the_next_call(tmp_path, gateway, place, moment, monkeypatch):
    """At whatever moment: the slice in its ledger is never more than what the budget granted."""
    budget = dreamo.Budget(place, cap=PRICE * 6)
    one = flow(tmp_path, gateway, "a", 4)
    if moment == "granted":
        more = BudgetShare.more
        monkeypatch.setattr(BudgetShare, "more", lambda *given: [more(*given), 1 / 0])
        with pytest.raises(ZeroDivisionError):
            one.run(budget=place)
    elif moment == "written down":
        monkeypatch.setattr(BudgetShare, "give_back", lambda *_: None)
        monkeypatch.setattr("dreamo_batch.engine.coordinator.Coordinator.lower_slice", lambda *_: None)
        one.run(one.table.head(2), budget=place)
        one.run()
    else:
        monkeypatch.setattr(BudgetShare, "give_back", lambda *_: None)
        one.run(one.table.head(2), budget=place)
    monkeypatch.undo()
    assert Decimal(slice_of(one.run_dir) or 0) <= granted(budget) <= PRICE * 6
    one.run(budget=place)
    assert budget.status()[["spent", "held"]].to_numpy().tolist() == [[str(PRICE * 4), "0"]]
    assert spent(budget.status()) == billed(gateway)


@pytest.mark.slow
def test_a_row_that_was_not_sent_gives_back_what_it_held(tmp_path, place):
    """At once, when it is resolved, before anything else is called."""
    faults = {"script": {"create": ["drop_before_accept"]}}
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.05", price=str(PRICE), faults=faults) as gateway:
        one, budget = flow(tmp_path, gateway, "one", 2), dreamo.Budget(place, cap=1)
        done = one.run(budget=budget, max_in_flight=1)
        assert granted(budget) == 2 * PRICE
        dreamo.resolve(one.run_dir, done.index[done["status"] == "ambiguous"][0], not_sent=True)
        assert granted(budget) == spent(budget.status()) == PRICE == Decimal(slice_of(one.run_dir))
        one.assert_finishes()
        assert granted(budget) == billed(gateway) == 2 * PRICE


def test_processes_that_are_killed_never_pass_the_cap(tmp_path, gateway, place):
    """Two at once on two directories, kill -9 at random moments, until the budget is used up."""
    chance = random.Random(7)
    n_kills, n_rows = (60, 400) if IS_LONG else (3, 30)
    cap = PRICE * n_rows
    budget = dreamo.Budget(place, cap=cap)
    flows = [flow(tmp_path, gateway, name, n_rows) for name in "ab"]
    for one in flows:
        dreamo.write_table(one.table, one.run_dir.with_name("jobs.csv"))
    with ForkServer() as server:

        def start(one):
            table, errors = (str(one.run_dir.with_name(name)) for name in ("jobs.csv", "errors.txt"))
            options = ["--run-dir", str(one.run_dir), "--base-url", gateway.base_url, "--budget", str(place)]
            env = {"DREAMO_API_KEY": gateway.api_key}
            return server.start(["run", table, "--yes", "--no-cap", *options], env, Path(errors))

        for _ in range(n_kills):
            children = [start(one) for one in flows]
            n = len(gateway.invoice()) + chance.randint(1, 4)
            until = time.monotonic() + 30
            while len(gateway.invoice()) < n and time.monotonic() < until:
                time.sleep(0.005)
            for child in children:
                child.send_signal(signal.SIGKILL)
                child.wait(60)
            assert granted(budget) <= cap
            assert billed(gateway) <= cap
        for one in [*flows, *flows]:
            assert start(one).wait(300) in (0, 1, 3)
    status = budget.status()
    known = {a.task_id for one in flows for a in one.attempts()}
    in_doubt = [line for line in gateway.invoice() if line["id"] not in known]
    assert spent(status) + sum(Decimal(line["cost"]) for line in in_doubt) == billed(gateway) <= cap
    assert cap - granted(budget) < PRICE  # nothing that was wanted is left
    for one in flows:
        one.assert_bought_once()
        one.assert_money_adds_up()


def test_prices_above_the_reservation_leave_others_less(tmp_path, place):
    """As under the cap of one directory, attempts in flight may pass the slice; then nothing more is granted."""
    prices = iter([PRICE] * 2 + [PRICE * 3] * 100)
    budget = dreamo.Budget(place, cap=PRICE * 6)
    with dreamo.LocalGateway(engine="flat", price=lambda _: str(next(prices))) as gateway:
        one, other = flow(tmp_path, gateway, "a"), flow(tmp_path, gateway, "b")
        one.run(budget=place, unit_cost=PRICE)
        with pytest.raises(dreamo.BudgetReached):
            other.run(budget=place, unit_cost=PRICE)
        assert spent(budget.status()) == billed(gateway) == PRICE * 14
        assert Decimal(slice_of(one.run_dir)) <= PRICE * 6  # no more than was granted, whatever is killed now
        assert "$0.1806. $0.4214 spent, $0.00 reserved, $0.00 held by runs. $0.00 left." in repr(
            budget.status()
        )


def test_a_directory_with_a_past_joins_if_there_is_room(tmp_path, gateway, place):
    """What was spent in it before counts."""
    one = flow(tmp_path, gateway, "a", 4)
    one.run(one.table.head(3))
    budget = dreamo.Budget(place, cap=PRICE * 2)
    with pytest.raises(dreamo.UsageError, match=r"can't join .* \$0.0903 was spent .* only \$0.0602 is left"):
        one.run(budget=place)
    assert len(budget.status()) == 0
    dreamo.Budget(place, cap=PRICE * 4)
    one.run(budget=place)
    assert spent(budget.status()) == PRICE * 4


def test_a_slice_is_known_on_a_machine_that_does_not_tell_when_files_were_made(
    tmp_path, gateway, place, monkeypatch
):
    """A directory may be shared by machines of different age."""
    dreamo.Budget(place, cap=PRICE * 8)
    one = flow(tmp_path, gateway, "a", 2)
    one.run(one.table.head(1), budget=place)
    monkeypatch.setattr(directory, "_born_at", lambda _path: "")
    assert one.run()["status"].eq("completed").all()


def test_a_slice_is_known_on_a_disk_that_numbers_its_files_anew(tmp_path, gateway, place, monkeypatch):
    """As exFAT does at each mount."""
    budget = dreamo.Budget(place, cap=PRICE * 8)
    one = flow(tmp_path, gateway, "a", 2)
    for number, n_rows in enumerate((1, 2)):
        monkeypatch.setattr(
            RunDirectory, "folder_identity", lambda _self, number=number: f"{number}-7.120000000"
        )
        done = one.run(one.table.head(n_rows), budget=place)
        assert done["status"].eq("completed").all()
    assert len(budget.status()) == 1


def test_a_copy_takes_a_slice_of_its_own(tmp_path, gateway, place):
    """The original may still spend the one that was copied."""
    budget = dreamo.Budget(place, cap=PRICE * 8)
    one = flow(tmp_path, gateway, "a")
    one.run(one.table.head(2), budget=place)
    shutil.copytree(one.run_dir, one.run_dir.with_name("copy"))
    two = flow(tmp_path, gateway, "b")
    two.run_dir = one.run_dir.with_name("copy")
    with pytest.raises(dreamo.BudgetReached):
        two.run(adopt_copy=True)
    assert len(budget.status()) == 2
    assert granted(budget) <= PRICE * 8
    shutil.copytree(one.run_dir, tmp_path / "another")
    two.run_dir = tmp_path / "another"
    with pytest.raises(dreamo.UsageError, match=r"can't join .* only \$0.00 is left"):
        two.run(adopt_copy=True)


def test_a_price_must_be_known(tmp_path, place):
    """A pilot would not be limited by the budget."""
    dreamo.Budget(place, cap=1)
    with dreamo.LocalGateway(engine="flat", precharge="missing") as gateway:
        one = flow(tmp_path, gateway, "a")
        for options in ({}, {"pilot": 2}):
            with pytest.raises(
                dreamo.PriceUnknown,
                match=r"budget= can't be enforced .* Pass unit_cost= \(USD per attempt\)\.$",
            ):
                one.run(budget=place, **options)
        assert gateway.invoice() == []


@pytest.mark.parametrize("cap", ["nan", "-1", "lots", float("inf"), True])
def test_an_amount_that_is_none_is_refused(place, cap):
    for options in ({"cap": cap}, {"cap": 1, "per_user": "nan"}):
        with pytest.raises(dreamo.UsageError, match="must be an amount in USD"):
            dreamo.Budget(place, **options)
    assert not place.exists()


def test_a_budget_has_to_be_there(tmp_path, gateway, place):
    """None is made by a slip of the pen, and none without a cap."""
    for given in (place, str(place)):
        with pytest.raises(
            dreamo.UsageError, match=r"No budget at .*team.budget. Pass cap= \(USD\) to start one"
        ):
            flow(tmp_path, gateway, f"a{type(given).__name__}").run(budget=given)
    with pytest.raises(dreamo.UsageError, match="budget must be a path"):
        flow(tmp_path, gateway, "b").run(budget=200)
    with pytest.raises(dreamo.UsageError, match="user must be a name, not 5"):
        dreamo.Budget(place, cap=1, user=5)
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(dreamo.UsageError, match="exists but isn't a budget"):
            dreamo.Budget(taken, cap=1)
    assert gateway.invoice() == []
    (place / "slices").mkdir(parents=True)
    (place / "slices" / ".half").touch()  # left by a process that was killed while it made it
    dreamo.Budget(place, cap=1)


@pytest.mark.parametrize("is_login", [True, False])
def test_a_name_that_no_table_can_hold_is_escaped(tmp_path, gateway, place, monkeypatch, is_login):
    """Such as one of bytes that aren't UTF-8."""
    if is_login:
        monkeypatch.setenv("LOGNAME", "ann\udce9")
    budget = dreamo.Budget(place, cap=1, user=None if is_login else "ann\udce9")
    one = flow(tmp_path, gateway, "a", n_rows=1)
    one.run(budget=budget)
    status = budget.status()
    assert (status["user"].tolist(), spent(status)) == (["ann\\udce9"], PRICE)


def test_a_cap_is_not_lowered_below_what_is_granted(tmp_path, gateway, place):
    budget = dreamo.Budget(place, cap=1, per_user=1, user="anna")
    flow(tmp_path, gateway, "a").run(budget=budget)
    with pytest.raises(
        dreamo.UsageError, match=r"\$0.10: \$0.1806 is granted already. Choose at least that much.$"
    ):
        dreamo.Budget(place, cap="0.1")
    with pytest.raises(dreamo.UsageError, match=r"per_user can't .* \$0.1806 is granted to anna already"):
        dreamo.Budget(place, per_user="0.1")
    assert repr(budget) == f"Budget({str(place)!r}, user='anna')"
    assert "$0.20. $0.1806 spent" in repr(dreamo.Budget(place, cap="0.2", per_user="inf").status())


def test_a_budget_that_forgot_what_it_granted_grants_nothing(tmp_path, gateway, place):
    """A new one or an older copy in its place would pass the cap."""
    dreamo.Budget(place, cap=PRICE * 2)
    one = flow(tmp_path, gateway, "a")
    with pytest.raises(dreamo.BudgetReached):
        one.run(budget=place)
    place.rename(place.with_name("moved"))
    with pytest.raises(dreamo.UsageError, match="No budget at"):
        one.run()
    dreamo.Budget(place, cap=1)
    with pytest.raises(dreamo.LedgerDamaged, match="replaced by a new one or an older copy"):
        one.run()
    dreamo.Budget(tmp_path / "another", cap=1)
    with pytest.raises(dreamo.UsageError, match=r"belongs to the budget .*team\.budget, and stays in it"):
        one.run(budget=tmp_path / "another")
    with pytest.raises(dreamo.BudgetReached, match="moved"):
        one.run(budget=place.with_name("moved"))
    dreamo.Budget(place.with_name("moved"), cap=1)
    one.run()
    one.assert_bought_once()


@pytest.mark.parametrize("cap", [None, 1])
def test_a_copied_budget_is_read_but_spent_from_only_when_asked(tmp_path, gateway, place, cap):
    """Its original could be spent from as well, and both would pass the cap."""
    budget = dreamo.Budget(place, cap=PRICE * 8)
    one, two, three = (flow(tmp_path, gateway, name, n) for name, n in (("a", 6), ("b", 2), ("c", 1)))
    one.run(one.table.head(2), budget=budget)
    copy = shutil.copytree(place, tmp_path / "copy.budget")
    place = place.rename(tmp_path / "moved.budget")
    assert spent(dreamo.Budget(copy, cap=cap).status()) == PRICE * 2
    with pytest.raises(dreamo.DirectoryError, match=r"is a copy of a budget .* adopt_copy=True"):
        two.run(budget=copy)
    two.run(budget=copy, adopt_copy=True)
    three.run(budget=copy)
    one.run(one.table.head(3), budget=place)
    assert spent(dreamo.Budget(copy).status()) == PRICE * 5


def test_no_run_is_made_where_a_budget_keeps_its_records(tmp_path, gateway, place):
    """Nor is a budget made where a run is."""
    dreamo.Budget(place, cap=1)
    one = flow(tmp_path, gateway, "a", 1)
    for inside in (place, place / "run", place / "slices"):
        one.run_dir = inside
        with pytest.raises(
            dreamo.DirectoryError, match=r"lies in the budget .*team\.budget\. Choose another"
        ):
            one.run()
    assert gateway.invoice() == []
    assert len(dreamo.Budget(place).status()) == 0


def test_an_edited_budget_stops_runs(tmp_path, gateway, place):
    dreamo.Budget(place, cap=PRICE)
    (record,) = (place / "slices").iterdir()
    record.write_bytes(record.read_bytes().replace(b'"cap":"0.0', b'"cap":"9.0'))
    with pytest.raises(dreamo.LedgerDamaged, match="record 1 was changed"):
        flow(tmp_path, gateway, "a").run(budget=place)
    with pytest.raises(dreamo.LedgerDamaged, match="record 1 was changed"):
        dreamo.Budget(place, cap=1)
    record.with_name(f"{record.name} (conflicted copy)").touch()
    with pytest.raises(dreamo.LedgerDamaged, match=r"1 \(conflicted copy\) is there in place of record 2"):
        dreamo.Budget(place)
    assert gateway.invoice() == []


@pytest.fixture
def n_writes(monkeypatch):
    """How many more records can be written before the disk refuses them; set its only item."""
    left = [10**6]
    put = FolderStore.put_new

    def limited(store, name, content):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(store, name, content)

    monkeypatch.setattr(FolderStore, "put_new", limited)
    return left


def test_nothing_is_bought_without_a_slice(tmp_path, gateway, place, n_writes):
    dreamo.Budget(place, cap=1)
    n_writes[0] = 0
    with pytest.raises(
        dreamo.DirectoryError,
        match=r"Can't use the budget .* \(No space left on device\)\. Nothing was submitted",
    ):
        flow(tmp_path, gateway, "a").run(budget=place)
    assert gateway.invoice() == []


@pytest.mark.parametrize("cap", [4, 9])
def test_a_run_goes_on_with_its_slice_if_the_budget_is_away(tmp_path, gateway, n_writes, caplog, cap):
    """It says so, and the next call takes more, or gives back what is left."""
    place = tmp_path / "team.budget"
    budget = dreamo.Budget(place, cap=PRICE * cap)
    one = flow(tmp_path, gateway, "a")
    n_writes[0] = 1
    with suppress(dreamo.BudgetReached):
        one.run(budget=place)
    n_bought = 2 if cap == 4 else 6
    assert billed(gateway) == granted(budget) == PRICE * n_bought
    assert ("Can't ask for more of the shared budget" in caplog.text) == (n_bought == 2)
    assert "Can't give back what is left of the shared budget" in caplog.text
    n_writes[0] = 10**6
    with suppress(dreamo.BudgetReached):
        one.run()
    n = min(cap, 6)
    assert budget.status()[["spent", "held"]].to_numpy().tolist() == [[str(PRICE * n), "0"]]
    assert billed(gateway) == PRICE * n


def test_a_budget_in_a_store(tmp_path, gateway, monkeypatch):
    """Runs on any machine take slices of it."""
    pytest.importorskip("obstore")
    with object_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        budget = dreamo.Budget("s3://bucket/team.budget", cap=PRICE * 8)
        flow(tmp_path, gateway, "a").run(budget="s3://bucket/team.budget/")
        with pytest.raises(dreamo.BudgetReached, match=r"The shared budget s3://bucket/team.budget, \$0.24"):
            flow(tmp_path, gateway, "b").run(budget=budget)
        assert spent(budget.status()) == billed(gateway) == PRICE * 8


@pytest.mark.parametrize("given", ["", None, 3])
def test_a_place_is_a_path_or_a_url(given):
    with pytest.raises(dreamo.UsageError, match="budget"):
        dreamo.Budget(given, cap=1)
