"""Settle the seeds of rows that have none: drawn here, or left to the service.

Examples
--------
>>> from dreamo_batch.table.identity import Order
>>> order = Order('["a",', ",512]")
>>> first, second = Draw("entropy"), Draw("entropy")
>>> [first(order), first(order)] == [second(order), second(order)]
True
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Final

from dreamo_batch.service import parameters
from dreamo_batch.table.identity import job_id, text_of

if TYPE_CHECKING:
    from dreamo_batch.table.identity import Order

SEED_END: Final = 2**31


class Draw:
    """Draws seeds in 1 to 2**31-1 from entropy, the order and its occurrence, never the same twice.

    The n-th row of an order gets the n-th seed of that order, whatever stands between them in the table.
    So a table can be sorted or extended without losing what was bought.

    Parameters
    ----------
    entropy : str
        Of the run; anything.

    Examples
    --------
    >>> from dreamo_batch.table.identity import Order
    >>> seed, one = Draw("entropy")(Order('["a",', ",512]"))
    >>> 0 < seed < 2**31, len(one)
    (True, 32)
    """

    def __init__(self, entropy: str) -> None:
        self._entropy = json.dumps(entropy)
        # Hashes stand for the orders here: a million prompts would be much to keep.
        self._n_seen: Counter[str] = Counter()
        self._drawn: set[str] = set()

    def __call__(self, order: Order) -> tuple[int, str]:
        """Give the next seed for an order, and the id of its job."""
        occurrence = _next(self._n_seen, order)
        n_tries = 0
        while True:
            seed = self._hashed(order, occurrence, n_tries)
            one = job_id(text_of(order, seed))
            # Two draws of thousands may coincide, and would then be one job; the later one is drawn again.
            if one not in self._drawn:
                self._drawn.add(one)
                return seed, one
            n_tries += 1

    def _hashed(self, order: Order, occurrence: int, n_tries: int) -> int:
        text = f"[{self._entropy},{text_of(order, None, occurrence)},{n_tries}]"
        head = hashlib.sha256(text.encode("ascii")).digest()[:8]
        return int.from_bytes(head, "big") % (SEED_END - 1) + 1


class Leave:
    """Leaves seeds to the service; the occurrence then tells equal rows apart.

    Examples
    --------
    >>> from dreamo_batch.table.identity import Order
    >>> leave, order = Leave(), Order('["a",', ",512]")
    >>> leave(order)[0], leave(order) == leave(order)
    (-1, False)
    """

    def __init__(self) -> None:
        self._n_seen: Counter[str] = Counter()

    def __call__(self, order: Order) -> tuple[int, str]:
        """Give -1, and the id of the job."""
        seed = parameters.SEED_RANDOM.value
        return seed, job_id(text_of(order, seed, _next(self._n_seen, order)))


def _next(n_seen: Counter[str], order: Order) -> int:
    rest = job_id(text_of(order, None))
    n_seen[rest] += 1
    return n_seen[rest] - 1
