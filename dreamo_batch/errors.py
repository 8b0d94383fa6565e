"""The errors that stop a whole call, and loggers whose handlers' errors don't.

A failed row is a value in the table, never an exception. These are for everything else::

    DreamoError
    ├── UsageError                  bad arguments, nothing was sent            (exit code 2)
    │   ├── TableError              a table can't be read, or has the wrong columns
    │   │   └── InvalidTable        rows that can't be submitted; `.problems` lists all of them
    │   ├── SettingsError           base URL or key can't be used
    │   └── PriceUnknown            a cap, but no known price (or none after the pilot): pass unit_cost= or pilot=
    ├── DirectoryError              a run directory can't be used              (exit code 2)
    │   ├── DirectoryLocked         another process is writing to it
    │   ├── OtherService            it belongs to another service
    │   └── LedgerDamaged           its ledger is damaged, so nothing is submitted
    ├── RunStopped                  stopped early; `.results`, `.run_dir`      (exit code 3)
    │   ├── BudgetReached           the next attempt could exceed the cap
    │   ├── AccessRefused           the account or the address was refused: key, credit, permission
    │   ├── KeyMissing              no key for a service that needs one
    │   ├── StorageFailed           the disk is full, read-only or gone
    │   └── ServiceUnreachable      the service was unreachable for too long
    └── ServiceError                one request failed (only from `Client`); `.failure` says how
        ├── RequestRejected         permanent: the same request will fail again
        ├── RequestNotTaken         transient: not accepted, or safe to send again
        ├── ServiceRefused          stop the run: 401, 402, 403
        └── RequestMayHaveArrived   it may have been accepted and billed

Examples
--------
>>> issubclass(BudgetReached, RunStopped)
True
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pandas as pd

    from dreamo_batch.service.failures import Failure

_PACKAGE: Final = __file__.removesuffix("errors.py")
_handled: Final[set[int]] = set()  # signals that no longer end this process


class DreamoError(Exception):
    """Base class of the errors of this package.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> try:
    ...     dreamo.load("runs/no-such-run")
    ... except dreamo.DreamoError as error:
    ...     print(type(error).__name__)
    DirectoryError
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows: the user's own lines."""
        return _rendered(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error with all its attributes, whatever the arguments of the class are."""
        return _again, (type(self), self.args, self.__dict__)


class UsageError(DreamoError, ValueError):
    """An argument can't be used; nothing was sent and nothing was bought.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> try:
    ...     dreamo.sweep(image=[], prompt="on a beach")
    ... except dreamo.UsageError:
    ...     print("an axis without values")
    an axis without values
    """


class TableError(UsageError):
    """A table can't be read, or its columns are not what was expected.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> try:
    ...     dreamo.read_table("no-such-table.csv")
    ... except dreamo.TableError:
    ...     print("check the path")
    check the path
    """


class InvalidTable(TableError):
    """Rows of the table can't be submitted.

    Attributes
    ----------
    problems : pandas.DataFrame
        One line per problem, columns as in `dreamo_batch.columns.PROBLEMS`.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1, -5])
    >>> try:
    ...     dreamo.run(jobs, "runs/invalid", gateway="local")
    ... except dreamo.InvalidTable as error:
    ...     print(error.problems[["row", "column"]].values.tolist())
    [['1', 'seed']]
    """

    def __init__(self, message: str, problems: pd.DataFrame) -> None:
        super().__init__(message)
        self.problems = problems


class SettingsError(UsageError):
    """The base URL or the key can't be used.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> try:
    ...     dreamo.Client(api_key="a key with blanks")
    ... except dreamo.SettingsError:
    ...     print("check DREAMO_API_KEY")
    check DREAMO_API_KEY
    """


class PriceUnknown(UsageError):
    """There is a cap but no known price, so the cap can't be kept.

    Attributes
    ----------
    results : pandas.DataFrame or None
        The table as it stands, if attempts were sent before.
    run_dir : pathlib.Path or None
        The run directory.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=1, size="512x512")
    >>> gateway = dreamo.LocalGateway(precharge="missing")
    >>> try:
    ...     dreamo.run(jobs, tempfile.mkdtemp(), gateway=gateway, max_cost=1, progress=False)
    ... except dreamo.PriceUnknown:
    ...     print("pass unit_cost= or pilot=")
    pass unit_cost= or pilot=
    """

    results: pd.DataFrame | None = None
    run_dir: Path | None = None


class DirectoryError(DreamoError):
    """A run directory can't be used.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> try:
    ...     dreamo.status("runs/no-such-run")
    ... except dreamo.DirectoryError:
    ...     print("no run directory there")
    no run directory there
    """


class DirectoryLocked(DirectoryError):
    """Another process is writing to the run directory.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> def run_or_follow(jobs, run_dir):
    ...     try:
    ...         return dreamo.run(jobs, run_dir)
    ...     except dreamo.DirectoryLocked:
    ...         return dreamo.watch(run_dir).wait()
    """


class OtherService(DirectoryError):
    """The run directory belongs to another service.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> run_dir = tempfile.mkdtemp()
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=1, size="512x512")
    >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> try:
    ...     dreamo.run(jobs, run_dir, api_key="sk-example-key", progress=False)
    ... except dreamo.OtherService:
    ...     print("use another run directory")
    use another run directory
    """


class LedgerDamaged(DirectoryError):
    """The ledger is damaged, so nothing is submitted.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> def what_is_damaged(jobs, run_dir):
    ...     try:
    ...         dreamo.run(jobs, run_dir)
    ...     except dreamo.LedgerDamaged:
    ...         return dreamo.verify(run_dir)
    """


class RunStopped(DreamoError):
    """A run stopped before every row was done; run again to resume.

    Attributes
    ----------
    results : pandas.DataFrame or None
        The table as it stands.
    run_dir : pathlib.Path or None
        The run directory.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> def run_as_far_as_possible(jobs, run_dir, **options):
    ...     try:
    ...         return dreamo.run(jobs, run_dir, **options)
    ...     except dreamo.RunStopped as stopped:
    ...         return stopped.results
    """

    results: pd.DataFrame | None = None
    run_dir: Path | None = None


class BudgetReached(RunStopped):
    """The next attempt could exceed the cap.

    Attributes
    ----------
    results : pandas.DataFrame
        The table as it stands; never None, wherever it is raised.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 4), size="512x512")
    >>> options = {"gateway": "local", "unit_cost": "0.03", "max_cost": "0.03", "progress": False}
    >>> try:
    ...     dreamo.run(jobs, tempfile.mkdtemp(), max_in_flight=1, **options)
    ... except dreamo.BudgetReached as stopped:
    ...     print(stopped.results["status"].isin(["completed", "pending"]).all())
    True
    """

    results: pd.DataFrame


class AccessRefused(RunStopped):
    """The service refused the key, the credit, the permission, or any attempt at this address.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=1, size="512x512")
    >>> with dreamo.LocalGateway() as gateway:
    ...     try:
    ...         dreamo.run(
    ...             jobs, tempfile.mkdtemp(), api_key="sk-wrong", base_url=gateway.base_url, progress=False
    ...         )
    ...     except dreamo.AccessRefused as stopped:
    ...         print(stopped.results["status"].tolist())
    ['pending']
    """


class KeyMissing(RunStopped):
    """The service needs an API key, and none is set.

    Examples
    --------
    >>> import os, tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=1, size="512x512")
    >>> _ = os.environ.pop("DREAMO_API_KEY", None)
    >>> try:
    ...     dreamo.run(jobs, tempfile.mkdtemp(), base_url="https://example.com", progress=False)
    ... except dreamo.KeyMissing:
    ...     print("set DREAMO_API_KEY")
    set DREAMO_API_KEY
    """


class StorageFailed(RunStopped):
    """The run directory can't be written to.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> def run_until_the_disk_is_full(jobs, run_dir):
    ...     try:
    ...         return dreamo.run(jobs, run_dir)
    ...     except dreamo.StorageFailed as stopped:
    ...         return stopped.results  # make room, then call it again
    """


class ServiceUnreachable(RunStopped):
    """The service was unreachable for longer than `task_timeout_s`.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> def run_if_the_service_is_there(jobs, run_dir):
    ...     try:
    ...         return dreamo.run(jobs, run_dir, task_timeout_s=60)
    ...     except dreamo.ServiceUnreachable as stopped:
    ...         return stopped.results  # nothing failed; call it again later
    """


class ServiceError(DreamoError):
    """One request to the service failed.

    Attributes
    ----------
    failure : dreamo_batch.service.failures.Failure
        Its kind, class, HTTP status, code and message.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> request = dreamo.Request("on a beach", 1, 512, 512, True, image_url="https://example.com/fox.png")
    >>> with dreamo.LocalGateway(faults={"script": {"create": ["http_500_after_accept"]}}) as gateway:
    ...     client = dreamo.Client(api_key=gateway.api_key, base_url=gateway.base_url)
    ...     try:
    ...         client.create(request)
    ...     except dreamo.ServiceError as error:
    ...         print(error.failure.http_status)
    500
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class RequestRejected(ServiceError):
    """Permanent: the same request will be answered the same way.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> request = dreamo.Request("on a beach", 1, 512, 512, True, image_url="https://example.com/fox.png")
    >>> with dreamo.LocalGateway(faults={"script": {"create": ["error_code_error_message"]}}) as gateway:
    ...     client = dreamo.Client(api_key=gateway.api_key, base_url=gateway.base_url)
    ...     try:
    ...         client.create(request)
    ...     except dreamo.RequestRejected as error:
    ...         print(type(error).__name__)
    RequestRejected
    """


