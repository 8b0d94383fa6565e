"""The tasks of the local gateway: accepted and kept on disk, their references fetched, pictures drawn, and billed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import functools
import hashlib
import heapq
import itertools
import json
import math
import numbers
import os
import queue
import random
import re
import secrets
import sqlite3
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from decimal import Context, Decimal
from email.utils import formatdate
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, get_args

import requests
from urllib3.exceptions import HTTPError

from dreamo_batch import files
from dreamo_batch.gateway.engines import DrawRequest, Engine, picture_suffix
from dreamo_batch.gateway.faults import Strike, check_seed
from dreamo_batch.gateway.schemas import INVALID, read_header
from dreamo_batch.service import contract
from dreamo_batch.text import first_line, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from dreamo_batch.gateway.schemas import Create, Problem

    PriceSetting: TypeAlias = "str | Callable[[DrawRequest], str] | None"


TaskState = Literal["in_progress", "completed", "failed"]
# The fate of a task, decided when it is accepted.
Fate = Literal["normal", "stuck", "forgotten", "completed_with_error"]
RetryAfter = Literal["none", "seconds", "date", "body"]
WhenFull = Literal["refuse", "queue"]
Precharge = Literal["price", "cache_miss", "missing"]
ErrorsAs = Literal["http", "task"]
_CHOICES: Final = {
    "when_full": WhenFull,
    "precharge": Precharge,
    "errors_as": ErrorsAs,
    "retry_after": RetryAfter,
}

PROGRESS_MAX: Final = 0.99
SEEDS_FROM, SEEDS_TO = 1, 2**31
# How long a poll may wait for a due picture, and an invoice for all of them.
PATIENCE_S: Final = 10.0
# Drawing starts once no create has arrived for this long.
PAUSE_S: Final = 0.05
DEFAULT_USD: Final = Decimal("0.0286")
# Enough digits to expose sums of floats, few enough for a price to survive as a float.
SMALLEST_USD: Final = Decimal("1e-10")
# More digits than any sum of prices needs.
_EXACT: Final = Context(prec=1000)
_SECONDS: Final = r"\s*((?:[0-9]{1,12}\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{1,2})?)\s*"
_LATENCY: Final = re.compile(f"instant:?|fixed:{_SECONDS}|lognormal:{_SECONDS},{_SECONDS}")
LATENCY_FORMS: Final = '"instant", "fixed:SECONDS" or "lognormal:MEDIAN_S,SIGMA"'


def read_latency(value: str | float) -> tuple[float, float]:
    """Parse a latency such as "fixed:3": the median in seconds, and sigma of a log-normal distribution."""
    written = value if isinstance(value, str) else f"fixed:{value}"
    match = _LATENCY.fullmatch(written.strip().lower())
    if match is None:
        raise ValueError(f"Can't read the latency {quoted(value)}; write {LATENCY_FORMS}.")
    fixed_s, median_s, sigma = match.groups()
    return float(fixed_s or median_s or 0), float(sigma or 0)


def draw_s(latency: tuple[float, float], rng: random.Random) -> float:
    """Draw the latency of one task."""
    median_s, sigma = latency
    return median_s * math.exp(rng.gauss(0.0, sigma)) if sigma else median_s


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """The options of `LocalGateway` that don't change while it runs."""

    latency: tuple[float, float] = (0.0, 0.0)
    price: PriceSetting = None
    price_per_second: str | None = None
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
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in get_args(choices):
                known = ", ".join(map(repr, get_args(choices)))
                raise ValueError(f"{name}={quoted(value)} is not one of {known}.")
        if not isinstance(self.bills_failures, bool):
            raise ValueError(f"bills_failures={quoted(self.bills_failures)} must be True or False.")  # noqa: TRY004 - like the other options
        for name in ("max_concurrent", "max_requests_per_s", "links_live_s"):
            kind = numbers.Integral if name == "max_concurrent" else numbers.Real
            limit: Any = getattr(self, name)
            if limit is not None and not (isinstance(limit, kind) and limit is not True and float(limit) > 0):
                raise ValueError(f"{name}={quoted(limit)} must be a number above 0 (tasks: whole), or None.")
        check_seed(self.seed)
        if self.price is not None and self.price_per_second is not None:
            raise ValueError("Pass a price per picture or one per second, not both.")
        for name in ("price", "price_per_second", "discount"):
            text = getattr(self, name)
            if text is not None and not (name == "price" and callable(text)):
                check_decimal(text, name)


