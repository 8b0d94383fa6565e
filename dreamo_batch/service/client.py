"""The client: one method, one HTTP request.

Examples
--------
>>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
...     client.settings.service_name
'loopback'
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, urlsplit

from dreamo_batch.errors import RequestNotTaken, UsageError
from dreamo_batch.service import failures, parameters, wire
from dreamo_batch.service.api import Api
from dreamo_batch.service.download import fetch_link
from dreamo_batch.service.failures import Failure, Kind
from dreamo_batch.service.settings import resolve
from dreamo_batch.service.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.service.settings import Secret, Settings
    from dreamo_batch.service.wire import Price, Request, Task

# A picture takes longer than an answer.
DOWNLOAD_WITHIN_READ_TIMEOUTS: Final = 5


class Client:
    """Talks to one service; safe to share between threads, each with its own session.

    Every method but `wait` makes exactly one HTTP request (`download` one per redirect), and nothing below it repeats
    any. What fails is raised as a `ServiceError` whose `failure` says what is known; the key is in no message, repr or
    traceback.

    Parameters
    ----------
    api_key, base_url : str, optional
        As in `settings.resolve`: default from the environment, else the public gateway.
    settings : Settings, optional
        Instead of both.
    connect_timeout_s, read_timeout_s : float
        As in `Settings`; not with `settings`.
    allow_private_links : bool
        Whether links to pictures of a service elsewhere may lead to private networks (10/8, 192.168/16, fc00::/7, ...);
        never to this machine itself.
    sleep : callable, optional
        Waits so many seconds; default: until `close`, at most.
    monotonic, wall : callable
        Clocks in seconds; `wall` in Unix time.

    Raises
    ------
    SettingsError
        The URL, the key, a timeout, or the environment's proxy or CA bundle can't be used.
    UsageError
        Settings and one of the others are given.

    Examples
    --------
    >>> Client("sk-example-key", "https://gateway.example")
    Client(base_url='https://gateway.example', api_key=***)
    """

    def __init__(
        self,
        api_key: str | Secret | None = None,
        base_url: str | None = None,
        *,
        settings: Settings | None = None,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 60.0,
        allow_private_links: bool = False,
        sleep: Callable[[float], object] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if settings is not None and (api_key is not None or base_url is not None):
            raise UsageError("give settings=, or api_key= and base_url=, not both")
        self.settings: Final = settings or resolve(
            api_key, base_url, connect_timeout_s=connect_timeout_s, read_timeout_s=read_timeout_s
        )
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._monotonic = monotonic
        self._wall = wall
        self._api = Api(self.settings, monotonic=monotonic, wall=wall)
        self._create_form = self._api.form("POST", parameters.CREATE_PATH.value)
        self._price_form = self._api.form("POST", parameters.PRECHARGE_PATH.value)
        self._task_form = self._api.form("GET", parameters.TASK_PATH.value.format(task_id=""))
        self._spec_form = self._api.form("GET", parameters.SPEC_PATH.value.format(model=parameters.MODEL))
        # Links have connections of their own: none of them ever carried the key.
        self._links = Transport(
            connect_timeout_s=self.settings.connect_timeout_s,
            read_timeout_s=self.settings.read_timeout_s,
            allow_private_links=allow_private_links,
            monotonic=monotonic,
        )

    def create(self, request: Request) -> str:
        """Order one picture. Never repeated here: whether to send again is for the caller to decide.

        Parameters
        ----------
        request : Request

        Returns
        -------
        str
            The task id.

        Raises
        ------
        RequestNotTaken
            The connection was never made, or the answer was 429: nothing was taken.
        RequestMayHaveArrived
            It may have been taken and billed, and nobody can tell.
        RequestRejected
            The request itself was refused, or can't be built (class `not_built`).
        ServiceRefused
            The key, the credit or the permission was refused.
        KeyMissing
            There is no key, and the service is not on this machine.

        Examples
        --------
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.create(wire.Request("a", 7, 512, 512, True, image_url="https://example.org/a.png"))
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.RequestNotTaken: unreachable: ...
        """
        return self._api.call("create", self._create_form, self._task_id, body=self._body(request))

    def fetch(self, task_id: str) -> Task:
        """Ask for one task.

        Parameters
        ----------
        task_id : str

        Returns
        -------
        Task

        Raises
        ------
        RequestNotTaken
            No usable answer; ask again.
        RequestRejected
            The service does not know the task (class `task_not_found`).
        ServiceRefused, KeyMissing
            As in `create`.
        UsageError
            The id could not stand in a URL.

        Examples
        --------
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.fetch("not an id")
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.UsageError: 'not an id' is no task id; ...
        """
        if not wire.is_task_id(task_id):
            raise UsageError(f"{task_id!r} is no task id; give the id that the service answered to a create")
        path = quote(task_id, safe="")
        return self._api.call("fetch", self._task_form, lambda body: self._task(body, task_id), path=path)

    def precharge(self, request: Request) -> Price:
        """Ask what a create would cost; nothing is ordered.

        Parameters
        ----------
        request : Request

        Returns
        -------
        Price
            Without a cost if the service names none.

        Raises
        ------
        RequestNotTaken
            No usable answer; ask again.
        RequestRejected
            The service does not answer such questions, or not this one.
        ServiceRefused, KeyMissing
            As in `create`.

        Examples
        --------
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.precharge(wire.Request("a", 7, 512, 512, True, image_url="https://example.org/a.png"))
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.RequestNotTaken: unreachable: ...
        """
        return self._api.call("precharge", self._price_form, self._price, body=self._body(request))

    def wait(self, task_id: str, *, timeout_s: float = 900, poll_every_s: float = 5) -> Task:
        """Ask for one task until it has ended, through faults that pass.

        Parameters
        ----------
        task_id : str
        timeout_s : float
            In seconds; the task is asked for once more at the end.
        poll_every_s : float
            In seconds; longer if the service asks for it.

        Returns
        -------
        Task
            Completed or failed.

        Raises
        ------
        RequestNotTaken
            It had not ended in time (class `task_timeout`, with the task's id); it goes on, so wait again.
        RequestRejected, ServiceRefused, KeyMissing, UsageError
            As in `fetch`.

        Examples
        --------
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.wait("cq0example", timeout_s=0)
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.RequestNotTaken: task_timeout (task cq0example): no end after 0 s; ...
        """
        until = self._monotonic() + timeout_s
        while True:
            task, asked_s = self._poll(task_id)
            if task is not None and task.status != "in_progress":
                return task
            left_s = until - self._monotonic()
            if left_s <= 0 or self._closed.is_set():
                message = f"no end after {timeout_s:g} s; the task goes on, wait for it again"
                raise RequestNotTaken(
                    Failure(Kind.TRANSIENT, failures.TASK_TIMEOUT, message=message, task_id=task_id)
                )
            self._sleep(min(max(poll_every_s, asked_s), left_s))

    def probe(self) -> None:
        """Ask whether the service is there: a cheap GET without the key; any answer of its own counts.

        Raises
        ------
        RequestNotTaken
            No answer, or 408, 429, 5xx.

        Examples
        --------
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.probe()
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.RequestNotTaken: unreachable: ...
        """
        answer = self._api.knock(self._spec_form)
        if isinstance(answer, Failure) or _is_away(answer.status):
            raise self._api.error("fetch", answer)

    def describe(self) -> dict[str, Any] | None:
        """Ask for the model's description, without the key.

        Returns
        -------
        dict or None
            The description as the service tells it; None if it has none that can be read.

        Raises
        ------
        RequestNotTaken
            No answer, or 408, 429, 5xx.

        Examples
        --------
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.describe()
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.RequestNotTaken: unreachable: ...
        """
        answer = self._api.knock(self._spec_form)
        if isinstance(answer, Failure) or _is_away(answer.status):
            raise self._api.error("fetch", answer)
        if answer.broken is not None or not answer.is_success:
            return None
        return wire.read_description(answer.body)

    def download(self, url: str, *, max_bytes: int) -> bytes:
        """Fetch a picture, without the key.

        Parameters
        ----------
        url : str
            http or https; redirects are followed. A service elsewhere can't send us to this machine.
        max_bytes : int
            What is longer is refused.

        Returns
        -------
        bytes
            The content, not looked at: it may be a placeholder.

        Raises
        ------
        RequestNotTaken
            No usable answer; ask again.
        RequestRejected
            The link is refused, gone, too long or not http(s); ask the task for a fresh one.

        Examples
        --------
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.download("file:///etc/hostname", max_bytes=1000)
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.RequestRejected: rejected: the link's scheme is 'file'; ...
        """
        within_s = DOWNLOAD_WITHIN_READ_TIMEOUTS * self.settings.read_timeout_s
        clocks: dict[str, Any] = {"monotonic": self._monotonic, "wall": self._wall}
        home = None if self.settings.is_loopback else urlsplit(self.settings.base_url).netloc
        content = fetch_link(
            self._links,
            url,
            max_bytes=max_bytes,
            within_s=within_s,
            home=home,
            redact=self._api.without_key,
            **clocks,
        )
        if isinstance(content, Failure):
            raise self._api.error("download", content)
        return content

    def close(self) -> None:
        """Close every session and end every `wait`.

        Examples
        --------
        >>> Client("sk-example-key", "https://gateway.example").close()
        """
        self._closed.set()
        self._api.close()
        self._links.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        key = self.settings.api_key
        return f"Client(base_url={self.settings.base_url!r}, api_key={key if key is None else f'{key}'})"

    def _body(self, request: Request) -> bytes:
        """Write the body; if that fails, whatever the reason, it is certain that nothing was sent."""
        try:
            return wire.encode(request)
        except Exception as error:  # noqa: BLE001 - a create that may have arrived would be held for nothing
            failure = failures.not_built(error)
        raise self._api.error("create", failure)

    def _poll(self, task_id: str) -> tuple[Task | None, float]:
        """Ask once; a fault that passes gives no task, and the seconds to leave the service alone."""
        try:
            return self.fetch(task_id), 0.0
        except RequestNotTaken as error:
            return None, error.failure.retry_after_s or 0.0

    def _task(self, body: bytes, task_id: str) -> Task | Failure:
        try:
            task = wire.read_task(body, task_id)
        except wire.AboutAnother as other:
            message = f"asked for task {task_id}, and answered about task {other.task_id}"
            return Failure(Kind.TRANSIENT, failures.OTHER_TASK, 200, message=message, excerpt=other.excerpt)
        told = task.error and wire.ServiceMessage(
            self._api.masked_code(task.error.code), self._api.masked(task.error.message)
        )
        return replace(
            task,
            error=told,
            excerpt=self._api.masked(task.excerpt),
            unlisted_status=self._api.masked(task.unlisted_status),
            urls=tuple(map(self._api.without_key, task.urls)),
            discount=self._api.masked(task.discount),
            metadata={self._api.without_key(name): value for name, value in task.metadata.items()},
        )

    def _price(self, body: bytes) -> Price:
        price = wire.read_price(body)
        masked = {name: self._api.masked(getattr(price, name)) for name in ("discount", "currency", "reason")}
        return replace(price, **masked)

    def _task_id(self, body: bytes) -> str | Failure:
        """Read the id of an accepted create; a refusal is for `failures` to judge."""
        try:
            created = wire.read_created(body)
        except wire.Unreadable:
            queue_id = wire.queue_id_in(body)
            if queue_id is None:
                raise
            return self._in_another_protocol(queue_id)
        if not isinstance(created, str):
            raise wire.Unreadable("")
        if self._api.without_key(created) == created:
            return created
        message = "the service answered with a task id that holds the API key; such an id isn't kept"
        return Failure(Kind.MAY_HAVE_ARRIVED, failures.UNREADABLE, 200, message=message)

    def _in_another_protocol(self, queue_id: str) -> Failure:
        message = (
            f"the service answered with request_id {queue_id} and no id: it speaks a queue protocol, which this "
            "package can't poll; the order may run and be billed. Check the base URL"
        )
        return Failure(
            Kind.MAY_HAVE_ARRIVED, failures.UNREADABLE, HTTPStatus.OK, message=self._api.masked(message)
        )


def _is_away(status: int) -> bool:
    is_busy = status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
    return is_busy or status >= HTTPStatus.INTERNAL_SERVER_ERROR
