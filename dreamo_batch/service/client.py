"""One request with the key, its answer read, its failure raised; the key shows in none of it.

What is raised here has no exception behind it, and no frame that it passes through holds an answer's text: both
could show the key, the one because exceptions of requests carry the request, the other because some services answer
"invalid key sk-...".
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast
from urllib.parse import quote, urljoin, urlsplit

import requests

from dreamo_batch.errors import (
    KeyMissing,
    RequestMayHaveArrived,
    RequestNotTaken,
    RequestRejected,
    ServiceError,
    ServiceRefused,
    UsageError,
)
from dreamo_batch.service import contract, failures, messages
from dreamo_batch.service.config import is_loopback_host, resolve
from dreamo_batch.service.contract import ERROR_CODES
from dreamo_batch.service.failures import (
    REDIRECTED,
    REJECTED,
    UNREADABLE,
    Failure,
    FailureKind,
    Operation,
    from_exception,
    from_response,
)
from dreamo_batch.service.messages import excerpt
from dreamo_batch.service.transport import Transport, why_refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.service.config import Secret, Settings
    from dreamo_batch.service.messages import Price, Request, Task
    from dreamo_batch.service.transport import Answer


T = TypeVar("T")

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
_HEADERS: Final = {
    "User-Agent": "dreamo-batch",
    "Accept": "application/json",
    # Answers are small, and what isn't packed is no bomb.
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
}
_ERRORS: Final[dict[FailureKind, type[ServiceError]]] = {
    FailureKind.PERMANENT: RequestRejected,
    FailureKind.TRANSIENT: RequestNotTaken,
    FailureKind.STOP: ServiceRefused,
    FailureKind.MAY_HAVE_ARRIVED: RequestMayHaveArrived,
}


class Api:
    """Sends requests to one service; safe to share between threads."""

    def __init__(
        self,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._needs_key = not settings.is_loopback
        self._wall = wall
        self._transport = Transport(
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.read_timeout_s,
            monotonic=monotonic,
        )
        self._transport.check(self.form("GET", "/"))

    def form(self, method: str, path: str) -> requests.PreparedRequest:
        """Prepare a request once, without the key; every call fills in a copy."""
        return requests.Request(method, f"{self._settings.base_url}{path}", headers=_HEADERS).prepare()

    def call(
        self,
        operation: Operation,
        form: requests.PreparedRequest,
        read: Callable[[bytes], T | Failure],
        *,
        body: bytes | None = None,
        path: str = "",
    ) -> T:
        """Send one request and read its answer."""
        request = self._filled(form, body, path)
        answer = self._send(operation, request)
        if isinstance(answer, Failure) or answer.broken is not None or not answer.is_success:
            raise self.error(operation, answer)
        told: T | Failure | Answer = answer
        with suppress(messages.Unreadable):  # and raised below as ours, with nothing behind it
            told = read(answer.body)
        if isinstance(told, Failure) or told is answer:
            raise self.error(operation, told)
        return cast("T", told)

    def knock(self, form: requests.PreparedRequest) -> Answer | Failure:
        """Send one request without the key, and judge nothing."""
        return self._send("fetch", form)

    def error(self, operation: Operation, answer: Answer | Failure) -> ServiceError:
        """Make the error to raise for an answer that can't be used, or for none."""
        failure = answer if isinstance(answer, Failure) else self._failure(operation, answer)
        return _ERRORS[failure.kind](self._without_key(failure))

    def masked(self, text: str | None) -> str | None:
        """Replace the key in somebody else's words."""
        key = self._settings.api_key
        return text if text is None or key is None else key.mask(text)

    def without_key(self, text: str) -> str:
        """Mask the key in a text that must stay as it is otherwise, such as a link."""
        key = self._settings.api_key
        return key.mask(text) if key is not None and key.is_in(text) else text

    def masked_code(self, code: str | None) -> str | None:
        """Replace the key in a code, unless the code is a documented one, on which much depends."""
        return code if code in ERROR_CODES else self.masked(code)

    def close(self) -> None:
        """Close every session."""
        self._transport.close()

    def _filled(
        self, form: requests.PreparedRequest, body: bytes | None, path: str
    ) -> requests.PreparedRequest:
        key = self._settings.api_key
        if key is None and self._needs_key:
            raise KeyMissing(
                f"{self._settings.base_url} needs an API key: set DREAMO_API_KEY or pass api_key=; nothing was sent"
            )
        request = form.copy()
        request.url = f"{form.url}{path}"
        if key is not None:
            request.headers["Authorization"] = f"Bearer {key.reveal()}"
        if body is not None:
            request.body = body
            request.headers["Content-Length"] = str(len(body))
        return request

    def _send(self, operation: Operation, request: requests.PreparedRequest) -> Answer | Failure:
        answer = self._transport.send(operation, request, max_bytes=ANSWER_BYTES_MAX)
        # Masked here already, because it stays in a variable of the frame that raises.
        return self._without_key(answer) if isinstance(answer, Failure) else answer

    def _without_key(self, failure: Failure) -> Failure:
        return replace(
            failure,
            code=self.masked_code(failure.code),
            message=self.masked(failure.message),
            excerpt=self.masked(failure.excerpt),
        )

    def _failure(self, operation: Operation, answer: Answer) -> Failure:
        if answer.broken is None:
            return from_response(operation, answer.status, answer.headers, answer.body, now=self._wall())
        task_id = _id_before_the_break(answer.body) if operation == "create" else None
        if task_id is not None and self.without_key(task_id) != task_id:
            task_id = None
        return replace(answer.broken, excerpt=excerpt(answer.body) or None, task_id=task_id)