class RequestNotTaken(ServiceError):
    """Transient: the request was not accepted, or is safe to send again.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> request = dreamo.Request("on a beach", 1, 512, 512, True, image_url="https://example.com/fox.png")
    >>> with dreamo.LocalGateway(faults={"script": {"create": ["http_429"]}}) as gateway:
    ...     client = dreamo.Client(api_key=gateway.api_key, base_url=gateway.base_url)
    ...     try:
    ...         client.create(request)
    ...     except dreamo.RequestNotTaken as error:
    ...         print(error.failure.http_status)
    429
    """


class ServiceRefused(ServiceError):
    """Stop the run: the key, the credit or the permission was refused.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> request = dreamo.Request("on a beach", 1, 512, 512, True, image_url="https://example.com/fox.png")
    >>> with dreamo.LocalGateway(faults={"script": {"create": ["http_401"]}}) as gateway:
    ...     client = dreamo.Client(api_key=gateway.api_key, base_url=gateway.base_url)
    ...     try:
    ...         client.create(request)
    ...     except dreamo.ServiceRefused as error:
    ...         print(error.failure.http_status)
    401
    """


class RequestMayHaveArrived(ServiceError):
    """The request may have been accepted and billed.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> request = dreamo.Request("on a beach", 1, 512, 512, True, image_url="https://example.com/fox.png")
    >>> with dreamo.LocalGateway(faults={"script": {"create": ["drop_after_accept"]}}) as gateway:
    ...     client = dreamo.Client(api_key=gateway.api_key, base_url=gateway.base_url)
    ...     try:
    ...         client.create(request)
    ...     except dreamo.RequestMayHaveArrived as error:
    ...         print(error.failure.error_class)
    no_answer
    """


