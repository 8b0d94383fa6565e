"""What every test shares: how many examples Hypothesis draws, and a clock that only moves when told.

`DREAMO_CHAOS=1` draws fifty times as many, 10,000 whole runs instead of 200; continuous integration always draws
the same ones.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = os.environ.get("PYTEST_XDIST_WORKER")

gc.disable()  # until all tests are loaded: see pytest_collection


def measured() -> Any:
    """Return what measures coverage now, if anything does."""
    coverage = sys.modules.get("coverage")
    return None if coverage is None else coverage.Coverage.current()


if WORKER is not None and (before_the_session := measured()) is not None:
    # pytest-cov starts another one with the session of a worker; this one would slow down what is loaded until
    # then, which the first process measures, and be thrown away.
    before_the_session.stop()

from tests.fakes import FakeClock  # noqa: E402 - see above

# Scripts and helpers have no doctests: collecting them would only load them, and what they need, in each worker.
collect_ignore = [path.name for path in Path(__file__).parent.glob("*.py") if not path.match("test_*")]

settings.register_profile(
    "dreamo",
    max_examples=5_000 if os.environ.get("DREAMO_CHAOS") else 100,
    deadline=None,  # two busy cores say nothing about the code
    derandomize=bool(os.environ.get("CI")) and not os.environ.get("DREAMO_CHAOS"),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("dreamo")


def pytest_configure() -> None:
    """Take interrupts, which some tests send, also where a shell started us in the background and ignores them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def paused(*, is_paused: bool) -> Iterator[None]:
    """Measure no coverage meanwhile."""
    measuring = measured() if is_paused else None
    if measuring is not None:
        measuring.stop()
    try:
        yield
    finally:
        if measuring is not None:
            measuring.start()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Measure what loading the tests runs in one worker only: it is the same in each.

    What is loaded stays until the end. Garbage collection would go through it again and again, which took a
    twentieth of all time: it looks only at what the tests themselves make.
    """
    try:
        with paused(is_paused=WORKER not in (None, "gw0")):
            return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[object]:
    """Do what pytest-cov does for `no_cover` also while fixtures start their threads, which would be measured on."""
    with paused(is_paused=item.get_closest_marker("no_cover") is not None):
        return (yield)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
