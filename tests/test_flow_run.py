"""A table is worked off over a real socket: bought once, resumed, extended, retried and settled."""

from __future__ import annotations

import _thread
import hashlib
import io
import logging
import re
import shutil
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch import columns, errors
from dreamo_batch.call import Call
from dreamo_batch.display.progress import Bar, LoggedProgress
from dreamo_batch.engine import runner
from dreamo_batch.engine.checkpoint import read_jobs
from dreamo_batch.errors import UnfailingLogger
from dreamo_batch.settle import find_job
from tests.flows import Slow

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def gateway() -> Iterator[dreamo.LocalGateway]:
    with dreamo.LocalGateway(engine="flat") as running:
        yield running


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "reference.png"
    Image.new("RGB", (64, 64), "orange").save(path)
    return path


@pytest.fixture
def run(gateway, tmp_path):
    """Run a table on the gateway, in one directory, without a bar."""

    def call(table: pd.DataFrame, **options) -> pd.DataFrame:
        service = {"base_url": gateway.base_url, "api_key": gateway.api_key}
        return dreamo.run(table, tmp_path / "run", **service, progress=False, **options)

    return call


def test_an_expired_link_is_refused_before_anything_is_bought(reference, run, gateway):
    """A table that has nothing else comes back with its rows invalid; what was bought needs its link no more."""
    link = "https://h.example/a.png?X-Amz-Date=20200101T000000Z&X-Amz-Expires=60&X-Amz-Signature=x"
    mixed = jobs(reference).assign(image=[link, *[str(reference)] * 3])
    with pytest.raises(
        errors.InvalidTable, match=r"1 row can't be submitted.*\n.*image-link-expired in row 0"
    ):
        run(mixed)
    assert run(mixed.head(1))["status"].tolist() == ["invalid"]
    assert gateway.invoice() == []


def jobs(reference, n: int = 4, **more) -> pd.DataFrame:
    table = {"image": str(reference), "prompt": "on a beach", "seed": range(n), "size": "512x512"}
    return pd.DataFrame({**table, **more})


def test_every_row_comes_back_with_picture_cost_and_the_users_columns(run, gateway, reference, tmp_path):
    """Index, attempt and columns are the user's; each picture is on disk and the money is the invoice's."""
    table = jobs(reference, mine=[3, 1, None, 2]).set_axis(["d", "a", "a", "b"], axis=0)
    before = table.copy(deep=True)
    done = run(table)
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_frame_equal(done[table.columns], table)
    assert (done[columns.STATUS] == columns.COMPLETED).all()
    assert all((tmp_path / "run" / path).stat().st_size > 0 for path in done[columns.OUTPUT_PATH])
    assert sum(map(Decimal, done[columns.COST])) == sum(Decimal(line["cost"]) for line in gateway.invoice())


@pytest.mark.no_cover
@pytest.mark.parametrize("change", ["again", "reordered", "other index", "fewer", "moved image"])
def test_only_content_decides_what_is_bought(run, gateway, reference, tmp_path, change):
    """Running again, reordering, relabelling, dropping rows or moving the picture buys nothing."""
    table = jobs(reference)
    run(table)
    moved = tmp_path / "elsewhere.png"
    moved.write_bytes(reference.read_bytes())
    changed = {
        "again": table,
        "reordered": table.iloc[::-1],
        "other index": table.set_axis(list("wxyz"), axis=0),
        "fewer": table.head(2),
        "moved image": table.assign(image=str(moved)),
    }[change]
    done = run(changed)
    assert len(gateway.invoice()) == len(table)
    assert (done[columns.STATUS] == columns.COMPLETED).all()
    assert done.index.equals(changed.index)


def test_an_extended_table_buys_only_what_is_new(run, gateway, reference):
    """Two seeds more are two attempts more."""
    run(jobs(reference, 2))
    done = run(jobs(reference, 4))
    assert sorted(line["seed"] for line in gateway.invoice()) == [0, 1, 2, 3]
    assert (done[columns.STATUS] == columns.COMPLETED).all()


def test_equal_rows_are_bought_once_and_the_cost_stands_on_the_first(run, gateway, reference):
    """The second of two equal rows names the first, has its picture, and costs 0."""
    done = run(jobs(reference, 2, replicate=0).assign(seed=7))
    assert len(gateway.invoice()) == 1
    assert done[columns.DUPLICATE_OF].tolist() == [pd.NA, 0]
    assert done[columns.COST].iloc[1] == "0"
    assert len(set(done[columns.OUTPUT_PATH])) == 1


def test_clocks_that_stand_still_keep_no_run_waiting(reference, tmp_path, monkeypatch):
    """As in a test under `freezegun.freeze_time`."""
    now, steady = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "monotonic", lambda: steady)
    done = dreamo.run(jobs(reference), tmp_path / "run", gateway="local", progress=False)
    assert set(done["status"]) == {"completed"}


def test_replicates_are_bought_on_purpose(run, gateway, reference):
    """A different replicate is a different job."""
    run(jobs(reference, 2, replicate=[0, 1]).assign(seed=7))
    assert len(gateway.invoice()) == 2


def test_missing_seeds_are_drawn_once_and_kept(run, gateway, reference):
    """Rows without a seed get positive ones, the same on every call, and in front of what is added."""
    table = jobs(reference, 3).assign(seed=None)
    first = run(table)
    again = run(pd.concat([table, table.head(1)], ignore_index=True))
    seeds = first[columns.SEED_SENT].tolist()
    assert len(set(seeds)) == 3
    assert all(0 < seed < 2**31 for seed in seeds)
    assert again[columns.SEED_SENT].tolist()[:3] == seeds
    assert len(gateway.invoice()) == 4


def test_the_service_draws_when_asked(run, gateway, reference):
    """With random_seed="service" -1 is sent as it is, once per row."""
    done = run(jobs(reference, 2).assign(seed=-1), random_seed="service")
    assert [line["seed"] for line in gateway.invoice()] == [-1, -1]
    assert (done[columns.STATUS] == columns.COMPLETED).all()


def test_a_result_frame_can_be_run_again(run, gateway, reference):
    """The results, handed in as a table, are recognised and nothing is bought."""
    done = run(jobs(reference))
    again = run(done)
    pd.testing.assert_frame_equal(again, done)
    assert len(gateway.invoice()) == 4


@pytest.mark.parametrize(
    "index",
    [
        pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 2), ("c", 3)], names=["x", "y"]),
        pd.Index(["same"] * 4),
        pd.date_range("2026-01-01", periods=4),
    ],
    ids=["multi", "equal", "dates"],
)
def test_any_index_survives(run, reference, tmp_path, index):
    """Results and what is loaded from disk stand on the user's own index."""
    done = run(jobs(reference).set_axis(index, axis=0))
    pd.testing.assert_index_equal(done.index, index, check_exact=True)
    pd.testing.assert_frame_equal(dreamo.load(tmp_path / "run"), done, check_freq=False)


