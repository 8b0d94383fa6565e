"""The options of a call: refused before anything happens, and stored as JSON."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch.call import Service
from dreamo_batch.engine.plan import RunOptions
from dreamo_batch.errors import UsageError


@pytest.mark.parametrize(
    "options",
    [
        {"max_in_flight": 0},
        {"max_in_flight": None},
        {"max_in_flight": 1.5},
        {"max_in_flight": True},
        {"max_in_flight": "8"},
        {"max_attempts": 0},
        {"pilot": 0},
        {"pilot": 2.0},
        {"on_invalid": "ignore"},
        {"on_ambiguous": "retry"},
        {"random_seed": "mine"},
        {"task_timeout_s": 0},
        {"task_timeout_s": float("nan")},
        {"adopt_copy": "no"},
        {"keep_references": 1},
        {"max_cost": -1},
        {"max_cost": "much"},
        {"max_cost": float("nan")},
        {"max_cost": True},
        {"unit_cost": -0.01},
        {"unit_cost": float("inf")},
    ],
)
def test_what_can_not_be_used_is_refused_by_name(options):
    """The message names the option and shows its value."""
    ((name, value),) = options.items()
    with pytest.raises(UsageError, match=name) as caught:
        RunOptions(**options)
    assert str(value) in str(caught.value)


@pytest.mark.parametrize(
    "value", [pd.DataFrame({"a": [1]}), pd.Series([1, 2]), np.array([1, 2]), pd.NA, {"a"}]
)
@pytest.mark.parametrize("name", [one.name for one in fields(RunOptions) if one.name != "budget"])
def test_what_compares_in_its_own_way_is_refused_in_one_line(name, value):
    """A whole table is named by its type."""
    with pytest.raises(UsageError, match=name) as caught:
        RunOptions(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "stored", "cap"),
    [
        (None, None, None),
        (None, "5.00", "5.00"),
        (3, "5", "3"),
        ("0.10", None, "0.10"),
        (0.1, None, "0.1"),
        (0, "5", "0"),
        (Decimal("1.5"), "5", "1.5"),
        (float("inf"), "5", None),
        ("Infinity", "5", None),
    ],
)
def test_the_cap_is_the_one_given_or_the_one_stored(given, stored, cap):
    """Infinity lifts it, and 0 is a cap."""
    assert RunOptions(max_cost=given).cap(stored) == (None if cap is None else Decimal(cap))


def test_options_are_stored_as_json():
    """Amounts as exact text, infinity too, and everything by its name."""
    options = RunOptions(
        max_cost=float("inf"),
        unit_cost=Decimal("0.0286"),
        pilot=np.int64(2),
        download=np.True_,
        task_timeout_s=np.int64(9),
    )
    stored = json.loads(json.dumps(options.as_settings(), allow_nan=False))
    assert (stored["max_cost"], stored["unit_cost"], stored["pilot"]) == ("inf", "0.0286", 2)
    assert RunOptions(**stored).as_settings() == stored
    assert RunOptions().as_settings()["max_cost"] is None


def test_an_option_has_the_type_and_the_default_that_run_shows():
    """They stand in its signature, which is what people read."""
    shown = inspect.signature(dreamo.run).parameters
    for one in fields(RunOptions):
        assert (one.name, one.default) == (one.name, shown[one.name].default)
        assert one.type in ("Any", str(shown[one.name].annotation))


def test_every_argument_of_run_is_an_option_or_known_to_be_none():
    """One that stands only in the signature would be neither checked nor stored."""
    known = {one.name for cls in (RunOptions, Service) for one in fields(cls)}
    of_call = {"table", "run_dir", "progress", "base_dir", "notify", "on_event", "not_before", "cluster"}
    assert inspect.signature(dreamo.run).parameters.keys() == known | of_call
