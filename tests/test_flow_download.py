"""Pictures that are missing are fetched, and nothing is submitted: told from the gateway's invoice."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.errors import UsageError
from tests.flows import Flow

COMPLETED_ALL = ["completed"] * 4


@pytest.fixture(scope="module")
def gateway():
    with dreamo.LocalGateway(engine="flat") as running:
        yield running


@pytest.fixture
def flow(tmp_path, gateway) -> Flow:
    return Flow(tmp_path, gateway)


def _download(flow: Flow, results, **options) -> pd.DataFrame:
    return dreamo.download(results, gateway=flow.gateway, progress=False, **options)


def test_pictures_left_at_the_service_are_fetched_later(flow):
    """After a run without download, every picture comes, and the invoice stays as it was."""
    done = flow.run(download=False)
    before = flow.invoice()
    assert done[columns.OUTPUT_PATH].isna().all()
    saved = _download(flow, done)
    assert [(flow.run_dir / path).exists() for path in saved[columns.OUTPUT_PATH]] == [True] * 4
    assert flow.invoice() == before
    pd.testing.assert_frame_equal(saved, dreamo.load(flow.run_dir))


def test_a_fetch_leaves_the_options_that_resume_goes_on_with(flow):
    """Among them the most that a call may cost."""
    done = flow.run(download=False, max_new_cost=1, unit_cost="0.03")
    kept = RunDirectory(flow.run_dir).read_manifest().settings
    _download(flow, done)
    assert RunDirectory(flow.run_dir).read_manifest().settings == kept
    assert kept["max_new_cost"] == "1"


def test_pictures_that_are_gone_or_cut_are_fetched_again(flow):
    """A deleted file and a shortened one come back whole."""
    done = flow.run()
    first, second = (flow.run_dir / path for path in done[columns.OUTPUT_PATH][:2])
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    saved = _download(flow, done)
    assert saved[columns.OUTPUT_SHA256].tolist() == done[columns.OUTPUT_SHA256].tolist()
    assert dreamo.verify(flow.run_dir) == []
    assert len(flow.invoice()) == 4


def test_only_the_rows_at_hand_are_fetched(flow):
    """Of a part of the results, just that part's pictures are fetched, on its own index and columns."""
    done = flow.run(flow.table.set_index(pd.Index(list("abcd"))).assign(note="x"), download=False)
    part = done.loc[["d", "b"]]
    saved = part.dreamo.download(gateway=flow.gateway, progress=False)
    assert saved.index.tolist() == ["d", "b"]
    assert saved.columns.tolist() == part.columns.tolist()
    assert saved[columns.OUTPUT_PATH].notna().all()
    assert dreamo.load(flow.run_dir)[columns.OUTPUT_PATH].isna().tolist() == [True, False, True, False]


def test_rows_never_submitted_stay_so(flow):
    """Pending and failed rows of the directory's table are not bought on the way."""
    flow.gateway.faults.script("create", "fail_099")
    flow.run(download=False, max_in_flight=1)
    more = pd.concat([flow.table, flow.table.assign(seed=lambda t: t["seed"] + 10)], ignore_index=True)
    with pytest.raises(dreamo.BudgetReached) as stopped:
        flow.run(more, download=False, max_cost="0.000001")
    before = flow.invoice()
    saved = _download(flow, stopped.value.results)
    assert saved[columns.STATUS].value_counts()[["completed", "failed", "pending"]].tolist() == [3, 1, 4]
    assert saved[columns.OUTPUT_PATH].notna().sum() == 3
    assert flow.invoice() == before


def test_open_attempts_are_collected(tmp_path):
    """An attempt that was under way when a run was left is asked for, and its picture saved."""
    with dreamo.LocalGateway(engine="flat", latency="fixed:0.5") as gateway:
        flow = Flow(tmp_path, gateway)
        live = dreamo.start(flow.table, flow.run_dir, gateway=gateway)
        while not gateway.invoice():
            live.status  # noqa: B018 - reading it is all there is to do meanwhile
        live.stop()
        left = live.wait(progress=False)
        n_submitted = len(gateway.invoice())
        saved = _download(flow, left)
        assert saved[columns.OUTPUT_PATH].notna().sum() == len(gateway.invoice()) == n_submitted


def test_rows_that_the_directory_no_longer_lists_are_fetched_too(flow):
    """Results of an earlier table of the same directory still lead to their pictures."""
    done = flow.run(download=False)
    flow.run(flow.table.head(1), download=False)
    assert _download(flow, done)[columns.OUTPUT_PATH].notna().all()


