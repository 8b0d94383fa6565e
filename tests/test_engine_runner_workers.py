"""I/O workers: every piece of work comes back as one message, whatever becomes of it."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from typing import ClassVar

import pytest

from dreamo_batch.engine.runner import Workers
from dreamo_batch.errors import DreamoError
from tests.flows import PATIENCE_S


@pytest.fixture
def workers():
    pool = Workers(4)
    yield pool
    pool.stop()
    for thread in pool.threads:
        thread.join(5)
        assert not thread.is_alive()


def test_a_limit_on_threads_is_reported_and_ends_those_that_began(monkeypatch):
    """The message says which limits to raise, and what else helps."""
    begun = []

    class Limited(threading.Thread):
        def start(self):
            if len(begun) == 2:
                raise RuntimeError("can't start new thread")
            begun.append(self)
            super().start()

    monkeypatch.setattr("dreamo_batch.engine.runner.threading.Thread", Limited)
    with pytest.raises(DreamoError, match=r"can't start new thread.*ulimit -u.*max_in_flight"):
        Workers(4)
    for thread in begun:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_every_result_comes_back_once(workers):
    """As many messages as pieces of work."""
    for number in range(200):
        workers.do(lambda number=number: number)
    assert sorted(workers.mailbox.get(timeout=5) for _ in range(200)) == list(range(200))
    assert workers.mailbox.empty()


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_an_exception_is_a_message_too(workers, error):
    """Nothing vanishes with a thread, and the thread goes on."""

    def fail():
        raise error

    for _ in range(8):
        workers.do(fail)
        assert workers.mailbox.get(timeout=5) is error
    workers.do(lambda: "still here")
    assert workers.mailbox.get(timeout=5) == "still here"


def test_an_exception_between_two_pieces_of_work_is_a_message(monkeypatch):
    """Thrown into a thread as it takes its work: the piece is told of, and the threads go on."""

    class Torn(queue.Queue):
        errors: ClassVar = [MemoryError(), KeyboardInterrupt()]

        def get(self):
            work = super().get()
            if self.errors:
                raise self.errors.pop()
            return work

    mailbox = queue.SimpleQueue()
    monkeypatch.setattr(queue, "SimpleQueue", Torn)
    pool = Workers(2, mailbox)
    for _ in range(3):
        pool.do(lambda: "done")
    messages = [mailbox.get(timeout=5) for _ in range(3)]
    assert {type(one) for one in messages} == {MemoryError, KeyboardInterrupt, str}
    Torn.errors.append(MemoryError())
    for _ in range(2):  # the first loses one
        pool.stop()
    for thread in pool.threads:
        thread.join(5)
        assert not thread.is_alive()
    assert isinstance(mailbox.get(timeout=5), MemoryError)


def test_work_is_done_side_by_side(workers):
    """As many at once as there are workers."""
    barrier = threading.Barrier(4)
    for _ in range(4):
        workers.do(lambda: barrier.wait(5) >= 0)
    assert [workers.mailbox.get(timeout=5) for _ in range(4)] == [True] * 4


def test_stopping_lets_work_end(workers):
    """What was given before the stop is still done and told."""
    gate = threading.Event()
    workers.do(lambda: gate.wait(5))
    workers.stop()
    gate.set()
    assert workers.mailbox.get(timeout=5) is True


def test_workers_never_keep_the_process_alive(workers):
    """A request stuck in the network must not keep an interpreter from ending."""
    assert all(thread.daemon for thread in workers.threads)


def test_an_idle_worker_holds_no_picture(workers):
    """What a piece of work was given goes when it is done, not when the next one comes."""

    class Picture:
        pass

    content = Picture()
    watch = weakref.ref(content)
    workers.do(lambda content=content: content is not None)
    assert workers.mailbox.get(timeout=5) is True
    del content
    for _ in range(100):
        gc.collect()
        if watch() is None:
            break
        threading.Event().wait(0.01)
    assert watch() is None
