"""Read single cells and whole columns, without ever guessing or rounding."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import numbers
import operator
import re
from collections.abc import Hashable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from dreamo_batch import columns
from dreamo_batch.text import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


NOT_INTEGER: Final = "not-integer"
INEXACT: Final = "inexact"
OUT_OF_RANGE: Final = "out-of-range"
NOT_BOOLEAN: Final = "not-boolean"
NOT_NUMBER: Final = "not-number"
FAULTS: Final = (NOT_INTEGER, INEXACT, OUT_OF_RANGE, NOT_BOOLEAN)

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
SHOWN_CHARACTERS: Final = 60
_PATH_CHARACTERS_MAX: Final = 4096

# Longer numbers are out of range, and int() refuses the very long ones.
_DIGITS_MAX: Final = 40
HALF_WIDTH: Final = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}  # full-width letters as ASCII
_DIGITS = re.compile(r"([+-]?\d+)(\.0*)?", re.ASCII)
_POWER = re.compile(r"[1-9](?:\.\d+)?e\+(\d\d)", re.ASCII)
_BOOLEANS: Final = {  # also as German, French, Spanish and Italian Excel write them
    **dict.fromkeys(("true", "yes", "1", "1.0", "wahr", "vrai", "verdadero", "vero"), True),
    **dict.fromkeys(("false", "no", "0", "0.0", "falsch", "faux", "falso"), False),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's value, or why it can't be read; neither if the cell is missing."""

    value: Any = None
    fault: str | None = None


def is_missing(cell: Any) -> bool:
    """Return whether a cell is missing: None, NaN, NA, NaT or empty text."""
    if cell is None or (isinstance(cell, str) and not cell):
        return True
    if isinstance(cell, Decimal):
        return cell.is_nan()  # pandas fails on a signalling NaN
    return bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def is_blank(cell: Any) -> bool:
    """Return whether a cell is text without any character but white space."""
    return isinstance(cell, str) and not cell.strip()


def read_integer(cell: Any) -> Cell:
    """Read one cell as an integer of 64 bits."""
    if isinstance(cell, str):
        return _integer_of_text(cell.translate(HALF_WIDTH).strip())
    return Cell() if is_missing(cell) else _integer_of_number(cell)


def read_boolean(cell: Any) -> Cell:
    """Read one cell as a boolean."""
    if isinstance(cell, str):
        cell = cell.strip().lower()
    if is_missing(cell):
        return Cell()
    is_number = isinstance(cell, (bool, np.bool_, numbers.Real, Decimal)) and cell in {0, 1}
    value = _BOOLEANS.get(cell) if isinstance(cell, str) else bool(cell) if is_number else None
    return Cell(value=value, fault=NOT_BOOLEAN if value is None else None)


def read_number(cell: Any) -> Cell:
    """Read one cell as a finite float."""
    if isinstance(cell, str):
        cell = cell.strip() or None
    if is_missing(cell):
        return Cell()
    is_number = isinstance(cell, str | numbers.Real | Decimal) and not isinstance(cell, bool | np.bool_)
    try:
        value = float(cell) if is_number else math.nan
    except (ValueError, OverflowError, TypeError):
        value = math.nan
    return Cell(value=value) if math.isfinite(value) else Cell(fault=NOT_NUMBER)


def items_of(cell: Any) -> list[Any] | None:
    """Return the items of a list in a cell, which may be written as JSON or Python; None for any other cell."""
    if isinstance(cell, str):
        text = cell.strip()
        if f"{text[:1]}{text[-1:]}" not in ("[]", "()"):
            return None
        cell = _parsed(text)
    is_list = isinstance(cell, (list, tuple)) or (isinstance(cell, np.ndarray) and cell.ndim == 1)
    return [item for item in cell if not is_missing(item)] if is_list else None


def unwrapped(cell: Any) -> Any:
    """Return the bytes or path in a Hugging Face picture, and an array of 8-bit levels as a PIL image."""
    if isinstance(cell, np.ndarray) and cell.dtype == np.uint8 and cell.ndim > 1:
        with contextlib.suppress(TypeError):  # of no picture's shape
            return Image.fromarray(cell[:, :, 0] if cell.shape[2:] == (1,) else cell)
    is_wrapped = isinstance(cell, dict) and {*cell} == {"bytes", "path"}
    return (cell["path"] if cell["bytes"] is None else cell["bytes"]) if is_wrapped else cell