def test_an_empty_table_is_a_finished_run(run, gateway, reference):
    """No rows, no attempts, no error."""
    done = run(jobs(reference, 0))
    assert len(done) == 0
    assert set(columns.OUTPUTS) <= set(done.columns)
    assert gateway.invoice() == []


def test_results_are_the_same_from_disk_parquet_and_csv(run, reference, tmp_path):
    """`load`, `results.parquet` and a CSV read back by `read_table` hold the same values and dtypes."""
    done = run(jobs(reference))
    pd.testing.assert_frame_equal(dreamo.load(tmp_path / "run"), done)
    dreamo.write_table(done, tmp_path / "results.csv")
    pd.testing.assert_frame_equal(
        dreamo.read_table(tmp_path / "results.csv")[list(columns.OUTPUTS)], done[list(columns.OUTPUTS)]
    )


def test_invalid_rows_stop_the_call_before_anything_is_sent(run, gateway, reference, tmp_path):
    """All problems are in the error, nothing was submitted, and no ledger was begun."""
    table = jobs(reference).assign(prompt=["", "on a beach", None, 5])
    with pytest.raises(dreamo.InvalidTable, match="3 rows can't be submitted") as caught:
        run(table)
    assert set(caught.value.problems[columns.POSITION]) == {0, 2, 3}
    assert gateway.invoice() == []
    assert not (tmp_path / "run" / "run.json").exists()


def test_row_warnings_are_shown_before_anything_is_sent(run, gateway, reference, monkeypatch, tmp_path):
    """By run and by retry, one line per kind; a finished run has nothing to warn of."""
    shown = []

    class Slowly(LoggedProgress):
        def say(self, text, level=logging.INFO):
            time.sleep(0.2)
            shown.append((text, len(gateway.invoice())))
            super().say(text, level)

    monkeypatch.setattr("dreamo_batch.batch.shown", lambda *_, **__: Slowly())
    gateway.faults.script("create", *["fail_096"] * 3)
    table = jobs(reference).assign(prompt=["a" * 301, "b" * 302, "c", ""], seed=1, use_rephraser=False)
    said = ["warning: not submitted: prompt-missing in row 3", "warning: prompt-long in 2 rows"]
    for call in (
        lambda: run(table, on_invalid="skip"),
        lambda: dreamo.retry(
            tmp_path / "run", base_url=gateway.base_url, api_key=gateway.api_key, progress=False
        ),
    ):
        n_before = len(gateway.invoice())
        call()
        assert [(text.split(" (")[0], n) for text, n in shown if "warning: " in text] == [
            (line, n_before) for line in said
        ]
        shown.clear()
    run(table, on_invalid="skip")
    assert not [text for text, _ in shown if "warning: " in text]


def test_invalid_rows_can_be_skipped(run, gateway, reference):
    """The other rows are bought, and a skipped one says what is wrong with it."""
    done = run(jobs(reference).assign(prompt=["", "a", "b", "c"]), on_invalid="skip")
    assert done[columns.STATUS].tolist() == [columns.INVALID, *[columns.COMPLETED] * 3]
    assert done[columns.ERROR_MESSAGE].iloc[0]
    assert len(gateway.invoice()) == 3


def test_in_memory_pictures_are_kept_and_need_not_be_given_again(run, gateway, reference, tmp_path, caplog):
    """PIL pictures, bytes and data URIs are stored once under inputs/, and `retry` finds them there."""
    picture = Image.open(reference)
    picture.load()
    table = jobs(reference, 2).assign(image=pd.Series([picture, reference.read_bytes()], dtype=object))
    gateway.faults.script("create", "fail_099")
    done = run(table)
    assert "Stored as text" not in caplog.text
    assert done["image"].iloc[0] is picture
    assert sorted(done[columns.STATUS]) == [columns.COMPLETED, columns.FAILED]
    again = dreamo.retry(tmp_path / "run", base_url=gateway.base_url, api_key=gateway.api_key, progress=False)
    assert (again[columns.STATUS] == columns.COMPLETED).all()
    assert again[columns.JOB_ID].tolist() == done[columns.JOB_ID].tolist()


def held(reference) -> dict[str, list]:
    with Image.open(reference) as opened:
        picture = opened.convert("RGB")
    grey, content = picture.convert("L"), reference.read_bytes()
    return {
        "PIL": [picture, grey],
        "arrays": [np.asarray(picture), picture],
        "files": [io.BytesIO(content), reference],
        "bytes": [content, content],
        "bytes and text": [content, str(reference)],
        "to fix": [picture.convert("CMYK"), picture.resize((4200, 3000))],
        "several": [[picture, content], [str(reference), grey]],
        "paths": [[reference, grey], np.array([str(reference)] * 2)],
    }


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "kind", ["PIL", "arrays", "files", "bytes", "bytes and text", "to fix", "several", "paths"]
)
def test_a_loaded_table_of_pictures_in_memory_runs_again(gateway, reference, tmp_path, kind):
    """It names the kept pictures, which are the same jobs as the pictures themselves, also in a moved directory."""
    table = jobs(reference, 2).assign(image=pd.Series(held(reference)[kind], dtype=object))
    table["model"] = "spark_multi_dreamo" if kind in {"several", "paths"} else "spark_dreamo"
    options = {
        "base_url": gateway.base_url,
        "api_key": gateway.api_key,
        "progress": False,
        "fix_images": True,
    }
    done = dreamo.run(table, tmp_path / "run", **options)
    for run_dir in (tmp_path / "run", tmp_path / "moved"):
        loaded = dreamo.load(run_dir)
        dreamo.write_table(loaded, tmp_path / "table.csv")
        for again in (loaded, dreamo.read_table(tmp_path / "table.csv"), table):
            assert dreamo.run(again, run_dir, **options)["job_id"].tolist() == done["job_id"].tolist()
        if run_dir.name == "run":
            run_dir.rename(tmp_path / "moved")
    assert len(gateway.invoice()) == 2


