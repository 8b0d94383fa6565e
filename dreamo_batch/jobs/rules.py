"""What a rule is: code, severity, what was expected, what to do."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.frames import Count, HeadedFrame, Headline
from dreamo_batch.jobs.cells import Distinct, distinct, printable, show
from dreamo_batch.palette import PALETTE
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


ERROR: Final = "error"
WARNING: Final = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `message` and `fix` may name `{details}` that are filled in for each row.

    `repair` says what a corrected copy of the picture would do about it; empty where none can.
    """

    code: str
    severity: str
    message: str
    fix: str
    repair: str = ""


_INPUT_MB = contract.INPUT_BYTES_ADVISED.value / 1e6
_INPUT_SIDE = contract.INPUT_SIDE_MAX_PX.value
_FORMATS = " or ".join(contract.INPUT_FORMATS.value)

_CELLS = (
    Rule(
        "image-missing",
        ERROR,
        "There is no reference picture; every row needs one.",
        "Give a path, a URL, bytes or a PIL image, or drop the row.",
    ),
    Rule(
        "image-two-sources",
        ERROR,
        "The row names {n} reference pictures ({columns}); the service takes exactly one.",
        "Keep one of them.",
    ),
    Rule(
        "image-not-a-source",
        ERROR,
        "A {type} is not a picture: a path, URL, data: URI, bytes or PIL image was expected.",
        "Give one of these.",
    ),
    Rule(
        "image-bad-url",
        ERROR,
        "The URL can't be used: {reason}.",
        "Write it as https://host/path, or give the path of a local file.",
    ),
    Rule(
        "image-url-not-public",
        WARNING,
        "{host} is not a public host; the service has to fetch the picture from there.",
        "Give the file itself, or a public URL.",
    ),
    Rule(
        "image-link-expired",
        ERROR,
        "The link to the picture expired on {when}; rows that weren't submitted before fail without being sent.",
        "Create a new link; the row stays the same job, because only the signature differs.",
    ),
    Rule(
        "image-bad-data-uri",
        ERROR,
        "The data: URI can't be read: {reason}.",
        "Write it as data:image/png;base64,... or give the file.",
    ),
)

_FILES = (
    Rule(
        "image-not-found",
        ERROR,
        "There is no file {path}{hint}.",
        "Check the path; relative ones start at {base}.",
    ),
    Rule(
        "image-gone",
        WARNING,
        "{path} can't be read any more; earlier attempts for it are still known.",
        "Put the file back if rows that were not submitted yet are to be.",
    ),
    Rule(
        "image-kept",
        WARNING,
        "{path} can't be read; the copy that the run directory keeps is used.",
        "Nothing to do, unless another picture is meant.",
    ),
    Rule("image-not-a-file", ERROR, "{path} is {kind}, not a file.", "Give the path of one picture."),
    Rule(
        "image-unreadable", ERROR, "The file can't be read: {reason}.", "Check the path and its permissions."
    ),
    Rule("image-empty", ERROR, "The picture has no bytes.", "Export or download it again."),
    Rule(
        "image-not-a-picture",
        ERROR,
        f"The content is no picture that can be read here{{guess}}; {_FORMATS} was expected.",
        f"Save it as {_FORMATS}.",
    ),
    Rule(
        "image-not-convertible",
        ERROR,
        f"The picture is {{format}}; the service takes {_FORMATS} only.",
        f"Save it as {_FORMATS}.",
    ),
    Rule(
        "image-damaged",
        ERROR,
        "The picture can't be decoded: {reason}.",
        "It may be cut off; export or download it again.",
    ),
    Rule(
        "image-bomb",
        ERROR,
        "The picture is larger than is safe to decode: {size}.",
        f"Scale it down to {_INPUT_SIDE} pixels a side.",
    ),
    Rule(
        "image-far-too-many-bytes",
        ERROR,
        f"The file has {{n_mb:,.0f}} MB; the service takes at most {_INPUT_MB} MB, and no copy is made of so much.",
        f"Save it with at most {_INPUT_MB} MB.",
    ),
    Rule(
        "image-mode",
        ERROR,
        "A PIL image of mode {mode} can't be saved as PNG without a choice of yours.",
        'Convert it first, for example image.convert("RGB").',
    ),
    Rule(
        "image-numbers",
        ERROR,
        "The picture holds {kind} from {low} to {high}, not levels from black to white; how to show them is up to you.",
        'Scale them yourself, for example Image.fromarray(((a - a.min()) * (255 / np.ptp(a))).astype("uint8")).',
    ),
    Rule(
        "image-levels",
        ERROR,
        "The picture's brightest level is {high}: it would look nearly black, as 12 bits stored in 16 do.",
        'Scale it yourself, for example Image.fromarray((a * (255 / a.max())).astype("uint8")).',
    ),
    Rule(
        "image-copy-uniform",
        ERROR,
        "The corrected copy came out as one colour, though the picture has several.",
        "Save it as 8-bit RGB yourself, and look at it.",
    ),
    Rule(
        "image-extreme-ratio",
        WARNING,
        "The picture has {width}x{height} pixels, an aspect ratio beyond 16:9 to 9:16; it may fail.",
        "Crop it.",
    ),
)

