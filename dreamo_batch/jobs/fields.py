"""Read prompts, seeds, replicates and the rephraser's switch of a whole table.

Each reader gives values laid out over the rows, with defaults filled in, and adds what is wrong to the
findings; rows that are wrong hold a harmless stand-in.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import TableError
from dreamo_batch.jobs import cells
from dreamo_batch.jobs.cells import Distinct, Integers, booleans, distinct, integers, is_blank, printable
from dreamo_batch.jobs.rules import SWEEP_REPHRASED, Finding, Findings
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    Both: TypeAlias = tuple[Integers, Integers]
    Mask: TypeAlias = NDArray[np.bool_]


REPLICATE_DEFAULT = 0


@dataclass(frozen=True, slots=True, eq=False)
class Seeds:
    """Seeds of all rows, and which rows have one; the others get theirs drawn."""

    numbers: NDArray[np.int64]
    is_given: NDArray[np.bool_]


def read_prompts(findings: Findings) -> Distinct:
    """Read the prompts, as they are: nothing is stripped or normalised."""
    prompts = distinct(findings.of_table[columns.PROMPT])
    findings.add("prompt-missing", columns.PROMPT, prompts.codes < 0)
    found = {number: _judge_prompt(prompt) for number, prompt in enumerate(prompts.cells)}
    findings.add_cells(columns.PROMPT, prompts, {number: [one] for number, one in found.items() if one})
    return prompts


def read_seeds(findings: Findings) -> Seeds:
    """Read the seeds: missing and -1 both mean that one is to be drawn."""
    read = read_integers(columns.SEED, findings)
    is_given = read.is_given & (read.numbers >= 0)
    findings.add("seed-out-of-range", columns.SEED, read.numbers < contract.SEED_RANDOM.value)
    findings.add("seed-zero", columns.SEED, is_given & (read.numbers < contract.SEED_REPEATABLE_MIN.value))
    findings.add("seed-beyond-32-bit", columns.SEED, read.numbers > contract.SEED_ADVISED_MAX.value)
    return Seeds(np.where(is_given, read.numbers, contract.SEED_RANDOM.value), is_given)


def read_replicates(findings: Findings) -> NDArray[np.int64]:
    """Read the replicates, 0 where there is none."""
    read = read_integers(columns.REPLICATE, findings)
    findings.add("replicate-out-of-range", columns.REPLICATE, read.numbers < 0)
    return np.where(read.is_given, read.numbers, REPLICATE_DEFAULT)


def read_rephraser(findings: Findings) -> NDArray[np.bool_]:
    """Read whether the service may rewrite the prompts, the service's default where nothing is said."""
    read = _read(columns.USE_REPHRASER, findings, booleans)
    return np.where(read.is_given, read.numbers != 0, contract.USE_REPHRASER_DEFAULT.value)


def read_integers(column: str, findings: Findings) -> Integers:
    """Read a column of integers."""
    return _read(column, findings, integers)


def _read(column: str, findings: Findings, read: Callable[[pd.Series], Integers]) -> Integers:
    if column not in findings.of_table:
        return Integers.nothing(len(findings.of_table))
    cells = read(findings.of_table[column])
    for fault, is_faulty in cells.faults.items():
        findings.add(f"{column}-{fault}", column, is_faulty)
    return cells


def _judge_prompt(prompt: Any) -> Finding | None:
    if not isinstance(prompt, str):
        return Finding.of("prompt-not-text", type=type(prompt).__name__)
    if not prompt.strip():
        return Finding.of("prompt-blank")
    if printable(prompt) != prompt:
        return Finding.of("prompt-not-unicode")
    if len(prompt) > contract.PROMPT_CHARACTERS_OF_SIBLINGS.value:
        return Finding.of("prompt-very-long", n=len(prompt))
    if len(prompt) > contract.PROMPT_CHARACTERS_ADVISED.value:
        return Finding.of("prompt-long", n=len(prompt))
    return None


_WIDTH_X_HEIGHT = re.compile(r"(\d{1,9})\s*[x\u00d7*]\s*(\d{1,9})", re.ASCII | re.IGNORECASE)
# A spreadsheet takes 16:9 for a time of day, and may hand it on as 16:09:00.
_RATIO = re.compile(r"(\d{1,2})\s*[:\uff1a]\s*(\d{1,2})(?::00)?", re.ASCII)
_PAIR: Final = 2
_SIDES: Final = (columns.WIDTH, columns.HEIGHT)


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """Width and height of every row in pixels; a stand-in where they can't be read."""

    widths: NDArray[np.int64]
    heights: NDArray[np.int64]


