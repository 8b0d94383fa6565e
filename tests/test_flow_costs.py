"""What the ledgers say was paid is what the gateway's invoice says, to the last digit."""

from __future__ import annotations

import subprocess
import sys
import time
from decimal import Decimal

import pandas as pd
import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch.errors import UsageError

# Other tests reach the same lines; measuring these would double their time.
pytestmark = pytest.mark.no_cover

PRICES = ("0.0286", "0.0000000001", "0.1", "0.0357142857")


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "reference.png"
    Image.new("RGB", (64, 64), "orange").save(path)
    return str(path)


@pytest.fixture
def gateway():
    """A gateway that bills failures and prices that no float holds."""
    with dreamo.LocalGateway(
        engine="flat", price=lambda attempt: PRICES[attempt.seed % 4], discount="0.5", bills_failures=True
    ) as running:
        yield running


def table(reference, n=8, **axes):
    return dreamo.sweep(
        image=reference, prompt=["a fox", "an owl"], seed=range(n // 2), size="512x512", **axes
    )


def buy(jobs, run_dir, gateway, **options):
    return dreamo.run(
        jobs, run_dir, base_url=gateway.base_url, api_key=gateway.api_key, progress=False, **options
    )


def invoiced(gateway, *, without=()):
    return sum(
        (Decimal(line["cost"]) for line in gateway.invoice() if line["cost"] and line["id"] not in without),
        Decimal(0),
    )


def added(texts):
    return sum((Decimal(text) for text in texts), Decimal(0))


def test_costs_are_the_invoice_over_failures_and_retries(tmp_path, reference, gateway):
    """Billed failures, retries and duplicates: every grouping adds up to the invoice, and waste to its failures."""
    gateway.faults.script("create", "fail_096", "http_429_seconds", "fail_099", "completed_with_error")
    jobs = pd.concat([table(reference), table(reference).head(2)], ignore_index=True)
    run_dir = tmp_path / "run"
    buy(jobs, run_dir, gateway)
    dreamo.retry(run_dir, client=None, base_url=gateway.base_url, api_key=gateway.api_key, progress=False)

    whole = dreamo.costs(run_dir).iloc[0]
    assert Decimal(whole["spent"]) == invoiced(gateway)
    assert whole["spent"] == dreamo.status(run_dir)["spent_usd"]
    assert whole[["rows", "completed", "attempts", "usable", "unpriced"]].tolist() == [10, 10, 11, 8, 0]
    made = dreamo.attempts(run_dir)
    useless = set(made.loc[made["stage"] == "failed", "task_id"])
    assert len(useless) == 3
    assert Decimal(whole["waste"]) == added(
        line["cost"] for line in gateway.invoice() if line["id"] in useless
    )
    assert whole["list_usd"] == pytest.approx(2 * whole["spent_usd"])
    first = added(PRICES[seed] for seed in (0, 1))
    assert Decimal(whole["saved"]) == first
    for by in (
        "prompt",
        ["prompt", "seed"],
        "1h",
        "1ms",
        "hour",
        "size",
        "use_rephraser",
        "status",
        "job_id",
    ):
        groups = dreamo.costs(run_dir, by=by)
        assert added(groups["spent"]) == invoiced(gateway), by
        assert (groups["attempts"].sum(), groups["rows"].sum()) == (11, 10), by
    assert dreamo.costs(run_dir, by="size")["size"].tolist() == ["512x512"]


def test_results_alone_sum_to_the_invoice(tmp_path, reference, gateway):
    """The table that run gave back adds up too, also rows of it."""
    done = buy(table(reference), tmp_path / "run", gateway)
    assert Decimal(dreamo.costs(done)["spent"].item()) == invoiced(gateway)
    foxes = done[done["prompt"] == "a fox"]
    by_prompt = dreamo.costs(tmp_path / "run", by="prompt").set_index("prompt")
    assert dreamo.costs(foxes)["spent"].item() == by_prompt.loc["a fox", "spent"]


def test_attempts_are_the_invoice_line_by_line(tmp_path, reference, gateway):
    """One row per attempt, each with its task's cost; a billed failure is submitted again on request only."""
    gateway.faults.script("create", "fail_099")
    run_dir = tmp_path / "run"
    done = buy(table(reference, 4), run_dir, gateway, max_attempts=2)
    assert len(gateway.invoice()) == 4
    assert Decimal(dreamo.status(run_dir)["spent_usd"]) == invoiced(gateway)
    assert (done["status"] == "failed").sum() == 1
    dreamo.retry(run_dir, base_url=gateway.base_url, api_key=gateway.api_key, progress=False)
    made = dreamo.attempts(run_dir)
    invoice = {line["id"]: line["cost"] or None for line in gateway.invoice()}
    assert (
        dict(zip(made["task_id"], made["cost"].astype(object).where(made["cost"].notna(), None), strict=True))
        == invoice
    )
    assert made["attempt"].tolist().count(2) == 1
    assert made["row"].notna().all()


def test_several_directories_at_once(tmp_path, reference, gateway):
    """Sums go over all of them; a directory named twice counts once."""
    buy(table(reference, 4), tmp_path / "one", gateway)
    buy(table(reference, 6), tmp_path / "two", gateway)
    both = [tmp_path / "one", tmp_path / "two", f"{tmp_path}/two/"]
    assert Decimal(dreamo.costs(both)["spent"].item()) == invoiced(gateway)
    by_dir = dreamo.costs(both, by="run_dir")
    assert by_dir["run_dir"].tolist() == [str(tmp_path / "one"), str(tmp_path / "two")]
    assert by_dir["attempts"].tolist() == [4, 6]
    assert dreamo.attempts(both)["run_dir"].value_counts().tolist() == [6, 4]
    with pytest.raises(UsageError, match="Expected a run directory"):
        dreamo.costs([])
    with pytest.raises(UsageError, match="Expected a run directory"):
        dreamo.attempts(3)
    # A frame would give the names of its columns.
    with pytest.raises(UsageError, match=r"got a DataFrame.*Pass the path"):
        dreamo.attempts(dreamo.load(tmp_path / "one"))


def test_attempts_outside_the_table_are_counted(tmp_path, reference, gateway):
    """Rows dropped from the table were paid for all the same, and stay in the group of what they held."""
    buy(table(reference, 4), tmp_path / "run", gateway)
    buy(table(reference, 4).head(1), tmp_path / "run", gateway)
    by_prompt = dreamo.costs(tmp_path / "run", by="prompt")
    assert by_prompt["prompt"].tolist() == ["a fox", "an owl"]
    assert by_prompt["attempts"].tolist() == [2, 2]
    assert added(by_prompt["spent"]) == invoiced(gateway)
    by_size = dreamo.costs(tmp_path / "run", by="size")
    assert by_size[["size", "attempts"]].to_numpy().tolist() == [["512x512", 4]]


@pytest.mark.parametrize(
    "labels", [None, ["p", "q", "r", "s"], [7, 5, 9, 1], [("x", 1), ("x", 2), ("y", 1), ("y", 2)]]
)
def test_what_left_the_table_is_still_told(tmp_path, reference, gateway, labels):
    """With its own columns as they were when it was submitted, behind the rows that are there."""
    jobs = table(reference, 4).assign(note=[1, 2, 3, 4], day=pd.Timestamp("2026-11-01"))
    jobs.index = pd.RangeIndex(4) if labels is None else pd.Index(labels)
    run_dir = tmp_path / "run"
    first = buy(jobs, run_dir, gateway)
    pd.testing.assert_frame_equal(
        dreamo.load(run_dir, all=True).drop(columns="in_table"), dreamo.load(run_dir)
    )
    planned = dreamo.plan(jobs.tail(1), run_dir)
    assert "3 paid rows of the last table are not in this one" in " ".join(planned.warnings())
    buy(jobs.tail(1).assign(note=99), run_dir, gateway)
    assert len(dreamo.load(run_dir)) == 1
    told = dreamo.load(run_dir, all=True)
    assert told["in_table"].tolist() == [True, False, False, False]
    assert told["note"].tolist() == [99, 1, 2, 3]
    assert told["prompt"].tolist() == ["an owl", "a fox", "a fox", "an owl"]
    assert set(told["output_path"]) == set(first["output_path"])
    assert added(told["cost"]) == invoiced(gateway)
    if told.index.nlevels > 1:
        labels = [(str(label), "") for label in labels[:3]] + labels[3:]
    if labels is not None:
        assert told.index.tolist() == [labels[3], *labels[:3]]
    assert dreamo.costs(run_dir, by="note")["note"].tolist() == [1, 2, 3, 99]


def test_lost_answers_are_possibly_billed(tmp_path, reference, gateway):
    """Spent + what the invoice has for unknown tasks = the invoice; what it may be is told."""
    gateway.faults.script("create", "drop_after_accept")
    planned = dreamo.plan(table(reference, 4), unit_cost="0.1")
    buy(table(reference, 4), tmp_path / "run", gateway, unit_cost="0.1", max_in_flight=1)
    line = dreamo.costs(tmp_path / "run", plan=planned).iloc[0]
    known = set(dreamo.attempts(tmp_path / "run")["task_id"].dropna())
    unknown = {entry["id"] for entry in gateway.invoice()} - known
    assert len(unknown) == 1
    assert Decimal(line["spent"]) == invoiced(gateway, without=unknown)
    assert line[["ambiguous", "unpriced", "possibly_billed"]].tolist() == [1, 1, "0.1"]
    assert line[["estimated", "planned_high_usd"]].tolist() == ["0.3", pytest.approx(0.4)]


_WORK = """
import sys
import dreamo_batch as dreamo
table, run_dir, base_url, api_key = sys.argv[1:]
dreamo.run(dreamo.read_table(table), run_dir, base_url=base_url, api_key=api_key, progress=False, max_in_flight=4)
"""


@pytest.mark.slow
def test_costs_are_the_invoice_over_kills(tmp_path, reference):
    """A run killed three times and resumed: ledger + what unknown attempts cost = the invoice."""
    run_dir, csv = tmp_path / "run", tmp_path / "jobs.csv"
    dreamo.write_table(table(reference, 40), csv)
    with dreamo.LocalGateway(
        engine="flat",
        latency="fixed:0.1",
        price=lambda attempt: PRICES[attempt.seed % 4],
        bills_failures=True,
    ) as gateway:
        gateway.faults.script("create", *["fail_098"] * 3)
        command = [sys.executable, "-c", _WORK, str(csv), str(run_dir), gateway.base_url, gateway.api_key]
        for n_wanted in (3, 9, 15):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            while len(gateway.invoice()) < n_wanted and process.poll() is None:
                time.sleep(0.005)
            process.kill()
            process.wait()
        buy(dreamo.read_table(csv), run_dir, gateway)
        known = set(dreamo.attempts(run_dir)["task_id"].dropna())
        unknown = {line["id"] for line in gateway.invoice()} - known
        line = dreamo.costs(run_dir).iloc[0]
        assert Decimal(line["spent"]) == invoiced(gateway, without=unknown)
        assert line["ambiguous"] >= len(unknown)
        assert added(dreamo.costs(run_dir, by=["prompt", "seed"])["spent"].dropna()) == Decimal(line["spent"])
