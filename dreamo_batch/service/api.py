"""One request with the key, its answer read, its failure raised; the key shows in none of it.

What is raised here has no exception behind it, and no frame that it passes through holds an answer's text: both
could show the key, the one because exceptions of requests carry the request, the other because some services answer
"invalid key sk-...".

Examples
--------
>>> from dreamo_batch.service.settings import Settings
>>> api = Api(Settings("http://127.0.0.1:9", None))
>>> api.call("fetch", api.form("GET", "/model/v1/generation/task/"), len, path="cq0example")
Traceback (most recent call last):
...
dreamo_batch.errors.RequestNotTaken: unreachable: ...
>>> api.close()
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar, cast

import requests

from dreamo_batch.errors import (
    KeyMissing,
    RequestMayHaveArrived,
    RequestNotTaken,
    RequestRejected,
    ServiceError,
    ServiceRefused,
)
from dreamo_batch.service import wire
from dreamo_batch.service.failures import Failure, Kind, Operation, from_response
from dreamo_batch.service.parameters import ERROR_CODES
from dreamo_batch.service.payload import excerpt
from dreamo_batch.service.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.service.answer import Answer
    from dreamo_batch.service.settings import Settings

T = TypeVar("T")

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
_HEADERS: Final = {
    "User-Agent": "dreamo-batch",
    "Accept": "application/json",
    # Answers are small, and what isn't packed is no bomb.
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
}
_ERRORS: Final[dict[Kind, type[ServiceError]]] = {
    Kind.PERMANENT: RequestRejected,
    Kind.TRANSIENT: RequestNotTaken,
    Kind.STOP: ServiceRefused,
    Kind.MAY_HAVE_ARRIVED: RequestMayHaveArrived,
}


class Api:
    """Sends requests to one service; safe to share between threads.

    Parameters
    ----------
    settings : Settings
    monotonic, wall : callable
        Clocks in seconds; `wall` in Unix time.

    Raises
    ------
    SettingsError
        The environment's proxy or CA bundle can't be used.

    Examples
    --------
    >>> from dreamo_batch.service.settings import Settings
    >>> Api(Settings("https://gateway.example", None)).close()
    """

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
        """Prepare a request once, without the key; every call fills in a copy.

        Parameters
        ----------
        method, path : str
            Of HTTP; the path below the base URL.

        Returns
        -------
        requests.PreparedRequest

        Examples
        --------
        >>> from dreamo_batch.service.settings import Settings
        >>> api = Api(Settings("https://gateway.example", None))
        >>> api.form("GET", "/model").url
        'https://gateway.example/model'
        >>> api.close()
        """
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
        """Send one request and read its answer.

        Parameters
        ----------
        operation : {'create', 'fetch', 'precharge'}
        form : requests.PreparedRequest
            From `form`.
        read : callable
            Reads the body of a success; raises `Unreadable`, or gives a failure, if it can't be used.
        body : bytes, optional
            What to send.
        path : str
            What to add to the form's URL, quoted.

        Returns
        -------
        object
            What `read` made of it.

        Raises
        ------
        ServiceError
            Of the class that the failure's kind asks for.
        KeyMissing
            There is no key, and the service is not on this machine.

        Examples
        --------
        >>> from dreamo_batch.service.settings import Settings
        >>> api = Api(Settings("https://gateway.example", None))
        >>> api.call("fetch", api.form("GET", "/model"), len)
        Traceback (most recent call last):
        ...
        dreamo_batch.errors.KeyMissing: https://gateway.example needs an API key: ...
        >>> api.close()
        """
        request = self._filled(form, body, path)
        answer = self._send(operation, request)
        if isinstance(answer, Failure) or answer.broken is not None or not answer.is_success:
            raise self.error(operation, answer)
        told: T | Failure | Answer = answer
        with suppress(wire.Unreadable):  # and raised below as ours, with nothing behind it
            told = read(answer.body)
        if isinstance(told, Failure) or told is answer:
            raise self.error(operation, told)
        return cast("T", told)

    def knock(self, form: requests.PreparedRequest) -> Answer | Failure:
        """Send one request without the key, and judge nothing.

        Parameters
        ----------
        form : requests.PreparedRequest
            From `form`.

        Returns
        -------
        Answer or Failure
            An answer whatever its status.

        Examples
        --------
        >>> from dreamo_batch.service.settings import Settings
        >>> api = Api(Settings("http://127.0.0.1:9", None))
        >>> api.knock(api.form("GET", "/")).is_outage
        True
        >>> api.close()
        """
        return self._send("fetch", form)

    def error(self, operation: Operation, answer: Answer | Failure) -> ServiceError:
        """Make the error to raise for an answer that can't be used, or for none.

        Parameters
        ----------
        operation : {'create', 'fetch', 'precharge', 'download'}
        answer : Answer or Failure

        Returns
        -------
        ServiceError
            With the key masked in all its texts.

        Examples
        --------
        >>> from dreamo_batch.service.settings import Settings
        >>> api = Api(Settings("https://gateway.example", None))
        >>> api.error("fetch", Failure(Kind.TRANSIENT, "unreachable"))
        RequestNotTaken('unreachable: no reason given; nothing was sent; ...')
        >>> api.close()
        """
        failure = answer if isinstance(answer, Failure) else self._failure(operation, answer)
        return _ERRORS[failure.kind](self._without_key(failure))

    def masked(self, text: str | None) -> str | None:
        """Replace the key in somebody else's words.

        Parameters
        ----------
        text : str or None

        Returns
        -------
        str or None

        Examples
        --------
        >>> from dreamo_batch.service.settings import Secret, Settings
        >>> api = Api(Settings("https://gateway.example", Secret("sk-example-key")))
        >>> api.masked("invalid key sk-example-key")
        'invalid key ***'
        >>> api.close()
        """
        key = self._settings.api_key
        return text if text is None or key is None else key.mask(text)

    def without_key(self, text: str) -> str:
        """Mask the key in a text that must stay as it is otherwise, such as a link.

        Parameters
        ----------
        text : str

        Returns
        -------
        str

        Examples
        --------
        >>> from dreamo_batch.service.settings import Secret, Settings
        >>> api = Api(Settings("https://gateway.example", Secret("sk-example-key")))
        >>> api.without_key("https://o.example/a.png?token=sk-example-key")
        'https://o.example/a.png?token=***'
        >>> api.close()
        """
        key = self._settings.api_key
        return key.mask(text) if key is not None and key.is_in(text) else text

    def masked_code(self, code: str | None) -> str | None:
        """Replace the key in a code, unless the code is a documented one, on which much depends.

        Parameters
        ----------
        code : str or None

        Returns
        -------
        str or None

        Examples
        --------
        >>> from dreamo_batch.service.settings import Secret, Settings
        >>> api = Api(Settings("https://gateway.example", Secret("1")))
        >>> api.masked_code("003011095"), api.masked_code("E1")
        ('003011095', 'E***')
        >>> api.close()
        """
        return code if code in ERROR_CODES else self.masked(code)

    def close(self) -> None:
        """Close every session.

        Examples
        --------
        >>> from dreamo_batch.service.settings import Settings
        >>> Api(Settings("https://gateway.example", None)).close()
        """
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
        created = wire.read_created(body)
    except wire.Unreadable:
        return None
    return created if isinstance(created, str) else None
