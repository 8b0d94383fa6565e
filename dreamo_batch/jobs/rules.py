"""The rules that every row must follow, and the findings where it doesn't."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from string import Template
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns, files
from dreamo_batch.appearance import PALETTE, Count, HeadedFrame, Headline
from dreamo_batch.jobs.cells import Distinct, distinct, printable, show, text_of
from dreamo_batch.service import contract
from dreamo_batch.text import counted, harmless, listed, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


ERROR: Final = "error"
WARNING: Final = "warning"
COLUMN_NAME: Final = "column-not-read"
LINK_EXPIRED: Final = "image-link-expired"
SWEEP_REPHRASED: Final = "seed-sweep-rephrased"
_FINDING: Final = "finding"
OF_TABLE: Final = (COLUMN_NAME, SWEEP_REPHRASED)  # reported at one row, but about the whole table

# The values of `$NAME` in rules.toml.
_FACTS: Final = {
    "FORMATS": " or ".join(contract.INPUT_FORMATS.value),
    "MODEL": contract.MODEL,
    "MODELS": " or ".join(contract.MODELS),
    "INPUT_MB": contract.INPUT_BYTES_ADVISED.value / 1e6,
    "INPUT_SIDE": contract.INPUT_SIDE_MAX_PX.value,
    "PRESETS": ", ".join(contract.SIZES),
    "RATIO": contract.RATIO_OF_SIBLINGS.value,
    "SIDE_MAX": contract.SIDE_MAX_PX.value,
    "SIDE_MIN": contract.SIDE_MIN_PX.value,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of rules.toml; its `{details}` are filled in for each row."""

    code: str
    severity: str
    message: str
    fix: str
    repair: str = ""


def _read_rules() -> Iterator[Rule]:
    for severity, rules in files.toml_beside(__file__, "rules.toml").items():
        for code, texts in rules.items():
            for column in contract.SCALES if texts.pop("of_scales", False) else texts.pop("columns", [""]):
                facts = _FACTS | {"COLUMN": column}
                filled = {name: Template(text).substitute(facts) for name, text in texts.items()}
                yield Rule(Template(code).substitute(facts), severity, **filled)


RULES: Final = {rule.code: rule for rule in _read_rules()}


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with a cell, shared by all rows that have this cell."""

    code: str
    severity: str
    message: str
    fix: str
    model: str | None

    @classmethod
    def of(cls, code: str, *, model: str | None = None, **details: object) -> Finding:
        """Make the finding for a broken rule, which may be specific to one model."""
        rule = RULES[code]
        message, fix = (printable(text.format(model=model, **details)) for text in (rule.message, rule.fix))
        return cls(code, rule.severity, message, fix, model)

    @property
    def is_error(self) -> bool:
        """Whether the row can't be submitted."""
        return self.severity == ERROR


@dataclass(slots=True, eq=False)
class Findings:
    """All findings of one table, in the order in which the rules were checked."""

    of_table: pd.DataFrame
    lines: pd.Series
    _parts: list[pd.DataFrame] = field(default_factory=list)

    def add(self, code: str, column: str, is_broken: NDArray[np.bool_], **details: Any) -> None:
        """Add a finding to every row that breaks a rule."""
        positions = np.flatnonzero(is_broken)
        if not len(positions):
            return
        per_row = (
            detail[positions].tolist() if isinstance(detail, np.ndarray) else [detail] * len(positions)
            for detail in details.values()
        )
        # Rows that break a rule in the same way share one finding.
        finding = functools.cache(lambda *values: Finding.of(code, **dict(zip(details, values, strict=True))))
        found = list(map(finding, *per_row)) if details else [finding()] * len(positions)
        cells = distinct(self.of_table[column].iloc[positions])
        shown = cells.take([show(cell) for cell in cells.cells], missing=None)
        self._parts.append(_part(column, positions, shown, found))

    def add_cells(self, column: str, cells: Distinct, found: Sequence[Sequence[Finding]]) -> None:
        """Add the findings about each distinct cell to every row with that cell."""
        texts = [show(cell) if of else None for cell, of in zip(cells.cells, found, strict=True)]
        shown = cells.take(texts, missing=None)
        for depth in range(max(map(len, found), default=0)):
            layer = cells.take(
                [of_cell[depth] if depth < len(of_cell) else None for of_cell in found], missing=None
            )
            positions = np.flatnonzero(layer != None)  # noqa: E711 - cell by cell
            self._parts.append(_part(column, positions, shown[positions], layer[positions]))

    def is_in_error(self) -> NDArray[np.bool_]:
        """Return which rows can't be submitted."""
        mask = np.zeros(len(self.of_table), dtype=bool)
        for part in self._parts:
            mask[part.index[[finding.is_error for finding in part[_FINDING]]]] = True
        return mask

    def name_of(self, position: int) -> str:
        """Name a row as the user knows it: by its line in the file, or by its label."""
        line = self.lines.iloc[position]
        return f"row {text_of(self.of_table.index[position])}" if pd.isna(line) else f"line {line}"

    def frame(self) -> pd.DataFrame:
        """Return all findings as a table, row by row."""
        found = pd.concat([_part("", np.empty(0, np.intp), [], []), *self._parts]).sort_index(kind="stable")
        problems = {
            columns.POSITION: found.index,
            columns.ROW: [text_of(label) for label in self.of_table.index.take(found.index)],
            columns.LINE: self.lines.array.take(found.index),
            **{name: found[name] for name in (columns.COLUMN, columns.VALUE)},
            **{f.name: [getattr(each, f.name) for each in found[_FINDING]] for f in fields(Finding)},
        }
        dtypes = columns.dtypes(columns.PROBLEMS)
        return pd.DataFrame({name: pd.array(problems[name], dtype=dtype) for name, dtype in dtypes.items()})


