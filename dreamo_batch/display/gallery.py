"""The gallery: results as a grid of pictures, as HTML for notebooks and pages, and as a widget."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload
from urllib.parse import quote

import numpy as np
import pandas as pd

from dreamo_batch import arguments, errors
from dreamo_batch import columns as names
from dreamo_batch.appearance import GONE, PALETTE, PICTURE, beside_widget
from dreamo_batch.display.grid import (
    THUMBNAIL_BYTES_MAX,
    ReferencePlacement,
    References,
    lay_out,
    removed_rows_notice,
    thumbnails_of,
)
from dreamo_batch.images import encoded, small_picture
from dreamo_batch.importing import load_extra
from dreamo_batch.jobs.cells import is_missing
from dreamo_batch.jobs.fields import convert_to_frame
from dreamo_batch.parallel import bars, working, write_file
from dreamo_batch.results.frame import places_of, row_mask, run_dir_of, with_additions, with_pictures
from dreamo_batch.results.load import list_run_dirs, load, pictures_left
from dreamo_batch.results.rating_log import rater_named, with_ratings
from dreamo_batch.results.ratings import rate_positions
from dreamo_batch.text import counted, fill_template

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from dreamo_batch.display.grid import Entry, Grid, Names
    from dreamo_batch.results.history import Source


PAGES: Final = (".html", ".htm")
PAGE_ROWS: Final = 12
PAGE_COLUMNS: Final = 12
_CELL_PX: Final = ((3, 216), (4, 176), (6, 144), (9, 112), (10**9, 88))
"""Width of a cell, by the most cells side by side."""
_AT_ONCE: Final = 4
"""Rows of results that a cell shows at once; the others are unfolded."""
UNFOLDED_MAX: Final = 60
"""Rows of results that a cell shows in all; beyond, it says how many there are."""
_DISPLAY_BYTES_MAX: Final = 1_000_000
"""Limit of the thumbnails that a notebook keeps."""
_PAGE_BYTES_MAX: Final = 6_000_000
"""Limit of the thumbnails of a page that `to_html` writes, as JPEG."""
EMBEDDED_MAX: Final = 5_000
_THUMBNAIL_BYTES_MIN: Final = 1_000
FULL_BYTES_MAX: Final = 8_000_000
_FULL_PX: Final = 2_048
_ASSETS: Final = Path(__file__).parent / "assets"
_MEDIA_TYPES: Final = ((b"\xff\xd8", "image/jpeg"), (b"\x89PNG", "image/png"), (b"RIFF", "image/webp"))


def gallery(
    source: Source,
    rows: Names = ...,
    columns: Names = ...,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    page_rows: int = PAGE_ROWS,
    page_columns: int = PAGE_COLUMNS,
    title: str = "",
    rater: str | None = None,
) -> Gallery:
    """Show results as a grid of pictures, with the reference picture beside it.

    Rows that failed, are pending, invalid or ambiguous, weren't saved, or whose file is missing are drawn as such, and
    a combination that the table lacks as a gap; so you can also look at a run that is still in progress.

    Parameters
    ----------
    source : pandas.DataFrame, path or iterable of paths
        Results, or rows of them, also of several runs put together; or a run directory, or several, whose results are
        loaded.
    rows, columns : str, sequence of str, or None, optional
        Columns of the results that the grid's rows and columns stand for; several are nested. Default: prompts down
        and seeds across, joined by every column that tells apart what would otherwise share a cell (picture, size,
        rephraser, replicate, run directory, your own); where seeds leave mostly gaps, the pictures of a row are
        counted instead. ``"seed"`` is the seed that was sent; seeds drawn by the service, which differ from row to
        row, are counted: ``drawn 1``, ... None for `rows`: one row; None for `columns`: the pictures of a row are
        counted. Where several rows of the table still share a cell, it shows the first four, and ``+n more`` unfolds
        the others.
    run_dir : path, optional
        Where the pictures are; default: where the results came from.
    page_rows, page_columns : int
        Rows and columns of a page; where only the rows vary, it has as many pictures.
    title : str
        A heading.
    rater : str, optional
        Who rates in the widget (keys 1 to 5, P to pick, X to reject, U to undo); default as in `rate`.

    Returns
    -------
    Gallery
        A notebook shows it: a widget with the extra `gallery`, otherwise a static grid; `to_html` writes a standalone
        page, `selection` returns the chosen rows.

    Raises
    ------
    UsageError
        If there is no such column, or the pictures can't be located.
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
    arguments.check_count("page_rows", page_rows)
    arguments.check_count("page_columns", page_columns)
    arguments.check_text("title", title)
    axes, page_size = (rows, columns), (page_rows, page_columns)
    with errors.interrupts_without_our_lines():
        return Gallery(source, axes=axes, run_dir=run_dir, page_size=page_size, title=title, rater=rater)


