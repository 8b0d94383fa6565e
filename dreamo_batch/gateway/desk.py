"""What an order costs, as exact decimal text."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import queue
import random
import secrets
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import h11

from dreamo_batch.gateway import answers
from dreamo_batch.gateway.pictures import Drawing, Engine, Picture
from dreamo_batch.gateway.schemas import References, Refused, check_url, look_at
from dreamo_batch.gateway.tasks import (
    INSTANT,
    Fate,
    Latency,
    RetryAfter,
    Slots,
    Task,
    TaskIds,
    request_digest,
)
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from dreamo_batch.gateway.faults import Strike
    from dreamo_batch.gateway.schemas import Form
    from dreamo_batch.gateway.tasks import Store

    Price: TypeAlias = "str | Callable[[Drawing], str] | None"


DEFAULT_USD = Decimal("0.0286")
# Enough digits that sums of floats would show, few enough that one price survives a float.
SMALLEST_USD = Decimal("1e-10")


def size_price(width: int, height: int) -> str:
    """Scale the page's price of a picture of the default size by the number of pixels."""
    share = Decimal(width * height) / contract.SIDE_DEFAULT_PX.value**2
    return format((DEFAULT_USD * share).quantize(SMALLEST_USD).normalize(), "f")


def price_of(order: Drawing, price: Price) -> str:
    """Give the price of one order under the gateway's setting."""
    text = size_price(order.width, order.height) if price is None else price
    return plain_decimal(text(order) if callable(text) else text)


def plain_decimal(text: str) -> str:
    """Check that a text is a plain decimal number, without sign or exponent."""
    if not isinstance(text, str) or not text.isascii() or not text.replace(".", "", 1).isdigit():
        raise ValueError(f'Expected a plain decimal number as text, such as "0.0286", and got {text!r}.')
    return text


WhenFull = Literal["refuse", "queue"]
Precharge = Literal["price", "cache_miss", "missing"]
ErrorsAs = Literal["http", "task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything about a gateway that does not change while it runs."""

    latency: Latency = INSTANT
    price: Price = None
    discount: str = "1"
    bills_failures: bool = False
    precharge: Precharge = "price"
    errors_as: ErrorsAs = "http"
    max_concurrent: int | None = None
    when_full: WhenFull = "refuse"
    max_requests_per_s: float | None = None
    retry_after: RetryAfter = "none"
    links_live_s: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, words in _CHOICES.items():
            if getattr(self, name) not in words:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, words))}."
                )
        for name in ("max_concurrent", "max_requests_per_s", "links_live_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value!r} must be greater than 0; leave it out for no limit.")
        for text in (self.price, self.discount):
            if isinstance(text, str):
                plain_decimal(text)


_CHOICES = {
    "when_full": get_args(WhenFull),
    "precharge": get_args(Precharge),
    "errors_as": get_args(ErrorsAs),
    "retry_after": get_args(RetryAfter),
}


N_REDIRECTS = 3
CHUNK_BYTES = 65_536
_REDIRECTS = (301, 302, 303, 307, 308)
_OK = 200
_KEPT = "%/:=&?~#+!$,;'@()*[]"


class FetchFailed(Exception):  # noqa: N818 - it names what happened, in the service's own words
    """A reference can't be had from its URL."""

    def __init__(self, what: str) -> None:
        super().__init__(f"HTTP error response: {what}")


