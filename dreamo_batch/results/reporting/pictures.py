"""The pictures of a report: the grid of seeds, how much they differ, and which hardly do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.results import diversity
from dreamo_batch.results.gallery import make_gallery
from dreamo_batch.results.reporting import wording
from dreamo_batch.results.texts import left_words
from dreamo_batch.results.thumbnails import Thumbnails

if TYPE_CHECKING:
    from pathlib import Path

    from dreamo_batch.results.reporting.facts import Facts

N_ROWS_MAX: Final = 1_000
"""Rows whose pictures a report shows; a gallery shows all."""
_BYTES_MAX: Final = 2_100_000  # as JPEG; as text of the page a third more
_COLUMNS_MAX: Final = 9  # as many stand side by side on a desk or a sheet of paper
_ANY_SIZE: Final = 10**9
_NEAR_MAX: Final = 24
_PAIR_BYTES_MAX: Final = 6_000
_GROUPS_MAX: Final = 40


def seed_grid(facts: Facts, *, n_runs: int = 1) -> dict[str, Any]:
    """Draw prompts against seeds, with what failed or is missing drawn as what it is.

    Parameters
    ----------
    facts : Facts
        The run.
    n_runs : int
        How many share the page's room.

    Returns
    -------
    dict
        ``markup`` (safe, as the gallery makes it), ``is_wide`` (more seeds than stand side by side), ``n_more``
        (rows that are not shown) and ``left`` (words about pictures of rows that left the table).
    """
    shown = facts.results.iloc[:N_ROWS_MAX]
    gallery = make_gallery(shown, run_dir=facts.path, page_rows=_ANY_SIZE, page_columns=_ANY_SIZE)
    return {
        "markup": gallery.fragment(bytes_max=_BYTES_MAX // n_runs, progress=True),
        "is_wide": gallery.grid.shape[1] > _COLUMNS_MAX,
        "n_more": len(facts.results) - len(shown),
        "left": left_words(
            int((facts.orders[columns.OUTPUT_PATH].notna() & (facts.history.places < 0)).sum())
        ),
    }


def likeness(facts: Facts) -> dict[str, Any]:
    """Say how much the pictures of each prompt differ, and name those that hardly do.

    Returns
    -------
    dict
        ``lines`` (by prompt, the most alike first), ``n_groups_more``, ``pairs`` (with small pictures), ``n_pairs``,
        ``pairs_words`` and the bounds ``bits`` and ``delta_e``.
    """
    bounds = diversity.check_threshold(diversity.BITS_MAX, diversity.DELTA_E_MAX)
    reserved = (*columns.DIVERSITY, *columns.NEAR_DUPLICATES)
    gathered = diversity.gather(facts.results, facts.path, columns.PROMPT, reserved=reserved, progress=True)
    groups = diversity.summarise_diversity(gathered, bounds)
    groups = groups[groups[columns.N_PICTURES] > 1].sort_values(columns.DELTA_E_MEAN, kind="stable")
    pairs = diversity.list_near_duplicates(gathered, bounds, _ANY_SIZE)
    return {
        "lines": [_line(line) for line in groups.head(_GROUPS_MAX).to_dict("records")],
        "n_groups_more": max(0, len(groups) - _GROUPS_MAX),
        "pairs": _pairs(pairs.head(_NEAR_MAX), facts.path),
        "n_pairs": len(pairs),
        "pairs_words": wording.plural(len(pairs), "pair"),
        "bits": f"{bounds.bits:g}",
        "delta_e": f"{bounds.delta_e:g}",
    }


def _line(line: dict[Any, Any]) -> dict[str, Any]:
    return {
        "prompt": wording.words(line[columns.PROMPT]),
        "n": int(line[columns.N_PICTURES]),
        "bits": f"{line[columns.HASH_MEAN]:.1f} ({line[columns.HASH_MIN]})",
        "delta_e": f"{line[columns.DELTA_E_MEAN]:.1f} ({line[columns.DELTA_E_MIN]:.1f})",
        "n_near": int(line[columns.N_NEAR]),
    }


def _pairs(pairs: pd.DataFrame, run_dir: Path) -> list[dict[str, Any]]:
    sides = [(columns.PATH_A, columns.SEED_A, columns.ROW_A), (columns.PATH_B, columns.SEED_B, columns.ROW_B)]
    paths = [run_dir / path for column, _, _ in sides for path in pairs[column]]
    small = Thumbnails().of_files(paths, bytes_max=_PAIR_BYTES_MAX)
    lines = pairs.to_dict("records")
    return [
        {
            "prompt": wording.words(line.get(columns.PROMPT)),
            "distance": f"{line[columns.HASH_DISTANCE]} bits, Delta E {line[columns.DELTA_E]:.1f}",
            "is_same_file": bool(line[columns.IS_SAME_FILE]),
            "sides": [
                {
                    "seed": _seed(line[seed]),
                    "row": wording.words(line[row]),
                    "picture": small[number + at * len(lines)],
                }
                for at, (_, seed, row) in enumerate(sides)
            ],
        }
        for number, line in enumerate(lines)
    ]


def _seed(seed: object) -> str:
    return "unknown" if pd.isna(seed) else str(seed)
