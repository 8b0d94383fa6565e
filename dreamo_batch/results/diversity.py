"""How much the pictures of a group differ from each other, and which of them hardly do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.results import history
from dreamo_batch.results.grouping import group
from dreamo_batch.results.history import LABEL
from dreamo_batch.results.looks import distances, look_at
from dreamo_batch.results.subjects import find_subjects

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dreamo_batch.results.looks import Distances, Look

BITS_MAX: Final = 8
DELTA_E_MAX: Final = 6.0
_HELD: Final = 4  # times the pairs that are wanted


@dataclass(frozen=True, slots=True)
class Threshold:
    """Two pictures are near-duplicates if they differ by no more than both: bits of 64, and Delta E.

    Examples
    --------
    >>> Threshold().bits
    8
    """

    bits: float = BITS_MAX
    delta_e: float = DELTA_E_MAX


@dataclass(frozen=True, slots=True)
class Gathered:
    """Pictures by group.

    Attributes
    ----------
    rows : pandas.DataFrame
        Results on a RangeIndex, with their labels in `LABEL`.
    keys : pandas.DataFrame
        One line per group.
    places : list of numpy.ndarray
        For each group the positions of rows whose picture is seen; each job once.
    n_unseen : list of int
        For each group how many jobs have none.
    looks : dict of str to Look
        By the picture's digest.
    """

    rows: pd.DataFrame
    keys: pd.DataFrame
    places: list[np.ndarray]
    n_unseen: list[int]
    looks: dict[str, Look]

    def distances(self, number: int) -> Iterator[Distances]:
        """Compare the pictures of a group; positions are those of its `places`."""
        digests = self.rows[columns.OUTPUT_SHA256].iloc[self.places[number]]
        return distances([self.looks[digest] for digest in digests])


def gather(
    results: pd.DataFrame,
    run_dir: Path,
    by: str | Sequence[str] | None,
    *,
    reserved: Sequence[str] = (),
    n_workers: int | None = None,
    progress: bool = True,
) -> Gathered:
    """Look at the pictures of results, and group them.

    Parameters
    ----------
    results : pandas.DataFrame
        As from `dreamo_batch.run` or `load`.
    run_dir : pathlib.Path
        Where its pictures are.
    by : str, sequence of str, or None
        See `dreamo_batch.results.grouping.group`.
    reserved : sequence of str
        Names that `by` can't have.
    n_workers, progress
        See `dreamo_batch.table.looking.each`.

    Returns
    -------
    Gathered

    Raises
    ------
    UsageError
        If these are no results, or `by` can't be used.
    """
    told = history.from_results(results)
    groups = group(told, by, reserved=reserved)
    subjects = find_subjects(results, run_dir).of_rows
    looks, _ = look_at(subjects, run_dir, n_workers=n_workers, progress=progress)
    is_first = told.rows[columns.DUPLICATE_OF].isna().to_numpy()
    is_seen = np.array([one is not None and one.sha256 in looks for one in subjects], dtype=bool)
    compared = np.flatnonzero(is_first & is_seen)
    compared = compared[np.argsort(groups.of_rows[compared], kind="stable")]
    ends = np.searchsorted(groups.of_rows[compared], np.arange(1, len(groups.keys)))
    places = np.split(compared, ends) if len(groups.keys) else []
    unseen = np.bincount(groups.of_rows[is_first & ~is_seen], minlength=len(groups.keys))
    return Gathered(told.rows, groups.keys, places, unseen.tolist(), looks)


def summarise_diversity(gathered: Gathered, threshold: Threshold) -> pd.DataFrame:
    """Say of each group how far its pictures are from each other.

    Parameters
    ----------
    gathered : Gathered
        The pictures.
    threshold : Threshold
        What counts as near-duplicates.

    Returns
    -------
    pandas.DataFrame
        The keys of the groups, then the columns of `dreamo_batch.columns.DIVERSITY`; distances are missing where
        there are no two pictures.
    """
    lines = [_line(gathered, number, threshold) for number in range(len(gathered.keys))]
    table = pd.DataFrame(lines, columns=list(columns.DIVERSITY)).astype(columns.dtypes(columns.DIVERSITY))
    return pd.concat([gathered.keys, table], axis=1)


def list_near_duplicates(gathered: Gathered, threshold: Threshold, limit: int) -> pd.DataFrame:
    """Name the pairs that hardly differ, the closest first.

    Parameters
    ----------
    gathered : Gathered
        The pictures.
    threshold : Threshold
        What counts as near-duplicates.
    limit : int
        The most pairs to name.

    Returns
    -------
    pandas.DataFrame
        The keys of their groups, then the columns of `dreamo_batch.columns.NEAR_DUPLICATES`.

    Raises
    ------
    UsageError
        If `limit` is no count.
    """
    if not isinstance(limit, int) or limit < 1:
        raise UsageError(f"limit={limit!r}: at least 1 was expected.")
    found = [_near(gathered, number, threshold, limit) for number in range(len(gathered.keys))]
    pairs = pd.concat(found, ignore_index=True) if found else _no_pairs()
    pairs = _closest(pairs, limit)
    table = _described(gathered.rows, pairs)
    keys = gathered.keys.take(pairs["group"].to_numpy(dtype=int)).reset_index(drop=True)
    return pd.concat([keys, table], axis=1)


def check_threshold(bits: float, delta_e: float) -> Threshold:
    """Read a threshold.

    Raises
    ------
    UsageError
        If a bound is no number of at least 0.

    Examples
    --------
    >>> check_threshold(4, 2).delta_e
    2.0
    """
    for name, value in (("max_bits", bits), ("max_delta_e", delta_e)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise UsageError(f"{name}={value!r}: a number of at least 0 was expected.")
    return Threshold(float(bits), float(delta_e))


def _line(gathered: Gathered, number: int, threshold: Threshold) -> tuple[object, ...]:
    places = gathered.places[number]
    counts = (len(places), gathered.n_unseen[number])
    if len(places) < 2:  # noqa: PLR2004 - a pair
        return (*counts, None, None, None, None, 0, None, None)
    n_pairs, n_near, bits, delta_e = 0, 0, 0.0, 0.0
    bits_min, closest = 64, (np.inf, 0, 0)
    for block in gathered.distances(number):
        n_pairs += len(block.bits)
        n_near += int(_is_near(block, threshold).sum())
        bits += float(block.bits.sum(dtype=np.int64))
        delta_e += float(block.delta_e.sum(dtype=np.float64))
        bits_min = min(bits_min, int(block.bits.min()))
        least = int(block.delta_e.argmin())
        closest = min(closest, (float(block.delta_e[least]), int(block.one[least]), int(block.other[least])))
    labels = gathered.rows[LABEL].iloc[places[list(closest[1:])]]
    return (*counts, bits / n_pairs, bits_min, delta_e / n_pairs, closest[0], n_near, *labels)


def _near(gathered: Gathered, number: int, threshold: Threshold, limit: int) -> pd.DataFrame:
    places = gathered.places[number]
    found = _no_pairs()
    for block in gathered.distances(number):
        is_near = _is_near(block, threshold)
        pairs = pd.DataFrame(
            {
                "group": number,
                "one": places[block.one[is_near]],
                "other": places[block.other[is_near]],
                "bits": block.bits[is_near].astype(np.int64),
                "delta_e": block.delta_e[is_near].astype(np.float64),
            }
        )
        if len(pairs):
            found = pd.concat([found, pairs], ignore_index=True) if len(found) else pairs
        if len(found) > _HELD * limit:
            found = _closest(found, limit)
    return found


def _no_pairs() -> pd.DataFrame:
    none = {name: np.empty(0, np.int64) for name in ("group", "one", "other", "bits")}
    return pd.DataFrame(none | {"delta_e": np.empty(0, np.float64)})


def _closest(pairs: pd.DataFrame, limit: int) -> pd.DataFrame:
    return pairs.sort_values(["delta_e", "bits", "one", "other"], ignore_index=True).head(limit)


def _is_near(block: Distances, threshold: Threshold) -> np.ndarray:
    is_near: np.ndarray = (block.bits <= threshold.bits) & (block.delta_e <= threshold.delta_e)
    return is_near


def _described(rows: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    one, other = (rows.take(pairs[side].to_numpy()) for side in ("one", "other"))
    same = one[columns.OUTPUT_SHA256].to_numpy() == other[columns.OUTPUT_SHA256].to_numpy()
    table = {
        columns.ROW_A: one[LABEL].array,
        columns.ROW_B: other[LABEL].array,
        columns.POSITION_A: pairs["one"].array,
        columns.POSITION_B: pairs["other"].array,
        columns.SEED_A: one[columns.SEED_SENT].array,
        columns.SEED_B: other[columns.SEED_SENT].array,
        columns.HASH_DISTANCE: pairs["bits"].array,
        columns.DELTA_E: pairs["delta_e"].array,
        columns.IS_SAME_FILE: same,
        columns.PATH_A: one[columns.OUTPUT_PATH].array,
        columns.PATH_B: other[columns.OUTPUT_PATH].array,
    }
    return pd.DataFrame(table).astype(columns.dtypes(columns.NEAR_DUPLICATES))
