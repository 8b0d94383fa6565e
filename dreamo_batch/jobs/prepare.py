"""Turn a table into jobs: read and checked as a whole, seeds chosen, job ids computed, equal rows found.

A job's id is the hash of everything that is submitted, as a JSON array, so that different jobs never share a text::

    [model, image, prompt, seed, width, height, use_rephraser, replicate]

with the occurrence as a ninth entry where the service chooses the seed. For a model with its own parameters, the
second entry is an object of its pictures and these parameters. For speed, the array is joined from pieces that
are encoded once per distinct value.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import itertools
import json
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.appearance import lines_of
from dreamo_batch.arguments import check_flag
from dreamo_batch.jobs import fields
from dreamo_batch.jobs.cells import Distinct, distinct, show
from dreamo_batch.jobs.references import OF_IMAGE, CheckOptions, Images, ImageSource, Inputs
from dreamo_batch.jobs.rules import COLUMN_NAME, ERROR, Findings, Problems
from dreamo_batch.service import contract

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


# A whole table read and checked.

_JOINER: Final = "\u200d"  # visible within an emoji
# Invisible although Unicode classes them as letters, marks or symbols: fillers, a blank, variation selectors.
_INVISIBLE: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\ufe0e\ufe0f")
_INVISIBLE_KINDS: Final = ("Cf", "Cc")


class CheckedTable:
    """A table after reading and checking, one entry per row; placeholders where `is_valid` is false."""

    def __init__(self, table: pd.DataFrame, how: CheckOptions) -> None:
        given, (table, renamed) = table, fields.recognised(table)
        fields.check_columns(table)
        findings = Findings(table, lines_of(given))
        self.models = fields.RowModels(findings)
        self.images = Images(findings, replace(how, n_rows=len(table)), self.models)
        self.prompts = fields.read_prompts(findings, self.models)
        self.seeds = fields.read_seeds(findings)
        self.widths, self.heights = fields.read_sizes(findings, self.models)
        self.use_rephraser = fields.read_rephraser(findings, self.models)
        self.replicates = fields.read_replicates(findings)
        self.own = fields.read_own_parameters(findings, self.models, self.images.counts)
        sent = (self.widths, self.heights, self.own.codes)
        rest = (self.seeds.numbers, *sent, self.use_rephraser, self.replicates)
        _find_lookalikes(findings, self.prompts, rest)
        is_first = np.arange(len(table)) == 0
        if renamed:
            what = ", ".join(f"{show(name)!r} as {near!r}" for name, near in renamed.items())
            read = list(renamed.values())
            findings.add(COLUMN_NAME, read[0], is_first, what=f"Read column {what}.", near=", ".join(read))
        for name, near in fields.misnamed(table).items():
            what = f"Ignored column {show(name)!r}; did you mean {near!r}?"
            findings.add(COLUMN_NAME, name, is_first, what=what, near=near)
        sweeps = (self.prompts.codes, *sent)
        fields.find_rephrased_sweeps(findings, self.seeds, self.use_rephraser, sweeps)
        self.is_valid = ~findings.is_in_error()
        self.problems = findings.frame()


def _find_lookalikes(findings: Findings, prompts: Distinct, rest: tuple[NDArray[Any], ...]) -> None:
    """Warn about rows whose prompt differs from an earlier row's only invisibly."""
    # Other cells and blank ones are refused anyway.
    visible = [(isinstance(one, str) and as_seen(one)) or number for number, one in enumerate(prompts.cells)]
    forms = pd.factorize(np.array(visible, dtype=object))[0]
    if len(np.unique(forms)) == len(forms):
        return
    table = findings.of_table
    at = np.flatnonzero(prompts.codes >= 0)
    pictures = [distinct(table[name]).codes[at] for name in fields.image_columns(table)]
    keys = fields.numbered([forms[prompts.codes[at]], *pictures, *(values[at] for values in rest)])
    firsts = at[np.unique(keys, return_index=True)[1]][keys]
    is_alike = prompts.codes[at] != prompts.codes[firsts]
    is_found = np.zeros(len(table), dtype=bool)
    is_found[at[is_alike]] = True
    others, what = np.full((2, len(table)), "", dtype=object)
    for position, first in zip(at[is_alike].tolist(), firsts[is_alike].tolist(), strict=True):
        others[position] = findings.name_of(first)
        what[position] = difference_of(*(prompts.cells[prompts.codes[row]] for row in (position, first)))
    findings.add("prompt-looks-equal", columns.PROMPT, is_found, other=others, difference=what)


