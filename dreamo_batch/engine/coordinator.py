"""The coordinator of a run: keeps ledger, spending and schedule in step, and decides what each answer means."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import takewhile
from math import inf
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns, errors
from dreamo_batch.engine import sending
from dreamo_batch.engine.attempts import OPEN, FirstJobs, Stage, next_number, status_of
from dreamo_batch.engine.pictures import picture_name
from dreamo_batch.engine.schedule import Action, Do, Refusals, Schedule, was_forbidden
from dreamo_batch.engine.spending import Spending
from dreamo_batch.engine.status import Snapshot
from dreamo_batch.money import ZERO, dollars, exact_text, money
from dreamo_batch.service import failures
from dreamo_batch.service.failures import Failure, FailureKind
from dreamo_batch.service.messages import Task, contradiction
from dreamo_batch.service.transport import boottime
from dreamo_batch.text import counted, harmless, one_line, option, same_call, wording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from decimal import Decimal

    from dreamo_batch.engine.attempts import Attempt, Event, Key, State
    from dreamo_batch.engine.ledger import Ledger
    from dreamo_batch.engine.notify import Kind
    from dreamo_batch.engine.pictures import Saved
    from dreamo_batch.engine.sending import Sender
    from dreamo_batch.engine.shared_budget import BudgetShare
    from dreamo_batch.jobs.prepare import Job


logger = errors.logger_named(__name__)

_CONTRADICTIONS_MAX: Final = 3  # after which the service's answer won't change
_HELD: Final = FailureKind.MAY_HAVE_ARRIVED
_N_NOTICES_MAX: Final = 3  # per kind of notice that every row could cause
_LABEL_MAX: Final = 60  # characters of a row's label
_ROUNDING_PX: Final = 16  # generators round sides to multiples of this
_ASK_EVERY_S: Final = 2.0  # for a larger slice, while others may return theirs
_WAIT_MAX_S: Final = 3600.0  # a service may ask for a wait longer than a queue supports
_REFUSALS: Final = {
    failures.ACCESS_REFUSED: "The service refused access",
    failures.FORBIDDEN: "The service refused access several times in a row",
    failures.NO_CREDIT: "The account has no credit",
    failures.NOT_OFFERED: "The service offers no image generation at this address",
    failures.UNREACHABLE: "The proxy refused access",
}
_SAME: Final = {
    "output_url": "the service returned the same picture link for both",
    "output_sha256": "their picture files are identical",
}


class SystemClock:
    """The machine's clocks; recorded times ignore it if the time of day is set during the run."""

    def __init__(self) -> None:
        self._started_at = time.time() - boottime()

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)  # not stopped by freezegun

    def wall(self) -> float:
        """Return Unix seconds."""
        return self._started_at + boottime()


@dataclass(frozen=True, slots=True)
class Assignment:
    """The work of one call: the jobs of its table, and what the plan decided for them."""

    jobs: Mapping[str, Job]
    weights: Mapping[str, int]  # rows of each job
    n_invalid: int  # rows without a job
    to_submit: Sequence[Key]
    to_poll: Sequence[Key]
    to_save: Sequence[tuple[Key, bool]]  # True: ask for a fresh link first
    max_attempts: int
    should_download: bool
    may_submit: bool
    describe: Callable[[Job], str | None] = lambda _job: None  # what the ledger keeps of a row, as JSON


