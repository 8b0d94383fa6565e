"""Buying until good: groups stop early, every try is an ordinary row, and the same call resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch.gateway import tasks
from tests.fakes import picture


@pytest.fixture
def jobs(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    return dreamo.sweep(
        image=str(tmp_path / "a.png"),
        prompt=["a fox", "an owl", "a hare"],
        size="512x512",
        use_rephraser=False,
    )


@pytest.fixture
def gateway():
    with dreamo.LocalGateway(engine="flat", price="0.01") as running:
        yield running


def reddish(reference, output):
    """About one of three plain pictures."""
    red, green, blue = output.getpixel((9, 9))
    return red > green and red > blue


def always(*_pictures):
    return True


def never(*_pictures):
    return False


def search(jobs, run_dir, gateway, **options):
    client = dreamo.Client(gateway.api_key, gateway.base_url)
    defaults = {"accept": reddish, "keep": 2, "max_attempts_each": 8, "max_cost": 5}
    return dreamo.search(jobs, run_dir, **defaults | options, client=client, progress=False)


def n_good(found):
    return found.groupby("prompt", sort=False)["accepted"].sum().astype(int)


@pytest.mark.no_cover
def test_groups_stop_once_they_have_enough(jobs, gateway, tmp_path, caplog):
    """Each has its pictures, or has used up its tries, and no group goes on after that."""
    caplog.set_level("INFO", "dreamo_batch")
    # All three groups need all 16 once in 100,000 times.
    events = []
    found = search(jobs, tmp_path / "run", gateway, max_attempts_each=16, on_event=events.append)
    assert [(event.kind, event.by_status["completed"]) for event in events] == [("done", len(found))]
    for _, group in found.groupby("prompt"):
        good, tries = group["accepted"].to_numpy(dtype=bool), group["search_try"].tolist()
        assert tries == list(range(1, len(group) + 1))
        assert good.sum() >= 2 or len(group) == 16
        assert good[:-1].sum() < 2 or good.sum() == 2
    assert len(gateway.invoice()) == len(found) < 48
    assert found["seed_sent"].is_unique
    assert (found["status"] == "completed").all()
    assert dreamo.costs(tmp_path / "run", by="prompt")["attempts"].sum() == len(found)
    n_enough = (n_good(found) >= 2).sum()
    assert caplog.messages[-1] == f"Groups with at least 2 accepted pictures: {n_enough} of 3"


@pytest.mark.no_cover
def test_the_same_call_resumes_and_pays_nothing(jobs, gateway, tmp_path, caplog):
    """And more is bought only when more is wanted; what is there counts."""
    found = search(jobs, tmp_path / "run", gateway)
    again = search(jobs, tmp_path / "run", gateway)
    pd.testing.assert_frame_equal(found[["job_id", "accepted"]], again[["job_id", "accepted"]])
    n_before = len(gateway.invoice())
    assert n_before == len(found)
    assert "differs only in" not in caplog.text
    more = search(jobs, tmp_path / "run", gateway, keep=3, max_attempts_each=12)
    assert set(found["job_id"]) <= set(more["job_id"])
    assert len(gateway.invoice()) == len(more) >= n_before
    assert (n_good(more) >= n_good(found)).all()


def test_the_cap_stops_it_and_a_higher_one_goes_on(jobs, gateway, tmp_path):
    """Nothing is bought twice."""
    events = []
    with pytest.raises(dreamo.BudgetReached):
        search(jobs, tmp_path / "run", gateway, accept=never, max_cost=0.04, on_event=events.append)
    assert [event.kind for event in events] == ["budget"]
    assert len(gateway.invoice()) == 4
    found = search(jobs, tmp_path / "run", gateway, accept=never, max_cost=5)
    assert len(gateway.invoice()) == len(found) == 24
    assert not found["accepted"].any()


def test_the_plan_shows_the_worst_case(jobs, gateway, tmp_path):
    """All tries of all groups, and nothing is sent; what was bought is reused."""
    planned = search(jobs, tmp_path / "run", gateway, plan_only=True)
    assert planned["action"].value_counts().loc["new"] == 24
    priced = dreamo.search(
        jobs,
        tmp_path / "run",
        accept=reddish,
        max_cost=5,
        plan_only=True,
        unit_cost="0.01",
        max_attempts_each=4,
    )
    assert priced["cost_high_usd"].sum() == pytest.approx(0.12)
    assert gateway.invoice() == []
    found = search(jobs, tmp_path / "run", gateway)
    planned = search(jobs, tmp_path / "run", gateway, plan_only=True)
    assert planned["action"].value_counts().loc["reuse"] == len(found)


def test_failed_tries_count_and_are_not_accepted(jobs, tmp_path):
    """A group whose tries fail goes on with others."""
    with dreamo.LocalGateway(
        engine="flat", faults={"script": {"create": ["fail_moderation"] * 3}}
    ) as gateway:
        found = search(
            jobs,
            tmp_path / "run",
            gateway,
            accept=always,
            keep=1,
            max_attempts_each=2,
        )
    assert found["status"].value_counts().to_dict()["failed"] == 3
    assert n_good(found).tolist() == [1, 1, 1]


@pytest.mark.parametrize("bound", ["appearance >= 0", " appearance > 0 ", "colour <= 1"])
def test_bounds_are_written_as_text(jobs, gateway, tmp_path, bound):
    """With the name of a built-in metric, whose values stand in the results."""
    found = search(jobs, tmp_path / "run", gateway, accept=bound, keep=1)
    assert found["accepted"].tolist() == [True] * 3
    assert found[bound.split()[0]].between(0, 1).all()


def test_a_metric_with_a_bound_decides(jobs, gateway, tmp_path):
    """`metric >= 0.5` of one's own metric; what it can't measure is not accepted."""
    seen = []

    def share(reference, output):
        seen.append(output.size)
        return None if len(seen) % 2 else 0.7

    metric = dreamo.Metric("share", share, version="1")
    found = search(jobs, tmp_path / "run", gateway, accept=metric >= 0.5, keep=1, max_attempts_each=3)
    assert (found["share"].eq(0.7) == found["accepted"]).all()
    assert (
        search(jobs, tmp_path / "other", gateway, accept=metric < 0.5, keep=1, max_attempts_each=1)[
            "accepted"
        ].sum()
        == 0
    )
    for wrong in ("high", None, float("nan")):
        with pytest.raises(dreamo.UsageError, match="is a number"):
            assert metric >= wrong
    with pytest.raises(dreamo.UsageError, match="can't be chained"):
        assert 0.2 <= metric <= 0.8


def test_rows_of_a_group_take_turns(jobs, gateway, tmp_path):
    """Two sizes of each prompt are tried alternately; labels come back."""
    both = pd.concat([jobs, jobs.assign(size="768x512")]).set_axis(list("abcdef"))
    found = search(both, tmp_path / "run", gateway, accept=never, max_attempts_each=3, keep=1)
    fox = found[found["prompt"] == "a fox"]
    assert fox["size"].tolist() == ["512x512", "768x512", "512x512"]
    assert fox.index.tolist() == ["a", "d", "a"]
    assert fox["seed_sent"].is_unique


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"seed": 5}, {}, "draws the seeds"),
        ({"accepted": True}, {}, "column 'accepted'"),
        ({"search_try": 1}, {}, "column 'search_try'"),
        ({}, {"per": "mood"}, "no column 'mood'"),
        ({}, {"keep": 0}, "at least 1"),
        ({}, {"keep": 9}, "raise it"),
        ({}, {"max_attempts_each": 2.5}, "whole number"),
        ({}, {"accept": "appearance"}, "Can't read 'appearance'"),
        ({}, {"accept": "beauty >= 1"}, "isn't a metric"),
        ({}, {"accept": 0.8}, "expected metric >= 0.8"),
        ({}, {"accept": dreamo.Metric}, "expected metric >= 0.8"),
        ({}, {"accept": repr}, "or a function of reference and output"),
        ({}, {"per": 5}, "no column 5"),
        ({}, {"per": []}, "per= is empty"),
        ({}, {"max_cost": None}, "search needs a cap"),
        ({}, {"download": False}, "download=False"),
        ({}, {"keeps": 1}, "no argument 'keeps'; did you mean 'keep'"),
        ({}, {"max_in_flights": 1}, "did you mean 'max_in_flight'"),
        ({}, {"max_in_flight": 0}, "max_in_flight=0"),
        (
            {"prompt": ["a fox", "лиса", "x"]},
            {"accept": "prompt_match > 0.2"},
            "row 1: .*isn't in Latin script",
        ),
        (
            {},
            {"accept": dreamo.metrics.Embedding("dinov2-small", path="/nowhere") >= 0.5},
            "no model.onnx in /nowhere",
        ),
        ({"prompt": "a fox", "scene": ["x", "y", "z"]}, {"per": "scene"}, "same job as an earlier row"),
    ],
)
def test_what_can_not_be_searched_is_refused_before_anything_is_sent(
    jobs, tmp_path, change, options, message
):
    """The directory isn't even made."""
    defaults = {"accept": never, "max_cost": 1}
    with pytest.raises(dreamo.UsageError, match=message):
        dreamo.search(jobs.assign(**change), tmp_path / "run", gateway="local", **defaults | options)
    assert not (tmp_path / "run").exists()


