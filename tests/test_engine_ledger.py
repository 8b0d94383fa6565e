"""The ledger: what its files tell after damage, crashes, mixing and while it is written to."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from dreamo_batch.engine import checkpoint, journal
from dreamo_batch.engine import ledger as ledgers
from dreamo_batch.engine.attempts import Event, EventKind, Stage, State
from dreamo_batch.engine.directory import SCHEMA_VERSION, Manifest, RunDirectory
from dreamo_batch.engine.ledger import Ledger, interrupted, peek_entropy, read
from dreamo_batch.errors import DirectoryError, LedgerDamaged, OtherService
from tests.fakes import event, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

SERVICE = "host:443"


def opened(folder, service=SERVICE, **options) -> Ledger:
    return Ledger(RunDirectory(folder), service, **options)


def work(ledger: Ledger, job_id: str, *kinds: EventKind) -> None:
    """Record and commit events of a job's first attempt."""
    for at, kind in enumerate(kinds):
        fields = {"task_id": f"task-{job_id}"} if kind is EventKind.ACCEPTED else {}
        ledger.record([event(kind, job_id, 1, float(at), **fields)])
    ledger.commit()


def stages(state: State) -> dict[str, str]:
    return {attempt.job_id: str(attempt.stage) for attempt in state}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture
def busy(folder):
    """A ledger with two checkpoints, two journals behind them, and a writer that died."""
    ledger = opened(folder)
    for job_id in ("a", "b", "c"):
        work(ledger, job_id, EventKind.SENDING, EventKind.ACCEPTED)
        ledger.checkpoint(["a", "b", "c", "d"])
    work(ledger, "d", EventKind.SENDING)
    ledger.abandon()
    return folder


BUSY = {"a": "accepted", "b": "accepted", "c": "accepted", "d": "sending"}


def test_a_new_directory_has_a_ledger_of_nothing(folder):
    """Opening makes a journal and a manifest; closing makes a checkpoint."""
    ledger = opened(folder, entropy="00ff")
    assert (ledger.generation, ledger.entropy, ledger.service) == (1, "00ff", SERVICE)
    assert (len(ledger.state), ledger.warnings, ledger.covers) == (0, (), 0)
    ledger.close(pending=["a"])
    manifest = RunDirectory(folder).read_manifest()
    assert (manifest.generation, manifest.entropy, manifest.service) == (1, "00ff", SERVICE)
    assert manifest.package_version
    assert read(folder).snapshot.column("stage").to_pylist() == ["pending"]


def test_everything_recorded_is_there_again(busy):
    """A writer that died leaves all that it had committed."""
    recovered = read(busy)
    assert stages(recovered.state()) == BUSY
    assert recovered.warnings == recovered.damaged == ()
    ledger = opened(busy)
    assert (stages(ledger.state), ledger.generation) == (BUSY, 2)
    assert [attempt.job_id for attempt in interrupted(ledger.state)] == ["d"]
    assert ledger.state.deciding("a").task_id == "task-a"
    ledger.close(pending=[])
    assert stages(read(busy).state()) == BUSY


def test_journals_go_once_two_checkpoints_cover_them(folder):
    """At any time the newest checkpoint and the one before are enough, each with its journals."""
    ledger = opened(folder)
    for _ in range(4):
        covers, number = ledger.covers, max(journal.numbers(folder))
        ledger.checkpoint([])
        assert ledger.covers == number
        assert journal.numbers(folder) == list(range(covers + 1, number + 2))
    ledger.close(pending=[])
    assert journal.numbers(folder) == [5]
    for _ in range(3):
        opened(folder).close(pending=[])
    assert len(journal.numbers(folder)) == 1


def test_what_is_not_committed_is_reported_and_not_there(folder):
    """Events count once they are on the disk, and until then the ledger can name them."""
    ledger = opened(folder)
    events = [event(EventKind.SENDING), event(EventKind.ACCEPTED, at=6.0, task_id="t")]
    assert [attempt.stage for attempt in ledger.record(iter(events))] == [Stage.SENDING, Stage.ACCEPTED]
    assert ledger.unwritten == events
    assert len(read(folder).state()) == 0
    ledger.commit()
    assert ledger.unwritten == []
    ledger.abandon()
    assert stages(read(folder).state()) == {"a": "accepted"}


