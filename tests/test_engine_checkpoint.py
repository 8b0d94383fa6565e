"""The checkpoint: state to Parquet and back, and what damage does to it."""

from __future__ import annotations

import errno
import os
import tracemalloc
from dataclasses import replace
from unittest import mock

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch import columns, files
from dreamo_batch.engine import attempts, checkpoint, directory
from dreamo_batch.engine.attempts import Attempt, Stage, State, StoredAttempts, absent, to_arrow, to_frame
from dreamo_batch.engine.directory import SCHEMA_VERSION
from tests.fakes import histories, to_state, with_pending, write_checkpoint

META = checkpoint.Meta(
    schema=SCHEMA_VERSION, covers=7, generation=3, entropy="00ff", service="host:443", is_followed=True
)
FULL = Attempt(
    job_id="a" * 32,
    attempt=1,
    stage=Stage.COMPLETED,
    task_id="cqexample",
    seed_sent=2**63 - 1,
    reserved="0.0300",
    cost="0.028571428571428571428571428571",
    discount="1",
    output_url="https://h/蓝 🦊.png?sig=a%2Fb",
    output_path="images/a.png",
    output_sha256="ab" * 32,
    output_bytes=2**40,
    output_width=1328,
    output_height=1328,
    error_code="003011095",
    may_have_been_billed=False,
    sent_at=1_700_000_000.123456,
    answered_at=1_700_000_000.5,
    completed_at=1_700_000_012.000001,
    saved_at=1_700_000_013.0,
    n_polls=3,
    n_refusals=0,
    waited_s=1.25,
)


@given(histories())
def test_any_state_comes_back(attempts):
    """Whatever attempts hold, laying them out and reading them gives the same attempts."""
    state = State(attempts)
    assert to_state(with_pending(state, ["a" * 32, "f" * 32])) == state


@given(histories(), histories(), st.booleans())
def test_a_compressed_state_is_the_same(before, after, is_table):
    """However often attempts are compressed, with newer ones in place of some, each job has its own."""
    state = State(before)
    state.store(StoredAttempts(to_arrow(state)) if is_table else state.stored.packed_with(state.changed))
    state.changed = State(after).changed
    whole = to_state(to_arrow(state))
    with mock.patch.object(attempts, "_BLOCK", 2):
        state.store(state.stored.packed_with(state.changed))
    assert set(state.job_ids()) == set(whole.job_ids())
    for job_id in [*"abcd", *whole.job_ids()]:
        assert state.of(job_id) == whole.of(job_id)
        assert (job_id in state) == (job_id in whole)
    assert state.kinds() == whole.kinds()
    assert to_state(to_arrow(state)) == whole


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({columns.STAGE: ["completed", "odd", "failed"]}, "unknown stage 'odd'"),
        ({columns.ATTEMPT: [1, 3, 1]}, "not numbered from 1"),
        ({columns.JOB_ID: ["a", "b", "a"], columns.ATTEMPT: [1, 1, 1]}, "don't follow each other"),
    ],
)
def test_a_table_that_was_never_written_so_is_refused(changes, problem):
    """Read all the same, it would count a purchase to another job, or to none."""
    rows = [("a", 1, Stage.COMPLETED), ("a", 2, Stage.FAILED), ("b", 1, Stage.FAILED)]
    table = to_arrow(State(Attempt(*row) for row in rows))
    for name, cells in changes.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(cells, field.type))
    with pytest.raises(attempts.ImpossibleEvent, match=problem):
        StoredAttempts(table).get("a")


def test_owners_are_those_of_a_dict():
    """The first job of each hash is kept, in a quarter of a dict's memory, whatever their number and order."""
    given = [(hash(str(n % 15_000)), f"job-{n % 7}") for n in range(20_000)]
    owners, expected = attempts.FirstJobs(), {}
    assert [owners.setdefault(*one) for one in given] == [expected.setdefault(*one) for one in given]
    tracemalloc.start()
    try:
        many = attempts.FirstJobs()
        for n in range(100_000):
            many.setdefault(hash(str(n)), "job")
        assert tracemalloc.get_traced_memory()[0] < 40 * 100_000
    finally:
        tracemalloc.stop()


def test_a_checkpoint_takes_little_memory_at_a_time():
    """Neither settled rows nor those still to be submitted are all laid out at once."""
    n = 10 * attempts._BLOCK
    never = absent(State(), map(str, range(n)))
    assert len(never) == n
    assert never.get_total_buffer_size() < n * 40
    state = State(replace(FULL, job_id=str(number)) for number in range(n))
    parts = list(state.stored.packed_with(state.changed).parts())
    assert sum(map(len, parts)) == n
    assert max(map(len, parts)) <= 4 * attempts._BLOCK


def test_a_file_comes_back_whole(tmp_path):
    """State and what the file says of itself survive the disk."""
    path = tmp_path / "checkpoint.parquet"
    state = State([FULL, Attempt("a" * 32, 2, Stage.ACCEPTED), Attempt("b" * 32, 1, Stage.REFUSED)])
    write_checkpoint(path, state, ["a" * 32], META)
    table, meta = checkpoint.read(path)
    assert to_state(table) == state
    assert meta == checkpoint.read_meta(path) == META


