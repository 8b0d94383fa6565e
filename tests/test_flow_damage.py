"""Whatever is damaged heals or is refused, and what any file shows as bought is never bought again."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow.parquet as pq
import pytest

import dreamo_batch as dreamo
from dreamo_batch.call import Call, CallInputs, Service
from dreamo_batch.engine import journal, plan
from dreamo_batch.engine.checkpoint import read
from dreamo_batch.engine.directory import RunDirectory, new_entropy
from dreamo_batch.engine.ledger import peek_entropy
from dreamo_batch.engine.plan import RunOptions
from dreamo_batch.errors import DirectoryError, LedgerDamaged
from dreamo_batch.jobs.prepare import prepare
from dreamo_batch.jobs.references import CheckOptions, Inputs
from dreamo_batch.service.client import Client
from tests.fakes import picture as picture_bytes
from tests.fakes import to_state, write_checkpoint
from tests.flows import IS_LONG, Flow, Slow, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

# Other tests reach the same lines; measuring these would double their time.
pytestmark = pytest.mark.no_cover

N_CUTS = 400 if IS_LONG else 12
N_FLIPS = 300 if IS_LONG else 12
N_ANY = 250 if IS_LONG else 8  # of each of two directories
N_SAVED = 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    """A finished run of four rows in three calls, so that both checkpoints and some journals are there."""
    with dreamo.LocalGateway(engine="flat") as gateway:
        flow = Flow(tmp_path_factory.mktemp("finished"), gateway)
        flow.run(flow.table.head(3))
        flow.run()
        flow.run()
        yield flow


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    """A run directory as a kill leaves it: all submitted, some saved, and a journal that no checkpoint covers."""
    folder, clock = tmp_path_factory.mktemp("killed"), Slow()
    with dreamo.LocalGateway(engine="flat", latency="lognormal:2000,1", seed=5, clock=clock) as gateway:
        flow = Flow(folder, gateway, n_rows=5)
        run_dir = folder / "working"
        thread = threading.Thread(
            target=lambda: dreamo.run(flow.table, run_dir, gateway=gateway, progress=False)
        )
        thread.start()
        until(lambda: len(flow.invoice()) == len(flow.table))
        latencies_s = sorted(line["latency_s"] for line in flow.invoice())
        clock.let_tasks_end(of_at_most_s=sum(latencies_s[N_SAVED - 1 : N_SAVED + 1]) / 2)
        until(lambda: len(list((run_dir / "images").glob("[!.]*"))) == N_SAVED)
        end = (
            run_dir / journal.END_NAME
        ).read_bytes()  # first: a kill leaves it behind the journal, not ahead
        shutil.copytree(run_dir, flow.run_dir, ignore=shutil.ignore_patterns(".*", journal.END_NAME))
        (flow.run_dir / journal.END_NAME).write_bytes(end)
        clock.speed_up()
        thread.join()
        assert len(flow.invoice()) == len(flow.table)
        yield flow


@pytest.fixture
def done(finished: Flow, tmp_path: Path) -> Flow:
    return finished.copied(tmp_path)


@pytest.fixture
def killed(half_done: Flow, tmp_path: Path) -> Flow:
    return half_done.copied(tmp_path)


def newest_journal(run_dir: Path) -> Path:
    return journal.path_of(run_dir, journal.numbers(run_dir)[-1])


# What is damaged, how, whether the next run heals it, and what `verify` says of it.
HEALS = {
    "checkpoint cut": (lambda d: cut(d / "checkpoint.parquet"), "checkpoint.parquet can't be read"),
    "checkpoint empty": (
        lambda d: (d / "checkpoint.parquet").write_bytes(b""),
        "checkpoint.parquet can't be read",
    ),
    "checkpoint deleted": (lambda d: (d / "checkpoint.parquet").unlink(), "checkpoint.parquet is missing"),
    "checkpoint of an older format": (
        lambda d: rewrite(d / "checkpoint.parquet", drop="metadata"),
        "checkpoint.parquet can't be read",
    ),
    "reserve cut": (
        lambda d: cut(d / "checkpoint-previous.parquet"),
        "checkpoint-previous.parquet can't be read",
    ),
    "journal torn": (
        lambda d: cut(newest_journal(d)),
        "",
    ),  # covered by the checkpoint, so nothing hangs on it
    "manifest deleted": (lambda d: (d / "run.json").unlink(), "run.json is missing"),
    "manifest cut": (lambda d: cut(d / "run.json"), "run.json is missing or can't be read"),
    "results deleted": (lambda d: (d / "results.parquet").unlink(), "results.parquet is missing"),
    "results cut": (lambda d: cut(d / "results.parquet"), "results.parquet can't be read"),
    "results altered": (
        lambda d: flip(d / "results.parquet", at=(d / "results.parquet").read_bytes().index(b"on a beach")),
        "results.parquet can't be read",
    ),
    "jobs deleted": (lambda d: (d / "jobs.parquet").unlink(), "it has no jobs.parquet"),
    "jobs cut": (lambda d: cut(d / "jobs.parquet"), "jobs.parquet can't be read"),
    "picture deleted": (lambda d: picture(d).unlink(), "is missing; run again to fetch it once more"),
    "picture cut": (lambda d: cut(picture(d)), "bytes, not the"),
    "every picture deleted": (lambda d: shutil.rmtree(d / "images"), "is missing"),
    "lock deleted": (lambda d: (d / "lock").unlink(), ""),
}


def cut(path: Path, n_bytes: int = 7) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


def flip(path: Path, at: int, bit: int = 16) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= bit
    path.write_bytes(content)


def picture(run_dir: Path) -> Path:
    return min((run_dir / "images").iterdir())


def rewrite(path: Path, drop: str) -> None:
    """Write a checkpoint as some other version may have: without a column, and a note that fits."""
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([drop]), path)


@pytest.mark.parametrize("name", HEALS)
def test_damage_that_heals_is_reported_and_nothing_is_bought_again(done, finished, name):
    """`verify` names it, the next run mends it, and the invoice stays as it was."""
    damage, told = HEALS[name]
    damage(done.run_dir)

    found = dreamo.verify(done.run_dir)
    assert any(told in line for line in found) if told else found == []
    after = done.assert_finishes()
    undamaged = dreamo.load(finished.run_dir).assign(run_dir=after["run_dir"])  # all else is the same
    pd.testing.assert_frame_equal(after, undamaged)
    pd.testing.assert_frame_equal(after, dreamo.load(done.run_dir))


def without_ledger(run_dir: Path) -> None:
    for path in (*run_dir.glob("checkpoint*"), *run_dir.glob("journal*")):
        path.unlink()


def without_end(run_dir: Path) -> None:
    """Leave the directory as an older version, or a power failure, may: nothing says how far the journal was."""
    (run_dir / journal.END_NAME).unlink()


def newer(path: Path) -> None:
    """Rewrite a checkpoint as a version to come may: with a note that says more."""
    table, meta = read(path)
    write_checkpoint(path, to_state(table), [], meta)
    table = pq.read_table(path)
    note = json.loads(table.schema.metadata[b"dreamo_batch"].split(b" ", 1)[1])
    note |= {"schema": 99, "colour": "blue"}
    text = json.dumps(note).encode()
    sealed = b"%08x %b" % (zlib.crc32(text), text)
    pq.write_table(table.replace_schema_metadata({b"dreamo_batch": sealed}), path)


def newer_manifest(run_dir: Path) -> None:
    path = run_dir / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))


REFUSED = {
    "both checkpoints deleted": (
        lambda d: [path.unlink() for path in d.glob("checkpoint*")],
        LedgerDamaged,
        "is missing in .*no checkpoint covers it",
    ),
    "both checkpoints cut": (
        lambda d: [cut(path) for path in d.glob("checkpoint*")],
        LedgerDamaged,
        "is missing in .*no checkpoint covers it",
    ),
    "checkpoint cut and its journals deleted": (
        lambda d: (cut(d / "checkpoint.parquet"), [path.unlink() for path in d.glob("journal*")]),
        LedgerDamaged,
        "knows of 3 openings, the ledger only of 2",
    ),
    "ledger deleted": (without_ledger, LedgerDamaged, "shows earlier purchases"),
    "ledger and run.json deleted": (
        lambda d: (without_ledger(d), (d / "run.json").unlink()),
        LedgerDamaged,
        "shows earlier purchases",
    ),
    "only pictures left": (
        lambda d: (without_ledger(d), [(d / n).unlink() for n in ("run.json", "results.parquet")]),
        LedgerDamaged,
        "shows earlier purchases",
    ),
    "checkpoint of a newer format": (
        lambda d: newer(d / "checkpoint.parquet"),
        DirectoryError,
        "newer version of dreamo_batch",
    ),
    "run.json of a newer format": (newer_manifest, DirectoryError, "newer version of dreamo_batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_damage_that_could_hide_purchases_is_refused(done, name):
    """Nothing is bought, the message says why, `verify` says the same, and the directory is not left locked."""
    damage, error, text = REFUSED[name]
    damage(done.run_dir)
    files = sorted(path.name for path in done.run_dir.iterdir())
    invoice = done.invoice()

    for _ in range(2):
        with pytest.raises(error, match=text):
            done.run()

    assert done.invoice() == invoice
    assert dreamo.verify(done.run_dir)
    assert not RunDirectory(done.run_dir).is_locked()
    assert {*files, "lock"} == {path.name for path in done.run_dir.iterdir()} | {"lock"}


def test_an_uncovered_journal_that_is_gone_or_altered_is_refused(killed):
    """A kill leaves a journal that only it holds; without it, or with a bit flipped, nothing is bought."""
    path, invoice = newest_journal(killed.run_dir), killed.invoice()
    content = path.read_bytes()
    chance = random.Random(3)
    for at in chance.sample(range(len(content) - 1), N_FLIPS):
        altered = bytearray(content)
        altered[at] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(altered))
        assert any("wrong checksum" in line for line in dreamo.verify(killed.run_dir))
        with pytest.raises(LedgerDamaged, match="wrong checksum"):
            killed.run()
    path.unlink()
    with pytest.raises(LedgerDamaged, match=r"is missing in .*no checkpoint covers it"):
        killed.run()
    (killed.run_dir / journal.END_NAME).unlink()
    with pytest.raises(LedgerDamaged, match="shows earlier purchases"):
        killed.run()
    assert killed.invoice() == invoice


def test_the_last_journal_cut_anywhere_is_noticed(half_done, tmp_path):
    """Whatever was on the disk once and is gone, also where neither picture nor results show it, nothing is bought."""
    killed = half_done.copied(tmp_path)
    path, invoice = newest_journal(killed.run_dir), killed.invoice()
    for picture_path in (killed.run_dir / "images").iterdir():
        picture_path.unlink()
    content = path.read_bytes()
    end = journal.read_end(killed.run_dir)
    assert 0 < end.n_bytes <= len(content)
    step = 1 if IS_LONG else 97
    for at in (*range(0, end.n_bytes, step), end.n_bytes - 1):
        path.write_bytes(content[:at])
        with pytest.raises(LedgerDamaged, match=r"bytes at its end\. They may record purchases"):
            dreamo.plan(killed.table, killed.run_dir)
    with pytest.raises(LedgerDamaged, match=r"deleting journal\.end and passing .* accepts the loss"):
        killed.run()
    assert any("bytes at its end" in line for line in dreamo.verify(killed.run_dir))
    path.write_bytes(content + b'{"crc":"')  # what a kill in the middle of a write leaves is no loss
    assert set(dreamo.plan(killed.table, killed.run_dir)["action"]) <= {"reuse", "ambiguous", "in flight"}
    assert killed.invoice() == invoice


@pytest.mark.parametrize("note", [b"", b"000000000009 0000000000000099 00000000\n", b"\xff" * 39])
def test_a_note_of_the_end_that_can_not_be_read_says_nothing(killed, note):
    """It only ever adds a doubt; without it the ledger is what its lines say."""
    (killed.run_dir / journal.END_NAME).write_bytes(note)
    assert journal.read_end(killed.run_dir) is None
    assert set(dreamo.plan(killed.table, killed.run_dir)["action"]) <= {"reuse", "ambiguous", "in flight"}


def test_a_journal_torn_at_any_byte_hides_no_attempt_it_still_shows(half_done, tmp_path):
    """Cut anywhere, what the journal or a picture still shows as sent is never planned as new again."""
    killed = half_done.copied(tmp_path)
    without_end(killed.run_dir)
    path = newest_journal(killed.run_dir)
    content = path.read_bytes()
    job_ids = dreamo.plan(killed.table, killed.run_dir)["job_id"]
    step = 1 if IS_LONG else 97
    for at in range(len(content), 0, -step):
        path.write_bytes(content[:at])
        planned = dreamo.plan(killed.table, killed.run_dir)["action"]
        sent = {json.loads(line).get("job") for line in content[:at].split(b"\n")[:-1]}
        assert set(planned[job_ids.isin(sent)]) <= {"reuse", "ambiguous", "in flight"}


def test_a_run_on_a_torn_journal_buys_nothing_that_any_file_shows(half_done, tmp_path):
    """It goes on with a warning, or refuses where a saved picture tells of an attempt that the journal lost."""
    content = newest_journal(half_done.run_dir).read_bytes()
    invoice = half_done.invoice()
    n_healed = n_refused = 0
    last_sent = content.rindex(b'"kind":"sending"')
    chance = random.Random(7)
    cuts = [len(content) - 1, *(chance.randrange(1, len(content)) for _ in range(N_CUTS))]
    for i, at in enumerate(cuts):
        killed = half_done.copied(tmp_path / str(i))
        without_end(killed.run_dir)
        newest_journal(killed.run_dir).write_bytes(content[:at])
        saved = {path.stem for path in (killed.run_dir / "images").iterdir()}
        sent = {json.loads(line).get("job") for line in content[:at].split(b"\n")[:-1]}
        if not saved <= sent:
            with pytest.raises(
                LedgerDamaged, match=r"images/\w+\.\w+ in .* shows a purchase|shows earlier purchases"
            ):
                killed.run()
            n_refused += 1
        elif at > content.index(
            b"\n", last_sent
        ):  # every attempt is there; else what no file shows is bought
            assert any("dropped" in line for line in dreamo.verify(killed.run_dir)) or content[at - 1] == 10
            done = killed.run()
            assert set(done["status"]) <= {"completed", "ambiguous"}
            n_healed += 1
    assert half_done.invoice()[: len(invoice)] == invoice
    assert len(half_done.invoice()) == len(invoice)
    assert n_healed
    assert n_refused


READERS = (dreamo.load, dreamo.status, dreamo.attempts, dreamo.costs, dreamo.verify)


@pytest.mark.parametrize("source", ["finished", "half_done"])
def test_any_file_damaged_anyhow_buys_nothing_that_another_file_shows(source, request, tmp_path):
    """Every call reads, heals or refuses in words; and no row is bought again that any surviving file shows."""
    flow, chance = request.getfixturevalue(source), random.Random(23)
    job_of = dict(zip(flow.table["seed"], dreamo.plan(flow.table, flow.run_dir)["job_id"], strict=True))
    files = sorted(path.relative_to(flow.run_dir) for path in flow.run_dir.rglob("*") if path.is_file())
    for number in range(N_ANY):
        damaged = flow.copied(tmp_path / str(number))
        path = damaged.run_dir / chance.choice(files)
        how = damage_anyhow(path, chance)
        shown, before = shown_as_bought(damaged.run_dir, job_of.values()), len(flow.invoice())
        for do in (
            *READERS,
            lambda run_dir: dreamo.plan(flow.table, run_dir),
            lambda _, d=damaged: d.run(adopt_copy=True),
        ):
            try:
                with suppress(dreamo.DreamoError):
                    do(damaged.run_dir)
            except Exception as error:
                raise AssertionError(f"{path.name}, {how}: {type(error).__name__}") from error
        bought = {job_of[line["seed"]] for line in flow.invoice()[before:]}
        assert not bought & shown, f"{path.name}, {how}"
        shutil.rmtree(tmp_path / str(number))


def damage_anyhow(path: Path, chance: random.Random) -> str:
    """Flip a bit of a file, or cut it, and say what was done."""
    content = path.read_bytes()
    at = chance.randrange(len(content)) if content else 0
    if chance.random() < 0.5 and content:
        flip(path, at, 1 << chance.randrange(8))
        return f"flipped at {at}"
    path.write_bytes(content[:at])
    return f"cut at {at}"


def shown_as_bought(run_dir: Path, job_ids: Iterable[str]) -> set[str]:
    """Find the jobs that a picture is named by, or that a ledger or the results write of."""
    written = b"".join(
        path.read_bytes() for name in ("journal-*", "checkpoint*", "results*") for path in run_dir.glob(name)
    )
    pictures = {path.stem for path in (run_dir / "images").iterdir()}
    return {job_id for job_id in job_ids if job_id in pictures or job_id.encode() in written}


def test_whole_lines_lost_at_the_end_of_an_earlier_journal_are_noticed(killed):
    """Each journal is chained to the one before, so that its end can't go missing quietly."""
    path = newest_journal(killed.run_dir)
    lines = path.read_bytes().splitlines(keepends=True)
    invoice = killed.invoice()
    with (
        dreamo.LocalGateway(engine="flat") as elsewhere,
        Client(api_key="none", base_url=elsewhere.base_url) as client,
        pytest.raises(dreamo.RunStopped),
    ):
        killed.run(gateway=None, client=client)  # opens and leaves, without an answer to its polls
    for checkpoint_path in killed.run_dir.glob("checkpoint*"):
        checkpoint_path.unlink()
    path.write_bytes(b"".join(lines[:-3]))
    with pytest.raises(LedgerDamaged, match="has lost lines at its end"):
        killed.run()
    assert killed.invoice() == invoice


