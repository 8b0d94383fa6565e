"""Where the pictures are made: references fetched, engines run in threads, files written, the store told of it.

A picture is begun as soon as its task is accepted, so that it is there when the clock says that the task ends.
Everything here but the drawing itself happens on the gateway's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import queue
import secrets
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from dreamo_batch.local.engine import Engine, Order, Picture
from dreamo_batch.local.fetching import FetchFailed, fetch
from dreamo_batch.local.references import References, look_at
from dreamo_batch.service import parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dreamo_batch.local.pictures import Pictures
    from dreamo_batch.local.store import Store
    from dreamo_batch.local.tasks import Task

N_THREADS = 2
N_HELPERS = 4
FETCH_TIMEOUT_S = 10.0
INVALID, INTERNAL, UPSTREAM = "003011004", "003011095", "003011097"
SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}

T = TypeVar("T")
Work: TypeAlias = "Future[None] | asyncio.Task[None]"


class Threads:
    """Threads that take work until they are told to stop, also while the process ends.

    Those of `concurrent.futures` take none any more then, and a run that waits for its last answers would lose them.

    Parameters
    ----------
    n : int
        How many.
    name : str
        What they are called.

    Examples
    --------
    >>> threads = Threads(1, "example")
    >>> threads.submit(abs, -1).result()
    1
    >>> threads.shutdown()
    """

    def __init__(self, n: int, name: str) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._n = n
        for number in range(n):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def submit(self, do: Callable[..., T], *args: Any) -> Future[T]:
        """Have something done."""
        future: Future[T] = Future()
        self._work.put((future, partial(do, *args)))
        return future

    def shutdown(self) -> None:
        """End the threads; what has not begun is cancelled."""
        while not self._work.empty():
            with contextlib.suppress(queue.Empty):
                if (work := self._work.get_nowait()) is not None:
                    work[0].cancel()
        for _ in range(self._n):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, do = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(do())
            except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
                future.set_exception(error)


class Studio:
    """Makes the pictures of accepted tasks.

    Parameters
    ----------
    engine : Engine
        Draws them.
    store : Store
        Is told how it went.
    references : References
        The reference pictures.
    pictures : Pictures
        Where finished pictures go.

    Examples
    --------
    >>> SUFFIXES["image/jpeg"]
    '.jpg'
    """

    def __init__(self, engine: Engine, store: Store, references: References, pictures: Pictures) -> None:
        self._engine = engine
        self._store = store
        self._references = references
        self._pictures = pictures
        self._threads = Threads(N_THREADS, "gateway-studio")
        self._helpers = Threads(N_HELPERS, "gateway-helper")
        self._work: dict[str, Work] = {}
        self._fetches: dict[str, asyncio.Task[str]] = {}
        self._is_closed = False

    def begin(self, task: Task) -> None:
        """Begin the picture of a task.

        Parameters
        ----------
        task : Task
            As accepted, or as found by a restarted gateway.
        """
        if task.image_url is None:
            work: Work = self._threads.submit(self._draw, task, task.image)
        else:
            work = asyncio.get_running_loop().create_task(self._fetch_and_draw(task, task.image_url))
        self._work[task.task_id] = work
        work.add_done_callback(lambda _: self._work.pop(task.task_id, None))

    async def wait_for(self, task_ids: Iterable[str], patience_s: float) -> None:
        """Wait until pictures are made or have failed, but no longer than that.

        Parameters
        ----------
        task_ids : iterable of str
            The tasks; those that have ended already are no reason to wait.
        patience_s : float
            The longest wait in seconds.
        """
        work = [found for task_id in task_ids if (found := self._work.get(task_id))]
        if work:
            await asyncio.wait([_awaitable(one) for one in work], timeout=patience_s)

    def close(self) -> None:
        """Stop: what has not begun is left to the next start, what is being drawn is thrown away."""
        self._is_closed = True
        for work in (*self._work.values(), *self._fetches.values()):
            work.cancel()
        self._threads.shutdown()
        self._helpers.shutdown()

    async def in_thread(self, do: Callable[..., T], *args: Any) -> T:
        """Do something beside the event loop, and give its result."""
        return await asyncio.wrap_future(self._helpers.submit(do, *args))

    async def _fetch_and_draw(self, task: Task, url: str) -> None:
        try:
            digest = await self._fetched(url)
        except Exception as error:  # noqa: BLE001 - whatever it is, the task fails and the gateway goes on
            self._store.fail(task.task_id, *_told(error))
        else:
            await asyncio.wrap_future(self._threads.submit(self._draw, task, digest))

    async def _fetched(self, url: str) -> str:
        """Give the digest of what is at a URL; rows that share it fetch it once."""
        if url not in self._fetches:
            self._fetches[url] = asyncio.get_running_loop().create_task(self._fetch(url))
        try:
            return await asyncio.shield(self._fetches[url])
        except Exception:
            self._fetches.pop(url, None)
            raise

    async def _fetch(self, url: str) -> str:
        max_bytes = parameters.INPUT_BYTES_MAX.value
        content = await fetch(url, max_bytes=max_bytes, timeout_s=FETCH_TIMEOUT_S)
        look_at(content)
        digest = hashlib.sha256(content).hexdigest()
        self._references.keep(digest, content)
        return digest

    def _draw(self, task: Task, digest: str) -> None:
        order = Order(task.prompt, task.seed_drawn, task.width, task.height, task.use_rephraser)
        try:
            self._save(task, self._engine.generate(order, self._references.read(digest)))
        except Exception as error:  # noqa: BLE001 - whatever an engine trips over, the gateway goes on
            self._store.fail(task.task_id, *_told(error))

    def _save(self, task: Task, picture: Picture) -> None:
        if self._is_closed:
            return
        start = self._pictures.keep(picture.content)
        self._store.develop(
            task.task_id,
            picture=secrets.token_hex(16) + SUFFIXES.get(picture.media_type, ".bin"),
            media_type=picture.media_type,
            start=start,
            n_bytes=len(picture.content),
        )


def _told(error: Exception) -> tuple[str, str]:
    """Give the service's code and words for what went wrong."""
    if isinstance(error, FetchFailed):
        return UPSTREAM, str(error)
    code, detail = (
        (INVALID, str(error)) if isinstance(error, ValueError) else (INTERNAL, type(error).__name__)
    )
    return code, f"{parameters.ERROR_CODES[code].meaning}: {detail}"


def _awaitable(work: Work) -> asyncio.Future[None]:
    return work if isinstance(work, asyncio.Task) else asyncio.wrap_future(work)
