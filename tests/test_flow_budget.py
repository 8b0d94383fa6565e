"""The cap over a real socket, with 64 attempts in flight and prices that vary by a factor of five."""

from __future__ import annotations

import json
import os
import threading
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

import dreamo_batch as dreamo
from dreamo_batch.display.progress import LoggedProgress
from dreamo_batch.engine.attempts import EventKind
from dreamo_batch.engine.coordinator import Coordinator
from dreamo_batch.money import dollars
from tests.fakes import picture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dreamo_batch.engine.spending import Spending

N_ROWS = 200
LOWEST = Decimal("0.01")


def varying(attempt: Any) -> str:
    """Price an attempt between 0.01 and 0.05 USD, by its seed and in no order."""
    return str(LOWEST * (1 + attempt.seed * 7 % 5))


class Rising:
    """Prices that are 0.01 USD for the first attempts and five times that afterwards."""

    def __init__(self, n_cheap: int) -> None:
        self._n_cheap = n_cheap
        self._numbers = count()
        self._lock = threading.Lock()

    def __call__(self, _: Any) -> str:
        with self._lock:
            return str(LOWEST if next(self._numbers) < self._n_cheap else 5 * LOWEST)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(LoggedProgress, "say", lambda _, text, *__: lines.append(text))
    return lines


@pytest.fixture
def budgets(monkeypatch) -> Iterator[list[Spending]]:
    """Hold every create against the rule, as it is recorded and before it is sent."""
    seen: list[Spending] = []
    record = Coordinator.record

    def checked(self, event):
        after = record(self, event)
        spending = self.spending
        if event.kind is EventKind.SENDING and spending.cap is not None and "reserved" in event.fields:
            assert spending.spent + spending.reserved <= spending.cap
        seen.append(spending)
        return after

    monkeypatch.setattr(Coordinator, "record", checked)
    return seen


class Shop:
    """A table, its run directory, and where it is bought."""

    def __init__(self, folder: Path, gateway: dreamo.LocalGateway, n_rows: int = N_ROWS) -> None:
        image = folder / "reference.png"
        image.write_bytes(picture(size=(64, 64)))
        self.table = dreamo.sweep(image=image, prompt="a fox", seed=range(n_rows), size="512x512")
        self.run_dir = folder / "run"
        self.gateway = gateway

    def run(self, **options: Any) -> Any:
        settings = {"max_in_flight": 64, "download": False, "progress": False}
        return dreamo.run(self.table, self.run_dir, gateway=self.gateway, **settings, **options)

    def until_reached(self, **options: Any) -> dreamo.BudgetReached:
        with pytest.raises(dreamo.BudgetReached) as reached:
            self.run(**options)
        return reached.value

    def billed(self) -> Decimal:
        return sum((Decimal(line["cost"] or 0) for line in self.gateway.invoice()), Decimal(0))

    def spent(self) -> Decimal:
        return Decimal(dreamo.status(self.run_dir)["spent_usd"])


@pytest.mark.no_cover
def test_cap_that_reserves_the_highest_price_is_never_passed(budgets, said, tmp_path):
    """With the dearest price reserved there is nothing to overshoot, and what is left over is less than one attempt."""
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.2", price=varying) as gateway:
        shop = Shop(tmp_path, gateway)
        reached = shop.until_reached(max_cost="2", unit_cost="0.05")
        assert Decimal("1.95") < shop.billed() <= 2
        assert shop.spent() == shop.billed()
        assert "exceeded by" not in str(reached)
    assert budgets
    assert not any("were reserved" in line for line in said)


@pytest.mark.no_cover
def test_price_above_the_reservation_is_reserved_from_then_on_and_said(budgets, said, tmp_path):
    """What passes the cap is at most what attempts in flight cost beyond their reservation; it is told exactly."""
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.2", price=varying) as gateway:
        shop = Shop(tmp_path, gateway)
        reached = shop.until_reached(max_cost="1", unit_cost=LOWEST)
        billed = shop.billed()
        over = max(billed - 1, Decimal(0))
        assert over <= 64 * 4 * LOWEST
        assert shop.spent() == billed
        assert budgets[-1].price == 5 * LOWEST
        assert (f"exceeded by {dollars(over)}" in str(reached)) == (over > 0)
    assert 1 <= sum("An attempt cost" in line for line in said) <= 4


@pytest.mark.no_cover
def test_prices_that_rise_midway_stop_the_run_early(budgets, said, tmp_path):
    """Only attempts in flight when the price rose can pass the cap, and the message says by how much."""
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.2", price=Rising(70)) as gateway:
        shop = Shop(tmp_path, gateway)
        reached = shop.until_reached(max_cost="1.5", unit_cost=LOWEST)
        assert shop.billed() <= Decimal("1.5") + 64 * 4 * LOWEST
        assert "0.05" in str(reached)
        assert reached.results["status"].isin(["completed", "pending"]).all()
    assert sum("An attempt cost $0.05, but only $0.01 was reserved" in line for line in said) == 1
    assert budgets


def test_overshoot_is_reported(said, tmp_path):
    """All attempts that the cap allows are in flight when the first turns out dearer."""
    with dreamo.LocalGateway(engine="flat", latency="fixed:3", price="0.05") as gateway:
        shop = Shop(tmp_path, gateway, n_rows=12)
        reached = shop.until_reached(max_cost="0.1", unit_cost=LOWEST)
        assert shop.billed() == Decimal("0.5")
    assert "0.4" in str(reached)
    assert "exceeded by $0.40 because attempts in flight cost more than was reserved" in str(reached)
    assert any("over the cap of $0.10" in line for line in said)


