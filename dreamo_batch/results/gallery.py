"""The gallery: results as a grid of pictures, in a notebook, on a page, or as a piece of another page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload

from dreamo_batch.errors import UsageError
from dreamo_batch.execution import durable
from dreamo_batch.results import axes, choice, gallery_page
from dreamo_batch.results.entries import PICTURE
from dreamo_batch.results.gallery_content import content_of
from dreamo_batch.results.gallery_widget import GalleryWidget, is_possible
from dreamo_batch.results.grid import lay_out, refuse_other_tables
from dreamo_batch.results.grid_html import IN_CELL_MAX, UNFOLDED_MAX, Pictures, grid_html
from dreamo_batch.results.origin import folders_of, run_dir_of
from dreamo_batch.results.references import References, beside
from dreamo_batch.results.thumbnails import BYTES_MAX, Thumbnails, is_there

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Sequence

    import pandas as pd

    from dreamo_batch.results.axes import Names
    from dreamo_batch.results.entries import Entry
    from dreamo_batch.results.grid import Grid
    from dreamo_batch.results.references import Beside

__all__ = ["Gallery", "grid_html", "make_gallery"]

PAGE_ROWS: Final = 12
PAGE_COLUMNS: Final = 12
DISPLAY_BYTES_MAX: Final = 1_000_000
"""What the thumbnails that a notebook keeps may weigh."""
PAGE_BYTES_MAX: Final = 6_000_000
"""What those of a page of `to_html` may weigh, as JPEG."""
EMBEDDED_MAX: Final = 5_000
_FEW_BYTES: Final = 1_000
_thumbnails = Thumbnails()  # one for all galleries of the process, so that drawing again costs nothing


class Gallery:
    """A grid of pictures; made by `dreamo_batch.gallery`.

    A notebook shows it by itself: one page, which `page` turns. Rows of the results are chosen with `select`, or by
    clicks in the widget, and come back as `selection`.

    Attributes
    ----------
    results : pandas.DataFrame
        The results that it shows.
    grid : Grid
        The page shown.
    """

    def __init__(
        self,
        grid: Grid,
        run_dir: str | os.PathLike[str] | None,
        *,
        page_size: tuple[int, int],
        title: str = "",
        thumbnails: Thumbnails | None = None,
        reload: Callable[[], Grid] | None = None,
        notice: Callable[[pd.DataFrame], str] | None = None,
    ) -> None:
        self._whole = grid.whole()
        self._page_size = page_size
        self._number = 1
        self._thumbnails = thumbnails or _thumbnails
        self._run_dir = run_dir
        self._notice_of = notice
        self._find()
        self._reload = reload
        self._chosen: list[int] = []
        self._widget: GalleryWidget | None = None
        self.title = title
        self.grid = self._whole.page(1, *page_size)

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
        return sorted(self._chosen)

    @property
    def selection(self) -> pd.DataFrame:
        """The chosen rows of the results, in the table's order."""
        return self.results.iloc[self.chosen]

    def select(self, rows: Collection[Any] | pd.Series | None) -> pd.DataFrame:
        """Choose rows; the widget shows them as chosen.

        Parameters
        ----------
        rows : collection, pandas.Series or None
            Index labels, or a boolean for every row. None: nothing.

        Returns
        -------
        pandas.DataFrame
            The chosen rows.

        Raises
        ------
        UsageError
            If a label is not in the table.
        """
        self.choose(choice.positions(self.results.index, [] if rows is None else rows))
        return self.selection

    def choose(self, positions: Sequence[int]) -> None:
        """Choose rows by position."""
        self._chosen = [
            position for position in dict.fromkeys(positions) if 0 <= position < len(self.results)
        ]
        if self._widget is not None:
            self._widget.show_chosen(self.chosen)

    def page(self, number: int) -> Gallery:
        """Turn to a page, those across first.

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
            self._widget.show_page()
        return self

    def refresh(self) -> Gallery:
        """Read the run directory anew; of a gallery that was made from one, also while it is worked on.

        Returns
        -------
        Gallery
            This one, on the same page if that is still there; what was chosen stays chosen, by position.

        Raises
        ------
        UsageError
            If it was made from a table.
        DirectoryError
            If the directory can't be read.
        """
        if self._reload is None:
            raise UsageError(
                "only a gallery that was made from a run directory can be read anew: gallery(run_dir)."
            )
        self._whole = self._reload()
        self._find()
        self._chosen = [position for position in self._chosen if position < len(self.results)]
        return self.page(min(self._number, self._whole.page(1, *self._page_size).n_pages))

    def widget(self) -> Any:
        """Give the widget, which turns pages, shows full pictures, and lets rows be chosen by clicks and keys.

        Returns
        -------
        anywidget.AnyWidget
            The same each time; what is chosen in it is `selection`.

        Raises
        ------
        UsageError
            If anywidget is not installed (extra `gallery`).
        """
        if self._widget is None:
            self._widget = GalleryWidget(self)
        return self._widget.widget

    def content(self) -> dict[str, Any]:
        """Describe the page shown, for the widget."""
        pictures, where = self.pictures(self.grid, DISPLAY_BYTES_MAX)
        is_live = self._reload is not None
        return content_of(
            self.grid,
            pictures,
            where,
            number=self._number,
            title=self.title,
            notice=self._notice,
            is_live=is_live,
        )

    def fragment(
        self, *, bytes_max: int = DISPLAY_BYTES_MAX, is_open: bool = True, progress: bool = False
    ) -> str:
        """Draw the page shown as HTML that can stand within another page: no script, nothing from outside.

        Parameters
        ----------
        bytes_max : int
            What its thumbnails may weigh together, as JPEG; base64 makes it a third more.
        is_open : bool
            Whether cells can be unfolded.
        progress : bool
            Show a bar while the thumbnails are made.

        Returns
        -------
        str
            One `div` with its own styles.
        """
        pictures, where = self.pictures(self.grid, bytes_max, progress=progress)
        return grid_html(self.grid, pictures, where, heading=self.title, notice=self._notice, is_open=is_open)

    def pictures(
        self,
        grid: Grid,
        bytes_max: int,
        link: Callable[[Entry], str | None] | None = None,
        *,
        progress: bool = False,
    ) -> tuple[Pictures, Beside]:
        """Make what a page shows small, within a weight for all of it together."""
        n_max = max(1, min(EMBEDDED_MAX, bytes_max // _FEW_BYTES))
        first = [entry for entry in grid.shown(n_max=IN_CELL_MAX) if entry.kind == PICTURE]
        unfolded = grid.shown(n_first=IN_CELL_MAX, n_max=UNFOLDED_MAX)
        there = [*first, *(entry for entry in unfolded if entry.kind == PICTURE)][:n_max]
        where = beside(grid, self._references)
        each = max(_FEW_BYTES, min(BYTES_MAX, bytes_max // max(1, len(there) + len(where.all))))
        made = self._thumbnails.of_files(
            [self.path_of(entry) for entry in there],
            bytes_max=each,
            digests=[entry.digest for entry in there],
            progress=progress,
        )
        shown = {entry.position: small for entry, small in zip(there, made, strict=True) if small is not None}
        references = {one.key: one.picture(self._thumbnails, each) for one in where.all}
        links = {} if link is None else self._links(grid, link)
        pictures = Pictures(
            of_entries=shown,
            of_references={key: small for key, small in references.items() if small is not None},
            links=links,
            omitted=self._omitted(grid, {entry.position for entry in there}),
        )
        return pictures, where

    def _links(self, grid: Grid, link: Callable[[Entry], str | None]) -> dict[int, str]:
        shown = (entry for entry in grid.shown(n_max=UNFOLDED_MAX) if entry.kind == PICTURE)
        return {entry.position: found for entry in shown if (found := link(entry))}

    def _omitted(self, grid: Grid, embedded: Collection[int]) -> frozenset[int]:
        """Name the pictures that are on disk and for which the page has no room."""
        others = (entry for entry in grid.shown() if entry.kind == PICTURE and entry.position not in embedded)
        return frozenset(entry.position for entry in others if is_there(self.path_of(entry)))

    def path_of(self, entry: Entry) -> Path:
        """Say where a picture is."""
        return self._folder_of(entry) / (entry.path or "")

    def _find(self) -> None:
        """Find where the pictures of the rows are, and their references."""
        self._folders = folders_of(self.results, self._run_dir)
        self._references = References(self.results, self._folders)
        self._notice = "" if self._notice_of is None else self._notice_of(self.results)

    def _folder_of(self, entry: Entry) -> Path:
        return self._folders[entry.position]

    def _names(self) -> str:
        return ", ".join(dict.fromkeys(folder.name for folder in [self.run_dir, *self._folders]))

    def path_at(self, position: int) -> Path | None:
        """Say where the picture of a row is; None if it has none."""
        entry = self._whole.entry(position)
        return None if entry.path is None else self.path_of(entry)

    @overload
    def to_html(self, path: None = None, *, link: bool | None = None, progress: bool = True) -> str: ...

    @overload
    def to_html(
        self, path: str | os.PathLike[str], *, link: bool | None = None, progress: bool = True
    ) -> Path: ...

    def to_html(
        self, path: str | os.PathLike[str] | None = None, *, link: bool | None = None, progress: bool = True
    ) -> str | Path:
        """Write a page of its own: all rows, no network, paged, filtered and enlarged by clicks and keys.

        Parameters
        ----------
        path : path-like, optional
            The file to write, replaced atomically.
        link : bool, optional
            Whether thumbnails lead to the full pictures, relative to the page. Default: where the page is written
            into the run directory, so that the two move together.
        progress : bool
            Show a bar while the thumbnails are made.

        Returns
        -------
        pathlib.Path, or str
            The file written, or without a path the page itself. Its thumbnails weigh 6 MB at most, so that they
            get smaller with their number; those after the first 5,000 are left out, and drawn as such.

        Raises
        ------
        UsageError
            If links are asked for without a path.
        OSError
            If it can't be written.
        """
        if path is None and link:
            raise UsageError("link=True: links are relative to the page, so give the path it is written to.")
        finder = None if path is None else gallery_page.linker(Path(path), self._folder_of, is_wanted=link)
        grid = self._whole
        pictures, where = self.pictures(grid, PAGE_BYTES_MAX, finder, progress=progress)
        page = gallery_page.page_html(
            grid_html(grid, pictures, where, notice=self._notice),
            title=self.title or self._names(),
            page_size=self._page_size,
        )
        if path is None:
            return page
        durable.replace(Path(path), lambda temporary: temporary.write_text(page, encoding="utf-8"))
        return Path(path)

    def __repr__(self) -> str:
        """Say what it shows, without a picture."""
        n_rows, n_columns = self._whole.shape
        axes = f"{_axis(self._whole.rows.names)} by {_axis(self._whole.columns.names)}"
        where = f"page {self._number} of {self.n_pages}"
        return f"<gallery of {len(self.results)} rows: {n_rows} x {n_columns} cells, {axes}, {where}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Show the widget, with the static page beside it for where there is none, as in a notebook read later."""
        static = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if not is_possible():
            return static
        live = self.widget()._repr_mimebundle_()
        return {**(live[0] if isinstance(live, tuple) else live or {}), **static}

    def _repr_html_(self) -> str:
        """Show the page in a notebook without a widget, and say where the others are."""
        if self.n_pages == 1:
            return self.fragment()
        hint = f"page {self._number} of {self.n_pages}; .page(n) turns to another, .to_html(path) writes them all"
        return f"{self.fragment()}<p><small>{hint}</small></p>"