_QUOTED: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_ARRAY: Final = re.compile(rf"\[\s*(?:{_QUOTED.pattern})(?:\s+(?:{_QUOTED.pattern}))+\s*\]")


def _parsed(text: str) -> Any:
    """Parse a list from JSON, or from what pandas writes to CSV for a list or an array; None if it is neither."""
    if _ARRAY.fullmatch(text):  # Python would join texts that have no comma between them
        return list(map(ast.literal_eval, _QUOTED.findall(text)))
    for read, failures in (
        (json.loads, (ValueError, RecursionError)),
        (ast.literal_eval, (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)),
    ):
        try:
            return read(text)
        except failures:
            continue
    return None


def exact_end(dtype: Any) -> int:
    """Return the number from which a float type skips integers, at most 2**63."""
    return min(int(2 ** (int(np.finfo(dtype).nmant) + 1)), INT64_MAX + 1)


def show(cell: Any) -> str | None:
    """Return a cell as one line of at most 60 characters; None for a missing one."""
    if is_missing(cell):
        return None
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return f"<{type(cell).__name__}: {memoryview(cell).nbytes:,} bytes>"
    # Cut first: a `data:` URI can be megabytes long.
    text = " ".join(text_of(cell)[:_PATH_CHARACTERS_MAX].split())
    return shortened(text or repr(cell), SHOWN_CHARACTERS)


def text_of(value: object) -> str:
    """Return a cell, label or name as text that can be shown and stored."""
    if isinstance(value, tuple):  # a label with several levels, in which pandas has NumPy numbers
        value = tuple(level.item() if isinstance(level, np.generic) else level for level in value)
    try:
        return printable(str(value))
    except Exception:  # noqa: BLE001 - whatever its class raises
        return f"<{type(value).__name__}>"


def printable(text: str) -> str:
    """Escape what UTF-8 can't hold (half characters), so that the text can be shown and stored."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _integer_of_text(text: str) -> Cell:
    if not text:
        return Cell()
    # R writes 100000 as 1e+05, but only where that is shorter; longer numbers with an exponent were rounded.
    if (power := _POWER.fullmatch(text)) is not None and len(text) <= int(power[1]):
        return _integer_of_number(Decimal(text))
    if (match := _DIGITS.fullmatch(text)) is None:
        return Cell(fault=NOT_INTEGER)
    read = _within_int64(int(match[1])) if len(match[1]) <= _DIGITS_MAX else Cell(fault=OUT_OF_RANGE)
    # "9007199254740993.0" was a float before it became text.
    if match[2] and read.value is not None and abs(read.value) >= exact_end(float):
        return Cell(fault=INEXACT)
    return read


def _integer_of_number(cell: Any) -> Cell:
    if isinstance(cell, numbers.Integral) and not isinstance(cell, bool | np.timedelta64):
        return _within_int64(operator.index(cell))
    if isinstance(cell, (float, np.floating)) and np.isfinite(cell) and cell == np.trunc(cell):
        return Cell(fault=INEXACT) if np.abs(cell) >= exact_end(type(cell)) else Cell(value=int(cell))
    if isinstance(cell, Decimal) and cell.is_finite() and cell == cell.to_integral_value():
        return _within_int64(int(cell)) if cell.adjusted() < _DIGITS_MAX else Cell(fault=OUT_OF_RANGE)
    return Cell(fault=NOT_INTEGER)


def _within_int64(value: int) -> Cell:
    return Cell(value=value) if INT64_MIN <= value <= INT64_MAX else Cell(fault=OUT_OF_RANGE)


@dataclass(frozen=True, slots=True, eq=False)
class Distinct:
    """The distinct cells of a column; values that only compare equal, such as ``1`` and ``True``, are distinct."""

    codes: NDArray[np.intp]  # for each position an index into `cells`, -1 where the cell is missing
    cells: list[Any]

    def take(self, values: Sequence[Any], *, missing: Any) -> NDArray[Any]:
        """Expand one value per distinct cell to one value per position; `missing` decides the dtype."""
        listed = np.empty(len(self.cells) + 1, dtype=object if missing is None else type(missing))
        listed[:] = [*values, missing]
        return listed[self.codes]

    def within(self, is_chosen: NDArray[np.bool_]) -> Distinct:
        """Return the same column with all cells missing except those chosen by position."""
        return Distinct(np.where(is_chosen, self.codes, -1), self.cells)


def distinct(series: pd.Series) -> Distinct:
    """Find the distinct cells of a column of any dtype."""
    if isinstance(series.dtype, pd.StringDtype | pd.CategoricalDtype):
        codes, index = pd.factorize(series)
        found = index.astype(object).tolist()
    else:  # not factorize: pandas 3.0 treats objects as equal if they differ only after a NUL
        listed, numbered = series.astype(object).tolist(), dict[Any, int]()
        codes = np.array([numbered.setdefault(_key(cell), len(numbered)) for cell in listed], dtype=np.intp)
        found = [listed[at] for at in np.unique(codes, return_index=True)[1].tolist()]
    given = [number for number, cell in enumerate(found) if not is_missing(cell)]
    renumbered = np.full(len(found) + 1, -1, dtype=np.intp)
    renumbered[given] = np.arange(len(given))
    return Distinct(renumbered[codes], [found[number] for number in given])


def groupable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table that `groupby` can handle: lists and pictures become text, as a run directory stores them."""
    table = table.copy(deep=False)
    for name in [name for name, column in table.items() if column.dtype == object]:
        own = list(map(_hashable, table[name]))
        # pandas 3.0 treats objects as equal if they differ only after a NUL.
        is_torn = any(isinstance(cell, str) and "\0" in cell for cell in own)
        table[name] = pd.Series(own, table.index, dtype=columns.STR if is_torn else object)
    return table