async def fetch(url: str, *, max_bytes: int, timeout_s: float) -> bytes:
    """Fetch a file."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _follow(url, max_bytes)
    except TimeoutError:
        raise FetchFailed(f"the image URL gave no picture within {timeout_s:g} s") from None
    except (OSError, UnicodeError, h11.ProtocolError):
        raise FetchFailed("the image URL can't be reached") from None


async def _follow(url: str, max_bytes: int) -> bytes:
    for _ in range(N_REDIRECTS + 1):
        try:
            check_url(url)
        except Refused:
            raise FetchFailed("the image URL leads to one that is not http or https") from None
        content = await _get(urlsplit(url), max_bytes)
        if isinstance(content, bytes):
            return content
        url = urljoin(url, content)
    raise FetchFailed(f"the image URL redirects more than {N_REDIRECTS} times")


async def _get(url: SplitResult, max_bytes: int) -> bytes | str:
    """Give the content, or where it has gone."""
    is_https = url.scheme == "https"
    port = url.port or (443 if is_https else 80)
    reader, writer = await asyncio.open_connection(url.hostname, port, ssl=is_https or None)
    try:
        connection = h11.Connection(our_role=h11.CLIENT)
        writer.write(_question(connection, url))
        return await _answer(connection, reader, max_bytes)
    finally:
        writer.transport.abort()


def _question(connection: h11.Connection, url: SplitResult) -> bytes:
    # What is not ASCII is escaped, what is escaped stays.
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    host = url.netloc.encode("idna").decode()
    headers: list[tuple[str, str]] = [
        ("Host", host),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    request = h11.Request(method="GET", target=quote(target, safe=_KEPT), headers=headers)
    return (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader, max_bytes: int) -> bytes | str:
    content = bytearray()
    while True:
        event = await _next_event(connection, reader)
        if isinstance(event, h11.Response) and (gone_to := _judge(event)) is not None:
            return gone_to
        if isinstance(event, h11.Data):
            content += event.data
        if len(content) > max_bytes:
            raise FetchFailed(f"the image URL gives more than {max_bytes} bytes")
        if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return bytes(content)


def _judge(response: h11.Response) -> str | None:
    headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
    if response.status_code in _REDIRECTS and b"location" in headers:
        return headers[b"location"]
    if response.status_code != _OK:
        raise FetchFailed(f"{response.status_code} from the image URL")
    # None was asked for, and what unpacks to gigabytes is not to be unpacked.
    if headers.get(b"content-encoding", "identity") != "identity":
        raise FetchFailed("the image URL answers with a packed body")
    return None


async def _next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(CHUNK_BYTES))
    return event


# More digits than any sum of prices has.
_EXACT = Context(prec=1000)


def invoice_line(task: Task, now: float) -> dict[str, Any]:
    """Give one task as it stands on the invoice."""
    state, cost = task.state(now), task.cost(now)
    return {
        "id": task.task_id,
        "digest": task.digest,
        "prompt": task.prompt,
        "seed": task.seed,
        "seed_drawn": task.seed_drawn,
        "width": task.width,
        "height": task.height,
        "use_rephraser": task.use_rephraser,
        "image": task.image,
        "accepted_at": task.accepted_at,
        "latency_s": task.due_at - task.starts_at,
        "state": state,
        "error_code": task.error_code if state == "failed" else None,
        "price": task.price,
        "cost": cost,
        "billed": bool(cost),
    }


def total(lines: Iterable[Mapping[str, Any]]) -> str:
    """Add up the costs of an invoice, to the last digit."""
    costs = (Decimal(line["cost"]) for line in lines if line["cost"])
    return format(reduce(_EXACT.add, costs, Decimal(0)), "f")


FILE_NAME = "pictures.pack"


class Pictures:
    """Keeps pictures; safe to use from several threads.

    What is cut off by a kill stays as a few dead bytes: only the store knows where pictures begin.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._file = (folder / FILE_NAME).open("a+b", buffering=0)

    def keep(self, content: bytes) -> int:
        """Add a picture."""
        with self._lock:
            rest = memoryview(content)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            return self._file.tell() - len(content)

    def read(self, start: int, n_bytes: int) -> bytes:
        """Give a picture back."""
        return os.pread(self._file.fileno(), n_bytes, start)

    def close(self) -> None:
        """Let go of the file; later calls raise ValueError."""
        with self._lock:
            self._file.close()


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
    """Makes the pictures of accepted tasks."""

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
        """Begin the picture of a task."""
        if task.image_url is None:
            work: Work = self._threads.submit(self._draw, task, task.image)
        else:
            work = asyncio.get_running_loop().create_task(self._fetch_and_draw(task, task.image_url))
        self._work[task.task_id] = work
        work.add_done_callback(lambda _: self._work.pop(task.task_id, None))

    async def wait_for(self, task_ids: Iterable[str], patience_s: float) -> None:
        """Wait until pictures are made or have failed, but no longer than that."""
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
        max_bytes = contract.INPUT_BYTES_MAX.value
        content = await fetch(url, max_bytes=max_bytes, timeout_s=FETCH_TIMEOUT_S)
        look_at(content)
        digest = hashlib.sha256(content).hexdigest()
        self._references.keep(digest, content)
        return digest

    def _draw(self, task: Task, digest: str) -> None:
        order = Drawing(task.prompt, task.seed_drawn, task.width, task.height, task.use_rephraser)
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
    return code, f"{contract.ERROR_CODES[code].meaning}: {detail}"


def _awaitable(work: Work) -> asyncio.Future[None]:
    return work if isinstance(work, asyncio.Task) else asyncio.wrap_future(work)


