"""The errors that stop a whole call.

What goes wrong with one row is a value in the table, never an exception. These are for the rest::

    DreamoError
    ├── UsageError                  bad arguments, nothing was sent            (exit code 2)
    │   ├── TableError              a table can't be read, or has the wrong columns
    │   │   └── InvalidTable        rows that can't be ordered; `.problems` lists all of them
    │   ├── SettingsError           base URL or key can't be used
    │   └── PriceUnknown            a cap without a price: give unit_cost= or pilot=
    ├── DirectoryError              a run directory can't be used              (exit code 2)
    │   ├── DirectoryLocked         another process is writing to it
    │   ├── OtherService            it belongs to another service
    │   └── LedgerDamaged           its ledger can't be trusted, so nothing is bought
    ├── RunStopped                  stopped early; `.results`, `.run_dir`      (exit code 3)
    │   ├── BudgetReached           the cap would be passed
    │   ├── AccessRefused           401, 402 or 403: key, credit or permission
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

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


class DreamoError(Exception):
    """Anything this toolkit raises on purpose."""


class UsageError(DreamoError, ValueError):
    """An argument can't be used; nothing was sent and nothing was bought."""


class TableError(UsageError):
    """A table can't be read, or its columns are not what was expected."""


class InvalidTable(TableError):
    """Rows of the table can't be ordered.

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
    """A cap was given but no price is known, so the cap could not be kept."""


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
    """The next order could pass the cap."""


class AccessRefused(RunStopped):
    """The service refused the key, the credit or the permission (401, 402, 403)."""


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