class Gallery:
    """A grid of pictures; `dreamo_batch.gallery` makes it.

    A notebook shows it by itself, one page at a time; `page` turns. Rows of the results are chosen with `select`, or
    by clicks in the widget, and returned by `selection`.

    Attributes
    ----------
    grid : Grid
        The page shown.
    title : str
        The heading.
    rater : str
        Who rates in the widget.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="a beach", seed=range(1, 4), size="512x512")
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", progress=False)
    >>> seen = dreamo.gallery(done, page_columns=2)
    >>> seen.page(2)
    <gallery of 3 rows: 1 x 3 cells, prompt by seed, page 2 of 2>
    """

    def __init__(
        self, source: Any, *, axes: Any, run_dir: Any, page_size: tuple[int, int], title: str, rater: Any
    ) -> None:
        source = convert_to_frame(source)
        self._run_dirs = None if isinstance(source, pd.DataFrame) else list_run_dirs(source)
        self._axes, self._run_dir, self._page_most = axes, run_dir, page_size
        self._number = 1
        self._chosen: list[int] = []
        self._widget: Any = None
        self.title = title
        self.rater = rater_named(rater)
        self._read(load(self._run_dirs) if self._run_dirs is not None else source)
        self.grid = self._whole.page(1, *self._page_size)

    def _read(self, results: pd.DataFrame) -> None:
        self._whole = lay_out(results, *self._axes)
        n_rows, n_columns = self._page_most
        # If only the rows vary they stand side by side, so a page takes as many pictures.
        self._page_size = n_rows * n_columns if self._whole.is_one_column else n_rows, n_columns
        n_left = 0 if self._run_dirs is None else pictures_left(self._run_dirs, results)
        self._notice = removed_rows_notice(n_left)
        self._folders = with_additions(places_of(results, self._run_dir))
        self._references = References(results, self._folders)

    @property
    def results(self) -> pd.DataFrame:
        """The results that it shows."""
        return self._whole.results

    @property
    def run_dir(self) -> Path:
        """The run directory, of the first row where there are several."""
        return self._folders[0] if self._folders else run_dir_of(self.results, self._run_dir)

    @property
    def n_pages(self) -> int:
        """How many pages there are."""
        return self.grid.n_pages

    @property
    def chosen(self) -> list[int]:
        """Positions of the chosen rows."""
        return list(self._chosen)

    @property
    def selection(self) -> pd.DataFrame:
        """The chosen rows of the results, in the table's order."""
        return self.results.iloc[self.chosen]

    def select(self, rows: Collection[Any] | pd.Series | None) -> pd.DataFrame:
        """Choose rows; the widget marks them.

        Parameters
        ----------
        rows : collection, pandas.Series, pandas.DataFrame or None
            As in `retry`: index labels, also as text, ranges of labels, or a boolean for every row. None: nothing.

        Returns
        -------
        pandas.DataFrame
            The chosen rows.

        Raises
        ------
        UsageError
            If a label is not in the table.
        """
        is_meant = row_mask(self.results.index, [] if rows is None else rows)
        self.choose(np.flatnonzero(is_meant).tolist())
        return self.selection

    def choose(self, positions: Sequence[int]) -> None:
        """Choose rows by position.

        Parameters
        ----------
        positions : sequence of int
            From 0; those outside the table are ignored.
        """
        self._chosen = sorted({position for position in positions if 0 <= position < len(self.results)})
        if self._widget is not None:
            self._widget.chosen = self.chosen

    def page(self, number: int) -> Gallery:
        """Turn to a page; pages go across first, then down.

        Parameters
        ----------
        number : int
            From 1 to `n_pages`.

        Returns
        -------
        Gallery
            This one.

        Raises
        ------
        UsageError
            If there is no such page.
        """
        self.grid = self._whole.page(number, *self._page_size)
        self._number = number
        if self._widget is not None:
            self._widget.content = self._content()
        return self

    def refresh(self) -> Gallery:
        """Read the run directory again, also while a run writes to it.

        Returns
        -------
        Gallery
            This one, on the same page if it is still there; chosen rows stay chosen, by position.

        Raises
        ------
        UsageError
            If the gallery shows a table rather than a run directory.
        DirectoryError
            If the directory can't be read.
        """
        if self._run_dirs is None:
            raise errors.UsageError(
                "Only a gallery of a run directory can be refreshed; make it with gallery(run_dir)."
            )
        self._read(load(self._run_dirs))
        self._chosen = [position for position in self._chosen if position < len(self.results)]
        return self.page(min(self._number, self._whole.page(1, *self._page_size).n_pages))

    def fragment(self, *, bytes_max: int = _DISPLAY_BYTES_MAX, progress: bool = False) -> str:
        """Return the page shown as HTML to be placed in another page: no script, no network.

        Parameters
        ----------
        bytes_max : int
            Limit of all its thumbnails together, as JPEG; base64 adds a third.
        progress : bool
            Show a bar while the thumbnails are made.

        Returns
        -------
        str
            One `div` with its own styles.
        """
        with bars(progress):
            return self._html(
                self.grid, bytes_max, heading=self.title, ratings=self._current_ratings(), has_style=True
            )

    @overload
    def to_html(self, path: None = None, *, cluster: Any = None, progress: bool = True) -> str: ...

    @overload
    def to_html(
        self, path: str | os.PathLike[str], *, cluster: Any = None, progress: bool = True
    ) -> Path: ...

    def to_html(
        self, path: str | os.PathLike[str] | None = None, *, cluster: Any = None, progress: bool = True
    ) -> str | Path:
        """Write a standalone page of all rows, with paging, a filter and enlarged pictures; it needs no network.

        Parameters
        ----------
        path : path, optional
            The file to write, replaced atomically. In the run directory, enlarged pictures link to the full ones.
        cluster : dask.distributed.Client, concurrent.futures.Executor or int, optional
            Where thumbnails that are missing are made, as for `measure`.
        progress : bool
            Show a bar while the thumbnails are made.

        Returns
        -------
        pathlib.Path, or str
            The file written, or without a path the page itself. Its thumbnails take 6 MB at most, so the more there
            are the smaller they get; those after the first 5,000 are left out, and drawn as such.

        Raises
        ------
        OSError
            If it can't be written.
        """
        target = None if path is None else arguments.output_file("path", path, PAGES)
        with working(cluster=cluster, progress=progress):
            ratings = self._current_ratings()
            fragment = self._html(
                self._whole, _PAGE_BYTES_MAX, heading="", ratings=ratings, has_style=True, page=target
            )
        title = self.title or ", ".join(dict.fromkeys(path.name for path in [self.run_dir, *self._folders]))
        page = page_with_script(
            "gallery_page.html.j2", ["gallery"], title=title, page_size=self._page_size, fragment=fragment
        )
        return page if target is None else write_page(target, page)

    def widget(self) -> Any:
        """Return the widget, which turns pages, shows full pictures, and lets you choose rows by clicks and keys.

        Returns
        -------
        anywidget.AnyWidget
            The same each time; the rows chosen in it are `selection`.

        Raises
        ------
        UsageError
            If anywidget is not installed (extra `gallery`).
        """
        if self._widget is None:
            self._widget = widget_class("gallery")(
                content=self._content(), chosen=self.chosen, marks=self._marks()
            )
            self._widget.observe(self._take_chosen, names="chosen")
            self._widget.on_msg(self._answer)
        return self._widget

    def _content(self) -> dict[str, Any]:
        """Return the widget's content: the page as HTML, and the state of its buttons."""
        with bars(wanted=False):
            html = self._html(self.grid, _DISPLAY_BYTES_MAX, heading=self.title, ratings={}, has_style=False)
        return {
            "html": html,
            "number": self._number,
            "pages": self.n_pages,
            "live": self._run_dirs is not None,
        }

    def _take_chosen(self, change: Any) -> None:
        self.choose([position for position in change["new"] if isinstance(position, int)])

    def _answer(self, widget: Any, message: Any, _: Any) -> None:
        """Handle a message from the front end; ignore unknown ones."""
        match message:
            case {"type": "turn", "number": int(number)} if 1 <= number <= self.n_pages:
                self.page(number)
            case {"type": "refresh"}:
                self.refresh()
            case {"type": "rate", "position": int(position), "value": int() | str() as value} if (
                0 <= position < len(self.results)
            ):
                self._rate(widget, position, value)
            case {"type": "full", "position": int(position)} if 0 <= position < len(self.results):
                entry = self._whole.entry(position)
                found = None if entry.path is None else full_picture(entry.file_in(self._folders).path)
                media, content = ({}, None) if found is None else ({"media": found[0]}, [found[1]])
                widget.send({"type": "full", "position": position, **media}, content)

    def _rate(self, widget: Any, position: int, value: int | str) -> None:
        """Store a rating given by a key, and show it as stored."""
        try:
            rate_positions(self.results, [position], value, folders=self._folders, rater=self.rater)
            widget.marks = self._marks()
        except errors.DreamoError as error:
            widget.send({"type": "problem", "text": str(error)})

    def _marks(self) -> dict[str, list[float | bool | None]]:
        return {str(position): list(rated) for position, rated in self._current_ratings(self.rater).items()}

    def _current_ratings(self, rater: str | None = None) -> dict[int, tuple[Any, ...]]:
        """Return the current rating and pick of each row that has one, by all raters or one."""
        rated = with_ratings(self.results, self._folders, rater)
        if not all(name in rated for name in names.RATED):
            return {}
        cells = zip(*(rated[name].astype(object) for name in names.RATED), strict=True)
        rated = (tuple(None if is_missing(cell) else cell for cell in pair) for pair in cells)
        return {position: pair for position, pair in enumerate(rated) if pair != (None, None)}

    def _html(self, grid: Grid, bytes_max: int, *, page: Path | None = None, **shown: Any) -> str:
        """Fill in the template; if a file is written, its pictures link to the full ones."""
        entries = grid.shown()
        places = [entry.position for entry in entries]
        with_pictures(self.results.iloc[places], [self._folders[place] for place in places])
        references = ReferencePlacement(grid, self._references)
        pictures = Pictures(grid, references, self._folders, bytes_max)
        linked = grid.shown(n_max=UNFOLDED_MAX if page else 0)
        kinds = [pictures.kind_of(entry) for entry in entries]
        return fill_template(
            "gallery.html.j2",
            grid=grid,
            pictures=pictures,
            placement=references,
            links={entry.position: link for entry in linked if page and (link := self._link(page, entry))},
            palette=PALETTE,
            counts={kind: n for kind in PALETTE if (n := kinds.count(kind))},
            notice=self._notice,
            is_prompt_on_axis=names.PROMPT in (*grid.rows.names, *grid.columns.names),
            cell_px=next(width for n_max, width in _CELL_PX if len(grid.shown_columns) <= n_max),
            n_at_once=_AT_ONCE,
            n_unfolded=UNFOLDED_MAX,
            **shown,
        )

    def _link(self, page: Path, entry: Entry) -> str | None:
        """Return the link to the full picture from a page in the run directory; None for a page elsewhere."""
        folder, root = os.path.abspath(page.parent), os.path.abspath(self._folders[entry.position])  # noqa: PTH100 - resolve() would follow symlinks
        if entry.kind != PICTURE or entry.path is None or os.path.commonpath([folder, root]) != root:
            return None
        return quote(os.path.relpath(os.path.join(root, entry.path), folder).replace(os.sep, "/"))  # noqa: PTH118

    def __repr__(self) -> str:
        """Describe the grid in one line."""
        n_rows, n_columns = self._whole.shape
        down, across = (
            " and ".join(axis.names) or "one line" for axis in (self._whole.rows, self._whole.columns)
        )
        what, where = counted(len(self.results), "row"), f"page {self._number} of {self.n_pages}"
        return f"<gallery of {what}: {n_rows} x {n_columns} cells, {down} by {across}, {where}>"

    def _repr_mimebundle_(self, **_: Any) -> Any:
        """Show the widget, with the static page for notebooks without a kernel or widgets."""
        return beside_widget({"text/plain": repr(self), "text/html": self._repr_html_()}, self.widget)

    def _display_(self) -> Any:
        """Show the widget in marimo, which would otherwise prefer the static page."""
        try:
            return self.widget()
        except Exception:  # noqa: BLE001 - anywidget is missing or broken
            import marimo

            return marimo.Html(self._repr_html_())

    def _repr_html_(self) -> str:
        """Show the page in a notebook without widgets, and say how to get the other pages."""
        return fill_template(
            "gallery_paged.html.j2", fragment=self.fragment(), number=self._number, n_pages=self.n_pages
        )


