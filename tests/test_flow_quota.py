"""Quotas of the service: tasks at once and requests a second, in simulated time and then over a real socket.

`DREAMO_CHAOS=1` simulates more services and longer runs.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import re
from itertools import pairwise

import pytest

import dreamo_batch as dreamo
from dreamo_batch.engine import pacing
from dreamo_batch.engine.schedule import Do
from tests.fakes import picture
from tests.simulation import Run, Service

# Other tests reach the same lines; measuring these would double their time.
pytestmark = pytest.mark.no_cover

IS_LONG = bool(os.environ.get("DREAMO_CHAOS"))
SEEDS = range(10) if IS_LONG else range(1)
ASKS = ("none", "seconds")


def shares(run: Run, since: float) -> tuple[float, float]:
    """Requests answered 429 since then as a share of all, and answered requests a second."""
    count = run.service.count
    n, n_refused = count.n(since=since), count.n(since=since, is_refused=True)
    return n_refused / n, (n - n_refused) / (run.now - since)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("asks", ASKS)
@pytest.mark.parametrize("n_most", [1, 2, 10, 50])
def test_cap_on_tasks_is_found_and_used(n_most, asks, seed):
    """After warm-up less than 1 % of requests is refused, and nine tenths of the slots are taken on average."""
    run = Run(Service(n_most=n_most, asks=asks, seed=seed), 10_000, max_in_flight=500, seed=seed)
    run.work(until_s=300 if IS_LONG or n_most < 10 else 60)
    assert shares(run, since=run.now / 5)[0] < 0.01
    assert run.service.n_busy(run.now / 5, run.now) > 0.9 * n_most
    assert run.schedule.quota.pace.rate == float("inf")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("asks", ASKS)
@pytest.mark.parametrize("rate", [10, 50])
@pytest.mark.parametrize(
    ("latency_s", "does_save"), [(0.01, True), (3.0, False), (10.0, True)], ids=["instant", "short", "long"]
)
def test_cap_on_requests_is_found_and_used(rate, asks, latency_s, does_save, seed):
    """After warm-up less than 1 % of requests is refused, and nine tenths of the rate are used."""
    service = Service(rate=rate, asks=asks, latency_s=latency_s, seed=seed)
    run = Run(service, 5_000, max_in_flight=200, does_save=does_save, seed=seed)
    run.work(until_s=300 if IS_LONG else 90)
    refused, answered_per_s = shares(run, since=run.now / 4)
    assert refused < 0.01
    assert answered_per_s > 0.9 * rate


@pytest.mark.parametrize("seed", range(12) if IS_LONG else (0, 1))
@pytest.mark.parametrize("asks", ASKS)
@pytest.mark.parametrize(("apart_s", "at_most_s"), [(0.1, 160), (1.0, 600)])
def test_creates_that_have_to_be_apart_are_not_taken_for_a_cap_of_one_task(apart_s, at_most_s, asks, seed):
    """A proxy may refuse what comes right after another create; one task at a time, these would take 1,060 s."""
    run = Run(Service(apart_s=apart_s, latency_s=5.0, asks=asks, seed=seed), 200, max_in_flight=50, seed=seed)
    assert run.work() < at_most_s


def test_refusals_with_no_task_open_are_not_for_a_cap_on_tasks():
    """As of a proxy that allows no bursts of any requests, by which creates right after a poll are refused."""
    service = Service(requests_apart_s=0.1, latency_s=5.0)
    assert Run(service, 200, max_in_flight=50).work() < 400


@pytest.mark.parametrize("seed", range(12) if IS_LONG else (0, 4))
def test_trying_one_task_more_does_not_hold_up_short_tasks(seed):
    """A pause after each refused try would be longer than the tasks themselves."""
    run = Run(Service(n_most=3, latency_s=0.1, seed=seed), 80, max_in_flight=12, seed=seed)
    assert run.work() < 2.5 * 80 * 0.1 / 3


@pytest.mark.parametrize("asks", ASKS)
def test_both_caps_at_once(asks):
    """A service with both is used up to the narrower one."""
    run = Run(Service(n_most=10, rate=30, asks=asks), 2_000, max_in_flight=200)
    took_s = run.work(until_s=90)
    assert shares(run, since=took_s / 5)[0] < 0.01
    assert run.service.n_busy(took_s / 5, took_s) > 0.8 * 10


@pytest.mark.parametrize("first", [0.4, 0.6, 0.7])
def test_a_rate_that_was_first_taken_for_lower_is_found_without_many_refusals(first, monkeypatch):
    """As after a slow start: while it rises, the service saves up for a burst, and refuses late what is too fast."""
    measured = pacing.Pace.measured
    monkeypatch.setattr(
        pacing.Pace,
        "measured",
        lambda pace, now: first * 10 / 0.95 if math.isinf(pace.rate) else measured(pace, now),
    )
    shares_refused = []
    for seed in range(12 if IS_LONG else 4):
        run = Run(Service(rate=10, latency_s=1.0, sigma=0.01, seed=seed), 300, max_in_flight=200, seed=seed)
        run.work()
        refused, answered_per_s = shares(run, since=run.now / 4)
        shares_refused.append(refused)
        assert answered_per_s > 0.9 * 10
    assert sum(shares_refused) / len(shares_refused) < 0.008  # in one of them, a few requests decide


def test_neither_polls_nor_creates_starve():
    """Under a tight rate both go on: no stretch of time without the one or the other."""
    run = Run(Service(rate=10, latency_s=3.0), 5_000, max_in_flight=200)
    run.work(until_s=120)
    for do in (Do.CREATE, Do.POLL):
        times = [at for at, kind, refused in run.service.count.at if kind is do and not refused and at > 30]
        assert max(b - a for a, b in pairwise(times)) < 5


def test_creates_refused_for_their_rate_do_not_close_the_window_for_good():
    """With long tasks only creates are refused at first; that the window is not to blame is found out all the same."""
    run = Run(Service(rate=10, latency_s=60.0, sigma=0.1), 400, max_in_flight=400)
    run.work(until_s=90)
    assert run.service.count.n(Do.CREATE, is_refused=False) > 200


@pytest.mark.parametrize("asks", ASKS)
def test_one_cool_down_is_shared(asks):
    """After the first refusal nobody sends anything for as long as the service asks, or for half a second."""
    run = Run(Service(n_most=1, asks=asks), 30, max_in_flight=50)
    run.work(until_s=20)
    first = next(at for at, _, refused in run.service.count.at if refused)
    on_the_wire_s = 2 * run.round_trip_s
    later = [at for at, _, _ in run.service.count.at if at > first + on_the_wire_s]
    assert later[0] > first + (0.9 if asks == "seconds" else 0.35)


@pytest.mark.parametrize("seed", range(3))
def test_refusals_with_nothing_left_to_create_are_waited_for_no_longer_each_time(seed):
    """No create is accepted then, which is what else makes a pause short again; 4,000 requests need 200 s."""
    service = Service(rate=20, latency_s=5.0, seed=seed)
    run = Run(service, 0, max_in_flight=2_000, n_resumed=2_000, does_save=True, seed=seed)
    assert run.work(until_s=10_000) < 240


@functools.cache
def unrefused_s(max_in_flight: int, latency_s: float, seed: int) -> float:
    """Return how long 300 rows take where nothing is refused."""
    service = Service(seed=seed, latency_s=latency_s)
    return Run(service, 300, max_in_flight=max_in_flight, seed=seed).work(until_s=10_000)


@pytest.mark.parametrize("latency_s", [0.5, 3.0, 15.0])
@pytest.mark.parametrize("max_in_flight", [8, 16, 50])
@pytest.mark.parametrize("share", [0.05, 0.1])
@pytest.mark.parametrize("do", [Do.CREATE, Do.POLL])
def test_refusals_at_random_cost_little(do, share, max_in_flight, latency_s):
    """Where some creates or polls are refused and nothing else stands in the way, 300 rows take 1.5 x at most."""
    for seed in range(200 if IS_LONG else 4):
        moody = Service(seed=seed, latency_s=latency_s, refused=share, refused_do=do)
        took_s = Run(moody, 300, max_in_flight=max_in_flight, seed=seed).work(until_s=10_000)
        assert took_s < 1.5 * unrefused_s(max_in_flight, latency_s, seed), seed


@pytest.mark.parametrize(
    ("do", "seed", "max_in_flight"), [(Do.CREATE, 6, 50), (Do.CREATE, 15, 50), (Do.POLL, 98, 16)]
)
def test_refusals_in_a_row_by_chance_cost_little(do, seed, max_in_flight):
    """Three creates in a row at the very start, and five in a row later; and six polls."""
    free, moody = (
        Run(
            Service(seed=seed, latency_s=0.5, refused=one, refused_do=do),
            300,
            max_in_flight=max_in_flight,
            seed=seed,
        ).work(until_s=100)
        for one in (0.0, 0.1)
    )
    assert moody < 1.5 * free


@pytest.mark.parametrize("opens_at", [0.05, 10.0])
def test_a_service_that_first_refuses_everything_is_used_in_full_once_it_opens(opens_at):
    """As if another program had used up the account's quota: that says nothing of a rate."""
    free, late = (
        Run(Service(closed=(0.0, at)), 300, max_in_flight=50).work(until_s=10_000) for at in (0.0, opens_at)
    )
    assert late < free + 2 * opens_at + 2


