"""Pictures of results, or of run directories: the gallery and the contact sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dreamo_batch import columns as names
from dreamo_batch.batch.reading import load
from dreamo_batch.results.gallery import PAGE_COLUMNS, PAGE_ROWS, Gallery, make_gallery

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence


def gallery(
    source: pd.DataFrame | str | os.PathLike[str],
    rows: str | Sequence[Any] | None = names.PROMPT,
    columns: str | Sequence[Any] | None = names.SEED,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    page_rows: int = PAGE_ROWS,
    page_columns: int = PAGE_COLUMNS,
    title: str = "",
) -> Gallery:
    """Look at results as a grid of pictures, with the reference picture beside it.

    What failed, is pending, invalid or ambiguous, was not saved, or whose file is gone, is drawn as what it is, and a
    combination that the table lacks as a gap; so a run that is still going on can be looked at too.

    Parameters
    ----------
    source : pandas.DataFrame or path-like
        Results, or rows of them; or a run directory, whose results are loaded.
    rows, columns : str, sequence of str, or None
        Columns of the results that the lines down and across stand for; several are nested. ``"seed"`` is the seed
        that was sent; seeds that were drawn, and so differ from row to row, are counted: ``drawn 1``, ... Any column
        of yours, ``"size"``, ``"replicate"``, ``"use_rephraser"`` and ``"image"`` too. None for `rows`: one line; None
        for `columns`: what stands in a line is counted. Where several rows of the table fall into one cell, the
        first four are shown and the rest counted.
    run_dir : path-like, optional
        Where the pictures are; default: where the results came from.
    page_rows, page_columns : int
        Lines that a page shows.
    title : str
        A heading.

    Returns
    -------
    Gallery
        A notebook shows it: a widget with the extra `gallery`, else a static grid; `to_html` writes a page of its own,
        `selection` gives the chosen rows.

    Raises
    ------
    UsageError
        If there is no such column, or it is not known where the pictures are.
    DirectoryError
        If a run directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["a beach", "snow"], seed=range(3), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> seen = dreamo.gallery(done, rows="prompt", columns="seed")
    >>> seen
    <gallery of 6 rows: 2 x 3 cells, prompt by seed, page 1 of 1>
    >>> seen.select([0, 4])["prompt"].tolist()
    ['a beach', 'snow']
    >>> page = seen.to_html(run_dir + "/gallery.html")
    >>> page.count("<img")  # six pictures, and the reference once
    7
    """
    results = source if isinstance(source, pd.DataFrame) else load(source)
    return make_gallery(
        results,
        rows,
        columns,
        run_dir=run_dir,
        page_rows=page_rows,
        page_columns=page_columns,
        title=title,
    )
