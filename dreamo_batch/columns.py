"""Every column the toolkit reads or writes: its name, dtype, unit and meaning, all in columns.toml.

`columns.COST_USD` is the name of the column `cost_usd`, made from that file, and so is that of every other one; those
that count begin with ``N_``. No other module writes a column's name as a literal; the tables of the reference are
generated from here.

Examples
--------
>>> from dreamo_batch import columns
>>> columns.OUTPUTS[columns.COST_USD].dtype
'float64'
>>> columns.dtypes(columns.PROBLEMS)["row"]
'str'
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    def __getattr__(name: str) -> str:
        """Stand for the names that are made from the file, below."""


# Names that the file lacks, or uses in another sense.
IMAGE_ALIASES = ("image_path", "image_url")
IMAGE_NUMBERED = ("image_1", "image_2", "image_3", "image_4", "image_5")
PROMPT_TEMPLATE, SEARCH_TRY = "prompt_template", "search_try"
ATTEMPT_INPUTS, IN_TABLE = "inputs", "in_table"
SAMPLE = "dreamo_sample"  # in a table's attrs: how sweep sampled it
STORED_PREFIX = "dreamo:"  # prefix of columns that `jobs.parquet` keeps beside the user's; reserved

N_ROWS, N_USABLE, N_UNPRICED, N_PICTURES = "rows", "usable", "unpriced", "pictures"
N_SENT, N_IN_FLIGHT = "sent", "in_flight"
N_RANKED, N_UNRANKED, N_FIRST, N_KEPT = "ranked", "unranked", "firsts", "kept"
N_CHOICES, N_WON, N_LOST, N_TIED = "choices", "won", "lost", "tied"

PHASES = ("create", "quota", "queue", "generation", "upload", "task", "download")
CREATE, QUOTA, QUEUE, GENERATION, UPLOAD, TASK, DOWNLOAD = PHASES

STR, INT, FLOAT, BOOL = "str", "Int64", "float64", "boolean"
TIME, CATEGORY = "datetime64[us, UTC]", "category"

STATUSES = ("pending", "submitting", "in_progress", "completed", "failed", "invalid", "ambiguous")
PENDING, SUBMITTING, IN_PROGRESS, COMPLETED, FAILED, INVALID, AMBIGUOUS = STATUSES
# Statuses of rows to which something more will happen, and of rows to which nothing will happen by itself.
UNSETTLED = (PENDING, SUBMITTING, IN_PROGRESS)
SETTLED = (COMPLETED, FAILED, AMBIGUOUS, INVALID)
ENDED_BADLY = (FAILED, AMBIGUOUS)

ACTIONS = ("new", "reuse", "duplicate", "in flight", "ambiguous", "invalid", "failed")
_CATEGORIES = {"status": STATUSES, "action": ACTIONS, "phase": PHASES}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: name, pandas dtype, unit (empty where there is none) and meaning."""

    name: str
    dtype: str
    unit: str
    meaning: str


def dtypes(columns: Mapping[str, Column]) -> dict[str, str]:
    """Return the pandas dtype of each column."""
    return {column.name: column.dtype for column in columns.values()}


def typed(table: pd.DataFrame, wanted: Mapping[str, Any]) -> pd.DataFrame:
    """Convert columns to their dtypes, or to those of their descriptions; integers as `integers` does."""
    kinds = {name: dtype.dtype if isinstance(dtype, Column) else dtype for name, dtype in wanted.items()}
    converted = {name: integers(table[name]) for name in kinds if kinds[name] == INT}
    converted |= {name: table[name].astype(kinds[name]) for name in kinds.keys() - converted.keys()}
    for name in (name for name in kinds if kinds[name] == CATEGORY):
        converted[name] = converted[name].cat.set_categories(_CATEGORIES[name])
    return table.assign(**converted)


def integers(values: pd.Series[Any]) -> pd.Series[Any]:
    """Convert to integers; NaN becomes missing, even if an option of pandas treats it as a value."""
    if values.dtype.kind == "f" or values.dtype == object:
        values = values.astype(object).where(lambda cells: cells.notna(), None)
    return values.astype(INT)


def sizes(table: pd.DataFrame, width: str = "width", height: str = "height") -> pd.Series[str]:
    """Return the size of each row as text, such as "512x512"; missing where a side is."""
    sides = (integers(table[side]).astype(STR) for side in (width, height))
    return next(sides) + "x" + next(sides)


def _read_tables() -> dict[str, dict[str, Column]]:
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    for name, words in (("$STATUSES", STATUSES), ("$ACTIONS", ACTIONS)):
        text = text.replace(name, ", ".join(f"`{word}`" for word in words))
    tables: dict[str, dict[str, Column]] = {}
    for table, listed in tomllib.loads(text).items():
        tables[table] = {
            name: Column(name, *known) if isinstance(known, list) else tables[known][name]
            for name, known in listed.items()
        }
    return tables


_TABLES = _read_tables()
globals().update({name.upper(): name for table in _TABLES.values() for name in table})
# Inputs that not every model has, or that most tables lack.
INPUTS_OF_SOME = tuple(_TABLES["inputs_of_some"])
INPUTS = _TABLES["inputs"] = _TABLES["inputs"] | _TABLES.pop("inputs_of_some")
OUTPUTS, RATED, PROBLEMS = map(_TABLES.__getitem__, ("outputs", "rated", "problems"))
PLAN, LEDGER, ATTEMPTS_MADE, COSTS = map(_TABLES.__getitem__, ("plan", "ledger", "attempts_made", "costs"))
COSTS_PLANNED, LATENCY, THROUGHPUT = map(_TABLES.__getitem__, ("costs_planned", "latency", "throughput"))
FAILURES, MEASURES, DIVERSITY = map(_TABLES.__getitem__, ("failures", "measures", "diversity"))
NEAR_DUPLICATES, REPLICATES, RANKS = map(_TABLES.__getitem__, ("near_duplicates", "replicates", "ranks"))
BEST_SEEDS, METRICS, PICTURE_CACHE = map(_TABLES.__getitem__, ("best_seeds", "metrics", "picture_cache"))
RATINGS, RATINGS_READ, COMPARISONS = map(_TABLES.__getitem__, ("ratings", "ratings_read", "comparisons"))
STRENGTHS, CHECKS, PICTURES = map(_TABLES.__getitem__, ("strengths", "checks", "pictures"))
DICTIONARY, BUDGET = map(_TABLES.__getitem__, ("dictionary", "budget"))
DECIDED_ROWS, DECIDED_JOBS = map(_TABLES.__getitem__, ("decided_rows", "decided_jobs"))
