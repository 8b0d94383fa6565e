"""The log with one writer: simulated histories, and each deliberate mistake found by them."""

from __future__ import annotations

import os
import subprocess

import pytest

from dreamo_batch.engine.store import STILL_S, Fenced, FencedLog, Owner, Taken, read_log
from dreamo_batch.errors import LedgerDamaged
from tests.simulated_store import Unconditional, Writer, simulate

# Other tests reach the same lines; measuring these would double their time.
pytestmark = pytest.mark.no_cover

IS_LONG = bool(os.environ.get("DREAMO_CHAOS"))
N_HISTORIES = 25_000 if IS_LONG else 2_000


class CompactsBarriers(FencedLog):
    def open(self):
        found = super().open()
        self._kinds[self.last] = "commit"
        self._kinds |= dict.fromkeys(found.slots, "commit")
        return found


class LooksOnce(FencedLog):
    def _is_newest(self, _covers):
        return True


class GoesOnAfterDoubt(FencedLog):
    def _put_at(self, number, written):
        try:
            self._store.put_new(f"log/{number:012d}", written)
        except Taken:
            super()._put_at(number, written)
        except OSError:
            self._put_at(number + 1, written)
        else:
            self.last = number


class TakesTakenForOwn(FencedLog):
    def _is_put(self, number, written):
        for _ in range(6):
            try:
                self._store.put_new(f"log/{number:012d}", written)
            except Taken:
                return True
            except OSError:
                continue
            return True
        raise OSError


@pytest.mark.parametrize("mistaken", [CompactsBarriers, LooksOnce, GoesOnAfterDoubt, TakesTakenForOwn])
def test_a_deliberate_mistake_replaces_what_the_log_has(mistaken):
    """One that replaces nothing makes no mistake."""
    made = [name for name, one in vars(mistaken).items() if callable(one)]
    assert made
    assert all(hasattr(FencedLog, name) for name in made)


def mutant(**changes):
    return type("Mutant", (Writer,), changes)


MUTANTS = {
    "barriers compacted away": (mutant(log_class=CompactsBarriers), 5_000),
    "no second look after the barrier": (mutant(log_class=LooksOnce), 5_000),
    "next slot after an unknown answer": (mutant(log_class=GoesOnAfterDoubt), 5_000),
    "already exists taken as ours": (mutant(log_class=TakesTakenForOwn), 500),
    "unconditional put": (mutant(store_class=Unconditional), 500),
    "successor sends again": (mutant(sends_again=True), 500),
    "sends before the commit": (mutant(sends_first=True), 500),
}


@pytest.mark.slow
@pytest.mark.timeout(3600 if IS_LONG else 600)
def test_nothing_is_sent_twice_and_nothing_acknowledged_is_lost(capsys):
    """Two to seven writers take over from each other at any moment, and the store loses, delays and lies."""
    in_doubt = 0
    for seed in range(N_HISTORIES):
        wrong, n = simulate(seed)
        assert wrong == [], seed
        in_doubt += n
    with capsys.disabled():
        print(f"\n{N_HISTORIES:,} histories, {in_doubt / N_HISTORIES:.2f} of 8 paid jobs left in doubt")


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_each_deliberate_mistake_is_found(name):
    """The simulation sees what each rule of the log is for."""
    writer, n_max = MUTANTS[name]
    assert any(simulate(seed, writer)[0] for seed in range(n_max))


@pytest.mark.slow
def test_answers_beside_the_log_settle_what_a_fenced_writer_has_sent():
    """Without them, many more jobs that were paid for stay in doubt."""
    without = mutant(has_strays=False)
    n = 300
    assert sum(simulate(seed)[1] for seed in range(n)) < 0.75 * sum(
        simulate(seed, without)[1] for seed in range(n)
    )


class Memory:
    """A store that does what it is asked."""

    def __init__(self):
        self.objects = {}
        self.n_asked_together = 0

    def get(self, name):
        return self.objects.get(name)

    def put(self, name, content):
        self.objects[name] = content

    def put_new(self, name, content):
        if name in self.objects:
            raise Taken(name)
        self.objects[name] = content

    def get_each(self, names):
        self.n_asked_together += len(names)
        return [self.objects.get(name) for name in names]

    def names(self, prefix):
        return sorted(name for name in self.objects if name.startswith(prefix))

    def delete(self, names):
        for name in list(names):
            self.objects.pop(name, None)


ELSEWHERE = Owner(1, "elsewhere", "another boot", "namespace")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


def log_on(store, clock=None, **options):
    clock = clock or Clock()
    return FencedLog(store, ELSEWHERE, pause=clock.wait, clock=clock, **options)


def test_what_was_committed_is_read_back_in_order():
    store = Memory()
    with_log = log_on(store)
    assert with_log.open().commits == []
    for content in (b"one", b"", b"three\nlines\n"):
        with_log.commit(content)
    with_log.close()
    assert read_log(store).commits == [b"one", b"", b"three\nlines\n"]
    assert read_log(store).owner is None


def test_a_long_log_is_read_many_objects_at_a_time():
    """One after another they would take minutes, at tens of milliseconds each."""
    store = Memory()
    log = log_on(store)
    log.open()
    for _ in range(50):
        log.commit(b"x")
    assert len(read_log(store).commits) == 50
    assert store.n_asked_together == 51  # with the barrier


