"""Metrics: how similar a picture is to its reference, with values and vectors stored in the run directory."""

from __future__ import annotations

import functools
import json
import math
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from dreamo_batch import columns, files, likeness
from dreamo_batch.arguments import names_in
from dreamo_batch.engine import checkpoint, directory, picture_cache
from dreamo_batch.engine.attempts import rows_as_table, schema_of
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.picture_cache import PictureFile
from dreamo_batch.errors import UsageError, logger_named, warn
from dreamo_batch.jobs.references import URL
from dreamo_batch.likeness import Fingerprint, UnreadablePicture
from dreamo_batch.metrics import BY_NAME, Bounded, PromptMatch, VectorMetric, cosine
from dreamo_batch.parallel import Cluster, each, portable, unpacked, working
from dreamo_batch.results.frame import folders_of
from dreamo_batch.results.history import Source, check_results, read_results
from dreamo_batch.results.rating_log import read_kept

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from PIL import Image

    from dreamo_batch.metrics import Vector

    AnyMetric: TypeAlias = "str | Metric | VectorMetric | Callable[..., Any]"

Item = TypeVar("Item")

logger = logger_named(__name__)

NAME: Final = "metrics.parquet"
_SCHEMA: Final = schema_of(columns.METRICS)
_VECTOR: Final = "vector"
_NAMELESS: Final = "<lambda>"


@dataclass(frozen=True, slots=True)
class Metric(Bounded):
    """A measure of likeness: a function of reference and output that returns a number.

    Both pictures are PIL images of mode RGB, upright, each in its own size. Return NaN or None if there is nothing to
    measure, such as no face for a face metric. After an exception the value is missing, too.

    Attributes
    ----------
    name : str
        Name of the column.
    function : callable
        ``function(reference, output) -> float``; called from several threads unless ``n_workers=1``.
    version : str or None
        Change it whenever values change. Values are kept in the run directory only if there is a version, which keeps
        those of an older function apart.
    higher_is_better : bool
        Whether `rank` puts the highest value first.
    load : callable or None
        In place of `function`: ``load() -> function``, called once in each process, for a model that takes long to load
        and can't be pickled. Define it at the top level of a module.
    is_batched : bool
        Whether the function takes a list of references and one of outputs, at most 32, and returns a list of numbers.

    Raises
    ------
    UsageError
        Unless there is either a function or `load`, and name and version are text.

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
    function: Callable[..., Any] | None = None
    version: str | None = None
    higher_is_better: bool = True
    load: Callable[[], Callable[..., Any]] | None = None
    is_batched: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not isinstance(self.version, str | None):
            raise UsageError(f"Metric {self.name!r}, version {self.version!r}: expected text for both.")
        if (self.function is None) == (self.load is None) or not callable(self.function or self.load):
            raise UsageError(f"Metric {self.name!r} needs either a function or load=, which returns one.")

    def __call__(self, reference: Image.Image, output: Image.Image) -> float | None:
        """Measure a picture against its reference."""
        if not self.is_batched:
            return cast("float | None", _function_of(self)(reference, output))
        (value,) = self.measure_batch([reference], [output])
        return value

    def measure_batch(
        self, references: Sequence[Image.Image], outputs: Sequence[Image.Image]
    ) -> Sequence[float | None]:
        """Measure several pictures at once, if it `is_batched`.

        Parameters
        ----------
        references, outputs : sequence of PIL.Image.Image
            Of equal length: each output and what it is compared with.

        Returns
        -------
        sequence of float or None
            A value for each pair; None where there is nothing to measure.
        """
        return list(_function_of(self)(list(references), list(outputs)))


_loading: Final = threading.Lock()


def _function_of(metric: Metric) -> Callable[..., Any]:
    """Return the metric's function, loading its model in one thread while others wait."""
    if metric.function is not None:
        return metric.function
    assert metric.load is not None  # noqa: S101 - checked by __post_init__
    with _loading:
        return _loaded(metric.load)