@dataclass(frozen=True, slots=True)
class GatewayTask:
    """One accepted create; its references are pairs of a digest and a URL or None (of a URL, the text is hashed)."""

    task_id: str
    digest: str
    request: DrawRequest
    references: tuple[tuple[str, str | None], ...]
    seed_drawn: int
    accepted_at: float
    starts_at: float
    due_at: float
    price: str
    failed_price: str = ""
    fate: Fate = "normal"
    error_code: str | None = None
    error_message: str | None = None
    picture: str | None = None
    picture_bytes: int | None = None

    @property
    def drawn(self) -> DrawRequest:
        """What to draw, with the seed as drawn."""
        return dataclasses.replace(self.request, seed=self.seed_drawn)

    @property
    def needs_picture(self) -> bool:
        """Whether a picture must be made before the task can end."""
        return self.picture is None and self.error_message is None and self.fate != "stuck"

    def state(self, now: float) -> TaskState:
        """Return the state at a given time; it is never completed before the picture exists."""
        if self.fate == "stuck" or now < self.due_at:
            return "in_progress"
        if self.error_message is not None:
            return "failed"
        return "in_progress" if self.picture is None else "completed"

    def cost(self, now: float) -> str:
        """Return what the task has cost at a given time."""
        return {"in_progress": "", "failed": self.failed_price, "completed": self.price}[self.state(now)]

    def progress(self, now: float) -> float:
        """Return the progress by the clock, below 1 until the end."""
        duration_s = self.due_at - self.starts_at
        share = (now - self.starts_at) / duration_s if duration_s > 0 else PROGRESS_MAX
        return min(max(share, 0.0), PROGRESS_MAX)