def test_a_minute_of_refusals_does_not_slow_long_tasks_for_hours():
    """Of few requests a second, twenty take long, so that the rate rises sooner at first."""
    for seed in range(12 if IS_LONG else 4):
        free, late = (
            Run(Service(latency_s=60.0, seed=seed, closed=closed), 100, max_in_flight=8, seed=seed).work()
            for closed in ((0.0, 0.0), (95.0, 155.0))
        )
        assert late < 1.6 * free, seed


def test_long_tasks_at_a_low_rate_are_not_slowed_down_for_being_accepted():
    """Where the first refusals were taken for a cap on tasks, more tasks than that say nothing against the rate."""
    run = Run(Service(rate=1, asks="seconds", latency_s=60.0), 5_000, max_in_flight=50)
    run.work(until_s=1500)
    assert len(run.service.spans) > 250


def test_no_quota_means_no_delay():
    """A thousand tasks of 3 s, 50 at once: the slots are taken, at less than nine polls a task."""
    run = Run(Service(seed=3), 1000, max_in_flight=50)
    took_s = run.work()
    assert run.service.n_busy(0, 0.8 * took_s) > 0.93 * 50  # the last tasks leave slots empty, whoever asks
    assert run.service.count.n(Do.POLL) < 9_000


class Ledger:
    """What a gateway was asked, and what it refused."""

    def __init__(self) -> None:
        self.statuses: list[int] = []

    def n_refused(self) -> int:
        """Count the requests answered 429."""
        return self.statuses.count(429)