@functools.cache
def _loaded(load: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    return load()


SCORES: Final = {
    "appearance": likeness.appearance_likeness,
    "colour": likeness.colour_likeness,
    "shape": likeness.shape_likeness,
}


def _of_pictures(name: str, reference: Image.Image, output: Image.Image) -> float:
    return SCORES[name](Fingerprint.of(reference), Fingerprint.of(output))


BUILT_IN: Final = {name: Metric(name, functools.partial(_of_pictures, name), "2") for name in SCORES}
NAMED: Final[Mapping[str, Metric | VectorMetric]] = {**BUILT_IN, **BY_NAME}


class SentReference(NamedTuple):
    """A reference picture as it was sent: its file (None for a URL) and the file's digest."""

    path: Path | None
    sha256: str
    is_style: bool = False


class Subject(NamedTuple):
    """A saved picture, the known references of its job, and the one it is measured against."""

    run_dir: Path
    path: Path
    sha256: str
    reference: SentReference | None = None
    references: tuple[SentReference, ...] = ()

    def against_each(self) -> list[Subject]:
        """Return a copy for each reference, to be measured against it."""
        return [self._replace(reference=reference) for reference in self.references] or [self]

    @property
    def pair(self) -> _Pair | None:
        """The digests of the picture and its reference; None if the reference isn't a file."""
        if self.reference is None or self.reference.path is None:
            return None
        return _Pair(self.sha256, self.reference.sha256)


class Key(NamedTuple):
    """The key of a stored value; `reference` is empty for a vector."""

    output: str
    reference: str
    metric: str
    version: str


class Value(NamedTuple):
    """A stored number (None if there was nothing to measure), or a vector."""

    number: float | None = None
    vector: bytes | None = None


class _Pair(NamedTuple):
    """The digests of a picture and its reference, shared by all rows and files that have them."""

    output: str
    reference: str


class Measured(NamedTuple):
    """A number, or why there is none: nothing to measure in the picture, or what failed."""

    number: float | None
    problem: str | None = None
    failed: Literal["file", "metric", "given"] | None = None  # `given` is what to compare with


def measure(
    source: Source,
    metrics: AnyMetric | Iterable[AnyMetric] = ("appearance",),
    *,
    run_dir: str | os.PathLike[str] | None = None,
    n_workers: int | None = None,
    cluster: Cluster = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how like their references pictures are, each once, and keep the values in the run directory.

    The built-in metrics compare whole pictures, from 0 to 1, and 1 is equal: ``"colour"`` the colours and how much
    there is of each, ``"shape"`` where edges are and which way they run, ``"appearance"`` the mean of the two. None of
    them recognises a character or a face. For that, ask for ``"identity"`` or ``"face"`` (extra `identity`, which also
    has ``"prompt_match"``), or pass a function of your own; see `Metric`.

    Parameters
    ----------
    source : pandas.DataFrame or path
        Results, rows of them, or one or more run directories; a table may hold rows of several runs.
    metrics : str, Metric or callable, or several
        What to measure: names as above, metrics, or named functions ``metric(reference, output) -> float`` of two PIL
        images, upright and RGB, each in its own size.
    run_dir : path, optional
        Where the pictures are; default: the directories that the rows come from.
    n_workers : int, optional
        Threads; default: one per core, at most 8. Pass 1 for metrics that aren't thread-safe.
    cluster : dask.distributed.Client, concurrent.futures.Executor or int, optional
        Work in other processes rather than in threads: a Dask client (extra `dask`), any executor, or a number of
        processes of this machine. They must reach the run directory under the same path. Metrics must be picklable;
        those that a notebook defines are if cloudpickle is installed (extra `dask`).
    progress : bool
        Show a bar.

    Returns
    -------
    pandas.DataFrame
        On the index of the results: the columns of `dreamo_batch.columns.MEASURES`, and before the last a float64
        column for each metric. Where rows have several references it is the mean over those that are not of the type
        ``STYLE``, and columns such as ``appearance_1`` and ``appearance_2`` tell each reference by its place.

        If a row has no picture, a file is gone or was changed, the reference is at a URL (which is not fetched), or
        there is nothing to measure, the value is missing and `problem` says why.

    Warns
    -----
    UserWarning
        If a metric raised on some pictures, or the kept values are damaged or can't be written.

    Raises
    ------
    UsageError
        If it is not a results table, its run directory is unknown, or a metric can't be used.
    DirectoryError
        If the directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", progress=False)
    >>> measured = dreamo.measure(done, ["appearance", "colour"], progress=False)
    >>> measured["appearance"].between(0, 1).tolist(), measured["problem"].isna().all()
    ([True, True], np.True_)
    """
    results = read_results(source)
    folders = folders_of(results, run_dir)
    with working(cluster=cluster, n_workers=n_workers, progress=progress):
        return measure_likeness(results, folders, read_metrics(metrics))[0]


def read_metrics(metrics: Any) -> list[Metric | VectorMetric]:
    """Parse several metrics, which need distinct names."""
    read = [read_metric(metric) for metric in ([None] if metrics is None else names_in("metrics", metrics))]
    for name, n in Counter(metric.name for metric in read).items():
        if n > 1:
            raise UsageError(f"{n} metrics are named {name!r}; use Metric(name, ...) to rename them.")
        if name in columns.MEASURES:
            raise UsageError(f"A metric can't be named {name!r}; the result has a column of that name.")
    return read


def read_metric(metric: Any, argument: str = "metrics") -> Metric | VectorMetric:
    """Parse one metric: a name, a `Metric`, or any callable that has a name."""
    if isinstance(metric, str) and metric in NAMED:
        return NAMED[metric]
    if isinstance(metric, Metric | VectorMetric):
        return metric
    if not callable(metric) or isinstance(metric, type):  # a class should have been instantiated
        names = ", ".join(map(repr, NAMED))
        raise UsageError(
            f"{argument}: {metric!r} isn't a metric. Pass one of {names}, a Metric, or a function of both pictures."
        )
    name = getattr(metric, "name", None) or getattr(metric, "__name__", _NAMELESS)
    if name == _NAMELESS or not isinstance(name, str):
        raise UsageError("A function without a name can't be a column. Pass Metric('brighter', function).")
    version = getattr(metric, "version", None)
    is_better = bool(getattr(metric, "higher_is_better", True))
    return Metric(name, metric, None if version is None else str(version), is_better)


def load_model(metric: Metric | VectorMetric) -> None:
    """Load what a metric needs, to raise errors before measuring."""
    from PIL import Image

    if isinstance(metric, Metric):
        _function_of(metric)
    elif metric.version:  # reads all files
        (vector,) = metric.embed([Image.new("RGB", (64, 64))])
        if isinstance(metric, PromptMatch):
            _cosine(metric, "", vector, metric.embed_prompt("a picture"))


def find_subjects(
    results: pd.DataFrame, folders: Sequence[Path]
) -> tuple[list[Subject | None], list[str | None]]:
    """Find the picture of each row in the row's run directory, or the reason why there is none."""
    references = {folder: _references(folder) for folder in set(folders)}
    names = (columns.STATUS, columns.JOB_ID, columns.OUTPUT_PATH, columns.OUTPUT_SHA256, columns.ERROR_CLASS)
    subjects: list[Subject | None] = []
    problems: list[str | None] = []
    cells = (results[name].astype(object) for name in names)
    for folder, status, job_id, path, sha256, error_class in zip(folders, *cells, strict=True):
        if status == columns.COMPLETED and not (pd.isna(path) or pd.isna(sha256)):
            known = tuple(references[folder].get(job_id, ()))
            subjects.append(Subject(folder, folder / path, sha256, next(iter(known), None), known))
            problems.append(None)
        else:
            why = f"{status}: {error_class}" if isinstance(error_class, str) else str(status)
            subjects.append(None)
            problems.append("no picture was saved" if status == columns.COMPLETED else why)
    return subjects, problems


def _references(run_dir: Path) -> dict[str, list[SentReference]]:
    """Return the references of a directory's table by job; none if the table can't be read."""
    decided = checkpoint.read_distinct_jobs(RunDirectory(run_dir).jobs)
    own = decided.set_index(columns.JOB_ID)[columns.OWN_PARAMETERS].dropna()
    types = {job_id: dict(json.loads(text)).get(columns.REF_TYPE) or () for job_id, text in own.items()}
    found: dict[str, list[SentReference]] = {}
    for job_id, images in checkpoint.references_by_job(decided).items():
        kinds = [*types.get(job_id, ()), *[""] * len(images)]
        found[job_id] = [
            SentReference(
                None if image.kind == URL else Path(image.sent_location), image.sent_digest, kind == "STYLE"
            )
            for image, kind in zip(images, kinds, strict=False)
        ]
    return found


def take_fingerprints(
    subjects: Iterable[Subject | None], *, what: str = "comparing"
) -> tuple[dict[str, Fingerprint], dict[str, str]]:
    """Compute the fingerprint of each picture once; return fingerprints and problems by digest."""
    pictures = [PictureFile(item.run_dir, item.path, item.sha256) for item in _by_digest(subjects).values()]
    kept = picture_cache.read_fingerprints(pictures)
    found, problems = {sha256: Fingerprint.from_bytes(content) for sha256, content in kept.items()}, {}
    wanted = [picture for picture in pictures if picture.sha256 not in found]
    for picture, summary in picture_cache.summarise_pictures(wanted, what=what):
        if isinstance(summary, str):
            problems[picture.sha256] = summary
        else:
            found[picture.sha256] = Fingerprint.from_bytes(summary.fingerprint)
    return found, problems


def _by_digest(subjects: Iterable[Subject | None]) -> dict[str, Subject]:
    """Return one picture for each digest, preferring a file that exists."""
    by_digest: dict[str, Subject] = {}
    for subject in subjects:
        if subject and not (subject.sha256 in by_digest and by_digest[subject.sha256].path.is_file()):
            by_digest[subject.sha256] = subject
    return by_digest


def measure_likeness(
    results: pd.DataFrame, folders: Sequence[Path], metrics: Sequence[Metric | VectorMetric]
) -> tuple[pd.DataFrame, pd.Series]:
    """Measure like `dreamo_batch.measure`; also return what failed in the last metric, by row position."""
    check_results(results, columns.PROMPT)
    subjects, problems = find_subjects(results, folders)
    # One line per row and reference.
    lines = [
        (row, place, pair)
        for row, subject in enumerate(subjects)
        for place, pair in enumerate(subject.against_each() if subject else [None])
    ]
    rows, places = (np.array([line[part] for line in lines], dtype=int) for part in (0, 1))
    flat = [subject for _, _, subject in lines]
    table = results[[columns.PROMPT, columns.SEED_SENT, columns.JOB_ID]].copy()
    every_row = range(len(results))
    whys = [pd.Series(problems, every_row, dtype=object)]
    failed = pd.Series(dtype=object)
    for metric, found in _measured(metrics, flat, results[columns.PROMPT].iloc[rows].tolist()):
        numbers = pd.Series([measured.number for measured in found], rows, dtype=columns.FLOAT)
        whys.append(pd.Series([measured.problem for measured in found], rows, dtype=object))
        failed = pd.Series([measured.failed for measured in found], rows, dtype=object)
        table[metric.name] = _means(numbers, flat).reindex(every_row).array
        n_most = 1 if isinstance(metric, PromptMatch) else places.max(initial=0) + 1
        for place in range(n_most if n_most > 1 else 0):
            table[f"{metric.name}_{place + 1}"] = numbers[places == place].reindex(every_row).array
    reasons = pd.concat(whys).dropna()
    joined = reasons.groupby(level=0).agg(lambda of_row: "; ".join(dict.fromkeys(of_row)))
    table[columns.PROBLEM] = pd.array(joined.reindex(every_row), dtype=columns.STR)
    return table, failed


def _means(numbers: pd.Series, subjects: Sequence[Subject | None]) -> pd.Series:
    """Return each row's mean over the references that aren't styles, or over all if all are styles."""
    is_style = np.array([bool(one and one.reference and one.reference.is_style) for one in subjects], bool)
    of_all, of_subjects = (part.groupby(level=0).mean() for part in (numbers, numbers[~is_style]))
    return of_all.where(~of_all.index.isin(numbers.index[~is_style]), of_subjects)


def _measured(
    metrics: Sequence[Metric | VectorMetric], subjects: Sequence[Subject | None], prompts: Sequence[Any]
) -> Iterator[tuple[Metric | VectorMetric, list[Measured]]]:
    """Yield each metric with its values of all pictures."""
    built_in = [metric for metric in metrics if metric is BUILT_IN.get(metric.name)]
    own = [metric for metric in metrics if isinstance(metric, Metric) and metric not in built_in]
    prints = take_fingerprints(_with_references(subjects if built_in else ()), what="measuring")
    measured = _measure(own, subjects if own else ())
    for metric in metrics:
        if isinstance(metric, PromptMatch):
            vectors = take_vectors(metric, filter(None, subjects))
            embed = functools.cache(metric.embed_prompt)
            others = [
                embed(prompt) if subject and isinstance(prompt, str) else None
                for subject, prompt in zip(subjects, prompts, strict=True)
            ]
            found = _by_parts(subjects, vectors, functools.partial(_cosine, metric, ""), others)
        elif isinstance(metric, VectorMetric):
            vectors = take_vectors(metric, _with_references(subjects))
            score = functools.partial(_cosine, metric, f"{metric.nothing} in the reference")
            found = _by_parts(subjects, vectors, score)
        elif metric in built_in:
            found = _by_parts(subjects, prints, functools.partial(_of_fingerprints, metric))
        else:
            found = [
                measured[subject.pair, metric.name] if subject and subject.pair else _without_pair(subject)
                for subject in subjects
            ]
            of_pairs = [value for (_, name), value in measured.items() if name == metric.name]
            if failed := [value.problem for value in of_pairs if value.failed == "metric"]:
                # Warn once; each row has the reason in its own column.
                warn(f"{failed[0]} ({len(failed)} of {len(of_pairs)} pictures)")
        yield metric, found


def _with_references(subjects: Iterable[Subject | None]) -> list[Subject]:
    """Return the pictures that have a reference, followed by the references."""
    paired = [subject for subject in subjects if subject and subject.pair]
    references = {subject.reference: subject.run_dir for subject in paired}
    return paired + [Subject(at, ref.path, ref.sha256) for ref, at in references.items() if ref and ref.path]


def _without_pair(subject: Subject | None) -> Measured:
    if subject is None:
        return Measured(None, failed="file")  # why there is no picture is known already
    if subject.reference is not None:
        return Measured(None, "its reference is at a URL, which is not fetched", "given")
    return Measured(None, "its reference is unknown: the directory's table doesn't have its job", "given")


def _by_parts(
    subjects: Sequence[Subject | None],
    taken: tuple[Mapping[str, Any], Mapping[str, str]],
    score: Callable[[Any, Any], Measured],
    others: Sequence[Any] = (),
) -> list[Measured]:
    """Score each picture from the features of it and its reference, or from other features such as prompts."""
    found, problems = taken

    def of_one(place: int, subject: Subject | None) -> Measured:
        pair = subject and subject.pair
        if subject is None or not (others or pair):
            return _without_pair(subject)
        if subject.sha256 in problems:
            return Measured(None, problems[subject.sha256], "file")
        if others or pair is None:
            return score(found[subject.sha256], others[place])
        if pair.reference in problems:
            return Measured(None, f"reference {problems[pair.reference]}", "given")
        return score(found[pair.output], found[pair.reference])

    return [of_one(place, subject) for place, subject in enumerate(subjects)]


def _of_fingerprints(metric: Metric, output: Fingerprint, reference: Fingerprint) -> Measured:
    return _checked(SCORES[metric.name](reference, output))


def _cosine(metric: VectorMetric, why: str, output: Vector | None, other: Vector | None) -> Measured:
    if other is None:
        return Measured(None, why or metric.nothing, "given")
    if output is None:
        return Measured(None, metric.nothing)
    return _checked(cosine(output, other), "the model gave no usable vector")


def take_vectors(
    metric: VectorMetric, subjects: Iterable[Subject]
) -> tuple[dict[str, Vector | None], dict[str, str]]:
    """Turn each picture into a vector once; returns vectors, None for nothing to measure, and problems by digest."""
    by_digest = _by_digest(subjects)
    cache = Cache(subject.run_dir for subject in by_digest.values())
    found: dict[str, Vector | None] = {}
    problems: dict[str, str] = {}
    wanted = []
    for subject in by_digest.values():
        kept = cache.get(subject.run_dir, Key(subject.sha256, "", _VECTOR, metric.version))
        if kept is not None and subject.path.is_file():
            bytes_kept = kept.vector
            found[subject.sha256] = None if bytes_kept is None else np.frombuffer(bytes_kept, dtype="<f4")
        else:
            wanted.append(subject)

    read = functools.partial(_read, metric.side_px)
    try:
        for subject, vector in embedded(metric, wanted, read):
            if isinstance(vector, str):
                problems[subject.sha256] = vector
            else:
                found[subject.sha256] = vector
                content = None if vector is None else vector.astype("<f4").tobytes()
                key = Key(subject.sha256, "", _VECTOR, metric.version)
                cache.put(subject.run_dir, key, Value(vector=content))
    finally:
        cache.save()
    return found, problems


def _read(side_px: int, subject: Subject) -> Image.Image | str:
    try:
        return likeness.read(subject.path, subject.sha256, side_px=side_px)
    except UnreadablePicture as unreadable:
        return str(unreadable)


def embedded(
    metric: VectorMetric, items: Sequence[Item], read: Callable[[Item], Image.Image | str]
) -> Iterator[tuple[Item, Vector | str | None]]:
    """Yield the vector of each picture, in batches; if `read` returns a problem instead of a picture, yield that."""
    work = functools.partial(_embed, portable(metric), read)
    n = metric.batch_size
    yield from each(items, work, what=metric.name, is_portable=True, n_batch=n)


_embedding: Final = threading.Lock()  # not every model is thread-safe


def _embed(sent: Any, read: Callable[[Item], Image.Image | str], items: Sequence[Item]) -> list[Any]:
    """Replace each picture by its vector, with a model that is loaded once per process."""
    pictures = [read(item) for item in items]
    with _embedding:
        metric: VectorMetric = unpacked(sent)
        vectors = iter(metric.embed([picture for picture in pictures if not isinstance(picture, str)]))
    return [picture if isinstance(picture, str) else next(vectors) for picture in pictures]


def _measure(own: Sequence[Metric], subjects: Iterable[Subject | None]) -> dict[tuple[_Pair, str], Measured]:
    """Measure each pair with the user's metrics, from stored values or from the pictures, which are read once."""
    by_pair: dict[_Pair, list[Subject]] = {}
    for subject in subjects:
        if subject and subject.pair:
            by_pair.setdefault(subject.pair, []).append(subject)
    cache = Cache(copies[0].run_dir for copies in by_pair.values())
    measured: dict[tuple[_Pair, str], Measured] = {}
    wanted: dict[tuple[str, ...], list[tuple[_Pair, list[Subject]]]] = {}
    for pair, copies in by_pair.items():
        for metric in own:
            key = Key(*pair, metric.name, metric.version or "")
            if metric.version and (kept := cache.get(copies[0].run_dir, key)):
                measured[pair, metric.name] = _checked(kept.number)
        missing = tuple(metric.name for metric in own if (pair, metric.name) not in measured)
        wanted.setdefault(missing, []).append((pair, copies))
    wanted.pop((), None)
    try:
        for names, several in wanted.items():
            needed = [metric for metric in own if metric.name in names]
            sent = portable(needed)
            work = functools.partial(_measure_several, sent)
            n = 32 if sent is not needed or any(metric.is_batched for metric in needed) else 1
            for (pair, copies), found in each(several, work, what="measuring", is_portable=True, n_batch=n):
                for metric, value in zip(needed, found, strict=True):
                    measured[pair, metric.name] = value
                    if metric.version and value.failed is None:  # what failed may be repaired
                        key = Key(*pair, metric.name, metric.version)
                        cache.put(copies[0].run_dir, key, Value(value.number))
    finally:
        cache.save()
        _read_reference.cache_clear()
    return measured


def _measure_several(sent: Any, several: Sequence[tuple[_Pair, Sequence[Subject]]]) -> list[list[Measured]]:
    """Measure pairs, each given as all pictures with its bytes, in any process."""
    metrics: Sequence[Metric] = unpacked(sent)
    pictures = [_read_pair(copies) for _, copies in several]
    read = [picture for picture in pictures if not isinstance(picture, Measured)]
    values = [iter(_apply_batch(metric, read)) for metric in metrics]
    return [[one] * len(metrics) if isinstance(one, Measured) else [*map(next, values)] for one in pictures]


def _read_pair(copies: Sequence[Subject]) -> tuple[Image.Image, Image.Image] | Measured:
    """Read reference and output of a pair, or return why they can't be read."""
    subject = next((copy for copy in copies if copy.path.is_file()), copies[0])
    assert subject.reference is not None  # noqa: S101 - it is one of a pair
    failed: Literal["file", "given"] = "file"
    try:
        output = likeness.read(subject.path, subject.sha256)
        failed = "given"
        return _read_reference(subject.reference), output
    except UnreadablePicture as unreadable:
        return Measured(None, str(unreadable), failed)


@functools.lru_cache(8)  # rows share them
def _read_reference(reference: SentReference) -> Image.Image:
    assert reference.path is not None  # noqa: S101 - those at URLs make no pair
    try:
        return likeness.read(reference.path, reference.sha256)
    except UnreadablePicture as unreadable:
        raise UnreadablePicture(f"reference {unreadable}") from None


def _apply_batch(metric: Metric, pairs: Sequence[tuple[Image.Image, Image.Image]]) -> list[Measured]:
    """Measure several pairs at once, or one by one if that fails, to isolate the failing picture."""
    if metric.is_batched and pairs:
        try:
            copies = ([picture.copy() for picture in side] for side in zip(*pairs, strict=True))
            values = metric.measure_batch(*copies)
            return [_checked(value) for _, value in zip(pairs, values, strict=True)]
        except Exception as error:  # noqa: BLE001 - a metric is the user's code
            logger.info("%s failed on a batch: %s", metric.name, error)
    return [apply(metric, *pair) for pair in pairs]


def apply(metric: Metric, reference: Image.Image, output: Image.Image) -> Measured:
    """Measure copies of one pair of pictures."""
    try:
        return _checked(metric(reference.copy(), output.copy()))  # a metric may change pictures in place
    except Exception as error:  # noqa: BLE001 - a metric is the user's code, and one failure mustn't stop the rest
        return Measured(None, f"{metric.name} failed: {type(error).__name__}: {error}", "metric")


def _checked(value: Any, nothing: str = Bounded.nothing) -> Measured:
    number = math.nan if value is None else float(value)
    return Measured(number) if math.isfinite(number) else Measured(None, nothing)


class Cache:
    """Values stored in the pictures' run directories; nothing is written before `save`."""

    def __init__(self, run_dirs: Iterable[Path]) -> None:
        self._known = {run_dir: _read_values(run_dir / NAME) for run_dir in dict.fromkeys(run_dirs)}
        self._fresh: dict[Path, dict[Key, Value]] = {}

    def get(self, run_dir: Path, key: Key) -> Value | None:
        """Return a stored value; None if there is none."""
        return self._known[run_dir].get(key)

    def put(self, run_dir: Path, key: Key, value: Value) -> None:
        """Store a value."""
        self._fresh.setdefault(run_dir, {})[key] = value

    def save(self) -> None:
        """Merge new values into the files as they are now; warn about directories that can't be written to."""
        for run_dir, fresh in self._fresh.items():
            path = run_dir / NAME
            values = self._known[run_dir] | _read_values(path, is_quiet=True) | fresh
            table = rows_as_table([(*key, *value) for key, value in values.items()], _SCHEMA)
            try:
                files.replace(path, functools.partial(pq.write_table, table, write_page_checksum=True))
            except OSError as error:
                warn(
                    f"{path} can't be written ({error.strerror or error}); the values aren't kept and will be "
                    "measured again next time"
                )


def _read_values(path: Path, *, is_quiet: bool = False) -> dict[Key, Value]:
    try:
        table = read_kept(path, _SCHEMA)
    except (*directory.UNREADABLE, KeyError) as error:
        if not is_quiet:
            warn(f"{path} can't be read ({error}); its pictures are measured again")
        return {}
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    n_keys = len(Key._fields)
    return {Key(*row[:n_keys]): Value(*row[n_keys:]) for row in rows}
