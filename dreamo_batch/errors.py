"""The errors that stop a whole call.

What goes wrong with one row is a value in the table, never an exception. These are for the rest::

    DreamoError
    ├── UsageError                  bad arguments, nothing was sent            (exit code 2)
    │   ├── TableError              a table can't be read, or has the wrong columns
    │   │   └── InvalidTable        rows that can't be submitted; `.problems` lists all of them
    │   ├── SettingsError           base URL or key can't be used
    │   └── PriceUnknown            a cap without a price: give unit_cost= or pilot=
    ├── DirectoryError              a run directory can't be used              (exit code 2)
    │   ├── DirectoryLocked         another process is writing to it
    │   ├── OtherService            it belongs to another service
    │   └── LedgerDamaged           its ledger can't be trusted, so nothing is bought
    ├── RunStopped                  stopped early; `.results`, `.run_dir`      (exit code 3)
    │   ├── BudgetReached           the cap would be passed
    │   ├── AccessRefused           the account or the address was refused: key, credit, permission
    │   ├── KeyMissing              no key for a service that needs one
    │   ├── StorageFailed           the disk is full, read-only or gone
    │   └── ServiceUnreachable      the service stayed away
    └── ServiceError                one request failed (only from `Client`); `.failure` says how
        ├── RequestRejected         permanent: the same request will fail again
        ├── RequestNotTaken         transient: nothing arrived, or it may be asked again
        ├── ServiceRefused          stop the run: 401, 402, 403
        └── RequestMayHaveArrived   no one knows whether it was taken and billed

Examples
--------
>>> issubclass(BudgetReached, RunStopped)
True
"""

from __future__ import annotations

import functools
import os
import sys
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pandas as pd

_PACKAGE: Final = __file__.removesuffix("errors.py")


class DreamoError(Exception):
    """Anything this toolkit raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows: the user's own lines."""
        return _rendered(self)


class UsageError(DreamoError, ValueError):
    """An argument can't be used; nothing was sent and nothing was bought."""


class TableError(UsageError):
    """A table can't be read, or its columns are not what was expected."""


class InvalidTable(TableError):
    """Rows of the table can't be submitted.

    Attributes
    ----------
    problems : pandas.DataFrame
        One line per problem, columns as in `dreamo_batch.columns.PROBLEMS`.
    """

    def __init__(self, message: str, problems: pd.DataFrame) -> None:
        super().__init__(message)
        self.problems = problems


class SettingsError(UsageError):
    """The base URL or the key can't be used."""


class PriceUnknown(UsageError):
    """A cap was given but no price is known, so the cap could not be kept.

    Attributes
    ----------
    results : pandas.DataFrame or None
        The table as it stands, where attempts had been sent before that was found out.
    run_dir : pathlib.Path or None
        Where the run is kept.
    """

    results: pd.DataFrame | None = None
    run_dir: Path | None = None


class DirectoryError(DreamoError):
    """A run directory can't be used."""


class DirectoryLocked(DirectoryError):
    """Another process is writing to the run directory."""


class OtherService(DirectoryError):
    """The run directory belongs to another service."""


class LedgerDamaged(DirectoryError):
    """The ledger can't be trusted, so nothing may be bought on its word."""


class RunStopped(DreamoError):
    """A run stopped before every row was done; run again to go on.

    Attributes
    ----------
    results : pandas.DataFrame or None
        The table as it stands.
    run_dir : pathlib.Path or None
        Where the run is kept.
    """

    def __init__(
        self, message: str, *, results: pd.DataFrame | None = None, run_dir: Path | None = None
    ) -> None:
        super().__init__(message)
        self.results = results
        self.run_dir = run_dir


class BudgetReached(RunStopped):
    """The next attempt could pass the cap."""


class AccessRefused(RunStopped):
    """The service refused the key, the credit, the permission, or any attempt at this address."""


class KeyMissing(RunStopped):
    """No API key was given for a service that needs one."""


class StorageFailed(RunStopped):
    """The run directory can't be written to."""


class ServiceUnreachable(RunStopped):
    """The service could not be reached for longer than the run was told to wait."""


class ServiceError(DreamoError):
    """One request to the service failed.

    Attributes
    ----------
    failure : dreamo_batch.service.failures.Failure
        What is known of it: kind, class, HTTP status, code, message.
    """

    def __init__(self, failure: Any) -> None:
        super().__init__(str(failure))
        self.failure = failure


class RequestRejected(ServiceError):
    """Permanent: the same request will be answered the same way."""


class RequestNotTaken(ServiceError):
    """Transient: nothing arrived, or the question may simply be asked again."""


class ServiceRefused(ServiceError):
    """Stop the run: the key, the credit or the permission was refused."""


class RequestMayHaveArrived(ServiceError):
    """The request may have been taken and billed, and nobody can tell."""


def path_given(name: str, path: object) -> str:
    """Return a path that was given as an argument, as text.

    Raises
    ------
    UsageError
        If it is none; the message names the argument.

    Examples
    --------
    >>> path_given("run_dir", "")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.UsageError: run_dir is empty; give the path of a file or folder, such as 'runs/first'.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        attempt = " The table comes first, then run_dir." if hasattr(path, "columns") else ""
        raise UsageError(
            f"{name} must be a path, such as 'runs/first', not a {type(path).__name__}.{attempt}"
        )
    if not text.strip():
        raise UsageError(f"{name} is empty; give the path of a file or folder, such as 'runs/first'.")
    return text


@contextmanager
def interrupts_without_our_lines() -> Iterator[None]:
    """Let a notebook show an interrupt as it shows the errors above: at the user's own line."""
    try:
        yield
    except KeyboardInterrupt as error:
        error._render_traceback_ = functools.partial(_rendered, error)  # type: ignore[attr-defined]
        raise


def users_lines(error: BaseException) -> TracebackType | None:
    """Return an error's traceback up to the call of this package; all of it if it did not begin outside."""
    entries = []
    entry = error.__traceback__
    while entry is not None and not entry.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        entries.append(entry)
        entry = entry.tb_next
    if entry is None:
        return error.__traceback__
    lines = None
    for entry in reversed(entries):
        lines = TracebackType(lines, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return lines or error.__traceback__


@contextmanager
def _alone(error: BaseException) -> Iterator[None]:
    """Leave out what led to an error inside this package; its message says it."""
    before = error.__cause__, error.__suppress_context__
    error.__cause__ = None  # suppresses the context, too
    try:
        yield
    finally:
        error.__cause__, error.__suppress_context__ = before


def _rendered(error: BaseException) -> list[str]:
    from IPython import get_ipython

    shown: Any = get_ipython().InteractiveTB
    with _alone(error):
        lines: list[str] = shown.structured_traceback(
            type(error), error, users_lines(error), tb_offset=shown.tb_offset
        )
    return lines


def _shown_at_the_users_line(show: Callable[..., Any]) -> Callable[..., Any]:
    """Make what shows the error that ends a script leave out this package's lines, where it raised on purpose."""

    @functools.wraps(show)
    def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        if not isinstance(error, DreamoError | KeyboardInterrupt):
            return show(kind, error, trace)
        lines = users_lines(error)
        if lines is error.__traceback__:
            return show(kind, error, trace)
        error.__traceback__ = lines
        with _alone(error):
            return show(kind, error, lines)

    return show_error


sys.excepthook = _shown_at_the_users_line(sys.excepthook)
