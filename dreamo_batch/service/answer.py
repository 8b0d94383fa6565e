"""One answer, read with a bound on its size, whether or not it arrives whole.

Examples
--------
>>> answer = Answer(200, {}, b'{"id": "cq0example"}')
>>> answer.is_success, answer.broken
(True, None)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import urllib3

from dreamo_batch.service.failures import UNREADABLE, Failure, Operation, from_exception

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

ERROR_BYTES_MAX: Final = 64 * 1024
_PIECE_BYTES: Final = 64 * 1024


class AnswerTooLong(urllib3.exceptions.HTTPError):
    """An answer is longer than it may be, as it came or unpacked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; its repr tells no more than the status, because answers may repeat a key.

    Attributes
    ----------
    status : int
        HTTP status.
    headers : mapping of str to str
    body : bytes
        Unpacked; of an error no more than its first 64 kB.
    broken : Failure or None
        Why the body is not whole; errors need none, their status says it all.

    Examples
    --------
    >>> Answer(404, {}, b"").is_success
    False
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    broken: Failure | None = field(default=None, repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


def read_answer(operation: Operation, response: requests.Response, *, max_bytes: int) -> Answer:
    """Read an answer to its end.

    Parameters
    ----------
    operation : {'create', 'fetch', 'precharge', 'download'}
    response : requests.Response
        With its body still to come.
    max_bytes : int
        Most that a success may hold, unpacked, in bytes.

    Returns
    -------
    Answer

    Examples
    --------
    >>> import io, requests, urllib3
    >>> response = requests.Response()
    >>> response.status_code, response.raw = 200, urllib3.HTTPResponse(io.BytesIO(b"{}"), preload_content=False)
    >>> read_answer("fetch", response, max_bytes=1000).body
    b'{}'
    """
    answer = Answer(response.status_code, response.headers, b"")
    pieces: list[bytes] = []
    try:
        if answer.is_success:
            _collect(response.raw, pieces, max_bytes)
        else:
            _collect_beginning(response.raw, pieces)
    except Exception as error:  # noqa: BLE001 - whatever breaks a body, the status stands and is what decides
        answer = replace(answer, broken=_broken(operation, error, answer))
    return replace(answer, body=b"".join(pieces))


def _collect(raw: urllib3.HTTPResponse, pieces: list[bytes], max_bytes: int) -> None:
    if (raw.length_remaining or 0) > max_bytes:
        raise AnswerTooLong(
            f"the answer holds {raw.length_remaining} bytes; at most {max_bytes} bytes are read"
        )
    n_bytes = 0
    # read1 gives what one look at the socket brought, so that what came before a break is kept.
    while piece := raw.read1(_PIECE_BYTES, decode_content=True):
        n_bytes += len(piece)
        if n_bytes > max_bytes:
            raise AnswerTooLong(f"the answer is longer than the {max_bytes} bytes that are read")
        pieces.append(piece)


def _collect_beginning(raw: urllib3.HTTPResponse, pieces: list[bytes]) -> None:
    left_bytes = ERROR_BYTES_MAX
    while left_bytes > 0 and (piece := raw.read1(left_bytes, decode_content=True)):
        left_bytes -= len(piece)
        pieces.append(piece)


def _broken(operation: Operation, error: Exception, answer: Answer) -> Failure | None:
    if not answer.is_success:
        return None
    failure = replace(from_exception(operation, error, was_sent=True), http_status=answer.status)
    if isinstance(error, AnswerTooLong | urllib3.exceptions.DecodeError):
        return replace(failure, error_class=UNREADABLE, is_outage=False)
    return failure
