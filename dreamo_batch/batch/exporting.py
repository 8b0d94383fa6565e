"""`export`: results and pictures as a folder that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.batch.reading import load
from dreamo_batch.errors import DirectoryError, UsageError
from dreamo_batch.execution import stored
from dreamo_batch.execution.directory import RunDirectory
from dreamo_batch.results import handout, history, origin, tidy
from dreamo_batch.results.outbox import deliver

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

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
    directory = RunDirectory(origin.run_dir_of(results, run_dir))
    target = _target(folder, directory)
    decided = _decided(directory)
    table = tidy.flat(results, decided)
    items = handout.tables(table, wanted, excel_safe=excel_safe)
    told = {"folder": str(target), "rows": len(table)}
    if pictures == "none":
        deliver(target, [*items, *handout.explanations(table, None, excel_safe=excel_safe)])
        return told
    lines = tidy.pictures(table, decided, handout.saved_pictures(table, directory.path))
    album = handout.Album(directory.path / handout.IMAGES, is_linked=pictures == "link", has_text=text)
    items += [
        *handout.explanations(table, lines, excel_safe=excel_safe),
        handout.metadata(lines),
        *album.items(lines),
    ]
    items += handout.references(table, decided)
    deliver(target, items, progress=progress)
    told |= {"pictures": len(lines), "missing": handout.n_pictures(table) - len(lines)}
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
        decided = stored.read_jobs(directory.jobs).decided
    except DirectoryError:  # a table whose directory is gone still has its rows
        return pd.DataFrame(columns=list(tidy.DECIDED), index=pd.Index([], dtype=columns.STR))
    return decided.drop_duplicates(columns.JOB_ID).set_index(columns.JOB_ID)[list(tidy.DECIDED)]