def as_seen(prompt: str) -> str:
    """Return a prompt as a reader sees it, to find prompts that differ invisibly."""
    return _spaced(unicodedata.normalize("NFC", _visible(prompt)))


def difference_of(prompt: str, other: str) -> str:
    """Return how two prompts that look alike differ."""
    if prompt == other:
        return ""
    for what, reading in _READINGS:
        if reading(prompt) == reading(other):
            return what
    return "white space, invisible characters and Unicode form"


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(c for place, c in enumerate(text) if c.isspace() or not _is_invisible(text, place))


def _is_invisible(text: str, place: int) -> bool:
    char = text[place]
    if char == _JOINER:
        before = text[:place].rstrip("\ufe0f")[-1:]
        return not before or unicodedata.category(before) not in {"So", "Sk"}
    return char in _INVISIBLE or unicodedata.category(char) in _INVISIBLE_KINDS


_READINGS: Final = (
    ("line ends", _lines),
    ("white space", _spaced),
    ("invisible characters", lambda text: _spaced(_visible(text))),
    ("Unicode form", lambda text: unicodedata.normalize("NFC", text)),
    ("Unicode form and white space", lambda text: _spaced(unicodedata.normalize("NFC", text))),
)


def validate(
    table: fields.Table, *, base_dir: Path | str | None = None, fix_images: bool = False
) -> pd.DataFrame:
    """Find every problem of every row, without sending or writing anything.

    Each distinct picture is opened once and decoded far enough to know that it is complete: about 5 ms for a
    2-megapixel JPEG, in several threads. A PIL image takes longer, because it is encoded as the PNG that a run sends.

    Parameters
    ----------
    table : pandas.DataFrame
        The user's table, or a result of this toolkit. Not changed.
    base_dir : pathlib.Path or str, optional
        Folder where relative image paths start; default: the working directory.
    fix_images : bool, default False
        Report what a run with `fix_images=True` corrects as warnings.

    Returns
    -------
    pandas.DataFrame
        Columns and dtypes of `columns.PROBLEMS`, one row per problem, in the table's order; empty if there is
        none. Shown with the number of rows that can be submitted.

    Raises
    ------
    TableError
        If columns are missing, duplicated, or named like output columns.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"image": ["https://example.com/cat.png"], "prompt": ["a cat"], "seed": [1.5]})
    >>> validate(table)[["severity", "code", "value"]].values.tolist()
    [['error', 'seed-not-integer', '1.5']]
    """
    table = fields.convert_to_frame(table)
    how = CheckOptions(base_dir, fix_images=check_flag("fix_images", fix_images))
    return Problems.of(CheckedTable(table, how).problems, n_rows=len(table))


# Jobs and their identity.

INVALID_CLASS: Final = "invalid"
RECORD: Final = "record"

_ID_CHARACTERS: Final = 32
_PLAIN: Final = (",", ":")


JobText: TypeAlias = tuple[str, str]
"""A job's JSON without the seed: the text before and after it."""


def pictures_of(model: str, images: tuple[str, ...], own: tuple[tuple[str, Any], ...]) -> str:
    """Return the second entry of the array: the picture, or an object of pictures and model-specific parameters."""
    if model == contract.MODEL:
        return images[0]
    rest = "".join(
        f",{json.dumps(name)}:{json.dumps(value, separators=_PLAIN)}" for name, value in sorted(own)
    )
    return f'{{"images":[{",".join(images)}]{rest}}}'


def head_of(pictures: str, prompt: str, model: str = contract.MODEL) -> str:
    """Return the part of the JSON before the seed."""
    return f'["{model}",{pictures},{prompt},'


def tail_of(width: int, height: int, use_rephraser: bool, replicate: int) -> str:
    """Return the part of the JSON after the seed."""
    return f",{width},{height},{'true' if use_rephraser else 'false'},{replicate}]"


def text_of(wanted: JobText, seed: int | None, occurrence: int | None = None) -> str:
    """Return a job as a JSON array."""
    head, tail = wanted
    written = f"{head}{'null' if seed is None else seed}{tail}"
    return written if occurrence is None else f"{written[:-1]},{occurrence}]"