def test_a_directory_can_be_given_away(gateway, reference, tmp_path, monkeypatch):
    """It holds what was used: elsewhere, without the originals, it is shown, ranked, retried and resumed."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "refs").mkdir(parents=True)
    there.mkdir()
    for number in (1, 2):
        Image.new("RGB", (600, 600), (40 * number, 90, 200)).save(here / "refs" / f"{number}.png")
    shutil.copy(here / "refs" / "1.png", here / "refs" / "same.png")
    table = jobs(reference, 3).assign(image=["refs/1.png", "refs/2.png", "refs/same.png"])
    options = {"base_url": gateway.base_url, "api_key": gateway.api_key, "progress": False}
    monkeypatch.chdir(here)
    gateway.faults.script("create", "fail_095")
    dreamo.run(table, "run", max_in_flight=1, **options)
    kept = sorted(path.name for path in Path("run/inputs").iterdir())
    digests = {hashlib.sha256(Path(f"refs/{n}.png").read_bytes()).hexdigest() for n in (1, 2)}
    assert kept == sorted(f"{digest}.png" for digest in digests)
    shutil.move(here / "run", there / "run")
    shutil.rmtree(here / "refs")
    monkeypatch.chdir(there)
    n_bought = len(gateway.invoice())
    again = dreamo.retry("run", **options)
    assert (again[columns.STATUS] == columns.COMPLETED).all()
    assert len(gateway.invoice()) == n_bought + 1
    ranked = dreamo.rank("run", by="colour", within=None, progress=False)
    assert ranked["score"].notna().all()
    assert dreamo.gallery("run", rows="prompt").to_html().count("data:image/jpeg") > len(table)
    told = dreamo.export("run", there / "out")
    assert told["pictures"] == 3
    assert sorted(path.name for path in (there / "out" / "references").iterdir()) == kept
    found = dreamo.plan(table, "run")
    assert found["action"].tolist() == ["reuse"] * 3
    more = pd.concat([table, table.head(1).assign(prompt="a new one")], ignore_index=True)
    done = dreamo.run(more, "run", **options)
    assert (done[columns.STATUS] == columns.COMPLETED).all()
    assert len(gateway.invoice()) == n_bought + 2


def test_references_can_be_left_out(gateway, reference, tmp_path):
    """Where they are large, or somebody else's."""
    table = jobs(reference, 1)
    options = {"base_url": gateway.base_url, "api_key": gateway.api_key, "progress": False}
    dreamo.run(table, tmp_path / "run", keep_references=False, **options)
    assert not (tmp_path / "run" / "inputs").exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_refused_call_leaves_nothing_behind(gateway, reference, tmp_path, there):
    """Neither pictures in memory nor corrected copies nor folders, whether the table or an option is refused."""
    run_dir = tmp_path / "runs" / "first"
    if there:
        run_dir.mkdir(parents=True)
    with Image.open(reference) as image:
        table = jobs(reference, 3).assign(image=[image.copy(), image.convert("CMYK"), str(reference)])
    options = {
        "base_url": gateway.base_url,
        "api_key": gateway.api_key,
        "progress": False,
        "fix_images": True,
    }
    with pytest.raises(dreamo.InvalidTable):
        dreamo.run(table.assign(prompt=["a", "b", ""]), run_dir, **options)
    with pytest.raises(dreamo.UsageError, match="No budget at"):
        dreamo.run(table, run_dir, budget=tmp_path / "nowhere", **options)
    assert (run_dir.exists(), (tmp_path / "runs").exists()) == (there, there)
    assert not there or not list(run_dir.iterdir())


def test_a_failed_row_is_submitted_again_only_when_asked(run, gateway, reference, tmp_path):
    """The same call leaves it failed; retry_failed attempts it once more; both attempts stay in the ledger."""
    gateway.faults.script("create", "fail_095")
    table = jobs(reference, 2)
    first = run(table)
    assert sorted(first[columns.STATUS]) == [columns.COMPLETED, columns.FAILED]
    code = first.loc[first[columns.STATUS] == columns.FAILED, columns.ERROR_CODE]
    assert code.tolist() == ["003011095"]
    run(table)
    assert len(gateway.invoice()) == 2
    done = run(table, retry_failed=True)
    assert (done[columns.STATUS] == columns.COMPLETED).all()
    assert sorted(done[columns.ATTEMPTS]) == [1, 2]
    assert len(pd.read_parquet(tmp_path / "run" / "checkpoint.parquet")) == 3


def test_a_row_may_fail_twice_without_a_cost(run, gateway, reference):
    """Several attempts of which none has a cost leave the cost missing."""
    table = jobs(reference, 1)
    gateway.faults.script("create", "fail_099", "fail_099")
    run(table)
    done = run(table, retry_failed=True)
    assert done[columns.ATTEMPTS].tolist() == [2]
    assert done[columns.COST].isna().all()


def test_attempts_are_made_only_for_unbilled_failures(run, gateway, reference):
    """max_attempts=2 attempts a 099 again by itself, and leaves a 096, which may be billed, alone."""
    gateway.faults.script("create", "fail_099")
    gateway.faults.script("create", "fail_096")
    done = run(jobs(reference, 3), max_attempts=2)
    assert sorted(done[columns.ATTEMPTS]) == [1, 1, 2]
    failed = done[done[columns.STATUS] == columns.FAILED]
    assert failed[columns.ERROR_CODE].tolist() == ["003011096"]
    assert failed[columns.MAY_HAVE_BEEN_BILLED].all()


def test_an_ambiguous_row_is_held_until_it_is_settled(run, gateway, reference, tmp_path):
    """A lost answer is never sent again by itself; the right task id makes the row whole without a new attempt."""
    gateway.faults.script("create", "drop_after_accept")
    table = jobs(reference)
    first = run(table)
    (row,) = first.index[first[columns.STATUS] == columns.AMBIGUOUS]
    assert first.loc[row, columns.MAY_HAVE_BEEN_BILLED]
    run(table)
    assert len(gateway.invoice()) == 4
    known = set(first[columns.TASK_ID].dropna())
    (lost,) = [line["id"] for line in gateway.invoice() if line["id"] not in known]
    dreamo.resolve(tmp_path / "run", row, task_id=lost)
    done = run(table)
    assert (done[columns.STATUS] == columns.COMPLETED).all()
    assert done.loc[row, columns.TASK_ID] == lost
    assert len(gateway.invoice()) == 4


def test_an_ambiguous_row_that_was_not_sent_is_submitted_after_the_users_word(
    run, gateway, reference, tmp_path
):
    """resolve(not_sent=True) frees the row for the next call, whose attempt has a number of its own."""
    gateway.faults.script("create", "drop_before_accept")
    table = jobs(reference)
    first = run(table)
    (row,) = first.index[first[columns.STATUS] == columns.AMBIGUOUS]
    settled = dreamo.resolve(tmp_path / "run", first.loc[row, columns.JOB_ID], not_sent=True)
    assert settled.loc[row, columns.STATUS] == columns.PENDING
    assert settled[columns.RUN_DIR].equals(first[columns.RUN_DIR])  # so that its pictures are found
    done = run(table)
    assert (done[columns.STATUS] == columns.COMPLETED).all()
    assert len(gateway.invoice()) == 4
    job_id = done.loc[row, columns.JOB_ID]
    attempts = dreamo.attempts(tmp_path / "run").set_index(columns.JOB_ID)
    assert attempts.loc[job_id, columns.ATTEMPT] == 2
    assert done.loc[row, [columns.ATTEMPTS, columns.OUTPUT_PATH]].tolist() == [1, f"images/{job_id}.jpg"]


def test_ambiguous_rows_can_be_sent_again_knowingly(run, gateway, reference):
    """on_ambiguous="resubmit" may pay twice, and says so in the number of attempts."""
    gateway.faults.script("create", "drop_after_accept")
    table = jobs(reference)
    run(table)
    done = run(table, on_ambiguous="resubmit")
    assert (done[columns.STATUS] == columns.COMPLETED).all()
    assert sorted(done[columns.ATTEMPTS]) == [1, 1, 1, 2]
    assert len(gateway.invoice()) == 5
    assert done[columns.MAY_HAVE_BEEN_BILLED].sum() == 1


