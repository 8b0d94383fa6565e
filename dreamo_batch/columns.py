"""Every column the toolkit reads or writes: its name, dtype, unit and meaning.

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

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the user hands in.
IMAGE = "image"
IMAGE_ALIASES = ("image_path", "image_url")
IMAGE_NUMBERED = ("image_1", "image_2", "image_3", "image_4", "image_5")
PROMPT = "prompt"
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

ACTIONS = ("new", "reuse", "duplicate", "in flight", "ambiguous", "invalid", "failed")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: name, pandas dtype, unit (empty where there is none) and meaning."""

    name: str
    dtype: str
    unit: str
    meaning: str


def _table(*columns: Column) -> dict[str, Column]:
    return {column.name: column for column in columns}


def dtypes(columns: Mapping[str, Column]) -> dict[str, str]:
    """Give the pandas dtype of each column."""
    return {column.name: column.dtype for column in columns.values()}


INPUTS = _table(
    Column(
        IMAGE,
        "object",
        "",
        "Reference picture, ideally of a single subject: path, http(s) URL, `data:` URI, bytes or PIL image; for "
        "`spark_multi_dreamo` also a list of 1 to 5 of these. Aliases: `image_path`, `image_url`.",
    ),
    *(
        Column(
            name,
            "object",
            "",
            f"Reference picture {number} of 5, instead of a list in `image`; empty cells are skipped.",
        )
        for number, name in enumerate(IMAGE_NUMBERED, 1)
    ),
    Column(PROMPT, STR, "", "What to draw, in Chinese or English."),
    Column(SEED, INT, "", "-1 or missing: drawn before sending and recorded. 1 to 2**63-1: sent unchanged."),
    Column(WIDTH, INT, "px", "Width of the requested picture, 512 to 2048 (default 1328)."),
    Column(HEIGHT, INT, "px", "Height of the requested picture, 512 to 2048 (default 1328)."),
    Column(SIZE, STR, "", 'Instead of width and height: "1328x1328" or an advised ratio such as "16:9".'),
    Column(USE_REPHRASER, BOOL, "", "Whether the service may rewrite the prompt (default true)."),
    Column(REPLICATE, INT, "", "Buys the same job once per distinct value (default 0)."),
    Column(
        MODEL, STR, "", "`spark_dreamo` (default) or `spark_multi_dreamo`, which takes several references."
    ),
    Column(
        REF_TYPE,
        "object",
        "",
        "What each reference picture of `spark_multi_dreamo` is, in the order of the pictures: a list, or text such as "
        '"IP,STYLE". `IP`: subject, `ID`: face, `STYLE`: style, `AUTO` (default): the service finds out, slower.',
    ),
    Column(
        GUIDANCE_SCALE1,
        FLOAT,
        "",
        "Only `spark_multi_dreamo`: 1 to 7 (default 2.5); higher is closer to the text, further from the pictures.",
    ),
    Column(
        GUIDANCE_SCALE2,
        FLOAT,
        "",
        "Only `spark_multi_dreamo`: pull toward the pictures; range and default are unknown, so sent only if given.",
    ),
)

