"""One call on a run directory: its service and its options, checked as a whole, then handed to the runner's thread."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

from dreamo_batch import arguments, columns, errors, text
from dreamo_batch.engine import plan as planning
from dreamo_batch.engine.attempts import Stage, State, next_number, to_arrow
from dreamo_batch.engine.checkpoint import StoredTable, describer, read_jobs, write_frame, write_jobs
from dreamo_batch.engine.coordinator import Assignment, Coordinator, SystemClock
from dreamo_batch.engine.directory import RunDirectory, new_entropy
from dreamo_batch.engine.ledger import Ledger, peek_entropy, refuse_other_service
from dreamo_batch.engine.notify import Kind, Listeners
from dreamo_batch.engine.picture_cache import try_merge
from dreamo_batch.engine.plan import RunOptions, nearly_bought, warnings_of
from dreamo_batch.engine.replica import refuse_young
from dreamo_batch.engine.runner import Runner, ask, live, storing
from dreamo_batch.engine.schedule import Limits, Schedule, most_unlike
from dreamo_batch.engine.sending import ImageChanged, Payloads, Sender, body_bytes
from dreamo_batch.engine.shared_budget import BudgetShare, adopt_budget, budget_errors, budget_of
from dreamo_batch.engine.spending import Spending, highest_price
from dreamo_batch.money import dollars, exact_text, money
from dreamo_batch.parallel import refuse_in_import
from dreamo_batch.results import summaries
from dreamo_batch.results.frame import assemble, row_mask, with_origin
from dreamo_batch.results.load import composed, read_state, reconcile, sentence, stored_terms
from dreamo_batch.service import contract
from dreamo_batch.service.client import Client
from dreamo_batch.service.config import NO_KEY_NEEDED, key_missing, resolve
from dreamo_batch.service.failures import FORBIDDEN, NOT_HERE, Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from decimal import Decimal

    import pandas as pd

    from dreamo_batch.engine.status import Snapshot
    from dreamo_batch.jobs.prepare import Job, Prepared

_PRECHARGE_WAITS_S: Final = (0.3, 1.0, None)
_PRECHARGE_WAIT_MAX_S: Final = 10.0
_PRECHARGE_JOBS_MAX: Final = 4


class Gateway(Protocol):
    """What is needed of a gateway: a `LocalGateway`, or anything with the address and key of a running one."""

    @property
    def base_url(self) -> str:
        """The URL of the service."""

    @property
    def api_key(self) -> str:
        """The key for the service."""


@dataclass(frozen=True, slots=True)
class Service:
    """The service that a call names: a client, a gateway, or a key and a base URL."""

    client: Client | None = None
    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    gateway: Literal["local"] | Gateway | None = None
    allow_private_links: bool = False

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Service:
        """Make it from the arguments of a call that concern the service, and check them."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls) if field.name in arguments})

    def __post_init__(self) -> None:
        """Refuse contradictory or unusable arguments."""
        arguments.check_flag("allow_private_links", self.allow_private_links)
        if self.client is not None:
            self._refuse_beside("client", "api_key", "base_url", "gateway")
            if self.allow_private_links:
                raise errors.UsageError("Pass allow_private_links= to the Client.")
            if not isinstance(self.client, Client):
                raise errors.UsageError(f"client must be a Client, not {text.type_of(self.client)}.")
        if self.gateway is not None:
            self._refuse_beside("gateway", "api_key", "base_url")
            is_gateway = hasattr(self.gateway, "api_key") and not isinstance(self.gateway, str | type)
            if not is_gateway and not (isinstance(self.gateway, str) and self.gateway == "local"):
                raise errors.UsageError(
                    f'gateway= must be "local" or a LocalGateway, not {text.quoted(self.gateway)}.'
                )
        if self.api_key is not None or self.base_url is not None:
            resolve(self.api_key, self.base_url)

    def check(self) -> None:
        """Raise if the service is known to be unusable, before anything is written."""
        if isinstance(self.gateway, str):
            _local_gateway()
        elif self.gateway is None:
            with ExitStack() as resources:
                self._reach(resources, self.api_key, self.base_url)
        else:
            _usable(getattr(self.gateway, "check", lambda: None))

    def connect(self, resources: ExitStack, directory: RunDirectory) -> Client:
        """Return the client of a call; whatever is opened for it is closed with `resources`."""
        if self.gateway is None:
            return self._reach(resources, self.api_key, self.base_url)
        running = _local_gateway() if isinstance(self.gateway, str) else self.gateway
        in_use: Any = getattr(running, "in_use", None)
        # A gateway started here is stopped when its last user closes its `resources`.
        if in_use is not None:
            directory.refuse_foreign_folder()
            _usable(lambda: resources.enter_context(in_use(directory.gateway)))
        return self._reach(resources, running.api_key, running.base_url)

    def _reach(self, resources: ExitStack, api_key: str | None, base_url: str | None) -> Client:
        client = self.client or resources.enter_context(
            Client(api_key, base_url, allow_private_links=self.allow_private_links)
        )
        return with_key(client, f"use {text.local_option()}")

    def _refuse_beside(self, given: str, *others: str) -> None:
        also = [name for name in others if getattr(self, name) is not None]
        if also:
            named = text.local_option() if given == "gateway" else text.option(given)
            raise errors.UsageError(f"Pass {named} or {text.option(also[0])}, not both.")


