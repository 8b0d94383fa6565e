"""A run that is killed or interrupted at any moment buys nothing twice and loses nothing."""

from __future__ import annotations

import random
import signal
import time
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

import dreamo_batch as dreamo
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.engine.directory import RunDirectory
from tests.flows import IS_LONG, Flow, until
from tests.fork_server import ForkServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fork_server import Child

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

# In the long form 500 kills, 500 more amid other verbs and 200 interrupts, in rounds: a start takes the longer, the
# longer the table.
ROUNDS = range(20) if IS_LONG else range(1)
N_KILLS = 25 if IS_LONG else 9
N_INTERRUPTS = 20 if IS_LONG else 4
ROWS_PER_KILL = 24
MAX_IN_FLIGHT = 8


@pytest.fixture
def gateway() -> Iterator[dreamo.LocalGateway]:
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.2") as running:
        yield running


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer() as running:
        yield running


class Sweep(Flow):
    """A table of many cheap jobs in a CSV file, and the command that works it off."""

    def __init__(
        self, folder: Path, gateway: dreamo.LocalGateway, fork_server: ForkServer, n_rows: int
    ) -> None:
        super().__init__(folder, gateway, n_rows)
        self.fork_server = fork_server
        self.csv = folder / "jobs.csv"
        dreamo.write_table(self.table, self.csv)
        self.n_rows = n_rows

    def start(self) -> Child:
        options = ["--base-url", self.gateway.base_url, "--max-in-flight", str(MAX_IN_FLIGHT)]
        return self.fork_server.start(
            ["run", str(self.csv), "--run-dir", str(self.run_dir), *options],
            {"DREAMO_API_KEY": self.gateway.api_key},
            self.csv.with_name("errors.txt"),
        )

    def finish(self) -> int:
        return self.start().wait(1200)

    def wait_for_attempts(self, n: int, child: Child) -> None:
        until(lambda: len(self.invoice()) >= n or child.poll() is not None)

    def assert_money_adds_up(self) -> None:
        """As the status says, too."""
        super().assert_money_adds_up()
        assert self.invoice()
        spent = sum((Decimal(attempt.cost) for attempt in self.attempts() if attempt.cost), Decimal(0))
        assert Decimal(dreamo.status(self.run_dir)["spent_usd"]) == spent


