"""Every fault of the local gateway, at every stage, over a real socket: what the fault table says is what happens."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch.gateway.faults import FAULTS
from tests.fakes import picture
from tests.fast_clock import speed_up
from tests.fault_table import GROUPS, ROWS, Outcome, rendered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Other tests reach the same lines; measuring these would double their time.
pytestmark = pytest.mark.no_cover

PRICE = "0.0286"
TASK_TIMEOUT_S = 100  # of the fast clock: one second on a machine that may be busy


@pytest.fixture
def _fast_clock(monkeypatch):
    speed_up(monkeypatch)


@pytest.fixture(scope="module")
def gateway() -> Iterator[dreamo.LocalGateway]:
    with dreamo.LocalGateway(engine="flat", price=PRICE) as running:
        yield running


class Run:
    """Three rows that only this test attempts, worked off one at a time; the first is the one that is struck."""

    def __init__(self, gateway: dreamo.LocalGateway, folder: Path, name: str) -> None:
        image = folder / "reference.png"
        image.write_bytes(picture(size=(64, 64)))
        self.table = dreamo.sweep(image=image, prompt=name, seed=range(3), size="512x512")
        self.run_dir = folder / "run"
        self.gateway = gateway
        self._name = name

    def __call__(self, **options: Any) -> tuple[pd.DataFrame | None, str | None]:
        """Give the results, and the name of the error that ended the call."""
        service = {"base_url": self.gateway.base_url, "api_key": self.gateway.api_key}
        limits = {"max_in_flight": 1, "task_timeout_s": TASK_TIMEOUT_S}
        try:
            return dreamo.run(self.table, self.run_dir, **service, **limits, **options), None
        except dreamo.RunStopped as stopped:
            return stopped.results, type(stopped).__name__
        except dreamo.UsageError as refused:
            return None, type(refused).__name__

    def invoice(self) -> dict[int, list[dict[str, Any]]]:
        """Give the service's attempts by seed."""
        attempts: dict[int, list[dict[str, Any]]] = {seed: [] for seed in self.table["seed"]}
        for line in self.gateway.invoice():
            if line["prompt"] == self._name:
                attempts[line["seed"]].append(line)
        return attempts


def test_table_has_every_fault_of_the_gateway_once():
    """A fault that the gateway can make and the table lacks fails, and so does a row without its fault."""
    listed = Counter((stage, fault) for stage, fault, _ in ROWS)
    assert set(listed) == {(stage, fault.name) for fault in FAULTS.values() for stage in fault.stages}
    assert max(listed.values()) == 1


def test_table_is_short_enough_to_read():
    """Faults with the same outcome share a line of the table."""
    assert len(list(rendered())) <= 41


@pytest.mark.usefixtures("_fast_clock")
@pytest.mark.parametrize("row", ROWS, ids=[f"{stage}-{fault}" for stage, fault, _ in ROWS])
def test_fault_does_what_the_table_says(row, gateway, tmp_path, capsys):
    """What is seen, submitted and paid for the row struck is the table's; whatever is ambiguous is named."""
    stage, fault, outcome = row
    run = Run(gateway, tmp_path, f"{stage} {fault}")
    results, stopped = strike(run, stage, fault)

    assert stopped == outcome.stops
    if results is None:
        assert outcome.status == ""
        assert not any(run.invoice().values())
        return
    check(run, results, outcome)
    assert dreamo.load(run.run_dir)["status"].equals(results["status"])
    said = capsys.readouterr().err
    assert all(job_id in said for job_id in results.loc[results["status"] == "ambiguous", "job_id"])


@pytest.mark.usefixtures("_fast_clock")
@pytest.mark.parametrize("group", GROUPS, ids=[f"{group.stage}-{group.faults[0]}" for group in GROUPS])
def test_same_call_after_a_fault_goes_on_and_attempts_nothing_twice(group, gateway, tmp_path):
    """One fault of each group, and then the same call again without it."""
    run = Run(gateway, tmp_path, f"{group.stage} {group.faults[0]} again")
    strike(run, group.stage, group.faults[0])
    before = run.invoice()
    results, stopped = run(max_cost=1)

    assert stopped is None
    outcome = group.outcome
    assert results["status"].tolist() == [outcome.again or outcome.status, "completed", "completed"]
    for seed, attempts in run.invoice().items():
        ids = [attempt["id"] for attempt in attempts]
        assert len(ids) <= 1
        assert [attempt["id"] for attempt in before[seed]] == ids[: len(before[seed])]
    told = check_money(run, results)
    assert Decimal(dreamo.status(run.run_dir)["spent_usd"]) == told


def strike(run: Run, stage: str, fault: str) -> tuple[pd.DataFrame | None, str | None]:
    """Run with one fault; a price is asked for only where that is what is struck."""
    faults = run.gateway.faults
    faults.change({"clear": True})
    if FAULTS[fault].needs == "failed":
        faults.script("create", "fail_095")
    faults.script(stage, fault, seconds=0.02)
    ended = run(**{"max_cost": 1} if stage == "precharge" else {})
    assert faults.describe()["script"] == {}, "the fault did not strike"
    return ended


def check(run: Run, results: pd.DataFrame, outcome: Outcome) -> None:
    struck = results.iloc[0]
    (attempts, *others) = run.invoice().values()
    seen = (struck["status"], maybe(struck["error_class"]), maybe(struck["may_have_been_billed"]))
    assert seen == (outcome.status, outcome.error_class, outcome.may_have_been_billed)
    assert len(attempts) == outcome.n_attempts
    billed = [attempt["cost"] for attempt in attempts if attempt["cost"]]
    if outcome.money == "once":
        assert struck["cost"] == PRICE
        assert billed == [PRICE]
    else:
        assert pd.isna(struck["cost"])
        assert outcome.money == "open" or not billed
    if outcome.stops is None:
        assert results["status"].tolist()[1:] == ["completed", "completed"]
        assert [len(attempts) for attempts in others] == [1, 1]
    check_money(run, results)


def check_money(run: Run, results: pd.DataFrame) -> Decimal:
    """Hold that costs told and costs open add up to the invoice, and that pictures paid for are there."""
    told = sum(map(Decimal, results["cost"].dropna()), Decimal(0))
    is_open = results["cost"].isna() & results["may_have_been_billed"].fillna(value=True)
    invoice = run.invoice()
    hidden = [attempt["cost"] for seed in results.loc[is_open, "seed"] for attempt in invoice[seed]]
    total = sum(
        (Decimal(attempt["cost"] or 0) for attempts in invoice.values() for attempt in attempts), Decimal(0)
    )
    assert told + sum((Decimal(cost or 0) for cost in hidden), Decimal(0)) == total
    completed = results[results["status"] == "completed"]
    assert completed["output_error"].isna().all()
    assert all((run.run_dir / path).is_file() for path in completed["output_path"])
    return told


def maybe(value: Any) -> Any:
    """Give a cell, None where it is missing."""
    return None if pd.isna(value) else value
