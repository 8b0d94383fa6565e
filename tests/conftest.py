"""What every test shares: how many examples Hypothesis draws, and a clock that only moves when told.

`DREAMO_CHAOS=1` draws fifty times as many, 10,000 whole runs instead of 200; continuous integration always draws
the same ones.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes import FakeClock

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


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Stop what pytest-cov measures in a worker before it starts anew: `no_cover` pauses only the second."""
    coverage = sys.modules.get("coverage")
    if coverage is not None and hasattr(session.config, "workerinput"):
        first = coverage.Coverage.current()
        if first is not None:
            first.stop()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