def read_size(cell: Any) -> tuple[int, int] | None:
    """Read one cell of `size`."""
    if isinstance(cell, str):
        return _size_of_text(cell.strip())
    if isinstance(cell, dt.time):
        return contract.SIZES.get(f"{cell.hour}:{cell.minute}")
    if isinstance(cell, (tuple, list)) and len(cell) == _PAIR:
        width, height = (cells.read_integer(side).value for side in cell)
        return None if width is None or height is None else (width, height)
    return None


def read_sizes(findings: Findings) -> Sizes:
    """Read the sizes of a whole table."""
    named = _read_named(findings)
    sides = read_integers(columns.WIDTH, findings), read_integers(columns.HEIGHT, findings)
    _find_contradictions(named, sides, findings)
    _find_single_sides(named, sides, findings)
    sizes = Sizes(*(_merged(meant, side) for meant, side in zip(named, sides, strict=True)))
    is_readable = ~np.logical_or.reduce([read.is_faulty for read in (*named, *sides)])
    _find_small_sides(sizes, named[0].is_given, is_readable, findings)
    _find_large_sizes(sizes, named[0].is_given, is_readable, findings)
    return sizes


def _size_of_text(text: str) -> tuple[int, int] | None:
    if match := _WIDTH_X_HEIGHT.fullmatch(text):
        return int(match[1]), int(match[2])
    if match := _RATIO.fullmatch(text):
        return contract.SIZES.get(f"{int(match[1])}:{int(match[2])}")
    return None


def _read_named(findings: Findings) -> Both:
    n_rows = len(findings.of_table)
    if columns.SIZE not in findings.of_table:
        return Integers.nothing(n_rows), Integers.nothing(n_rows)
    named = distinct(findings.of_table[columns.SIZE])
    read = {number: read_size(cell) for number, cell in enumerate(named.cells) if not is_blank(cell)}
    unknown = [number for number, size in read.items() if size is None]
    findings.add_cells(columns.SIZE, named, {number: [Finding.of("size-unknown")] for number in unknown})
    pairs = np.zeros((len(named.cells) + 1, _PAIR), dtype=np.int64)
    is_known, is_unknown = np.zeros((_PAIR, len(named.cells) + 1), dtype=bool)
    is_unknown[unknown] = True
    for number, size in read.items():
        if size is not None:
            pairs[number], is_known[number] = size, True
    # The last line is that of the missing cells, whose code is -1.
    faults = {"unknown": is_unknown[named.codes]}
    width, height = (Integers(side[named.codes], is_known[named.codes], faults) for side in pairs.T)
    return width, height


def _merged(meant: Integers, side: Integers) -> NDArray[np.int64]:
    given = np.where(side.is_given, side.numbers, contract.SIDE_DEFAULT_PX.value)
    return np.where(meant.is_given, meant.numbers, given)


def _find_contradictions(named: Both, sides: Both, findings: Findings) -> None:
    width, height = (meant.numbers for meant in named)
    for name, meant, side in zip(_SIDES, named, sides, strict=True):
        differs = meant.is_given & side.is_given & (meant.numbers != side.numbers)
        findings.add(
            "size-contradiction", columns.SIZE, differs, width=width, height=height, side=name, n=side.numbers
        )


def _find_single_sides(named: Both, sides: Both, findings: Findings) -> None:
    has_size = named[0].is_given | named[0].is_faulty
    width, height = (side.is_given | side.is_faulty for side in sides)
    findings.add("one-side-only", columns.WIDTH, width & ~height & ~has_size)
    findings.add("one-side-only", columns.HEIGHT, height & ~width & ~has_size)


def _find_small_sides(sizes: Sizes, has_size: Mask, is_readable: Mask, findings: Findings) -> None:
    for name, side in zip(_SIDES, (sizes.widths, sizes.heights), strict=True):
        is_small = is_readable & (side < contract.SIDE_MIN_PX.value)
        findings.add("side-too-small", columns.SIZE, is_small & has_size, side=name, n=side)
        findings.add("side-too-small", name, is_small & ~has_size, side=name, n=side)


