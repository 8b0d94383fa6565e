"""Read prompts, seeds, replicates and the rephraser's switch of a whole table.

Each reader gives values laid out over the rows, with defaults filled in, and adds what is wrong to the
findings; rows that are wrong hold a harmless stand-in.

Examples
--------
>>> import pandas as pd
>>> read_seeds(Findings(pd.DataFrame({"seed": [7, -1, None]}))).is_given.tolist()
[True, False, False]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamo_batch import columns
from dreamo_batch.service import parameters
from dreamo_batch.table.cells import printable
from dreamo_batch.table.distinct import Distinct, distinct
from dreamo_batch.table.findings import Finding, Findings
from dreamo_batch.table.integers import Integers, booleans, integers

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import NDArray

REPLICATE_DEFAULT = 0


@dataclass(frozen=True, slots=True, eq=False)
class Seeds:
    """Seeds of all rows, and which rows have one; the others get theirs drawn.

    Examples
    --------
    >>> Seeds(np.array([7, -1]), np.array([True, False])).numbers.dtype
    dtype('int64')
    """

    numbers: NDArray[np.int64]
    is_given: NDArray[np.bool_]


def read_prompts(findings: Findings) -> Distinct:
    """Read the prompts, as they are: nothing is stripped or normalised.

    Parameters
    ----------
    findings : Findings
        Of a table with a column `prompt`; takes what is wrong.

    Returns
    -------
    Distinct
        The prompts; -1 where there is none.

    Examples
    --------
    >>> import pandas as pd
    >>> read_prompts(Findings(pd.DataFrame({"prompt": ["a", "a"]}))).cells
    ['a']
    """
    prompts = distinct(findings.of_table[columns.PROMPT])
    findings.add("prompt-missing", columns.PROMPT, prompts.codes < 0)
    found = {number: _judge_prompt(prompt) for number, prompt in enumerate(prompts.cells)}
    findings.add_cells(columns.PROMPT, prompts, {number: [one] for number, one in found.items() if one})
    return prompts


def read_seeds(findings: Findings) -> Seeds:
    """Read the seeds: missing and -1 both mean that one is to be drawn.

    Parameters
    ----------
    findings : Findings
        Of a table that may have a column `seed`; takes what is wrong.

    Returns
    -------
    Seeds
        Seeds (int64; -1 where there is none) and which rows have one.

    Examples
    --------
    >>> import pandas as pd
    >>> read_seeds(Findings(pd.DataFrame({"prompt": ["a"]}))).numbers.tolist()
    [-1]
    """
    read = read_integers(columns.SEED, findings)
    is_given = read.is_given & (read.numbers >= 0)
    findings.add("seed-out-of-range", columns.SEED, read.numbers < parameters.SEED_RANDOM.value)
    findings.add("seed-zero", columns.SEED, is_given & (read.numbers < parameters.SEED_REPEATABLE_MIN.value))
    findings.add("seed-beyond-32-bit", columns.SEED, read.numbers > parameters.SEED_ADVISED_MAX.value)
    return Seeds(np.where(is_given, read.numbers, parameters.SEED_RANDOM.value), is_given)


def read_replicates(findings: Findings) -> NDArray[np.int64]:
    """Read the replicates, 0 where there is none.

    Parameters
    ----------
    findings : Findings
        Of a table that may have a column `replicate`; takes what is wrong.

    Returns
    -------
    numpy.ndarray of int64
        One per row.

    Examples
    --------
    >>> import pandas as pd
    >>> read_replicates(Findings(pd.DataFrame({"replicate": [2, None]}))).tolist()
    [2, 0]
    """
    read = read_integers(columns.REPLICATE, findings)
    findings.add("replicate-out-of-range", columns.REPLICATE, read.numbers < 0)
    return np.where(read.is_given, read.numbers, REPLICATE_DEFAULT)


def read_rephraser(findings: Findings) -> NDArray[np.bool_]:
    """Read whether the service may rewrite the prompts, the service's default where nothing is said.

    Parameters
    ----------
    findings : Findings
        Of a table that may have a column `use_rephraser`; takes what is wrong.

    Returns
    -------
    numpy.ndarray of bool
        One per row.

    Examples
    --------
    >>> import pandas as pd
    >>> read_rephraser(Findings(pd.DataFrame({"use_rephraser": ["no", None]}))).tolist()
    [False, True]
    """
    read = _read(columns.USE_REPHRASER, findings, booleans)
    return np.where(read.is_given, read.numbers != 0, parameters.USE_REPHRASER_DEFAULT.value)


def read_integers(column: str, findings: Findings) -> Integers:
    """Read a column of integers.

    Parameters
    ----------
    column : str
        Its name; the table need not have it.
    findings : Findings
        Of the table; takes the cells that can't be read.

    Returns
    -------
    Integers
        What was read.

    Examples
    --------
    >>> import pandas as pd
    >>> found = Findings(pd.DataFrame({"seed": ["x"]}))
    >>> read_integers("seed", found).is_given.tolist(), found.frame()["code"].tolist()
    ([False], ['seed-not-integer'])
    """
    return _read(column, findings, integers)


def _read(column: str, findings: Findings, read: Callable[[pd.Series], Integers]) -> Integers:
    if column not in findings.of_table:
        return Integers.nothing(len(findings.of_table))
    cells = read(findings.of_table[column])
    for fault, is_faulty in cells.faults.items():
        findings.add(f"{column}-{fault}", column, is_faulty)
    return cells


def _judge_prompt(prompt: Any) -> Finding | None:
    if not isinstance(prompt, str):
        return Finding.of("prompt-not-text", type=type(prompt).__name__)
    if not prompt.strip():
        return Finding.of("prompt-blank")
    if printable(prompt) != prompt:
        return Finding.of("prompt-not-unicode")
    if len(prompt) > parameters.PROMPT_CHARACTERS_OF_SIBLINGS.value:
        return Finding.of("prompt-very-long", n=len(prompt))
    if len(prompt) > parameters.PROMPT_CHARACTERS_ADVISED.value:
        return Finding.of("prompt-long", n=len(prompt))
    return None
