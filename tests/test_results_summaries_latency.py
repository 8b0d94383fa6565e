"""Times of attempts by phase, throughput without gaps, and what holds a run up."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.engine.attempts import Attempt, Stage
from dreamo_batch.errors import UsageError
from dreamo_batch.results import history
from dreamo_batch.results.summaries import phases
from tests.histories import NOON, ambiguous, completed, failed, history_of, ledger, results


def steady(n=20, *, apart_s=1.0, task_s=5.0, **fields):
    """Attempts sent at even intervals, each taking as long."""
    return [
        completed(
            f"job{i}",
            sent_at=NOON + i * apart_s,
            answered_at=NOON + i * apart_s,
            completed_at=NOON + i * apart_s + task_s,
            **fields,
        )
        for i in range(n)
    ]


def pace_of(attempts):
    return dreamo.pace(history_of([attempt.job_id for attempt in attempts], attempts))


def test_phases_are_distinguished():
    """Each phase is its own difference; the service's times come from its metadata."""
    times = json.dumps({"in_queue_at": 0.5, "completed_at": 2.5, "upload_at": 2.75})
    row = phases(ledger([completed("a", metadata=times, waited_s=7.0)])).iloc[0]
    assert row.to_dict() == {
        "create": 1.0,
        "quota": 7.0,
        "queue": 0.5,
        "generation": 2.0,
        "upload": 0.25,
        "task": 4.0,
        "download": 1.0,
    }


def test_times_that_can_not_be_are_missing():
    """A clock that was set back, and dates in place of lengths, are left out."""
    dates = json.dumps({"in_queue_at": NOON, "completed_at": NOON + 2})
    row = phases(ledger([completed("a", metadata=dates, completed_at=NOON - 1)])).iloc[0]
    assert row[["queue", "task", "upload"]].isna().all()
    assert row["generation"] == 2.0


def test_quantiles_by_group():
    """Quantiles are those of numpy, and a phase that nothing is known of has no line."""
    seconds = np.arange(1.0, 12.0)
    attempts = [completed(f"j{s}", completed_at=NOON + s, saved_at=None) for s in seconds]
    scenes = ["short" if s < 6 else "long" for s in seconds]
    table = dreamo.latency(history_of([o.job_id for o in attempts], attempts, scene=scenes), "scene")
    task = table[table["phase"] == "task"].set_index("scene")
    assert task["attempts"].to_dict() == {"long": 6, "short": 5}
    for scene, values in (("short", seconds[:5]), ("long", seconds[5:])):
        expected = [values.mean(), *np.quantile(values, [0, 0.1, 0.5, 0.9, 0.99, 1])]
        assert task.loc[scene].tolist()[2:] == pytest.approx(expected)
    assert set(table["phase"]) == {"create", "task"}
    assert table["phase"].dtype == pd.CategoricalDtype(columns.PHASES)


def test_results_alone_tell_the_time_in_all():
    """Without a ledger there is only the time from sending to the end."""
    table = dreamo.latency(history.from_results(results(["a"], [completed("a")])))
    assert table[["phase", "p50_s"]].to_numpy().tolist() == [["task", 4.0]]


def test_throughput_has_no_gaps():
    """Every attempt is counted once as sent and once as ended, and the flight is empty at the end."""
    attempts = [*steady(10), failed("f", sent_at=NOON, completed_at=NOON + 1, cost="0.01")]
    table = dreamo.throughput(history_of([o.job_id for o in attempts], attempts), every="2s")
    assert table.dtypes.map(str).to_dict() == columns.dtypes(columns.THROUGHPUT)
    assert table[["sent", "completed", "failed"]].sum().tolist() == [11, 10, 1]
    assert table["at"].diff().dropna().unique().tolist() == [pd.Timedelta("2s")]
    assert table["in_flight"].tolist()[-1] == 0
    assert table["in_flight"].max() == 5
    assert table["spent_usd"].sum() == pytest.approx(10 * 0.0286 + 0.01)
    assert table["per_minute"].max() == 60.0


def test_throughput_chooses_a_length_that_suits():
    """A run of days is not cut into seconds; nothing sent gives an empty table."""
    attempts = [completed("a"), completed("b", sent_at=NOON, completed_at=NOON + 86_400 * 3)]
    table = dreamo.throughput(history_of(["a", "b"], attempts))
    assert table["at"].diff().dropna().unique().tolist() == [pd.Timedelta("1h")]
    assert dreamo.throughput(history_of(["a"], [])).empty
    for every in ("1us", "soon", "0s"):
        with pytest.raises(UsageError, match="every="):
            dreamo.throughput(history_of(["a", "b"], attempts), every=every)


def test_refusals_show_how_many_the_service_takes():
    """Where creates were refused, the peak is the cap, and waiting is told as a share."""
    attempts = steady(20, n_refusals=1, waited_s=0.5)
    pace = pace_of(attempts)
    assert (pace["peak_in_flight"], pace["refusals"], pace["max_in_flight"]) == (5, 20, 5)
    assert pace["busy_s"] == pytest.approx(24.5)
    assert pace["waiting_share"] == pytest.approx(10 / 24.5)
    assert pace["per_minute"] == pytest.approx(60 * 20 / 24.5)
    assert "max_in_flight=5" in pace["advice"]


def test_ends_seen_late_do_not_widen_the_cap():
    """A run that was away for an hour sees ends late; the service's own times say when there was room."""
    times = json.dumps({"in_queue_at": 0.0, "completed_at": 3.0})
    attempts = steady(20, n_refusals=1, metadata=times, task_s=3600.0)
    assert pace_of(attempts)["max_in_flight"] == 3


