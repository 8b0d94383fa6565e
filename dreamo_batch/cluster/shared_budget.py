"""A budget: one cap over many run directories and people, and what a directory has of it during a call."""

from __future__ import annotations

import getpass
import os
import socket
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.cluster.slices import Share, Slices
from dreamo_batch.engine.budget import Spending, highest_price
from dreamo_batch.engine.directory import identity_of_file, is_same_file
from dreamo_batch.engine.replica import is_url
from dreamo_batch.engine.store import FolderStore, ObjectStore, place_given, refuse_unsafe
from dreamo_batch.errors import DirectoryError, DreamoError, LedgerDamaged, UsageError
from dreamo_batch.frames import HeadedFrame, Headline
from dreamo_batch.logs import logger_named
from dreamo_batch.money import ZERO, dollars, exact_text, minus, money, times, total
from dreamo_batch.text import aligned, option, same_call, spelled

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from dreamo_batch.engine.attempts import State
    from dreamo_batch.engine.ledger import Ledger

logger = logger_named(__name__)

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
_INFINITE: Final = frozenset({"inf", "infinity"})


class Budget:
    """A cap that many run directories share, of one person or several, on one machine or many.

    Pass it, its path or its URL to `run`, `start`, `retry`, `resume` or `search` as ``budget=``. A directory then
    belongs to the budget for good, with all that was spent in it; its own `max_cost` holds as well. Each call takes a
    slice before it buys and gives back what is left of it at the end. A process that was killed leaves its slice held
    until the next call on its directory.

    Parameters
    ----------
    place : path-like or str
        A folder, created if missing, or the URL of one in an object store (``s3://``, ``gs://``, ``az://``). On a
        network file system, all must see the same folder, and it needs hard links.
    cap : float, str or Decimal, optional
        Most that all directories may spend together, in USD. Required for a new budget; kept until changed.
    per_user : float, str or Decimal, optional
        Most that the directories of each user may spend, in USD; inf removes it. Kept until changed.
    user : str, optional
        Whose a directory is that joins now. Default: the login name.

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
        cap: float | str | Decimal | None = None,
        per_user: float | str | Decimal | None = None,
        user: str | None = None,
    ) -> None:
        self.place = _place(place)
        self.user = _login() if user is None else user.strip() if isinstance(user, str) else ""
        if not self.user:
            raise UsageError(f"user must be a name, not {user!r}.")
        given = {"cap": _amount("cap", cap), "per_user": _amount("per_user", per_user)}
        try:
            slices = self.slices()
            is_known = slices.read()
            if not is_known and cap is None:
                start = spelled("Pass cap= (USD)", f"Use `dreamo-batch budget {self.place} --cap USD`")
                raise UsageError(
                    f"No budget at {self.place}. {start} to start one; if it has moved, name its new place."
                )
            if cap is not None or per_user is not None:
                if not is_known:
                    self._refuse_place()
                self._limit(slices, given["cap"], given["per_user"], has_per_user=per_user is not None)
        except OSError as error:
            raise unreachable(self.place, error) from error

    @classmethod
    def of(cls, given: Budget | str | os.PathLike[str]) -> Budget:
        """Return the budget that was passed as itself, its path or its URL."""
        return given if isinstance(given, cls) else cls(given)  # type: ignore[arg-type]  # mypy takes it for a Budget still

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
        slices = self.slices()
        try:
            slices.read()
        except OSError as error:
            raise unreachable(self.place, error) from error
        rows = [row for share in slices.shares.values() for row in _rows(share)]
        frame = pd.DataFrame(rows, columns=list(columns.BUDGET)).astype(columns.dtypes(columns.BUDGET))
        frame = frame.sort_values(["user", "directory", "month"], ignore_index=True)
        return BudgetStatus.of(frame, shown=_headline(self.place, slices))

    def slices(self) -> Slices:
        """Return the shares, unread, for one thread."""
        return slices_at(self.place)

    def _identity(self) -> str:
        """Return an identity of the place, which a copy of it hasn't."""
        if is_url(self.place):
            return self.place.replace("-", "_")
        Path(self.place).mkdir(parents=True, exist_ok=True)
        return identity_of_file(Path(self.place))

    def refuse_copy(self, slices: Slices) -> None:
        """Refuse to spend from a copy, beside whose original it could pass the cap."""
        if not is_same_file(slices.identity, self._identity()):
            raise DirectoryError(
                f"{self.place} is a copy of a budget (or was restored from one, or moved to another disk). Nothing was "
                "submitted: what is spent from the original isn't known here, so both could pass the cap together. Use "
                f"the original, or pass {option('adopt_copy', value=True)} to make this a budget of its own."
            )

    def adopt(self) -> None:
        """Make a copy of a budget one of its own."""
        slices = self.slices()
        slices.read()
        slices.limit(cap=slices.cap, per_owner=slices.per_owner, identity=self._identity())

    def used_up(self, slices: Slices, directory: str, here: str) -> str:
        """Say that nothing is left for a directory and its shards, how they stand, who has what, and what to do."""
        shares = list(slices.shares.values())
        others = [share for share in shares if not _is_of(share, directory)]
        owner = next((share.owner for share in shares if _is_of(share, directory)), self.user)
        is_users = slices.per_owner is not None and slices.room(owner) != slices.room(None)
        others = [share for share in others if not is_users or share.owner == owner]
        name, limit = ("per_user", slices.per_owner) if is_users else ("cap", slices.cap)
        whose = f"{owner}'s part of the" if is_users else "The"
        spent = total(amount for share in others for amount in _sums(share)[0].values())
        elsewhere = f" {dollars(spent)} was spent in other directories." if spent else ""
        holders = _holders(others)
        raised = spelled(
            f"Budget({self.place!r}, {name}=...)",
            f"`dreamo-batch budget {self.place} --{name.replace('_', '-')} USD`",
        )
        return (
            f"{whose} shared budget {self.place}, {dollars(limit or ZERO)}, is used up: {here}"
            f"{elsewhere}{holders or ' Nobody else holds any of it.'} To continue, raise it with {raised}"
            + (f", or run {same_call()} again once others have given something back." if holders else ".")
        )

    def _refuse_place(self) -> None:
        """Refuse to begin where something else is, or where two could be granted the same."""
        if is_url(self.place):
            refuse_unsafe(ObjectStore(self.place), self.place)
        elif Path(self.place).is_file() or (Path(self.place).is_dir() and any(Path(self.place).iterdir())):
            raise UsageError(
                f"{self.place} is no budget, but there is something already. Choose a new folder."
            )

    def _limit(
        self, slices: Slices, cap: Decimal | None, per_user: Decimal | None, *, has_per_user: bool
    ) -> None:
        identity = self._identity() if slices.cap is None else ""
        cap = slices.cap if cap is None else cap
        per_user = per_user if has_per_user else slices.per_owner
        of_users: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for share in slices.shares.values():
            of_users[share.owner] = total((of_users[share.owner], share.amount))
        granted = total(of_users.values())
        if cap is not None and cap < min(granted, slices.cap or granted):
            raise UsageError(
                f"cap can't be lowered to {dollars(cap)}: {dollars(granted)} is granted already."
                f"{_holders(slices.shares.values())} Choose at least that much, or wait until runs have given theirs "
                "back."
            )
        for user, amount in of_users.items():
            if per_user is not None and per_user < min(amount, slices.per_owner or amount):
                raise UsageError(
                    f"per_user can't be lowered to {dollars(per_user)}: {dollars(amount)} is granted to {user} already."
                    f"{_holders(one for one in slices.shares.values() if one.owner == user)} Choose at least that "
                    "much, or wait until runs have given theirs back."
                )
        slices.limit(cap=cap, per_owner=per_user, identity=identity)


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
        self._slices = budget.slices()
        self._child = ledger.identity
        self._opening = ledger.generation
        replica = ledger.directory.replica
        self._directory = str(ledger.directory.path) if replica is None else replica.url
        self._refuse_other(ledger)

    def _refuse_other(self, ledger: Ledger) -> None:
        """Refuse a budget that the directory doesn't belong to, or that has forgotten what it granted."""
        terms, place = ledger.state.terms, self.place
        granted = self._slices.granted()
        self._budget.refuse_copy(self._slices)
        held = money(terms.slice) or ZERO
        if terms.budget is None or held <= granted.get(self._child, ZERO):
            return
        if place != terms.budget and self._child not in granted:
            raise UsageError(
                f"{self._directory} belongs to the budget {terms.budget}, and stays in it. Leave "
                f"{option('budget')} out, or use another run directory."
            )
        raise LedgerDamaged(
            f"{self._directory} has a slice of {dollars(held)} of the budget {place}, which doesn't know of it: either "
            "the budget was replaced by a new one or an older copy, or this is a copy of another run directory. "
            "Nothing was submitted. Restore the budget's records, or use a new run directory."
        )

    def join(self, wanted: Decimal, spending: Spending, state: State) -> Decimal:
        """Take a slice of up to `wanted` in all; raises where not even what was spent before has room."""
        spent = spending.committed
        if spent and self._child not in self._slices.shares:
            user, child, opening = self._budget.user, self._child, self._opening
            granted = self._slices.grant(child, spent, opening=opening, owner=user)
            if granted < spent:
                self._slices.give_back(child, ZERO, opening=opening)
                raise UsageError(
                    f"{self._directory} can't join the budget {self.place}: {dollars(spent)} was spent or reserved in "
                    f"it before, and only {dollars(granted)} is left. Nothing was submitted."
                )
        return self.more(wanted, spending, state)

    def more(self, wanted: Decimal, spending: Spending, state: State) -> Decimal:
        """Have the slice raised to up to `wanted` in all, and return it; it counts once the ledger has it."""
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

    def used_up(self, here: str) -> str:
        """Say that nothing is left for this run, and how it stands here."""
        return self._budget.used_up(self._slices, self._directory, here)

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
    if is_url(place):
        return Slices(ObjectStore(place), place=place)
    # A disk that refuses a record now does so in a second, too; and the run would stand still meanwhile.
    return Slices(FolderStore(Path(place)), place=place, pause=lambda _: None)


