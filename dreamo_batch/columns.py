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
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

# What the user hands in.
IMAGE = "image"
IMAGE_ALIASES = ("image_path", "image_url")
IMAGE_NUMBERED = ("image_1", "image_2", "image_3", "image_4", "image_5")
PROMPT = "prompt"
PROMPT_TEMPLATE = "prompt_template"
SEED = "seed"
WIDTH = "width"
HEIGHT = "height"
SIZE = "size"
USE_REPHRASER = "use_rephraser"
REPLICATE = "replicate"
MODEL = "model"
REF_TYPE = "ref_type"
GUIDANCE_SCALE1 = "guidance_scale1"
GUIDANCE_SCALE2 = "guidance_scale2"

# What comes back beside it.
STATUS = "status"
JOB_ID = "job_id"
TASK_ID = "task_id"
DUPLICATE_OF = "duplicate_of"
SEED_SENT = "seed_sent"
OUTPUT_URL = "output_url"
OUTPUT_PATH = "output_path"
OUTPUT_SHA256 = "output_sha256"
OUTPUT_BYTES = "output_bytes"
OUTPUT_WIDTH = "output_width"
OUTPUT_HEIGHT = "output_height"
OUTPUT_ERROR = "output_error"
OUTPUT_URLS = "output_urls"
OUTPUT_WARNING = "output_warning"
OUTPUT_JOB_ID = "output_job_id"
OUTPUT_BYTES_TOLD = "output_bytes_told"
COST_USD = "cost_usd"
COST = "cost"
DISCOUNT = "discount"
ERROR_CLASS = "error_class"
ERROR_CODE = "error_code"
ERROR_MESSAGE = "error_message"
MAY_HAVE_BEEN_BILLED = "may_have_been_billed"
ATTEMPTS = "attempts"
SUBMITTED_AT = "submitted_at"
COMPLETED_AT = "completed_at"
LATENCY_S = "latency_s"

# Problems that `validate` finds.
ROW = "row"
COLUMN = "column"
SEVERITY = "severity"
CODE = "code"
VALUE = "value"
MESSAGE = "message"
FIX = "fix"
POSITION = "position"

# What `plan` adds.
ACTION = "action"
REASON = "reason"
COST_LOW_USD = "cost_low_usd"
COST_HIGH_USD = "cost_high_usd"

# What the ledger keeps of every attempt.
ATTEMPT = "attempt"
STAGE = "stage"
RESERVED = "reserved"
EXCERPT = "excerpt"
METADATA = "metadata"
SENT_AT = "sent_at"
ANSWERED_AT = "answered_at"
SAVED_AT = "saved_at"
N_POLLS = "n_polls"
N_REFUSALS = "n_refusals"
WAITED_S = "waited_s"
ATTEMPT_INPUTS = "inputs"
IN_TABLE = "in_table"

# What `attempts` and `costs` say of attempts and money.
RUN_DIR = "run_dir"
N_ROWS = "rows"
ATTEMPTS = "attempts"
N_USABLE = "usable"
N_UNPRICED = "unpriced"
SPENT = "spent"
SPENT_USD = "spent_usd"
USD_PER_ATTEMPT = "usd_per_attempt"
USD_PER_PICTURE = "usd_per_picture"
WASTE = "waste"
POSSIBLY_BILLED = "possibly_billed"
SAVED = "saved"
ESTIMATED = "estimated"
RATES = "rates"
LIST_USD = "list_usd"
DISCOUNT_USD = "discount_usd"
PLANNED_LOW_USD = "planned_low_usd"
PLANNED_HIGH_USD = "planned_high_usd"

# What `latency` and `throughput` say of time.
PHASE = "phase"
MEAN_S = "mean_s"
MIN_S = "min_s"
P10_S = "p10_s"
P50_S = "p50_s"
P90_S = "p90_s"
P99_S = "p99_s"
MAX_S = "max_s"
AT = "at"
N_SENT = "sent"
PER_MINUTE = "per_minute"
N_IN_FLIGHT = "in_flight"

PHASES = ("create", "quota", "queue", "generation", "upload", "task", "download")
CREATE, QUOTA, QUEUE, GENERATION, UPLOAD, TASK, DOWNLOAD = PHASES

# What `failures` says of what went wrong.
PATTERN = "pattern"
EXAMPLE_ROWS = "example_rows"
EXAMPLE = "example"
MEANING = "meaning"
ADVICE = "advice"
CALL = "call"