def test_plain_pandas_reads_it(tmp_path):
    """`pd.read_parquet` alone gives the documented columns with the documented dtypes."""
    path = tmp_path / "seed=3" / "checkpoint.parquet"  # a name that readers of data sets give a meaning
    path.parent.mkdir()
    write_checkpoint(path, State([FULL]), ["a" * 32, "b" * 32], META)
    frame = pd.read_parquet(path)
    assert list(frame.columns) == list(columns.LEDGER)
    assert frame.loc[0, columns.COST] == "0.028571428571428571428571428571"
    assert frame.loc[0, columns.ERROR_CODE] == "003011095"
    assert frame.loc[0, columns.SENT_AT] == pd.Timestamp("2023-11-14T22:13:20.123456Z")
    assert frame.loc[1, columns.STAGE] == "pending"


def test_a_column_that_is_gone_is_damage(tmp_path):
    """Nothing is guessed."""
    path = tmp_path / "checkpoint.parquet"
    write_checkpoint(path, State([FULL]), [], META)
    table = pq.read_table(path).drop_columns([columns.OUTPUT_URLS, columns.ATTEMPT_INPUTS])
    pq.write_table(table, path)
    with pytest.raises(ValueError, match="no column"):
        checkpoint.read(path)


@pytest.mark.parametrize("attempts", [[], [FULL], [Attempt("b", 1)]])
def test_frame_has_the_documented_dtypes(attempts):
    """Also empty and with columns that are missing throughout."""
    frame = to_frame(with_pending(State(attempts), ["c"]))
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == columns.dtypes(columns.LEDGER)


def test_jobs_never_submitted_have_a_row_without_an_attempt():
    """A job without attempts has one row; a job with attempts has theirs only, however often it is named."""
    state = State([FULL, Attempt("b" * 32, 1, Stage.UNSENT)])
    frame = to_frame(with_pending(state, ["b" * 32, "c" * 32, "a" * 32]))
    assert frame[columns.JOB_ID].tolist() == ["a" * 32, "b" * 32, "c" * 32]
    assert frame[columns.STAGE].tolist() == ["completed", "unsent", "pending"]
    assert frame[columns.ATTEMPT].isna().tolist() == [False, True, True]


def test_every_altered_byte_is_noticed_or_harmless(tmp_path):
    """A flipped bit never changes an attempt or what the file covers without being noticed."""
    path = tmp_path / "checkpoint.parquet"
    state = State([FULL, Attempt("b" * 32, 1, Stage.ACCEPTED, task_id="t2")])
    write_checkpoint(path, state, [], META)
    content = path.read_bytes()
    n_noticed = 0
    for at in range(0, len(content), 13):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            table, meta = checkpoint.read(path)
        except directory.UNREADABLE:
            n_noticed += 1
        else:
            assert (to_state(table), meta) == (state, META)
    assert n_noticed > len(content) / 13 / 2


def test_every_cut_is_noticed(tmp_path):
    """A file cut short anywhere is no checkpoint."""
    path = tmp_path / "checkpoint.parquet"
    write_checkpoint(path, State([FULL]), [], META)
    content = path.read_bytes()
    for at in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:at])
        with pytest.raises(directory.UNREADABLE):
            checkpoint.read(path)


def test_any_other_parquet_file_is_no_checkpoint(tmp_path):
    """A file without our note of itself, or with an altered one, is refused."""
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(directory.UNREADABLE):
        checkpoint.read_meta(path)
    note = b'00000000 {"schema":1}'
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({b"dreamo_batch": note}), path)
    with pytest.raises(ValueError, match="altered"):
        checkpoint.read_meta(path)


def test_rows_that_went_missing_are_noticed(tmp_path):
    """A file that reads well but has fewer rows than were written is no checkpoint."""
    path = tmp_path / "checkpoint.parquet"
    write_checkpoint(path, State([FULL]), ["b"], META)
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    with pytest.raises(ValueError, match="1 rows, not as many as were written"):
        checkpoint.read(path)


def rotate(folder, fill):
    files.replace(folder / checkpoint.NAME, fill, previous=folder / checkpoint.PREVIOUS)


def fill(number: int):
    meta = checkpoint.Meta(1, number, 1, "00", "loopback")
    return lambda path: write_checkpoint(path, State(), [], meta)


def test_the_newest_and_the_one_before_are_kept(tmp_path):
    """Each new checkpoint moves the last one aside and drops the one before that."""
    for number in (1, 2, 3):
        rotate(tmp_path, fill(number))
    assert checkpoint.read_meta(tmp_path / checkpoint.NAME).covers == 3
    assert checkpoint.read_meta(tmp_path / checkpoint.PREVIOUS).covers == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_that_can_not_be_written_changes_nothing(tmp_path):
    """If the disk is full the two that are there stay, and the half-written one goes."""
    for number in (1, 2):
        rotate(tmp_path, fill(number))

    def half(path):
        path.write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="space"):
        rotate(tmp_path, half)
    assert checkpoint.read_meta(tmp_path / checkpoint.NAME).covers == 2
    assert checkpoint.read_meta(tmp_path / checkpoint.PREVIOUS).covers == 1
    assert len(list(tmp_path.iterdir())) == 2
