"""What a score means: how well a metric tells pictures of the same subject from pictures of others."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns, images, likeness
from dreamo_batch.errors import UsageError, check_count
from dreamo_batch.metrics import PromptMatch, VectorMetric, cosine
from dreamo_batch.parallel import each, working
from dreamo_batch.results.measure import BUILT_IN, OF_TRAITS, apply, embedded, read_metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from PIL import Image

    from dreamo_batch.results.measure import AnyMetric

    Picture = str | os.PathLike[str]

_SEED: Final = 1
_PICTURES_HELD: Final = 64


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well a metric tells pictures of the same subject from pictures of others; made by `calibrate`.

    Attributes
    ----------
    metric : str
        Name of the metric.
    threshold : float
        The value that separates best: the share of pairs of the same subject above it, less that of others, is
        largest (Youden's J).
    auc : float
        Area under the ROC curve: how often a pair of the same subject scores higher than one of others, 0.5 to 1.
    roc : pandas.DataFrame
        Columns ``threshold``, ``same_found`` and ``others_taken`` (float64, 0 to 1): of the pairs of the same subject
        and of others, the shares that reach the threshold. From the strictest to the loosest.
    n_same, n_others : int
        Pairs of each kind that had a value.
    n_missing : int
        Pairs without a value, such as pictures without a face.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> pictures = {"mascot": ["data/mascot.png"] * 2, "cat": ["data/chelsea.jpg"] * 2}
    >>> found = dreamo.calibrate("appearance", pictures, progress=False)
    >>> found.auc, found.n_same, found.n_others
    (1.0, 2, 4)
    """

    metric: str
    threshold: float
    auc: float
    n_same: int
    n_others: int
    n_missing: int
    roc: pd.DataFrame = field(repr=False, compare=False)

    def threshold_for(self, others_taken: float) -> float:
        """Return the lowest threshold at which at most this share of pairs of others is taken for the same.

        Parameters
        ----------
        others_taken : float
            A share, from 0 to 1.

        Returns
        -------
        float
            The threshold; infinite if no value keeps the share.

        Raises
        ------
        UsageError
            If it isn't a share.

        Examples
        --------
        >>> import dreamo_batch as dreamo
        >>> pictures = {"mascot": ["data/mascot.png"] * 2, "cat": ["data/chelsea.jpg"] * 2}
        >>> dreamo.calibrate("shape", pictures, progress=False).threshold_for(0.01) > 0.5
        True
        """
        if not 0 <= others_taken <= 1:
            raise UsageError(f"others_taken={others_taken!r}: a share from 0 to 1 was expected.")
        kept = self.roc.loc[self.roc["others_taken"] <= others_taken, "threshold"]
        return float(kept.iloc[-1])


def calibrate(
    metric: AnyMetric,
    pictures: Mapping[str, Iterable[Picture]] | pd.DataFrame | Picture,
    *,
    max_pairs: int = 20_000,
    n_workers: int | None = None,
    progress: bool = True,
) -> Calibration:
    """Find out what a metric's values mean, on your own pictures of the same and of other subjects.

    Every two pictures of one subject are compared, and every two of different subjects; more than `max_pairs` of a
    kind are sampled, always alike. Take pictures like those that you will judge: a threshold from photographs says
    little about drawings.

    Parameters
    ----------
    metric : str, Metric or callable
        What to calibrate; see `measure`.
    pictures : mapping, pandas.DataFrame or path-like
        Paths by subject; or a table with columns ``subject`` and ``image``; or a folder with a folder of pictures for
        each subject. At least two subjects, one of which has two pictures.
    max_pairs : int
        Most pairs of a kind to compare.
    n_workers : int, optional
        Threads; default: one per core, at most 8.
    progress : bool
        Show a bar.

    Returns
    -------
    Calibration
        Threshold, area under the curve, and the ROC curve as a table.

    Raises
    ------
    UsageError
        If the metric needs a prompt, a picture can't be read, or there are too few pictures or values.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> pictures = {"mascot": ["data/mascot.png"] * 2, "cat": ["data/chelsea.jpg"] * 2}
    >>> dreamo.calibrate("appearance", pictures, progress=False).roc.columns.tolist()
    ['threshold', 'same_found', 'others_taken']
    """
    measure = read_metric(metric)
    if isinstance(measure, PromptMatch):
        raise UsageError(
            f"{measure.name!r} compares a picture with its prompt; there are no subjects to tell apart."
        )
    check_count("max_pairs", max_pairs)
    paths = _read_subjects(pictures)
    subjects = [subject for subject, several in paths.items() for _ in several]
    flat = [path for several in paths.values() for path in several]
    sign = 1.0 if measure.higher_is_better else -1.0
    same, others = _pairs(subjects, max_pairs)
    if not same or not others:
        raise UsageError(
            "Calibrating needs at least two subjects, one of them with two pictures; there are "
            f"{len(paths)} with {len(flat)} in all."
        )
    with working(n_workers=n_workers, progress=progress):
        values = _values(measure, flat, [*same, *others])
    of_same, of_others = sign * values[: len(same)], sign * values[len(same) :]
    n_missing = int(np.isnan(values).sum())
    of_same, of_others = of_same[~np.isnan(of_same)], of_others[~np.isnan(of_others)]
    if not len(of_same) or not len(of_others):
        kind = "the same subject" if not len(of_same) else "different subjects"
        raise UsageError(f"{measure.name!r} has no value for any two pictures of {kind}.")
    roc = _roc(of_same, of_others)
    best = int((roc["same_found"] - roc["others_taken"]).to_numpy().argmax())
    auc = float(np.trapezoid(roc["same_found"], roc["others_taken"]))
    roc["threshold"] *= sign
    threshold = float(roc["threshold"].iloc[best])
    return Calibration(measure.name, threshold, auc, len(of_same), len(of_others), n_missing, roc)


