"""What the widget shows, as plain values: the page of a grid without any markup.

Examples
--------
>>> import pandas as pd
>>> from dreamo_batch.results.grid import lay_out
>>> from dreamo_batch.results.grid_html import Pictures
>>> from dreamo_batch.results.references import Beside
>>> grid = lay_out(pd.DataFrame({"prompt": ["a"], "seed": [1], "seed_sent": [1], "status": ["pending"]}))
>>> content = content_of(grid, Pictures(), Beside((), (), ()), number=1)
>>> content["columns"][0]["labels"], content["rows"][0]["cells"][0]["entries"][0]["word"]
(['1'], 'pending')
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreamo_batch.results.entries import GONE, PICTURE
from dreamo_batch.results.grid_html import (
    IN_CELL_MAX,
    UNFOLDED_MAX,
    WORDS,
    beyond_words,
    cell_px,
    count,
    extent,
    kind_of,
    plural,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreamo_batch.results.entries import Entry
    from dreamo_batch.results.grid import Grid
    from dreamo_batch.results.grid_html import Pictures
    from dreamo_batch.results.references import Beside, Reference
    from dreamo_batch.results.thumbnails import Thumbnail


def content_of(
    grid: Grid,
    pictures: Pictures,
    beside: Beside,
    *,
    number: int,
    title: str = "",
    notice: str = "",
    is_live: bool = False,
) -> dict[str, Any]:
    """Describe a page for the widget.

    Parameters
    ----------
    grid, pictures, beside
        As for `dreamo_batch.results.grid_html.grid_html`.
    number : int
        Of the page.
    title : str
        A heading.
    notice : str
        What is to be known beside what is drawn.
    is_live : bool
        Whether it can be read anew.

    Returns
    -------
    dict
        Text, numbers, lists and bytes only; thumbnails are bytes of JPEG.
    """
    counts = count(grid.shown(), pictures)
    return {
        "title": title,
        "number": number,
        "pages": grid.n_pages,
        "live": is_live,
        "extent": "; ".join(text for text in (extent(grid), notice) if text),
        "cell": cell_px(grid),
        "down": " / ".join(grid.rows.names),
        "across": " / ".join(grid.columns.names),
        "counts": [[kind, f"{n} {plural(WORDS[kind], n)}"] for kind, n in counts.items()],
        "references": _references(beside.once, pictures),
        "columns": [
            {
                "labels": list(grid.columns.labels[column]),
                "references": _at(beside.by_column, place, pictures),
            }
            for place, column in enumerate(grid.shown_columns)
        ],
        "rows": [
            {
                "labels": list(grid.rows.labels[row]),
                "references": _at(beside.by_row, place, pictures),
                "cells": [_cell(grid, row, column, pictures) for column in grid.shown_columns],
            }
            for place, row in enumerate(grid.shown_rows)
        ],
    }


def _cell(grid: Grid, row: int, column: int, pictures: Pictures) -> dict[str, Any]:
    entries = [_entry(entry, pictures) for entry in grid.entries(row, column, n_max=UNFOLDED_MAX)]
    n = len(grid.positions(row, column))
    return {
        "entries": entries[:IN_CELL_MAX],
        "more": entries[IN_CELL_MAX:],
        "n_more": n - min(n, IN_CELL_MAX),
        "beyond": beyond_words(n - len(entries)) if n > len(entries) else "",
    }


def _entry(entry: Entry, pictures: Pictures) -> dict[str, Any]:
    kind = kind_of(entry, pictures)
    return {
        "position": entry.position,
        "kind": kind,
        "word": WORDS[kind],
        "note": entry.path or "" if kind == GONE else entry.note,
        "alt": entry.alt,
        "title": entry.title,
        "told": entry.told,
        "same": entry.duplicate_of is not None,
        "thumbnail": _thumbnail(pictures.of_entries.get(entry.position) if kind == PICTURE else None),
        "facts": [list(fact) for fact in entry.facts],
    }


def _at(lines: Sequence[Sequence[Reference]], place: int, pictures: Pictures) -> list[dict[str, Any]]:
    return _references(lines[place], pictures) if lines else []


def _references(references: Sequence[Reference], pictures: Pictures) -> list[dict[str, Any]]:
    return [
        {"label": one.label, "thumbnail": _thumbnail(pictures.of_references.get(one.key))}
        for one in references
    ]


def _thumbnail(small: Thumbnail | None) -> list[Any] | None:
    return None if small is None else [small.content, small.width, small.height]