def test_a_function_that_always_fails_buys_no_second_round(jobs, gateway, tmp_path):
    """What was bought is kept, and judged once it can be."""

    def broken(reference, output):
        raise ValueError("no model here")

    events = []
    with (
        pytest.warns(UserWarning, match="no model here"),
        pytest.raises(
            dreamo.UsageError, match=r"can't judge any picture \(accept failed: ValueError: no model here\)"
        ),
    ):
        search(jobs, tmp_path / "run", gateway, accept=broken, keep=1, on_event=events.append)
    assert [event.kind for event in events] == ["stopped"]
    n_bought = len(gateway.invoice())
    found = search(jobs, tmp_path / "run", gateway, accept=always, keep=1)
    assert n_bought == len(gateway.invoice()) == len(found) == found["accepted"].sum()


def test_pictures_that_nothing_can_judge_are_not_bought_on(jobs, gateway, tmp_path, monkeypatch):
    """Whatever the reason is, one round shows it; a warning of ours stops nothing where warnings are errors."""
    monkeypatch.setattr(tasks, "fetch", lambda *_, **__: Path(jobs["image"][0]).read_bytes())
    broken = dreamo.Metric("broken", lambda *_: 1 / 0, version="1") >= 0.5
    far = jobs.assign(image="https://pictures.example/fox.png")
    for n, (table, accept, why) in enumerate(
        [(jobs, broken, "ZeroDivisionError"), (far, "appearance >= 0.5", "URL"), (far, always, "URL")], 1
    ):
        with pytest.raises(dreamo.UsageError, match=rf"can't judge any picture \(.*{why}"):
            search(table, tmp_path / str(n), gateway, accept=accept, keep=1)
        assert len(gateway.invoice()) == 3 * n