@pytest.mark.parametrize("n_round", ROUNDS)
def test_kill_at_random_moments_buys_nothing_twice_and_loses_nothing(tmp_path, gateway, fork_server, n_round):
    """After each kill -9 every attempt is in the ledger or ambiguous; a last run completes everything else."""
    chance = random.Random(20 + n_round)
    sweep = Sweep(tmp_path, gateway, fork_server, N_KILLS * ROWS_PER_KILL)
    n_ambiguous = 0
    for _ in range(N_KILLS):
        child = sweep.start()
        sweep.wait_for_attempts(len(sweep.invoice()) + chance.randint(0, 4), child)
        time.sleep(chance.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        if RunDirectory(sweep.run_dir).exists():
            sweep.assert_bought_once()
            now = sum(attempt.stage is Stage.AMBIGUOUS for attempt in sweep.attempts())
            assert now - n_ambiguous <= MAX_IN_FLIGHT
            n_ambiguous = now
    assert len(sweep.invoice()) < sweep.n_rows, "the kills came too late to prove anything"

    code = sweep.finish()

    sweep.assert_money_adds_up()
    counts = dreamo.load(sweep.run_dir)["status"].value_counts()
    print(
        f"{N_KILLS} kills, {len(sweep.invoice())} attempts compared with the invoice, {n_ambiguous} ambiguous"
    )
    assert counts["completed"] == sweep.n_rows - n_ambiguous
    assert counts["ambiguous"] == n_ambiguous
    assert code == (1 if n_ambiguous else 0)
    assert dreamo.verify(sweep.run_dir) == []


TOUCHED = """
import contextlib, random, sys, threading
import dreamo_batch as dreamo

csv, run_dir, url, key, seed = sys.argv[1:]
chance, table = random.Random(int(seed)), dreamo.read_table(csv)
service = {"base_url": url, "api_key": key}
live = dreamo.start(table, run_dir, max_in_flight=8, **service)

def beside(call):
    def make():
        with contextlib.suppress(dreamo.DreamoError):
            call()
    threading.Thread(target=make, daemon=True).start()

verbs = [
    lambda: dreamo.start(table, run_dir, max_in_flight=8, **service),
    lambda: beside(lambda: dreamo.run(table, run_dir, max_in_flight=8, progress=False, **service)),
    lambda: beside(lambda: dreamo.retry(run_dir, max_in_flight=8, progress=False, **service)),
    lambda: dreamo.resolve(run_dir, table.index[0], not_sent=True),
    lambda: (live.stop(), dreamo.start(table, run_dir, max_in_flight=8, **service)),
    lambda: live.retry(),
    lambda: dreamo.run(table, run_dir, max_cost="much", progress=False, **service),
]
while True:
    with contextlib.suppress(dreamo.DreamoError):
        chance.choice(verbs)()
    threading.Event().wait(chance.uniform(0, 0.1))
"""


def settle_one(sweep: Sweep) -> None:
    """Settle an attempt in doubt as the invoice has it."""
    held = [attempt for attempt in sweep.attempts() if attempt.stage is Stage.AMBIGUOUS]
    if held:
        known = {attempt.task_id for attempt in sweep.attempts()}
        lost = {line["seed"]: line["id"] for line in sweep.invoice() if line["id"] not in known}
        task_id = lost.get(held[0].seed_sent)
        dreamo.resolve(
            sweep.run_dir, held[0].job_id, attempt=held[0].attempt, task_id=task_id, not_sent=task_id is None
        )


@pytest.mark.parametrize("n_round", ROUNDS)
def test_kill_amid_other_verbs_buys_nothing_twice_and_loses_nothing(tmp_path, gateway, fork_server, n_round):
    """Killed while cells and threads start, run, retry, resolve and stop at once; one attempt is settled after each."""
    chance = random.Random(70 + n_round)
    n_kills = N_KILLS if IS_LONG else N_KILLS // 3
    sweep = Sweep(tmp_path, gateway, fork_server, n_kills * ROWS_PER_KILL)
    for _ in range(n_kills):
        args = [
            str(sweep.csv),
            str(sweep.run_dir),
            gateway.base_url,
            gateway.api_key,
            str(chance.randrange(99)),
        ]
        child = fork_server.start(args, {}, tmp_path / "errors.txt", TOUCHED)
        sweep.wait_for_attempts(len(sweep.invoice()) + chance.randint(1, 4), child)
        time.sleep(chance.uniform(0, 0.6))
        assert child.poll() is None, child.errors.read_text()
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        assert "Error" not in child.errors.read_text()
        sweep.assert_bought_once()
        settle_one(sweep)
    assert sweep.finish() in (0, 1)
    sweep.assert_money_adds_up()
    assert dreamo.verify(sweep.run_dir) == []


@pytest.mark.parametrize("n_round", ROUNDS[::4])
@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM"])
def test_interrupt_at_random_moments_leaves_nothing_ambiguous(
    tmp_path, gateway, fork_server, signal_name, n_round
):
    """An interrupted run leaves with code 3 once its creates are answered; the last run completes every row."""
    chance = random.Random(f"{signal_name} {n_round}")
    sweep = Sweep(tmp_path, gateway, fork_server, N_INTERRUPTS * ROWS_PER_KILL)
    for _ in range(N_INTERRUPTS):
        child = sweep.start()
        sweep.wait_for_attempts(len(sweep.invoice()) + 1, child)
        time.sleep(chance.uniform(0, 0.4))
        child.send_signal(getattr(signal, signal_name))
        code, stderr = child.wait(40), child.errors.read_text()
        assert code == 3, stderr
        assert "Run the same command again to resume" in stderr
        assert "Traceback" not in stderr
        sweep.assert_bought_once()
        assert not any(attempt.stage is Stage.AMBIGUOUS for attempt in sweep.attempts())

    assert sweep.finish() == 0

    sweep.assert_money_adds_up()
    assert (dreamo.load(sweep.run_dir)["status"] == "completed").all()
    assert len(sweep.invoice()) == sweep.n_rows


WAITING = """
import signal
import sys
import dreamo_batch as dreamo

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests were started by nohup

csv, run_dir, url, key = sys.argv[1:]
dreamo.start(dreamo.read_table(csv), run_dir, max_in_flight=8, base_url=url, api_key=key).wait()
"""


@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_script_that_waits_for_its_run_records_the_replies_on_the_wire_before_a_signal_ends_it(
    tmp_path, gateway, fork_server, signal_name
):
    """A scheduler ends a job with SIGTERM, a closed terminal with SIGHUP: neither makes rows ambiguous."""
    sweep = Sweep(tmp_path, gateway, fork_server, ROWS_PER_KILL)
    gateway.faults.script("create", *["slow"] * MAX_IN_FLIGHT, seconds=3.0)
    args = [str(sweep.csv), str(sweep.run_dir), gateway.base_url, gateway.api_key]
    child = fork_server.start(args, {}, tmp_path / "errors.txt", WAITING)
    sweep.wait_for_attempts(MAX_IN_FLIGHT, child)
    until(lambda: "rows settled" in child.errors.read_text() or child.poll() is not None)  # it waits now
    child.send_signal(getattr(signal, signal_name))
    child.wait(60)
    assert "KeyboardInterrupt" in child.errors.read_text()
    assert {attempt.task_id for attempt in sweep.attempts()} == {line["id"] for line in sweep.invoice()}
    assert not any(attempt.stage is Stage.AMBIGUOUS for attempt in sweep.attempts())
    assert sweep.finish() == 0
    sweep.assert_money_adds_up()