OUTPUTS = _table(
    Column(STATUS, CATEGORY, "", "One of " + ", ".join(f"`{status}`" for status in STATUSES) + "."),
    Column(
        JOB_ID, STR, "", "Hash of what was submitted: model, picture bytes, prompt, seed, size and the rest."
    ),
    Column(
        TASK_ID, STR, "", "The service's task id: of the last completed attempt, else of the latest attempt."
    ),
    Column(DUPLICATE_OF, INT, "", "Position of the first row with the same job; bought once, cost 0 here."),
    Column(SEED_SENT, INT, "", "Seed that was sent; drawn beforehand if the row had none."),
    Column(OUTPUT_URL, STR, "", "Link to the picture at the service; it expires."),
    Column(OUTPUT_PATH, STR, "", "Saved picture, relative to the run directory."),
    Column(OUTPUT_SHA256, STR, "", "SHA-256 of the saved file."),
    Column(OUTPUT_BYTES, INT, "bytes", "Size of the saved file."),
    Column(OUTPUT_WIDTH, INT, "px", "Width of the picture received."),
    Column(OUTPUT_HEIGHT, INT, "px", "Height of the picture received."),
    Column(OUTPUT_ERROR, STR, "", "Why the finished picture could not be saved."),
    Column(OUTPUT_URLS, STR, "", "All links, as JSON, if the task made several pictures."),
    Column(
        OUTPUT_WARNING,
        STR,
        "",
        "Paths of further pictures of the task, or a file size other than the service stated.",
    ),
    Column(COST_USD, FLOAT, "USD", "Cost as a float, for analysis."),
    Column(COST, STR, "USD", "Exact decimal sum of the known costs of all attempts of the job."),
    Column(DISCOUNT, STR, "", "Discount, as the service wrote it."),
    Column(ERROR_CLASS, STR, "", "Kind of failure, as one word."),
    Column(ERROR_CODE, STR, "", "The service's code, nine digits, leading zeros kept."),
    Column(ERROR_MESSAGE, STR, "", "What went wrong, in the service's words or the toolkit's."),
    Column(MAY_HAVE_BEEN_BILLED, BOOL, "", "Whether money may have been spent although no cost is known."),
    Column(ATTEMPTS, INT, "", "Attempts of the job that were accepted, or may have been."),
    Column(SUBMITTED_AT, TIME, "UTC", "When the attempt was sent."),
    Column(COMPLETED_AT, TIME, "UTC", "When the attempt was seen to have ended."),
    Column(LATENCY_S, FLOAT, "s", "From sending the attempt to seeing its end."),
    Column(RUN_DIR, STR, "", "Run directory, as passed; `output_path` is relative to it."),
)

RATED = _table(
    Column(
        RATING,
        FLOAT,
        "",
        "Mean of what each rater gave the picture last, 1 to 5; only if any picture is rated.",
    ),
    Column(
        PICKED,
        BOOL,
        "",
        "Whether more raters picked the picture than rejected it; missing if as many did both, or none.",
    ),
)

PROBLEMS = _table(
    Column(POSITION, INT, "", "Position of the row in the table, from 0."),
    Column(ROW, STR, "", "Index label of the row, as text."),
    Column(COLUMN, STR, "", "Column the problem is in."),
    Column(SEVERITY, STR, "", "`error`: the row can't be submitted; `warning`: it can."),
    Column(CODE, STR, "", "Short name of the rule that was broken."),
    Column(VALUE, STR, "", "Content of the cell, shortened."),
    Column(MESSAGE, STR, "", "What is wrong and what was expected."),
    Column(FIX, STR, "", "What to do."),
    Column(MODEL, STR, "", "Model whose rule it is; missing if every model has it."),
)

PLAN = _table(
    Column(ACTION, CATEGORY, "", "One of " + ", ".join(f"`{action}`" for action in ACTIONS) + "."),
    Column(REASON, STR, "", "Reason for the action."),
    Column(JOB_ID, STR, "", "Hash of what would be submitted."),
    Column(COST_LOW_USD, FLOAT, "USD", "Least that the row can still cost."),
    Column(COST_HIGH_USD, FLOAT, "USD", "Most that the row can still cost; missing if no price is known."),
)