def _read_subjects(pictures: Any) -> dict[str, list[Path]]:
    """Return the paths of each subject's pictures."""
    if isinstance(pictures, pd.DataFrame):
        missing = [name for name in ("subject", columns.IMAGE) if name not in pictures]
        if missing:
            raise UsageError(
                f"The table of pictures has no column {missing[0]!r}; subject and image were expected."
            )
        grouped = pictures.groupby("subject", sort=False)[columns.IMAGE]
        return {str(subject): [Path(path) for path in several] for subject, several in grouped}
    if isinstance(pictures, str | os.PathLike):
        folder = Path(pictures)
        if not folder.is_dir():
            raise UsageError(f"There is no folder {folder}.")
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.glob("*/[!.]*")):
            if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}:
                found.setdefault(path.parent.name, []).append(path)
        return found
    try:
        return {
            str(subject): [Path(several)] if isinstance(several, str) else list(map(Path, several))
            for subject, several in pictures.items()
        }
    except (AttributeError, TypeError):
        raise UsageError(
            f"pictures={type(pictures).__name__}: lists of paths by subject, a table with columns subject and image, "
            "or a folder with a folder for each subject was expected."
        ) from None


def _pairs(subjects: Sequence[str], max_pairs: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return pairs of pictures of the same subject and of different ones, at most so many of each."""
    one, other = np.triu_indices(len(subjects), 1)
    names = np.array(subjects, dtype=object)
    is_same = names[one] == names[other] if len(one) else np.zeros(0, dtype=bool)
    chance = np.random.default_rng(_SEED)

    def some(of: Any) -> list[tuple[int, int]]:
        at = np.flatnonzero(of)
        if len(at) > max_pairs:
            at = np.sort(chance.choice(at, max_pairs, replace=False))
        return list(zip(one[at].tolist(), other[at].tolist(), strict=True))

    return some(is_same), some(~is_same)


def _values(metric: Any, paths: Sequence[Path], pairs: Sequence[tuple[int, int]]) -> Any:
    """Measure pairs of pictures; NaN where there is nothing to measure."""
    if isinstance(metric, VectorMetric):
        vectors: list[Any] = [vector for _, vector in embedded(metric, paths, _read)]
        both = ((vectors[one], vectors[other]) for one, other in pairs)
        return np.array([np.nan if a is None or b is None else cosine(a, b) for a, b in both])
    if metric in BUILT_IN.values():
        read = each(paths, lambda path: likeness.traits(_read(path)), what=metric.name)
        traits = [found for _, found in read]
        return np.array([OF_TRAITS[metric.name](traits[one], traits[other]) for one, other in pairs])
    open_picture = functools.lru_cache(_PICTURES_HELD)(_read)

    def of_pair(pair: tuple[int, int]) -> float | None:
        return apply(metric, *(open_picture(paths[at]) for at in pair)).number

    return np.array([value for _, value in each(pairs, of_pair, what=metric.name)], dtype=float)


def _read(path: Path) -> Image.Image:
    try:
        with images.opened(path) as picture:
            return images.upright_rgb(picture)
    except FileNotFoundError:
        raise UsageError(f"There is no picture {path}.") from None
    except Exception as error:  # decoders raise anything at all over damaged files
        raise UsageError(f"{path} can't be read as a picture ({error}).") from error


def _roc(of_same: Any, of_others: Any) -> pd.DataFrame:
    """Return the shares of both kinds that reach each value, from the highest down."""
    thresholds = np.concatenate([[np.inf], np.unique(np.concatenate([of_same, of_others]))[::-1]])
    found, taken = (
        1 - np.searchsorted(np.sort(values), thresholds, side="left") / len(values)
        for values in (of_same, of_others)
    )
    return pd.DataFrame({"threshold": thresholds, "same_found": found, "others_taken": taken})
