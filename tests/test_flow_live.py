"""A table is worked off in the background over a real socket: paused, stopped, gone on with, watched."""

from __future__ import annotations

import _thread
import asyncio
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING

import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch import columns, errors, verbs
from dreamo_batch.batch import interrupts
from dreamo_batch.call import Call
from dreamo_batch.engine import runner
from dreamo_batch.engine.directory import RunDirectory
from tests.flows import PATIENCE_S, Flow, Slow, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.engine.status import Snapshot


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def flow(tmp_path, slow):
    """Six rows at a gateway whose tasks end when `slow` lets them."""
    with dreamo.LocalGateway(engine="flat", latency="fixed:1000", clock=slow, price="0.03") as gateway:
        yield Flow(tmp_path, gateway, n_rows=6)


@pytest.fixture
def start(flow):
    """Start tables in the flow's directory; what a test leaves running is stopped."""
    begun: list[dreamo.Batch] = []

    def call(table: pd.DataFrame | None = None, **options) -> dreamo.Batch:
        chosen = flow.table if table is None else table
        live = dreamo.start(
            chosen,
            flow.run_dir,
            **{"gateway": flow.gateway, "max_in_flight": 2, "unit_cost": "0.03", **options},
        )
        begun.append(live)
        return live

    yield call
    for live in begun:
        if live.can_control:
            live.stop()
            until(lambda live=live: live.status.is_over)


def are_two_under_way(live: dreamo.Batch) -> bool:
    return live.status.by_status[columns.IN_PROGRESS] == 2


def seeds(flow: Flow) -> list[int]:
    return sorted(line["seed"] for line in flow.invoice())


def test_start_takes_what_run_takes():
    """Every keyword of run but the bar is one of start, with the same default."""
    of_run = dict(inspect.signature(dreamo.run).parameters)
    del of_run["progress"]
    of_start = inspect.signature(dreamo.start).parameters
    assert {name: one.default for name, one in of_start.items()} == {
        name: one.default for name, one in of_run.items()
    }


def test_start_returns_while_the_run_goes_on_and_wait_gives_the_table(flow, start, slow):
    """Nothing has ended when start returns; wait gives what run would have given, on the user's index."""
    table = flow.table.set_axis(list("fedcba"), axis=0).assign(mine=range(6))
    live = start(table)
    assert live.status.phase == "running"
    until(lambda: are_two_under_way(live))
    assert live.status.n_settled == 0
    assert live.results()[columns.STATUS].tolist().count(columns.IN_PROGRESS) == 2
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    done = live.wait()
    pd.testing.assert_frame_equal(done[table.columns], table)
    pd.testing.assert_frame_equal(done, flow.run(table))
    assert live.status.phase == "finished"
    flow.assert_finishes()


def test_what_is_wrong_with_the_table_is_said_before_anything_begins(flow, start):
    """An invalid row, a cap without a price and a bad option are raised by start itself, and nothing is submitted."""
    with pytest.raises(errors.InvalidTable):
        start(flow.table.assign(prompt=""))
    with pytest.raises(errors.UsageError, match="max_in_flight"):
        start(max_in_flight=0)
    assert flow.invoice() == []


def test_a_pause_attempts_nothing_more_and_finishes_what_is_in_flight(flow, start, slow):
    """While paused the tasks in flight end and are saved, and no create is sent; resume goes on."""
    live = start()
    until(lambda: are_two_under_way(live))
    live.pause()
    assert live.status.phase == "paused"
    assert live.status.eta_s is None
    slow.let_tasks_end()
    until(lambda: len(live.status.newest) == 2)
    assert len(flow.invoice()) == 2
    assert live.status.phase == "paused"
    live.resume()
    assert live.status.phase == "running"
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    flow.assert_finishes()


def test_a_stop_leaves_what_is_in_flight_to_the_next_call(flow, start, slow):
    """After stop nothing more is sent; waiting gives the table as it stands, and start goes on."""
    live = start()
    until(lambda: are_two_under_way(live))
    live.stop()
    stopped = live.wait(progress=False)
    assert live.status.phase == "stopped"
    assert live.status.problem is None
    assert stopped[columns.STATUS].tolist().count(columns.IN_PROGRESS) == 2
    assert len(flow.invoice()) == 2
    again = start()
    assert again.status.phase == live.status.phase == "running", "both show the one run there is"
    until(lambda: slow.let_tasks_end() or again.status.is_over)
    flow.assert_finishes()


def test_resume_after_a_stop_goes_on(flow, start, slow):
    """Resume is the way on after pause and after stop alike."""
    live = start()
    until(lambda: are_two_under_way(live))
    live.stop()
    live.resume()
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert live.status.phase == "finished"
    flow.assert_finishes()


