"""What every request passes first: the key, and the size and packing of its body."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from fastapi import Request, Response

from dreamo_batch.local.error_bodies import error_answer

if TYPE_CHECKING:
    from dreamo_batch.local.answers import Answer

# Base64 of the largest picture allowed, and room for the rest.
BODY_BYTES_MAX = 8 * 2**20


class Halt(Exception):  # noqa: N818 - it is an answer on its way out
    """Ends a request with an answer.

    Parameters
    ----------
    answer : Answer
        What the client gets.

    Examples
    --------
    >>> Halt(error_answer(401, "401", "no key")).answer.status
    401
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Door:
    """Lets in whoever has the key.

    Checked in each endpoint, not by FastAPI's dependencies, which would cost a tenth of a request.

    Parameters
    ----------
    api_key : str
        The key.

    Examples
    --------
    >>> Door("secret")
    <Door>
    """

    def __init__(self, api_key: str) -> None:
        self._credentials = b"bearer " + api_key.encode()

    def __repr__(self) -> str:
        return "<Door>"

    def check(self, request: Request) -> None:
        """Check the key of a request.

        Parameters
        ----------
        request : Request
            The request.

        Raises
        ------
        Halt
            With 401 if it has not the key.
        """
        given = request.headers.get("authorization", "").encode("latin-1")
        # The scheme's letters may have any case, the key's may not.
        if not hmac.compare_digest(given[:7].lower() + given[7:], self._credentials):
            raise Halt(error_answer(401, "401", "API key missing or invalid"))


async def read_body(request: Request) -> bytes:
    """Read a request's body, up to the limit.

    Parameters
    ----------
    request : Request
        The request.

    Returns
    -------
    bytes

    Raises
    ------
    Halt
        With 413 if it is too large, 415 if it is packed (and so might unpack to anything).
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Halt(error_answer(415, "415", "send the body as it is, without Content-Encoding"))
    chunks, n_bytes = [], int(request.headers.get("content-length", "0"))
    if n_bytes <= BODY_BYTES_MAX:
        n_bytes = 0
        async for chunk in request.stream():
            chunks.append(chunk)
            n_bytes += len(chunk)
            if n_bytes > BODY_BYTES_MAX:
                break
    if n_bytes > BODY_BYTES_MAX:
        raise Halt(error_answer(413, "413", f"the body is larger than {BODY_BYTES_MAX} bytes"))
    return b"".join(chunks)


def plain(answer: Answer) -> Response:
    """Make a response of an answer as it is.

    Parameters
    ----------
    answer : Answer
        What to say.

    Returns
    -------
    Response

    Examples
    --------
    >>> plain(error_answer(404, "404", "no such file")).status_code
    404
    """
    return Response(answer.body, answer.status, dict(answer.headers), answer.media_type)
