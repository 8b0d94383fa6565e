"""The rules that every row must keep, and the findings where it doesn't."""

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
from dreamo_batch.text import counted, harmless, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


ERROR: Final = "error"
WARNING: Final = "warning"
COLUMN_NOT_READ: Final = "column-not-read"
SWEEP_REPHRASED: Final = "seed-sweep-rephrased"

_INPUT_MB = contract.INPUT_BYTES_ADVISED.value / 1e6
_INPUT_SIDE = contract.INPUT_SIDE_MAX_PX.value
_FORMATS = " or ".join(contract.INPUT_FORMATS.value)
_PROMPT_MAX = contract.PROMPT_CHARACTERS_ADVISED.value
_TOO_LONG = f"over {contract.PROMPT_CHARACTERS_OF_SIBLINGS.value}"
_RATIO = contract.RATIO_OF_SIBLINGS.value
_SIDE_MIN = contract.SIDE_MIN_PX.value
_SIDE_MAX = contract.SIDE_MAX_PX.value
_SIDE_DEFAULT = contract.SIDE_DEFAULT_PX.value
_PRODUCT_MAX = contract.PRODUCT_MAX_PX.value
_PRESETS = ", ".join(contract.SIZES)
_SIZE_FIX = f"Use {_SIDE_MIN} to {_SIDE_MAX} pixels a side, or an advised size: {_PRESETS}."


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `message` and `fix` may contain `{details}`, filled in for each row.

    `repair` says what a corrected copy of the picture changes; empty where there is none.
    """

    code: str
    severity: str
    message: str
    fix: str
    repair: str = ""


# By code: the message, what to do, and the repair if a corrected copy of the picture can be sent.
_ERRORS: Final[dict[str, tuple[str, ...]]] = {
    "prompt-missing": ("The row has no prompt.", "Write a prompt or drop the row."),
    "prompt-blank": ("The prompt is blank.", "Write a prompt or drop the row."),
    "prompt-not-text": ("The prompt is a {type}; expected text.", "Convert it to text."),
    "prompt-not-unicode": (
        "The prompt contains half a character (a lone surrogate), which can't be sent.",
        "Read the text again with the right encoding.",
    ),
    **{
        code: (message, fix)
        for name in (columns.SEED, columns.WIDTH, columns.HEIGHT, columns.REPLICATE)
        for code, message, fix in (
            (
                f"{name}-not-integer",
                f"The {name} isn't a whole number.",
                "Write a whole number, as an integer or as text.",
            ),
            (
                f"{name}-inexact",
                f"The {name} is a float too large to be exact; its last digits are lost.",
                "Load the column as integers (dtype Int64) or as text.",
            ),
        )
    },
    "seed-out-of-range": (
        "The seed is outside -1 to 2**63-1.",
        "Use 1 to 2**31-1; for a random seed, use -1 or leave the cell empty.",
    ),
    "replicate-out-of-range": (
        "The replicate is outside 0 to 2**63-1.",
        "Number the replicates from 0.",
    ),
    "use_rephraser-not-boolean": (
        "use_rephraser is neither true nor false.",
        "Write true or false (yes, no, 1 and 0 work too), or leave the cell empty.",
    ),
    **{
        f"{name}-out-of-range": (
            f"The {name} doesn't fit into 64 bits; expected {_SIDE_MIN} to {_SIDE_MAX} pixels.",
            f"Use {_SIDE_MIN} to {_SIDE_MAX} pixels.",
        )
        for name in (columns.WIDTH, columns.HEIGHT)
    },
    "side-too-small": (f"The {{side}} is {{n}} pixels; the service's minimum is {_SIDE_MIN}.", _SIZE_FIX),
    "product-too-large": (
        f"{{width}}x{{height}} is too large: above {_SIDE_MAX} a side, width*height must be below {_PRODUCT_MAX:,}.",
        _SIZE_FIX,
    ),
    "size-unknown": (
        "The size is neither WIDTHxHEIGHT nor an advised ratio.",
        f'Write it as "1328x1328" or as one of {_PRESETS}.',
    ),
    "size-contradiction": (
        "The size means {width}x{height}, but the {side} column says {n}.",
        "Keep one of the two.",
    ),
    "image-missing": (
        "The row has no reference picture.",
        "Add a path, URL, bytes or PIL image, or drop the row.",
    ),
    "image-two-sources": (
        "The row has {n} reference pictures ({columns}); the service takes exactly one.",
        "Keep one of them.",
    ),
    "image-not-a-source": (
        "The cell is a {type}; expected a path, URL, data: URI, bytes or PIL image.",
        "Convert it to one of these.",
    ),
    "image-bad-url": (
        "The URL can't be used: {reason}.",
        "Write it as https://host/path, or use the path of a local file.",
    ),
    "image-link-expired": (
        "The link to the picture expired on {when}; rows not submitted yet fail without being sent.",
        "Create a new link. The job stays the same, because only the signature differs.",
    ),
    "image-bad-data-uri": (
        "The data: URI can't be read: {reason}.",
        "Write it as data:image/png;base64,... or use a file.",
    ),
    "image-not-found": (
        "No file at {path}.{hint}",
        "Check the path; relative paths start at {base}.",
    ),
    "image-not-a-file": ("{path} is {kind}, not a file.", "Use the path of one picture."),
    "image-unreadable": ("The file can't be read: {reason}.", "Check the path and its permissions."),
    "image-empty": ("The picture is empty (0 bytes).", "Export or download it again."),
    "image-not-a-picture": (
        f"Not a readable picture{{guess}}; expected {_FORMATS}.",
        f"Save it as {_FORMATS}.",
    ),
    "image-not-convertible": (
        f"The picture is {{format}}; the service takes only {_FORMATS}.",
        f"Save it as {_FORMATS}.",
    ),
    "image-damaged": (
        "The picture can't be decoded: {reason}.",
        "It may be cut off; export or download it again.",
    ),
    "image-bomb": (
        "The picture is too large to decode safely: {size}.",
        f"Scale it down to {_INPUT_SIDE} pixels a side.",
    ),
    "image-far-too-many-bytes": (
        f"The file has {{n_mb:,.0f}} MB; the limit is {_INPUT_MB} MB, and files this large aren't corrected.",
        f"Save it with at most {_INPUT_MB} MB.",
    ),
    "image-mode": (
        "A PIL image of mode {mode} can't be saved as PNG.",
        'Convert it first, for example with image.convert("RGB").',
    ),
    "image-numbers": (
        "The picture contains {kind} from {low} to {high} instead of levels from black to white.",
        'Scale it yourself, for example Image.fromarray(((a - a.min()) * (255 / np.ptp(a))).astype("uint8")).',
    ),
    "image-levels": (
        "The picture's brightest level is {high}; it would look nearly black, like 12 bits stored in 16.",
        'Scale it yourself, for example Image.fromarray((a * (255 / a.max())).astype("uint8")).',
    ),
    "image-copy-uniform": (
        "The corrected copy has only one colour, although the picture has several.",
        "Save the picture as 8-bit RGB and check how it looks.",
    ),
    "image-format": (
        f"The picture is {{format}}; the service takes only {_FORMATS}.",
        f"Save it as {_FORMATS}",
        "converted to JPEG or PNG",
    ),
    "image-too-many-bytes": (
        f"The picture has {{n_mb:.2f}} MB; the limit is {_INPUT_MB} MB.",
        "Save it smaller, for example as JPEG",
        "saved as a smaller JPEG",
    ),
    "image-too-many-pixels": (
        f"The picture is {{width}}x{{height}} pixels; the limit is {_INPUT_SIDE} a side.",
        f"Scale it down to {_INPUT_SIDE} pixels a side",
        f"scaled down to {_INPUT_SIDE} pixels a side",
    ),
}

_WARNINGS: Final[dict[str, tuple[str, ...]]] = {
    COLUMN_NOT_READ: ("{what}", "Rename it to {near}, or to something else if it is yours."),
    "prompt-very-long": (
        f"The prompt has {{n}} characters; at most {_PROMPT_MAX} are advised, and similar models refuse {_TOO_LONG}.",
        f"Shorten it to {_PROMPT_MAX} characters, or set use_rephraser to false, as the service advises.",
    ),
    "prompt-long": (
        f"The prompt has {{n}} characters; at most {_PROMPT_MAX} are advised.",
        "Shorten it; the rest may have no effect.",
    ),
    "prompt-looks-equal": (
        "The prompt looks like that of row {other} and differs only in {difference}; it is a separate, billed job.",
        "Make the prompts equal to buy one picture, or keep both on purpose.",
    ),
    "seed-zero": (
        "The seed is 0; the service promises repeatable pictures only for positive seeds.",
        "Use seeds from 1.",
    ),
    "seed-beyond-32-bit": (
        "The seed is 2**31 or more; the service may not tell such seeds apart.",
        "Use seeds up to 2**31-1.",
    ),
    SWEEP_REPHRASED: (
        "use_rephraser is on in seed sweeps (rows: {n_rows}, sweeps: {n_sweeps}); each row's prompt may be reworded.",
        "Set use_rephraser to false where you compare seeds.",
    ),
    "size-risky": (
        f"{{width}}x{{height}} is at or above {_SIDE_MAX} pixels a side; the service may time out.",
        f"Stay below {_SIDE_MAX}x{_SIDE_MAX}, best at an advised size: {_PRESETS}.",
    ),
    "size-extreme-ratio": (
        f"{{width}}x{{height}} is beyond {_RATIO}:1; similar models refuse such sizes, so this may fail.",
        f"Stay within 1:{_RATIO} to {_RATIO}:1, best at an advised size: {_PRESETS}.",
    ),
    "one-side-only": (
        f"The row has only one of width and height; the other will be {_SIDE_DEFAULT} pixels.",
        "Set both, or use `size`.",
    ),
    "image-url-not-public": (
        "{host} isn't a public host; the service must be able to download the picture from there.",
        "Use a local file or a public URL.",
    ),
    "image-gone": (
        "{path} can't be read any more; its earlier attempts are still known.",
        "Put the file back if rows that use it are still to be submitted.",
    ),
    "image-kept": (
        "{path} can't be read; using the copy kept in the run directory.",
        "Nothing to do, unless you mean another picture.",
    ),
    "image-extreme-ratio": (
        "The picture is {width}x{height} pixels; aspect ratios beyond 16:9 and 9:16 may fail.",
        "Crop it.",
    ),
    "image-many-bytes": (
        f"The picture has {{n_mb:.2f}} MB; the limit of {_INPUT_MB} MB may mean megabytes or mebibytes.",
        "Save it smaller, for example as JPEG",
        "saved as a smaller JPEG",
    ),
    "image-rotated": (
        "The picture is stored rotated, with an EXIF note on how to turn it; the service may ignore the note.",
        "Save it upright",
        "turned upright",
    ),
    "image-animated": (
        "The picture has {n} frames; the service uses only one.",
        "Save the frame you want",
        "reduced to its first frame",
    ),
    "image-colours": (
        "The picture is stored as {mode}; the service may misread its colours.",
        "Save it as 8-bit RGB",
        "converted to 8-bit colours",
    ),
}

RULES: Final = {
    code: Rule(code, severity, *texts)
    for severity, rules in ((ERROR, _ERRORS), (WARNING, _WARNINGS))
    for code, texts in rules.items()
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one cell, shared by all rows with that cell."""

    code: str
    severity: str
    message: str
    fix: str

    @classmethod
    def of(cls, code: str, **details: object) -> Finding:
        """Return the finding for a broken rule."""
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
    """All findings of one table, in the order in which the rules were checked."""

    of_table: pd.DataFrame
    _parts: list[_Part] = field(default_factory=list)

    def add(self, code: str, column: str, is_broken: NDArray[np.bool_], **details: Any) -> None:
        """Add one rule for all rows that break it."""
        positions = np.flatnonzero(is_broken)
        if not len(positions):
            return
        per_row = (
            detail[positions].tolist() if isinstance(detail, np.ndarray) else [detail] * len(positions)
            for detail in details.values()
        )
        # Rows that break a rule in the same way share one finding.
        shared: dict[tuple[Any, ...], Finding] = {}
        found = _objects([None] * len(positions))
        for place, values in enumerate(zip(*per_row, strict=True) if details else [()] * len(positions)):
            if values not in shared:
                shared[values] = Finding.of(code, **dict(zip(details, values, strict=True)))
            found[place] = shared[values]
        cells = distinct(self.of_table[column].iloc[positions])
        shown = cells.take(_objects([show(cell) for cell in cells.cells]), missing=None)
        self._parts.append(_Part(column, positions, shown, found))

    def add_cells(self, column: str, cells: Distinct, found: Mapping[int, Sequence[Finding]]) -> None:
        """Add the findings about distinct cells, once for each row with such a cell."""
        shown = _objects([show(cell) if found.get(n) else None for n, cell in enumerate(cells.cells)])
        for depth in range(max(map(len, found.values()), default=0)):
            layer = _objects([None] * len(cells.cells))
            is_found = np.zeros(len(cells.cells), dtype=bool)
            for number, of_cell in found.items():
                if depth < len(of_cell):
                    layer[number], is_found[number] = of_cell[depth], True
            positions = cells.positions(is_found)
            numbers = cells.codes[positions]
            self._parts.append(_Part(column, positions, shown[numbers], layer[numbers]))

    def is_in_error(self) -> NDArray[np.bool_]:
        """Return which rows can't be submitted."""
        mask = np.zeros(len(self.of_table), dtype=bool)
        for part in self._parts:
            mask[part.positions[[finding.is_error for finding in part.findings]]] = True
        return mask

    def frame(self) -> pd.DataFrame:
        """Return all findings as a table, row by row."""
        unsorted = np.concatenate([np.empty(0, np.intp), *(part.positions for part in self._parts)])
        order = np.argsort(unsorted, kind="stable")
        positions = unsorted[order]
        chain = itertools.chain.from_iterable
        findings = _objects(list(chain(part.findings for part in self._parts)))[order]
        shown = _objects(list(chain(part.shown for part in self._parts)))[order]
        names = _objects([part.column for part in self._parts for _ in part.positions])[order]
        problems = {
            columns.POSITION: positions,
            columns.ROW: [printable(str(label)) for label in self.of_table.index.take(positions)],
            columns.COLUMN: names,
            columns.SEVERITY: [finding.severity for finding in findings],
            columns.CODE: [finding.code for finding in findings],
            columns.VALUE: shown,
            columns.MESSAGE: [finding.message for finding in findings],
            columns.FIX: [finding.fix for finding in findings],
        }
        dtypes = columns.dtypes(columns.PROBLEMS)
        return pd.DataFrame({name: pd.array(cells, dtype=dtypes[name]) for name, cells in problems.items()})


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