def _again(kind: type[DreamoError], args: tuple[Any, ...], known: dict[str, Any]) -> DreamoError:
    """Rebuild a pickled error."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(known)
    return error


@contextmanager
def interrupts_without_our_lines() -> Iterator[None]:
    """Show an interrupt in a notebook at the user's line, like the errors above."""
    try:
        yield
    except KeyboardInterrupt as error:
        error._render_traceback_ = functools.partial(_rendered, error)  # type: ignore[attr-defined]
        raise


def take_signals(handle: Callable[[int, FrameType | None], object]) -> list[signal.Signals]:
    """Handle SIGTERM and SIGHUP until `leave_signals`, unless other code does; return the signals taken."""
    is_main = threading.current_thread() is threading.main_thread()
    taken = [n for n in (signal.SIGTERM, signal.SIGHUP) if is_main and signal.getsignal(n) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, handle)
    _handled.update(taken)
    return taken


def leave_signals(numbers: Iterable[int]) -> None:
    """Let these signals end the process again."""
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    _handled.difference_update(numbers)


os.register_at_fork(after_in_child=lambda: leave_signals(list(_handled)))


def users_lines(error: BaseException) -> TracebackType | None:
    """Return the part of a traceback outside this package; all of it if there is none."""
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
    """Hide the cause of an error whose message already states it."""
    before = error.__cause__, error.__suppress_context__
    error.__cause__ = None  # this suppresses the context, too
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
    """Wrap an exception hook so that it omits this package's lines from the errors above."""

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


class UnfailingLogger(logging.Logger):
    """A logger that reports a handler's exception once, on standard error, and continues."""

    _has_failed = False

    def handle(self, record: logging.LogRecord) -> None:
        """Pass a record to the filters and handlers."""
        try:
            super().handle(record)
        except Exception as error:  # noqa: BLE001 - whatever a handler does
            if not UnfailingLogger._has_failed:
                UnfailingLogger._has_failed = True
                with suppress(Exception):
                    sys.stderr.write(f"dreamo_batch: a logging handler failed ({error!r}); continuing.\n")


def logger_named(name: str) -> logging.Logger:
    """Return a logger by name, with errors of handlers caught unless somebody replaced its class."""
    logger = logging.getLogger(name)
    if type(logger) is logging.Logger:
        logger.__class__ = UnfailingLogger
    return logger


# These log during paid work, to the user's handlers.
for _name in ("asyncio", "filelock", "urllib3.connectionpool", "PIL.PngImagePlugin", "PIL.TiffImagePlugin"):
    logger_named(_name)


def warn(text: str) -> None:
    """Warn at the user's line; if warnings are errors, log instead, because paid work must continue."""
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_stack(sys._getframe())]  # noqa: SLF001 - this thread's own stack
    outermost = max(n for n, name in enumerate(modules, 1) if name.startswith("dreamo_batch."))
    # A thread started directly with our function has no line of the user's.
    has_caller = [name.partition(".")[0] not in sys.stdlib_module_names for name in modules[outermost:][:1]]
    try:
        warnings.warn(text, stacklevel=outermost + any(has_caller))
    except Warning:
        logger_named(__name__).warning("%s", text)
