"""Attempts, the events that change them, their fold into state, and what they spend against a cap: pure.

An attempt's way::

    sending ──> accepted ──> completed | failed | lost
       │  └───> ambiguous ──(resolved)──> accepted | unsent
       ├──────> unsent      nothing arrived: the same attempt may be sent again
       └──────> refused     the service said no: nothing was submitted

The fold is total over events in the order they were written, and applying one event twice changes
nothing, so a journal may be replayed over a checkpoint without care.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from dreamo_batch import columns
from dreamo_batch.money import ZERO, exact_text, money, times, total

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from decimal import Decimal

    import pyarrow as pa

    from dreamo_batch.engine.attempt_table import StoredAttempts


Key = tuple[str, int]
"""An attempt's job and its number within the job."""


class Stage(StrEnum):
    """How far an attempt is."""

    SENDING = "sending"
    UNSENT = "unsent"
    REFUSED = "refused"
    ACCEPTED = "accepted"
    AMBIGUOUS = "ambiguous"
    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"


class EventKind(StrEnum):
    """What happened to an attempt."""

    SENDING = "sending"
    NAMED = "named"
    NOT_SENT = "not_sent"
    REFUSED = "refused"
    ACCEPTED = "accepted"
    AMBIGUOUS = "ambiguous"
    OVERDUE = "overdue"
    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"
    SAVED = "saved"
    UNSAVED = "unsaved"


STATUS_OF: Final[Mapping[Stage, str]] = {
    Stage.SENDING: columns.SUBMITTING,
    Stage.UNSENT: columns.PENDING,
    Stage.REFUSED: columns.FAILED,
    Stage.ACCEPTED: columns.IN_PROGRESS,
    Stage.AMBIGUOUS: columns.AMBIGUOUS,
    Stage.COMPLETED: columns.COMPLETED,
    Stage.FAILED: columns.FAILED,
    Stage.LOST: columns.FAILED,
}

