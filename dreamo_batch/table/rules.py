"""Every rule a row can break, by its code.

Examples
--------
>>> RULES["prompt-very-long"].severity
'warning'
"""

from __future__ import annotations

from typing import Final

from dreamo_batch import columns
from dreamo_batch.service import parameters
from dreamo_batch.table.image_rules import IMAGE_RULES
from dreamo_batch.table.rule import ERROR, WARNING, Rule

__all__ = ["ERROR", "RULES", "WARNING", "Rule"]

_PROMPT_OF_SIBLINGS = parameters.PROMPT_CHARACTERS_OF_SIBLINGS.value
_RATIO = parameters.RATIO_OF_SIBLINGS.value
_PROMPT_ADVISED = parameters.PROMPT_CHARACTERS_ADVISED.value
_SIDE_MIN = parameters.SIDE_MIN_PX.value
_SIDE_MAX = parameters.SIDE_MAX_PX.value
_SIDE_DEFAULT = parameters.SIDE_DEFAULT_PX.value
_PRODUCT_MAX = parameters.PRODUCT_MAX_PX.value
_PRESETS = ", ".join(parameters.SIZES)

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
        "prompt-very-long",
        WARNING,
        f"The prompt has {{n}} characters; at most {_PROMPT_ADVISED} are advised, and sibling models refuse more than "
        f"{_PROMPT_OF_SIBLINGS}.",
        f"Shorten it to {_PROMPT_ADVISED} characters, or set use_rephraser to false, as the service advises.",
    ),
    Rule(
        "prompt-long",
        WARNING,
        f"The prompt has {{n}} characters; at most {_PROMPT_ADVISED} are advised.",
        "Shorten it: what is beyond may have no effect.",
    ),
    Rule(
        "prompt-looks-equal",
        WARNING,
        "The prompt looks like that of row {other} and differs only in {difference}; it's a separate, billed job.",
        "Make the prompts equal to buy one picture, or keep both on purpose.",
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
        "Use -1 or leave it empty for a drawn seed, else 1 to 2**31-1.",
    ),
    Rule(
        "seed-zero",
        WARNING,
        "The seed is 0; the service promises repeatable pictures only for positive seeds.",
        "Use seeds from 1.",
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

_SWEEPS = (
    Rule(
        "seed-sweep-rephrased",
        WARNING,
        "use_rephraser is on in seed sweeps (rows: {n_rows}, sweeps: {n_sweeps}): the service may rewrite the prompt "
        "of each row in another way, so that pictures differ by more than the seed.",
        "Set use_rephraser to false where seeds are compared.",
    ),
)

_COLUMNS = (
    Rule(
        "column-not-read",
        WARNING,
        "{what}.",
        "Rename it to {near}, or to something else if it is yours.",
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
        "size-extreme-ratio",
        WARNING,
        f"{{width}}x{{height}} is beyond {_RATIO}:1; sibling models refuse such shapes, so this may fail.",
        f"Stay within 1:{_RATIO} to {_RATIO}:1, best at an advised size: {_PRESETS}.",
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
        *_SWEEPS,
        *_COLUMNS,
        *IMAGE_RULES,
    )
}
