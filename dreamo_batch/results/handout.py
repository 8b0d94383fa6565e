"""What an exported folder holds: tables, what their columns mean, and the pictures with a line for each."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.execution import archive
from dreamo_batch.results import dictionary
from dreamo_batch.results.inscription import inscribed
from dreamo_batch.results.outbox import Item
from dreamo_batch.service import parameters
from dreamo_batch.table.files import write_table
from dreamo_batch.table.pictures import suffix_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

IMAGES: Final = "images"
_REFERENCES: Final = "references"
_RESULTS: Final = "results"
_METADATA: Final = "metadata.csv"
# A picture's name is that of its job, whatever a table says; both parts are harmless on every disk.
_NAME: Final = re.compile(r"[0-9a-zA-Z_-]{1,64}\.(?:jpg|png|webp)")
_INSCRIBED: Final = (columns.PROMPT, columns.SEED, columns.JOB_ID)
_KNOWN: Final = columns.INPUTS | columns.OUTPUTS
_README: Final = """# Results of dreamo-batch

{n_rows} rows of image-to-image jobs ordered from `{model}`{pictures}.

Missing cells mean unknown, never 0. `cost` is exact; `cost_usd` is the same as a float. Times are UTC.
`export.json` lists the files of this folder with their SHA-256.

## Columns of `results`

{results}
"""
_README_PICTURES: Final = """
## Pictures

`references/` holds the reference pictures that were files, named by the `image_digest` of the lines below.
`images/` holds each picture once, under the id of its job, and `images/metadata.csv` has a line for each:

```python
from datasets import load_dataset

pictures = load_dataset("imagefolder", data_dir="images", split="train")
```

{pictures}
"""


def saved_pictures(table: pd.DataFrame, run_dir: Path) -> pd.Series:
    """Find the pictures of a table that are on disk with the size they were saved with.

    Parameters
    ----------
    table : pandas.DataFrame
        Results on a RangeIndex.
    run_dir : pathlib.Path
        Where they are.

    Returns
    -------
    pandas.Series of str
        File names, by position of the first row that shows each.
    """
    names = _names(table)
    cells = zip(names, table.loc[names.index, columns.OUTPUT_BYTES], strict=True)
    is_there = [archive.is_in_place(run_dir, f"{IMAGES}/{name}", n_bytes) for name, n_bytes in cells]
    return names[is_there]


def n_pictures(table: pd.DataFrame) -> int:
    """Count the pictures that were saved once."""
    return len(_names(table))


def tables(table: pd.DataFrame, formats: Sequence[str], *, excel_safe: bool) -> list[Item]:
    """Give the table of rows in each format."""
    return [_table(f"{_RESULTS}.{suffix}", table, excel_safe=excel_safe) for suffix in formats]


def metadata(lines: pd.DataFrame) -> Item:
    """Give the line of each picture, as the Hugging Face loader reads them."""
    return _table(f"{IMAGES}/{_METADATA}", lines)


def explanations(table: pd.DataFrame, lines: pd.DataFrame | None, *, excel_safe: bool) -> list[Item]:
    """Say what each column means, as CSV and for reading; None: there are no pictures."""
    described = dictionary.describe(table, _KNOWN)
    readme = _README.format(
        n_rows=len(table),
        model=parameters.MODEL,
        pictures="" if lines is None else f", and {len(lines)} pictures",
        results=dictionary.markdown(described),
    )
    if lines is not None:
        readme += _README_PICTURES.format(
            pictures=dictionary.markdown(dictionary.describe(lines, columns.PICTURES))
        )
    meanings = _table("columns.csv", described, excel_safe=excel_safe)
    return [meanings, Item("README.md", lambda: readme.encode("utf-8", "replace"))]


def references(table: pd.DataFrame, decided: pd.DataFrame) -> Iterator[Item]:
    """Give the reference picture of each job once, named by its digest; those at a URL are nowhere on disk."""
    names = [columns.IMAGE_DIGEST, columns.IMAGE_SENT]
    used = decided.reindex(table[columns.JOB_ID].dropna().unique())[names].dropna()
    for digest, place in used.drop_duplicates(columns.IMAGE_DIGEST).itertuples(index=False, name=None):
        path = Path(place)
        if path.is_absolute() and path.is_file():
            content = path.read_bytes()
            yield Item(f"{_REFERENCES}/{digest}{suffix_of(content)}", path.read_bytes)


class Album:
    """The pictures to be handed out, from the folder that they are in."""

    def __init__(self, folder: Path, *, is_linked: bool, has_text: bool) -> None:
        self.n_without_text = 0
        self._folder = folder
        self._is_linked = is_linked
        self._has_text = has_text

    def items(self, lines: pd.DataFrame) -> Iterator[Item]:
        """Give one file per line."""
        for line in lines[[columns.FILE_NAME, *_INSCRIBED]].astype(object).to_dict("records"):
            path = self._folder / line[columns.FILE_NAME]
            words = {name: line[name] for name in _INSCRIBED if not pd.isna(line[name])}
            yield Item(f"{IMAGES}/{path.name}", self._reader(path, words), path if self._is_linked else None)

    def _reader(self, path: Path, words: Mapping[str, object]) -> Callable[[], bytes]:
        def read() -> bytes:
            content = path.read_bytes()
            with_words = inscribed(content, words) if self._has_text else content
            self.n_without_text += with_words is None
            return content if with_words is None else with_words

        return read


def _names(table: pd.DataFrame) -> pd.Series:
    """Give the file name of each picture, by position of the first row that shows it."""
    names = table[columns.OUTPUT_PATH].dropna().map(lambda path: PurePosixPath(path).name)
    return names[names.str.fullmatch(_NAME)].drop_duplicates().astype(columns.STR)


def _table(name: str, frame: pd.DataFrame, *, excel_safe: bool = False) -> Item:
    """Give the very bytes that `write_table` would write."""

    def written() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / PurePosixPath(name).name
            write_table(frame, path, excel_safe=excel_safe)
            return path.read_bytes()

    return Item(name, written)