class Pictures:
    """The thumbnails of a page, by position and by reference key, within a limit on their total size."""

    def __init__(
        self, grid: Grid, placement: ReferencePlacement, folders: Sequence[Path], bytes_max: int
    ) -> None:
        n_max = max(1, min(EMBEDDED_MAX, bytes_max // _THUMBNAIL_BYTES_MIN))
        at_once, unfolded = grid.shown(n_max=_AT_ONCE), grid.shown(n_first=_AT_ONCE, n_max=UNFOLDED_MAX)
        embedded = [entry for entry in (*at_once, *unfolded) if entry.kind == PICTURE][:n_max]
        each = bytes_max // max(1, len(embedded) + len(placement.all))
        each = max(_THUMBNAIL_BYTES_MIN, min(THUMBNAIL_BYTES_MAX, each))
        thumbnails = thumbnails_of([entry.file_in(folders) for entry in embedded], each)
        made = zip(embedded, thumbnails, strict=True)
        self.thumbnails = {entry.position: thumbnail for entry, thumbnail in made if thumbnail is not None}
        small = {reference.key: reference.thumbnail(each) for reference in placement.all}
        self.references = {key: thumbnail for key, thumbnail in small.items() if thumbnail is not None}
        places = {entry.position for entry in embedded}
        others = (entry for entry in grid.shown() if entry.kind == PICTURE and entry.position not in places)
        self._not_embedded = {one.position for one in others if os.path.isfile(one.file_in(folders).path)}  # noqa: PTH113 - an impossible name has none

    def kind_of(self, entry: Entry) -> str:
        """Return how a row is drawn: by its kind, or as a missing file."""
        is_there = entry.position in self.thumbnails or entry.position in self._not_embedded
        return entry.kind if entry.kind != PICTURE or is_there else GONE


def full_picture(path: Path) -> tuple[str, bytes] | None:
    """Read a picture for a browser; too large or unknown formats become a smaller JPEG."""
    try:
        content = path.read_bytes() if path.stat().st_size <= FULL_BYTES_MAX else b""
    except (OSError, ValueError):
        return None
    media = next((media for start, media in _MEDIA_TYPES if content.startswith(start)), None)
    if media is not None:
        return media, content
    picture = small_picture(path, _FULL_PX)
    return None if picture is None else ("image/jpeg", encoded(picture, quality=88))


def page_with_script(template: str, scripts: Iterable[str], **values: Any) -> str:
    """Return a standalone page whose content security policy allows only its own scripts."""
    script = _script_of(*scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return fill_template(template, script=script, digest=digest, **values)


def _script_of(*names: str) -> str:
    """Return scripts as one, with what they share before them."""
    return "".join((_ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in ("elements", *names))


def write_page(path: Path, page: str) -> Path:
    """Write a page durably; return its path."""
    write_file(path, lambda temporary: temporary.write_text(page, "utf-8", "replace"))
    return path


@functools.cache
def widget_class(name: str) -> Any:
    """Return the widget class with the script and styles of a name; it shows content, chosen rows and marks."""
    anywidget = load_extra("anywidget", "The widget needs", "gallery")
    import traitlets

    class DreamoWidget(anywidget.AnyWidget):  # type: ignore[misc, name-defined]  # an extra without types
        _esm = _script_of(name)
        _css = _ASSETS / f"{name}.css"
        content = traitlets.Dict().tag(sync=True)
        chosen: Any = traitlets.List().tag(sync=True)
        marks: Any = traitlets.Dict().tag(sync=True)

    DreamoWidget.__name__ = f"{name.title()}Widget"  # by which anywidget tells the styles of widgets apart
    return DreamoWidget