def _part(column: str, positions: NDArray[np.intp], shown: Any, findings: Any) -> pd.DataFrame:
    """Return the findings about a column by position, with the cells as text."""
    found = {columns.COLUMN: column, columns.VALUE: shown, _FINDING: findings}
    return pd.DataFrame(found, positions, dtype=object)


_KIND: Final = [columns.SEVERITY, columns.CODE, columns.COLUMN]
_DISTINCT: Final = [*_KIND, columns.MESSAGE, columns.FIX]
_LABELS_MAX: Final = 5
_VALUE_MAX: Final = 60


def distinct_lines(problems: pd.DataFrame) -> list[str]:
    """Return one line per distinct problem: a picture used by 48 rows is one problem."""
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
    if first[columns.CODE] in OF_TABLE:
        return f"{first[columns.CODE]}: {text}"
    rows = group.drop_duplicates(columns.POSITION)
    unit = columns.ROW if pd.isna(first[columns.LINE]) else columns.LINE
    value = first[columns.VALUE]
    value = "" if pd.isna(value) else f", {shortened(harmless(value), _VALUE_MAX)}"
    where = f"column {first[columns.COLUMN]}{value}"
    if len(rows) == 1:
        return f"{first[columns.CODE]} in {unit} {first[unit]} ({where}): {text}"
    which = which_rows(rows[unit].astype(columns.STR).tolist(), rows[columns.POSITION].tolist())
    which = f"lines {which}" if unit == columns.LINE else which
    is_alike = len(group[[columns.VALUE, columns.MESSAGE]].drop_duplicates()) == 1
    which = f"({which}; {where})" if is_alike else f"({which}), for example {unit} {first[unit]} ({where})"
    return f"{first[columns.CODE]} in {counted(len(rows), 'row')} {which}: {text}"


def which_rows(labels: Sequence[str], positions: Sequence[int]) -> str:
    """Return the labels of rows in a few words, such as "3 to 50"."""
    if len(labels) > _LABELS_MAX and positions[-1] - positions[0] == len(labels) - 1:
        return f"{labels[0]} to {labels[-1]}"
    return listed(labels, _LABELS_MAX)


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

    def _headline(self) -> Headline | None:
        if not set(columns.PROBLEMS) <= set(self.columns):
            return None
        of_kind = {kind: self.loc[self[columns.SEVERITY] == kind, columns.POSITION] for kind in _COLOURS}
        n_errors, n_warned = len(set(of_kind[ERROR])), len(set(of_kind[WARNING]) - set(of_kind[ERROR]))
        n_of = self.drop_duplicates(_DISTINCT)[columns.SEVERITY].value_counts()
        counts = tuple(
            Count(kind if n == 1 else f"{kind}s", n, colour)
            for kind, colour in _COLOURS.items()
            if (n := int(n_of.get(kind, 0)))
        )
        return Headline(_headline(self._n_rows, n_errors, n_warned), counts)

    def _listed(self) -> pd.DataFrame:
        """Return one row per distinct problem, with the first of its rows."""
        problems = pd.DataFrame(self)
        n_rows = problems.groupby(_DISTINCT, sort=False)[columns.POSITION].nunique()
        listed = problems.drop_duplicates(_DISTINCT, ignore_index=True).drop(columns=columns.POSITION)
        listed.insert(0, columns.N_ROWS, n_rows.to_numpy())
        needless = [name for name in (columns.LINE, columns.MODEL) if listed[name].isna().all()]
        return listed.drop(columns=needless)

    def _text(self) -> str:
        """Return one line per distinct problem, in full."""
        problems = pd.DataFrame(self)
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
    if n_errors == n_rows:
        return f"{rows} can't be submitted." if n_rows == 1 else f"None of the {rows} can be submitted."
    return f"{n_errors:,} of {rows} can't be submitted; {n_rows - n_errors:,} can{warned}."