def job_id(text: str) -> str:
    """Return the id of a job."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:_ID_CHARACTERS]


class Job(NamedTuple):
    """What is bought for one or more rows (a tuple, for speed); `own` has the model-specific parameters as pairs."""

    job_id: str
    prompt: str
    seed: int
    width: int
    height: int
    use_rephraser: bool
    replicate: int
    image: ImageSource
    further: tuple[ImageSource, ...] = ()
    model: str = contract.MODEL
    own: tuple[tuple[str, Any], ...] = ()

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """Every reference picture."""
        return (self.image, *self.further)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A table ready to be submitted."""

    jobs: dict[str, Job]  # in order of first appearance
    rows: pd.DataFrame  # what was decided for each row of the table, by position
    problems: pd.DataFrame  # as `validate` returns them
    drawn: frozenset[str] = frozenset()  # the jobs with a random seed

    @functools.cached_property
    def weights(self) -> Counter[str]:
        """Count the rows of each job; the keys are the objects in `jobs`, as copies would double the memory."""
        return Counter([*self.jobs, *self.rows.dropna(subset=columns.DUPLICATE_OF)[columns.JOB_ID]])


def prepare(
    table: pd.DataFrame, how: CheckOptions | None = None, *, entropy: str, random_seed: str = RECORD
) -> Prepared:
    """Turn a table into jobs and check their pictures; by default no copies are stored."""
    checked = CheckedTable(table, how or CheckOptions(inputs=Inputs(None)))
    wanted = _SubmittableRows(checked, entropy, random_seed)
    drawn = frozenset(itertools.compress(wanted.ids, ~checked.seeds.is_given[wanted.positions]))
    is_collecting = gc.isenabled()
    gc.disable()  # garbage collection meanwhile would triple the time for a million jobs
    try:
        jobs = _jobs(checked, wanted)
    finally:
        if is_collecting:
            gc.enable()
    return Prepared(jobs, _rows(checked, wanted), checked.problems, drawn)


class _SubmittableRows:
    """The rows that can be submitted: position, job id, seed, and the position of the first row with the same job."""

    def __init__(self, checked: CheckedTable, entropy: str, random_seed: str) -> None:
        self.positions = np.flatnonzero(checked.is_valid)
        choose = Draw(entropy if random_seed == RECORD else None)
        self.seeds = checked.seeds.numbers[self.positions].tolist()
        is_given = checked.seeds.is_given[self.positions].tolist()
        self.ids: list[str] = []
        for number, wanted in enumerate(_texts(checked, self.positions)):
            if is_given[number]:
                self.ids.append(job_id(text_of(wanted, self.seeds[number])))
            else:
                self.seeds[number], one = choose(wanted)
                self.ids.append(one)
        first_at: dict[str, int] = {}
        firsts = map(first_at.setdefault, self.ids, self.positions.tolist())
        self.firsts = np.fromiter(firsts, np.intp, len(self.ids))


def _texts(checked: CheckedTable, positions: NDArray[np.intp]) -> Iterator[JobText]:
    images, owns, names = checked.images.identities, checked.own.cells, list(contract.MODELS)
    prompts = [json.dumps(prompt) if isinstance(prompt, str) else "" for prompt in checked.prompts.cells]

    @functools.cache  # cached, as there are few distinct ones
    def pictures(model: int, image: int, own: int) -> str:
        return pictures_of(names[model], images[image], owns[own])

    codes = (checked.models.numbers, checked.images.numbers, checked.own.codes)
    places = zip(*(column[positions].tolist() for column in codes), strict=True)
    in_prompt = checked.prompts.codes[positions].tolist()
    heads = (
        head_of(pictures(*place), prompts[prompt], names[place[0]])
        for place, prompt in zip(places, in_prompt, strict=True)
    )
    numbers = (checked.widths, checked.heights, checked.use_rephraser, checked.replicates)
    tails = map(functools.cache(tail_of), *(column[positions].tolist() for column in numbers))
    return zip(heads, tails, strict=True)


SEED_END: Final = 2**31