def test_directory_stands_for_all_of_its_table(flow):
    """A path is as good as the results in it, and the results' own directory can be told again."""
    done = flow.run(download=False)
    moved = pd.DataFrame(done.drop(columns="run_dir").to_dict("list"))
    with pytest.raises(UsageError, match="pass run_dir="):
        _download(flow, moved)
    assert _download(flow, moved, run_dir=flow.run_dir)[columns.OUTPUT_PATH].notna().all()
    assert _download(flow, flow.run_dir)[columns.STATUS].tolist() == COMPLETED_ALL


def test_pictures_of_several_directories_are_fetched_in_the_order_of_the_rows(flow, tmp_path, gateway):
    """Of directories and of tables put together; labels, own columns and the rows' directories stay."""
    other = Flow(tmp_path, gateway, prompt="elsewhere")
    other.run_dir = tmp_path / "other"
    first = flow.run(flow.table.assign(note="x"), download=False)
    second = other.run(other.table.assign(note="y"), download=False)
    rows = pd.concat([first, second]).iloc[[5, 0, 6, 1]]
    saved = _download(flow, rows)
    assert saved[["note", "job_id", "run_dir"]].equals(rows[["note", "job_id", "run_dir"]])
    assert saved.index.tolist() == [1, 0, 2, 1]
    for run_dir, path in zip(saved["run_dir"], saved["output_path"], strict=True):
        assert (Path(run_dir) / path).is_file()
    whole = _download(flow, [flow.run_dir, other.run_dir])
    pd.testing.assert_frame_equal(whole, dreamo.load([flow.run_dir, other.run_dir]))
    assert whole["output_path"].notna().all()
    assert len(flow.invoice() + other.invoice()) == 8


def test_several_directories_are_counted_and_verified_at_once(flow, tmp_path, gateway):
    """The sums are those of all; damage begins with the directory it is in."""
    other = Flow(tmp_path, gateway, prompt="elsewhere")
    other.run_dir = tmp_path / "other"
    flow.run(max_cost="1.5")
    done = other.run(max_cost="0.25")
    both = [flow.run_dir, other.run_dir]
    one, whole = dreamo.status(flow.run_dir), dreamo.status(both)
    assert whole["by_status"] == {"completed": 8}
    assert whole["max_cost_usd"] == "1.75"
    assert Decimal(whole["spent_usd"]) == Decimal(one["spent_usd"]) + Decimal(
        dreamo.status(other.run_dir)["spent_usd"]
    )
    assert dreamo.verify(both) == []
    (other.run_dir / done["output_path"][0]).unlink()
    damage = dreamo.verify([*both, tmp_path / "none"])
    assert [line.partition(": ")[0] for line in damage] == [str(other.run_dir), str(tmp_path / "none")]


def test_what_is_no_result_is_refused(flow):
    """A table of jobs has no pictures yet."""
    with pytest.raises(UsageError, match="Not a results table"):
        _download(flow, flow.table)


def test_run_that_is_going_on_is_not_taken_over(tmp_path):
    """A download leaves a live run alone; it saves its pictures itself."""
    with dreamo.LocalGateway(engine="flat", latency="fixed:30") as gateway:
        flow = Flow(tmp_path, gateway)
        live = dreamo.start(flow.table, flow.run_dir, gateway=gateway)
        with pytest.raises(UsageError, match="A run is in progress"):
            _download(flow, live.results())
        live.stop()


def test_the_local_gateway_keeps_no_second_copy_of_a_picture(tmp_path):
    """Its file is the saved one; a picture that is edited or deleted is drawn again all the same."""
    run_dir = tmp_path / "run"
    jobs = dreamo.sweep(image="data/mascot.png", prompt="a beach", seed=[1, 2], size="512x512")
    done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    saved = [run_dir / path for path in done["output_path"]]
    copies = list((run_dir / "gateway" / "pictures").iterdir())
    assert {path.stat().st_ino for path in copies} == {path.stat().st_ino for path in saved}
    whole = [path.read_bytes() for path in saved]
    saved[0].write_bytes(b"damaged in place")
    saved[1].unlink()
    again = dreamo.download(run_dir, progress=False)
    assert [path.read_bytes() for path in saved] == whole
    assert again["output_sha256"].tolist() == done["output_sha256"].tolist()
    assert dreamo.verify(run_dir, progress=False) == []
