"""`Batch`: a run in the background, as a notebook holds it; and `start` and `watch`, which give one."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from dreamo_batch.batch.connection import service_given
from dreamo_batch.batch.following import Follower
from dreamo_batch.batch.foreground import in_front
from dreamo_batch.batch.running import made_ready
from dreamo_batch.batch.work import Work, begin, cap_of, work_on
from dreamo_batch.errors import PriceUnknown, RunStopped, UsageError
from dreamo_batch.execution.directory import RunDirectory
from dreamo_batch.execution.options import RunOptions
from dreamo_batch.execution.progress import Progress, Silent, dollars, shown
from dreamo_batch.importing import load
from dreamo_batch.results import summary

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Generator
    from decimal import Decimal
    from pathlib import Path
    from types import TracebackType

    import pandas as pd

    from dreamo_batch.batch.connection import Gateway
    from dreamo_batch.batch.moment import Status
    from dreamo_batch.service.client import Client

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.1


class Batch:
    """A run in the background; `start` and `watch` give one.

    Shown in a notebook it is a dashboard. Every `Batch` of one directory in this process shows the same run, also
    after another `start` went on with it. A process that ends stops its runs; `start` or `run` on the same directory
    goes on.

    Attributes
    ----------
    run_dir : Path
        The run directory.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> with dreamo.start(jobs, tempfile.mkdtemp(), gateway="local") as live:
    ...     done = live.wait(progress=False)
    >>> live.status.phase, live.status.n_settled
    ('finished', 2)
    """

    def __init__(self, source: Work | Follower) -> None:
        self._source = source
        self._follower: Follower | None = None

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return self._source.directory.path

    @property
    def status(self) -> Status:
        """How the run stands: an immutable `Status` with counts, money, rate, errors and newest pictures."""
        return self._teller().status()

    @property
    def can_control(self) -> bool:
        """Whether the run is this process's own to pause, stop and go on with."""
        return isinstance(self._source, Work) and not self._source.is_taken_over

    def results(self) -> pd.DataFrame:
        """Give the table as it stands now, as `run` would.

        Returns
        -------
        pandas.DataFrame
            The table with the columns of `dreamo_batch.columns.OUTPUTS`; rows under way are ``in_progress``.
        """
        return self._teller().results()

    def pause(self) -> None:
        """Order nothing more for now; what is in flight is finished and saved.

        Raises
        ------
        UsageError
            If somebody else works on the run.
        DirectoryLocked
            If this process was forked off the one that works on it.
        """
        self._own("pause").pause()

    def resume(self) -> None:
        """Go on after `pause`, `stop`, or whatever stopped the run; failed rows stay as they are.

        A `max_new_cost` given to `start` is not granted anew: it binds everything that this batch orders.

        Raises
        ------
        UsageError
            If somebody else works on the run.
        DirectoryError, RunStopped
            As `start`.
        """
        self._own("resume").resume()

    def stop(self) -> None:
        """Send nothing more. Creates on the wire are still recorded; what is in flight is picked up by the next call.

        Raises
        ------
        UsageError
            If somebody else works on the run.
        """
        self._own("stop").stop()

    def raise_budget(self, max_cost: float | str | Decimal) -> None:
        """Set a higher cap; a run that the old one had stopped goes on.

        Parameters
        ----------
        max_cost : float, str or Decimal
            Cap in USD over everything ever ordered in the directory, stored like that of `run`; infinity lifts it.

        Raises
        ------
        UsageError
            If it is no amount or not higher than the cap in force, or somebody else works on the run.
        """
        self._own("raise_budget").raise_budget(cap_of(max_cost))

    def retry(
        self,
        rows: Collection[Any] | pd.Series | None = None,
        classes: str | Collection[str] | None = None,
    ) -> None:
        """Order failed rows again, each once, beside what is under way.

        Parameters
        ----------
        rows, classes
            As for `dreamo_batch.retry`: by default every row that has failed so far; ambiguous ones only if named.

        Raises
        ------
        UsageError
            If a label is not in the table, or somebody else works on the run.
        """
        self._own("retry").retry(rows, classes)

    def wait(self, timeout_s: float | None = None, *, progress: bool = True) -> pd.DataFrame:
        """Wait until the run is over, and give the table back.

        An interrupt ends the waiting only: the run goes on.

        Parameters
        ----------
        timeout_s : float, optional
            Seconds to wait at most; the table is then given as it stands (see `status`).
        progress : bool
            Show a bar and lines on standard error meanwhile.

        Returns
        -------
        pandas.DataFrame
            As from `run`.

        Raises
        ------
        RunStopped
            What stopped the run early, as `run` raises it; not after `stop`.
        """
        __tracebackhide__ = True  # a notebook shows the user's own line, not ours
        with in_front():
            bar = shown(self.status, show=progress)
            try:
                is_over = self._watch(bar, timeout_s)
            except KeyboardInterrupt:
                bar.say(
                    f"waiting no longer; the run goes on in the background ({self.run_dir}), .stop() stops it."
                )
                raise
            finally:
                bar.close()
            return self._end(bar) if is_over else self.results()

    def panel(self) -> Any:
        """Give the dashboard of the run: an ipywidgets widget that stays up to date by itself.

        Where it can't be built, the reason is logged and the run itself is returned, which goes on.
        """
        return self._shown(lambda: _panels().panel(self), otherwise=self)

    def __enter__(self) -> Self:
        """Use the run for as long as the block lasts."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the run at the end of the block; stop it if the block failed."""
        if not self.can_control:
            return
        if error is None:
            self.wait(progress=False)
        else:
            self.stop()

    def __await__(self) -> Generator[Any, None, pd.DataFrame]:
        """Wait without holding up a notebook's buttons; gives the table back."""
        return self._until_over().__await__()

    def __repr__(self) -> str:
        status = self.status
        cap = "" if status.max_cost_usd is None else f" of ${dollars(status.max_cost_usd)}"
        return (
            f"<Batch {self.run_dir}: {status.phase}, {status.n_settled} of {status.n_rows} rows settled, "
            f"${dollars(status.spent_usd)}{cap} spent>"
        )

    def _repr_mimebundle_(self, **_: Any) -> Any:
        return self._shown(lambda: _panels().mimebundle(self), otherwise={"text/plain": repr(self)})

    def _ipython_display_(self) -> None:
        """Display the dashboard so that the output is known, and its last state can be left in it."""
        self._shown(lambda: _panels().show(self), otherwise=None)

    def _shown(self, show: Callable[[], Any], *, otherwise: Any) -> Any:
        """Show the run; a cell that can't show it does not fail, since the run goes on behind it."""
        try:
            return show()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the notebook
            logger.warning("the panel can't be shown (%r); the run goes on: %r", error, self)
            return otherwise

    async def _until_over(self) -> pd.DataFrame:
        while not self.status.is_over:  # noqa: ASYNC110 - the end comes from a thread, not from this loop
            await asyncio.sleep(_LOOK_EVERY_S)
        return self._end(Silent())

    def _watch(self, bar: Progress, timeout_s: float | None) -> bool:
        """Watch until the run is over, or the time is; True if it is the run."""
        __tracebackhide__ = True
        until = None if timeout_s is None else time.monotonic() + timeout_s
        told: tuple[str, ...] = ()
        pause = threading.Event()
        while True:
            status = self.status
            bar.update(status)
            ending = self._source.ending if isinstance(self._source, Work) else ""
            for line in status.notices:
                if line not in told:
                    bar.say(line, logging.INFO if line == ending else logging.WARNING)
            told = status.notices
            if status.is_over or (until is not None and time.monotonic() >= until):
                return status.is_over
            left_s = _LOOK_EVERY_S if until is None else min(_LOOK_EVERY_S, until - time.monotonic())
            pause.wait(max(0.0, left_s))

    def _end(self, bar: Progress) -> pd.DataFrame:
        __tracebackhide__ = True
        results = self.results()
        if not isinstance(self._source, Work) or self._source.is_taken_over:
            return results
        call = self._source.call
        if call.runner.error is not None:
            raise call.runner.error
        for line in summary.ambiguous_lines(results, call.ledger.state):
            bar.say(line, logging.WARNING)
        stopped = call.coordinator.stopped
        if stopped is not None:
            if isinstance(stopped, RunStopped | PriceUnknown):
                stopped.results, stopped.run_dir = results, self.run_dir
            raise stopped
        return results

    def _teller(self) -> Work | Follower:
        """Give who knows how the run stands: the directory itself, where a call outside this run works on it."""
        if not isinstance(self._source, Work) or not self._source.is_taken_over:
            return self._source
        if self._follower is None:
            self._follower = Follower(self.run_dir)
        return self._follower

    def _own(self, verb: str) -> Work:
        if isinstance(self._source, Work):
            self._source.call.runner.refuse_fork()
            if not self._source.is_taken_over:
                return self._source
        raise UsageError(
            f"{verb}: this only follows {self.run_dir}; whoever works on it can pause or stop it. To work on it here, "
            "use start or run once nobody else does."
        )