def test_the_same_cell_again_goes_on_with_the_running_run(flow, start, slow):
    """Start while it runs takes the run over with a longer table; nothing is bought twice."""
    first = start(flow.table.head(3))
    until(lambda: are_two_under_way(first))
    second = start()
    assert second.status.n_rows == first.status.n_rows == 6
    until(lambda: slow.let_tasks_end() or second.status.is_over)
    assert seeds(flow) == [1, 2, 3, 4, 5, 6]
    flow.assert_finishes()


def test_run_goes_on_with_a_batch_that_then_shows_it(flow, start, slow):
    """A foreground run goes on with what the batch had in flight; the batch shows that run from then on."""
    live = start(flow.table.head(2))
    until(lambda: are_two_under_way(live))
    slow.let_tasks_end()
    table = flow.table.head(2)
    done = flow.run(table)
    assert done[columns.STATUS].tolist() == [columns.COMPLETED] * 2
    assert live.can_control
    assert live.status.phase == "finished"
    pd.testing.assert_frame_equal(live.results(), done)
    pd.testing.assert_frame_equal(live.wait(progress=False), done)
    assert len(flow.invoice()) == 2


def test_failed_rows_are_submitted_again_beside_what_is_under_way(flow, start, slow):
    """Retry submits each failed row once more while others go on; a later resume does not submit them again."""
    flow.gateway.faults.script("create", "fail_099")
    live = start()
    until(lambda: slow.let_tasks_end() or live.status.errors)
    (group,) = live.status.errors
    assert (group.error_class, group.n_rows) == ("creation_error", 1)
    assert group.row in flow.table.index[:2]
    live.retry()
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert live.status.errors == ()
    assert sorted(live.results()[columns.ATTEMPTS]) == [1, 1, 1, 1, 1, 2]
    live.resume()
    live.wait(progress=False)
    assert sorted({*seeds(flow)}) == [1, 2, 3, 4, 5, 6]
    assert len(flow.invoice()) == 7


def test_rows_to_be_submitted_again_that_were_not_yet_are_kept_over_a_stop(flow, start, slow):
    """start(retry_failed=True), stopped at once and gone on with, attempts each failed row once more and no more."""
    flow.gateway.faults.script("create", *["fail_099"] * 6)
    live = start()
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    live = start(retry_failed=True, max_in_flight=1)
    until(lambda: len(flow.invoice()) == 7)
    live.stop()
    live.resume()
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert live.status.by_status[columns.COMPLETED] == 6
    assert seeds(flow) == sorted([*range(1, 7)] * 2)


def test_a_cap_stops_the_run_and_a_higher_one_goes_on(flow, start, slow):
    """At the cap the batch stops and says so; wait raises it; raise_budget goes on to the end."""
    live = start(max_cost="0.061")  # two of six
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert live.status.phase == "stopped"
    assert "cap of $0.0610 is reached" in str(live.status.problem)
    with pytest.raises(errors.BudgetReached) as raised:
        live.wait(progress=False)
    assert len(raised.value.results) == 6
    assert raised.value.run_dir == flow.run_dir
    live.raise_budget(1)
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert live.status.phase == "finished"
    assert live.status.max_cost_usd == Decimal(1)
    assert dreamo.status(flow.run_dir)["max_cost_usd"] == "1"


@pytest.mark.no_cover
def test_the_sum_agreed_to_binds_a_batch_however_often_it_goes_on(flow, start, slow):
    """Neither resume after a stop nor retry nor a higher cap grants it anew; a new start does."""
    live = start(max_new_cost="0.09", max_cost="0.50")  # three of six

    def until_over() -> None:
        until(lambda: slow.let_tasks_end() or live.status.is_over)

    until(lambda: are_two_under_way(live))
    live.stop()
    for go_on in (live.resume, live.resume, live.retry, lambda: live.raise_budget("0.60")):
        go_on()
        until_over()
        assert len(flow.invoice()) == 3
        assert "limit for this call" in str(live.status.problem)
    live = start(max_new_cost="0.09")
    until_over()
    assert live.status.phase == "finished"
    flow.assert_finishes()


def test_a_cap_is_raised_while_the_run_goes_on(flow, start, slow):
    """The live run takes the higher cap, stores it, and never stops."""
    live = start(max_cost="0.061")
    until(lambda: are_two_under_way(live))
    with pytest.raises(errors.UsageError, match="not 'None'"):
        live.raise_budget(None)
    for wrong in ("5", float("nan")):
        with pytest.raises(errors.UsageError, match=r"timeout_s=.*: expected a number of seconds"):
            live.wait(wrong)
    live.raise_budget("5")
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert live.status.phase == "finished"
    live.raise_budget(float("inf"))
    assert live.status.max_cost_usd is None
    assert dreamo.status(flow.run_dir)["max_cost_usd"] is None


