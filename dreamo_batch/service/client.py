"""The client of the service.

The key never shows in an exception: those raised here have no cause or context, because exceptions of requests carry
the request, and no frame they pass holds an answer's text, because some services answer "invalid key sk-...".
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast
from urllib.parse import quote, urljoin, urlsplit

import requests

from dreamo_batch import arguments, errors
from dreamo_batch.errors import logger_named
from dreamo_batch.service import contract, failures, messages
from dreamo_batch.service.config import Secret, Settings, is_loopback_host, key_missing, resolve
from dreamo_batch.service.failures import Failure, FailureKind, Operation
from dreamo_batch.service.transport import USER_AGENT, Answer, Form, Transport, boottime, form_of, why_refused
from dreamo_batch.text import type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dreamo_batch.service.messages import Price, Request, Task


T = TypeVar("T")

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
_HEADERS: Final = {
    "User-Agent": USER_AGENT,
    "Accept": "application/json",
    # Answers are small, and without compression there can be no decompression bombs.
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
}
_PICTURE_HEADERS: Final = {
    "User-Agent": USER_AGENT,
    "Accept": "image/*, */*;q=0.5",
    "Accept-Encoding": "identity",
}
DOWNLOAD_WITHIN_READ_TIMEOUTS: Final = 5  # a picture takes longer than an answer
N_REDIRECTS_MAX: Final = 5
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_ERRORS: Final[dict[FailureKind, type[errors.ServiceError]]] = {
    FailureKind.PERMANENT: errors.RequestRejected,
    FailureKind.TRANSIENT: errors.RequestNotTaken,
    FailureKind.STOP: errors.ServiceRefused,
    FailureKind.MAY_HAVE_ARRIVED: errors.RequestMayHaveArrived,
}
# Fields without text from the service, or with an id or amount that was checked already.
_OURS: Final = frozenset({"kind", "error_class", "cause", "status", "task_id", "cost"})

logger = logger_named(__name__)


def _form(url: str, transport: Transport, home: str | None) -> Form | Failure:
    """Build the request for a link, or the failure if it must not be followed."""
    try:
        refusal = _why_refused(url, transport, home)
        if refusal is None:
            prepared = requests.Request("GET", url, headers=_PICTURE_HEADERS).prepare()
            return form_of(prepared, _as_written(url))
    except (ValueError, requests.RequestException) as error:
        refusal = failures.reason(error)
    return Failure(FailureKind.PERMANENT, failures.REJECTED, message=refusal)


def _why_refused(url: str, transport: Transport, home: str | None) -> str | None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return f"the link's scheme is {parts.scheme!r}; only http and https are downloaded"
    if "@" in parts.netloc:
        return "the link contains a user name or password, which is never sent"
    if home in (None, parts.netloc):
        return None
    # Check an IP address in the link, as a proxy would connect to it; names are resolved on connecting.
    host = parts.hostname or ""
    with suppress(OSError, ValueError):  # resolvers also accept 0x7f.1 and 2130706433
        host = socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    try:
        return why_refused(host, allows_private=transport.allows_private)
    except ValueError:
        return why_refused("127.0.0.1", allows_private=False) if is_loopback_host(host) else None


def _as_written(url: str) -> str:
    """Return path and query unchanged, quoting only what HTTP can't carry."""
    behind_host = url.partition("://")[2].partition("#")[0]
    start = min((at for at in map(behind_host.find, "/?") if at >= 0), default=len(behind_host))
    target = quote(behind_host[start:], safe="".join(map(chr, range(0x21, 0x7F))))
    return target if target.startswith("/") else f"/{target}"


def _target(url: str, answer: Answer | Failure) -> str | None:
    """Return the target of a redirect; None if there is nothing to follow."""
    if isinstance(answer, Failure) or answer.status not in _REDIRECTS:
        return None
    # Latin-1 is how http.client reads headers, UTF-8 is what servers put there.
    location = (answer.headers.get("location") or "").encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        return urljoin(url, location) if location else None
    except ValueError:
        return location  # an invalid target is refused later