def with_key(client: Client, free: str = NO_KEY_NEEDED) -> Client:
    """Return the client if it can be used; raise `KeyMissing` if it needs a key and has none."""
    if client.settings.api_key is None and not client.settings.is_loopback:
        raise key_missing(client.settings, free)
    return client


def _usable(use: Callable[[], object]) -> None:
    """Turn the errors of a gateway that can't start into a UsageError."""
    try:
        use()
    except ValueError as error:
        raise errors.UsageError(str(error)) from error


def _local_gateway() -> Gateway:
    try:
        from dreamo_batch.gateway import LocalGateway  # imported late, because it is an extra

        gateway: Gateway = LocalGateway()
    except ModuleNotFoundError as error:
        raise errors.UsageError(f"{text.local_option()}: {error}") from None
    return gateway


@dataclass(frozen=True, slots=True)
class CallInputs:
    """What a call is given: the user's columns, what was decided for each row, and the options."""

    user: pd.DataFrame
    prepared: Prepared
    options: RunOptions
    chosen: frozenset[str] = frozenset()  # jobs named for a retry
    # If set, nothing is submitted, and only these jobs' missing pictures are fetched.
    fetched: frozenset[str] | None = None
    # The budget of the call that this one continues: it submits the rest for what is left of `max_new_cost`.
    before: Spending | None = None
    # Chosen jobs that are named here are submitted only under this number, so that the same call again does nothing.
    numbers: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Open the budget, before anything is written."""
        if self.options.budget is not None:
            object.__setattr__(self, "options", replace(self.options, budget=budget_of(self.options.budget)))


class Call:
    """A call on a run directory: checked, begun, and its outcome once its runner has closed."""

    client: Client
    runner: Runner
    coordinator: Coordinator
    ledger: Ledger
    notices: list[str]  # shown during the call
    spending: Spending  # what was spent and is reserved, against the cap

    def __init__(
        self,
        directory: RunDirectory,
        inputs: CallInputs,
        entropy: str,
        service: Service,
        *,
        listeners: Listeners | None = None,
        not_before: float | None = None,
    ) -> None:
        refuse_in_import()
        self.directory = directory
        self.inputs = inputs
        self.listeners = listeners or Listeners()
        self.results: pd.DataFrame | None = None
        self.reconciliation: dict[str, Any] = {}
        self.warnings: tuple[str, ...] = ()
        self.followed_by: object = None
        self.not_before = not_before  # Unix seconds; whoever begins the call releases it at that time
        self.is_begun = False
        self.entropy = entropy
        self.service = service
        self._clock = SystemClock()
        self._table_id = uuid.uuid4().hex
        self._is_stopped = False
        self._quote = Quote()

    @classmethod
    def on_stored(
        cls,
        directory: RunDirectory,
        table: StoredTable,
        options: RunOptions,
        service: Service,
        *,
        chosen: frozenset[str] = frozenset(),
        fetched: frozenset[str] | None = None,
        listeners: Listeners | None = None,
    ) -> Self:
        """Make a call on the table stored in the directory."""
        inputs = CallInputs(table.user, table.prepared, options, chosen, fetched)
        entropy = peek_entropy(directory) or new_entropy()
        is_named = any(setting is not None for setting in (service.client, service.base_url, service.gateway))
        if not is_named and directory.gateway.is_dir():  # the state of a local gateway
            service = replace(service, gateway="local")
        return cls(directory, inputs, entropy, service, listeners=listeners)

    def begin(self, on_begin: Callable[[Call], None]) -> None:
        """Check everything, then replace the live call on the directory, which stays if this one is refused."""
        with ExitStack() as resources:
            self.client = self.service.connect(resources, self.directory)
            try:
                price = self.price_to_reserve()
                ask(self.directory, partial(self._install, price, resources, on_begin))
            except errors.AccessRefused as refused:
                if live(self.directory.path) is None:
                    ask(self.directory, partial(self._keep, refused))
                raise
            except BaseException:  # also for an interrupt: nothing may keep buying after it
                self.stop()
                raise

    def check(self) -> None:
        """Raise whatever would keep the call from beginning, as far as that is known; write and submit nothing."""
        with ExitStack() as resources:
            place = self.directory
            if not place.gateway.is_dir():  # a local gateway must not create one
                place = RunDirectory(resources.enter_context(TemporaryDirectory()))
            self.client = self.service.connect(resources, place)
            price, state = self.price_to_reserve(), read_state(self.directory)
        manifest = self.directory.read_manifest()
        if manifest is not None:
            refuse_other_service(self.directory, manifest.service, self.client.settings.service_name)
        self.spending_of(self._assignment(state, None), state, price)
        # A run of this process is continued.
        if live(self.directory.path) is None and self.directory.is_locked():
            raise errors.DirectoryLocked(f"{self.directory.owner} is writing to {self.directory.name}.")

    def release(self) -> None:
        """Allow submissions; a call with warnings waits for this, so that they are shown before anything is sent."""
        if self.warnings or self.not_before is not None:
            self.runner.ask(lambda _: self.coordinator.pause(is_paused=False))

    def stop(self) -> None:
        """Send nothing more for this call, whether it has begun or not; creates on the wire are still recorded."""
        self._is_stopped = True
        if self.is_begun:
            self.runner.interrupt(self.coordinator)

    @property
    def is_taken_over(self) -> bool:
        """Whether another call of this process took over the directory, or this process is only a fork."""
        return self.is_begun and (self.runner.is_of_parent or self.runner.coordinator is not self.coordinator)

    @property
    def is_over(self) -> bool:
        """Whether the runner has closed the directory."""
        return self.runner.is_closed.is_set()

    @property
    def stopped(self) -> BaseException | None:
        """The error that stopped the call early."""
        return self.runner.error or self.coordinator.stopped

    @property
    def is_paused(self) -> bool:
        """Whether submissions are paused."""
        return self.coordinator.schedule.is_paused

    @property
    def state(self) -> State:
        """The state of the ledger."""
        return self.ledger.state

    def waiting(self) -> frozenset[str]:
        """Return the ids of the jobs still to be submitted."""
        return frozenset(key[0] for key in self.coordinator.schedule.waiting)

    def ask(self, do: Callable[[], object]) -> bool:
        """Call a function in the runner's thread; False if the call is over, or was stopped."""

        def on_this_call(_: Runner) -> bool:
            if self.is_taken_over:
                raise errors.UsageError(
                    f"Another call of this process took over {self.directory.name}; use start or run once it is over."
                )
            with storing(self.directory):
                do()
            return self.stopped is None

        reply = self.runner.ask(on_this_call)
        return not reply.cancelled() and reply.result()

    def pause(self, *, is_paused: bool) -> bool:
        """Pause or resume submitting; False if the call is over, or was stopped."""
        return self.ask(lambda: self.coordinator.pause(is_paused=is_paused))

    def set_cap(self, cap: Decimal | None) -> bool:
        """Set the cap; False if the call is over, or was stopped."""

        def set_here() -> None:
            self.ledger.set_terms(self._clock.wall(), cap=None if cap is None else exact_text(cap))
            self.ledger.commit()
            self.spending.cap = cap

        return self.ask(set_here)

    def snapshot(self) -> Snapshot:
        """Count the rows by status, and the money."""
        return self.coordinator.snapshot()

    def pause_for(self, seconds: float) -> None:
        """Wait, or until the call is over."""
        self.runner.refuse_own_thread()
        try:
            self.runner.is_closed.wait(seconds)
        except RuntimeError as error:  # a second interrupt arrived while the first was releasing the lock
            raise KeyboardInterrupt from error

    @property
    def ending(self) -> str:
        """Summarise the outcome in one line, and how much rate limits slowed the call."""
        now = self.snapshot()
        ending = sentence(self.reconciliation, now.spent_usd, self.results)
        if not now.n_refused:
            return ending
        refused = text.counted(now.n_refused, "request")
        return f"{ending}. Slowed by rate limits: {refused} refused with 429, waited {text.duration(now.waited_s)}"

    def again(self, inputs: CallInputs) -> Call:
        """Return a call that continues this one."""
        return Call(self.directory, inputs, self.entropy, self.service, listeners=self.listeners)

    def results_now(self) -> pd.DataFrame:
        """Return the table as it stands, whichever process works on the directory."""
        return self.compose() if self.results is None else self.results.copy()

    def compose(self) -> pd.DataFrame:
        """Assemble the results from the ledger."""
        return with_origin(_results_of(self.inputs, self.ledger.state.copy()), self.directory)

    # In the runner's thread.

    def _install(
        self, price: Decimal | None, resources: ExitStack, on_begin: Callable[[Call], None], running: Runner
    ) -> None:
        ledger = running.open(self.client.settings.service_name, self.entropy)
        before = running.coordinator
        assignment = self._assignment(ledger.state, before)
        spending = self.spending_of(assignment, ledger.state, price)
        self._refuse_copy(assignment, is_copy=ledger.is_copy)
        max_in_flight, wait_s = self.inputs.options.max_in_flight, self.inputs.options.task_timeout_s
        limits = Limits(max_in_flight, running.n_workers(max_in_flight), wait_s, patience_s=wait_s)
        coordinator = Coordinator(
            ledger=ledger,
            spending=spending,
            schedule=Schedule(limits, spending, body_bytes=lambda job: body_bytes(assignment.jobs[job])),
            sender=Sender(self.client, self.directory),
            clock=self._clock,
            assignment=assignment,
        )
        warnings = self._warnings(ledger, assignment, before)
        if spending.cap is not None and spending.excess and not assignment.to_submit:
            warnings += (f"the cap of {dollars(spending.cap)} is exceeded by {dollars(spending.excess)}",)
        if self._is_stopped:
            raise errors.RunStopped("Stopped before it began.")  # nobody is waiting for it any more
        with storing(self.directory):
            self._adopt(ledger)
            self._join(ledger, coordinator)
            self._remember(ledger, spending.cap)
        self.warnings = warnings
        running.resources.push(resources.pop_all())
        self.runner, self.coordinator, self.ledger = running, coordinator, ledger
        self.notices, self.spending = coordinator.notices, spending
        coordinator.schedule.is_paused = self._waits()
        coordinator.is_paused_on_request = self.not_before is not None
        on_begin(self)
        self.listeners.begin(self.client.settings.api_key)
        coordinator.report = self.report
        running.switch_to(coordinator, self._finish, self.report_end)
        self.is_begun = True
        if self._is_stopped:
            coordinator.halt()

    def _waits(self) -> bool:
        """Return whether nothing may be sent before `release`; if it waits for a time, note until when."""
        if self.not_before is not None:
            until = text.clock_time(self.not_before)
            self.notices.append(
                f"Waiting until {until}; nothing is sent before then. resume() starts at once."
            )
        return bool(self.warnings) or self.not_before is not None

    def _assignment(self, state: State, before: Coordinator | None) -> Assignment:
        inputs = self.inputs
        if inputs.fetched is not None and before is not None and not before.schedule.is_halted:
            raise errors.UsageError(
                f"A run is in progress in {self.directory.name} and saves its own pictures. Stop it, or wait."
            )
        numbers = {job_id: next_number(state.of(job_id)) for job_id in inputs.chosen}
        chosen = frozenset(
            job_id for job_id, number in numbers.items() if inputs.numbers.get(job_id, number) == number
        )
        if before is not None and (
            inputs.before is not None or (before.schedule.is_submitting and not before.schedule.is_halted)
        ):
            chosen |= {job_id for job_id, _ in before.schedule.waiting}
        assignment = self.planned(state, chosen)
        attempts = (attempt for job_id, _ in assignment.to_submit for attempt in state.of(job_id))
        in_doubt = (attempt for attempt in attempts if attempt.stage is Stage.AMBIGUOUS)
        refuse_young(self.directory.replica, in_doubt, self._clock.wall())
        return replace(assignment, describe=describer(inputs.user, inputs.prepared.rows))

    def planned(self, state: State, chosen: Collection[str]) -> Assignment:
        """Return the work to do if these jobs are submitted again."""
        inputs = self.inputs
        return planning.assignment(
            inputs.prepared, state, inputs.options, self.directory.path, chosen, fetched=inputs.fetched
        )

    def _refuse_copy(self, assignment: Assignment, *, is_copy: bool) -> None:
        """Refuse to submit from a copy of a run directory unless the user agreed: the original may do so, too."""
        may_submit = assignment.to_submit or (assignment.max_attempts > 1 and assignment.to_poll)
        if is_copy and may_submit and not self.inputs.options.adopt_copy:
            raise errors.DirectoryError(
                f"{self.directory.name} is a copy of a run directory (or was restored, or moved to another disk or "
                "URL). Nothing was submitted: the original may have bought the same since. Pass "
                f"{text.option('adopt_copy', value=True)} to submit anyway, or run {text.same_call()} on the original."
            )

    def _warnings(
        self, ledger: Ledger, assignment: Assignment, before: Coordinator | None
    ) -> tuple[str, ...]:
        warnings = ledger.warnings + self.warned_of(ledger.state, assignment)
        if before is not None and before.is_paused_on_request and not before.schedule.is_halted:
            warnings += ("the run on this directory was paused; this call resumes it",)
        return warnings

    def warned_of(self, state: State, assignment: Assignment) -> tuple[str, ...]:
        """Return the warnings to show before anything is submitted."""
        nearly = nearly_bought(self.inputs.prepared, state, self.directory.jobs)
        return warnings_of(self.inputs.prepared, nearly, {job_id for job_id, _ in assignment.to_submit})

    def spending_of(self, assignment: Assignment, state: State, price: Decimal | None) -> Spending:
        """Return the spending limits; raise if they can't be enforced because no price is known."""
        options = self.inputs.options
        cap = options.cap(state.terms.cap)
        agreed = self.inputs.before
        max_new = money(options.max_new_cost) if agreed is None else agreed.left
        shared = state.terms.budget if options.budget is None else options.budget
        is_limited = cap is not None or max_new is not None or shared is not None
        seen = state.kinds()
        # A quote below the actual cost of attempts isn't trusted again.
        higher = highest_price(seen, above_reserved=price is not None)
        price = higher if price is None else max(price, higher or price)
        n_pilot = options.pilot if shared is None else None
        if is_limited and price is None and assignment.to_submit and n_pilot is None:
            limit = text.option("max_cost", cap) if cap is not None else text.option("max_new_cost", max_new)
            limit = limit if shared is None else text.option("budget")
            if self._quote.failure is not None:
                raise errors.ServiceUnreachable(
                    f"Can't ask for the price that {limit} needs: {self._quote.failure}. Nothing was submitted. Check "
                    f"the base URL or wait, or pass {text.option('unit_cost')} (USD per attempt)."
                )
            why = f" ({self._quote.reason})" if self._quote.reason else ""
            instead = (
                f", or {text.option('pilot')} to make up to that many attempts first (counted over the life of the "
                "directory, not limited by the cap) and continue at the price they show"
            )
            raise errors.PriceUnknown(
                f"{limit} can't be enforced because no price is known: none was passed, none was seen in "
                f"{self.directory.name}, and the service quotes none{why}. Pass {text.option('unit_cost')} (USD per "
                f"attempt){instead if shared is None else ''}."
            )
        spending = Spending(cap=cap, max_new=max_new, price=price, n_pilot=n_pilot or 0, attempts=seen)
        spending.slice = money(state.terms.slice)
        return spending

    def _join(self, ledger: Ledger, coordinator: Coordinator) -> None:
        """Take a slice of the shared budget, if the directory has one, before anything is submitted."""
        terms, given = ledger.state.terms, self.inputs.options.budget
        place, spending = terms.budget if given is None else given.place, coordinator.spending
        n = len(coordinator.assignment.to_submit)
        if place is None or ledger.is_copy or not (n or terms.budget):
            return
        with budget_errors(place):
            try:
                budget = given or budget_of(place)
                if self.inputs.options.adopt_copy:
                    adopt_budget(budget)
                share = BudgetShare(budget, ledger)
                if n:
                    granted = share.join(spending.wanted(n), spending, ledger.state)
                    ledger.set_terms(self._clock.wall(), budget=share.place)
                    coordinator.set_slice(granted)
            except errors.DreamoError:
                if n or given is not None:
                    raise
                return  # tasks in flight are still fetched, and the slice stays held
        coordinator.shared = share

    def _adopt(self, ledger: Ledger) -> None:
        if self.inputs.options.adopt_copy and ledger.is_copy:
            ledger.adopt(self.inputs.prepared.jobs)

    def _remember(self, ledger: Ledger, cap: Decimal | None) -> None:
        ledger.directory.refuse_loss()
        write_jobs(ledger.directory.jobs, self.inputs.user, self.inputs.prepared, self._table_id)
        ledger.set_terms(self._clock.wall(), cap=None if cap is None else exact_text(cap))
        ledger.commit()
        ledger.directory.update_manifest(table_id=self._table_id, **self.settings())

    def settings(self) -> dict[str, Any]:
        """Return the sampling and the options that run.json keeps for `resume`; a call that only fetches keeps both."""
        if self.inputs.fetched is not None:
            return {}
        user = self.inputs.user
        sample = user.attrs.get(columns.SAMPLE)
        is_whole = isinstance(sample, dict) and sample.get("rows") == len(user)
        return {"settings": self.inputs.options.as_settings(), "sample": sample if is_whole else {}}

    def _give_back(self, ledger: Ledger) -> None:
        """Return the rest of the slice to the budget, now that the ledger has lowered it."""
        coordinator = self.coordinator
        if coordinator.shared is None or not ledger.is_closed:
            return
        try:
            coordinator.shared.give_back(coordinator.spending, ledger.state)
        except (OSError, errors.DirectoryError) as error:
            coordinator.notices.append(
                f"Can't give back what is left of the shared budget ({error}). The next call here will."
            )

    def _finish(self) -> None:
        """Write the results after the ledger has closed."""
        ledger = self.ledger
        self._give_back(ledger)
        results = _results_of(self.inputs, ledger.state)
        self.reconciliation = reconcile(len(self.inputs.user), results)
        try:
            ledger.directory.refuse_loss()  # another run may have written its own there
            meta = {"table_id": self._table_id, "generation": ledger.generation, "covers": ledger.covers}
            write_frame(ledger.directory.results, results, meta, self.inputs.prepared)
            ledger.directory.update_manifest(reconciliation=self.reconciliation)
            try_merge(ledger.directory.path)
        except OSError as error:
            self.coordinator.storage_failed(error)
        self.results = with_origin(results, self.directory)  # last, because other threads wait for it

    def _keep(self, refused: errors.AccessRefused, running: Runner) -> None:
        """Store the table in the directory although nothing was submitted, and attach its state to the error."""
        if running.coordinator is not None:
            return
        ledger = running.open(self.client.settings.service_name, self.entropy)
        with storing(self.directory):
            self._adopt(ledger)
            self._remember(ledger, self.inputs.options.cap(ledger.state.terms.cap))
        refused.run_dir = self.directory.path
        refused.results = with_origin(_results_of(self.inputs, ledger.state), self.directory)

    def report(self, kind: Kind, message: str) -> None:
        """Report an event to all listeners of this call."""
        self.listeners.report(kind, message, self.snapshot())

    def report_end(self, error: BaseException | None) -> None:
        """Report how the call ended, once the directory is free."""
        problem = error or self.stopped
        by_status = self.snapshot().by_status
        n_left = sum(by_status.get(status, 0) for status in columns.UNSETTLED)
        if problem is not None:
            is_budget = isinstance(problem, errors.BudgetReached | errors.PriceUnknown)
            self.report("budget" if is_budget else "stopped", str(problem) or type(problem).__name__)
        elif n_left:
            self.report(
                "stopped", f"{text.counted(n_left, 'row')} left. Run {text.same_call()} again to resume."
            )
        else:
            self.report("done", self.ending)

    # What the call may cost.

    def price_to_reserve(self) -> Decimal | None:
        """Return the price that an attempt reserves: the user's, or if there is a limit, the service's quote."""
        price, max_new = money(self.inputs.options.unit_cost), money(self.inputs.options.max_new_cost)
        if price is not None or self.inputs.fetched is not None:
            return price
        terms, options = stored_terms(self.directory), self.inputs.options
        is_shared = options.budget is not None or terms.budget is not None
        if options.cap(terms.cap) is None and max_new is None and not is_shared:
            return None
        state = read_state(self.directory)
        assignment = self.planned(state, self.inputs.chosen)
        jobs = [assignment.jobs[job_id] for job_id, _ in assignment.to_submit]
        self._quote = ask_price(self.client, jobs, is_known=highest_price(state.kinds()) is not None)
        return self._quote.price


