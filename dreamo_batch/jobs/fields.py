"""Find the columns of a user's table, and read prompts, seeds, sizes and the other parameters from them.

Readers return one value per row, with defaults filled in, and add what is wrong to the findings; unreadable cells get a
harmless placeholder.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import math
import re
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from dreamo_batch import columns, files
from dreamo_batch.errors import TableError, UsageError
from dreamo_batch.jobs import cells
from dreamo_batch.jobs.cells import Distinct, Integers
from dreamo_batch.jobs.rules import Finding, Findings
from dreamo_batch.service import contract
from dreamo_batch.text import counted, listed, type_of, wording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    _SidePair: TypeAlias = tuple[Integers, Integers]
    Mask: TypeAlias = NDArray[np.bool_]


# Columns

_PROMPTS: Final = files.toml_beside(__file__, "prompts.toml")
_SHAPES: Final = {name: re.compile(pattern) for name, pattern in _PROMPTS["shapes"].items()}
_LEFTOVERS: Final = [(re.compile(pattern), texts) for pattern, texts in _PROMPTS["leftovers"].items()]
# Methods by which other libraries give a table.
_CONVERTING: Final = ("to_dataframe", "collect", "compute", "read_all", "to_pandas", "to_table")
_NUMBERED: Final = re.compile(r"image_?\d+")
# What the service, other programs and other languages call these columns.
_SUGGESTED: Final = files.toml_beside(__file__, "suggested_names.toml")


class ArrowTable(Protocol):
    """A table of another library with Arrow data, such as polars, Arrow or DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return its data as a stream of Arrow's."""


Table: TypeAlias = pd.DataFrame | ArrowTable


def check_pandas() -> None:
    """Raise if pandas' string dtype is switched off: missing cells would become the word "nan"."""
    if pd.Series(["a"]).dtype == "O":  # reading the option would warn
        raise UsageError(
            "pandas' option future.infer_string is False, which makes words of missing cells. Set it to True, at least "
            'for this call: with pd.option_context("future.infer_string", True).'
        )


def convert_to_frame(table: Any) -> Any:
    """Convert a table of another library with Arrow data (polars, Arrow, DuckDB) to a DataFrame."""
    check_pandas()
    # a stream can be read only once
    if isinstance(table, pd.DataFrame | pa.RecordBatchReader | type) or not hasattr(
        table, "__arrow_c_stream__"
    ):
        return table
    try:
        read = pa.table(table)
        try:
            frame = read.to_pandas(types_mapper=dtype_of)
        except pa.ArrowNotImplementedError:  # such as lists of texts by polars
            frame = pd.DataFrame({name: _of_arrow(read[name]) for name in read.column_names})
        # Arrow would get only the addresses of Python objects in polars
        own = [column for column in getattr(table, "get_columns", list)() if str(column.dtype) == "Object"]
        return frame.assign(**{column.name: pd.Series(column.to_list(), dtype=object) for column in own})
    except Exception as error:  # noqa: BLE001 - another library's
        if not hasattr(table, "columns"):  # a single column
            return table
        raise TableError(
            f"The {type(table).__module__.partition('.')[0]} table can't become a DataFrame: {str(error).rstrip('.')}. "
            "Convert or drop the column."
        ) from None


def _of_arrow(column: pa.ChunkedArray) -> pd.Series:
    try:
        return column.to_pandas(types_mapper=dtype_of)
    except pa.ArrowNotImplementedError:
        return pd.Series(column.to_pylist(), dtype=object)


def dtype_of(kind: pa.DataType) -> Any:
    """Return the pandas dtype that preserves an Arrow type's values, also missing ones; None for pandas' default."""
    if pa.types.is_integer(kind):  # nullable, because a missing cell would turn them all into floats
        return getattr(pd, f"{str(kind).replace('int', 'Int').replace('uI', 'UI')}Dtype")()
    if pa.types.is_boolean(kind):
        return pd.BooleanDtype()
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return pd.StringDtype(na_value=float("nan")) if is_text else None


def is_result(table: pd.DataFrame) -> bool:
    """Return whether a table is a result of this toolkit: it has every output column."""
    return set(columns.OUTPUTS) - {columns.RUN_DIR} <= set(table.columns)  # which tables of old versions lack