LEDGER = _table(
    Column(JOB_ID, STR, "", OUTPUTS[JOB_ID].meaning),
    Column(ATTEMPT, INT, "", "Number of the attempt within its job, from 1; missing: never submitted."),
    Column(STAGE, STR, "", "Progress of the attempt."),
    Column(TASK_ID, STR, "", "The service's task id."),
    Column(SEED_SENT, INT, "", OUTPUTS[SEED_SENT].meaning),
    Column(RESERVED, STR, "USD", "Amount reserved for the attempt until its cost is known."),
    Column(COST, STR, "USD", "Cost as the service wrote it."),
    Column(DISCOUNT, STR, "", OUTPUTS[DISCOUNT].meaning),
    Column(OUTPUT_URL, STR, "", OUTPUTS[OUTPUT_URL].meaning),
    Column(OUTPUT_PATH, STR, "", OUTPUTS[OUTPUT_PATH].meaning),
    Column(OUTPUT_SHA256, STR, "", OUTPUTS[OUTPUT_SHA256].meaning),
    Column(OUTPUT_BYTES, INT, "bytes", OUTPUTS[OUTPUT_BYTES].meaning),
    Column(OUTPUT_WIDTH, INT, "px", OUTPUTS[OUTPUT_WIDTH].meaning),
    Column(OUTPUT_HEIGHT, INT, "px", OUTPUTS[OUTPUT_HEIGHT].meaning),
    Column(OUTPUT_ERROR, STR, "", OUTPUTS[OUTPUT_ERROR].meaning),
    Column(ERROR_CLASS, STR, "", OUTPUTS[ERROR_CLASS].meaning),
    Column(ERROR_CODE, STR, "", OUTPUTS[ERROR_CODE].meaning),
    Column(ERROR_MESSAGE, STR, "", OUTPUTS[ERROR_MESSAGE].meaning),
    Column(MAY_HAVE_BEEN_BILLED, BOOL, "", OUTPUTS[MAY_HAVE_BEEN_BILLED].meaning),
    Column(EXCERPT, STR, "", "First 2 kB of a reply that was not as documented."),
    Column(METADATA, STR, "", "The service's own times, as JSON."),
    Column(SENT_AT, TIME, "UTC", "When the attempt was sent."),
    Column(ANSWERED_AT, TIME, "UTC", "When the service replied to it."),
    Column(COMPLETED_AT, TIME, "UTC", OUTPUTS[COMPLETED_AT].meaning),
    Column(SAVED_AT, TIME, "UTC", "When the picture had been saved."),
    Column(N_POLLS, INT, "", "Number of polls."),
    Column(N_REFUSALS, INT, "", "Times the attempt was refused with 429 before it was accepted."),
    Column(WAITED_S, FLOAT, "s", "Time from the first refusal to acceptance."),
    Column(OUTPUT_URLS, STR, "", OUTPUTS[OUTPUT_URLS].meaning),
    Column(OUTPUT_WARNING, STR, "", OUTPUTS[OUTPUT_WARNING].meaning),
    Column(OUTPUT_JOB_ID, STR, "", "The service's `jobId` of the picture."),
    Column(OUTPUT_BYTES_TOLD, INT, "bytes", "Size of the picture as the service stated it."),
    Column(
        ATTEMPT_INPUTS,
        STR,
        "",
        "What was submitted, as JSON: prompt, reference, seed, size, and the row's own columns at that time.",
    ),
)

ATTEMPTS_MADE = _table(
    Column(RUN_DIR, STR, "", "Run directory, as passed."),
    Column(
        POSITION,
        INT,
        "",
        "Position of the row that the attempt was made for; missing if the row left the table.",
    ),
    Column(ROW, STR, "", PROBLEMS[ROW].meaning),
    *LEDGER.values(),
    Column(COST_USD, FLOAT, "USD", OUTPUTS[COST_USD].meaning),
)

COSTS = _table(
    Column(N_ROWS, INT, "", "Rows of the table."),
    Column(COMPLETED, INT, "", "Rows that are `completed`."),
    Column(FAILED, INT, "", "Rows that are `failed`."),
    Column(AMBIGUOUS, INT, "", "Rows that are `ambiguous`."),
    Column(
        ATTEMPTS,
        INT,
        "",
        "Attempts that were accepted, or may have been; each counts in the group of its row.",
    ),
    Column(N_USABLE, INT, "", "Attempts that gave a usable picture."),
    Column(N_UNPRICED, INT, "", "Attempts of unknown cost: open, ambiguous, lost, or ended without one."),
    Column(
        SPENT, STR, "USD", "Exact sum of the known costs; missing if there are attempts but no known cost."
    ),
    Column(SPENT_USD, FLOAT, "USD", "The same as a float, for analysis."),
    Column(USD_PER_ATTEMPT, FLOAT, "USD", "Spent, per attempt of known cost."),
    Column(USD_PER_PICTURE, FLOAT, "USD", "Spent, per usable picture of known cost."),
    Column(N_KEPT, INT, "", "Pictures that were picked; missing if no picture is rated."),
    Column(USD_PER_KEPT, FLOAT, "USD", "Spent, per picture that was picked."),
    Column(
        WASTE,
        STR,
        "USD",
        "Exact sum paid for attempts that failed or gave no picture; missing if unknown.",
    ),
    Column(
        POSSIBLY_BILLED,
        STR,
        "USD",
        "Exact sum that may be billed on top of `spent`; missing if unknown.",
    ),
    Column(SAVED, STR, "USD", "What buying duplicate rows again would have cost; missing if unknown."),
    Column(
        ESTIMATED,
        STR,
        "USD",
        "What was reserved for the attempts in `spent`; missing if any had no reservation.",
    ),
    Column(RATES, STR, "", "Discounts that occurred, as the service wrote them."),
    Column(LIST_USD, FLOAT, "USD", "Cost divided by discount; missing unless every discount is a rate."),
    Column(DISCOUNT_USD, FLOAT, "USD", "`list_usd` minus `spent_usd`."),
)