_MAKER: Final = os.urandom(5)
# The counter starts low enough that the first eight million ids of a process sort by time.
_NUMBERS: Final = itertools.count(int.from_bytes(os.urandom(3)) // 2)


def make_task_id(now: float) -> str:
    """Make an id like the service's: an xid (time, machine, process and a counter) in base 32."""
    raw = int(now).to_bytes(4) + _MAKER + (next(_NUMBERS) % 2**24).to_bytes(3)
    return base64.b32hexencode(raw)[:20].decode().lower()


LAYOUT: Final = 4
_AS_JSON: Final = ("request", "references")
_UNMADE = "picture IS NULL AND error_message IS NULL AND fate != 'stuck'"
_COLUMNS = tuple(field.name for field in dataclasses.fields(GatewayTask))
_NAMES = ", ".join(f'"{name}"' for name in _COLUMNS)
_CREATE_TABLE = f"CREATE TABLE IF NOT EXISTS tasks ({_NAMES}, PRIMARY KEY (task_id))"
_ADD = f"INSERT INTO tasks VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - only our own names
_READ = f"SELECT {_NAMES} FROM tasks "  # noqa: S608 - only our own names


class TaskStore:
    """Tasks on disk, committed before a call returns but not synced: only a power cut loses any."""

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare(path)
        except BaseException:
            self._connection.close()
            raise

    def add(self, task: GatewayTask) -> None:
        """Keep a new task."""
        cells = {name: getattr(task, name) for name in _COLUMNS}
        cells |= {name: json.dumps(cells[name], default=dataclasses.asdict) for name in _AS_JSON}
        self._run(_ADD, *cells.values())

    def get(self, task_id: str) -> GatewayTask | None:
        """Return a task by its id, or None."""
        return next(iter(self._tasks("WHERE task_id = ?", task_id)), None)

    def of_picture(self, picture: str) -> GatewayTask | None:
        """Return the task whose picture has this file name, or None."""
        return next(iter(self._tasks("WHERE picture = ?", picture)), None)

    def all(self) -> list[GatewayTask]:
        """Return every task in the order of acceptance."""
        return self._tasks("ORDER BY rowid")

    def unfinished(self, now: float) -> list[GatewayTask]:
        """Return the tasks that a gateway resumes when it starts."""
        return self._tasks(f"WHERE due_at > ? OR ({_UNMADE}) ORDER BY rowid", now)

    def overdue(self, now: float) -> list[str]:
        """Return the ids of tasks that are due and have no picture yet."""
        return [task.task_id for task in self._tasks(f"WHERE due_at <= ? AND {_UNMADE}", now)]

    def update(self, task_id: str, **values: str | int) -> None:
        """Record a task's picture, its price if that depends on the time taken, or why there is no picture."""
        changes = ", ".join(f"{name} = ?" for name in values)
        self._run(f"UPDATE tasks SET {changes} WHERE task_id = ?", *values.values(), task_id)  # noqa: S608 - ours

    def close(self) -> None:
        """Close the file; later calls raise `sqlite3.ProgrammingError`."""
        with self._lock:
            self._connection.close()

    def _prepare(self, path: Path | str) -> None:
        (layout,) = self._run("PRAGMA user_version")[0]
        if layout not in (0, LAYOUT):
            raise ValueError(
                f"The gateway's state in {path} has layout {layout}; this version reads layout {LAYOUT}. "
                "Use the version that wrote it, or another state directory."
            )
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF", _CREATE_TABLE):
            self._run(statement)
        self._run(f"PRAGMA user_version = {LAYOUT}")

    def _tasks(self, condition: str, *values: Any) -> list[GatewayTask]:
        rows = map(dict, self._run(f"{_READ} {condition}", *values))
        return [GatewayTask(**task | _request_and_references(task)) for task in rows]

    def _run(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()


def _request_and_references(task: dict[str, Any]) -> dict[str, Any]:
    asked, references = (json.loads(task[name]) for name in _AS_JSON)
    request = DrawRequest(**asked | {"ref_types": tuple(asked["ref_types"])})
    return {"request": request, "references": tuple(map(tuple, references))}


class Slots:
    """The limit on concurrent tasks: a slot is free once its last task ends; others are refused, or wait for one."""

    def __init__(self, n_slots: int | None, *, does_queue: bool = False, ends: Iterable[float] = ()) -> None:
        self._n_slots = n_slots
        self._does_queue = does_queue
        self._ends = [] if n_slots is None else heapq.nlargest(n_slots, ends)
        heapq.heapify(self._ends)

    def wait_s(self, now: float) -> float:
        """Return the seconds until a task may start; 0 unless the gateway is full and refuses."""
        self._free(now)
        is_open = self._does_queue or self._n_slots is None or len(self._ends) < self._n_slots
        return 0.0 if is_open else self._ends[0] - now

    def take(self, now: float, duration_s: float) -> float:
        """Take a slot and return when its task starts."""
        if self._n_slots is None:
            return now
        self._free(now)
        starts_at = now if len(self._ends) < self._n_slots else heapq.heappop(self._ends)
        heapq.heappush(self._ends, starts_at + duration_s)
        return starts_at

    def _free(self, now: float) -> None:
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)


class Bucket:
    """A token bucket: a number of requests a second, with a burst of one second's worth."""

    def __init__(self, rate_per_s: float | None) -> None:
        self._rate_per_s = rate_per_s
        self._n_most = max(1.0, rate_per_s or 0.0)
        self._n_tokens = self._n_most
        self._filled_at = -math.inf

    def take(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until one is available."""
        if self._rate_per_s is None:
            return 0.0
        self._n_tokens = min(self._n_most, self._n_tokens + (now - self._filled_at) * self._rate_per_s)
        self._filled_at = now
        if self._n_tokens < 1:
            return (1 - self._n_tokens) / self._rate_per_s
        self._n_tokens -= 1
        return 0.0


def retry_hint(style: RetryAfter, wait_s: float, now: float) -> tuple[dict[str, str], dict[str, float]]:
    """Return the headers and the body's fields that say when to try again: seconds, a date, or nothing."""
    whole_s = max(1, math.ceil(wait_s))
    match style:
        case "seconds":
            return {"Retry-After": str(whole_s)}, {}
        case "date":
            return {"Retry-After": formatdate(math.ceil(now) + whole_s, usegmt=True)}, {}
        case "body":
            return {}, {"retry_after": round(wait_s, 3)}
    return {}, {}


class Tasks:
    """Accepts creates and tracks their tasks; used only on the gateway's event loop."""

    def __init__(
        self, settings: GatewaySettings, store: TaskStore, renderer: Renderer, clock: Callable[[], float]
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.bucket = Bucket(settings.max_requests_per_s)
        self._store = store
        self._renderer = renderer
        self._rng = random.Random(None if settings.seed is None else int(settings.seed))
        self._slots = Slots(None)
        self._waiting: list[tuple[float, GatewayTask]] = []
        self._last_create_at = 0.0

    def resume(self) -> None:
        """Resume the tasks that an earlier gateway left in this folder."""
        now = self.clock()
        tasks = self._store.unfinished(now)
        ends = [task.due_at for task in tasks if task.due_at > now]
        does_queue = self.settings.when_full == "queue"
        self._slots = Slots(self.settings.max_concurrent, does_queue=does_queue, ends=ends)
        for task in tasks:
            if task.needs_picture:
                self._renderer.begin(task)

    def wait_s(self) -> float:
        """Return the seconds until another create may be accepted."""
        return self._slots.wait_s(self.clock())

    def accept(self, create: Create, strike: Strike | None) -> GatewayTask:
        """Accept a create; from now on it is on the invoice."""
        now, request = self.clock(), create.request
        duration_s = draw_s(self.settings.latency, self._rng)
        starts_at = self._slots.take(now, duration_s)
        price = self.price(request) or "0"
        fate, code, message = _outcome(create.problem, strike)
        task = GatewayTask(
            task_id=make_task_id(now),
            digest=create.digest,
            request=request,
            references=tuple((reference.digest, reference.url) for reference in create.references),
            seed_drawn=request.seed if request.seed >= 0 else self._rng.randrange(SEEDS_FROM, SEEDS_TO),
            accepted_at=now,
            starts_at=starts_at,
            due_at=starts_at + duration_s,
            price=price,
            failed_price=price if self.settings.bills_failures else "",
            fate=fate,
            error_code=code,
            error_message=message,
        )
        self._store.add(task)
        if task.needs_picture:
            self._last_create_at = asyncio.get_running_loop().time()
            self._waiting.append((self._last_create_at + duration_s / 2, task))
            if len(self._waiting) == 1:
                self._render_waiting()
        return task

    def price(self, request: DrawRequest) -> str | None:
        """Return the price of a create; if billed by the second, that of the last picture, None before the first."""
        if self.settings.price_per_second is not None:
            return self._renderer.last_price
        return price_of(request, self.settings.price)

    async def find(self, task_id: str) -> GatewayTask | None:
        """Return the task that a poll asks for; if tasks are instant, wait for its picture first."""
        task = self._store.get(task_id)
        if task is None or task.fate == "forgotten":
            return None
        is_instant = self.settings.latency[0] == 0
        if task.needs_picture and is_instant and self.clock() >= task.due_at:
            await self._renderer.wait_for([task_id], PATIENCE_S)
            task = self._store.get(task_id)
        return task

    async def invoice(self) -> list[dict[str, Any]]:
        """Return every create accepted, oldest first, after waiting for the pictures that are due."""
        now, in_thread = self.clock(), self._renderer.in_thread
        self._last_create_at -= PAUSE_S  # due pictures don't wait for a pause
        self._render_waiting()
        await self._renderer.wait_for(await in_thread(self._store.overdue, now), PATIENCE_S)
        return await in_thread(lambda: [invoice_line(task, now) for task in self._store.all()])

    def _render_waiting(self) -> None:
        """Start waiting pictures once no create has arrived for a moment, or half the task's time is over."""
        # Threads that draw take turns with the event loop: beside them, a burst of creates is answered half as fast.
        loop = asyncio.get_running_loop()
        is_pause = loop.time() >= self._last_create_at + PAUSE_S
        waiting, self._waiting = self._waiting, []
        for latest, task in waiting:
            if is_pause or loop.time() >= latest:
                self._renderer.begin(task)
            else:
                self._waiting.append((latest, task))
        if self._waiting:
            loop.call_later(PAUSE_S, self._render_waiting)


def _outcome(problem: Problem | None, strike: Strike | None) -> tuple[Fate, str | None, str | None]:
    """Return the fate of a task and, if it is to fail, its error code and message."""
    if problem:
        return "normal", problem.code, problem.message
    if strike is None or strike.fault.effect != "fate":
        return "normal", None, None
    if strike.fault.code:
        return "normal", strike.fault.code, strike.fault.word
    return strike.fault.word, None, None  # type: ignore[return-value]  # the words of those faults are fates


def size_price(width: int, height: int) -> str:
    """Scale the page's price of a picture of the default size by the number of pixels."""
    return _price(DEFAULT_USD, _EXACT.divide(width * height, contract.SIDE_DEFAULT_PX.value**2))


def price_of(request: DrawRequest, setting: PriceSetting) -> str:
    """Return the price of one picture: by its size, fixed, or computed by the caller's function."""
    if setting is None:
        return size_price(request.width, request.height)
    return check_decimal(setting(request) if callable(setting) else setting)


def price_of_time(price_per_second: str, seconds: float) -> str:
    """Return the price of a picture by the time that it took."""
    return _price(Decimal(price_per_second), Decimal(repr(seconds)))


def _price(unit: Decimal, n: Decimal) -> str:
    return format(_EXACT.multiply(unit, n).quantize(SMALLEST_USD, context=_EXACT).normalize(_EXACT), "f")


def check_decimal(text: str, name: str = "price") -> str:
    """Check that a text is a plain decimal number, without sign or exponent, and return it."""
    if not isinstance(text, str) or not text.isascii() or not text.replace(".", "", 1).isdigit():
        wanted = 'a plain decimal number as text, such as "0.0286"'
        raise ValueError(f"{name}: expected {wanted}, not {quoted(text)}.")
    return text


def invoice_line(task: GatewayTask, now: float) -> dict[str, Any]:
    """Return a task's line of the invoice."""
    state, cost = task.state(now), task.cost(now)
    images = [digest for digest, _ in task.references]
    return {
        "id": task.task_id,
        "digest": task.digest,
        **dataclasses.asdict(task.request),
        "ref_types": list(task.request.ref_types),
        "seed_drawn": task.seed_drawn,
        "image": images[0] if images else "",
        "images": images,
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


T = TypeVar("T")
Work: TypeAlias = "Future[None] | asyncio.Task[None]"

N_HELPERS: Final = 4
N_REDIRECTS: Final = 3
FETCH_TIMEOUT_S: Final = 10.0
N_REFERENCES_IN_MEMORY: Final = 4
INTERNAL, UPSTREAM = "003011095", "003011097"


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
                # Read as sent, not decompressed, so that a bomb stays packed.
                content = bytearray()
                for part in response.raw.stream(decode_content=False):
                    content += part
                    if len(content) > max_bytes:
                        raise FetchError(f"the image URL sends more than {max_bytes} bytes")
                return bytes(content)
    except (OSError, ValueError, HTTPError):  # raised by requests and by urllib3 below it
        raise FetchError("the image URL can't be reached") from None


class ReferenceStore:
    """Reference pictures on disk, each stored once under its SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = {path.name for path in folder.iterdir()}
        # Cached: the rows of a table share few references.
        self.read = functools.lru_cache(maxsize=N_REFERENCES_IN_MEMORY)(self._read)

    def keep(self, digest: str, content: bytes) -> None:
        """Write a picture unless it exists."""
        if digest not in self._known:
            files.replace(self._folder / digest, lambda part: part.write_bytes(content), is_durable=False)
            self._known.add(digest)

    def _read(self, digest: str) -> bytes:
        return (self._folder / digest).read_bytes()


class DaemonThreads:
    """A pool of threads that, unlike those of `concurrent.futures`, accepts work while the process exits."""

    def __init__(self, n: int, name: str) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._n = n
        for number in range(n):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def submit(self, do: Callable[..., T], *args: Any) -> Future[T]:
        """Call a function in one of the threads; return its future."""
        future: Future[T] = Future()
        self._work.put((future, functools.partial(do, *args)))
        return future

    def shutdown(self) -> None:
        """Stop the threads; work that hasn't begun is cancelled."""
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
            except BaseException as error:  # noqa: BLE001 - raised where the result is read
                future.set_exception(error)


class Renderer:
    """Renders the pictures of accepted tasks into files whose names can't be guessed."""

    def __init__(
        self, engine: Engine, store: TaskStore, folder: Path, price_per_second: str | None = None
    ) -> None:
        self._engine: Any = engine
        self._price_per_second = price_per_second
        self._batch_size = getattr(engine, "batch_size", 1)
        self._to_batch: dict[str, tuple[GatewayTask, Sequence[str], Future[None]]] = {}  # by task id
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
        """Start to render the picture of a task."""
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
            futures = [item if isinstance(item, asyncio.Task) else asyncio.wrap_future(item) for item in work]
            await asyncio.wait(futures, timeout=patience_s)

    def close(self) -> None:
        """Stop; work that hasn't begun is left to the next start, pictures in progress are discarded."""
        self._is_closed = True
        for work in (*self._work.values(), *self._fetches.values()):
            work.cancel()
        for threads in (self._threads, self._helpers, self._fetchers):
            threads.shutdown()

    async def in_thread(self, do: Callable[..., T], *args: Any) -> T:
        """Call a function outside the event loop's thread, and return its result."""
        return await asyncio.wrap_future(self._helpers.submit(do, *args))

    def read(self, picture: str) -> bytes:
        """Return the bytes of a picture, rendered again if its file is gone or was edited; empty if that fails."""
        path = self._pictures / picture
        content = path.read_bytes() if path.is_file() else b""
        if content and picture.startswith(_start_of_name(content)):
            return content
        task = self._store.of_picture(picture)
        if task is None or any(url for _, url in task.references):
            return content
        content = self._generate([(task, [digest for digest, _ in task.references])])[0]
        files.replace(path, lambda part: part.write_bytes(content), is_durable=False)
        return content

    async def _fetch_and_render(self, task: GatewayTask) -> None:
        try:
            digests = [digest if url is None else await self._fetched(url) for digest, url in task.references]
        except Exception as error:  # noqa: BLE001 - whatever happens, the task fails and the gateway keeps running
            self._store.update(task.task_id, **_failure(error))
        else:
            await asyncio.wrap_future(self._submit(task, digests))

    async def _fetched(self, url: str) -> str:
        """Return the digest of the picture at a URL, which is fetched once for all tasks that share it."""
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
            # A site that sends its answer byte by byte blocks the thread, but not the task.
            content = await asyncio.wait_for(
                asyncio.wrap_future(self._fetchers.submit(get, url)), FETCH_TIMEOUT_S + 1
            )
        except TimeoutError:
            raise FetchError(f"the image URL sent no picture within {FETCH_TIMEOUT_S:g} s") from None
        read_header(content)
        digest = hashlib.sha256(content).hexdigest()
        self.references.keep(digest, content)
        return digest

    def _generate(self, batch: Sequence[tuple[GatewayTask, Iterable[str]]]) -> list[bytes]:
        requests = [task.drawn for task, _ in batch]
        references = [[self.references.read(digest) for digest in digests] for _, digests in batch]
        if self._batch_size == 1:
            return [self._engine.generate(requests[0], *references[0])]
        made = list(self._engine.generate_batch(requests, references))
        if len(made) != len(batch):
            raise RuntimeError(f"the engine made {len(made)} pictures of {len(batch)}")
        return made

    def _submit(self, task: GatewayTask, digests: Sequence[str]) -> Future[None]:
        if self._batch_size == 1:
            return self._threads.submit(self._render, [(task, digests)])
        made: Future[None] = Future()  # set once its batch is rendered, perhaps by another thread
        self._to_batch[task.task_id] = (task, digests, made)
        self._threads.submit(self._render_next)
        return made

    def _render_next(self) -> None:
        """Render the task that has waited longest, together with others of the same size."""
        waiting = list(self._to_batch.values())
        kinds = [(task.request.model, task.request.width, task.request.height) for task, *_ in waiting]
        alike = [task for task, kind in zip(waiting, kinds, strict=True) if kind == kinds[0]]
        batch = alike[: self._batch_size]
        for task, *_ in batch:
            del self._to_batch[task.task_id]
        try:
            if batch:
                self._render([(task, digests) for task, digests, _ in batch])
        finally:  # even if the result can't be recorded
            for *_, made in batch:
                if made.set_running_or_notify_cancel():
                    made.set_result(None)

    def _render(self, batch: Sequence[tuple[GatewayTask, Sequence[str]]]) -> None:
        begun, price = time.monotonic(), None
        try:
            pictures = self._generate(batch)
        except BaseException as error:  # noqa: BLE001 - an engine that calls sys.exit() fails its task, too
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

    def _keep(self, task: GatewayTask, picture: bytes, price: str | None) -> None:
        suffix = picture_suffix(picture)
        if not self._is_closed:
            name = f"{_start_of_name(picture)}{secrets.token_hex(8)}{suffix}"
            (self._pictures / name).write_bytes(picture)
            known = {} if price is None else {"price": price}
            self._store.update(task.task_id, picture=name, picture_bytes=len(picture), **known)


def _start_of_name(content: bytes) -> str:
    """Return the half of a picture's name that depends on its content; the other half is random."""
    return hashlib.sha256(content).hexdigest()[:16]


def _failure(error: BaseException) -> dict[str, str]:
    """Return the service's code and message for an exception, as fields of a task."""
    codes = {FetchError: UPSTREAM, ValueError: INVALID, BaseException: INTERNAL}
    code = next(code for kind, code in codes.items() if isinstance(error, kind))
    named = ": ".join(dict.fromkeys([type(error).__name__, first_line(error)]))
    detail = named if code == INTERNAL else first_line(error)
    return {"error_code": code, "error_message": f"{contract.ERROR_CODES[code].meaning}: {detail}"}
