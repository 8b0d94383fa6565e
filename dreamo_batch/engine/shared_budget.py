"""A budget: one cap over many run directories and people, and what a directory has of it during a call.

Its slices are a log of what each ledger was granted, to which any number of processes add at once.

What a ledger may spend is recorded in the ledger itself, and only its holder writes it there. The log holds what was
granted to each, and the sum of that never passes the cap: **to raise a slice, first the log, then the ledger; to
lower it, first the ledger, then the log.** So whatever is killed in between, no slice is larger than what was granted
for it.

Each record is a separate object that is put if absent, under the next number, and is made from all records before
it: whoever finds the number taken reads on and decides again. A grant is always recorded, even of what was granted
before, because only that keeps out a record which is still on its way to the store.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import socket
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dreamo_batch import arguments, columns, errors
from dreamo_batch.appearance import HeadedFrame, Headline
from dreamo_batch.engine import store
from dreamo_batch.engine.directory import identity_of_file, is_same_file
from dreamo_batch.engine.spending import Spending, highest_price
from dreamo_batch.money import EXACT, ZERO, Amount, dollars, exact_text, minus, money, times, total
from dreamo_batch.text import aligned, harmless, listed, option, quoted, same_call, user_name, wording

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from decimal import Decimal

    from dreamo_batch.engine.attempts import State
    from dreamo_batch.engine.ledger import Ledger

logger = errors.logger_named(__name__)

_LISTED: Final = (
    columns.USER,
    columns.DIRECTORY,
    columns.MONTH,
    columns.SPENT,
    columns.RESERVED,
    columns.HELD,
)
_DAY_S: Final = 86_400
_HOLDERS_MAX: Final = 5  # named in an error
_AMOUNTS: Final = ("cap", "max_cost", "per_owner")  # of the terms in a record
_SUMMARY_EVERY: Final = 16  # records, so that a reader needs only those behind the last summary
_RECORD: Final = re.compile(rf"{store.SLICES}\d{{12}}")


class Budget:
    """A cap that many run directories share, of one person or several, on one machine or many.

    Pass it, its path or its URL to `run`, `start`, `retry`, `resume` or `search` as ``budget=``. A directory then
    belongs to the budget for good, with all that was spent in it; its own `max_cost` holds as well. Each call takes a
    slice before it buys and gives back what is left of it at the end. A process that was killed leaves its slice held
    until the next call on its directory.

    Parameters
    ----------
    place : path or str
        A folder, created if missing, or the URL of one in an object store (``s3://``, ``gs://``, ``az://``). On a
        network file system, all must see the same folder, and it needs hard links.
    cap : float, str or Decimal, optional
        Most that all directories may spend together, in USD. Required for a new budget; kept until changed.
    per_user : float, str or Decimal, optional
        Most that the directories of each user may spend, in USD; inf removes it. Kept until changed.
    user : str, optional
        The user against whose cap a directory that joins now counts. Default: the login name.

    Raises
    ------
    UsageError
        If an amount can't be used, there is no such budget yet and `cap` is missing, or the new cap is less than what
        is granted already.
    DirectoryError
        If the place can't be used, or its records are damaged.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> folder = tempfile.mkdtemp()
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> budget = dreamo.Budget(f"{folder}/team.budget", cap=200, per_user=50, user="anna")
    >>> _ = dreamo.run(jobs, f"{folder}/a", gateway="local", budget=budget, progress=False)
    >>> budget.status()[["user", "spent", "held"]].values.tolist()
    [['anna', '0.008502366', '0']]
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        *,
        cap: Amount | None = None,
        per_user: Amount | None = None,
        user: str | None = None,
    ) -> None:
        self.place = _place(place)
        self.user = user_name() if user is None else harmless(user.strip()) if isinstance(user, str) else ""
        if not self.user:
            raise errors.UsageError(f"user must be a name, not {quoted(user)}.")
        new_cap = arguments.check_amount("cap", cap)
        new_share = arguments.check_amount("per_user", per_user, unless="no limit")
        with budget_errors(self.place):
            slices = slices_at(self.place)
            is_known = slices.read()
            if not is_known and cap is None:
                start = wording("Pass cap= (USD)", f"Use `dreamo-batch budget {self.place} --cap USD`")
                raise errors.UsageError(
                    f"No budget at {self.place}. {start} to start one; if it was moved, pass its new location."
                )
            if cap is not None or per_user is not None:
                if not is_known:
                    self._refuse_place()
                self._limit(slices, new_cap, new_share, has_per_user=per_user is not None)

    def __repr__(self) -> str:
        return f"Budget({self.place!r}, user={self.user!r})"

    def status(self) -> pd.DataFrame:
        """List what was spent from it, by user, directory and month, and what is reserved and held.

        Returns
        -------
        pandas.DataFrame
            Columns of `dreamo_batch.columns.BUDGET`; exact USD as decimal text. Sums of a column are those of the
            budget. A directory reports when a call on it begins, ends, or asks for more.

        Raises
        ------
        DirectoryError
            If the budget can't be read, or its records are damaged.

        Examples
        --------
        >>> import tempfile
        >>> import dreamo_batch as dreamo
        >>> dreamo.Budget(tempfile.mkdtemp() + "/team.budget", cap=200).status()["spent_usd"].sum()
        np.float64(0.0)
        """
        slices = slices_at(self.place)
        with budget_errors(self.place):
            slices.read()
        rows = [row for share in slices.shares.values() for row in _rows(share)]
        frame = columns.typed(pd.DataFrame(rows, columns=list(columns.BUDGET)), columns.BUDGET)
        frame = frame.sort_values(["user", "directory", "month"], ignore_index=True)
        return BudgetStatus.of(frame, shown=_headline(self.place, slices))

    def _refuse_place(self) -> None:
        """Refuse to begin where something else is, or where two could be granted the same."""
        files = {path.name for path in Path(self.place).glob("*")}
        if store.is_url(self.place):
            store.refuse_unsafe(store.ObjectStore(self.place), self.place)
        elif Path(self.place).is_file() or files - {store.SLICES[:-1]}:
            raise errors.UsageError(f"{self.place} exists but isn't a budget. Choose a new folder.")

    def _limit(
        self, slices: Slices, cap: Decimal | None, per_user: Decimal | None, *, has_per_user: bool
    ) -> None:
        identity = _identity(self.place) if slices.cap is None else ""
        cap = slices.cap if cap is None else cap
        per_user = per_user if has_per_user else slices.per_owner
        shares = list(slices.shares.values())
        _refuse_lowered("cap", cap, slices.cap, shares)
        for user in {share.owner for share in shares}:
            theirs = [share for share in shares if share.owner == user]
            _refuse_lowered("per_user", per_user, slices.per_owner, theirs, f" to {user}")
        slices.limit(cap=cap, per_owner=per_user, identity=identity)


