"""The reference pictures of a whole table: each distinct one checked once, in a few threads.

Examples
--------
>>> from pathlib import Path
>>> import pandas as pd
>>> from dreamo_batch.table.findings import Findings
>>> table = pd.DataFrame({"image": ["https://example.com/cat.png"] * 2})
>>> images = read_images(Findings(table), Check(Path("/data")))
>>> images.numbers.tolist(), images.sources[0].kind
([0, 0], 'url')
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dreamo_batch.table.distinct import Distinct, distinct
from dreamo_batch.table.images import Check, Checked, ImageSource, check
from dreamo_batch.table.looking import each
from dreamo_batch.table.schema import image_columns
from dreamo_batch.table.sources import URL, Source, read_source

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from dreamo_batch.table.findings import Finding, Findings

_WORKERS: Final = min(8, (os.cpu_count() or 1) + 2)


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """The pictures of all rows: `numbers` gives each row's place in `sources`, -1 where it has none.

    `identities` holds for each source what a job's identity takes from it, as JSON.

    Examples
    --------
    >>> Images(np.array([-1]), [], []).numbers.tolist()
    [-1]
    """

    numbers: NDArray[np.intp]
    sources: list[ImageSource]
    identities: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    name: str
    cells: Distinct
    # By number of the distinct cell; cells of blanks only are left out, as if they were missing.
    read: dict[int, Source | Finding]

    @property
    def is_given(self) -> NDArray[np.bool_]:
        """Which rows name a picture here."""
        is_given = np.zeros(len(self.cells.cells), dtype=bool)
        is_given[list(self.read)] = True
        return self.cells.take(is_given, missing=False)


def read_images(findings: Findings, how: Check) -> Images:
    """Check every distinct picture of a table, once.

    Parameters
    ----------
    findings : Findings
        Of a table with an image column; takes what is wrong.
    how : Check
        How pictures are checked.

    Returns
    -------
    Images
        The picture of every row that can be sent.

    Raises
    ------
    StorageFailed
        If the folder for copies can't be written to.

    Examples
    --------
    >>> from pathlib import Path
    >>> import pandas as pd
    >>> from dreamo_batch.table.findings import Findings
    >>> found = Findings(pd.DataFrame({"image": ["nowhere.png", None]}))
    >>> read_images(found, Check(Path("/data"))).numbers.tolist(), found.frame()["code"].tolist()
    ([-1, -1], ['image-not-found', 'image-missing'])
    """
    listed = [_read_column(findings, name, how.base_dir) for name in image_columns(findings.of_table)]
    checked = _check_all(listed, how)
    _find_wrong_counts(listed, findings)
    for column in listed:
        _find_wrong_pictures(column, checked, findings)
    return _laid_out(listed, checked, len(findings.of_table))


def _read_column(findings: Findings, name: str, base_dir: Path) -> _Column:
    cells = distinct(findings.of_table[name])
    given = {number: cell for number, cell in enumerate(cells.cells) if not _is_blank(cell)}
    return _Column(name, cells, {number: read_source(cell, base_dir) for number, cell in given.items()})


def _is_blank(cell: Any) -> bool:
    return isinstance(cell, str) and not cell.strip()


def _check_all(listed: list[_Column], how: Check) -> dict[Hashable, Checked]:
    found = (source for column in listed for source in column.read.values())
    sources = {source.key: source for source in found if isinstance(source, Source)}
    urls = {key: check(source, how) for key, source in sources.items() if source.kind == URL}
    opened = {key: source for key, source in sources.items() if source.kind != URL}
    return urls | (_check_opened(opened, how) if opened else {})


def _check_opened(sources: dict[Hashable, Source], how: Check) -> dict[Hashable, Checked]:
    what = "fixing pictures" if how.fix_images else "checking pictures"
    checked = each(list(sources.values()), lambda source: check(source, how), what=what, n_workers=_WORKERS)
    return {source.key: found for source, found in checked}


def _find_wrong_counts(listed: list[_Column], findings: Findings) -> None:
    n_given = np.zeros(len(findings.of_table), dtype=np.int64)
    for column in listed:
        n_given += column.is_given
    names = ", ".join(column.name for column in listed)
    findings.add("image-missing", listed[0].name, n_given == 0)
    findings.add("image-two-sources", listed[0].name, n_given > 1, n=n_given, columns=names)


def _find_wrong_pictures(column: _Column, checked: Mapping[Hashable, Checked], findings: Findings) -> None:
    found = {
        number: checked[read.key].findings if isinstance(read, Source) else (read,)
        for number, read in column.read.items()
    }
    findings.add_cells(column.name, column.cells, {number: each for number, each in found.items() if each})


def _laid_out(listed: list[_Column], checked: Mapping[Hashable, Checked], n_rows: int) -> Images:
    sendable = {key: one for key, one in checked.items() if one.image is not None}
    place_of = {key: place for place, key in enumerate(sendable)}
    numbers = np.full(n_rows, -1, dtype=np.intp)
    for column in listed:
        places = np.full(len(column.cells.cells), -1, dtype=np.intp)
        for number, read in column.read.items():
            places[number] = place_of.get(read.key, -1) if isinstance(read, Source) else -1
        numbers = np.maximum(numbers, column.cells.take(places, missing=-1))
    images = [one.image for one in sendable.values() if one.image is not None]
    return Images(numbers, images, [one.identity for one in sendable.values()])