def test_a_moved_run_directory_works(done, tmp_path):
    """Paths in it are its own, so another place is as good."""
    invoice = done.invoice()
    target = tmp_path / "elsewhere" / "again"
    target.parent.mkdir()
    done.run_dir.rename(target)
    done.run_dir = target
    assert dreamo.verify(target) == []
    assert done.assert_finishes()["status"].eq("completed").all()
    assert done.invoice() == invoice


def test_a_copied_run_directory_is_read_but_submits_only_when_asked(tmp_path):
    """What the original submits meanwhile could be paid twice; nothing to submit is nothing to ask for."""
    with dreamo.LocalGateway(engine="flat") as gateway:
        flow = Flow(tmp_path, gateway, n_rows=6)
        flow.run(flow.table.head(3))
        copied = flow.copied(tmp_path / "copied")
        assert dreamo.load(copied.run_dir)["status"].eq("completed").all()
        assert copied.run(flow.table.head(3))["status"].eq("completed").all()
        for _ in range(2):
            with pytest.raises(DirectoryError, match="adopt_copy=True"):
                copied.run()
        assert len(flow.invoice()) == 3
        assert plan.copy_warning() in dreamo.plan(flow.table, copied.run_dir).warnings()
        assert plan.copy_warning() not in dreamo.plan(flow.table, flow.run_dir).warnings()
        copied.run(flow.table.head(4), adopt_copy=True)
        assert plan.copy_warning() not in dreamo.plan(flow.table, copied.run_dir).warnings()
        assert len(flow.invoice()) == 4
        copied.assert_finishes()