class Coordinator:
    """Keeps ledger, spending and schedule in step."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        spending: Spending,
        schedule: Schedule,
        sender: Sender,
        clock: SystemClock,
        assignment: Assignment,
    ) -> None:
        self.shared: BudgetShare | None = None
        self.ledger = ledger
        self.spending = spending
        self.schedule = schedule
        self.assignment = assignment
        self.stopped: errors.RunStopped | errors.PriceUnknown | None = None
        self.is_paused_on_request = False  # not before the call has shown its warnings
        self.notices: list[str] = []
        self.report: Callable[[Kind, str], None] = lambda _kind, _message: None
        self.sender = sender
        self._clock = clock
        self._by_status = count_rows(assignment.weights, assignment.n_invalid, ledger.state)
        self._again = {job_id for job_id, _ in assignment.to_submit if self._is_settled(job_id)}
        self._n_again = sum(assignment.weights.get(job_id, 0) for job_id in self._again)
        self._outage = ""  # as last reported
        self._standstill = ""
        self._n_held = 0
        self._n_notices: Counter[str] = Counter()
        self._noticed: set[tuple[str, object]] = set()
        self._named_at: dict[str, float] = {}  # when an error first named each task that exists
        self._n_contradictions: Counter[Key] = Counter()
        self._refusals = self._refusals_so_far()
        self._forbidden: Failure | None = None  # the last 403 of a create
        self._is_poll_forbidden = False
        self._away: Failure | None = None  # why the service was last considered unreachable
        self._limited: Failure | None = None  # the last 429
        self._ask_share_at = -inf

    def begin(self, on_the_wire: frozenset[Key] = frozenset()) -> None:
        """Queue all work, and wait for creates of an earlier call that are still on the wire."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        while self.ledger.interrupted:
            self._report_held(self.ledger.interrupted.pop())
        self.schedule.adopt(on_the_wire)
        for key in self.assignment.to_poll:
            attempt = self._attempt(key)
            self.schedule.add_task(key, now=now, age_s=max(0.0, wall - (attempt.sent_at or wall)))
        for key, refresh_first in self.assignment.to_save:
            self.schedule.add_save(key, refresh_first=refresh_first, now=now)
        self.schedule.add_jobs(self.assignment.to_submit)

    def next_work(self, n_free: int) -> list[tuple[Action, Callable[[], Any]]]:
        """Choose requests for free workers, and record the creates among them as about to be sent."""
        now = self._clock.monotonic()
        if now >= self._ask_share_at and not self.schedule.is_paused:
            self._raise_slice(now)
        work: list[tuple[Action, Callable[[], Any]]] = []
        while len(work) < n_free and (action := self.schedule.next_action(now)) is not None:
            work.append((action, self._work(action)))
        return work

    def undo_choice(self, action: Action) -> None:
        """Undo the choice of a create that could not be recorded and therefore wasn't sent."""
        self.record(sending.not_sent(action.key, self._clock.wall()))
        self.schedule.create_ended(action.key)

    def wait_s(self, n_free: int) -> float | None:
        """Return the seconds until something is due; None if only an answer can change anything."""
        now = self._clock.monotonic()
        at = self.schedule.wake_at(now) if n_free else None
        return None if at is None else min(max(0.0, at - now), _WAIT_MAX_S)

    def is_over(self) -> bool:
        """Return whether this call has nothing more to do; stop it with a reason if it ends early."""
        now = self._clock.monotonic()
        outage = self.schedule.outage
        is_lasting = self._away is not None and self._away.cause is not None
        if outage.is_losing_creates:
            self._give_up(f"Several submissions in a row got no reply{_reason(self._away)}")
        elif outage.mood == "down" and outage.was_never_reached and is_lasting:
            self._give_up(f"Can't reach the service, and waiting won't help: {self._away}")
        elif outage.is_hopeless(now):
            why = f"{_reason(self._away)}{self._what_to_check()}"
            self._give_up(f"The service was unreachable for too long{why}")
        elif self.schedule.standstill.is_hopeless(now) and not self.schedule.is_paused:
            self._give_up(self._standstill_reason(now))
        self._notice_outage()
        self._notice_standstill(now)
        if not self.schedule.is_done() or self._is_settled_by_others():
            return False
        if self.schedule.n_waiting and self.schedule.is_submitting and not self.schedule.is_halted:
            if self._raise_slice(now):
                return False
            self._out_of_money()
        return True

    def _raise_slice(self, now: float) -> bool:
        """Ask for a larger slice of the shared cap if nothing more can be sent without it; return whether it grew."""
        spending, schedule = self.spending, self.schedule
        is_wanted = schedule.n_waiting and schedule.is_submitting and not schedule.is_halted
        if self.shared is None or not is_wanted or not spending.is_slice_used_up:
            return False
        self._ask_share_at = now + _ASK_EVERY_S
        try:
            granted = self.shared.more(spending.wanted(schedule.n_waiting), spending, self.ledger.state)
        except (OSError, errors.DirectoryError) as error:
            self._notice("shared", f"Can't ask for more of the shared budget: {error}")
            return False
        self.set_slice(granted)
        return not spending.is_slice_used_up

    def set_slice(self, granted: Decimal) -> None:
        """Set the slice of the shared cap; nothing is sent until the ledger has it on disk."""
        self.ledger.set_terms(self._clock.wall(), slice=exact_text(granted))
        self.spending.slice = granted

    def lower_slice(self) -> None:
        """Reduce the slice of the shared cap to what is spent and reserved, before the ledger is closed."""
        if self.shared is not None and self.spending.slice is not None:
            self.set_slice(min(self.spending.slice, self.spending.committed))

    def _out_of_money(self) -> None:
        """Stop if rows are left; failed rows that can't be retried because of the cap only cause a notice."""
        asked = set(self.assignment.to_submit)
        error = self._out_of_budget()
        if any(key in asked or not self._is_settled(key[0]) for key in self.schedule.waiting):
            self.stop(error)
        else:
            self.notices.append(f"Failed rows were not retried: {error}")
            self._again, self._n_again = set(), 0

    def _work(self, action: Action) -> Callable[[], Any]:
        key = action.key
        if action.do is Do.CREATE:
            job, before = self.assignment.jobs[key[0]], self.ledger.state.find(*key)
            at, reserved, inputs = self._clock.wall(), self.spending.reserve(), self.assignment.describe(job)
            self.record(sending.started(key, at, before, seed=job.seed, reserved=reserved, inputs=inputs))
            return functools.partial(self.sender.create, key, job, boottime())
        if action.do is Do.PROBE:
            return self.sender.probe
        attempt = self._attempt(key)
        if action.do is Do.SAVE:
            name = picture_name(self.ledger.state.of(key[0]), key[1])
            return lambda: self.sender.save(
                key, attempt.links, name=name, stated_bytes=attempt.output_bytes_stated
            )
        return lambda: self.sender.fetch(action.do, key, attempt.task_id or "")

    def handle(self, answer: object) -> None:
        """Handle a worker's answer."""
        match answer:
            case sending.CreateAnswer():
                with self.ledger.strays_on_error(answer.key, answer.result):
                    self._create_ended(answer)
            case sending.PollAnswer(do=do, key=key) | sending.SaveAnswer(do=do, key=key) if (
                not self.schedule.is_awaiting(do, key)
            ):
                logger.debug("an earlier call asked about job %s; this one asks for itself", key[0])
                # But a wait that the service asks for applies to every request.
                refusal = answer.result if isinstance(answer, sending.PollAnswer) else answer.refusal
                if isinstance(refusal, Failure) and refusal.error_class == failures.RATE_LIMITED:
                    self._note(refusal, self._clock.monotonic())
            case sending.PollAnswer(do=Do.REFRESH):
                self._refreshed(answer)
            case sending.PollAnswer():
                self._polled(answer)
            case sending.SaveAnswer():
                self._save_ended(answer)
            case sending.ProbeAnswer():
                self._away = self._away if answer.is_reachable else answer.failure or self._away
                self.schedule.probed(self._clock.monotonic(), is_reachable=answer.is_reachable)
            case OSError():
                self.storage_failed(answer)
            case BaseException():
                raise answer

    def record(self, event: Event) -> Attempt:
        """Apply an event to the ledger, the spending and the counts."""
        _ = self._job_of  # before the event
        before = self.ledger.state.find(event.job_id, event.attempt)
        old = self.ledger.state.deciding(event.job_id)
        (after,) = self.ledger.record([event])
        self.spending.change(before, after)
        self._other_job_with(after, "task_id")
        weight = self.assignment.weights.get(event.job_id, 0)
        self._by_status[status_of(old)] -= weight
        self._by_status[status_of(self.ledger.state.deciding(event.job_id))] += weight
        if event.job_id in self._again and not self._is_settled(event.job_id):
            self._again.discard(event.job_id)
            self._n_again -= weight
        if after.stage is Stage.AMBIGUOUS and (before is None or before.stage is not Stage.AMBIGUOUS):
            self._report_held(after.job_id)
        return after

    def _report_held(self, job_id: str) -> None:
        """Report the first held attempt, and again whenever their number has doubled."""
        self._n_held += 1
        if self._n_held.bit_count() == 1:
            self.report(
                "held",
                f"{counted(self._n_held, 'attempt')} of this call may or may not have been accepted and billed, last "
                f"that of job {job_id}; none will be resent unless you ask.",
            )

    def settle(self, event: Event, failure: Failure | None = None) -> None:
        """Apply what was found out about an ambiguous attempt: poll its task, or submit it."""
        attempt, now, wall = self.record(event), self._clock.monotonic(), self._clock.wall()
        key = (attempt.job_id, attempt.attempt)
        if attempt.stage is Stage.ACCEPTED:
            self.schedule.withdraw(attempt.job_id)  # it was queued again only because of the doubt
            self.schedule.add_task(key, now=now, age_s=max(0.0, wall - (attempt.sent_at or wall)))
        else:
            self.submit_again([key])
        if failure is not None:
            self._notice("named", "not accepted. Checking the task that the answer names.", key[0])
            if failure.kind is FailureKind.STOP and failure.error_class != failures.FORBIDDEN:
                self._refused_access(failure)

    def _is_settled_by_others(self) -> bool:
        """Settle attempts in doubt with replies that a suspended writer got since; return whether work is left."""
        if not self._by_status[columns.AMBIGUOUS] or self.schedule.is_halted:
            return False
        try:
            for event in self.ledger.answers_in_strays():
                self.settle(event)
        except (OSError, errors.DirectoryError) as error:  # the next call reads them when it begins
            logger.info("answers kept by other processes can't be read: %s", error)
        return not self.schedule.is_done()

    def submit_again(self, keys: Iterable[Key], *, after: Stage = Stage.UNSENT) -> None:
        """Queue creates that were not sent after all, or failed at no cost, unless another may still succeed."""
        for job_id, _ in keys if self.assignment.may_submit else ():
            state = self.ledger.state
            number, latest = next_number(state.of(job_id)), state.deciding(job_id)
            is_wanted = job_id in self.assignment.jobs and latest is not None and latest.stage is after
            is_allowed = after is Stage.UNSENT or number <= self.assignment.max_attempts
            if is_wanted and is_allowed and all(key[0] != job_id for key in self.schedule.waiting):
                self.schedule.add_jobs([(job_id, number)])
                self._count_again(job_id)

    def stop(self, error: errors.RunStopped | errors.PriceUnknown) -> None:
        """Send no more creates; the first reason counts."""
        self.schedule.is_submitting = False
        self.stopped = self.stopped or error

    def halt(self) -> None:
        """Send nothing more, and wait only for creates on the wire."""
        self.schedule.halt()
        self.sender.is_halted.set()

    def pause(self, *, is_paused: bool) -> None:
        """Pause or resume new creates; jobs in flight finish either way."""
        self.schedule.is_paused = self.is_paused_on_request = is_paused
        self.schedule.standstill.restart(self._clock.monotonic())

    def storage_failed(self, error: OSError) -> None:
        """Stop because nothing can be recorded on disk; this replaces any other reason to stop."""
        if not isinstance(self.stopped, errors.StorageFailed):
            self.stopped = None
        directory = self.ledger.directory
        also = wording(" This error's .results also holds the task ids.", "") if directory.is_lost() else ""
        self.stop(errors.StorageFailed(directory.unwritable(error) + also))
        self.halt()

    def report_unwritten(self) -> None:
        """Report paid tasks that couldn't be recorded on disk: as notices, in the log, and in the error."""
        lines = [
            f"Not recorded on disk: job {attempt.job_id} is task {attempt.task_id}. Once the disk works again, "
            "settle it with "
            + wording(
                f'resolve(run_dir, "{attempt.job_id}", task_id="{attempt.task_id}")',
                f"`dreamo-batch resolve RUN_DIR {attempt.job_id} --task-id {attempt.task_id}`",
            )
            for attempt in self.ledger.unwritten_tasks()
        ]
        if (beside := self.ledger.strays.path) is not None:
            lines.append(f"Answers that arrived afterwards are recorded in {beside}.")
        self.notices += lines
        for line in lines:
            logger.error("%s", line)
        if lines and self.stopped is not None:
            self.stopped.args = ("\n".join((str(self.stopped), *lines)),)

    def snapshot(self) -> Snapshot:
        """Return a snapshot of the run."""
        return Snapshot(
            by_status=dict(self._by_status),
            spent_usd=self.spending.spent,
            reserved_usd=self.spending.reserved,
            max_cost_usd=self.spending.cap,
            n_in_flight=self.schedule.n_in_flight,
            n_again=self._n_again,
            n_refused=self.schedule.quota.n_refused,
            waited_s=self.schedule.quota.waited_s,
            n_held=self._n_held,
            outage=self._outage or self._standstill,
        )

    def _create_ended(self, answer: sending.CreateAnswer) -> None:
        attempt = self._attempt(answer.key)
        answer = replace(answer, result=self._own_task(answer, attempt.sent_at or 0.0))
        if isinstance(answer.result, str):
            self._refusals.accepted()
        elif answer.result.error_class == failures.FORBIDDEN and answer.result.kind is not _HELD:
            self._forbidden = answer.result
            is_own = self._refusals.refused(answer.key[0])
            kind = FailureKind.PERMANENT if is_own else FailureKind.TRANSIENT
            answer = replace(answer, result=replace(answer.result, kind=kind))
        self.record(sending.create_ended(attempt, answer, self._clock.wall()))
        now = self._clock.monotonic()
        if isinstance(answer.result, str):
            self.schedule.accepted(answer.key, now=now)
        else:
            self._create_failed(answer.key, answer.result, now)
        self._row_or_account()

    def _own_task(self, answer: sending.CreateAnswer, sent_at: float) -> str | Failure:
        """Accept a task id unless another attempt has it; one that a refusal names may be anyone's, so it is held."""
        result, named, job_id = answer.result, answer.named, answer.key[0]
        task_id = result if named is None else named.task_id
        if isinstance(task_id, Failure):
            return task_id
        owner = self._job_of.setdefault(hash(("task_id", task_id)), job_id)
        known = next((a for a in self.ledger.state.of(owner) if a.task_id == task_id), None)
        is_anothers = known is not None and (known.job_id, known.attempt) != answer.key
        if named is None or isinstance(result, str):
            message = f"the service answered with task {task_id}, which already belongs to job {owner}"
            return Failure(_HELD, failures.OTHER_TASK, 200, message=message) if is_anothers else task_id
        if is_anothers or self._named_at.setdefault(task_id, self._clock.wall()) < sent_at:
            return result
        if differs := self._contradiction(answer.key, named):
            message = f"{result.message} (it names task {task_id}, which is about {differs})"
            return replace(result, message=message)
        is_own = not result.is_task_anyones or {"seed", "prompt"} <= named.echo.keys()
        if not is_own or self._contradiction(answer.key, named, is_exact=result.is_task_anyones):
            message = f"{result.message}; it names task {task_id}, which exists and may be this attempt's"
            return replace(result, kind=_HELD, message=message)
        message = f"adopted task {task_id}, which the error reply to its submission names ({result.message})"
        self._notice("own", f"{message}. Check its picture.", job_id)
        return task_id

    @functools.cached_property
    def _job_of(self) -> FirstJobs:
        """The job of each task, link and file, by hash, because strings would take much memory."""
        names, found = ("task_id", *_SAME), FirstJobs()
        for job_id, *values in self.ledger.state.cells(columns.JOB_ID, *names):
            for name, value in zip(names, values, strict=True):
                if value is not None:
                    found.setdefault(hash((name, value)), job_id)
        return found

    def _other_job_with(self, attempt: Attempt, name: str) -> str | None:
        """Record which job a task, link or file belongs to; return another job that had it before."""
        if (value := getattr(attempt, name)) is None:
            return None
        owner = self._job_of.setdefault(hash((name, value)), attempt.job_id)
        return None if owner == attempt.job_id else owner

    def _notice_same_picture(self, attempt: Attempt, name: str) -> None:
        """Warn if two jobs got the same picture: one of them may have the other's."""
        if (other := self._other_job_with(attempt, name)) is None:
            return
        asked, asked_too = (_asked_for(sent) for sent in (self.ledger.state.deciding(other), attempt))
        if asked is None or asked != asked_too:  # else sharing a picture is no surprise
            text = f"different jobs, but {_SAME[name]}. Check both before you use them."
            self._notice(name, text, attempt.job_id, other)

    def _named(self, job_id: str) -> str:
        """Name a job by its row if this call's table has it; labels of earlier tables may mean other rows now."""
        job = self.assignment.jobs.get(job_id)
        row = None if job is None else json.loads(self.assignment.describe(job) or "{}").get(columns.ROW)
        return f"Job {job_id}" if row is None else f"Row {one_line(row, _LABEL_MAX)} (job {job_id})"

    def _notice(self, kind: str, text: str, *job_ids: str, once_for: object = None) -> None:
        """Add a notice about jobs, at most once for `once_for`, and only a few of each kind."""
        if once_for is not None and (kind, once_for) in self._noticed:
            return
        self._noticed.add((kind, once_for))
        self._n_notices[kind] += 1
        if self._n_notices[kind] <= _N_NOTICES_MAX:
            notice = f"{' and '.join(map(self._named, job_ids))}: {text}" if job_ids else text
            is_last = self._n_notices[kind] == _N_NOTICES_MAX
            self.notices.append(f"{notice} (More of these are not shown.)" if is_last else notice)

    def _row_or_account(self) -> None:
        """While a 403 may concern the account, send one create at a time; stop once that is certain."""
        self.schedule.sends_one_at_a_time = is_in_doubt = bool(self._refusals.in_a_row)
        waiting = [key[0] for key in self.schedule.waiting] if is_in_doubt else []
        if not waiting or self.schedule.creating or not self.schedule.is_submitting:
            return
        decider = self._refusals.decide(waiting)
        if decider is not None:
            self.schedule.put_first(decider)
        elif self._forbidden is not None:
            self._refused_access(self._forbidden, list(self._refusals.in_a_row))

    def _refusals_so_far(self) -> Refusals:
        """Collect the jobs that an earlier call left refused with 403, which the plan puts last."""
        find = self.ledger.state.find
        found = (find(*key) for key in reversed(self.assignment.to_submit))
        refused = [attempt for attempt in takewhile(was_forbidden, found) if attempt is not None]
        answered = self.ledger.state.cells(columns.TASK_ID, columns.ANSWERED_AT) if refused else ()
        last = max((at for task_id, at in answered if None not in (task_id, at)), default=-inf)
        earlier = {attempt.job_id: (attempt.answered_at or inf) < last for attempt in refused}
        return Refusals(self.assignment.jobs, earlier, has_bought=last > -inf)

    def _create_failed(self, key: Key, failure: Failure, now: float) -> None:
        self.schedule.create_ended(key)
        if failure.kind is FailureKind.PERMANENT:
            if failure.http_status is not None:
                self.schedule.answered(is_create=True)
        elif failure.kind is FailureKind.MAY_HAVE_ARRIVED:
            self._away = failure
            self.schedule.outage.failed(now, is_create=True)
            self.notices.append(
                f"{self._named(key[0])}: no usable reply to its submission ({failure.error_class}: {failure.message}). "
                "It may have been accepted and billed, and won't be resent unless you ask."
            )
        else:
            self._not_taken(key, failure, now)

    def _not_taken(self, key: Key, failure: Failure, now: float) -> None:
        attempts = self.ledger.state.of(key[0])
        is_served = any(attempt.stage in OPEN or attempt.stage is Stage.COMPLETED for attempt in attempts)
        is_wanted = key[0] in self.assignment.jobs and not is_served
        if is_wanted:
            self._count_again(key[0])
        if failure.kind is FailureKind.TRANSIENT and failure.error_class == failures.FORBIDDEN:
            self.schedule.answered(is_create=True)
            if is_wanted:
                self.schedule.add_jobs([key])
            return
        if is_wanted:
            self.schedule.send_again(key)
        if failure.kind is FailureKind.STOP:
            self._refused_access(failure)
        elif failure.error_class == failures.RATE_LIMITED:
            self._limited = failure
            self.schedule.limited(now, asked_s=failure.retry_after_s, create=key)
        else:
            self._away = failure
            self.schedule.outage.failed(now, is_create=True)

    def _polled(self, answer: sending.PollAnswer) -> None:
        key, now = answer.key, self._clock.monotonic()
        if isinstance(answer.result, Failure):
            self._poll_failed(key, answer.result, now)
            return
        self.schedule.answered()
        self._is_poll_forbidden = False
        if differs := self._contradiction(key, answer.result):
            self._hold(key, answer.result, differs, now)
            return
        task_id, word = answer.result.task_id, answer.result.unlisted_status
        if (other := answer.result.other_id) is not None:
            text = f"the answer about task {task_id} also names {other}. Check its picture."
            self._notice("other_id", text, key[0], once_for=key)
        if answer.result.status == "in_progress":
            if word is not None:
                self._notice(
                    "status",
                    f"The service reported an undocumented status, {word!r} (task {task_id}). Treating it as in "
                    "progress until a picture or an error comes with it.",
                    once_for=word,
                )
            is_polled = self.schedule.still_running(key, now, answer.result.progress)
            self._unless(is_polled, key, word and f"its status is {word!r}")
            return
        n_polls = self.schedule.n_polls(key) + 1
        self.schedule.task_ended(key, now)
        price, excess = self.spending.price, self.spending.excess
        attempt = self.record(sending.task_ended(key, answer.result, self._clock.wall(), n_polls))
        self._notice_price(key[0], answer.result, price, excess)
        if attempt.stage is Stage.COMPLETED:
            self._notice_same_picture(attempt, "output_url")
            if self.assignment.should_download:
                self.schedule.add_save(key, refresh_first=attempt.output_url is None, now=now)
        elif attempt.error_class == failures.NO_CREDIT:
            self._refused_access(failures.from_task(answer.result))
        elif sending.is_retryable(attempt):
            self.submit_again([key], after=Stage.FAILED)

    def _contradiction(self, key: Key, task: Task, *, is_exact: bool = False) -> str | None:
        """Return which parameter an answer repeats differently than sent; if `is_exact`, even a rephrased prompt."""
        if not task.echo:
            return None
        attempt, job = self._attempt(key), self.assignment.jobs.get(key[0])
        sent = json.loads(attempt.inputs) if attempt.inputs else {}
        if job is not None:
            sent = {name: getattr(job, name) for name in ("prompt", "width", "height", "use_rephraser")}
        sent |= {"seed": attempt.seed_sent} | ({"use_rephraser": False} if is_exact else {})
        jobs = self.assignment.jobs.values()
        return contradiction(task.echo, sent, lambda: {job.prompt for job in jobs})

    def _hold(self, key: Key, task: Task, differs: str, now: float) -> None:
        """Ask again for a task whose answer describes another task; its picture is never used."""
        about = f"the answer about task {task.task_id} is about {differs}"
        self._n_contradictions[key] += 1
        text = f"{about}. Its picture isn't used; the task may have been mixed up."
        self._notice("echo", text, key[0], once_for=key)
        if task.status == "in_progress" or self._n_contradictions[key] < _CONTRADICTIONS_MAX:
            self._unless(self.schedule.poll_failed(key, now), key, about)
            return
        self.schedule.leave(key)
        self.record(sending.about_another(key, self._clock.wall(), about))

    def _notice_price(self, job_id: str, task: Task, price: Decimal | None, excess: Decimal) -> None:
        """Report an unreadable cost and, under a limit, a cost above its reservation and a limit exceeded by it."""
        if task.is_cost_unreadable:
            message = "the service's cost isn't a plausible price of a picture in USD"
            self._notice("cost", f"{message}; it counts as unknown.", job_id)
        if self.spending.limit is None or price is None or self.spending.price is None:
            return
        if self.spending.price > price:
            self.notices.append(
                f"An attempt cost {dollars(self.spending.price)}, but only {dollars(price)} was reserved. Reserving "
                f"{dollars(self.spending.price)} for each attempt from now on."
            )
        if self.spending.excess > excess and self.spending.cap is not None:
            self._notice(
                "excess",
                f"Spending is {dollars(self.spending.excess)} over the cap of {dollars(self.spending.cap)}, because "
                "attempts in flight cost more than was reserved. No more jobs are submitted under this cap.",
            )

    def _poll_failed(self, key: Key, failure: Failure, now: float) -> None:
        if failure.error_class == failures.TASK_NOT_FOUND:
            self.schedule.answered()
            n_polls = self.schedule.n_polls(key) + 1
            if not self.schedule.not_found(key, now):
                self.record(sending.lost(key, self._clock.wall(), n_polls))
            return
        if failure.error_class == failures.OTHER_TASK:
            text = f"{failure.message}. Ignored that answer; asking for the task again."
            self._notice(failures.OTHER_TASK, text, key[0], once_for=key)
        is_refused = failure.error_class == failures.RATE_LIMITED
        self._unless(self.schedule.poll_failed(key, now, is_refused=is_refused), key, failure.message)
        self._note(failure, now)

    def _note(self, failure: Failure, now: float) -> None:
        """Update quota and outage after a failed request."""
        is_first_403 = failure.error_class == failures.FORBIDDEN and not self._is_poll_forbidden
        self._is_poll_forbidden = failure.error_class == failures.FORBIDDEN
        if failure.kind is FailureKind.STOP and not is_first_403:
            self._refused_access(failure)
            self.schedule.is_polling = False
        elif failure.is_outage:
            self._away = failure
            self.schedule.outage.failed(now, is_create=False)
        elif failure.error_class == failures.RATE_LIMITED:
            self._limited = failure
            self.schedule.limited(now, asked_s=failure.retry_after_s)
        else:
            self.schedule.answered()

    def _refreshed(self, answer: sending.PollAnswer) -> None:
        key, task, now = answer.key, answer.result, self._clock.monotonic()
        if isinstance(task, Failure):
            self._note(task, now)
            if self.schedule.is_polling and (task.is_outage or task.error_class == failures.RATE_LIMITED):
                self.schedule.refresh_failed(key, now)
                return
        elif task.urls and task.urls != self._attempt(key).links and not self._contradiction(key, task):
            self.record(sending.new_links(self._attempt(key), self._clock.wall(), task.urls))
        self.schedule.refreshed(key, now)

    def _save_ended(self, answer: sending.SaveAnswer) -> None:
        key, now, wall = answer.key, self._clock.monotonic(), self._clock.wall()
        if answer.refusal is not None:
            self._limited = answer.refusal
            self.schedule.save_limited(now, asked_s=answer.refusal.retry_after_s)
        if not isinstance(answer.result, str):
            self.schedule.saved(key, now)
            before = self._attempt(key)
            odd = [before.output_warning] if before.saved_at is None else []
            odd.append(self._other_size(key, answer.result))
            self._notice_same_picture(
                self.record(sending.save_ended(key, answer.result, wall, odd=odd)), "output_sha256"
            )
        elif not self.schedule.save_failed(key, now):
            self.record(sending.unsaved(key, wall, answer.result))

    def _other_size(self, key: Key, saved: Saved) -> str | None:
        """Return how a picture's size differs from the one requested; the first beyond rounding gets a notice."""
        job = self.assignment.jobs.get(key[0])
        if job is None or (saved.width_px, saved.height_px) == (job.width, job.height):
            return None
        odd = f"the picture has {saved.width_px}x{saved.height_px} px, not the {job.width}x{job.height} requested"
        if max(abs(saved.width_px - job.width), abs(saved.height_px - job.height)) >= _ROUNDING_PX:
            self._notice("size", f"{odd}. See column output_warning for others.", key[0], once_for="")
        return odd

    def _notice_outage(self) -> None:
        outage = self.schedule.outage
        if outage.is_lasting and outage.mood == "down" and not self._outage:
            reason, check = _reason(self._away), self._what_to_check()
            self._outage = self._notify(f"Service unreachable{reason}; retrying. No rows are lost{check}.")
        elif self._outage and outage.has_answered:
            self._outage = ""
            self.notices.append("The service is back; resuming.")

    def _notice_standstill(self, now: float) -> None:
        schedule = self.schedule
        if schedule.standstill.is_lasting(now, schedule.quota.cool_until) and not self._standstill:
            reason, asked_s = _reason(self._limited), max(1.0, schedule.cool_down_left_s(now))
            text = f"Rate limited (429){reason}; next request in {asked_s:.0f} s. No rows are lost."
            self._standstill = self._notify(text)
        elif self._standstill and schedule.standstill.since is None:
            self._standstill = ""
            self.notices.append("No longer rate limited; resuming.")

    def _notify(self, outage: str) -> str:
        self.notices.append(outage)
        self.report("outage", outage)
        return outage

    def _count_again(self, job_id: str) -> None:
        """Count the rows of a job that already has an outcome and is submitted again."""
        if job_id not in self._again and self._is_settled(job_id):
            self._again.add(job_id)
            self._n_again += self.assignment.weights.get(job_id, 0)

    def _unless(self, goes_on: bool, key: Key, oddity: str | None) -> None:
        if not goes_on:
            timeout_s = self.schedule.limits.task_timeout_s
            self.record(sending.overdue(key, self._clock.wall(), timeout_s, oddity))

    def _refused_access(self, failure: Failure, job_ids: Sequence[str] = ()) -> None:
        rows = ", ".join(map(self._named, job_ids[:_N_NOTICES_MAX]))
        last = f" These rows are then submitted last: {rows}." if rows else ""
        self.stop(
            errors.AccessRefused(
                f"{_REFUSALS.get(failure.error_class, _REFUSALS[failures.ACCESS_REFUSED])}: {failure}. No more jobs "
                f"are submitted; jobs in flight finish. Once access is restored, run {same_call()} again.{last}"
            )
        )

    def _give_up(self, reason: str) -> None:
        self.stop(
            errors.ServiceUnreachable(
                f"{reason}. Run {same_call()} again to resume; nothing is bought twice."
            )
        )
        self.halt()

    def _what_to_check(self) -> str:
        """Return what to check on this side if nothing was ever answered."""
        if self.schedule.outage.has_ever_answered:
            return ""
        return ". Nothing has answered yet: check the base URL (http or https, host, port) and the proxy"

    def _standstill_reason(self, now: float) -> str:
        schedule = self.schedule
        waited_s = now - (schedule.standstill.since or now)
        left_s = schedule.cool_down_left_s(now)
        asked = f" and asks for another {left_s:.0f} s" if left_s else ""
        return (
            f"The service has answered every request with 429{_reason(self._limited)} for "
            f"{waited_s:.0f} s{asked}; {counted(schedule.n_waiting, 'job')} not submitted"
        )

    def _out_of_budget(self) -> errors.RunStopped | errors.PriceUnknown:
        if self.spending.price is None:
            return errors.PriceUnknown(
                f"The price is still unknown after {counted(self.spending.n_pilots, 'attempt')}, so the cap can't be "
                f"enforced and no more jobs are submitted. Pass {option('unit_cost')} (USD per attempt), or "
                f"{option('pilot', self.spending.n_pilots + 1)} or more, which counts all attempts of this directory "
                "sent without a price and isn't limited by the cap."
            )
        spent = spent_so_far(self.snapshot(), self.spending.price, counted(self.schedule.n_waiting, "job"))
        if self.spending.is_slice_used_up:
            if self.shared is None:
                place = self.ledger.state.terms.budget
                return errors.BudgetReached(f"The shared budget {place} can't be asked for more: {spent}")
            return errors.BudgetReached(self.shared.used_up(spent))
        why = " because attempts in flight cost more than was reserved" if self._n_notices["excess"] else ""
        return cap_reached(self.spending, spent, why)

    def _attempt(self, key: Key) -> Attempt:
        attempt = self.ledger.state.find(*key)
        if attempt is None:
            raise errors.RunStopped(f"attempt {key[1]} of job {key[0]} is not in the ledger")
        return attempt

    def _is_settled(self, job_id: str) -> bool:
        return status_of(self.ledger.state.deciding(job_id)) in columns.SETTLED