class Draw:
    """Draws seeds in 1 to 2**31-1 from the entropy, the job and its occurrence, never the same twice."""

    # The n-th row of a job gets its n-th seed, so that a table can be sorted or extended without losing pictures.

    def __init__(self, entropy: str | None) -> None:
        self._entropy = None if entropy is None else json.dumps(entropy)
        # Keyed by hash, because a million prompts would take much memory.
        self._n_seen: Counter[str] = Counter()
        self._drawn: set[str] = set()

    def __call__(self, wanted: JobText) -> tuple[int, str]:
        """Return the next seed of a job (-1 if the service chooses it) and the job's id."""
        rest = job_id(text_of(wanted, None))
        occurrence = self._n_seen[rest]
        self._n_seen[rest] += 1
        if self._entropy is None:
            seed = contract.SEED_RANDOM.value
            return seed, job_id(text_of(wanted, seed, occurrence))
        for n_tries in itertools.count():
            text = f"[{self._entropy},{text_of(wanted, None, occurrence)},{n_tries}]"
            head = hashlib.sha256(text.encode("ascii")).digest()[:8]
            seed = int.from_bytes(head, "big") % (SEED_END - 1) + 1
            one = job_id(text_of(wanted, seed))
            # Two of thousands of draws may coincide and would become one job, so the later one is drawn again.
            if one not in self._drawn:
                break
        self._drawn.add(one)
        return seed, one


def _jobs(checked: CheckedTable, wanted: _SubmittableRows) -> dict[str, Job]:
    is_first = wanted.firsts == wanted.positions
    positions = wanted.positions[is_first]
    ids = list(itertools.compress(wanted.ids, is_first))
    images = [checked.images.sources[number] for number in checked.images.numbers[positions].tolist()]
    numbers = (checked.widths, checked.heights, checked.use_rephraser, checked.replicates)
    fields = (
        ids,
        map(checked.prompts.cells.__getitem__, checked.prompts.codes[positions].tolist()),
        itertools.compress(wanted.seeds, is_first),
        *(column[positions].tolist() for column in numbers),
        (row[0] for row in images),
        (row[1:] for row in images),
        map(list(contract.MODELS).__getitem__, checked.models.numbers[positions].tolist()),
        map(checked.own.cells.__getitem__, checked.own.codes[positions].tolist()),
    )
    return dict(zip(ids, map(Job, *fields), strict=True))


def _rows(checked: CheckedTable, wanted: _SubmittableRows) -> pd.DataFrame:
    index = pd.RangeIndex(len(checked.is_valid))
    is_again = wanted.firsts != wanted.positions
    again = (wanted.positions[is_again], wanted.firsts[is_again])
    rows = {
        columns.JOB_ID: _filled(index, wanted.positions, wanted.ids, columns.STR),
        columns.DUPLICATE_OF: _filled(index, *again, columns.INT),
        columns.SEED_SENT: _filled(index, wanted.positions, wanted.seeds, columns.INT),
    }
    return pd.DataFrame(rows | _images_of(checked, index) | _errors_of(checked, index), index=index)


def _filled(index: pd.Index, positions: NDArray[np.intp], values: Any, dtype: str) -> pd.Series:
    return pd.Series(values, index=positions, dtype=dtype).reindex(index)


def _images_of(checked: CheckedTable, index: pd.Index) -> dict[str, pd.Series]:
    # As categories, because a million paths and digests would take more memory than the rest of the table.
    found = {}
    for name, part in zip(OF_IMAGE, ("location", "digest", "sent_location", "sent_digest"), strict=True):
        texts = pd.array([getattr(first, part) for first, *_ in checked.images.sources], columns.STR)
        found[name] = pd.Series(pd.Categorical(texts).take(checked.images.numbers, allow_fill=True), index)
    return found


def _errors_of(checked: CheckedTable, index: pd.Index) -> dict[str, pd.Series]:
    errors = checked.problems[checked.problems[columns.SEVERITY] == ERROR].set_index(columns.POSITION)
    messages = errors[columns.COLUMN] + ": " + errors[columns.MESSAGE]
    found = {
        columns.ERROR_CLASS: pd.Series(INVALID_CLASS, errors.index.unique()),
        columns.ERROR_CODE: errors[columns.CODE].groupby(level=0).first(),
        columns.ERROR_MESSAGE: messages.groupby(level=0).agg(" ".join),
    }
    return {name: values.reindex(index).astype(columns.STR) for name, values in found.items()}