def _hashable(cell: Any) -> Any:
    if isinstance(cell, str | list | tuple | np.ndarray):
        return text_of(cell if isinstance(cell, str) else list(cell))
    return cell if isinstance(cell, Hashable) else text_of(cell)


def _key(cell: Any) -> Any:
    if type(cell) is str:
        return cell
    if isinstance(cell, (list, tuple)) or (isinstance(cell, np.ndarray) and cell.ndim == 1):
        return type(cell), tuple(map(_key, cell))
    try:
        return type(cell), cell if hash(cell) is not None and operator.eq(cell, cell) else id(cell)
    except Exception:  # noqa: BLE001 - whatever its class raises
        return type(cell), id(cell)


_PLAIN_DIGITS: Final = "-?[0-9]{1,18}"
_ARROW_INTEGER: Final = pd.ArrowDtype(pa.int64())


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """A column read as integers; 0 and not `is_given` where the cell is missing or can't be read."""

    numbers: NDArray[np.int64]
    is_given: NDArray[np.bool_]
    faults: dict[str, NDArray[np.bool_]]

    @classmethod
    def nothing(cls, n_rows: int) -> Integers:
        """Return the result for a column that the table lacks."""
        return cls(np.zeros(n_rows, dtype=np.int64), np.zeros(n_rows, dtype=bool), {})

    @property
    def is_faulty(self) -> NDArray[np.bool_]:
        """Which cells can't be read."""
        nothing = np.zeros(len(self.numbers), dtype=bool)
        mask: NDArray[np.bool_] = np.logical_or.reduce([nothing, *self.faults.values()])
        return mask


def integers(series: pd.Series) -> Integers:
    """Read a column of any dtype as integers."""
    if isinstance(series.dtype, pd.SparseDtype):
        series = series.sparse.to_dense()
    if pd.api.types.is_bool_dtype(series.dtype):
        nothing = Integers.nothing(len(series))
        return replace(nothing, faults=_occurring({NOT_INTEGER: series.notna().to_numpy(dtype=bool)}))
    if pd.api.types.is_float_dtype(series.dtype) or pd.api.types.is_integer_dtype(series.dtype):
        return _of_numbers(series)
    if (plain := _as_plain_integers(series)) is not None:
        return _of_numbers(plain)
    return _of_distinct(distinct(series), read_integer)


def booleans(series: pd.Series) -> Integers:
    """Read a column of any dtype as booleans, as 0 and 1."""
    return _of_distinct(distinct(series), read_boolean)


def _as_plain_integers(series: pd.Series) -> pd.Series | None:
    """Read a column of plain digits or of integer objects at once; None if it contains anything else."""
    try:
        if isinstance(series.dtype, pd.StringDtype):
            is_plain = series.str.fullmatch(_PLAIN_DIGITS, na=True)
            return series.astype(_ARROW_INTEGER) if is_plain.all() else None
        is_integer = series.dtype == object and pd.api.types.infer_dtype(series, skipna=True) == "integer"
        return series.astype("Int64") if is_integer else None
    except (OverflowError, TypeError, ValueError):
        return None  # beyond 64 bits, or another kind of integer: read one by one