def spent_so_far(now: Snapshot, price: Decimal | None, n_left: str) -> str:
    """Summarise what was spent, for a message that nothing more can be bought."""
    return (
        f"{dollars(now.spent_usd)} spent and {dollars(now.reserved_usd)} reserved here, and the next attempt may cost "
        f"{dollars(price or ZERO)}. {n_left} not submitted."
    )


def cap_reached(spending: Spending, spent: str, why: str = "") -> errors.BudgetReached:
    """Return the error for a cap, or a call's limit, that leaves no room for the next attempt."""
    limit = spending.limit or ZERO
    what, keyword = ("cap", "max_cost") if limit == spending.cap else ("limit for this call", "max_new_cost")
    over = f" and exceeded by {dollars(spending.excess)}{why}" if spending.excess else ""
    return errors.BudgetReached(
        f"The {what} of {dollars(limit)} is reached{over}: {spent} To continue, run again with a higher "
        f"{option(keyword)}."
    )


def _asked_for(attempt: Attempt | None) -> dict[str, Any] | None:
    """Return what was submitted, apart from the row and the replicate; None if it isn't known."""
    if attempt is None or attempt.inputs is None:
        return None
    inputs = json.loads(attempt.inputs)
    apart = (columns.ROW, columns.IMAGE_SOURCE, columns.REPLICATE, "columns")
    return {name: value for name, value in inputs.items() if name not in apart}


