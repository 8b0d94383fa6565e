"""Read a whole table: every row's parameters, and everything that is wrong with them.

Examples
--------
>>> from pathlib import Path
>>> import pandas as pd
>>> from dreamo_batch.table.images import Check
>>> table = pd.DataFrame({"image": ["https://example.com/cat.png"], "prompt": ["a cat"]})
>>> reading = read(table, Check(Path("/data")))
>>> reading.is_orderable.tolist(), reading.problems.empty
([True], True)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.table.cells import printable, show
from dreamo_batch.table.distinct import distinct
from dreamo_batch.table.fields import Seeds, read_prompts, read_rephraser, read_replicates, read_seeds
from dreamo_batch.table.findings import Findings
from dreamo_batch.table.identity import difference, seen
from dreamo_batch.table.references import Images, read_images
from dreamo_batch.table.schema import check_columns, image_columns, misnamed, recognised
from dreamo_batch.table.seed_sweeps import find_rephrased_sweeps, numbered
from dreamo_batch.table.sizes import Sizes, read_sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dreamo_batch.table.distinct import Distinct
    from dreamo_batch.table.images import Check


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A table as it was read: one entry per row everywhere, stand-ins where `is_orderable` is false.

    Examples
    --------
    >>> from pathlib import Path
    >>> import pandas as pd
    >>> from dreamo_batch.table.images import Check
    >>> table = pd.DataFrame({"image": [""], "prompt": ["a cat"]})
    >>> read(table, Check(Path("/data"))).is_orderable.tolist()
    [False]
    """

    images: Images
    prompts: Distinct
    seeds: Seeds
    sizes: Sizes
    use_rephraser: NDArray[np.bool_]
    replicates: NDArray[np.int64]
    is_orderable: NDArray[np.bool_]
    is_rephrased_sweep: NDArray[np.bool_]
    problems: pd.DataFrame


def read(table: pd.DataFrame, how: Check) -> Reading:
    """Read a table.

    Parameters
    ----------
    table : pandas.DataFrame
        The user's table, or a result of this toolkit. Not changed.
    how : Check
        How pictures are checked.

    Returns
    -------
    Reading
        Parameters and problems of every row.

    Raises
    ------
    TableError
        If columns are missing, doubled or clash with the toolkit's own.
    StorageFailed
        If the folder for copies can't be written to.

    Examples
    --------
    >>> from pathlib import Path
    >>> import pandas as pd
    >>> from dreamo_batch.table.images import Check
    >>> table = pd.DataFrame({"image": ["https://example.com/cat.png"], "prompt": [5]})
    >>> read(table, Check(Path("/data"))).problems["code"].tolist()
    ['prompt-not-text']
    """
    table, renamed = recognised(table)
    check_columns(table)
    findings = Findings(table)
    images = read_images(findings, how)
    prompts = read_prompts(findings)
    seeds = read_seeds(findings)
    sizes = read_sizes(findings)
    use_rephraser = read_rephraser(findings)
    replicates = read_replicates(findings)
    _find_lookalikes(
        findings, prompts, (seeds.numbers, sizes.widths, sizes.heights, use_rephraser, replicates)
    )
    is_first = np.arange(len(table)) == 0
    for name, near in renamed.items():
        what = f"Column {show(name)!r} is taken for {near!r}, and called so from here on"
        findings.add("column-not-read", near, is_first, what=what, near=near)
    for name, near in misnamed(table).items():
        what = f"Ignored column {show(name)!r}; did you mean {near!r}"
        findings.add("column-not-read", name, is_first, what=what, near=near)
    is_rephrased_sweep = find_rephrased_sweeps(findings, prompts, seeds, sizes, use_rephraser)
    return Reading(
        images=images,
        prompts=prompts,
        seeds=seeds,
        sizes=sizes,
        use_rephraser=use_rephraser,
        replicates=replicates,
        is_orderable=~findings.is_in_error(),
        is_rephrased_sweep=is_rephrased_sweep,
        problems=findings.frame(),
    )


def _find_lookalikes(findings: Findings, prompts: Distinct, rest: tuple[NDArray[Any], ...]) -> None:
    """Warn of rows that differ from an earlier one by nothing that can be seen."""
    looks = pd.factorize(np.array([_look(prompt) for prompt in prompts.cells], dtype=object))[0]
    if len(np.unique(looks)) == len(looks):
        return
    table = findings.of_table
    at = np.flatnonzero(prompts.codes >= 0)
    pictures = [distinct(table[name]).codes[at] for name in image_columns(table)]
    keys = numbered([looks[prompts.codes[at]], *pictures, *(values[at] for values in rest)])
    firsts = at[np.unique(keys, return_index=True)[1]][keys]
    is_alike = prompts.codes[at] != prompts.codes[firsts]
    is_found = np.zeros(len(table), dtype=bool)
    is_found[at[is_alike]] = True
    others, what = np.full((2, len(table)), "", dtype=object)
    for position, first in zip(at[is_alike].tolist(), firsts[is_alike].tolist(), strict=True):
        others[position] = printable(str(table.index[first]))
        what[position] = difference(*(prompts.cells[prompts.codes[one]] for one in (position, first)))
    findings.add("prompt-looks-equal", columns.PROMPT, is_found, other=others, difference=what)


def _look(prompt: object) -> object:
    # What is no text, or blank, is refused anyway; it looks like nothing else.
    return (isinstance(prompt, str) and seen(prompt)) or f"\0{id(prompt)}"
