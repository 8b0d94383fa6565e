"""The rules of a row, read from the contract a second time: one row after the other, slow and obvious.

It shares nothing with the package but the column names, so that agreement means something.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd

PRESETS = {
    "1:1": (1328, 1328),
    "4:3": (1472, 1104),
    "3:4": (1104, 1472),
    "3:2": (1584, 1056),
    "2:3": (1056, 1584),
    "16:9": (1664, 936),
    "9:16": (936, 1664),
    "21:9": (2016, 864),
    "9:21": (864, 2016),
}

WARNINGS = {
    "prompt-long",
    "prompt-very-long",
    "seed-zero",
    "size-extreme-ratio",
    "seed-beyond-32-bit",
    "size-risky",
    "one-side-only",
    "image-url-not-public",
}
TRUE = {"true", "yes", "1", "1.0"}


def problems_of(table: pd.DataFrame, image_problem) -> set[tuple[int, str, str]]:
    """Give (position, column, code) of every problem; `image_problem` judges one picture."""
    found = set()
    for position in range(len(table)):
        row = {name: table[name].iloc[position] for name in table.columns}
        found |= {(position, column, code) for column, code in _problems_of_row(row, image_problem)}
    return found | set(_sweep_problem(table, {at for at, _, code in found if code not in WARNINGS}))


def _sweep_problem(table, in_error):
    """One line for the whole table, at the first row that another one equals but for the seed."""
    seeds = {}
    for position in set(range(len(table))) - in_error:
        row = {name: table[name].iloc[position] for name in table.columns}
        if not _said(row, "use_rephraser") or str(row["use_rephraser"]).strip().lower() in TRUE:
            seed = _whole(row["seed"]) if _said(row, "seed") else -1
            own = seed if seed >= 0 else f"drawn for {position}"
            seeds.setdefault(_all_but_seed(row), {}).setdefault(own, position)
    swept = [positions for positions in seeds.values() if len(positions) > 1]
    if swept:
        names = (name for name in ("use_rephraser", "seed", "prompt") if name in table.columns)
        yield min(min(p.values()) for p in swept), next(names), "seed-sweep-rephrased"


def _all_but_seed(row):
    images = tuple(
        None if _is_missing(row[name]) else (type(row[name]), row[name])
        for name in ("image", "image_path", "image_url")
        if name in row
    )
    sides = tuple(_whole(row[name]) if _said(row, name) else 1328 for name in ("width", "height"))
    return images, row["prompt"], _pair(row["size"]) if _said(row, "size") else sides


def _problems_of_row(row, image_problem):
    yield from _image_problems(row, image_problem)
    yield from _prompt_problems(row["prompt"])
    if _said(row, "seed"):
        yield from _number_problems("seed", row["seed"], -1, 2**63 - 1)
        is_readable = not list(_number_problems("seed", row["seed"], -1, 2**63 - 1))
        if is_readable and _whole(row["seed"]) == 0:
            yield "seed", "seed-zero"
        if is_readable and _whole(row["seed"]) >= 2**31:
            yield "seed", "seed-beyond-32-bit"
    if _said(row, "replicate"):
        yield from _number_problems("replicate", row["replicate"], 0, 2**63 - 1)
    if _said(row, "use_rephraser") and not _is_boolean(row["use_rephraser"]):
        yield "use_rephraser", "use_rephraser-not-boolean"
    yield from _size_problems(row)


def _image_problems(row, image_problem):
    given = [name for name in ("image", "image_path", "image_url") if _said(row, name)]
    first = next(name for name in ("image", "image_path", "image_url") if name in row)
    if not given:
        yield first, "image-missing"
    if len(given) > 1:
        yield first, "image-two-sources"
    for name in given:
        code = image_problem(row[name])
        if code:
            yield name, code


def _prompt_problems(prompt):
    if _is_missing(prompt):
        yield "prompt", "prompt-missing"
    elif not isinstance(prompt, str):
        yield "prompt", "prompt-not-text"
    elif not prompt.strip():
        yield "prompt", "prompt-blank"
    elif any(0xD800 <= ord(character) <= 0xDFFF for character in prompt):
        yield "prompt", "prompt-not-unicode"
    elif len(prompt) > 800:
        yield "prompt", "prompt-very-long"
    elif len(prompt) > 300:
        yield "prompt", "prompt-long"


def _number_problems(name, cell, lowest, highest):
    number = _whole(cell)
    if number is None:
        yield name, f"{name}-not-integer"
    elif _is_rounded(cell, number):
        yield name, f"{name}-inexact"
    elif not lowest <= number <= highest:
        yield name, f"{name}-out-of-range"


def _size_problems(row):
    readable = True
    sides = {}
    for name in ("width", "height"):
        if _said(row, name):
            problems = list(_number_problems(name, row[name], -(2**63), 2**63 - 1))
            readable = readable and not problems
            sides[name] = None if problems else _whole(row[name])
            yield from problems
    size = _pair(row["size"]) if _said(row, "size") else None
    if _said(row, "size") and size is None:
        readable = False
        yield "size", "size-unknown"
    if size:
        for name, meant in zip(("width", "height"), size, strict=True):
            if sides.get(name) is not None and sides[name] != meant:
                yield "size", "size-contradiction"
    elif not _said(row, "size") and len(sides) == 1:
        yield next(iter(sides)), "one-side-only"
    if readable:
        width, height = size or (sides.get("width", 1328), sides.get("height", 1328))
        yield from _extreme_problems(width, height, from_size=bool(size))


def _extreme_problems(width, height, *, from_size):
    for name, side in (("width", width), ("height", height)):
        if side < 512:
            yield "size" if from_size else name, "side-too-small"
    longer = "size" if from_size else "width" if width >= height else "height"
    if max(width, height) > 2048 and width * height >= 2048 * 2048:
        yield longer, "product-too-large"
        return
    if max(width, height) > 2048 or width * height >= 2048 * 2048:
        yield longer, "size-risky"
    if min(width, height) >= 512 and max(width, height) > 3 * min(width, height):
        yield longer, "size-extreme-ratio"


def _said(row, name):
    return (
        name in row
        and not _is_missing(row[name])
        and not (isinstance(row[name], str) and not row[name].strip())
    )


def _is_missing(cell):
    if isinstance(cell, (list, tuple, bytes)):
        return False
    return (
        cell is None
        or cell is pd.NA
        or cell is pd.NaT
        or cell == ""
        or (isinstance(cell, float) and math.isnan(cell))
    )


def _whole(cell):
    """The integer a cell stands for, rounded or not; None if it stands for none."""
    if isinstance(cell, (bool, np.bool_, list, tuple, bytes)):
        return None
    if isinstance(cell, str):
        match = re.fullmatch(r"([+-]?[0-9]+)(\.0*)?", cell.strip())
        return int(match[1]) if match else None
    if isinstance(cell, (int, np.integer)):
        return int(cell)
    if isinstance(cell, (float, np.floating)) and math.isfinite(cell) and cell == math.floor(cell):
        return int(cell)
    return None


def _is_rounded(cell, number):
    was_float = isinstance(cell, (float, np.floating)) or (isinstance(cell, str) and "." in cell)
    # Text beyond 64 bits is beyond them, however it was written.
    if isinstance(cell, str) and not -(2**63) <= number < 2**63:
        return False
    return was_float and abs(number) >= 2**53


def _is_boolean(cell):
    if isinstance(cell, str):
        return cell.strip().lower() in {"true", "false", "yes", "no", "1", "0", "1.0", "0.0"}
    return isinstance(cell, (bool, int, float, np.bool_, np.integer, np.floating)) and cell in (0, 1)


def _pair(cell):
    if isinstance(cell, (tuple, list)):
        sides = [_whole(side) for side in cell]
        return tuple(sides) if len(sides) == 2 and None not in sides else None
    if not isinstance(cell, str):
        return None
    match = re.fullmatch(r"([0-9]+) *[xX*\u00d7] *([0-9]+)", cell.strip())
    return (int(match[1]), int(match[2])) if match else PRESETS.get(cell.strip())