def start(
    table: pd.DataFrame,
    run_dir: str | os.PathLike[str],
    *,
    client: Client | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    gateway: Literal["local"] | Gateway | None = None,
    allow_private_links: bool = False,
    max_cost: float | str | Decimal | None = None,
    max_new_cost: float | str | Decimal | None = None,
    unit_cost: float | str | Decimal | None = None,
    pilot: int | None = None,
    max_in_flight: int = 8,
    download: bool = True,
    fix_images: bool = False,
    keep_references: bool = True,
    on_invalid: Literal["raise", "skip"] = "raise",
    on_ambiguous: Literal["hold", "resubmit"] = "hold",
    max_attempts: int = 1,
    retry_failed: bool = False,
    random_seed: Literal["record", "service"] = "record",
    task_timeout_s: float = 900.0,
    adopt_copy: bool = False,
    base_dir: str | os.PathLike[str] | None = None,
) -> Batch:
    """Work a table off in the background; the same call again goes on.

    The table is checked, the directory locked and the price asked for before this returns; all else happens in
    threads.

    Parameters
    ----------
    table, run_dir
        As for `dreamo_batch.run`.
    client, api_key, base_url, gateway, allow_private_links, max_cost, max_new_cost, unit_cost, pilot, max_in_flight
        As for `dreamo_batch.run`.
    download, fix_images
        As for `dreamo_batch.run`.
    keep_references, on_invalid, on_ambiguous, max_attempts, retry_failed, random_seed, task_timeout_s, adopt_copy,
    base_dir
        As for `dreamo_batch.run`.

    Returns
    -------
    Batch
        The run: `.status`, `.pause()`, `.resume()`, `.stop()`, `.wait()`, `.results()`, `.panel()`.

    Raises
    ------
    InvalidTable, UsageError, PriceUnknown, DirectoryError, AccessRefused
        As `dreamo_batch.run`; nothing was ordered. What stops the run later is told by `Batch.status` and raised by
        `Batch.wait`.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> live = dreamo.start(jobs, tempfile.mkdtemp(), gateway="local")
    >>> live.wait(progress=False)["status"].tolist()
    ['completed', 'completed']
    """
    options = RunOptions(
        max_cost=max_cost,
        max_new_cost=max_new_cost,
        unit_cost=unit_cost,
        pilot=pilot,
        max_in_flight=max_in_flight,
        download=download,
        fix_images=fix_images,
        keep_references=keep_references,
        on_invalid=on_invalid,
        on_ambiguous=on_ambiguous,
        max_attempts=max_attempts,
        retry_failed=retry_failed,
        random_seed=random_seed,
        task_timeout_s=task_timeout_s,
        adopt_copy=adopt_copy,
    )
    service = service_given(
        client=client,
        api_key=api_key,
        base_url=base_url,
        gateway=gateway,
        allow_private_links=allow_private_links,
    )
    with in_front():
        return Batch(begin(*made_ready(table, RunDirectory(run_dir), options, base_dir), service))


def watch(run_dir: str | os.PathLike[str]) -> Batch:
    """Follow a run that another process works on, such as a command in a terminal.

    Parameters
    ----------
    run_dir : path-like
        The run directory.

    Returns
    -------
    Batch
        Read-only; where this process works on the directory itself, the `Batch` of that.

    Raises
    ------
    DirectoryError
        If it is not a run directory, or can't be read.

    Examples
    --------
    >>> watch("runs/none")
    Traceback (most recent call last):
    ...
    dreamo_batch.errors.DirectoryError: ...runs/none is not a run directory: there is nothing.
    """
    work = work_on(RunDirectory(run_dir))
    is_here = work is not None and not work.is_taken_over and not work.status().is_over
    return Batch(work if work is not None and is_here else Follower(run_dir))


def _panels() -> Any:
    return load("dreamo_batch.notebook.panel")  # by name: the notebook layer is above this one
