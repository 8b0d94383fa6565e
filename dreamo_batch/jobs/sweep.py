"""Make a table of all combinations of some values, or of an even sample of them; fill in prompt templates."""

from __future__ import annotations

import builtins
import difflib
import io
import itertools
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, Final
from unicodedata import normalize

import numpy as np
import pandas as pd
from PIL import Image

from dreamo_batch import columns
from dreamo_batch.appearance import HeadedFrame, Headline
from dreamo_batch.arguments import check_count, file_errors, file_path, names_in
from dreamo_batch.errors import TableError, UsageError, warn
from dreamo_batch.jobs import cells
from dreamo_batch.jobs.fields import misnamed, numbered, read_size, seed_numbers
from dreamo_batch.jobs.references import files_matching
from dreamo_batch.jobs.tables import decoded
from dreamo_batch.service import contract
from dreamo_batch.text import counted, listed, type_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


_TEMPLATE: Final = "template"
_OPTIONS: Final = ("n_seeds", "zip", "sample", "entropy", "max_rows")  # arguments of `sweep` that aren't axes
# Iterable, but treated as a single value.
_SINGLE = (str, bytes, bytearray, memoryview, os.PathLike, Mapping, Image.Image, io.BufferedIOBase)
_MAGIC = "*?["
_PAIR = 2


def read_axis(name: str, given: Any, *, most: int) -> list[Any]:
    """Return the values of one axis."""
    values = _values(name, given, most)
    if name == columns.IMAGE:
        values = [path for value in values for path in _images(value)]
    elif reader := _reader_of(name):
        values = [_read(name, value, *reader) for value in values]
    if not values:
        raise UsageError(f"{name}: the axis is empty. Pass at least one value, or omit it.")
    for text in (name, *values):
        if isinstance(text, str) and cells.printable(text) != text:
            raise UsageError(
                f"{cells.show(name)}: {cells.show(text)} isn't valid Unicode; correct it, or rename the file."
            )
    return values


def _values(name: str, given: Any, most: int) -> list[Any]:
    if isinstance(given, (set, frozenset)):
        raise UsageError(f"{name}: a set has no order, so the rows would differ between runs. Pass a list.")
    if isinstance(given, Zipped):
        raise UsageError(
            f"Pass zipped(...) without a name, before the others: sweep(zipped(...), ...), not {name}=."
        )
    if hasattr(given, "columns"):
        raise UsageError(f"{name}: a table can't be an axis. Pass one of its columns: table[{name!r}].")
    if isinstance(given, io.TextIOBase):
        raise UsageError(f"{name}: pass the lines of a text file with dreamo.lines(path).")
    is_pair = name == columns.SIZE and isinstance(given, tuple) and read_size(given) is not None
    n_sides = len(getattr(given, "shape", "?"))
    is_grey = name == columns.IMAGE and n_sides == _PAIR and given.dtype == np.uint8
    is_array = is_grey or n_sides > _PAIR  # an array of levels is a picture
    given = given if n_sides or isinstance(given, _SINGLE) else given[()]
    if is_pair or is_array or isinstance(given, _SINGLE) or not isinstance(given, Iterable):
        return [given]
    return list(itertools.islice(given, most + 1))


def _reader_of(name: str) -> tuple[Callable[[Any], Any], str] | None:
    """Return the reader of a column's values (it returns None for a bad one) and the words for a bad value."""
    return _READERS.get(name) or _READERS.get(columns.INPUTS[name].dtype if name in columns.INPUTS else "")


def _read(name: str, value: Any, read: Callable[[Any], Any], problem: str) -> Any:
    if cells.is_missing(value) and name not in {columns.PROMPT, _TEMPLATE}:
        return None
    if (found := read(value)) is None:
        raise UsageError(f"{name}: {cells.show(value) or repr(value)} {problem}.")
    return found


def _size(value: Any) -> str | None:
    size = read_size(value)
    # Text is kept: "16:9" reads better in a gallery's heading than its size in pixels.
    return size and (value if isinstance(value, str) else f"{size[0]}x{size[1]}")


_READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    columns.INT: (lambda value: cells.read_integer(value).value, "is not a whole number (64 bits)"),
    columns.BOOL: (lambda value: cells.read_boolean(value).value, "is neither true nor false"),
    columns.FLOAT: (lambda value: cells.read_number(value).value, "is not a number"),
    columns.MODEL: (
        lambda value: next((name for name in contract.MODELS if name == str(value).strip().lower()), None),
        f"is no model; expected {' or '.join(contract.MODELS)}",
    ),
    columns.SIZE: (_size, "is neither WIDTHxHEIGHT nor an advised ratio such as 16:9"),
    **dict.fromkeys(
        (columns.PROMPT, _TEMPLATE),
        (lambda value: value if isinstance(value, str) and value else None, "is not a prompt; expected text"),
    ),
}


def _images(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):  # the pictures of a row; `validate` reports invalid ones
        found_each = (_images(item) if isinstance(item, str | os.PathLike) else [item] for item in value)
        return [list(itertools.chain.from_iterable(found_each))]
    if cells.is_missing(value):
        raise UsageError("image: a picture is missing. Pass a path, URL, bytes or PIL image.")
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not _is_pattern(value):
        return [value]
    found, near = files_matching(str(file_path("image", value)))
    named = listed(map(cells.printable, near))
    if not found:
        hint = f" Some differ only in letter case: {named}." if near else ""
        raise UsageError(
            f"image: no file matches {value!r} (searched in {Path.cwd()}).{hint} Check the pattern, or pass a path."
        )
    if near:
        warn(
            f"image: {value!r} misses {counted(len(near), 'file')} that would match in another letter case: {named}. "
            "Pass a list of patterns to include them."
        )
    return found


def _is_pattern(text: str) -> bool:
    if text.strip()[:5].lower() == "data:" or "://" in text:
        return False
    # A file may be named "cat [1].png"; Path.exists would raise in a folder without permission.
    return any(character in text for character in _MAGIC) and not os.path.exists(Path(text).expanduser())  # noqa: PTH110


MAX_ROWS = 100_000
_ROUNDS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Zipped:
    """Axes that vary together; see `zipped`."""

    axes: dict[str, Any]


def zipped(*unnamed: Any, **axes: Any) -> Zipped:
    """Tie axes together for `sweep`: the first values of all make one row, then the second ones.

    Parameters
    ----------
    *unnamed
        Refused, because they belong to no column.
    **axes
        Iterables of equal length, by the names of their columns.

    Returns
    -------
    Zipped
        To pass to `sweep` before its keywords.

    Raises
    ------
    UsageError
        If there are fewer than two axes.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> pairs = dreamo.zipped(animal=["fox", "owl"], place=["beach", "forest"])
    >>> dreamo.sweep(pairs, image="data/mascot.png", template="a {animal} in a {place}")["prompt"].tolist()
    ['a fox in a beach', 'a owl in a forest']
    """
    if unnamed or len(axes) < _PAIR:
        raise UsageError("zipped ties axes: pass two or more by name, such as animal=[...], place=[...].")
    return Zipped(axes)


class SweptTable(HeadedFrame):
    """What `sweep` returns: a DataFrame with a summary above its rows; anything derived from it is a plain one."""

    _metadata = ["_made_of"]  # noqa: RUF012 - how pandas keeps an attribute beside the columns
    _made_of = ""

    def _headline(self) -> Headline | None:
        if not self._made_of:
            return None
        n_same = len(self) - _n_jobs(self)
        jobs = counted(len(self) - n_same, "distinct job")
        same = (
            f"{counted(n_same, 'row')} {'is' if n_same == 1 else 'are'} the same job as an earlier one, which is "
            "bought once. To buy each, add replicate=."
        )
        return Headline(
            f"{counted(len(self), 'row')}: {self._made_of}; {jobs}.", warnings=(same,) if n_same else ()
        )


def _n_jobs(table: pd.DataFrame) -> int:
    """Count the rows that differ in what is submitted."""
    keys = [
        cells.distinct(table[name]).codes for name in columns.INPUTS if name in table and name != columns.SEED
    ]
    has_seed = columns.SEED in table
    seeds = cells.integers(table[columns.SEED]) if has_seed else cells.Integers.nothing(len(table))
    return len(np.unique(numbered([*keys, seed_numbers(seeds)])))