@pytest.mark.parametrize(("asked", "why"), [("0.05", "already"), ("much", "amount"), (-1, "amount")])
def test_a_cap_that_is_no_higher_is_refused(flow, start, asked, why):
    """raise_budget only raises, and takes only amounts; the cap in force stays."""
    live = start(max_cost="0.061")
    with pytest.raises(errors.UsageError, match=why):
        live.raise_budget(asked)
    assert live.status.max_cost_usd == Decimal("0.061")


def test_a_batch_without_a_cap_has_nothing_to_raise(start):
    """A cap on a run that has none would lower it."""
    with pytest.raises(errors.UsageError, match="there is no cap"):
        start().raise_budget(3)


def test_a_refused_key_stops_the_batch_and_resume_goes_on_once_it_is_mended(flow, start, slow):
    """401 in the middle: the batch stops with the server's words; resume after mending finishes."""
    live = start(max_in_flight=1)
    until(flow.invoice)
    flow.gateway.faults.script("create", "http_401")
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert live.status.phase == "stopped"
    assert "refused access" in str(live.status.problem)
    with pytest.raises(errors.AccessRefused):
        live.wait(progress=False)
    live.resume()
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    flow.assert_finishes()


def test_waiting_ends_with_the_time_given(flow, start):
    """wait(timeout_s) gives the table as it stands; the run goes on."""
    live = start()
    until(lambda: are_two_under_way(live))
    assert live.wait(0.05, progress=False)[columns.STATUS].tolist().count(columns.IN_PROGRESS) == 2
    assert live.status.phase == "running"


def test_an_interrupt_ends_the_waiting_and_not_the_run(flow, start, slow, capsys, monkeypatch):
    """Ctrl-C in wait says that the run goes on, and it does."""
    live = start()
    until(lambda: are_two_under_way(live))
    pause_for = Call.pause_for

    def interrupted(run: Call, seconds: float) -> None:
        _thread.interrupt_main()
        pause_for(run, seconds)

    with monkeypatch.context() as patched:
        patched.setattr(Call, "pause_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            live.wait()
    assert "continues in the background" in capsys.readouterr().err
    assert live.status.phase == "running"
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    flow.assert_finishes()


def test_the_same_call_goes_on_where_an_interrupted_one_still_makes_the_directory(flow, slow, monkeypatch):
    """Both draw the same seeds: it waits for the first to have made its ledger, or to have given up."""
    flow.table = flow.table.drop(columns="seed", errors="ignore")
    go_on = threading.Event()
    opened, read = runner.open_ledger, verbs.convert_to_frame

    def late(*given: object) -> object:
        _thread.interrupt_main()
        assert go_on.wait(PATIENCE_S)
        return opened(*given)

    def in_time(table: object) -> object:
        threading.Timer(0.2, go_on.set).start()
        return read(table)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "open_ledger", late)
        with pytest.raises(KeyboardInterrupt):
            flow.run()
    assert flow.invoice() == []
    monkeypatch.setattr(verbs, "convert_to_frame", in_time)
    live = dreamo.start(flow.table, flow.run_dir, gateway=flow.gateway, unit_cost="0.03")
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    flow.assert_finishes()


def test_waiting_ends_with_its_own_call_where_a_listener_begins_the_next(flow, start, slow):
    """The next one is still under way when the first returns its table."""
    slow.speed_up()
    begun: list[dreamo.Batch] = []

    def go_on(_event: dreamo.RunEvent) -> None:
        slow.slow_down()
        begun.append(start())

    done = start(flow.table.head(2), on_event=go_on).wait(progress=False)
    assert done[columns.STATUS].tolist() == [columns.COMPLETED] * 2
    assert not begun[0].status.is_over
    slow.speed_up()
    assert len(begun[0].wait(progress=False)) == 6
    flow.assert_finishes()


def test_a_look_just_as_a_batch_continues_with_another_table_is_of_no_consequence(
    flow, start, slow, monkeypatch
):
    """What a panel counts then is of the table before; later statuses are of the new one."""
    slow.speed_up()
    live = start(flow.table.head(1))
    live.wait(progress=False)
    snapshot = Call.snapshot
    calls: list[Call] = []

    def looked_at(call: Call) -> Snapshot:
        if call not in calls:
            calls.append(call)
            assert live.status.n_rows == 1
        return snapshot(call)

    monkeypatch.setattr(Call, "snapshot", looked_at)
    assert live.status.n_rows == 1
    start().wait(progress=False)
    assert len(calls) == 2
    assert len(live.status.newest) == live.status.n_rows == 6


