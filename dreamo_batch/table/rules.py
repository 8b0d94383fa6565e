"""Every rule a row can break: code, severity, column, what was expected, what to do.

Examples
--------
>>> RULES["prompt-too-long"].severity
'error'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dreamo_batch import columns
from dreamo_batch.service import parameters

ERROR: Final = "error"
WARNING: Final = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `message` and `fix` may name `{details}` that are filled in for each row.

    `repair` says what a corrected copy of the picture would do about it; empty where none can.

    Examples
    --------
    >>> Rule("image-not-found", ERROR, "There is no file {path}.", "Check the path.").code
    'image-not-found'
    """

    code: str
    severity: str
    message: str
    fix: str
    repair: str = ""


_PROMPT_MAX = parameters.PROMPT_CHARACTERS_MAX.value
_PROMPT_ADVISED = parameters.PROMPT_CHARACTERS_ADVISED.value
_SIDE_MIN = parameters.SIDE_MIN_PX.value
_SIDE_MAX = parameters.SIDE_MAX_PX.value
_SIDE_DEFAULT = parameters.SIDE_DEFAULT_PX.value
_PRODUCT_MAX = parameters.PRODUCT_MAX_PX.value
_INPUT_MB = parameters.INPUT_BYTES_MAX.value / 1e6
_INPUT_SIDE = parameters.INPUT_SIDE_MAX_PX.value
_PRESETS = ", ".join(parameters.SIZES)
_FORMATS = " or ".join(parameters.INPUT_FORMATS.value)

_PROMPTS = (
    Rule(
        "prompt-missing", ERROR, "There is no prompt; every row needs one.", "Write a prompt or drop the row."
    ),
    Rule("prompt-blank", ERROR, "The prompt is blank.", "Write a prompt or drop the row."),
    Rule("prompt-not-text", ERROR, "The prompt is a {type}, not text.", "Turn it into text."),
    Rule(
        "prompt-not-unicode",
        ERROR,
        "The prompt holds half a character (a lone surrogate), which can't be sent.",
        "Read the text again with its right encoding.",
    ),
    Rule(
        "prompt-too-long",
        ERROR,
        f"The prompt has {{n}} characters; the service takes at most {_PROMPT_MAX}.",
        f"Shorten it, best below {_PROMPT_ADVISED} characters.",
    ),
    Rule(
        "prompt-long",
        WARNING,
        f"The prompt has {{n}} characters; at most {_PROMPT_ADVISED} are advised.",
        "Shorten it: what is beyond may have no effect.",
    ),
)

_INTEGER_FIX = "Write a whole number, as an integer or as text."
_NUMBERS = (
    Rule("{column}-not-integer", ERROR, "The {column} is not a whole number.", _INTEGER_FIX),
    Rule(
        "{column}-inexact",
        ERROR,
        "The {column} is a float too large to be exact: integers beside it read the same.",
        "Keep the column as integers (dtype Int64) or as text from the start.",
    ),
)

_SEEDS = (
    Rule(
        "seed-out-of-range",
        ERROR,
        "The seed is outside -1 to 2**63-1.",
        "Use -1 or leave it empty for a drawn seed, else 0 to 2**31-1.",
    ),
    Rule(
        "seed-beyond-32-bit",
        WARNING,
        "The seed is 2**31 or more; it is not known whether the service tells such seeds apart.",
        "Use seeds up to 2**31-1.",
    ),
    Rule(
        "replicate-out-of-range",
        ERROR,
        "The replicate is outside 0 to 2**63-1.",
        "Count replicates from 0.",
    ),
    Rule(
        "use_rephraser-not-boolean",
        ERROR,
        "use_rephraser is neither true nor false.",
        "Write true or false (yes, no, 1 and 0 are read too), or leave it empty.",
    ),
)

_SIZES = (
    Rule(
        "{column}-out-of-range",
        ERROR,
        f"The {{column}} does not fit 64 bits; {_SIDE_MIN} to {_SIDE_MAX} pixels were expected.",
        f"Use {_SIDE_MIN} to {_SIDE_MAX} pixels.",
    ),
    Rule(
        "side-too-small",
        ERROR,
        f"The {{side}} is {{n}} pixels; the service makes no picture below {_SIDE_MIN}.",
        f"Use {_SIDE_MIN} to {_SIDE_MAX} pixels, or an advised size: {_PRESETS}.",
    ),
    Rule(
        "product-too-large",
        ERROR,
        f"{{width}}x{{height}} is too large: a side above {_SIDE_MAX} is allowed only while width*height "
        f"stays below {_PRODUCT_MAX:,}.",
        f"Use {_SIDE_MIN} to {_SIDE_MAX} pixels, or an advised size: {_PRESETS}.",
    ),
    Rule(
        "size-risky",
        WARNING,
        f"{{width}}x{{height}} is at or beyond {_SIDE_MAX} pixels a side; the service may time out.",
        f"Stay below {_SIDE_MAX}x{_SIDE_MAX}, best at an advised size: {_PRESETS}.",
    ),
    Rule(
        "size-unknown",
        ERROR,
        "The size is neither WIDTHxHEIGHT nor an advised ratio.",
        f'Write it as "1328x1328" or as one of {_PRESETS}.',
    ),
    Rule(
        "size-contradiction",
        ERROR,
        "The size means {width}x{height}, but the {side} beside it is {n}.",
        "Keep one of the two.",
    ),
    Rule(
        "one-side-only",
        WARNING,
        f"Only one of width and height is given; the other will be {_SIDE_DEFAULT} pixels.",
        "Give both, or use `size`.",
    ),
)

