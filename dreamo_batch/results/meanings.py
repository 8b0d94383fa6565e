"""What each kind of failure means, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dreamo_batch import columns
from dreamo_batch.execution import outcomes
from dreamo_batch.service import failure
from dreamo_batch.service.parameters import ERROR_CODES

# Class of a picture that was made and could not be saved; the row itself is completed.
NOT_SAVED: Final = "not_saved"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a failure means, and what to do.

    Examples
    --------
    >>> Meaning("Missing prompt", "Fix the row.").advice
    'Fix the row.'
    """

    meaning: str
    advice: str


_LOOK_FIRST: Final = "Look at the service's own list or bill, then settle it with resolve, or order again."
_MAY_HAVE_ARRIVED: Final = "It may have been taken and billed: "

_CLASSES: Final = {
    failure.REJECTED: Meaning("The service refused the request; nothing was ordered.", "Fix the row."),
    failure.MODERATION: Meaning(
        "The prompt or the picture was refused for its content.", "Change the row; the same one fails again."
    ),
    failure.FORBIDDEN: Meaning(
        "The service, or a firewall before it, refused this row with 403 and took others; nothing was ordered.",
        "Change the row's prompt or picture, then retry.",
    ),
    failure.NO_CREDIT: Meaning("The account has no credit.", "Add credit, then retry."),
    failure.OTHER_TASK: Meaning(
        _MAY_HAVE_ARRIVED + "the create was answered with the task of another order.", _LOOK_FIRST
    ),
    failure.OUTPUT_REJECTED: Meaning(
        "The finished picture was refused for its content.", "Try another seed: another picture may pass."
    ),
    failure.SERVICE_ERROR: Meaning(
        "The service named an error that is not documented.", "Read its message; it may be billed."
    ),
    failure.COMPLETED_WITH_ERROR: Meaning(
        "The task ended both completed and with an error; it may be billed.", "Retry on request."
    ),
    failure.NO_ANSWER: Meaning(_MAY_HAVE_ARRIVED + "the create was sent, and no answer came.", _LOOK_FIRST),
    failure.SERVER_ERROR: Meaning(
        _MAY_HAVE_ARRIVED + "the create was answered by an error of the server.", _LOOK_FIRST
    ),
    failure.UNREADABLE: Meaning(_MAY_HAVE_ARRIVED + "the answer to the create can't be read.", _LOOK_FIRST),
    failure.REDIRECTED: Meaning(
        _MAY_HAVE_ARRIVED + "the create was answered by a redirect, which is never followed.",
        "Check the base URL. " + _LOOK_FIRST,
    ),
    outcomes.INTERRUPTED: Meaning(
        _MAY_HAVE_ARRIVED + "the program ended before the answer came.", _LOOK_FIRST
    ),
    outcomes.TASK_LOST: Meaning(
        "The service took the order and does not know it any more; it may be billed.", "Retry on request."
    ),
    outcomes.TASK_TIMEOUT: Meaning(
        "The task had not ended when the call stopped waiting.",
        "Run again: it is asked for, not ordered, again.",
    ),
    failure.NOT_BUILT: Meaning(
        "The request could not be built on this machine; nothing was sent.",
        "Read its message, then retry.",
    ),
    outcomes.IMAGE_CHANGED: Meaning(
        "The reference picture is not the one that was checked; nothing was sent.",
        "Put it back, or run again.",
    ),
    columns.INVALID: Meaning("The row can't be ordered; nothing was sent.", "Fix the row, then run again."),
    NOT_SAVED: Meaning(
        "The picture was made and paid, and could not be saved.",
        "Run again: it is fetched, not ordered, again.",
    ),
}
# What the same row gets again, however often it is ordered.
_FAILS_AGAIN: Final = frozenset(
    {failure.REJECTED, failure.MODERATION, failure.FORBIDDEN, failure.OUTPUT_REJECTED}
)
_UNKNOWN: Final = Meaning("The row could not be worked off.", "Read its message.")


def meaning_of(error_class: str | None, error_code: str | None) -> Meaning:
    """Explain a failure by its code where that is documented, else by its class.

    Moderation has no code of its own: it comes under the codes of other errors, and means something else.

    Examples
    --------
    >>> meaning_of("creation_error", "003011099").meaning
    'Task creation error'
    >>> meaning_of("moderation", "003011095").advice
    'Change the row; the same one fails again.'
    """
    known = ERROR_CODES.get(error_code or "")
    if known is not None and known.error_class == error_class:
        return Meaning(known.meaning, known.advice)
    return _CLASSES.get(error_class or "", _UNKNOWN)


def may_pass_again(error_class: str | None) -> bool:
    """Whether the same row, ordered again, may end otherwise.

    Examples
    --------
    >>> may_pass_again("moderation"), may_pass_again("no_answer")
    (False, True)
    """
    return error_class not in _FAILS_AGAIN


def classes() -> frozenset[str]:
    """Return every class of failure that this package knows.

    Examples
    --------
    >>> "moderation" in classes(), "moderatoin" in classes()
    (True, False)
    """
    return frozenset(_CLASSES) | {code.error_class for code in ERROR_CODES.values() if code.error_class}
