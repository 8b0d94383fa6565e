"""Blind comparisons in pairs: which pairs are shown, and how strong each group is by the choices (Bradley-Terry)."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.results.rating_log import UNDO, GrowingTable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAME: Final = "comparisons.parquet"
LEFT, RIGHT, TIE = "left", "right", "tie"
CHOICES: Final = (LEFT, RIGHT, TIE)
# A weak belief that groups differ little keeps a group that won every time from an infinite strength.
_PRIOR_SD: Final = 2.0
_Z_95: Final = 1.959964
_PICTURES_MAX: Final = 500
_STEPS_MAX: Final = 50
_TOLERANCE: Final = 1e-10


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures of different groups, as positions of rows."""

    left: int
    right: int


def comparison_table(run_dir: Path) -> GrowingTable:
    """Return the choices that were made in a run directory."""
    return GrowingTable(run_dir / NAME, columns.COMPARISONS)


def draw_pairs(jobs: Sequence[str], groups: Sequence[int], strata: Sequence[int], n_pairs: int) -> list[Pair]:
    """Choose pairs of different groups within the same stratum, the same for the same pictures.

    Pairs of groups, and single pictures, come up about equally often, and each group about as often left as right.
    """
    kept = _few_of_each(jobs, groups, strata)
    possible: dict[tuple[int, int], list[tuple[bytes, int, int]]] = {}
    for one, other in itertools.combinations(kept, 2):
        if strata[one] == strata[other] and groups[one] != groups[other]:
            key = min(groups[one], groups[other]), max(groups[one], groups[other])
            possible.setdefault(key, []).append((_hashed(*sorted((jobs[one], jobs[other]))), one, other))
    order = sorted(possible, key=lambda key: min(possible[key])[0])
    n_of: Counter[object] = Counter()
    chosen: list[Pair] = []
    while len(chosen) < n_pairs and order:
        key = min(order, key=lambda key: (n_of[key], n_of["group", key[0]] + n_of["group", key[1]]))
        hashed, one, other = min(
            possible[key], key=lambda pair: (n_of["picture", pair[1]] + n_of["picture", pair[2]], pair[0])
        )
        possible[key].remove((hashed, one, other))
        if not possible[key]:
            order.remove(key)
        # Left is the group that was left less often, of these two and then of all; where equal, as the hash falls.
        sides = groups[one], groups[other]
        lead = n_of["left", key, sides[0]] - n_of["left", key, sides[1]]
        lead = lead or n_of["left", sides[0]] - n_of["left", sides[1]]
        left, right = (other, one) if lead > 0 or (lead == 0 and hashed[0] % 2) else (one, other)
        n_of.update([key, *(("group", group) for group in key), ("picture", one), ("picture", other)])
        n_of.update([("left", groups[left]), ("left", key, groups[left])])
        chosen.append(Pair(left, right))
    return chosen


