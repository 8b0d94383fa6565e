"""How fast: poll times, rates, the window and back-off."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch.engine.pacing import BackOff, Outage, PollTimes, TokenBucket, Window, hazard
from dreamo_batch.service import contract

latencies = st.floats(0.001, 5000)
ages = st.floats(0, 50_000)


@given(st.lists(st.tuples(latencies, st.floats(0, 1)), max_size=80), ages, st.integers(0, 99))
def test_polls_are_never_far_off_and_only_a_new_task_is_polled_at_once(seen, age_s, seed):
    """Whatever was seen and however old a task is, it is asked for again, after a while that has an end."""
    poll_times = PollTimes(random.Random(seed))
    for latency_s, part in seen:
        poll_times.learn(latency_s, unfinished_s=part * latency_s)
    due_s = poll_times.due_in(age_s)
    is_at_once = not age_s and due_s == 0  # where tasks end at once
    assert is_at_once or 0.015 < due_s < max(11, 5000)
    if age_s > 5000:
        assert due_s <= 11


def test_unknown_latencies_are_polled_ever_more_slowly():
    """Before anything is known, from a fifth of a second up to what the vendor's own client does."""
    poll_times = PollTimes(random.Random(0))
    assert 0.15 < poll_times.due_in(0.0) < 0.25
    dues = [poll_times.due_in(age_s) for age_s in (0, 5, 15, 80, 10_000)]
    assert dues[0] < dues[1] < dues[2] < min(dues[3:])
    assert dues[-1] <= 1.1 * contract.POLL_EVERY_S.value


@pytest.mark.parametrize("latency_s", [0.5, 5.0, 60.0])
def test_a_known_latency_is_waited_for(latency_s):
    """A task is first asked for shortly before it may be done, then often in proportion to how long it takes."""
    source = random.Random(1)
    poll_times = PollTimes(source)
    for _ in range(64):
        seen_s = latency_s * source.lognormvariate(0, 0.25)
        poll_times.learn(seen_s, unfinished_s=seen_s * 0.99)
    assert 0.4 * latency_s < poll_times.due_in(0.0) < latency_s
    assert 0.01 * latency_s < poll_times.due_in(latency_s) < 0.3 * latency_s


def test_only_the_latest_latencies_count():
    """A service that became slower is asked later, once its new pace is known."""
    poll_times = PollTimes(random.Random(0))
    for latency_s in [1.0] * 500 + [20.0] * 200:
        poll_times.learn(latency_s, unfinished_s=latency_s)
    assert poll_times.due_in(0.0) > 15


def test_tasks_done_when_first_asked_for_are_asked_for_sooner():
    """Seen done at the first poll, a task may have been done long before."""
    poll_times = PollTimes(random.Random(0))
    due_s = 10.0
    for _ in range(200):
        poll_times.learn(due_s)
        due_s = poll_times.due_in(0.0)
    assert due_s < 1


@given(st.floats(0.01, 1e6), st.floats(-5, 5), st.floats(0.05, 3))
def test_the_rate_of_ending_is_a_positive_number(age_s, mean, deviation):
    """Also far out in the tail, where the quotient of two tiny numbers has no digits left."""
    assert 0 < hazard(age_s, mean, deviation) < 1e9


@given(
    st.floats(0.5, 500),
    st.lists(st.floats(0, 0.5), min_size=1, max_size=300),
    st.sampled_from([0.0, 1e3, 1e6, 1e8]),
)
def test_a_rate_is_never_exceeded(rate, pauses, start):
    """In any stretch of time no more tokens are taken than its length allows, plus one burst."""
    bucket, now, taken = TokenBucket(rate), start, []
    for pause in pauses:
        now += pause
        while bucket.take(now):
            taken.append(now)
    burst = max(1.0, rate / 10)
    for first in range(0, len(taken), 7):
        for last in range(first, len(taken), 11):
            allowed = burst + (taken[last] - taken[first]) * rate
            assert last - first + 1 <= allowed + 0.01


