"""Pictures of results, or of run directories: the gallery and the contact sheet."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pandas as pd

from dreamo_batch import columns as names
from dreamo_batch.batch.reading import RunDir, listed, load, pictures_left
from dreamo_batch.results import sheet
from dreamo_batch.results.gallery import PAGE_COLUMNS, PAGE_ROWS, Gallery, make_gallery
from dreamo_batch.results.texts import left_words

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from dreamo_batch.results.axes import Names


def gallery(
    source: pd.DataFrame | RunDir | Iterable[RunDir],
    rows: Names = ...,
    columns: Names = ...,
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
    source : pandas.DataFrame, path-like or iterable of path-like
        Results, or rows of them, also of several runs put together; or a run directory, or several, whose results are
        loaded.
    rows, columns : str, sequence of str, or None, optional
        Columns of the results that the lines down and across stand for; several are nested. Default: prompts down and
        seeds across, joined by every column that tells apart what would else share a cell (picture, size, rephraser,
        replicate, run directory, your own); where seeds leave mostly gaps, the pictures of a line are counted instead.
        ``"seed"`` is the seed that was sent; seeds that were drawn, and so differ from row to row, are counted:
        ``drawn 1``, ... None for `rows`: one line; None for `columns`: what stands in a line is counted. Where several
        rows of the table fall into one cell all the same, the first four are shown, and ``+n more`` unfolds the others.
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
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["a beach", "snow"], seed=range(1, 4), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> seen = dreamo.gallery(done, rows="prompt", columns="seed")
    >>> seen
    <gallery of 6 rows: 2 x 3 cells, prompt by seed, page 1 of 1>
    >>> seen.select([0, 4])["prompt"].tolist()
    ['a beach', 'snow']
    >>> page = seen.to_html(run_dir + "/gallery.html")
    >>> page.read_text().count("<img")  # six pictures, and the reference once
    7
    """
    again, notice = None, None
    if not isinstance(source, pd.DataFrame):
        run_dirs = listed(source)
        again, notice = functools.partial(load, run_dirs), functools.partial(_left, run_dirs)
        source = again()
    return make_gallery(
        source,
        rows,
        columns,
        run_dir=run_dir,
        page_rows=page_rows,
        page_columns=page_columns,
        title=title,
        reload=again,
        notice=notice,
    )


def contact_sheet(
    source: pd.DataFrame | RunDir | Iterable[RunDir],
    path: str | os.PathLike[str],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    rows: Names = None,
    columns: Names = None,
    n_across: int = 4,
    labels: Sequence[str] = (names.PROMPT,),
    title: str = "",
    paper: str = "a4",
    font: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> int:
    """Draw the pictures of results for print: as a grid with labelled axes, or one after the other.

    Parameters
    ----------
    source : pandas.DataFrame, path-like or iterable of path-like
        Results, or rows of them, also of several runs put together; or a run directory, or several, whose results are
        loaded.
    path : path-like
        The PNG, JPEG or PDF to write, by its ending; replaced atomically. What takes several pages becomes one
        PDF, or ``sheet.png``, ``sheet-2.png``, ...
    run_dir : path-like, optional
        Where the pictures are; default: where the results came from.
    rows, columns : str, sequence of str, or None
        Columns that the lines down and across stand for, as for `gallery`, and ``...`` for those that it would choose;
        what has no picture is drawn as what it is, and rows that share a cell are counted across. Both None: saved
        pictures only, in the table's order, each once; below the last is said how many rows have none.
    n_across : int
        Without axes: pictures in a row.
    labels : sequence of str
        Without axes: columns that tell the pictures apart, besides the seed.
    title : str
        A heading, with axes.
    paper : {"a4", "letter"}
        What a grid is laid out for, at 300 dpi; few columns upright, else across.
    font : path-like, optional
        Font file for the labels. Default: Latin letters as they are, Chinese in a font of this machine. Labels that no
        font has letters for, or that have no room, become codes (P1, C1, ...), and ``PATH.legend.csv`` says what they
        stand for.
    progress : bool
        Show a bar.

    Returns
    -------
    int
        Number of pictures on it. Without axes nothing is written if that is 0.

    Raises
    ------
    UsageError
        If there is no such column, paper, font or kind of file, or it is not known where the pictures are.
    DirectoryError
        If a run directory can't be read.
    OSError
        If the sheet can't be written.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["a beach", "snow"], seed=range(1, 4), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.contact_sheet(done, run_dir + "/sheet.pdf", rows="prompt", columns="seed")
    6
    """
    notice = ""
    if not isinstance(source, pd.DataFrame):
        run_dirs = listed(source)
        source = load(run_dirs)
        notice = _left(run_dirs, source)
    return sheet.contact_sheet(
        source,
        path,
        run_dir=run_dir,
        rows=rows,
        columns=columns,
        n_across=n_across,
        labels=labels,
        title=title,
        paper=paper,
        font=font,
        progress=progress,
        notice=notice,
    )


def _left(run_dirs: Iterable[RunDir], results: pd.DataFrame) -> str:
    return left_words(pictures_left(run_dirs, results))