def _few_of_each(jobs: Sequence[str], groups: Sequence[int], strata: Sequence[int]) -> list[int]:
    """Return the places of pictures to choose from: each job once, and not so many that all pairs can't be listed."""
    cells: dict[tuple[int, int], dict[str, int]] = {}
    for place, cell in enumerate(zip(strata, groups, strict=True)):
        cells.setdefault(cell, {}).setdefault(jobs[place], place)
    n_each = max(1, _PICTURES_MAX // max(1, len(cells)))
    return [place for cell in cells.values() for _, place in sorted(cell.items(), key=_by_hash)[:n_each]]


def _by_hash(item: tuple[str, int]) -> bytes:
    return _hashed(item[0])


def _hashed(*words: str) -> bytes:
    return hashlib.sha256("\0".join(words).encode()).digest()


def standing_choices(log: pd.DataFrame) -> pd.DataFrame:
    """Return the choices that count: of each rater the last on a pair, unless it was taken back."""
    open_lines: dict[tuple[Any, ...], list[int]] = {}
    cells = zip(
        log[columns.JOB_ID_A], log[columns.JOB_ID_B], log[columns.RATER], log[columns.CHOICE], strict=True
    )
    for number, (one, other, rater, choice) in enumerate(cells):
        lines = open_lines.setdefault((frozenset((one, other)), rater), [])
        if choice != UNDO:
            lines.append(number)
        elif lines:
            lines.pop()
    return log.iloc[sorted(lines[-1] for lines in open_lines.values() if lines)].reset_index(drop=True)


def strengths(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit Bradley-Terry strengths to a matrix of wins (row over column; ties count half for both), with their errors.

    The mode under a normal prior of standard deviation 2 (log-odds), found by Newton's method; errors are those of the
    normal approximation there. Strengths are centred on their mean.
    """
    n = len(wins)
    theta, identity = np.zeros(n), np.eye(n)
    centre = identity - 1 / n if n else identity
    games = wins + wins.T
    hessian = identity
    for _ in range(_STEPS_MAX):
        chance = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
        weight = games * chance * (1 - chance)
        gradient = wins.sum(axis=1) - (games * chance).sum(axis=1) - theta / _PRIOR_SD**2
        hessian = np.diag(weight.sum(axis=1)) - weight + identity / _PRIOR_SD**2
        step = np.linalg.solve(hessian, gradient)
        theta = theta + step
        if np.abs(step).max(initial=0.0) < _TOLERANCE:
            break
    covariance = centre @ np.linalg.inv(hessian) @ centre.T
    return centre @ theta, np.sqrt(np.clip(np.diag(covariance), 0, None))


def strength_table(labels: pd.DataFrame, groups_of: dict[str, int], choices: pd.DataFrame) -> pd.DataFrame:
    """Return one line per group: what was chosen, and how strong that makes it."""
    n = len(labels)
    wins, ties = np.zeros((n, n)), np.zeros(n, int)
    shown: list[set[str]] = [set() for _ in range(n)]
    cells = zip(choices[columns.JOB_ID_A], choices[columns.JOB_ID_B], choices[columns.CHOICE], strict=True)
    for one, other, choice in cells:
        if one not in groups_of or other not in groups_of or groups_of[one] == groups_of[other]:
            continue
        a, b = groups_of[one], groups_of[other]
        shown[a].add(one)
        shown[b].add(other)
        share = {LEFT: 1.0, RIGHT: 0.0, TIE: 0.5}[choice]
        wins[a, b] += share
        wins[b, a] += 1 - share
        ties[[a, b]] += choice == TIE
    theta, error = strengths(wins)
    n_won = wins.sum(axis=1) - ties / 2
    n_choices = (wins + wins.T).sum(axis=1)
    table = pd.DataFrame(
        {
            columns.N_PICTURES: [len(one) for one in shown],
            columns.N_CHOICES: n_choices,
            columns.N_WON: n_won,
            columns.N_LOST: n_choices - n_won - ties,
            columns.N_TIED: ties,
            columns.STRENGTH: theta,
            columns.STRENGTH_LOW: theta - _Z_95 * error,
            columns.STRENGTH_HIGH: theta + _Z_95 * error,
            columns.WINS_SHARE: 1 / (1 + np.exp(-theta)),
        },
        index=labels.index,
    ).round({columns.N_CHOICES: 0, columns.N_WON: 0, columns.N_LOST: 0})
    is_seen = table[columns.N_CHOICES] > 0
    measured = [columns.STRENGTH, columns.STRENGTH_LOW, columns.STRENGTH_HIGH, columns.WINS_SHARE]
    table[measured] = table[measured].where(is_seen)
    typed = table.astype(columns.dtypes(columns.STRENGTHS))
    whole = pd.concat([labels, typed], axis=1)
    return whole.sort_values(columns.STRENGTH, ascending=False, kind="stable", ignore_index=True)