@pytest.mark.parametrize("verb", ["run", "start"])
def test_calls_that_begin_at_once_on_a_new_directory_join(flow, start, slow, monkeypatch, verb):
    """One makes the directory while the other prepares its table, which takes the seeds of the first then."""
    flow.table = flow.table.drop(columns="seed").assign(replicate=range(6))
    prepare = verbs.prepare

    def late(*given: object, **options: object) -> object:
        monkeypatch.setattr(verbs, "prepare", prepare)
        first = start()
        until(lambda: are_two_under_way(first))
        slow.speed_up()
        return prepare(*given, **options)

    monkeypatch.setattr(verbs, "prepare", late)
    if verb == "run":
        flow.run(unit_cost="0.03")
    else:
        start().wait(progress=False)
    flow.assert_finishes()


def test_a_second_interrupt_at_once_is_one_too(flow, start, slow, capsys, monkeypatch):
    """It can hit the lock that the first is releasing, which Python shows as another error."""
    live = start()
    until(lambda: are_two_under_way(live))
    running = runner.live(flow.run_dir)
    closed = running.is_closed

    class Torn:
        def __getattr__(self, name: str) -> object:
            return getattr(closed, name)

        def wait(self, _seconds: float) -> bool:
            raise RuntimeError("release unlocked lock")

    with monkeypatch.context() as patched:
        patched.setattr(running, "is_closed", Torn())
        with pytest.raises(KeyboardInterrupt):
            live.wait()
    assert "continues in the background" in capsys.readouterr().err
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    flow.assert_finishes()


def test_a_batch_can_be_awaited(flow, start, slow):
    """`await live` gives the table without holding up the event loop."""
    live = start()

    async def cell() -> tuple[pd.DataFrame, int]:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while not live.status.is_over:
                slow.let_tasks_end()
                turns += 1
                await asyncio.sleep(0.01)

        _, done = await asyncio.gather(others(), live)
        return done, turns

    done, turns = asyncio.run(cell())
    assert done[columns.STATUS].tolist() == [columns.COMPLETED] * 6
    assert turns > 1


def test_a_block_waits_for_its_run_and_stops_it_if_it_fails(flow, start, slow):
    """Leaving the block finishes the run; an error in the block stops it and comes through."""
    with pytest.raises(ValueError, match="mine"), start() as live:  # noqa: PT012 - the block is what is tested
        until(lambda: are_two_under_way(live))
        raise ValueError("mine")
    until(lambda: live.status.is_over)
    assert live.status.phase == "stopped"
    with start() as live:
        threading.Thread(target=lambda: until(lambda: slow.let_tasks_end() or live.status.is_over)).start()
    assert live.status.phase == "finished"
    flow.assert_finishes()


def test_watch_here_is_the_batch_of_this_process(flow, start):
    """Watching a directory that this process works on gives its controls, though its batch was not kept."""
    start()
    live = dreamo.watch(flow.run_dir)
    assert live.can_control
    live.pause()
    assert live.status.phase == "paused"


def test_a_run_of_another_process_is_followed_and_left_alone(flow, slow):
    """Counts, money, errors and pictures of a command's run are told as they come; its buttons are its own."""
    flow.table.to_csv(flow.run_dir.parent / "jobs.csv", index=False)
    command = [sys.executable, "-m", "dreamo_batch", "run", str(flow.run_dir.parent / "jobs.csv"), "--yes"]
    options = ["--run-dir", str(flow.run_dir), "--base-url", flow.gateway.base_url, "--max-in-flight", "2"]
    environment = {**os.environ, "DREAMO_API_KEY": flow.gateway.api_key}
    with subprocess.Popen([*command, *options], env=environment, stderr=subprocess.DEVNULL) as process:
        until(lambda: len(flow.invoice()) == 2)
        live = dreamo.watch(flow.run_dir)
        until(lambda: are_two_under_way(live))
        assert live.status.phase == "running"
        assert not live.can_control
        assert "so far" not in live._repr_mimebundle_()["text/plain"]  # nobody knows since when
        with pytest.raises(errors.UsageError, match="stop: this only follows"):
            live.stop()
        until(lambda: slow.let_tasks_end() or live.status.is_over)
        assert process.wait(PATIENCE_S) == 0
    until(lambda: live.status.phase == "finished")
    assert live.status.by_status[columns.COMPLETED] == 6
    assert len(live.status.newest) == 6
    assert live.status.spent_usd == sum(Decimal(line["cost"]) for line in flow.invoice())
    pd.testing.assert_frame_equal(live.wait(progress=False), dreamo.load(flow.run_dir))
    with live:  # there is nothing to wait for or to stop
        pass


