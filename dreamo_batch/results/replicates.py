"""Equal jobs that were bought more than once: how equal their pictures are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.execution import stored
from dreamo_batch.execution.directory import RunDirectory
from dreamo_batch.results import colours, hashes, history, pictures
from dreamo_batch.results.history import LABEL
from dreamo_batch.results.subjects import Subject, find_subjects
from dreamo_batch.table.looking import each

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

# What makes two jobs the same but for their number.
_SAME: Final = (
    columns.PROMPT,
    columns.IMAGE_DIGEST,
    columns.SEED_SENT,
    columns.WIDTH,
    columns.HEIGHT,
    columns.USE_REPHRASER,
)
_COMPARED: Final = (
    columns.IS_SAME_FILE,
    columns.IS_SAME_PIXELS,
    columns.PIXEL_DIFFERENCE,
    columns.HASH_DISTANCE,
    columns.DELTA_E,
    columns.PROBLEM,
)


def compare_equal_jobs(
    results: pd.DataFrame, run_dir: Path, *, n_workers: int | None = None, progress: bool = True
) -> pd.DataFrame:
    """Compare each equal job to the first of its kind; see `dreamo_batch.compare_replicates`.

    Parameters
    ----------
    results : pandas.DataFrame
        As from `dreamo_batch.run` or `load`.
    run_dir : pathlib.Path
        Where its pictures are.
    n_workers, progress
        See `dreamo_batch.table.looking.each`.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.REPLICATES` on a RangeIndex, in the table's order.

    Raises
    ------
    DirectoryError
        If the directory's table can't be read.
    """
    found = find_subjects(results, run_dir)
    rows = _jobs(results, run_dir)
    pairs = _pairs(rows)
    sides = [tuple((found.of_rows[at], found.problems[at]) for at in pair) for pair in pairs]
    done = each(sides, _compare, what="comparing", n_workers=n_workers, progress=progress)
    compared = pd.DataFrame([result for _, result in done], columns=list(_COMPARED))
    table = pd.concat([_described(rows, pairs), compared], axis=1)[list(columns.REPLICATES)]
    return table.astype(columns.dtypes(columns.REPLICATES))


def _jobs(results: pd.DataFrame, run_dir: Path) -> pd.DataFrame:
    """Give what was decided for the job of each row, as the directory keeps it."""
    decided = stored.read_jobs(RunDirectory(run_dir).jobs).decided
    by_job = decided[decided[columns.JOB_ID].notna()].drop_duplicates(columns.JOB_ID)
    wanted = [*_SAME, columns.REPLICATE]
    told = history.from_results(results).rows
    jobs = by_job.set_index(columns.JOB_ID)[wanted].reindex(told[columns.JOB_ID]).reset_index(drop=True)
    jobs[LABEL] = told[LABEL]
    is_out = told[columns.JOB_ID].isna() | told[columns.DUPLICATE_OF].notna() | jobs[columns.WIDTH].isna()
    return jobs[~is_out]


def _pairs(rows: pd.DataFrame) -> list[tuple[int, int]]:
    """Pair each job with the one of its kind that has the lowest number; positions in the results."""
    ordered = rows.sort_values(columns.REPLICATE, kind="stable")
    firsts = ordered.groupby(list(_SAME), sort=False, dropna=False)[columns.REPLICATE].transform(
        lambda numbers: numbers.index[0]
    )
    return [(int(first), int(at)) for at, first in sorted(firsts.items()) if at != first]


def _described(rows: pd.DataFrame, pairs: list[tuple[int, int]]) -> pd.DataFrame:
    one, other = (rows.loc[[pair[side] for pair in pairs]] for side in (0, 1))
    table = {name: one[name].array for name in (columns.PROMPT, columns.SEED_SENT, columns.USE_REPHRASER)}
    table |= {columns.REPLICATE_A: one[columns.REPLICATE].array}
    table |= {columns.REPLICATE_B: other[columns.REPLICATE].array}
    return pd.DataFrame(table | {columns.ROW_A: one[LABEL].array, columns.ROW_B: other[LABEL].array})


def _compare(sides: tuple[tuple[Subject | None, str | None], ...]) -> tuple[Any, ...]:
    nothing = (None,) * (len(_COMPARED) - 1)
    (one, one_why), (other, other_why) = sides
    if one is None or other is None:
        return (*nothing, one_why or other_why)
    try:
        first, second = (pictures.read(subject.path, subject.sha256) for subject in (one, other))
    except pictures.Unseen as unseen:
        return (*nothing, str(unseen))
    difference = _difference(first, second)
    bits = hashes.distance(*(hashes.perceptual_hash(picture) for picture in (first, second)))
    delta_e = colours.mean_delta_e(*(colours.thumbnail(picture) for picture in (first, second)))
    is_same = difference == 0
    return (one.sha256 == other.sha256, is_same, difference, bits, delta_e, None)


def _difference(one: Image.Image, other: Image.Image) -> float | None:
    if one.size != other.size:
        return None
    first, second = (np.asarray(picture, dtype=np.int16) for picture in (one, other))
    return float(np.abs(first - second).mean())