def emptied(run_dir: Path) -> None:
    for path in run_dir.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("remove", [shutil.rmtree, emptied])
def test_an_older_backup_put_in_place_of_a_run_directory_is_a_copy(tmp_path, remove):
    """Also where the file system gives new folders and files the numbers of deleted ones."""
    with dreamo.LocalGateway(engine="flat") as gateway:
        flow = Flow(tmp_path, gateway, n_rows=4)
        flow.run(flow.table.head(2))
        backup = flow.copied(tmp_path / "backup").run_dir
        flow.run()
        remove(flow.run_dir)
        shutil.copytree(backup, flow.run_dir, dirs_exist_ok=True)
        assert plan.copy_warning() in dreamo.plan(flow.table, flow.run_dir).warnings()
        for _ in range(2):
            with pytest.raises(DirectoryError, match="adopt_copy=True"):
                flow.run()
        assert len(flow.invoice()) == 4


def test_pictures_from_memory_are_found_again_in_a_moved_directory(tmp_path, finished):
    """Reference pictures kept in the run directory are sent from where it is now, by `retry` too."""
    flow = Flow(tmp_path, finished.gateway, n_rows=2)
    flow.table["image"] = [picture_bytes("PNG", (64, 64))] * 2
    flow.gateway.faults.script("create", "error_code_message")
    first = flow.run()
    assert "failed" in set(first["status"])
    (kept,) = (flow.run_dir / "inputs").iterdir()
    content = kept.read_bytes()
    for write, what in (
        (kept.unlink, "is missing"),
        (lambda: kept.write_bytes(b"other"), "is not the picture that was kept"),
    ):
        write()
        assert dreamo.verify(flow.run_dir) == [f"inputs/{kept.name} {what}; rows not submitted yet need it"]
    kept.write_bytes(content)
    moved = tmp_path / "moved"
    flow.run_dir.rename(moved)
    flow.run_dir = moved
    (moved / "inputs" / kept.name).unlink()
    assert dreamo.verify(moved) == [f"inputs/{kept.name} is missing; rows not submitted yet need it"]
    (moved / "inputs" / kept.name).write_bytes(content)
    done = dreamo.retry(moved, gateway=flow.gateway, progress=False)
    assert done["status"].tolist() == ["completed"] * 2
    flow.assert_money_adds_up()