SEEDS_FROM, SEEDS_TO = 1, 2**31
# How long a poll that is due may wait for its picture, and an invoice for all pictures that are due.
PATIENCE_S = 10.0


class Desk:
    """Takes orders and tells of tasks; used on the gateway's event loop only."""

    def __init__(
        self, settings: Settings, store: Store, studio: Studio, clock: Callable[[], float], base_url: str
    ) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock
        self._studio = studio
        self._base_url = base_url
        self._rng = random.Random(settings.seed)
        self._ids = TaskIds()
        self._slots = Slots(None)

    def open(self) -> None:
        """Take up the tasks of an earlier life of the gateway."""
        settings, now = self.settings, self.clock()
        tasks = self.store.unfinished(now)
        ends = [task.due_at for task in tasks if task.due_at > now]
        self._slots = Slots(settings.max_concurrent, does_queue=settings.when_full == "queue", ends=ends)
        for task in tasks:
            if task.needs_picture:
                self._studio.begin(task)

    def wait_s(self) -> float:
        """Give the seconds until another task may be accepted."""
        return self._slots.wait_s(self.clock())

    def accept(self, form: Form, strike: Strike | None) -> Task:
        """Take an order: from here on it is on the invoice."""
        now = self.clock()
        duration_s = self.settings.latency.draw_s(self._rng)
        starts_at = self._slots.take(now, duration_s)
        seed = form.seed if form.seed >= 0 else self._rng.randrange(SEEDS_FROM, SEEDS_TO)
        end = _end(form, strike)
        task = Task(
            task_id=self._ids.make(now),
            digest=digest_of(form),
            prompt=form.prompt,
            seed=form.seed,
            width=form.width,
            height=form.height,
            use_rephraser=form.use_rephraser,
            image=form.image,
            seed_drawn=seed,
            accepted_at=now,
            starts_at=starts_at,
            due_at=starts_at + duration_s,
            price=self.price(form),
            failed_price=self.price(form) if self.settings.bills_failures else "",
            fate=end.fate,
            image_url=form.image_url,
            error_code=end.code,
            error_message=end.message,
        )
        self.store.add(task)
        if task.needs_picture:
            self._studio.begin(task)
        return task

    def price(self, form: Form) -> str:
        """Give what an order costs."""
        order = Drawing(form.prompt, form.seed, form.width, form.height, form.use_rephraser)
        return price_of(order, self.settings.price)

    async def find(self, task_id: str) -> Task | None:
        """Give the task of a poll; if tasks are instant, once its picture is there."""
        task = self.store.get(task_id)
        if task is None or task.fate == "forgotten":
            return None
        if task.needs_picture and self.settings.latency.is_instant and self.clock() >= task.due_at:
            await self._studio.wait_for([task_id], PATIENCE_S)
            task = self.store.get(task_id)
        return task

    def tell(self, task: Task) -> dict[str, Any]:
        """Answer a poll."""
        now, live_s = self.clock(), self.settings.links_live_s
        url = f"{self._base_url}/files/{task.picture}"
        if live_s is not None:
            url += f"?expires={now + live_s:.3f}"
        return answers.polled(task, now, self.settings.discount, url)

    async def invoice(self) -> list[dict[str, Any]]:
        """Give every order ever accepted, in that order, once the pictures that are due are made."""
        now = self.clock()
        await self._studio.wait_for(await self._studio.in_thread(self.store.overdue, now), PATIENCE_S)
        return await self._studio.in_thread(self._lines, now)

    async def in_thread(self, do: Callable[..., T], *args: Any) -> T:
        """Do something that takes a while beside the event loop."""
        return await self._studio.in_thread(do, *args)

    def _lines(self, now: float) -> list[dict[str, Any]]:
        return [invoice_line(task, now) for task in self.store.all()]


def digest_of(form: Form) -> str:
    """Name an order by its content."""
    return request_digest(
        prompt=form.prompt,
        seed=form.seed,
        width=form.width,
        height=form.height,
        use_rephraser=form.use_rephraser,
        image=form.image,
    )


@dataclass(frozen=True, slots=True)
class _End:
    fate: Fate = "normal"
    code: str | None = None
    message: str | None = None


def _end(form: Form, strike: Strike | None) -> _End:
    if form.problem:
        return _End("normal", form.problem.code, form.problem.message)
    if strike is None or strike.fault.effect != "fate":
        return _End()
    if strike.fault.code:
        return _End("normal", strike.fault.code, strike.fault.word)
    return _End(strike.fault.word)  # type: ignore[arg-type]  # the words of those faults are fates