def _content(answer: Answer | Failure, now: float) -> bytes | Failure:
    if isinstance(answer, Failure):
        return answer
    if not failures.is_success(answer.status):
        return failures.from_response("download", answer.status, answer.headers, answer.body, now=now)
    if answer.broken is None:
        return answer.body
    is_too_long = answer.broken.error_class == failures.UNREADABLE
    return replace(answer.broken, kind=FailureKind.PERMANENT) if is_too_long else answer.broken


class Client:
    """A client of one service; safe to share between threads.

    Every method except `wait` makes exactly one HTTP request (`download` one per redirect), which is never repeated.
    Failures are raised as `ServiceError`, with details in its `failure`; the key is in no message, repr or traceback.

    Parameters
    ----------
    api_key, base_url : str, optional
        Default: from the environment (DREAMO_API_KEY, DREAMO_BASE_URL), else the public gateway.
    settings : Settings, optional
        Instead of both.
    connect_timeout_s, read_timeout_s : float
        For connecting, and for a complete answer; ignored with `settings`.
    allow_private_links : bool
        Whether a remote service's links to pictures may lead to private networks (10/8, 192.168/16, fc00::/7, ...).
        Links to this machine are always refused.
    sleep : callable, optional
        Waits a number of seconds; default: until `close` at the latest.
    monotonic, wall : callable
        Clocks in seconds; `wall` in Unix time.

    Raises
    ------
    SettingsError
        If the URL, the key, a timeout, or the proxy or CA bundle of the environment can't be used.
    UsageError
        If both `settings` and `api_key` or `base_url` are passed.

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
        monotonic: Callable[[], float] = boottime,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if settings is not None and (api_key is not None or base_url is not None):
            raise errors.UsageError("pass settings=, or api_key= and base_url=, not both")
        if not isinstance(settings, Settings | None):
            raise errors.UsageError(
                f"settings must be Settings, not {type_of(settings)}; pass api_key= and base_url=."
            )
        arguments.check_flag("allow_private_links", allow_private_links)
        self.settings: Final = settings or resolve(
            api_key, base_url, connect_timeout_s=connect_timeout_s, read_timeout_s=read_timeout_s
        )
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._monotonic = monotonic
        self._wall = wall
        self._forms: dict[str, Form] = {}
        timeouts = self.settings.connect_timeout_s, self.settings.read_timeout_s
        self._transport = Transport(*timeouts, monotonic=monotonic)
        # Links use separate connections, which never carry the key.
        self._links = Transport(*timeouts, allow_private_links=allow_private_links, monotonic=monotonic)
        self._transport.check(self._form("GET", "/").origin)

    def create(self, request: Request) -> str:
        """Submit one picture. Never repeated here: the caller decides whether to send it again.

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
            No connection was made, or the answer was 429: nothing was submitted.
        RequestMayHaveArrived
            It may have been accepted and billed; nobody can tell.
        RequestRejected
            The request was refused, or can't be built (class `not_built`).
        ServiceRefused
            The key, credit or permission was refused.
        KeyMissing
            There is no key, and the service isn't on this machine.

        Examples
        --------
        >>> from dreamo_batch import Request
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.create(Request("a", 7, 512, 512, True, image_url="https://example.org/a.png"))
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.RequestNotTaken: unreachable: ...
        """
        body = self._body(request)
        del request  # the body is dropped once it is sent
        return self._call("create", self._form("POST", contract.CREATE_PATH.value), self._task_id, body=body)

    def fetch(self, task_id: str) -> Task:
        """Poll one task.

        Parameters
        ----------
        task_id : str

        Returns
        -------
        Task

        Raises
        ------
        RequestNotTaken
            No usable answer; try again.
        RequestRejected
            The service doesn't know the task (class `task_not_found`).
        ServiceRefused, KeyMissing
            As in `create`.
        UsageError
            The id can't be part of a URL.

        Examples
        --------
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.fetch("not an id")
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.UsageError: 'not an id' isn't a task id; ...
        """
        if not messages.is_task_id(task_id):
            raise errors.UsageError(f"{task_id!r} isn't a task id; pass the id that `create` returned")
        form = self._form("GET", contract.TASK_PATH.value.format(task_id=""))
        form = replace(form, target=form.target + quote(task_id, safe=""))
        return self._call("fetch", form, lambda body: self._task(body, task_id))

    def precharge(self, request: Request) -> Price:
        """Ask for the price of a create; nothing is submitted.

        Parameters
        ----------
        request : Request

        Returns
        -------
        Price
            Without a cost if the service doesn't state one.

        Raises
        ------
        RequestNotTaken
            No usable answer; try again.
        RequestRejected
            The service doesn't quote prices, or not for this request.
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
        form = self._form("POST", contract.PRECHARGE_PATH.value)
        price = self._call("precharge", form, messages.read_price, body=self._body(request))
        return cast("Price", self._masked(price))

    def wait(self, task_id: str, *, timeout_s: float = 900, poll_every_s: float = 5) -> Task:
        """Poll one task until it has ended, through transient failures.

        Parameters
        ----------
        task_id : str
        timeout_s : float
            In seconds; the task is polled once more at the end.
        poll_every_s : float
            In seconds; longer if the service asks for it.

        Returns
        -------
        Task
            Completed or failed.

        Raises
        ------
        RequestNotTaken
            It didn't end in time (class `task_timeout`, with the task's id). It continues, so wait again.
        RequestRejected, ServiceRefused, KeyMissing, UsageError
            As in `fetch`.

        Examples
        --------
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.wait("cq0example", timeout_s=0)
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.RequestNotTaken: task_timeout (task cq0example): not finished after 0 s; ...
        """
        arguments.check_seconds("timeout_s", timeout_s)
        arguments.check_seconds("poll_every_s", poll_every_s)
        until = self._monotonic() + timeout_s
        while True:
            asked_s = 0.0
            try:
                if (task := self.fetch(task_id)).status != "in_progress":
                    return task
            except errors.RequestNotTaken as error:
                asked_s = error.failure.retry_after_s or 0.0
            left_s = until - self._monotonic()
            if left_s <= 0 or self._closed.is_set():
                message = f"not finished after {timeout_s:g} s; the task continues, wait for it again"
                raise errors.RequestNotTaken(
                    Failure(FailureKind.TRANSIENT, failures.TASK_TIMEOUT, message=message, task_id=task_id)
                )
            self._sleep(min(max(poll_every_s, asked_s), left_s))

    def probe(self) -> None:
        """Check that the service is reachable: a cheap GET without the key; any answer from it counts.

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
        self._spec()

    def describe(self, model: str = contract.MODEL) -> dict[str, Any] | None:
        """Fetch a model's description, without the key.

        Parameters
        ----------
        model : str
            Its name.

        Returns
        -------
        dict or None
            The description as the service sends it; None if there is no readable one.

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
        answer = self._spec(model)
        if answer.broken is not None or not failures.is_success(answer.status):
            return None
        return cast("dict[str, Any] | None", self._masked(messages.read_description(answer.body)))

    def download(self, url: str, *, max_bytes: int) -> bytes:
        """Download a picture, without the key.

        Parameters
        ----------
        url : str
            http or https; redirects are followed. A remote service can't make us connect to this machine.
        max_bytes : int
            Longer answers are refused.

        Returns
        -------
        bytes
            The content, unchecked: it may be a placeholder.

        Raises
        ------
        RequestNotTaken
            No usable answer; try again.
        RequestRejected
            The link is refused, gone, too long or not http(s); poll the task for a new one.

        Examples
        --------
        >>> with Client("sk-example-key", "http://127.0.0.1:9") as client:
        ...     client.download("file:///etc/hostname", max_bytes=1000)
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.RequestRejected: rejected: the link's scheme is 'file'; ...
        """
        content = self._fetch_link(url, max_bytes)
        if isinstance(content, Failure):
            raise self._error("download", content)
        return content

    def close(self) -> None:
        """Close all connections and end every `wait`.

        Examples
        --------
        >>> Client("sk-example-key", "https://gateway.example").close()
        """
        self._closed.set()
        self._transport.close()
        self._links.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(base_url={self.settings.base_url!r}, api_key={self.settings.api_key})"

    def _fetch_link(self, url: str, max_bytes: int) -> bytes | Failure:
        """Download a link, through a transport that never carries the key."""
        links = self._links
        until = self._monotonic() + DOWNLOAD_WITHIN_READ_TIMEOUTS * self.settings.read_timeout_s
        home = None if self.settings.is_loopback else urlsplit(self.settings.base_url).netloc
        for _ in range(N_REDIRECTS_MAX + 1):
            url = self._without_key(url)
            form = _form(url, links, home)
            if isinstance(form, Failure):
                return form
            logger.debug("fetching %s", url)
            left_s = max(until - self._monotonic(), 0.001)
            is_elsewhere = home not in (None, urlsplit(url).netloc)
            answer = links.send(
                "download", form, max_bytes=max_bytes, answer_within_s=left_s, is_kept_from_here=is_elsewhere
            )
            target = _target(url, answer)
            if target is None:
                return _content(answer, self._wall())
            url = target
        message = f"the link redirects more than {N_REDIRECTS_MAX} times"
        return Failure(FailureKind.PERMANENT, failures.REDIRECTED, message=message)

    def _form(self, method: str, path: str) -> Form:
        """Prepare a request without the key, once for each path."""
        if path not in self._forms:
            url = f"{self.settings.base_url}{path}"
            prepared = requests.Request(method, url, headers=_HEADERS).prepare()
            prepared.headers.pop("Content-Length", None)  # one per call
            self._forms[path] = form_of(prepared)
        return self._forms[path]

    def _call(
        self,
        operation: Operation,
        form: Form,
        read: Callable[[bytes], T | Failure],
        *,
        body: list[bytes] | None = None,
    ) -> T:
        """Send one request with the key and read its answer; the body is emptied as it is sent."""
        answer = self._send(operation, self._with_key(form, body or []), body)
        if isinstance(answer, Failure) or answer.broken is not None or not failures.is_success(answer.status):
            raise self._error(operation, answer)
        value: T | Failure | Answer = answer
        with suppress(messages.Unreadable):  # raised below as our own error, without a context
            value = read(answer.body)
        if isinstance(value, Failure) or value is answer:
            raise self._error(operation, value)
        return cast("T", value)

    def _with_key(self, form: Form, body: list[bytes]) -> Form:
        key, headers = self.settings.api_key, form.headers
        if key is not None:
            headers += f"Authorization: Bearer {key.reveal()}\r\n".encode("ascii")
        elif not self.settings.is_loopback:
            raise key_missing(self.settings)
        if body:
            headers += b"Content-Length: %d\r\n" % sum(map(len, body))
        return replace(form, headers=headers)

    def _send(self, operation: Operation, form: Form, body: list[bytes] | None = None) -> Answer | Failure:
        answer = self._transport.send(operation, form, body, max_bytes=ANSWER_BYTES_MAX)
        # Masked here, because a variable of the raising frame keeps it.
        return cast("Failure", self._masked(answer)) if isinstance(answer, Failure) else answer

    def _spec(self, model: str = contract.MODEL) -> Answer:
        answer = self._send("fetch", self._form("GET", contract.SPEC_PATH.value.format(model=model)))
        if isinstance(answer, Failure) or answer.status in failures.PASSING:
            raise self._error("fetch", answer)
        return answer

    def _error(self, operation: Operation, answer: Answer | Failure) -> errors.ServiceError:
        """Return the exception for an unusable or missing answer."""
        failure = answer if isinstance(answer, Failure) else self._failure(operation, answer)
        return _ERRORS[failure.kind](self._masked(failure))

    def _failure(self, operation: Operation, answer: Answer) -> Failure:
        named, quoted = self._tasks_in(answer) if operation == "create" else ((), ())
        is_bare = messages.says_only_running(answer.body)
        if answer.broken is None:
            failure = failures.from_response(
                operation, answer.status, answer.headers, answer.body, now=self._wall()
            )
            # An error that names a running task and no reason contradicts itself; of several tasks, one may be made.
            if named and (is_bare or len(named) > 1):
                failure = replace(failure, kind=FailureKind.MAY_HAVE_ARRIVED)
        else:
            failure = replace(answer.broken, excerpt=messages.excerpt(answer.body) or None)
        # If the create may have arrived it isn't resent, so ids in the message are shown, too.
        asked = named if failure.kind is FailureKind.MAY_HAVE_ARRIVED else named or quoted
        if len(asked) == 1:
            # With a reason, the id may be the request's; with a refusal, that of a task in the way.
            has_reason = messages.message_in(messages.load_leniently(answer.body)) is not None
            is_made = not has_reason if failures.is_success(answer.status) else is_bare and failure.is_outage
            failure = replace(failure, task_id=asked[0], is_task_in_doubt=answer.broken is None)
            return replace(failure, is_task_anyones=not is_made)
        unnamed = named or [task_id for task_id in quoted if task_id not in (failure.message or "")]
        message = f"{failure.message}; it names tasks {', '.join(unnamed[:5])}"
        return replace(failure, message=message) if unnamed else failure

    def _tasks_in(self, answer: Answer) -> Iterator[list[str]]:
        """Yield the tasks named in an answer's fields or headers, then those mentioned in its text."""
        headers = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
        named = messages.named_tasks_in(answer.body) or messages.tasks_in_words(headers)
        for found in (named, [] if named else messages.tasks_in_words(answer.body.decode(errors="replace"))):
            yield [task_id for task_id in found if self._without_key(task_id) == task_id]

    def _masked(self, value: Any, name: str = "") -> Any:
        """Mask the key in the service's words, and in links that contain all of it."""
        key = self.settings.api_key
        if key is None or name in _OURS or (name == "code" and value in contract.ERROR_CODES):
            return value
        if isinstance(value, str):
            return self._without_key(value) if name == "urls" else key.mask(value)
        if isinstance(value, tuple | list):
            return type(value)(self._masked(item, name) for item in value)
        if isinstance(value, dict):
            return {self._without_key(word): self._masked(item) for word, item in value.items()}
        if is_dataclass(value):
            masked = {f.name: self._masked(getattr(value, f.name), f.name) for f in fields(value)}
            return replace(cast("Any", value), **masked)
        return value

    def _without_key(self, text: str) -> str:
        """Mask the key in a text that must otherwise stay exact, such as a link."""
        key = self.settings.api_key
        return key.mask(text) if key is not None and key.is_in(text) else text

    def _body(self, request: Request) -> list[bytes]:
        """Encode the body; if that fails, nothing was sent."""
        try:
            return messages.pieces_of(request)
        except Exception as error:  # noqa: BLE001 - whatever happens, this create certainly didn't arrive
            failure = failures.not_built(error)
        raise self._error("create", failure)

    def _task(self, body: bytes, task_id: str) -> Task | Failure:
        try:
            task = messages.read_task(body, task_id)
        except messages.AboutAnother as other:
            message = f"the answer to a poll of task {task_id} is about task {other.task_id}"
            failure = Failure(
                FailureKind.TRANSIENT, failures.OTHER_TASK, 200, message=message, excerpt=other.excerpt
            )
            return cast("Failure", self._masked(failure))
        key = self.settings.api_key
        return task if key is None or not key.may_be_in(body) else cast("Task", self._masked(task))

    def _task_id(self, body: bytes) -> str | Failure:
        """Read the id of an accepted create; `failures` judges a refusal."""
        try:
            created = messages.read_created(body)
        except messages.Unreadable:
            queue_id = messages.queue_id_in(body)
            if queue_id is None:
                raise
            message = (
                f"the service answered with request_id {queue_id} and no id: it uses a queue protocol, which this "
                "package can't poll; the attempt may run and be billed. Check the base URL"
            )
        else:
            if not isinstance(created, str):
                raise messages.Unreadable("")
            if self._without_key(created) == created:
                return created
            message = "the service answered with a task id that contains the API key; such an id isn't stored"
        return Failure(FailureKind.MAY_HAVE_ARRIVED, failures.UNREADABLE, 200, message=self._masked(message))