def test_an_attempt_in_doubt_behind_a_later_one_is_settled_by_its_number(run, gateway, reference, tmp_path):
    """Its cost and its picture come in; the row shows the latest attempt, and nothing is bought anew."""
    run_dir, table = tmp_path / "run", jobs(reference, 1)
    for _ in range(2):
        gateway.faults.script("create", "drop_after_accept")
        run(table, on_ambiguous="resubmit")
    done = run(table, on_ambiguous="resubmit")
    first, second, third = (line["id"] for line in gateway.invoice())
    assert done[columns.TASK_ID].tolist() == [third]

    with pytest.raises(errors.UsageError, match=r"ambiguous attempts\. Pass attempt=1 or attempt=2"):
        dreamo.resolve(run_dir, 0, task_id=first)
    with pytest.raises(
        errors.UsageError, match=r"Attempt 3 of row 0 is not ambiguous\. Pass attempt=1 or attempt=2"
    ):
        dreamo.resolve(run_dir, 0, attempt=3, task_id=first)
    with pytest.raises(errors.UsageError, match="already belongs to attempt 3 of job"):
        dreamo.resolve(run_dir, 0, attempt=1, task_id=third)
    dreamo.resolve(run_dir, 0, attempt=1, task_id=first)
    dreamo.resolve(run_dir, 0, not_sent=True)  # the only one that is left
    again = run(table)

    assert [line["id"] for line in gateway.invoice()] == [first, second, third]
    attempts = dreamo.attempts(run_dir)
    assert attempts[columns.TASK_ID].tolist() == [first, third]
    job_id = done[columns.JOB_ID].iloc[0]
    assert attempts[columns.OUTPUT_PATH].tolist() == [
        f"images/{job_id}-attempt-1.jpg",
        f"images/{job_id}.jpg",
    ]
    assert again[columns.OUTPUT_PATH].equals(done[columns.OUTPUT_PATH])
    costs = {line["id"]: Decimal(line["cost"]) for line in gateway.invoice()}
    assert Decimal(again[columns.COST].iloc[0]) == costs[first] + costs[third]
    assert again[columns.ATTEMPTS].tolist() == [2]
    assert not again[columns.MAY_HAVE_BEEN_BILLED].any()
    assert dreamo.verify(run_dir) == []
    pd.testing.assert_frame_equal(run(table), again)


def test_resolve_refuses_what_is_no_task_id(run, reference, tmp_path):
    """What could not be asked for would stop every later run."""
    run(jobs(reference, 1))
    with pytest.raises(errors.UsageError, match="is not a task id"):
        dreamo.resolve(tmp_path / "run", 0, task_id="two words")


@pytest.mark.parametrize("given", ["sk-of-this-user", "SK-of-this-user", "sk-of-this-user and more"])
def test_resolve_refuses_the_key_as_a_task_id(run, reference, tmp_path, monkeypatch, given):
    """Pasted by mistake, it would stand in the ledger; the message doesn't repeat it."""
    run(jobs(reference, 1))
    monkeypatch.setenv("DREAMO_API_KEY", "sk-of-this-user")
    with pytest.raises(errors.UsageError, match="shows your API key") as raised:
        dreamo.resolve(tmp_path / "run", 0, task_id=given)
    assert "sk-of" not in str(raised.value).lower()


@pytest.mark.parametrize(
    ("labels", "row"),
    [([1.0, 2.0], 1), (pd.date_range("2026-01-01", periods=2), "2026-01-01T00:00:00"), ([True, False], True)],
)
def test_resolve_finds_a_row_by_what_retry_finds_it_by(reference, tmp_path, labels, row):
    """Whatever the labels are; one boolean is a label here, and no mask."""
    run_dir = tmp_path / "run"
    done = dreamo.run(jobs(reference, 2).set_axis(labels), run_dir, gateway="local", progress=False)
    assert find_job(read_jobs(run_dir / "jobs.parquet"), row) == done["job_id"].iloc[0]
    with pytest.raises(errors.UsageError, match="is not ambiguous: its job is completed"):
        dreamo.resolve(run_dir, row, not_sent=True)


def test_a_label_that_is_the_id_of_another_job_names_neither(reference, tmp_path):
    """The wrong one of them would be paid twice."""
    run_dir, table = tmp_path / "run", jobs(reference, 2)
    _, other = dreamo.run(table, run_dir, gateway="local", progress=False)["job_id"]
    dreamo.run(table.set_axis([other, "b"]), run_dir, gateway="local", progress=False)
    with pytest.raises(errors.UsageError, match="has 2 jobs; pass a job_id"):
        dreamo.resolve(run_dir, other, not_sent=True)
    assert find_job(read_jobs(run_dir / "jobs.parquet"), "b") == other


def test_resolve_refuses_what_is_not_ambiguous(run, reference, tmp_path):
    """A completed row, an unknown row and two answers at once are refused."""
    run(jobs(reference, 1))
    with pytest.raises(errors.UsageError, match="is not ambiguous"):
        dreamo.resolve(tmp_path / "run", 0, not_sent=True)
    for row in (99, "\ud800"):
        with pytest.raises(errors.UsageError, match="not in the table"):
            dreamo.resolve(tmp_path / "run", row, not_sent=True)
    with pytest.raises(
        errors.UsageError, match=r"row must be the label of one row, or its job_id, not \[0\]"
    ):
        dreamo.resolve(tmp_path / "run", [0], not_sent=True)
    with pytest.raises(errors.UsageError, match="either task_id="):
        dreamo.resolve(tmp_path / "run", 0, task_id="x", not_sent=True)


def test_retry_chooses_by_row_and_class(run, gateway, reference, tmp_path):
    """Only the failed rows named, or of the class named, are submitted again."""
    gateway.faults.set({"create": {"fail_099": 1.0}})
    run(jobs(reference, 3))
    gateway.faults.clear()
    service = {"base_url": gateway.base_url, "api_key": gateway.api_key, "progress": False}
    one = dreamo.retry(tmp_path / "run", rows=[1], **service)
    assert one[columns.STATUS].tolist() == ["failed", "completed", "failed"]
    none = dreamo.retry(tmp_path / "run", classes="rejected", **service)
    assert none[columns.STATUS].tolist() == ["failed", "completed", "failed"]
    rest = dreamo.retry(tmp_path / "run", classes=["creation_error"], **service)
    assert (rest[columns.STATUS] == columns.COMPLETED).all()
    with pytest.raises(errors.UsageError, match="not in the table"):
        dreamo.retry(tmp_path / "run", rows=["nowhere"], **service)