def _of_numbers(series: pd.Series) -> Integers:
    dtype = np.dtype(getattr(series.dtype, "numpy_dtype", series.dtype))
    numbers = series.to_numpy(dtype=dtype, na_value=0)
    faults: dict[str, NDArray[np.bool_]] = {}
    if dtype.kind == "f":
        is_whole = np.isfinite(numbers) & (numbers == np.trunc(numbers))
        is_inexact = is_whole & (np.abs(numbers) >= exact_end(dtype))
        faults = {NOT_INTEGER: ~is_whole & ~np.isnan(numbers), INEXACT: is_inexact}
    elif dtype == np.uint64:
        faults = {OUT_OF_RANGE: numbers > INT64_MAX}
    is_missing_or_faulty = np.logical_or.reduce([series.isna(), np.isnan(numbers), *faults.values()])
    whole = np.where(is_missing_or_faulty, 0, numbers).astype(np.int64)
    return Integers(whole, ~is_missing_or_faulty, _occurring(faults))


def _of_distinct(found: Distinct, read: Callable[[Any], Cell]) -> Integers:
    reads = [read(cell) for cell in found.cells]
    faults = {fault: found.take([read.fault == fault for read in reads], missing=False) for fault in FAULTS}
    numbers = found.take([int(read.value or 0) for read in reads], missing=0)
    is_given = found.take([read.value is not None for read in reads], missing=False)
    return Integers(numbers, is_given, _occurring(faults))


def _occurring(faults: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    return {fault: mask for fault, mask in faults.items() if mask.any()}


_WHOLE: Final = r"(?:0|-?[1-9][0-9]{0,18})"
_NUMBER: Final = r"(?i)(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[+-][0-9]+)?|-?inf|nan)"
_INFINITE: Final = "(?i)-?inf"
# A float64 keeps whole numbers of up to 15 digits.
_INEXACT: Final = "-?[0-9]{16,}"
_FLOAT: Final = pd.ArrowDtype(pa.float64())
# Dtypes of a full column, and of one with missing cells.
_DTYPES: Final = {"integer": ("int64", columns.INT), "boolean": ("bool", columns.BOOL)}
_TRUE_FALSE: Final = ({"True", "False"}, {"true", "false"}, {"TRUE", "FALSE"})


def guessed(series: pd.Series) -> pd.Series:
    """Convert a column of text to the narrowest dtype that keeps its cells as written."""
    text = series.astype(columns.STR)
    given = text.dropna()
    if given.empty:
        return text
    if given.str.fullmatch(_WHOLE).all():
        with contextlib.suppress(pa.ArrowInvalid):  # beyond 64 bits
            return text.astype(_ARROW_INTEGER).astype(columns.INT if text.hasnans else "int64")
        return text
    if given.str.fullmatch(_NUMBER).all():
        numbers = text.astype(_FLOAT).astype(columns.FLOAT)
        is_too_large = np.isinf(numbers) & ~text.str.fullmatch(_INFINITE, na=False)
        is_lossy = is_too_large | text.str.fullmatch(_INEXACT, na=False)
        return text if is_lossy.any() else numbers
    if any(given.isin(words).all() for words in _TRUE_FALSE):
        words = text.str.lower().map({"true": True, "false": False})
        return words.astype(_DTYPES["boolean"][text.hasnans])
    return text


def typed(series: pd.Series) -> pd.Series:
    """Convert a column of values to the narrowest dtype that can hold them; text stays text."""
    is_given = np.array([not is_missing(cell) for cell in series.tolist()], dtype=bool)
    given = series[is_given].tolist()
    kind = pd.api.types.infer_dtype(given, skipna=False) if given else "string"
    if kind in _DTYPES:
        is_within = kind != "integer" or (min(given) >= INT64_MIN and max(given) <= INT64_MAX)
        dtype = _DTYPES[kind][not is_given.all()]
        return series.astype(object).where(is_given, None).astype(dtype) if is_within else series
    if kind in {"floating", "mixed-integer-float"} and all(float(cell) == cell for cell in given):
        return series.astype(object).where(is_given, np.nan).astype(columns.FLOAT)
    if kind == "datetime":
        return pd.to_datetime(series)
    return series.astype(columns.STR) if kind == "string" else series