@dataclass(frozen=True, slots=True)
class Quote:
    """The price of an attempt as the service quotes it, or why there is none; `failure` if it couldn't be asked."""

    price: Decimal | None = None
    reason: str | None = None
    failure: Failure | None = None


def ask_price(client: Client, jobs: Collection[Job], *, is_known: bool = False) -> Quote:
    """Ask what the largest picture of each model costs; the highest price counts, and only if all are known."""
    highest = Quote()
    for model in dict.fromkeys(job.model for job in jobs):
        quote = _ask_price_of(client, [job for job in jobs if job.model == model], is_known=is_known)
        if quote.price is None:
            return quote
        highest = quote if highest.price is None or quote.price > highest.price else highest
    return highest


def _ask_price_of(client: Client, jobs: Collection[Job], *, is_known: bool) -> Quote:
    by_size = sorted(jobs, key=lambda job: job.width * job.height, reverse=True)
    asked, waits = by_size[:1], iter(_PRECHARGE_WAITS_S)
    while True:
        try:
            price = client.precharge(Payloads().request(asked[-1]))
        except ImageChanged:
            return Quote()
        except errors.ServiceError as error:
            failure = error.failure
        else:
            return Quote(money(price.cost) or None, price.reason)
        if failure.error_class == FORBIDDEN and len(asked) < _PRECHARGE_JOBS_MAX:
            # A firewall may block some prompts; asking about others costs nothing.
            other = most_unlike(asked, (job for job in by_size if job not in asked))
            if other is not None or len(asked) == 1:
                asked.append(other or asked[0])
                continue
        if failure.kind is FailureKind.STOP and not (is_known and failure.error_class == FORBIDDEN):
            raise errors.AccessRefused(
                f"The service refused access: {failure}. Nothing was submitted. Once that is fixed, run "
                f"{text.same_call()} again."
            )
        wait_s = next(waits)
        if failure.kind is not FailureKind.TRANSIENT or wait_s is None:
            return Quote(reason=str(failure), failure=None if _was_asked(client, failure) else failure)
        time.sleep(max(wait_s, min(failure.retry_after_s or 0.0, _PRECHARGE_WAIT_MAX_S)))


