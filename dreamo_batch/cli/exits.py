"""Exit codes: the one place where errors and results become a number.

0: every row completed and its picture saved. 1: finished, but not all of them. 2: nothing was done, because of the
command line, the table or the directory. 3: stopped early; the same command again goes on.

Examples
--------
>>> from dreamo_batch.errors import BudgetReached, TableError
>>> of_error(TableError("no column 'prompt'")), of_error(BudgetReached("the cap is reached"))
(2, 3)
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
# The disk, or the terminal that was written to, went away: nothing is wrong with what was asked for.
_GONE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EPIPE)


def of_results(results: pd.DataFrame, *, with_pictures: bool = True) -> int:
    """Give the code of a run that came to its end.

    Parameters
    ----------
    results : pandas.DataFrame
        Results of the table, columns of `dreamo_batch.columns.OUTPUTS`.
    with_pictures : bool
        Whether the pictures were to be saved.

    Returns
    -------
    int
        3 while rows are open, else 1 if one is not as wanted, else 0.

    Examples
    --------
    >>> import pandas as pd
    >>> of_results(pd.DataFrame({"status": ["completed", "failed"], "output_path": ["a.jpg", None]}))
    1
    """
    status = results[columns.STATUS]
    if status.isin(_OPEN).any():
        return STOPPED
    is_done = status == columns.COMPLETED
    if with_pictures:
        is_done &= results[columns.OUTPUT_PATH].notna()
    return DONE if is_done.all() else NOT_ALL


def of_error(error: BaseException) -> int:
    """Give the code of a command that ended with an exception.

    Parameters
    ----------
    error : BaseException
        What reached the top.

    Returns
    -------
    int
        2 if what was asked for can't be done, 3 if it was stopped.

    Examples
    --------
    >>> of_error(KeyboardInterrupt()), of_error(FileNotFoundError(2, "No such file"))
    (3, 2)
    """
    match error:
        case click.exceptions.Exit(exit_code=code):
            return code
        case RunStopped() | ServiceError():
            return STOPPED
        case DreamoError() | click.ClickException() | ModuleNotFoundError():
            return UNUSABLE
        case OSError(errno=number):
            return STOPPED if number in _GONE else UNUSABLE
        case _:  # an interrupt, or an error of ours: what was bought is on disk
            return STOPPED