def _id_before_the_break(body: bytes) -> str | None:
    """Read the id off a body that broke, if all of its JSON came: proof of nothing, but where to look."""
    try:
        created = messages.read_created(body)
    except messages.Unreadable:
        return None
    return created if isinstance(created, str) else None


logger = logging.getLogger(__name__)

N_REDIRECTS_MAX: Final = 5
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_PICTURE_HEADERS: Final = {
    "User-Agent": "dreamo-batch",
    "Accept": "image/*, */*;q=0.5",
    "Accept-Encoding": "identity",
}


def fetch_link(
    transport: Transport,
    url: str,
    *,
    max_bytes: int,
    within_s: float,
    home: str | None = None,
    redact: Callable[[str], str] = str,
    monotonic: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> bytes | Failure:
    """Fetch what a link points to."""
    until = monotonic() + within_s
    url = redact(url)
    for _ in range(N_REDIRECTS_MAX + 1):
        request = _request(url)
        if isinstance(request, Failure):
            return request
        is_kept_from_here = home not in (None, urlsplit(url).netloc)
        refusal = _why_refused(url, transport) if is_kept_from_here else None
        if refusal is not None:
            return Failure(FailureKind.PERMANENT, REJECTED, message=refusal)
        logger.debug("fetching %s", url)
        left_s = max(until - monotonic(), 0.001)
        answer = transport.send(
            "download",
            request,
            max_bytes=max_bytes,
            answer_within_s=left_s,
            is_kept_from_here=is_kept_from_here,
            target=_as_written(url),
        )
        target = _target(url, answer)
        if target is None:
            return _content(answer, wall())
        url = redact(target)
    return Failure(
        FailureKind.PERMANENT,
        REDIRECTED,
        message=f"the link was redirected more than {N_REDIRECTS_MAX} times",
    )


def _request(url: str) -> requests.PreparedRequest | Failure:
    """Build the request; one for a link that must not be followed is a failure."""
    try:
        parts = urlsplit(url)
        refusal = _refusal(parts.scheme, parts.netloc)
        return refusal or requests.Request("GET", url, headers=_PICTURE_HEADERS).prepare()
    except (ValueError, requests.RequestException) as error:
        failure = from_exception("download", error, was_sent=False)
    return replace(failure, kind=FailureKind.PERMANENT, error_class=REJECTED, is_outage=False)


def _why_refused(url: str, transport: Transport) -> str | None:
    """Look at an address in the link itself, which a proxy would connect to; names are looked up by who connects."""
    host = urlsplit(url).hostname or ""
    try:
        return why_refused(host, allows_private=transport.allows_private)
    except ValueError:
        return why_refused("127.0.0.1", allows_private=False) if is_loopback_host(host) else None


def _as_written(url: str) -> str:
    """Give path and query byte for byte as the service wrote them; only what HTTP can't carry is quoted."""
    behind_host = url.partition("://")[2].partition("#")[0]
    start = min((at for at in map(behind_host.find, "/?") if at >= 0), default=len(behind_host))
    target = quote(behind_host[start:], safe="".join(map(chr, range(0x21, 0x7F))))
    return target if target.startswith("/") else f"/{target}"


def _refusal(scheme: str, netloc: str) -> Failure | None:
    if scheme not in ("http", "https"):
        words = f"the link's scheme is {scheme!r}; only http and https are fetched"
    elif "@" in netloc:
        words = "the link carries user information, which is never sent"
    else:
        return None
    return Failure(FailureKind.PERMANENT, REJECTED, message=words)


def _target(url: str, answer: Answer | Failure) -> str | None:
    """Give where a redirect points to, or None if there is nothing to follow."""
    if isinstance(answer, Failure) or answer.status not in _REDIRECTS:
        return None
    # Latin-1 is how http.client reads headers, UTF-8 is what servers put there.
    location = (answer.headers.get("Location") or "").encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        return urljoin(url, location) if location else None
    except ValueError:
        return location  # refused when it is to be followed


def _content(answer: Answer | Failure, now: float) -> bytes | Failure:
    if isinstance(answer, Failure):
        return answer
    if not answer.is_success:
        return from_response("download", answer.status, answer.headers, answer.body, now=now)
    if answer.broken is None:
        return answer.body
    is_too_long = answer.broken.error_class == UNREADABLE
    return replace(answer.broken, kind=FailureKind.PERMANENT) if is_too_long else answer.broken


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
        self._create_form = self._api.form("POST", contract.CREATE_PATH.value)
        self._price_form = self._api.form("POST", contract.PRECHARGE_PATH.value)
        self._task_form = self._api.form("GET", contract.TASK_PATH.value.format(task_id=""))
        self._spec_form = self._api.form("GET", contract.SPEC_PATH.value.format(model=contract.MODEL))
        # Links have connections of their own: none of them ever carried the key.
        self._links = Transport(
            connect_timeout_s=self.settings.connect_timeout_s,
            read_timeout_s=self.settings.read_timeout_s,
            allow_private_links=allow_private_links,
            monotonic=monotonic,
        )

    def create(self, request: Request) -> str:
        """Attempt one picture. Never repeated here: whether to send again is for the caller to decide.

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
        >>> from dreamo_batch import Request
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.create(Request("a", 7, 512, 512, True, image_url="https://example.org/a.png"))
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
        if not messages.is_task_id(task_id):
            raise UsageError(f"{task_id!r} is no task id; give the id that the service answered to a create")
        path = quote(task_id, safe="")
        return self._api.call("fetch", self._task_form, lambda body: self._task(body, task_id), path=path)

    def precharge(self, request: Request) -> Price:
        """Ask what a create would cost; nothing is submitted.

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
        >>> from dreamo_batch import Request
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.precharge(Request("a", 7, 512, 512, True, image_url="https://example.org/a.png"))
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
                    Failure(FailureKind.TRANSIENT, failures.TASK_TIMEOUT, message=message, task_id=task_id)
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
        return messages.read_description(answer.body)

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
            return messages.encode(request)
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
            task = messages.read_task(body, task_id)
        except messages.AboutAnother as other:
            message = f"asked for task {task_id}, and answered about task {other.task_id}"
            return Failure(
                FailureKind.TRANSIENT, failures.OTHER_TASK, 200, message=message, excerpt=other.excerpt
            )
        told = task.error and messages.ServiceMessage(
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
        price = messages.read_price(body)
        masked = {name: self._api.masked(getattr(price, name)) for name in ("discount", "currency", "reason")}
        return replace(price, **masked)

    def _task_id(self, body: bytes) -> str | Failure:
        """Read the id of an accepted create; a refusal is for `failures` to judge."""
        try:
            created = messages.read_created(body)
        except messages.Unreadable:
            queue_id = messages.queue_id_in(body)
            if queue_id is None:
                raise
            return self._in_another_protocol(queue_id)
        if not isinstance(created, str):
            raise messages.Unreadable("")
        if self._api.without_key(created) == created:
            return created
        message = "the service answered with a task id that holds the API key; such an id isn't kept"
        return Failure(FailureKind.MAY_HAVE_ARRIVED, failures.UNREADABLE, 200, message=message)

    def _in_another_protocol(self, queue_id: str) -> Failure:
        message = (
            f"the service answered with request_id {queue_id} and no id: it speaks a queue protocol, which this "
            "package can't poll; the attempt may run and be billed. Check the base URL"
        )
        return Failure(
            FailureKind.MAY_HAVE_ARRIVED,
            failures.UNREADABLE,
            HTTPStatus.OK,
            message=self._api.masked(message),
        )


def _is_away(status: int) -> bool:
    is_busy = status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
    return is_busy or status >= HTTPStatus.INTERNAL_SERVER_ERROR
