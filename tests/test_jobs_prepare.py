"""What makes a job, which seeds are drawn, and what a table becomes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.jobs.fields import user_columns
from dreamo_batch.jobs.prepare import Draw, head_of, job_id, prepare, tail_of, text_of
from dreamo_batch.jobs.references import CheckOptions, Inputs
from tests.pictures import encoded, plain

URL = "https://example.com/cat.png"


def _table(**cells):
    length = max((len(cell) for cell in cells.values() if isinstance(cell, list)), default=1)
    return pd.DataFrame({"image": URL, "prompt": "a cat"} | cells, index=range(length))


def _job(**cells):
    return next(iter(prepare(_table(**cells), entropy="e").jobs.values()))


@given(
    st.text(),
    st.text(),
    st.integers(-1, 2**63 - 1),
    st.tuples(st.integers(), st.integers(), st.booleans(), st.integers()),
    st.one_of(st.none(), st.integers(0)),
)
def test_identity_is_the_hash_of_a_json_array(image, prompt, seed, rest, occurrence):
    """The array is put together from pieces, and still reads as JSON would write it."""
    wanted = (head_of(json.dumps(["url", image], separators=(",", ":")), json.dumps(prompt)), tail_of(*rest))
    array = ["spark_dreamo", ["url", image], prompt, seed, *rest]
    array += [] if occurrence is None else [occurrence]
    text = json.dumps(array, separators=(",", ":"))
    assert text_of(wanted, seed, occurrence) == text
    assert job_id(text) == hashlib.sha256(text.encode()).hexdigest()[:32]


def test_identities_stay_what_they_are():
    """A release that changed them would buy everything anew."""
    assert _job(seed=7).job_id == "fcfa2e0c03f8d7d7d963fdc81028f0d9"
    assert _job(prompt="猫 🐈", seed=7, size="16:9", use_rephraser=False, replicate=2).job_id == (
        "85a014efbb9fe3cb419648def1b584a2"
    )
    assert (_job().job_id, _job().seed) == ("d715b319267bfcce5857936d7fd8734f", 32917606)
    by_service = prepare(_table(), entropy="e", random_seed="service")
    assert list(by_service.jobs) == ["48fc520cf598c8e76ef9c690116a0a5a"]


@pytest.mark.parametrize(
    "cells",
    [
        {"image": URL + "?v=2"},
        {"prompt": "a dog"},
        {"prompt": "a cat "},
        {"prompt": "cafe\u0301"},
        {"prompt": "caf\u00e9"},
        {"seed": 2},
        {"width": 1329, "height": 1328},
        {"width": 1328, "height": 1329},
        {"use_rephraser": False},
        {"replicate": 1},
    ],
)
def test_whatever_is_submitted_counts(cells):
    """A change to anything that is sent makes another job; texts are not normalised."""
    assert _job(**({"seed": 1} | cells)).job_id != _job(seed=1).job_id


@pytest.mark.parametrize(
    "cells",
    [
        {"seed": "1"},
        {"seed": 1.0},
        {"image": f" {URL} "},
        {"width": 1328, "height": "1328"},
        {"size": "1:1"},
        {"size": "1328 X 1328", "width": 1328},
        {"use_rephraser": "yes", "replicate": 0},
        {"use_rephraser": None, "replicate": None, "size": ""},
        {"my_note": "x"},
    ],
)
def test_however_it_is_written_does_not_count(cells):
    """Spelling out a default, or writing a number as text, attempts the same."""
    assert _job(**({"seed": 1} | cells)) == _job(seed=1)


def test_index_order_and_path_do_not_count(tmp_path):
    """The same picture elsewhere, in another order and under other labels, is the same job."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(plain()))
    table = _table(image=["a.png", "b.png"], prompt=["x", "y"], seed=[1, 2])
    moved = (
        _table(image=["b.png", "a.png"], prompt=["x", "y"], seed=[1, 2])
        .iloc[::-1]
        .set_index("prompt", drop=False)
    )
    first, second = (
        prepare(one, CheckOptions(tmp_path, inputs=Inputs(None)), entropy="e").rows["job_id"]
        for one in (table, moved)
    )
    assert set(first) == set(second)


