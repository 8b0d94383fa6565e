"""Which picture each row has, and which reference it was made from: what can be measured at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import DirectoryError
from dreamo_batch.execution import stored
from dreamo_batch.execution.directory import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Iterable

_URL: Final = "url"


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference picture as it was sent: its file and the digest of that; `path` is None for one at a URL."""

    path: Path | None
    sha256: str


@dataclass(frozen=True, slots=True)
class Subject:
    """A saved picture, and the reference of its job, if that is known."""

    path: Path
    sha256: str
    reference: Reference | None


@dataclass(frozen=True, slots=True)
class Subjects:
    """Of each row of some results its subject, or None, and why there is none.

    Examples
    --------
    >>> Subjects([None], ["failed: moderation"]).of_rows
    [None]
    """

    of_rows: list[Subject | None]
    problems: list[str | None]


def find_subjects(results: pd.DataFrame, run_dir: Path) -> Subjects:
    """Find the pictures of results, and the references of their jobs.

    Parameters
    ----------
    results : pandas.DataFrame
        As from `dreamo_batch.run` or `load`.
    run_dir : pathlib.Path
        Where its pictures are.

    Returns
    -------
    Subjects
        Rows of the same job have the same subject.
    """
    references = _references(run_dir)
    needed = (columns.STATUS, columns.JOB_ID, columns.OUTPUT_PATH, columns.OUTPUT_SHA256, columns.ERROR_CLASS)
    rows = list(zip(*(results[name].astype(object) for name in needed), strict=True))
    found = [_subject(row, run_dir, references) for row in rows]
    problems = [None if one else _why(row) for one, row in zip(found, rows, strict=True)]
    return Subjects(found, problems)


def _subject(row: tuple[Any, ...], run_dir: Path, references: dict[str, Reference]) -> Subject | None:
    status, job_id, path, sha256, _ = row
    if status != columns.COMPLETED or pd.isna(path) or pd.isna(sha256):
        return None
    return Subject(run_dir / path, sha256, references.get(job_id))


def _why(row: tuple[Any, ...]) -> str:
    status, _, _, _, error_class = row
    if status == columns.COMPLETED:
        return "no picture was saved"
    return f"{status}: {error_class}" if isinstance(error_class, str) else str(status)


def _references(run_dir: Path) -> dict[str, Reference]:
    """Give the references of the directory's table by job; none where the table can't be read."""
    try:
        jobs = stored.read_jobs(RunDirectory(run_dir).jobs)
    except DirectoryError:
        return {}
    rows = jobs.decided.drop_duplicates(columns.JOB_ID)
    names = (columns.JOB_ID, stored.KIND, columns.IMAGE_SENT, columns.IMAGE_SENT_DIGEST)
    return dict(_named(zip(*(rows[name].astype(object) for name in names), strict=True)))


def _named(rows: Iterable[tuple[Any, ...]]) -> Iterable[tuple[str, Reference]]:
    for job_id, kind, location, digest in rows:
        if isinstance(job_id, str) and isinstance(location, str):
            yield job_id, Reference(None if kind == _URL else Path(location), digest)
