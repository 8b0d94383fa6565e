"""What workers do: one request each, built just before it is sent, and the event made from its answer.

The bytes of a reference picture are hashed when they are read; if they aren't those the job was planned with, nothing
is sent. The base64 of a picture that many rows share is made once and kept in a bounded cache.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
import os
import threading
import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, replace
from http import HTTPStatus
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from dreamo_batch.engine import directory, pictures
from dreamo_batch.engine.attempts import Attempt, Event, EventKind, Key, Stage
from dreamo_batch.engine.replica import CREATE_WITHIN_S
from dreamo_batch.engine.schedule import Do
from dreamo_batch.errors import ServiceError, logger_named
from dreamo_batch.images import overwritten
from dreamo_batch.jobs.links import has_expired
from dreamo_batch.money import money
from dreamo_batch.service import contract, failures
from dreamo_batch.service.failures import Failure, FailureKind, from_exception
from dreamo_batch.service.messages import Request, Task
from dreamo_batch.service.transport import boottime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dreamo_batch.engine.pictures import Saved
    from dreamo_batch.jobs.prepare import Job
    from dreamo_batch.jobs.references import ImageSource
    from dreamo_batch.service.client import Client


logger = logger_named(__name__)

TASK_LOST: Final = "task_lost"
INTERRUPTED: Final = "interrupted"
IMAGE_CHANGED: Final = "image_changed"
_ASK_AGAIN_S: Final = 1.0  # for a task named by an error, unless the service asks for another wait
_ASK_FOR_S: Final = 90.0  # such a task, under a rate limit: longer than limits per minute last
_UNKNOWN_AFTER_S: Final = 30.0  # before that, a service may not know its newest task everywhere
_UNFOUND_MAX: Final = 2  # unknown ids in refusals of one kind, after which such ids are taken for request ids
_CACHE_BYTES_MAX: Final = 16 * 1024 * 1024
_PART_BYTES: Final = 3 * 64 * 1024  # a multiple of 3, so that the base64 of the parts can be concatenated


class ImageChanged(ValueError):  # noqa: N818 - it names what happened to the file
    """The reference picture is not the one the job was planned with, can't be read, or its link has expired."""