@pytest.mark.parametrize(("rows", "unknown"), [("0-99", "99"), ("x-1", "x"), ("1 - 7", "7")])
def test_a_range_that_leaves_the_table_is_refused_with_its_labels(run, reference, tmp_path, rows, unknown):
    """It names the wrong end, and where the table begins and ends, so that the range can be corrected."""
    run(jobs(reference, 2))
    with pytest.raises(
        errors.UsageError,
        match=f"{rows}': '{unknown}' isn't a label; both ends of a range must be labels of the table, 0 to 1",
    ):
        dreamo.rate(tmp_path / "run", rows, 3)


@pytest.mark.parametrize(("classes", "meant"), [("moderatoin", "moderation"), (["ambigous"], "ambiguous")])
def test_an_unknown_class_of_failures_is_refused(run, reference, tmp_path, classes, meant):
    """A slip of the pen would choose no row, and look as if all were well."""
    run(jobs(reference, 1))
    with pytest.raises(errors.UsageError, match=f"did you mean '{meant}'"):
        dreamo.retry(tmp_path / "run", classes=classes, progress=False)


def test_a_directory_of_one_service_refuses_another(run, reference, tmp_path):
    """Results of the local gateway are never taken for the real service's."""
    run(jobs(reference, 1))
    with pytest.raises(dreamo.OtherService, match="loopback"):
        dreamo.run(
            jobs(reference, 1),
            tmp_path / "run",
            base_url="https://service.example",
            api_key="k",
            progress=False,
        )


def test_a_service_that_needs_a_key_is_not_asked_without_one(reference, tmp_path, monkeypatch):
    """No key for a host that is not loopback: refused before anything is made."""
    monkeypatch.delenv("DREAMO_API_KEY", raising=False)
    in_memory = jobs(reference, 1).assign(image=[Path(reference).read_bytes()])
    for verb in (dreamo.start, dreamo.run):
        for table in (jobs(reference, 1), in_memory):
            with pytest.raises(dreamo.KeyMissing, match="DREAMO_API_KEY"):
                verb(table, tmp_path / "run", base_url="https://service.example")
        with pytest.raises(dreamo.InvalidTable):  # said first: a table can be mended without a key
            verb(in_memory.assign(seed="x"), tmp_path / "run", base_url="https://service.example")
    assert not (tmp_path / "run").exists()


def test_a_picture_that_was_deleted_is_fetched_again_and_not_submitted(run, gateway, reference, tmp_path):
    """The next call brings a missing picture back from the service."""
    table = jobs(reference, 2)
    done = run(table)
    missing = tmp_path / "run" / done[columns.OUTPUT_PATH].iloc[0]
    missing.unlink()
    assert dreamo.plan(table, tmp_path / "run")["reason"].iloc[0] == "completed, picture to be fetched"
    again = run(table)
    assert missing.exists()
    assert again[columns.OUTPUT_SHA256].equals(done[columns.OUTPUT_SHA256])
    assert len(gateway.invoice()) == 2


def test_pictures_can_be_left_and_fetched_later(run, gateway, reference):
    """download=False leaves them at the service; a later call fetches without submitting."""
    table = jobs(reference, 2)
    assert run(table, download=False)[columns.OUTPUT_PATH].isna().all()
    assert run(table)[columns.OUTPUT_PATH].notna().all()
    assert len(gateway.invoice()) == 2


def test_a_reference_that_changed_after_the_check_is_not_sent(run, gateway, reference, tmp_path, monkeypatch):
    """The worker hashes what it sends; other bytes than those planned are not submitted, and the row says so."""
    other = tmp_path / "other.png"
    Image.new("RGB", (64, 64), "navy").save(other)
    settings = Call.settings

    def changed(call):
        """Change a picture after the table was checked, in the last moment before the first request."""
        Image.new("RGB", (64, 64), "white").save(other)
        return settings(call)

    monkeypatch.setattr(Call, "settings", changed)
    done = run(pd.concat([jobs(reference, 1), jobs(reference, 1).assign(image=str(other))]))
    assert done[columns.STATUS].tolist() == [columns.COMPLETED, columns.FAILED]
    assert done[columns.ERROR_CLASS].iloc[1] == "image_changed"
    assert done[columns.ATTEMPTS].iloc[1] == 0
    assert len(gateway.invoice()) == 1


def test_a_reference_that_is_gone_matters_only_for_new_attempts(run, gateway, reference):
    """Rows that were submitted keep their job and their picture although the file was deleted since."""
    table = jobs(reference, 2)
    first = run(table, keep_references=False)
    reference.unlink()
    done = run(table)
    assert done[columns.JOB_ID].equals(first[columns.JOB_ID])
    assert (done[columns.STATUS] == columns.COMPLETED).all()
    more = run(jobs(reference, 3), on_invalid="skip")
    assert more[columns.STATUS].tolist()[:2] == [columns.COMPLETED] * 2
    assert more[columns.STATUS].iloc[2] in {columns.FAILED, columns.INVALID}
    assert len(gateway.invoice()) == 2


def test_attempts_outside_the_table_stay_in_the_ledger_and_the_budget(run, gateway, reference, tmp_path):
    """A table that shares nothing with the last is allowed; status still counts every attempt."""
    run(jobs(reference, 2))
    run(jobs(reference, 2).assign(prompt="in the snow"))
    counted = dreamo.status(tmp_path / "run")
    assert counted["attempts"] == 4
    assert counted["rows"] == 2
    assert Decimal(counted["spent_usd"]) == sum(Decimal(line["cost"]) for line in gateway.invoice())


