"""Events that a run reports: passed to a callable and posted to a URL, each in its own thread.

Listening never fails or delays a run: what can't be delivered is logged, once for each reason.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import threading
import time
import weakref
from collections import deque
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from requests import Request, RequestException
from requests.utils import get_auth_from_url, urldefragauth

from dreamo_batch.arguments import is_function_of
from dreamo_batch.engine.status import AMOUNTS, Snapshot
from dreamo_batch.errors import DreamoError, RunStopped, UsageError, logger_named
from dreamo_batch.money import exact_text
from dreamo_batch.service.failures import PASSING, Failure, is_success
from dreamo_batch.service.transport import USER_AGENT, Transport, form_of
from dreamo_batch.text import first_line, harmless, option, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from decimal import Decimal

    from dreamo_batch.service.config import Secret

logger = logger_named(__name__)

_VARIABLE: Final = "DREAMO_NOTIFY_SECRET"
_PREFIX: Final = "whsec_"
_TIMEOUTS_S: Final = (5.0, 10.0)  # to connect, and to answer
_WAITS_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0)
_WAIT_AT_END_S: Final = 1.0
_END_S: Final = 5.0
_ANSWER_BYTES_MAX: Final = 64 * 1024  # the content isn't used
_LOOK_EVERY_S: Final = 0.1
_REDIRECTS: Final = range(300, 400)

Kind = Literal["done", "stopped", "budget", "held", "outage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """Something about a run that is worth reporting.

    A call ends with exactly one ``"done"``, ``"stopped"`` or ``"budget"``.

    Attributes
    ----------
    kind : {"done", "stopped", "budget", "held", "outage"}
        ``"done"``: every row has an outcome; look at `by_status` for failed ones. ``"stopped"``: the call ended early
        or was refused. ``"budget"``: it ended because the next attempt could exceed the cap, or its price is unknown.
        ``"held"``: an attempt may or may not have been accepted; reported for the first, and whenever their number in
        this call has doubled. ``"outage"``: the service is away or refuses everything with 429; the run waits.
    message : str
        What happened, and what to do.
    run_dir : str
        The run directory: an absolute path, or the URL of a store.
    at : datetime
        When (UTC).
    by_status : mapping of str to int
        Rows of the table by status; empty if the call was refused before they were counted.
    spent_usd, reserved_usd, max_cost_usd : Decimal or None
        Money of the directory as in `Status`; None if not known, and without a cap.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1], size="512x512")
    >>> events = []
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", progress=False, on_event=events.append)
    >>> [(event.kind, event.by_status["completed"]) for event in events]
    [('done', 1)]
    >>> json.loads(events[0].to_json())["kind"]
    'done'
    """

    kind: Kind
    message: str
    run_dir: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    by_status: Mapping[str, int] = field(default_factory=dict)
    spent_usd: Decimal | None = None
    reserved_usd: Decimal | None = None
    max_cost_usd: Decimal | None = None

    def to_json(self) -> bytes:
        """Return the event as it is posted.

        Returns
        -------
        bytes
            A JSON object: these attributes, amounts as text, and `text`, a sentence for people.
        """
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        known |= {name: None if known[name] is None else exact_text(known[name]) for name in AMOUNTS}
        known["at"] = self.at.isoformat(timespec="seconds")
        known["by_status"] = {status: n for status, n in self.by_status.items() if n}
        text = f"dreamo-batch, {self.kind}: {self.message} ({self.run_dir})"
        return json.dumps({"text": text} | known).encode()


class Listeners:
    """The listeners of a call and of those that continue it: a URL, a callable, both or none."""

    def __init__(
        self, run_dir: str = "", notify: str | None = None, on_event: Callable[[RunEvent], Any] | None = None
    ) -> None:
        if on_event is not None and not is_function_of(1, on_event):
            raise UsageError(f"on_event must be a function of one event (not async), not {quoted(on_event)}.")
        self._run_dir = run_dir
        self._key: Secret | None = None
        self._listeners: list[_Listener] = []
        if notify is not None:
            self._listeners.append(_Listener("notify", _Webhook(notify)))
        if on_event is not None:
            self._listeners.append(_Listener("on_event", on_event))
        self.is_begun = False

    def begin(self, key: Secret | None) -> None:
        """Leave reporting the end to the call; mask its key in every event."""
        self._key, self.is_begun = key, True

    def report(self, kind: Kind, message: str, snapshot: Snapshot | None = None) -> None:
        """Make an event and deliver it, without waiting."""
        if not self._listeners:
            return
        mask = str if self._key is None else self._key.mask
        names = () if snapshot is None else ("by_status", *AMOUNTS)
        known = {name: getattr(snapshot, name) for name in names}
        self.emit(RunEvent(kind=kind, message=mask(harmless(message)), run_dir=mask(self._run_dir), **known))

    def emit(self, event: RunEvent) -> None:
        """Deliver an event, without waiting."""
        for listener in self._listeners:
            listener.enqueue(event)

    @contextmanager
    def report_refusal(self) -> Iterator[None]:
        """Report an error that keeps a call from beginning."""
        try:
            yield
        except BaseException as error:
            if not self.is_begun:
                # Other lines may quote the table.
                why = str(error) if isinstance(error, RunStopped) else first_line(error)
                is_interrupt = isinstance(error, KeyboardInterrupt)
                self.report("stopped", "Interrupted before anything was sent." if is_interrupt else why)
                if isinstance(error, Exception):
                    self.wait()
            raise

    def wait(self, timeout_s: float = _END_S) -> None:
        """Wait until every event was delivered, or the time is up."""
        _wait(self._listeners, timeout_s)


class _Listener:
    """Delivers events one after the other, in a daemon thread that lives as long as there are any."""

    def __init__(self, name: str, deliver: Callable[[RunEvent], Any] | _Webhook) -> None:
        self._name = name
        self._deliver = deliver
        self._webhook = deliver if isinstance(deliver, _Webhook) else None
        self._events: deque[RunEvent] = deque()
        self._changing = threading.Condition()
        self._thread: threading.Thread | None = None
        self._logged: set[str] = set()

    def enqueue(self, event: RunEvent) -> None:
        if self._webhook is not None:
            self._webhook.is_ending.clear()
        with self._changing:
            self._events.append(event)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._deliver_all, name=f"dreamo-{self._name}", daemon=True
                )
                self._thread.start()
                _busy.add(self)

    def wait(self, until: float) -> None:
        """Wait until it has delivered its events."""
        if self._webhook is not None:
            self._webhook.is_ending.set()
        with self._changing:
            while self._thread is not None and self._thread.is_alive():  # a forked process has none
                left_s = until - time.monotonic()
                if left_s <= 0:
                    reason = "" if self._webhook is None else self._webhook.failing
                    self._say(f"{reason or 'not done yet'}; not waiting any longer")
                    _busy.discard(self)
                    return
                self._changing.wait(min(left_s, _LOOK_EVERY_S))

    def _deliver_all(self) -> None:
        while True:
            with self._changing:
                if not self._events:
                    self._thread = None
                    self._changing.notify_all()
                    return
                event = self._events.popleft()
            try:
                self._deliver(event)
            except _UndeliveredError as error:
                self._say(str(error))
            except BaseException as error:  # noqa: BLE001 - whatever a user's function raises, the run continues
                self._say(f"{type(error).__name__}: {first_line(error)}", error)

    def _say(self, reason: str, error: BaseException | None = None) -> None:
        if reason not in self._logged:
            self._logged.add(reason)
            logger.warning("%s: %s. The run isn't affected.", self._name, reason, exc_info=error)


class _UndeliveredError(DreamoError):
    """An event that a URL refused; says why without the URL, which may be a secret."""


class _Webhook:
    """A URL that events are posted to, signed as a Standard Webhook if there is a secret; only its host is shown."""

    def __init__(self, url: str) -> None:
        self._place = _place_of(url)
        self._url = url.strip()
        self._secret = _signing_key(os.environ.get(_VARIABLE, "").strip())
        self.is_ending = threading.Event()  # set while somebody waits for the end, to keep retries short
        self.failing = ""  # why the last POST was refused, if it was

    def __call__(self, event: RunEvent) -> None:
        body = event.to_json()
        message_id = f"msg_{hashlib.sha256(body + os.urandom(16)).hexdigest()[:32]}"
        for wait_s in (*_WAITS_S, None):
            refusal, is_passing = self._post(body, message_id)
            self.failing = "" if refusal is None else f"{self._place} didn't accept an event ({refusal})"
            if refusal is None:
                return
            if not is_passing or wait_s is None:
                raise _UndeliveredError(self.failing)
            if self.is_ending.wait(wait_s):
                time.sleep(min(wait_s, _WAIT_AT_END_S))

    def _post(self, body: bytes, message_id: str) -> tuple[str | None, bool]:
        """Post once; return why it was refused (or None), and whether retrying may help."""
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        headers |= self._signature(body, message_id)
        url, credentials = urldefragauth(self._url), get_auth_from_url(self._url)
        try:
            request = Request("POST", url, headers, data=body, auth=credentials if any(credentials) else None)
            # It logs no URL, and leaves no connection open, which would block a single-threaded server.
            with closing(Transport(*_TIMEOUTS_S)) as transport:
                form = form_of(request.prepare())
                answer = transport.send("create", form, [body], max_bytes=_ANSWER_BYTES_MAX)
        except (RequestException, ValueError) as error:
            return type(error).__name__, False
        if isinstance(answer, Failure):
            # Only the kind of error, because its words may quote the server's answer, and so the URL.
            return (answer.message or answer.error_class).partition(":")[0], True
        of_redirect = ", a redirect, which isn't followed" if answer.status in _REDIRECTS else ""
        refusal = None if is_success(answer.status) else f"HTTP {answer.status}{of_redirect}"
        return refusal, answer.status in PASSING

    def _signature(self, body: bytes, message_id: str) -> dict[str, str]:
        if self._secret is None:
            return {}
        at = str(int(time.time()))
        signed = hmac.digest(self._secret, f"{message_id}.{at}.".encode() + body, "sha256")
        return {
            "webhook-id": message_id,
            "webhook-timestamp": at,
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        }


def _place_of(url: object) -> str:
    """Return scheme and host of a URL, for messages; raise without quoting the rest."""
    if isinstance(url, str) and not any(letter.isspace() for letter in url.strip()):
        with suppress(ValueError):
            parts = urlsplit(url.strip())
            port = "" if parts.port is None else f":{parts.port}"
            if parts.scheme in {"http", "https"} and parts.hostname:
                return f"{parts.scheme}://{parts.hostname}{port}"
    raise UsageError(f"{option('notify').rstrip('=')} must be a URL: https://host/path.")


def _signing_key(secret: str) -> bytes | None:
    """Read a secret as Standard Webhooks writes it (base64 after whsec_), or as plain text."""
    if not secret.startswith(_PREFIX):
        return secret.encode() or None
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise UsageError(f"{_VARIABLE} begins with {_PREFIX}, but isn't base64 after that.")
    return key


_busy: Final[weakref.WeakSet[_Listener]] = weakref.WeakSet()


def wait_at_exit(timeout_s: float = _END_S) -> None:
    """Wait until every event was delivered, or the time is up."""
    _wait(list(_busy), timeout_s)


def _wait(listeners: Sequence[_Listener], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    for listener in listeners:
        listener.wait(until)