_CELLS = (
    Rule(
        "image-missing",
        ERROR,
        "There is no reference picture; every row needs one.",
        "Give a path, a URL, bytes or a PIL image, or drop the row.",
    ),
    Rule(
        "image-two-sources",
        ERROR,
        "The row names {n} reference pictures ({columns}); the service takes exactly one.",
        "Keep one of them.",
    ),
    Rule(
        "image-not-a-source",
        ERROR,
        "A {type} is not a picture: a path, URL, data: URI, bytes or PIL image was expected.",
        "Give one of these.",
    ),
    Rule(
        "image-bad-url",
        ERROR,
        "The URL can't be used: {reason}.",
        "Write it as https://host/path, or give the path of a local file.",
    ),
    Rule(
        "image-url-not-public",
        WARNING,
        "{host} is not a public host; the service has to fetch the picture from there.",
        "Give the file itself, or a public URL.",
    ),
    Rule(
        "image-bad-data-uri",
        ERROR,
        "The data: URI can't be read: {reason}.",
        "Write it as data:image/png;base64,... or give the file.",
    ),
)

_FILES = (
    Rule(
        "image-not-found",
        ERROR,
        "There is no file {path}.",
        "Check the path; relative ones start at {base}.",
    ),
    Rule(
        "image-gone",
        WARNING,
        "{path} can't be read any more; earlier orders for it are still known.",
        "Put the file back if rows that were not ordered yet are to be.",
    ),
    Rule("image-not-a-file", ERROR, "{path} is {kind}, not a file.", "Give the path of one picture."),
    Rule(
        "image-unreadable", ERROR, "The file can't be read: {reason}.", "Check the path and its permissions."
    ),
    Rule("image-empty", ERROR, "The picture has no bytes.", "Export or download it again."),
    Rule(
        "image-not-a-picture",
        ERROR,
        f"The content is no picture that can be read here{{guess}}; {_FORMATS} was expected.",
        f"Save it as {_FORMATS}.",
    ),
    Rule(
        "image-not-convertible",
        ERROR,
        f"The picture is {{format}}; the service takes {_FORMATS} only.",
        f"Save it as {_FORMATS}.",
    ),
    Rule(
        "image-damaged",
        ERROR,
        "The picture can't be decoded: {reason}.",
        "It may be cut off; export or download it again.",
    ),
    Rule(
        "image-bomb",
        ERROR,
        "The picture is larger than is safe to decode: {size}.",
        f"Scale it down to {_INPUT_SIDE} pixels a side.",
    ),
    Rule(
        "image-far-too-many-bytes",
        ERROR,
        f"The file has {{n_mb:,.0f}} MB; the service takes at most {_INPUT_MB} MB, and no copy is made of so much.",
        f"Save it with at most {_INPUT_MB} MB.",
    ),
    Rule(
        "image-mode",
        ERROR,
        "A PIL image of mode {mode} can't be saved as PNG without a choice of yours.",
        'Convert it first, for example image.convert("RGB").',
    ),
    Rule(
        "image-extreme-ratio",
        WARNING,
        "The picture has {width}x{height} pixels, an aspect ratio beyond 16:9 to 9:16; it may fail.",
        "Crop it.",
    ),
)

_REPAIRABLE = (
    Rule(
        "image-format",
        ERROR,
        f"The picture is {{format}}; the service takes {_FORMATS} only.",
        f"Save it as {_FORMATS}",
        "converted to JPEG or PNG",
    ),
    Rule(
        "image-too-many-bytes",
        ERROR,
        f"The picture has {{n_mb:.2f}} MB; the service takes at most {_INPUT_MB} MB.",
        "Save it smaller, for example as JPEG",
        "saved as a smaller JPEG",
    ),
    Rule(
        "image-too-many-pixels",
        ERROR,
        f"The picture has {{width}}x{{height}} pixels; the service takes at most {_INPUT_SIDE} a side.",
        f"Scale it down to {_INPUT_SIDE} pixels a side",
        f"scaled down to {_INPUT_SIDE} pixels a side",
    ),
    Rule(
        "image-rotated",
        WARNING,
        "The picture is stored rotated, with a note (EXIF) on how to turn it; the service may not look at it.",
        "Save it upright",
        "turned upright",
    ),
    Rule(
        "image-animated",
        WARNING,
        "The picture has {n} frames; the service draws from one.",
        "Save the frame wanted",
        "reduced to its first frame",
    ),
    Rule(
        "image-colours",
        WARNING,
        "The picture is stored as {mode}; the service may misread its colours.",
        "Save it as 8-bit RGB",
        "converted to 8-bit colours",
    ),
)


def _for_columns(rules: tuple[Rule, ...], names: tuple[str, ...]) -> tuple[Rule, ...]:
    return tuple(
        Rule(*(text.replace("{column}", name) for text in (rule.code, rule.severity, rule.message, rule.fix)))
        for rule in rules
        for name in names
    )


_SIDES = (columns.WIDTH, columns.HEIGHT)

RULES: Final[dict[str, Rule]] = {
    rule.code: rule
    for rule in (
        *_PROMPTS,
        *_for_columns(_NUMBERS, (columns.SEED, *_SIDES, columns.REPLICATE)),
        *_SEEDS,
        *_for_columns(_SIZES[:1], _SIDES),
        *_SIZES[1:],
        *_CELLS,
        *_FILES,
        *_REPAIRABLE,
    )
}