@pytest.mark.no_cover
def test_cap_is_kept_for_later_calls_and_a_higher_one_goes_on(budgets, tmp_path):
    """Given once, it holds until given anew; what was bought is not bought again."""
    with dreamo.LocalGateway(engine="flat", price=varying) as gateway:
        shop = Shop(tmp_path, gateway, n_rows=60)
        shop.until_reached(max_cost="0.5", unit_cost="0.05")
        assert Decimal("0.45") < shop.billed() <= Decimal("0.5")
        shop.until_reached(unit_cost="0.05")
        assert Decimal("0.45") < shop.billed() <= Decimal("0.5")
        done = shop.run(max_cost="10")
        assert (done["status"] == "completed").all()
        assert len(gateway.invoice()) == 60
    assert budgets


@pytest.mark.no_cover
def test_cap_without_a_price_buys_nothing_and_a_pilot_finds_the_price(budgets, tmp_path):
    """Up to k attempts go first; the rest are held against the highest price these showed."""
    with dreamo.LocalGateway(engine="flat", price=varying, precharge="missing") as gateway:
        shop = Shop(tmp_path, gateway, n_rows=60)
        with pytest.raises(dreamo.PriceUnknown):
            shop.run(max_cost="0.5")
        assert gateway.invoice() == []
        shop.until_reached(max_cost="0.5", pilot=5)
        assert Decimal("0.4") < shop.billed() <= Decimal("0.5") + 64 * 4 * LOWEST
        assert shop.spent() == shop.billed()
    assert budgets


@pytest.mark.no_cover
def test_a_call_stops_at_the_sum_that_it_may_add(tmp_path):
    """A price that has risen, a limit below the table, and a cap beside it: the least of them binds."""
    prices = ["0.03"]
    with dreamo.LocalGateway(engine="flat", price=lambda _: prices[0]) as gateway:
        shop = Shop(tmp_path, gateway, 10)

        def buy(n_rows: int, **options: Any) -> None:
            dreamo.run(shop.table.head(n_rows), shop.run_dir, gateway=gateway, progress=False, **options)

        buy(2)
        prices[0] = "1.00"
        with pytest.raises(
            dreamo.BudgetReached, match=r"limit for this call of \$0\.30 .* higher max_new_cost="
        ):
            buy(10, max_new_cost="0.24")
        assert len(gateway.invoice()) == 2
        prices[0] = "0.03"
        with pytest.raises(dreamo.BudgetReached):
            buy(10, max_new_cost="0.10")
        assert len(gateway.invoice()) == 5
        with pytest.raises(dreamo.BudgetReached, match=r"The cap of \$0\.20 .* higher max_cost="):
            buy(10, max_new_cost="0.10", max_cost="0.2")
        assert len(gateway.invoice()) == 6
        buy(10, max_cost="inf")
        assert len(gateway.invoice()) == 10


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: edit(path, max_cost="NaN"),
        lambda path: edit(path, max_cost=["0.04"], settings=[]),
        lambda path: edit(path, generation="many"),
        lambda path: edit(path, n_shards=64),
        lambda path: edit(path, n_shards=True),
        lambda path: (edit(path, n_shards=64), (path.parent / "shards" / "0a").mkdir(parents=True)),
        lambda path: path.write_text("[" * 100_000),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
)
def test_the_cap_does_not_hang_on_the_manifest(damage, tmp_path):
    """It stands in the ledger: whatever becomes of `run.json`, the same call again buys nothing beyond it."""
    with dreamo.LocalGateway(engine="flat", price="0.02") as gateway:
        shop = Shop(tmp_path, gateway, n_rows=6)
        shop.until_reached(max_cost="0.04")
        damage(shop.run_dir / "run.json")
        shop.until_reached()
        assert len(gateway.invoice()) == 2
        assert dreamo.status(shop.run_dir)["max_cost_usd"] == "0.04"
        shop.until_reached(max_cost="0.06")  # given anew it holds at once
        shop.run(max_cost=float("inf"))
        assert (len(gateway.invoice()), dreamo.status(shop.run_dir)["max_cost_usd"]) == (6, None)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_cap_below_what_was_spent_is_reported_as_such(tmp_path, caplog):
    """Nothing is submitted, and the attempts in flight, of which there are none, are not blamed."""
    caplog.set_level("INFO", logger="dreamo_batch")
    with dreamo.LocalGateway(engine="flat", price="0.02") as gateway:
        shop = Shop(tmp_path, gateway, n_rows=4)
        shop.until_reached(max_cost="0.04")
        told = str(shop.until_reached(max_cost="0.01"))
        assert "reached and exceeded by $0.03: " in told
        shop.table = shop.table.head(2)
        assert "The cap is $0.01 and exceeded by $0.03.\n" in repr(dreamo.plan(shop.table, shop.run_dir))
        shop.run(max_cost="0.01")
        assert "warning: the cap of $0.01 is exceeded by $0.03" in caplog.messages
        assert len(gateway.invoice()) == 2


def test_pilots_are_not_bought_anew_by_each_call(tmp_path):
    """`pilot=2` is two attempts in all, however often the call is repeated; more have to be asked for."""
    with dreamo.LocalGateway(engine="flat", precharge="missing") as gateway:
        gateway.faults.set({"poll": {"cost_missing": 1.0}})
        shop = Shop(tmp_path, gateway, n_rows=6)
        for pilot, n_bought in ((2, 2), (2, 2), (3, 3), (1, 3)):
            with pytest.raises(dreamo.PriceUnknown, match=f"pilot={n_bought + 1} or more"):
                shop.run(max_cost="0.06", pilot=pilot)
            assert len(gateway.invoice()) == n_bought
        shop.until_reached(unit_cost="0.02")
        assert len(gateway.invoice()) == 3
        shop.run(unit_cost="0.01")
        assert len(gateway.invoice()) == 6