COSTS_PLANNED = _table(
    Column(PLANNED_LOW_USD, FLOAT, "USD", "Least, according to the plan."),
    Column(PLANNED_HIGH_USD, FLOAT, "USD", "Most, according to the plan."),
)

LATENCY = _table(
    Column(
        PHASE,
        CATEGORY,
        "",
        "`create`: from sending to the reply; `quota`: from the first refusal to acceptance; `queue`, `generation`, "
        "`upload`: the service's own times; `task`: from sending to seeing the end; `download`: from then until saved.",
    ),
    Column(ATTEMPTS, INT, "", "Attempts for which the phase is known."),
    Column(MEAN_S, FLOAT, "s", "Mean."),
    Column(MIN_S, FLOAT, "s", "Shortest."),
    Column(P10_S, FLOAT, "s", "10th percentile."),
    Column(P50_S, FLOAT, "s", "Median."),
    Column(P90_S, FLOAT, "s", "90th percentile."),
    Column(P99_S, FLOAT, "s", "99th percentile."),
    Column(MAX_S, FLOAT, "s", "Longest."),
)

THROUGHPUT = _table(
    Column(AT, TIME, "UTC", "Start of the interval."),
    Column(N_SENT, INT, "", "Attempts sent in the interval."),
    Column(COMPLETED, INT, "", "Attempts seen to complete in it."),
    Column(FAILED, INT, "", "Attempts seen to fail, or lost, in it."),
    Column(PER_MINUTE, FLOAT, "1/min", "Attempts completed per minute."),
    Column(N_IN_FLIGHT, INT, "", "Attempts still in flight when it ends."),
    Column(SPENT_USD, FLOAT, "USD", "Known cost of the attempts that ended in it."),
)

FAILURES = _table(
    Column(RUN_DIR, STR, "", "Run directory, as passed; missing if only results were passed."),
    Column(ERROR_CLASS, STR, "", OUTPUTS[ERROR_CLASS].meaning),
    Column(ERROR_CODE, STR, "", OUTPUTS[ERROR_CODE].meaning),
    Column(PATTERN, STR, "", "Message without numbers, ids and links, so that similar ones are grouped."),
    Column(N_ROWS, INT, "", "Rows whose latest attempt failed like this."),
    Column(ATTEMPTS, INT, "", "Attempts that failed like this, including those retried since."),
    Column(
        MAY_HAVE_BEEN_BILLED,
        BOOL,
        "",
        "Whether money may have been spent on any of them although no cost is known.",
    ),
    Column(SPENT, STR, "USD", "Exact sum of the known costs of these attempts."),
    Column(EXAMPLE_ROWS, STR, "", "Index labels of the first rows."),
    Column(EXAMPLE, STR, "", "Full message of the first of them."),
    Column(MEANING, STR, "", "What it means."),
    Column(ADVICE, STR, "", "What to do."),
    Column(CALL, STR, "", "Call that retries just these rows; missing if a retry would not help."),
)

MEASURES = _table(
    Column(PROMPT, STR, "", INPUTS[PROMPT].meaning),
    Column(SEED_SENT, INT, "", OUTPUTS[SEED_SENT].meaning),
    Column(JOB_ID, STR, "", OUTPUTS[JOB_ID].meaning),
    Column(PROBLEM, STR, "", "Why a value is missing, if one is."),
)

DIVERSITY = _table(
    Column(N_PICTURES, INT, "", "Pictures compared; rows with the same job count once."),
    Column(N_UNSEEN, INT, "", "Rows without a readable picture."),
    Column(HASH_MEAN, FLOAT, "bits", "Mean distance between the perceptual hashes of two pictures, 0 to 64."),
    Column(HASH_MIN, INT, "bits", "Smallest distance."),
    Column(
        DELTA_E_MEAN,
        FLOAT,
        "Delta E",
        "Mean colour difference between the 16 x 16 thumbnails of two pictures (CIE 1976).",
    ),
    Column(DELTA_E_MIN, FLOAT, "Delta E", "Smallest difference."),
    Column(N_NEAR, INT, "", "Pairs that `near_duplicates` would list."),
    Column(ROW_A, STR, "", "Index label of one of the two rows closest in colour, as text."),
    Column(ROW_B, STR, "", "Index label of the other row."),
)