def test_equal_rows_are_one_job():
    """The second row points at the first; both have the job and the seed."""
    rows = prepare(_table(seed=[1, 2, 1, 1]), entropy="e").rows
    assert rows["duplicate_of"].tolist() == [pd.NA, pd.NA, 0, 0]
    assert rows["job_id"].nunique() == 2
    assert rows["seed_sent"].tolist() == [1, 2, 1, 1]


def test_jobs_are_in_order_of_first_appearance():
    """Work is done in the order of the table."""
    prepared = prepare(_table(seed=[3, 1, 3, 2]), entropy="e")
    assert [job.seed for job in prepared.jobs.values()] == [3, 1, 2]
    assert all(key == job.job_id for key, job in prepared.jobs.items())


def test_rows_have_the_designed_columns():
    """Names and dtypes are the same whether or not anything is there."""
    expected = {
        columns.JOB_ID: "str",
        columns.DUPLICATE_OF: "Int64",
        columns.SEED_SENT: "Int64",
        columns.IMAGE_SOURCE: "category",
        columns.IMAGE_DIGEST: "category",
        columns.IMAGE_SENT: "category",
        columns.IMAGE_SENT_DIGEST: "category",
        columns.ERROR_CLASS: "str",
        columns.ERROR_CODE: "str",
        columns.ERROR_MESSAGE: "str",
    }
    for table in (_table(), _table(prompt=""), _table().iloc[:0]):
        rows = prepare(table, entropy="e").rows
        assert {name: str(dtype) for name, dtype in rows.dtypes.items()} == expected
        assert rows.index.equals(pd.RangeIndex(len(table)))


def test_invalid_rows_have_no_job_but_say_why():
    """What is wrong with a row stands in the row, all of it."""
    table = pd.DataFrame(
        {"image": [URL, URL], "prompt": ["", "x" * 400], "seed": [1.5, 1]}, index=pd.Index(["same", "same"])
    )
    rows = prepare(table, entropy="e").rows
    assert rows["job_id"].isna().tolist() == [True, False]
    assert rows["error_class"].tolist()[0] == "invalid"
    assert rows["error_code"].tolist()[0] == "prompt-missing"
    assert rows["error_message"][0].startswith("prompt: The row has no prompt")
    assert "seed: The seed isn't a whole number" in rows["error_message"][0]
    assert pd.isna(rows["error_message"][1])


def test_missing_seeds_are_drawn_and_sent():
    """Missing and -1 are the same wish, and get positive seeds of 31 bits, all different."""
    rows = prepare(_table(seed=[None, -1, float("nan"), "-1", " "]), entropy="e").rows
    assert rows["seed_sent"].between(1, 2**31 - 1).all()
    assert rows["seed_sent"].nunique() == 5
    assert rows["duplicate_of"].isna().all()


def test_drawn_seeds_come_from_the_entropy():
    """Another run draws other seeds, the same run the same."""
    first, again, other = (
        prepare(_table(), entropy=entropy).rows["seed_sent"][0] for entropy in ("e", "e", "f")
    )
    assert first == again
    assert first != other


