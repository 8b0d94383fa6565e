"""Rendering the pictures of accepted tasks: their references, fetched by URL if need be, and the drawing threads."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import queue
import secrets
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import requests
from urllib3.exceptions import HTTPError

from dreamo_batch.gateway.engines import Engine, RenderedPicture, as_picture
from dreamo_batch.gateway.schemas import INVALID, read_header
from dreamo_batch.gateway.tasks import GatewayTask, TaskStore, price_of_time
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path


T = TypeVar("T")
Work: TypeAlias = "Future[None] | asyncio.Task[None]"

N_HELPERS: Final = 4
N_REDIRECTS: Final = 3
FETCH_TIMEOUT_S: Final = 10.0
N_REFERENCES_IN_MEMORY: Final = 4
INTERNAL, UPSTREAM = "003011095", "003011097"
SUFFIXES: Final = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}


class FetchError(Exception):
    """A reference can't be fetched from its URL."""


def fetch(url: str, *, max_bytes: int, timeout_s: float) -> bytes:
    """Fetch a file by URL, following a few redirects, with limits on size and on the time between two parts."""
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.max_redirects = N_REDIRECTS
            headers = {"Accept-Encoding": "identity", "Connection": "close"}
            with session.get(url, timeout=timeout_s, headers=headers, stream=True) as response:
                if response.status_code != requests.codes.ok:
                    raise FetchError(f"{response.status_code} from the image URL")
                # As it was sent: what unpacks to gigabytes must stay packed.
                content = bytearray()
                for part in response.raw.stream(decode_content=False):
                    content += part
                    if len(content) > max_bytes:
                        raise FetchError(f"the image URL sends more than {max_bytes} bytes")
                return bytes(content)
    except (OSError, ValueError, HTTPError):  # what requests raises, and urllib3 beneath it
        raise FetchError("the image URL can't be reached") from None