def _find_large_sizes(sizes: Sizes, has_size: Mask, is_readable: Mask, findings: Findings) -> None:
    # As floats, since sides of any length may stand here and their product must not wrap around.
    product = sizes.widths.astype(np.float64) * sizes.heights
    is_full = product >= contract.PRODUCT_MAX_PX.value
    is_beyond = np.maximum(sizes.widths, sizes.heights) > contract.SIDE_MAX_PX.value
    is_wide = sizes.widths >= sizes.heights
    longest = np.maximum(sizes.widths, sizes.heights).astype(np.float64)
    is_extreme = longest > contract.RATIO_OF_SIBLINGS.value * np.minimum(sizes.widths, sizes.heights)
    is_possible = np.minimum(sizes.widths, sizes.heights) >= contract.SIDE_MIN_PX.value
    for code, is_broken in (
        ("product-too-large", is_readable & is_beyond & is_full),
        ("size-risky", is_readable & (is_beyond ^ is_full)),
        ("size-extreme-ratio", is_readable & is_possible & is_extreme & ~(is_beyond & is_full)),
    ):
        pair = {"width": sizes.widths, "height": sizes.heights}
        findings.add(code, columns.SIZE, is_broken & has_size, **pair)
        findings.add(code, columns.WIDTH, is_broken & ~has_size & is_wide, **pair)
        findings.add(code, columns.HEIGHT, is_broken & ~has_size & ~is_wide, **pair)


_LISTED_MAX = 20


def check_columns(table: pd.DataFrame) -> None:
    """Check that a table has the columns a run needs, each once and none of the toolkit's own."""
    refuse_other_things(table)
    _refuse_duplicates(table)
    _refuse_absent(table)
    if not is_result(table):
        _refuse_clashes(table)


def is_result(table: pd.DataFrame) -> bool:
    """Say whether a table is a result of this toolkit: it holds every output column."""
    return set(columns.OUTPUTS) - {columns.RUN_DIR} <= set(table.columns)  # which tables of old versions lack


def user_columns(table: pd.DataFrame) -> list[Any]:
    """Name the columns that are the user's own, in the table's order."""
    outputs = columns.OUTPUTS if is_result(table) else {}
    return [name for name in table.columns if name not in outputs]


def image_columns(table: pd.DataFrame) -> list[str]:
    """Name the columns that may hold the reference picture."""
    return [name for name in (columns.IMAGE, *columns.IMAGE_ALIASES) if name in table.columns]


def as_frame(table: Any) -> Any:
    """Turn a table of another library that hands out Arrow data (polars, Arrow, DuckDB) into a DataFrame."""
    import pandas as pd

    if isinstance(table, pd.DataFrame) or not hasattr(table, "__arrow_c_stream__"):
        return table
    import pyarrow as pa

    def dtype(kind: pa.DataType) -> Any:
        if pa.types.is_integer(kind):  # a missing one would make floats of all
            return getattr(pd, f"{str(kind).replace('int', 'Int').replace('uI', 'UI')}Dtype")()
        if pa.types.is_boolean(kind):
            return pd.BooleanDtype()
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        return pd.StringDtype(na_value=float("nan")) if is_text else None

    return pa.table(table).to_pandas(types_mapper=dtype)


