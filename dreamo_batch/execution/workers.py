"""I/O workers: daemon threads that each make one request at a time and put its outcome in the mailbox."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Workers:
    """A pool of daemon threads and the mailbox they answer to.

    Daemons, so that a request stuck in the network never keeps the process alive; what must be waited for
    at exit is waited for by the runner.

    Examples
    --------
    >>> workers = Workers(2)
    >>> workers.do(lambda: "done")
    >>> workers.mailbox.get(timeout=5)
    'done'
    >>> workers.stop()
    """

    def __init__(self, n: int, mailbox: queue.SimpleQueue[Any] | None = None) -> None:
        self.n = n
        self.mailbox: queue.SimpleQueue[Any] = mailbox or queue.SimpleQueue()
        self._work: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._loop, name=f"dreamo-io-{i}", daemon=True) for i in range(n)
        ]
        for thread in self._threads:
            thread.start()

    def do(self, work: Callable[[], Any]) -> None:
        """Let a worker call `work`; what it returns, or the exception it raises, goes to the mailbox."""
        self._work.put(work)

    def stop(self) -> None:
        """Let each worker end after what it is doing; does not wait."""
        for _ in self._threads:
            self._work.put(None)

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                self.mailbox.put(work())
            except BaseException as error:  # noqa: BLE001 - a bug must reach the coordinator, not vanish with a thread
                self.mailbox.put(error)
            del work  # else an idle worker would keep a whole picture in memory