def sweep(
    *groups: Zipped,
    image: Any = None,
    prompt: Any = None,
    template: Any = None,
    seed: Any = None,
    n_seeds: int | None = None,
    size: Any = None,
    width: Any = None,
    height: Any = None,
    use_rephraser: Any = None,
    replicate: Any = None,
    model: Any = None,
    ref_type: Any = None,
    guidance_scale1: Any = None,
    zip: Iterable[Any] = (),  # noqa: A002 - named like Python's own zip
    sample: int | None = None,
    entropy: int = 0,
    max_rows: int = MAX_ROWS,
    **user_axes: Any,
) -> pd.DataFrame:
    """Make a table of all combinations of some values.

    Every argument is an axis: one value, or an iterable of values. Rows are in the order of nested loops, the first
    axis outermost; axes are in the order of the signature, then your own as written. A group in `zip` has the place of
    its first axis.

    Parameters
    ----------
    *groups : Zipped
        Axes that vary together, as `zipped` returns them.
    image : path, URL, bytes, file, PIL image, array, glob pattern, or iterable of these
        Reference pictures. ``"refs/*.png"`` stands for all matching files, sorted by name. A list within the iterable
        is one value: the several pictures of a row.
    prompt : str or iterable of str, optional
        What to draw; or pass `template`.
    template : str or iterable of str, optional
        Prompts with names of axes in braces, ``"a {animal} on a {place}"``, which are filled in; double braces stand
        for braces. The template stays in the column `prompt_template`, the values in their own columns.
    seed : int or iterable of int, optional
        Seeds; None or -1 in a list is a random seed, chosen by the run.
    n_seeds : int, optional
        This many random seeds instead of `seed`, chosen and recorded by the run.
    size : str, pair of int, or iterable of these, optional
        ``"16:9"``, ``"1328x1328"`` or ``(1328, 1328)``, instead of `width` and `height`.
    width, height : int or iterable of int, optional
        In pixels.
    use_rephraser : bool or iterable of bool, optional
        Whether the service may reword the prompt.
    replicate : int or iterable of int, optional
        Buys the same job once per value: ``replicate=range(3)`` for three.
    model : str or iterable of str, optional
        ``"spark_dreamo"`` (default) or ``"spark_multi_dreamo"``.
    ref_type : str or iterable of str, optional
        What each picture of a row is, as one text: ``"IP,STYLE"``.
    guidance_scale1 : float or iterable of float, optional
        1 to 7; only ``spark_multi_dreamo``.
    zip : iterable of groups of names, optional
        Axes of equal length that vary together: ``zip=(("prompt", "seed"),)`` pairs first with first.
        A single group needs no outer parentheses: ``zip=("prompt", "seed")``.
    sample : int, optional
        Only this many of the combinations, chosen at random and spread evenly: each value of an axis occurs as often as
        another, give or take one.
    entropy : int, default 0
        Another number chooses another sample; the same call makes the same table. Kept in ``attrs["dreamo_sample"]``
        of the table and its results, and in ``run.json``.
    max_rows : int, default 100_000
        Refuse to make more rows than this.
    **user_axes
        Further columns, carried through to the results.

    Returns
    -------
    pandas.DataFrame
        On a RangeIndex, with columns only for what you pass. `Int64` for integers, `boolean` for `use_rephraser`,
        `str` for text, `object` for pictures in memory. Shown with the number of rows, axes and distinct jobs.

    Raises
    ------
    UsageError
        If an axis is empty or has an invalid value, axes that vary together differ in length, an axis is named like an
        output column, a template names something that isn't an axis or leaves out one of yours, or there would be more
        than `max_rows` rows.

    Examples
    --------
    >>> table = sweep(image="https://example.com/cat.png", prompt="a cat", size=["1:1", "16:9"], n_seeds=4)
    >>> len(table), table["seed"].isna().sum()
    (8, np.int64(8))
    >>> pairs = sweep(image="https://example.com/cat.png", prompt=["a", "b"], mood=["x", "y"], zip=("prompt", "mood"))
    >>> pairs[["prompt", "mood"]].values.tolist()
    [['a', 'x'], ['b', 'y']]
    >>> places = sweep(image="cat.png", template="a cat on a {place}", place=["beach", "hill"], seed=[1, 2])
    >>> places.summary()
    '4 rows: 2 seed x 2 place; 4 distinct jobs.'
    """
    # The arguments that are columns, in the order of the signature.
    given = {name: value for name, value in locals().items() if name in (*columns.INPUTS, _TEMPLATE)}
    check_count("max_rows", max_rows)
    check_count("sample", 1 if sample is None else sample)
    check_count("entropy", entropy, least=0)
    if n_seeds is not None:
        check_count("n_seeds", n_seeds)
        if seed is not None:
            raise UsageError(
                "Pass seed or n_seeds, not both: seed for your own seeds, n_seeds for random ones."
            )
        given[columns.SEED] = [None] * min(n_seeds, max_rows + 1)
    # As Python normalises argument names: a letter and its accent may be one character or two.
    user_axes = {normalize("NFKC", name): value for name, value in user_axes.items()}
    tied = [_ungrouped(group, given, user_axes) for group in groups]
    _refuse_taken_names(user_axes)
    given |= user_axes
    text = columns.PROMPT if given[_TEMPLATE] is None else _TEMPLATE
    if text == _TEMPLATE and given[columns.PROMPT] is not None:
        raise UsageError("Pass prompt or template, not both: template for prompts with names in braces.")
    for needed in (columns.IMAGE, text):
        if given[needed] is None and (near := difflib.get_close_matches(needed, user_axes, n=1)):
            raise UsageError(f"Pass {needed}=, not {near[0]}=.")
    if given[text] is None:
        raise UsageError("prompt is missing or empty. Pass prompt=, or template= for names in braces.")
    axes = {
        name: read_axis(name, value, most=max_rows)
        for name, value in given.items()
        if value is not None or name in {columns.IMAGE, text, *user_axes}
    }
    _refuse_misspelled(axes, user_axes)
    if text == _TEMPLATE:
        _check_names(axes[text], [name for name in axes if name not in {text, columns.IMAGE}], user_axes)
    ties = _groups(axes, zip, tied)
    _refuse_explosion(axes, ties, max_rows, sample)
    lengths = [len(axes[tie[0]]) for tie in ties]
    places = _sampled(lengths, sample, np.random.default_rng(entropy))
    table = pd.DataFrame(
        {name: _column(name, axes[name]).take(places[:, at]) for at, tie in enumerate(ties) for name in tie}
    )[list(axes)]
    if text == _TEMPLATE:
        of_tie = {name: at for at, tie in enumerate(ties) for name in tie}
        rows = ({name: axes[name][line[at]] for name, at in of_tie.items()} for line in places.tolist())
        prompts = [_fill(row[text], row) for row in rows]  # not from the table, where 2 beside 0.5 is 2.0
        table.insert(1, columns.PROMPT, pd.Series(prompts, dtype=columns.STR))
        table = table.rename(columns={text: columns.PROMPT_TEMPLATE})
    made = " x ".join(
        f"{n:,} {' and '.join(tie)}" for tie, n in builtins.zip(ties, lengths, strict=True) if n > 1
    )
    if sample is not None and sample < math.prod(lengths):
        made = f"an even sample of {math.prod(lengths):,} ({made}; entropy {entropy})"
        table.attrs[columns.SAMPLE] = {"rows": int(sample), "of": math.prod(lengths), "entropy": int(entropy)}
    return SweptTable.of(table, made_of=made or "one value each")