def test_a_picture_altered_is_reported_and_fetched_again_once_it_is_deleted(done):
    """A picture of the same size is only told apart by its hash; the ledger's own bytes come back."""
    path = picture(done.run_dir)
    flip(path, at=30)
    assert dreamo.verify(done.run_dir) == [
        f"images/{path.name} is not the picture that was saved; delete it and run again"
    ]
    path.unlink()
    done.assert_finishes()


def test_a_picture_nobody_submitted_is_reported_and_refused(done):
    """A file named as a picture of a job that the ledger does not know may be a purchase it has lost."""
    invoice = done.invoice()
    stray = done.run_dir / "images" / f"{'0' * 32}.jpg"
    stray.write_bytes(b"")
    (done.run_dir / "images" / "notes.txt").write_text("mine")
    assert dreamo.verify(done.run_dir) == [
        f"images/{stray.name} shows a purchase that the ledger doesn't have; nothing more is bought here"
    ]
    with pytest.raises(LedgerDamaged, match=stray.name):
        done.run()
    stray.unlink()
    done.assert_finishes()
    assert done.invoice() == invoice


WRITER = """
import sys
import dreamo_batch as dreamo
table = dreamo.read_table(sys.argv[1])
dreamo.run  # loaded now, so that what follows is quick
print("ready", flush=True)
sys.stdin.readline()
try:
    dreamo.run(table, sys.argv[2], base_url=sys.argv[3], api_key=sys.argv[4], progress=False)
except dreamo.DirectoryLocked as error:
    print(error)
"""