def make_gallery(
    results: pd.DataFrame,
    rows: Names = ...,
    across: Names = ...,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    page_rows: int = PAGE_ROWS,
    page_columns: int = PAGE_COLUMNS,
    title: str = "",
    reload: Callable[[], pd.DataFrame] | None = None,
    notice: Callable[[pd.DataFrame], str] | None = None,
) -> Gallery:
    """Lay results out as a gallery; see `dreamo_batch.gallery`.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"prompt": ["a", "b"], "seed": 1, "seed_sent": 1, "status": "pending"})
    >>> make_gallery(table, run_dir="runs/none")
    <gallery of 2 rows: 2 x 1 cells, prompt by seed, page 1 of 1>
    """
    for name, value in (("page_rows", page_rows), ("page_columns", page_columns)):
        if value < 1:
            raise UsageError(f"{name}={value}: a page has at least one.")

    def laid_out(table: pd.DataFrame) -> Grid:
        return lay_out(table, *axes.choose_axes(refuse_other_tables(table), rows, across))

    again = None if reload is None else lambda: laid_out(reload())
    return Gallery(
        laid_out(results),
        run_dir,
        page_size=(page_rows, page_columns),
        title=title,
        reload=again,
        notice=notice,
    )


def _axis(names: Sequence[str]) -> str:
    return " and ".join(names) or "one line"
