"""Draw seeds for rows that have none: the same rows and entropy give the same seeds.

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
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from dreamo_batch.table.identity import text_of

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
    >>> 0 < Draw("entropy")(Order('["a",', ",512]")) < 2**31
    True
    """

    def __init__(self, entropy: str) -> None:
        self._entropy = json.dumps(entropy)
        self._drawn: defaultdict[Order, set[int]] = defaultdict(set)

    def __call__(self, order: Order) -> int:
        """Draw the next seed for an order."""
        drawn = self._drawn[order]
        occurrence, n_tries = len(drawn), 0
        # Two draws of thousands may coincide, and would then be one job; the later one is drawn again.
        while (seed := self._hashed(order, occurrence, n_tries)) in drawn:
            n_tries += 1
        drawn.add(seed)
        return seed

    def _hashed(self, order: Order, occurrence: int, n_tries: int) -> int:
        text = f"[{self._entropy},{text_of(order, None, occurrence)},{n_tries}]"
        head = hashlib.sha256(text.encode("ascii")).digest()[:8]
        return int.from_bytes(head, "big") % (SEED_END - 1) + 1