def user_columns(table: pd.DataFrame) -> list[Any]:
    """Return the names of the user's own columns, in the table's order."""
    outputs = {*columns.OUTPUTS, *rating_columns(table)} if is_result(table) else {}
    return [name for name in table.columns if name not in outputs]


def rating_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of results that hold ratings; columns of these names before the outputs are the user's."""
    listed = list(table.columns)
    behind = listed[listed.index(columns.STATUS) :] if columns.STATUS in listed else []
    return [name for name in columns.RATED if name in behind]


def image_columns(table: pd.DataFrame) -> list[str]:
    """Return the names of the columns that may contain reference pictures."""
    possible = (columns.IMAGE, *columns.IMAGE_ALIASES, *columns.IMAGE_NUMBERED)
    return [name for name in possible if name in table.columns]


def input_named(name: str) -> str | None:
    """Return the input column that a name means in any spelling (`Seed`, `Image Path`); None if it means none."""
    return _ACCEPTED_NAMES.get(plain_name(name))


def recognised(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Rename columns that mean an input but are spelled differently."""
    _refuse_other_things(table)
    by_meaning: dict[str, list[str]] = {}
    for name in user_columns(table):
        if isinstance(name, str) and (meaning := input_named(name)) is not None:
            by_meaning.setdefault(meaning, []).append(name)
    for meaning, names in by_meaning.items():
        if len(set(names)) > 1:
            raise TableError(
                f"Columns {' and '.join(map(repr, names))} both mean {meaning!r}. Rename or drop all but one."
            )
    renamed = {names[0]: meaning for meaning, names in by_meaning.items() if names[0] != meaning}
    return (table.rename(columns=renamed) if renamed else table), renamed


def misnamed(table: pd.DataFrame) -> dict[str, str]:
    """Find columns whose name is close to that of a missing input, such as `seeds` or `image1`."""
    missing = {_squeezed(name): name for name in columns.INPUTS if name not in table.columns}
    missing = {slip: name for plain, name in missing.items() for slip in _slips(plain)} | missing
    missing |= {near: name for near, name in _SUGGESTED.items() if name not in table.columns}
    near = {name: missing.get(_squeezed(name)) for name in user_columns(table) if isinstance(name, str)}
    if any(name in near for name in columns.IMAGE_NUMBERED):  # no model takes more pictures
        beyond = near.keys() - {*columns.IMAGE_NUMBERED}
        last = columns.IMAGE_NUMBERED[-1]
        near |= {name: last for name in beyond if _NUMBERED.fullmatch(plain_name(name))}
    return {name: one for name, one in near.items() if one is not None and one != columns.IMAGE}


def plain_name(name: str) -> str:
    """Normalise a name: ignore case, spaces, hyphens, width variants and invisible characters."""
    characters = unicodedata.normalize("NFKC", name)
    shown = "".join(c for c in characters if c.isspace() or unicodedata.category(c) not in {"Cf", "Cc"})
    return "_".join(shown.replace("-", " ").replace("_", " ").casefold().split())


def _squeezed(name: str) -> str:
    without_unit = re.sub(r"[(\[].*|px$|(?<!\W)\W+$", "", plain_name(name).replace("_", ""))
    return without_unit.removesuffix("s")


def _slips(name: str) -> Iterator[str]:
    """Yield likely typos of a name: two letters swapped, one left out inside, or one doubled."""
    for n in range(len(name)):
        yield name[:n] + name[n + 1 : n + 2] + name[n] + name[n + 2 :]
        yield name[:n] + name[n] + name[n:]
        if 0 < n < len(name) - 1 and (shorter := name[:n] + name[n + 1 :]) != "with":
            yield shorter


_ACCEPTED_NAMES: Final = {plain_name(name): name for name in (*columns.INPUTS, *columns.IMAGE_ALIASES)}


def check_columns(table: pd.DataFrame) -> None:
    """Raise TableError unless a table has the columns a run needs, each once, and no output column."""
    doubled = list(dict.fromkeys(table.columns[table.columns.duplicated()]))
    if doubled:
        raise TableError(
            f"Several columns share a name: {listed(doubled)}. Rename or drop all but one of each."
        )
    _refuse_unusable(table)
    _refuse_absent(table)
    clashing = [] if is_result(table) else [name for name in table.columns if name in columns.OUTPUTS]
    if clashing:
        raise TableError(
            f"Columns have the names of output columns: {listed(clashing)}. Rename them, for example to "
            f"my_{clashing[0]}. (A complete result of this toolkit can be run again as it is.)"
        )


def _refuse_other_things(table: pd.DataFrame) -> None:
    if not isinstance(table, pd.DataFrame):
        first = next((f" Call .{name}() first." for name in _CONVERTING if hasattr(table, name)), "")
        raise TableError(
            f"Expected a pandas DataFrame, not {type_of(table)}.{first} "
            "Create one with pd.DataFrame(...), sweep(...) or read_table(path)."
        )
    if isinstance(table.columns, pd.MultiIndex):
        raise TableError(
            f"The column names are a MultiIndex ({counted(table.columns.nlevels, 'level')}); expected plain names. "
            "Flatten them, for example with table.columns = table.columns.get_level_values(0); -1 is the last level."
        )


def _refuse_unusable(table: pd.DataFrame) -> None:
    """Refuse reserved names, and columns that pandas can hold but not work with."""
    reserved = [name for name in table.columns if str(name).startswith(columns.STORED_PREFIX)]
    if reserved:
        raise TableError(
            f"Columns have names that begin with {columns.STORED_PREFIX!r}, which run directories use: "
            f"{listed(reserved)}. Rename them."
        )
    torn = [name for name in table.columns if isinstance(name, str) and cells.printable(name) != name]
    if torn:
        raise TableError(f"Column {torn[0]!r} has half a character in its name. Rename it.")
    levels = (
        (table.index.names[place], table.index.get_level_values(place))
        for place in range(table.index.nlevels)
    )
    for name, column in (*table.items(), *levels):
        if (reason := _why_unusable(column)) is not None:
            raise TableError(
                f"pandas can't work with column {name!r}, a {column.dtype} ({reason}). Convert it first, for example "
                f"with table[{name!r}] = table[{name!r}].tolist()."
            )


def _why_unusable(column: pd.Series | pd.Index) -> str | None:
    """Return why pandas can't select, show or compare the cells of a column; None if it can."""
    if not isinstance(column.dtype, pd.ArrowDtype | pd.CategoricalDtype):
        return None
    try:
        _ = repr(column[:1]), column.dtype.type, hash(column.dtype), column[np.ones(len(column), dtype=bool)]
    except (NotImplementedError, pa.ArrowException, UnicodeError) as error:
        return str(error)
    return None


def _refuse_absent(table: pd.DataFrame) -> None:
    absent = [] if columns.PROMPT in table.columns else [columns.PROMPT]
    absent += [] if image_columns(table) else [columns.IMAGE]
    if not absent:
        return
    names = {plain_name(str(name)): str(name) for name in table.columns}
    known = _SUGGESTED | {_squeezed(alias): columns.IMAGE for alias in columns.IMAGE_ALIASES}
    hints = "".join(
        f"Rename {names[close]!r} to {name!r}? "
        for name in absent
        for close in [column for column in names if known.get(_squeezed(column)) == name][:1]
        or difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
        or [column for column in names if {name} == {*absent} & {*re.split(r"[\W_]+", column)}][:1]
    )
    if not set(absent).isdisjoint(table.index.names):
        hints = "It is in the index: call .reset_index() first. "
    aliases = f" (or {listed(columns.IMAGE_ALIASES)})" if columns.IMAGE in absent else ""
    raise TableError(
        f"The table has no column {' and no column '.join(map(repr, absent))}{aliases}; it has "
        f"{listed(table.columns) or 'no columns at all'}. {hints}Every row needs a picture and a prompt; the first "
        f"line of a file names the columns, separated as {wording('sep=', '--delimiter')} says."
    )


# Models, and what only some of them take


class RowModels:
    """The model of every row, as an index into the contract's models; the default model if the cell can't be read."""

    def __init__(self, findings: Findings) -> None:
        table, names = findings.of_table, list(contract.MODELS)
        self.numbers = np.zeros(len(table), dtype=np.intp)
        self.is_known = np.ones(len(table), dtype=bool)
        if columns.MODEL not in table:
            return
        cells_ = cells.distinct(table[columns.MODEL])
        known = {"": 0} | {name: place for place, name in enumerate(names)}
        places = [
            known.get(cell.strip().lower(), -1) if isinstance(cell, str) else -1 for cell in cells_.cells
        ]
        unknown = [
            [Finding.of("model-unknown", value=cells.show(cell))] if place < 0 else []
            for cell, place in zip(cells_.cells, places, strict=True)
        ]
        findings.add_cells(columns.MODEL, cells_, unknown)
        numbers = cells_.take(places, missing=0)
        self.numbers, self.is_known = np.maximum(numbers, 0), numbers >= 0

    @property
    def names(self) -> NDArray[np.object_]:
        """The name of each row's model."""
        return np.array(list(contract.MODELS), dtype=object)[self.numbers]

    def take(self, fact: str) -> NDArray[Any]:
        """Return a fact about each row's model, by the fact's name in the contract."""
        return np.array([getattr(model, fact).value for model in contract.MODELS.values()])[self.numbers]

    def groups(self) -> Iterator[tuple[contract.Model, Mask]]:
        """Yield each model in the table, and the rows that name it."""
        for number, model in enumerate(contract.MODELS.values()):
            is_of_model = self.numbers == number
            if is_of_model.any():
                yield model, is_of_model


def read_own_parameters(findings: Findings, models: RowModels, counts: NDArray[np.int64]) -> Distinct:
    """Read parameters that only some models take, as pairs (name, value sent); `counts` has each row's pictures."""
    types = _read_ref_types(findings, models, counts)
    scales = {name: _read_scale(name, findings, models) for name in contract.SCALES}
    codes = [types.codes, *(pd.factorize(values, use_na_sentinel=False)[0] for values in scales.values())]
    numbers = numbered([models.numbers, counts, *codes])
    listed, found = list(contract.MODELS.values()), []
    for at in np.unique(numbers, return_index=True)[1].tolist():
        model, own = listed[models.numbers[at]], dict[str, Any]()
        if known := model.ref_types.value:
            code = types.codes[at]
            own[columns.REF_TYPE] = types.cells[code] if code >= 0 else known[:1] * int(counts[at])
        for name, scale in model.scales.items():
            own[name] = scale.default.value if math.isnan(scales[name][at]) else float(scales[name][at])
        found.append(tuple((name, value) for name, value in own.items() if value is not None))
    return Distinct(numbers, found)


def _read_ref_types(findings: Findings, models: RowModels, counts: NDArray[np.int64]) -> Distinct:
    """Read the types of the reference pictures, as tuples of words."""
    name, n_rows = columns.REF_TYPE, len(findings.of_table)
    if name not in findings.of_table:
        return Distinct(np.full(n_rows, -1, dtype=np.intp), [])
    cells_ = cells.distinct(findings.of_table[name])
    read = [_words(cell) for cell in cells_.cells]
    n_types = cells_.take(list(map(len, read)), missing=0)
    is_given = n_types > 0
    pictures = np.array([counted(n, "reference picture") for n in counts.tolist()], dtype=object)
    _find_foreign(name, is_given, findings, models)
    for model, is_of_model in models.groups():
        known = model.ref_types.value
        if not known:
            continue
        shown = ", ".join(known[:-1]) + f" or {known[-1]}"
        other = [[word for word in words if word not in known][:1] for words in read]
        judged = [
            [Finding.of("ref_type-unknown", word=word, known=shown, model=model.name) for word in words]
            for words in other
        ]
        findings.add_cells(name, cells_.within(is_of_model), judged)
        is_other = is_of_model & is_given & (n_types != counts) & (counts > 0)
        details = {"n_types": n_types, "pictures": pictures, "default": known[0], "model": model.name}
        findings.add("ref_type-count", name, is_other, **details)
    return Distinct(np.where(is_given, cells_.codes, -1), [tuple(map(str, words)) for words in read])


def _words(cell: Any) -> list[Any]:
    """Return the types in a cell, in capitals; empty if it is blank."""
    items = cells.items_of(cell)
    if items is None:
        text = cell.strip() if isinstance(cell, str) else None
        items = [cell] if text is None else _BETWEEN_WORDS.split(text) if text else []
    texts = [item if isinstance(item, int | float) else cells.text_of(item) for item in items]
    return [
        unicodedata.normalize("NFKC", one).strip().upper() if isinstance(one, str) else one for one in texts
    ]


_BETWEEN_WORDS: Final = re.compile(r"\s*[,;|\uff0c\uff1b\u3001]\s*")


def _read_scale(name: str, findings: Findings, models: RowModels) -> NDArray[np.float64]:
    """Read a numeric parameter that only some models take; NaN if it isn't given."""
    if name not in findings.of_table:
        return np.full(len(findings.of_table), np.nan)
    cells_ = cells.distinct(findings.of_table[name])
    read = [cells.read_number(cell) for cell in cells_.cells]
    values = cells_.take([value.value for value in read], missing=math.nan)
    is_faulty = cells_.take([value.fault is not None for value in read], missing=False)
    _find_foreign(name, ~np.isnan(values) | is_faulty, findings, models)
    for model, is_of_model in models.groups():
        if name not in model.scales:
            continue
        limits = {"low": model.scales[name].low.value, "high": model.scales[name].high.value}
        low, high = (math.nan if limit is None else limit for limit in limits.values())
        is_out = (values < low) | (values > high)  # unknown limits are never broken
        findings.add(f"{name}-not-number", name, is_of_model & is_faulty, model=model.name)
        findings.add(
            f"{name}-beyond-limits", name, is_of_model & is_out, n=values, **limits, model=model.name
        )
    return values


def _find_foreign(name: str, is_given: Mask, findings: Findings, models: RowModels) -> None:
    """Warn where a row has a parameter that its model lacks."""
    has_it = {
        model.name: name in (*model.scales, *([columns.REF_TYPE] if model.ref_types.value else []))
        for model in contract.MODELS.values()
    }
    others = " or ".join(model for model, has in has_it.items() if has)
    is_foreign = is_given & models.is_known & ~np.array(list(has_it.values()))[models.numbers]
    findings.add("parameter-not-of-model", name, is_foreign, name=name, others=others, model=models.names)


# Prompts, seeds, replicates, rephraser

REPLICATE_DEFAULT = 0


def read_prompts(findings: Findings, models: RowModels) -> Distinct:
    """Read the prompts verbatim: nothing is stripped or normalised."""
    prompts = cells.distinct(findings.of_table[columns.PROMPT])
    findings.add("prompt-missing", columns.PROMPT, prompts.codes < 0)
    for model, is_of_model in models.groups():
        judged = [_judge_prompt(prompt, model) for prompt in prompts.cells]
        findings.add_cells(columns.PROMPT, prompts.within(is_of_model), judged)
    return prompts


def _judge_prompt(prompt: Any, model: contract.Model) -> list[Finding]:
    if not isinstance(prompt, str):
        return [Finding.of("prompt-not-text", type=type_of(prompt))]
    if not prompt.strip():
        return [Finding.of("prompt-blank")]
    found = []
    advised, most = model.prompt_characters_advised.value, model.prompt_characters_of_siblings.value
    if cells.printable(prompt) != prompt:
        found.append(Finding.of("prompt-not-unicode"))
    elif len(prompt) > advised:
        code = "prompt-long" if len(prompt) <= most else "prompt-very-long"
        found.append(Finding.of(code, n=len(prompt), advised=advised, most=most, model=model.name))
    return [*found, *_judge_wording(prompt)]


def _judge_wording(prompt: str) -> Iterator[Finding]:
    """Find text that wasn't meant for this service: placeholders, other services' parameters, encoding damage."""
    if (control := _SHAPES["control"].search(prompt)) is not None:
        yield Finding.of("prompt-control-characters", character=ascii(control[0]))
    elif _is_garbled(prompt):
        yield Finding.of("prompt-garbled")
    if (word := _SHAPES["no_value"].fullmatch(prompt)) is not None:
        yield Finding.of("prompt-no-value", word=word[1])
        return
    if _SHAPES["in_quotes"].fullmatch(prompt) is not None:
        yield Finding.of("prompt-in-quotes")
    for pattern, texts in _LEFTOVERS if _SHAPES["marks"].search(prompt) else ():
        if (left := pattern.search(prompt)) is not None:
            yield Finding.of(texts.get("rule", "prompt-leftover"), left=cells.show(left[0]), **texts)


def _is_garbled(text: str) -> bool:
    """Return whether a text was probably read or saved in the wrong encoding, such as `cafÃ©`."""
    if "?" in text and _SHAPES["lost"].search(text):
        return True
    if text.isascii():
        return False
    least_of = next(kind["least"] for kind in _PROMPTS["mistaken"] if re.search(kind["where"], text))
    for encoding, least in least_of.items():
        with contextlib.suppress(UnicodeError):
            found = text.encode(encoding).decode()
            if len(text) - len(found) >= least:
                return _SHAPES["rare"].search(found) is None
    return _SHAPES["garbled"].search(text) is not None


def read_seeds(findings: Findings) -> Integers:
    """Read the seeds; both missing and -1 mean a random seed."""
    read = _read(columns.SEED, findings, cells.integers)
    is_given = read.is_given & (read.numbers >= 0)
    findings.add("seed-out-of-range", columns.SEED, read.numbers < contract.SEED_RANDOM.value)
    findings.add("seed-zero", columns.SEED, is_given & (read.numbers < contract.SEED_REPEATABLE_MIN.value))
    findings.add("seed-beyond-32-bit", columns.SEED, read.numbers > contract.SEED_ADVISED_MAX.value)
    numbers = np.where(is_given, read.numbers, contract.SEED_RANDOM.value)
    return replace(read, numbers=numbers, is_given=is_given)


def read_replicates(findings: Findings) -> NDArray[np.int64]:
    """Read the replicates, 0 by default."""
    read = _read(columns.REPLICATE, findings, cells.integers)
    findings.add("replicate-out-of-range", columns.REPLICATE, read.numbers < 0)
    return np.where(read.is_given, read.numbers, REPLICATE_DEFAULT)


def read_rephraser(findings: Findings, models: RowModels) -> NDArray[np.bool_]:
    """Read whether the service may reword the prompts; the model's default where the cell is empty."""
    read = _read(columns.USE_REPHRASER, findings, cells.booleans)
    return np.where(read.is_given, read.numbers != 0, models.take("use_rephraser_default"))


def _read(column: str, findings: Findings, read: Callable[[pd.Series], Integers]) -> Integers:
    if column not in findings.of_table:
        return Integers.nothing(len(findings.of_table))
    values = read(findings.of_table[column])
    for fault, is_faulty in values.faults.items():
        findings.add(f"{column}-{fault}", column, is_faulty)
    return values


# Sizes

_WIDTH_X_HEIGHT = re.compile(r"(\d{1,9})\s*[x\u00d7*]\s*(\d{1,9})", re.ASCII | re.IGNORECASE)
# A spreadsheet reads 16:9 as a time, and may write it as 16:09:00.
_RATIO = re.compile(r"(\d{1,2})\s*:\s*(\d{1,2})(?::00)?", re.ASCII)
_PAIR: Final = 2
_SIDES: Final = (columns.WIDTH, columns.HEIGHT)
_LIMITS: Final = {"low": "side_min_px", "high": "side_max_px", "product": "product_max_px"}


def read_size(cell: Any) -> tuple[int, int] | None:
    """Read one cell of `size`; None if it can't be read."""
    text = cell.translate(cells.HALF_WIDTH).strip() if isinstance(cell, str) else ""
    if match := _WIDTH_X_HEIGHT.fullmatch(text):
        return int(match[1]), int(match[2])
    if match := _RATIO.fullmatch(text):
        return contract.SIZES.get(f"{int(match[1])}:{int(match[2])}")
    if isinstance(cell, dt.time):
        return contract.SIZES.get(f"{cell.hour}:{cell.minute}")
    sides = [cells.read_integer(side).value for side in cells.items_of(cell) or ()]
    return (sides[0], sides[1]) if len(sides) == _PAIR and None not in sides else None


def read_sizes(findings: Findings, models: RowModels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read width and height of every row in pixels; placeholders where they can't be read."""
    named = _read_named(findings)
    sides = tuple(_read(name, findings, cells.integers) for name in _SIDES)
    is_named = named[0].is_given | named[0].is_faulty
    has_side = [side.is_given | side.is_faulty for side in sides]
    of_size = {"width": named[0].numbers, "height": named[1].numbers}
    for name, from_size, side in zip(_SIDES, named, sides, strict=True):
        differs = from_size.is_given & side.is_given & (from_size.numbers != side.numbers)
        findings.add("size-contradiction", columns.SIZE, differs, side=name, n=side.numbers, **of_size)
    default = models.take("side_default_px")
    for name, has, has_other in zip(_SIDES, has_side, reversed(has_side), strict=True):
        findings.add("one-side-only", name, has & ~has_other & ~is_named, default=default)
    widths, heights = (
        np.where(from_size.is_given, from_size.numbers, np.where(side.is_given, side.numbers, default))
        for from_size, side in zip(named, sides, strict=True)
    )
    is_readable = ~np.logical_or.reduce([read.is_faulty for read in (*named, *sides)])
    has_size = named[0].is_given
    limits = {name: models.take(fact) for name, fact in _LIMITS.items()} | {"model": models.names}
    for name, length in zip(_SIDES, (widths, heights), strict=True):
        is_small = is_readable & (length < limits["low"])
        findings.add("side-too-small", columns.SIZE, is_small & has_size, side=name, n=length, **limits)
        findings.add("side-too-small", name, is_small & ~has_size, side=name, n=length, **limits)
    longest, shortest = np.maximum(widths, heights), np.minimum(widths, heights)
    # As floats, because sides can be any 64-bit number here and their product must not overflow.
    is_full = widths.astype(np.float64) * heights >= limits["product"]
    is_beyond = longest > limits["high"]
    is_extreme = longest.astype(np.float64) > contract.RATIO_OF_SIBLINGS.value * shortest
    is_extreme &= (shortest >= limits["low"]) & ~(is_beyond & is_full)
    is_wide = widths >= heights
    places = {
        columns.SIZE: has_size,
        columns.WIDTH: ~has_size & is_wide,
        columns.HEIGHT: ~has_size & ~is_wide,
    }
    for code, is_broken in (
        ("product-too-large", is_beyond & is_full),
        ("size-risky", is_beyond ^ is_full),
        ("size-extreme-ratio", is_extreme),
    ):
        for name, is_there in places.items():
            is_wrong = is_readable & is_broken & is_there
            findings.add(code, name, is_wrong, width=widths, height=heights, **limits)
    return widths, heights


def _read_named(findings: Findings) -> _SidePair:
    n_rows = len(findings.of_table)
    if columns.SIZE not in findings.of_table:
        return Integers.nothing(n_rows), Integers.nothing(n_rows)
    named = cells.distinct(findings.of_table[columns.SIZE])
    read = [read_size(cell) for cell in named.cells]
    unknown = [
        size is None and not cells.is_blank(cell) for size, cell in zip(read, named.cells, strict=True)
    ]
    findings.add_cells(columns.SIZE, named, [[Finding.of("size-unknown")] if one else [] for one in unknown])
    faults = {"unknown": named.take(unknown, missing=False)}
    is_given = named.take([size is not None for size in read], missing=False)
    width, height = (
        Integers(named.take([size[side] if size else 0 for size in read], missing=0), is_given, faults)
        for side in range(_PAIR)
    )
    return width, height


# Seed sweeps


def find_rephrased_sweeps(
    findings: Findings, seeds: Integers, use_rephraser: NDArray[np.bool_], rest: Sequence[NDArray[Any]]
) -> None:
    """Warn once of seed sweeps that leave the rephraser on; `rest` tells jobs apart beside their pictures."""
    table = findings.of_table
    found = np.zeros(len(table), dtype=bool)
    at = np.flatnonzero(use_rephraser & ~findings.is_in_error())
    if len(at):
        images = [cells.distinct(table[name]).codes[at] for name in image_columns(table)]
        keys = numbered([*images, *(values[at] for values in rest)])
        found[at] = pd.Series(seed_numbers(seeds)[at]).groupby(keys).transform("nunique") > 1
        n_sweeps = len(np.unique(keys[found[at]]))
        is_first = np.arange(len(table)) == np.argmax(found)
        column = next(n for n in (columns.USE_REPHRASER, columns.SEED, columns.PROMPT) if n in table.columns)
        findings.add(
            "seed-sweep-rephrased", column, found & is_first, n_rows=int(found.sum()), n_sweeps=n_sweeps
        )


def seed_numbers(seeds: Integers) -> NDArray[np.int64]:
    """Number the seeds so that equal ones have equal numbers; every random seed counts as a different one."""
    is_given = seeds.is_given & (seeds.numbers >= 0)
    return np.where(is_given, seeds.numbers, -1 - np.arange(len(is_given)))


def numbered(keys: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Number the distinct combinations of several keys."""
    numbers = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        codes, found = pd.factorize(key)
        numbers = pd.factorize(numbers * (len(found) + 1) + codes)[0]  # each time, to avoid overflow
    return numbers.astype(np.int64)