def give_back_rest(ledger: Ledger, at: float) -> None:
    """Give back what a directory on which no call goes on holds beyond what is spent and reserved."""
    terms, attempts = ledger.state.terms, ledger.state.kinds()
    spending = Spending(price=highest_price(attempts), attempts=attempts)
    if terms.budget is None or ledger.is_copy or (money(terms.slice) or ZERO) <= spending.committed:
        return
    try:
        share = BudgetShare(Budget.of(terms.budget), ledger)
        ledger.set_terms(at, slice=exact_text(spending.committed))
        ledger.commit()
        share.give_back(spending, ledger.state)
    except (OSError, DreamoError) as error:
        logger.warning("%s is given back by the next call only: %s", terms.budget, error)


def unreachable(place: str, error: OSError) -> DirectoryError:
    """Return the error of a budget that can't be read or written; nothing was submitted."""
    return DirectoryError(
        f"Can't use the budget {place} ({error.strerror or error}). Nothing was submitted. Check its address, its "
        "permissions and the disk."
    )


def _place(given: str | os.PathLike[str]) -> str:
    """Return a URL as it is, and the absolute path of a folder."""
    text = place_given("budget", given)
    return text.rstrip("/") if is_url(text) else str(Path(text).expanduser().absolute())


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return str(os.getuid())