def test_a_killed_run_is_idle_for_who_watches_it_and_start_goes_on(flow, start, slow):
    """What a stopped run left open is told as such; start on the same directory finishes it."""
    live = start()
    until(lambda: are_two_under_way(live))
    live.stop()
    until(lambda: live.status.is_over)
    watched = dreamo.watch(flow.run_dir)
    assert watched.status.phase == "idle"
    assert watched.status.by_status[columns.IN_PROGRESS] == 2
    assert "idle, 0 of 6 rows settled" in repr(watched)
    with start() as live:
        until(lambda: slow.let_tasks_end() or live.status.is_over)
    until(lambda: watched.status.phase == "finished")


def test_a_watched_directory_is_followed_wherever_the_process_moves_to(flow, start, tmp_path, monkeypatch):
    """As with `%cd` in a notebook."""
    live = start()
    live.stop()
    until(lambda: live.status.is_over)
    monkeypatch.chdir(flow.run_dir.parent)
    watched = dreamo.watch(flow.run_dir.name)
    before = watched.status.at
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(watched.results()) == len(flow.table)
    until(lambda: watched.status.at > before)


def test_a_watched_directory_that_is_deleted_says_so(flow, slow, tmp_path):
    """Once there is nothing to follow any more, that is an error, not old news."""
    slow.let_tasks_end()
    with dreamo.start(flow.table, flow.run_dir, gateway=flow.gateway) as live:
        until(lambda: slow.let_tasks_end() or live.status.is_over)
    watched = dreamo.watch(flow.run_dir)
    flow.run_dir.rename(tmp_path / "elsewhere")

    def is_reported() -> bool:
        try:
            return watched.status.problem is not None
        except errors.DirectoryError:
            return True

    until(is_reported)


def test_a_live_run_whose_directory_was_moved_does_not_begin_in_a_new_one(flow, start, slow, tmp_path):
    """What it bought would be bought again; once the directory is back, the same call picks that up."""
    live = start()
    until(lambda: live.results()["status"].eq("in_progress").sum() == 2)
    flow.run_dir.rename(tmp_path / "elsewhere")
    with pytest.raises(errors.StorageFailed, match=r"moved or deleted.*Put the directory back"):
        flow.run()
    assert not flow.run_dir.exists()
    (tmp_path / "elsewhere").rename(flow.run_dir)
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    slow.speed_up()
    flow.assert_finishes()


def test_the_key_is_in_nothing_that_a_batch_shows(flow, start):
    """Neither repr nor status holds the key."""
    live = start()
    assert flow.gateway.api_key not in repr(live) + repr(live.status)
    assert str(flow.run_dir) in repr(live)


def test_nothing_is_left_behind(flow, start, slow):
    """Once over, no runner of the directory is registered and its lock is free."""
    live = start()
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert runner.live(flow.run_dir) is None
    assert dreamo.verify(flow.run_dir) == []


def test_a_call_that_goes_on_with_a_paused_run_says_so(flow, start, slow):
    """Start again after a pause submits the rest, and tells that it was paused."""
    start().pause()
    live = start()
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert any("was paused" in line for line in live.status.notices)


def test_a_call_behind_a_stopped_run_does_not_call_it_paused(flow, start, slow):
    """One that is stopped before its warnings are out waits for nothing any more."""
    first = start()
    first.pause()
    first.stop()
    live = start()
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert not any("was paused" in line for line in live.status.notices)
    flow.assert_finishes()


