"""Which columns a table has, and whether they are the ones a run needs.

Examples
--------
>>> import pandas as pd
>>> user_columns(pd.DataFrame({"prompt": ["a"], "image": ["a.png"], "note": [1]}))
['prompt', 'image', 'note']
"""

from __future__ import annotations

import difflib
import unicodedata
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
    refuse_other_things(table)
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


def as_frame(table: Any) -> Any:
    """Turn a table of another library that hands out Arrow data (polars, Arrow, DuckDB) into a DataFrame.

    Examples
    --------
    >>> import pyarrow as pa
    >>> as_frame(pa.table({"prompt": ["a cat"], "seed": [None]}))["prompt"].tolist()
    ['a cat']
    """
    import pandas as pd

    if isinstance(table, pd.DataFrame) or not hasattr(table, "__arrow_c_stream__"):
        return table
    import pyarrow as pa

    def dtype(kind: pa.DataType) -> Any:
        if pa.types.is_integer(kind):  # a missing one would make floats of all
            return getattr(pd, f"{str(kind).replace('int', 'Int').replace('uI', 'UI')}Dtype")()
        if pa.types.is_boolean(kind):
            return pd.BooleanDtype()
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        return pd.StringDtype(na_value=float("nan")) if is_text else None

    return pa.table(table).to_pandas(types_mapper=dtype)


def recognised(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    r"""Rename columns that are spelled otherwise but mean one that is read: `Seed`, `Image Path`, ``\ufeffprompt``.

    Returns
    -------
    pandas.DataFrame
        The same table if there are none.
    dict
        Name in the table to the name it is read under.

    Raises
    ------
    TableError
        If two columns mean the same one.

    Examples
    --------
    >>> import pandas as pd
    >>> table, renamed = recognised(pd.DataFrame(columns=["Image Path", "prompt", "Seed\u200b", "speed"]))
    >>> table.columns.tolist(), renamed["Image Path"]
    (['image_path', 'prompt', 'seed', 'speed'], 'image_path')
    """
    refuse_other_things(table)
    meant = {_plain(name): name for name in (*columns.INPUTS, *columns.IMAGE_ALIASES)}
    by_meaning: dict[str, list[str]] = {}
    for name in user_columns(table):
        if isinstance(name, str) and (meaning := meant.get(_plain(name))) is not None:
            by_meaning.setdefault(meaning, []).append(name)
    for meaning, names in by_meaning.items():
        if len(set(names)) > 1:
            raise TableError(
                f"Columns {' and '.join(map(repr, names))} both mean {meaning!r}. Rename or drop all but one, so that "
                "it is clear which one counts."
            )
    renamed = {names[0]: meaning for meaning, names in by_meaning.items() if names[0] != meaning}
    return (table.rename(columns=renamed) if renamed else table), renamed


def means(name: str) -> str | None:
    """Return the column that is read which a name means, however it is spelled; None if there is none."""
    known = {_plain(one): one for one in (*columns.INPUTS, *columns.IMAGE_ALIASES)}
    return known.get(_plain(name))


def _plain(name: str) -> str:
    """What is left of a name without case, blanks, hyphens, width variants and what can't be seen."""
    characters = unicodedata.normalize("NFKC", name)
    shown = "".join(c for c in characters if c.isspace() or unicodedata.category(c) not in {"Cf", "Cc"})
    return "_".join(shown.replace("-", " ").replace("_", " ").casefold().split())


def misnamed(table: pd.DataFrame) -> dict[str, str]:
    """Find columns that are named nearly like one that is read, and that the table lacks.

    Parameters
    ----------
    table : pandas.DataFrame
        The user's table.

    Returns
    -------
    dict
        Name in the table to the name that would be read, from which it differs by a plural s.

    Examples
    --------
    >>> import pandas as pd
    >>> misnamed(pd.DataFrame(columns=["image", "prompt", "Seeds", "speed"]))
    {'Seeds': 'seed'}
    """
    lacking = {_folded(name): name for name in columns.INPUTS if name not in table.columns}
    meant = {name: lacking.get(_folded(name)) for name in user_columns(table) if isinstance(name, str)}
    return {name: near for name, near in meant.items() if near is not None and near != columns.IMAGE}


def _folded(name: str) -> str:
    return _plain(name).removesuffix("s")


def refuse_other_things(table: pd.DataFrame) -> None:
    """Raise TableError for what is no DataFrame, or one with several levels of column names."""
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