@given(st.floats(0.5, 500), st.floats(0, 1e6), st.integers(1, 100))
def test_a_token_is_there_when_it_was_promised(rate, now, n):
    """Waiting until the time told is enough, however long the machine has been up."""
    bucket = TokenBucket(rate)
    for _ in range(n):
        while not bucket.take(now):
            ready_at = bucket.ready_at(now)
            assert ready_at > now
            assert ready_at <= now + 1 / rate + 1e-6
            now = ready_at


def test_a_returned_token_can_be_taken_again():
    """A request that does not count leaves room for another, and never for more than the burst."""
    bucket = TokenBucket(10)
    assert bucket.take(0.0)
    assert not bucket.take(0.0)
    bucket.give_back()
    bucket.give_back()
    assert bucket.take(0.0)
    assert not bucket.take(0.0)


@given(
    st.integers(1, 50), st.lists(st.sampled_from([*range(61), "accepted", "trial", "taken", "no", "undo"]))
)
def test_the_window_never_leaves_its_limits(limit, answers):
    """Whatever is refused and accepted, at least one task and never more than the limit may be in flight."""
    window = Window(limit)
    for answer in answers:
        before = window.size
        if answer == "accepted":
            window.accepted(0.0)
            assert window.size == before
        elif answer == "trial" and window.is_trial_due and window.size < limit:
            window.try_one_more()
            assert window.size == before + 1
        elif answer == "taken":
            window.trial_accepted(is_proven=window.is_proven)
            assert window.size <= before
        elif answer == "no":
            window.trial_refused(0.0)
            assert window.size <= before
        elif answer == "undo":
            window.reopen()
        elif isinstance(answer, int):
            window.refused(answer)
            assert window.size <= max(1, min(before, answer))
        assert 1 <= window.size <= limit


def test_the_window_closes_to_what_the_service_takes_and_opens_when_more_are_taken():
    """After a 429 it is what was in flight; more are tried at once, and kept if they were taken beside the others."""
    window = Window(20)
    window.refused(6)
    assert (window.size, window.is_trial_due) == (6, True)
    window.try_one_more()
    window.trial_accepted(is_proven=False)
    assert (window.size, window.is_trial_due) == (6, True)
    for _ in range(3):
        assert not window.is_proven
        window.try_one_more()
    assert window.is_proven
    window.trial_accepted(is_proven=True)
    assert (window.size, window.is_trial_due) == (9, True)
    window.reopen()
    assert (window.size, window.is_trial_due) == (20, False)


def test_a_service_with_a_fixed_cap_is_tried_ever_more_rarely():
    """Each trial that is refused doubles the number of tasks to the next, which waits ten minutes at the most."""
    window, waits = Window(50), []
    window.refused(10)
    for _ in range(10):
        window.try_one_more()
        window.trial_refused(0.0)
        n = 0
        while not window.is_trial_due:
            window.accepted(599.0)
            n += 1
        waits.append(n)
    assert (window.size, waits) == (10, [40, 80, 160, 320, 640, 1280, 2000, 2000, 2000, 2000])
    window.trial_refused(1000.0)
    window.accepted(1599.0)
    assert not window.is_trial_due
    window.accepted(1600.0)
    assert window.is_trial_due


def test_back_off_doubles_up_to_its_cap_and_starts_over():
    """Waits grow by two, jittered by a fifth, and never pass the cap by more."""
    back_off = BackOff(random.Random(0), first_s=0.5, cap_s=30)
    waits = [back_off.next() for _ in range(50)]
    for wait_s, base_s in zip(waits, [0.5, 1, 2, 4, 8, 16, *[30] * 44], strict=True):
        assert 0.8 * base_s <= wait_s <= 1.2 * base_s
    back_off.reset()
    assert back_off.next() <= 0.6