@contextmanager
def another_process(flow: Flow) -> Iterator[Callable[[], str]]:
    """Another process that runs the same table when told, and what it prints."""
    csv = flow.run_dir.parent / "jobs.csv"
    dreamo.write_table(flow.table, csv)
    gateway = (flow.gateway.base_url, flow.gateway.api_key)
    command = [sys.executable, "-c", WRITER, str(csv), str(flow.run_dir), *gateway]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "ready\n"

        def go() -> str:
            stdout, stderr = process.communicate("go\n", timeout=60)
            assert process.returncode == 0, stderr
            return stdout

        yield go


class Background:
    """A run in a thread, and how it ended."""

    def __init__(self, flow: Flow, **options: object) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(flow, options))
        self._thread.start()
        until(lambda: len(flow.invoice()) > 0)

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _work(self, flow: Flow, options: dict) -> None:
        try:
            flow.run(**options)
        except dreamo.DreamoError as error:
            self.error = error


@pytest.fixture
def clock() -> Slow:
    return Slow()


@pytest.fixture
def slow(tmp_path: Path, clock: Slow) -> Iterator[Flow]:
    """A run of eight rows that goes on until the test speeds it up."""
    with dreamo.LocalGateway(engine="flat", latency="fixed:1000", clock=clock) as gateway:
        yield Flow(tmp_path, gateway, n_rows=8)