def _amount(name: str, given: float | str | Decimal | None) -> Decimal | None:
    if given is None or (name == "per_user" and str(given).lower() in _INFINITE):
        return None
    amount = money(given)
    if amount is None:
        unless = ", or inf for no limit" if name == "per_user" else ""
        raise UsageError(f"{name} must be an amount in USD of at least 0{unless}, not {given!r}")
    return amount


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
        is_last = month == max(months)
        rest = (reserved, held) if is_last else (ZERO, ZERO)
        rows.append(
            {
                columns.USER: share.owner,
                columns.DIRECTORY: share.about.get("directory", ""),
                columns.HOST: share.about.get("host", ""),
                columns.MONTH: month,
                columns.SPENT: exact_text(amount),
                columns.RESERVED: exact_text(rest[0]),
                columns.HELD: exact_text(rest[1]),
                columns.SPENT_USD: float(amount),
                columns.GRANTED_USD: float(total((amount, *rest))),
                columns.REPORTED_AT: at,
            }
        )
    return rows


def _is_of(share: Share, directory: str) -> bool:
    """Whether it is that of a directory here, or of one of its shards."""
    is_within = f"{share.about.get('directory', '')}/".startswith(f"{directory}/")
    return is_within and share.about.get("host") == socket.gethostname()


def _holders(shares: Iterable[Share]) -> str:
    """Say which directories hold something that isn't spent, the largest first."""
    found = [(held, share) for share in shares if (held := _sums(share)[2]) > 0]
    if not found:
        return ""
    found.sort(key=lambda one: one[0], reverse=True)
    listed = [
        f"{dollars(held)} by {share.owner} in {share.about.get('directory')} on {share.about.get('host')}"
        for held, share in found[:_HOLDERS_MAX]
    ]
    more = f", and {len(found) - _HOLDERS_MAX} more" if len(found) > _HOLDERS_MAX else ""
    return (
        f" Held and not spent: {'; '.join(listed)}{more}. What a killed run holds is free once it is resumed."
    )


def _headline(place: str, slices: Slices) -> Headline:
    sums = [_sums(share) for share in slices.shares.values()]
    spent = total(amount for by_month, _, _ in sums for amount in by_month.values())
    reserved, held = total(one[1] for one in sums), total(one[2] for one in sums)
    each = "" if slices.per_owner is None else f", at most {dollars(slices.per_owner)} for each user"
    left = slices.room(None)
    notes = [f"{dollars(spent)} spent, {dollars(reserved)} reserved, {dollars(held)} held by runs."]
    if left is not None:
        notes.append(f"{dollars(left)} left.")
    return Headline(f"Budget {place}: {dollars(slices.cap or ZERO)}{each}.", (), tuple(notes), ())