def budget_of(given: Budget | str | os.PathLike[str]) -> Budget:
    """Return the budget that was passed, or whose path or URL was passed."""
    return given if isinstance(given, Budget) else Budget(given)


def adopt_budget(budget: Budget) -> None:
    """Make a copied budget independent."""
    slices = slices_at(budget.place)
    slices.read()
    slices.limit(cap=slices.cap, per_owner=slices.per_owner, identity=_identity(budget.place))


class BudgetStatus(HeadedFrame):
    """What `Budget.status` returns: columns of `dreamo_batch.columns.BUDGET` below what is left."""

    _metadata = ["_shown"]  # noqa: RUF012 - pandas' own way of keeping something beside the columns

    def _headline(self) -> Headline | None:
        return self._shown if set(self.columns) >= set(columns.BUDGET) else None

    def _listed(self) -> pd.DataFrame:
        return pd.DataFrame(self)[list(_LISTED)]

    def _text(self) -> str:
        return aligned(_LISTED, self._listed().to_numpy(dtype=object).tolist())


class BudgetShare:
    """What a run directory has of a budget, during one call on it."""

    def __init__(self, budget: Budget, ledger: Ledger) -> None:
        self.place = budget.place
        self._budget = budget
        self._slices = slices_at(budget.place)
        self._child = ledger.identity
        self._opening = ledger.generation
        self._directory = ledger.directory.name
        self._refuse_other(ledger)

    def _refuse_other(self, ledger: Ledger) -> None:
        """Refuse a budget that the directory doesn't belong to, or that has forgotten what it granted."""
        terms, place = ledger.state.terms, self.place
        granted = self._slices.granted()
        if not is_same_file(self._slices.identity, _identity(place)):
            raise errors.DirectoryError(
                f"{place} is a copy of a budget (or was restored from one, or moved to another disk). Nothing was "
                "submitted: what is spent from the original isn't known here, so together they could exceed the cap. "
                f"Use the original, or pass {option('adopt_copy', value=True)} to make this a separate budget."
            )
        held = money(terms.slice) or ZERO
        if terms.budget is None or held <= granted.get(self._child, ZERO):
            return
        if place != terms.budget and self._child not in granted:
            raise errors.UsageError(
                f"{self._directory} belongs to the budget {terms.budget}, and stays in it. Leave "
                f"{option('budget')} out, or use another run directory."
            )
        raise errors.LedgerDamaged(
            f"{self._directory} has a slice of {dollars(held)} of the budget {place}, which doesn't know of it: either "
            "the budget was replaced by a new one or an older copy, or this is a copy of another run directory. "
            "Nothing was submitted. Restore the budget's records, or use a new run directory."
        )

    def join(self, wanted: Decimal, spending: Spending, state: State) -> Decimal:
        """Take a slice of up to `wanted` in all; raises where not even what was spent before has room."""
        spent = spending.committed
        if spent and self._child not in self._slices.shares:
            granted = self._slices.grant(self._child, spent, opening=self._opening, owner=self._budget.user)
            if granted < spent:
                self._slices.give_back(self._child, ZERO, opening=self._opening)
                raise errors.UsageError(
                    f"{self._directory} can't join the budget {self.place}: {dollars(spent)} was spent or reserved in "
                    f"it before, and only {dollars(granted)} is left. Nothing was submitted."
                )
        return self.more(wanted, spending, state)

    def more(self, wanted: Decimal, spending: Spending, state: State) -> Decimal:
        """Raise the slice to up to `wanted` in all, and return it; it counts once the ledger has it."""
        return self._slices.grant(
            self._child,
            wanted,
            opening=self._opening,
            unit=spending.price,
            owner=self._budget.user,
            about=self._about(spending, state),
        )

    def give_back(self, spending: Spending, state: State) -> None:
        """Lower the slice to what is spent and reserved, which the ledger has as its slice already."""
        if self._child in self._slices.shares:  # else it never took any
            about = self._about(spending, state)
            self._slices.give_back(self._child, spending.committed, opening=self._opening, about=about)

    def used_up(self, summary: str) -> str:
        """Describe that nothing is left for this run, and what was spent here."""
        return used_up(self._budget, self._slices, self._directory, summary)

    def _about(self, spending: Spending, state: State) -> dict[str, Any]:
        cells = state.cells(columns.COST, columns.COMPLETED_AT, columns.ANSWERED_AT, columns.SENT_AT)
        alike = Counter((cost, next(filter(None, at), 0.0) // _DAY_S) for cost, *at in cells)
        spent: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for (cost, day), n in alike.items():
            amount = money(cost)
            if amount:
                month = datetime.fromtimestamp(day * _DAY_S, UTC).strftime("%Y-%m")
                spent[month] = total((spent[month], times(n, amount)))
        return {
            "directory": self._directory,
            "host": socket.gethostname(),
            "spent": {month: exact_text(amount) for month, amount in sorted(spent.items())},
            "reserved": exact_text(spending.reserved),
        }


def slices_at(place: str) -> Slices:
    """Return the shares that are kept in a folder, or at the URL of one in a store, unread, for one thread."""
    if store.is_url(place):
        return Slices(store.ObjectStore(place), place=place)
    # A disk that refuses a record now does so in a second, too; and the run would wait for it.
    return Slices(store.FolderStore(Path(place)), place=place, pause=lambda _: None)


def return_unspent(ledger: Ledger, at: float) -> None:
    """Return to the budget what a directory without a running call holds beyond what is spent and reserved."""
    terms, attempts = ledger.state.terms, ledger.state.kinds()
    spending = Spending(price=highest_price(attempts), attempts=attempts)
    if terms.budget is None or ledger.is_copy or (money(terms.slice) or ZERO) <= spending.committed:
        return
    try:
        share = BudgetShare(budget_of(terms.budget), ledger)
        ledger.set_terms(at, slice=exact_text(spending.committed))
        ledger.commit()
        share.give_back(spending, ledger.state)
    except (OSError, errors.DreamoError) as error:
        logger.warning("what is unspent of %s stays held until the next call: %s", terms.budget, error)


def used_up(budget: Budget, slices: Slices, directory: str, summary: str) -> str:
    """Describe that nothing is left for a directory and its shards, what they spent, who has what, and what to do."""
    shares = list(slices.shares.values())
    others = [share for share in shares if not _is_of(share, directory)]
    owner = next((share.owner for share in shares if _is_of(share, directory)), budget.user)
    is_users = slices.per_owner is not None and slices.room(owner) != slices.room(None)
    others = [share for share in others if not is_users or share.owner == owner]
    name, limit = ("per_user", slices.per_owner) if is_users else ("cap", slices.cap)
    whose = f"{owner}'s part of the" if is_users else "The"
    spent = total(amount for share in others for amount in _sums(share)[0].values())
    elsewhere = f" {dollars(spent)} was spent in other directories." if spent else ""
    holders = _holders(others)
    raised = wording(
        f"Budget({budget.place!r}, {name}=...)",
        f"`dreamo-batch budget {budget.place} --{name.replace('_', '-')} USD`",
    )
    return (
        f"{whose} shared budget {budget.place}, {dollars(limit or ZERO)}, is used up: {summary}"
        f"{elsewhere}{holders or ' No other directory holds any of it.'} To continue, raise it with {raised}"
        + (f", or run {same_call()} again once others have given something back." if holders else ".")
    )


@contextmanager
def budget_errors(place: str) -> Iterator[None]:
    """Raise an error that names the budget if it can't be read or written; nothing was submitted."""
    try:
        yield
    except OSError as error:
        raise errors.DirectoryError(
            f"Can't use the budget {place} ({error.strerror or error}). Nothing was submitted. Check its address, its "
            "permissions and the disk."
        ) from error


def _identity(place: str) -> str:
    """Return an identity of the place that no copy shares."""
    if store.is_url(place):
        return place.replace("-", "_")
    Path(place).mkdir(parents=True, exist_ok=True)
    return identity_of_file(Path(place))


def _place(given: str | os.PathLike[str]) -> str:
    """Return a URL as it is, and the absolute path of a folder."""
    text = store.check_location("budget", given)
    return text.rstrip("/") if store.is_url(text) else str(Path(text).expanduser().absolute())


def _sums(share: Share) -> tuple[dict[str, Decimal], Decimal, Decimal]:
    """Return what a directory spent by month, what it reserves, and what it holds beside, in USD."""
    spent = {month: money(amount) or ZERO for month, amount in share.about.get("spent", {}).items()}
    reserved = money(share.about.get("reserved")) or ZERO
    return spent, reserved, minus(share.amount, total((*spent.values(), reserved)))


def _rows(share: Share) -> list[dict[str, Any]]:
    spent, reserved, held = _sums(share)
    at = datetime.fromtimestamp(share.at, UTC)
    months = spent or ({at.strftime("%Y-%m"): ZERO} if reserved or held else {})
    rows = []
    for month, amount in months.items():
        rest = (reserved, held) if month == max(months) else (ZERO, ZERO)
        amounts = zip((columns.SPENT, columns.RESERVED, columns.HELD), (amount, *rest), strict=True)
        rows.append(
            {
                columns.USER: share.owner,
                columns.DIRECTORY: share.about.get("directory", ""),
                columns.HOST: share.about.get("host", ""),
                columns.MONTH: month,
                **{name: exact_text(amount) for name, amount in amounts},
                columns.SPENT_USD: float(amount),
                columns.GRANTED_USD: float(total((amount, *rest))),
                columns.REPORTED_AT: at,
            }
        )
    return rows


def _is_of(share: Share, directory: str) -> bool:
    """Whether a share belongs to a directory, here or in a store, or to one of its shards."""
    is_within = f"{share.about.get('directory', '')}/".startswith(f"{directory}/")
    return is_within and (store.is_url(directory) or share.about.get("host") == socket.gethostname())


def _holders(shares: Iterable[Share]) -> str:
    """Describe which directories hold something that isn't spent, the largest first."""
    by_held = sorted(((_sums(share)[2], share) for share in shares), key=lambda pair: pair[0], reverse=True)
    found = [(held, share) for held, share in by_held if held > 0]
    if not found:
        return ""
    of_each = (
        f"{dollars(held)} by {share.owner} in {share.about.get('directory')} on {share.about.get('host')}"
        for held, share in found
    )
    return f" Held and not spent: {listed(of_each, _HOLDERS_MAX)}. Resume a killed run to free what it holds."


def _refuse_lowered(
    name: str, to: Decimal | None, before: Decimal | None, shares: Iterable[Share], whom: str = ""
) -> None:
    """Refuse a limit below what is granted already, unless it is raised."""
    granted, held = total(share.amount for share in shares), _holders(shares)
    if to is not None and to < min(granted, before or granted):
        raise errors.UsageError(
            f"{name} can't be lowered to {dollars(to)}: {dollars(granted)} is granted{whom} already.{held} Choose at "
            f"least that much{', or wait until runs have given theirs back' if held else ''}."
        )


def _headline(place: str, slices: Slices) -> Headline:
    sums = [_sums(share) for share in slices.shares.values()]
    spent = total(amount for by_month, _, _ in sums for amount in by_month.values())
    reserved, held = total(amounts[1] for amounts in sums), total(amounts[2] for amounts in sums)
    each = "" if slices.per_owner is None else f", at most {dollars(slices.per_owner)} for each user"
    left = slices.room(None)
    notes = [f"{dollars(spent)} spent, {dollars(reserved)} reserved, {dollars(held)} held by runs."]
    if left is not None:
        notes.append(f"{dollars(left)} left.")
    return Headline(f"Budget {place}: {dollars(slices.cap or ZERO)}{each}.", (), tuple(notes), ())


# The slices.


@dataclass(frozen=True, slots=True)
class Share:
    """What a ledger was granted of the cap."""

    granted: str  # USD as exact text
    owner: str = ""  # whose cap it counts against
    opening: int = 0  # of the ledger, at which this was granted
    at: float = 0.0  # Unix seconds
    about: dict[str, Any] = field(default_factory=dict)  # whatever its holder last said of it

    @property
    def amount(self) -> Decimal:
        """What was granted, in USD."""
        return money(self.granted) or ZERO


class StaleHolder(errors.DirectoryLocked):
    """Another process has opened the ledger since, so this one may not change its slice."""


class Slices:
    """The shares of one cap, in a store; processes on several machines may use it at the same time."""

    def __init__(
        self,
        store: store.ObjectStore | store.FolderStore,
        *,
        place: str = "the store",
        pause: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.shares: dict[str, Share] = {}
        self.cap: Decimal | None = None
        # Of a run in shards: what `cap` is while no call has a lower limit.
        self.max_cost: Decimal | None = None
        self.per_owner: Decimal | None = None
        self.identity = ""  # of the place where the records are; empty where none was noted
        self._store = store
        self._place = place
        self._pause = pause
        self._clock = clock
        self._last = 0
        self._digest = ""

    def read(self) -> bool:
        """Read what was added since the last time; return whether there is any record."""
        if not self._last:
            self._find_summary()
        while (written := self._store.get(_name(self._last + 1))) is not None:
            self._take(written)
        return self._last > 0

    def granted(self) -> dict[str, Decimal]:
        """Return what is granted to each ledger, in USD, as it stands now."""
        self.read()
        return {child: share.amount for child, share in self.shares.items()}

    def limit(
        self,
        *,
        cap: Decimal | None,
        max_cost: Decimal | None = None,
        per_owner: Decimal | None = None,
        identity: str = "",
    ) -> None:
        """Set the cap, and that of each owner, in USD, None for none; below what is granted, nothing more is."""

        def changed() -> dict[str, Any] | None:
            wanted = _terms(cap, max_cost, per_owner, identity or self.identity)
            return None if self._last and wanted == self._own_terms() else wanted

        self._append(changed)

    def grant(
        self,
        child: str,
        wanted: Decimal,
        *,
        opening: int,
        unit: Decimal | None = None,
        owner: str = "",
        about: Mapping[str, Any] | None = None,
    ) -> Decimal:
        """Grant a ledger up to `wanted` in all, and return what it then has; it may write that down as its slice."""

        def raised() -> dict[str, Any]:
            share = self._share_of(child, opening, owner)
            had = share.amount
            more = max(ZERO, minus(wanted, had))
            room = self.room(share.owner)
            if room is not None and more > room:
                # Half of what is left, as others may want some, rounded up to whole units of which there are enough.
                n = int(EXACT.divide_int(room, unit)) if unit else 0
                more = room if unit is None else times((n + 1) // 2, unit)
            return _changed(child, replace(share, granted=exact_text(total((had, more)))), about)

        self._append(raised)
        return self.shares[child].amount

    def give_back(
        self, child: str, keep: Decimal, *, opening: int, about: Mapping[str, Any] | None = None
    ) -> None:
        """Set what a ledger has to `keep`, already noted as its slice; more than granted where prices rose."""

        def lowered() -> dict[str, Any] | None:
            share = self._share_of(child, opening, "")
            if share.amount == keep and about in (None, share.about):
                return None
            return _changed(child, replace(share, granted=exact_text(keep)), about)

        self._append(lowered)

    def room(self, owner: str | None = None) -> Decimal | None:
        """Return what may still be granted, to an owner if given, by the records read so far; None without a cap."""
        rooms = [self._left(self.cap, self.shares.values())]
        if owner is not None:
            theirs = (share for share in self.shares.values() if share.owner == owner)
            rooms.append(self._left(self.per_owner, theirs))
        return min((room for room in rooms if room is not None), default=None)

    @staticmethod
    def _left(cap: Decimal | None, shares: Iterable[Share]) -> Decimal | None:
        return None if cap is None else max(ZERO, minus(cap, total(share.amount for share in shares)))

    def _share_of(self, child: str, opening: int, owner: str) -> Share:
        share = self.shares.get(child) or Share("0", owner)
        if opening < share.opening:
            raise StaleHolder(
                f"Another process has opened {child} since, and changed its slice of {self._place}. Nothing more is "
                "submitted here. Run the same call again once the other has ended."
            )
        return replace(share, opening=opening, at=self._clock())

    def _append(self, change: Callable[[], dict[str, Any] | None]) -> None:
        """Add a record made from all before it; whoever comes second decides again."""
        while True:
            self.read()
            record = change()
            if record is None:
                return
            written = self._sealed(record)
            if store.is_put(self._store, _name(self._last + 1), written, self._pause):
                self._take(written)
                return

    def _sealed(self, record: dict[str, Any]) -> bytes:
        """Write a record after its checksum; some sum up those before them."""
        number = self._last + 1
        head = {"number": number, "nonce": secrets.token_hex(8), "follows": self._digest}
        if number % _SUMMARY_EVERY == 0:
            shares = {child: asdict(share) for child, share in self.shares.items()}
            head["summary"] = self._own_terms() | {"shares": shares}
        body = json.dumps(head | record, separators=(",", ":")).encode()
        return hashlib.sha256(body).hexdigest().encode() + b" " + body + b"\n"

    def _find_summary(self) -> None:
        """Begin at the newest summary; whatever is missing before it, nobody may have deleted."""
        # Other programs put files of their own into any folder, but a copy of a record may be another's grant.
        names = list(filter(_RECORD.match, self._store.names(store.SLICES)))
        for number, name in enumerate(names, 1):
            if name != _name(number):
                raise self._damaged(f"{name} is there in place of record {number}")
        self._last = max(0, len(names) // _SUMMARY_EVERY * _SUMMARY_EVERY - 1)

    def _take(self, written: bytes) -> None:
        digest, _, body = written.partition(b" ")
        number = self._last + 1
        if hashlib.sha256(body.rstrip(b"\n")).hexdigest().encode() != digest:
            raise self._damaged(f"record {number} was changed, or is cut off")
        record = json.loads(body)
        if record["number"] != number or self._digest not in ("", record["follows"]):
            raise self._damaged(f"record {number} doesn't follow the one before it")
        try:
            if not self._digest and number > 1:
                self._take_terms(record["summary"])
                self.shares = {child: Share(**share) for child, share in record["summary"]["shares"].items()}
            if "child" in record:
                self.shares[record["child"]] = Share(**record["share"])
            else:
                self._take_terms(record)
        except (KeyError, TypeError) as error:
            raise self._damaged(f"record {number} is not one of this version ({error})") from error
        self._last, self._digest = number, digest.decode()

    def _take_terms(self, record: Mapping[str, Any]) -> None:
        self.cap, self.max_cost, self.per_owner = (money(record[name]) for name in _AMOUNTS)
        self.identity = record.get("identity", "")

    def _own_terms(self) -> dict[str, Any]:
        return _terms(self.cap, self.max_cost, self.per_owner, self.identity)

    def _damaged(self, what: str) -> errors.LedgerDamaged:
        return errors.LedgerDamaged(
            f"The shares of the cap in {self._place} are damaged: {what}. Nothing is granted, because the cap could be "
            "exceeded. Restore the records from a copy."
        )


def _name(number: int) -> str:
    return f"{store.SLICES}{number:012d}"


def _changed(child: str, share: Share, about: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"child": child, "share": asdict(share if about is None else replace(share, about=dict(about)))}


def _terms(*terms: Any) -> dict[str, Any]:
    *amounts, identity = terms
    texts = [None if amount is None else exact_text(amount) for amount in amounts]
    return dict(zip(_AMOUNTS, texts, strict=True)) | {"identity": identity}
