"""Every column the toolkit reads or writes: its name here; its dtype, unit and meaning in columns.toml.

No other module writes a column's name as a literal; the tables of the reference are generated from here.

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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# What the user hands in.
IMAGE = "image"
IMAGE_ALIASES = ("image_path", "image_url")
IMAGE_NUMBERED = ("image_1", "image_2", "image_3", "image_4", "image_5")
PROMPT, PROMPT_TEMPLATE = "prompt", "prompt_template"
SEED = "seed"
WIDTH, HEIGHT = "width", "height"
SIZE = "size"
USE_REPHRASER, REPLICATE = "use_rephraser", "replicate"
MODEL, REF_TYPE = "model", "ref_type"
GUIDANCE_SCALE1, GUIDANCE_SCALE2 = "guidance_scale1", "guidance_scale2"

# What comes back beside it.
STATUS, JOB_ID, TASK_ID = "status", "job_id", "task_id"
DUPLICATE_OF, SEED_SENT = "duplicate_of", "seed_sent"
OUTPUT_URL, OUTPUT_PATH = "output_url", "output_path"
OUTPUT_SHA256, OUTPUT_BYTES = "output_sha256", "output_bytes"
OUTPUT_WIDTH, OUTPUT_HEIGHT = "output_width", "output_height"
OUTPUT_ERROR, OUTPUT_URLS, OUTPUT_WARNING = "output_error", "output_urls", "output_warning"
OUTPUT_JOB_ID, OUTPUT_BYTES_TOLD = "output_job_id", "output_bytes_told"
COST_USD, COST, DISCOUNT = "cost_usd", "cost", "discount"
ERROR_CLASS, ERROR_CODE, ERROR_MESSAGE = "error_class", "error_code", "error_message"
MAY_HAVE_BEEN_BILLED, ATTEMPTS = "may_have_been_billed", "attempts"
SUBMITTED_AT, COMPLETED_AT, LATENCY_S = "submitted_at", "completed_at", "latency_s"

# Problems that `validate` finds.
ROW, COLUMN, SEVERITY, CODE = "row", "column", "severity", "code"
VALUE, MESSAGE, FIX, POSITION = "value", "message", "fix", "position"

# What `plan` adds.
ACTION, REASON, COST_LOW_USD, COST_HIGH_USD = "action", "reason", "cost_low_usd", "cost_high_usd"

# What the ledger keeps of every attempt.
ATTEMPT = "attempt"
STAGE, RESERVED, EXCERPT, METADATA = "stage", "reserved", "excerpt", "metadata"
SENT_AT, ANSWERED_AT, SAVED_AT = "sent_at", "answered_at", "saved_at"
N_POLLS, N_REFUSALS, WAITED_S = "n_polls", "n_refusals", "waited_s"
ATTEMPT_INPUTS, IN_TABLE = "inputs", "in_table"

# What `attempts` and `costs` say of attempts and money.
RUN_DIR, N_ROWS, N_USABLE, N_UNPRICED = "run_dir", "rows", "usable", "unpriced"
SPENT, SPENT_USD = "spent", "spent_usd"
USD_PER_ATTEMPT, USD_PER_PICTURE = "usd_per_attempt", "usd_per_picture"
WASTE, POSSIBLY_BILLED, SAVED, ESTIMATED = "waste", "possibly_billed", "saved", "estimated"
RATES, LIST_USD, DISCOUNT_USD = "rates", "list_usd", "discount_usd"
PLANNED_LOW_USD, PLANNED_HIGH_USD = "planned_low_usd", "planned_high_usd"

# What `latency` and `throughput` say of time.
PHASE = "phase"
MEAN_S, MIN_S, MAX_S = "mean_s", "min_s", "max_s"
P10_S, P50_S, P90_S, P99_S = "p10_s", "p50_s", "p90_s", "p99_s"
AT = "at"
N_SENT, PER_MINUTE, N_IN_FLIGHT = "sent", "per_minute", "in_flight"

PHASES = ("create", "quota", "queue", "generation", "upload", "task", "download")
CREATE, QUOTA, QUEUE, GENERATION, UPLOAD, TASK, DOWNLOAD = PHASES

# What `failures` says of what went wrong.
PATTERN, EXAMPLE_ROWS, EXAMPLE = "pattern", "example_rows", "example"
MEANING, ADVICE, CALL = "meaning", "advice", "call"

# What `measure`, `diversity`, `near_duplicates`, `compare_replicates`, `rank` and `best_seeds` say of pictures.
PROBLEM = "problem"
N_PICTURES, N_UNSEEN, N_NEAR = "pictures", "unseen", "near_duplicates"
HASH_MEAN, HASH_MIN, DELTA_E_MEAN, DELTA_E_MIN = "hash_mean", "hash_min", "delta_e_mean", "delta_e_min"
ROW_A, ROW_B, POSITION_A, POSITION_B = "row_a", "row_b", "position_a", "position_b"
SEED_A, SEED_B, PATH_A, PATH_B = "seed_a", "seed_b", "path_a", "path_b"
HASH_DISTANCE, DELTA_E, PIXEL_DIFFERENCE = "hash_distance", "delta_e", "pixel_difference"
REPLICATE_A, REPLICATE_B = "replicate_a", "replicate_b"
IS_SAME_FILE, IS_SAME_PIXELS = "is_same_file", "is_same_pixels"
SCORE, RANK, N_RANKED, N_UNRANKED = "score", "rank", "ranked", "unranked"
N_FIRST, SCORE_MIN, RANK_MEAN = "firsts", "score_min", "rank_mean"

# What `metrics.parquet` keeps of a picture that was measured.
REFERENCE_SHA256, METRIC, VERSION, VECTOR = "reference_sha256", "metric", "version", "vector"

# What `picture-cache.parquet` keeps of each picture.
SHA256, BYTES, FINGERPRINT = "sha256", "bytes", "fingerprint"
THUMBNAIL, THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT = "thumbnail", "thumbnail_width", "thumbnail_height"

# What `check_service` found.
CHECK, PASSED, DETAIL = "check", "passed", "detail"

# What people said of pictures: `ratings.parquet`, `comparisons.parquet`, and what comes of it.
RATER, KIND, RATING, PICKED, STANDS = "rater", "kind", "rating", "picked", "stands"
SEARCH_TRY = "search_try"
SAMPLE = "dreamo_sample"  # in a table's attrs: how sweep sampled it
N_KEPT, USD_PER_KEPT = "kept", "usd_per_kept"
JOB_ID_A, JOB_ID_B = "job_id_a", "job_id_b"
CHOICE, N_CHOICES, N_WON, N_LOST, N_TIED = "choice", "choices", "won", "lost", "tied"
STRENGTH, STRENGTH_LOW, STRENGTH_HIGH = "strength", "strength_low", "strength_high"
WINS_SHARE = "wins_share"

# What an export says of pictures and of columns.
FILE_NAME, REFERENCE, DTYPE, UNIT = "file_name", "reference", "dtype", "unit"

# What `jobs.parquet` keeps of a row beside the user's own columns.
USER, DIRECTORY, HOST, MONTH = "user", "directory", "host", "month"
HELD, GRANTED_USD, REPORTED_AT = "held", "granted_usd", "reported_at"
IMAGE_SOURCE, IMAGE_DIGEST = "image_source", "image_digest"
IMAGE_SENT, IMAGE_SENT_DIGEST = "image_sent", "image_sent_digest"
IMAGES_FURTHER, OWN_PARAMETERS = "images_further", "own_parameters"

STR, INT, FLOAT, BOOL = "str", "Int64", "float64", "boolean"
TIME, CATEGORY = "datetime64[us, UTC]", "category"

STATUSES = ("pending", "submitting", "in_progress", "completed", "failed", "invalid", "ambiguous")
PENDING, SUBMITTING, IN_PROGRESS, COMPLETED, FAILED, INVALID, AMBIGUOUS = STATUSES
# Rows that something more will happen to, and rows that nothing will happen to by itself.
UNSETTLED = (PENDING, SUBMITTING, IN_PROGRESS)
SETTLED = (COMPLETED, FAILED, INVALID, AMBIGUOUS)

# Inputs that not every model has, or that most tables lack.
INPUTS_OF_SOME = (MODEL, REF_TYPE, GUIDANCE_SCALE1, GUIDANCE_SCALE2)

ACTIONS = ("new", "reuse", "duplicate", "in flight", "ambiguous", "invalid", "failed")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: name, pandas dtype, unit (empty where there is none) and meaning."""

    name: str
    dtype: str
    unit: str
    meaning: str