def test_a_call_behind_one_that_shows_its_warnings_does_not_call_it_paused(flow, start, slow):
    """Two calls at once: the first waits until its warnings are out, and nobody paused it."""
    second: list[dreamo.Batch] = []

    class StartsAnother(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            log.removeHandler(self)  # before the second call, which says the same
            second.append(start())

    handler, log = StartsAnother(), logging.getLogger("dreamo_batch")
    log.addHandler(handler)
    try:
        start(flow.table.assign(seeds=1))  # with a remark on the column
    finally:
        log.removeHandler(handler)
    until(lambda: slow.let_tasks_end() or second[0].status.is_over)
    assert not any("was paused" in line for line in second[0].status.notices)
    flow.assert_finishes()


def test_a_column_that_is_nearly_named_like_one_is_reported_before_and_while_it_is_bought(
    flow, start, slow, caplog
):
    """Whoever writes `seeds` for `seed` sees it in the plan, the log and the run, not only in validate."""
    table = flow.table.rename(columns={"seed": "seeds"})
    assert "Warning: column-not-read: Ignored column 'seeds'; did you mean 'seed'" in repr(
        dreamo.plan(table, unit_cost=1)
    )
    live = start(table)
    assert ("dreamo_batch.batch", logging.WARNING) in [entry[:2] for entry in caplog.record_tuples]
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert any("Ignored column 'seeds'" in line for line in live.status.notices)


# Touched by other verbs and other threads.


def lose_an_answer(flow: Flow) -> None:
    """Let the first create be taken and its answer be lost."""
    flow.gateway.faults.script("create", "drop_after_accept")


def is_one_ambiguous(live: dreamo.Batch) -> bool:
    return live.status.by_status[columns.AMBIGUOUS] == 1


def assert_untouched(live: dreamo.Batch, flow: Flow, slow: Slow) -> None:
    """It is still this batch's own run, and it finishes."""
    assert live.can_control
    assert live.status.phase == "running"
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert live.status.phase == "finished"
    flow.assert_finishes()


def test_resolve_settles_a_row_of_the_live_run_which_goes_on_with_it(flow, start, slow):
    """The lost task is asked for by the live run itself; every id on the invoice is in the ledger."""
    lose_an_answer(flow)
    live = start()
    until(lambda: is_one_ambiguous(live))
    row = live.results().index[live.results()[columns.STATUS] == columns.AMBIGUOUS][0]
    known = set(live.results()[columns.TASK_ID].dropna())
    (lost,) = (
        line["id"]
        for line in flow.invoice()
        if line["id"] not in known and line["seed"] == flow.table["seed"][row]
    )
    settled = dreamo.resolve(flow.run_dir, row, task_id=lost)
    assert settled[columns.TASK_ID][row] == lost
    assert live.status.by_status[columns.AMBIGUOUS] == 0
    assert_untouched(live, flow, slow)
    assert {line["id"] for line in flow.invoice()} == set(live.results()[columns.TASK_ID])


def test_resolve_is_refused_beside_a_live_run_which_goes_on(flow, start, slow):
    """A row that is not in doubt can't be settled; nothing else comes of it."""
    live = start()
    until(lambda: are_two_under_way(live))
    with pytest.raises(errors.UsageError, match="is not ambiguous"):
        dreamo.resolve(flow.run_dir, flow.table.index[-1], not_sent=True)
    assert_untouched(live, flow, slow)


def test_resolve_after_a_stop_keeps_the_answers_that_are_awaited(flow, start, slow):
    """Creates on the wire are still recorded, though an attempt is settled meanwhile."""
    flow.gateway.faults.script("create", "drop_after_accept", "slow", seconds=2.0)
    live = start()
    until(lambda: is_one_ambiguous(live))
    until(lambda: len(flow.invoice()) == 2)
    live.stop()
    row = live.results().index[live.results()[columns.STATUS] == columns.AMBIGUOUS][0]
    dreamo.resolve(flow.run_dir, row, not_sent=True)
    until(lambda: live.status.is_over)
    now = live.results()
    assert now[columns.TASK_ID].notna().sum() == len(flow.invoice()) - 1
    assert now[columns.STATUS][row] == columns.PENDING


def _price_unknown(flow: Flow) -> None:
    flow.gateway.faults.script("precharge", "http_404")
    flow.run(max_cost=1)


def _invalid(flow: Flow) -> None:
    flow.run(flow.table.assign(prompt=""))


def _other_service(flow: Flow) -> None:
    flow.run(gateway=None, base_url="https://example.com", api_key="sk-none-of-ours", unit_cost="0.03")


def _bad_option(flow: Flow) -> None:
    dreamo.retry(flow.run_dir, gateway=flow.gateway, max_in_flight=0)


def _unknown_row(flow: Flow) -> None:
    dreamo.retry(flow.run_dir, rows=["nobody"], gateway=flow.gateway)


def _no_access(flow: Flow) -> None:
    flow.gateway.faults.script("precharge", "http_401")
    flow.run(max_cost=1)


def _download(flow: Flow) -> None:
    dreamo.download(flow.run_dir, gateway=flow.gateway, progress=False)


def _verify(flow: Flow) -> None:
    dreamo.verify(flow.run_dir)


def _second_start(flow: Flow) -> None:
    dreamo.start(flow.table, flow.run_dir, gateway=flow.gateway, max_cost=1, pilot=0)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (_price_unknown, errors.PriceUnknown),
        (_invalid, errors.InvalidTable),
        (_other_service, errors.OtherService),
        (_bad_option, errors.UsageError),
        (_unknown_row, errors.UsageError),
        (_no_access, errors.AccessRefused),
        (_download, errors.UsageError),
        (_verify, errors.UsageError),
        (_second_start, errors.UsageError),
    ],
)
def test_a_second_call_that_is_refused_leaves_the_live_run_running(flow, start, slow, call, error):
    """Everything is checked before anything is changed; the run's own table and options stay in force."""
    live = start(max_cost=None, unit_cost=None)
    until(lambda: are_two_under_way(live))
    told = dreamo.status(flow.run_dir)
    with pytest.raises(error):
        call(flow)
    assert dreamo.status(flow.run_dir)["max_cost_usd"] == told["max_cost_usd"] is None
    assert_untouched(live, flow, slow)