def test_what_the_service_asks_for_is_honoured():
    """Its word takes the place of ours, down to our own shortest wait: 0 seconds is no licence to hammer."""
    back_off = BackOff(random.Random(0), first_s=0.5, cap_s=30)
    assert [back_off.next(asked_s) for asked_s in (7.0, 120.0, 0.0, 0.6)] == [7.0, 120.0, 0.5, 0.6]
    assert back_off.next() > 3


def outage(patience_s=900.0) -> Outage:
    return Outage(BackOff(random.Random(0), first_s=0.25, cap_s=30.0), patience_s=patience_s)


def test_one_lost_create_closes_the_door():
    """A create that is lost may be paid for, so no second one follows it into an outage."""
    breaker = outage()
    breaker.failed(10.0, is_create=True)
    assert breaker.mood == "down"
    assert 10.2 <= breaker.probe_at <= 10.3


def test_three_lost_polls_in_a_row_close_the_door():
    """Polls cost nothing, so it takes three; any answer in between starts the count anew."""
    breaker = outage()
    for _ in range(5):
        breaker.failed(1.0, is_create=False)
        breaker.failed(1.0, is_create=False)
        breaker.answered()
    assert breaker.mood == "open"
    for _ in range(3):
        breaker.failed(2.0, is_create=False)
    assert breaker.mood == "down"
    breaker.probed(3.0, is_reachable=True)
    assert (breaker.mood, breaker.probe_at) == ("trial", None)
    breaker.answered()
    assert breaker.mood == "open"


def test_polls_lost_after_every_probe_are_a_lasting_outage():
    """A service that answers the probe and no poll is told of, asked ever less often, and given up at last."""
    breaker, now, waits = outage(), 1.0, []
    for _ in range(6):
        for _ in range(3):
            breaker.failed(now, is_create=False)
        waits.append(breaker.probe_at - now)
        now = breaker.probe_at
        breaker.probed(now, is_reachable=True)
        assert breaker.is_lasting is (len(waits) > 1)
    assert waits[-1] > 4 * waits[0]
    assert not breaker.has_answered
    breaker.answered()
    assert (breaker.mood, breaker.has_answered, breaker.is_lasting) == ("open", True, False)


def test_after_a_lost_create_one_is_let_through_first():
    """The probe is a GET and proves little; the door opens once a create is answered."""
    breaker = outage()
    breaker.failed(0.0, is_create=True)
    breaker.answered()
    assert breaker.mood == "down"
    breaker.probed(1.0, is_reachable=True)
    assert breaker.mood == "trial"
    breaker.answered()
    assert breaker.mood == "trial"
    breaker.answered(is_create=True)
    assert breaker.mood == "open"


def test_probes_grow_rarer():
    """A service that stays away is asked ever more seldom, and every half minute at the least."""
    breaker, now, gaps = outage(), 0.0, []
    breaker.failed(now, is_create=True)
    for n in range(1, 15):
        gaps.append(breaker.probe_at - now)
        now = breaker.probe_at
        breaker.probed(now, is_reachable=False)
        assert breaker.n_failed_probes == n
    assert gaps[5] > 10 * gaps[0]
    assert max(gaps) <= 36


def test_patience_ends():
    """A service that stays away for longer than told is given up; one that came back is not."""
    breaker = outage(patience_s=60)
    breaker.failed(0.0, is_create=False)
    assert not breaker.is_hopeless(1e9)
    breaker.failed(0.0, is_create=True)
    assert not breaker.is_hopeless(60.0)
    assert breaker.is_hopeless(60.1)
    assert not breaker.is_losing_creates
    breaker.probed(61.0, is_reachable=True)
    assert not breaker.is_hopeless(1e9)


def test_a_service_that_loses_every_create_is_given_up():
    """If questions are answered but creates get lost, only a handful is risked."""
    breaker = outage()
    breaker.failed(0.0, is_create=True)
    for n in range(5):
        assert not breaker.is_hopeless(0.0), n
        breaker.probed(float(n), is_reachable=True)
        assert breaker.mood == "trial"
        breaker.tried()
        breaker.failed(float(n), is_create=True)
        assert breaker.mood == "down"
    assert breaker.is_losing_creates
    assert breaker.is_hopeless(0.0)


