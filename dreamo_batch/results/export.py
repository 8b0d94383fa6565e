"""What the columns of a table are: a data dictionary, as a table and as Markdown."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

import pandas as pd

from dreamo_batch import columns, files
from dreamo_batch.engine.directory import RunDirectory, is_in_place, read_jobs
from dreamo_batch.errors import DirectoryError, UsageError
from dreamo_batch.images import suffix_of
from dreamo_batch.jobs.tables import write_table
from dreamo_batch.parallel import ticking
from dreamo_batch.results import frame as tidy
from dreamo_batch.results import history
from dreamo_batch.results.frame import DECIDED, flat, run_dir_of
from dreamo_batch.results.load import load
from dreamo_batch.service import contract

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


_YOURS: Final = columns.Column("", "", "", "A column of the table that was run, unchanged.")
_PLAIN: Final = re.compile(r"\w+")
_SPECIAL: Final = "\\`*_{}[]<>()#+-!|~&$"


def describe(frame: pd.DataFrame, known: Mapping[str, columns.Column]) -> pd.DataFrame:
    """Say of each column what it is."""
    lines = [_line(name, frame[name], known.get(name, _YOURS)) for name in frame.columns]
    table = pd.DataFrame(lines, columns=list(columns.DICTIONARY))
    return table.astype(columns.dtypes(columns.DICTIONARY))


def markdown(described: pd.DataFrame) -> str:
    """Lay a dictionary out as a Markdown table; users' names are shown as they are, and do nothing."""
    cells = described.astype(object).where(described.notna(), "").itertuples(index=False, name=None)
    lines = [described.columns, ["---"] * len(described.columns), *([_name(n), *rest] for n, *rest in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(name: str, column: pd.Series, known: columns.Column) -> tuple[str, str, str | None, str]:
    return str(name), known.dtype or str(column.dtype), known.unit or None, known.meaning


def _name(name: str) -> str:
    if _PLAIN.fullmatch(name):
        return f"`{name}`"
    return "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in " ".join(name.split()))


_PNG: Final = b"\x89PNG\r\n\x1a\n"
_START: Final = b"\xff\xd8"
_PIXELS: Final = b"\xff\xda"
_SEVERAL: Final = b"MPF\0"
_COMMENT: Final = b"\xff\xfe"
_SEGMENT_MAX: Final = 0xFFFF


def inscribed(picture: bytes, words: Mapping[str, object]) -> bytes | None:
    """Put words into a picture."""
    if picture.startswith(_PNG):
        return _in_png(picture, words)
    return _in_jpeg(picture, words) if picture.startswith(_START) else None


def _in_png(picture: bytes, words: Mapping[str, object]) -> bytes:
    """Put words behind what is there before the pixels, so that they are what a reader finds last."""
    at = len(_PNG)
    while picture[at + 4 : at + 8] not in (b"IDAT", b""):
        at += 12 + int.from_bytes(picture[at : at + 4])
    return picture[:at] + b"".join(_chunk(*word) for word in words.items()) + picture[at:]


def _chunk(keyword: str, word: object) -> bytes:
    """Give one iTXt chunk: keyword, not compressed, no language, text in UTF-8."""
    content = b"iTXt" + keyword.encode("latin-1") + b"\0\0\0\0\0" + _utf8(str(word))
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def _in_jpeg(picture: bytes, words: Mapping[str, object]) -> bytes | None:
    comment = _utf8(json.dumps(dict(words), ensure_ascii=False))
    if len(comment) + 2 > _SEGMENT_MAX:
        return None
    at = _end_of_header(picture)
    if at is None:
        return None
    return picture[:at] + _COMMENT + struct.pack(">H", len(comment) + 2) + comment + picture[at:]


def _end_of_header(picture: bytes) -> int | None:
    """Find where the pixels of a JPEG begin; None for one that holds several pictures, found by their distance."""
    at = len(_START)
    while picture[at : at + 2] not in (_PIXELS, b""):
        if picture[at + 4 : at + 8] == _SEVERAL:
            return None
        at += 2 + int.from_bytes(picture[at + 2 : at + 4])
    return at


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")


MANIFEST: Final = "export.json"
_FILES: Final = "sha256"
_PENDING: Final = "pending"
_NAMED_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Item:
    """A file to be put into the folder."""

    name: str
    content: Callable[[], bytes]
    original: Path | None = None


def deliver(folder: Path, items: Sequence[Item], *, progress: bool = False) -> None:
    """Put files into a folder, so that of ours exactly these are there.

    Files that an earlier call put there are replaced, or deleted where they are no longer among the items; with the
    same items nothing changes. Its list of files, `export.json`, tells them from other people's.
    """
    known = _read(folder)
    names = {item.name for item in items}
    mine, pending = (
        known.get(_FILES, {}),
        set(known.get(_PENDING, ())),
    )  # pending: an earlier call was cut short
    _refuse_foreign(folder, {*names, *mine}, mine, pending)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, {_FILES: mine, _PENDING: sorted(names | pending)})
    placed = {}
    with ticking(len(items), "exporting", unit="file", progress=progress) as tick:
        for item in items:
            placed[item.name] = _place(folder / item.name, item)
            tick()
    for name in (mine.keys() | pending) - names:
        (folder / name).unlink(missing_ok=True)
    _write(folder, {_FILES: placed})


def _refuse_foreign(folder: Path, names: set[str], mine: dict[str, str], pending: set[str]) -> None:
    there = [name for name in sorted(names - pending) if (folder / name).exists()]
    foreign = [name for name in there if _digest((folder / name).read_bytes()) != mine.get(name)]
    if foreign:
        more = f", and {len(foreign) - _NAMED_MAX} more" if len(foreign) > _NAMED_MAX else ""
        raise UsageError(
            f"{folder} has files that this would replace and that are not of an export, or were changed since: "
            f"{', '.join(foreign[:_NAMED_MAX])}{more}. Nothing was written; move them away, or give another folder."
        )


def _place(path: Path, item: Item) -> str:
    """Put one file in its place, unless it is there already; give its digest."""
    content = item.content()
    digest = _digest(content)
    path.parent.mkdir(exist_ok=True)
    if not path.is_file() or _digest(path.read_bytes()) != digest:
        files.replace(path, lambda temporary: _make(temporary, content, item.original))
    return digest


def _make(path: Path, content: bytes, original: Path | None) -> None:
    if original is not None:
        try:
            path.hardlink_to(original)
        except OSError:  # another disk, or one that has no links
            path.write_bytes(content)
    else:
        path.write_bytes(content)


def _read(folder: Path) -> dict[str, Any]:
    try:
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        inside = all(_is_inside(name) for name in [*known[_FILES], *known.get(_PENDING, ())])
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        inside = False
    if not inside:
        raise UsageError(f"{folder / MANIFEST} is no list of exported files; give another folder.")
    return dict(known)


def _is_inside(name: str) -> bool:
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts


def _write(folder: Path, known: dict[str, Any]) -> None:
    text = json.dumps(known, indent=1, ensure_ascii=False) + "\n"
    path = folder / MANIFEST
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        files.replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


IMAGES: Final = "images"
_REFERENCES: Final = "references"
_RESULTS: Final = "results"
_METADATA: Final = "metadata.csv"
# A picture's name is that of its job, whatever a table says; both parts are harmless on every disk.
_NAME: Final = re.compile(r"[0-9a-zA-Z_-]{1,64}\.(?:jpg|png|webp)")
_INSCRIBED: Final = (columns.PROMPT, columns.SEED, columns.JOB_ID)
_KNOWN: Final = columns.INPUTS | columns.OUTPUTS
_README: Final = """# Results of dreamo-batch

{n_rows} rows of image-to-image jobs submitted from `{model}`{pictures}.

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
    """Find the pictures of a table that are on disk with the size they were saved with."""
    names = _names(table)
    cells = zip(names, table.loc[names.index, columns.OUTPUT_BYTES], strict=True)
    is_there = [is_in_place(run_dir, f"{IMAGES}/{name}", n_bytes) for name, n_bytes in cells]
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
    described = describe(table, _KNOWN)
    readme = _README.format(
        n_rows=len(table),
        model=contract.MODEL,
        pictures="" if lines is None else f", and {len(lines)} pictures",
        results=markdown(described),
    )
    if lines is not None:
        readme += _README_PICTURES.format(pictures=markdown(describe(lines, columns.PICTURES)))
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


_FORMATS: Final = ("parquet", "csv", "tsv", "jsonl", "xlsx")
_PICTURES: Final = ("copy", "link", "none")


def export(
    source: pd.DataFrame | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    formats: str | Iterable[str] = ("parquet", "csv"),
    pictures: Literal["copy", "link", "none"] = "copy",
    text: bool = False,
    excel_safe: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write results and pictures into a folder that other tools read.

    The folder gets ``results.parquet`` and ``results.csv`` (one flat table, a line per row), ``columns.csv`` and
    ``README.md`` (what each column means), ``references/`` with the reference pictures, and ``images/`` with the
    pictures, named by their job, beside a ``metadata.csv`` that the Hugging Face loader reads:
    ``load_dataset("imagefolder", data_dir="FOLDER/images")``.

    Parameters
    ----------
    source : path-like or pandas.DataFrame
        A run directory, or results as from `run` or `load`, or rows of them.
    folder : path-like
        Made if missing. The same call again changes nothing; with other rows the folder becomes theirs. Files that
        are not of an export, or were changed since, are never replaced.
    run_dir : path-like, optional
        Where the pictures of a table are that does not remember it, such as one read from a file.
    formats : str or iterable of str
        Of the table: ``"parquet"``, ``"csv"``, ``"tsv"``, ``"jsonl"``, ``"xlsx"``.
    pictures : {"copy", "link", "none"}
        ``"link"``: hard links where the disk has them; they take no space, and must not be edited, for they are the
        files of the run directory.
    text : bool
        Put prompt, seed and job id into the copies, without touching a pixel: PNG as iTXt chunks of these names,
        JPEG as a comment that is JSON. WebP pictures stay as they are.
    excel_safe : bool
        Write CSV and TSV for spreadsheets: with the byte order mark by which Excel knows UTF-8, and so that no cell
        is read as a formula.
    progress : bool
        Show a bar while files are written.

    Returns
    -------
    dict
        ``folder``, and counts: ``rows``; of pictures ``pictures``, ``missing`` (that were saved, and are gone or
        damaged) and, with `text`, ``without_text`` (that take none).

    Raises
    ------
    UsageError
        If an option can't be used, the source is no results, or a file that is not ours would be replaced.
    DirectoryError
        If the run directory can't be read.
    TableError
        If a format can't hold the table.
    OSError
        If the folder can't be written to.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> run_dir, folder = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.export(done, folder)["pictures"]
    2
    >>> sorted(path.name for path in Path(folder).iterdir())
    ['README.md', 'columns.csv', 'export.json', 'images', 'references', 'results.csv', 'results.parquet']
    """
    wanted = _checked(formats, pictures, text=text)
    results = _results(source)
    directory = RunDirectory(run_dir_of(results, run_dir))
    target = _target(folder, directory)
    decided = _decided(directory)
    table = flat(results, decided)
    items = tables(table, wanted, excel_safe=excel_safe)
    told = {"folder": str(target), "rows": len(table)}
    if pictures == "none":
        deliver(target, [*items, *explanations(table, None, excel_safe=excel_safe)])
        return told
    lines = tidy.pictures(table, decided, saved_pictures(table, directory.path))
    album = Album(directory.path / IMAGES, is_linked=pictures == "link", has_text=text)
    items += [
        *explanations(table, lines, excel_safe=excel_safe),
        metadata(lines),
        *album.items(lines),
    ]
    items += references(table, decided)
    deliver(target, items, progress=progress)
    told |= {"pictures": len(lines), "missing": n_pictures(table) - len(lines)}
    return told | ({"without_text": album.n_without_text} if text else {})


def _checked(formats: str | Iterable[str], pictures: str, *, text: bool) -> list[str]:
    wanted = [formats] if isinstance(formats, str) else list(formats)
    unknown = [name for name in wanted if name not in _FORMATS]
    if unknown:
        raise UsageError(f"formats={unknown[0]!r} is not known; there are {', '.join(_FORMATS)}.")
    if pictures not in _PICTURES:
        raise UsageError(f"pictures must be one of {', '.join(map(repr, _PICTURES))}, not {pictures!r}.")
    if text and pictures != "copy":
        raise UsageError(
            'text=True changes the exported files, so they must be copies: give pictures="copy", for the run '
            "directory's own pictures stay as they were received."
        )
    return list(dict.fromkeys(wanted))


def _results(source: pd.DataFrame | str | os.PathLike[str]) -> pd.DataFrame:
    if not isinstance(source, pd.DataFrame):
        return load(source)
    history.refuse_other_tables(source)
    return source


def _target(folder: str | os.PathLike[str], directory: RunDirectory) -> Path:
    target = Path(folder).expanduser().absolute()
    if target.resolve() == directory.path.resolve():
        raise UsageError(f"{target} is the run directory itself; export into another folder.")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is no folder; give another one.")
    return target


def _decided(directory: RunDirectory) -> pd.DataFrame:
    """Give what was decided for each job of the table of the last call; what is not known there is missing."""
    try:
        decided = read_jobs(directory.jobs).decided
    except DirectoryError:  # a table whose directory is gone still has its rows
        return pd.DataFrame(columns=list(DECIDED), index=pd.Index([], dtype=columns.STR))
    return decided.drop_duplicates(columns.JOB_ID).set_index(columns.JOB_ID)[list(DECIDED)]