_REPAIRABLE = (
    Rule(
        "image-format",
        ERROR,
        f"The picture is {{format}}; the service takes {_FORMATS} only.",
        f"Save it as {_FORMATS}",
        "converted to JPEG or PNG",
    ),
    Rule(
        "image-too-many-bytes",
        ERROR,
        f"The picture has {{n_mb:.2f}} MB; the service takes at most {_INPUT_MB} MB.",
        "Save it smaller, for example as JPEG",
        "saved as a smaller JPEG",
    ),
    Rule(
        "image-many-bytes",
        WARNING,
        f"The picture has {{n_mb:.2f}} MB; the service takes {_INPUT_MB} MB, and may count them in either way.",
        "Save it smaller, for example as JPEG",
        "saved as a smaller JPEG",
    ),
    Rule(
        "image-too-many-pixels",
        ERROR,
        f"The picture has {{width}}x{{height}} pixels; the service takes at most {_INPUT_SIDE} a side.",
        f"Scale it down to {_INPUT_SIDE} pixels a side",
        f"scaled down to {_INPUT_SIDE} pixels a side",
    ),
    Rule(
        "image-rotated",
        WARNING,
        "The picture is stored rotated, with a note (EXIF) on how to turn it; the service may not look at it.",
        "Save it upright",
        "turned upright",
    ),
    Rule(
        "image-animated",
        WARNING,
        "The picture has {n} frames; the service draws from one.",
        "Save the frame wanted",
        "reduced to its first frame",
    ),
    Rule(
        "image-colours",
        WARNING,
        "The picture is stored as {mode}; the service may misread its colours.",
        "Save it as 8-bit RGB",
        "converted to 8-bit colours",
    ),
)

IMAGE_RULES: Final = (*_CELLS, *_FILES, *_REPAIRABLE)


__all__ = ["ERROR", "RULES", "WARNING", "Rule"]

_PROMPT_OF_SIBLINGS = contract.PROMPT_CHARACTERS_OF_SIBLINGS.value
_RATIO = contract.RATIO_OF_SIBLINGS.value
_PROMPT_ADVISED = contract.PROMPT_CHARACTERS_ADVISED.value
_SIDE_MIN = contract.SIDE_MIN_PX.value
_SIDE_MAX = contract.SIDE_MAX_PX.value
_SIDE_DEFAULT = contract.SIDE_DEFAULT_PX.value
_PRODUCT_MAX = contract.PRODUCT_MAX_PX.value
_PRESETS = ", ".join(contract.SIZES)

