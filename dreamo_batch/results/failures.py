"""What each kind of failure means, and what to do about it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine import requests
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.results import costs
from dreamo_batch.results.history import DIRECTORY, LABEL
from dreamo_batch.service import failures
from dreamo_batch.service.contract import ERROR_CODES

if TYPE_CHECKING:
    from dreamo_batch.results.history import History


# Class of a picture that was made and could not be saved; the row itself is completed.
NOT_SAVED: Final = "not_saved"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a failure means, and what to do."""

    meaning: str
    advice: str


_LOOK_FIRST: Final = "Look at the service's own list or bill, then settle it with resolve, or submit again."
_MAY_HAVE_ARRIVED: Final = "It may have been taken and billed: "

_CLASSES: Final = {
    failures.REJECTED: Meaning("The service refused the request; nothing was submitted.", "Fix the row."),
    failures.MODERATION: Meaning(
        "The prompt or the picture was refused for its content.", "Change the row; the same one fails again."
    ),
    failures.FORBIDDEN: Meaning(
        "The service, or a firewall before it, refused this row with 403 and took others; nothing was submitted.",
        "Change the row's prompt or picture, then retry.",
    ),
    failures.NO_CREDIT: Meaning("The account has no credit.", "Add credit, then retry."),
    failures.OTHER_TASK: Meaning(
        _MAY_HAVE_ARRIVED + "the create was answered with the task of another attempt.", _LOOK_FIRST
    ),
    failures.OUTPUT_REJECTED: Meaning(
        "The finished picture was refused for its content.", "Try another seed: another picture may pass."
    ),
    failures.SERVICE_ERROR: Meaning(
        "The service named an error that is not documented.", "Read its message; it may be billed."
    ),
    failures.COMPLETED_WITH_ERROR: Meaning(
        "The task ended both completed and with an error; it may be billed.", "Retry on request."
    ),
    failures.NO_ANSWER: Meaning(_MAY_HAVE_ARRIVED + "the create was sent, and no answer came.", _LOOK_FIRST),
    failures.SERVER_ERROR: Meaning(
        _MAY_HAVE_ARRIVED + "the create was answered by an error of the server.", _LOOK_FIRST
    ),
    failures.UNREADABLE: Meaning(_MAY_HAVE_ARRIVED + "the answer to the create can't be read.", _LOOK_FIRST),
    failures.REDIRECTED: Meaning(
        _MAY_HAVE_ARRIVED + "the create was answered by a redirect, which is never followed.",
        "Check the base URL. " + _LOOK_FIRST,
    ),
    requests.INTERRUPTED: Meaning(
        _MAY_HAVE_ARRIVED + "the program ended before the answer came.", _LOOK_FIRST
    ),
    requests.TASK_LOST: Meaning(
        "The service took the attempt and does not know it any more; it may be billed.", "Retry on request."
    ),
    requests.TASK_TIMEOUT: Meaning(
        "The task had not ended when the call stopped waiting.",
        "Run again: it is asked for, not submitted, again.",
    ),
    failures.NOT_BUILT: Meaning(
        "The request could not be built on this machine; nothing was sent.",
        "Read its message, then retry.",
    ),
    requests.IMAGE_CHANGED: Meaning(
        "The reference picture is not the one that was checked; nothing was sent.",
        "Put it back, or run again.",
    ),
    columns.INVALID: Meaning("The row can't be submitted; nothing was sent.", "Fix the row, then run again."),
    NOT_SAVED: Meaning(
        "The picture was made and paid, and could not be saved.",
        "Run again: it is fetched, not submitted, again.",
    ),
}
# What the same row gets again, however often it is submitted.
_FAILS_AGAIN: Final = frozenset(
    {failures.REJECTED, failures.MODERATION, failures.FORBIDDEN, failures.OUTPUT_REJECTED}
)
_UNKNOWN: Final = Meaning("The row could not be worked off.", "Read its message.")


def meaning_of(error_class: str | None, error_code: str | None) -> Meaning:
    """Explain a failure by its code where that is documented, else by its class.

    Moderation has no code of its own: it comes under the codes of other errors, and means something else.
    """
    known = ERROR_CODES.get(error_code or "")
    if known is not None and known.error_class == error_class:
        return Meaning(known.meaning, known.advice)
    return _CLASSES.get(error_class or "", _UNKNOWN)