def body_bytes(job: Job) -> int:
    """Estimate the size of the body of a job's create: the base64 of its pictures."""
    if job.image.kind == "url":
        return 0
    try:
        return sum(-(-os.stat(image.sent_location).st_size // 3) * 4 for image in job.images)  # noqa: PTH116 - called for every row
    except OSError:  # an error shows when it is sent
        return 0


class Payloads:
    """Builds the request of a job; safe to share between threads."""

    def __init__(self, max_bytes: int = _CACHE_BYTES_MAX, wall: Callable[[], float] = time.time) -> None:
        self.n_cached_bytes = 0
        self._wall = wall
        self._max_bytes = max_bytes
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def request(self, job: Job) -> Request:
        """Build the request of a job."""
        is_url = job.image.kind == "url"  # the kind of all its pictures, since a request takes only one
        if is_url and any(has_expired(image.sent_location, self._wall()) for image in job.images):
            raise ImageChanged(
                "The link to the reference picture has expired. Nothing was sent. Put a new link into the row and "
                "retry it; it stays the same job."
            )
        return Request(
            prompt=job.prompt,
            seed=job.seed,
            width=job.width,
            height=job.height,
            use_rephraser=job.use_rephraser,
            image_url=tuple(image.sent_location for image in job.images) if is_url else None,
            image_base64=None if is_url else tuple(map(self._base64, job.images)),
            model=job.model,
            **dict(job.own),
        )

    def _base64(self, image: ImageSource) -> bytes:
        digest = image.sent_digest
        with self._lock:
            if (known := self._cache.get(digest)) is not None:
                self._cache.move_to_end(digest)
                return known
        fresh = _read(image)
        with self._lock:
            if digest not in self._cache:
                self._cache[digest] = fresh
                self.n_cached_bytes += len(fresh)
            while self.n_cached_bytes > self._max_bytes:
                _, dropped = self._cache.popitem(last=False)
                self.n_cached_bytes -= len(dropped)
        return fresh


def _read(image: ImageSource) -> bytes:
    """Read a picture as base64 into memory that goes back to the system once dropped, as malloc's would not."""
    digest = hashlib.sha256()
    try:
        with Path(image.sent_location).open("rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            encoded = mmap.mmap(-1, max(-(-n_bytes // 3) * 4, 1))
            while part := file.read(min(_PART_BYTES, n_bytes)):
                n_bytes -= len(part)
                digest.update(part)
                encoded.write(base64.b64encode(part))
    except OSError as error:
        raise ImageChanged(
            f"Can't read the reference picture {image.sent_location} any more ({error.strerror}). Put it back and "
            "retry the row."
        ) from error
    if digest.hexdigest() != image.sent_digest:
        raise ImageChanged(
            f"The reference picture {image.sent_location} changed after the table was checked. Nothing was sent. "
            "Run again to submit the row with the new picture."
        )
    return cast("bytes", encoded)  # can be joined, measured and sent like bytes


@dataclass(frozen=True, slots=True)
class CreateAnswer:
    """The outcome of a create: a task id, or a failure; `named` is the task that the failure names, if it exists."""

    key: Key
    result: str | Failure
    named: Task | None = None


@dataclass(frozen=True, slots=True)
class PollAnswer:
    """The outcome of a poll: the task, or a failure."""

    do: Do
    key: Key
    result: Task | Failure


@dataclass(frozen=True, slots=True)
class SaveAnswer:
    """The outcome of a download: the saved picture, or why it failed; `refusal` if it was rate limited."""

    key: Key
    result: Saved | str
    refusal: Failure | None = None
    do: Do = Do.SAVE


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The outcome of a probe: whether the service is reachable, and if not, why."""

    is_reachable: bool
    failure: Failure | None = None


def started(
    key: Key, at: float, before: Attempt | None, *, seed: int, reserved: str | None, inputs: str | None = None
) -> Event:
    """Make the event of a create about to be sent; `before` is the attempt as earlier tries left it."""
    waited_s = _waited_s(before, before.answered_at, at) if before is not None else None
    sent = {"seed_sent": seed, "reserved": reserved, "inputs": inputs}
    return Event.of(EventKind.SENDING, key, at, waited_s=waited_s, **sent)


def create_ended(attempt: Attempt, answer: CreateAnswer, at: float) -> Event:
    """Make the event of a create that ended."""
    waited_s = _waited_s(attempt, attempt.sent_at, at)
    if isinstance(answer.result, str):
        return Event.of(EventKind.ACCEPTED, answer.key, at, task_id=answer.result, waited_s=waited_s)
    failure = answer.result
    fields = _failure_fields(failure)
    if failure.kind is FailureKind.PERMANENT:
        return Event.of(EventKind.REFUSED, answer.key, at, **fields, may_have_been_billed=False)
    if failure.kind is FailureKind.MAY_HAVE_ARRIVED:
        return Event.of(EventKind.AMBIGUOUS, answer.key, at, **fields, may_have_been_billed=True)
    is_refusal = failure.error_class == failures.RATE_LIMITED
    n_refusals = (attempt.n_refusals or 0) + 1 if is_refusal else None
    why = fields if failure.error_class == failures.FORBIDDEN else {}
    return Event.of(EventKind.NOT_SENT, answer.key, at, n_refusals=n_refusals, waited_s=waited_s, **why)


def named(key: Key, at: float, failure: Failure) -> Event:
    """Make the event of a failed create that names a task, before that is polled."""
    message = f"An error names task {failure.task_id} ({failure.message}); asking whether it exists."
    return Event.of(EventKind.NAMED, key, at, error_message=message)


def not_sent(key: Key, at: float) -> Event:
    """Make the event of a create that was not sent after all."""
    return Event.of(EventKind.NOT_SENT, key, at)


def resolved(attempt: Attempt, at: float, task_id: str | None) -> Event:
    """Make the event of an ambiguous attempt the user settled; one never accepted keeps its number as a trace."""
    key = (attempt.job_id, attempt.attempt)
    if task_id is None:
        return Event.of(EventKind.NOT_SENT, key, at, may_have_been_billed=False)
    return Event.of(EventKind.ACCEPTED, key, at, task_id=task_id)


def interrupted(attempt: Attempt, at: float) -> Event:
    """Make the event of a create that was on the wire when its process died."""
    return Event.of(
        EventKind.AMBIGUOUS,
        (attempt.job_id, attempt.attempt),
        at,
        error_class=INTERRUPTED,
        error_message=f"{attempt.error_message or ''} The program ended before the service replied; the attempt may "
        "have been accepted and billed.".lstrip(),
        may_have_been_billed=True,
    )


def task_ended(key: Key, task: Task, at: float, n_polls: int) -> Event:
    """Make the event of a task that ended."""
    known: dict[str, Any] = {
        "cost": task.cost,
        "discount": task.discount,
        "n_polls": n_polls,
        "metadata": json.dumps(dict(task.metadata), allow_nan=False) if task.metadata else None,
        "output_url": next(iter(task.urls), None),  # for a failed task, too: whoever paid for it may fetch it
        "output_urls": json.dumps(task.urls) if len(task.urls) > 1 else None,
    }
    odd = task.unlisted_status
    if task.status == "completed":
        return Event.of(
            EventKind.COMPLETED,
            key,
            at,
            **known,
            output_job_id=next(iter(task.job_ids), None),
            output_bytes_stated=next(iter(task.sizes), None),
            output_warning=odd and f"the service reported an undocumented status, {odd!r}, with this picture",
            excerpt=task.excerpt,
            may_have_been_billed=task.cost is None,
        )
    fields = _failure_fields(failures.from_task(task))
    if task.urls:
        fields["error_message"] += "; it came with a picture: open output_url before the link expires"
    code = contract.ERROR_CODES.get(fields["error_code"] or "")
    is_open = bool(task.urls) or task.is_cost_unreadable or code is None or not code.is_unbilled
    return Event.of(
        EventKind.FAILED, key, at, **known, **fields, may_have_been_billed=task.cost is None and is_open
    )


def is_retryable(attempt: Attempt) -> bool:
    """Whether a failed task is worth a new attempt and is known to have cost nothing."""
    is_failed = attempt.stage is Stage.FAILED and attempt.task_id is not None
    if not is_failed or attempt.may_have_been_billed or money(attempt.cost):
        return False
    return attempt.error_class in failures.RETRYABLE


def lost(key: Key, at: float, n_polls: int) -> Event:
    """Make the event of a task that the service no longer knows."""
    message = "The service didn't know this task when asked three times over 30 s; it may have been billed."
    fields = {"error_class": TASK_LOST, "error_message": message}
    return Event.of(EventKind.LOST, key, at, **fields, may_have_been_billed=True, n_polls=n_polls)


def overdue(key: Key, at: float, timeout_s: float, oddity: str | None = None) -> Event:
    """Make the event of a task that this call stopped waiting for, with anything odd about its last poll."""
    seen = f" (at the last poll: {oddity})" if oddity else ""
    message = f"Not finished after {timeout_s:g} s{seen}; the next call asks for it again."
    return Event.of(EventKind.OVERDUE, key, at, error_class=failures.TASK_TIMEOUT, error_message=message)


def about_another(key: Key, at: float, about: str) -> Event:
    """Make the event of a task for which the service's answers are about something else; the next call asks again."""
    message = f"{about}; its picture isn't used, and the next call asks for it again"
    return Event.of(EventKind.OVERDUE, key, at, error_class=failures.OTHER_TASK, error_message=message)


def save_ended(key: Key, saved: Saved, at: float, *, odd: Sequence[str | None] = ()) -> Event:
    """Make the event of a saved picture, with anything odd about it, now or earlier."""
    return Event.of(
        EventKind.SAVED,
        key,
        at,
        output_path=saved.path,
        output_sha256=saved.sha256,
        output_bytes=saved.n_bytes,
        output_width=saved.width_px,
        output_height=saved.height_px,
        output_warning="; ".join(filter(None, (*odd, saved.warning))) or None,
    )


def unsaved(key: Key, at: float, reason: str) -> Event:
    """Make the event of a picture that could not be saved."""
    return Event.of(EventKind.UNSAVED, key, at, output_error=reason)


def new_links(attempt: Attempt, at: float, urls: tuple[str, ...]) -> Event:
    """Make the event of new links to the pictures of a task."""
    several = json.dumps(urls) if len(urls) > 1 or attempt.output_urls is not None else None
    return Event.of(
        EventKind.UNSAVED, (attempt.job_id, attempt.attempt), at, output_url=urls[0], output_urls=several
    )


def _failure_fields(failure: Failure) -> dict[str, Any]:
    return {
        "error_class": failure.error_class,
        "error_code": failure.code,
        "error_message": failure.message or str(failure),
        "excerpt": failure.excerpt,
    }


def _waited_s(attempt: Attempt, since: float | None, at: float) -> float | None:
    """Return the seconds since the first refusal, where `since` is when they were last counted."""
    if not attempt.n_refusals or since is None:
        return None
    return round((attempt.waited_s or 0.0) + max(0.0, at - since), 6)


class Sender:
    """Makes one request and returns its answer as a value; safe to share between threads."""

    def __init__(self, client: Client, run_dir: directory.RunDirectory) -> None:
        self.is_halted = threading.Event()
        self.note: Callable[[Key, Failure], bool] = lambda _key, _failure: True
        self.taken: dict[Key, str] = {}  # tasks not yet in the ledger, kept whatever happens to the answer
        self._n_unfound: defaultdict[tuple[str, int | None], float] = defaultdict(float)
        self._client = client
        self._directory, self._run_dir = run_dir, run_dir.path
        self._create_within_s = inf if run_dir.replica is None else CREATE_WITHIN_S
        self._payloads = Payloads()

    def create(self, key: Key, job: Job, recorded_at: float) -> CreateAnswer:
        """Send one create, unless it was recorded too long ago by a clock that runs while the machine is suspended."""
        try:
            # removed when sent, so that no picture stays in memory meanwhile
            request = [self._payloads.request(job)]
        except ImageChanged as error:
            return CreateAnswer(key, Failure(FailureKind.PERMANENT, IMAGE_CHANGED, message=str(error)))
        except Exception as error:
            logger.exception("the request of job %s can't be built", key[0])
            return CreateAnswer(key, failures.not_built(error))
        late_s = boottime() - recorded_at
        if late_s > self._create_within_s:
            why = f"delayed for {late_s:.0f} s, during which another process may have taken over; nothing was sent"
            return CreateAnswer(key, Failure(FailureKind.TRANSIENT, failures.UNREACHABLE, message=why))
        try:
            answer = CreateAnswer(key, self._client.create(request.pop()))
        except ServiceError as error:
            logger.info("create of job %s failed: %s", key[0], error.failure.error_class)
            answer = self._with_task(key, error.failure)
        except Exception as error:
            logger.exception("create of job %s failed unexpectedly", key[0])
            answer = CreateAnswer(key, from_exception("create", error, was_sent=True))  # as far as is known
        if isinstance(answer.result, str):
            self.taken[key] = answer.result
        return answer

    def _with_task(self, key: Key, failure: Failure) -> CreateAnswer:
        """Return the outcome of a failed create; if the error names a task, record that and ask for the task."""
        if failure.task_id is None or not failure.is_task_in_doubt:
            return CreateAnswer(key, failure.task_id or failure)
        since, wait_s, last = time.monotonic(), 0.0, failure
        refusal, is_noted = (failure.error_class, failure.http_status), self.note(key, failure)
        while is_noted:
            answer = self.fetch(Do.POLL, key, failure.task_id).result
            if not isinstance(answer, Failure):
                self._n_unfound[refusal] = -inf
                return CreateAnswer(key, failure, answer)
            last, asked_for_s = answer, time.monotonic() - since
            patience_s = _UNKNOWN_AFTER_S if self._n_unfound[refusal] < _UNFOUND_MAX else 0.0
            is_unknown = last.error_class == failures.TASK_NOT_FOUND and asked_for_s >= patience_s
            # A refused key buys nothing.
            is_unknown |= failure.http_status == last.http_status == HTTPStatus.UNAUTHORIZED
            if is_unknown and failure.kind is not FailureKind.MAY_HAVE_ARRIVED:
                self._n_unfound[refusal] += 1
                logger.warning("job %s: no task %s, which an error named", key[0], failure.task_id)
                message = f"{failure.message} (it names task {failure.task_id}, which doesn't exist)"
                return CreateAnswer(key, replace(failure, message=message))
            wait_s = max(2 * wait_s, last.retry_after_s or _ASK_AGAIN_S)
            # A rate limit says nothing about the task: often it covers all the key's requests, the create included.
            is_open = last.error_class in (failures.RATE_LIMITED, failures.TASK_NOT_FOUND) and not is_unknown
            # Once halted, the attempt is held with the id: the process stops waiting for this answer.
            if not is_open or asked_for_s + wait_s > _ASK_FOR_S or self.is_halted.wait(wait_s):
                break
        message = f"{failure.message}; but it names task {failure.task_id}: {last.message}"
        return CreateAnswer(key, replace(failure, kind=FailureKind.MAY_HAVE_ARRIVED, message=message))

    def fetch(self, do: Do, key: Key, task_id: str) -> PollAnswer:
        """Ask for one task."""
        try:
            return PollAnswer(do, key, self._client.fetch(task_id))
        except ServiceError as error:
            return PollAnswer(do, key, error.failure)

    def save(self, key: Key, links: Sequence[str], name: str, stated_bytes: int | None = None) -> SaveAnswer:
        """Download the pictures of one task and save them, the first under the given name."""
        if not links:
            return SaveAnswer(key, "the service gave no link to the picture")
        try:
            content, warning = self._picture(links[0], stated_bytes)
            self._directory.refuse_loss()  # else it would look like damage in the directory there now
            saved = pictures.save(content, name, self._run_dir)
            pictures.share_with_gateway(self._run_dir, saved.path, links[0])
        except ServiceError as error:
            is_refusal = error.failure.error_class == failures.RATE_LIMITED
            return SaveAnswer(key, str(error), error.failure if is_refusal else None)
        except pictures.NotAPicture as error:
            return SaveAnswer(key, self._client.settings.masked(str(error)))
        warnings = [] if warning is None else [warning]
        if len(links) > 1:
            warnings.append(self._further(links, name))
        return SaveAnswer(key, replace(saved, warning="; ".join(warnings) or None))

    def _picture(self, url: str, stated_bytes: int | None) -> tuple[bytes, str | None]:
        """Download a picture; try once more if it doesn't have the size that the service stated."""
        content = b""
        for _ in range(2):
            content = self._download(url)
            if stated_bytes is None or len(content) == stated_bytes:
                return content, None
        return content, f"the picture has {len(content)} bytes; the service stated {stated_bytes}"

    def _download(self, url: str) -> bytes:
        """Download a file, and mask the API key if the service wrote it there, for example into metadata."""
        content = self._client.download(url, max_bytes=pictures.PICTURE_BYTES_MAX)
        key = self._client.settings.api_key
        return content if key is None else overwritten(content, key.overwrite)

    def _further(self, links: Sequence[str], name: str) -> str:
        """Download the further pictures of a task, and return a remark that says where they are."""
        places = []
        for number, url in enumerate(links[1:], start=2):
            try:
                content = self._download(url)
                places.append(pictures.save(content, f"{name}-{number}", self._run_dir).path)
                pictures.share_with_gateway(self._run_dir, places[-1], url)
            except (ServiceError, pictures.NotAPicture) as error:
                reason = self._client.settings.masked(str(error))
                places.append(f"picture {number} could not be saved ({reason})")
        return f"the task made {len(links)} pictures; further ones: {', '.join(places)}"

    def probe(self) -> ProbeAnswer:
        """Ask whether the service is reachable."""
        try:
            self._client.probe()
        except ServiceError as error:
            return ProbeAnswer(is_reachable=not error.failure.is_outage, failure=error.failure)
        return ProbeAnswer(is_reachable=True)