_PROMPTS = (
    Rule(
        "prompt-missing", ERROR, "There is no prompt; every row needs one.", "Write a prompt or drop the row."
    ),
    Rule("prompt-blank", ERROR, "The prompt is blank.", "Write a prompt or drop the row."),
    Rule("prompt-not-text", ERROR, "The prompt is a {type}, not text.", "Turn it into text."),
    Rule(
        "prompt-not-unicode",
        ERROR,
        "The prompt holds half a character (a lone surrogate), which can't be sent.",
        "Read the text again with its right encoding.",
    ),
    Rule(
        "prompt-very-long",
        WARNING,
        f"The prompt has {{n}} characters; at most {_PROMPT_ADVISED} are advised, and sibling models refuse more than "
        f"{_PROMPT_OF_SIBLINGS}.",
        f"Shorten it to {_PROMPT_ADVISED} characters, or set use_rephraser to false, as the service advises.",
    ),
    Rule(
        "prompt-long",
        WARNING,
        f"The prompt has {{n}} characters; at most {_PROMPT_ADVISED} are advised.",
        "Shorten it: what is beyond may have no effect.",
    ),
    Rule(
        "prompt-looks-equal",
        WARNING,
        "The prompt looks like that of row {other} and differs only in {difference}; it's a separate, billed job.",
        "Make the prompts equal to buy one picture, or keep both on purpose.",
    ),
)

_INTEGER_FIX = "Write a whole number, as an integer or as text."
_NUMBERS = (
    Rule("{column}-not-integer", ERROR, "The {column} is not a whole number.", _INTEGER_FIX),
    Rule(
        "{column}-inexact",
        ERROR,
        "The {column} is a float too large to be exact: integers beside it read the same.",
        "Keep the column as integers (dtype Int64) or as text from the start.",
    ),
)

_SEEDS = (
    Rule(
        "seed-out-of-range",
        ERROR,
        "The seed is outside -1 to 2**63-1.",
        "Use -1 or leave it empty for a drawn seed, else 1 to 2**31-1.",
    ),
    Rule(
        "seed-zero",
        WARNING,
        "The seed is 0; the service promises repeatable pictures only for positive seeds.",
        "Use seeds from 1.",
    ),
    Rule(
        "seed-beyond-32-bit",
        WARNING,
        "The seed is 2**31 or more; it is not known whether the service tells such seeds apart.",
        "Use seeds up to 2**31-1.",
    ),
    Rule(
        "replicate-out-of-range",
        ERROR,
        "The replicate is outside 0 to 2**63-1.",
        "Count replicates from 0.",
    ),
    Rule(
        "use_rephraser-not-boolean",
        ERROR,
        "use_rephraser is neither true nor false.",
        "Write true or false (yes, no, 1 and 0 are read too), or leave it empty.",
    ),
)

_SWEEPS = (
    Rule(
        "seed-sweep-rephrased",
        WARNING,
        "use_rephraser is on in seed sweeps (rows: {n_rows}, sweeps: {n_sweeps}): the service may rewrite the prompt "
        "of each row in another way, so that pictures differ by more than the seed.",
        "Set use_rephraser to false where seeds are compared.",
    ),
)

_COLUMNS = (
    Rule(
        "column-not-read",
        WARNING,
        "{what}.",
        "Rename it to {near}, or to something else if it is yours.",
    ),
)

_SIZES = (
    Rule(
        "{column}-out-of-range",
        ERROR,
        f"The {{column}} does not fit 64 bits; {_SIDE_MIN} to {_SIDE_MAX} pixels were expected.",
        f"Use {_SIDE_MIN} to {_SIDE_MAX} pixels.",
    ),
    Rule(
        "side-too-small",
        ERROR,
        f"The {{side}} is {{n}} pixels; the service makes no picture below {_SIDE_MIN}.",
        f"Use {_SIDE_MIN} to {_SIDE_MAX} pixels, or an advised size: {_PRESETS}.",
    ),
    Rule(
        "product-too-large",
        ERROR,
        f"{{width}}x{{height}} is too large: a side above {_SIDE_MAX} is allowed only while width*height "
        f"stays below {_PRODUCT_MAX:,}.",
        f"Use {_SIDE_MIN} to {_SIDE_MAX} pixels, or an advised size: {_PRESETS}.",
    ),
    Rule(
        "size-risky",
        WARNING,
        f"{{width}}x{{height}} is at or beyond {_SIDE_MAX} pixels a side; the service may time out.",
        f"Stay below {_SIDE_MAX}x{_SIDE_MAX}, best at an advised size: {_PRESETS}.",
    ),
    Rule(
        "size-extreme-ratio",
        WARNING,
        f"{{width}}x{{height}} is beyond {_RATIO}:1; sibling models refuse such shapes, so this may fail.",
        f"Stay within 1:{_RATIO} to {_RATIO}:1, best at an advised size: {_PRESETS}.",
    ),
    Rule(
        "size-unknown",
        ERROR,
        "The size is neither WIDTHxHEIGHT nor an advised ratio.",
        f'Write it as "1328x1328" or as one of {_PRESETS}.',
    ),
    Rule(
        "size-contradiction",
        ERROR,
        "The size means {width}x{height}, but the {side} beside it is {n}.",
        "Keep one of the two.",
    ),
    Rule(
        "one-side-only",
        WARNING,
        f"Only one of width and height is given; the other will be {_SIDE_DEFAULT} pixels.",
        "Give both, or use `size`.",
    ),
)


