"""Which columns a table has, and whether they are the ones a run needs.

Examples
--------
>>> import pandas as pd
>>> user_columns(pd.DataFrame({"prompt": ["a"], "image": ["a.png"], "note": [1]}))
['prompt', 'image', 'note']
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from dreamo_batch import columns
from dreamo_batch.errors import TableError

if TYPE_CHECKING:
    import pandas as pd

_LISTED_MAX = 20


def check_columns(table: pd.DataFrame) -> None:
    """Check that a table has the columns a run needs, each once and none of the toolkit's own.

    Parameters
    ----------
    table : pandas.DataFrame
        The user's table, or a result of this toolkit.

    Raises
    ------
    TableError
        If it is no DataFrame; if `prompt` or the image column is missing; if two columns share a name;
        if a column of the user's is named like one that comes back.

    Examples
    --------
    >>> import pandas as pd
    >>> check_columns(pd.DataFrame({"image": [], "Prompt": []}))
    Traceback (most recent call last):
    dreamo_batch.errors.TableError: The table has no column 'prompt'; it has: image, Prompt. ...
    """
    _refuse_other_things(table)
    _refuse_duplicates(table)
    _refuse_absent(table)
    if not is_result(table):
        _refuse_clashes(table)


def is_result(table: pd.DataFrame) -> bool:
    """Say whether a table is a result of this toolkit: it holds every output column.

    Parameters
    ----------
    table : pandas.DataFrame
        Any table.

    Returns
    -------
    bool
        Whether it may be run again as it is.

    Examples
    --------
    >>> import pandas as pd
    >>> is_result(pd.DataFrame(columns=list(columns.OUTPUTS)))
    True
    """
    return set(columns.OUTPUTS) - {columns.RUN_DIR} <= set(table.columns)  # which tables of old versions lack


def user_columns(table: pd.DataFrame) -> list[Any]:
    """Name the columns that are the user's own, in the table's order.

    Parameters
    ----------
    table : pandas.DataFrame
        The user's table, or a result of this toolkit.

    Returns
    -------
    list
        All columns; of a result, all but the outputs.

    Examples
    --------
    >>> import pandas as pd
    >>> user_columns(pd.DataFrame(columns=["image", "prompt", *columns.OUTPUTS]))
    ['image', 'prompt']
    """
    outputs = columns.OUTPUTS if is_result(table) else {}
    return [name for name in table.columns if name not in outputs]


def image_columns(table: pd.DataFrame) -> list[str]:
    """Name the columns that may hold the reference picture.

    Parameters
    ----------
    table : pandas.DataFrame
        The user's table.

    Returns
    -------
    list of str
        `image` and its aliases, as far as the table has them.

    Examples
    --------
    >>> import pandas as pd
    >>> image_columns(pd.DataFrame(columns=["image_url", "prompt", "image"]))
    ['image', 'image_url']
    """
    return [name for name in (columns.IMAGE, *columns.IMAGE_ALIASES) if name in table.columns]


def misnamed(table: pd.DataFrame) -> dict[str, str]:
    """Find columns that are named nearly like one that is read, and that the table lacks.

    Parameters
    ----------
    table : pandas.DataFrame
        The user's table.

    Returns
    -------
    dict
        Name in the table to the name that would be read: they differ in case, blanks, hyphens or a plural s.

    Examples
    --------
    >>> import pandas as pd
    >>> misnamed(pd.DataFrame(columns=["image", "prompt", "Seed", "use rephraser", "speed"]))
    {'Seed': 'seed', 'use rephraser': 'use_rephraser'}
    """
    lacking = {_folded(name): name for name in columns.INPUTS if name not in table.columns}
    meant = {name: lacking.get(_folded(name)) for name in user_columns(table) if isinstance(name, str)}
    return {name: near for name, near in meant.items() if near is not None and near != columns.IMAGE}


def _folded(name: str) -> str:
    return "_".join(name.replace("-", " ").replace("_", " ").casefold().split()).removesuffix("s")


def _refuse_other_things(table: pd.DataFrame) -> None:
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise TableError(
            f"A pandas DataFrame was expected, not a {type(table).__name__}. "
            "Make one with pd.DataFrame(...), sweep(...) or read_table(path)."
        )
    if table.columns.nlevels > 1:
        raise TableError(
            f"The table's column names have {table.columns.nlevels} levels; one was expected. "
            "Flatten them, for example with table.columns = table.columns.get_level_values(0)."
        )


def _refuse_duplicates(table: pd.DataFrame) -> None:
    doubled = list(dict.fromkeys(table.columns[table.columns.duplicated()]))
    if doubled:
        raise TableError(
            f"Several columns share a name: {_listed(doubled)}. Rename or drop all but one of each, so "
            "that it is clear which one counts."
        )


def _refuse_absent(table: pd.DataFrame) -> None:
    absent = [] if columns.PROMPT in table.columns else [columns.PROMPT]
    absent += [] if image_columns(table) else [columns.IMAGE]
    if not absent:
        return
    aliases = f" (or {_listed(columns.IMAGE_ALIASES)})" if columns.IMAGE in absent else ""
    found = _listed(table.columns) or "no columns at all"
    raise TableError(
        f"The table has no column {' and no column '.join(map(repr, absent))}{aliases}; it has: {found}. "
        f"{_similar(absent, table)}Rename or add what is missing: every row needs a picture and a prompt."
    )


def _similar(absent: list[str], table: pd.DataFrame) -> str:
    names = {str(name).strip().lower(): str(name) for name in table.columns}
    hints = [
        f"{names[close]!r} may be meant as {name!r}. "
        for name in absent
        for close in difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    ]
    return "".join(hints)


def _refuse_clashes(table: pd.DataFrame) -> None:
    clashing = [name for name in table.columns if name in columns.OUTPUTS]
    if clashing:
        raise TableError(
            f"Columns of the table are named like columns that come back: {_listed(clashing)}. Rename them, "
            f"for example to my_{clashing[0]}. (A whole result of this toolkit may be run again as it is.)"
        )


def _listed(names: Any) -> str:
    shown = [str(name) for name in names]
    n_more = len(shown) - _LISTED_MAX
    return ", ".join(shown[:_LISTED_MAX]) + (f" and {n_more} more" if n_more > 0 else "")
