"""The rules of reference pictures: the cell, the file, and what a corrected copy would mend.

Examples
--------
>>> [rule.code for rule in IMAGE_RULES if rule.repair][:2]
['image-format', 'image-too-many-bytes']
"""

from __future__ import annotations

from typing import Final

from dreamo_batch.service import parameters
from dreamo_batch.table.rule import ERROR, WARNING, Rule

_INPUT_MB = parameters.INPUT_BYTES_ADVISED.value / 1e6
_INPUT_SIDE = parameters.INPUT_SIDE_MAX_PX.value
_FORMATS = " or ".join(parameters.INPUT_FORMATS.value)

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
        "image-link-expired",
        ERROR,
        "The link to the picture expired on {when}; rows that weren't submitted before fail without being sent.",
        "Create a new link; the row stays the same job, because only the signature differs.",
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
        "There is no file {path}{hint}.",
        "Check the path; relative ones start at {base}.",
    ),
    Rule(
        "image-gone",
        WARNING,
        "{path} can't be read any more; earlier orders for it are still known.",
        "Put the file back if rows that were not ordered yet are to be.",
    ),
    Rule(
        "image-kept",
        WARNING,
        "{path} can't be read; the copy that the run directory keeps is used.",
        "Nothing to do, unless another picture is meant.",
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
        "image-numbers",
        ERROR,
        "The picture holds {kind} from {low} to {high}, not levels from black to white; how to show them is up to you.",
        'Scale them yourself, for example Image.fromarray(((a - a.min()) * (255 / np.ptp(a))).astype("uint8")).',
    ),
    Rule(
        "image-levels",
        ERROR,
        "The picture's brightest level is {high}: it would look nearly black, as 12 bits stored in 16 do.",
        'Scale it yourself, for example Image.fromarray((a * (255 / a.max())).astype("uint8")).',
    ),
    Rule(
        "image-copy-uniform",
        ERROR,
        "The corrected copy came out as one colour, though the picture has several.",
        "Save it as 8-bit RGB yourself, and look at it.",
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
        "image-many-bytes",
        WARNING,
        f"The picture has {{n_mb:.2f}} MB; the service takes {_INPUT_MB} MB, and may count them in either way.",
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

IMAGE_RULES: Final = (*_CELLS, *_FILES, *_REPAIRABLE)