def _for_columns(rules: tuple[Rule, ...], names: tuple[str, ...]) -> tuple[Rule, ...]:
    return tuple(
        Rule(*(text.replace("{column}", name) for text in (rule.code, rule.severity, rule.message, rule.fix)))
        for rule in rules
        for name in names
    )


_SIDES = (columns.WIDTH, columns.HEIGHT)

RULES: Final[dict[str, Rule]] = {
    rule.code: rule
    for rule in (
        *_PROMPTS,
        *_for_columns(_NUMBERS, (columns.SEED, *_SIDES, columns.REPLICATE)),
        *_SEEDS,
        *_for_columns(_SIZES[:1], _SIDES),
        *_SIZES[1:],
        *_SWEEPS,
        *_COLUMNS,
        *IMAGE_RULES,
    )
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one cell, whatever the number of rows that share the cell."""

    code: str
    severity: str
    message: str
    fix: str

    @classmethod
    def of(cls, code: str, **details: object) -> Finding:
        """State that a rule is broken."""
        rule = RULES[code]
        message, fix = (printable(text.format(**details)) for text in (rule.message, rule.fix))
        return cls(code, rule.severity, message, fix)

    @property
    def is_error(self) -> bool:
        """Whether the row can't be submitted."""
        return self.severity == ERROR


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    column: str
    positions: NDArray[np.intp]
    shown: NDArray[np.object_]
    findings: NDArray[np.object_]


@dataclass(slots=True, eq=False)
class Findings:
    """All findings of one table, in the order in which the rules were looked at."""

    of_table: pd.DataFrame
    _parts: list[_Part] = field(default_factory=list)

    def add(self, code: str, column: str, is_broken: NDArray[np.bool_], **details: Any) -> None:
        """Add one rule for all rows that break it."""
        positions = np.flatnonzero(is_broken)
        if not len(positions):
            return
        found = _findings(code, details, positions)
        self._parts.append(_Part(column, positions, self._shown(column, positions), found))

    def add_cells(self, column: str, cells: Distinct, found: Mapping[int, Sequence[Finding]]) -> None:
        """Add the findings about distinct cells, once for each row that holds them."""
        shown = _objects([None] * len(cells.cells))
        for number in found:
            shown[number] = show(cells.cells[number])
        for depth in range(max(map(len, found.values()), default=0)):
            layer = _objects([None] * len(cells.cells))
            is_found = np.zeros(len(cells.cells), dtype=bool)
            deep_enough = ((number, of_cell) for number, of_cell in found.items() if depth < len(of_cell))
            for number, of_cell in deep_enough:
                layer[number], is_found[number] = of_cell[depth], True
            positions = cells.positions(is_found)
            numbers = cells.codes[positions]
            self._parts.append(_Part(column, positions, shown[numbers], layer[numbers]))

    def is_in_error(self) -> NDArray[np.bool_]:
        """Say which rows can't be submitted."""
        mask = np.zeros(len(self.of_table), dtype=bool)
        for part in self._parts:
            mask[part.positions[[finding.is_error for finding in part.findings]]] = True
        return mask

    def frame(self) -> pd.DataFrame:
        """Lay all findings out, row by row."""
        unsorted = np.concatenate([np.empty(0, np.intp), *(part.positions for part in self._parts)])
        order = np.argsort(unsorted, kind="stable")
        positions = unsorted[order]
        findings, shown, in_column = (_objects(cells)[order] for cells in self._laid_end_to_end())
        problems = {
            columns.POSITION: positions,
            columns.ROW: [printable(str(label)) for label in self.of_table.index.take(positions)],
            columns.COLUMN: in_column,
            columns.SEVERITY: [finding.severity for finding in findings],
            columns.CODE: [finding.code for finding in findings],
            columns.VALUE: shown,
            columns.MESSAGE: [finding.message for finding in findings],
            columns.FIX: [finding.fix for finding in findings],
        }
        dtypes = columns.dtypes(columns.PROBLEMS)
        return pd.DataFrame({name: pd.array(cells, dtype=dtypes[name]) for name, cells in problems.items()})

    def _laid_end_to_end(self) -> tuple[list[Finding], list[str | None], list[str]]:
        findings = [finding for part in self._parts for finding in part.findings]
        shown = [cell for part in self._parts for cell in part.shown]
        return findings, shown, [part.column for part in self._parts for _ in part.positions]

    def _shown(self, column: str, positions: NDArray[np.intp]) -> NDArray[np.object_]:
        cells = distinct(self.of_table[column].iloc[positions])
        return cells.take(_objects([show(cell) for cell in cells.cells]), missing=None)


def _findings(code: str, details: Mapping[str, Any], positions: NDArray[np.intp]) -> NDArray[np.object_]:
    per_row = (
        detail[positions].tolist()
        if isinstance(detail, np.ndarray)
        else itertools.repeat(detail, len(positions))
        for detail in details.values()
    )
    # Rows that break a rule in the same way share one finding.
    made: dict[tuple[Any, ...], Finding] = {}
    found = _objects([None] * len(positions))
    for place, values in enumerate(zip(*per_row, strict=True) if details else [()] * len(positions)):
        if values not in made:
            made[values] = Finding.of(code, **dict(zip(details, values, strict=True)))
        found[place] = made[values]
    return found


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


_COLOURS: Final = {ERROR: PALETTE[columns.FAILED].colour, WARNING: PALETTE[columns.AMBIGUOUS].colour}
_NEEDED: Final = frozenset({columns.POSITION, columns.SEVERITY})


class Problems(HeadedFrame):
    """What `validate` returns: columns of `dreamo_batch.columns.PROBLEMS`, one row per problem.

    A DataFrame that shows what it comes to above its rows; what is made from it is a plain one.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["on a beach", " "], seed=1)
    >>> problems = dreamo.validate(jobs)
    >>> problems[["row", "column", "severity"]].values.tolist()
    [['1', 'prompt', 'error']]
    """

    _metadata = ["_n_rows"]  # noqa: RUF012 - pandas' own way of keeping something beside the columns
    _colours = _COLOURS

    @classmethod
    def of(cls, problems: pd.DataFrame, n_rows: int) -> Problems:
        """Give problems their word, from how many rows the table has that they are of."""
        shown = cls(problems)
        shown._n_rows = n_rows
        return shown

    def _headline(self) -> Headline | None:
        """Say how many rows can be submitted."""
        if not set(self.columns) >= _NEEDED:
            return None
        positions = {
            kind: set(self.loc[self[columns.SEVERITY] == kind, columns.POSITION]) for kind in _COLOURS
        }
        n_errors, n_warned = len(positions[ERROR]), len(positions[WARNING] - positions[ERROR])
        counts = ((self[columns.SEVERITY] == kind).sum() for kind in _COLOURS)
        told = tuple(
            Count(_plural(kind, n), int(n), _COLOURS[kind])
            for kind, n in zip(_COLOURS, counts, strict=True)
            if n
        )
        return Headline(_headline(self._n_rows, n_errors, n_warned), told)


def _headline(n_rows: int, n_errors: int, n_warned: int) -> str:
    rows = f"{n_rows:,} {_plural('row', n_rows)}"
    share = "" if n_warned == n_rows - n_errors else f" {n_warned:,} of them"
    warned = f",{share} with a warning" if n_warned else ""
    if not n_errors:
        return f"{'' if n_warned else 'No problems: '}{rows} can be submitted{warned}."
    return f"{n_errors:,} of {rows} can't be submitted; {n_rows - n_errors:,} can{warned}."


def _plural(word: str, n: Any) -> str:
    return word if n == 1 else f"{word}s"