def _refuse_misspelled(axes: Mapping[str, Sequence[Any]], user_axes: Collection[str]) -> None:
    """Refuse an axis that looks like a misspelled argument (name and values), unless a template names it."""
    sides = {columns.SIZE, columns.WIDTH, columns.HEIGHT}
    slips = misnamed(pd.DataFrame(columns=[*{*axes, columns.PROMPT, *(sides if sides & {*axes} else ())}]))
    if columns.SEED not in axes:
        slips = dict.fromkeys(difflib.get_close_matches("n_seeds", user_axes, cutoff=0.85), "n_seeds") | slips
    named = {part for template in axes.get(_TEMPLATE, ()) for _, part in _template_parts(str(template))}
    for name in user_axes:
        if name in slips and name not in named:
            argument = columns.IMAGE if slips[name] in columns.IMAGE_NUMBERED else slips[name]
            reader = _reader_of(columns.SEED if argument == "n_seeds" else argument)
            if reader is None or None not in map(reader[0], axes[name]):
                raise UsageError(
                    f"Pass {argument}=, not {name}=. For a column of your own, use .assign({name}=...) on the result."
                )


def _ungrouped(group: Any, given: dict[str, Any], user_axes: dict[str, Any]) -> tuple[str, ...]:
    """Add the axes of a `zipped` group to the other axes; return their names."""
    if not isinstance(group, Zipped):
        raise UsageError(f"sweep takes axes by name, or what zipped(...) returns, not {cells.show(group)!r}.")
    grouped = {normalize("NFKC", name): values for name, values in group.axes.items()}
    for name, values in grouped.items():
        axes = given if name in given else user_axes
        if axes.get(name) is not None:
            raise UsageError(f"{name} is an axis twice, alone and in zipped(...). Pass it once.")
        axes[name] = values
    return tuple(grouped)