_KIND: Final = [columns.SEVERITY, columns.CODE, columns.COLUMN]
_DISTINCT: Final = [*_KIND, columns.MESSAGE, columns.FIX]
_LABELS_MAX: Final = 5
_VALUE_MAX: Final = 60


def distinct_lines(problems: pd.DataFrame) -> list[str]:
    """Return one line per distinct problem: a picture that 48 rows use is one problem."""
    return [
        f"{group[columns.SEVERITY].iloc[0]}: {_line(group)}"
        for _, group in problems.groupby(_DISTINCT, sort=False)
    ]


def kind_lines(problems: pd.DataFrame) -> list[str]:
    """Return one line per kind of problem, with the number of rows and the first one as an example."""
    return [_line(group) for _, group in problems.groupby(_KIND, sort=False)]


def _line(group: pd.DataFrame) -> str:
    first = group.iloc[0]
    text = f"{first[columns.MESSAGE]} {first[columns.FIX]}"
    if first[columns.CODE] == COLUMN_NOT_READ:
        return f"{first[columns.CODE]}: {text}"
    rows = group.drop_duplicates(columns.POSITION)
    value = first[columns.VALUE]
    value = "" if pd.isna(value) else f", {shortened(harmless(value), _VALUE_MAX)}"
    where = f"column {first[columns.COLUMN]}{value}"
    if len(rows) == 1:
        return f"{first[columns.CODE]} in row {first[columns.ROW]} ({where}): {text}"
    n_texts = len(group[[columns.VALUE, columns.MESSAGE]].drop_duplicates())
    which = f"{counted(len(rows), 'row')} ({_which(rows)}; {where})"
    if n_texts > 1:
        which = (
            f"{counted(len(rows), 'row')} ({_which(rows)}), for example row {first[columns.ROW]} ({where})"
        )
    return f"{first[columns.CODE]} in {which}: {text}"