def test_what_the_service_takes_is_known_although_it_refused_below_that():
    """After a refusal a run sends one at a time again: what the service held then says nothing of what it takes."""
    waves = [(wave, i) for wave in range(4) for i in range(10)]
    attempts = [
        completed(
            f"{wave} {i}",
            sent_at=NOON + 30 * wave + i,
            answered_at=NOON + 30 * wave + i,
            completed_at=NOON + 30 * wave + 20,
            n_refusals=1 if i < 5 else 0,
        )
        for wave, i in waves
    ]
    pace = pace_of(attempts)
    assert (pace["peak_in_flight"], pace["refusals"], pace["max_in_flight"]) == (10, 20, 10)


def test_a_queue_at_the_service_shows_what_it_works_on():
    """More in flight than 1.2 times what the service works on only wait there."""
    attempts = []
    for i in range(20):  # two at once, 2 s each; what comes sooner queues
        queue_s = 2.0 * (i // 2) - i * 0.5 + 5
        times = json.dumps({"in_queue_at": queue_s, "completed_at": queue_s + 2})
        attempts.append(completed(f"j{i}", sent_at=NOON + i * 0.5, completed_at=NOON + 40, metadata=times))
    pace = pace_of(attempts)
    assert pace["max_in_flight"] == 3
    assert "worked on 2 attempts" in pace["advice"]


def test_nothing_in_the_way_asks_for_more():
    """No refusals and no queue: more may be faster; too few attempts say nothing."""
    assert pace_of(steady(20))["max_in_flight"] == 10
    few = pace_of([ambiguous("a"), Attempt("b", 1, Stage.ACCEPTED, sent_at=NOON, answered_at=NOON + 2)])
    assert (few["max_in_flight"], few["peak_in_flight"], few["busy_s"]) == (None, 1, 2.0)
    nothing = pace_of([])
    assert (nothing["attempts"], nothing["per_minute"], nothing["waiting_share"]) == (0, None, None)


@settings(max_examples=25)  # each is a whole table
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=12))
def test_overlaps_agree_with_counting_second_by_second(intervals):
    """Peak and union of intervals are what a slow count gives."""
    alive = [sum(begin <= second < begin + length for begin, length in intervals) for second in range(101)]
    pace = pace_of(
        [
            completed(
                f"j{n}", sent_at=NOON + begin, answered_at=NOON + begin, completed_at=NOON + begin + length
            )
            for n, (begin, length) in enumerate(intervals)
        ]
    )
    assert pace["busy_s"] == sum(n > 0 for n in alive)
    assert pace["peak_in_flight"] == max(alive)


@pytest.mark.parametrize("jump_s", [-2e9, -86_400.0, 86_400.0, 3e9])
def test_a_clock_that_jumps_makes_durations_missing_and_nothing_fails(jump_s):
    """Set back or forward while attempts run: their times can't be told, the counts can."""
    attempts = [
        *steady(3),
        completed("set", completed_at=NOON + jump_s, saved_at=NOON + jump_s + 1),
        failed("late", sent_at=NOON + jump_s, completed_at=NOON + 5),
    ]
    jobs = [attempt.job_id for attempt in attempts]
    known = history_of(jobs, attempts)
    seconds = known.rows["latency_s"]
    assert seconds[:3].tolist() == [5.0] * 3
    is_possible = 0 <= jump_s < 30 * 86_400
    assert bool(pd.notna(seconds[3])) is is_possible
    throughput = dreamo.throughput(known)
    assert (throughput["sent"].sum(), throughput["completed"].sum(), throughput["failed"].sum()) == (
        5,
        4,
        1,
    )
    assert (throughput["in_flight"] >= 0).all()
    assert dreamo.pace(known)["busy_s"] >= 0
    assert dreamo.latency(known).notna().all(axis=None)
    for draw, table in (
        (dreamo.plot_throughput, throughput),
        (dreamo.plot_latency, dreamo.latency(known)),
        (dreamo.plot_spend, dreamo.attempts(known)),
    ):
        draw(table).figure.canvas.draw()


def test_a_run_against_a_gateway_with_a_cap_tells_the_cap(tmp_path):
    """Over a socket: the advice is the gateway's own limit, and every phase of the run is known."""
    Image.new("RGB", (64, 64), "orange").save(tmp_path / "reference.png")
    jobs = dreamo.sweep(
        image=str(tmp_path / "reference.png"),
        prompt="a fox",
        seed=range(16),
        size="512x512",
        use_rephraser=[True, False],
    )
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.1", max_concurrent=3) as gateway:
        dreamo.run(
            jobs,
            tmp_path / "run",
            base_url=gateway.base_url,
            api_key=gateway.api_key,
            max_in_flight=12,
            progress=False,
        )
    pace = dreamo.pace(tmp_path / "run")
    assert pace["refusals"] > 0
    assert 2 <= pace["max_in_flight"] <= 4  # answers that were long under way blur it by one
    assert 0 < pace["waiting_share"] <= 1
    table = dreamo.latency(tmp_path / "run", by=["size", "use_rephraser"])
    assert set(table["phase"]) == set(columns.PHASES)
    assert table["use_rephraser"].drop_duplicates().tolist() == [False, True]
    assert table.loc[table["phase"] == "generation", "p50_s"].tolist() == pytest.approx([0.1, 0.1])
    assert dreamo.throughput(tmp_path / "run")["completed"].sum() == 32
