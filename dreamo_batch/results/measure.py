"""Metrics: what likeness of a picture to its reference is measured with."""

from __future__ import annotations

import functools
import math
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.parallel import each
from dreamo_batch.results import likeness
from dreamo_batch.results.likeness import Cache, Key, Reference, Subject, Value, find_subjects, look_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from PIL import Image


_NAMELESS: Final = "<lambda>"


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of likeness: any callable that takes reference and output, and gives a number.

    Both pictures are PIL images of mode RGB, upright, of whatever size they have. NaN or None means that there is
    nothing to measure, as with a face metric where no face is found. After an exception the value is missing, too.

    Attributes
    ----------
    name : str
        Name of the column.
    function : callable
        ``function(reference, output) -> float``; called from several threads unless `measure` is told otherwise.
    version : str or None
        Changed whenever values change. Values are kept in the run directory only under a version: without one, nobody
        could tell those of an older function.
    higher_is_better : bool
        Which way `rank` sorts.

    Examples
    --------
    >>> from PIL import Image
    >>> red = Image.new("RGB", (8, 8), "red")
    >>> def wider(reference, output):
    ...     return output.width / reference.width
    >>> Metric("wider", wider, version="1")(red, red)
    1.0
    """

    name: str
    function: Callable[[Image.Image, Image.Image], float | None]
    version: str | None = None
    higher_is_better: bool = True

    def __call__(self, reference: Image.Image, output: Image.Image) -> float | None:
        """Measure."""
        return self.function(reference, output)


BUILT_IN: Final = {
    metric.name: metric
    for metric in (
        Metric("appearance", likeness.appearance, "2"),
        Metric("colour", likeness.colour, "2"),
        Metric("shape", likeness.shape, "2"),
    )
}


# What the built-in ones come to where the traits of both pictures are known already.
COMPARED: Final = {
    "appearance": likeness.likeness,
    "colour": likeness.colour_likeness,
    "shape": likeness.shape_likeness,
}


def listed(one_or_several: Any) -> list[Any]:
    """Give a list of what may be one alone."""
    if isinstance(one_or_several, str) or callable(one_or_several):
        return [one_or_several]
    try:
        return list(one_or_several)
    except TypeError:
        raise UsageError(f"{one_or_several!r} is neither a name nor a metric, nor several.") from None


def read_metric(metric: Any) -> Metric:
    """Read one metric: a built-in one's name, a `Metric`, or any callable that has a name."""
    if isinstance(metric, str) and metric in BUILT_IN:
        return BUILT_IN[metric]
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise UsageError(
            f"{metric!r} is no metric: give one of {', '.join(map(repr, BUILT_IN))}, a Metric, or a function of "
            "reference and output."
        )
    name = getattr(metric, "name", None) or getattr(metric, "__name__", _NAMELESS)
    if name == _NAMELESS or not isinstance(name, str):
        raise UsageError(f"a metric needs a name for its column: give Metric(name, {metric!r}).")
    version = getattr(metric, "version", None)
    is_better = bool(getattr(metric, "higher_is_better", True))
    return Metric(name, metric, None if version is None else str(version), is_better)


def read_metrics(metrics: Any) -> list[Metric]:
    """Read several metrics, each of another name."""
    read = [read_metric(metric) for metric in listed(metrics)]
    names = [metric.name for metric in read]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"two metrics are called {name!r}; give each a name of its own: Metric(name, ...)."
            )
        if name in columns.MEASURES:
            raise UsageError(f"a metric can't be called {name!r}, as there is a column of that name.")
    return read


_REFERENCES_KEPT: Final = 8
_UNVERSIONED: Final = ""


class _Pair(NamedTuple):
    """A picture and its reference by their digests, whatever the number of rows and files that have them."""

    output: str
    reference: str


class _Files(NamedTuple):
    """Where both are; pictures of the same bytes are as good as each other."""

    outputs: list[Path]
    reference: Reference


class _Measured(NamedTuple):
    """What came of a metric: a number, or why there is none."""

    number: float | None
    problem: str | None = None
    is_broken: bool = False