def test_a_second_writer_is_refused_and_buys_nothing(slow, clock):
    """Another process names the first one and leaves; the first one finishes."""
    with another_process(slow) as go:
        first = Background(slow, max_in_flight=1)
        assert "is writing to" in go()
    clock.speed_up()
    first.join()
    assert first.error is None
    slow.assert_finishes()


def test_a_lock_deleted_under_a_run_lets_two_writers_buy_nothing_twice(slow, clock):
    """The first one notices before it attempts anything more; the second one takes over what was submitted."""

    def speed_up_once_the_second_submits() -> None:
        until(lambda: len(slow.invoice()) > 2)
        clock.speed_up()

    with another_process(slow) as go:
        first = Background(slow, max_in_flight=2)
        until(lambda: len(slow.invoice()) == 2)
        (slow.run_dir / "lock").unlink()
        speeding = threading.Thread(target=speed_up_once_the_second_submits)
        speeding.start()
        assert go() == ""
        speeding.join()
    first.join()
    assert isinstance(first.error, dreamo.StorageFailed)
    assert "moved or deleted" in str(first.error)
    slow.assert_bought_once()
    slow.run()
    slow.assert_money_adds_up()
    assert len(slow.invoice()) == len(slow.table)


def test_readers_never_fail_while_a_run_compacts(slow, clock, monkeypatch):
    """`load` and `status` give the whole table at every moment, whatever is being replaced."""
    monkeypatch.setattr("dreamo_batch.engine.ledger._EVENTS_BEFORE_CHECKPOINT", 1)
    first = Background(slow, max_in_flight=8)
    n_looks = 0
    seen = set()
    while first._thread.is_alive():
        table, counts = dreamo.load(slow.run_dir), dreamo.status(slow.run_dir)
        assert len(table) == counts["rows"] == len(slow.table)
        seen |= set(table["status"])
        if "in_progress" in seen:
            clock.speed_up()
        n_looks += 1
    first.join()
    assert first.error is None
    assert n_looks > 1
    assert "in_progress" in seen
    slow.assert_finishes()