def test_checkpoints_grow_rarer_with_the_state(folder, monkeypatch):
    """A checkpoint is due once enough has happened for the attempts there were before, and for a minimum."""
    monkeypatch.setattr(ledgers, "_EVENTS_BEFORE_CHECKPOINT", 10)
    ledger = opened(folder)
    after = []
    for i in range(1, 201):
        ledger.record([event(EventKind.SENDING, f"job-{i}"), event(EventKind.ACCEPTED, f"job-{i}")])
        if ledger.is_checkpoint_due():
            ledger.checkpoint([])
            after.append(i)
    ledger.abandon()
    gaps = [later - earlier for earlier, later in pairwise(after)]
    assert gaps == [5] * 8 + [6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 22]
    assert len(read(folder).state()) == after[-1]


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "flipped", "not ours"])
def test_a_damaged_checkpoint_is_healed(busy, damage):
    """The checkpoint before and the journals since tell the same, and the damaged file never takes over."""
    path = busy / checkpoint.NAME
    content = path.read_bytes()
    contents = {
        "empty": b"",
        "cut": content[:-9],
        "flipped": content[:40] + bytes([content[40] ^ 1]) + content[41:],
        "not ours": b"PAR1",
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(contents[damage])
    ledger = opened(busy)
    assert stages(ledger.state) == BUSY
    if damage == "gone":
        assert ledger.warnings == (
            "checkpoint.parquet is missing; used the previous checkpoint and the journals instead",
        )
    else:
        assert ledger.warnings[0].startswith("checkpoint.parquet can't be read (")
        assert (busy / "checkpoint-damaged.parquet").read_bytes() == contents[damage]
    good = checkpoint.read_meta(busy / checkpoint.PREVIOUS)
    ledger.checkpoint([])
    assert checkpoint.read_meta(busy / checkpoint.PREVIOUS) == good
    ledger.close(pending=[])
    (busy / checkpoint.NAME).unlink()
    assert stages(read(busy).state()) == BUSY


def test_both_checkpoints_damaged_with_journals_gone_is_refused(busy):
    """What two checkpoints covered is in no journal any more, so without both nothing is bought."""
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        (busy / name).write_bytes(b"")
    before = sorted(path.name for path in busy.iterdir())
    with pytest.raises(LedgerDamaged, match=r"journal-000001\.jsonl is missing"):
        opened(busy)
    assert sorted(path.name for path in busy.iterdir()) == before


def test_both_checkpoints_damaged_with_all_journals_there_is_healed(folder):
    """As long as no journal was removed, they tell everything."""
    ledger = opened(folder)
    work(ledger, "a", EventKind.SENDING)
    ledger.checkpoint([])
    work(ledger, "b", EventKind.SENDING)
    ledger.abandon()
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        (folder / name).write_bytes(b"not Parquet")
    ledger = opened(folder)
    assert stages(ledger.state) == {"a": "sending", "b": "sending"}
    assert len(ledger.warnings) == 2
    ledger.close(pending=[])
    assert stages(read(folder).state()) == {"a": "sending", "b": "sending"}


def test_any_missing_journal_is_noticed(busy):
    """Whichever journal that a checkpoint does not cover goes, nothing is bought on what is left."""
    uncovered = [number for number in journal.numbers(busy) if number > 3]
    assert uncovered == [4]
    for number in uncovered:
        journal.path_of(busy, number).rename(busy / "elsewhere")
        with pytest.raises(LedgerDamaged, match=rf"journal-00000{number}\.jsonl is missing"):
            opened(busy)
        with pytest.raises(LedgerDamaged):
            read(busy)
        (busy / "elsewhere").rename(journal.path_of(busy, number))
    assert stages(opened_and_closed(busy)) == BUSY


def opened_and_closed(folder) -> State:
    ledger = opened(folder)
    ledger.close(pending=[])
    return ledger.state


def test_the_first_journal_of_a_crashed_opening_is_missed(folder):
    """A journal that only the note of its end knows of, or `run.json` by its count of openings, is missed too."""
    opened_and_closed(folder)
    ledger = opened(folder)
    work(ledger, "a", EventKind.SENDING)
    ledger.abandon()
    journal.path_of(folder, 2).unlink()
    with pytest.raises(LedgerDamaged, match=r"journal-000002\.jsonl is missing"):
        opened(folder)
    (folder / journal.END_NAME).unlink()
    with pytest.raises(LedgerDamaged, match="knows of 2 openings, the ledger only of 1"):
        opened(folder)


def test_a_gap_between_journals_is_noticed(folder):
    """Crashed openings leave several journals; none of them can go."""
    for job_id in ("a", "b", "c"):
        ledger = opened(folder)
        work(ledger, job_id, EventKind.SENDING)
        ledger.abandon()
    for number in (1, 2, 3):
        path = journal.path_of(folder, number)
        path.rename(folder / "elsewhere")
        with pytest.raises(LedgerDamaged):
            opened(folder)
        (folder / "elsewhere").rename(path)
    assert len(opened_and_closed(folder)) == 3


def test_lines_lost_at_the_end_of_an_earlier_journal_are_noticed(folder):
    """Each journal says where the one before it ended."""
    for job_id in ("a", "b"):
        ledger = opened(folder)
        work(ledger, job_id, EventKind.SENDING)
        ledger.abandon()
    path = journal.path_of(folder, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(
        LedgerDamaged, match=r"journal-000001\.jsonl has lost lines at its end: journal-000002"
    ):
        opened(folder)
    path.write_bytes(b"".join(lines) + b'{"crc":"torn')
    assert stages(opened_and_closed(folder)) == {"a": "sending", "b": "sending"}


def test_pictures_the_ledger_does_not_know_are_refused(busy):
    """A saved picture without an attempt tells of lines that were lost."""
    images = RunDirectory(busy).images
    images.mkdir()
    (images / "notes.txt").touch()
    ledger = opened(busy)
    ledger.abandon()
    (images / f"{'e' * 32}.png").touch()
    with pytest.raises(LedgerDamaged, match=rf"images/{'e' * 32}\.png in .* shows a purchase"):
        opened(busy)


def test_results_the_ledger_does_not_know_are_refused(busy):
    """A row that the results show as submitted has an attempt; results that can't be read show nothing."""
    results = RunDirectory(busy).results
    rows = pd.DataFrame({"job_id": ["a", None, "e"], "task_id": ["task-a", "t", None]}, dtype="str")
    rows.to_parquet(results)
    opened(busy).abandon()
    rows.assign(task_id="t").to_parquet(results)
    with pytest.raises(LedgerDamaged, match=r"results\.parquet \(job e\) in .* shows a purchase"):
        opened(busy)
    results.write_bytes(b"not Parquet")
    opened(busy).abandon()


def test_a_journal_altered_in_its_middle_is_refused(busy):
    """A flipped bit in a whole line stops everything, and says where."""
    path = journal.path_of(busy, 4)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(LedgerDamaged, match=r"journal-000004\.jsonl, line 1: wrong checksum"):
        opened(busy)


def test_a_torn_end_is_dropped_with_a_warning(busy):
    """What a killed writer left half-written was never acknowledged; later openings still say so."""
    with journal.path_of(busy, 4).open("ab") as file:
        file.write(b'{"crc":"0000')
    ledger = opened(busy)
    assert stages(ledger.state) == BUSY
    (warning,) = ledger.warnings
    assert warning.startswith("journal-000004.jsonl: dropped 12 bytes of an unfinished write at its end")
    assert warning.endswith("no recorded attempt is lost")
    ledger.close(pending=[])
    assert read(busy).warnings == ()


def test_a_writer_killed_while_it_made_its_journal_left_nothing(busy):
    """An empty journal, the last or one in between, holds nothing and stops nobody."""
    journal.path_of(busy, 5).touch()
    ledger = opened(busy)
    work(ledger, "e", EventKind.SENDING)
    ledger.abandon()
    assert stages(read(busy).state()) == BUSY | {"e": "sending"}


def test_a_lost_run_json_is_rebuilt(busy, caplog):
    """Service, entropy and count of openings stand in the ledger too."""
    before = RunDirectory(busy).read_manifest()
    (busy / "run.json").write_text("{")
    opened_and_closed(busy)
    after = RunDirectory(busy).read_manifest()
    assert (after.service, after.entropy) == (before.service, before.entropy)
    assert after.generation == before.generation + 1
    assert "Rebuilding run.json" in caplog.text


@pytest.mark.parametrize("trace", ["images", "results", "run.json"])
def test_a_lost_ledger_beside_traces_of_purchases_is_refused(busy, trace):
    """Pictures, results or a count of openings without a ledger: buying again could pay twice."""
    run_dir = RunDirectory(busy)
    for path in (*busy.glob("journal*"), *busy.glob("checkpoint*")):
        path.unlink()
    if trace != "run.json":
        (busy / "run.json").unlink()
    if trace == "images":
        run_dir.images.mkdir()
        (run_dir.images / "a.png").touch()
    if trace == "results":
        run_dir.results.touch()
    with pytest.raises(LedgerDamaged, match="shows earlier purchases"):
        opened(busy)


def test_another_service_is_refused(busy):
    """The results of one service are never taken for another's, and refusing changes nothing."""
    before = {path.name: path.read_bytes() for path in busy.iterdir()}
    with pytest.raises(
        OtherService, match="belongs to the service host:443, but this call would use loopback"
    ):
        opened(busy, "loopback")
    assert {path.name: path.read_bytes() for path in busy.iterdir()} == before


def test_files_of_two_runs_do_not_mix(busy, tmp_path):
    """A journal of another run is refused, before or behind a checkpoint."""
    other = tmp_path / "other"
    for _ in range(5):
        opened_and_closed_anew = opened(other) if other.exists() else make(other)
        opened_and_closed_anew.abandon()
    shutil.copy(journal.path_of(other, 5), journal.path_of(busy, 5))
    with pytest.raises(LedgerDamaged, match="Files of two run directories were mixed"):
        opened(busy)
    shutil.copy(journal.path_of(busy, 4), journal.path_of(other, 4))
    with pytest.raises(LedgerDamaged, match="Files of two run directories were mixed"):
        opened(other)


def make(folder) -> Ledger:
    folder.mkdir()
    return opened(folder)


def test_a_run_json_of_another_run_is_refused(busy, tmp_path):
    """Its entropy would draw other seeds, and every row without one would be bought again."""
    make(tmp_path / "other").close(pending=[])
    shutil.copy(tmp_path / "other" / "run.json", busy / "run.json")
    with pytest.raises(LedgerDamaged, match=r"run\.json in .* belongs to another run"):
        opened(busy)


def test_a_renamed_journal_is_refused(busy):
    """A journal says its own number, so that it can't fill the place of another."""
    journal.path_of(busy, 4).rename(journal.path_of(busy, 5))
    shutil.copy(journal.path_of(busy, 5), journal.path_of(busy, 4))
    with pytest.raises(LedgerDamaged, match="Journal 5 is number 4"):
        opened(busy)


def test_an_older_copy_of_a_journal_is_refused(busy):
    """Openings are counted, and the count never falls from one journal to the next."""
    lines = journal.path_of(busy, 4).read_bytes().splitlines(keepends=True)
    opened_and_closed(busy)
    journal.Journal(busy, journal.Header(1, 6, 1, peek_entropy(RunDirectory(busy)), SERVICE)).close()
    assert lines
    with pytest.raises(LedgerDamaged, match="doesn't belong here"):
        opened(busy)


def test_seeds_drawn_for_another_directory_are_refused(busy):
    """A call that prepared its table before another call made the directory has to be run again."""
    entropy = peek_entropy(RunDirectory(busy))
    with pytest.raises(DirectoryError, match="Another call created"):
        opened(busy, entropy="00")
    ledger = opened(busy, entropy=entropy)
    assert ledger.entropy == entropy
    ledger.abandon()


def test_events_that_contradict_each_other_are_refused(folder):
    """A journal that is whole but can't be true is damage as well."""
    with closing(journal.Journal(folder, journal.Header(1, 1, 1, "00", SERVICE))) as made:
        made.append([event(EventKind.COMPLETED)])
        made.commit()
    with pytest.raises(LedgerDamaged, match="The ledger contradicts itself: attempt 1 of job a is unsent"):
        opened(folder)


def test_fields_of_another_version_are_refused(folder):
    """An event that sets what attempts do not have is not passed over."""
    with closing(journal.Journal(folder, journal.Header(1, 1, 1, "00", SERVICE))) as made:
        made.append([event(EventKind.SENDING, colour="blue")])
        made.commit()
    with pytest.raises(LedgerDamaged, match="colour"):
        opened(folder)


def test_newer_formats_are_refused(busy, folder):
    """Manifest, checkpoint or journal of a newer version: upgrade first."""
    meta = checkpoint.read_meta(busy / checkpoint.NAME)
    write_checkpoint(busy / checkpoint.NAME, State(), [], replace(meta, schema=SCHEMA_VERSION + 1, covers=9))
    (busy / checkpoint.NAME).rename(busy / "newer.parquet")
    shutil.copy(busy / "newer.parquet", busy / checkpoint.NAME)
    for path in busy.glob("journal-*"):
        path.unlink()
    journal.Journal(busy, journal.Header(SCHEMA_VERSION + 1, 10, 1, meta.entropy, SERVICE)).close()
    with pytest.raises(DirectoryError, match="newer version"):
        opened(busy)


def test_a_checkpoint_of_a_newer_format_is_not_taken_for_damage(busy, monkeypatch):
    """One that this version can't read, but whose note can be, is refused instead of set aside."""
    meta = checkpoint.read_meta(busy / checkpoint.NAME)
    write_checkpoint(busy / checkpoint.NAME, State(), [], replace(meta, schema=SCHEMA_VERSION + 1))

    def unreadable(_path):
        raise KeyError("colour")

    monkeypatch.setattr(checkpoint, "read", unreadable)
    with pytest.raises(DirectoryError, match="newer version"):
        read(busy)


def test_entropy_is_known_before_opening(busy, tmp_path, monkeypatch):
    """It comes from the manifest, else from the ledger, else there is none yet."""
    entropy = peek_entropy(RunDirectory(busy))
    (busy / "run.json").unlink()
    assert peek_entropy(RunDirectory(busy)) == entropy
    assert peek_entropy(RunDirectory(tmp_path / "new")) is None
    (tmp_path / "new").mkdir()
    assert peek_entropy(RunDirectory(tmp_path / "new")) is None
    monkeypatch.setattr(ledgers, "read", full)
    with pytest.raises(DirectoryError, match="Can't read"):
        peek_entropy(RunDirectory(tmp_path / "new"))


def full(_path, *_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_at_a_checkpoint_loses_no_task_id(folder, monkeypatch):
    """The ledger goes on in its journal, and the next checkpoint covers all of it."""
    ledger = opened(folder)
    work(ledger, "a", EventKind.SENDING)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write", full)
        with pytest.raises(OSError, match="space"):
            ledger.checkpoint([])
    ledger.record([event(EventKind.ACCEPTED, "a", task_id="t")])
    ledger.commit()
    assert read(folder).state().deciding("a").task_id == "t"
    ledger.checkpoint([])
    ledger.abandon()
    assert read(folder).state().deciding("a").task_id == "t"
    assert read(folder).covers == 2


def test_a_full_disk_at_the_end_loses_nothing(folder, monkeypatch):
    """Without its last checkpoint a run is a run that crashed after its last commit."""
    ledger = opened(folder)
    work(ledger, "a", EventKind.SENDING, EventKind.ACCEPTED)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write", full)
        with pytest.raises(OSError, match="space"):
            ledger.close(pending=[])
    ledger.abandon()
    assert stages(read(folder).state()) == {"a": "accepted"}


def test_a_journal_that_takes_nothing_more_leaves_it_to_the_last_checkpoint(folder, monkeypatch):
    """What could not be appended may still be written beside it, and nothing is left to be told."""
    ledger = opened(folder)
    work(ledger, "a", EventKind.SENDING)
    ledger.record([event(EventKind.ACCEPTED, "a", task_id="t")])
    monkeypatch.setattr(journal.Journal, "commit", full)
    with pytest.raises(OSError, match="space"):
        ledger.close(pending=[])
    assert ledger.unwritten == []
    ledger.abandon()
    assert read(folder).state().deciding("a").task_id == "t"


def test_a_directory_moved_under_the_run_is_noticed(folder):
    """Everything is in the journal where that is now, and nothing more is acknowledged."""
    run_dir = RunDirectory(folder)
    run_dir.lock()
    ledger = Ledger(run_dir, SERVICE)
    work(ledger, "a", EventKind.SENDING)
    folder.rename(folder.with_name("moved"))
    ledger.record([event(EventKind.ACCEPTED, "a", task_id="t")])
    with pytest.raises(FileNotFoundError, match="moved or deleted"):
        ledger.commit()
    with pytest.raises(FileNotFoundError, match="moved or deleted"):
        ledger.close(pending=[])
    ledger.abandon()
    run_dir.unlock()
    assert not folder.exists()
    assert stages(read(folder.with_name("moved")).state()) == {"a": "accepted"}


def reopened(folder, **options) -> Ledger:
    """Open a ledger and leave it at once."""
    ledger = opened(folder, **options)
    ledger.abandon()
    return ledger


@pytest.fixture
def writer(folder):
    """A locked ledger with three creates on the wire."""
    directory = RunDirectory(folder)
    directory.lock()
    ledger = Ledger(directory, SERVICE)
    for job_id in ("a", "b", "c"):
        work(ledger, job_id, EventKind.SENDING)
    yield ledger
    ledger.abandon()
    directory.unlock()


@pytest.fixture
def robbed(writer, folder):
    """The same, whose lock was deleted."""
    (folder / "lock").unlink()
    return writer


def answer(ledger: Ledger, *events: Event) -> None:
    """Record answers where the ledger may not write to its journal any more."""
    ledger.record(events)
    with pytest.raises(FileNotFoundError, match="moved or deleted"):
        ledger.commit()
    assert ledger.unwritten == []


def second_call(folder) -> Ledger:
    """Open as another process does: what nobody seems to wait for is in doubt."""
    ledger = opened(folder)
    ledger.record(
        [event(EventKind.AMBIGUOUS, one.job_id, one.attempt, 9.0) for one in interrupted(ledger.state)]
    )
    ledger.commit()
    return ledger


def test_answers_after_the_lock_was_lost_are_folded_in_by_the_next_opening(robbed, folder):
    """The second writer's ledger stays readable, and learns what became of the creates it held for ambiguous."""
    second = second_call(folder)
    answer(
        robbed,
        event(EventKind.ACCEPTED, "a", 1, 7.0, task_id="task-a"),
        event(EventKind.NOT_SENT, "b", 1, 7.0),
    )
    assert stages(read(folder).state()) == {"a": "accepted", "b": "unsent", "c": "ambiguous"}
    second.close(["a", "b", "c"])
    with pytest.raises(FileNotFoundError):
        robbed.close(["a"])
    third = opened(folder)
    assert stages(third.state) == {"a": "accepted", "b": "unsent", "c": "ambiguous"}
    assert third.state.find("a", 1).task_id == "task-a"
    answer(
        robbed, event(EventKind.ACCEPTED, "c", 1, 8.0, task_id="task-c")
    )  # the first run may still be answered
    third.close([])
    robbed.abandon()
    known = {attempt.job_id: attempt.task_id for attempt in reopened(folder).state}
    assert known == {"a": "task-a", "b": None, "c": "task-c"}
    assert not list(folder.glob("strays-*"))
    known = {attempt.job_id: attempt.task_id for attempt in reopened(folder).state}
    assert known == {"a": "task-a", "b": None, "c": "task-c"}


def test_a_task_whose_number_was_used_again_becomes_an_attempt_of_its_own(robbed, folder):
    """The second call was told that nothing was sent, and sent again: both purchases are known then."""
    second = second_call(folder)
    second.record([event(EventKind.NOT_SENT, "a", 1, 10.0), event(EventKind.SENDING, "a", 1, 11.0)])
    second.record([event(EventKind.ACCEPTED, "a", 1, 12.0, task_id="new")])
    second.close([])
    answer(robbed, event(EventKind.ACCEPTED, "a", 1, 7.0, task_id="old"))
    for _ in range(2):
        ledger = opened(folder)
        assert [(attempt.attempt, attempt.task_id) for attempt in ledger.state.of("a")] == [
            (1, "new"),
            (2, "old"),
        ]
        ledger.close([])


def test_what_a_writer_without_a_lock_wrote_too_late_does_not_break_the_chain(writer, folder, monkeypatch):
    """It lost its lock, and another writer read its journal, in the moment between the question and the write."""
    commit = journal.Journal.commit

    def too_late(journal_):
        monkeypatch.undo()
        (folder / "lock").unlink()
        second_call(folder).abandon()
        commit(journal_)

    monkeypatch.setattr(journal.Journal, "commit", too_late)
    answer(writer, event(EventKind.ACCEPTED, "a", 1, 7.0, task_id="task-a"))
    assert b"task-a" in journal.path_of(folder, 1).read_bytes()
    assert stages(read(folder).state()) == {"a": "accepted", "b": "ambiguous", "c": "ambiguous"}
    assert reopened(folder).state.find("a", 1).task_id == "task-a"


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_deleted_directory_leaves_all_attempts_beside_it(robbed, folder, is_made_again):
    """With the journals everything is gone but what the run remembers; the next one at this path begins with that."""
    robbed.record([event(EventKind.ACCEPTED, "a", 1, 7.0, task_id="task-a")])
    shutil.rmtree(folder)
    if is_made_again:
        folder.mkdir()
    answer(robbed, event(EventKind.ACCEPTED, "b", 1, 8.0, task_id="task-b"))
    answer(robbed, event(EventKind.ACCEPTED, "c", 1, 8.0, task_id="task-c"))
    assert peek_entropy(RunDirectory(folder)) == robbed.entropy
    folder.mkdir(exist_ok=True)
    assert (
        len(reopened(folder, service="loopback").state) == 0
    )  # the attempts are of another service, and stay there
    strays = [*folder.glob("strays-*"), *folder.parent.glob("run-strays-*")]
    assert len(strays) == 1
    for path in folder.iterdir():
        if path not in strays:
            path.unlink()
    robbed.abandon()
    ledger = reopened(folder, entropy=robbed.entropy)
    assert [attempt.task_id for attempt in ledger.state] == ["task-a", "task-b", "task-c"]
    assert not any(path.exists() for path in strays)


def test_a_create_in_doubt_of_a_deleted_directory_is_in_doubt_still(robbed, folder):
    """Nobody knows whether it was taken, so it is not sent again by itself."""
    shutil.rmtree(folder)
    answer(robbed)
    folder.mkdir()
    assert stages(reopened(folder).state) == {"a": "ambiguous", "b": "ambiguous", "c": "ambiguous"}


def test_a_create_that_was_not_sent_for_want_of_the_lock_is_not_in_doubt(robbed, folder):
    """It stands in the journal as about to be sent, and in the strays as not sent."""
    answer(robbed, event(EventKind.NOT_SENT, "a", 1, 7.0))
    robbed.abandon()
    second = second_call(folder)
    assert stages(second.state) == {"a": "unsent", "b": "ambiguous", "c": "ambiguous"}
    second.abandon()


def test_strays_deleted_under_the_run_are_written_once_more(robbed, folder):
    """All of them, as `rm -r` may come by while the run writes; without any file the error names each task."""
    answer(robbed, event(EventKind.ACCEPTED, "a", 1, 7.0, task_id="task-a"))
    (first,) = folder.glob("strays-*")
    assert robbed.strays.path == first
    first.unlink()
    answer(robbed, event(EventKind.ACCEPTED, "b", 1, 8.0, task_id="task-b"))
    assert [path.name for path in folder.glob("strays-*")] == [robbed.strays.path.name]
    shutil.rmtree(folder)
    answer(robbed, event(EventKind.ACCEPTED, "c", 1, 9.0, task_id="task-c"))
    assert robbed.strays.path == folder.with_name(f"run-{robbed.strays.path.name.removeprefix('run-')}")
    folder.mkdir()
    ledger = reopened(folder, entropy=robbed.entropy)
    assert [attempt.task_id for attempt in ledger.state] == ["task-a", "task-b", "task-c"]


def test_tasks_that_no_file_takes_are_named(robbed, folder, monkeypatch):
    """Where neither the directory nor its parent can be written to, all that is known is in the run's memory."""
    robbed.record([event(EventKind.ACCEPTED, "a", 1, 7.0, task_id="task-a")])
    shutil.rmtree(folder)
    with monkeypatch.context() as patched:
        patched.setattr(journal.Strays, "_open", full)
        with pytest.raises(OSError, match="space"):
            robbed.commit()
        assert [attempt.task_id for attempt in robbed.unwritten_tasks()] == ["task-a"]
    answer(robbed)
    assert robbed.unwritten_tasks() == []


def over(backup: Path, folder: Path) -> None:
    """Copy what a backup has over what is there."""
    for path in backup.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def over_with_attributes(backup: Path, folder: Path) -> None:
    """Do so as `cp -a` does."""
    shutil.copytree(backup, folder, dirs_exist_ok=True)


def mirrored(backup: Path, folder: Path) -> None:
    """Make the folder what the backup is, as `rsync --delete` does."""
    for path in folder.iterdir():
        path.unlink()
    over(backup, folder)


@pytest.mark.parametrize("restore", [over, over_with_attributes, mirrored])
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_backup_of_a_live_run_copied_over_it_is_a_copy(folder, tmp_path, restore, is_killed):
    """Each file is whole and in its place; only the folder remembers that the newest journal was longer."""
    opened_and_closed(folder)
    ledger = opened(folder)
    work(ledger, "a", EventKind.SENDING, EventKind.ACCEPTED)
    shutil.copytree(folder, tmp_path / "backup")
    work(ledger, "b", EventKind.SENDING, EventKind.ACCEPTED)
    if is_killed:
        ledger.abandon()
    else:
        ledger.close(["a", "b"])
    assert not ledgers.is_copied(read(folder), RunDirectory(folder))
    restore(tmp_path / "backup", folder)
    assert stages(read(folder).state()) == {"a": "accepted"}
    for _ in range(2):
        ledger = opened(folder)
        assert ledger.is_copy
        ledger.close([])
    ledger = opened(folder)
    ledger.adopt([])
    ledger.close([])
    assert not ledgers.is_copied(read(folder), RunDirectory(folder))


@pytest.mark.parametrize("restore", [over, over_with_attributes])
def test_a_backup_older_than_the_last_journal_is_refused(folder, tmp_path, restore):
    """The journal of a later call is left as it was, and follows what the backup lacks."""
    ledger = opened(folder)
    ledger.checkpoint([])
    shutil.copytree(folder, tmp_path / "backup")
    work(ledger, "a", EventKind.SENDING, EventKind.ACCEPTED)
    ledger.close(["a"])
    opened(folder).abandon()
    assert stages(read(folder).state()) == {"a": "accepted"}
    restore(tmp_path / "backup", folder)
    with pytest.raises(LedgerDamaged, match=r"journal-000003\.jsonl follows a line that is missing"):
        read(folder)


def test_a_copy_of_hard_links_leaves_the_original_alone(busy, tmp_path):
    """As `cp -al` and `rsync --link-dest` make them; whatever is written to the copy, the original stays readable."""
    copy = shutil.copytree(busy, tmp_path / "copy", copy_function=os.link)
    before = {path.name: path.read_bytes() for path in busy.iterdir() if path.is_file()}
    for is_copy in (True, False, False):
        ledger = opened(copy)
        assert ledger.is_copy is is_copy
        ledger.adopt([])
        ledger.close([])
    assert {path.name: path.read_bytes() for path in busy.iterdir() if path.is_file()} == before
    assert stages(reopened(busy).state) == BUSY


def test_altered_strays_are_refused(robbed, folder):
    """A line may name a task that was paid for; one that was cut in the middle of a write never counted."""
    answer(robbed, event(EventKind.ACCEPTED, "a", 1, 7.0, task_id="task-a"))
    (path,) = folder.glob("strays-*")
    content = path.read_bytes()
    path.write_bytes(content + content[:40])
    assert stages(read(folder).state())["a"] == "accepted"
    path.write_bytes(content.replace(b"task-a", b"task-b"))
    with pytest.raises(LedgerDamaged, match=r"strays-\w+.jsonl, line 1: wrong checksum"):
        opened(folder)


def test_a_lock_that_was_gone_once_is_lost(folder):
    """Another writer may have come in between, also if the same lock is back."""
    directory = RunDirectory(folder)
    directory.lock()
    assert not directory.is_lost()
    folder.rename(folder.with_name("moved"))
    assert directory.is_lost()
    folder.with_name("moved").rename(folder)
    assert directory.is_lost()
    directory.unlock()
    directory.lock()
    assert not directory.is_lost()
    directory.unlock()


def test_a_copy_knows_that_it_is_one_until_it_is_adopted(busy, tmp_path):
    """Neither opening it nor losing `run.json` changes that; a moved directory is the same one."""
    shutil.copytree(busy, tmp_path / "copy")
    (tmp_path / "copy" / "run.json").unlink()
    for pending in ([], ["e"]):
        ledger = opened(tmp_path / "copy")
        assert ledger.is_copy
        ledger.close(pending)
    ledger = opened(tmp_path / "copy")
    ledger.adopt([])
    ledger.abandon()
    assert not reopened(tmp_path / "copy").is_copy
    busy.rename(tmp_path / "moved")
    assert not reopened(tmp_path / "moved").is_copy


def test_no_new_journal_means_the_old_one_goes_on(folder, monkeypatch):
    """If a checkpoint can't start its journal, nothing has changed."""
    ledger = opened(folder)
    with monkeypatch.context() as patched:
        patched.setattr(journal, "Journal", full)
        with pytest.raises(OSError, match="space"):
            ledger.checkpoint([])
    work(ledger, "a", EventKind.SENDING)
    ledger.close(pending=[])
    assert stages(read(folder).state()) == {"a": "sending"}


def test_a_directory_that_takes_no_manifest_is_not_opened(folder, monkeypatch):
    """A ledger that can't be opened whole leaves no file open, and the next try succeeds."""
    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "write_manifest", full)
        with pytest.raises(OSError, match="space"):
            opened(folder)
    assert opened_and_closed(folder) == State()


def test_readers_never_fail_while_it_is_compacted(folder, monkeypatch):
    """Readers see every acknowledged event, however often journals are folded and removed meanwhile."""
    ledger = opened(folder)
    is_done = threading.Event()
    problems, counts = [], []

    def look():
        while not is_done.is_set():
            try:
                n_before = n_acknowledged
                counts.append((n_before, len(read(folder).state())))
            except Exception as error:  # noqa: BLE001 - any at all is a failure of this test
                problems.append(error)

    n_acknowledged = 0
    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(60):
        work(ledger, f"job-{i}", EventKind.SENDING)
        n_acknowledged = i + 1
        ledger.checkpoint([])
    is_done.set()
    for reader in readers:
        reader.join()
    ledger.close(pending=[])
    assert problems == []
    assert counts
    assert all(n_seen >= n_before for n_before, n_seen in counts)


def test_a_reader_gives_up_on_what_nobody_is_changing(busy, monkeypatch):
    """Damage that stays is told at once; what changes under the reader's hands is looked at again."""
    n_looks = 0

    def look(_folder, _names):
        nonlocal n_looks
        n_looks += 1
        journal.path_of(busy, 100 + n_looks).touch()
        raise FileNotFoundError

    monkeypatch.setattr(ledgers, "_read_once", look)
    with pytest.raises(FileNotFoundError):
        read(busy)
    assert n_looks == ledgers._READ_TRIES + 1


def test_two_manifests_are_never_half_a_manifest(folder):
    """The manifest in place is always one that was written whole."""
    run_dir = RunDirectory(folder)
    run_dir.write_manifest(Manifest(SERVICE, "00"))
    assert json.loads((folder / "run.json").read_text())["service"] == SERVICE
    assert not list(folder.glob(".*"))
