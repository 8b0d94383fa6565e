"""A failure as a value: its kind, its class, and what is known of it.

Examples
--------
>>> failure = Failure(Kind.TRANSIENT, RATE_LIMITED, 429, retry_after_s=3.0)
>>> failure.kind == "transient", str(failure)
(True, 'rate_limited (HTTP 429): no reason given; wait, then ask again')
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from dreamo_batch.service.harmless import harmless

REJECTED: Final = "rejected"
MODERATION: Final = "moderation"
OUTPUT_REJECTED: Final = "output_rejected"
GENERATION_ERROR: Final = "generation_error"
UPSTREAM_ERROR: Final = "upstream_error"
CREATION_ERROR: Final = "creation_error"
SERVICE_ERROR: Final = "service_error"
COMPLETED_WITH_ERROR: Final = "completed_with_error"
RATE_LIMITED: Final = "rate_limited"
UNREACHABLE: Final = "unreachable"
SERVER_ERROR: Final = "server_error"
ACCESS_REFUSED: Final = "access_refused"
FORBIDDEN: Final = "forbidden"
NO_CREDIT: Final = "no_credit"
NOT_OFFERED: Final = "not_offered"
NO_ANSWER: Final = "no_answer"
UNREADABLE: Final = "unreadable"
TASK_NOT_FOUND: Final = "task_not_found"
OTHER_TASK: Final = "other_task"
TASK_TIMEOUT: Final = "task_timeout"
REDIRECTED: Final = "redirected"
NOT_BUILT: Final = "not_built"

_ADVICE: Final = {
    ACCESS_REFUSED: "check the API key, its permissions and the account's credit",
    FORBIDDEN: "a firewall may dislike this prompt or picture, or the key lacks a permission",
    NO_CREDIT: "add credit to the account",
    NOT_OFFERED: "the service doesn't take this request; check the base URL and the model",
    RATE_LIMITED: "wait, then ask again",
    UNREACHABLE: "nothing was sent; check the network, the proxy and the base URL",
    REDIRECTED: "redirects are not followed; check the base URL",
    NOT_BUILT: "nothing was sent",
    MODERATION: "the prompt or the picture was refused; change it",
    OUTPUT_REJECTED: "the finished picture was refused; try another seed",
}
_ADVICE_BY_CAUSE: Final = {
    "certificate": "set REQUESTS_CA_BUNDLE or SSL_CERT_FILE to your network's CA bundle",
    "host": "check the base URL (base_url=, DREAMO_BASE_URL), the network and its DNS; behind a proxy set HTTPS_PROXY",
    "proxy": "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY; the proxy may need a user and password",
    "scheme": "check whether the base URL should begin with http:// or https://, and its port",
}
_ADVICE_BY_KIND: Final = {
    "permanent": "the same request will fail again",
    "transient": "it may be asked again",
    "stop": "nothing more will be taken until this is settled",
    "may_have_arrived": "it may have been taken and billed, so look before sending it again",
}


class Kind(enum.StrEnum):
    """What to do about a failure.

    Examples
    --------
    >>> Kind.STOP == "stop"
    True
    """

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    STOP = "stop"
    MAY_HAVE_ARRIVED = "may_have_arrived"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request or task.

    Attributes
    ----------
    kind : Kind
    error_class : str
        One word, as in the results.
    http_status : int or None
        None if there was no answer.
    code, message : str or None
        The service's, or the exception's words.
    retry_after_s : float or None
        How long the service asks to be left alone.
    excerpt : str or None
        At most 2 kB of an answer that did not read as documented.
    is_outage : bool
        The service is away: a fault of the connection, or 5xx.
    task_id : str or None
        Of a create whose answer broke off after its id: still unproven, but where to look.
    cause : {'certificate', 'host', 'proxy', 'scheme'} or None
        Why there is no connection, if waiting doesn't mend it.

    Examples
    --------
    >>> print(Failure(Kind.PERMANENT, "rejected", 400, "003011001", "Missing prompt"))
    rejected (HTTP 400, code 003011001): Missing prompt; the same request will fail again
    """

    kind: Kind
    error_class: str
    http_status: int | None = None
    code: str | None = None
    message: str | None = None
    retry_after_s: float | None = None
    excerpt: str | None = None
    is_outage: bool = False
    task_id: str | None = None
    cause: str | None = None

    def __str__(self) -> str:
        details = (
            f"HTTP {self.http_status}" if self.http_status is not None else "",
            f"code {self.code}" if self.code else "",
            f"task {self.task_id}" if self.task_id else "",
        )
        known = ", ".join(filter(None, details))
        advice = _ADVICE_BY_CAUSE.get(self.cause or "") or _ADVICE.get(
            self.error_class, _ADVICE_BY_KIND[self.kind.value]
        )
        told = f"{self.error_class}{f' ({known})' if known else ''}: {self.message or 'no reason given'}; {advice}"
        return harmless(told)  # a traceback or a log shows it as it is
