"""Read one cell of a user's table.

A cell may hold anything: a number of any kind, its digits as text, a missing value of any sort. The
readers here say what it means or why it can't be read; they never guess and never round.

Examples
--------
>>> read_integer("42.0").value, read_integer(42.5).fault
(42, 'not-integer')
>>> read_boolean("no").value
False
"""

from __future__ import annotations

import numbers
import operator
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pandas as pd

NOT_INTEGER: Final = "not-integer"
INEXACT: Final = "inexact"
OUT_OF_RANGE: Final = "out-of-range"
NOT_BOOLEAN: Final = "not-boolean"
FAULTS: Final = (NOT_INTEGER, INEXACT, OUT_OF_RANGE, NOT_BOOLEAN)

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
SHOWN_CHARACTERS: Final = 60

# Longer numbers are not worth reading: they are out of range, and int() refuses the very long ones.
_DIGITS_MAX: Final = 40
_DIGITS = re.compile(r"([+-]?\d+)(\.0*)?", re.ASCII)
_TRUE = frozenset({"true", "yes", "1", "1.0"})
_FALSE = frozenset({"false", "no", "0", "0.0"})


@dataclass(frozen=True, slots=True)
class Read:
    """What one cell means: a value, or why it can't be read; neither, when the cell is missing.

    Examples
    --------
    >>> read_integer(None)
    Read(value=None, fault=None)
    """

    value: Any = None
    fault: str | None = None


def is_missing(cell: Any) -> bool:
    """Say whether a cell is missing: None, NaN, NA, NaT or empty text.

    Parameters
    ----------
    cell : object
        Anything.

    Returns
    -------
    bool
        Text of blanks only is not missing here; a list or a picture never is.

    Examples
    --------
    >>> [is_missing(cell) for cell in (None, float("nan"), "", pd.NaT, " ", [])]
    [True, True, True, True, False, False]
    """
    if cell is None or (isinstance(cell, str) and not cell):
        return True
    if isinstance(cell, Decimal):
        return cell.is_nan()  # pandas stumbles over a signalling NaN
    return bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def read_integer(cell: Any) -> Read:
    """Read one cell as an integer of 64 bits.

    Parameters
    ----------
    cell : object
        An integer of any kind, a whole float or decimal (``42.0``), or digits as text (``"42"``,
        ``"42.0"``).

    Returns
    -------
    Read
        Fault ``not-integer`` for fractions, booleans, other text and other objects; ``inexact`` for
        floats from 2**53 on, which can't tell neighbouring integers apart; ``out-of-range`` beyond
        64 bits.

    Examples
    --------
    >>> read_integer(True).fault, read_integer(2**63).fault, read_integer(2.0**53).fault
    ('not-integer', 'out-of-range', 'inexact')
    """
    if isinstance(cell, str):
        return _integer_of_text(cell.strip())
    return Read() if is_missing(cell) else _integer_of_number(cell)


def read_boolean(cell: Any) -> Read:
    """Read one cell as a boolean.

    Parameters
    ----------
    cell : object
        A boolean, the numbers 0 and 1, or the words true, false, yes, no, 0 and 1 in any letter case.

    Returns
    -------
    Read
        Fault ``not-boolean`` for anything else.

    Examples
    --------
    >>> read_boolean("TRUE").value, read_boolean(0).value, read_boolean("maybe").fault
    (True, False, 'not-boolean')
    """
    if isinstance(cell, str):
        return _boolean_of_text(cell.strip().lower())
    if is_missing(cell):
        return Read()
    if isinstance(cell, (bool, np.bool_, numbers.Real)) and cell in {0, 1}:
        return Read(value=bool(cell))
    return Read(fault=NOT_BOOLEAN)


def exact_end(dtype: Any) -> int:
    """Give the first whole number from which a float type can't tell neighbours apart.

    Parameters
    ----------
    dtype : numpy dtype or float type
        Any floating type.

    Returns
    -------
    int
        2**53 for float64.

    Examples
    --------
    >>> exact_end(float) == 2**53, exact_end("float32") == 2**24
    (True, True)
    """
    return int(2 ** (int(np.finfo(dtype).nmant) + 1))


def show(cell: Any) -> str | None:
    """Show a cell in at most 60 characters of one line.

    Parameters
    ----------
    cell : object
        Anything.

    Returns
    -------
    str or None
        None for a missing cell.

    Examples
    --------
    >>> show("x" * 100)[-3:], len(show("x" * 100)), show(b"abc"), show(None)
    ('xx…', 60, '<bytes: 3 bytes>', None)
    """
    if is_missing(cell):
        return None
    # Only the head of the text is looked at: a `data:` URI can be megabytes long.
    text = " ".join(_text_of(cell)[: SHOWN_CHARACTERS * 4].split()) or repr(cell)[:SHOWN_CHARACTERS]
    text = printable(text)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def text_of(value: object) -> str:
    """Write a cell or name as text that is valid UTF-8."""
    return str(value).encode(errors="replace").decode()


def printable(text: str) -> str:
    r"""Write out what UTF-8 can't hold (half characters), so that the text can be shown and stored.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        The same text, lone surrogates escaped.

    Examples
    --------
    >>> printable("a\ud83d")
    'a\\ud83d'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _text_of(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return f"<{type(cell).__name__}: {memoryview(cell).nbytes:,} bytes>"
    return str(cell)


def _integer_of_text(text: str) -> Read:
    if not text:
        return Read()
    match = _DIGITS.fullmatch(text)
    if match is None:
        return Read(fault=NOT_INTEGER)
    read = _within_int64(int(match[1])) if len(match[1]) <= _DIGITS_MAX else Read(fault=OUT_OF_RANGE)
    # "9007199254740993.0" was a float before it was text.
    if match[2] and read.value is not None and abs(read.value) >= exact_end(float):
        return Read(fault=INEXACT)
    return read


def _integer_of_number(cell: Any) -> Read:
    if isinstance(cell, numbers.Integral) and not isinstance(cell, bool):
        return _within_int64(operator.index(cell))
    if isinstance(cell, (float, np.floating)):
        return _integer_of_float(cell)
    if isinstance(cell, Decimal) and cell.is_finite() and cell == cell.to_integral_value():
        return _within_int64(int(cell)) if cell.adjusted() < _DIGITS_MAX else Read(fault=OUT_OF_RANGE)
    return Read(fault=NOT_INTEGER)


def _integer_of_float(cell: Any) -> Read:
    if not np.isfinite(cell) or cell != np.trunc(cell):
        return Read(fault=NOT_INTEGER)
    return Read(fault=INEXACT) if abs(cell) >= exact_end(type(cell)) else Read(value=int(cell))


def _within_int64(value: int) -> Read:
    return Read(value=value) if INT64_MIN <= value <= INT64_MAX else Read(fault=OUT_OF_RANGE)


def _boolean_of_text(text: str) -> Read:
    if text in _TRUE or text in _FALSE:
        return Read(value=text in _TRUE)
    return Read(fault=NOT_BOOLEAN) if text else Read()
