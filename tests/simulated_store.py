"""A store with lost, late and falsely answered requests, shared by writers that are paused and killed anywhere.

Each writer is a thread, and only the one whose turn it is runs; a turn ends at each request to the store, at each wait
and at each create. So one seed makes one history.
"""

from __future__ import annotations

import _thread
import json
import random
from collections import defaultdict

from dreamo_batch.engine.store import Fenced, FencedLog, Taken
from dreamo_batch.errors import LedgerDamaged

JOBS = tuple("abcdefgh")
P_FAULT = 0.12
P_KILL = 0.01


def held_lock():
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


class Killed(BaseException):
    """The process of a writer is gone."""


class World:
    """The store, the service, and whose turn it is, which a request passes on with a probability of `p_turn`."""

    p_turn = 1.0
    p_kill = P_KILL
    p_pause = 0.02

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.objects = {}
        self.late = []
        self.posts = defaultdict(list)
        self.acknowledged = []
        self.damage = []
        self.has_faults = True
        self.over = held_lock()

    def run(self, writers):
        """Let writers begin one after another and take turns until all have ended."""
        self.waiting, self.running = list(writers), []
        self.draw().release()
        self.over.acquire()

    def draw(self):
        """Return the lock that whoever is next waits at: a writer, or `run` once all have ended."""
        while self.waiting or self.running:
            if self.late and self.chance.random() < 0.1:
                self.apply(*self.late.pop(self.chance.randrange(len(self.late))))
            if self.waiting and (not self.running or self.chance.random() < 0.06):
                self.running.append(Turn(self, self.waiting.pop()))
            turn = self.chance.choice(self.running)
            if not turn.pause:
                return turn.go
            turn.pause -= 1
        return self.over

    def apply(self, name, content):
        self.objects.setdefault(name, content)


class Turn:
    """A writer's thread, which runs only while it has the turn, and gives it to the next one itself."""

    def __init__(self, world, work):
        self.world = world
        self.go = held_lock()
        self.pause = 0
        _thread.start_new_thread(self._run, (work,))  # unlike Thread.start, without waiting for it

    def give_back(self, *_):
        """End the turn; the process may be killed or suspended meanwhile."""
        chance = self.world.chance
        if self.world.has_faults and chance.random() < self.world.p_pause:
            self.pause = chance.randrange(200)
        if self.world.has_faults and chance.random() < self.world.p_kill:
            raise Killed
        if not self.pause and chance.random() >= self.world.p_turn:
            return
        following = self.world.draw()
        if following is not self.go:
            following.release()
            self.go.acquire()

    def _run(self, work):
        self.go.acquire()
        try:
            work(self)
        except (Killed, Fenced, OSError):
            pass
        except LedgerDamaged as error:
            self.world.damage.append(f"the log was found damaged: {error}")
        finally:
            self.world.running.remove(self)
            self.world.draw().release()


class SimulatedStore:
    """The store as one writer meets it."""

    def __init__(self, turn):
        self.turn = turn
        self.world = turn.world

    def get(self, name):
        self.turn.give_back()
        self._fail("get")
        return self.world.objects.get(name)

    def get_each(self, names):
        return [self.get(name) for name in names]

    def names(self, prefix):
        self.turn.give_back()
        self._fail("list")
        return sorted(name for name in self.world.objects if name.startswith(prefix))

    def delete(self, names):
        for name in names:
            self.turn.give_back()
            self.world.objects.pop(name, None)

    def put(self, name, content):
        self.turn.give_back()
        self._fail("put")
        self.world.objects[name] = content

    def put_new(self, name, content):
        self.turn.give_back()
        fault = self._draw(("lost", "late", "answer lost", "false answer"))
        if fault == "lost":
            raise OSError(fault)
        if fault == "late":
            self.world.late.append((name, content))
            raise OSError(fault)
        is_free = name not in self.world.objects
        self.world.apply(name, content)
        if fault == "answer lost":
            raise OSError(fault)
        if not is_free or fault == "false answer":
            raise Taken(name)

    def _draw(self, faults):
        if self.world.has_faults and self.world.chance.random() < P_FAULT:
            return self.world.chance.choice(faults)
        return None

    def _fail(self, what):
        if self.world.has_faults and self.world.chance.random() < P_FAULT / 3:
            raise OSError(what)


class Unconditional(SimulatedStore):
    """A store that replaces an object although it was asked not to."""

    def put_new(self, name, content):
        fault_free = name in self.world.objects
        super().put_new(name, content) if not fault_free else self.put(name, content)


class Writer:
    """A run: takes the log over, submits what was never sent, and says what became of it."""

    log_class = FencedLog
    store_class = SimulatedStore
    has_strays = True
    sends_again = False
    sends_first = False

    def __call__(self, turn):
        self.turn, self.world = turn, turn.world
        self.store = self.store_class(turn)
        self.log = self.log_class(self.store, pause=turn.give_back, clock=float)
        self.state = fold(self.log.open())
        self.settle()
        for job in sorted(self.state):
            if self.state[job] == "sending":
                self.say(job, "ambiguous")
        left = [
            job
            for job in JOBS
            if job not in self.state or (self.sends_again and self.state[job] == "ambiguous")
        ]
        self.world.chance.shuffle(left)
        for number, job in enumerate(left):
            self.submit(job)
            if number % 3 == 2:
                self.log.checkpoint(json.dumps(self.state).encode(), self.log.last)
        self.settle()
        self.log.close()

    def submit(self, job):
        if not self.sends_first:
            self.say(job, "sending")
        self.turn.give_back()
        self.world.posts[job].append(self.log._nonce)
        try:
            if self.sends_first:
                self.say(job, "sending")
            self.say(job, "accepted")
        except OSError:
            if self.has_strays:
                self.store.put(f"strays/{self.log._nonce}", json.dumps([job, "accepted"]).encode())
            raise

    def settle(self):
        """Take in what writers that were fenced have put beside the log."""
        for name in self.store.names("strays/"):
            job, stage = json.loads(self.store.get(name))
            if self.state.get(job) in {"sending", "ambiguous"}:
                self.say(job, stage)

    def say(self, job, stage):
        content = json.dumps([job, stage]).encode()
        self.log.commit(content)
        self.world.acknowledged.append((job, stage))
        self.state[job] = stage


def fold(found):
    """Return the stage of each job."""
    state = json.loads(found.checkpoint) if found.checkpoint else {}
    return state | dict(map(json.loads, found.commits))


def simulate(seed, writer=Writer):
    """Run a history; return what went wrong, and how many jobs that were paid for are left in doubt."""
    world = World(seed)
    world.run([writer() for _ in range(world.chance.randint(2, 7))])
    world.has_faults = False
    ended = []

    def look(turn):
        ended.append(
            fold(writer.log_class(writer.store_class(turn), pause=turn.give_back, clock=float).open())
        )

    world.run([look])
    (state,) = ended or [{}]
    wrong = world.damage
    wrong += [f"{job} was sent {len(posts)} times" for job, posts in world.posts.items() if len(posts) > 1]
    wrong += [f"{job} was sent, and the log doesn't know" for job in world.posts if job not in state]
    wrong += [
        f"{job}: {stage} was acknowledged, and is lost"
        for job, stage in world.acknowledged
        if stage == "accepted" and state.get(job) != stage
    ]
    in_doubt = sum(state.get(job) in {"sending", "ambiguous"} for job in world.posts)
    return wrong, in_doubt