NEAR_DUPLICATES = _table(
    Column(ROW_A, STR, "", "Index label of the first row, as text."),
    Column(ROW_B, STR, "", "Index label of the second row."),
    Column(POSITION_A, INT, "", "Position of the first row in the results, from 0."),
    Column(POSITION_B, INT, "", "Position of the second row."),
    Column(SEED_A, INT, "", "Seed of the first row."),
    Column(SEED_B, INT, "", "Seed of the second row."),
    Column(HASH_DISTANCE, INT, "bits", "Distance between their perceptual hashes, 0 to 64."),
    Column(DELTA_E, FLOAT, "Delta E", "Mean colour difference between their 16 x 16 thumbnails (CIE 1976)."),
    Column(IS_SAME_FILE, BOOL, "", "Whether the files are identical."),
    Column(PATH_A, STR, "", "Saved picture of the first row, relative to the run directory."),
    Column(PATH_B, STR, "", "Saved picture of the second row."),
)

REPLICATES = _table(
    Column(PROMPT, STR, "", INPUTS[PROMPT].meaning),
    Column(SEED_SENT, INT, "", OUTPUTS[SEED_SENT].meaning),
    Column(USE_REPHRASER, BOOL, "", "Whether the service may have rewritten the prompt."),
    Column(REPLICATE_A, INT, "", "Replicate number of the first row."),
    Column(REPLICATE_B, INT, "", "Replicate number of the second row."),
    Column(ROW_A, STR, "", NEAR_DUPLICATES[ROW_A].meaning),
    Column(ROW_B, STR, "", NEAR_DUPLICATES[ROW_B].meaning),
    Column(IS_SAME_FILE, BOOL, "", NEAR_DUPLICATES[IS_SAME_FILE].meaning),
    Column(IS_SAME_PIXELS, BOOL, "", "Whether all pixels are identical."),
    Column(
        PIXEL_DIFFERENCE,
        FLOAT,
        "levels",
        "Mean difference of pixel values, 0 to 255; missing if sizes differ.",
    ),
    Column(HASH_DISTANCE, INT, "bits", NEAR_DUPLICATES[HASH_DISTANCE].meaning),
    Column(DELTA_E, FLOAT, "Delta E", NEAR_DUPLICATES[DELTA_E].meaning),
    Column(PROBLEM, STR, "", "Why they can't be compared, if they can't."),
)

RANKS = _table(
    Column(SEED_SENT, INT, "", OUTPUTS[SEED_SENT].meaning),
    Column(JOB_ID, STR, "", OUTPUTS[JOB_ID].meaning),
    Column(
        SCORE, FLOAT, "", "Weighted mean of the rank in each metric, scaled: 1 is best of the group, 0 last."
    ),
    Column(
        RANK, INT, "", "From 1, the best of its group; equal scores share a rank; missing if any value is."
    ),
    Column(PROBLEM, STR, "", "Why the picture is not ranked, if it isn't."),
)

BEST_SEEDS = _table(
    Column(SEED_SENT, INT, "", OUTPUTS[SEED_SENT].meaning),
    Column(N_RANKED, INT, "", "Groups in which the seed was ranked."),
    Column(N_UNRANKED, INT, "", "Pictures of the seed that could not be ranked."),
    Column(SCORE, FLOAT, "", "Mean score over these groups."),
    Column(SCORE_MIN, FLOAT, "", "Score in its worst group."),
    Column(RANK_MEAN, FLOAT, "", "Mean rank."),
    Column(N_FIRST, INT, "", "Groups in which it is the best, alone or shared."),
)

METRICS = _table(
    Column(OUTPUT_SHA256, STR, "", OUTPUTS[OUTPUT_SHA256].meaning),
    Column(
        REFERENCE_SHA256, STR, "", "SHA-256 of the reference that was sent; empty if the metric needs none."
    ),
    Column(METRIC, STR, "", "Name of the metric."),
    Column(VERSION, STR, "", "Its version."),
    Column(VALUE, FLOAT, "", "Value; missing if there was nothing to measure."),
    Column(VECTOR, "object", "", "What an embedding turned the picture into, as bytes of 32-bit floats."),
)

PICTURE_CACHE = _table(
    Column(SHA256, STR, "", "SHA-256 of the picture."),
    Column(BYTES, INT, "bytes", "Size of the picture's file."),
    Column(THUMBNAIL_WIDTH, INT, "px", "Width of the thumbnail."),
    Column(THUMBNAIL_HEIGHT, INT, "px", "Height of the thumbnail."),
    Column(FINGERPRINT, "object", "", "Perceptual hash, colours and edges of the picture, as bytes."),
    Column(THUMBNAIL, "object", "", "The picture as a JPEG of at most 320 pixels a side."),
)