def recognised(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    r"""Rename columns that are spelled otherwise but mean one that is read: `Seed`, `Image Path`, ``\ufeffprompt``."""
    refuse_other_things(table)
    meant = {_plain(name): name for name in (*columns.INPUTS, *columns.IMAGE_ALIASES)}
    by_meaning: dict[str, list[str]] = {}
    for name in user_columns(table):
        if isinstance(name, str) and (meaning := meant.get(_plain(name))) is not None:
            by_meaning.setdefault(meaning, []).append(name)
    for meaning, names in by_meaning.items():
        if len(set(names)) > 1:
            raise TableError(
                f"Columns {' and '.join(map(repr, names))} both mean {meaning!r}. Rename or drop all but one, so that "
                "it is clear which one counts."
            )
    renamed = {names[0]: meaning for meaning, names in by_meaning.items() if names[0] != meaning}
    return (table.rename(columns=renamed) if renamed else table), renamed


def means(name: str) -> str | None:
    """Return the column that is read which a name means, however it is spelled; None if there is none."""
    known = {_plain(one): one for one in (*columns.INPUTS, *columns.IMAGE_ALIASES)}
    return known.get(_plain(name))


def _plain(name: str) -> str:
    """What is left of a name without case, blanks, hyphens, width variants and what can't be seen."""
    characters = unicodedata.normalize("NFKC", name)
    shown = "".join(c for c in characters if c.isspace() or unicodedata.category(c) not in {"Cf", "Cc"})
    return "_".join(shown.replace("-", " ").replace("_", " ").casefold().split())


def misnamed(table: pd.DataFrame) -> dict[str, str]:
    """Find columns that are named nearly like one that is read, and that the table lacks."""
    lacking = {_folded(name): name for name in columns.INPUTS if name not in table.columns}
    meant = {name: lacking.get(_folded(name)) for name in user_columns(table) if isinstance(name, str)}
    return {name: near for name, near in meant.items() if near is not None and near != columns.IMAGE}


def _folded(name: str) -> str:
    return _plain(name).removesuffix("s")


def refuse_other_things(table: pd.DataFrame) -> None:
    """Raise TableError for what is no DataFrame, or one with several levels of column names."""
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise TableError(
            f"A pandas DataFrame was expected, not a {type(table).__name__}. "
            "Make one with pd.DataFrame(...), sweep(...) or read_table(path)."
        )
    if table.columns.nlevels > 1:
        raise TableError(
            f"The table's column names have {table.columns.nlevels} levels; one was expected. "
            "Flatten them, for example with table.columns = table.columns.get_level_values(0)."
        )


def _refuse_duplicates(table: pd.DataFrame) -> None:
    doubled = list(dict.fromkeys(table.columns[table.columns.duplicated()]))
    if doubled:
        raise TableError(
            f"Several columns share a name: {_listed(doubled)}. Rename or drop all but one of each, so "
            "that it is clear which one counts."
        )


def _refuse_absent(table: pd.DataFrame) -> None:
    absent = [] if columns.PROMPT in table.columns else [columns.PROMPT]
    absent += [] if image_columns(table) else [columns.IMAGE]
    if not absent:
        return
    aliases = f" (or {_listed(columns.IMAGE_ALIASES)})" if columns.IMAGE in absent else ""
    found = _listed(table.columns) or "no columns at all"
    raise TableError(
        f"The table has no column {' and no column '.join(map(repr, absent))}{aliases}; it has: {found}. "
        f"{_similar(absent, table)}Rename or add what is missing: every row needs a picture and a prompt."
    )


def _similar(absent: list[str], table: pd.DataFrame) -> str:
    names = {str(name).strip().lower(): str(name) for name in table.columns}
    hints = [
        f"{names[close]!r} may be meant as {name!r}. "
        for name in absent
        for close in difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    ]
    return "".join(hints)


def _refuse_clashes(table: pd.DataFrame) -> None:
    clashing = [name for name in table.columns if name in columns.OUTPUTS]
    if clashing:
        raise TableError(
            f"Columns of the table are named like columns that come back: {_listed(clashing)}. Rename them, "
            f"for example to my_{clashing[0]}. (A whole result of this toolkit may be run again as it is.)"
        )


def _listed(names: Any) -> str:
    shown = [str(name) for name in names]
    n_more = len(shown) - _LISTED_MAX
    return ", ".join(shown[:_LISTED_MAX]) + (f" and {n_more} more" if n_more > 0 else "")


def find_rephrased_sweeps(
    findings: Findings, prompts: Distinct, seeds: Seeds, sizes: Sizes, use_rephraser: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Find seed sweeps that leave the rephraser on, and say so once for the whole table."""
    table = findings.of_table
    found = np.zeros(len(table), dtype=bool)
    at = np.flatnonzero(use_rephraser & ~findings.is_in_error())
    if len(at):
        images = [distinct(table[name]).codes[at] for name in image_columns(table)]
        rest = (prompts.codes[at], sizes.widths[at], sizes.heights[at])
        keys = numbered([*images, *rest])
        found[at] = is_swept([keys], seeds.numbers[at], seeds.is_given[at])
        n_sweeps = len(np.unique(keys[found[at]]))
        is_first = np.arange(len(table)) == np.argmax(found)
        findings.add(
            SWEEP_REPHRASED, _column(table), found & is_first, n_rows=int(found.sum()), n_sweeps=n_sweeps
        )
    return found


def is_swept(
    keys: Sequence[NDArray[np.int64]], seeds: NDArray[np.int64], is_given: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Say which rows have equals in `keys` with another seed; a seed still to be drawn is another one."""
    numbers = numbered(keys)
    codes = numbered([seeds])
    pairs = pd.unique(numbers[is_given] * (len(codes) + 1) + codes[is_given])
    n_keys = int(numbers.max(initial=-1)) + 1
    n_seeds = np.bincount(pairs // (len(codes) + 1), minlength=n_keys)
    n_seeds += np.bincount(numbers[~is_given], minlength=n_keys)
    swept: NDArray[np.bool_] = (n_seeds > 1)[numbers]
    return swept


def numbered(keys: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Number the distinct rows of several keys."""
    # Numbered anew after each key, so that nothing overflows.
    numbers = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        codes, found = pd.factorize(key)
        numbers = pd.factorize(numbers * (len(found) + 1) + codes)[0]
    return numbers.astype(np.int64)


def _column(table: pd.DataFrame) -> str:
    """Name the column that the warning is about: what there is of switch, seed and prompt."""
    return next(n for n in (columns.USE_REPHRASER, columns.SEED, columns.PROMPT) if n in table.columns)
