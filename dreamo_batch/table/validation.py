"""Check a table before a cent is spent: every problem of every row at once.

Examples
--------
>>> import pandas as pd
>>> table = pd.DataFrame({"image": ["https://example.com/cat.png"] * 2, "prompt": ["a cat", ""]})
>>> validate(table)[["row", "column", "code"]].values.tolist()
[['1', 'prompt', 'prompt-missing']]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dreamo_batch.table.images import Check
from dreamo_batch.table.problems import Problems
from dreamo_batch.table.reading import read
from dreamo_batch.table.schema import as_frame

if TYPE_CHECKING:
    import pandas as pd


def validate(
    table: pd.DataFrame, *, base_dir: Path | str | None = None, fix_images: bool = False
) -> pd.DataFrame:
    """Find every problem of every row, without sending or writing anything.

    Each distinct picture is opened once, however many rows show it, and decoded far enough to know that
    it is whole: about 5 ms for a 2-megapixel JPEG, spread over a few threads. A PIL image takes longer, as it
    is written as the PNG that a run would send.

    Parameters
    ----------
    table : pandas.DataFrame
        The user's table, or a result of this toolkit. Not changed.
    base_dir : pathlib.Path or str, optional
        Folder that relative image paths start at; by default the working directory.
    fix_images : bool, default False
        Say what a run with `fix_images=True` would mend, as warnings.

    Returns
    -------
    pandas.DataFrame
        Columns and dtypes of `columns.PROBLEMS`, one line per problem, in the table's order; empty if
        there is none. A notebook shows above them how many rows can be ordered.

    Raises
    ------
    TableError
        If columns are missing, doubled or clash with the toolkit's own.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"image": ["https://example.com/cat.png"], "prompt": ["a cat"], "seed": [1.5]})
    >>> validate(table)[["severity", "code", "value"]].values.tolist()
    [['error', 'seed-not-integer', '1.5']]
    """
    table = as_frame(table)
    return Problems.of(read(table, Check(absolute(base_dir), fix_images=fix_images)).problems, len(table))


def absolute(folder: Path | str | None) -> Path:
    """Give the absolute path of a folder.

    Parameters
    ----------
    folder : pathlib.Path or str or None
        As the user gave it; None for the working directory.

    Returns
    -------
    pathlib.Path
        Absolute.

    Examples
    --------
    >>> absolute("/data")
    PosixPath('/data')
    """
    return Path.cwd() if folder is None else Path(folder).expanduser().absolute()