def test_a_run_is_not_waited_for_in_its_own_threads(flow, start, slow):
    """A logging handler that runs, waits or pauses there is told so, as it would wait for itself; the run goes on."""
    told: list[object] = []
    live: list[dreamo.Batch] = []

    class Handler(logging.Handler):
        def emit(self, _record):
            if live and threading.current_thread().name.startswith("dreamo-") and len(told) < 3:
                call = (flow.run, live[0].wait, live[0].pause)[len(told)]
                try:
                    told.append(call())
                except errors.DreamoError as error:
                    told.append(error)

    log, handler = logging.getLogger("urllib3.connectionpool"), Handler()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        live.append(start())
        until(lambda: len(told) == 3)
    finally:
        log.setLevel(before)
        log.removeHandler(handler)
    assert [
        str(one) for one in told if not (isinstance(one, errors.UsageError) and "run in" in str(one))
    ] == []
    assert_untouched(live[0], flow, slow)


def test_reading_beside_a_live_run_touches_nothing(flow, start, slow):
    """Status, load and plan tell how it stands, and it goes on."""
    live = start()
    until(lambda: dreamo.status(flow.run_dir)["by_status"].get(columns.IN_PROGRESS) == 2)
    assert len(dreamo.load(flow.run_dir)) == 6
    assert set(dreamo.plan(flow.table, flow.run_dir)["action"]) == {"in flight", "new"}
    assert_untouched(live, flow, slow)


def in_threads(*calls: Callable[[], object]) -> list[object]:
    """Make calls at the same moment and give what each returned or raised."""
    at_once = threading.Barrier(len(calls))

    def make(call: Callable[[], object]) -> object:
        at_once.wait(PATIENCE_S)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        ended = [pool.submit(make, call) for call in calls]
        return [one.exception(PATIENCE_S) or one.result() for one in ended]


def test_calls_of_several_threads_at_once_all_give_the_whole_table(flow, start, slow):
    """One goes on with the live run, the others join it; each job is bought once and each id is kept."""
    live = start()
    until(lambda: are_two_under_way(live))
    slow.speed_up()
    service = {"gateway": flow.gateway, "progress": False}
    ended = in_threads(
        flow.run,
        flow.run,
        lambda: dreamo.retry(flow.run_dir, **service),
        lambda: dreamo.start(flow.table, flow.run_dir, gateway=flow.gateway).wait(progress=False),
        flow.run,
    )
    assert [getattr(table, "status", table).tolist() for table in ended] == [[columns.COMPLETED] * 6] * 5
    flow.assert_finishes()


def test_a_call_whose_run_went_on_with_another_table_says_what_is_left(flow, start, slow):
    """Its rows that nobody submitted are told, with the table as it stands."""
    waiting: list[object] = []
    thread = threading.Thread(target=lambda: waiting.extend(in_threads(lambda: flow.run(max_in_flight=1))))
    thread.start()
    until(lambda: len(flow.invoice()) == 1)
    live = start(flow.table.head(1))
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    thread.join(PATIENCE_S)
    (error,) = waiting
    assert isinstance(error, errors.RunStopped)
    assert "left" in str(error)
    assert len(error.results) == 6
    assert error.run_dir == flow.run_dir


def test_an_interrupt_while_a_call_is_prepared_leaves_the_live_run_alone(flow, start, slow, monkeypatch):
    """Ctrl-C while the second call asks for a price: it is withdrawn, and the run goes on as it was."""
    live = start()
    until(lambda: are_two_under_way(live))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dreamo_batch.call.ask_price", interrupted)
    with pytest.raises(KeyboardInterrupt):
        flow.run(max_cost=1, unit_cost=None)
    assert_untouched(live, flow, slow)


def test_a_call_stopped_while_it_is_begun_sends_nothing(flow, monkeypatch):
    """Interrupted in the last moment before its first request, it is begun stopped."""
    table = flow.table
    settings = Call.settings

    def stopped(call):
        call.stop()
        return settings(call)

    monkeypatch.setattr(Call, "settings", stopped)
    done = flow.run(table)
    assert flow.invoice() == []
    assert done[columns.STATUS].tolist() == [columns.PENDING] * 6
    monkeypatch.undo()
    assert runner.live(flow.run_dir) is None


# Forked off.