def measure_likeness(
    results: pd.DataFrame,
    run_dir: Path,
    metrics: Sequence[Metric],
    *,
    n_workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure the pictures of results; see `dreamo_batch.measure`."""
    found = find_subjects(results, run_dir)
    pairs = [_pair(subject) for subject in found.of_rows]
    measured = _measure(_files(found.of_rows), run_dir, metrics, n_workers, progress=progress)
    problems = [
        problem or _why(subject, measured.get(pair) if pair else None)
        for problem, subject, pair in zip(found.problems, found.of_rows, pairs, strict=True)
    ]
    table = results[[columns.PROMPT, columns.SEED_SENT, columns.JOB_ID]].copy()
    for metric in metrics:
        values = [measured[pair][metric.name].number if pair else None for pair in pairs]
        table[metric.name] = pd.array(values, dtype=columns.FLOAT)
    table[columns.PROBLEM] = pd.array(problems, dtype=columns.STR)
    return table


def _pair(subject: Subject | None) -> _Pair | None:
    if subject is None or subject.reference is None or subject.reference.path is None:
        return None
    return _Pair(subject.sha256, subject.reference.sha256)


def _files(subjects: Sequence[Subject | None]) -> dict[_Pair, _Files]:
    files: dict[_Pair, _Files] = {}
    for subject in subjects:
        pair = _pair(subject)
        if pair is not None and subject is not None and subject.reference is not None:
            files.setdefault(pair, _Files([], subject.reference)).outputs.append(subject.path)
    return files


def _why(subject: Subject | None, measured: dict[str, _Measured] | None) -> str | None:
    if measured is not None:
        told = dict.fromkeys(one.problem for one in measured.values() if one.problem)
        return "; ".join(told) or None
    if subject is not None and subject.reference is not None:
        return "its reference is at a URL, which is not fetched"
    return "its reference is not known: its job is not in the directory's table"


def _measure(
    files: dict[_Pair, _Files],
    run_dir: Path,
    metrics: Sequence[Metric],
    n_workers: int | None,
    *,
    progress: bool,
) -> dict[_Pair, dict[str, _Measured]]:
    built_in = [metric for metric in metrics if metric is BUILT_IN.get(metric.name)]
    metrics = [metric for metric in metrics if metric not in built_in]
    measured = _by_looks(files, run_dir, built_in, n_workers, progress=progress)
    cache = Cache(run_dir)
    for pair in files:
        measured[pair] |= _remembered(pair, metrics, cache)
    wanted = [pair for pair in files if any(metric.name not in measured[pair] for metric in metrics)]
    opened = functools.lru_cache(_REFERENCES_KEPT)(_opened)

    def do(pair: _Pair) -> dict[str, _Measured]:
        missing = [metric for metric in metrics if metric.name not in measured[pair]]
        return _look(pair, files[pair], missing, opened)

    try:
        for pair, fresh in each(wanted, do, what="measuring", n_workers=n_workers, progress=progress):
            measured[pair] |= fresh
            _keep(pair, fresh, metrics, cache)
    finally:
        cache.save()
    _warn(measured, metrics)
    return measured


def _by_looks(
    files: dict[_Pair, _Files],
    run_dir: Path,
    metrics: Sequence[Metric],
    n_workers: int | None,
    *,
    progress: bool,
) -> dict[_Pair, dict[str, _Measured]]:
    """Measure with built-in metrics, which compare looks: a picture is decoded once, whatever is asked of it."""
    if not metrics:
        return {pair: {} for pair in files}
    references = {pair.reference: of_pair.reference for pair, of_pair in files.items()}
    subjects = [Subject(path, pair.output, None) for pair, found in files.items() for path in found.outputs]
    subjects += [Subject(one.path, one.sha256, None) for one in references.values() if one.path is not None]
    looks, problems = look_at(subjects, run_dir, what="measuring", n_workers=n_workers, progress=progress)

    def of_pair(pair: _Pair) -> dict[str, _Measured]:
        output, reference = looks.get(pair.output), looks.get(pair.reference)
        if output is not None and reference is not None:
            traits = reference.traits, output.traits
            return {metric.name: _judged(COMPARED[metric.name](*traits)) for metric in metrics}
        problem = problems[pair.output] if output is None else f"reference {problems[pair.reference]}"
        return {metric.name: _Measured(None, problem, is_broken=True) for metric in metrics}

    return {pair: of_pair(pair) for pair in files}


def _remembered(pair: _Pair, metrics: Sequence[Metric], cache: Cache) -> dict[str, _Measured]:
    known = {metric.name: cache.get(_key(pair, metric)) for metric in metrics if metric.version is not None}
    return {name: _judged(value.number) for name, value in known.items() if value is not None}


def _key(pair: _Pair, metric: Metric) -> Key:
    return Key(pair.output, pair.reference, metric.name, metric.version or _UNVERSIONED)


def _keep(pair: _Pair, fresh: dict[str, _Measured], metrics: Sequence[Metric], cache: Cache) -> None:
    """Keep what a version stands for; not what came of files or of a metric that broke, which may be mended."""
    for metric in metrics:
        one = fresh.get(metric.name)
        if one is not None and metric.version is not None and not one.is_broken:
            cache.put(_key(pair, metric), Value(one.number))


def _look(
    pair: _Pair, files: _Files, metrics: Sequence[Metric], opened: Callable[[Reference], Image.Image]
) -> dict[str, _Measured]:
    try:
        there = next((path for path in files.outputs if path.is_file()), files.outputs[0])
        output, reference = likeness.read(there, pair.output), opened(files.reference)
    except likeness.Unseen as unseen:
        return {metric.name: _Measured(None, str(unseen), is_broken=True) for metric in metrics}
    # A copy for each: a metric may scale in place what other threads are looking at.
    return {metric.name: _number(metric, reference.copy(), output.copy()) for metric in metrics}


def _opened(reference: Reference) -> Image.Image:
    assert reference.path is not None  # noqa: S101 - those at URLs are left out before
    try:
        return likeness.read(reference.path, reference.sha256)
    except likeness.Unseen as unseen:
        raise likeness.Unseen(f"reference {unseen}") from None


def _number(metric: Metric, reference: Image.Image, output: Image.Image) -> _Measured:
    try:
        value = metric(reference, output)
        return _judged(None if value is None else float(value))
    except Exception as error:  # noqa: BLE001 - a metric is anybody's code, and one picture is not all of them
        return _Measured(None, f"{metric.name} failed: {type(error).__name__}: {error}", is_broken=True)


def _judged(number: float | None) -> _Measured:
    if number is None or not math.isfinite(number):
        return _Measured(None, "nothing to measure")
    return _Measured(number)


def _warn(measured: dict[_Pair, dict[str, _Measured]], metrics: Sequence[Metric]) -> None:
    """Say once which metrics broke; each row says why in its own column."""
    broken: Counter[str] = Counter()
    examples: dict[str, Any] = {}
    for of_pair in measured.values():
        for name, one in of_pair.items():
            if one.is_broken and one.problem and one.problem.startswith(f"{name} failed"):
                broken[name] += 1
                examples.setdefault(name, one.problem)
    for metric in metrics:
        if broken[metric.name]:
            text = f"{examples[metric.name]} ({broken[metric.name]} of {len(measured)} pictures)"
            warnings.warn(text, stacklevel=2)