def _refuse_taken_names(user_axes: dict[str, Any]) -> None:
    for name in user_axes:
        if name == columns.PROMPT_TEMPLATE:
            raise UsageError(f"Pass prompts with names in braces as template=, not {name}=.")
        if name in _OPTIONS:
            raise UsageError(f"{name} isn't an axis; pass it to sweep itself, outside of zipped(...).")
        if name in columns.OUTPUTS:
            raise UsageError(f"{name} is an output column. Rename the axis, for example to my_{name}.")
        if name in {*columns.IMAGE_ALIASES, *columns.IMAGE_NUMBERED}:
            raise UsageError(f"Pass pictures as image=, not {name}=; several of a row as image=[[one, two]].")


def _groups(
    axes: dict[str, list[Any]], tied: Iterable[Any], zipped: list[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """Group the axes that vary together: those tied by `zip`, those in `zipped`, and every other one alone."""
    listed = list(tied) if isinstance(tied, Iterable) and not isinstance(tied, str | Mapping) else [tied]
    if listed and all(isinstance(name, str) for name in listed):
        listed = [listed]
    groups = [tuple(names_in("zip", group, is_ordered=False)) for group in (*listed, *zipped)]
    names = [name for group in groups for name in group]
    for name in names:
        if name not in axes:
            raise UsageError(f"zip names {name!r}, which isn't an axis; the axes are {', '.join(axes)}.")
        if names.count(name) > 1:
            raise UsageError(f"zip names {name!r} twice; an axis can be in one group only.")
    for group in groups:
        if len({len(axes[name]) for name in group}) > 1:
            counts = ", ".join(f"{name} has {len(axes[name])}" for name in group)
            raise UsageError(f"Axes that vary together need the same number of values, but {counts}.")
    group_of = {name: group for group in groups for name in group}
    return list(dict.fromkeys(group_of.get(name, (name,)) for name in axes))


def _refuse_explosion(
    axes: dict[str, list[Any]], groups: Sequence[tuple[str, ...]], most: int, n_sampled: int | None
) -> None:
    lengths = {" and ".join(group): len(axes[group[0]]) for group in groups}
    n_rows = math.prod(lengths.values())
    if (n_rows if n_sampled is None else max(n_sampled, *lengths.values())) <= most:
        return
    factors = " x ".join(f"{n:,} {name}" for name, n in lengths.items() if n > 1)
    at_least = "at least " if max(lengths.values()) > most else ""
    raise UsageError(
        f"The sweep would have {at_least}{n_rows:,} rows ({factors}), more than max_rows={most:,}. "
        "Pass fewer values, or a larger max_rows."
    )


def _all_places(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return the index on each axis for every combination, in the order of nested loops."""
    combinations = itertools.product(*map(range, lengths))
    return np.fromiter(combinations, np.dtype((np.int64, len(lengths))), math.prod(lengths))


def _sampled(lengths: Sequence[int], n: int | None, chance: np.random.Generator) -> NDArray[np.int64]:
    """Choose n combinations in which the values of each axis occur equally often, give or take one."""
    n_all = math.prod(lengths)
    if n is None or n >= n_all:
        return _all_places(lengths)
    if 2 * n > n_all:  # the rest is as even as the sample
        left_out = _sampled(lengths, n_all - n, chance)
        places = np.concatenate([left_out, _all_places(lengths)])
        return np.asarray(pd.DataFrame(places).drop_duplicates(), np.int64)[len(left_out) :]
    places = np.stack([_even(length, n, chance) for length in lengths], axis=1)
    for _ in range(_ROUNDS_MAX):
        again = np.flatnonzero(pd.DataFrame(places).duplicated())
        for row in again:  # swapping the values of two rows on an axis doesn't change how often each occurs
            axis, other = chance.integers(len(lengths)), chance.integers(n)
            places[[row, other], axis] = places[[other, row], axis]
        if not len(again):
            break
    return np.asarray(pd.DataFrame(places).drop_duplicates().sort_values([*range(len(lengths))]), np.int64)


def _even(length: int, n: int, chance: np.random.Generator) -> NDArray[np.int64]:
    """Return n indices in random order, each equally often, give or take one."""
    rounds = [chance.permutation(length) for _ in range(math.ceil(n / length))]
    return chance.permutation(np.concatenate(rounds)[:n])


def _column(name: str, values: list[Any]) -> Any:
    dtype = columns.INPUTS[name].dtype if name in columns.INPUTS else None
    if name == columns.IMAGE and all(isinstance(value, str) for value in values):
        dtype = columns.STR
    if dtype not in {None, "object"}:
        return pd.array(values, dtype=dtype)
    boxed = pd.Series(values, dtype=object)
    return boxed.array if dtype else boxed.infer_objects().array


def lines(path: str | os.PathLike[str]) -> list[str]:
    r"""Read the values of an axis from a text file, one per line.

    Parameters
    ----------
    path : path
        A file in UTF-8. Blank lines are skipped, and so are blanks at the ends of a line.

    Returns
    -------
    list of str
        The lines, in order.

    Raises
    ------
    TableError
        If there is no such file, it isn't UTF-8, or all of its lines are blank.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "places.txt"
    >>> _ = path.write_text("beach\n\nforest\n")
    >>> lines(path)
    ['beach', 'forest']
    """
    file = file_path("path", path)
    with file_errors(TableError, file, "read"):
        text = decoded(file, file.read_bytes())
    found = [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    if not found:
        raise TableError(f"{file} has no lines but blank ones. Write one value per line.")
    return found


def _check_names(templates: Sequence[str], axes: Collection[str], own: Collection[str]) -> None:
    """Refuse names in templates that aren't axes, and axes of the user's that no template names."""
    named = {name for template in templates for _, name in _template_parts(template) if name is not None}
    unknown = sorted(named - set(axes))
    if unknown:
        name, known = unknown[0], f"; the axes are {', '.join(axes)}" if axes else ""
        # These arguments have a meaning of their own, so they can't be filled in.
        is_taken = name in (columns.PROMPT, columns.IMAGE, *columns.IMAGE_ALIASES, _TEMPLATE, *_OPTIONS)
        advice = "Use another name, such as {subject}, and pass subject=" if is_taken else f"Pass {name}="
        raise UsageError(
            f"template: {{{name}}} isn't an axis{known}. {advice}, or double the braces to keep them in the prompt."
        )
    if unused := [name for name in own if name not in named]:
        wide = " (not the full-width \uff5b and \uff5d)" if "\uff5b" in "".join(templates) else ""
        raise UsageError(
            f"{unused[0]}: no template names this axis. Write {{{unused[0]}}} where its value belongs{wide}, or add "
            "the column to the table that sweep returns."
        )


def _fill(template: str, values: Mapping[str, Any]) -> str:
    """Fill in a template with the values of a row."""
    return "".join(
        text if name is None else _shown(name, values[name]) for text, name in _template_parts(template)
    )


def _shown(name: str, value: Any) -> str:
    is_several = isinstance(value, Collection) and not isinstance(value, str)
    if is_several or cells.is_missing(value):
        what = type_of(value) if is_several else "missing"
        raise UsageError(
            f"{name}: a value is {what}, so the template can't be filled in. Pass text or a number."
        )
    return str(value)


def _template_parts(template: str) -> list[tuple[str, str | None]]:
    """Return the parts of a template: text, or the name of an axis."""
    parts: list[tuple[str, str | None]] = []
    try:
        for text, name, form, conversion in Formatter().parse(template):
            parts.append((text, None))
            if name is not None:
                if not name.strip().isidentifier() or form or conversion:
                    raise ValueError("expected names in braces, such as {place}")  # noqa: TRY301 - caught below, with the reason
                parts.append(("", normalize("NFKC", name.strip())))
    except ValueError as error:
        raise UsageError(
            f"template: can't read {cells.show(template)!r} ({error}). Double the braces that belong in the prompt."
        ) from None
    return parts