RATINGS = _table(
    Column(JOB_ID, STR, "", OUTPUTS[JOB_ID].meaning),
    Column(RATER, STR, "", "Who said it."),
    Column(
        KIND,
        STR,
        "",
        "`rating`, `pick`, `reject`, or `undo`, which takes back what its rater said last of the picture.",
    ),
    Column(VALUE, FLOAT, "", "1 to 5 for a `rating`."),
    Column(AT, TIME, "UTC", "When."),
)

RATINGS_READ = _table(
    Column(
        ROW, STR, "", "Index label of the first row with the picture, as text; missing if it left the table."
    ),
    *RATINGS.values(),
    Column(
        STANDS, BOOL, "", "Whether it counts: not taken back, and the rater said nothing newer of that kind."
    ),
)

COMPARISONS = _table(
    Column(JOB_ID_A, STR, "", "Job of the picture shown on the left."),
    Column(JOB_ID_B, STR, "", "Job of the picture shown on the right."),
    Column(RATER, STR, "", RATINGS[RATER].meaning),
    Column(
        CHOICE, STR, "", "`left`, `right`, `tie`, or `undo`, which takes back the last choice on the pair."
    ),
    Column(AT, TIME, "UTC", RATINGS[AT].meaning),
)

STRENGTHS = _table(
    Column(N_PICTURES, INT, "", "Pictures of the group that were shown."),
    Column(N_CHOICES, INT, "", "Choices between this group and others."),
    Column(N_WON, INT, "", "Choices for the group's picture."),
    Column(N_LOST, INT, "", "Choices for the other picture."),
    Column(N_TIED, INT, "", "Ties; each counts as half a choice for both."),
    Column(STRENGTH, FLOAT, "", "Bradley-Terry strength, in log-odds; the mean of all groups is 0."),
    Column(STRENGTH_LOW, FLOAT, "", "Lower end of its 95 % interval."),
    Column(STRENGTH_HIGH, FLOAT, "", "Upper end of its 95 % interval."),
    Column(WINS_SHARE, FLOAT, "", "Chance that it is preferred to a group of average strength."),
)

CHECKS = _table(
    Column(CHECK, STR, "", "What is expected of the service."),
    Column(MODEL, STR, "", "Model that was asked for; missing where it makes no difference."),
    Column(
        PASSED,
        BOOL,
        "",
        "Whether the service does so; missing if an earlier failure left nothing to check.",
    ),
    Column(DETAIL, STR, "", "What was found."),
    Column(COST, STR, "USD", "Exact cost of the check's attempt; missing if it made none."),
)

PICTURES = _table(
    Column(FILE_NAME, STR, "", "File name of the picture, beside this file."),
    Column(PROMPT, STR, "", INPUTS[PROMPT].meaning),
    Column(SEED, INT, "", OUTPUTS[SEED_SENT].meaning),
    Column(WIDTH, INT, "px", "Width of the picture."),
    Column(HEIGHT, INT, "px", "Height of the picture."),
    Column(USE_REPHRASER, BOOL, "", "Whether the service was allowed to rewrite the prompt."),
    Column(REFERENCE, STR, "", "File name of the reference picture, without its folder."),
    Column(IMAGE_DIGEST, STR, "", "SHA-256 of the reference picture's bytes, or of its URL."),
    Column(JOB_ID, STR, "", OUTPUTS[JOB_ID].meaning),
    Column(TASK_ID, STR, "", OUTPUTS[TASK_ID].meaning),
    Column(COST, STR, "USD", OUTPUTS[COST].meaning),
    Column(COMPLETED_AT, TIME, "UTC", OUTPUTS[COMPLETED_AT].meaning),
    Column(OUTPUT_SHA256, STR, "", "SHA-256 of the picture as received."),
)

DICTIONARY = _table(
    Column(COLUMN, STR, "", "Name of a column."),
    Column(DTYPE, STR, "", "Its pandas dtype; `dreamo_batch.read_table` restores it from CSV."),
    Column(UNIT, STR, "", "Unit, if any."),
    Column(MEANING, STR, "", "What it means."),
)

# `jobs.parquet` keeps what was decided for each row beside the user's own columns, under names no user has.
STORED_PREFIX = "dreamo:"