def test_a_writer_that_was_taken_over_can_do_nothing_more():
    store = Memory()
    first, second = log_on(store), log_on(store)
    first.open()
    first.commit(b"one")
    assert second.open().commits == [b"one"]
    for do in (lambda: first.commit(b"two"), first.close, lambda: first.commit(b"two")):
        with pytest.raises(Fenced):
            do()
    assert first.is_fenced
    second.commit(b"three")
    assert read_log(store).commits == [b"one", b"three"]


def test_two_checkpoints_are_kept_and_what_they_cover_goes_but_barriers():
    store = Memory()
    log = log_on(store)
    log.open()
    for number in range(3):
        for _ in range(4):
            log.commit(b"x")
        log.checkpoint(b"state %d" % number, log.last)
    assert len(store.names("checkpoints/")) == 2
    numbers = [int(name[4:]) for name in store.names("log/")]
    assert numbers == [1, 10, 11, 12, 13]  # the barrier, and what only the newest checkpoint covers
    found = log_on(store).open()
    assert (found.checkpoint, found.covers, found.commits) == (b"state 2", 13, [])


def test_a_successor_waits_until_the_log_stands_still():
    """By its own clock; a writer that has closed is not waited for."""
    store, clock, asked = Memory(), Clock(), []
    owner = log_on(store, clock)
    assert owner.wait_until_free(asked.append) is None
    owner.open()
    assert log_on(store, clock).wait_until_free(asked.append) is None
    assert (asked, clock.now >= STILL_S) == ([ELSEWHERE], True)

    def pause(seconds):
        clock.wait(seconds)
        owner.beat()

    watching = FencedLog(store, pause=pause, clock=clock)
    assert watching.wait_until_free(asked.append) == ELSEWHERE
    owner.close()
    assert watching.wait_until_free(asked.append) is None
    assert asked == [ELSEWHERE, ELSEWHERE]


def test_an_owner_that_is_known_to_have_ended_is_not_waited_for(monkeypatch):
    """Process ids say nothing across machines, boots and containers, which may share a host's name."""
    here = Owner(os.getpid(), "host", "boot", "namespace")
    monkeypatch.setattr(Owner, "here", lambda: here)
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert here._replace(pid=ended.pid).has_ended()
    assert here.has_ended()  # an earlier call of this process
    assert not here._replace(pid=os.getppid()).has_ended()
    for other in ({"host": "another"}, {"boot": "another"}, {"namespace": "another"}):
        assert not here._replace(pid=ended.pid, **other).has_ended()
    store, asked = Memory(), []
    FencedLog(store).open()
    assert read_log(store).owner == here
    assert FencedLog(store).wait_until_free(asked.append) is None
    assert not asked
    here = here._replace(namespace="")  # unknown
    assert not here.has_ended()


def test_a_store_that_says_nothing_stops_the_writer():
    """Nobody knows whether the commit arrived, so it writes nothing more; its successor finds out."""

    class Silent(Memory):
        is_silent = False

        def put_new(self, name, content):
            if self.is_silent:
                raise OSError("no route")
            super().put_new(name, content)

        def get(self, name):
            if self.is_silent:
                raise OSError("no route")
            return super().get(name)

    store = Silent()
    log = log_on(store)
    log.open()
    store.is_silent = True
    with pytest.raises(OSError, match="no route"):
        log.commit(b"one")
    assert not log.is_fenced
    store.is_silent = False
    with pytest.raises(OSError, match="may have arrived or not"):
        log.commit(b"two")
    assert log_on(store).open().commits == []


def test_a_damaged_slot_is_reported():
    store = Memory()
    log_on(store).open()
    store.objects["log/000000000001"] = b"nonsense"
    with pytest.raises(LedgerDamaged, match="an object of the log is damaged"):
        read_log(store)


def test_what_other_programs_put_beside_the_log_is_left_alone():
    """Such as the mark of a folder, or a note; it is no object of the log, and none is missing before it."""
    store, foreign = (
        Memory(),
        [f"{folder}/{name}" for folder in ("checkpoints", "log") for name in ("", "README")],
    )
    for name in foreign:
        store.put(name, b"")
    log = log_on(store)
    for number in range(3):
        log.open()
        log.commit(b"%d" % number)
        log.checkpoint(b"state", log.last)
    assert read_log(store).checkpoint == b"state"
    assert set(foreign) <= set(store.names(""))


@pytest.mark.parametrize("gone", ["first", "middle", "checkpoints"])
def test_a_log_that_lost_objects_is_not_taken_for_a_shorter_one(gone):
    """What was committed behind the gap was bought, and what was before it may have been."""
    store = Memory()
    log = log_on(store)
    log.open()
    for number in range(3):
        log.commit(b"%d" % number)
    if gone == "checkpoints":
        log.checkpoint(b"state", log.last)
        log.commit(b"3")
        log.checkpoint(b"state", log.last)
    lost = {"first": ["log/000000000001"], "middle": ["log/000000000003"]}
    store.delete(lost.get(gone, store.names("checkpoints/")))
    for read in (lambda: read_log(store), log_on(store).open):
        with pytest.raises(LedgerDamaged, match=r"log/00000000000\d is missing, although later objects"):
            read()