# What `measure`, `diversity`, `near_duplicates`, `compare_replicates`, `rank` and `best_seeds` say of pictures.
PROBLEM = "problem"
N_PICTURES = "pictures"
N_UNSEEN = "unseen"
HASH_MEAN = "hash_mean"
HASH_MIN = "hash_min"
DELTA_E_MEAN = "delta_e_mean"
DELTA_E_MIN = "delta_e_min"
N_NEAR = "near_duplicates"
ROW_A = "row_a"
ROW_B = "row_b"
POSITION_A = "position_a"
POSITION_B = "position_b"
SEED_A = "seed_a"
SEED_B = "seed_b"
HASH_DISTANCE = "hash_distance"
DELTA_E = "delta_e"
PATH_A = "path_a"
PATH_B = "path_b"
REPLICATE_A = "replicate_a"
REPLICATE_B = "replicate_b"
IS_SAME_FILE = "is_same_file"
IS_SAME_PIXELS = "is_same_pixels"
PIXEL_DIFFERENCE = "pixel_difference"
SCORE = "score"
RANK = "rank"
N_RANKED = "ranked"
N_UNRANKED = "unranked"
N_FIRST = "firsts"
SCORE_MIN = "score_min"
RANK_MEAN = "rank_mean"

# What `metrics.parquet` keeps of a picture that was measured.
REFERENCE_SHA256 = "reference_sha256"
METRIC = "metric"
VERSION = "version"
VECTOR = "vector"

# What `picture-cache.parquet` keeps of each picture.
SHA256 = "sha256"
BYTES = "bytes"
FINGERPRINT = "fingerprint"
THUMBNAIL = "thumbnail"
THUMBNAIL_WIDTH = "thumbnail_width"
THUMBNAIL_HEIGHT = "thumbnail_height"

# What `check_service` found.
CHECK = "check"
PASSED = "passed"
DETAIL = "detail"

# What people said of pictures: `ratings.parquet`, `comparisons.parquet`, and what comes of it.
RATER = "rater"
KIND = "kind"
RATING = "rating"
PICKED = "picked"
STANDS = "stands"
SEARCH_TRY = "search_try"
SAMPLE = "dreamo_sample"  # in a table's attrs: how sweep sampled it
N_KEPT = "kept"
USD_PER_KEPT = "usd_per_kept"
JOB_ID_A = "job_id_a"
JOB_ID_B = "job_id_b"
CHOICE = "choice"
N_CHOICES = "choices"
N_WON = "won"
N_LOST = "lost"
N_TIED = "tied"
STRENGTH = "strength"
STRENGTH_LOW = "strength_low"
STRENGTH_HIGH = "strength_high"
WINS_SHARE = "wins_share"

# What an export says of pictures and of columns.
FILE_NAME = "file_name"
REFERENCE = "reference"
DTYPE = "dtype"
UNIT = "unit"

# What `jobs.parquet` keeps of a row beside the user's own columns.
USER = "user"
DIRECTORY = "directory"
HOST = "host"
MONTH = "month"
HELD = "held"
GRANTED_USD = "granted_usd"
REPORTED_AT = "reported_at"
IMAGE_SOURCE = "image_source"
IMAGE_DIGEST = "image_digest"
IMAGE_SENT = "image_sent"
IMAGE_SENT_DIGEST = "image_sent_digest"
IMAGES_FURTHER = "images_further"
OWN_PARAMETERS = "own_parameters"

STR = "str"
INT = "Int64"
FLOAT = "float64"
BOOL = "boolean"
TIME = "datetime64[us, UTC]"
CATEGORY = "category"

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
INPUTS = _TABLES["inputs"]
OUTPUTS = _TABLES["outputs"]
RATED = _TABLES["rated"]
PROBLEMS = _TABLES["problems"]
PLAN = _TABLES["plan"]
LEDGER = _TABLES["ledger"]
ATTEMPTS_MADE = _TABLES["attempts_made"]
COSTS = _TABLES["costs"]
COSTS_PLANNED = _TABLES["costs_planned"]
LATENCY = _TABLES["latency"]
THROUGHPUT = _TABLES["throughput"]
FAILURES = _TABLES["failures"]
MEASURES = _TABLES["measures"]
DIVERSITY = _TABLES["diversity"]
NEAR_DUPLICATES = _TABLES["near_duplicates"]
REPLICATES = _TABLES["replicates"]
RANKS = _TABLES["ranks"]
BEST_SEEDS = _TABLES["best_seeds"]
METRICS = _TABLES["metrics"]
PICTURE_CACHE = _TABLES["picture_cache"]
RATINGS = _TABLES["ratings"]
RATINGS_READ = _TABLES["ratings_read"]
COMPARISONS = _TABLES["comparisons"]
STRENGTHS = _TABLES["strengths"]
CHECKS = _TABLES["checks"]
PICTURES = _TABLES["pictures"]
DICTIONARY = _TABLES["dictionary"]
BUDGET = _TABLES["budget"]

# `jobs.parquet` keeps what was decided for each row beside the user's own columns, under names no user has.
STORED_PREFIX = "dreamo:"
