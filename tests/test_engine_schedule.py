"""What the schedule says about when to look again."""

from __future__ import annotations

import pytest

from dreamo_batch.engine.schedule import Do, Schedule
from dreamo_batch.engine.spending import Spending
from tests.fakes import limits_of
from tests.simulation import Run, Service


def refused(*keys: tuple[str, int]) -> Schedule:
    """A schedule whose first create was answered 429 at second 0."""
    schedule = Schedule(limits_of(max_in_flight=1), Spending())
    schedule.add_jobs(keys)
    action = schedule.next_action(0.0)
    assert action is not None
    schedule.send_again(action.key)
    schedule.limited(0.0, asked_s=2.0, create=action.key)
    return schedule


def test_cool_down_that_ends_between_two_looks_is_not_slept_through():
    """A cool-down may pass after the last look for work and before the question how long to wait."""
    schedule = refused(("a", 1))
    assert schedule.next_action(1.999) is None
    assert schedule.wake_at(2.001) == 2.0
    assert schedule.next_action(2.001).do is Do.CREATE


def test_create_that_is_held_up_by_more_than_time_is_not_waited_for():
    """With the window full only an answer helps: but for a word and an end, if none comes, nobody wakes up."""
    schedule = refused(("a", 1), ("b", 1))
    assert schedule.next_action(2.0).key == ("a", 1)
    assert [schedule.wake_at(at) for at in (3.0, 31.0)] == [30.0, 900.0]
    schedule.answered()
    assert schedule.wake_at(3.0) is None


def test_pictures_that_wait_for_others_to_be_fetched_are_not_waited_for_in_circles():
    """With as many on the way as may be, time alone brings nothing, also where a host counts its requests."""
    schedule = Schedule(limits_of(n_workers=2), Spending())
    for name in ("a", "b"):
        schedule.add_save((name, 1), refresh_first=False, now=0.0)
    assert schedule.next_action(0.0).do is Do.SAVE
    schedule.save_limited(0.0, asked_s=0.0)
    schedule.answered()
    assert schedule.next_action(5.0) is None
    assert schedule.wake_at(5.0) is None


def test_large_bodies_are_sent_a_few_at_a_time():
    """Each is in memory until it is sent; small ones go on, and one that is too large goes alone."""
    sizes = {"a": 6, "b": 6, "c": 9, "d": 1, "e": 99}
    limits = limits_of(max_in_flight=50, body_bytes_max=20)
    schedule = Schedule(limits, Spending(), body_bytes=lambda job_id: sizes[job_id])
    schedule.add_jobs([(name, 1) for name in sizes])
    sent = []
    while not schedule.is_done():
        while (action := schedule.next_action(0.0)) is not None:
            sent.append(action.key)
        n_bytes = [sizes[name] for name, _ in schedule.creating]
        assert sum(n_bytes) <= 20 or len(n_bytes) == 1
        key = min(schedule.creating, key=sent.index)
        schedule.create_ended(key)
    assert [name for name, _ in sent] == list(sizes)


def test_only_some_tasks_are_polled_while_no_latency_is_known():
    """A thousand that were sent at once needn't all be asked how long tasks take."""
    schedule = Schedule(limits_of(max_in_flight=1000, n_workers=1002), Spending())
    keys = [(str(i), 1) for i in range(1000)]
    schedule.add_jobs(keys)
    while schedule.next_action(0.0) is not None:
        pass
    for key in keys:
        schedule.accepted(key, now=0.0)
    polled = set()
    while (action := schedule.next_action(0.5)) is not None:
        polled.add(action.key)
    assert 0 < len(polled) < 20


def test_first_polls_are_put_off_once_latencies_are_known():
    """What was planned before is planned anew."""
    schedule = Schedule(limits_of(max_in_flight=30, n_workers=40), Spending())
    keys = [(str(i), 1) for i in range(30)]
    schedule.add_jobs(keys)
    while schedule.next_action(0.0) is not None:
        pass
    for key in keys:
        schedule.accepted(key, now=0.0)
    for _ in range(60):
        schedule.poll_times.learn(20.0, unfinished_s=19.9)
    assert schedule.next_action(2.5) is None
    assert schedule.wake_at(2.5) > 10


def test_a_service_that_is_done_at_once_is_never_waited_for():
    """The first tasks are asked for at once, and what was planned before that was known is brought forward."""
    service = Service(latency_s=0.001, sigma=0.0)
    took_s = Run(service, n_jobs=64, max_in_flight=16).work()
    assert took_s < 0.1
    assert service.count.n(Do.POLL) == 64


@pytest.mark.parametrize(
    ("latency_s", "sigma", "most"), [(20.0, 0.0, 1.5), (20.0, 0.2, 1.3), (3.0, 0.5, 1.1)]
)
def test_tasks_that_all_run_at_once_are_seen_soon_after_the_last_has_ended(latency_s, sigma, most):
    """Also where all take about as long: the first that end are not taken for the shortest of very different ones."""
    service = Service(latency_s=latency_s, sigma=sigma)
    took_s = Run(service, n_jobs=300, max_in_flight=300).work()
    assert took_s < most * max(end for _, end in service.spans)
    assert service.count.n(Do.POLL) < 10 * 300