# Stages in which an attempt exists, or may exist, at the service.
SUBMITTED: Final = frozenset(
    {Stage.SENDING, Stage.ACCEPTED, Stage.AMBIGUOUS, Stage.COMPLETED, Stage.FAILED, Stage.LOST}
)
# Stages in which no picture is to be had from an attempt.
CAME_TO_NOTHING: Final = frozenset({Stage.UNSENT, Stage.REFUSED, Stage.FAILED, Stage.LOST})
OPEN: Final = frozenset({Stage.SENDING, Stage.ACCEPTED})
# Of several attempts of a job, one in a stage of the highest weight says how the job stands.
WEIGHTS: Final[Mapping[Stage, int]] = {
    Stage.COMPLETED: 4,
    Stage.SENDING: 3,
    Stage.ACCEPTED: 3,
    Stage.AMBIGUOUS: 2,
    Stage.FAILED: 1,
    Stage.LOST: 1,
    Stage.REFUSED: 1,
    Stage.UNSENT: 0,
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job; `attempt` counts from 1, times are Unix seconds, money is exact decimal text.

    Fields carry the names of `dreamo_batch.columns.LEDGER`.
    """

    job_id: str
    attempt: int
    stage: Stage = Stage.UNSENT
    task_id: str | None = None
    seed_sent: int | None = None
    reserved: str | None = None
    cost: str | None = None
    discount: str | None = None
    output_url: str | None = None
    output_path: str | None = None
    output_sha256: str | None = None
    output_bytes: int | None = None
    output_width: int | None = None
    output_height: int | None = None
    output_error: str | None = None
    error_class: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    may_have_been_billed: bool | None = None
    excerpt: str | None = None
    metadata: str | None = None
    sent_at: float | None = None
    answered_at: float | None = None
    completed_at: float | None = None
    saved_at: float | None = None
    n_polls: int | None = None
    n_refusals: int | None = None
    waited_s: float | None = None
    output_urls: str | None = None
    output_warning: str | None = None
    output_job_id: str | None = None
    output_bytes_told: int | None = None
    inputs: str | None = None

    @property
    def links(self) -> tuple[str, ...]:
        """Every picture's link, the first first."""
        if self.output_urls is not None:
            return tuple(json.loads(self.output_urls))
        return () if self.output_url is None else (self.output_url,)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an attempt at a time, with the fields it sets."""

    kind: EventKind
    job_id: str
    attempt: int
    at: float
    fields: Mapping[str, Any]


class ImpossibleEvent(ValueError):  # noqa: N818 - it names what the journal holds
    """An event that can't follow what is known of its attempt."""


_NO_ERROR: Final[dict[str, Any]] = {
    "error_class": None,
    "error_code": None,
    "error_message": None,
    "excerpt": None,
}


@dataclass(frozen=True, slots=True)
class _Rule:
    """What an event does: the stages it may follow, the stage it leads to, its time, what it resets."""

    after: frozenset[Stage]
    stage: Stage | None
    time: str | None = None
    resets: Mapping[str, Any] | None = None


_SENDABLE = frozenset({Stage.UNSENT, Stage.REFUSED})
_ON_THE_WIRE = frozenset({Stage.SENDING})
_UNDECIDED = frozenset({Stage.SENDING, Stage.AMBIGUOUS})
_RUNNING = frozenset({Stage.ACCEPTED})
_MADE = frozenset({Stage.COMPLETED})

RULES: Final[Mapping[EventKind, _Rule]] = {
    EventKind.SENDING: _Rule(
        _SENDABLE, Stage.SENDING, "sent_at", _NO_ERROR | {"answered_at": None, "may_have_been_billed": None}
    ),
    EventKind.NAMED: _Rule(_ON_THE_WIRE, Stage.SENDING),
    EventKind.NOT_SENT: _Rule(
        _UNDECIDED, Stage.UNSENT, "answered_at", _NO_ERROR | {"may_have_been_billed": None, "reserved": None}
    ),
    EventKind.REFUSED: _Rule(_ON_THE_WIRE, Stage.REFUSED, "answered_at", _NO_ERROR | {"reserved": None}),
    EventKind.ACCEPTED: _Rule(
        _UNDECIDED, Stage.ACCEPTED, "answered_at", _NO_ERROR | {"may_have_been_billed": None}
    ),
    EventKind.AMBIGUOUS: _Rule(_ON_THE_WIRE, Stage.AMBIGUOUS, "answered_at"),
    EventKind.OVERDUE: _Rule(_RUNNING, Stage.ACCEPTED),
    EventKind.COMPLETED: _Rule(_RUNNING, Stage.COMPLETED, "completed_at", _NO_ERROR),
    EventKind.FAILED: _Rule(_RUNNING, Stage.FAILED, "completed_at", _NO_ERROR),
    EventKind.LOST: _Rule(_RUNNING, Stage.LOST, "completed_at", _NO_ERROR),
    EventKind.SAVED: _Rule(_MADE, None, "saved_at", {"output_error": None, "output_warning": None}),
    EventKind.UNSAVED: _Rule(_MADE, None),
}


_FIELDS: Final = tuple(one.name for one in fields(Attempt))
_values_of: Final = attrgetter(*_FIELDS)


def advance(attempt: Attempt, event: Event) -> Attempt:
    """Apply one event to its attempt."""
    rule = RULES[event.kind]
    changes = dict(rule.resets or ())
    if rule.stage is not None:
        changes["stage"] = rule.stage
    if rule.time is not None:
        changes[rule.time] = event.at
    changes.update(event.fields)
    # replace() takes thrice as long.
    changed = Attempt(**dict(zip(_FIELDS, _values_of(attempt), strict=True)) | changes)
    if attempt.stage not in rule.after and changed != attempt:  # the same event again changes nothing
        raise ImpossibleEvent(
            f"attempt {event.attempt} of job {event.job_id} is {attempt.stage}, so it can't be {event.kind}"
        )
    return changed


@dataclass(frozen=True, slots=True)
class Terms:
    """What may be spent in a run directory, in USD as exact decimal text; None where there is no limit.

    `cap` is its own cap, `slice` its slice of a cap that it shares with others, and `budget` where that is kept.
    """

    cap: str | None = None
    slice: str | None = None
    budget: str | None = None


NO_TERMS: Final = Terms()


# What money depends on.
KIND: Final = (columns.STAGE, columns.COST, columns.RESERVED, columns.MAY_HAVE_BEEN_BILLED)


class _Nothing(dict[str, tuple[Attempt, ...]]):
    """No table yet."""

    def lacking(self, job_ids: pa.Array) -> pa.Array:
        return job_ids

    def kinds(self, _besides: Collection[str]) -> Counter[Attempt]:
        return Counter()

    def cells(
        self, _besides: Collection[str], _names: Sequence[str], *, is_completed_only: bool = False
    ) -> Iterator[tuple[Any, ...]]:
        del is_completed_only
        return iter(())


class State:
    """All attempts of a run directory, by job, in the order they were made, and the terms they stand under.

    `stored` are attempts as a table holds them, none of them open; `changed` are the jobs whose attempts are newer, or
    open.
    """

    def __init__(self, attempts: Iterable[Attempt] = (), terms: Terms = NO_TERMS) -> None:
        self.terms = terms
        self.stored: StoredAttempts | _Nothing = _Nothing()
        self.changed: dict[str, tuple[Attempt, ...]] = {}
        for attempt in attempts:
            self.put(attempt)

    def __len__(self) -> int:
        """Count the jobs with attempts."""
        return len(self.stored) + sum(job_id not in self.stored for job_id in self.changed)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self.changed or job_id in self.stored

    def __iter__(self) -> Iterator[Attempt]:
        """Every attempt, job by job."""
        for job_id, attempts in self.stored.items():
            yield from self.changed.get(job_id, attempts)
        for job_id, attempts in self.changed.items():
            if job_id not in self.stored:
                yield from attempts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and (dict(self._jobs()), self.terms) == (
            dict(other._jobs()),
            other.terms,
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, so not hashable

    def of(self, job_id: str) -> tuple[Attempt, ...]:
        """Return every attempt of a job, oldest first."""
        attempts = self.changed.get(job_id)
        return self.stored.get(job_id, ()) if attempts is None else attempts

    def job_ids(self) -> Iterator[str]:
        """Every job with attempts."""
        yield from self.stored
        yield from (job_id for job_id in self.changed if job_id not in self.stored)

    def cells(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Return some fields of every attempt."""
        yield from self.stored.cells(self.changed, names)
        values = attrgetter(*names)
        yield from (values(one) for attempts in self.changed.values() for one in attempts)

    def completed(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Return some fields of stored attempts that completed and are their job's only one: most, at little cost."""
        return self.stored.cells(self.changed, names, is_completed_only=True)

    def open(self) -> Iterator[Attempt]:
        """Every attempt that is on the wire or at the service."""
        return (one for attempts in self.changed.values() for one in attempts if one.stage in OPEN)

    def kinds(self) -> Counter[Attempt]:
        """Count the attempts by all that money depends on: stage, cost, reservation, and whether they may be billed."""
        counts = self.stored.kinds(self.changed)
        counts.update(_kind(one) for attempts in self.changed.values() for one in attempts)
        return counts

    def store(self, stored: StoredAttempts) -> None:
        """Leave all that is settled to a table that holds it."""
        self.stored = stored  # first: another thread may be copying
        self.changed = {
            job_id: attempts
            for job_id, attempts in self.changed.items()
            if not OPEN.isdisjoint(one.stage for one in attempts)
        }

    def deciding(self, job_id: str) -> Attempt | None:
        """Return the attempt that says how a job stands, or None; see `deciding`."""
        return deciding(self.of(job_id))

    def find(self, job_id: str, number: int) -> Attempt | None:
        """Return one attempt of a job, or None."""
        attempts = self.of(job_id)
        return attempts[number - 1] if 0 < number <= len(attempts) else None

    def copy(self) -> State:
        """Return the state as it is now; attempts are never changed, so it costs little."""
        copied = State(terms=self.terms)
        copied.changed = dict(self.changed)
        copied.stored = self.stored  # last: what is stored meanwhile is in either
        return copied

    def put(self, attempt: Attempt) -> None:
        """Set an attempt; its number must be known or the next."""
        attempts = self.of(attempt.job_id)
        if not 0 < attempt.attempt <= len(attempts) + 1:
            raise ImpossibleEvent(
                f"attempt {attempt.attempt} of job {attempt.job_id} follows {len(attempts)} attempts"
            )
        self.changed[attempt.job_id] = (
            *attempts[: attempt.attempt - 1],
            attempt,
            *attempts[attempt.attempt :],
        )

    def apply(self, event: Event) -> Attempt:
        """Fold one event in and give the attempt it leads to."""
        attempt = self.find(event.job_id, event.attempt) or Attempt(event.job_id, event.attempt)
        attempt = advance(attempt, event)
        self.put(attempt)
        return attempt

    def _jobs(self) -> Iterator[tuple[str, tuple[Attempt, ...]]]:
        return ((job_id, tuple(attempts)) for job_id, attempts in groupby(self, attrgetter("job_id")))


def _kind(attempt: Attempt) -> Attempt:
    values = {name: getattr(attempt, name) for name in KIND}
    return Attempt("", 1, **values)


def deciding(attempts: tuple[Attempt, ...]) -> Attempt | None:
    """Return the attempt that says how its job stands: the latest of those that weigh most.

    So a picture is never hidden by a later attempt, nor is one under way; what may have been billed stays in doubt
    whatever became of a resend; and an attempt that was not sent speaks only where nothing else was.
    """
    if len(attempts) == 1:
        return attempts[0]
    return max(reversed(attempts), key=lambda attempt: WEIGHTS[attempt.stage], default=None)


def next_number(attempts: tuple[Attempt, ...]) -> int:
    """Return the number the next create of a job is sent under; one that never became an attempt is used again.

    Not after somebody answered a doubt: a run that has lost its directory may still hold the create for ambiguous, and
    only an attempt in the ledger tells that it was not taken.
    """
    last = attempts[-1] if attempts and attempts[-1].stage in _SENDABLE else None
    is_answered_doubt = last and last.stage is Stage.UNSENT and last.may_have_been_billed is False
    return len(attempts) + 1 if last is None or is_answered_doubt else last.attempt


def is_unresolved_cost(attempt: Attempt) -> bool:
    """Whether money may be gone, or be about to go, without a cost being known."""
    return attempt.stage in SUBMITTED and attempt.cost is None and not is_unbilled(attempt)


def is_unbilled(attempt: Attempt) -> bool:
    """Whether an attempt ended without a picture and is known to have cost nothing."""
    return attempt.stage is Stage.FAILED and attempt.may_have_been_billed is False and attempt.cost is None


def status_of(attempt: Attempt | None) -> str:
    """Return a job's status by its deciding attempt."""
    return columns.PENDING if attempt is None else STATUS_OF[attempt.stage]


Verdict = Literal["go", "wait", "stop"]


class SharedCap(Protocol):
    """A cap that the directory shares with others, of which it has a slice; each method may raise OSError."""

    def more(self, wanted: Decimal, spending: Spending, state: State) -> Decimal:
        """Have the slice raised to up to `wanted` in all, and return it; it counts once the ledger has it."""

    def give_back(self, spending: Spending, state: State) -> None:
        """Lower the slice to what is spent and reserved, which the ledger has as its slice already."""

    def used_up(self, here: str) -> str:
        """Say that nothing is left for this run, how it stands here, who holds what, and what to do."""


class Spending:
    """What was spent and is reserved in a run directory, against its cap and its slice of a shared one.

    ``spent`` is the exact sum of the costs the service named, also of tasks that failed. ``reserved`` is what attempts
    without a cost hold back: those in progress, and for good those that are ambiguous, lost, or ended without a cost.
    A failure that is known to be unbilled holds nothing back.
    """

    def __init__(
        self,
        *,
        cap: Decimal | None = None,
        max_new: Decimal | None = None,
        price: Decimal | None = None,
        n_pilot: int = 0,
        attempts: Iterable[Attempt] = (),
    ) -> None:
        self.cap = cap
        self.slice: Decimal | None = None  # set once it is known
        self.price = price
        self.spent = ZERO
        self._held = ZERO
        self._n_unpriced = 0
        self._n_open = 0
        self._n_pilot = n_pilot
        self.n_pilots = 0
        for attempt, n in Counter(attempts).items():
            self._add(attempt, n)
        self.call_limit = None if max_new is None else total((self.committed, max_new))

    @property
    def reserved(self) -> Decimal:
        """USD held back; an attempt sent before any price was known counts at the price known now."""
        return total((self._held, times(self._n_unpriced, self.price or ZERO)))

    @property
    def committed(self) -> Decimal:
        """USD spent and reserved."""
        return total((self.spent, self.reserved))

    @property
    def excess(self) -> Decimal:
        """USD by which spent + reserved is over the cap; 0 within it."""
        return ZERO if self.cap is None else max(total((self.committed, self.cap.copy_negate())), ZERO)

    @property
    def limit(self) -> Decimal | None:
        """USD that spent + reserved may come to in this call: the least of cap, slice, and the sum agreed to for it."""
        return min(
            (limit for limit in (self.cap, self.slice, self.call_limit) if limit is not None), default=None
        )

    @property
    def is_slice_used_up(self) -> bool:
        """Whether only a larger slice of the shared cap lets the next create be sent."""
        if self.slice is None or self.price is None:
            return False
        wanted = total((self.committed, self.price))
        own = (limit for limit in (self.cap, self.call_limit) if limit is not None)
        return wanted > self.slice and all(wanted <= limit for limit in own)

    @property
    def left(self) -> Decimal | None:
        """USD that may still be added of the sum agreed to for this call; None where there is no such sum."""
        if self.call_limit is None:
            return None
        return max(total((self.call_limit, self.committed.copy_negate())), ZERO)

    def wanted(self, n: int) -> Decimal:
        """Return the slice of the shared cap that this many more creates need, as far as the other limits allow."""
        needed = total((self.committed, times(n, self.price or ZERO)))
        return min(limit for limit in (needed, self.cap, self.call_limit) if limit is not None)

    def verdict(self) -> Verdict:
        """Say whether the next create may be sent: go, wait for what is in flight, or stop."""
        limit = self.limit
        if limit is None or (self.price is None and self.n_pilots < self._n_pilot):
            return "go"
        if self.price is not None and total((self.committed, self.price)) <= limit:
            return "go"
        return "wait" if self._n_open else "stop"

    def reserve(self) -> str | None:
        """Take the reservation of the next create, as exact text; None while no price is known."""
        return None if self.price is None else exact_text(self.price)

    def change(self, before: Attempt | None, after: Attempt) -> None:
        """Follow an attempt from one state to the next."""
        if before is not None and _is_held_alike(before, after):
            return
        if before is not None:
            self._add(before, -1)
        self._add(after, 1)
        cost = price_of(after)
        if cost is not None:  # above the reservation it raises it for what follows; a pilot's sets it
            self.price = cost if self.price is None else max(self.price, cost)

    def _add(self, attempt: Attempt, n: int) -> None:
        if attempt.stage not in SUBMITTED:
            return
        self._n_open += n * (attempt.stage in OPEN)
        self.n_pilots += n * (attempt.reserved is None)
        cost, held = money(attempt.cost), money(attempt.reserved)
        if cost is not None:
            self.spent = total((self.spent, times(n, cost)))
        elif is_unbilled(attempt):
            return
        elif held is not None:
            self._held = total((self._held, times(n, held)))
        else:
            self._n_unpriced += n


def _is_held_alike(before: Attempt, after: Attempt) -> bool:
    """Return whether an attempt is open before and after an event, and holds back the same."""
    is_open = before.stage in OPEN and after.stage in OPEN
    return is_open and (before.cost, before.reserved) == (after.cost, after.reserved)


def price_of(attempt: Attempt) -> Decimal | None:
    """Return what an attempt shows of the price: the cost of one that completed."""
    return money(attempt.cost) if attempt.stage is Stage.COMPLETED else None


def highest_price(attempts: Iterable[Attempt], *, above_reserved: bool = False) -> Decimal | None:
    """Return the highest price seen, perhaps only above what was reserved; None if there is none."""
    seen = ((price_of(one), money(one.reserved)) for one in attempts)
    prices = (
        one
        for one, held in seen
        if one is not None and (not above_reserved or (held is not None and one > held))
    )
    return max(prices, default=None)


def possibly_billed(attempts: Iterable[Attempt]) -> Decimal | None:
    """Add up what attempts that may have been billed without a known cost hold back; None if one has no price."""
    held = [
        (n, money(attempt.reserved))
        for attempt, n in Counter(attempts).items()
        if is_unresolved_cost(attempt) and attempt.may_have_been_billed
    ]
    known = [times(n, amount) for n, amount in held if amount is not None]
    return total(known) if len(known) == len(held) else None