def may_pass_again(error_class: str | None) -> bool:
    """Whether the same row, submitted again, may end otherwise."""
    return error_class not in _FAILS_AGAIN


def classes() -> frozenset[str]:
    """Return every class of failure that this package knows."""
    return frozenset(_CLASSES) | {code.error_class for code in ERROR_CODES.values() if code.error_class}


_KEYS: Final = [columns.RUN_DIR, columns.ERROR_CLASS, columns.ERROR_CODE, columns.PATTERN]
_N_EXAMPLES: Final = 3
_PATTERN_CHARACTERS: Final = 120
# Attempts that ended badly, or have something said of them while they are open.
_BAD: Final = [str(stage) for stage in (Stage.FAILED, Stage.LOST, Stage.AMBIGUOUS, Stage.ACCEPTED)]
_RETRIED: Final = (columns.FAILED, columns.AMBIGUOUS)
_PARTS: Final = (
    (re.compile(r"https?://\S+"), "<link>"),
    (re.compile(r"'[^']*'|\"[^\"]*\""), "<text>"),
    (re.compile(r"(?<![\w/])/\S+"), "<path>"),
    (re.compile(r"\b(?=\w*\d)(?=\w*[a-z])\w{12,}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
)


def summarise_failures(history: History) -> pd.DataFrame:
    """Group what failed, the most frequent first."""
    rows, attempts = _bad_rows(history), _bad_attempts(history)
    both = pd.concat([rows[_KEYS], attempts[_KEYS]], ignore_index=True)
    numbers = both.groupby(_KEYS, dropna=False, sort=False).ngroup().to_numpy()
    of_rows, of_attempts = numbers[: len(rows)], numbers[len(rows) :]
    table = both.iloc[np.unique(numbers, return_index=True)[1]].reset_index(drop=True)
    _count(table, attempts, of_rows, of_attempts)
    _explain(table)
    _exemplify(table, rows, of_rows)
    table = table.sort_values(
        [columns.N_ROWS, columns.ATTEMPTS], ascending=False, kind="stable", ignore_index=True
    )
    return table[list(columns.FAILURES)].astype(columns.dtypes(columns.FAILURES))


def pattern_of(message: str) -> str:
    """Leave out of a message what differs from one time to the next."""
    for part, word in _PARTS:
        message = part.sub(word, message)
    shortened = " ".join(message.split())
    return (
        shortened if len(shortened) <= _PATTERN_CHARACTERS else shortened[: _PATTERN_CHARACTERS - 3] + "..."
    )


def _bad_rows(history: History) -> pd.DataFrame:
    """Rows with something wrong; a picture that was not saved is a class of its own."""
    rows = history.rows
    is_unsaved = rows[columns.OUTPUT_ERROR].notna() & rows[columns.ERROR_CLASS].isna()
    bad = _told(rows[rows[columns.ERROR_CLASS].notna() | is_unsaved])
    bad[columns.RUN_DIR] = bad.get(DIRECTORY)
    return _keyed(bad)


def _bad_attempts(history: History) -> pd.DataFrame:
    attempts = history.attempts
    is_unsaved = (attempts[columns.STAGE] == str(Stage.COMPLETED)) & attempts[columns.OUTPUT_ERROR].notna()
    is_bad = attempts[columns.STAGE].isin(_BAD) & attempts[columns.ERROR_CLASS].notna()
    bad = _told(attempts[is_bad | is_unsaved])
    bad[columns.RUN_DIR] = bad.get(columns.RUN_DIR)
    return _keyed(bad)


def _told(lines: pd.DataFrame) -> pd.DataFrame:
    is_unsaved = lines[columns.ERROR_CLASS].isna()
    lines = lines.copy()
    lines[columns.ERROR_CLASS] = lines[columns.ERROR_CLASS].mask(is_unsaved, NOT_SAVED)
    lines[columns.ERROR_MESSAGE] = lines[columns.ERROR_MESSAGE].mask(is_unsaved, lines[columns.OUTPUT_ERROR])
    return lines


def _keyed(lines: pd.DataFrame) -> pd.DataFrame:
    patterns = {text: pattern_of(text) for text in lines[columns.ERROR_MESSAGE].dropna().unique()}
    lines[columns.PATTERN] = lines[columns.ERROR_MESSAGE].map(patterns)
    return lines.astype(dict.fromkeys(_KEYS, columns.STR))


def _count(table: pd.DataFrame, attempts: pd.DataFrame, of_rows: np.ndarray, of_attempts: np.ndarray) -> None:
    n = len(table)
    billed = (
        attempts[columns.MAY_HAVE_BEEN_BILLED].astype(columns.BOOL).fillna(value=False).to_numpy(dtype=bool)
    )
    table[columns.N_ROWS] = np.bincount(of_rows, minlength=n)
    table[columns.ATTEMPTS] = np.bincount(of_attempts, minlength=n)
    table[columns.MAY_HAVE_BEEN_BILLED] = np.bincount(of_attempts[billed], minlength=n) > 0
    table[columns.SPENT] = costs.sums(attempts[columns.COST], of_attempts, n)


def _explain(table: pd.DataFrame) -> None:
    codes = table[columns.ERROR_CODE].astype(object).where(table[columns.ERROR_CODE].notna(), None)
    explained = [meaning_of(*key) for key in zip(table[columns.ERROR_CLASS], codes, strict=True)]
    table[columns.MEANING] = [each.meaning for each in explained]
    table[columns.ADVICE] = [each.advice for each in explained]


def _exemplify(table: pd.DataFrame, rows: pd.DataFrame, of_rows: np.ndarray) -> None:
    """Name rows of each group, and the call that tries them again."""
    empty = rows.iloc[:0]
    parts = dict(iter(rows.groupby(of_rows)))
    chosen = [parts.get(number, empty) for number in range(len(table))]
    table[columns.EXAMPLE_ROWS] = [", ".join(part[LABEL].head(_N_EXAMPLES)) or None for part in chosen]
    table[columns.EXAMPLE] = [next(iter(part[columns.ERROR_MESSAGE]), None) for part in chosen]
    table[columns.CALL] = [_call(part, rows) for part in chosen]


def _call(part: pd.DataFrame, rows: pd.DataFrame) -> str | None:
    """Write the call that attempts just these rows again; what was paid for is only asked for again."""
    if not len(part):
        return None
    first = part.iloc[0]
    known = isinstance(first[columns.RUN_DIR], str)
    run_dir = json.dumps(first[columns.RUN_DIR], ensure_ascii=False) if known else columns.RUN_DIR
    if first[columns.STATUS] == columns.INVALID:
        return None
    if first[columns.STATUS] == columns.FAILED and not may_pass_again(first[columns.ERROR_CLASS]):
        return None
    if first[columns.STATUS] not in _RETRIED:
        return f"dreamo.run(jobs, {run_dir})"
    is_ambiguous = first[columns.STATUS] == columns.AMBIGUOUS
    word = columns.AMBIGUOUS if is_ambiguous else first[columns.ERROR_CLASS]
    chosen = _chosen(part, _of_word(rows, word, first[columns.RUN_DIR]), run_dir)
    return f"dreamo.retry({run_dir}, {chosen}classes={json.dumps(word)})"


def _of_word(rows: pd.DataFrame, word: str, run_dir: Any) -> pd.DataFrame:
    """Rows that `classes=word` alone would choose."""
    name = columns.STATUS if word == columns.AMBIGUOUS else columns.ERROR_CLASS
    here = rows[rows[columns.RUN_DIR] == run_dir] if isinstance(run_dir, str) else rows
    return here[(here[name] == word) & here[columns.STATUS].isin(_RETRIED)]


def _chosen(part: pd.DataFrame, of_class: pd.DataFrame, run_dir: str) -> str:
    """Name the rows, unless the class says it all; by job where labels stand for other rows of the class too."""
    if len(part) == len(of_class):
        return ""
    labels = part[LABEL].drop_duplicates()
    if of_class[LABEL].isin(labels).sum() == len(part):
        return f"rows={json.dumps(labels.tolist(), ensure_ascii=False)}, "
    jobs = part[columns.JOB_ID].drop_duplicates().tolist()
    return f'rows=dreamo.load({run_dir})["{columns.JOB_ID}"].isin({json.dumps(jobs)}), '