@pytest.mark.no_cover
@settings(max_examples=settings.default.max_examples // 4)
@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_reordering_and_extending_keeps_what_was_bought(prompts, random):
    """Rows without a seed are interchangeable: shuffle them, add some, and nothing is bought twice."""
    bought = set(prepare(_table(prompt=prompts), entropy="e").jobs)
    shuffled = random.sample(prompts, len(prompts))
    assert set(prepare(_table(prompt=shuffled), entropy="e").jobs) == bought
    assert set(prepare(_table(prompt=[*shuffled, "a", "d"]), entropy="e").jobs) > bought


def test_a_result_run_again_draws_the_same_seeds():
    """The seed column rules; what was sent before is an output and is not read."""
    table = _table(seed=pd.array([None, 5], dtype="Int64").tolist())
    first = prepare(table, entropy="e")
    result = table.reindex(columns=[*table.columns, *columns.OUTPUTS])
    result[columns.SEED_SENT] = 99
    assert prepare(result, entropy="e").jobs == first.jobs
    assert user_columns(result) == list(table.columns)


def test_the_service_may_draw_instead():
    """Then -1 is sent, and the occurrence tells equal rows apart."""
    table = _table(seed=[None, -1, 7], prompt=["a", "a", "a"])
    rows = prepare(table, entropy="e", random_seed="service").rows
    assert rows["seed_sent"].tolist() == [-1, -1, 7]
    assert rows["job_id"].nunique() == 3
    assert (
        rows["job_id"][0]
        == prepare(table.iloc[[0]], entropy="other", random_seed="service").rows["job_id"][0]
    )


def test_other_ways_of_drawing_are_refused():
    """A misspelt choice must not silently mean something."""
    with pytest.raises(UsageError, match="'record', 'service'"):
        dreamo.plan(_table(), random_seed="none")


def test_no_seed_is_drawn_twice_for_one_attempt(monkeypatch):
    """Two draws may coincide; the later one is drawn again, so that both pictures are bought."""
    monkeypatch.setattr("dreamo_batch.jobs.prepare.SEED_END", 5)
    draw = Draw("e")
    wanted = ("[", "]")
    assert {draw(wanted)[0] for _ in range(4)} == {1, 2, 3, 4}


@given(st.text(), st.integers(0, 20))
def test_draws_are_in_range_and_repeatable(entropy, n_draws):
    """The n-th draw depends on entropy, attempt and n only."""
    wanted, other = ('["a",', "]"), ('["b",', "]")
    draw, again = Draw(entropy), Draw(entropy)
    drawn = [draw(wanted) for _ in range(n_draws)]
    assert all(1 <= seed < 2**31 for seed, _ in drawn)
    assert len({one for _, one in drawn}) == n_draws
    repeated = []
    for _ in range(n_draws):
        again(other)
        repeated.append(again(wanted))
    assert repeated == drawn


def test_unusual_seeds_are_sent_as_they_are():
    """From 0 to the end of 64 bits, exactly."""
    seeds = [0, 2**31, 2**53 + 1, 2**63 - 1]
    assert prepare(_table(seed=seeds), entropy="e").rows["seed_sent"].tolist() == seeds


def test_prompts_are_sent_as_they_are():
    """Blanks, line breaks and composed characters are the user's business."""
    prompt = "  a\ncat, 猫 🐈 cafe\u0301 "
    assert _job(prompt=prompt).prompt == prompt


def test_sizes_fall_back_to_the_default():
    """A row without a size gets the service's own."""
    table = _table(
        width=[None, 600, None, None], height=[None, None, 700, None], size=[None, None, None, "16:9"]
    )
    jobs = prepare(table, entropy="e").jobs.values()
    assert [(job.width, job.height) for job in jobs] == [(1328, 1328), (600, 1328), (1328, 700), (1664, 936)]


def test_a_table_is_not_changed():
    """Preparing reads and nothing else."""
    table = pd.DataFrame(
        {"image": [URL, plain()], "prompt": ["a", None], "seed": [1.0, np.nan]}, index=["x", "x"]
    )
    before = table.copy(deep=True)
    prepare(table, CheckOptions(fix_images=True, inputs=Inputs(None)), entropy="e")
    pd.testing.assert_frame_equal(table, before)


def test_many_rows_are_identified_at_once():
    """Tens of thousands of rows, the last one equal to the first."""
    prompts = [f"cat {number % 500}" for number in range(20_000)]
    prepared = prepare(_table(prompt=[*prompts, "cat 0"], seed=[*range(20_000), 0]), entropy="e")
    assert len(prepared.jobs) == 20_000
    assert prepared.rows["duplicate_of"].iloc[-1] == 0
