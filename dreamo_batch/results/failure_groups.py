"""What failed, what each kind of failure means, and what to do about it."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.frames import HeadedFrame, Headline
from dreamo_batch.results.costs import sums
from dreamo_batch.results.load import DIRECTORY, LABEL, grouped, read_history
from dreamo_batch.service.contract import ERROR_CODES
from dreamo_batch.text import counted, harmless, shortened

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.results.load import Source

# Class of a picture that was generated and could not be saved; the row itself is completed.
NOT_SAVED: Final = "not_saved"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a failure means, and what to do; see failure_groups.toml."""

    meaning: str
    advice: str
    is_ambiguous: bool = False
    fails_again: bool = False


CLASSES: Final = {
    name: Meaning(**known)
    for name, known in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}
_UNKNOWN: Final = Meaning("The row failed for a reason that has no description.", "Read its message.")

_KEYS: Final = [columns.RUN_DIR, columns.ERROR_CLASS, columns.ERROR_CODE, columns.PATTERN]
_N_EXAMPLES: Final = 3
_PATTERN_CHARACTERS: Final = 120
# Attempts that ended badly, or have an error while they are open.
_BAD: Final = [str(stage) for stage in (Stage.FAILED, Stage.LOST, Stage.AMBIGUOUS, Stage.ACCEPTED)]
_RETRIED: Final = (columns.FAILED, columns.AMBIGUOUS)
_PARTS: Final = (
    (re.compile(r"https?://\S+"), "<link>"),
    (re.compile(r"'[^']*'|\"[^\"]*\""), "<text>"),
    (re.compile(r"(?<![\w/])/\S+"), "<path>"),
    (re.compile(r"\b(?=\w*\d)(?=\w*[a-z])\w{12,}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
)


@dataclass(frozen=True, slots=True)
class Remedy:
    """How to try rows again: a retry of a class, or another run if there is none; all of the class, or some rows."""

    run_dir: str | None
    classes: str | None = None
    rows: tuple[str, ...] = ()  # labels; job ids where labels name other rows, too

    def as_python(self) -> str:
        """Return the call as Python text."""
        place = columns.RUN_DIR if self.run_dir is None else json.dumps(self.run_dir, ensure_ascii=False)
        if self.classes is None:
            return f"dreamo.run(jobs, {place})"
        rows = f"rows={json.dumps(self.rows, ensure_ascii=False)}, " if self.rows else ""
        return f"dreamo.retry({place}, {rows}classes={json.dumps(self.classes)})"


class FailureGroups(HeadedFrame):
    """Groups of failures, each shown in full; which say in words if there are none."""

    def _headline(self) -> Headline | None:
        if not {*columns.FAILURES} <= {*self.columns}:
            return None
        return Headline(f"{counted(len(self), 'kind')} of failure." if len(self) else "No failures.")

    def _text(self) -> str:
        """Return what a cut table would hide: messages, advice and calls."""
        kinds = []
        for kind in self.astype(object).where(self.notna(), None).to_dict("records"):
            name = " ".join(filter(None, (kind[columns.ERROR_CLASS], kind[columns.ERROR_CODE])))
            counts = f"{counted(kind[columns.N_ROWS], 'row')}, {counted(kind[columns.ATTEMPTS], 'attempt')}"
            said = (kind[columns.EXAMPLE], kind[columns.MEANING], kind[columns.ADVICE], kind[columns.CALL])
            kinds.append("\n  ".join([f"{name}: {counts}", *(harmless(one) for one in said if one)]))
        return "\n".join(kinds)


def failures(source: Source) -> pd.DataFrame:
    """Group what failed by class, code and message, with its meaning, advice and the call that retries it.

    Parameters
    ----------
    source : path, iterable of paths, or pandas.DataFrame
        One or more run directories, or results. A directory also holds attempts that failed before a later one
        succeeded.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.FAILURES` on a RangeIndex, most frequent first; empty if nothing failed.
        The calls in column ``call`` are Python text with the package as ``dreamo`` and your table as ``jobs``;
        from results alone the directory is the name ``run_dir``.

    Raises
    ------
    UsageError
        If `source` is neither.
    DirectoryError
        If a directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 4), size="512x512")
    >>> gateway = dreamo.LocalGateway(faults={"script": {"create": ["fail_099"]}})
    >>> with gateway:
    ...     done = dreamo.run(jobs, tempfile.mkdtemp(), gateway=gateway, progress=False)
    >>> dreamo.failures(done)[["rows", "meaning", "call"]].to_dict("records")
    [{'rows': 1, 'meaning': 'Task creation error', 'call': 'dreamo.retry(run_dir, classes="creation_error")'}]
    """
    return FailureGroups(summarise_failures(source))


def meaning_of(error_class: str | None, error_code: str | None) -> Meaning:
    """Explain a failure by its code where that is documented, else by its class.

    Moderation has no code: it comes under the codes of other errors, and means something else.
    """
    known = ERROR_CODES.get(error_code or "")
    if known is not None and known.error_class == error_class:
        return Meaning(known.meaning, known.advice)
    return CLASSES.get(error_class or "", _UNKNOWN)


def may_pass_again(error_class: str | None) -> bool:
    """Return whether the same row, submitted again, may end differently."""
    return not CLASSES.get(error_class or "", _UNKNOWN).fails_again


def known_classes() -> set[str]:
    """Return every class of failure that this package knows."""
    return {*CLASSES, *(code.error_class for code in ERROR_CODES.values() if code.error_class)}


def summarise_failures(
    source: Source, *, spelled: Callable[[Remedy], str | None] = Remedy.as_python
) -> pd.DataFrame:
    """Group what failed, the most frequent first; `spelled` writes the calls that try it again."""
    history = read_history(source)
    rows, attempts = history.rows, history.attempts
    is_completed = attempts[columns.STAGE] == str(Stage.COMPLETED)
    is_bad = attempts[columns.STAGE].isin(_BAD) & attempts[columns.ERROR_CLASS].notna()
    attempts = _keyed(attempts[is_bad | (is_completed & attempts[columns.OUTPUT_ERROR].notna())])
    rows = rows.assign(**{columns.RUN_DIR: rows.get(DIRECTORY)})
    rows = _keyed(rows[rows[columns.ERROR_CLASS].notna() | rows[columns.OUTPUT_ERROR].notna()])
    found = grouped(rows[_KEYS], attempts[_KEYS], sort=False)
    table, of_rows, of_attempts = found.keys, found.of_rows, found.of_attempts
    n = len(table)
    billed = attempts[columns.MAY_HAVE_BEEN_BILLED].astype(columns.BOOL).fillna(value=False).to_numpy(bool)
    table[columns.N_ROWS] = np.bincount(of_rows, minlength=n)
    table[columns.ATTEMPTS] = np.bincount(of_attempts, minlength=n)
    table[columns.MAY_HAVE_BEEN_BILLED] = np.bincount(of_attempts[billed], minlength=n) > 0
    table[columns.SPENT] = sums(attempts[columns.COST], of_attempts, n)
    codes = table[columns.ERROR_CODE].astype(object).where(table[columns.ERROR_CODE].notna(), None)
    known = [meaning_of(*key) for key in zip(table[columns.ERROR_CLASS], codes, strict=True)]
    table[columns.MEANING] = [one.meaning for one in known]
    table[columns.ADVICE] = [one.advice for one in known]
    parts = dict(iter(rows.groupby(of_rows)))
    groups = [parts.get(number, rows.iloc[:0]) for number in range(n)]
    table[columns.EXAMPLE_ROWS] = [", ".join(part[LABEL].head(_N_EXAMPLES)) or None for part in groups]
    table[columns.EXAMPLE] = [next(iter(part[columns.ERROR_MESSAGE]), None) for part in groups]
    remedies = [_remedy(part, rows) for part in groups]
    table[columns.CALL] = [None if remedy is None else spelled(remedy) for remedy in remedies]
    order = [columns.N_ROWS, columns.ATTEMPTS]
    table = table.sort_values(order, ascending=False, kind="stable", ignore_index=True)
    return table[list(columns.FAILURES)].astype(columns.dtypes(columns.FAILURES))


def _keyed(lines: pd.DataFrame) -> pd.DataFrame:
    """Return rows or attempts with the columns they are grouped by; a picture not saved has its own class."""
    is_unsaved = lines[columns.ERROR_CLASS].isna()
    messages = lines[columns.ERROR_MESSAGE].mask(is_unsaved, lines[columns.OUTPUT_ERROR])
    patterns = {text: pattern_of(text) for text in messages.dropna().unique()}
    return lines.assign(
        **{
            columns.RUN_DIR: lines.get(columns.RUN_DIR),
            columns.ERROR_CLASS: lines[columns.ERROR_CLASS].mask(is_unsaved, NOT_SAVED),
            columns.ERROR_MESSAGE: messages,
            columns.PATTERN: messages.map(patterns),
        }
    ).astype(dict.fromkeys(_KEYS, columns.STR))


def pattern_of(message: str) -> str:
    """Leave out of a message what differs from one time to the next."""
    for part, word in _PARTS:
        message = part.sub(word, message)
    return shortened(" ".join(message.split()), _PATTERN_CHARACTERS)


def _remedy(part: pd.DataFrame, rows: pd.DataFrame) -> Remedy | None:
    """Return how to try just these rows again; what was paid for is only fetched again."""
    if not len(part):
        return None
    first = part.iloc[0]
    status, error_class, run_dir = first[columns.STATUS], first[columns.ERROR_CLASS], first[columns.RUN_DIR]
    if status == columns.INVALID or (status == columns.FAILED and not may_pass_again(error_class)):
        return None
    place = None if pd.isna(run_dir) else run_dir
    if status not in _RETRIED:
        return Remedy(place)
    is_held = status == columns.AMBIGUOUS
    name, word = (columns.STATUS, status) if is_held else (columns.ERROR_CLASS, error_class)
    here = rows if place is None else rows[rows[columns.RUN_DIR] == place]
    of_class = here[(here[name] == word) & here[columns.STATUS].isin(_RETRIED)]
    if len(part) == len(of_class):
        return Remedy(place, word)
    is_labelled = of_class[LABEL].isin(part[LABEL]).sum() == len(part)
    return Remedy(place, word, tuple(part[LABEL if is_labelled else columns.JOB_ID].drop_duplicates()))