def _reason(failure: Failure | None) -> str:
    """Return the latest reason in the service's or the library's words, in brackets."""
    if failure is None or not failure.message:
        return ""
    status = f"HTTP {failure.http_status}: " if failure.http_status is not None else ""
    return f" ({status}{harmless(failure.message)})"


def snapshot_of(
    state: State, price: Decimal | None, weights: Mapping[str, int], n_invalid: int = 0
) -> Snapshot:
    """Return a snapshot of a run from its ledger alone; `weights` is the number of rows of each job."""
    counts, n_open = count_rows(weights, n_invalid, state), sum(1 for _ in state.open())
    spending = Spending(cap=money(state.terms.cap), price=price, attempts=state.kinds())
    return Snapshot(counts, spending.spent, spending.reserved, spending.cap, n_open)


def count_rows(weights: Mapping[str, int], n_invalid: int, state: State) -> Counter[str]:
    """Count the rows by status; `weights` is the number of rows of each job."""
    counts = Counter(dict.fromkeys(columns.STATUSES, 0))
    counts[columns.INVALID] = n_invalid
    completed = {job_id for (job_id,) in state.completed(columns.JOB_ID)}
    for job_id, weight in weights.items():
        status = columns.COMPLETED if job_id in completed else status_of(state.deciding(job_id))
        counts[status] += weight
    return counts