def test_the_local_gateway_is_kept_in_the_run_directory(reference, tmp_path):
    """gateway="local" needs no key, and a later call finds its tasks again."""
    table = jobs(reference, 1).assign(size="512x512")
    first = dreamo.run(table, tmp_path / "run", gateway="local", progress=False, download=False)
    done = dreamo.run(table, tmp_path / "run", gateway="local", progress=False)
    assert done[columns.TASK_ID].equals(first[columns.TASK_ID])
    assert done[columns.OUTPUT_PATH].notna().all()
    assert (tmp_path / "run" / "gateway").is_dir()


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_is_no_run_directory_of_the_local_gateway(reference, tmp_path, path):
    """Refused in words before the gateway looks for its state below it."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(errors.DirectoryError, match=r"is not a folder\. Choose another"):
        dreamo.run(jobs(reference, 1), tmp_path / path, gateway="local", progress=False)


def test_two_services_at_once_are_refused(gateway, reference, tmp_path):
    """gateway= and base_url= say two things; the call does not guess."""
    with pytest.raises(errors.UsageError, match="not both"):
        dreamo.run(jobs(reference, 1), tmp_path / "run", gateway="local", base_url=gateway.base_url)
    with pytest.raises(errors.UsageError, match="LocalGateway"):
        dreamo.run(jobs(reference, 1), tmp_path / "run", gateway="remote")


def test_a_running_gateway_can_be_given(gateway, reference, tmp_path):
    """gateway= takes a LocalGateway that is already running."""
    done = dreamo.run(jobs(reference, 1), tmp_path / "run", gateway=gateway, progress=False)
    assert (done[columns.STATUS] == columns.COMPLETED).all()


def _interrupt_once_submitted(gateway: dreamo.LocalGateway, n: int) -> threading.Thread:
    def wait_and_interrupt() -> None:
        while len(gateway.invoice()) < n:
            time.sleep(0.01)
        _thread.interrupt_main()

    thread = threading.Thread(target=wait_and_interrupt)
    thread.start()
    return thread


def test_an_interrupt_returns_quickly_and_the_same_call_goes_on(reference, tmp_path, capsys):
    """Control is back while a create hangs; its answer is recorded; nothing is bought twice."""
    slow = Slow()
    with dreamo.LocalGateway(engine="flat", latency="fixed:1000", clock=slow) as gateway:
        gateway.faults.script("create", "slow", seconds=4.0)
        table = jobs(reference, 20)
        service = {"base_url": gateway.base_url, "api_key": gateway.api_key, "max_in_flight": 2}
        thread = _interrupt_once_submitted(gateway, 1)
        with pytest.raises(KeyboardInterrupt):
            dreamo.run(table, tmp_path / "run", **service)
        thread.join()
        said = capsys.readouterr().err
        assert "Waiting for 1 submitted request to be recorded. Run the same call again to resume" in said
        slow.speed_up()
        done = dreamo.run(table, tmp_path / "run", **service, progress=False)
        assert (done[columns.STATUS] == columns.COMPLETED).all()
        seeds = [line["seed"] for line in gateway.invoice()]
        assert sorted(seeds) == list(range(20))
    assert runner.live(tmp_path / "run") is None


def test_a_gateway_that_is_not_running_is_started_and_closed(reference, tmp_path):
    """Its state is kept in the run directory, so that the same call goes on, and so does a retry without a gateway."""
    gateway = dreamo.LocalGateway(engine="flat", price="0.05")
    gateway.faults.script("create", "fail_096")
    table, run_dir = jobs(reference, 2), tmp_path / "run"
    done = dreamo.run(table, run_dir, gateway=gateway, progress=False)
    assert sorted(done[columns.STATUS]) == [columns.COMPLETED, columns.FAILED]
    assert not gateway.is_running
    again = dreamo.run(table, run_dir, gateway=gateway, progress=False)
    assert again[columns.TASK_ID].equals(done[columns.TASK_ID])
    assert (dreamo.retry(run_dir, progress=False)[columns.STATUS] == columns.COMPLETED).all()
    with dreamo.LocalGateway(run_dir / "gateway") as kept:
        assert len(kept.invoice()) == 3


def test_a_running_gateway_is_left_running(gateway, reference, tmp_path):
    """Whoever started it stops it."""
    dreamo.run(jobs(reference, 1), tmp_path / "run", gateway=gateway, progress=False)
    assert gateway.is_running


def test_a_script_that_ends_behind_start_leaves_nothing_in_doubt(reference, tmp_path):
    """The gateway closes last, after the answers of what was sent."""
    script = (
        "import sys, time, dreamo_batch as dreamo\n"
        "jobs = dreamo.sweep(image=sys.argv[1], prompt='x', seed=range(1, 20), use_rephraser=False)\n"
        "batch = dreamo.start(jobs, sys.argv[2], gateway='local')\n"
        "while not any(map(batch.status.by_status.get, ('in_progress', 'completed'))):\n"
        "    time.sleep(0.01)\n"
    )
    run_dir = tmp_path / "run"
    subprocess.run([sys.executable, "-c", script, reference, run_dir], check=True, timeout=60)
    by_status = dreamo.status(run_dir)["by_status"]
    assert columns.AMBIGUOUS not in by_status, by_status
    assert by_status.get(columns.IN_PROGRESS, 0) + by_status.get(columns.COMPLETED, 0) > 0


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda table: dreamo.run(table, ""), "run_dir is empty"),
        (lambda table: dreamo.run(table, " "), "run_dir is empty"),
        (lambda table: dreamo.run(table, None), "run_dir must be a path"),
        (lambda table: dreamo.run(table, "a\0b"), "run_dir 'a.*NUL"),
        (lambda table: dreamo.run(table, "a\ud800"), "run_dir 'a.*surrogate"),
        (lambda table: dreamo.plan(table, "a" * 300), "run_dir 'a.*longer than 255 bytes"),
        (lambda _: dreamo.load("~nobody-here/run"), "run_dir '~nobody-here/run'.*no user 'nobody-here'"),
        (lambda table: dreamo.run(table["image"], "run"), "not a Series"),
        (lambda table: dreamo.run(table.iloc[0], "run"), "not a Series"),
        (lambda table: dreamo.run(table, b"run"), "run_dir must be a path"),
        (lambda table: dreamo.run("run", table), "run_dir must be a path.*The table comes first"),
        (lambda table: dreamo.start("run", table), "run_dir must be a path.*The table comes first"),
        (lambda table: dreamo.plan("run", table), "run_dir must be a path.*The table comes first"),
        (dreamo.retry, "run_dir must be a path"),
        (lambda _: dreamo.load(""), "run_dir is empty"),
        (lambda _: dreamo.status(3), "Expected a run directory"),
        (lambda _: dreamo.watch(""), "run_dir is empty"),
        (lambda _: dreamo.resolve(0, "run", not_sent=True), "run_dir must be a path"),
        (lambda table: dreamo.write_table("jobs.csv", table), "path must be a path"),
        (lambda _: dreamo.write_table({"a": 1}, "jobs.csv"), "frame must be a DataFrame, not a dict"),
        (
            lambda table: dreamo.write_table(table, "jobs.csv", excel_safe="no"),
            "excel_safe must be True or False",
        ),
        (lambda _: dreamo.read_table("jobs.csv", sep=3), "sep must be one character"),
        (lambda _: dreamo.read_table("jobs.csv", decimal="x"), "decimal must be"),
        (lambda _: dreamo.read_table("jobs.csv", rename=["a"]), "rename must map"),
        (lambda table: dreamo.validate(table, fix_images="no"), "fix_images must be True or False"),
        (lambda table: dreamo.validate(table, base_dir=5), "base_dir must be a path"),
        (lambda _: dreamo.resolve("run", 0, not_sent="no"), "not_sent must be True or False"),
        (lambda _: dreamo.resolve("run", 0, not_sent=True, force=1), "force must be True or False"),
        (
            lambda _: dreamo.resolve("run", 0, not_sent=True, attempt=True),
            "attempt=True: expected a whole number",
        ),
        (lambda table: dreamo.gallery(table, title=5), "title must be text"),
        (lambda table: dreamo.contact_sheet(table, "s.png", n_across=0), "n_across=0"),
        (lambda table: dreamo.contact_sheet(table, "s.png", title=None), "title must be text"),
        (lambda _: dreamo.Client("k", connect_timeout_s="5"), "connect_timeout_s is '5'"),
        (lambda _: dreamo.Client(settings=5), "settings must be Settings"),
        (lambda _: dreamo.Client("k", allow_private_links="no"), "allow_private_links must be"),
        (lambda _: dreamo.read_table(3), "path must be a path"),
        (lambda table: dreamo.run(table, "run", gateway=True), "gateway= must be"),
        (lambda table: dreamo.run(table, "run", gateway=dreamo.LocalGateway), "gateway= must be"),
        (lambda table: dreamo.run(table, "run", client="x"), "client must be a Client"),
        (lambda table: dreamo.run(table, "run", api_key=3), "api_key must be text"),
        (lambda table: dreamo.run(table, "run", base_url=3), "base_url must be text"),
        (lambda table: dreamo.run(table, "run", base_dir=3), "base_dir must be a path"),
        (lambda table: dreamo.run(table, "run", base_url="x"), "base_url 'x' can't be used"),
        (lambda table: dreamo.run(table, "run", api_key="two words"), "API key contains whitespace"),
        (lambda table: dreamo.run(table, "run", gateway=table), "gateway= must be"),
        (lambda table: dreamo.run(table, "run", gateway="local", budget=3), "budget must be a path"),
        (lambda table: dreamo.start(table, "run", gateway="local", budget="none"), "No budget at"),
        (lambda table: dreamo.run(table, "run", gateway="local", cluster=10**30), "cluster="),
        (lambda table: dreamo.run(table, "run", gateway="local", cluster=table), "cluster=a DataFrame"),
        (lambda table: dreamo.run(table, "run", allow_private_links="no"), "allow_private_links must be"),
        (lambda table: dreamo.run(table, "run\n"), "run_dir 'run.*line break"),
        (lambda table: dreamo.plan(table, gateway="near"), "gateway= must be"),
        (lambda table: dreamo.plan(table, not_before="soon"), "not_before='soon'"),
        (lambda table: dreamo.plan(table, on_event=3), "on_event must be"),
        (lambda table: dreamo.plan(table, cluster="many"), "cluster='many'"),
        (lambda table: dreamo.plan(table, progress=3), "progress must be"),
        (lambda table: dreamo.plan(table, max_costs=5), r"plan\(\).*'max_costs'; did you mean 'max_cost'"),
        (
            lambda table: dreamo.start(table, "run", max_costs=5),
            r"start\(\).*'max_costs'; did you mean 'max_cost'",
        ),
        (lambda _: dreamo.retry("run", classe="x"), r"retry\(\).*'classe'; did you mean 'classes'"),
        (lambda _: dreamo.resume("run", max_atempts=2), r"resume\(\).*did you mean 'max_attempts'"),
        (lambda table: dreamo.run(table, "run", progress="no"), "progress must be True or False"),
        (lambda table: dreamo.run(table, "run", download="no"), "download must be True or False"),
        (lambda table: dreamo.run(table, "run", retry_failed=1), "retry_failed must be True or False"),
        (lambda table: dreamo.run(table, "run", task_timeout_s="9"), "task_timeout_s must be more than 0"),
        (lambda table: dreamo.run(table, "run", task_timeout_s=float("nan")), "task_timeout_s must be"),
    ],
)
def test_an_argument_that_can_not_be_used_is_named(reference, tmp_path, monkeypatch, call, named):
    """In one line, before anything is written or sent."""
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(errors.UsageError, match=named) as told:
        call(jobs(reference, 1))
    assert "\n" not in str(told.value)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "odd",
    [
        {"prompt", "seed"},
        {"prompt": 1},
        np.array([["prompt"]]),
        [["prompt"]],
        pd.DataFrame({"prompt": []}),
        b"prompt",
        pd.NA,
    ],
    ids=lambda odd: type(odd).__name__,
)
def test_every_verb_refuses_names_that_are_no_list(run, reference, odd):
    """A set has no order, and other containers would be taken apart into something else."""
    done = run(jobs(reference, 1))
    calls = [
        ("rows", lambda: dreamo.gallery(done, odd)),
        ("columns", lambda: dreamo.contact_sheet(done, "sheet.png", columns=odd, progress=False)),
        ("labels", lambda: dreamo.contact_sheet(done, "sheet.png", labels=odd, progress=False)),
        ("by", lambda: dreamo.costs(done, odd)),
        ("by", lambda: dreamo.latency(done, odd)),
        ("by", lambda: dreamo.diversity(done, odd, progress=False)),
        ("by", lambda: dreamo.rank(done, odd, progress=False)),
        ("within", lambda: dreamo.rank(done, within=odd, progress=False)),
        ("by", lambda: dreamo.compare(done, odd)),
        ("within", lambda: dreamo.compare(done, within=odd)),
        ("metrics", lambda: dreamo.measure(done, odd, progress=False)),
        ("per", lambda: dreamo.search(jobs(reference, 1), "s", accept="shape > 0", per=odd, max_cost=1)),
    ]
    for argument, call in calls:
        with pytest.raises(errors.UsageError, match=f"^{argument}: expected one name, or a list"):
            call()


def _closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def _detached() -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO())
    stream.detach()
    return stream


@pytest.mark.parametrize("stream", [None, _closed(), _detached()], ids=["none", "closed", "detached"])
@pytest.mark.parametrize("progress", [True, False])
def test_a_run_without_standard_error_gives_its_results(gateway, reference, monkeypatch, stream, progress):
    """Neither a bar nor a log fails on it; the stream is left as it was."""
    gateway.faults.script("create", "drop_after_accept")
    monkeypatch.setattr(
        logging.getLogger(), "handlers", []
    )  # as without pytest: the last resort writes on the stream
    with monkeypatch.context() as broken:
        broken.setattr(sys, "stderr", stream)
        done = dreamo.run(jobs(reference, 2), reference.parent / "run", gateway=gateway, progress=progress)
        assert sys.stderr is stream
    assert sorted(done[columns.STATUS]) == [columns.AMBIGUOUS, columns.COMPLETED]


def test_a_logging_handler_that_raises_fails_no_run(run, gateway, reference, monkeypatch, capsys):
    """Whoever sends the log to a chat or a tracker: it is named once, and the run goes on."""

    class Raising(logging.Handler):
        def emit(self, _record):
            raise OSError("no chat")

    monkeypatch.setattr(UnfailingLogger, "_has_failed", False)
    for name in ("dreamo_batch", "urllib3", "filelock", "asyncio"):  # the libraries' own lines, too
        monkeypatch.setattr(logging.getLogger(name), "handlers", [Raising()])
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
        logging.getLogger(name).manager._clear_cache()
    gateway.faults.script("create", "drop_after_accept")
    done = run(jobs(reference, 3))
    assert sorted(done[columns.STATUS]) == [columns.AMBIGUOUS, columns.COMPLETED, columns.COMPLETED]
    assert capsys.readouterr().err.count("no chat") == 1


def test_the_bar_of_a_retry_counts_what_is_submitted_again(reference, tmp_path, monkeypatch, capsys):
    """From 0 to the number of rows chosen."""
    paint, slow = Bar.update, Slow()

    def update(bar, now):
        paint(bar, now)
        slow.speed_up()

    with dreamo.LocalGateway(engine="flat", latency="fixed:1000", clock=slow) as gateway:
        gateway.faults.script("create", "fail_096", "fail_096")
        slow.speed_up()
        dreamo.run(jobs(reference, 5), tmp_path / "run", gateway=gateway, progress=False)
        slow.slow_down()
        monkeypatch.setattr("dreamo_batch.display.progress.is_watched", lambda: True)
        monkeypatch.setattr(Bar, "update", update)
        dreamo.retry(tmp_path / "run", gateway=gateway)
    shown = re.findall(r"\| (\d+/\d+)", capsys.readouterr().err)
    assert (shown[0], shown[-1]) == ("0/2", "2/2")


def test_money_is_reported_without_a_bar(run, gateway, reference, caplog):
    """A row in doubt is a warning of the log where nothing is shown; the last line is none."""
    gateway.faults.script("create", "drop_after_accept")
    with caplog.at_level(logging.INFO):
        run(jobs(reference, 2, use_rephraser=False))
    levels = {record.message: record.levelno for record in caplog.records}
    assert [level for text, level in levels.items() if "is ambiguous" in text] == [logging.WARNING]
    assert [level for text, level in levels.items() if text.startswith("2 rows in")] == [logging.INFO]


_SCRIPT = """
import signal, sys
import dreamo_batch as dreamo

