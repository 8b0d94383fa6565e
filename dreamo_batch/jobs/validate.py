"""Read a whole table of jobs and find everything that is wrong with it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.jobs import fields
from dreamo_batch.jobs.cells import distinct, printable, show
from dreamo_batch.jobs.references import Check, Images, read_images
from dreamo_batch.jobs.rules import COLUMN_NOT_READ, Findings, Problems

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dreamo_batch.jobs.cells import Distinct, Integers

_JOINER: Final = "\u200d"  # visible within an emoji
# Invisible although Unicode calls them letters, marks or symbols: fillers, a blank pattern, variation selectors.
_INVISIBLE: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\ufe0e\ufe0f")
_INVISIBLE_KINDS: Final = ("Cf", "Cc")


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A table as it was read, one entry per row; placeholders where `is_valid` is false."""

    images: Images
    prompts: Distinct
    seeds: Integers
    sizes: fields.Sizes
    use_rephraser: NDArray[np.bool_]
    replicates: NDArray[np.int64]
    models: fields.RowModels
    own: fields.OwnParameters
    is_valid: NDArray[np.bool_]
    is_rephrased_sweep: NDArray[np.bool_]
    problems: pd.DataFrame


def read(table: pd.DataFrame, how: Check) -> Reading:
    """Read a table."""
    table, renamed = fields.recognised(table)
    fields.check_columns(table)
    findings = Findings(table)
    models = fields.read_models(findings)
    images = read_images(findings, replace(how, n_rows=len(table)), models)
    prompts = fields.read_prompts(findings, models)
    seeds = fields.read_seeds(findings)
    sizes = fields.read_sizes(findings, models)
    use_rephraser = fields.read_rephraser(findings, models)
    replicates = fields.read_replicates(findings)
    own = fields.read_own_parameters(findings, models, images.counts)
    rest = (seeds.numbers, sizes.widths, sizes.heights, use_rephraser, replicates, own.numbers)
    _find_lookalikes(findings, prompts, rest)
    is_first = np.arange(len(table)) == 0
    for name, near in renamed.items():
        what = f"Read column {show(name)!r} as {near!r}."
        findings.add(COLUMN_NOT_READ, near, is_first, what=what, near=near)
    for name, near in fields.misnamed(table).items():
        what = f"Ignored column {show(name)!r}; did you mean {near!r}?"
        findings.add(COLUMN_NOT_READ, name, is_first, what=what, near=near)
    for name in fields.pictures_beyond(table):
        what = (
            f"Ignored column {show(name)!r}; numbered pictures are image_1 to {columns.IMAGE_NUMBERED[-1]}."
        )
        findings.add(COLUMN_NOT_READ, name, is_first, what=what, near=columns.IMAGE_NUMBERED[-1])
    is_rephrased_sweep = fields.find_rephrased_sweeps(
        findings, seeds, use_rephraser, (prompts.codes, sizes.widths, sizes.heights, own.numbers)
    )
    return Reading(
        images=images,
        prompts=prompts,
        seeds=seeds,
        sizes=sizes,
        use_rephraser=use_rephraser,
        replicates=replicates,
        models=models,
        own=own,
        is_valid=~findings.is_in_error(),
        is_rephrased_sweep=is_rephrased_sweep,
        problems=findings.frame(),
    )


def _find_lookalikes(findings: Findings, prompts: Distinct, rest: tuple[NDArray[Any], ...]) -> None:
    """Warn about rows whose prompt differs from an earlier row's only invisibly."""
    forms = pd.factorize(np.array(list(map(_visible_form, prompts.cells, count())), dtype=object))[0]
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
        others[position] = printable(str(table.index[first]))
        what[position] = difference(*(prompts.cells[prompts.codes[one]] for one in (position, first)))
    findings.add("prompt-looks-equal", columns.PROMPT, is_found, other=others, difference=what)


def _visible_form(prompt: object, number: int) -> str | int:
    # Other cells and blanks are refused anyway; they look like nothing else.
    return (isinstance(prompt, str) and seen(prompt)) or number


def seen(prompt: str) -> str:
    """Return what a reader sees of a prompt, to find prompts that only look alike."""
    return _spaced(unicodedata.normalize("NFC", _visible(prompt)))


def difference(prompt: str, other: str) -> str:
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
    return "".join(one for place, one in enumerate(text) if one.isspace() or not _is_invisible(text, place))


def _is_invisible(text: str, place: int) -> bool:
    one = text[place]
    if one == _JOINER:
        before = text[:place].rstrip("\ufe0f")[-1:]
        return not before or unicodedata.category(before) not in {"So", "Sk"}
    return one in _INVISIBLE or unicodedata.category(one) in _INVISIBLE_KINDS


_READINGS: Final = (
    ("line ends", _lines),
    ("white space", _spaced),
    ("invisible characters", lambda text: _spaced(_visible(text))),
    ("Unicode form", lambda text: unicodedata.normalize("NFC", text)),
    ("Unicode form and white space", lambda text: _spaced(unicodedata.normalize("NFC", text))),
)


def validate(
    table: pd.DataFrame, *, base_dir: Path | str | None = None, fix_images: bool = False
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
    table = fields.as_frame(table)
    problems = read(table, Check(absolute(base_dir), fix_images=fix_images)).problems
    return Problems.of(problems, n_rows=len(table))


def absolute(folder: Path | str | None) -> Path:
    """Return the absolute path of a folder; the working directory by default."""
    return Path.cwd() if folder is None else Path(folder).expanduser().absolute()