def _was_asked(client: Client, failure: Failure) -> bool:
    """Return whether the service was reached but quotes no prices: it still answers about tasks, in JSON."""
    if _is_json(failure):
        return True
    if failure.http_status in NOT_HERE:
        try:
            client.fetch(contract.UNKNOWN_TASK)
        except errors.ServiceError as error:
            return _is_json(error.failure)
    return failure.kind is FailureKind.PERMANENT and failure.http_status is not None


def _is_json(failure: Failure) -> bool:
    return (failure.excerpt or "").lstrip().startswith("{")


def _results_of(inputs: CallInputs, state: State) -> pd.DataFrame:
    return assemble(inputs.user, inputs.prepared.rows, to_arrow(state))


def stored_table(directory: RunDirectory) -> StoredTable:
    """Read the stored table of a directory, to continue with it; references in a store are fetched first."""
    if directory.replica is not None:
        directory.replica.fetch_additions()
    table, manifest = read_jobs(directory.jobs), directory.read_manifest()
    table.user.attrs = {columns.SAMPLE: manifest.sample} if manifest is not None and manifest.sample else {}
    return table


def jobs_to_retry(
    directory: RunDirectory, rows: Collection[Any] | pd.Series | None, classes: str | Collection[str] | None
) -> frozenset[str]:
    """Return the ids of the jobs to retry."""
    results = composed(directory)
    is_failed = results[columns.STATUS] == columns.FAILED
    is_ambiguous = results[columns.STATUS] == columns.AMBIGUOUS
    wanted = is_failed if rows is None else is_failed | is_ambiguous
    if classes is not None:
        known = sorted(
            {*summaries.known_classes(), columns.AMBIGUOUS, *results[columns.ERROR_CLASS].dropna()}
        )
        names = arguments.names_in("classes", classes, known, "failure class", is_ordered=False)
        of_class = is_failed & results[columns.ERROR_CLASS].isin(names)
        wanted = of_class | (is_ambiguous if columns.AMBIGUOUS in names else False)
    if rows is not None:
        wanted &= row_mask(results.index, rows, results[columns.JOB_ID])
    return frozenset(results.loc[wanted.to_numpy(), columns.JOB_ID].dropna())
