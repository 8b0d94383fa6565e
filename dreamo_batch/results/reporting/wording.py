"""How values read on a page: money, times, counts and anybody's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dreamo_batch.execution.budget import money, text, total
from dreamo_batch.execution.progress import dollars
from dreamo_batch.service.harmless import harmless

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

UNKNOWN: Final = "unknown"
_WORDS_MAX: Final = 1_000  # the longest prompt that the service is known to take is whole
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


def words(text: object, most: int = _WORDS_MAX) -> str:
    r"""Make one line of anybody's words; control characters and marks of direction are written out.

    Examples
    --------
    >>> words("in the\nsnow\u202e"), words(None), words("a" * 1_300)[-3:]
    ('in the snow\\u202e', '(none)', 'aa…')
    """
    if text is None or text is pd.NA or text != text:  # noqa: PLR0124 - NaN
        return "(none)"
    line = harmless(" ".join(str(text).split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def usd(amount: object) -> str:
    """Write an amount that is exact decimal text, whole.

    Examples
    --------
    >>> usd("0.038260647"), usd(float("nan"))
    ('0.038260647', 'unknown')
    """
    known = money(amount) if isinstance(amount, str) else None
    return UNKNOWN if known is None else str(amount)


def added(amounts: Iterable[object]) -> str:
    """Add up amounts that are exact decimal text; unknown if one of them is.

    Examples
    --------
    >>> added(["0.1", "0.2"]), added(["0.1", None])
    ('0.3', 'unknown')
    """
    known = [money(amount) if isinstance(amount, str) else None for amount in amounts]
    return UNKNOWN if None in known else text(total(amount for amount in known if amount is not None))


def about(amount: object) -> str:
    """Write an amount short, for reading.

    Examples
    --------
    >>> about("0.038260647"), about(0.5), about(None)
    ('0.0383', '0.5', 'unknown')
    """
    if isinstance(amount, float | int) and amount == amount:  # noqa: PLR0124 - NaN
        amount = f"{amount:.10f}"
    known = money(amount) if isinstance(amount, str) else None
    return UNKNOWN if known is None else dollars(known)


def seconds(value: Any) -> str:
    """Write a length of time.

    Examples
    --------
    >>> seconds(0.04), seconds(12.34), seconds(125.0), seconds(7300.0), seconds(None)
    ('0.04 s', '12.3 s', '2 min 5 s', '2 h 1 min', 'unknown')
    """
    if value is None or pd.isna(value):
        return UNKNOWN
    if value < _MINUTE_S:
        return f"{value:.3g} s"
    if value < _HOUR_S:
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:.0f} min"


def moment(time: Any) -> str:
    """Write a time in UTC.

    Examples
    --------
    >>> moment(pd.Timestamp("2026-11-22 12:00:01.5", tz="UTC"))
    '2026-11-22 12:00:01'
    """
    return UNKNOWN if time is None or pd.isna(time) else f"{time:%Y-%m-%d %H:%M:%S}"


def plural(n: int, word: str) -> str:
    """Count things.

    Examples
    --------
    >>> plural(1, "row"), plural(1200, "reference picture")
    ('1 row', '1,200 reference pictures')
    """
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def listed(parts: Sequence[str]) -> str:
    """Join words as a sentence does.

    Examples
    --------
    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([*filter(None, [", ".join(parts[:-1])]), *parts[-1:]])