class ReferenceStore:
    """Reference pictures on disk, each content once, named by its SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = {path.name for path in folder.iterdir()}
        # The rows of a table share few references.
        self.read = functools.lru_cache(maxsize=N_REFERENCES_IN_MEMORY)(self._read)

    def keep(self, digest: str, content: bytes) -> None:
        """Write a picture unless it is there."""
        if digest not in self._known:
            _write_whole(self._folder / digest, content)
            self._known.add(digest)

    def _read(self, digest: str) -> bytes:
        return (self._folder / digest).read_bytes()


class DaemonThreads:
    """A pool of threads that takes work until it is shut down, also while the process ends.

    The pools of `concurrent.futures` take none by then, and a run that waits for its last answers would lose them.
    """

    def __init__(self, n: int, name: str) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._n = n
        for number in range(n):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def submit(self, do: Callable[..., T], *args: Any) -> Future[T]:
        """Call a function in one of the threads."""
        future: Future[T] = Future()
        self._work.put((future, functools.partial(do, *args)))
        return future

    def shutdown(self) -> None:
        """End the threads; what has not begun is cancelled."""
        with contextlib.suppress(queue.Empty):
            while True:
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


class Renderer:
    """Renders the pictures of accepted tasks into files whose names can't be guessed."""

    def __init__(
        self, engine: Engine, store: TaskStore, folder: Path, price_per_second: str | None = None
    ) -> None:
        self._engine = engine
        self._price_per_second = price_per_second
        self._batch_size = getattr(engine, "batch_size", 1)
        self._batch: deque[tuple[GatewayTask, Sequence[str]]] = deque()
        self.last_price: str | None = None
        self._store = store
        self._pictures = folder / "pictures"
        for path in (self._pictures, folder / "references"):
            path.mkdir(parents=True, exist_ok=True)
        self.references = ReferenceStore(folder / "references")
        self._threads = DaemonThreads(
            1 if self._batch_size > 1 else getattr(engine, "n_threads", 1), "gateway-renderer"
        )
        self._helpers = DaemonThreads(N_HELPERS, "gateway-helper")
        self._fetchers = DaemonThreads(N_HELPERS, "gateway-fetcher")
        self._work: dict[str, Work] = {}
        self._fetches: dict[str, asyncio.Task[str]] = {}
        self._is_closed = False

    def begin(self, task: GatewayTask) -> None:
        """Begin the picture of a task."""
        if not any(url for _, url in task.references):
            digests = [digest for digest, _ in task.references]
            work: Work = self._submit(task, digests)
        else:
            work = asyncio.get_running_loop().create_task(self._fetch_and_render(task))
        self._work[task.task_id] = work
        work.add_done_callback(lambda _: self._work.pop(task.task_id, None))

    async def wait_for(self, task_ids: Iterable[str], patience_s: float) -> None:
        """Wait until pictures are made or have failed, up to a time limit."""
        work = [self._work[task_id] for task_id in task_ids if task_id in self._work]
        if work:
            futures = [one if isinstance(one, asyncio.Task) else asyncio.wrap_future(one) for one in work]
            await asyncio.wait(futures, timeout=patience_s)

    def close(self) -> None:
        """Stop: what has not begun is left to the next start, what is being drawn is thrown away."""
        self._is_closed = True
        for work in (*self._work.values(), *self._fetches.values()):
            work.cancel()
        for threads in (self._threads, self._helpers, self._fetchers):
            threads.shutdown()

    async def in_thread(self, do: Callable[..., T], *args: Any) -> T:
        """Call a function beside the event loop, and return its result."""
        return await asyncio.wrap_future(self._helpers.submit(do, *args))

    def read(self, picture: str) -> bytes:
        """Return the content of a rendered picture, rendered again if its file is gone or was changed.

        The file may be the one that a client saved beside the gateway's folder, and somebody may have edited it.
        """
        path = self._pictures / picture
        content = path.read_bytes() if path.is_file() else b""
        if content and picture.startswith(_start_of_name(content)):
            return content
        task = self._store.of_picture(picture)
        if task is None or any(url for _, url in task.references):
            return path.read_bytes()
        content = self._generate([(task, [digest for digest, _ in task.references])])[0].content
        _write_whole(path, content)
        return content

    async def _fetch_and_render(self, task: GatewayTask) -> None:
        try:
            digests = [digest if url is None else await self._fetched(url) for digest, url in task.references]
        except Exception as error:  # noqa: BLE001 - whatever it is, the task fails and the gateway goes on
            self._store.update(task.task_id, **_failure(error))
        else:
            await asyncio.wrap_future(self._submit(task, digests))

    async def _fetched(self, url: str) -> str:
        """Return the digest of the picture at a URL; tasks that share the URL fetch it once."""
        if url not in self._fetches:
            self._fetches[url] = asyncio.get_running_loop().create_task(self._fetch(url))
        try:
            return await asyncio.shield(self._fetches[url])
        except Exception:
            self._fetches.pop(url, None)
            raise

    async def _fetch(self, url: str) -> str:
        get = functools.partial(fetch, max_bytes=contract.INPUT_BYTES_MAX.value, timeout_s=FETCH_TIMEOUT_S)
        try:
            # A site that sends its answer byte by byte holds up the thread, but not the task.
            content = await asyncio.wait_for(
                asyncio.wrap_future(self._fetchers.submit(get, url)), FETCH_TIMEOUT_S + 1
            )
        except TimeoutError:
            raise FetchError(f"the image URL sent no picture within {FETCH_TIMEOUT_S:g} s") from None
        read_header(content)
        digest = hashlib.sha256(content).hexdigest()
        self.references.keep(digest, content)
        return digest

    def _generate(self, batch: Sequence[tuple[GatewayTask, Iterable[str]]]) -> list[RenderedPicture]:
        requests = [task.drawn for task, _ in batch]
        references = [[self.references.read(digest) for digest in digests] for _, digests in batch]
        if self._batch_size == 1:
            (request,), (pictures,) = requests, references
            return [as_picture(self._engine.generate(request, *pictures))]
        engine: Any = self._engine
        made = [as_picture(one) for one in engine.generate_batch(requests, references)]
        if len(made) != len(batch):
            raise RuntimeError(f"the engine made {len(made)} pictures of {len(batch)}")
        return made

    def _submit(self, task: GatewayTask, digests: Sequence[str]) -> Future[None]:
        if self._batch_size == 1:
            return self._threads.submit(self._render, [(task, digests)])
        self._batch.append((task, digests))
        return self._threads.submit(self._render_next)

    def _render_next(self) -> None:
        """Render what waits, up to a batch of one size; what an earlier call has rendered is done."""
        batch: list[tuple[GatewayTask, Sequence[str]]] = []
        while self._batch and len(batch) < self._batch_size:
            first, following = (batch or self._batch)[0][0], self._batch[0][0]
            sizes = [(one.request.model, one.request.width, one.request.height) for one in (first, following)]
            if sizes[0] != sizes[1]:
                break
            batch.append(self._batch.popleft())
        if batch:
            self._render(batch)

    def _render(self, batch: Sequence[tuple[GatewayTask, Sequence[str]]]) -> None:
        begun, price = time.monotonic(), None
        try:
            pictures = self._generate(batch)
        except Exception as error:  # noqa: BLE001 - whatever an engine trips over, the gateway goes on
            for task, _ in batch:
                self._store.update(task.task_id, **_failure(error))
            return
        if self._price_per_second is not None:
            price = price_of_time(self._price_per_second, (time.monotonic() - begun) / len(batch))
            self.last_price = price
        for (task, _), picture in zip(batch, pictures, strict=True):
            try:
                self._keep(task, picture, price)
            except Exception as error:  # noqa: BLE001 - as above
                self._store.update(task.task_id, **_failure(error))

    def _keep(self, task: GatewayTask, picture: RenderedPicture, price: str | None) -> None:
        if not self._is_closed:
            suffix = SUFFIXES.get(picture.media_type, ".bin")
            name = f"{_start_of_name(picture.content)}{secrets.token_hex(8)}{suffix}"
            (self._pictures / name).write_bytes(picture.content)
            known = {} if price is None else {"price": price}
            self._store.update(task.task_id, picture=name, picture_bytes=len(picture.content), **known)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or missing, should the process be killed."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    draft.write_bytes(content)
    draft.replace(path)


def _start_of_name(content: bytes) -> str:
    """Return the half of a picture's name that tells whether its file was changed; the other half can't be guessed."""
    return hashlib.sha256(content).hexdigest()[:16]


def _failure(error: Exception) -> dict[str, str]:
    """Return the service's code and message for what went wrong, as a task keeps them."""
    match error:
        case FetchError():
            code, detail = UPSTREAM, str(error)
        case ValueError():
            code, detail = INVALID, str(error)
        case _:
            code, detail = INTERNAL, type(error).__name__
    return {"error_code": code, "error_message": f"{contract.ERROR_CODES[code].meaning}: {detail}"}