def listed(names: Any) -> list[Any]:
    """Return the names of columns as a list: of one, of several, or of none."""
    if names is None:
        return []
    return [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)


def dtypes(columns: Mapping[str, Column]) -> dict[str, str]:
    """Return the pandas dtype of each column."""
    return {column.name: column.dtype for column in columns.values()}


def sizes(table: pd.DataFrame, width: str = WIDTH, height: str = HEIGHT) -> pd.Series[str]:
    """Return the size of each row as text, such as "512x512"; missing where a side is."""
    sides = (table[side].astype(INT).astype(STR) for side in (width, height))
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
INPUTS, OUTPUTS, RATED, PROBLEMS = map(_TABLES.__getitem__, ("inputs", "outputs", "rated", "problems"))
PLAN, LEDGER, ATTEMPTS_MADE, COSTS = map(_TABLES.__getitem__, ("plan", "ledger", "attempts_made", "costs"))
COSTS_PLANNED, LATENCY, THROUGHPUT = map(_TABLES.__getitem__, ("costs_planned", "latency", "throughput"))
FAILURES, MEASURES, DIVERSITY = map(_TABLES.__getitem__, ("failures", "measures", "diversity"))
NEAR_DUPLICATES, REPLICATES, RANKS = map(_TABLES.__getitem__, ("near_duplicates", "replicates", "ranks"))
BEST_SEEDS, METRICS, PICTURE_CACHE = map(_TABLES.__getitem__, ("best_seeds", "metrics", "picture_cache"))
RATINGS, RATINGS_READ, COMPARISONS = map(_TABLES.__getitem__, ("ratings", "ratings_read", "comparisons"))
STRENGTHS, CHECKS, PICTURES = map(_TABLES.__getitem__, ("strengths", "checks", "pictures"))
DICTIONARY, BUDGET = map(_TABLES.__getitem__, ("dictionary", "budget"))

# `jobs.parquet` keeps what was decided for each row beside the user's own columns, under names no user has.
STORED_PREFIX = "dreamo:"
