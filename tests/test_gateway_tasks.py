"""The tasks of the local gateway: prices, limits, latencies, settings, and how they are kept."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from decimal import Decimal, localcontext

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch import LocalGateway
from dreamo_batch.gateway.engines import DrawRequest
from dreamo_batch.gateway.tasks import (
    Bucket,
    GatewaySettings,
    GatewayTask,
    Slots,
    TaskStore,
    draw_s,
    price_of,
    price_of_time,
    read_latency,
    retry_hint,
    size_price,
    total,
)

REQUEST = DrawRequest("a fox", 1, 512, 512, use_rephraser=True)


@given(st.integers(512, 2048), st.integers(512, 2048))
def test_prices_are_plain_decimals_that_grow_with_the_picture(width, height):
    """The price is readable by Decimal, exact, and monotonic in the number of pixels."""
    assert Decimal(size_price(width, height)) < Decimal(size_price(width + 1, height))
    assert "E" not in size_price(width, height)
    exact = size_price(width, height), price_of_time("0.00123456", width / 7)
    with localcontext(prec=2):  # the user's, in the same process
        assert exact == (size_price(width, height), price_of_time("0.00123456", width / 7))


@pytest.mark.parametrize("price", ["-1", "1e3", "NaN", "", ".", "٣", " 1", -1, 0.03])
def test_a_price_that_is_no_plain_decimal_is_refused(price):
    """Only digits and one point make a price, fixed or computed."""
    with pytest.raises(ValueError, match="plain decimal"):
        GatewaySettings(price=price)
    with pytest.raises(ValueError, match="plain decimal"):
        price_of(REQUEST, lambda _: price)


@given(st.lists(st.decimals(0, 100, places=10).map(lambda d: format(d, "f")), max_size=50))
def test_totals_are_exact(costs):
    """The total of an invoice is the sum of its texts, to the last digit."""
    assert Decimal(total([{"cost": cost} for cost in [*costs, ""]])) == sum(map(Decimal, costs))


@pytest.mark.parametrize(
    "text", ["slow", "fixed", "fixed:x", "fixed:-1", "lognormal:3", "instant:1", "fixed:inf", -1]
)
def test_latencies_that_can_not_be_read_are_refused_with_the_forms(text):
    """The error lists the three forms."""
    with pytest.raises(ValueError, match="lognormal:MEDIAN_S,SIGMA"):
        read_latency(text)


def test_log_normal_latencies_have_the_median_asked_for():
    """Half of many draws are below the median."""
    latency, rng = read_latency("lognormal:3,0.5"), random.Random(1)
    n_below = sum(draw_s(latency, rng) < 3 for _ in range(2000))
    assert 900 < n_below < 1100
    assert draw_s(read_latency(2), rng) == draw_s(read_latency("fixed:2"), rng) == 2


@given(st.integers(1, 5), st.lists(st.tuples(st.floats(0, 2), st.floats(0.1, 9)), max_size=40))
def test_a_queue_never_runs_more_than_its_slots(n_slots, arrivals):
    """At the start of each task no more than the others of its slots are running."""
    slots, now, runs = Slots(n_slots, does_queue=True), 0.0, []
    for pause, duration in arrivals:
        now += pause
        assert slots.wait_s(now) == 0
        start = slots.take(now, duration)
        assert start >= now
        runs.append((start, start + duration))
    for start, _ in runs:
        assert sum(other[0] <= start < other[1] for other in runs) <= n_slots


def test_refusing_slots_say_when_the_first_comes_free():
    """Full slots return the seconds to the earliest end, also after a restart."""
    slots = Slots(2, ends=[5.0, 3.0, 9.0])
    assert slots.wait_s(now=1.0) == 4.0
    assert slots.wait_s(now=5.0) == 0.0
    assert slots.take(now=5.0, duration_s=1.0) == 5.0


@given(st.floats(0.5, 100), st.lists(st.floats(0, 1), min_size=1, max_size=100))
def test_a_bucket_lets_no_more_through_than_its_rate(rate, pauses):
    """Over any time, at most the burst and the rate times the time pass."""
    bucket, now, n_passed = Bucket(rate), 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = bucket.take(now)
        n_passed += wait_s == 0
        assert 0 <= wait_s <= 1 / rate + 1e-6
    assert n_passed <= max(1.0, rate) + rate * now + 1e-6


def test_retry_hints_stand_where_they_were_asked_for():
    """Seconds and dates are whole, the body is exact, none is nothing."""
    assert retry_hint("none", 2.5, 0.0) == ({}, {})
    assert retry_hint("body", 2.5, 0.0) == ({}, {"retry_after": 2.5})
    assert retry_hint("seconds", 2.5, 0.0)[0] == {"Retry-After": "3"}
    assert retry_hint("date", 2.5, 0.5)[0] == {"Retry-After": "Thu, 01 Jan 1970 00:00:04 GMT"}


@pytest.mark.parametrize(
    "options",
    [
        {"when_full": "wait"},
        {"max_concurrent": 0},
        {"max_concurrent": 1.5},
        {"max_requests_per_s": "3"},
        {"links_live_s": -1},
        {"links_live_s": True},
        {"seed": "x"},
        {"discount": "x"},
        {"precharge": ""},
        {"precharge": np.array(["price", "missing"])},
        {"bills_failures": "no"},
        {"seed": True},
        {"price_per_second": len},
    ],
)
def test_settings_that_can_not_be_are_refused(options):
    """Each setting is checked when the gateway is made, not when it is used."""
    with pytest.raises(ValueError, match=next(iter(options)) + "|plain decimal"):
        GatewaySettings(**options)
    for name, value in (
        *[("port", port) for port in (-1, 70000, "8080", True, np.array([1, 2]))],
        *[("host", host) for host in (5, "", None, "a\n", b"127.0.0.1")],
        *[("state_dir", folder) for folder in (5, "", b"x", "x\n", "a\0b", ["x"])],
        *[("clock", clock) for clock in (3, "now", None)],
        *[("faults", faults) for faults in (0, [], np.array([1, 2]), pd.DataFrame())],
        ("latency", pd.Series([1, 2])),
        ("engine", np.array([[1], [2]])),
    ):
        with pytest.raises(
            ValueError, match=name if name not in ("latency", "engine") else "(an|the) " + name
        ) as why:
            LocalGateway(**{name: value})
        assert "\n" not in str(why.value)
    with LocalGateway(engine="flat", seed=np.int64(3), max_concurrent=np.int64(2)) as gateway:
        assert gateway.is_running


def test_a_store_of_another_layout_is_refused(tmp_path):
    """A file of another version is left alone."""
    TaskStore(tmp_path / "tasks.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "tasks.sqlite")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="layout 99"):
        TaskStore(tmp_path / "tasks.sqlite")


def test_a_task_comes_back_from_the_store_as_it_went_in():
    """Every field survives, switches and big seeds too."""
    request = DrawRequest(
        "a\0fox\U0001f98a", 2**63 - 1, 512, 512, use_rephraser=False, ref_types=("FACE", "STYLE")
    )
    references = (("e" * 64, None), ("f" * 64, "http://h/a.png"))
    task = GatewayTask("c0", "d" * 64, request, references, 7, 0.25, 0.5, 3.0, "0.01")
    store = TaskStore(":memory:")
    store.add(task)
    assert store.all() == [task]
    store.update("c0", error_code="003011095", error_message="x")
    failed = store.get("c0")
    assert failed is not None
    assert (failed.state(9.0), failed.cost(9.0), failed.drawn.seed) == ("failed", "", 7)
    store.close()