class Blind(dreamo.metrics.VectorMetric):
    """Sees nothing in reddish pictures: nothing to measure in one of three, or in the reference."""

    version = "1"

    def embed(self, pictures):
        return [None if reddish(None, one) else np.ones(2, np.float32) for one in pictures]


@pytest.mark.parametrize(("colour", "n_bought"), [("blue", None), ("red", 3)])
def test_a_reference_in_which_nothing_can_be_measured_ends_the_search(
    jobs, gateway, tmp_path, colour, n_bought
):
    """No seed changes it; a picture in which there is nothing is one of those that aren't good."""
    Image.new("RGB", (64, 64), colour).save(jobs["image"][0])
    judged = {"accept": Blind("nothing to see", 4) >= 2, "keep": 1, "max_attempts_each": 3}
    if n_bought is None:
        search(jobs, tmp_path / "run", gateway, **judged)
        assert len(gateway.invoice()) == 9
        return
    with pytest.raises(dreamo.UsageError, match=r"nothing to measure in the reference.*drop or change row 0"):
        search(jobs, tmp_path / "run", gateway, **judged)
    assert len(gateway.invoice()) == n_bought


@pytest.mark.filterwarnings("ignore:accept failed")
def test_a_forgotten_bound_is_no_yes(jobs, gateway, tmp_path):
    """Neither a metric without one, nor a function that returns a number or nothing."""
    with pytest.raises(dreamo.UsageError, match=r"expected metric >= 0\.8"):
        search(jobs, tmp_path / "run", gateway, accept=dreamo.Metric("share", reddish))
    assert not gateway.invoice()
    for verdict in (0.3, 7, None):
        with pytest.raises(dreamo.UsageError, match=rf"TypeError: accept returned {verdict}, not True or"):
            search(jobs, tmp_path / "run", gateway, accept=lambda *_, verdict=verdict: verdict)
    assert len(gateway.invoice()) == 6


def test_empty_seeds_are_no_seeds(jobs, gateway, tmp_path):
    """-1 and missing mean a drawn one, here as everywhere."""
    found = search(
        jobs.assign(seed=pd.array([-1, None, None], dtype="Int64")), tmp_path / "run", gateway, keep=1
    )
    assert found["seed_sent"].gt(0).all()