def buy(jobs, **options):
    with dreamo.LocalGateway(engine="flat", price="0.03", latency="fixed:9") as gateway:
        signal.setitimer(signal.ITIMER_REAL, options.pop("stop_after_s", 0))
        return dreamo.run(jobs, sys.argv[2], gateway=gateway, **options)

jobs = dreamo.sweep(image=sys.argv[1], prompt="x", seed=range(1, 3), size="512x512", use_rephraser=False)
"""


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ('buy(jobs, max_cost="0.01")', "dreamo_batch.errors.BudgetReached: "),
        ('buy(jobs.assign(prompt=""))', "dreamo_batch.errors.InvalidTable: "),
        ('buy(jobs, max_cost="much")', "dreamo_batch.errors.UsageError: "),
        (
            "signal.signal(signal.SIGALRM, signal.default_int_handler); buy(jobs, stop_after_s=2)",
            "KeyboardInterrupt",
        ),
    ],
    ids=["stopped", "invalid", "usage", "interrupt"],
)
def test_what_ends_a_script_is_shown_at_its_own_line(reference, tmp_path, lines, error):
    """The user's frames and the error; none of this package's."""
    path = tmp_path / "script.py"
    path.write_text(_SCRIPT + lines, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, path, reference, tmp_path / "run"], capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    trace = ended.stderr[ended.stderr.index("Traceback (most recent") :]
    assert trace.count("Traceback") == 1
    assert [line for line in trace.splitlines() if line.startswith("  File")] == [
        line for line in trace.splitlines() if line.startswith(f'  File "{path}"')
    ]
    assert "return dreamo.run(jobs" in trace
    assert f"\n{error}" in trace


def test_a_job_settled_as_taken_is_not_submitted_again_though_a_later_attempt_failed(
    run, gateway, reference, tmp_path
):
    """The attempt that has the picture speaks for the job: its status, its cost, and every later call."""
    run_dir, table = tmp_path / "run", jobs(reference, 1)
    gateway.faults.script("create", "drop_after_accept", "error_code_message")
    run(table)
    run(table, on_ambiguous="resubmit")
    (line,) = gateway.invoice()
    dreamo.resolve(run_dir, 0, attempt=1, task_id=line["id"])
    for _ in range(2):
        done = run(table, retry_failed=True, on_ambiguous="resubmit", max_attempts=5)
        assert done["status"].tolist() == ["completed"]
        assert done["cost"].tolist() == [line["cost"]]
        assert len(gateway.invoice()) == 1


@pytest.mark.no_cover
def test_a_row_in_doubt_stays_so_whatever_became_of_its_resend(run, gateway, reference, tmp_path):
    """The resend failed, the first attempt may be on the bill: neither a retry nor attempts left buy it again."""
    table = jobs(reference, 1)
    gateway.faults.script("create", "drop_after_accept", "error_code_message")
    run(table)
    run(table, on_ambiguous="resubmit")
    for options in ({}, {"max_attempts": 5}, {"retry_failed": True}):
        assert run(table, **options)["status"].tolist() == ["ambiguous"]
        assert dreamo.plan(table, tmp_path / "run")["action"].tolist() == ["ambiguous"]
        assert len(gateway.invoice()) == 1
    dreamo.resolve(tmp_path / "run", 0, not_sent=True)
    assert run(table)["status"].tolist() == ["failed"]


def test_links_to_private_addresses_are_allowed_on_request(tmp_path, gateway, reference):
    """The word reaches the client that the call opens; beside a client of one's own it is refused."""
    service = {"base_url": gateway.base_url, "api_key": gateway.api_key, "progress": False}
    done = dreamo.run(jobs(reference, 1), tmp_path / "run", allow_private_links=True, **service)
    assert done["status"].tolist() == ["completed"]
    with (
        dreamo.Client(base_url=gateway.base_url, api_key=gateway.api_key) as client,
        pytest.raises(errors.UsageError, match="Pass allow_private_links= to the Client"),
    ):
        dreamo.run(jobs(reference, 1), tmp_path / "run", client=client, allow_private_links=True)