@pytest.fixture
def asked(monkeypatch):
    """Record the status of every answer of the service in this process."""
    from dreamo_batch.service.client import Client

    ledger = Ledger()

    def recording(call):
        def recorded(self, *args, **options):
            try:
                answer = call(self, *args, **options)
            except dreamo.ServiceError as error:
                ledger.statuses.append(error.failure.http_status or 0)
                raise
            ledger.statuses.append(200)
            return answer

        return recorded

    for name in ("create", "fetch"):
        monkeypatch.setattr(Client, name, recording(getattr(Client, name)))
    return ledger


def table(tmp_path, n_rows):
    image = tmp_path / "reference.png"
    image.write_bytes(picture(size=(64, 64)))
    return dreamo.sweep(image=image, prompt="a fox", seed=range(n_rows), size="512x512")


@pytest.mark.parametrize(
    ("n_most", "n_rows", "asks"),
    [(1, 8, "body"), (2, 12, "none"), (10, 60, "seconds"), (50, 120, "date")],
)
def test_cap_on_tasks_over_a_socket(n_most, n_rows, asks, asked, tmp_path):
    """Every row is done, each bought once, and few creates are refused."""
    limits = {"max_concurrent": n_most, "when_full": "refuse", "retry_after": asks}
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.1", **limits) as gateway:
        done = dreamo.run(
            table(tmp_path, n_rows),
            tmp_path / "run",
            base_url=gateway.base_url,
            api_key=gateway.api_key,
            max_in_flight=60,
            progress=False,
        )
        n_attempts = len(gateway.invoice())
    assert (done["status"] == "completed").all()
    assert n_attempts == n_rows
    assert asked.n_refused() < 40  # the first burst of creates, and few trials


@pytest.mark.parametrize("asks", ["none", "seconds"])
def test_cap_on_requests_over_a_socket(asks, asked, tmp_path, caplog):
    """Every row is done with its picture, each bought once, few requests are refused, and the last line says so."""
    caplog.set_level(logging.INFO, "dreamo_batch")
    with dreamo.LocalGateway(engine="flat", max_requests_per_s=10, retry_after=asks) as gateway:
        done = dreamo.run(
            table(tmp_path, 20),
            tmp_path / "run",
            base_url=gateway.base_url,
            api_key=gateway.api_key,
            max_in_flight=30,
            progress=False,
        )
        n_attempts = len(gateway.invoice())
    assert (done["status"] == "completed").all()
    assert done["output_error"].isna().all()
    assert n_attempts == 20
    refused = re.search(r"Slowed by rate limits: (\d+) requests? refused with 429, waited \d+ ", caplog.text)
    assert int(refused[1]) > 0
    # The bursts until the rate is known, of which a busy machine sends a few more.
    assert 0 < asked.n_refused() < asked.statuses.count(200)
