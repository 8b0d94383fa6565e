"""Land in layers: hills, mountains and mist. Rows, columns and heights are pixels, lengths are units.

A line of land is an array of rows, one for every second column and a little beyond.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> stage = set_up("mountain", 42, 64, 48)
>>> cover(stage, hills(stage, 30, 5), (20, 60, 20))
>>> stage.canvas.image.getpixel((32, 47))
(20, 60, 20)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreamo_batch.local.preview import colour, noise

if TYPE_CHECKING:
    from dreamo_batch.local.preview.colour import Colour
    from dreamo_batch.local.preview.noise import Line
    from dreamo_batch.local.preview.stage import Stage

_STEP = 2


def at_column(line: Line, x: float) -> float:
    """Give the row of a line at this column, or at its end.

    Examples
    --------
    >>> at_column(np.array([5.0, 6.0, 7.0]), 2.5), at_column(np.array([5.0, 6.0, 7.0]), 99)
    (6.0, 7.0)
    """
    return float(line[int(np.clip(x / _STEP, 0, len(line) - 1))])


def n_points(stage: Stage) -> int:
    """Give the number of points of a line that crosses the whole canvas.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> n_points(set_up("", 42, 64, 48))
    34
    """
    return stage.width // _STEP + 2


def hills(stage: Stage, row: float, height: float, *, length: float = 0.6, rough: float = 0.35) -> Line:
    """Give a line of rolling hills around this row, the widest about `length` wide.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> hills(set_up("", 42, 64, 48), 30, 5).shape
    (34,)
    """
    return row - height * noise.ridge(
        stage.rng, n_points(stage), length * stage.unit / _STEP, octaves=4, rough=rough
    )


def crags(stage: Stage, row: float, height: float, *, length: float = 0.5) -> Line:
    """Give a line of mountains that stand on this row, with a peak about every `length`.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> line = crags(set_up("", 42, 64, 48), 30, 5)
    >>> bool(line.min() < 30), bool(line.max() <= 30)
    (True, True)
    """
    x = np.arange(n_points(stage)) * _STEP / stage.unit
    spots = np.arange(-0.5 * length, x[-1] + length, length)
    spots += stage.rng.uniform(-0.4, 0.4, len(spots)) * length
    tall = stage.rng.uniform(0.4, 0.85, len(spots))
    tall[int(stage.rng.integers(len(spots)))] = 1.0
    half = stage.rng.uniform(0.7, 1.3, (len(spots), 2)) * length
    away = x[None, :] - spots[:, None]
    tents = tall[:, None] - np.abs(away) / np.where(away > 0, half[:, :1], half[:, 1:])
    jagged = noise.ridge(stage.rng, len(x), 0.12 * stage.unit / _STEP, octaves=5, rough=0.6)
    return np.asarray(row - height * np.maximum(tents.max(axis=0) + 0.1 * jagged, 0.0))


def cover(
    stage: Stage, line: Line, top: Colour, base: Colour | None = None, *, bottom: float | None = None
) -> None:
    """Fill what is below a line, fading from `top` to `base`, down to the row `bottom`.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> stage = set_up("", 42, 64, 48)
    >>> cover(stage, np.full(34, 20.0), (9, 9, 9), bottom=40)
    >>> stage.canvas.image.getpixel((5, 39)), stage.canvas.image.getpixel((5, 41))
    ((9, 9, 9), (0, 0, 0))
    """
    end = stage.height if bottom is None else bottom
    with stage.canvas.layer(top, base, rows=(float(line.min()), end)) as pen:
        pen.polygon(_area(line, np.full(len(line), end + 1.0)))


def haze(stage: Stage, row: float, depth: float, strength: float = 0.6) -> None:
    """Lay mist over the land around this row.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> stage = set_up("day", 42, 64, 48)
    >>> haze(stage, 24, 10)
    >>> stage.canvas.image.getpixel((32, 24)) > stage.canvas.image.getpixel((32, 2))
    True
    """
    mist = colour.mix(stage.palette.sky[3], stage.palette.sky[2], 0.25)
    rows = (row - depth * 2, row + depth * 2)
    with stage.canvas.layer(mist, rows=rows, opacity=strength, blur_px=depth * 0.6) as pen:
        pen.box(-depth, row - depth, stage.width + depth, row + depth)


def far_ranges(stage: Stage, row: float, tint: Colour, n: int) -> None:
    """Paint ridges one behind the other, the farthest palest.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> far_ranges(set_up("day", 42, 64, 48), 30, (90, 90, 110), 2)
    """
    for k in range(n):
        near = 0.12 + 0.36 * k / max(1, n - 1)
        height = stage.unit * stage.between(0.12, 0.24)
        line = crags(stage, row + stage.height * 0.02 * k, height, length=stage.between(0.16, 0.34))
        cover(stage, line, stage.palette.at(tint, near), stage.palette.at(tint, near * 0.4))


def mountains(stage: Stage, row: float, height: float, rock: Colour, *, snow: float = 0.45) -> None:
    """Paint a range with lit and shaded sides, and snow on the upper `snow` of its height.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> mountains(set_up("day", 42, 64, 48), 40, 20, (90, 90, 110))
    """
    palette = stage.palette
    line = crags(stage, row, height, length=stage.between(0.32, 0.5))
    body, top = palette.at(rock, 0.78), float(line.min())
    cover(stage, line, body, palette.at(rock, 0.36))
    jagged = noise.ridge(stage.rng, len(line), 0.05 * stage.unit, octaves=3)
    limit = top + snow * height + jagged * 0.09 * height
    cap = palette.at(colour.mix((252, 253, 255), palette.sun, 0.15), 1)
    with stage.canvas.layer(cap, rows=(top, top + (snow + 0.1) * height)) as pen:
        pen.polygon(_area(line, np.maximum(line, limit)))
    _shade(stage, line, row, colour.mix(body, palette.at((40, 44, 92), 0.78), 0.65))


def _shade(stage: Stage, line: Line, row: float, shade: Colour) -> None:
    """Darken the right side of every peak, along a crooked edge that falls from its top."""
    wide = max(3, round(0.02 * stage.unit))
    smooth = np.convolve(np.pad(line, wide, mode="edge"), np.ones(2 * wide + 1) / (2 * wide + 1), "valid")
    falls = np.diff(smooth) > 0
    tops = np.flatnonzero(falls[1:] & ~falls[:-1]) + 1
    valleys = np.append(np.flatnonzero(~falls[1:] & falls[:-1]) + 1, len(line) - 1)
    with stage.canvas.layer(shade, rows=(float(line.min()), row), opacity=0.5) as pen:
        for near in tops:
            first = max(0, int(near) - wide)
            top = first + int(np.argmin(line[first : near + wide]))
            valley = int(valleys[min(int(np.searchsorted(valleys, top)), len(valleys) - 1)])
            pen.polygon(_shaded_side(stage, line, top, valley, row))


def _shaded_side(stage: Stage, line: Line, top: int, valley: int, row: float) -> Line:
    deep, fall = row - line[top], np.linspace(1, 0, 14)
    sway = 0.12 * np.sin(stage.between(0, 6) + 9 * fall) * fall + stage.rng.normal(0, 0.02, 14)
    sway[-1] = 0
    slope = np.stack([np.arange(top, valley + 1) * _STEP, line[top : valley + 1]], axis=1)
    edge = np.stack([top * _STEP + deep * sway, line[top] + deep * fall], axis=1)
    return np.concatenate([slope, [[valley * _STEP + deep * 0.15, row]], edge])


def _area(upper: Line, lower: Line) -> Line:
    """Corners of what lies between two lines."""
    x = np.arange(len(upper)) * _STEP
    return np.concatenate([np.stack([x, upper], axis=1), np.stack([x, lower], axis=1)[::-1]])