class JumpingClock:
    """A wall clock that is set forth and back all the time; intervals are measured by another."""

    def __init__(self) -> None:
        self._chance = random.Random(11)

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time() + self._chance.choice((0, -3600, 3600, -1e8, 1e8))


def test_a_wall_clock_that_jumps_loses_and_repeats_nothing(slow, clock, monkeypatch):
    """Intervals don't hang on the wall clock; a latency that can't be is missing, not negative."""
    clock.speed_up()
    monkeypatch.setattr("dreamo_batch.call.SystemClock", JumpingClock)
    options = RunOptions()
    for n_rows in (3, len(slow.table)):
        directory = RunDirectory(slow.run_dir)
        entropy = peek_entropy(directory) or new_entropy()
        table = slow.table.head(n_rows)
        prepared = prepare(table, CheckOptions(inputs=Inputs(directory.inputs)), entropy=entropy)
        with Client(api_key=slow.gateway.api_key, base_url=slow.gateway.base_url) as client:
            task = CallInputs(table, prepared, options)
            service = Service(client=client)
            call = Call(directory, task, entropy, service)
            call.begin(lambda _: None)
            call.release()  # as whoever shows its warnings does
            assert call.runner.is_closed.wait(60)
        assert call.runner.error is None
        assert set(call.results["status"]) == {"completed"}
        assert not (call.results["latency_s"] < 0).any()
    slow.assert_finishes()
