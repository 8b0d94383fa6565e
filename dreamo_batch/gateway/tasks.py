"""A task of the gateway: what was ordered, what becomes of it, and what its state is at a given time."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import heapq
import itertools
import json
import math
import os
import sqlite3
import threading
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Literal

from dreamo_batch.service import contract

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable
    from pathlib import Path


State = Literal["in_progress", "completed", "failed"]
IN_PROGRESS: State = "in_progress"
COMPLETED: State = "completed"
FAILED: State = "failed"

# What is going to become of a task, settled when it is accepted.
Fate = Literal["normal", "stuck", "forgotten", "completed_with_error"]
PROGRESS_MOST = 0.99


@dataclass(frozen=True, slots=True)
class Task:
    """One accepted order."""

    task_id: str
    digest: str
    prompt: str
    seed: int
    width: int
    height: int
    use_rephraser: bool
    image: str
    seed_drawn: int
    accepted_at: float
    starts_at: float
    due_at: float
    price: str
    failed_price: str = ""
    fate: Fate = "normal"
    image_url: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    picture: str | None = None
    media_type: str | None = None
    picture_start: int | None = None
    picture_bytes: int | None = None

    @property
    def needs_picture(self) -> bool:
        """Whether a picture is still to be made before the task can end."""
        return self.picture is None and self.error_message is None and self.fate != "stuck"

    def state(self, now: float) -> State:
        """Give the state at a time: never completed before the picture exists."""
        if self.fate == "stuck" or now < self.due_at:
            return IN_PROGRESS
        if self.error_message is not None:
            return FAILED
        return IN_PROGRESS if self.picture is None else COMPLETED

    def cost(self, now: float) -> str:
        """Give what the task has cost so far."""
        return {IN_PROGRESS: "", FAILED: self.failed_price, COMPLETED: self.price}[self.state(now)]

    def progress(self, now: float) -> float:
        """Give the share done as the clock has it, below 1 until the end."""
        duration_s = self.due_at - self.starts_at
        share = (now - self.starts_at) / duration_s if duration_s > 0 else PROGRESS_MOST
        return min(max(share, 0.0), PROGRESS_MOST)


def request_digest(
    *, prompt: str, seed: int, width: int, height: int, use_rephraser: bool, image: str
) -> str:
    """Name an order by what it asks for, so that a test can tell two equal ones."""
    description = {
        "model": contract.MODEL,
        "prompt": prompt,
        "seed": seed,
        "width": width,
        "height": height,
        "use_rephraser": use_rephraser,
        "image": image,
    }
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


class TaskIds:
    """Makes ids like the service's: an xid, that is time, machine, process and a counter, in base 32."""

    def __init__(self) -> None:
        self._maker = os.urandom(5)
        # Starts low enough that ids of one gateway sort by time for the first eight million.
        self._numbers = itertools.count(int.from_bytes(os.urandom(3)) // 2)

    def make(self, now: float) -> str:
        """Make the id of a task."""
        number = next(self._numbers) % 2**24
        raw = int(now).to_bytes(4) + self._maker + number.to_bytes(3)
        return base64.b32hexencode(raw)[:20].decode().lower()


LAYOUT = 1
_UNMADE = "picture IS NULL AND error_message IS NULL AND fate != 'stuck'"
_COLUMNS = tuple(field.name for field in dataclasses.fields(Task))
_TABLE = ", ".join(_COLUMNS) + ", PRIMARY KEY (task_id), UNIQUE (picture)"
_CREATE = f"CREATE TABLE IF NOT EXISTS tasks ({_TABLE})"
_SWITCH = _COLUMNS.index("use_rephraser")  # SQLite has no booleans
_ADD = f"INSERT INTO tasks VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - only our own names
_READ = f"SELECT {', '.join(_COLUMNS)} FROM tasks "  # noqa: S608 - only our own names


class Store:
    """Tasks on disk, safe to use from several threads.

    Every change is committed before the call returns. It is handed to the operating system and not synced:
    the process may be killed at any moment and nothing is lost; a power cut is not survived, and need not be.
    """

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(path)
        except BaseException:
            self._connection.close()
            raise

    def add(self, task: Task) -> None:
        """Keep a new task."""
        self._run(_ADD, [getattr(task, name) for name in _COLUMNS])

    def get(self, task_id: str) -> Task | None:
        """Give a task by its id, or None."""
        return self._one("WHERE task_id = ?", task_id)

    def by_picture(self, picture: str) -> Task | None:
        """Give the task whose picture has this name, or None."""
        return self._one("WHERE picture = ?", picture)

    def all(self) -> list[Task]:
        """Give every task in the order of acceptance."""
        return [_task(row) for row in self._run(f"{_READ} ORDER BY rowid")]

    def unfinished(self, now: float) -> list[Task]:
        """Give the tasks that a gateway has to take up when it starts."""
        rows = self._run(f"{_READ} WHERE due_at > ? OR ({_UNMADE}) ORDER BY rowid", [now])
        return [_task(row) for row in rows]

    def overdue(self, now: float) -> list[str]:
        """Give the ids of tasks that are due and still wait for their picture."""
        rows = self._run(f"SELECT task_id FROM tasks WHERE due_at <= ? AND {_UNMADE}", [now])  # noqa: S608 - ours
        return [task_id for (task_id,) in rows]

    def develop(self, task_id: str, *, picture: str, media_type: str, start: int, n_bytes: int) -> None:
        """Keep that a task's picture exists."""
        change = "UPDATE tasks SET picture = ?, media_type = ?, picture_start = ?, picture_bytes = ? WHERE task_id = ?"
        self._run(change, [picture, media_type, start, n_bytes, task_id])

    def fail(self, task_id: str, code: str, message: str) -> None:
        """Keep that no picture could be made."""
        self._run(
            "UPDATE tasks SET error_code = ?, error_message = ? WHERE task_id = ?", [code, message, task_id]
        )

    def close(self) -> None:
        """Let go of the file; later calls raise `sqlite3.ProgrammingError`."""
        with self._lock:
            self._connection.close()

    def _prepare(self, path: Path | str) -> None:
        (layout,) = self._run("PRAGMA user_version")[0]
        if layout not in (0, LAYOUT):
            raise RuntimeError(
                f"The gateway's state in {path} has layout {layout}, and this version reads {LAYOUT}. "
                "Use the version that wrote it, or another state directory."
            )
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF", _CREATE):
            self._run(statement)
        self._run(f"PRAGMA user_version = {LAYOUT}")

    def _one(self, condition: str, value: str) -> Task | None:
        rows = self._run(_READ + condition, [value])
        return _task(rows[0]) if rows else None

    def _run(self, statement: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(statement, values or []).fetchall()


def _task(row: tuple[Any, ...]) -> Task:
    values = list(row)
    values[_SWITCH] = bool(row[_SWITCH])
    return Task(*values)


RetryAfter = Literal["none", "seconds", "date", "body"]


class Slots:
    """The tasks that may run at once; what is over is refused, or waits for the first slot to come free.

    Nothing has to run for this: each slot is known by when its last task ends.
    """

    def __init__(self, n_slots: int | None, *, does_queue: bool = False, ends: Iterable[float] = ()) -> None:
        self._n_slots = n_slots
        self._does_queue = does_queue
        self._ends = [] if n_slots is None else heapq.nlargest(n_slots, ends)
        heapq.heapify(self._ends)

    def wait_s(self, now: float) -> float:
        """Give the seconds until a task may be taken: 0 unless the gateway is full and refuses."""
        self._free(now)
        is_open = self._does_queue or self._n_slots is None or len(self._ends) < self._n_slots
        return 0.0 if is_open else self._ends[0] - now

    def take(self, now: float, duration_s: float) -> float:
        """Give a task its slot."""
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
    """A token bucket: so many requests a second, with a burst of one second's worth."""

    def __init__(self, rate_per_s: float | None) -> None:
        self._rate_per_s = rate_per_s
        self._n_most = max(1.0, rate_per_s or 0.0)
        self._n_tokens = self._n_most
        self._filled_at = -math.inf

    def take(self, now: float) -> float:
        """Take a token, or give the seconds until there is one."""
        if self._rate_per_s is None:
            return 0.0
        self._n_tokens = min(self._n_most, self._n_tokens + (now - self._filled_at) * self._rate_per_s)
        self._filled_at = now
        if self._n_tokens < 1:
            return (1 - self._n_tokens) / self._rate_per_s
        self._n_tokens -= 1
        return 0.0


def retry_hint(style: RetryAfter, wait_s: float, now: float) -> tuple[dict[str, str], dict[str, float]]:
    """Say when to come again: in a header (seconds or a date), in the body, or not at all."""
    whole_s = max(1, math.ceil(wait_s))
    match style:
        case "seconds":
            return {"Retry-After": str(whole_s)}, {}
        case "date":
            return {"Retry-After": formatdate(math.ceil(now) + whole_s, usegmt=True)}, {}
        case "body":
            return {}, {"retry_after": round(wait_s, 3)}
    return {}, {}


FORMS = '"instant", "fixed:SECONDS" or "lognormal:MEDIAN_S,SIGMA"'


@dataclass(frozen=True, slots=True)
class Latency:
    """A log-normal latency; fixed with sigma 0, and instant with median 0."""

    median_s: float
    sigma: float = 0.0

    @property
    def is_instant(self) -> bool:
        """Whether a task is done as soon as someone asks."""
        return self.median_s == 0

    def draw_s(self, rng: random.Random) -> float:
        """Draw the latency of one task."""
        if self.sigma == 0:
            return self.median_s
        return self.median_s * math.exp(rng.gauss(0.0, self.sigma))


INSTANT = Latency(0.0)


def read_latency(value: str | float | Latency) -> Latency:
    """Read a latency as it is written on a command line."""
    if isinstance(value, Latency):
        return value
    try:
        latency = _parse(value) if isinstance(value, str) else Latency(float(value))
    except ValueError:
        latency = None
    if latency is None or not all(0 <= number < math.inf for number in (latency.median_s, latency.sigma)):
        raise ValueError(f"Latency {value!r} can't be read; write {FORMS}.") from None
    return latency


def _parse(text: str) -> Latency | None:
    kind, _, numbers = text.strip().lower().partition(":")
    values = [float(number) for number in numbers.split(",")] if numbers else []
    match kind, values:
        case "instant", []:
            return INSTANT
        case "fixed", [seconds]:
            return Latency(seconds)
        case "lognormal", [median_s, sigma]:
            return Latency(median_s, sigma)
    return None
