"""The requests themselves, as the workers make them: one call, one answer, no decision."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from dreamo_batch.errors import ServiceError
from dreamo_batch.execution import archive, outcomes
from dreamo_batch.execution.payload import ImageChanged, ImageGone, Payloads
from dreamo_batch.service import failures
from dreamo_batch.service.failures import Failure, Kind, from_exception

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dreamo_batch.execution.schedule import Do, Key
    from dreamo_batch.service.client import Client
    from dreamo_batch.table.jobs import Job

logger = logging.getLogger(__name__)


class Effects:
    """Makes one request and gives its answer as a value; safe to share between threads.

    Parameters
    ----------
    client : Client
        The service.
    run_dir : pathlib.Path
        Where pictures go.

    Examples
    --------
    >>> from pathlib import Path
    >>> from dreamo_batch.service.client import Client
    >>> with Client(base_url="http://127.0.0.1:9") as client:
    ...     Effects(client, Path("runs/x")).probe().is_there
    False
    """

    def __init__(self, client: Client, run_dir: Path) -> None:
        self._client = client
        self._run_dir = run_dir
        self._payloads = Payloads()

    def create(self, key: Key, job: Job) -> outcomes.CreateAnswer:
        """Send one create."""
        try:
            request = self._payloads.request(job)
        except (ImageChanged, ImageGone) as error:
            failure = Failure(Kind.PERMANENT, outcomes.IMAGE_CHANGED, message=str(error))
            return outcomes.CreateAnswer(key, failure)
        except Exception as error:
            logger.exception("the request of job %s can't be built", key[0])
            return outcomes.CreateAnswer(key, failures.not_built(error))
        try:
            return outcomes.CreateAnswer(key, self._client.create(request))
        except ServiceError as error:
            logger.info("create of job %s failed: %s", key[0], error.failure.error_class)
            # An answer that broke after the id was read still names the task.
            return outcomes.CreateAnswer(key, error.failure.task_id or error.failure)
        except Exception as error:
            logger.exception("create of job %s ended in a way nobody foresaw", key[0])
            return outcomes.CreateAnswer(key, from_exception("create", error))

    def fetch(self, do: Do, key: Key, task_id: str) -> outcomes.PollAnswer:
        """Ask for one task."""
        try:
            return outcomes.PollAnswer(do, key, self._client.fetch(task_id))
        except ServiceError as error:
            return outcomes.PollAnswer(do, key, error.failure)

    def save(
        self, key: Key, links: Sequence[str], *, name: str | None = None, told_bytes: int | None = None
    ) -> outcomes.SaveAnswer:
        """Fetch the pictures of one task and put them on disk, the first under its job's id or another name."""
        if not links:
            return outcomes.SaveAnswer(key, "the service gave no link to the picture")
        try:
            content, warning = self._picture(links[0], told_bytes)
            saved = archive.save(content, name or key[0], self._run_dir)
        except ServiceError as error:
            is_refusal = error.failure.error_class == failures.RATE_LIMITED
            return outcomes.SaveAnswer(key, str(error), error.failure if is_refusal else None)
        except archive.NotAPicture as error:
            return outcomes.SaveAnswer(key, str(error))
        told = [] if warning is None else [warning]
        if len(links) > 1:
            told.append(self._further(links, name or key[0]))
        return outcomes.SaveAnswer(key, replace(saved, warning="; ".join(told) or None))

    def _picture(self, url: str, told_bytes: int | None) -> tuple[bytes, str | None]:
        """Fetch a picture, once more if it has not the size that the service told."""
        content = b""
        for _ in range(2):
            content = self._client.download(url, max_bytes=archive.PICTURE_BYTES_MAX)
            if told_bytes is None or len(content) == told_bytes:
                return content, None
        return content, f"the picture has {len(content)} bytes, and the service had said {told_bytes}"

    def _further(self, links: Sequence[str], name: str) -> str:
        """Fetch what a task made beside its first picture, and say where it is."""
        places = []
        for number, url in enumerate(links[1:], start=2):
            try:
                content = self._client.download(url, max_bytes=archive.PICTURE_BYTES_MAX)
                places.append(archive.save(content, f"{name}-{number}", self._run_dir).path)
            except (ServiceError, archive.NotAPicture) as error:
                places.append(f"picture {number} could not be saved ({error})")
        return f"the task made {len(links)} pictures; further ones: {', '.join(places)}"

    def probe(self) -> outcomes.ProbeAnswer:
        """Ask whether the service is there."""
        try:
            self._client.probe()
        except ServiceError as error:
            return outcomes.ProbeAnswer(is_there=not error.failure.is_outage, failure=error.failure)
        return outcomes.ProbeAnswer(is_there=True)
