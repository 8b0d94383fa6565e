"""Exit codes: what errors and results become when the process ends.

0: every row completed and its picture saved. 1: finished, but not all of them. 2: nothing was done, because of the
command line, the table or the directory. 3: stopped early; the same command again resumes.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import click

from dreamo_batch import columns
from dreamo_batch.errors import DreamoError, RunStopped, ServiceError

if TYPE_CHECKING:
    import pandas as pd

DONE: Final = 0
NOT_ALL: Final = 1
UNUSABLE: Final = 2
STOPPED: Final = 3

MEANINGS: Final = {
    DONE: "Every row completed and its picture saved (unless `--no-download`).",
    NOT_ALL: "Finished with failed, ambiguous or invalid (skipped) rows or pictures that could not be saved; "
    "`status --verify` found damage.",
    UNUSABLE: "Usage, unreadable or invalid table, missing `--yes`, cap without a price, directory in use, of another "
    "service, or unreadable.",
    STOPPED: "Interrupt, budget, access refused, no key, disk, outage, rows still in progress: run again to resume.",
}

_OPEN: Final = (columns.PENDING, columns.SUBMITTING, columns.IN_PROGRESS)
# The disk or the terminal is gone; nothing is wrong with the arguments.
_GONE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EPIPE)


def of_results(results: pd.DataFrame, *, with_pictures: bool = True) -> int:
    """Return the code of a run that has ended."""
    status = results[columns.STATUS]
    if status.isin(_OPEN).any():
        return STOPPED
    is_done = status == columns.COMPLETED
    if with_pictures:
        is_done &= results[columns.OUTPUT_PATH].notna()
    return DONE if is_done.all() else NOT_ALL


def of_error(error: BaseException) -> int:
    """Return the code of a command that ended with an exception."""
    match error:
        case click.exceptions.Exit(exit_code=code):
            return code
        case RunStopped() | ServiceError():
            return STOPPED
        case DreamoError() | click.ClickException() | ModuleNotFoundError():
            return UNUSABLE
        case OSError(errno=number):
            return STOPPED if number in _GONE else UNUSABLE
        case _:  # an interrupt or a bug: what was bought is on disk
            return STOPPED