def test_creates_that_were_under_way_when_the_door_closed_are_no_trials():
    """Eight creates lost in one outage are one outage."""
    breaker = outage()
    for _ in range(8):
        breaker.failed(0.0, is_create=True)
    breaker.probed(1.0, is_reachable=True)
    breaker.answered(is_create=True)
    assert (breaker.mood, breaker.is_losing_creates) == ("open", False)


def test_creates_lost_before_a_trial_do_not_decide_it():
    """Their answers time out one by one, long after the service came back; only the trial's own tells anything."""
    breaker = outage()
    breaker.failed(0.0, is_create=True)
    breaker.probed(1.0, is_reachable=True)
    for _ in range(8):
        breaker.failed(2.0, is_create=True)
    assert (breaker.mood, breaker.is_losing_creates) == ("trial", False)
    breaker.tried()
    breaker.answered(is_create=True)
    assert breaker.mood == "open"


def test_outage_is_reported_once_and_ends_when_the_service_answers():
    """It lasts from the first failed probe, or a relapse, and a probe's answer alone does not end it."""
    breaker = outage(patience_s=60)
    breaker.failed(0.0, is_create=True)
    assert (breaker.is_lasting, breaker.has_answered) == (False, False)
    breaker.probed(1.0, is_reachable=True)
    for _ in range(3):
        breaker.failed(2.0, is_create=False)
    assert (breaker.mood, breaker.is_lasting, breaker.has_answered) == ("down", True, False)
    assert breaker.is_hopeless(60.1), "a probe that is answered between does not renew the patience"
    breaker.answered()
    assert not breaker.has_answered, "an answer on its way before the service went tells nothing"
    breaker.probed(3.0, is_reachable=True)
    breaker.answered()
    assert breaker.has_answered
    breaker.answered(is_create=True)
    assert (breaker.mood, breaker.is_lasting) == ("open", False)


def test_polls_that_fail_in_a_trial_close_the_door_again():
    """The trial is repeated after them."""
    breaker = outage()
    breaker.failed(0.0, is_create=True)
    breaker.probed(1.0, is_reachable=True)
    for _ in range(3):
        breaker.failed(2.0, is_create=False)
    assert breaker.mood == "down"
    breaker.probed(3.0, is_reachable=True)
    assert breaker.mood == "trial"


def learned(*, progress_is_true, n=40):
    """Poll times after tasks of about 4 s, polled at 2 s, whose progress then was true, or a third too small."""
    source = random.Random(3)
    poll_times = PollTimes(random.Random(0))
    for _ in range(n):
        latency_s = source.uniform(3, 5)
        predicted_s = latency_s if progress_is_true else 1.5 * latency_s
        poll_times.learn(latency_s + 0.1, unfinished_s=latency_s - 0.1, predicted_s=predicted_s)
    return poll_times


def test_progress_that_foretold_ends_is_believed():
    """The next poll comes when the task should end, but not so late that nobody would notice if it lied."""
    poll_times = learned(progress_is_true=True)
    assert poll_times.due_in(3.5, predicted_s=3.6) == pytest.approx(0.136)
    assert poll_times.due_in(3.5, predicted_s=300.0) < 4


def test_progress_that_foretold_nothing_is_ignored():
    """As on a service that says 0.5 until the end."""
    poll_times = learned(progress_is_true=False)
    assert poll_times.due_in(3.5, predicted_s=5.7) == pytest.approx(poll_times.due_in(3.5), rel=0.2)


def test_the_first_latencies_seen_are_taken_for_the_short_ones_they_are():
    """Of two dozen tasks sent at once, the first that end say nothing of the others' latency by themselves."""
    poll_times = PollTimes(random.Random(0))
    for latency_s in (1.0, 1.1, 1.2):
        poll_times.learn(latency_s, unfinished_s=latency_s - 0.05, open_s=[latency_s] * 21)
    assert poll_times.due_in(1.2, ease=1.0) > 1.2
