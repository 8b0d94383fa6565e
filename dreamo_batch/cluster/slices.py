"""Slices of one cap over many ledgers: a log of what each was granted, to which any number of processes add at once.

What a ledger may spend stands in the ledger itself, and only its holder writes it there. The log holds what was granted
to each, and the sum of that never passes the cap: **to raise a slice, first the log, then the ledger; to lower it,
first the ledger, then the log.** So whatever is killed in between, no slice is larger than what was granted for it.

Each record is an object of its own that is put if absent, under the next number, and is made from all records before
it: whoever finds the number taken reads on and decides anew. A grant is always recorded, even of what was granted
before, because only that keeps out a record which is still on its way to the store.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.engine.store import SLICES, is_put
from dreamo_batch.errors import DirectoryLocked, LedgerDamaged
from dreamo_batch.money import EXACT, ZERO, exact_text, minus, money, times, total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from decimal import Decimal

    from dreamo_batch.engine.store import Records

_SUMMARY_EVERY: Final = 16  # records, so that a reader needs only those behind the last summary


@dataclass(frozen=True, slots=True)
class Share:
    """What a ledger was granted of the cap: USD as exact text; by which opening of it, and when (Unix seconds).

    The share counts for `owner`; `about` is whatever its holder last said of it.
    """

    granted: str
    owner: str = ""
    opening: int = 0
    at: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def amount(self) -> Decimal:
        """What was granted, in USD."""
        return money(self.granted) or ZERO


class StaleHolder(DirectoryLocked):
    """Another process has opened the ledger since, so this one may not change its slice."""


class Slices:
    """The shares of one cap, in a store; processes on several machines may use it at the same time."""

    def __init__(
        self,
        store: Records,
        *,
        place: str = "the store",
        pause: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.shares: dict[str, Share] = {}
        self.cap: Decimal | None = None
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

    def limit(self, *, cap: Decimal | None, per_owner: Decimal | None = None, identity: str = "") -> None:
        """Set the cap, and the cap of each owner, in USD, None for none; below what is granted, nothing more is.

        `identity` is that of the place where the records are; without it, what was noted stays.
        """

        def changed() -> dict[str, Any] | None:
            wanted = (cap, per_owner, identity or self.identity)
            is_known = self._last and wanted == (self.cap, self.per_owner, self.identity)
            return None if is_known else _terms(*wanted)

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
        """Grant a ledger up to `wanted` in all, and return what it then has; it may write that down as its slice.

        `opening` counts the openings of the ledger, so that no earlier holder interferes. Where less is left than is
        wanted, half of that is granted, in whole units: others may want some, too.
        """

        def raised() -> dict[str, Any]:
            share = self._share_of(child, opening, owner)
            had = share.amount
            more = max(ZERO, minus(wanted, had))
            room = self.room(share.owner)
            if room is not None and more > room:
                more = room if unit is None else _in_units(room, unit)
            return _changed(child, replace(share, granted=exact_text(total((had, more)))), about)

        self._append(raised)
        return self.shares[child].amount

    def give_back(
        self, child: str, keep: Decimal, *, opening: int, about: Mapping[str, Any] | None = None
    ) -> None:
        """Set what a ledger has to `keep`, which its holder has written down as its slice before.

        It is more than was granted where prices rose above what was reserved.
        """

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
            rooms.append(self._left(self.per_owner, self.of(owner)))
        return min((room for room in rooms if room is not None), default=None)

    def of(self, owner: str) -> list[Share]:
        """List the shares of an owner."""
        return [share for share in self.shares.values() if share.owner == owner]

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

    # The log.

    def _append(self, change: Callable[[], dict[str, Any] | None]) -> None:
        """Add a record made from all before it; whoever comes first, the other decides anew."""
        while True:
            self.read()
            record = change()
            if record is None:
                return
            written = self._sealed(record)
            if is_put(self._store, _name(self._last + 1), written, self._pause):
                self._take(written)
                return

    def _sealed(self, record: dict[str, Any]) -> bytes:
        """Write a record after its checksum; some sum up what stood before them."""
        number = self._last + 1
        head = {"number": number, "nonce": secrets.token_hex(8), "follows": self._digest}
        if number % _SUMMARY_EVERY == 0:
            shares = {child: asdict(share) for child, share in self.shares.items()}
            head["summary"] = _terms(self.cap, self.per_owner, self.identity) | {"shares": shares}
        body = json.dumps(head | record, separators=(",", ":")).encode()
        return hashlib.sha256(body).hexdigest().encode() + b" " + body + b"\n"

    def _find_summary(self) -> None:
        """Begin at the newest summary; whatever is missing before it, nobody may have deleted."""
        names = self._store.names(SLICES)
        if names != [_name(number) for number in range(1, len(names) + 1)]:
            raise self._damaged("a record is missing, or a file doesn't belong there")
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
        self.cap, self.per_owner = money(record["cap"]), money(record["per_owner"])
        self.identity = record.get("identity", "")

    def _damaged(self, what: str) -> LedgerDamaged:
        return LedgerDamaged(
            f"The shares of the cap in {self._place} are damaged: {what}. Nothing is granted, because the cap could be "
            "passed. Restore the records from a copy."
        )


def _name(number: int) -> str:
    return f"{SLICES}{number:012d}"


def _changed(child: str, share: Share, about: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"child": child, "share": asdict(share if about is None else replace(share, about=dict(about)))}


def _in_units(room: Decimal, unit: Decimal) -> Decimal:
    """Return half of what is left, rounded up to whole units of which there are enough."""
    n = int(EXACT.divide_int(room, unit)) if unit else 0
    return times((n + 1) // 2, unit)


def _terms(cap: Decimal | None, per_owner: Decimal | None, identity: str) -> dict[str, Any]:
    amounts = {"cap": cap, "per_owner": per_owner}
    texts = {name: None if one is None else exact_text(one) for name, one in amounts.items()}
    return texts | {"identity": identity}