@pytest.mark.no_cover
def test_a_picture_that_is_there_shows_though_a_later_attempt_is_in_doubt(run, gateway, reference, tmp_path):
    """The row is completed and says that money may be gone; the doubt can still be settled, and nothing is bought."""
    run_dir, table = tmp_path / "run", jobs(reference, 1)
    gateway.faults.script("create", "drop_after_accept", "drop_after_accept")
    run(table)
    run(table, on_ambiguous="resubmit")
    first, second = gateway.invoice()
    dreamo.resolve(run_dir, 0, attempt=1, task_id=first["id"])
    done = run(table, retry_failed=True, on_ambiguous="resubmit", max_attempts=5)
    assert done["status"].tolist() == ["completed"]
    assert done["task_id"].tolist() == [first["id"]]
    assert done["cost"].tolist() == [first["cost"]]
    assert done["may_have_been_billed"].tolist() == [True]
    assert dreamo.plan(table, run_dir)["action"].tolist() == ["reuse"]
    dreamo.resolve(run_dir, 0, task_id=second["id"])
    done = run(table)
    assert Decimal(done["cost"].iloc[0]) == Decimal(first["cost"]) + Decimal(second["cost"])
    assert dreamo.attempts(run_dir)["output_path"].nunique() == 2
    assert not done["may_have_been_billed"].any()
    assert len(gateway.invoice()) == 2
    assert dreamo.verify(run_dir) == []