def which_rows(labels: Sequence[str], positions: Sequence[int]) -> str:
    """Return the labels of rows in a few words, such as "3 to 50"."""
    n_more = len(labels) - _LABELS_MAX
    if n_more > 0 and positions[-1] - positions[0] == len(labels) - 1:
        return f"{labels[0]} to {labels[-1]}"
    return ", ".join(labels[:_LABELS_MAX]) + (f" and {n_more:,} more" if n_more > 0 else "")


def _which(rows: pd.DataFrame) -> str:
    return which_rows(rows[columns.ROW].tolist(), rows[columns.POSITION].tolist())


_COLOURS: Final = {ERROR: PALETTE[columns.FAILED].colour, WARNING: PALETTE[columns.AMBIGUOUS].colour}


class Problems(HeadedFrame):
    """What `validate` returns: columns of `dreamo_batch.columns.PROBLEMS`, one row per problem.

    A DataFrame that shows above its rows how many can be submitted; slices and copies are plain DataFrames.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["on a beach", " "], seed=1)
    >>> problems = dreamo.validate(jobs)
    >>> problems[["row", "column", "severity"]].values.tolist()
    [['1', 'prompt', 'error']]
    """

    _metadata = ["_n_rows"]  # noqa: RUF012 - how pandas keeps an attribute beside the columns
    _colours = _COLOURS

    @classmethod
    def of(cls, problems: pd.DataFrame, n_rows: int) -> Problems:
        """Return problems that know how many rows the table has."""
        shown = cls(problems)
        shown._n_rows = n_rows
        return shown

    def _headline(self) -> Headline | None:
        if not {columns.POSITION, columns.SEVERITY} <= set(self.columns):
            return None
        of_kind = {kind: self.loc[self[columns.SEVERITY] == kind, columns.POSITION] for kind in _COLOURS}
        n_errors, n_warned = len(set(of_kind[ERROR])), len(set(of_kind[WARNING]) - set(of_kind[ERROR]))
        distinct_ones = self.drop_duplicates([name for name in _DISTINCT if name in self])
        n_of = distinct_ones[columns.SEVERITY].value_counts()
        counts = tuple(
            Count(kind if n == 1 else f"{kind}s", n, colour)
            for kind, colour in _COLOURS.items()
            if (n := int(n_of.get(kind, 0)))
        )
        return Headline(_headline(self._n_rows, n_errors, n_warned), counts)

    def _listed(self) -> pd.DataFrame:
        """Return one row per distinct problem, with the first of its rows."""
        problems = pd.DataFrame(self)
        if not set(problems) >= set(columns.PROBLEMS):
            return problems
        n_rows = problems.groupby(_DISTINCT, sort=False)[columns.POSITION].nunique()
        listed = problems.drop_duplicates(_DISTINCT, ignore_index=True).drop(columns=columns.POSITION)
        listed.insert(0, columns.N_ROWS, n_rows.to_numpy())
        return listed

    def _text(self) -> str:
        """Return one line per distinct problem, in full."""
        problems = pd.DataFrame(self)
        if not set(problems) >= set(columns.PROBLEMS):
            return super()._text()
        n_max = pd.get_option("display.max_rows") or len(problems)
        numbers = problems.groupby(_DISTINCT, sort=False).ngroup()
        lines = distinct_lines(problems[numbers < n_max])
        n_more = int(numbers.max()) + 1 - len(lines)
        return "\n".join([*lines, *([f"and {counted(n_more, 'more problem')}"] if n_more > 0 else [])])


def _headline(n_rows: int, n_errors: int, n_warned: int) -> str:
    rows = counted(n_rows, "row")
    share = "" if n_warned == n_rows - n_errors else f" {n_warned:,} of them"
    warned = f",{share} with a warning" if n_warned else ""
    if not n_errors:
        return f"{'' if n_warned else 'No problems: '}{rows} can be submitted{warned}."
    return f"{n_errors:,} of {rows} can't be submitted; {n_rows - n_errors:,} can{warned}."