FORKED = """
import json, os, signal, sys, time, warnings

warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, which is what is tried here
import pandas as pd
import dreamo_batch as dreamo

csv, run_dir, url, key, what = sys.argv[1:]
table = pd.read_csv(csv)
live = dreamo.start(table, run_dir, base_url=url, api_key=key, max_in_flight=2)
while live.status.by_status["in_progress"] < 2:
    time.sleep(0.01)
if os.fork() == 0:
    signal.alarm(60)
    service = {"base_url": url, "api_key": key, "progress": False}
    if what == "outlive":
        print("ready", flush=True)
        sys.stdin.read()
        os._exit(0)
    told = {}
    for name, verb in {
        "run": lambda: dreamo.run(table, run_dir, **service),
        "start": lambda: dreamo.start(table, run_dir, base_url=url, api_key=key),
        "retry": lambda: dreamo.retry(run_dir, **service),
        "resolve": lambda: dreamo.resolve(run_dir, 0, not_sent=True),
        "download": lambda: dreamo.download(run_dir, **service),
        "pause": live.pause,
        "resume": live.resume,
        "stop": live.stop,
        "raise_budget": lambda: live.raise_budget(5),
        "live.retry": live.retry,
    }.items():
        try:
            verb()
        except dreamo.DreamoError as error:
            told[name] = str(error)
    told["status"], told["rows"] = live.status.phase, len(live.results())
    del live
    print(json.dumps(told), flush=True)
    sys.exit(0)  # with the handlers at exit, which have nothing to wait for
if what == "outlive":
    signal.pause()
os.wait()
print(json.dumps(live.wait(progress=False)["status"].tolist()), flush=True)
"""


@pytest.fixture
def forked(flow):
    """Start the script above in a process of its own."""
    flow.table.to_csv(flow.run_dir.parent / "jobs.csv", index=False)

    def start_it(what: str) -> subprocess.Popen[str]:
        paths = [str(flow.run_dir.parent / "jobs.csv"), str(flow.run_dir)]
        command = [sys.executable, "-c", FORKED, *paths, flow.gateway.base_url, flow.gateway.api_key, what]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return start_it


def test_a_forked_child_says_that_the_run_is_its_parents(flow, slow, forked):
    """It changes nothing, reads all, and ends at once; the parent goes on and finishes."""
    with forked("ask") as process:
        told = json.loads(process.stdout.readline())
        assert (told.pop("status"), told.pop("rows")) == ("running", 6)
        assert len(told) == 10
        assert all(
            f"Process {process.pid}, which this one was forked from" in words for words in told.values()
        ), told
        slow.speed_up()
        assert json.loads(process.stdout.readline()) == [columns.COMPLETED] * 6
        assert process.wait(PATIENCE_S) == 0
    flow.assert_finishes()


def test_a_child_that_outlives_its_parent_does_not_hold_the_lock(flow, slow, forked):
    """After kill -9 of the parent the run can be gone on with, whatever was forked off it."""
    with forked("outlive") as process:
        assert process.stdout.readline() == "ready\n"
        assert RunDirectory(flow.run_dir).is_locked()
        until(lambda: all(attempt.task_id for attempt in flow.attempts()))  # which is on the disk
        process.kill()
        process.wait(PATIENCE_S)
        assert not RunDirectory(flow.run_dir).is_locked()
        slow.speed_up()
        flow.assert_finishes()
        process.stdin.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_during_a_run_still_ends_when_asked_to():
    """A worker of the user's own pool, such as one that waits for work, is no call that could be interrupted."""
    with interrupts():
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_panel_that_fails_fails_no_cell(start, slow, monkeypatch, caplog):
    """The run goes on behind it, so the cell ends well, and the log says where the run is."""

    def fail(*_):
        raise RuntimeError("no display")

    for name in ("show", "panel", "mimebundle"):
        monkeypatch.setattr(f"dreamo_batch.display.panel.{name}", fail)
    live = start()
    live._ipython_display_()
    assert live.panel() is live
    assert str(live.run_dir) in live._repr_mimebundle_()["text/plain"]
    assert caplog.text.count("no display") == 3
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    assert (live.wait(progress=False)[columns.STATUS] == columns.COMPLETED).all()


def test_waiting_without_a_bar_warns_of_money_alone(start, slow, caplog):
    """What the run came to is no warning."""
    live = start()
    until(lambda: slow.let_tasks_end() or live.status.is_over)
    caplog.clear()
    live.wait(progress=False)
    assert not [
        record for record in caplog.records if "accounted for" in record.message and record.levelno > 20
    ]


def test_gateway_shared_by_two_runs_stays_open_until_both_have_ended(tmp_path, slow):
    """The run that started the gateway ends first, and the other one still gets its pictures."""
    gateway = dreamo.LocalGateway(engine="flat", latency="fixed:1000", clock=slow, price="0.03")
    lives = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        flow = Flow(tmp_path / name, gateway, n_rows=2)
        lives.append(dreamo.start(flow.table, flow.run_dir, gateway=gateway, unit_cost="0.03"))
    first, second = lives
    until(lambda: len(gateway.invoice()) == 4)
    first.stop()
    until(lambda: first.status.is_over)
    assert gateway.is_running
    slow.let_tasks_end()
    second.wait()
    assert (second.results()[columns.STATUS] == columns.COMPLETED).all()
    until(lambda: not gateway.is_running)
